"""Soft labels by retrieval: the nearest labeled videos vote (a team of the challenge)."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from wbdc.competitions import Video
from wbdc.core.device import autocast
from wbdc.core.errors import UsageFault
from wbdc.ensemble.out_of_fold import ServingHardware
from wbdc.ensemble.pseudo.predict_labels import blend_for_fold
from wbdc.ensemble.pseudo.raw_videos import RawVideos
from wbdc.ensemble.pseudo.teachers import FoldWeights, Teachers
from wbdc.ensemble.shared_rows import label_codes
from wbdc.prepare.dataset import PreparedData
from wbdc.serve.engine import InferenceEngine
from wbdc.serve.members import MemberBatch
from wbdc.serve.members.network import Network
from wbdc.serve.predict import compute_in_parts
from wbdc.serve.reader import MemberBatches, prefetch_reads
from wbdc.serve.stage_timer import StageTimer
from wbdc.train.monitor.nearest_neighbors import neighbor_votes

ROWS_PER_STEP = 2**13  # labeled videos that are embedded together


class RetrievedLabels:
    """Labels videos by the labeled ones that are nearest in the pooled vectors of a fold's model.

    The model that held out fold k compares with the videos of the other folds alone.

    data: folder of the raw data. folds: those to label videos for. Raises UsageFault for an
    ensemble, whose members have different vectors, and for a run that is no network.
    """

    def __init__(
        self,
        teachers: Teachers,
        prepared: PreparedData,
        data: Path,
        folds: Sequence[str],
        hardware: ServingHardware,
        *,
        neighbors: int,
        temperature: float,
    ):
        self.teachers = teachers
        self.videos = RawVideos(prepared, data)
        self.folds = folds
        self.neighbors = neighbors
        self.temperature = temperature
        folders = teachers.folders()
        self.engine = InferenceEngine(folders, [1.0] * len(folders), *hardware)
        if len(teachers.members) > 1 or not _has_pooled_vectors(self.engine):
            raise UsageFault(
                f"{teachers.name} is not one network, whose vectors could be compared; give a run "
                "of a network with --from, or use --how predict"
            )
        split = prepared.facts.labeled_split
        table = prepared.read_split(split, ["id", "label"])
        self.ids = table["id"].to_list()
        self.codes = label_codes(table["label"].to_list(), prepared.facts.classes)
        self.held_out = prepared.read_folds().astype(str)
        self.vectors = np.concatenate(
            [
                self._embed(self.videos.find(split, self.ids[start : start + ROWS_PER_STEP]))
                for start in range(0, len(self.ids), ROWS_PER_STEP)
            ],
            axis=1,
        )

    def label(
        self, split: str, ids: Sequence[str], held_out: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        """Return the votes for some videos for each fold, as `PredictedLabels.label` does."""
        queries = self._embed(self.videos.find(split, ids))
        models = [fold for _, fold in self.teachers.models]
        votes = np.stack([self._vote(p, queries[p], ids) for p in range(len(models))])
        shares = {
            fold: FoldWeights(dict.fromkeys(self.teachers.models_of(fold), 1.0), 0.0)
            for fold in self.folds
        }
        return {
            fold: blend_for_fold(votes, models, shares[fold], fold, held_out) for fold in self.folds
        }

    def _vote(self, position: int, queries: np.ndarray, ids: Sequence[str]) -> np.ndarray:
        """Let the videos that a model was trained on vote for others."""
        _, fold = self.teachers.models[position]
        trained = np.flatnonzero(self.held_out != fold)
        rows = {self.ids[row]: number for number, row in enumerate(trained)}
        return neighbor_votes(
            self.vectors[position][trained],
            self.codes[trained],
            queries,
            len(self.engine.classes),
            neighbors=self.neighbors,
            temperature=self.temperature,
            query_rows=np.array([rows.get(name, -1) for name in ids]),
        )

    @torch.no_grad()
    def _embed(self, videos: list[Video]) -> np.ndarray:
        """Return the pooled vectors of videos by each model: (K, n, D) float32."""
        engine = self.engine
        width = engine.members[0].model.head.in_features
        vectors = np.zeros((len(engine.members), len(videos), width), np.float32)
        groups = engine.groups(videos)
        stages = StageTimer()

        def read(number: int) -> MemberBatches:
            chosen = [videos[row] for row in groups[number]]
            return engine.reader.read(chosen, range(len(engine.members)), stages)

        with ThreadPoolExecutor(engine.threads) as pool:
            reads = prefetch_reads(pool, list(groups), read, engine.read_ahead, lambda: None)
            for number, (batches, _) in reads:
                for i, batch in engine.move(batches).items():
                    vectors[i, groups[number]] = self._pool(i, batch)
        return vectors

    def _pool(self, i: int, batch: MemberBatch) -> np.ndarray:
        """Return the pooled vectors of a batch by a model, in parts when memory runs out."""
        member = self.engine.members[i]
        batch = member.drop_modality(batch)

        def compute(rows: slice) -> np.ndarray:
            with autocast(self.engine.device, self.engine.precision):
                return member.model(batch.select(rows)).pooled.float().cpu().numpy()

        return np.concatenate(compute_in_parts(compute, len(batch), self.engine.parts))


def _has_pooled_vectors(engine: InferenceEngine) -> bool:
    return isinstance(engine.members[0], Network)
