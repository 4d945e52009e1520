"""Features lie in the store as plain arrays, survive what happens to stores, and what could not be written is told."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from feature_modules import CALLS, Counting, Returns, nested
from PIL import Image
from torch import nn

import dali_pipes as dp
from dali_pipes import cache
from dali_pipes.cache import Key, files, upkeep
from dali_pipes.cli import main


@pytest.fixture(autouse=True)
def _calls() -> None:
    CALLS.clear()


def make(folder: Path, module: nn.Module | None = None, **more: Any) -> dp.CachedModule:
    return dp.CachedModule(Counting() if module is None else module, folder, check_batch=False, **more)


def x_of(count: int, start: int = 0) -> torch.Tensor:
    return torch.stack([torch.full((4,), float(at)) for at in range(start, start + count)])


def segments(folder: Path, width: int) -> list[Path]:
    return [path for path in (folder / "pinned").glob("*.npy") if np.load(path, mmap_mode="r").shape[1:] == (width,)]


def test_outputs_of_one_tensor_lie_in_plain_arrays(tmp_path: Path) -> None:
    with make(tmp_path) as cached:
        y = cached(x_of(5), cache_ids=range(5))
    (path,) = [each for each in segments(tmp_path, 3) if np.load(each, mmap_mode="r").dtype == np.float32]
    assert np.array_equal(np.load(path, mmap_mode="r")[:5], y.numpy())
    assert not [name for name in os.listdir(tmp_path) if "pickle" in name or name.endswith((".pt", ".pkl"))]


def test_nothing_on_disk_tells_an_id(tmp_path: Path) -> None:
    names = [f"CANARY-patient-{at}" for at in range(20)]
    with make(tmp_path) as cached:
        cached(x_of(20), cache_ids=names)
    for path in tmp_path.rglob("*"):
        assert "CANARY" not in path.name
        assert path.is_dir() or b"CANARY" not in path.read_bytes()


def test_flush_returns_when_all_is_published(tmp_path: Path) -> None:
    """The last batch too, at once, for who has the store open already."""
    with make(tmp_path) as other, make(tmp_path) as cached:
        for at in range(0, 40, 4):
            cached(x_of(4, at), cache_ids=range(at, at + 4))
        cached.flush()
        assert cached.stats()["pending"] == 0
        other(x_of(40), cache_ids=range(40))
        assert other.stats()["computed"] == 0


def test_without_a_thread_a_call_returns_when_it_is_written(tmp_path: Path) -> None:
    with make(tmp_path, async_write=False) as cached, make(tmp_path) as other:
        cached(x_of(4), cache_ids=range(4))
        other(x_of(4), cache_ids=range(4))
        assert other.stats()["computed"] == 0


def broken(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_write_that_fails_is_told_at_flush_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make(tmp_path) as cached:
        with monkeypatch.context() as patch:
            patch.setattr(files.Folder, "write_at", broken)
            assert torch.equal(cached(x_of(4), cache_ids=range(4)), Counting()(x_of(4)))
            with pytest.raises(cache.StoreIOError, match="could not keep the features of 4 samples"):
                cached.flush()
        cached.flush()  # told once
        cached(x_of(4), cache_ids=range(4))
        assert cached.stats()["computed"] == 8
        cached.flush()
    with make(tmp_path) as cached:
        cached(x_of(4), cache_ids=range(4))
        assert cached.stats()["computed"] == 0


def test_a_write_that_fails_is_told_at_the_next_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = make(tmp_path, cache_options={"strict": True})
    with monkeypatch.context() as patch:
        patch.setattr(files.Folder, "write_at", broken)
        cached(x_of(4), cache_ids=range(4))
        with cached._writer._change:
            while cached._writer._unfinished:
                cached._writer._change.wait()
        with pytest.raises(cache.StoreIOError):
            cached(x_of(4), cache_ids=range(4))
    assert torch.equal(cached(x_of(4), cache_ids=range(4)), Counting()(x_of(4)))
    cached.close()


def test_what_waits_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dali_pipes.features import module

    monkeypatch.setattr(module, "PENDING", 100)
    with make(tmp_path) as cached:
        for at in range(30):
            cached(x_of(2, at * 2), cache_ids=range(at * 2, at * 2 + 2))
            assert cached._writer.pending <= 6  # 24 bytes each, and the one in work
    with make(tmp_path) as cached:
        cached(x_of(60), cache_ids=range(60))
        assert cached.stats()["computed"] == 0


def test_read_only_and_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with make(tmp_path) as cached:
        cached(x_of(2), cache_ids=range(2))
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with make(tmp_path, cache_options={"read_only": True}) as cached:
        assert torch.equal(cached(x_of(4), cache_ids=range(4)), Counting()(x_of(4)))
        assert cached.stats()["hits"] == 2
    monkeypatch.setenv("RANK", "1")
    with make(tmp_path, writer_rank=0) as cached:
        cached(x_of(4), cache_ids=range(4))
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    with make(tmp_path, writer_rank=1) as cached:
        cached(x_of(4), cache_ids=range(4))
    with make(tmp_path) as cached:
        cached(x_of(4), cache_ids=range(4))
        assert cached.stats()["computed"] == 0


def test_damage_is_computed_again_and_never_served(tmp_path: Path) -> None:
    with make(tmp_path) as cached:
        want = cached(x_of(20), cache_ids=range(20))
    (path,) = [each for each in segments(tmp_path, 3) if np.load(each, mmap_mode="r").dtype == np.float32]
    with open(path, "r+b") as file:
        for slot in (3, 11):
            file.seek(4096 + slot * 12 + 5)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))
    with make(tmp_path) as cached:
        assert torch.equal(cached(x_of(20), cache_ids=range(20)), want)
        assert cached.stats()["computed"] == 2
    for path in (tmp_path / "pinned").glob("*.npy"):
        os.truncate(path, 5000)
    with make(tmp_path) as cached:
        assert torch.equal(cached(x_of(20), cache_ids=range(20)), want)
    for path in (tmp_path / "pinned").glob("*.idx"):
        os.truncate(path, 64 + 30)
    with make(tmp_path) as cached:
        assert torch.equal(cached(x_of(20), cache_ids=range(20)), want)
    with make(tmp_path) as cached:
        assert torch.equal(cached(x_of(20), cache_ids=range(20)), want)
        assert cached.stats()["computed"] == 0


def test_nests_lose_no_leaf_without_losing_the_sample(tmp_path: Path) -> None:
    """One leaf that is gone makes the sample a miss."""
    x = torch.rand(6, 4)
    with make(tmp_path, Returns(nested)) as cached:
        cached(x, cache_ids=range(6))
        cached.flush()
        store = cached._kept.store
        arrays = {key: store.get(key) for key in store.keys()}  # noqa: SIM118
        halves = [key for key, array in arrays.items() if array is not None and array.dtype == np.float16]
        for key in halves[:2]:
            store.delete(key)
        cached(x, cache_ids=range(6))
        assert cached.stats()["computed"] == 8


def test_a_budget_is_kept(tmp_path: Path) -> None:
    with make(tmp_path, Returns(lambda x: x.repeat(1, 2500)), cache_options={"disk_bytes": 8 << 20}) as cached:
        for at in range(0, 600, 20):
            got = cached(x_of(20, at), cache_ids=range(at, at + 20))
            assert torch.equal(got, x_of(20, at).repeat(1, 2500))
        cached.flush()
        assert cached.stats()["cache"]["bytes"] <= 8 << 20


def test_images_and_features_share_a_folder(tmp_path: Path) -> None:
    with cache.open_store("pinned", tmp_path) as store:
        store.put(Key.of(source="image"), np.arange(12, dtype=np.float32).reshape(4, 3))
        with make(tmp_path) as cached:
            cached(x_of(4), cache_ids=range(4))
        assert store.get(Key.of(source="image")) is not None


def test_upkeep_knows_these_entries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with make(tmp_path) as cached:
        want = cached(x_of(8), cache_ids=[f"s{at}" for at in range(8)])
    assert upkeep.stats(tmp_path)["entries"] >= 8
    assert upkeep.verify(tmp_path)["corrupt"] == 0
    for command in (["stats", str(tmp_path)], ["verify", str(tmp_path)], ["gc", str(tmp_path)]):
        assert main(["cache", *command]) == 0
    with make(tmp_path) as cached:
        assert torch.equal(cached(x_of(8), cache_ids=[f"s{at}" for at in range(8)]), want)
        assert cached.stats()["computed"] == 0
    assert main(["cache", "purge", str(tmp_path), "--all", "--yes"]) == 0
    with make(tmp_path) as cached:
        cached(x_of(8), cache_ids=[f"s{at}" for at in range(8)])
        assert cached.stats()["computed"] == 8
    capsys.readouterr()


def test_many_small_segments_are_merged(tmp_path: Path) -> None:
    for at in range(12):
        with make(tmp_path) as cached:
            cached(x_of(2, 2 * at), cache_ids=range(2 * at, 2 * at + 2))
    assert len(segments(tmp_path, 3)) == 12
    with make(tmp_path) as reader:
        reader(x_of(3), cache_ids=range(3))
        assert upkeep.gc(tmp_path)["merged"] >= 11
        assert torch.equal(reader(x_of(24), cache_ids=range(24)), Counting()(x_of(24)))
        assert reader.stats()["computed"] == 0
    assert len(segments(tmp_path, 3)) == 1


WRITER = """
import sys; sys.path.insert(0, sys.argv[1])
import torch
from PIL import Image
from feature_modules import Counting
import dali_pipes as dp
with dp.CachedModule(Counting(), sys.argv[2], check_batch=False) as cached:
    x = torch.stack([torch.full((4,), float(at)) for at in range(50)])
    cached(x, cache_ids=range(50))
    print(cached.stats()["computed"])
