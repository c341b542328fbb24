"""Time and memory of `wbdc` at the sizes of the contest, on made-up data.

    python benchmarks/scale.py prepare --videos 5000 --videos 20000
    python benchmarks/scale.py train --videos 20000 --steps 1000
    python benchmarks/scale.py ensemble --runs 60 --videos 10000
    python benchmarks/scale.py budget --runs 12 --videos 20000

Every measurement runs in a process of its own, so that its peak memory is its own. CPU seconds are
those of all its threads and children: on a machine that others use, they vary less than wall time.
Videos have two frames of 64 x 48 pixels and about 60 characters, so that 100,000 of them fit on a
small disk; data are written to a temporary folder, and removed.
"""

import io
import json
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from PIL import Image
from process_usage import measure_process

from wbdc.cli import console
from wbdc.competitions.wechat2022 import WeChat2022

CLASSES = sorted(WeChat2022().class_counts())
FRAMES = 2
FRAME_SIZE = (64, 48)
FOLDS = 5
KIT = """
about = "The smallest network of a size benchmark."
extends = "dual_stream"

[text]
fields = { title = 12, asr = 12, ocr = 4 }
length = 32
vocabulary = { min_count = 2, max_size = 2000 }

[trunk.architecture]
model_type = "bert"
hidden_size = 32
num_hidden_layers = 1
num_attention_heads = 2
intermediate_size = 64
max_position_embeddings = 64

[vision]
use = "timm"
model = "test_resnet"
pretrained = false
size = 32
frames = 2

[fusion]
use = "dual_stream"
heads = 2

[train]
epochs = 1
batch = 16
learning_rate = { rest = 1e-3 }
objective = [{ use = "classify" }]
trick = []
"""


def write_contest(folder: Path, videos: int) -> None:
    """Write annotations and archives of so many labeled videos. No two frames are similar."""
    random = np.random.default_rng(0)
    frequencies = 1 / np.arange(1, len(CLASSES) + 1)
    labels = random.choice(CLASSES, videos, p=frequencies / frequencies.sum())
    items = [
        {
            "id": f"{number:020}",
            "title": _random_text(random, 20),
            "asr": _random_text(random, 40),
            "ocr": [],
            "category_id": str(labels[number]),
        }
        for number in range(videos)
    ]
    (folder / "annotations").mkdir()
    text = json.dumps(items, ensure_ascii=False)
    (folder / "annotations" / "labeled.json").write_text(text, encoding="utf-8")
    for item in items:
        path = folder / "zip_frames" / "labeled" / item["id"][-3:] / f"{item['id']}.zip"
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            for number in range(FRAMES):
                archive.writestr(f"{number}.jpg", _random_frame(random))


def _random_text(random: np.random.Generator, characters: int) -> str:
    return "".join(map(chr, random.integers(0x4E00, 0x4E00 + 1500, characters)))


def _random_frame(random: np.random.Generator) -> bytes:
    image = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).resize(FRAME_SIZE)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=60)
    return stream.getvalue()


