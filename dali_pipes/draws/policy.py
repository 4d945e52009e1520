"""TrivialAugmentWide (Müller and Hutter, ICCV 2021): one operation a sample, of a strength drawn from its range.

Ranges are those of the paper's wide space, as torchvision's `TrivialAugmentWide` has them: 31 strengths, each as
likely, and a sign for those that go either way. Of its fourteen operations equalize is not among ours and is left out.
Where an operation means something of its own here, ours holds: contrast is about the middle of the range of values, not
about the picture's mean; moves are parts of the sides (32 of 224 pixels at most).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from dali_pipes.draws.draw import Draws

STRENGTHS = 31

OPERATIONS: tuple[tuple[str, float], ...] = (
    ("nothing", 0.0),
    ("shear_x", 44.7117),  # degrees whose tangent is 0.99
    ("shear_y", 44.7117),
    ("shift_x", 32 / 224),
    ("shift_y", 32 / 224),
    ("angle", 135.0),
    ("brightness", 0.99),
    ("saturation", 0.99),
    ("contrast", 0.99),
    ("sharpness", 0.99),
    ("posterize", 6.0),
    ("solarize", 1.0),
    ("autocontrast", 0.0),
)
"""What may be drawn: the number of `Draws`, and its size at the largest strength."""

_ABOUT_ONE = ("brightness", "saturation", "contrast", "sharpness")
_ONE_WAY = ("posterize", "solarize")


def trivial(draws: Draws, uniform: Callable[[str], npt.NDArray[np.float64]]) -> Draws:
    """Return the draws with one operation's numbers replaced for each of N samples.

    Args:
        draws: of what the policy does not decide.
        uniform: float64[N] in [0, 1) by name.
    """
    which = (uniform("operation of the policy") * len(OPERATIONS)).astype(np.int64)
    strength = (uniform("strength of the policy") * STRENGTHS).astype(np.int64) / (STRENGTHS - 1)
    sign = np.where(uniform("sign of the policy") < 0.5, -1.0, 1.0)
    changed: dict[str, npt.NDArray[np.float64] | npt.NDArray[np.int64] | npt.NDArray[np.bool_]] = {}
    for number, (name, most) in enumerate(OPERATIONS):
        chosen = which == number
        size = strength * most * (1.0 if name in _ONE_WAY else sign)
        if name == "autocontrast":
            changed[name] = chosen
        elif name == "posterize":
            changed[name] = np.where(chosen, np.rint(size), 0.0).astype(np.int64)
        elif name != "nothing":
            changed[name] = np.where(chosen, size, 0.0) + (1.0 if name in _ABOUT_ONE else 0.0)
    return replace(draws, **changed)  # type: ignore[arg-type]
