"""wbdc distill: `wbdc pseudo` and `wbdc train` with a loss to the teachers."""

import shlex
import shutil

import pytest
import toys
from toys import SHORT

from wbdc.core.errors import UsageFault
from wbdc.train.pseudo.distillation import distillation_objectives
from wbdc.train.pseudo.pseudo_set import open_pseudo

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def work(ready, kit, tmp_path_factory):
    """A work folder with a run of folds 0 and 1, and its name."""
    folder = tmp_path_factory.mktemp("distill") / "work"
    shutil.copytree(ready / "prepared", folder / "prepared")
    words = ("--kit", kit, "--work", folder, *SHORT, "--fold", "0,1")
    return folder, toys.run_json("train", *words)["run"]


def test_a_student_of_fewer_frames_learns_from_teachers_and_labels(work, kit):
    folder, run = work
    words = ("distill", "--from", run, "--kit", kit, "--work", folder, *SHORT, "--fold", 0)
    student = (*words, "--set", "vision.frames=1", "--share", 0.6)
    planned = toys.run_json(*student, "--dry-run")["commands"]
    assert not (folder / "pseudo").exists()
    report = toys.run_json(*student)
    facts = report["folds"]["0"]
    assert set(facts["last"]) == {"classify", "pseudo_labels"}
    assert facts["seen_folds"] == ["1", "2"]
    assert facts["score"]

    rows = open_pseudo(folder, f"{run}-distill").read("0")
    assert set(rows.splits) == {"labeled", "unlabeled"}
    # the printed commands make the same run
    for command in planned:
        name, *options = shlex.split(command)[1:]
        again = toys.run_json(name, *options, *(() if "--work" in options else ("--work", folder)))
    assert again["run"] == report["run"]
    assert toys.run_json(*words, "--share", 0.6)["run"] != report["run"]


def test_weights_are_mixed_by_the_share():
    objectives = [{"use": "classify"}, {"use": "match", "weight": 0.5, "swap": 0.4}]
    assert distillation_objectives(objectives, "x", share=0.6, temperature=3.0) == [
        {"use": "classify", "weight": 0.4},
        {"use": "match", "weight": 0.2, "swap": 0.4},
        {"use": "pseudo_labels", "name": "x", "temperature": 3.0, "weight": 0.6},
    ]
    with pytest.raises(UsageFault, match="share = 1; it must be between 0.01 and 0.99"):
        distillation_objectives(objectives, "x", share=1.0, temperature=3.0)


def test_teachers_that_did_not_hold_out_the_fold_are_refused(work, kit):
    folder, run = work
    words = ("distill", "--from", run, "--kit", kit, "--work", folder, *SHORT, "--name", "d2")
    result = toys.wbdc(*words, "--fold", 2)
    assert result.exit_code == 2
    assert "have no labels for fold 2, only for 0, 1, all" in " ".join(result.stderr.split())
