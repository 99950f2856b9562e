"""What a report has is what the library says elsewhere: scores, effects, warnings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curves import T, curve_tables, fit_curves
from statecast.errors import ArgumentError, DataError, NotFittedError
from statecast.evaluate.baselines import LastValue, MeanCurve
from statecast.evaluate.cross_validation import OURS, cross_validation
from statecast.evaluate.scores import Scores
from statecast.forecast.forecaster import Forecaster
from statecast.report import Assessment, assess
from statecast.report.assessment import BINS, FINE, _add_histogram

SMALL: dict[str, Any] = {"units": 4, "ensemble": 2, "epochs": 2}

NEW = 100  # the ids of new items begin here


def new_items(rows: int = 24, seed: int = 5) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Items of the same kind as those of ``fitted``, with other ids."""
    found = [t.with_columns(pl.col("unique_id") + NEW) for t in curve_tables(rows, seed)]
    return found[0], found[1]


@pytest.fixture(scope="module")
def found(fitted: Forecaster) -> Assessment:
    return assess(fitted, *new_items(), known=[0, 2, 4], level=[50, 80], verbose=0)


@dataclass(frozen=True)
class Kept:
    """The forecaster of a cross-validation of one fold, which stays fitted."""

    forecaster: Forecaster

    @property
    def settings(self) -> Any:
        return self.forecaster.settings

    def clone(self) -> Forecaster:
        return self.forecaster


def test_the_scores_are_those_of_a_cross_validation() -> None:
    """Of the same model on the same items, also those of the baselines: they are fitted to the
    training values in the model file."""
    series, static = curve_tables(96)
    folds = static.select("unique_id", fold=(pl.col("unique_id") < 72).cast(pl.Int64))
    f = Forecaster(units=6, ensemble=3, epochs=2)
    baselines = [LastValue(), MeanCurve()]
    given: dict[str, Any] = {"folds": folds, "test_folds": [0], "known": [0, 1, 3], "verbose": 0}
    theirs = cross_validation(Kept(f), series, static, baselines=baselines, **given)
    assert isinstance(theirs, Scores)
    new = folds.filter(pl.col("fold") == 0).select("unique_id")
    tables = [table.join(new, on="unique_id", how="semi") for table in (series, static)]
    ours = assess(f, *tables, known=[0, 1, 3], verbose=0)
    assert ours.trained == 0
    scores = ours.findings[0].scores
    for k in (0, 1, 3):
        for method in (OURS, "last value", "mean curve"):
            if (method, k) == ("last value", 0):
                continue
            one, other = scores[method, k], theirs[method, k]
            assert (one.items, one.values) == (other.items, other.values)
            assert one.wape == pytest.approx(other.wape, rel=1e-5)
            assert one.crps == pytest.approx(other.crps, rel=1e-5)
            assert one.coverage == other.coverage
        assert scores.skill_interval(k, against="mean curve") == pytest.approx(
            theirs.skill_interval(k, against="mean curve"), abs=0.02
        )


def test_the_sums_by_horizon_are_those_by_item(found: Assessment) -> None:
    (each,) = found.findings
    for (method, k), sums in each.horizons.items():
        row = each.scores[method, k]
        size, _, loss, inside, _, values = sums.sum(axis=0)
        assert loss / size == pytest.approx(row.crps)
        assert values == row.values
        assert len(sums) == T - k
        if row.coverage is not None:
            assert inside / values == pytest.approx(row.coverage)
    within, values = each.inside[80].sum(axis=0)
    scored = [each.scores[OURS, k] for k in (0, 2, 4)]
    assert values == sum(row.values for row in scored)
    share = sum((row.coverage or 0) * row.values for row in scored) / values
    assert within / values == pytest.approx(share)
    assert each.coverage[0] == pytest.approx(share)
    assert each.coverage[1] <= share <= each.coverage[2]
    assert (each.inside[50][:, 0] <= each.inside[80][:, 0]).all()


def test_the_influence_is_that_of_explain(fitted: Forecaster) -> None:
    series, static = new_items(6)
    full = series.select("unique_id").unique().join(
        pl.DataFrame({"ds": range(1, T + 1)}), how="cross"
    )  # fmt: skip
    series = full.join(series, on=["unique_id", "ds"], how="left").with_columns(
        pl.col("y").fill_null(50.0)
    )
    each = assess(fitted, series, static, known=[3], verbose=0).findings[0]
    why = fitted.explain(series.filter(pl.col("ds") <= 3), static, until=T)
    strength = why.table().filter(pl.col("what") == "static").group_by("name").agg(
        pl.col("strength").mean()
    )  # fmt: skip
    assert each.influence[3] == pytest.approx(dict(strength.iter_rows()), rel=1e-4)


def test_the_best_and_the_worst_items(found: Assessment, fitted: Forecaster) -> None:
    (each,) = found.findings
    assert found.shown == 2
    assert [len(each.best), len(each.worst)] == [3, 3]
    crps = [item.crps for item in (*each.best, *each.worst[::-1])]
    assert crps == sorted(crps)
    series, static = new_items()
    begun = series.filter(pl.col("ds") <= 2)
    forecast = fitted.predict(begun, static, until=T, level=[50, 80])
    for item in (*each.best, *each.worst):
        own = forecast.filter(pl.col("unique_id") == int(item.name))
        last = series.filter(pl.col("unique_id") == int(item.name))["ds"].max()
        own = own.filter(pl.col("ds") <= last)
        begins = len(item.fan.known[0]) > 0
        np.testing.assert_allclose(item.fan.median[begins:], own["statecast"], rtol=1e-5)
        low, _ = item.fan.intervals[80.0]
        np.testing.assert_allclose(low[begins:], own["statecast-lo-80"], rtol=1e-5)
        truth = series.filter((pl.col("unique_id") == int(item.name)) & (pl.col("ds") > 2))
        np.testing.assert_allclose(item.fan.truth[1], truth["y"], rtol=1e-5)


