"""Random selections of the tokens, whole words or n-grams of words of a text.

Letters: B videos, T text tokens. Every function draws per token, from numbers (B, T) with
0 <= number < 1, and selects each token with exactly the probability `share`.
"""

import torch
from torch import Tensor

PIECE_PREFIX = "##"  # of a WordPiece token that continues the word before it
START_TABLE_SIZE = 64  # the probabilities of `ngram_starts` no longer change after that many words


def word_starts(text_field: Tensor, is_piece: Tensor) -> Tensor:
    """Return which tokens begin a word: (B, T) bool.

    text_field: (B, T), 0 for special tokens. is_piece: (B, T) bool, tokens that continue a word. A
    piece after a special token or after another field begins a word.
    """
    previous = torch.nn.functional.pad(text_field[:, :-1], (1, 0))
    return (text_field > 0) & (~is_piece | (previous != text_field))


def select_words(draws: Tensor, is_start: Tensor, share: float) -> Tensor:
    """Select whole words (Cui et al., 2019): (B, T) bool, of which special tokens may be ignored.

    draws: (B, T) uniform numbers. is_start: of `word_starts`.
    """
    return draws.gather(1, _first_tokens(is_start)) < share


def select_ngrams(
    start_draws: Tensor,
    length_draws: Tensor,
    is_start: Tensor,
    text_field: Tensor,
    share: float,
    max_words: int,
) -> Tensor:
    """Select n-grams of whole words inside one field: (B, T) bool.

    The lengths from 1 to `max_words` have falling probabilities; for 4 they are 40, 30, 20 and 10%
    (MacBERT; Cui et al., 2020). start_draws, length_draws: (B, T) uniform numbers.
    """
    first = _first_tokens(is_start)
    probabilities = _start_table(share, max_words, start_draws.device)
    number = _numbers_in_field(is_start, text_field).clamp(max=START_TABLE_SIZE - 1)
    begins = is_start & (start_draws < probabilities[number])
    longer = torch.tensor(longer_shares(max_words), device=start_draws.device)
    lengths = (length_draws[..., None] < longer).sum(-1) * begins  # words of each n-gram, or 0

    is_selected = torch.zeros_like(is_start)
    word = first  # the first token of the word that lies `distance` words before each token
    is_inside = text_field > 0
    for distance in range(max_words):
        is_selected = is_selected | (is_inside & (lengths.gather(1, word) > distance))
        before = (word - 1).clamp(min=0)
        is_inside = is_inside & (word > 0) & (text_field.gather(1, before) == text_field)
        word = first.gather(1, before)
    return is_selected


def longer_shares(max_words: int) -> list[float]:
    """Return the probability that an n-gram has more than 0, 1, ..., max_words - 1 words."""
    weights = range(max_words, 0, -1)
    return [sum(weights[k:]) / sum(weights) for k in range(max_words)]


def ngram_starts(share: float, max_words: int, count: int) -> list[float]:
    """Return with which probability an n-gram begins at each of the first `count` words of a field,
    so that every word lies in one with the probability `share`.

    A word is outside of all n-grams if none that begins at it or before it reaches it, so the
    product of these probabilities must be 1 - share.
    """
    longer = longer_shares(max_words)
    starts: list[float] = []
    for word in range(count):
        outside = 1.0
        for distance in range(1, min(max_words, word + 1)):
            outside *= 1 - starts[word - distance] * longer[distance]
        starts.append(1 - (1 - share) / outside)
    return starts


def _start_table(share: float, max_words: int, device: torch.device) -> Tensor:
    return torch.tensor(ngram_starts(share, max_words, START_TABLE_SIZE), device=device)


def _first_tokens(is_start: Tensor) -> Tensor:
    """Return the position of the first token of each token's word: (B, T) int64."""
    positions = torch.arange(is_start.shape[1], device=is_start.device).expand(is_start.shape)
    return torch.where(is_start, positions, 0).cummax(1).values


def _numbers_in_field(is_start: Tensor, text_field: Tensor) -> Tensor:
    """Return the number of each token's word within its field, from 0: (B, T) int64."""
    words = is_start.cumsum(1)
    previous = torch.nn.functional.pad(text_field[:, :-1], (1, 0))
    before_field = torch.where(is_start & (previous != text_field), words - 1, 0).cummax(1).values
    return (words - 1 - before_field).clamp(min=0)
