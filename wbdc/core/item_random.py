"""Random numbers that belong to one video: a function of (seed, epoch, id) alone.

They do not depend on the other videos of a batch, on padding, on the number of ranks or on the
device. torch's generators draw by the shape of a batch, so there each of these would change them.
"""

import hashlib
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

# increment and multipliers of SplitMix64 (Steele et al., 2014), as signed 64-bit numbers
INCREMENT = 0x9E3779B97F4A7C15 - (1 << 64)
MULTIPLIERS = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))
FLOAT_BITS = 24  # of the fraction of a float32


def item_seed_numbers(ids: Sequence[str], seed: int, epoch: int) -> tuple[int, ...]:
    """Return a seed for each video: B signed 64-bit numbers."""
    words = [f"{seed}/{epoch}/{name}".encode(errors="surrogateescape") for name in ids]
    digests = [hashlib.blake2b(word, digest_size=8).digest() for word in words]
    return tuple(int.from_bytes(digest, "little", signed=True) for digest in digests)


def item_seeds(ids: Sequence[str], seed: int, epoch: int) -> Tensor:
    """Return a seed for each video: (B,) int64."""
    return torch.tensor(item_seed_numbers(ids, seed, epoch))


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


def host_uniform(seeds: Sequence[int], stream: str, *shape: int) -> np.ndarray:
    """Draw the numbers of `item_uniform` without tensors, for decisions that the CPU makes while a
    GPU computes: B seeds -> (B, *shape) float32.
    """
    increment, *multipliers = (np.uint64(n % 2**64) for n in (INCREMENT, *MULTIPLIERS))

    def mix(bits: np.ndarray) -> np.ndarray:
        bits = (bits ^ (bits >> np.uint64(30))) * multipliers[0]
        bits = (bits ^ (bits >> np.uint64(27))) * multipliers[1]
        return bits ^ (bits >> np.uint64(31))

    count = int(np.prod(shape))
    steps = np.arange(1, count + 1, dtype=np.uint64)
    start = np.array(seeds, np.int64).astype(np.uint64)
    start ^= mix(np.array([zlib.crc32(stream.encode())], np.uint64))
    bits = mix(start[:, None] + steps * increment)
    fraction = (bits >> np.uint64(64 - FLOAT_BITS)).astype(np.float32) * np.float32(
        2.0**-FLOAT_BITS
    )
    return fraction.reshape(len(seeds), *shape)


def _mix(bits: Tensor) -> Tensor:
    """Scramble 64-bit numbers: the finalizer of SplitMix64."""
    bits = (bits ^ _shift_right(bits, 30)) * MULTIPLIERS[0]
    bits = (bits ^ _shift_right(bits, 27)) * MULTIPLIERS[1]
    return bits ^ _shift_right(bits, 31)


def _shift_right(bits: Tensor, count: int) -> Tensor:
    """Shift without the sign: torch shifts signed numbers and repeats their sign."""
    return (bits >> count) & ((1 << (64 - count)) - 1)
