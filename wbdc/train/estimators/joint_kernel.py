"""Kernel machines on the n-grams of the texts and the histograms of the frames together, one for
each class and one for each level-1 class."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from wbdc.core.errors import DataFault, UsageFault
from wbdc.core.image_settings import EXACT_RESIZE
from wbdc.serve.member_parts.frame_descriptors import DescriptorSettings, describe_video
from wbdc.serve.member_parts.frame_kernel import (
    DescribedVideos,
    frame_kernel,
    squared_distances,
)
from wbdc.serve.member_parts.linear_arrays import INTERCEPT, SCALE
from wbdc.serve.member_parts.ngrams import ANALYZERS, NgramSettings, count_ngrams
from wbdc.serve.member_parts.sparse_linear import SparseWeights
from wbdc.train.estimator_parts.calibration import (
    fit_scale,
    held_out_decisions,
    inner_folds,
    scaled_likelihood,
)
from wbdc.train.estimator_parts.frame_features import check_descriptors
from wbdc.train.estimator_parts.kernel_machines import fit_kernel_machines
from wbdc.train.estimator_parts.linear_machines import LinearMachines
from wbdc.train.estimator_parts.text_features import (
    Vectorizers,
    check_fields,
    check_lengths,
    fit_vectorizers,
    settings_table,
    tfidf_features,
    vocabulary_tensors,
)
from wbdc.train.estimators import Estimator, FittedMember, LabeledVideos


class Inputs(NamedTuple):
    """What is read of n videos. counts: of `count_ngrams`; frames: their descriptors."""

    counts: list[dict]
    frames: DescribedVideos

    def select(self, rows: np.ndarray) -> "Inputs":
        """Return some of the videos. rows: (m,) int."""
        counts = [self.counts[i] for i in rows]
        return Inputs(counts, DescribedVideos(*(array[rows] for array in self.frames)))


class Space(NamedTuple):
    """The centers that videos are compared with.

    vectorizers: fitted to all training videos. texts: TF-IDF of the m centers, (m, U),
    None without any n-gram; frames: their descriptors; width: of the kernel of frames.
    """

    vectorizers: Vectorizers
    texts: csr_matrix | None
    frames: DescribedVideos
    width: float

    def compare(self, videos: Inputs) -> np.ndarray:
        """Return the kernel of n videos and the centers, (n, m) float64."""
        kernel = frame_kernel(videos.frames, self.frames, self.width)
        if self.texts is None:
            return kernel
        texts = tfidf_features(self.vectorizers, videos.counts)
        return kernel + (texts @ self.texts.T).toarray() / len(self.vectorizers)


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
        analyzers = dict(zip(ANALYZERS, (char, word, char_wb), strict=True))
        self.ngrams = NgramSettings(
            check_fields(self, fields), check_lengths(self, analyzers), max_characters, sublinear
        )
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
            "image": self.frame_key.image_settings.to_table(),
            "frames": self.frame_key.frames,
            "descriptor": self.descriptor._asdict(),
        }
        notes = {"centers": len(space.frames.squares), "penalty": penalty, SCALE: round(scale, 4)}
        tensors = _space_tensors(space) | {
            "coefficients": machines[0].weights,
            INTERCEPT: machines[0].intercept,
            SCALE: np.array([scale]),
        }
        return FittedMember("kernel_machine", facts, tensors, notes)

    def _read(self, videos: LabeledVideos) -> Inputs:
        frames = videos.read_frames(self.frame_key)
        descriptors = [describe_video(video, self.descriptor) for video in frames]
        counts = [count_ngrams(texts, self.ngrams) for texts in videos.texts]
        return Inputs(counts, DescribedVideos.of(np.stack(descriptors).astype(np.float32)))

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
        inputs: Inputs,
        videos: LabeledVideos,
        rows: np.ndarray,
        seed: int,
        penalties: Sequence[float],
    ) -> tuple[Space, list[LinearMachines]]:
        """Fit machines to some videos, (m,) int, for each penalty."""
        training = inputs.select(rows)
        space, center_kernel = self._choose_centers(training, seed)
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

    def _choose_centers(self, training: Inputs, seed: int) -> tuple[Space, np.ndarray]:
        """Return centers among the training videos, and their kernel (m, m). Raises DataFault."""
        count = len(training.counts)
        centers = np.arange(count)
        if count > self.max_centers:
            drawn = np.random.default_rng(seed).choice(count, self.max_centers, replace=False)
            centers = np.sort(drawn)
        vectorizers = fit_vectorizers(
            training.counts, self.ngrams, self.min_count, self.max_features
        )
        chosen = training.select(centers)
        if not vectorizers and not training.frames.squares.any():
            raise DataFault(
                f"none of the {count:,} videos to fit has frames, and no n-gram of"
                f" {', '.join(self.ngrams.fields)} is in {self.min_count} of them; lower min_count,"
                " or choose other fields"
            )
        texts = tfidf_features(vectorizers, chosen.counts) if vectorizers else None
        space = Space(vectorizers, texts, chosen.frames, _median_distance(chosen.frames))
        return space, space.compare(chosen)


def _median_distance(videos: DescribedVideos) -> float:
    """Return the median squared distance of two videos with frames, or 1 if that is 0."""
    described = DescribedVideos(*(array[videos.squares > 0] for array in videos))
    pairs = np.triu_indices(len(described.squares), 1)
    distances = squared_distances(described, described)[pairs]
    median = float(np.median(distances)) if len(distances) else 0.0
    return median if median > 0 else 1.0


def _space_tensors(space: Space) -> dict[str, np.ndarray]:
    """Return the arrays of the centers; their TF-IDF is stored by n-gram, as sparse weights."""
    tensors = {"descriptors": space.frames.descriptors, "width": np.array([space.width])}
    start = 0
    for name, vectorizer in space.vectorizers.items():
        size = len(vectorizer.vocabulary_)
        columns = space.texts[:, start : start + size].T.tocsr()
        weights = SparseWeights.from_compressed(columns.indptr, columns.indices, columns.data)
        tensors |= vocabulary_tensors(name, vectorizer) | weights.to_tensors(name)
        start += size
    return tensors
