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
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipes import cache
from dali_pipes.decode import (
    Decoded,
    DecodePolicy,
    DecoderPool,
    Kind,
    apply_window,
    check_jpeg,
    decode,
    identify,
)
from dali_pipes.errors import DaliPipesError, UnsteadyError
from dali_pipes.fetch.admission import Admission
from dali_pipes.fetch.again import Again
from dali_pipes.fetch.bases import base_of
from dali_pipes.fetch.bookkeeping import Bookkeeping, Failure
from dali_pipes.fetch.extents import Extents
from dali_pipes.fetch.item import Deep, Encoded, Item, Later, OneOf, Pixels, Requested, here, ready
from dali_pipes.fetch.keys import Families, Parts, key_parts, with_secret
from dali_pipes.fetch.known import ATTRIBUTES_KEPT, Known
from dali_pipes.fetch.lookup import Lookup, Named
from dali_pipes.fetch.notices import Notices
from dali_pipes.files.remote import IN_FLIGHT, RemoteFiles, RemoteSource
from dali_pipes.files.source_file import SourceFile
from dali_pipes.manifest.manifest import Manifest
from dali_pipes.recipe import Recipe

READ_TRIES = 3
"""How often a file that changes while it is read is begun anew."""

CHUNK, FEW = 32, 2
"""Samples that one thread looks up together; where their folder is slow."""

