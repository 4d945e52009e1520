"""The luma of ITU-R BT.601: how much each primary gives to gray. Every weight in the package comes from here."""

LUMA = (0.299, 0.587, 0.114)
"""Of red, green and blue; they sum to 1."""

LUMA_BITS = 16
LUMA_FIXED = (19595, 38470, 7471)
"""The same in `LUMA_BITS` fractional bits, as Pillow's `convert("L")` has them; they sum to 2**16, so that white stays
white.
"""
