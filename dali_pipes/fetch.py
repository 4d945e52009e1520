"""From a sample's number to its base image: the one room where decoding and the cache meet.

    number ──> source file ──> identity (content digest, kind) ──> key ──> cache hit
                                                                     └──> decode ──> base image ──> cache

An identity is taken once per fetcher; within one run a source file is taken not to change.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import cache
from dali_pipes.arithmetic import ARITHMETIC_VERSION, base_image
from dali_pipes.decode import Decoded, DecoderPool, Kind, apply_window, decode, identify
from dali_pipes.errors import DaliPipesError, DecodeError
from dali_pipes.manifest import Manifest
from dali_pipes.recipe import Recipe

log = logging.getLogger(__name__)

Pixels = npt.NDArray[Any]
"""A base image: uint8 or uint16 [C, H, W], C-contiguous, read-only."""


@dataclass(frozen=True)
class Encoded:
    """A JPEG left for the backend to decode: uint8[bytes]."""

    data: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Failure:
    """A sample that could not be had, and why."""

    error: DaliPipesError


Item = Pixels | Encoded | Failure


class Fetcher:
    """Base images of a manifest's samples, from the cache or decoded.

    Args:
        manifest: the samples.
        recipe: decides the base images.
        store: where they are kept; closed by whoever opened it.
        sources: identities of source files from earlier runs.
        workers: how many samples are decoded at once.
        encoded: hand plain JPEGs to the backend undecoded (only without a cache).
        secret: keys the names in the cache.
    """

    def __init__(
        self,
        manifest: Manifest,
        recipe: Recipe,
        store: cache.Store,
        sources: cache.SourceIndex,
        *,
        workers: int,
        encoded: bool = False,
        secret: bytes = b"",
    ) -> None:
        self._manifest = manifest
        self._recipe = recipe
        self._store = store
        self._sources = sources
        self._encoded = encoded and store.mode == "none"
        self._secret = secret
        self._base_digest = recipe.base_digest
        self._flight = cache.SingleFlight(store)
        self._keys: dict[int, cache.Key] = {}
        self._failures: dict[int, Failure] = {}
        self._refused: set[int] = set()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="dali-pipes-fetch")
        self._children = DecoderPool(workers)
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def request(self, sample: int) -> Item | Future[Item]:
        """The base image of a sample, at once if the cache holds it in memory, else as a future that never raises."""
        if failure := self._failures.get(sample):
            return failure
        key = self._keys.get(sample)
        if key is not None and self._store.direct:
            image = self._store.get(key)
            if image is not None:
                with self._lock:
                    self._counts["hits"] += 1
                return image
        return self._threads.submit(self._fetch, sample)

    def decoded(self, sample: int) -> Pixels | Failure:
        """The base image of a sample, never undecoded; waits for it. Later requests for the sample are decoded here too."""
        self._refused.add(sample)
        item = self.request(sample)
        ready = item.result() if isinstance(item, Future) else item
        if isinstance(ready, Encoded):  # pragma: no cover
            raise AssertionError("a refused sample is never handed out encoded")
        return ready

    def counts(self) -> dict[str, int]:
        """Since the start: `decoded`, `hits`, `misses` (images), `failed` (different samples), `bytes_read` (of sources)."""
        with self._lock:
            return {name: self._counts[name] for name in ("decoded", "hits", "misses", "failed", "bytes_read")}

    def failures(self) -> dict[int, DaliPipesError]:
        """The samples that failed, with their errors."""
        return {sample: failure.error for sample, failure in list(self._failures.items())}

    def close(self) -> None:
        """Ends threads and child processes; requests that have not begun are dropped."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._children.close()
        self._sources.close()

    def _fetch(self, sample: int) -> Item:
        try:
            return self._load(sample)
        except DaliPipesError as error:
            named = type(error)(f"{self._manifest.describe(sample)}: {error}")
        except OSError as error:
            named = DecodeError(f"{self._manifest.describe(sample)}: cannot be read: {error.strerror or error}")
        except Exception as error:
            # Whatever a decoder's library throws at odd bytes is that file's failure, never the epoch's.
            named = DecodeError(f"{self._manifest.describe(sample)}: {type(error).__name__}: {error}")
            log.debug("unexpected error while decoding", exc_info=True)
        failure = Failure(named)
        with self._lock:
            if sample not in self._failures:
                self._counts["failed"] += 1
                self._failures[sample] = failure
        return failure

    def _load(self, sample: int) -> Item:
        path = self._manifest.resolve(sample)
        frame = int(self._manifest.frames[sample])
        content, kind, data = self._identify(path)
        if self._encoded and kind.dali and sample not in self._refused:
            with self._lock:
                self._counts.update(decoded=1, misses=1)
            return Encoded(np.frombuffer(data if data is not None else self._read(path), np.uint8))
        key = cache.Key.of(
            self._secret,
            content=content,
            frame=frame,
            base=self._base_digest,
            decoder=kind.decoder,
            arithmetic=ARITHMETIC_VERSION,
        )
        image, computed = self._flight.get_or_put(key, lambda: self._decode(path, data, kind, frame))
        with self._lock:
            self._counts["misses" if computed else "hits"] += 1
            self._keys[sample] = key
        return image

    def _identify(self, path: Path) -> tuple[bytes, Kind, bytes | None]:
        """Digest and kind of a source file; its bytes too where they had to be read."""
        status = os.stat(path)
        known = self._sources.lookup(os.fspath(path), status.st_size, status.st_mtime_ns)
        if known is not None:
            content, tag = known
            return content, Kind.from_tag(tag), None
        data = self._read(path)
        kind, content = identify(path, data), cache.content_digest(data)
        self._sources.record(os.fspath(path), status.st_size, status.st_mtime_ns, content, kind.tag)
        return content, kind, data

    def _read(self, path: Path) -> bytes:
        data = path.read_bytes()
        with self._lock:
            self._counts["bytes_read"] += len(data)
        return data

    def _decode(self, path: Path, data: bytes | None, kind: Kind, frame: int) -> Pixels:
        policy = self._recipe.decode_policy
        decoded: Decoded
        if kind.in_threads:
            decoded = decode(self._read(path) if data is None else data, kind, frame, policy)
        else:
            decoded = self._children.decode(path, kind, frame, policy)
        with self._lock:
            self._counts["decoded"] += 1
        return base_image(decoded.pixels, self._recipe.size, self._recipe.fit, self._recipe.interpolation)
