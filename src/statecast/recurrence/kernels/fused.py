"""The fused kernel: the backend's own recurrence over a whole sequence.

On PyTorch it is ``torch.lstm``, ``torch.gru`` or ``torch.rnn_tanh`` (cuDNN on GPUs, ATen on CPUs).
On JAX and TensorFlow it is cuDNN through Keras, on a GPU only, where Keras would use it. Only this
module uses Keras's private names for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from statecast.recurrence.cells import GRU, LSTM, SimpleRNN

if TYPE_CHECKING:
    from statecast.recurrence.problem import Problem

name = "fused"


def declines(problem: Problem) -> str | None:
    """Why this kernel cannot run ``problem`` on the current backend; None where it can."""
    import keras

    backend = keras.backend.backend()
    cell: Any = problem.cell
    kinds = {"jax": (LSTM,), "tensorflow": (LSTM, GRU), "torch": (LSTM, GRU, SimpleRNN)}[backend]
    if type(cell) not in kinds:
        return f"{backend} has no fused {type(cell).__name__}"
    if len(problem.x.shape) != 3:
        return "it does not run ensembles"
    if problem.x.shape[-2] == 0:
        return "there are zero steps"
    if problem.resets is not None:
        return "the state is reset inside the sequence"
    if problem.unroll:
        return "unroll was asked for"
    if problem.mask is not None and backend != "tensorflow":
        return f"{backend} has no fused kernel with a mask"
    wanted = ("tanh", "relu") if isinstance(cell, SimpleRNN) else ("tanh",)
    if cell.activation not in wanted:
        return f"the activation is {cell.activation!r}, not {' or '.join(map(repr, wanted))}"
    recurrent = getattr(cell, "recurrent_activation", "sigmoid")
    if recurrent != "sigmoid":
        return f"the recurrent activation is {recurrent!r}, not 'sigmoid'"
    if not getattr(cell, "reset_after", True):
        return "reset_after is False"
    return _torch_declines(problem) if backend == "torch" else _cudnn_declines(cell)


def run(problem: Problem) -> tuple[Any, dict[str, Any]]:
    """All steps of ``problem``: outputs ``(rows, steps, units)`` and the leaves after them."""
    import keras

    return _torch_run(problem) if keras.backend.backend() == "torch" else _cudnn_run(problem)


# -- PyTorch --------------------------------------------------------------------------------


def _torch_declines(problem: Problem) -> str | None:
    import torch
    from torch.autograd import forward_ad

    if torch.compiler.is_compiling():
        return "torch.compile or torch.export is tracing"
    if forward_ad._current_level >= 0:
        return "it has no derivatives in forward mode"
    device, dtype = str(getattr(problem.x, "device", "")), problem.x.dtype
    if device == "meta":
        return "shapes are only being inferred"
    if not torch.cuda.is_available() and str(dtype).removeprefix("torch.") not in (
        "float32",
        "float64",
    ):
        return f"{dtype} has no fused kernel on a CPU"
    if torch.onnx.is_in_onnx_export() and str(dtype) != "torch.float32":
        return f"ONNX Runtime has no recurrence in {dtype}"
    return None


def _torch_run(problem: Problem) -> tuple[Any, dict[str, Any]]:
    import torch

    cell: Any = problem.cell
    weights, x = problem.weights, problem.x
    leaves = {leaf: value.to(x.dtype)[None] for leaf, value in problem.state.items()}
    bias = weights.get("bias")
    if isinstance(cell, GRU):
        kernels = [_reset_first(weights[n]).T for n in ("kernel", "recurrent_kernel")]
        biases = [] if bias is None else list(_reset_first(bias))
    else:
        kernels = [weights[n].T for n in ("kernel", "recurrent_kernel")]
        biases = [] if bias is None else [bias, torch.zeros_like(bias)]
    parameters = [w.to(x.dtype).contiguous() for w in (*kernels, *biases)]
    # has_biases, layers, dropout, train (cuDNN saves what backward needs), bidirectional,
    # batch_first. A trace may be differentiated later.
    tracing = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    train = torch.is_grad_enabled() or tracing
    options = (bool(biases), 1, 0.0, train, False, True)
    if isinstance(cell, LSTM):
        y, h, c = torch.lstm(x, (leaves["h"], leaves["c"]), parameters, *options)
        return y, {"h": h[0], "c": c[0]}
    if isinstance(cell, GRU):
        recurrence = torch.gru
    else:
        recurrence = torch.rnn_tanh if cell.activation == "tanh" else torch.rnn_relu
    y, h = recurrence(x, leaves["h"], parameters, *options)
    return y, {"h": h[0]}


def _reset_first(weight: Any) -> Any:
    """Columns from Keras's order z, r, h to PyTorch's r, z, h."""
    import torch

    z, r, h = torch.chunk(weight, 3, dim=-1)
    return torch.cat([r, z, h], dim=-1)


# -- JAX and TensorFlow: cuDNN through Keras -------------------------------------------------


def _cudnn_declines(cell: Any) -> str | None:
    if not cell.use_bias:
        return "cuDNN needs a bias"
    if not _keras_backend().cudnn_ok(
        **_activations(),
        unroll=False,
        use_bias=True,
        **({"reset_after": True} if isinstance(cell, GRU) else {}),
    ):
        return "there is no GPU with cuDNN"
    return None


def _cudnn_run(problem: Problem) -> tuple[Any, dict[str, Any]]:
    from keras import ops
    from keras.backend import standardize_dtype

    backend, mask = _keras_backend(), problem.mask
    dtype = standardize_dtype(problem.x.dtype)  # cuDNN has one for all
    state = {leaf: ops.cast(value, dtype) for leaf, value in problem.state.items()}
    weights = {name: ops.cast(weight, dtype) for name, weight in problem.weights.items()}
    options = weights | _activations() | {"return_sequences": True}
    if isinstance(problem.cell, LSTM):
        _, y, (h, c) = backend.lstm(problem.x, state["h"], state["c"], mask, **options)
        after = {"h": h, "c": c}
    else:
        _, y, (h,) = backend.gru(problem.x, state["h"], mask, reset_after=True, **options)
        after = {"h": h}
    if mask is not None:  # after a row's end cuDNN gives zeros; here the last output repeats
        y = ops.where(mask[..., None], y, h[:, None])
    return y, after


def _keras_backend() -> Any:
    from keras.src import backend

    return backend


def _activations() -> dict[str, Any]:
    import keras

    return {
        "activation": keras.activations.tanh,
        "recurrent_activation": keras.activations.sigmoid,
    }
