"""The log of a fold."""

import re

import toys

from wbdc.core.folders import LOG_FILE, is_empty
from wbdc.train.log_file import log_to_file
from wbdc.train.reporter import Reporter


def test_lines_are_reported_and_written_with_their_times(tmp_path):
    reported = []
    reporter = log_to_file(tmp_path, Reporter(log=reported.append, warn=reported.append))
    reporter.log("step 1")
    reporter.warn("a warning")
    assert reported == ["step 1", "a warning"]
    lines = (tmp_path / LOG_FILE).read_text().splitlines()
    pattern = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d (.*)"
    assert [re.fullmatch(pattern, line)[1] for line in lines] == reported


def test_a_training_continues_where_the_log_cannot_be_written(tmp_path):
    reported = []
    (tmp_path / LOG_FILE).mkdir()
    reporter = log_to_file(tmp_path, Reporter(log=reported.append, warn=reported.append))
    for report in (reporter.log, reporter.warn, reporter.log):
        report("line")
    first, warning, *others = reported
    assert first == "line"
    assert "cannot be written" in warning
    assert others == ["line", "line"], "the warning comes once"


def test_a_folder_with_a_log_alone_is_empty(tmp_path):
    (tmp_path / LOG_FILE).write_text("x")
    assert is_empty(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("{}")
    assert not is_empty(tmp_path)


def test_a_trained_fold_has_a_log_that_its_seal_leaves_out(kit, fresh):
    trained = toys.run_json("train", "--kit", kit, "--work", fresh, "--fold", 0, *toys.SHORT)
    folder = fresh / "runs" / trained["run"] / "fold-0"
    assert "random weights" in (folder / LOG_FILE).read_text()
    assert LOG_FILE not in toys.bits(folder.parent)
    assert LOG_FILE not in (folder / "DONE.json").read_text()
