"""VOI windows (PS3.3 C.11.2) and percentiles, by hand and against NumPy."""

from unittest import mock

import make_images as make
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.pixels import apply_voi
from pydicom.sequence import Sequence
from rules import row, shown

from dali_pipes.decode import (
    DecodePolicy,
    FixedWindow,
    PercentileWindow,
    VOIWindow,
    apply_window,
    decode,
    identify,
    window_from_dict,
)
from dali_pipes.decode.grayscale import Coded, image_percentiles
from dali_pipes.decode.histogram import counts_of, look_up, neighbours, percentiles
from dali_pipes.decode.linear_table import line_of, show
from dali_pipes.decode.order_statistics import order_statistics
from dali_pipes.decode.voi import apply_function, stretch, to_uint8
from dali_pipes.errors import ConfigError, WindowError

AUTO = VOIWindow()


def test_linear_by_the_standards_own_formula():
    # C.11.2.1.2.1, c = 128, w = 256: x <= 127.5 - 127.5 = 0 -> 0; x > 255 -> 255; 128 -> 255 * 128 / 255.
    assert shown(make.dicom(row(0, 1, 128, 255)), FixedWindow(128, 256)).tolist() == [[0, 1, 128, 255]]
    # c = 100, w = 11: m = 99.5, h = 5. 94.5 and below -> 0; above 104.5 -> 255; 100 -> (0.5 / 10 + 0.5) * 255 = 140.25
    # -> 140.
    assert shown(make.dicom(row(94, 95, 100, 104, 105)), FixedWindow(100, 11)).tolist() == [[0, 13, 140, 242, 255]]


def test_width_one_is_a_threshold():
    # m = 99.5, h = 0: x <= 99.5 -> 0, else 255.
    assert shown(make.dicom(row(99, 100)), FixedWindow(100, 1)).tolist() == [[0, 255]]


def test_linear_exact_has_no_offsets():
    # c = 100, w = 10: x <= 95 -> 0; x > 105 -> 255; 100 -> 127.5 -> 128; 105 -> 255.
    data = make.dicom(row(95, 96, 100, 105, 106))
    assert shown(data, FixedWindow(100, 10, "linear_exact")).tolist() == [[0, 26, 128, 255, 255]]


def test_sigmoid():
    # 255 / (1 + exp(-4 (x - 100) / 20)): 100 -> 127.5 -> 128; 120 -> 255 / (1 + e**-4) = 250.41 -> 250; 80 -> 4.59 ->
    # 5.
    assert shown(make.dicom(row(80, 100, 120)), FixedWindow(100, 20, "sigmoid")).tolist() == [[5, 128, 250]]


def test_the_files_own_window_and_function():
    data = make.dicom(row(95, 100), WindowCenter=[0, 100], WindowWidth=[1, 10], VOILUTFunction="LINEAR_EXACT")
    assert shown(data, VOIWindow(1)).tolist() == [[0, 128]]
    assert shown(data, VOIWindow(0)).tolist() == [[255, 255]]  # center 0, width 1
    with pytest.raises(WindowError, match="window 2 was asked for; the file has 2"):
        shown(data, VOIWindow(2))


def test_voi_lut_sequence_at_full_width():
    # 4096 entries of 8 bits: entry i is i >> 4. 0 -> 0, 1000 -> 62, 4095 -> 255.
    table = make.lut(0, [i >> 4 for i in range(4096)], bits=8)
    data = make.dicom(row(0, 1000, 4095, dtype=np.uint16), BitsStored=12, VOILUTSequence=Sequence([table]))
    assert shown(data, VOIWindow(source="lut")).tolist() == [[0, 62, 255]]
    assert shown(data, AUTO).tolist() == [[0, 62, 255]]


