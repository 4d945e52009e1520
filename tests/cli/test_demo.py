"""`dali-pipes demo`: the whole product on its own set, with its verdict as JSON alone on stdout."""

import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

from dali_pipes import cache
from dali_pipes.cli.common import present_backends


def test_every_backend_in_every_mode_gives_the_same_bits(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "dali_pipes",
        "demo",
        "--json",
        "--dir",
        str(tmp_path / "demo"),
        "--img-size",
        "64",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    parity = told["parity"]
    assert parity == {"identical": True, "backends": present_backends(), "samples": told["images"], "differing": []}
    assert told["images"] > 100
    assert {(run["backend"], run["cache_mode"]) for run in told["runs"]} == {
        (backend, mode) for backend in present_backends() for mode in cache.MODES
    }
    for run in told["runs"]:
        assert run["failed"] == 0
        assert min(run["images_per_second"].values()) > 0
        assert run["decoded"] <= told["images"] * (3 if run["cache_mode"] == "none" else 1)
    assert told["warmed"]["failed"] == 0
    with Image.open(told["contact_sheet"]) as sheet:
        assert sheet.size[0] > 1000
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == ["cache", "contact-sheet.png", "images"]
