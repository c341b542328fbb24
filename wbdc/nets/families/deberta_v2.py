"""DeBERTa-v2 and -v3 (He et al., 2021): attention depends on the distance of two tokens."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wbdc.core.errors import UsageFault
from wbdc.core.tokens import Tokens
from wbdc.nets.families import Family
from wbdc.nets.model_types import DEBERTA_TYPES
from wbdc.nets.packed_tokens import pack_tokens, unpack_tokens

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class DebertaV2Family(Family):
    """Distances are those between real tokens, so the padding between text and frames does not
    matter.

    The layers and what surrounds them are those of transformers. Its encoder is not called, as it
    computes distances on the CPU, which would wait for a GPU, and takes no masks of pairs with a
    convolution.
    """

    model_types = DEBERTA_TYPES

    def positions(self, settings: "PretrainedConfig") -> int | None:
        return settings.max_position_embeddings if settings.position_biased_input else None

    def parts(self, model: "PreTrainedModel") -> dict[str, nn.Module]:
        encoder = model.encoder
        if encoder.relative_attention:
            encoder.register_buffer("distance_buckets", _bucket_table(encoder), persistent=False)
        return {"embeddings": model.embeddings, "encoder": encoder}

    def embed(self, trunk: nn.Module, ids: Tensor) -> Tensor:
        embeddings = trunk.embeddings
        if embeddings.position_embeddings is not None:
            return embeddings(input_ids=ids)
        # the positions are not used, and those of transformers end at the longest pretrained text
        return embeddings(input_ids=ids, position_ids=torch.zeros_like(ids))

    def encode(self, trunk: nn.Module, tokens: Tokens, layers: slice) -> Tensor:
        encoder = trunk.encoder
        numbers = range(*layers.indices(len(encoder.layer)))
        if not numbers:
            return tokens.x
        if encoder.conv is not None and tokens.is_restricted:
            raise UsageFault(
                "trunk: this DeBERTa has a convolution (conv_kernel_size), through which a word "
                "reads the next one, so it takes no causal text; remove objectives such as "
                "caption, or choose a model without one, for example DeBERTa-v3"
            )
        packed, order = pack_tokens(tokens)
        inputs = x = packed.x
        distances = _distances(encoder, x.shape[1])
        distance_embeddings = encoder.get_rel_embedding()
        for number in numbers:
            x, _ = encoder.layer[number](
                x,
                packed.attention_mask,
                relative_pos=distances,
                rel_embeddings=distance_embeddings,
            )
            if number == 0 and encoder.conv is not None:
                x = encoder.conv(inputs, x, packed.mask.long())
        return unpack_tokens(x, order)


def _bucket_table(encoder: nn.Module) -> Tensor:
    """Return the bucket of each distance from -L to L, (2 L + 1,) int64, L the largest that differs
    from greater ones.
    """
    largest = encoder.max_relative_positions
    distances = torch.arange(-largest, largest + 1)
    if encoder.position_buckets <= 0:
        return distances
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    return make_log_bucket_position(distances, encoder.position_buckets, largest).long()


def _distances(encoder: nn.Module, length: int) -> Tensor | None:
    """Return the bucket of the distance of each pair of tokens: (length, length) int64."""
    if not encoder.relative_attention:
        return None
    buckets = encoder.distance_buckets
    largest = len(buckets) // 2
    positions = torch.arange(length, device=buckets.device)
    distances = (positions[:, None] - positions).clamp(-largest, largest)
    return buckets[distances + largest]