__all__ = ["ATTRIBUTES_KEPT", "Deep", "Encoded", "Failure", "Fetcher", "Item", "Later", "Pixels", "Requested"]
__all__ += ["here", "key_parts", "ready", "with_secret"]

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
        trust: take source files that the cache knows for unchanged, without looking at them.
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
        trust: bool = False,
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
            self._extents = Extents(len(manifest), self._store, self._ledger, self._policy)
        self._flight = cache.SingleFlight(self._store)
        size = recipe.channels * recipe.base[0] * recipe.base[1] * recipe.depth // 8
        notes = ATTRIBUTES_KEPT if recipe.depth == 16 else 0
        self._kept = Admission(len(manifest), self._store, self._flight, size, notes, self.notices)
        self._families = Families(self._secret, self._parts)
        self._known = Known(len(manifest), recipe.depth == 16)
        self._made = np.zeros((len(manifest), 32), np.uint8)  # pages of it exist when they are written
        self._refused: set[int] = set()
        self._sound = np.zeros(len(manifest) if self._encoded else 0, np.bool_)
        self._remote = RemoteFiles(manifest.root) if isinstance(manifest.root, str) else None
        waits = self._remote is not None or self._store.distant
        threads = max(workers, IN_FLIGHT) if waits else workers
        self.ahead = 2 * threads
        """How many samples are to be requested ahead, so that nobody waits."""
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="dali-pipes-fetch")
        beside = (self._families, self._known, self._made, self._extents, recipe.depth == 16, trust)
        self._lookup = Lookup(self._place, manifest.frames, self._store, self._sources, *beside)
        self._together = self._cached and self._store.direct and (trust or self._remote is None)
        self._looking = ThreadPoolExecutor(workers, thread_name_prefix="dali-pipes-look")
        self._decoding = threading.BoundedSemaphore(workers)  # threads that wait for a server take no processor
        self._children = DecoderPool(workers, self._policy.limits)
        self._books = Bookkeeping(manifest.describe, self.notices)
        self._again = Again(self._store, self._known, self._books, self._threads, self._fetch, recipe.depth == 16)
        self._alone = threading.Lock()

    def request(self, sample: int) -> Item | Future[Item]:
        """Return the base image of a sample: at once if the cache holds it in memory, else as a future.

        Neither raises anything except what a strict cache refuses (`cache.CacheError`).
        """
        lost = self._books.lost(sample)
        if lost is not None:
            return lost
        key = self._known.key(sample)
        if key is not None and self._store.direct:
            image = self._store.get(cache.Key(key))
            if image is not None:
                self._books.count(hits=1)
                return image if self._recipe.depth == 8 else self._threads.submit(self._fetch, sample, image)
        return self._threads.submit(self._fetch, sample)

    def requests(self, samples: Sequence[int]) -> list[Requested]:
        """Return what `request` returns for each sample.

        Those that were had before are looked up at once, or several by each task; the others a chunk in each of a few
        threads.
        """
        found = self._again.requests(samples)
        fresh = [at for at, item in enumerate(found) if item is None] if self._together else []
        size = CHUNK if self._lookup.quick else FEW
        for chunk in (fresh[first : first + size] for first in range(0, len(fresh), size)):
            every = self._looking.submit(self._look, [samples[at] for at in chunk])
            for place, at in enumerate(chunk):
                found[at] = OneOf(every, place)
        return [self.request(sample) if item is None else item for item, sample in zip(found, samples)]

    def _look(self, samples: list[int]) -> list[Item | Future[Item]]:
        """Return the items that the cache holds, and futures of the others."""
        images: list[Pixels | None] = [None] * len(samples)
        with contextlib.suppress(cache.CacheError, MemoryError):  # as whoever fetches them one by one will find
            images = self._lookup.find(samples)
        found: list[Item | Future[Item]] = []
        hits = 0
        for sample, image in zip(samples, images):
            lost = self._books.lost(sample)
            hits += lost is None and image is not None
            if lost is not None:
                found.append(lost)
            elif image is not None and self._recipe.depth == 8:
                self._books.had(sample)
                found.append(image)
            else:
                found.append(self._threads.submit(self._fetch, sample, image))
        self._books.count(hits=hits)
        return found

    def is_cached(self, sample: int) -> bool:
        """Whether the store holds the base image of a sample; False too where its file cannot be read."""
        (named,) = self._lookup.names([sample])
        if named is None:
            try:
                with self._source(sample) as source:
                    content, kind = self._identify(source)
            except (DaliPipesError, OSError):
                return False
            named = Named(content, self._families.of(kind, int(self._manifest.frames[sample])))
        content, family = named
        needed = [family.image(content)]
        if self._recipe.depth == 16:
            needed.append(family.note(content))
        return all(self._store.contains(cache.Key(each)) for each in needed)

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
        this process), `seconds_decoding` (of all workers), and `seconds_for_others`, which they have waited for what
        other processes decode.
        """
        return {**self._books.counts(), "seconds_for_others": self._flight.seconds_waiting}

    def failures(self) -> dict[int, DaliPipesError]:
        """Return the samples that failed when they were last asked for, with their errors."""
        return self._books.failures()

    def close(self) -> None:
        """End threads and child processes; requests that have not begun are dropped."""
        self._flight.close()  # first: threads that wait for another's image would keep theirs waiting
        if self._remote is not None:
            self._remote.close()
        for threads in (self._looking, self._threads):
            threads.shutdown(wait=True, cancel_futures=True)
        self._children.close()
        self._sources.close()
        if self._ledger is not None:
            self._ledger.close()

    def _fetch(self, sample: int, cached: Pixels | None = None) -> Item:
        try:
            item = self._load(sample) if cached is None else self._windowed(cached, self._known.attributes(sample))
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

    def _place(self, sample: int) -> str:
        if self._remote is not None:
            return self._remote.place(self._manifest.paths[sample])
        return self._manifest.locate(sample)[1]

    def _load_from(self, source: Source, sample: int) -> Item:
        frame = int(self._manifest.frames[sample])
        content, kind = self._identify(source)
        family = self._families.of(kind, frame)
        as_it_is = self._encoded and kind.dali and frame == 0 and sample not in self._refused
        by_dali = self._recipe.dali_base_image and kind.dali and not self._cached
        # Whose arithmetic makes the base image; the bits are the same under exact parity.
        made_by = 2 * as_it_is + by_dali if self._recipe.parity == "fast" else 0
        made_of = np.frombuffer(content + family.made(content, made_by), np.uint8)
        same = np.array_equal(self._made[sample], made_of)
        self._made[sample] = made_of
        if as_it_is:
            encoded = source.read()
            if not (same and self._sound[sample]):  # once a run: DALI makes gray areas of damage, and knows no limits
                check_jpeg(encoded, self._policy)
                self._sound[sample] = True
            if self._extents is not None:
                self._extents.read(sample, encoded, kind)
            source.check()
            self._books.count(decoded=1, misses=1)
            return Encoded(np.frombuffer(encoded, np.uint8))
        key, parts = cache.Key(family.image(content)), family.parts(content)
        deep = self._recipe.depth == 16
        note = cache.Key(family.note(content)) if deep else key
        size = None if self._extents is None else cache.Key(family.extent(content))
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
            if self._extents is not None and size is not None and self._policy.reduce is None:  # else it is smaller
                self._extents.keep(sample, decoded.pixels.shape[:2], size, parts)
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
        if self._extents is not None and size is not None:
            self._extents.find(sample, source.read, kind, size, parts)
        self._books.count(**{"misses" if computed else "hits": 1})
        self._known.keep(sample, key.digest, made[-1] if made else None)
        return image if self._recipe.depth == 8 else self._windowed(image, made[-1])

    def _windowed(self, image: Pixels, attributes: str) -> Pixels | Deep:
        if self._recipe.window is None:
            return image
        if self._recipe.jitters:
            return Deep(image, attributes, self._recipe.window)
        return apply_window(image, json.loads(attributes), self._recipe.window)

    def _parts(self, content: bytes, kind: Kind, frame: int) -> Parts:
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
