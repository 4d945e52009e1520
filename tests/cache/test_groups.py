"""Caches that the users of a group share: who can read what, and what one user may spoil for the others."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dali_pipes.cache import (
    DISK_MODES,
    FileState,
    PartsLedger,
    SingleFlight,
    SourceIndex,
    StoreIOError,
    open_store,
    push,
    transfer,
    upkeep,
)
from dali_pipes.cache.files import Folder
from dali_pipes.cache.tagging import access_to
from tests.cache.conftest import key, value
from tests.faults.conftest import in_child, wait

GROUP, ANN, BOB = 54_321, 54_322, 54_323
STATE = FileState(1, 1, 1, 1)
SECRET = b"s" * 32
SHARED, PRIVATE = (0o2770, 0o660), (0o700, 0o600)
several_users = pytest.mark.skipif(os.getuid() != 0, reason="only root can be several users")


def use(mode: str, directory: Path, number: int, group: int | None = None) -> None:
    """Writes one of each kind of file."""
    with open_store(mode, directory, shared_group=group, strict=True, disk_bytes=1 << 30) as store:
        SingleFlight(store).get_or_put(key(number), lambda: value(number))
        store.put(key(100 + number), value(number))
        store.delete(key(100 + number))
    SourceIndex(directory, secret=SECRET, shared_group=group).record(f"{number}", STATE, bytes(16))
    PartsLedger(directory, secret=SECRET, shared_group=group).note(key(number), {"source": number, "size": 1})


def modes(directory: Path) -> tuple[set[int], set[int]]:
    """Of folders, and of files."""
    found: tuple[set[int], set[int]] = set(), set()
    for path in [directory, *directory.rglob("*")]:
        found[path.is_file()].add(stat.S_IMODE(path.stat().st_mode))
    return found


@several_users
def test_a_part_of_another_users_is_not_imported_as_if_it_were_empty(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        part = Path(folder, "part")
        use("pinned", part, 1)
        for path in (part, *part.rglob("*")):
            if path.is_dir():
                path.chmod(0o755)
        (part / "CACHEDIR.TAG").chmod(0o644)

        def as_ann() -> None:
            os.setgid(ANN)
            os.setuid(ANN)
            works: list[Callable[[], Any]] = [
                lambda: transfer.import_parts(f"{folder}/whole", [part]),
                lambda: transfer.export(part, f"{folder}/out"),
                lambda: push(part, f"file://{folder}/bucket"),
            ]
            for work in works:
                with pytest.raises(StoreIOError, match="files in pinned are another user's"):
                    work()

        assert wait(in_child(as_ann)) == 0


@pytest.mark.parametrize("mode", DISK_MODES)
def test_who_may_read_is_said_once(mode: str, tmp_path: Path) -> None:
    for name, group, expected in (("shared", os.getgid(), SHARED), ("own", None, PRIVATE)):
        use(mode, tmp_path / name, 1, group)
        use(mode, tmp_path / name, 2)
        upkeep.gc(tmp_path / name)
        assert modes(tmp_path / name) == ({expected[0]}, {expected[1]})


def test_only_a_tag_of_ours_widens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store("npy", tmp_path, shared_group=os.getgid()):
        assert access_to(str(tmp_path), None).file == 0o660
    tag = tmp_path / "CACHEDIR.TAG"
    for mode in (0o600, 0o640, 0o664, 0o666, 0o777):
        tag.chmod(mode)
        assert access_to(str(tmp_path), None).file == 0o600
    tag.chmod(0o660)
    monkeypatch.setattr("os.getuid", lambda: tag.stat().st_uid + 1)
    trap = any(above.stat().st_mode & 0o002 for above in tmp_path.parents)
    assert access_to(str(tmp_path), None).file == (0o600 if trap else 0o660)
    monkeypatch.undo()
    tag.write_bytes(tag.read_bytes().replace(b"dali-pipes", b"other-tool"))
    assert access_to(str(tmp_path), None).file == 0o600
    tag.unlink()
    tag.symlink_to(__file__)
    assert access_to(str(tmp_path), None).file == 0o600


@pytest.fixture(params=["/var/lib", "/tmp"])
def ann(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder of one user that the others can enter; what lies in the second may be a trap."""
    with tempfile.TemporaryDirectory(dir=request.param) as path:
        os.chmod(path, 0o755)
        os.chown(path, ANN, GROUP)
        yield Path(path)


def as_user(user: int, work: Callable[[], object]) -> None:
    def change() -> None:
        os.setgroups([GROUP])
        os.setgid(user)
        os.setuid(user)
        work()

    assert wait(in_child(change)) == 0


