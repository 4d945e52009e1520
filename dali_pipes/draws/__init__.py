"""Every random number of the product, as plain data drawn on the host.

numbers     random bits as pure functions of (seed, epoch, operation, sample)
augment     what varies, as data
draw        the numbers of a batch
"""

from dali_pipes.draws.augment import NOTHING, Augment
from dali_pipes.draws.draw import Draws, draw, repeated
from dali_pipes.draws.numbers import random_bits, seeded, uniform

__all__ = ["NOTHING", "Augment", "Draws", "draw", "random_bits", "repeated", "seeded", "uniform"]
