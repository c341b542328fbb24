"""The parts of a network that OpenVINO computes: the vision tower, and all that follows it."""

import torch
from torch import Tensor

from wbdc.nets.model import VideoClassifier
from wbdc.nets.vision import Vision
from wbdc.serve.openvino_function import OpenVinoFunction, TensorFunction

# converted with the first of these sizes, and compared with torch on the others
EXAMPLE_FRAMES = (2, 3)
EXAMPLE_BATCHES = ((2, 9, 2), (3, 12, 3), (1, 7, 0))  # videos, tokens, frames


def convert_tower(vision: Vision, threads: int, name: str) -> OpenVinoFunction:
    """Convert a vision tower: (M, 3, S, S) uint8 -> (M, P * dim). name: for errors. Raises as
    OpenVinoFunction does.
    """
    generator = torch.Generator().manual_seed(0)
    size = vision.image_settings.size
    examples = [
        (torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=generator),)
        for count in EXAMPLE_FRAMES
    ]
    return OpenVinoFunction(vision.encode_part, vision, examples, threads, name)


def convert_scores(
    score: TensorFunction, model: VideoClassifier, threads: int, name: str
) -> OpenVinoFunction:
    """Convert what follows the vision tower. Raises as OpenVinoFunction does.

    score: computes the logits (B, C) of `model` from text (B, T) int64, text_mask (B, T) bool,
    features (B, F * P, D) float and frame_mask (B, F * P) bool. name: for errors.
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
    features = frames * model.vision.tokens_per_frame
    text_mask = torch.arange(tokens) < tokens - torch.arange(videos)[:, None]
    frame_mask = torch.ones(videos, features, dtype=torch.bool)
    frame_mask[-1] = False
    text = torch.randint(words, (videos, tokens), generator=generator) * text_mask
    vectors = torch.randn(videos, features, model.vision.dim, generator=generator)
    return text, text_mask, vectors, frame_mask
