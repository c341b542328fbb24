"""The parts of a network that OpenVINO computes: the vision tower, and all that follows it."""

from collections.abc import Hashable

import torch
from torch import Tensor

from wbdc.core.errors import UsageFault
from wbdc.core.plug import plug_name
from wbdc.nets.modality import Modality
from wbdc.nets.model import VideoClassifier
from wbdc.nets.vision import Vision
from wbdc.serve.cuda_graphs import TensorFunction
from wbdc.serve.openvino_function import WITHOUT_OPENVINO, OpenVinoFunction

# converted with the first of these sizes, and compared with torch on the others
EXAMPLE_FRAMES = (2, 3)
EXAMPLE_BATCHES = ((2, 9, 2), (3, 12, 3), (1, 7, 0))  # videos, tokens, frames


def use_openvino_tower(
    vision: Vision,
    tower_key: Hashable,
    threads: int,
    towers: dict[Hashable, OpenVinoFunction],
    name: str,
) -> list[OpenVinoFunction]:
    """Let OpenVINO encode frames from now on; return its functions, none for features.

    tower_key: of the member; towers: those of all members by their keys, to which new ones are
    added; name: for errors. Raises as OpenVinoFunction does, UsageFault for a tower that OpenVINO
    computes otherwise.
    """
    if vision.image_settings is None:
        return []

    check_convertible(vision, name)
    parts = vision.parts()
    for part, tower in parts.items():
        key = (tower_key, part)
        if key not in towers:
            towers[key] = convert_tower(tower, threads, name)
        tower.encode_part = towers[key]
    return [towers[tower_key, part] for part in parts]


def check_convertible(tower: Vision | Modality, name: str) -> None:
    """Raise UsageFault for a tower that OpenVINO does not compute as torch does. name: for errors.

    It is refused before it is computed, because OpenVINO damages memory with some towers.
    """
    if not tower.converts_to_openvino:
        kind = "vision" if isinstance(tower, Vision) else "modality"
        raise UsageFault(
            f"OpenVINO does not compute {kind} {plug_name(tower)!r} of {name} as torch does; "
            f"{WITHOUT_OPENVINO}"
        )


def convert_tower(vision: Vision, threads: int, name: str) -> OpenVinoFunction:
    """Convert a vision tower: (M, 3, S, S) uint8 -> (M, P * dim), or that of clips. name: for
    errors. Raises as OpenVinoFunction does.
    """
    generator = torch.Generator().manual_seed(0)
    size = vision.image_settings.size
    length = () if vision.clip_frames is None else (vision.clip_frames,)
    examples = [
        (
            torch.randint(
                256, (count, *length, 3, size, size), dtype=torch.uint8, generator=generator
            ),
        )
        for count in EXAMPLE_FRAMES
    ]
    return OpenVinoFunction(vision.encode_part, vision, examples, threads, name)


def convert_scores(
    score: TensorFunction, model: VideoClassifier, threads: int, name: str
) -> OpenVinoFunction:
    """Convert what follows the vision tower. Raises as OpenVinoFunction does.

    score: computes the logits (B, C) of `model` from text (B, T) int64, text_mask (B, T) bool,
    features (B, N, D) float and frame_mask (B, N) bool, and rows (B, M, D) float and mask (B, M)
    bool of each further modality. name: for errors.
    """
    examples = [_random_batch(model, *sizes) for sizes in EXAMPLE_BATCHES]
    return OpenVinoFunction(score, model, examples, threads, name)


def _random_batch(
    model: VideoClassifier, videos: int, tokens: int, frames: int
) -> tuple[Tensor, ...]:
    """Return the inputs of `score`; each video has one token less than the one before it, and the
    last one has no frames.
    """
    generator = torch.Generator().manual_seed(0)
    words = model.trunk.embeddings.word_embeddings.num_embeddings
    text_mask = torch.arange(tokens) < tokens - torch.arange(videos)[:, None]
    is_real = torch.ones(videos, frames, dtype=torch.bool)
    is_real[-1] = False
    frame_mask = model.vision.token_mask(is_real)
    text = torch.randint(words, (videos, tokens), generator=generator) * text_mask
    vectors = torch.randn(*frame_mask.shape, model.vision.dim, generator=generator)
    modalities = []
    for tokens in model.modalities.values():
        mask = is_real[:, : tokens.tower.steps]
        rows = torch.randn(*mask.shape, tokens.tower.width, generator=generator)
        modalities += [rows, mask]
    return text, text_mask, vectors, frame_mask, *modalities
