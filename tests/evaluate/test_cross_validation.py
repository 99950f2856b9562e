"""Scores, folds and baselines; the forecasters here are fakes, so no Keras is loaded."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statecast.data import Growth
from statecast.errors import ArgumentError, DataError, MissingExtraError
from statecast.evaluate.baselines import (
    LastValue,
    MeanCurve,
    Neighbours,
    Ridge,
    Trees,
    default_baselines,
)
from statecast.evaluate.cross_validation import cross_validation as _cross_validation
from statecast.evaluate.folds import Items
from statecast.evaluate.scores import LEVELS, Row, Scores, score
from statecast.forecast.settings import ForecasterSettings
from statecast.tables.panel import Panel
from statecast.tables.schema import Schema

cross_validation: Any = _cross_validation  # also of what only acts as a forecaster
EPS = float(np.finfo(np.float32).eps)  # panels are float32; sums of float64 are far better


class Fake:
    """A forecaster that answers with the training items' quantiles, and keeps a record."""

    settings = ForecasterSettings()

    def __init__(self, log: list[Fake] | None = None) -> None:
        self.log: list[Fake] = [] if log is None else log
        self.asked: list[Panel] = []
        self.schema: Any = None
        self.trained: set[Any] = set()

    def clone(self) -> Fake:
        return Fake(self.log)

    def fit(self, series: Any, static: Any = None, **options: Any) -> Fake:
        assert options == {"callbacks": (), "verbose": 0}
        self.log.append(self)
        self.schema = Schema.fit(series, static)
        panel = self.schema.panel(series, static, for_fit=True)
        self.trained = set(panel.ids.tolist())
        self.curve = MeanCurve().fit(panel, self.schema)
        return self

    def quantiles(self, panel: Panel, until: int, levels: Sequence[float]) -> np.ndarray:
        self.asked.append(panel)
        return self.curve.quantiles(panel, 0, until, levels)


class Recorder:
    """A baseline that answers 1 everywhere, and keeps a record."""

    name, point, needs, needs_sklearn = "recorder", True, 0, False

    def __init__(self) -> None:
        self.record: list[tuple[Any, ...]] = []

    def fit(self, panel: Panel, schema: Schema) -> Recorder:
        self.record.append(("fit", panel))
        return self

    def quantiles(
        self, panel: Panel, known: int, until: int, levels: Sequence[float]
    ) -> np.ndarray:
        self.record.append(("quantiles", panel, known))
        return np.ones((panel.rows, until, len(levels)))


def toy(rows: int = 30, steps: int = 8, seed: int = 0, gaps: float = 0.2) -> tuple[Any, Any]:
    """Y and X; ragged, with gaps."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, 2))
    Y = 60 + X[:, :1] * np.arange(1, steps + 1) + rng.normal(size=(rows, steps)).cumsum(1)
    Y[rng.random(Y.shape) < gaps] = np.nan
    for row in range(0, rows, 5):
        Y[row, steps // 2 :] = np.nan
    Y[:, 0] = np.where(np.isnan(Y).all(axis=1), 20.0, Y[:, 0])
    return Y, X


def tables(Y: np.ndarray, X: np.ndarray, names: Sequence[Any] | None = None) -> tuple[Any, Any]:
    """The same as long polars tables, with a categorical static too."""
    ids = list(range(len(Y))) if names is None else list(names)
    row, at = np.nonzero(~np.isnan(Y))
    series = pl.DataFrame({"unique_id": [ids[i] for i in row], "ds": at + 1, "y": Y[row, at]})
    kind = [("a", "b", "c")[i % 3] for i in range(len(Y))]
    static = {"unique_id": ids, "kind": kind, "x1": X[:, 0], "x2": X[:, 1]}
    return series, pl.DataFrame(static)


def equal(left: Scores, right: Scores, tolerance: float = 100 * EPS) -> None:
    assert [(r.method, r.known, r.items, r.values) for r in left.rows] == [
        (r.method, r.known, r.items, r.values) for r in right.rows
    ]
    for a, b in zip(left.rows, right.rows, strict=True):
        for name in ("wape", "crps", "coverage", "width"):
            ours, theirs = getattr(a, name), getattr(b, name)
            assert (ours is None) == (theirs is None)
            if ours is not None:
                assert ours == pytest.approx(theirs, rel=tolerance)


def test_covariates_go_with_their_items_to_fit_and_forecast(tmp_path: Any) -> None:
    """Also from text: parts of a CSV file mean what the whole does."""

    class Covered(Fake):
        settings = ForecasterSettings(past_cols=["visits"])

        def clone(self) -> Fake:
            return Covered(self.log)

        def fit(self, series: Any, static: Any = None, **options: Any) -> Fake:
            self.log.append(self)
            future = options["future"]
            self.trained = set(future["unique_id"].to_list())
            self.schema = Schema.fit(series, static, future=future, past_cols=["visits"])
            panel = self.schema.panel(series, static, future=future, for_fit=True)
            self.curve = MeanCurve().fit(panel, self.schema)
            return self

    series, static = tables(*toy())
    rng = np.random.default_rng(0)
    series = series.with_columns(visits=pl.Series(rng.normal(size=len(series))))
    row, step = (axis.ravel() for axis in np.indices((31, 9)))  # an item and a step too many
    future = pl.DataFrame({"unique_id": row, "ds": step + 1, "promo": row % 7 + step})
    found = []
    for folder in (None, tmp_path):
        given = [series, static, future]
        if folder is not None:
            for i, table in enumerate(given):
                table.write_csv(folder / f"{i}.csv")
            given = [folder / f"{i}.csv" for i in range(3)]
        fake = Covered()
        scores = cross_validation(fake, *given[:2], future=given[2], folds=3, known=[0, 2])
        assert "The baselines have no covariates" in str(scores)
        assert len(fake.log) == 3
        for each in fake.log:
            asked = {item for panel in each.asked for item in panel.ids.tolist()}
            assert each.trained == set(range(30)) - asked
            for panel in each.asked:
                assert panel.future is not None
                assert panel.past is not None
                assert panel.future.there.any(axis=1).all()
        found.append([panel for each in fake.log for panel in each.asked])
    for left, right in zip(*found, strict=True):
        np.testing.assert_array_equal(left.future.numeric, right.future.numeric)
        np.testing.assert_array_equal(left.past.numeric, right.past.numeric)


# -- the measures ----------------------------------------------------------------------


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """A truth with gaps and quantiles for it."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 6)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    y = rng.normal(size=shape) * 10 + draw(st.sampled_from([0.0, 50.0]))
    quantiles = np.sort(y[..., None] + rng.normal(size=(*shape, len(LEVELS))) * 5, axis=-1)
    y[rng.random(shape) < 0.3] = np.nan
    y[0, 0] = 7.0
    return y, quantiles


