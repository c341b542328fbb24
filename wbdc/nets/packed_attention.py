"""Self-attention with one packed projection, as in the vision transformers of open_clip."""

import torch.nn.functional as F
from torch import Tensor, nn

from wbdc.nets.scaled_attention import scaled_attention


class PackedAttention(nn.MultiheadAttention):
    """torch's attention, whose gradient in BF16 on a CPU takes a fifth of the time."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *positional: object, **options: object
    ) -> tuple[Tensor, Tensor | None]:
        """Compute self-attention of (B, N, D) without a mask; all else is left to torch."""
        is_plain = query is key is value and options == {"need_weights": False, "attn_mask": None}
        if not (is_plain and self.training and self.batch_first and self._qkv_same_embed_dim):
            return super().forward(query, key, value, *positional, **options)
        packed = F.linear(query, self.in_proj_weight, self.in_proj_bias)
        heads = packed.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = scaled_attention(*heads, drop=self.dropout)
        return self.out_proj(attended.transpose(1, 2).flatten(2)), None


def use_packed_attention(module: nn.Module) -> None:
    """Let the attentions of a module that a library has built be those of this file."""
    for part in module.modules():
        if type(part) is nn.MultiheadAttention:
            part.__class__ = PackedAttention
