"""Puts a packed cache behind a URL, where others read it (:mod:`.bucket`): what is not there yet, and nothing else.

Entries that will not change any more are gathered into new segments, one for each segment here, without the slots that
are dead, damaged or there already. Such a segment is named by what it holds, so a push that was killed finds what it
has written. The journal of a segment follows it: readers see a segment when it is there as a whole. Nothing that is
there is replaced or removed, so readers and other pushes may go on meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from hashlib import blake2b
from typing import Any

import numpy as np

from .agreement import fingerprint
from .base import Opening, Options
from .bucket import BucketStore
from .contents import require_cache
from .errors import IntegrityError, SecretError, StoreConfigError, StoreIOError
from .files import Folder, fill
from .integrity import checksum
from .key import default_secret
from .modes import DISK_MODES, find_disk
from .npyformat import header
from .objects import Objects, shown
from .packed import PackedStore
from .records import JOURNALS, journals_in, known_macs, read_journals, records_in, unknown
from .segment import DATA, Segment
from .segment_journal import RECORD, entry_record, header_record, is_abandoned, sealed_record
from .segment_transfer import damaged_records
from .tagging import TAG, TAG_NAME, signature_of, with_signature
from .transfer import named_with, require_readable

Progress = Callable[[int, int], None]
Entry = tuple[int, bytes, bytes]
"""Slot, key and checksum."""


def push(
    directory: str | os.PathLike[str],
    url: str,
    *,
    secret: bytes | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Upload the packed segments of a cache, and what else a reader needs.

    Args:
        directory: the cache.
        url: where it is to be read.
        secret: that of keyed checksums.
        progress: called with (done, total) entries.

    Returns:
        ``directory``, ``url``, ``pushed``, ``present`` and ``growing`` entries (those of segments that a process still
        writes to, left for the next push), keys of ``damaged`` ones and ``conflicts`` (there with other bytes), which
        are left out, ``segments`` and ``bytes`` uploaded, and new ``sources`` and ``notes``.

    Raises:
        StoreConfigError: no cache, or one with entries of other modes. SecretError: names there have another secret.
        StoreIOError: the server failed. What was pushed stays; run it again.
    """
    path = require_cache(directory)
    require_readable(path)
    _check_modes(path)
    try:
        return _Push(path, url, secret, progress or (lambda done, total: None)).run()
    except OSError as error:
        raise StoreIOError(error.errno or 0, f"pushing to {shown(url)} stopped ({error}): run it again") from error


def _check_modes(path: str) -> None:
    others = []
    for mode in DISK_MODES:
        if mode != "pinned" and os.path.isdir(os.path.join(path, mode)):
            with find_disk(mode).store().open(Opening(Options(read_only=True), path)) as store:
                others += [mode] if store.stats()["entries"] else []
    if others:
        raise StoreConfigError(
            f"{path} holds entries of the modes {', '.join(others)}; only packed segments can be read behind a URL. "
            "Make a packed copy and push that: dali-pipes cache export DIR OUT --mode pinned"
        )


