"""`dali-pipes cache`: what a cache folder holds, whether it is sound, how to shrink, empty, move or understand it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dali_pipes.cli import common, transfer
from dali_pipes.errors import ConfigError

if TYPE_CHECKING:
    from dali_pipes.cache import Key
    from dali_pipes.manifest.manifest import Manifest

_PARTS_OF_FEATURES = ("call", "features", "module", "sample", "state")
"""What the ledger notes of a feature beside its source."""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's own commands and their arguments."""
    commands = parser.add_subparsers(dest="cache_command", required=True)

    def command(name: str, run_it: Callable[[argparse.Namespace], int], summary: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=summary, description=summary)
        made.set_defaults(run_it=run_it)
        common.add_json(made)
        return made

    for name, run_it, summary in (
        ("stats", _stats, "count entries and bytes, by mode"),
        ("verify", _verify, "read every entry and check it"),
        (
            "gc",
            _gc,
            "remove what nobody needs: leftovers, damaged entries, entries beyond a budget; merge small segments",
        ),
        ("purge", _purge, "remove entries: all, or those of some samples; only says what it would do without --yes"),
    ):
        made = command(name, run_it, summary)
        _add_directory(made)
        if name == "verify":
            made.add_argument("--repair", action="store_true", help="set damaged entries aside and remove leftovers")
            _add_secret(made)
        elif name == "gc":
            made.add_argument(
                "--disk-bytes", type=int, help="remove the least recently used entries beyond this, by mode"
            )
            made.add_argument("--dry-run", action="store_true", help="change nothing")
        elif name == "purge":
            made.add_argument("--all", action="store_true", help="every entry")
            made.add_argument(
                "--id", action="append", default=[], help="what was made of this sample's file; repeatable"
            )
            made.add_argument(
                "--group", action="append", default=[], help="of this group's files (a patient's); repeatable"
            )
            made.add_argument("--manifest", type=Path, help="the manifest that knows these ids and groups")
            made.add_argument(
                "--root", type=Path, help="folder that its paths are relative to (default: the manifest's)"
            )
            made.add_argument("--yes", action="store_true", help="really remove them")

    transfer.add(command)

    made = command("explain", _explain, "say why a file would be found in the cache or not, part by part")
    made.add_argument("file", type=Path, help="a source file")
    _add_directory(made)
    made.add_argument("--root", type=Path, help="folder that FILE is relative to (default: the current one)")
    made.add_argument("--frame", type=int, default=0, help="which frame (default: 0)")
    _add_secret(made)
    common.add_recipe(made)


def run(args: argparse.Namespace) -> int:
    """Run the command of the command."""
    if args.cache_command in transfer.COMMANDS:
        return int(args.run_it(args))
    given = {path for path in (args.directory, args.cache_dir) if path is not None}
    if len(given) != 1:
        found = "none" if not given else " and ".join(sorted(map(str, given)))
        raise ConfigError(f"cache {args.cache_command}: give one folder, as DIR or as --cache-dir DIR; found {found}.")
    args.directory = args.cache_dir = given.pop()
    return int(args.run_it(args))


def _add_directory(parser: argparse.ArgumentParser) -> None:
    """Add the cache's folder, by place or by the name that it has on all other commands."""
    parser.add_argument("directory", type=Path, nargs="?", help="the folder that was given as cache_dir")
    parser.add_argument("--cache-dir", type=Path, metavar="DIR", help="the same by name")


def _add_secret(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--secret-file", type=Path, help="the bytes that were given as secret=, for a cache with keyed checksums"
    )


def _stats(args: argparse.Namespace) -> int:
    from dali_pipes.cache import upkeep

    found = upkeep.stats(args.directory)
    found["features"] = _count_features(args.directory)
    rows = [
        [mode, str(held["entries"]), common.size(held["bytes"]), common.size(held["bytes"] / max(1, held["entries"]))]
        for mode, held in [*found["modes"].items(), ("in all", found)]
    ]
    features = "nobody without the cache's secret knows how many" if found["features"] is None else found["features"]
    rest = f"{features} of the entries are features of modules, {found['sources']} source files known, "
    rest += f"{found['quarantined']} damaged entries set aside, "
    rest += f"{found['unknown']} files that are not ours."
    common.show(args, found, common.table(["mode", "entries", "disk", "on average"], rows) + "\n\n" + rest)
    return common.GOOD


def _count_features(directory: Path) -> int | None:
    """How many entries hold outputs of modules; every leaf of an output is one. None: names have another secret."""
    from dali_pipes.cache import PartsLedger, SecretError, upkeep

    try:
        ledger = PartsLedger(directory, read_only=True)
    except SecretError:
        return None
    try:
        keys = ledger.keys_with(_PARTS_OF_FEATURES)
    finally:
        ledger.close()
    return int(upkeep.purge(directory, keys=keys, dry_run=True)["entries"]) if keys else 0


