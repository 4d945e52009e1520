"""Batches of remote files: the bits of local ones, whatever the server does, and a changed object is noticed."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from archives import coded, label_of, manifest_of, noise
from make_images import dicom, jpeg
from servers import Bucket

import dali_pipes as dp
from dali_pipes.cache import objects
from dali_pipes.cli import main
from dali_pipes.files.remote import RemoteFiles

RECIPE = dp.Recipe(size=(8, 8), mean=0.4, std=0.2)


def files() -> dict[str, bytes]:
    found = {f"photos/{i:02d}.jpg": jpeg(noise(i, 40 + i, 50)) for i in range(10)}
    found["deep.dcm"] = dicom(np.arange(30 * 40, dtype=np.uint16).reshape(30, 40) * 3)
    found["a b/ä.png"] = coded(3, "png")
    return found


@pytest.fixture
def both(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dp.Manifest, dp.Manifest]:
    """The same files in a folder and in a bucket."""
    monkeypatch.setattr(objects, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(objects, "PIECE", 3000)
    local = manifest_of(tmp_path / "archive", files())
    for name, data in files().items():
        bucket.put(name, data)
    return local, dp.Manifest.from_csv(local.root / "list.csv", root=bucket.url)  # type: ignore[operator]


def load(manifest: dp.Manifest, **options: Any) -> tuple[torch.Tensor, dict[str, Any]]:
    with dp.Loader(manifest, RECIPE, batch_size=5, backend="torch", **options) as loader:
        images = torch.cat([batch.image for batch in loader])
        return images, loader.stats()


@pytest.mark.parametrize("kinds", [(), ("500", "503", "cut", "drop")])
@pytest.mark.parametrize("mode", ["none", "pinned"])
def test_the_bits_of_local_files(
    both: tuple[dp.Manifest, dp.Manifest], bucket: Bucket, tmp_path: Path, mode: str, kinds: tuple[str, ...]
) -> None:
    local, remote = both
    bucket.faults.kinds, bucket.faults.share = kinds, 0.15 if kinds else 0.0
    options = {"cache_mode": mode, "cache_dir": tmp_path / "cache"} if mode != "none" else {}
    wanted, _ = load(local)
    found, counts = load(remote, **options)
    assert torch.equal(found, wanted)
    assert counts["decoded"] == len(local)
    assert bool(bucket.faults.injected) == bool(kinds)
    if mode == "pinned":
        again, counts = load(remote, **options)
        assert torch.equal(again, wanted)
        assert (counts["decoded"], counts["bytes_read"]) == (0, 0)
        assert {path.name.split(".")[-1] for path in tmp_path.rglob("*") if path.is_file()} >= {"npy", "idx"}


def test_of_trusted_sources_nothing_is_asked(
    both: tuple[dp.Manifest, dp.Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warm epoch makes no request at all; what the cache lacks is asked for and read."""
    local, remote = both
    options = {"cache_mode": "pinned", "cache_dir": tmp_path / "cache", "trust_sources": True}
    load(remote.subset(range(9)), **options)
    asked, stat = [], RemoteFiles.stat
    monkeypatch.setattr(RemoteFiles, "stat", lambda self, path: asked.append(path) or stat(self, path))
    found, counts = load(remote, **options)
    assert torch.equal(found, load(local)[0])
    assert counts["decoded"] == 3
    assert set(asked) == {remote.paths[sample] for sample in (9, 10, 11)}
    asked.clear()
    assert load(remote, **options)[1]["decoded"] == 0
    assert not asked


def test_an_object_that_is_replaced_is_decoded_again(
    both: tuple[dp.Manifest, dp.Manifest], bucket: Bucket, tmp_path: Path
) -> None:
    _, remote = both
    load(remote, cache_mode="pinned", cache_dir=tmp_path / "cache")
    bucket.put("a b/ä.png", coded(17, "png"))
    with dp.Loader(remote, dp.Recipe(8), batch_size=12, backend="torch") as loader:
        fresh = next(iter(loader)).image[11]
    assert label_of(fresh) == 17
    _, counts = load(remote, cache_mode="pinned", cache_dir=tmp_path / "cache")
    assert counts["decoded"] == 1


