"""How a batch lies in memory: the type of its values, and the order of its axes.

Values of 16 bits are the float32 values of the recipe, rounded once more, to nearest, ties to even; what lies beyond
float16's 65504 becomes infinite. PyTorch rounds so on every device, and converts each sample while its float32 values
are still in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import torch

from dali_pipes.backends.buffers import BufferPool
from dali_pipes.finish.finish import Changes, Finish
from dali_pipes.recipe import Recipe

Pixels = npt.NDArray[Any]

_BLOCK = 32000
"""Values at a time: PyTorch converts less than 32768 in the calling thread, which is one of many already."""


class Layout:
    """Writes outputs of a recipe in its `dtype` and `memory_format`.

    Args:
        recipe: decides both.

    Attributes:
        plain: whether values come out as the arithmetic gives them, and planes lie one after the other.
        dtype: of outputs.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._finish = Finish(recipe)
        self._last = recipe.memory_format == "channels_last"
        self.dtype = self._finish.dtype if recipe.normalisation is None else getattr(torch, recipe.dtype)
        self.plain = self.dtype == self._finish.dtype and not self._last

    def take(self, buffers: BufferPool, count: int) -> torch.Tensor:
        """Return a batch with undefined content, [count, C, H, W], in memory of `buffers`."""
        channels, height, width = self._finish.shape
        if self._last:
            return buffers.take((count, height, width, channels), self.dtype).permute(0, 3, 1, 2)
        return buffers.take((count, channels, height, width), self.dtype)

    def empty(self, count: int) -> torch.Tensor:
        """Return a batch with undefined content, [count, C, H, W], in memory of its own."""
        layout = torch.channels_last if self._last else torch.contiguous_format
        return torch.empty((count, *self._finish.shape), dtype=self.dtype, memory_format=layout)

    def write(self, out: torch.Tensor, image: Pixels, changes: Changes, i: int) -> None:
        """Write sample `i` of a batch, in the calling thread.

        Args:
            out: [C, H, W] of `dtype`, any strides.
            image, changes, i: as for `Finish.write`.
        """
        if self.plain:
            self._finish.write(out.numpy(), image, changes, i)
            return
        made = torch.empty(self._finish.shape, dtype=self._finish.dtype)
        self._finish.write(made.numpy(), image, changes, i)
        channels, height, width = self._finish.shape
        rows = max(1, _BLOCK // (channels * width))
        for row in range(0, height, rows):
            out[:, row : row + rows].copy_(made[:, row : row + rows])

    def write_all(self, out: torch.Tensor, images: Sequence[Pixels], changes: Changes, part: Sequence[int]) -> None:
        """Write some samples of a batch, in the calling thread.

        Args:
            out: [N, C, H, W] of `dtype`, any strides.
            images, changes, part: as for `Finish.write_all`.
        """
        if self.plain:
            self._finish.write_all(out.numpy(), images, changes, part)
            return
        for i in part:
            self.write(out[i], images[i], changes, i)

    def of(self, batch: torch.Tensor) -> torch.Tensor:
        """Return a batch that a backend made, [N, C, H, W] of `Finish.dtype`, laid out as the recipe asks."""
        if self.plain:
            return batch
        layout = torch.channels_last if self._last else torch.contiguous_format
        return batch.to(self.dtype, memory_format=layout)
