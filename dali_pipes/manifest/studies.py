"""Studies: one sample is several images, such as the four standard views of a mammography or the slices of a series.

`Manifest.studies` makes them; a `Studies` is a manifest whose samples are studies, and holds the manifest of images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from dali_pipes.errors import ConfigError, ManifestError
from dali_pipes.manifest.columns import TextColumn, joined
from dali_pipes.manifest.manifest import Manifest
from dali_pipes.manifest.sources import Source

Longs = npt.NDArray[np.int64]

MOST_NAMED = 20
"""How many faulty studies a message names."""

_WHOLE = "a manifest of studies names only the first image of each"


@dataclass(frozen=True, eq=False)
class Studies(Manifest):
    """A manifest of studies; what `Manifest.studies` returns. Paths and frames are those of each study's first image.

    Attributes:
        images: the manifest of images.
        members: int64[N, V], the image at each place of each study; -1 where there is none.
        views: names of the places; empty for series.
    """

    images: Manifest | None = None
    members: Longs = field(default_factory=lambda: np.empty((0, 0), np.int64))
    views: tuple[str, ...] = ()

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """bool[N, V], whether a study has an image at a place."""
        found: npt.NDArray[np.bool_] = self.members >= 0
        return found

    def check_splits(self) -> None:
        """See `Manifest.check_splits`; the files of all images count, and messages give the numbers of images."""
        self._of_images(self.splits, self.groups).check_splits()

    def _inseparable(self) -> TextColumn:
        groups = TextColumn(
            f"group {group}" if group else f"study {name}" for group, name in zip(self.groups, self.ids)
        )
        every = self._of_images(TextColumn.blank(len(self)), groups)._inseparable()
        return every.take(self.members.max(axis=1))

    def _of_images(self, splits: TextColumn, groups: TextColumn) -> Manifest:
        """Return the manifest of these studies' images, with values of their studies."""
        if self.images is None:
            raise ConfigError("these studies have no images; Manifest.studies makes some that do.")
        study, place = np.nonzero(self.members >= 0)
        found = np.full(len(self.images), -1, np.int64)
        found[self.members[study, place]] = study
        where, blank = found % (len(self) + 1), TextColumn.blank(1)  # which images of no study get
        spread = [joined([column, blank]).take(where) for column in (splits, groups)]
        return replace(self.images, splits=spread[0], groups=spread[1])

    def to_csv(self, path: Source) -> None:
        """Refuse: a table of studies would lack their other images."""
        raise ConfigError(f"{_WHOLE}: write studies.images, and make studies of what you read back.")

    def to_parquet(self, path: Source) -> None:
        """Refuse, as `to_csv`."""
        self.to_csv(path)

    def studies(self, by: str = "group", **_: Any) -> Studies:
        """Refuse: these are studies already."""
        raise ConfigError(f"{_WHOLE}: make studies of studies.images.")

    def __repr__(self) -> str:
        count = 0 if self.images is None else len(self.images)
        return f"Studies({len(self)} of up to {self.members.shape[1]} images, from {count}, root={str(self.root)!r})"

    @cached_property
    def _digest(self) -> str:
        images = "" if self.images is None else self.images.digest()
        told = f"{images} {self.members.tolist()} {self.labels.tolist()} {list(self.ids)}"
        return hashlib.blake2b(told.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def studies_of(
    manifest: Manifest,
    by: str,
    view: str | None,
    views: Sequence[str] | None,
    position: str | None,
    label: str,
) -> Studies:
    """See `Manifest.studies`."""
    if (view is None) == (position is None) or (views is not None and view is None):
        raise ConfigError(
            "studies: give view=, a column of names (and views=, which they are), or position=, of numbers."
        )
    if label not in ("same", "max"):
        raise ConfigError(f"studies(label={label!r}): allowed are 'same' and 'max'.")
    names = _texts(manifest, by)
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        if not name:
            raise ManifestError(f"studies: {manifest.describe(i)} has nothing in the column {by!r}; fill it.")
        groups.setdefault(name, []).append(i)
    if isinstance(views, str) or (views is not None and len(set(views)) < len(views)):
        raise ConfigError(f"studies(views={views!r}): give a list of names, each of them once.")
    problems: list[str] = []
    for what, column in (("splits", manifest.splits), ("groups", manifest.groups)):
        for name, indices in groups.items():
            if len(found := {column[i] for i in indices}) > 1:
                problems.append(f"study {name!r}: its images lie in different {what}: {sorted(found)}")
    if view is not None:
        places, kinds = _by_view(manifest, groups, view, views, problems)
    else:
        places, kinds = _by_position(manifest, groups, str(position), problems), ()
    _complain(problems)
    width = max(map(len, places), default=0)
    members = np.array([[*row, *[-1] * (width - len(row))] for row in places], np.int64).reshape(len(places), width)
    first = np.array([next(i for i in row if i >= 0) for row in places], np.int64)
    return _labelled(manifest.subset(first), list(groups), manifest, members, kinds, label)


def _labelled(
    base: Manifest, ids: list[str], manifest: Manifest, members: Longs, kinds: tuple[str, ...], label: str
) -> Studies:
    """Return the studies, labelled by their images."""

    def one(values: npt.NDArray[Any], what: str) -> npt.NDArray[Any]:
        rows = [values[row[row >= 0]] for row in members]
        apart = [ids[i] for i, row in enumerate(rows) if label == "same" and len(np.unique(row)) > 1]
        if apart:
            raise ManifestError(
                f"studies: the images of {len(apart)} studies have different values of {what}, the first of them "
                f"{apart[0]!r}; give label='max' to take the largest."
            )
        return np.array([np.fmax.reduce(row) for row in rows], values.dtype)

    return Studies(
        root=base.root,
        paths=base.paths,
        ids=TextColumn(ids),
        frames=base.frames,
        labels=one(manifest.labels, "label"),
        splits=base.splits,
        groups=base.groups,
        classes=base.classes,
        targets={name: one(values, name) for name, values in manifest.targets.items()},
        columns={},
        images=manifest,
        members=members,
        views=kinds,
    )


def _texts(manifest: Manifest, column: str) -> Sequence[str]:
    known: dict[str, Callable[[], Sequence[str]]] = {
        "group": lambda: list(manifest.groups),
        "id": lambda: list(manifest.ids),
        "path": lambda: list(manifest.paths),
        "frame": lambda: [str(frame) for frame in manifest.frames.tolist()],
        "split": lambda: list(manifest.splits),
        **{name: lambda values=values: list(values) for name, values in manifest.columns.items()},  # type: ignore[misc]
    }
    if column not in known:
        raise ConfigError(f"studies: the manifest has no column {column!r}; it has {', '.join(map(repr, known))}.")
    return known[column]()


def _by_view(
    manifest: Manifest, groups: dict[str, list[int]], view: str, views: Sequence[str] | None, problems: list[str]
) -> tuple[list[list[int]], tuple[str, ...]]:
    """Return the image of each view of each study, -1 if it has none, and the views."""
    texts = _texts(manifest, view)
    kinds = tuple(sorted(set(texts))) if views is None else tuple(views)
    found = []
    for name, indices in groups.items():
        row = [-1] * len(kinds)
        for i in indices:
            if not texts[i] and views is None:
                problems.append(f"study {name!r}: {manifest.describe(i)} has nothing in the column {view!r}")
            elif texts[i] not in kinds:
                problems.append(f"study {name!r}: {texts[i]!r} is none of the views {', '.join(map(repr, kinds))}")
            elif row[kinds.index(texts[i])] >= 0:
                problems.append(f"study {name!r}: the view {texts[i]!r} is there twice")
            else:
                row[kinds.index(texts[i])] = i
        found.append(row)
    return found, kinds


def _by_position(
    manifest: Manifest, groups: dict[str, list[int]], position: str, problems: list[str]
) -> list[list[int]]:
    """Return the images of each series, sorted by position."""
    texts = _texts(manifest, position)
    try:
        numbers = np.array([float(text) for text in texts])
    except ValueError as error:
        raise ManifestError(f"studies: the column {position!r} holds positions, which are numbers: {error}.") from None
    if len(odd := np.flatnonzero(~np.isfinite(numbers))):
        raise ManifestError(
            f"studies: {manifest.describe(int(odd[0]))} has {texts[int(odd[0])]!r} in the column {position!r}; give "
            "positions, which are finite numbers."
        )
    found = []
    for name, indices in groups.items():
        row = sorted(indices, key=lambda i: numbers[i])
        problems += [f"series {name!r}: {fault}" for fault in _uneven(numbers[row])]
        found.append(row)
    return found


def _uneven(positions: npt.NDArray[np.float64]) -> Iterator[str]:
    """Yield what is wrong with the positions of a series, which are sorted: float64[N].

    Slices are as far apart as most are; where two distances are equally frequent, the smaller one counts, because a
    slice is more often missing than too many.
    """
    steps = np.diff(positions)
    twice = steps <= steps.max(initial=0.0) * 1e-3
    apart = np.sort(steps[~twice])
    usual = float(apart[(len(apart) - 1) // 2]) if len(apart) else 0.0
    for at, step, same in zip(positions[:-1].tolist(), steps.tolist(), twice.tolist()):
        if same:
            yield f"a slice is there twice, at {at:g}"
        elif step > 1.5 * usual:
            yield f"{round(step / usual) - 1} missing after {at:g}, where slices are {usual:g} apart"
        elif 1.5 * step < usual:
            yield f"only {step:g} from {at:g} to the next slice, where others are {usual:g} apart"


def _complain(problems: list[str]) -> None:
    if problems:
        shown = [f"  {problem}" for problem in problems[:MOST_NAMED]]
        if len(problems) > MOST_NAMED:
            shown.append(f"  and {len(problems) - MOST_NAMED} more")
        text = "\n".join([f"{len(problems)} faults in the studies:", *shown])
        raise ManifestError(text, dict(enumerate(problems)))
