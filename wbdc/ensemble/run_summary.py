"""A run in one line: its score over the folds, what it cost, and how it differs from its kit."""

import shlex
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from wbdc import __version__
from wbdc.core.files import SEAL_FILE, folder_bytes, json_digest
from wbdc.core.integrity import verify_seal
from wbdc.ensemble.cached_scores import cached_score
from wbdc.train.fold_statistics import OFFICIAL, score_over_folds
from wbdc.train.runs import ALL_FOLDS, OOF_FILE, Run, list_runs

CHANGE_OPTIONS = ("--set", "--without")
CHANGE_FLAGS = ("--tiny",)


@dataclass(frozen=True)
class RunSummary:
    """What the run table shows of a run.

    changes: options that differ from the kit, such as "--tiny" and "train.epochs=3"; source: the
    pretrained run that it started from; folds: the finished ones; mean, deviation: of the score
    over the folds that held out videos, the deviation being that of a sample, None for one fold;
    score, low, high: of the out-of-fold predictions of all folds together, with a 95 % bootstrap
    interval; official: the mean of the official score over the folds; seconds: of all folds; bytes:
    of all files; finished: when the last fold was finished, in seconds since the epoch.
    """

    name: str
    stage: str
    kit: str
    changes: list[str]
    source: str | None
    pseudo: list[str]
    seed: int
    data: str
    folds: list[str]
    mean: float | None
    deviation: float | None
    official: float | None
    score: float | None
    low: float | None
    high: float | None
    rows: int
    seconds: float
    bytes: int
    device: str
    finished: float | None


def summarize_runs(work: Path, *, draws: int) -> list[RunSummary]:
    """Summarize all runs of a work folder, by stage and name. Raises IntegrityFault."""
    return [summarize_run(run, draws=draws) for run in list_runs(work, None)]


def summarize_run(run: Run, *, draws: int, seed: int = 0) -> RunSummary:
    """Summarize a run, which may have no finished fold. Raises IntegrityFault."""
    folds = run.folds()
    facts = run.facts
    over_folds = score_over_folds(folds)
    devices = sorted({fold["device"] for fold in folds.values() if "device" in fold})
    seals = [run.fold(fold) / SEAL_FILE for fold in folds]
    return RunSummary(
        name=run.name,
        stage=facts.stage,
        kit=facts.kit,
        changes=kit_changes(next(iter(folds.values()), {}).get("command", "")),
        source=facts.source,
        pseudo=sorted(facts.pseudo),
        seed=facts.seed,
        data=facts.data,
        folds=list(folds),
        mean=over_folds.mean.get("mean"),
        deviation=over_folds.deviation.get("mean"),
        official=over_folds.mean.get(OFFICIAL),
        **_pooled_score(run, folds, draws, seed),
        seconds=sum(fold.get("seconds", 0.0) for fold in folds.values()),
        bytes=folder_bytes(run.folder),
        device=", ".join(devices),
        finished=max((path.stat().st_mtime for path in seals), default=None),
    )


def kit_changes(command: str) -> list[str]:
    """Return the options of a training command that change its kit: ["--tiny", "train.epochs=3"].

    The value of --set stands alone; other options keep their names.
    """
    words = shlex.split(command)
    changes = [word for word in words if word in CHANGE_FLAGS]
    for option, value in pairwise(words):
        if option in CHANGE_OPTIONS:
            changes.append(value if option == "--set" else f"{option} {value}")
    return changes


def _pooled_score(run: Run, folds: dict[str, dict], draws: int, seed: int) -> dict:
    """Return the score of all out-of-fold predictions together, with its interval."""
    held_out = sorted(set(folds) - {ALL_FOLDS})
    if run.facts.stage != "train" or not held_out:
        return {"score": None, "low": None, "high": None, "rows": 0}

    seals = [verify_seal(run.fold(fold), (OOF_FILE,))["files"] for fold in held_out]
    facts = [run.facts.competition, run.facts.classes, run.facts.data]
    key = json_digest(__version__, facts, held_out, seals, draws, seed)
    return cached_score(key, lambda: _draw_score(run, draws, seed))


def _draw_score(run: Run, draws: int, seed: int) -> dict:
    """Return the pooled score, its interval and the number of videos."""
    import numpy as np  # with polars, .4 s that known scores do not need

    from wbdc.ensemble.bootstrap import bootstrap_interval, probability_scorer
    from wbdc.ensemble.shared_rows import shared_predictions

    shared = shared_predictions([run])
    scorer = probability_scorer(run.contest, shared.truth, shared.members[0], run.facts.classes)
    rows = len(shared.truth)
    interval = bootstrap_interval(scorer, rows, draws=draws, seed=seed)
    return {"score": scorer(np.arange(rows)), **interval._asdict(), "rows": rows}
