"""The reference backend: plain PyTorch on the CPU, on any machine.

A batch is split among threads, each of which writes its samples straight into the batch's buffer: one pass over memory.
While they write, the next batch may be begun, so that none of them waits for the last one of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
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

WORTH_A_THREAD = 1 << 22
"""Bytes of output for each thread, where nothing but flips and normalisation is done: one thread writes fewer bytes
before a second one could begin.
"""


class TorchBackend:
    """Finishes base images with PyTorch; see `Backend`.

    Args:
        recipe: what to compute.
        threads: how many threads share a batch.
    """

    name = "torch"
    takes_encoded = False
    at_once = 2

    def __init__(self, recipe: Recipe, *, threads: int) -> None:
        self._finish = Finish(recipe)
        self._layout = Layout(recipe)
        self._buffers = BufferPool()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="dali-pipes-torch")
        self._share = threads

    def run(self, items: Sequence[npt.NDArray[Any] | Encoded | Named], draws: Draws) -> torch.Tensor:
        """See `Backend.run`."""
        return self.begin(items, draws)()

    def begin(self, items: Sequence[npt.NDArray[Any] | Encoded | Named], draws: Draws) -> Callable[[], torch.Tensor]:
        """See `Overlapping.begin`."""
        batch = self._layout.take(self._buffers, len(items))
        changes = self._finish.changes(draws)
        out: Any = batch.numpy() if self._layout.plain else batch  # a tensor's items cost more than a small copy
        if self._layout.plain and (begun := self._finish.begin_all(out, items, changes, self._share)) is not None:
            return partial(_waited, begun, batch)
        worth = len(items) if changes.varies else -(-batch.nbytes // WORTH_A_THREAD)
        parts = _divided(len(items), min(self._share, worth))
        writing = [self._threads.submit(self._write, out, items, changes, part) for part in parts]

        def wait() -> torch.Tensor:
            for done in writing:
                done.result()
            return batch

        return wait

    def _write(self, out: Any, items: Sequence[Any], changes: Changes, part: Sequence[int]) -> None:
        self._check(items, part)
        if self._layout.plain:
            self._finish.write_all(out, items, changes, part)
            return
        for i in part:
            self._layout.write(out[i], items[i], changes, i)

    def _check(self, items: Sequence[Any], part: Sequence[int]) -> None:
        shape, chosen = self._finish.base_shape, [items[i] for i in part]
        if set(map(type, chosen)) == {np.ndarray} and all(image.shape == shape for image in chosen):
            return
        for i, image in zip(part, chosen):
            if isinstance(image, (Encoded, Named)) or image.shape != shape:
                found = getattr(image, "shape", "encoded")
                raise BackendError(f"torch: base image {i} is {found}, expected {shape}.")

    def beside(self, values: torch.Tensor) -> torch.Tensor:
        """See `Backend.beside`."""
        return values

    def mark(self) -> None:
        """See `Backend.mark`."""

    def close(self) -> None:
        """See `Backend.close`."""
        self._threads.shutdown(wait=True)


def _waited(wait: Callable[[], None], batch: torch.Tensor) -> torch.Tensor:
    wait()
    return batch


def _divided(count: int, parts: int) -> list[range]:
    """Return the numbers below `count` in so many ranges, as alike in length as can be; none is empty."""
    parts = max(1, min(parts, count))
    return [range(count * i // parts, count * (i + 1) // parts) for i in range(parts)]
