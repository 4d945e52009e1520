"""Multi-frame files: functional groups, offset tables, one frame without the others, flags, reduced JPEG 2000."""

import struct
import tracemalloc

import make_images as make
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from rules import WHOLE, row, shown, values

from dali_pipes.decode import DecodePolicy, Kind, VOIWindow, decode, describe, dicom_frames, frames, identify, is_dicom
from dali_pipes.errors import DecodeError, TruncatedError

STACK = [np.full((6, 8), 10 * n, np.uint8) for n in range(1, 6)]


def group(**macros):
    """A functional group: name of the macro's sequence -> its attributes."""
    made = Dataset()
    for name, attributes in macros.items():
        item = Dataset()
        for key, value in attributes.items():
            setattr(item, key, value)
        setattr(made, name, Sequence([item]))
    return made


def rescale(slope):
    return {"PixelValueTransformationSequence": {"RescaleSlope": slope, "RescaleIntercept": 0}}


@pytest.mark.parametrize("syntax", [*make.NATIVE, *make.LOSSLESS])
def test_each_frame_of_each_syntax(syntax):
    data = make.dicom(STACK, syntax)
    assert frames(data) == 5
    for n in range(5):
        assert (values(data, n) == 10 * (n + 1)).all()
    with pytest.raises(DecodeError, match="frame 5 was asked for; the file has 5"):
        values(data, 5)


@pytest.mark.parametrize(
    ("table", "split"), [("basic", 0), ("basic", 20), ("empty", 0), ("empty", 20), ("extended", 0)]
)
@pytest.mark.parametrize("syntax", ["j2k", "jls", "lossless"])
def test_offset_tables_and_fragments(table, split, syntax):
    data = make.dicom(STACK, syntax, table=table, split=split)
    for n in range(5):
        assert (values(data, n) == 10 * (n + 1)).all()


def test_a_frame_that_spans_fragments_needs_a_table_unless_it_ends_in_a_marker():
    data = make.dicom(STACK, "rle", table="empty", split=20)
    with pytest.raises(DecodeError, match="no offset table"):
        values(data, 1)


@pytest.mark.parametrize("offsets", [(0, 1, 2, 3, 4), (0,) * 5, (8,) * 5])
def test_an_offset_table_that_tells_nothing_is_ignored_with_a_warning(offsets):
    good = make.dicom(STACK, "j2k")
    at = good.index(b"\xfe\xff\x00\xe0") + 8
    bad = good[:at] + struct.pack("<5I", *offsets) + good[at + 20 :]
    for n in range(5):
        assert (values(bad, n) == 10 * (n + 1)).all()
        assert "the basic offset table does not tell" in describe(bad, n)["warnings"][0]


@pytest.mark.parametrize("emptied", ["ExtendedOffsetTable", "ExtendedOffsetTableLengths"])
@pytest.mark.parametrize("filled", [0, 255])
def test_an_extended_offset_table_that_tells_nothing_is_ignored_with_a_warning(emptied, filled):
    ds = make.describe(STACK, {})
    value = make.encapsulate(ds, [make.encode(frame, "j2k", 8) for frame in STACK], "extended")
    setattr(ds, emptied, bytes([filled]) * 40)
    bad = make.write(ds, "j2k", value, encapsulated=True)
    for n in range(5):
        assert (values(bad, n) == 10 * (n + 1)).all()
        assert "the extended offset table does not tell" in describe(bad, n)["warnings"][0]


def test_per_frame_and_shared_functional_groups():
    shared = {"SharedFunctionalGroupsSequence": Sequence([group(**rescale(2))])}
    own = Sequence([group(**rescale(3)), group()])
    data = make.dicom([row(1), row(1)], **shared, PerFrameFunctionalGroupsSequence=own)
    assert values(data, 0).tolist() == [[3]]  # its own
    assert values(data, 1).tolist() == [[2]]  # the shared one
    assert values(make.dicom([row(1), row(1)], **shared), 1).tolist() == [[2]]


def test_windows_of_functional_groups():
    voi = {"WindowCenter": 100, "WindowWidth": 1}
    own = Sequence([group(), group(FrameVOILUTSequence=voi)])
    data = make.dicom([row(99, 100)] * 2, WindowCenter=[5], WindowWidth=[1], PerFrameFunctionalGroupsSequence=own)
    assert shown(data, VOIWindow(), 0).tolist() == [[255, 255]]  # the top level's
    assert shown(data, VOIWindow(), 1).tolist() == [[0, 255]]


def test_the_function_of_a_functional_groups_window():
    # LINEAR_EXACT, 95..105: 100 -> 127.5 -> 128. LINEAR would be 255 * 5 / 9 = 141.7.
    voi = {"WindowCenter": 100, "WindowWidth": 10, "VOILUTFunction": "LINEAR_EXACT"}
    shared = Sequence([group(FrameVOILUTSequence=voi)])
    data = make.dicom([row(100)] * 2, VOILUTFunction="LINEAR", SharedFunctionalGroupsSequence=shared)
    assert shown(data, VOIWindow(), 1).tolist() == [[128]]


def test_pydicom_does_not_look_into_functional_groups():
    from pydicom.pixels import apply_windowing

    ds = Dataset()
    ds.SharedFunctionalGroupsSequence = Sequence([group(FrameVOILUTSequence={"WindowCenter": 100, "WindowWidth": 1})])
    assert apply_windowing(np.array([99, 100]), ds).tolist() == [99, 100]  # the gap: 0 and the maximum


