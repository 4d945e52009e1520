"""One epoch's work: request samples ahead, settle what cannot be decoded, run the backend."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from dali_pipes.backends import Backend, Keeper, Named, Overlapping
from dali_pipes.draws import Draws, draw
from dali_pipes.errors import BackendError
from dali_pipes.fetch.fetcher import Deep, Encoded, Failure, Fetcher, Item, Pixels, Requested, here, ready
from dali_pipes.fetch.made import Digests
from dali_pipes.fetch.masks import Masks
from dali_pipes.fetch.study_fetch import Study, for_outputs, images_in, outputs_of
from dali_pipes.fetch.substitute import stand_in
from dali_pipes.finish.plans import Plans
from dali_pipes.loader.batch import Batch
from dali_pipes.loader.losses import Losses
from dali_pipes.loader.prefetch import lookahead
from dali_pipes.manifest.manifest import Manifest
from dali_pipes.manifest.studies import Studies
from dali_pipes.recipe import Recipe

log = logging.getLogger(__name__)

Samples = npt.NDArray[np.int64]
Begun = Callable[[], Batch | None]
"""Waits for a batch that was begun, and returns it; None where all of its samples were skipped."""

ON_ERROR = ("raise", "skip", "substitute")
"""What may happen to a sample that cannot be decoded."""

SUBSTITUTE_TRIES = 32
"""How many samples in a row "substitute" tries before it gives up."""


class Good(NamedTuple):
    """What a batch will hold: int64[N] samples, an item of each, and bool[N], whether it is no repetition."""

    samples: Samples
    items: list[Pixels | Encoded | Named | Study | Deep]
    first: npt.NDArray[np.bool_]


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
        firsts: bool[N], False where the order has a repetition that only fills up; None where there are none.
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
    firsts: npt.NDArray[np.bool_] | None = None

    def batches(self, plan: list[Samples], ahead: int) -> Generator[Batch | None, None, None]:
        """Yield a batch for each of the plan, None where all of its samples were skipped.

        A backend that can computes a batch while the next one is put together, as long as the images of that one are
        here. Batches and errors come in the order of the plan.

        Args:
            plan: places in `order` of each batch; those from N on stand for repetitions, from the start again.
            ahead: batches requested before the one in work, early enough that the workers never run dry between two.
        """
        requests = ((places, self._request(places), self._request_masks(places)) for places in plan)
        begun: deque[Begun] = deque()
        most = 1 if self._overlapping is None else self._overlapping.at_once
        try:
            for places, requested, masks in lookahead(requests, ahead):
                if not (_here(requested) and _here(masks)):
                    yield from _finished(begun)  # what is complete does not wait for files
                try:
                    begun.append(self.begin(places, _ready(requested), masks))
                except Exception:
                    yield from _finished(begun)
                    raise
                if len(begun) >= most:
                    yield begun.popleft()()
            yield from _finished(begun)
        finally:
            for finish in begun:  # the backend is left with nothing in work
                with contextlib.suppress(Exception):
                    finish()

    def _request(self, places: Samples) -> list[Named | Requested]:
        samples, keeper = self._samples(places).tolist(), self._keeper
        wanted = samples if keeper is None else [sample for sample in samples if not keeper.holds(sample)]
        found = self.fetcher.requests(wanted)
        if len(wanted) == len(samples):
            return [*found]
        there = dict(zip(wanted, found))
        return [there[sample] if sample in there else Named(sample, None) for sample in samples]

    def _request_masks(self, places: Samples) -> list[Requested]:
        return [] if self.masks is None else self.masks.requests(self._samples(places).tolist())

    @cached_property
    def _keeper(self) -> Keeper | None:
        return self.backend if isinstance(self.backend, Keeper) and self.backend.keeps else None

    @cached_property
    def _overlapping(self) -> Overlapping | None:
        return self.backend if isinstance(self.backend, Overlapping) and self.backend.at_once > 1 else None

    def _samples(self, places: Samples) -> Samples:
        return self.order[places % max(1, len(self.order))]

    def batch(
        self, places: Samples, items: Sequence[Item | Named], requested: Sequence[Requested] = ()
    ) -> Batch | None:
        """Return the batch of samples that are here, or None where all were skipped; arguments as for `begin`."""
        return self.begin(places, items, requested)()

    def begin(self, places: Samples, items: Sequence[Item | Named], requested: Sequence[Requested] = ()) -> Begun:
        """Begin the batch of samples that are here; return what waits for it.

        Args:
            places: their places in `order`; the samples after them may substitute for them.
            items: what the fetcher gave for each.
            requested: their masks, where `masks` gives any.
        """
        held: dict[int, Pixels] = {}
        return self._begin(places, self._with_masks(places, items, requested, held), held)

    def _begin(self, places: Samples, items: Sequence[Item | Named], held: dict[int, Pixels]) -> Begun:
        good = self._settle(places, items)
        if not len(good.samples):
            return lambda: None
        draws = self._draws(good.samples)
        batch = self._around(good, held, draws)
        wait = self._start(good, draws)

        def finish() -> Batch | None:
            try:
                image = wait()
            except BackendError as error:
                if not any(isinstance(item, Encoded) for item in good.items):
                    raise
                # A JPEG that the backend could not take: decode these samples here, each under the policy for bad ones.
                log.info("a batch is decoded again outside of the backend, which could not: %s", error)
                again = [self._decoded(place, item) for place, item in zip(places.tolist(), items)]
                return self._begin(places, again, held)()
            return batch(self._stacked(image, len(good.samples)))

        return finish

    def _around(self, good: Good, held: dict[int, Pixels], draws: Draws) -> Callable[[torch.Tensor], Batch]:
        """Return what makes the batch of an image, with all that belongs to it."""
        index, manifest = good.samples, self.manifest
        made: npt.NDArray[np.uint8] = self.fetcher.made(index)
        where = partial(_matrix, self.recipe, draws, (len(index), *self._outputs))
        make = partial(
            Batch,
            label=torch.from_numpy(manifest.labels[index]),
            index=torch.from_numpy(index),
            id=manifest.ids.some(index),
            valid=torch.from_numpy(good.first),
            matrix=where() if self.matrix else None,
            digest=Digests(made, self.recipe, self.backend.name, draws),
            target={name: torch.from_numpy(values[index]) for name, values in manifest.targets.items()} or None,
            mask=self._mask(index, held, draws),
            present=torch.from_numpy(manifest.present[index]) if isinstance(manifest, Studies) else None,
        )
        if self.matrix or draws.source is None:
            return lambda image: self._beside(make(image))
        return lambda image: self._beside(make(image)).locating(where)

    def _beside(self, batch: Batch) -> Batch:
        """Return the batch with all of its tensors on one device."""
        if batch.image.device.type == "cpu":
            return batch
        there: Batch = tree_map_only(torch.Tensor, lambda t: t if t.is_cuda else self.backend.beside(t), batch)
        return there

    def _start(self, good: Good, draws: Draws) -> Callable[[], torch.Tensor]:
        """Begin the image of a batch; return what waits for it."""
        items = self._images(good, draws)
        if self._overlapping is not None:
            return self._overlapping.begin(items, draws)
        return lambda: self.backend.run(items, draws)

    def _images(self, good: Good, draws: Draws) -> list[Any]:
        """Return a base image for each output, view by view."""
        if self._as_they_come:
            return good.items
        pairs: list[tuple[int, Any]] = [
            (-1 if isinstance(every, Study) else sample, item)
            for sample, every in zip(good.samples.tolist(), good.items)
            for item in images_in(every) * self.recipe.views
        ]
        if self.recipe.jitters:
            moves = (draws.window_center.tolist(), draws.window_width.tolist())
            pairs = [(-1, image) for image in self.fetcher.side_by_side(_windowed, [item for _, item in pairs], *moves)]
        if self._keeper is None:
            return [item for _, item in pairs]
        return [Named(sample, item) if isinstance(item, np.ndarray) else item for sample, item in pairs]

    @cached_property
    def _as_they_come(self) -> bool:
        """Whether the fetcher's items are what the backend takes."""
        return not self._outputs and not self.recipe.jitters and self._keeper is None

    @cached_property
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
        requested: Sequence[Requested],
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

    def _first(self, places: Samples) -> npt.NDArray[np.bool_]:
        """Return bool[N], whether the samples at places of the order are no repetitions."""
        once: npt.NDArray[np.bool_] = places < len(self.order)
        return once if self.firsts is None else once & self.firsts[places % max(1, len(self.order))]

    def _settle(self, places: Samples, items: Sequence[Item | Named]) -> Good:
        """Return what the batch will hold, after the policy for samples that cannot be decoded."""
        samples, first = self._samples(places), self._first(places)
        if Failure not in set(map(type, items)):
            return Good(samples, list(items), first)  # type: ignore[arg-type]
        good: list[tuple[int, Any, bool]] = []
        for place, sample, item, once in zip(places.tolist(), samples.tolist(), items, first.tolist()):
            if not isinstance(item, Failure):
                good.append((sample, item, once))
            elif self.on_error == "raise":
                raise item.error
            elif self.on_error == "substitute":
                self.losses.note(place, item, "another sample takes its place")
                following = place + 1 + np.arange(min(SUBSTITUTE_TRIES, len(self.order) - 1))
                good.append((*stand_in(self._whole, item, self._samples(following).tolist()), False))
            else:
                self.losses.note(place, item, "it is left out")
        taken, images, firsts = zip(*good) if good else ((), (), ())
        return Good(np.array(taken, np.int64), list(images), np.array(firsts, np.bool_))


