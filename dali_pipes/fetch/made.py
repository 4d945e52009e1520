"""What each sample of a batch was made of, as bytes that change whenever its pixels may.

32 bytes a sample: the first 16 name the content of its source file, the others the frame, how the file was decoded,
the recipe, and the draws that took effect.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import fields
from functools import cached_property
from hashlib import blake2b
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from dali_pipes.draws import Draws
from dali_pipes.recipe import Recipe

BYTES = 32
"""Of one sample."""


class Digests(Sequence[bytes]):
    """The digests of N samples, computed when one of them is first asked for: training itself never does.

    Args:
        sources: uint8[N, 32], what the base images were made of (`Fetcher.made`); of studies uint8[N, V, 32].
        recipe: what was done to them.
        backend: by which backend; it counts only where backends differ, which is under fast parity.
        draws: of the batch.
    """

    def __init__(self, sources: npt.NDArray[np.uint8], recipe: Recipe, backend: str, draws: Draws) -> None:
        self._made_of = (sources, recipe, backend, draws)

    @cached_property
    def _values(self) -> list[bytes]:
        return digests(*self._made_of)

    def __len__(self) -> int:
        return len(self._made_of[0])

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        return self._values[index]

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, (Digests, list, tuple)) and self._values == list(other))

    def __hash__(self) -> int:
        return hash(tuple(self._values))

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (self._values,)

    def __repr__(self) -> str:
        return repr(self._values)


def digests(sources: npt.NDArray[np.uint8], recipe: Recipe, backend: str, draws: Draws) -> list[bytes]:
    """Return the digest of each of N samples; arguments as for `Digests`."""
    sources = _together(sources) if sources.ndim == 3 else sources
    rows = [sources[:, 16:], *_columns(draws, len(sources))]
    table = np.concatenate(rows, axis=1)
    start = blake2b(
        _says(recipe, backend if recipe.parity == "fast" else ""), digest_size=16, person=b"dali-pipes made."
    )
    found = []
    for source, row in zip(sources[:, :16], table):
        hasher = start.copy()
        hasher.update(row.data)
        found.append(source.tobytes() + hasher.digest())
    return found


def _together(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return uint8[N, 32] of uint8[N, V, 32]: what a study was made of, from all of its images."""
    halves = (b"".join(_short(study[:, half]) for half in (slice(0, 16), slice(16, 32))) for study in images)
    return np.frombuffer(b"".join(halves), np.uint8).reshape(-1, BYTES)


def _short(values: npt.NDArray[np.uint8]) -> bytes:
    return blake2b(values.tobytes(), digest_size=16).digest()


@functools.lru_cache(maxsize=16)
def _says(recipe: Recipe, backend: str) -> bytes:
    return f"{recipe.digest} {backend}".encode()


def _columns(draws: Draws, count: int) -> list[npt.NDArray[Any]]:
    """Return the bytes of each sample's draws (of all its views), uint8[N, ...] for every field in its order."""
    found = {each.name: getattr(draws, each.name) for each in fields(draws)}
    arrays = {name: np.ascontiguousarray(array) for name, array in found.items() if array is not None}
    if draws.crops is not None:  # where no crop is taken it does not matter where it would have lain
        for name in _OF_CROPS & arrays.keys():
            taken = draws.crops.reshape(-1, *[1] * (arrays[name].ndim - 1))
            arrays[name] = np.where(taken, arrays[name], 0.0)
    return [array.reshape(count, -1).view(np.uint8) for array in arrays.values()]


_OF_CROPS = frozenset(("areas", "ratios", "crop_y", "crop_x"))
