"""A model is rebuilt strictly from its folder, and its probabilities are finite."""

import pickle
import re

import pytest
import torch
import toys
from safetensors.torch import load_file, save_file
from small import python

from wbdc.core.errors import IntegrityFault, ResultFault
from wbdc.core.files import publish_json, read_json
from wbdc.serve.members import load_member
from wbdc.serve.predict import predict_probabilities, safe_softmax

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    return toys.member(tmp_path / "fold-0", toys.model())


def test_a_loaded_model_has_the_logits_of_the_saved_one(folder):
    model, batch = toys.model(), toys.batch()
    loaded = load_member(folder)
    assert torch.equal(loaded.model.logits(batch), model.logits(batch))
    assert not loaded.model.training
    assert (loaded.name, loaded.classes, loaded.batch, loaded.without) == (
        "fold-0",
        toys.LEAVES,
        8,
        None,
    )
    assert loaded.text([{"title": "标题", "asr": ""}]) == [
        [2, *loaded.text.tokenizer.encode("标题").ids, 3, 3]
    ]


@pytest.mark.parametrize("modality", ["text", "frames"])
def test_a_model_trained_without_a_modality_does_not_receive_it(tmp_path, modality):
    loaded, batch = load_member(toys.member(tmp_path, toys.model(), without=modality)), toys.batch()
    reduced = loaded.drop_modality(batch)
    assert (reduced.text.shape[1], reduced.frames.shape[1]) == (
        (1, batch.frames.shape[1]) if modality == "text" else (batch.text.shape[1], 0)
    )


