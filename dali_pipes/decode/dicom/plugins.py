"""The calls into each codec library: one encoded frame in, samples out. Errors of theirs become DecodeError."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from dali_pipes.decode.dicom.header import Header
from dali_pipes.decode.dicom.j2k import read_j2k_header
from dali_pipes.decode.dicom.jxl import read_jxl_size
from dali_pipes.decode.dicom.lossless import check_amount, plain_scan
from dali_pipes.decode.dicom.native import check_subsampled, frame_bits, shape_samples
from dali_pipes.decode.jpeg import pillow_whole
from dali_pipes.decode.jpegheader import JpegHeader, read_jpeg_header
from dali_pipes.decode.jpegstrict import cleaned, decode_strictly
from dali_pipes.errors import DecodeError, TruncatedError, UnsupportedError


@dataclass(frozen=True)
class Samples:
    """array [rows, columns, samples], integers as the codestream holds them.

    bits, signed: the codestream's own precision and sign, where it has them. rgb: three samples that are RGB already,
    whatever the header says.
    """

    array: NDArray[Any]
    bits: int | None = None
    signed: bool | None = None
    rgb: bool = False


Plugin = Callable[[bytes, Header], Samples]


def named(what: str) -> Callable[[Plugin], Plugin]:
    """Turn whatever a codec raises into DecodeError, without quoting the data."""

    def wrap(call: Plugin) -> Plugin:
        @wraps(call)
        def safe(frame: bytes, header: Header) -> Samples:
            try:
                return call(frame, header)
            except (DecodeError, MemoryError):
                raise
            except Exception as error:
                cut = any(
                    w in str(error).lower()
                    for w in ("truncated", "premature", "too small", "not enough", "source buffer")
                )
                raise (TruncatedError if cut else DecodeError)(f"{what} could not decode the frame: {error}") from None
            except BaseException as error:
                if type(error).__name__ != "PanicException":  # what Rust's panics become; not an Exception
                    raise
                raise DecodeError(f"{what} could not decode the frame: it is damaged") from None

        return safe

    return wrap


def never(frame: bytes, header: Header) -> Samples:
    """Native pixel data is not encapsulated."""
    raise DecodeError("native pixel data has no encoded frames")


def uncompressed(frame: bytes, header: Header) -> Samples:
    """PS3.5 A.4.11: native frames in fragments."""
    need = _native_bytes(header)
    check_subsampled(replace(header, frames=1), len(frame))
    if len(frame) < need:
        raise TruncatedError(f"the frame has {len(frame)} bytes, it needs {need}")
    return Samples(shape_samples(frame[:need], header))


def deflated_frame(frame: bytes, header: Header) -> Samples:
    """PS3.5 A.4.12: each frame deflated; no more is inflated than the frame needs."""
    try:
        plain = zlib.decompressobj(-zlib.MAX_WBITS).decompress(frame, _native_bytes(header) + 1)
    except zlib.error as error:
        raise DecodeError(f"the deflated frame is damaged: {error}") from None
    return uncompressed(plain, header)


def _native_bytes(header: Header) -> int:
    return (frame_bits(header) + 7) // 8


def _jpeg_header(frame: bytes, header: Header) -> JpegHeader:
    if frame[:2] != b"\xff\xd8":
        raise DecodeError("the frame is not JPEG: it does not begin with a start-of-image marker")
    found = read_jpeg_header(frame)
    if (found.height, found.width, found.components) != (header.rows, header.columns, header.samples):
        raise DecodeError(
            f"the JPEG frame is {found.height} x {found.width} x {found.components}, "
            f"the DICOM header says {header.rows} x {header.columns} x {header.samples}"
        )
    return found


@named("simplejpeg")
def baseline(frame: bytes, header: Header) -> Samples:
    """JPEG of 8 bits.

    Three components are YCbCr where a JFIF or Adobe marker says so, else where the DICOM header does.
    """
    found = _ended(frame, header)
    if found.precision != 8:
        raise UnsupportedError(f"JPEG Baseline of {found.precision} bits: the process allows 8 only")
    return _eight_bits(frame, found, header)


def _eight_bits(frame: bytes, found: JpegHeader, header: Header) -> Samples:
    raw = found.components == 3 and (found.sof == 0xC3 or _untransformed(found, header))
    data = cleaned(frame, as_stored=True) if raw else frame
    if found.components == 3 and found.is_odd:  # TurboJPEG does not take it
        array = pillow_whole(data)
    else:
        array = decode_strictly(data, "GRAY" if found.components == 1 else "RGB")
    return Samples(array, 8, None if found.sof == 0xC3 else False, rgb=found.sof != 0xC3)


def _ended(frame: bytes, header: Header) -> JpegHeader:
    found = _jpeg_header(frame, header)
    if not found.ended:
        raise TruncatedError(f"the {'JPEG-LS' if found.sof == 0xF7 else 'JPEG'} frame has no end marker")
    return found


def _untransformed(found: JpegHeader, header: Header) -> bool:
    return found.is_ycc and not found.jfif and found.adobe is None and not header.photometric.startswith("YBR")


@named("imagecodecs (libjpeg-turbo)")
def turbo(frame: bytes, header: Header) -> Samples:
    """JPEG extended of 8 and 12 bits, and lossless of 2 to 16 bits (T.81 processes 2, 4, 6, 10, 14).

    imagecodecs, which reads all depths, drops libjpeg's warnings: simplejpeg reads 8 bits, and looks through the rest.
    """
    found = _ended(frame, header)
    if found.precision == 8:
        return _eight_bits(frame, found, header)
    scan = plain_scan(frame) if found.sof == 0xC3 else None
    if scan is None:
        _look_through(frame, found)
    import imagecodecs

    if found.components == 3 and (found.sof == 0xC3 or not found.is_ycc or _untransformed(found, header)):
        array = imagecodecs.jpeg8_decode(frame, colorspace="RGB", outcolorspace="RGB")
        return Samples(np.asarray(array), found.precision, None, rgb=found.sof != 0xC3)
    array = np.asarray(imagecodecs.jpeg8_decode(frame)).reshape(header.rows, header.columns, -1)
    if scan is not None and not check_amount(scan, array[..., 0], found.precision):
        _look_through(frame, found)
    return Samples(array, found.precision, None, rgb=True)


def _look_through(frame: bytes, found: JpegHeader) -> None:
    """Raise what libjpeg warns of in a stream of other than 8 bits."""
    space = "GRAY" if found.components == 1 else "RGB"
    decode_strictly(cleaned(frame, 8, as_stored=True), space, small=found.sof != 0xC3)


def turbo_version() -> str:
    """Return name and version of the libraries behind `turbo`."""
    import imagecodecs

    return f"{imagecodecs.jpeg8_version()}, simplejpeg {simplejpeg.__version__}"


def openjpeg_version() -> str:
    """Return name and version of the library behind `openjpeg`."""
    import imagecodecs

    return str(imagecodecs.jpeg2k_version())


def jpegxl_version() -> str:
    """Return name and version of the library behind `jpegxl`."""
    import imagecodecs

    return str(imagecodecs.jpegxl_version())


@named("imagecodecs (libjxl)")
def jpegxl(frame: bytes, header: Header) -> Samples:
    """PS3.5 A.4.13: JPEG XL, whose decoder gives gray or RGB."""
    import imagecodecs

    size = read_jxl_size(frame)
    if size != (header.rows, header.columns):
        raise DecodeError(f"the JPEG XL frame is {size}, the DICOM header says {(header.rows, header.columns)}")
    array = np.asarray(imagecodecs.jpegxl_decode(frame, numthreads=1))
    return Samples(_as_frame(array, header), None, False, rgb=True)


@named("CharLS")
def charls(frame: bytes, header: Header) -> Samples:
    """JPEG-LS by pyjpegls; what it refuses of one component by imagecodecs, which takes padding before the end marker.

    Both refuse data that is damaged.
    """
    found = _ended(frame, header)  # CharLS would look for an end marker without end
    try:
        return _by_pyjpegls(frame, header)
    except MemoryError:
        raise
    except Exception as refused:
        if found.components != 1:
            raise
        try:
            import imagecodecs

            array = np.asarray(imagecodecs.jpegls_decode(frame))
        except MemoryError:
            raise
        except Exception:
            raise refused from None
        return Samples(_as_frame(array, header), found.precision, None)


def _by_pyjpegls(frame: bytes, header: Header) -> Samples:
    """Planes come one after the other where the stream is not interleaved."""
    from jpeg_ls.CharLS import decode_pixel_data

    plain, info = decode_pixel_data(frame)
    dtype = np.uint8 if info["bits_per_sample"] <= 8 else np.uint16
    flat, count = np.frombuffer(plain, dtype), info["components"]
    size = (info["height"], info["width"])
    array = (
        flat.reshape(count, *size).transpose(1, 2, 0)
        if count > 1 and info["interleave_mode"] == 0
        else flat.reshape(*size, count)
    )
    return Samples(_as_frame(np.ascontiguousarray(array), header), info["bits_per_sample"], None)


def fallback_version() -> str:
    """Return name and version of what reads JPEG-LS that pyjpegls refuses; "" where it is not here."""
    try:
        import imagecodecs
    except ImportError:
        return ""
    return f"or imagecodecs {imagecodecs.__version__} {imagecodecs.jpegls_version()}"


@named("imagecodecs (OpenJPEG)")
def openjpeg(frame: bytes, header: Header) -> Samples:
    """JPEG 2000 and HTJ2K; the inverse colour transform has been applied where the codestream has one."""
    import imagecodecs

    told = read_j2k_header(frame)
    told.check(header.rows, header.columns, header.samples)
    array = np.asarray(imagecodecs.jpeg2k_decode(frame, numthreads=1))
    return Samples(_as_frame(array, header), told.precision, told.signed, rgb=told.transformed)


@named("pylibjpeg-rle")
def rle(frame: bytes, header: Header) -> Samples:
    """RLE (PS3.5 Annex G): one plane after the other."""
    from rle.utils import decode_pixel_data

    plain = decode_pixel_data(
        frame, version=2, rows=header.rows, columns=header.columns, bits_allocated=header.allocated
    )
    if header.allocated == 1:
        return Samples(np.frombuffer(plain, np.uint8).reshape(header.rows, header.columns, -1))
    flat = np.frombuffer(plain, f"<u{header.allocated // 8}")
    planes = flat.reshape(header.samples, header.rows, header.columns)
    return Samples(np.ascontiguousarray(planes.transpose(1, 2, 0)))


def _as_frame(array: NDArray[Any], header: Header) -> NDArray[Any]:
    shape = (header.rows, header.columns, header.samples)
    if array.size != header.rows * header.columns * header.samples or array.shape[:2] != shape[:2]:
        raise DecodeError(f"the frame decoded to {array.shape}, the DICOM header says {shape}")
    return array.reshape(shape)
