"""Baselines, against slow and plain formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from statecast.errors import ArgumentError
from statecast.evaluate.baselines import (
    LastValue,
    MeanCurve,
    Neighbours,
    Ridge,
    Trees,
    default_baselines,
)
from statecast.evaluate.scores import LEVELS, score
from statecast.tables.panel import Panel
from statecast.tables.schema import Schema
from toy_data import tables, toy


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


def test_an_unfitted_baseline_is_refused(fitted: tuple[Schema, Panel, Panel]) -> None:
    with pytest.raises(ArgumentError, match="call fit first"):
        Ridge().quantiles(fitted[2], 3, 8, LEVELS)


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
