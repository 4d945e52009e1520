"""Folders as they are: links, odd names, caches in between; what is left out is said."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import coded
from make_images import dicom

import dali_pipes as dp

LISTERS = [dp.Manifest.from_folder, dp.Manifest.from_dicom_tree]


def tree(root: Path, *names: str) -> Path:
    """DICOM files, which both kinds of listing find."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(dicom(np.full((4, 5), 7, np.uint8)))
    return root


@pytest.mark.parametrize("make", LISTERS)
@pytest.mark.parametrize(
    "name", ["new\nline", "tab\there", "back\\slash", " outer ", "caf\udce9", "\x1b[31m", "a:b", "…"]
)
def test_odd_names_are_listed_and_loaded(tmp_path: Path, make: Callable[[Path], dp.Manifest], name: str) -> None:
    found = make(tree(tmp_path, "class/plain", f"class/{name}"))
    assert sorted(found.paths) == sorted(["class/plain", f"class/{name}"])
    with dp.Loader(found, dp.Recipe(size=4), batch_size=2, backend="torch", num_workers=1) as loader:
        assert len(next(iter(loader)).id) == 2


def test_odd_names_are_escaped_in_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DALI_PIPES_SHOW_PATHS", "1")
    assert dp.Manifest.from_folder(tree(tmp_path, "class/\x1b[31m")).describe(0).endswith(r"'class/\x1b[31m'")


@pytest.mark.parametrize("make", LISTERS)
def test_linked_folders_inside_of_the_root_are_listed(tmp_path: Path, make: Callable[[Path], dp.Manifest]) -> None:
    tree(tmp_path, "pool/a", "class/b")
    (tmp_path / "class" / "linked").symlink_to("../pool")
    (tmp_path / "other").symlink_to("pool")
    assert list(make(tmp_path).paths) == ["class/b", "class/linked/a", "other/a", "pool/a"]


@pytest.mark.parametrize("make", LISTERS)
def test_what_is_left_out_is_said(tmp_path: Path, make: Callable[[Path], dp.Manifest]) -> None:
    root = tree(tmp_path / "root", "class/a", "class/kept/deep/c", "class/cache/b", "loose")
    tree(tmp_path / "elsewhere", "x", "y")
    (root / "class" / "x").symlink_to(tmp_path / "elsewhere" / "x")
    (root / "class" / "y").symlink_to(tmp_path / "elsewhere" / "y")
    (root / "class" / "all").symlink_to(tmp_path / "elsewhere")
    (root / "class" / "gone").symlink_to("nowhere")
    (root / "class" / "kept" / "deep" / "up").symlink_to("../..")
    (root / "class" / "cache" / "CACHEDIR.TAG").write_bytes(b"Signature: 8a477f597d28d172789f06886806bc55\n# ours")
    (root / "class" / "kept" / "CACHEDIR.TAG").write_bytes(b"only called so")
    os.mkfifo(root / "class" / "pipe")
    with pytest.warns(dp.DaliPipesWarning) as told:
        found = make(root)
    assert [path for path in found.paths if path != "loose"] == ["class/a", "class/kept/deep/c"]
    (words,) = (str(each.message) for each in told)
    for part in (
        "1 folders with a CACHEDIR.TAG",
        "1 linked folders outside of the root",
        "2 linked files outside of the root",
        "1 linked folders that lead back to a folder above them",
        "1 links that lead nowhere",
        "1 pipes, sockets or devices",
    ):
        assert part in words
    assert "elsewhere" not in words


def test_our_own_cache_in_the_root_is_no_class(tmp_path: Path) -> None:
    """It would be the first class, and move the numbers of all others."""
    tree(tmp_path, "nevus/a", "melanoma/b")
    before = dp.Manifest.from_folder(tmp_path)
    options: dict[str, Any] = {"cache_mode": "disk", "cache_dir": tmp_path / "a-cache", "backend": "torch"}
    with dp.Loader(before, dp.Recipe(size=4), batch_size=2, **options) as loader:
        assert len(list(loader)) == 1
    with pytest.warns(dp.DaliPipesWarning, match=r"1 folders with a CACHEDIR\.TAG"):
        after = dp.Manifest.from_folder(tmp_path)
    assert (after.digest(), after.classes) == (before.digest(), ("melanoma", "nevus"))


