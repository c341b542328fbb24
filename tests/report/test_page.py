"""The page: it holds the numbers of the JSON, and texts of the data are texts."""

import base64
import html
import json
import re

import pytest
import report_work
import small
from click.testing import CliRunner

from wbdc.cli import main
from wbdc.prepare.corrections import read_corrections
from wbdc.report.build_report import Report
from wbdc.report.page import render_page

MAX_PAGE_BYTES = 5_000_000


def invoke(workspace, *words, code=0):
    result = CliRunner().invoke(main, ["report", *words, "--work", str(workspace)])
    assert result.exit_code == code, result.output
    return result


def write_page(workspace, tmp_path, *words):
    path = tmp_path / "page.html"
    invoke(workspace, *words, "--draws", "100", "--out", str(path))
    return path.read_text(encoding="utf-8")


def rows_of(page, caption):
    """Return the cells of a table of the page, by its caption."""
    table = re.search(rf"<caption>{re.escape(caption)}</caption>(.*?)</table>", page, re.S)[1]
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.S)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in rows]
    return [[html.unescape(re.sub("<[^>]*>", "", cell)).strip() for cell in row] for row in cells]


def key_figures_of(page):
    """Return {name: [number, what follows]} of the head of a page."""
    rows = re.findall(r"<div><dt>(.*?)</dt><dd><b>(.*?)</b>(.*?)</dd></div>", page)
    return {name: [value, re.sub("<[^>]*>", "", note).strip()] for name, value, note in rows}


def test_the_head_of_a_page_has_its_key_figures(workspace, tmp_path):
    page = write_page(workspace, tmp_path, report_work.RUNS[0])
    numbers = json.loads(invoke(workspace, report_work.RUNS[0], "--draws", "100", "--json").stdout)
    folds = numbers["folds"]
    low, high = folds["interval"]
    assert key_figures_of(page) == {
        "score": [
            f"{folds['pooled']['score']['mean']:.4f}",
            f"95 % interval {low:.4f} – {high:.4f}",
        ],
        "mean of the folds": [f"{folds['mean']['mean']:.4f}", f"± {folds['sd']['mean']:.4f}"],
        "mistakes": [str(numbers["mistakes"]["total"]), "of 36 held-out videos"],
    }
    data = key_figures_of(write_page(workspace, tmp_path, "--prepared"))
    assert data["labeled videos"][0] == "36"
    assert data["near-duplicate groups"] == ["1", "1 with several labels"]
    ensemble = key_figures_of(write_page(workspace, tmp_path, "pair"))
    assert list(ensemble) == ["score", "gain over the best member", "mistakes"]


def test_the_page_holds_the_numbers_of_the_json(workspace, tmp_path):
    page = write_page(workspace, tmp_path, report_work.RUNS[0])
    numbers = json.loads(invoke(workspace, report_work.RUNS[0], "--draws", "100", "--json").stdout)
    header, *rows = rows_of(page, "Scores of the folds")
    for row, entry in zip(rows, numbers["folds"]["folds"].values(), strict=False):
        expected = [f"{entry['score'][name]:.4f}" for name in header[2:-2]]
        assert row[1:] == [
            str(entry["videos"]),
            *expected,
            f"{entry['official']['mean']:.4f}",
            f"{entry['seconds']:,.5g}",
        ]
    folds = numbers["folds"]
    over_folds = [f"{folds[name]['mean']:.4f}" for name in ("mean", "official")]
    assert [rows[-3][2], rows[-3][-2]] == over_folds
    pooled = folds["pooled"]["score"]
    assert rows[-1][2:-2] == [f"{pooled[name]:.4f}" for name in header[2:-2]]
    confusions = [
        [pair["true"], pair["predicted"], str(pair["videos"]), f"{pair['gain']:+.4f}"]
        for pair in numbers["answers"]["confusions"]
    ]
    assert rows_of(page, "Confusions that cost most points")[1:] == confusions
    assert rows_of(page, "fold 1")[1:] == [
        [str(step), f"{value:,.5g}"]
        for step, value in numbers["training"]["1"]["running_means"]["classify"]
    ]
    points = [f"{video['points']:.4f}" for video in numbers["mistakes"]["videos"]]
    assert re.findall(r"lost points ([\d.]+)", page) == points


def test_hostile_texts_are_texts(workspace, tmp_path):
    page = write_page(workspace, tmp_path, report_work.RUNS[0])
    assert "document.title = &#39;hacked&#39;" in page
    assert "<script>document" not in page
    assert "{{ 7 * 7 }}" in page
    assert f"<bdi>{report_work.RTL_TEXT}</bdi>" in page
    assert "… and 13,500 more characters" in page
    assert len(page.encode()) < MAX_PAGE_BYTES


