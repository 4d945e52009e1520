"""One cache made of several: what hosts wrote each for themselves, or what is moved to another machine.

Every entry is checked before it counts. A whole segment, or the file of an entry, is linked where both caches lie on
one file system and belong to one user, else copied. An entry that is there already is never replaced. Running it again
adds nothing, and after a kill it goes on: what was not finished is swept when the cache is next opened.

Source records and notes on what entries were made of travel too, so that the new owner decodes nothing, and can
``explain`` and ``purge`` as the old one could. All names in a cache are made with one secret: the fingerprints in the
tags must be equal.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from typing import Any

import numpy as np

from .access import Access
from .agreement import fingerprint, sign, signed_with
from .base import Array, Opening, Options, Store
from .contents import require_cache
from .errors import IntegrityError, SecretError, StoreConfigError, StoreIOError
from .files import Folder
from .filestore import FileStore
from .journal import is_journal
from .key import Key, default_secret
from .linking import carry, is_same
from .modes import DISK_MODES, find_disk
from .packed import PackedStore
from .records import JOURNALS, add_records, read_journals
from .segment_transfer import SegmentTransfer, Tally
from .tagging import access_to, signature, tag

Progress = Callable[[int, int], None]


def import_parts(
    directory: str | os.PathLike[str],
    parts: Sequence[str | os.PathLike[str]],
    *,
    secret: bytes | None = None,
    part_secret: bytes | None = None,
    link: bool = True,
    mode: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Add what other caches hold to one cache.

    Args:
        directory: the cache that is added to; made if it is missing.
        parts: caches; they are only read.
        secret: that of keyed checksums here.
        part_secret: that of the parts. If they differ, checksums are made anew.
        link: link files where that is possible; False copies all, so that nothing done to a part's files shows here.
        mode: the disk mode that entries get here; by default each keeps its own.
        progress: called with (done, total) entries.

    Returns:
        ``directory``, ``imported``, ``present``, ``linked``, ``damaged``, ``conflicts``, ``sources`` and ``notes``
        (numbers, over all parts), and ``parts``: the same for each, with the keys of what was left out.

    Raises:
        StoreConfigError: a part is no cache, or the cache itself. SecretError: names were made with different secrets.
        StoreIOError: the disk failed. What was imported stays; run it again.
    """
    path = os.path.abspath(os.fspath(directory))
    found = [require_cache(part) for part in parts]
    if mode is not None:
        find_disk(mode)
    if any(os.path.realpath(part) == os.path.realpath(path) for part in found):
        raise StoreConfigError(f"{path} cannot be imported into itself: give other caches as its parts")
    if not found:
        raise StoreConfigError(f"nothing to import into {path}: give one or more caches")
    for part in found:
        require_readable(part)
    try:
        for part in found:
            _agree(path, part)
        tallies = _import_all(path, found, secret, part_secret, link, mode, progress or (lambda done, total: None))
    except OSError as error:
        raise StoreIOError(
            error.errno or 0, f"importing into {path} stopped ({error.strerror or error}): run it again"
        ) from error
    counts = [tally.counts() for tally in tallies]
    whole = {name: sum(each[name] for each in counts) for name in counts[0]}
    return {"directory": path, **whole, "parts": [tally.document(part) for part, tally in zip(found, tallies)]}


