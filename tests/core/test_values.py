"""The values that travel: Tokens with their mask, a Batch that nobody changes, findings, errors and
weights by name.
"""

import dataclasses

import numpy as np
import pytest
import torch

from wbdc.core import errors, weights
from wbdc.core.batch import Batch
from wbdc.core.findings import Findings
from wbdc.core.tokens import Tokens, join_tokens, split_tokens

X = torch.arange(24.0).view(2, 4, 3)
MASK = torch.tensor([[True, True, False, False], [True, False, False, False]])


def test_trap_5_the_mean_is_over_real_tokens_only():
    assert torch.equal(Tokens(X, MASK).mean(), torch.stack([X[0, :2].mean(0), X[1, 0]]))


@pytest.mark.parametrize("noise", [1e9, float("nan"), float("inf")])
def test_trap_5_padding_of_any_content_or_amount_moves_no_mean(noise):
    padded = torch.cat([X.masked_fill(~MASK.unsqueeze(-1), noise), torch.full((2, 5, 3), noise)], 1)
    assert torch.equal(
        Tokens(padded, torch.cat([MASK, torch.zeros(2, 5, dtype=bool)], 1)).mean(),
        Tokens(X, MASK).mean(),
    )


def test_trap_9_the_mean_of_nothing_is_zero_and_has_a_gradient():
    x = X.clone().requires_grad_()
    mean = Tokens(x, torch.zeros(2, 4, dtype=bool)).mean()
    mean.sum().backward()
    assert torch.equal(mean, torch.zeros(2, 3))
    assert torch.equal(x.grad, torch.zeros(2, 4, 3))
    assert Tokens(X[:, :0], MASK[:, :0]).mean().shape == (2, 3)


@pytest.mark.parametrize("at", range(5))
def test_split_undoes_join(at):
    parts = split_tokens(Tokens(X, MASK), at)
    whole = join_tokens(*parts)
    assert torch.equal(whole.x, X)
    assert torch.equal(whole.mask, MASK)
    assert [p.x.shape[1] for p in parts] == [p.mask.shape[1] for p in parts] == [at, 4 - at]


@pytest.fixture
def batch():
    text, frames = torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 4, 5)
    return Batch(("a", "b"), text, text.bool(), frames, frames[..., 0].bool(), torch.tensor([0, 1]))


def test_trap_19_a_batch_is_frozen(batch):
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.text = batch.text + 1


def test_hiding_makes_another_batch(batch):
    hidden = batch.hide("mask", torch.tensor([7]), text=batch.text * 0).hide(
        "match", torch.tensor([8])
    )
    assert set(hidden.targets) == {"mask", "match"}
    assert batch.targets == {}
    assert hidden.text.sum() == 0
    assert batch.text.sum() == 6
    assert len(hidden) == 2


def test_taking_a_modality_away(batch):
    assert batch.drop_modality("frames").frames.shape == (2, 0, 5)
    assert batch.drop_modality("frames").frame_mask.shape == (2, 0)
    assert (
        batch.drop_modality("text").text.shape
        == (2, 1)
        == batch.drop_modality("text").text_mask.shape
    )  # no row becomes empty
    assert batch.drop_modality("text").frames is batch.frames


def test_findings_count_all_and_keep_some():
    found, other = Findings(max_places=3), Findings(max_places=3)
    for i in range(5):
        found.add("b", f"place {i}")
    other.add("a", "x")
    other.merge(found.report())
    other.merge(found.report())
    assert other.report() == {
        "a": {"count": 1, "places": ["x"]},
        "b": {"count": 10, "places": ["place 0", "place 1", "place 2"]},
    }
    assert list(other.report()) == ["a", "b"]


def test_findings_let_no_escape_sequence_through():
    found = Findings()
    found.add("a", "帧 1\x1b[31m\n\udcff.jpg")
    assert found.report()["a"]["places"] == ["帧 1\ufffd[31m\ufffd\ufffd.jpg"]


def test_every_error_has_an_exit_code_of_its_own():
    kinds = errors.WbdcError.__subclasses__()
    assert sorted(k.code for k in kinds) == list(range(2, 13))
    assert all(k.__doc__ for k in kinds)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv(weights.WEIGHTS_VARIABLE, str(tmp_path / "weights"))
    return tmp_path


@pytest.mark.parametrize(
    "place", ["weights/hfl/bert", "weights/bert", "hf/hub/models--hfl--bert/snapshots/0a1b"]
)
def test_weights_are_found_by_their_usual_name(cache, place):
    (cache / place).mkdir(parents=True)
    (cache / place / "model.safetensors").touch()
    assert weights.find_weights("hfl/bert", ("model.safetensors",)) == cache / place


def test_missing_weights_are_exit_7_and_say_what_to_put_where(cache):
    said = r"put model.safetensors of https://huggingface.co/hfl/bert into .*/weights/hfl/bert .*license and checksum.*--tiny"
    with pytest.raises(errors.EnvironmentLacks, match=said):
        weights.find_weights("hfl/bert", ("model.safetensors",))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "open_clip.pt", "x.pth"])
def test_fault_12_a_pickle_is_named_and_never_opened(cache, name):
    (cache / "weights" / "bert").mkdir(parents=True)
    (cache / "weights" / "bert" / name).write_bytes(b"cos\nsystem\n(S'touch evil'\ntR.")
    with pytest.raises(
        errors.EnvironmentLacks,
        match=f"{name} is a pickle, which wbdc never opens; convert it to model.safetensors",
    ):
        weights.find_weights("hfl/bert", ("model.safetensors",))


def test_trap_15_a_part_of_some_weights_is_taken_strictly(tmp_path):
    one, two = np.zeros(1), np.zeros(2)
    held = {"bert.a": one, "bert.b": two, "head.c": one}
    assert weights.select_tensors(held, {"a": one, "b": two}, tmp_path, "bert.") == (
        {"a": one, "b": two},
        ["head.c"],
    )
    with pytest.raises(errors.IntegrityBroken, match="lacks 2 of 3 tensors: bert.c, bert.d$"):
        weights.select_tensors(held, {"a": one, "c": one, "d": one}, tmp_path, "bert.")
    with pytest.raises(
        errors.IntegrityBroken, match=r"1 tensors of another shape: bert.b \(2,\), not \(1,\)$"
    ):
        weights.select_tensors(held, {"a": one, "b": one}, tmp_path, "bert.")
