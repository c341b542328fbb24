"""Random numbers that belong to one video: a function of (seed, epoch, id) alone.

They do not depend on the other videos of a batch, on padding, on the number of ranks or on the
device. torch's generators draw by the shape of a batch, so there each of these would change them.
"""

import hashlib
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

# increment and multipliers of SplitMix64 (Steele et al., 2014), as signed 64-bit numbers
INCREMENT = 0x9E3779B97F4A7C15 - (1 << 64)
MULTIPLIERS = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))
FLOAT_BITS = 24  # of the fraction of a float32


def item_seeds(ids: Sequence[str], seed: int, epoch: int) -> Tensor:
    """Return a seed for each video: (B,) int64."""
    words = [f"{seed}/{epoch}/{name}".encode(errors="surrogateescape") for name in ids]
    digests = [hashlib.blake2b(word, digest_size=8).digest() for word in words]
    return torch.tensor([int.from_bytes(d, "little", signed=True) for d in digests])


def item_uniform(seeds: Tensor, stream: str, *shape: int) -> Tensor:
    """Draw uniform numbers for each video: (B,) int64 -> (B, *shape) float32, 0 <= number < 1.

    stream: a name; different names give independent numbers. The first numbers of a row do not
    change when the row gets longer.
    """
    count = 1
    for size in shape:
        count *= size

    steps = torch.arange(1, count + 1, device=seeds.device)
    start = seeds ^ _mix(torch.full_like(seeds, zlib.crc32(stream.encode())))
    bits = _mix(start[:, None] + steps * INCREMENT)
    fraction = _shift_right(bits, 64 - FLOAT_BITS).float() * 2.0**-FLOAT_BITS
    return fraction.view(len(seeds), *shape)


def _mix(bits: Tensor) -> Tensor:
    """Scramble 64-bit numbers: the finalizer of SplitMix64."""
    bits = (bits ^ _shift_right(bits, 30)) * MULTIPLIERS[0]
    bits = (bits ^ _shift_right(bits, 27)) * MULTIPLIERS[1]
    return bits ^ _shift_right(bits, 31)


def _shift_right(bits: Tensor, count: int) -> Tensor:
    """Shift without the sign: torch shifts signed numbers and repeats their sign."""
    return (bits >> count) & ((1 << (64 - count)) - 1)
