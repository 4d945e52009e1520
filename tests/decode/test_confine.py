"""What a decoder process may still do once it is confined, and what it may not."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from dali_pipes.decode import confine

REFUSED = {
    "write a file": "open('new', 'w')",
    "append to a file": "open(__import__('sys').argv[1], 'a')",
    "read and write a file": "os.open(os.sys.argv[1], os.O_RDWR)",
    "truncate a file": "os.truncate(os.sys.argv[1], 0)",
    "remove a file": "os.unlink(os.sys.argv[1])",
    "rename a file": "os.rename(os.sys.argv[1], 'other')",
    "link a file": "os.link(os.sys.argv[1], 'other')",
    "make a link": "os.symlink('/', 'other')",
    "make a folder": "os.mkdir('other')",
    "remove a folder": "os.rmdir('folder')",
    "change a mode": "os.chmod(os.sys.argv[1], 0o777)",
    "change an owner": "os.chown(os.sys.argv[1], -1, -1)",
    "change times": "os.utime(os.sys.argv[1])",
    "open a socket": "socket.socket()",
    "open a local socket": "socket.socket(socket.AF_UNIX)",
    "fork": "os.fork() or os._exit(0)",
    "run a program": "subprocess.run(['true'])",
    "become a program": "os.execv('/bin/true', ['true'])",
    "signal its parent": "os.kill(os.getppid(), 0)",
    "signal a thread of its parent": "ctypes_call('syscall', TGKILL, os.getppid(), os.getppid(), 0)",
    "signal its parent as a thread": "ctypes_call('syscall', TKILL, os.getppid(), 0)",
    "queue a signal for its parent": "ctypes_call('syscall', SIGQUEUE, os.getppid(), 0, bytes(128))",
    "have its socket signal its parent": "fcntl.fcntl(pair[0], fcntl.F_SETOWN, os.getppid())",
    "choose that signal": "fcntl.fcntl(pair[0], 10, 9)",
    "do so by ioctl": "fcntl.ioctl(pair[0], 0x8901, struct.pack('i', os.getppid()))",
    "take hold of its parent": "os.pidfd_open(os.getppid())",
    "set its parent's limits": "resource.prlimit(os.getppid(), resource.RLIMIT_CORE, (0, 0))",
    "read its parent's memory": "ctypes_call('process_vm_readv', os.getppid(), None, 0, None, 0, 0)",
    "trace its parent": "ctypes_call('ptrace', 16, os.getppid(), 0, 0)",
    "leave its namespaces": "ctypes_call('unshare', 0x10000000)",
}
ALLOWED = {
    "read a file": "open(os.sys.argv[1]).read()",
    "list a folder": "os.listdir('.')",
    "import a module": "__import__('wave')",
    "start a thread": "(t := threading.Thread(target=int), t.start(), t.join())",
    "take memory": "bytearray(1 << 26)",
    "map a file": "mmap.mmap(os.open(os.sys.argv[1], os.O_RDONLY), 0, access=mmap.ACCESS_READ)",
    "grow a memory file": "os.ftruncate(memory, 1 << 20)",
    "write into a memory file": "os.pwrite(memory, b'pixels', 0)",
    "lower its limits": "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))",
    "signal itself": "(signal.signal(signal.SIGUSR1, signal.SIG_IGN), signal.raise_signal(signal.SIGUSR1))",
    "ask for a descriptor's flags": "fcntl.fcntl(pair[0], fcntl.F_GETFL)",
    "answer": "pair[0].sendall(b'x')",
}
SCRIPT = """
import ctypes, fcntl, json, mmap, os, platform, resource, signal, socket, struct, subprocess, sys, threading
TGKILL, TKILL, SIGQUEUE = (234, 200, 129) if platform.machine() == "x86_64" else (131, 130, 138)
from dali_pipes.decode.confine import confine
libc = ctypes.CDLL(None, use_errno=True)
def ctypes_call(name, *arguments):
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)
memory, pair, told = os.memfd_create("m"), socket.socketpair(), {}
assert confine()
for name, act in json.loads(sys.stdin.read()).items():
    try:
        eval(act)
        told[name] = 0
    except OSError as error:
        told[name] = error.errno
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """What became of each act: the number of its error, 0 for none."""
    folder = tmp_path_factory.mktemp("confined")
    (folder / "file").write_text("content")
    (folder / "folder").mkdir()
    root = Path(confine.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-B", "-c", SCRIPT, "file"],
        input=json.dumps(REFUSED | ALLOWED),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["file", "folder"]
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("act", REFUSED)
def test_refused(told: dict[str, int], act: str) -> None:
    assert told[act] == 1, "EPERM"


@pytest.mark.parametrize("act", ALLOWED)
def test_allowed(told: dict[str, int], act: str) -> None:
    assert told[act] == 0


LOOK = """
import ctypes, os
from dali_pipes.decode.confine import confine
landlock = ctypes.CDLL(None).syscall(444, None, 0, 1) > 0
open(f"/proc/{os.getppid()}/environ", "rb").read()
assert confine()
open("/proc/self/environ", "rb").read()
for name in ("environ", "mem", "maps"):
    try:
        open(f"/proc/{os.getppid()}/{name}", "rb").close()
        print("open", landlock)
    except PermissionError:
        print("closed", landlock)
"""


def test_other_processes_cannot_be_looked_into_where_there_is_landlock() -> None:
    """Which secrets its parent's environment holds would be told by /proc."""
    root = Path(confine.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-B", "-c", LOOK], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()) in ({"closed True"}, {"open False"})


def run(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """What a filter answers to a call: the kernel's machine, as far as the filter uses it."""
    data = struct.pack("=IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    steps, at, value = list(struct.iter_unpack("=HBBI", program)), 0, 0
    while True:
        code, if_true, if_false, k = steps[at]
        at += 1
        if code == 0x06:
            return int(k)
        if code == 0x20:
            (value,) = struct.unpack_from("=I", data, k)
            continue
        holds = {0x15: value == k, 0x35: value >= k, 0x45: bool(value & k)}[code]
        at += if_true if holds else if_false


ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x00050001, 0x00050026


@pytest.mark.parametrize(
    ("machine", "architecture", "openat", "execve", "clone", "read"),
    [("x86_64", 0xC000003E, 257, 59, 56, 0), ("aarch64", 0xC00000B7, 56, 221, 220, 63)],
)
def test_the_filter_of_each_processor(
    machine: str, architecture: int, openat: int, execve: int, clone: int, read: int
) -> None:
    program = confine.filter_for(machine)
    assert program is not None
    assert run(program, architecture, read) == ALLOW
    assert run(program, architecture, execve) == EPERM
    assert run(program, architecture, openat, 0, 0, os.O_RDONLY | os.O_CLOEXEC) == ALLOW
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_CREAT, os.O_RDONLY | os.O_TRUNC):
        assert run(program, architecture, openat, 0, 0, flags) == EPERM
    assert run(program, architecture, clone, 0x3D0F00) == ALLOW, "a thread"
    assert run(program, architecture, clone, 17) == EPERM, "a process"
    tgkill, prlimit = (234, 302) if machine == "x86_64" else (131, 261)
    assert run(program, architecture, tgkill, os.getpid(), os.getpid(), 6) == ALLOW, "abort"
    assert run(program, architecture, tgkill, os.getppid(), os.getppid(), 9) == EPERM
    assert run(program, architecture, prlimit, 0, 7) == ALLOW
    assert run(program, architecture, prlimit, os.getppid(), 7) == EPERM
    assert run(program, architecture, 435) == run(program, architecture, 437) == ENOSYS
    assert run(program, architecture, 0x40000000 + read) == EPERM, "calls of another table"
    assert run(program, 0x40000003, read) == EPERM, "calls of another architecture"


def test_a_processor_that_is_not_known() -> None:
    assert confine.filter_for("s390x") is None
