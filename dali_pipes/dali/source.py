"""A batch-mode source for `fn.external_source`, over the samples and the cache of a `Loader`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from dali_pipes.backends.base import Named
from dali_pipes.backends.graphs import Graph
from dali_pipes.draws import Draws
from dali_pipes.errors import BackendError, ConfigError, DecodeError
from dali_pipes.fetch.fetcher import Encoded
from dali_pipes.fetch.study_fetch import has_masks
from dali_pipes.finish.finish import Finish
from dali_pipes.loader.batch import Batch
from dali_pipes.loader.loader import Loader
from dali_pipes.manifest.manifest import Manifest
from dali_pipes.manifest.studies import Studies
from dali_pipes.recipe import Recipe

Array = npt.NDArray[Any]


class BatchInfo(Protocol):
    """What DALI hands to a source under `batch_info=True`.

    Attributes:
        epoch_idx: how often the pipeline was reset.
        iteration: the batch's number in its epoch.
    """

    @property
    def epoch_idx(self) -> int:
        """How often the pipeline was reset."""
        ...

    @property
    def iteration(self) -> int:
        """The batch's number in its epoch."""
        ...


class Source:
    """Give the batches that a `Loader` would, up to the base images; the rest is the graph's.

    A call is a pure function of (epoch, iteration): called again, it gives the same, and after another it starts anew
    there. Calls in order are fast: the samples of the next batches are asked for ahead, on threads. The last batch of
    an epoch holds what is left, unless `drop_last`; then comes `StopIteration`, as DALI expects.

    `nodes` makes the call of `fn.external_source`; by hand, for a recipe without `augment`:

        images, label, index = fn.external_source(
            source=source, batch=True, batch_info=True, num_outputs=len(source.names), layout=source.layouts
        )

    Args:
        manifest: the samples.
        recipe: decides the base images, and what is drawn at random.
        batch_size: samples a batch; the pipeline's.
        epoch: the number of the epoch that DALI counts as its first, as for `Loader.set_epoch`.
        iteration: batches to leave out of that first epoch, to resume in its middle.
        keep: for how many calls the arrays given are kept alive; at least the pipeline's prefetch depth and 2 more.
        **options: any of `Loader`'s, except `backend` and `prefetch`.

    Attributes:
        names: what the outputs are, in order: "image", "label", "index"; "mask", where the manifest has masks, moved
            and cut as its image will be; "target", where it has targets; "matrix", with `matrix=True`; and what
            `finish` needs besides.
        layouts: DALI's layout of each of them.

    Raises:
        ConfigError: an argument that cannot work.
    """

    def __init__(
        self,
        manifest: Manifest,
        recipe: Recipe,
        *,
        batch_size: int,
        epoch: int = 0,
        iteration: int = 0,
        keep: int = 8,
        **options: Any,
    ) -> None:
        if wrong := sorted(options.keys() & {"backend", "prefetch"}):
            raise ConfigError(f"Source({wrong[0]}=...): the pipeline decides that; give the other options of Loader.")
        if recipe.views > 1:
            raise ConfigError(
                f"Source(views={recipe.views}): a pipeline's outputs have one entry a sample; use Loader."
            )
        if isinstance(manifest, Studies):
            raise ConfigError(
                "Source: a study is several images, and a pipeline's outputs have one entry a sample; use Loader."
            )
        for name, value, least in (("iteration", iteration, 0), ("keep", keep, 1)):
            if type(value) is not int or value < least:
                raise ConfigError(f"Source({name}={value!r}): give a whole number of at least {least}.")
        self._loader = Loader(manifest, recipe, batch_size=batch_size, backend="torch", **options)
        self._items = _Items(recipe, self._loader.batch_size)
        self._first = (int(epoch), iteration)
        self._next: tuple[int, int] | None = None
        self._batches: Iterator[Batch | None] = iter(())
        self._kept: deque[Any] = deque(maxlen=keep)
        beside = {"mask": has_masks(manifest), "target": bool(manifest.targets), "matrix": bool(options.get("matrix"))}
        self._beside = tuple(name for name, there in beside.items() if there)
        self.names = ("image", "label", "index", *self._beside, *self._items.changes)
        self.layouts = [_LAYOUTS.get(name, "") for name in self.names]

    def __len__(self) -> int:
        """Return the batches of a whole epoch."""
        return len(self._loader)

    def __call__(self, info: BatchInfo) -> tuple[Any, ...]:
        """Return one batch of N samples.

        Args:
            info: DALI's `BatchInfo`.

        Returns:
            By `names`: N base images, a list of uint8 or uint16 [C, H, W]; label int64[N]; index int64[N]; mask
            uint8[N, H, W] of the output's size; target float32[N, T], the manifest's targets in their order; matrix
            float64[N, 2, 3]; then, for recipes with `augment`, arrays or lists of N that `finish` reads.

        Raises:
            StopIteration: the epoch is at its end.
            DaliPipesError: a sample that cannot be decoded, under `on_error="raise"`; the pipeline is at its end then.
        """
        skipped = self._first[1] if info.epoch_idx == 0 else 0
        place = (self._first[0] + info.epoch_idx, skipped + info.iteration)
        if place != self._next:
            self._batches = self._loader.work(self._items, *place)
        self._next = None  # after an error, start anew
        batch = next(self._batches)
        self._next = (place[0], place[1] + 1)
        if batch is None:
            raise DecodeError(
                f"all samples of batch {place[1]} of epoch {place[0]} were skipped, and DALI takes no empty batch; use "
                'on_error="substitute".'
            )
        image, *changes = self._items.take()
        given = (image, batch.label.numpy(), batch.index.numpy(), *_beside(batch, self._beside), *changes)
        self._kept.append(given)
        return given

    def nodes(self, *, no_copy: bool = False) -> dict[str, Any]:
        """Within a pipeline: return the outputs as DataNodes on the CPU, by name.

        Args:
            no_copy: let DALI read the images where they lie in the cache. Only for graphs that do not give out the
                images as they come in: DALI's output would lie there too, for as long as `keep` says.
        """
        from nvidia.dali import fn

        found = fn.external_source(
            source=self, batch=True, batch_info=True, num_outputs=len(self.names), layout=self.layouts, no_copy=no_copy
        )
        return dict(zip(self.names, found))

    def stats(self) -> dict[str, Any]:
        """Return the counters of `Loader.stats`: hits, misses, what was decoded, what the cache holds."""
        return self._loader.stats()

    def failures(self) -> dict[int, str]:
        """Return sample number to error message, for every sample that could not be had so far."""
        return self._loader.failures()

    def close(self) -> None:
        """End threads and child processes, and close the cache; pipelines must not ask for more."""
        self._batches = iter(())
        self._kept.clear()
        self._loader.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_LAYOUTS = {"image": "CHW", "mask": "HW"}


