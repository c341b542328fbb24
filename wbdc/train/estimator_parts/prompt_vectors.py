"""Vectors of texts by the text tower of a CLIP: of open_clip, or a CLIP or Chinese-CLIP of
transformers. It is needed once, when a model is fitted.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from wbdc.core.errors import EnvironmentFault, UsageFault
from wbdc.core.weights import find_weights, load_weights, select_tensors
from wbdc.nets.clip_layout import CONFIG_FILE, is_transformers_clip
from wbdc.nets.vision.clip import CLIP_WEIGHTS_FILES, TRANSFORMERS_WEIGHTS, find_listed

PROMPTS_TOGETHER = 256
TRANSFORMERS_CLIP_FILE = "model.safetensors"
TOKENIZER_FILES = ("vocab.txt", "tokenizer.json", "vocab.json")


@torch.no_grad()
def prompt_vectors(model: str, weights: str, prompts: Sequence[str]) -> tuple[Tensor, float]:
    """Return the unit vectors of n texts, (n, D), and the scale by which the model multiplies
    cosines.

    model, weights: as vision 'clip' takes them. Raises UsageFault for unknown names,
    EnvironmentFault when the weights or the files of the tokenizer are not on this machine.
    """
    encode = _encode_transformers if weights == TRANSFORMERS_WEIGHTS else _encode_open_clip
    vectors, logit_scale = encode(model, weights, prompts)
    return F.normalize(vectors.float(), dim=-1), logit_scale.exp().item()


def _encode_open_clip(model: str, weights: str, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    import open_clip  # takes seconds

    architecture, _, hub_name = find_listed(model, weights)
    folder = find_weights(hub_name, CLIP_WEIGHTS_FILES)
    file = next(folder / name for name in CLIP_WEIGHTS_FILES if (folder / name).is_file())
    tensors = load_weights(file)
    if is_transformers_clip(tensors):
        raise UsageFault(
            f"{file} was saved by transformers; set model to its name on Hugging Face and weights "
            f"to {TRANSFORMERS_WEIGHTS!r}"
        )
    clip = open_clip.create_model(
        model, pretrained=None, force_quick_gelu=architecture["quick_gelu"]
    )
    expected = {n: t for n, t in clip.state_dict().items() if not n.startswith("visual.")}
    selected, _ = select_tensors(tensors, expected, file)
    # the image tower stays random, since only texts are encoded
    clip.load_state_dict(clip.state_dict() | selected, strict=True)
    try:
        tokenize = open_clip.get_tokenizer(model)
    except OSError as error:
        raise _missing_tokenizer(model, " ".join(str(error).split())[:200]) from error
    parts = [clip.eval().encode_text(tokenize(part)) for part in _parts(prompts)]
    return torch.cat(parts), clip.logit_scale


def _encode_transformers(model: str, weights: str, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    from transformers import AutoModel, AutoTokenizer  # takes seconds

    folder = find_weights(model, (TRANSFORMERS_CLIP_FILE,), (CONFIG_FILE, "vocab.txt"))
    # without its files, transformers builds a tokenizer that knows no words
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise _missing_tokenizer(folder, f"none of {', '.join(TOKENIZER_FILES)}")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    clip = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
    longest = clip.config.text_config.max_position_embeddings
    vectors = []
    for part in _parts(prompts):
        tokens = tokenizer(
            list(part), padding=True, truncation=True, max_length=longest, return_tensors="pt"
        )
        output = clip.get_text_features(**tokens)
        vectors.append(getattr(output, "pooler_output", output))  # transformers 5, and 4
    return torch.cat(vectors), clip.logit_scale


def _parts(prompts: Sequence[str]) -> list[Sequence[str]]:
    starts = range(0, len(prompts), PROMPTS_TOGETHER)
    return [prompts[start : start + PROMPTS_TOGETHER] for start in starts]


def _missing_tokenizer(name: str | Path, reason: str) -> EnvironmentFault:
    return EnvironmentFault(
        f"the tokenizer of {name} cannot be loaded ({reason}); put its files, for example "
        "vocab.txt, beside the weights, or choose a model of open_clip with its own tokenizer"
    )
