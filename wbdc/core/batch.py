"""Batch: the one value that crosses from data to networks."""

from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """A batch of B videos. Nothing changes it in place: whoever hides something makes a new one.

    ids: B strings.
    text: (B, T) int64 token ids; text_mask: (B, T) bool.
    frames: (B, F, 3, H, W) uint8 pixels or (B, F, D) float ready features; frame_mask: (B, F) bool.
    label: (B,) int64 class index, or None when unlabelled.
    targets: what an objective hid, by a name of its choice; each use of an objective sees its own
    targets only.
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

    def hide(self, name: str, target: Tensor, **changed: Tensor) -> "Batch":
        """Return a batch with some fields changed, remembering what was hidden."""
        return replace(self, targets={**self.targets, name: target}, **changed)

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        moved = {
            f.name: v.to(device, non_blocking=True)
            for f in fields(self)
            if isinstance(v := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)

    def select(self, chosen: slice) -> "Batch":
        """Return some of the videos; rows stay as wide as they were."""
        kept = {
            f.name: v[chosen]
            for f in fields(self)
            if isinstance(v := getattr(self, f.name), (Tensor, tuple))
        }
        return replace(
            self, targets={name: target[chosen] for name, target in self.targets.items()}, **kept
        )

    def drop_modality(self, modality: str) -> "Batch":
        """Return the batch as if every video lacked "text" or "frames" (for ablations).

        Text keeps its first token, so that no row becomes empty.
        """
        if modality == "frames":
            return replace(self, frames=self.frames[:, :0], frame_mask=self.frame_mask[:, :0])
        return replace(self, text=self.text[:, :1], text_mask=self.text_mask[:, :1])
