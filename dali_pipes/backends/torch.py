"""The reference backend: plain PyTorch on the CPU, on any machine.

A batch is split among threads, each of which writes its samples straight into the batch's buffer: one pass over memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dali_pipes.backends.base import Named
from dali_pipes.backends.buffers import BufferPool
from dali_pipes.backends.layout import Layout
from dali_pipes.draws import Draws
from dali_pipes.errors import BackendError
from dali_pipes.fetch.fetcher import Encoded
from dali_pipes.finish.finish import Changes, Finish
from dali_pipes.recipe import Recipe


class TorchBackend:
    """Finishes base images with PyTorch; see `Backend`.

    Args:
        recipe: what to compute.
        threads: how many threads share a batch.
    """

    name = "torch"
    takes_encoded = False

    def __init__(self, recipe: Recipe, *, threads: int) -> None:
        self._finish = Finish(recipe)
        self._layout = Layout(recipe)
        self._buffers = BufferPool()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="dali-pipes-torch")
        self._share = threads

    def run(self, items: Sequence[npt.NDArray[Any] | Encoded | Named], draws: Draws) -> torch.Tensor:
        """See `Backend.run`."""
        batch = self._layout.take(self._buffers, len(items))
        changes = self._finish.changes(draws)
        out: Any = batch.numpy() if self._layout.plain else batch  # a tensor's items cost more than a small copy
        parts = np.array_split(np.arange(len(items)), min(self._share, len(items)))
        for done in [self._threads.submit(self._write, out, items, changes, part.tolist()) for part in parts]:
            done.result()
        return batch

    def _write(self, out: Any, items: Sequence[Any], changes: Changes, part: list[int]) -> None:
        for i in part:
            image = items[i]
            if isinstance(image, (Encoded, Named)) or image.shape != self._finish.base_shape:
                found = getattr(image, "shape", "encoded")
                raise BackendError(f"torch: base image {i} is {found}, expected {self._finish.base_shape}.")
        if self._layout.plain:
            self._finish.write_all(out, items, changes, part)
            return
        for i in part:
            self._layout.write(out[i], items[i], changes, i)

    def beside(self, values: torch.Tensor) -> torch.Tensor:
        """See `Backend.beside`."""
        return values

    def mark(self) -> None:
        """See `Backend.mark`."""

    def close(self) -> None:
        """See `Backend.close`."""
        self._threads.shutdown(wait=True)
