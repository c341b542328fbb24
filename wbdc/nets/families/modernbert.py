"""ModernBERT (Warner et al., 2024): rotary positions; most layers attend to near tokens only."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wbdc.core.tokens import Tokens
from wbdc.nets.families import EncoderParts, Family
from wbdc.nets.families.trunk_attention import TRUNK_ATTENTION
from wbdc.nets.model_types import MODERNBERT_TYPES
from wbdc.nets.packed_tokens import pack_tokens, unpack_tokens

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class ModernBertFamily(Family):
    """Positions are those among the real tokens, so the padding between text and frames does not
    matter. Some layers attend to tokens within a window of positions (`local_attention`).
    """

    model_types = MODERNBERT_TYPES
    attention = TRUNK_ATTENTION
    word_embeddings = "embeddings.tok_embeddings.weight"

    def positions(self, settings: "PretrainedConfig") -> int | None:
        return settings.max_position_embeddings

    def parts(self, model: "PreTrainedModel") -> dict[str, nn.Module]:
        embeddings = model.embeddings
        embeddings.word_embeddings = embeddings.tok_embeddings
        del embeddings.tok_embeddings
        encoder = EncoderParts(
            model.layers, final_norm=model.final_norm, rotary_emb=model.rotary_emb
        )
        encoder.window = model.config.sliding_window
        return {"embeddings": embeddings, "encoder": encoder}

    def embed(self, trunk: nn.Module, ids: Tensor) -> Tensor:
        return trunk.embeddings(inputs_embeds=trunk.embeddings.word_embeddings(ids))

    def encode(self, trunk: nn.Module, tokens: Tokens, layers: slice) -> Tensor:
        encoder = trunk.encoder
        numbers = range(*layers.indices(len(encoder.layer)))
        if not numbers:
            return tokens.x
        packed, order = pack_tokens(tokens)
        x = packed.x
        positions = torch.arange(x.shape[1], device=x.device).unsqueeze(0)
        masks = _masks(packed, encoder.window)
        rotations = {
            kind: encoder.rotary_emb(x, positions, kind) for kind in encoder.rotary_emb.layer_types
        }
        for number in numbers:
            layer = encoder.layer[number]
            kind = layer.attention_type
            x = layer(x, attention_mask=masks[kind], position_embeddings=rotations[kind])
        if numbers[-1] == len(encoder.layer) - 1:
            x = encoder.final_norm(x)
        return unpack_tokens(x, order)

    def tensor_name(self, name: str) -> str:
        for before, after in (
            ("embeddings.tok_embeddings.", "embeddings.word_embeddings."),
            ("layers.", "encoder.layer."),
            ("final_norm.", "encoder.final_norm."),
        ):
            if name.startswith(before):
                return after + name.removeprefix(before)
        return name


def _masks(tokens: Tokens, window: int) -> dict[str, Tensor]:
    """Return the attention mask of each kind of layer, each (B, 1, N or 1, N) bool.

    window: the largest distance of tokens that attend to each other in a local layer.
    """
    positions = torch.arange(tokens.x.shape[1], device=tokens.x.device)
    distances = (positions[:, None] - positions).abs()
    # padding outside of every window attends to itself, as some kernels return NaN without a key
    local = (tokens.attention_mask & (distances <= window)) | (distances == 0)
    return {"full_attention": tokens.attention_mask, "sliding_attention": local}
