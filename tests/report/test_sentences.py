"""Chinese sentences of alarms and of the time check: no English is left in them."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

import wbdc
from wbdc.report.page import CLAUSES, _read_texts, translate_sentences
from wbdc.report.sentences import PLACEHOLDER, sentence_translator
from wbdc.submit.timing import verdict
from wbdc.submit.timing.bottleneck import READING_STAGES, ServingSizes
from wbdc.submit.timing.full_run import FullRun
from wbdc.submit.timing.memory_growth import MemoryGrowth, describe_growth
from wbdc.submit.timing.plausibility import (
    caching_warning,
    memory_warning,
    precision_warning,
    untimed_run_warning,
)
from wbdc.submit.timing.repeated_runs import no_repetition_note, unmarked_time_note
from wbdc.train.monitor.alarm_rules import inert_message, leaking_message
from wbdc.train.monitor.probe import collapse_message

PACKAGE = Path(wbdc.__file__).parent
MIN_LITERAL = 6  # shorter ones, like "models", tell nothing
TO_CHINESE = translate_sentences("zh")
# names of options, settings, units and commands stay
ENGLISH = re.compile(r"(?<![-./_\w`])[a-z]{3,}(?![-./_\w=])")
KEPT_WORDS = {"min", "match", "train", "use", "vision", "text", "frames", "length"}


def numbers(text):
    return sorted(re.findall(r"[\d.]*\d", text))


def english_words(text):
    return set(ENGLISH.findall(re.sub("`[^`]*`", "", text))) - KEPT_WORDS


ALARMS = [
    inert_message("match", 120, 0.7, 0.6931),
    inert_message("match", 120, 1.7, 0.6931),
    leaking_message("match", 30, 0.001, 0.6931),
    leaking_message("match", 30, 0, 0.6931),
    collapse_message(40, 1.25, 30.5),
]


@pytest.mark.parametrize("message", ALARMS)
def test_alarms_keep_their_numbers(message):
    translated = TO_CHINESE(message)
    assert english_words(translated) == set(), translated
    assert numbers(translated) == numbers(message)


def projection(status, expected, fixed=1.0, rule=""):
    return SimpleNamespace(
        status=status,
        lower=expected * 0.9,
        upper=expected * 1.2,
        fixed=fixed,
        expected=expected,
        rate=SimpleNamespace(rule=rule),
    )


def shares(stage):
    even = dict.fromkeys((*READING_STAGES, "vision", "fuse", "linear"), 0.05)
    return even | {stage or "fuse": 0.7}


@pytest.mark.parametrize("stage", [None, *READING_STAGES, "vision", "fuse", "linear"])
@pytest.mark.parametrize("status", ["PASS", "FAIL", "INCONCLUSIVE"])
@pytest.mark.parametrize("members", [1, 3])
def test_time_checks_have_no_english_left(stage, status, members):
    for expected in (9.12, 460.0, 9000.0):
        projected = projection(status, expected, 1.0 if stage else expected)
        for full in (None, 24000):
            for sizes in (ServingSizes(16, 256, members), ServingSizes(1, 32, members)):
                sentence = verdict._explain_time(
                    projected, shares(stage), sizes, 25000, 357.0, full
                )
                translated = TO_CHINESE(sentence)
                assert english_words(translated) == set(), (sentence, translated)
                assert numbers(translated) == numbers(sentence)


def test_too_few_videos_and_warnings():
    projected = projection("INCONCLUSIVE", 9.1, rule="tiny")
    sizes = ServingSizes(16, 256, 2)
    growth = MemoryGrowth(2**20, 3 * 2**30, 2**30, 4 * 2**30)
    full = SimpleNamespace(out_of_time="a 3 of 9 videos, b 1 of 9")
    texts = [
        verdict._explain_time(projected, shares("decode"), sizes, 25000, 357.0, None),
        caching_warning(10.0, 5.0),
        untimed_run_warning(20.0, [1.5, 2.5]),
        precision_warning(0.005),
        no_repetition_note(160, 4.2),
        unmarked_time_note(2048, 4.2),
        memory_warning(2**31, 2**30, "GPU memory"),
        *filter(None, describe_growth(growth, 2**30, 25000, "memory")),
        *filter(None, describe_growth(growth, 7 * 2**29, 25000, "GPU memory")),
    ]
    joined = " ".join(texts)
    assert english_words(TO_CHINESE(joined)) == set(), TO_CHINESE(joined)
    warning = FullRun.out_of_time_warning(full)
    assert "赶上时限" in TO_CHINESE(warning)


def test_clauses_are_those_of_the_code():
    """A sentence that changes in the code would no longer be translated."""
    source = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    source = re.sub(r"[\"']\s*\n\s*f?[\"']", "", source)
    for clause in _read_texts(CLAUSES["zh"]):
        literals = [piece.strip(" ,;.") for piece in re.split(r"\{\w+\}|, |try ", clause)]
        long = [literal for literal in literals if len(literal) > MIN_LITERAL]
        assert not long or any(literal in source for literal in long), clause


def test_clauses_have_the_same_values_and_unknown_sentences_stay():
    clauses = _read_texts(CLAUSES["zh"])
    assert len(clauses) > 25
    for clause, translated in clauses.items():
        holes = (sorted(PLACEHOLDER.findall(text)) for text in (clause, translated))
        assert len(set(map(tuple, holes))) == 1, clause
        assert re.findall("`.*?`", clause) == re.findall("`.*?`", translated), clause
    mixed = "Something new happened. Decoding takes 63% of the time. And more."
    assert TO_CHINESE(mixed) == "Something new happened. 解码占用 63% 的时间。And more."
    assert translate_sentences("en")(mixed) == mixed
    translate = sentence_translator({"{a} of {b}": "{b} 的 {a}"}, str.upper)
    assert translate("one of two") == "TWO 的 ONE"
