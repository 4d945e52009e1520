"""Which samples come in which order: pure functions of (seed, epoch, position, rank), without state.

The order of an epoch is one for all ranks. With W ranks and batches of B samples, one global step takes the next W * B
positions of the order, every W-th of them on each rank. So a position in an epoch is one integer that all ranks agree
on, and what remains after it can be taken by any number of ranks in batches of any size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dali_pipes.draws import random_bits
from dali_pipes.errors import ConfigError

Samples = npt.NDArray[np.int64]


def epoch_order(count: int, *, seed: int, epoch: int, shuffle: bool) -> Samples:
    """Return int64[count]: the sample indices 0..count-1 in the order of this epoch, the same on every rank.

    A shuffle sorts the samples by 64 random bits each (ties, about 2^-25 likely for a million, keep index order).
    """
    samples = np.arange(count, dtype=np.int64)
    if not shuffle:
        return samples
    return samples[np.argsort(random_bits(seed, epoch, "order", samples), kind="stable")]


@dataclass(frozen=True)
class Shares:
    """How ranks share what remains of an epoch.

    Ranks that take different numbers of steps hang a distributed run. So where the samples do not divide evenly, the
    remainder is dropped with `drop_last`, and otherwise the order is continued from its start (as
    `torch.utils.data.DistributedSampler` does), unless `pad` is False.

    Attributes:
        count: samples of the data set.
        rank, world_size: whose share it is.
        batch_size: samples a batch on one rank.
        drop_last: every rank takes the same number of whole batches, and what is left over is dropped.
        pad: shares are filled to one size by repetition. If False, no sample is repeated, and some ranks take one
            sample less, which can mean a batch less.
    """

    count: int
    rank: int
    world_size: int
    batch_size: int
    drop_last: bool = False
    pad: bool = True

    def check(self) -> None:
        """Refuse shares of which no rank gets a batch.

        Raises:
            ConfigError: there are no samples, or no whole batch.
        """
        if not self.count:
            raise ConfigError("the manifest has no samples, so there is nothing to iterate over.")
        if self.drop_last and not self.steps():
            raise ConfigError(
                f"batch_size={self.batch_size}, drop_last=True: {self.count} samples on {self.world_size} ranks make "
                "no whole batch; give a smaller batch_size, or drop_last=False."
            )

    def size(self, position: int = 0) -> int:
        """Return how many samples this rank takes from `position` on, before batches are cut."""
        rest = max(0, self.count - position)
        if self.drop_last:
            return rest // self.world_size
        if self.pad:
            return -(-rest // self.world_size)
        return max(0, -(-(rest - self.rank) // self.world_size))

    def steps(self, position: int = 0) -> int:
        """Return how many batches this rank takes from `position` on."""
        size = self.size(position)
        return size // self.batch_size if self.drop_last else -(-size // self.batch_size)

    def places(self, position: int = 0) -> Samples:
        """Return int64[size]: the places in the epoch's order that this rank takes from `position` on.

        Places from `count` on are repetitions, of the samples at the order's start.

        Args:
            position: how many places all ranks together have consumed.
        """
        return position + self.rank + self.world_size * np.arange(self.size(position), dtype=np.int64)

    def after(self, position: int, steps: int) -> int:
        """Return the position after `steps` more global steps from `position`."""
        return min(self.count, position + steps * self.world_size * self.batch_size)


def batches(samples: Samples, *, batch_size: int, drop_last: bool) -> list[Samples]:
    """Return `samples` in batches; the last may be smaller, and is left out with `drop_last`."""
    stop = len(samples) // batch_size * batch_size if drop_last else len(samples)
    return [samples[i : i + batch_size] for i in range(0, stop, batch_size)]


class EpochSampler:
    """What Lightning and others look for in a loader: a sampler that can be told the epoch.

    Args:
        set_epoch: called with the number of the epoch that comes next.
        samples: gives this rank's samples of that epoch, int64[M].
    """

    def __init__(self, set_epoch: Callable[[int], None], samples: Callable[[], Samples]) -> None:
        self.set_epoch = set_epoch
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples())

    def __iter__(self) -> Iterator[int]:
        return iter(self._samples().tolist())
