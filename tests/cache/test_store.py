"""Opening: names, arguments, messages; the mode that keeps nothing; the public names."""

from __future__ import annotations

from typing import Any

import pytest

from dali_pipes import cache
from dali_pipes.cache import MODES, StoreConfigError, open_store
from tests.cache.conftest import key, value


def test_public_names() -> None:
    assert sorted(cache.__all__) == sorted(
        [
            "DISK_MODES",
            "MODES",
            "PERSISTENT_MODES",
            "CacheError",
            "EntryError",
            "FileState",
            "IntegrityError",
            "Key",
            "PartsLedger",
            "PinnedMapping",
            "SecretError",
            "SingleFlight",
            "SourceIndex",
            "Store",
            "StoreConfigError",
            "StoreIOError",
            "content_digest",
            "default_secret",
            "open_store",
            "push",
            "secret_in",
            "transfer",
            "upkeep",
        ]
    )
    assert MODES == ("none", "memory", "disk", "npy", "tensor-disk", "tensor-memmap", "pinned", "tiered")


def test_none_keeps_nothing() -> None:
    with open_store("none") as store:
        store.put(key(1), value(1))
        assert store.get(key(1)) is None
        assert not store.contains(key(1))
        assert store.keys() == []
        assert store.stats()["misses"] == 1


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode not in ("none", "memory")])
def test_modes_that_persist_need_a_folder(mode: str) -> None:
    with pytest.raises(StoreConfigError, match="directory=, cache_dir="):
        open_store(mode)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "ram"}, "no cache mode 'ram': choose one of none, memory, disk"),
        ({"memory_bytes": 0}, "memory_bytes=0: give a positive number"),
        ({"disk_bytes": 1.5}, "disk_bytes=1.5: give a positive number"),
        ({"verify": "sometimes"}, "allowed are 'always', 'first' and 'never'"),
        ({"secret": b"short"}, "secret has 5 bytes; 16 to 64 are allowed"),
        ({"mode": "pinned", "shared_group": "no such group"}, "no such group on this machine"),
    ],
)
def test_messages(arguments: dict[str, Any], message: str, tmp_path: Any) -> None:
    with pytest.raises(StoreConfigError, match=message):
        open_store(**{"mode": "memory", "directory": tmp_path, **arguments})


def test_options_never_show_the_secret() -> None:
    assert "kkkk" not in repr(open_store("none", secret=b"k" * 32).options)  # type: ignore[attr-defined]
