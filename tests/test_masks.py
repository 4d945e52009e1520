"""Masks: decoded once, cached under keys of their own, and moved with their images."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from archives import CPU_BACKENDS
from make_images import describe, dicom, write
from PIL import Image

import dali_pipes as dp
from dali_pipes.decode import decode_mask, identify
from dali_pipes.decode.limits import Limits
from dali_pipes.errors import DecodeError, UnsupportedError

AUGMENTS: dict[str, dp.Augment | None] = {
    "nothing": None,
    "flips": dp.Augment(0.5, 0.5),
    "crop": dp.Augment(0.5, 0.5, resized_crop=(0.3, 1), quarter_turns=0.75),
    "turned": dp.Augment(0.5, rotation=60, scale=(0.8, 1.3), shift=0.1, shear=15, resized_crop=(0.5, 1)),
    "plain turn": dp.Augment(0.5, 0.5, 60, (0.8, 1.3), 0.1),
}


def png(pixels: np.ndarray, **more: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels, **more).save(out, "PNG")
    return out.getvalue()


def discs(count: int, folder: Path) -> dp.Manifest:
    """White discs on black, and their masks: the same pixels as class 7."""
    rng = np.random.default_rng(5)
    rows = ["path,mask"]
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        height, width = (int(n) for n in rng.integers(60, 90, 2))
        y, x = (int(n) for n in rng.integers(20, 40, 2))
        disc = (np.arange(height)[:, None] - y) ** 2 + (np.arange(width) - x) ** 2 < 15**2
        (folder / f"{i}.png").write_bytes(png(disc.astype(np.uint8) * 255))
        (folder / f"m{i}.png").write_bytes(png(disc.astype(np.uint8) * 7))
        rows.append(f"{i}.png,m{i}.png" if i else f"{i}.png,")
    (folder / "all.csv").write_text("\n".join(rows) + "\n")
    return dp.Manifest.from_csv(folder / "all.csv")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> dp.Manifest:
    return discs(8, tmp_path_factory.mktemp("discs"))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("name", AUGMENTS)
def test_masks_lie_where_their_images_lie(manifest: dp.Manifest, name: str, fit: Any, backend: str) -> None:
    """Where the image is clearly white or black the mask says so; only pixels at edges may be between."""
    base = None if name == "plain turn" else (56, 50)
    recipe = dp.Recipe((40, 44), channels=1, base_size=base, fit=fit, augment=AUGMENTS[name])
    seen = 0
    with dp.Loader(manifest, recipe, batch_size=3, backend=backend, seed=2) as loader:
        for batch in loader:
            assert batch.mask is not None
            assert batch.mask.dtype is torch.uint8
            assert batch.mask.shape == (len(batch), 40, 44)
            for i, image, mask in zip(batch.index.tolist(), batch.image[:, 0], batch.mask):
                if i == 0:  # it has none
                    assert not mask.any()
                    continue
                assert set(mask.unique().tolist()) <= {0, 7}
                assert ((image > 200) & (mask != 7)).sum() <= 0.02 * mask.numel()
                assert ((image < 55) & (mask == 7)).sum() <= 0.02 * mask.numel()
                seen += int((mask == 7).sum())
    assert seen > 500


def test_masks_are_the_same_on_every_backend_and_view(manifest: dp.Manifest) -> None:
    found = []
    recipe = dp.Recipe(32, base_size=50, views=2, augment=AUGMENTS["crop"])
    for backend in CPU_BACKENDS:
        with dp.Loader(manifest, recipe, batch_size=4, backend=backend, seed=2) as loader:
            found.append(torch.cat([batch.mask for batch in loader]))
    assert torch.equal(*found)
    assert found[0].shape == (8, 2, 32, 32)
    assert not torch.equal(found[0][:, 0], found[0][:, 1])


def test_a_warm_cache_decodes_no_mask(manifest: dp.Manifest, tmp_path: Path) -> None:
    for decoded in (8, 0):
        recipe = dp.Recipe(32, base_size=50, augment=AUGMENTS["turned" if decoded else "crop"])
        with dp.Loader(manifest, recipe, batch_size=4, cache_mode="pinned", cache_dir=tmp_path) as loader:
            for batch in loader:
                assert batch.mask is not None
            assert loader.stats()["decoded"] == decoded
            assert loader.stats()["masks"]["decoded"] == max(0, decoded - 1)


def test_warming_warms_masks(manifest: dp.Manifest, tmp_path: Path) -> None:
    recipe = dp.Recipe(32)
    with dp.Loader(manifest, recipe, batch_size=4, cache_mode="npy", cache_dir=tmp_path) as loader:
        assert list(loader.warm()) == list(range(8))
    with dp.Loader(manifest, recipe, batch_size=4, cache_mode="npy", cache_dir=tmp_path) as loader:
        list(loader)
        assert loader.stats()["masks"]["decoded"] == 0


def test_a_mask_of_another_size_is_an_error_with_both_sizes(tmp_path: Path) -> None:
    discs(3, tmp_path)
    (tmp_path / "m1.png").write_bytes(png(np.zeros((5, 9), np.uint8)))
    manifest = dp.Manifest.from_csv(tmp_path / "all.csv")
    words = r"sample 1 .*its image has \d+ x \d+ pixels, its mask 5 x 9; give a mask of the image's size"
    with dp.Loader(manifest, dp.Recipe(16), batch_size=4) as loader, pytest.raises(DecodeError, match=words):
        list(loader)
    for on_error, wanted in (("skip", [0, 2]), ("substitute", [0, 2, 2])):
        with dp.Loader(manifest, dp.Recipe(16), batch_size=4, on_error=on_error) as loader:
            with pytest.warns(dp.DaliPipesWarning):
                (batch,) = list(loader)
            assert batch.index.tolist() == wanted
            assert batch.mask is not None
            assert len(batch.mask) == len(wanted)
            assert torch.equal(batch.mask[1], batch.mask[-1])


def test_a_mask_that_is_not_there_is_its_samples_failure(tmp_path: Path) -> None:
    discs(3, tmp_path)
    (tmp_path / "m2.png").unlink()
    manifest = dp.Manifest.from_csv(tmp_path / "all.csv")
    words = "the mask of sample 2"
    with dp.Loader(manifest, dp.Recipe(16), batch_size=4) as loader, pytest.raises(DecodeError, match=words):
        list(loader)


def read(data: bytes, frame: int = 0) -> list[list[int]]:
    found: list[list[int]] = decode_mask(data, identify(None, data), frame, Limits()).tolist()
    return found


def test_class_numbers_of_pngs() -> None:
    values = np.array([[0, 1, 255], [2, 3, 4]], np.uint8)
    assert read(png(values)) == values.tolist()
    assert read(png(values.astype(np.uint16))) == values.tolist()
    assert read(png(values > 1)) == (values > 1).astype(int).tolist()
    assert read(png(np.repeat(values[..., None], 3, 2))) == values.tolist()
    palette = Image.fromarray(values, "P")
    palette.putpalette([10, 20, 30] * 256)
    out = io.BytesIO()
    palette.save(out, "PNG")
    assert read(out.getvalue()) == values.tolist()


def test_what_is_no_mask_is_refused() -> None:
    colours = np.zeros((2, 2, 3), np.uint8)
    colours[0, 0, 1] = 9
    with pytest.raises(UnsupportedError, match="a mask holds colours"):
        read(png(colours))
    with pytest.raises(UnsupportedError, match="no whole numbers from 0 to 255"):
        read(png(np.full((2, 2), 256, np.uint16)))
    out = io.BytesIO()
    Image.fromarray(colours).save(out, "JPEG")
    with pytest.raises(UnsupportedError, match="a mask is a JPEG"):
        read(out.getvalue())


def test_class_numbers_of_dicom_segmentations() -> None:
    """Frames of eight bits, and of one bit, where frames may begin inside of a byte (PS3.5 8.1.1)."""
    frames = [np.random.default_rng(i).integers(0, 6, (5, 7)).astype(np.uint8) for i in range(2)]
    several = dicom(frames, BitsStored=8)
    assert [read(several, i) for i in (0, 1)] == [frame.tolist() for frame in frames]
    bits = np.concatenate([(frame > 2).ravel() for frame in frames])
    packed = np.packbits(bits, bitorder="little")
    packed = np.append(packed, np.zeros(len(packed) % 2, np.uint8))
    ds = describe(frames, {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0})
    binary = write(ds, "explicit", packed.tobytes(), encapsulated=False)
    assert [read(binary, i) for i in (0, 1)] == [(frame > 2).astype(int).tolist() for frame in frames]


def test_a_sandbox_decodes_masks_in_children(manifest: dp.Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = dp.Recipe(16)
    with dp.Loader(manifest, recipe, batch_size=8) as loader:
        (plain,) = list(loader)

    def refuse(*arguments: Any) -> None:
        raise AssertionError("a mask was decoded in this process")

    monkeypatch.setattr("dali_pipes.fetch.masks.decode_mask", refuse)
    with dp.Loader(manifest, recipe, batch_size=8, sandbox=True, num_workers=1) as loader:
        (batch,) = list(loader)
    assert torch.equal(batch.mask, plain.mask)
    assert batch.mask.any()


def test_a_child_refuses_what_is_no_mask(tmp_path: Path) -> None:
    discs(2, tmp_path)
    (tmp_path / "m1.png").write_bytes(png(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)))
    manifest = dp.Manifest.from_csv(tmp_path / "all.csv")
    loader = dp.Loader(manifest, dp.Recipe(16), batch_size=2, sandbox=True, num_workers=1)
    with loader, pytest.raises(UnsupportedError, match=r"the mask of sample 1.*holds colours"):
        list(loader)


@pytest.mark.parametrize("views", [1, 2])
def test_a_data_set_gives_the_masks_of_the_loader(manifest: dp.Manifest, views: int) -> None:
    recipe = dp.Recipe(32, base_size=50, views=views, augment=AUGMENTS["turned"])
    with dp.Loader(manifest, recipe, batch_size=8, seed=2) as loader:
        (batch,) = list(loader)
    with dp.ImageDataset(manifest, recipe, seed=2) as dataset:
        items = dataset.__getitems__(batch.index.tolist())
        assert dataset.stats()["masks"]["decoded"] == 7
    assert torch.equal(torch.stack([image for image, _, _ in items]), batch.image)
    assert torch.equal(torch.stack([row["mask"] for _, _, row in items]), batch.mask)


def test_a_data_set_loses_the_samples_of_bad_masks(tmp_path: Path) -> None:
    discs(4, tmp_path)
    for i in (1, 2):
        (tmp_path / f"m{i}.png").write_bytes(png(np.zeros((5, 9), np.uint8)))
    manifest = dp.Manifest.from_csv(tmp_path / "all.csv")
    with dp.ImageDataset(manifest, dp.Recipe(16)) as dataset, pytest.raises(DecodeError, match="its mask 5 x 9"):
        dataset[1]
    with dp.ImageDataset(manifest, dp.Recipe(16), on_error="substitute") as dataset:
        with pytest.warns(dp.DaliPipesWarning):
            _, _, row = dataset[1]
        assert row["index"] == 3
        assert torch.equal(row["mask"], dataset[3][2]["mask"])


def test_a_sample_with_a_bad_mask_substitutes_for_none(tmp_path: Path) -> None:
    """Nor is it missing among the failures."""
    discs(4, tmp_path)
    for i in (1, 2):
        (tmp_path / f"m{i}.png").write_bytes(png(np.zeros((5, 9), np.uint8)))
    manifest = dp.Manifest.from_csv(tmp_path / "all.csv")
    with dp.Loader(manifest, dp.Recipe(16), batch_size=2, on_error="substitute") as loader:
        with pytest.warns(dp.DaliPipesWarning):
            batches = list(loader)
        assert [batch.index.tolist() for batch in batches] == [[0, 3], [3, 3]]
        assert list(loader.failures()) == [1, 2]
        assert "its mask 5 x 9" in loader.failures()[1]


def test_concat_moves_the_paths_of_masks(tmp_path: Path) -> None:
    parts = [discs(2, tmp_path / name) for name in ("one", "two")]
    whole = dp.Manifest.concat(parts)
    assert list(whole.columns["mask"]) == ["", "one/m1.png", "", "two/m1.png"]
    with dp.Loader(whole, dp.Recipe(16), batch_size=4) as loader:
        (batch,) = list(loader)
    assert batch.mask[1].any()
    assert batch.mask[3].any()


def test_a_frame_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="frame 2 was asked for; the png image has 1, counted from 0"):
        read(png(np.zeros((2, 2), np.uint8)), 2)
    out = io.BytesIO()
    pages = [Image.fromarray(np.full((2, 2), i, np.uint8)) for i in range(3)]
    pages[0].save(out, "TIFF", save_all=True, append_images=pages[1:])
    assert read(out.getvalue(), 2) == [[2, 2], [2, 2]]
    with pytest.raises(DecodeError, match="frame 3 was asked for; the tiff image has 3, counted from 0"):
        read(out.getvalue(), 3)
    frames = [np.zeros((5, 7), np.uint8)] * 2
    with pytest.raises(DecodeError, match="frame 2 was asked for; the file has 2, counted from 0"):
        read(dicom(frames, BitsStored=8), 2)
    discs(1, tmp_path)
    records = [{"path": "0.png", "mask": "m0.png", "mask_frame": number} for number in (0, None, 2.0, -1, "two")]
    with pytest.raises(dp.ManifestError, match=r"2 of 5 rows.*\n.*mask_frame is '-1'; give a number from 0"):
        dp.Manifest.from_records(records, root=tmp_path)
    manifest = dp.Manifest.from_records(records[:3], root=tmp_path)
    loader = dp.Loader(manifest, dp.Recipe(8), batch_size=3)
    with loader, pytest.raises(DecodeError, match=r"the mask of sample 2.*frame 2 was asked for; the png image has 1"):
        list(loader)


def test_masks_of_frames_come_through_a_child(tmp_path: Path) -> None:
    """A DICOM segmentation of several frames, one bit a pixel: in this process and in a sandbox's children."""
    rng = np.random.default_rng(2)
    frames = [rng.integers(0, 2, (20, 30)).astype(np.uint8) for _ in range(3)]
    packed = np.packbits(np.concatenate([frame.ravel() for frame in frames]), bitorder="little")
    packed = np.append(packed, np.zeros(len(packed) % 2, np.uint8))
    ds = describe(frames, {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0})
    (tmp_path / "seg.dcm").write_bytes(write(ds, "explicit", packed.tobytes(), encapsulated=False))
    (tmp_path / "image.png").write_bytes(png(rng.integers(0, 256, (20, 30)).astype(np.uint8)))
    records = [{"path": "image.png", "id": str(i), "mask": "seg.dcm", "mask_frame": i} for i in (2, 0, 1)]
    manifest = dp.Manifest.from_records(records, root=tmp_path)
    for sandbox in (False, True):
        options: dict[str, Any] = {"sandbox": sandbox, "num_workers": 1}
        with dp.Loader(manifest, dp.Recipe((20, 30)), batch_size=3, **options) as loader:
            (batch,) = list(loader)
        assert batch.mask.tolist() == [frames[i].tolist() for i in (2, 0, 1)]


