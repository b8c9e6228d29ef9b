"""A number that depends on a name alone: for splits that never move when items are added, and for seeds."""

import hashlib


def hash_number(name: str) -> int:
    """The first 64 bits of the name's SHA-256."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
