"""A toy recipe with every kind of step, and a runner in this process."""

from pathlib import Path

import pytest
import toys
from toys import data, fresh, kit, ready  # noqa: F401

RECIPE = """
about = "A toy."
origin = "Nowhere."

[[step]]
name = "data"
command = "prepare"
folds = 3
origin = "the layout of the contest"

[[step]]
name = "pretrained"
command = "pretrain"
kit = "toy"
set = { "pretrain.epochs" = 1 }
origin = "a row of a table"

[[step]]
name = "single"
command = "train"
kit = "toy"
fold = "0,1"
set = { "train.epochs" = 1, "fusion.use" = "single_stream" }
origin = "a guess"

[[step]]
name = "dual"
command = "train"
kit = "toy"
fold = "0,1"
from = "pretrained"
set = { "train.epochs" = 1 }
origin = "a row of a table"

[[step]]
name = "blend"
command = "ensemble"
run = ["single", "dual"]
draws = 100
class-priors = false
origin = "a row of a table"

[[step]]
name = "packed"
command = "submit"
ensemble = "blend"
origin = "the rules of the contest"

[[step]]
name = "checked"
command = "verify"
submission = "packed"
origin = "the rules of the contest"
"""


@pytest.fixture
def toy_recipe(tmp_path) -> Path:
    """The folder of the toy recipe, with its kit beside it."""
    folder = tmp_path / "toy_recipe"
    folder.mkdir()
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "toy.toml").write_text(toys.KIT)
    return folder


class Runner:
    """Runs the commands of steps in this process, and records them."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.fails_at: str | None = None

    def __call__(self, words: list[str]) -> int:
        self.commands.append(list(words))
        if words[0] == self.fails_at:
            return 10
        result = toys.wbdc(*words)
        assert result.exit_code == 0, (words, result.stderr, result.exception)
        return 0


@pytest.fixture
def runner() -> Runner:
    return Runner()
