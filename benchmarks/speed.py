"""The speed of the native kernel and of a fit, beside PyTorch, JAX, stock Keras on three backends,
ONNX Runtime and OpenVINO.

Run it from the root of the repository, on a machine that does nothing else::

    .venv/bin/python -m pip install -e '.[bench]'
    .venv/bin/python benchmarks/speed.py                  # everything, in at most ten minutes
    .venv/bin/python benchmarks/speed.py --list           # the sections and their rows
    .venv/bin/python benchmarks/speed.py --section layer --row '256, 30, 4, 64'
    .venv/bin/python benchmarks/speed.py --page           # write the page again

Each row is saved in ``docs/speed.csv`` when it ends, in place of the same row of the same machine.
``docs/speed.md`` is made from it. A row that was measured today is not repeated without
``--again``, so that a run may be stopped at any time; ``--section`` and ``--row`` repeat what they
name. A process measures the rows of one section on one backend, since Keras chooses its backend
once. A row or a process that fails is named, and the others are measured.

``speed_rows.py`` has what is measured, ``speed_page.py`` the file and the page.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import speed_rows as measured
from speed_page import Line, Machine, Results, Section, page
from speed_rows import BACKENDS, SHAPES, turns

from statecast.files import write_whole
from statecast.recurrence.kernels.native import library

ROOT = Path(__file__).parents[1]
PACKAGES = {"keras": "keras", "jax": "jax", "torch": "torch", "tensorflow": "tensorflow-cpu",
            "onnxruntime": "onnxruntime", "openvino": "openvino"}  # fmt: skip

# -- the sections ---------------------------------------------------------------------------------


KINDS = [f"{kind} {shape}" for kind in ("LSTM", "GRU") for shape in SHAPES]
ONE = {"STATECAST_THREADS": "1"}
# PyTorch held to AVX2 in all its libraries, and the kernel too.
AVX2 = {"STATECAST_INSTRUCTIONS": "avx2", "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}  # fmt: skip
# In the order in which they are measured: a run without time leaves out the last ones.
SECTIONS = {
    "operation": Section(
        "Forward and backward in PyTorch, against its own layers",
        "The operation alone, without a head. *Matrix products* are as many operations in products "
        "of 2048 by 2048 by PyTorch: at 0.9x the operation reaches 90 % of their rate.",
        KINDS, turns(measured.operation), ["torch"],
    ),
    "bfloat16": Section(
        "Forward and backward with weights of bfloat16",
        "The operation in PyTorch: factors of products in bfloat16, sums and the state in float32. "
        "Beside it the same in float32, and PyTorch's layer under `torch.autocast`.",
        KINDS, turns(measured.halved), ["torch"],
    ),
    "layer": Section(
        "A Keras layer as it is called on PyTorch",
        "`statecast.layers.LSTM(units, return_sequences=True)(x)`, forward and backward. *An idle "
        "Keras layer* computes nothing: what Keras itself takes for a call.",
        SHAPES, turns(measured.layer), ["torch"], seconds=4,
    ),
    "fit": Section(
        "`fit` of a Keras model",
        "One LSTM and a Dense(1), mean squared error, Adam; the time of a batch. Each backend has "
        "a process of its own, so that a comparison across backends is that of two medians. *Dense "
        "alone* is a model without the LSTM.",
        SHAPES, turns(partial(measured.keras_model, method="fit")), list(BACKENDS), seconds=4,
        start=20,
    ),
    "inference": Section(
        "Inference on NumPy arrays",
        "`Recurrence.run` against the runtimes that serve models: whole sequences, one LSTM. "
        "*Matrix products* are as many operations as its products have, in products of 2048 by "
        "2048: its functions come on top.",
        SHAPES, turns(measured.inference), ["torch"], seconds=3,
    ),
    "decoding": Section(
        "Closed-loop decoding",
        "One LSTM whose output, an affine map of its state, is its next input: a jitted call on "
        "JAX. OpenVINO and Keras are Python loops over a compiled step. *Matrix products* as for "
        "inference.",
        ("4096, 27, 64", "256, 27, 64", "1, 30, 64"), turns(measured.decoding), ["jax"],
        head="rows, steps, units", seconds=8, start=30,
    ),
    "growth": Section(
        "A fit of growth",
        "`Forecaster(seed=0).fit` to 71 children (`statecast.data.growth`, without fold 0): CPU "
        "time of the first and of the second fit in a process. Imports are not part of it.",
        measured.GROWTH_ROWS, measured.growth, list(BACKENDS), head="fit", unit="s of CPU",
        seconds=10, start=15,
    ),
    "items": Section(
        "A fit of many items",
        f"{measured.ITEMS:,} series of counts of up to 52 steps, three future covariates, the "
        f"negative binomial head, without analogues: CPU time of {measured.EPOCHS} epochs. It is "
        f"extrapolated: {measured.RUN} epochs are run, and each missing one is counted as one of "
        "those after the first.",
        (f"{measured.EPOCHS} epochs",), measured.items, ["jax"], head="fit", unit="s of CPU",
        seconds=30,
    ),
    "forecaster": Section(
        "A training step of the forecaster",
        "The whole step in `fit` on JAX: X to the state, the prefix, the closed loop, eleven "
        "quantiles, their loss, AdamW. The peer is the same network on `nn.LSTM` in PyTorch. It is "
        "given all values, so it has no closed loop.",
        SHAPES, turns(measured.forecaster), ["jax"], head="batch, steps, (inputs), units",
        seconds=4, start=15,
    ),
    "layers": Section(
        "A training step of the forecaster with two layers",
        "As above; the peer is on `nn.LSTM` with two layers.",
        SHAPES, turns(partial(measured.forecaster, layers=2)), ["jax"],
        head="batch, steps, (inputs), units", seconds=4, start=20,
    ),
    "jax": Section(
        "Value and gradient in JAX",
        "One LSTM and an affine map to one value, mean squared error, jitted; against the same "
        "network as a `lax.scan` at its best.",
        SHAPES, turns(measured.in_jax), ["jax"], start=12,
    ),
    "predict": Section(
        "`predict` of a Keras model", "The model of `fit`; the time of a batch.",
        SHAPES, turns(partial(measured.keras_model, method="predict")), list(BACKENDS), start=12,
    ),
    "operation_inference": Section(
        "The operation in PyTorch without gradients", "Under `torch.inference_mode`.",
        KINDS, turns(partial(measured.operation, infer=True, products=False)), ["torch"], seconds=1,
    ),
    "operation_one_thread": Section(
        "Forward and backward in PyTorch, on one thread", "The ratio to matrix products, too, is "
        "that of one thread.", KINDS, turns(measured.operation), ["torch"], settings=ONE,
    ),
    "operation_avx2": Section(
        "Forward and backward in PyTorch, with AVX2 alone",
        "PyTorch and its libraries are held to AVX2 too.",
        KINDS, turns(partial(measured.operation, products=False)), ["torch"], settings=AVX2,
    ),
    "forecaster_one_thread": Section(
        "A training step of the forecaster, on one thread",
        "CPU time, which other work on the machine hardly changes.",
        SHAPES, turns(measured.forecaster, time.process_time), ["jax"],
        head="batch, steps, (inputs), units", unit="ms of CPU", seconds=4, start=15,
        settings=ONE | {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"},
    ),
    "call": Section(
        "What a call costs",
        "A jitted call that runs one step through XLA's custom call, beside a jitted matrix "
        "product; and `Recurrence.step` with 64 units.",
        ("a jitted call of one step", "a step of one row on NumPy arrays"),
        turns(measured.one_call), ["jax"], head="call", seconds=1,
    ),
}  # fmt: skip


# -- measuring, in a process of its own ------------------------------------------------------------


def measure(section: Section, rows: Sequence[str], seconds: float) -> None:
    """Measure rows, and print a line of JSON for each one as it ends."""
    for row in rows:
        ended: dict[str, Any] = {"row": row}
        try:
            ended["times"] = section.measure(row, seconds)
        except Exception as error:  # the other rows are measured all the same
            ended["error"] = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
        loaded = [package for package in PACKAGES if package in sys.modules]
        ended["packages"] = ", ".join(f"{each} {version(PACKAGES[each])}" for each in loaded)
        ended["left_out"] = sorted(measured.left_out)
        print(json.dumps(ended), flush=True)


# -- the run ---------------------------------------------------------------------------------------


def machine() -> Machine:
    """Return the processor with its number of CPUs, and the kernel's instruction set."""
    if isinstance(library.find(), str):
        raise SystemExit(f"There is nothing to measure: {library.status()}")
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            model = line.split(":")[1].strip()
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cpus} CPUs", library.status().partition(",")[0]


