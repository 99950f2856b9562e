"""What a fitted model costs: time and memory of each verb, with a backend and without one.

Run it from the root of the repository, on a machine that does nothing else (half an hour)::

    .venv/bin/python benchmarks/use.py [--sections SECTION ...] [--after-only]

"Before" is the commit ``BEFORE``, the last one in which forecasts were compiled Keras models. Its
sources are put into ``build/use/before``, and its native library is built there with cmake. Every
section runs in a process of its own, the two sides one after the other. The page ``docs/use.md`` is
written anew as each section ends. Times are CPU times of the process, all threads together, and
wall times; the time of later calls is a median.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
BEFORE = "75bd239"
FOLDER = ROOT / "build" / "use"
PAGE = ROOT / "docs" / "use.md"
Found = dict[str, float | None]


def took(call: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Milliseconds of CPU time and of wall time: medians over the repeats."""
    cpu, wall = [], []
    for _ in range(repeats):
        began = time.process_time(), time.perf_counter()
        call()
        cpu.append(time.process_time() - began[0])
        wall.append(time.perf_counter() - began[1])
    return 1e3 * float(np.median(cpu)), 1e3 * float(np.median(wall))


def both(name: str, call: Callable[[], Any], warm: int) -> Found:
    """The first call, and calls after it."""
    first, later = took(call, 1), took(call, warm)
    return {
        f"{name}, first call: CPU ms": first[0],
        f"{name}, first call: wall ms": first[1],
        f"{name}, later calls: CPU ms": later[0],
        f"{name}, later calls: wall ms": later[1],
    }


def resident() -> float:
    """MiB of memory that the process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


# -- the models, fitted once for each side ---------------------------------------------------------


def growth() -> tuple[Any, Any, Any]:
    """The series and static tables of the growth study, and their fold-0 items' first 3 steps."""
    import polars as pl

    from statecast.data import growth as tables

    series, static, folds = tables()
    new = folds.filter(pl.col("fold") == 0).select("unique_id")
    series = series.select("unique_id", "ds", "y")
    begun = series.join(new, on="unique_id").filter(pl.col("ds") <= 3)
    return series, static, (begun, static.join(new, on="unique_id"))


def shop(items: int = 2000, steps: int = 52) -> tuple[np.ndarray, Any, Any]:
    """Counts of items, and tables of them and of a promotion that is known beforehand."""
    import polars as pl

    rng = np.random.default_rng(0)
    promo = rng.integers(0, 2, (items, steps))
    level = rng.gamma(2.0, 4.0, (items, 1))
    y = rng.poisson(level * (1 + promo))
    row, step = (axis.ravel() for axis in np.indices(y.shape))
    plan = pl.DataFrame({"unique_id": row, "ds": step + 1, "promo": promo.ravel()})
    series = plan.select("unique_id", "ds", y=pl.Series(y.ravel()))
    return y, series, plan


def river(items: int = 3092, steps: int = 120) -> Any:
    """A series of the size of the streamflow data: months of basins."""
    import polars as pl

    rng = np.random.default_rng(0)
    month = np.arange(steps)
    y = np.exp(
        rng.normal(size=(items, 1))
        + np.sin(month / 6 * np.pi + rng.normal(size=(items, 1)))
        + 0.3 * rng.normal(size=(items, steps))
    )
    row, step = (axis.ravel() for axis in np.indices(y.shape))
    return pl.DataFrame({"unique_id": row, "ds": step + 1, "y": y.ravel()})


def fitted(name: str) -> Any:
    """A model, from its file; fitted on PyTorch, in a process of its own, if there is none."""
    from statecast import Forecaster

    path = Path(os.environ["STATECAST_USE"]) / f"{name}.safetensors"
    if not path.exists():
        environment = os.environ | {"KERAS_BACKEND": "torch"}
        subprocess.run([sys.executable, __file__, "--fit", name], env=environment, check=True)
    return Forecaster.load(path)


