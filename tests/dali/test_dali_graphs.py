"""DALI pipelines of users' own: the bits of `Loader`, whatever comes after; on a GPU as far as schemas tell."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from archives import CPU_BACKENDS, coded, manifest_of, pictures
from nvidia.dali import fn, pipeline_def
from PIL import Image

import dali_pipes as dp
from dali_pipes.backends import decodes
from dali_pipes.dali import Source, decode_resize, finish, normalise, vary
from dali_pipes.errors import ConfigError, DecodeError

ROOT = Path(__file__).parent.parent.parent
VARIED = dp.Augment(horizontal_flip=0.5, vertical_flip=0.5, rotation=20, brightness=0.3, saturation=0.3)
RECIPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "float": {"mean": 0.5, "std": 0.25, "augment": dp.Augment(0.5)},
    "varied": {"mean": (0.4, 0.5, 0.6), "std": 0.25, "augment": VARIED},
    "uint16": {"depth": 16, "window": None, "augment": VARIED},
    "fast": {"mean": 0.5, "std": 0.25, "augment": VARIED, "parity": "fast"},
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> dp.Manifest:
    return manifest_of(tmp_path_factory.mktemp("archive"), pictures(10))


def graph(source: Source, recipe: dp.Recipe, batch_size: int, device_id: int | None = None) -> Any:
    @pipeline_def(batch_size=batch_size, num_threads=2, device_id=device_id, exec_dynamic=True)
    def define() -> Any:
        given = source.nodes()
        return finish(given["image"], recipe, given), given["label"], given["index"]

    return define()


def arrays(outputs: Any) -> list[np.ndarray]:
    return [np.array(each.as_tensor()) for each in outputs]


def run(pipeline: Any) -> Iterator[list[np.ndarray]]:
    """The batches up to the end of the pipeline's epoch."""
    while True:
        try:
            yield arrays(pipeline.run())
        except StopIteration:
            pipeline.reset()
            return


@pytest.mark.parametrize("which", RECIPES)
@pytest.mark.parametrize("mode", ["none", "pinned"])
def test_the_graph_gives_the_loaders_bits(which: str, mode: str, manifest: dp.Manifest, tmp_path: Path) -> None:
    recipe = dp.Recipe((9, 12), **RECIPES[which])
    options: dict[str, Any] = {"batch_size": 4, "shuffle": True, "seed": 3, "cache_mode": mode, "num_workers": 2}
    folder = tmp_path if mode == "pinned" else None
    with Source(manifest, recipe, cache_dir=folder, **options) as source:
        pipeline = graph(source, recipe, 4)
        found = [list(run(pipeline)) for _ in range(2)]
        assert len(source) == 3
        assert source.stats()["decoded"] == (10 if mode == "pinned" else 20)
    for backend in CPU_BACKENDS:
        with dp.Loader(manifest, recipe, cache_dir=folder, backend=backend, **options) as loader:
            for epoch, batches in enumerate(found):
                loader.set_epoch(epoch)
                for (image, label, index), expected in zip(batches, loader, strict=True):
                    assert image.dtype == expected.image.numpy().dtype
                    assert image.tobytes() == expected.image.numpy().tobytes(), (backend, epoch)
                    assert (label.tolist(), index.tolist()) == (expected.label.tolist(), expected.index.tolist())
            assert loader.stats()["hits"] == (20 if mode == "pinned" else 0)


def info(epoch: int, iteration: int) -> Any:
    return SimpleNamespace(epoch_idx=epoch, iteration=iteration)


def same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(one, other, strict=True))


def test_a_source_is_a_function_of_epoch_and_iteration(manifest: dp.Manifest) -> None:
    recipe = dp.Recipe(8, augment=VARIED)
    with Source(manifest, recipe, batch_size=4, shuffle=True, cache_mode="memory") as source:
        assert source.names == ("image", "label", "index", "hflip", "vflip", "warp", "colour")
        calls = [(epoch, iteration) for epoch in range(3) for iteration in range(3)]
        first = {call: source(info(*call)) for call in calls}
        assert [len(first[0, i][0]) for i in range(3)] == [4, 4, 2]
        for end in (3, 4):
            with pytest.raises(StopIteration):
                source(info(1, end))
        for call in [*reversed(calls), (1, 1), (1, 1)]:
            assert same(first[call], source(info(*call))), call
        indices = [np.concatenate([first[epoch, i][2] for i in range(3)]).tolist() for epoch in range(3)]
        assert [sorted(each) for each in indices] == [list(range(10))] * 3
        assert len({tuple(each) for each in indices}) == 3
    with Source(manifest, recipe, batch_size=4, shuffle=True, epoch=1, iteration=2) as source:
        assert same(source(info(0, 0)), first[1, 2])
        with pytest.raises(StopIteration):
            source(info(0, 1))
        assert same(source(info(1, 0)), first[2, 0])


