"""Which samples come in which order: pure functions of (seed, epoch, rank), without state.

A position in an epoch is one integer, the number of samples that this rank has taken; so a run resumes exactly, with
another batch size too.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dali_pipes.draws import random_bits
from dali_pipes.errors import ConfigError


def epoch_order(count: int, *, seed: int, epoch: int, shuffle: bool) -> npt.NDArray[np.int64]:
    """int64[count]: the sample indices 0..count-1 in the order of this epoch, the same on every rank.

    A shuffle sorts the samples by 64 random bits each (ties, about 2^-25 likely for a million, keep index order).
    """
    samples = np.arange(count, dtype=np.int64)
    if not shuffle:
        return samples
    return samples[np.argsort(random_bits(seed, epoch, "order", samples), kind="stable")]


def shard(order: npt.NDArray[np.int64], *, rank: int, world_size: int, drop_last: bool) -> npt.NDArray[np.int64]:
    """This rank's part of `order`: every world_size-th sample, equally many on each rank.

    Ranks that take different numbers of steps hang a distributed run. So where the samples do not divide evenly, the
    remainder is dropped with `drop_last`, and otherwise the order is continued from its start (as
    `torch.utils.data.DistributedSampler` does).

    Raises:
        ConfigError: a rank outside 0..world_size-1.
    """
    if world_size < 1 or not 0 <= rank < world_size:
        raise ConfigError(
            f"rank={rank} of world_size={world_size}: rank must lie in 0..world_size-1; pass both or neither."
        )
    each = len(order) // world_size if drop_last else -(-len(order) // world_size)
    return np.resize(order, each * world_size)[rank::world_size]


def batches(
    samples: npt.NDArray[np.int64], *, position: int, batch_size: int, drop_last: bool
) -> list[npt.NDArray[np.int64]]:
    """The batches that remain of `samples` after the first `position` of them; the last may be smaller."""
    rest = samples[position:]
    stop = len(rest) // batch_size * batch_size if drop_last else len(rest)
    return [rest[i : i + batch_size] for i in range(0, stop, batch_size)]
