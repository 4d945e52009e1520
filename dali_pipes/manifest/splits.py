"""Splits without leaks.

Groups (a patient's images) that lie in two splits are found, and splits are made of whole groups, alike in their
labels.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from dali_pipes.errors import ConfigError
from dali_pipes.manifest.columns import TextColumn
from dali_pipes.manifest.rows import repeated

Counts = npt.NDArray[np.float64]


def leaks(groups: TextColumn, splits: TextColumn) -> dict[str, dict[str, int]]:
    """Return the groups that lie in two splits or more: group to split to its first sample there.

    Samples without a group or without a split leak nothing.
    """
    names, group = groups.codes()
    parts, part = splits.codes()
    seen = np.flatnonzero(_named(names)[group] & _named(parts)[part]) if len(groups) else np.empty(0, np.int64)
    pairs, first = np.unique(group[seen] * max(1, len(parts)) + part[seen], return_index=True)
    owners, spread = np.unique(pairs // max(1, len(parts)), return_counts=True)
    twice = set(owners[spread > 1].tolist())
    found: dict[str, dict[str, int]] = {}
    for pair, place in zip(pairs.tolist(), first.tolist()):
        owner, where = divmod(pair, len(parts))
        if owner in twice:
            found.setdefault(names[owner], {})[parts[where]] = int(seen[place])
    return found


def together(groups: TextColumn, paths: TextColumn) -> TextColumn:
    """Return a key for each sample, equal where samples must stay in one split: those of a group, or of a file.

    A sample without a group stays with its file; groups that share a file stay together, too.
    """
    keys = [f"g{group}" if group else f"f{path}" for group, path in zip(groups, paths)]
    above: dict[str, str] = {}

    def top(key: str) -> str:
        while key in above:
            above[key] = key = above.get(above[key], above[key])
        return key

    for row, first in repeated(paths).items():
        one, other = sorted((top(keys[row]), top(keys[first])))
        if one != other:
            above[other] = one  # the first in the alphabet, so that the order of samples does not matter
    return TextColumn(map(top, keys) if above else keys)


def _named(names: list[str]) -> npt.NDArray[np.bool_]:
    return np.array([bool(name) for name in names], np.bool_)


def check_fractions(fractions: Mapping[str, float]) -> tuple[list[str], Counts]:
    """Return names and shares of splits, the shares float64[S] with the sum 1.

    Raises:
        ConfigError: no split, a share that is not positive, or shares that do not add up to 1.
    """
    names = [str(name) for name in fractions]
    try:
        shares = np.array([float(value) for value in fractions.values()], np.float64)
    except (TypeError, ValueError, AttributeError):
        shares = np.array([math.nan])
    if not names or not all(names) or not bool((shares > 0).all()) or not math.isclose(shares.sum(), 1, abs_tol=1e-6):
        raise ConfigError(
            f"fractions={fractions!r}: give a share above 0 for each split, which add up to 1, such as "
            "{'train': 0.8, 'val': 0.1, 'test': 0.1}."
        )
    return names, shares / shares.sum()


def assign(keys: TextColumn, labels: npt.NDArray[np.int64], shares: Counts, seed: int) -> npt.NDArray[np.int64]:
    """Return the split of each sample, int64[N], such that samples of one key lie in one split.

    Larger groups come first, equal ones in an order drawn from (seed, key). Each goes where it brings the number of
    samples of its labels nearest to the shares (the least sum of squared distances, each label measured by its own
    number of samples). What is left are groups of one sample; those of a label fill up what the splits still lack of
    it. The result does not depend on the order of samples.

    Args:
        keys: what must stay together, N texts.
        labels: int64[N]; each different number is a stratum.
        shares: float64[S].
        seed: of the order.
    """
    names, group = keys.codes()
    kinds, kind = np.unique(labels, return_inverse=True)
    pairs, held = np.unique(group * max(1, len(kinds)) + kind, return_counts=True)
    owner, label = np.divmod(pairs, max(1, len(kinds)))  # the labels of group g are those from starts[g] to starts[g+1]
    starts = np.searchsorted(owner, np.arange(len(names) + 1))
    total = np.bincount(kind, minlength=len(kinds)).astype(np.float64)
    lacking = shares[:, None] * total
    sizes = np.bincount(group, minlength=len(names))
    order = np.lexsort((np.array([_drawn(name, seed) for name in names], np.uint64), -sizes))
    large, single = np.split(order, [int((sizes > 1).sum())])
    chosen = np.empty(len(names), np.int64)
    for number in large.tolist():
        mine = slice(starts[number], starts[number + 1])
        place = int(np.argmax(lacking[:, label[mine]] @ (held[mine] / total[label[mine]] ** 2)))
        chosen[number] = place
        lacking[place, label[mine]] -= held[mine]
    which = label[starts[single]]
    for number in range(len(kinds)):
        alike = single[which == number]
        chosen[alike] = np.repeat(np.arange(len(shares)), _quotas(lacking[:, number], shares, len(alike)))
    found: npt.NDArray[np.int64] = chosen[group]
    return found


def _drawn(name: str, seed: int) -> int:
    text = f"{seed}:".encode() + name.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _quotas(lacking: Counts, shares: Counts, count: int) -> npt.NDArray[np.int64]:
    """How many of `count` samples go to each split: what each lacks, rounded so that the sum is right."""
    wanted = np.maximum(lacking, 0.0)
    wanted = wanted if wanted.sum() > 0 else shares
    exact = wanted * (count / wanted.sum())
    whole: npt.NDArray[np.int64] = np.floor(exact).astype(np.int64)
    rest = np.argsort(-(exact - whole), kind="stable")[: count - int(whole.sum())]
    whole[rest] += 1
    return whole
