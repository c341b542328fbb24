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
import numpy as np
from linear_reference import Videos, predict_out_of_fold, predict_test, read_truth, read_videos

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
from wbdc.prepare.dataset import open_prepared

FRAMES_KIT = "frame_histograms"
LINEAR_KITS = ("ngrams", FRAMES_KIT)
KERNEL_KIT = "joint_kernel"
WHOLE = "all"
REFERENCES = {"TF-IDF": 1, "TF-IDF + HOG": 2}  # number of `Videos.inputs` that each reads


def subsets(members: list[Variant]) -> dict[str, list[Variant]]:
    """Return the members of each row of the table: each member without a network, and ensembles."""
    linear = [m for m in members if m.run.facts.kit in LINEAR_KITS]
    kernel = [m for m in members if m.run.facts.kit == KERNEL_KIT]
    networks = [m for m in members if m not in linear + kernel]
    rows = {m.run.facts.kit: [m] for m in linear + kernel}
    rows |= {"linear": linear, "networks": networks, "both": linear + networks}
    return {name: chosen for name, chosen in rows.items() if chosen} | {WHOLE: members}


def nested_predictions(
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


def predict_with_ensemble(work: Path, name: str, members: list[Variant]) -> dict[str, str]:
    """Return the predicted class of each test video by a saved ensemble of some members."""
    build_ensemble(
        work, f"benchmark-{name}", members, settings=EnsembleSettings(draws=100, bands=(50,))
    )
    out = work / f"benchmark-{name}.csv"
    words = ["predict", "--work", work, "--ensemble", f"benchmark-{name}", "--out", out]
    command = [sys.executable, "-m", "wbdc", *map(str, words), "--threads", "1"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return dict(csv.reader(read_text(out).splitlines()))


def references(videos: Videos) -> dict[str, Videos]:
    """Return the videos with the inputs of each reference; those with frames if there are any."""
    return {
        name: videos._replace(inputs=videos.inputs[:count])
        for name, count in REFERENCES.items()
        if count <= len(videos.inputs)
    }


def shared_ids(ids: list[str], folds: np.ndarray, shared: SharedPredictions) -> list[str]:
    """Return the ids that `shared` has, in its order. folds: (n,) of each id."""
    is_shared = np.isin(folds.astype(str), shared.folds)
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

    has_frames = FRAMES_KIT in chosen_members
    videos = read_videos(dataset, dataset.facts.labeled_split, has_frames)
    labeled = references(videos)
    shared = shared_predictions([m.run for m in members])
    folds = dataset.read_folds()
    ids = shared_ids(videos.ids, folds, shared)
    codes = {}
    for name, inputs in labeled.items():
        answers = dict(zip(videos.ids, predict_out_of_fold(inputs, folds), strict=True))
        codes[name] = np.array([code[answers[i]] for i in ids])
    for name, chosen in chosen_members.items():
        codes[name] = nested_predictions(chosen, members, shared).argmax(1)
    tables = {"out of fold": compare(contest, classes, shared.truth, codes)}

    if truth:
        test = references(read_videos(dataset, dataset.facts.test_split, has_frames))
        predicted = {
            name: dict(zip(inputs.ids, predict_test(labeled[name], inputs), strict=True))
            for name, inputs in test.items()
        }
        for name, chosen in chosen_members.items():
            predicted[name] = predict_with_ensemble(work, name, chosen)
        ids = list(predicted[WHOLE])
        labels = dict(zip(ids, read_truth(truth, ids), strict=True))
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
