"""Forecasts in parts: items a second on processes, Ray and Spark, beside ``predict`` in one
process; what they cost beyond the forecasts; and, by simulation, what more cores would do.

Run it from the root of the repository, on a machine that does nothing else. Spark needs Java 17::

    .venv/bin/python benchmarks/distributed.py
    .venv/bin/python benchmarks/distributed.py --items 20000 --rounds 1 --sizes 10000

The model is that of the growth study with the default sizes. The items are made up: 0 to 20 steps
and one static feature, in Parquet files sorted by item. Each job is a process of its own. The sides
take turns, ``--rounds`` times. Printed and written to ``build/distributed.json`` after each job:

- ``dispatch``: what one more task costs, by tasks that do nothing;
- ``sizes``: other numbers of items, once each;
- ``start``: the seconds of a job with ten items, which is one part;
- ``jobs``: the seconds of a job, those of its parts, and the most memory of a process;
- ``peer``, with ``--peer PYTHON``: NeuralForecast on ``--peer-items`` of such items, as
  ``distributed_peer.py`` says.

After each round the tables of ``docs/scale.md`` are written. ``simulated`` has the model of a
cluster; its assumptions are on that page.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from sessions import fit

ROOT = Path(__file__).parents[1]
BUILD, PAGE = ROOT / "build", ROOT / "docs" / "scale.md"
PEER = str(Path(__file__).with_name("distributed_peer.py"))
BEGIN, END = "<!-- Written by benchmarks/distributed.py: -->", "<!-- End. -->"
UNTIL, MOST_KNOWN = 31, 20
BUSY = [
    "**The machine was too busy for exact figures**: other work had most of it. Take them as "
    "orders of magnitude, and compare those of one table only.",
    "",
]
FEW = 10  # items of a job that is all start-up
# The engine and the workers of each side.
SIDES: dict[str, tuple[str, int] | None] = {
    "`predict`": None,
    "1 process": ("processes", 1),
    "2 processes": ("processes", 2),
    "Ray, 2 tasks": ("ray", 2),
    "Spark, 2 tasks": ("spark", 2),
}
ALONE, PAIR = "`predict`", "2 processes"
PEERS = {"NeuralForecast, 1 process": "predict", "NeuralForecast, Spark, 2 tasks": "spark"}
TASKS = 300  # that do nothing
TASK = bytes(2000)  # about the bytes of a part's task, and of its receipt

# The cluster of the simulation.
CORES = (8, 16, 64, 256, 1000)
CLUSTERS = ("Ray, 2 tasks", "Spark, 2 tasks")
MANY = 1_000_000_000
IN_PART, LEAST = 100_000, 1000  # items: the default of `rows`; at least, with four parts a core
BYTES_A_SECOND = 50e6  # of one core, from and to an object store
REQUEST = 0.05  # seconds until an object store answers
REQUESTS = 20  # of a part
FILES = 1000  # of each table, whose footers the driver reads, 16 at once
AT_ONCE = 16
SIMULATED_SIZES = (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, MANY)


# -- what is measured, each in a process of its own ------------------------------------------------


def write_items(folder: Path, items: int) -> None:
    """Write the tables of so many items, in files of 100,000."""
    import polars as pl

    for first in range(0, items, 100_000):
        rng = np.random.default_rng([items, first])
        ids = np.arange(first, min(first + 100_000, items))
        known = rng.integers(0, MOST_KNOWN + 1, len(ids))
        known[0] = MOST_KNOWN  # so that no file is empty
        step = np.concatenate([np.arange(1, k + 1) for k in known])
        series = {"unique_id": np.repeat(ids, known), "ds": step}
        series["y"] = 75.0 + 3.5 * step + rng.normal(size=len(step))
        static = {"unique_id": ids, "sex": rng.choice(["F", "M"], len(ids))}
        for role, table in (("series", series), ("static", static)):
            path = folder / role / f"{first // 100_000:05d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pl.DataFrame(table).write_parquet(path, row_group_size=10_000)


class Workers(threading.Thread):
    """Watches the processes below this one that run Python; ``most`` is the MiB that one held."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.ended = 0.0, threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.2):
            parents = {}
            for path in Path("/proc").glob("[0-9]*/stat"):
                with suppress(OSError):
                    name, _, rest = path.read_text(encoding="utf-8").rpartition(")")
                    parents[int(path.parent.name)] = int(rest.split()[1]), name
            below = {os.getpid()}
            for number, (parent, name) in sorted(parents.items()):
                if parent in below:
                    below.add(number)
                    if "(python" in name or "(ray::" in name:
                        with suppress(OSError, SystemExit):
                            self.most = max(self.most, peak(number))


