"""The few elements of a DICOM data set that decide about pixels (PS3.5 7.1 to 7.5), found by passing over the others.

Values are kept as bytes and converted when they are asked for (see `values`), so that nothing that a file says is ever
printed. Sequences of defined length are passed over by it; those of undefined length are walked through. How many
elements and items may be looked at is counted, because eight bytes of a file make one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from dali_pipes.errors import DecodeError, LimitError, TruncatedError

UNDEFINED = 0xFFFFFFFF
LONG = frozenset((b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UN", b"UC", b"UR", b"UT", b"SV", b"UV"))
"""Value representations whose length has 4 bytes, after two that are reserved."""
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_DEEPEST = 50
_MOST_BYTES = 256 << 20  # of one value that is kept
_HEADS = {True: struct.Struct("<HHI"), False: struct.Struct(">HHI")}
_SHORTS = {True: struct.Struct("<H"), False: struct.Struct(">H")}

TAGS: dict[str, tuple[int, str]] = {
    "SOPClassUID": (0x00080016, "UI"),
    "PresentationIntentType": (0x00080068, "CS"),
    "PixelPresentation": (0x00089205, "CS"),
    "SamplesPerPixel": (0x00280002, "US"),
    "PhotometricInterpretation": (0x00280004, "CS"),
    "PlanarConfiguration": (0x00280006, "US"),
    "NumberOfFrames": (0x00280008, "IS"),
    "Rows": (0x00280010, "US"),
    "Columns": (0x00280011, "US"),
    "BitsAllocated": (0x00280100, "US"),
    "BitsStored": (0x00280101, "US"),
    "HighBit": (0x00280102, "US"),
    "PixelRepresentation": (0x00280103, "US"),
    "PixelPaddingValue": (0x00280120, "US"),
    "PixelPaddingRangeLimit": (0x00280121, "US"),
    "FloatPixelPaddingValue": (0x00280122, "FL"),
    "DoubleFloatPixelPaddingValue": (0x00280123, "FD"),
    "FloatPixelPaddingRangeLimit": (0x00280124, "FL"),
    "DoubleFloatPixelPaddingRangeLimit": (0x00280125, "FD"),
    "BurnedInAnnotation": (0x00280301, "CS"),
    "WindowCenter": (0x00281050, "DS"),
    "WindowWidth": (0x00281051, "DS"),
    "RescaleIntercept": (0x00281052, "DS"),
    "RescaleSlope": (0x00281053, "DS"),
    "VOILUTFunction": (0x00281056, "CS"),
    "RedPaletteColorLookupTableDescriptor": (0x00281101, "US"),
    "GreenPaletteColorLookupTableDescriptor": (0x00281102, "US"),
    "BluePaletteColorLookupTableDescriptor": (0x00281103, "US"),
    "RedPaletteColorLookupTableData": (0x00281201, "OW"),
    "GreenPaletteColorLookupTableData": (0x00281202, "OW"),
    "BluePaletteColorLookupTableData": (0x00281203, "OW"),
    "SegmentedRedPaletteColorLookupTableData": (0x00281221, "OW"),
    "SegmentedGreenPaletteColorLookupTableData": (0x00281222, "OW"),
    "SegmentedBluePaletteColorLookupTableData": (0x00281223, "OW"),
    "LossyImageCompression": (0x00282110, "CS"),
    "ModalityLUTSequence": (0x00283000, "SQ"),
    "LUTDescriptor": (0x00283002, "US"),
    "LUTData": (0x00283006, "OW"),
    "VOILUTSequence": (0x00283010, "SQ"),
    "FrameVOILUTSequence": (0x00289132, "SQ"),
    "PixelValueTransformationSequence": (0x00289145, "SQ"),
    "PresentationLUTShape": (0x20500020, "CS"),
    "SharedFunctionalGroupsSequence": (0x52009229, "SQ"),
    "PerFrameFunctionalGroupsSequence": (0x52009230, "SQ"),
    "ExtendedOffsetTable": (0x7FE00001, "OV"),
    "ExtendedOffsetTableLengths": (0x7FE00002, "OV"),
}
"""Keyword to tag, and the value representation where the file does not state one. US stands for "US or SS" too."""
_WANTED = dict(TAGS.values())


class Coding(NamedTuple):
    """How elements are written."""

    implicit: bool
    little: bool


_OF_UN = Coding(implicit=True, little=True)  # PS3.5 6.2.2 note 4: what a UN of undefined length holds (CP-246)


@dataclass(frozen=True, slots=True)
class Value:
    """One value as it is written; vr: the file's, or the dictionary's where it states none."""

    vr: str
    raw: bytes
    coding: Coding


class Budget:
    """How many elements and items may still be looked at."""

    def __init__(self, most: int) -> None:
        self.most = self.left = most

    def spend(self) -> None:
        """Count one more; raise LimitError where it is one too many."""
        self.left -= 1
        if self.left < 0:
            raise LimitError(
                f"the DICOM header holds more than {self.most} elements and items (Limits.elements, and one for every "
                "64 bytes of the file)"
            )


class Elements:
    """The elements named in TAGS of a data set, or of an item, which is read when it is first asked for."""

    __slots__ = ("_coding", "_data", "_found", "_items", "_most")

    def __init__(self, data: bytes | memoryview, coding: Coding, most: int) -> None:
        self._data, self._coding, self._most = data, coding, most
        self._found: dict[int, Value] | None = None
        self._items: dict[int, list[Elements]] | None = None  # those asked for

    def value(self, name: str) -> Value | None:
        """Return the value of a keyword of TAGS, or None where the data set lacks it."""
        if self._found is None:
            self._found, _ = Walk(self._data, Budget(self._most)).elements(0, self._coding)
        return self._found.get(TAGS[name][0])

    def items(self, name: str) -> list[Elements]:
        """Return the items of a sequence; none where the data set lacks it."""
        value = self.value(name)
        if value is None or value.vr != "SQ":
            return []
        tag = TAGS[name][0]
        found = None if self._items is None else self._items.get(tag)
        if found is None:  # several threads may do this at once, to the same end
            spans, view = Walk(value.raw, Budget(self._most)).items(value.coding), memoryview(value.raw)
            found = [Elements(view[begin:end], value.coding, self._most) for begin, end in spans]
            self._items = {**(self._items or {}), tag: found}
        return found

    @classmethod
    def read(
        cls, data: bytes | memoryview, at: int, coding: Coding, most: int, stops: frozenset[int]
    ) -> tuple[Elements, int]:
        """Read a file's data set from byte `at` up to the first tag of `stops`; return it, and where that tag is."""
        made = cls(b"", coding, most)
        made._found, at = Walk(data, Budget(most)).elements(at, coding, stops)
        return made, at


