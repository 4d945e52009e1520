"""From a sample's number to its base image: the one room where decoding and the cache meet.

    number ──> source file ──> identity (content digest, kind) ──> key ──> cache hit
                                                                     └──> decode ──> base image ──> cache

An identity is taken once per fetcher; within one run a source file is taken not to change. At depth 16 the cache holds
modality values, and the recipe's window is applied to what it gives.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipes import cache
from dali_pipes.decode import (
    Decoded,
    DecodePolicy,
    DecoderPool,
    Kind,
    Window,
    apply_window,
    check_jpeg,
    decode,
    identify,
)
from dali_pipes.errors import DaliPipesError, DaliPipesWarning, UnsteadyError
from dali_pipes.fetch.admission import Admission
from dali_pipes.fetch.bases import base_of
from dali_pipes.fetch.bookkeeping import Bookkeeping, Failure
from dali_pipes.fetch.extents import Extents
from dali_pipes.fetch.keys import key_parts
from dali_pipes.fetch.notices import Notices
from dali_pipes.files.remote import IN_FLIGHT, RemoteFiles, RemoteSource
from dali_pipes.files.source_file import SourceFile
from dali_pipes.manifest.manifest import Manifest
from dali_pipes.recipe import Recipe

Pixels = npt.NDArray[Any]
"""A base image: uint8 or uint16 [C, H, W], C-contiguous, read-only."""

READ_TRIES = 3
"""How often a file that changes while it is read is begun anew."""

ATTRIBUTES_KEPT = 1000
"""Characters of a sample's attributes that are kept in memory. VOI look-up tables make them a hundred times as long:
such are read from the cache each time, so that a large data set does not fill the memory.
"""


@dataclass(frozen=True)
class Encoded:
    """A JPEG left for the backend to decode: uint8[bytes]."""

    data: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Deep:
    """A base image whose window its sample's draws move: uint16 [C, H, W], and what `apply_window` needs, as JSON."""

    image: Pixels
    attributes: str
    window: Window

    def windowed(self, center: float, width: float) -> Pixels:
        """Return uint8 [C, H, W], with `Draws.window_center` and `Draws.window_width` of one output."""
        return apply_window(self.image, json.loads(self.attributes), self.window, (center, width))


__all__ = ["Deep", "Encoded", "Failure", "Fetcher", "Item", "Pixels", "key_parts", "ready", "with_secret"]

Item = Pixels | Encoded | Failure | Deep

Source = SourceFile | RemoteSource
"""A source file, here or behind a URL."""