CHANGES = {
    "missing": (lambda w: w.pop("head.bias"), "head.bias"),
    "extra": (lambda w: w.update({"head.more": torch.zeros(2)}), "head.more"),
    "wrong shape": (lambda w: w.update({"head.bias": torch.zeros(4)}), "head.bias"),
    "wrong width": (
        lambda w: w.update({"vision.tower.proj": torch.zeros(16, 9)}),
        "vision.tower.proj",
    ),
    "wrong dtype": (
        lambda w: w.update({"head.bias": w["head.bias"].half()}),
        "another dtype in head.bias",
    ),
    "NaN": (
        lambda w: w["head.bias"].fill_(float("nan")),
        "numbers that are not finite, in head.bias",
    ),
    "infinity": (
        lambda w: w["frame_start"].view(-1)[3:4].fill_(float("inf")),
        "numbers that are not finite, in frame_start",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_trap_15_weights_that_do_not_fit_are_refused_by_name(folder, change):
    change_weights, message = CHANGES[change]
    weights = load_file(folder / "model.safetensors")
    change_weights(weights)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(IntegrityFault, match=f"model.safetensors .*{re.escape(message)}"):
        load_member(folder)


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\0" * 40,
        lambda b: b[:-1],
        lambda b: b + b"x",
        lambda b: b[: len(b) // 2],
        lambda b: b[:6],
        lambda b: b"\xff" * 8 + b[8:],
    ],
)
def test_a_file_that_is_not_safetensors_is_refused(folder, damage):
    path = folder / "model.safetensors"
    path.write_bytes(damage if isinstance(damage, bytes) else damage(path.read_bytes()))
    with pytest.raises(IntegrityFault, match="model.safetensors does not fit model.json beside it"):
        load_member(folder)


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


LOAD = """
import os, sys
from pathlib import Path
from wbdc.core.files import publish_json, read_json
from wbdc.serve.members import load_member

folder = Path(sys.argv[1])
facts = read_json(folder / "model.json")
publish_json(folder / "model.json", facts | {"tower": "tower.safetensors"})
for name in ("tower.safetensors", "tokenizer.json", "model.safetensors"):
    if (folder / name).exists():
        (folder / name).rename(folder / "aside")
    os.mkfifo(folder / name)
    try:
        load_member(folder)
    except Exception as error:
        print(name, getattr(error, "code", error), "not a regular file" in str(error))
    (folder / name).unlink()
    if name == "tower.safetensors":
        publish_json(folder / "model.json", facts)
    else:
        (folder / "aside").rename(folder / name)
load_member(folder)
print("loaded")
"""


@pytest.mark.slow
def test_a_pipe_in_a_model_without_a_seal_is_refused_without_waiting(folder):
    process = python(LOAD, folder, timeout=120)
    files = ("tower.safetensors", "tokenizer.json", "model.safetensors")
    assert process.stdout.splitlines() == [*(f"{name} 4 True" for name in files), "loaded"], (
        process.stderr
    )


def test_a_pickle_in_place_of_weights_is_refused_and_does_not_run(folder):
    (folder / "model.safetensors").write_bytes(pickle.dumps(Payload(folder / "ran")))
    with pytest.raises(IntegrityFault):
        load_member(folder)
    torch.save({"x": Payload(folder / "ran")}, folder / "model.safetensors")
    with pytest.raises(IntegrityFault):
        load_member(folder)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("file", ["model.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, file):
    (folder / file).unlink()
    with pytest.raises(IntegrityFault, match=file):
        load_member(folder)


def test_the_image_settings_is_saved_with_the_weights(folder):
    facts = read_json(folder / "model.json")
    facts["blueprint"]["vision"]["image"]["mean"] = [0.1, 0.1, 0.1]
    before = load_member(folder).model.vision.image_settings
    publish_json(folder / "model.json", facts)
    assert (
        load_member(folder).model.vision.image_settings.mean
        == (0.1, 0.1, 0.1)
        != before.mean
        == (0.5, 0.4, 0.3)
    )


def test_probabilities_are_softmax_in_the_order_given():
    model, batches = toys.model(), [toys.batch(seed=s) for s in range(3)]
    probabilities = predict_probabilities(model, batches, CPU, torch.float32)
    torch.testing.assert_close(
        probabilities, torch.cat([model.logits(b).softmax(-1) for b in batches]).detach()
    )
    assert probabilities.dtype == torch.float32
    assert not probabilities.requires_grad


def test_fault_25_logits_that_are_not_finite_are_computed_again_in_fp32():
    calls = []

    def logits(precision):
        calls.append((precision, torch.is_autocast_enabled("cpu")))
        return (
            torch.tensor([[1.0, float("nan")]])
            if precision == torch.bfloat16
            else torch.tensor([[1.0, 2.0]])
        )

    probabilities = safe_softmax([logits], ("v0",), CPU, torch.bfloat16)
    assert calls == [(torch.bfloat16, True), (torch.float32, False)]
    torch.testing.assert_close(
        torch.from_numpy(probabilities), torch.tensor([[[1.0, 2.0]]]).softmax(-1)
    )


def test_fault_25_only_the_member_that_overflows_is_computed_again():
    """All members are launched before the first is computed again."""
    calls = []
    values = torch.randn(3, 2, 5)

    def logits_of(member: int):
        def logits(precision):
            calls.append((member, precision))
            overflows = member == 1 and precision == torch.bfloat16
            return values[member] * (float("inf") if overflows else 1.0)

        return logits

    members = [logits_of(i) for i in range(3)]
    probabilities = safe_softmax(members, ("v0", "v1"), CPU, torch.bfloat16)
    half = [(i, torch.bfloat16) for i in range(3)]
    assert calls == [*half, (1, torch.float32)]
    assert probabilities.tobytes() == values.softmax(-1).numpy().tobytes()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_fault_25_scores_that_are_not_finite_never_become_class_0(precision, value):
    with pytest.raises(
        ResultFault,
        match="1 videos of a batch have scores that are not finite, even in fp32, first v1",
    ):
        safe_softmax(
            [lambda _: torch.tensor([[1.0, 2.0], [1.0, value]])], ("v0", "v1"), CPU, precision
        )
