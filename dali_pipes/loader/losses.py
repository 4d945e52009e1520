"""How many samples of an epoch could not be decoded, and when they are too many."""

from __future__ import annotations

import math

from dali_pipes.errors import DecodeError
from dali_pipes.fetch.fetcher import Failure
from dali_pipes.fetch.notices import Notices
from dali_pipes.manifest.manifest import Manifest


class Losses:
    """Counts the samples of an epoch that could not be decoded, and ends the epoch where they are too many.

    Args:
        notices: where the first of them are named.
        allowed: how many there may be; a float is a share of `size`; None for any number.
        size: samples of the epoch on this rank.
    """

    def __init__(self, notices: Notices | None = None, allowed: float | None = None, size: int = 0) -> None:
        self.last: Failure | None = None
        self._places: set[int] = set()
        self._notices = notices or Notices()
        self._limit = math.floor(allowed * size + 1e-9) if isinstance(allowed, float) else allowed

    def note(self, place: int, failure: Failure, what_then: str) -> None:
        """Count the sample at a place of the order, once.

        Raises:
            DecodeError: there are more than the limit allows.
        """
        self._places.add(place)
        self.last = failure
        self._notices.lost(failure.error, what_then)
        if self._limit is not None and len(self._places) > self._limit:
            raise DecodeError(
                f"{len(self._places)} samples of this epoch could not be decoded, and max_failures allows "
                f"{self._limit}; the last: {failure.error}. failures() names all of them. Mend the files or the "
                "manifest's root, or allow more."
            )

    def check(self, manifest: Manifest) -> None:
        """Say why an epoch gave nothing, if samples were lost.

        Raises:
            DecodeError: at least one was.
        """
        if self.last is not None:
            raise DecodeError(
                f"none of the {len(self._places)} samples of this epoch could be decoded; the last: {self.last.error}. "
                f"Is the manifest's root right ({manifest.place})?"
            )
