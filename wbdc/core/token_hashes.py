"""Hashes of speech tokens: what is stored of a token, a word or an anonymized id."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor  # takes seconds; tokens are stored without it

HASH_BYTES = 4


def hash_token(token: str) -> tuple[int, ...]:
    """Return 31 bits of the BLAKE2b hash of a token as four integers below 256.

    They are the row of a token, stored in float16 as the rows of any further modality. They are
    equal on all machines and exact in every format of floats, and the whole hash fits an integer of
    32 bits. Of 50,000 tokens, one pair or none has equal hashes, and shares a vector.
    """
    first, *rest = hashlib.blake2b(token.encode(), digest_size=HASH_BYTES).digest()
    return first >> 1, *rest


def join_bytes(rows: "Tensor") -> "Tensor":
    """Return the hash of each row, an integer of 31 bits: (..., 4) float -> (...) int64."""
    first, second, third, fourth = rows.long().unbind(-1)
    return ((first * 256 + second) * 256 + third) * 256 + fourth
