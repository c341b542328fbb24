"""The page of a report: one HTML file with its style and script, without any other file."""

import base64
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from wbdc import __version__
from wbdc.core.files import publish_bytes, read_text
from wbdc.core.progress import format_seconds
from wbdc.report.build_report import MAX_GROUP_VIDEOS, Report
from wbdc.report.corrections_file import corrections_csv
from wbdc.report.sections import page_sections
from wbdc.report.sentences import sentence_translator
from wbdc.sweep.sweep_result import MIN_IMPORTANCE_TRIALS

HOME = Path(__file__).parent
TEMPLATES = HOME / "templates"
MAX_LABEL_ERRORS = 1000  # in the page; `--label-errors` writes all
LANGUAGES = {"en": None, "zh": HOME / "chinese.json"}  # file of translations
CLAUSES = {"en": None, "zh": HOME / "chinese_clauses.json"}  # of sentences that hold numbers
LANGUAGE_TAGS = {"en": "en", "zh": "zh-Hans"}


def render_page(report: Report, language: str = "en") -> str:
    """Return the HTML of a report. language: "en" or "zh".

    Every text of the data is escaped: jinja2 escapes all values in templates that end in .html.
    """
    environment = _environment(language)
    template = environment.get_template("page.html")
    return template.render(
        report=report.numbers,
        pictures=report.pictures,
        sections=page_sections(report.numbers),
        version=__version__,
        language=LANGUAGE_TAGS[language],
        style=_embed("style.css"),
        script=_embed("browser.js"),
    )


def save_page(report: Report, path: Path, language: str = "en") -> None:
    """Publish the HTML of a report."""
    publish_bytes(path, render_page(report, language).encode())


def translations(language: str) -> dict[str, str]:
    """Return {English text: its translation}; {} for English."""
    return _read_texts(LANGUAGES[language])


def translate_sentences(language: str) -> Callable[[str], str]:
    """Return a function that translates the sentences of alarms and of the time check."""
    translate_value = _translator(translations(language))
    return sentence_translator(_read_texts(CLAUSES[language]), translate_value)


def _read_texts(path: Path | None) -> dict[str, str]:
    return json.loads(read_text(path)) if path else {}


@cache
def _environment(language: str) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,  # a misspelled name is an error, not an empty text
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "score": format_score,
        "signed": format_signed,
        "correlation": format_correlation,
        "count": format_count,
        "share": format_share,
        "number": format_number,
        "duration": format_time_left,
        "code": mark_code,
        "breaks": allow_breaks,
        "csv_uri": csv_uri,
    }
    environment.globals |= {
        "t": _translator(translations(language)),
        "sentences": translate_sentences(language),
        "max_label_errors": MAX_LABEL_ERRORS,
        "max_group_videos": MAX_GROUP_VIDEOS,
        "min_importance_trials": MIN_IMPORTANCE_TRIALS,
    }
    return environment


def _translator(texts: dict[str, str]) -> Callable[..., str]:
    patterns = [
        (re.compile(re.escape(text).replace(r"\{name\}", "(.+)")), translated)
        for text, translated in texts.items()
        if text.count("{") == 1 and "{name}" in text
    ]

    def translate(text: str, **values: object) -> str:
        """Return a text in the language of the page, with values filled in.

        A text that holds a name of the data, for example "fold 0", is found by its pattern; any
        other text without a translation is a name of the data itself.
        """
        if text in texts or values:
            translated = texts.get(text, text)
            return translated.format(**values) if values else translated
        for pattern, translated in patterns:
            if match := pattern.fullmatch(text):
                return translated.format(name=match[1])
        return text

    return translate


def _embed(name: str) -> Markup:
    """Return a file of the templates as it is: style and script are ours, and are not escaped."""
    return Markup(read_text(TEMPLATES / name))  # noqa: S704


def mark_code(text: str) -> Markup:
    """Show the parts of a text in backticks, for example commands, as code."""
    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else part
        for number, part in enumerate(parts)
    )


def allow_breaks(name: str) -> Markup:
    """Let the lines of a long name, for example of a setting or a run, break after . _ and -."""
    parts = re.split(r"(?<=[._-])(?=.)", name)
    return Markup("<wbr>").join(parts)


def csv_uri(errors: list[dict]) -> str:
    """Return likely label errors as a data URI of a CSV file."""
    text = base64.b64encode(corrections_csv(errors).encode()).decode()
    return f"data:text/csv;charset=utf-8;base64,{text}"


def format_time_left(seconds: float | None) -> str:
    """Format seconds as "12 s", "3 min" or "5.2 h"."""
    return "–" if seconds is None else format_seconds(seconds)


def format_score(value: float | None) -> str:
    """Format a score with four digits; a dash for None."""
    return "–" if value is None else f"{value:.4f}"


def format_signed(value: float | None) -> str:
    """Format a difference with its sign."""
    return "–" if value is None else f"{value:+.4f}"


def format_correlation(value: float | None) -> str:
    """Format a correlation with two digits; a dash for None."""
    return "–" if value is None else f"{value:.2f}"


def format_count(value: int | None) -> str:
    """Format a whole number with separators."""
    return "–" if value is None else f"{value:,}"


def format_share(value: float | None) -> str:
    """Format a share as a percentage."""
    return "–" if value is None else f"{value:.1%}"


def format_number(value: float | None) -> str:
    """Format a number with up to five significant digits."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.5g}"