def observed(folder: str) -> int:
    """The items of a folder with an observation."""
    import polars as pl

    return pl.read_parquet(f"{folder}/series")["unique_id"].n_unique()


def peak(process: int | str = "self") -> float:
    """MiB that a process has held at its most."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("The peak of the memory is read from /proc, which Linux has.")


def job(side: str, model: str, folder: str, out: str, rows: int) -> dict[str, Any]:
    """Forecast the items of a folder."""
    import pyarrow.parquet as pq

    from statecast import Forecaster, distributed

    warnings.simplefilter("ignore")
    paths = f"{folder}/series", f"{folder}/static"
    workers, engine = Workers(), SIDES[side]
    workers.start()
    begin, cpu = time.perf_counter(), time.process_time()
    if engine is None:
        forecasts = Forecaster.load(model).predict(*map(pq.read_table, paths), until=UNTIL)
        os.mkdir(out)
        pq.write_table(forecasts, f"{out}/forecasts.parquet", compression="zstd")
        made = len(forecasts)
    else:
        given = {"engine": engine[0], "workers": engine[1], "rows": rows, "verbose": 0}
        made = distributed.forecast(model, *paths, out=out, until=UNTIL, **given).rows
    found: dict[str, Any] = {"rows": made, "seconds": time.perf_counter() - begin}
    workers.ended.set()
    workers.join()
    found |= {"cpu_seconds": time.process_time() - cpu, "mib": peak(), "mib_worker": workers.most}
    if engine is not None:
        manifest = json.loads(Path(f"{out}/_statecast/manifest.json").read_text("utf-8"))
        parts = manifest["parts"]
        # The first part of a worker has what it loads once; that is in its start, which is known.
        later = sorted(parts, key=lambda part: part["begun"])[engine[1] :]
        found["parts"] = len(parts)
        found["seconds_of_item"] = [part["seconds"] / part["items"] for part in later]
        found["items"] = sum(part["items"] for part in parts)
        found["bytes_out"] = sum(part["bytes"] for part in parts)
        found["bytes_in"] = sum(path.stat().st_size for path in Path(folder).glob("*/*.parquet"))
    return found


def dispatch(side: str) -> dict[str, float]:
    """What one more task costs."""
    from statecast.distributed.engines import engine_of

    took = []
    name, workers = SIDES[side] or ("processes", 1)
    with engine_of(name, workers, None) as run:
        for tasks in (1, 1, TASKS):  # the first one starts what a process starts once
            begin = time.perf_counter()
            assert list(run(bytes, [TASK] * tasks)) == [TASK] * tasks
            took.append(time.perf_counter() - begin)
    return {"seconds": (took[2] - took[1]) / (TASKS - 1)}


# -- the simulation --------------------------------------------------------------------------------


def simulated(
    parts: int,
    cores: int,
    took: Sequence[float],
    *,
    start: Sequence[float],
    dispatch: float,
    before: float = 0.0,
    moved: float = 0.0,
    seed: int = 0,
) -> float:
    """Seconds of a job, by a simulation of its events.

    Parameters
    ----------
    parts, cores : int
    took : sequence of float
        Seconds of parts; that of each part is drawn from them.
    start : sequence of float
        Seconds until a worker is ready, drawn likewise.
    dispatch : float
        Seconds that the driver takes for a part. It serves one worker after the other.
    before : float
        Seconds before the workers start.
    moved : float
        Seconds in which a part's input and output are moved.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.choice(np.asarray(took), parts).tolist()
    free = (before + rng.choice(np.asarray(start), cores)).tolist()
    heapq.heapify(free)
    driver = before
    for seconds in drawn:
        driver = max(driver, heapq.heappop(free)) + dispatch
        heapq.heappush(free, driver + moved + seconds)
    return max(free)


