"""Vectors of speech tokens, learned by word2vec before a training."""

import sys

import numpy as np
import pytest
import torch

from wbdc.core.errors import EnvironmentFault, UsageFault
from wbdc.core.token_hashes import hash_token, join_bytes
from wbdc.core.word2vec_settings import Word2VecSettings
from wbdc.train import token_vectors
from wbdc.train.token_vectors import TokenSentences, import_word2vec, learn_token_vectors

SETTINGS = Word2VecSettings(dim=6, size=50, min_count=3, window=2, epochs=2)


def texts() -> list[list[str]]:
    """Return 40 texts of words, of which the first occur more often."""
    random = np.random.default_rng(0)
    return [
        [f"w{i}" for i in random.geometric(0.1, size=random.integers(0, 30))] for _ in range(40)
    ]


class StoredColumn(list):
    """The hashes of texts, as a column of the prepared data holds them."""

    def __init__(self, texts: list[list[str]]):
        rows = [[hash_token(token) for token in tokens] for tokens in texts]
        super().__init__(np.array(hashes, np.float16).reshape(-1, 4) for hashes in rows)

    @property
    def lengths(self) -> np.ndarray:
        return np.array(list(map(len, self)))


def hash_of(token: str) -> int:
    return int(join_bytes(torch.tensor(hash_token(token)).float()))


def sentences(texts: list[list[str]]) -> TokenSentences:
    """Return the texts as two splits."""
    return TokenSentences([StoredColumn(texts[:25]), StoredColumn(texts[25:])])


def test_vectors_equal_those_of_gensim_bit_for_bit():
    gensim = pytest.importorskip("gensim")
    words = texts()
    model = gensim.models.Word2Vec(
        words, vector_size=6, min_count=3, window=2, epochs=2, sg=1, negative=5, workers=1, seed=7
    )
    learned = learn_token_vectors(sentences(words), SETTINGS, 7, "speech")
    assert len(learned.hashes) == len(model.wv) > 15
    assert learned.hashes.tolist() == sorted(learned.hashes.tolist())
    rows = dict(zip(learned.hashes.tolist(), learned.vectors, strict=True))
    for token in model.wv.index_to_key:
        assert np.array_equal(rows[hash_of(token)].numpy(), model.wv[token])

    other = learn_token_vectors(sentences(words), SETTINGS, 8, "speech")
    assert not torch.equal(other.vectors, learned.vectors), "another seed"


def test_a_vocabulary_holds_the_most_frequent_tokens():
    pytest.importorskip("gensim")
    words = [[f"w{i}" for i in range(10) for _ in range(i + 1)]] * 3
    small = SETTINGS._replace(size=4)
    learned = learn_token_vectors(sentences(words), small, 0, "speech")
    assert learned.hashes.tolist() == sorted(hash_of(f"w{i}") for i in (6, 7, 8, 9))


def test_data_without_frequent_tokens_are_refused():
    pytest.importorskip("gensim")
    for words in ([["a", "b"], ["a", "c"]], [[], []]):
        message = r"no token of the modality speech occurs 3 times .* modality.speech.min_count"
        with pytest.raises(UsageFault, match=message):
            learn_token_vectors(sentences(words), SETTINGS, 0, "speech")


def test_of_many_tokens_those_of_some_videos_are_read(monkeypatch):
    words = texts()
    expected = [[str(hash_of(token)) for token in tokens] for tokens in words]
    assert list(sentences(words)) == expected
    count = sum(map(len, words))
    monkeypatch.setattr(token_vectors, "MAX_LEARNED_TOKENS", count // 2 + 1)
    assert list(sentences(words)) == expected[:25:2] + expected[25::2]


def test_gensim_is_named_when_it_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "gensim.models", None)
    message = r"learns its vectors with gensim, .* pip install 'wbdc\[word2vec\]'"
    with pytest.raises(EnvironmentFault, match=message):
        import_word2vec()
