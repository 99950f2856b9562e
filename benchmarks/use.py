"""What a fitted model costs: time and memory of each verb, with a backend and without one.

Run it from the root of the repository, on a machine that does nothing else::

    .venv/bin/python benchmarks/use.py [--peers PYTHON] [--sections SECTION ...] [--after-only]

"Before" is the commit ``BEFORE``, the last one in which forecasts were compiled Keras models. Its
sources are put into ``build/use/before``, and its native library is built there with cmake, which
must be installed. Each section runs in a process of its own, the two sides one after the other.
PYTHON is the interpreter of an environment with NeuralForecast and Darts, which need not have
Statecast: ``pip install 'statecast[peers]'``. Without it their figures are left out.

The results, with the memory after every call, are in ``build/use/found.json``. They are saved as
each section ends, and ``docs/use.md`` and ``docs/use.svg`` are written anew from them. ``--page``
does this without measuring. Times are CPU times of the process, all threads together, and wall
times; the time of later calls is a median.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
BEFORE = "75bd239"
FOLDER = ROOT / "build" / "use"
RESULTS = FOLDER / "found.json"
PAGE = ROOT / "docs" / "use.md"
KNOWN, AHEAD = 3, 20  # the steps of a new item that the peers know and forecast
# A figure is its value (None: there is no such call) and the number of calls of which it is the
# median. A list is a series of values for the plot.
Figure = dict[str, Any]
Found = dict[str, Figure | list[float]]


def figure(value: float | None, of: int = 1) -> Figure:
    return {"value": value, "of": of}


def on_before() -> bool:
    """Whether this process measures the old side."""
    return os.environ.get("STATECAST_SIDE") == "before"


def repeats(count: int) -> int:
    """How often a call is repeated: the calls of the old side are slow, and need fewer."""
    return max(3, count // 3) if on_before() else count


def took(call: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Milliseconds of CPU time and of wall time: medians over the repeats."""
    cpu, wall = [], []
    for _ in range(repeats):
        began = time.process_time(), time.perf_counter()
        call()
        cpu.append(time.process_time() - began[0])
        wall.append(time.perf_counter() - began[1])
    return 1e3 * float(np.median(cpu)), 1e3 * float(np.median(wall))


def later(name: str, call: Callable[[], Any], count: int, inner: int = 1) -> Found:
    """Calls after the first one. A figure is the mean of ``inner`` calls, if they are short."""
    cpu, wall = took(call if inner == 1 else lambda: [call() for _ in range(inner)], count)
    return {
        f"{name}: CPU ms": figure(cpu / inner, count),
        f"{name}: wall ms": figure(wall / inner, count),
    }


def both(name: str, call: Callable[[], Any], warm: int) -> Found:
    """The first call, and calls after it."""
    cpu, wall = took(call, 1)
    return {
        f"{name}, first call: CPU ms": figure(cpu),
        f"{name}, first call: wall ms": figure(wall),
    } | later(f"{name}, later calls", call, repeats(warm))


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
        "`import statecast` and `load`: CPU ms": figure(1e3 * cpu, 5),
        "`import statecast` and `load`: wall ms": figure(1e3 * wall, 5),
        "`import statecast` and `load`: peak MiB": figure(peak, 5),
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
        "`statecast forecast`, 19 children: CPU ms": figure(float(np.median(cpu)), 5),
        "`statecast forecast`, 19 children: wall ms": figure(float(np.median(wall)), 5),
        "`statecast forecast`, 19 children: largest peak MiB": figure(peak, 5),
    }


def child() -> tuple[Any, Any]:
    """The series of one child of the growth study, and its row of the static table."""
    series, static, _ = growth()
    return series.filter(series["unique_id"] == 1), static.filter(static["unique_id"] == 1)


