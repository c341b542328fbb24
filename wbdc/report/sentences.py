"""Translation of sentences that hold numbers, for example of alarms, clause by clause."""

import re
from collections.abc import Callable, Mapping

PLACEHOLDER = re.compile(r"\{(\w+)\}")
# a value ends where punctuation is followed by a space: "9.1 s" holds a point
CLAUSE_END = r"(?=[\s,;:]|[.)](?:\s|$)|$)"
VALUE_END = r"(?=[,;.:)](?:\s|$)|$)"
FIRST_VALUE = r"(?:[^\s,;:.]|[,;:.](?=\S)|\s)+?"  # a name that begins a clause
SENTENCE_END = re.compile(r"[.;](?:\s+|$)")

Translate = Callable[[str], str]


def sentence_translator(clauses: Mapping[str, str], translate_value: Translate) -> Translate:
    """Return a function that translates texts of clauses.

    clauses: {English clause with {placeholders}: its translation}. translate_value: of what stands
    in a placeholder. A sentence whose begin is no clause stays as it is.
    """
    longest_first = sorted(clauses, key=len, reverse=True)
    patterns = [(_compile(clause), clauses[clause]) for clause in longest_first]

    def translate(text: str) -> str:
        parts = []
        position = 0
        while position < len(text):
            matches = (
                (pattern.match(text, position), translation) for pattern, translation in patterns
            )
            match, translated = next((pair for pair in matches if pair[0]), (None, ""))
            if match:
                parts.append(_fill(translated, match, translate_value))
                position = match.end()
            else:
                end = SENTENCE_END.search(text, position)
                stop = end.end() if end else len(text)
                parts.append(text[position:stop])
                position = stop
        return "".join(parts).strip()

    return translate


def _compile(clause: str) -> re.Pattern:
    """Return the pattern of a clause with the spaces after it. A value that begins a clause does
    not reach over the end of another one.
    """
    pattern = ""
    position = 0
    for hole in PLACEHOLDER.finditer(clause):
        pattern += re.escape(clause[position : hole.start()])
        value = ".+?" if pattern else FIRST_VALUE
        pattern += f"(?P<{hole[1]}>{value})"
        position = hole.end()
    pattern += re.escape(clause[position:])
    return re.compile(pattern + (VALUE_END if clause.endswith("}") else CLAUSE_END) + r"\s*")


def _fill(translated: str, match: re.Match, translate_value: Translate) -> str:
    return PLACEHOLDER.sub(lambda hole: translate_value(match[hole[1]]), translated)
