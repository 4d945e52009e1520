"""The ``tensor-disk`` mode: one ``.pt`` an entry, a plain tensor that ``torch.load`` opens, memory-mapped.

The file is checked before torch sees it, and torch reads it with ``weights_only=True``: no code in it is run. Types
that torch lacks (bytes in the other order) are kept as uint8, with their dtype and shape in a second tensor.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from .base import Array, Options
from .errors import IntegrityError, StoreConfigError
from .filestore import FileStore, entry_pattern
from .npyformat import nbytes, parse_note, write_note

OLDEST = (2, 10)


class TensorFileStore(FileStore):
    """See the module. Raises StoreConfigError where torch is missing or too old to be trusted with ``weights_only``."""

    mode = "tensor-disk"
    suffix = ".pt"
    pattern = entry_pattern(r"\.pt")

    def __init__(self, directory: str | os.PathLike[str], options: Options, sweep: bool = True) -> None:
        try:
            import torch
        except ImportError:
            raise StoreConfigError(
                "cache mode 'tensor-disk' needs torch: install it, or use cache mode 'npy'"
            ) from None
        if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST:
            raise StoreConfigError(
                f"cache mode 'tensor-disk' needs torch 2.10 or newer to read safely; this is {torch.__version__}: "
                "upgrade it, or use cache mode 'npy'"
            )
        super().__init__(directory, options, sweep)
        # under "always" a copy is checked and served, because what is mapped may change after the check
        self.whole = options.verify == "always"

    def _encode(self, array: Array) -> Sequence[Any]:
        import torch

        given = array if array.flags.writeable else array.copy()  # torch warns of read-only arrays
        try:
            saved: Any = torch.from_numpy(given)
        except (TypeError, ValueError):
            note = np.frombuffer(write_note(array.dtype, array.shape), np.uint8).copy()
            saved = {"bytes": torch.from_numpy(given.reshape(-1).view(np.uint8)), "note": torch.from_numpy(note)}
        buffer = io.BytesIO()
        torch.save(saved, buffer)
        return [buffer.getbuffer()]

    def _decode(self, body: memoryview, fd: int) -> Array:
        import torch

        try:
            if self.whole:
                loaded = torch.load(io.BytesIO(body), weights_only=True, map_location="cpu")
            else:
                loaded = torch.load(f"/proc/self/fd/{fd}", weights_only=True, mmap=True, map_location="cpu")
            if isinstance(loaded, torch.Tensor):
                found: Array = loaded.numpy()
                return found if found.flags.c_contiguous else found.copy()
            dtype, shape = parse_note(loaded["note"].numpy().tobytes())
            data: Array = loaded["bytes"].numpy()
            if data.dtype != np.uint8 or data.nbytes != nbytes(dtype, shape):
                raise ValueError("its note does not fit its bytes")
            array: Array = data.view(dtype).reshape(shape)
            return array
        except (OSError, MemoryError, IntegrityError):
            raise
        except Exception as error:  # torch raises whatever its parsers meet
            if "annot allocate memory" in str(error) or "not enough memory" in str(error):
                raise MemoryError(str(error)) from error
            raise IntegrityError(f"torch cannot read it: {type(error).__name__}") from error
