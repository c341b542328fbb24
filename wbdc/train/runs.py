"""Runs on disk: what identifies one, and what its folds hold."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from wbdc.competitions import Competition, is_contest_file, open_competition
from wbdc.core.errors import IntegrityFault, UsageFault, suggest_name
from wbdc.core.files import (
    file_sha256,
    json_digest,
    publish_file,
    publish_json,
    read_json,
    sealed_facts,
)
from wbdc.core.folders import RUN_FILE
from wbdc.core.integrity import verify_seal

if TYPE_CHECKING:  # what lists runs needs neither tables nor the plugs of a kit
    import numpy as np
    import polars as pl

    from wbdc.prepare.dataset import PreparedData
    from wbdc.train.kit import Kit

RUN_FACTS_FILE = RUN_FILE
OOF_FILE = "oof.parquet"
SETTING_FILES = "setting_files"  # in the seal of a fold
RUN_STAGES = ("train", "pretrain")
ALL_FOLDS = "all"  # the fold that trains on every row and holds out none
RUN_SHAPE = {
    "stage": str,
    "kit": str,
    "data": str,
    "seed": int,
    "without": (str, None),
    "source": (str, None),
    "classes": [str],
    "competition": str,
    "pseudo?": {str: str},
    "per_fold?": bool,
}


@dataclass(frozen=True)
class RunFacts:
    """What identifies a run: the content of its run.json.

    stage: "pretrain" or "train". kit: name of the kit. data: hash of the prepared dataset.
    without: the modality removed for an ablation, for example "text". source: name of the
    pretrained run that it starts from. classes: the C class names, in the order of the head's
    outputs. competition: name of the contest, or of the file that defines it. pseudo: {name: hash}
    of the pseudo-labels that it trains on. per_fold: whether a pretraining reads labels, so that
    the folds start from different models.
    """

    stage: str
    kit: str
    data: str
    seed: int
    without: str | None
    source: str | None
    classes: list[str]
    competition: str
    pseudo: dict[str, str] = field(default_factory=dict)
    per_fold: bool = False


@dataclass(frozen=True)
class Run:
    """A run on disk. folder: work/runs/<kit>-<hash>."""

    folder: Path
    facts: RunFacts

    @property
    def name(self) -> str:
        """The run's name, by which commands and ensembles refer to it."""
        return self.folder.name

    @cached_property
    def contest(self) -> Competition:
        """The competition, opened from the copy of its file in the first finished fold.

        Raises IntegrityFault when that copy is damaged.
        """
        name = self.facts.competition
        folder = self.fold(next(iter(self.folds()), ALL_FOLDS))
        if is_contest_file(name):
            verify_seal(folder, (Path(name).name,))
        return open_competition(name, folder)

    def folds(self) -> dict[str, dict]:
        """Return the finished folds and their facts: {"0": {...}, "all": {...}}."""
        return finished_folds(self.folder)

    def unfinished_folds(self) -> list[str]:
        """Return the folds that were begun and are not finished."""
        begun = [path.name.removeprefix("fold-") for path in sorted(self.folder.glob("fold-*"))]
        return [fold for fold in begun if fold not in self.folds()]

    def fold(self, fold: str) -> Path:
        """Return the folder of a fold."""
        return self.folder / f"fold-{fold}"

    def start_fold(self, fold: str) -> str:
        """Return the fold of this pretrained run from which the fine-tuning of `fold` starts."""
        return fold if self.facts.per_fold else ALL_FOLDS

    def oof(self) -> "pl.DataFrame":
        """Return the out-of-fold predictions of all finished folds.

        Columns: id, fold and label (str), and p, the probabilities (C float32). Raises UsageFault
        when no fold is finished.
        """
        import polars as pl

        tables = [read_oof(self.fold(fold)) for fold in self.folds() if fold != ALL_FOLDS]
        if not tables:
            raise UsageFault(
                f"run {self.name} has no finished fold with out-of-fold predictions; "
                "train one with --fold 0"
            )
        return pl.concat(tables)


