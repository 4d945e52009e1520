"""The ``npy`` mode: one plain ``.npy`` an entry, which ``numpy.load`` opens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .base import Array
from .errors import IntegrityError
from .filestore import FileStore, entry_pattern
from .integrity import payload
from .npyformat import header, nbytes, parse


class NpyStore(FileStore):
    """See the module."""

    mode = "npy"
    suffix = ".npy"
    pattern = entry_pattern(r"\.npy")

    def _encode(self, array: Array) -> Sequence[Any]:
        return [header(array.dtype, array.shape), payload(array)]

    def _decode(self, body: memoryview, fd: int) -> Array:
        dtype, shape, size = parse(bytes(body[:4096]))
        if len(body) != size + nbytes(dtype, shape):
            raise IntegrityError(f"it has {len(body)} bytes, not what its header says")
        array: Array = np.ndarray(shape, dtype, buffer=body, offset=size)
        return array
