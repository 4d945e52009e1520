"""What every backend does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt
import torch

from dali_pipes.draws import Draws
from dali_pipes.fetch.fetcher import Encoded


@dataclass(frozen=True)
class Named:
    """A sample's base image with the sample's number, by which a `Keeper` may keep it.

    Attributes:
        sample: position in the manifest; -1 for one that is not to be kept.
        image: None where the backend holds it already.
    """

    sample: int
    image: npt.NDArray[Any] | None


@runtime_checkable
class Keeper(Protocol):
    """A backend that may keep base images, so that they need not be given again.

    Attributes:
        keeps: whether it does; it is then given `Named` items.
    """

    keeps: bool

    def holds(self, sample: int) -> bool:
        """Whether a sample's base image is kept, from now on until `Backend.close`."""
        ...


@runtime_checkable
class Overlapping(Protocol):
    """A backend that may be given a batch before the one before it is complete.

    Attributes:
        at_once: how many batches may be in work; 1 where `Backend.run` has to answer for each.
    """

    at_once: int

    def begin(self, items: Sequence[npt.NDArray[Any] | Encoded | Named], draws: Draws) -> Callable[[], torch.Tensor]:
        """Begin a batch; return what waits for it.

        What was begun first is waited for first, all of it, by the thread that began it. `run` is called only while
        nothing is in work. Where waiting raises, batches begun later may be lost; waiting for those then raises too.

        Args:
            items, draws: as for `Backend.run`.

        Raises:
            BackendError: as `Backend.run`; so does waiting.
        """
        ...


class Backend(Protocol):
    """A way to compute batches. One thread uses it at a time; it belongs to the process that made it.

    Attributes:
        name: as in `Loader(backend=...)`.
        takes_encoded: whether `run` decodes plain JPEGs itself.
    """

    name: str
    takes_encoded: bool

    def run(self, items: Sequence[npt.NDArray[Any] | Encoded | Named], draws: Draws) -> torch.Tensor:
        """Return one batch.

        Args:
            items: N base images, uint8 or uint16 [C, H, W], or JPEGs if `takes_encoded`; a `Keeper` that keeps is given
                the images as `Named`.
            draws: the random decisions of these N samples.

        Returns:
            float32[N, C, H, W], normalised, where the recipe has a mean; else the integers, uint8 or uint16. The tensor
            stays as it is for as long as the caller holds it. On a GPU it may not be complete yet: see `mark`.

        Raises:
            BackendError: the computation failed; the next call starts clean.
        """
        ...

    def beside(self, values: torch.Tensor) -> torch.Tensor:
        """Bring small values of the samples (labels, numbers) to where the batches are.

        Args:
            values: a CPU tensor.

        Returns:
            The same values on the batches' device.
        """
        ...

    def mark(self) -> torch.cuda.Event | None:
        """Return an event that has happened when everything that `run` and `beside` returned so far is complete.

        Return None where it is complete when they return.
        """
        ...

    def close(self) -> None:
        """Free what the backend holds."""
        ...
