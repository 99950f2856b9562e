"""What sessions cost: acknowledged observations a second, their latency, the time to be ready after
a restart, memory, and bytes of disk.

Run it from the root of the repository, on a machine that does nothing else::

    .venv/bin/python benchmarks/sessions.py
    .venv/bin/python benchmarks/sessions.py --items 100000 --folder /mnt/disk --durability relaxed

The model is that of the growth study with the default sizes. The store is a new file in
``--folder`` (default: ``build/``; a folder in memory would hide the cost of a sync), which is
deleted at the end.
Results are printed, and written to ``build/sessions.json`` after each section.

The sections:

- ``fill``: each item is observed for the first time, with its static features, in large calls;
- ``batches``: threads observe items drawn at random, in order of their steps. Each waits for its
  answer before its next call. Most items are not in memory;
- ``mixed``: the same with 10 % duplicates and 10 % late observations;
- ``single``: threads observe one item in each call;
- ``long``, with ``--long 10_000_000``: so many observations in batches, and the memory that the
  process holds after each tenth of them;
- ``restart``: the sessions are opened, and one item is forecast.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from statecast import Forecaster, Sessions
from statecast.data import growth

BUILD = Path(__file__).parents[1] / "build"
STEPS = 31  # of the growth study: an item that has taken them is not observed any more


def resident() -> float:
    """MiB that this process holds."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("Memory is read from /proc, which Linux has.")


class Load:
    """The items, and threads that observe them."""

    def __init__(self, sessions: Sessions, items: int, rows: int, threads: int) -> None:
        self.sessions, self.rows, self.threads = sessions, rows, threads
        self.step = np.zeros(items, np.int64)

    def fill(self, rows: int = 10_000) -> dict[str, float]:
        """Observe each item once."""
        begin, items = time.perf_counter(), len(self.step)
        for first in range(0, items, rows):
            ids = np.arange(first, min(first + rows, items))
            values = np.full(len(ids), 80.0)
            static = {"sex": ["F"] * len(ids)}
            self.sessions.observe_batch(ids, np.ones(len(ids), int), values, static=static)
            if first % (items // 10 or 1) < rows:
                print(f"  {first:,} items", flush=True)
        self.step[:] = 1
        return {"items_per_second": items / (time.perf_counter() - begin)}

    def long(self, observations: int, rows: int) -> dict[str, float]:
        """Observe so often, in ten parts; the memory after each."""
        found: dict[str, float] = {}
        done, begin = 0.0, time.perf_counter()
        while done < observations:
            part = self.run(10.0, rows)
            done += part["observations_per_second"] * 10.0
            tenth = int(10 * done / observations)
            if f"resident_mib_{tenth}" not in found:
                found[f"resident_mib_{tenth}"] = resident()
                print(f"  {done:,.0f} observations, {resident():,.0f} MiB", flush=True)
        return found | {"observations": done, "seconds": time.perf_counter() - begin}

    def run(self, seconds: float, rows: int, other: float = 0.0) -> dict[str, float]:
        """Observe for some time; ``other`` is the share of duplicates, and of late rows."""
        took: list[list[float]] = [[] for _ in range(self.threads)]
        counts = [0] * self.threads
        begin, cpu = time.perf_counter(), time.process_time()

        def work(thread: int) -> None:
            rng = np.random.default_rng([thread, rows, int(begin)])
            own = np.arange(thread, len(self.step), self.threads)  # the items of this thread
            while time.perf_counter() < begin + seconds:
                ids = own[np.unique(rng.integers(len(own), size=rows))]
                ids = ids[self.step[ids] < STEPS - 1]
                step = self.step[ids]
                drawn = rng.random(len(ids))
                late = drawn < other  # the step that the item skips below
                duplicate = (drawn >= other) & (drawn < 2 * other)
                step = np.where(late | duplicate, step, step + 1)
                values = 80.0 + step
                values[late] += rng.normal(size=late.sum())
                self.step[ids] = np.maximum(self.step[ids], step)
                start = time.perf_counter()
                if rows == 1:
                    if len(ids):
                        self.sessions.observe(int(ids[0]), int(step[0]), float(values[0]))
                else:
                    self.sessions.observe_batch(ids, step, values)
                took[thread].append(time.perf_counter() - start)
                counts[thread] += len(ids)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(self.threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        every = 1e3 * np.concatenate(took)
        return {
            "observations_per_second": sum(counts) / (time.perf_counter() - begin),
            "calls": len(every),
            "cpu_us_per_observation": 1e6 * (time.process_time() - cpu) / sum(counts),
            "p50_ms": float(np.quantile(every, 0.5)),
            "p99_ms": float(np.quantile(every, 0.99)),
            "largest_ms": float(every.max()),
            "resident_mib": resident(),
        }


def fit(path: str) -> None:
    """Fit the model, and save it."""
    series, static, _ = growth()
    Forecaster(epochs=3).fit(series, static, verbose=0).save(path)


def bytes_of(path: Path) -> int:
    """The bytes of a store with its log."""
    return sum(each.stat().st_size for each in path.parent.glob(f"{path.name}*"))


def events_of(path: Path) -> int:
    """The number of events in a store."""
    import apsw

    with apsw.Connection(str(path)) as db:
        return db.execute("SELECT count(*) FROM events").get


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=128, help="observations in a call")
    parser.add_argument("--threads", type=int, default=2, help="callers")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each section")
    parser.add_argument("--long", type=int, default=0, help="observations of the section long")
    parser.add_argument("--folder", type=Path, default=BUILD)
    parser.add_argument("--durability", choices=["full", "relaxed"], default="full")
    given = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    warnings.simplefilter("ignore")
    results: dict[str, Any] = {"settings": {k: str(v) for k, v in vars(given).items()}}
    results["cpus"], results["load_before"] = os.cpu_count(), os.getloadavg()[0]

    def section(name: str, work: Callable[[], dict[str, float]]) -> None:
        print(f"{name} ...", flush=True)
        results[name] = work()
        text = ", ".join(f"{key} {value:,.2f}" for key, value in results[name].items())
        print(f"{name}: {text}", flush=True)
        (BUILD / "sessions.json").write_text(json.dumps(results, indent=1), encoding="utf-8")

    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        path, file = Path(folder) / "items.db", f"{folder}/model.safetensors"
        # In a process of its own: a server has no backend in memory.
        fitting = get_context("spawn").Process(target=fit, args=(file,))
        fitting.start()
        fitting.join()
        model = Forecaster.load(file)
        with Sessions(model, path, durability="relaxed") as sessions:
            load = Load(sessions, given.items, given.rows, given.threads)
            section("fill", load.fill)
        results["bytes_per_item"] = bytes_of(path) / given.items
        with Sessions(model, path, durability=given.durability) as sessions:
            load.sessions = sessions
            section("batches", lambda: load.run(given.seconds, given.rows))
            section("mixed", lambda: load.run(given.seconds, given.rows, other=0.1))
            section("single", lambda: load.run(given.seconds, 1))
            if given.long:
                section("long", lambda: load.long(given.long, given.rows))
        results["bytes_per_event"] = bytes_of(path) / events_of(path)

        def restart() -> dict[str, float]:
            begin = time.perf_counter()
            with Sessions(model, path) as again:
                opened = time.perf_counter() - begin
                again.forecast(0, h=1)
                ready = time.perf_counter() - begin
            return {"opened_seconds": opened, "ready_seconds": ready}

        section("restart", restart)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
