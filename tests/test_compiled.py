"""The compiled passes give the bits of their twins in NumPy, whatever the types, sizes, flips and places in memory."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dali_pipes as dp
from dali_pipes import compiled
from dali_pipes.arithmetic import copy_into, normalisation, normalise_into
from dali_pipes.arithmetic.affine import FRACTION, warp
from dali_pipes.arithmetic.colour import colour_maps, mix, recolour
from dali_pipes.cli import doctor
from dali_pipes.compiled import vary
from dali_pipes.decode.histogram import COUNTED_FROM, counts_of, look_up
from dali_pipes.draws import draw
from dali_pipes.finish.finish import Finish

ROOT = Path(__file__).parent.parent
SIZES = st.tuples(st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 70) | st.integers(1000, 1100))
KINDS = st.sampled_from([np.uint8, np.uint16])


@pytest.fixture
def without() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(compiled.SWITCH, "0")
        yield


def pictures(seed: int, kind: Any, size: tuple[int, int, int], count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, np.iinfo(kind).max + 1, size).astype(kind) for _ in range(count)]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), KINDS, SIZES, st.integers(1, 4))
def test_copies(passes: ctypes.CDLL, seed: int, kind: Any, size: tuple[int, int, int], count: int) -> None:
    images = pictures(seed, kind, size, count)
    at = np.random.default_rng(seed).permutation(count + 2)[:count].tolist()
    flips = np.random.default_rng(seed).integers(0, 4, count).astype(np.uint8)
    out = np.full((count + 2, *size), 7, kind)
    assert compiled.takes(out, images)
    compiled.copy_pictures(passes, out, at, images, flips)
    wanted = np.full_like(out, 7)
    for i, image, flip in zip(at, images, flips):
        copy_into(wanted[i], image, bool(flip & 1), bool(flip & 2))
    np.testing.assert_array_equal(out, wanted)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), KINDS, SIZES, st.integers(1, 4))
def test_normalises(passes: ctypes.CDLL, seed: int, kind: Any, size: tuple[int, int, int], count: int) -> None:
    rng = np.random.default_rng(seed)
    images = pictures(seed, kind, size, count)
    m, inv = normalisation(rng.random(size[0]), rng.uniform(0.01, 1, size[0]), float(np.iinfo(kind).max))
    at, flips = rng.permutation(count).tolist(), rng.integers(0, 4, count).astype(np.uint8)
    out, wanted = np.empty((count, *size), np.float32), np.empty((count, *size), np.float32)
    compiled.normalise_pictures(passes, out, at, images, flips, m, inv)
    for i, image, flip in zip(at, images, flips):
        normalise_into(wanted[i], image, m, inv, bool(flip & 1), bool(flip & 2))
    assert out.tobytes() == wanted.tobytes()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), KINDS, st.integers(0, 3000), st.integers(1, 65536))
def test_counts_and_looks_up(passes: ctypes.CDLL, seed: int, kind: Any, count: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    size = min(size, int(np.iinfo(kind).max) + 1)
    codes = rng.integers(0, size, count).astype(kind)
    counted = compiled.count_codes(passes, codes)
    np.testing.assert_array_equal(counted, np.bincount(codes, minlength=np.iinfo(kind).max + 1))
    for entry in (np.uint8, np.uint16):
        table = rng.integers(0, np.iinfo(entry).max + 1, size).astype(entry)
        out = np.empty(count, entry)
        compiled.look_up_codes(passes, table, codes, out)
        np.testing.assert_array_equal(out, table[codes])


def test_codes_beyond_the_table_read_nothing_else(passes: ctypes.CDLL) -> None:
    codes = np.arange(65536, dtype=np.uint16)
    table, out = np.arange(10, dtype=np.uint8), np.empty(65536, np.uint8)
    compiled.look_up_codes(passes, table, codes, out)
    np.testing.assert_array_equal(out, np.minimum(codes, 9))


def test_decoding_takes_them(passes: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4096, (COUNTED_FROM // 64, 70)).astype(np.uint16)
    table = rng.integers(0, 256, 4096).astype(np.uint8)
    for given_codes in (codes, codes[:, ::2], codes.T):
        monkeypatch.setattr(compiled, "_load", lambda: passes)
        fast = counts_of(given_codes, 4096), look_up(table, given_codes)
        monkeypatch.setattr(compiled, "_load", lambda: None)
        slow = counts_of(given_codes, 4096), look_up(table, given_codes)
        for one, other in zip(fast, slow):
            np.testing.assert_array_equal(one, other)
    for library in (passes, None):
        monkeypatch.setattr(compiled, "_load", lambda library=library: library)
        with pytest.raises(ValueError, match=r"."):
            counts_of(codes, 4000)


@pytest.mark.parametrize("parts", [{}, {"depth": 16, "window": None}, {"channels": 1}], ids=str)
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize(
    "augment",
    [
        None,
        dp.Augment(0.5, 0.5),
        dp.Augment(0.5, 0.5, 30, brightness=0.3),
        dp.Augment(0.5, 0.5, 30, quarter_turns=0.1, brightness=0.3, gamma=0.2),
    ],
)
def test_batches_are_the_same_with_and_without(
    passes: ctypes.CDLL, parts: dict[str, Any], normalised: bool, augment: dp.Augment | None, monkeypatch: Any
) -> None:
    recipe = dp.Recipe((12, 17), augment=augment, **parts, **({"mean": 0.4, "std": 0.2} if normalised else {}))
    finish = Finish(recipe)
    kind = np.uint16 if parts.get("depth") == 16 else np.uint8
    images = pictures(1, kind, finish.base_shape, 9)
    changes = finish.changes(draw(augment, 3, 1, np.arange(9)))
    found = []
    for library in (passes, None):
        monkeypatch.setattr(compiled, "_load", lambda library=library: library)
        out = np.zeros((9, *finish.shape), np.float32 if normalised else kind)
        with pytest.MonkeyPatch.context() as patch:
            slow = mock.Mock(side_effect=finish._place)
            patch.setattr(finish, "_place", slow)
            finish.write_all(out, images, changes, [0, 2, 3, 5, 8])
        found.append(out.tobytes())
        assert slow.called == (library is None)
    assert found[0] == found[1]


def test_what_they_do_not_take() -> None:
    images = pictures(0, np.uint8, (3, 4, 5), 2)
    out = np.empty((2, 3, 4, 5), np.float32)
    assert compiled.takes(out, images)
    assert not compiled.takes(out, [])
    assert not compiled.takes(out, [images[0], images[1][:, ::-1]])
    assert not compiled.takes(out, [images[0], images[1].astype(np.uint16)])
    assert not compiled.takes(out, [images[0], images[1][:, :3]])
    assert not compiled.takes(out.astype(np.float16), images)
    assert not compiled.takes(out[:, :, ::2], images)
    assert not compiled.takes(out.astype(np.uint16), images)


@pytest.mark.usefixtures("without")
def test_they_can_be_switched_off() -> None:
    assert compiled.library() is None


def test_this_interpreters_library_comes_first_then_the_newest(tmp_path: Path) -> None:
    """One that was left by another version of Python may be of older sources."""
    own = f"_passes{sysconfig.get_config_var('EXT_SUFFIX')}"
    for age, name in ((1, "_passes.cpython-30-left.so"), (3, own), (2, "_passes.cpython-31-left.so")):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    found = [path.name for path in compiled.candidates(tmp_path)]
    assert found == [own, "_passes.cpython-30-left.so", "_passes.cpython-31-left.so"]


def test_doctor_tells_of_a_library_of_older_sources(
    passes: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = ROOT / "dali_pipes" / "compiled" / "passes.c", tmp_path / "passes.so"
    compiler = shutil.which("cc") or shutil.which("gcc") or pytest.fail("these tests need a C compiler: install gcc")
    subprocess.run([compiler, "-std=c11", "-shared", "-fPIC", str(source), "-o", str(target)], check=True)
    told = []
    for library in (passes, ctypes.CDLL(str(target)), None):
        monkeypatch.setattr(compiled, "_load", lambda library=library: library)
        told.append(doctor._passes())
    assert told[0] == "compiled"
    assert told[1].startswith("compiled from older sources: dp_begin, dp_mix_u8, dp_warp_u8 are missing")
    assert told[2].startswith("NumPy's")


MAPS = st.tuples(*[st.integers(-(3 << FRACTION), 3 << FRACTION)] * 2, st.integers(-(40 << FRACTION), 90 << FRACTION))


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    KINDS,
    st.tuples(st.integers(1, 4), st.integers(1, 60), st.integers(1, 60)),
    st.tuples(st.integers(1, 20), st.integers(1, 40) | st.integers(250, 530)),
    st.tuples(MAPS, MAPS) | st.just(((1 << FRACTION, 0, 0), (0, 1 << FRACTION, 0))),
    st.integers(0, 3),
)
def test_warps(
    passes: ctypes.CDLL, seed: int, kind: Any, size: Any, goal: tuple[int, int], by: Any, doublings: int
) -> None:
    """Inside, at edges and outside of pictures of any size, to results of any size, down to one pixel."""
    image = pictures(seed, kind, size, 1)[0]
    coefficients = np.array(by, np.int64).reshape(6)
    found = []
    for library in (passes, None):
        with mock.patch.object(compiled, "_load", lambda library=library: library):
            found += [warp(each, coefficients, goal, doublings) for each in (image, np.asfortranarray(image))]
    for each in found[:-1]:
        assert each.dtype == kind
        np.testing.assert_array_equal(each, found[-1])


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), KINDS, SIZES, st.integers(0, 6))
def test_recolours(passes: ctypes.CDLL, seed: int, kind: Any, size: tuple[int, int, int], wild: int) -> None:
    """Also with the largest factors, whose sums are the longest."""
    rng = np.random.default_rng(seed)
    image = pictures(seed, kind, size, 1)[0]
    factors = rng.uniform(0, 10, 3) if wild > 3 else rng.uniform(0.5, 1.5, 3)
    hue = rng.uniform(-180, 180)
    full_scale = int(np.iinfo(kind).max)
    by = colour_maps(size[0], full_scale, *(np.array([value]) for value in (*factors, hue)))[0]
    with mock.patch.object(compiled, "_load", return_value=passes):
        found = recolour(image[:, ::-1], by)
    wanted = np.empty_like(image)
    mix(image[:, ::-1], by, wanted)
    np.testing.assert_array_equal(found, wanted)


def test_an_older_build_is_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_load", object)
    assert vary.passes() is None
    image = pictures(0, np.uint8, (3, 5, 6), 1)[0]
    still = np.array([1 << FRACTION, 0, 0, 0, 1 << FRACTION, 0], np.int64)
    np.testing.assert_array_equal(warp(image, still), image)
