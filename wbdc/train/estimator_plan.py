"""A kit with an estimator on a dataset, resolved once into what fits its folds."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from wbdc.competitions import Competition
from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.prepare.dataset import PreparedData
from wbdc.train.kit import Kit, SavedKit
from wbdc.train.kit_contest import check_contest
from wbdc.train.kit_schema import PLUG_PACKAGES, Serve
from wbdc.train.runs import Run, identify_run

if TYPE_CHECKING:  # importing it imports torch; a plan is made without
    from wbdc.train.estimators import Estimator


@dataclass(frozen=True)
class EstimatorPlan:
    """What all folds of a run share.

    serve: settings of the kit. saved_kit: the kit as each fold saves it; kit_options: the
    command-line options that choose it. source: None, because nothing is pretrained.
    """

    run: Run
    prepared: PreparedData
    contest: Competition
    serve: Serve
    saved_kit: SavedKit
    kit_options: tuple[str, ...]
    build_estimator: Callable[[], "Estimator"]
    source: None = None


def plan_estimator(
    work: Path,
    kit: Kit,
    prepared: PreparedData,
    *,
    seed: int = 0,
    without: str | None = None,
    source: str = "auto",
    loggers: tuple[str, ...] = (),
) -> EstimatorPlan:
    """Resolve a kit with an estimator on a dataset. Writes nothing.

    Raises UsageFault when the kit does not fit the dataset, and for options that only the training
    of a network has.
    """
    _check_options(kit, without, source, loggers)
    check_contest(kit, prepared)
    name, facts = identify_run("train", kit, prepared, seed=seed, without=None, source=None)
    return EstimatorPlan(
        run=Run(work / "runs" / name, facts),
        prepared=prepared,
        contest=kit.contest,
        serve=kit.serving(),
        saved_kit=kit.saved(),
        kit_options=kit.options or ("--kit", kit.name),
        build_estimator=partial(_build_estimator, kit),
    )


def _build_estimator(kit: Kit) -> "Estimator":
    """Build the estimator of a kit; imports its package, and so torch."""
    estimators = import_module(PLUG_PACKAGES["estimator"])
    table = kit.tables["estimator"]
    return plug.build_plug(estimators, table, kit.contest.fields, kit_folder=kit.folder)


def _check_options(kit: Kit, without: str | None, source: str, loggers: tuple[str, ...]) -> None:
    options = {
        f"--without {without}": without,
        f"--from {source}": source not in ("auto", "none"),
        "--logger": loggers,
    }
    if unused := [option for option, is_set in options.items() if is_set]:
        raise UsageFault(
            f"{unused[0]} has no effect on kit {kit.name}, which fits an estimator in one step; "
            "omit it"
        )
