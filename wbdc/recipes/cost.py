"""What steps cost: measured seconds of what is finished, and estimates from it.

Nothing is estimated that was not measured on this machine: a step without a measurement has no
estimate. A training is measured by finished folds or, on demand, by a few steps.
"""

from pathlib import Path
from statistics import mean
from typing import NamedTuple

from wbdc.core.files import folder_bytes, publish_json, read_json
from wbdc.recipes.recipe import Recipe
from wbdc.recipes.step import RecipeStep
from wbdc.recipes.step_commands import PSEUDO_KEY
from wbdc.recipes.step_kit import open_step_kit
from wbdc.recipes.step_results import RecipeState, StepResult
from wbdc.train.fold_cost import SessionCost, measure_session, similar_folds
from wbdc.train.reporter import Reporter
from wbdc.train.runs import list_runs
from wbdc.train.session import open_session, parse_folds

SECONDS_FILE = "seconds.json"  # of the steps that do not train, by the names of their results


class StepCost(NamedTuple):
    """Seconds and, of a training, bytes of a step. measured, bytes: of what is finished. remaining,
    remaining_bytes: estimated; None where nothing of the kind was measured.
    """

    measured: float
    remaining: float | None
    bytes: int = 0
    remaining_bytes: int | None = None


def recipe_folder(work: Path, recipe: Recipe) -> Path:
    """Return the folder that holds the lock and the seconds of a recipe."""
    return work / "recipes" / recipe.file_name


def record_seconds(work: Path, recipe: Recipe, result: StepResult, seconds: float) -> None:
    """Record how long a step took."""
    path = recipe_folder(work, recipe) / SECONDS_FILE
    publish_json(path, _read_seconds(path) | {result.name: round(seconds, 3)})


def step_cost(step: RecipeStep, state: RecipeState, result: StepResult | None) -> StepCost:
    """Return the cost of a step. result: None while its sources are not finished."""
    work = state.options.work
    if step.command in ("pretrain", "train"):
        return _training_cost(step, state, result)
    is_finished = result is not None and result.is_finished
    seconds = _read_seconds(recipe_folder(work, state.recipe) / SECONDS_FILE)
    known = seconds.get(result.name) if result else None
    if is_finished:
        return StepCost(known or 0.0, 0.0)
    return StepCost(0.0, known)


def _training_cost(step: RecipeStep, state: RecipeState, result: StepResult | None) -> StepCost:
    """Add up the finished folds, and estimate the others by the mean of finished folds of the same
    kit on the same data, whatever their seed and their pretrained run; without such folds by a few
    steps, if the options say so.
    """
    if state.prepared is None:
        return StepCost(0.0, None)
    kit = open_step_kit(state.recipe, step, state.options.tiny)
    fold = step.options.get("fold", "all")
    requested = parse_folds(fold, state.prepared.facts.fold_count)
    finished = [
        (facts["seconds"], folder_bytes(run.fold(name)))
        for run in list_runs(state.options.work, step.command)
        if result and run.name == result.name
        for name, facts in run.folds().items()
        if name in requested
    ]
    seconds = sum(seconds for seconds, _ in finished)
    size = sum(size for _, size in finished)
    missing = len(requested) - len(finished)
    if not missing:
        return StepCost(seconds, 0.0, size, 0)
    similar = similar_folds(state.options.work, kit, state.prepared.hash, step.command)
    if similar:
        remaining = missing * mean(cost.seconds for cost in similar)
        remaining_bytes = round(missing * mean(cost.bytes for cost in similar))
        return StepCost(seconds, remaining, size, remaining_bytes)
    cost = _measured_cost(step, state, requested) if state.options.measures else None
    return StepCost(seconds, cost and cost.seconds, size, cost and cost.bytes)


def _measured_cost(
    step: RecipeStep, state: RecipeState, requested: list[str]
) -> SessionCost | None:
    """Estimate the unfinished folds of a training from a few of its steps; None for an estimator,
    and for a step whose pseudo-labels are not made yet.
    """
    if any(name not in state.results for name in step.names(PSEUDO_KEY)):
        return None
    kit = open_step_kit(state.recipe, step, state.options.tiny, state.names())
    session = open_session(
        step.command,
        kit,
        state.options.work,
        fold=",".join(requested),
        prepared=state.prepared.hash,
        device=state.options.device,
        threads=state.options.threads,
        **({"source": "none"} if step.command == "train" else {}),
        **{name: step.options[name] for name in ("seed", "without") if name in step.options},
    )
    return measure_session(session, Reporter())


def _read_seconds(path: Path) -> dict[str, float]:
    return read_json(path, {str: float}) if path.is_file() else {}