def _verify(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from dali_pipes.cache import upkeep

    with tqdm(desc="verifying", unit="", file=sys.stderr, disable=None, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        found = upkeep.verify(
            args.directory, secret=common.bytes_in(args.secret_file), repair=args.repair, progress=progress
        )
    lines = [
        f"{found['entries']} good entries, {found['corrupt']} damaged, {found['orphans']} leftovers of dead processes."
    ]
    lines += [f"damaged: {key}" for key in found["keys"]]
    if found["corrupt"] and not args.repair:
        lines.append(
            "Damaged entries are never served; they are made anew when next needed (or set them aside: --repair)."
        )
    common.show(args, found, "\n".join(lines))
    return common.FAILED if found["corrupt"] else common.GOOD


def _gc(args: argparse.Namespace) -> int:
    from dali_pipes.cache import upkeep

    if args.disk_bytes is not None and args.disk_bytes < 1:
        raise ConfigError(f"--disk-bytes {args.disk_bytes}: give a positive number of bytes.")
    found = upkeep.gc(args.directory, disk_bytes=args.disk_bytes, dry_run=args.dry_run)
    verb = "would be removed" if args.dry_run else "removed"
    text = f"{found['orphans']} leftovers, {found['quarantined']} damaged and {found['evicted']} old entries {verb}, "
    merged = f"segments and journals: {found['merged']} fewer"
    common.show(args, found, f"{text}{common.size(found['freed'])}; {merged}.")
    return common.GOOD


def _purge(args: argparse.Namespace) -> int:
    from dali_pipes.cache import upkeep

    chosen = bool(args.id or args.group)
    if args.all == chosen:
        raise ConfigError("purge: say what: --all, or --id or --group (each may be repeated) with --manifest.")
    keys = None
    if chosen:
        if args.manifest is None and args.group:
            raise ConfigError("purge: --group needs --manifest, to know which files it means.")
        keys = _features_of(args.directory, [name.encode() for name in args.id])
        if args.manifest is not None:
            keys += _keys_of(args.directory, common.read_manifest(args), set(args.id), set(args.group))
        elif not keys:
            raise ConfigError(
                "purge: no features are kept under these ids; images need --manifest, to know their files."
            )
    found = upkeep.purge(args.directory, keys=keys, dry_run=not args.yes)
    what = f"{found['entries']} entries" if chosen else f"{found['files']} files, {common.size(found['bytes'])},"
    done = "were removed" if args.yes else "would be removed; add --yes to do it"
    common.show(args, found, f"{what} {done}. {found['unknown']} files that are not ours stay.")
    return common.GOOD


def _keys_of(directory: Path, manifest: Manifest, ids: set[str], groups: set[str]) -> list[Key]:
    """Return the keys of all entries made, under any recipe, of the files of these samples.

    Contents that the files once had count too.
    """
    from dali_pipes.cache import PartsLedger, SourceIndex, content_digest

    samples = [s for s in manifest if s.id in ids or s.group in groups]
    missing = sorted((ids - {s.id for s in samples}) | (groups - {s.group for s in samples}))
    if missing:
        raise ConfigError(f"purge: the manifest has no {', '.join(map(repr, missing))}.")
    sources, ledger = SourceIndex(directory, read_only=True), PartsLedger(directory, read_only=True)
    try:
        contents: set[bytes] = set()
        for sample in samples:
            path = manifest.resolve(sample.index)
            if path.is_file():
                contents.add(content_digest(path.read_bytes()))
            contents |= sources.contents(manifest.locate(sample.index)[1])
        images = sorted({key for content in contents for key in ledger.keys_of(content)}, key=lambda key: key.hex)
    finally:
        sources.close()
        ledger.close()
    return [*images, *_features_of(directory, contents)]


def _features_of(directory: Path, sources: Iterable[bytes]) -> list[Key]:
    """Return the keys of the features kept of files with these contents, or under these ids."""
    from dali_pipes.cache import PartsLedger
    from dali_pipes.features.identity import source_of

    ledger = PartsLedger(directory, read_only=True)
    try:
        found = {key for source in sources for key in ledger.keys_of(source_of(b"s" + source))}
        return sorted(found, key=lambda key: key.hex)
    finally:
        ledger.close()


def _explain(args: argparse.Namespace) -> int:
    from dali_pipes.cache import FileState, Key, SourceIndex, content_digest, default_secret, upkeep
    from dali_pipes.decode import identify
    from dali_pipes.fetch.fetcher import key_parts

    root = Path(os.path.realpath(args.root or args.file.parent))
    path = root / (args.file if args.root else args.file.name)
    data, recipe = path.read_bytes(), common.recipe_of(args)
    kind, content = identify(path, data), content_digest(data)
    parts = key_parts(recipe, recipe.decode_policy, content, kind, args.frame)
    secret = default_secret()
    found = upkeep.explain(
        args.cache_dir, Key.of(secret, **parts), parts, name_secret=secret, secret=common.bytes_in(args.secret_file)
    )  # fmt: skip
    with_sources = SourceIndex(args.cache_dir, read_only=True)
    changed = bool(with_sources.contents(path)) and with_sources.lookup(path, FileState.of(path.stat())) is None
    with_sources.close()
    values = {name: part.hex() if isinstance(part, bytes) else part for name, part in parts.items()}
    features = len(_features_of(args.cache_dir, [content]))
    document = {"file": str(args.file), "frame": args.frame, **found, "values": values, "file_changed": changed}
    document["features"] = features
    rows = [[name, state, str(values[name])] for name, state in found["parts"].items()]
    text = common.table(["part", "nearest entry", "now"], rows) + "\n\n" + _verdict(document)
    text += f" Features of this content: {features} entries were made." if features else ""
    common.show(args, document, text)
    return common.GOOD


def _verdict(document: dict[str, Any]) -> str:
    modes = document["modes"]
    if document["hit"]:
        return f"Hit: {', '.join(mode for mode, state in modes.items() if state == 'good')} holds this sample."
    if "damaged" in modes.values():
        return "Miss: the entry is there but damaged; it will be set aside and made anew."
    differing = [name for name, state in document["parts"].items() if state == "differs"]
    if differing:
        return f"Miss: the nearest entry of this file was made with another {', another '.join(differing)}."
    if document["noted"]:
        return "Miss: the entry was made once, and has been evicted or removed since."
    if document["file_changed"]:
        return "Miss: the file was cached with other content; it has changed since."
    return "Miss: nothing was ever made of this file's content here."
