"""Which samples exist: `Manifest`, how it is read from tables, folders and data sets, and how it is split."""

from dali_pipes.manifest.manifest import Manifest, Sample

__all__ = ["Manifest", "Sample"]