def fit(name: str) -> None:
    import polars as pl

    from statecast import Forecaster

    if name == "growth":
        series, static, _ = growth()
        model = Forecaster(seed=0, epochs=10).fit(series, static, verbose=0)
    elif name == "shop":
        _, series, plan = shop()
        model = Forecaster(head="negative_binomial", epochs=1)
        model.fit(series, future=plan, verbose=0)
    elif name == "plain":
        rng = np.random.default_rng(0)
        model = Forecaster(epochs=1).fit(rng.normal(size=(200, 60)).cumsum(1), verbose=0)
    elif name == "small":
        series, _, _ = growth()
        model = Forecaster(units=16, ensemble=2, epochs=1, analogues=False).fit(series, verbose=0)
    else:
        few = river().filter(pl.col("unique_id") < 600)
        model = Forecaster(epochs=1).fit(few, verbose=0)
    model.save(Path(os.environ["STATECAST_USE"]) / f"{name}.safetensors")


# -- the sections ----------------------------------------------------------------------------------


def import_and_load() -> Found:
    fitted("growth")
    code = (
        "import resource, time\n"
        "began = time.process_time(), time.perf_counter()\n"
        "from statecast import Forecaster\n"
        "import os\n"
        "Forecaster.load(os.environ['STATECAST_USE'] + '/growth.safetensors')\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "print(time.process_time() - began[0], time.perf_counter() - began[1], peak)\n"
    )
    found = [
        [float(x) for x in subprocess.check_output([sys.executable, "-c", code], text=True).split()]
        for _ in range(5)
    ]
    cpu, wall, peak = np.median(found, axis=0).tolist()
    return {
        "`import statecast` and `load`: CPU ms": 1e3 * cpu,
        "`import statecast` and `load`: wall ms": 1e3 * wall,
        "`import statecast` and `load`: peak MiB": peak,
    }


def command_line() -> Found:
    folder = Path(os.environ["STATECAST_USE"])
    fitted("growth")
    _, _, (begun, who) = growth()
    begun.write_csv(folder / "begun.csv")
    who.write_csv(folder / "who.csv")
    command = [sys.executable, "-m", "statecast.cli", "forecast"]
    command += [str(folder / name) for name in ("growth.safetensors", "begun.csv", "who.csv")]
    command += ["--until", "31", "--level", "80", "--out", str(folder / "forecast.csv")]
    cpu, wall, peak = [], [], 0.0
    for _ in range(5):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        cpu.append(1e3 * used)
        wall.append(1e3 * (time.perf_counter() - began))
        peak = after.ru_maxrss / 1024
    return {
        "`statecast forecast`, 19 children: CPU ms": float(np.median(cpu)),
        "`statecast forecast`, 19 children: wall ms": float(np.median(wall)),
        "`statecast forecast`, 19 children: peak MiB": peak,
    }


def one_item() -> Found:
    f, (series, static, _) = fitted("growth"), growth()
    one, who = series.filter(series["unique_id"] == 1), static.filter(static["unique_id"] == 1)
    state, row = f.state(one[:2], who), one[2:3]
    found = both("`update` of one item by a table of one row", lambda: f.update(state, row), 50)
    found |= both("`predict` of one item from its state", lambda: f.predict(state=state, h=20), 50)
    return found


def through_arrays() -> Found:
    f, (series, static, _) = fitted("growth"), growth()
    engine = getattr(f, "engine", None)
    if engine is None:
        return {"`engine.advance` of one item by one step: CPU ms": None}
    one, who = series.filter(series["unique_id"] == 1), static.filter(static["unique_id"] == 1)
    leaves = f.state(one[:2], who).leaves
    leaves = {name: leaves[name] for name in engine.decoder.state_shapes}
    value, yes = np.zeros((1, 1), np.float32), np.ones((1, 1), bool)
    engine.advance(leaves, value, yes, yes)
    cpu, wall = took(lambda: [engine.advance(leaves, value, yes, yes) for _ in range(200)], 15)
    return {
        "`engine.advance` of one item by one step: CPU ms": cpu / 200,
        "`engine.advance` of one item by one step: wall ms": wall / 200,
    }


