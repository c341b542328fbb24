"""Keys of what several members read or compute alike."""

import hashlib


def cache_key(*parts: object) -> str:
    """Return a hash that is equal for equal values."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()
