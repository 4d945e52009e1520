"""Resizing a part of planes: PyTorch's antialiased resize of that part, bit for bit, with and without the fast path."""

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from arithmetic_pictures import depths, modes, noise, seeds
from hypothesis import given, settings
from hypothesis import strategies as st

from dali_pipes.arithmetic import planes
from dali_pipes.arithmetic.integer import resize
from dali_pipes.arithmetic.planes import planes_are_exact, resize_part
from dali_pipes.arithmetic.tables import Interpolation

sides = st.integers(1, 60)


@settings(max_examples=200)
@given(seeds, sides, sides, st.sampled_from([1, 3, 4]), depths, sides, sides, modes, st.data())
def test_a_part_is_the_reference(
    seed: int, h: int, w: int, channels: int, depth: int, nh: int, nw: int, mode: Interpolation, data: st.DataObject
) -> None:
    image = np.ascontiguousarray(noise(seed, h, w, channels, depth).transpose(2, 0, 1))
    image.setflags(write=False)
    height, width = data.draw(st.integers(1, h)), data.draw(st.integers(1, w))
    top, left = data.draw(st.integers(0, h - height)), data.draw(st.integers(0, w - width))
    part = torch.from_numpy(image[:, top : top + height, left : left + width].copy())
    found = resize_part(image, (top, left, height, width), (nh, nw), mode)
    assert np.array_equal(found, resize(part, (nh, nw), mode).numpy())
    if depth == 8 and nw > 1:  # what users check it against
        by_torch = F.interpolate(part[None], (nh, nw), mode=mode, antialias=True)[0]
        assert np.array_equal(found, by_torch.numpy())


def test_the_fast_path_is_taken_here() -> None:
    assert planes_are_exact()


def test_without_it_integer_loops_serve(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    image = np.ascontiguousarray(noise(5, 40, 30).transpose(2, 0, 1))
    expected = resize_part(image, (3, 4, 30, 20), (17, 19))
    planes._self_check.cache_clear()
    monkeypatch.setattr(planes, "_interpolate", lambda part, size, mode: np.zeros((len(part), *size), np.uint8))
    try:
        with caplog.at_level(logging.WARNING):
            assert np.array_equal(resize_part(image, (3, 4, 30, 20), (17, 19)), expected)
        assert "does not give the pixel contract's bits for planes here" in caplog.text
    finally:
        planes._self_check.cache_clear()
