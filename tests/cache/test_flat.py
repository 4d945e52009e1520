"""The flat tables act like the dict and set that they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dali_pipes.cache.flat import Places, Slots, Sums

KEYS = st.one_of(st.integers(0, 40).map(lambda n: n.to_bytes(16, "little")), st.binary(min_size=16, max_size=16))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), KEYS, st.integers(0, 1 << 40)),
        st.tuples(st.just("setdefault"), KEYS, st.integers(0, 1 << 40)),
        st.tuples(st.just("delete"), KEYS, st.just(0)),
        st.tuples(st.just("add"), st.lists(KEYS, max_size=120), st.integers(0, 1 << 40)),
    ),
    max_size=30,
)


def words(keys: list[bytes]) -> np.ndarray:
    return np.frombuffer(bytearray(b"".join(keys)), np.uint64).reshape(-1, 2)


@settings(deadline=None, max_examples=200)
@given(steps=STEPS)
def test_places_are_a_dictionary(steps: list[Any]) -> None:
    places, model = Places(), dict[bytes, int]()
    for what, key, value in steps:
        if what == "set":
            places[key] = model[key] = value
        elif what == "setdefault":
            assert places.setdefault(key, value) == model.setdefault(key, value)
        elif what == "delete" and key in model:
            del places[key], model[key]
        elif what == "delete":
            with pytest.raises(KeyError):
                del places[key]
        else:
            had = places.add(words(key), value + np.arange(len(key)))
            for at, each in enumerate(key):
                assert bool(had[at]) == (each in model)
                model.setdefault(each, value + at)
        assert len(places) == len(model)
    assert dict(places.items()) == model
    assert set(places) == set(model)
    asked = [*model, bytes(16), b"\xff" * 16, (3).to_bytes(16, "little")]
    assert places.get_many(asked).tolist() == [model.get(each, -1) for each in asked]
    assert [places.get(each) for each in asked] == [model.get(each) for each in asked]
    assert [each in places for each in asked] == [each in model for each in asked]
    if model:
        low, high = sorted(model.values())[0], sorted(model.values())[-1]
        assert dict(places.between(low, high)) == {k: v for k, v in model.items() if low <= v < high}


@settings(deadline=None, max_examples=100)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["set", "pop", "add"]), st.integers(0, 200), st.binary(min_size=16, max_size=16))
    )
)
def test_sums_are_a_dictionary_and_slots_a_set(steps: list[tuple[str, int, bytes]]) -> None:
    sums, model = Sums(), dict[int, bytes]()
    slots, marks = Slots(), set[int]()
    for what, slot, total in steps:
        if what == "set":
            sums[slot] = model[slot] = total
            slots.add(slot)
            marks.add(slot)
        elif what == "pop":
            assert sums.pop(slot, None) == model.pop(slot, None)
            slots.discard(slot)
            marks.discard(slot)
        else:
            sums.add(np.array([slot, slot + 1], np.uint64), np.frombuffer(total * 2, "V16"))
            model |= {slot: total, slot + 1: total}
        assert len(sums) == len(model)
        assert len(slots) == len(marks)
    assert {slot: sums[slot] for slot in sums} == model
    asked = np.arange(300, dtype=np.uint64)
    assert sums.has(asked).tolist() == [int(each) in model for each in asked]
    assert [sums.get(int(each)) for each in asked] == [model.get(int(each)) for each in asked]
    assert [int(each) in slots for each in asked] == [int(each) in marks for each in asked]
    assert slots.has_all(np.array(sorted(marks), np.int64))
    assert not slots.has_all(np.array([*marks, 300]))


def test_many_entries_take_few_bytes() -> None:
    """At most 48 bytes an entry, with the checksum and the mark of a slot."""
    places, count = Places(), 200_000
    keys = np.frombuffer(bytearray(np.random.default_rng(0).bytes(16 * count)), np.uint64).reshape(-1, 2)
    assert not places.add(keys, np.arange(count)).any()
    held = sum(array.nbytes for array in places._state[:3])
    sums = Sums()
    sums.add(np.arange(1 << 16), np.zeros(1 << 16, "V16"))
    each = held / count + (len(sums._sums) + len(sums._there)) / (1 << 16) + 1
    assert each <= 48
    assert np.array_equal(
        places.get_many([keys[at].tobytes() for at in range(0, count, 999)]), np.arange(0, count, 999)
    )
