"""The native kernel's speed beside its peers: PyTorch, JAX, stock Keras on three backends, ONNX
Runtime and OpenVINO.

Run it from the root of the repository, without arguments, on a machine that does nothing else
(a quarter of an hour)::

    .venv/bin/python -m pip install -e '.[bench]'
    .venv/bin/python benchmarks/speed.py

It starts itself once for each section, since Keras chooses its backend once. Within a section
the sides alternate in one process, and what counts is the ratio of their medians. It writes a page
for each instruction set: ``docs/speed-avx512.md`` where the kernel runs on AVX-512. The page is
written anew as each section ends, with the sections measured so far.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

DOCS = Path(__file__).parents[1] / "docs"
SHAPES = [
    (32, 30, 4, 32),
    (256, 30, 4, 64),
    (256, 30, 4, 128),
    (1024, 30, 4, 128),
    (64, 100, 8, 256),
]
HEAD = "batch, steps, in, units"
NAMES = [", ".join(map(str, shape)) for shape in SHAPES]
REPEATS = 15
THREADS = 2


def medians(
    sides: Sequence[Callable[[], Any]],
    repeats: int = REPEATS,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Milliseconds a call of each side: medians over repeats in which the sides take turns.

    A turn is one call that is not counted, which finds the caches full of another side's numbers
    and its own threads asleep, and then as many calls as take 5 ms.
    """
    took: list[list[float]] = [[] for _ in sides]
    for side in sides:
        side()
        side()
    for _ in range(repeats):
        for side, times in zip(sides, took, strict=True):
            side()
            calls, start = 0, clock()
            while clock() - start < 5e-3:
                side()
                calls += 1
            times.append(1e3 * (clock() - start) / calls)
    return [float(np.median(times)) for times in took]


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype("float32")


def flops(shape: tuple[int, int, int, int], gates: int) -> float:
    """Of one training step of the recurrence: forward, to the state, to the weights."""
    rows, steps, inputs, units = shape
    return 2.0 * rows * steps * gates * units * (2 * (inputs + units) + units)


# -- the sections, each in a process of its own --------------------------------------------------


def operation() -> dict[str, Any]:
    """Forward and backward of the bare operation in PyTorch, against ``nn.LSTM`` and ``nn.GRU``."""
    import torch

    from statecast import cells
    from statecast.recurrence import run as recurrence
    from statecast.recurrence.kernels.native import library

    torch.set_num_threads(THREADS)
    square = torch.tensor(draw(2048, 2048))
    result: dict[str, Any] = {"status": library.status()}

    for kind, peer, gates in (("LSTM", torch.nn.LSTM, 4), ("GRU", torch.nn.GRU, 3)):
        rows_of: list[dict[str, Any]] = []
        for rows, steps, inputs, units in SHAPES:
            cell = getattr(cells, kind)(units)
            names = cell.weight_shapes(inputs)
            weights = {
                n: torch.tensor(draw(*s) * 0.1, requires_grad=True) for n, s in names.items()
            }
            x, y_gradient = (
                torch.tensor(draw(rows, steps, inputs)),
                torch.tensor(draw(rows, steps, units)),
            )
            state = {leaf: torch.zeros(rows, units) for leaf in cell.state_shapes}
            module = peer(inputs, units, batch_first=True)

            def ours(cell=cell, weights=weights, x=x, state=state, y_gradient=y_gradient) -> None:
                y, _ = recurrence.run(cell, weights, x, state, kernel="native")
                y.backward(y_gradient)

            def theirs(module=module, x=x, y_gradient=y_gradient) -> None:
                module(x)[0].backward(y_gradient)

            def infer(run: Callable[[], Any]) -> None:
                with torch.inference_mode():
                    run()

            own = partial(recurrence.run, cell, weights, x, state, kernel="native")
            times = medians([ours, theirs])
            infers = medians([partial(infer, own), partial(infer, partial(module, x))])
            work, shares, result["product"] = flops((rows, steps, inputs, units), gates), [], []
            for threads in (1, THREADS):
                torch.set_num_threads(threads)
                library.use(os.environ.get("STATECAST_INSTRUCTIONS", ""), threads)
                alone, product = medians([ours, lambda: square @ square])
                shares.append(work / alone / (2 * 2048**3 / product))
                result["product"].append(2 * 2048**3 / product / 1e6)  # GF/s
            library.use(os.environ.get("STATECAST_INSTRUCTIONS", ""))
            rows_of.append({"train": times, "infer": infers, "shares": shares})
        result[kind] = rows_of
    return result


