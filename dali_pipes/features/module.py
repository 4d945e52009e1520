"""A frozen module whose outputs are computed once a sample, in one `nn.Module`: keys, look-up, computing, keeping.

    inputs, ids ──> keys ──> store ──> hits ───────────────┐
     module ──> digest ─┘      └─────> misses ──> module ──┴─> output, in order
                                                   └─────> writer ──> store

- A sample's key is made of the module's digest (`digest`, `watch`), the state of autocast and default types, what the
  module is called with beside the samples (`inputs`), and the sample's name (`identity`).
- An output is taken apart into columns of one row a sample (`layout`), and each row is one entry of the store that
  images are kept in, too (`kept`). There is no other format, and nothing is unpickled.
- Hits are gathered a segment at a time; misses are computed together, each sample once, and written by a thread
  (`writer`).
"""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import nn

from dali_pipes import cache
from dali_pipes.errors import ConfigError, DaliPipesWarning
from dali_pipes.features import checks, inputs, kept
from dali_pipes.features.call import Call, digest_of_state, named_call
from dali_pipes.features.compute import Computer, Made, warn_of_structure
from dali_pipes.features.identity import Names, keys_of, names_of, source_of
from dali_pipes.features.layout import has_types, join
from dali_pipes.features.merge import merged
from dali_pipes.features.watch import ModuleWatch
from dali_pipes.features.wrapping import Wrapping
from dali_pipes.features.writer import Writer
from dali_pipes.fetch.fetcher import with_secret
from dali_pipes.loader.batch import Batch
from dali_pipes.loader.dataset import open_for_workers

PENDING = 256 << 20
"""Bytes of features that may wait to be written before a call waits for the writer."""

FORMAT = 1
"""Belongs into the keys; another one makes all that was kept before unreachable."""


