"""XLNet (Yang et al., 2019): attention depends on the distance of two tokens."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wbdc.core.errors import UsageFault
from wbdc.core.tokens import Tokens
from wbdc.nets.families import EncoderParts, Family
from wbdc.nets.model_types import XLNET_TYPES
from wbdc.nets.packed_tokens import pack_tokens, unpack_tokens

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

LONGEST_WAVE = 10000  # of the sinusoids of a distance


class XLNetFamily(Family):
    """Distances are those between real tokens, so the padding between text and frames does not
    matter.

    All tokens are one segment, without memory of earlier ones. The weights of segments and of the
    second stream of its pretraining have no effect then, and are left out. XLNet was pretrained
    with "<cls>" at the end of a text; here it comes first, as for all families.
    """

    model_types = XLNET_TYPES
    word_embeddings = "word_embedding.weight"

    def check(self, settings: "PretrainedConfig") -> None:
        if settings.attn_type != "bi" or settings.bi_data:
            raise UsageFault(
                f"trunk: an XLNet with attn_type = {settings.attn_type!r} and bi_data = "
                f"{settings.bi_data} is not supported; its config.json needs 'bi' and false"
            )

    def parts(self, model: "PreTrainedModel") -> dict[str, nn.Module]:
        for layer in model.layer:
            del layer.rel_attn.seg_embed
            del layer.rel_attn.r_s_bias
        encoder = EncoderParts(model.layer, dropout=model.dropout)
        encoder.largest_distance = model.clamp_len
        embeddings = nn.ModuleDict({"word_embeddings": model.word_embedding})
        return {"embeddings": embeddings, "encoder": encoder, "embeddings_dropout": model.dropout}

    def embed(self, trunk: nn.Module, ids: Tensor) -> Tensor:
        return trunk.embeddings_dropout(trunk.embeddings["word_embeddings"](ids))

    def encode(self, trunk: nn.Module, tokens: Tokens, layers: slice) -> Tensor:
        encoder = trunk.encoder
        numbers = range(*layers.indices(len(encoder.layer)))
        if not numbers:
            return tokens.x
        packed, order = pack_tokens(tokens)
        x = packed.x.transpose(0, 1)  # its layers take (N, B, D)
        distances = encoder.dropout(_embed_distances(x, encoder.largest_distance))
        hidden = _hidden_pairs(packed).to(x.dtype)
        for number in numbers:
            x, _ = encoder.layer[number](x, None, hidden, None, distances, None)
        if numbers[-1] == len(encoder.layer) - 1:
            x = encoder.dropout(x)
        return unpack_tokens(x.transpose(0, 1), order)

    def tensor_name(self, name: str) -> str:
        if name == self.word_embeddings:
            return "embeddings.word_embeddings.weight"
        return f"encoder.{name}" if name.startswith("layer.") else name


def _embed_distances(x: Tensor, largest: int) -> Tensor:
    """Return the sinusoids of the distances N to 1 - N: (2 N, B, D), for x (N, B, D).

    largest: greater distances are as this one; not positive: no limit.
    """
    length, batch, dim = x.shape
    distances = torch.arange(length, -length, -1, device=x.device).float()
    if largest > 0:
        distances = distances.clamp(-largest, largest)
    waves = torch.arange(0, dim, 2, device=x.device).float() / dim
    angles = distances[:, None] / LONGEST_WAVE**waves
    sinusoids = torch.cat([angles.sin(), angles.cos()], 1).to(x.dtype)
    return sinusoids.unsqueeze(1).expand(-1, batch, -1)


def _hidden_pairs(tokens: Tokens) -> Tensor:
    """Return where token i may not attend to token j, (N, N, B, 1) bool; each attends to itself."""
    length = tokens.x.shape[1]
    itself = torch.eye(length, dtype=torch.bool, device=tokens.x.device)
    allowed = tokens.attention_mask.squeeze(1) | itself
    return ~allowed.permute(1, 2, 0).unsqueeze(3)