"""


def test_what_one_process_wrote_another_finds_without_opening_anew(tmp_path: Path) -> None:
    with make(tmp_path) as cached:
        cached(x_of(1), cache_ids=range(1))
        cached.flush()
        done = subprocess.run(
            [sys.executable, "-c", WRITER, str(Path(__file__).parent), str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "50\n" or done.stdout == "49\n"
        assert torch.equal(cached(x_of(50), cache_ids=range(50)), Counting()(x_of(50)))
        assert cached.stats()["computed"] == 1


def test_a_forked_child_writes_what_it_computes(tmp_path: Path) -> None:
    cached = make(tmp_path)
    cached(x_of(2), cache_ids=range(2))
    child = os.fork()
    if not child:
        try:
            cached(x_of(4), cache_ids=range(4))
            cached.flush()
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    cached(x_of(4), cache_ids=range(4))
    assert cached.stats()["computed"] == 2
    cached.close()


def test_tables_for_other_tools(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.feather
    import pyarrow.parquet

    ids = [f"s{at}" for at in range(6)]
    with make(tmp_path / "c") as cached:
        y = cached(x_of(6), cache_ids=ids)
        assert cached.to_arrow(tmp_path / "t.parquet") == 6
        table = pyarrow.parquet.read_table(tmp_path / "t.parquet")
        assert table["id"].to_pylist() == ids
        assert table["feature"].to_pylist() == y.tolist()
        assert table.schema.field("feature").type == pa.list_(pa.float32(), 3)
    with make(tmp_path / "c") as cached:  # nothing computed here
        assert cached.to_arrow(tmp_path / "t.arrow", ids=["s5", "s0"]) == 2
        with pa.ipc.open_file(tmp_path / "t.arrow") as file:
            assert file.read_all()["id"].to_pylist() == ["s5", "s0"]
        assert cached.to_arrow(tmp_path / "t.feather") == 6
        assert pyarrow.feather.read_table(tmp_path / "t.feather").num_rows == 6
        with pytest.raises(dp.ConfigError, match="not all of these samples are kept"):
            cached.to_arrow(tmp_path / "t.arrow", ids=["s5", "other"])
        with pytest.raises(dp.ConfigError, match=r"must end with \.parquet"):
            cached.to_arrow(tmp_path / "t.csv")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cached(x_of(1), cache_ids=["t"])
        with pytest.raises(dp.ConfigError, match="2 kinds"):
            cached.to_arrow(tmp_path / "t.arrow")
    assert not list(tmp_path.glob(".t*"))


def test_tables_of_nests(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    def function(x: torch.Tensor) -> dict[str, Any]:
        return {"a": x.bfloat16(), "b": (x[:, 0], x.to(torch.int64)), "text": "same"}

    with make(tmp_path / "c", Returns(function)) as cached:
        cached(x_of(3), cache_ids=[7, 8, 9])
        cached.to_arrow(tmp_path / "t.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "t.parquet")
    assert table.column_names == ["id", "a", "b.0", "b.1"]
    assert table["id"].to_pylist() == [7, 8, 9]
    assert table["a"].to_pylist() == x_of(3).tolist()
    assert table["b.1"].to_pylist() == x_of(3).to(torch.int64).tolist()
    with make(tmp_path / "d", Returns(lambda x: [row[: 1 + int(row[0])] for row in x])) as cached:
        cached(x_of(3), cache_ids=[7, 8, 9])
        with pytest.raises(dp.ConfigError, match="of which a column cannot be made"):
            cached.to_arrow(tmp_path / "t.parquet")
    with make(tmp_path / "e") as cached, pytest.raises(dp.ConfigError, match="none of these samples is kept"):
        cached.to_arrow(tmp_path / "t.parquet")


class Clashing(nn.Module):
    """Its output has parts of names that a table has already."""

    def forward(self, x: torch.Tensor) -> dict[Any, torch.Tensor]:
        return {"id": x, 1: x + 1, "1": x + 2}


def test_no_column_of_a_table_takes_the_place_of_another(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    with make(tmp_path, Clashing()) as cached:
        cached(x_of(2), cache_ids=["a", "b"])
        cached.to_arrow(tmp_path / "t.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "t.parquet").to_pydict()
    first = {name: column[0] if name == "id" else column[0][0] for name, column in table.items()}
    assert first == {"id": "a", "output.id": 0.0, "1": 1.0, "output.1": 2.0}


def test_a_table_has_no_column_without_values(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with make(tmp_path, nn.Identity()) as cached:
        cached(torch.zeros(2, 0), cache_ids=["a", "b"])
        with pytest.raises(dp.ConfigError, match="feature has no values"):
            cached.to_arrow(tmp_path / "t.parquet")


def test_stats_count_the_features_that_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with make(tmp_path) as cached:
        cached(x_of(6), cache_ids=[f"s{at}" for at in range(6)])
    assert main(["cache", "purge", str(tmp_path), "--id", "s3", "--yes"]) == 0
    capsys.readouterr()
    assert main(["cache", "stats", str(tmp_path)]) == 0
    assert "5 of the entries are features of modules" in capsys.readouterr().out


def test_features_of_a_name_are_purged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = [f"s{at}" for at in range(8)]
    with make(tmp_path, Returns(nested)) as cached:
        cached(x_of(8), cache_ids=ids)
    command = ["cache", "purge", str(tmp_path), "--id", "s3", "--id", "s5"]
    assert main([*command, "--yes"]) == 0
    with make(tmp_path, Returns(nested)) as cached:
        cached(x_of(8), cache_ids=ids)
        assert cached.stats()["computed"] == 2
    assert main(["cache", "purge", str(tmp_path), "--id", "unknown", "--yes"]) == 2
    assert "no features are kept under these ids" in capsys.readouterr().err


def test_features_of_a_file_are_purged_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for at in range(4):
        Image.fromarray(np.full((8, 8, 3), 60 * at, np.uint8)).save(tmp_path / f"{at}.png")
    (tmp_path / "list.csv").write_text("path,id\n" + "\n".join(f"{at}.png,p{at}" for at in range(4)))
    manifest, folder = dp.Manifest.from_csv(tmp_path / "list.csv"), tmp_path / "cache"

    def computed() -> int:
        with (
            dp.Loader(manifest, dp.Recipe(size=8), batch_size=4, cache_mode="pinned", cache_dir=folder) as loader,
            make(folder, Returns(lambda x: x.flatten(1).float())) as cached,
        ):
            for batch in loader:
                cached(batch)
            return int(cached.stats()["computed"])

    assert [computed(), computed()] == [4, 0]
    assert main(["cache", "explain", str(tmp_path / "1.png"), "--cache-dir", str(folder), "--img-size", "8"]) == 0
    assert "Hit" in (told := capsys.readouterr().out)
    assert "Features of this content: 1 entries were made." in told
    listed = ["--manifest", str(tmp_path / "list.csv")]
    assert main(["cache", "purge", str(folder), "--id", "p1", *listed, "--yes"]) == 0
    assert "2 entries were removed" in capsys.readouterr().out  # the image, and its feature
    assert computed() == 1


def test_a_miss_is_explained_part_by_part(tmp_path: Path) -> None:
    with make(tmp_path) as cached:
        cached(x_of(2), cache_ids=["a", "b"])
        hit, miss = cached.explain(x_of(2), cache_ids=["a", "c"])
        assert (hit["id"], hit["hit"], set(hit["parts"].values())) == ("a", True, {"same"})
        assert (miss["id"], miss["hit"], miss["noted"]) == ("c", False, 0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            (found,) = cached.explain(x_of(1), cache_ids=["a"])
        assert found["parts"]["state"] == "differs"
    with make(tmp_path, Counting(seed=1)) as cached:
        (found,) = cached.explain(x_of(1), cache_ids=["a"])
        assert not found["hit"]
        assert [name for name, state in found["parts"].items() if state == "differs"] == ["module"]
        (found,) = cached.explain(x_of(1).double(), cache_ids=["a"])
        assert {name for name, state in found["parts"].items() if state == "differs"} == {"module", "call"}
