"""Text and frames apart: which videos have them, and batches of some words or of one modality."""

from dataclasses import replace

import torch
from torch import Tensor

from wbdc.core.batch import Batch
from wbdc.core.errors import UsageFault, suggest_name
from wbdc.core.tokens import Fused, Tokens
from wbdc.nets.model import VideoClassifier
from wbdc.train.task import Task


def real_words(batch: Batch) -> Tensor:
    """Return which tokens are words that the model may read, not special ones: (B, T) bool."""
    mask = batch.text_mask
    is_real = mask.diagonal(dim1=1, dim2=2) if mask.dim() == 3 else mask
    return is_real & (batch.text_field > 0)


def has_words(batch: Batch) -> Tensor:
    """Return which videos have words: (B,) bool."""
    return real_words(batch).any(1)


def has_frames(batch: Batch) -> Tensor:
    """Return which videos have frames: (B,) bool."""
    return batch.frame_mask.any(1)


def is_pair(batch: Batch) -> Tensor:
    """Return which videos have both words and frames: (B,) bool."""
    return has_words(batch) & has_frames(batch)


def has_field(batch: Batch, field: int) -> Tensor:
    """Return which videos have words in a field, whose number counts from 1: (B,) bool."""
    return (real_words(batch) & (batch.text_field == field)).any(1)


def field_number(task: Task, name: str, subject: str) -> int:
    """Return the number of a text field in `Batch.text_field`. Raises UsageFault.

    subject: of the message, for example "objective 'clip'".
    """
    if name not in task.fields:
        raise UsageFault(
            f"{subject}: no text field called {name!r}{suggest_name(name, list(task.fields))}"
        )
    return task.fields.index(name) + 1


def keep_modality(batch: Batch, name: str) -> Batch:
    """Return the batch as if videos had nothing but "text" or "frames"."""
    for other in ("text", "frames", *batch.modalities):
        batch = batch if other == name else batch.drop_modality(other)
    return batch


def restrict_text(batch: Batch, is_selected: Tensor) -> Batch:
    """Return the batch with the selected words only, after the first token, which stays.

    is_selected: (B, T) bool, of words. They move next to each other, because a gap would show the
    model where and how long the removed text was.
    """
    is_first = torch.arange(is_selected.shape[1], device=is_selected.device) == 0
    stays = is_selected | is_first
    order = torch.argsort(~stays, dim=1, stable=True)
    return replace(
        batch,
        text=batch.text.gather(1, order),
        text_mask=stays.gather(1, order),
        text_field=batch.text_field.gather(1, order),
    )


def encode_apart(model: VideoClassifier, batch: Batch, fused: Fused) -> tuple[Tokens, Tokens]:
    """Encode text and frames of a batch before they attend to each other: (B, N, D) each.

    fused: an output of the same kind of model for any batch. It shows whether the fusion has such
    tokens; if it has none, no pass through the fusion is needed.
    """
    return model.unimodal(batch, fused if fused.unimodal is None else model.fuse(batch))


def is_unmasked(batch: Batch, original: Batch) -> bool:
    """Return whether no objective hid anything in `batch`, a changed copy of `original`."""
    names = ("text", "text_mask", "frames", "frame_mask")
    return all(getattr(batch, name) is getattr(original, name) for name in names)
