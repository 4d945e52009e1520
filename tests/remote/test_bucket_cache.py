"""A cache in a bucket: one reader of a warm one decodes nothing, whatever the server does, and no pixel is wrong."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import coded, manifest_of
from make_images import dicom
from servers import Bucket

import dali_pipes as dp
from dali_pipes.cache import SecretError, objects, open_store, push
from dali_pipes.cache import bucket as bucket_module
from dali_pipes.cli import main
from tests.settled import settle

RECIPE = dp.Recipe(12, depth=16)


@pytest.fixture
def samples(tmp_path: Path) -> dp.Manifest:
    files = {f"{i:02d}.jpg": coded(i % 20) for i in range(24)}
    files["frames.dcm"] = dicom(list(np.arange(5 * 6 * 7, dtype=np.uint8).reshape(5, 6, 7)))
    root = Path(manifest_of(tmp_path / "archive", files).root)
    lines = ["path,frame,label", *(f"{name},0,{i % 20}" for i, name in enumerate(list(files)[:24]))]
    lines += [f"frames.dcm,{frame},21" for frame in range(5)]
    (root / "list.csv").write_text("\n".join(lines))
    settle(root)
    return dp.Manifest.from_csv(root / "list.csv")


@pytest.fixture
def warm(samples: dp.Manifest, tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a bucket to which a warm cache was pushed."""
    monkeypatch.setattr(objects, "FIRST_PAUSE", 0.001)
    dp.warm(samples, RECIPE, tmp_path / "warm", num_workers=1)
    url = f"{bucket.url}/cache"
    found = push(tmp_path / "warm", url)
    assert found["pushed"] == 50  # images, and the attributes of each
    assert found["sources"] == 25
    return url


def epoch(samples: dp.Manifest, where: Path, url: str | None, epochs: int = 1, **options: Any) -> tuple[Any, Any]:
    more = {"base": url, "over": "pinned", **options} if url else {}
    mode = {"cache_mode": "tiered", "cache_dir": where, "cache_options": more} if url else {}
    with dp.Loader(samples, RECIPE, batch_size=6, backend="torch", **mode) as loader:
        batches = [batch.image.numpy().tobytes() for _ in range(epochs) for batch in loader]
        return batches, loader.stats()


@pytest.mark.parametrize("kinds", [(), ("500", "cut", "slow"), ("503", "drop")])
def test_a_reader_of_a_warm_bucket_decodes_nothing(
    samples: dp.Manifest, tmp_path: Path, bucket: Bucket, warm: str, kinds: tuple[str, ...]
) -> None:
    wanted, _ = epoch(samples, tmp_path, None)
    bucket.faults.kinds, bucket.faults.share = kinds, 0.12 if kinds else 0.0
    got, stats = epoch(samples, tmp_path / "near", warm)
    assert got == wanted
    assert (stats["decoded"], stats["bytes_read"]) == (0, 0), "no source file was even read"
    assert bool(bucket.faults.injected) == bool(kinds)
    bucket.faults.kinds, bucket.faults.share = (), 0.0
    before = len(bucket.faults.requests)
    got, stats = epoch(samples, tmp_path / "near", warm)
    assert got == wanted
    assert stats["decoded"] == 0
    assert not [path for method, path in bucket.faults.requests[before:] if ".npy" in path], "all is near now"


def test_many_entries_are_asked_for_at_once(samples: dp.Manifest, tmp_path: Path, bucket: Bucket, warm: str) -> None:
    bucket.faults.kinds, bucket.faults.share = ("slow",), 1.0
    bucket.faults.most_at_once = 0
    with dp.Loader(
        samples, RECIPE, batch_size=29, backend="torch", num_workers=2,
        cache_mode="tiered", cache_dir=tmp_path / "near", cache_options={"base": warm},
    ) as loader:  # fmt: skip
        list(loader)
        assert loader.stats()["decoded"] == 0
    assert bucket.faults.most_at_once > 10


def test_damage_and_loss_in_the_bucket_cost_a_decode(
    samples: dp.Manifest, tmp_path: Path, bucket: Bucket, warm: str
) -> None:
    wanted, _ = epoch(samples, tmp_path, None)
    name, prefix = bucket.url.split("/")[2], "archive/cache/pinned/"
    held = [each["Key"] for each in bucket.client.list_objects_v2(Bucket=name, Prefix=prefix)["Contents"]]
    for number, at in enumerate(each for each in held if each.endswith(".npy")):
        data = bytearray(bucket.client.get_object(Bucket=name, Key=at)["Body"].read())
        data[4200 + 300 * number] ^= 1
        bucket.client.put_object(Bucket=name, Key=at, Body=bytes(data))
    got, stats = epoch(samples, tmp_path / "near", warm)
    assert got == wanted
    assert 1 <= stats["decoded"] <= 4
    assert stats["cache"]["corrupt"] >= 1
    for each in held:
        bucket.client.delete_object(Bucket=name, Key=each)
    got, stats = epoch(samples, tmp_path / "other", warm)
    assert got == wanted
    assert stats["decoded"] == 25


