"""Constructs DICOM files of every kind, and JPEGs, as bytes: small, synthetic, and free of anybody's data."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import imagecodecs
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset

ROOT = "1.2.840.10008.1.2"
SYNTAX = {
    "implicit": ROOT,
    "explicit": f"{ROOT}.1",
    "uncompressed": f"{ROOT}.1.98",
    "deflated": f"{ROOT}.1.99",
    "big": f"{ROOT}.2",
    "baseline": f"{ROOT}.4.50",
    "extended": f"{ROOT}.4.51",
    "lossless57": f"{ROOT}.4.57",
    "lossless": f"{ROOT}.4.70",
    "jls": f"{ROOT}.4.80",
    "jls-near": f"{ROOT}.4.81",
    "j2k": f"{ROOT}.4.90",
    "j2k-lossy": f"{ROOT}.4.91",
    "j2k-part2": f"{ROOT}.4.92",
    "mpeg": f"{ROOT}.4.102",
    "jxl": f"{ROOT}.4.110",
    "htj2k": f"{ROOT}.4.201",
    "rle": f"{ROOT}.5",
    "deflated-frame": f"{ROOT}.8.1",
}
NATIVE = ("implicit", "explicit", "deflated", "big")
LOSSLESS = ("uncompressed", "lossless57", "lossless", "jls", "j2k", "htj2k", "rle", "deflated-frame")


def dicom(
    pixels: np.ndarray | Sequence[np.ndarray],
    syntax: str = "explicit",
    *,
    table: str = "basic",
    frames: Sequence[bytes] | None = None,
    split: int = 0,
    **attributes: Any,
) -> bytes:
    """A DICOM file of one frame ([H, W] or [H, W, 3]) or of several (a sequence of them).

    syntax: a key of SYNTAX. attributes: DICOM keywords that override or add to those worked out from the array; None
    leaves one out. frames: encoded frames instead of those this module's encoders make. table: "basic", "empty" or
    "extended" offset table. split: cut each frame into fragments of so many bytes.
    """
    arrays = [pixels] if isinstance(pixels, np.ndarray) else list(pixels)
    ds = describe(arrays, attributes)
    if syntax in NATIVE:
        raw = b"".join(
            native(array, syntax == "big", int(ds.PlanarConfiguration) if "PlanarConfiguration" in ds else 0)
            for array in arrays
        )
        return write(ds, syntax, raw, encapsulated=False)
    encoded = list(frames) if frames is not None else [encode(array, syntax, int(ds.BitsStored)) for array in arrays]
    return write(ds, syntax, encapsulate(ds, encoded, table, split), encapsulated=True)


def describe(arrays: Sequence[np.ndarray], attributes: dict[str, Any]) -> Dataset:
    """The Image Pixel module of the arrays."""
    first = arrays[0]
    bits = first.dtype.itemsize * 8
    ds = Dataset()
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    ds.SOPInstanceUID = "2.25.1"
    ds.SamplesPerPixel = 3 if first.ndim == 3 else 1
    ds.PhotometricInterpretation = "RGB" if first.ndim == 3 else "MONOCHROME2"
    if first.ndim == 3:
        ds.PlanarConfiguration = 0
    ds.Rows, ds.Columns = first.shape[:2]
    if len(arrays) > 1:
        ds.NumberOfFrames = len(arrays)
    ds.PixelRepresentation = 1 if first.dtype.kind == "i" else 0
    if first.dtype.kind != "f":
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    else:
        ds.BitsAllocated = bits
    for name, value in attributes.items():
        if value is None:
            if name in ds:
                delattr(ds, name)
        else:
            setattr(ds, name, value)
    if "BitsStored" in attributes and "HighBit" not in attributes:
        ds.HighBit = ds.BitsStored - 1
    return ds


def native(array: np.ndarray, big: bool = False, planar: int = 0) -> bytes:
    """The bytes of one native frame."""
    if array.ndim == 3 and planar:
        array = array.transpose(2, 0, 1)
    return np.ascontiguousarray(array).astype(array.dtype.newbyteorder(">" if big else "<")).tobytes()


def write(ds: Dataset, syntax: str, value: bytes, encapsulated: bool, vr: str | None = None) -> bytes:
    """A whole file: preamble, meta information, data set, and the pixel data element last, written by hand."""
    implicit, little = syntax == "implicit", syntax != "big"
    vr = vr or ("OB" if encapsulated or ds.BitsAllocated <= 8 else "OW")
    body = dicom_body(ds, implicit, little) + element(0x0010, vr, value, implicit, little, encapsulated)
    if syntax == "deflated":
        body = deflate(body)
    return preamble(SYNTAX[syntax]) + body


def element(number: int, vr: str, value: bytes, implicit: bool, little: bool, undefined: bool) -> bytes:
    """One element of group 7FE0."""
    order = "<" if little else ">"
    value += b"\0" * (len(value) % 2)
    length = 0xFFFFFFFF if undefined else len(value)
    head = struct.pack(order + "HH", 0x7FE0, number)
    return (
        head
        + (struct.pack(order + "I", length) if implicit else vr.encode() + b"\0\0" + struct.pack(order + "I", length))
        + value
    )


def preamble(uid: str) -> bytes:
    """128 zero bytes, DICM, and group 0002 with only the transfer syntax."""
    value = uid.encode() + b"\0" * (len(uid) % 2)
    syntax = struct.pack("<HH2sH", 2, 0x10, b"UI", len(value)) + value
    return b"\0" * 128 + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(syntax)) + syntax


def deflate(body: bytes) -> bytes:
    """PS3.5 A.5: raw deflate, padded to an even length."""
    machine = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = machine.compress(body) + machine.flush()
    return packed + b"\0" * (len(packed) % 2)


def item(value: bytes) -> bytes:
    """One item of encapsulated pixel data."""
    value += b"\0" * (len(value) % 2)
    return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(value)) + value


END = b"\xfe\xff\xdd\xe0\0\0\0\0"


def encapsulate(ds: Dataset, encoded: Sequence[bytes], table: str = "basic", split: int = 0) -> bytes:
    """Offset table and fragments (PS3.5 A.4); puts the extended table into `ds`."""
    parts = [[f[i : i + split] for i in range(0, len(f), split)] if split else [f] for f in encoded]
    bodies = [b"".join(item(p) for p in frame) for frame in parts]
    offsets = [sum(map(len, bodies[:i])) for i in range(len(bodies))]
    if table == "extended":
        ds.ExtendedOffsetTable = struct.pack(f"<{len(offsets)}Q", *offsets)
        ds.ExtendedOffsetTableLengths = struct.pack(f"<{len(offsets)}Q", *(len(f) + len(f) % 2 for f in encoded))
    basic = struct.pack(f"<{len(offsets)}I", *offsets) if table == "basic" else b""
    return item(basic) + b"".join(bodies) + END


def encode(array: np.ndarray, syntax: str, bits: int) -> bytes:
    """One frame, encoded as the transfer syntax wants it."""
    return ENCODERS[syntax](array, bits)


def _rle(array: np.ndarray, bits: int) -> bytes:
    from rle.utils import encode_pixel_data

    rows, columns = array.shape[:2]
    samples = 3 if array.ndim == 3 else 1
    planes = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<")))
    return bytes(
        encode_pixel_data(
            planes.tobytes(), rows=rows, columns=columns, samples_per_pixel=samples,
            bits_allocated=array.dtype.itemsize * 8,
            number_of_frames=1, planar_configuration=0, byteorder="<",
        )
    )  # fmt: skip


def _unsigned(array: np.ndarray, bits: int) -> np.ndarray:
    """Two's complement in `bits` bits, as an unsigned array."""
    wide = array.view(array.dtype.str.replace("i", "u")) if array.dtype.kind == "i" else array
    return wide & wide.dtype.type((1 << bits) - 1)