class Measured:
    """What a cluster is simulated from."""

    def __init__(self, results: dict[str, Any], side: str) -> None:
        self.jobs = results["jobs"][side]
        self.start = [each["seconds"] for each in results["start"][side]]
        self.dispatch = results["dispatch"][side]["seconds"]
        self.of_item = [seconds for each in self.jobs for seconds in each["seconds_of_item"]]
        self.items, self.parts = self.jobs[0]["items"], self.jobs[0]["parts"]
        self.bytes_of_item = (self.jobs[0]["bytes_in"] + self.jobs[0]["bytes_out"]) / self.items

    def cluster(self, items: int, cores: int) -> float:
        """Seconds for items in an object store."""
        most = IN_PART if items > 4 * cores * IN_PART else max(LEAST, items / (4 * cores))
        parts = math.ceil(items / most)
        in_part = items / parts
        return simulated(
            parts,
            cores,
            [in_part * seconds for seconds in self.of_item],
            start=self.start,
            dispatch=self.dispatch,
            # Of two tables: the size and the footer, for the types and then for the ids.
            before=2 * min(FILES, parts) * 4 * REQUEST / AT_ONCE,
            moved=in_part * self.bytes_of_item / BYTES_A_SECOND + REQUESTS * REQUEST,
        )

    def here(self, workers: int) -> float:
        """Seconds for the job that was measured, which tests the simulation."""
        took = [self.items / self.parts * seconds for seconds in self.of_item]
        known: dict[str, Any] = {"start": self.start, "dispatch": self.dispatch}
        return median(
            simulated(self.parts, workers, took, **known, seed=seed) for seed in range(100)
        )


# -- the page --------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]] + [""]


