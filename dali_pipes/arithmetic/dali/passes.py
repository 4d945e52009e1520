"""One pass of DALI's CPU resize: every output row is a weighted sum of input rows.

`((+0 + x0 w0) + x1 w1) + ...` in float32: multiply, round, add, round, taps in increasing order; no fused
multiply-add. The sum begins at +0, so that terms of -0 alone give +0.

`weighted_rows` is that sentence in PyTorch, for any device. `weighted_rows_blocked` does the same additions for one
output row after the other, in blocks that stay in the second-level cache, and is three times as fast for large images
on a CPU. A horizontal pass is a vertical pass over the transposed image.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dali_pipes.arithmetic.dali.filters import Float32Array

TERMS_BYTES = 256 * 1024
SOURCE_BYTES = 1024 * 1024
LARGE = 2_000_000
BAND = 64


@dataclass(frozen=True)
class Taps:
    """The weights of one pass.

    first: int64[out], the first tap's row, may lie outside of the image. index: int64[support, out], clamped to the
    image. weight: float32[support, out, 1].
    """

    first: NDArray[np.int64]
    index: Tensor
    weight: Tensor


def vertical(image: Tensor, taps: Taps) -> Tensor:
    """A pass down the columns: [H, W, C] of any pixel type to float32 [out, W, C], contiguous."""
    height, width, channels = image.shape
    rows = image.reshape(height, width * channels)
    return weighted_sum(rows, taps).view(-1, width, channels)


def horizontal(image: Tensor, taps: Taps) -> Tensor:
    """A pass along the rows: [H, W, C] of any pixel type to float32 [H, out, C], contiguous."""
    height, width, channels = image.shape
    columns = _transposed(image.reshape(height, width * channels)).view(width, channels * height)
    result = weighted_sum(columns, taps)
    return _transposed(result.view(-1, height)).view(height, -1, channels)


def weighted_sum(rows: Tensor, taps: Taps) -> Tensor:
    """`weighted_rows`, by the faster of the two forms."""
    # A single column would be summed along the fast axis of memory, where NumPy adds in pairs.
    if rows.device.type != "cpu" or rows.numel() < LARGE or rows.shape[1] < 2:
        return weighted_rows(rows, taps)
    return weighted_rows_blocked(rows, taps)


def weighted_rows(rows: Tensor, taps: Taps) -> Tensor:
    """Weighted sums of rows: [n, m] of any pixel type to float32 [out, m]."""
    index, weight = taps.index.to(rows.device), taps.weight.to(rows.device)
    rows = rows.to(torch.float32)
    total = rows.index_select(0, index[0]).mul_(weight[0]).add_(0.0)
    term = torch.empty_like(total)
    for tap in range(1, len(index)):
        torch.index_select(rows, 0, index[tap], out=term)
        total.add_(term.mul_(weight[tap]))
    return total


def weighted_rows_blocked(rows: Tensor, taps: Taps) -> Tensor:
    """The same sums on a CPU, for [n, m] with m of at least 2, in blocks of columns and of output rows."""
    (support, size), (height, width) = taps.index.shape, rows.shape
    result = torch.empty((size, width), dtype=torch.float32)
    blocks = max(1, min(width // 2, -(-width * support * 4 // TERMS_BYTES)))
    edges = [width * block // blocks for block in range(blocks + 1)]
    source_rows = SOURCE_BYTES * blocks // (4 * width) - support
    step = max(8, source_rows * size // height)
    for left, right in itertools.pairwise(edges):
        for top in range(0, size, step):
            block = slice(top, min(top + step, size))
            _sum_block(rows[:, left:right], taps, block, result[block, left:right].numpy())
    return result


def _sum_block(rows: Tensor, taps: Taps, block: slice, result: Float32Array) -> None:
    index, weight = taps.index[:, block].numpy(), taps.weight[:, block].numpy()
    support, low = len(index), int(index.min())
    source = rows[low : int(index.max()) + 1].to(torch.float32).numpy()
    terms = np.empty((support, rows.shape[1]), np.float32)
    for i, first in enumerate(taps.first[block].tolist()):
        inside = first >= 0 and first + support <= len(rows)
        taken = source[first - low : first - low + support] if inside else source[index[:, i] - low]
        np.multiply(taken, weight[:, i], out=terms)
        # Along an axis that is not the fast one of memory, NumPy adds row after row.
        np.add.reduce(terms, axis=0, out=result[i], initial=0.0)


def _transposed(matrix: Tensor) -> Tensor:
    """The transpose of [n, m] of any pixel type, contiguous; in bands of rows, which is kind to the cache."""
    view = matrix.view(torch.int16) if matrix.dtype == torch.uint16 else matrix
    result = torch.empty((matrix.shape[1], matrix.shape[0]), dtype=view.dtype, device=view.device)
    for top in range(0, len(view), BAND):
        result[:, top : top + BAND] = view[top : top + BAND].t()
    return result.view(matrix.dtype)
