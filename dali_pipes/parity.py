"""Do all backends give the same bits on these samples? And if not: where, and by how much?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from dali_pipes.batch import Batch
from dali_pipes.loader import Loader
from dali_pipes.manifest import Manifest
from dali_pipes.recipe import Recipe


@dataclass(frozen=True)
class Difference:
    """How the outputs of two backends differ.

    Attributes:
        backend, reference: the two.
        samples: how many samples differ.
        values: how many values differ.
        largest, mean: of the absolute difference over all values, in the output's units.
        worst: the sample with the largest difference, or None.
    """

    backend: str
    reference: str
    samples: int
    values: int
    largest: float
    mean: float
    worst: int | None

    @property
    def identical(self) -> bool:
        """Whether no bit differs."""
        return self.values == 0


@dataclass(frozen=True)
class Verdict:
    """The outcome of a comparison.

    Attributes:
        backends: what was compared; the first is the reference.
        samples: how many samples were compared.
        failed: samples that could not be decoded, alike on every backend.
        differences: one for each backend but the reference.
    """

    backends: tuple[str, ...]
    samples: int
    failed: int
    differences: tuple[Difference, ...]

    @property
    def identical(self) -> bool:
        """Whether every backend gave the reference's bits."""
        return all(difference.identical for difference in self.differences)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"identical": self.identical, **asdict(self)}


def compare(
    manifest: Manifest, recipe: Recipe, backends: list[str], *, batch_size: int = 16, **loading: Any
) -> Iterator[int | Verdict]:
    """Runs the recipe on every backend and compares the batches bit for bit with those of the last one given.

    Yields the number of samples done after each batch, and the `Verdict` at the end. Samples that do not decode are skipped;
    each backend must skip the same ones.

    Args:
        manifest, recipe: what to load.
        backends: names; the last is the reference.
        batch_size: samples at a time.
        loading: further arguments of `Loader`.
    """
    order = [backends[-1], *backends[:-1]]
    loaders = [
        Loader(manifest, recipe, batch_size=batch_size, backend=name, on_error="skip", **loading) for name in order
    ]
    tallies = [_Tally() for _ in order[1:]]
    done = 0
    try:
        for reference, *others in zip(*loaders, strict=True):
            for tally, batch in zip(tallies, others):
                tally.add(reference.index, reference.image, batch.index, batch.image)
            done += len(reference)
            yield done
        failed = len(loaders[0].failures())
    finally:
        for loader in loaders:
            loader.close()
    differences = tuple(tally.difference(name, order[0]) for name, tally in zip(order[1:], tallies))
    yield Verdict(tuple(order), done, failed, differences)


class _Tally:
    """Differences, summed over batches."""

    def __init__(self) -> None:
        self.samples = self.values = self.total = 0
        self.largest = self.sum = 0.0
        self.worst: int | None = None

    def add(self, index: torch.Tensor, image: torch.Tensor, other_index: torch.Tensor, other: torch.Tensor) -> None:
        other = other.cpu()
        self.total += image.numel()
        if torch.equal(index, other_index) and image.dtype == other.dtype and torch.equal(_bits(image), _bits(other)):
            return
        if not torch.equal(index, other_index) or image.shape != other.shape:
            self.samples, self.values, self.largest = self.samples + len(index), self.values + image.numel(), float("inf")
            self.worst = int(index[0])
            return
        apart = (image.double() - other.double()).abs().flatten(1)
        unequal = (_bits(image) != _bits(other)).flatten(1)
        self.samples += int(unequal.any(1).sum())
        self.values += int(unequal.sum())
        self.sum += float(apart.sum())
        if self.worst is None or float(apart.max()) > self.largest:
            self.largest = float(apart.max())
            self.worst = int(index[int(apart.amax(1).argmax())])

    def difference(self, backend: str, reference: str) -> Difference:
        mean = self.sum / max(1, self.total)
        return Difference(backend, reference, self.samples, self.values, self.largest, mean, self.worst)


def _bits(image: torch.Tensor) -> torch.Tensor:
    """Floats by their bits, so that 0 and -0 differ and a NaN equals itself."""
    if image.dtype == torch.uint16:
        return image.view(torch.int16)
    return image.view(torch.int32) if image.dtype == torch.float32 else image


Fingerprint = tuple[int, int, str]
"""A sample's number, its label, and a digest of its pixels' dtype, shape and bits."""


def fingerprint(batches: Iterable[Batch]) -> list[Fingerprint]:
    """One fingerprint for each sample, in order; equal lists mean equal bits."""
    prints = []
    for batch in batches:
        images = batch.image.cpu()
        for image, index, label in zip(images, batch.index.tolist(), batch.label.tolist()):
            state = hashlib.blake2b(f"{image.dtype}{tuple(image.shape)}".encode(), digest_size=16)
            state.update(image.contiguous().view(torch.uint8).numpy())
            prints.append((index, label, state.hexdigest()))
    return prints
