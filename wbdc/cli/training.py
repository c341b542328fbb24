"""What `wbdc pretrain` and `wbdc train` share: a session that is trained on all ranks."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from wbdc.cli import console, shared_options

if TYPE_CHECKING:
    from wbdc.train.session import Session


class TrainedSession(NamedTuple):
    """A session whose folds are trained. folds: the facts of each one, by its name."""

    session: "Session"
    folds: dict[str, dict]


def run_session(
    stage: str,
    kit: str,
    tiny: bool,
    changes: tuple[str, ...],
    work: Path,
    dry_run: bool,
    measure: bool,
    as_json: bool,
    weights: str | None,
    options: dict[str, object],
) -> TrainedSession | None:
    """Open and train the session of a command.

    stage: "pretrain" or "train". measure: estimate a dry run from a few training steps. options: of
    `open_session`. Returns None where there is nothing to print: on every rank but the first, and
    for a dry run, whose plan is printed.
    """
    from wbdc.train.fold_cost import estimate_session, measure_session
    from wbdc.train.kit import open_kit
    from wbdc.train.session import joined_ranks, open_session

    shared_options.check_measure(measure, dry_run)
    shared_options.use_weights(weights)
    with joined_ranks(options["device"]) as ranks:
        with ranks.failing_together():
            computes = measure or not dry_run
            opened_kit = open_kit(kit, tiny=tiny, changes=changes, trusts_packaged=not computes)
            session = open_session(
                stage, opened_kit, work, **options, ranks=ranks, computes=computes
            )
        folds = {}
        if not dry_run:
            with console.progress(as_json or not ranks.is_main) as progress:
                reporter = console.console_reporter(progress, as_json, ranks.is_main)
                folds = session.train(reporter)

    if not ranks.is_main:
        return None
    if dry_run:
        cost = estimate_session(session, work, opened_kit)
        if cost is None and measure:
            with console.progress(hidden=True) as progress:
                cost = measure_session(session, console.console_reporter(progress, as_json))
        console.print_plan(session, cost, as_json, measured=measure)
        return None
    return TrainedSession(session, folds)
