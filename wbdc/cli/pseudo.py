"""wbdc pseudo: label videos with trained models, for other models to learn from."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from wbdc.cli import console, shared_options

if TYPE_CHECKING:
    from wbdc.ensemble.pseudo.make_pseudo import Labeler, PseudoPlan


@click.command()
@shared_options.teachers
@click.option(
    "--split",
    "splits",
    multiple=True,
    help="Split to label; by default the unlabeled one. Repeatable.",
)
@click.option("--name", help="Name of the pseudo-labels; by default that of the teachers.")
@click.option(
    "--fold",
    help="Folds to label videos for, for example 0,2 or all; by default all folds that the "
    "teachers held out, and all.",
)
@click.option(
    "--how",
    "method",
    type=click.Choice(["predict", "retrieve"]),
    default="predict",
    show_default=True,
    help="predict: probabilities of the teachers; retrieve: vote of the nearest labeled videos.",
)
@shared_options.top_k
@click.option(
    "--temperature",
    type=shared_options.FiniteRange(min=0, min_open=True),
    help="Above 1 softens the labels; of a neighbor's vote with retrieve. Default 1, or 0.07.",
)
@click.option(
    "--neighbors", type=click.IntRange(1), help="With retrieve: videos that vote; default 10."
)
@shared_options.data
@shared_options.device
@shared_options.threads
@shared_options.prepared
@shared_options.dry_run
@shared_options.verify_files
@shared_options.work
@shared_options.as_json
def pseudo(
    source: str,
    name: str | None,
    data: Path | None,
    device: str,
    threads: int | None,
    prepared: str | None,
    dry_run: bool,
    work: Path,
    as_json: bool,
    **options: object,
) -> None:
    """Write pseudo-labels: soft labels of videos by trained models.

    There is one set of labels for each fold k, by models that never saw the labels of fold k, so
    that the score of a student on fold k stays honest; and one for training on all rows.

    Run the same command again to continue after a kill.

    \b
    Example:
      wbdc pseudo --from ensemble --split unlabeled --name round1
      wbdc train --kit dual_stream --fold each --pseudo round1
    """
    from wbdc.ensemble.pseudo.make_pseudo import make_pseudo

    plan = plan_from_options(work, source, name, prepared, **options)
    if dry_run:
        print_pseudo_plan(plan, as_json)
        return
    with console.progress(as_json) as progress:
        facts = make_pseudo(
            plan, lambda: build_labeler(plan, data, device, threads), progress, console.log
        )
    if as_json:
        console.print_json({"name": plan.folder.name, "folder": str(plan.folder), **facts})
        return
    print_pseudo(plan, facts)


def plan_from_options(
    work: Path,
    source: str,
    name: str | None,
    prepared: str | None,
    *,
    splits: tuple[str, ...] = (),
    fold: str | None = None,
    method: str = "predict",
    top_k: int | None = None,
    temperature: float | None = None,
    neighbors: int | None = None,
) -> "PseudoPlan":
    """Resolve the options of the command. Raises UsageFault."""
    from wbdc.core.errors import UsageFault
    from wbdc.ensemble.pseudo.label_options import LabelOptions, default_options
    from wbdc.ensemble.pseudo.make_pseudo import plan_pseudo
    from wbdc.ensemble.pseudo.teachers import open_teachers
    from wbdc.prepare.dataset import open_prepared
    from wbdc.train.session import parse_folds

    opened = open_prepared(work, prepared)
    facts = opened.facts
    teachers = open_teachers(work, source, facts.fold_count)
    if not splits and facts.unlabeled_split is None:
        raise UsageFault("the data have no unlabeled split; name a split with --split")
    if neighbors and method != "retrieve":
        raise UsageFault("--neighbors needs --how retrieve")
    defaults = default_options(method)
    options = LabelOptions(
        splits=tuple(dict.fromkeys(splits)) or (facts.unlabeled_split,),
        folds=tuple(parse_folds(fold, facts.fold_count) if fold else teachers.folds()),
        method=method,
        top_k=top_k or 0,
        temperature=temperature or defaults.temperature,
        neighbors=neighbors or defaults.neighbors,
    )
    return plan_pseudo(work, name or source, teachers, opened, options)


def build_labeler(
    plan: "PseudoPlan", data: Path | None, device: str, threads: int | None
) -> "Labeler":
    """Load the teachers of a plan."""
    from wbdc.core.device import find_device, find_precision, use_threads
    from wbdc.core.files import check_input
    from wbdc.ensemble.out_of_fold import ServingHardware
    from wbdc.ensemble.pseudo.predict_labels import PredictedLabels
    from wbdc.ensemble.pseudo.retrieve_labels import RetrievedLabels

    chosen_device = find_device(device)
    hardware = ServingHardware(
        chosen_device,
        find_precision(plan.teachers.blend.precision, chosen_device),
        use_threads(threads),
    )
    data = data or Path(plan.prepared.facts.data_folder)
    check_input(data)
    options = plan.options
    host = (plan.teachers, plan.prepared, data, options.folds, hardware)
    if options.method == "predict":
        return PredictedLabels(*host)
    return RetrievedLabels(*host, neighbors=options.neighbors, temperature=options.temperature)


def print_pseudo_plan(plan: "PseudoPlan", as_json: bool) -> None:
    """Print what the command would do."""
    folds = {fold: plan.teachers.model_names(fold) for fold in plan.options.folds}
    state = "finished" if plan.is_finished else "to make"
    if as_json:
        console.print_json({"folder": str(plan.folder), "state": state, "teachers": folds})
        return
    console.print_text(f"{plan.folder}: {state}")
    for fold, models in folds.items():
        console.print_text(f"fold {fold}: {', '.join(models)}")


def print_pseudo(plan: "PseudoPlan", facts: dict) -> None:
    """Print how many videos were labeled for each fold, and how to use the labels."""
    rows = [
        (f"fold {fold}", len(entry["models"]), entry["rows"], entry["confidence"])
        for fold, entry in facts["folds"].items()
    ]
    columns = ("for", "teachers", "videos", "mean confidence")
    console.print_table(plan.folder.name, columns, rows)
    console.print_text(
        f"Saved in {plan.folder}; `wbdc train --pseudo {plan.folder.name}` with a kit trains on "
        "them."
    )