def test_the_page_needs_no_other_file_and_shows_no_test_video(workspace, tmp_path):
    page = write_page(workspace, tmp_path, report_work.RUNS[0])
    links = re.findall(r'(?:src|href)="([^"]{1,40})', page)
    assert {link.split(":")[0] for link in links if not link.startswith("#")} == {"data"}
    assert "http:" not in page
    assert "https:" not in page
    assert report_work.TEST_TEXT not in page
    assert "9" * 20 not in page
    assert page.count("data:image/jpeg") > 10
    plain = write_page(workspace, tmp_path, report_work.RUNS[0], "--no-pictures")
    assert "data:image/jpeg" not in plain


def test_bad_names_get_one_sentence(workspace, tmp_path):
    result = invoke(workspace, "toy-1111111", code=2)
    assert result.stderr.count("\n") == 1
    assert "no run, ensemble, submission or sweep called 'toy-1111111'" in result.stderr
    assert "did you mean 'toy-11111111'?" in result.stderr
    assert "mutually exclusive" in invoke(workspace, "x", "--prepared", code=2).stderr
    assert "begin with 'ff'" in invoke(workspace, "--prepared", "ff", code=2).stderr
    empty = invoke(tmp_path, code=2).stderr
    assert "has no finished run or ensemble; train one with" in empty
    assert "is no packed submission" in invoke(workspace, str(tmp_path), code=2).stderr


def test_prepared_data_have_a_page(workspace):
    result = invoke(workspace, "--prepared")
    path = next((workspace / "reports").glob("*.html"))
    assert result.stdout == f"Report: {path}\n"
    assert "Near-duplicates" in path.read_text(encoding="utf-8")


def test_label_errors_become_corrections(workspace, tmp_path):
    """The file corrects the label of video 7, and the page offers the same one."""
    file = tmp_path / "review.csv"
    words = ("--draws", "100", "--label-errors", str(file))
    page = write_page(workspace, tmp_path, report_work.RUNS[0], *words)
    lines = file.read_text().splitlines()
    name = report_work.video_ids()[7]
    assert lines[0] == "id,label,given,given_probability,suggested_probability"
    assert lines[1].startswith(f"{name},0000,0203,0.0")
    assert read_corrections(file).label_of[name] == "0000"
    data = re.search(r'href="data:text/csv;charset=utf-8;base64,([^"]+)"', page)[1]
    assert base64.b64decode(data).decode() == file.read_text()
    stderr = invoke(workspace, "--prepared", "--label-errors", str(file), code=2).stderr
    assert "--label-errors needs out-of-fold predictions" in stderr


def test_a_page_of_many_label_errors_and_duplicates_stays_small(workspace):
    """1,500 errors and a group of 500 videos: the surest errors and the first videos are shown."""
    error = {"id": "1", "given": "a", "suggested": "b"}
    error |= {"given_probability": 0.1, "suggested_probability": 0.9}
    numbers = json.loads(invoke(workspace, "--prepared", "--json").stdout)
    group = {"ids": [f"video {i}" for i in range(500)], "labels": ["a"] * 500, "by": ["text"]}
    numbers["data"]["duplicates"]["groups"] = [group | {"has_conflict": False}]
    numbers["mistakes"] = {"total": 0, "members": [], "videos": []}
    numbers["label_errors"] = [error] * 1500
    page = render_page(Report(numbers, {}))
    assert page.count('<th scope="row"><code>1</code></th>') == 1000
    assert "These are the surest of 1,500; <code>wbdc report --label-errors FILE</code>" in page
    assert "… and 488 more videos" in page
    assert "video 11<" in page
    assert "video 12<" not in page


def test_a_report_of_a_run_imports_no_torch(workspace):
    words = ["report", report_work.RUNS[0], "--work", str(workspace), "--draws", "100"]
    heavy = ("torch", "transformers", "sklearn", "scipy")
    script = (
        f"import sys\nfrom wbdc.cli import main\nmain({words}, standalone_mode=False)\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    process = small.python(script)
    assert process.stdout.splitlines()[-1] == "[]", process.stderr


@pytest.mark.parametrize("word", ["report", "prepared"])
def test_the_default_is_what_was_finished_last(workspace, word):
    words = ["--prepared"] if word == "prepared" else []
    numbers = json.loads(invoke(workspace, *words, "--draws", "100", "--json").stdout)
    assert numbers["kind"] == {"report": "ensemble", "prepared": "prepared"}[word]
