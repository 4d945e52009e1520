"""A packed cache behind a URL: pushed once, read by ranges, kept near, and never other bytes than were put."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dali_pipes.cache import (
    DISK_MODES,
    FileState,
    Key,
    PartsLedger,
    SecretError,
    SourceIndex,
    Store,
    StoreConfigError,
    StoreIOError,
    bucket,
    default_secret,
    open_store,
    push,
    tagging,
    transfer,
    upkeep,
)
from dali_pipes.cache.agreement import fingerprint
from dali_pipes.cache.bucket import BucketStore
from dali_pipes.cache.objects import Objects
from tests.cache.conftest import OLD, key, note, of, value

fsspec = pytest.importorskip("fsspec", reason="s3fs is not installed")  # which brings fsspec
SECRET, OTHER = b"s" * 32, b"o" * 32


@pytest.fixture
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Of an empty place in memory."""
    name = f"/push-{abs(hash(request.node.nodeid))}"
    yield f"memory:/{name}/cache"
    system = fsspec.filesystem("memory")
    if system.exists(name):
        system.rm(name, recursive=True)


def fill(directory: Path, numbers: range, **options: Any) -> Path:
    with open_store("pinned", directory, strict=True, **options) as store:
        for number in numbers:
            store.put(key(number), of(number))
    return directory


def near(directory: Path, url: str, over: str = "npy", **options: Any) -> Store:
    return open_store("tiered", directory, over=over, base=url, **options)


def check(store: Store, numbers: range) -> None:
    for number in numbers:
        assert np.array_equal(store.get(key(number)), of(number))  # type: ignore[arg-type]


def objects(url: str) -> dict[str, bytes]:
    system = fsspec.filesystem("memory")
    base = url.removeprefix("memory:/")
    return {name[len(base) + 1 :]: system.cat_file(name) for name in system.find(base)}


def change(url: str, name: str, data: bytes) -> None:
    fsspec.filesystem("memory").pipe_file(f"{url.removeprefix('memory:/')}/{name}", data)


def segment_of(url: str, number: int) -> tuple[str, int]:
    """The name of the object that holds an entry, and where it begins there."""
    wanted = of(number).tobytes()
    return next((name, data.find(wanted)) for name, data in objects(url).items() if wanted in data)


@pytest.mark.parametrize("over", DISK_MODES)
def test_what_is_pushed_is_read_and_kept_near(tmp_path: Path, url: str, over: str) -> None:
    told: list[tuple[int, int]] = []
    found = push(fill(tmp_path / "cache", range(30)), url, progress=lambda done, total: told.append((done, total)))
    assert (found["pushed"], found["present"], found["segments"]) == (30, 0, 2)
    assert told[-1] == (30, 30)
    with near(tmp_path / "near", url, over, strict=True) as store:
        assert len(store.keys()) == 30
        assert store.contains(key(3))
        assert not store.direct
        check(store, range(20))
        assert store.stats()["tiers"]["base"]["hits"] == 20
        assert store.get(key(99)) is None
        again = pickle.loads(pickle.dumps(store))  # noqa: S301
        check(again, range(30))
        again.close()
    with near(tmp_path / "near", url, over, strict=True) as store:
        check(store, range(30))
        tiers = store.stats()["tiers"]
        assert (tiers["disk"]["hits"], tiers["base"]["requests"]) == (30, 0), "the index was kept too"
    with open_store(over, tmp_path / "near", strict=True) as alone:
        check(alone, range(30))


def test_a_bucket_can_be_copied_into_a_folder_and_used_there(tmp_path: Path, url: str) -> None:
    push(fill(tmp_path / "cache", range(30)), url)
    for name, data in objects(url).items():
        path = tmp_path / "copy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    with open_store("pinned", tmp_path / "copy", read_only=True, strict=True) as store:
        check(store, range(30))
    assert upkeep.verify(tmp_path / "copy")["entries"] == 30


