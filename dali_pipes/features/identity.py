"""Names of samples as keys: 16 bytes each, made of the module, the way it was called, and the sample.

A sample's part is the user's own id (text, whole number or bytes), or for a `dp.Batch` its `digest`, which changes with
the source file, the recipe and the draws that took effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import torch

from dali_pipes.errors import ConfigError

Names = list[bytes]
"""One a sample: what tells it from all others, with its type before it."""


def names_of(ids: Any, what: str = "cache_ids") -> Names:
    """Return the names of ids: a sequence or array of texts, whole numbers or bytes, or a tensor of whole numbers.

    Raises:
        ConfigError: something that is none of these; the message says where.
    """
    if isinstance(ids, torch.Tensor):
        if ids.ndim != 1 or ids.dtype.is_floating_point or ids.dtype.is_complex or ids.dtype == torch.bool:
            raise ConfigError(f"{what} is a tensor of {ids.dtype} {list(ids.shape)}: give whole numbers, int64[N].")
        ids = ids.tolist()
    elif isinstance(ids, np.ndarray):
        if ids.ndim != 1 or ids.dtype.kind not in "iuUSO":
            raise ConfigError(f"{what} is an array of {ids.dtype} {list(ids.shape)}: give whole numbers or texts, [N].")
        ids = ids.tolist()
    if isinstance(ids, (str, bytes)) or not isinstance(ids, Sequence):
        raise ConfigError(f"{what} is a {type(ids).__name__}: give a list of one text, whole number or bytes a sample.")
    return [_name(each, what, at) for at, each in enumerate(ids)]


def _name(each: str | int | bytes | Any, what: str, at: int) -> bytes:
    kind: type = type(each)
    if isinstance(each, str):  # NumPy's, too
        return b"s" + str(each).encode("utf-8", "surrogatepass")
    if kind is int or (isinstance(each, np.integer)):
        return b"i%d" % int(each)
    if isinstance(each, bytes):
        return b"b" + bytes(each)
    raise ConfigError(
        f"{what}[{at}] is a {kind.__name__} ({each!r:.40}): a sample's id is a text, a whole number or bytes."
    )


def source_of(name: bytes) -> bytes:
    """Return what the ledger calls the source of a feature: the content of a file, or the user's own id.

    Args:
        name: of the sample, as `names_of` gives it, or `d` and the 32 bytes of a batch's digest.
    """
    return b"feature of " + (name[1:17] if name[:1] == b"d" else name[1:])


def keys_of(names: Names, prefix: bytes, secret: bytes) -> list[bytes]:
    """Return 16 bytes for each name, keyed with `secret` (64 bytes at most) so that they tell nothing of it."""
    start = blake2b(prefix, digest_size=16, key=secret, person=b"dali-pipes feat.")
    keys = []
    for name in names:
        hasher = start.copy()
        hasher.update(name)
        keys.append(hasher.digest())
    return keys


def masked(keys: list[bytes], mask: bytes) -> list[bytes]:
    """Return the keys with every bit of `mask` turned over: those of another leaf of the same samples."""
    table = np.frombuffer(b"".join(keys), np.uint64).reshape(-1, 2) ^ np.frombuffer(mask, np.uint64)
    data = table.tobytes()
    return [data[at : at + 16] for at in range(0, len(data), 16)]
