"""A kernel classifier on the n-grams of the texts and the descriptors of the frames together."""

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
from wbdc.serve.member_parts.frame_kernel import DescribedVideos, frame_kernel
from wbdc.serve.member_parts.linear_arrays import INTERCEPT, SCALE, explain_misfit, load_arrays
from wbdc.serve.member_parts.ngram_weights import NgramWeights
from wbdc.serve.member_parts.ngrams import (
    NGRAM_SETTINGS_SHAPE,
    NgramCounts,
    count_ngrams,
    read_settings,
)
from wbdc.serve.members import FrameKey, Member, ValueBatch


class KernelMachine(Member):
    """Decision values that add up coefficients of the training videos, the centers, each times its
    similarity to a video: the cosine of the TF-IDF of n-grams plus a Gaussian kernel of the frames.

    Members that read alike, for example the folds of a run, share counting and descriptors.
    """

    shape = {"ngrams": NGRAM_SETTINGS_SHAPE, **FRAME_SETTINGS_SHAPE}

    def __init__(self, folder: Path, device: torch.device):
        super().__init__(folder, device)
        self.ngrams = read_settings(self.facts["ngrams"])
        self.descriptor = DescriptorSettings(**self.facts["descriptor"])
        image = ImageSettings.from_table(self.facts["image"])
        self.frame_key = FrameKey(image, self.facts["frames"])
        self.text_key = cache_key(self.ngrams, self.descriptor)

        arrays = load_arrays(folder)
        try:
            self.parts = {
                name: NgramWeights.from_tensors(arrays, name) for name in self.ngrams.analyzers
            }
            self.centers = DescribedVideos.of(arrays["descriptors"])
            self.width = arrays["width"]
            self.coefficients = arrays["coefficients"]
            self.intercept = arrays[INTERCEPT]
            self.scale = arrays[SCALE]
            is_intact = self._check()
        except (KeyError, ValueError) as error:
            raise explain_misfit(folder, str(error)) from error
        if not is_intact:
            raise explain_misfit(folder, "arrays of other sizes, or numbers that are not finite")

    def encode_text(self, fields: Sequence[dict[str, str]]) -> list[NgramCounts]:
        return [count_ngrams(texts, self.ngrams) for texts in fields]

    def collate(
        self, ids: Sequence[str], texts: list[NgramCounts], frames: Sequence[np.ndarray]
    ) -> ValueBatch:
        described = [describe_video(video, self.descriptor).astype(np.float32) for video in frames]
        return ValueBatch(tuple(ids), tuple(zip(texts, described, strict=True)))

    def logits(self, batch: ValueBatch, features: Tensor | None) -> Tensor:
        # one product for each video, so that the bits do not depend on the batch
        return torch.from_numpy(np.stack([self._decide(*values) for values in batch.values]))

    def _decide(self, counts: NgramCounts, descriptor: np.ndarray) -> np.ndarray:
        """Return the scaled decision value of each class for one video, (C,) float64."""
        video = DescribedVideos.of(descriptor[None])
        kernel = frame_kernel(video, self.centers, self.width[0])[0]
        for analyzer, part in self.parts.items():
            cosines = part.product(counts[analyzer], self.ngrams.sublinear, len(kernel))
            kernel += cosines / len(self.parts)
        # by torch, as in `frame_kernel`
        decisions = torch.from_numpy(kernel) @ torch.from_numpy(self.coefficients)
        return (decisions.numpy() + self.intercept) * self.scale

    def _check(self) -> bool:
        """Return whether the arrays fit together and hold finite numbers."""
        values = descriptor_length(self.frame_key.image_settings.size, self.descriptor)
        classes = len(self.classes)
        descriptors = self.centers.descriptors
        centers = len(descriptors)
        arrays = (descriptors, self.coefficients, self.intercept, self.width, self.scale)
        shapes = [(centers, values), (centers, classes), (classes,), (1,), (1,)]
        return (
            [array.shape for array in arrays] == shapes
            and all(np.isfinite(array).all() for array in arrays)
            and self.width[0] > 0
            and all(part.check(centers) for part in self.parts.values())
        )
