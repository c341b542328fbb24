"""Every two tricks together: two steps of two batches, weights restored, then resumed."""

import copy
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch
import toys
from torch import Tensor

from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.train import tricks
from wbdc.train.compatible_plugs import check_compatible
from wbdc.train.evaluated_weights import evaluating
from wbdc.train.fit import fit
from wbdc.train.objectives.classify import Classify
from wbdc.train.optimizer import build_adamw, parameter_groups
from wbdc.train.state import TrainingState, gather_state, restore_state, save_state
from wbdc.train.tricks import Gradients, Trick

TASK = replace(toys.TASK, total_steps=2)
SETTINGS = {
    "freeze": {"on": ["fusion.trunk.encoder", "vision"], "unfreeze_every": 0.5},
    "mixup": {"on": "tokens"},
    "pgd": {"steps": 2},
    "swa": {"start": 0.0, "members": 2},
}
REFUSED = {("ema", "swa")}
BATCHES = [toys.batch((2, 0, 1), seed=seed) for seed in range(4)]


class Watch(Trick):
    """Compares the weights before and after the passes of each step."""

    def wrap_gradients(self, gradients: Gradients) -> Gradients:
        def watched(batches):
            before = copy_tensors(self.model.state_dict())
            outcome = gradients(batches)
            assert_same_bits(self.model.state_dict(), before)
            return outcome

        return watched


def copy_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def assert_same_bits(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert tensors.keys() == expected.keys()
    assert not [name for name, t in tensors.items() if not torch.equal(t, expected[name])]


def build_training(pair: tuple[str, str]) -> TrainingState:
    model = copy.deepcopy(TOY)
    objectives = torch.nn.ModuleList([Classify(model, TASK, dropout=0.1)])
    tables = [{"use": use, **SETTINGS.get(use, {})} for use in pair]
    used = [plug.build_plug(tricks, table, model, TASK) for table in tables]
    check_compatible(objectives, used)
    for position, trick in enumerate(used):
        trick.position = position
    optimizer = build_adamw(parameter_groups(model, objectives, RATES), RATES, 0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return TrainingState(model, objectives, optimizer, [Watch(model, TASK), *used], scaler)


TOY = toys.model("single_stream")
RATES = {"rest": 1e-2}


def run(training: TrainingState, start: int, after_step=lambda step, outcome: None) -> None:
    fit(
        training.model,
        training.objectives,
        BATCHES[2 * start :],
        training.optimizer,
        training.tricks,
        accumulate=2,
        start=start,
        after_step=after_step,
    )


@pytest.mark.slow  # a quarter of a second for each of 78 pairs
@pytest.mark.parametrize("pair", list(combinations(plug.plug_names(tricks), 2)), ids=" and ".join)
def test_every_two_tricks_train_restore_and_resume(pair, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)
    if pair in REFUSED:
        with pytest.raises(UsageFault, match="both replace the weights"):
            build_training(pair)
        return

    through = build_training(pair)
    run(
        through,
        0,
        lambda step, outcome: save_state(tmp_path, 1, gather_state(through)) if step == 1 else None,
    )
    final = copy_tensors(gather_state(through))
    assert all(t.isfinite().all() for t in final.values() if t.is_floating_point())
    assert not torch.equal(through.model.head.weight, TOY.head.weight)

    resumed = build_training(pair)
    assert restore_state(tmp_path, resumed) == (1, 0)
    run(resumed, 1)
    assert_same_bits(gather_state(resumed), final)

    live = copy_tensors(resumed.model.state_dict())
    with pytest.raises(RuntimeError, match="scoring failed"), evaluating(resumed.tricks):
        fail_to_score(copy_tensors(resumed.model.state_dict()), replaced := {})
    assert_same_bits(resumed.model.state_dict(), live)
    is_replaced = any(not torch.equal(t, live[name]) for name, t in replaced.items())
    assert is_replaced == bool({"ema", "swa"} & set(pair))


def fail_to_score(weights: dict[str, Tensor], record: dict[str, Tensor]) -> None:
    record |= weights
    raise RuntimeError("scoring failed")