def test_pydicom_wraps_the_index_of_a_long_table_with_8_bit_output():
    ds = make.little_endian(Dataset())
    ds.VOILUTSequence = Sequence([make.lut(0, [i >> 4 for i in range(4096)], bits=8)])
    ds.PixelRepresentation, ds.BitsStored, ds.BitsAllocated = 0, 12, 16
    assert apply_voi(np.array([0, 1000, 4095], np.uint16), ds).tolist() == [0, 14, 15]  # the gap: 0, 62, 255


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_voi_lut_output_depths(bits):
    # The full scale 2**bits - 1 becomes 255; half of it, rounded: 255 * 2**(bits - 1) / (2**bits - 1) = 127.6 or so ->
    # 128.
    table = make.lut(5, [0, 1 << bits - 1, (1 << bits) - 1], bits=bits)
    assert shown(make.dicom(row(0, 5, 6, 7, 9), VOILUTSequence=Sequence([table])), AUTO).tolist() == [
        [0, 0, 128, 255, 255]
    ]


def test_a_depth_that_the_entries_contradict():
    # The descriptor says 8 bits, an entry is 1023: 10 bits are meant. 512 / 1023 * 255 = 127.6 -> 128.
    table = make.lut(0, [0, 512, 1023], bits=8)
    assert shown(make.dicom(row(0, 1, 2), VOILUTSequence=Sequence([table])), AUTO).tolist() == [[0, 128, 255]]


def test_voi_lut_with_negative_inputs():
    table = make.lut(-1, [0, 100, 255], bits=8)
    data = make.dicom(row(0, 1, 2), RescaleIntercept=-1, VOILUTSequence=Sequence([table]))
    assert shown(data, AUTO).tolist() == [[0, 100, 255]]


def test_which_voi_is_explicit():
    table = make.lut(0, [255, 0], bits=8)
    data = make.dicom(row(0, 1), WindowCenter=1, WindowWidth=1, VOILUTSequence=Sequence([table]))
    assert shown(data, AUTO).tolist() == [[255, 0]]  # the sequence first
    assert shown(data, VOIWindow(source="window")).tolist() == [[0, 255]]
    assert shown(data, VOIWindow(source="lut")).tolist() == [[255, 0]]
    plain = make.dicom(row(3, 9))
    assert shown(plain, AUTO).tolist() == shown(plain, PercentileWindow()).tolist()
    for source in ("window", "lut"):
        with pytest.raises(WindowError, match="the file has 0"):
            shown(plain, VOIWindow(source=source))


def test_no_window_maps_the_range_of_the_bits():
    # 12 bits: 255 * 2048 / 4095 = 127.53 -> 128.
    assert shown(make.dicom(row(0, 2048, 4095, dtype=np.uint16), BitsStored=12), None).tolist() == [[0, 128, 255]]


def test_a_center_without_width():
    with pytest.raises(WindowError, match="belong in pairs"):
        shown(make.dicom(row(1), WindowCenter=5), AUTO)


@pytest.mark.parametrize(
    "wrong", [{"WindowCenter": 5}, {"WindowCenter": 7, "WindowWidth": 5}, {"VOILUTFunction": "CUBIC"}]
)
@pytest.mark.parametrize("depth", [8, 16])
def test_what_is_wrong_matters_only_to_those_who_ask_for_it(wrong, depth):
    def seen(window, **attributes):
        data = make.dicom(row(0, 1), **attributes).replace(b"DS\x04\x007.0 ", b"DS\x04\x00CANT")  # no number
        if depth == 8:
            return shown(data, window).tolist()
        kept = decode(data, identify("", data), 0, DecodePolicy(channels=1, depth=16))
        return apply_window(kept.pixels, kept.attributes, window)[..., 0].tolist()

    good = {"VOILUTSequence": Sequence([make.lut(0, [200, 3], bits=8)])}
    for window in (AUTO, VOIWindow(source="lut")):
        assert seen(window, **good, **wrong) == [[200, 3]]
    for attributes, window in ((good, VOIWindow(source="window")), ({}, AUTO)):
        with pytest.raises(WindowError, match=r"Window Width|WindowCenter|VOI LUT Function"):
            seen(window, **attributes, **wrong)
    empty = make.lut(0, [200, 3], bits=8)
    empty[0x00283002].value = [9, 0, 8]  # entries that are not there
    bad = {"VOILUTSequence": Sequence([empty])}
    assert seen(VOIWindow(source="window"), **bad, WindowCenter=1, WindowWidth=1) == [[0, 255]]
    for window in (AUTO, VOIWindow(source="lut")):
        with pytest.raises(WindowError, match="its descriptor says 9"):
            seen(window, **bad, WindowCenter=1, WindowWidth=1)


