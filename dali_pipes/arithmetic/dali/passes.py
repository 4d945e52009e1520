"""One pass of DALI's CPU resize: every output row is a weighted sum of input rows.

`((+0 + x0 w0) + x1 w1) + ...` in float32: multiply, round, add, round, taps in increasing order; no fused
multiply-add. The sum begins at +0, so that terms of -0 alone give +0.

`weighted_rows` is that sentence in PyTorch, for any device. `weighted_rows_blocked` gives the same bits on a CPU, two
to four times as fast for large images: one `np.einsum` an output row, in blocks that stay in the second-level cache.
NumPy's einsum adds row after row and, as it is built for x86-64, rounds every product; where a build fuses instead,
`einsum_rounds_twice` finds out at first use and the plain form is taken.

A horizontal pass is a vertical pass over the transposed image.
"""

import functools
import inspect
import itertools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dali_pipes.arithmetic.dali.filters import Float32Array

BLOCK_COLUMNS = 8192
BLOCK_VALUES = 256 * 1024
WORTHWHILE = 4096
BAND = 32

einsum = inspect.unwrap(np.einsum)
"""Without the dispatch to other kinds of arrays, which takes longer than the sum of a short row."""


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
    """Do a pass down the columns: [H, W, C] of any pixel type to float32 [out, W, C], contiguous."""
    height, width, channels = image.shape
    rows = image.reshape(height, width * channels)
    return weighted_sum(rows, taps).view(-1, width, channels)


def horizontal(image: Tensor, taps: Taps) -> Tensor:
    """Do a pass along the rows: [H, W, C] of any pixel type to float32 [H, out, C], contiguous."""
    height, width, channels = image.shape
    columns = _transposed(image.reshape(height, width * channels)).view(width, channels * height)
    result = weighted_sum(columns, taps)
    return _transposed(result.view(-1, height)).view(height, -1, channels)


def weighted_sum(rows: Tensor, taps: Taps) -> Tensor:
    """`weighted_rows`, by the faster of the two forms."""
    work = len(taps.index) * rows.shape[1]
    # A single column would be summed along the fast axis of memory, where NumPy adds in another order.
    if rows.device.type != "cpu" or work < WORTHWHILE or rows.shape[1] < 2 or not einsum_rounds_twice():
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
    """Compute the same sums on a CPU, for [n, m] with m of at least 2, where `einsum_rounds_twice`."""
    values, index, weight = rows.numpy(), taps.index.numpy(), taps.weight.numpy()[:, :, 0].T.copy()
    (support, size), (height, width) = index.shape, values.shape
    result = np.empty((size, width), np.float32)
    blocks = max(1, min(width // 2, -(-width // BLOCK_COLUMNS)))
    edges = [width * block // blocks for block in range(blocks + 1)]
    step = max(8, (BLOCK_VALUES * blocks // width - support) * size // height)
    scratch = np.empty(0, np.float32)
    for top in range(0, size, step):
        block = slice(top, top + step)
        near = index[:, block]
        start, stop = int(near.min()), int(near.max()) + 1
        for left, right in itertools.pairwise(edges):
            source = values[start:stop, left:right]
            if source.dtype != np.float32:  # into memory that the cache holds already
                scratch = scratch if scratch.size >= source.size else np.empty(source.size, np.float32)
                converted = scratch[: source.size].reshape(source.shape)
                np.copyto(converted, source)
                source = converted
            _sum_block(source, taps.first[block] - start, near - start, weight[block], result[block, left:right])
    return torch.from_numpy(result)


@functools.cache
def einsum_rounds_twice() -> bool:
    """Whether this build of NumPy sums products in order, each product rounded before it is added."""
    random = np.random.default_rng(0)
    for support, width in ((2, 2), (3, 7), (6, 37), (13, 1000)):
        rows = random.standard_normal((support, width), dtype=np.float32)
        weight = random.standard_normal(support, dtype=np.float32)
        plain = np.zeros(width, np.float32)
        for row, factor in zip(rows, weight):
            plain = plain + row * factor
        if not np.array_equal(einsum("km,k->m", rows, weight), plain):
            return False
    return True


def _sum_block(
    source: Float32Array, firsts: NDArray[np.int64], index: NDArray[np.int64], weights: Float32Array, out: Float32Array
) -> None:
    """Compute some output rows from the input rows that they need.

    `firsts` and `index` count from the first of these input rows.
    """
    support = len(index)
    for i, (first, weight, row) in enumerate(zip(firsts.tolist(), weights, out)):
        inside = 0 <= first <= len(source) - support
        taken = source[first : first + support] if inside else source[index[:, i]]
        einsum("km,k->m", taken, weight, out=row)


def _transposed(matrix: Tensor) -> Tensor:
    """Return the transpose of [n, m] of any pixel type, contiguous.

    It is made in bands of rows, which is kind to the cache.
    """
    view = matrix.view(torch.int16) if matrix.dtype == torch.uint16 else matrix
    result = torch.empty((matrix.shape[1], matrix.shape[0]), dtype=view.dtype, device=view.device)
    for top in range(0, len(view), BAND):
        result[:, top : top + BAND] = view[top : top + BAND].t()
    return result.view(matrix.dtype)
