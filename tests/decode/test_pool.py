"""DecoderPool: the same pixels from a child, and what becomes of children that crash, hang, or outlive their parent."""

import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import make_images as make
import numpy as np
import pytest

from dali_pipes.decode import DecodePolicy, DecoderPool, FixedWindow, Kind, Limits, decode, identify
from dali_pipes.decode.pool import _Turns
from dali_pipes.errors import ConfigError, DecodeError, LimitError, TruncatedError, UnsupportedError, WorkerError

PIXELS = np.random.default_rng(0).integers(0, 4096, (40, 50)).astype(np.uint16)


@pytest.fixture(scope="module")
def pool():
    with DecoderPool(1) as made:
        yield made


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "image.dcm"
    path.write_bytes(make.dicom([PIXELS, PIXELS[::-1]], "j2k", BitsStored=12, WindowCenter=40, WindowWidth=400))
    return path


def state_of(pid):
    """The state ("S", "Z", ...) and the parent of a process; [] where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return []


def children():
    """The processes started by this one that are alive."""
    states = {int(name): state_of(name) for name in os.listdir("/proc") if name.isdigit()}
    return [pid for pid, found in states.items() if found and found[0] != "Z" and int(found[1]) == os.getpid()]


@pytest.mark.parametrize(
    "policy", [DecodePolicy(), DecodePolicy(channels=1, depth=16), DecodePolicy(window=FixedWindow(9, 99, "sigmoid"))]
)
@pytest.mark.parametrize("frame", [0, 1])
def test_the_same_pixels_as_in_process(pool, file, policy, frame):
    data = file.read_bytes()
    kind = identify(file, data)
    want = decode(data, kind, frame, policy)
    got = pool.decode(file, kind, frame, policy)
    assert np.array_equal(got.pixels, want.pixels)
    assert got.pixels.dtype == want.pixels.dtype
    assert (got.attributes, got.facts) == (want.attributes, want.facts)


def test_results_outlive_the_next_decode_and_the_pool(file):
    kind = identify(file, file.read_bytes())
    with DecoderPool(1) as pool:
        first = pool.decode(file, kind, 0).pixels
        copy = first.copy()
        pool.decode(file, kind, 1)
    assert np.array_equal(first, copy)


def test_errors_keep_their_kind(pool, file, tmp_path):
    kind = identify(file, file.read_bytes())
    with pytest.raises(FileNotFoundError):
        pool.decode(tmp_path / "absent", kind)
    empty = tmp_path / "empty"
    empty.touch()
    with pytest.raises(TruncatedError, match="empty"):
        pool.decode(empty, kind)
    with pytest.raises(LimitError, match=r"Limits.pixels"):
        pool.decode(file, kind, 0, DecodePolicy(limits=Limits(pixels=10)))
    with pytest.raises(UnsupportedError, match="tag"):
        pool.decode(file, Kind("nonsense", "", False), 0)
    with pytest.raises(DecodeError, match="frame 9"):
        pool.decode(file, kind, 9)
    assert pool.decode(file, kind).pixels.shape == (40, 50, 3)  # and the child goes on


def test_a_good_file_whose_child_is_killed_is_tried_once_more(file):
    """Whatever killed it: the kernel, which found that somebody else's child took all memory, or a neighbour's file."""
    kind = identify(file, file.read_bytes())
    with DecoderPool(1) as pool:
        pool.decode(file, kind)
        (child,) = pool.pids()
        os.kill(child, signal.SIGKILL)
        assert pool.decode(file, kind).pixels.any()
        assert pool.pids() != [child]


def test_a_file_that_crashes_every_child_is_named_by_the_signal(file, tmp_path, monkeypatch):
    """A stand-in for the child notes each try, and dies."""
    kind, tries = identify(file, file.read_bytes()), tmp_path / "tries"
    child = (
        "import sys;sys.path[:0]=[sys.argv[2]+'/..'];import os,signal,socket\n"
        "from dali_pipes.decode.wire import receive_with_fd,send\n"
        "s=socket.socket(fileno=int(sys.argv[3]));send(s,{'ready':True});receive_with_fd(s)\n"
        f"open({str(tries)!r},'a').write('x');os.kill(os.getpid(),signal.SIGSEGV)\n"
    )
    with DecoderPool(1) as pool:
        with monkeypatch.context() as patch:
            patch.setattr("dali_pipes.decode.pool._BOOT", child)
            with pytest.raises(WorkerError, match="SIGSEGV while it read the file"):
                pool.decode(file, kind)
        assert tries.read_text() == "xx"
        assert pool.decode(file, kind).pixels.any()


def test_a_bomb_costs_no_neighbour_its_sample(file, tmp_path):
    """Four threads share two children; one decodes what kills its child whenever it is tried."""
    kind, done = identify(file, file.read_bytes()), []
    want = decode(file.read_bytes(), kind).pixels
    with DecoderPool(2) as pool:
        pool.decode(file, kind)

        def neighbour():
            done.extend(np.array_equal(pool.decode(file, kind).pixels, want) for _ in range(10))

        threads = [threading.Thread(target=neighbour) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            for child in pool.pids()[:1]:
                os.kill(child, signal.SIGKILL)
            pool.decode(file, kind)
        for thread in threads:
            thread.join()
    assert done == [True] * 40


def answering(reply, before=""):
    """A stand-in for the child that gives one answer to everything."""
    return (
        "import sys;sys.path[:0]=[sys.argv[2]+'/..'];import os,socket\n"
        "from dali_pipes.decode.wire import receive_with_fd,send\n"
        "s=socket.socket(fileno=int(sys.argv[3]));send(s,{'ready':True});m=int(sys.argv[4])\n"
        f"while True:\n receive_with_fd(s)\n {before or 'pass'}\n send(s,{reply!r})\n"
    )


GOOD = {"dtype": "|u1", "shape": [40, 50, 1], "attributes": {}, "facts": {}}


@pytest.mark.parametrize(
    "reply",
    [
        {**GOOD, "shape": [40000, 50, 1]},
        {**GOOD, "shape": [-40, -50, 1]},
        {**GOOD, "shape": [0, 50, 1]},
        {**GOOD, "shape": [40, 50]},
        {**GOOD, "shape": "many"},
        {**GOOD, "dtype": "O"},
        {**GOOD, "dtype": "<f8"},
        {"dtype": "|u1"},
        {},
    ],
)
def test_an_answer_that_makes_no_sense_costs_a_sample_only(file, monkeypatch, reply):
    kind = identify(file, file.read_bytes())
    monkeypatch.setattr("dali_pipes.decode.pool._BOOT", answering(reply, "os.ftruncate(m,2000)"))
    with DecoderPool(1) as pool, pytest.raises(WorkerError, match="makes no sense"):
        pool.decode(file, kind)


def test_pixels_beyond_the_limits_are_not_allocated(file, monkeypatch):
    kind = identify(file, file.read_bytes())
    monkeypatch.setattr("dali_pipes.decode.pool._BOOT", answering({**GOOD, "shape": [1 << 20, 1 << 20, 3]}))
    with DecoderPool(1) as pool, pytest.raises(LimitError, match=r"Limits\.pixels"):
        pool.decode(file, kind)


@pytest.mark.parametrize("text", ["[" * 100_000, "no json", "[]"])
def test_a_message_that_is_none_ends_the_child(file, monkeypatch, text):
    kind = identify(file, file.read_bytes())
    child = answering(GOOD, f"t={text[:1]!r}*{len(text)};s.sendall(len(t).to_bytes(8,'little')+t.encode())")
    monkeypatch.setattr("dali_pipes.decode.pool._BOOT", child)
    with DecoderPool(1) as pool, pytest.raises(WorkerError):
        pool.decode(file, kind)


def test_a_child_that_shrinks_the_memory_file(file, monkeypatch):
    """It may not; and where it could, a read would tell, and no signal would end this process."""
    kind = identify(file, file.read_bytes())
    shrinking = "os.ftruncate(m,2000)\n try: os.ftruncate(m,0)\n except PermissionError: pass"
    monkeypatch.setattr("dali_pipes.decode.pool._BOOT", answering(GOOD, shrinking))
    with DecoderPool(1) as pool:
        assert pool.decode(file, kind).pixels.shape == (40, 50, 3), "2,000 bytes are still there"
    monkeypatch.setattr("dali_pipes.decode.pool._BOOT", answering(GOOD))
    with DecoderPool(1) as pool, pytest.raises(WorkerError, match="makes no sense"):
        pool.decode(file, kind)


def test_a_descriptor_is_as_good_as_a_path(pool, file):
    kind = identify(file, file.read_bytes())
    with file.open("rb") as opened:
        assert np.array_equal(pool.decode(opened.fileno(), kind).pixels, pool.decode(file, kind).pixels)
        assert pool.count_frames(opened.fileno()) == pool.count_frames(file) == 2


OWN_LIMIT = """
import json, os, resource, sys
from dali_pipes.decode import DecodePolicy
from dali_pipes.decode.worker import Memory, answer
memory, (path, tag, hard) = Memory(os.memfd_create("m")), sys.argv[1:]
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
soft = resource.RLIM_INFINITY if hard == "none" else used + (24 << 20)
resource.setrlimit(resource.RLIMIT_AS, (soft, soft))
request = {"want": "pixels", "tag": tag, "frame": 0, "policy": DecodePolicy().as_dict(), "seconds": 60}
reply = answer({**request, "memory_bytes": 24 << 20 if hard == "none" else 2 << 30}, os.open(path, os.O_RDONLY), memory)
print(reply["error"], reply["message"])
"""


@pytest.mark.parametrize(
    ("hard", "said"),
    [("24 MiB", "WorkerError memory ran out below"), ("none", "LimitError decoding needs more memory")],
)
def test_a_limit_of_the_users_own_is_no_fault_of_the_file(tmp_path, hard, said):
    path = tmp_path / "large.dcm"
    path.write_bytes(make.dicom(np.zeros((4000, 4000), np.uint16), "deflated"))
    arguments = [str(path), identify(path, path.read_bytes()).tag, hard]
    done = subprocess.run([sys.executable, "-c", OWN_LIMIT, *arguments], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith(said), done.stderr


def test_children_are_confined(file, monkeypatch):
    monkeypatch.setenv("DALI_PIPES_CACHE_SECRET", "CANARY of the cache")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "CANARY of the cloud")
    monkeypatch.setenv("LC_CANARY", "kept")
    with DecoderPool(1) as pool:
        pool.decode(file, identify(file, file.read_bytes()))
        (child,) = pool.pids()
        environment = Path(f"/proc/{child}/environ").read_text()
        status = Path(f"/proc/{child}/status").read_text()
    assert "CANARY of" not in environment
    assert "LC_CANARY=kept" in environment
    assert re.search(r"NoNewPrivs:\s+1", status)
    assert re.search(r"Seccomp:\s+2", status)


def test_an_interrupt_is_for_the_parent(file):
    kind = identify(file, file.read_bytes())
    with DecoderPool(1) as pool:
        pool.decode(file, kind)
        (child,) = pool.pids()
        assert os.getpgid(child) != os.getpgid(0), "Ctrl-C goes to the group, also before a child can ignore it"
        os.kill(child, signal.SIGINT)
        assert pool.decode(file, kind).pixels.any()
        assert pool.pids() == [child]


def test_a_child_that_cannot_start_says_nothing_of_the_file(file, monkeypatch):
    kind = identify(file, file.read_bytes())
    with DecoderPool(1) as pool:
        handles = len(os.listdir("/proc/self/fd"))
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", "/nowhere/python")
            with pytest.raises(WorkerError, match="could be started"):
                pool.decode(file, kind)
        assert len(os.listdir("/proc/self/fd")) <= handles
        assert pool.decode(file, kind).pixels.any()


def test_a_file_that_takes_too_long(tmp_path):
    path = tmp_path / "large.dcm"
    path.write_bytes(
        make.dicom(np.random.default_rng(0).integers(0, 4096, (1500, 1500)).astype(np.uint16), "j2k", BitsStored=12)
    )
    kind = identify(path, path.read_bytes())
    with (
        DecoderPool(1, Limits(seconds=0.01)) as pool,
        pytest.raises(LimitError, match=r"longer than 0.01 s \(Limits.seconds\)"),
    ):
        pool.decode(path, kind)


def test_a_file_that_wants_too_much_memory(tmp_path):
    path = tmp_path / "large.dcm"
    path.write_bytes(make.dicom(np.zeros((4000, 4000), np.uint16), "rle"))
    kind = identify(path, path.read_bytes())
    with DecoderPool(1, Limits(memory_bytes=8 << 20)) as pool, pytest.raises(DecodeError, match="memory"):
        pool.decode(path, kind)


def test_many_threads_share_few_children(file):
    kind = identify(file, file.read_bytes())
    done: list[bool] = []
    want = decode(file.read_bytes(), kind, 1).pixels

    with DecoderPool(2) as pool:

        def work():
            done.extend(np.array_equal(pool.decode(file, kind, 1).pixels, want) for _ in range(10))

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(pool.pids()) <= 2
    assert done == [True] * 60


def test_close_ends_every_child(file):
    kind = identify(file, file.read_bytes())
    before = set(children())
    pool = DecoderPool(2)
    pool.decode(file, kind)
    assert set(children()) - before
    pool.close()
    pool.close()
    assert not set(children()) - before
    with pytest.raises(ConfigError, match="closed"):
        pool.decode(file, kind)


def test_children_import_no_torch_and_end_with_their_parent(file):
    """The parent is killed; its child must go away, and must never have imported torch."""
    script = (
        "import sys; from dali_pipes.decode import *; pool = DecoderPool(1); path = sys.argv[1];"
        "pool.decode(path, identify(path, open(path, 'rb').read())); print(*pool.pids(), flush=True); sys.stdin.read()"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with subprocess.Popen(
        [sys.executable, "-c", script, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
    ) as parent:
        child = int(parent.stdout.readline())
        with open(f"/proc/{child}/maps") as maps:
            assert "libtorch" not in maps.read()
        parent.kill()
    until = time.monotonic() + 10
    while state_of(child)[:1] not in ([], ["Z"]):
        assert time.monotonic() < until, "the child outlived its parent"
        os.sched_yield()


@pytest.fixture
def cores():
    """Core files are allowed, as far as they can be."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)


