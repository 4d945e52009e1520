"""The first stage: whole files, by each backend's own decoder.

Only plain JPEGs are ever decoded by DALI (`Kind.dali`), and only without a cache; everything else comes from the one
canonical decoder, whatever the backend.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipes.backends import dali_operators
from dali_pipes.backends.graphs import decodes
from dali_pipes.decode import DecodePolicy, decode, identify
from dali_pipes.errors import DaliPipesError
from dali_pipes.manifest.manifest import Manifest
from dali_pipes.recipe import Recipe

Decoded = tuple[int, npt.NDArray[np.uint8], dict[str, npt.NDArray[np.uint8] | None]]
"""A sample's position, its pixels by the canonical decoder, and those of each DALI backend, [3, H, W] each; None where
DALI does not take the file, which is then decoded canonically."""


def decoded_twice(
    manifest: Manifest, recipe: Recipe, backends: list[str], batch_size: int, workers: int
) -> Iterator[Decoded]:
    """Yield the JPEGs of a manifest that DALI decodes, by the canonical decoder and by DALI.

    Args:
        manifest, recipe: what is loaded.
        backends: names; those that are not DALI's are passed over. Without any the pixels come from one decoder.
        batch_size: files at a time.
        workers: CPU threads.
    """
    dali = [name for name in backends if name.startswith("dali-")]
    if not decodes(recipe):
        return
    with ThreadPoolExecutor(workers) as threads:
        for start in range(0, len(manifest), batch_size):
            batch = range(len(manifest))[start : start + batch_size]
            pairs = zip(batch, threads.map(functools.partial(_canonical, manifest), batch))
            jpegs = [(index, *pair) for index, pair in pairs if pair is not None]
            if jpegs:
                yield from _by_dali(jpegs, dali, recipe.parity == "fast", workers)


def _canonical(manifest: Manifest, index: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]] | None:
    """(file, pixels) of a plain JPEG that decodes."""
    path = manifest.resolve(index)
    try:
        data = path.read_bytes()
        kind = identify(path, data)
        if not kind.dali:
            return None
        pixels: Any = decode(data, kind, 0, DecodePolicy()).pixels
    except (DaliPipesError, OSError):
        return None  # the stages after this one count it
    return np.frombuffer(data, np.uint8), pixels


def _by_dali(jpegs: list[tuple[int, Any, Any]], backends: list[str], native: bool, workers: int) -> Iterator[Decoded]:
    files = [file for _, file, _ in jpegs]
    found = {name: _decoded(files, name.removeprefix("dali-"), native, workers) for name in backends}
    for place, (index, _, pixels) in enumerate(jpegs):
        theirs = {name: None if batch[place] is None else _planar(batch[place]) for name, batch in found.items()}
        yield index, _planar(pixels), theirs


def _decoded(files: list[npt.NDArray[np.uint8]], device: str, native: bool, workers: int) -> list[Any]:
    try:
        return [*dali_operators.decode_jpegs(files, device=device, native=native, threads=workers)]
    except RuntimeError:  # one of them is at fault: find out which, for the others count
        return [None] if len(files) == 1 else [_decoded([file], device, native, 1)[0] for file in files]


def _planar(pixels: npt.NDArray[np.uint8] | None) -> Any:
    return None if pixels is None else pixels.transpose(2, 0, 1)
