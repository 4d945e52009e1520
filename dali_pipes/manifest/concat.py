"""Several manifests as one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dali_pipes.errors import ConfigError, ManifestError
from dali_pipes.files.urls import Root
from dali_pipes.manifest.columns import TextColumn, joined
from dali_pipes.manifest.rows import MASK, default_ids, repeated

if TYPE_CHECKING:
    from dali_pipes.manifest.manifest import Manifest


def concatenated(manifests: Sequence[Manifest], classes: Sequence[str] | None) -> Manifest:
    """Return the samples of several manifests, one after another; see `Manifest.concat`."""
    from dali_pipes.manifest.manifest import Manifest
    from dali_pipes.manifest.studies import Studies

    if not manifests:
        raise ConfigError("concat: no manifest given; give at least one.")
    if any(isinstance(each, Studies) for each in manifests):
        raise ConfigError("concat: a manifest of studies; concatenate manifests of images, and make studies of them.")
    names = tuple(classes) if classes is not None else _classes(manifests)
    root, paths = _together(manifests)
    ids = [_ids(each, moved) for each, moved in zip(manifests, paths)]
    frames = np.concatenate([each.frames for each in manifests])
    whole = joined(ids)
    _check_ids(whole, default_ids(joined(paths), frames), [len(each) for each in manifests])
    targets = dict.fromkeys(name for each in manifests for name in each.targets)
    columns = [_columns(each, root) for each in manifests]
    further = dict.fromkeys(name for each in manifests for name in each.columns)
    return Manifest(
        root=root,
        paths=joined(paths),
        ids=whole,
        frames=frames,
        labels=np.concatenate([_labels(each, names) for each in manifests]),
        splits=joined([each.splits for each in manifests]),
        groups=joined([each.groups for each in manifests]),
        classes=names,
        targets={
            name: np.concatenate([each.targets.get(name, np.full(len(each), np.nan, np.float32)) for each in manifests])
            for name in targets
        },
        columns={
            name: joined([each.get(name, TextColumn.blank(len(own))) for own, each in zip(manifests, columns)])
            for name in further
        },
        rows=np.concatenate([each.rows for each in manifests]),
    )


def _together(manifests: Sequence[Manifest]) -> tuple[Root, list[TextColumn]]:
    """Return the root that all of them have in common, and their paths below it."""
    if any(each.remote for each in manifests):
        if len({each.root for each in manifests}) > 1:
            places = sorted({each.place for each in manifests})
            raise ConfigError(f"concat: manifests of URLs must have one root=; these have {', '.join(places)}.")
        return manifests[0].root, [each.paths for each in manifests]
    roots = [os.path.abspath(each.root) for each in manifests]
    root = os.path.commonpath(roots)
    return Path(root), [_moved(each.paths, os.path.relpath(own, root)) for each, own in zip(manifests, roots)]


def _classes(manifests: Sequence[Manifest]) -> tuple[str, ...]:
    """Return the classes that all of them have, if each has labels."""
    found = {each.classes for each in manifests if (each.labels != -1).any() or each.classes}
    if len(found) > 1:
        raise ConfigError(
            f"concat: the manifests number different classes: {' and '.join(map(str, map(list, sorted(found))))}. Give "
            "classes=, the names of all in the order of their numbers."
        )
    return found.pop() if found else ()


def _labels(manifest: Manifest, names: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """Return the labels under other numbers of the same classes."""
    if manifest.classes == names or not (manifest.labels != -1).any():
        return manifest.labels
    number = {name: i for i, name in enumerate(names)}
    if lacking := [name for name in manifest.classes if name not in number] or (
        [] if manifest.classes else ["numbers"]
    ):
        raise ConfigError(f"concat(classes={list(names)}): a manifest has {', '.join(map(repr, lacking))} besides.")
    table = np.array([*(number[name] for name in manifest.classes), -1], np.int64)
    return table[manifest.labels]


def _moved(paths: TextColumn, folder: str) -> TextColumn:
    """Return the paths below another root; what is empty, or absolute, stays so."""
    if folder == ".":
        return paths
    above = folder.replace(os.sep, "/")
    return TextColumn(path if not path or os.path.isabs(path) else f"{above}/{path}" for path in paths)


def _columns(manifest: Manifest, root: Root) -> dict[str, TextColumn]:
    """Return the further columns; that of masks holds paths."""
    if MASK not in manifest.columns or manifest.remote:
        return dict(manifest.columns)
    folder = os.path.relpath(os.path.abspath(manifest.root), root)
    return {**manifest.columns, MASK: _moved(manifest.columns[MASK], folder)}


def _ids(manifest: Manifest, moved: TextColumn) -> TextColumn:
    """Ids that were made of paths are made of the new ones; others stay."""
    if moved is manifest.paths:
        return manifest.ids
    before, after = default_ids(manifest.paths, manifest.frames), default_ids(moved, manifest.frames)
    if manifest.ids.buffers() == before.buffers():
        return after
    return TextColumn(new if own == old else own for own, old, new in zip(manifest.ids, before, after))


def _check_ids(ids: TextColumn, plain: TextColumn, counts: Sequence[int]) -> None:
    """Raise ManifestError if an id that somebody gave stands in two manifests, because it then names two samples."""
    part = np.repeat(np.arange(len(counts)), counts)
    for row, first in repeated(ids).items():
        if part[row] != part[first] and not (ids[row] == plain[row] == plain[first]):
            raise ManifestError(
                f"concat: sample {row} has the id of sample {first}, which lies in another manifest; give ids that "
                "differ, or none."
            )
