"""N-grams of texts, counted as scikit-learn's CountVectorizer does, and their TF-IDF.

Each text field is a text of its own: no n-gram crosses the boundary of two fields, and n-grams of
characters include a space at both ends of a field, which marks its boundaries. The counts of all
fields are added up.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

ANALYZERS = ("char", "word", "char_wb")  # names as in scikit-learn
NGRAM_SETTINGS_SHAPE = {
    "fields": [str],
    "analyzers": {str: [int]},
    "max_characters": int,
    "sublinear": bool,
}
NgramCounts = dict[str, Counter]  # by analyzer
WHITE_SPACES = re.compile(r"\s\s+")
WORD = re.compile(r"(?u)\b\w\w+\b")


class NgramSettings(NamedTuple):
    """Which n-grams of which fields are counted.

    fields: names, in reading order; analyzers: {analyzer: (lowest n, highest n)}; max_characters:
    of each field, the rest is not read; sublinear: whether an n-gram that occurs k times counts
    1 + ln k instead of k.
    """

    fields: tuple[str, ...]
    analyzers: dict[str, tuple[int, int]]
    max_characters: int
    sublinear: bool


class TfidfVocabulary(NamedTuple):
    """The n-grams of one analyzer that were seen in training.

    columns: {n-gram: column}; idf: (V,) float64, inverse document frequency of each column.
    """

    columns: dict[str, int]
    idf: np.ndarray


def read_settings(table: dict) -> NgramSettings:
    """Return the settings that model.json holds. table: of NGRAM_SETTINGS_SHAPE."""
    lengths = table["analyzers"]
    # in the order of ANALYZERS, because the keys of a saved file are sorted
    analyzers = {name: tuple(lengths[name]) for name in ANALYZERS if name in lengths}
    return NgramSettings(
        tuple(table["fields"]), analyzers, table["max_characters"], table["sublinear"]
    )


def read_vocabulary(tensors: Mapping[str, np.ndarray], analyzer: str) -> TfidfVocabulary:
    """Read the n-grams of an analyzer from the arrays of a member. Raises KeyError."""
    ngrams = unpack_strings(tensors[f"{analyzer}.ngrams"], tensors[f"{analyzer}.ends"])
    columns = {ngram: column for column, ngram in enumerate(ngrams)}
    return TfidfVocabulary(columns, tensors[f"{analyzer}.idf"])


def count_ngrams(texts: dict[str, str], settings: NgramSettings) -> dict[str, Counter]:
    """Count the n-grams of a video. texts: {field: text}. Returns {analyzer: {n-gram: count}}."""
    fields = [texts[field][: settings.max_characters].lower() for field in settings.fields]
    return {
        analyzer: Counter(
            ngram for text in fields for ngram in list_ngrams(text, analyzer, low, high)
        )
        for analyzer, (low, high) in settings.analyzers.items()
    }


def list_ngrams(text: str, analyzer: str, low: int, high: int) -> list[str]:
    """List the n-grams of a field, low <= n <= high, each as often as it occurs.

    analyzer: "char", characters of the field between two spaces; "word", words of two or more
    characters; "char_wb", characters of each word between two spaces.
    """
    if analyzer == "word":
        return _join_words(WORD.findall(text), low, high)
    if analyzer == "char_wb":
        return [ngram for word in text.split() for ngram in _split_word(f" {word} ", low, high)]
    padded = WHITE_SPACES.sub(" ", f" {text} ") if text else ""
    return [padded[i : i + n] for n in range(low, high + 1) for i in range(len(padded) - n + 1)]


def tfidf_row(
    counts: Counter, vocabulary: TfidfVocabulary, sublinear: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Weigh the n-grams of a video: count * idf, divided by the L2 norm of the row.

    sublinear: 1 + ln count takes the place of the count.

    Returns (columns (k,) int64, values (k,) float64), columns rising. Unknown n-grams are left out.
    """
    known = [
        (column, count)
        for ngram, count in counts.items()
        if (column := vocabulary.columns.get(ngram)) is not None
    ]
    if not known:
        return np.zeros(0, np.int64), np.zeros(0)
    columns, numbers = np.array(sorted(known), dtype=np.int64).T
    frequency = 1 + np.log(numbers) if sublinear else numbers
    values = frequency * vocabulary.idf[columns]
    return columns, values / np.sqrt((values**2).sum())


def pack_strings(strings: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Store strings as bytes (n,) uint8 and the end of each string (m,) int64.

    UTF-8, in which a surrogate without its partner is stored as it is.
    """
    encoded = [string.encode("utf-8", "surrogatepass") for string in strings]
    joined = np.frombuffer(b"".join(encoded), np.uint8).copy()
    return joined, np.cumsum([len(part) for part in encoded], dtype=np.int64)


def unpack_strings(joined: np.ndarray, ends: np.ndarray) -> list[str]:
    """Return the strings that `pack_strings` stored."""
    content = joined.tobytes()
    return [
        content[start:end].decode("utf-8", "surrogatepass")
        for start, end in pairwise([0, *ends.tolist()])
    ]


def _join_words(words: list[str], low: int, high: int) -> list[str]:
    return [
        " ".join(words[i : i + n]) for n in range(low, high + 1) for i in range(len(words) - n + 1)
    ]


def _split_word(padded: str, low: int, high: int) -> list[str]:
    """List the n-grams of a padded word; one shorter than n counts once, for the lowest such n."""
    ngrams = []
    for n in range(low, high + 1):
        ngrams += [padded[i : i + n] for i in range(max(1, len(padded) - n + 1))]
        if len(padded) <= n:
            break
    return ngrams
