"""The size that headers state is the size that decoding gives, for every kind of file."""

from pathlib import Path

import pytest
from archives import manifest_of, one_of_each

from dali_pipes.decode import DecodePolicy, decode, extent, identify
from dali_pipes.errors import DecodeError


def test_headers_state_what_decoding_gives(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, one_of_each())
    policy, seen = DecodePolicy(), set()
    for sample in manifest:
        data = manifest.resolve(sample.index).read_bytes()
        kind = identify(None, data)
        assert extent(data, kind, 0, policy) == decode(data, kind, 0, policy).pixels.shape[:2], sample.path
        seen.add(kind.tag)
    assert len(seen) > 10


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_turned_tiffs(orientation: int) -> None:
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (7, 4)).save(out, "TIFF", tiffinfo={274: orientation})
    kind = identify(None, out.getvalue())
    shape = decode(out.getvalue(), kind, 0, DecodePolicy()).pixels.shape[:2]
    assert extent(out.getvalue(), kind, 0, DecodePolicy()) == shape == ((7, 4) if orientation > 4 else (4, 7))


def test_damaged_headers(tmp_path: Path) -> None:
    files = one_of_each()
    for name in files:
        kind = identify(None, files[name])
        with pytest.raises(DecodeError):
            extent(files[name][:12], kind, 0, DecodePolicy())
