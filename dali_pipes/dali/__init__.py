"""For DALI pipelines of your own: our samples, cache and bits, with your operators after them.

`Source` is what `fn.external_source` calls: it gives base images from the cache (decoded and kept where they are not in
it yet), labels and sample numbers. `finish` and its parts do to a batch in the graph what a `Loader` does, with the
same bits; `decode_resize` makes base images of JPEGs that a reader of DALI's gives.

    from nvidia.dali import pipeline_def

    source = Source(manifest, recipe, batch_size=32, cache_mode="pinned", cache_dir="cache", shuffle=True)

    @pipeline_def(batch_size=32, num_threads=4, device_id=0, exec_dynamic=True)
    def training():
        given = source.nodes()
        image = finish(given["image"].gpu(), recipe, given)
        return my_operators(image), given["label"].gpu(), given["index"]
"""

from dali_pipes.dali.source import Source
from dali_pipes.dali.steps import decode_resize, finish, normalise, vary

__all__ = ["Source", "decode_resize", "finish", "normalise", "vary"]