@several_users
@pytest.mark.parametrize("mode", DISK_MODES)
def test_two_users(mode: str, ann: Path) -> None:
    """The second forgets to say shared_group=: the first finds his entries where that is safe, else her own."""
    directory = ann / "cache"

    def read(numbers: tuple[int, ...]) -> None:
        with open_store(mode, directory, disk_bytes=1 << 30) as store:
            for number in numbers:
                found = store.get(key(number))
                assert found is not None
                assert found.tobytes() == value(number).tobytes()
            assert store.stats()["errors"] == 0
            assert len(store.keys()) >= len(numbers)

    as_user(ANN, lambda: use(mode, directory, 1, GROUP))
    as_user(BOB, lambda: use(mode, directory, 2))
    if ann.parent == Path("/tmp"):
        assert PRIVATE[1] in modes(directory)[1]
        as_user(BOB, lambda: upkeep.gc(directory))
        if mode == "pinned":
            as_user(ANN, lambda: read((1,)))
    else:
        assert modes(directory) == ({SHARED[0]}, {SHARED[1]})
        assert {path.stat().st_gid for path in directory.rglob("*")} == {GROUP}
        for user in (ANN, BOB):
            as_user(user, lambda: read((1, 2)))
        as_user(BOB, lambda: upkeep.gc(directory))
        as_user(ANN, lambda: read((1, 2)))


@several_users
def test_a_folder_into_which_anyone_may_write_may_be_a_trap(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/var/lib") as path:
        os.chmod(path, 0o755)
        directory, link = Path(path, "all", "cache"), Path(path, "link")
        use("npy", directory, 1, GROUP)
        link.symlink_to(directory)
        monkeypatch.setattr("os.getuid", lambda: BOB)
        for folder in (Path(path), directory.parent, directory):
            assert {access_to(str(name), None).file for name in (directory, link)} == {0o660}
            before = folder.stat().st_mode
            folder.chmod(0o777)
            assert {access_to(str(name), None).file for name in (directory, link)} == {0o600}
            folder.chmod(stat.S_IMODE(before))


def test_another_users_cache_is_not_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What root, say, would put in its place the owner could not read."""
    for number in range(3):
        use("pinned", tmp_path, number)
    before = {path: path.stat().st_ino for path in tmp_path.rglob("*.*")}
    monkeypatch.setattr("os.getuid", lambda: tmp_path.stat().st_uid + 1)
    assert upkeep.gc(tmp_path, dry_run=True)["merged"] == upkeep.gc(tmp_path)["merged"] == 0
    assert {path: path.stat().st_ino for path in tmp_path.rglob("*.*")} == before
    monkeypatch.undo()
    assert upkeep.gc(tmp_path)["merged"] >= 3 * 2


@several_users
@pytest.mark.parametrize("mode", DISK_MODES)
def test_what_another_user_reads_is_not_evicted_first(mode: str, ann: Path) -> None:
    directory = ann / "cache"
    as_user(ANN, lambda: use(mode, directory, 1, GROUP))
    entries = [path for path in (directory / mode).rglob("*") if path.suffix in (".npy", ".png", ".pt", ".json")]
    for path in entries:
        os.utime(path, (1e9, 1e9))
    as_user(BOB, lambda: open_store(mode, directory, disk_bytes=1 << 30, shared_group=GROUP).get(key(1)))
    assert {path.stat().st_mtime > 1.5e9 for path in entries} == {True}


def test_journals_that_cannot_be_read_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of a user who does not share; even ones that hold no record yet, and tombs."""
    use("pinned", tmp_path, 1)
    mine = {path.name for path in tmp_path.rglob("*")}
    use("pinned", tmp_path, 2)
    with open_store("pinned", tmp_path) as theirs:
        theirs._writer._make(value(1))  # type: ignore[attr-defined]
        real, refused = Folder.open, []

        def refuse(folder: Folder, name: str, flags: int = os.O_RDONLY) -> object:
            if name not in mine and name.endswith((".idx", ".del", ".seen", ".made")):
                refused.append(name)
                raise PermissionError(13, "Permission denied")
            return real(folder, name, flags)

        monkeypatch.setattr(Folder, "open", refuse)
        with open_store("pinned", tmp_path, strict=True) as store:
            for _ in range(3):
                assert store.keys() == [key(1)]
                assert store.get(key(2)) is None
            assert store.stats()["unreadable"] == 2
            assert store.compact() == 0  # type: ignore[attr-defined]
        index = SourceIndex(tmp_path, secret=SECRET)
        assert index.lookup("1", STATE) == (bytes(16), "")
        assert index.lookup("2", STATE) is None
        assert index.errors == 0
    assert {Path(name).suffix for name in refused} == {".idx", ".del", ".seen"}
    assert len(caplog.records) == 3, "once for each kind"
    assert "is opened with shared_group= by the first of them" in caplog.text
