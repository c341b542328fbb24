"""Vectors of speech tokens: word2vec on the stored tokens of the data, before a training."""

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wbdc.core.errors import EnvironmentFault, UsageFault
from wbdc.core.token_hashes import join_bytes
from wbdc.core.word2vec_settings import Word2VecSettings
from wbdc.data.store import FRAMES_FOLDER, Column, modality_column, open_columns
from wbdc.prepare.dataset import PreparedData

if TYPE_CHECKING:
    from gensim.models import Word2Vec

# bounds the time: so many take a minute and a half with 5 epochs
MAX_LEARNED_TOKENS = 5_000_000


class TokenVectors(NamedTuple):
    """hashes: of the tokens of a vocabulary, sorted, (V,) int64; vectors: of each, (V, dim)."""

    hashes: Tensor
    vectors: Tensor


class TokenSentences:
    """The tokens of each video, a list of strings, as often as they are iterated over.

    columns: the stored hashes, (n, 4) float16 of each video, of every split. Of more than
    MAX_LEARNED_TOKENS tokens, those of every second, third, ... video are read.
    """

    def __init__(self, columns: Sequence[Column]):
        self.columns = columns
        tokens = sum(int(column.lengths.sum()) for column in columns)
        self.step = -(-tokens // MAX_LEARNED_TOKENS) or 1

    def __iter__(self) -> Iterator[list[str]]:
        for column in self.columns:
            for row in range(0, len(column.lengths), self.step):
                hashes = join_bytes(torch.from_numpy(np.array(column[row])))
                yield list(map(str, hashes.tolist()))


def learn_token_vectors(
    sentences: TokenSentences, settings: Word2VecSettings, seed: int, name: str
) -> TokenVectors:
    """Learn a vector of each frequent token by word2vec, as gensim computes it: skip-gram with
    negative sampling (Mikolov et al., 2013).

    Equal tokens and seeds give equal vectors on a machine. name: of the modality. Raises
    EnvironmentFault when gensim is not installed, UsageFault when no token is frequent.
    """
    model = import_word2vec()(
        vector_size=settings.dim,
        max_final_vocab=settings.size,
        min_count=settings.min_count,
        window=settings.window,
        epochs=settings.epochs,
        sg=1,
        workers=1,  # several would depend on their order
        seed=seed,
    )
    model.build_vocab(sentences)
    if not len(model.wv):
        raise UsageFault(
            f"no token of the modality {name} occurs {settings.min_count} times in the data, or "
            f"more than {settings.size:,} are equally frequent; change modality.{name}.min_count "
            "or size"
        )
    model.train(sentences, total_examples=model.corpus_count, epochs=model.epochs)
    hashes = np.array(list(map(int, model.wv.index_to_key)), np.int64)
    order = np.argsort(hashes)
    vectors = np.ascontiguousarray(model.wv.vectors[order], np.float32)
    return TokenVectors(torch.from_numpy(hashes[order]), torch.from_numpy(vectors))


def open_sentences(prepared: PreparedData, name: str) -> TokenSentences:
    """Open the stored tokens of a modality, of every split, in a fixed order."""
    folder = prepared.folder / FRAMES_FOLDER
    counts = sorted(prepared.facts.video_counts.items())
    columns = [
        open_columns(folder, split, [modality_column(name)], count)[0] for split, count in counts
    ]
    return TokenSentences(columns)


def import_word2vec() -> "type[Word2Vec]":
    """Import the class of gensim. Raises EnvironmentFault when it is not installed."""
    try:
        from gensim.models import Word2Vec
    except ImportError as error:
        raise EnvironmentFault(
            f"modality 'word2vec' learns its vectors with gensim, which cannot be imported "
            f"({error}); install it: pip install 'wbdc[word2vec]'"
        ) from error
    logging.getLogger("gensim").setLevel(logging.ERROR)  # it warns about little data
    return Word2Vec