def export(
    directory: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    secret: bytes | None = None,
    out_secret: bytes | None = None,
    link: bool = True,
    mode: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a sound copy of a cache, to be moved elsewhere; the same as importing it into ``out``.

    Args:
        directory: the cache.
        out: the copy; it may be there already, and gets what it lacks then.
        secret: that of keyed checksums.
        out_secret: that of the copy. If they differ, its checksums are made anew.
        link: as of :func:`import_parts`, whose result and errors this has too.
        mode: the disk mode of the copy's entries; by default as they are.
        progress: called with (done, total) entries.
    """
    return import_parts(
        out, [directory], secret=out_secret, part_secret=secret, link=link, mode=mode, progress=progress
    )


def require_readable(directory: str) -> None:
    """Raise StoreIOError for a cache with journals of another user's: what they tell of would be left out."""
    for inner, *suffixes in (("pinned", ".idx", ".del"), *((inner, suffix) for inner, suffix, _ in JOURNALS)):
        with closing(Folder(os.path.join(directory, inner), read_only=True, follow=False)) as folder:
            try:
                for name in folder.names():
                    if any(is_journal(name, suffix) for suffix in suffixes):
                        with suppress(FileNotFoundError), folder.open(name):
                            pass
            except PermissionError as error:
                raise StoreIOError(
                    errno.EACCES,
                    f"{directory}: files in {inner} are another user's and cannot be read ({error.strerror}), so some "
                    "of this cache would be left out: do this as the user who made it",
                ) from None


def _agree(path: str, part: str) -> None:
    """Make sure that names in both are made with one secret, and that the cache's tag says with which."""
    with closing(Folder(path, access_to(path, None))) as root, closing(Folder(part, read_only=True)) as other:
        tag(root)
        theirs, ours = named_with(other), named_with(root)
        if theirs is None:
            return
        ours = ours or sign(root, theirs)
        if ours != theirs:
            raise SecretError(
                f"{part}: the names in it were made with another secret (fingerprint {theirs}) than those in {path} "
                f"({ours}), so nothing of it would be found there. Fill caches that become one with the same "
                "DALI_PIPES_CACHE_SECRET, or re-key a copy of this one with 'dali-pipes cache export'."
            )


def named_with(root: Folder) -> str | None:
    """Return the fingerprint of the secret of a cache's names; None if there are no records that would tell."""
    found = signature(root)
    if found is None and signed_with(root, b"") is not None:
        mine = default_secret()
        if not signed_with(root, mine):
            raise SecretError(
                f"{root.path}: its tag does not say with which secret its names were made, and its records were signed "
                "with another than yours: open it once on the host that made it, which notes it in the tag"
            )
        return fingerprint(mine)
    return found


def _import_all(
    path: str,
    parts: list[str],
    secret: bytes | None,
    part_secret: bytes | None,
    link: bool,
    mode: str | None,
    progress: Progress,
) -> list[Tally]:
    theirs, ours = Options(verify="always", read_only=True, secret=part_secret), Options(secret=secret, strict=True)
    access = access_to(path, None)
    with ExitStack() as stack:
        work: list[list[tuple[Store, list[Key]]]] = []
        for part in parts:
            opened = [stack.enter_context(store) for store in open_held(part, theirs)]
            work.append([(store, store.keys()) for store in opened])
        total = sum(len(keys) for held in work for _, keys in held)
        done = 0

        def tick(count: int = 1) -> None:
            nonlocal done
            done += count
            progress(min(done, total), total)

        wanted = {mode or store.mode for held in work for store, _ in held}
        here = {name: stack.enter_context(open_disk(name, path, ours)) for name in sorted(wanted)}
        tallies = []
        for part, held in zip(parts, work):
            tally = Tally(notes=_add_records(part, path, access, *JOURNALS[0]))  # notes are there before their entries
            for store, keys in held:
                _import_mode(here[mode or store.mode], store, keys, tally, link, tick)
            tally.sources = _add_records(part, path, access, *JOURNALS[1])
            tallies.append(tally)
        return tallies


def open_held(directory: str | os.PathLike[str], options: Options) -> Iterator[Store]:
    """Open the store of each mode that a cache holds. Raises StoreConfigError if the folder is no cache."""
    path = require_cache(directory)
    for mode in DISK_MODES:
        if os.path.isdir(os.path.join(path, mode)):
            yield open_disk(mode, path, options)


def open_disk(mode: str, directory: str, options: Options) -> Store:
    """Open the store of a disk mode in a folder that is there."""
    return find_disk(mode).store().open(Opening(options, directory))


def _import_mode(
    store: Store, part: Store, keys: list[Key], tally: Tally, link: bool, tick: Callable[..., None]
) -> None:
    if store.mode == part.mode and store.options.secret == part.options.secret:
        if isinstance(store, PackedStore) and isinstance(part, PackedStore):
            SegmentTransfer(store, part, tally, link, tick).run()
            return
        if isinstance(store, FileStore) and isinstance(part, FileStore):
            for key in keys:
                _import_file(store, part, key, tally, link)
                tick()
            return
    for key in keys:
        import_entry(store, part, key, tally)
        tick()


def import_entry(store: Store, part: Store, key: Key, tally: Tally, name: Key | None = None) -> None:
    """Put one entry as any other is put, unless there is one; under another ``name`` if one is given."""
    name = name or key
    failed = part.corrupt + part.errors
    array = part.get(key)
    if array is None:
        if part.corrupt + part.errors > failed:  # else it was removed meanwhile
            tally.damaged.append(key.hex)
        return
    there = _sound(store, name)
    if there is None:
        store.put(name, array)
        tally.imported += 1
    elif is_same(there, array):
        tally.present += 1
    else:
        tally.conflicts.append(key.hex)


def _sound(store: Store, key: Key) -> Array | None:
    """Return an entry; None if there is none, or a damaged one, which is set aside."""
    try:
        return store.get(key)
    except IntegrityError:
        return None


def _import_file(store: FileStore, part: FileStore, key: Key, tally: Tally, link: bool) -> None:
    """Take over the files of an entry, which are the same in every cache with these checksums."""
    there = store.content(key)
    if there is not None:
        if there == part.content(key):
            tally.present += 1
        elif part.get(key) is None:
            tally.damaged.append(key.hex)
        else:
            tally.conflicts.append(key.hex)
        return
    failed = part.corrupt + part.errors
    if part.get(key) is None:
        if part.corrupt + part.errors > failed:  # else it was removed meanwhile
            tally.damaged.append(key.hex)
        return
    if store.contains(key):
        _sound(store, key)  # it is damaged: it makes room
    *beside, last = part.files_of(key)
    for name in beside:
        with suppress(FileExistsError):  # of an import that was killed; the name belongs to this content
            carry(part.folder, name, store.folder, name, link)
    try:
        tally.linked += carry(part.folder, last, store.folder, last, link)
    except FileExistsError:  # another process was first
        tally.present += 1
    else:
        tally.imported += 1


def _add_records(part: str, path: str, access: Access, inner: str, suffix: str, record: np.dtype[Any]) -> int:
    with closing(Folder(os.path.join(part, inner), read_only=True, follow=False)) as theirs:
        return add_records(os.path.join(path, inner), access, suffix, record, read_journals(theirs, suffix, record))
