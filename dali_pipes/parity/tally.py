"""Two outputs, compared bit for bit, sample by sample, and summed up."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_STEPS = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 2.0, 3.0, 5.0, 9.0, 17.0, 33.0, 65.0, 129.0, 257.0)
"""Lower edges of the histogram's bins but the first, which holds what is smaller and not 0."""


@dataclass(frozen=True)
class Worst:
    """The sample in which two outputs lie farthest apart.

    Attributes:
        index: its position in the manifest.
        reference, other: both outputs, [C, H, W].
    """

    index: int
    reference: Array = field(repr=False)
    other: Array = field(repr=False)


@dataclass(frozen=True)
class Difference:
    """How the outputs of two backends differ at one stage.

    Attributes:
        backend, reference: the two.
        compared: samples that both gave.
        samples: how many of them differ.
        missing: samples that only one of the two gave, or in another shape or type.
        values: how many values differ in a bit.
        largest, mean: of the absolute difference over all values, in the stage's units.
        worst: the sample with the largest difference, or None.
        histogram: (lower edge, count of values) by absolute difference, bins that are empty left out; 0.0 is the bin of
            values that are not equal but closer than the next edge.
    """

    backend: str
    reference: str
    compared: int
    samples: int
    missing: int
    values: int
    largest: float
    mean: float
    worst: int | None
    histogram: tuple[tuple[float, int], ...]

    @property
    def identical(self) -> bool:
        """Whether no bit differs and nothing is missing."""
        return self.values == 0 and self.missing == 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values; None for what is infinite, which JSON cannot hold: a value of one output is no number."""
        plain = {"identical": self.identical, **asdict(self)}
        return plain | {name: None for name in ("largest", "mean") if not math.isfinite(plain[name])}


class Tally:
    """Differences, summed over samples.

    Attributes:
        worst: the pair that lies farthest apart so far.
    """

    def __init__(self) -> None:
        self.worst: Worst | None = None
        self._compared = self._samples = self._missing = self._values = self._total = 0
        self._largest = self._sum = 0.0
        self._counts = np.zeros(len(_STEPS) + 1, np.int64)

    def add(self, index: int, reference: Array | None, other: Array | None) -> None:
        """One sample's two outputs, [C, H, W]; None where one of them has none."""
        if reference is None and other is None:
            return
        if reference is None or other is None or reference.shape != other.shape or reference.dtype != other.dtype:
            self._missing += 1
            return
        self._compared += 1
        self._total += reference.size
        unequal = _bits(reference) != _bits(other)
        if not unequal.any():
            return
        apart = np.abs(reference[unequal].astype(np.float64) - other[unequal].astype(np.float64))
        apart[np.isnan(apart)] = np.inf
        largest = float(apart.max())
        self._samples += 1
        self._values += len(apart)
        self._sum += float(apart.sum())
        bins = np.searchsorted(_STEPS, apart, side="right")
        self._counts += np.bincount(bins, minlength=len(self._counts))
        if self.worst is None or largest > self._largest:
            self._largest = largest
            self.worst = Worst(index, reference.copy(), other.copy())

    def difference(self, backend: str, reference: str) -> Difference:
        """Return what was seen so far."""
        edges = (0.0, *_STEPS)
        return Difference(
            backend=backend,
            reference=reference,
            compared=self._compared,
            samples=self._samples,
            missing=self._missing,
            values=self._values,
            largest=self._largest,
            mean=self._sum / max(1, self._total),
            worst=None if self.worst is None else self.worst.index,
            histogram=tuple((edge, int(count)) for edge, count in zip(edges, self._counts) if count),
        )


def _bits(values: Array) -> Array:
    """Floats by their bits, so that 0 and -0 differ and a NaN equals itself."""
    return np.ascontiguousarray(values).view(f"u{values.itemsize}") if values.dtype.kind == "f" else values
