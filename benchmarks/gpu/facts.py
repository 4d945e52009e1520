"""The machine: driver, bus, versions, and what its CUDA says it can do."""

import importlib.metadata
import shutil
import subprocess
from typing import Any

from dali_pipes.tools.bench import machine
from gpu.context import Context

PACKAGES = (
    *("torch", "numpy", "cupy-cuda12x", "cupy-cuda13x", "nvidia-dali-cuda120", "nvidia-dali-cuda130"),
    *("nvidia-cuda-nvrtc-cu12", "nvidia-cuda-nvrtc", "nvidia-nvimgcodec-cu12", "nvidia-nvimgcodec-cu13"),
    *("imagecodecs", "simplejpeg", "pydicom"),
)
ASKED = "name,driver_version,memory.total,pcie.link.gen.max,pcie.link.gen.current,pcie.link.width.current"
ATTRIBUTES = ("HostRegisterSupported", "HostRegisterReadOnlySupported", "CanUseHostPointerForRegisteredMem")


def versions() -> dict[str, str]:
    """What is installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def smi() -> dict[str, str]:
    """What nvidia-smi says."""
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", f"--query-gpu={ASKED}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    first = (done.stdout.strip().splitlines() or [""])[0]
    return dict(zip(ASKED.split(","), map(str.strip, first.split(","))))


def facts(context: Context) -> dict[str, Any]:
    """Facts; the first figures of the document."""
    import torch

    found: dict[str, Any] = {"machine": machine(), "versions": versions(), "smi": smi(), "cuda": torch.version.cuda}
    context.need_gpu(**found)
    import cupy

    runtime = cupy.cuda.runtime
    number = torch.cuda.current_device()
    found["nvrtc"] = list(cupy.cuda.nvrtc.getVersion())
    found["driver_cuda"] = runtime.driverGetVersion()
    found["capability"] = list(torch.cuda.get_device_capability())
    for name in ATTRIBUTES:
        found[name] = runtime.deviceGetAttribute(getattr(runtime, f"cudaDevAttr{name}"), number)
    return found
