"""DICOM files made to hurt: lengths, dimensions, depths, offset tables and bombs that lie. Each gives a named error, at
once and cheaply.
"""

import contextlib
import re
import struct
import time
import tracemalloc

import make_images as make
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from rules_of_files import element, file_of, header

from dali_pipes.decode import DecodePolicy, Limits, VOIWindow, decode, describe, dicom_frames, identify
from dali_pipes.errors import DecodeError

PIXELS = np.arange(64, dtype=np.uint8).reshape(8, 8)
FF = 0xFFFFFFFF


def nested(depth, undefined):
    """A sequence in a sequence in a sequence, `depth` of them."""
    body = b""
    for _ in range(depth):
        inner = b"\xfe\xff\x00\xe0" + struct.pack("<I", FF if undefined else len(body)) + body
        inner += b"\xfe\xff\x0d\xe0\0\0\0\0" if undefined else b""
        length = FF if undefined else len(inner)
        body = struct.pack("<HH2sHI", 0x0028, 0x3000, b"SQ", 0, length) + inner
        body += b"\xfe\xff\xdd\xe0\0\0\0\0" if undefined else b""
    return body


def bomb():
    """A deflated data set: a small image, then 200 MB of zeros in another element."""
    body = (
        header()
        + element(0x7FE0, 0x0010, b"OB", bytes(64))
        + struct.pack("<HH2sHI", 0xFFFC, 0xFFFC, b"OB", 0, 200 << 20)
    )
    return make.preamble(make.SYNTAX["deflated"]) + make.deflate(body + bytes(200 << 20))


def bomb_before_the_pixels():
    """The zeros come first, in an element of their own."""
    body = struct.pack("<HH2sHI", 0x0009, 0x1010, b"OB", 0, 200 << 20) + bytes(200 << 20)
    return make.preamble(make.SYNTAX["deflated"]) + make.deflate(
        body + header() + element(0x7FE0, 0x0010, b"OB", bytes(64))
    )


def claims(**attributes):
    return make.dicom(PIXELS, **attributes)


def encapsulated(value, syntax="j2k", **attributes):
    return make.write(make.describe([PIXELS], attributes), syntax, value, encapsulated=True)


def table_of(*offsets):
    return make.item(struct.pack(f"<{len(offsets)}I", *offsets))


J2K = make.encode(PIXELS, "j2k", 8)
JPEG = make.jpeg(PIXELS)
JLS = make.encode(PIXELS, "jls", 8)
RLE = make.encode(PIXELS, "rle", 8)
BIG_SIZ = J2K[:8] + struct.pack(">II", 60000, 60000) + J2K[16:]
BIG_JPEG = JPEG.replace(struct.pack(">BHH", 8, 8, 8), struct.pack(">BHH", 8, 65500, 65500), 1)
BIG_JLS = JLS.replace(struct.pack(">BHH", 8, 8, 8), struct.pack(">BHH", 8, 65500, 65500), 1)
LUT = Dataset()
LUT.LUTDescriptor, LUT.LUTData = [4, 0, 16], b"\1\0"