def one_item() -> Found:
    f, (one, who) = fitted("growth"), child()
    state, row, known = f.state(one[:2], who), one[2:3], one[:KNOWN]
    found = both("`update` of one item by a table of one row", lambda: f.update(state, row), 50)
    found |= both(
        "`predict` of one item from its state", lambda: f.predict(state=state, h=AHEAD), 50
    )
    return found | both(
        f"`predict` of one new item from a table of {KNOWN} rows, {AHEAD} steps",
        lambda: f.predict(known, who, h=AHEAD), 50,
    )  # fmt: skip


def started() -> tuple[Any, dict[str, np.ndarray]]:
    """The engine of the growth model, and the leaves of one child after two steps."""
    f, (one, who) = fitted("growth"), child()
    leaves = f.state(one[:2], who).leaves
    return f.engine, {name: leaves[name] for name in f.engine.decoder.state_shapes}


def through_arrays() -> Found:
    name = "`engine.advance` of one item by one step"
    if on_before():
        return {f"{name}: CPU ms": figure(None), f"{name}: wall ms": figure(None)}
    engine, leaves = started()
    value, yes = np.zeros((1, 1), np.float32), np.ones((1, 1), bool)
    engine.advance(leaves, value, yes, yes)
    return later(name, lambda: engine.advance(leaves, value, yes, yes), 15, inner=200)


def many_items() -> Found:
    f, y = fitted("plain"), np.random.default_rng(1).normal(size=(256, 60)).cumsum(1)
    new = np.full((256, 11), np.nan)
    new[:, 10] = y[:, 10]
    state = f.state(y[:, :10])
    found = both("`update` of 256 items", lambda: f.update(state, new), 15)
    return found | both(
        "`predict` of 256 items from a state", lambda: f.predict(state=state, h=AHEAD), 15
    )


PAST = (1, 2, 5, 10, 20, 50, 100, 200, 500, 999)  # past observations


def past_observations() -> Found:
    f, found, costs = fitted("plain"), {}, []
    y = np.random.default_rng(1).normal(size=(1, 1000))
    for steps in PAST:
        state = f.state(y[:, :steps])
        new = np.full((1, steps + 1), np.nan)
        new[:, steps] = 1.0
        f.update(state, new)
        count = repeats(30)
        cpu, _ = took(lambda state=state, new=new: f.update(state, new), count)
        costs.append(cpu)
        if steps in (1, 10, 100, 999):
            name = f"`update` of an item with {steps} past observations: CPU ms"
            found[name] = figure(cpu, count)
    return found | {"past": costs}


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
            count = repeats(15)
            cpu, _ = took(lambda state=state, new=new: f.update(state, new), count)
            found[f"`update` of {some:,} in a state of {rows:,} rows: CPU ms"] = figure(cpu, count)
    return found


