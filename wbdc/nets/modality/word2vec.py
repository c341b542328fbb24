"""Word2vec: a vector of each speech token, learned from the tokens of the data before the training
(Mikolov et al., 2013).
"""

import math

import torch
from torch import Tensor, nn

from wbdc.core.plug import check_between
from wbdc.core.token_hashes import HASH_BYTES, join_bytes
from wbdc.core.tokens import Tokens
from wbdc.core.word2vec_settings import Word2VecSettings
from wbdc.nets.modality import Modality


class Word2Vec(Modality):
    """Vectors are learned by skip-gram with negative sampling on the tokens of all splits; then
    they are trained with the model. Tokens outside the vocabulary share one vector.

    dim: of the vectors. steps: the most tokens of each video; more are sampled by position. size:
    the most tokens of the vocabulary, the most frequent. min_count: the fewest occurrences of a
    token of the vocabulary. window: the most tokens between a token and one that it predicts.
    epochs: passes over the tokens. frozen: the vectors stay as they were learned.
    """

    reads = "tokens"
    learns_vectors = True

    def __init__(
        self,
        *,
        dim: int = 64,
        steps: int = 128,
        size: int = 50_000,
        min_count: int = 5,
        window: int = 5,
        epochs: int = 5,
        frozen: bool = False,
    ):
        super().__init__(width=HASH_BYTES, steps=steps)
        counts = {"dim": dim, "min_count": min_count, "window": window, "epochs": epochs}
        check_between("modality 'word2vec'", 1, math.inf, **counts)
        check_between("modality 'word2vec'", 1, 2**24, size=size)
        self.dim = dim
        self.learning = Word2VecSettings(dim, size, min_count, window, epochs)
        self.frozen = frozen
        # sorted; those of a saved model, or of `set_vectors`, replace these
        self.register_buffer("hashes", torch.arange(size))
        self.vectors = nn.Embedding(size + 1, dim)  # the last is that of unknown tokens
        self.vectors.requires_grad_(not frozen)

    def set_vectors(self, hashes: Tensor, vectors: Tensor) -> None:
        """Replace the vocabulary. hashes: sorted, (V,) int64; vectors: of each token, (V, dim).
        Unknown tokens begin with zeros.
        """
        self.hashes = hashes
        weights = torch.cat([vectors, torch.zeros(1, self.dim)])
        self.vectors = nn.Embedding(*weights.shape)
        with torch.no_grad():
            self.vectors.weight.copy_(weights)
        self.vectors.requires_grad_(not self.frozen)

    def forward(self, rows: Tokens) -> Tokens:
        """Look up the vector of each token: (B, N, 4) -> (B, N, dim)."""
        tokens = join_bytes(rows.x)
        unknown = len(self.hashes)  # position of the vector of unknown tokens
        positions = torch.searchsorted(self.hashes, tokens)
        is_known = self.hashes[positions.clamp(max=unknown - 1)] == tokens
        return Tokens(self.vectors(torch.where(is_known, positions, unknown)), rows.mask)

    def blueprint(self) -> dict:
        return {
            "use": "word2vec",
            "dim": self.dim,
            "steps": self.steps,
            "size": len(self.hashes),
            "frozen": self.frozen,
        }
