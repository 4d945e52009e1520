"""Page-locking with a stand-in for CUDA's runtime, and without one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cache.pin
from cache import PinnedMapping
from tests.cache.conftest import key, value


class Runtime:
    """Keeps what was asked; ``refuse`` holds the flags that it does not take."""

    class CUDARuntimeError(RuntimeError):
        pass

    def __init__(self, refuse: tuple[int, ...] = ()) -> None:
        self.refuse, self.calls = refuse, []

    def hostRegister(self, address: int, length: int, flags: int) -> None:
        self.calls.append(("register", address, length, flags))
        if flags in self.refuse:
            raise self.CUDARuntimeError("cudaErrorNotSupported")

    def hostUnregister(self, address: int) -> None:
        self.calls.append(("unregister", address))


@pytest.mark.parametrize(("refuse", "flags"), [((), [8]), ((8,), [8, 0])])
def test_registers_whole_pages_and_gives_them_back(monkeypatch: Any, refuse: tuple[int, ...], flags: list[int]) -> None:
    runtime = Runtime(refuse)
    monkeypatch.setattr(cache.pin, "_runtime", lambda: runtime)
    array = np.zeros(10_000, np.uint8)
    with PinnedMapping(array) as pinned:
        assert pinned.active
    assert not pinned.active
    *registered, (last, address) = runtime.calls
    assert [call[3] for call in registered] == flags
    start, length = registered[0][1:3]
    assert (last, address) == ("unregister", start)
    assert start % 4096 == length % 4096 == 0
    assert start <= array.ctypes.data < array.ctypes.data + array.nbytes <= start + length
    pinned.close()
    assert len(runtime.calls) == len(flags) + 1


def test_a_refusal_is_no_error(monkeypatch: Any, caplog: Any) -> None:
    monkeypatch.setattr(cache.pin, "_runtime", lambda: Runtime((0, 8)))
    caplog.set_level("INFO")
    with PinnedMapping(np.zeros(5)) as pinned:
        assert not pinned.active
    assert "cudaErrorNotSupported" in caplog.text


def test_without_cuda(monkeypatch: Any) -> None:
    monkeypatch.setattr(cache.pin, "_runtime", lambda: None)
    with PinnedMapping(np.zeros(5)) as pinned:
        assert not pinned.active
        assert "missing" in pinned.reason


def test_a_packed_store_locks_what_is_published(monkeypatch: Any, tmp_path: Any) -> None:
    runtime = Runtime()
    monkeypatch.setattr(cache.pin, "_runtime", lambda: runtime)
    with cache.open_store("pinned", tmp_path) as store:
        for number in range(3):
            store.put(key(number), value(number, (3, 64, 64)))
        store.put(key(3), value(3, (1, 64, 64)))
        locked = store.page_lock()  # type: ignore[attr-defined]
        assert locked == (3 * 3 + 1) * 64 * 64
        assert store.page_lock() == locked  # type: ignore[attr-defined]
        assert [call[0] for call in runtime.calls] == ["register"] * 2
        assert np.array_equal(store.get(key(1)), value(1, (3, 64, 64)))  # type: ignore[arg-type]
    assert [call[0] for call in runtime.calls] == ["register"] * 2 + ["unregister"] * 2
    monkeypatch.setattr(cache.pin, "_runtime", lambda: None)
    with cache.open_store("pinned", tmp_path) as store:
        assert store.page_lock() == 0  # type: ignore[attr-defined]