@given(scored())
def test_scores_are_what_their_definitions_say(case: tuple[np.ndarray, np.ndarray]) -> None:
    y, quantiles = case
    size = error = loss = inside = width = count = 0.0
    for place in np.ndindex(y.shape):
        if np.isnan(y[place]):
            continue
        truth, forecast = y[place], quantiles[place]
        count += 1
        size += abs(truth)
        error += abs(truth - forecast[4])
        for level, value in zip(LEVELS, forecast, strict=True):
            miss = truth - value
            loss += 2 * (level * miss if miss >= 0 else (level - 1) * miss) / len(LEVELS)
        inside += forecast[0] <= truth <= forecast[-1]
        width += forecast[-1] - forecast[0]
    found = score(y, quantiles)
    assert found.wape == pytest.approx(error / size)
    assert found.crps == pytest.approx(loss / size)
    assert found.coverage == pytest.approx(inside / count)
    assert found.width == pytest.approx(width / size)
    assert found.values == count


@given(scored())
def test_crps_of_a_point_is_its_wape(case: tuple[np.ndarray, np.ndarray]) -> None:
    y, quantiles = case
    found = score(y, np.repeat(quantiles[..., 3:4], len(LEVELS), axis=-1))
    assert found.crps == pytest.approx(found.wape)


@given(scored())
def test_a_perfect_forecast_scores_0(case: tuple[np.ndarray, np.ndarray]) -> None:
    y, _ = case
    found = score(y, np.repeat(y[..., None], len(LEVELS), axis=-1))
    assert (found.wape, found.crps, found.coverage, found.width) == (0, 0, 1, 0)


@given(scored(), st.floats(1e-6, 1e6))
def test_scores_do_not_depend_on_the_unit(case: tuple[np.ndarray, np.ndarray], unit: float) -> None:
    y, quantiles = case
    one, other = score(y, quantiles), score(y * unit, quantiles * unit)
    for name in ("wape", "crps", "width"):
        assert getattr(one, name) == pytest.approx(getattr(other, name))
    assert one.coverage == pytest.approx(other.coverage, abs=1e-12)


@given(scored(), st.randoms(use_true_random=False))
def test_the_order_of_items_changes_nothing(
    case: tuple[np.ndarray, np.ndarray], random: Any
) -> None:
    y, quantiles = case
    order = list(range(len(y)))
    random.shuffle(order)
    one, other = score(y, quantiles), score(y[order], quantiles[order])
    assert one.crps == pytest.approx(other.crps)
    assert one.coverage == other.coverage


def test_nan_forecasts_are_not_passed_over() -> None:
    assert np.isnan(score([1.0, 2.0], [[1.0], [np.nan]], [0.5]).wape)


def test_without_its_ends_there_is_no_interval() -> None:
    found = score([1.0], [[0.0, 1.0, 2.0]], [0.2, 0.5, 0.8])
    assert (found.coverage, found.width) == (None, None)


