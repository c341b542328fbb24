"""Which runs an ensemble is made of: the requested ones, or every finished run of the data."""

from collections import Counter
from pathlib import Path

from wbdc.core.errors import UsageFault
from wbdc.ensemble.variants import Variant, full_variant, parse_variant
from wbdc.prepare.dataset import PreparedData
from wbdc.train.runs import ALL_FOLDS, Run, list_runs


def select_members(
    work: Path, names: tuple[str, ...], prepared: PreparedData
) -> tuple[list[Variant], list[str]]:
    """Return the requested members, or every finished run of the prepared data.

    names: of runs or variants of them; (): all finished runs that are no ablation.
    Returns (members, one message for each run that is skipped).
    Raises UsageFault when a requested run does not exist, or no run is finished.
    """
    if names:
        return _requested_members(work, names), []

    members, messages = [], []
    for run in list_runs(work):
        if reason := _reason_to_skip(run, prepared):
            messages.append(f"Skipped {run.name}: {reason}")
        else:
            members.append(full_variant(run))
    if not members:
        raise UsageFault(
            f"{work / 'runs'} has no finished fold on data {prepared.hash}; run"
            " `wbdc train --kit dual_stream --fold 0` first"
        )
    return members, messages


def _requested_members(work: Path, names: tuple[str, ...]) -> list[Variant]:
    members = [parse_variant(work, name) for name in dict.fromkeys(names)]
    counts = Counter(member.run.name for member in members)
    if repeated := [run for run, count in counts.items() if count > 1]:
        raise UsageFault(
            f"run {repeated[0]} is requested in several variants; an ensemble takes one of them"
        )
    return members


def _reason_to_skip(run: Run, prepared: PreparedData) -> str | None:
    if run.facts.data != prepared.hash:
        return "it was trained on other data"
    if run.facts.without:
        return f"it is an ablation, trained without {run.facts.without}"
    return None if set(run.folds()) - {ALL_FOLDS} else "it has no finished fold"