def random_predictions(runs: int, videos: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return members (M, n, C) float32 that are right about half of the time, the truth (n,) and
    the folds (n,).
    """
    random = np.random.default_rng(0)
    truth = random.integers(len(CLASSES), size=videos)
    shared = random.normal(size=(videos, len(CLASSES))).astype(np.float32)
    shared[np.arange(videos), truth] += 2.5
    members = np.empty((runs, *shared.shape), np.float32)
    for member in members:
        logits = shared + random.normal(size=shared.shape).astype(np.float32)
        np.exp(logits - logits.max(1, keepdims=True), out=member)
        member /= member.sum(1, keepdims=True)
    return members, truth, np.arange(videos) % FOLDS


def measure(action: Callable[..., str], *values: object) -> dict[str, object]:
    """Run an action in a process of its own; return what it took and the sentence it returned.

    Both are also printed at once, because another measurement may take hours.
    """
    try:
        note, usage = measure_process(action, *values)
    except ChildProcessError as error:
        raise click.ClickException(str(error)) from None
    facts = {
        "wall_s": usage.wall_seconds,
        "cpu_s": usage.cpu_seconds,
        "peak_gb": usage.peak_bytes / 2**30,
        "note": note,
    }
    click.echo(f"{action.__name__}: {facts}", err=True)
    return facts


def print_measurements(rows: list[tuple[str, dict[str, object]]]) -> None:
    """Print measurements as a table."""
    cells = [
        (name, f"{m['wall_s']:.1f}", f"{m['cpu_s']:.1f}", f"{m['peak_gb']:.2f}", str(m["note"]))
        for name, m in rows
    ]
    console.print_table("Scale", ("task", "wall s", "CPU s", "peak GB", "note"), cells)


def prepare_contest(data: str, work: str) -> str:
    """Prepare a data folder."""
    from wbdc.prepare.build import prepare_data

    prepared, _ = prepare_data(Path(data), Path(work), WeChat2022(), folds=FOLDS)
    return f"{sum(prepared.facts.frame_counts.values()):,} frames"


def train_steps(work: str, videos: int, steps: int) -> str:
    """Train the smallest network on fold 0 of the prepared data, in about so many steps of one
    epoch.
    """
    from wbdc.cli import main as run_wbdc

    kit = Path(work, "scale.toml")
    kit.write_text(KIT)
    batch = max(2, videos * (FOLDS - 1) // FOLDS // steps)
    words = ["train", "--kit", str(kit), "--work", work, "--fold", "0"]
    changes = ["--set", f"train.batch={batch}", "--threads", "1", "--device", "cpu"]
    run_wbdc([*words, *changes], standalone_mode=False)
    return f"batches of {batch} videos"


def measure_contest(videos: int, steps: int | None) -> list[tuple[str, dict[str, object]]]:
    """Write a contest into a temporary folder, and measure preparing it, and training on it."""
    with tempfile.TemporaryDirectory(prefix="wbdc-scale-") as folder:
        data = Path(folder, "data")
        data.mkdir()
        write_contest(data, videos)
        work = str(Path(folder, "work"))
        rows = [(f"prepare {videos:,} videos", measure(prepare_contest, str(data), work))]
        if steps is not None:
            measured = measure(train_steps, work, videos, steps)
            rows.append((f"train on {videos:,} videos", measured))
    return rows


def evaluate_runs(runs: int, videos: int) -> str:
    """Learn and score the blends of an ensemble, as `wbdc ensemble` does."""
    from wbdc.ensemble.evaluation import evaluate_ensemble
    from wbdc.ensemble.geometric_choice import evaluate_geometric

    problem = random_predictions(runs, videos)
    names = [f"run-{number}" for number in range(runs)]
    report = evaluate_ensemble(names, *problem, CLASSES, WeChat2022())
    report, _ = evaluate_geometric(report, names, *problem, CLASSES, WeChat2022())
    return f"predictions of {problem[0].nbytes / 2**30:.2f} GB"


def search_budget(runs: int, videos: int) -> str:
    """Search the best subsets of runs, each with a tower of its own, after their measurement, and
    bound what the dropped runs would add, as `wbdc ensemble --limit` does on all CPUs.
    """
    from wbdc.core.cpu_quota import available_cpus
    from wbdc.ensemble.budget.candidates import Candidate, CandidatePool
    from wbdc.ensemble.budget.cost import Cost
    from wbdc.ensemble.budget.pareto import choice_gain, dropped_members, pareto_frontier

    problem = random_predictions(runs, videos)
    names = [f"run-{number}" for number in range(runs)]
    towers = {name: ("224", 0.001 * (2 + number % 5)) for number, name in enumerate(names)}
    members = {name: (name, 1.0, 0.001) for name in names}
    cost = Cost(5.0, {"224": 0.004}, towers, members, dict.fromkeys(towers, 0.0), True)
    candidates = [Candidate(name, name, (name,)) for name in names]
    threads = available_cpus()
    times = [time.perf_counter()]
    pool = CandidatePool(
        candidates, *problem, CLASSES, WeChat2022(), cost, items=25_000, mean="auto"
    )
    choices = pareto_frontier(pool, threads=threads)
    times.append(time.perf_counter())
    chosen = choices[len(choices) // 2]
    choice_gain(pool, choices, chosen)
    dropped = dropped_members(pool, chosen, threads=threads)
    times.append(time.perf_counter())
    search, gains = np.diff(times)
    return (
        f"{choices[0].search} search on {threads} threads {search:.1f} s, {len(choices)} choices;"
        f" gains of {len(dropped)} dropped runs {gains:.1f} s"
    )


@click.group()
def main() -> None:
    """Measure time and memory at the sizes of the contest."""


_videos = click.option("--videos", type=int, multiple=True, default=[20_000], show_default=True)


@main.command()
@_videos
def prepare(videos: tuple[int, ...]) -> None:
    """Prepare made-up videos."""
    print_measurements([row for count in videos for row in measure_contest(count, None)])


@main.command()
@_videos
@click.option("--steps", default=1000, show_default=True)
def train(videos: tuple[int, ...], steps: int) -> None:
    """Train the smallest network on made-up videos."""
    print_measurements([row for count in videos for row in measure_contest(count, steps)])


@main.command()
@_videos
@click.option("--runs", default=60, show_default=True)
def ensemble(videos: tuple[int, ...], runs: int) -> None:
    """Learn and score the blend of many runs."""
    names = [f"ensemble of {runs} runs, {count:,} videos" for count in videos]
    rows = [measure(evaluate_runs, runs, count) for count in videos]
    print_measurements(list(zip(names, rows, strict=True)))


@main.command()
@_videos
@click.option("--runs", default=12, show_default=True)
def budget(videos: tuple[int, ...], runs: int) -> None:
    """Search the best subsets within a limit."""
    names = [f"budget over {runs} runs, {count:,} videos" for count in videos]
    rows = [measure(search_budget, runs, count) for count in videos]
    print_measurements(list(zip(names, rows, strict=True)))


if __name__ == "__main__":
    main()
