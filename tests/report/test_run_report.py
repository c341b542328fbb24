"""The report of a run: its numbers are those of its files, and of scikit-learn."""

import json
import re
import shutil

import numpy as np
import pytest
import report_work
from sklearn import metrics

from wbdc.competitions import Competition
from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.files import append_line
from wbdc.prepare.dataset import open_prepared
from wbdc.report.build_report import build_report
from wbdc.report.collect.calibration import calibration
from wbdc.report.collect.held_out import HeldOut
from wbdc.report.collect.lost_points import costly_confusions, costly_mistakes, macro_f1_gains
from wbdc.report.collect.modalities import ablations
from wbdc.report.collect.training_curves import MAX_CURVE_POINTS, thin_points
from wbdc.report.page import render_page
from wbdc.report.report_options import ReportOptions
from wbdc.report.subjects import find_subject
from wbdc.train.metrics import METRICS_FILE
from wbdc.train.runs import Run, RunFacts, open_run, publish_run

TRUTH = np.arange(report_work.VIDEOS) % 4
P = report_work.probabilities(0)


@pytest.fixture(scope="module")
def numbers(workspace):
    subject = find_subject(workspace, report_work.RUNS[0])
    return build_report(workspace, subject, ReportOptions(draws=100, pictures=False)).numbers


def test_curves_are_those_of_the_log(numbers):
    curves = numbers["training"]["1"]
    assert curves["losses"] == {"classify": [[10, 1.85], [20, 1.6], [30, 1.35], [40, 1.1]]}
    assert curves["running_means"]["classify"][-1] == [40, pytest.approx(1.11)]
    assert curves["learning_rates"]["rest"][0] == [10, pytest.approx(7.5e-4)]
    assert curves["validation"] == [[40, 0.625]]
    assert curves["videos_per_second"][1] == [20, 120]
    assert (curves["chances"], curves["damaged_lines"]) == ({"classify": 1.38629}, 1)


def test_a_pretraining_has_curves_and_measures_of_its_embeddings(workspace, tmp_path):
    work = shutil.copytree(workspace, tmp_path / "work")
    data = open_prepared(work).hash
    facts = RunFacts("pretrain", "toy", data, 0, None, None, [*report_work.CLASSES], "wechat2022")
    run = Run(work / "runs" / "pretrain-toy-55555555", facts)
    publish_run(run)
    log = run.fold("all") / METRICS_FILE
    log.parent.mkdir()
    report_work.write_log(log, 0)
    for step, accuracy in ((0, 0.3), (40, float("nan")), (40, 0.5)):
        probe = {"knn_accuracy": accuracy, "majority_accuracy": 0.2}
        append_line(log, json.dumps({"step": step, "probe": probe}))
    report_work.seal_folder(run.fold("all"), {"chance": {}, "alarms": [], "seconds": 3.0}, [])
    assert find_subject(work, None).name == "pair"
    options = ReportOptions(pictures=False)
    report = build_report(work, find_subject(work, run.name), options)
    assert set(report.numbers) == {"kind", "name", "facts", "training", "data"}
    probes = report.numbers["training"]["all"]["probes"]
    assert probes["knn_accuracy"] == [[0, 0.3], [40, 0.5]]
    page = render_page(report)
    assert "Embeddings <code>knn_accuracy</code>" in page
    assert "nan" not in "".join(re.findall(r' d="([^"]*)"', page))


def test_long_curves_keep_their_ends():
    points = thin_points([[step, step] for step in range(1000)])
    assert len(points) == MAX_CURVE_POINTS
    assert (points[0], points[-1]) == ([0, 0], [999, 999])


