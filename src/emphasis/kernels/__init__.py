"""Fused kernels behind `emphasis.torch`: three ways to run them, each a `Backend`.

`native` is for the CPU, in C; `gpu` in Triton; `operators` runs anywhere. A loss of labels takes one sweep over memory,
from the weighting's table. Its two halves, `margins` and `derivative`, are for what lies between: weights that need
other ranks, or a formula that no table holds.
"""