def test_what_children_run_under(file, monkeypatch, cores):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=65536")
    with DecoderPool(1, Limits(seconds=100)) as pool:
        pool.decode(file, identify(file, file.read_bytes()))
        (child,) = pool.pids()
        limits = Path(f"/proc/{child}/limits").read_text()
        environment = Path(f"/proc/{child}/environ").read_text().replace("\0", ":")  # glibc cuts at the colons
    assert re.search(r"Max core file size +0 ", limits), "a core file would hold pixels"
    assert 100 < int(re.search(r"Max cpu time +(\d+)", limits)[1]) < 160
    assert "GLIBC_TUNABLES=glibc.malloc.mmap_max=0:" in environment
    assert ":glibc.malloc.hugetlb=1:glibc.malloc.trim_threshold=65536:" in environment  # the user's own, last, counts


def test_freed_memory_that_children_keep_has_a_bound(tmp_path):
    path = tmp_path / "large.dcm"
    y, x = np.mgrid[:1200, :1200]
    path.write_bytes(make.dicom(((x * 3 + y * 2) % 4096).astype(np.uint16), "j2k", BitsStored=12))
    kind = identify(path, path.read_bytes())
    with DecoderPool(1) as pool:
        resident = []
        for _ in range(12):
            pool.decode(path, kind)
            status = Path(f"/proc/{pool.pids()[0]}/status").read_text()
            resident.append(int(re.search(r"VmRSS:\s+(\d+)", status)[1]))
    assert max(resident[6:]) <= max(resident[:6]) + 8 * 1200 * 1200 // 1024