def test_a_second_push_adds_what_is_new_and_changes_nothing(tmp_path: Path, url: str) -> None:
    push(fill(tmp_path / "cache", range(20)), url)
    before = objects(url)
    assert push(tmp_path / "cache", url)["bytes"] == 0
    assert objects(url) == before
    fill(tmp_path / "cache", range(20, 30))
    assert upkeep.gc(tmp_path / "cache")["merged"]  # the same entries in other segments
    found = push(tmp_path / "cache", url)
    assert (found["pushed"], found["present"]) == (10, 20)
    after = objects(url)
    assert {name: after[name] for name in before} == before
    push(fill(tmp_path / "other", range(25, 40)), url)
    with near(tmp_path / "near", url, strict=True) as store:
        check(store, range(40))


def test_a_push_that_is_cut_at_every_request_goes_on(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "cache", range(12))
    note(tmp_path / "cache", SECRET, range(12))
    real, number, ended = Objects.write, 0, False
    while not ended:
        number += 1
        place, left, written = f"{url}/{number}", [number], []

        def write(self: Objects, name: str, data: Any, left: list[int] = left, written: list[str] = written) -> None:
            left[0] -= 1
            if not left[0]:
                raise ConnectionError("cut")
            written.append(name)
            real(self, name, data)

        monkeypatch.setattr(Objects, "write", write)
        try:
            push(tmp_path / "cache", place)
            ended = True
        except StoreIOError as error:
            assert "run it again" in str(error)  # noqa: PT017
        first = list(written)
        push(tmp_path / "cache", place)
        monkeypatch.undo()
        assert len(written) == len(set(written)), f"{first}: nothing is written twice"
        with near(tmp_path / f"near {number}", place, strict=True) as store:
            check(store, range(12))
    assert number == 8  # tag, two segments with their journals, source records, notes; and all of them


def test_what_is_left_out_of_a_push(tmp_path: Path, url: str) -> None:
    push(fill(tmp_path / "first", range(3)), url)
    fill(tmp_path / "cache", range(3, 12))
    with open_store("pinned", tmp_path / "cache") as store:
        store.put(key(1), value(77))
        store.put(key(20), of(20))
        found = push(tmp_path / "cache", url)
        assert (found["pushed"], found["growing"]) == (9, 2)
    segments = sorted((tmp_path / "cache" / "pinned").glob("*.npy"))
    victim = next(path for path in segments if of(20).tobytes() in path.read_bytes())
    data = victim.read_bytes()
    victim.write_bytes(data.replace(of(20).tobytes(), of(20).tobytes()[::-1]))
    found = push(tmp_path / "cache", url)
    assert (found["pushed"], found["damaged"], found["conflicts"]) == (0, [key(20).hex], [key(1).hex])
    with near(tmp_path / "near", url, strict=True) as store:
        check(store, range(12))
        assert store.get(key(20)) is None


def test_an_entry_whose_record_is_damaged_is_reported_by_a_push(tmp_path: Path, url: str) -> None:
    fill(tmp_path / "cache", range(4))
    (journal,) = [path for path in (tmp_path / "cache" / "pinned").glob("*.idx") if key(1).digest in path.read_bytes()]
    data = bytearray(journal.read_bytes())
    data[data.index(key(1).digest) + 30] ^= 4  # of its slot
    journal.write_bytes(data)
    found = push(tmp_path / "cache", url)
    assert (found["pushed"], found["damaged"]) == (3, [key(1).hex])


def test_entries_that_are_files_are_packed_first(tmp_path: Path, url: str) -> None:
    with open_store("npy", tmp_path / "cache") as store:
        for number in range(10):
            store.put(key(number), of(number))
    with pytest.raises(StoreConfigError, match=r"entries of the modes npy.*--mode pinned"):
        push(tmp_path / "cache", url)
    assert objects(url) == {}
    found = transfer.export(tmp_path / "cache", tmp_path / "packed", mode="pinned")
    assert (found["imported"], found["linked"]) == (10, 0)
    assert transfer.export(tmp_path / "cache", tmp_path / "packed", mode="pinned")["present"] == 10
    assert push(tmp_path / "packed", url)["pushed"] == 10
    with pytest.raises(StoreConfigError, match="no disk mode 'zip'"):
        transfer.export(tmp_path / "cache", tmp_path / "packed", mode="zip")


