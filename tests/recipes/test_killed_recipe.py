"""A recipe that is killed with SIGKILL inside and between its steps ends with the same bits."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from glob import glob
from pathlib import Path

import pytest
import toys
from small import processes_with, soon, soon_none

from wbdc.core.files import read_json
from wbdc.recipes import run_recipe as recipes
from wbdc.recipes.recipe import open_recipe
from wbdc.recipes.step_results import RecipeOptions

MAX_SECONDS = 900  # on a busy machine; an idle one takes ten seconds between two moments
TINY = "[tiny.pretrain]\nepochs = 1\n[tiny.train]\nepochs = 4\n"


def run_recipe(folder: Path, home: Path, **settings: object) -> subprocess.Popen:
    """Start the recipe in a process of its own, whose descendants have a TMPDIR of their own."""
    home.joinpath("tmp").mkdir(parents=True, exist_ok=True)
    words = ("recipe", "run", folder, "--tiny", "--threads", "1", "--json")
    return subprocess.Popen(
        [sys.executable, "-m", "wbdc", *map(str, words)],
        env=os.environ | {"TMPDIR": str(home / "tmp")},
        cwd=home,
        stdout=subprocess.PIPE,
        text=True,
        **settings,
    )


def kill_when(has_begun: Callable[[], object], folder: Path, home: Path) -> None:
    """Run the recipe, and kill it with SIGKILL when `has_begun` is true. Its step ends, too."""
    process = run_recipe(folder, home, stderr=subprocess.DEVNULL)
    try:
        assert soon(lambda: has_begun() or process.poll() is not None, MAX_SECONDS)
        assert process.poll() is None, "the recipe ended before it was killed"
    finally:
        process.kill()
        process.communicate()
    assert soon_none(lambda: processes_with(home / "tmp"), 10) == []


def finish(folder: Path, home: Path) -> dict[str, bytes]:
    """Run the recipe to its end, and return its bits."""
    process = run_recipe(folder, home, stderr=subprocess.PIPE)
    output, errors = process.communicate(timeout=MAX_SECONDS)
    assert process.returncode == 0, errors
    steps = {step["name"]: step for step in json.loads(output)["steps"]}
    return recipe_bits(home, steps["packed"]["result"])


def recipe_bits(home: Path, packed: str) -> dict[str, bytes]:
    """Return what must not depend on interruptions, by name. packed: the submission's folder."""
    bits = {
        str(path.relative_to(home)): path.read_bytes()
        for pattern in ("model.safetensors", "oof.parquet", "blend.json", "ensemble.json")
        for path in sorted((home / "work").rglob(pattern))
    }
    manifest = read_json(home / packed / "manifest.json")
    return bits | {"package": manifest["package_sha256"], "packed": packed}


@pytest.fixture
def tiny_recipe(toy_recipe) -> Path:
    """The toy recipe with one run of two folds, and a quick kit with [tiny] settings."""
    (toy_recipe / "toy.toml").write_text(toys.QUICK_KIT + TINY)
    steps = (toy_recipe / "recipe.toml").read_text().split("[[step]]")
    steps = [step for step in steps if '"checked"' not in step and 'name = "single"' not in step]
    text = "[[step]]".join(steps).replace('"single", ', "")
    for change in ('"pretrain.epochs" = 1', '"train.epochs" = 1'):
        text = text.replace(change, "")
    (toy_recipe / "recipe.toml").write_text(text)
    return toy_recipe


@pytest.mark.slow
def test_a_recipe_killed_inside_and_between_steps_ends_with_the_same_bits(
    tiny_recipe, ready, runner, tmp_path, monkeypatch
):
    killed, undisturbed = homes = (tmp_path / "killed", tmp_path / "undisturbed")
    for home in homes:
        shutil.copytree(ready / "prepared", home / "work" / "prepared")
    moments = [  # the file that begins one
        "work/runs/pretrain-toy-*/fold-all/DONE.json",  # between two steps
        "work/runs/toy-*/fold-1/state.json",  # inside the second fold of a run
        "submissions/.*.tmp",  # inside the packing
    ]
    for moment in moments:
        kill_when(lambda pattern=moment: glob(f"{killed}/{pattern}"), tiny_recipe, killed)
    bits = finish(tiny_recipe, killed)
    assert {name.split("/")[-1] for name in bits} >= {"model.safetensors", "blend.json"}

    monkeypatch.chdir(undisturbed)
    options = RecipeOptions(Path("work"), tiny=True, threads=1)
    steps = recipes.run_recipe(
        open_recipe(str(tiny_recipe)), options, log=lambda line: None, run=runner
    )
    packed = next(step.result for step in steps if step.step.name == "packed")
    assert recipe_bits(undisturbed, packed) == bits
