"""`dali-pipes inspect`: how one file is read, as text and as a picture."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from dali_pipes.cli import common
from dali_pipes.decode import DecodePolicy, decode, describe, identify


def add(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("file", type=Path, help="a DICOM file or an image")
    parser.add_argument(
        "--out", type=Path, help="write a PNG: the values as stored on the left, as a model sees them on the right"
    )
    parser.add_argument("--frame", type=int, default=0, help="which frame (default: 0)")
    parser.add_argument("--channels", type=int, default=3, choices=(1, 3))
    common.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Describes the file, and decodes it if a picture is wanted."""
    data = args.file.read_bytes()
    kind = identify(args.file, data)
    document: dict[str, Any] = {"file": str(args.file), **describe(data)}
    policy = DecodePolicy(channels=args.channels)
    shown = decode(data, kind, args.frame, policy).pixels
    document["shape"] = list(shown.shape)
    if args.out is not None:
        stored = decode(data, kind, args.frame, DecodePolicy(channels=args.channels, depth=16)).pixels
        args.out.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.hstack([_full_range(stored), _rgb(shown)])).save(args.out)
        document["picture"] = str(args.out)
    width = max(map(len, document))
    lines = [
        f"{name:{width}}  {value if isinstance(value, str) else json.dumps(value)}" for name, value in document.items()
    ]
    common.show(args, document, "\n".join(lines))
    return common.GOOD


def _full_range(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """From the smallest value to the largest, as 8 bits RGB: how the values look without a window."""
    low, high = int(pixels.min()), int(pixels.max())
    scaled = (pixels.astype(np.float64) - low) * (255.0 / max(1, high - low))
    return _rgb(np.floor(scaled + 0.5).astype(np.uint8))


def _rgb(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
