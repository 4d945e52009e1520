"""Modality LUT and rescale (PS3.3 C.11.1), padding (C.7.5.1.1.2), polarity (C.7.6.3.1.2, C.11.6)."""

import make_images as make
import numpy as np
import pytest
from pydicom.pixels import apply_modality_lut, apply_rescale
from pydicom.sequence import Sequence
from rules import WHOLE, row, shown, values

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
from dali_pipes.errors import DecodeError

ROW = row(0, 1, 2, 3)


def file_with(lut, pixels=ROW, **attributes):
    return make.dicom(pixels, ModalityLUTSequence=Sequence([lut]), **attributes)


def test_rescale():
    assert values(make.dicom(row(0, 10), RescaleSlope=2, RescaleIntercept=-5)).tolist() == [[-5, 15]]


def test_slope_and_intercept_are_independent():
    assert values(make.dicom(row(0, 10), RescaleSlope=3)).tolist() == [[0, 30]]
    assert values(make.dicom(row(0, 10), RescaleIntercept=7)).tolist() == [[7, 17]]


def test_a_slope_of_zero_is_taken_for_a_missing_one():
    assert values(make.dicom(row(0, 10), RescaleSlope=0, RescaleIntercept=7)).tolist() == [[7, 17]]


def test_pydicom_ignores_a_slope_without_intercept():
    from pydicom.dataset import Dataset

    ds = Dataset()
    ds.RescaleSlope = 3
    assert apply_rescale(np.array([10]), ds).tolist() == [10]  # the gap: 30 is right


def test_the_sequence_takes_precedence_over_rescale():
    data = file_with(make.lut(0, [100, 200, 300, 400]), RescaleSlope=9, RescaleIntercept=9)
    assert values(data).tolist() == [[100, 200, 300, 400]]


def test_ends_of_the_table_hold_beyond_it():
    # The table maps inputs 1 and 2: 0 takes the first entry, 3 the last.
    assert values(file_with(make.lut(1, [50, 60]))).tolist() == [[50, 50, 60, 60]]


def test_zero_entries_mean_65536():
    table = [65535 - i for i in range(65536)]
    assert values(file_with(make.lut(0, table), row(0, 65535, dtype=np.uint16))).tolist() == [[65535, 0]]


def test_negative_first_value():
    # Inputs -2, -1, 0, 1.
    data = file_with(make.lut(-2, [5, 6, 7, 8]), row(-3, -2, 0, 1, dtype=np.int8).astype(np.int16))
    assert values(data).tolist() == [[5, 5, 7, 8]]


def test_pydicom_fails_on_a_negative_first_value_and_on_other_depths():
    from pydicom.dataset import Dataset

    for lut, error in ((make.lut(-2, [5, 6, 7, 8]), OverflowError), (make.lut(0, [5, 6, 7, 8], bits=12), TypeError)):
        ds = make.little_endian(Dataset())
        ds.ModalityLUTSequence = Sequence([lut])
        ds.PixelRepresentation = 1
        with pytest.raises(error):
            apply_modality_lut(np.array([0, 1], np.uint16), ds)


def test_a_large_first_value_of_unsigned_pixels_is_not_negative():
    # The table maps inputs 40000 and 40001; read as signed, 40000 would be -25536, and both inputs beyond its end.
    data = file_with(make.lut(40000, [5, 6]), row(39999, 40000, 40001, dtype=np.uint16))
    assert values(data).tolist() == [[5, 5, 6]]


def test_depth_12():
    assert values(file_with(make.lut(0, [5, 6, 7, 4000], bits=12))).tolist() == [[5, 6, 7, 4000]]


def test_entries_packed_as_bytes():
    lut = make.lut(0, [0, 0, 0, 0], bits=8)
    lut.LUTData = bytes([9, 8, 7, 6])
    assert values(file_with(lut)).tolist() == [[9, 8, 7, 6]]


def test_a_table_shorter_than_its_descriptor():
    lut = make.lut(0, [1, 2, 3, 4])
    lut.LUTData = bytes([1])
    with pytest.raises(DecodeError, match="LUTData has 1 entries, its descriptor says 4"):
        values(file_with(lut))


def test_padding_is_background_and_outside_the_statistics():
    # Percentile 0 to 100 over 10, 20 only: 10 -> 0, 20 -> 255; 200 is padding -> 0.
    data = make.dicom(row(10, 20, 200), PixelPaddingValue=200)
    assert shown(data, PercentileWindow(0, 100)).tolist() == [[0, 255, 0]]


def test_padding_range_is_inclusive_in_either_order():
    for ends in ((100, 102), (102, 100)):
        data = make.dicom(row(99, 100, 102, 103), PixelPaddingValue=ends[0], PixelPaddingRangeLimit=ends[1])
        assert shown(data).tolist() == [[99, 0, 0, 103]]


def test_padding_is_in_stored_values_not_modality_values():
    data = make.dicom(row(50, 100), PixelPaddingValue=50, RescaleSlope=2)
    assert shown(data).tolist() == [[0, 200]]


