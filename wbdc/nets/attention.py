"""One transformer block for tokens that meet: a row looks at itself or at another row."""

import torch.nn.functional as F
from torch import nn

from wbdc.core.errors import UsageFault
from wbdc.core.tokens import Tokens


class TransformerBlock(nn.Module):
    """Attention then a feed-forward layer, each normalised first and added back (pre-norm; Xiong et
    al., 2020). Raises UsageFault for heads that do not divide dim.
    """

    def __init__(self, dim: int, heads: int, dropout: float):
        if heads < 1 or dim % heads:
            raise UsageFault(
                f"fusion.heads = {heads} does not divide the trunk's width of {dim}; give a divisor"
            )
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.before, self.between = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.at_norm = nn.LayerNorm(dim)
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.feed = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * dim, dim)
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, row: Tokens, at: Tokens) -> Tokens:
        """Let `row` (B, N, D) look at the real tokens of `at` (B, M, D); each row of `at` holds at
        least one.
        """
        asked, seen = self.before(row.x), self.at_norm(at.x)
        q, k, v = (
            self._cut(f(x)) for f, x in ((self.query, asked), (self.key, seen), (self.value, seen))
        )
        mixed = F.scaled_dot_product_attention(
            q, k, v, at.mask[:, None, None, :], self.dropout if self.training else 0.0
        )
        x = row.x + self.drop(self.out(mixed.transpose(1, 2).flatten(2)))
        return Tokens(x + self.drop(self.feed(self.between(x))), row.mask)

    def _cut(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