class CachedModule(Wrapping):
    """A frozen module that computes the output of each sample once, for all epochs, folds, seeds and heads.

    >>> backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).requires_grad_(False)
    >>> cached = CachedModule(backbone, cache_mode="memory")
    >>> x = torch.rand(2, 3, 2, 2)
    >>> torch.equal(cached(x, cache_ids=["a", "b"]), cached(x.flip(0), cache_ids=["b", "a"]).flip(0))
    True
    >>> cached.stats()["computed"]
    2
    >>> cached.close()

    Call it with a `dp.Batch` alone, or as the module itself and with `cache_ids`. The ids are a text, a whole number or
    bytes for each sample. With a `Batch` everything that decides the pixels is in the keys: the source file's content,
    the recipe, and the draws of this epoch. With ids of your own it is your job that an id means the same data forever:
    put into it whatever changes the input (a version of the preprocessing, say). A `Batch` whose image you changed
    yourself needs ids of your own, too.

    The module is applied without gradients. Its results are tensors of their own on the device of the inputs. The mode
    of the module is left alone by `train()` of a model that contains this one; call `cached.module.train()` if you mean
    that. `state_dict()` is the module's own.

    Args:
        module: frozen: no parameter wants a gradient, and what behaves differently in training is in `eval()` mode.
        cache_dir: folder of the modes that persist; may be that of the images.
        cache_mode: one of `cache.MODES`.
        module_id: "auto" names the module by its weights, buffers, structure, code and settings, so that a changed one
            never gets old features. Any other text is taken for its name, and then you must change it with the module.
        key_from_batch: called with the first argument, gives the ids.
        enabled: False computes everything, as the module itself would; may be changed at any time.
        enforce_stateless: False allows trainable parameters (which get no gradients) and modules in training mode.
        async_write: write in a thread; False writes before a call returns.
        writer_rank: the only rank of a distributed run that writes; by default all do.
        check_batch: compute the first batch twice, once in two parts, to find modules that mix the samples of a batch.
        cache_options: further arguments of `cache.open_store`.

    Raises:
        ConfigError: an argument that cannot work, or a module that must not be cached; the message names what and why.
    """

    def __init__(
        self,
        module: nn.Module,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_mode: str = "pinned",
        *,
        module_id: str = "auto",
        key_from_batch: Callable[[Any], Any] | None = None,
        enabled: bool = True,
        enforce_stateless: bool = True,
        async_write: bool = True,
        writer_rank: int | None = None,
        check_batch: bool = True,
        cache_options: dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise ConfigError(f"CachedModule({type(module).__name__}): give an nn.Module.")
        if not isinstance(module_id, str) or not module_id:
            raise ConfigError(f'CachedModule(module_id={module_id!r}): give "auto" or a text that names the module.')
        if enforce_stateless:
            checks.check_stateless(module)
        super().__init__(module)
        self.enabled = enabled
        self._module_id, self._key_from_batch = module_id, key_from_batch
        self._enforce, self._async, self._writer_rank = enforce_stateless, async_write, writer_rank
        self._check_batch = check_batch
        self._store = open_for_workers(cache_mode, cache_dir, cache_options)
        self._begin()

    def _begin(self) -> None:
        """Make what belongs to this process."""
        store, secret = self._store, b""
        if store.persistent:
            store, secret = with_secret(store)
        options = store.options
        ledger = None
        if store.persistent and store.directory:
            shared: dict[str, Any] = {"read_only": options.read_only, "shared_group": options.shared_group}
            ledger = cache.PartsLedger(store.directory, secret=secret, **shared)
        self._kept = kept.Kept(store, secret, ledger)
        self._writer = Writer(self._kept.write, PENDING, inline=not self._async)
        self._watch = ModuleWatch(self.module) if self._module_id == "auto" else None
        self._computer = Computer(self.module, self._check_batch)
        self._unconfirmed: list[tuple[bytes, list[bytes]]] = []  # written since the weights were last read in full
        self._counts = dict.fromkeys(("hits", "misses", "repeated", "mixed"), 0)
        self._process = os.getpid()
        self._close = weakref.finalize(self, _close, self._process, self._writer, store, ledger)

    # -- calling ------------------------------------------------------------------------------------------------------

    def forward(self, *args: Any, cache_ids: Any = None, **kwargs: Any) -> Any:
        """Return the module's output for a batch, computing only what is not kept.

        Args:
            *args: the module's inputs, the samples in their first dimension; or one `dp.Batch`, whose image is the
                input.
            cache_ids: N texts, whole numbers or bytes; not needed for a `dp.Batch`.
            **kwargs: further inputs of the module.

        Raises:
            ConfigError: ids that do not fit, or an output that cannot be kept. Whatever went wrong in writing earlier
                features, once.
        """
        if not self.enabled:
            return self.module(*(each.image if isinstance(each, Batch) else each for each in args), **kwargs)
        call, names, ids = named_call(args, kwargs, cache_ids, self._key_from_batch)
        self._check_open()
        self._writer.check()
        inputs.check_gradients((call.args, call.kwargs))
        with torch.no_grad():
            if not names or self._kept.store.mode == "none":
                return self._computer.run(call)
            prefix, parts = self._prefix(call)
            return self._answer(call, names, ids, prefix, parts)

    def _prefix(self, call: Call) -> tuple[bytes, kept.Parts]:
        """32 bytes of the module and how it is called, and the parts that they are made of."""
        if self._watch is None:
            if self._enforce:
                checks.check_stateless(self.module)
        else:
            if self._watch.look() and self._enforce:
                checks.check_stateless(self.module)
            self._settle_silent()
        parts: dict[str, str | int | bytes] = {
            "module": self._module(),
            "state": digest_of_state(call.device),
            "call": inputs.call_digest((call.args, call.kwargs), call.count),
            "features": FORMAT,
        }
        return b"".join(cache.Key.of(b"", half=half, **parts).digest for half in (0, 1)), parts

    def _answer(self, call: Call, names: Names, ids: list[str], prefix: bytes, parts: kept.Parts) -> Any:
        keys = keys_of(names, prefix, self._kept.secret)
        number = {key: at for at, key in enumerate(dict.fromkeys(keys))}
        unique = list(number)
        found = [hits for hits in self._kept.read(prefix, unique) if has_types(hits.layout, self._computer.named)]
        sources = [(hits.at, hits.columns) for hits in found]
        there = {at for rows, _ in sources for at in rows}
        missing = [at for at in range(len(unique)) if at not in there]
        layouts = [hits.layout for hits in found]
        if missing:
            first = {key: at for at, key in reversed(list(enumerate(keys)))}
            rows = [first[unique[at]] for at in missing]
            made = self._compute(call, rows)
            self._keep(made, prefix, parts, [unique[at] for at in missing], [(names[row], ids[row]) for row in rows])
            layouts.append(made[0])
            sources.append((missing, made[1]))
        self._counts["hits"] += len(there)
        self._counts["misses"] += len(missing)
        self._counts["repeated"] += len(keys) - len(unique)
        if len({layout.digest for layout in layouts}) > 1:
            self._counts["mixed"] += 1
            if self._counts["mixed"] == 1:
                warn_of_structure()
            return self._computer.run(call)
        order = None if len(unique) == len(keys) else [number[key] for key in keys]
        columns = [
            merged([(at, columns[leaf]) for at, columns in sources], len(unique), order, call.device)
            for leaf in range(len(layouts[0].leaves))
        ]
        return join(layouts[0], columns, self._computer.named)

    def _compute(self, call: Call, rows: list[int]) -> Made:
        """Layout and columns of the samples at `rows`."""
        if len(rows) == call.count or not call.parts_are_clear:
            layout, columns = self._computer.columns(call)
            if len(rows) < call.count:
                columns = [kept.some(column, rows) for column in columns]
        else:
            layout, columns = self._computer.columns(call.some(torch.tensor(rows)))
        if self._watch is not None:
            changed = self._watch.after_computing(allowed=not self._enforce)
            self._settle_silent()
            if self._enforce:
                checks.refuse_changed(changed)
        return layout, columns

    def _keep(
        self, made: Made, prefix: bytes, parts: kept.Parts, keys: list[bytes], samples: list[tuple[bytes, str]]
    ) -> None:
        """Send samples, given as (name, id), on their way into the store."""
        if not self._writes():
            return
        if self._watch is not None:
            self._unconfirmed.append((prefix, keys))
        made_of: list[kept.Parts] = [{**parts, "source": source_of(name), "sample": name} for name, _ in samples]
        names, ids = [name for name, _ in samples], [each for _, each in samples]
        copies = [kept.on_cpu(column) for column in made[1]]
        batch = kept.Batch(prefix, keys, self._module(), names, ids, made[0], copies, made_of)
        self._kept.announce(batch)
        self._writer.submit(batch, kept.size_of(copies))

    def _module(self) -> bytes:
        """Return what names the module."""
        return self._module_id.encode() if self._watch is None else self._watch.digest

    def _writes(self) -> bool:
        if self._kept.store.options.read_only:
            return False
        return self._writer_rank is None or self._writer_rank == _rank()

    def _settle_silent(self) -> None:
        """Remove what was computed while the weights changed behind PyTorch's back."""
        watch = self._watch
        if watch is None or not watch.certain:
            return
        if watch.silent:
            self._writer.flush()
            for prefix, keys in self._unconfirmed:
                self._kept.delete(prefix, keys)
            warnings.warn(
                f"{watch.silent[0]} of the module was changed through .data or a NumPy view, which PyTorch does not "
                "notice at once: features computed since the weights were last read in full were removed. Change "
                "weights under torch.no_grad() by an operation in place, or with load_state_dict.",
                DaliPipesWarning,
                stacklevel=2,
            )
        self._unconfirmed.clear()

    # -- upkeep -------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Wait until every feature computed so far is published: other processes find it, and a kill does not lose it.

        Raises:
            cache.StoreIOError: some could not be written; or whatever else went wrong in writing.
        """
        self._check_open()
        if self._watch is not None:
            self._watch.confirm()
            self._settle_silent()
        self._writer.flush()

    def stats(self) -> dict[str, Any]:
        """Return counters of this instance, as plain JSON values.

        `hits`, `misses`: samples; `repeated`: further ones of the same id in one batch; `computed`: samples that the
        module was called with, and `checked`: those that it was called with once more to check it; `mixed`: batches
        that were computed anew because the structures of their samples differ; `pending`: batches that wait to be
        written; `module`: what names it in keys; `cache`: what the store counts.
        """
        module = self._module_id if self._watch is None else self._watch.digest.hex()
        counts = {**self._counts, "computed": self._computer.computed, "checked": self._computer.checked}
        return {**counts, "pending": self._writer.pending, "module": module, "cache": self._kept.store.stats()}

    def close(self) -> None:
        """Write what waits, and close the store. Raises as `flush` does; a second call does nothing."""
        if self._close.alive:
            try:
                self.flush()
            finally:
                self._close()

    def _check_open(self) -> None:
        if not self._close.alive:
            raise ConfigError("this CachedModule is closed: make a new one, or set enabled=False.")
        if self._process != os.getpid():
            self._begin()  # a forked child writes by a thread of its own

    def __enter__(self) -> CachedModule:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def explain(self, *args: Any, cache_ids: Any = None, **kwargs: Any) -> list[dict[str, Any]]:
        """Say of each sample of a call, given as to the module itself, whether it is kept, and if not, why not.

        Returns:
            For each sample `id`; `hit`; `noted`: how many entries were ever made of it here; and `parts`: `same`,
            `differs` or `unknown`, in comparison with the nearest of them, for `module`, `state` (autocast and types),
            `call` (the other inputs), `sample` (recipe and draws) and `features` (the format).
        """
        call, names, ids = named_call(args, kwargs, cache_ids, self._key_from_batch)
        self.flush()
        prefix, parts = self._prefix(call)
        found = self._kept.read(prefix, keys_of(names, prefix, self._kept.secret))
        there = {at for hits in found for at in hits.at}
        made_of = ({**parts, "source": source_of(name), "sample": name} for name in names)
        told = map(self._kept.explain, made_of)
        return [{"id": each, "hit": at in there, **why} for at, (each, why) in enumerate(zip(ids, told))]

    def to_arrow(self, path: str | os.PathLike[str], ids: Any = None) -> int:
        """Write the features that are kept of this module as a table; return how many rows.

        One row a sample: `id`, and a fixed-size list for each tensor of the output, named by where it lies in it
        (`feature` where the output is one tensor; `output.id` where a name is taken). bfloat16 and float8 become
        float32, exactly.

        Args:
            path: `.parquet`, or `.arrow` or `.feather` for Arrow's own file format.
            ids: which samples, in this order; all that are kept by default.

        Raises:
            ConfigError: nothing is kept, some of `ids` are not, or the features are not of one structure and shape.
        """
        from dali_pipes.features import export

        self.flush()
        return export.write(path, export.groups(self._kept, self._module(), None if ids is None else names_of(ids)))

    # -- as an nn.Module ----------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in _OF_PROCESS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._begin()

    def extra_repr(self) -> str:
        """Return what is said of this module in a model's description."""
        return f"cache={self._store.mode!r}, enabled={self.enabled}"


_OF_PROCESS = ("_kept", "_writer", "_watch", "_computer", "_unconfirmed", "_counts", "_close", "_process")


def _rank() -> int:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    return int(os.environ.get("RANK", "0"))


def _close(process: int, writer: Writer, store: cache.Store, ledger: cache.PartsLedger | None) -> None:
    if process == os.getpid():
        writer.close()
    if ledger is not None:
        ledger.close()
    store.close()
