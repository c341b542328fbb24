"""Contrast: cosines divided by the temperature, in both directions, over pairs only."""

import math

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss

from wbdc.core.errors import UsageFault
from wbdc.train.objective_parts.contrastive import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    Temperature,
    check_temperature,
    cosine_logits,
    info_nce,
    pair_losses,
    soft_partners,
)
from wbdc.train.objectives import masked_mean

ALL = torch.ones(6, dtype=torch.bool)


def vectors(rows: int = 6, dim: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, dim, generator=generator)
    return x, x + 2 * torch.randn(rows, dim, generator=generator)


def test_pair_losses_are_the_loss_of_open_clip():
    x, y = (v.requires_grad_() for v in vectors())
    expected = ClipLoss()(F.normalize(y, dim=1), F.normalize(x, dim=1), 1 / 0.07)
    loss = pair_losses(x, y, ALL, 0.07, 6).mean()
    torch.testing.assert_close(loss, expected)
    gradients = torch.autograd.grad(loss, (x, y))
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, (x, y)))


def test_info_nce_is_the_formula_of_the_paper():
    """-log(exp(f(x, y+)) / sum of exp(f(x, y))), with f a cosine over a temperature."""
    x, y = vectors()
    losses = info_nce(x, y, torch.arange(6), 0.2, ALL, 6)
    for row in range(6):
        scores = [
            math.exp(float(x[row] @ y[i] / x[row].norm() / y[i].norm()) / 0.2) for i in range(6)
        ]
        assert losses[row].item() == pytest.approx(-math.log(scores[row] / sum(scores)), abs=1e-5)


def test_trap_22_the_temperature_divides_and_cosines_are_normalized():
    x, y = vectors()
    assert cosine_logits(x, x, 1.0).diagonal().tolist() == pytest.approx([1.0] * 6)
    torch.testing.assert_close(cosine_logits(x, y, 0.1), 10 * cosine_logits(x, y, 1.0))
    torch.testing.assert_close(cosine_logits(7 * x, y / 9, 0.1), cosine_logits(x, y, 0.1))
    sharp, soft = (info_nce(x, x, torch.arange(6), t, ALL, 6).mean() for t in (0.02, 0.5))
    assert sharp < soft, "partners that agree: a low temperature gives a low loss"


def test_equal_vectors_have_the_chance_level_as_their_loss():
    x = torch.ones(6, 8)
    for count in (6, 3, 2):
        losses = pair_losses(x, x, torch.arange(6) < count, 0.07, 6)[:count]
        assert losses.tolist() == pytest.approx([math.log(6)] * count), "of any number of pairs"
    assert pair_losses(x, x, torch.arange(6) < 1, 0.07, 6)[0] == 0, "one pair leaves no choice"


def test_permuting_the_batch_permutes_the_losses():
    x, y = vectors()
    is_pair = torch.tensor([True, False, True, True, True, False])
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    losses = pair_losses(x, y, is_pair, 0.07, 6)
    permuted = pair_losses(x[order], y[order], is_pair[order], 0.07, 6)
    torch.testing.assert_close(permuted[is_pair[order]], losses[order][is_pair[order]])


def test_videos_without_a_partner_are_neither_rows_nor_columns():
    x, y = vectors()
    is_pair = torch.tensor([True, False, True, True, False, True])
    losses = masked_mean(pair_losses(x, y, is_pair, 0.07, 6), is_pair)
    apart = pair_losses(x[is_pair], y[is_pair], ALL[:4], 0.07, 6).mean()
    torch.testing.assert_close(losses, apart)


@pytest.mark.parametrize("count", [0, 1])
def test_trap_09_a_batch_without_pairs_has_finite_gradients(count):
    x, y = (v.requires_grad_() for v in vectors())
    temperature = Temperature(0.07)
    is_pair = torch.arange(6) < count
    loss = masked_mean(pair_losses(x, y, is_pair, temperature(), 6), is_pair)
    loss.backward()
    assert loss.item() == 0
    gradients = [x.grad, y.grad, temperature.logarithm.grad]
    assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_trap_09_half_precision_neither_overflows_nor_rounds_the_logits(dtype):
    x, y = vectors()
    x = (1000 * x).to(dtype)
    y = (1000 * y).to(dtype)
    with torch.autocast("cpu", dtype):
        losses = pair_losses(x, y, ALL, MIN_TEMPERATURE, 6)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, pair_losses(x.float(), y.float(), ALL, MIN_TEMPERATURE, 6))


def test_a_temperature_is_learned_and_returns_into_its_bounds():
    temperature = Temperature(0.07)
    assert temperature().item() == pytest.approx(0.07)
    info_nce(*vectors(), torch.arange(6), temperature(), ALL, 6).mean().backward()
    assert temperature.logarithm.grad.abs() > 0
    for value, bound in ((1e-9, MIN_TEMPERATURE), (40.0, MAX_TEMPERATURE), (0.2, 0.2)):
        with torch.no_grad():
            temperature.logarithm.fill_(math.log(value))
        temperature.clamp_()
        assert temperature().item() == pytest.approx(bound)


@pytest.mark.parametrize("value", [0.0, -0.07, 0.009, 0.6, 14.3])
def test_a_temperature_out_of_bounds_is_refused(value):
    with pytest.raises(UsageFault, match=r"must be between 0\.01 and 0\.5"):
        check_temperature(value)
    with pytest.raises(UsageFault, match="temperature = "):
        Temperature(value)


def test_soft_partners_mix_the_choice_of_a_teacher():
    """As in ALBEF: alpha * softmax(teacher) + (1 - alpha) * identity."""
    x, y = vectors()
    teacher = cosine_logits(x, y, 0.07)
    partners = torch.arange(6)
    targets = soft_partners(partners, teacher, 0.4)
    torch.testing.assert_close(targets, 0.4 * teacher.softmax(1) + 0.6 * torch.eye(6))
    longhand = -(targets * cosine_logits(y, x, 0.07).log_softmax(1)).sum(1)
    torch.testing.assert_close(info_nce(y, x, targets, 0.07, ALL, 6), longhand)
    exact = info_nce(y, x, soft_partners(partners, teacher, 0.0), 0.07, ALL, 6)
    torch.testing.assert_close(exact, info_nce(y, x, partners, 0.07, ALL, 6))