Damage = Callable[[bytes, int], bytes]
DAMAGE: dict[str, Damage] = {
    "a bit": lambda data, at: data[: at + 5] + bytes([data[at + 5] ^ 4]) + data[at + 6 :],
    "cut": lambda data, at: data[: at + 5],
    "junk": lambda data, at: b"junk" * len(data),
    "empty": lambda data, at: b"",
    "a header that lies": lambda data, at: data[:60] + data[60:128].replace(b"(8, 3", b"(8, 9") + data[128:],
    "another header": lambda data, at: data[:60].replace(b"|u1", b"|i1") + data[60:],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_there_is_a_miss(tmp_path: Path, url: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "_FAILURES", 1000)
    push(fill(tmp_path / "cache", range(12)), url)
    name, at = segment_of(url, 4)
    change(url, name, DAMAGE[kind](objects(url)[name], at))
    with BucketStore(url, open_store("none").options, pause=lambda seconds: False) as store:
        assert store.get(key(4)) is None
        assert store.corrupt + store.errors == 1
        found = [store.get(key(number)) for number in range(12)]
        assert all(each is None or np.array_equal(each, of(number)) for number, each in enumerate(found))
        assert all(found[number] is not None for number in (0, 3, 6, 9)), "the other segment is sound"
        assert all(each is not None for each in found[:4]) or kind != "a bit"
        if store.corrupt == 1:
            assert not store.contains(key(4))
            asked = store.requests
            assert store.get(key(4)) is None
            assert store.requests == asked, "not asked for again"


def test_what_another_segment_holds_too_is_found_there(tmp_path: Path, url: str) -> None:
    push(fill(tmp_path / "a", range(1, 6, 3)), url)
    kept = objects(url)
    system = fsspec.filesystem("memory")
    system.rm(url.removeprefix("memory:/"), recursive=True)
    push(fill(tmp_path / "b", range(1, 9, 3)), url)
    for name, data in kept.items():
        change(url, name, data)
    for spoiled in [name for name in objects(url) if name.endswith(".npy")]:
        before = objects(url)[spoiled]
        change(url, spoiled, before.replace(of(4).tobytes(), bytes(216)))
        with near(tmp_path / "near" / spoiled[7:], url) as store:
            assert np.array_equal(store.get(key(4)), of(4))  # type: ignore[arg-type]
        change(url, spoiled, before)
        system.rm(f"{url.removeprefix('memory:/')}/{spoiled}")
        with near(tmp_path / "gone" / spoiled[7:], url) as store:
            assert np.array_equal(store.get(key(4)), of(4))  # type: ignore[arg-type]
        change(url, spoiled, before)


def test_an_index_with_any_bit_wrong_never_gives_other_bytes(tmp_path: Path, url: str) -> None:
    push(fill(tmp_path / "cache", range(1, 6, 3)), url)
    (name,) = [each for each in objects(url) if each.endswith(".idx")]
    good = objects(url)[name]
    for at in range(0, len(good), 3):
        change(url, name, good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :])
        with BucketStore(url, open_store("none").options) as store:
            for number in range(12):
                found = store.get(key(number))
                assert found is None or np.array_equal(found, of(number))
            assert len(store.keys()) >= 1
    change(url, name, b"")
    with BucketStore(url, open_store("none").options) as store:
        assert store.keys() == []


def test_a_kept_index_that_is_damaged_is_read_again(tmp_path: Path, url: str) -> None:
    push(fill(tmp_path / "cache", range(12)), url)
    near(tmp_path / "near", url).close()
    kept = sorted((tmp_path / "near" / "bucket").rglob("*.idx"))
    good = [path.read_bytes() for path in kept]
    kept[0].write_bytes(good[0][:100] + b"?" + good[0][101:])
    kept[1].write_bytes(good[1][:-64])
    with near(tmp_path / "near", url, strict=True) as store:
        check(store, range(12))
    assert [path.read_bytes() for path in kept] == good


def test_a_segment_that_is_gone_costs_one_look(tmp_path: Path, url: str) -> None:
    push(fill(tmp_path / "cache", range(1, 30, 3)), url)
    with near(tmp_path / "near", url) as store:
        name, _ = segment_of(url, 4)
        fsspec.filesystem("memory").rm(f"{url.removeprefix('memory:/')}/{name}")
        for number in range(1, 30, 3):
            assert store.get(key(number)) is None
        base = store.stats()["tiers"]["base"]
        assert (base["entries"], base["errors"]) == (0, 1)
        store.put(key(1), of(1))
        check(store, range(1, 2))
    with near(tmp_path / "other", url, strict=True) as store:
        assert store.keys() == [], "a journal without its segment is not believed"


