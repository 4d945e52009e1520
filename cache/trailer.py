"""The 64 bytes after the last byte of every entry that is a file of its own: which key it belongs to, and its checksum.

Readers of PNG, ``.npy`` and ``.pt`` files do not look behind the end of what they read, so the files stay plain ones
for every other program. The checksum covers the whole file before the trailer and is taken before anything is
decoded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import xxhash

from .errors import IntegrityError
from .journal import RECORD, seal

_KIND = int.from_bytes(b"dp-entry", "little").to_bytes(8, "little")


@dataclass(frozen=True)
class Trailer:
    """``content``: 8 bytes that are equal for equal arrays.

    ``size``: bytes before the trailer; ``total``: their checksum.
    """

    digest: bytes
    content: bytes
    size: int
    total: bytes

    def __bytes__(self) -> bytes:
        return seal(_KIND + self.digest + self.content + self.size.to_bytes(8, "little") + self.total)

    @classmethod
    def parse(cls, data: bytes, digest: bytes, size: int) -> Trailer:
        """Return the trailer of the entry ``digest`` in a file with ``size`` bytes before it.

        Raises IntegrityError for any other.
        """
        if len(data) != RECORD or data[:8] != _KIND or seal(data[:56]) != data:
            raise IntegrityError("its last 64 bytes are damaged or missing")
        found = cls(data[8:24], data[24:32], int.from_bytes(data[32:40], "little"), data[40:56])
        if found.digest != digest:
            raise IntegrityError("it belongs to another key")
        if found.size != size:
            raise IntegrityError(f"it has {size} bytes and should have {found.size}")
        return found


def body_checksum(digest: bytes, parts: Iterable[Any], secret: bytes | None) -> bytes:
    """16 bytes over a key and the parts of a file: XXH3-128 seeded with the key, or BLAKE2b-128 with a secret."""
    hasher: Any
    if secret is None:
        hasher = xxhash.xxh3_128(seed=xxhash.xxh3_64_intdigest(digest))
    else:
        hasher = blake2b(digest, digest_size=16, key=secret, person=b"dali-pipes file")
    for part in parts:
        hasher.update(part)
    return bytes(hasher.digest())