def _lossless(array: np.ndarray, bits: int) -> bytes:
    plain = _unsigned(array, bits)
    space = {"colorspace": "RGB", "outcolorspace": "RGB"} if array.ndim == 3 else {}
    return bytes(imagecodecs.jpeg8_encode(plain, lossless=True, predictor=1, bitspersample=bits, **space))


def _deflated(array: np.ndarray, bits: int) -> bytes:
    return deflate(native(array))


def jpeg(array: np.ndarray, quality: int = 90, **options: Any) -> bytes:
    """A baseline JPEG by Pillow ([H, W] or [H, W, 3], uint8); options as for Pillow's JPEG writer."""
    out = io.BytesIO()
    Image.fromarray(array).save(out, "JPEG", quality=quality, **options)
    return out.getvalue()


def raster(array: np.ndarray, kind: str, mode: str | None = None, **options: Any) -> bytes:
    """A PNG, TIFF, WebP, BMP, ... by Pillow, of an array brought to `mode`."""
    out = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(out, kind, **options)
    return out.getvalue()


ENCODERS: dict[str, Callable[[np.ndarray, int], bytes]] = {
    "uncompressed": lambda a, b: native(a),
    "baseline": lambda a, b: jpeg(a),
    "extended": lambda a, b: bytes(imagecodecs.jpeg8_encode(a, 95, bitspersample=b)),
    "lossless57": _lossless,
    "lossless": _lossless,
    "jls": lambda a, b: bytes(imagecodecs.jpegls_encode(_unsigned(a, a.dtype.itemsize * 8))),
    "jls-near": lambda a, b: bytes(imagecodecs.jpegls_encode(_unsigned(a, a.dtype.itemsize * 8), 2)),
    "j2k": lambda a, b: bytes(
        imagecodecs.jpeg2k_encode(a, 0, codecformat="J2K", reversible=True, bitspersample=b, mct=False)
    ),
    "j2k-lossy": lambda a, b: bytes(imagecodecs.jpeg2k_encode(a, 40, codecformat="J2K", bitspersample=b)),
    "htj2k": lambda a, b: bytes(imagecodecs.htj2k_encode(a)),
    "jxl": lambda a, b: bytes(imagecodecs.jpegxl_encode(a, lossless=True)),
    "rle": _rle,
    "deflated-frame": _deflated,
}


