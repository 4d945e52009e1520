"""What the commands share: arguments, output and progress.

The modules of the commands import what is heavy where they use it: help needs neither PyTorch nor NumPy.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dali_pipes.cache import MODES
from dali_pipes.errors import ConfigError, ManifestError
from dali_pipes.files.urls import place
from dali_pipes.names import BACKENDS, CHOICES
from dali_pipes.privacy import SHOW_PATHS, shows_paths

if TYPE_CHECKING:
    from dali_pipes.decode import Window
    from dali_pipes.manifest.manifest import Manifest
    from dali_pipes.recipe import Recipe

GOOD, FAILED, USAGE, LACKING, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes: all well; the check failed; wrong usage; this machine lacks something; interrupted by the user."""

WINDOW_HELP = "percentile[:LOW,HIGH], fixed:CENTER,WIDTH, voi[:INDEX] or none"

T = TypeVar("T")


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document on stdout, everything else on stderr"
    )


def add_manifest(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Add the manifest and its root."""
    parser.add_argument(
        "manifest",
        type=place,
        nargs="?" if optional else None,
        help="CSV or Parquet with a column 'path', also by URL; or a folder: DICOM files in any, else images in class "
        "folders",
    )
    parser.add_argument("--root", type=place, help="folder or URL that paths are relative to (default: the manifest's)")
    parser.add_argument("--split", help="only the samples of this split")


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add a recipe, from a file or from options."""
    parser.add_argument("--recipe", type=Path, help="a recipe as TOML or JSON; the options below do not apply then")
    parser.add_argument(
        "--img-size", default="512", help="side of the square output in pixels, or HEIGHTxWIDTH (default: 512)"
    )
    parser.add_argument("--channels", type=int, default=3, choices=CHOICES["channels"])
    parser.add_argument("--fit", default="stretch", choices=CHOICES["fit"])
    parser.add_argument("--interpolation", default="bilinear", choices=CHOICES["interpolation"])
    parser.add_argument("--depth", type=int, default=8, choices=CHOICES["depth"])
    parser.add_argument("--window", default="percentile", help=f"{WINDOW_HELP} (default: percentile)")
    parser.add_argument("--reduce", action="store_true", help="decode JPEG 2000 at its smallest sufficient resolution")
    parser.add_argument("--normalise", action="store_true", help="normalise by the ImageNet mean and deviation")


def add_decoders(parser: argparse.ArgumentParser) -> None:
    """`--require-decoder`."""
    parser.add_argument(
        "--require-decoder",
        action="append",
        default=[],
        metavar="UID",
        help="end with code 3 unless a decoder for this DICOM transfer syntax is here; may be repeated",
    )


def add_cache(parser: argparse.ArgumentParser, mode: str, modes: Sequence[str] = MODES) -> None:
    """Where base images are kept."""
    parser.add_argument("--cache-mode", default=mode, choices=modes, help=f"(default: {mode})")
    parser.add_argument("--cache-dir", type=Path, help="folder of the cache, for the modes that persist")


def add_loading(parser: argparse.ArgumentParser) -> None:
    """How samples are loaded."""
    parser.add_argument("--batch-size", type=at_least(1), default=32)
    add_workers(parser)


def add_workers(parser: argparse.ArgumentParser) -> None:
    """`--num-workers`."""
    parser.add_argument(
        "--num-workers", type=at_least(0), help="CPU threads and decoding processes (default: all cores)"
    )


def at_least(least: int) -> Callable[[str], int]:
    """Return an argument's type: a whole number that is not smaller."""

    def number(text: str) -> int:
        if not re.fullmatch("[0-9]+", text, re.ASCII) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r}: give a whole number of at least {least}")
        return int(text)

    return number


def bytes_in(file: Path | None) -> bytes | None:
    """Return the bytes of a file that holds a secret; None without a file."""
    return None if file is None else file.read_bytes()


def manifest_of(args: argparse.Namespace) -> Manifest:
    """Return the manifest that the arguments name, with files where its root says."""
    manifest = read_manifest(args)
    if args.split:
        manifest = manifest.split(args.split)
    root = manifest.root
    if len(manifest) and isinstance(root, Path) and not any((root / path).exists() for path in manifest.paths):
        raise ManifestError(
            f"{args.manifest}: none of its {len(manifest)} files is under {root}; "
            "give --root, the folder that paths begin at."
        )
    return manifest


