"""Records and their check."""

from __future__ import annotations

import os

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cache.journal import is_journal, seal, valid

DTYPE = np.dtype("V64")


def check(data: bytes) -> list[bool]:
    return valid(np.frombuffer(data, DTYPE)).tolist()


@given(st.binary(min_size=56, max_size=56))
def test_a_sealed_record_is_valid(body: bytes) -> None:
    assert check(seal(body)) == [True]


@given(st.binary(min_size=56, max_size=56), st.integers(0, 511))
def test_one_flipped_bit_is_found(body: bytes, bit: int) -> None:
    record = bytearray(seal(body))
    record[bit // 8] ^= 1 << bit % 8
    assert check(bytes(record)) == [False]


def test_zeros_ones_and_noise_are_not_records() -> None:
    assert not any(check(bytes(64) + b"\xff" * 64 + os.urandom(64 * 1000)))


def test_names() -> None:
    assert is_journal("0123456789abcdef.idx", ".idx")
    for name in ("0123456789abcdeF.idx", "0123456789abcdef.del", "123456789abcdef.idx", "notes.idx", ".idx"):
        assert not is_journal(name, ".idx")