def test_warnings_reach_the_parent(pool, tmp_path):
    path = tmp_path / "burned.dcm"
    path.write_bytes(make.dicom(PIXELS, BurnedInAnnotation="YES"))
    kind = identify(path, path.read_bytes())
    decoded = pool.decode(path, kind)
    assert decoded.facts["burned_in"] is True
    assert "burned into its pixels" in decoded.warnings[0]


@pytest.mark.parametrize("data", [make.jpeg(PIXELS.astype(np.uint8)), make.raster(PIXELS, "PNG")])
def test_photos_can_be_decoded_in_a_child_too(pool, tmp_path, data):
    path = tmp_path / "photo"
    path.write_bytes(data)
    kind = identify(path, data)
    assert np.array_equal(pool.decode(path, kind).pixels, decode(data, kind).pixels)


def test_workers_must_be_positive():
    with pytest.raises(ConfigError, match="at least 1"):
        DecoderPool(0)


def test_a_file_is_tried_again_while_no_other_child_works(file):
    others = []
    with DecoderPool(2) as pool:

        def work(child, fd):
            others.append(pool._own.turns._sharing)
            if len(others) == 1:
                raise WorkerError("its child died")
            return "done"

        assert pool._tried(file, work) == "done"
    assert others == [1, 0]  # the first time shared, by itself only; then alone


