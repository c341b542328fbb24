"""Soft labels by prediction: the blended probabilities of a fold's teachers."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl

from wbdc.core.progress import no_progress
from wbdc.ensemble.out_of_fold import ServingHardware, out_of_fold_predictions
from wbdc.ensemble.pseudo.raw_videos import RawVideos
from wbdc.ensemble.pseudo.teachers import FoldWeights, Teachers, fold_weights
from wbdc.prepare.dataset import PreparedData
from wbdc.serve.blend import blend_probabilities
from wbdc.serve.engine import InferenceEngine
from wbdc.train.runs import ALL_FOLDS


class PredictedLabels:
    """Labels videos with the code that serves, every frame read once for all teachers.

    data: folder of the raw data. folds: those to label videos for.
    """

    def __init__(
        self,
        teachers: Teachers,
        prepared: PreparedData,
        data: Path,
        folds: Sequence[str],
        hardware: ServingHardware,
    ):
        self.teachers = teachers

        @cache
        def read_oof(i: int) -> pl.DataFrame:
            member = teachers.members[i]
            return out_of_fold_predictions(member, data, prepared.contest, hardware, no_progress)

        self.weights = {fold: fold_weights(teachers, fold, read_oof) for fold in folds}
        members = teachers.members
        served = [members[i].serve for i, _ in teachers.models]
        folders = teachers.folders()
        self.engine = InferenceEngine(folders, [1.0] * len(folders), *hardware, served=served)
        self.videos = RawVideos(prepared, data)

    def label(
        self, split: str, ids: Sequence[str], held_out: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        """Return the probabilities of some videos for each fold: {fold: (n, C) float32}.

        held_out: (n,) the fold that each labeled video belongs to, None for an unlabeled split. The
        rows of videos that a fold may not use are zeros. Raises DataFault for a video that the
        data lack.
        """
        videos = self.videos.find(split, ids)
        groups = self.engine.groups(videos)
        scores = self.engine.score(videos, groups).probabilities
        shape = (len(self.teachers.models), len(videos), len(self.engine.classes))
        members = np.zeros(shape, np.float32)
        for number, rows in groups.items():
            members[:, rows] = np.stack(scores[number])
        models = [fold for _, fold in self.teachers.models]
        return {
            fold: blend_for_fold(members, models, self.weights[fold], fold, held_out)
            for fold in self.weights
        }


def blend_for_fold(
    members: np.ndarray,
    models: Sequence[str],
    weights: FoldWeights,
    fold: str,
    held_out: np.ndarray | None,
) -> np.ndarray:
    """Blend the models that may label videos for a fold: (n, C) float32.

    members: (K, n, C), the probabilities of K models; models: the fold that each held out; weights:
    of the teachers of `fold`, by their positions. held_out: (n,) str, the fold of each labeled
    video; None for videos without labels.

    A labeled video of `fold` itself is not labeled: its row is zeros. For "all", whose score no
    video checks, each labeled video is labeled by the models that held it out alone, so that the
    labels are as uncertain as those of a new video; without such a model, its row is zeros.
    """
    shares = weights.values
    sharpness = weights.sharpness
    if held_out is None:
        return blend_probabilities([members[p] for p in shares], [*shares.values()], sharpness)

    blended = np.zeros(members.shape[1:], np.float32)
    for group in np.unique(held_out):
        rows = held_out == group
        chosen = [p for p in shares if fold != ALL_FOLDS or models[p] == group]
        if group != fold and chosen:
            chosen_members = [members[p][rows] for p in chosen]
            chosen_shares = [shares[p] for p in chosen]
            blended[rows] = blend_probabilities(chosen_members, chosen_shares, sharpness)
    return blended
