"""FGM, PGD and AWP: each computes the gradients of its formula, and restores all weights."""

import copy

import pytest
import torch
import torch.nn.functional as F
import toys
from torch import Tensor, nn

from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.train import tricks
from wbdc.train.fit import fit
from wbdc.train.objectives import Objective
from wbdc.train.objectives.classify import Classify
from wbdc.train.tricks import Outcome
from wbdc.train.tricks.awp import clamp_change
from wbdc.train.tricks.pgd import project_to_ball

BATCHES = [toys.batch(seed=seed) for seed in range(2)]
WORDS = "fusion.trunk.embeddings.word_embeddings.weight"
SETTINGS = {
    "fgm": {"epsilon": 0.5},
    "pgd": {"epsilon": 0.5, "alpha": 0.3, "steps": 3},  # the second step leaves the ball
    "awp": {"alpha": 0.05, "epsilon": 0.2, "steps": 2},
}
every_adversary = pytest.mark.parametrize("use", SETTINGS)


def build(use: str, model: nn.Module, **settings: object):
    return plug.build_plug(tricks, {"use": use, **settings}, model, toys.TASK)


class OwnHead(Objective):
    """Has a head of its own, whose gradients no trick finds in the model."""

    def __init__(self, model, task):
        super().__init__(model, task)
        torch.manual_seed(3)
        self.head = nn.Linear(model.trunk.dim, toys.CLASSES)

    def loss(self, model, fused, batch, original):
        return F.cross_entropy(self.head(fused.pooled), batch.label)


def gradients_by_hand(model: nn.Module, head: nn.Module) -> dict[str, Tensor]:
    """Return the gradient of each weight over both batches, of equal size; 0 for unused ones."""
    named = {**dict(model.named_parameters()), "own": head.weight}
    loss = 0
    for batch in BATCHES:
        pooled = model(batch).pooled
        loss += F.cross_entropy(model.head(pooled), batch.label) / len(BATCHES)
        loss += F.cross_entropy(head(pooled), batch.label) / len(BATCHES)
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    pairs = zip(named.items(), found, strict=True)
    return {name: torch.zeros_like(w) if g is None else g for (name, w), g in pairs}


def fgm_by_hand(model: nn.Module, head: nn.Module) -> dict[str, Tensor]:
    first = gradients_by_hand(model, head)
    with torch.no_grad():
        model.get_parameter(WORDS).add_(0.5 * first[WORDS] / first[WORDS].norm())
    second = gradients_by_hand(model, head)
    return {name: first[name] + second[name] for name in first}


def pgd_by_hand(model: nn.Module, head: nn.Module) -> dict[str, Tensor]:
    words = model.get_parameter(WORDS)
    start = words.detach().clone()
    first = last = gradients_by_hand(model, head)
    for _ in range(3):
        with torch.no_grad():
            words.add_(0.3 * last[WORDS] / last[WORDS].norm())
            distance = (words - start).norm()
            if distance > 0.5:
                words.copy_(start + (words - start) * 0.5 / distance)
        last = gradients_by_hand(model, head)
    assert distance > 0.5
    return {name: first[name] + last[name] for name in first}


def awp_by_hand(model: nn.Module, head: nn.Module) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    chosen = {n: w for n, w in named.items() if n.endswith("weight") and w.dim() > 1}
    start = {name: weight.detach().clone() for name, weight in chosen.items()}
    gradients = gradients_by_hand(model, head)
    for _ in range(2):
        with torch.no_grad():
            for name, weight in chosen.items():
                g = gradients[name]
                if g.norm() > 0:
                    weight.add_(0.05 * weight.norm() * g / g.norm())
                bound = 0.2 * start[name].abs()
                low, high = start[name] - bound, start[name] + bound
                weight.copy_(torch.min(torch.max(weight, low), high))
        gradients = gradients_by_hand(model, head)
    return gradients


BY_HAND = {"fgm": fgm_by_hand, "pgd": pgd_by_hand, "awp": awp_by_hand}


@every_adversary
def test_a_step_with_loss_scaling_and_accumulation_has_the_gradients_of_the_formula(use):
    model = toys.model().train()
    own = OwnHead(model, toys.TASK)
    twin = copy.deepcopy(model)
    expected = BY_HAND[use](twin, copy.deepcopy(own.head))

    named = {**dict(model.named_parameters()), "own": own.head.weight}
    before = {name: weight.detach().clone() for name, weight in named.items()}
    fit(
        model,
        [Classify(model, toys.TASK), own],
        BATCHES,
        torch.optim.SGD(list(named.values()), 1.0),
        [build(use, model, **SETTINGS[use])],
        accumulate=2,
        max_grad_norm=1e9,
        scaler=torch.amp.GradScaler("cpu", init_scale=1024.0),
    )
    for name, weight in named.items():
        gradient = before[name] - weight.detach()
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=2e-6, msg=name)