@dataclass
class Process:
    """The rows of a section that one process measures."""

    name: str
    backend: str
    rows: list[str]

    @property
    def section(self) -> Section:
        return SECTIONS[self.name]

    @property
    def seconds(self) -> float:
        """Of turns, as the section asks for."""
        return self.section.seconds * len(self.rows)

    def environment(self) -> dict[str, str]:
        """Return its environment. JAX keeps nothing from earlier processes."""
        given = os.environ | {"KERAS_BACKEND": self.backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        given.pop("JAX_COMPILATION_CACHE_DIR", None)
        return {**given, **self.section.settings}


class Run:
    """Processes one after the other, within a time."""

    def __init__(self, results: Results, processes: Sequence[Process], minutes: float) -> None:
        self.results, self.processes = results, list(processes)
        self.machine = machine()
        self.until = time.monotonic() + 60 * minutes
        self.missing: dict[str, str] = {}  # why a row was not measured
        self.left_out: set[str] = set()
        self.lower: list[str] = []  # ratios that fell by more than 3 %

    def left(self, first: int, pace: float) -> float:
        """The seconds that the processes from ``first`` on take, about."""
        return sum(p.section.start + pace * p.seconds for p in self.processes[first:])

    def pace(self, first: int) -> float:
        """How much of the seconds that sections ask for there is time for."""
        turns = self.left(first, 1.0) - self.left(first, 0.0)
        return min(1.0, max(0.0, self.until - time.monotonic() - self.left(first, 0.0)) / turns)

    def all(self) -> None:
        for i, process in enumerate(self.processes):
            pace = self.pace(i)
            print(
                f"{i + 1} of {len(self.processes)}: {process.name} on {BACKENDS[process.backend]}, "
                f"{self.left(i, pace) / 60:.1f} minutes left",
                flush=True,
            )
            if find_spec(process.backend) is None:
                self.left_out.add(process.backend)
                self.miss(process, process.rows, "not installed")
            elif time.monotonic() + process.section.start > self.until:
                self.miss(process, process.rows, "no time was left; run again to go on")
            else:
                self.one(process, pace)

    def miss(self, process: Process, rows: Sequence[str], why: str) -> None:
        for row in rows:
            self.missing[f"{process.name} on {BACKENDS[process.backend]}: {row}"] = why

    def one(self, process: Process, pace: float) -> None:
        """Run a process, and save each row as it ends."""
        seconds, open_rows = pace * process.section.seconds, list(process.rows)
        command = [sys.executable, __file__, "--measure", f"{seconds}", "--section", process.name]
        for row in process.rows:
            command += ["--row", row]
        with tempfile.TemporaryFile("w+") as errors:
            child = subprocess.Popen(
                command, env=process.environment(), stdout=subprocess.PIPE, stderr=errors, text=True
            )
            limit = threading.Timer(120 + 5 * (process.seconds + process.section.start), child.kill)
            limit.start()
            try:
                assert child.stdout is not None
                for text in child.stdout:
                    if text.startswith('{"row"'):
                        ended = json.loads(text)
                        open_rows.remove(ended["row"])
                        self.save(process, ended)
                child.wait()
            finally:
                limit.cancel()
                child.kill()
            errors.seek(0)
            last = (errors.read().strip() or "nothing on stderr").splitlines()[-1]
        self.miss(process, open_rows, f"the process ended with {child.returncode}: {last}")

    def save(self, process: Process, ended: dict[str, Any]) -> None:
        self.left_out |= set(ended["left_out"])
        if "error" in ended:
            self.miss(process, [ended["row"]], ended["error"])
            print(f"  {ended['row']}: {ended['error']}", flush=True)
            return
        shared = Line(
            *self.machine, str(date.today()), process.name, ended["row"], process.backend, "",
            process.section.unit, packages=ended["packages"],
        )  # fmt: skip
        before = {
            line.side: line for line in self.results.find(self.machine, process.name, ended["row"])
        }
        figures = []
        for line in (lines := shared.of(ended["times"])):
            old = before.get(line.side, line)
            if line.ratio is None:
                figures.append(f"{line.side} {line.median:.4g} {line.unit}")
                continue
            figures.append(f"{line.side} {line.ratio:.2f}x")
            if old.ratio and line.ratio < 0.97 * old.ratio:
                was = f"{old.ratio:.2f}x on {old.date}"
                self.lower.append(f"{process.name}: {line.row}: {figures[-1]}, was {was}")
        self.results.put(lines)
        write_page(self.results)
        print(f"  {ended['row']}: {'; '.join(figures)}", flush=True)


def write_page(results: Results) -> None:
    write_whole(results.path.with_suffix(".md"), page(results, SECTIONS).encode())


def planned(
    results: Results, names: Sequence[str], texts: Sequence[str], *, again: bool
) -> list[Process]:
    """Return the processes that measure what was asked for and is not of today yet."""
    here, now = machine(), str(date.today())
    today = {
        (line.section, line.row, line.backend)
        for line in results.lines
        if (line.machine, line.date) == (here, now)
    }
    processes = []
    for name in names or SECTIONS:
        for backend in SECTIONS[name].backends:
            rows = [
                row
                for row in SECTIONS[name].rows
                if (not texts or any(text in row for text in texts))
                and (again or (name, row, backend) not in today)
            ]
            if rows:
                processes.append(Process(name, backend, rows))
    return processes


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    add = parser.add_argument
    add("--section", nargs="+", default=[], choices=SECTIONS, metavar="NAME", help="only these")
    add("--row", action="append", default=[], help="only rows with this text in their name")
    add("--list", action="store_true", help="print the sections and their rows")
    add("--again", action="store_true", help="repeat rows that were measured today")
    add("--page", action="store_true", help="write the page, and measure nothing")
    add("--minutes", type=float, default=10.0, help="for the run; rows have fewer turns in less")
    add("--results", type=Path, default=ROOT / "docs" / "speed.csv", help="the page is beside it")
    add("--measure", type=float, help=argparse.SUPPRESS)  # in a process of a run: seconds a row
    given = parser.parse_args()
    if given.measure is not None:
        return measure(SECTIONS[given.section[0]], given.row, given.measure)
    if given.list:
        for name, section in SECTIONS.items():
            print(f"{name}: {section.title}", *section.rows, sep="\n    ")
        return None
    results = Results(given.results, SECTIONS)
    if given.page:
        return write_page(results)
    again = given.again or bool(given.section or given.row)
    run = Run(results, planned(results, given.section, given.row, again=again), given.minutes)
    if given.row and not run.processes:
        raise SystemExit(f"No row has {' or '.join(given.row)} in its name; see --list.")
    if not run.processes:
        print("All rows were measured today; --again repeats them.")
    try:
        run.all()
    except KeyboardInterrupt:
        raise SystemExit("Stopped. What ended is saved.") from None
    for each in run.lower:
        print(f"Lower by more than 3 %: {each}")
    for package in sorted(run.left_out):
        print(f"Not installed, and left out: {package}")
    for name, why in run.missing.items():
        print(f"Not measured: {name}: {why}")
    print(f"Written: {results.path} and {results.path.with_suffix('.md')}")
    return sys.exit(bool(run.missing))


if __name__ == "__main__":
    main()
