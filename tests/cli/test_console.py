"""The console in a real terminal: bars and lines take turns, tables fit."""

import pytest
from terminal import Screen, run_in_terminal

BARS = """
import sys, time, warnings
from wbdc.cli import console

with console.progress() as progress:
    for what, of in (("annotations of labeled", 121857), ("view of labeled", 165)):
        for done in (0, of // 3, of // 2, of):
            progress(what, done, of, "classify 0.123")
            time.sleep(0.03)
    progress("frames", 0, 9)
    console.say("weights of text: random weights")
    print("a library writes to stderr", file=sys.stderr)
    progress("frames", 9, 9)
    progress("frames", 3, 9)
    time.sleep(0.15)
    progress("frames", 9, 9)
console.say("the end of the log")
console.tell("the result")
"""


@pytest.mark.parametrize("columns", [80, 140])
def test_bars_and_lines_take_turns_in_a_terminal(columns):
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
        "annotations of labeled", "view of labeled", "frames"
    }  # fmt: skip
    totals = {"annotations of labeled": "/121857 ", "view of labeled": "/165 ", "frames": "/9 "}
    for line in bars:
        name = line.split(" \u2501")[0]
        assert line.count(name) == 1 and totals[name] in f"{line} "


def test_results_that_are_piped_do_not_reach_the_terminal_while_bars_are_shown(tmp_path):
    path = tmp_path / "results"
    script = f"""
import sys
from wbdc.cli import console

sys.stdout = open({str(path)!r}, "w")
with console.progress() as progress:
    progress("frames", 1, 2)
    console.tell("the result")
    print("a library writes to stdout")
sys.stdout.close()
"""
    written = run_in_terminal(script, 80)
    assert "the result" not in written and "stdout" not in written
    assert path.read_text() .split("\n") == ["the result", "a library writes to stdout", ""]