BAD = {
    **{
        f"pixel data of length {n:#x}": file_of(header() + struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, n))
        for n in (FF, FF - 1, 1 << 31, 65)
    },
    **{
        f"element of length {n:#x}": file_of(struct.pack("<HH2sHI", 0x0009, 0x1010, b"OB", 0, n) + header())
        for n in (FF, FF - 1, 1 << 30)
    },
    **{
        f"{syntax} dimensions that overflow": make.dicom(PIXELS, syntax, Rows=65535, Columns=65535)
        for syntax in ("explicit", "rle", "j2k", "jls", "lossless", "deflated")
    },
    "samples that overflow": claims(SamplesPerPixel=65535),
    "no rows": claims(Rows=0),
    "no columns": claims(Columns=0),
    "frames beyond the file": claims(NumberOfFrames=99_999),
    "frames beyond the limit": claims(NumberOfFrames=2_000_000_000),
    "frames that overflow": claims(NumberOfFrames="9" * 12),
    "bits of 65535": claims(BitsAllocated=65535, BitsStored=65535, HighBit=65534),
    "bits stored 0": claims(BitsStored=0, HighBit=0),
    "1000 deep, defined lengths": file_of(nested(1000, False) + header()),
    "1000 deep, undefined lengths": file_of(nested(1000, True) + header()),
    "10000 deep": file_of(nested(10_000, True)),
    "sequence without end": file_of(
        struct.pack("<HH2sHI", 0x0028, 0x3000, b"SQ", 0, FF) + b"\xfe\xff\x00\xe0" + struct.pack("<I", FF)
    ),
    "item longer than its sequence": file_of(
        struct.pack("<HH2sHI", 0x0028, 0x3000, b"SQ", 0, 8) + b"\xfe\xff\x00\xe0" + struct.pack("<I", 1 << 30)
    ),
    "modality table too short": claims(ModalityLUTSequence=[LUT]),
    "voi table too short": claims(VOILUTSequence=[LUT]),
    "no offset table": encapsulated(b""),
    "no fragment": encapsulated(make.item(b"")),
    "offset table of 3 bytes": encapsulated(b"\xfe\xff\x00\xe0\x03\0\0\0abc" + make.item(J2K)),
    "offset table past the end": encapsulated(b"\xfe\xff\x00\xe0" + struct.pack("<I", FF - 9) + make.item(J2K)),
    "fragment past the end": encapsulated(make.item(b"") + b"\xfe\xff\x00\xe0" + struct.pack("<I", 1 << 30) + J2K),
    "fragment of undefined length": encapsulated(make.item(b"") + b"\xfe\xff\x00\xe0" + struct.pack("<I", FF) + J2K),
    "not an item": encapsulated(make.item(b"") + b"\x01\x02\x03\x04\x05\x06\x07\x08"),
    "empty fragment": encapsulated(make.item(b"") + make.item(b"") + make.END),
    "offsets past the end, 2 frames": encapsulated(table_of(0, 1 << 31) + make.item(J2K), NumberOfFrames=3),
    "descending offsets": encapsulated(table_of(50, 0) + make.item(b"x" * 50), "rle", NumberOfFrames=2),
    "extended table past the end": encapsulated(
        make.item(b"") + make.item(b"x"),
        NumberOfFrames=2,
        ExtendedOffsetTable=struct.pack("<2Q", 1 << 62, 1 << 63),
        ExtendedOffsetTableLengths=struct.pack("<2Q", 1 << 62, 1),
    ),
    "J2K of 60000 x 60000": encapsulated(make.item(b"") + make.item(BIG_SIZ) + make.END),
    "J2K cut in its header": encapsulated(make.item(b"") + make.item(J2K[:30]) + make.END),
    "J2K that is text": encapsulated(make.item(b"") + make.item(b"hello" * 9) + make.END),
    "JPEG of 65500 x 65500": encapsulated(make.item(b"") + make.item(BIG_JPEG) + make.END, "baseline"),
    "JPEG lossless of 65500 x 65500": encapsulated(make.item(b"") + make.item(BIG_JPEG) + make.END, "lossless"),
    "JPEG without end": encapsulated(make.item(b"") + make.item(JPEG[:-2]) + make.END, "baseline"),
    "JPEG that is JPEG-LS": encapsulated(make.item(b"") + make.item(JLS[:40]) + make.END, "baseline"),
    "JPEG-LS of 65500 x 65500": encapsulated(make.item(b"") + make.item(BIG_JLS) + make.END, "jls"),
    "RLE of 4 billion segments": encapsulated(
        make.item(b"") + make.item(struct.pack("<I", FF) + RLE[4:]) + make.END, "rle"
    ),
    "RLE offsets past the end": encapsulated(
        make.item(b"") + make.item(struct.pack("<16I", 1, FF, *[0] * 14) + b"\0\0") + make.END, "rle"
    ),
    "RLE cut": encapsulated(make.item(b"") + make.item(RLE[:66]) + make.END, "rle"),
    "deflated rubbish": make.preamble(make.SYNTAX["deflated"]) + b"\xff" * 100,
    "deflated and cut": make.dicom(PIXELS, "deflated")[:-30],
    "deflate bomb before the pixels": bomb_before_the_pixels(),
    "deflated frame that is a bomb": make.dicom(PIXELS, "deflated-frame", frames=[make.deflate(bytes(1000))[:-9]]),
    "meta information past the end": make.preamble("1.2")[:150],
    "a syntax that is none": make.preamble("1.2.3.4") + header(),
    "only a preamble": bytes(128) + b"DICM",
    "pixels of a palette without palette": claims(PhotometricInterpretation="PALETTE COLOR"),
    "an unknown photometric interpretation": claims(PhotometricInterpretation="SECRET"),
    "no window numbers": make.dicom(PIXELS, WindowCenter=[1, 2], WindowWidth=[1]),
}
LIMITS = Limits(inflate_bytes=64 << 20)


def test_there_are_fifty():
    assert len(BAD) >= 50


def first_and_third(data):
    """Some are good up to their first frame."""
    for frame in (0, 2):
        decode(data, identify("", data), frame, DecodePolicy(window=VOIWindow(), limits=LIMITS))


@pytest.mark.parametrize("name", BAD)
def test_crafted_files(name, tmp_path):
    data = BAD[name]
    began = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError) as caught:
            first_and_third(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(caught.value)
    assert peak < 300 << 20
    assert time.process_time() - began < 5
    path = tmp_path / "listed"
    path.write_bytes(data)
    assert dicom_frames(path) >= 0


@pytest.mark.parametrize("vr", [b"OB", b"UN", b"SQ", b"US", b"DS", b"CS", b"FD", b"ZZ", b"!!"])
def test_describe_names_what_is_wrong_with_a_value_of_another_kind(vr):
    """`inspect` shows what this raises: nothing but errors of ours."""
    table = make.lut(0, range(256))
    whole = make.dicom(
        PIXELS, WindowCenter=40, WindowWidth=400, RescaleSlope=2, PixelPaddingValue=3, PresentationLUTShape="IDENTITY",
        ModalityLUTSequence=Sequence([table]), VOILUTSequence=Sequence([table]),
        PerFrameFunctionalGroupsSequence=Sequence([Dataset()]),
    )  # fmt: skip
    places = [found.start() for found in re.finditer(rb"US|SS|CS|DS|SQ|OW", whole[132:])]
    assert len(places) >= 20
    for at in places:
        data = whole[: 132 + at] + vr + whole[134 + at :]
        with contextlib.suppress(DecodeError):
            describe(data, 0, DecodePolicy(window=VOIWindow()))


def test_a_bomb_after_the_pixels_is_not_inflated():
    data = bomb()
    kind = identify("", data)
    tracemalloc.start()
    pixels = decode(data, kind, 0, DecodePolicy(limits=Limits(inflate_bytes=1 << 20))).pixels
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pixels.shape == (8, 8, 3)
    assert peak < 4 << 20
