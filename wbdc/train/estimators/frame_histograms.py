"""Histograms of oriented gradients (HOG) and of colors, averaged over the frames, and one
least-squares support vector machine per class."""

from collections.abc import Sequence

import numpy as np

from wbdc.core.errors import DataFault
from wbdc.core.image_settings import EXACT_RESIZE
from wbdc.serve.member_parts.frame_descriptors import DescriptorSettings, describe_video
from wbdc.serve.member_parts.linear_arrays import INTERCEPT, SCALE
from wbdc.train.estimator_parts.calibration import cross_validated_scale, inner_folds
from wbdc.train.estimator_parts.frame_features import check_descriptors, frame_settings_table
from wbdc.train.estimator_parts.least_squares import fit_least_squares
from wbdc.train.estimator_parts.linear_machines import LinearMachines
from wbdc.train.estimators import Estimator, FittedMember, LabeledVideos


class FrameHistograms(Estimator):
    """size: side of the frames in pixels, a multiple of `cell`. frames: number for each video.
    resize: "exact" for the pixels of Pillow, "fast" for nearly the same in a third of the time.
    cell: side of a cell of gradients in pixels; orientations: bins of their directions.
    color_levels: bins of each color channel, so that colors have color_levels^3 bins;
    color_grid: number of rows and columns of regions with a histogram each.
    penalty: of the squared weights; a smaller value fits the training videos more closely.
    """

    def __init__(
        self,
        text_fields: Sequence[str],
        *,
        size: int = 48,
        frames: int = 8,
        resize: str = EXACT_RESIZE,
        cell: int = 8,
        orientations: int = 9,
        color_levels: int = 4,
        color_grid: int = 4,
        penalty: float = 0.1,
    ):
        super().__init__(text_fields)
        self.check_between(1e-9, 1e9, penalty=penalty)
        self.penalty = penalty
        self.settings = DescriptorSettings(cell, orientations, color_levels, color_grid)
        self.frame_key = check_descriptors(self, size, frames, resize, self.settings)

    def fit(self, videos: LabeledVideos, seed: int) -> FittedMember:
        frames = videos.read_frames(self.frame_key)
        features = np.stack([describe_video(video, self.settings) for video in frames])
        if not features.any():
            raise DataFault(
                f"none of the {len(features):,} videos to fit has frames; train a kit that reads"
                " the texts, for example ngrams"
            )

        def decide(training: np.ndarray, held_out: np.ndarray) -> np.ndarray:
            machines = self._fit_rows(features, videos, training)
            return features[held_out] @ machines.weights + machines.intercept

        folds = inner_folds(videos.folds, seed)
        scale = cross_validated_scale(decide, videos.labels, folds, videos.class_count)
        machines = self._fit_rows(features, videos, np.ones(len(features), bool))
        tensors = {
            "weights": machines.weights.astype(np.float32),
            INTERCEPT: machines.intercept,
            SCALE: np.array([scale]),
        }
        facts = frame_settings_table(self.frame_key, self.settings)
        notes = {"features": features.shape[1], SCALE: round(scale, 4)}
        return FittedMember("linear_frames", facts, tensors, notes)

    def _fit_rows(
        self, features: np.ndarray, videos: LabeledVideos, rows: np.ndarray
    ) -> LinearMachines:
        return fit_least_squares(
            features[rows], videos.labels[rows], videos.class_count, penalty=self.penalty
        )
