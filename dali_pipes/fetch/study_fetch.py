"""The images and masks of studies, fetched together: what `Fetcher` and `Masks` do, by the numbers of studies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipes import cache
from dali_pipes.draws import Draws, repeated
from dali_pipes.errors import ConfigError, DaliPipesError
from dali_pipes.fetch.fetcher import Deep, Encoded, Failure, Fetcher, Later, Pixels, Requested, here, ready
from dali_pipes.fetch.masks import Masks
from dali_pipes.manifest.manifest import Manifest
from dali_pipes.manifest.rows import MASK
from dali_pipes.manifest.studies import Studies
from dali_pipes.recipe import Recipe


@dataclass(frozen=True)
class Study:
    """The base images of one study, uint8 or uint16 [C, H, W] each, all 0 where there is none."""

    images: tuple[Pixels | Deep, ...]


class _Together(Later):
    """A study, once all of its images are here."""

    __slots__ = ("make", "requests")

    def __init__(self, make: Callable[[dict[int, Requested]], Study | Failure], requests: dict[int, Requested]) -> None:
        self.make, self.requests = make, requests

    def result(self) -> Study | Failure:
        return self.make(self.requests)

    def done(self) -> bool:
        return all(here(request) for request in self.requests.values())


class StudyFetcher:
    """See `Fetcher`, whose methods these are; `sample` is the number of a study.

    Args:
        studies: the samples.
        recipe, store, **options: as for `Fetcher`.

    Attributes:
        images: fetches images by their own numbers.
    """

    def __init__(self, studies: Studies, recipe: Recipe, store: cache.Store, **options: Any) -> None:
        self._members = studies.members
        self.images = self._fetcher = Fetcher(images_of(studies), recipe, store, **{**options, "encoded": False})
        dtype = np.uint16 if recipe.integer_dtype.itemsize == 2 else np.uint8
        self._blank: Pixels = np.zeros((recipe.channels, *recipe.base), dtype)
        self._nowhere = np.array(recipe.base, np.int64)
        self.notices, self.ahead = self._fetcher.notices, self._fetcher.ahead

    def request(self, sample: int) -> Study | Failure | Later:
        """Return the study's images, or what waits for them."""
        return self.requests([sample])[0]

    def requests(self, samples: Sequence[int]) -> list[Study | Failure | Later]:
        """Return what `request` returns for each study; their images are looked up together."""
        places = [self._members[sample].tolist() for sample in samples]
        asked = iter(self._fetcher.requests([image for members in places for image in members if image >= 0]))
        found: list[Study | Failure | Later] = []
        for members in places:
            requests = {place: next(asked) for place, image in enumerate(members) if image >= 0}
            waits = any(isinstance(request, (Future, Later)) for request in requests.values())
            found.append(_Together(self._together, requests) if waits else self._together(requests))
        return found

    def decoded(self, sample: int) -> Study | Failure:
        """Return the study's images; waits for them."""
        found: Study | Failure = ready(self.request(sample))  # type: ignore[arg-type, assignment]
        return found

    def _together(self, requests: dict[int, Requested]) -> Study | Failure:
        images: list[Pixels | Deep] = [self._blank] * self._members.shape[1]
        items = {place: ready(request) for place, request in requests.items()}  # also those beside a bad one
        for place, item in items.items():
            if isinstance(item, Failure):
                return item
            if isinstance(item, Encoded):
                raise ConfigError("the images of studies are never left to a backend")
            images[place] = item
        return Study(tuple(images))

    def extents(self, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
        """Return height and width of the sources of N studies' images, int64[N * V, 2]."""
        members = self._members[samples].reshape(-1)
        found = self._fetcher.extents(np.maximum(members, 0))
        return None if found is None else np.where((members >= 0)[:, None], found, self._nowhere)

    def made(self, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return uint8[N, V, 32], what `Fetcher.made` says of each image of N studies, 0 where there is none."""
        members = self._members[samples]
        made = self._fetcher.made(np.maximum(members, 0).reshape(-1)).reshape(*members.shape, -1)
        return made * (members >= 0)[:, :, None].astype(np.uint8)

    def side_by_side(self, function: Callable[..., Any], *values: Iterable[Any]) -> list[Any]:
        """See `Fetcher.side_by_side`."""
        return self._fetcher.side_by_side(function, *values)

    def is_cached(self, sample: int) -> bool:
        """Whether the store holds all of the study's images."""
        return all(self._fetcher.is_cached(image) for image in self._members[sample].tolist() if image >= 0)

    def counts(self) -> dict[str, Any]:
        """Return what `Fetcher.counts` says, of images."""
        return self._fetcher.counts()

    def failures(self) -> dict[int, DaliPipesError]:
        """Return what `Fetcher.failures` says, by the numbers of images in `Studies.images`."""
        return self._fetcher.failures()

    def close(self) -> None:
        """See `Fetcher.close`."""
        self._fetcher.close()


class StudyMasks(Masks):
    """The masks of studies' images: as `Masks`, but a base mask is uint8[V, H, W], 0 where there is no image.

    Args:
        studies: the samples.
        *arguments, **more: as for `Masks`.
    """

    def __init__(self, studies: Studies, *arguments: Any, **more: Any) -> None:
        super().__init__(images_of(studies), *arguments, **more)
        self._members = studies.members

    def request(self, sample: int) -> Any:
        """Return what `Masks.request` does for each image of the study, by its place."""
        return {place: super(StudyMasks, self).request(image) for place, image in self._images(sample)}

    def requests(self, samples: Sequence[int]) -> list[Any]:
        """Return what `request` returns for each study; their masks are looked up together."""
        places = [self._images(sample) for sample in samples]
        asked = iter(super().requests([image for images in places for _, image in images]))
        return [{place: next(asked) for place, _ in images} for images in places]

    def is_cached(self, sample: int) -> bool:
        """Whether the store holds all of the study's base masks."""
        return all(super(StudyMasks, self).is_cached(image) for _, image in self._images(sample))

    def checked(self, sample: int, requested: Any, images: Any) -> Pixels | Failure:
        """See `Masks.checked`; the first mask that cannot be had is the study's failure."""
        planes = [self._blank[0]] * self._members.shape[1]
        for place, image in self._images(sample):
            mask = super().checked(image, requested[place], images.images)
            if isinstance(mask, Failure):
                return mask
            planes[place] = mask[0]
        return np.stack(planes)

    def _images(self, sample: int) -> list[tuple[int, int]]:
        """Return (place, image) of the study's images."""
        return [(place, image) for place, image in enumerate(self._members[sample].tolist()) if image >= 0]


def images_of(manifest: Manifest) -> Manifest:
    """Return the manifest of single images: that of the studies, or itself."""
    return manifest.images if isinstance(manifest, Studies) and manifest.images is not None else manifest


def has_masks(manifest: Manifest) -> bool:
    """Whether its images have masks."""
    return MASK in images_of(manifest).columns


def masks_of(manifest: Manifest, *arguments: Any, **more: Any) -> Masks | None:
    """Return the masks of a manifest, `Masks(manifest, ...)`, or None where it has no column of them."""
    kind = StudyMasks if isinstance(manifest, Studies) else Masks
    return kind(manifest, *arguments, **more) if has_masks(manifest) else None  # type: ignore[arg-type]


def fetcher_of(manifest: Manifest, recipe: Recipe, store: cache.Store, **options: Any) -> Any:
    """Return a `Fetcher`, or for studies a `StudyFetcher`."""
    kind: Any = StudyFetcher if isinstance(manifest, Studies) else Fetcher
    return kind(manifest, recipe, store, **options)


def outputs_of(manifest: Manifest, recipe: Recipe) -> tuple[int, ...]:
    """Return how many images a sample gives: () for one, (K,) for K views, (V,) for studies, (K, V) for both."""
    views = (recipe.views,) * (recipe.views > 1)
    return (*views, manifest.members.shape[1]) if isinstance(manifest, Studies) else views


def images_in(item: Any) -> tuple[Any, ...]:
    """Return the base images that a fetcher gave for a sample: those of a study, else the one."""
    return item.images if isinstance(item, Study) else (item,)


def for_outputs(draws: Draws, source: npt.NDArray[np.int64] | None, manifest: Manifest, views: int) -> Draws:
    """Return the draws of all outputs: views of a sample next to each other, within each the images of a study.

    Args:
        draws: of N samples with K views each. All images of a study are changed alike.
        source: what the fetcher's `extents` returned for the samples.
        manifest: the samples.
        views: K.
    """
    width = manifest.members.shape[1] if isinstance(manifest, Studies) else 1
    drawn = repeated(draws, width) if isinstance(manifest, Studies) else draws
    if source is None:
        return drawn
    return replace(drawn, source=source.reshape(-1, 1, width, 2).repeat(views, axis=1).reshape(-1, 2))
