"""Pickles become safetensors in another process, which runs no code of theirs."""

import os
import pickle

import pytest
import torch
from safetensors.torch import load_file

from wbdc.core.errors import IntegrityFault, OutOfResources, UsageFault
from wbdc.train.pretrained import conversion, unpickle
from wbdc.train.pretrained.conversion import convert_pickle, find_pickle

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "b.bias": torch.ones(2, dtype=torch.float16)}


class Payload:
    """What a hostile pickle does when it is opened."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


SHARED = TENSORS["a.weight"].T
CHECKPOINTS = {
    "plain": TENSORS,
    "data-parallel": {"state_dict": {f"module.{n}": t for n, t in TENSORS.items()}, "epoch": 3},
    "nested": {"model": TENSORS | {"step": 7}},
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_the_tensors_of_a_checkpoint_are_found(kind):
    tensors = unpickle.find_tensors(CHECKPOINTS[kind])
    assert tensors.keys() == TENSORS.keys()
    assert all(tensors[name] is tensor for name, tensor in TENSORS.items())


@pytest.mark.slow
def test_tensors_are_converted_once_in_another_process(tmp_path, monkeypatch):
    """Also those that share memory or are not contiguous."""
    file = tmp_path / "pytorch_model.bin"
    torch.save(TENSORS | {"shared": SHARED}, file)
    record = convert_pickle(file, license="mit")
    assert record["file"] == "model.safetensors"
    loaded = load_file(tmp_path / "model.safetensors")
    assert torch.equal(loaded.pop("shared"), SHARED)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in TENSORS.items())

    monkeypatch.setattr(conversion, "_convert", None)
    assert convert_pickle(file, source="https://example.org") == record | {
        "source": "https://example.org"
    }


@pytest.mark.slow
def test_fault_12_a_hostile_pickle_is_refused_and_nothing_is_written(tmp_path):
    file = tmp_path / "pytorch_model.bin"
    marker = tmp_path / "ran"
    torch.save(TENSORS | {"evil": Payload(f"touch {marker}")}, file)
    with pytest.raises(IntegrityFault, match="holds more than tensors .*; ask its publisher"):
        convert_pickle(file)
    assert not marker.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["pytorch_model.bin"]
    torch.load(file, weights_only=False)
    assert marker.exists(), "the payload works where it is opened"


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04 cut", pickle.dumps([1, 2], 2)], ids=["empty", "cut", "a list"]
)
def test_a_damaged_file_and_one_without_tensors_end_with_a_reason(tmp_path, data):
    file = tmp_path / "model.pt"
    file.write_bytes(data)
    with pytest.raises(SystemExit) as caught:
        unpickle.main(str(file), str(tmp_path / "target"))
    assert isinstance(caught.value.code, str)
    assert caught.value.code
    assert not (tmp_path / "target").exists()


def test_a_process_that_is_killed_is_explained(tmp_path, monkeypatch):
    script = tmp_path / "dies.py"
    script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    monkeypatch.setattr(conversion, "UNPICKLE_SCRIPT", script)
    file = tmp_path / "model.pt"
    torch.save(TENSORS, file)
    with pytest.raises(OutOfResources, match="probably for lack of memory"):
        convert_pickle(file)


def test_weights_that_are_there_are_not_overwritten(tmp_path):
    file = tmp_path / "open_clip_pytorch_model.bin"
    torch.save(TENSORS, file)
    target = tmp_path / "open_clip_model.safetensors"
    target.write_bytes(b"of another source")
    with pytest.raises(UsageFault, match="exists and was not converted from this open_clip_pyt"):
        convert_pickle(file)
    assert target.read_bytes() == b"of another source"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "is no pickle"),
        (["model.safetensors"], "is no pickle"),
        (["a.bin", "b.pt"], "holds 2 pickles: a.bin, b.pt; give the path of one"),
        (["pytorch_model-00001-of-00002.bin"], "is one of several parts"),
    ],
)
def test_a_folder_must_hold_one_pickle(tmp_path, files, message):
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(UsageFault, match=message):
        find_pickle(tmp_path)
