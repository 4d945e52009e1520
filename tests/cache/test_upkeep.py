"""stats, verify, gc, purge and explain: what they count, and above all what they leave alone."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dali_pipes.cache import (
    DISK_MODES,
    EntryError,
    FileState,
    Key,
    PartsLedger,
    SourceIndex,
    StoreConfigError,
    open_store,
    upkeep,
)
from dali_pipes.cache import parts as ledger_module
from dali_pipes.cache.contents import remove_cache
from dali_pipes.cache.journal import seal
from tests.cache.conftest import key, value

SECRET = b"s" * 32


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A cache with three entries in every disk mode, source files and noted parts, and a file of the user's."""
    for mode in DISK_MODES:
        with open_store(mode, tmp_path) as store:
            for number in range(3):
                store.put(key(number), value(number))
    SourceIndex(tmp_path, secret=SECRET).record("a", FileState(1, 1, 1, 1), bytes(16))
    PartsLedger(tmp_path, secret=SECRET).note(key(1), {"source": b"a", "size": 512})
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "npy" / "mine.npy").write_text("mine")
    return tmp_path


def damage(directory: Path, mode: str, number: int) -> None:
    file = next((directory / mode).rglob(f"{key(number).hex}*"))
    file.write_bytes(file.read_bytes()[:-1] + b"!")


