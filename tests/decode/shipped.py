"""Regenerates shipped.json: for every pixel-bearing file that pydicom ships, what an independent reading of it gives.

    python tests/decode/shipped.py

"Independent" means: not by dali_pipes, and not through the codec that dali_pipes uses, wherever another one is
installed (python-gdcm, pydicom's own RLE decoder). `digest` is of the modality values of frame 0 (float64) for
monochrome, of RGB (uint8, or uint16 of full scale 65535) for colour. `how` says how it was established. Files that
can't be read have the name of the error and a part of its message instead.
"""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom.data import data_manager
from pydicom.encaps import generate_frames
from pydicom.pixels import convert_color_space
from pydicom.pixels.decoders.base import get_decoder

ROOT = Path(data_manager.DATA_ROOT)
TABLE = Path(__file__).with_name("shipped.json")
BASELINE, EXTENDED = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"
PLUGIN = {
    "4.57": "gdcm",
    "4.70": "gdcm",
    "4.80": "gdcm",
    "4.81": "gdcm",
    "4.90": "gdcm",
    "4.91": "gdcm",
    "5": "pydicom",
}
# Of the three 12-bit files only pixels are known from elsewhere: pydicom's tests, made with the GPL decoder, check
# these two.
DAMAGED = {
    "test_files/JPEG2000-embedded-sequence-delimiter.dcm": (
        "DecodeError",
        "3722445056",
    ),  # its size marker is overwritten
    "test_files/MR_truncated.dcm": ("TruncatedError", "8130"),
    "test_files/badVR.dcm": ("DecodeError", "NumberOfFrames"),  # holds "1A"
    "test_files/meta_missing_tsyntax.dcm": ("DecodeError", "Rows"),  # no image: its pixel data tag is private text
    "test_files/nested_priv_SQ.dcm": ("DecodeError", "Rows"),
}
KNOWN = {(420, 140): 244, (230, 120): 95}


def digest(array: np.ndarray[Any, Any]) -> str:
    """Of the values and the shape, not of the memory layout."""
    return hashlib.sha256(str(array.shape).encode() + np.ascontiguousarray(array).tobytes()).hexdigest()[:24]


def files() -> list[Path]:
    """Every file under pydicom's data folder that has an element of pixel data."""
    found = []
    for path in sorted(p for p in ROOT.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc", ".json")):
        data = path.read_bytes()
        if data[128:132] == b"DICM" and any(tag in data for tag in (b"\xe0\x7f\x10\0", b"\x7f\xe0\0\x10")):
            found.append(path)
    return found


def independent(path: Path) -> dict[str, str]:
    """The digest of frame 0 by another reader, and how; or the error that is expected."""
    ds = pydicom.dcmread(path)
    uid = str(ds.file_meta.TransferSyntaxUID)
    if uid in (BASELINE, EXTENDED):
        return _jpeg(ds, uid)
    suffix = uid.removeprefix("1.2.840.10008.1.2.")
    if suffix in PLUGIN:
        raw, meta = get_decoder(uid).as_array(ds, index=0, raw=True, decoding_plugin=PLUGIN[suffix])
        how = f"pydicom {pydicom.__version__}, its {PLUGIN[suffix]} decoder"
        photometric = str(meta["photometric_interpretation"])
    else:
        raw, how, photometric = (
            _native(ds),
            "numpy.frombuffer of the pixel data element",
            str(ds.PhotometricInterpretation),
        )
    return {"digest": digest(_shown(raw, ds, photometric)), "how": how}


def _jpeg(ds: Any, uid: str) -> dict[str, str]:
    frame = next(generate_frames(ds.PixelData, number_of_frames=int(ds.get("NumberOfFrames", 1) or 1)))
    if uid == EXTENDED:
        import imagecodecs

        array = imagecodecs.jpeg8_decode(frame)
        if any(array[at] != value for at, value in KNOWN.items()):
            raise ValueError("the 12-bit file does not have the values that pydicom's tests know")
        return {
            "digest": digest(array.astype(np.float64)),
            "how": "libjpeg-turbo 3; pixels (420, 140) and (230, 120) as in pydicom's tests, made with another decoder",
        }
    with Image.open(io.BytesIO(frame)) as image:
        # An Adobe marker without its transform byte, as SC_rgb_jpeg.dcm has, is none (libjpeg does not see it either).
        marked = "adobe_transform" in image.info or "jfif" in image.info
        if ds.PhotometricInterpretation == "RGB" and not marked:
            image.draft("YCbCr", image.size)
            return {
                "digest": digest(np.array(image)),
                "how": "Pillow on the bare frame, colours left as they are stored",
            }
        return {"digest": digest(np.array(image.convert("RGB"))), "how": "Pillow on the bare frame"}


def _native(ds: Any) -> np.ndarray[Any, Any]:
    rows, columns, samples, bits = ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.BitsAllocated
    big = str(ds.file_meta.TransferSyntaxUID) == "1.2.840.10008.1.2.2"
    if bits == 1:
        raw = np.frombuffer(ds.PixelData, ">u2" if big and ds["PixelData"].VR == "OW" else "u1")
        raw = raw.astype("<u2").view(np.uint8) if raw.dtype.itemsize == 2 else raw
        return np.unpackbits(raw, bitorder="little")[: rows * columns].reshape(rows, columns)
    kind = "i" if ds.PixelRepresentation else "u"
    raw = np.frombuffer(ds.PixelData, f"{'>' if big else '<'}{kind}{bits // 8}")
    if big and bits == 8 and ds["PixelData"].VR == "OW":
        raw = raw.view(">u2").astype("<u2").view(np.uint8)
    if ds.PhotometricInterpretation == "YBR_FULL_422":
        y1, y2, cb, cr = raw[: rows * columns * 2].reshape(rows, columns // 2, 4).transpose(2, 0, 1)
        pairs = np.stack([np.stack([y1, cb, cr], -1), np.stack([y2, cb, cr], -1)], 2)
        return pairs.reshape(rows, columns, 3)
    raw = raw[: rows * columns * samples]
    if samples == 1:
        return raw.reshape(rows, columns)
    return raw.reshape(3, rows, columns).transpose(1, 2, 0) if ds.PlanarConfiguration else raw.reshape(rows, columns, 3)


def _shown(raw: np.ndarray[Any, Any], ds: Any, photometric: str) -> np.ndarray[Any, Any]:
    if photometric == "PALETTE COLOR":
        tables = [
            np.frombuffer(ds[f"{c}PaletteColorLookupTableData"].value, "<u2") >> 8 for c in ("Red", "Green", "Blue")
        ]
        return np.stack(tables, -1).astype(np.uint8)[raw]
    if raw.ndim == 2:
        return raw.astype(np.float64) * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0))
    if photometric.startswith("YBR_FULL"):
        return convert_color_space(raw, "YBR_FULL", "RGB")
    if raw.dtype.itemsize == 4:
        return np.floor(raw * (65535 / 0xFFFFFFFF) + 0.5).astype(np.uint16)
    return raw


def main() -> None:
    """Write the table."""
    table: dict[str, dict[str, str]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in files():
            name = path.relative_to(ROOT).as_posix()
            if name in DAMAGED:
                table[name] = dict(zip(("error", "says"), DAMAGED[name]))
            else:
                table[name] = independent(path)
    TABLE.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
