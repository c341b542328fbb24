"""wbdc pretrain: let a kit read and look at every video, labelled or not."""

from pathlib import Path

import click

from wbdc.cli import console


@click.command()
@console.kit_options
@console.training_options
def pretrain(
    kit: str,
    tiny: bool,
    changes: tuple[str, ...],
    work: Path,
    dry_run: bool,
    as_json: bool,
    weights: str | None,
    **asked: object,
) -> None:
    """Pretrain a kit on labelled and unlabelled videos.

    `wbdc train` then starts from it. Each loss is shown beside its chance level: the loss of a
    model that knows nothing.

    \b
    Example:
      wbdc pretrain --kit dual_stream
    """
    from wbdc.train.kit import open_kit
    from wbdc.train.runs import ALL_FOLDS
    from wbdc.train.session import open_session

    console.use_weights(weights)
    session = open_session("pretrain", open_kit(kit, tiny=tiny, changes=changes), work, **asked)
    if dry_run:
        return console.show_plan(session, as_json)
    with console.progress(as_json) as progress:
        facts = session.train(console.console_reporter(progress, as_json))[ALL_FOLDS]
    if as_json:
        return console.print_json(
            {"run": session.run.name, "folder": str(session.run.folder), **facts}
        )
    known = {name: ("–" if chance is None else chance) for name, chance in facts["chance"].items()}
    rows = [(name, facts["last"].get(name, "–"), chance) for name, chance in known.items()]
    console.print_table(session.run.name, ("objective", "last loss", "chance"), rows)
    given = {"weights": weights, "prepared": asked["prepared"], "seed": asked["seed"] or None}
    then = console.next_command(
        "train", "--kit", kit, "--fold", "each", tiny=tiny, changes=changes, work=work, **given
    )
    console.print_text(f"Lies in {session.run.folder}; `{then}` starts from it.")
