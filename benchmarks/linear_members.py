"""Do networks, linear members and a joint kernel score better together than alone?

    wbdc prepare --data emojizh/data --work work
    for k in ngrams frame_histograms joint_kernel; do
        wbdc train --kit $k --fold each --work work
    done
    for k in single_stream dual_stream cross_attention; do
        wbdc train --kit $k --fold each --tiny --work work
    done
    python benchmarks/linear_members.py --work work --truth emojizh/truth/test_truth.csv

Saves the ensembles `linear`, `networks`, `both` and `all` of the finished runs, and compares `all`
with the others and with each member without a network: out of fold, by nested predictions, and with
--truth on the test split. `both` lacks the joint kernel. Intervals are paired bootstrap intervals
over videos.
"""

import csv
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
from linear_reference import read_truth

from wbdc.cli import console, shared_options
from wbdc.competitions import Competition
from wbdc.core.files import read_text
from wbdc.ensemble.blend_weights import fit_arithmetic
from wbdc.ensemble.bootstrap import competition_scorer, paired_gain
from wbdc.ensemble.build_ensemble import build_ensemble
from wbdc.ensemble.ensemble_settings import EnsembleSettings
from wbdc.ensemble.evaluation import evaluate_ensemble
from wbdc.ensemble.geometric_choice import evaluate_geometric
from wbdc.ensemble.geometric_weights import fit_geometric
from wbdc.ensemble.member_selection import select_members
from wbdc.ensemble.nested_blend import nested_blend
from wbdc.ensemble.shared_rows import shared_predictions
from wbdc.ensemble.variants import Variant
from wbdc.prepare.dataset import open_prepared

LINEAR_KITS = ("ngrams", "frame_histograms")
KERNEL_KIT = "joint_kernel"
WHOLE = "all"


def subsets(work: Path, members: list[Variant]) -> dict[str, list[Variant]]:
    """Return the members of each row of the table: each member without a network, and ensembles."""
    linear = [m for m in members if m.run.facts.kit in LINEAR_KITS]
    kernel = [m for m in members if m.run.facts.kit == KERNEL_KIT]
    networks = [m for m in members if m not in linear + kernel]
    rows = {m.run.facts.kit: [m] for m in linear + kernel}
    rows |= {"linear": linear, "networks": networks, "both": linear + networks}
    return {name: chosen for name, chosen in rows.items() if chosen} | {WHOLE: members}


def predict_out_of_fold(
    members: list[Variant], everyone: list[Variant]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the nested predictions (n, C) of an ensemble of some members, and the truth (n,).

    everyone: all members, whose common rows are used.
    """
    shared = shared_predictions([m.run for m in everyone])
    rows = [everyone.index(m) for m in members]
    predictions = shared.members[rows]
    run = everyone[0].run
    names = [m.name for m in members]
    inputs = (names, predictions, shared.truth, shared.folds, run.facts.classes, run.contest)
    report = evaluate_ensemble(*inputs, draws=100)
    _, sharpness = evaluate_geometric(report, *inputs, draws=100)
    fit = fit_geometric if sharpness else fit_arithmetic
    return nested_blend(predictions, shared.truth, shared.folds, fit), shared.truth


def predict_test(work: Path, name: str, members: list[Variant]) -> dict[str, str]:
    """Return the predicted class of each test video by a saved ensemble of some members."""
    build_ensemble(
        work, f"benchmark-{name}", members, settings=EnsembleSettings(draws=100, bands=(50,))
    )
    out = work / f"benchmark-{name}.csv"
    words = ["predict", "--work", work, "--ensemble", f"benchmark-{name}", "--out", out]
    command = [sys.executable, "-m", "wbdc", *map(str, words), "--threads", "1"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return dict(csv.reader(read_text(out).splitlines()))


def compare(
    contest: Competition, classes: list[str], truth: np.ndarray, codes: dict[str, np.ndarray]
) -> list[dict]:
    """Return the score of each row, and the gain of the whole ensemble over it."""
    scorers = {name: competition_scorer(contest, truth, p, classes) for name, p in codes.items()}
    rows = []
    for name, scorer in scorers.items():
        gain = paired_gain(scorers[WHOLE], scorer, len(truth))
        score = scorer(np.arange(len(truth)))
        rows.append({"members": name, "score": score, **gain.to_dict()})
    return rows


@click.command()
@click.option("--truth", type=click.Path(exists=True, path_type=Path), help="Labels of the test.")
@shared_options.prepared
@shared_options.work
@shared_options.as_json
def main(truth: Path | None, prepared: str | None, work: Path, as_json: bool) -> None:
    """Compare the ensemble of all finished runs with its parts."""
    dataset = open_prepared(work, prepared)
    members, _ = select_members(work, (), dataset)
    contest = dataset.contest
    classes = dataset.facts.classes
    codes = {}
    for name, chosen in subsets(work, members).items():
        predictions, labels = predict_out_of_fold(chosen, members)
        codes[name] = predictions.argmax(1)
    tables = {"out of fold": compare(contest, classes, labels, codes)}

    if truth:
        predicted = {
            name: predict_test(work, name, chosen)
            for name, chosen in subsets(work, members).items()
        }
        ids = list(predicted[WHOLE])
        code = {label: number for number, label in enumerate(classes)}
        rows = [i for i, label in enumerate(read_truth(truth, ids)) if label in code]
        labels = np.array([code[read_truth(truth, ids)[i]] for i in rows])
        codes = {
            name: np.array([code[answers[ids[i]]] for i in rows])
            for name, answers in predicted.items()
        }
        tables["test"] = compare(contest, classes, labels, codes)

    if as_json:
        console.print_json(tables)
        return
    for title, rows in tables.items():
        cells = [
            (
                r["members"],
                r["score"],
                f"{r['difference']:+.4f} [{r['low']:+.4f}, {r['high']:+.4f}]",
            )
            for r in rows
        ]
        console.print_table(title, ("members", "score", "gain of all over it"), cells)


if __name__ == "__main__":
    main()
