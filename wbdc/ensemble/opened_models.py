"""Runs and ensembles as Python objects that predict: `wbdc.open_run`, `wbdc.open_ensemble`."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from wbdc.competitions import Competition, Video
from wbdc.core.device import find_device, use_threads
from wbdc.core.errors import UsageFault
from wbdc.core.findings import Findings
from wbdc.ensemble.oof_table import oof_table
from wbdc.ensemble.run_summary import RunSummary, summarize_run
from wbdc.ensemble.saved_ensembles import open_contest, open_ensemble, open_report, run_blend
from wbdc.serve.blend_file import Blend
from wbdc.serve.engine import InferenceEngine
from wbdc.serve.entry import load_engine, multiply_classes
from wbdc.train.runs import Run, open_run


class OpenedModels:
    """The models of a run or an ensemble, loaded when they first predict.

    name: of the run or the ensemble. blend: models and weights. contest: the competition.
    """

    def __init__(
        self,
        name: str,
        home: Path,
        blend: Blend,
        contest: Competition,
        device: str,
        precision: str | None,
        threads: int | None,
    ):
        self.name = name
        self.home = home
        self.blend = blend
        self.contest = contest
        self.device = find_device(blend.device_name(device))
        self.precision = precision
        self.threads = threads
        self._engine: InferenceEngine | None = None

    @property
    def engine(self) -> InferenceEngine:
        """The engine that a submission also predicts with. Raises IntegrityFault when a model is
        damaged, UsageFault for members from outside wbdc, which have no model.
        """
        if self._engine is None:
            if self.blend.outside:
                names = ", ".join(member.name for member in self.blend.outside)
                raise UsageFault(
                    f"ensemble {self.name} has members without a model ({names}); predict with "
                    "`wbdc predict --with FILE`"
                )
            threads = use_threads(self.threads)
            self._engine = load_engine(self.home, self.blend, self.device, self.precision, threads)
        return self._engine

    @property
    def classes(self) -> list[str]:
        """The ids of the C classes, in the order of the probabilities."""
        return self.engine.classes

    def predict(self, videos: Sequence[Video]) -> pl.DataFrame:
        """Predict videos with the code that a submission runs: same bits.

        Returns one row for each video, in their order: id, prediction (str), probability (of the
        prediction) and p, the probabilities (C float32). Damage in the data is skipped, as in a
        submission. Raises ResultFault for scores that are not finite.
        """
        predictions = multiply_classes(self.engine.predict(videos), self.blend)
        codes = predictions.probabilities.argmax(axis=1)
        p = pl.Series(predictions.probabilities, dtype=pl.Array(pl.Float32, len(self.classes)))
        return pl.DataFrame(
            {
                "id": pl.Series([video.id for video in videos], dtype=pl.String),
                "prediction": pl.Series([self.classes[i] for i in codes], dtype=pl.String),
                "probability": predictions.probabilities.max(axis=1),
                "p": p,
            }
        )

    def videos(self, data: str | Path, split: str) -> list[Video]:
        """List the videos of a split of a data folder. Raises UsageFault, DataFault."""
        return list(self.contest.videos(Path(data), split, Findings()))


class OpenedRun(OpenedModels):
    """A run: the mean of its finished folds. run: on disk."""

    def __init__(self, run: Run, device: str, precision: str | None, threads: int | None):
        work = run.folder.parent.parent
        super().__init__(
            run.name, work, run_blend(work, run), run.contest, device, precision, threads
        )
        self.run = run

    def oof(self) -> pl.DataFrame:
        """Return the out-of-fold predictions, as `oof_table` does."""
        return oof_table(self.run)

    def summary(self, *, draws: int = 1000) -> RunSummary:
        """Return scores, their interval of `draws` bootstrap samples, cost and origin."""
        return summarize_run(self.run, draws=draws)


class OpenedEnsemble(OpenedModels):
    """An ensemble. report: weights and scores, as `wbdc ensemble --json` prints them."""

    def __init__(
        self, work: Path, name: str, device: str, precision: str | None, threads: int | None
    ):
        home, blend = open_ensemble(work, name)
        super().__init__(name, home, blend, open_contest(work, name), device, precision, threads)
        self.report = open_report(work, name)


def open_run_folder(
    folder: str | Path,
    *,
    device: str = "auto",
    precision: str | None = None,
    threads: int | None = None,
) -> OpenedRun:
    """Open the run in a folder, for example "work/runs/dual_stream-1a2b3c4d".

    device: "auto", "cpu", "cuda" or "cuda:1"; precision: "fp32", "bf16" or "fp16", by default that
    of the kit; threads: of the CPU, by default all that are available. Raises UsageFault when there
    is no run or none of its folds is finished.
    """
    work, name = _split_folder(folder, "runs")
    return OpenedRun(open_run(work, name), device, precision, threads)


def open_ensemble_folder(
    folder: str | Path,
    *,
    device: str = "auto",
    precision: str | None = None,
    threads: int | None = None,
) -> OpenedEnsemble:
    """Open the ensemble in a folder, for example "work/ensembles/final"; see `open_run_folder`."""
    work, name = _split_folder(folder, "ensembles")
    return OpenedEnsemble(work, name, device, precision, threads)


def _split_folder(folder: str | Path, kind: str) -> tuple[Path, str]:
    """Return the work folder and the name in WORK/runs/NAME. kind: "runs" or "ensembles"."""
    path = Path(folder)
    if path.parent.name != kind:
        raise UsageFault(f"{path} is not WORK/{kind}/NAME; give the folder in this form")
    return path.parent.parent, path.name
