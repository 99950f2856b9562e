"""A stateful layer runs once in a run of its model: what would run it a second time.

Gradient checkpointing runs a forward pass again for the backward pass. The second run of a stateful
layer would start from the state after the first run, and change it again. Within
``keras.RematScope`` a layer therefore computes only its steps again, from the same start. Any other
second run is refused (docs/decisions/0016-a-stateful-layer-is-not-run-twice.md).
"""

from __future__ import annotations

import math
import sys
from functools import wraps
from typing import Any, NoReturn

import keras
from keras import tree
from keras.src.backend.common.global_state import get_global_attribute
from keras.src.backend.common.stateless_scope import get_stateless_scope, in_stateless_scope

from statecast.errors import StateError
from statecast.layers.keras_cells import flat_shapes

# -- within keras.RematScope ------------------------------------------------------------------


def rematerializes(layer: Any, shape: Any) -> bool:
    """Whether ``keras.RematScope`` asks that the steps of a layer over inputs of ``shape`` are
    computed again in the backward pass."""
    scope = layer._remat_mode
    if scope is None:
        return False
    if scope.mode == "list_of_layers":
        return layer.name in scope.layer_names
    if scope.mode == "larger_than":
        # An unknown axis counts as 1.
        shapes = flat_shapes(layer.compute_output_shape(tuple(shape)))
        values = sum(math.prod(size or 1 for size in shape) for shape in shapes)
        return values > scope.output_size_threshold
    return scope.mode == "full"


def recomputed(run: Any) -> Any:
    """``recurrence.run`` that saves nothing of its steps for the backward pass, and computes them
    again there."""

    def run_again(cell: Any, weights: Any, x: Any, start: Any, **options: Any) -> Any:
        initial = options.pop("initial") or {}
        floats = {"weights": weights, "x": x, "start": start, "initial": initial}
        after: list[str] = []

        def steps(*tensors: Any) -> tuple[Any, ...]:
            # tf.recompute_grad takes a flat list of tensors.
            now = tree.pack_sequence_as(floats, list(tensors))
            options["initial"] = now["initial"] or None
            y, leaves = run(cell, now["weights"], now["x"], now["start"], **options)
            after[:] = leaves
            return (y, *leaves.values())

        y, *leaves = keras.remat(steps)(*tree.flatten(floats))
        return y, dict(zip(after, leaves, strict=True))

    return run_again


def rematerialize_stateful_layers_alone(kind: type) -> None:
    """Keep ``keras.RematScope`` from running a model twice that contains a stateful layer of this
    kind. The layers within compute their own steps again."""
    again = keras.layers.Layer.rematerialized_call

    @wraps(again)
    def rematerialized_call(layer: Any, layer_call: Any, *args: Any, **kwargs: Any) -> Any:
        inner = layer._flatten_layers()
        if any(isinstance(part, kind) and part.stateful for part in inner):
            return layer_call
        return again(layer, layer_call, *args, **kwargs)

    keras.layers.Layer.rematerialized_call = rematerialized_call


# -- any other second run ------------------------------------------------------------------


def refuse_second_run(layer: Any) -> None:
    """Refuse a call of a stateful layer that is not its only one in a run of its model.

    Raises
    ------
    StateError
        The call will run a second time for the gradients, or the model uses the layer twice.
    """
    again = _recomputation()
    if again is not None:
        raise StateError(
            f"layer {layer.name!r} is stateful and runs inside {again}, which runs it a second "
            "time for the gradients. The second run would start from the state after the "
            "first, and change it again. Make the layer within keras.RematScope('full'), "
            "which computes its steps again from the same start, or make it with "
            "stateful=False and pass initial_state= in the call."
        )
    if _called_before(layer) and len(layer._inbound_nodes) > 1:
        _refuse_several_uses(layer)
    refuse_several_uses(outermost_layer() or layer, layer)


def refuse_several_uses(model: Any, layer: Any) -> None:
    """Refuse a stateful layer that one run of ``model`` runs more than once.

    Raises
    ------
    StateError
        The model uses the layer twice, or has it in ``TimeDistributed``, which runs it once for
        each slice.
    """
    if _uses(model, layer) > 1:
        _refuse_several_uses(layer)


def _refuse_several_uses(layer: Any) -> NoReturn:
    raise StateError(
        f"layer {layer.name!r} is stateful and is used more than once in one model, or is in "
        "TimeDistributed, which runs it for each slice. It has one state, and which of the calls "
        "comes first is not defined. Make a layer for each call; RNN(layer.cell, stateful=True) "
        "shares the weights. In TimeDistributed use stateful=False."
    )


def _uses(operation: Any, layer: Any) -> int:
    """How often one run of ``operation`` runs ``layer``, as far as Keras's graphs tell; 2 stands
    for more."""
    if operation is layer:
        return 1
    if isinstance(operation, keras.layers.TimeDistributed):
        return 2 * _uses(operation.layer, layer)
    graph = getattr(operation, "_functional", None) or operation
    depths = getattr(graph, "_nodes_by_depth", None)
    if depths is not None:
        return sum(_uses(node.operation, layer) for nodes in depths.values() for node in nodes)
    return sum(_uses(inner, layer) for inner in getattr(operation, "_layers", []))


def _called_before(layer: Any) -> bool:
    """Whether a layer was called before in this compiled step of JAX, where a layer does not know
    which model runs it. False outside such a step. Records the call.
    """
    scope = get_stateless_scope()
    if scope is None:
        return False
    called = vars(scope).setdefault("_statecast_called", set())
    before = id(layer) in called
    called.add(id(layer))
    return before


def outermost_layer() -> Any:
    """The layer or model whose call contains the running one; None within a call of a layer's
    ``call`` by itself.

    Not with Keras's ``_get_call_context``: it would start a call, which would then never end.
    """
    context = get_global_attribute("current_call_ctx")
    return None if context is None else context.entry_layer


def _recomputation() -> str | None:
    """What will run the calling code a second time in the backward pass, or records it; None where
    nothing does.

    No framework has a function for this, so the stack's frames are searched, which takes a few
    microseconds.
    """
    backend = keras.backend.backend()
    if backend == "torch":
        import torch
        from torch.utils import checkpoint

        if torch._C._current_graph_task_id() != -1:
            return "a backward pass"
        file, function, name = checkpoint.__file__, "", "torch.utils.checkpoint"
    elif backend == "jax":
        if not in_stateless_scope():
            return None  # outside of a scope a traced state is refused anyway
        file, function, name = "ad_checkpoint.py", "", "jax.checkpoint"
    else:
        file, function, name = "custom_gradient.py", "recompute_grad", "tf.recompute_grad"
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "stateless_call":  # it takes a state and returns one: no side effect
            return None
        if code.co_filename.endswith(file) and code.co_qualname.startswith(function):
            return name
        frame = frame.f_back
    return None
