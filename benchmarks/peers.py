"""Ours against its peers: the same files to the same outputs, each in fresh processes, and against bounds.

    python benchmarks/peers.py [--kinds photos ...] [--only NAME ...] [--rounds 2] [--json FILE] [--dir FOLDER] [--tiny]

    photos      JPEGs of 1.9 megapixels to 512x512, batches of 32; uint8, float32, a busy loop, page cache dropped
    mammograms  3328x2560 DICOM to 512x512: cold epochs
    small       64x64 JPEGs to 224x224, batches of 256
    many        20,000 JPEGs of 64x64 as they are: cold, and the first epoch of a second process

FILE grows: a part (some kinds, some peers, one more round) adds its runs to those that are there, after each peer; what
is shown are the medians of all. FOLDER keeps the files that are loaded from one part to the next.

A round runs each peer, in processes of its own (`peer_process.py`): rounds interleave the peers, so a busy machine
slows all of them. A run in which others took more than a tenth of the processors is marked, and counts only where there
is no other; decoder processes and workers count as the peer's own. First batches are compared with PyTorch's, and a
warm epoch with the first one. Peers that are not installed, or do not fit what is, are named and left out (the extra
`peers`). Exit status: 1 if a peer
failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common import argument_parser, write
from data import MAMMOGRAM, PHOTO, write_mammograms, write_photos, write_thumbnails
from peer_loaders import PEERS
from peer_process import BOUNDS
from peer_summary import NOISY, RATES, medians, show

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Kind:
    """Files, what becomes of them, and the processes that load them: (stage, dtype) one after another."""

    count: int
    side: int
    batch: int
    stages: tuple[tuple[str, str], ...]


KINDS = {
    "photos": Kind(256, 512, 32, (("cold", "uint8"), ("again", "float32"), ("dropped", "uint8"))),
    "mammograms": Kind(16, 512, 16, (("cold", "uint8"),)),
    "small": Kind(2048, 224, 256, (("cold", "uint8"), ("again", "float32"))),
    "many": Kind(20000, 64, 256, (("cold", "uint8"), ("again", "uint8"))),
}
TINY = {"photos": (5, 16, 2), "mammograms": (4, 16, 2), "small": (6, 24, 3), "many": (8, 16, 3)}


def main(arguments: list[str]) -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--only", nargs="+", choices=[*BOUNDS, *PEERS], default=[*BOUNDS, *PEERS], metavar="NAME")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3, help="warm epochs a process (default: 3)")
    parser.add_argument("--timeout", type=int, default=300, help="seconds a process may take (default: 300)")
    parser.add_argument("--dir", type=Path, help="where to keep the files (default: a temporary folder)")
    options = parser.parse_args(arguments)
    kinds = {name: KINDS[name] for name in options.kinds}
    if options.tiny:
        options.rounds, options.epochs = 1, 1
        for name in kinds:
            count, side, batch = TINY[name]
            kinds[name] = replace(kinds[name], count=count, side=side, batch=batch)
    absent = {name: f"{module} is not installed" for name in options.only if (module := lacks(name))}
    document = Document(options.json, options.tiny, absent)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.dir or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for kind, what in kinds.items():
            files = write_files(kind, what, folder, options.tiny)
            for _ in range(options.rounds):
                for name in options.only:
                    if name not in absent and kind in (PEERS[name].kinds if name in PEERS else KINDS):
                        document.add(kind, name, run(name, what, files, folder, options))
    show(document.results())
    for name, why in document.left_out.items():
        print(f"{name}: left out, {why}", flush=True)
    return 1 if document.failed else 0


def lacks(name: str) -> str | None:
    """Find the module that a peer needs and that is not installed."""
    needs = PEERS[name].needs if name in PEERS else ()
    return next(
        (module for module in needs if find_spec(module.partition(".")[0]) is None or find_spec(module) is None), None
    )


class Document:
    """All runs so far, in the file and of this call."""

    def __init__(self, path: Path | None, tiny: bool, absent: dict[str, str]) -> None:
        self._path, self._tiny = path, tiny
        before = json.loads(path.read_text("utf-8")) if path and path.exists() else {"tiny": tiny}
        if before["tiny"] != tiny:
            raise SystemExit(f"{path} holds runs of other sizes (--tiny or not): give another file, or remove it")
        self._runs: dict[str, dict[str, list[dict[str, Any]]]] = before.get("runs", {})
        self.left_out: dict[str, str] = before.get("left_out", {}) | absent
        self.failed = False

    def add(self, kind: str, name: str, runs: list[dict[str, Any]]) -> None:
        """Keep the runs of one peer in one round."""
        absent = next((each["absent"] for each in runs if "absent" in each), None)
        if absent:
            self.left_out[name] = f"it cannot be imported: {absent}"
            return
        self.left_out.pop(name, None)
        self.failed |= any("error" in each for each in runs)
        self._runs.setdefault(kind, {}).setdefault(name, []).extend(runs)
        print(f"{kind:10} {name:26} {'; '.join(map(_short, runs))}", flush=True)
        results, sizes = self.results(), {name: vars(what) for name, what in KINDS.items()}
        kept = {"tiny": self._tiny, "kinds": sizes, "left_out": self.left_out, "results": results, "runs": self._runs}
        write(self._path, "peers", **kept)

    def results(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Medians by kind and peer."""
        return {kind: {name: medians(runs) for name, runs in peers.items()} for kind, peers in self._runs.items()}


