"""`dali-pipes cache`: what it prints, what it changes, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dali_pipes as dp
from dali_pipes.cache import Key, open_store
from dali_pipes.cli import main
from dali_pipes.cli.common import size as size_of
from tests.make_images import jpeg
from tests.settled import three_photos

Command = Callable[..., tuple[int, Any]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `dali-pipes cache ... --json`; its exit code and document."""

    def run(*arguments: Any) -> tuple[int, Any]:
        code = main(["cache", *map(str, arguments), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Three JPEGs of two groups."""
    return three_photos(tmp_path / "images")


@pytest.fixture
def warm(manifest: Path, tmp_path: Path) -> Path:
    """A cache of the three at two sizes."""
    for size in (16, 24):
        warm_up(manifest, tmp_path / "cache", size)
    return tmp_path / "cache"


def warm_up(manifest: Path, directory: Path, size: int) -> int:
    """How many it decoded."""
    images = dp.Manifest.from_csv(manifest)
    with dp.Loader(images, dp.Recipe(size=size), batch_size=2, cache_mode="npy", cache_dir=directory) as loader:
        list(loader)
        return int(loader.stats()["decoded"])


def test_stats(command: Command, warm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = command("stats", warm)
    assert (code, found["entries"], found["sources"], found["unknown"]) == (0, 6, 3, 0)
    assert main(["cache", "stats", str(warm)]) == 0
    assert "npy" in capsys.readouterr().out


def test_verify_fails_where_an_entry_is_damaged(command: Command, warm: Path) -> None:
    code, found = command("verify", warm)
    assert (code, found["entries"], found["corrupt"], found["orphans"]) == (0, 6, 0, 0)
    victim = next((warm / "npy").rglob("*.npy"))
    victim.write_bytes(victim.read_bytes()[:-20] + bytes(20))
    code, found = command("verify", warm)
    assert (code, found["entries"], found["corrupt"], found["keys"]) == (1, 5, 1, [victim.stem])
    assert command("verify", warm, "--repair")[0] == 1
    assert command("verify", warm)[0] == 0
    code, found = command("gc", warm, "--dry-run")
    assert (code, found["quarantined"]) == (0, 1)
    assert command("gc", warm)[1]["quarantined"] == 1
    assert command("gc", warm)[1]["quarantined"] == 0


def test_verify_of_keyed_checksums_takes_their_secret(command: Command, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"k" * 32)
    with open_store("npy", tmp_path / "cache", secret=b"k" * 32) as store:
        store.put(Key.of(a=1), np.arange(3))
    assert command("verify", tmp_path / "cache", "--secret-file", tmp_path / "secret")[0] == 0
    assert command("verify", tmp_path / "cache")[0] == 1


def test_gc_keeps_a_budget(command: Command, warm: Path) -> None:
    assert command("gc", warm, "--disk-bytes", 9000)[1]["evicted"] > 0
    assert command("stats", warm)[1]["bytes"] <= 9000
    code, found = command("gc", warm, "--disk-bytes", 0)
    assert (code, found["error"]) == (2, "ConfigError")


def test_purge_of_everything_needs_a_yes(command: Command, warm: Path) -> None:
    (warm / "mine.txt").write_text("mine")
    code, found = command("purge", warm, "--all")
    assert (code, found["dry_run"], found["unknown"]) == (0, True, 1)
    assert command("stats", warm)[1]["entries"] == 6
    assert command("purge", warm, "--all", "--yes")[0] == 0
    assert command("stats", warm)[1]["entries"] == 0
    assert (warm / "mine.txt").read_text() == "mine"


def test_purge_of_a_group_takes_all_that_was_made_of_its_files(command: Command, warm: Path, manifest: Path) -> None:
    which = ("--manifest", manifest, "--group", "p1")
    assert command("purge", warm, *which)[1]["entries"] == 4
    assert command("stats", warm)[1]["entries"] == 6
    (manifest.parent / "2.jpg").unlink()  # the cache remembers what it held
    assert command("purge", warm, *which, "--yes")[1]["entries"] == 4
    assert command("stats", warm)[1]["entries"] == 2
    assert command("purge", warm, "--manifest", manifest, "--id", "a", "--yes")[1]["entries"] == 2
    assert command("stats", warm)[1]["entries"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "say what"),
        (("--all", "--id", "a"), "say what"),
        (("--id", "a"), "need --manifest"),
        (("--manifest", "M", "--id", "x", "--group", "y"), "has no 'x', 'y'"),
    ],
)
def test_purge_wants_to_know_what(
    command: Command, warm: Path, manifest: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, found = command("purge", warm, *(manifest if each == "M" else each for each in arguments), "--yes")
    assert code == 2
    assert message in found["message"]
    assert command("stats", warm)[1]["entries"] == 6


def test_explain_says_part_by_part(command: Command, warm: Path, manifest: Path) -> None:
    file = manifest.parent / "1.jpg"
    code, found = command("explain", file, "--cache-dir", warm, "--img-size", 16)
    assert (code, found["hit"], found["modes"]) == (0, True, {"npy": "good"})
    assert set(found["parts"].values()) == {"same"}
    code, found = command(
        "explain", "1.jpg", "--root", manifest.parent, "--cache-dir", warm, "--fit", "pad", "--img-size", 16
    )
    assert (code, found["hit"], found["file_changed"]) == (0, False, False)
    assert [name for name, state in found["parts"].items() if state == "differs"] == ["fit"]
    assert found["values"]["fit"] == '"pad"'


def test_explain_says_why_in_words(
    command: Command, warm: Path, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = manifest.parent / "1.jpg"

    def words(*arguments: Any) -> str:
        assert main(["cache", "explain", str(file), "--cache-dir", str(warm), *arguments]) == 0
        return capsys.readouterr().out

    assert "Hit: npy holds" in words("--img-size", "24")
    assert "made with another channels, another size" in words("--img-size", "99", "--channels", "1")
    key = command("explain", file, "--cache-dir", warm, "--img-size", 24)[1]["key"]
    entry = next((warm / "npy").rglob(f"{key}*"))
    entry.write_bytes(entry.read_bytes()[:-20] + bytes(20))
    assert "damaged" in words("--img-size", "24")
    entry.unlink()
    assert "evicted or removed" in words("--img-size", "24")
    file.write_bytes(jpeg(np.zeros((9, 9, 3), np.uint8)))
    assert "it has changed since" in words("--img-size", "24")
    stranger = manifest.parent / "new.jpg"
    stranger.write_bytes(jpeg(np.ones((8, 8, 3), np.uint8)))
    file = stranger
    assert "nothing was ever made" in words("--img-size", "24")


def test_what_explain_foretells_happens(command: Command, warm: Path, manifest: Path) -> None:
    for size, hit in ((24, True), (25, False)):
        assert command("explain", manifest.parent / "0.jpg", "--cache-dir", warm, "--img-size", size)[1]["hit"] is hit
        assert warm_up(manifest, warm, size) == (0 if hit else 3)


def test_a_folder_that_is_no_cache_is_a_usage_error(command: Command, tmp_path: Path) -> None:
    for name in ("stats", "verify", "gc"):
        code, found = command(name, tmp_path)
        assert (code, found["error"]) == (2, "StoreConfigError")
    code, found = command("purge", tmp_path, "--all", "--yes")
    assert code == 2
    assert command("explain", tmp_path / "nothing", "--cache-dir", tmp_path)[0] == 2


def test_sizes_for_people() -> None:
    assert [size_of(n) for n in (0, 1023, 1024, 1 << 20, 5 << 30, 3 << 40)] == [
        "0 B", "1023 B", "1.0 KiB", "1.0 MiB", "5.0 GiB", "3.0 TiB",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["stats", "verify", "gc", "purge"])
def test_every_cache_command_takes_its_folder_either_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    folder = str(tmp_path / "cache")
    store = open_store("npy", folder)
    store.put(Key.of(a=1), np.arange(3))
    store.close()
    more = ["--all"] if name == "purge" else []
    found = []
    for way in ([folder], ["--cache-dir", folder], [folder, "--cache-dir", folder]):
        assert main(["cache", name, *way, *more, "--json"]) == 0
        found.append(capsys.readouterr().out)
    assert found[0] == found[1] == found[2]
    for wrong in ([], [folder, "--cache-dir", str(tmp_path)]):
        assert main(["cache", name, *wrong, *more]) == 2
        assert f"cache {name}: give one folder, as DIR or as --cache-dir DIR" in capsys.readouterr().err


@pytest.mark.parametrize("command", [("import", "other", "cache"), ("export", "cache", "out"), ("verify", "cache")])
def test_an_empty_file_is_no_secret(
    command: tuple[str, ...], warm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").write_bytes(b"")
    name, *folders = command
    places = [str(tmp_path / folder) for folder in folders]
    assert main(["cache", name, *places, "--secret-file", str(tmp_path / "empty")]) == 2
    assert "secret has 0 bytes; 16 to 64 are allowed" in capsys.readouterr().err
