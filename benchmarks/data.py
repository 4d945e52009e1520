"""Images for the benchmarks, made where they are asked for and kept: photos, mammograms, and small pictures.

Everything is seeded, so two machines measure the same files.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import imagecodecs
import numpy as np
import simplejpeg
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1, generate_uid

from dali_pipes.manifest.manifest import Manifest
from dali_pipes.tools.demo_data import mammogram, photo

PHOTO = (1200, 1600)
"""Height and width of a photo: 1.9 megapixels."""
MAMMOGRAM = (3328, 2560)
"""Height and width of a mammogram, as full-field detectors give them."""
_SECONDARY_CAPTURE = UID("1.2.840.10008.5.1.4.1.1.7")


def write_photos(folder: Path, count: int, shape: tuple[int, int] = PHOTO) -> list[str]:
    """JPEGs of quality 90 with 4:2:0 chroma; names relative to `folder`. Eight different pictures, shifted."""
    rng = np.random.default_rng(1)
    names = []
    pictures: list[np.ndarray] = []
    for i in range(count):
        name = f"photo-{i:04d}.jpg"
        names.append(name)
        if (folder / name).exists():
            continue
        if len(pictures) < 8:
            pictures.append(photo(rng, *shape))
        picture = np.ascontiguousarray(np.roll(pictures[i % len(pictures)], 16 * i, axis=1))
        (folder / name).write_bytes(simplejpeg.encode_jpeg(picture, quality=90, colorsubsampling="420"))
    return names


def write_mammograms(folder: Path, count: int, shape: tuple[int, int] = MAMMOGRAM) -> list[str]:
    """DICOM, 12 of 16 bits: every other file uncompressed, the rest JPEG lossless and JPEG 2000 lossless in turn."""
    rng = np.random.default_rng(2)
    syntaxes = (ExplicitVRLittleEndian, JPEGLosslessSV1, ExplicitVRLittleEndian, JPEG2000Lossless)
    names = []
    pictures: list[np.ndarray] = []
    for i in range(count):
        name = f"mammogram-{i:04d}.dcm"
        names.append(name)
        if (folder / name).exists():
            continue
        if len(pictures) < 4:
            pictures.append(mammogram(rng, *shape, 12))
        _write_dicom(folder / name, np.roll(pictures[i % len(pictures)], 8 * i, axis=0), syntaxes[i % 4])
    return names


def write_thumbnails(folder: Path, count: int) -> list[str]:
    """Small JPEGs, for benchmarks that measure what comes after decoding."""
    rng = np.random.default_rng(3)
    names = [f"thumbnail-{i:04d}.jpg" for i in range(count)]
    for name in names:
        if not (folder / name).exists():
            (folder / name).write_bytes(simplejpeg.encode_jpeg(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)))
    return names


def manifest_of(folder: Path, names: Sequence[str]) -> Manifest:
    """A manifest of files in `folder`."""
    path = folder / f"{len(names)}-{Path(names[-1]).stem}.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label"), *((name, i % 2) for i, name in enumerate(names))])
    return Manifest.from_csv(path)


def _write_dicom(path: Path, pixels: np.ndarray, syntax: UID) -> None:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = _SECONDARY_CAPTURE
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.Modality = "MG"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    if syntax == JPEGLosslessSV1:
        coded = imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=1, bitspersample=12)
    elif syntax == JPEG2000Lossless:
        coded = imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True, bitspersample=12, level=0)
    else:
        coded = None
    dataset.PixelData = encapsulate([bytes(coded)]) if coded is not None else pixels.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OB" if coded is not None else "OW"
    dataset.save_as(path, enforce_file_format=True)
