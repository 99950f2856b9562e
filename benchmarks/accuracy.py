"""The accuracy of forecasts, beside baselines and the models of other libraries.

Run it from the root of the repository::

    .venv/bin/python benchmarks/accuracy.py                      # everything: hours
    .venv/bin/python benchmarks/accuracy.py --data pigs --methods Statecast "panel LightGBM"
    .venv/bin/python benchmarks/accuracy.py --data pigs --methods "Statecast(units=64)"
    .venv/bin/python benchmarks/accuracy.py --page               # write docs/accuracy.md

A data set is a folder in ``--folder`` (by default ``../shared/data``; growth is also part of the
package) with ``series.csv`` (``unique_id, ds, y``; ds is the step, from 1), ``static.csv``
(``unique_id`` and features) and ``folds.csv`` (``unique_id, fold``). A set of ``GROUPED`` has no
``folds.csv``. Every such folder with numbers in y is found by its name. Each fold is forecast by a
model of the others. A set with more than ``LARGE`` items uses its first fold only, unless
``--folds`` names the folds.

A method is a function of a ``Fold`` and a seed, and a row of ``METHODS``; one of another library is
a row of ``PEERS`` in ``peers.py``, and runs in the first interpreter of ``--python`` that has the
library: ``pip install 'statecast[trees]'`` has LightGBM, and ``statecast[peers]`` the others, which
need an environment of their own. ``Statecast(name=value, ...)`` is the forecaster with other
settings. It has two more names: ``static=False`` leaves the static features out, and
``calibrated=False`` the calibration.

Every fit appends its scores to ``--results`` (``build/accuracy.csv``): a row for each k and item,
with the sums of ``statecast.evaluate.scores.sums_of``. Items of a group (the years of a basin; see
``Panel.groups``) are one row. A fit that the file has is not repeated without ``--again``, so a run
may be stopped at any time. ``comparison.py`` computes the statistics, and writes the page.
"""

from __future__ import annotations

import argparse
import ast
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import comparison
import numpy as np
import peers
import polars as pl

from statecast import Forecaster
from statecast.errors import DataWarning
from statecast.evaluate.baselines import LastValue, MeanCurve, Neighbours, Ridge, Trees
from statecast.evaluate.scores import LEVELS, score_of, sums_of
from statecast.tables.schema import Schema

ROOT = Path(__file__).parents[1]
SHARED, PACKAGE = ROOT.parent / "shared" / "data", ROOT / "src" / "statecast" / "data"
RESULTS = ROOT / "build" / "accuracy.csv"
KNOWN = (0, 1, 3, 5)
LARGE = 5000  # items
# Sets without folds, and the column whose values are in five folds at random. It is not a feature,
# as new items have new values.
GROUPED = {"reserving": "company"}
SKEWED = 1.0  # the peers see log1p(y) if y is nowhere negative and its skewness is above this

Forecasts = dict[int, np.ndarray]  # by k: quantiles (items, steps - k, levels), in units of y

# -- the data ----------------------------------------------------------------------------------


