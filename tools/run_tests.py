"""The tests, several runs of pytest at a time.

    python tools/run_tests.py jax tensorflow torch

The tests of what a backend computes (marked ``backends``) run on each of these backends, in a run
for each. All other tests run once, on the last one, in two runs: those of processes that serve,
work together or are killed, and the rest. On TensorFlow only the tests of layers and networks run,
unless SLOW=1 or CI=true. The output of a run is shown when it ends, and is in
``build/tests`` meanwhile. Every half minute a line says how far the runs are.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "tests"
EVERY = 30.0  # seconds between two lines of progress
# TensorFlow traces every function anew, and takes longer than the other backends. Unless everything
# runs, only the tests of layers and networks run on it.
EVERYTHING = os.environ.get("CI") == "true" or bool(os.environ.get("SLOW"))
OF_LAYERS = [f"tests/{name}" for name in ("control", "heads", "layers", "networks", "recurrence")]
OF_PROCESSES = [
    f"tests/{name}" for name in ("cli", "distributed", "playground", "server", "sessions")
]


@dataclass(frozen=True)
class Run:
    """A run of pytest in a process of its own: tests of some paths with a mark, on a backend."""

    name: str
    backend: str
    mark: str
    paths: Sequence[str] = ("tests",)

    @property
    def log(self) -> Path:
        return FOLDER / f"{self.name}.log"

    def do(self, threads: int) -> float | None:
        """Run the tests: the minutes it took, or None if some failed.

        ``threads`` is the number for OpenMP; 0 leaves it as it is.
        """
        began = time.monotonic()
        paths = marked(self.paths) if self.mark == "backends" else self.paths
        command = [sys.executable, "-m", "pytest", "-q", *paths, "-m", self.mark]
        command += ["--durations=12", "--durations-min=4"]  # what to look at if a run takes long
        environment = os.environ | {"KERAS_BACKEND": self.backend}
        if threads:
            environment["OMP_NUM_THREADS"] = str(threads)
        with self.log.open("wb") as log:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, check=False, stdout=log, stderr=log
            )
        return None if done.returncode else (time.monotonic() - began) / 60

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def progress(self) -> str:
        """How far it is, by pytest's last percentage."""
        reached = re.findall(r"\[ *(\d+%)\]", self.output())
        return f"{self.name} {reached[-1] if reached else 'waits or begins'}"


def marked(folders: Sequence[str]) -> list[str]:
    """The files of tests that name the mark ``backends``: to import all others takes seconds."""
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("test_*.py"))]
    return [str(path) for path in files if "backends" in path.read_text(encoding="utf-8")]


def cpus() -> int:
    """The CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def main() -> None:
    backends = sys.argv[1:]
    rest = ["tests", *(f"--ignore={path}" for path in OF_PROCESSES)]
    # The shortest run, of the last backend, is the last one: so the CPUs are busy to the end.
    runs = [
        Run("processes", backends[-1], "not backends", OF_PROCESSES),
        Run("others", backends[-1], "not backends", rest),
    ]
    for backend in backends:
        few = backend == "tensorflow" and not EVERYTHING
        runs.append(Run(backend, backend, "backends", OF_LAYERS if few else ("tests",)))
    FOLDER.mkdir(parents=True, exist_ok=True)
    for run in runs:
        run.log.unlink(missing_ok=True)
    # The first run waits for other processes most of its time, so that one more has a CPU.
    at_once = 3 if cpus() > 1 else 1
    # Runs share the CPUs: threads of one that wait for a CPU in a loop would take it from another.
    threads = cpus() // 2 if at_once > 1 else 0
    names = ", ".join(run.name for run in runs)
    print(f"{len(runs)} runs of pytest, {at_once} at a time: {names}", flush=True)
    took: dict[str, float | None] = {}
    with ThreadPoolExecutor(at_once) as pool:
        left: dict[Future[float | None], Run] = {pool.submit(run.do, threads): run for run in runs}
        try:
            while left:
                ended = wait(left, timeout=EVERY, return_when=FIRST_COMPLETED).done
                for future in ended:
                    run = left.pop(future)
                    took[run.name] = future.result()
                    print(f"\n== {run.name}: tests marked {run.mark!r}, on {run.backend} ==")
                    print(run.output(), flush=True)
                if left and not ended:
                    print(", ".join(run.progress() for run in left.values()), flush=True)
        except KeyboardInterrupt:  # the runs were interrupted too; no further one begins
            pool.shutdown(cancel_futures=True)
            sys.exit("Interrupted.")
    passed = [f"{name} ({minutes:.1f} minutes)" for name, minutes in took.items() if minutes]
    print(f"Tests passed: {', '.join(passed) or 'none'}.")
    if failed := [name for name, minutes in took.items() if minutes is None]:
        sys.exit(f"Tests FAILED: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