def random_sizes() -> Found:
    f, rng = fitted("plain"), np.random.default_rng(0)
    y = rng.normal(size=(300, 60)).cumsum(1)
    memory, times = [], []
    for _ in range(200 if on_before() else 2000):  # compilation takes long
        rows, known, ahead = rng.integers(1, 300), rng.integers(1, 40), rng.integers(1, 20)
        began = time.process_time()
        f.predict(y[:rows, :known], h=int(ahead))
        times.append(1e6 * (time.process_time() - began) / rows)
        memory.append(resident())
    tenth = len(times) // 10
    return {
        "calls of `predict` of random sizes": figure(len(times)),
        "of these the first tenth: CPU µs an item": figure(float(np.median(times[:tenth])), tenth),
        "the last tenth: CPU µs an item": figure(float(np.median(times[-tenth:])), tenth),
        "memory after the first tenth: MiB": figure(memory[tenth - 1]),
        "memory after all: MiB": figure(memory[-1]),
        "memory": memory,
        "times": times,
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


# -- the peers -------------------------------------------------------------------------------------


def jax_step() -> Found:
    """A jitted step of the recurrence: without the inputs of the network and without its head."""
    import jax

    from statecast.networks.arrays import within

    engine, leaves = started()
    (cell,) = engine.decoder.stack.cells
    own = within(engine._weights, "decoder/cell/0")
    weights = {name: jax.numpy.asarray(weight) for name, weight in own.items()}
    state = {
        name: jax.numpy.asarray(leaf.swapaxes(0, 1))
        for name, leaf in within(leaves, "cell/0").items()
    }
    x = jax.numpy.zeros((engine.members, 1, engine.decoder.width))
    step = jax.jit(lambda weights, x, state: cell.step(weights, x, state, jax.numpy))
    jax.block_until_ready(step(weights, x, state))
    return later(
        f"JAX {jax.__version__}: a jitted step of the recurrence alone, one row, 8 members",
        lambda: jax.block_until_ready(step(weights, x, state)), 15, inner=200,
    )  # fmt: skip


def onnx_runtime() -> Found:
    """`step.onnx`: as `engine.advance`, and the quantiles with analogues and calibration."""
    import onnxruntime

    found: Found = {}
    with tempfile.TemporaryDirectory() as folder:
        fitted("growth").export(folder)
        about = json.loads((Path(folder) / "model.json").read_text())
        encode, step = (
            onnxruntime.InferenceSession(Path(folder) / about["graphs"][name]["file"])
            for name in ("encode", "step")
        )
    leaves = about["state"]["leaves"]
    after = [about["state"]["after"] + name for name in leaves]
    for rows in (1, 256):
        given = {
            "value": np.zeros(rows, np.float32), "observed": np.ones(rows, bool)
        }  # fmt: skip
        codes = np.ones((rows, len(about["static"]["categorical"])), np.int64)
        state = dict(zip(leaves, encode.run(leaves, {"codes": codes}), strict=True))
        for _ in range(2):  # after two observations, as the other figures
            state = dict(zip(leaves, step.run(after, state | given), strict=True))
        given |= state
        found |= later(
            f"ONNX Runtime {onnxruntime.__version__}: `step.onnx` of the growth model, "
            f"{rows} {'row' if rows == 1 else 'rows'}",
            lambda given=given: step.run(["quantiles", *after], given), 15, inner=10,
        )  # fmt: skip
    return found


QUIET = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False,
    "enable_model_summary": False, "enable_checkpointing": False,
}  # fmt: skip


def quiet_lightning() -> None:
    import logging
    import warnings

    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "pytorch_lightning", "lightning", "darts"):
        logging.getLogger(name).setLevel(logging.ERROR)


def neuralforecast() -> Found:
    import neuralforecast
    import pandas as pd
    from neuralforecast.losses.pytorch import MQLoss
    from neuralforecast.models import LSTM

    quiet_lightning()
    series = pd.read_csv(os.environ["STATECAST_SERIES"])
    one = series[series["unique_id"] == 1].head(KNOWN)
    model = LSTM(
        h=AHEAD, input_size=KNOWN, encoder_hidden_size=32, decoder_hidden_size=32,
        loss=MQLoss(level=[80]), max_steps=5, **QUIET,
    )  # fmt: skip
    forecaster = neuralforecast.NeuralForecast(models=[model], freq=1)
    forecaster.fit(series[series["unique_id"] != 1])
    return both(
        f"NeuralForecast {neuralforecast.__version__}: `NeuralForecast.predict(df)` of one new "
        f"item, {KNOWN} rows, {AHEAD} steps, `LSTM` with `MQLoss`",
        lambda: forecaster.predict(df=one), 20,
    )  # fmt: skip


def darts() -> Found:
    import darts
    import pandas as pd
    from darts.models import RNNModel
    from darts.utils.likelihood_models import GaussianLikelihood

    quiet_lightning()
    table = pd.read_csv(os.environ["STATECAST_SERIES"])
    series = {
        item: darts.TimeSeries.from_values(own["y"].to_numpy("float32"))
        for item, own in table.groupby("unique_id")
    }
    one = series.pop(1)[:KNOWN]
    model = RNNModel(
        input_chunk_length=KNOWN, training_length=KNOWN + AHEAD, model="LSTM", hidden_dim=32,
        likelihood=GaussianLikelihood(), n_epochs=1, pl_trainer_kwargs=QUIET,
    )  # fmt: skip
    model.fit(list(series.values()))
    found: Found = {}
    for samples in (1, 200):
        found |= both(
            f"Darts {darts.__version__}: `RNNModel.predict(n, series, num_samples={samples})` of "
            f"one new item, {KNOWN} rows, {AHEAD} steps, LSTM",
            lambda samples=samples: model.predict(
                AHEAD, one, num_samples=samples, show_warnings=False, verbose=False
            ),
            20,
        )
    return found