def test_padding_of_monochrome1_is_black_too():
    # 10 -> 255 - 10 = 245; the padding's 255 would be 0 by luck, 0 would be 255: it must be 0.
    assert shown(make.dicom(row(10, 0), PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=0)).tolist() == [
        [245, 0]
    ]


def test_negative_padding_in_signed_pixels():
    data = make.dicom(row(-2000, 5, 6, dtype=np.int16), PixelPaddingValue=-2000)
    assert shown(data, PercentileWindow(0, 100)).tolist() == [[0, 0, 255]]


def test_not_a_number_is_padding():
    data = make.float_dicom(np.array([[np.nan, 1.0, 3.0, np.inf]], np.float32))
    assert shown(data, PercentileWindow(0, 100)).tolist() == [[0, 0, 255, 0]]


def test_values_beyond_what_windows_can_multiply():
    for data in (
        make.float_dicom(np.array([[1.7e308, -1.7e308, 0.0]])),
        make.dicom(row(0, 255), RescaleSlope="1e307", RescaleIntercept="-1e308"),
    ):
        for window in (PercentileWindow(), None):
            with pytest.raises(DecodeError, match="beyond 1e"):
                shown(data, window)
    large = make.dicom(row(0, 51, 255), RescaleSlope="1e297", RescaleIntercept=0)
    assert shown(large, PercentileWindow(0, 100)).tolist() == [[0, 51, 255]]
    assert shown(make.dicom(row(0, 255)), FixedWindow(1, 1e-320, "linear_exact")).tolist() == [[0, 255]]


@pytest.mark.parametrize("syntax", make.NATIVE)
def test_tables_and_padding_in_every_byte_order(syntax):
    # Inputs -2, -1, 0, 1 give 5, 600, 7, 8; the VOI table of 0..255 maps 5 -> 0, 6 and 7 -> 100, 8 -> 255.
    modality, voi = make.lut(-2, [5, 600, 7, 8]), make.lut(5, [0, 100, 100, 255], bits=8)
    if syntax == "big":
        for table in (modality, voi):
            table.LUTData = np.frombuffer(table.LUTData, "<u2").astype(">u2").tobytes()
    pixels = row(-3, -2, 0, 1, -100, dtype=np.int16)
    tables = {"ModalityLUTSequence": Sequence([modality]), "VOILUTSequence": Sequence([voi])}
    data = make.dicom(pixels, syntax, **tables, PixelPaddingValue=-100, PixelPaddingRangeLimit=-90)
    assert values(data).tolist() == [[5, 5, 7, 8, 5]]
    assert shown(data, VOIWindow()).tolist() == [[0, 0, 100, 255, 0]]
    assert shown(data, PercentileWindow(0, 100)).tolist() == [[0, 0, 170, 255, 0]]


def test_padding_is_read_with_the_sign_of_the_pixels():
    # The value's VR may be the other one: 65436 (US) of signed pixels is -100, -1 (SS) of unsigned ones 65535.
    for pixels, vr, value in (
        (row(-100, 5, 6, dtype=np.int16), "US", 65436),
        (row(65535, 5, 6, dtype=np.uint16), "SS", -1),
    ):
        ds = make.describe([pixels], {})
        ds.add_new("PixelPaddingValue", vr, value)
        data = make.write(ds, "explicit", make.native(pixels), encapsulated=False)
        assert shown(data, PercentileWindow(0, 100)).tolist() == [[0, 0, 255]]


def test_padding_that_the_bits_cannot_hold_is_ignored_with_a_warning():
    data = make.dicom(row(0, 4095, dtype=np.uint16), BitsStored=12, PixelPaddingValue=63536)
    assert shown(data, None).tolist() == [[0, 255]]
    told = describe(data)
    assert told["padding"] is None
    assert told["warnings"] == ["the padding value lies outside what 12 bits can hold and was ignored"]


def test_padding_does_not_eat_the_range_of_wide_images():
    # Without a window 1000..1002 become 0..255: the padding's 0 is no part of the range; 1001 is 127.5 -> 128.
    data = make.dicom(row(0, 1000, 1001, 1002, dtype=np.uint32), PixelPaddingValue=0)
    assert shown(data, None).tolist() == [[0, 0, 128, 255]]
    nan = make.float_dicom(np.array([[np.nan, 1e6, 1e6 + 1, 1e6 + 2]], np.float32))
    for wide in (data, nan):
        deep = decode(wide, identify("", wide), 0, DecodePolicy(depth=16, channels=1))
        assert deep.pixels[0, 1:, 0].tolist() == [0, 32767, 65534]  # one step is left for the padding
        assert apply_window(deep.pixels, deep.attributes, None)[0, :, 0].tolist() == [0, 0, 128, 255]
    every = np.arange(999, 999 + 257 * 256, dtype=np.uint32)  # more values than there are steps
    full = make.dicom(every.reshape(257, 256), PixelPaddingValue=999)
    deep = decode(full, identify("", full), 0, DecodePolicy(depth=16, channels=1))
    low, high = deep.attributes["padding"]
    assert low == high == deep.pixels[0, 0, 0]
    assert (deep.pixels.reshape(-1)[1:] != low).all()


