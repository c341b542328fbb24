"""A linear classifier on descriptors of the frames, which reads no text and has no vision tower."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wbdc.core.image_settings import ImageSettings
from wbdc.serve.cache_key import cache_key
from wbdc.serve.member_parts.frame_descriptors import (
    FRAME_SETTINGS_SHAPE,
    DescriptorSettings,
    describe_video,
    descriptor_length,
)
from wbdc.serve.member_parts.linear_arrays import INTERCEPT, SCALE, explain_misfit, load_arrays
from wbdc.serve.members import FrameKey, Member, ValueBatch

WEIGHTS = "weights"


class LinearFrames(Member):
    """Decision values of one linear classifier per class, on gradients and colors of the frames.

    Members that describe frames alike, for example the folds of a run, share the descriptors.
    """

    shape = FRAME_SETTINGS_SHAPE

    def __init__(self, folder: Path, device: torch.device):
        super().__init__(folder, device)
        self.settings = DescriptorSettings(**self.facts["descriptor"])
        self.frame_key = FrameKey(
            ImageSettings.from_table(self.facts["image"]), self.facts["frames"]
        )
        self.text_key = cache_key(self.settings)  # no text is read; equal settings share a batch

        arrays = load_arrays(folder)
        missing = [name for name in (WEIGHTS, INTERCEPT, SCALE) if name not in arrays]
        if missing:
            raise explain_misfit(folder, f"{missing[0]} is missing")
        self.weights = arrays[WEIGHTS]
        self.intercept = arrays[INTERCEPT]
        self.scale = arrays[SCALE]
        if not self._check():
            raise explain_misfit(folder, "arrays of other sizes, or numbers that are not finite")

    def collate(self, ids: Sequence[str], texts: list, frames: Sequence[np.ndarray]) -> ValueBatch:
        return ValueBatch(tuple(ids), tuple(describe_video(f, self.settings) for f in frames))

    def logits(self, batch: ValueBatch, features: Tensor | None) -> Tensor:
        # one product for each video, so that the bits do not depend on the batch
        rows = [(row @ self.weights + self.intercept) * self.scale for row in batch.values]
        return torch.from_numpy(np.stack(rows))

    def _check(self) -> bool:
        """Return whether the arrays fit together and hold finite numbers."""
        width = descriptor_length(self.frame_key.image_settings.size, self.settings)
        arrays = (self.weights, self.intercept, self.scale)
        shapes = [(width, len(self.classes)), (len(self.classes),), (1,)]
        return [array.shape for array in arrays] == shapes and all(
            np.isfinite(array).all() for array in arrays
        )
