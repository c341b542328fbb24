"""The queue of a momentum encoder: keys of earlier videos, which are further candidates of a
contrast (MoCo; He et al., 2020).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from wbdc.train.distributed.gather import gather_mask, gather_rows


class PairKeys(NamedTuple):
    """Keys of videos: text and frames, (B, dim) float32; is_pair, (B,) bool: videos with both."""

    text: Tensor
    frames: Tensor
    is_pair: Tensor

    def gather(self, rank_sizes: tuple[int, ...]) -> "PairKeys":
        """Return the keys of all ranks, in the order of the whole batch."""
        return PairKeys(
            gather_rows(self.text, rank_sizes),
            gather_rows(self.frames, rank_sizes),
            gather_mask(self.is_pair, rank_sizes),
        )


class KeyQueue(nn.Module):
    """The newest keys, of pairs only. All ranks hold the same ones.

    The queue changes once for each step: `add` stores the keys of the step's batches, and `push`
    puts them into the queue.

    size: number of pairs; it may be 0. dim: width of a key.
    """

    def __init__(self, size: int, dim: int):
        super().__init__()
        self.register_buffer("text", torch.zeros(size, dim))
        self.register_buffer("frames", torch.zeros(size, dim))
        self.register_buffer("is_filled", torch.zeros(size, dtype=torch.bool))
        self._step_keys: dict[tuple[str, ...], PairKeys] = {}

    def append_to(self, keys: PairKeys) -> PairKeys:
        """Return the keys of a batch, followed by those of the queue."""
        return PairKeys(
            torch.cat([keys.text, self.text]),
            torch.cat([keys.frames, self.frames]),
            torch.cat([keys.is_pair, self.is_filled]),
        )

    def add(self, ids: tuple[str, ...], keys: PairKeys) -> None:
        """Store the keys of a batch until the end of the step. keys: of all ranks.

        ids: of the batch on this rank. A further pass over a batch, for example an adversarial one,
        adds nothing. A part of a batch means that memory ran out and that the step starts again.
        """
        if any(set(ids) < set(whole) for whole in self._step_keys):
            self.discard()
        self._step_keys.setdefault(ids, keys)

    def discard(self) -> None:
        """Forget the keys of an unfinished step."""
        self._step_keys = {}

    @torch.no_grad()
    def push(self) -> None:
        """Put the stored keys of pairs before all others, and drop the oldest ones.

        Keys that are not finite are dropped too.
        """
        for keys in self._step_keys.values():
            all_keys = self.append_to(keys)
            is_finite = torch.cat([all_keys.text, all_keys.frames], 1).isfinite().all(1)
            is_filled = all_keys.is_pair & is_finite
            newest = torch.argsort(~is_filled, stable=True)[: len(self.is_filled)]
            self.text.copy_(all_keys.text[newest])
            self.frames.copy_(all_keys.frames[newest])
            self.is_filled.copy_(is_filled[newest])
        self.discard()
