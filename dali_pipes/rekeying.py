"""Copy a cache under another secret: for a host, or a hospital, that is to use it without learning this one's secret.

A name in a cache is a keyed digest of what its entry was made of, and cannot be turned into another. So the names are
made again, from the samples and the recipe that the entries were made for; nothing is decoded.

    sample ──> content and kind (from the source index, else its file is read) ──> old name ──> entry ──> new name
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any

from dali_pipes import cache
from dali_pipes.cache.base import Options
from dali_pipes.cache.segment_transfer import Tally
from dali_pipes.cache.transfer import import_entry, open_held
from dali_pipes.errors import ConfigError, DaliPipesError
from dali_pipes.fetch.fetcher import Fetcher
from dali_pipes.fetch.keys import Families, Family
from dali_pipes.fetch.study_fetch import masks_of
from dali_pipes.manifest.manifest import Manifest
from dali_pipes.manifest.studies import Studies
from dali_pipes.recipe import Recipe

Progress = Callable[[int, int], None]


def rekey(
    manifest: Manifest,
    recipe: Recipe,
    directory: str | os.PathLike[str],
    out: str | os.PathLike[str],
    names: bytes,
    *,
    secret: bytes | None = None,
    out_secret: bytes | None = None,
    decode_options: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write what a cache holds of a manifest's samples under one recipe into another cache, with other names.

    Each entry is checked; source records and notes are made anew. It may be run again, for another recipe too.

    Args:
        manifest: the samples, with their files in place.
        recipe: decides which base images, sizes and masks are copied.
        directory: the cache, with names made with the secret of this host.
        out: the copy.
        names: the secret that the names of the copy are made with, such as `cache.secret_in` gives.
        secret: that of keyed checksums.
        out_secret: that of the copy.
        decode_options: as of the `Loader` that filled the cache.
        progress: called with (done, total) samples.

    Returns:
        As `cache.transfer.export`, and `samples`, `unreadable` (samples whose files are gone or cannot be read) and
        `left` (entries of other recipes, samples or modules, which were not copied).

    Raises:
        ConfigError: a manifest of studies. cache.SecretError: the cache's names were made with another secret.
    """
    if isinstance(manifest, Studies):
        raise ConfigError("rekey: give the manifest of single images from which the studies were made.")
    policy = replace(recipe.decode_policy, **(decode_options or {}))
    found: dict[str, Any] = {"samples": len(manifest), "unreadable": 0}
    tally = Tally()
    with ExitStack() as stack:
        old = open_held(directory, Options(verify="always", read_only=True, secret=secret))
        pairs = [(stack.enter_context(store), stack.enter_context(_beside(store, out, out_secret))) for store in old]
        if not pairs:
            raise ConfigError(f"rekey: {os.fspath(directory)} holds no entries.")
        seen: list[set[bytes]] = [set() for _ in pairs]
        records = stack.enter_context(closing(cache.SourceIndex(out, secret=names)))
        notes = stack.enter_context(closing(cache.PartsLedger(out, secret=names)))
        fetchers = [stack.enter_context(closing(Fetcher(manifest, recipe, pairs[0][0], workers=1, policy=policy)))]
        its_masks = masks_of(manifest, recipe, pairs[0][0], workers=1, policy=policy)
        if its_masks is not None:
            fetchers.append(stack.enter_context(closing(its_masks))._fetcher)
        for done in range(len(manifest)):
            for fetcher in fetchers:
                if fetcher is fetchers[0] or its_masks is None or its_masks._there[done]:
                    found["unreadable"] += not _move(fetcher, done, names, pairs, seen, records, notes, tally)
            if progress is not None:
                progress(done + 1, len(manifest))
        found["left"] = sum(
            key.digest not in asked
            for (store, _), asked in zip(pairs, seen)
            for key in store.keys()  # noqa: SIM118
        )
    part = tally.document(os.path.abspath(os.fspath(directory)))
    return {"directory": os.path.abspath(os.fspath(out)), **tally.counts(), **found, "parts": [part]}


def _beside(store: cache.Store, out: str | os.PathLike[str], secret: bytes | None) -> cache.Store:
    return cache.open_store(store.mode, out, strict=True, secret=secret)


def _move(
    fetcher: Fetcher,
    sample: int,
    names: bytes,
    pairs: list[tuple[cache.Store, cache.Store]],
    seen: list[set[bytes]],
    records: cache.SourceIndex,
    notes: cache.PartsLedger,
    tally: Tally,
) -> bool:
    """Copy all that was made of a sample; return whether its file could be identified.

    ``seen``: the names, in each of the stores, of what was copied for other samples, and is not copied again: many
    samples may have one content.
    """
    try:
        with fetcher._source(sample) as source:
            content, kind = fetcher._identify(source)
            path, state = source.path, source.state
    except (DaliPipesError, OSError):
        return False
    frame = int(fetcher._manifest.frames[sample])
    family, new = fetcher._families.of(kind, frame), Families(names, fetcher._parts).of(kind, frame)
    parts = family.parts(content)
    for one, other in zip(_keys(family, content), _keys(new, content)):
        for (store, copy), done in zip(pairs, seen):
            if one.digest not in done and store.contains(one):
                done.add(one.digest)
                if not copy.contains(other):
                    notes.note(other, parts)
                    tally.notes += 1
                import_entry(copy, store, one, tally, other)
    if records.lookup(path, state) is None:
        tally.sources += records.record(path, state, content, kind.tag)
    return True


def _keys(family: Family, content: bytes) -> Iterator[cache.Key]:
    for digest in (family.image, family.note, family.extent):
        yield cache.Key(digest(content))