class _Push:
    def __init__(self, path: str, url: str, secret: bytes | None, progress: Progress) -> None:
        self._path, self._url, self._secret, self._progress = path, url, secret, progress
        self._objects = Objects(url)
        self._done: dict[str, Any] = {"directory": path, "url": shown(url)}
        self._done |= dict.fromkeys(("pushed", "present", "growing", "segments", "bytes", "sources", "notes"), 0)
        self._done |= {"damaged": [], "conflicts": []}

    def run(self) -> dict[str, Any]:
        try:
            self._sizes = self._objects.sizes()
        except FileNotFoundError:
            self._sizes = {}
        self._sign()
        options = Options(verify="always", read_only=True, secret=self._secret)
        self._push_records(*JOURNALS[0])
        with closing(BucketStore(self._url, options)) as there, PackedStore(self._path, options) as here:
            self._push_segments(here, there)
        self._push_records(*JOURNALS[1])
        return self._done

    def _sign(self) -> None:
        """Compare the fingerprints; write the tag if it says less than it could."""
        size = self._sizes.get(TAG_NAME)
        text = self._objects.part(TAG_NAME, 0, size) if size else b""
        if text and not text.startswith(TAG):
            raise StoreConfigError(f"{shown(self._url)} holds a {TAG_NAME} of another program: choose another URL")
        with closing(Folder(self._path, read_only=True)) as root:
            ours, theirs = named_with(root), signature_of(text)
        foreign = bool(text) and theirs is None and ours is not None and self._is_anothers(ours)
        if foreign or (theirs is not None and ours is not None and ours != theirs):
            whose = f"fingerprint {theirs}" if theirs else "the one that signed its records"
            raise SecretError(
                f"{shown(self._url)}: the names there were made with another secret ({whose}) than those "
                f"in {self._path} ({ours}): push to another URL, or fill the cache with that secret"
            )
        if not text or (theirs is None and ours is not None):
            self._objects.write(TAG_NAME, TAG if ours is None else with_signature(ours))

    def _is_anothers(self, ours: str) -> bool:
        """Whether the records there, beside a tag without a fingerprint, were signed with another secret."""
        secret = default_secret()
        if fingerprint(secret) != ours:
            return False  # a secret that this host does not have tells nothing
        with closing(BucketStore(self._url, Options())) as there:
            return there.signed_with(secret) is False

    def _push_segments(self, here: PackedStore, there: BucketStore) -> None:
        with here._lock:
            ended, entries = here._ended(is_abandoned), here._slots.entries(set(here._slots.numbers))
        self._done["damaged"] += damaged_records(here)
        total, done = sum(map(len, entries.values())), 0
        for token in sorted(entries):
            segment, slots = here._slots.segment(token), sorted(entries[token])
            if token in ended:
                live = [(slot, digest, sum_) for slot, digest in slots if (sum_ := segment.sums.get(slot)) is not None]
                self._push_segment(segment, [entry for entry in live if self._is_new(there, entry)], there)
            else:
                self._done["growing"] += len(slots)
            done += len(slots)
            self._progress(done, total)

    def _is_new(self, there: BucketStore, entry: Entry) -> bool:
        sums = {segment.sums.get(slot) for segment, slot in there.slots.slots_of(entry[1])}
        if entry[2] in sums:
            self._done["present"] += 1
        elif sums:
            self._done["conflicts"].append(entry[1].hex())
        return not sums

    def _push_segment(self, segment: Segment, entries: list[Entry], there: BucketStore) -> None:
        if not entries:
            return
        data, good = self._gathered(segment, entries)
        if not good:
            return
        token = blake2b(b"".join(digest + total for _, digest, total in good), digest_size=8).hexdigest()
        if self._sizes.get(f"pinned/{token}.npy") != len(data):  # else a push that was killed has written it
            self._objects.write(f"pinned/{token}.npy", data)
            self._done["bytes"] += len(data)
        records = [entry_record(token, at, digest, total) for at, (_, digest, total) in enumerate(good)]
        journal = b"".join([header_record(token), *records, sealed_record(token)])
        self._objects.write(f"pinned/{token}.idx", journal)
        there.slots.learn([(token, np.frombuffer(journal, RECORD))])
        self._done["segments"] += 1
        self._done["pushed"] += len(good)

    def _gathered(self, segment: Segment, entries: list[Entry]) -> tuple[memoryview, list[Entry]]:
        """Return a segment of the entries that are what was put, and these."""
        try:
            segment.read_header()
        except IntegrityError:
            self._done["damaged"] += [digest.hex() for _, digest, _ in entries]
            return memoryview(b""), []
        dtype, shape, size = np.dtype(segment.dtype), segment.shape, segment.entry_bytes
        data = memoryview(bytearray(DATA + len(entries) * size))
        good: list[Entry] = []
        with segment.folder.open(segment.name) as fd:
            for slot, digest, total in entries:
                begin = DATA + len(good) * size
                row = data[begin : begin + size]
                try:
                    fill(fd, DATA + slot * size, row)
                    fits = checksum(digest, dtype, shape, [row], self._secret) == total
                except IntegrityError:  # the file ends before
                    fits = False
                if fits:
                    good.append((slot, digest, total))
                else:
                    self._done["damaged"].append(digest.hex())
        data[:DATA] = header(dtype, (len(good), *shape), DATA)
        return data[: DATA + len(good) * size], good

    def _push_records(self, inner: str, suffix: str, record: np.dtype[Any]) -> None:
        """Upload the records that are not there yet, as one journal that is named by what it holds."""
        names = journals_in(self._sizes, inner, suffix)
        known = known_macs(records_in(self._whole(name), record) for name in names)
        new = []
        with closing(Folder(os.path.join(self._path, inner), read_only=True, follow=False)) as folder:
            for records in read_journals(folder, suffix, record):
                more, known = unknown(records, known)
                new.append(more.tobytes())
        data = b"".join(new)
        if data:
            self._objects.write(f"{inner}/{blake2b(data, digest_size=8).hexdigest()}{suffix}", data)
            self._done["bytes"] += len(data)
        self._done["notes" if inner == "parts" else inner] = len(data) // record.itemsize

    def _whole(self, name: str) -> bytes:
        return self._objects.span(name, 0, self._sizes[name])