def test_an_object_that_is_replaced_while_it_is_read(
    both: tuple[dp.Manifest, dp.Manifest], bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read in part of one version and in part of another never becomes a sample."""
    _, remote = both
    real, replaced = RemoteFiles.read, []

    def read(files: RemoteFiles, relative: str, size: int) -> bytes:
        data = real(files, relative, size)
        if relative == "a b/ä.png" and not replaced:
            replaced.append(relative)
            bucket.put(relative, coded(9, "png"))
        return data

    monkeypatch.setattr(RemoteFiles, "read", read)
    with dp.Loader(remote, dp.Recipe(8), batch_size=12, backend="torch") as loader:
        assert label_of(next(iter(loader)).image[11]) == 9
    assert replaced


def test_many_requests_are_in_flight(bucket: Bucket, tmp_path: Path) -> None:
    names = [f"{i:02d}.png" for i in range(40)]
    for i, name in enumerate(names):
        bucket.put(name, coded(i % 20, "png"))
    bucket.faults.kinds, bucket.faults.share = ("slow",), 1.0
    records = [{"path": f"{bucket.url}/{name}", "label": i % 20} for i, name in enumerate(names)]
    manifest = dp.Manifest.from_records(records)
    with dp.Loader(manifest, dp.Recipe(8), batch_size=10, backend="torch", num_workers=2) as loader:
        for batch in loader:
            assert [label_of(image) for image in batch.image] == batch.label.tolist()
    assert bucket.faults.most_at_once > 10


def test_what_is_missing_is_named_and_nothing_secret_is(
    both: tuple[dp.Manifest, dp.Manifest], bucket: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    _, remote = both
    bucket.client.delete_object(Bucket=bucket.url.split("/")[2], Key="archive/photos/04.jpg")
    with caplog.at_level(logging.DEBUG), dp.Loader(remote, RECIPE, batch_size=12, on_error="skip") as loader:
        with pytest.warns(dp.DaliPipesWarning, match="sample 4"):
            batches = list(loader)
        assert [len(batch) for batch in batches] == [11]
        assert list(loader.failures()) == [4]
        told = str(loader.failures())
    assert "no such file" in told
    for text in (told, *(record.getMessage() for record in caplog.records if record.name.startswith("dali_pipes"))):
        assert "secret-of-the-tests" not in text
        assert "Signature" not in text


def test_manifests_lie_behind_urls_too(bucket: Bucket, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    bucket.put("x/a.png", coded(1, "png"))
    bucket.put("list.csv", b"path,label\nx/a.png,1\n")
    pq.write_table(pa.table({"path": ["x/a.png"], "label": [1]}), tmp_path / "list.parquet")
    bucket.put("list.parquet", (tmp_path / "list.parquet").read_bytes())
    full = f"path,label\n{bucket.url}/x/a.png,1\n"
    (tmp_path / "full.csv").write_text(full)
    for manifest in (
        dp.Manifest.from_csv(f"{bucket.url}/list.csv"),
        dp.Manifest.from_parquet(f"{bucket.url}/list.parquet"),
        dp.Manifest.from_csv(tmp_path / "full.csv"),
        dp.Manifest.from_csv(tmp_path / "full.csv", root=bucket.url + "/"),
    ):
        assert manifest.remote
        with dp.Loader(manifest, dp.Recipe(8), batch_size=1, backend="torch") as loader:
            assert label_of(next(iter(loader)).image[0]) == 1
    assert dp.Manifest.concat([dp.Manifest.from_csv(f"{bucket.url}/list.csv")] * 1).remote


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (["s3://a/1.png", "s3://b/2.png"], {}, "not all of one bucket"),
        (["s3://a/1.png"], {"root": "s3://b"}, "below the root s3://b"),
        (["../1.png"], {"root": "s3://b/c"}, "below the root"),
        (["https://x/1.png"], {"root": "https://user:pass@y/c?sig=1"}, "below the root https://y/c,"),
    ],
)
def test_paths_that_lead_elsewhere(rows: list[str], options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with open(tmp_path / "list.csv", "w", newline="") as file:
        csv.writer(file).writerows([["path"], *([row] for row in rows)])
    with pytest.raises(dp.ManifestError, match=message):
        dp.Manifest.from_csv(tmp_path / "list.csv", **options)


def test_what_needs_local_files_says_so(bucket: Bucket) -> None:
    bucket.put("list.csv", b"path\na.png\n")
    manifest = dp.Manifest.from_csv(f"{bucket.url}/list.csv")
    with pytest.raises(dp.ConfigError, match="local files only"):
        manifest.resolve(0)


def test_the_command_line_takes_urls(bucket: Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bucket.put("a.png", coded(1, "png"))
    bucket.put("list.csv", b"path,label\na.png,1\n")
    arguments = ["warm", f"{bucket.url}/list.csv", "--cache-dir", str(tmp_path / "c"), "--img-size", "8", "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["decoded"] == 1
    assert main([*arguments, "--missing"]) == 0


def test_memory_and_data_loader_workers(tmp_path: Path) -> None:
    """A file system without etags that change: the time of creation tells versions apart."""
    system = fsspec.filesystem("memory")
    for i in range(4):
        system.pipe(f"/loading/{i}.png", coded(i, "png"))
    manifest = dp.Manifest.from_records([{"path": f"memory://loading/{i}.png", "label": i} for i in range(4)])
    with dp.Loader(manifest, dp.Recipe(8), batch_size=4, cache_mode="npy", cache_dir=tmp_path / "c") as loader:
        assert [label_of(image) for image in next(iter(loader)).image] == [0, 1, 2, 3]
    dataset = dp.ImageDataset(manifest, dp.Recipe(8))
    workers = torch.utils.data.DataLoader(dataset, batch_size=2, num_workers=1)
    assert [label_of(image) for images, *_ in workers for image in images] == [0, 1, 2, 3]
    dataset.close()
    system.rm("/loading", recursive=True)