def jax_section() -> dict[str, Any]:
    """On JAX: value and gradient against a scan, Keras layers, and what a call costs."""
    import jax
    import jax.numpy as jnp
    from jax import lax, nn

    from statecast import Recurrence, cells
    from statecast.recurrence import run as recurrence

    def scan_loss(parameters: Any, x: Any, y: Any) -> Any:
        """The network in raw JAX at its best: x W inside the scan, wide cells checkpointed."""
        w, u, bias, head, offset = parameters
        units = u.shape[0]

        def step(state: Any, now: Any) -> Any:
            h, c = state
            i, f, g, o = jnp.split(now @ w + h @ u + bias, 4, -1)
            c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
            h = nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        start = jnp.zeros((x.shape[0], units))
        take = jax.checkpoint(step) if units >= 128 else step
        _, out = lax.scan(take, (start, start), jnp.swapaxes(x, 0, 1))
        return jnp.mean((out @ head + offset - jnp.swapaxes(y, 0, 1)) ** 2)

    def our_loss(parameters: Any, x: Any, y: Any) -> Any:
        w, u, bias, head, offset = parameters
        start = jnp.zeros((x.shape[0], u.shape[0]))
        weights = {"kernel": w, "recurrent_kernel": u, "bias": bias}
        cell = cells.LSTM(u.shape[0])
        out, _ = recurrence.run(cell, weights, x, {"h": start, "c": start}, kernel="native")
        return jnp.mean((out @ head + offset - y) ** 2)

    result: dict[str, Any] = {"raw": []}
    for rows, steps, inputs, units in SHAPES:
        shapes = ((inputs, 4 * units), (units, 4 * units), (4 * units,), (units, 1), (1,))
        parameters = [jnp.asarray(draw(*shape) * 0.1) for shape in shapes]
        x, y = jnp.asarray(draw(rows, steps, inputs)), jnp.asarray(draw(rows, steps, 1))
        sides = []
        for loss in (our_loss, scan_loss):
            step = jax.jit(jax.value_and_grad(loss))
            sides.append(
                partial(lambda step, *a: jax.block_until_ready(step(*a)), step, parameters, x, y)
            )
        result["raw"].append(medians(sides))

    cell = cells.LSTM(8)
    weights = {n: jnp.asarray(draw(*s)) for n, s in cell.weight_shapes(2).items()}
    state = {leaf: jnp.zeros((1, 8)) for leaf in "hc"}
    x = jnp.ones((1, 1, 2))
    through = jax.jit(lambda x: recurrence.run(cell, weights, x, state, kernel="native")[0])
    plain = jax.jit(lambda x: x @ weights["kernel"])
    calls = [partial(lambda f: jax.block_until_ready(f(x)), f) for f in (through, plain)]
    result["call"] = [1e3 * ms for ms in medians(calls)]
    cell = cells.LSTM(64)
    on_arrays = Recurrence(cell, {n: draw(*s) for n, s in cell.weight_shapes(4).items()})
    one, start = draw(1, 4), {leaf: np.zeros((1, 64), "float32") for leaf in "hc"}
    result["numpy"] = 1e3 * medians([lambda: on_arrays.step(one, start)])[0]
    return result | keras_section()


