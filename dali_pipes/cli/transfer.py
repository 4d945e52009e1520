"""`dali-pipes cache import`, `export` and `push`: one cache made of several, moved elsewhere, or put into a bucket."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dali_pipes.cache import DISK_MODES
from dali_pipes.cli import common
from dali_pipes.errors import ConfigError
from dali_pipes.files.urls import is_url, place

COMMANDS = ("import", "export", "push")
"""Those of `dali-pipes cache` that this module adds; they name more than one folder."""


def add(command: Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]) -> None:
    """Add the commands, each made by `command(name, run, summary)`."""
    made = command("import", _import, "add what other caches hold to a cache, each entry checked")
    _add_folders(made, "DIR PART", "the cache, and those that are added to it")
    made.add_argument("--secret-file", type=Path, help="the bytes that were given as secret=, here and in the parts")
    _add_copy(made)

    made = command("export", _export, "write a sound copy of a cache, to be moved elsewhere")
    _add_folders(made, "DIR OUT", "the cache, and the folder of the copy")
    made.add_argument("--secret-file", type=Path, help="the bytes that were given as secret=, for keyed checksums")
    made.add_argument(
        "--new-secret-file", type=Path, help="key the checksums of the copy with these bytes; an empty file: with none"
    )
    made.add_argument(
        "--rekey",
        type=Path,
        metavar="FILE",
        help="make the names of the copy with another host's secret: its cache-secret, or the text that it sets; only "
        "what was made of --manifest under the recipe is copied then",
    )
    made.add_argument("--manifest", type=Path, help="the samples, for --rekey")
    made.add_argument("--root", type=Path, help="folder that their paths are relative to (default: the manifest's)")
    common.add_recipe(made)
    made.add_argument("--mode", choices=DISK_MODES, help="the mode of the copy's entries (default: as they are)")
    _add_copy(made)

    made = command("push", _push, "upload the packed segments of a cache to a URL, where others read it")
    _add_folders(made, "DIR URL", "the cache, and where it is to be read (s3://bucket/prefix)")
    made.add_argument("--secret-file", type=Path, help="the bytes that were given as secret=, for keyed checksums")


def _add_folders(parser: argparse.ArgumentParser, names: str, what: str) -> None:
    first, second = names.split()
    parser.add_argument("folders", type=place, nargs="+", metavar=first, help=f"{names}: {what}")
    parser.add_argument("--cache-dir", type=Path, metavar="DIR", help=f"the cache by name; only {second} by place then")


def _add_copy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--copy", action="store_true", help="copy files that could be linked")


def folders_of(args: argparse.Namespace, most: int | None) -> tuple[Path | str, list[Path | str]]:
    """Return the cache's folder and the other folders that were named.

    Raises:
        ConfigError: none, or more than `most`.
    """
    folders: list[Path | str] = ([args.cache_dir] if args.cache_dir is not None else []) + args.folders
    cache, *others = folders
    if not others or (most is not None and len(others) > most):
        wanted = "one folder" if most == 1 else "at least one folder"
        raise ConfigError(
            f"cache {args.cache_command}: give the cache, as DIR or as --cache-dir DIR, and {wanted} beside it; "
            f"found {len(others)}."
        )
    return cache, others


def _import(args: argparse.Namespace) -> int:
    from dali_pipes.cache import transfer

    directory, parts = folders_of(args, None)
    secret = common.bytes_in(args.secret_file)
    with common.progress_bar(0, "importing") as bar:
        found = transfer.import_parts(
            directory, parts, secret=secret, part_secret=secret, link=not args.copy, progress=follow(bar)
        )
    return _tell(args, found)


def _export(args: argparse.Namespace) -> int:
    from dali_pipes.cache import transfer

    directory, (out,) = folders_of(args, 1)
    secret = common.bytes_in(args.secret_file)
    new = secret if args.new_secret_file is None else common.bytes_in(args.new_secret_file) or None
    if (args.rekey is None) != (args.manifest is None):
        raise ConfigError("cache export: --rekey FILE and --manifest go together, with the recipe of the entries.")
    if args.rekey is not None:
        return _rekey(args, directory, out, secret, new)
    with common.progress_bar(0, "exporting") as bar:
        found = transfer.export(directory, out, secret=secret, out_secret=new, link=not args.copy, progress=follow(bar))
    return _tell(args, found)


def _rekey(
    args: argparse.Namespace, directory: Path | str, out: Path | str, secret: bytes | None, new: bytes | None
) -> int:
    from dali_pipes.cache import secret_in as names_in
    from dali_pipes.rekeying import rekey

    if args.mode is not None or args.copy:
        raise ConfigError("cache export: --rekey always copies, each entry into its own mode; leave --mode and --copy.")
    manifest, recipe = common.read_manifest(args), common.recipe_of(args)
    with common.progress_bar(0, "re-keying") as bar:
        found = rekey(
            manifest,
            recipe,
            directory,
            out,
            names_in(args.rekey),
            secret=secret,
            out_secret=new,
            progress=follow(bar),
        )
    code = _tell(args, found)
    common.note(
        args,
        f"{found['left']} entries were not made of these samples under this recipe, and were not copied; the files of "
        f"{found['unreadable']} samples cannot be read.",
    )
    return common.FAILED if found["unreadable"] else code


def _push(args: argparse.Namespace) -> int:
    from dali_pipes.cache import push

    directory, (url,) = folders_of(args, 1)
    if not isinstance(url, str) or not is_url(url):
        raise ConfigError(f"cache push: {url} is no URL; give one such as s3://bucket/prefix.")
    with common.progress_bar(0, "pushing") as bar:
        found = push(directory, url, secret=common.bytes_in(args.secret_file), progress=follow(bar))
    lines = [
        f"{found['pushed']} entries were pushed in {found['segments']} segments, {common.size(found['bytes'])}; "
        f"{found['present']} were there, {found['growing']} are in segments that a process still writes to, "
        f"{len(found['damaged'])} are damaged, {len(found['conflicts'])} differ from those that are there.",
        f"{found['sources']} source records and {found['notes']} notes on entries are new.",
    ]
    common.show(args, found, "\n".join(lines))
    return common.FAILED if found["damaged"] or found["conflicts"] else common.GOOD


def follow(bar: Any) -> Callable[[int, int], None]:
    """Return what moves a progress bar to (done, total)."""

    def progress(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return progress


def _tell(args: argparse.Namespace, found: dict[str, Any]) -> int:
    lines = [
        f"{part['part']}: {part['imported']} entries are new ({part['linked']} by links), {part['present']} were "
        f"there, {len(part['damaged'])} are damaged, {len(part['conflicts'])} differ from those that are there."
        for part in found["parts"]
    ]
    lines += [f"damaged: {key}" for part in found["parts"] for key in part["damaged"]]
    lines += [f"differs: {key}" for part in found["parts"] for key in part["conflicts"]]
    lines.append(f"{found['sources']} source records and {found['notes']} notes on entries are new.")
    bad = found["damaged"] or found["conflicts"]
    if bad:
        lines.append("What is damaged or differs was left out; it is decoded when it is next needed.")
    common.show(args, found, "\n".join(lines))
    return common.FAILED if bad else common.GOOD
