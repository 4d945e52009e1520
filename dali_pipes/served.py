"""What a recipe makes of single files; `Recipe` inherits it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch

if TYPE_CHECKING:
    from dali_pipes.recipe import Recipe
    from dali_pipes.serving import Source


class Served:
    """Files to tensors, without a manifest."""

    def tensor(self, source: Source, frame: int = 0, *, sandbox: bool = False) -> torch.Tensor:
        """Return what a model saw of a file in training, for serving: no manifest, no cache, safe in any thread.

        Without what varies at random: as from `Loader` with this recipe under `augment=None`, bit for bit. Keep a
        `serving.Serving` where files come from strangers, so that their child processes are kept, too.

        Args:
            source: a file's bytes, its path, or decoded pixels, uint8 or uint16 [H, W], [H, W, 1] or [H, W, 3].
            frame: which frame of the file.
            sandbox: decode in a child process with limits of time and memory.

        Returns:
            [C, H, W] of the recipe's output type.

        Raises:
            DecodeError: it cannot be decoded. OSError: it cannot be read.
        """
        return self.batch([source], [frame], sandbox=sandbox)[0]

    def batch(
        self, sources: Sequence[Source], frames: Sequence[int] | None = None, *, sandbox: bool = False
    ) -> torch.Tensor:
        """Return `tensor` of several files, decoded side by side: [N, C, H, W].

        Args:
            sources: as for `tensor`.
            frames: one of each; frame 0 by default.
            sandbox: as for `tensor`.

        Raises:
            DecodeError: one of them cannot be decoded; the message says which.
        """
        from dali_pipes.serving import Serving

        with Serving(cast("Recipe", self), sandbox=sandbox) as serving:
            return serving.batch(sources, frames)