def _short(run: dict[str, Any]) -> str:
    if "error" in run:
        return f"failed: {run['error']}"
    rates = ", ".join(f"{name} {value:.0f}" for name, value in run.items() if name.split()[0] in RATES)
    others = run["share of others"]
    return rates + (f" ({others:.0%} taken by others)" if others > NOISY else "")


def run(name: str, kind: Kind, files: list[str], folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One peer's processes, or a bound's one, over a folder of their own."""
    found: list[dict[str, Any]] = []
    keeps = name in PEERS and PEERS[name].keeps
    with tempfile.TemporaryDirectory(dir=folder) as place:
        for stage, dtype in kind.stages if keeps else kind.stages[:1]:
            if stage == "dropped":
                drop([*files, *map(str, Path(place).rglob("*"))])
            job = {"peer": name, "stage": stage, "files": files, "side": kind.side, "batch": kind.batch}
            epochs = options.epochs if keeps or name in BOUNDS else 1
            made = child({**job, "dtype": dtype, "folder": place, "epochs": epochs}, options.timeout)
            found.append({"stage": stage, **made})
            if "error" in made or "absent" in made:
                break
    return found


def drop(paths: list[str]) -> None:
    """Let the system's page cache forget files."""
    for path in paths:
        if os.path.isfile(path):
            file = os.open(path, os.O_RDONLY)
            try:
                os.fsync(file)  # only what is on the disk can be forgotten
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(file)


def write_files(kind: str, what: Kind, folder: Path, tiny: bool) -> list[str]:
    """Make the files of a kind; absolute paths."""
    if kind == "photos":
        found = write_photos(folder, what.count, (60, 80) if tiny else PHOTO)
    elif kind == "mammograms":
        found = write_mammograms(folder, what.count, (64, 48) if tiny else MAMMOGRAM)
    else:
        found = write_thumbnails(folder, what.count)
    return [str((folder / name).resolve()) for name in found]


def child(job: dict[str, Any], timeout: int) -> dict[str, Any]:
    """Run a job in a fresh process; its figures, or its error."""
    command = [sys.executable, "-W", "ignore", str(HERE / "peer_process.py")]
    try:
        done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {timeout} s", "share of others": 0.0}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        why = (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode} and printed nothing"])[-1]
        return {"error": why[:200], "share of others": 0.0}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
