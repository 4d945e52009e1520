"""Do all backends give the same bits on these samples? And if not: where does it begin, and by how much?

stages        what a recipe is cut into, and each stage's output, sample by sample
decoding      the first stage: whole files, by each backend's decoder
tally         two outputs, compared bit for bit and summed up
compare       all backends, all stages: a `Verdict`
usual         the usual torchvision pipeline, written with Pillow and PyTorch
against       why that pipeline gives other numbers than ours
golden        digests of every stage, to be compared on another machine
pictures      a worst sample, side by side, with a map of the difference
report        all of it as one HTML file
fingerprint   digests of batches
"""

from dali_pipes.parity.against import Cause, Explanation, explain
from dali_pipes.parity.compare import GPU_BOUND, StageResult, Verdict, compare
from dali_pipes.parity.fingerprint import Fingerprint, fingerprint
from dali_pipes.parity.tally import Difference, Worst
from dali_pipes.parity.usual import USUAL, Usual

__all__ = [
    "GPU_BOUND",
    "USUAL",
    "Cause",
    "Difference",
    "Explanation",
    "Fingerprint",
    "StageResult",
    "Usual",
    "Verdict",
    "Worst",
    "compare",
    "explain",
    "fingerprint",
]
