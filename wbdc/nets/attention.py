"""One transformer block: a sequence of tokens attends to itself or to another sequence."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbdc.core.errors import UsageFault
from wbdc.core.plug import check_between
from wbdc.core.tokens import Tokens


class TransformerBlock(nn.Module):
    """Attention and a feed-forward layer, both with pre-norm and a residual connection (Xiong et
    al., 2020).

    Raises UsageFault when `heads` does not divide `dim`, or for a dropout out of bounds.
    """

    def __init__(self, dim: int, heads: int, dropout: float):
        check_between("fusion", 0, 1, dropout=dropout)
        if heads < 1 or dim % heads:
            raise UsageFault(
                f"fusion.heads = {heads} does not divide the trunk's width of {dim}; give a divisor"
            )
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.norm_query = nn.LayerNorm(dim)
        self.norm_ffn = nn.LayerNorm(dim)
        self.norm_context = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.ffn = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * dim, dim)
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, tokens: Tokens, context: Tokens) -> Tokens:
        """Let `tokens` (B, N, D) attend to the real tokens of `context` (B, M, D).

        Each sequence of `context` must hold at least one real token. Tokens with a (B, M, M) mask
        are visible to themselves only: others receive zeros from them.
        """
        query_input = self.norm_query(tokens.x)
        context_input = self.norm_context(context.x)

        query = self._split_heads(self.query(query_input))
        key = self._split_heads(self.key(context_input))
        value = self._split_heads(self.value(context_input))

        if context.is_restricted and context is not tokens:
            attended = torch.zeros_like(query)
        else:
            attended = F.scaled_dot_product_attention(
                query, key, value, context.attention_mask, self.dropout if self.training else 0.0
            )
        x = tokens.x + self.drop(self.out(attended.transpose(1, 2).flatten(2)))
        return Tokens(x + self.drop(self.ffn(self.norm_ffn(x))), tokens.mask)

    def _split_heads(self, x: Tensor) -> Tensor:
        """Split the width into heads: (B, N, D) -> (B, heads, N, D / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
