"""The settings in which two runs differ."""

from dataclasses import asdict

from wbdc.core.errors import UsageFault
from wbdc.core.files import read_json
from wbdc.core.flatten import flatten_table
from wbdc.core.integrity import verify_seal
from wbdc.train.kit_files import KIT_FILE
from wbdc.train.runs import Run

COMPARED_FACTS = ("stage", "kit", "data", "seed", "without", "source", "pseudo")
MACHINE_FACTS = ("device", "precision", "ranks", "threads")


def diff_runs(run: Run, other: Run) -> list[tuple[str, object, object]]:
    """List (name, value of `run`, value of `other`) of everything in which two runs differ.

    Names are those of run.json, of the kit (train.epochs) and of the machine; None stands for a
    setting that a run lacks. Raises UsageFault when a run has no finished fold, IntegrityFault when
    one is damaged.
    """
    values = _settings(run)
    other_values = _settings(other)
    names = dict.fromkeys([*values, *other_values])
    return [
        (name, values.get(name), other_values.get(name))
        for name in names
        if values.get(name) != other_values.get(name)
    ]


def read_run_kit(run: Run) -> dict:
    """Read the resolved kit of a run, of its first finished fold. Raises UsageFault,
    IntegrityFault.
    """
    folds = run.folds()
    if not folds:
        raise UsageFault(f"run {run.name} has no finished fold; train one with --fold 0")
    folder = run.fold(next(iter(folds)))
    verify_seal(folder, (KIT_FILE,))
    return read_json(folder / KIT_FILE)


def _settings(run: Run) -> dict:
    """Return everything that may differ, in one level of dotted names."""
    tables = read_run_kit(run)
    tables.pop("about", None)
    facts = {key: value for key, value in asdict(run.facts).items() if key in COMPARED_FACTS}
    first_fold = next(iter(run.folds().values()))
    machine = {key: first_fold.get(key) for key in MACHINE_FACTS}
    return flatten_table(facts | _plugs_by_name(tables) | machine, lists=False)


def _plugs_by_name(value: object) -> object:
    """Replace lists of plugs by tables with the plugs' names as keys, so that the settings of one
    plug are compared even where another one stands before it.
    """
    if isinstance(value, dict):
        return {key: _plugs_by_name(inner) for key, inner in value.items()}
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        return value

    tables: dict[str, object] = {}
    for position, item in enumerate(value):
        name = item.get("use", str(position))
        key = name if name not in tables else f"{name}-{position}"
        tables[key] = _plugs_by_name(item)
    return tables
