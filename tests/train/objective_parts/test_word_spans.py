"""Whole words and n-grams: their lengths, their borders, and the exact share of selected tokens."""

import pytest
import torch

from wbdc.train.objective_parts.word_spans import (
    longer_shares,
    ngram_starts,
    select_ngrams,
    select_words,
    word_starts,
)

# a word of three pieces, two words, a boundary, a piece that a cut left alone, a word, padding
FIELD = torch.tensor([[0, 1, 1, 1, 1, 1, 0, 2, 2, 0, 0]])
PIECE = torch.tensor([[0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 1]]).bool()


def test_words_begin_where_no_piece_continues_them():
    starts = word_starts(FIELD, PIECE)
    assert starts[0].nonzero().flatten().tolist() == [1, 4, 5, 7, 8]


def test_neighboring_fields_without_a_boundary_are_two_words():
    starts = word_starts(torch.tensor([[1, 1, 2]]), torch.tensor([[False, True, True]]))
    assert starts.tolist() == [[True, False, True]]


def test_a_word_is_selected_with_all_its_pieces():
    draws = torch.full((1, 11), 0.9)
    draws[0, [1, 7]] = 0.1
    draws[0, [2, 3]] = 0.9  # the draws of pieces do not count
    chosen = select_words(draws, word_starts(FIELD, PIECE), 0.5) & (FIELD > 0)
    assert chosen[0].nonzero().flatten().tolist() == [1, 2, 3, 7]


def test_an_ngram_ends_with_its_field():
    starts = word_starts(FIELD, PIECE)
    draws = torch.full((1, 11), 0.999)
    draws[0, 4] = 0.0  # the second word of the first field begins an n-gram
    chosen = select_ngrams(draws, torch.zeros(1, 11), starts, FIELD, 0.2, 4)
    assert chosen[0].nonzero().flatten().tolist() == [4, 5]
    draws[0, 1] = 0.0
    one_word = torch.full((1, 11), 0.95)
    chosen = select_ngrams(draws, one_word, starts, FIELD, 0.2, 4)
    assert chosen[0].nonzero().flatten().tolist() == [1, 2, 3, 4]


def test_ngrams_have_the_lengths_of_macbert():
    longer = [*longer_shares(4), 0]
    assert [round(a - b, 6) for a, b in zip(longer[:-1], longer[1:], strict=True)] == [
        0.4,
        0.3,
        0.2,
        0.1,
    ]
    field = torch.ones(20000, 12, dtype=torch.int8)
    starts = torch.zeros(field.shape, dtype=torch.bool).logical_not()
    draws = torch.ones(field.shape)
    draws[:, 3] = 0.0
    lengths = torch.rand(field.shape, generator=torch.Generator().manual_seed(0))
    chosen = select_ngrams(draws, lengths, starts, field, 0.15, 4).sum(1)
    shares = torch.bincount(chosen, minlength=5)[1:] / 20000
    torch.testing.assert_close(shares, torch.tensor([0.4, 0.3, 0.2, 0.1]), atol=0.015, rtol=0)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.15, 0.4, 0.9, 1.0])
@pytest.mark.parametrize("max_words", [1, 2, 4])
def test_trap_06_every_word_of_a_field_is_selected_with_the_share(share, max_words):
    """Longhand: the probability that no n-gram reaches a word."""
    starts = ngram_starts(share, max_words, 64)
    longer = longer_shares(max_words)
    assert all(-1e-9 <= start <= 1 + 1e-9 for start in starts)
    for word in range(64):
        outside = 1.0
        for first in range(max(0, word - max_words + 1), word + 1):
            outside *= 1 - starts[first] * longer[word - first]
        assert abs(1 - outside - share) < 1e-9
    assert abs(starts[-1] - starts[-2]) < 1e-6, "later words may use the last probability"


@pytest.mark.parametrize("share", [0.15, 0.5])
@pytest.mark.parametrize("max_words", [2, 4])
def test_trap_06_the_measured_share_of_ngrams_is_the_setting(share, max_words):
    generator = torch.Generator().manual_seed(1)
    field = (torch.arange(90) > 0).to(torch.int8).repeat(3000, 1)
    piece = torch.rand(field.shape, generator=generator) < 0.3
    draws, lengths = torch.rand(2, *field.shape, generator=generator)
    chosen = select_ngrams(draws, lengths, word_starts(field, piece), field, share, max_words)
    by_position = chosen.float().mean(0)
    assert by_position[0] == 0
    assert (by_position[1:] - share).abs().max() < 0.035
    assert abs(by_position[1:].mean() - share) < 0.005
