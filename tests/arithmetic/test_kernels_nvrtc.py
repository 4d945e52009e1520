"""The CUDA source through NVRTC, as CuPy calls it, for every kind of GPU: it compiles, and no rounding is lost."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from nvrtc import ARCHITECTURES, Nvrtc, libraries, options_of_cupy

from dali_pipes.arithmetic import kernels

SUFFIXES = re.compile(r"\b(?:add|sub|mul|fma|mad|div|sqrt|rcp)\.[a-z.]*f32")


def check(nvrtc: Nvrtc, architectures: tuple[str, ...] = ARCHITECTURES) -> None:
    """Each architecture, to a cubin as CuPy asks for it and to PTX, which is looked at."""
    source = kernels.source()
    for capability in architectures:
        cubin, log = nvrtc.compile(source, options_of_cupy(kernels.COMPILE_OPTIONS, f"sm_{capability}"))
        assert cubin.startswith(b"\x7fELF"), f"sm_{capability}: no cubin"
        assert not log, f"sm_{capability}: NVRTC {nvrtc.version} warns: {log}"
        made, _ = nvrtc.compile(source, options_of_cupy(kernels.COMPILE_OPTIONS, f"compute_{capability}"))
        ptx = made.decode().strip("\0")
        assert f".target sm_{capability}" in ptx
        look_at(ptx)


def look_at(ptx: str) -> None:
    """Nothing is fused, nothing approximated, and no float step makes denormals zero."""
    floats = set(SUFFIXES.findall(ptx))
    assert {"sub.rn.f32", "mul.rn.f32"} <= floats
    assert all(".rn." in each and not each.startswith(("fma", "mad")) for each in floats), floats
    assert not re.search(r"\.(ftz|approx)\b", ptx)
    for entry in re.split(r"\.entry ", ptx)[1:]:
        name = entry.partition("(")[0]
        if name.endswith(("_f32", "_f16")):
            assert "sub.rn.f32" in entry, f"{name} does not normalise as it should"
            assert "mul.rn.f32" in entry, f"{name} does not normalise as it should"


def test_the_installed_nvrtc_takes_the_source_as_cupy_hands_it_over() -> None:
    found = libraries()
    assert found, "install nvidia-cuda-nvrtc-cu12, as the extra `test` does"
    check(Nvrtc(found[0]), ("75", "120"))  # the oldest and the newest; all of them below


def test_what_is_looked_for_in_the_ptx_would_be_found() -> None:
    nvrtc = Nvrtc(libraries()[0])
    for was, becomes in (("sub.rn.f32", "sub.rn.ftz.f32"), ("mul.rn.f32 %0, %1, %2", "fma.rn.f32 %0, %1, %2, %2")):
        assert was in kernels.source()
        worse = kernels.source().replace(was, becomes)
        made, _ = nvrtc.compile(worse, options_of_cupy(kernels.COMPILE_OPTIONS, "compute_80"))
        with pytest.raises(AssertionError):
            look_at(made.decode())


@pytest.mark.slow
@pytest.mark.parametrize(
    "wheel", ["nvidia-cuda-nvrtc-cu12==12.8.*", "nvidia-cuda-nvrtc-cu12==12.9.*", "nvidia-cuda-nvrtc==13.*"]
)
def test_every_nvrtc_that_torch_brings_takes_the_source(wheel: str, tmp_path: Path) -> None:
    """Needs a package index. Each library in a process of its own: one process can hold only one `libnvrtc.so.12`."""
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path), wheel]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (library,) = libraries(tmp_path)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_kernels_nvrtc as t; t.check(t.Nvrtc(sys.argv[2]))"
    )
    run = [sys.executable, "-c", program, str(Path(__file__).parent), str(library)]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
