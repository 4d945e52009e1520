"""Masks of samples: a manifest's column `mask`, fetched beside the images and moved by the same plans.

    mask file ──> class numbers ──> base mask (nearest pixel, of the base image's size) ──> cache, under keys of its own

The column holds a path like `path`, or nothing: such a sample's mask is 0 everywhere. A column `mask_frame` numbers the
frame of files that have several. Masks of studies: `study_fetch.StudyMasks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipes import cache
from dali_pipes.arithmetic.masks import base_mask, nearest
from dali_pipes.arithmetic.plan import Plan
from dali_pipes.decode import Decoded, DecodePolicy, Kind, decode_mask
from dali_pipes.errors import ConfigError, DaliPipesError, DecodeError
from dali_pipes.fetch.bookkeeping import Failure
from dali_pipes.fetch.fetcher import Deep, Encoded, Fetcher, Item, Pixels, ready
from dali_pipes.manifest.manifest import Manifest
from dali_pipes.manifest.rows import MASK, MASK_FRAME, frame_numbers
from dali_pipes.recipe import Recipe

RULES = 1
"""Counts changes of the rules by which masks are read and brought to their base size: part of their keys."""


class MaskFetcher(Fetcher):
    """Base masks, uint8[1, H, W] each, as `Fetcher` gives base images."""

    def _parts(self, content: bytes, kind: Kind, frame: int) -> dict[str, str | int | bytes]:
        shape = {name: self._recipe.base_parts[name] for name in ("size", "fit")}
        return {"source": content, "frame": frame, "decoder": f"mask {RULES}, {kind.decoder}", **shape}

    def _decode_here(self, data: bytes | memoryview, kind: Kind, frame: int) -> Decoded:
        return Decoded(decode_mask(data, kind, frame, self._policy.limits)[..., None])

    def _decode_in_child(self, fd: int, kind: Kind, frame: int) -> Decoded:
        return self._children.decode(fd, kind, frame, self._policy, mask=True)

    def _base_image(self, decoded: Decoded, kind: Kind) -> npt.NDArray[Any]:
        return base_mask(np.asarray(decoded.pixels[..., 0]), self._recipe.base, self._recipe.fit)[None]


class Masks:
    """The masks of a manifest's samples.

    Args:
        manifest: has a column `mask`.
        recipe: of the images.
        store: the images' own.
        workers: how many masks are decoded at once.
        policy: how files are read.
        sandbox, trust: as of `Fetcher`.

    Raises:
        ConfigError: a frame that is no number.
    """

    def __init__(
        self,
        manifest: Manifest,
        recipe: Recipe,
        store: cache.Store,
        *,
        workers: int,
        policy: DecodePolicy,
        sandbox: bool = False,
        trust: bool = False,
    ) -> None:
        paths = manifest.columns[MASK]
        self._there = np.diff(paths.offsets) > 0
        problems: dict[int, str] = {}
        numbers = frame_numbers(manifest.columns.get(MASK_FRAME), len(manifest), problems, MASK_FRAME)
        if problems:
            sample, reason = next(iter(problems.items()))
            raise ConfigError(f"{manifest.describe(sample)}: {reason}.")
        self._recipe, self._describe = recipe, manifest.describe
        self._fetcher = MaskFetcher(
            replace(manifest, paths=paths, frames=numbers),
            Recipe(recipe.base, channels=1, fit=recipe.fit, window=None),
            store,
            workers=workers,
            policy=replace(policy, channels=1, depth=8, window=None, reduce=None),
            sandbox=sandbox,
            trust=trust,
            extents=True,
        )
        self._failures: dict[int, DaliPipesError] = {}
        self._blank = np.zeros((1, *recipe.base), np.uint8)

    def request(self, sample: int) -> Any:
        """Return a sample's base mask, uint8[1, H, W], or a future of it."""
        return self._fetcher.request(sample) if self._there[sample] else self._blank

    def is_cached(self, sample: int) -> bool:
        """Whether the store holds a sample's base mask, or there is none to be held."""
        return not self._there[sample] or self._fetcher.is_cached(sample)

    def requests(self, samples: Sequence[int]) -> list[Any]:
        """Return what `request` returns for each sample."""
        there = [sample for sample in samples if self._there[sample]]
        found = iter(self._fetcher.requests(there))
        return [next(found) if self._there[sample] else self._blank for sample in samples]

    def checked(self, sample: int, requested: Any, images: Any) -> Pixels | Failure:
        """Return a sample's base mask once it is here, or why it cannot be had.

        Args:
            sample: its number.
            requested: what `request` returned.
            images: has fetched the sample's image, and keeps the sizes of sources.
        """
        mask = self._checked(sample, ready(requested), images)
        if isinstance(mask, Failure):
            self._failures[sample] = mask.error
        else:
            self._failures.pop(sample, None)
        return mask

    def with_image(self, sample: int, images: Any) -> Any:
        """Return a sample's base image, decoded, or why it or its mask cannot be had."""
        image = images.decoded(sample)
        mask = image if isinstance(image, Failure) else self.checked(sample, self.request(sample), images)
        return mask if isinstance(mask, Failure) else image

    def failures(self) -> dict[int, DaliPipesError]:
        """Return the samples whose masks could not be had when they were last asked for, with their errors."""
        return dict(self._failures)

    def _checked(self, sample: int, mask: Item, images: Fetcher) -> Pixels | Failure:
        if isinstance(mask, (Encoded, Deep)):
            raise ConfigError("a mask is never left to a backend")
        if isinstance(mask, Failure):
            return Failure(type(mask.error)(f"the mask of {mask.error}"))
        both = [fetcher.extents(np.array([sample])) for fetcher in (images, self._fetcher)]
        if not self._there[sample] or both[0] is None or both[1] is None or np.array_equal(both[0], both[1]):
            return mask
        (height, width), (rows, columns) = (each[0].tolist() for each in both if each is not None)
        return Failure(
            DecodeError(
                f"{self._describe(sample)}: its image has {height} x {width} pixels, its mask {rows} x {columns}; "
                "give a mask of the image's size"
            )
        )

    def finish(self, masks: Sequence[npt.NDArray[np.uint8]], plans: Plan) -> npt.NDArray[np.uint8]:
        """Return uint8[N, h, w]: samples' base masks, as `checked` returns them, moved as N records say.

        N counts all outputs of the samples: K views of each.
        """
        size, views = (self._recipe.height, self._recipe.width), self._recipe.views
        out = np.empty((len(plans), *size), np.uint8)
        planes = (plane for mask in masks for _ in range(views) for plane in mask.reshape(-1, *mask.shape[-2:]))
        for goal, plane, plan in zip(out, planes, plans, strict=True):
            goal[...] = nearest(plane, plan, size)
        return out

    def counts(self) -> dict[str, Any]:
        """Return what `Fetcher.counts` says of the masks."""
        return self._fetcher.counts()

    def close(self) -> None:
        """End threads; requests that have not begun are dropped."""
        self._fetcher.close()
