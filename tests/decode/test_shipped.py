"""Every pixel-bearing file that pydicom ships: the pixels of an independent reading, or a named error. See
shipped.py.
"""

import json

import numpy as np
import pytest
import shipped

import dali_pipes.decode as decode_room
from dali_pipes import errors
from dali_pipes.decode import DecodePolicy, PercentileWindow, apply_window, decode, identify
from dali_pipes.decode.dicom.image import read_frame

TABLE = json.loads(shipped.TABLE.read_text())
GOOD = [name for name, row in TABLE.items() if "digest" in row]
BAD = [name for name, row in TABLE.items() if "error" in row]


def test_the_table_lists_every_file():
    assert {path.relative_to(shipped.ROOT).as_posix() for path in shipped.files()} == set(TABLE)


@pytest.mark.parametrize("name", GOOD)
def test_pixels_agree_with_the_independent_reading(name):
    read = read_frame((shipped.ROOT / name).read_bytes(), 0, DecodePolicy())
    if read.coded is None:
        shown = read.rgb
    else:
        shown = read.coded.values if read.coded.codes is None else read.coded.values[read.coded.codes]
    assert shipped.digest(shown) == TABLE[name]["digest"]


@pytest.mark.parametrize("name", GOOD)
def test_both_depths_show_the_same_picture(name):
    data = (shipped.ROOT / name).read_bytes()
    kind = identify(name, data)
    shallow = decode(data, kind, 0, DecodePolicy(depth=8))
    deep = decode(data, kind, 0, DecodePolicy(depth=16))
    assert np.array_equal(apply_window(deep.pixels, deep.attributes, PercentileWindow()), shallow.pixels)
    assert shallow.pixels.any(), "all zeros"


@pytest.mark.parametrize("name", BAD)
def test_damaged_files_give_named_errors(name):
    data = (shipped.ROOT / name).read_bytes()
    with pytest.raises(getattr(errors, TABLE[name]["error"]), match=TABLE[name]["says"]):
        decode(data, identify(name, data))


def test_files_without_pixels_are_listed_with_no_frames():
    for name in ("rtplan.dcm", "reportsi.dcm", "dicomdirtests/DICOMDIR"):
        assert decode_room.dicom_frames(shipped.ROOT / "test_files" / name) == 0
