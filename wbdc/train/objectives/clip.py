"""Find the frames of a title and the title of the frames (CLIP, Radford et al., 2021; with videos:
ActionCLIP, Wang et al., 2021).
"""

import math

from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.errors import UsageFault, suggest_name
from wbdc.core.tokens import Fused
from wbdc.nets.model import VideoClassifier
from wbdc.train.objective_parts.contrastive import (
    MAX_TEMPERATURE,
    MIN_CANDIDATES,
    MIN_TEMPERATURE,
    Temperature,
    pair_losses,
)
from wbdc.train.objective_parts.modalities import (
    encode_apart,
    field_number,
    has_field,
    has_frames,
    keep_modality,
    real_words,
    restrict_text,
)
from wbdc.train.objectives import Objective, masked_mean
from wbdc.train.task import Task

CLIP_SIDES = ("before", "after", "both")


class CLIP(Objective):
    """Cross entropy over the pairs of one text field and the frames, in both directions. Videos
    without words in that field, or without frames, take no part. Nothing is masked.

    "before" compares the means of the tokens before they attend to each other, and encodes the text
    once more, because it reads one field only. "after" compares the pooled vectors of two further
    passes through the fusion, one of the text alone and one of the frames alone, as the sixth team
    of WeChat Big Data Challenge 2022 did. "both" is the mean of both losses, each with projections
    and a temperature of its own.

    weight: factor of this loss in the sum. field: name of the text field. fusion: where text and
    frames are compared, "before" the fusion, "after" it, or "both". dim: width of the projections.
    temperature: the initial value; it is learned and stays between 0.01 and 0.5.
    """

    def __init__(
        self,
        model: VideoClassifier,
        task: Task,
        *,
        weight: float = 1.0,
        field: str = "title",
        fusion: str = "before",
        dim: int = 256,
        temperature: float = 0.07,
    ):
        super().__init__(model, task, weight=weight)
        self.check_between(1, math.inf, dim=dim)
        self.check_between(MIN_TEMPERATURE, MAX_TEMPERATURE, temperature=temperature)
        if fusion not in CLIP_SIDES:
            hint = suggest_name(fusion, list(CLIP_SIDES))
            raise UsageFault(f"objective 'clip': fusion cannot be {fusion!r}{hint}")
        self.field = field_number(task, field, "objective 'clip'")
        self.videos = max(MIN_CANDIDATES, task.batch_size)
        self.chance = math.log(self.videos)
        sides = CLIP_SIDES[:2] if fusion == "both" else (fusion,)
        width = model.trunk.dim
        self.text = nn.ModuleDict({side: nn.Linear(width, dim) for side in sides})
        self.frames = nn.ModuleDict({side: nn.Linear(width, dim) for side in sides})
        self.temperatures = nn.ModuleDict({side: Temperature(temperature) for side in sides})

    def loss(self, model: VideoClassifier, fused: Fused, batch: Batch, original: Batch) -> Tensor:
        """Return the average over the videos with that field and frames, or 0."""
        is_title = real_words(original) & (original.text_field == self.field)
        titles = restrict_text(original, is_title)
        losses = []
        if "before" in self.temperatures:
            text, frames = encode_apart(model, titles, fused)
            losses.append(self._losses("before", text.mean(), frames.mean(), original))
        if "after" in self.temperatures:
            text_alone = model.fuse(keep_modality(titles, "text"))
            frames_alone = model.fuse(keep_modality(titles, "frames"))
            losses.append(self._losses("after", text_alone.pooled, frames_alone.pooled, original))
        return masked_mean(sum(losses) / len(losses), self._is_valid(original))

    def count(self, batch: Batch) -> Tensor:
        """Return the number of videos with that field and frames."""
        return self._is_valid(batch).sum()

    def after_step(self, step: int) -> None:
        """Clamp the temperatures."""
        for temperature in self.temperatures.values():
            temperature.clamp_()

    def _losses(self, side: str, text: Tensor, frames: Tensor, original: Batch) -> Tensor:
        """Return the losses of vectors of text and frames, (B, D) each: (B,) float32."""
        return pair_losses(
            self.text[side](text),
            self.frames[side](frames),
            self._is_valid(original),
            self.temperatures[side](),
            self.videos,
            original.rank_sizes,
        )

    def _is_valid(self, batch: Batch) -> Tensor:
        """Return which videos count: (B,) bool."""
        return has_field(batch, self.field) & has_frames(batch)
