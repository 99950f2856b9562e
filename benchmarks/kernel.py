"""The native kernel's speed beside its peers: PyTorch, JAX, and stock Keras on three backends.

Run it from the root of the repository, without arguments, on a machine that does nothing else::

    .venv/bin/python benchmarks/kernel.py

It starts itself once for each section, since Keras chooses its backend once. Within a section
the sides alternate in one process, and what counts is the ratio of their medians. It writes
``docs/speed.md``.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

PAGE = Path(__file__).parents[1] / "docs" / "speed.md"
SHAPES = [
    (32, 30, 4, 32),
    (256, 30, 4, 64),
    (256, 30, 4, 128),
    (1024, 30, 4, 128),
    (64, 100, 8, 256),
]
REPEATS = 15
THREADS = 2


def medians(sides: Sequence[Callable[[], Any]], repeats: int = REPEATS) -> list[float]:
    """Milliseconds of each side: medians over repeats in which the sides take turns."""
    took: list[list[float]] = [[] for _ in sides]
    for side in sides:
        side()
        side()
    for _ in range(repeats):
        for side, times in zip(sides, took, strict=True):
            start = time.perf_counter()
            side()
            times.append(1e3 * (time.perf_counter() - start))
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

    from statecast import cells, recurrence
    from statecast.kernels import native

    torch.set_num_threads(THREADS)
    square = torch.tensor(draw(2048, 2048))
    result: dict[str, Any] = {"status": native.status()}

    def rates(repeats: int = 5) -> list[float]:
        """SGEMM, GF/s, on one thread and on two."""
        found = []
        for threads in (1, THREADS):
            torch.set_num_threads(threads)
            (ms,) = medians([lambda: square @ square], repeats)
            found.append(2 * 2048**3 / ms / 1e6)
        return found

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
            sgemm = rates()
            alone = []
            for threads in (1, THREADS):
                native.use(os.environ.get("STATECAST_INSTRUCTIONS", ""), threads)
                alone += medians([ours])
            native.use(os.environ.get("STATECAST_INSTRUCTIONS", ""))
            work = flops((rows, steps, inputs, units), gates)
            shares = [work / ms / 1e6 / rate for ms, rate in zip(alone, sgemm, strict=True)]
            rows_of.append({"train": times, "infer": infers, "shares": shares, "sgemm": sgemm})
        result[kind] = rows_of
    return result


def jax_section() -> dict[str, Any]:
    """On JAX: value and gradient against a scan, Keras layers, and what a call costs."""
    import jax
    import jax.numpy as jnp
    from jax import lax, nn

    from statecast import Recurrence, cells, recurrence

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
    result["call"] = [1e3 * ms for ms in medians(calls, 2000)]
    cell = cells.LSTM(64)
    on_arrays = Recurrence(cell, {n: draw(*s) for n, s in cell.weight_shapes(4).items()})
    one, start = draw(1, 4), {leaf: np.zeros((1, 64), "float32") for leaf in "hc"}
    result["numpy"] = 1e3 * medians([lambda: on_arrays.step(one, start)], 5000)[0]
    return result | keras_section()


def keras_section() -> dict[str, Any]:
    """``fit`` and ``predict`` of one LSTM and a Dense, with Adam: stock Keras, and ours where the
    kernel serves the backend. Milliseconds a batch."""
    import keras

    from statecast import layers

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


def machine() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":")[1].strip() if names else model
    return f"{model}, {len(os.sched_getaffinity(0))} CPUs, {platform.system()}"


def page(found: Mapping[str, Any]) -> str:
    names = [", ".join(map(str, shape)) for shape in SHAPES]
    head = "batch, steps, in, units"
    packages = ("keras", "jax", "torch", "tensorflow-cpu")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    lines = [
        "# Speed of the native kernel, measured",
        "",
        f"On {machine()}; {found['operation']['status']}. {versions}. Written by",
        "`benchmarks/kernel.py`, which `make bench` runs. Within a row both sides took turns in",
        f"one process, on {THREADS} threads; medians of {REPEATS}, of 5 for `fit` and `predict`.",
        "*2x* says that the native kernel takes half the peer's time. OpenMP waits by default.",
        "",
        "## Forward and backward in PyTorch, against its own layers",
        "",
        "The operation by itself, without a head. The share is that of the rate of PyTorch's",
        "matrix product (2048 by 2048), in the same process and on as many threads.",
        "",
    ]
    for kind in ("LSTM", "GRU"):
        rows = []
        for name, row, narrow in zip(
            names, found["operation"][kind], found["avx2"][kind], strict=True
        ):
            rows.append(
                [
                    name,
                    f"{row['train'][0]:.2f} ms",
                    times(row["train"][1] / row["train"][0]),
                    *(f"{share:.0%}" for share in row["shares"]),
                    times(row["infer"][1] / row["infer"][0]),
                    times(narrow["train"][1] / narrow["train"][0]),
                ]
            )
        columns = [
            head, f"{kind}", f"nn.{kind}", "share, 1 thread", f"{THREADS} threads", "inference",
            "training, both held to AVX2",
        ]  # fmt: skip
        lines += table(columns, rows)
    lines += [
        "## Training in JAX and in Keras",
        "",
        "One LSTM and a Dense(1), mean squared error. *Raw JAX* is value and gradient of the same",
        "network as a `lax.scan` at its best. `fit` and `predict` are Keras's, with Adam; the peer",
        "is the fastest of stock Keras's three backends, each in a process of its own.",
        "",
    ]
    rows = []
    for i, name in enumerate(names):
        cells = [name, times(found["jax"]["raw"][i][1] / found["jax"]["raw"][i][0])]
        for what in ("fit", "predict"):
            stock = {b: found[b][what][i][-1] for b in ("jax", "torch", "tensorflow")}
            best = min(stock, key=lambda backend: stock[backend])
            for backend in ("jax", "torch"):
                cells.append(times(stock[best] / found[backend][what][i][0]))
            cells.append(f"{best}, {stock[best]:.2f} ms")
        rows.append(cells)
    columns = [
        head, "raw JAX", "`fit` on JAX", "`fit` on PyTorch", "fastest stock `fit`",
        "`predict` on JAX", "`predict` on PyTorch", "fastest stock `predict`",
    ]  # fmt: skip
    lines += table(columns, rows)
    call, plain = found["jax"]["call"]
    lines += [
        "## What a call costs",
        "",
        f"- A jitted call that runs one step through XLA's custom call: {call:.1f} microseconds; a",
        f"  jitted matrix product: {plain:.1f}.",
        f"- A step of one row on NumPy arrays, 64 units: {found['jax']['numpy']:.1f} microseconds",
        "  (`Recurrence.step`).",
        "",
        "## Not measured",
        "",
        "No GPU was at hand. ONNX Runtime and OpenVINO were not run. The forecaster does not use",
        "the kernel yet, so neither its training step nor closed-loop decoding is here.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(SECTIONS[sys.argv[1]][1]()))
    else:
        PAGE.write_text(page({section: measured(section) for section in SECTIONS}))
        print(f"Wrote {PAGE.relative_to(Path.cwd())}.")
