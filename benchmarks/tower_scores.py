"""Which tower scores most from random weights? Towers of a kit at the same number of epochs.

    wbdc prepare --data emojizh/data --work work
    python benchmarks/tower_scores.py --work work --folds 0
    python benchmarks/tower_scores.py --work work --folds 0 --tower resnet --tower tsm

Every tower takes the place of the kit's, with --tiny; all else is equal. The gain is that over the
kit without frames, with a paired bootstrap interval over the videos that were held out. Frames/s
are those of one thread without gradients, of the CPU time of this process: a busy machine disturbs
it less than the clock on the wall. Finished runs are reused.
"""

import time
from pathlib import Path
from typing import NamedTuple

import click
import torch
from pretraining import NO_PRETRAINING, gain_row, mean_scorer

from wbdc.cli import console, shared_options
from wbdc.core import plug
from wbdc.core.errors import UsageFault, suggest_name
from wbdc.nets import vision as visions
from wbdc.recipes.toml_values import toml_value
from wbdc.train.kit import open_kit
from wbdc.train.reporter import Reporter
from wbdc.train.runs import Run
from wbdc.train.session import open_session

WITHOUT_FRAMES = "no frames"
VIDEOS = 16  # whose frames a tower encodes at once to measure its rate
ROUNDS = 5
SIDE, FRAMES, SEGMENTS = 48, 3, 4  # those of the tiny kits


def timm_tower(model: str) -> dict:
    """Return the settings of one of timm's smallest models with random weights."""
    return {"use": "timm", "model": model, "pretrained": False, "size": SIDE}


def image_tower(model: str) -> dict:
    """Return the table of an image tower of timm."""
    return timm_tower(model) | {"frames": FRAMES}


def temporal_module(use: str) -> dict:
    """Return the table of a temporal module on the tiny ResNet."""
    tower = timm_tower("test_resnet")
    return {"use": use, "tower": tower, "frames": 6, "segments": SEGMENTS}


TOWERS = {
    "resnet": image_tower("test_resnet"),
    "convnext": image_tower("test_convnext"),
    "efficientnet": image_tower("test_efficientnet"),
    "nfnet": image_tower("test_nfnet"),
    "mambaout": image_tower("test_mambaout"),
    "vit": image_tower("test_vit"),
    "shufflenet": {
        "use": "torchvision",
        "model": "shufflenet_v2_x0_5",
        "size": SIDE,
        "frames": FRAMES,
    },
    "linear_patches": {
        "use": "linear_patches",
        "dim": 128,
        "size": SIDE,
        "patch": 16,
        "frames": FRAMES,
    },
    "two_stream": {
        "use": "two_stream",
        "rgb": timm_tower("test_resnet"),
        "motion": timm_tower("test_resnet"),
        "frames": FRAMES,
    },
    "tsn": temporal_module("tsn"),
    "tsm": temporal_module("tsm"),
    "tin": temporal_module("tin"),
    "tam": temporal_module("tam"),
    "tpn": temporal_module("tpn"),
    "c3d": {"use": "c3d", "frames": 6, "size": SIDE, "channels": 8, "hidden": 128},
}


class TowerCost(NamedTuple):
    """parameters: of the tower; frames: per second, that it reads of the videos."""

    parameters: int
    frames: float


def measure_tower(table: dict) -> TowerCost:
    """Build a tower with random weights and time it."""
    tower = plug.build_plug(visions, table).eval()
    count = table["frames"]
    size = tower.image_settings.size
    frames = torch.randint(256, (VIDEOS, count, 3, size, size), dtype=torch.uint8)
    mask = torch.ones(VIDEOS, count, dtype=torch.bool)
    seconds = []
    with torch.no_grad():
        tower(frames, mask)
        for _ in range(ROUNDS):
            start = time.process_time()
            tower(frames, mask)
            seconds.append(time.process_time() - start)
    parameters = sum(weight.numel() for weight in tower.parameters())
    return TowerCost(parameters, VIDEOS * count / min(seconds))


def train_folds(work: Path, kit_name: str, name: str, seed: int, folds: str, threads: int) -> Run:
    """Train the folds of a kit with a tower, or without frames, and return their run."""
    changes = () if name == WITHOUT_FRAMES else (f"vision = {toml_value(TOWERS[name])}",)
    kit = open_kit(kit_name, tiny=True, changes=changes)
    session = open_session(
        "train",
        kit,
        work,
        seed=seed,
        fold=folds,
        source=NO_PRETRAINING,
        without="frames" if name == WITHOUT_FRAMES else None,
        threads=threads,
    )
    session.train(Reporter(log=lambda text: None))
    return session.run


@click.command()
@click.option("--kit", default="dual_stream", show_default=True)
@click.option("--tower", "names", multiple=True, help="By default each.")
@click.option("--seeds", default="0", show_default=True)
@click.option("--folds", default="0", show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--draws", type=click.IntRange(100), default=1000, show_default=True)
@shared_options.work
@shared_options.as_json
def main(
    kit: str,
    names: tuple[str, ...],
    seeds: str,
    folds: str,
    threads: int,
    draws: int,
    work: Path,
    as_json: bool,
) -> None:
    """Compare towers of a kit with the kit without frames."""
    for name in names:
        if name not in TOWERS:
            raise UsageFault(f"no tower called {name!r}{suggest_name(name, list(TOWERS))}")

    rows = []
    scorers = {}
    for name in (WITHOUT_FRAMES, *(names or TOWERS)):
        start = time.process_time()
        runs = [
            train_folds(work, kit, name, int(seed), folds, threads) for seed in seeds.split(",")
        ]
        seconds = time.process_time() - start
        scorers[name], count = mean_scorer(runs, folds)
        row = {"tower": name, **gain_row(scorers[name], scorers[WITHOUT_FRAMES], count, draws)}
        if name != WITHOUT_FRAMES:
            row |= measure_tower(TOWERS[name])._asdict()
        rows.append(row | {"training_seconds": seconds})
        click.echo(f"{name}: {row['score']:.4f} ({row['difference']:+.4f}), {seconds:.0f} s")

    if as_json:
        console.print_json({"kit": kit, "seeds": seeds, "folds": folds, "rows": rows})
    else:
        print_towers(f"{kit} --tiny, folds {folds}, seeds {seeds}", rows)


def print_towers(title: str, rows: list[dict]) -> None:
    """Print a table of scores, gains over no frames, sizes and rates."""
    table = [
        (
            row["tower"],
            row["score"],
            f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]",
            f"{row.get('parameters', 0):,}",
            f"{row.get('frames', 0):,.0f}",
        )
        for row in rows
    ]
    console.print_table(title, ("", "score", "gain", "parameters", "frames/s"), table)


if __name__ == "__main__":
    main()
