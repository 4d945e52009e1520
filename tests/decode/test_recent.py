"""Headers that are remembered: work that is not done again, and no header for another file's bytes."""

import threading
from unittest import mock

import make_images as make
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from rules import row, values

from dali_pipes.decode import DecodePolicy, Limits, decode, identify
from dali_pipes.decode.dicom import fragments, image, recent
from dali_pipes.decode.dicom.elements import Walk
from dali_pipes.decode.dicom.recent import RecentHeaders
from dali_pipes.errors import LimitError, TruncatedError

FRAMES = 40


@pytest.fixture(autouse=True)
def headers(monkeypatch):
    monkeypatch.setattr(image, "_HEADERS", RecentHeaders())
    return image._HEADERS


def item(**attributes):
    made = Dataset()
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def enhanced(syntax="explicit", first=1, undefined=False, **attributes):
    """Frames of one pixel, 1, that is multiplied by first, first + 1 and so on."""
    groups = [
        item(PixelValueTransformationSequence=Sequence([item(RescaleSlope=first + n, RescaleIntercept=0)]))
        for n in range(FRAMES)
    ]
    for group in groups:
        group.is_undefined_length_sequence_item = undefined
    ds = make.describe([row(1)] * FRAMES, {"PerFrameFunctionalGroupsSequence": Sequence(groups), **attributes})
    ds["PerFrameFunctionalGroupsSequence"].is_undefined_length = undefined
    if syntax in make.NATIVE:
        return make.write(ds, syntax, b"\1" * FRAMES, encapsulated=False)
    table = attributes.pop("table", "basic")
    return make.write(ds, syntax, make.encapsulate(ds, [make.encode(row(1), syntax, 8)] * FRAMES, table), True)


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", ["explicit", "implicit", "rle", "j2k"])
def test_functional_groups_are_parsed_once_a_file(syntax, undefined):
    data = memoryview(enhanced(syntax, undefined=undefined))
    with mock.patch.object(Walk, "_item", autospec=True, side_effect=Walk._item) as parsed:
        assert [values(data, n).item() for n in range(FRAMES)] == list(range(1, FRAMES + 1))
    assert FRAMES <= parsed.call_count < 8 * FRAMES  # each group and what is nested in it; not each for each frame


@pytest.mark.parametrize(("table", "most"), [("basic", 1), ("extended", 1), ("empty", FRAMES)])
def test_offset_tables_spare_the_other_frames(table, most):
    data = make.dicom([row(n) for n in range(FRAMES)], "rle", table=table)
    walked, walk = [], fragments.walk

    def counted(*where):
        walked.append(walk(*where))
        return walked[-1]

    with mock.patch.object(fragments, "walk", counted):
        assert [values(data, n).item() for n in range(FRAMES)] == list(range(FRAMES))
    assert [len(found.spans) for found in walked] == [most] * FRAMES


def test_files_alike_at_their_beginning_are_told_apart():
    one, two = (enhanced(first=first, ImageComments="alike" * 300) for first in (100, 200))
    assert (len(one), one[:1024]) == (len(two), two[:1024])
    for n in (0, 5, 1, 7):
        assert (values(one, n).item(), values(two, n).item()) == (n + 100, n + 200)


def test_a_header_says_nothing_of_pixels_that_are_cut():
    data = enhanced("rle")
    assert values(data, 3).item() == 4
    with pytest.raises(TruncatedError, match="39 of 40 frames"):
        values(data[: data.rindex(b"\xfe\xff\x00\xe0")], FRAMES - 1)


def test_limits_hold_for_headers_that_are_known():
    data = enhanced()
    kind = identify("", data)
    decode(data, kind, 1)
    with pytest.raises(LimitError, match=r"40 frames; at most 39"):
        decode(data, kind, 1, DecodePolicy(limits=Limits(frames=39)))


def test_what_is_kept_has_a_bound(headers, monkeypatch):
    files = [enhanced(first=100 * n) for n in range(1, 9)]
    monkeypatch.setattr(recent, "MOST_BYTES", 3 * len(files[0]))
    large = enhanced(VOILUTSequence=Sequence([make.lut(0, range(60_000))]))
    for data in (*files, make.dicom(row(1)), enhanced("deflated"), large):
        values(data)
    assert [header.frames for _, header in headers._kept.values()] == [FRAMES] * 3
    assert not any(header.data for _, header in headers._kept.values())  # nor the pixels
    assert [values(data, 1).item() for data in files] == [100 * n + 1 for n in range(1, 9)]


def test_other_threads_have_made_room_meanwhile(headers):
    class Stale(dict):
        def values(self):
            return [(bytes(recent.MOST_BYTES + 1), None)]

    headers._kept = Stale()
    assert values(enhanced(), 1).item() == 2
    assert not headers._kept


def test_threads_share_headers():
    files = [enhanced(first=n) for n in (1, 1000)]
    got = {}

    def read(k):
        got[k] = [values(files[n % 2], n).item() for n in range(FRAMES)]

    threads = [threading.Thread(target=read, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found == [(1, 1000)[n % 2] + n for n in range(FRAMES)] for found in got.values())
    assert len(got) == 4