class DataSet:
    """The tables of a folder."""

    def __init__(self, folder: Path) -> None:
        # Steps are whole numbers from 1. An empty cell is missing; "NA" is a text.
        read = partial(pl.read_csv, null_values=[""], infer_schema_length=None)
        self.name = folder.name
        self.series = read(folder / "series.csv").select("unique_id", "ds", "y")
        self.static = read(folder / "static.csv")
        self._groups: dict[Any, Any] | None = None
        column = GROUPED.get(self.name)
        if column is None:
            self.folds = read(folder / "folds.csv")
        else:
            names = self.static[column].unique().sort()
            fold = np.random.default_rng(0).permutation(len(names)) % 5
            number = dict(zip(names.to_list(), fold.tolist(), strict=True))
            self.folds = self.static.select("unique_id", fold=pl.col(column).replace_strict(number))
            self._groups = dict(self.static.select("unique_id", column).iter_rows())
            self.static = self.static.drop(column)
        self.steps = int(self.series["ds"].max())  # type: ignore[arg-type]
        y = self.series["y"].cast(pl.Float64)
        skew = y.drop_nulls().drop_nans().skew() or 0.0
        self.logged = float(y.min()) >= 0 and skew > SKEWED  # type: ignore[arg-type]

    @cached_property
    def group(self) -> dict[Any, Any]:
        """The group of each item, by id. Its name is a company, or the first id of the group."""
        if self._groups is not None:
            return self._groups
        schema = Schema.fit(self.series, self.static, transform="none")
        panel = schema.panel(self.series, self.static)
        ids, groups = panel.ids.tolist(), panel.groups.tolist()
        names: dict[int, Any] = {}
        return {
            item: names.setdefault(group, item) for item, group in zip(ids, groups, strict=True)
        }

    def numbers(self, folds: Sequence[int] | None) -> list[int]:
        """Return the folds to forecast: those asked for, or by default all, or the first."""
        every = sorted(self.folds["fold"].unique().to_list())
        if folds is not None:
            return [fold for fold in every if fold in folds]
        return every[:1] if len(self.static) > LARGE else every


@dataclass
class Fold:
    """The training tables of a fold, and the test items without what is to be forecast.

    Attributes
    ----------
    train, train_static, test_static : polars.DataFrame
    steps : int
    logged : bool
    group : dict
        The group of each item.
    """

    train: pl.DataFrame
    train_static: pl.DataFrame
    test_static: pl.DataFrame
    steps: int
    logged: bool
    group: dict[Any, Any]
    _test: pl.DataFrame

    @classmethod
    def of(cls, data: DataSet, number: int) -> Fold:
        """Return a fold of a data set."""
        old = data.folds.filter(pl.col("fold") != number)
        new = data.folds.filter(pl.col("fold") == number)
        (train, train_static), (test, test_static) = (
            [table.join(part, on="unique_id", how="semi") for table in (data.series, data.static)]
            for part in (old, new)
        )
        return cls(train, train_static, test_static, data.steps, data.logged, data.group, test)

    @property
    def known(self) -> list[int]:
        """The prefix lengths at which there is something to forecast."""
        return [k for k in KNOWN if k < self.steps]

    def prefix(self, k: int) -> pl.DataFrame:
        """Return the first k steps of the test items."""
        return self._test.filter(pl.col("ds") <= k)

    @property
    def truth(self) -> np.ndarray:
        """y of the test items, ``(items, steps)``; NaN where nothing was observed."""
        return self._array(self._test, self.test_static)

    def score(self, forecasts: Forecasts) -> list[tuple[Any, ...]]:
        """Return a row for each k and group: k, its name and the sums of ``sums_of``."""
        rows, truth = [], self.truth
        groups = [self.group[item] for item in self.test_static["unique_id"].to_list()]
        names = list(dict.fromkeys(groups))
        at = np.array([names.index(group) for group in groups])
        for k, quantiles in forecasts.items():
            each = sums_of(truth[:, k:], np.asarray(quantiles, np.float64), LEVELS)
            if not np.isfinite(each[each[:, -1] > 0]).all():
                raise ValueError(f"a forecast from k = {k} is not finite")
            sums = np.zeros((len(names), each.shape[1]))
            np.add.at(sums, at, each)
            rows += [(k, name, *of) for name, of in zip(names, sums, strict=True) if of[-1]]
        return rows

    def arrays(self) -> tuple[dict[str, np.ndarray], Callable[[np.ndarray], np.ndarray]]:
        """Return what a peer is given, and the map of its forecasts to the units of y.

        ``y`` and ``y_test`` are ``(items, steps)`` (log1p if the data are skewed), NaN where there
        is no value, and the test items end after the longest prefix; ``numeric`` has the numeric
        features, ``codes`` the categories, from 1, with 0 for one that is missing or not in
        training, ``cards`` the number of codes; ``groups`` are items that are held out together.
        """
        longest = max(self.known)
        y = {"": self._array(self.train, self.train_static)}
        y["_test"] = np.full((len(self.test_static), self.steps), np.nan)
        y["_test"][:, :longest] = self._array(self.prefix(longest), self.test_static)[:, :longest]
        arrays: dict[str, Any] = {
            "y" + end: np.log1p(each) if self.logged else each for end, each in y.items()
        }
        tables = {"": self.train_static, "_test": self.test_static}
        codes, cards, numeric = [], [], []
        for name in self.train_static.columns:
            if name == "unique_id":
                continue
            if self.train_static[name].dtype == pl.String:
                names = self.train_static[name].drop_nulls().unique().sort().to_list()
                place = {each: i for i, each in enumerate(names, 1)}
                codes.append([[place.get(c, 0) for c in t[name]] for t in tables.values()])
                cards.append(len(names) + 1)
            else:
                numeric.append([t[name].cast(pl.Float64).to_numpy() for t in tables.values()])
        arrays["cards"] = np.array(cards, int)
        for part, (end, table) in enumerate(tables.items()):
            for kind, columns, dtype in (("numeric", numeric, float), ("codes", codes, int)):
                stacked = np.array([column[part] for column in columns], dtype)
                arrays[kind + end] = stacked.reshape(len(columns), len(table)).T
        ids = self.train_static["unique_id"].to_list()
        arrays["groups"] = np.unique([str(self.group[i]) for i in ids], return_inverse=True)[1]
        arrays["levels"], arrays["known"] = np.array(LEVELS), np.array(self.known)

        def units(values: np.ndarray) -> np.ndarray:
            return np.maximum(np.expm1(values), 0) if self.logged else values

        return arrays, units

    def _array(self, series: pl.DataFrame, static: pl.DataFrame) -> np.ndarray:
        row = {item: i for i, item in enumerate(static["unique_id"].to_list())}
        y = np.full((len(row), self.steps), np.nan)
        at = [row[item] for item in series["unique_id"].to_list()]
        y[at, series["ds"].to_numpy() - 1] = series["y"].cast(pl.Float64).to_numpy()
        return y


