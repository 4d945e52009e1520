"""One table of decoders: a new format is a row in it; and the room's modules import each other in one direction."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import pytest

import dali_pipes.decode as room
from dali_pipes.decode import Decoded, DecodePolicy, Kind, decode, describe
from dali_pipes.decode.formats import FORMATS, Format
from dali_pipes.errors import DecodeError, UnsupportedError


def test_a_row_is_a_format(monkeypatch):
    def read(data, frame, policy):
        return Decoded(np.frombuffer(bytes(data), np.uint8).reshape(2, 2, 1))

    monkeypatch.setitem(FORMATS, "toy", Format("raster", read, lambda policy: "toy 1.0"))
    kind = Kind.from_tag("toy")
    Kind.from_tag.cache_clear()
    assert kind.decoder.endswith("toy 1.0")
    assert decode(b"abcd", kind).pixels.shape == (2, 2, 3)


def test_every_tag_has_a_decoder_or_says_what_is_missing():
    for tag, row in FORMATS.items():
        assert len(tag) <= 8
        try:
            kind = Kind.from_tag(tag)
        except UnsupportedError as error:
            assert row.family == "dicom"
            assert "no decoder for" in str(error)  # noqa: PT017
        else:
            assert kind.decoder.startswith(f"{row.family} ")
    with pytest.raises(UnsupportedError, match="no decoder has the tag 'tga'; known are bmp, dcm"):
        Kind.from_tag("tga")
    with pytest.raises(DecodeError, match="no decoder has the tag 'tga'"):
        decode(b"abc", Kind("tga", "", in_threads=True))


def test_reduce_has_another_name_for_those_that_it_changes():
    small = DecodePolicy(reduce=(8, 8))
    assert Kind.from_tag("dcm.4.90").under(small).decoder.endswith("reduced")
    assert Kind.from_tag("dcm.4.90").under(DecodePolicy()) == Kind.from_tag("dcm.4.90")
    assert Kind.from_tag("jpeg").under(small) == Kind.from_tag("jpeg")


def test_no_module_imports_itself_by_way_of_another():
    root = Path(room.__file__).parent
    graph = {}
    for path in root.rglob("*.py"):
        name = ".".join(("dali_pipes.decode", *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dali_pipes.decode"):
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {module for module in inner if _exists(root, module)} or {node.module}
        graph[name] = found
    assert len(list(TopologicalSorter(graph).static_order())) >= len(graph)


def _exists(root, module):
    place = root.joinpath(*module.split(".")[2:])
    return place.with_suffix(".py").exists()


def test_describe_takes_every_family(tmp_path):
    import make_images as make

    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for data in (make.jpeg(pixels), make.raster(pixels, "PNG"), make.dicom(pixels)):
        assert describe(data)["height"] == 8
