"""Stored values: bits, sign, high bit, byte order, sizes. Every expected number is worked out in the test."""

import make_images as make
import numpy as np
import pytest
from rules import row, shown, values

from dali_pipes.decode import DecodePolicy, FixedWindow, PercentileWindow
from dali_pipes.decode.dicom.image import read_frame
from dali_pipes.errors import DecodeError, TruncatedError


def test_bits_above_bits_stored_are_masked():
    # PS3.5 8.1.1: 12 bits stored; the upper four may hold anything (once, overlays). 0xF123 -> 0x123 = 291.
    assert values(make.dicom(row(0xF123, 0x0FFF, dtype=np.uint16), BitsStored=12)).tolist() == [[291, 4095]]


def test_sign_is_extended_from_bits_stored():
    # 12-bit two's complement: 0xFFF = -1, 0x800 = -2048, 0x7FF = 2047, whatever the upper four bits say.
    pixels = row(0x0FFF, 0x0800, 0x07FF, 0xF001, dtype=np.uint16)
    assert values(make.dicom(pixels, BitsStored=12, PixelRepresentation=1)).tolist() == [[-1, -2048, 2047, 1]]


def test_high_bit_above_bits_stored():
    # 12 bits in the upper part of 16, HighBit 15: 0x1230 >> 4 = 0x123 = 291.
    assert values(make.dicom(row(0x1230, 0xFFFF, dtype=np.uint16), BitsStored=12, HighBit=15)).tolist() == [[291, 4095]]