def keras_section() -> dict[str, Any]:
    """``fit`` and ``predict`` of one LSTM and a Dense, with Adam: stock Keras, and ours where the
    kernel serves the backend. Milliseconds a batch."""
    import keras

    from statecast.layers import recurrent as layers

    def model(kind: Any, steps: int, inputs: int, units: int) -> Any:
        start = keras.Input((steps, inputs))
        y = keras.layers.Dense(1)(kind(units, return_sequences=True)(start))
        model = keras.Model(start, y)
        model.compile("adam", "mse")
        return model

    kinds = [keras.layers.LSTM]
    if keras.backend.backend() != "tensorflow":
        kinds.insert(0, layers.LSTM)
    result: dict[str, Any] = {"fit": [], "predict": []}
    for rows, steps, inputs, units in SHAPES:
        batches = 4 if rows * units > 20_000 else 32
        x = np.tile(draw(rows, steps, inputs), (batches, 1, 1))
        y = np.tile(draw(rows, steps, 1), (batches, 1, 1))
        models = [model(kind, steps, inputs, units) for kind in kinds]
        fits = [partial(m.fit, x, y, batch_size=rows, shuffle=False, verbose=0) for m in models]
        predicts = [partial(m.predict, x, batch_size=rows, verbose=0) for m in models]
        result["fit"].append([ms / batches for ms in medians(fits, 5)])
        result["predict"].append([ms / batches for ms in medians(predicts, 5)])
    return result


# -- inference and decoding, beside the runtimes that serve models ---------------------------------