@pytest.mark.parametrize("levels", [(), (0.1, 0.9), (0.5, 0.1), (0.0, 0.5), (0.5, 1.0), ("a",)])
def test_levels_are_checked(levels: Any) -> None:
    with pytest.raises(ArgumentError, match="levels: expected increasing"):
        score([1.0], np.zeros((1, len(levels))), levels)


def test_the_shape_of_quantiles_is_checked() -> None:
    with pytest.raises(ArgumentError, match=r"quantiles: expected shape \(2, 9\)"):
        score([1.0, 2.0], np.zeros((2, 3)))


# -- the baselines, against slow and plain formulas ------------------------------------


@pytest.fixture
def fitted() -> tuple[Schema, Panel, Panel]:
    """A schema, training items and others cut to their first three steps."""
    series, static = tables(*toy(40))
    first = pl.col("unique_id") < 28
    schema = Schema.fit(series.filter(first), static.filter(first))
    training = schema.panel(series.filter(first), static.filter(first), for_fit=True)
    return schema, training, schema.panel(series.filter(~first), static.filter(~first)).prefix(3)


def inputs(panel: Panel) -> np.ndarray:
    hot = [[code == c for c in (1, 2, 3, 4)] for code in panel.codes[:, 0]]
    return np.hstack([panel.numeric, hot, (panel.y * panel.mask)[:, :3]]).astype(np.float64)


def test_last_value(fitted: tuple[Schema, Panel, Panel]) -> None:
    schema, training, panel = fitted
    found = LastValue().fit(training, schema).quantiles(panel, 3, 10, [0.1, 0.5])
    original = schema.unscale(panel.y)
    means = schema.unscale(np.zeros(10))
    for row in range(panel.rows):
        seen = [original[row, j] for j in range(3) if panel.mask[row, j]]
        wanted = [seen[-1]] * 10 if seen else means
        for level in range(2):
            np.testing.assert_allclose(found[row, 3:, level], wanted[3:])
        assert np.isnan(found[row, :3]).all()


@pytest.mark.parametrize("by", [None, "kind"])
def test_mean_curve(fitted: tuple[Schema, Panel, Panel], by: str | None) -> None:
    schema, training, panel = fitted
    found = MeanCurve(by).fit(training, schema).quantiles(panel, 3, 8, [0.1, 0.5, 0.9])
    for step in range(3, 8):
        for row in range(panel.rows):
            there = training.mask[:, step]
            own = there & (training.codes[:, 0] == panel.codes[row, 0])
            use = training.y[own if by and own.sum() >= 10 else there, step].astype(np.float64)
            z = found[row, step, 1]
            assert z == pytest.approx(schema.unscale(np.array([use.mean()]), step + 1)[0])
            spread = np.quantile(use, 0.9) - np.quantile(use, 0.1)
            scaled = [schema.scale(found[row, step, [j]], step + 1)[0] for j in (0, 2)]
            assert scaled[1] - scaled[0] == pytest.approx(spread)


def test_a_category_that_is_rare_or_new_has_the_curve_of_all() -> None:
    Y, X = toy(40, gaps=0.0)
    series, static = tables(Y, X)
    static = static.with_columns(
        kind=pl.when(pl.col("unique_id") < 4).then(pl.lit("r")).otherwise(pl.lit("c"))
    )
    schema = Schema.fit(series, static)
    training = schema.panel(series, static, for_fit=True)
    codes = np.array([[2], [0], [1], [3]], np.int32)
    some = training.take(np.arange(4))
    panel = Panel(some.ids, some.y, some.mask, some.numeric, codes).prefix(0)
    by = MeanCurve("kind").fit(training, schema).quantiles(panel, 0, 3, LEVELS)
    overall = MeanCurve().fit(training, schema).quantiles(panel, 0, 3, LEVELS)
    rare = schema.static.categories["kind"].index("r") + 2
    for row, code in enumerate(codes[:, 0]):
        assert np.array_equal(by[row], overall[row]) == (code in (0, 1, rare))


def test_ridge(fitted: tuple[Schema, Panel, Panel]) -> None:
    """Against a refit without each item, by the normal equations."""
    schema, training, panel = fitted
    found = Ridge().fit(training, schema).quantiles(panel, 3, 8, LEVELS)
    alphas = np.logspace(-3, 4, 15)

    def refit(x: np.ndarray, y: np.ndarray, alpha: float, at: np.ndarray) -> np.ndarray:
        mean = x.mean(axis=0)
        gram = (x - mean).T @ (x - mean) + alpha * np.eye(x.shape[1])
        weights = np.linalg.solve(gram, (x - mean).T @ (y - y.mean()))
        return y.mean() + (at - mean) @ weights

    for step in range(3, 8):
        there = training.mask[:, step]
        x, y = inputs(training)[there], training.y[there, step].astype(np.float64)
        assert len(y) >= 10
        residuals = np.array(
            [
                [
                    y[i] - refit(np.delete(x, i, 0), np.delete(y, i), alpha, x[i])
                    for i in range(len(y))
                ]
                for alpha in alphas
            ]
        )
        best = int(np.argmin((residuals**2).mean(axis=1)))
        z = refit(x, y, alphas[best], inputs(panel))[:, None]
        z = z + np.quantile(residuals[best], LEVELS)
        wanted = schema.unscale(z[..., None], step + 1)[..., 0]
        np.testing.assert_allclose(found[:, step], wanted, rtol=1e-6)