def data_sets(folders: Sequence[Path]) -> dict[str, Path]:
    """Return the folders with a data set, by name; the first of two with the same name."""
    found: dict[str, Path] = {}
    for folder in folders:
        for series in sorted(folder.glob("*/series.csv")):
            needed = ["static.csv"]
            if series.parent.name not in GROUPED:
                needed.append("folds.csv")
            if not all(series.with_name(name).exists() for name in needed):
                continue
            if pl.read_csv(series, n_rows=1000, null_values=[""])["y"].dtype.is_numeric():
                found.setdefault(series.parent.name, series.parent)
    return found


# -- the methods: forecasts by k, and the CPU seconds of the fit -------------------------------


def statecast(
    fold: Fold, seed: int, *, static: bool = True, calibrated: bool = True, **settings: Any
) -> tuple[Forecasts, float]:
    """The forecaster."""
    begin = time.process_time()
    forecaster = Forecaster(seed=seed, **settings)
    forecaster.fit(fold.train, fold.train_static if static else None, verbose=0)
    took = time.process_time() - begin
    found = {}
    for k in fold.known:
        ids = fold.test_static if static else fold.test_static.select("unique_id")
        panel = forecaster.schema.panel(fold.prefix(k), ids)
        quantiles = forecaster.quantiles(panel, fold.steps, LEVELS, calibrated=calibrated)
        found[k] = _in_order(fold, panel, quantiles)[:, k:]
    return found, took


