"""The scaled cross entropy of a choice: longhand, chance level, lowest value, padding."""

import math

import pytest
import torch

from wbdc.train.objective_parts.candidates import candidate_losses

LOGITS = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
PARTNERS = torch.tensor([0, 3, 2])
CANDIDATES = torch.tensor([[1, 1, 0, 0, 0], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]).bool()


def test_losses_are_those_of_the_candidates_alone():
    losses = candidate_losses(LOGITS, PARTNERS, CANDIDATES, 10)
    for row, loss in enumerate(losses):
        among = CANDIDATES[row].nonzero().flatten().tolist()
        entropy = -LOGITS[row, among].log_softmax(0)[among.index(PARTNERS[row])]
        torch.testing.assert_close(loss, entropy * math.log(10) / math.log(len(among)))


def test_a_uniform_choice_has_one_chance_level():
    losses = candidate_losses(torch.zeros(3, 5), PARTNERS, CANDIDATES, 10)
    assert losses.tolist() == pytest.approx([math.log(10)] * 3)


def test_a_sure_choice_and_a_lone_candidate_have_no_loss():
    sure = 100.0 * torch.nn.functional.one_hot(PARTNERS, 5).half()
    assert candidate_losses(sure, PARTNERS, CANDIDATES, 10).tolist() == [0, 0, 0]
    alone = torch.tensor([1, 0, 0, 0, 0]).bool()
    assert candidate_losses(LOGITS[:1], PARTNERS[:1], alone, 10).tolist() == [0]


def test_trap_09_no_candidate_is_finite():
    none = torch.zeros(5, dtype=torch.bool)
    assert candidate_losses(LOGITS, PARTNERS, none, 10).isfinite().all()
