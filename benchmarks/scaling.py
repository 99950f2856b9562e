"""What the recurrence costs as items, steps, units and threads grow, and the memory it takes; and
what it takes to read a series from a Parquet file.

Run it from the root of the repository, without arguments, on a machine that does nothing else::

    .venv/bin/python benchmarks/scaling.py

It measures forward and backward of one LSTM in PyTorch on the native kernel, and the way from a
file to a ``Panel``; it writes ``docs/scaling.md`` and ``docs/scaling.svg``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

DOCS = Path(__file__).parents[1] / "docs"
ROWS, STEPS, INPUTS, UNITS = 256, 30, 4, 64
SWEEPS = {
    "items": [64, 256, 1024, 4096, 16384],
    "steps": [10, 30, 100, 300, 1000],
    "units": [16, 32, 64, 128, 256, 512],
}
FILES = [300_000, 3_000_000, 30_000_000]  # rows of a series, STEPS an item


def step(rows: int, steps: int, units: int, threads: int = 0, seconds: float = 2.0) -> float:
    """Median milliseconds of a forward and backward pass, over at least 9 and as many as take so
    long; 0 threads: all there are."""
    import torch

    from statecast import cells
    from statecast.recurrence import run as recurrence
    from statecast.recurrence.kernels.native import library

    library.use(threads=threads)
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.tensor(rng.standard_normal(shape).astype("float32") * 0.1)

    cell = cells.LSTM(units)
    weights = {n: draw(*s).requires_grad_() for n, s in cell.weight_shapes(INPUTS).items()}
    x, gradient = draw(rows, steps, INPUTS), draw(rows, steps, units)
    state = {leaf: torch.zeros(rows, units) for leaf in "hc"}
    took: list[float] = []
    until = time.perf_counter() + seconds
    while len(took) < 11 or time.perf_counter() < until:
        begin = time.perf_counter()
        recurrence.run(cell, weights, x, state, kernel="native")[0].backward(gradient)
        took.append(1e3 * (time.perf_counter() - begin))
    library.use()
    return float(np.median(took[2:]))


def peak() -> float:
    """MiB that this process has held at its most. Not by ``resource``: there a process begins with
    the peak of the one that started it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("The peak of the memory is read from /proc, which Linux has.")


def memory(rows: int) -> float:
    """MiB that a pass adds to what the process held at its most before."""
    step(1, 1, UNITS, seconds=0)
    before = peak()
    step(rows, STEPS, UNITS, seconds=0)
    return peak() - before


def reading(rows: int) -> list[float]:
    """Seconds of ``Schema.fit`` and of ``Schema.panel`` from a Parquet file, the MiB of the panel,
    and the MiB that the process held beyond it at its most."""
    import polars as pl

    from statecast.tables.schema import Schema

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/series.parquet"
        lazy = pl.LazyFrame({"row": pl.int_range(rows, eager=True)}).select(
            unique_id=pl.col("row") // STEPS,
            ds=pl.col("row") % STEPS + 1,
            y=(pl.col("row") * 0.7).sin().exp(),
        )
        lazy.sink_parquet(path)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before, begin = peak(), time.perf_counter()
        schema = Schema.fit(path)
        middle = time.perf_counter()
        panel = schema.panel(path)
        end, most = time.perf_counter(), peak()
    held = (panel.y.nbytes + panel.mask.nbytes + panel.ids.nbytes) / 2**20
    return [middle - begin, end - middle, held, most - before - held]


def apart(what: str, rows: int) -> Any:
    """What ``memory`` or ``reading`` finds in a process of its own: a peak is for good."""
    ran = subprocess.run(
        [sys.executable, __file__, what, str(rows)], capture_output=True, text=True, check=True
    )
    return json.loads(ran.stdout.splitlines()[-1])


