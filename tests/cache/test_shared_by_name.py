"""Memory that processes share by a name: one copy, removed by the last of them, and by the next run after a kill."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dali_pipes.cache import StoreConfigError, StoreIOError, named, open_store
from dali_pipes.cache.files import Folder
from dali_pipes.cache.named import NamedMemoryStore, place_of, sweep_named
from tests.cache.conftest import key, value

ENTRY = value(1)

MEMBER = """
import os, sys
from dali_pipes.cache import open_store
from tests.cache.conftest import key, value
store = open_store("memory", shared=sys.argv[1], strict=True)
store.put(key(2), value(2))
print(int(store.get(key(1)) is not None), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def name(tmp_path: Path) -> str:
    """No other test's."""
    return str(tmp_path)


def member(name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MEMBER, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.communicate("\n", timeout=60)
    assert process.returncode == 0


def there(name: str) -> list[bool]:
    return [os.path.exists(place_of(name) + suffix) for suffix in ("", ".lock")]


def test_processes_that_give_one_name_share_one_copy_until_the_last_ends(name: str) -> None:
    first = member(name)
    assert line(first) == "0"
    mine = open_store("memory", shared=name, strict=True)
    assert isinstance(mine, NamedMemoryStore)
    assert np.array_equal(mine.get(key(2)), value(2))  # type: ignore[arg-type]
    mine.put(key(1), ENTRY)
    second = member(name)
    assert line(second) == "1"
    end(first)
    held = mine.get(key(1))
    mine.close()
    assert there(name) == [True, True], "the second still uses it"
    end(second)
    assert there(name) == [False, False]
    assert np.array_equal(held, ENTRY)  # type: ignore[arg-type]


def test_other_names_are_other_memory(name: str) -> None:
    with open_store("memory", shared=name) as one, open_store("memory", shared=name + "2") as two:
        one.put(key(1), ENTRY)
        assert two.get(key(1)) is None
    assert there(name) == there(name + "2") == [False, False]


def test_what_killed_processes_left_is_reclaimed_by_the_next_run(name: str) -> None:
    killed = [member(name), member(name)]
    for process in killed:
        line(process)
    killed[0].kill()
    killed[0].wait()
    assert sweep_named() == 0, "one is left"
    killed[1].kill()
    killed[1].wait()
    for process in killed:
        process.communicate()
    assert there(name) == [True, True]
    with open_store("memory", shared=name + " of another run"):
        assert there(name) == [False, False]


def test_an_unnamed_store_reclaims_it_too(name: str) -> None:
    killed = member(name)
    line(killed)
    killed.kill()
    killed.communicate()
    with open_store("memory", shared=True):
        assert there(name) == [False, False]


def test_workers_of_a_member(name: str) -> None:
    """Forked ones are no members; one that is handed the store becomes one."""
    mine = open_store("memory", shared=name, strict=True)
    mine.put(key(1), ENTRY)
    child = os.fork()
    if not child:
        found = mine.get(key(1))
        mine.close()
        os._exit(0 if found is not None and there(name) == [True, True] else 1)
    assert os.waitpid(child, 0)[1] == 0
    code = (
        "import pickle, sys; from tests.cache.conftest import key; store = pickle.loads(sys.stdin.buffer.read()); "
        "sys.exit(store.get(key(1)) is None)"
    )
    subprocess.run([sys.executable, "-c", code], input=pickle.dumps(mine), check=True, timeout=60)
    assert np.array_equal(mine.get(key(1)), ENTRY)  # type: ignore[arg-type]
    mine.close()
    assert there(name) == [False, False]


def test_a_forked_worker_that_lives_on_keeps_nothing(name: str) -> None:
    mine = open_store("memory", shared=name)
    mine.put(key(1), ENTRY)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    mine.close()
    assert there(name) == [False, False]
    os.close(write)
    os.waitpid(child, 0)


def test_its_budget_is_one_for_all(name: str) -> None:
    with (
        open_store("memory", shared=name, memory_bytes=1 << 20) as one,
        open_store("memory", shared=name, memory_bytes=1 << 20) as two,
    ):
        for number in range(40):
            (one, two)[number % 2].put(key(number), value(number, (60_000,)))
            assert one.stats()["bytes"] <= 1 << 20


def test_what_another_user_made_is_not_used(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(named, "PLACE", str(tmp_path))

    def refused(why: str) -> None:
        with pytest.raises(StoreIOError, match=why):
            open_store("memory", shared=name, strict=True)
        caplog.clear()
        store = open_store("memory", shared=name)
        assert not isinstance(store, NamedMemoryStore)
        assert "keeps a copy of its own" in caplog.text

    os.symlink(tmp_path, place_of(name) + ".lock")
    refused("symbolic")
    os.unlink(place_of(name) + ".lock")
    Path(place_of(name)).touch()
    refused("not a cache of ours")
    os.unlink(place_of(name))
    monkeypatch.setattr(os, "getuid", lambda: 12_345)
    refused("another user's")


def test_its_folder_is_made_before_it_is_checked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else another user could make it in between."""
    checked = named._check_ours
    found: list[int] = []

    def check(place: Folder, folder: str) -> None:
        found.append(os.stat(place_of(name)).st_mode & 0o777)
        checked(place, folder)

    monkeypatch.setattr(named, "_check_ours", check)
    open_store("memory", shared=name, strict=True).close()
    assert found == [0o700]
    assert there(name) == [False, False]


@pytest.mark.parametrize("mode", ["memory", "none"])
def test_a_folder_that_nothing_would_lie_in_is_refused(mode: str, tmp_path: Path) -> None:
    with pytest.raises(StoreConfigError, match=f"cache mode '{mode}' keeps nothing in a folder"):
        open_store(mode, tmp_path / "cache")
