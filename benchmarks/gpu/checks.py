"""Steps that pass or fail: compiling, the tests, digests of all backends, recovery after errors, first use."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import dali_pipes as dp
from dali_pipes.arithmetic import kernels
from gpu.context import IMAGENET, Context, NoGpu, StepFailed

ROOT = Path(__file__).resolve().parents[2]
ARITHMETIC = ROOT / "tests" / "arithmetic"
LIMIT = 200
"""Seconds that the tests may take: less than the step, so that it can say which of them hangs."""
UNKNOWN = "an architecture that this compiler does not know"
MODES = ("none", "memory", "disk", "npy", "tensor-disk", "tensor-memmap", "pinned", "tiered")


def compile(context: Context) -> dict[str, Any]:
    """The kernels through nvcc and through NVRTC as CuPy calls it, for every architecture; needs no GPU.

    On a GPU also through CuPy itself, for that GPU.
    """
    sys.path.insert(0, str(ARITHMETIC))
    from nvrtc import ARCHITECTURES, Nvrtc, libraries, options_of_cupy

    chosen = ("90",) if context.tiny else ARCHITECTURES
    found: dict[str, Any] = {}
    if shutil.which("nvcc"):
        source = context.work / "kernels.cu"
        source.write_text(kernels.source(), "utf-8")
        for capability in chosen:
            with tempfile.NamedTemporaryFile(suffix=".cubin") as out:
                command = ["nvcc", f"-arch=sm_{capability}", *kernels.COMPILE_OPTIONS, "-ftz=true", "-cubin"]
                done = subprocess.run(
                    [*command, str(source), "-o", out.name], capture_output=True, text=True, check=False
                )
            found[f"nvcc sm_{capability}"] = "ok" if done.returncode == 0 else refusal(done.stderr)
    for path in libraries()[:1]:
        library = Nvrtc(path)
        for capability in chosen:
            name = f"NVRTC {'.'.join(map(str, library.version))} sm_{capability}"
            try:
                library.compile(kernels.source(), options_of_cupy(kernels.COMPILE_OPTIONS, f"sm_{capability}"))
                found[name] = "ok"
            except RuntimeError as error:
                found[name] = refusal(str(error))
    if context.gpu:  # for the GPU that is here
        found["CuPy"] = kernels.problem() or "ok"
    wrong = [name for name, outcome in found.items() if outcome not in ("ok", UNKNOWN)]
    if wrong:
        raise StepFailed(f"the kernels do not compile: {', '.join(wrong)}", found)
    if not found:
        context.need_gpu(nothing="neither nvcc nor an NVRTC is installed")
    return found


def refusal(message: str) -> str:
    """What a compiler said; it need not know architectures that are younger or older than it."""
    unknown = re.search("(?i)unsupported gpu architecture|invalid value for --gpu-architecture", message)
    return UNKNOWN if unknown else message[-500:]


def tests(context: Context) -> dict[str, Any]:
    """The project's tests that need a GPU; without one they are collected."""
    # These files alone: a GPU host need not have what all the others import.
    files = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text("utf-8")]
    # Verbose, so that a test that hangs is named. Warnings of packages that were never run here are no failures.
    command = [sys.executable, "-m", "pytest", "-v", "--tb=short", "--timeout=60", "-m", "gpu", *files]
    command += ["-W", "default", "-W", "error::dali_pipes.DaliPipesWarning"]
    environment = {**os.environ, "DALI_PIPES_REQUIRE_GPU": "1"}
    if not context.gpu:
        command.append("--collect-only")
        del environment["DALI_PIPES_REQUIRE_GPU"]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
        )
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""  # bytes, although text was asked for
        text = output if isinstance(output, str) else output.decode(errors="replace")
        raise StepFailed(f"the tests took longer than {LIMIT} s", {"output": text[-20000:]}) from error
    lines = done.stdout.strip().splitlines()
    found = {"summary": lines[-1] if lines else done.stderr[-500:]}
    if done.returncode:
        raise StepFailed("tests that need a GPU fail" if context.gpu else "they cannot be collected", {
            **found, "output": (done.stdout + done.stderr)[-20000:]
        })  # fmt: skip
    count = re.search(r"(\d+)(?:/\d+)? tests? collected|(\d+) passed", done.stdout)
    found["count"] = count.group(1) or count.group(2) if count else "?"
    context.need_gpu(**found)
    return found


def recipes(side: int) -> dict[str, dp.Recipe]:
    """What is compared: bytes and 16-bit values, plain and varied, integers and floats."""
    crops = dp.Augment(0.5, resized_crop=(0.2, 1.0), blur=(0.1, 2.0))
    varied = dp.Augment(0.5, 0.5, rotation=20, scale=(0.8, 1.2), brightness=0.3, contrast=0.3, saturation=0.3, hue=20)
    return {
        "uint8": dp.Recipe(side),
        "float32": dp.Recipe(side, **IMAGENET, augment=dp.Augment(0.5)),
        "varied": dp.Recipe((side, side + 10), **IMAGENET, augment=varied, fit="crop"),
        "crops": dp.Recipe(side, base_size=side + 40, **IMAGENET, augment=crops),
        "uint16": dp.Recipe(side, depth=16, window=None, augment=varied),
        "uint16 to float32": dp.Recipe(side, depth=16, window=None, **IMAGENET),
    }


