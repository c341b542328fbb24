"""What a fold costs: seconds and bytes of finished folds of the same settings on this machine."""

import copy
from math import ceil
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from wbdc.core.errors import UsageFault
from wbdc.core.files import SEAL_FILE, folder_bytes, read_json, read_seal
from wbdc.train.kit import Kit
from wbdc.train.kit_files import KIT_FILE
from wbdc.train.reporter import Reporter
from wbdc.train.runs import Run, list_runs
from wbdc.train.session import Session
from wbdc.train.stage_plan import StagePlan

FOLD_COST_SHAPE = {"seconds": float, "device": str, "threads": int}


class FoldCost(NamedTuple):
    """seconds: of the training. bytes: of the finished fold. device, threads: that it used."""

    seconds: float
    bytes: int
    device: str
    threads: int


class SessionCost(NamedTuple):
    """Estimated seconds and bytes of the folds that a session trains.

    folds: the number of finished folds that the estimate is the mean of; measured_steps: those of
    `measure_session`, which replace finished folds. parts: its seconds, by name.
    """

    seconds: float
    bytes: int
    folds: int
    measured_steps: int = 0
    parts: dict[str, float] | None = None


def similar_folds(work: Path, kit: Kit, data: str, stage: str) -> list[FoldCost]:
    """Return the cost of each finished fold of a kit on some data that was trained with the same
    settings, whatever its seed and its pretrained run.

    Seconds of another number of epochs are scaled to that of the kit. data: hash of the prepared
    data. Raises IntegrityFault.
    """
    runs = [
        run
        for run in list_runs(work, stage)
        if run.facts.kit == kit.name and run.facts.data == data
    ]
    return [cost for run in runs for cost in _fold_costs(run, kit, stage)]


def estimate_session(session: Session, work: Path, kit: Kit) -> SessionCost | None:
    """Estimate the folds that are not finished from similar ones on the same device with the same
    threads; None where there is no such fold.
    """
    finished = session.run.folds()
    missing = [fold for fold in session.folds if fold not in finished]
    facts = session.run.facts
    hardware = session.hardware
    similar = [
        cost
        for cost in similar_folds(work, kit, facts.data, facts.stage)
        if cost.device == str(hardware.device) and cost.threads == hardware.threads
    ]
    if not similar:
        return None
    rounds = ceil(len(missing) / session.jobs)
    seconds = rounds * mean(cost.seconds for cost in similar)
    size = len(missing) * mean(cost.bytes for cost in similar)
    return SessionCost(seconds, round(size), len(similar))


def measure_session(session: Session, reporter: Reporter) -> SessionCost | None:
    """Estimate the folds that are not finished from a few training steps of the first one; None for
    an estimator, which is fitted in one step.

    Raises UsageFault on several ranks, and what `measure_fold` raises.
    """
    if session.hardware.ranks.size > 1:
        raise UsageFault("--measure times the steps of one process; start it without torchrun")
    finished = session.run.folds()
    missing = [fold for fold in session.folds if fold not in finished]
    if not missing:
        return SessionCost(0.0, 0, 0)
    if not isinstance(session.plan, StagePlan):
        return None

    from wbdc.train.measured_fold import measure_fold  # imports torch

    fold = measure_fold(session.plan, missing[0], session.hardware, reporter)
    rounds = ceil(len(missing) / session.jobs)
    parts = {
        "views": fold.views,
        "training": rounds * fold.training,
        "evaluation": rounds * fold.evaluation,
    }
    size = len(missing) * fold.bytes + fold.view_bytes
    return SessionCost(sum(parts.values()), size, 0, fold.steps, parts)


def _fold_costs(run: Run, kit: Kit, stage: str) -> list[FoldCost]:
    costs = []
    tables = kit.saved_tables()
    for path in sorted(run.folder.glob(f"fold-*/{SEAL_FILE}")):
        saved = read_json(path.parent / KIT_FILE)
        if _cost_settings(saved, stage) == _cost_settings(tables, stage):
            facts = read_seal(path.parent, FOLD_COST_SHAPE)
            scale = _epochs(tables, stage) / _epochs(saved, stage)
            size = folder_bytes(path.parent)
            cost = FoldCost(facts["seconds"] * scale, size, facts["device"], facts["threads"])
            costs.append(cost)
    return costs


def _epochs(tables: dict, stage: str) -> float:
    """Return the number of epochs of a stage; 1 for a kit with an estimator."""
    return (tables.get(stage) or {}).get("epochs", 1)


def _cost_settings(tables: dict, stage: str) -> dict:
    """Return the settings that decide how long an epoch takes; names of pseudo-labels do not."""
    names = ("text", "trunk", "vision", "fusion", "pooling", "estimator", stage)
    settings = copy.deepcopy({name: tables.get(name) for name in names})
    trained = settings[stage] or {}  # a kit with an estimator has no stage
    trained.pop("epochs", None)
    for table in [*trained.get("objective", ()), trained.get("pseudo") or {}]:
        table.pop("name", None)
    return settings
