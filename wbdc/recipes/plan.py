"""The plan of a recipe: which steps are finished, which come next, and what they cost."""

from typing import NamedTuple

from wbdc.core.errors import UsageFault
from wbdc.recipes.cost import StepCost, step_cost
from wbdc.recipes.recipe import Recipe
from wbdc.recipes.step import RecipeStep
from wbdc.recipes.step_kit import check_step_kit
from wbdc.recipes.step_results import RecipeOptions, RecipeState, start_state
from wbdc.recipes.words import step_words

FINISHED = "finished"
READY = "to run"
WAITING = "waits"


class PlannedStep(NamedTuple):
    """A step and its state: FINISHED, READY or WAITING.

    result: its name, "" while unknown. note: what is done, or what it waits for. words: of its
    command, without the program; empty while it waits.
    """

    step: RecipeStep
    state: str
    result: str
    note: str
    words: list[str]
    cost: StepCost


def check_kits(recipe: Recipe, tiny: bool) -> None:
    """Open the kit of every step with its changes, so that no mistake in a kit stops a recipe
    half-way. Raises UsageFault, which names the step.
    """
    for step in recipe.steps:
        if "kit" not in step.options:
            continue
        try:
            check_step_kit(recipe, step, tiny)
        except UsageFault as error:
            raise UsageFault(f"recipe {recipe.name}, step {step.name!r}: {error}") from error


def plan_recipe(recipe: Recipe, options: RecipeOptions) -> list[PlannedStep]:
    """Plan all steps; nothing is run or written. Raises UsageFault."""
    check_kits(recipe, options.tiny)
    state = start_state(recipe, options)
    return [plan_step(step, state) for step in recipe.steps]


def plan_step(step: RecipeStep, state: RecipeState) -> PlannedStep:
    """Plan one step, after those before it; a finished one is added to `state`."""
    missing = state.waits_for(step)
    if missing:
        cost = step_cost(step, state, None)
        return PlannedStep(step, WAITING, "", f"for {', '.join(missing)}", [], cost)

    result = state.find_result(step)
    cost = step_cost(step, state, result)
    words = step_words(step, state, result)
    if result.is_finished:
        state.add(step, result)
        return PlannedStep(step, FINISHED, result.name, result.note, words, cost)
    return PlannedStep(step, READY, result.name, result.note, words, cost)


def total_cost(plan: list[PlannedStep]) -> tuple[float, float, list[str]]:
    """Return the measured seconds, the estimated remaining seconds, and the names of the steps
    whose remaining seconds are not known. `verify` runs each time and is not counted.
    """
    measured = sum(planned.cost.measured for planned in plan)
    counted = [planned for planned in plan if planned.step.command != "verify"]
    remaining = sum(planned.cost.remaining or 0.0 for planned in counted)
    unknown = [p.step.name for p in counted if p.cost.remaining is None]
    return measured, remaining, unknown


def total_bytes(plan: list[PlannedStep]) -> tuple[int, int]:
    """Return the bytes of the finished folds, and the estimated bytes of the others, as far as
    their steps were measured.
    """
    finished = sum(planned.cost.bytes for planned in plan)
    return finished, sum(planned.cost.remaining_bytes or 0 for planned in plan)
