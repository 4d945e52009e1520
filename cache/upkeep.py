"""What an owner of a cache folder wants to know and do: stats, verify, gc, purge, and removal.

Every function takes the folder and gives a plain dict of JSON values. Only files whose names this package gives are
ever counted or removed, and only in a folder that carries our CACHEDIR.TAG; whatever else lies there is left alone
and counted as ``unknown``.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from . import parts, sources
from .access import Access
from .base import BaseStore, Options
from .budget import QUARANTINE
from .errors import IntegrityError, StoreConfigError
from .files import TAG_NAME, Folder, access_to, is_tagged
from .flight import left_behind
from .journal import is_journal, merge_journals
from .key import Key
from .packed import PackedStore
from .parts import PartsLedger
from .pruning import prune

_SEGMENT = re.compile(r"[0-9a-f]{16}\.(npy|idx|del)")
_TEMPORARY = re.compile(r"\.[0-9a-f]{16}-[0-9]+-[0-9]+\.[0-9a-f]{16}\.tmp")
_ENTRY = r"[0-9a-f]{2}/[0-9a-f]{32}"
_PATTERNS = {
    "disk": re.compile(_ENTRY + r"\.png"),
    "npy": re.compile(_ENTRY + r"\.npy"),
    "tensor-disk": re.compile(_ENTRY + r"\.pt"),
    "tensor-memmap": re.compile(_ENTRY + r"\.(json|[0-9a-f]{16}-[0-9]+-[0-9]+\.[0-9a-f]{16}\.dat)"),
    "pinned": _SEGMENT,
    "sources": re.compile(r"[0-9a-f]{16}\.(seen|src)"),
    "claims": re.compile(r"[0-9a-f]{32}\.claim|[0-9a-f]{16}\.now"),
    "parts": re.compile(r"[0-9a-f]{16}\.(made|prt)"),
}
_JOURNALS = {  # suffix, and bytes of a record
    "sources": (sources.SUFFIX, sources.RECORD.itemsize),
    "parts": (parts.SUFFIX, parts.RECORD.itemsize),
}
_SUPERSEDED = (".src", ".prt")  # journals of layouts that nobody reads any more
_SET_ASIDE = re.compile(QUARANTINE + r"/[0-9a-f]{16}(-[0-9]+)?\.(png|npy|pt|json|dat)")
MODES_ON_DISK = ("disk", "npy", "tensor-disk", "tensor-memmap", "pinned")
Progress = Callable[[int, int], None]


def _stores(directory: str, options: Options) -> Iterator[BaseStore]:
    """The stores of the modes that the folder holds."""
    from .store import open_disk

    for mode in MODES_ON_DISK:
        if os.path.isdir(os.path.join(directory, mode)):
            yield open_disk(mode)(directory, options)


def _require_cache(directory: str | os.PathLike[str]) -> str:
    path = os.path.abspath(os.fspath(directory))
    folder = Folder(path, read_only=True)
    try:
        if not is_tagged(folder):
            raise StoreConfigError(
                f"{path} is not a cache of dali-pipes (it has no {TAG_NAME} of ours): "
                "give the folder that was given as cache_dir"
            )
    finally:
        folder.close()
    return path


def stats(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """``entries`` and ``bytes`` in all, and both by mode.

    ``quarantined``, ``sources`` (known source files) and ``unknown`` files.
    """
    path = _require_cache(directory)
    modes = {}
    for store in _stores(path, Options(read_only=True)):
        found = store.stats()
        modes[store.mode] = {"entries": found["entries"], "bytes": found["bytes"]}
        store.close()
    kinds = _sorted(path)
    folder = Folder(os.path.join(path, "sources"), read_only=True)
    suffix, record = _JOURNALS["sources"]
    known = sum(status.st_size // record for name, status in folder.scan() if is_journal(name, suffix))
    folder.close()
    return {
        "directory": path,
        "entries": sum(mode["entries"] for mode in modes.values()),
        "bytes": sum(mode["bytes"] for mode in modes.values()),
        "modes": modes,
        "quarantined": len(kinds["quarantined"]),
        "sources": known,
        "unknown": len(kinds["unknown"]),
    }


def verify(
    directory: str | os.PathLike[str],
    secret: bytes | None = None,
    repair: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Reads every entry.

    ``entries`` that are good, ``corrupt`` ones (their keys in ``keys``), and ``orphans``, files half made.

    ``repair`` puts the corrupt ones into quarantine and removes orphans. ``progress(done, total)`` is called after
    each entry. Keyed checksums need the ``secret`` that they were made with.
    """
    path = _require_cache(directory)
    good, bad = 0, []
    left = _left_beside(path)
    options = Options(verify="always", secret=secret, read_only=not repair)
    stores = list(_stores(path, options))
    work = [(store, key) for store in stores for key in store.keys()]  # noqa: SIM118
    orphans = len(left) + sum(len(orphans_of(store)) for store in stores)
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
    for name in left if repair else ():
        _delete(path, name)
    found = {"directory": path, "entries": good, "corrupt": len(bad), "orphans": orphans, "errors": errors}
    return {**found, "repaired": repair, "keys": bad}


