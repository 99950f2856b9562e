"""The native kernel: the library of ``native/`` in JAX, in PyTorch and on NumPy arrays."""
