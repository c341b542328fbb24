"""Attention and transformer layers: tokens attend to themselves or to another sequence."""

import torch
from torch import Tensor, nn

from wbdc.core.errors import UsageFault
from wbdc.core.plug import check_between
from wbdc.core.tokens import Tokens
from wbdc.nets.dropout import Dropout
from wbdc.nets.scaled_attention import scaled_attention


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    context: Tokens,
    *,
    heads: int,
    dropout: float = 0.0,
    is_self: bool = False,
) -> Tensor:
    """Compute multi-head attention of projected tokens (Vaswani et al., 2017): (B, N, D).

    query: (B, N, D). key, value: (B, M, D), projected from `context`, each of whose sequences must
    hold at least one real token. is_self: whether the queries are the tokens of `context`. A
    context with a (B, M, M) mask is visible to itself only: other queries receive zeros.
    """
    if context.is_restricted and not is_self:
        return torch.zeros_like(query)
    split = [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value)]
    attended = scaled_attention(*split, context.attention_mask, dropout)
    return attended.transpose(1, 2).flatten(2)


def check_attention(dim: int, heads: int, dropout: float) -> None:
    """Raise UsageFault when `heads` does not divide `dim`, or for a dropout out of bounds."""
    check_between("fusion", 0, 1, dropout=dropout)
    if heads < 1 or dim % heads:
        raise UsageFault(
            f"fusion.heads = {heads} does not divide the trunk's width of {dim}; give a divisor"
        )


class TransformerBlock(nn.Module):
    """Attention and a feed-forward layer, both with pre-norm and a residual connection (Xiong et
    al., 2020).

    Raises UsageFault when `heads` does not divide `dim`, or for a dropout out of bounds.
    """

    def __init__(self, dim: int, heads: int, dropout: float):
        check_attention(dim, heads, dropout)
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
            nn.Linear(dim, 4 * dim), nn.GELU(), Dropout(dropout), nn.Linear(4 * dim, dim)
        )
        self.drop = Dropout(dropout)

    def forward(self, tokens: Tokens, context: Tokens) -> Tokens:
        """Let `tokens` (B, N, D) attend to the real tokens of `context` (B, M, D), as `attend`."""
        query_input = self.norm_query(tokens.x)
        context_input = self.norm_context(context.x)
        attended = attend(
            self.query(query_input),
            self.key(context_input),
            self.value(context_input),
            context,
            heads=self.heads,
            dropout=self.dropout if self.training else 0.0,
            is_self=context is tokens,
        )
        x = tokens.x + self.drop(self.out(attended))
        return Tokens(x + self.drop(self.ffn(self.norm_ffn(x))), tokens.mask)


class PostNormAttention(nn.Module):
    """Attention with a residual connection and a layer norm after it, as in BERT (Devlin et al.,
    2019).

    Raises UsageFault when `heads` does not divide `dim`, or for a dropout out of bounds.
    """

    def __init__(self, dim: int, heads: int, dropout: float):
        check_attention(dim, heads, dropout)
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.drop = Dropout(dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tokens, context: Tokens) -> Tokens:
        """Let `tokens` (B, N, D) attend to the real tokens of `context` (B, M, D), as `attend`."""
        attended = attend(
            self.query(tokens.x),
            self.key(context.x),
            self.value(context.x),
            context,
            heads=self.heads,
            dropout=self.dropout if self.training else 0.0,
            is_self=context is tokens,
        )
        return Tokens(self.norm(tokens.x + self.drop(self.out(attended))), tokens.mask)


class PostNormFeedForward(nn.Module):
    """A feed-forward layer with a residual connection and a layer norm after it, as in BERT."""

    def __init__(self, dim: int, dropout: float):
        super().__init__()
        self.ffn = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim), Dropout(dropout)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tokens) -> Tokens:
        """Transform each token on its own: (B, N, D)."""
        return Tokens(self.norm(tokens.x + self.ffn(tokens.x)), tokens.mask)
