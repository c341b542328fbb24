"""Damage to each file that commands read: exit 4, an error that names the file, and no result."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import small
import toys

from wbdc.cli import main
from wbdc.core.errors import IntegrityFault
from wbdc.core.files import read_json
from wbdc.ensemble import saved_ensembles


@pytest.fixture(scope="module")
def finished(ready, kit, tmp_path_factory) -> Path:
    """Create a work folder with a pretrained run, a fold that started from it, and an ensemble."""
    work = tmp_path_factory.mktemp("finished") / "work"
    shutil.copytree(ready / "prepared", work / "prepared")
    options = ("--kit", kit, "--work", work, "--threads", 1)
    toys.run_json("pretrain", *options, "--set", "pretrain.epochs=1")
    toys.run_json(
        "train", *options, "--fold", 0, "--set", "train.epochs=1", "--from", pretrained(work)
    )
    toys.run_json("ensemble", "--work", work, "--threads", 1, "--draws", 100)
    return work


@pytest.fixture
def work(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "work")


def pretrained(work: Path) -> str:
    return next((work / "runs").glob("pretrain-*")).name


def find_file(work: Path, pattern: str) -> Path:
    """Find one file by a pattern; runs/toy-* is the fine-tuned run."""
    return next(work.glob(pattern))


def commands(work: Path, kit: Path) -> dict[str, tuple]:
    work_options = ("--work", work)
    options = (
        *work_options,
        "--kit",
        kit,
        "--threads",
        1,
        "--set",
        "train.epochs=1",
        "--from",
        pretrained(work),
    )
    out = work.parent / "result.csv"
    return {
        "train": ("train", *options, "--fold", 0),
        "another fold": ("train", *options, "--fold", 1),
        "ensemble": ("ensemble", *work_options, "--draws", 100),
        "forms": (
            "ensemble",
            *work_options,
            "--draws",
            100,
            "--run",
            f"{find_file(work, 'runs/toy-*').name} frames=1",
        ),
        "predict": ("predict", *work_options, "--out", out, "--threads", 1),
        "compare": (
            "compare",
            find_file(work, "runs/toy-*").name,
            find_file(work, "runs/toy-*").name,
            *work_options,
        ),
        "submit": ("submit", *work_options, "--into", work.parent / "packed", "--dry-run"),
    }


FLIPS = [
    ("runs/toy-*/fold-0/model.safetensors", ["train", "predict"]),
    ("runs/toy-*/fold-0/model.json", ["train", "predict", "ensemble", "forms"]),
    ("runs/toy-*/fold-0/tokenizer.json", ["train", "predict"]),
    ("runs/toy-*/fold-0/oof.parquet", ["train", "ensemble", "compare"]),
    ("runs/pretrain-*/fold-all/model.safetensors", ["another fold"]),
    ("ensembles/ensemble/blend.json", ["predict", "submit"]),
    ("ensembles/ensemble/ensemble.json", ["submit"]),
    ("prepared/*/folds.parquet", ["train", "ensemble"]),
]


@pytest.mark.parametrize("damage", ["flipped", "deleted", "cut"])
@pytest.mark.parametrize(("pattern", "readers"), FLIPS, ids=[pattern for pattern, _ in FLIPS])
def test_fault_10_damaged_file_is_named_and_not_used(work, kit, pattern, readers, damage):
    path = find_file(work, pattern)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data[: len(data) // 2] if damage == "cut" else data)
    if damage == "deleted":
        path.unlink()
    for reader in readers:
        refused(commands(work, kit)[reader], path)


@pytest.mark.parametrize("column", ["frames", "views/*/text", "views/*/pixels"])
def test_fault_10_flipped_byte_of_a_shard_is_named_and_not_used(work, kit, column):
    """The lines before the error name the weights that the fold would start from."""
    path = find_file(work, f"prepared/*/{column}/labeled-00000.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))

    result = toys.wbdc(*commands(work, kit)["another fold"])
    assert result.exit_code == 4
    assert result.stdout == ""
    assert f"{path} is damaged: " in result.stderr.strip().splitlines()[-1]


JSON = {
    "prepared/current.json": "train",
    "prepared/*/DONE.json": "train",
    "runs/toy-*/run.json": "ensemble",
    "runs/pretrain-*/run.json": "another fold",
    "runs/toy-*/fold-0/DONE.json": "train",
    "ensembles/ensemble/DONE.json": "predict",
    "runs/pretrain-*/fold-all/DONE.json": "another fold",
}
DAMAGES = {
    "table": b"{}",
    "list": b"[]",
    "null": b"null",
    "nested": b"[" * 200_000,
    "UTF-8": b'"\xff"',
    "number": b"9" * 5000,
    "cut": None,
}


@pytest.mark.parametrize("pattern", JSON)
def test_damaged_json_is_exit_4(work, kit, pattern):
    path = find_file(work, pattern)
    whole, command = path.read_bytes(), commands(work, kit)[JSON[pattern]]
    for damage in DAMAGES.values():
        path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
        refused(command, path)


@pytest.mark.parametrize("pattern", [pattern for pattern in JSON if pattern.endswith("DONE.json")])
def test_empty_seal_is_exit_4(work, kit, pattern):
    path = find_file(work, pattern)
    path.write_bytes(b'{"files": {}}')
    refused(commands(work, kit)[JSON[pattern]], path.parent)


def test_report_of_an_ensemble_is_verified_when_read(work):
    path = find_file(work, "ensembles/ensemble/ensemble.json")
    path.write_bytes(path.read_bytes().replace(b"0.", b"1.", 1))
    with pytest.raises(IntegrityFault, match="ensemble.json; delete .* run `wbdc ensemble"):
        saved_ensembles.open_report(work, "ensemble")


def test_damaged_predictions_of_a_variant_are_computed_again(work, kit):
    command = commands(work, kit)["forms"]
    toys.run_json(*command)
    path = find_file(work, "runs/toy-*/served/*/fold-0.parquet")
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    toys.run_json(*command)
    assert path.read_bytes() == whole


def refused(command: tuple, path: Path) -> None:
    result = toys.wbdc(*command)
    assert result.exit_code == 4, (command, result.stderr, result.exception)
    assert path.name in result.stderr
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if not line.startswith("starts from")]
    assert len(lines) == 1, result.stderr


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def printed(*command: object) -> list[str]:
    """Run a command on damaged files; return the words of the command that its error names."""
    result = toys.wbdc(*command)
    assert result.exit_code == 4, (result.stderr, result.exception)
    words = shlex.split(re.search("run `(wbdc [^`]+)` again", result.stderr)[1])
    name, options = words[1], words[2:]
    main.get_command(None, name).make_context(name, list(options)).close()
    return words[1:]


def test_command_named_for_a_damaged_fold_restores_the_same_bits(work, tmp_path):
    kit = tmp_path / "my kits" / "toy.toml"
    kit.parent.mkdir()
    kit.write_text(toys.KIT + "\n[tiny.train]\nepochs = 1\n")
    options = (
        "--kit",
        kit,
        "--tiny",
        "--set",
        "text.fields={title = 10}",
        "--set",
        "train.trick=[]",
        "--seed",
        3,
        "--without",
        "frames",
        "--threads",
        1,
    )
    run = Path(toys.run_json("train", *options, "--fold", 0, "--work", work)["folder"])
    before = toys.bits(run)
    flip(run / "fold-0" / "model.safetensors")
    words = printed("train", *options, "--fold", 0, "--work", work)
    assert "--tiny" in words
    assert "text.fields={title = 10}" in words

    shutil.rmtree(run / "fold-0")
    assert toys.run_json(*words)["run"] == run.name
    assert toys.bits(run) == before


def test_command_named_for_a_damaged_pretraining_restores_the_same_bits(work, kit):
    folder = work / "runs" / pretrained(work) / "fold-all"
    before = (folder / "model.safetensors").read_bytes()
    flip(folder / "model.safetensors")
    words = printed(*commands(work, kit)["another fold"])
    shutil.rmtree(folder)
    assert toys.run_json(*words)["run"] == folder.parent.name
    assert (folder / "model.safetensors").read_bytes() == before


def test_command_named_for_a_damaged_ensemble_restores_it(work):
    run = find_file(work, "runs/toy-*").name
    toys.run_json(
        "ensemble",
        "--name",
        "two of us",
        "--run",
        f"{run} frames=1",
        "--seed",
        2,
        "--draws",
        100,
        "--no-class-priors",
        "--work",
        work,
        "--threads",
        1,
    )
    folder = work / "ensembles" / "two of us"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    flip(folder / "blend.json")
    words = printed(
        "predict", "--ensemble", "two of us", "--out", work.parent / "out.csv", "--work", work
    )
    shutil.rmtree(folder)
    toys.run_json(*words)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_command_named_for_damaged_data_restores_them(work, kit):
    folder = find_file(work, "prepared/*/folds.parquet").parent
    before = read_json(folder / "DONE.json")
    shard = find_file(folder, "frames/labeled-00000.safetensors")
    flip(shard)
    assert "--folds" in printed(*commands(work, kit)["another fold"], "--store", "jpeg")
    shard.unlink()
    printed(*commands(work, kit)["train"])

    flip(folder / "folds.parquet")
    words = printed(*commands(work, kit)["train"])
    shutil.rmtree(folder)
    assert toys.run_json(*words)["folder"] == str(folder)
    assert read_json(folder / "DONE.json") == before


@pytest.mark.parametrize("name", ["", ".", "../../escaped", "/absolute"])
@pytest.mark.parametrize(
    "words",
    [("ensemble", "--draws", 100, "--name"), ("predict", "--ensemble"), ("submit", "--ensemble")],
    ids=lambda words: words[0],
)
def test_name_outside_the_work_folder_is_exit_2(work, words, name):
    result = toys.wbdc(*words, name, "--work", work)
    assert result.exit_code == 2
    assert "is not a valid name" in result.stderr
    assert [p.name for p in work.parent.iterdir()] == ["work"]


def test_commands_remove_leftovers_of_killed_ones_except_dry_runs(work, kit):
    left = work / "ensembles" / f".two.{small.ended_process()}.tmp"
    fold = work / "runs" / "toy-00000000" / "fold-0"
    for folder in (left, work / "ensembles" / "three", fold):
        folder.mkdir(parents=True)
    for path in (
        left / "blend.json",
        work / "ensembles" / ".three.lock",
        fold / ".lock",
        fold.parent / "run.json",
    ):
        path.touch()
    before = sorted(work.rglob("*"))
    for words in (("submit", "--dry-run"), ("prepare", "--data", work.parent, "--check-only")):
        toys.wbdc(*words, "--work", work)
    assert sorted(work.rglob("*")) == before
    assert (
        "did you mean 'ensemble'"
        in toys.wbdc(
            "predict", "--ensemble", "ensembl", "--out", work.parent / "out.csv", "--work", work
        ).stderr
    )
    assert sorted(p.name for p in (work / "ensembles").iterdir()) == ["ensemble"]
    assert not fold.parent.exists()


def test_ensemble_is_replaced_atomically(work, kit, monkeypatch):
    folder = work / "ensembles" / "ensemble"
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(
            saved_ensembles, "seal_folder", lambda *a: (_ for _ in ()).throw(OSError(28, "full"))
        )
        assert toys.wbdc("ensemble", "--draws", 120, "--work", work).exit_code == 9
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in folder.parent.iterdir()] == ["ensemble"]

    (folder / "notes.txt").write_text("mine")
    result = toys.wbdc("ensemble", "--draws", 120, "--work", work)
    assert result.exit_code == 2
    assert f"{folder} holds other files than an ensemble (notes.txt)" in result.stderr
    (folder / "notes.txt").unlink()
    assert toys.wbdc("ensemble", "--draws", 120, "--work", work).exit_code == 0
    assert (folder / "ensemble.json").read_bytes() != before["ensemble.json"]
