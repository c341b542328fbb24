"""The kit of a step, with the changes that the recipe makes."""

from collections.abc import Mapping

from wbdc.core.errors import UsageFault
from wbdc.recipes.recipe import Recipe
from wbdc.recipes.step import RecipeStep
from wbdc.recipes.step_commands import PSEUDO_KEY
from wbdc.recipes.toml_values import toml_value
from wbdc.train.kit import Kit, open_kit
from wbdc.train.plug_needs import reads_pseudo_labels
from wbdc.train.pseudo.named_sets import pseudo_names


def open_step_kit(
    recipe: Recipe, step: RecipeStep, tiny: bool, pseudo: Mapping[str, str] | None = None
) -> Kit:
    """Open the kit of a training step, without building a model of wbdc to check it, as the command
    of the step does. Raises UsageFault.

    pseudo: {step: name} of pseudo-labels; the name in place of that in the kit. None while the step
    that makes them is not finished.
    """
    path = recipe.kit(step)
    changes = step.changes()
    kit = open_kit(path, tiny=tiny, changes=changes, trusts_packaged=True)
    if pseudo is None or not step.names(PSEUDO_KEY):
        return kit
    changes += _pseudo_changes(kit, step.command, pseudo[step.names(PSEUDO_KEY)[0]])
    return open_kit(path, tiny=tiny, changes=changes, trusts_packaged=True)


def check_step_kit(recipe: Recipe, step: RecipeStep, tiny: bool) -> None:
    """Open the kit of a training step, and refuse a step with pseudo-labels whose kit reads none or
    several, and the reverse. Raises UsageFault.
    """
    kit = open_step_kit(recipe, step, tiny)
    in_step = step.names(PSEUDO_KEY)
    if kit.has_estimator and step.command == "train":
        in_kit = []
    else:
        in_kit = pseudo_names(kit.stage(step.command), kit.folder)
    if (in_kit or in_step) and (len(in_kit) != 1 or len(in_step) != 1):
        raise UsageFault(
            f"[{step.command}] of kit {kit.name} reads the pseudo-labels {', '.join(in_kit) or '-'}"
            f" and the step has {PSEUDO_KEY} = {', '.join(in_step) or '-'}; both name exactly one, "
            "or none"
        )


def _pseudo_changes(kit: Kit, stage_name: str, name: str) -> tuple[str, ...]:
    """Return the values of --set that name other pseudo-labels in a stage of a kit."""
    stage = kit.tables[stage_name]
    changes = []
    if stage.get("pseudo"):
        changes.append(f"{stage_name}.pseudo.name={toml_value(name)}")
    tables = [_rename_table(table, name) for table in stage["objective"]]
    if tables != stage["objective"]:
        changes.append(f"{stage_name}.objective={toml_value(tables)}")
    return tuple(changes)


def _rename_table(table: dict, name: str) -> dict:
    """Return the table of an objective with another name of its pseudo-labels, if it has one."""
    if table["use"].endswith(".py") or not table.get("name"):  # a plug beside a kit reads none
        return table
    return table | {"name": name} if reads_pseudo_labels(table["use"]) else table
