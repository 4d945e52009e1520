"""One epoch's work: request samples ahead, settle what cannot be decoded, run the backend."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from dali_pipes.backends import Backend
from dali_pipes.batch import Batch
from dali_pipes.draws import Draws, draw
from dali_pipes.errors import BackendError
from dali_pipes.fetch import Encoded, Failure, Fetcher, Item, Pixels, ready, stand_in
from dali_pipes.manifest import Manifest
from dali_pipes.plans import Plans
from dali_pipes.prefetch import lookahead
from dali_pipes.recipe import Recipe

log = logging.getLogger(__name__)

Samples = npt.NDArray[np.int64]
Good = list[tuple[int, Pixels | Encoded]]
"""(sample, item): what a batch will hold."""

ON_ERROR = ("raise", "skip", "substitute")
"""What may happen to a sample that cannot be decoded."""

SUBSTITUTE_TRIES = 32
"""How many samples in a row "substitute" tries before it gives up."""


_NOBODY = np.empty(0, np.int64)


def take_over(batch: Batch, made: torch.cuda.Event | None) -> Batch:
    """Makes the calling thread's CUDA stream wait until a batch is complete, and keeps its memory for that long.

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
        order: int64[M], this rank's samples in the order of the epoch.
        matrix: whether batches tell where source pixels went.
    """

    manifest: Manifest
    recipe: Recipe
    fetcher: Fetcher
    backend: Backend
    on_error: str
    seed: int
    number: int
    order: Samples
    matrix: bool = False

    def batches(self, plan: list[Samples], position: int, ahead: int) -> Iterator[tuple[int, Batch | None]]:
        """(samples taken, batch) for each batch planned; the batch is None where all of its samples were skipped.

        Args:
            plan: the samples of each batch, consecutive parts of `order` from `position` on.
            position: where in `order` the plan begins.
            ahead: batches requested before the one in work, early enough that the workers never run dry between two.
        """
        requests = ((samples, [self.fetcher.request(sample) for sample in samples.tolist()]) for samples in plan)
        for samples, requested in lookahead(requests, ahead):
            items = [ready(item) for item in requested]
            following = np.arange(position + 1, position + len(samples) + SUBSTITUTE_TRIES) % len(self.order)
            yield len(samples), self.batch(samples, items, self.order[following])
            position += len(samples)

    def batch(self, samples: Samples, items: list[Item], successors: Samples = _NOBODY) -> Batch | None:
        """The batch of samples that are here, or None where all were skipped; `successors` may substitute for them."""
        good = self._settle(samples, items, successors)
        try:
            image = self._run(good)
        except BackendError as error:
            if not any(isinstance(item, Encoded) for _, item in good):
                raise
            # A JPEG that the backend could not take: decode these samples here, each under the policy for bad samples.
            log.warning("a batch is decoded again outside of the backend, which could not: %s", error)
            samples = np.array([sample for sample, _ in good])
            again = [self.fetcher.decoded(sample) if isinstance(item, Encoded) else item for sample, item in good]
            good = self._settle(samples, list(again), successors)
            image = self._run(good)
        if image is None:
            return None
        index = np.array([sample for sample, _ in good], np.int64)
        label = torch.from_numpy(self.manifest.labels[index])
        names = [self.manifest.ids[i] for i in index.tolist()]
        batch = Batch(image, label, torch.from_numpy(index), names, matrix=self._matrix(index))
        there: Batch = tree_map_only(torch.Tensor, self._beside, batch)  # all of its tensors on one device
        return there

    def _beside(self, values: torch.Tensor) -> torch.Tensor:
        return values if values.is_cuda else self.backend.beside(values)

    def _run(self, good: Good) -> torch.Tensor | None:
        if not good:
            return None
        samples = np.array([sample for sample, _ in good], np.int64)
        views = self.recipe.views
        image = self.backend.run([item for _, item in good for _ in range(views)], self._draws(samples))
        return image if views == 1 else image.unflatten(0, (len(good), views))

    def _draws(self, samples: Samples) -> Draws:
        drawn = draw(self.recipe.augment, self.seed, self.number, samples, self.recipe.views)
        source = self.fetcher.extents(samples)
        return drawn if source is None else replace(drawn, source=source.repeat(self.recipe.views, axis=0))

    def _matrix(self, samples: Samples) -> torch.Tensor | None:
        if not self.matrix:
            return None
        found = torch.from_numpy(Plans(self.recipe, self._draws(samples)).matrix)
        return found if self.recipe.views == 1 else found.unflatten(0, (len(samples), self.recipe.views))

    def _settle(self, samples: Samples, items: list[Item], successors: Samples) -> Good:
        """What the batch will hold, after the policy for samples that cannot be decoded."""
        good: Good = []
        for place, (sample, item) in enumerate(zip(samples.tolist(), items)):
            if not isinstance(item, Failure):
                good.append((sample, item))
            elif self.on_error == "raise":
                raise item.error
            elif self.on_error == "substitute":
                following = successors[place : place + SUBSTITUTE_TRIES].tolist()
                good.append(stand_in(self.fetcher, item, following))
        return good