def test_scores_of_folds(numbers, workspace):
    folds = numbers["folds"]
    means = [entry["score"]["mean"] for entry in folds["folds"].values()]
    assert [entry["videos"] for entry in folds["folds"].values()] == [18, 18]
    assert folds["mean"]["mean"] == pytest.approx(np.mean(means))
    assert folds["sd"]["mean"] == pytest.approx(np.std(means, ddof=1))
    labels, predicted = ([report_work.CLASSES[c] for c in codes] for codes in (TRUTH, P.argmax(1)))
    assert folds["pooled"]["score"] == pytest.approx(
        WeChat2022().score(labels, predicted, report_work.CLASSES)
    )
    low, high = folds["interval"]
    assert low < folds["pooled"]["score"]["mean"] < high


def test_scores_of_classes_are_those_of_sklearn(numbers):
    precision, recall, f1, support = metrics.precision_recall_fscore_support(TRUTH, P.argmax(1))
    rows = {row["class"]: row for row in numbers["answers"]["classes"]}
    for code, name in enumerate(report_work.CLASSES):
        expected = (precision[code], recall[code], f1[code], support[code])
        values = [rows[name][key] for key in ("precision", "recall", "f1", "videos")]
        assert values == pytest.approx(expected)
    scores = [row["f1"] for row in numbers["answers"]["classes"]]
    assert scores == sorted(scores)


def test_the_gain_of_a_confusion_is_that_of_its_videos_made_right(numbers):
    """0000 is predicted as 0001 for videos 0 (near-certainly) and maybe others."""
    predicted = P.argmax(1)
    labels = [report_work.CLASSES[code] for code in TRUTH]
    pairs = numbers["answers"]["confusions"]
    assert sum(pair["videos"] for pair in pairs) == (predicted != TRUTH).sum()
    for pair in pairs:
        names = [report_work.CLASSES[code] for code in predicted]
        scored = [WeChat2022().score(labels, names, report_work.CLASSES)["mean"]]
        fixed = [
            true if (true, name) == (pair["true"], pair["predicted"]) else name
            for true, name in zip(labels, names, strict=True)
        ]
        scored.append(WeChat2022().score(labels, fixed, report_work.CLASSES)["mean"])
        assert pair["gain"] == pytest.approx(scored[1] - scored[0])
    assert pairs[0]["gain"] == max(pair["gain"] for pair in pairs) > 0


def test_gains_of_macro_f1_are_exact():
    random = np.random.default_rng(0)
    truth, predicted = random.integers(5, size=(2, 40))
    score = metrics.f1_score(truth, predicted, average="macro", labels=range(5), zero_division=0)
    for row, gain in enumerate(macro_f1_gains(truth, predicted, 5)):
        fixed = predicted.copy()
        fixed[row] = truth[row]
        after = metrics.f1_score(truth, fixed, average="macro", labels=range(5), zero_division=0)
        assert gain == pytest.approx(after - score, abs=1e-12)


class LogLikelihood(Competition):
    """A contest whose score depends on probabilities."""

    needs_probabilities = True

    def score_probabilities(self, truth, probabilities, classes, *, official=False):
        codes = [classes.index(label) for label in truth]
        p = probabilities[np.arange(len(codes)), codes]
        return {"mean": float(np.log(p.clip(1e-9)).mean())}


def test_lost_points_of_a_score_of_probabilities():
    """Fixed alone, a video of probability p gains -ln p / 4 of the mean over four videos."""
    p = np.array([[0.3, 0.7], [0.9, 0.1], [0.1, 0.9], [0.2, 0.8]])
    truth = np.array([0, 1, 1, 0])
    held_out = HeldOut(LogLikelihood(), list("abcd"), truth, truth, ["x", "y"], p, {})
    gains = dict(costly_mistakes(held_out, 9))
    assert list(gains) == [1, 3, 0]
    assert list(gains.values()) == pytest.approx([-np.log(v) / 4 for v in (0.1, 0.2, 0.3)])
    pair = next(one for one in costly_confusions(held_out) if one["true"] == "x")
    assert pair["gain"] == pytest.approx(-(np.log(0.3) + np.log(0.2)) / 4)


