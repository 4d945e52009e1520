"""One epoch's work: request samples ahead, settle what cannot be decoded, run the backend."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from dali_pipes.backends import Backend, Keeper, Named
from dali_pipes.draws import Draws, draw
from dali_pipes.errors import BackendError, DecodeError
from dali_pipes.fetch.fetcher import Deep, Encoded, Failure, Fetcher, Item, Pixels, ready
from dali_pipes.fetch.made import digests
from dali_pipes.fetch.masks import Masks
from dali_pipes.fetch.notices import Notices
from dali_pipes.fetch.study_fetch import Study, for_outputs, images_in, outputs_of
from dali_pipes.fetch.substitute import stand_in
from dali_pipes.finish.plans import Plans
from dali_pipes.loader.batch import Batch
from dali_pipes.loader.prefetch import lookahead
from dali_pipes.manifest.manifest import Manifest
from dali_pipes.manifest.studies import Studies
from dali_pipes.recipe import Recipe

log = logging.getLogger(__name__)

Samples = npt.NDArray[np.int64]
Good = list[tuple[int, Pixels | Encoded | Named | Study | Deep, bool]]
"""(sample, item, whether it is no repetition): what a batch will hold."""

ON_ERROR = ("raise", "skip", "substitute")
"""What may happen to a sample that cannot be decoded."""

SUBSTITUTE_TRIES = 32
"""How many samples in a row "substitute" tries before it gives up."""


class Losses:
    """Counts the samples of an epoch that could not be decoded, and ends the epoch where they are too many.

    Args:
        notices: where the first of them are named.
        allowed: how many there may be; a float is a share of `size`; None for any number.
        size: samples of the epoch on this rank.
    """

    def __init__(self, notices: Notices | None = None, allowed: float | None = None, size: int = 0) -> None:
        self.last: Failure | None = None
        self._places: set[int] = set()
        self._notices = notices or Notices()
        self._limit = math.floor(allowed * size + 1e-9) if isinstance(allowed, float) else allowed

    def note(self, place: int, failure: Failure, what_then: str) -> None:
        """Count the sample at a place of the order, once.

        Raises:
            DecodeError: there are more than the limit allows.
        """
        self._places.add(place)
        self.last = failure
        self._notices.lost(failure.error, what_then)
        if self._limit is not None and len(self._places) > self._limit:
            raise DecodeError(
                f"{len(self._places)} samples of this epoch could not be decoded, and max_failures allows "
                f"{self._limit}; the last: {failure.error}. failures() names all of them. Mend the files or the "
                "manifest's root, or allow more."
            )

    def check(self, manifest: Manifest) -> None:
        """Say why an epoch gave nothing, if samples were lost.

        Raises:
            DecodeError: at least one was.
        """
        if self.last is not None:
            raise DecodeError(
                f"none of the {len(self._places)} samples of this epoch could be decoded; the last: {self.last.error}. "
                f"Is the manifest's root right ({manifest.place})?"
            )


def take_over(batch: Batch, made: torch.cuda.Event | None) -> Batch:
    """Make the calling thread's CUDA stream wait until a batch is complete, and keep its memory for that long.

    Args:
        batch: as the backend made it, in a stream of its own.
        made: what `Backend.mark` said then.

    Returns:
        The batch itself.
    """
    if made is not None:
        stream = torch.cuda.current_stream(batch.image.device)
        stream.wait_event(made)
        for values in tree_leaves(batch):
            values.record_stream(stream)  # its memory may be used again only after this stream's work
    return batch


@dataclass(frozen=True)
class Epoch:
    """Computes the batches of one epoch on one rank.

    Attributes:
        manifest, recipe: what is loaded, and how.
        fetcher: gives base images.
        backend: computes batches; used by nobody else meanwhile.
        on_error: one of `ON_ERROR`.
        seed, number: decide the draws.
        order: int64[N], the samples in the order of the epoch, for all ranks.
        losses: counts what could not be decoded.
        matrix: whether batches hold where source pixels went; else it is computed where somebody asks for it.
        masks: gives base masks, where the manifest has a column of them.
    """

    manifest: Manifest
    recipe: Recipe
    fetcher: Fetcher
    backend: Backend
    on_error: str
    seed: int
    number: int
    order: Samples
    losses: Losses = field(default_factory=Losses)
    matrix: bool = False
    masks: Masks | None = None

    def batches(self, plan: list[Samples], ahead: int) -> Iterator[Batch | None]:
        """Yield a batch for each of the plan, None where all of its samples were skipped.

        Args:
            plan: places in `order` of each batch; those from N on stand for repetitions, from the start again.
            ahead: batches requested before the one in work, early enough that the workers never run dry between two.
        """
        requests = ((places, self._request(places), self._request_masks(places)) for places in plan)
        for places, requested, masks in lookahead(requests, ahead):
            items = [item if isinstance(item, Named) else ready(item) for item in requested]
            yield self.batch(places, items, masks)

    def _request(self, places: Samples) -> list[Item | Named | Future[Item]]:
        samples, keeper = self._samples(places).tolist(), self._keeper
        if keeper is None:
            return [self.fetcher.request(sample) for sample in samples]
        return [Named(sample, None) if keeper.holds(sample) else self.fetcher.request(sample) for sample in samples]

    def _request_masks(self, places: Samples) -> list[Item | Future[Item]]:
        return [] if self.masks is None else [self.masks.request(sample) for sample in self._samples(places).tolist()]

    @property
    def _keeper(self) -> Keeper | None:
        return self.backend if isinstance(self.backend, Keeper) and self.backend.keeps else None

    def _samples(self, places: Samples) -> Samples:
        return self.order[places % max(1, len(self.order))]

    def batch(
        self, places: Samples, items: Sequence[Item | Named], requested: Sequence[Item | Future[Item]] = ()
    ) -> Batch | None:
        """Return the batch of samples that are here, or None where all were skipped.

        Args:
            places: their places in `order`; the samples after them may substitute for them.
            items: what the fetcher gave for each.
            requested: their masks, where `masks` gives any.
        """
        held: dict[int, Pixels] = {}
        items = self._with_masks(places, items, requested, held)
        good = self._settle(places, items)
        try:
            image, draws = self._run(good)
        except BackendError as error:
            if not any(isinstance(item, Encoded) for _, item, _ in good):
                raise
            # A JPEG that the backend could not take: decode these samples here, each under the policy for bad samples.
            log.info("a batch is decoded again outside of the backend, which could not: %s", error)
            again = [self._decoded(place, item) for place, item in zip(places.tolist(), items)]
            good = self._settle(places, again)
            image, draws = self._run(good)
        if image is None or draws is None:
            return None
        index = np.array([sample for sample, _, _ in good], np.int64)
        label = torch.from_numpy(self.manifest.labels[index])
        valid = torch.tensor([first for _, _, first in good])
        names = [self.manifest.ids[i] for i in index.tolist()]
        digest = self._digest(index, draws)
        target = {name: torch.from_numpy(values[index]) for name, values in self.manifest.targets.items()} or None
        mask = self._mask(index, held, draws)
        present = torch.from_numpy(self.manifest.present[index]) if isinstance(self.manifest, Studies) else None
        where = functools.partial(_matrix, self.recipe, draws, (len(index), *self._outputs))
        matrix = where() if self.matrix else None
        batch = Batch(image, label, torch.from_numpy(index), names, valid, matrix, digest, target, mask, present)
        there: Batch = tree_map_only(torch.Tensor, self._beside, batch)  # all of its tensors on one device
        return there if self.matrix or draws.source is None else there.locating(where)

    def _digest(self, samples: Samples, draws: Draws) -> list[bytes]:
        made = self.fetcher.made(samples)
        return digests(made, self.recipe, self.backend.name, draws)

    def _beside(self, values: torch.Tensor) -> torch.Tensor:
        return values if values.is_cuda else self.backend.beside(values)

    def _run(self, good: Good) -> tuple[torch.Tensor | None, Draws | None]:
        if not good:
            return None, None
        samples = np.array([sample for sample, _, _ in good], np.int64)
        items: list[tuple[int, Any]] = [
            (-1 if isinstance(every, Study) else sample, item)
            for sample, every, _ in good
            for item in images_in(every) * self.recipe.views
        ]
        draws = self._draws(samples)
        if self.recipe.jitters:
            moves = (draws.window_center.tolist(), draws.window_width.tolist())
            items = [(-1, image) for image in self.fetcher.side_by_side(_windowed, [item for _, item in items], *moves)]
        if self._keeper is not None:
            items = [(sample, Named(sample, item) if isinstance(item, np.ndarray) else item) for sample, item in items]
        return self._stacked(self.backend.run([item for _, item in items], draws), len(good)), draws

    @functools.cached_property
    def _outputs(self) -> tuple[int, ...]:
        return outputs_of(self.manifest, self.recipe)

    def _stacked(self, values: torch.Tensor, count: int) -> torch.Tensor:
        """One row for each sample: [N, K, ...] of views, [N, V, ...] of studies, [N, K, V, ...] of both."""
        return values.unflatten(0, (count, *self._outputs)) if self._outputs else values

    def _draws(self, samples: Samples) -> Draws:
        drawn = draw(self.recipe.augment, self.seed, self.number, samples, self.recipe.views)
        return for_outputs(drawn, self.fetcher.extents(samples), self.manifest, self.recipe.views)

    def _with_masks(
        self,
        places: Samples,
        items: Sequence[Item | Named],
        requested: Sequence[Item | Future[Item]],
        held: dict[int, Pixels],
    ) -> Sequence[Item | Named]:
        """Return the items, or why their masks cannot be had; add the base masks of the others to `held`."""
        if self.masks is None:
            return items
        checked = list(items)
        for i, (sample, item) in enumerate(zip(self._samples(places).tolist(), items)):
            if not isinstance(item, Failure):
                mask = self.masks.checked(sample, requested[i], self.fetcher)
                if isinstance(mask, Failure):
                    checked[i] = mask
                else:
                    held[sample] = mask
        return checked

    def _mask(self, samples: Samples, held: dict[int, Pixels], draws: Draws) -> torch.Tensor | None:
        if self.masks is None:
            return None
        for sample in samples.tolist():
            if sample not in held:  # it substitutes for another
                mask = self.masks.checked(sample, self.masks.request(sample), self.fetcher)
                if isinstance(mask, Failure):
                    raise mask.error
                held[sample] = mask
        bases = [held[sample] for sample in samples.tolist()]
        done = torch.from_numpy(self.masks.finish(bases, Plans(self.recipe, draws).placed))
        return self._stacked(done, len(samples))

    def _whole(self, sample: int) -> Pixels | Failure:
        """Return a sample's base image, decoded, or why it or its mask cannot be had."""
        return self.fetcher.decoded(sample) if self.masks is None else self.masks.with_image(sample, self.fetcher)

    def _decoded(self, place: int, item: Item | Named) -> Item | Named:
        sample = int(self.order[place % len(self.order)])
        return self.fetcher.decoded(sample) if isinstance(item, Encoded) else item

    def _settle(self, places: Samples, items: Sequence[Item | Named]) -> Good:
        """Return what the batch will hold, after the policy for samples that cannot be decoded."""
        good: Good = []
        for place, sample, item in zip(places.tolist(), self._samples(places).tolist(), items):
            if not isinstance(item, Failure):
                good.append((sample, item, place < len(self.order)))
            elif self.on_error == "raise":
                raise item.error
            elif self.on_error == "substitute":
                self.losses.note(place, item, "another sample takes its place")
                following = place + 1 + np.arange(min(SUBSTITUTE_TRIES, len(self.order) - 1))
                good.append((*stand_in(self._whole, item, self._samples(following).tolist()), False))
            else:
                self.losses.note(place, item, "it is left out")
        return good


def _matrix(recipe: Recipe, draws: Draws, shape: tuple[int, ...]) -> torch.Tensor:
    """Return `Batch.matrix` of the outputs of a batch, [*shape, 2, 3]."""
    return torch.from_numpy(Plans(recipe, draws).matrix).reshape(*shape, 2, 3)


def _windowed(item: Any, center: float, width: float) -> Any:
    return item.windowed(center, width) if isinstance(item, Deep) else item
