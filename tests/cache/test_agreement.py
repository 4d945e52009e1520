"""Hosts with different secrets do not share a cache by mistake: every opening says so, and nothing is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dali_pipes as dp
from dali_pipes.cache import (
    DISK_MODES,
    FileState,
    Key,
    PartsLedger,
    SecretError,
    SourceIndex,
    agreement,
    notes,
    open_store,
    sources,
    tagging,
    upkeep,
)
from dali_pipes.cache.agreement import fingerprint
from dali_pipes.cache.files import Folder
from dali_pipes.cache.journal import seal_signed
from dali_pipes.cli import main
from tests.settled import three_photos

VARIABLE = "DALI_PIPES_CACHE_SECRET"
MINE, THEIRS = b"m" * 32, b"t" * 32


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return three_photos(tmp_path / "images")


def load(manifest: Path, directory: Path, mode: str = "npy", **options: Any) -> int:
    """How many samples one epoch decodes."""
    samples = dp.Manifest.from_csv(manifest)
    where = {"cache_mode": mode, "cache_dir": directory, "cache_options": options}
    with dp.Loader(samples, dp.Recipe(16), batch_size=3, backend="torch", **where) as loader:
        list(loader)
        return int(loader.stats()["decoded"])


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def tag_of(directory: Path) -> str | None:
    return tagging.signature(Folder(directory, read_only=True))


def untag(directory: Path) -> None:
    """As caches were tagged before tags held a fingerprint."""
    (directory / "CACHEDIR.TAG").write_bytes(tagging.TAG)


@pytest.mark.parametrize("mode", [*DISK_MODES, "tiered"])
@pytest.mark.parametrize("read_only", [False, True])
def test_another_secret_is_an_error_that_says_what_to_do(
    manifest: Path, tmp_path: Path, mode: str, read_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load(manifest, tmp_path / "cache", mode) == 3
    assert load(manifest, tmp_path / "cache", mode, read_only=read_only) == 0
    ours = tag_of(tmp_path / "cache")
    before = contents(tmp_path / "cache")
    monkeypatch.setenv(VARIABLE, "of another host")
    with pytest.raises(SecretError, match=f"made with another secret .that of fingerprint {ours}") as error:
        load(manifest, tmp_path / "cache", mode, read_only=read_only)
    assert f"set {VARIABLE} to the same text" in str(error.value)
    assert "cache-secret" in str(error.value)
    assert contents(tmp_path / "cache") == before


def test_a_base_that_is_only_read_must_agree_too(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(manifest, tmp_path / "base")
    assert load(manifest, tmp_path / "own", "tiered", base=tmp_path / "base") == 0
    monkeypatch.setenv(VARIABLE, "of another host")
    with pytest.raises(SecretError, match=f"{tmp_path}/base: the names"):
        load(manifest, tmp_path / "another", "tiered", base=tmp_path / "base")


def test_modules_and_items_must_agree_too(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    load(manifest, tmp_path / "cache")
    monkeypatch.setenv(VARIABLE, "of another host")
    with pytest.raises(SecretError, match="another secret"):
        dp.CachedModule(
            torch.nn.Linear(2, 2).eval().requires_grad_(False), cache_mode="npy", cache_dir=tmp_path / "cache"
        )
    with pytest.raises(SecretError, match="another secret"):
        dp.warm(dp.Manifest.from_csv(manifest), dp.Recipe(16), tmp_path / "cache", cache_mode="npy")


@pytest.fixture
def old(manifest: Path, tmp_path: Path) -> Path:
    """A cache as it was before tags held a fingerprint."""
    load(manifest, tmp_path / "cache")
    untag(tmp_path / "cache")
    return tmp_path / "cache"


def test_an_old_cache_is_taken_over_by_who_signed_its_records(
    manifest: Path, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load(manifest, old, read_only=True) == 0
    assert tag_of(old) is None
    monkeypatch.setenv(VARIABLE, "of another host")
    before = contents(old)
    for read_only in (True, False):
        with pytest.raises(SecretError, match="the one that signed its records"):
            load(manifest, old, read_only=read_only)
    assert contents(old) == before
    monkeypatch.undo()
    assert load(manifest, old) == 0
    assert tag_of(old) is not None


def test_an_old_cache_that_two_shared_unawares_goes_to_the_first(tmp_path: Path) -> None:
    for secret in (MINE, THEIRS):
        PartsLedger(tmp_path, secret=secret).note(Key.of(secret, a=1), {"source": 1, "size": 1})
        untag(tmp_path)
        for name in (tmp_path / "parts").iterdir():
            name.rename(tmp_path / name.name)  # out of sight of the next
    for name in tmp_path.glob("*.made"):
        name.rename(tmp_path / "parts" / name.name)
    SourceIndex(tmp_path, secret=THEIRS).close()
    assert tag_of(tmp_path) == fingerprint(THEIRS)
    with pytest.raises(SecretError, match=fingerprint(MINE)):
        SourceIndex(tmp_path, secret=MINE)


def test_a_cache_without_records_is_signed_by_the_first_who_writes(tmp_path: Path) -> None:
    with open_store("npy", tmp_path) as store:
        store.put(Key.of(a=1), np.arange(3))
        assert tag_of(tmp_path) is None  # who makes his own names needs no agreement
        with open_store("npy", tmp_path, read_only=True) as reader:
            reader.agree(THEIRS)
        assert tag_of(tmp_path) is None
        store.agree(MINE)
        assert tag_of(tmp_path) == fingerprint(MINE)
    with pytest.raises(SecretError):
        open_store("npy", tmp_path).agree(THEIRS)


@pytest.mark.parametrize("change", [lambda tail: tail[:-1], lambda tail: tail.replace(b"secret ", b"secret 0", 1)])
def test_a_damaged_fingerprint_is_none(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    with open_store("npy", tmp_path) as store:
        store.agree(MINE)
    tag = tmp_path / "CACHEDIR.TAG"
    text = tag.read_bytes()
    for at in range(len(tagging.TAG), len(text) - 1):
        flipped = bytearray(text)
        flipped[at] ^= 1
        assert tagging.signature_of(bytes(flipped)) is None
    tag.write_bytes(text[: len(tagging.TAG)] + change(text[len(tagging.TAG) :]))
    assert tag_of(tmp_path) is None
    with open_store("npy", tmp_path) as store:
        store.agree(MINE)
    assert tag.read_bytes() == text


def test_damage_before_the_fingerprint_does_not_cost_it(tmp_path: Path) -> None:
    with open_store("npy", tmp_path) as store:
        store.agree(MINE)
    tag = tmp_path / "CACHEDIR.TAG"
    text = tag.read_bytes()
    tag.write_bytes(text[:50] + b"?" + text[51:])
    open_store("npy", tmp_path).close()
    assert tag.read_bytes() == text


def test_the_fingerprint_does_not_show_the_secret(tmp_path: Path) -> None:
    assert len({fingerprint(bytes([n]) * 32) for n in range(256)}) == 256
    assert fingerprint(b"a" * 100) != fingerprint(b"a" * 101)
    with open_store("npy", tmp_path) as store:
        store.agree(MINE)
    assert MINE.hex().encode() not in (tmp_path / "CACHEDIR.TAG").read_bytes()


def test_the_records_are_those_of_the_modules_that_write_them(tmp_path: Path) -> None:
    sizes = {suffix: size for suffix, size, _ in agreement._SIGNED.values()}
    assert sizes == {sources.SUFFIX: sources.RECORD.itemsize, notes.SUFFIX: notes.RECORD.itemsize}
    root = Folder(tmp_path)
    SourceIndex(tmp_path, secret=MINE).record("a", FileState(1, 1, 1, 1), bytes(16))
    assert agreement.signed_with(root, MINE) is True
    assert agreement.signed_with(root, THEIRS) is False
    (tmp_path / "sources").rename(tmp_path / "aside")
    assert agreement.signed_with(root, MINE) is None
    PartsLedger(tmp_path, secret=THEIRS.replace(b"t", b"m")).note(Key.of(a=1), {"source": 1, "size": 1})
    assert agreement.signed_with(root, MINE) is True
    assert agreement.signed_with(root, THEIRS) is False
    (tmp_path / "parts" / f"{1:016x}.made").write_bytes(seal_signed(bytes(104), bytes(32)) + b"torn")
    assert agreement.signed_with(root, MINE) is True


def test_a_folder_that_cannot_be_read_is_no_disagreement(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    agreement.agree(Folder(tmp_path / "file"), MINE)
    agreement.agree(Folder(tmp_path / "nothing", read_only=True), MINE)
    assert not (tmp_path / "nothing").exists()


def test_the_command_line(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "cache"
    load(manifest, directory)

    def run(*arguments: Any) -> tuple[int, Any]:
        code = main([*map(str, arguments), "--json"])
        return code, json.loads(capsys.readouterr().out)

    monkeypatch.setenv(VARIABLE, "of another host")
    for arguments in (
        ("warm", manifest, "--cache-dir", directory, "--cache-mode", "npy", "--img-size", 16),
        ("cache", "explain", manifest.parent / "0.jpg", "--cache-dir", directory, "--img-size", 16),
        ("cache", "purge", directory, "--manifest", manifest, "--group", "p0", "--yes"),
    ):
        code, found = run(*arguments)
        assert (code, found["error"]) == (2, "SecretError"), arguments
        assert "made with another secret" in found["message"]
    code, found = run("cache", "stats", directory)  # what needs no names works
    assert (code, found["entries"], found["features"]) == (0, 3, None)
    assert run("cache", "verify", directory)[0] == 0
    assert run("cache", "gc", directory)[0] == 0
    assert upkeep.stats(directory)["entries"] == 3
    assert run("cache", "purge", directory, "--all", "--yes")[0] == 0