def onnx_lstm(weights: Mapping[str, np.ndarray], decode: Mapping[str, Any] | None = None) -> bytes:
    """Keras's LSTM weights as an ONNX model.

    It runs over ``x (steps, rows, in)`` from ``h`` and ``c (1, rows, units)`` to ``y`` and the
    states after. With ``decode`` (``head``, ``bias``, ``steps``) it starts from ``x (1, rows, 1)``
    instead and takes in its own ``y = h head + bias``, in ONNX's Loop.
    """
    from onnx import TensorProto, helper, numpy_helper

    def order(w: np.ndarray) -> np.ndarray:  # Keras has i f g o in columns, ONNX i o f g in rows
        i, f, g, o = np.split(w, 4, axis=-1)
        return np.ascontiguousarray(np.concatenate([i, o, f, g], -1).T)[None]

    bias = order(weights["bias"])
    constants = {
        "W": order(weights["kernel"]),
        "R": order(weights["recurrent_kernel"]),
        "B": np.concatenate([bias, np.zeros_like(bias)], axis=-1),
    }
    units = weights["recurrent_kernel"].shape[0]

    def lstm(x: str, h: str, c: str, *out: str) -> Any:
        inputs = [x, "W", "R", "B", "", h, c]
        return helper.make_node("LSTM", inputs, list(out), hidden_size=units)

    def real(name: str, *shape: Any) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    states = [real("h", 1, "rows", units), real("c", 1, "rows", units)]
    after = [real("hn", 1, "rows", units), real("cn", 1, "rows", units)]
    inputs = weights["kernel"].shape[0]
    if decode is None:
        nodes = [lstm("x", "h", "c", "y4", "hn", "cn")]
        nodes.append(helper.make_node("Squeeze", ["y4", "one"], ["y"]))
        constants["one"] = np.array([1])
        starts = [real("x", "steps", "rows", inputs), *states]
        ends = [real("y", "steps", "rows", units), *after]
    else:
        constants |= {"head": decode["head"], "offset": decode["bias"]}
        constants |= {"steps": np.array(decode["steps"]), "on": np.array(True)}
        body = helper.make_graph(
            [
                lstm("x_in", "h_in", "c_in", "", "h_out", "c_out"),
                helper.make_node("MatMul", ["h_out", "head"], ["product"]),
                helper.make_node("Add", ["product", "offset"], ["x_out"]),
                helper.make_node("Identity", ["go_in"], ["go_out"]),
                helper.make_node("Identity", ["x_out"], ["said"]),
            ],
            "step",
            [
                helper.make_tensor_value_info("i", TensorProto.INT64, []),
                helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
                *(
                    real(f"{n}_in", 1, "rows", size)
                    for n, size in (("x", 1), ("h", units), ("c", units))
                ),
            ],
            [
                helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
                *(
                    real(f"{n}_out", 1, "rows", size)
                    for n, size in (("x", 1), ("h", units), ("c", units))
                ),
                real("said", 1, "rows", 1),
            ],
        )
        carried = ["x_last", "hn", "cn", "y"]
        nodes = [helper.make_node("Loop", ["steps", "on", "x", "h", "c"], carried, body=body)]
        starts = [real("x", 1, "rows", 1), *states]
        ends = [real("y", decode["steps"], 1, "rows", 1), *after]
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "lstm", starts, ends, stored)
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def onnx_runtime(model: bytes) -> Callable[..., Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda **inputs: session.run(None, inputs)


def openvino(model: bytes) -> Callable[..., Any]:
    import openvino as ov

    core = ov.Core()
    options = {
        "INFERENCE_NUM_THREADS": THREADS,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,  # else it ties the other sides to one core
    }
    request = core.compile_model(core.read_model(model), "CPU", options).create_infer_request()
    return lambda **inputs: request.infer(inputs)


def same(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.ravel(found), np.ravel(expected), rtol=1e-3, atol=1e-4)


def inference_section() -> dict[str, Any]:
    """Whole sequences on NumPy arrays: ours, PyTorch, ONNX Runtime, OpenVINO."""
    import torch

    from statecast import Recurrence, cells

    torch.set_num_threads(THREADS)
    result = []
    for rows, steps, inputs, units in SHAPES:
        cell = cells.LSTM(units)
        weights = {n: draw(*s) * 0.1 for n, s in cell.weight_shapes(inputs).items()}
        ours = Recurrence(cell, weights)
        x, state = draw(rows, steps, inputs), {leaf: draw(rows, units) for leaf in "hc"}
        by_step = np.ascontiguousarray(x.swapaxes(0, 1))
        given = {"x": by_step} | {leaf: value[None] for leaf, value in state.items()}
        module = torch.nn.LSTM(inputs, units)
        with torch.no_grad():
            module.weight_ih_l0.copy_(torch.tensor(weights["kernel"].T))
            module.weight_hh_l0.copy_(torch.tensor(weights["recurrent_kernel"].T))
            module.bias_ih_l0.copy_(torch.tensor(weights["bias"]))
            module.bias_hh_l0.zero_()
        tensors = {name: torch.tensor(value) for name, value in given.items()}
        model = onnx_lstm(weights)
        sides = [partial(ours.run, x, state)]

        def in_torch(module=module, tensors=tensors) -> Any:
            with torch.inference_mode():
                return module(tensors["x"], (tensors["h"], tensors["c"]))[0].numpy()

        runtimes = [onnx_runtime(model), openvino(model)]
        sides += [in_torch, *(partial(run, **given) for run in runtimes)]
        expected = sides[0]()[0].swapaxes(0, 1)
        same(in_torch(), expected)
        for run in runtimes:
            same(run(**given)[0], expected)
        result.append(medians(sides))
    return {"peers": ["nn.LSTM", "ONNX Runtime", "OpenVINO"], "ms": result}


DECODED = [(4096, 27, 64), (256, 27, 64), (1, 30, 64)]


def decoding_section() -> dict[str, Any]:
    """A closed loop, y = h head + bias fed back, by everything that can run one."""
    import jax
    import jax.numpy as jnp
    import keras
    import torch
    from jax import lax, nn

    from statecast import cells
    from statecast.recurrence import run as recurrence

    torch.set_num_threads(THREADS)
    result = []
    for rows, steps, units in DECODED:
        cell = cells.LSTM(units)
        weights = {n: draw(*s) * 0.1 for n, s in cell.weight_shapes(1).items()}
        head, bias = draw(units, 1) * 0.1, draw(1) * 0.1
        state = {leaf: draw(rows, units) for leaf in "hc"}
        first = np.asarray(state["h"] @ head + bias)  # what ours says before the first step

        # Ours takes a value and whether it was observed: the second never counts, its weights
        # are zeros.
        wide = np.concatenate([weights["kernel"], np.zeros_like(weights["kernel"])])
        named = {"cell/kernel": wide, "feed": head, "decay": np.zeros(1, "float32")}
        named |= {f"cell/{n}": weights[n] for n in ("recurrent_kernel", "bias")}
        named = {n: jnp.asarray(w) for n, w in named.items()}
        nothing = jnp.zeros((rows, steps + 1, 2))
        base = jnp.broadcast_to(jnp.asarray(bias), (rows, 1))
        begun = {leaf: jnp.asarray(value) for leaf, value in state.items()}

        @jax.jit
        def ours(state, named=named, nothing=nothing, base=base, cell=cell) -> Any:
            leaves = {f"cell/{leaf}": value for leaf, value in state.items()}
            leaves |= {"last": jnp.zeros_like(base), "base": base}
            loop = cells.ClosedLoop(cell)
            return recurrence.run(loop, named, nothing, leaves, kernel="native")[0][:, 1:, -1]

        w, u, b = (jnp.asarray(weights[n]) for n in ("kernel", "recurrent_kernel", "bias"))

        @jax.jit
        def scanned(x, state, w=w, u=u, b=b, head=head, bias=bias, steps=steps) -> Any:
            def step(carry: Any, _: Any) -> Any:
                x, h, c = carry
                i, f, g, o = jnp.split(x @ w + h @ u + b, 4, -1)
                c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
                h = nn.sigmoid(o) * jnp.tanh(c)
                x = h @ head + bias
                return (x, h, c), x[:, 0]

            return lax.scan(step, (x, state["h"], state["c"]), None, steps)[1].T

        module = torch.nn.LSTMCell(1, units)
        affine = torch.nn.Linear(units, 1)
        with torch.no_grad():
            module.weight_ih.copy_(torch.tensor(weights["kernel"].T))
            module.weight_hh.copy_(torch.tensor(weights["recurrent_kernel"].T))
            module.bias_ih.copy_(torch.tensor(weights["bias"]))
            module.bias_hh.zero_()
            affine.weight.copy_(torch.tensor(head.T))
            affine.bias.copy_(torch.tensor(bias))
        tensors = [torch.tensor(value) for value in (first, state["h"], state["c"])]

        def unrolled(x, h, c, module=module, affine=affine, steps=steps) -> Any:
            outputs = []
            for _ in range(steps):
                h, c = module(x, (h, c))
                x = affine(h)
                outputs.append(x)
            return torch.cat(outputs, -1)

        def in_torch(run: Any, tensors=tensors) -> Any:
            with torch.no_grad():
                return run(*tensors).numpy()

        given = {"x": first[None]} | {leaf: value[None] for leaf, value in state.items()}
        looped = onnx_runtime(onnx_lstm(weights, {"head": head, "bias": bias, "steps": steps}))
        one_step = openvino(onnx_lstm(weights))

        def by_openvino(given=given, one_step=one_step, head=head, bias=bias, steps=steps) -> Any:
            now, outputs = given, []
            for _ in range(steps):
                found = one_step(**now)
                h, c = np.array(found["hn"]), np.array(found["cn"])
                now = {"x": h @ head + bias, "h": h, "c": c}
                outputs.append(now["x"][0, :, 0])
            return np.stack(outputs, -1)

        start = [keras.Input((1, 1)), keras.Input((units,)), keras.Input((units,))]
        layer = keras.layers.LSTM(units, return_state=True)
        y, h, c = layer(start[0], initial_state=start[1:])
        dense = keras.layers.Dense(1)
        model = keras.Model(start, [dense(y), h, c])
        layer.set_weights([weights[n] for n in ("kernel", "recurrent_kernel", "bias")])
        dense.set_weights([head, bias])

        def in_keras(predict, first=first, state=state, steps=steps) -> Any:
            x, h, c = first, state["h"], state["c"]
            outputs = []
            for _ in range(steps):
                x, h, c = predict([x[:, None], h, c])
                outputs.append(x[:, 0])
            return np.stack(outputs, -1)

        sides: dict[str, Callable[[], Any]] = {
            "ours": lambda ours=ours, begun=begun: jax.block_until_ready(ours(begun)),
            "`jax.jit` of a scan": lambda scanned=scanned, first=first, begun=begun: (
                jax.block_until_ready(scanned(first, begun))
            ),
            "`torch.compile`": partial(in_torch, torch.compile(unrolled)),
            "`LSTMCell` in a loop": partial(in_torch, unrolled),
            "ONNX Runtime, Loop": partial(looped, **given),
            "OpenVINO by steps": by_openvino,
            "Keras, `predict`": partial(
                in_keras, partial(model.predict, batch_size=rows, verbose=0)
            ),
            "Keras, `predict_on_batch`": partial(in_keras, model.predict_on_batch),
        }
        expected = sides["ours"]()
        for name, side in sides.items():
            found = side()
            same(np.squeeze(found[0]).T if name.startswith("ONNX") else found, expected)
        result.append(medians(list(sides.values())))
    return {"peers": list(sides)[1:], "ms": result}


def forecaster_section(
    threads: int = THREADS, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Any]:
    """A training step of the forecaster's network, in a closed loop after each row's prefix,
    against the same network on nn.LSTM, which is shown every value and so needs no loop."""
    import torch

    from statecast import cells, heads
    from statecast.networks.decoder import STEP_FUNCTIONS, Decoder
    from statecast.networks.network import Network
    from statecast.networks.training import adamw

    torch.set_num_threads(threads)
    features, encoding = 4, 16
    levels = torch.tensor(heads.Quantiles().levels)
    result = []
    for rows, steps, _, units in SHAPES:
        decoder = Decoder(cells.Stack([cells.LSTM(units)]), heads.Quantiles(), horizon=steps)
        network = Network(
            decoder, numeric=features, cardinalities=(), members=1, encoding=encoding,
            conditioning="state",
        )  # fmt: skip
        network.compile(optimizer=adamw(1e-3, 1000, 1e-4))
        batches = 4 if rows * units > 20_000 else 32
        value = np.cumsum(draw(batches * rows, 1, steps), axis=-1) * 0.1
        known = np.random.default_rng(0).integers(0, steps, (len(value), 1, 1))
        inputs = {
            "value": value,
            "observed": (np.arange(steps) < known).astype("float32"),
            "numeric": draw(len(value), 1, features),
            "codes": np.zeros((len(value), 1, 0), "int32"),
        }

        def ours(network=network, inputs=inputs, value=value, rows=rows) -> None:
            weight = np.ones_like(value)
            network.fit(
                inputs, value, sample_weight=weight, batch_size=rows, shuffle=False, verbose=0
            )

        class Peer(torch.nn.Module):
            def __init__(self, units: int) -> None:
                super().__init__()
                self.encoder = torch.nn.Linear(features, encoding)
                self.h = torch.nn.Linear(encoding, units)
                self.c = torch.nn.Linear(encoding, units)
                self.lstm = torch.nn.LSTM(2 + STEP_FUNCTIONS, units, batch_first=True)
                self.head = torch.nn.Linear(units, len(levels))
                self.decay = torch.nn.Parameter(torch.tensor(0.9))

            def forward(self, x: Any, channels: Any) -> Any:
                encoded = torch.tanh(self.encoder(x))
                h, c = self.h(encoded), self.c(encoded)
                y, _ = self.lstm(channels, (h[None], c[None]))
                y = torch.cat([h[:, None], y[:, :-1]], dim=1)
                last = torch.nn.functional.pad(channels[:, :-1, 0], (1, 0))
                raw, m = self.head(y), len(levels) // 2
                gaps = torch.nn.functional.softplus(raw)
                median = raw[..., m : m + 1] + self.decay * last[..., None]
                below = gaps[..., :m].flip(-1).cumsum(-1).flip(-1)
                above = gaps[..., m + 1 :].cumsum(-1)
                return torch.cat([median - below, median, median + above], -1)

        peer = Peer(units)
        optimizer = torch.optim.AdamW(peer.parameters(), 1e-3, weight_decay=1e-4, fused=True)
        age = np.arange(1, steps + 1)[:, None] / steps * (STEP_FUNCTIONS - 1)
        bumps = np.exp(-((age - np.arange(STEP_FUNCTIONS)) ** 2)).astype("float32")
        channels = np.concatenate(
            [value[:, 0, :, None], np.ones((len(value), steps, 1), "float32"),
             np.broadcast_to(bumps, (len(value), steps, STEP_FUNCTIONS))], axis=-1
        )  # fmt: skip
        x, all_channels = torch.tensor(inputs["numeric"][:, 0]), torch.tensor(channels)

        def theirs(peer=peer, optimizer=optimizer, x=x, channels=all_channels, rows=rows) -> None:
            for first in range(0, len(x), rows):
                cut = slice(first, first + rows)
                error = channels[cut, :, :1] - peer(x[cut], channels[cut])
                loss = torch.maximum(levels * error, (levels - 1) * error).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        result.append([ms / batches for ms in medians([ours, theirs], 7, clock)])
    return {"ms": result}


SECTIONS = {
    "operation": ("torch", operation, {}),
    # PyTorch held to AVX2 in all its libraries, and the kernel too.
    "avx2": (
        "torch",
        operation,
        {
            "STATECAST_INSTRUCTIONS": "avx2",
            "ATEN_CPU_CAPABILITY": "avx2",
            "MKL_ENABLE_INSTRUCTIONS": "AVX2",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
        },
    ),
    "jax": ("jax", jax_section, {}),
    "torch": ("torch", keras_section, {}),
    "tensorflow": ("tensorflow", keras_section, {}),
    "inference": ("torch", inference_section, {}),
    "decoding": ("jax", decoding_section, {}),
    "forecaster": ("jax", forecaster_section, {}),
    # The CPU's time, which other work on the machine hardly moves.
    "forecaster_alone": (
        "jax",
        partial(forecaster_section, 1, time.process_time),
        {"STATECAST_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"},
    ),
}


def measured(section: str) -> dict[str, Any]:
    backend, _, settings = SECTIONS[section]
    environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"} | settings
    command = [sys.executable, __file__, section]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"{section}:\n{ran.stderr}")
    return json.loads(ran.stdout.splitlines()[-1])


