"""Two folds side by side against one after the other, and one thread against two.

    wbdc demo --data-only demo && wbdc prepare --data demo/data --work work
    python benchmarks/folds.py --work work
    python benchmarks/folds.py --work work --kit single_stream --kit cross_attention --rounds 3

Each way is a `wbdc train` of two folds of a tiny kit in a process of its own, with a seed that no
run has, so that everything is trained. The ways alternate. Wall time depends on what else the
machine does: with others on the same CPUs, two processes get twice the time of one. The table
states that share. CPU time, of all threads and processes, varies less: it shows what side by side
costs beyond the training itself, and how much of two threads is waiting. The start of each process
is part of both.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import NamedTuple

import click

from wbdc.cli import console, shared_options
from wbdc.submit.timing.machine_load import CpuMeter

WAYS = {
    "one after the other": ("--jobs", "1", "--threads", "1"),
    "side by side": ("--jobs", "2", "--threads", "1"),
    "two threads": ("--jobs", "1", "--threads", "2"),
}


class Measurement(NamedTuple):
    """Seconds of one command. other_share: of its CPUs, that other processes used."""

    wall: float
    cpu: float
    other_share: float


def train_folds(work: Path, kit: str, seed: int, epochs: int, way: tuple[str, ...]) -> Measurement:
    """Train folds 0 and 1 of a tiny kit in one way."""
    command = [sys.executable, "-m", "wbdc", "train", "--kit", kit, "--tiny", "--fold", "0,1"]
    options = ["--work", str(work), "--seed", str(seed), "--device", "cpu", "--json", *way]
    changes = ["--set", f"train.epochs={epochs}"]
    # the threads of OpenMP wait as they do for a user, who has set nothing
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    meter = CpuMeter()
    result = subprocess.run([*command, *options, *changes], env=environment, capture_output=True)
    if result.returncode:
        raise click.ClickException(result.stderr.decode())
    use = meter.read()
    share = use.other_seconds / (use.seconds * use.cpus)
    return Measurement(use.seconds, use.run_seconds, share)


def compare_ways(
    work: Path, kit: str, epochs: int, rounds: int, ways: tuple[str, ...]
) -> list[dict]:
    """Measure ways in turn. Returns a row for each, with ratios to the first one."""
    measured: dict[str, list[Measurement]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory(prefix="wbdc-folds-") as folder:
        trained = Path(folder)
        (trained / "prepared").symlink_to((work / "prepared").resolve())
        for number in range(rounds):
            for position, way in enumerate(ways):
                seed = number * len(ways) + position
                measurement = train_folds(trained, kit, seed, epochs, WAYS[way])
                click.echo(f"{kit}, {way}: {measurement}", err=True)
                measured[way].append(measurement)

    walls, cpus = ({w: [m[i] for m in ms] for w, ms in measured.items()} for i in (0, 1))
    first = ways[0]
    return [
        {
            "kit": kit,
            "way": way,
            "wall_s": min(walls[way]),
            "cpu_s": min(cpus[way]),
            "wall_ratio": median(a / b for a, b in zip(walls[first], walls[way], strict=True)),
            "cpu_ratio": median(a / b for a, b in zip(cpus[first], cpus[way], strict=True)),
            "others": median(m.other_share for m in measured[way]),
        }
        for way in ways
    ]


@click.command()
@click.option("--kit", "kits", multiple=True, default=["dual_stream"], show_default=True)
@click.option(
    "--way",
    "ways",
    type=click.Choice(list(WAYS)),
    multiple=True,
    default=list(WAYS),
    help="By default all; ratios are those to the first one.",
)
@click.option("--epochs", default=10, show_default=True, help="Of each training.")
@click.option("--rounds", default=1, show_default=True)
@shared_options.work
@shared_options.as_json
def main(
    kits: tuple[str, ...],
    ways: tuple[str, ...],
    epochs: int,
    rounds: int,
    work: Path,
    as_json: bool,
) -> None:
    """Compare ways to train two folds on two CPUs. A ratio above 1 is faster than the first way."""
    rows = [row for kit in kits for row in compare_ways(work, kit, epochs, rounds, ways)]
    if as_json:
        console.print_json(rows)
        return
    cells = [
        (
            *(row["kit"], row["way"], f"{row['wall_s']:.1f}", f"{row['cpu_s']:.1f}"),
            *(f"{row[name]:.2f}" for name in ("wall_ratio", "cpu_ratio")),
            f"{row['others']:.0%}",
        )
        for row in rows
    ]
    columns = ("kit", "way", "wall s", "CPU s", "wall ratio", "CPU ratio", "others")
    console.print_table("Two folds", columns, cells)


if __name__ == "__main__":
    main()
