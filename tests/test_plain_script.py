"""What a user must act on is seen in a plain script, which configures neither logging nor warnings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from archives import coded, manifest_of

import dali_pipes as dp

SCRIPT = """
import sys
import dali_pipes as dp

manifest = dp.Manifest.from_csv(sys.argv[1])
options = {"cache_mode": sys.argv[4], "cache_dir": sys.argv[2]}
if sys.argv[3] == "Loader":
    data = dp.Loader(manifest, dp.Recipe(8), batch_size=2, backend="torch", **options)
    count = sum(len(batch) for batch in data)
else:
    data = dp.ImageDataset(manifest, dp.Recipe(8), **options)
    count = sum(1 for _ in map(data.__getitem__, range(len(data))))
assert count == 6
"""


@pytest.fixture
def archive(tmp_path: Path) -> dp.Manifest:
    return manifest_of(tmp_path, {f"{i}.img": coded(i) for i in range(6)})


def told(archive: dp.Manifest, folder: Path, kind: str, mode: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(Path(archive.root) / "list.csv"), str(folder), kind, mode],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parent.parent,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("kind", ["Loader", "ImageDataset"])
@pytest.mark.parametrize("mode", ["npy", "pinned"])
def test_a_cache_that_cannot_be_written_is_seen(archive: dp.Manifest, tmp_path: Path, kind: str, mode: str) -> None:
    (tmp_path / "file").write_text("no folder")
    seen = told(archive, tmp_path / "file" / "cache", kind, mode)
    assert seen.count(f"the cache in {tmp_path / 'file' / 'cache'} cannot write (") == 1
    assert "Not a directory" in seen
    assert "going on without it; later failures are only counted" in seen


@pytest.mark.parametrize("kind", ["Loader", "ImageDataset"])
def test_a_damaged_entry_is_seen(archive: dp.Manifest, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "cache"
    assert told(archive, folder, kind, "npy") == ""
    for entry in folder.rglob("*.npy"):
        data = bytearray(entry.read_bytes())
        data[-200] ^= 1
        entry.write_bytes(data)
    seen = told(archive, folder, kind, "npy")
    assert seen.count(f"the npy cache in {folder} holds a damaged entry (") == 1
    assert "rebuilding it" in seen
    assert told(archive, folder, kind, "npy") == ""
