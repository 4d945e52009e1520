"""Colour: RGB, the YBR forms, palettes; PS3.3 C.7.6.3.1.2 to .5, C.7.9."""

import make_images as make
import numpy as np
import pytest
from rules import rgb, row

from dali_pipes.decode import DecodePolicy, FixedWindow, decode, identify
from dali_pipes.errors import DecodeError

PIXELS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [10, 20, 30]]], np.uint8)
# Y = 0.299 R + 0.587 G + 0.114 B and so on, rounded: red, green, blue, and (10, 20, 30).
YBR = np.array([[[76, 85, 255], [150, 44, 21]], [[29, 255, 107], [18, 135, 122]]], np.uint8)


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("syntax", make.NATIVE)
def test_planar_configuration_of_native_data(syntax, planar):
    assert np.array_equal(rgb(make.dicom(PIXELS, syntax, PlanarConfiguration=planar)), PIXELS)


@pytest.mark.parametrize("syntax", ["rle", "lossless", "jls", "j2k", "htj2k"])
def test_planar_configuration_is_not_trusted_for_compressed_data(syntax):
    assert np.array_equal(rgb(make.dicom(PIXELS, syntax, PlanarConfiguration=1)), PIXELS)


def test_ybr_full_by_hand():
    # (76, 85, 255): R = 76 + 1.402 * 127 = 254.05; G = 76 - 0.344136 * -43 - 0.714136 * 127 = 0.10; B = 76 + 1.772 *
    # -43 = -0.2.
    got = rgb(make.dicom(YBR, PhotometricInterpretation="YBR_FULL"))
    assert got[0, 0].tolist() == [254, 0, 0]
    assert np.abs(got.astype(int) - PIXELS).max() <= 2  # rounding of YBR itself


@pytest.mark.parametrize("syntax", ["explicit", "rle", "jls", "lossless", "j2k"])
def test_ybr_full_is_the_same_however_it_is_packed(syntax):
    every = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    want = rgb(make.dicom(every, PhotometricInterpretation="YBR_FULL"))
    assert np.array_equal(rgb(make.dicom(every, syntax, PhotometricInterpretation="YBR_FULL")), want)


def test_ybr_full_equals_libjpegs_conversion_on_every_gray_and_close_to_floats():
    rng = np.random.default_rng(1)
    ybr = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    got = rgb(make.dicom(ybr, PhotometricInterpretation="YBR_FULL")).astype(float)
    y, cb, cr = (ybr[..., i].astype(float) for i in range(3))
    exact = np.stack(
        [y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)], -1
    )
    assert np.abs(got - np.clip(exact, 0, 255)).max() <= 0.51


def test_ybr_full_422_native():
    # Two pixels share Cb and Cr: Y1 Y2 Cb Cr = 76 150 85 255. Cr' = 127, Cb' = -43.
    ds = {
        "Rows": 1,
        "Columns": 2,
        "SamplesPerPixel": 3,
        "PlanarConfiguration": 0,
        "PhotometricInterpretation": "YBR_FULL_422",
    }
    got = rgb(make.dicom(row(76, 150, 85, 255), **ds))
    assert got.tolist() == [[[254, 0, 0], [255, 74, 74]]]


def test_ybr_partial_422_native():
    # Studio range: Y = 16 is black, 235 white; Cb = Cr = 128.
    ds = {
        "Rows": 1,
        "Columns": 2,
        "SamplesPerPixel": 3,
        "PlanarConfiguration": 0,
        "PhotometricInterpretation": "YBR_PARTIAL_422",
    }
    assert rgb(make.dicom(row(16, 235, 128, 128), **ds)).tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_ybr_partial_420_native():
    # Rows in pairs: Y Y Cb Cr for two pixels of the upper one, Y only in the lower one. Y = 16 is black, 235 white. Red
    # is Y = 81, Cb = 90, Cr = 240: 75.7, -43.3 and 127.5 of 255, so R = 75.7 + 1.402 * 127.5 = 254.4, G = -0.5, B = -1.
    # Its Y = 128 in the lower row adds (128 - 81) * 255 / 219 = 54.7: 309, 54.2, 53.8.
    upper, lower = [16, 235, 128, 128, 81, 81, 90, 240], [235, 16, 81, 128]
    ds = {"Rows": 2, "Columns": 4, "SamplesPerPixel": 3, "PlanarConfiguration": 0, "NumberOfFrames": 2}
    ds["PhotometricInterpretation"] = "YBR_PARTIAL_420"
    data = make.dicom(row(*[16, 16, 128, 128] * 2, *[16] * 4, *upper, *lower), **ds)
    assert not rgb(data, 0).any()
    black, white, red = [0, 0, 0], [255, 255, 255], [254, 0, 0]
    assert rgb(data, 1).tolist() == [[black, white, red, red], [white, black, red, [255, 54, 54]]]
    for odd in ({"Rows": 3}, {"Columns": 5}):
        with pytest.raises(DecodeError, match="needs an even number of"):
            rgb(make.dicom(row(*upper, *lower, *upper), **{**ds, **odd}))


@pytest.mark.parametrize("syntax", ["uncompressed", "deflated-frame"])
def test_subsampled_frames_in_fragments(syntax):
    # As in test_ybr_full_422_native: two pixels in four bytes, not in six.
    ds = {"Rows": 1, "Columns": 2, "SamplesPerPixel": 3, "PhotometricInterpretation": "YBR_FULL_422"}
    data = make.dicom(row(76, 150, 85, 255), syntax, **ds, PlanarConfiguration=0)
    assert rgb(data).tolist() == [[[254, 0, 0], [255, 74, 74]]]


