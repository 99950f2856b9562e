"""The rows of ``benchmarks/speed.py``: for each kind of row, the sides that do its work."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import numpy as np

SHAPES = ("32, 30, 4, 32", "256, 30, 4, 64", "256, 30, 4, 128", "1024, 30, 4, 128",
          "64, 100, 8, 256")  # fmt: skip
LEAST, MOST = 3, 25  # turns
REST = 0.02  # seconds before a turn
# Sides that are no peers, but parts of the work that no peer can do without.
PRODUCTS, IDLE, DENSE = "matrix products", "an idle Keras layer", "Dense alone on PyTorch"
BACKENDS = {"jax": "JAX", "torch": "PyTorch", "tensorflow": "TensorFlow"}
Times = dict[str, list[float]]  # of each side, those of one turn at the same place
left_out: set[str] = set()  # peers that are not installed


@dataclass(frozen=True)
class Side:
    """A way to do a row's work. One call does it ``per`` times."""

    name: str
    call: Callable[[], Any]
    per: float = 1.0


def turns(
    prepare: Callable[[str], list[Side]], clock: Callable[[], float] = time.perf_counter
) -> Callable[[str, float], Times]:
    """Return the function that measures a row: the sides take turns for some seconds.

    Before a turn the threads of the side before come to rest: those of OpenMP and of ONNX Runtime
    at first wait without sleeping, on the core that the other side needs. A turn is one call that
    is not counted, which finds the caches full of another side's numbers and its own threads
    asleep, and then as many calls as take 5 ms. A call of more than 0.1 s is counted at once.
    """

    def measure(row: str, seconds: float) -> Times:
        sides = prepare(row)
        times: Times = {side.name: [] for side in sides}
        for side in sides:
            side.call()
            side.call()
        until = time.perf_counter() + seconds
        for turn in range(MOST):
            if turn >= LEAST and time.perf_counter() > until:
                break
            for side in sides:
                time.sleep(REST)
                if not times[side.name] or times[side.name][-1] * side.per < 100:
                    side.call()
                calls, start = 0, clock()
                while clock() - start < 5e-3:
                    side.call()
                    calls += 1
                times[side.name].append(1e3 * (clock() - start) / calls / side.per)
        return times

    return measure