def measured() -> dict[str, list[Any]]:
    found = {
        "items": [step(rows, STEPS, UNITS) for rows in SWEEPS["items"]],
        "steps": [step(ROWS, steps, UNITS) for steps in SWEEPS["steps"]],
        "units": [step(ROWS, STEPS, units) for units in SWEEPS["units"]],
    }
    found["one thread"] = [step(rows, STEPS, UNITS, threads=1) for rows in SWEEPS["items"]]
    found["memory"] = [apart("memory", rows) for rows in SWEEPS["items"]]
    found["files"] = [apart("reading", rows) for rows in FILES]
    return found


def plot(found: dict[str, list[Any]]) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "statecast"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(14, 3.4), layout="constrained")
    for axis, name in zip(axes, SWEEPS, strict=False):
        axis.loglog(SWEEPS[name], found[name], "o-", label="all threads")
        if name == "items":
            axis.loglog(SWEEPS[name], found["one thread"], "s--", label="one thread")
        middle = len(SWEEPS[name]) // 2
        power = 2 if name == "units" else 1
        guide = [found[name][middle] * (n / SWEEPS[name][middle]) ** power for n in SWEEPS[name]]
        axis.loglog(
            SWEEPS[name], guide, ":", color="grey", label="squared" if power == 2 else "linear"
        )
        axis.set(xlabel=name, ylabel="ms")
        axis.legend()
    axes[3].loglog(SWEEPS["items"], found["memory"], "o-")
    axes[3].set(xlabel="items", ylabel="MiB")
    figure.savefig(DOCS / "scaling.svg", metadata={"Date": None})


def page(found: dict[str, list[Any]]) -> str:
    from statecast.recurrence.kernels.native import library

    lines = [
        "# How the cost grows",
        "",
        f"Forward and backward of one LSTM in PyTorch on the native kernel ({library.status()}):",
        f"{ROWS} items, {STEPS} steps, {INPUTS} inputs, {UNITS} units, but for the one that grows.",
        "Written by `benchmarks/scaling.py`, which `make bench` runs.",
        "",
        "![Time and memory against items, steps and units](scaling.svg)",
        "",
    ]
    for name, sizes in SWEEPS.items():
        took = found[name]
        rows = [
            [f"{size}", f"{ms:.2f} ms", f"{1e6 * ms / _work(name, size):.3f}"]
            for size, ms in zip(sizes, took, strict=True)
        ]
        head = [name, "time", "nanoseconds an item, step and unit"]
        if name == "items":
            head += ["on one thread", "memory"]
            for row, ms, mib in zip(rows, found["one thread"], found["memory"], strict=True):
                row += [f"{ms:.2f} ms", f"{mib:.0f} MiB"]
        lines += ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
        lines += [""]
    lines += [
        "If the nanoseconds in a column are constant, the cost is linear. They grow linearly with",
        "the units, since there are units x units recurrent weights. Memory is what the call adds",
        "to the process: inputs, outputs, their gradients, and five numbers for each item, step",
        "and unit, which the backward pass needs.",
        "",
        f"A series in a Parquet file, with {STEPS} steps an item: the time of `Schema.fit` and",
        "`Schema.panel`, the memory of the panel, and the largest further memory of the process.",
        "",
        "| rows | `Schema.fit` | `Schema.panel` | panel | memory beyond it |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {rows:,} | {fit:.1f} s | {panel:.1f} s | {held:.0f} MiB | {beyond:.0f} MiB |"
        for rows, (fit, panel, held, beyond) in zip(FILES, found["files"], strict=True)
    ]
    lines += [""]
    return "\n".join(lines)


def _work(name: str, size: int) -> int:
    sizes = {"items": ROWS, "steps": STEPS, "units": UNITS} | {name: size}
    return sizes["items"] * sizes["steps"] * sizes["units"]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        take = {"memory": memory, "reading": reading}[sys.argv[1]]
        print(json.dumps(take(int(sys.argv[2]))))
    else:
        os.environ["KERAS_BACKEND"] = "torch"
        results = measured()
        plot(results)
        (DOCS / "scaling.md").write_text(page(results))
        print("Wrote docs/scaling.md and docs/scaling.svg.")