def test_fewer_groups_than_frames():
    data = make.dicom([row(1), row(1)], PerFrameFunctionalGroupsSequence=Sequence([group()]))
    with pytest.raises(DecodeError, match="frame 1 has no functional group: the file has 1"):
        values(data, 1)


@pytest.mark.parametrize(("syntax", "most"), [("explicit", 10), ("rle", 10), ("j2k", 10), ("deflated", 150)])
def test_a_hundred_frames_cost_one_frames_memory(tmp_path, syntax, most):  # a deflated data set is inflated, once
    noise = np.random.default_rng(0).integers(0, 4096, (256, 256)).astype(np.uint16)
    path = tmp_path / "stack.dcm"
    path.write_bytes(make.dicom([noise] * 100, syntax, BitsStored=12))
    data = path.read_bytes()
    kind = identify(path, data)
    decode(data, kind, 1)
    tracemalloc.start()
    decode(data, kind, 50)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < most * noise.nbytes  # the file holds 100 times that


def test_listing(tmp_path):
    good, text = tmp_path / "no-extension", tmp_path / "liar.dcm"
    good.write_bytes(make.dicom(STACK))
    text.write_text("not DICOM, whatever the name says")
    assert is_dicom(good)
    assert not is_dicom(text)
    assert dicom_frames(good) == 5
    bare = tmp_path / "bare"
    bare.write_bytes(good.read_bytes()[132:])
    assert not is_dicom(bare)
    assert is_dicom(bare, without_preamble=True)
    data = bare.read_bytes()
    assert identify(bare, data).tag == "dcm.1"
    assert (decode(data, identify(bare, data), 2, DecodePolicy(window=WHOLE)).pixels == 30).all()


def test_a_file_without_meta_information_is_read_as_what_it_looks_like():
    for syntax in ("implicit", "explicit"):
        data = make.dicom(row(5, 6), syntax)
        at = data.index(make.SYNTAX[syntax].encode()) + len(make.SYNTAX[syntax]) + len(make.SYNTAX[syntax]) % 2
        assert values(data[at:]).tolist() == [[5, 6]]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_reduced_jpeg_2000(bits, signed):
    y, x = np.mgrid[:200, :300]
    smooth = (x + y) * ((1 << bits - 1) - 1) // 500
    dtype = {(8, False): np.uint8, (8, True): np.int8}.get((bits, signed), np.int16 if signed else np.uint16)
    pixels = (smooth - (1 << bits - 2) if signed else smooth).astype(dtype)
    data = make.dicom(pixels, "j2k", BitsStored=bits)
    kind = identify("", data)
    full = decode(data, kind, 0, DecodePolicy(depth=16))
    policy = DecodePolicy(depth=16, reduce=(50, 60))
    small = decode(data, kind, 0, policy)
    assert small.pixels.shape == (50, 75, 3)  # halved twice: a third time would leave 25 rows
    assert small.attributes["intercept"] == full.attributes["intercept"]
    near = np.abs(small.pixels[..., 0].astype(int) - full.pixels[::4, ::4, 0].astype(int))
    assert near.max() <= (1 << bits) // 32
    assert kind.under(policy).decoder != kind.decoder
    assert kind.under(DecodePolicy()) == kind
    assert decode(data, kind, 0, DecodePolicy(depth=16, reduce=(150, 250))).pixels.shape == full.pixels.shape


def test_colour_of_more_than_eight_bits_is_not_reduced():
    # Pillow would cut it to 8 bits.
    deep = np.random.default_rng(0).integers(0, 4096, (64, 64, 3)).astype(np.uint16)
    data = make.dicom(deep, "j2k", BitsStored=12)
    policy = DecodePolicy(depth=16, reduce=(16, 16))
    got = decode(data, identify("", data), 0, policy).pixels
    assert np.array_equal(got, np.floor(deep * (65535 / 4095) + 0.5))


def test_tags_rebuild_their_kinds():
    for syntax in make.SYNTAX:
        if syntax in ("mpeg", "j2k-part2"):
            continue
        data = make.preamble(make.SYNTAX[syntax]) + b"\0" * 40
        kind = identify("", data)
        assert len(kind.tag) <= 8
        assert Kind.from_tag(kind.tag) == kind


def test_a_stack_that_ends_early():
    data = make.dicom(STACK, "explicit")
    with pytest.raises(TruncatedError):
        values(data[:-10], 4)
    assert (values(data[:-10], 0) == 10).all()


@pytest.mark.parametrize("table", ["basic", "empty"])
@pytest.mark.parametrize("syntax", ["j2k", "rle"])
def test_an_encapsulated_stack_that_ends_between_two_frames(table, syntax):
    data = make.dicom(STACK, syntax, table=table)
    cut = data[: data.rindex(b"\xfe\xff\x00\xe0")]
    with pytest.raises(TruncatedError, match="the file ends after 4 of 5 frames"):
        values(cut, 4)


def test_a_jpeg_ls_frame_without_its_end_is_no_endless_search():
    # CharLS may go on looking for the marker behind the data, for ever.
    frame = make.encode(STACK[0], "jls", 8)
    data = make.dicom(STACK[0], "jls", frames=[frame.rstrip(b"\0")[:-2]])
    with pytest.raises(TruncatedError, match="the JPEG-LS frame has no end marker"):
        values(data)
