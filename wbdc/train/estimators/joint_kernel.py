"""Kernel machines on the n-grams of the texts and the histograms of the frames together, one for
each class and one for each level-1 class."""

import math
from collections.abc import Sequence

import numpy as np

from wbdc.core.errors import DataFault, UsageFault
from wbdc.core.image_settings import EXACT_RESIZE
from wbdc.serve.member_parts.frame_descriptors import DescriptorSettings, describe_video
from wbdc.serve.member_parts.frame_kernel import DescribedVideos
from wbdc.serve.member_parts.linear_arrays import INTERCEPT, SCALE
from wbdc.serve.member_parts.ngrams import count_ngrams
from wbdc.train.estimator_parts.calibration import (
    fit_scale,
    held_out_decisions,
    inner_folds,
    scaled_likelihood,
)
from wbdc.train.estimator_parts.frame_features import check_descriptors, frame_settings_table
from wbdc.train.estimator_parts.kernel_machines import fit_kernel_machines
from wbdc.train.estimator_parts.kernel_space import KernelSpace, ReadVideos, choose_centers
from wbdc.train.estimator_parts.linear_machines import LinearMachines
from wbdc.train.estimator_parts.text_features import (
    check_ngrams,
    fit_vectorizers,
    settings_table,
)
from wbdc.train.estimators import Estimator, FittedMember, LabeledVideos


class JointKernel(Estimator):
    """fields, char, word, char_wb, min_count, max_features, sublinear, max_characters: the n-grams
    of the texts, as `ngrams` reads them.
    size, frames, resize, cell, orientations, color_levels, color_grid: the frames, as
    `frame_histograms` describes them.
    penalties: of the squared weights, of which the one with the best held-out likelihood in an
    inner cross-validation is used.
    group_weight: of the machine of a level-1 class in the decision values of its classes; 0 for
    none. It has no effect in a contest whose classes have no groups.
    max_centers: number of training videos that a video is compared with; with more videos, so many
    are drawn at random. Serving time and the size of the model grow with it.
    """

    def __init__(
        self,
        text_fields: Sequence[str],
        *,
        fields: list[str] | None = None,
        char: list[int] = (1, 3),
        word: list[int] = (),
        char_wb: list[int] = (),
        min_count: int = 1,
        max_features: int = 500_000,
        sublinear: bool = True,
        max_characters: int = 4000,
        size: int = 48,
        frames: int = 8,
        resize: str = EXACT_RESIZE,
        cell: int = 8,
        orientations: int = 9,
        color_levels: int = 4,
        color_grid: int = 4,
        penalties: list[float] = (0.03, 0.1, 0.3, 1.0),
        group_weight: float = 1.0,
        max_centers: int = 2000,
    ):
        super().__init__(text_fields)
        self.check_between(1, math.inf, min_count=min_count, max_features=max_features)
        self.check_between(1, math.inf, max_characters=max_characters)
        self.check_between(0, 100, group_weight=group_weight)
        self.check_between(2, 20_000, max_centers=max_centers)
        if not penalties:
            raise UsageFault("estimator 'joint_kernel': penalties is empty; give at least one")
        for penalty in penalties:
            self.check_between(1e-6, 1e6, penalties=penalty)
        self.min_count = min_count
        self.max_features = max_features
        self.penalties = tuple(penalties)
        self.group_weight = group_weight
        self.max_centers = max_centers
        lengths = {"char": char, "word": word, "char_wb": char_wb}
        self.ngrams = check_ngrams(self, fields, lengths, max_characters, sublinear)
        self.descriptor = DescriptorSettings(cell, orientations, color_levels, color_grid)
        self.frame_key = check_descriptors(self, size, frames, resize, self.descriptor)

    def fit(self, videos: LabeledVideos, seed: int) -> FittedMember:
        inputs = self._read(videos)

        def decide(training: np.ndarray, held_out: np.ndarray) -> np.ndarray:
            """Return the decision values for each penalty, (k, P, C)."""
            rows = np.flatnonzero(training)
            space, machines = self._fit_rows(inputs, videos, rows, seed, self.penalties)
            kernel = space.compare(inputs.select(np.flatnonzero(held_out)))
            return np.stack([kernel @ m.weights + m.intercept for m in machines], 1)

        folds = inner_folds(videos.folds, seed)
        penalty, scale = self._choose_penalty(
            *held_out_decisions(decide, videos.labels, folds), videos
        )
        rows = np.arange(len(videos.labels))
        space, machines = self._fit_rows(inputs, videos, rows, seed, (penalty,))
        facts = {
            "ngrams": settings_table(self.ngrams, space.vectorizers),
            **frame_settings_table(self.frame_key, self.descriptor),
        }
        notes = {"centers": len(space.frames.squares), "penalty": penalty, SCALE: round(scale, 4)}
        tensors = space.to_tensors() | {
            "coefficients": machines[0].weights,
            INTERCEPT: machines[0].intercept,
            SCALE: np.array([scale]),
        }
        return FittedMember("kernel_machine", facts, tensors, notes)

    def _read(self, videos: LabeledVideos) -> ReadVideos:
        frames = videos.read_frames(self.frame_key)
        descriptors = [describe_video(video, self.descriptor) for video in frames]
        counts = [count_ngrams(texts, self.ngrams) for texts in videos.texts]
        return ReadVideos(counts, DescribedVideos.of(np.stack(descriptors).astype(np.float32)))

    def _choose_penalty(
        self, decisions: np.ndarray, rows: np.ndarray, videos: LabeledVideos
    ) -> tuple[float, float]:
        """Return the penalty with the highest held-out likelihood, and its scale.

        decisions: (m, P, C) of the videos of rows (m,); the first penalty without any.
        """
        if not len(rows):
            return self.penalties[0], 1.0
        labels = videos.labels[rows]
        scales = [fit_scale(decisions[:, i], labels) for i in range(len(self.penalties))]
        best = max(
            range(len(scales)),
            key=lambda i: scaled_likelihood(decisions[:, i], labels, scales[i]),
        )
        return self.penalties[best], scales[best]

    def _fit_rows(
        self,
        inputs: ReadVideos,
        videos: LabeledVideos,
        rows: np.ndarray,
        seed: int,
        penalties: Sequence[float],
    ) -> tuple[KernelSpace, list[LinearMachines]]:
        """Fit machines to some videos, (m,) int, for each penalty."""
        training = inputs.select(rows)
        vectorizers = fit_vectorizers(
            training.counts, self.ngrams, self.min_count, self.max_features
        )
        if not vectorizers and not training.frames.squares.any():
            raise DataFault(
                f"none of the {len(rows):,} videos to fit has frames, and no n-gram of"
                f" {', '.join(self.ngrams.fields)} is in {self.min_count} of them; lower min_count,"
                " or choose other fields"
            )
        centers = choose_centers(len(rows), self.max_centers, seed)
        space = KernelSpace.of(vectorizers, training.select(centers))
        center_kernel = space.compare(training.select(centers))
        kernel = space.compare(training) if len(center_kernel) < len(rows) else center_kernel
        machines = fit_kernel_machines(
            kernel,
            center_kernel,
            videos.labels[rows],
            videos.class_count,
            penalties=penalties,
            parents=videos.parents,
            group_weight=self.group_weight,
        )
        return space, machines
