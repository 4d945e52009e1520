"""Small files that claim much: refused before anything of that size is made, or read without what they claim."""

import io
import struct
import time

import make_images as make
import numpy as np
import pytest
from PIL import Image
from pydicom.sequence import Sequence

from dali_pipes.decode import DecodePolicy, Limits, VOIWindow, decode, identify
from dali_pipes.decode.jpegheader import read_jpeg_header
from dali_pipes.errors import DecodeError, LimitError, TruncatedError

PIXELS = np.zeros((8, 8, 3), np.uint8)
SECONDS = 5  # of processor time; each took 20 to 100 before it was bounded


@pytest.fixture(autouse=True)
def soon():
    began = time.process_time()
    yield
    assert time.process_time() - began < SECONDS


def webp(side):
    """34 bytes that say: one colour, side x side."""
    data = bytearray(make.raster(PIXELS, "WEBP", lossless=True))
    at = data.index(b"VP8L") + 9
    (bits,) = struct.unpack_from("<I", data, at)
    struct.pack_into("<I", data, at, bits & 0xF0000000 | (side - 1) << 14 | side - 1)
    return bytes(data)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_webp_of_34_bytes_is_not_177_million_pixels():
    data = webp(13_300)
    assert len(data) == 34
    with pytest.raises(LimitError, match=r"13300 x 13300 takes 3891580000 bytes; at most 2147483648"):
        decode(data, identify(None, data))
    assert decode(webp(64), identify(None, data)).pixels.shape == (64, 64, 3)


def pages(count):
    """A TIFF of so many pages, all of the same four pixels."""
    entries = [(256, 4, 1, 2), (257, 4, 1, 2), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    entries += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, 2), (279, 4, 1, 4)]
    body = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    size = len(body) + 4
    ifds = b"".join(body + struct.pack("<I", 12 + (i + 1) * size) for i in range(count - 1)) + body + bytes(4)
    return b"II*\0" + struct.pack("<I", 12) + b"\1\2\3\4" + ifds


def test_pages_of_a_tiff_are_not_counted_to_read_its_first():
    data = pages(200_000)
    kind = identify(None, data)
    assert decode(data, kind, 0).pixels[..., 0].tolist() == [[1, 2], [3, 4]]
    assert decode(data, kind, 100).pixels[..., 0].tolist() == [[1, 2], [3, 4]]
    with pytest.raises(LimitError, match=r"page 5000 was asked for; the first 4096"):
        decode(data, kind, 5000)
    with pytest.raises(DecodeError, match="frame 3 was asked for; the tiff image has 3, counted from 0"):
        decode(pages(3), kind, 3)


def test_frames_of_an_animation_that_come_before_are_counted():
    small = np.arange(64, dtype=np.uint8).reshape(8, 8)
    images = [Image.fromarray(small + i) for i in range(20)]
    out = io.BytesIO()
    images[0].save(out, "GIF", save_all=True, append_images=images[1:])
    kind = identify(None, out.getvalue())
    assert decode(out.getvalue(), kind, 19).pixels.shape == (8, 8, 3)
    with pytest.raises(LimitError, match="all before it must be decoded"):
        decode(out.getvalue(), kind, 19, DecodePolicy(limits=Limits(pixels=70)))


@pytest.mark.parametrize("fill", [b"\xff", b"\0", b"\xff\0", b"\xff\xd0"], ids=["fill", "zeros", "escaped", "restart"])
def test_bytes_between_the_headers_of_a_jpeg_cost_little(fill):
    data = make.jpeg(PIXELS)
    if fill != b"\xff\xd0":
        assert read_jpeg_header(data[:20] + fill * 1001 + data[20:]).width == 8
    with pytest.raises((TruncatedError, DecodeError)):
        identify(None, data[:20] + fill * (100_000_000 // len(fill)))


def scans(side, count, *, tail=b""):
    """A progressive JPEG whose last scan, of 35 bytes, is there so many times."""
    data = make.jpeg(np.zeros((side, side), np.uint8), progressive=True)
    at = data.rindex(b"\xff\xda")
    return data[:at] + data[at:-2] * count + b"\xff\xd9" + tail


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "DICOM"])
def test_scans_of_a_jpeg_are_counted(wrapped):
    data = scans(1024, 5000)
    assert len(data) < 200_000
    if wrapped:
        data = make.dicom(np.zeros((1024, 1024), np.uint8), "extended", frames=[data])
    with pytest.raises(LimitError, match=r"1024 x 1024 has more than 4096 scans; at most 4294967296 pixels"):
        decode(data, identify(None, data))


def test_an_end_marker_in_a_comment_does_not_hide_scans():
    data = scans(1024, 5000)
    at = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    data = data[:at] + b"\xff\xfe\0\4\xff\xd9" + data[at:]
    with pytest.raises(LimitError, match="scans"):
        decode(data, identify(None, data))


def test_what_follows_the_end_marker_is_no_scan():
    data = scans(1024, 1, tail=b"\xff\xda" * 5000)
    assert decode(data, identify(None, data)).pixels.shape == (1024, 1024, 3)


@pytest.mark.parametrize("progressive", [False, True])
def test_coefficients_of_a_jpeg_of_several_scans_count(progressive):
    """Measured: 3 bytes a pixel, and 9 where all coefficients are kept until the last scan."""
    data = make.jpeg(PIXELS, subsampling="4:4:4", progressive=progressive)
    policy = DecodePolicy(limits=Limits(frame_bytes=64 * 9))
    if not progressive:
        assert decode(data, identify(None, data), 0, policy).pixels.shape == (8, 8, 3)
        return
    with pytest.raises(LimitError, match="8 x 8 takes 640 bytes"):
        decode(data, identify(None, data), 0, policy)


def test_a_header_of_many_tables_and_numbers():
    many = Sequence([make.lut(0, [0] * 65536) for _ in range(40)])
    data = make.dicom(PIXELS[..., 0], VOILUTSequence=many)
    assert decode(data, identify(None, data), 0, DecodePolicy(window=VOIWindow(31))).pixels.shape == (8, 8, 3)
    with pytest.raises(DecodeError, match="VOI LUT 32 was asked for"):
        decode(data, identify(None, data), 0, DecodePolicy(window=VOIWindow(32)))
    numbers = b"1\\" * 500_000
    at = data.index(b"\x28\0\x10\x30")
    wide = data[:at] + struct.pack("<HH2sHI", 0x28, 0x1050, b"UN", 0, len(numbers)) + numbers + data[at:]
    with pytest.raises(DecodeError, match="WindowCenter has 1000000 bytes; at most 65536"):
        decode(wide, identify(None, wide), 0, DecodePolicy(window=VOIWindow(source="window")))


def test_wide_pixels_count_with_what_they_take_as_doubles():
    claim = make.dicom(np.zeros((8, 8), np.uint32), Rows=8192, Columns=8192)
    with pytest.raises(LimitError, match="takes 4026531840 bytes"):
        decode(claim, identify(None, claim))
