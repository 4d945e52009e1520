"""Source files and links: what lies in the root is read, what lies outside never is."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dali_pipes as dp
from dali_pipes.fetch.fetcher import Failure, Fetcher, ready
from dali_pipes.files import source_file
from dali_pipes.files.source_file import SourceFile, open_below
from dali_pipes.manifest.manifest import Manifest
from tests.make_images import jpeg

INSIDE, OUTSIDE = b"inside", b"OUTSIDE"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a file, and a file beside the folder."""
    (tmp_path / "secret").write_bytes(OUTSIDE)
    (tmp_path / "root-of-others").mkdir()
    (tmp_path / "root-of-others" / "secret").write_bytes(OUTSIDE)
    folder = tmp_path / "root" / "a"
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(INSIDE)
    return tmp_path / "root"


def read(root: Path, name: str) -> bytes:
    with SourceFile(str(root), str(root / name), lambda _: None) as source:
        return bytes(source.read())


@pytest.mark.parametrize(
    "link",
    [
        ("link", "a/file"),
        ("link", "{root}/a/file"),
        ("a/link", "../a/./file"),
        ("link", "../root/a/file"),
        ("b", "a"),
    ],
)
def test_links_inside_the_root_work(root: Path, link: tuple[str, str]) -> None:
    (root / link[0]).symlink_to(link[1].format(root=root))
    assert read(root, "b/file" if link[0] == "b" else link[0]) == INSIDE


@pytest.mark.parametrize(
    "link", [("link", "../secret"), ("link", "{root}/../secret"), ("b", ".."), ("link", "../root-of-others/secret")]
)
def test_links_out_of_the_root_are_refused(root: Path, link: tuple[str, str]) -> None:
    (root / link[0]).symlink_to(link[1].format(root=root))
    with pytest.raises(dp.ManifestError, match="leads out of the manifest's root through a link; move the file in"):
        read(root, "b/secret" if link[0] == "b" else link[0])


def test_the_whole_file_system_may_be_the_root(root: Path) -> None:
    with SourceFile("/", str(root / "a/file"), lambda _: None) as source:
        assert source.read() == INSIDE


@pytest.mark.parametrize("moment", range(4))
def test_a_link_that_is_swapped_between_two_calls(root: Path, monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    """Before any of the calls that look at the path the link is turned outside; after it, inside again."""
    calls, link = iter(range(100)), root / "link"

    def turn(target: str) -> None:
        (root / "new").symlink_to(target)
        os.replace(root / "new", link)

    turn("a/file")

    def turning(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            outside = next(calls) == moment
            if outside:
                turn("../secret")
            try:
                return real(*arguments, **more)
            finally:
                if outside:
                    turn("a/file")

        return call

    for name in ("open", "readlink", "fstat"):
        monkeypatch.setattr(source_file.os, name, turning(getattr(os, name)))
    try:
        fd = open_below(str(root), str(link))
    except dp.ManifestError:
        assert moment == 0
        return
    assert os.pread(fd, 100, 0) == INSIDE
    os.close(fd)


def test_a_link_that_is_swapped_all_the_time(root: Path) -> None:
    stop, link, found = threading.Event(), root / "link", set()
    link.symlink_to("a/file")

    def swap() -> None:
        while not stop.is_set():
            for target in ("../secret", "a/file"):
                (root / "new").symlink_to(target)
                os.replace(root / "new", link)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(2000):
            try:
                found.add(read(root, "link"))
            except (dp.ManifestError, dp.UnsteadyError):
                found.add(b"refused")
    finally:
        stop.set()
        thread.join()
    assert OUTSIDE not in found
    assert found <= {INSIDE, b"refused"}


def test_a_loader_never_reads_through_a_link_that_was_swapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    """Between the look at a sample's path and its opening."""
    (tmp_path / "secret").write_bytes(jpeg(np.full((20, 20, 3), 255, "u1")))
    (root / "x.jpg").write_bytes(jpeg(np.zeros((20, 20, 3), "u1")))
    manifest_file = root / "m.csv"
    manifest_file.write_text("path\nx.jpg\n")
    manifest = Manifest.from_csv(manifest_file)
    real_resolve, real_locate = Manifest.resolve, Manifest.locate

    def swap(real: Callable[..., Any]) -> Callable[..., Any]:
        def located(self: Manifest, index: int) -> Any:
            found = real(self, index)
            (root / "x.jpg").unlink()
            (root / "x.jpg").symlink_to("../secret")
            return found

        return located

    monkeypatch.setattr(Manifest, "resolve", swap(real_resolve))
    monkeypatch.setattr(Manifest, "locate", swap(real_locate))
    with dp.cache.open_store("none") as store:
        fetcher = Fetcher(manifest, dp.Recipe(size=8), store, workers=1)
        item = ready(fetcher.request(0))
        fetcher.close()
    assert isinstance(item, Failure)
    assert isinstance(item.error, dp.ManifestError)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_is_not_opened(root: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = root / "odd"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/null")
    with pytest.raises(dp.DecodeError, match="not a regular file"):
        read(root, "odd")
    opened: list[int] = []
    real = os.open
    monkeypatch.setattr(source_file.os, "open", lambda path, flags: (opened.append(flags), real(path, flags))[1])
    with pytest.raises((dp.DecodeError, dp.ManifestError)):
        open_below(str(root), str(path))
    assert opened == [os.O_PATH | os.O_CLOEXEC], "a handle that reads nothing"


def test_a_file_that_changes_between_two_looks(root: Path) -> None:
    path = root / "a/file"
    with SourceFile(str(root), str(path), lambda _: None) as source:
        path.write_bytes(b"longer than before")
        with pytest.raises(dp.UnsteadyError, match="changes while it is read"):
            source.read()
    with SourceFile(str(root), str(path), lambda _: None) as source:
        assert source.read() == b"longer than before"
        source.check()
        path.write_bytes(b"again")
        with pytest.raises(dp.UnsteadyError):
            source.check()


def test_no_descriptor_stays_open(root: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    (root / "out").symlink_to("../secret")
    for name in ("a/file", "out"):
        for _ in range(3):
            try:
                read(root, name)
            except dp.ManifestError:
                continue
    assert set(os.listdir("/proc/self/fd")) <= before