OURS = {each.__name__: each for each in (jax_step, onnx_runtime)}  # run by this interpreter
THEIRS = {each.__name__: each for each in (neuralforecast, darts)}  # run by that of --peers
PEERS = OURS | THEIRS

# -- what was asked --------------------------------------------------------------------------------

# The limit of a figure, or what else is asked of it.
TARGETS: dict[str, float | str] = {
    "`import statecast` and `load`: CPU ms": 300,
    "`import statecast` and `load`: wall ms": 300,
    "`statecast forecast`, 19 children: CPU ms": 600,
    "`statecast forecast`, 19 children: largest peak MiB": 150,
    "`engine.advance` of one item by one step": 0.05,
    "`update` of one item by a table of one row, later calls": 0.3,
    "`predict` of one item from its state, later calls": 0.5,
    "`update` of 256 items, later calls": 3,
    "`predict` of 256 items from a state, later calls": 10,
    "`update` of an item with 999 past observations: CPU ms": "as with 1",
    "3,092 items, 60 steps known, 60 forecast, 80 % intervals, from a table, first call": 1000,
    "`simulate`, 93 items, 200 paths, first call": 300,
    "`simulate`, 93 items, 200 paths, later calls": "a tenth of before",
    "2,000 items of 52 steps, future covariates, negative binomial, first call": 1000,
    "2,000 items of 52 steps, future covariates, negative binomial, later calls": 1000,
    "200 paths of 200 of them, first call": 1000,
    "200 paths of 200 of them, later calls": 1000,
    "`update` of 1 in a state of 1,000,000 rows: CPU ms": "as in 10,000 rows",
    "`update` of 1,000 in a state of 1,000,000 rows: CPU ms": "as in 10,000 rows",
    "the last tenth: CPU µs an item": "as the first tenth",
    "memory after all: MiB": "as after the first tenth",
}


def target(name: str, value: float | None) -> str:
    asked = TARGETS.get(name, TARGETS.get(name.rpartition(":")[0], ""))
    if isinstance(asked, str):
        return asked
    missed = value is not None and value > asked
    return f"{asked:,g}{', **missed**' if missed else ''}"


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


def measured(section: str, side: str, python: str = sys.executable) -> dict[str, Any]:
    """What a section found on a side, or why it failed; and where and when it ran.

    It runs in a process of its own.
    """
    models = FOLDER / f"models-{'before' if side == 'before' else 'after'}"
    models.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "STATECAST_USE": str(models), "STATECAST_SIDE": side, "KERAS_BACKEND": "jax",
        "STATECAST_SERIES": str(FOLDER / "growth.csv"), "PYTHONWARNINGS": "ignore",
    }  # fmt: skip
    if section not in THEIRS:  # what the environment's own site finds comes after PYTHONPATH
        place = built_before() if side == "before" else ROOT / "src"
        environment["PYTHONPATH"] = str(place)
    load, began = os.getloadavg()[0], time.perf_counter()
    command = [python, __file__, "--section", section]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    result: dict[str, Any] = {
        "commit": BEFORE if side == "before" else commit(), "machine": machine(), "load": load,
        "date": str(date.today()), "seconds": time.perf_counter() - began,
    }  # fmt: skip
    if ran.returncode:
        print(ran.stderr, file=sys.stderr)
        reason = (ran.stderr.strip().splitlines() or ["no message"])[-1]
        return result | {"found": {}, "failed": reason}
    return result | {"found": json.loads(ran.stdout.splitlines()[-1])}


