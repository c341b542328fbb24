"""wbdc distill: train a small model on what a large one predicts."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from wbdc.cli import console, shared_options
from wbdc.cli import pseudo as pseudo_command
from wbdc.cli import train as train_command

if TYPE_CHECKING:
    from wbdc.ensemble.pseudo.make_pseudo import PseudoPlan


@click.command()
@shared_options.teachers
@shared_options.kit_options
@click.option("--fold", required=True, help="Folds of the student: 0, or 0,2, or each, or all.")
@click.option(
    "--share",
    type=shared_options.FiniteRange(0.01, 0.99),
    default=0.7,
    show_default=True,
    help="Weight of the teachers in the loss; the labels have the rest.",
)
@click.option(
    "--temperature",
    type=shared_options.FiniteRange(0.1, 100),
    default=2.0,
    show_default=True,
    help="Above 1, classes that the teachers find unlikely weigh more.",
)
@shared_options.top_k
@click.option(
    "--name", help="Name of the pseudo-labels; by default that of the teachers + -distill."
)
@click.option(
    "--start",
    default="auto",
    show_default=True,
    help="Pretrained run of the student: its name, auto (this kit's, if there is one) or none.",
)
@shared_options.data
@shared_options.training_options
def distill(
    source: str,
    kit: str,
    tiny: bool,
    changes: tuple[str, ...],
    share: float,
    temperature: float,
    top_k: int | None,
    name: str | None,
    start: str,
    data: Path | None,
    work: Path,
    dry_run: bool,
    as_json: bool,
    weights: str | None,
    **options: object,
) -> None:
    """Train a student on probabilities of teachers and on labels.

    For example a large model with many frames teaches a small one with few frames, which fits the
    time limit. Runs two commands: `wbdc pseudo` labels the labeled and the unlabeled videos, and
    `wbdc train` mixes the loss to these labels with the objectives of the kit. --dry-run prints
    both. For fold k, only models teach that never saw its labels.

    \b
    Example:
      wbdc distill --from teachers --kit single_stream --fold each
      wbdc distill --from teachers --kit my_student --fold 0 --share 0.5
    """
    from wbdc.ensemble.pseudo.make_pseudo import make_pseudo

    options |= {"source": start, "without": None}
    plan = _plan_labels(work, source, name, options["prepared"], top_k)
    changes = _student_changes(kit, tiny, changes, plan.folder.name, share, temperature)
    if dry_run:
        _print_commands(plan.command(), kit, tiny, changes, work, options, as_json)
        return

    _check_single_process(plan)
    with console.progress(as_json) as progress:
        hardware = (options["device"], options["threads"])
        make_pseudo(
            plan,
            lambda: pseudo_command.build_labeler(plan, data, *hardware),
            progress,
            console.log,
        )
    train_command.train_and_print(kit, tiny, changes, work, False, False, as_json, weights, options)


def _plan_labels(
    work: Path, source: str, name: str | None, prepared: str | None, top_k: int | None
) -> "PseudoPlan":
    """Plan the labels of the labeled and the unlabeled videos, for all folds of the teachers."""
    from wbdc.prepare.dataset import open_prepared

    facts = open_prepared(work, prepared).facts
    splits = (facts.labeled_split, facts.unlabeled_split)
    return pseudo_command.plan_from_options(
        work,
        source,
        name or f"{source}-distill",
        prepared,
        splits=tuple(split for split in splits if split),
        top_k=top_k,
    )


def _student_changes(
    kit: str, tiny: bool, changes: tuple[str, ...], name: str, share: float, temperature: float
) -> tuple[str, ...]:
    """Return the --set options with which `wbdc train` distills, those of the command first.

    Videos without a label join only if there are any; they take part in the teachers' loss alone.
    """
    from wbdc.recipes.toml_values import toml_value
    from wbdc.train.kit import open_kit
    from wbdc.train.pseudo.distillation import distillation_objectives

    # the training checks the model
    opened = open_kit(kit, tiny=tiny, changes=changes, trusts_packaged=True)
    objectives = opened.stage("train").objective
    mixed = distillation_objectives(objectives, name, share=share, temperature=temperature)
    extra = {"name": name, "labels": "none"}
    return (*changes, f"train.objective={toml_value(mixed)}", f"train.pseudo={toml_value(extra)}")


def _print_commands(
    labels: str,
    kit: str,
    tiny: bool,
    changes: tuple[str, ...],
    work: Path,
    options: dict[str, object],
    as_json: bool,
) -> None:
    """Print the two commands that a distillation runs."""
    words = ("train", "--kit", kit, "--fold", options["fold"], "--from", options["source"])
    student = console.next_command(*words, tiny=tiny, changes=changes, work=work)
    if as_json:
        console.print_json({"commands": [labels, student]})
        return
    console.print_text(labels)
    console.print_text(student)


def _check_single_process(plan: "PseudoPlan") -> None:
    """Refuse to label videos in several processes. Raises UsageFault."""
    from wbdc.core.errors import UsageFault
    from wbdc.core.ranks import rank_and_size

    if rank_and_size()[1] > 1 and not plan.is_finished:
        raise UsageFault(
            f"videos are labeled in one process; run `{plan.command()}` first, without torchrun"
        )
