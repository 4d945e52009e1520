"""Rules of display that files bend: the right picture, or an error with a name."""

import io
import struct

import imagecodecs
import make_images as make
import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from rules import WHOLE, rgb, row, shown, values

from dali_pipes.decode import (
    DecodePolicy,
    FixedWindow,
    PercentileWindow,
    VOIWindow,
    apply_window,
    decode,
    describe,
    identify,
)
from dali_pipes.errors import DecodeError, UnsupportedError, WindowError

XA = "1.2.840.10008.5.1.4.1.1.12.{}"
STEPS = np.array([[0, 1000, 2000, 3000, 4000]], np.uint16)


def read(data, **policy):
    return decode(data, identify(None, data), 0, DecodePolicy(**policy)).pixels


@pytest.mark.parametrize("sop", [1, 2, 3])
def test_the_modality_lut_of_angiography_is_not_for_display(sop):
    """Stored values go into the window; by the table, which leads back to intensity, most would be white."""
    table = make.lut(0, [min(65535, i * i // 200) for i in range(4096)])
    given = {"WindowCenter": 2048, "WindowWidth": 4096, "BitsStored": 12, "ModalityLUTSequence": Sequence([table])}
    data = make.dicom(STEPS, SOPClassUID=XA.format(sop), RescaleSlope=3, **given)
    assert values(data).tolist() == STEPS.tolist()
    assert shown(data, VOIWindow()).tolist() == [[0, 62, 125, 187, 249]]
    assert not np.array_equal(values(make.dicom(STEPS, SOPClassUID=XA.format("1.1"), **given)), STEPS)


def test_a_supplemental_palette_is_refused_at_depth_16_where_its_window_would_be_lost():
    palettes = {}
    for name in ("Red", "Green", "Blue"):
        palettes[f"{name}PaletteColorLookupTableData"] = np.array([1000, 2000], "<u2").tobytes()
        palettes[f"{name}PaletteColorLookupTableDescriptor"] = [2, 254, 16]
    data = make.dicom(row(0, 128, 254, 255), PixelPresentation="COLOR", **palettes)
    with pytest.raises(UnsupportedError, match=r"supplemental palette .* read it at depth 8"):
        read(data, depth=16)
    assert not np.array_equal(read(data, window=FixedWindow(50, 20)), read(data, window=FixedWindow(128, 300)))


def test_reduced_signed_values_in_an_unsigned_codestream_are_averaged_as_values():
    """Averages across the wrap of two's complement are of no image: the full decode is taken."""
    y, x = np.mgrid[:128, :128]
    pixels = (np.sin(x / 9.0) * np.cos(y / 7.0) * 60).astype(np.int16)  # around 0
    frame = make.encode(pixels.view(np.uint16), "j2k", 16)
    data = make.dicom(pixels, "j2k", frames=[frame])
    policy = {"window": FixedWindow(0, 200), "channels": 1}
    assert np.array_equal(read(data, reduce=(32, 32), **policy), read(data, **policy))
    honest = make.dicom(
        pixels, "j2k", frames=[imagecodecs.jpeg2k_encode(pixels, 0, codecformat="J2K", reversible=True)]
    )
    assert read(honest, reduce=(32, 32), **policy).shape == (32, 32, 1)


def test_what_only_the_full_decoder_reads_is_not_refused_under_reduce(monkeypatch):
    pixels = np.arange(128 * 128, dtype=np.uint16).reshape(128, 128)
    data = make.dicom(pixels, "j2k")

    def refuses(*arguments, **options):
        raise OSError("broken data stream when reading image file")

    monkeypatch.setattr(Image, "open", refuses)
    assert read(data, reduce=(32, 32), depth=16).shape == (128, 128, 3)


@pytest.mark.parametrize("syntax", ["explicit", "uncompressed"])
def test_native_data_said_to_be_subsampled_and_of_full_length_is_refused(syntax):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    with pytest.raises(DecodeError, match=r"YBR_FULL_422.* 192 bytes of pixel data.*for example to YBR_FULL"):
        read(make.dicom(pixels, syntax, PhotometricInterpretation="YBR_FULL_422"))
    half = make.write(
        make.describe([pixels], {"PhotometricInterpretation": "YBR_FULL_422"}),
        "explicit",
        bytes(128),
        encapsulated=False,
    )
    assert rgb(half).shape == (8, 8, 3)


def tiff(pixels, extra):
    """An uncompressed TIFF of uint16[H, W, 4]; extra: what its fourth sample is."""
    height, width, _ = pixels.shape
    raw, after = pixels.astype("<u2").tobytes(), 8 + pixels.nbytes
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 4, after), (259, 3, 1, 1), (262, 3, 1, 2)]
    entries += [(273, 4, 1, 8), (277, 3, 1, 4), (278, 4, 1, height), (279, 4, 1, len(raw)), (338, 3, 1, extra)]
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    ifd = struct.pack("<H", len(entries)) + packed + bytes(4)
    return b"II*\0" + struct.pack("<I", after + 8) + raw + struct.pack("<4H", 16, 16, 16, 16) + ifd


@pytest.mark.parametrize("extra", [1, 2], ids=["associated", "unassociated"])
def test_colours_of_a_deep_tiff_are_not_left_multiplied_by_alpha(extra):
    rng = np.random.default_rng(extra)
    alpha = rng.integers(64, 256, (20, 30, 1)) * 257
    colours = rng.integers(0, 256, (20, 30, 3)) * 257
    stored = np.concatenate([colours * alpha // 65535 if extra == 1 else colours, alpha], axis=2).astype(np.uint16)
    data = tiff(stored, extra)
    assert np.abs(read(data, depth=16).astype(int) - colours).max() <= 4
    with Image.open(io.BytesIO(data)) as image:
        pillow = np.array(image.convert("RGB")).astype(int)
    assert np.abs(read(data).astype(int) - pillow).max() <= 5  # which works on 8 bits of each


def test_no_colour_is_lost_where_alpha_is_zero():
    stored = np.zeros((2, 2, 4), np.uint16)
    stored[0, 0] = (7, 8, 9, 0)
    assert read(tiff(stored, 1), depth=16)[0, 0].tolist() == [7, 8, 9]


def test_a_window_of_width_zero_counts_as_none_under_auto():
    data = make.dicom(row(*range(100)), WindowCenter=0, WindowWidth=0)
    assert np.array_equal(shown(data, VOIWindow()), shown(data, PercentileWindow()))
    assert describe(data, 0, DecodePolicy(window=VOIWindow()))["window"]["why"].endswith("width of 0")
    with pytest.raises(WindowError, match="width 0"):
        shown(data, VOIWindow(source="window"))
    kept = decode(data, identify(None, data), 0, DecodePolicy(depth=16, channels=1))
    assert np.array_equal(
        apply_window(kept.pixels, kept.attributes, VOIWindow())[..., 0], shown(data, PercentileWindow())
    )


@pytest.mark.parametrize("window", [PercentileWindow(), VOIWindow(), FixedWindow(300, 10), None], ids=str)
@pytest.mark.parametrize("allocated", [1, 8])
def test_a_mask_of_one_bit_is_shown_however_small_its_lesion(window, allocated):
    mask = np.zeros((64, 64), np.uint8)
    mask[10, 20] = 1  # a 4096th of the frame
    value = np.packbits(mask.reshape(-1), bitorder="little").tobytes() if allocated == 1 else mask.tobytes()
    ds = make.describe([mask], {"BitsAllocated": allocated, "BitsStored": 1})
    data = make.write(ds, "explicit", value, encapsulated=False)
    assert np.array_equal(shown(data, window), mask * 255)
    kept = decode(data, identify(None, data), 0, DecodePolicy(depth=16, channels=1))
    assert np.array_equal(kept.pixels[..., 0], mask * np.uint16(65535))
    assert np.array_equal(apply_window(kept.pixels, kept.attributes, window)[..., 0], mask * 255)


def test_presentation_lut_shape_is_the_later_word_on_polarity():
    first = {"PhotometricInterpretation": "MONOCHROME1"}
    assert shown(make.dicom(row(0, 200), **first), WHOLE).tolist() == [[255, 55]]
    assert shown(make.dicom(row(0, 200), PresentationLUTShape="INVERSE", **first), WHOLE).tolist() == [[255, 55]]
    assert shown(make.dicom(row(0, 200), PresentationLUTShape="IDENTITY", **first), WHOLE).tolist() == [[0, 200]]
    assert shown(make.dicom(row(0, 200), PresentationLUTShape="LIN OD", **first), WHOLE).tolist() == [[255, 55]]


def test_jpeg_ls_with_padding_before_its_end_marker():
    pixels = np.random.default_rng(0).integers(0, 4096, (30, 40)).astype(np.uint16)
    frame = make.encode(pixels, "jls", 12)
    data = make.dicom(pixels, "jls", frames=[frame[:-2] + b"\0" + frame[-2:]], BitsStored=16)
    assert np.array_equal(values(data), pixels)
    decoder = identify(None, data).decoder
    assert "pyjpegls" in decoder
    assert f"imagecodecs {imagecodecs.__version__}" in decoder


UNSUPPORTED = {
    "four samples": make.dicom(np.zeros((4, 4, 3), np.uint8), SamplesPerPixel=4),
    "24 bits": make.dicom(np.zeros((4, 4), np.uint8), BitsAllocated=24, BitsStored=24, HighBit=23),
    "JPEG of 12 bits": bytes(imagecodecs.jpeg8_encode(np.zeros((16, 16), np.uint16), bitspersample=12)),
    "JPEG lossless": bytes(imagecodecs.jpeg8_encode(np.zeros((16, 16), np.uint8), lossless=True)),
    "floats": make.raster(np.zeros((4, 4), np.float32), "TIFF"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_merely_unsupported_is_not_called_damaged(name):
    data = UNSUPPORTED[name]
    with pytest.raises(UnsupportedError) as caught:
        read(data)
    assert "damaged" not in str(caught.value)


HEADERS = {
    "bytes between markers": lambda data: data[:20] + b"\1\2\3" + data[20:],
    "an escaped byte": lambda data: data[:20] + b"\xff\0" + data[20:],
    "an icc profile with a part missing": lambda data: data[:20] + b"\xff\xe2\0\x14ICC_PROFILE\0\5\2abcd" + data[20:],
    "a revision of jfif that is none": lambda data: data.replace(b"JFIF\0\1", b"JFIF\0\7", 1),
    "an adobe transform that is none": lambda data: data[:20] + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\x07" + data[20:],
    "scan parameters of a progressive scan": lambda data: data.replace(b"\x03\x11\0\x3f\0", b"\x03\x11\0\0\0", 1),
}


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "DICOM"])
def test_odd_headers_of_a_jpeg_are_read(name, wrapped):
    pixels = np.random.default_rng(3).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    good = make.jpeg(pixels)
    odd = HEADERS[name](good)
    assert odd != good
    with Image.open(io.BytesIO(odd)) as image:
        expected = np.array(image.convert("RGB"))
    file = make.dicom(pixels, "baseline", frames=[odd], PhotometricInterpretation="YBR_FULL_422") if wrapped else odd
    assert np.array_equal(read(file), expected)


def test_an_empty_data_set_is_no_image_rather_than_damaged():
    with pytest.raises(DecodeError) as caught:
        read(make.preamble(make.SYNTAX["explicit"]) + make.dicom_body(Dataset()))
    assert "damaged" not in str(caught.value)