def test_one_bit_pixels_come_least_significant_first():
    # PS3.5 8.1.1: 0b00000101 is 1, 0, 1, 0, 0, 0, 0, 0; the second frame of 5 pixels begins at bit 5.
    ds = {"Rows": 1, "Columns": 5, "BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "NumberOfFrames": 2}
    data = make.dicom(row(0b10100101, 0b00000001), **ds)
    assert values(data, 0).tolist() == [[1, 0, 1, 0, 0]]
    assert values(data, 1).tolist() == [[1, 0, 1, 1, 0]]


def test_one_bit_frames_that_end_within_a_byte_that_is_missing():
    ds = {"Rows": 1, "Columns": 17, "BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}
    with pytest.raises(TruncatedError, match="frame 0 needs 3 bytes of pixel data; 2 are there"):
        values(make.dicom(row(255, 255), **ds))


@pytest.mark.parametrize("syntax", ["uncompressed", "deflated-frame"])
def test_one_bit_frames_in_fragments_may_end_within_a_byte(syntax):
    ds = {"Rows": 1, "Columns": 5, "BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}
    assert values(make.dicom(row(0b00010101), syntax, **ds)).tolist() == [[1, 0, 1, 0, 1]]


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "deflated", "big"])
def test_twelve_allocated_bits_follow_each_other_without_gaps(syntax):
    # Half bytes, the lowest first: 0x123 is 3 2 1, 0xABC is C B A. So 0x23 0xC1 0xAB hold both; three samples of the
    # first frame take 36 bits, and the second frame begins in the upper half of the fifth byte.
    packed = row(0x23, 0xC1, 0xAB, 0xFF, 0x1F, 0x00, 0x02, 0x00, 0x80, 0x00)
    if syntax == "big":  # bytes of big-endian words come in swapped pairs
        packed = packed.reshape(-1, 2)[:, ::-1].reshape(1, -1)
    ds = {"Rows": 1, "Columns": 3, "BitsAllocated": 12, "BitsStored": 12, "NumberOfFrames": 2}
    data = make.dicom(packed, syntax, **ds)
    assert values(data, 0).tolist() == [[0x123, 0xABC, 0xFFF]]
    assert values(data, 1).tolist() == [[0x001, 0x002, 0x800]]
    signed = make.dicom(packed, syntax, **ds, PixelRepresentation=1)
    assert values(signed, 0).tolist() == [[0x123, 0xABC - 4096, -1]]
    # 8 bits stored, high bit 11: 0x123 >> 4 = 0x12.
    assert values(make.dicom(packed, syntax, **{**ds, "BitsStored": 8, "HighBit": 11})).tolist() == [[0x12, 0xAB, 0xFF]]
    with pytest.raises(TruncatedError, match="frame 2 needs 14 bytes"):
        values(make.dicom(packed, syntax, **{**ds, "NumberOfFrames": 3}), 2)


def test_twelve_allocated_bits_are_for_native_pixel_data():
    with pytest.raises(DecodeError, match="12 in native pixel data"):
        values(make.dicom(row(1, 2, dtype=np.uint16), "rle", BitsAllocated=12, BitsStored=12))


def test_thirty_two_bits():
    assert values(make.dicom(row(0xFFFFFFFF, 7, dtype=np.uint32))).tolist() == [[4294967295, 7]]
    assert values(make.dicom(row(-5, 7, dtype=np.int32))).tolist() == [[-5, 7]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_pixel_data(dtype):
    data = make.float_dicom(np.array([[0.5, -1.25]], dtype), RescaleSlope=2, RescaleIntercept=1)
    assert values(data).tolist() == [[2.0, -1.5]]


def test_big_endian_words_and_bytes():
    assert values(make.dicom(row(0x0102, dtype=np.uint16), "big")).tolist() == [[258]]
    assert values(make.dicom(row(1, 2, 3), "big")).tolist() == [[1, 2, 3]]


def test_eight_bit_data_as_big_endian_words_come_in_swapped_pairs():
    # PS3.5 D.1: OW words are swapped, so bytes 2 1 4 3 are the pixels 1 2 3 4. The second frame of 3 begins in mid-
    # word.
    ds = make.describe([row(0, 0, 0)] * 2, {})
    data = make.write(ds, "big", bytes([2, 1, 4, 3, 6, 5]), encapsulated=False, vr="OW")
    assert values(data, 0).tolist() == [[1, 2, 3]]
    assert values(data, 1).tolist() == [[4, 5, 6]]


def test_the_header_says_what_a_jpeg_2000_codestream_means():
    # The codestream is unsigned with 13 bits, the header signed: 2**13 - 2000 = 6192 is -2000.
    data = make.dicom(row(6192, 100, dtype=np.uint16), "j2k", BitsStored=13, PixelRepresentation=1)
    assert values(data).tolist() == [[-2000, 100]]
    warnings = read_frame(data, 0, DecodePolicy()).warnings
    assert warnings == ("the header says signed, the codestream unsigned",)


def test_a_codestream_of_other_precision_than_bits_stored():
    data = make.dicom(row(4095, 1, dtype=np.uint16), "j2k", BitsStored=12)
    assert values(data).tolist() == [[4095, 1]]
    for syntax in ("j2k", "jls"):
        frame = make.encode(row(300, 1, dtype=np.uint16), syntax, 12)
        wrong = make.dicom(row(0, 0, dtype=np.uint16), syntax, frames=[frame], BitsStored=8)
        assert values(wrong).tolist() == [[300, 1]]


@pytest.mark.parametrize("padding", [{}, {"PixelPaddingValue": 4095}])
@pytest.mark.parametrize("syntax", ["baseline", "lossless", "jxl"])
def test_a_large_codestream_of_eight_bits_under_a_header_that_says_twelve(syntax, padding):
    # Large enough for the straight line and the search for percentiles, whose codes must not wrap at 256.
    pixels = np.tile(np.arange(256, dtype=np.uint8), (4100, 1))
    frames = [make.encode(pixels, syntax, 8)]
    data = make.dicom(pixels.astype(np.uint16), syntax, frames=frames, BitsStored=12, **padding)
    stored = values(data)
    assert np.abs(stored - pixels).max() <= (2 if syntax == "baseline" else 0)
    window = FixedWindow(2000, 4000, "linear_exact")  # 255 * x / 4000
    assert np.array_equal(shown(data, window), np.floor(stored * 255 / 4000 + 0.5))
    low, high = np.percentile(stored, [0.5, 99.5])
    want = np.clip(np.floor(255 * (stored - low) / (high - low) + 0.5), 0, 255)
    assert np.array_equal(shown(data, PercentileWindow()), want)


@pytest.mark.parametrize("syntax", [*make.NATIVE, *make.LOSSLESS])
@pytest.mark.parametrize(
    ("dtype", "bits"), [(np.uint8, 8), (np.uint16, 12), (np.uint16, 16), (np.int16, 12), (np.int16, 16)]
)
def test_every_lossless_syntax_gives_the_values_back(syntax, dtype, bits):
    signed = np.dtype(dtype).kind == "i"
    low = -(1 << bits - 1) if signed else 0
    pixels = np.random.default_rng(bits).integers(low, low + (1 << bits), (11, 14)).astype(dtype)
    assert np.array_equal(values(make.dicom(pixels, syntax, BitsStored=bits)), pixels)


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"Rows": 0}, "at least 1"),
        ({"SamplesPerPixel": 2}, "2 samples per pixel"),
        ({"BitsAllocated": 24}, "Bits Allocated"),
        ({"BitsStored": 9}, "Bits Stored 9"),
        ({"HighBit": 3}, "High Bit 3"),
        ({"NumberOfFrames": -1}, "at least 1"),
        ({"Rows": None}, "no Rows"),
    ],
)
def test_headers_that_contradict_themselves(attributes, says):
    with pytest.raises(DecodeError, match=says):
        values(make.dicom(row(1, 2), **attributes))


def test_pixel_data_shorter_than_the_header_says():
    with pytest.raises(TruncatedError, match="needs 20 bytes of pixel data; 2 are there"):
        values(make.dicom(row(1, 2), Columns=20))


@pytest.mark.parametrize(
    "shape", [(8, 8), (16, 24), (31, 31), (30, 40), (9, 16), (1, 700), (513, 5), (300, 200), (200, 300)]
)
def test_jpeg_xl_sizes_are_read_before_decoding(shape):
    pixels = np.arange(shape[0] * shape[1], dtype=np.uint32).reshape(shape).astype(np.uint16)
    assert np.array_equal(values(make.dicom(pixels, "jxl")), pixels)
    with pytest.raises(DecodeError, match="the JPEG XL frame is"):
        values(make.dicom(pixels[:, :-1] if shape[1] > 1 else pixels, "jxl", frames=[make.encode(pixels, "jxl", 16)]))
