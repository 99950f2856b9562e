"""How much the tests do: everything in CI and with SLOW=1, otherwise what takes little time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest

CI = os.environ.get("CI") == "true"
EVERYTHING = CI or bool(os.environ.get("SLOW"))
COMPILES = os.environ.get("KERAS_BACKEND") != "torch"  # JAX and TensorFlow do
# Marks of a case that a backend compiles anew, where another case of the test has most of the law.
SLOW_TO_COMPILE = [pytest.mark.slow] if COMPILES else []


def examples(number: int, *, compiled: bool = False) -> int:
    """The number of examples of a costly test: a third, unless everything runs.

    ``compiled`` says that a backend which compiles does so anew for each example. There it is a
    ninth.
    """
    if EVERYTHING:
        return number
    return max(1, number // (9 if compiled and COMPILES else 3))


# The fewest updates of an epoch, and those that learn the metric of the analogues. Those of the
# library take two thirds of the time of a small fit.
FEW = (8, 30)


def _set_updates(updates: tuple[int, int]) -> tuple[int, int]:
    """Set the updates of fits in this process; returns what they were."""
    from statecast.forecast import analogues
    from statecast.networks import batches
    from statecast.tokens import batches as batches_of_tokens

    metric: Any = analogues._learnt_metric.__kwdefaults__
    before = batches.STEPS, metric["updates"]
    batches.STEPS = batches_of_tokens.STEPS = updates[0]
    metric["updates"] = updates[1]
    return before


@cache
def few_updates() -> tuple[int, int]:
    """Let fits have few updates; returns those of the library."""
    return _set_updates(FEW)


@contextmanager
def all_updates() -> Iterator[None]:
    """Fits have the updates of the library: for tests of how good a forecast is."""
    if EVERYTHING:
        yield
        return
    _set_updates(few_updates())
    try:
        yield
    finally:
        _set_updates(FEW)


TF32 = 2.0**-10  # the relative rounding of factors in the products of a GPU


@cache
def has_gpu() -> bool:
    """Whether the backend of this process computes on a GPU."""
    import keras

    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.is_available()
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() == "gpu"
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def on_gpu(tensor: Any) -> bool:
    """Whether a tensor is in the memory of a GPU."""
    return any(name in str(tensor.device).lower() for name in ("cuda", "gpu"))
