"""Attention of projected heads, by the function that trains fastest on the device."""

import torch
import torch.nn.functional as F
from torch import Tensor

from wbdc.nets.dropout import dropout


def scaled_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    drop: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """Compute softmax(query key^T * scale) value: (B, H, N, D), for H heads.

    query: (B, H, N, D). key, value: (B, H, M, D). mask: bool, True where a query attends to a key,
    broadcast to (B, H, N, M); each query attends to at least one. drop: dropout of the softmax.
    scale: 1 / sqrt(D) by default.

    It is `scaled_dot_product_attention` of torch, except for what that computes slowly: the
    gradient in BF16 on a CPU, where `stepwise_attention` takes a fifth to two thirds of its time,
    and dropout on a CPU.
    """
    is_trained = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad)
    is_slow = query.device.type == "cpu" and is_trained
    if is_slow and (query.dtype == torch.bfloat16 or drop):
        return stepwise_attention(query, key, value, mask, drop, scale)
    return F.scaled_dot_product_attention(query, key, value, mask, drop, scale=scale)


def stepwise_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    drop: float,
    scale: float | None,
) -> Tensor:
    """Compute `scaled_attention` in steps, whose products are those of matrices.

    The products query key^T have the precision of the query. They are kept for the gradient, as in
    every function with dropout: N M numbers for each head.
    """
    scores = (query * (scale or query.shape[-1] ** -0.5)) @ key.transpose(-1, -2)
    if mask is not None:
        lowest = torch.finfo(scores.dtype).min  # not -inf, with which a sequence of padding is NaN
        bias = torch.zeros(mask.shape, dtype=scores.dtype, device=mask.device)
        scores = scores + bias.masked_fill_(~mask, lowest)
    return dropout(scores.softmax(-1), drop) @ value