def digests(context: Context) -> dict[str, Any]:
    """Fingerprints of every sample of the demo set, in every cache mode: alike from all backends."""
    from dali_pipes.parity.fingerprint import fingerprint
    from dali_pipes.tools.demo_data import make_demo_set

    few = context.size(10, 1)
    (context.work / "demo").mkdir(exist_ok=True)
    manifest = dp.Manifest.from_csv(make_demo_set(context.work / "demo", mammograms=few, photos=few))
    manifest = manifest.subset(range(8)) if context.tiny else manifest
    names = ["torch", "dali-cpu", *(["dali-gpu"] if context.gpu else [])]
    found: dict[str, Any] = {"samples": len(manifest), "backends": names, "differ": []}
    for title, recipe in recipes(context.size(128, 24)).items():
        for mode in MODES if title in ("varied", "uint16") else ("none", "pinned"):
            prints: dict[str, Any] = {}
            for name in names:
                folder = context.work / f"cache-{mode}" if mode not in ("none", "memory") else None
                with dp.Loader(
                    manifest, recipe, batch_size=7, backend=name, cache_mode=mode, cache_dir=folder, on_error="skip"
                ) as loader:
                    prints[name] = [fingerprint(loader), fingerprint(loader)][1]  # the second one from the cache
            first = prints[names[0]]
            found["differ"] += [f"{name}, {title}, {mode}" for name in names if prints[name] != first]
            found.setdefault("compared", []).append(f"{title}, {mode}: {len(first)} samples")
            context.keep("digests", found)
    if found["differ"]:
        raise StepFailed(f"pixels differ: {'; '.join(found['differ'][:5])}", found)
    context.need_gpu(**found)
    return found


def recovery(context: Context) -> dict[str, Any]:
    """Files that are damaged, at every place of a batch: the other samples come, and later batches are right."""
    from dali_pipes.parity.fingerprint import fingerprint

    good = context.small_jpegs(12)
    folder = context.work / "damaged"
    folder.mkdir(exist_ok=True)
    names = []
    for i in range(12):
        data = good.resolve(i).read_bytes()
        names.append(f"{i}.jpg")
        # cut short, no JPEG at all, or rubbish where the coefficients are
        worse = {3: data[: len(data) // 2], 5: b"no picture", 8: data[:200] + bytes(len(data) - 200)}
        (folder / names[-1]).write_bytes(worse.get(i, data))
    from data import manifest_of

    manifest = manifest_of(folder, names)
    found: dict[str, Any] = {}
    for parity in ("exact", "fast"):
        recipe = dp.Recipe(32, **IMAGENET, parity=parity)  # type: ignore[arg-type]
        for mode in ("none", "memory"):
            prints = []
            for name in (context.backend, "torch"):
                with dp.Loader(
                    manifest, recipe, batch_size=4, backend=name, cache_mode=mode, on_error="skip"
                ) as loader:
                    prints += [fingerprint(loader), fingerprint(loader)]
            seen = [[index for index, _, _ in each] for each in prints]
            found[f"{parity}, {mode}"] = seen[0]
            same = seen if parity == "fast" and context.gpu else prints
            if any(each != same[-1] for each in same):
                raise StepFailed(f"{parity}, {mode}: not what torch gives: {seen}", found)
    context.need_gpu(**found)
    return found


FIRST = """
import json, sys, time
t = [time.perf_counter()]
def lap(name, found={}):
    t.append(time.perf_counter()); found[name] = round(t[-1] - t[-2], 3); return found
import torch; lap("import torch")
import dali_pipes as dp; lap("import dali_pipes")
backend = sys.argv[2]
import nvidia.dali; lap("import DALI")
if backend == "dali-gpu":
    torch.zeros(1, device="cuda"); lap("CUDA")
    from dali_pipes.arithmetic import kernels
    problem = kernels.problem(); lap("kernels"); assert problem is None, problem
m = dp.Manifest.from_csv(sys.argv[1])
r = dp.Recipe(64, mean=0.5, std=0.25, augment=dp.Augment(rotation=5))
with dp.Loader(m, r, batch_size=4, backend=backend, cache_mode="memory") as loader:
    for _ in loader: break
    print(json.dumps(lap("first batch")))
"""


def first_use(context: Context) -> dict[str, Any]:
    """Seconds of imports, compiling and the first batch: with CuPy's folder of kernels empty, then filled."""
    manifest = context.small_jpegs(8)
    table = next((context.work / "thumbnails").glob("*.csv"))
    found: dict[str, Any] = {"samples": len(manifest)}
    with tempfile.TemporaryDirectory() as folder:
        for title in ("nothing compiled", "compiled before"):
            started = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", FIRST, str(table), context.backend],
                env={**os.environ, "CUPY_CACHE_DIR": folder},
                capture_output=True,
                text=True,
                timeout=80,
                check=False,
            )
            if done.returncode:
                raise StepFailed(f"the first batch does not come: {done.stderr[-500:]}", found)
            found[title] = {**json.loads(done.stdout), "all": round(time.perf_counter() - started, 3)}
    if not context.gpu:
        raise NoGpu(found)
    return found