def test_who_is_alone_waits_for_those_at_work_and_holds_off_the_others():
    turns, order, go = _Turns(), [], threading.Event()

    def at_work():
        with turns.shared():
            begun.set()
            go.wait()
            order.append("at work")

    def alone():
        with turns.alone():
            order.append("alone")

    def later():
        with turns.shared():
            order.append("later")

    begun = threading.Event()
    threads = [threading.Thread(target=each) for each in (at_work, alone, later)]
    threads[0].start()
    begun.wait()
    threads[1].start()
    while not turns._taken:
        os.sched_yield()
    threads[2].start()
    go.set()
    for thread in threads:
        thread.join()
    assert order == ["at work", "alone", "later"]


@pytest.mark.parametrize(("sent", "tries"), [("SIGKILL", 3), ("SIGABRT", 2)])
def test_how_often_a_file_is_tried(sent, tries, file, tmp_path, monkeypatch):
    """A stand-in for the child notes each try, and dies: of what comes from outside only, once more."""
    kind, noted = identify(file, file.read_bytes()), tmp_path / "tries"
    child = (
        "import sys;sys.path[:0]=[sys.argv[2]+'/..'];import os,signal,socket\n"
        "from dali_pipes.decode.wire import receive_with_fd,send\n"
        "s=socket.socket(fileno=int(sys.argv[3]));send(s,{'ready':True});receive_with_fd(s)\n"
        f"open({str(noted)!r},'a').write('x');os.kill(os.getpid(),signal.{sent})\n"
    )
    monkeypatch.setattr("dali_pipes.decode.pool._BOOT", child)
    with DecoderPool(1) as pool, pytest.raises(WorkerError, match=f"{sent} while it read the file"):
        pool.decode(file, kind)
    assert noted.read_text() == "x" * tries
