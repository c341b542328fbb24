"""The report of an ensemble: its nested predictions, and how its members agree."""

import json
import shutil

import numpy as np
import pytest
import report_work

from wbdc.core.errors import IntegrityFault, UsageFault
from wbdc.ensemble.saved_ensembles import open_report
from wbdc.report.build_report import Report, build_report
from wbdc.report.charts.time_charts import frontier_chart
from wbdc.report.collect.timing import budget_facts
from wbdc.report.page import render_page
from wbdc.report.report_options import ReportOptions
from wbdc.report.subjects import find_subject
from wbdc.train.runs import OOF_FILE, open_run, write_oof

OPTIONS = ReportOptions(draws=100, mistakes=5, pictures=False)
TRUTH = np.arange(report_work.VIDEOS) % 4
CODES = [report_work.probabilities(seed).argmax(1) for seed in (0, 1)]


@pytest.fixture(scope="module")
def numbers(workspace):
    return build_report(workspace, find_subject(workspace, "pair"), OPTIONS).numbers


def test_the_blend_is_that_of_the_saved_report(numbers, workspace):
    saved = open_report(workspace, "pair")
    blend = numbers["blend"]
    assert blend["ensemble"] == saved["ensemble"]
    assert {row["name"]: row["score"] for row in blend["members"]} == {
        name: entry["score"] for name, entry in saved["members"].items()
    }
    right = np.mean([entry["score"]["lv2_micro"] for entry in (blend["ensemble"],)])
    assert 1 - numbers["mistakes"]["total"] / report_work.VIDEOS == pytest.approx(right)
    assert set(numbers["answers"]["support"]["f1"]) == {"all", *report_work.RUNS}


def test_agreement_of_the_members(numbers):
    agreement = numbers["blend"]["agreement"]
    order = [report_work.RUNS.index(name) for name in agreement["names"]]
    first, second = (CODES[number] for number in order)
    wrong = [codes != TRUTH for codes in (first, second)]
    assert agreement["agreement"][0][1] == pytest.approx((first == second).mean())
    assert agreement["mistakes"][0][1] == pytest.approx(np.corrcoef(*wrong)[0, 1])
    assert agreement["all_wrong"] == pytest.approx((wrong[0] & wrong[1]).mean())
    assert agreement["all_right"] == pytest.approx((~wrong[0] & ~wrong[1]).mean())


def test_mistakes_name_the_members_that_are_wrong(numbers):
    assert len(numbers["mistakes"]["videos"]) == 5
    row_of = {name: row for row, name in enumerate(report_work.video_ids())}
    for video in numbers["mistakes"]["videos"]:
        row = row_of[video["id"]]
        expected = {
            name
            for name, codes in zip(report_work.RUNS, CODES, strict=True)
            if codes[row] != TRUTH[row]
        }
        assert set(video["wrong_members"]) == expected
        assert set(video["top"]) == {"all", *report_work.RUNS}


def test_predictions_that_changed_since_are_refused(workspace, tmp_path):
    """All predictions of both runs become wrong."""
    work = shutil.copytree(workspace, tmp_path / "work")
    for name in report_work.RUNS:
        run = open_run(work, name)
        for fold in run.folds():
            folder = run.fold(fold)
            table = run.oof().filter(run.oof()["fold"] == fold)
            ids, labels = table["id"].to_list(), table["label"].to_list()
            p = np.roll(table["p"].to_numpy(), 1, axis=1)
            seal = json.loads((folder / "DONE.json").read_text())
            write_oof(folder / OOF_FILE, ids, fold, labels, p)
            report_work.reseal(folder, seal)
    with pytest.raises(IntegrityFault, match="have changed; build it again with `wbdc ensemble"):
        build_report(work, find_subject(work, "pair"), OPTIONS)


def test_the_frontier_names_its_members():
    choices = [
        {"members": ["a"], "precision": "fp32", "seconds": 100.0, "score": 0.6},
        {"members": ["a", "b"], "precision": "bf16", "seconds": 200.0, "score": 0.7},
    ]
    budget = {"limit": 357.0, "margin": 0.25, "items": 25000, "dropped": [], "frontier": choices}
    facts = budget_facts(budget | {"chosen": choices[1]})
    assert [choice["is_chosen"] for choice in facts["frontier"]] == [False, True]
    chart = frontier_chart(facts)
    texts = [[mark.text for mark in curve.marks] for curve in chart.curves]
    assert texts[0] == ["a, fp32: 100.0 s, 0.6000", "a + b, bf16: 200.0 s, 0.7000"]
    assert texts[1] == texts[0][1:]
    page = render_page(Report({"kind": "ensemble", "name": "x", "time": {"budget": facts}}, {}))
    assert 'data-tip="a + b, bf16: 200.0 s, 0.7000"' in page
    assert "25,000 videos within 357 s, with a margin of 25.0%" in page


def test_an_ensemble_without_its_run_is_explained(workspace, tmp_path):
    work = shutil.copytree(workspace, tmp_path / "work")
    shutil.rmtree(work / "runs" / report_work.RUNS[1])
    with pytest.raises((IntegrityFault, UsageFault), match=report_work.RUNS[1]):
        build_report(work, find_subject(work, "pair"), OPTIONS)
