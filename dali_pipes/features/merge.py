"""Rows from several places, put together in the order of the samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dali_pipes.features.layout import Column, map_tensors

Source = tuple[list[int], Column]
"""Which samples, and their rows in that order."""


def merged(sources: Sequence[Source], count: int, order: list[int] | None, device: torch.device) -> Column:
    """Return one column on a device, of memory of its own: a tensor [N, ...] where all rows are alike, else a list.

    Args:
        sources: each of `count` samples in one of them.
        count: how many samples there are.
        order: int[N], which sample each row of the result is; None for each once, in order.
        device: where the result is to be.
    """
    if all(isinstance(column, torch.Tensor) for _, column in sources):
        kinds = {(column.dtype, column.shape[1:]) for _, column in sources}  # type: ignore[union-attr]
        if len(kinds) == 1:
            return _tensor(sources, count, order, device)
    rows: list[object] = [None] * count
    for at, column in sources:
        for row, item in zip(at, column):
            rows[row] = map_tensors(item, lambda tensor: tensor.to(device, copy=True))
    if order is None:
        return rows
    return [map_tensors(rows[row], torch.Tensor.clone) for row in order]


def pick(tensor: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """Return some rows of a tensor, on its device."""
    if tensor.device.type == "cpu":  # NumPy's copying needs no threads, which cost more than so few rows
        return torch.from_numpy(_bits(tensor).numpy()[rows]).view(tensor.dtype)
    at = torch.tensor(rows, dtype=torch.int64, device=tensor.device)
    return _bits(tensor).index_select(0, at).view(tensor.dtype)


def _tensor(sources: Sequence[Source], count: int, order: list[int] | None, device: torch.device) -> torch.Tensor:
    columns = [column.to(device) for _, column in sources if isinstance(column, torch.Tensor)]
    whole = columns[0]
    if len(columns) > 1:
        whole = whole.new_empty((count, *whole.shape[1:]))
        for (at, _), column in zip(sources, columns):
            if device.type == "cpu":
                _bits(whole).numpy()[at] = _bits(column).numpy()
            else:
                _bits(whole).index_copy_(0, torch.tensor(at, device=device), _bits(column))
    return whole if order is None else pick(whole, order)


_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """View the same memory as whole numbers, because PyTorch moves no rows of float8."""
    return tensor.view(_WORDS[tensor.itemsize])