class Walk:
    """Steps over elements; `data` is never copied, except for values that are wanted."""

    def __init__(self, data: bytes | memoryview, budget: Budget) -> None:
        self.data, self.size, self.budget = data, len(data), budget

    def elements(self, at: int, coding: Coding, stops: frozenset[int] = frozenset()) -> tuple[dict[int, Value], int]:
        """Return the wanted elements from `at` on, and where the walk ended: at a tag of `stops`, or at the end."""
        found: dict[int, Value] = {}
        while at + 8 <= self.size:
            tag, vr, length, begin = self.head(at, coding)
            if tag in stops:
                break
            at = self.skip(vr, length, begin, coding, 0)
            if tag in _WANTED:
                found[tag] = self._kept(tag, vr, length, begin, at, coding)
        return found, at

    def _kept(self, tag: int, vr: bytes, length: int, begin: int, end: int, coding: Coding) -> Value:
        if end - begin > _MOST_BYTES:
            raise LimitError(f"a value of {end - begin} bytes in the DICOM header; at most {_MOST_BYTES} are read")
        unknown = vr in (b"", b"UN")
        sequence = length == UNDEFINED and _WANTED[tag] == "SQ"
        inner = _OF_UN if vr == b"UN" else coding
        stated = "SQ" if sequence else _WANTED[tag] if unknown else vr.decode("ascii")
        return Value(stated, bytes(self.data[begin:end]), inner)

    def head(self, at: int, coding: Coding) -> tuple[int, bytes, int, int]:
        """Return tag, VR (b"" where none is stated), length, and where the value begins."""
        self.budget.spend()
        group, element, length = _HEADS[coding.little].unpack_from(self.data, at)
        tag = group << 16 | element
        if coding.implicit or group == 0xFFFE:
            return tag, b"", length, at + 8
        vr = bytes(self.data[at + 4 : at + 6])
        if not (vr.isalpha() and vr.isupper()):  # some writers leave it out in the middle of a data set
            return tag, b"", length, at + 8
        if vr not in LONG:
            return tag, vr, _SHORTS[coding.little].unpack_from(self.data, at + 6)[0], at + 8
        if at + 12 > self.size:
            raise TruncatedError("the DICOM file ends inside an element before its pixel data")
        return tag, vr, _HEADS[coding.little].unpack_from(self.data, at + 4)[2], at + 12

    def skip(self, vr: bytes, length: int, at: int, coding: Coding, depth: int) -> int:
        """Return where a value ends, which may be beyond the data."""
        if length != UNDEFINED:
            return at + length
        coding = _OF_UN if vr == b"UN" else coding
        if depth > _DEEPEST:
            raise DecodeError("the DICOM sequences are nested too deeply")
        while True:
            tag, length, at = self._item(at, coding)
            if tag == _SEQUENCE_END:
                return at
            at = at + length if length != UNDEFINED else self._end_of_item(at, coding, depth)

    def _item(self, at: int, coding: Coding) -> tuple[int, int, int]:
        """Return the tag and length of an item or of a sequence's end, and where it begins."""
        if at + 8 > self.size:
            raise TruncatedError("the DICOM file ends inside a sequence")
        self.budget.spend()
        group, element, length = _HEADS[coding.little].unpack_from(self.data, at)
        tag = group << 16 | element
        if tag not in (_ITEM, _SEQUENCE_END):
            raise DecodeError(f"the DICOM data set is damaged at about byte {at}: a sequence holds what is no item")
        return tag, length, at + 8

    def _end_of_item(self, at: int, coding: Coding, depth: int) -> int:
        while at + 8 <= self.size:
            tag, vr, length, begin = self.head(at, coding)
            if tag == _ITEM_END:
                return begin
            at = self.skip(vr, length, begin, coding, depth + 1)
        raise TruncatedError("the DICOM file ends inside an item of a sequence")

    def items(self, coding: Coding) -> list[tuple[int, int]]:
        """Return where each item of a sequence, whose value the data is, begins and ends."""
        spans, at = [], 0
        while at < self.size:
            tag, length, at = self._item(at, coding)
            if tag == _SEQUENCE_END:
                break
            begin, at = at, at + length if length != UNDEFINED else self._end_of_item(at, coding, 0)
            if at > self.size:
                raise DecodeError("an item is longer than the sequence that holds it")
            spans.append((begin, at))
        return spans
