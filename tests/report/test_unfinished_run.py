"""The page of a run that is being trained: its curves so far, its progress and the time left."""

import json
import os
import shutil

import pytest
import report_work
from click.testing import CliRunner

from wbdc.cli import main
from wbdc.core.files import append_line
from wbdc.core.folders import LOG_FILE
from wbdc.prepare.dataset import open_prepared
from wbdc.report.build_report import build_report
from wbdc.report.collect.training_progress import seconds_left
from wbdc.report.page import render_page
from wbdc.report.report_options import ReportOptions
from wbdc.report.subjects import find_subject
from wbdc.train.metrics import METRICS_FILE
from wbdc.train.monitor.alarm_rules import inert_message
from wbdc.train.runs import Run, RunFacts, publish_run

NAME = "toy-66666666"


@pytest.fixture
def run(workspace, tmp_path):
    """A run whose fold 0 has made 20 of 40 steps, in a work folder without finished runs."""
    work = tmp_path / "work"
    shutil.copytree(workspace / "prepared", work / "prepared")
    data = open_prepared(work).hash
    facts = RunFacts("train", "toy", data, 0, None, None, [*report_work.CLASSES], "wechat2022")
    run = Run(work / "runs" / NAME, facts)
    publish_run(run)
    run.fold("0").mkdir()
    write_line(run, 10, classify=1.9)
    write_line(run, 20, alarms={"match leaking": 0.0})  # of a log without sentences
    messages = {"classify inert": inert_message("classify", 20, 1.7, 1.38629)}
    write_line(run, 20, alarms={"classify inert": 1.7}, messages=messages)
    write_line(run, 20, classify=1.7)
    return run


def write_line(run, step, **values):
    counters = {"step": step, "steps": 40, "epochs": 4, "seconds": step * 30}
    path = run.fold("0") / METRICS_FILE
    append_line(path, json.dumps({**counters, "chance": {"classify": 1.38629}, **values}))


def report(run):
    work = run.folder.parent.parent
    return build_report(work, find_subject(work, NAME), ReportOptions(draws=100))


def test_a_run_without_a_finished_fold_has_its_progress(run):
    numbers = report(run).numbers
    assert "answers" not in numbers
    progress = dict(numbers["progress"]["0"])
    assert progress.pop("updated").startswith("20")
    assert progress == {
        "step": 20,
        "steps": 40,
        "epoch": 2.0,
        "epochs": 4,
        "seconds_left": 600.0,
    }
    curves = numbers["training"]["0"]
    assert curves["losses"] == {"classify": [[10, 1.9], [20, 1.7]]}
    assert (curves["chances"], curves["steps"]) == ({"classify": 1.38629}, 20)
    languages = {
        "en": ("This run is not finished", "classify is inert: its mean loss is 1.7000 after"),
        "zh": ("该训练尚未完成", "classify 没有学到东西：第 20 步后其平均损失为 1.7000"),
    }
    for language, notes in languages.items():
        page = render_page(report(run), language)
        assert all(note in page for note in notes)
        assert "10 min" in page
        assert "2 / 4" in page


def test_alarms_of_one_step_have_their_sentences_and_ends(run):
    """Both objectives of a training are judged first at the same step."""
    inert = inert_message("classify", 20, 1.7, 1.38629)
    alarms = [
        {"message": inert, "ended_step": None},
        {"message": "match leaking (alarm after step 20)", "ended_step": None},
    ]
    assert report(run).numbers["training"]["0"]["alarms"] == alarms
    write_line(run, 30, ended_alarms={"classify inert": 20})
    write_line(run, 30, alarms=[1], messages=[1], ended_alarms="?")
    alarms[0]["ended_step"] = 30
    assert report(run).numbers["training"]["0"]["alarms"] == alarms
    page = render_page(report(run))
    assert "(until step 30)" in page


def test_a_finished_run_replaces_the_page(run, workspace):
    work = run.folder.parent.parent
    page = work / "reports" / f"{NAME}.html"
    words = ["report", "--work", str(work), "--draws", "100", "--no-pictures"]
    assert CliRunner().invoke(main, words).exit_code == 0, "the only training is the default"
    assert "This run is not finished" in page.read_text()
    folds = open_prepared(work).read_folds()
    report_work.write_run(work, NAME, run.facts.data, 0, folds)
    shutil.rmtree(run.fold("1"))
    shutil.copytree(run.fold("0"), run.fold("1"), ignore=shutil.ignore_patterns("DONE.json"))
    assert CliRunner().invoke(main, words).exit_code == 0
    assert "Some folds of this run are not finished" in page.read_text()
    assert "Scores of the folds" in page.read_text()
    shutil.rmtree(run.fold("1"))
    assert CliRunner().invoke(main, words).exit_code == 0
    assert "not finished" not in page.read_text()


def test_a_fold_that_has_logged_nothing_is_no_error(run):
    os.unlink(run.fold("0") / METRICS_FILE)
    (run.fold("0") / LOG_FILE).touch()
    built = report(run)
    assert built.numbers["progress"]["0"]["step"] is None
    assert "nothing logged yet" in render_page(built)


def test_the_time_left_is_that_of_the_process_that_logged_last():
    def lines(*pairs):
        return [{"step": step, "steps": 100, "seconds": seconds} for step, seconds in pairs]

    assert seconds_left([]) is None
    assert seconds_left(lines((0, 1.0))) is None
    assert seconds_left(lines((10, 5.0))) == pytest.approx(45)
    assert seconds_left(lines((10, 5.0), (20, 20.0))) == pytest.approx(80)
    resumed = lines((10, 100.0), (20, 200.0), (30, 2.0))
    assert seconds_left(resumed) is None
    assert seconds_left([*resumed, *lines((40, 4.0))]) == pytest.approx(12)
    assert seconds_left(lines((100, 7.0))) == 0