def finished_folds(folder: Path) -> dict[str, dict]:
    """Return the finished folds in the folder of a run, and their facts."""
    facts = {p.name.removeprefix("fold-"): sealed_facts(p) for p in sorted(folder.glob("fold-*"))}
    return {fold: entry for fold, entry in facts.items() if entry is not None}


def identify_run(
    stage: str,
    kit: "Kit",
    prepared: "PreparedData",
    *,
    seed: int,
    without: str | None,
    source: str | None,
    pseudo: Mapping[str, str] | None = None,
) -> tuple[str, RunFacts]:
    """Return the name of a run and the facts that identify it.

    pseudo: {name: hash} of the pseudo-labels that the stage reads. The name hashes everything that
    determines the run's bits on one kind of machine: those facts, the settings of the stage, and
    the content of every file that the kit names.
    """
    unused = ("about", "serve", "pretrain" if stage == "train" else "train")
    settings = {key: table for key, table in kit.saved_tables().items() if key not in unused}
    identity = {
        "stage": stage,
        "kit": kit.name,
        "data": prepared.hash,
        "seed": seed,
        "without": without,
        "source": source,
    }
    file_hashes = [file_sha256(path) for path in kit.files(stage)]
    pseudo = dict(pseudo or {})
    hashes = [*file_hashes, *(pseudo[name] for name in sorted(pseudo))]
    name = f"{kit.name}-{json_digest(identity, settings, hashes)[:8]}"
    facts = RunFacts(
        **identity,
        classes=prepared.facts.classes,
        competition=kit.contest.name,
        pseudo=pseudo,
    )
    return f"pretrain-{name}" if stage == "pretrain" else name, facts


def list_runs(work: Path, stage: str | None = "train") -> list[Run]:
    """List the runs of a stage below work/runs, by name; None: trainings, then pretrainings."""
    paths = sorted((work / "runs").glob(f"*/{RUN_FACTS_FILE}"))
    runs = [Run(path.parent, read_run(path.parent)) for path in paths]
    stages = RUN_STAGES if stage is None else (stage,)
    return [run for one in stages for run in runs if run.facts.stage == one]


def read_run(folder: Path) -> RunFacts:
    """Read what identifies a run. Raises IntegrityFault when run.json is missing or damaged."""
    facts = read_json(folder / RUN_FACTS_FILE, RUN_SHAPE)
    keys = (key.removesuffix("?") for key in RUN_SHAPE)
    return RunFacts(**{key: facts[key] for key in keys if key in facts})


def publish_run(run: Run) -> None:
    """Write run.json into the folder of a run unless it is there."""
    path = run.folder / RUN_FACTS_FILE
    if not path.is_file():
        publish_json(path, asdict(run.facts))


def open_run(work: Path, name: str, stage: str | None = "train") -> Run:
    """Open a run of a stage, None for any, by its name. Raises UsageFault."""
    runs = {run.name: run for run in list_runs(work, stage)}
    if name not in runs:
        raise UsageFault(
            f"no run called {name!r} in {work / 'runs'}{suggest_name(name, list(runs))}"
        )
    return runs[name]


def read_oof(folder: Path) -> "pl.DataFrame":
    """Return the out-of-fold predictions of a finished fold. Raises IntegrityFault when they are
    damaged.
    """
    verify_seal(folder, (OOF_FILE,))
    return read_predictions(folder / OOF_FILE)


def read_predictions(path: Path) -> "pl.DataFrame":
    """Read what `write_oof` wrote. Raises IntegrityFault."""
    import polars as pl

    try:
        return pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise IntegrityFault(
            f"{path} cannot be read: {' '.join(str(error).split())[:200]}"
        ) from error


def write_oof(
    path: Path, ids: list[str], fold: str, labels: list[str], probabilities: "np.ndarray"
) -> None:
    """Publish out-of-fold predictions. probabilities: (n, C) float32."""
    import polars as pl

    p = pl.Series("p", probabilities, dtype=pl.Array(pl.Float32, probabilities.shape[1]))
    table = pl.DataFrame({"id": ids, "fold": [fold] * len(ids), "label": labels}).with_columns(p)
    publish_file(path, table.write_parquet)
