"""NVRTC without CuPy and without a GPU: which of its libraries are here, and what one makes of a source."""

import ctypes
import os
from importlib.util import find_spec
from pathlib import Path

ARCHITECTURES = ("75", "80", "90", "100", "120")
"""Compute capabilities: Turing, Ampere, Hopper, and both kinds of Blackwell."""


def options_of_cupy(given: tuple[str, ...], target: str) -> tuple[str, ...]:
    """The options with which CuPy 14.2 calls NVRTC for `RawModule(options=given)`; target: "sm_90", say.

    CuPy sets include folders around those given, and three options after them.
    """
    bundled = tuple(f"-I/cupy/_core/include/cupy/_cccl/{name}" for name in ("cub", "thrust", "libcudacxx"))
    standard = () if any(each.startswith(("-std", "--std")) for each in given) else ("--std=c++17",)
    found = (*bundled, *given, *standard, "-I/cupy/_core/include", "-I/usr/local/cuda/include")
    return (*found, "-ftz=true", f"-arch={target}", "--device-as-default-execution-space")


def libraries(root: Path | None = None) -> list[Path]:
    """The NVRTC libraries below a folder into which wheels were unpacked, or among the installed packages."""
    if root is not None:
        places = [root / "nvidia"]
    else:
        spec = find_spec("nvidia")
        places = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    return sorted(
        path for place in places for path in place.glob("*/lib/libnvrtc.so.*") if not path.name.endswith(".alt")
    )


class Nvrtc:
    """One NVRTC library. Libraries of one process must be of different major versions: load others elsewhere."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._library = ctypes.CDLL(os.fspath(path))
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        self.version = (major.value, minor.value)

    def compile(self, source: str, options: tuple[str, ...]) -> tuple[bytes, str]:
        """(PTX or cubin, log). A target `sm_XX` among the options gives a cubin too, which is then the answer.

        Raises RuntimeError with NVRTC's log where it refuses.
        """
        program = ctypes.c_void_p()
        self._library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None)
        given = (ctypes.c_char_p * len(options))(*(each.encode() for each in options))
        code = self._library.nvrtcCompileProgram(program, len(options), given)
        log = self._read(program, "ProgramLog").decode().strip("\0\n")
        if code:
            raise RuntimeError(f"NVRTC {self.version} refused, error {code}: {log}")
        kind = "CUBIN" if any(each.startswith("-arch=sm_") for each in options) else "PTX"
        result = self._read(program, kind)
        self._library.nvrtcDestroyProgram(ctypes.byref(program))
        return result, log

    def _read(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        getattr(self._library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(self._library, f"nvrtcGet{what}")(program, buffer)
        return buffer.raw
