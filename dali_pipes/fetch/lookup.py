"""What the cache holds of many samples, found together: how the first warm epoch of a process begins.

    paths ──> states (one stat each, none if sources are trusted) ──> contents ──> keys ──> entries

Nothing is read but entries, and nothing is decided: whatever is not plainly there is left to be fetched by itself.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dali_pipes import cache
from dali_pipes.cache.bulk import get_views
from dali_pipes.decode import Kind
from dali_pipes.errors import UnsupportedError
from dali_pipes.fetch.extents import Extents
from dali_pipes.fetch.item import Pixels
from dali_pipes.fetch.keys import Families, Family
from dali_pipes.fetch.known import Known

SLOW = 0.0005
"""Seconds a file from which on a folder is slow, such as one of the network."""


class Named(NamedTuple):
    """A sample whose source file is known: its content, and what makes its keys."""

    content: bytes
    family: Family


class Lookup:
    """See the module.

    Args:
        place: gives a sample's path, or its URL.
        frames: int32[N], of the samples.
        store: where their base images are kept.
        sources: knows the content of source files.
        families: make keys.
        known: is told what was found.
        made: uint8[N, 32], filled with what names base images (see `Fetcher.made`).
        extents: is told the sizes of sources; None where they are not wanted.
        deep: whether attributes belong to base images.
        trust: take source files for unchanged, without looking at them.

    Attributes:
        quick: whether the states of the last files came quickly; else it is better to ask for few in each thread.
    """

    def __init__(
        self,
        place: Callable[[int], str],
        frames: npt.NDArray[np.int32],
        store: cache.Store,
        sources: cache.SourceIndex,
        families: Families,
        known: Known,
        made: npt.NDArray[np.uint8],
        extents: Extents | None,
        deep: bool,
        trust: bool,
    ) -> None:
        self._place, self._frames = place, frames
        self._store, self._sources, self._families = store, sources, families
        self._known, self._made, self._extents, self._deep, self._trust = known, made, extents, deep, trust
        self.quick = True

    def find(self, samples: Sequence[int]) -> list[Pixels | None]:
        """Return the base image of each sample (at depth 16 before its window); None where it has to be fetched.

        Raises:
            CacheError: the store is strict.
        """
        named = self.names(samples)
        there = [at for at, name in enumerate(named) if name is not None]
        names = [name for name in named if name is not None]
        found: list[Pixels | None] = [None] * len(named)
        notes: list[Pixels | None] = [None] * len(there)
        digests = [family.image(content) for content, family in names]
        views = get_views(self._store, digests)
        if self._deep:
            notes = get_views(self._store, [family.note(content) for content, family in names])
        lacking = self._lacking([samples[at] for at in there], names)
        made: list[bytes] = []
        for row, at in enumerate(there):
            view, note, sample = views[row], notes[row], samples[at]
            content, family = names[row]
            made.append(content + family.made(content, 0))
            if view is None or row in lacking or (self._deep and note is None):
                continue
            if self._known.keep(sample, digests[row], None if note is None else note.tobytes().decode()):
                found[at] = view
        self._made[[samples[at] for at in there]] = np.frombuffer(b"".join(made), np.uint8).reshape(-1, 32)
        return found

    def _lacking(self, samples: Sequence[int], names: Sequence[Named]) -> set[int]:
        """Return which samples' sizes are wanted and not in the cache."""
        if self._extents is None:
            return set()
        kept = get_views(self._store, [family.extent(content) for content, family in names])
        return {row for row, sample in enumerate(samples) if not self._extents.take(sample, kept[row])}

    def names(self, samples: Sequence[int]) -> list[Named | None]:
        """Return what makes each sample's keys, None where its file is not known."""
        paths = [self._place(sample) for sample in samples]
        begun = time.perf_counter()
        states = [None if self._trust else _state(path) for path in paths]
        self.quick = time.perf_counter() - begun < SLOW * len(paths)
        asked = [at for at, state in enumerate(states) if self._trust or state is not None]
        known = self._sources.lookup_many([paths[at] for at in asked], [states[at] for at in asked])
        found: list[Named | None] = [None] * len(paths)
        for at, each in zip(asked, known):
            if each is not None:
                found[at] = self._named(*each, int(self._frames[samples[at]]))
        return found

    def _named(self, content: bytes, tag: str, frame: int) -> Named | None:
        try:
            return Named(content, self._families.of(Kind.from_tag(tag), frame))
        except UnsupportedError:  # as fetching it will say
            return None


def _state(path: str) -> cache.FileState | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return cache.FileState.of(status) if stat.S_ISREG(status.st_mode) else None
