"""The console in a real terminal: progress bars and log lines do not mix, and tables fit."""

import io
import re
from itertools import pairwise

import pytest
import toys
from rich.console import Console
from terminal import Screen, run_in_terminal

from wbdc.cli import compare, console, demo, diff, ensemble_report, prepare, submit, train, verify

BARS = """
import sys, time, warnings
from wbdc.cli import console

with console.progress() as progress:
    for what, of in (("annotations of labeled", 121857), ("view of labeled", 165)):
        for done in (0, of // 3, of // 2, of):
            progress(what, done, of, "classify 0.123")
            time.sleep(0.03)
    progress("frames", 0, 9)
    console.log("weights of text: random weights")
    print("a library writes to stderr", file=sys.stderr)
    progress("frames", 9, 9)
    progress("frames", 3, 9)
    time.sleep(0.15)
    progress("frames", 9, 9)
console.log("the end of the log")
console.print_text("the result")
"""


@pytest.mark.parametrize("columns", [80, 140])
def test_progress_bars_and_log_lines_do_not_mix(columns):
    screen = Screen(columns).write(run_in_terminal(BARS, columns))

    assert [line for line in screen.lines if line] == [
        "annotations of labeled: 121,857 done  classify 0.123",
        "view of labeled: 165 done  classify 0.123",
        "weights of text: random weights",
        "a library writes to stderr",
        "frames: 9 done",
        "frames: 9 done",
        "the end of the log",
        "the result",
    ]
    assert screen.wrapped == [], "no line is broken"

    bars = [line for frame in screen.frames for line in frame if "\u2501" in line]
    assert {line.split("  ")[0].split(" \u2501")[0] for line in bars} == {
        "annotations of labeled",
        "view of labeled",
        "frames",
    }
    totals = {"annotations of labeled": "/121857 ", "view of labeled": "/165 ", "frames": "/9 "}
    for line in bars:
        name = line.split(" \u2501")[0]
        assert line.count(name) == 1
        assert totals[name] in f"{line} "


FOLDS = """
import time
from wbdc.cli import console

losses = "  ".join(f"{name} 4.123 (chance 5.298)" for name in ("classify", "contrast", "match"))
with console.progress() as progress:
    for done in (0, 10, 20):
        for fold in (0, 1):
            progress(f"train fold-{fold}", done, 12345, losses)
    time.sleep(0.3)  # bars are drawn ten times a second
    progress("train fold-1", 0, 0)
    time.sleep(0.15)
"""


def test_folds_that_are_trained_side_by_side_take_one_line_each():
    screen = Screen(80).write(run_in_terminal(FOLDS, 80))
    frames = [[line for line in frame if line.strip()] for frame in screen.frames]
    assert max(map(len, frames)) == 2, "the losses of a fold are cut, not continued below"
    both = next(frame for frame in frames if len(frame) == 2 and "20/12345" in frame[1])
    for fold, line in enumerate(both):
        assert line.startswith(f"train fold-{fold} \u2501")
        assert "classify 4.1" in line
        assert console.display_width(line) <= 80
    assert not any("train fold-1" in line for line in screen.lines), "its bar is removed"


def test_piped_results_do_not_reach_the_terminal(tmp_path):
    path = tmp_path / "results"
    script = f"""
import sys
from wbdc.cli import console

sys.stdout = open({str(path)!r}, "w")
with console.progress() as progress:
    progress("frames", 1, 2)
    console.print_text("the result")
    print("a library writes to stdout")
sys.stdout.close()
"""
    written = run_in_terminal(script, 80)
    assert "the result" not in written
    assert "stdout" not in written
    assert path.read_text().split("\n") == ["the result", "a library writes to stdout", ""]


RUNS = [f"dual_stream-tiny-{end}" for end in ("afbc34bc", "1a2b3c4d", "5e6f7a8b")]
SCORES = {f"lv{level}_{kind}": 0.1378 + level for level in (1, 2) for kind in ("micro", "macro")}
SCORES |= {"mean": 0.7215}
FACTS = {"score": SCORES, "official": {"mean": 0.7322}, "interval": [0.7011, 0.7417]}
GAIN = {"difference": 0.0123, "low": -0.0045, "high": 0.0267, "verdict": "within noise"}
SHORT = {"seconds": 12_345.6}
WORDS = ["title", "asr", "ocr", "frames"]


@pytest.fixture
def narrow(monkeypatch):
    """Open a terminal of 80 columns; call it for the printed lines."""
    buffer = io.StringIO()
    terminal = Console(
        file=buffer, width=80, force_terminal=True, color_system=None, highlight=False
    )
    monkeypatch.setattr(console, "_console", lambda name: terminal)
    return lambda: buffer.getvalue().splitlines()


