"""Checksums: what binds an entry's bytes to its key, its shape and its type.

``checksum`` is XXH3-128 of the payload, seeded with XXH3-64 of key, dtype and shape, so that an entry copied under
another key, or one whose header was changed to another shape of the same size, fails like one whose pixels were
changed. XXH3 finds accidents, not attacks. Where others can write to the cache, give a ``secret``: the checksum is
then keyed BLAKE2b-128 over the same parts, which nobody without the secret can make (about ten times slower than
XXH3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any

import numpy as np
import xxhash

from .errors import EntryError

_KINDS = "biufc"


def content_digest(data: bytes | bytearray | memoryview) -> bytes:
    """XXH3-128 of a source file's bytes: 16 bytes that change when its content does.

    >>> content_digest(b"").hex()
    '99aa06d3014798d86001c324468d497f'
    """
    return xxhash.xxh3_128_digest(data)


def storable(array: Any) -> np.ndarray[Any, Any]:
    """Return ``array`` as a C-contiguous array of plain numbers. Raises EntryError for anything else."""
    if not isinstance(array, np.ndarray):
        raise EntryError(f"the cache stores numpy arrays; got {type(array).__name__}: convert it with np.asarray first")
    if array.dtype.kind not in _KINDS or array.dtype.hasobject:
        raise EntryError(
            f"the cache stores arrays of bool, int, uint, float and complex; got dtype {array.dtype}: "
            "convert it, or store its bytes as uint8"
        )
    return array if array.flags.c_contiguous else np.array(array, order="C")


def payload(array: np.ndarray[Any, Any]) -> memoryview:
    """Return the bytes of a C-contiguous array, without a copy."""
    return array.reshape(-1).view(np.uint8).data


def read_only(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the same memory as an array that cannot be made writable again."""
    if not array.nbytes:
        array = array.copy()
        array.flags.writeable = False
        return array[...]
    view: np.ndarray[Any, Any] = np.frombuffer(payload(array).toreadonly(), array.dtype)
    shaped: np.ndarray[Any, Any] = view.reshape(array.shape)
    return shaped


def checksum(
    digest: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], chunks: Iterable[Any], secret: bytes | None = None
) -> bytes:
    """16 bytes over key, dtype, shape and payload (given as consecutive buffers); keyed if ``secret`` is given."""
    head = digest + _kind(dtype, shape)
    hasher: Any
    if secret is None:
        hasher = xxhash.xxh3_128(seed=xxhash.xxh3_64_intdigest(head))
    else:
        head = len(head).to_bytes(8, "little") + head
        hasher = blake2b(head, digest_size=16, key=secret, person=b"dali-pipes entry")
    for chunk in chunks:
        hasher.update(chunk)
    return bytes(hasher.digest())


def checksums(
    dtype: np.dtype[Any], shape: tuple[int, ...], secret: bytes | None = None
) -> Callable[[bytes, memoryview], bytes]:
    """Return what makes of a key and a payload in one piece their ``checksum``: quicker for many of one kind."""
    kind = _kind(dtype, shape)

    def total(digest: bytes, payload: memoryview) -> bytes:
        if secret is not None:
            return checksum(digest, dtype, shape, [payload], secret)
        return xxhash.xxh3_128_digest(payload, seed=xxhash.xxh3_64_intdigest(digest + kind))

    return total


def _kind(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    return f"{dtype.str}{shape}".encode()