class Fetcher:
    """Base images of a manifest's samples, from the cache or decoded.

    Args:
        manifest: the samples.
        recipe: decides the base images.
        store: where they are kept; closed by whoever opened it.
        workers: how many samples are decoded at once.
        encoded: hand plain JPEGs to the backend undecoded (only without a cache).
        sandbox: decode every file in a child process with limits of time and memory.
        policy: how files are read; the recipe's `decode_policy`, with limits and refusals of the caller's.
        extents: keep the size of each source too, for `extents`; always where the recipe has a base of its own, or
            needs them.
        notices: takes what the user must be told; whoever takes the images says it.
    """

    def __init__(
        self,
        manifest: Manifest,
        recipe: Recipe,
        store: cache.Store,
        *,
        workers: int,
        encoded: bool = False,
        sandbox: bool = False,
        policy: DecodePolicy | None = None,
        extents: bool = False,
        notices: Notices | None = None,
    ) -> None:
        self.notices = notices or Notices()
        self._manifest = manifest
        self._recipe = recipe
        self._cached = store.mode != "none"
        self._policy = policy or recipe.decode_policy
        self._encoded = encoded and not self._cached
        self._sandbox = sandbox
        shared: dict[str, Any] = {
            "read_only": store.options.read_only,
            "shared_group": store.options.shared_group,
        }
        self._store, self._secret = with_secret(store)
        directory = self._store.directory
        self._sources = cache.SourceIndex(directory, **shared)
        self._ledger = cache.PartsLedger(directory, **shared, alive=self._store.contains) if directory else None
        self._extents = None
        if extents or recipe.needs_source or recipe.base_size is not None:
            self._extents = Extents(len(manifest), self._store, self._secret, self._ledger, self._policy)
        self._flight = cache.SingleFlight(self._store)
        size = recipe.channels * recipe.base[0] * recipe.base[1] * recipe.depth // 8
        notes = ATTRIBUTES_KEPT if recipe.depth == 16 else 0
        self._kept = Admission(len(manifest), self._store, self._flight, size, notes, self.notices)
        self._keys: dict[int, cache.Key] = {}
        self._made = np.zeros((len(manifest), 32), np.uint8)  # pages of it exist when they are written
        self._attributes: dict[int, str] = {}
        self._refused: set[int] = set()
        self._sound: set[bytes] = set()
        self._remote = RemoteFiles(manifest.root) if isinstance(manifest.root, str) else None
        threads = workers if self._remote is None else max(workers, IN_FLIGHT)
        self.ahead = 2 * threads
        """How many samples are to be requested ahead, so that nobody waits."""
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="dali-pipes-fetch")
        self._decoding = threading.BoundedSemaphore(workers)  # threads that wait for a server take no processor
        self._children = DecoderPool(workers, self._policy.limits)
        self._books = Bookkeeping(manifest.describe, self.notices)
        self._alone = threading.Lock()

    def request(self, sample: int) -> Item | Future[Item]:
        """Return the base image of a sample: at once if the cache holds it in memory, else as a future.

        Neither raises anything except what a strict cache refuses (`cache.CacheError`).
        """
        lost = self._books.lost(sample)
        if lost is not None:
            return lost
        key = self._keys.get(sample)
        if key is not None and self._store.direct:
            image = self._store.get(key)
            if image is not None:
                self._books.count(hits=1)
                return image if self._recipe.depth == 8 else self._threads.submit(self._fetch, sample, image)
        return self._threads.submit(self._fetch, sample)

    def is_cached(self, sample: int) -> bool:
        """Whether the store holds the base image of a sample; False too where its file cannot be read."""
        try:
            with self._source(sample) as source:
                content, kind = self._identify(source)
        except (DaliPipesError, OSError):
            return False
        frame = int(self._manifest.frames[sample])
        parts = self._parts(content, kind, frame)
        needed = [parts, {**parts, "attributes": 1}] if self._recipe.depth == 16 else [parts]
        return all(self._store.contains(cache.Key.of(self._secret, **each)) for each in needed)

    def made(self, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return uint8[N, 32], what names the base image of each sample that was fetched.

        The first 16 bytes name its source file's content. The other 16 name everything else that decides its base
        image.
        """
        return self._made[samples]

    def decoded(self, sample: int) -> Pixels | Failure:
        """Return the base image of a sample, never undecoded; wait for it.

        Later requests for the sample are decoded here too.
        """
        self._refused.add(sample)
        item = ready(self.request(sample))
        if isinstance(item, Encoded):  # it was asked for before it was refused
            item = self._fetch(sample)
        return item  # type: ignore[return-value]

    def extents(self, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
        """Return height and width of the sources of samples that were fetched, int64[N, 2]; None if not kept."""
        return None if self._extents is None else self._extents.of(samples)

    def side_by_side(self, function: Callable[..., Any], *values: Iterable[Any]) -> list[Any]:
        """Return what a function makes of each of the values, on the threads that decode."""
        return list(self._threads.map(function, *values))

    def counts(self) -> dict[str, Any]:
        """Return what happened since the start.

        The keys are `decoded`, `hits`, `misses` (images), `failed` (different samples), `bytes_read` (of sources, by
        this process), and `seconds_decoding` (of all workers).
        """
        return self._books.counts()

    def failures(self) -> dict[int, DaliPipesError]:
        """Return the samples that failed when they were last asked for, with their errors."""
        return self._books.failures()

    def close(self) -> None:
        """End threads and child processes; requests that have not begun are dropped."""
        self._flight.close()  # first: threads that wait for another's image would keep theirs waiting
        if self._remote is not None:
            self._remote.close()
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._children.close()
        self._sources.close()
        if self._ledger is not None:
            self._ledger.close()

    def _fetch(self, sample: int, cached: Pixels | None = None) -> Item:
        try:
            item = self._load(sample) if cached is None else self._windowed(cached, self._attributes[sample])
        except cache.CacheError:  # the cache is strict: no sample is to blame
            raise
        except Exception as error:
            return self._books.failed(sample, error)
        self._books.had(sample)
        return item

    def _load(self, sample: int) -> Item:
        try:
            return self._load_steady(sample)
        except MemoryError:  # perhaps others took it: once more, alone among those
            with self._alone:
                return self._load_steady(sample)

    def _load_steady(self, sample: int) -> Item:
        for _ in range(READ_TRIES - 1):
            with contextlib.suppress(UnsteadyError), self._source(sample) as source:
                return self._load_from(source, sample)
        with self._source(sample) as source:
            return self._load_from(source, sample)

    def _source(self, sample: int) -> Source:
        def counted(size: int) -> None:
            self._books.count(bytes_read=size)

        if self._remote is not None:
            return RemoteSource(self._remote, self._manifest.paths[sample], counted)
        return SourceFile(*self._manifest.locate(sample), counted)

    def _load_from(self, source: Source, sample: int) -> Item:
        frame = int(self._manifest.frames[sample])
        content, kind = self._identify(source)
        parts = self._parts(content, kind, frame)
        as_it_is = self._encoded and kind.dali and frame == 0 and sample not in self._refused
        by_dali = self._recipe.dali_base_image and kind.dali and not self._cached
        # Whose arithmetic makes the base image; the bits are the same under exact parity.
        made_by = 2 * as_it_is + by_dali if self._recipe.parity == "fast" else 0
        self._made[sample] = np.frombuffer(content + cache.Key.of(b"", **parts, made_by=made_by).digest, np.uint8)
        if as_it_is:
            encoded = source.read()
            if content not in self._sound:  # once a run: DALI makes gray areas of damage, and knows no limits
                check_jpeg(encoded, self._policy)
                self._sound.add(content)
            if self._extents is not None:
                self._extents.read(sample, encoded, kind)
            source.check()
            self._books.count(decoded=1, misses=1)
            return Encoded(np.frombuffer(encoded, np.uint8))
        key = cache.Key.of(self._secret, **parts)
        deep = self._recipe.depth == 16
        note = cache.Key.of(self._secret, **parts, attributes=1) if deep else key
        made: list[str] = []

        def compute() -> Pixels:
            if self._remote is not None:
                source.read()  # before a decoder's turn comes
            with self._decoding:
                decoded = self._decode(source, kind, frame)
            source.check()  # or other pixels would be kept under this content's key
            self._books.tell(sample, decoded)
            if self._recipe.depth == 16:
                made.append(json.dumps(decoded.attributes))
                if self._kept.takes(sample):  # before the image that needs them
                    self._store.put(note, np.frombuffer(made[0].encode(), np.uint8))
            if self._extents is not None and self._policy.reduce is None:  # else it is smaller than its source
                self._extents.keep(sample, decoded.pixels.shape[:2], parts)
            if self._ledger is not None:
                self._ledger.note(key, parts)
                if made:
                    self._ledger.note(note, parts)
            return self._base_image(decoded, kind)

        image, computed = self._kept.get_or_compute(sample, key, compute)
        if self._recipe.depth == 16 and not made:
            attributes = self._store.get(note)
            if attributes is None:  # evicted or damaged, while the image stayed
                image, computed = compute(), True
            else:
                made.append(attributes.tobytes().decode())
        if self._extents is not None:
            self._extents.find(sample, source.read, kind, parts)
        self._books.count(**{"misses" if computed else "hits": 1})
        if not made or len(made[-1]) <= ATTRIBUTES_KEPT:
            if made:
                self._attributes[sample] = made[-1]
            self._keys[sample] = key
        return image if self._recipe.depth == 8 else self._windowed(image, made[-1])

    def _windowed(self, image: Pixels, attributes: str) -> Pixels | Deep:
        if self._recipe.window is None:
            return image
        if self._recipe.jitters:
            return Deep(image, attributes, self._recipe.window)
        return apply_window(image, json.loads(attributes), self._recipe.window)

    def _parts(self, content: bytes, kind: Kind, frame: int) -> dict[str, str | int | bytes]:
        return key_parts(self._recipe, self._policy, content, kind, frame)

    def _identify(self, source: Source) -> tuple[bytes, Kind]:
        """Digest and kind of a source file, which is read only if nobody knows it."""
        known = self._sources.lookup(source.path, source.state)
        if known is not None:
            content, tag = known
            return content, Kind.from_tag(tag)
        self._policy.limits.check_file(source.state.size)
        data = source.read()
        kind, content = identify(source.path, data), cache.content_digest(data)
        source.check()
        self._sources.record(source.path, source.state, content, kind.tag)
        return content, kind

    def _decode(self, source: Source, kind: Kind, frame: int) -> Decoded:
        start = time.perf_counter()
        # Of a file with many frames a child reads what it needs by mapping it, which could end this process if the file
        # were cut short meanwhile.
        if kind.in_threads and not self._sandbox and (source.data is not None or not frame):
            decoded = self._decode_here(source.read(), kind, frame)
        else:
            decoded = self._decode_in_child(source.fd(), kind, frame)
        self._books.count(time.perf_counter() - start, decoded=1)
        return decoded

    def _decode_here(self, data: bytes | memoryview, kind: Kind, frame: int) -> Decoded:
        return decode(data, kind, frame, self._policy)

    def _decode_in_child(self, fd: int, kind: Kind, frame: int) -> Decoded:
        return self._children.decode(fd, kind, frame, self._policy)

    def _base_image(self, decoded: Decoded, kind: Kind) -> Pixels:
        by_dali = self._recipe.dali_base_image and kind.dali and not self._cached
        return base_of(decoded.pixels, self._recipe, by_dali)  # a cache holds portable base images only


def ready(request: Item | Future[Item]) -> Item:
    """Return what was requested; waits for it."""
    return request.result() if isinstance(request, Future) else request


def with_secret(store: cache.Store) -> tuple[cache.Store, bytes]:
    """Return the store, and the secret that hides the names in its folder (empty if it has none).

    If the secret can be neither read nor made, a store that keeps nothing takes its place, with a warning, because a
    name without a secret would tell of a file. Raises SecretError instead if the store is strict, and always where the
    names in its folder were made with another secret.
    """
    if not store.directory:
        return store, b""
    try:
        secret = cache.default_secret()
    except cache.SecretError as error:
        if store.options.strict:
            raise
        warnings.warn(f"going on without the cache in {store.directory}: {error}", DaliPipesWarning, stacklevel=3)
        return cache.open_store("none"), b""
    store.agree(secret)
    return store, secret
