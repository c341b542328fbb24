"""The attention function of a trunk's layers, under a name that transformers looks up."""

from torch import Tensor, nn

from wbdc.nets.scaled_attention import scaled_attention

TRUNK_ATTENTION = "wbdc"


def register_attention() -> None:
    """Let a model of transformers be built with `TRUNK_ATTENTION` as its attention function."""
    from transformers import AttentionInterface

    AttentionInterface.register(TRUNK_ATTENTION, _attend)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: object,
) -> tuple[Tensor, None]:
    """Compute `scaled_attention`; returns (B, N, H, D), and no weights. options: not used."""
    attended = scaled_attention(query, key, value, attention_mask, dropout, scaling)
    return attended.transpose(1, 2), None