def test_ranks_and_last_batches(manifest: dp.Manifest) -> None:
    seen: list[int] = []
    for rank in range(2):
        with Source(manifest, dp.Recipe(8), batch_size=2, rank=rank, world_size=2, drop_last=True) as source:
            seen += [i for k in range(len(source)) for i in source(info(0, k))[2].tolist()]
            with pytest.raises(StopIteration):
                source(info(0, len(source)))
    assert len(seen) == len(set(seen)) == 8


@pytest.mark.filterwarnings("ignore::dali_pipes.DaliPipesWarning")
def test_bad_samples_and_the_next_batch(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, {"a.jpg": coded(0), "b.jpg": b"no picture", "c.jpg": coded(1)})
    with Source(manifest, dp.Recipe(8), batch_size=1) as source:
        with pytest.raises(DecodeError, match="sample 1"):
            source(info(0, 1))
        assert source(info(0, 2))[2].tolist() == [2]
    with Source(manifest, dp.Recipe(8), batch_size=1, on_error="substitute") as source:
        assert [source(info(0, i))[2].tolist() for i in range(3)] == [[0], [2], [2]]
        assert list(source.failures()) == [1]
    nothing_left = pytest.raises(DecodeError, match=r'all samples of batch 1 of epoch 0 were skipped.*"substitute"')
    with Source(manifest, dp.Recipe(8), batch_size=1, on_error="skip") as source, nothing_left:
        source(info(0, 1))
    with Source(manifest, dp.Recipe(8), batch_size=3, on_error="skip") as source:
        assert source(info(0, 0))[2].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "torch"}, r"Source\(backend=...\): the pipeline decides that"),
        ({"prefetch": 3}, r"Source\(prefetch=...\)"),
        ({"iteration": -1}, r"Source\(iteration=-1\): give a whole number of at least 0"),
        ({"keep": 0}, r"Source\(keep=0\): give a whole number of at least 1"),
        ({"on_error": "pass"}, "on_error='pass'"),
    ],
)
def test_arguments_that_cannot_work(options: dict[str, Any], message: str, manifest: dp.Manifest) -> None:
    with pytest.raises(ConfigError, match=message):
        Source(manifest, dp.Recipe(8), batch_size=2, **options)


def test_images_read_in_place_are_those_of_the_cache(manifest: dp.Manifest, tmp_path: Path) -> None:
    recipe = dp.Recipe(8, mean=0.5, std=0.5)
    with Source(manifest, recipe, batch_size=4, cache_mode="pinned", cache_dir=tmp_path) as source:

        @pipeline_def(batch_size=4, num_threads=1, device_id=None, exec_dynamic=True)
        def define(no_copy: bool) -> Any:
            given = source.nodes(no_copy=no_copy)
            return normalise(given["image"], recipe), given["label"], given["index"]

        copied, read = (list(run(define(no_copy=no_copy))) for no_copy in (False, True))
    assert len(copied) == 3
    assert all(same(tuple(one), tuple(other)) for one, other in zip(copied, read, strict=True))


@pytest.mark.parametrize("options", [{}, {"channels": 1}, {"fit": "pad"}, {"parity": "fast"}], ids=str)
def test_decoding_in_the_graph_gives_the_base_images(options: dict[str, Any], tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, {f"{i}.jpg": coded(i) for i in range(5)})
    recipe = dp.Recipe((9, 12), mean=0.5, std=0.5, **options)

    @pipeline_def(batch_size=5, num_threads=2, device_id=None, exec_dynamic=True)
    def define() -> Any:
        jpeg, _ = fn.readers.file(files=[str(manifest.resolve(i)) for i in range(5)], labels=list(range(5)))
        return (finish(decode_resize(jpeg, recipe), recipe, {}),)

    (image,) = arrays(define().run())
    with dp.Loader(manifest, recipe, batch_size=5, backend="dali-cpu") as loader:
        (expected,) = loader
    assert image.tobytes() == expected.image.numpy().tobytes()


def test_what_a_graph_cannot_do_is_said(manifest: dp.Manifest) -> None:
    with pytest.raises(ConfigError, match=r"Source\(views=2\)"):
        Source(manifest, dp.Recipe(8, views=2), batch_size=2)
    with pytest.raises(ConfigError, match="DALI does not decode for a recipe of depth=16"):
        decode_resize(None, dp.Recipe(8, depth=16, window=None))
    half = dp.Recipe(8, mean=0.5, std=0.5, dtype="float16")
    with pytest.raises(ConfigError, match=r"dtype='float16' and memory_format='contiguous'; in a graph it gives"):
        normalise(None, half)
    with pytest.raises(ConfigError, match=r"device='tpu'\): allowed are 'cpu' and 'gpu'"):
        decode_resize(None, dp.Recipe(8), device="tpu")
    with pytest.raises(ConfigError, match=r"augment needs hflip, vflip, warp; pass what Source.nodes\(\) returned"):
        vary(SimpleNamespace(device="cpu"), dp.Recipe(8, augment=dp.Augment(rotation=5)), {})