# -- the page ------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines] + [""]


def times(ratio: float) -> str:
    return f"{ratio:.2f}x"


def against(head: str, names: Sequence[str], found: Mapping[str, Any]) -> list[str]:
    rows = [
        [name, f"{ms[0]:.3f} ms", *(times(other / ms[0]) for other in ms[1:])]
        for name, ms in zip(names, found["ms"], strict=True)
    ]
    return table([head, "native kernel", *found["peers"]], rows)


def machine() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":")[1].strip() if names else model
    return f"{model}, {len(os.sched_getaffinity(0))} CPUs, {platform.system()}"


def page(found: Mapping[str, Any]) -> str:
    """The page of the sections that ``found`` has."""
    packages = ("keras", "jax", "torch", "tensorflow-cpu", "onnxruntime", "openvino")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    ended = "." if found.keys() == SECTIONS.keys() else ", which has not ended yet."
    lines = [
        "# Speed of the native kernel, measured",
        "",
        f"On {machine()}; {found['operation']['status']}; {date.today()}. {versions}. Written by",
        f"`benchmarks/speed.py`, which `make bench` runs{ended}",
        f"Within a row both sides took turns in one process, on {THREADS} threads; medians of "
        f"{REPEATS}, of 5 for `fit` and `predict`.",
        "A turn is one call that is not counted, and then calls for 5 ms. *2x* means that the",
        "native kernel takes half the peer's time. OpenMP has its default wait policy.",
        "",
    ]
    for sections, part in PARTS:
        if found.keys() >= set(sections):
            lines += part(*(found[section] for section in sections))
    lines += [
        "## Not measured",
        "",
        "No GPU was available. On a GPU the backend's recurrence (cuDNN) runs, not this kernel.",
        "",
    ]
    return "\n".join(lines)


