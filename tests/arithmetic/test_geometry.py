"""Where a picture lands: torchvision's numbers for square targets, and what each fit promises for all."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dali_pipes.arithmetic import geometry
from dali_pipes.errors import ConfigError

sides = st.integers(1, 20000)
targets = st.integers(1, 2000)


def torchvision_square(h: int, w: int, side: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """`Resize(side)` and `CenterCrop(side)` as torchvision writes them: resized size, and where the cut starts."""
    short, long = (w, h) if w <= h else (h, w)
    new_short, new_long = side, int(side * long / short)
    nw, nh = (new_short, new_long) if w <= h else (new_long, new_short)
    return (nh, nw), (round((nh - side) / 2.0), round((nw - side) / 2.0))


@given(sides, sides, targets)
@example(1, 5000, 512)
@example(5000, 1, 512)
@example(333, 999, 333)
def test_crop_of_a_square_is_torchvisions(h: int, w: int, side: int) -> None:
    place = geometry(h, w, side, "crop")
    assert (place.resized, place.crop) == torchvision_square(h, w, side)


@given(sides, sides, targets, targets)
def test_crop_covers_the_target_with_the_smallest_scale(h: int, w: int, th: int, tw: int) -> None:
    place = geometry(h, w, (th, tw), "crop")
    (nh, nw), (top, left) = place.resized, place.crop
    assert place.window == (th, tw)
    assert place.pad == (0, 0)
    assert nh == th or nw == tw
    assert nh >= th
    assert nw >= tw
    assert 0 <= top <= nh - th
    assert 0 <= left <= nw - tw
    assert abs((nh - th) - 2 * top) <= 1
    assert abs((nw - tw) - 2 * left) <= 1


@given(sides, sides, targets, targets)
def test_pad_fits_inside_with_the_largest_scale(h: int, w: int, th: int, tw: int) -> None:
    place = geometry(h, w, (th, tw), "pad")
    (nh, nw), (top, left) = place.resized, place.pad
    assert place.window == place.resized
    assert place.crop == (0, 0)
    assert nh == th or nw == tw
    assert 1 <= nh <= th
    assert 1 <= nw <= tw
    assert (top, left) == ((th - nh) // 2, (tw - nw) // 2)


@given(sides, sides, targets, targets)
def test_stretch_fills_the_target(h: int, w: int, th: int, tw: int) -> None:
    place = geometry(h, w, (th, tw), "stretch")
    assert place.resized == place.window == place.size == (th, tw)
    assert place.crop == place.pad == (0, 0)


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_a_picture_of_the_targets_size_stays(fit: str) -> None:
    place = geometry(37, 53, (37, 53), fit)  # type: ignore[arg-type]
    assert place.resized == (37, 53)
    assert place.crop == place.pad == (0, 0)


@pytest.mark.parametrize(
    ("h", "w", "size", "fit", "message"),
    [
        (0, 5, 8, "stretch", "a picture of 0 x 5 pixels can't be resized; both sides must be at least 1"),
        (5, 5, 0, "stretch", "size is 0; give a whole number of pixels >= 1, or a pair"),
        (5, 5, (8, 2.5), "stretch", r"size is \(8, 2.5\); give a whole number"),
        (5, 5, True, "stretch", "size is True; give a whole number"),
        (5, 5, (8, 8, 3), "stretch", r"size is \(8, 8, 3\); give"),
        (5, 5, 8, "fill", "fit is 'fill'; allowed: stretch, crop, pad"),
    ],
)
def test_what_cannot_be_is_named(h: int, w: int, size: object, fit: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        geometry(h, w, size, fit)  # type: ignore[arg-type]
