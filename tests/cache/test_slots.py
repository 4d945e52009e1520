"""What the index learns from journals is the same, in whatever pieces it is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dali_pipes.cache import slots
from dali_pipes.cache.files import Folder
from dali_pipes.cache.segment_journal import RECORD, entry_record, entry_records, header_record, sealed_record
from dali_pipes.cache.slots import SlotIndex

TOKENS = [f"{number:016x}" for number in (3, 1 << 40, 7)]
SAID = st.lists(
    st.tuples(st.sampled_from(TOKENS), st.sampled_from([0, 1, 2, 5, 9, 65_535, 65_536]), st.integers(0, 9)), max_size=40
)


def told(said: list[tuple[str, int, int]], token: str) -> np.ndarray:
    """The journal of a segment; one in ten entries is another segment's, by mistake."""
    entries = [
        entry_record(token if number < 9 else TOKENS[0], slot, bytes(15) + bytes([number]), bytes([slot % 251] * 16))
        for whose, slot, number in said
        if whose == token
    ]
    return np.frombuffer(b"".join([header_record(token), *entries, sealed_record(token)]), RECORD)


def known(index: SlotIndex) -> object:
    sums = {token: index.segment(token).sums for token in TOKENS}
    segments = {token: {slot: held[slot] for slot in held} for token, held in sums.items()}
    by_key = {digest: {place & slots.SLOT_MASK for place in index._copies.get(digest, [])} for digest in index.places}
    return segments, by_key, dict(index.places.items()), {token: index.live(token) for token in TOKENS}


@settings(deadline=None, max_examples=150)
@given(said=SAID, at_once=st.sampled_from([0, 3, 1 << 20]))
def test_pieces(said: list[tuple[str, int, int]], at_once: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    whole, apart = SlotIndex(Folder(tmp_path_factory.getbasetemp())), SlotIndex(Folder(tmp_path_factory.getbasetemp()))
    journals = [(token, told(said, token)) for token in TOKENS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slots, "_AT_ONCE", at_once)
        assert whole.learn(iter(journals)) == TOKENS
    for token, records in journals:
        for at in range(len(records)):
            assert apart.learn([(token, records[at : at + 1])]) == ([token] if at == len(records) - 1 else [])
    assert known(whole) == known(apart)


def test_a_journal_that_cannot_be_read_costs_no_entries_of_others(tmp_path: Path) -> None:
    index = SlotIndex(Folder(tmp_path))

    def grown() -> object:
        yield TOKENS[0], told([(TOKENS[0], 0, 1)], TOKENS[0])
        raise OSError("no handles left")

    with pytest.raises(OSError, match="no handles left"):
        index.learn(grown())  # type: ignore[arg-type]
    assert list(index.places) == [bytes(15) + b"\1"]


@given(count=st.integers(1, 5), token=st.sampled_from(TOKENS), first=st.integers(0, 65_000))
def test_records_of_many_entries_are_those_of_each(count: int, token: str, first: int) -> None:
    digests, totals = ([bytes([at + more] * 16) for at in range(count)] for more in (3, 99))
    slots_of_them = range(first, first + count)
    each = b"".join(map(entry_record, [token] * count, slots_of_them, digests, totals))
    assert entry_records(token, slots_of_them, digests, totals).tobytes() == each
