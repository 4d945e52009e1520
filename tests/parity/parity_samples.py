"""Small data sets for the tests of parity."""

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from make_images import dicom, jpeg, raster

import dali_pipes as dp


def require_dali() -> None:
    """Skip the calling module when DALI is not installed."""
    pytest.importorskip("nvidia.dali", reason="compared with NVIDIA DALI, which is not installed")


def noise(height: int, width: int, seed: int = 0, channels: int = 3) -> np.ndarray:
    """Smooth colours under noise, so that every rule of a resize decides some value."""
    random = np.random.default_rng([seed, height, width])
    y, x = np.mgrid[0:height, 0:width]
    smooth = 128 + 90 * np.sin(x / 7 + seed)[..., None] * np.cos(y / 5)[..., None]
    found = np.clip(smooth + random.normal(0, 30, (height, width, 3)), 0, 255).astype(np.uint8)
    return found if channels == 3 else found[..., 0]


def manifest_of(folder: Path, files: Iterable[tuple[str, bytes]]) -> dp.Manifest:
    """Writes the files and a manifest of them, `folder/samples.csv`."""
    rows = [("path", "label")]
    folder.mkdir(parents=True, exist_ok=True)
    for i, (name, data) in enumerate(files):
        (folder / name).write_bytes(data)
        rows.append((name, str(i % 2)))
    with open(folder / "samples.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return dp.Manifest.from_csv(folder / "samples.csv")


def mixed(folder: Path) -> dp.Manifest:
    """Colour and gray JPEGs of each sampling, a PNG, a DICOM image, and a file that is cut short."""
    files = [(f"{i}.jpg", jpeg(noise(60 + 7 * i, 90 - 5 * i, i), subsampling=i)) for i in range(3)]
    files.append(("gray.jpg", jpeg(noise(41, 57, channels=1))))
    files.append(("plain.png", raster(noise(33, 47, 9), "PNG")))
    files.append(("scan.dcm", dicom((noise(50, 40, channels=1).astype(np.uint16) << 4), BitsStored=12)))
    files.append(("cut.jpg", jpeg(noise(64, 64))[:600]))
    return manifest_of(folder, files)
