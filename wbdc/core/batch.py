"""Batch: the one type that passes from data to networks."""

from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """A batch of B videos. It is never changed in place: hiding something returns a new batch.

    ids: B strings.
    text: (B, T) int64 token ids; text_mask: (B, T) bool.
    frames: (B, F, 3, H, W) uint8 pixels or (B, F, D) float features; frame_mask: (B, F) bool.
    label: (B,) int64 class index, or None for unlabeled videos.
    targets: what an objective hid, by a name that it chooses. Each use of an objective receives its
    own targets only.
    """

    ids: tuple[str, ...]
    text: Tensor
    text_mask: Tensor
    frames: Tensor
    frame_mask: Tensor
    label: Tensor | None = None
    targets: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def hide(self, name: str, target: Tensor, **changes: Tensor) -> "Batch":
        """Return a batch with some fields replaced, and `target` stored in `targets[name]`."""
        return replace(self, targets={**self.targets, name: target}, **changes)

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        moved = {
            f.name: value.to(device, non_blocking=True)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)

    def select(self, rows: slice) -> "Batch":
        """Return some of the videos. Padding is not removed."""
        selected = {
            f.name: value[rows]
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), (Tensor, tuple))
        }
        targets = {name: target[rows] for name, target in self.targets.items()}
        return replace(self, targets=targets, **selected)

    def drop_modality(self, modality: str) -> "Batch":
        """Return the batch as if no video had "text" or "frames", for ablations.

        The first text token stays, so that no row is empty.
        """
        if modality == "frames":
            return replace(self, frames=self.frames[:, :0], frame_mask=self.frame_mask[:, :0])
        return replace(self, text=self.text[:, :1], text_mask=self.text_mask[:, :1])
