"""The language trunk: a text encoder of transformers that embeds token ids and encodes any sequence
of vectors.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from wbdc.core.errors import EnvironmentFault, UsageFault
from wbdc.core.tokens import Tokens
from wbdc.core.weights import find_weights, load_weights, select_tensors
from wbdc.nets.dropout import use_fast_dropout
from wbdc.nets.families import Family
from wbdc.nets.families.bert import BertFamily
from wbdc.nets.families.deberta_v2 import DebertaV2Family
from wbdc.nets.families.modernbert import ModernBertFamily
from wbdc.nets.families.trunk_attention import register_attention
from wbdc.nets.families.xlnet import XLNetFamily
from wbdc.nets.model_types import check_model_type

FAMILIES: tuple[Family, ...] = (
    BertFamily(),
    DebertaV2Family(),
    ModernBertFamily(),
    XLNetFamily(),
)
TRUNK_WEIGHTS_FILE = "model.safetensors"
TRUNK_FILES = ("config.json", "vocab.txt or tokenizer.json")  # besides the weights


class Trunk(nn.Module):
    """A text encoder of transformers without its pooler; `FAMILIES` lists what is supported.

    architecture: the content of transformers' config.json. The weights are random until
    `load_trunk` fills them. Raises UsageFault for an architecture that cannot be built.
    """

    def __init__(self, architecture: dict):
        from transformers import AutoConfig, AutoModel  # takes seconds; a kit is resolved without

        super().__init__()
        settings = {k: v for k, v in architecture.items() if k != "model_type"}
        model_type = architecture.get("model_type", "bert")
        self.family = find_family(model_type)
        register_attention()
        try:
            config = AutoConfig.for_model(model_type, **settings)
            self.family.check(config)
            model = AutoModel.from_config(config, attn_implementation=self.family.attention)
        except (MemoryError, UsageFault):
            raise
        except Exception as error:  # transformers raises many types
            message = " ".join(str(error).split()) or type(error).__name__
            raise UsageFault(f"trunk.architecture cannot be built: {message}") from error
        self.architecture = architecture
        self.dim: int = config.hidden_size
        self.positions = self.family.positions(config)
        for name, module in self.family.parts(model).items():
            self.add_module(name, module)
        use_fast_dropout(self)

    @property
    def depth(self) -> int:
        """The number of layers."""
        return len(self.encoder.layer)

    def embed(self, ids: Tensor) -> Tensor:
        """Embed token ids, with positions if the family adds any: (B, T) int64 -> (B, T, D)."""
        return self.family.embed(self, ids)

    def forward(self, tokens: Tokens, *, layers: slice = slice(None)) -> Tokens:
        """Encode a sequence: every token attends to the real tokens of its sequence, or to those
        that its (B, N, N) mask allows.

        layers: the layers to run, for example slice(6, None) for all after the sixth.
        """
        return Tokens(self.family.encode(self, tokens, layers), tokens.mask)


def find_family(model_type: str) -> Family:
    """Return the family of a model type of transformers. Raises UsageFault for an unknown one."""
    check_model_type(model_type)
    return next(family for family in FAMILIES if model_type in family.model_types)


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
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder).to_diff_dict()


def load_trunk(trunk: Trunk, folder: Path) -> list[str]:
    """Load the pretrained weights of a folder into the trunk.

    Returns the names of the tensors that are not used (pooler, heads). Raises IntegrityFault when
    a tensor of the trunk is missing.
    """
    weights = load_weights(folder / TRUNK_WEIGHTS_FILE)
    words = trunk.family.word_embeddings
    prefix = next((n.removesuffix(words) for n in sorted(weights) if n.endswith(f".{words}")), "")
    renamed = {_trunk_name(trunk.family, name, prefix): t for name, t in weights.items()}
    file = folder / TRUNK_WEIGHTS_FILE
    selected, unused = select_tensors(renamed, trunk.state_dict(), file, prefix)
    with torch.no_grad():
        trunk.load_state_dict(selected, strict=True)
    return unused


def initialize_words(trunk: Trunk, pieces: dict[int, list[int]]) -> None:
    """Let the embedding of each new word begin as the mean of those of the tokens that it replaces
    (as in WoBERT; Su, 2020).

    pieces: the ids of these tokens, by the id of the word. The embeddings get the missing rows.
    """
    words = trunk.embeddings.word_embeddings
    known = words.weight.detach()
    means = torch.stack([known[ids].mean(0) for ids in pieces.values()])
    size = max(len(known), 1 + max(pieces))
    weight = torch.cat([known, known.new_zeros(size - len(known), known.shape[1])])
    weight[list(pieces)] = means
    words.weight = nn.Parameter(weight)
    words.num_embeddings = size
    trunk.architecture = {**trunk.architecture, "vocab_size": size}


def _trunk_name(family: Family, name: str, prefix: str) -> str:
    """Return the name of a tensor of a checkpoint in the trunk, with the same prefix."""
    # layer normalizations that were converted from TensorFlow
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
    name = name.replace("LayerNorm.beta", "LayerNorm.bias")
    if not name.startswith(prefix):
        return name
    return prefix + family.tensor_name(name.removeprefix(prefix))