def schema_checked(pipeline: Any) -> None:
    """Every operator of a pipeline is added to DALI's own graph, which checks arguments and devices.

    DALI refuses to serialise a Python function, at the very end of that.
    """
    try:
        assert len(pipeline.serialize()) > 100
    except RuntimeError as error:
        assert "Could not serialize the operator: `nvidia.dali.fn.python_function`" in str(error), error  # noqa: PT017


@pytest.mark.parametrize("which", RECIPES)
def test_the_gpu_graph_passes_dalis_schema_checks(
    which: str, manifest: dp.Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU: CuPy is imported when a Python function for the GPU is defined, and used when it runs."""
    from nvidia.dali.ops._operators import python_function

    monkeypatch.setattr(python_function, "cupy", ModuleType("cupy"))
    recipe = dp.Recipe((9, 12), **RECIPES[which])
    with Source(manifest, recipe, batch_size=4) as source:

        def define(wrong: bool) -> Any:
            given = source.nodes()
            image = finish(given["image"].gpu(), recipe, given)
            if decodes(recipe):
                jpeg, _ = fn.readers.file(files=["a.jpg"], labels=[0])
                jpeg = decode_resize(jpeg, recipe, device="gpu")
                image = fn.cat(image, normalise(jpeg, recipe), axis=0)
            return fn.transpose(image, perm=[1, 2, 0], device="cpu" if wrong else "gpu"), *given.values()

        options = {"batch_size": 4, "num_threads": 1, "device_id": None, "exec_dynamic": True}
        schema_checked(pipeline_def(define, **options)(wrong=False))
        with pytest.raises(Exception, match=r"(?i)gpu"):
            schema_checked(pipeline_def(define, **options)(wrong=True))


def test_the_example(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("own_dali_graph", ROOT / "examples/own_dali_graph.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    manifest = manifest_of(tmp_path, pictures(10))
    recipe = dp.Recipe((16, 16), mean=0.5, std=0.25, augment=dp.Augment(0.5))
    found = module.epochs(manifest, str(tmp_path / "cache"), recipe)
    with dp.Loader(manifest, recipe, batch_size=4, shuffle=True, seed=1, backend="torch") as loader:
        for epoch, batches in enumerate(found):
            loader.set_epoch(epoch)
            for batch, expected in zip(batches, loader, strict=True):
                assert torch.equal(batch["index"], expected.index)
                assert torch.equal(batch["label"], expected.label)
                assert torch.equal(batch["whole"].view(torch.int32), expected.image.view(torch.int32))
                assert (batch["cut"][:, :, 4:12, 4:12] == 0).all()
                assert torch.equal(batch["cut"][:, :, :4], expected.image[:, :, :4])


def test_masks_targets_and_matrices_are_outputs(tmp_path: Path) -> None:
    files = pictures(6)
    rng = np.random.default_rng(0)
    records = []
    for i, (name, data) in enumerate(files.items()):
        (tmp_path / name).write_bytes(data)
        with Image.open(io.BytesIO(data)) as image:
            shape = image.height, image.width
        Image.fromarray(rng.integers(0, 5, shape).astype(np.uint8)).save(tmp_path / f"m{i}.png")
        records.append({"path": name, "label": i, "mask": f"m{i}.png" if i else "", "age": i / 2, "size": None})
    manifest = dp.Manifest.from_records(records, root=tmp_path, targets=["age", "size"])
    recipe = dp.Recipe((9, 12), base_size=24, augment=dp.Augment(0.5, resized_crop=(0.2, 1)))
    options: dict[str, Any] = {"batch_size": 4, "shuffle": True, "seed": 3, "matrix": True}
    with Source(manifest, recipe, **options) as source, dp.Loader(manifest, recipe, **options) as loader:
        assert source.names == ("image", "label", "index", "mask", "target", "matrix", "plan")
        assert source.layouts == ["CHW", "", "", "HW", "", "", ""]

        @pipeline_def(batch_size=4, num_threads=2, device_id=None, exec_dynamic=True)
        def define() -> Any:
            given = source.nodes()
            return (finish(given["image"], recipe, given), *(given[name] for name in source.names[1:6]))

        for found, batch in zip(run(define()), loader, strict=True):
            wanted = (
                batch.image,
                batch.label,
                batch.index,
                batch.mask,
                torch.stack([*batch.target.values()], 1),
                batch.matrix,
            )
            for one, other in zip(found, wanted, strict=True):
                np.testing.assert_array_equal(one, other.numpy())
                assert one.dtype == other.numpy().dtype


def test_a_source_gives_no_studies(manifest: dp.Manifest) -> None:
    import dataclasses

    grouped = dataclasses.replace(manifest, groups=manifest.ids).studies(position="frame")
    with pytest.raises(ConfigError, match=r"a study is several images.*use Loader"):
        Source(grouped, dp.Recipe(8), batch_size=2)