_AT_ONCE = {np.ndarray}
"""The types of what a warm batch is made of: looking at them is quicker than asking each item."""


def _here(requested: Sequence[Named | Requested]) -> bool:
    """Return whether `_ready` would not wait."""
    if set(map(type, requested)) == _AT_ONCE:
        return True
    return all(isinstance(item, Named) or here(item) for item in requested)


def _ready(requested: Sequence[Named | Requested]) -> Sequence[Named | Item]:
    """Return what was requested; wait for it."""
    if set(map(type, requested)) == _AT_ONCE:
        return requested  # type: ignore[return-value]
    return [item if isinstance(item, Named) else ready(item) for item in requested]


def _finished(begun: deque[Begun]) -> Iterator[Batch | None]:
    """Yield the batches that were begun, in their order; nothing is left of them."""
    while begun:
        yield begun.popleft()()


def _matrix(recipe: Recipe, draws: Draws, shape: tuple[int, ...]) -> torch.Tensor:
    """Return `Batch.matrix` of the outputs of a batch, [*shape, 2, 3]."""
    return torch.from_numpy(Plans(recipe, draws).matrix).reshape(*shape, 2, 3)


def _windowed(item: Any, center: float, width: float) -> Any:
    return item.windowed(center, width) if isinstance(item, Deep) else item