def commit() -> str:
    """The commit that is checked out, and whether the package differs from it."""
    asked = (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "src", "native"])
    head, changed = (
        subprocess.check_output(["git", *each], cwd=ROOT, text=True).strip() for each in asked
    )
    return f"{head} with changes" if changed else head


def machine() -> str:
    from statecast.recurrence.kernels.native import library

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpus = len(os.sched_getaffinity(0))
    return f"{(model or [platform.machine()])[0]}, {cpus} CPUs, {library.status()}"


def export_growth() -> None:
    """The growth series as a CSV file, for interpreters without Statecast."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    growth()[0].write_csv(FOLDER / "growth.csv")


# -- the page --------------------------------------------------------------------------------------


def number(each: Figure | None) -> str:
    if each is None or each["value"] is None:
        return "none"
    value = each["value"]
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def figures(found: Found) -> dict[str, Figure]:
    return {name: each for name, each in found.items() if isinstance(each, dict)}


def plot(results: Mapping[str, Mapping[str, Any]]) -> bool:
    """Draw ``docs/use.svg``, and say whether there is something to draw."""
    runs, past = (results.get(name, {}) for name in ("random_sizes", "past_observations"))
    if (
        not all(side.get("found") for side in (*runs.values(), *past.values()))
        or not runs
        or not past
    ):
        return False
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "statecast"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    for side, style in (("before", "--"), ("after", "-")):
        found = runs[side]["found"]
        calls = np.arange(1, len(found["memory"]) + 1)
        axes[0].plot(calls, found["memory"], style, label=side)
        axes[1].plot(calls, found["times"], ".", markersize=2, label=side)
        axes[2].plot(PAST, past[side]["found"]["past"], f"o{style}", label=side)
    axes[0].set(xlabel="call of `predict`", ylabel="MiB", xscale="log", yscale="log")
    axes[1].set(xlabel="call of `predict`", ylabel="CPU µs an item", xscale="log", yscale="log")
    axes[2].set(xlabel="past observations", ylabel="`update`, CPU ms", xscale="log", yscale="log")
    for axis in axes:
        axis.legend()
    figure.savefig(PAGE.with_suffix(".svg"), metadata={"Date": None})
    plt.close(figure)
    return True


def origin(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Where, when and from which commits the figures are: a line for each that differs."""
    rows: dict[tuple[str, ...], list[float]] = {}
    for sides in results.values():
        for side, run in sides.items():
            key = (side, run["commit"], run["machine"], run["date"])
            rows.setdefault(key, []).append(run["load"])
    return [
        f"- {side}: commit {commit}; {where}; {day}; load average before the sections "
        f"{min(load):.1f} to {max(load):.1f}"
        for (side, commit, where, day), load in rows.items()
    ]


