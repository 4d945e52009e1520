"""The quick check of a JPEG says what decoding it would say."""

import archives
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_images import jpeg

from dali_pipes.decode import DecodePolicy, Kind, Limits, check_jpeg, decode, identify
from dali_pipes.errors import DaliPipesError, LimitError, TruncatedError

POLICY = DecodePolicy()
JPEG = Kind.from_tag("jpeg")


def said(action: object) -> tuple[str, str] | None:
    try:
        action()  # type: ignore[operator]
    except DaliPipesError as error:
        return type(error).__name__, str(error)
    return None


@given(st.integers(0, 2**32), st.integers(0, 3), st.booleans(), st.booleans())
def test_damage_is_found_alike(seed: int, bytes_changed: int, progressive: bool, restarts: bool) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(8, 50, 2))
    options = {"restart_marker_blocks": 2} if restarts else {}
    made = jpeg(archives.noise(seed, height, width), subsampling=seed % 3, progressive=progressive, **options)
    data = bytearray(made)
    for _ in range(bytes_changed):
        data[int(rng.integers(len(data) // 3, len(data) - 2))] = int(rng.integers(0, 256))
    found = bytes(data)
    if said(lambda: identify(None, found)) is not None or not identify(None, found).dali:
        return
    assert said(lambda: check_jpeg(found, POLICY)) == said(lambda: decode(found, JPEG, 0, POLICY))


def test_a_sound_file_passes_and_a_short_one_does_not() -> None:
    data = jpeg(archives.noise(1, 40, 50))
    check_jpeg(data, POLICY)
    with pytest.raises(TruncatedError):
        check_jpeg(data[: len(data) // 2] + b"\xff\xd9", POLICY)
    with pytest.raises(TruncatedError):
        check_jpeg(data[:-2], POLICY)


def test_limits_hold() -> None:
    data = jpeg(archives.noise(1, 40, 50))
    with pytest.raises(LimitError):
        check_jpeg(data, DecodePolicy(limits=Limits(pixels=1999)))
    with pytest.raises(LimitError):
        check_jpeg(data, DecodePolicy(limits=Limits(file_bytes=10)))
