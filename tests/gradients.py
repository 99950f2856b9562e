"""Gradients on whichever backend the tests run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from keras import backend, ops


def gradients(loss: Callable[[Any], Any], named: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of ``loss(named)``, a scalar, with respect to each array, taken as float32."""
    arrays = {name: array.astype("float32") for name, array in named.items()}
    found: Any
    if backend.backend() == "jax":
        import jax
        from keras import StatelessScope

        def stateless(arrays: Any) -> Any:
            with StatelessScope():  # a current state would not outlive the transformation
                return loss(arrays)

        found = jax.jit(jax.grad(stateless))(arrays)
    elif backend.backend() == "torch":
        import torch

        tensors = {n: torch.tensor(a, requires_grad=True) for n, a in arrays.items()}
        loss(tensors).backward()
        found = {name: tensor.grad for name, tensor in tensors.items()}
    else:
        import tensorflow as tf

        tensors = {name: tf.constant(array) for name, array in arrays.items()}
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            total = loss(tensors)
        found = tape.gradient(total, tensors)
    return {name: ops.convert_to_numpy(gradient) for name, gradient in found.items()}