@pytest.mark.parametrize("make", LISTERS)
def test_a_root_that_is_our_own_cache_is_refused(tmp_path: Path, make: Callable[[Path], dp.Manifest]) -> None:
    """Its folders would be classes, and its PNGs samples."""
    tree(tmp_path, "nevus/a", "melanoma/b")
    options: dict[str, Any] = {"cache_mode": "disk", "cache_dir": tmp_path, "backend": "torch"}
    with dp.Loader(make(tmp_path), dp.Recipe(size=4), batch_size=2, **options) as loader:
        assert len(list(loader)) == 1
    with pytest.raises(dp.ManifestError, match=r"is a dali-pipes cache itself .* Give the cache a folder of its own"):
        make(tmp_path)


def test_a_root_in_the_cache_of_another_program_is_listed(tmp_path: Path) -> None:
    tree(tmp_path, "nevus/a", "melanoma/b")
    (tmp_path / "CACHEDIR.TAG").write_bytes(b"Signature: 8a477f597d28d172789f06886806bc55\n# another program's")
    assert len(dp.Manifest.from_folder(tmp_path)) == 2


def test_a_tag_that_is_a_pipe_is_none(tmp_path: Path) -> None:
    tree(tmp_path, "a/x", "b/y")
    os.mkfifo(tmp_path / "a" / "CACHEDIR.TAG")
    with pytest.warns(dp.DaliPipesWarning, match="1 pipes"):
        assert dp.Manifest.from_folder(tmp_path).classes == ("a", "b")


def test_class_folders_without_an_image_are_said(tmp_path: Path) -> None:
    tree(tmp_path, "b/x")
    (tmp_path / "a").mkdir()
    with pytest.warns(dp.DaliPipesWarning, match="1 folders hold no image and are no class: 'a'"):
        assert dp.Manifest.from_folder(tmp_path).classes == ("b",)


def test_class_folders_mixed_of_numbers_and_names(tmp_path: Path) -> None:
    tree(tmp_path, "0/x", "1/x", "10/x", "unknown/x")
    with pytest.raises(dp.ManifestError, match="label 'unknown' is a name among numbers"):
        dp.Manifest.from_folder(tmp_path)
    found = dp.Manifest.from_folder(tmp_path, classes=["0", "1", "10", "unknown"])
    assert found.labels.tolist() == [0, 1, 2, 3]


def test_headers_are_parsed_in_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dali_pipes.decode.api as api

    def here(*_: object) -> int:
        raise AssertionError("a header was parsed in this process")

    tree(tmp_path, *(f"{i}/{i}" for i in range(5)))
    frames = np.zeros((4, 5), np.uint8)
    (tmp_path / "many").write_bytes(dicom([frames] * 6))
    monkeypatch.setattr(api, "read_header", here)
    assert dp.Manifest.from_dicom_tree(tmp_path).frames.tolist() == [0] * 5 + [*range(6)]


def test_a_header_that_takes_too_much_costs_no_other_file_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its child is ended by a limit; the file is listed, so that loading it says what is wrong."""
    from dali_pipes.decode import DecoderPool, Limits
    from dali_pipes.errors import LimitError, WorkerError

    tree(tmp_path, "a", "b", "c")
    count, fates = DecoderPool.count_frames, {"a": LimitError("too slow"), "b": WorkerError("killed")}

    def counted(self: DecoderPool, path: Path) -> int:
        if path.name in fates:
            raise fates[path.name]
        return count(self, path)

    monkeypatch.setattr(DecoderPool, "count_frames", counted)
    assert list(dp.Manifest.from_dicom_tree(tmp_path).paths) == ["a", "b", "c"]
    with DecoderPool(1, Limits(seconds=0.0)) as pool, pytest.raises(LimitError, match=r"longer than 0 s"):
        count(pool, tmp_path / "a")


def test_a_folder_of_damaged_and_readable_files(tmp_path: Path) -> None:
    tree(tmp_path, "a")
    (tmp_path / "b").write_bytes(coded(3, "dicom")[:-9])
    assert list(dp.Manifest.from_dicom_tree(tmp_path).paths) == ["a", "b"]
