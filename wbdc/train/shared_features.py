"""Frame features that all passes of a step share, so that the vision tower computes them once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from torch import Tensor

from wbdc.core.batch import Batch
from wbdc.core.device import autocast
from wbdc.nets.model import VideoClassifier
from wbdc.train.step import Step
from wbdc.train.tricks import Trick


def passes_share_features(model: VideoClassifier, tricks: Sequence[Trick]) -> bool:
    """Return whether a step has several passes, in all of which the vision tower is the same."""
    moved = [trick.moved_weights for trick in tricks if trick.moved_weights is not None]
    tower = {id(weight) for weight in model.vision.parameters()}
    return bool(moved) and not any(id(weight) in tower for weights in moved for weight in weights)


@contextmanager
def frames_encoded_once(step: Step, batch: Batch, trained: list[Tensor]) -> Iterator[Batch]:
    """Yield the batch with frame features instead of pixels, for several passes in the block.

    The tower's gradients are linear in those of its features, so the features add up the gradients
    of the passes, and at the end of the block one backward pass of the tower takes the sum. Its
    dropout and stochastic depth, if any, are those of one pass, and running statistics move once.

    trained: the weights whose gradients tricks take and add; the features are among them in the
    block.
    """
    with autocast(step.device, step.precision):
        encoded = step.model.encode(batch)
    features = encoded.frames.detach().float().requires_grad_(encoded.frames.requires_grad)
    trained.append(features)
    try:
        yield replace(encoded, frames=features)
    finally:
        trained.pop()
    if features.grad is not None:
        encoded.frames.backward(features.grad.to(encoded.frames.dtype))