def test_paths_of_masks_are_read_as_paths_of_images(tmp_path: Path) -> None:
    """Absolute below the root, of Windows, with a dot before them; what leads out of the root is refused."""
    discs(4, tmp_path / "inner")
    folder = tmp_path / "inner"
    masks = [str(folder / "m1.png"), "inner\\m2.png", "./inner/m3.png", ""]
    records = [{"path": f"inner/{i or 1}.png", "id": str(i), "mask": mask} for i, mask in zip((1, 2, 3, 0), masks)]
    manifest = dp.Manifest.from_records(records, root=tmp_path)
    assert list(manifest.columns["mask"]) == ["inner/m1.png", "inner/m2.png", "inner/m3.png", ""]
    for outside in ("../m1.png", "/etc/m1.png"):
        with pytest.raises(dp.ManifestError, match=r"1 of 1 rows.*\n.*mask: path (may not leave|is absolute and not)"):
            dp.Manifest.from_records([{"path": "inner/1.png", "mask": outside}], root=tmp_path)
    whole = dp.Manifest.concat([manifest, discs(2, tmp_path.parent / f"{tmp_path.name} too")])
    assert whole.columns["mask"][0] == f"{tmp_path.name}/inner/m1.png"
    with dp.Loader(whole, dp.Recipe(16), batch_size=6) as loader:
        (batch,) = list(loader)
    assert [bool(each.any()) for each in batch.mask] == [True, True, True, False, False, True]


