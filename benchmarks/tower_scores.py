"""Which tower scores most from random weights? Towers of a kit at the same number of epochs.

    wbdc prepare --data emojizh/data --work work
    python benchmarks/tower_scores.py --work work --folds 0
    python benchmarks/tower_scores.py --work work --folds 0 --tower resnet --tower tsm

Every tower takes the place of the kit's, with --tiny; all else is equal. The reference is the kit
without frames. Finished runs are reused. Frames/s are those of one thread without gradients, of the
CPU time of this process: a busy machine disturbs it less than the clock on the wall.
"""

import time
from pathlib import Path
from typing import NamedTuple

import click
import torch
from kit_comparison import (
    NO_PRETRAINING,
    compare_variants,
    comparison_options,
    print_comparison,
    train_quietly,
)

from wbdc.core import plug
from wbdc.core.errors import UsageFault, suggest_name
from wbdc.nets import vision as visions
from wbdc.recipes.toml_values import toml_value
from wbdc.train.kit import open_kit
from wbdc.train.runs import Run

WITHOUT_FRAMES = "no frames"
VIDEOS = 16  # whose frames a tower encodes at once to measure its rate
ROUNDS = 5
SIDE, FRAMES, SEGMENTS = 48, 3, 4  # those of the tiny kits


def timm_tower(model: str) -> dict:
    """Return the settings of one of timm's smallest models with random weights."""
    return {"use": "timm", "model": model, "pretrained": False, "size": SIDE}


def image_tower(model: str) -> dict:
    """Return the table of an image tower of timm."""
    # as the other towers do: a table of the same plug is merged into that of the kit
    return timm_tower(model) | {"frames": FRAMES, "resize": "exact"}


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
    "tpn": temporal_module("tpn") | {"width": 256},
    "c3d": {"use": "c3d", "frames": 6, "size": SIDE, "channels": 8, "hidden": 128},
}


class TowerCost(NamedTuple):
    """parameters: of the tower; frames_per_second: that it encodes."""

    parameters: int
    frames_per_second: float


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
    without = "frames" if name == WITHOUT_FRAMES else None
    return train_quietly(
        "train",
        open_kit(kit_name, tiny=True, changes=changes),
        work,
        seed=seed,
        fold=folds,
        source=NO_PRETRAINING,
        without=without,
        threads=threads,
    )


@click.command()
@click.option("--tower", "names", multiple=True, help="By default each.")
@comparison_options(seeds="0", folds="0")
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

    def train(name: str, seed: int) -> Run:
        return train_folds(work, kit, name, seed, folds, threads)

    variants = (WITHOUT_FRAMES, *(names or TOWERS))
    rows = compare_variants(variants, train, seeds, folds, draws)
    for row in rows[1:]:
        row |= measure_tower(TOWERS[row["variant"]])._asdict()
    print_comparison(kit, seeds, folds, rows, as_json, columns=TowerCost._fields)


if __name__ == "__main__":
    main()