def operation_part(wide: Mapping[str, Any], avx2: Mapping[str, Any]) -> list[str]:
    lines = [
        "## Forward and backward in PyTorch, against its own layers",
        "",
        "The operation alone, without a head. The share is relative to the rate of PyTorch's",
        "matrix product (2048 by 2048), in the same process and on as many threads: "
        + " and ".join(f"{rate:.0f}" for rate in wide["product"])
        + " GF/s.",
        "",
    ]
    for kind in ("LSTM", "GRU"):
        rows = [
            [
                name,
                f"{row['train'][0]:.2f} ms",
                times(row["train"][1] / row["train"][0]),
                *(f"{share:.0%}" for share in row["shares"]),
                times(row["infer"][1] / row["infer"][0]),
                times(narrow["train"][1] / narrow["train"][0]),
            ]
            for name, row, narrow in zip(NAMES, wide[kind], avx2[kind], strict=True)
        ]
        columns = [
            HEAD, f"{kind}", f"nn.{kind}", "share, 1 thread", f"{THREADS} threads", "inference",
            "training, both held to AVX2",
        ]  # fmt: skip
        lines += table(columns, rows)
    return lines


def keras_part(
    jax: Mapping[str, Any], torch: Mapping[str, Any], tensorflow: Mapping[str, Any]
) -> list[str]:
    found = {"jax": jax, "torch": torch, "tensorflow": tensorflow}
    rows = []
    for i, name in enumerate(NAMES):
        cells = [name, times(jax["raw"][i][1] / jax["raw"][i][0])]
        for what in ("fit", "predict"):
            stock = {backend: found[backend][what][i][-1] for backend in found}
            best = min(stock, key=lambda backend: stock[backend])
            for backend in ("jax", "torch"):
                cells.append(times(stock[best] / found[backend][what][i][0]))
            cells.append(f"{best}, {stock[best]:.2f} ms")
        rows.append(cells)
    columns = [
        HEAD, "raw JAX", "`fit` on JAX", "`fit` on PyTorch", "fastest stock `fit`",
        "`predict` on JAX", "`predict` on PyTorch", "fastest stock `predict`",
    ]  # fmt: skip
    return [
        "## Training in JAX and in Keras",
        "",
        "One LSTM and a Dense(1), mean squared error. *Raw JAX* is value and gradient of the same",
        "network as a `lax.scan` at its best. `fit` and `predict` are Keras's, with Adam; the peer",
        "is the fastest of stock Keras's three backends, each in a process of its own.",
        "",
        *table(columns, rows),
    ]


