"""The time of a small call on the native kernel and of ``nn.LSTM``, beside busy processes.

Run it from the root of the repository, without arguments, on a machine that does nothing else
(five minutes)::

    .venv/bin/python benchmarks/shared_cpus.py

It measures forward and backward of an LSTM, ours and PyTorch's in turn in one process, while other
processes keep the CPUs busy. ``docs/shared_cpus.md`` is written again after each section.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

PAGE = Path(__file__).parents[1] / "docs" / "shared_cpus.md"
SHAPE = 32, 30, 4, 32  # rows, steps, inputs, units
SECONDS = 7.0  # of measurement for each section
TURN = 0.02  # seconds
# The other processes end when the process that started them ends, even if it is killed.
BUSY = """
import os
parent = os.getppid()
while os.getppid() == parent:
    pass
"""
COMPUTING = """
import os, torch
torch.set_num_threads(2)
square = torch.randn(600, 600)
parent = os.getppid()
while os.getppid() == parent:
    square @ square
"""
# The name, the other processes, and the limit of the measured one: CPUs, or CPU time.
SECTIONS: list[tuple[str, list[list[str]], dict[str, float]]] = [
    ("alone", [], {}),
    ("1 busy process", [["-c", BUSY]], {}),
    ("2 busy processes", [["-c", BUSY]] * 2, {}),
    ("4 busy processes", [["-c", BUSY]] * 4, {}),
    ("1 that computes on two threads", [["-c", COMPUTING]], {}),
    ("a second process of our own", [[__file__, "--run"]], {}),
    ("alone, held to one CPU", [], {"cpus": 1}),
    ("alone, a quota of 1 CPU", [], {"quota": 1.0}),
    ("alone, a quota of 1.5 CPUs", [], {"quota": 1.5}),
]
THREADS = (1, 2)


# -- the measured process --------------------------------------------------------------------------


def sides(threads: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """Forward and backward of our LSTM and of PyTorch's."""
    os.environ["KERAS_BACKEND"] = "torch"
    import torch

    from statecast import cells
    from statecast.recurrence import run as recurrence

    torch.set_num_threads(threads)
    rows, steps, inputs, units = SHAPE
    cell = cells.LSTM(units)
    weights = {n: 0.1 * torch.randn(shape) for n, shape in cell.weight_shapes(inputs).items()}
    for weight in weights.values():
        weight.requires_grad_()
    x, given = torch.randn(rows, steps, inputs), torch.randn(rows, steps, units)
    state = {leaf: torch.zeros(rows, units) for leaf in cell.state_shapes}
    peer = torch.nn.LSTM(inputs, units, batch_first=True)

    def ours() -> None:
        recurrence.run(cell, weights, x, state, kernel="native")[0].backward(given)

    def theirs() -> None:
        peer(x)[0].backward(given)

    return ours, theirs


def settle() -> None:
    """Wait until no thread of this process is busy. OpenMP's wait busily after a call."""
    for _ in range(100):
        before = time.process_time()
        time.sleep(2e-3)
        if time.process_time() - before < 2e-4:
            return


def measure(threads: int) -> dict[str, Any]:
    """The milliseconds of a call of each side: elapsed time and CPU time."""
    from statecast.recurrence.kernels.native import library

    calls = dict(zip(("ours", "theirs"), sides(threads), strict=True))
    wall: dict[str, list[float]] = {name: [] for name in calls}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(10):
            call()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for name, call in calls.items():
            settle()
            call()
            count, spent, start = 0, time.process_time(), time.perf_counter()
            until = start + TURN
            while start < until:
                call()
                now = time.perf_counter()
                wall[name].append(1e3 * (now - start))
                count, start = count + 1, now
            cpu[name].append(1e3 * (time.process_time() - spent) / count)
    found: dict[str, Any] = {"status": library.status()}
    for name in calls:
        found[name] = {
            "median": float(np.median(wall[name])),
            "late": float(np.percentile(wall[name], 99)),
            "cpu": float(np.median(cpu[name])),
        }
    return found


