"""Hosts without a shared folder: each warms its shard into a cache of its own, and one of them imports all parts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import coded, manifest_of
from make_images import dicom

import dali_pipes as dp
from dali_pipes.cache import DISK_MODES
from dali_pipes.cache.objects import Objects
from dali_pipes.cli import main
from tests.settled import settle

Command = Callable[..., tuple[int, Any]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `dali-pipes ... --json`; its exit code and document."""

    def run(*arguments: Any) -> tuple[int, Any]:
        code = main([*map(str, arguments), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Twelve photos, and a DICOM file of five frames."""
    files = {f"{i:02d}.jpg": coded(i) for i in range(12)}
    files["frames.dcm"] = dicom(list(np.arange(5 * 6 * 7, dtype=np.uint8).reshape(5, 6, 7)))
    root = Path(manifest_of(tmp_path / "archive", files).root)
    lines = ["path,frame,label,group", *(f"{name},0,{i},p{i % 3}" for i, name in enumerate(list(files)[:12]))]
    lines += [f"frames.dcm,{frame},12,p9" for frame in range(5)]
    (root / "list.csv").write_text("\n".join(lines))
    settle(root)
    return root / "list.csv"


def warm(command: Command, manifest: Path, directory: Path, mode: str, *more: Any) -> Any:
    arguments = ("warm", manifest, "--cache-dir", directory, "--cache-mode", mode, "--img-size", 8, "--num-workers", 1)
    code, found = command(*arguments, *more)
    assert code == 0
    return found


def batches(manifest: Path, mode: str, directory: Path | None, **recipe: Any) -> tuple[list[bytes], dict[str, Any]]:
    samples = dp.Manifest.from_csv(manifest)
    options = {"cache_mode": mode, "cache_dir": directory} if directory else {}
    with dp.Loader(samples, dp.Recipe(8, **recipe), batch_size=5, backend="torch", **options) as loader:
        return [batch.image.numpy().tobytes() for batch in loader], loader.stats()


@pytest.mark.parametrize("mode", [*DISK_MODES, "tiered"])
def test_what_two_hosts_decoded_nobody_decodes_again(
    command: Command, manifest: Path, tmp_path: Path, mode: str
) -> None:
    decoded = [warm(command, manifest, tmp_path / f"{n}", mode, "--shard", f"{n}/2")["decoded"] for n in range(2)]
    assert sum(decoded) == 17
    assert min(decoded) > 0
    code, found = command("cache", "import", tmp_path / "whole", tmp_path / "0", tmp_path / "1")
    assert (code, found["imported"], found["sources"], found["notes"]) == (0, 17, 13, 17)
    for part in ("0", "1"):
        shutil.rmtree(tmp_path / part)
    got, stats = batches(manifest, mode, tmp_path / "whole")
    assert (stats["decoded"], stats["bytes_read"], stats["hits"]) == (0, 0, 17), "no source file was even read"
    assert got == batches(manifest, "none", None)[0]


def test_what_depth_16_and_crops_keep_beside_images_travels_too(manifest: Path, tmp_path: Path) -> None:
    from dali_pipes.cache import transfer

    recipe = {"depth": 16, "base_size": 12, "augment": dp.Augment(crop=True)}
    wanted, _ = batches(manifest, "pinned", tmp_path / "one", **recipe)
    transfer.import_parts(tmp_path / "whole", [tmp_path / "one"])
    got, stats = batches(manifest, "pinned", tmp_path / "whole", **recipe)
    assert (got, stats["decoded"], stats["bytes_read"]) == (wanted, 0, 0)


def test_import_twice_and_with_damage(command: Command, manifest: Path, tmp_path: Path) -> None:
    for number in range(2):
        warm(command, manifest, tmp_path / f"{number}", "npy", "--shard", f"{number}/2")
    victim = sorted((tmp_path / "0" / "npy").rglob("*.npy"))[0]
    victim.write_bytes(victim.read_bytes()[:-70] + bytes(70))
    code, found = command("cache", "import", "--cache-dir", tmp_path / "whole", tmp_path / "0", tmp_path / "1")
    assert (code, found["imported"], found["damaged"]) == (1, 16, 1)
    assert found["parts"][0]["damaged"] == [victim.stem]
    code, found = command("cache", "import", tmp_path / "whole", tmp_path / "1", "--copy")
    assert (code, found["imported"], found["linked"]) == (0, 0, 0)
    assert warm(command, manifest, tmp_path / "whole", "npy")["decoded"] == 1
    assert command("cache", "import", tmp_path / "whole", tmp_path / "0")[1]["damaged"] == 1
    assert warm(command, manifest, tmp_path / "whole", "npy")["decoded"] == 0


def test_purge_of_a_group_finds_what_was_imported(command: Command, manifest: Path, tmp_path: Path) -> None:
    warm(command, manifest, tmp_path / "part", "pinned")
    command("cache", "import", tmp_path / "whole", tmp_path / "part")
    code, found = command("cache", "purge", tmp_path / "whole", "--manifest", manifest, "--group", "p0", "--yes")
    assert (code, found["entries"]) == (0, 4)
    assert warm(command, manifest, tmp_path / "whole", "pinned")["decoded"] == 4


def test_export_and_other_checksums(command: Command, manifest: Path, tmp_path: Path) -> None:
    warm(command, manifest, tmp_path / "cache", "npy")
    (tmp_path / "secret").write_bytes(b"k" * 32)
    (tmp_path / "empty").write_bytes(b"")
    code, found = command(
        "cache", "export", tmp_path / "cache", tmp_path / "out", "--new-secret-file", tmp_path / "secret"
    )
    assert (code, found["imported"], found["linked"]) == (0, 17, 0)
    assert command("cache", "verify", tmp_path / "out", "--secret-file", tmp_path / "secret")[0] == 0
    assert command("cache", "verify", tmp_path / "out")[0] == 1
    files = ("--secret-file", tmp_path / "secret", "--new-secret-file", tmp_path / "empty")
    assert command("cache", "export", tmp_path / "out", tmp_path / "again", *files)[1]["imported"] == 17
    assert batches(manifest, "npy", tmp_path / "again")[1]["decoded"] == 0
    assert command("cache", "export", "--cache-dir", tmp_path / "cache", tmp_path / "linked")[1]["linked"] == 17


def test_a_base_that_cannot_be_reached_is_gone_without(
    command: Command, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Objects) -> dict[str, int]:
        raise ConnectionError("4 requests failed")

    monkeypatch.setattr(Objects, "sizes", fail)
    found = warm(command, manifest, tmp_path / "cache", "pinned", "--base", "s3://no-bucket/cache")
    assert (found["decoded"], found["cache_errors"]) == (17, 0)
    assert warm(command, manifest, tmp_path / "cache", "pinned")["hits"] == 17


def test_wrong_usage(command: Command, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warm(command, manifest, tmp_path / "a", "npy")
    for arguments in (
        ("import", tmp_path / "a"),
        ("export", tmp_path / "a"),
        ("export", tmp_path / "a", tmp_path / "b", tmp_path / "c"),
    ):
        code, found = command("cache", *arguments)
        assert (code, found["error"]) == (2, "ConfigError")
        assert "give the cache, as DIR or as --cache-dir DIR, and" in found["message"]
    assert command("cache", "import", tmp_path / "b", tmp_path)[1]["error"] == "StoreConfigError"
    monkeypatch.setenv("DALI_PIPES_CACHE_SECRET", "of another host")
    warm(command, manifest, tmp_path / "other", "npy")
    code, found = command("cache", "import", tmp_path / "whole", tmp_path / "a", tmp_path / "other")
    assert (code, found["error"]) == (2, "SecretError")
    assert "re-key a copy" in found["message"]


VARIABLE = "DALI_PIPES_CACHE_SECRET"


@pytest.mark.parametrize("mode", DISK_MODES)
def test_a_copy_for_a_host_with_another_secret(
    command: Command, manifest: Path, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm(command, manifest, tmp_path / "cache", mode)
    warm(command, manifest, tmp_path / "cache", mode, "--fit", "pad")
    (tmp_path / "theirs").write_text("of another host\n")
    again = ("cache", "export", tmp_path / "cache", tmp_path / "out", "--rekey", tmp_path / "theirs")
    again = (*again, "--manifest", manifest, "--img-size", 8)
    code, found = command(*again)
    assert (code, found["imported"], found["sources"], found["notes"]) == (0, 17, 13, 17)
    assert (found["left"], found["unreadable"]) == (17, 0)
    wanted, _ = batches(manifest, "none", None)
    monkeypatch.setenv(VARIABLE, "of another host")
    got, stats = batches(manifest, mode, tmp_path / "out")
    assert (got, stats["decoded"], stats["bytes_read"]) == (wanted, 0, 0)
    monkeypatch.undo()
    code, found = command(*again)
    assert (code, found["imported"], found["present"], found["sources"], found["notes"]) == (0, 0, 17, 0, 0)
    assert command(*again, "--fit", "pad")[1]["imported"] == 17
    monkeypatch.setenv(VARIABLE, "of another host")
    code, found = command("cache", "purge", tmp_path / "out", "--manifest", manifest, "--group", "p0", "--yes")
    assert found["entries"] == 8
    assert command("cache", "verify", tmp_path / "out")[1]["entries"] == 26


def test_a_copy_with_other_names_holds_attributes_sizes_and_masks(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dali_pipes.cache import secret_in
    from dali_pipes.rekeying import rekey
    from tests.make_images import raster

    rng, lines = np.random.default_rng(0), ["path,label,mask"]
    for i in range(4):
        (manifest.parent / f"m{i}.png").write_bytes(raster(rng.integers(0, 3, (30, 30), dtype=np.uint8), "png"))
        (manifest.parent / f"i{i}.png").write_bytes(raster(rng.integers(0, 255, (30, 30), dtype=np.uint8), "png"))
        lines.append(f"i{i}.png,{i},m{i}.png" if i else f"i{i}.png,{i},")
    (manifest.parent / "masks.csv").write_text("\n".join(lines))
    settle(manifest.parent)
    samples, recipe = dp.Manifest.from_csv(manifest.parent / "masks.csv"), dp.Recipe(8, channels=1, depth=16)

    def run(directory: Path | None) -> tuple[list[bytes], dict[str, Any]]:
        options: dict[str, Any] = {"cache_mode": "pinned", "cache_dir": directory} if directory else {}
        with dp.Loader(samples, recipe, batch_size=4, backend="torch", matrix=True, **options) as loader:
            return [b.image.numpy().tobytes() + b.mask.numpy().tobytes() for b in loader], loader.stats()

    wanted, _ = run(tmp_path / "cache")
    (tmp_path / "theirs").write_bytes(bytes(range(100, 132)))
    told: list[tuple[int, int]] = []
    names = secret_in(tmp_path / "theirs")
    found = rekey(
        samples, recipe, tmp_path / "cache", tmp_path / "out", names, progress=lambda *done: told.append(done)
    )
    assert (found["left"], found["damaged"], told[-1]) == (0, 0, (4, 4))
    (tmp_path / "home" / "dali-pipes").mkdir(parents=True)
    (tmp_path / "home" / "dali-pipes" / "cache-secret").write_bytes(names)
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    got, stats = run(tmp_path / "out")
    assert (got, stats["decoded"], stats["masks"]["decoded"], stats["bytes_read"]) == (wanted, 0, 0, 0)


def test_what_is_left_is_counted_where_samples_are_alike(manifest: Path, tmp_path: Path) -> None:
    from dali_pipes.rekeying import rekey

    shutil.copy(manifest.parent / "00.jpg", manifest.parent / "alike.jpg")
    manifest.write_text("path\n00.jpg\nalike.jpg\n01.jpg\n")
    settle(manifest.parent)
    samples = dp.Manifest.from_csv(manifest)
    for size in (8, 12):
        dp.warm(samples, dp.Recipe(size), tmp_path / "cache", num_workers=1)
    for imported in (2, 0):
        found = rekey(samples, dp.Recipe(8), tmp_path / "cache", tmp_path / "out", bytes(32))
        assert (found["imported"], found["present"], found["left"]) == (imported, 2 - imported, 2)


def test_wrong_usage_of_rekey(command: Command, manifest: Path, tmp_path: Path) -> None:
    warm(command, manifest, tmp_path / "cache", "npy")
    (tmp_path / "text").write_text("of another host")
    (tmp_path / "short").write_bytes(b"\0" * 9)
    base = ("cache", "export", tmp_path / "cache", tmp_path / "out")
    for arguments, message in (
        (("--rekey", tmp_path / "text"), "go together"),
        (("--manifest", manifest), "go together"),
        (("--rekey", tmp_path / "text", "--manifest", manifest, "--copy"), "leave --mode and --copy"),
        (("--rekey", tmp_path / "short", "--manifest", manifest), "holds 9 bytes"),
    ):
        code, found = command(*base, *arguments)
        assert code == 2
        assert message in found["message"]
    assert not (tmp_path / "out").exists()
    (manifest.parent / "03.jpg").unlink()
    code, found = command(*base, "--rekey", tmp_path / "text", "--manifest", manifest, "--img-size", 8)
    assert (code, found["unreadable"], found["left"], found["imported"]) == (1, 1, 1, 16)