def statecast_for_each_k(fold: Fold, seed: int) -> tuple[Forecasts, float]:
    """A forecaster for each k, which is trained and stopped by this prefix length alone."""
    from unittest import mock

    from statecast.forecast import forecaster
    from statecast.networks import batches

    found, took = {}, 0.0
    for k in fold.known:

        class Alone(batches.TrainingBatches):
            prefix = k

            def __getitem__(self, index: int) -> tuple[Any, ...]:
                rows = self.order[index]
                seen = np.arange(self.panel.y.shape[1]) < self.prefix
                seen = np.broadcast_to(seen, (*rows.shape, len(seen)))
                return self.pack(rows, seen, ~seen)

        own = mock.patch.object(forecaster, "TrainingBatches", Alone)
        with own, mock.patch.object(batches, "PREFIXES", (k,)):
            forecasts, seconds = statecast(fold, seed)
        found[k], took = forecasts[k], took + seconds
    return found, took


def baseline(make: Callable[[int], Any], fold: Fold, seed: int) -> tuple[Forecasts, float]:
    """A baseline of ``statecast.evaluate``."""
    begin = time.process_time()
    schema = Schema.fit(fold.train, fold.train_static)
    fitted = make(seed).fit(schema.panel(fold.train, fold.train_static, for_fit=True), schema)
    found = {}
    for k in fold.known:
        if k >= fitted.needs:
            panel = schema.panel(fold.prefix(k), fold.test_static)
            found[k] = _in_order(fold, panel, fitted.quantiles(panel, k, fold.steps, LEVELS))[:, k:]
    return found, time.process_time() - begin


def peer(name: str, fold: Fold, seed: int, *, python: str) -> tuple[Forecasts, float]:
    """A method of another library, in a process of its own."""
    arrays, units = fold.arrays()
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "job.npz", **arrays)
        command = [python, str(Path(peers.__file__)), name, folder, str(seed)]
        # Models so small gain nothing from a second thread, and lose much by waiting for it.
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        ran = subprocess.run(
            command, capture_output=True, text=True, cwd=folder, env=environment, check=False
        )
        if ran.returncode:
            raise RuntimeError(f"{name} failed:\n{ran.stderr[-3000:]}")
        with np.load(Path(folder) / "answer.npz") as answer:
            return {k: units(answer[str(k)]) for k in fold.known}, float(answer["seconds"])


def _in_order(fold: Fold, panel: Any, values: np.ndarray) -> np.ndarray:
    row = {item: i for i, item in enumerate(panel.ids.tolist())}
    return values[[row[item] for item in fold.test_static["unique_id"].to_list()]]


@dataclass(frozen=True)
class Method:
    """A method: its function, a description for the page, and whether a seed changes it.

    ``needs`` is the module of a peer.
    """

    run: Callable[..., tuple[Forecasts, float]]
    text: str
    seeded: bool = True
    needs: str = ""


OURS = "Statecast"
METHODS: Mapping[str, Method] = {
    OURS: Method(statecast, "one model for all k, with the default settings"),
    "Statecast, a model for each k": Method(
        statecast_for_each_k, "each trained and stopped at a single k"
    ),
    "last value": Method(
        partial(baseline, lambda seed: LastValue()), "a point forecast, from k = 1 on", False
    ),
    "mean curve": Method(
        partial(baseline, lambda seed: MeanCurve()), "the mean and quantiles of each step", False
    ),
    "ridge": Method(
        partial(baseline, lambda seed: Ridge()), "ridge regression for each k and step", False
    ),
    "nearest neighbours": Method(
        partial(baseline, lambda seed: Neighbours()), "the 20 nearest training items", False
    ),
    "boosted trees": Method(
        partial(baseline, lambda seed: Trees(None, seed)),
        "scikit-learn's, a model for each k and level, on all training values",
    ),
    **{
        name: Method(partial(peer, name), each.text, needs=each.module)
        for name, each in peers.PEERS.items()
    },
}


def method_of(name: str) -> Method:
    """Return the method of a name, which may be ``Statecast(setting=value, ...)``.

    Raises
    ------
    ValueError
        No such method.
    """
    if name in METHODS:
        return METHODS[name]
    try:
        call = ast.parse(name, mode="eval").body
        if not isinstance(call, ast.Call) or ast.unparse(call.func) != OURS or call.args:
            raise ValueError
        settings = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
    except (SyntaxError, ValueError):
        known = ", ".join(METHODS)
        raise ValueError(
            f"methods: expected {known}, or Statecast(setting=value); received {name!r}"
        ) from None
    return Method(partial(statecast, **settings), "the forecaster with other settings")