def float_dicom(array: np.ndarray, **attributes: Any) -> bytes:
    """Float Pixel Data (float32) or Double Float Pixel Data (float64)."""
    ds = describe([array], attributes)
    del ds.PixelRepresentation
    single = array.dtype.itemsize == 4
    plain = dicom_body(ds)
    return (
        preamble(SYNTAX["explicit"])
        + plain
        + element(8 if single else 9, "OF" if single else "OD", native(array), False, True, False)
    )


def dicom_body(ds: Dataset, implicit: bool = False, little: bool = True) -> bytes:
    """The data set's own bytes."""
    out = io.BytesIO()
    ds.save_as(out, implicit_vr=implicit, little_endian=little)
    return out.getvalue()


def lut(first: int, entries: Sequence[int], bits: int = 16, vr: str = "US") -> Dataset:
    """An item of a Modality or VOI LUT Sequence. 65536 entries are written as 0."""
    made = Dataset()
    made.add_new(0x00283002, "SS" if first < 0 else "US", [len(entries) % 65536, first, bits])
    made.add_new(0x00283006, "OW", np.array(entries, "<u2").tobytes())
    return made


def little_endian(ds: Dataset) -> Dataset:
    """The data set with a file meta that says Explicit VR Little Endian: what pydicom's own look-up functions ask
    for.
    """
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = SYNTAX["explicit"]
    return ds


def without_markers(stream: bytes) -> bytes:
    """A JPEG stream without its JFIF and Adobe markers, and with the component identifiers 1, 2, 3."""
    out, at = bytearray(stream[:2]), 2
    while stream[at + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", stream, at + 2)
        part = bytearray(stream[at : at + 2 + length])
        if part[1] == 0xC0:
            part[10::3] = bytes(range(1, len(part[10::3]) + 1))
        if part[1] not in (0xE0, 0xEE):
            out += part
        at += 2 + length
    scan = bytearray(stream[at:])
    scan[5 : 5 + 2 * scan[4] : 2] = bytes(range(1, scan[4] + 1))
    return bytes(out + scan)
