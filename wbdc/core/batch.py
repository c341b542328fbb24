"""Batch: the one type that passes from data to networks."""

from dataclasses import dataclass, field, fields, replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from wbdc.core.item_random import host_uniform, item_uniform
from wbdc.core.tokens import Tokens


@dataclass(frozen=True)
class Batch:
    """A batch of B videos. It is never changed in place: hiding something returns a new batch.

    ids: B strings.
    text: (B, T) int64 token ids; text_mask: (B, T) bool, or (B, T, T) bool where token i may attend
    to token j.
    frames: (B, F, 3, H, W) uint8 pixels with frame_mask (B, F) bool, or (B, F * P, D) float
    features, P of each frame, with frame_mask (B, F * P) bool.
    label: (B,) int64 class index, -1 for a video without a label; None if no label is known.
    text_field: (B, T) int8, the number of the field that a token belongs to, from 1; 0 for special
    tokens and padding.
    soft_label: (B, C) float, probabilities of the classes that replace the label, times the weight
    of the video in the loss; zeros for a video without soft labels.
    seeds: (B,) int64, the source of each video's random numbers; see `draw`.
    host_seeds: B numbers, the same as `seeds`, known without reading a tensor; () without seeds.
    frame_counts: B numbers of real frames, or of real features, known without reading a tensor.
    Real ones come first in each video. () when unknown, for example after frames were moved.
    rank_sizes: videos of this batch on each rank, () on a single one. Rank r of R holds the videos
    r, r + R, r + 2R, ... of the whole batch.
    pixels: (B, F, 3, H, W) uint8, those that the features of a batch were encoded from; None when
    the frames are pixels or cached features.
    modalities: what videos hold beside text and frames, by name, for example "audio": the rows of
    each, (B, N, D) float, and which are real, (B, N). A video without it has none.
    targets: what an objective hid, by a name that it chooses. Each use of an objective receives its
    own targets only.
    """

    ids: tuple[str, ...]
    text: Tensor
    text_mask: Tensor
    frames: Tensor
    frame_mask: Tensor
    label: Tensor | None = None
    text_field: Tensor | None = None
    soft_label: Tensor | None = None
    seeds: Tensor | None = None
    host_seeds: tuple[int, ...] = ()
    frame_counts: tuple[int, ...] = ()
    rank_sizes: tuple[int, ...] = ()
    pixels: Tensor | None = None
    modalities: dict[str, Tokens] = field(default_factory=dict)
    targets: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def is_labeled(self) -> Tensor:
        """Return which videos have a label or a soft label: (B,) bool."""
        is_labeled = torch.zeros(len(self), dtype=torch.bool, device=self.text.device)
        if self.label is not None:
            is_labeled = self.label >= 0
        if self.soft_label is not None:
            is_labeled = is_labeled | (self.soft_label.sum(1) > 0)
        return is_labeled

    def hide(self, name: str, target: Tensor, **changes: Tensor) -> "Batch":
        """Return a batch with some fields replaced, and `target` stored in `targets[name]`."""
        return replace(self, targets={**self.targets, name: target}, **changes)

    def draw(self, stream: str, *shape: int) -> Tensor:
        """Draw uniform random numbers for each video: (B, *shape) float32, 0 <= number < 1.

        They are a function of the training's seed, the epoch, the video's id and the name `stream`.
        Raises ValueError for a batch without seeds.
        """
        if self.seeds is None:
            raise ValueError("this batch has no seeds; collate it with a seed")
        return item_uniform(self.seeds, stream, *shape)

    def draw_on_host(self, stream: str, *shape: int) -> np.ndarray:
        """Draw the numbers of `draw` on the CPU, where they decide what is launched on a GPU.

        Raises ValueError for a batch without seeds.
        """
        if not self.host_seeds:
            raise ValueError("this batch has no seeds; collate it with a seed")
        return host_uniform(self.host_seeds, stream, *shape)

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        moved = {
            name: tensor.to(device, non_blocking=True) for name, tensor in self._tensors().items()
        }
        modalities = {
            name: Tokens(*(tensor.to(device, non_blocking=True) for tensor in tokens))
            for name, tokens in self.modalities.items()
        }
        return replace(self, modalities=modalities, **moved)

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Tell torch that a stream other than that of the allocation reads the batch: its memory is
        not reused until the stream has done what was launched before the batch was freed.
        """
        for tensor in (*self._tensors().values(), *chain(*self.modalities.values())):
            tensor.record_stream(stream)

    def select(self, rows: slice) -> "Batch":
        """Return some of the videos. Padding is not removed."""
        selected = {
            f.name: value[rows]
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), (Tensor, tuple))
            and f.name != "rank_sizes"
        }
        modalities = {
            name: Tokens(tokens.x[rows], tokens.mask[rows])
            for name, tokens in self.modalities.items()
        }
        targets = {name: target[rows] for name, target in self.targets.items()}
        return replace(self, modalities=modalities, targets=targets, **selected)

    def mask_modalities(self, loses_text: Tensor, loses_frames: Tensor) -> "Batch":
        """Return the batch with the text of some videos masked, and the frames of some.

        loses_text, loses_frames: (B,) bool. The first text token stays, so that no row is empty.
        """
        is_first = torch.arange(self.text.shape[1], device=self.text.device) == 0
        return replace(
            self,
            text_mask=self.text_mask & (~loses_text[:, None] | is_first),
            frame_mask=self.frame_mask & ~loses_frames[:, None],
        )

    def drop_modality(self, modality: str) -> "Batch":
        """Return the batch as if no video had "text", "frames" or one of `modalities`, for
        ablations.

        The first text token stays, so that no sequence is empty.
        """
        if modality in self.modalities:
            x, mask = self.modalities[modality]
            dropped = {modality: Tokens(x[:, :0], mask[:, :0])}
            return replace(self, modalities=self.modalities | dropped)
        if modality == "frames":
            return replace(
                self,
                frames=self.frames[:, :0],
                frame_mask=self.frame_mask[:, :0],
                frame_counts=(0,) * len(self.frame_counts),
            )
        field = None if self.text_field is None else self.text_field[:, :1]
        mask = self.text_mask[:, :1]
        mask = mask[:, :, :1] if mask.dim() == 3 else mask
        return replace(self, text=self.text[:, :1], text_mask=mask, text_field=field)

    def _tensors(self) -> dict[str, Tensor]:
        """Return the fields that are tensors. Targets are not among them."""
        return {
            f.name: value
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