@cache
def interpreter(module: str, pythons: tuple[str, ...]) -> str | None:
    """Return the first interpreter that has a module; None if none has."""
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    ran = (each for each in pythons if not subprocess.run([each, "-c", code]).returncode)
    return next(ran, None)


# -- the command -------------------------------------------------------------------------------


def measure(fold: Fold, method: Method, seed: int, python: str | None) -> tuple[Any, float]:
    """Return the rows of ``Fold.score``, and the CPU seconds of the fit."""
    options = {"python": python} if method.needs else {}
    forecasts, seconds = method.run(fold, seed, **options)
    for k, quantiles in forecasts.items():
        expected = (len(fold.test_static), fold.steps - k, len(LEVELS))
        if quantiles.shape != expected:
            raise ValueError(f"expected quantiles of shape {expected}, received {quantiles.shape}")
    return fold.score(forecasts), seconds


def summary(rows: Sequence[tuple[Any, ...]]) -> str:
    """Return CRPS and coverage by k, as text."""
    parts = []
    for k in dict.fromkeys(row[0] for row in rows):
        found = score_of(np.array([row[2:] for row in rows if row[0] == k]).sum(axis=0))
        parts.append(f"k = {k}: {found.crps:.4f} ({100 * (found.coverage or 0):.0f} %)")
    return ", ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", nargs="+", help="names of data sets; by default all, small first")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--folds", nargs="+", type=int)
    parser.add_argument("--folder", type=Path, default=SHARED)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--python", nargs="+", default=[sys.executable], help="for the peers")
    parser.add_argument("--again", action="store_true", help="repeat what the results have, too")
    parser.add_argument("--page", action="store_true", help="measure nothing; write the page")
    asked = parser.parse_args()
    if asked.page:
        comparison.write_page(
            asked.results, {name: each.text for name, each in METHODS.items()}, ROOT / "docs"
        )
        return
    warnings.simplefilter("ignore", DataWarning)  # of columns that the defaults read as numbers
    folders = data_sets([asked.folder, PACKAGE])
    unknown = set(asked.data or ()) - set(folders)
    if unknown:
        parser.error(f"--data: expected some of {sorted(folders)}; received {sorted(unknown)}")
    try:
        methods = {name: method_of(name) for name in asked.methods}
    except ValueError as error:
        parser.error(f"--{error}")
    sets = [DataSet(folders[name]) for name in asked.data or folders]
    sets.sort(key=lambda data: len(data.series))
    pythons: dict[str, str | None] = {}
    for name, method in methods.items():
        pythons[name] = interpreter(method.needs, tuple(asked.python)) if method.needs else None
        if method.needs and pythons[name] is None:
            print(f"Not run: {name}: no interpreter of --python has {method.needs}.")
    jobs = [
        (data, number, seed, name)
        for place, seed in enumerate(asked.seeds)
        for data in sets
        for name, method in methods.items()
        if (method.seeded or not place) and not (method.needs and pythons[name] is None)
        for number in data.numbers(asked.folds)
    ]
    done = set() if asked.again else comparison.finished(asked.results)
    for count, (data, number, seed, name) in enumerate(jobs, 1):
        key = (data.name, number, seed, name)
        if key in done:
            continue
        method = methods[name]
        rows, seconds = measure(Fold.of(data, number), method, seed, pythons[name])
        comparison.append(asked.results, key, seconds, rows)
        where = f"{count} of {len(jobs)}: {data.name}, fold {number}, seed {seed}, {name}"
        print(f"{where}: {summary(rows)}; {seconds:.0f} CPU s", flush=True)


if __name__ == "__main__":
    main()