def run_forever() -> None:
    """Run the kernel until the parent process ends."""
    ours, _ = sides(2)
    parent = os.getppid()
    while os.getppid() == parent:
        ours()


# -- the sections ----------------------------------------------------------------------------------


@contextmanager
def running(commands: list[list[str]]) -> Iterator[None]:
    """Run other Python processes with these arguments."""
    processes = [
        subprocess.Popen([sys.executable, *command], stderr=subprocess.DEVNULL)
        for command in commands
    ]
    try:
        time.sleep(8 if any("-c" not in c or COMPUTING in c for c in commands) else 0.5)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextmanager
def quota(cpus: float) -> Iterator[Path]:
    """A control group with a limit of CPU time; ``OSError`` if it cannot be made."""
    places = [Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")]
    place = next(p for p in places if (p / "cgroup.procs").exists())
    group = place / "statecast-benchmark"
    group.mkdir()
    try:
        if (group / "cpu.cfs_quota_us").exists():
            (group / "cpu.cfs_quota_us").write_text(str(int(cpus * 100_000)))
        else:
            (group / "cpu.max").write_text(f"{int(cpus * 100_000)} 100000")
        yield group
    finally:
        for _ in range(20):  # until the process is gone from it
            with suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.1)


def section(others: list[list[str]], held: dict[str, float], threads: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", str(threads)]
    with running(others):
        if "quota" in held:
            with quota(held["quota"]) as group:
                done = run([*command, str(group / "cgroup.procs")])
        else:
            done = run(["taskset", "-c", "0", *command] if held else command)
    return json.loads(done.splitlines()[-1])


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}:\n{done.stderr}")
    return done.stdout


def page(rows: list[str], whole: bool) -> str:
    from importlib.metadata import version

    return "\n".join(
        [
            "# A small call beside busy processes, measured",
            "",
            f"On {os.cpu_count()} CPUs, {platform.system()}; {date.today()}; torch "
            f"{version('torch')}. Written by `benchmarks/shared_cpus.py`"
            + ("." if whole else ", which has not ended yet."),
            "",
            "Forward and backward of an LSTM with 32 units on 32 rows of 30 steps and 4 inputs, in",
            "PyTorch: the native kernel and `nn.LSTM` in turn in one process, milliseconds a call.",
            f"A turn begins when no thread of the process works, and lasts {1e3 * TURN:.0f} ms. "
            "The ratio is that of",
            "the medians. CPU time is that of all threads of the process; the last column is ours",
            "over ours alone. [Threads](how_to/threads.md) says how many threads a call uses.",
            "",
            "| PyTorch's threads | beside | ours | `nn.LSTM` | ratio | 99th percentile "
            "| of `nn.LSTM` | CPU time | of `nn.LSTM` | over alone |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def main() -> None:
    rows: list[str] = []
    for threads in THREADS:
        alone = None
        for name, others, held in SECTIONS:
            print(f"{threads} threads, {name} ...", flush=True)
            try:
                found = section(others, held, threads)
            except (OSError, StopIteration) as error:  # a control group cannot be made here
                print(f"  not measured: {error}")
                rows.append(f"| {threads} | {name} | not measured here |" + " |" * 7)
                continue
            ours, theirs = found["ours"], found["theirs"]
            alone = alone or ours["cpu"]
            rows.append(
                f"| {threads} | {name} | {ours['median']:.2f} | {theirs['median']:.2f} "
                f"| {ours['median'] / theirs['median']:.2f} | {ours['late']:.1f} "
                f"| {theirs['late']:.1f} | {ours['cpu']:.2f} | {theirs['cpu']:.2f} "
                f"| {ours['cpu'] / alone:.2f} |"
            )
            print(f"  {found['status']}: {rows[-1]}", flush=True)
            PAGE.write_text(page(rows, whole=False))
    PAGE.write_text(page(rows, whole=True))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--run"]:
            run_forever()
        case ["--measure", threads, *groups]:
            for each in groups:
                Path(each).write_text(str(os.getpid()))
            print(json.dumps(measure(int(threads))))
        case _:
            main()