def lasting(seconds: float) -> str:
    """A duration in words."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def tables(results: dict[str, Any]) -> list[str]:
    """The measured and the simulated part of the page."""
    settings, jobs = results["settings"], results["jobs"]
    items = settings["items"]
    each = {side: mid(jobs[side], "seconds") for side in SIDES}
    start = {side: mid(results["start"][side], "seconds") for side in SIDES}
    rate = {side: items / (each[side] - start[side]) for side in SIDES}
    load = [one["load"] for side in SIDES for one in jobs[side]]
    lines = [
        BEGIN,
        f"Measured on {results['cpus']} cores, {results['date']}, beside other work: the load was "
        f"{min(load):.1f} to {max(load):.1f} before a job, where {results['cpus']} would be a full "
        f"machine. {items:,} items in parts of {settings['rows']:,} rows; medians of "
        f"{len(jobs[ALONE])} rounds in which the sides take turns. Ray gives its workers a "
        "low priority (niceness 15) by default; here they have the priority of the others.",
        "",
        *(BUSY if max(load) > 2 * results["cpus"] else []),
    ]
    rows = []
    for side in SIDES:
        tasks = results["dispatch"].get(side)
        worker = mid(jobs[side], "mib_worker")
        rows.append(
            [
                side,
                f"{rate[side]:,.0f}",
                f"{rate[side] / rate[ALONE]:.2f}",
                f"{start[side]:.1f} s",
                f"{1e3 * tasks['seconds']:.1f} ms" if tasks else "-",
                f"{mid(jobs[side], 'mib'):,.0f} MiB",
                f"{worker:,.0f} MiB" if worker else "-",
            ]
        )
    head = ["", "items a second", f"over {ALONE}", "start-up", "a further part"]
    lines += table([*head, "memory of the caller", "of a worker"], rows)
    lines += [
        "Start-up is the time of a job with ten items; the items a second are without it. A "
        "further part is the time of a task that does nothing. "
        f"{ALONE} computes on all cores; a worker on its share of them.",
        "",
        *peer_table(results, rate),
        f"Simulated: {MANY:,} items on a cluster.",
        "",
    ]
    clusters = {side: Measured(results, side) for side in CLUSTERS}
    rows = []
    for cores in CORES:
        row = [f"{cores:,}"]
        for found in clusters.values():
            seconds, work = found.cluster(MANY, cores), MANY * mean(found.of_item)
            row += [lasting(seconds), f"{MANY / seconds:,.0f}", f"{work / cores / seconds:.0%}"]
        rows.append(row)
    head = ["cores"]
    for side in CLUSTERS:
        head += [side.partition(",")[0], "items a second", "of the cores' time"]
    lines += table(head, rows)
    rows = [
        [side, lasting(each[side]), lasting(Measured(results, side).here(2))]
        for side in (PAIR, *CLUSTERS)
    ]
    lines += ["The same simulation, of the jobs that were measured:", ""]
    lines += table(["", "measured", "simulated"], rows)
    lines += [*sizes_table(results, rate, start), END]
    return lines


def peer_table(results: dict[str, Any], rate: dict[str, float]) -> list[str]:
    """NeuralForecast beside the sides that compute likewise."""
    if not results["peer"]:
        return []
    rows = []
    for (name, found), side in zip(results["peer"].items(), (ALONE, CLUSTERS[1]), strict=True):
        theirs = sorted(each["items"] / each["seconds"] for each in found)
        over = [rate[side] / each for each in reversed(theirs)]
        bounds = [[f"{x[0]:,.{n}f}", f"{x[-1]:,.{n}f}"] for x, n in ((theirs, 0), (over, 1))]
        texts = [" to ".join(dict.fromkeys(each)) for each in bounds]
        start = f"{mid(found, 'start'):.1f} s"
        rows.append([name, f"{found[0]['items']:,}", texts[0], start, side, texts[1]])
    text = (
        "NeuralForecast 3.3, its LSTM with default sizes: the 21 steps after each prefix, of items "
        "with k > 0; the least and the most of the rounds. Its start-up is a job with ten items in "
        "the same process:"
    )
    head = ["", "items", "items a second", "start-up", "ours", "ours over it"]
    return [text, "", *table(head, rows)]


def sizes_table(
    results: dict[str, Any], rate: dict[str, float], start: dict[str, float]
) -> list[str]:
    """Time and memory by the number of items."""
    own = results["settings"]["items"]
    measured = {own: {side: results["jobs"][side] for side in (ALONE, PAIR)}}
    measured |= {int(items): found for items, found in results["sizes"].items()}
    known = sorted(measured)
    mib = {items: mid(measured[items][ALONE], "mib") for items in known if ALONE in measured[items]}
    few, many = sorted(mib)[-2:]
    slope = (mib[many] - mib[few]) / (many - few)
    parts = mid(results["jobs"][PAIR], "mib_worker")
    ray = Measured(results, CLUSTERS[0])
    rows = []
    for items in SIMULATED_SIZES:
        row = [f"{items:,}"]
        for side in (ALONE, PAIR):
            found = measured.get(items, {}).get(side)
            seconds = mid(found, "seconds") if found else start[side] + items / rate[side]
            if side == ALONE:
                held = mib[items] if found else mib[many] + slope * (items - many)
            else:
                held = mid(found, "mib_worker") if found else parts
            mark = "measured" if found else "computed"
            unit = f"{held / 1024:,.1f} GiB" if held < 2**20 else f"{held / 2**20:,.1f} TiB"
            row += [lasting(seconds), unit, mark]
        row += [lasting(ray.cluster(items, cores)) for cores in (64, 1000)]
        rows.append(row)
    head = ["items", "`predict`", "memory", "", PAIR, "memory of each", ""]
    text = (
        "Time and memory by the number of items. The last two columns are simulated (Ray). A part "
        f"of {IN_PART:,} items takes a worker {(parts + slope * IN_PART) / 1024:.1f} GiB at most; "
        "those of this table had "
        f"{own // results['jobs'][PAIR][0]['parts']:,}."
    )
    return [text, "", *table([*head, "64 cores", "1,000 cores"], rows)]


def mid(found: Sequence[dict[str, Any]], key: str) -> float:
    return median(each[key] for each in found)


def write_page(results: dict[str, Any]) -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(before + "\n".join(tables(results)) + after, encoding="utf-8")


# -- the runs --------------------------------------------------------------------------------------


def apart(*given: str, script: str = __file__, python: str = sys.executable) -> dict[str, Any]:
    """What a function of a script finds, in a process of its own."""
    load = os.getloadavg()[0]
    env = {**os.environ, "RAY_worker_niceness": "0"}  # by default 15: all other work comes first
    ran = subprocess.run([python, script, *given], capture_output=True, text=True, env=env)
    if ran.returncode:
        raise SystemExit(f"{script} {given} failed:\n{ran.stderr[-3000:]}")
    return {**json.loads(ran.stdout.splitlines()[-1]), "load": load}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=50_000, help="of a part")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 1_000_000])
    parser.add_argument("--peer", help="an interpreter with NeuralForecast")
    parser.add_argument("--peer-items", type=int, default=5000)
    given = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    results: dict[str, Any] = {"settings": vars(given), "cpus": os.cpu_count()}
    results["date"] = str(date.today())
    results |= {"start": {}, "jobs": {}, "dispatch": {}, "sizes": {}, "peer": {}}

    def save(text: str, found: dict[str, Any]) -> None:
        shown = [f"{key} {x:,.3f}" for key, x in found.items() if isinstance(x, (int, float))]
        print(f"{text}: {', '.join(shown)}", flush=True)
        (BUILD / "distributed.json").write_text(json.dumps(results, indent=1), encoding="utf-8")

    with tempfile.TemporaryDirectory(dir=BUILD) as name:
        folder, model = Path(name), f"{name}/model.safetensors"
        fitting = get_context("spawn").Process(target=fit, args=(model,))
        fitting.start()
        fitting.join()
        for items in {FEW, given.items, given.peer_items, *given.sizes}:
            write_items(folder / str(items), items)
        new = (f"{name}/out-{number}" for number in count())

        def run(side: str, items: int) -> dict[str, Any]:
            return apart("job", side, model, f"{name}/{items}", next(new), str(given.rows))

        def peer(what: str, *jobs: str) -> dict[str, Any]:
            return apart(what, f"{name}/peer", *jobs, script=PEER, python=given.peer)

        many = f"{name}/{given.peer_items}"
        if given.peer:
            peer("fit", many)

        for side, engine in SIDES.items():
            if engine is not None:
                results["dispatch"][side] = apart("dispatch", side)
                save(f"dispatch, {side}", results["dispatch"][side])
        for items in given.sizes:
            results["sizes"][items] = {}
            for side in (ALONE, PAIR):
                found = run(side, items)
                results["sizes"][items][side] = [found]
                save(f"{items:,} items, {side}", found)
        for number in range(given.rounds):
            expected = set()
            for side in SIDES:
                begun = run(side, FEW)
                results["start"].setdefault(side, []).append(begun)
                found = run(side, given.items)
                results["jobs"].setdefault(side, []).append(found)
                save(f"round {number + 1} of {given.rounds}, {side}", found)
                expected.add(found["rows"])
            assert len(expected) == 1, "The sides made different numbers of rows."
            for side, what in PEERS.items() if given.peer else ():
                found = peer(what, f"{name}/{FEW}", next(new), many, next(new))
                results["peer"].setdefault(side, []).append(found | {"items": observed(many)})
                save(f"round {number + 1} of {given.rounds}, {side}", found)
            write_page(results)


if __name__ == "__main__":
    if sys.argv[1:2] == ["job"]:
        print(json.dumps(job(*sys.argv[2:6], rows=int(sys.argv[6]))))
    elif sys.argv[1:2] == ["dispatch"]:
        print(json.dumps(dispatch(sys.argv[2])))
    else:
        main()