def failures(results: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> list[str]:
    """The sections without figures, and why."""
    lines = []
    missing = [f"`{name}`" for name in names if name not in results]
    if missing:
        lines += [f"Not measured: {', '.join(missing)}.", ""]
    for name in names:
        for side, run in results.get(name, {}).items():
            if "failed" in run:
                lines += [f"`{name}`, {side}, failed: {run['failed']}", ""]
    return lines


def page(results: Mapping[str, Mapping[str, Any]], *, plotted: bool) -> str:
    lines = [
        "# The cost of a fitted model, measured",
        "",
        "Written by `benchmarks/use.py`. *Before* is commit "
        f"{BEFORE}, the last one in which forecasts were compiled",
        "Keras models, on JAX. Each section ran in one process for each side. The column *calls* "
        "has the number",
        "of calls of which a figure is the median, before and after. CPU time is that of all "
        "threads together.",
        "A target that is a number is the largest value that was asked for.",
        "",
    ]
    lines += [*origin(results), ""] if results else []
    lines += failures(results, SECTIONS)
    lines += ["| | before | after | before / after | target | calls |", "|---|---|---|---|---|---|"]
    for section in SECTIONS:
        sides = {side: figures(run["found"]) for side, run in results.get(section, {}).items()}
        for name, after in sides.get("after", {}).items():
            before = sides.get("before", {}).get(name)
            old, new = before["value"] if before else None, after["value"]
            ratio = f"{old / new:.1f}" if old and new else ""
            calls = f"{before['of'] if before and old else '-'}, {after['of']}"
            row = (name, number(before), number(after), ratio, target(name, new), calls)
            lines.append(f"| {' | '.join(row)} |")
    lines += [
        "",
        "Installed in an empty environment, the package and what it needs took about 1,040 MB "
        "before. They take",
        "291 MB now, and 867 MB with the extra `jax`. This script does not measure these sizes: "
        "`make package` prints",
        "those of now, and "
        "[decision 44](decisions/0044-training-is-an-extra.md) has what they consist of.",
        "",
    ]
    if plotted:
        lines += [
            "![Memory and time of calls of random sizes, and update against past observations]"
            "(use.svg)",
            "",
            "Left and middle: `predict` of 1 to 299 items with 1 to 39 known steps and 1 to 19 "
            "forecast ones, drawn anew",
            "for each call: the memory of the process after the call, and the CPU time an item. "
            "Right: `update` of one item",
            "by one observation.",
            "",
        ]
    lines += [
        "## Peers",
        "",
        "The models were trained on the growth series for a few steps: only the calls that are "
        "named were timed. The step of JAX",
        "is the recurrence alone, and is to be compared with `engine.advance`, which also builds "
        "its inputs. The step of",
        "ONNX Runtime includes the quantiles, with analogues and calibration. The `predict` of "
        "NeuralForecast and Darts is to",
        "be compared with that of one new item from a table.",
        "",
        "| | median, or first call | calls |",
        "|---|---|---|",
    ]
    for name in PEERS:
        lines += [
            f"| {row} | {number(each)} | {each['of']} |"
            for run in results.get(name, {}).values()
            for row, each in figures(run["found"]).items()
        ]
    lines += ["", *failures(results, PEERS)]
    return "\n".join(lines)


def write(results: Mapping[str, Mapping[str, Any]]) -> None:
    PAGE.write_text(page(results, plotted=plot(results)), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    names = [*SECTIONS, *PEERS]
    parser.add_argument("--sections", nargs="+", choices=names, default=names)
    parser.add_argument("--after-only", action="store_true", help="print the figures of this tree")
    parser.add_argument("--page", action="store_true", help="write the page, measure nothing")
    parser.add_argument("--peers", metavar="PYTHON", help="an interpreter with the peers")
    parser.add_argument("--section", choices=names, help=argparse.SUPPRESS)
    parser.add_argument("--fit", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.fit:
        fit(asked.fit)
        return
    if asked.section:
        print(json.dumps((SECTIONS | PEERS)[asked.section]()))
        return
    results: dict[str, dict[str, Any]] = {}
    if RESULTS.exists():
        results = json.loads(RESULTS.read_text(encoding="utf-8"))
    if asked.page:
        write(results)
        return
    export_growth()
    failed: list[str] = []
    for section in asked.sections:
        if section in THEIRS and not asked.peers:
            print(f"{section}: left out, without --peers", flush=True)
            continue
        python = asked.peers if section in THEIRS else sys.executable
        one = section in PEERS or asked.after_only
        found = {}
        for side in ("after",) if one else ("before", "after"):
            print(f"{section}, {side} ...", end=" ", flush=True)
            found[side] = measured(section, side, python)
            print(f"{found[side]['seconds']:.0f} s", flush=True)
        failed += [section for run in found.values() if "failed" in run]
        for name, value in figures(found["after"]["found"]).items():
            before = figures(found.get("before", {}).get("found", {})).get(name)
            old = f"{number(before)} before ({before['of']}), " if before else ""
            print(f"    {name}: {old}{number(value)} ({value['of']})", flush=True)
        if not asked.after_only:
            results[section] = found
            RESULTS.write_text(json.dumps(results), encoding="utf-8")
            write(results)
    if own := [section for section in failed if section in SECTIONS]:
        raise SystemExit(f"failed: {', '.join(own)}")


if __name__ == "__main__":
    main()
