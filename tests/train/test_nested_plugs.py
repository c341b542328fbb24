"""Plugs that a setting of another plug chooses: checked, shown, saved and hashed like others."""

import math
import sys
from pathlib import Path

import pytest
import toys

from wbdc.cli.kits import describe_kit
from wbdc.core.errors import UsageFault
from wbdc.core.files import seal_folder
from wbdc.prepare.dataset import open_prepared
from wbdc.serve.members import load_member
from wbdc.submit.check.verify import verify_package
from wbdc.submit.pack.package import PackedMember, PackOptions, _add_kit, pack_submission
from wbdc.train.evaluated_weights import copy_weights
from wbdc.train.export import export_fold
from wbdc.train.kit import open_kit
from wbdc.train.stage_plan import plan_stage

MINE = """
from torch.nn import functional as F
from wbdc.train.losses import Loss
class Mine(Loss):
    'Cross entropy times a factor.'
    def __init__(self, task, *, factor: float = 1.0):
        super().__init__(task)
        self.factor = factor
    def forward(self, logits, target):
        return self.factor * F.cross_entropy(logits, target, reduction="none")
"""


@pytest.fixture
def here(tmp_path, monkeypatch, kit) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.toml").write_text(kit.read_text())
    return tmp_path


def change(loss: str) -> tuple[str, ...]:
    return (f'train.objective=[{{ use = "classify", loss = {loss} }}]',)


def loss_table(loss: str) -> dict:
    return open_kit("toy.toml", changes=change(loss)).tables["train"]["objective"][0]["loss"]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ('"cross_entrop"', "no loss called 'cross_entrop'; did you mean 'cross_entropy'"),
        ('{ use = "cross_entrop" }', "no loss called 'cross_entrop'; did you mean"),
        ('{ use = "cross_entropy", smothing = 0.1 }', "no setting 'smothing'; did you mean 'smoot"),
        ('{ use = "cross_entropy", smoothing = "x" }', "smoothing = 'x' is not of the type float"),
        ("{ smoothing = 0.1 }", "loss needs `use = ...`; one of: .*cross_entropy"),
        ("3", r"loss = 3 is not of the type str \| dict"),
        ('"./mine.py"', "no loss at .*mine.py; put the file beside the kit"),
    ],
)
def test_a_mistake_in_a_nested_plug_names_it(here, loss, message):
    with pytest.raises(UsageFault, match=message):
        open_kit("toy.toml", changes=change(loss))


def test_a_setting_of_the_loss_on_the_objective_says_where_it_belongs(here):
    changes = ('train.objective=[{ use = "classify", smoothing = 0.1 }]',)
    expected = r"'smoothing'; write loss = \{ use = \"cross_entropy\", smoothing = ... \}"
    with pytest.raises(UsageFault, match=expected):
        open_kit("toy.toml", changes=changes)


def test_a_name_and_a_table_without_settings_are_one_run(here, ready):
    prepared = open_prepared(ready)

    def run(loss: str) -> str:
        return plan_stage(
            here, "train", open_kit("toy.toml", changes=change(loss)), prepared
        ).run.name

    assert loss_table('"cross_entropy"') == {"use": "cross_entropy"}
    assert run('"cross_entropy"') == run('{ use = "cross_entropy" }')
    assert run('"cross_entropy"') != run('{ use = "cross_entropy", smoothing = 0.1 }')


def test_kits_shows_the_loss_of_an_objective_and_its_settings(here):
    lines = [line for line, _ in describe_kit(open_kit("toy.toml"))]
    position = next(i for i, line in enumerate(lines) if "loss cross_entropy: " in line)
    assert lines[position + 1] == "      smoothing = 0.0  (default)"