def test_nearest_neighbours(fitted: tuple[Schema, Panel, Panel]) -> None:
    schema, training, panel = fitted
    found = Neighbours(5).fit(training, schema).quantiles(panel, 3, 8, LEVELS)
    for row, own in enumerate(inputs(panel)):
        distance = ((inputs(training) - own) ** 2).sum(axis=1)
        for step in range(3, 8):
            there = [i for i in np.argsort(distance) if training.mask[i, step]]
            z = np.quantile(training.y[there[:5], step].astype(np.float64), LEVELS)
            wanted = schema.unscale(z[:, None], step + 1)[:, 0]
            np.testing.assert_allclose(found[row, step], wanted, rtol=1e-6)


@pytest.mark.parametrize("baseline", [LastValue(), MeanCurve(), Ridge(), Neighbours(), Trees()])
@pytest.mark.parametrize("rows", [1, 2, 5, 12])
def test_few_items_and_steps_beyond_training(baseline: Any, rows: int) -> None:
    Y, X = toy(rows + 3, 6)
    Y[0, 0] = 60.0
    schema = Schema.fit(Y[:rows], X[:rows])
    trained = baseline.fit(schema.panel(Y[:rows], X[:rows], for_fit=True), schema)
    panel = schema.panel(Y[rows:], X[rows:]).prefix(1)
    found = trained.quantiles(panel, 1, 9, LEVELS)
    assert found.shape == (3, 9, len(LEVELS))
    assert np.isnan(found[:, :1]).all()
    assert np.isfinite(found[:, 1:]).all()
    assert (np.diff(found[:, 1:], axis=-1) >= 0).all()


@pytest.mark.parametrize("baseline", [MeanCurve(), Ridge(), Neighbours()])
def test_without_statics_and_prefix_all_items_have_one_forecast(baseline: Any) -> None:
    Y, _ = toy(30)
    schema = Schema.fit(Y)
    panel = schema.panel(Y)
    found = baseline.fit(panel, schema).quantiles(panel.prefix(0), 0, 8, LEVELS)
    assert np.array_equal(found, np.broadcast_to(found[:1], found.shape))


def test_a_baseline_that_is_not_fitted_says_so(fitted: tuple[Schema, Panel, Panel]) -> None:
    with pytest.raises(ArgumentError, match="call fit first"):
        Ridge().quantiles(fitted[2], 3, 8, LEVELS)


# -- cross-validation ------------------------------------------------------------------


def test_no_method_ever_meets_the_items_it_forecasts() -> None:
    series, static = tables(*toy(30, gaps=0.1))
    fake, recorder = Fake(), Recorder()
    cross_validation(fake, series, static, folds=4, known=(0, 2), baselines=[recorder])
    assert fake.schema is None, "the forecaster that was handed in is left as it was"
    assert len(fake.log) == 4
    forecast: list[Any] = []
    for fitted in fake.log:
        assert len(fitted.asked) == 2
        for panel, k in zip(fitted.asked, (0, 2), strict=True):
            assert not fitted.trained & set(panel.ids.tolist())
            assert not panel.mask[:, k:].any()
            assert not panel.y[:, k:].any()
        forecast += fitted.asked[0].ids.tolist()
        assert fitted.trained | set(fitted.asked[0].ids.tolist()) == set(range(30))
    assert sorted(forecast) == list(range(30)), "each item is forecast in one fold"
    trained: set[Any] = set()
    for what, panel, *rest in recorder.record:
        if what == "fit":
            trained = set(panel.ids.tolist())
        else:
            assert not trained & set(panel.ids.tolist())
            assert not panel.mask[:, rest[0] :].any()


def test_scores_pool_all_folds_and_leave_short_items_out() -> None:
    Y, X = toy(30, gaps=0.0)  # every fifth item ends after step 4
    found = cross_validation(
        Fake(), Y, X, folds=np.arange(30) % 3, known=(0, 4), baselines=[Recorder()]
    )
    assert [(r.method, r.known, r.items) for r in found.rows] == [
        ("statecast", 0, 30),
        ("recorder", 0, 30),
        ("statecast", 4, 24),
        ("recorder", 4, 24),
    ]
    for k in (0, 4):
        row, rest = found["recorder", k], Y[:, k:]
        assert row.values == (~np.isnan(rest)).sum()
        wanted = np.nansum(abs(rest - 1)) / np.nansum(abs(rest))
        assert row.wape == pytest.approx(wanted, rel=100 * EPS)
        assert row.crps == pytest.approx(wanted, rel=100 * EPS)
        assert (row.coverage, row.width) == (None, None)


