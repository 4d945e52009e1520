"""Fetching: what is decoded again and what is not, failures with their names, children and threads."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import coded, manifest_of, noise, one_of_each, pictures
from make_images import dicom, jpeg

import dali_pipes as dp
from dali_pipes import cache
from dali_pipes.cache import sources
from dali_pipes.cache.journal import seal
from dali_pipes.decode import DecodePolicy, Limits
from dali_pipes.fetch import fetcher as fetch_module
from dali_pipes.fetch import keys
from dali_pipes.fetch.fetcher import Encoded, Failure, Fetcher, ready
from dali_pipes.files.source_file import SourceFile
from dali_pipes.manifest.manifest import Manifest
from tests.settled import settle

RECIPE = dp.Recipe(size=(16, 12))


class Run:
    """Everything that one opening of a store and a fetcher found."""

    def __init__(self, manifest: Manifest, recipe: dp.Recipe, store: cache.Store, **options: Any) -> None:
        self.fetcher = Fetcher(manifest, recipe, store, workers=2, **options)
        try:
            requests = [self.fetcher.request(i) for i in range(len(manifest))]
            items = [
                request if isinstance(request, (np.ndarray, Failure)) else request.result() for request in requests
            ]
            self.items = [np.array(item) if isinstance(item, np.ndarray) else item for item in items]
            self.counts = self.fetcher.counts()
            self.failures = self.fetcher.failures()
        finally:
            self.fetcher.close()


def run(manifest: Manifest, recipe: dp.Recipe, folder: Path, mode: str = "pinned", **options: Any) -> Run:
    with cache.open_store(mode, folder if mode in cache.PERSISTENT_MODES else None) as store:
        return Run(manifest, recipe, store, **options)


@pytest.fixture
def photos(tmp_path: Path) -> Manifest:
    manifest = manifest_of(tmp_path / "archive", pictures(5))
    settle(tmp_path / "archive")
    return manifest


@pytest.mark.parametrize("mode", cache.DISK_MODES)
def test_a_second_run_decodes_nothing_and_reads_no_source(photos: Manifest, tmp_path: Path, mode: str) -> None:
    first = run(photos, RECIPE, tmp_path / "cache", mode)
    assert first.counts == {**first.counts, "decoded": 5, "misses": 5, "hits": 0, "failed": 0}
    assert first.counts["bytes_read"] == sum(photos.resolve(i).stat().st_size for i in range(5))
    second = run(photos, RECIPE, tmp_path / "cache", mode)
    assert second.counts == {
        **{"decoded": 0, "misses": 0, "hits": 5, "failed": 0, "bytes_read": 0},
        **{"seconds_decoding": 0.0, "seconds_for_others": 0.0},
    }
    for before, after in zip(first.items, second.items):
        assert before.dtype == after.dtype == np.uint8
        assert np.array_equal(before, after)


@pytest.mark.parametrize("mode", ["memory", "pinned"])
def test_within_a_run_each_sample_is_decoded_once(photos: Manifest, tmp_path: Path, mode: str) -> None:
    with cache.open_store(mode, tmp_path / "cache" if mode == "pinned" else None) as store:
        fetcher = Fetcher(photos, RECIPE, store, workers=2)
        for _ in range(3):
            for sample in range(5):
                fetcher.decoded(sample)
        assert fetcher.counts() == {**fetcher.counts(), "decoded": 5, "misses": 5, "hits": 10}
        assert isinstance(fetcher.request(0), np.ndarray)  # at once, not as a future
        fetcher.close()


@pytest.mark.parametrize(
    "change",
    [
        {"size": (12, 16)},
        {"window": dp.PercentileWindow(1, 99)},
        {"window": None},
        {"fit": "crop"},
        {"fit": "pad"},
        {"interpolation": "bicubic"},
        {"channels": 1},
        {"depth": 16},
    ],
    ids=str,
)
def test_changing_what_decides_base_images_decodes_again(
    photos: Manifest, tmp_path: Path, change: dict[str, Any]
) -> None:
    run(photos, RECIPE, tmp_path / "cache")
    other = dp.Recipe(**{"size": (16, 12), **change})
    assert run(photos, other, tmp_path / "cache").counts["decoded"] == 5
    assert run(photos, RECIPE, tmp_path / "cache").counts["decoded"] == 0  # and the first ones are still there


@pytest.mark.parametrize(
    "change", [{"mean": 0.5, "std": 0.2}, {"augment": dp.Augment(0.5, 0.5)}, {"parity": "fast"}], ids=str
)
def test_changing_what_comes_after_the_cache_decodes_nothing(
    photos: Manifest, tmp_path: Path, change: dict[str, Any]
) -> None:
    run(photos, RECIPE, tmp_path / "cache")
    assert run(photos, dp.Recipe(**{"size": (16, 12), **change}), tmp_path / "cache").counts["decoded"] == 0


def test_at_depth_16_another_window_decodes_nothing(tmp_path: Path) -> None:
    deep = np.linspace(0, 4095, 20 * 30).reshape(20, 30).astype(np.uint16)
    files = {"a.dcm": dicom(deep, BitsStored=12), "b.jpg": jpeg(noise(1, 20, 30))}
    manifest = manifest_of(tmp_path / "archive", files)
    settle(tmp_path / "archive")
    seen = []
    for window, decoded in [(None, 2), (dp.PercentileWindow(), 0), (dp.FixedWindow(2000, 900), 0), (dp.VOIWindow(), 0)]:
        found = run(manifest, dp.Recipe(size=(16, 12), depth=16, window=window), tmp_path / "cache")
        assert found.counts["decoded"] == decoded
        seen.append(found.items[0])
    assert [item.dtype for item in seen] == [np.uint16, np.uint8, np.uint8, np.uint8]
    assert not np.array_equal(seen[1], seen[2])


@pytest.mark.parametrize("same_size", [True, False])
def test_changed_content_is_decoded_again(photos: Manifest, tmp_path: Path, same_size: bool) -> None:
    before = run(photos, RECIPE, tmp_path / "cache")
    path = photos.resolve(2)
    size = path.stat().st_size
    new = jpeg(noise(77, 8, 8))
    if same_size:
        comment = size - len(new) - 4  # a comment brings it to the length of the old one
        new = new[:2] + b"\xff\xfe" + (2 + comment).to_bytes(2, "big") + bytes(comment) + new[2:]
        assert len(new) == size
    path.write_bytes(new)
    after = run(photos, RECIPE, tmp_path / "cache")
    assert after.counts["decoded"] == 1
    assert after.counts["hits"] == 4
    assert not np.array_equal(before.items[2], after.items[2])
    assert np.array_equal(before.items[1], after.items[1])


def test_moved_and_copied_sources_hit(photos: Manifest, tmp_path: Path) -> None:
    before = run(photos, RECIPE, tmp_path / "cache")
    shutil.copytree(tmp_path / "archive", tmp_path / "elsewhere" / "deep")
    moved = Manifest.from_csv(tmp_path / "elsewhere" / "deep" / "list.csv")
    after = run(moved, RECIPE, tmp_path / "cache")
    assert after.counts["decoded"] == 0
    assert after.counts["hits"] == 5
    assert all(np.array_equal(x, y) for x, y in zip(before.items, after.items))


def test_a_cache_that_moves_serves_on(photos: Manifest, tmp_path: Path) -> None:
    run(photos, RECIPE, tmp_path / "cache")
    (tmp_path / "cache").rename(tmp_path / "other")
    assert run(photos, RECIPE, tmp_path / "other").counts["decoded"] == 0


def test_equal_files_are_decoded_once(tmp_path: Path) -> None:
    data = coded(3)
    manifest = manifest_of(tmp_path / "archive", {f"{i}.jpg": data for i in range(6)})
    assert run(manifest, RECIPE, tmp_path / "cache").counts["decoded"] == 1


def test_another_decoder_decodes_again(photos: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(photos, RECIPE, tmp_path / "cache")
    from dali_pipes.decode import Kind, kinds

    monkeypatch.setattr(kinds, "RULES", kinds.RULES + 1)
    Kind.from_tag.cache_clear()
    try:
        assert run(photos, RECIPE, tmp_path / "cache").counts["decoded"] == 5
    finally:
        monkeypatch.undo()
        Kind.from_tag.cache_clear()
    assert run(photos, RECIPE, tmp_path / "cache").counts["decoded"] == 0


def test_another_arithmetic_decodes_again(photos: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(photos, RECIPE, tmp_path / "cache")
    monkeypatch.setattr(keys, "ARITHMETIC_VERSION", "another")
    assert run(photos, RECIPE, tmp_path / "cache").counts["decoded"] == 5


def test_another_secret_is_an_error(photos: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(photos, RECIPE, tmp_path / "cache")
    monkeypatch.setenv("DALI_PIPES_CACHE_SECRET", "of somebody else")
    with pytest.raises(cache.SecretError, match="made with another secret"):
        run(photos, RECIPE, tmp_path / "cache")


def test_frames_are_kept_apart(tmp_path: Path) -> None:
    frames = [np.full((8, 8), value, np.uint8) for value in (10, 20, 30)]
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "cine.dcm").write_bytes(dicom(frames))
    manifest = Manifest.from_dicom_tree(tmp_path / "archive")
    recipe = dp.Recipe(4, window=None)
    for decoded in (3, 0):
        found = run(manifest, recipe, tmp_path / "cache")
        assert [int(item.mean()) for item in found.items] == [10, 20, 30]
        assert found.counts["decoded"] == decoded


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("everything")
    return manifest_of(folder, one_of_each())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("depth", [8, 16])
def test_base_images_of_every_kind_have_one_form(everything: Manifest, depth: int, channels: int) -> None:
    recipe = dp.Recipe(
        size=(9, 11), depth=depth, window=dp.PercentileWindow() if depth == 8 else None, channels=channels
    )
    found = run(everything, recipe, Path(), "none")
    assert found.failures == {}
    for item in found.items:
        assert item.shape == (channels, 9, 11)
        assert item.dtype == (np.uint8 if depth == 8 else np.uint16)
        assert item.flags.c_contiguous
        assert item.any()


def test_children_give_what_threads_give(everything: Manifest) -> None:
    plain = run(everything, RECIPE, Path(), "none")
    boxed = run(everything, RECIPE, Path(), "none", sandbox=True)
    assert plain.counts["decoded"] == boxed.counts["decoded"] == len(everything)
    assert all(np.array_equal(x, y) for x, y in zip(plain.items, boxed.items))


def test_both_children_and_threads_are_used(everything: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codecs that hold the interpreter go to children, the others stay."""
    used: list[str] = []
    real = fetch_module.DecoderPool.decode

    def spied(self: Any, path: Any, kind: Any, *rest: Any) -> Any:
        used.append(kind.tag)
        assert not kind.in_threads
        return real(self, path, kind, *rest)

    monkeypatch.setattr(fetch_module.DecoderPool, "decode", spied)
    run(everything, RECIPE, Path(), "none")
    assert used
    assert "jpeg" not in used


