"""Small archives on disk and independent recomputation of what a loader must make of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from make_images import SYNTAX, dicom, jpeg, raster
from PIL import Image

import dali_pipes as dp
from dali_pipes.arithmetic import geometry
from dali_pipes.loader.batch import Batch

CPU_BACKENDS = ("torch", "dali-cpu")
CACHE_MODES = ("none", "memory", "pinned")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

WITHOUT_ENCODER = ("mpeg", "j2k-part2")
"""Transfer syntaxes that `make_images` can name, but not write."""


def noise(seed: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    """uint8[H, W, C], or uint8[H, W] for one channel: a gradient with noise on it."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 200, height * width).reshape(height, width)
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.asarray(
        np.clip((ramp[..., None] if channels > 1 else ramp) + rng.integers(0, 56, shape), 0, 255), np.uint8
    )


def write_csv(path: Path, rows: Iterable[Sequence[Any]], header: Sequence[str] = ("path", "label")) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def manifest_of(folder: Path, files: dict[str, bytes], labels: Sequence[int] | None = None) -> dp.Manifest:
    """Writes the files below `folder` and lists them, labelled by number unless `labels` are given."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    numbers = range(len(files)) if labels is None else labels
    return dp.Manifest.from_csv(write_csv(folder / "list.csv", zip(files, numbers)))


def pictures(count: int, seed: int = 0) -> dict[str, bytes]:
    """JPEGs of odd sizes: gray and colour, every subsampling, baseline and progressive."""
    rng = np.random.default_rng(seed)
    files = {}
    for i in range(count):
        height, width = (int(side) for side in rng.integers(1, 70, 2))
        options = {"subsampling": i % 3, "progressive": i % 4 == 3}
        files[f"{i:03d}.jpg"] = jpeg(noise(seed + i, height, width, 1 if i % 5 == 4 else 3), **options)
    return files


def of_every_syntax() -> dict[str, bytes]:
    """A gray DICOM file in each transfer syntax that can be written: 12 bits, or 8 where it is made for them."""
    rng = np.random.default_rng(5)
    deep = (rng.integers(0, 200, (23, 19)) + np.linspace(0, 3800, 23 * 19).reshape(23, 19)).astype(np.uint16)
    files = {}
    for name in SYNTAX:
        if name in WITHOUT_ENCODER:
            continue
        shallow = name in ("baseline", "jxl", "jls-near", "extended")
        pixels = noise(6, 23, 19, 1) if shallow else deep
        files[f"{name}.dcm"] = dicom(pixels, name, BitsStored=8 if shallow else 12)
    files["monochrome1.dcm"] = dicom(deep, BitsStored=12, PhotometricInterpretation="MONOCHROME1")
    files["colour.dcm"] = dicom(noise(7, 23, 19), "rle")
    return files


def one_of_each() -> dict[str, bytes]:
    """Photos, rasters of every format, and DICOM in every transfer syntax."""
    colour, gray = noise(1, 31, 22), noise(2, 22, 31, 1)
    formats = {f"{kind.lower()}.img": raster(colour, kind) for kind in ("PNG", "TIFF", "WEBP", "BMP", "GIF")}
    return {
        **pictures(7),
        **formats,
        "gray.png": raster(gray, "PNG"),
        "deep.png": raster(gray.astype(np.uint16) * 200, "PNG"),
        "cmyk.jpg": raster(colour, "JPEG", "CMYK"),
        **of_every_syntax(),
    }


def coded(label: int, kind: str = "jpeg") -> bytes:
    """An image whose brightness tells its label, 0 to 20; see `label_of`."""
    value = 10 + 12 * label
    if kind == "dicom":
        return dicom(np.full((9, 12), value, np.uint8))
    pixels = np.full((24, 20, 3), value, np.uint8)
    return jpeg(pixels) if kind == "jpeg" else raster(pixels, "PNG")


def label_of(image: torch.Tensor) -> int:
    """The label that a `coded` image, uint8[C, H, W], shows."""
    return round((float(image.float().mean()) - 10) / 12)


def reference(data: bytes, recipe: dp.Recipe) -> torch.Tensor:
    """[C, H, W] of a photo by Pillow and PyTorch alone; only where the picture lands comes from `geometry`."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    pixels = np.array(picture if recipe.channels == 3 else picture.convert("L"))
    x = torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)
    place = geometry(*pixels.shape[:2], recipe.size, recipe.fit)  # type: ignore[arg-type]
    # Interleaved, as decoded: PyTorch stops with an internal assertion on separate planes to 1 x 1.
    whole = F.interpolate(x[None], place.resized, mode=recipe.interpolation, antialias=True)[0]
    (h, w), (y, x0), (top, left) = place.window, place.crop, place.pad
    out = torch.zeros((recipe.channels, recipe.height, recipe.width), dtype=torch.uint8)
    out[:, top : top + h, left : left + w] = whole[:, y : y + h, x0 : x0 + w]
    if recipe.mean is None:
        return out
    m = torch.tensor([np.float32(value * 255) for value in recipe.mean])  # type: ignore[union-attr]
    d = np.array([np.float32(value * 255) for value in recipe.std], np.float64)  # type: ignore[union-attr]
    inv = torch.from_numpy((1.0 / d).astype(np.float32))
    return (out.float() - m[:, None, None]) * inv[:, None, None]


def images(batches: Iterable[Batch]) -> torch.Tensor:
    """All images in one tensor."""
    return torch.cat([batch.image for batch in batches])


def indices(batches: Iterable[Batch]) -> list[int]:
    """All sample numbers."""
    return [i for batch in batches for i in batch.index.tolist()]
