"""Contrast: each vector must find its partner among the vectors of the other videos (InfoNCE; van
den Oord et al., 2018). Objectives share this arithmetic.
"""

import math

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

from wbdc.core.errors import UsageFault
from wbdc.train.distributed.gather import gather_mask, gather_rows
from wbdc.train.objective_parts.candidates import candidate_losses

MIN_TEMPERATURE = 0.01  # logits within +-100, as in CLIP (Radford et al., 2021)
MAX_TEMPERATURE = 0.5  # as in ALBEF (Li et al., 2021)
MIN_CANDIDATES = 2  # one candidate leaves no choice


class Temperature(nn.Module):
    """A learnable temperature. `clamp_` keeps it between MIN_TEMPERATURE and MAX_TEMPERATURE.

    initial: its first value. Raises UsageFault when that is out of bounds.
    """

    def __init__(self, initial: float):
        super().__init__()
        check_temperature(initial)
        # one axis: fully_shard takes no scalars, and weights with one axis do not decay
        self.logarithm = nn.Parameter(torch.tensor([math.log(initial)]))

    def forward(self) -> Tensor:
        """Return the temperature: (1,) float32."""
        return self.logarithm.exp()

    @torch.no_grad()
    def clamp_(self) -> None:
        """Move the temperature into its bounds.

        Called after each step: a clamp in the forward pass would have no gradient outside, so the
        temperature would never return.
        """
        self.logarithm.clamp_(math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE))


def check_temperature(temperature: float) -> None:
    """Raise UsageFault for a temperature out of bounds."""
    if not MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE:
        raise UsageFault(
            f"temperature = {temperature:g}; it must be between {MIN_TEMPERATURE} and "
            f"{MAX_TEMPERATURE}"
        )


def cosine_logits(
    anchors: Tensor,
    candidates: Tensor,
    temperature: Tensor | float,
    is_candidate: Tensor | None = None,
) -> Tensor:
    """Divide the cosines of all pairs by the temperature: (n, D), (m, D) -> (n, m) float32.

    is_candidate: (m,) bool; all other columns are masked.
    """
    with torch.autocast(anchors.device.type, enabled=False):  # half precision rounds logits to .1
        x = F.normalize(anchors.float(), dim=1)
        y = F.normalize(candidates.float(), dim=1)
        logits = x @ y.T / temperature
    if is_candidate is None:
        return logits
    return logits.masked_fill(~is_candidate, torch.finfo(logits.dtype).min)


def info_nce(
    anchors: Tensor,
    candidates: Tensor,
    partners: Tensor,
    temperature: Tensor | float,
    is_candidate: Tensor,
    nominal_count: int,
) -> Tensor:
    """Return the cross entropy of each anchor's choice among the candidates: (n,) float32.

    anchors: (n, D). candidates: (m, D), with is_candidate (m,) bool. partners: (n,) int64, the
    candidate that belongs to each anchor, or (n, m) float, the probability of each. nominal_count:
    losses are scaled to the chance level ln(nominal_count), as `candidate_losses` explains. The
    loss of an anchor whose partner is masked has no meaning.
    """
    logits = cosine_logits(anchors, candidates, temperature)
    return candidate_losses(logits, partners, is_candidate, nominal_count)


def pair_losses(
    x: Tensor,
    y: Tensor,
    is_pair: Tensor,
    temperature: Tensor | float,
    nominal_count: int,
    rank_sizes: tuple[int, ...] = (),
) -> Tensor:
    """Contrast x with y in both directions; return the mean of both losses: (B,) float32.

    x, y: (B, D), of the videos of this rank. is_pair: (B,) bool, which videos have both; all others
    are no candidates, and their own losses have no meaning. The candidates are those of all ranks,
    with gradient, and the anchors those of this rank. nominal_count: of `info_nce`. rank_sizes: of
    the batch.
    """
    all_x = gather_rows(x.float(), rank_sizes)
    all_y = gather_rows(y.float(), rank_sizes)
    is_candidate = gather_mask(is_pair, rank_sizes)
    partners = whole_batch_positions(x, rank_sizes)
    to_y = info_nce(x, all_y, partners, temperature, is_candidate, nominal_count)
    to_x = info_nce(y, all_x, partners, temperature, is_candidate, nominal_count)
    return (to_x + to_y) / 2


def whole_batch_positions(x: Tensor, rank_sizes: tuple[int, ...]) -> Tensor:
    """Return the position of this rank's rows x in the whole batch: (B,) int64."""
    positions = torch.arange(len(x), device=x.device)
    if len(rank_sizes) < 2:
        return positions
    return positions * len(rank_sizes) + torch.distributed.get_rank()


def soft_partners(partners: Tensor, teacher_logits: Tensor, share: float) -> Tensor:
    """Mix the partners with the choice of a teacher, as ALBEF does: (n, m) probabilities.

    partners: (n,) int64. teacher_logits: (n, m). share: of the teacher, from 0 to 1.
    """
    exact = torch.zeros_like(teacher_logits).scatter(1, partners[:, None], 1.0)
    return torch.lerp(exact, teacher_logits.softmax(1), share)