def many_items() -> Found:
    f, y = fitted("plain"), np.random.default_rng(1).normal(size=(256, 60)).cumsum(1)
    later = np.full(y.shape, np.nan)
    later[:, 10] = y[:, 10]
    state = f.state(y[:, :10])
    found = both("`update` of 256 items", lambda: f.update(state, later[:, :11]), 15)
    return found | both(
        "`predict` of 256 items from a state", lambda: f.predict(state=state, h=20), 15
    )


def past_observations() -> Found:
    f, found = fitted("plain"), {}
    y = np.random.default_rng(1).normal(size=(1, 1000))
    for steps in (1, 10, 100, 999):
        state = f.state(y[:, :steps])
        later = np.full((1, steps + 1), np.nan)
        later[:, steps] = 1.0
        f.update(state, later)
        cpu, _ = took(lambda state=state, later=later: f.update(state, later), 30)
        found[f"`update` of an item with {steps} past observations: CPU ms"] = cpu
    return found


def rivers() -> Found:
    f, y = fitted("river"), river()
    begun = y.filter(y["ds"] <= 60)
    return both(
        "3,092 items, 60 steps known, 60 forecast, 80 % intervals, from a table",
        lambda: f.predict(begun, until=120, level=80), 3,
    )  # fmt: skip


def paths() -> Found:
    f, (series, static, _) = fitted("growth"), growth()
    begun = series.filter(series["ds"] <= 3)
    return both(
        "`simulate`, 93 items, 200 paths", lambda: f.simulate(begun, static, until=31, paths=200), 5
    )


def counts() -> Found:
    f, (_, series, plan) = fitted("shop"), shop()
    begun = series.filter(series["ds"] <= 26)
    found = both(
        "2,000 items of 52 steps, future covariates, negative binomial",
        lambda: f.predict(begun, until=52, future=plan, level=80), 3,
    )  # fmt: skip
    few, own = (table.filter(table["unique_id"] < 200) for table in (begun, plan))
    return found | both(
        "200 paths of 200 of them", lambda: f.simulate(few, until=52, future=own, paths=200), 3
    )


def million() -> Found:
    import polars as pl

    f, found = fitted("small"), {}
    for rows in (10_000, 1_000_000):
        ids = np.repeat(np.arange(rows), 2)
        series = pl.DataFrame({"unique_id": ids, "ds": np.tile([1, 2], rows), "y": 1.0 * (ids % 9)})
        state = f.state(series)
        for some in (1, 1000):
            chosen = np.sort(np.random.default_rng(0).choice(rows, some, replace=False))
            new = pl.DataFrame({"unique_id": chosen, "ds": 3, "y": 1.0})
            f.update(state, new)
            cpu, _ = took(lambda state=state, new=new: f.update(state, new), 15)
            found[f"`update` of {some:,} in a state of {rows:,} rows: CPU ms"] = cpu
    return found


def random_sizes() -> Found:
    f, rng = fitted("plain"), np.random.default_rng(0)
    y = rng.normal(size=(300, 60)).cumsum(1)
    memory, times = [], []
    for _ in range(int(os.environ["STATECAST_CALLS"])):
        rows, known, ahead = rng.integers(1, 300), rng.integers(1, 40), rng.integers(1, 20)
        began = time.process_time()
        f.predict(y[:rows, :known], h=int(ahead))
        times.append(1e6 * (time.process_time() - began) / rows)
        memory.append(resident())
    tenth = len(times) // 10
    return {
        "calls of random sizes": float(len(times)),
        "of these the first tenth: CPU µs an item": float(np.median(times[:tenth])),
        "the last tenth: CPU µs an item": float(np.median(times[-tenth:])),
        "memory after the first tenth: MiB": memory[tenth],
        "memory after all: MiB": memory[-1],
    }


