"""What a decoder process gets from its parent, and what it may no longer do once it is ready.

A file that takes over a codec should find nothing worth taking and no way out: no secrets in the environment, no new
privileges (`prctl`), and, where the kernel has seccomp and the processor is known here, no file opened to write,
nothing removed or renamed, no sockets, no other programs, no signals to others, no limits set for others. Where the
kernel has Landlock it cannot look into other processes through /proc either. Reading files stays possible, because
codecs are imported when they are first needed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

KEPT = frozenset(
    (
        *("PATH", "TMPDIR", "TZ", "LANG", "LANGUAGE", "SYSTEMROOT"),
        *("LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH", "MALLOC_ARENA_MAX"),
        *("PYTHONHOME", "PYTHONUTF8", "PYTHONHASHSEED", "PYTHONOPTIMIZE", "PYTHONNOUSERSITE"),
    )
)
"""The environment variables that a decoder process inherits, besides the locale's (`LC_*`)."""

_SET_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2  # of prctl
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000  # what a filter may answer
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _ANSWER = 0x20, 0x15, 0x35, 0x45, 0x06  # instructions
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in seccomp_data
_OTHER_TABLE = 0x40000000  # numbers from here on are x32's
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_THREAD = 0x10000  # CLONE_THREAD

_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Column of the tables below, and the number of the architecture."""

_Calls = dict[str, tuple[int | None, int | None]]
_REFUSED: _Calls = {  # system calls by number, on x86_64 and aarch64 (None: there is no such call)
    **{"execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None), "ptrace": (101, 117)},
    **{"kill": (62, 129), "pidfd_send_signal": (424, 424), "process_vm_readv": (310, 270)},
    **{"process_vm_writev": (311, 271), "socket": (41, 198), "connect": (42, 203), "bind": (49, 200)},
    **{"listen": (50, 201), "accept": (43, 202), "accept4": (288, 242), "creat": (85, None), "truncate": (76, 45)},
    **{"unlink": (87, None), "unlinkat": (263, 35), "rename": (82, None), "renameat": (264, 38)},
    **{"renameat2": (316, 276), "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None), "link": (86, None)},
    **{"linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36), "mknod": (133, None), "mknodat": (259, 33)},
    **{"chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None)},
    **{"fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "utimensat": (280, 88)},
    **{"setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "mount": (165, 40), "umount2": (166, 39)},
    **{"unshare": (272, 97), "setns": (308, 268), "bpf": (321, 280), "perf_event_open": (298, 241)},
    **{"add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "userfaultfd": (323, 282)},
    **{"io_uring_setup": (425, 425), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138)},
    **{"rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438)},
    **{"open_by_handle_at": (304, 265), "process_madvise": (440, 440), "kcmp": (312, 272)},
}
_ABSENT = {
    "clone3": (435, 435),
    "openat2": (437, 437),
}  # their arguments cannot be looked at: the C library does without
_CHECKED: dict[
    str, tuple[tuple[int | None, int | None], int, int, bool]
] = {  # (numbers, argument, bits, whether any of these bits must be there, or must not)
    "openat": ((257, 56), 2, _WRITES, False),
    "open": ((2, None), 1, _WRITES, False),
    "clone": ((56, 220), 0, _THREAD, True),
    "prlimit64": ((302, 261), 0, 0xFFFFFFFF, False),  # of this process only, which 0 stands for
}
_VALUES: dict[str, tuple[tuple[int, int], int, tuple[int, ...]]] = {  # (numbers, argument, values that are refused)
    "fcntl": ((72, 25), 1, (8, 10, 15)),  # F_SETOWN, F_SETSIG, F_SETOWN_EX: who gets which signal about a descriptor
    "ioctl": ((16, 29), 1, (0x8901, 0x8902)),  # FIOSETOWN, SIOCSPGRP: the same
}
_TO_ITSELF = (234, 131)  # tgkill, with which `abort` ends a process
_CREATE_RULESET, _RESTRICT_SELF = 444, 446  # of Landlock, on every processor
_CAPABILITY_VERSION = 0x20080522
_READING = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
_MAKING = sum(1 << bit for bit in (1, *range(4, 13)))  # Landlock's rights to write, remove and make


def environment() -> dict[str, str]:
    """Return what a decoder process inherits of this one's environment."""
    return {name: value for name, value in os.environ.items() if name in KEPT or name.startswith("LC_")}


