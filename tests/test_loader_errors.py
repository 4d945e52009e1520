"""Bad samples: raise, skip, substitute; image and label stay together. Each image's brightness tells its label."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from archives import CACHE_MODES, CPU_BACKENDS, coded, indices, label_of, manifest_of, noise
from hypothesis import given, settings
from hypothesis import strategies as st
from make_images import jpeg

import dali_pipes as dp
from dali_pipes.decode import Limits

pytestmark = pytest.mark.filterwarnings("ignore::dali_pipes.DaliPipesWarning")

RECIPE = dp.Recipe(size=(6, 5), window=None)
LIMITS = {"limits": Limits(pixels=10_000)}


def damaged(data: bytes) -> bytes:
    """The header is fine and the end marker is there, but half of the data between them is not."""
    return data[: len(data) * 2 // 3] + b"\xff\xd9"


BAD: dict[str, bytes | None] = {
    "missing": None,
    "empty": b"",
    "text": b"path,label\n",
    "truncated": jpeg(noise(3, 60, 60))[:-300],
    "damaged": damaged(jpeg(noise(4, 60, 60))),
    "oversized": jpeg(noise(6, 101, 100)),
    "dicom": coded(1, "dicom")[:-30],
}


def archive(folder: Path, bad: dict[int, str], count: int = 12) -> dp.Manifest:
    """`count` coded images of three kinds, some replaced by bad ones; labels are numbers."""
    files = {}
    for i in range(count):
        kind = ("jpeg", "png", "dicom")[i % 3] if i % 4 else "jpeg"
        content = coded(i, kind)
        if i in bad:
            content = BAD[bad[i]] or b""
        files[f"{i}.img"] = content
    manifest = manifest_of(folder, files)
    for i, name in bad.items():
        if BAD[name] is None:
            (folder / f"{i}.img").unlink()
    return manifest


def check(batches: list[dp.Batch], manifest: dp.Manifest) -> None:
    for batch in batches:
        assert len(batch.image) == len(batch.label) == len(batch.index) == len(batch.id) > 0
        for image, label, index, name in zip(batch.image, batch.label.tolist(), batch.index.tolist(), batch.id):
            assert label_of(image) == label == index
            assert name == manifest[index].id


@pytest.mark.parametrize("mode", CACHE_MODES)
@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_bad_file_is_skipped_and_the_rest_is_right(
    tmp_path: Path, backend: str, mode: str, shuffle: bool
) -> None:
    bad = dict(zip((0, 1, 2, 5, 7, 8, 11), BAD))
    manifest = archive(tmp_path / "archive", bad)
    with dp.Loader(manifest, RECIPE, batch_size=3, backend=backend, cache_mode=mode,
                   cache_dir=tmp_path if mode == "pinned" else None,
                   on_error="skip", shuffle=shuffle, decode_options=LIMITS) as loader:  # fmt: skip
        for epoch in range(3):
            loader.set_epoch(epoch)
            batches = list(loader)
            check(batches, manifest)
            assert sorted(indices(batches)) == [3, 4, 6, 9, 10]
        stats = loader.stats()
        assert stats["failed"] == len(bad)
        assert sorted(loader.failures()) == sorted(bad)
        for i, message in loader.failures().items():
            assert message.startswith(manifest.describe(i))


@pytest.mark.parametrize("mode", CACHE_MODES)
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_every_bad_file_is_substituted_by_the_next_good_one(tmp_path: Path, backend: str, mode: str) -> None:
    bad = dict(zip((0, 1, 2, 5, 7, 8, 11), BAD))
    manifest = archive(tmp_path / "archive", bad)
    with dp.Loader(manifest, RECIPE, batch_size=5, backend=backend, cache_mode=mode,
                   cache_dir=tmp_path if mode == "pinned" else None,
                   on_error="substitute", decode_options=LIMITS) as loader:  # fmt: skip
        for _ in range(2):
            batches = list(loader)
            check(batches, manifest)
            assert [len(batch) for batch in batches] == [5, 5, 2]
            assert indices(batches) == [3, 3, 3, 3, 4, 6, 6, 9, 9, 9, 10, 3]
        assert loader.stats()["failed"] == len(bad)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("missing", dp.DecodeError),
        ("empty", dp.TruncatedError),
        ("text", dp.UnsupportedError),
        ("truncated", dp.TruncatedError),
        ("damaged", dp.TruncatedError),
        ("oversized", dp.LimitError),
        ("dicom", dp.DecodeError),
    ],
)
@pytest.mark.parametrize("mode", ["none", "memory"])
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_every_bad_file_raises_its_own_error(
    tmp_path: Path, backend: str, mode: str, name: str, error: type[Exception]
) -> None:
    manifest = archive(tmp_path, {4: name}, 8)
    with dp.Loader(manifest, RECIPE, batch_size=3, backend=backend, cache_mode=mode, decode_options=LIMITS) as loader:
        for _ in range(2):  # an epoch that failed leaves nothing behind
            epoch = iter(loader)
            check([next(epoch)], manifest)
            with pytest.raises(error) as caught:
                next(epoch)
            assert type(caught.value).__module__ == "dali_pipes.errors"
            assert str(caught.value).startswith(manifest.describe(4))
            with pytest.raises(StopIteration):
                next(epoch)


@settings(max_examples=15, deadline=None)
@given(
    bad=st.dictionaries(st.integers(0, 9), st.sampled_from(sorted(BAD)), max_size=10),
    size=st.integers(1, 6),
    on_error=st.sampled_from(["skip", "substitute"]),
    backend=st.sampled_from(CPU_BACKENDS),
    mode=st.sampled_from(["none", "memory"]),
    drop_last=st.booleans(),
    shuffle=st.booleans(),
)
def test_any_pattern_of_bad_files(
    tmp_path_factory: pytest.TempPathFactory, bad: dict[int, str], size: int, on_error: str, backend: str, mode: str,
    drop_last: bool, shuffle: bool,
) -> None:  # fmt: skip
    manifest = archive(tmp_path_factory.mktemp("pattern"), bad, 10)
    good = set(range(10)) - set(bad)
    with dp.Loader(manifest, RECIPE, batch_size=size, backend=backend, cache_mode=mode, on_error=on_error,
                   drop_last=drop_last, shuffle=shuffle, num_workers=2, decode_options=LIMITS) as loader:  # fmt: skip
        if on_error == "substitute" and not good:
            with pytest.raises(dp.DecodeError, match="nor can"):
                list(loader)
            return
        if not good:
            with pytest.raises(dp.DecodeError, match="none of the"):
                list(loader)
            return
        try:
            batches = list(loader)
        except dp.DecodeError:
            assert drop_last
            assert shuffle or not good & set(range(10 // size * size))
            return
        check(batches, manifest)
        assert set(indices(batches)) <= good
        if not drop_last:
            assert set(indices(batches)) == good
        if on_error == "substitute":
            assert len(batches) == len(loader)
            assert {len(batch) for batch in batches[:-1]} <= {size}
        assert loader.stats()["failed"] <= len(bad)


@pytest.mark.parametrize(("on_error", "then"), [("skip", "it is left out"), ("substitute", "another sample takes")])
def test_a_file_that_fails_is_warned_of_once_where_the_loop_is(tmp_path: Path, on_error: str, then: str) -> None:
    manifest = archive(tmp_path, {2: "text"}, 6)
    loader = dp.Loader(manifest, RECIPE, batch_size=2, on_error=on_error, backend="torch")
    with loader, pytest.warns(dp.DaliPipesWarning) as said:
        indices([*loader, *loader, *loader])
    (text,) = [str(each.message) for each in said]
    assert text.startswith(manifest.describe(2))
    assert then in text
    assert [each.filename for each in said] == [__file__]


def test_of_many_files_that_fail_a_few_are_named(tmp_path: Path) -> None:
    manifest = archive(tmp_path, dict.fromkeys(range(10), "text"), 12)
    with dp.Loader(manifest, RECIPE, batch_size=2, on_error="skip", backend="torch") as loader:
        with pytest.warns(dp.DaliPipesWarning) as said:
            indices([*loader, *loader])
        assert len(loader.failures()) == 10
    texts = [str(each.message) for each in said]
    assert [text.split(":")[0] for text in texts[:-1]] == [manifest.describe(i) for i in range(3)]
    assert texts[-1] == "more samples cannot be decoded; failures() names all of them."


def test_a_warning_that_is_an_error_reaches_the_loop_and_leaves_the_loader_whole(tmp_path: Path) -> None:
    manifest = archive(tmp_path, {2: "text"}, 6)
    with dp.Loader(manifest, RECIPE, batch_size=2, on_error="skip", backend="torch") as loader:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(dp.DaliPipesWarning, match="left out"):
                list(loader)
        assert indices(loader) == [0, 1, 3, 4, 5]


@pytest.mark.parametrize("size", [1, 2, 50])
def test_a_set_without_a_good_file(tmp_path: Path, size: int) -> None:
    manifest = archive(tmp_path, dict.fromkeys(range(4), "text"), 4)
    with dp.Loader(manifest, RECIPE, batch_size=size, on_error="skip", backend="torch") as loader:
        for _ in range(2):
            with pytest.raises(
                dp.DecodeError, match=r"none of the 4 samples of this epoch .*Is the manifest's root right"
            ):
                list(loader)
    loader = dp.Loader(manifest, RECIPE, batch_size=2, on_error="substitute", backend="torch")
    with loader, pytest.raises(dp.DecodeError, match="nor can the 3 samples after it"):
        next(iter(loader))


@pytest.mark.parametrize("on_error", ["skip", "substitute"])
@pytest.mark.parametrize(
    ("allowed", "ends"), [(0, True), (2, True), (3, False), (0.29, True), (0.3, False), (1.0, False)]
)
def test_max_failures(tmp_path: Path, on_error: str, allowed: float, ends: bool) -> None:
    manifest = archive(tmp_path, dict.fromkeys((1, 4, 8), "text"), 10)
    options = {"on_error": on_error, "max_failures": allowed, "backend": "torch"}
    with dp.Loader(manifest, RECIPE, batch_size=2, **options) as loader:
        for _ in range(2):  # it counts anew in each epoch
            if ends:
                with pytest.raises(
                    dp.DecodeError, match=rf"max_failures allows {int(allowed * 10) if allowed < 1 else allowed}"
                ):
                    list(loader)
            else:
                list(loader)


@pytest.mark.parametrize("allowed", [-1, 1.5, -0.1, True, "3", float("nan")])
def test_max_failures_is_a_number_or_a_share(tmp_path: Path, allowed: object) -> None:
    manifest = archive(tmp_path, {}, 2)
    with pytest.raises(dp.ConfigError, match="give a number of samples"):
        dp.Loader(manifest, RECIPE, batch_size=2, on_error="skip", max_failures=allowed)
    with pytest.raises(dp.ConfigError, match="the first one ends the epoch"):
        dp.Loader(manifest, RECIPE, batch_size=2, max_failures=3)


def test_repetitions_are_marked(tmp_path: Path) -> None:
    """A sample that stands in for another is one, as is one that fills a rank's share."""
    manifest = archive(tmp_path, {2: "text"}, 5)
    options = {"on_error": "substitute", "backend": "torch", "batch_size": 2, "world_size": 2}
    taken = []
    for rank in range(2):
        with dp.Loader(manifest, RECIPE, rank=rank, **options) as loader:
            taken += [(i, v) for batch in loader for i, v in zip(batch.index.tolist(), batch.valid.tolist())]
    assert taken == [(0, True), (3, False), (4, True), (1, True), (3, True), (0, False)]


def test_a_substitutes_draws_are_its_own(tmp_path: Path) -> None:
    """A sample gives the same pixels where it stands in for another as in its own place."""
    files = {f"{i}.jpg": jpeg(noise(i, 20, 20)) for i in range(8)}
    files["3.jpg"] = b""
    manifest = manifest_of(tmp_path, files)
    recipe = dp.Recipe(8, augment=dp.Augment(0.5, 0.5))
    with dp.Loader(manifest, recipe, batch_size=8, on_error="substitute", backend="torch") as loader:
        for epoch in range(4):
            loader.set_epoch(epoch)
            batch = next(iter(loader))
            assert batch.index.tolist() == [0, 1, 2, 4, 4, 5, 6, 7]
            assert torch.equal(batch.image[3], batch.image[4])
