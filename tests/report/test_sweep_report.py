"""The report of a sweep: its trials, the effect of its settings, and what the best one gains."""

import re
import shutil

import numpy as np
import pytest
from sweep_work import FACTS, SPACE, confirm, write_sweep

from wbdc.cli import main
from wbdc.core.errors import UsageFault
from wbdc.report.build_report import build_report
from wbdc.report.charts.axis import Axis, category_axis, round_ratios
from wbdc.report.charts.sweep_charts import setting_charts, trials_chart
from wbdc.report.page import render_page
from wbdc.report.report_options import ReportOptions
from wbdc.report.subjects import find_subject
from wbdc.sweep.search_space import trial_changes
from wbdc.sweep.sweep_result import MIN_IMPORTANCE_TRIALS, setting_importance
from wbdc.sweep.trial_study import next_trial, open_study


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A work folder with a sweep that is not confirmed."""
    work = tmp_path_factory.mktemp("sweep") / "work"
    write_sweep(work)
    return work


@pytest.fixture
def work(swept, tmp_path):
    """A copy of `swept`."""
    return shutil.copytree(swept, tmp_path / "work")


def report(work):
    return build_report(work, find_subject(work, "rates"), ReportOptions())


def test_trials_come_in_their_order_with_the_best_so_far(work):
    section = report(work).numbers["trials"]
    trials = section["trials"]
    assert [trial["number"] for trial in trials] == list(range(14))
    pruned = [trial for trial in trials if trial["state"] == "pruned"]
    assert [trial["number"] for trial in pruned] == [6, 9]
    assert all(trial["score"] is None and trial["trained_share"] == 0.75 for trial in pruned)
    scores = [trial["score"] for trial in trials if trial["score"] is not None]
    assert [score for _, score in section["best_so_far"]] == list(np.maximum.accumulate(scores))
    complete, ended, best = trials_chart(section).curves
    assert (len(complete.marks), len(ended.marks), ended.is_hollow) == (12, 2, True)
    assert best.path


def test_the_setting_that_decides_is_the_most_important_one(work):
    settings = report(work).numbers["settings"]
    assert settings[0]["name"] == "train.learning_rate.rest"
    assert settings[0]["importance"] > 0.7
    assert sum(one["importance"] for one in settings) == pytest.approx(1)
    by_name = {one["name"]: one for one in settings}
    assert by_name["train.learning_rate.rest"]["is_log"]
    assert set(by_name["train.trick"]["categories"]) == set(SPACE["train.trick"].texts)
    assert by_name["fusion.dropout"]["categories"] == []


def test_few_trials_and_equal_scores_have_no_importance(tmp_path):
    study = open_study(tmp_path, {}, FACTS)
    for _ in range(MIN_IMPORTANCE_TRIALS):
        assert setting_importance(study) is None
        trial = next_trial(study, 0)
        trial_changes(SPACE, trial)
        study.tell(trial, 0.5)
    assert setting_importance(study) is None


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_has_the_confirmed_gain_beside_the_promised_one(work, language):
    unconfirmed = render_page(report(work), language)
    assert 'class="warning"' in unconfirmed
    assert "<b>14</b>" in unconfirmed, "finished trials"
    confirm(work)
    built = report(work)
    assert built.numbers["gain"]["overstated"] == 0.0929
    page = render_page(built, language)
    assert 'class="warning"' not in page
    for number in ("+0.1250", "+0.0321", "-0.0100", "+0.0700", "+0.0929"):
        assert number in page
    assert "[&lt;b&gt;]" in page
    assert "[<b>]" not in page
    assert page.count("<svg viewBox") > len(SPACE)
    if language == "zh":
        texts = re.sub(r"<(style|script|code|dd)\b.*?</\1>|<[^>]*>", " ", page, flags=re.S)
        assert "best so far" not in texts
        assert "pruned" not in texts


def test_a_sweep_is_found_by_its_name_and_by_its_folder(work, tmp_path):
    folder = work / "sweeps" / "rates"
    assert find_subject(work, str(folder)) == find_subject(work, "rates")._replace(path=folder)
    (work / "sweeps" / "rate").mkdir()
    with pytest.raises(UsageFault, match="no packed submission and no sweep"):
        find_subject(work, str(work / "sweeps" / "rate"))


def test_an_empty_sweep_gets_one_sentence(tmp_path):
    from click.testing import CliRunner

    folder = tmp_path / "sweeps" / "new"
    folder.mkdir(parents=True)
    (folder / "trials.log").touch()
    result = CliRunner().invoke(main, ["report", "new", "--work", str(tmp_path)])
    assert result.exit_code == 2
    assert "holds no trials yet" in result.stderr


def test_points_of_charts_lie_on_their_axes(work):
    numbers = report(work).numbers
    rate, *_ = setting_charts(numbers["settings"], numbers["trials"])
    assert rate.x_axis.is_log
    middle = (rate.x_axis.low * rate.x_axis.high) ** 0.5
    ends = rate.x_axis.start + rate.x_axis.end
    assert rate.x_axis.position(middle) == pytest.approx(ends / 2, abs=0.01)
    assert [mark.x for mark in rate.curves[0].marks] == [
        rate.x_axis.position(x) for x, _ in rate.series[0].points
    ]


def test_ticks_of_logarithmic_axes_and_of_categories():
    assert round_ratios(1e-4, 1e-1) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1])
    assert round_ratios(2, 25) == [2, 5, 10, 20]
    assert round_ratios(1.1, 1.4) == pytest.approx([1.1, 1.2, 1.3, 1.4])
    assert len(round_ratios(1e-12, 1e12)) <= 6
    assert Axis(1, 100, 0, 10, is_log=True).position(10) == 5
    ticks = category_axis(["a", "b" * 99], 0, 80).ticks()
    assert [tick.label for tick in ticks] == ["a", "2: b…"]
    assert [tick.position for tick in ticks] == [20, 60]
