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

from dali_pipes.arithmetic import copy_into, normalisation, normalise_into
from dali_pipes.buffers import BufferPool
from dali_pipes.draws import Draws
from dali_pipes.errors import BackendError
from dali_pipes.fetch import Encoded
from dali_pipes.recipe import Recipe


class TorchBackend:
    """Flips and normalises base images with PyTorch; see `Backend`.

    Args:
        recipe: what to compute.
        threads: how many threads share a batch.
    """

    name = "torch"
    takes_encoded = False

    def __init__(self, recipe: Recipe, *, threads: int) -> None:
        self._constants = None
        self._dtype = recipe.integer_dtype
        if recipe.normalisation is not None:
            self._constants = normalisation(*recipe.normalisation, recipe.full_scale)
            self._dtype = torch.float32
        self._shape = (recipe.channels, recipe.height, recipe.width)
        self._buffers = BufferPool()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="dali-pipes-torch")
        self._share = threads

    def run(self, items: Sequence[npt.NDArray[Any] | Encoded], draws: Draws) -> torch.Tensor:
        """See `Backend.run`."""
        batch = self._buffers.take((len(items), *self._shape), self._dtype)
        parts = np.array_split(np.arange(len(items)), min(self._share, len(items)))
        for done in [self._threads.submit(self._write, batch, items, draws, part.tolist()) for part in parts]:
            done.result()
        return batch

    def _write(self, batch: torch.Tensor, items: Sequence[Any], draws: Draws, part: list[int]) -> None:
        for i in part:
            image = items[i]
            if isinstance(image, Encoded) or image.shape != self._shape:
                raise BackendError(
                    f"torch: base image {i} is {getattr(image, 'shape', 'encoded')}, expected {self._shape}."
                )
            hflip, vflip = bool(draws.hflip[i]), bool(draws.vflip[i])
            if self._constants is None:
                copy_into(batch[i], image, hflip, vflip)
            else:
                normalise_into(batch[i], image, *self._constants, hflip, vflip)

    def close(self) -> None:
        """See `Backend.close`."""
        self._threads.shutdown(wait=True)
