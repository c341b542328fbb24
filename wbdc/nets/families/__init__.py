"""Families of text models: how the models of transformers become a trunk, one file per family."""

from typing import TYPE_CHECKING

from torch import Tensor, nn

from wbdc.core.tokens import Tokens

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class Family:
    """The contract of a family. Subclass it in a file of its own, and list it in `trunk.py`.

    Every trunk has the same names, whatever its family: `embeddings.word_embeddings`, and the
    layers in `encoder.layer`. Objectives, FGM, learning rates and layer decay rely on them.

    model_types: those of transformers' config.json. attention: the attention function of
    transformers. word_embeddings: the name of this tensor in the weights of the base model.
    """

    model_types: tuple[str, ...]
    attention = "eager"
    word_embeddings = "embeddings.word_embeddings.weight"

    def check(self, settings: "PretrainedConfig") -> None:
        """Raise UsageFault for settings that the family does not support. None by default."""

    def positions(self, settings: "PretrainedConfig") -> int | None:
        """Return how many tokens a sequence may have; None: any number."""
        return None

    def parts(self, model: "PreTrainedModel") -> dict[str, nn.Module]:
        """Return the modules of the trunk by name, among them "embeddings" and "encoder"."""
        raise NotImplementedError

    def embed(self, trunk: nn.Module, ids: Tensor) -> Tensor:
        """Embed token ids, (B, T) int64 to (B, T, D). trunk: has the `parts` as attributes."""
        raise NotImplementedError

    def encode(self, trunk: nn.Module, tokens: Tokens, layers: slice) -> Tensor:
        """Run some layers on tokens: (B, N, D). What follows the last layer belongs to it, so that
        layers [0, i) and then [i, L) are the whole encoder.
        """
        raise NotImplementedError

    def tensor_name(self, name: str) -> str:
        """Return the name of a base model's tensor in the trunk. The same by default."""
        return name


class EncoderParts(nn.Module):
    """Modules by name, for a family whose model has no encoder of its own.

    layer: the layers. parts: what is around them.
    """

    def __init__(self, layer: nn.ModuleList, **parts: nn.Module):
        super().__init__()
        self.layer = layer
        for name, module in parts.items():
            self.add_module(name, module)