def orphans_of(store: BaseStore) -> list[str]:
    """Names of files that a killed process left in a store's folder."""
    found: list[str] = store.orphans()  # type: ignore[attr-defined]
    return found


def _left_beside(path: str) -> list[str]:
    """What dead processes left beside the stores: temporary files, and claims of keys."""
    found: list[str] = []
    for inner in ("", "sources", "claims", "parts"):
        folder = Folder(os.path.join(path, inner), read_only=True)
        found += [os.path.join(inner, name) for name in (left_behind if inner == "claims" else Folder.orphans)(folder)]
        folder.close()
    return found


def gc(directory: str | os.PathLike[str], disk_bytes: int | None = None, dry_run: bool = False) -> dict[str, Any]:
    """Removes what nobody needs.

    Orphans, quarantined entries, stale claims, journals of old layouts, and entries beyond ``disk_bytes`` (per mode,
    oldest first); then merges small segments of the pinned mode, and small journals, which others may go on using
    meanwhile. In another user's cache nothing is merged, unless it is a group's: the copies would be for this user
    alone.

    Gives ``orphans``, ``quarantined``, ``evicted``, ``merged`` (by how many segments and journals there are fewer),
    ``notes`` (dropped with their entries) and ``freed`` bytes; with ``dry_run`` nothing is changed, and ``evicted`` and
    ``notes`` are 0.
    """
    path = _require_cache(directory)
    kinds = _sorted(path)
    stores = list(_stores(path, Options(read_only=True)))
    left = _left_beside(path) + [name for name, _ in kinds["ours"] if name.endswith(_SUPERSEDED)]
    orphans = len(left) + sum(len(orphans_of(store)) for store in stores)
    merged = sum(_compact(path, store, dry_run=True) for store in stores) + _merge_journals(path, dry_run=True)
    for store in stores:
        store.close()
    before = _total(path)
    evicted = notes = 0
    if not dry_run:
        merged = 0
        for store in _stores(path, Options(disk_bytes=disk_bytes)):  # opening sweeps the orphans
            if disk_bytes is not None:
                evicted += store.trim()  # type: ignore[attr-defined]
            merged += _compact(path, store)
            store.close()
        for name in [*left, *(name for name, _ in kinds["quarantined"])]:
            _delete(path, name)
        merged += _merge_journals(path)
        notes = _prune_notes(path)
    freed = sum(size for _, size in kinds["quarantined"]) if dry_run else before - _total(path)
    done = {"orphans": orphans, "quarantined": len(kinds["quarantined"]), "evicted": evicted, "merged": merged}
    return {"directory": path, "dry_run": dry_run, **done, "notes": notes, "freed": freed}


def _compact(path: str, store: BaseStore, dry_run: bool = False) -> int:
    return store.compact(dry_run) if isinstance(store, PackedStore) and _may_merge(path) else 0


def _may_merge(path: str) -> bool:
    """Whether who made the cache can read what this user writes into it."""
    return os.stat(os.path.join(path, TAG_NAME)).st_uid == os.getuid() or access_to(path, None) != Access()


def _merge_journals(path: str, dry_run: bool = False) -> int:
    if not _may_merge(path):
        return 0
    fewer = 0
    for inner, (suffix, size) in _JOURNALS.items():
        folder = Folder(os.path.join(path, inner), access_to(path, None), read_only=True)
        with contextlib.suppress(OSError, IntegrityError):  # no room, say: they stay as they are
            fewer += merge_journals(folder, suffix, size, dry_run)
        folder.close()
    return fewer


