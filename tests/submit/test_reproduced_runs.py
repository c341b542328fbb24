"""What leads to a submission: teachers, pseudo-labels and files of settings, and the commands that
make all of it again to the same bits.
"""

import os
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import toys
from toys import SHORT, data, fresh, kit, ready  # noqa: F401

from wbdc.core.errors import IntegrityFault
from wbdc.core.files import update_seal
from wbdc.ensemble.saved_ensembles import run_blend
from wbdc.prepare.dataset import open_prepared
from wbdc.submit.pack.package import _add_kit
from wbdc.submit.reproduced_runs import setting_files, source_kits, trace_lineage
from wbdc.submit.training_commands import list_training_commands
from wbdc.train.runs import open_run

pytestmark = pytest.mark.slow

OBJECTIVE = 'train.objective=[{{ use = "classify" }}, {{ use = "pseudo_labels", file = "{}" }}]'


@pytest.fixture(scope="module")
def rounds(ready, kit, tmp_path_factory):  # noqa: F811
    """A work folder with two rounds: an ensemble teaches a student that also reads a file."""
    work = tmp_path_factory.mktemp("rounds") / "work"
    shutil.copytree(ready / "prepared", work / "prepared")
    words = ("--work", work, "--threads", 1)
    train = ("train", "--kit", kit, "--work", work, *SHORT, "--fold", "0,1")
    runs = [toys.run_json(*train, "--seed", seed)["run"] for seed in (0, 1)]
    options = [word for run in runs for word in ("--run", run)]
    toys.run_json("ensemble", *options, "--draws", 100, *words)
    toys.run_json("pseudo", "--from", "ensemble", "--name", "r1", "--top-k", 5, *words)

    prepared = open_prepared(work)
    ids = prepared.read_split("labeled")["id"].to_list()
    classes = prepared.facts.classes
    soft = np.full((len(ids), len(classes)), 1 / len(classes), np.float32)
    path = work.parent / "files" / "teacher.npz"
    path.parent.mkdir()
    np.savez(path, ids=ids, classes=classes, probabilities=soft)
    hard = ("--pseudo", "r1", "--set", 'train.pseudo.labels="hard"')
    student = toys.run_json(*train, *hard, "--set", OBJECTIVE.format(path))["run"]
    return work, runs, student, path


def test_teachers_come_before_their_students(rounds):
    work, runs, student, _ = rounds
    blend = run_blend(work, open_run(work, student))
    lines = list_training_commands(work, blend, open_prepared(work))
    commands = [shlex.split(line) for line in lines]
    assert [words[1] for words in commands] == [
        "prepare",
        "train",
        "train",
        "ensemble",
        "pseudo",
        "train",
        "submit",
    ]
    assert [Path(words[3]).parent.name for words in commands if words[1] == "train"] == [
        *runs,
        student,
    ]
    assert "--name ensemble" in lines[3]
    assert all(run in lines[3] for run in runs)
    assert "--from ensemble --name r1 --split unlabeled --fold 0,1,all" in lines[4]
    assert "--top-k 5" in lines[4]
    assert '--data "$DATA" --work "$WORK"' in lines[4]


def test_files_of_settings_are_packed_beside_the_kit_unless_they_changed(rounds):
    work, _, student, path = rounds
    lineage = trace_lineage(work, run_blend(work, open_run(work, student)))
    assert setting_files(lineage) == {f"source/kits/{student}/teacher.npz": path}
    content = path.read_bytes()
    path.write_bytes(content + b"x")
    try:
        with pytest.raises(IntegrityFault, match=r"teacher.npz, which run toy-\w+ was trained"):
            setting_files(lineage)
    finally:
        path.write_bytes(content)


def test_other_pseudo_labels_under_the_same_name_are_refused(rounds):
    work, _, student, _ = rounds
    folder = work / "pseudo" / "r1"
    seal = (folder / "DONE.json").read_bytes()
    update_seal(folder, {"hash": "0123456789ab"})
    try:
        with pytest.raises(IntegrityFault, match="pseudo-labels r1 have other teachers"):
            trace_lineage(work, run_blend(work, open_run(work, student)))
    finally:
        (folder / "DONE.json").write_bytes(seal)


def test_a_pretraining_per_fold_is_made_for_the_folds_of_its_students(rounds, kit):  # noqa: F811
    work, *_ = rounds
    change = (
        *("--set", 'pretrain.objective=[{ use = "pseudo_labels", name = "r1" }]'),
        *("--set", "pretrain.epochs=1"),
    )
    words = ("--kit", kit, "--work", work, "--fold", 1, *change)
    source = toys.run_json("pretrain", *words, "--threads", 1)["run"]
    student = toys.run_json("train", *words, *SHORT)["run"]
    lines = list_training_commands(
        work, run_blend(work, open_run(work, student)), open_prepared(work)
    )
    names = [shlex.split(line)[1] for line in lines]
    assert names.index("pseudo") < names.index("pretrain") < len(names) - 2
    pretrain = lines[names.index("pretrain")]
    assert pretrain.endswith(f'{source}/toy.json --seed 0 --work "$WORK" --fold 1')
    assert f"--from {source}" in lines[-2]


def test_the_commands_make_the_student_again_to_the_same_bits(rounds, tmp_path, monkeypatch):
    work, runs, student, path = rounds
    prepared = open_prepared(work)
    blend = run_blend(work, open_run(work, student))
    lineage = trace_lineage(work, blend)
    package, again = tmp_path / "package", tmp_path / "again"
    kits = source_kits(lineage, blend) | {
        f"source/kits/{student}/toy.json": work / "runs" / student / "fold-0"
    }
    for file, folder in kits.items():
        _add_kit(package / file, folder)
    for file, original in setting_files(lineage).items():
        shutil.copyfile(original, package / file)
    hidden = path.rename(path.with_suffix(".moved"))

    monkeypatch.chdir(package)
    monkeypatch.setenv("DATA", prepared.facts.data_folder)
    monkeypatch.setenv("WORK", str(again))
    try:
        for line in list_training_commands(work, blend, prepared)[:-1]:
            words = shlex.split(os.path.expandvars(line))[1:]
            toys.run_json(*words, *(("--threads", 1) if words[0] != "submit" else ()))
    finally:
        hidden.rename(path)
    for run in (*runs, student):
        for fold in ("fold-0", "fold-1"):
            weights = [home / "runs" / run / fold / "model.safetensors" for home in (work, again)]
            assert weights[0].read_bytes() == weights[1].read_bytes()