def read_manifest(args: argparse.Namespace) -> Manifest:
    """All samples of the manifest that the arguments name; their files may be gone."""
    from dali_pipes.manifest.listing import holds_dicom
    from dali_pipes.manifest.manifest import Manifest

    if isinstance(args.manifest, Path) and args.manifest.is_dir():
        if args.root is not None:
            raise ConfigError("--root goes with a CSV or Parquet file; a folder's paths begin at the folder itself.")
        read = Manifest.from_dicom_tree if holds_dicom(args.manifest) else Manifest.from_folder
        return read(args.manifest)
    if str(args.manifest).endswith(".parquet"):
        return Manifest.from_parquet(args.manifest, args.root)
    return Manifest.from_csv(args.manifest, args.root)


def recipe_of(args: argparse.Namespace) -> Recipe:
    """Return the recipe that the arguments describe."""
    from dali_pipes.recipe import Recipe

    if args.recipe is not None:
        return Recipe.load(args.recipe)
    parts = args.img_size.lower().split("x")
    if not all(part.isascii() and part.isdecimal() for part in parts) or len(parts) > 2:
        raise ConfigError(f"--img-size {args.img_size!r}: give a number of pixels, or HEIGHTxWIDTH.")
    imagenet = (
        {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
        if args.channels == 3
        else {"mean": 0.449, "std": 0.226}
    )
    return Recipe(
        size=(int(parts[0]), int(parts[-1])),
        channels=args.channels,
        fit=args.fit,
        interpolation=args.interpolation,
        depth=args.depth,
        window=window_of(args.window),
        reduce=args.reduce,
        **(imagenet if args.normalise else {}),
    )


def window_of(text: str) -> Window | None:
    """Return the window that `WINDOW_HELP` describes."""
    from dali_pipes.decode import FixedWindow, PercentileWindow, VOIWindow

    kind, _, rest = text.partition(":")
    try:
        numbers = [float(part) for part in rest.split(",")] if rest else []
        if kind == "none" and not numbers:
            return None
        if kind == "percentile" and len(numbers) in (0, 2):
            return PercentileWindow(numbers[0], numbers[1]) if numbers else PercentileWindow()
        if kind == "fixed" and len(numbers) == 2:
            return FixedWindow(numbers[0], numbers[1])
        if kind == "voi" and len(numbers) < 2:
            return VOIWindow(int(numbers[0]) if numbers else 0)
    except ConfigError as error:
        raise ConfigError(f"--window {text!r}: {error}") from None
    except ValueError:
        pass
    raise ConfigError(f"--window {text!r}: give {WINDOW_HELP}.")


def present_backends() -> list[str]:
    """Return the backends that run on this machine."""
    from dali_pipes import backends

    return [name for name in BACKENDS if backends.missing(name) is None]


def progress_bar(total: int, what: str) -> Any:
    """Make a progress bar on stderr; `update(n)` moves it."""
    from tqdm import tqdm

    return tqdm(total=total, desc=what, unit="", file=sys.stderr, disable=None, leave=False)


def progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """`items`, with a progress bar on stderr."""
    from tqdm import tqdm

    yield from tqdm(items, total=total, desc=what, unit="", file=sys.stderr, disable=None, leave=False)


def failed(count: int) -> str:
    """How many samples failed, in words, and how to learn which files they are."""
    hint = f" ({SHOW_PATHS}=1 names their files)" if count and not shows_paths() else ""
    return f"{count} could not be decoded{hint}"


def show(args: argparse.Namespace, document: dict[str, Any], text: str) -> None:
    """Print the document under `--json`, and the text otherwise."""
    print(json.dumps(document, indent=2) if args.json else text)


def note(args: argparse.Namespace, text: str) -> None:
    """Print a line for people; it goes to stderr under `--json`."""
    print(text, file=sys.stderr if args.json else sys.stdout, flush=True)


def size(count: float) -> str:
    """Bytes for people.

    >>> size(3 << 20)
    '3.0 MiB'
    """
    power = min(4, (max(1, int(count)).bit_length() - 1) // 10)
    return f"{count:.0f} B" if power == 0 else f"{count / 1024**power:.1f} {('KiB', 'MiB', 'GiB', 'TiB')[power - 1]}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Columns of text, the first to the left and the rest to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths)))
        for line in lines
    )