SECTIONS = {
    each.__name__: each
    for each in (
        import_and_load,
        command_line,
        one_item,
        through_arrays,
        many_items,
        past_observations,
        rivers,
        paths,
        counts,
        million,
        random_sizes,
    )
}


# -- the two sides ---------------------------------------------------------------------------------


def built_before() -> Path:
    """The folder of the package as it was at ``BEFORE``, with its native library."""
    place = FOLDER / "before"
    library = place / "src" / "statecast" / "recurrence" / "kernels" / "libstatecast.so"
    if not library.exists():
        place.mkdir(parents=True, exist_ok=True)
        archive = subprocess.run(
            ["git", "archive", BEFORE, "src", "native"], cwd=ROOT, check=True, capture_output=True
        )
        subprocess.run(["tar", "-x", "-C", place], input=archive.stdout, check=True)
        subprocess.run(
            ["cmake", "-S", place / "native", "-B", place / "build"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        subprocess.run(["cmake", "--build", place / "build"], check=True, stdout=subprocess.DEVNULL)
        library.write_bytes((place / "build" / "libstatecast.so").read_bytes())
    return place / "src"


def measured(section: str, side: str) -> Found:
    """What a section found on a side, in a process of its own."""
    place = built_before() if side == "before" else ROOT / "src"
    models = FOLDER / f"models-{side}"
    models.mkdir(parents=True, exist_ok=True)
    # What the environment's own site finds comes after PYTHONPATH.
    environment = os.environ | {
        "PYTHONPATH": str(place), "STATECAST_USE": str(models), "KERAS_BACKEND": "jax",
        "PYTHONWARNINGS": "ignore",
        "STATECAST_CALLS": "200" if side == "before" else "2000",  # compilation takes long
    }  # fmt: skip
    command = [sys.executable, __file__, "--section", section]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"{section}, {side}:\n{ran.stderr}")
    return json.loads(ran.stdout.splitlines()[-1])


def number(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def page(found: Mapping[str, Mapping[str, Found]], *, ended: bool) -> str:
    from statecast.recurrence.kernels.native import library

    lines = [
        "# The cost of a fitted model, measured",
        "",
        f"On {platform.machine()}, {len(os.sched_getaffinity(0))} CPUs, {library.status()}; "
        f"{date.today()}. Written by",
        f"`benchmarks/use.py`{'' if ended else ', which has not ended yet'}. *Before* is commit "
        f"{BEFORE}, the last one in which",
        "forecasts were compiled Keras models, on JAX. A row was measured in one process for each "
        "side.",
        "",
        "| | before | after | before / after |",
        "|---|---|---|---|",
    ]
    for sides in found.values():
        for name, after in sides["after"].items():
            before = sides.get("before", {}).get(name)
            ratio = f"{before / after:.1f}" if before and after else ""
            lines.append(f"| {name} | {number(before)} | {number(after)} | {ratio} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--after-only", action="store_true", help="print the figures of this tree")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--fit", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.fit:
        fit(asked.fit)
        return
    if asked.section:
        print(json.dumps(SECTIONS[asked.section]()))
        return
    found: dict[str, dict[str, Found]] = {}
    for section in asked.sections:
        found[section] = {}
        for side in ("after",) if asked.after_only else ("before", "after"):
            print(f"{section}, {side} ...", flush=True)
            found[section][side] = measured(section, side)
        for name, value in found[section]["after"].items():
            before = found[section].get("before", {}).get(name)
            print(f"    {name}: {number(before)} before, {number(value)} after", flush=True)
        if not asked.after_only and asked.sections == list(SECTIONS):
            PAGE.write_text(page(found, ended=len(found) == len(SECTIONS)), encoding="utf-8")


if __name__ == "__main__":
    main()
