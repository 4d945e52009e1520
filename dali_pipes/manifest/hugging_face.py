"""From a Hugging Face data set to rows of a manifest: images that lie in files stay there, others become files."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dali_pipes.errors import ManifestError
from dali_pipes.manifest.rows import MASK, Reading, Table
from dali_pipes.manifest.tables import of_records

SOURCE = "the Hugging Face data set"


def read_dataset(dataset: Any, root: Path | None, image_column: str | None, reading: Reading) -> tuple[Path, Table]:
    """Return the root and the rows of a data set; see `Manifest.from_hf`."""
    features = dict(getattr(dataset, "features", None) or {})
    column = image_column or _image_column(features)
    undecoded = dataset.cast_column(column, _encoded_images(features, column))
    masked = column != MASK and _is_image(features.get(MASK))
    if masked:
        undecoded = undecoded.cast_column(MASK, _encoded_images(features, MASK))
    rows = [_row(record, number, column, masked, root) for number, record in enumerate(undecoded)]
    if root is None:
        files = [row[name] for row in rows for name in ("path", *(MASK,) * masked) if row[name]]
        root = Path(os.path.commonpath([os.path.dirname(file) for file in files])) if files else Path()
    table = of_records(SOURCE, rows, reading)
    names = getattr(features.get(reading.label_column), "names", None)
    if names is None:
        return root, table
    return root, Table(**{**vars(table), "classes": tuple(names)})


def _image_column(features: Mapping[str, Any]) -> str:
    images = [name for name, feature in features.items() if _is_image(feature)]
    if len(images) == 2 and MASK in images:
        images.remove(MASK)
    if len(images) != 1:
        raise ManifestError(
            f"{SOURCE} has {len(images)} image columns among {list(features)}; name one by image_column=."
        )
    return images[0]


def _is_image(feature: Any) -> bool:
    return type(feature).__name__ == "Image"


def _encoded_images(features: Mapping[str, Any], column: str) -> Any:
    import datasets

    if column not in features:
        raise ManifestError(f"{SOURCE} has no column {column!r}; it has {list(features)}.")
    return datasets.Image(decode=False)


def _row(record: Mapping[str, Any], number: int, column: str, masked: bool, root: Path | None) -> dict[str, Any]:
    """Return a row with the absolute path of its image, and of its mask ("" if it has none) where masks are images."""
    found = {name: value for name, value in record.items() if name != column}
    found["path"] = _file_of(record[column] or {}, number, root)
    if masked:
        found[MASK] = _file_of(record[MASK], number, root) if record[MASK] else ""
    return found


def _file_of(image: Mapping[str, Any], number: int, root: Path | None) -> str:
    data, path = image.get("bytes"), image.get("path")
    if data is not None:
        path = _kept(data, number, root)
    elif path is None or "://" in path:
        what = "no image" if path is None else "an address, not an image"
        raise ManifestError(f"{SOURCE}: row {number} holds {what}; leave such rows out by .filter() first.")
    return os.path.abspath(path)


def _kept(data: bytes, number: int, root: Path | None) -> str:
    """Write bytes to a file that is called by their digest, once, and return its path."""
    if root is None:
        raise ManifestError(
            f"{SOURCE}: row {number} holds an image's bytes; give root=, a folder into which such images are written."
        )
    name = hashlib.blake2b(data, digest_size=16).hexdigest()
    path = root / name[:2] / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{name}.{secrets.token_hex(4)}")
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return str(path)