@pytest.mark.parametrize(("use", "encodings"), [("fgm", 1), ("pgd", 1), ("awp", 3)])
def test_the_passes_of_a_step_share_the_features_of_frames(use, encodings, monkeypatch):
    """Those of FGM and PGD do; AWP moves the weights of the tower."""
    monkeypatch.setitem(globals(), "BATCHES", BATCHES[:1])
    model = toys.model().train()
    own = OwnHead(model, toys.TASK)
    expected = BY_HAND[use](copy.deepcopy(model), copy.deepcopy(own.head))
    encoded = []
    model.vision.register_forward_pre_hook(
        lambda module, inputs: encoded.append(inputs[0].is_floating_point())
    )

    named = {**dict(model.named_parameters()), "own": own.head.weight}
    before = {name: weight.detach().clone() for name, weight in named.items()}
    adversary = build(use, model, **SETTINGS[use])
    optimizer = torch.optim.SGD(list(named.values()), 1.0)
    fit(
        model, [Classify(model, toys.TASK), own], BATCHES, optimizer, [adversary], max_grad_norm=1e9
    )
    assert encoded.count(False) == encodings
    assert len(adversary.trained_weights) == len(named)
    for name, weight in named.items():
        gradient = before[name] - weight.detach()
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=2e-6, msg=name)


@every_adversary
def test_gradients_from_before_change_no_direction_and_are_added(use):
    """As inside another adversarial trick, whose first pass has left its gradients."""
    model = toys.model().train()
    loss = lambda: model.logits(BATCHES[0]).logsumexp(1).sum()  # noqa: E731

    def gradients(batches) -> Outcome:
        total = loss()
        total.backward()
        return Outcome(total.detach(), {})

    adversary = build(use, model, **SETTINGS[use])
    adversary.before_step(1)
    wrapped = adversary.wrap_gradients(gradients)
    wrapped(BATCHES)
    alone = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for name in alone:
        model.get_parameter(name).grad = torch.ones_like(alone[name])
    wrapped(BATCHES)
    for name, gradient in alone.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient + 1, msg=name)


@every_adversary
@pytest.mark.parametrize("failing", [2, 3])
def test_trap_13_every_weight_is_restored_after_an_exception_in_any_pass(use, failing):
    model = toys.model().train()
    before = copy.deepcopy(model.state_dict())
    passes = []

    def gradients(batches) -> Outcome:
        passes.append(model.get_parameter(WORDS).detach().clone())
        if len(passes) == failing:
            raise RuntimeError("out of memory")
        loss = model.logits(BATCHES[0]).logsumexp(1).sum()
        loss.backward()
        return Outcome(loss.detach(), {})

    adversary = build(use, model, **SETTINGS[use])
    adversary.before_step(1)
    if use == "fgm" and failing == 3:
        adversary.wrap_gradients(gradients)(BATCHES)
    else:
        with pytest.raises(RuntimeError, match="out of memory"):
            adversary.wrap_gradients(gradients)(BATCHES)
    assert not torch.equal(passes[0], passes[1]), "the second pass reads perturbed words"
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


@every_adversary
def test_trap_13_a_name_that_matches_no_trainable_weight_is_refused(use):
    model = toys.model()
    with pytest.raises(UsageFault, match=f"trick '{use}': no trainable weight has 'no_such'"):
        build(use, model, on="no_such")
    adversary = build(use, model, on="word_embeddings")
    model.trunk.requires_grad_(False)  # as `freeze` does after it in the kit
    with pytest.raises(UsageFault, match="no trainable weight has 'word_embeddings'"):
        adversary.wrap_gradients(lambda batches: Outcome(torch.zeros(()), {}))


def test_awp_names_no_biases_and_starts_late():
    with pytest.raises(UsageFault, match="has 'bias' in its name and at least 2 axes"):
        build("awp", toys.model(), on="bias")
    late = build("awp", toys.model(), start=0.5)
    passes = []
    wrapped = late.wrap_gradients(lambda batches: passes.append(1))
    for step in range(1, toys.TASK.total_steps + 1):
        late.before_step(step)
        wrapped([])
    assert len(passes) == toys.TASK.total_steps * 3 // 2


def test_the_projection_moves_outer_points_to_the_sphere_and_inner_ones_nowhere():
    outer = torch.tensor([3.0, 4.0])
    torch.testing.assert_close(project_to_ball(outer, outer.norm(), 1.0), torch.tensor([0.6, 0.8]))
    assert torch.equal(project_to_ball(outer, outer.norm(), 6.0), outer)
    assert torch.equal(project_to_ball(0 * outer, torch.zeros(()), 1.0), 0 * outer)


def test_a_change_is_bounded_relative_to_each_number():
    changed = clamp_change(torch.tensor([5.0, -5.0, 1.01]), torch.tensor([1.0, -2.0, 1.0]), 0.1)
    torch.testing.assert_close(changed, torch.tensor([1.1, -2.2, 1.01]))
    assert clamp_change(torch.ones(1), torch.zeros(1), 0.1) == 0
