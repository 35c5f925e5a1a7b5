"""Fused kernels behind `emphasis.torch`: one module for each way to run them, all with the same three functions.

`loss_and_derivative` does everything from a weighting's table in one sweep over memory; `margins` and
`write_derivative` are its two halves, between which the caller may do with the margins what it likes (batch
normalisation, a weighting without a table). logits are (outer, classes, ...), an example is one (outer, ...).
"""
