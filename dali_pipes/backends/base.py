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
            stays as it is for as long as the caller holds it.

        Raises:
            BackendError: the computation failed; the next call starts clean.
        """
        ...

    def close(self) -> None:
        """Frees what the backend holds."""
        ...
