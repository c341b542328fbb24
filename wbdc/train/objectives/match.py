"""Predict whether the frames belong to the text (image-text matching, ITM; Chen et al., 2020)."""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.tokens import Fused
from wbdc.nets.model import VideoClassifier
from wbdc.train.distributed.gather import gather_mask, gather_rows
from wbdc.train.objective_parts.contrastive import cosine_logits, whole_batch_positions
from wbdc.train.objective_parts.frame_rows import gather_frames
from wbdc.train.objective_parts.modalities import has_frames, has_words
from wbdc.train.objectives import Objective
from wbdc.train.task import Task

NEGATIVES = ("random", "hard")
HARD_TEMPERATURE = 0.07  # of the similarities; the first temperature of ALBEF


class Match(Objective):
    """Binary cross entropy of a head on the pooled vector: (B, D) to (B,).

    As in "UNITER: UNiversal Image-TExt Representation Learning", some videos get the frames of
    another one, out of the whole batch of all ranks. The objective runs the model on these pairs in
    a further pass, so that no other objective trains on mismatched pairs. Two videos without
    frames, or two without words, have nothing to tell them apart, so their pairs still match.

    swap: share of the videos that get another video's frames. negatives: how the other video is
    chosen: "random", or "hard", drawn with a probability that grows with the similarity of the
    frames to the text (ALBEF; Li et al., 2021). The similarity is that of tokens before they attend
    to each other; an objective such as `contrast` must train it.

    Raises UsageFault for negatives that do not exist.
    """

    def __init__(
        self,
        model: VideoClassifier,
        task: Task,
        *,
        weight: float = 1.0,
        swap: float = 0.5,
        negatives: str = "random",
    ):
        super().__init__(model, task, weight=weight)
        self.check_between(0, 1, swap=swap)
        self.check_choice(NEGATIVES, negatives=negatives)
        self.swap = swap
        self.chance = binary_entropy(swap)  # of the constant answer; ln 2 for the half
        self.negatives = negatives
        self.head = nn.Linear(model.trunk.dim, 1)

    def loss(self, model: VideoClassifier, fused: Fused, batch: Batch, original: Batch) -> Tensor:
        """Return the average over the videos, matched or not."""
        mixed, is_match = self._mix(model, fused, original)
        logits = self.head(model.fuse(mixed).pooled).squeeze(1)
        return F.binary_cross_entropy_with_logits(logits.float(), is_match.float())

    def _mix(self, model: VideoClassifier, fused: Fused, batch: Batch) -> tuple[Batch, Tensor]:
        """Return the batch with the frames of some videos swapped, and (B,) bool, which match."""
        is_swapped = self.draw(batch, "swap") < self.swap
        rows = whole_batch_positions(batch.text, batch.rank_sizes)
        words = gather_mask(has_words(batch), batch.rank_sizes)
        frames = gather_mask(has_frames(batch), batch.rank_sizes)
        if self.negatives == "random":
            sources = random_sources(gather_mask(is_swapped, batch.rank_sizes))[rows]
        else:
            may_take = takeable(rows, words, frames)
            similarity = text_frame_similarity(model, fused, batch)
            hard = hard_sources(similarity, may_take, self.draw(batch, "negative"), rows)
            sources = torch.where(is_swapped, hard, rows)

        has_no_difference = ~(frames[rows] | frames[sources]) | ~(words[rows] | words[sources])
        is_match = (sources == rows) | has_no_difference
        return take_frames(model, batch, sources), is_match


def take_frames(model: VideoClassifier, batch: Batch, sources: Tensor) -> Batch:
    """Give each video the frames, and the frame mask, of another one of the whole batch.

    sources: (B,) int64 positions in the whole batch.
    """
    frames, mask = gather_frames(batch, model.vision)
    return replace(batch, frames=frames[sources], frame_mask=mask[sources], frame_counts=())


def random_sources(is_swapped: Tensor) -> Tensor:
    """Return whose frames each video gets: swapped ones those of the previous swapped one.

    is_swapped: (B,) bool. Returns (B,) int64; a lone swapped video keeps its own frames.
    """
    positions = torch.arange(len(is_swapped), device=is_swapped.device)
    count = is_swapped.sum()
    order = torch.argsort(~is_swapped, stable=True)  # the swapped videos first
    previous = torch.where(positions == 0, count - 1, positions - 1)
    source_of_order = torch.where(positions < count, order[previous], order)
    return torch.empty_like(positions).scatter(0, order, source_of_order)


def takeable(rows: Tensor, has_words: Tensor, has_frames: Tensor) -> Tensor:
    """Return whose frames make a mismatched pair with each text: (b, B) bool.

    rows: (b,) positions of the texts. has_words, has_frames: (B,) bool. Those are other videos with
    frames, and with words when the text has none.
    """
    is_other = rows[:, None] != torch.arange(len(has_words), device=rows.device)
    return is_other & has_frames & (has_words[rows, None] | has_words)


@torch.no_grad()
def text_frame_similarity(model: VideoClassifier, fused: Fused, batch: Batch) -> Tensor:
    """Return the cosines of each text with the frames of the whole batch, divided by a temperature:
    (b, B). Both are means of tokens that have not attended to each other.
    """
    text, frames = (tokens.mean().float() for tokens in model.unimodal(batch, fused))
    return cosine_logits(text, gather_rows(frames, batch.rank_sizes), HARD_TEMPERATURE)


def hard_sources(similarity: Tensor, may_take: Tensor, draws: Tensor, rows: Tensor) -> Tensor:
    """Draw whose frames each video gets, with probabilities softmax(similarity): (b,) int64.

    similarity, may_take: (b, B). draws: (b,) uniform numbers. A video that may take no frames keeps
    its own, at the position `rows`, (b,).
    """
    lowest = torch.finfo(similarity.dtype).min
    shares = similarity.masked_fill(~may_take, lowest).softmax(1) * may_take
    cumulative = shares.cumsum(1)
    # the first one whose cumulative share exceeds the draw has a share itself
    drawn = (cumulative <= draws[:, None] * cumulative[:, -1:]).sum(1)
    return torch.where(may_take.any(1), drawn.clamp(max=may_take.shape[1] - 1), rows)


def binary_entropy(probability: float) -> float:
    """Return the lowest cross entropy of a constant prediction of an event with a probability."""
    shares = (probability, 1 - probability)
    return -sum(share * math.log(share) for share in shares if share > 0)
