"""Does pretraining help? Each objective alone, and sets of them, against training from nothing.

    wbdc prepare --data emojizh/data --work work
    python benchmarks/pretraining.py --work work
    python benchmarks/pretraining.py --work work --set mask_words --set mask_words+match --seeds 0,1
    python benchmarks/pretraining.py --work work --folds 0,1 --json

For every set and seed it pretrains the kit with --tiny on all splits, then fine-tunes the folds
from that run. The reference is training without pretraining. Finished runs are reused.
"""

from pathlib import Path

import click
from kit_comparison import (
    NO_PRETRAINING,
    compare_variants,
    comparison_options,
    print_comparison,
    train_quietly,
)

from wbdc.core import plug
from wbdc.train import objectives
from wbdc.train.kit import open_kit
from wbdc.train.runs import Run

# settings that an objective needs, or that suit few and short texts
SETTINGS = {
    "mask_words": "share = 0.15",
    "match": "swap = 0.5",
}
# these need labels, or a file of predictions
LEFT_OUT = ("classify", "classify_frames", "pseudo_labels")


def objective_tables(names: str) -> str:
    """Return the value of pretrain.objective for "mask_words+match"."""
    tables = [f'{{ use = "{n}", {SETTINGS.get(n, "")} }}' for n in names.split("+")]
    return f"[{', '.join(table.replace(',  }', ' }') for table in tables)}]"


def train_folds(work: Path, kit_name: str, names: str, seed: int, folds: str, threads: int) -> Run:
    """Pretrain with a set of objectives, fine-tune the folds, and return their run."""
    source = NO_PRETRAINING
    if names != NO_PRETRAINING:
        change = f"pretrain.objective = {objective_tables(names)}"
        kit = open_kit(kit_name, tiny=True, changes=(change,))
        source = train_quietly("pretrain", kit, work, seed=seed, threads=threads).name

    kit = open_kit(kit_name, tiny=True)
    return train_quietly("train", kit, work, seed=seed, fold=folds, source=source, threads=threads)


@click.command()
@click.option("--set", "sets", multiple=True, help="Objectives joined by +; by default each alone.")
@comparison_options()
def main(
    kit: str,
    sets: tuple[str, ...],
    seeds: str,
    folds: str,
    threads: int,
    draws: int,
    work: Path,
    as_json: bool,
) -> None:
    """Compare sets of pretraining objectives with training from nothing."""
    each = [name for name in plug.plug_names(objectives) if name not in LEFT_OUT]

    def train(names: str, seed: int) -> Run:
        return train_folds(work, kit, names, seed, folds, threads)

    rows = compare_variants((NO_PRETRAINING, *(sets or each)), train, seeds, folds, draws)
    print_comparison(kit, seeds, folds, rows, as_json)


if __name__ == "__main__":
    main()
