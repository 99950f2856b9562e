"""Cells, the function that runs them over a sequence, and its kernels."""
