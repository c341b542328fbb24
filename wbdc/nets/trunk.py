"""The language trunk: a BERT that embeds token ids and encodes any sequence of vectors."""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from wbdc.core.errors import EnvironmentFault, UsageFault
from wbdc.core.tokens import Tokens
from wbdc.core.weights import find_weights, load_weights, select_tensors

TRUNK_WEIGHTS_FILE = "model.safetensors"
TRUNK_FILES = ("config.json", "vocab.txt or tokenizer.json")  # besides the weights


class Trunk(nn.Module):
    """A BERT-family encoder of transformers (BERT, MacBERT, RoBERTa-wwm, ELECTRA) without its
    pooler.

    architecture: the content of transformers' config.json. The weights are random until
    `load_trunk` fills them. Raises UsageFault for an architecture that cannot be built.
    """

    def __init__(self, architecture: dict):
        super().__init__()
        settings = {k: v for k, v in architecture.items() if k != "model_type"}
        try:
            config = AutoConfig.for_model(architecture.get("model_type", "bert"), **settings)
            bert = AutoModel.from_config(config, attn_implementation="sdpa")
        except MemoryError:
            raise
        except Exception as error:  # transformers raises many types
            message = " ".join(str(error).split()) or type(error).__name__
            raise UsageFault(f"trunk.architecture cannot be built: {message}") from error
        if not (hasattr(bert, "embeddings") and hasattr(getattr(bert, "encoder", None), "layer")):
            raise UsageFault(
                f"trunk.architecture: {config.model_type} is not a BERT, as it has no attributes "
                "`embeddings` and `encoder.layer`; choose a model of the BERT family"
            )
        self.architecture = architecture
        self.dim = config.hidden_size
        self.positions: int | None = getattr(config, "max_position_embeddings", None)
        self.embeddings = bert.embeddings
        self.encoder = bert.encoder
        # the embeddings of a small ELECTRA are narrower than its layers
        self.embeddings_project = getattr(bert, "embeddings_project", nn.Identity())

    @property
    def depth(self) -> int:
        """The number of layers."""
        return len(self.encoder.layer)

    def embed(self, ids: Tensor) -> Tensor:
        """Embed token ids with their positions: (B, T) int64 -> (B, T, D)."""
        return self.embeddings_project(self.embeddings(input_ids=ids))

    def forward(self, tokens: Tokens, *, layers: slice = slice(None)) -> Tokens:
        """Encode a sequence: every token attends to the real tokens of its sequence, or to those
        that its (B, N, N) mask allows.

        layers: the layers to run, for example slice(6, None) for all after the sixth.
        """
        encoder = self.encoder if layers == slice(None) else self._part_of_encoder(layers)
        output = encoder(tokens.x, attention_mask=tokens.attention_mask)
        return Tokens(output.last_hidden_state, tokens.mask)

    def _part_of_encoder(self, layers: slice) -> nn.Module:
        """Return an encoder of some layers, which shares their weights. What an encoder does around
        its layers differs between the models of transformers, so it is kept.
        """
        part = copy.copy(self.encoder)
        part._modules = {**self.encoder._modules, "layer": self.encoder.layer[layers]}
        return part


def find_trunk(model: str) -> Path:
    """Find the folder of pretrained language weights. Raises EnvironmentFault."""
    folder = find_weights(model, (TRUNK_WEIGHTS_FILE,), TRUNK_FILES)
    if not (folder / TRUNK_FILES[0]).is_file():
        raise EnvironmentFault(
            f"{folder} holds {TRUNK_WEIGHTS_FILE} and no {TRUNK_FILES[0]}; "
            f"put that of https://huggingface.co/{model} beside it"
        )
    return folder


def read_architecture(folder: Path) -> dict:
    """Read the config.json of pretrained weights."""
    return AutoConfig.from_pretrained(folder).to_diff_dict()


def load_trunk(trunk: Trunk, folder: Path) -> list[str]:
    """Load the pretrained weights of a folder into the trunk.

    Returns the names of the tensors that are not used (pooler, heads). Raises IntegrityFault when
    a tensor of the trunk is missing.
    """
    weights = load_weights(folder / TRUNK_WEIGHTS_FILE)
    heads = {name.split(".", 1)[0] for name in weights} - {"embeddings", "encoder"}
    prefix = next(
        (f"{h}." for h in sorted(heads) if f"{h}.embeddings.word_embeddings.weight" in weights), ""
    )
    renamed = {_modern_name(name): tensor for name, tensor in weights.items()}
    file = folder / TRUNK_WEIGHTS_FILE
    selected, unused = select_tensors(renamed, trunk.state_dict(), file, prefix)
    with torch.no_grad():
        trunk.load_state_dict(selected, strict=True)
    return unused


def _modern_name(name: str) -> str:
    """Rename the parameters of a layer normalization that was converted from TensorFlow."""
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
    return name.replace("LayerNorm.beta", "LayerNorm.bias")
