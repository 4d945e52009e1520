"""A window that is moved: the same as the window that lies there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dali_pipes import FixedWindow, PercentileWindow, VOIWindow
from dali_pipes.decode import apply_window

PIXELS = np.random.default_rng(0).integers(0, 4096, (1, 30, 40)).astype(np.uint16)
TOLD: dict[str, Any] = {"windowed": True, "offset": -1000, "slope": 2.0, "intercept": 5.0, "span": [-2000.0, 6000.0]}


@pytest.mark.parametrize("function", ["linear", "linear_exact", "sigmoid"])
@pytest.mark.parametrize("jitter", [(0.0, 1.0), (0.25, 1.0), (-0.5, 1.5), (0.1, 0.25)])
def test_a_fixed_window_lies_elsewhere(function: Any, jitter: tuple[float, float]) -> None:
    moved = FixedWindow(700 + jitter[0] * 2000, 2000 * jitter[1], function)
    found = apply_window(PIXELS, TOLD, FixedWindow(700, 2000, function), jitter)
    assert np.array_equal(found, apply_window(PIXELS, TOLD, moved))


def test_a_files_window_moves_too() -> None:
    told = {**TOLD, "windows": [[500.0, 1000.0]]}
    found = apply_window(PIXELS, told, VOIWindow(), (0.5, 2.0))
    assert np.array_equal(found, apply_window(PIXELS, told, FixedWindow(1000, 2000)))


@pytest.mark.parametrize("window", [PercentileWindow(5, 95), None])
def test_a_range_moves(window: Any) -> None:
    still, moved, wide = (apply_window(PIXELS, TOLD, window, j) for j in ((0.0, 1.0), (0.25, 1.0), (0.0, 4.0)))
    assert np.array_equal(still, apply_window(PIXELS, TOLD, window))
    inside = (still > 70) & (still < 250)
    assert np.abs(still[inside].astype(int) - moved[inside] - 64).max() <= 1
    middle = (still > 5) & (still < 250)
    assert np.abs((still[middle] - 127.5) / 4 - (wide[middle] - 127.5)).max() <= 1


def test_a_look_up_table_moves() -> None:
    lut = {"first": 0, "entries": list(range(1000)), "top": 999}
    told = {**TOLD, "luts": [lut]}
    still, moved = (apply_window(PIXELS, told, VOIWindow(), j) for j in ((0.0, 1.0), (0.5, 1.0)))
    inside = (still > 140) & (still < 250)
    assert inside.any()
    assert np.abs(still[inside].astype(int) - moved[inside] - 127.5).max() <= 1.5