def test_calibration_by_hand():
    """Bins: .5 to .6 with one right and one wrong of confidence .55, .9 to 1 with a right one."""
    p = np.array([[0.55, 0.45], [0.45, 0.55], [1.0, 0.0]])
    table = calibration(p, np.array([0, 0, 0]))
    assert [(one["low"], one["videos"], one["accuracy"]) for one in table["bins"]] == [
        (0.5, 2, 0.5),
        (0.9, 1, 1.0),
    ]
    assert table["error"] == pytest.approx((2 * 0.05 + 0) / 3)
    assert table["log_likelihood"] == pytest.approx(np.log([0.55, 0.45, 1]).mean())


def test_mistakes_say_what_is_known_of_a_video(numbers):
    mistakes = numbers["mistakes"]
    wrong = {report_work.video_ids()[row] for row in np.flatnonzero(P.argmax(1) != TRUTH)}
    videos = {video["id"]: video for video in mistakes["videos"]}
    assert set(videos) == wrong
    assert mistakes["total"] == len(wrong)
    points = [video["points"] for video in mistakes["videos"]]
    assert points == sorted(points, reverse=True)
    ids = report_work.video_ids()
    assert videos[ids[2]]["lengths"]["title"] == 15_000
    assert len(videos[ids[2]]["texts"]["title"]) == 1500
    assert videos[ids[6]]["missing"] == ["asr", "ocr", "frames"]
    assert videos[ids[5]]["group"] == 1
    assert videos[ids[7]]["suggested"] == "0000"
    top = videos[ids[0]]["top"]["all"]
    assert top[0] == ["0001", pytest.approx(P[0, 1])]
    assert [p for _, p in top] == sorted(P[0].tolist(), reverse=True)


def test_ablations_are_compared_on_the_videos_that_both_held_out(workspace, tmp_path):
    work = shutil.copytree(workspace, tmp_path / "work")
    run = open_run(work, report_work.RUNS[0])
    folds = open_prepared(work).read_folds()
    ablated = report_work.write_run(work, "toy-33333333", run.facts.data, 5, folds, "frames")
    shutil.rmtree(ablated.fold("1"))
    report_work.write_run(work, "else-44444444", run.facts.data, 6, folds, "frames")  # another kit
    (row,) = ablations(work, run)
    rows = folds == 0
    labels = [report_work.CLASSES[code] for code in TRUTH[rows]]
    scores = [
        WeChat2022().score_probabilities(labels, p[rows], report_work.CLASSES)["mean"]
        for p in (report_work.probabilities(5), P)
    ]
    assert (row["run"], row["without"], row["videos"]) == ("toy-33333333", "frames", rows.sum())
    assert [row["score"], row["full_score"]] == pytest.approx(scores)
    assert row["difference"] == pytest.approx(scores[0] - scores[1])


def test_likely_label_errors_and_near_duplicates(numbers):
    ids = report_work.video_ids()
    first = numbers["label_errors"][0]
    assert (first["id"], first["given"], first["suggested"]) == (ids[7], "0203", "0000")
    duplicates = numbers["data"]["duplicates"]
    assert duplicates["groups"] == [
        {"ids": ids[4:6], "labels": ["0000", "0001"], "by": ["frames"], "has_conflict": True}
    ]


def test_data_of_the_labeled_split(numbers):
    data = numbers["data"]
    rows = {row["class"]: row for row in data["classes"]}
    assert (rows["0000"]["videos"], rows["0000"]["published"]) == (9, 502)
    assert rows["2222"]["videos"] == 0
    assert sum(row["videos"] for row in data["modalities"]) == report_work.VIDEOS
    title = data["lengths"]["characters of title"]
    assert title["max"] == 15_000
    assert sum(count for _, _, count in title["bins"]) == report_work.VIDEOS
    assert all("places" not in finding for finding in data["findings"])
