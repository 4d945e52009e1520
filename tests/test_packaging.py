"""What is installed, and what a user's own files beside a script may be called."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

LEFT_OUT = shutil.ignore_patterns(".git", ".venv*", "__pycache__", "*.egg-info", "build", "dist", ".*_cache")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree as a fresh clone has it, links included."""
    folder = tmp_path_factory.mktemp("clone") / "dali-pipes"
    shutil.copytree(ROOT, folder, symlinks=True, ignore=LEFT_OUT)
    return folder


def build(source: Path, kind: str, out: Path) -> Path:
    """A wheel or an sdist, by the build backend of this environment, without a network."""
    code = "import sys; from setuptools import build_meta as b; print(getattr(b, f'build_{sys.argv[1]}')(sys.argv[2]))"
    out.mkdir(exist_ok=True)
    told = subprocess.run(
        [sys.executable, "-c", code, kind, str(out)],
        cwd=source,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return out / told.stdout.splitlines()[-1]


def test_the_wheel_holds_one_package_with_real_files(clone: Path, tmp_path: Path) -> None:
    """Built from the tree and from the sdist, which may hold no links either."""
    sdist = build(clone, "sdist", tmp_path / "dist")
    with tarfile.open(sdist) as archive:
        assert not [member.name for member in archive.getmembers() if member.issym() or member.islnk()]
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    wheels = [build(clone, "wheel", tmp_path / "dist"), build(unpacked, "wheel", tmp_path / "again")]
    held = []
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
        tops = {name.split("/")[0] for name in names}
        assert {top for top in tops if not top.endswith(".dist-info")} == {"dali_pipes"}
        assert {"dali_pipes/cache/store.py", "dali_pipes/py.typed", "dali_pipes/cache/py.typed"} <= set(names)
        assert "dali_pipes/arithmetic/portable.cu" in names
        held.append(sorted(name for name in names if name.startswith("dali_pipes/")))
    assert held[0] == held[1]
    ours = {str(path.relative_to(clone)) for path in (clone / "dali_pipes").rglob("*.py")}
    ours |= {f"dali_pipes/{path.relative_to(clone)}" for path in (clone / "cache").rglob("*.py")}
    assert set(held[0]) >= ours


def test_the_wheel_installs_one_name(clone: Path, tmp_path: Path) -> None:
    wheel, target = build(clone, "wheel", tmp_path / "dist"), tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", target, wheel]
    if importable("pip"):
        subprocess.run([*map(str, install)], check=True, capture_output=True, timeout=120)
    else:
        shutil.unpack_archive(wheel, target, "zip")
    assert [entry.name for entry in target.iterdir() if (entry / "__init__.py").exists()] == ["dali_pipes"]
    assert not [entry for entry in target.rglob("*") if entry.is_symlink()]
    code = "import dali_pipes, dali_pipes.cache.store as s; print(dali_pipes.__file__, s.__file__, sep='\\n')"
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(target)}, capture_output=True,
        text=True, timeout=60, check=True,
    )  # fmt: skip
    assert all(Path(line).is_relative_to(target) for line in told.stdout.split())


def importable(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None


NAMES = ("cache", "tests", "recipe", "manifest", "errors", "decode", "names", "loader", "archives", "tools", "utils")
"""Modules of a user's own that lie beside the script; none of them may be imported in place of ours."""

SCRIPT = """
import sys
import dali_pipes as dp

if __name__ == "__main__":
    samples, recipe = dp.Manifest.from_csv("list.csv"), dp.Recipe(size=8)
    with dp.Loader(samples, recipe, batch_size=2, backend="torch", sandbox=True, cache_mode="npy", cache_dir="kept",
                   num_workers=1) as loader:
        print(sum(len(batch) for batch in loader))
    assert not [name for name in sys.argv[1].split(",") if name in sys.modules]
    import cache
"""


def test_files_of_the_users_own_do_no_harm(tmp_path: Path) -> None:
    from tests.archives import manifest_of, pictures

    manifest_of(tmp_path, pictures(3))
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py of the user was imported')\n")
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py", ",".join(NAMES)]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert told.stdout.strip() == "3", told.stderr
    assert told.stderr.splitlines()[0] == "cache.py of the user was imported"  # by the user's own line, the last
    command = [sys.executable, "-m", "dali_pipes", "cache", "stats", "kept", "--json"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (told.returncode, told.stderr) == (0, "")
    assert json.loads(told.stdout)["entries"] == 3


def test_plain_pytest_collects_from_a_fresh_clone(clone: Path) -> None:
    """Without an installation, and without the current folder on the path, as the command `pytest` runs."""
    paths = [path for path in sys.path if path and Path(path).resolve() != ROOT and Path(path) != ROOT / "tests"]
    code = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); import pytest; sys.exit(pytest.main())"
    told = subprocess.run(
        [sys.executable, "-S", "-c", code, json.dumps(paths), "--collect-only", "-q", "tests/cache"],
        cwd=clone, capture_output=True, text=True, timeout=120, check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )  # fmt: skip
    assert told.returncode == 0, told.stdout + told.stderr
    assert "tests/cache/test_store.py::" in told.stdout
