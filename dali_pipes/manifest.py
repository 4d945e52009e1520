"""Which samples exist: path, frame, label, split and group of each, in columns.

A manifest reads no pixels. Its paths are relative to one root and cannot leave it: what a row may name is checked
when the manifest is made, where a path really leads (symbolic links) when a file is about to be read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar, overload

import numpy as np
import numpy.typing as npt

from dali_pipes.columns import TextColumn
from dali_pipes.errors import ConfigError, ManifestError
from dali_pipes.rows import MOST_LINES, Table, check, read_csv, read_parquet

T = TypeVar("T")

SHOW_PATHS = "DALI_PIPES_SHOW_PATHS"
"""Environment variable: set to 1, messages name samples by their paths, which may identify patients."""


@dataclass(frozen=True)
class Sample:
    """One row of a manifest.

    Attributes:
        index: its position in the manifest.
        id: its stable name; the path (and `#frame`, when it is not 0) where the source gives none.
        path: relative to the manifest's root, with forward slashes.
        frame: number of the frame in the file, from 0.
        label: class number, or -1 where there is none.
        split: such as "train", or "".
        group: samples that belong together (a patient, say), or "".
    """

    index: int
    id: str
    path: str
    frame: int
    label: int
    split: str
    group: str


@dataclass(frozen=True, eq=False)
class Manifest(Sequence[Sample]):
    """Samples as columns; build one with `from_csv`, `from_parquet`, `from_folder` or `from_dicom_tree`.

    Attributes:
        root: the folder that paths are relative to.
        paths, ids, splits, groups: text, one value a sample.
        frames: int32[N].
        labels: int64[N].
        classes: names of the class numbers, where the source gave names; else empty.
    """

    root: Path
    paths: TextColumn
    ids: TextColumn
    frames: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int64]
    splits: TextColumn
    groups: TextColumn
    classes: tuple[str, ...] = ()

    @classmethod
    def from_csv(
        cls,
        path: str | os.PathLike[str],
        root: str | os.PathLike[str] | None = None,
        classes: Sequence[str] | None = None,
    ) -> Manifest:
        """Reads a CSV with a header row: column `path`, and optionally `label`, `id`, `frame`, `split`, `group`.

        Labels that are all whole numbers stay as they are; other labels are class names, numbered in the order of
        `classes`, or sorted (give `classes` where several manifests must number alike). Without a `label` column every
        label is -1. Further columns are ignored.

        Args:
            path: the CSV, UTF-8.
            root: the folder that paths are relative to; the CSV's own folder by default.

        Raises:
            ManifestError: the file is missing or malformed, or rows cannot be used; every bad row is named.
        """
        return cls._from_table(Path(root) if root is not None else Path(path).parent, read_csv(Path(path)), classes)

    @classmethod
    def from_parquet(
        cls,
        path: str | os.PathLike[str],
        root: str | os.PathLike[str] | None = None,
        classes: Sequence[str] | None = None,
    ) -> Manifest:
        """Reads a Parquet file with the columns of `from_csv`; needs pyarrow (`pip install 'dali-pipes[features]'`)."""
        return cls._from_table(Path(root) if root is not None else Path(path).parent, read_parquet(Path(path)), classes)

    @classmethod
    def from_folder(cls, root: str | os.PathLike[str]) -> Manifest:
        """Lists `root/<class>/**`: every file whose content is an image, labelled by its class folder in sorted order.

        Raises:
            ManifestError: no such folder, no image in it, or files or folders that cannot be read, all of them named.
        """
        from dali_pipes.decode import sniff_file

        base = _folder(root)
        classes = sorted(entry.name for entry in os.scandir(base) if entry.is_dir() and not entry.name.startswith("."))
        files = [(relative, name) for name in classes for relative in _files(base, name)]
        rows = [row for row, kind in zip(files, _looked_into(base, [path for path, _ in files], sniff_file)) if kind]
        if not rows:
            raise ManifestError(f"{base}: no image found in its class folders; expected <root>/<class>/<image files>.")
        paths, labels = zip(*rows)
        return cls._from_table(base, Table(str(base), {"path": list(paths), "label": list(labels)}, range(len(rows))))

    @classmethod
    def from_dicom_tree(cls, root: str | os.PathLike[str], without_preamble: bool = False) -> Manifest:
        """Lists every frame of every DICOM file under `root`, found by content; labels are -1, the folder is the group.

        Args:
            without_preamble: list also what begins like a DICOM data set without the preamble and its DICM.

        Raises:
            ManifestError: no such folder, no DICOM file with pixels in it, or files or folders that cannot be read, all
                of them named. A damaged DICOM file is listed, and its damage reported when it is loaded.
        """
        from dali_pipes.decode import dicom_frames, is_dicom

        def count(path: Path) -> int:
            return dicom_frames(path) if is_dicom(path, without_preamble) else 0

        base = _folder(root)
        files = _files(base, "")
        rows = [
            (path, frame) for path, frames in zip(files, _looked_into(base, files, count)) for frame in range(frames)
        ]
        if not rows:
            raise ManifestError(
                f"{base}: no DICOM file with pixels found; files are recognised by content (DICM at byte 128). "
                "For files that lack it, give without_preamble=True."
            )
        columns = {
            "path": [path for path, _ in rows],
            "frame": [str(frame) for _, frame in rows],
            "group": [os.path.dirname(path) for path, _ in rows],
        }
        return cls._from_table(base, Table(str(base), columns, range(len(rows))))

    @classmethod
    def _from_table(cls, root: Path, table: Table, names: Sequence[str] | None = None) -> Manifest:
        if not root.is_dir():
            raise ManifestError(
                f"{table.source}: its root {root} is no folder; give root=, the folder that paths begin at."
            )
        frames, labels, classes = check(table, names)
        paths = table.columns["path"]
        default_ids = (f"{path}#{frame}" if frame else path for path, frame in zip(paths, frames.tolist()))
        blank = [""] * len(paths)
        return cls(
            root=root,
            paths=TextColumn(paths),
            ids=TextColumn(table.columns.get("id") or default_ids),
            frames=frames,
            labels=labels,
            splits=TextColumn(table.columns.get("split") or blank),
            groups=TextColumn(table.columns.get("group") or blank),
            classes=classes,
        )

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Manifest: ...
    def __getitem__(self, index: int | slice) -> Sample | Manifest:
        if isinstance(index, slice):
            return self.subset(range(len(self))[index])
        i = range(len(self))[index]
        return Sample(
            i, self.ids[i], self.paths[i], int(self.frames[i]), int(self.labels[i]), self.splits[i], self.groups[i]
        )

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"Manifest({len(self)} samples, {len(self.classes) or 'numbered'} classes, root={str(self.root)!r})"

    def subset(self, indices: Iterable[int]) -> Manifest:
        """The samples at `indices`, in that order; or those where a mask, bool[N], is true. Class numbers stay."""
        chosen = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices))
        if chosen.dtype == np.bool_ and chosen.shape == (len(self),):
            chosen = np.flatnonzero(chosen)
        if chosen.ndim != 1 or (len(chosen) and not np.issubdtype(chosen.dtype, np.integer)):
            raise ConfigError(
                f"subset: give whole numbers, or {len(self)} booleans; found {chosen.dtype}{chosen.shape}."
            )
        take = chosen.astype(np.int64)
        if len(take) and (take.min() < 0 or take.max() >= len(self)):
            raise ConfigError(f"subset: indices must lie in 0..{len(self) - 1}, found {take.min()}..{take.max()}.")
        return Manifest(
            self.root,
            self.paths.take(take),
            self.ids.take(take),
            self.frames[take],
            self.labels[take],
            self.splits.take(take),
            self.groups.take(take),
            self.classes,
        )

    def split(self, name: str) -> Manifest:
        """The samples whose split is `name`.

        Raises:
            ConfigError: no sample has that split; the message lists the splits there are.
        """
        chosen = [i for i, value in enumerate(self.splits) if value == name]
        if not chosen:
            raise ConfigError(f"split {name!r}: no such split; the manifest has {sorted(set(self.splits))}.")
        return self.subset(chosen)

    def resolve(self, index: int) -> Path:
        """The absolute path of a sample's file, links followed.

        Raises:
            ManifestError: the path leads out of the root.
        """
        root = self._real_root
        path = os.path.realpath(os.path.join(root, self.paths[index]))
        if os.path.commonpath([root, path]) != root:
            raise ManifestError(
                f"{self.describe(index)} leads out of the manifest's root through a link; move the file in."
            )
        return Path(path)

    def locate(self, index: int) -> tuple[str, str]:
        """Return the root without links, and the absolute path of a sample's file in it, whose links are not followed.

        Whoever opens the file sees to it that it lies in the root.
        """
        return self._real_root, os.path.join(self._real_root, self.paths[index])

    @cached_property
    def _real_root(self) -> str:
        return os.path.realpath(self.root)

    def describe(self, index: int) -> str:
        """How messages name a sample: by number and a short digest, for paths and ids may identify patients.

        With DALI_PIPES_SHOW_PATHS=1 the path is named too; `manifest[index].path` always gives it.
        """
        digest = hashlib.blake2b(self.ids[index].encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
        shown = f" {self.paths[index]}" if os.environ.get(SHOW_PATHS) == "1" else ""
        return f"sample {index} [{digest}]{shown}"

    def digest(self) -> str:
        """32 hex digits over ids, paths, frames and labels: equal for manifests that list the same samples in the
        same order.
        """
        state = hashlib.blake2b(digest_size=16)
        for block in (*self.ids.buffers(), *self.paths.buffers(), self.frames.tobytes(), self.labels.tobytes()):
            state.update(len(block).to_bytes(8, "little"))
            state.update(block)
        return state.hexdigest()


def _folder(root: str | os.PathLike[str]) -> Path:
    if not os.path.isdir(root):
        raise ManifestError(f"{os.fspath(root)}: no such folder.")
    return Path(root)


def holds_dicom(root: str | os.PathLike[str]) -> bool:
    """Whether the first image under a folder, by path, is DICOM: then it is a tree of such files, else class folders.

    Raises:
        ManifestError: no such folder, or a file before that image cannot be read.
    """
    from dali_pipes.decode import sniff_file

    base = _folder(root)
    kinds = (_looked_into(base, [relative], sniff_file)[0] for relative in _files(base, ""))
    return next(filter(None, kinds), None) == "dicom"


def _files(base: Path, below: str) -> list[str]:
    """Regular, not hidden files (not pipes, nor sockets) under `base/below`, relative to `base`, sorted."""
    found = []
    for folder, folders, names in os.walk(base / below, onerror=_unlisted):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (os.path.join(folder, name) for name in names if not name.startswith("."))
        found += [os.path.relpath(path, base) for path in paths if os.path.isfile(path)]
    return sorted(path.replace(os.sep, "/") for path in found)


def _unlisted(error: OSError) -> None:
    """For os.walk, which would pass over the folder and all that is in it."""
    raise ManifestError(f"{error.filename}: cannot be listed: {error.strerror}. Make it readable, or move it away.")


def _looked_into(base: Path, files: Sequence[str], look: Callable[[Path], T]) -> list[T]:
    """What `look` finds in each file; raises ManifestError that names all those that cannot be read."""
    found, problems = [], {}
    for number, relative in enumerate(files):
        try:
            found.append(look(base / relative))
        except OSError as error:
            problems[number] = f"{relative!r}: {error.strerror or error}"
    if problems:
        shown = [f"  {reason}" for reason in list(problems.values())[:MOST_LINES]]
        if len(problems) > MOST_LINES:
            shown.append(f"  and {len(problems) - MOST_LINES} more (all are in the error's `problems`)")
        head = f"{base}: {len(problems)} of {len(files)} files cannot be read; make them readable, or move them away:"
        raise ManifestError("\n".join([head, *shown]), problems)
    return found