def test_widths_that_mean_nothing():
    with pytest.raises(WindowError, match="at least 1"):
        shown(make.dicom(row(1), WindowCenter=5, WindowWidth=0.5), AUTO)
    with pytest.raises(ConfigError, match="above 0"):
        FixedWindow(1, 0, "sigmoid")
    with pytest.raises(ConfigError, match="function 'cubic'"):
        FixedWindow(1, 2, "cubic")  # type: ignore[arg-type]


def test_percentile_window_by_hand():
    # 0 and 100 percent are 10 and 30; 20 -> 255 * 10 / 20 + 0.5 = 128 (floor: 127).
    data = make.dicom(row(10, 20, 30))
    assert shown(data, PercentileWindow(0, 100)).tolist() == [[0, 128, 255]]
    assert shown(data, PercentileWindow(0, 100, "floor")).tolist() == [[0, 127, 255]]
    # 50 percent of four values lies between the second and the third: 25; 10..25 onto 0..255, 20 -> 170.5 -> 170.
    assert shown(make.dicom(row(10, 20, 30, 40)), PercentileWindow(0, 50)).tolist() == [[0, 170, 255, 255]]


def test_a_flat_image_gives_zeros():
    assert shown(make.dicom(row(7, 7, 7)), PercentileWindow()).tolist() == [[0, 0, 0]]


def test_a_falling_rescale():
    # Slope -1: values 255, 245; the larger stored value is darker.
    data = make.dicom(row(0, 10), RescaleSlope=-1, RescaleIntercept=255)
    assert shown(data, PercentileWindow(0, 100)).tolist() == [[255, 0]]


@given(st.lists(st.integers(0, 4095), min_size=1, max_size=200), st.floats(0, 100))
def test_percentiles_are_numpys_to_the_last_bit(numbers, q):
    codes = np.array(numbers, np.uint16)
    got = percentiles(np.arange(4096, dtype=np.float64), counts_of(codes, 4096), [q])[0]
    assert got == np.percentile(codes.astype(np.float64), q)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.5, 1.0, 50.0, 99.5]), st.sampled_from([1, 30, 900, 60000]))
@settings(deadline=None, max_examples=100)
def test_the_search_for_percentiles_equals_the_histogram(seed, low, spread):
    rng = np.random.default_rng(seed)
    codes = np.clip(rng.normal(rng.integers(0, 4096), spread, (300, 200)), 0, 65535).astype(np.uint16)
    codes[:, : rng.integers(0, 100)] = 0  # a background, as mammograms have
    codes.sort(axis=int(rng.integers(0, 2)))  # rows that tell little about the whole
    inside = (1, 60_000) if rng.integers(0, 2) else None
    flat = np.sort(codes[(codes >= 1) & (codes <= 60_000)] if inside else codes.reshape(-1))
    ranks = {rank for q in (low, 99.9) for rank in neighbours(flat.size, q)} if flat.size else set()
    sizes = {"_SAMPLE": int(rng.choice([100, 5000])), "_PIECE": 10_007}
    with mock.patch.multiple("dali_pipes.decode.order_statistics", **sizes):
        found = order_statistics(codes, (low, 99.9), 65536, inside)
    assert found is None or found == (flat.size, {rank: flat[rank] for rank in ranks})