class Broken(Objects):
    """A server that answers nothing after its index."""

    asked = 0

    def part(self, relative: str, begin: int, end: int) -> bytes:
        if relative.endswith(".npy"):
            Broken.asked += 1
            raise ConnectionError("4 requests failed")
        return super().part(relative, begin, end)


def test_a_server_that_stops_answering_is_left_alone_for_a_while(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(fill(tmp_path / "cache", range(20)), url)
    monkeypatch.setattr(bucket, "Objects", Broken)
    with near(tmp_path / "near", url) as store:
        Broken.asked = 0
        assert [store.get(key(number)) for number in range(20)] == [None] * 20
        assert Broken.asked == 3
        monkeypatch.setattr(bucket.time, "monotonic", lambda: 1e12)
        assert store.get(key(1)) is None
        assert Broken.asked == 4
    with near(tmp_path / "near", url, strict=True) as store, pytest.raises(StoreIOError, match="requests failed"):
        store.get(key(1))


def test_a_server_that_cannot_be_reached_at_first(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    push(fill(tmp_path / "cache", range(6)), url)
    real = Objects.sizes

    def fail(self: Objects) -> dict[str, int]:
        raise ConnectionError("4 requests failed")

    monkeypatch.setattr(Objects, "sizes", fail)
    with near(tmp_path / "near", url) as store:
        assert store.get(key(1)) is None
        assert "going on without it" in caplog.text
        monkeypatch.setattr(Objects, "sizes", real)
        store.refresh()
        check(store, range(6))


def test_a_small_disk_keeps_what_it_has_and_the_rest_stays_there(tmp_path: Path, url: str) -> None:
    with open_store("pinned", tmp_path / "cache") as store:
        for number in range(100):
            store.put(key(number), value(number, (3000,)))
    push(tmp_path / "cache", url)
    with near(tmp_path / "near", url, "npy", disk_bytes=40 * 4096, memory_bytes=1000) as store:
        for _ in range(3):
            for number in range(100):
                assert np.array_equal(store.get(key(number)), value(number, (3000,)))  # type: ignore[arg-type]
        disk = store.stats()["tiers"]["disk"]
        assert disk["bytes"] <= 40 * 4096
        assert disk["puts"] < 60, "entries do not chase each other through the disk"
        assert disk["hits"] >= 50


def test_a_reader_that_may_not_write(tmp_path: Path, url: str) -> None:
    push(fill(tmp_path / "cache", range(6)), url)
    with near(tmp_path / "near", url, read_only=True, strict=True) as store:
        check(store, range(6))
        check(store, range(6))
        assert store.stats()["tiers"]["base"]["hits"] == 6, "memory keeps them"
        assert store.delete(key(1))
        assert store.get(key(1)) is None
    assert not (tmp_path / "near").exists()


def test_source_records_and_notes_come_along_once(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    note(fill(tmp_path / "cache", range(6)), SECRET, range(6))
    found = push(tmp_path / "cache", url)
    assert (found["sources"], found["notes"]) == (6, 6)
    note(fill(tmp_path / "cache", range(6, 9)), SECRET, range(6, 9))
    found = push(tmp_path / "cache", url)
    assert (found["sources"], found["notes"]) == (3, 3)
    for _ in range(2):
        with near(tmp_path / "near", url, strict=True) as store:
            store.agree(SECRET)
            check(store, range(9))
    index = SourceIndex(tmp_path / "near", secret=SECRET)
    assert len(index) == 9
    assert index.lookup("7", FileState(7, OLD, OLD, 7)) == (bytes([7]) * 16, "")
    upkeep.gc(tmp_path / "near")
    ledger = PartsLedger(tmp_path / "near", secret=SECRET)
    assert [ledger.keys_of(number) for number in range(9)] == [[key(number)] for number in range(9)]
    with open_store("npy", tmp_path / "near") as store:
        store.delete(key(2))
    upkeep.gc(tmp_path / "near")
    assert ledger.keys_of(2) == [key(2)], "it may come again"
    assert upkeep.stats(tmp_path / "near")["unknown"] == 0
    upkeep.purge(tmp_path / "near", dry_run=False)
    assert [path.name for path in (tmp_path / "near").rglob("*") if path.is_file()] == ["CACHEDIR.TAG"]


def test_hosts_must_agree_here_too(tmp_path: Path, url: str) -> None:
    note(fill(tmp_path / "cache", range(6)), SECRET, range(6))
    push(tmp_path / "cache", url)
    assert tagging.signature_of(objects(url)["CACHEDIR.TAG"]) == fingerprint(SECRET)
    with (
        near(tmp_path / "near", url) as store,
        pytest.raises(SecretError, match=f"secret .that of .* {fingerprint(SECRET)}"),
    ):
        store.agree(OTHER)
    note(fill(tmp_path / "other", range(6)), OTHER, range(6))
    before = objects(url)
    with pytest.raises(SecretError, match="push to another URL"):
        push(tmp_path / "other", url)
    assert objects(url) == before


def test_a_bucket_without_a_fingerprint_is_known_by_its_records(tmp_path: Path, url: str) -> None:
    note(fill(tmp_path / "cache", range(6)), SECRET, range(6))
    push(tmp_path / "cache", url)
    change(url, "CACHEDIR.TAG", tagging.TAG)
    for read_only in (False, True):
        with (
            near(tmp_path / "near", url, read_only=read_only) as store,
            pytest.raises(SecretError, match="the one that signed its records"),
        ):
            store.agree(OTHER)
    before = objects(url)
    note(fill(tmp_path / "other", range(3)), default_secret(), range(3))
    with pytest.raises(SecretError, match=r"the one that signed its records.*push to another URL"):
        push(tmp_path / "other", url)
    assert objects(url) == before
    with near(tmp_path / "mine", url, strict=True) as store:
        store.agree(SECRET)
        check(store, range(6))


def test_a_tag_is_signed_when_names_are_known(tmp_path: Path, url: str) -> None:
    push(fill(tmp_path / "cache", range(3)), url)
    assert tagging.signature_of(objects(url)["CACHEDIR.TAG"]) is None
    note(tmp_path / "cache", SECRET, range(3))
    push(tmp_path / "cache", url)
    assert tagging.signature_of(objects(url)["CACHEDIR.TAG"]) == fingerprint(SECRET)


def test_keyed_checksums(tmp_path: Path, url: str) -> None:
    fill(tmp_path / "cache", range(6), secret=SECRET)
    assert len(push(tmp_path / "cache", f"{url}/none")["damaged"]) == 6
    assert push(tmp_path / "cache", url, secret=SECRET)["pushed"] == 6
    with near(tmp_path / "near", url, secret=SECRET, strict=True) as store:
        check(store, range(6))
    with near(tmp_path / "other", url, secret=OTHER) as store:
        assert store.get(key(1)) is None
        assert store.stats()["corrupt"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "holds no cache"), (b"", "holds no cache"), (b"Signature: 8a477f597d28d172789f06886806bc55\n", "another")],
)
def test_a_url_without_a_cache(tmp_path: Path, url: str, text: bytes | None, message: str) -> None:
    change(url, "else", b"")
    if text is not None:
        change(url, "CACHEDIR.TAG", text)
    with pytest.raises(StoreConfigError, match=message):
        near(tmp_path / "near", url)
    if text:
        with pytest.raises(StoreConfigError, match="choose another URL"):
            push(fill(tmp_path / "cache", range(3)), url)


def test_protocols_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreConfigError, match="no such protocol"):
        near(tmp_path / "near", "nosuch://ann:pass@host/cache")
    with pytest.raises(StoreConfigError, match=r"^nosuch://host/cache: ") as error:
        push(fill(tmp_path / "cache", range(3)), "nosuch://ann:pass@host/cache")
    assert "pass" not in str(error.value)

    def cannot(self: Objects) -> dict[str, int]:
        raise NotImplementedError

    monkeypatch.setattr(Objects, "sizes", cannot)
    with pytest.raises(StoreConfigError, match="lists no files"):
        near(tmp_path / "near", "memory://a")


def test_real_folders_behind_a_url(tmp_path: Path) -> None:
    place = f"file://{tmp_path}/mounted"
    push(fill(tmp_path / "cache", range(6)), place)
    with near(tmp_path / "near", place, strict=True) as store:
        check(store, range(6))
    assert Key.of(number=1) == key(1)
