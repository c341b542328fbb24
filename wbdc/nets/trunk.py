"""The language trunk: a BERT as two verbs, embed words and let any row of tokens pass through its
layers.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from wbdc.core.errors import EnvironmentLacks, UsageFault
from wbdc.core.tokens import Tokens
from wbdc.core.weights import find_weights, load_weights, select_tensors

TRUNK_WEIGHTS_FILE = "model.safetensors"
TRUNK_FILES = ("config.json", "vocab.txt or tokenizer.json")  # what a trunk's folder holds too


class Trunk(nn.Module):
    """A BERT-family encoder of transformers (BERT, MacBERT, RoBERTa-wwm, ELECTRA), without its
    pooler.

    architecture: what transformers' config.json says; the weights are random until loaded.
    """

    def __init__(self, architecture: dict):
        super().__init__()
        settings = {k: v for k, v in architecture.items() if k != "model_type"}
        try:
            config = AutoConfig.for_model(architecture.get("model_type", "bert"), **settings)
            bert = AutoModel.from_config(config, attn_implementation="sdpa")
        except MemoryError:
            raise
        except Exception as error:  # transformers raises whatever it meets
            said = " ".join(str(error).split())
            raise UsageFault(
                f"trunk.architecture cannot be built: {said or type(error).__name__}"
            ) from error
        if not (hasattr(bert, "embeddings") and hasattr(bert, "encoder")):
            raise UsageFault(
                f"a {config.model_type} is no BERT: it has no embeddings and encoder of its own"
            )
        self.architecture, self.dim = architecture, config.hidden_size
        self.positions: int | None = getattr(config, "max_position_embeddings", None)
        self.embeddings, self.encoder = bert.embeddings, bert.encoder
        self.embeddings_project = getattr(
            bert, "embeddings_project", nn.Identity()
        )  # a small ELECTRA's words are narrower than its layers

    def embed(self, ids: Tensor) -> Tensor:
        """Embed words with their positions: (B, T) int64 -> (B, T, D)."""
        return self.embeddings_project(self.embeddings(input_ids=ids))

    def forward(self, row: Tokens) -> Tokens:
        """Let every real token look at every real token of its row."""
        return Tokens(
            self.encoder(row.x, attention_mask=row.mask[:, None, None, :]).last_hidden_state,
            row.mask,
        )


def find_trunk(model: str) -> Path:
    """Find the folder of pretrained language weights. Raises EnvironmentLacks."""
    folder = find_weights(model, (TRUNK_WEIGHTS_FILE,), TRUNK_FILES)
    if not (folder / TRUNK_FILES[0]).is_file():
        raise EnvironmentLacks(
            f"{folder} holds {TRUNK_WEIGHTS_FILE} and no {TRUNK_FILES[0]}; put that of https://huggingface.co/{model} beside it"
        )
    return folder


def read_architecture(folder: Path) -> dict:
    """Read the config.json beside pretrained weights."""
    return AutoConfig.from_pretrained(folder).to_diff_dict()


def load_trunk(trunk: Trunk, folder: Path) -> list[str]:
    """Fill the trunk with the weights of a folder as downloaded; return the names it leaves behind
    (pooler, heads).

    Raises IntegrityBroken when a tensor of the trunk is missing.
    """
    weights = load_weights(folder / TRUNK_WEIGHTS_FILE)
    heads = {name.split(".", 1)[0] for name in weights} - {"embeddings", "encoder"}
    prefix = next(
        (f"{h}." for h in sorted(heads) if f"{h}.embeddings.word_embeddings.weight" in weights), ""
    )
    named = {
        n.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
            "LayerNorm.beta", "LayerNorm.bias"
        ): w
        for n, w in weights.items()
    }
    taken, left = select_tensors(named, trunk.state_dict(), folder / TRUNK_WEIGHTS_FILE, prefix)
    with torch.no_grad():
        trunk.load_state_dict(taken, strict=True)
    return left
