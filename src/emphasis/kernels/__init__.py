"""Fused kernels of `emphasis.torch`, in three implementations of the protocol `Backend`.

`native` has kernels for the CPU in C, `gpu` kernels in Triton, and `operators` torch operators for all devices. A loss
of labels takes one sweep over memory and the table of the weighting. Where weights need other ranks or a formula, they
are computed between its two halves, `margins` and `derivative`.
"""
