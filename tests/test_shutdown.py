"""Nothing is printed when Python ends, whatever is still open then."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from archives import coded, manifest_of

SCRIPT = """
import sys
import dali_pipes as dp

manifest = dp.Manifest.from_csv(sys.argv[1])
kept = []
for backend in ("torch", "dali-cpu"):
    options = {"batch_size": 2, "backend": backend}
    loader = dp.Loader(manifest, dp.Recipe(8), **options, cache_mode="memory", sandbox=backend == "torch")
    batches = iter(loader)
    next(batches)
    kept += [loader, batches, dp.Loader(manifest, dp.Recipe(8), **options)]
    list(kept[-1])
dataset = dp.ImageDataset(manifest, dp.Recipe(8))
dataset[1]
if sys.argv[2] == "closed":
    dataset.close()
    for each in kept[::3] + kept[2::3]:
        each.close()
"""


@pytest.mark.parametrize("how", ["open", "closed"])
def test_python_ends_in_silence(tmp_path: Path, how: str) -> None:
    manifest_of(tmp_path, {f"{i}.img": coded(i, "dicom" if i % 2 else "jpeg") for i in range(6)})
    command = [
        sys.executable,
        "-X",
        "dev",
        "-W",
        "error::ResourceWarning",
        "-W",
        "ignore::DeprecationWarning",
        "-c",
        SCRIPT,
    ]
    told = subprocess.run(
        [*command, str(tmp_path / "list.csv"), how],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parent.parent,
    )
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")
