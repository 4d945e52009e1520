"""What the training loop receives.

To add a field, add it to the dataclass with `None` as its default, say in `Attributes` what it holds, and pass it where
`Epoch` makes the batch. Everything else follows from the dataclass's fields: a field that is None is not there, and
tensors anywhere inside the others (in lists and dictionaries, too) move with the batch.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch.utils import _pytree

from dali_pipes.fetch.made import Digests
from dali_pipes.loader import display


class _Matrix:
    """Makes `Batch.matrix` of a function when it is first read."""

    def __get__(self, batch: Batch | None, owner: type) -> torch.Tensor | None:
        if batch is None:
            return None  # the field's default
        held = batch.__dict__.get("matrix")
        if held is None and (where := batch.__dict__.get(_WHERE)) is not None:
            held = batch.__dict__["matrix"] = where().to(batch.image.device)
        return held

    def __set__(self, batch: Batch, matrix: torch.Tensor | None) -> None:
        batch.__dict__["matrix"] = matrix


_WHERE = "_where"


@dataclass(frozen=True, eq=False)
class Batch:
    """N samples. Iterating gives image and label; it also reads as a mapping, and is a pytree of PyTorch.

    >>> batch = Batch(torch.zeros(2, 3, 4, 4), torch.tensor([0, 1]), torch.tensor([5, 6]), ["a", "b"])
    >>> images, labels = batch
    >>> labels is batch["label"] is dict(batch)["label"]
    True

    Attributes:
        image: float32[N, C, H, W], or the recipe's `dtype`, normalised; uint8 or uint16 where the recipe has no mean.
        label: int64[N]; -1 where a sample has none.
        index: int64[N], positions in the manifest.
        id: N names, as in the manifest.
        valid: bool[N], False where a sample is a repetition: one that fills ranks or batches to one size, or
            that stands in for another which could not be decoded. Leave those out of a metric.
        matrix: float64[N, 2, 3], where source pixels went: (x, y, 1) in pixels of the decoded source, centres at
            halves, to (x, y) of the output; see `transform_points`. With K views [N, K, 2, 3], as `image` is
            [N, K, C, H, W] then. Without `Loader(matrix=True)` it is computed when it is first read, and no key before
            that; None where the sizes of sources are not known (recipes without crops, base size and masks).
        digest: N times 32 bytes that change whenever a sample's pixels may: the first 16 name the content of its
            source file, the others the frame, the recipe and the draws that took effect. Computed when first read. An
            attribute only, not one of the mapping's keys. If you change the image yourself, they do not name it any
            more.
        target: the manifest's targets, by name: float32[N], NaN where a sample lacks one.
        mask: uint8[N, H, W], class numbers, where the manifest has a column `mask`: moved as the image is, by nearest
            neighbours. With K views [N, K, H, W].
        present: bool[N, V], of studies (`Manifest.studies`), whose image is [N, V, C, H, W] ([N, K, V, C, H, W] with K
            views, and the others alike): False where a study has no image, and a black one, changed and normalised
            as the others are, stands for it.
    """

    image: torch.Tensor
    label: torch.Tensor
    index: torch.Tensor
    id: list[str]
    valid: torch.Tensor | None = None
    matrix: torch.Tensor | None = _Matrix()  # type: ignore[assignment]
    digest: Sequence[bytes] | None = None
    target: dict[str, torch.Tensor] | None = None
    mask: torch.Tensor | None = None
    present: torch.Tensor | None = None

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter((self.image, self.label))

    def __len__(self) -> int:
        return len(self.id)

    def keys(self) -> tuple[str, ...]:
        """Return the names of the fields that are there."""
        return tuple(
            each.name for each in fields(self) if each.name != "digest" and self.__dict__[each.name] is not None
        )

    def values(self) -> tuple[Any, ...]:
        """Return the fields that are there, in the order of `keys`."""
        return tuple(getattr(self, name) for name in self.keys())

    def items(self) -> tuple[tuple[str, Any], ...]:
        """Return (name, field) for the fields that are there."""
        return tuple(zip(self.keys(), self.values()))

    def __getitem__(self, name: str) -> Any:
        if name not in self and (name != "matrix" or self.matrix is None):  # which may be made now
            raise KeyError(f"{name!r}; a batch has {', '.join(self.keys())}")
        return getattr(self, name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the field of that name, or `default` where there is none."""
        return self[name] if name in self or (name == "matrix" and self.matrix is not None) else default

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    def to(
        self,
        *args: torch.device | torch.dtype | str | int | bool,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        memory_format: torch.memory_format | None = None,
        non_blocking: bool = False,
    ) -> Batch:
        """Return the batch on another device, its image in another type or memory format.

        Args:
            *args: a device, a dtype, `non_blocking` (a bool), in this order, as `torch.Tensor.to` takes them.
            device: where all tensors go.
            dtype: of the image alone.
            memory_format: of the image alone, for example `torch.channels_last`.
            non_blocking: do not wait for copies from pinned memory.

        Raises:
            TypeError: an argument that is neither a device nor a dtype.
        """
        for given in args:
            if isinstance(given, torch.dtype):
                dtype = given
            elif isinstance(given, bool):
                non_blocking = given
            elif isinstance(given, (torch.device, str, int)):
                device = given
            else:
                raise TypeError(f"Batch.to({given!r}): give a device, a torch.dtype, or both.")
        moved = self if device is None else self._each(lambda t: t.to(device, non_blocking=non_blocking))
        if dtype is None and memory_format is None:
            return moved
        layout = torch.preserve_format if memory_format is None else memory_format
        image = moved.image.to(dtype or moved.image.dtype, non_blocking=non_blocking, memory_format=layout)
        return moved._with(image=image)

    def cuda(self, device: torch.device | str | int | None = None, non_blocking: bool = False) -> Batch:
        """Return the batch on a CUDA device, by default the current one."""
        return self.to("cuda" if device is None else device, non_blocking=non_blocking)

    def cpu(self) -> Batch:
        """Return the batch in main memory."""
        return self.to("cpu")

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory; itself on a machine without an accelerator, which has none."""
        if not torch.accelerator.is_available():
            return self
        return self._each(lambda t: t if t.device.type != "cpu" or t.is_pinned() else t.pin_memory())

    def show(self) -> Any:
        """Open the images in the system's viewer and return them as one picture, a `PIL.Image.Image`."""
        picture = display.sheet(self.image)
        picture.show()
        return picture

    def locating(self, where: Callable[[], torch.Tensor]) -> Batch:
        """Return the batch with a function that makes its `matrix`, called when that is first read."""
        self.__dict__[_WHERE] = where
        return self

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        return self._with(**{name: _pytree.tree_map_only(torch.Tensor, change, value) for name, value in self.items()})

    def _with(self, **values: Any) -> Batch:
        """Return a batch with other fields; a matrix that nobody asked for yet stays so."""
        moved = replace(self, **{"matrix": self.__dict__["matrix"], **values})
        return moved.locating(self.__dict__[_WHERE]) if _WHERE in self.__dict__ else moved

    def _repr_png_(self) -> bytes:
        return display.png(display.sheet(self.image))

    def _repr_html_(self) -> str:
        data = base64.b64encode(self._repr_png_()).decode()
        more = "" if len(self) <= display.SHOWN else f"<p>The first {display.SHOWN} of {len(self)} images.</p>"
        return f'<code>{display.escape(repr(self))}</code>{more}<br><img src="data:image/png;base64,{data}">'

    def __repr__(self) -> str:
        kind = str(self.image.dtype).removeprefix("torch.")
        return f"Batch(image={kind}{list(self.image.shape)} on {self.image.device}, label={self.label.tolist()})"


Context = tuple[tuple[str, ...], tuple[str, ...], Digests | tuple[bytes, ...] | None]
"""Names of the fields that hold tensors; `id` and `digest`, which hold none."""


def _flatten(batch: Batch) -> tuple[list[Any], Context]:
    there = {name: value for name, value in batch.items() if name != "id"}
    digest = batch.digest if batch.digest is None or isinstance(batch.digest, Digests) else tuple(batch.digest)
    return list(there.values()), (tuple(there), tuple(batch.id), digest)


def _unflatten(values: Any, context: Context) -> Batch:
    names, ids, digest = context
    return Batch(**dict(zip(names, values)), id=list(ids), digest=list(digest) if isinstance(digest, tuple) else digest)


def _flatten_with_keys(batch: Batch) -> tuple[list[tuple[Any, Any]], Context]:
    values, context = _flatten(batch)
    return [(_pytree.GetAttrKey(name), value) for name, value in zip(context[0], values)], context


_pytree.register_pytree_node(
    Batch,
    _flatten,
    _unflatten,
    serialized_type_name="dali_pipes.Batch",
    flatten_with_keys_fn=_flatten_with_keys,
)
