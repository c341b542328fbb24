"""Freezing: the named weights keep their bits, others are trained, and layers follow in order."""

import copy

import pytest
import torch
import toys
from safetensors.torch import load_file

from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.train import tricks
from wbdc.train.fit import fit
from wbdc.train.objectives.classify import Classify
from wbdc.train.optimizer import build_adamw, parameter_groups
from wbdc.train.weight_names import shorten_names

EMBEDDINGS = "fusion.trunk.embeddings."
LAYERS = [f"fusion.trunk.encoder.layer.{number}." for number in (1, 0)]


def build(model, **settings):
    return plug.build_plug(tricks, {"use": "freeze", **settings}, model, toys.TASK)


def train(model, trick, steps: int, start: int = 0) -> list[set[str]]:
    """Return the names of the tensors that each step changed."""
    rates = {"rest": 1e-2}
    objective = Classify(model, toys.TASK)
    optimizer = build_adamw(parameter_groups(model, objective, rates), rates, weight_decay=0.1)
    changes = []
    before = copy.deepcopy(model.state_dict())

    def after_step(step, outcome):
        now = copy.deepcopy(model.state_dict())
        changes.append({n for n in now if not torch.equal(now[n], before[n])})
        before.update(now)

    data = [toys.batch(seed=seed) for seed in range(start, steps)]
    fit(model, [objective], data, optimizer, [trick], after_step=after_step, start=start)
    return changes


@pytest.mark.parametrize("vision", ["clip", "timm"])
def test_trap_16_frozen_weights_and_statistics_keep_their_bits_and_others_move(vision):
    model = toys.model(vision=vision)
    trick = build(model, on=["fusion.trunk.embeddings", "vision"])
    changes = set.union(*train(model, trick, 2))
    assert not {name for name in changes if name.startswith((EMBEDDINGS, "vision."))}
    expected = {n for n, _ in model.named_parameters()}
    expected = {n for n in expected if not n.startswith((EMBEDDINGS, "vision."))}
    assert expected - changes <= {n for n in expected if "key.bias" in n}, "keys need no bias"
    assert trick.summary().endswith(" parameters: fusion.trunk.embeddings, vision")


def test_layers_are_trained_from_the_last_one_on_and_the_embeddings_last():
    """AdamW decays weights that have a zero gradient: a frozen one must have none."""
    model = toys.model()
    trick = build(model, on=["fusion.trunk"], unfreeze_every=0.2)  # of 10 steps
    assert trick.summary().endswith("; trains one more of 3 layers every 2 steps")
    for step, changes in enumerate(train(model, trick, 8), 1):
        count = (step - 1) // 2
        prefixes = [*LAYERS, EMBEDDINGS]
        trained = {p for p in prefixes if any(name.startswith(p) for name in changes)}
        assert trained == set(prefixes[:count]), step
        assert "head.weight" in changes


def test_batch_norms_follow_their_layers():
    model = toys.model(vision="timm")
    trick = build(model, on=["vision"], unfreeze_every=0.1)
    changes = train(model, trick, len(trick.layers) + 1)
    statistics = lambda names: {n for n in names if n.endswith("running_mean")}  # noqa: E731
    assert not statistics(changes[0])
    for before, after in zip(changes, changes[1:], strict=False):
        assert statistics(before) <= statistics(after)
    assert statistics(changes[-1]) == statistics(model.state_dict())


def test_a_resumed_training_freezes_the_layers_of_its_step():
    model = toys.model()
    trick = build(model, on=["fusion.trunk"], unfreeze_every=0.2)
    (changes,) = train(model, trick, 5, start=4)
    trained = {p for p in LAYERS if any(name.startswith(p) for name in changes)}
    assert trained == set(LAYERS)
    assert not any(name.startswith(EMBEDDINGS) for name in changes)


@pytest.mark.parametrize(
    ("on", "expected"),
    [
        (["fusion.trnk"], "no trainable weight has the prefix 'fusion.trnk'; did you mean 'fusion"),
        (["fusion.trunk.encoder.layer"], None),
        (["fusion.tru"], "no trainable weight has the prefix 'fusion.tru'"),
        ([], "on names no weights"),
        (
            ["fusion", "vision", "project", "head", "frame_start", "time_embedding"],
            "leaves nothing to train",
        ),
    ],
)
def test_trap_16_a_prefix_without_weights_is_refused(on, expected):
    if expected is None:
        build(toys.model(), on=on)
        return
    with pytest.raises(UsageFault, match=f"trick 'freeze': .*{expected}"):
        build(toys.model(), on=on)


def test_a_tower_that_the_kit_froze_is_not_frozen_again():
    with pytest.raises(UsageFault, match="no trainable weight has the prefix 'vision'"):
        build(toys.model(frozen=True), on=["vision"])


def test_names_are_shortened_to_exact_prefixes():
    names = ["a.b.w", "a.b.v", "a.c", "d.e"]
    assert shorten_names(["a.b.w", "a.b.v"], names) == ["a.b"]
    assert shorten_names(["a.b.w", "a.c"], names) == ["a.b.w", "a.c"]
    assert shorten_names(["a.b.w", "a.b.v", "a.c"], names) == ["a"]
    assert shorten_names(["a.b"], ["a.b", "a.bc"]) == ["a.b"]


def test_trap_16_a_run_prints_and_records_what_is_frozen_and_trained(fresh, kit):
    """Beside SWA, which prints its members."""
    chosen = 'train.trick=[{use="freeze", on=["fusion.trunk", "vision"]}, {use="swa", members=2}]'
    options = ("--kit", kit, "--fold", 0, "--work", fresh, "--threads", 1)
    result = toys.wbdc("train", *options, "--set", chosen, "--set", "train.epochs=1")
    assert result.exit_code == 0, result.output
    log = " ".join(result.stderr.split())
    assert "trick freeze: freezes" in log
    assert "parameters: fusion.trunk, vision" in log
    assert "trick swa: averages the weights after steps" in log
    assert ": frame_start, fusion.blocks, fusion.norm, project, time_embedding, head" in log
    (folder,) = (fresh / "runs").glob("*/fold-0")
    names = {n for n in load_file(folder / "model.safetensors") if not n.startswith("fusion.trunk")}
    report = toys.run_json("train", *options, "--set", chosen, "--set", "train.epochs=1")
    trained = report["folds"]["0"]["trained"]
    assert trained["fusion.trunk"] == trained["vision"] == []
    assert set(trained["rest"]) == {name for name in names if not name.startswith("vision")}
