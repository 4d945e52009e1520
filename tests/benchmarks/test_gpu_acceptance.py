"""The acceptance script for GPU hosts: rehearsed to its end, and what becomes of steps that fail, crash or hang."""

import ctypes
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the script writes here, on tiny data."""
    out = tmp_path_factory.mktemp("accepted") / "gpu_acceptance.json"
    command = [sys.executable, str(BENCHMARKS / "gpu_acceptance.py"), "--tiny", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    made = json.loads(out.read_text())
    assert done.returncode == made["exit"], done.stdout + done.stderr
    return {**made, "path": out}


def test_it_runs_to_its_end_and_says_what_was_not_run(document: dict) -> None:
    steps = document["steps"]
    assert list(steps) == list(script().STEPS)
    failed = {name: step for name, step in steps.items() if step["status"] == "failed"}
    assert not failed, failed
    if torch.cuda.is_available():
        assert document["exit"] == 0
        return
    assert document["exit"] == 2
    assert {name for name, step in steps.items() if step["status"] != "no GPU"} == {"compile"}
    assert steps["digests"]["figures"]["differ"] == []
    assert any("uint16, tiered" in each for each in steps["digests"]["figures"]["compared"])
    assert int(steps["tests"]["figures"]["count"]) > 10
    assert steps["races"]["figures"]["batches"] >= 18
    assert steps["warm"]["figures"]["float32"]["images/s"] > 0
    assert steps["nvjpeg"]["figures"]["DALI on the CPU"]["largest difference"] == 0
    assert steps["training"]["figures"]["cold, then warm"][0]["ms a step"] > 0


def test_the_readme_says_what_was_run(document: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    readme = load("readme")
    begin, end = readme.HARDWARE
    result = BENCHMARKS / "results" / "gpu_acceptance.json"
    accepted = json.loads(result.read_text()) if result.exists() else None
    assert f"{begin}\n{readme.hardware(accepted)}\n{end}" in (ROOT / "README.md").read_text()
    assert "not run on a GPU" in readme.hardware(None)
    if not torch.cuda.is_available():
        assert "not run on a GPU" in readme.hardware(document)
    facts = {
        "machine": {"gpu": "NVIDIA X1"},
        "smi": {"driver_version": "999"},
        "versions": {"nvidia-dali-cuda130": "2.4.0", "torch": "2.13.0"},
    }
    digests = {"status": "passed", "figures": {"backends": ["torch", "dali-cpu", "dali-gpu"]}}
    made = {"steps": {"facts": {"figures": facts}, "digests": digests}}
    row = "| NVIDIA X1, driver 999, DALI 2.4.0, torch 2.13.0 | identical: torch, dali-cpu, dali-gpu | yes |"
    assert row in readme.hardware(made)
    digests["status"] = "failed"
    assert "**differs**" in readme.hardware(made)


def test_its_figures_can_be_drawn(document: dict, tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "plot.py"), str(document["path"]), "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)})
    with Image.open(tmp_path / "gpu_acceptance.png") as chart:
        assert min(chart.size) > 400


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def script() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return load("gpu_acceptance")
    finally:
        sys.path.remove(str(BENCHMARKS))


STEP = """
import os, signal, sys
name, out = sys.argv[2], sys.argv[4]
print("about to", name)
if name == "crash": os.abort()
if name == "hang":
    with open(os.path.join(sys.argv[6], "hang.part.json"), "w") as part:
        part.write('{"images/s": 7}')
    signal.pause()