@given(st.randoms(use_true_random=False), st.booleans())
def test_the_order_of_the_tables_changes_nothing(random: Any, by_table: bool) -> None:
    series, static = tables(*toy(20))
    folds: Any = 3
    if by_table:
        folds = static.select("unique_id", fold=pl.col("unique_id") // 3 % 3)
    one = cross_validation(
        Fake(), series, static, folds=folds, baselines=[MeanCurve(), LastValue()]
    )
    rows, order = list(range(series.height)), list(range(static.height))
    random.shuffle(rows)
    random.shuffle(order)
    other = cross_validation(
        Fake(), series[rows], static[order], folds=folds, baselines=[MeanCurve(), LastValue()]
    )
    equal(one, other, 1e-5)


@pytest.mark.parametrize("names", [None, [f"item {i}" for i in range(24)]])
def test_every_kind_of_table_gives_the_same_scores(tmp_path: Path, names: list[str] | None) -> None:
    series, static = tables(*toy(24), names)
    folds = pl.DataFrame(
        {"unique_id": static["unique_id"], "fold": [i // 3 % 3 for i in range(24)]}
    )
    kinds: dict[str, Any] = {
        "pandas": lambda table, _: table.to_pandas(),
        "arrow": lambda table, _: table.to_arrow(),
        "lazy": lambda table, _: table.lazy(),
    }
    for ending in ("csv", "parquet"):

        def write(table: pl.DataFrame, name: str, ending: str = ending) -> Path:
            path = tmp_path / f"{name}.{ending}"
            getattr(table, f"write_{ending}")(path)
            return path

        kinds[ending] = write
    quick = [MeanCurve(), MeanCurve("kind"), Ridge(), Neighbours(), LastValue()]
    one = cross_validation(Fake(), series, static, folds=folds, baselines=quick)
    for kind in kinds.values():
        parts = [kind(t, n) for t, n in ((series, "series"), (static, "static"), (folds, "folds"))]
        other = cross_validation(Fake(), parts[0], parts[1], folds=parts[2], baselines=quick)
        equal(one, other, 1e-6)


def test_the_baselines_taken_by_default() -> None:
    names = [each.name for each in default_baselines(Schema.fit(*tables(*toy(24))))]
    assert names == [
        "last value",
        "mean curve",
        "mean curve by kind",
        "ridge",
        "nearest neighbours",
        "boosted trees",
    ]


def test_arrays_without_statics_and_with_them() -> None:
    Y, X = toy(24)
    series, static = tables(Y, X)
    folds = np.arange(24) % 2
    long = cross_validation(
        Fake(),
        series,
        static.drop("kind"),
        folds=pl.DataFrame({"unique_id": range(24), "fold": folds}),
        baselines=[Ridge()],
    )
    equal(long, cross_validation(Fake(), Y, X, folds=folds, baselines=[Ridge()]), 1e-6)
    assert cross_validation(Fake(), Y, folds=folds, baselines=False).rows[0].items == 24


def test_dates_and_columns_of_other_names() -> None:
    series, static = tables(*toy(24))
    fake = Fake()
    one = cross_validation(fake, series, static, folds=3, baselines=False)
    start = pl.date(2020, 1, 1)
    dated = series.with_columns(ds=start.dt.offset_by(pl.col("ds").cast(pl.String) + "d"))
    # Step 1 is an item's first date: only items that begin at step 1 are the same
    begins = series.filter(pl.col("ds") == 1)["unique_id"].to_list()
    keep = pl.col("unique_id").is_in(begins)
    one, other = (
        cross_validation(
            fake, table.filter(keep), static.filter(keep), folds=3, baselines=[Ridge()]
        )
        for table in (series, dated)
    )
    equal(one, other, 1e-6)

    class Renamed(Fake):
        settings = ForecasterSettings(id_col="who", step_col="when", target_col="what")

        def clone(self) -> Fake:
            return Renamed(self.log)

        def fit(self, series: Any, static: Any = None, **options: Any) -> Fake:
            back = {"who": "unique_id", "when": "ds", "what": "y"}
            return super().fit(series.rename(back), static.rename({"who": "unique_id"}), **options)

    renamed = series.rename({"unique_id": "who", "ds": "when", "y": "what"})
    table = static.rename({"unique_id": "who"})
    with pytest.raises(DataError, match="'who'"):
        cross_validation(Renamed(), series, static)
    with pytest.raises(DataError, match="unique_id"):  # the fake's own schema has other names
        cross_validation(Renamed(), renamed, table, baselines=False)


def test_test_folds_and_progress() -> None:
    Y, X = toy(24)
    said: list[tuple[str, int, int]] = []
    fake = Fake()
    folds = np.array(["a", "b", "c"])[np.arange(24) % 3]
    found = cross_validation(
        fake,
        Y,
        X,
        folds=folds,
        test_folds=["b"],
        known=(3, 0),
        baselines=False,
        progress=lambda *what: said.append(what),
    )
    assert found.known == (0, 3)
    assert (found.folds, len(fake.log), found.rows[0].items) == (1, 1, 8)
    assert found.best(0) is None
    assert found.skill(0) is None
    assert [what[1] for what in said] == [0, 1, 2, 3]
    assert {what[2] for what in said} == {3}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"folds": 1}, ArgumentError, "folds: expected a number from 2 to 12"),
        ({"folds": 13}, ArgumentError, "folds: expected a number from 2 to 12"),
        ({"folds": "missing.csv"}, DataError, "there is none"),
        ({"folds": [0] * 12}, DataError, "all items are in fold 0"),
        ({"folds": [0, 1]}, DataError, r"shape \(12,\)"),
        (
            {"folds": pl.DataFrame({"unique_id": range(7), "fold": [0, 1] * 3 + [0]})},
            DataError,
            "none for item 7",
        ),
        ({"folds": pl.DataFrame({"unique_id": [0, 1, 1], "fold": [0, 1, 0]})}, DataError, "item 1"),
        ({"folds": pl.DataFrame({"unique_id": range(12)})}, DataError, "'fold'"),
        ({"known": (0, -1)}, ArgumentError, "known: expected prefix lengths"),
        ({"known": ()}, ArgumentError, "known: expected prefix lengths"),
        ({"known": (True,)}, ArgumentError, "known: expected prefix lengths"),
        ({"known": (0, 8)}, ArgumentError, "up to step 8; received 8"),
        ({"test_folds": [5]}, ArgumentError, "test_folds: expected some of"),
        ({"test_folds": []}, ArgumentError, "received none"),
        ({"levels": (0.1, 0.9)}, ArgumentError, "levels"),
        ({"baselines": [Ridge(), Ridge()]}, ArgumentError, "'ridge' twice"),
    ],
)
def test_bad_input_is_refused_before_any_fit(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    series, static = tables(*toy(12, gaps=0.0))
    fake = Fake()
    with pytest.raises(error, match=message):
        cross_validation(fake, series, static, **options)
    assert fake.log == []


def test_tables_are_checked_before_any_fit() -> None:
    series, static = tables(*toy(12, gaps=0.0))
    fake = Fake()
    with pytest.raises(DataError, match=r"item 11"):
        cross_validation(fake, series, static[:11])
    assert fake.log == []


def test_the_missing_extra_is_named_before_any_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    Y, X = toy(12)
    fake = Fake()
    with pytest.raises(MissingExtraError, match=r"statecast\[evaluate\]"):
        cross_validation(fake, Y, X, folds=3)
    assert fake.log == []
    assert cross_validation(fake, Y, X, folds=3, baselines=[MeanCurve()]).methods


# -- what the scores say ---------------------------------------------------------------


def row(method: str, known: int, wape: float, crps: float) -> Row:
    interval = (None, None) if method == "last value" else (0.8, 0.1)
    return Row(wape, crps, *interval, 50, method, known, 10)


def test_scores_say_plainly_who_is_better() -> None:
    rows = (
        row("statecast", 0, 0.5, 0.4),
        row("ridge", 0, 0.4, 0.5),
        row("statecast", 3, 0.3, 0.2),
        row("last value", 3, 0.3, 0.3),
        row("ridge", 3, 0.4, 0.2),
    )
    scores = Scores(rows, "statecast", 5)
    assert scores.skill(0) == pytest.approx(-0.25)
    assert scores.skill(0, "crps") == pytest.approx(0.2)
    best = scores.best(3)
    assert best is not None
    assert best.method == "last value"
    text = str(scores)
    for line in (
        "WAPE: statecast does not beat the best baseline, ridge: 25.0 % worse.",
        "CRPS: statecast beats the best baseline, ridge, by 20.0 %.",
        "WAPE: statecast does not beat the best baseline, last value: they are equal.",
        "k = 3: 10 items, 50 values",
    ):
        assert line in text
    line = next(line for line in text.splitlines() if "last value " in line)
    assert line.split()[-2:] == ["-", "-"]
    assert repr(scores) == "<Scores of statecast, ridge, last value; k = 0, 3; folds: 5>"
    assert "<table" in scores._repr_html_()
    table = scores.table()
    assert table.height == 5
    assert table["skill_wape"].null_count() == 3
    with pytest.raises(KeyError, match="expected a method"):
        scores["ridge", 7]
    with pytest.raises(ArgumentError, match="measure"):
        scores.best(0, "mape")
    with pytest.raises(AttributeError):
        scores.folds = 3  # type: ignore[misc]


def test_growth(growth_tables: Growth) -> None:
    """The bars that forecasts of the growth study are held to, as published in the README."""
    series, static, folds = growth_tables
    quick = [MeanCurve("sex"), Ridge(), Neighbours(), LastValue()]
    found = cross_validation(Fake(), series, static, folds=folds, known=(0, 3), baselines=quick)
    assert found["mean curve by sex", 0].wape == pytest.approx(0.0328, abs=2e-4)
    assert found["ridge", 3].wape == pytest.approx(0.0265, abs=2e-4)
    assert found["ridge", 3].crps == pytest.approx(0.0205, abs=2e-4)
    assert found["nearest neighbours", 3].wape == pytest.approx(0.0296, abs=2e-4)
    assert found["last value", 3].wape == pytest.approx(0.4262, abs=2e-4)


# -- what chance may have done ---------------------------------------------------------


def drawn_scores(groups: int, seed: int, gain: float = 0.05, noise: float = 0.1) -> Scores:
    """Two methods' sums by group, ours better by ``gain`` of their loss."""
    rng = np.random.default_rng(seed)
    size = rng.uniform(5, 15, groups)
    theirs = rng.uniform(0.5, 1.5, groups)
    ours = theirs * (1 - gain + noise * rng.normal(size=groups))
    sums, rows = {}, []
    for name, loss in (("statecast", ours), ("mean curve", theirs)):
        ones = np.ones(groups)
        sums[name, 0] = np.stack([size, loss, loss, ones, ones, ones], axis=1)
        wape = float(loss.sum() / size.sum())
        rows.append(Row(wape, wape, 1.0, 0.1, groups, name, 0, groups))
    return Scores(tuple(rows), "statecast", 1, sums, seed)


@given(st.integers(20, 200), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_intervals_hold_the_score_and_are_reproducible(groups: int, seed: int) -> None:
    found, again = drawn_scores(groups, seed), drawn_scores(groups, seed)
    for measure in ("wape", "crps"):
        interval = found.interval("statecast", 0, measure)
        assert interval is not None
        assert interval[0] < found["statecast", 0].wape < interval[1]
        paired = found.skill_interval(0, measure)
        skill = found.skill(0, measure)
        assert paired is not None
        assert skill is not None
        assert paired[0] < skill < paired[1]
        assert interval == again.interval("statecast", 0, measure)
        assert paired == again.skill_interval(0, measure)
    assert found.interval("statecast", 0) != replace(found, seed=seed + 1).interval("statecast", 0)


def test_intervals_are_those_of_the_central_limit() -> None:
    """Against the standard error of a ratio of sums, by the delta method."""
    found = drawn_scores(400, 3)
    size, loss = found.sums["statecast", 0][:, 0], found.sums["statecast", 0][:, 1]
    ratio = loss.sum() / size.sum()
    error = np.sqrt(((loss - ratio * size) ** 2).sum()) / size.sum()
    interval = found.interval("statecast", 0)
    assert interval is not None
    assert interval[1] - interval[0] == pytest.approx(2 * 1.96 * error, rel=0.08)


def width(interval: tuple[float, float] | None) -> float:
    assert interval is not None
    return interval[1] - interval[0]


def test_more_items_narrow_an_interval_and_pairing_does() -> None:
    few, many = drawn_scores(50, 1), drawn_scores(800, 1)
    assert width(many.interval("statecast", 0)) < width(few.interval("statecast", 0)) / 2
    assert width(many.skill_interval(0)) < width(few.skill_interval(0)) / 2
    # Unpaired, the skill would be as uncertain as both scores together
    own = width(few.interval("statecast", 0)) / few["statecast", 0].wape
    assert width(few.skill_interval(0)) < own


def test_items_of_one_thing_are_drawn_together() -> None:
    """As many copies of each item tell no more than one."""
    Y, X = toy(40, gaps=0.0)
    folds = np.arange(40) % 4
    copies = [np.tile(Y, (3, 1)), np.tile(X, (3, 1))]
    options: dict[str, Any] = {"known": (0, 2), "baselines": [MeanCurve()]}
    once = cross_validation(Fake(), Y, X, folds=folds, **options)
    thrice = cross_validation(Fake(), *copies, folds=np.tile(folds, 3), **options)
    for k in (0, 2):
        assert len(once.sums["statecast", k]) == len(thrice.sums["statecast", k]) == 40
        total = once.sums["statecast", k].sum(axis=0)
        assert total[-1] == once["statecast", k].values
        ends = [each.interval("statecast", k) for each in (once, thrice)]
        assert ends[0] == pytest.approx(ends[1], rel=1e-3)


def test_without_items_to_draw_there_is_no_interval() -> None:
    scores = drawn_scores(1, 0)
    assert scores.interval("statecast", 0) is None
    assert scores.skill_interval(0) is None
    assert scores.useful() is None


def test_useful_is_where_the_skill_is_beyond_chance_from_there_on() -> None:
    gains = {0: 0.2, 1: 0.0, 3: 0.2, 5: 0.2}
    rows, sums = [], {}
    for k, gain in gains.items():
        each = drawn_scores(60, 2, gain)
        rows += [replace(row, known=k) for row in each.rows]
        sums |= {(method, k): values for (method, _), values in each.sums.items()}
    found = Scores(tuple(rows), "statecast", 1, sums)
    assert found.useful() == 3
    assert replace(found, rows=tuple(r for r in rows if r.known < 3)).useful() is None
    text = str(found)
    assert "Useful from k = 3 on" in text
    assert "At k = 0, 3, 5 statecast beats the best baseline in CRPS beyond chance." in text
    assert "At k = 1 the difference to the best baseline is within chance." in text
    assert "At no k" not in text
    assert "The baselines have no" not in text
    assert text.count("; the difference is within chance") == 2
    some = found.text(known=[5])  # its tables alone; what they come to is that of all
    assert "k = 5: 60 items" in some
    assert "k = 3: 60 items" not in some
    assert some[some.index("CRPS against k") :] == text[text.index("CRPS against k") :]
    table = found.table()
    low, high = (table[f"skill_crps_{end}"][0] for end in ("lo", "hi"))
    assert (low, high) == found.skill_interval(0, "crps")
    assert table["crps_lo"][1] < table["crps"][1] < table["crps_hi"][1]
    assert table["skill_crps_lo"].null_count() == 4
    with pytest.raises(ArgumentError, match="against: expected one of"):
        found.useful(against="ridge")


def test_nothing_is_said_to_be_less_than_nothing() -> None:
    text = str(drawn_scores(60, 2, gain=-1e-6, noise=0.0))
    assert "+0.0 (+0.0 to +0.0)" in text
    assert "-0.0" not in text


def test_it_is_said_plainly_that_no_model_beats_the_best_baseline() -> None:
    text = str(drawn_scores(60, 2, gain=-0.2))
    assert "At no k does statecast beat the best baseline in CRPS beyond chance." in text
    assert "At k = 0 the best baseline is better beyond chance: use that baseline." in text
    assert "Not useful at the longest prefix scored" in text


def test_trees_find_a_step_that_a_line_cannot() -> None:
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, size=(300, 1))
    Y = np.where(abs(X) > 0.5, 10.0, 0.0) + rng.normal(size=(300, 3))
    schema = Schema.fit(Y[:200], X[:200], transform="none")
    trained = Trees().fit(schema.panel(Y[:200], X[:200], for_fit=True), schema)
    panel = schema.panel(Y[200:], X[200:])
    found = trained.quantiles(panel.prefix(0), 0, 3, LEVELS)
    scored = score(Y[200:], found)
    assert scored.wape < 0.25
    assert scored.coverage is not None
    assert 0.6 < scored.coverage < 0.95
    few = Trees(most=100, seed=1).fit(schema.panel(Y[:200], X[:200], for_fit=True), schema)
    assert not np.array_equal(few.quantiles(panel.prefix(0), 0, 3, LEVELS), found)


def test_folds_of_a_file_mean_what_the_file_does(tmp_path: Path) -> None:
    """Marks among numbers, codes and whole floats: parts of a file are read as the whole."""
    shop, area = ["7", "7.0", "NA", "12"], ["1.5", "-", "2.5", "8"]
    lines = [f"{i},{shop[i]},{area[i]},{'NA' if i else 'DE'}" for i in range(4)]
    (tmp_path / "static.csv").write_text("unique_id,shop,area,land\n" + "\n".join(lines) + "\n")
    rows = [
        f"{i},{step},{'null' if step == 2 else step + i}" for i in range(4) for step in (1, 2, 3)
    ]
    (tmp_path / "series.csv").write_text("unique_id,ds,y\n" + "\n".join(rows) + "\n")
    paths = tmp_path / "series.csv", tmp_path / "static.csv"
    settings = ForecasterSettings(categorical=["shop"])
    parts = Items.read(settings, *paths, None).take(np.ones(4, bool))
    whole = Schema.fit(*paths, categorical=["shop"])
    schema = Schema.fit(parts["series"], parts["static"], categorical=["shop"])
    assert schema.static.categories == whole.static.categories
    assert schema.static.categories == {"shop": ("12", "7"), "land": ("DE", "NA")}
    one, two = whole.panel(*paths), schema.panel(parts["series"], parts["static"])
    for name in ("y", "mask", "numeric", "codes"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)
