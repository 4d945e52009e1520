"""Another sample in the place of one that cannot be had."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dali_pipes.errors import DecodeError
from dali_pipes.fetch.fetcher import Failure, Pixels


def stand_in(
    decoded: Callable[[int], Pixels | Failure], failure: Failure, successors: Iterable[int]
) -> tuple[int, Pixels]:
    """Return the first of the samples after one that failed that can be had, and its image.

    Args:
        decoded: gives a sample's base image, such as `Fetcher.decoded`.
        failure: of the sample that is to be replaced.
        successors: the samples after it.

    Raises:
        DecodeError: none of them can.
    """
    tries = 0
    for sample in successors:
        item = decoded(sample)
        if not isinstance(item, Failure):
            return sample, item
        tries += 1
    raise DecodeError(f"{failure.error}; nor can the {tries} samples after it that could stand in for it.")
