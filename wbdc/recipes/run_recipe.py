"""Running a recipe: one step after the other, each in a process of its own."""

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from wbdc.core.errors import IntegrityFault, OutOfResources, error_class
from wbdc.core.files import lock_folder
from wbdc.core.process_tree import environment_of_child
from wbdc.recipes.cost import recipe_folder, record_seconds
from wbdc.recipes.plan import FINISHED, PlannedStep, check_kits, plan_step
from wbdc.recipes.recipe import Recipe
from wbdc.recipes.step import RecipeStep
from wbdc.recipes.step_results import RecipeOptions, RecipeState, start_state

RunCommand = Callable[[Sequence[str]], int]


def run_command(words: Sequence[str]) -> int:
    """Run a command of `wbdc` in a process of its own, and return its exit code.

    A process frees all memory of a step, also that of a GPU, and takes the exit codes, locks and
    safe points of the command as they are. Its results go to stderr, with its log. A stop signal
    is passed on, so that the command stops at its next safe point; when this process is killed,
    the system kills the command.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "wbdc", *words], stdout=sys.stderr, env=environment_of_child()
    )
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise


def run_recipe(
    recipe: Recipe,
    options: RecipeOptions,
    *,
    log: Callable[[str], None],
    run: RunCommand = run_command,
) -> list[PlannedStep]:
    """Run every step that is not finished; return all steps with their results.

    A recipe that was stopped or killed continues when it is run again, and ends with the same bits.
    Raises UsageFault before anything runs for a mistake in the recipe or a kit, FolderInUse when
    another process runs it, and the error of a step that fails.
    """
    check_kits(recipe, options.tiny)
    with lock_folder(recipe_folder(options.work, recipe)):
        state = start_state(recipe, options)
        return [
            _run_step(step, state, f"step {number} of {len(recipe.steps)}, {step.name}", log, run)
            for number, step in enumerate(recipe.steps, 1)
        ]


def _run_step(
    step: RecipeStep, state: RecipeState, title: str, log: Callable[[str], None], run: RunCommand
) -> PlannedStep:
    """Run a step unless it is finished. title: for the log."""
    planned = plan_step(step, state)
    # data may have changed since they were prepared; unchanged ones are reused
    is_prepared_again = step.command == "prepare" and state.options.data is not None
    if planned.state == FINISHED and not is_prepared_again:
        log(f"{title}: finished before, {planned.result}")
        return planned

    log(f"{title}: {shlex.join(['wbdc', *planned.words])}")
    start = time.monotonic()
    _check_exit_code(run(planned.words), title)
    seconds = time.monotonic() - start
    if step.command == "verify":
        return planned._replace(state=FINISHED)

    planned = plan_step(step, state)
    if planned.state != FINISHED:
        raise IntegrityFault(
            f"{title}: the command ended without an error, but its result is not complete; run it "
            f"alone: `{shlex.join(['wbdc', *planned.words])}`"
        )
    result = state.results[step.name]
    record_seconds(state.options.work, state.recipe, result, seconds)
    return planned


def _check_exit_code(code: int, title: str) -> None:
    """Raise the error of a command that failed, which has printed its message already."""
    if code < 0:
        raise OutOfResources(
            f"{title}: signal {-code} killed the command; the system does that when memory runs "
            "out. Run the recipe again to continue"
        )
    if code:
        raise error_class(code)(
            f"{title}: the command ended with exit code {code}, see its message above; run the "
            "recipe again to continue with this step"
        )
