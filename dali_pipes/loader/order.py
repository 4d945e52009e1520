"""In which order an epoch takes its samples, where neither the manifest's order nor a plain shuffle will do.

Every order is frozen data and a pure function of (seed, epoch), one for all ranks: `Loader(order=...)`. It gives the
places of `sampling.Shares`: with W ranks and batches of B, one global step takes W * B of them, every W-th on each
rank. Orders that fill batches or ranks depend on W and B, and a run in them resumes with the same two numbers; the
others resume with any.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from dali_pipes.draws import random_bits, uniform
from dali_pipes.errors import ConfigError
from dali_pipes.loader.bins import deal, fill
from dali_pipes.loader.sampling import Shares, epoch_order
from dali_pipes.manifest.manifest import Manifest

Samples = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Order:
    """The order of an epoch.

    Attributes:
        fills: whether it depends on the number of ranks and the batch size.
    """

    fills: ClassVar[bool] = False

    def samples(self, manifest: Manifest, seed: int, epoch: int, ranks: int, batch_size: int) -> Samples:
        """Return int64[M], the samples in the order of an epoch; M is the same in every epoch.

        Args:
            manifest: whose samples.
            seed, epoch: decide the order.
            ranks, batch_size: how it will be cut, which matters where `fills`.

        Raises:
            ConfigError: the manifest lacks what the order needs.
        """
        raise NotImplementedError

    def firsts(self, samples: Samples) -> npt.NDArray[np.bool_] | None:
        """Return bool[M], False where `samples` has a repetition that only fills up; None where there are none."""
        return None

    @property
    def name(self) -> Any:
        """What a saved state says of the order, a plain JSON value."""
        raise NotImplementedError


@dataclass(frozen=True)
class Plain(Order):
    """Every sample once: what `shuffle` means.

    Attributes:
        shuffle: sort by random bits, else the manifest's order.
    """

    shuffle: bool = False

    def samples(self, manifest: Manifest, seed: int, epoch: int, ranks: int, batch_size: int) -> Samples:
        """See `Order.samples`."""
        return epoch_order(len(manifest), seed=seed, epoch=epoch, shuffle=self.shuffle)

    @property
    def name(self) -> Any:
        """See `Order.name`."""
        return self.shuffle


@dataclass(frozen=True)
class Weighted(Order):
    """Draw samples with replacement, in proportion to weights.

    Attributes:
        weights: a column of the manifest, by name (one of `targets`, or a further column of numbers), or a number for
            each sample, none below 0.
        count: samples of an epoch; as many as the manifest has by default.
    """

    weights: str | tuple[float, ...] = ()
    count: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.weights, str):
            object.__setattr__(self, "weights", tuple(float(weight) for weight in self.weights))
        if self.count is not None and (type(self.count) is not int or self.count < 1):
            raise ConfigError(
                f"{type(self).__name__}(count={self.count!r}): give a whole number of at least 1, or None."
            )

    def samples(self, manifest: Manifest, seed: int, epoch: int, ranks: int, batch_size: int) -> Samples:
        """See `Order.samples`."""
        total = np.cumsum(self._weights(manifest))
        if not len(total) or not total[-1] > 0:
            raise ConfigError(f"{type(self).__name__}: no sample has a weight above 0.")
        drawn = uniform(seed, epoch, "weighted order", np.arange(self.count or len(manifest), dtype=np.int64))
        found: Samples = np.searchsorted(total, drawn * total[-1], side="right").astype(np.int64)
        last = int(np.flatnonzero(np.diff(total, prepend=0.0))[-1])  # should rounding lead beyond the sum
        return np.minimum(found, last)

    def _weights(self, manifest: Manifest) -> Doubles:
        weights: Any = self.weights
        if isinstance(weights, str):
            weights = _numbers(manifest, weights)
        found = np.asarray(weights, np.float64)
        if found.shape != (len(manifest),) or not np.isfinite(found).all() or (found < 0).any():
            raise ConfigError(f"Weighted: give {len(manifest)} finite weights, one a sample, none below 0.")
        return found

    @property
    def name(self) -> Any:
        """See `Order.name`."""
        digest = hashlib.blake2b(repr((self.weights, self.count)).encode(), digest_size=8).hexdigest()
        return f"{type(self).__name__} {digest}"


@dataclass(frozen=True)
class Balanced(Weighted):
    """Draw samples with replacement so that each class comes as often as any other; it takes no `weights`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights:
            raise ConfigError(f"Balanced(weights={self.weights!r}): classes decide its weights; Weighted takes others.")

    def _weights(self, manifest: Manifest) -> Doubles:
        labels = manifest.labels
        if not (labels >= 0).any():
            raise ConfigError("Balanced: no sample has a label; give the manifest a column `label`.")
        numbers, counts = np.unique(labels[labels >= 0], return_counts=True)
        found = np.zeros(len(manifest))
        for number, count in zip(numbers.tolist(), counts.tolist()):
            found[labels == number] = 1.0 / count
        return found