def test_an_object_that_vanishes_or_stays_broken_in_mid_run(
    samples: dp.Manifest, tmp_path: Path, bucket: Bucket, warm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, _ = epoch(samples, tmp_path, None)
    more = {"cache_mode": "tiered", "cache_dir": tmp_path / "near", "cache_options": {"base": warm}}
    with dp.Loader(samples, RECIPE, batch_size=6, backend="torch", num_workers=1, **more) as loader:
        bucket.faults.kinds, bucket.faults.share = ("500",), 1.0
        assert [batch.image.numpy().tobytes() for batch in loader] == wanted
        assert loader.stats()["decoded"] == 25


def test_a_server_that_is_too_slow_is_not_waited_for(
    samples: dp.Manifest, tmp_path: Path, bucket: Bucket, warm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, _ = epoch(samples, tmp_path, None)
    monkeypatch.setattr(bucket_module, "PATIENCE", 0.05)
    more = {"cache_mode": "tiered", "cache_dir": tmp_path / "near", "cache_options": {"base": warm}}
    with dp.Loader(samples, RECIPE, batch_size=6, backend="torch", num_workers=1, **more) as loader:
        bucket.faults.kinds, bucket.faults.share = ("slow",), 1.0
        assert [batch.image.numpy().tobytes() for batch in loader] == wanted
        assert loader.stats()["decoded"] == 25


def test_push_by_the_command_line_with_faults(
    samples: dp.Manifest, tmp_path: Path, bucket: Bucket, warm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket.faults.kinds, bucket.faults.share = ("500", "cut", "drop"), 0.2
    for pushed in (50, 0):
        assert main(["cache", "push", str(tmp_path / "warm"), f"{bucket.url}/again", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["pushed"], found["present"]) == (pushed, 50 - pushed)
    bucket.faults.share = 0.0
    assert epoch(samples, tmp_path / "near", f"{bucket.url}/again")[1]["decoded"] == 0
    assert main(["cache", "push", str(tmp_path / "warm"), str(tmp_path / "there")]) == 2
    assert "is no URL" in capsys.readouterr().err
    assert main(["cache", "push", str(tmp_path / "warm")]) == 2


def test_warm_takes_what_the_bucket_has(
    samples: dp.Manifest, tmp_path: Path, bucket: Bucket, warm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--cache-dir", str(tmp_path / "near"), "--img-size", "12", "--depth", "16", "--json"]
    arguments = ["warm", f"{samples.root}/list.csv", *where, "--num-workers", "1"]
    assert main([*arguments, "--missing"]) == 1
    assert json.loads(capsys.readouterr().out)["missing"] == 29
    assert main([*arguments, "--base", warm, "--missing"]) == 0
    capsys.readouterr()
    assert main([*arguments, "--base", warm]) == 0
    assert json.loads(capsys.readouterr().out)["decoded"] == 0
    assert main([*arguments, "--missing"]) == 0, "it is here now"
    capsys.readouterr()
    more = ["--base", str(tmp_path / "warm"), "--cache-dir", str(tmp_path / "own"), "--cache-mode", "tiered"]
    assert main([*arguments, *more]) == 0
    assert json.loads(capsys.readouterr().out)["decoded"] == 25, "over npy, which that folder does not hold"


def test_another_host_with_another_secret(
    samples: dp.Manifest, tmp_path: Path, warm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DALI_PIPES_CACHE_SECRET", "of another host")
    with pytest.raises(SecretError, match="made with another secret"):
        epoch(samples, tmp_path / "near", warm)


def test_nothing_secret_is_said(
    samples: dp.Manifest, tmp_path: Path, bucket: Bucket, warm: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        bucket.faults.kinds, bucket.faults.share = ("500",), 1.0
        with open_store("tiered", tmp_path / "near", base=warm) as store:
            assert store.keys() == []
            told = str(store.stats())
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("dali_pipes")]
    assert ours
    for text in (told, *ours):
        assert "secret-of-the-tests" not in text
        assert "Signature" not in text