def inference_part(found: Mapping[str, Any]) -> list[str]:
    return [
        "## Inference on NumPy arrays",
        "",
        "`Recurrence.run` against the runtimes that serve models: whole sequences, one LSTM.",
        "",
        *against(HEAD, NAMES, found),
    ]


def decoding_part(found: Mapping[str, Any]) -> list[str]:
    decoded = [", ".join(map(str, shape)) for shape in DECODED]
    return [
        "## Closed-loop decoding",
        "",
        "One LSTM whose output, an affine map of its state, is its next input: a jitted call on",
        "JAX. OpenVINO and Keras are Python loops over a compiled step.",
        "",
        *against("rows, steps, units", decoded, found),
    ]


def forecaster_part(wall: Mapping[str, Any], alone: Mapping[str, Any]) -> list[str]:
    rows = [
        [name, *(cell for ms in side for cell in (f"{ms[0]:.2f} ms", times(ms[1] / ms[0])))]
        for name, *side in zip(NAMES, wall["ms"], alone["ms"], strict=True)
    ]
    columns = [
        "batch, steps, -, units", "forecaster", "network on nn.LSTM", "forecaster, one thread",
        "network on nn.LSTM",
    ]  # fmt: skip
    return [
        "## A training step of the forecaster",
        "",
        "The whole step in `fit` on JAX: X to the state, the prefix, the closed loop, eleven",
        "quantiles, their loss, AdamW. The peer is the same network on `nn.LSTM` in PyTorch. It is",
        "given all values, so it has no closed loop. The columns of one thread are CPU time.",
        "",
        *table(columns, rows),
    ]