def _prune_notes(path: str) -> int:
    """Drops what was noted of entries that no mode holds any more."""
    if not _may_merge(path):
        return 0
    stores = list(_stores(path, Options(read_only=True)))
    folder = Folder(os.path.join(path, "parts"), access_to(path, None), read_only=True)
    try:
        return prune(folder, lambda key: any(store.contains(key) for store in stores))
    except (OSError, IntegrityError):  # no room, say: they stay as they are
        return 0
    finally:
        folder.close()
        for store in stores:
            store.close()


def purge(directory: str | os.PathLike[str], keys: list[Key] | None = None, dry_run: bool = True) -> dict[str, Any]:
    """Removes the entries of ``keys``, or all; the cache can go on being used. Only counts unless ``dry_run=False``.

    Gives ``entries`` (for ``keys``) or ``files`` and ``bytes`` (for all), and ``unknown``: files that are not ours
    and stay. Raises StoreConfigError if the folder does not carry our tag.
    """
    path = _require_cache(directory)
    kinds = _sorted(path)
    unknown = len(kinds["unknown"])
    if keys is not None:
        removed = 0
        for store in _stores(path, Options(read_only=dry_run)):
            removed += sum(store.contains(key) if dry_run else store.delete(key) for key in keys)
            store.close()
        return {"directory": path, "dry_run": dry_run, "entries": removed, "unknown": unknown}
    ours = kinds["ours"] + kinds["quarantined"]
    if not dry_run:
        for name, _ in ours:
            _delete(path, name)
    size = sum(size for _, size in ours)
    return {"directory": path, "dry_run": dry_run, "files": len(ours), "bytes": size, "unknown": unknown}


def remove_cache(directory: str) -> None:
    """Removes a cache: the files that we made, then the folders that are empty by then, the tag last."""
    root = Folder(directory, read_only=True)
    if not is_tagged(root):
        return
    kinds = _sorted(directory)
    for name, _ in kinds["ours"] + kinds["quarantined"]:
        _delete(directory, name)
    for mode in _PATTERNS:
        inner = Folder(os.path.join(directory, mode), read_only=True)
        for shard in inner.shards():
            inner.remove_folder(shard)
        inner.close()
        root.remove_folder(mode)
    if set(root.names()) == {TAG_NAME}:
        root.delete(TAG_NAME)
        root.remove_folder()
    root.close()


def _sorted(directory: str) -> dict[str, list[tuple[str, int]]]:
    """(name, bytes on disk) of every file: ours, quarantined and unknown.

    The tag and files of the root are not counted as ours.
    """
    kinds: dict[str, list[tuple[str, int]]] = {"ours": [], "quarantined": [], "unknown": []}
    root = Folder(directory, read_only=True)
    for name in root.names():
        if name in _PATTERNS or name == TAG_NAME:
            continue
        kinds["ours" if _TEMPORARY.fullmatch(name) else "unknown"].append((name, 0))
    root.close()
    for mode, pattern in _PATTERNS.items():
        folder = Folder(os.path.join(directory, mode), read_only=True)
        for name, status in folder.scan():
            kind = "unknown"
            if pattern.fullmatch(name) or _TEMPORARY.fullmatch(name):
                kind = "ours"
            elif _SET_ASIDE.fullmatch(name):
                kind = "quarantined"
            kinds[kind].append((f"{mode}/{name}", status.st_blocks * 512))
        folder.close()
    return kinds


def _total(directory: str) -> int:
    kinds = _sorted(directory)
    return sum(size for kind in ("ours", "quarantined") for _, size in kinds[kind])


def _delete(directory: str, name: str) -> None:
    mode, slash, rest = name.partition("/")
    folder = Folder(os.path.join(directory, mode) if slash else directory, read_only=True)
    folder.delete(rest or mode)
    folder.close()


def explain(
    directory: str | os.PathLike[str],
    key: Key,
    parts: Mapping[str, str | int | bytes] | None = None,
    *,
    source: str = "source",
    name_secret: bytes | None = None,
    secret: bytes | None = None,
) -> dict[str, Any]:
    """Why the entry ``key`` would hit or miss.

    ``hit``; ``modes``: for each mode in the folder ``"good"``, ``"damaged"`` or ``"absent"``; with ``parts`` (those
    of the key, as they were given to :class:`.PartsLedger`) also ``noted``, ``nearest`` and ``parts`` of its
    ``explain``. ``name_secret`` is the ledger's secret, ``secret`` that of keyed checksums.
    """
    path = _require_cache(directory)
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
