"""The reading of a header: what pydicom reads of the same bytes, in silence, and within bounds."""

import logging
import struct
import subprocess
import sys
import warnings

import make_images as make
import numpy as np
import pydicom
import pytest
import shipped
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from rules import row, shown, values
from rules_of_files import element, file_of, header

from dali_pipes.decode import DecodePolicy, FixedWindow, Limits, VOIWindow, decode, dicom_frames, frames, identify
from dali_pipes.decode.dicom.elements import TAGS, Elements
from dali_pipes.decode.dicom.header import read_header
from dali_pipes.decode.dicom.values import content, numbers, text
from dali_pipes.errors import DecodeError, LimitError

PIXELS = np.arange(64, dtype=np.uint8).reshape(8, 8)
UNDEFINED = 0xFFFFFFFF
FILES = [path for path in shipped.files() if path.relative_to(shipped.ROOT).as_posix() not in shipped.DAMAGED]


def same(ours: Elements, theirs: Dataset) -> int:
    """How many elements were compared; sequences with all they hold."""
    compared = 0
    for name in TAGS:
        stated = theirs.get(name)
        assert (ours.value(name) is None) == (stated is None), name
        if stated is None:
            continue
        compared += 1
        if isinstance(stated, Sequence):
            assert len(ours.items(name)) == len(stated)
            compared += sum(same(*pair) for pair in zip(ours.items(name), stated))
        elif isinstance(stated, bytes):
            assert content(ours, name) == stated
        elif isinstance(stated, str):
            assert text(ours, name) == stated.strip().upper()
        else:
            several = stated if hasattr(stated, "__iter__") else [stated]
            modulo = 65536 if theirs[name].VR in ("US", "SS") else None
            found = numbers(ours, name) if ours.value(name).vr not in ("OW", "OB") else several
            assert [v % modulo if modulo else v for v in found] == [float(v) % modulo if modulo else v for v in several]
    return compared


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_element_is_as_pydicom_reads_it(path):
    data = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pydicom.dcmread(path)
        assert same(read_header(data, Limits()).dataset, theirs) >= 9


def un(tag, value, big, undefined):
    """An element of VR UN."""
    order = ">" if big else "<"
    length = UNDEFINED if undefined else len(value)
    return struct.pack(order + "HH2sHI", tag >> 16, tag & 0xFFFF, b"UN", 0, length) + value


def sequence_of(body, little=True):
    """An item of undefined length in a sequence of undefined length, implicit VR."""
    order = "<" if little else ">"
    ends = [struct.pack(order + "HHI", 0xFFFE, n, 0) for n in (0xE00D, 0xE0DD)]
    return struct.pack(order + "HHI", 0xFFFE, 0xE000, UNDEFINED) + body + ends[0] + ends[1]


@pytest.mark.parametrize("syntax", ["big", "explicit"])
def test_un_of_undefined_length_holds_implicit_little_endian(syntax):
    """CP-246, also in a big endian file; what is in it is passed over, or read where it is wanted."""
    private = un(0x00091010, sequence_of(struct.pack("<HHI", 0x0009, 0x1011, 2) + b"ab"), syntax == "big", True)
    entries = np.array([0, 500, 1000, 65535], "<u2").tobytes()
    table = struct.pack("<HHI3H", 0x0028, 0x3002, 6, 4, 0, 16) + struct.pack("<HHI", 0x0028, 0x3006, 8) + entries
    modality = un(0x00283000, sequence_of(table), syntax == "big", True)
    data = make.dicom(row(0, 1, 2, 3), syntax)
    at = data.index(b"\x7f\xe0\0\x10" if syntax == "big" else b"\xe0\x7f\x10\0")
    begin = data.index(b"\0\x28\0\x02" if syntax == "big" else b"\x28\0\x02\0")
    file = data[:begin] + private + data[begin:at] + modality + data[at:]
    assert values(file).tolist() == [[0, 500, 1000, 65535]]


