"""A stage plan: what it resolves, refuses, and leaves on disk."""

import numpy as np
import pytest
import toys

from wbdc.core.errors import UsageFault
from wbdc.prepare.dataset import open_prepared
from wbdc.train.kit import open_kit
from wbdc.train.runs import publish_run, read_run
from wbdc.train.stage_plan import build_task, plan_stage


@pytest.fixture
def prepared(ready):
    return open_prepared(ready)


def plan(work, kit, prepared, stage="train", changes=(), **options):
    return plan_stage(work, stage, open_kit(str(kit), changes=changes), prepared, **options)


def test_planning_writes_nothing(tmp_path, kit, prepared):
    assert not plan(tmp_path, kit, prepared).run.folder.exists()
    assert list(tmp_path.iterdir()) == []


def test_the_name_of_a_run_follows_from_everything_that_determines_its_bits(
    tmp_path, kit, prepared
):
    name = plan(tmp_path, kit, prepared).run.name
    assert plan(tmp_path, kit, prepared).run.name == name
    assert plan(tmp_path, kit, prepared, changes=("serve.batch=3",)).run.name == name
    assert plan(tmp_path, kit, prepared, changes=("pretrain.epochs=9",)).run.name == name
    others = [
        plan(tmp_path, kit, prepared, seed=1),
        plan(tmp_path, kit, prepared, without="text"),
        plan(tmp_path, kit, prepared, changes=("train.epochs=9",)),
        plan(tmp_path, kit, prepared, changes=("text.fields={title=9}",)),
        plan(tmp_path, kit, prepared, stage="pretrain"),
    ]
    assert len({name, *(other.run.name for other in others)}) == 6


def test_the_facts_of_a_run_are_read_as_they_were_written(tmp_path, kit, prepared):
    run = plan(tmp_path, kit, prepared, seed=3, without="frames").run
    publish_run(run)
    assert read_run(run.folder) == run.facts
    assert run.facts.classes == prepared.facts.classes


def test_pretraining_reads_the_splits_of_the_kit_and_training_the_labeled_one(
    tmp_path, kit, prepared
):
    assert plan(tmp_path, kit, prepared, "pretrain").splits == ["labeled", "unlabeled"]
    assert plan(tmp_path, kit, prepared, "train").splits == ["labeled"]


@pytest.mark.parametrize("split", ["test", "nowhere"])
def test_the_test_split_and_unknown_splits_are_refused(tmp_path, kit, prepared, split):
    changes = (f'pretrain.splits=["labeled", "{split}"]',)
    with pytest.raises(UsageFault, match="the test split is never trained on"):
        plan(tmp_path, kit, prepared, "pretrain", changes)


def test_an_unknown_modality_is_refused(tmp_path, kit, prepared):
    with pytest.raises(UsageFault, match="--without takes text or frames"):
        plan(tmp_path, kit, prepared, without="sound")


@pytest.mark.parametrize(("trick", "needs_pixels"), [("augment", True), ("ema", False)])
def test_a_plan_states_whether_a_trick_needs_pixels(tmp_path, kit, prepared, trick, needs_pixels):
    changes = (f'train.trick=[{{ use = "{trick}" }}]',)
    assert plan(tmp_path, kit, prepared, changes=changes).needs_pixels == needs_pixels


def test_the_task_holds_counts_and_groups_of_the_classes(tmp_path, kit, prepared):
    stage = plan(tmp_path, kit, prepared)
    classes = stage.run.facts.classes
    labels = np.array([0, 2, 2, -1, 1, 2])
    task = build_task(stage, labels, total_steps=7)

    assert task.classes == tuple(classes)
    assert task.class_counts[:4] == (1, 1, 3, 0)
    assert sum(task.class_counts) == 5
    groups = sorted({name[:2] for name in classes})
    assert [groups[parent] for parent in task.parents] == [name[:2] for name in classes]
    assert task.fields == tuple(stage.saved_kit.tables["text"]["fields"])
    assert (task.total_steps, task.batch_size) == (7, stage.stage.batch)


NAMED = """
from wbdc.train.objectives import Objective

class Named(Objective):
    '''file: a path. label: any text.'''
    def __init__(self, model, task, *, file: str, label: str):
        super().__init__(model, task)
        self.file, self.label = file, label
"""


def test_files_are_found_beside_the_kit_and_first_in_the_current_folder(
    tmp_path, kit, prepared, monkeypatch
):
    folder, current = tmp_path / "kits", tmp_path / "here"
    folder.mkdir()
    current.mkdir()
    monkeypatch.chdir(current)
    (folder / "named.py").write_text(NAMED)
    (folder / "soft.npz").write_text("")
    table = '{ use = "./named.py", file = "soft.npz", label = "text" }'
    text = kit.read_text().replace('{ use = "classify" }', table)
    (folder / "mine.toml").write_text(text)
    stage = plan(tmp_path, folder / "mine.toml", prepared)

    (beside,) = stage.build_objectives(toys.model(), toys.TASK)
    (current / "soft.npz").write_text("")
    (here,) = stage.build_objectives(toys.model(), toys.TASK)
    assert (beside.file, beside.label) == (str(folder / "soft.npz"), "text")
    assert here.file == "soft.npz"