open(out, "w").write('{"status": "passed", "seconds": 0.1}')
"""


def test_a_crash_or_a_hang_hides_no_other_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    accept = script()
    (tmp_path / "step.py").write_text(STEP)
    monkeypatch.setattr(accept, "HERE", tmp_path / "step.py")
    (tmp_path / "crash.part.json").write_text('{"of": "an earlier run"}')
    monkeypatch.setattr(accept, "STEPS", {"crash": ("", 60), "hang": ("", 2), "fine": ("", 60)})
    out = tmp_path / "found.json"
    assert accept.main(["--out", str(out), "--work", str(tmp_path)]) == 1
    steps = json.loads(out.read_text())["steps"]
    assert [step["status"] for step in steps.values()] == ["failed", "failed", "passed"]
    assert "ended with status -6 and no result" in steps["crash"]["error"]
    assert "about to crash" in steps["crash"]["output"]
    assert "took longer than 2 s" in steps["hang"]["error"]
    assert [steps[name]["figures"] for name in ("crash", "hang")] == [{}, {"images/s": 7}], "what was found before"
    assert "fine" in capsys.readouterr().out


def test_every_way_a_step_can_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accept = script()

    def wrong(context: Any) -> None:
        context.keep("wrong", {"before": 1})
        raise ValueError("a step's own fault")

    def different(context: object) -> None:
        raise accept.StepFailed("pixels differ", {"a": 1})

    def without(context: object) -> None:
        raise accept.NoGpu({"b": 2})

    steps = {"good": lambda context: {"c": 3}, "wrong": wrong, "different": different, "without": without}
    monkeypatch.setitem(sys.modules, "made_up_steps", SimpleNamespace(**steps))  # type: ignore[arg-type]
    monkeypatch.setattr(accept, "STEPS", dict.fromkeys(steps, ("made_up_steps", 1)))
    found = {name: accept.run_here(name, accept.Context(tmp_path, True)) for name in steps}
    assert [each["status"] for each in found.values()] == ["passed", "failed", "failed", "no GPU"]
    assert [found[name].get("figures") for name in steps] == [{"c": 3}, {"before": 1}, {"a": 1}, {"b": 2}]
    assert found["wrong"]["error"] == "ValueError: a step's own fault"
    assert accept.verdict(found) == 1
    assert accept.verdict({"good": found["good"], "without": found["without"]}) == 2
    assert accept.verdict({"good": found["good"]}) == 0


def test_tests_that_hang_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accept = script()
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from gpu import checks

    hanging = "import sys, time\nprint('test_a PASSED', flush=True)\ntime.sleep(60)"
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} -c "{hanging}"\n')
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(checks.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(checks, "LIMIT", 2)
    with pytest.raises(checks.StepFailed, match="the tests took longer than 2 s") as failed:
        checks.tests(accept.Context(tmp_path, True))
    assert failed.value.figures == {"output": "test_a PASSED\n"}


def test_the_pack_compiles_all_passes(tmp_path: Path) -> None:
    """The line of the script that does it, into a folder of ours: the library has what the build of the package has."""
    script_lines = (BENCHMARKS / "pack_for_gpu_host.sh").read_text().splitlines()
    (line,) = [each for each in script_lines if each.startswith("cc ")]
    passes = tmp_path / "compiled"
    shutil.copytree(ROOT / "dali_pipes" / "compiled", passes, ignore=shutil.ignore_patterns("*.so"))
    subprocess.run(["bash", "-c", line], env={**os.environ, "passes": str(passes)}, check=True)
    library = ctypes.CDLL(str(passes / "_passes.so"))
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["ext-modules"][0]["sources"]
    assert sorted(path.name for path in passes.glob("*.c")) == sorted(Path(each).name for each in declared)
    assert all(hasattr(library, name) for name in ("dp_copy_u8", "dp_begin", "dp_warp_u8")), "of each source"


def test_a_compiler_need_not_know_every_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older NVRTC knows no Blackwell. A kernel that it refuses is another matter."""
    accept = script()
    for folder in (BENCHMARKS, ROOT / "tests" / "arithmetic"):
        monkeypatch.syspath_prepend(str(folder))
    import nvrtc
    from gpu import checks

    monkeypatch.setattr(checks.shutil, "which", lambda name: None)
    monkeypatch.setattr(nvrtc, "ARCHITECTURES", ("90", "999"))
    monkeypatch.setattr(checks.kernels, "source", lambda: 'extern "C" __global__ void small() {}')
    context = accept.Context(tmp_path, False)
    assert [*checks.compile(context).values()] == ["ok", checks.UNKNOWN]
    monkeypatch.setattr(checks.kernels, "source", lambda: "no source")
    with pytest.raises(checks.StepFailed, match=r"the kernels do not compile: NVRTC [0-9.]+ sm_90$"):
        checks.compile(context)
