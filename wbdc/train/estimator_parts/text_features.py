"""TF-IDF of n-grams: which settings are valid, and vectorizers that are fitted to counts."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer

from wbdc.core.errors import UsageFault, suggest_name
from wbdc.core.plug import plug_name
from wbdc.serve.member_parts.ngrams import NgramSettings, pack_strings
from wbdc.train.estimators import Estimator

MAX_NGRAM_LENGTH = 20

Vectorizers = dict[str, TfidfVectorizer]  # by analyzer


def check_ngrams(
    estimator: Estimator,
    fields: list[str] | None,
    lengths: dict[str, Sequence[int]],
    max_characters: int,
    sublinear: bool,
) -> NgramSettings:
    """Return which n-grams an estimator counts. Raises UsageFault.

    fields: by default all of the contest. lengths: lowest and highest n by analyzer, [] for none.
    max_characters, sublinear: of `NgramSettings`.
    """
    read_fields = _check_fields(estimator, fields)
    return NgramSettings(read_fields, _check_lengths(estimator, lengths), max_characters, sublinear)


def fit_vectorizers(
    counts: Sequence[dict], settings: NgramSettings, min_count: int, max_features: int
) -> Vectorizers:
    """Fit a vectorizer to the counts of each analyzer that has an n-gram in `min_count` videos.

    counts: of `count_ngrams`, of each video.
    """
    return {
        name: _new_vectorizer(name, settings.sublinear, min_count, max_features).fit(counts)
        for name in settings.analyzers
        if _has_enough(counts, name, min_count)
    }


def tfidf_features(vectorizers: Vectorizers, counts: Sequence[dict]) -> csr_matrix:
    """Return the TF-IDF of all analyzers side by side, (n, V)."""
    return hstack([v.transform(counts) for v in vectorizers.values()], format="csr")


def vocabulary_tensors(name: str, vectorizer: TfidfVectorizer) -> dict[str, np.ndarray]:
    """Return the arrays that `read_vocabulary` of the serving code takes."""
    joined, ends = pack_strings(vectorizer.get_feature_names_out().tolist())
    return {f"{name}.ngrams": joined, f"{name}.ends": ends, f"{name}.idf": vectorizer.idf_}


def settings_table(settings: NgramSettings, vectorizers: Vectorizers) -> dict:
    """Return the settings of the analyzers that were fitted, as model.json holds them."""
    analyzers = {name: list(settings.analyzers[name]) for name in vectorizers}
    return settings._asdict() | {"analyzers": analyzers}


def _new_vectorizer(
    name: str, sublinear: bool, min_count: int, max_features: int
) -> TfidfVectorizer:
    return TfidfVectorizer(
        analyzer=lambda counts: counts[name].elements(),
        sublinear_tf=sublinear,
        min_df=min_count,
        max_features=max_features,
    )


def _check_pair(estimator: Estimator, name: str, lengths: Sequence) -> tuple[int, int]:
    is_pair = len(lengths) == 2 and all(type(number) is int for number in lengths)
    if not is_pair or not 1 <= lengths[0] <= lengths[1] <= MAX_NGRAM_LENGTH:
        raise UsageFault(
            f"estimator {plug_name(estimator)!r}: {name} = {list(lengths)}; give the lowest and the"
            f" highest n, from 1 to {MAX_NGRAM_LENGTH}, for example [1, 3]"
        )
    return lengths[0], lengths[1]


def _has_enough(counts: Sequence[dict], name: str, min_count: int) -> bool:
    """Return whether an n-gram of an analyzer is in `min_count` videos."""
    videos: dict[str, int] = {}
    for ngrams in counts:
        for ngram in ngrams[name]:
            videos[ngram] = videos.get(ngram, 0) + 1
            if videos[ngram] >= min_count:
                return True
    return False


def _check_fields(estimator: Estimator, fields: list[str] | None) -> tuple[str, ...]:
    """Return the text fields that an estimator reads, by default all. Raises UsageFault."""
    name = plug_name(estimator)
    for field in fields or ():
        if field not in estimator.text_fields:
            hint = suggest_name(str(field), list(estimator.text_fields))
            raise UsageFault(f"estimator {name!r}: the contest has no text field {field!r}{hint}")
    if fields == [] or not estimator.text_fields:
        raise UsageFault(f"estimator {name!r} reads texts, and it has no text field")
    return tuple(fields or estimator.text_fields)


def _check_lengths(
    estimator: Estimator, analyzers: dict[str, Sequence[int]]
) -> dict[str, tuple[int, int]]:
    """Return {analyzer: (lowest, highest) n} without the analyzers of []. Raises UsageFault."""
    lengths = {name: _check_pair(estimator, name, pair) for name, pair in analyzers.items() if pair}
    if not lengths:
        raise UsageFault(
            f"estimator {plug_name(estimator)!r} counts nothing; set char, word or char_wb"
        )
    return lengths
