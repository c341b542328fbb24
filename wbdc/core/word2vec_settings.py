"""The settings by which vectors of tokens are learned."""

from typing import NamedTuple


class Word2VecSettings(NamedTuple):
    """How vectors of tokens are learned.

    dim: of a vector. size: the most tokens of the vocabulary, the most frequent. min_count: the
    fewest occurrences of a token. window: the most tokens between a token and one that it
    predicts. epochs: passes over the data.
    """

    dim: int
    size: int
    min_count: int
    window: int
    epochs: int
