"""The words of the command line that runs a step."""

from wbdc.recipes.step import RecipeStep
from wbdc.recipes.step_commands import PSEUDO_KEY
from wbdc.recipes.step_kit import open_step_kit
from wbdc.recipes.step_results import RecipeState, StepResult

SET_OPTION = "set"


def step_words(step: RecipeStep, state: RecipeState, result: StepResult) -> list[str]:
    """Return the words of a step's command, without the program.

    result: of the step; it names an ensemble and a submission. The sources of the step must be
    finished.
    """
    words = [step.command]
    if "kit" in step.options:
        words += open_step_kit(state.recipe, step, state.options.tiny, state.names()).options
    for option, value in step.options.items():
        if option == PSEUDO_KEY:  # among the changes of the kit
            continue
        if option in step.rules.references:
            words += _reference_words(step, option, state)
        elif option not in ("kit", SET_OPTION):
            words += _option_words(option, value)

    if step.command == "train" and "from" not in step.options:
        words += ["--from", "none"]
    if step.command in ("ensemble", "pseudo"):
        words += ["--name", result.name]
    if step.command == "submit":
        words += ["--into", result.name]
    return [*words, *_machine_words(step, state)]


def _reference_words(step: RecipeStep, option: str, state: RecipeState) -> list[str]:
    names = [state.results[name].name for name in step.names(option)]
    if option == "submission":  # the argument of `wbdc verify`
        return names
    return [word for name in names for word in (f"--{option}", name)]


def _option_words(option: str, value: object) -> list[str]:
    if isinstance(value, bool):
        return [f"--{option}" if value else f"--no-{option}"]
    values = value if isinstance(value, list) else [value]
    return [word for one in values for word in (f"--{option}", str(one))]


def _machine_words(step: RecipeStep, state: RecipeState) -> list[str]:
    """Return the options that say on which data and which machine a step runs."""
    options = state.options
    values = {
        "data": options.data,
        "prepared": state.prepared.hash if state.prepared else None,
        "device": None if options.device == "auto" else options.device,
        "threads": options.threads,
        "work": None if str(options.work) == "work" else options.work,
    }
    return [
        word
        for name in step.rules.machine
        if values[name] is not None
        for word in (f"--{name}", str(values[name]))
    ]