@pytest.mark.parametrize("slope", [1.0, 0.37])
def test_large_images_take_the_search_and_give_numpys_percentiles(slope):
    y, x = np.mgrid[:1100, :1000]
    codes = ((y * 3 + x * 2 + (y * x) % 7) % 4096).astype(np.uint16)
    codes[:, 600:] = 0
    values = np.arange(4096) * slope - 5
    assert order_statistics(codes, (0.5, 99.5), 4096) is not None
    want = np.percentile(values[codes], [0.5, 99.5])
    assert image_percentiles(Coded(codes, values), PercentileWindow()) == tuple(want)
    falling = Coded(codes, values[::-1])
    assert image_percentiles(falling, PercentileWindow()) == tuple(np.percentile(values[::-1][codes], [0.5, 99.5]))


@pytest.mark.parametrize("padding", [(0, 0), (0, 40), (4000, 4095), (4095, 4095), (3, 3), (0, 4095)])
@pytest.mark.parametrize("background", [0, 3, 4095])
@pytest.mark.parametrize("low", [0.0, 0.5, 40.0])
def test_percentiles_of_large_images_leave_padding_out(padding, background, low):
    y, x = np.mgrid[:1100, :1000]
    codes = ((y * 3 + x * 2 + (y * x) % 7) % 4096).astype(np.uint16)
    codes[:, 600:] = background
    values = np.arange(4096) * 0.5 - 9
    padded = (np.arange(4096) >= padding[0]) & (np.arange(4096) <= padding[1])
    measured = values[codes[~padded[codes]]]
    want = tuple(np.percentile(measured, [low, 99.5])) if measured.size else (0.0, 0.0)
    assert image_percentiles(Coded(codes, values, padded), PercentileWindow(low)) == want


@given(st.integers(1, 300_000))
def test_look_up_equals_indexing(size):
    table = np.random.default_rng(size).integers(0, 256, 4096).astype(np.uint8)
    codes = (np.arange(size) * 7919 % 4096).astype(np.uint16)
    assert np.array_equal(look_up(table, codes), table[codes])


@given(
    st.sampled_from([8, 10, 12, 16]),
    st.tuples(st.floats(-0.5, 1.5), st.floats(0.001, 2)),
    st.booleans(),
    st.integers(0, 3),
    st.sampled_from([np.uint8, np.uint16]),
)
@settings(deadline=None, max_examples=200)
def test_lines_equal_looking_up(bits, place, invert, padding, dtype):
    n = 1 << min(bits, 8 * np.dtype(dtype).itemsize)
    low = round(place[0] * n)
    table = stretch(np.arange(n, dtype=np.float64), low, low + max(place[1] * n, 1))
    table = 255 - table if invert else table
    table[:padding] = 0
    line = line_of(table)
    codes = np.random.default_rng(bits).integers(0, n, (300, 7)).astype(dtype)
    assert line is None or np.array_equal(line.at(codes), look_up(table, codes))


@pytest.mark.parametrize(("low", "high"), [(0, 2017), (120.37, 3071.5), (0, 4095), (1023, 1279), (4000, 4095)])
@pytest.mark.parametrize("invert", [False, True])
def test_windows_of_twelve_bits_are_lines(low, high, invert):
    table = stretch(np.arange(4096, dtype=np.float64), low, high)
    assert line_of(255 - table if invert else table) is not None


def test_what_is_no_line_is_looked_up():
    codes = np.arange(1 << 18, dtype=np.uint32).astype(np.uint16).reshape(512, 512) & 4095
    x = np.arange(4096, dtype=np.float64)
    sigmoid = to_uint8(apply_function(x, 2000, 900, "sigmoid"))
    for table in (sigmoid, np.zeros(4096, np.uint8), (x % 256).astype(np.uint8), (x > 99).astype(np.uint8) * 255):
        assert line_of(table) is None
        assert np.array_equal(show(table, codes), table[codes])
    bright = stretch(x, 500, 3000)
    assert np.array_equal(show(bright, codes[:, ::-1]), bright[codes[:, ::-1]])


def test_windows_survive_plain_data():
    for window in (PercentileWindow(1, 99, "floor"), FixedWindow(40, 400), VOIWindow(1, "lut"), None):
        assert window_from_dict(None if window is None else window.as_dict()) == window
    with pytest.raises(ConfigError, match="not a window"):
        window_from_dict({"kind": "magic"})