@pytest.mark.parametrize("syntax", [*make.NATIVE, "rle", "uncompressed", "deflated-frame"])
def test_high_bit_of_colours(syntax):
    # 12 bits stored in the upper part of 16: 0x8000 >> 4 = 2048, and 2048 * 65535 / 4095 = 32775.502 -> 32776.
    pixels = np.array([[[0xFFF0, 0, 0x8000]]], np.uint16)
    data = make.dicom(pixels, syntax, BitsStored=12, HighBit=15)
    assert decode(data, identify("", data), 0, DecodePolicy(depth=16)).pixels.tolist() == [[[65535, 0, 32776]]]


def test_reversible_and_irreversible_transforms_of_jpeg_2000():
    import imagecodecs

    smooth = np.repeat(np.repeat(PIXELS, 8, 0), 8, 1)
    for name, reversible in (("YBR_RCT", True), ("YBR_ICT", False)):
        code = imagecodecs.jpeg2k_encode(
            smooth, 0 if reversible else 60, codecformat="J2K", reversible=reversible, mct=True
        )
        got = rgb(make.dicom(smooth, "j2k", frames=[bytes(code)], PhotometricInterpretation=name)).astype(int)
        assert np.abs(got - smooth).max() <= (0 if reversible else 4)


@pytest.mark.parametrize(("photometric", "kept"), [("RGB", True), ("YBR_FULL", False)])
def test_a_jpeg_without_markers_has_the_colours_that_the_header_says(photometric, kept):
    # Components 1, 2, 3 and no JFIF or Adobe marker: libjpeg would always take them for YCbCr.
    flat = np.full((16, 16, 3), (200, 128, 128), np.uint8)
    plain = make.jpeg(flat, 100, keep_rgb=True)
    unmarked = make.without_markers(plain)
    got = rgb(make.dicom(flat, "baseline", frames=[unmarked], PhotometricInterpretation=photometric))
    assert got[4, 4].tolist() == ([200, 128, 128] if kept else [200, 200, 200])


def test_sixteen_bit_colour():
    wide = np.array([[[65535, 0, 257]]], np.uint16)
    data = make.dicom(wide, "rle")
    assert rgb(data).tolist() == [[[255, 0, 1]]]
    deep = decode(data, identify("", data), 0, DecodePolicy(depth=16))
    assert deep.pixels.tolist() == wide.tolist()


def test_gray_of_colour_is_pillows():
    # (19595 * 10 + 38470 * 20 + 7471 * 30 + 32768) >> 16 = 18.
    gray = decode(data := make.dicom(PIXELS), identify("", data), 0, DecodePolicy(channels=1)).pixels
    assert gray[1, 1, 0] == 18
    assert gray[0, 0, 0] == 76


def palette_file(tables, pixels=None, bits=16, first=0, count=None, **attributes):
    """A PALETTE COLOR file; segmented where `count`, the number of entries after expansion, is given."""
    named = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, table in zip(("Red", "Green", "Blue"), tables):
        data = np.array(table, "<u2" if bits == 16 else "u1").tobytes()
        named[f"{name}PaletteColorLookupTableDescriptor"] = [count or len(table), first, bits]
        key = f"{name}PaletteColorLookupTableData"
        named[f"Segmented{key}" if count else key] = data + b"\0" * (len(data) % 2)
    return make.dicom(row(0, 1, 2) if pixels is None else pixels, **{**named, **attributes})


def test_palette_of_16_bits_gives_the_upper_eight():
    # Filled by x * 256 or by x * 257: the same colours.
    for factor in (256, 257):
        data = palette_file([[0, 255 * factor, 7 * factor], [0, 0, 9 * factor], [1 * factor, 0, 0]])
        assert rgb(data).tolist() == [[[0, 0, 1], [255, 0, 0], [7, 9, 0]]]


def test_palette_of_8_bits():
    assert rgb(palette_file([[1, 2, 3], [4, 5, 6], [7, 8, 9]], bits=8)).tolist() == [[[1, 4, 7], [2, 5, 8], [3, 6, 9]]]


def test_first_mapped_value_and_ends():
    data = palette_file([[256, 512]] * 3, row(0, 10, 11, 200), first=10)
    assert rgb(data)[..., 0].tolist() == [[1, 1, 2, 2]]


def test_segmented_palette():
    # Discrete: two entries 0, 100. Linear: four more up to 500: 200, 300, 400, 500. Then the discrete segment again
    # (indirect).
    words = [0, 2, 0, 100 << 8, 1, 4, 140 << 8, 2, 1, 0, 0]
    data = palette_file([words] * 3, row(0, 1, 2, 3, 4, 5, 6, 7), count=8)
    assert rgb(data)[..., 0].tolist() == [[0, 100, 110, 120, 130, 140, 0, 100]]


def test_damaged_palettes():
    with pytest.raises(DecodeError, match="ends inside a segment"):
        rgb(palette_file([[0, 9, 1]] * 3, count=9))
    with pytest.raises(DecodeError, match="has 0 values"):
        rgb(make.dicom(row(0), PhotometricInterpretation="PALETTE COLOR"))
    with pytest.raises(DecodeError, match="opcode 7"):
        rgb(palette_file([[7, 1, 1]] * 3, count=9))


def test_supplemental_palette_colours_the_upper_values():
    # C.7.6.19: stored values from the first mapped one on are colours, those below stay gray.
    tables = [[256 * 9, 256], [0, 256 * 2], [0, 256 * 3]]
    data = palette_file(
        tables, row(0, 128, 254, 255), first=254, PixelPresentation="COLOR", PhotometricInterpretation="MONOCHROME2"
    )
    got = decode(data, identify("", data), 0, DecodePolicy(window=FixedWindow(127.5, 255, "linear_exact"))).pixels
    assert got.tolist() == [[[0, 0, 0], [128, 128, 128], [9, 0, 0], [1, 2, 3]]]
