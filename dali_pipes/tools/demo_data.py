"""A small set of images to try everything on: made ones that look like mammograms and photos, and real ones.

The made mammograms cover MONOCHROME1 and 2, 12 and 16 bits, padding, and one file each way of the common transfer
syntaxes; the real files are those that pydicom ships with.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from dali_pipes.decode import DecodePolicy, decode, dicom_frames, identify, is_dicom
from dali_pipes.errors import DaliPipesError

SYNTAXES = {
    "plain": ExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg-lossless": JPEGLosslessSV1,
    "jpeg2000": JPEG2000Lossless,
    "jpeg-ls": JPEGLSLossless,
}
"""Transfer syntaxes of the made mammograms, by the names in their file names."""

_SECONDARY_CAPTURE = UID("1.2.840.10008.5.1.4.1.1.7")


def make_demo_set(folder: Path, *, mammograms: int = 20, photos: int = 20, seed: int = 0) -> Path:
    """Write the demo set below `folder` and return its manifest, `folder/demo.csv`.

    Labels: 0 mammogram-like, 1 photo-like, 2 real DICOM (only files that decode here).
    """
    rng = np.random.default_rng(seed)
    rows: list[tuple[str, int]] = []
    for kind in ("mammograms", "photos", "real"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    names = list(SYNTAXES)
    for i in range(mammograms):
        syntax, inverted, bits = names[i % len(names)], bool(i // len(names) % 2), 12 if i % 3 else 16
        path = folder / "mammograms" / f"{i:03d}-{syntax}-monochrome{1 if inverted else 2}.dcm"
        write_mammogram(path, mammogram(rng, 1024, 832, bits), bits, SYNTAXES[syntax], inverted=inverted)
        rows.append((f"mammograms/{path.name}", 0))
    for i in range(photos):
        path = folder / "photos" / f"{i:03d}.jpg"
        height, width = int(rng.integers(300, 1000)), int(rng.integers(300, 1400))
        Image.fromarray(photo(rng, height, width)).save(path, quality=int(rng.integers(75, 96)), subsampling=i % 3)
        rows.append((f"photos/{path.name}", 1))
    rows += [(f"real/{name}", 2) for name in _copy_real(folder / "real")]
    manifest = folder / "demo.csv"
    with open(manifest, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    return manifest


def mammogram(rng: np.random.Generator, height: int, width: int, bits: int) -> npt.NDArray[np.uint16]:
    """Return a breast-shaped phantom with dense tissue and a few calcifications.

    It is uint16[height, width] of `bits` bits; air is 0.
    """
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    distance = np.hypot((y / height - 0.5) / 0.42, x / width / (0.65 + 0.25 * rng.random()))
    thickness = np.sqrt(np.clip(1 - distance**2, 0, None))
    tissue = sum(_blobs(rng, height, width, scale) * weight for scale, weight in ((6, 0.5), (16, 0.3), (48, 0.15)))
    image = thickness * (0.35 + 0.5 * tissue)
    for _ in range(int(rng.integers(2, 7))):
        cy, cx = rng.integers(height // 4, 3 * height // 4), rng.integers(width // 10, width // 2)
        image += 0.5 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / rng.uniform(2, 12)) * (thickness > 0)
    noise = rng.normal(0, 0.006, image.shape).astype(np.float32) * (thickness > 0)
    return np.asarray(np.clip((image + noise) * (2**bits - 1) * 0.8, 0, 2**bits - 1), np.uint16)


def photo(rng: np.random.Generator, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Skin-like colour with a dark lesion; uint8[height, width, 3]."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    skin = np.array([0.85, 0.65, 0.55]) * rng.uniform(0.6, 1.1)
    cy, cx = height * rng.uniform(0.35, 0.65), width * rng.uniform(0.35, 0.65)
    ragged = 1 + 0.4 * (_blobs(rng, height, width, 8) - 0.5)
    radius = np.hypot(y - cy, x - cx) / (min(height, width) * rng.uniform(0.15, 0.3)) * ragged
    lesion = 1 / (1 + np.exp(8 * (radius - 1)))
    texture = 0.9 + 0.2 * _blobs(rng, height, width, 64)
    mixed = (skin - lesion[..., None] * np.array([0.45, 0.45, 0.4])) * texture[..., None]
    return np.asarray(np.clip(mixed * 255 + rng.normal(0, 3, mixed.shape), 0, 255), np.uint8)


def _blobs(rng: np.random.Generator, height: int, width: int, cells: int) -> npt.NDArray[np.float32]:
    """Smooth noise in 0..1 with about `cells` bumps across."""
    coarse = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
    smooth: npt.NDArray[np.float32] = np.array(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    smooth *= np.float32(1 / 255)
    return smooth


def write_mammogram(
    path: Path, pixels: npt.NDArray[np.uint16], bits: int, syntax: UID, *, inverted: bool = False
) -> None:
    """Write uint16[H, W] as a DICOM file in one of `SYNTAXES`; `inverted` stores it as MONOCHROME1."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = _SECONDARY_CAPTURE
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[path.name])
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.PresentationIntentType = "MG", "FOR PRESENTATION"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits, bits - 1
    stored = np.uint16(2**bits - 1) - pixels if inverted else pixels
    dataset.PixelData = stored.astype("<u2").tobytes()
    if syntax in (JPEGLosslessSV1, JPEG2000Lossless):
        frame: Any
        if syntax == JPEGLosslessSV1:
            frame = imagecodecs.jpeg8_encode(stored, lossless=True, predictor=1, bitspersample=bits)
        else:
            frame = imagecodecs.jpeg2k_encode(stored, level=0, codecformat="J2K", reversible=True, bitspersample=bits)
        dataset.PixelData = encapsulate([bytes(frame)])
        dataset["PixelData"].VR = "OB"
        meta.TransferSyntaxUID = syntax
    elif syntax != ExplicitVRLittleEndian:
        dataset.compress(syntax, generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)


def _copy_real(folder: Path) -> list[str]:
    """Copy pydicom's own test files that hold an image that decodes here; return their names, sorted."""
    names = []
    for source in sorted(Path(pydicom.__file__).parent.glob("data/test_files/**/*")):
        if not source.is_file() or not is_dicom(source):
            continue
        data = source.read_bytes()
        try:
            if dicom_frames(source) < 1:
                continue
            decode(data, identify(source, data), 0, DecodePolicy())
        except DaliPipesError:
            continue
        (folder / source.name).write_bytes(data)
        names.append(source.name)
    return sorted(set(names))
