"""The module through which everything is written, and that nothing else writes."""

from __future__ import annotations

import ast
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dali_pipes import cache
from dali_pipes.cache.access import Access
from dali_pipes.cache.files import Folder
from dali_pipes.cache.leases import temporary_owner
from dali_pipes.cache.owner import Owner, me
from dali_pipes.cache.tagging import TAG, is_tagged, tag

SOURCES = sorted(Path(cache.__file__).parent.glob("*.py"))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "folder")


def names(folder: Folder) -> list[str]:
    return sorted(os.path.relpath(path, folder.path) for path in Path(folder.path).rglob("*") if path.is_file())


def test_publish_and_read(folder: Folder) -> None:
    folder.publish("a", [b"one", bytearray(b"two")])
    folder.publish("ab/c", [b"three"])
    assert folder.read("a") == b"onetwo"
    assert folder.read("a", 2, 3) == b"etw"
    assert folder.read("ab/c") == b"three"
    folder.publish("a", [b"new"])
    assert folder.read("a") == b"new"
    with pytest.raises(FileExistsError):
        folder.publish("a", [b"newer"], replace=False)
    assert folder.read("a") == b"new"
    assert names(folder) == ["a", "ab/c"]


def test_a_listing_is_whole_while_threads_and_children_list_too(folder: Folder) -> None:
    made = {f"{number:016x}.idx" for number in range(600)}
    for name in ("shard/a", *made):
        folder.publish(name, [])
    children = []

    def list_often() -> bool:
        return all(set(folder.names()) == made | {"shard"} and folder.shards() == ["shard"] for _ in range(150))

    for _ in range(3):
        child = os.fork()
        if not child:
            os._exit(not list_often())
        children.append(child)
    with ThreadPoolExecutor(3) as threads:
        whole = [*threads.map(lambda _: list_often(), range(3))]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 3
    assert all(whole)


def test_a_failed_publish_leaves_nothing(folder: Folder) -> None:
    def parts() -> object:
        yield b"half"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        folder.publish("a", parts())  # type: ignore[arg-type]
    assert names(folder) == []


def test_modes_whatever_the_umask(tmp_path: Path) -> None:
    for access, modes in ((Access(), (0o700, 0o600)), (Access.of(os.getgid()), (0o2770, 0o660))):
        for umask in (0, 0o077, 0o777):
            folder = Folder(tmp_path / f"{access.file:o}-{umask:o}", access)
            old = os.umask(umask)
            try:
                folder.publish("ab/c", [b"x"])
            finally:
                os.umask(old)
            for path in (Path(folder.path), Path(folder.path, "ab"), Path(folder.path, "ab/c")):
                assert stat.S_IMODE(path.stat().st_mode) == modes[path.is_file()], path


def test_symbolic_links_and_devices_are_refused(folder: Folder, tmp_path: Path) -> None:
    folder.publish("a", [b"x"])
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(b"theirs")
    os.symlink(tmp_path / "outside" / "file", os.path.join(folder.path, "link"))
    os.symlink(tmp_path / "outside", os.path.join(folder.path, "ab"))
    os.mkfifo(os.path.join(folder.path, "pipe"))
    for name in ("link", "ab/file"):
        with pytest.raises(OSError):  # noqa: PT011
            folder.read(name)
        with pytest.raises(OSError):  # noqa: PT011
            folder.append(name, b"mine")
    with pytest.raises(OSError):  # noqa: PT011
        folder.publish("ab/new", [b"mine"])
    with pytest.raises(OSError, match="not a plain file"):
        folder.read("pipe")
    assert os.listdir(tmp_path / "outside") == ["file"]
    assert (tmp_path / "outside" / "file").read_bytes() == b"theirs"
    folder.publish("link", [b"mine"])
    assert (tmp_path / "outside" / "file").read_bytes() == b"theirs"


def test_a_deleted_folder_is_made_again(folder: Folder) -> None:
    folder.publish("a", [b"x"])
    os.unlink(os.path.join(folder.path, "a"))
    os.rmdir(folder.path)
    folder.publish("b", [b"y"])
    assert names(folder) == ["b"]


def test_tag(folder: Folder) -> None:
    assert not is_tagged(folder)
    tag(folder)
    tag(folder)
    assert is_tagged(folder)
    assert folder.read("CACHEDIR.TAG") == TAG
    assert TAG.startswith(b"Signature: 8a477f597d28d172789f06886806bc55")


def test_owner() -> None:
    assert me() == Owner.parse(str(me()))
    assert me().alive() is True
    assert Owner(me().host, me().pid, me().start + 1).alive() is False, "a recycled process id"
    assert Owner(me().host, 2**22 + 1, 5).alive() is False
    assert Owner(me().host ^ 1, me().pid, me().start).alive() is None
    for text in ("", "x", "0123456789abcdef-1", "0123456789abcdef-1-1x", "0123456789ABCDEF-1-1"):
        assert Owner.parse(text) is None
    assert temporary_owner(f".{me()}.{'0' * 16}.tmp") == me()
    for name in ("a.tmp", ".a.b.tmp", f"{me()}.tmp", f".{me()}.tmp"):
        assert temporary_owner(name) is None


def test_only_files_touches_files() -> None:
    """Nothing but cache.files creates, renames or deletes; torch and zlib get and give bytes."""
    forbidden = {
        "rename",
        "replace",
        "link",
        "unlink",
        "rmdir",
        "mkdir",
        "makedirs",
        "remove",
        "rmtree",
        "truncate",
        "ftruncate",
        "write_bytes",
        "write_text",
        "symlink",
        "tofile",
        "memmap",
        "mkdtemp",
        "mkstemp",
    }
    for path in SOURCES:
        if path.name == "files.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert not (node.value.id in ("os", "shutil", "tempfile", "np") and node.attr in forbidden), (
                    path,
                    node.attr,
                )
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
                modes = [getattr(mode, "value", None) for mode in node.args[1:]]
                modes += [each.arg for each in node.keywords if each.arg == "mode"]
                assert modes in ([], ["rb"]), f"{path.name} opens a file to write it"


def test_nothing_is_unpickled() -> None:
    words = ("pickle", "marshal", "shelve", "dill", "joblib", "eval", "exec")
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                found = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not set(words) & {part for name in found for part in name.split(".")}, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in words, path
            if isinstance(node, ast.keyword):
                is_true = isinstance(node.value, ast.Constant) and node.value.value is True
                assert not (node.arg == "allow_pickle" and is_true), path
                assert not (node.arg == "weights_only" and not is_true), path


def test_imports_nothing_of_the_product() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found += [node.module or "" if not node.level else ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "dali_pipes" for name in found), path
            assert not (isinstance(node, ast.ImportFrom) and node.level > 1), path