def test_a_loss_beside_the_kit_is_hashed_saved_packed_and_built(here, ready):
    """The packed kit makes a run of the same name, without the file beside the first kit."""
    (here / "mine.py").write_text(MINE)
    kit = open_kit("toy.toml", changes=change('{ use = "./mine.py", factor = 2.0 }'))
    assert list(kit.plugs()) == ["mine.py"]
    assert here / "mine.py" in [path.absolute() for path in kit.files("train")]
    prepared = open_prepared(ready)
    before = plan_stage(here, "train", kit, prepared).run.name
    (here / "mine.py").write_text(MINE + "\n")
    plan = plan_stage(here, "train", kit, prepared)
    assert plan.run.name != before

    fold = plan.run.fold("all")
    initial = plan.build_model()
    export_fold(fold, initial, plan, copy_weights(initial.model))
    seal_folder(fold, {})
    _add_kit(here / "package" / "toy.json", fold)
    (here / "mine.py").unlink()
    packed = plan_stage(here, "train", open_kit("package/toy.json"), prepared)
    assert packed.run.name == plan.run.name
    (classify,) = packed.build_objectives(initial.model, toys.TASK)
    assert type(classify.class_loss).__name__ == "Mine"
    assert classify.chance == pytest.approx(2 * math.log(5))
    assert loss_table('"./package/mine.py"') == {"use": "./package/mine.py"}


OBJECTIVE = """
from wbdc.train.objectives import Objective
class Nothing(Objective):
    'A sum times nothing.'
    def loss(self, model, fused, batch, original):
        return 0 * model.head(fused.pooled).sum()
"""
TOWER = """
from torch import nn
from wbdc.core.image_settings import ImageSettings
from wbdc.nets.vision import Vision

class MeanColor(Vision):
    'One linear layer on the mean color.'
    def __init__(self, *, frames: int = 3, frozen: bool = False, dim: int = 4):
        super().__init__(frames=frames, frozen=frozen)
        self.image_settings, self.dim = ImageSettings(32, (0.5,) * 3, (0.25,) * 3), dim
        self.mix = nn.Linear(3, dim)
    def encode(self, pixels):
        return self.mix(pixels.mean((2, 3)))
    def blueprint(self):
        return {"use": "./tower.py", "frames": self.frames, "dim": self.dim}
"""


@pytest.mark.slow
@pytest.mark.parametrize("has_namesake", [False, True])
def test_the_image_tower_of_a_temporal_module_may_be_a_file(here, kit, ready, has_namesake):
    """It is saved, packed and verified, under another name when a second file has the same."""
    (here / "x").mkdir()
    (here / "x" / "tower.py").write_text(TOWER)
    (here / "tower.py").write_text(OBJECTIVE)
    changes = ['vision={ use = "tsn", segments = 2, frames = 3, tower = { use = "./x/tower.py" } }']
    changes += ['train.objective=[{ use = "./tower.py" }]'] if has_namesake else []
    (here / "mine.toml").write_text(kit.read_text())
    plan = plan_stage(
        here / "work", "train", open_kit("mine.toml", changes=tuple(changes)), open_prepared(ready)
    )
    fold = plan.run.fold("0")
    initial = plan.build_model()
    export_fold(fold, initial, plan, copy_weights(initial.model))
    seal_folder(fold, {"weights": {}})

    options = PackOptions(plan.contest, precision="fp32", facts={}, training_commands=[])
    pack_submission(here / "packed", [PackedMember("mine-0a1b2c3d/fold-0", fold, 1.0)], options)
    verify_package(here / "packed")
    packed = here / "packed" / "models" / "mine-0a1b2c3d" / "fold-0"
    files = [file for file in packed.glob("*.py") if file.read_text() == TOWER]
    assert len(files) == 1
    assert (files[0].name == "tower.py") is not has_namesake
    (here / "x" / "tower.py").unlink()  # the model needs its own copy only
    vision = load_member(packed).model.vision
    assert Path(sys.modules[type(vision.image_tower).__module__].__file__) == files[0]
    kits = here / "packed" / "source" / "kits" / "mine-0a1b2c3d"
    assert open_kit(str(kits / "mine.json")).plugs().keys() >= {files[0].name}
