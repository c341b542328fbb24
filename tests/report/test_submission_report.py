"""The report of a submission: the projected final run by stages, from the receipt of its check."""

import pytest

from wbdc.core.files import publish_json
from wbdc.ensemble.saved_ensembles import open_report
from wbdc.report.build_report import build_report
from wbdc.report.collect.timing import projected_stages
from wbdc.report.page import render_page
from wbdc.report.report_options import ReportOptions
from wbdc.report.subjects import find_subject
from wbdc.submit.check.manifest import RECEIPT_FILE, REPORT_FILE, write_manifest

RECEIPT = {
    "verdict": "PASS",
    "sentence": "The packed folder would need 100 s. Repeated videos were 32% faster.",
    "items": 25000,
    "limit": 357.0,
    "sample_videos": 160,
    "largest_run": 160,
    "projection": {"expected": 100.0, "lower": 90.0, "upper": 130.0, "margin": 0.25, "fixed": 20.0},
    "stage_seconds": {"decode": 1.5, "vision": 3.0, "fuse": 0.5},
    "stage_shares": {"vision": 0.5, "decode": 0.25, "fuse": 0.25},
    "machine": {"cores": 2, "processor": "X <b>"},
    "memory_peaks": {"memory": 2e9, "gpu_memory": 0},
    "warnings": ["Repeated videos were 32% faster."],
}


@pytest.fixture
def package(workspace, tmp_path):
    folder = tmp_path / "monday"
    folder.mkdir()
    saved = open_report(workspace, "pair")
    publish_json(folder / REPORT_FILE, {"prepared data": "0a1b", "report": saved})
    facts = {"competition": "wechat2022", "precision": "fp32", "members": ["a/fold-0", "b/fold-0"]}
    write_manifest(folder, facts)
    publish_json(folder / RECEIPT_FILE, RECEIPT)
    return folder


def test_stages_fill_the_projected_time_in_the_order_of_the_work():
    stages = projected_stages(RECEIPT)
    assert [(one["stage"], one["start"], one["seconds"]) for one in stages] == [
        ("start", 0, 20),
        ("decode", 20, 20),
        ("vision", 40, 40),
        ("fuse", 80, 20),
    ]
    assert sum(one["share"] for one in stages) == pytest.approx(1)
    assert projected_stages({"projection": None}) == []


def test_the_page_of_a_submission(workspace, package):
    report = build_report(workspace, find_subject(workspace, str(package)), ReportOptions())
    assert report.numbers["blend"]["ensemble"] == open_report(workspace, "pair")["ensemble"]
    page = render_page(report)
    assert "<b>PASS</b>" in page
    assert "expected 100 s, between 90 and 130 s; the limit is 357 s" in page
    assert "X &lt;b&gt;" in page
    assert "2,000 MB" in page
    assert page.count("Repeated videos were 32% faster.") == 1, "as a warning of its own"
    assert "</b>. The packed folder would need 100 s.</p>" in page
    chinese = render_page(report, "zh")
    assert "预计 100 秒，在 90 与 130 秒之间；限制为 357 秒" in chinese
    assert '<html lang="zh-Hans">' in chinese


def test_a_package_without_time_check_or_report_has_a_page(workspace, package):
    (package / RECEIPT_FILE).unlink()
    (package / REPORT_FILE).unlink()
    report = build_report(workspace, find_subject(workspace, str(package)), ReportOptions())
    assert set(report.numbers) == {"kind", "name", "facts", "time"}
    assert report.numbers["facts"]["models"] == 2
    assert report.numbers["time"] == {"receipt": None}
    page = render_page(report)
    assert "monday" in page
    assert "nothing is known of its time. Run <code>wbdc submit --check-latency</code>" in page