def tree(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_stats(full: Path) -> None:
    found = upkeep.stats(full)
    json.dumps(found)
    assert found["entries"] == 15
    assert set(found["modes"]) == set(DISK_MODES)
    assert all(mode["entries"] == 3 and mode["bytes"] > 0 for mode in found["modes"].values())
    assert (found["sources"], found["quarantined"], found["unknown"]) == (1, 0, 2)


def test_verify_changes_nothing_unless_told(full: Path) -> None:
    damage(full, "npy", 1)
    damage(full, "disk", 2)
    before, seen = tree(full), []
    found = upkeep.verify(full, progress=lambda done, total: seen.append((done, total)))
    json.dumps(found)
    assert (found["entries"], found["corrupt"], found["orphans"], found["errors"]) == (13, 2, 0, 0)
    assert sorted(found["keys"]) == sorted([key(1).hex, key(2).hex])
    assert seen == [(done, 15) for done in range(1, 16)]
    assert tree(full) == before
    assert upkeep.verify(full, repair=True)["corrupt"] == 2
    again = upkeep.verify(full)
    assert (again["entries"], again["corrupt"]) == (13, 0)
    assert upkeep.stats(full)["quarantined"] == 2


def test_verify_does_not_count_what_is_removed_meanwhile(full: Path) -> None:
    opened = [open_store(mode, full) for mode in DISK_MODES]

    def remove(done: int, _total: int) -> None:
        if done == 1:
            assert sum(store.delete(key(number)) for store in opened for number in range(3)) == 15

    found = upkeep.verify(full, progress=remove)
    assert (found["entries"], found["corrupt"], found["errors"], found["keys"]) == (1, 0, 0, [])


def test_upkeep_of_a_groups_cache_leaves_it_readable_to_the_group(tmp_path: Path) -> None:
    for number in range(6):
        with open_store("pinned", tmp_path, shared_group=os.getgid()) as store:
            store.put(key(number), value(number))
            store.put(key(100 + number), value(number))
    before = set(tree(tmp_path))
    upkeep.purge(tmp_path, [key(0)], dry_run=False)
    assert upkeep.gc(tmp_path)["merged"] > 0
    upkeep.purge(tmp_path, [key(1)], dry_run=False)
    made = set(tree(tmp_path)) - before
    assert {Path(name).suffix for name in made} == {".npy", ".idx", ".del"}
    assert {oct((tmp_path / name).stat().st_mode & 0o777) for name in made} == {"0o660"}


def test_gc(full: Path) -> None:
    damage(full, "npy", 1)
    upkeep.verify(full, repair=True)
    from dali_pipes.cache.owner import Owner, me

    dead = Owner(me().host, 2**22 + 5, 1)
    (full / "npy" / f".{dead}.{'0' * 16}.tmp").write_bytes(bytes(5000))
    assert upkeep.verify(full)["orphans"] == 1
    before = tree(full)
    dry = upkeep.gc(full, dry_run=True)
    assert tree(full) == before
    done = upkeep.gc(full)
    assert (
        (done["orphans"], done["quarantined"], done["evicted"]) == (dry["orphans"], dry["quarantined"], 0) == (1, 1, 0)
    )
    assert done["freed"] > 0
    assert upkeep.stats(full)["entries"] == 14
    shrunk = upkeep.gc(full, disk_bytes=8192)
    assert shrunk["evicted"] >= 5
    assert upkeep.stats(full)["modes"]["npy"]["bytes"] <= 8192
    assert (full / "notes.txt").read_text() == (full / "npy" / "mine.npy").read_text() == "mine"


def test_purge_is_a_dry_run_unless_told(full: Path) -> None:
    before = tree(full)
    dry = upkeep.purge(full)
    assert dry["dry_run"]
    assert tree(full) == before
    done = upkeep.purge(full, dry_run=False)
    assert (done["files"], done["bytes"], done["unknown"]) == (dry["files"], dry["bytes"], 2)
    assert set(tree(full)) == {"CACHEDIR.TAG", "notes.txt", "npy/mine.npy"}, "what is not ours stays"


def test_purge_of_a_cache_that_holds_nothing_else(tmp_path: Path) -> None:
    for mode in DISK_MODES:
        open_store(mode, tmp_path / "cache").put(key(1), value(1))
    upkeep.purge(tmp_path / "cache", dry_run=False)
    assert set(tree(tmp_path)) == {"cache/CACHEDIR.TAG"}
    remove_cache(str(tmp_path / "cache"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", DISK_MODES)
def test_a_store_goes_on_after_a_purge(tmp_path: Path, mode: str) -> None:
    store = open_store(mode, tmp_path, strict=True)
    store.put(key(1), value(1))
    upkeep.purge(tmp_path, dry_run=False)
    store.put(key(2), value(2))
    assert np.array_equal(store.get(key(2)), value(2))  # type: ignore[arg-type]
    assert upkeep.stats(tmp_path)["entries"] == 1


def test_purge_of_keys(full: Path) -> None:
    assert upkeep.purge(full, [key(1), key(7)])["entries"] == 5
    assert upkeep.purge(full, [key(1), key(7)], dry_run=False)["entries"] == 5
    for mode in DISK_MODES:
        with open_store(mode, full) as store:
            assert set(store.keys()) == {key(0), key(2)}


@pytest.mark.parametrize("tag", [None, b"", b"Signature: 8a477f597d28d172789f06886806bc55\n# made by another\n"])
def test_other_folders_are_refused(tmp_path: Path, tag: bytes | None) -> None:
    (tmp_path / "npy" / "00").mkdir(parents=True)
    precious = tmp_path / "npy" / "00" / f"{'0' * 32}.npy"
    precious.write_text("looks like ours")
    if tag is not None:
        (tmp_path / "CACHEDIR.TAG").write_bytes(tag)
    for action in (upkeep.stats, upkeep.verify, upkeep.gc, lambda path: upkeep.purge(path, dry_run=False)):
        with pytest.raises(StoreConfigError, match="not a cache of dali-pipes"):
            action(tmp_path)
    remove_cache(str(tmp_path))
    assert precious.exists()


def test_purge_does_not_leave_through_a_symbolic_link(full: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    precious = outside / f"{'ab' * 16}.npy"
    precious.write_text("theirs")
    os.symlink(outside, full / "npy" / "ab")
    upkeep.purge(full, dry_run=False)
    assert precious.exists()


def test_explain(full: Path) -> None:
    ledger = PartsLedger(full, secret=SECRET)
    parts = {"source": b"pixels of a", "size": "512x512", "window": "percentile", "decoder": "d 1.0"}
    entry = Key.of(SECRET, **parts)
    assert ledger.explain(parts) == {"noted": 0, "nearest": None, "parts": dict.fromkeys(parts, "unknown")}
    with open_store("npy", full) as store:
        store.put(entry, value(5))
    ledger.note(entry, parts)
    found = upkeep.explain(full, entry, parts, name_secret=SECRET)
    assert found["hit"]
    assert found["modes"]["npy"] == "good"
    assert found["modes"]["disk"] == "absent"
    assert found["parts"] == dict.fromkeys(parts, "same")
    assert found["nearest"] == entry.hex
    now = {**parts, "size": "224x224"}
    found = upkeep.explain(full, Key.of(SECRET, **now), now, name_secret=SECRET)
    assert not found["hit"]
    assert found["parts"] == {"source": "same", "size": "differs", "window": "same", "decoder": "same"}
    assert ledger.explain({**now, "fit": "crop"})["parts"]["source"] == "same"
    assert ledger.explain({**parts, "source": b"edited"})["parts"]["source"] == "unknown"
    damage(full, "npy", 1)
    assert upkeep.explain(full, key(1))["modes"]["npy"] == "damaged"
    assert np.array_equal(open_store("npy", full).get(entry), value(5))  # type: ignore[arg-type]


def test_the_ledger_hides_and_survives(tmp_path: Path) -> None:
    ledger = PartsLedger(tmp_path, secret=SECRET)
    ledger.note(key(1), {"source": b"DOE^JANE", "window": "DOE^JANE"})
    assert b"DOE" not in b"".join(tree(tmp_path).values())
    with pytest.raises(EntryError, match="an entry has a part 'source' and others; got window"):
        ledger.note(key(1), {"window": 1})
    (tmp_path / "file").write_text("in the way")
    PartsLedger(tmp_path / "file", secret=SECRET).note(key(1), {"source": b"a", "size": 1})


@pytest.mark.parametrize("count", [10, 11, 24, 25, 60])
def test_a_recipe_may_get_further_parts(count: int, tmp_path: Path) -> None:
    ledger = PartsLedger(tmp_path, secret=SECRET)
    parts = {"source": b"a", **{f"part {number:02}": number for number in range(count)}}
    ledger.note(Key.of(SECRET, **parts), parts)
    assert ledger.explain(parts)["parts"] == dict.fromkeys(parts, "same")
    for name in ("part 00", f"part {count - 1:02}"):
        found = ledger.explain({**parts, name: "other"})["parts"]
        alone = count <= 24 or name == "part 00"
        assert found[name] == ("differs" if alone else "unknown")
        assert sum(state != "same" for state in found.values()) == (1 if alone else count - 23)
    more = ledger.explain({**parts, "another": 1})
    assert (more["noted"], more["nearest"], more["parts"]["part 01"]) == (1, None, "unknown"), "made of other parts"


def test_notes_that_somebody_without_the_secret_made(tmp_path: Path) -> None:
    """A note of one source under another's name, with a check that is right: purge would remove what it should not."""
    ledger = PartsLedger(tmp_path, secret=SECRET)
    for number in (1, 2):
        ledger.note(key(number), {"source": number, "size": 1})
    (journal,) = (tmp_path / "parts").iterdir()
    records = np.frombuffer(bytearray(journal.read_bytes()), ledger_module.RECORD)
    records["source"] = records["source"][::-1].copy()
    journal.write_bytes(b"".join(seal(record.tobytes()[:-8]) for record in records))
    assert ledger.keys_of(1) == ledger.keys_of(2) == []
    assert ledger.explain({"source": 1, "size": 1})["noted"] == 0


def test_parts_are_noted_from_many_threads_at_once(tmp_path: Path) -> None:
    ledger = PartsLedger(tmp_path, secret=SECRET)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: ledger.note(key(n), {"source": bytes([n % 2]), "size": n}), range(64)))
    assert ledger.keys_of(b"\0") == sorted((key(n) for n in range(0, 64, 2)), key=lambda found: found.digest)
    assert ledger.keys_of(b"other") == []


def test_what_the_dead_left_beside_the_entries(tmp_path: Path) -> None:
    """Temporary files and claims are orphans too; the next opening removes them, and so does gc."""
    from dali_pipes.cache import PartsLedger, SingleFlight, SourceIndex
    from dali_pipes.cache.owner import Owner, me

    dead, alive = Owner(me().host, 2**22 + 5, 1), me()

    def leave() -> None:
        for inner in ("", "npy", "sources", "parts", "claims"):
            (tmp_path / inner).mkdir(exist_ok=True)
            (tmp_path / inner / f".{dead}.{'0' * 16}.tmp").touch()
            (tmp_path / inner / f".{alive}.{'0' * 16}.tmp").touch()
        (tmp_path / "claims" / f"{'a' * 32}.claim").write_text(str(dead))
        (tmp_path / "claims" / f"{'b' * 32}.claim").write_text(str(alive))

    open_store("npy", tmp_path).close()
    leave()
    before = tree(tmp_path)
    assert upkeep.verify(tmp_path)["orphans"] == 6
    assert upkeep.gc(tmp_path, dry_run=True)["orphans"] == 6
    assert tree(tmp_path) == before
    with open_store("npy", tmp_path) as store:
        for opened in (SingleFlight(store), SourceIndex(tmp_path), PartsLedger(tmp_path)):
            opened.close()
    assert upkeep.verify(tmp_path)["orphans"] == 0
    left = tree(tmp_path)
    assert len(left) == len(before) - 6, "those of the living stay"
    leave()
    assert upkeep.gc(tmp_path)["orphans"] == 6
    assert set(tree(tmp_path)) == set(left)
    leave()
    upkeep.verify(tmp_path, repair=True)
    assert set(tree(tmp_path)) == set(left)
