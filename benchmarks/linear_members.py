"""Do networks, linear members and a joint kernel score better together than alone, and better than
the linear reference of scikit-learn?

    wbdc prepare --data emojizh/data --work work
    for k in ngrams frame_histograms joint_kernel; do
        wbdc train --kit $k --fold each --work work
    done
    for k in single_stream dual_stream cross_attention; do
        wbdc train --kit $k --fold each --tiny --work work
    done
    python benchmarks/linear_members.py --work work --truth emojizh/truth/test_truth.csv

Saves the ensembles `linear`, `networks`, `both` and `all` of the finished runs, and compares `all`
with the others, with each member without a network and with `linear_reference.py`, where
frame_histograms was trained also with its --frames: out of fold, by nested predictions, and with
--truth on the test split. `both` lacks the joint kernel. Intervals are paired bootstrap intervals
over videos.
"""

import csv
import subprocess
import sys
from pathlib import Path

import click
import linear_reference
import numpy as np

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
from wbdc.ensemble.shared_rows import SharedPredictions, shared_predictions
from wbdc.ensemble.variants import Variant
from wbdc.prepare.dataset import PreparedData, open_prepared

FRAMES_KIT = "frame_histograms"
LINEAR_KITS = ("ngrams", FRAMES_KIT)
KERNEL_KIT = "joint_kernel"
WHOLE = "all"
REFERENCES = {"TF-IDF": False, "TF-IDF + HOG": True}  # whether it reads the frames


def subsets(members: list[Variant]) -> dict[str, list[Variant]]:
    """Return the members of each row of the table: each member without a network, and ensembles."""
    linear = [m for m in members if m.run.facts.kit in LINEAR_KITS]
    kernel = [m for m in members if m.run.facts.kit == KERNEL_KIT]
    networks = [m for m in members if m not in linear + kernel]
    rows = {m.run.facts.kit: [m] for m in linear + kernel}
    rows |= {"linear": linear, "networks": networks, "both": linear + networks}
    return {name: chosen for name, chosen in rows.items() if chosen} | {WHOLE: members}


def predict_out_of_fold(
    members: list[Variant], everyone: list[Variant], shared: SharedPredictions
) -> np.ndarray:
    """Return the nested predictions (n, C) of an ensemble of some members.

    everyone: all members, in the order of `shared`, their predictions on common rows.
    """
    rows = [everyone.index(m) for m in members]
    predictions = shared.members[rows]
    run = everyone[0].run
    names = [m.name for m in members]
    inputs = (names, predictions, shared.truth, shared.folds, run.facts.classes, run.contest)
    report = evaluate_ensemble(*inputs, draws=100)
    _, sharpness = evaluate_geometric(report, *inputs, draws=100)
    fit = fit_geometric if sharpness else fit_arithmetic
    return nested_blend(predictions, shared.truth, shared.folds, fit)


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


def references(members: list[Variant]) -> dict[str, bool]:
    """Return the references of the table, and whether each reads the frames."""
    has_frames = any(m.run.facts.kit == FRAMES_KIT for m in members)
    return {name: reads for name, reads in REFERENCES.items() if has_frames or not reads}


def reference_out_of_fold(dataset: PreparedData, with_frames: bool) -> dict[str, str]:
    """Return the label that the reference predicts for each labeled video."""
    videos = linear_reference.read_videos(dataset, dataset.facts.labeled_split, with_frames)
    predicted = linear_reference.predict_out_of_fold(videos, dataset.read_folds())
    return dict(zip(videos.ids, predicted.tolist(), strict=True))


def reference_test(dataset: PreparedData, with_frames: bool) -> dict[str, str]:
    """Return the label that the reference predicts for each test video."""
    videos = linear_reference.read_videos(dataset, dataset.facts.labeled_split, with_frames)
    test = linear_reference.read_videos(dataset, dataset.facts.test_split, with_frames)
    predicted = linear_reference.predict_test(videos, test)
    return dict(zip(test.ids, predicted.tolist(), strict=True))


def held_out_ids(dataset: PreparedData, folds: np.ndarray) -> list[str]:
    """Return the ids of the videos of some folds, in the order of `shared_predictions`."""
    ids = dataset.read_split(dataset.facts.labeled_split, ["id"])["id"].to_list()
    is_shared = np.isin(dataset.read_folds().astype(str), folds)
    return sorted(name for name, chosen in zip(ids, is_shared, strict=True) if chosen)


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
    code = {label: number for number, label in enumerate(classes)}
    chosen_members = subsets(members)

    shared = shared_predictions([m.run for m in members])
    ids = held_out_ids(dataset, shared.folds)
    codes = {}
    for name, with_frames in references(members).items():
        labels = reference_out_of_fold(dataset, with_frames)
        codes[name] = np.array([code[labels[i]] for i in ids])
    for name, chosen in chosen_members.items():
        codes[name] = predict_out_of_fold(chosen, members, shared).argmax(1)
    tables = {"out of fold": compare(contest, classes, shared.truth, codes)}

    if truth:
        predicted = {
            name: reference_test(dataset, with_frames)
            for name, with_frames in references(members).items()
        }
        for name, chosen in chosen_members.items():
            predicted[name] = predict_test(work, name, chosen)
        ids = list(predicted[WHOLE])
        labels = dict(zip(ids, linear_reference.read_truth(truth, ids), strict=True))
        ids = [i for i in ids if labels[i] in code]
        test_truth = np.array([code[labels[i]] for i in ids])
        codes = {
            name: np.array([code[answers[i]] for i in ids]) for name, answers in predicted.items()
        }
        tables["test"] = compare(contest, classes, test_truth, codes)

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