def test_rows_of_a_dataset_bring_masks(tmp_path: Path) -> None:
    manifest = discs(3, tmp_path / "a")
    recipe = dp.Recipe(16, augment=AUGMENTS["crop"])
    with dp.ImageDataset(manifest, recipe, seed=1) as dataset:
        wanted = [dataset[i] for i in range(3)]
    rows = [{"path": f"{i}.png", "mask": f"m{i}.png" if i else None} for i in range(3)]
    absolute = [{name: value and str(tmp_path / "a" / value) for name, value in row.items()} for row in rows]
    of_a_frame = [{"mask_frame": float("nan"), **row, "mask": row["mask"] or float("nan")} for row in rows]
    for given, root in ((rows, tmp_path / "a"), (of_a_frame, tmp_path / "a"), (absolute, None)):
        with dp.ImageDataset(given, recipe, seed=1, root=root) as dataset:
            for i, (image, _, row) in enumerate(wanted):
                assert torch.equal(dataset[i][2]["mask"], row["mask"])
                assert torch.equal(dataset[i][0], image)
    (tmp_path / "masks").mkdir()
    (tmp_path / "a" / "m1.png").rename(tmp_path / "masks" / "1.png")
    apart = [{"path": str(tmp_path / "a" / "1.png"), "mask": str(tmp_path / "masks" / "1.png")}]
    with dp.ImageDataset(apart, recipe) as dataset:  # the root is the folder that images and masks have in common
        assert dataset[0][2]["mask"].any()