def numbers(row: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", row)]


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype("float32")


def threads() -> int:
    return int(os.environ.get("STATECAST_THREADS", "2"))


def installed(package: str) -> bool:
    """Whether a peer is installed; the run names it otherwise."""
    if find_spec(package) is None:
        left_out.add(package)
    return package not in left_out


def torch() -> Any:
    import torch

    torch.set_num_threads(threads())
    return torch


# -- a layer in PyTorch --------------------------------------------------------------------------


def operation(row: str, *, infer: bool = False, products: bool = True) -> list[Side]:
    """The bare operation, beside PyTorch's layer, and beside as many operations in products."""
    from statecast import cells
    from statecast.recurrence import run as recurrence

    pt, kind = torch(), row.split()[0]
    rows, steps, inputs, units = numbers(row)
    cell = getattr(cells, kind)(units)
    shapes = cell.weight_shapes(inputs)
    weights = {n: pt.tensor(draw(*s) * 0.1, requires_grad=not infer) for n, s in shapes.items()}
    x, gradient = pt.tensor(draw(rows, steps, inputs)), pt.tensor(draw(rows, steps, units))
    state = {leaf: pt.zeros(rows, units) for leaf in cell.state_shapes}
    module = getattr(pt.nn, kind)(inputs, units, batch_first=True)
    ours = partial(recurrence.run, cell, weights, x, state, kernel="native")

    def pass_of(run: Callable[[], Any]) -> None:
        if infer:
            with pt.inference_mode():
                run()
        else:
            run()[0].backward(gradient)

    sides = [Side("Statecast", partial(pass_of, ours))]
    sides.append(Side(f"`nn.{kind}`", partial(pass_of, partial(module, x))))
    if products:  # of training: forward, to the state, to the weights
        gates = {"LSTM": 4, "GRU": 3}[kind]
        work = 2.0 * rows * steps * gates * units * (2 * (inputs + units) + units)
        sides.append(matrix_products(work))
    return sides


def halved(row: str) -> list[Side]:
    """The bare operation with weights of bfloat16, beside those of float32."""
    from statecast import cells
    from statecast.recurrence import run as recurrence

    pt, kind = torch(), row.split()[0]
    rows, steps, inputs, units = numbers(row)
    cell = getattr(cells, kind)(units)
    whole = {n: pt.tensor(draw(*s) * 0.1) for n, s in cell.weight_shapes(inputs).items()}
    matrices = ("kernel", "recurrent_kernel")
    rounded = whole | {name: whole[name].to(pt.bfloat16) for name in matrices}
    x, gradient = pt.tensor(draw(rows, steps, inputs)), pt.tensor(draw(rows, steps, units))
    state = {leaf: pt.zeros(rows, units) for leaf in cell.state_shapes}
    module = getattr(pt.nn, kind)(inputs, units, batch_first=True)

    def ours(given: dict[str, Any]) -> Callable[[], Any]:
        weights = {name: w.clone().requires_grad_() for name, w in given.items()}
        return lambda: recurrence.run(cell, weights, x, state, kernel="native")[0].backward(
            gradient
        )

    def theirs() -> None:
        with pt.autocast("cpu", pt.bfloat16):
            y = module(x)[0]
        y.backward(gradient.to(y.dtype))

    return [
        Side("Statecast", ours(rounded)),
        Side("in float32", ours(whole)),
        Side(f"`nn.{kind}` in bfloat16", theirs),
    ]


def matrix_products(work: float) -> Side:
    """As many operations as ``work`` in products of large matrices."""
    square = torch().tensor(draw(2048, 2048))
    return Side(PRODUCTS, lambda: square @ square, 2 * 2048**3 / work)


def layer(row: str) -> list[Side]:
    """A Keras layer as it is called, forward and backward."""
    import keras

    from statecast.layers import recurrent as layers

    class Idle(keras.layers.Layer):
        """Returns the same output each time."""

        def call(self, x: Any) -> Any:
            return output

    pt = torch()
    rows, steps, inputs, units = numbers(row)
    x, gradient = pt.tensor(draw(rows, steps, inputs)), pt.tensor(draw(rows, steps, units))
    ours = layers.LSTM(units, return_sequences=True)
    module = pt.nn.LSTM(inputs, units, batch_first=True)
    output, idle = pt.zeros_like(gradient, requires_grad=True), Idle()
    return [
        Side("Statecast", lambda: ours(x).backward(gradient)),
        Side("`nn.LSTM`", lambda: module(x)[0].backward(gradient)),
        Side(IDLE, lambda: idle(x).backward(gradient)),
    ]


# -- JAX and Keras -------------------------------------------------------------------------------


def in_jax(row: str) -> list[Side]:
    """Value and gradient, beside the network in raw JAX at its best: x W inside the scan, wide
    cells checkpointed."""
    import jax
    import jax.numpy as jnp

    from statecast import cells
    from statecast.recurrence import run as recurrence

    rows, steps, inputs, units = numbers(row)
    start = jnp.zeros((rows, units))

    def scanned(w: Any, u: Any, bias: Any, x: Any) -> Any:
        def step(state: Any, now: Any) -> Any:
            state = lstm_step(now @ w + state[0] @ u + bias, state[1])
            return state, state[0]

        take = jax.checkpoint(step) if units >= 128 else step
        return jnp.swapaxes(jax.lax.scan(take, (start, start), jnp.swapaxes(x, 0, 1))[1], 0, 1)

    def native(w: Any, u: Any, bias: Any, x: Any) -> Any:
        weights = {"kernel": w, "recurrent_kernel": u, "bias": bias}
        state = {"h": start, "c": start}
        return recurrence.run(cells.LSTM(units), weights, x, state, kernel="native")[0]

    def loss(run: Callable[..., Any], parameters: Any, x: Any, y: Any) -> Any:
        *weights, head, offset = parameters
        return jnp.mean((run(*weights, x) @ head + offset - y) ** 2)

    shapes = ((inputs, 4 * units), (units, 4 * units), (4 * units,), (units, 1), (1,))
    given = [jnp.asarray(draw(*shape) * 0.1) for shape in shapes]
    x, y = jnp.asarray(draw(rows, steps, inputs)), jnp.asarray(draw(rows, steps, 1))
    sides = []
    for name, run in (("Statecast", native), ("`lax.scan`", scanned)):
        compiled = jax.jit(jax.value_and_grad(partial(loss, run)))
        sides.append(Side(name, partial(ready, compiled, given, x, y)))
    return sides


def lstm_step(sums: Any, c: Any) -> tuple[Any, Any]:
    """The state (h, c) of an LSTM after a step, from its four sums and its old c, in JAX."""
    import jax
    import jax.numpy as jnp

    i, f, g, o = jnp.split(sums, 4, -1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def ready(compiled: Callable[..., Any], *given: Any) -> Any:
    import jax

    return jax.block_until_ready(compiled(*given))


def batches(rows: int, units: int) -> int:
    return 4 if rows * units > 20_000 else 32


def keras_model(row: str, *, method: str) -> list[Side]:
    """``fit`` and ``predict``: stock Keras, and ours where the kernel serves the backend."""
    import keras

    from statecast.layers import recurrent as layers

    backend = keras.backend.backend()
    rows, steps, inputs, units = numbers(row)
    count = batches(rows, units)
    x = np.tile(draw(rows, steps, inputs), (count, 1, 1))
    y = np.tile(draw(rows, steps, 1), (count, 1, 1))
    kinds = {f"Keras on {BACKENDS[backend]}": keras.layers.LSTM}
    if backend != "tensorflow":
        kinds = {f"Statecast on {BACKENDS[backend]}": layers.LSTM} | kinds
    if method == "fit" and backend == "torch":
        kinds[DENSE] = None
    sides = []
    for name, kind in kinds.items():
        start = keras.Input((steps, inputs))
        hidden = kind(units, return_sequences=True)(start) if kind else start
        model = keras.Model(start, keras.layers.Dense(1)(hidden))
        model.compile("adam", "mse")
        call = partial(model.predict, x)
        if method == "fit":
            call = partial(model.fit, x, y, shuffle=False)
        sides.append(Side(name, partial(call, batch_size=rows, verbose=0), count))
    return sides


def one_call(row: str) -> list[Side]:
    """One step: through XLA's custom call, and on NumPy arrays."""
    from statecast import Recurrence, cells

    if row.endswith("NumPy arrays"):
        cell = cells.LSTM(64)
        on_arrays = Recurrence(cell, {n: draw(*s) for n, s in cell.weight_shapes(4).items()})
        one, start = draw(1, 4), {leaf: np.zeros((1, 64), "float32") for leaf in "hc"}
        return [Side("Statecast", partial(on_arrays.step, one, start))]
    import jax
    import jax.numpy as jnp

    from statecast.recurrence import run as recurrence

    cell = cells.LSTM(8)
    weights = {n: jnp.asarray(draw(*s)) for n, s in cell.weight_shapes(2).items()}
    state, x = {leaf: jnp.zeros((1, 8)) for leaf in "hc"}, jnp.ones((1, 1, 2))
    through = jax.jit(lambda x: recurrence.run(cell, weights, x, state, kernel="native")[0])
    product = jax.jit(lambda x: x @ weights["kernel"])
    return [
        Side("Statecast", partial(ready, through, x)),
        Side("a matrix product", partial(ready, product, x)),
    ]


# -- inference and decoding, beside the runtimes that serve models ---------------------------------

# Keras's LSTM weights as an ONNX model. The second one starts from x (1, rows, 1) and takes in its
# own y = h head + offset, in ONNX's Loop.
SEQUENCE = """<ir_version: 8, opset_import: ["": 17]>
lstm (float[T,N,{inputs}] x, float[1,N,{units}] h, float[1,N,{units}] c)
    => (float[T,N,{units}] y, float[1,N,{units}] hn, float[1,N,{units}] cn) {{
    all, hn, cn = LSTM <hidden_size = {units}> (x, W, R, B, "", h, c)
    y = Squeeze(all, one)
}}"""
LOOP = """<ir_version: 8, opset_import: ["": 17]>
lstm (float[1,N,1] x, float[1,N,{units}] h, float[1,N,{units}] c) => (float[{steps},1,N,1] y) {{
    xn, hn, cn, y = Loop <body = step
        (int64 i, bool go, float[1,N,1] x0, float[1,N,{units}] h0, float[1,N,{units}] c0)
        => (bool on1, float[1,N,1] x1, float[1,N,{units}] h1, float[1,N,{units}] c1,
            float[1,N,1] y1) {{
            "", h1, c1 = LSTM <hidden_size = {units}> (x0, W, R, B, "", h0, c0)
            product = MatMul(h1, head)
            x1 = Add(product, offset)
            y1 = Identity(x1)
            on1 = Identity(go)
        }}> (steps, on, x, h, c)
}}"""


def onnx_model(text: str, weights: Mapping[str, np.ndarray], **constants: Any) -> bytes:
    import onnx

    def order(w: np.ndarray) -> np.ndarray:  # Keras has i f g o in columns, ONNX i o f g in rows
        i, f, g, o = np.split(w, 4, axis=-1)
        return np.ascontiguousarray(np.concatenate([i, o, f, g], -1).T)[None]

    w, u, bias = (order(weights[n]) for n in ("kernel", "recurrent_kernel", "bias"))
    constants |= {"W": w, "R": u, "B": np.concatenate([bias, np.zeros_like(bias)], -1)}
    sizes = {"inputs": w.shape[-1], "units": u.shape[-1], "steps": constants.get("steps")}
    model = onnx.parser.parse_model(text.format(**sizes))
    for name, value in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return model.SerializeToString()


def onnx_runtime(model: bytes) -> Callable[..., Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda **inputs: session.run(None, inputs)


def openvino(model: bytes) -> Callable[..., Any]:
    import openvino as ov

    core = ov.Core()
    options = {
        "INFERENCE_NUM_THREADS": threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,  # else it ties the other sides to one core
    }
    request = core.compile_model(core.read_model(model), "CPU", options).create_infer_request()
    return lambda **inputs: request.infer(inputs)


def fill(module: Any, weights: Mapping[str, np.ndarray], layer: str = "") -> Any:
    """Give a module of PyTorch Keras's LSTM weights."""
    values = {"weight_ih": weights["kernel"].T, "weight_hh": weights["recurrent_kernel"].T,
              "bias_ih": weights["bias"], "bias_hh": np.zeros_like(weights["bias"])}  # fmt: skip
    pt = torch()
    tensors = {f"{name}{layer}": pt.tensor(value.copy()) for name, value in values.items()}
    module.load_state_dict(tensors)
    return module


def check_same(sides: Sequence[Side], results: Mapping[str, Callable[[Any], Any]]) -> None:
    """Check that the sides compute the same; ``results`` take it out of what a side returns."""
    found = [np.ravel(results.get(side.name, np.asarray)(side.call())) for side in sides]
    for side, values in zip(sides, found, strict=True):
        np.testing.assert_allclose(values, found[0], rtol=1e-3, atol=1e-4, err_msg=side.name)


def inference(row: str) -> list[Side]:
    """Whole sequences on NumPy arrays."""
    from statecast import Recurrence, cells

    pt = torch()
    rows, steps, inputs, units = numbers(row)
    cell = cells.LSTM(units)
    weights = {n: draw(*s) * 0.1 for n, s in cell.weight_shapes(inputs).items()}
    x, state = draw(rows, steps, inputs), {leaf: draw(rows, units) for leaf in "hc"}
    by_step = np.ascontiguousarray(x.swapaxes(0, 1))
    given = {"x": by_step} | {leaf: value[None] for leaf, value in state.items()}
    module = fill(pt.nn.LSTM(inputs, units), weights, "_l0")
    tensors = {name: pt.tensor(value) for name, value in given.items()}

    def in_torch() -> Any:
        with pt.inference_mode():
            return module(tensors["x"], (tensors["h"], tensors["c"]))[0].numpy()

    sides = [Side("Statecast", partial(Recurrence(cell, weights).run, x, state))]
    sides.append(Side("`nn.LSTM`", in_torch))
    if installed("onnx"):
        model = onnx_model(SEQUENCE, weights, one=np.array([1]))
        if installed("onnxruntime"):
            sides.append(Side("ONNX Runtime", partial(onnx_runtime(model), **given)))
        if installed("openvino"):
            sides.append(Side("OpenVINO", partial(openvino(model), **given)))
    check_same(sides, {
        "Statecast": lambda found: found[0].swapaxes(0, 1),
        "ONNX Runtime": lambda found: found[0],
        "OpenVINO": lambda found: found[0],
    })  # fmt: skip
    return [*sides, matrix_products(2.0 * rows * steps * 4 * units * (inputs + units))]


def decoding(row: str) -> list[Side]:
    """A closed loop, y = h head + bias fed back, by everything that can run one."""
    import jax
    import jax.numpy as jnp
    import keras

    from statecast import cells
    from statecast.recurrence import run as recurrence

    pt = torch()
    rows, steps, units = numbers(row)
    cell = cells.LSTM(units)
    weights = {n: draw(*s) * 0.1 for n, s in cell.weight_shapes(1).items()}
    head, bias = draw(units, 1) * 0.1, draw(1) * 0.1
    state = {leaf: draw(rows, units) for leaf in "hc"}
    first = np.asarray(state["h"] @ head + bias)  # what ours computes before the first step

    # Ours takes a value and whether it was observed: the second never counts, its weights are 0.
    wide = np.concatenate([weights["kernel"], np.zeros_like(weights["kernel"])])
    named = {"cell/kernel": wide, "feed": head, "decay": np.zeros(1, "float32")}
    named |= {f"cell/{n}": weights[n] for n in ("recurrent_kernel", "bias")}
    named = {n: jnp.asarray(w) for n, w in named.items()}
    begun = {leaf: jnp.asarray(value) for leaf, value in state.items()}
    w, u, b = (jnp.asarray(weights[n]) for n in ("kernel", "recurrent_kernel", "bias"))

    @jax.jit
    def ours(state: Any) -> Any:
        leaves = {f"cell/{leaf}": value for leaf, value in state.items()}
        leaves |= {"last": jnp.zeros((rows, 1)), "base": jnp.broadcast_to(bias, (rows, 1))}
        nothing = jnp.zeros((rows, steps + 1, 2))
        loop = cells.ClosedLoop(cell)
        return recurrence.run(loop, named, nothing, leaves, kernel="native")[0][:, 1:, -1]

    @jax.jit
    def scanned(x: Any, state: Any) -> Any:
        def step(carry: Any, _: Any) -> Any:
            x, h, c = carry
            h, c = lstm_step(x @ w + h @ u + b, c)
            x = h @ head + bias
            return (x, h, c), x[:, 0]

        return jax.lax.scan(step, (x, state["h"], state["c"]), None, steps)[1].T

    def loop(step: Callable[..., Any], join: Callable[..., Any], *start: Any) -> Any:
        """A loop in Python over ``step``, from (x, h, c) to the next ones; x is (rows, 1)."""
        now, outputs = start, []
        for _ in range(steps):
            now = step(*now)
            outputs.append(now[0])
        return join(outputs, -1)

    module, affine = fill(pt.nn.LSTMCell(1, units), weights), pt.nn.Linear(units, 1)
    affine.load_state_dict({"weight": pt.tensor(head.T.copy()), "bias": pt.tensor(bias)})
    tensors = [pt.tensor(value) for value in (first, state["h"], state["c"])]

    def torch_step(x: Any, h: Any, c: Any) -> Any:
        h, c = module(x, (h, c))
        return affine(h), h, c

    def in_torch(run: Callable[..., Any]) -> Any:
        with pt.no_grad():
            return run(*tensors).numpy()

    unrolled = partial(loop, torch_step, pt.cat)
    start = [keras.Input((1, 1)), keras.Input((units,)), keras.Input((units,))]
    layer, dense = keras.layers.LSTM(units, return_state=True), keras.layers.Dense(1)
    y, h, c = layer(start[0], initial_state=start[1:])
    model = keras.Model(start, [dense(y), h, c])
    layer.set_weights([weights[n] for n in ("kernel", "recurrent_kernel", "bias")])
    dense.set_weights([head, bias])
    arrays = (first, state["h"], state["c"])

    def in_keras(predict: Callable[..., Any]) -> Any:
        return loop(lambda x, h, c: predict([x[:, None], h, c]), np.concatenate, *arrays)

    sides = [
        Side("Statecast", partial(ready, ours, begun)),
        Side("`jax.jit` of a scan", partial(ready, scanned, first, begun)),
        Side("`torch.compile`", partial(in_torch, pt.compile(unrolled))),
        Side("`LSTMCell` in a loop", partial(in_torch, unrolled)),
    ]
    if installed("onnx") and installed("onnxruntime"):
        given = {"x": first[None]} | {leaf: value[None] for leaf, value in state.items()}
        constants = {"head": head, "offset": bias, "steps": np.array(steps), "on": np.array(True)}
        looped = onnx_runtime(onnx_model(LOOP, weights, **constants))
        sides.append(Side("ONNX Runtime, Loop", partial(looped, **given)))
    if installed("onnx") and installed("openvino"):
        run = openvino(onnx_model(SEQUENCE, weights, one=np.array([1])))

        def openvino_step(x: Any, h: Any, c: Any) -> Any:
            found = run(x=x[None], h=h, c=c)
            h, c = np.array(found["hn"]), np.array(found["cn"])
            return (h @ head + bias)[0], h, c

        by_step = [first, state["h"][None], state["c"][None]]
        sides.append(
            Side("OpenVINO by steps", partial(loop, openvino_step, np.concatenate, *by_step))
        )
    predict = partial(model.predict, batch_size=rows, verbose=0)
    sides.append(Side("Keras, `predict`", partial(in_keras, predict)))
    sides.append(Side("Keras, `predict_on_batch`", partial(in_keras, model.predict_on_batch)))
    check_same(sides, {"ONNX Runtime, Loop": lambda found: np.squeeze(found[0]).T})
    return [*sides, matrix_products(2.0 * rows * steps * 4 * units * (1 + units))]


# -- forecasters ---------------------------------------------------------------------------------


def forecaster(row: str, layers: int = 1) -> list[Side]:
    """A training step of the forecaster's network, in a closed loop after each row's prefix,
    beside the same network on nn.LSTM, which is given every value and so needs no loop."""
    from statecast import cells, heads
    from statecast.networks.decoder import STEP_FUNCTIONS, Decoder
    from statecast.networks.network import Network
    from statecast.networks.training import adamw

    pt, features, encoding = torch(), 4, 16
    rows, steps, _, units = numbers(row)
    decoder = Decoder(cells.Stack([cells.LSTM(units)] * layers), heads.Quantiles(), horizon=steps)
    network = Network(
        decoder, numeric=features, cardinalities=(), members=1, encoding=encoding,
        conditioning="state",
    )  # fmt: skip
    network.compile(optimizer=adamw(1e-3, 1000, 1e-4))
    items = batches(rows, units) * rows
    value = np.cumsum(draw(items, 1, steps), axis=-1) * 0.1
    known = np.random.default_rng(0).integers(0, steps, (items, 1, 1))
    inputs = {
        "value": value,
        "observed": (np.arange(steps) < known).astype("float32"),
        "numeric": draw(items, 1, features),
        "codes": np.zeros((items, 1, 0), "int32"),
    }
    fit = partial(network.fit, inputs, value, sample_weight=np.ones_like(value))

    class Peer(pt.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = pt.nn.Linear(features, encoding)
            self.h = pt.nn.Linear(encoding, layers * units)
            self.c = pt.nn.Linear(encoding, layers * units)
            self.lstm = pt.nn.LSTM(2 + STEP_FUNCTIONS, units, layers, batch_first=True)
            self.head = pt.nn.Linear(units, len(levels))
            self.decay = pt.nn.Parameter(pt.tensor(0.9))

        def forward(self, x: Any, channels: Any) -> Any:
            encoded = pt.tanh(self.encoder(x))
            starts = (affine(encoded).unflatten(1, (layers, units)) for affine in (self.h, self.c))
            h, c = (start.swapaxes(0, 1).contiguous() for start in starts)
            y, _ = self.lstm(channels, (h, c))
            y = pt.cat([h[-1][:, None], y[:, :-1]], dim=1)
            last = pt.nn.functional.pad(channels[:, :-1, 0], (1, 0))
            raw, m = self.head(y), len(levels) // 2
            gaps = pt.nn.functional.softplus(raw)
            median = raw[..., m : m + 1] + self.decay * last[..., None]
            below = gaps[..., :m].flip(-1).cumsum(-1).flip(-1)
            above = gaps[..., m + 1 :].cumsum(-1)
            return pt.cat([median - below, median, median + above], -1)

    levels = pt.tensor(heads.Quantiles().levels)
    peer = Peer()
    optimizer = pt.optim.AdamW(peer.parameters(), 1e-3, weight_decay=1e-4, fused=True)
    age = np.arange(1, steps + 1)[:, None] / steps * (STEP_FUNCTIONS - 1)
    bumps = np.exp(-((age - np.arange(STEP_FUNCTIONS)) ** 2)).astype("float32")
    known_now = np.ones((items, steps, 1), "float32")
    all_bumps = np.broadcast_to(bumps, (items, steps, STEP_FUNCTIONS))
    channels = pt.tensor(np.concatenate([value[:, 0, :, None], known_now, all_bumps], axis=-1))
    x = pt.tensor(inputs["numeric"][:, 0])

    def theirs() -> None:
        for first in range(0, items, rows):
            cut = slice(first, first + rows)
            error = channels[cut, :, :1] - peer(x[cut], channels[cut])
            loss = pt.maximum(levels * error, (levels - 1) * error).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    ours = partial(fit, batch_size=rows, shuffle=False, verbose=0)
    return [
        Side("Statecast", ours, items // rows),
        Side("network on `nn.LSTM`", theirs, items // rows),
    ]


GROWTH = """
import json, time
import keras
from statecast import Forecaster
from statecast.data import growth
from statecast.networks import training
series, static, folds = growth()
old = folds.filter(folds["fold"] > 0)
series, static = (table.join(old, on="unique_id", how="semi") for table in (series, static))
times = [time.process_time()]
for _ in range(2):
    Forecaster(seed=0).fit(series, static, verbose=0)
    times.append(time.process_time())
print(json.dumps([times[1] - times[0], times[2] - times[1]]))
"""
GROWTH_ROWS = ("first fit", "second fit")


@cache
def growth_fits(seconds: float) -> list[list[float]]:
    """CPU seconds of a first and a second fit, in as many new processes as fit into the time."""
    found: list[list[float]] = []
    until = time.perf_counter() + seconds
    while not found or time.perf_counter() < until:
        ran = subprocess.run(
            [sys.executable, "-c", GROWTH], capture_output=True, text=True, check=False
        )
        if ran.returncode:
            raise RuntimeError("\n".join(ran.stderr.splitlines()[-3:]))
        found.append(json.loads(ran.stdout.splitlines()[-1]))
    return found


def growth(row: str, seconds: float) -> Times:
    which = GROWTH_ROWS.index(row)
    side = f"Statecast on {BACKENDS[os.environ['KERAS_BACKEND']]}"
    return {side: [fits[which] for fits in growth_fits(seconds)]}


ITEMS, EPOCHS, RUN = 18_000, 30, 4  # of RUN epochs, EPOCHS are extrapolated


def items(row: str, seconds: float) -> Times:
    """CPU seconds of a fit to ITEMS series of counts: the fit of RUN epochs, and the missing
    epochs as long as each one after the first."""
    import keras

    from statecast import Forecaster
    from statecast.networks import training  # noqa: F401  imported before the time begins

    rng, steps = np.random.default_rng(0), 52
    x, future = rng.normal(size=(ITEMS, 4)), rng.normal(size=(ITEMS, steps, 3))
    own = rng.normal(size=(ITEMS, 1))
    rate = np.exp(0.5 + 0.5 * x[:, :1] + 0.3 * future[:, :, 0] + 0.3 * own)
    y = rng.negative_binomial(2, 2 / (2 + rate)).astype(float)
    y[np.arange(steps) >= rng.integers(4, steps + 1, (ITEMS, 1))] = np.nan
    y[0] = rng.poisson(1, steps)  # one item has all steps
    begun: list[float] = []

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            begun.append(time.process_time())

    model = Forecaster(head="negative_binomial", epochs=RUN, seed=0, analogues=False)
    start = time.process_time()
    model.fit(y, x, future=future, verbose=0, callbacks=[Clock()])
    fit = time.process_time() - start
    each = np.diff(begun)[1:]
    side = f"Statecast on {BACKENDS[os.environ['KERAS_BACKEND']]}"
    return {side: [fit + (EPOCHS - len(begun)) * epoch for epoch in each]}