def assert_whole(lines, *pieces):
    """Check that each piece is on one line, nothing is cut, and no line is too wide."""
    assert [line for line in lines if console.display_width(line) > 80] == []
    assert not any("\u2026" in line for line in lines)
    missing = [piece for piece in pieces if not any(has_piece(line, piece) for line in lines)]
    assert missing == [], "\n".join(lines)


def has_piece(line, piece):
    return re.search(rf"(?<![\w.]){re.escape(piece)}(?![\w])", line) is not None


NUMBERS = ("1.1378", "2.1378", "0.7215", "0.7322")
BANDS = ("1-9", "10-49", "50-199", "200+")
SUPPORT = {
    "bands": [{"videos per class": band, "classes": 128, "videos": 10_656} for band in BANDS],
    "f1": dict.fromkeys(RUNS[:2], [0.1234] * len(BANDS)),
}


def test_ensemble_report_fits_80_columns(narrow):
    members = dict.fromkeys(RUNS, FACTS)
    choice = {"members": RUNS, "precision": "bf16", "seconds": 12_345.6, "score": 0.7391}
    dropped = [{"name": f"{run} frames=4", "seconds": 12_345.6, "gain": GAIN} for run in RUNS]
    budget = {
        "items": 25_000,
        "limit": 357.1,
        "margin": 0.1,
        "frontier": [choice],
        "chosen": choice,
    }
    report = {
        "rows": 100_000,
        "folds": ["0", "1"],
        "members": members,
        "weights": dict.fromkeys(RUNS, 0.3456),
        "ensemble": FACTS,
        "class_priors": {"used": False, "gain": GAIN},
        "gain": GAIN,
        "best": RUNS[0],
        "weighting": {"method": "halfway", "trials": {"equal": -1.234, "halfway": -1.229}},
        "geometric": {
            "used": False,
            "gain": GAIN,
            "trials": {"arithmetic": -1.229, "geometric": -1.345},
        },
        "dropped": [{"name": RUNS[2], "reason": "it counts for less than 1 %", "weight": 4.3e-07}],
        "budget": budget | {"dropped": dropped},
        "bands": {
            "used": True,
            "gain": GAIN,
            "names": ["1-49", "50+"],
            "weights": dict.fromkeys(RUNS, [0.2468, 0.1357]),
        },
        "support": SUPPORT,
    }
    ensemble_report.print_report(report, "ensemble-of-all-three")
    pieces = (
        *RUNS,
        *SCORES,
        *NUMBERS,
        "0.3456",
        "0.7011",
        "0.7417",
        "12345.6000",
        "+0.0123",
        "-0.0045",
    )
    names = ("dropped", "4.3e-07", "bf16", "ensemble-of-all-three")
    assert_whole(narrow(), *pieces, *names, "0.2468", "0.1234")


def test_comparison_fits_80_columns(narrow):
    scores = dict.fromkeys(RUNS[:2], SCORES)
    comparison = {"rows": 100_000, "scores": scores, "support": SUPPORT, **GAIN}
    compare.print_comparison(comparison, *RUNS[:2])
    assert_whole(
        narrow(),
        *RUNS[:2],
        *SCORES,
        *NUMBERS[:3],
        "100,000",
        "+0.0123",
        "-0.0045",
        "+0.0267",
        "10,656",
        "0.1234",
    )


def test_training_report_fits_80_columns(narrow):
    folder = f"work/runs/{RUNS[0]}"
    train.print_folds(RUNS[0], folder, {"0": FACTS | SHORT, "all": SHORT})
    assert_whole(narrow(), RUNS[0], folder, *SCORES, *NUMBERS, "fold 0", "fold all", "12346 s")


def test_prepare_report_fits_80_columns(narrow):
    modalities = {"+".join(WORDS[:n]): 1_000_000 * n for n in (1, 2, 3, 4)} | {"nothing": 17}
    described = {"mean": 191.15, "p95": 1235.5}
    sizes = {f"{width} x 1080": 100_000 * width for width in range(1, 6)}
    report = {
        "videos": 10_000_017,
        "present": dict.fromkeys(WORDS, 0.97),
        "characters of title": described,
        "modalities": modalities,
        "frame sizes": sizes,
    }
    splits = ("labeled", "unlabeled", "test")
    facts = {
        "counts": dict.fromkeys(splits, 10_000_017),
        "frames": dict.fromkeys(splits, 1_500_021),
        "statistics": dict.fromkeys(splits, report),
        "folds": 5,
        "seed": 0,
        "classes": [],
        "known_classes": [],
        "shift": [
            {
                "statistic": "characters of title",
                "train_mean": 1.25,
                "test_mean": 2.5,
                "distance": 0.5,
                "notable": True,
            }
        ],
    }
    place = "10026655171233560317 ~ 10617622138925008756"
    findings = {"duplicate.frames": {"count": 1_234_567, "places": [place]}}
    folder = "work/prepared/2e3479562de6"
    prepare.print_result(prepare.PrepareResult(facts, findings, folder))
    pieces = (
        "title+asr+ocr+frames: 4,000,000",
        "5\u00d71080",
        "1.2500",
        "1,234,567",
        *place.split(" ~ "),
    )
    assert_whole(narrow(), *pieces, "10,000,017", "duplicate.frames", "work/prepared/2e3479562de6")


