"""Pretrained weights: where they are found, strict selection of tensors, fingerprints."""

import json

import numpy as np
import pytest
import torch

from wbdc.core.errors import EnvironmentFault, IntegrityFault
from wbdc.core.weights import (
    WEIGHTS_VARIABLE,
    describe_weights,
    file_checksums,
    find_weights,
    select_tensors,
    weights_fingerprint,
    weights_record_path,
)


def test_scalars_and_any_layout_of_memory_are_hashed_by_their_values():
    """A running statistic of no axis, and a convolution in channels_last, as a frozen timm tower
    holds them.
    """
    plain = {
        "steps": torch.tensor(3),
        "kernel": torch.randn(4, 3, 2, 2),
        "half": torch.ones(2, dtype=torch.bfloat16),
    }
    other = plain | {"kernel": plain["kernel"].to(memory_format=torch.channels_last)}
    assert not other["kernel"].is_contiguous()
    assert weights_fingerprint(plain) == weights_fingerprint(other)
    for name, value in (
        ("steps", torch.tensor(4)),
        ("kernel", -plain["kernel"]),
        ("half", torch.zeros(2, dtype=torch.bfloat16)),
    ):
        assert weights_fingerprint(plain | {name: value}) != weights_fingerprint(plain), name


def test_the_weights_of_a_frozen_timm_tower_have_a_fingerprint():
    import toys

    vision = toys.model(vision="timm", frozen=True).vision
    assert len(weights_fingerprint(vision.state_dict())) == 64


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path / "weights"))
    return tmp_path


@pytest.mark.parametrize(
    "folder", ["weights/hfl/bert", "weights/bert", "hf/hub/models--hfl--bert/snapshots/0a1b"]
)
def test_weights_are_found_by_their_usual_names(cache, folder):
    (cache / folder).mkdir(parents=True)
    (cache / folder / "model.safetensors").touch()
    assert find_weights("hfl/bert", ("model.safetensors",)) == cache / folder


def test_missing_weights_exit_with_7_and_state_the_files_and_the_folder(cache):
    message = (
        r"put model.safetensors of https://huggingface.co/hfl/bert into .*/weights/hfl/bert .*"
        r"license and checksum.*--tiny"
    )
    with pytest.raises(EnvironmentFault, match=message):
        find_weights("hfl/bert", ("model.safetensors",))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "open_clip.pt", "x.pth"])
def test_fault_12_a_pickle_is_refused_and_never_opened(cache, name):
    (cache / "weights" / "bert").mkdir(parents=True)
    (cache / "weights" / "bert" / name).write_bytes(b"cos\nsystem\n(S'touch evil'\ntR.")
    with pytest.raises(
        EnvironmentFault,
        match=f"{name} is a pickle, which training never opens; .*: wbdc weights convert .*{name}",
    ):
        find_weights("hfl/bert", ("model.safetensors",))


def test_a_recorded_license_describes_the_file_that_it_was_recorded_for(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    facts = file_checksums(file)
    record = facts | {"license": "mit", "source": None}
    weights_record_path(file).write_text(json.dumps(record))
    assert describe_weights("one", file) == {"name": "one", "license": "mit", **facts}
    file.write_bytes(b"another")
    assert "license" not in describe_weights("two", file)


def test_trap_15_tensors_are_selected_strictly(tmp_path):
    one, two = np.zeros(1), np.zeros(2)
    tensors = {"bert.a": one, "bert.b": two, "head.c": one}
    assert select_tensors(tensors, {"a": one, "b": two}, tmp_path, "bert.") == (
        {"a": one, "b": two},
        ["head.c"],
    )
    with pytest.raises(IntegrityFault, match="lacks 2 of 3 tensors: bert.c, bert.d$"):
        select_tensors(tensors, {"a": one, "c": one, "d": one}, tmp_path, "bert.")
    with pytest.raises(
        IntegrityFault, match=r"1 tensors of another shape: bert.b \(2,\), not \(1,\)$"
    ):
        select_tensors(tensors, {"a": one, "b": one}, tmp_path, "bert.")
