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
from small import processes_with, soon, soon_none

from wbdc.core.files import read_json

MAX_SECONDS = 900  # on a busy machine; an idle one takes ten seconds between two moments
TINY = "[tiny.pretrain]\nepochs = 3\n[tiny.train]\nepochs = 6\n"


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
    """Run the recipe to its end; return what must not depend on interruptions, by name."""
    process = run_recipe(folder, home, stderr=subprocess.PIPE)
    output, errors = process.communicate(timeout=MAX_SECONDS)
    assert process.returncode == 0, errors
    steps = {step["name"]: step for step in json.loads(output)["steps"]}
    bits = {
        str(path.relative_to(home)): path.read_bytes()
        for pattern in ("model.safetensors", "oof.parquet", "blend.json", "ensemble.json")
        for path in sorted((home / "work").rglob(pattern))
    }
    manifest = read_json(home / steps["packed"]["result"] / "manifest.json")
    return bits | {"package": manifest["package_sha256"], "packed": steps["packed"]["result"]}


@pytest.fixture
def tiny_recipe(toy_recipe) -> Path:
    """The toy recipe with one run of two folds, and a kit with [tiny] settings."""
    with (toy_recipe / "toy.toml").open("a") as kit:
        kit.write(TINY)
    steps = (toy_recipe / "recipe.toml").read_text().split("[[step]]")
    steps = [step for step in steps if '"checked"' not in step and 'name = "single"' not in step]
    text = "[[step]]".join(steps).replace('"single", ', "")
    for change in ('"pretrain.epochs" = 1', '"train.epochs" = 1'):
        text = text.replace(change, "")
    (toy_recipe / "recipe.toml").write_text(text)
    return toy_recipe


@pytest.mark.slow
def test_a_recipe_killed_inside_and_between_steps_ends_with_the_same_bits(
    tiny_recipe, ready, tmp_path
):
    homes = [tmp_path / "killed", tmp_path / "undisturbed"]
    for home in homes:
        shutil.copytree(ready / "prepared", home / "work" / "prepared")
    moments = [  # the file that begins one
        "work/runs/pretrain-toy-*/fold-all/state.json",  # inside the pretraining
        "work/runs/pretrain-toy-*/fold-all/DONE.json",  # between two steps
        "work/runs/toy-*/fold-1/state.json",  # inside the second fold of a run
        "submissions/.*.tmp",  # inside the packing
    ]
    for moment in moments:
        kill_when(lambda pattern=moment: glob(f"{homes[0]}/{pattern}"), tiny_recipe, homes[0])

    killed, undisturbed = (finish(tiny_recipe, home) for home in homes)
    assert {name.split("/")[-1] for name in killed} >= {"model.safetensors", "blend.json"}
    assert killed == undisturbed
