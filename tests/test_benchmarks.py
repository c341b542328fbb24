"""Every file of benchmarks/ runs, with small arguments and without measuring."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import polars as pl
import pytest
import toys
from click.testing import CliRunner
from process_usage import ProcessUsage, measure_process
from toys import data, kit, ready  # noqa: F401

from wbdc.prepare.dataset import open_prepared

FOLDER = Path(__file__).parents[1] / "benchmarks"
# imported by other benchmarks
PARTS = {"kit_comparison.py", "process_usage.py", "scenes.py", "sizes.py"}
WRITERS = {"towers.py"}  # of a table of the documentation
PYTEST_FILES = {path.name for path in FOLDER.glob("test_*.py")}
ONE_RUN = "--work {work} --kit {kit} --seeds 0 --folds 0 --draws 100"
# arguments of each script, {name} for the path of a fixture; a test fails for a new script without
# a line here
SCRIPTS = {
    "blend_weights.py": ["--work {work} --draws 100 --videos 20"],
    "fine_tuning.py": [f"{ONE_RUN} --change remove+ema"],
    "folds.py": ["--work {work} --kit {kit} --epochs 1 --way two+threads"],
    "frames.py": ["--rounds 1 --videos 1"],
    "linear_members.py": ["--work {work}"],
    "linear_reference.py": ["--work {work} --truth {truth}", "--work {work} --frames"],
    "pretraining.py": [f"{ONE_RUN} --set mask_words"],
    "scale.py": [
        "train --videos 200 --steps 2",
        "ensemble --runs 2 --videos 300",
        "budget --runs 3 --videos 300",
    ],
    "serving_backends.py": ["--layers 1 --frames 1 --texts 1 --tokens 8 --rounds 1"],
    "tower_scores.py": ["--work {work} --kit {kit} --draws 100 --tower vit"],
    "training_step.py": [
        "--batch 1 --frames 1 --length 16 --layers 1 --rounds 1 --threads 1 --device cpu"
    ],
}
# leaves out what takes longest: many frames, the way of the solutions, and three towers
QUICK = "not 64 and not solution and not three and not both_ways_give"


def test_every_benchmark_has_its_arguments_here():
    assert {path.name for path in FOLDER.glob("*.py")} == {
        *PYTEST_FILES,
        *PARTS,
        *WRITERS,
        *SCRIPTS,
    }


@pytest.fixture(scope="module")
def paths(ready, tmp_path_factory) -> dict[str, Path]:  # noqa: F811
    """The paths that arguments name: a work folder with two runs, a kit, labels of the test."""
    folder = tmp_path_factory.mktemp("benchmarks")
    work = folder / "work"
    shutil.copytree(ready, work)
    tiny_kit = folder / "toy.toml"
    tiny_kit.write_text(f"{toys.KIT}\n[tiny.train]\nepochs = 1\n[tiny.pretrain]\nepochs = 1\n")
    for name in (tiny_kit, "ngrams"):
        options = ("--fold", "0,1", "--work", work, "--threads", 1)
        result = toys.wbdc("train", "--kit", name, *options)
        assert result.exit_code == 0, result.output
    prepared = open_prepared(work)
    labels = pl.lit(prepared.facts.classes[0]).alias("label")
    truth = folder / "truth.csv"
    prepared.read_split(prepared.facts.test_split).select("id", labels).write_csv(truth)
    return {"work": work, "kit": tiny_kit, "truth": truth}


def test_the_peak_memory_of_a_process_is_its_own():
    """Also when the process that starts it holds more."""
    memory = b"x" * 300_000_000
    result, usage = measure_process(eval, "len(b'x' * 100_000_000)")
    assert result == 100_000_000
    assert 100_000_000 < usage.peak_bytes < len(memory)


def test_a_measured_process_that_fails_is_reported():
    with pytest.raises(ChildProcessError, match="the process of eval failed"):
        measure_process(eval, "1 / 0")


def measure_here(action: Callable, *values: object) -> tuple[object, ProcessUsage]:
    """Replace `measure_process` by a call in this process, which takes nothing."""
    return action(*values), ProcessUsage(0.0, 0.0, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "words"), [(name, words) for name, calls in SCRIPTS.items() for words in calls]
)
def test_a_script_runs(script, words, paths, tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)
    monkeypatch.setattr("scale.measure_process", measure_here)
    monkeypatch.setattr("training_step.PEAK_SIZE", 64)
    work = shutil.copytree(paths["work"], tmp_path / "work")  # scripts add runs
    values = paths | {"work": work}
    arguments = [word.replace("+", " ").format(**values) for word in words.split()]
    result = CliRunner().invoke(import_module(Path(script).stem).main, arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    assert result.stdout


@pytest.mark.slow
def test_the_measurements_of_pytest_run():
    """All files in one process, with most measured functions, each once and with little work."""
    options = ("-q", "-n", "0", "--benchmark-disable", "-p", "no:cacheprovider", "-k", QUICK)
    command = [sys.executable, "-m", "pytest", FOLDER, *options]
    settings = {"cwd": FOLDER.parent, "env": os.environ | {"WBDC_FULL": "0"}}
    process = subprocess.run(command, capture_output=True, text=True, **settings)
    assert process.returncode == 0, process.stdout[-3000:]
