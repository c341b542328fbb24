"""wbdc recipe: list the recipes, show one, or run its steps."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from wbdc.cli import console, shared_options
from wbdc.core.progress import format_seconds

if TYPE_CHECKING:
    from wbdc.recipes.plan import PlannedStep
    from wbdc.recipes.recipe import Recipe


@click.group()
def recipe() -> None:
    """Run a list of steps, from raw data to a submission.

    A recipe is a TOML file of steps, each one command of wbdc, with its kits beside it. Steps
    that are finished are not run again.

    \b
    Example:
      wbdc recipe list
      wbdc recipe show wbdc2022/rank1
      wbdc recipe run wbdc2022/rank1 --data data/wechat2022 --dry-run
      wbdc recipe run wbdc2022/rank1 --data data/wechat2022
    """


@recipe.command("list")
@shared_options.as_json
def list_recipes(as_json: bool) -> None:
    """List the recipes.

    \b
    Example:
      wbdc recipe list
    """
    from wbdc.recipes.recipe import open_recipe, recipe_names

    recipes = [open_recipe(name) for name in recipe_names()]
    if as_json:
        console.print_json({one.name: one.about for one in recipes})
        return
    rows = [(one.name, str(len(one.steps)), one.about) for one in recipes]
    console.print_table("Recipes", ("recipe", "steps", "about"), rows)


@recipe.command("show")
@click.argument("name")
@shared_options.as_json
def show_recipe(name: str, as_json: bool) -> None:
    """Show the steps of a recipe, and where each comes from.

    \b
    Example:
      wbdc recipe show wbdc2022/rank1
    """
    from wbdc.recipes.recipe import open_recipe

    opened = open_recipe(name)
    if as_json:
        console.print_json(_recipe_facts(opened))
        return
    console.print_text(f"{opened.name}: {opened.about}", "bold")
    console.print_text(f"Origin: {opened.origin}")
    for number, step in enumerate(opened.steps, 1):
        console.print_text(f"{number}. {step.name}: wbdc {step.command}", "green")
        for option in step.options:
            value = opened.kit(step) if option == "kit" else step.options[option]
            console.print_text(f"   {option} = {value}")
        console.print_text(f"   {step.origin}", "dim")


@recipe.command("run")
@click.argument("name")
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the raw data; by default the data that are prepared.",
)
@click.option("--tiny", is_flag=True, help="Use the [tiny] settings of all kits.")
@click.option(
    "--submissions",
    type=click.Path(file_okay=False, path_type=Path),
    default="submissions",
    show_default=True,
    help="Folder for the packed folder.",
)
@shared_options.weights_root
@shared_options.prepared
@shared_options.device
@shared_options.threads
@shared_options.dry_run
@shared_options.measure
@shared_options.work
@shared_options.as_json
def run_steps(
    name: str,
    data: Path | None,
    tiny: bool,
    submissions: Path,
    weights: str | None,
    prepared: str | None,
    device: str,
    threads: int | None,
    dry_run: bool,
    measure: bool,
    work: Path,
    as_json: bool,
) -> None:
    """Run the steps of a recipe that are not finished.

    NAME is a recipe of `wbdc recipe list`, or the path of a folder with a recipe.toml. Each step
    runs in a process of its own. Run the same command again to continue after a stop, a kill or an
    error; it ends with the same bits. --dry-run prints the plan, with the time of the steps and the
    disk space of the trainings, as far as measured in this work folder; with --measure, trainings
    are measured by a few steps.

    \b
    Example:
      wbdc recipe run wbdc2022/rank1 --data data/wechat2022 --dry-run
      wbdc recipe run wbdc2022/rank1 --data data/wechat2022 --tiny --threads 1
    """
    from wbdc.core.errors import UsageFault
    from wbdc.core.files import check_writable
    from wbdc.recipes.plan import plan_recipe
    from wbdc.recipes.recipe import open_recipe
    from wbdc.recipes.run_recipe import run_recipe
    from wbdc.recipes.step_results import RecipeOptions

    if data and prepared:
        raise UsageFault("--data and --prepared are mutually exclusive; give one of them")
    shared_options.check_measure(measure, dry_run)
    shared_options.use_weights(weights)
    opened = open_recipe(name)
    options = RecipeOptions(work, data, prepared, tiny, device, threads, submissions, measure)
    if dry_run:
        plan = plan_recipe(opened, options)
    else:
        check_writable(work)
        log = (lambda line: None) if as_json else console.log
        plan = run_recipe(opened, options, log=log)
    if as_json:
        console.print_json({"recipe": opened.name, "steps": [_step_facts(one) for one in plan]})
    else:
        print_steps(opened, plan)


def print_steps(recipe: "Recipe", plan: "list[PlannedStep]") -> None:
    """Print the steps with their states and times, and the total time."""
    from wbdc.recipes.plan import total_bytes, total_cost

    rows = [
        (
            str(number),
            planned.step.name,
            planned.step.command,
            " ".join(part for part in (planned.state, planned.note) if part),
            planned.result or "–",
            _time_text(planned),
        )
        for number, planned in enumerate(plan, 1)
    ]
    columns = ("", "step", "command", "state", "result", "time")
    console.print_table(f"{recipe.name}: {recipe.about}", columns, rows)

    measured, remaining, unknown = total_cost(plan)
    console.print_text(f"Finished steps took {format_seconds(measured)}.")
    if remaining:
        console.print_text(
            f"Estimated for the rest, as far as measured: {format_seconds(remaining)}."
        )
    size, remaining_size = total_bytes(plan)
    rest = (
        f", and about {remaining_size / console.MEGABYTE:,.1f} MB for the rest"
        if remaining_size
        else ""
    )
    if size or remaining_size:
        console.print_text(f"Finished folds take {size / console.MEGABYTE:,.1f} MB of disk{rest}.")
    if unknown:
        console.print_text(f"Not measured yet: {', '.join(unknown)}.")
    for planned in plan:
        if planned.step.command == "submit" and planned.state == "finished":
            console.print_text(f"Submission: {planned.result}", "bold")


def _time_text(planned: "PlannedStep") -> str:
    """Return the measured time of a finished step, or the estimate of one to run."""
    if planned.state == "finished":
        return format_seconds(planned.cost.measured) if planned.cost.measured else "–"
    if planned.step.command == "verify":
        return "–"
    if planned.cost.remaining is None:
        return console.NO_ESTIMATE
    return f"about {format_seconds(planned.cost.remaining)}"


def _recipe_facts(opened: "Recipe") -> dict:
    steps = [
        {"name": step.name, "command": step.command, "origin": step.origin, **step.options}
        for step in opened.steps
    ]
    return {"recipe": opened.name, "about": opened.about, "origin": opened.origin, "steps": steps}


def _step_facts(planned: "PlannedStep") -> dict:
    return {
        "name": planned.step.name,
        "command": planned.words,
        "state": planned.state,
        "result": planned.result or None,
        "note": planned.note,
        "seconds": planned.cost.measured,
        "remaining_seconds": planned.cost.remaining,
        "bytes": planned.cost.bytes,
        "remaining_bytes": planned.cost.remaining_bytes,
    }
