"""One file to what a model saw of it in training: the door of whoever serves, tests or looks at single files.

    bytes, path or pixels ──> decode ──> base image ──> normalise ──> tensor

The functions are those of the loader, so the bits are, too.
"""

from __future__ import annotations

import functools
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dali_pipes.backends.layout import Layout
from dali_pipes.cores import default_workers
from dali_pipes.decode import Decoded, DecodePolicy, DecoderPool, Kind, apply_window, decode, decode_pixels, identify
from dali_pipes.draws import draw
from dali_pipes.errors import ConfigError, DaliPipesError, DaliPipesWarning
from dali_pipes.fetch.bases import Pixels, base_of
from dali_pipes.finish.finish import Changes, Finish
from dali_pipes.recipe import Recipe

Source = bytes | bytearray | memoryview | str | os.PathLike[str] | npt.NDArray[Any]
"""A file's bytes, its path, or decoded pixels, uint8 or uint16 [H, W], [H, W, 1] or [H, W, 3]."""


class Serving:
    """`Recipe.tensor` and `Recipe.batch` for many calls, with options; safe to use from any number of threads.

    >>> with Serving(Recipe(size=(4, 6)), workers=1) as serving:
    ...     serving.tensor(np.zeros((8, 12, 3), np.uint8)).shape
    torch.Size([3, 4, 6])

    Args:
        recipe: how files become tensors; what varies at random does not, and there is one view.
        sandbox: decode in child processes with limits of time and memory, which are kept until `close`.
        workers: how many files of a batch are decoded at once; by default as many as a `Loader` takes.
        cached: serve what a loader with a cache gave. Only under fast parity is it something else than without one.
        decode_options: as for `Loader`: `limits`, `burned_in`, `processing`.

    Raises:
        ConfigError: an argument that cannot work.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        sandbox: bool = False,
        workers: int | None = None,
        cached: bool = False,
        decode_options: dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(recipe, Recipe):
            raise ConfigError(f"Serving({type(recipe).__name__}): give a Recipe, such as Recipe(size=224).")
        self._recipe = plain = steady(recipe)
        try:
            self._policy: DecodePolicy = replace(plain.decode_policy, **(decode_options or {}))
        except TypeError as error:
            raise ConfigError(f"Serving: decode_options has a name that is not known: {error}.") from error
        if workers is not None and workers < 1:
            raise ConfigError(f"Serving(workers={workers!r}): give at least 1.")
        self._given_workers = workers
        self._by_dali = plain.dali_base_image and not cached
        self._layout = layout_of(plain)
        self._children = DecoderPool(self._workers, self._policy.limits) if sandbox else None

    @functools.cached_property
    def _workers(self) -> int:
        return default_workers() if self._given_workers is None else self._given_workers

    def tensor(self, source: Source, frame: int = 0) -> torch.Tensor:
        """Return [C, H, W]; see `Recipe.tensor`."""
        return self.batch([source], [frame])[0]

    def batch(self, sources: Sequence[Source], frames: Sequence[int] | None = None) -> torch.Tensor:
        """Return [N, C, H, W]; see `Recipe.batch`."""
        if isinstance(sources, (str, bytes, bytearray, memoryview, os.PathLike)):
            raise ConfigError("batch: give a list of files; tensor takes a single one.")
        count = len(sources)
        if frames is not None and len(frames) != count:
            raise ConfigError(f"batch: {count} files and {len(frames)} frames; give a frame for each file.")
        jobs = [(i, count, source, 0 if frames is None else int(frames[i])) for i, source in enumerate(sources)]
        if count <= 1 or self._workers == 1:
            found = [self._base(*job) for job in jobs]
        else:
            with ThreadPoolExecutor(min(self._workers, count), thread_name_prefix="dali-pipes-serve") as pool:
                found = list(pool.map(lambda job: self._base(*job), jobs))
        for text in dict.fromkeys(text for _, texts in found for text in texts):
            warnings.warn(text, DaliPipesWarning, stacklevel=2)
        out = self._layout.empty(count)
        if count:
            images = [image for image, _ in found]
            self._layout.write_all(out, images, _changes(self._recipe, count), range(count))
        return out

    def _base(self, number: int, count: int, source: Source, frame: int) -> tuple[Pixels, tuple[str, ...]]:
        """Return a base image, and what its file gives reason to warn of; errors say which of `count` files failed."""
        try:
            decoded, by_dali = self._decoded(source, frame)
        except DaliPipesError as error:
            if count == 1:
                raise
            raise type(error)(f"file {number} of {count}: {error}") from error
        image = base_of(decoded.pixels, self._recipe, by_dali)
        if self._recipe.depth == 16 and self._recipe.window is not None:
            attributes = json.loads(json.dumps(decoded.attributes))  # as a cache gives them back
            image = apply_window(image, attributes, self._recipe.window)
        return image, decoded.warnings

    def _decoded(self, source: Source, frame: int) -> tuple[Decoded, bool]:
        """Return a frame, and whether DALI's arithmetic makes its base image."""
        if isinstance(source, np.ndarray):
            if frame:
                raise ConfigError(f"frame={frame}: an array of pixels is one frame; give that one.")
            return decode_pixels(source, self._policy), False
        if isinstance(source, (str, os.PathLike)):
            self._policy.limits.check_file(os.path.getsize(source))
            with open(source, "rb") as file:
                data = file.read()
        elif isinstance(source, (bytes, bytearray, memoryview)):
            data = bytes(source)
            self._policy.limits.check_file(len(data))
        else:
            raise ConfigError(f"{type(source).__name__}: give a file's bytes, its path, or an array of its pixels.")
        kind = identify("", data)
        return self._decode(data, kind, frame), self._by_dali and kind.dali

    def _decode(self, data: bytes, kind: Kind, frame: int) -> Decoded:
        if self._children is None:
            return decode(data, kind, frame, self._policy)
        with _as_file(data) as descriptor:
            return self._children.decode(descriptor, kind, frame, self._policy)

    def close(self) -> None:
        """End child processes."""
        if self._children is not None:
            self._children.close()

    def __enter__(self) -> Serving:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Serving({self._recipe!r}, sandbox={self._children is not None})"


@functools.lru_cache(maxsize=16)
def steady(recipe: Recipe) -> Recipe:
    """Return the recipe without what varies at random."""
    return replace(recipe, augment=None, views=1)


def unnormalised(recipe: Recipe) -> Recipe:
    """Return the recipe without mean and std, in planes: pixels as integers, for looking at them."""
    return replace(recipe, mean=None, std=None, dtype="float32", memory_format="contiguous")


@functools.lru_cache(maxsize=16)
def layout_of(recipe: Recipe) -> Layout:
    """Return the recipe's `Layout`, made once."""
    return Layout(recipe)


@functools.lru_cache(maxsize=16)
def finish_of(recipe: Recipe) -> Finish:
    """Return the recipe's `Finish`, made once."""
    return Finish(recipe)


@functools.lru_cache(maxsize=16)
def _changes(recipe: Recipe, count: int) -> Changes:
    """Return what is done to `count` base images: nothing at random."""
    return finish_of(recipe).changes(draw(None, 0, 0, np.arange(count), 1))


@contextmanager
def _as_file(data: bytes) -> Iterator[int]:
    """Yield a descriptor of a file in memory that holds the bytes."""
    descriptor = os.memfd_create("dali-pipes-file", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        yield descriptor
    finally:
        os.close(descriptor)
