"""The settings of [text] in a kit, and their bounds. A kit is resolved without a tokenizer."""

from collections.abc import Sequence

from wbdc.core.errors import UsageFault, suggest_name
from wbdc.core.plug import check_settings
from wbdc.data.special_tokens import SPECIAL_TOKENS

MAX_WORDS = 100_000
VOCABULARY_SETTINGS = ("vocabulary", "words")  # of [text]; the others are those of TextReader


def text_settings(
    tokenizer: object,
    *,
    fields: dict[str, int],
    length: int = 256,
    tail: list[str] = (),
    vocabulary: dict | None = None,
    words: int = 0,
) -> None:
    """Declare the settings of [text]: those of TextReader, and those of a vocabulary.

    vocabulary: learn one from the data, for an architecture with random weights. Keys:
    min_count, the minimum number of occurrences of a word; max_size, that of the vocabulary.
    words: at most so many words of 2 to 4 Chinese characters, learned from the data, become tokens
    beside the characters; 0 for none. Needs the tokenizer of a BERT.
    """


def vocabulary_settings(*, min_count: int = 2, max_size: int = 8000) -> None:
    """Declare the settings of `text.vocabulary`.

    min_count: minimum number of occurrences of a character or word. max_size: maximum size of the
    vocabulary.
    """


def check_text_settings(subject: str, settings: dict) -> None:
    """Check a [text] table. subject: of the error message. Raises UsageFault."""
    check_settings(subject, text_settings, settings)
    if "vocabulary" in settings:
        check_vocabulary_settings(settings["vocabulary"])
    check_word_count(settings.get("words", 0))
    check_budgets(settings["fields"], settings.get("length", 256), settings.get("tail", []))


def check_vocabulary_settings(settings: dict) -> dict[str, int]:
    """Check and return the `text.vocabulary` table of a kit. Raises UsageFault."""
    check_settings("text.vocabulary", vocabulary_settings, settings)
    for name, minimum in (("min_count", 1), ("max_size", len(SPECIAL_TOKENS) + 1)):
        if settings.get(name, minimum) < minimum:
            raise UsageFault(
                f"text.vocabulary: {name} = {settings[name]} is less than the minimum of {minimum}"
            )
    return settings


def check_word_count(count: int) -> None:
    """Check the setting `text.words`. Raises UsageFault."""
    if not 0 <= count <= MAX_WORDS:
        raise UsageFault(f"text.words = {count}; it must be between 0 and {MAX_WORDS:,}")


def check_budgets(fields: dict[str, int], length: int, tail: Sequence[str] = ()) -> None:
    """Check the token budgets of fields.

    Raises UsageFault for budgets that are not numbers of tokens or exceed the length, and for a
    field in `tail` that is not read.
    """
    for field in tail:
        if field not in fields:
            suggestion = suggest_name(str(field), list(fields))
            raise UsageFault(
                f"text.tail names {field!r}, which text.fields does not read{suggestion}"
            )
    for field, budget in fields.items():
        if type(budget) is not int or budget < 0:
            raise UsageFault(f"text.fields: {field} = {budget!r} is not a number of tokens")

    special_tokens = 1 + len(fields)
    available = length - special_tokens
    if available < 0:
        raise UsageFault(
            f"text.length = {length} is too short: {len(fields)} fields need {special_tokens} "
            "special tokens alone"
        )
    if sum(fields.values()) > available:
        raise UsageFault(
            f"text.fields request {sum(fields.values())} tokens; text.length = {length} leaves "
            f"{available} without the special tokens"
        )
