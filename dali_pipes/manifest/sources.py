"""The ways to make a manifest: tables, data frames, data sets of others, folders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from dali_pipes.errors import ManifestError
from dali_pipes.files.urls import Root, common, is_url, parent, place, root_of
from dali_pipes.manifest.columns import TextColumn
from dali_pipes.manifest.given import check_dataset, check_frame, check_path, check_root, checked_names, checked_records
from dali_pipes.manifest.labels import MissingLabel
from dali_pipes.manifest.rows import MASK, Reading, Table
from dali_pipes.manifest.tables import of_columns, of_records, read_csv, read_parquet

Source = str | os.PathLike[str]


class Sources:
    """What `Manifest` inherits: class methods that read samples from somewhere."""

    @classmethod
    def _from_table(cls, root: Root, table: Table, reading: Reading) -> Self:
        """Make a manifest of a table, and check its rows."""
        raise NotImplementedError

    @classmethod
    def from_csv(
        cls,
        path: Source,
        root: Source | None = None,
        classes: Sequence[str] | None = None,
        *,
        path_column: str = "path",
        label_column: str = "label",
        targets: Sequence[str] = (),
        columns: Sequence[str] | None = None,
        missing_label: MissingLabel = "error",
        sep: str | None = None,
        encoding: str | None = None,
    ) -> Self:
        """Read a CSV with a header row: column `path`, and optionally `label`, `id`, `frame`, `split`, `group`.

        Labels that are all whole numbers stay as they are; labels that are all names are numbered in sorted order (give
        `classes` where several manifests must number alike). Numbers and names among each other are refused unless
        `classes` is given. Without a label column every label is -1.

        Args:
            path: the CSV; a URL too.
            root: the folder, or the URL, that paths are relative to; by default the CSV's own folder, or what all paths
                have in common if they are URLs. Absolute paths below the root do. URLs (`s3://`...) need the extra
                `remote`.
            classes: the names of all classes, in the order of their numbers.
            path_column: what the column of paths is called.
            label_column: what the column of labels is called.
            targets: columns of numbers, for regression or for several labels a sample (see the attribute).
            columns: the further columns to keep; all by default.
            missing_label: what becomes of an empty label, "nan", "NA" or "null": "error", or -1.
            sep: what stands between fields; by default whichever of `,` `;` tab and `|` the header makes sense with.
            encoding: of the text; UTF-8 by default.

        Raises:
            ManifestError: the file is missing or malformed, or rows cannot be used; every bad row is named.
        """
        check_path("from_csv", path, "a CSV")
        check_root("from_csv", root)
        reading = _reading(path_column, label_column, targets, columns, classes, missing_label)
        table = read_csv(place(path), reading, sep, encoding)
        return cls._from_table(_root_of(path, root, table), table, reading)

    @classmethod
    def from_parquet(
        cls,
        path: Source,
        root: Source | None = None,
        classes: Sequence[str] | None = None,
        *,
        path_column: str = "path",
        label_column: str = "label",
        targets: Sequence[str] = (),
        columns: Sequence[str] | None = None,
        missing_label: MissingLabel = "error",
    ) -> Self:
        """Read a Parquet file as `from_csv` reads a CSV; needs pyarrow (`pip install 'dali-pipes[features]'`)."""
        check_path("from_parquet", path, "a Parquet file")
        check_root("from_parquet", root)
        reading = _reading(path_column, label_column, targets, columns, classes, missing_label)
        table = read_parquet(place(path), reading)
        return cls._from_table(_root_of(path, root, table), table, reading)

    @classmethod
    def from_records(
        cls,
        records: Iterable[Mapping[str, Any]],
        root: Source | None = None,
        classes: Sequence[str] | None = None,
        *,
        path_column: str = "path",
        label_column: str = "label",
        targets: Sequence[str] = (),
        columns: Sequence[str] | None = None,
        missing_label: MissingLabel = "error",
    ) -> Self:
        """Read mappings, one a sample, as `from_csv` reads rows; None, NaN and absent keys are missing values.

        Without a root, paths are absolute or relative to the current folder, and the root is the folder that all of
        them have in common.
        """
        check_root("from_records", root)
        reading = _reading(path_column, label_column, targets, columns, classes, missing_label)
        return cls._from_values(of_records("records", checked_records(records), reading), root, reading)

    @classmethod
    def from_pandas(
        cls,
        frame: Any,
        root: Source | None = None,
        classes: Sequence[str] | None = None,
        *,
        path_column: str = "path",
        label_column: str = "label",
        targets: Sequence[str] = (),
        columns: Sequence[str] | None = None,
        missing_label: MissingLabel = "error",
    ) -> Self:
        """Read a pandas data frame as `from_records` reads mappings.

        Its index is not read; `reset_index()` makes a column of it.
        """
        check_frame(frame)
        check_root("from_pandas", root)
        reading = _reading(path_column, label_column, targets, columns, classes, missing_label)
        values = {str(name): frame.iloc[:, i].tolist() for i, name in enumerate(frame.columns)}
        return cls._from_values(of_columns("data frame", values, reading, len(frame)), root, reading)

    @classmethod
    def from_hf(
        cls,
        dataset: Any,
        root: Source | None = None,
        classes: Sequence[str] | None = None,
        *,
        image_column: str | None = None,
        label_column: str = "label",
        targets: Sequence[str] = (),
        columns: Sequence[str] | None = None,
        missing_label: MissingLabel = "error",
    ) -> Self:
        """Read a Hugging Face data set with an image column; labels of its `ClassLabel` keep their numbers and names.

        Images that lie in files are read where they are. Images whose bytes lie in the data set itself (Parquet) are
        written into `root`, as they are, each once, under the digest of its bytes. So are those of an image column
        `mask`, which become the samples' masks.

        Args:
            dataset: a `datasets.Dataset` (one split of it).
            root: the folder of the images; needed where the data set holds bytes.
            classes: as for `from_csv`, in place of the names of a `ClassLabel`.
            image_column: which column holds the images; the only image column by default.
            label_column: what the column of labels is called.
            targets: as for `from_csv`.
            columns: as for `from_csv`.
            missing_label: as for `from_csv`.
        """
        check_dataset(dataset)
        check_root("from_hf", root)
        from dali_pipes.manifest.hugging_face import read_dataset

        reading = _reading("path", label_column, targets, columns, classes, missing_label)
        base, table = read_dataset(dataset, None if root is None else Path(root), image_column, reading)
        return cls._from_table(base, table, reading)

    @classmethod
    def from_folder(cls, root: Source, classes: Sequence[str] | None = None) -> Self:
        """List `root/<class>/**`: every file whose content is an image, labelled by its class folder.

        Class folders that are all called by whole numbers give these numbers, others are numbered in the order of
        `classes`, or sorted. Links are followed inside of the root; what is left out (links out of it, caches) is
        warned of. Hidden files, and files beside the class folders, are no samples.

        Raises:
            ManifestError: no such folder, no image in it, or files or folders that cannot be read, all of them named.
        """
        check_path("from_folder", root, "a folder")
        from dali_pipes.manifest.listing import class_folders

        reading = Reading(classes=None if classes is None else checked_names("classes", classes))
        return cls._from_table(*class_folders(root), reading)

    @classmethod
    def from_dicom_tree(cls, root: Source, without_preamble: bool = False) -> Self:
        """List every frame of every DICOM file under `root`, found by content; labels are -1, the folder is the group.

        Links are followed inside of the root; what is left out (links out of it, caches) is warned of.

        Args:
            root: the folder.
            without_preamble: list also what begins like a DICOM data set without the preamble and its DICM.

        Raises:
            ManifestError: no such folder, no DICOM file with pixels in it, or files or folders that cannot be read, all
                of them named. A damaged DICOM file is listed, and its damage reported when it is loaded.
        """
        check_path("from_dicom_tree", root, "a folder")
        from dali_pipes.manifest.listing import dicom_tree

        return cls._from_table(*dicom_tree(root, without_preamble), Reading())

    @classmethod
    def _from_values(cls, table: Table, root: Source | None, reading: Reading) -> Self:
        if root is not None or _are_urls(table.known["path"]):
            return cls._from_table(_root_of("", root, table), table, reading)
        places = {
            "path": table.known["path"],
            **{name: table.further[name] for name in (MASK,) if name in table.further},
        }
        whole = {name: [path and os.path.abspath(path) for path in column] for name, column in places.items()}
        folders = [os.path.dirname(path) for paths in whole.values() for path in paths if path]
        base = Path(os.path.commonpath(folders)) if folders else Path.cwd()
        known = {**table.known, "path": TextColumn(whole.pop("path"))}
        further = {**table.further, **{name: TextColumn(paths) for name, paths in whole.items()}}
        return cls._from_table(base, replace(table, known=known, further=further), reading)


def _are_urls(paths: TextColumn) -> bool:
    return len(paths) > 0 and is_url(paths[0]) and all(map(is_url, paths))


def _root_of(path: Source, root: Source | None, table: Table) -> Root:
    """Return the root that was given; else what all paths share, if they are URLs; else where the table lies."""
    if root is not None:
        return root_of(root)
    if not _are_urls(table.known["path"]):
        return parent(path)
    found = common(table.known["path"])
    if not found:
        raise ManifestError(
            f"{table.source}: its paths are URLs, and not all of one bucket or host; make a manifest for each of them."
        )
    return found


def _reading(
    path_column: str,
    label_column: str,
    targets: Sequence[str],
    columns: Sequence[str] | None,
    classes: Sequence[str] | None,
    missing_label: MissingLabel,
) -> Reading:
    return Reading(path_column, label_column, targets, columns, classes, missing_label)  # type: ignore[arg-type]
