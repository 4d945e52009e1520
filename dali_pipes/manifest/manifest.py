"""Which samples exist: path, frame, label, split and group of each, in columns.

A manifest reads no pixels. Its paths are relative to one root and cannot leave it: what a row may name is checked
when the manifest is made, where a path really leads (symbolic links) when a file is about to be read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from dali_pipes.errors import ConfigError, ManifestError
from dali_pipes.files.urls import Root, title
from dali_pipes.manifest.columns import TextColumn
from dali_pipes.manifest.rows import Reading, Table, check
from dali_pipes.manifest.sources import Source, Sources
from dali_pipes.manifest.splits import assign, check_fractions, leaks, together
from dali_pipes.privacy import SHOW_PATHS as SHOW_PATHS
from dali_pipes.privacy import described, hint

if TYPE_CHECKING:
    from dali_pipes.manifest.studies import Studies


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
class Manifest(Sources, Sequence[Sample]):
    """Samples as columns; build one with one of the methods whose names begin with `from_`.

    Attributes:
        root: the folder, or the URL, that paths are relative to.
        paths, ids, splits, groups: text, one value a sample.
        frames: int32[N].
        labels: int64[N], -1 where there is none.
        classes: names of the class numbers, where the source gave names; else empty.
        targets: numbers to be predicted: name to float32[N], NaN where one is missing.
        columns: the source's further columns: name to text.
        rows: int64[N], where each sample stands in its source: rows of a table without its header and blank lines
            (as pandas reads it), counted from 0. They stay with the samples in subsets.

    Arrays are read-only, because the digest of a manifest is remembered.
    """

    root: Root
    paths: TextColumn
    ids: TextColumn
    frames: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int64]
    splits: TextColumn
    groups: TextColumn
    classes: tuple[str, ...] = ()
    targets: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    columns: Mapping[str, TextColumn] = field(default_factory=dict)
    rows: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def __post_init__(self) -> None:
        if len(self.rows) != len(self.labels):
            object.__setattr__(self, "rows", np.arange(len(self.labels)))
        for name in ("frames", "labels", "rows"):
            object.__setattr__(self, name, _read_only(getattr(self, name)))
        object.__setattr__(self, "targets", {name: _read_only(values) for name, values in self.targets.items()})

    @classmethod
    def _from_table(cls, root: Root, table: Table, reading: Reading) -> Manifest:
        if isinstance(root, Path) and not root.is_dir():
            raise ManifestError(
                f"{table.source}: its root {root} is no folder; give root=, the folder that paths begin at."
            )
        good = check(table, root, reading)
        blank = TextColumn.blank(len(table))
        return cls(
            root=root,
            paths=good.paths,
            ids=good.ids,
            frames=good.frames,
            labels=good.labels,
            splits=table.known.get("split", blank),
            groups=table.known.get("group", blank),
            classes=good.classes,
            targets=good.targets,
            columns=good.further,
        )

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Manifest: ...
    def __getitem__(self, index: int | slice) -> Sample | Manifest:
        if isinstance(index, slice):
            return self.subset(np.arange(len(self))[index])
        i = range(len(self))[index]
        return Sample(
            i, self.ids[i], self.paths[i], int(self.frames[i]), int(self.labels[i]), self.splits[i], self.groups[i]
        )

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"Manifest({len(self)} samples, {len(self.classes) or 'numbered'} classes, root={self.place!r})"

    def subset(self, indices: Iterable[int]) -> Manifest:
        """Return the samples at `indices`, in that order; or those where a mask, bool[N], is true.

        Class numbers stay.
        """
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
        return replace(
            self, **self._each(lambda column: column.take(take) if isinstance(column, TextColumn) else column[take])
        )

    def _each(self, change: Callable[[Any], Any]) -> dict[str, Any]:
        """Return the fields that hold one value a sample, changed, by name."""
        found: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, (TextColumn, np.ndarray)):
                found[each.name] = change(value)
            elif isinstance(value, Mapping):
                found[each.name] = {name: change(column) for name, column in value.items()}
        return found

    def split(self, name: str) -> Manifest:
        """Return the samples whose split is `name`.

        Raises:
            ConfigError: no sample has that split; the message lists the splits there are.
        """
        chosen = self.splits.equals(name)
        if not chosen.any():
            raise ConfigError(f"split {name!r}: no such split; the manifest has {sorted(self.splits.codes()[0])}.")
        return self.subset(chosen)

    def studies(
        self,
        by: str = "group",
        *,
        view: str | None = None,
        views: Sequence[str] | None = None,
        position: str | None = None,
        label: str = "same",
    ) -> Studies:
        """Return studies as samples: `batch.image` is [N, V, C, H, W] then, and `batch.present` tells what is there.

        All images of a study are moved and changed by the same draws.

        Args:
            by: the column whose value the images of a study share.
            view: a column that names the views, such as "L-CC"; a study lacks those that it has no image of.
            views: the views, in the order of the places; by default all that occur, sorted.
            position: instead, a column of numbers ("frame" for those of frames) by which a series is sorted.
            label: "same": the images of a study must agree in label and targets; "max": the largest counts.

        Raises:
            ManifestError: a view or slice that is there twice, a slice that is missing, or labels that disagree, named.
            ConfigError: no such column, or arguments that do not go together.
        """
        from dali_pipes.manifest.studies import studies_of

        return studies_of(self, by, view, views, position, label)

    def class_counts(self) -> dict[str | int, int]:
        """Return how many samples each class has: by name where classes have names, else by number.

        Named classes without a sample count 0; samples without a label are counted under -1, if there are any.
        """
        numbers, counts = np.unique(self.labels, return_counts=True)
        held = dict(zip(numbers.tolist(), counts.tolist()))
        named: dict[str | int, int] = {name: held.pop(i, 0) for i, name in enumerate(self.classes)}
        return {**named, **held}

    def check_splits(self) -> None:
        """Check that no group, and no file, lies in two splits; samples without a split do not count.

        Raises:
            ManifestError: naming every group and file that does, by its samples; `problems` has the splits of each,
                under its name.
        """
        lines, problems = [], {}
        for kind, column in (("group", self.groups), ("file", self.paths)):
            for name, parts in leaks(column, self.splits).items():
                where = ", ".join(f"{part!r} (sample {sample})" for part, sample in parts.items())
                lines.append(f"  {described(f'a {kind}', name)}: {where}")
                problems[name] = where
        if lines:
            head = f"{len(lines)} groups or files lie in more than one split{hint()}:"
            raise ManifestError("\n".join([head, *lines]), problems)

    def split_by_group(self, fractions: Mapping[str, float], seed: int = 0) -> Manifest:
        """Return the manifest with other splits, such that no group and no file lies in two of them.

        Samples without a group stay with the others of their file, and so do groups that share one. Each split gets its
        share of every label as nearly as whole groups allow (see `splits.assign`); which groups is drawn from `seed`,
        and does not depend on the order of samples.

        Args:
            fractions: share of each split, such as {"train": 0.8, "val": 0.1, "test": 0.1}; their sum is 1.
            seed: another one makes other splits.

        Raises:
            ConfigError: fractions that cannot be met, because there are fewer groups than splits or for want of sense.
        """
        names, shares = check_fractions(fractions)
        keys = self._inseparable()
        chosen = assign(keys, self.labels, shares, seed)
        if empty := [name for i, name in enumerate(names) if i not in set(np.unique(chosen).tolist())]:
            raise ConfigError(
                f"split_by_group: nothing is left for {', '.join(map(repr, empty))}; {len(self)} samples in "
                f"{len(keys.codes()[0])} groups are too few, or one group is too large."
            )
        return replace(self, splits=TextColumn(names).take(chosen))

    def _inseparable(self) -> TextColumn:
        """Return a key for each sample, equal where samples must lie in one split."""
        return together(self.groups, self.paths)

    def to_csv(self, path: Source) -> None:
        """Write a CSV that `from_csv(path, root=manifest.root)` reads back as the same samples and numbers.

        Labels are written as names where these are in sorted order and each class has a sample, else as numbers.
        `missing_label=-1` reads back samples without a label; `targets=` names the columns of targets.

        Raises:
            ManifestError: paths that are not UTF-8.
        """
        from dali_pipes.manifest.export import write_csv

        write_csv(self, path)

    def to_parquet(self, path: Source) -> None:
        """Write a Parquet file as `to_csv` writes a CSV; labels are numbers, and the file holds the classes' names.

        Raises:
            ManifestError: paths that are not UTF-8, or pyarrow is not installed.
        """
        from dali_pipes.manifest.export import write_parquet

        write_parquet(self, path)

    @staticmethod
    def concat(manifests: Sequence[Manifest], classes: Sequence[str] | None = None) -> Manifest:
        """Return the samples of several manifests, one after another.

        The root is the folder that their roots have in common. Targets and further columns that one of them lacks are
        NaN and "" there.

        Args:
            manifests: at least one.
            classes: renumbers labels by their names; needed where the manifests number different classes.

        Raises:
            ConfigError: classes that differ, or lack a name.
            ManifestError: two manifests give the same id of their own.
        """
        from dali_pipes.manifest.concat import concatenated

        return concatenated(manifests, classes)

    @property
    def place(self) -> str:
        """The root as text, without what is secret in a URL."""
        return title(self.root)

    @property
    def remote(self) -> bool:
        """Whether the files lie behind a URL."""
        return isinstance(self.root, str)

    def resolve(self, index: int) -> Path:
        """Return the absolute path of a sample's file, links followed.

        Raises:
            ManifestError: the path leads out of the root. ConfigError: the files lie behind a URL.
        """
        if self.remote:
            raise ConfigError(f"the files of this manifest are in {self.place}; this works on local files only.")
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
        """Return how messages name a sample: by number and a short digest, because paths and ids may identify patients.

        With DALI_PIPES_SHOW_PATHS=1 the path is named too; `manifest[index].path` always gives it.
        """
        return described(f"sample {index}", self.ids[index], self.paths[index])

    def digest(self) -> str:
        """Return 32 hex digits over ids, paths, frames, labels and targets, computed once.

        They are equal for manifests that list the same samples in the same order.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        state = hashlib.blake2b(digest_size=16)
        named = [block for name, values in sorted(self.targets.items()) for block in (name.encode(), values.tobytes())]
        for block in (
            *(*self.ids.buffers(), *self.paths.buffers()),
            *(self.frames.tobytes(), self.labels.tobytes(), *named),
        ):
            state.update(len(block).to_bytes(8, "little"))
            state.update(block)
        return state.hexdigest()


def _read_only(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    view = values.view()
    view.flags.writeable = False
    return view
