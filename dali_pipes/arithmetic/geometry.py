"""Where a picture of any shape lands in an output of a given size. Integers only; every backend reads the same numbers.

For a source of `h` x `w` pixels and a target of `th` x `tw`:

stretch   resized to (th, tw). Nothing is cut and nothing is added.
crop      the smallest scale that covers the target, then the centre. If `th*w >= tw*h` the height decides:
          (th, th*w // h), otherwise the width: (tw*h // w, tw). The other side is a floor and can't fall below the
          target. The cut starts at `round((resized - target) / 2)`, a half going to the even neighbour. For a square
          target these are the numbers of torchvision's `Resize(S)` (short side to S, long side
          `int(S * long / short)`) followed by `CenterCrop(S)`.
pad       the largest scale that fits. If `th*w <= tw*h` the height decides: (th, max(1, th*w // h)), otherwise the
          width: (max(1, tw*h // w), tw). It starts at `(target - resized) // 2`; what it does not reach is 0.

`th*w // h` in integers equals `int(th * w / h)` in floating point for all sizes below 2**26: a quotient that is not
whole is at least `1/h` away from the next whole number, which a correctly rounded division can't bridge.

A 1 x 5000 strip cropped to 512 x 512 is resized to 512 x 2 560 000 on paper. Only `window` of it is ever computed.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from dali_pipes.errors import ConfigError

Fit = Literal["stretch", "crop", "pad"]
Size = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """One picture's way into the output. All pairs are (vertical, horizontal), in pixels.

    The pixel `(y, x)` of the visible part, `0 <= (y, x) < window`, is the pixel `crop + (y, x)` of the picture resized
    to `resized`, and lies at `pad + (y, x)` of the output. Output pixels outside the visible part are 0.
    """

    source: Size
    resized: Size
    size: Size
    crop: Size = (0, 0)
    pad: Size = (0, 0)

    @property
    def window(self) -> Size:
        """Height and width of the visible part."""
        return min(self.resized[0], self.size[0]), min(self.resized[1], self.size[1])


def as_size(size: int | Size) -> Size:
    """Bring a side or a pair to (height, width); raise ConfigError unless both are whole and at least 1."""
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in pair):
        raise ConfigError(f"size is {size!r}; give a whole number of pixels >= 1, or a pair (height, width) of them")
    return pair[0], pair[1]


def geometry(h: int, w: int, size: int | Size, fit: Fit) -> Geometry:
    """Place a picture of `h` x `w` pixels in an output of `size` (a side, or height and width).

    >>> geometry(600, 400, 224, "crop")
    Geometry(source=(600, 400), resized=(336, 224), size=(224, 224), crop=(56, 0), pad=(0, 0))
    >>> geometry(600, 400, 224, "pad")
    Geometry(source=(600, 400), resized=(224, 149), size=(224, 224), crop=(0, 0), pad=(0, 37))

    Raises ConfigError for an empty picture, a bad size, or an unknown fit.
    """
    th, tw = as_size(size)
    if h < 1 or w < 1:
        raise ConfigError(f"a picture of {h} x {w} pixels can't be resized; both sides must be at least 1")
    if fit == "stretch":
        return Geometry((h, w), (th, tw), (th, tw))
    if fit == "crop":
        nh, nw = (th, th * w // h) if th * w >= tw * h else (tw * h // w, tw)
        return Geometry((h, w), (nh, nw), (th, tw), crop=(round((nh - th) / 2), round((nw - tw) / 2)))
    if fit == "pad":
        nh, nw = (th, max(1, th * w // h)) if th * w <= tw * h else (max(1, tw * h // w), tw)
        return Geometry((h, w), (nh, nw), (th, tw), pad=((th - nh) // 2, (tw - nw) // 2))
    raise ConfigError(f"fit is {fit!r}; allowed: {', '.join(get_args(Fit))}")
