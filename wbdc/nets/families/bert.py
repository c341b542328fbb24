"""BERT (Devlin et al., 2019) and models of its architecture: RoBERTa-wwm, MacBERT, ERNIE, ELECTRA
and RoBERTa.
"""

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wbdc.core.tokens import Tokens
from wbdc.nets.families import Family
from wbdc.nets.families.trunk_attention import TRUNK_ATTENTION
from wbdc.nets.model_types import BERT_TYPES, ROBERTA_TYPES

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class BertFamily(Family):
    """Positions are added to the embedded text, so that the layers need none."""

    model_types = BERT_TYPES
    attention = TRUNK_ATTENTION

    def positions(self, settings: "PretrainedConfig") -> int | None:
        if settings.model_type in ROBERTA_TYPES:
            return settings.max_position_embeddings - settings.pad_token_id - 1
        return settings.max_position_embeddings

    def parts(self, model: "PreTrainedModel") -> dict[str, nn.Module]:
        return {
            "embeddings": model.embeddings,
            "encoder": model.encoder,
            # the embeddings of a small ELECTRA are narrower than its layers
            "embeddings_project": getattr(model, "embeddings_project", nn.Identity()),
        }

    def embed(self, trunk: nn.Module, ids: Tensor) -> Tensor:
        positions = None
        if hasattr(trunk.embeddings, "padding_idx"):  # RoBERTa would count ids that are not padding
            first = trunk.embeddings.padding_idx + 1
            positions = torch.arange(first, first + ids.shape[1], device=ids.device).expand_as(ids)
        return trunk.embeddings_project(trunk.embeddings(input_ids=ids, position_ids=positions))

    def encode(self, trunk: nn.Module, tokens: Tokens, layers: slice) -> Tensor:
        encoder = trunk.encoder
        if layers != slice(None):
            # shares the weights, and keeps what a version of transformers does around the layers
            encoder = copy.copy(encoder)
            encoder._modules = {**trunk.encoder._modules, "layer": trunk.encoder.layer[layers]}
        return encoder(tokens.x, attention_mask=tokens.attention_mask).last_hidden_state
