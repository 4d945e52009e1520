"""Whole groups into ranks or batches, and those into the places of an order.

What goes where is decided by the groups' sizes alone, the largest first, and groups of one size take their turns in the
order given. So the number of bins, and of places, is the same in every epoch, whatever the order of the groups.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.int64]


def fill(groups: Sequence[Samples], *, bins: int | None = None, size: int | None = None) -> Samples:
    """Return int64[bins, size]: whole groups in bins, each filled up with repetitions of its own samples.

    Args:
        groups: their samples, int64 each.
        bins: how many; each takes the next group while it holds the fewest samples. The size is that of the fullest.
        size: of each bin; a group goes into the first with room for it, and there are as many as needed.
    """
    by_size = sorted(groups, key=len, reverse=True)  # stable: groups of one size keep their order
    found: list[list[Samples]] = [[] for _ in range(bins or 0)]
    held = [0] * len(found)
    first = before = 0  # bins before the first have no room for a group of the last one's length
    for group in by_size:
        if size is None:
            place = held.index(min(held))
        else:
            first, before = first if len(group) == before else 0, len(group)
            place = first = next((i for i in range(first, len(held)) if held[i] + len(group) <= size), len(held))
            if place == len(held):
                found.append([])
                held.append(0)
        found[place].append(group)
        held[place] += len(group)
    width = size or max(held)
    # A bin without any group, where there are fewer groups than ranks, repeats the first one's samples.
    whole = [np.concatenate(each or found[0]) for each in found]
    return np.stack([np.resize(each, width) for each in whole])


def deal(bins: Samples, ranks: int, *, by_rank: bool = False) -> Samples:
    """Return the places of an order, int64[bins * size], that give each rank whole bins.

    Args:
        bins: int64[bins, size]: consecutive batches, dealt to the ranks in turn; or one bin for each rank.
        ranks: how many there are. Of consecutive batches there must be a multiple of it.
        by_rank: a bin is all that a rank takes.
    """
    if by_rank:
        return bins.T.reshape(-1)
    return bins.reshape(-1, ranks, bins.shape[1]).transpose(0, 2, 1).reshape(-1)
