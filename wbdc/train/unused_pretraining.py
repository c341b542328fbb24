"""Why a pretrained run of a kit is not used, and the commands that use it."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from wbdc.core.files import read_json
from wbdc.core.flatten import flatten_table
from wbdc.prepare.dataset import PreparedData
from wbdc.train.kit import Kit
from wbdc.train.kit_files import KIT_FILE
from wbdc.train.pseudo.named_sets import identify_pretraining
from wbdc.train.runs import ALL_FOLDS, Run, RunFacts, list_runs

MAX_LISTED_SETTINGS = 5
TRAIN_ONLY_OPTIONS = ("fold", "without", "from", "jobs")


def explain_unused_pretraining(
    kit: Kit, prepared: PreparedData, work: Path, seed: int, options: Mapping[str, object]
) -> str:
    """Explain why the most similar pretrained run of this kit is not used, with the exact commands
    to run instead; return "" when there is none.

    options: of this command by their names, without those that choose the kit; None is left out.
    """
    if "pretrain" not in kit.tables:
        return ""

    name, facts = identify_pretraining(work, kit, prepared, seed)
    runs = [run for run in list_runs(work, "pretrain") if run.facts.kit == kit.name]
    pretrain = _command("pretrain", kit, options)
    if any(run.name == name for run in runs):
        return f"starts without pretraining: {name} is not finished; `{pretrain}` resumes it"

    finished = [run for run in runs if ALL_FOLDS in run.folds()]
    changes = {run.name: _list_changes(run, facts, kit) for run in finished}
    if not changes:
        return ""
    name = min(changes, key=lambda name: len(changes[name]))
    listed = _join_settings(changes[name]) or "a file that the kit names"
    commands = f"`{pretrain}` pretrains with the settings of this command"
    if all(change == "seed" or change.startswith("pretrain.") for change in changes[name]):
        train = _command("train", kit, {**options, "from": name})
        commands = f"`{train}` starts from it, and {commands}"
    return f"starts without pretraining: {name} differs in: {listed}; {commands}"


def _command(stage: str, kit: Kit, options: Mapping[str, object]) -> str:
    """Return the command of a stage, quoted for a shell."""
    words = ["wbdc", stage, *kit.options]
    for name, value in options.items():
        if value is not None and (stage == "train" or name not in TRAIN_ONLY_OPTIONS):
            words += [f"--{name}", str(value)]
    return shlex.join(words)


def _list_changes(run: Run, facts: RunFacts, kit: Kit) -> list[str]:
    """Name what differs between a pretrained run and the one that this command would take."""
    changed = [
        name for name in ("data", "seed") if getattr(run.facts, name) != getattr(facts, name)
    ]
    return changed + _changed_settings(run, kit)


def _join_settings(names: list[str]) -> str:
    extra = len(names) - MAX_LISTED_SETTINGS
    more = [f"{extra} more settings"] if extra > 0 else []
    return ", ".join(names[:MAX_LISTED_SETTINGS] + more)


def _changed_settings(run: Run, kit: Kit) -> list[str]:
    """Name the settings in which a pretrained run differs from a kit."""
    path = run.fold(ALL_FOLDS) / KIT_FILE
    before = _flat_settings(read_json(path) if path.is_file() else {})
    after = _flat_settings(kit.saved_tables())
    missing = object()
    return [
        key
        for key in sorted(before.keys() | after.keys())
        if before.get(key, missing) != after.get(key, missing)
    ]


def _flat_settings(tables: dict) -> dict[str, object]:
    """Return the settings that determine a pretraining, by their dotted names."""
    ignored = ("about", "serve", "train")
    settings = {key: table for key, table in tables.items() if key not in ignored}
    return flatten_table(settings, lists=False)