@dataclass(frozen=True)
class ClassesAndSamples(Order):
    """Batches of P classes with K samples each, as metric learning wants them: the batch size is P * K.

    An epoch has as many whole batches as the manifest's samples make. Each class's samples come in an order of their
    own, and anew when they are used up; only a class of fewer than K samples repeats some within a batch. Samples
    without a label are left out.

    Attributes:
        classes: P, at most as many as there are classes.
        each: K.
    """

    classes: int = 1
    each: int = 1
    fills: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if type(self.classes) is not int or type(self.each) is not int:
            raise ConfigError(f"ClassesAndSamples(classes={self.classes!r}, each={self.each!r}): give whole numbers.")

    def samples(self, manifest: Manifest, seed: int, epoch: int, ranks: int, batch_size: int) -> Samples:
        """See `Order.samples`."""
        labels = manifest.labels
        numbers = np.unique(labels[labels >= 0])
        if batch_size != self.classes * self.each or not 1 <= self.classes <= len(numbers) or self.each < 1:
            raise ConfigError(
                f"ClassesAndSamples(classes={self.classes}, each={self.each}): the batch size is {batch_size} and must "
                f"be their product, and there are {len(numbers)} classes."
            )
        batches = max(1, int((labels >= 0).sum()) // (ranks * batch_size)) * ranks
        chosen = np.stack([  # the classes of each batch
            np.argsort(random_bits(seed, epoch, f"classes of batch {b}", numbers), kind="stable")[: self.classes]
            for b in range(batches)
        ])  # fmt: skip
        found = np.empty((batches, self.classes, self.each), np.int64)
        for i, number in enumerate(numbers.tolist()):
            where = np.argwhere(chosen == i)
            found[where[:, 0], where[:, 1]] = self._of_class(
                np.flatnonzero(labels == number), len(where) * self.each, seed, epoch
            ).reshape(-1, self.each)
        return deal(found.reshape(batches, batch_size), ranks)

    def _of_class(self, members: Samples, count: int, seed: int, epoch: int) -> Samples:
        """Return `count` of a class's samples: all of them in one round after another."""
        rounds: list[Samples] = []
        for i in range(-(-count // len(members))):
            found = members[np.argsort(random_bits(seed, epoch, f"round {i} of a class", members), kind="stable")]
            begun = i * len(members) % self.each  # samples that a batch has already of the round before
            if begun and self.each <= len(members):
                found = found[np.argsort(np.isin(found, rounds[-1][-begun:]), kind="stable")]  # they come last
            rounds.append(found)
        return np.concatenate([*rounds, members[:0]])[:count]

    @property
    def name(self) -> Any:
        """See `Order.name`."""
        return f"ClassesAndSamples {self.classes} {self.each}"


@dataclass(frozen=True)
class Grouped(Order):
    """Keep each group (a patient's images, say: the manifest's column `group`) on one rank, or in one batch.

    Groups and the samples in them come in another order each epoch. Where ranks or batches are not filled evenly, some
    of their own samples are repeated, `batch.valid` being False there. Samples without a group are groups of their own.

    Attributes:
        together: a group is in one batch, so that none may have more samples than a batch; else on one rank.
    """

    together: bool = False
    fills: ClassVar[bool] = True

    def samples(self, manifest: Manifest, seed: int, epoch: int, ranks: int, batch_size: int) -> Samples:
        """See `Order.samples`."""
        groups = _members(manifest)
        keys = random_bits(seed, epoch, "order of groups", np.array([group[0] for group in groups]))
        groups = [groups[i] for i in np.argsort(keys, kind="stable").tolist()]
        inside = random_bits(seed, epoch, "order in groups", np.arange(len(manifest), dtype=np.int64))
        groups = [group[np.argsort(inside[group], kind="stable")] for group in groups]
        if not self.together:
            return deal(fill(groups, bins=ranks), ranks, by_rank=True)
        largest = max(map(len, groups))
        if largest > batch_size:
            raise ConfigError(
                f"Grouped(together=True): a group has {largest} samples, a batch {batch_size}; "
                "give a larger batch_size."
            )
        batches = fill(groups, size=batch_size)
        batches = batches[np.argsort(random_bits(seed, epoch, "order of batches", np.arange(len(batches))))]
        return deal(np.resize(batches, (-(-len(batches) // ranks) * ranks, batch_size)), ranks)

    def firsts(self, samples: Samples) -> npt.NDArray[np.bool_]:
        """See `Order.firsts`."""
        found = np.zeros(len(samples), np.bool_)
        found[np.unique(samples, return_index=True)[1]] = True
        return found

    @property
    def name(self) -> Any:
        """See `Order.name`."""
        return f"Grouped {'batch' if self.together else 'rank'}"


def _members(manifest: Manifest) -> list[Samples]:
    """Return the samples of each group, in the manifest's order."""
    found: dict[str, list[int]] = {}
    for i, name in enumerate(manifest.groups):
        found.setdefault(f"g{name}" if name else f"s{i}", []).append(i)
    return [np.array(each, np.int64) for each in found.values()]


def _numbers(manifest: Manifest, column: str) -> Sequence[float] | npt.NDArray[np.float32]:
    if column in manifest.targets:
        return manifest.targets[column]
    if column not in manifest.columns:
        known = ", ".join(map(repr, (*manifest.targets, *manifest.columns))) or "none"
        raise ConfigError(f"Weighted({column!r}): the manifest has no such column; it has {known}.")
    try:
        return [float(text) for text in manifest.columns[column]]
    except ValueError as error:
        raise ConfigError(f"Weighted({column!r}): the column holds no numbers: {error}.") from None


class Ordering:
    """An order of a manifest's samples under a seed.

    Args:
        order: given by the user, or None.
        shuffle: the user's, where no order is given.
        manifest: whose samples.
        seed: decides the order, with the number of the epoch.

    Raises:
        ConfigError: `order` is none, or comes together with `shuffle`.
    """

    def __init__(self, order: Order | None, shuffle: bool, manifest: Manifest, seed: int) -> None:
        if order is not None and (shuffle or not isinstance(order, Order)):
            raise ConfigError(
                f"Loader(order={order!r}, shuffle={shuffle}): give an order, such as Weighted or Grouped, or shuffle; "
                "orders are random by themselves."
            )
        self._order, self._manifest, self._seed = order or Plain(bool(shuffle)), manifest, seed
        self._known: dict[tuple[int, int], tuple[int, str]] = {}

    def of(self, shares: Shares, epoch: int) -> Samples:
        """Return int64[M], the samples in the order of an epoch, of which ranks take shares."""
        return self._samples(epoch, shares.world_size, shares.batch_size)

    def _samples(self, epoch: int, ranks: int, batch_size: int) -> Samples:
        return self._order.samples(self._manifest, self._seed, epoch, ranks, batch_size)

    def firsts(self, samples: Samples) -> npt.NDArray[np.bool_] | None:
        """See `Order.firsts`."""
        return self._order.firsts(samples)

    def count(self, ranks: int, batch_size: int) -> int:
        """Return M, the same in every epoch."""
        if isinstance(self._order, Plain):
            return len(self._manifest)
        return self._first_epoch(ranks, batch_size)[0]

    def _first_epoch(self, ranks: int, batch_size: int) -> tuple[int, str]:
        """Return how many samples epoch 0 takes, and a digest of its order, which weights, labels and groups decide."""
        key = (ranks, batch_size)
        if key not in self._known:
            samples = self._samples(0, ranks, batch_size)
            self._known[key] = len(samples), hashlib.blake2b(samples.tobytes(), digest_size=8).hexdigest()
        return self._known[key]

    def belongs_to(self, ranks: int, batch_size: int) -> dict[str, Any]:
        """Return what a saved state must agree with, as plain JSON values."""
        told = {"count": self.count(ranks, batch_size), "samples": self._manifest.digest(), "seed": self._seed}
        told["shuffle"] = self._order.name
        if not isinstance(self._order, Plain):
            told["order"] = self._first_epoch(ranks, batch_size)[1]
        return {**told, "world_size": ranks, "batch_size": batch_size} if self._order.fills else told
