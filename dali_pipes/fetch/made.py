"""What each sample of a batch was made of, as bytes that change whenever its pixels may.

32 bytes a sample: the first 16 name the content of its source file, the others the frame, how the file was decoded,
the recipe, and the draws that took effect.
"""

from __future__ import annotations

import functools
from dataclasses import fields
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipes.draws import Draws
from dali_pipes.recipe import Recipe

BYTES = 32
"""Of one sample."""


def digests(sources: npt.NDArray[np.uint8], recipe: Recipe, backend: str, draws: Draws) -> list[bytes]:
    """Return the digest of each of N samples.

    Args:
        sources: uint8[N, 32], what the base images were made of (`Fetcher.made`).
        recipe: what was done to them.
        backend: by which backend; it counts only where backends differ, which is under fast parity.
        draws: of the batch.
    """
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
