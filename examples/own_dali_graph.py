"""A DALI pipeline of one's own over our cache: our base images and bits, DALI's operators after them.

    python examples/own_dali_graph.py train.csv archive cache-dir

On a GPU give `device_id=0`: the same graph, on the GPU from `there` on.
"""

import sys
from typing import Any

from nvidia.dali import fn, pipeline_def
from nvidia.dali.plugin.pytorch import DALIGenericIterator, LastBatchPolicy

import dali_pipes as dp
from dali_pipes.dali import Source, finish


def pipeline(source: Source, recipe: dp.Recipe, batch_size: int, device_id: int | None = None) -> Any:
    """The cache, the recipe's own steps, and then an operator that no recipe has: squares cut out of the picture."""

    def there(node: Any) -> Any:
        return node if device_id is None else node.gpu()

    @pipeline_def(batch_size=batch_size, num_threads=2, device_id=device_id, exec_dynamic=True)
    def graph() -> Any:
        given = source.nodes()
        whole = finish(there(given["image"]), recipe, given)
        cut = fn.erase(whole, anchor=[0.25, 0.25], shape=[0.5, 0.5], axis_names="HW", normalized=True, fill_value=0.0)
        return whole, cut, there(given["label"]), there(given["index"])

    return graph()


def epochs(manifest: dp.Manifest, cache_dir: str, recipe: dp.Recipe, count: int = 2, batch_size: int = 4) -> list[Any]:
    """The batches of some epochs, by DALI's iterator for PyTorch; the first fills the cache, the others read it."""
    with Source(
        manifest, recipe, batch_size=batch_size, cache_mode="pinned", cache_dir=cache_dir, shuffle=True, seed=1
    ) as source:
        batches = DALIGenericIterator(
            [pipeline(source, recipe, batch_size)],
            ["whole", "cut", "label", "index"],
            last_batch_policy=LastBatchPolicy.PARTIAL,
            auto_reset=True,  # and the next epoch has another order
        )
        return [[batch[0] for batch in batches] for _ in range(count)]


if __name__ == "__main__":
    table, root, folder = sys.argv[1:]
    chosen = dp.Recipe(size=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), augment=dp.Augment(0.5))
    for epoch in epochs(dp.Manifest.from_csv(table, root=root), folder, chosen):
        print(sum(len(batch["label"]) for batch in epoch), "samples")
