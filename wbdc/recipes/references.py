"""What steps refer to: earlier steps, each of the right kind; and every result is used."""

from collections.abc import Sequence

from wbdc.core.errors import UsageFault, suggest_name
from wbdc.recipes.step import RecipeStep
from wbdc.recipes.step_commands import PREPARED_DATA, PSEUDO_LABELS, RESULTS_IN_THEMSELVES


def check_references(title: str, steps: Sequence[RecipeStep]) -> None:
    """Refuse steps of one name, references to no earlier step or to one that makes something else,
    and results that nothing uses. Raises UsageFault.
    """
    earlier: dict[str, RecipeStep] = {}
    names = [step.name for step in steps]
    for step in steps:
        subject = f"recipe {title}, step {step.name!r}"
        if step.name in earlier:
            raise UsageFault(f"{subject}: another step has this name; rename one of them")
        if step.rules.makes == PREPARED_DATA and earlier:
            raise UsageFault(f"{subject}: data are prepared once; move this step to the beginning")
        for option, kinds in step.rules.references.items():
            for name in step.names(option):
                _check_reference(f"{subject}: {option}", name, kinds, earlier, names)
        earlier[step.name] = step
    _check_all_used(title, steps)


def _check_reference(
    subject: str,
    name: str,
    kinds: tuple[str, ...],
    earlier: dict[str, RecipeStep],
    names: list[str],
) -> None:
    if name not in earlier:
        if name in names:
            raise UsageFault(f"{subject} = {name!r} refers to a later step; move that step up")
        candidates = [step.name for step in earlier.values() if step.rules.makes in kinds]
        raise UsageFault(f"{subject} = {name!r} is no step{suggest_name(name, candidates)}")
    makes = earlier[name].rules.makes
    if makes not in kinds:
        raise UsageFault(
            f"{subject} = {name!r} takes {_join(kinds)}, and that step makes {_article(makes)}"
        )


def _check_all_used(title: str, steps: Sequence[RecipeStep]) -> None:
    """Refuse a step before the last one whose result no later step uses: a forgotten reference
    would train something else than the recipe states.
    """
    used = {name for step in steps for name in step.sources()}
    for step in steps[:-1]:
        makes = step.rules.makes
        if makes not in RESULTS_IN_THEMSELVES and step.name not in used:
            raise UsageFault(
                f"recipe {title}, step {step.name!r}: no later step uses its result ({makes}); "
                "refer to it, or remove the step"
            )


def _join(kinds: tuple[str, ...]) -> str:
    return " or ".join(map(_article, kinds))


def _article(kind: str) -> str:
    """Return "a run", "an ensemble", "prepared data", "nothing"."""
    if kind in ("", PREPARED_DATA, PSEUDO_LABELS):
        return kind or "nothing"
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
