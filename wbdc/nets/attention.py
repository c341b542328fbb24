"""One transformer block for tokens that meet: a row looks at itself or at another row."""

import torch.nn.functional as F
from torch import Tensor, nn

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
        self.norm_query = nn.LayerNorm(dim)
        self.norm_ffn = nn.LayerNorm(dim)
        self.norm_context = nn.LayerNorm(dim)
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.ffn = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * dim, dim)
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, row: Tokens, context: Tokens) -> Tokens:
        """Let `row` (B, N, D) look at the real tokens of `at` (B, M, D); each row of `at` holds at
        least one.
        """
        query_input = self.norm_query(row.x)
        context_input = self.norm_context(context.x)

        query = self._split_heads(self.query(query_input))
        key = self._split_heads(self.key(context_input))
        value = self._split_heads(self.value(context_input))
        mixed = F.scaled_dot_product_attention(
            query,
            key,
            value,
            context.mask[:, None, None, :],
            self.dropout if self.training else 0.0,
        )
        x = row.x + self.drop(self.out(mixed.transpose(1, 2).flatten(2)))
        return Tokens(x + self.drop(self.ffn(self.norm_ffn(x))), row.mask)

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
