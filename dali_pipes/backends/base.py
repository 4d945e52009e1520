"""What every backend does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy.typing as npt
import torch

from dali_pipes.draws import Draws
from dali_pipes.fetch import Encoded


class Backend(Protocol):
    """A way to compute batches. One thread uses it at a time; it belongs to the process that made it.

    Attributes:
        name: as in `Loader(backend=...)`.
        takes_encoded: whether `run` decodes plain JPEGs itself.
    """

    name: str
    takes_encoded: bool

    def run(self, items: Sequence[npt.NDArray[Any] | Encoded], draws: Draws) -> torch.Tensor:
        """One batch.

        Args:
            items: N base images, uint8 or uint16 [C, H, W], or JPEGs if `takes_encoded`.
            draws: the random decisions of these N samples.

        Returns:
            float32[N, C, H, W], normalised, where the recipe has a mean; else the integers, uint8 or uint16. The tensor
            stays as it is for as long as the caller holds it. On a GPU it may not be complete yet: see `mark`.

        Raises:
            BackendError: the computation failed; the next call starts clean.
        """
        ...

    def beside(self, values: torch.Tensor) -> torch.Tensor:
        """Brings small values of the samples (labels, numbers) to where the batches are.

        Args:
            values: a CPU tensor.

        Returns:
            The same values on the batches' device.
        """
        ...

    def mark(self) -> torch.cuda.Event | None:
        """An event that has happened when everything that `run` and `beside` returned so far is complete.

        None where it is complete when they return.
        """
        ...

    def close(self) -> None:
        """Frees what the backend holds."""
        ...