def test_float_padding_value():
    data = make.float_dicom(np.array([[-1.0, 1.0, 3.0]], np.float32), FloatPixelPaddingValue=-1.0)
    assert shown(data, PercentileWindow(0, 100)).tolist() == [[0, 0, 255]]


def test_monochrome1_is_inverted_about_the_output_range():
    # Not about the image's maximum, which is 200 here: 255 - 0, 255 - 200.
    assert shown(make.dicom(row(0, 200), PhotometricInterpretation="MONOCHROME1")).tolist() == [[255, 55]]


def test_monochrome1_with_inverse_shape_is_inverted_once():
    both = {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}
    assert shown(make.dicom(row(0, 200), **both)).tolist() == [[255, 55]]


def test_inverse_shape_alone_inverts():
    assert shown(make.dicom(row(0, 200), PresentationLUTShape="INVERSE")).tolist() == [[255, 55]]
    assert shown(make.dicom(row(0, 200), PresentationLUTShape="IDENTITY")).tolist() == [[0, 200]]


def test_pydicom_inverts_about_the_images_maximum():
    from pydicom.dataset import Dataset
    from pydicom.pixels.processing import apply_presentation_lut

    ds = Dataset()
    ds.PresentationLUTShape = "INVERSE"
    assert apply_presentation_lut(np.array([0, 200]), ds).tolist() == [200, 0]  # the gap: about the range it is 255, 55


def test_a_window_comes_before_polarity():
    # Window 100..200 exact: 150 -> ((150 - 150) / 100 + 0.5) * 255 = 127.5 -> 128; inverted 127.
    data = make.dicom(row(100, 150, 200), PhotometricInterpretation="MONOCHROME1")
    assert shown(data, FixedWindow(150, 100, "linear_exact")).tolist() == [[255, 127, 0]]
    assert shown(make.dicom(row(100, 150)), WHOLE).tolist() == [[100, 150]]


@pytest.mark.parametrize(
    "attributes", [{"RescaleSlope": 0.684, "RescaleIntercept": 200.3}, {"RescaleSlope": -0.37}, {}]
)
@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_depth_16_keeps_every_value_exactly(attributes, dtype):
    pixels = np.random.default_rng(0).integers(-2000 if dtype is np.int16 else 0, 2000, (30, 40)).astype(dtype)
    data = make.dicom(pixels, BitsStored=12, PixelPaddingValue=7, PhotometricInterpretation="MONOCHROME1", **attributes)
    deep = decode(data, identify("", data), 0, DecodePolicy(depth=16, channels=1))
    told = deep.attributes
    kept = (deep.pixels[..., 0].astype(float) + told["offset"]) * told["slope"] + told["intercept"]
    assert np.array_equal(kept[pixels != 7], values(data)[pixels != 7])
    for window in (PercentileWindow(), FixedWindow(400.0, 777.7), FixedWindow(1, 1000, "sigmoid"), None):
        shallow = decode(data, identify("", data), 0, DecodePolicy(channels=1, window=window))
        assert np.array_equal(apply_window(deep.pixels, told, window), shallow.pixels)
        planar = apply_window(np.repeat(deep.pixels.transpose(2, 0, 1), 3, 0), told, window)
        assert np.array_equal(planar, np.repeat(shallow.pixels.transpose(2, 0, 1), 3, 0))


def test_depth_16_of_a_modality_table_and_of_32_bits():
    data = file_with(make.lut(0, [100, 900, 300, 65535]))
    deep = decode(data, identify("", data), 0, DecodePolicy(depth=16, channels=1))
    assert (deep.pixels[..., 0] + deep.attributes["intercept"]).tolist() == [[100, 900, 300, 65535]]
    wide = make.dicom(row(0, 1 << 31, (1 << 32) - 1, dtype=np.uint32))
    deep = decode(wide, identify("", wide), 0, DecodePolicy(depth=16, channels=1))
    assert deep.pixels[0, :, 0].tolist() == [0, 32768, 65535]


def test_depth_16_knows_padding_and_leaves_it_where_it_is():
    data = make.dicom(row(10, 20, 200, 201), PixelPaddingValue=200, PixelPaddingRangeLimit=201)
    deep = decode(data, identify("", data), 0, DecodePolicy(depth=16, channels=1))
    assert deep.pixels[0, :, 0].tolist() == [10, 20, 200, 201]
    assert deep.attributes["padding"] == [200, 201]
    assert apply_window(deep.pixels, deep.attributes, PercentileWindow(0, 100))[0, :, 0].tolist() == [0, 255, 0, 0]
    table = file_with(make.lut(0, [0, 5, 5, 9]), PixelPaddingValue=2)  # the padding's 5 is also that of a good pixel
    deep = decode(table, identify("", table), 0, DecodePolicy(depth=16, channels=1))
    assert deep.attributes["padding"] == [1, 1]
    assert apply_window(deep.pixels, deep.attributes, PercentileWindow(0, 100))[0, :, 0].tolist() == [0, 142, 0, 255]