def call_part(found: Mapping[str, Any]) -> list[str]:
    call, plain = found["call"]
    return [
        "## What a call costs",
        "",
        f"- A jitted call that runs one step through XLA's custom call: {call:.1f} microseconds; a",
        f"  jitted matrix product: {plain:.1f}.",
        f"- A step of one row on NumPy arrays, 64 units: {found['numpy']:.1f} microseconds",
        "  (`Recurrence.step`).",
        "",
    ]


# The parts of the page in their order, each with the sections whose results it shows.
PARTS: list[tuple[tuple[str, ...], Callable[..., list[str]]]] = [
    (("operation", "avx2"), operation_part),
    (("jax", "torch", "tensorflow"), keras_part),
    (("inference",), inference_part),
    (("decoding",), decoding_part),
    (("forecaster", "forecaster_alone"), forecaster_part),
    (("jax",), call_part),
]


def main() -> None:
    found: dict[str, Any] = {}
    began = time.perf_counter()
    for i, section in enumerate(SECTIONS, 1):
        print(f"{i} of {len(SECTIONS)}: {section} ...", flush=True)
        found[section] = measured(section)
        path = DOCS / f"speed-{found['operation']['status'].partition(',')[0]}.md"
        path.write_text(page(found))
        minutes = (time.perf_counter() - began) / 60
        print(f"  {minutes:.1f} minutes; written to {path.name}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(SECTIONS[sys.argv[1]][1]()))
    else:
        main()