BAD = {
    "missing.jpg": (None, dp.DecodeError, "cannot be read"),
    "folder.jpg": ("folder", dp.DecodeError, "not a regular file"),
    "empty.jpg": (b"", dp.TruncatedError, "empty"),
    "text.jpg": (b"not an image at all", dp.UnsupportedError, "not an image format"),
    "short.jpg": (jpeg(noise(1, 40, 40))[:-2], dp.TruncatedError, "end marker"),
    "cut.jpg": (jpeg(noise(1, 40, 40))[:900] + b"\xff\xd9", dp.TruncatedError, "cut short"),
    "short.dcm": (dicom(noise(1, 20, 20, 1))[:-50], dp.DecodeError, ""),
    "large.jpg": (jpeg(np.zeros((2000, 2000), np.uint8)), dp.LimitError, "at most"),
}


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("bad")
    manifest = manifest_of(folder, {name: data if isinstance(data, bytes) else b"" for name, (data, *_) in BAD.items()})
    (folder / "missing.jpg").unlink()
    (folder / "folder.jpg").unlink()
    (folder / "folder.jpg").mkdir()
    return manifest


@pytest.mark.parametrize("sandbox", [False, True])
@pytest.mark.parametrize("encoded", [False, True])
def test_every_failure_is_an_error_of_ours_with_the_sample_named(
    bad: Manifest, encoded: bool, sandbox: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    policy = DecodePolicy(limits=Limits(pixels=1_000_000))
    found = run(bad, RECIPE, Path(), "none", encoded=encoded, policy=policy, sandbox=sandbox)
    assert found.counts["failed"] == len(BAD)
    assert found.counts["decoded"] == 0
    assert sorted(found.failures) == list(range(len(BAD)))
    for i, (name, (_, kind, text)) in enumerate(BAD.items()):
        assert isinstance(found.items[i], Failure), name
        error = found.failures[i]
        assert type(error) is kind or (kind is dp.DecodeError and isinstance(error, kind)), (name, error)
        assert bad.describe(i) in str(error)
        assert text in str(error)
        assert name not in str(error)
        assert sum(bad.describe(i) in record.getMessage() for record in caplog.records) == 1


def test_failures_are_remembered_and_counted_once(bad: Manifest) -> None:
    with cache.open_store("memory") as store:
        fetcher = Fetcher(bad, RECIPE, store, workers=1)
        damaged = list(BAD).index("text.jpg")
        first, second = fetcher.decoded(damaged), fetcher.decoded(damaged)
        assert first is second
        assert isinstance(fetcher.decoded(0), Failure)
        assert isinstance(fetcher.decoded(0), Failure)
        assert fetcher.counts()["failed"] == 2
        fetcher.close()


def test_a_surprise_in_a_decoder_is_that_files_failure(photos: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    def surprising(*_: Any) -> None:
        raise ZeroDivisionError("odd bytes")

    monkeypatch.setattr(fetch_module, "decode", surprising)
    found = run(photos, RECIPE, Path(), "none")
    assert [type(error) for error in found.failures.values()] == [dp.DecodeError] * 5
    assert "ZeroDivisionError" in str(found.failures[0])


def test_plain_jpegs_are_left_to_the_backend_only_without_a_cache(photos: Manifest, tmp_path: Path) -> None:
    assert all(isinstance(item, Encoded) for item in run(photos, RECIPE, Path(), "none", encoded=True).items)
    assert all(isinstance(item, np.ndarray) for item in run(photos, RECIPE, tmp_path / "c", encoded=True).items)


def test_what_the_backend_refused_is_decoded_here(photos: Manifest) -> None:
    with cache.open_store("none") as store:
        fetcher = Fetcher(photos, RECIPE, store, workers=1, encoded=True)
        assert isinstance(fetcher.request(1).result(), Encoded)  # type: ignore[union-attr]
        assert isinstance(fetcher.decoded(1), np.ndarray)
        assert isinstance(fetcher.request(1).result(), np.ndarray)  # type: ignore[union-attr]
        assert isinstance(fetcher.request(0).result(), Encoded)  # type: ignore[union-attr]
        fetcher.close()


def test_a_frame_that_a_jpeg_does_not_have_fails_undecoded_too(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(coded(1))
    (tmp_path / "list.csv").write_text("path,frame\nx.jpg,1\n")
    manifest = Manifest.from_csv(tmp_path / "list.csv")
    for encoded in (False, True):
        found = run(manifest, RECIPE, Path(), "none", encoded=encoded)
        assert "a JPEG file has one" in str(found.failures[0])


def test_a_read_only_cache_serves_and_stays_as_it_is(photos: Manifest, tmp_path: Path) -> None:
    run(photos.subset([0, 1, 2]), RECIPE, tmp_path / "cache")
    before = {path: path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    with cache.open_store("pinned", tmp_path / "cache", read_only=True) as store:
        found = Run(photos, RECIPE, store)
    assert found.counts == {**found.counts, "hits": 3, "decoded": 2, "failed": 0}
    assert {path: path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file()} == before


def test_damaged_entries_are_decoded_again(photos: Manifest, tmp_path: Path) -> None:
    first = run(photos, RECIPE, tmp_path / "cache", "npy")
    entries = [path for path in (tmp_path / "cache").rglob("*.npy") if path.is_file()]
    assert len(entries) == 5
    for path in entries:
        data = bytearray(path.read_bytes())
        data[-20] ^= 1
        path.chmod(0o600)
        path.write_bytes(data)
    second = run(photos, RECIPE, tmp_path / "cache", "npy")
    assert second.counts["decoded"] == 5
    assert all(np.array_equal(x, y) for x, y in zip(first.items, second.items))


@pytest.mark.parametrize("known", [False, True])
def test_a_file_replaced_while_it_is_read_never_gets_under_the_other_content(
    photos: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    truth = run(photos, RECIPE, tmp_path / "truth").items
    if known:  # the content is in the index of sources already
        run(photos, dp.Recipe(size=8), tmp_path / "cache")
    path, other = photos.resolve(0), photos.resolve(1).read_bytes()
    mine, stamps = path.read_bytes(), os.stat(path)
    real = Fetcher._decode
    replaced: list[int] = []

    def replacing(self: Fetcher, source: SourceFile, kind: Any, frame: int) -> Any:
        if source.path == str(path) and not replaced:
            replaced.append(1)
            new = path.with_suffix(".new")
            new.write_bytes(other)
            os.replace(new, path)
        return real(self, source, kind, frame)

    monkeypatch.setattr(Fetcher, "_decode", replacing)
    during = run(photos, RECIPE, tmp_path / "cache")
    assert replaced
    assert np.array_equal(during.items[0], truth[1])
    path.write_bytes(mine)
    os.utime(path, ns=(stamps.st_atime_ns, stamps.st_mtime_ns))
    after = run(photos, RECIPE, tmp_path / "cache")
    assert np.array_equal(after.items[0], truth[0])


@pytest.mark.parametrize("mode", cache.PERSISTENT_MODES)
@pytest.mark.parametrize("how", ["swapped", "in place"])
def test_other_content_of_the_same_size_and_mtime(photos: Manifest, tmp_path: Path, mode: str, how: str) -> None:
    one, two = photos.resolve(0), photos.resolve(1)
    data = [one.read_bytes(), two.read_bytes()]
    longest = max(map(len, data))
    data = [each + bytes(longest - len(each)) for each in data]  # zeros after a JPEG's end are no part of it
    for path, each in zip((one, two), data):
        path.write_bytes(each)
    settle(one.parent)
    before = run(photos, RECIPE, tmp_path / "cache", mode).items
    if how == "swapped":
        one.rename(one.with_name("aside"))
        two.rename(one)
        one.with_name("aside").rename(two)
    else:
        one.write_bytes(data[1])
        two.write_bytes(data[0])
        settle(one)
        settle(two)
    after = run(photos, RECIPE, tmp_path / "cache", mode)
    assert not np.array_equal(before[0], before[1])
    assert np.array_equal(after.items[0], before[1])
    assert np.array_equal(after.items[1], before[0])
    assert after.counts["bytes_read"] == 2 * longest, "the others are not read again"


@pytest.mark.parametrize("mode", ["npy", "pinned"])
def test_spliced_records_of_sources_swap_no_samples(photos: Manifest, tmp_path: Path, mode: str) -> None:
    """By somebody who can write to the folder, and knows neither secret; the journals' own check is made right."""
    options = {"secret": b"k" * 32, "verify": "always"}
    with cache.open_store(mode, tmp_path / "cache", **options) as store:  # type: ignore[arg-type]
        before = Run(photos, RECIPE, store).items
    (journal,) = (tmp_path / "cache" / "sources").iterdir()
    for fields in (["content", "tag"], ["content"], ["path"], ["path", "state"], ["path", "state", "mac"]):
        original = journal.read_bytes()
        records = np.frombuffer(bytearray(original), sources.RECORD)
        for field in fields:
            records[field] = records[field][::-1].copy()
        journal.write_bytes(b"".join(seal(record.tobytes()[:-8]) for record in records))
        with cache.open_store(mode, tmp_path / "cache", **options) as store:  # type: ignore[arg-type]
            found = Run(photos, RECIPE, store)
        assert found.counts["bytes_read"] >= sum(photos.resolve(i).stat().st_size for i in range(5) if i != 2)
        assert all(np.array_equal(one, two) for one, two in zip(found.items, before))
        for path in journal.parent.iterdir():
            path.unlink()
        journal.write_bytes(original)


def test_a_file_that_never_rests_is_named(photos: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, restless = Fetcher._decode, photos.resolve(2)

    def appending(self: Fetcher, source: SourceFile, kind: Any, frame: int) -> Any:
        decoded = real(self, source, kind, frame)
        if source.path == str(restless):
            with restless.open("ab") as file:
                file.write(b"more")
        return decoded

    monkeypatch.setattr(Fetcher, "_decode", appending)
    found = run(photos, RECIPE, tmp_path / "cache")
    assert isinstance(found.failures[2], dp.UnsteadyError)
    assert "changes while it is read" in str(found.failures[2])
    assert list(found.failures) == [2]


def test_what_another_try_may_mend_is_tried_again(photos: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    with cache.open_store("none") as store:
        fetcher = Fetcher(photos, RECIPE, store, workers=1)
        real = SourceFile.read
        monkeypatch.setattr(SourceFile, "read", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        assert isinstance(fetcher.decoded(0), Failure)
        assert "Input/output error" in str(fetcher.failures()[0])
        monkeypatch.setattr(SourceFile, "read", real)
        assert isinstance(fetcher.decoded(0), np.ndarray)
        assert fetcher.failures() == {}
        assert fetcher.counts()["failed"] == 1
        fetcher.close()


@pytest.mark.parametrize("encoded", [False, True])
def test_a_sample_is_not_blamed_where_memory_runs_out(
    photos: Manifest, monkeypatch: pytest.MonkeyPatch, encoded: bool
) -> None:
    """Once in a sample: it is tried again at once. Twice: it fails, and is tried again when it is next asked for."""
    raised: list[int] = []
    real = SourceFile.read

    def short(times: int) -> None:
        def read(source: SourceFile) -> Any:
            if len(raised) < times:
                raised.append(1)
                raise MemoryError
            return real(source)

        raised.clear()
        monkeypatch.setattr(SourceFile, "read", read)

    with cache.open_store("none") as store:
        fetcher = Fetcher(photos, RECIPE, store, workers=1, encoded=encoded)
        short(1)
        assert not isinstance(ready(fetcher.request(0)), Failure)
        assert fetcher.counts()["failed"] == 0
        short(2)
        lost = ready(fetcher.request(1))
        assert isinstance(lost, Failure)
        assert isinstance(lost.error, dp.WorkerError)
        assert "memory ran out while it was decoded, which may be no fault of the file" in str(lost.error)
        assert not isinstance(ready(fetcher.request(1)), Failure)
        assert fetcher.failures() == {}
        fetcher.close()


def test_decoders_say_that_memory_ran_out_and_not_that_a_file_is_damaged(
    everything: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dali_pipes.decode.formats import FORMATS

    def out_of_memory(*_: Any) -> Any:
        raise MemoryError

    for tag, row in FORMATS.items():
        monkeypatch.setitem(FORMATS, tag, dataclasses.replace(row, decode=out_of_memory))
    monkeypatch.setattr(fetch_module.DecoderPool, "decode", out_of_memory)
    with cache.open_store("none") as store:
        fetcher = Fetcher(everything, RECIPE, store, workers=1)
        for sample in range(len(everything)):
            lost = fetcher.decoded(sample)
            assert isinstance(lost, Failure)
            assert isinstance(lost.error, dp.WorkerError)
        assert not any(fetcher._books.lost(sample) for sample in range(len(everything)))
        fetcher.close()


def test_a_killed_child_costs_a_skipping_loader_no_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dali_pipes.decode import pool

    manifest = manifest_of(tmp_path, {f"{i}.dcm": dicom(noise(i, 20, 20, 1), "j2k") for i in range(6)})
    real, asked = pool._Child.ask, []

    def ask(child: Any, *arguments: Any) -> Any:
        asked.append(child.pid)
        if len(asked) in (2, 5):
            os.kill(child.pid, signal.SIGKILL)
        return real(child, *arguments)

    monkeypatch.setattr(pool._Child, "ask", ask)
    recipe = dp.Recipe(size=8, channels=1)
    how = {"backend": "torch", "num_workers": 1, "on_error": "skip", "sandbox": True}
    with dp.Loader(manifest, recipe, batch_size=2, **how) as loader:  # type: ignore[arg-type]
        found = [int(index) for batch in loader for index in batch.index]
        assert loader.failures() == {}
    assert found == [*range(6)]
    assert len(asked) == 8


def test_a_pipe_is_refused_and_not_waited_for(photos: Manifest, tmp_path: Path) -> None:
    path = photos.resolve(1)
    path.unlink()
    os.mkfifo(path)
    assert "not a regular file" in str(run(photos, RECIPE, tmp_path / "cache").failures[1])