def confine() -> bool:
    """Give up, for good, what a decoder does not need; return whether all of it could be given up."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    if libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    _drop_capabilities(libc)
    _enter_domain(libc)
    program = filter_for(platform.machine())
    if program is None:
        return False
    code = ctypes.create_string_buffer(program)
    given = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(code)))
    refused: int = libc.prctl(_SET_SECCOMP, _FILTER, ctypes.addressof(given), 0, 0)
    return not refused


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """Give up what root may do, except to read files: with CAP_PERFMON it could look into other processes."""
    header, data = struct.pack("=Ii", _CAPABILITY_VERSION, 0), ctypes.create_string_buffer(24)
    if not libc.capget(header, data):
        effective, permitted, *_ = struct.unpack("=6I", data.raw)
        libc.capset(header, struct.pack("=6I", effective & _READING, permitted & _READING, 0, 0, 0, 0))


def _enter_domain(libc: ctypes.CDLL) -> None:
    """Enter a domain of Landlock, if there is Landlock: from inside of it no process outside can be looked into.

    That closes /proc/PID/environ and /proc/PID/mem, which a filter of system calls cannot tell from other files.
    """
    if platform.machine() not in _MACHINES:
        return
    handled = ctypes.create_string_buffer(struct.pack("=Q", _MAKING), 8)
    zero = ctypes.c_long(0)
    ruleset = libc.syscall(ctypes.c_long(_CREATE_RULESET), handled, ctypes.c_long(8), zero)
    if ruleset >= 0:
        libc.syscall(ctypes.c_long(_RESTRICT_SELF), ctypes.c_long(ruleset), zero)
        os.close(ruleset)


def filter_for(machine: str, pid: int | None = None) -> bytes | None:
    """Return the program of a seccomp filter for a processor; None for one whose system calls are not known here.

    pid: the process that it may signal, itself; None stands for this one.
    """
    if machine not in _MACHINES:
        return None
    column, architecture = _MACHINES[machine]
    refuse, absent = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
    program = [
        *_step(_LOAD, _ARCHITECTURE),
        *_step(_EQUAL, architecture, 1, 0),
        *_step(_ANSWER, refuse),
        *_step(_LOAD, _NUMBER),
        *_step(_AT_LEAST, _OTHER_TABLE, 0, 1),
        *_step(_ANSWER, refuse),
    ]
    for calls, answer in ((_REFUSED, refuse), (_ABSENT, absent)):
        for numbers in calls.values():
            number = numbers[column]
            if number is not None:
                program += [*_step(_EQUAL, number, 0, 1), *_step(_ANSWER, answer)]
    for numbers, argument, bits, needed in _CHECKED.values():
        number = numbers[column]
        if number is not None:
            program += [
                *_step(_EQUAL, number, 0, 4),
                *_step(_LOAD, _ARGUMENTS + 8 * argument),
                *_step(_ANY_BIT, bits, int(needed), int(not needed)),
                *_step(_ANSWER, refuse),
                *_step(_ANSWER, _ALLOW),
            ]
    for pair, argument, values in _VALUES.values():
        program += [*_step(_EQUAL, pair[column], 0, 2 * len(values) + 2), *_step(_LOAD, _ARGUMENTS + 8 * argument)]
        for value in values:
            program += [*_step(_EQUAL, value, 0, 1), *_step(_ANSWER, refuse)]
        program += _step(_ANSWER, _ALLOW)
    program += [
        *_step(_EQUAL, _TO_ITSELF[column], 0, 4),
        *_step(_LOAD, _ARGUMENTS),
        *_step(_EQUAL, os.getpid() if pid is None else pid, 1, 0),
        *_step(_ANSWER, refuse),
        *_step(_ANSWER, _ALLOW),
    ]
    return b"".join([*program, *_step(_ANSWER, _ALLOW)])


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> list[bytes]:
    """One instruction: jumps are counted from the next one."""
    return [struct.pack("=HBBI", code, if_true, if_false, value)]
