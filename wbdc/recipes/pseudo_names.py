"""Pseudo-labels in the kits of a recipe: a step says which ones its kit reads, and the name of the
result of the step that made them replaces the name in the kit.
"""

from collections.abc import Mapping

from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.recipes.recipe import Recipe
from wbdc.recipes.step import RecipeStep
from wbdc.recipes.step_commands import PSEUDO_KEY
from wbdc.recipes.toml_values import toml_value
from wbdc.train import objectives
from wbdc.train.kit import Kit, open_kit
from wbdc.train.pseudo.named_sets import pseudo_names


def check_pseudo_names(step: RecipeStep, kit: Kit) -> None:
    """Refuse a step with pseudo-labels whose kit reads none or several, and the reverse. Raises
    UsageFault.

    kit: that of the step, with its changes.
    """
    is_fitted = kit.has_estimator and step.command == "train"  # which reads no pseudo-labels
    in_kit = [] if is_fitted else pseudo_names(kit.stage(step.command), kit.folder)
    in_step = step.names(PSEUDO_KEY)
    if not in_kit and not in_step:
        return
    if len(in_kit) != 1 or len(in_step) != 1:
        raise UsageFault(
            f"[{step.command}] of kit {kit.name} reads the pseudo-labels {', '.join(in_kit) or '-'}"
            f" and the step has {PSEUDO_KEY} = {', '.join(in_step) or '-'}; both name exactly one, "
            "or none"
        )


def kit_changes(
    recipe: Recipe, step: RecipeStep, tiny: bool, results: Mapping[str, str]
) -> tuple[str, ...]:
    """Return the values of --set of a training step: those of the recipe, and the name of its
    pseudo-labels.

    results: the names of the results of the finished steps.
    """
    changes = step.changes()
    if not step.names(PSEUDO_KEY):
        return changes
    name = results[step.names(PSEUDO_KEY)[0]]
    stage = open_kit(recipe.kit(step), tiny=tiny, changes=changes).tables[step.command]
    if stage.get("pseudo"):
        changes += (f"{step.command}.pseudo.name={toml_value(name)}",)
    tables = [_rename_table(table, name) for table in stage["objective"]]
    if tables != stage["objective"]:
        changes += (f"{step.command}.objective={toml_value(tables)}",)
    return changes


def _rename_table(table: dict, name: str) -> dict:
    """Return the table of an objective with another name of its pseudo-labels, if it has one."""
    is_packaged = not table["use"].endswith(".py")  # plugs beside a kit read none by name
    if is_packaged and table.get("name"):
        if plug.find_plug(objectives, table["use"]).reads_pseudo_labels:
            return table | {"name": name}
    return table
