"""Does it help? Each trick, loss and sampler alone, added to a kit or removed from it.

    wbdc prepare --data emojizh/data --work work
    python benchmarks/fine_tuning.py --work work --seeds 0,1 --folds 0,1
    python benchmarks/fine_tuning.py --work work --change "add awp" --change "remove ema"
    python benchmarks/fine_tuning.py --work work --change "add awp+add r_drop"

For every change and seed it trains the folds with --tiny from random weights. The reference is the
unchanged kit. Finished runs are reused.
"""

import copy
from pathlib import Path

import click
from kit_comparison import (
    NO_PRETRAINING,
    compare_variants,
    comparison_options,
    print_comparison,
    train_quietly,
)

from wbdc.core.errors import UsageFault, suggest_name
from wbdc.recipes.toml_values import toml_value
from wbdc.train.kit import open_kit
from wbdc.train.runs import Run

UNCHANGED = "unchanged"
# outermost first: these are put before the kit's own, and EMA remains the innermost
ADDED_TRICKS = {
    "fgm": {"epsilon": 0.5},
    "pgd": {"epsilon": 0.5, "alpha": 0.2},
    "awp": {},
    "mixup": {"on": "pooled"},
    "swa": {},
}
ADDED_OBJECTIVES = {"r_drop": {}, "classify_text": {}}
SMOOTHED = {"use": "cross_entropy", "smoothing": 0.1}
LOSSES = {
    "cross_entropy": {},
    "focal": {},
    "class_balanced": {"loss": SMOOTHED},
    "deferred class_balanced": {"use": "class_balanced", "start": 0.8, "loss": SMOOTHED},
    "logit_adjustment": {"loss": SMOOTHED},
    "ldam": {},
    "two_level": {"loss": SMOOTHED},
}
SAMPLERS = {"tempered": {}, "repeat_factor": {}}
DROPOUT_SAMPLES = 4
LAYER_DECAY = 0.8


def changes_of(stage: dict) -> dict[str, dict]:
    """Return the settings of [train] that each single change replaces, by its name.

    stage: [train] of the resolved kit.
    """
    tricks = stage["trick"]
    objectives = stage["objective"]
    changes: dict[str, dict] = {}
    for table in tricks:
        changes[f"remove {table['use']}"] = {"trick": [t for t in tricks if t is not table]}
    for table in objectives[1:]:
        changes[f"remove {table['use']}"] = {"objective": [t for t in objectives if t is not table]}
    used = [table["use"] for table in tricks]
    for name, settings in ADDED_TRICKS.items():
        if name in used:
            continue
        # two averages of the weights exclude each other
        others = [t for t in tricks if name != "swa" or t["use"] != "ema"]
        changes[f"add {name}"] = {"trick": [{"use": name, **settings}, *others]}
    for name, settings in ADDED_OBJECTIVES.items():
        changes[f"add {name}"] = {"objective": [*objectives, {"use": name, **settings}]}
    for name, settings in LOSSES.items():
        changes[f"loss {name}"] = {
            "objective": _with_classify(objectives, {"loss": {"use": name, **settings}})
        }
    for name, settings in SAMPLERS.items():
        changes[f"sampler {name}"] = {"sampler": {"use": name, **settings}}
    changes["dropout samples"] = {
        "objective": _with_classify(objectives, {"samples": DROPOUT_SAMPLES}),
    }
    changes["layer decay"] = {"layer_decay": {"fusion.trunk": LAYER_DECAY}}
    return changes


def single_changes(stage: dict) -> list[str]:
    """List the changes to compare. `mixup` mixes videos, so it excludes an objective of single
    frames: where the kit has one, both change together.
    """
    changes = changes_of(stage)
    names = list(changes)
    if "remove classify_frames" in changes:
        names[names.index("add mixup")] = "remove classify_frames+add mixup"
    return names


def _with_classify(objectives: list[dict], settings: dict) -> list[dict]:
    """Return the objectives with other settings of `classify`."""
    return [t | settings if t["use"] == "classify" else t for t in objectives]


def train_folds(work: Path, kit_name: str, names: str, seed: int, folds: str, threads: int) -> Run:
    """Train the folds of a kit with some changes, joined by "+", and return their run."""
    stage = copy.deepcopy(open_kit(kit_name, tiny=True).tables["train"])
    changed = set()
    for name in [] if names == UNCHANGED else names.split("+"):
        known = changes_of(stage)
        if name not in known:
            raise UsageFault(f"no change called {name!r}{suggest_name(name, list(known))}")
        stage |= known[name]
        changed |= set(known[name])

    changes = tuple(f"train.{key} = {toml_value(stage[key])}" for key in sorted(changed))
    kit = open_kit(kit_name, tiny=True, changes=changes)
    return train_quietly(
        "train", kit, work, seed=seed, fold=folds, source=NO_PRETRAINING, threads=threads
    )


@click.command()
@click.option("--change", "changes", multiple=True, help="Joined by +; by default each alone.")
@comparison_options()
def main(
    kit: str,
    changes: tuple[str, ...],
    seeds: str,
    folds: str,
    threads: int,
    draws: int,
    work: Path,
    as_json: bool,
) -> None:
    """Compare changes of a kit with the kit as it is."""
    each = single_changes(open_kit(kit, tiny=True).tables["train"])

    def train(names: str, seed: int) -> Run:
        return train_folds(work, kit, names, seed, folds, threads)

    rows = compare_variants((UNCHANGED, *(changes or each)), train, seeds, folds, draws)
    print_comparison(kit, seeds, folds, rows, as_json)


if __name__ == "__main__":
    main()
