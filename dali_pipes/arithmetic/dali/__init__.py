"""NVIDIA DALI's own arithmetic, written again in PyTorch.

One module an operator family; each module's docstring is the specification of what DALI computes, in which order and
with which roundings. `dali_pipes.arithmetic.dali_cpu` and `dali_pipes.arithmetic.dali_gpu` are the two entries.

All images are channel-last (`HWC`), as DALI holds them. The tests compare every function with the installed DALI.
"""
