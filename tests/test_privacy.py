"""Canaries: nothing that names a patient, a study or a file reaches the cache folder or the log."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from archives import coded, noise, write_csv
from make_images import dicom, jpeg

import dali_pipes as dp
from dali_pipes import cache

NAME, ID, UID = "CANARYNAME^ANNA", "CANARY-ID-4711", "1.2.826.0.1.777777.42"
FOLDER, FILE = "canaryfolder", "canaryfile"
CANARIES = (NAME, ID, UID, FOLDER, FILE, "canarysample", "canarygroup", "canarycomment")


def make_archive(root: Path) -> dp.Manifest:
    """Good and bad files, full of canaries inside and out."""
    told = {
        "PatientName": NAME,
        "PatientID": ID,
        "SOPInstanceUID": UID,
        "StudyInstanceUID": UID,
        "SeriesInstanceUID": UID,
        "InstitutionName": "canarycomment",
        "PatientComments": "canarycomment",
        "BurnedInAnnotation": "YES",
        "WindowCenter": 100,
        "WindowWidth": 50,
    }
    deep = np.linspace(0, 4095, 400).reshape(20, 20).astype(np.uint16)
    good = dicom(deep, BitsStored=12, **told)
    files = {
        "plain.dcm": good,
        "rle.dcm": dicom(deep, "rle", BitsStored=12, **told),
        "j2k.dcm": dicom(deep, "j2k", BitsStored=12, **told),
        "cut.dcm": good[:-100],
        "shorter.dcm": good[:300],
        "window.dcm": dicom(deep, BitsStored=12, **{**told, "WindowWidth": 0}),
        "photo.jpg": jpeg(noise(1, 20, 20), comment=b"canarycomment", exif=b"Exif\0\0canarycomment"),
        "cut.jpg": jpeg(noise(1, 40, 40), comment=b"canarycomment")[:-99],
        "text.jpg": b"canarycomment and no image",
        "picture.png": coded(3, "png"),
    }
    folder = root / FOLDER
    folder.mkdir(parents=True)
    rows = []
    for i, (name, data) in enumerate(files.items()):
        (folder / f"{FILE}-{name}").write_bytes(data)
        rows.append((f"{FOLDER}/{FILE}-{name}", i, f"canarysample-{i}", "canarygroup"))
    rows.append((f"{FOLDER}/{FILE}-missing.dcm", 99, "canarysample-missing", "canarygroup"))
    return dp.Manifest.from_csv(write_csv(root / "list.csv", rows, ("path", "label", "id", "group")))


def forms(canary: str) -> list[bytes]:
    """How a text may lie in a file."""
    return [canary.encode(), canary.encode("utf-16-le"), canary.encode().hex().encode(), canary.lower().encode()]


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("mode", [mode for mode in cache.MODES if mode not in ("none", "memory")])
def test_nothing_written_or_logged_names_anybody(
    tmp_path: Path, mode: str, depth: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DALI_PIPES_SHOW_PATHS", raising=False)
    caplog.set_level(logging.DEBUG)
    manifest = make_archive(tmp_path / "archive")
    messages: list[str] = []
    recipe = dp.Recipe(8, window=dp.VOIWindow(), depth=depth)
    for _ in range(2):
        with dp.Loader(manifest, recipe, batch_size=4, backend="torch", cache_mode=mode, num_workers=2,
                       cache_dir=tmp_path / "cache", on_error="skip") as loader:  # fmt: skip
            with pytest.warns(dp.DaliPipesWarning) as said:
                batches = list(loader)
            messages += [*loader.failures().values(), str(loader.stats()), repr(loader), str(loader.state_dict())]
        messages += [str(each.message) for each in said]
    assert 4 <= sum(map(len, batches)) < len(manifest)
    messages += [record.getMessage() + str(record.exc_text or "") for record in caplog.records]
    assert any("sample" in message for message in messages)
    for canary in CANARIES:
        assert not any(canary.lower() in message.lower() for message in messages), canary
    written = list((tmp_path / "cache").rglob("*"))
    assert sum(path.is_file() for path in written) >= 2
    for path in written:
        content = path.read_bytes() if path.is_file() else b""
        for canary in CANARIES:
            assert canary.lower() not in str(path.relative_to(tmp_path)).lower()
            assert not any(form in content for form in forms(canary)), (path.name, canary)


def test_the_search_would_find_a_canary(tmp_path: Path) -> None:
    """A test of the test: the archive does hold them, where the search looks for them."""
    make_archive(tmp_path)
    content = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for canary in CANARIES:
        assert any(form in content for form in forms(canary)), canary


def test_errors_name_paths_only_where_the_user_asks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = make_archive(tmp_path).subset([8])
    for shown in (False, True):
        monkeypatch.setenv("DALI_PIPES_SHOW_PATHS", "1" if shown else "0")
        loader = dp.Loader(manifest, dp.Recipe(8), batch_size=1, backend="torch")
        with loader, pytest.raises(dp.UnsupportedError) as caught:
            next(iter(loader))
        assert (FILE in str(caught.value)) == shown