def _beside(batch: Batch, names: Sequence[str]) -> list[Array]:
    """Return the fields of a batch by those names, one array each."""
    found: dict[str, Any] = {
        "mask": batch.mask,
        "target": None if batch.target is None else torch.stack(list(batch.target.values()), dim=1),
        "matrix": batch.matrix,
    }
    return [found[name].numpy() for name in names]


class _Items:
    """A backend that computes nothing, and hands out what a graph is fed."""

    name = "dali-source"
    takes_encoded = False

    def __init__(self, recipe: Recipe, batch_size: int) -> None:
        self._graph = Graph(recipe, "cpu", False, batch_size, 1)
        self._finish = Finish(recipe)
        self._values: tuple[Any, ...] = ()
        self.changes = tuple(name for name in self._graph.inputs if name not in ("image", "sample"))

    def run(self, items: Sequence[Array | Encoded | Named], draws: Draws) -> torch.Tensor:
        shape, dtype = self._finish.base_shape, getattr(items[0], "dtype", None)
        for image in items:
            if isinstance(image, (Encoded, Named)) or image.shape != shape or image.dtype != dtype:
                raise BackendError(
                    f"a base image is {getattr(image, 'dtype', 'encoded')}{list(getattr(image, 'shape', ()))}; "
                    f"expected {list(shape)}, one type in a batch."
                )
        values = self._graph.values([np.ascontiguousarray(image) for image in items], self._finish.changes(draws))
        self._values = tuple(values[name] for name in ("image", *self.changes))
        return torch.empty((len(items), 0))

    def take(self) -> tuple[Any, ...]:
        return self._values

    def beside(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def mark(self) -> None: ...

    def close(self) -> None: ...
