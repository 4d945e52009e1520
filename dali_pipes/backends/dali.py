"""DALI as a backend, on the CPU or on a GPU.

On a GPU a batch without JPEGs has nothing in it that DALI is needed for, and DALI would copy it once more: under exact
parity it goes through `ring`. DALI keeps what is encoded.

Batches are fed, run and taken by one thread, which works ahead of the training loop. On the CPU the next one may be fed
while one runs, unless JPEGs are decoded, of which a bad one sends its batch elsewhere; whatever was fed is taken, so
that nothing is left in a queue when an epoch ends early. The number of each sample travels through the graph and is
compared at the end.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dali_pipes.arithmetic.kernels import problem
from dali_pipes.backends import dali_check
from dali_pipes.backends.base import Named
from dali_pipes.backends.graphs import Graph, decodes
from dali_pipes.backends.layout import Layout
from dali_pipes.backends.ring import Ring
from dali_pipes.draws import Draws
from dali_pipes.errors import BackendError, DaliPipesError
from dali_pipes.fetch.fetcher import Encoded
from dali_pipes.finish.finish import Finish
from dali_pipes.recipe import Recipe

log = logging.getLogger(__name__)


class DaliBackend:
    """Runs `Graph` pipelines; see `Backend`.

    Args:
        recipe: what to compute.
        device: "cpu" or "gpu".
        batch_size: the largest batch.
        threads: DALI's CPU threads.
        decode: decode plain JPEGs in the graph.
        device_id: the CUDA device, for "gpu".
        gpu_bytes: memory of the GPU in which base images may stay; none of it without the ring.

    Attributes:
        at_once: see `Overlapping`.
        keeps: see `Keeper`.
        reads_in_place: whether it copies base images from where they lie, so that page-locking them pays.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        device: str,
        batch_size: int,
        threads: int,
        decode: bool,
        device_id: int | None = None,
        gpu_bytes: int = 0,
    ) -> None:
        # DALI leaves host memory below 32 MiB to malloc unless told otherwise, which maps fresh pages for a batch and
        # gives them back after it; larger blocks it keeps in a pool of its own. It reads this when it first allocates.
        os.environ.setdefault("DALI_MALLOC_POOL_THRESHOLD", "1M")
        self.name = f"dali-{device}"
        self.takes_encoded = decode and decodes(recipe)
        self._stream = torch.cuda.Stream(device_id) if device == "gpu" else None
        self._device_id = device_id or 0
        self.at_once = 1 if device == "gpu" or self.takes_encoded else 2
        self._graph = Graph(recipe, device, self.takes_encoded, batch_size, threads, device_id, self.at_once)
        self._finish = Finish(recipe)
        self._layout = Layout(recipe)
        self._pipeline: Any = None
        self._process = os.getpid()
        with self.there():
            self._ring = None if self._stream is None else ring_of(recipe, self._stream, threads, gpu_bytes)
        self._ring_checked = False
        self.reads_in_place = self._ring is not None
        self.keeps = self._ring is not None and self._ring.keeps

    def holds(self, sample: int) -> bool:
        """See `Keeper.holds`."""
        return self._ring is not None and self._ring.holds(sample)

    def run(self, items: Sequence[npt.NDArray[Any] | Encoded | Named], draws: Draws) -> torch.Tensor:
        """See `Backend.run`."""
        self._check_process()
        with self.there():
            made = self._run(items, draws)
            with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
                return self._layout.of(made)

    def begin(self, items: Sequence[npt.NDArray[Any] | Encoded | Named], draws: Draws) -> Callable[[], torch.Tensor]:
        """See `Overlapping.begin`; of warm batches on the CPU."""
        self._check_process()
        wait = self._begin([item.image if isinstance(item, Named) else item for item in items], draws)
        return lambda: self._layout.of(wait())

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise BackendError(f"{self.name}: a DALI pipeline cannot be used in a forked child; make the Loader there.")

    def there(self) -> AbstractContextManager[object]:
        """Make the GPU the calling thread's own, so that whatever looks for a current device finds no other."""
        return nullcontext() if self._stream is None else torch.cuda.device(self._device_id)

    def _run(self, items: Sequence[npt.NDArray[Any] | Encoded | Named], draws: Draws) -> torch.Tensor:
        warm = [item for item in items if not isinstance(item, Encoded)]
        if self._ring is not None and len(warm) == len(items):
            return self._through_ring(self._ring, warm, draws)
        given = [item.image if isinstance(item, Named) else item for item in items]
        return self._begin(given, draws)()

    def _through_ring(self, ring: Ring, items: list[npt.NDArray[Any] | Named], draws: Draws) -> torch.Tensor:
        if not self._ring_checked:
            self._check(lambda: dali_check.check_ring(self._device_id))
            self._ring_checked = True
        try:
            return ring.run(items, draws)
        except DaliPipesError as error:
            raise BackendError(f"{self.name}: {error}") from error
        except Exception as error:
            raise BackendError(f"{self.name}: a batch of {len(items)} did not get to the GPU: {error}") from error

    def _begin(self, items: Sequence[npt.NDArray[Any] | Encoded | None], draws: Draws) -> Callable[[], torch.Tensor]:
        """Feed a batch and let DALI run it; return what waits for it."""
        inputs = self._inputs(items, draws)
        if self._pipeline is None:  # outside of the handler below: what is found is not a batch's failure
            recipe, graph = self._graph.recipe, self._graph
            self._check(lambda: dali_check.check(recipe.parity, graph.device, graph.device_id))
        try:
            if self._pipeline is None:
                self._pipeline = self._started(inputs)
            _feed(self._pipeline, inputs)
            self._pipeline.schedule_run()
        except Exception as error:
            raise self._failed(len(items), error) from error
        return partial(self._wait, self._pipeline, inputs, len(items))

    def _wait(self, pipeline: Any, inputs: dict[str, Any], count: int) -> torch.Tensor:
        """Return the batch that was fed first of those that were not taken yet.

        Args:
            pipeline: which it was fed to.
            inputs: what it was fed, which DALI reads from where it lies until it has run.
            count: its samples.
        """
        if pipeline is not self._pipeline:
            raise BackendError(f"{self.name}: a batch of {count} is lost, because an earlier one failed.")
        try:
            return self._take(count)
        except Exception as error:
            raise self._failed(count, error) from error

    def _failed(self, count: int, error: Exception) -> BackendError:
        self._pipeline = None  # what was fed, or fed in part, would meet the wrong batch: start clean
        return BackendError(f"{self.name}: DALI could not compute a batch of {count}: {error}")

    def _started(self, inputs: dict[str, Any]) -> Any:
        """Return a pipeline that is ready for the first batch.

        A pipeline that takes several batches at once begins with as many: it is given the first sample, and what comes
        of it is not looked at.
        """
        pipeline = self._graph.pipeline()
        pipeline.build()
        if self.at_once > 1:
            for _ in range(self.at_once):
                _feed(pipeline, {name: values[:1] for name, values in inputs.items()})
            pipeline.schedule_run()
            for _ in range(self.at_once):
                pipeline.outputs()
        return pipeline

    def _check(self, check: Callable[[], None]) -> None:
        """Run the guard against drift; also say in words if it fails to run at all."""
        try:
            check()
        except DaliPipesError:
            raise
        except Exception as error:
            raise BackendError(
                f"{self.name}: DALI could not compute the images by which it is checked at its first use: {error}. "
                "`dali-pipes doctor` shows what is installed; backend='torch' needs neither DALI nor a GPU."
            ) from error

    def _inputs(self, items: Sequence[npt.NDArray[Any] | Encoded | None], draws: Draws) -> dict[str, Any]:
        """Return everything that the graph is fed, checked as a whole before any of it is."""
        there = [item for item in items if item is not None]
        if len(there) < len(items):
            raise BackendError(f"{self.name}: images that stay on the GPU came in one batch with a JPEG.")
        if not self.takes_encoded and any(isinstance(item, Encoded) for item in there):
            raise BackendError(f"{self.name}: this graph takes base images, and was given a JPEG.")
        given = [item for item in there if not isinstance(item, Encoded)]
        for image in given:
            if image.shape != self._finish.base_shape or image.dtype != given[0].dtype or not image.flags.c_contiguous:
                raise BackendError(
                    f"{self.name}: a base image is {image.dtype}{list(image.shape)}; expected contiguous "
                    f"{given[0].dtype}{list(self._finish.base_shape)}, one dtype in a batch."
                )
        return self._graph.values(there, self._finish.changes(draws))

    def _take(self, count: int) -> torch.Tensor:
        if self._stream is None:
            batch, sample = self._pipeline.outputs()
            image = torch.utils.dlpack.from_dlpack(batch.as_tensor())
        else:
            with torch.cuda.stream(self._stream):
                batch, sample = self._pipeline.outputs(self._stream.cuda_stream)
                # A copy into memory of torch's allocator, which knows about streams.
                image = torch.utils.dlpack.from_dlpack(batch.as_tensor()).clone()
            self._stream.synchronize()
        if not np.array_equal(np.asarray(sample.as_tensor()), np.arange(count)):
            raise BackendError("samples came out of DALI in another order than they went in")
        return image

    def beside(self, values: torch.Tensor) -> torch.Tensor:
        """See `Backend.beside`."""
        if self._stream is None:
            return values
        with self.there(), torch.cuda.stream(self._stream):
            # From page-locked memory: any other copy would wait for it, on the host.
            return values.pin_memory().to(torch.device("cuda", self._device_id), non_blocking=True)

    def mark(self) -> torch.cuda.Event | None:
        """See `Backend.mark`."""
        if self._stream is None:
            return None
        with self.there():
            event: torch.cuda.Event = self._stream.record_event()
            return event

    def close(self) -> None:
        """See `Backend.close`."""
        if os.getpid() == self._process:
            self._graph.close()
            if self._ring is not None:
                with self.there():
                    self._ring.close()
        elif self._pipeline is not None:
            # Its threads did not come along through the fork, and its destructor would wait for them for ever.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._pipeline))
        self._pipeline = None


def _feed(pipeline: Any, inputs: dict[str, Any]) -> None:
    """Feed one batch; images as DALI's own tensors, which it takes without looking at each anew."""
    from nvidia.dali.tensors import TensorCPU

    for name, values in inputs.items():
        given = [TensorCPU(each, "CHW") for each in values] if name == "image" else values
        pipeline.feed_input(name, given)


def ring_of(recipe: Recipe, stream: torch.cuda.Stream, threads: int, gpu_bytes: int = 0) -> Ring | None:
    """Return a ring on a CUDA stream, or None if DALI has to do the recipe's work or there are no kernels."""
    if recipe.parity != "exact":
        return None
    if lack := problem():
        log.info("batches reach the GPU through DALI, which copies them once more: %s", lack)
        return None
    from dali_pipes.backends.cuda import CudaDevice

    return Ring(recipe, CudaDevice(stream), threads=threads, keep_bytes=gpu_bytes)
