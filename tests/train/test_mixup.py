"""Mixup: vectors and labels follow the formula, and nothing stays mixed."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
import toys

from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.core.tokens import Tokens
from wbdc.train import objectives, tricks
from wbdc.train.compatible_plugs import check_compatible
from wbdc.train.fit import fit
from wbdc.train.objectives.classify import Classify
from wbdc.train.trick_parts.mixing import (
    interpolate_quantiles,
    label_probabilities,
    minor_share_quantiles,
    next_in_order,
)
from wbdc.train.tricks.mixup import mix_tokens


def build(model, **settings):
    return plug.build_plug(tricks, {"use": "mixup", **settings}, model, toys.TASK)


def loss_of_fit(model, trick, batch) -> float:
    losses = []
    fit(
        model,
        [Classify(model, toys.TASK)],
        [batch],
        torch.optim.SGD(model.parameters(), 0.1),
        [trick],
        after_step=lambda step, outcome: losses.append(outcome.loss.item()),
    )
    return losses[0]


def mix_by_hand(tokens: Tokens, partners: list[int], shares: list[float]) -> Tokens:
    x = torch.zeros_like(tokens.x)
    mask = torch.zeros_like(tokens.mask)
    for i, (j, share) in enumerate(zip(partners, shares, strict=True)):
        for position in range(x.shape[1]):
            for video, part in ((i, 1 - share), (j, share)):
                if tokens.mask[video, position] and part > 0:
                    x[i, position] += part * tokens.x[video, position]
                    mask[i, position] = True
    return Tokens(x, mask)


@pytest.mark.parametrize("on", ["pooled", "tokens", "frames"])
def test_the_loss_is_that_of_mixed_vectors_and_mixed_labels(on):
    model = toys.model()
    batch = toys.batch()
    batch = replace(batch, label=torch.where(torch.arange(6) == 3, -1, batch.label))
    trick = build(model, on=on, alpha=1.0)
    partners, shares = (values.tolist() for values in trick._draw(batch))
    assert shares[3] == shares[partners.index(3)] == 0, "a video without a label is not mixed"
    assert sum(share > 0.05 for share in shares) > 2

    twin = copy.deepcopy(model)
    encoded = twin.encode(batch)
    text, frames = twin.text_tokens(encoded), twin.frame_tokens(encoded)
    if on == "tokens":
        text = mix_by_hand(text, partners, shares)
    if on != "pooled":
        frames = mix_by_hand(frames, partners, shares)
    pooled = twin.fusion(text, frames).pooled
    losses = []
    for i, (j, share) in enumerate(zip(partners, shares, strict=True)):
        vector = (1 - share) * pooled[i] + share * pooled[j] if on == "pooled" else pooled[i]
        minus_log = -twin.head(vector).log_softmax(0)
        if batch.label[i] >= 0:
            own, other = minus_log[batch.label[i]], minus_log[batch.label[j]]
            losses.append(((1 - share) * own + share * other).item())
    assert len(losses) == 5
    assert loss_of_fit(model, trick, batch) == pytest.approx(np.mean(losses), abs=1e-5)
    encoded = model.encode(batch)
    plain = model.fusion(model.text_tokens(encoded), model.frame_tokens(encoded)).pooled
    torch.testing.assert_close(model.logits(batch), F.linear(plain, *model.head.parameters()))
    assert not model.head._forward_pre_hooks
    assert not model.fusion._forward_pre_hooks


@pytest.mark.parametrize("on", ["pooled", "tokens"])
def test_nothing_stays_mixed_after_an_exception(on):
    model = toys.model()
    batch = toys.batch()
    before = model.logits(batch)

    def fail(batch):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        build(model, on=on).wrap_loss(fail)(batch)
    assert torch.equal(model.logits(batch), before)


def test_a_share_of_zero_changes_no_bit_of_a_sequence():
    x = torch.randn(3, 4, 2)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]], dtype=torch.bool)
    mixed = mix_tokens(Tokens(x, mask), torch.tensor([1, 2, 0]), torch.zeros(3))
    assert torch.equal(mixed.mask, mask)
    assert torch.equal(mixed.x[mask], x[mask])


def test_soft_labels_are_mixed_with_hard_ones_and_keep_their_weights():
    batch = replace(toys.batch((1, 1, 1)), label=torch.tensor([2, -1, -1]))
    soft = torch.zeros(3, toys.CLASSES)
    soft[1, 0] = 0.5
    labels = label_probabilities(replace(batch, soft_label=soft), toys.CLASSES)
    assert labels[0].tolist() == [0, 0, 1, 0, 0]
    assert labels[1].tolist() == [0.5, 0, 0, 0, 0]
    assert labels[2].sum() == 0


@pytest.mark.parametrize("alpha", [0.1, 1.0, 3.0])
def test_shares_follow_the_beta_distribution(alpha):
    table = minor_share_quantiles(alpha)
    probabilities = torch.tensor([0.0, 0.1003, 0.5, 0.77, 0.9999])
    # the smaller of x and 1 - x is below s with twice the probability that x is
    expected = scipy.stats.beta.ppf(probabilities.double() / 2, alpha, alpha)
    found = interpolate_quantiles(table, probabilities)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_every_video_gets_another_one_once():
    partners = next_in_order(torch.tensor([0.3, 0.9, 0.1, 0.5]))
    assert partners.tolist() == [3, 2, 0, 1]
    assert next_in_order(torch.tensor([0.7])).tolist() == [0]


def test_objectives_whose_targets_are_not_mixed_are_refused():
    model = toys.model()
    used = {
        use: plug.build_plug(objectives, {"use": use}, model, toys.TASK)
        for use in ("classify", "r_drop", "classify_frames", "contrast")
    }
    check_compatible([used["classify"], used["r_drop"]], [build(model)])
    for use in ("classify_frames", "contrast"):
        with pytest.raises(
            UsageFault, match=f"trick 'mixup' .* of objective '{use}' are of single"
        ):
            check_compatible([used["classify"], used[use]], [build(model)])


def test_settings_out_of_bounds_are_refused():
    with pytest.raises(UsageFault, match="trick 'mixup': no on called 'pixels'"):
        build(toys.model(), on="pixels")
    with pytest.raises(UsageFault, match="trick 'mixup': alpha = 0; it must be above 0"):
        build(toys.model(), alpha=0.0)
