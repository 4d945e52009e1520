"""What an owner of a cache folder wants to know and do: stats, verify, gc, purge and explain.

Every function takes the folder and gives a plain dict of JSON values. Only files of ours are ever counted or removed
(:mod:`.contents`), and only in a folder that carries our CACHEDIR.TAG.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from . import contents, nearby, sources
from . import notes as note_records
from .access import Access
from .base import Opening, Options, Store
from .contents import look, remove, require_cache
from .errors import IntegrityError
from .files import Folder
from .flight import left_behind
from .journal import is_journal, merge_journals
from .key import Key
from .modes import REGISTRY
from .parts import PartsLedger
from .pruning import prune
from .tagging import TAG_NAME, access_to

_JOURNALS = {  # suffix, and bytes of a record
    "sources": (sources.SUFFIX, sources.RECORD.itemsize),
    "parts": (note_records.SUFFIX, note_records.RECORD.itemsize),
}
_SUPERSEDED = (".src", ".prt")  # journals of layouts that nobody reads any more
Progress = Callable[[int, int], None]


def _stores(directory: str, options: Options) -> Iterator[Store]:
    """Yield the stores of the modes that the folder holds."""
    for mode in REGISTRY:
        if mode.on_disk and os.path.isdir(os.path.join(directory, mode.name)):
            yield mode.store().open(Opening(options, directory))


def stats(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Return ``entries`` and ``bytes`` in all, and both by mode.

    Also ``quarantined`` entries, ``sources`` (records of source files) and ``unknown`` files.
    """
    path = require_cache(directory)
    modes = {}
    for store in _stores(path, Options(read_only=True)):
        held = store.stats()
        modes[store.mode] = {"entries": held["entries"], "bytes": held["bytes"]}
        store.close()
    found = look(path)
    folder = Folder(os.path.join(path, "sources"), read_only=True, follow=False)
    suffix, record = _JOURNALS["sources"]
    known = sum(status.st_size // record for name, status in folder.scan() if is_journal(name, suffix))
    folder.close()
    return {
        "directory": path,
        "entries": sum(mode["entries"] for mode in modes.values()),
        "bytes": sum(mode["bytes"] for mode in modes.values()),
        "modes": modes,
        "quarantined": len(found.quarantined),
        "sources": known,
        "unknown": len(found.unknown),
    }


def verify(
    directory: str | os.PathLike[str],
    secret: bytes | None = None,
    repair: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Read every entry.

    Args:
        directory: the cache.
        secret: the one that keyed checksums were made with.
        repair: put the damaged entries into quarantine and remove orphans.
        progress: called with (done, total) after each entry.

    Returns:
        ``entries`` that are good, ``corrupt`` ones (their keys in ``keys``), ``orphans`` (files half made) and
        ``errors``.
    """
    path = require_cache(directory)
    good, bad = 0, []
    left = _left_beside(path, not repair)
    options = Options(verify="always", secret=secret, read_only=not repair)
    stores = list(_stores(path, options))
    work = [(store, key) for store in stores for key in store.keys()]  # noqa: SIM118
    orphans = len(left) + sum(len(store.orphans()) for store in stores)
    for done, (store, key) in enumerate(work, 1):
        before = store.corrupt + store.errors
        if store.get(key) is not None:
            good += 1
        elif store.corrupt + store.errors > before or store.contains(key):  # else it was removed meanwhile
            bad.append(key.hex)
        if progress is not None:
            progress(done, len(work))
    errors = sum(store.errors for store in stores)
    for store in stores:
        store.close()
    remove(path, left if repair else ())
    found = {"directory": path, "entries": good, "corrupt": len(bad), "orphans": orphans, "errors": errors}
    return {**found, "repaired": repair, "keys": bad}


def _left_beside(path: str, read_only: bool) -> list[str]:
    """Return what dead processes left beside the stores: temporary files, and claims of keys."""
    found: list[str] = []
    for inner in ("", "sources", "claims", "parts", "bucket"):
        if not os.path.isdir(os.path.join(path, inner)):
            continue
        folder = Folder(os.path.join(path, inner), read_only=read_only, follow=not inner)
        found += [os.path.join(inner, name) for name in (left_behind if inner == "claims" else Folder.orphans)(folder)]
        folder.close()
    return found


def gc(directory: str | os.PathLike[str], disk_bytes: int | None = None, dry_run: bool = False) -> dict[str, Any]:
    """Remove what nobody needs.

    That is orphans, quarantined entries, stale claims, journals of old layouts, and entries beyond ``disk_bytes`` (per
    mode, oldest first). Then small segments of the pinned mode are merged, and small journals, which others may go on
    using meanwhile. In another user's cache nothing is merged except in a group's, because the copies would be for
    this user alone.

    Returns:
        ``orphans``, ``quarantined``, ``evicted``, ``merged`` (by how many segments and journals there are fewer),
        ``notes`` (dropped with their entries) and ``freed`` bytes. With ``dry_run`` nothing is changed, ``notes`` is 0
        and ``freed`` counts quarantined entries only.
    """
    path = require_cache(directory)
    before = look(path)
    stores = list(_stores(path, Options(disk_bytes=disk_bytes, read_only=True)))
    left = _left_beside(path, dry_run) + [name for name, _ in before.ours if name.endswith(_SUPERSEDED)]
    orphans = len(left) + sum(len(store.orphans()) for store in stores)
    merged = sum(_compact(path, store, dry_run=True) for store in stores) + _merge_journals(path, dry_run=True)
    evicted = sum(store.trim(dry_run=True) for store in stores)
    for store in stores:
        store.close()
    notes, freed = 0, sum(size for _, size in before.quarantined)
    if not dry_run:
        evicted = merged = 0
        for store in _stores(path, Options(disk_bytes=disk_bytes)):  # opening sweeps the orphans
            evicted += store.trim()
            merged += _compact(path, store)
            store.close()
        remove(path, [*left, *(name for name, _ in before.quarantined)])
        merged += _merge_journals(path)
        notes = _prune_notes(path)
        freed = before.size - look(path).size
    done = {"orphans": orphans, "quarantined": len(before.quarantined), "evicted": evicted, "merged": merged}
    return {"directory": path, "dry_run": dry_run, **done, "notes": notes, "freed": freed}


def _compact(path: str, store: Store, dry_run: bool = False) -> int:
    return store.compact(dry_run) if _may_merge(path) else 0


def _may_merge(path: str) -> bool:
    """Whether who made the cache can read what this user writes into it."""
    return os.stat(os.path.join(path, TAG_NAME)).st_uid == os.getuid() or access_to(path, None) != Access()


def _merge_journals(path: str, dry_run: bool = False) -> int:
    if not _may_merge(path):
        return 0
    fewer = 0
    for inner, (suffix, size) in _JOURNALS.items():
        folder = Folder(os.path.join(path, inner), access_to(path, None), read_only=True, follow=False)
        with contextlib.suppress(OSError, IntegrityError):  # no room, say: they stay as they are
            fewer += merge_journals(folder, suffix, size, dry_run)
        folder.close()
    return fewer


def _prune_notes(path: str) -> int:
    """Drop what was noted of entries that no mode still holds; all may come again from a base behind a URL."""
    if not _may_merge(path) or os.path.isdir(os.path.join(path, nearby.FOLDER)):
        return 0
    stores = list(_stores(path, Options(read_only=True)))
    folder = Folder(os.path.join(path, "parts"), access_to(path, None), read_only=True, follow=False)
    try:
        return prune(folder, lambda key: any(store.contains(key) for store in stores))
    except (OSError, IntegrityError):  # no room, say: they stay as they are
        return 0
    finally:
        folder.close()
        for store in stores:
            store.close()


def purge(directory: str | os.PathLike[str], keys: list[Key] | None = None, dry_run: bool = True) -> dict[str, Any]:
    """Remove the entries of ``keys``, or all; the cache can go on being used. Only counts unless ``dry_run=False``.

    Gives ``entries`` (for ``keys``) or ``files`` and ``bytes`` (for all), and ``unknown``: files that are not ours
    and stay. Raises StoreConfigError if the folder does not carry our tag.
    """
    path = require_cache(directory)
    if keys is not None:
        removed = 0
        for store in _stores(path, Options(read_only=dry_run)):
            removed += sum(store.contains(key) if dry_run else store.delete(key) for key in keys)
            store.close()
        return {"directory": path, "dry_run": dry_run, "entries": removed, "unknown": len(look(path).unknown)}
    held = look(path) if dry_run else contents.purge(path)
    files = len(held.ours) + len(held.quarantined)
    return {"directory": path, "dry_run": dry_run, "files": files, "bytes": held.size, "unknown": len(held.unknown)}


def explain(
    directory: str | os.PathLike[str],
    key: Key,
    parts: Mapping[str, str | int | bytes] | None = None,
    *,
    source: str = "source",
    name_secret: bytes | None = None,
    secret: bytes | None = None,
) -> dict[str, Any]:
    """Say why the entry ``key`` would hit or miss.

    ``hit``; ``modes``: for each mode in the folder ``"good"``, ``"damaged"`` or ``"absent"``; with ``parts`` (those
    of the key, as they were given to :class:`.PartsLedger`) also ``noted``, ``nearest`` and ``parts`` of its
    ``explain``. ``name_secret`` is the ledger's secret, ``secret`` that of keyed checksums.
    """
    path = require_cache(directory)
    modes = {}
    for store in _stores(path, Options(verify="always", read_only=True, secret=secret)):
        there = store.contains(key)
        modes[store.mode] = "absent" if not there else "good" if store.get(key) is not None else "damaged"
        store.close()
    found: dict[str, Any] = {"directory": path, "key": key.hex, "hit": "good" in modes.values(), "modes": modes}
    if parts is not None:
        ledger = PartsLedger(path, source=source, secret=name_secret, read_only=True)
        found |= ledger.explain(parts)
        ledger.close()
    return found
