"""`dali-pipes inspect`: how one file is read, as text and as a picture."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dali_pipes.cli import common

if TYPE_CHECKING:
    import numpy.typing as npt

    from dali_pipes.decode import DecodePolicy, Kind


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("file", type=Path, help="a DICOM file or an image")
    parser.add_argument(
        "--out", type=Path, help="write a PNG: values as stored to the left, as a model sees them to the right"
    )
    parser.add_argument("--frame", type=int, default=0, help="which frame (default: 0)")
    parser.add_argument("--channels", type=int, default=3, choices=(1, 3))
    parser.add_argument("--window", default="percentile", help=f"{common.WINDOW_HELP} (default: percentile)")
    parser.add_argument(
        "--reduce",
        type=common.at_least(1),
        metavar="N",
        help="compare the reduced JPEG 2000 decode at N pixels with the full one",
    )
    parser.add_argument(
        "--augment",
        type=common.at_least(1),
        metavar="N",
        help="write to --out N draws of the file by --recipe, of one epoch after another",
    )
    parser.add_argument("--recipe", type=Path, help="the recipe of --augment, as TOML or JSON")
    parser.add_argument("--mask", type=Path, help="with --augment: the file's mask, which is laid over it")
    parser.add_argument("--mask-frame", type=int, default=0, help="which frame of the mask's file (default: 0)")
    parser.add_argument("--seed", type=int, default=0, help="with --augment: the seed of the draws (default: 0)")
    common.add_decoders(parser)
    common.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Describe the file, and draw it if a picture is wanted."""
    import numpy as np
    from PIL import Image

    from dali_pipes.decode import DecodePolicy, decode, describe, identify, require

    require(args.require_decoder)
    policy = DecodePolicy(channels=args.channels, window=common.window_of(args.window))
    data = args.file.read_bytes()
    kind = identify(args.file, data)
    document: dict[str, Any] = {"file": str(args.file), **describe(data, args.frame, policy)}
    shown = decode(data, kind, args.frame, policy).pixels
    document["shape"] = list(shown.shape)
    if args.reduce is not None:
        document["reduced"] = _reduced(data, kind, args.frame, policy, shown, args.reduce)
    if args.augment is not None or args.recipe is not None or args.mask is not None or args.mask_frame:
        document["draws"] = _draws(args)
    elif args.out is not None:
        stored = decode(data, kind, args.frame, replace(policy, depth=16)).pixels
        args.out.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.hstack([_full_range(stored), _rgb(shown)])).save(args.out, "PNG")
    if args.out is not None:
        document["picture"] = str(args.out)
    width = max(map(len, document))
    lines = [f"{name:{width}}  {v if isinstance(v, str) else json.dumps(v)}" for name, v in document.items()]
    common.show(args, document, "\n".join(lines))
    return common.GOOD


def _draws(args: argparse.Namespace) -> int:
    """Write the contact sheet, and return how many draws are on it."""
    from dali_pipes.errors import ConfigError
    from dali_pipes.recipe import Recipe
    from dali_pipes.tools.draws_sheet import draws_of

    if args.augment is None or args.recipe is None or args.out is None or (args.mask_frame and args.mask is None):
        raise ConfigError(
            "inspect --augment N needs --recipe FILE and --out PNG; --mask goes with them, --mask-frame with --mask."
        )
    recipe = Recipe.load(args.recipe)
    chosen = {"frame": args.frame, "seed": args.seed, "mask": args.mask, "mask_frame": args.mask_frame}
    picture = draws_of(args.file, recipe, args.augment, **chosen)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(args.out, "PNG")
    return int(args.augment)


def _reduced(
    data: bytes, kind: Kind, frame: int, policy: DecodePolicy, full: npt.NDArray[Any], side: int
) -> dict[str, Any]:
    """How far the picture of `side` x `side` from a reduced decode is from that of the full one, in levels of 255."""
    import numpy as np

    from dali_pipes.arithmetic import base_image
    from dali_pipes.decode import decode
    from dali_pipes.recipe import Recipe

    side = Recipe(size=side).height  # refuses a size that no recipe has
    less = decode(data, kind, frame, replace(policy, reduce=(side, side))).pixels
    few, all_of_it = (base_image(pixels, side, "stretch").astype(np.int16) for pixels in (less, full))
    apart = np.abs(few - all_of_it)
    return {"decoded": list(less.shape[:2]), "largest": int(apart.max()), "mean": round(float(apart.mean()), 4)}


def _full_range(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """From the smallest value to the largest, as 8 bits RGB: how the values look without a window."""
    import numpy as np

    low, high = int(pixels.min()), int(pixels.max())
    scaled = (pixels.astype(np.float64) - low) * (255.0 / max(1, high - low))
    return _rgb(np.floor(scaled + 0.5).astype(np.uint8))


def _rgb(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    import numpy as np

    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