def test_items_of_training_are_counted(fitted: Forecaster) -> None:
    old, new = curve_tables(72), new_items()
    both = [
        pl.concat([o.filter(pl.col("unique_id") < 7), n]) for o, n in zip(old, new, strict=True)
    ]
    assert assess(fitted, *both, known=[1], verbose=0).trained == 7
    assert assess(fitted, *new, known=[1], verbose=0).trained == 0


def test_until_is_as_if_nothing_was_observed_later(fitted: Forecaster) -> None:
    series, static = new_items()
    one = assess(fitted, series, static, until=5, known=[1, 4, 5], verbose=0)
    other = assess(fitted, series.filter(pl.col("ds") <= 5), static, known=[1, 4, 5], verbose=0)
    assert one.findings[0].scores.rows == other.findings[0].scores.rows
    assert one.findings[0].scores.known == (1, 4)  # nothing is observed after step 5
    assert (one.longest, one.last) == (5, "5")


def test_the_warnings_are_kept(fitted: Forecaster) -> None:
    series, static = new_items()
    static = static.with_columns(group=pl.lit("never seen"))
    found = assess(fitted, series, static, known=[1], verbose=0)
    assert any("never seen" in text for text in found.warnings)


def test_without_training_values_the_last_value_is_the_only_baseline() -> None:
    f = fit_curves(analogues=False)
    found = assess(f, *new_items(), known=[1], verbose=0)
    assert found.findings[0].scores.methods == (OURS, "last value")
    assert found.trained is None
    assert "last value" in found.notes[0]


def test_arrays_dates_and_several_targets() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=(40, 6, 2)).cumsum(axis=1) + 20
    f = Forecaster(**SMALL, target_col=["a", "b"]).fit(y[:30], verbose=0)
    found = assess(f, y[30:], known=[0, 2], verbose=0)
    assert [each.target for each in found.findings] == ["a", "b"]
    assert found.trained is None
    for place, each in enumerate(found.findings):
        assert each.scores[OURS, 2].values == 10 * 4
        assert each.size == pytest.approx(np.abs(y[30:, :, place]).mean(), rel=1e-5)
    row, step = (axis.ravel() for axis in np.indices((40, 6)))
    table = pl.DataFrame({"unique_id": row, "ds": step, "y": y[..., 0].ravel()}).with_columns(
        ds=pl.date(2020, 1, 1).dt.offset_by(pl.col("ds").cast(pl.String) + "mo")
    )
    f = Forecaster(**SMALL).fit(table.filter(pl.col("unique_id") < 30), verbose=0)
    found = assess(f, table.filter(pl.col("unique_id") >= 30), known=[2], verbose=0)
    assert (found.first, found.last) == ("2020-01-01", "2020-06-01")
    assert found.findings[0].influence == {2: {}}
    fan = found.findings[0].best[0].fan
    assert fan.dated
    assert str(fan.truth[0][0])[:10] == "2020-03-01"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"known": []}, "known"),
        ({"known": [-1]}, "known"),
        ({"known": [T]}, "observed after step 8"),
        ({"until": 0}, "until"),
        ({"level": [100]}, "level"),
        ({"level": []}, "level"),
        ({"items": 0}, "items"),
        ({"verbose": 3}, "verbose"),
    ],
)
def test_other_arguments_are_refused(
    fitted: Forecaster, options: dict[str, Any], message: str
) -> None:
    with pytest.raises((ArgumentError, DataError), match=message):
        assess(fitted, *new_items(), **options)


def test_other_models_are_refused() -> None:
    from statecast.tokens.forecaster import TokenForecaster

    with pytest.raises(ArgumentError, match="received a TokenForecaster, whose sequences"):
        assess(TokenForecaster(), *new_items())
    with pytest.raises(ArgumentError, match="received a str"):
        assess("model.safetensors", *new_items())
    with pytest.raises(NotFittedError):
        assess(Forecaster(), *new_items())


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(0, 20))
def test_a_histogram_counts_each_value_once_where_it_may_be(values: list[int], seed: int) -> None:
    drawn = np.random.default_rng(seed).integers(0, 40, len(FINE)).astype(np.float64)
    quantiles = np.sort(drawn)
    for value in values:
        found = np.zeros(BINS)
        _add_histogram(found, np.array([[float(value)]]), quantiles[None, None])
        assert found.sum() == pytest.approx(1)
        low, high = (quantiles < value).sum(), (quantiles <= value).sum()
        assert {*np.flatnonzero(found)} == {part // 4 for part in range(low, high + 1)}


@pytest.mark.parametrize("mean", [0.3, 3.0, 40.0])
def test_the_histogram_of_calibrated_counts_is_flat(mean: float) -> None:
    rng = np.random.default_rng(0)
    y = rng.poisson(mean, (20_000, 1)).astype(np.float64)
    sample = np.sort(rng.poisson(mean, 200_000))
    quantiles = np.tile(sample[(np.array(FINE) * len(sample)).astype(int)], (len(y), 1, 1))
    found = np.zeros(BINS)
    _add_histogram(found, y, quantiles.astype(np.float64))
    np.testing.assert_allclose(found / len(y), 1 / BINS, atol=0.02)