@pytest.mark.parametrize("name", ["ModalityLUTSequence", "VOILUTSequence"])
def test_an_empty_item_of_a_table_sequence_counts_as_absent(name):
    plain = make.dicom(row(0, 10, 20), RescaleSlope=2, WindowCenter=20, WindowWidth=41)
    data = make.dicom(row(0, 10, 20), RescaleSlope=2, WindowCenter=20, WindowWidth=41, **{name: Sequence([Dataset()])})
    assert values(data).tolist() == [[0, 20, 40]]
    assert np.array_equal(shown(data, VOIWindow()), shown(plain, VOIWindow()))


def test_an_empty_value_behind_a_window_is_none():
    data = bytearray(make.dicom(row(0, 40, 80), WindowCenter="40.000", WindowWidth="81"))
    at = data.index(b"40.000")
    data[at : at + 6] = b"40\\   "
    assert np.array_equal(shown(bytes(data), VOIWindow()), shown(make.dicom(row(0, 40, 80)), FixedWindow(40, 81)))


HEADERS = {
    "a value of another kind": make.dicom(PIXELS).replace(b"MONOCHROME2", b"secret\xffname"),
    "a name as decimal": make.dicom(PIXELS, WindowCenter="10", WindowWidth="20").replace(b"10", b"SN"),
    "an encoding that is none": file_of(
        struct.pack("<HH2sH", 8, 5, b"CS", 6) + b"SECRET" + header() + element(0x7FE0, 0x10, b"OB", bytes(64))
    ),
    "a vr that is none": file_of(
        struct.pack("<HH2sH", 8, 0x60, b"ZZ", 6) + b"SECRET" + header() + element(0x7FE0, 0x10, b"OB", bytes(64))
    ),
}


@pytest.mark.parametrize("name", HEADERS)
def test_nothing_is_said_of_what_a_file_holds(name, capfd, caplog):
    data = HEADERS[name]
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        try:
            decode(data, identify(None, data), 0, DecodePolicy(window=VOIWindow()))
        except DecodeError as error:
            assert "ecret" not in str(error).lower().replace("secret", "ecret")  # noqa: PT017
    assert not caught
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_decoding_dicom_does_not_load_pydicom(tmp_path):
    path = tmp_path / "one.dcm"
    path.write_bytes(make.dicom(PIXELS, "rle"))
    code = (
        "import sys; from dali_pipes.decode import decode, identify; data = open(sys.argv[1], 'rb').read();"
        "decode(data, identify(None, data)); print('pydicom' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def item(body=b"", undefined=False):
    return struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED if undefined else len(body)) + body


def empty_items(count, undefined):
    """A header with a sequence of empty items, deflated: a thousandth of what it says."""
    body = item() * count + (struct.pack("<HHI", 0xFFFE, 0xE0DD, 0) if undefined else b"")
    head = struct.pack("<HH2sHI", 0x0028, 0x3010, b"SQ", 0, UNDEFINED if undefined else len(body))
    whole = head + body + header() + element(0x7FE0, 0x10, b"OB", bytes(64))
    return make.preamble(make.SYNTAX["deflated"]) + make.deflate(whole)


@pytest.mark.parametrize("undefined", [True, False], ids=["undefined length", "defined length"])
def test_items_are_counted_before_they_are_kept(undefined, tmp_path):
    data = empty_items(4_000_000, undefined)
    assert len(data) < 50_000
    with pytest.raises(LimitError, match=r"more than \d+ elements and items \(Limits.elements"):
        decode(data, identify(None, data), 0, DecodePolicy(window=VOIWindow()))
    path = tmp_path / "bomb.dcm"
    path.write_bytes(data)
    assert dicom_frames(path) == 1


def test_elements_are_counted_too():
    many = (
        struct.pack("<HH2sHH", 0x0009, 0x1010, b"US", 2, 0) * 500 + header() + element(0x7FE0, 0x10, b"OB", bytes(64))
    )
    data = file_of(many)
    assert frames(data) == 1
    with pytest.raises(LimitError, match="more than 183 elements and items"):
        frames(data, Limits(elements=100))  # 5,360 bytes: 83 more
