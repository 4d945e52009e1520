"""What is page-locked, how much of it, and with which device current."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dali_pipes import cache
from dali_pipes.backends import create, lock_pages
from dali_pipes.backends.locking import VARIABLE, budget_bytes
from dali_pipes.errors import ConfigError
from dali_pipes.recipe import Recipe


class Locking:
    """A store, and a backend on the device 1, that note what is asked of them."""

    reads_in_place = True

    def __init__(self) -> None:
        self.device = 0
        self.asked: list[tuple[int, int | None]] = []

    @contextmanager
    def there(self) -> Iterator[None]:
        self.device = 1
        yield
        self.device = 0

    def page_lock(self, budget_bytes: int | None = None) -> int:
        self.asked.append((self.device, budget_bytes))
        return 5


def test_pages_are_locked_on_the_backends_device_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "12345")
    both: Any = Locking()
    assert lock_pages(both, both) == 5
    assert both.asked == [(1, 12345)], "registering makes a context on the current device: that of another rank"


def test_nothing_is_locked_where_it_does_not_pay(tmp_path: Path) -> None:
    store: Any = Locking()
    for name in ("torch", "dali-cpu"):
        backend = create(name, Recipe(8), batch_size=2, threads=1, decode=False)
        assert lock_pages(backend, store) == 0
        backend.close()
    assert store.asked == []
    both: Any = Locking()
    both.reads_in_place = False
    assert lock_pages(both, store) == 0
    assert store.asked == []


@pytest.mark.parametrize("mode", [mode for mode in cache.MODES if mode != "none"])
def test_every_store_takes_the_budget(mode: str, tmp_path: Path) -> None:
    """Without CUDA nothing is locked; `tiered` asks what lies under it."""
    with cache.open_store(mode, None if mode == "memory" else tmp_path) as store:
        assert lock_pages(Locking(), store) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("files", "group"),
    [
        ({}, None),
        ({"memory.max": "max\n"}, None),
        ({"memory.max": "4000000\n"}, 4000000),
        ({"memory/memory.limit_in_bytes": "800000\n"}, 800000),
    ],
)
def test_a_quarter_of_the_memory_by_default(
    files: dict[str, str], group: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 10000}.__getitem__)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert budget_bytes(tmp_path) == (40960000 if group is None else group) // 4


def test_a_budget_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "8 GiB")
    with pytest.raises(ConfigError, match=f"{VARIABLE}='8 GiB': give a number of bytes; 0 locks nothing"):
        budget_bytes()
    monkeypatch.setenv(VARIABLE, "0")
    assert budget_bytes() == 0