def test_submit_and_verify_reports_fit_80_columns(narrow):
    folder = f"submissions/{RUNS[0]}"
    latency = {
        "sentence": f"{folder} needs 123.45 s of 357.14 s for 25,000 videos",
        "verdict": "PASS",
    }
    result = {
        "files": 1_234,
        "bytes": 5_432_198_765,
        "proof": {"videos": 2_048},
        "targets": {"zip": f"{folder}.zip"},
    }
    submit._print(folder, result | {"latency": latency})
    again, anew = (
        {"videos": 2_048},
        {
            "predictions": None,
            "retrained_score": 0.7215,
            "packed_score": 0.7322,
            "equal_weights": 3,
            "members": 10,
        },
    )
    verify._print(folder, result | {"latency": latency, "rerun": again, "retrain": anew})
    assert_whole(
        narrow(),
        folder,
        f"{folder}.zip",
        "1234",
        "5432.2",
        "2,048",
        "123.45",
        "25,000",
        "0.7215",
        "0.7322",
    )


def test_diff_report_fits_80_columns(narrow):
    files = [f"{run}/fold-0/model.safetensors" for run in RUNS]
    lines = [
        f"{name} and {other}: 152 of 152 tensors differ, by at most 0.00123"
        for name, other in pairwise(files)
    ]
    diff._print_section("weights", lines)
    console.print_text(
        diff._prediction_line({"max_difference": 0.00123, "changed": 0.1234, "videos": 25_000})
    )
    assert_whole(narrow(), *files, "152", "0.00123", "12.34%", "25,000")


def test_demo_report_fits_80_columns(narrow, tmp_path):
    latency = {"verdict": "PASS", "sentence": "needs 123.45 s"}
    report = {
        "members": dict.fromkeys(RUNS, FACTS),
        "ensemble": FACTS,
        "rows": 330,
        "folds": ["0"],
        "best": RUNS[0],
        "gain": GAIN,
    }
    report |= {"weighting": {"method": "equal", "trials": {}}, "dropped": []}
    report |= {"geometric": {"used": False, "reason": "there is one member"}}
    result = {
        "report": report,
        "test_scores": FACTS,
        "submission": {"latency": latency, "folder": "demo/submissions/demo"},
    }
    demo.print_demo(
        "demo" / tmp_path.relative_to("/"),
        result | {"prepared": "demo/prepared/2e3479562de6", "page": "demo/reports/demo.html"},
    )
    lines = [line for line in narrow() if str(tmp_path) not in line]
    assert_whole(
        lines,
        *(*RUNS, *SCORES, *NUMBERS),
        *("demo/submissions/demo", "demo/prepared/2e3479562de6", "demo/reports/demo.html"),
    )


def test_kits_and_doctor_reports_fit_80_columns(narrow):
    for words in (("kits",), ("doctor",)):
        result = toys.wbdc(*words)
        assert result.exit_code == 0, result.exception
    assert_whole(narrow(), "dual_stream", "cross_attention", "open_clip_torch")


def test_text_wraps_between_words_and_short_rows_stay_a_grid(narrow):
    console.print_table(
        "Two", ("name", "about"), [("a-name-of-a-run", "many words " * 12), ("b", "few")]
    )
    lines = narrow()
    assert lines[0] == "Two"
    assert sum("\u2502" in line for line in lines) >= 3
    assert_whole(lines, "a-name-of-a-run")


def test_command_in_backticks_stays_on_one_line(narrow):
    command = "`wbdc prepare --check-only --list archive.missing`"
    console.print_text(
        f"There are some archives that nobody could find where they should be; {command}"
    )
    assert narrow()[1].strip() == command


def test_sentence_is_one_line_without_a_terminal(capsys):
    console.print_text("many words " * 30)
    assert capsys.readouterr().out == "many words " * 30 + "\n"
