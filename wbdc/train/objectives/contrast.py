"""Find the frames of a text and the text of the frames among the videos of a batch (image-text
contrast: InfoNCE, van den Oord et al., 2018; CLIP, Radford et al., 2021).
"""

import math

import torch
from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.errors import UsageFault
from wbdc.core.tokens import Fused
from wbdc.nets.model import VideoClassifier
from wbdc.train.objective_parts.contrastive import (
    MAX_TEMPERATURE,
    MIN_CANDIDATES,
    MIN_TEMPERATURE,
    Temperature,
    cosine_logits,
    info_nce,
    pair_losses,
    soft_partners,
    whole_batch_positions,
)
from wbdc.train.objective_parts.key_queue import KeyQueue, PairKeys
from wbdc.train.objective_parts.modalities import encode_apart, is_pair, is_unmasked
from wbdc.train.objective_parts.momentum import MomentumEncoder, ramped_share
from wbdc.train.objectives import Objective, masked_mean
from wbdc.train.task import Task


class Contrast(Objective):
    """Cross entropy over all pairs of a batch, in both directions: the means of the text tokens and
    of the frame tokens, before they attend to each other, are projected and compared by cosine.
    Videos without words or without frames take no part.

    With a queue or with distillation, the candidates are keys of a momentum encoder, as in MoCo (He
    et al., 2020) and ALBEF (Li et al., 2021). The encoder copies the trunk, the fusion and the
    projections, and reads the features of the trained vision tower. It is neither trained nor
    exported.

    weight: factor of this loss in the sum. dim: width of the projections. temperature: the initial
    value; it is learned and stays between 0.01 and 0.5. share_pass: whether to use the forward pass
    that all objectives share, in which others may have masked words or frames; false: run a further
    pass on the unmasked videos if they did, as ALBEF does. queue: number of vectors of earlier
    batches that are candidates, too; 0: none. It must be smaller than the number of videos.
    momentum: share of its weights that the momentum encoder keeps at each step. distill: share of
    the target that is the momentum encoder's prediction; 0: none; ALBEF uses 0.4. ramp: share of
    the steps over which `distill` rises from 0; 0.1 is the first of ten epochs.
    """

    def __init__(
        self,
        model: VideoClassifier,
        task: Task,
        *,
        weight: float = 1.0,
        dim: int = 256,
        temperature: float = 0.07,
        share_pass: bool = True,
        queue: int = 0,
        momentum: float = 0.995,
        distill: float = 0.0,
        ramp: float = 0.1,
    ):
        super().__init__(model, task, weight=weight)
        self.check_between(1, math.inf, dim=dim)
        self.check_between(MIN_TEMPERATURE, MAX_TEMPERATURE, temperature=temperature)
        self.check_between(0, 1, momentum=momentum, distill=distill, ramp=ramp)
        self.check_between(0, math.inf, queue=queue)
        _check_queue(queue, task)

        self.share_pass = share_pass
        self.momentum = momentum
        self.distill = distill
        self.ramp_steps = ramp * task.total_steps
        self.candidates = max(MIN_CANDIDATES, task.batch_size) + queue
        self.chance = math.log(self.candidates)
        self.text = nn.Linear(model.trunk.dim, dim)
        self.frames = nn.Linear(model.trunk.dim, dim)
        self.temperature = Temperature(temperature)
        has_encoder = bool(queue or distill)
        self.encoder = MomentumEncoder(model, self.text, self.frames) if has_encoder else None
        self.queue = KeyQueue(queue, dim) if has_encoder else None
        self._teacher_share = 0.0

    def loss(self, model: VideoClassifier, fused: Fused, batch: Batch, original: Batch) -> Tensor:
        """Return the average over the videos with words and frames, or 0 when there is none."""
        if self.share_pass or is_unmasked(batch, original):
            text, frames = model.unimodal(batch, fused)
        else:
            text, frames = encode_apart(model, original, fused)
        x = self.text(text.mean())
        y = self.frames(frames.mean())
        if self.encoder is None:
            temperature = self.temperature()
            sizes = original.rank_sizes
            losses = pair_losses(x, y, is_pair(original), temperature, self.candidates, sizes)
        else:
            own_keys = PairKeys(*self.encoder(original, fused), is_pair(original))
            losses = self._losses_of_keys(x, y, own_keys, original)
        return masked_mean(losses, is_pair(original))

    def count(self, batch: Batch) -> Tensor:
        """Return the number of videos with words and frames."""
        return is_pair(batch).sum()

    def before_step(self, step: int) -> None:
        """Let the share of the teacher grow with the steps."""
        self._teacher_share = ramped_share(self.distill, step, self.ramp_steps)
        if self.queue is not None:
            self.queue.discard()  # of a step that was skipped

    def after_step(self, step: int) -> None:
        """Clamp the temperature; move the momentum encoder; queue the keys of the step."""
        self.temperature.clamp_()
        if self.encoder is not None:
            self.encoder.move(self.momentum)
            self.queue.push()

    def _losses_of_keys(self, x: Tensor, y: Tensor, own_keys: PairKeys, original: Batch) -> Tensor:
        """Return the losses against the keys of the momentum encoder: (B,) float32.

        x, y: (B, dim), the projections of text and frames. own_keys: those of the same videos.
        """
        keys = own_keys.gather(original.rank_sizes)
        self.queue.add(original.ids, keys)
        candidates = self.queue.append_to(keys)
        partners = whole_batch_positions(x, original.rank_sizes)
        to_y = self._losses_to(candidates.frames, x, own_keys.text, partners, candidates.is_pair)
        to_x = self._losses_to(candidates.text, y, own_keys.frames, partners, candidates.is_pair)
        return (to_x + to_y) / 2

    def _losses_to(
        self, candidates: Tensor, anchors: Tensor, teacher: Tensor, partners: Tensor, mask: Tensor
    ) -> Tensor:
        """Return the losses of one direction: (B,) float32.

        candidates: (m, dim), with mask (m,) bool. anchors: (B, dim); teacher: (B, dim), their keys.
        """
        temperature = self.temperature()
        if self._teacher_share:
            with torch.no_grad():
                teacher_logits = cosine_logits(teacher, candidates, temperature, mask)
                partners = soft_partners(partners, teacher_logits, self._teacher_share)
        return info_nce(anchors, candidates, partners, temperature, mask, self.candidates)


def _check_queue(queue: int, task: Task) -> None:
    """Refuse a queue in which a video would be compared with its own key of the previous epoch.
    Raises UsageFault.
    """
    videos = len(task.ids)
    if videos and queue and queue + task.batch_size > videos:
        raise UsageFault(
            f"objective 'contrast': queue = {queue} and a batch of {task.batch_size} exceed the "
            f"{videos} training videos, so a video would be compared with its own vector of the "
            f"previous epoch; lower queue to {max(0, videos - task.batch_size)} or less"
        )
