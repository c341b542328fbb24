"""The Chinese page: every text of the templates is translated, with the same values."""

import re
from string import Formatter

from wbdc.prepare.describe.finding_codes import FINDING_CODES
from wbdc.report.page import (
    TEMPLATES,
    _translator,
    allow_breaks,
    format_number,
    format_share,
    mark_code,
    translations,
)
from wbdc.report.sections import TITLES

CHINESE = translations("zh")
TEXT = re.compile(r"""\bt\((?:"([^"]+)"|'([^']+)')""")


def template_texts():
    for path in TEMPLATES.glob("*.html"):
        yield from (first or second for first, second in TEXT.findall(path.read_text()))


def values(text):
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def test_every_text_is_translated():
    texts = {
        *template_texts(),
        *TITLES.values(),
        "run",
        "ensemble",
        "submission",
        "sweep",
        "prepared",
    }
    assert len(texts) > 140
    assert texts - set(CHINESE) == set()


def test_translations_have_the_same_values_and_commands():
    for text, translated in CHINESE.items():
        assert values(text) == values(translated), text
        assert re.findall("`.*?`", text) == re.findall("`.*?`", translated), text
    assert translations("en") == {}


def test_findings_and_names_with_a_pattern_are_translated():
    for code in FINDING_CODES.values():
        assert {code.what, code.consequence, code.fix} <= set(CHINESE), code
    translate = _translator(CHINESE)
    texts = ("fold 0", "characters of asr", "asr present", "shop 3{x}")
    assert [translate(text) for text in texts] == [
        "第 0 折",
        "asr 的字符数",
        "含 asr 的比例",
        "shop 3{x}",
    ]
    assert translate("{count} MB", count="{7}") == "{7} MB"
    assert _translator({})("fold 0") == "fold 0"


def test_formats():
    assert [format_number(x) for x in (None, 25000, 0.0123456, 1234567.0)] == [
        "–",
        "25,000",
        "0.012346",
        "1.2346e+06",
    ]
    assert format_share(0.1234) == "12.3%"
    assert allow_breaks("train.<b>_rate-1") == "train.<wbr>&lt;b&gt;_<wbr>rate-<wbr>1"
    assert mark_code("run `a <b>` & c") == "run <code>a &lt;b&gt;</code> &amp; c"
