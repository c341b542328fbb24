"""wbdc pretrain: train a kit on all labeled and unlabeled videos."""

from pathlib import Path

import click

from wbdc.cli import console, shared_options, training


@click.command()
@shared_options.kit_options
@click.option(
    "--fold",
    default="all",
    show_default=True,
    help="For objectives that read labels or pseudo-labels: 0, or 0,2, or each; hides the fold's "
    "labels, so that `wbdc train --fold 0` may start from it.",
)
@shared_options.measure
@shared_options.training_options
def pretrain(
    kit: str,
    tiny: bool,
    changes: tuple[str, ...],
    work: Path,
    dry_run: bool,
    measure: bool,
    as_json: bool,
    weights: str | None,
    **options: object,
) -> None:
    """Pretrain a kit on labeled and unlabeled videos.

    `wbdc train` then starts from it. A pretraining that reads labels or pseudo-labels is made for
    each fold. Each loss is shown beside its chance level, the loss of a
    uniform prediction. Run the same command again to resume a training that was stopped or killed.
    Several GPUs train together when torchrun starts one process for each.

    \b
    Example:
      wbdc pretrain --kit dual_stream
      torchrun --nproc-per-node 2 -m wbdc pretrain --kit dual_stream
    """
    trained = training.run_session(
        "pretrain", kit, tiny, changes, work, dry_run, measure, as_json, weights, options
    )
    if trained is None:
        return

    run = trained.session.run
    if as_json:
        facts = next(iter(trained.folds.values()))
        folds = {"folds": trained.folds} if len(trained.folds) > 1 else {}
        console.print_json({"run": run.name, "folder": str(run.folder), **facts, **folds})
        return

    next_fold = ",".join(trained.folds) if run.facts.per_fold else "each"
    next_options = {
        "weights": weights,
        "prepared": options["prepared"],
        "seed": options["seed"] or None,
    }
    command = console.next_command(
        *("train", "--kit", kit, "--fold", next_fold),
        tiny=tiny,
        changes=changes,
        work=work,
        **next_options,
    )
    for fold, facts in trained.folds.items():
        print_losses(f"{run.name} fold {fold}" if run.facts.per_fold else run.name, facts)
    console.print_text(f"Saved in {run.folder}; `{command}` starts from it.")


def print_losses(run_name: str, facts: dict) -> None:
    """Print the last value of each loss and its running mean beside its chance level, and the
    alarms.
    """
    means = facts.get("running_mean", {})
    rows = [
        (name, facts["last"].get(name, "–"), means.get(name, "–"), "–" if level is None else level)
        for name, level in facts["chance"].items()
    ]
    console.print_table(run_name, ("objective", "last loss", "running mean", "chance"), rows)
    if probes := facts.get("probes"):
        print_probes(probes)
    console.print_alarms(facts)


def print_probes(probes: list[dict]) -> None:
    """Print how the embeddings changed: before training, after the last step, and what the accuracy
    is compared with.
    """
    measures = {"nearest-neighbor accuracy": "knn_accuracy", "effective rank": "effective_rank"}
    rows = [
        (name, *("–" if probe[key] is None else probe[key] for probe in (probes[0], probes[-1])))
        for name, key in measures.items()
    ]
    rows.insert(1, ("majority class", *[probes[0]["majority_accuracy"]] * 2))
    columns = ("embeddings", f"step {probes[0]['step']}", f"step {probes[-1]['step']}")
    console.print_table("probe", columns, rows)
