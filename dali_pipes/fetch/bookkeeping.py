"""What became of samples: how many were decoded or found, which failed, and what their files say that is worth telling.

Any number of threads may use it at once.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dali_pipes.decode import Decoded
from dali_pipes.errors import DaliPipesError, DecodeError, UnsteadyError, WorkerError
from dali_pipes.fetch.notices import Notices

log = logging.getLogger(__name__)

COUNTED = ("decoded", "hits", "misses", "bytes_read")

_MIXED = (
    "this data set mixes images FOR PRESENTATION and FOR PROCESSING: their values mean different things. "
    'processing="error" refuses the latter'
)


@dataclass(frozen=True)
class Failure:
    """A sample that could not be had, and why."""

    error: DaliPipesError


class Bookkeeping:
    """The account of one fetcher.

    Args:
        describe: how messages name a sample.
        notices: takes what the user must be told.
    """

    def __init__(self, describe: Callable[[int], str], notices: Notices) -> None:
        self._describe, self._notices = describe, notices
        self._counts: Counter[str] = Counter()
        self._seconds_decoding = 0.0
        self._failures: dict[int, Failure] = {}
        self._damaged: set[int] = set()  # those of them that no retry can mend
        self._failed: set[int] = set()  # all that ever failed
        self._intents: set[str] = set()
        self._told: set[str] = set()
        self._lock = threading.Lock()

    def count(self, seconds_decoding: float = 0.0, **more: int) -> None:
        """Add to the counts of `COUNTED`."""
        with self._lock:
            self._counts.update(more)
            self._seconds_decoding += seconds_decoding

    def counts(self) -> dict[str, Any]:
        """Return the counts since the start, with `failed` (different samples) and `seconds_decoding`."""
        with self._lock:
            counts = {name: self._counts[name] for name in COUNTED}
            return {**counts, "failed": len(self._failed), "seconds_decoding": self._seconds_decoding}

    def lost(self, sample: int) -> Failure | None:
        """Return the failure of a sample that no further try can mend, else None."""
        return self._failures[sample] if sample in self._damaged else None

    def any_lost(self, samples: Sequence[int]) -> bool:
        """Return whether no further try can mend one of the samples."""
        return bool(self._damaged) and not self._damaged.isdisjoint(samples)

    def had(self, sample: int) -> None:
        """Note that a sample was had: an earlier failure is over."""
        self._failures.pop(sample, None)

    def failed(self, sample: int, error: Exception) -> Failure:
        """Note that a sample could not be had; log it the first time."""
        named, lasting = _named(error, self._describe(sample))
        failure = Failure(named)
        with self._lock:
            if sample not in self._failed:
                log.info("%s", named)
            self._failed.add(sample)
            self._failures[sample] = failure
            if lasting:
                self._damaged.add(sample)
        return failure

    def failures(self) -> dict[int, DaliPipesError]:
        """Return the samples that failed when they were last asked for, with their errors."""
        return {sample: failure.error for sample, failure in list(self._failures.items())}

    def tell(self, sample: int, decoded: Decoded) -> None:
        """Note, once each, what the policy warns of and that intents are mixed, with the first sample to show it."""
        intent, texts = decoded.facts.get("intent"), list(decoded.warnings)
        with self._lock:
            if intent:
                self._intents.add(intent)
            if len(self._intents) > 1:
                texts.append(_MIXED)
            for text in texts:
                if text not in self._told:
                    self._told.add(text)
                    self._notices.add(f"{self._describe(sample)}: {text}. Said of the first such sample only.")


def _named(error: Exception, sample: str) -> tuple[DaliPipesError, bool]:
    """Return an error that names the sample, and whether another try would fail too."""
    if isinstance(error, DaliPipesError):
        return type(error)(f"{sample}: {error}"), not isinstance(error, (UnsteadyError, WorkerError))
    if isinstance(error, OSError):
        return DecodeError(f"{sample}: cannot be read: {error.strerror or error}"), False
    if isinstance(error, MemoryError):
        text = (
            "memory ran out while it was decoded, which may be no fault of the file; use fewer workers, or free memory"
        )
        return WorkerError(f"{sample}: {text}"), False
    # Whatever a decoder's library throws at odd bytes is that file's failure, never the epoch's.
    # Its text may quote the file, which may hold a patient's name.
    log.debug("unexpected error while decoding", exc_info=error)
    return DecodeError(f"{sample}: its decoder failed with {type(error).__name__}"), True
