"""R-Drop: both divergences of two passes from the same features; and multi-sample dropout."""

import pytest
import torch
import torch.nn.functional as F
import toys
from objective_programs import build_objective

from wbdc.core.device import CPU
from wbdc.core.errors import UsageFault
from wbdc.train.objectives.r_drop import symmetric_divergence
from wbdc.train.step import Step


def test_the_divergence_is_half_the_sum_of_both_directions():
    p, q = torch.randn(2, 7, toys.CLASSES, dtype=torch.float64).unbind(0)
    one = F.kl_div(q.log_softmax(1), p.log_softmax(1), reduction="none", log_target=True).sum(1)
    other = F.kl_div(p.log_softmax(1), q.log_softmax(1), reduction="none", log_target=True).sum(1)
    torch.testing.assert_close(symmetric_divergence(p, q), (one + other) / 2)
    assert torch.equal(symmetric_divergence(p, p), torch.zeros(7, dtype=torch.float64))


def test_parts_weighted_by_their_counts_give_the_whole_and_both_passes_learn():
    """The first pass is that of another model, so that the passes differ without dropout."""
    model = toys.model()
    other = toys.model(seed=1)
    objective = build_objective("r_drop", model, dropout=0.0)

    def loss(batch):
        fused = other(batch)
        fused.pooled.retain_grad()
        encoded = model.encode(batch)
        return fused, objective.loss(model, fused, encoded, encoded)

    batch = toys.batch()
    fused, whole = loss(batch)
    expected = symmetric_divergence(model.head(fused.pooled), model.logits(batch)).mean()
    torch.testing.assert_close(whole, expected)
    parts = [batch.select(slice(0, 2)), batch.select(slice(2, 6))]
    total = sum(loss(part)[1] * objective.count(part) for part in parts)
    torch.testing.assert_close(total / objective.count(batch), whole)
    whole.backward()
    assert fused.pooled.grad.abs().sum() > 0, "the first pass learns"
    assert model.trunk.embeddings.word_embeddings.weight.grad.abs().sum() > 0, "and the second"


def test_trap_19_the_second_pass_fuses_the_same_features_without_the_tower():
    model = toys.model().train()
    calls = []
    encode = model.vision.encode
    model.vision.encode = lambda pixels: calls.append("tower") or encode(pixels)
    model.fusion.register_forward_pre_hook(lambda module, inputs: calls.append(inputs))
    objective = build_objective("r_drop", model)
    step = Step(model, [build_objective("classify", model), objective], CPU, torch.float32)
    torch.manual_seed(0)
    losses = step(toys.batch()).losses
    assert calls.pop(0) == "tower"
    first, second = calls
    for one, two in zip(first, second, strict=True):
        assert torch.equal(one.x, two.x)
        assert torch.equal(one.mask, two.mask)
    assert losses["r_drop"] > 0, "its own dropout makes the passes differ"


def test_samples_of_dropout_average_their_losses_after_one_pass():
    model = toys.model().train()
    batch = toys.batch()
    objective = build_objective("classify", model, dropout=0.4, samples=3)
    fused = model(batch)
    torch.manual_seed(5)
    losses = [
        F.cross_entropy(model.head(F.dropout(fused.pooled, 0.4)), batch.label) for _ in range(3)
    ]
    torch.manual_seed(5)
    found = objective.loss(model, fused, batch, batch)
    torch.testing.assert_close(found, sum(losses) / 3)
    assert len({loss.item() for loss in losses}) == 3

    model.eval()
    plain = F.cross_entropy(model.head(fused.pooled), batch.label)
    torch.testing.assert_close(objective.loss(model, fused, batch, batch), plain)


def test_samples_without_dropout_are_refused():
    with pytest.raises(UsageFault, match="samples = 4 are equal without dropout"):
        build_objective("classify", toys.model(), samples=4)
    with pytest.raises(UsageFault, match="samples = 0; it must be at least 1"):
        build_objective("classify", toys.model(), samples=0)
