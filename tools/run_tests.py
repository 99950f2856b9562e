"""The tests, once for each backend of Keras, two backends at a time where there are two CPUs.

    python tools/run_tests.py torch jax tensorflow

The first backend runs every test, and its output is shown as it comes. The others run the tests
of what a backend computes (marked ``backends``). Their output is shown at the end, and is in
``build/tests`` meanwhile.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "tests"


def run(backend: str, log: Path | None) -> float | None:
    """Run a backend's tests: the minutes it took, or None if they failed.

    Without ``log`` all tests, with their output on the terminal; else those of what a backend
    computes.
    """
    command = [sys.executable, "-m", "pytest", "-q", "tests"]
    began = time.monotonic()
    with ExitStack() as stack:
        to: dict[str, Any] = {}
        if log is not None:
            command += ["-m", "backends"]
            to = {"stdout": stack.enter_context(log.open("wb")), "stderr": subprocess.STDOUT}
        environment = os.environ | {"KERAS_BACKEND": backend}
        done = subprocess.run(command, cwd=ROOT, env=environment, check=False, **to)
    return None if done.returncode else (time.monotonic() - began) / 60


def cpus() -> int:
    """The CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def main() -> None:
    first, *others = sys.argv[1:]
    FOLDER.mkdir(parents=True, exist_ok=True)
    logs = {backend: FOLDER / f"{backend}.log" for backend in others}
    took: dict[str, float | None] = {}
    stopped = threading.Event()

    def run_others() -> None:
        for backend, log in logs.items():
            if not stopped.is_set():
                took[backend] = run(backend, log)

    beside = threading.Thread(target=run_others)
    at_once = cpus() > 1
    if at_once:
        beside.start()
    print(f"== Tests on {first}: all of them ==", flush=True)
    try:
        took[first] = run(first, None)
        if not at_once:
            beside.start()
        beside.join()
    except KeyboardInterrupt:  # those that run were told too: no further backend begins
        stopped.set()
        sys.exit("Interrupted.")
    for backend, log in logs.items():
        print(f"\n== Tests on {backend}: those of what a backend computes ==")
        print(log.read_text(encoding="utf-8", errors="replace"))
    passed = [f"{b} ({m:.1f} minutes)" for b, m in took.items() if m is not None]
    print(f"Tests passed on: {', '.join(passed) or 'no backend'}.")
    if failed := [backend for backend, minutes in took.items() if minutes is None]:
        sys.exit(f"Tests FAILED on: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