def test_what_is_cached_includes_the_mask(manifest: dp.Manifest, tmp_path: Path) -> None:
    import dataclasses

    given: dict[str, Any] = {"batch_size": 8, "cache_mode": "npy", "cache_dir": tmp_path}
    bare = dataclasses.replace(manifest, columns={})
    with dp.Loader(bare, dp.Recipe(16), **given) as loader:
        assert list(loader.warm()) == list(range(8))
        assert all(map(loader.is_cached, range(8)))
    with dp.Loader(manifest, dp.Recipe(16), **given) as loader:
        assert [i for i in range(8) if loader.is_cached(i)] == [0]  # it has no mask
        assert list(loader.warm()) == list(range(8))
        assert all(map(loader.is_cached, range(8)))


def test_columns_of_masks_are_found_in_any_case(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(np.zeros((9, 9), np.uint8)))
    (tmp_path / "m.png").write_bytes(png(np.full((9, 9), 4, np.uint8)))
    (tmp_path / "all.csv").write_text("Path, Mask ,MASK_FRAME,Z\na.png,m.png,0,1\n")
    manifest = dp.Manifest.from_csv(tmp_path / "all.csv")
    assert list(manifest.columns) == ["mask", "mask_frame", "Z"]
    with dp.Loader(manifest, dp.Recipe(8), batch_size=1) as loader:
        (batch,) = loader
        assert batch.mask is not None
        assert batch.mask.unique().tolist() == [4]
    (tmp_path / "all.csv").write_text("path,mask,Mask\na.png,m.png,text\n")
    assert list(dp.Manifest.from_csv(tmp_path / "all.csv").columns["mask"]) == ["m.png"]
