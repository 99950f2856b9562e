"""Covariates: used at their step and never earlier, with every property of the forecaster."""

from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest

from properties import CLOSE, every_k_alone_among_others_and_from_updates, mixed, same, values
from statecast.errors import ArgumentError, DataError
from statecast.forecast.forecaster import Forecaster
from statecast.networks.decoder import Decoder
from statecast.state import State
from statecast.tokens.forecaster import TokenForecaster

pytestmark = pytest.mark.filterwarnings("ignore::statecast.errors.DataWarning")

N, T = 48, 8


def _tables(seed=0):
    """Sales with promotions planned, and visits counted beside them; with gaps of both."""
    rng = np.random.default_rng(seed)
    level, promo = rng.normal(size=N), (rng.random((N, T)) < 0.3).astype(float)
    month = rng.choice(["spring", "summer"], (N, T))
    y = 20 + 2 * level[:, None] + 8 * promo + 2 * (month == "summer") + rng.normal(size=(N, T))
    row, step = (axis.ravel() for axis in np.indices((N, T)))
    table = pl.DataFrame({"unique_id": row, "ds": step + 1, "y": y.ravel()})
    visits = np.where(rng.random(N * T) < 0.1, np.nan, y.ravel() + rng.normal(size=N * T))
    table = table.with_columns(visits=pl.Series(visits).fill_nan(None))
    series = table.filter(pl.Series((rng.random(N * T) < 0.9) | (step == 0)))
    promo[3, 2] = promo[4, 5] = np.nan
    future = pl.DataFrame(
        {"unique_id": row, "ds": step + 1, "promo": promo.ravel(), "month": month.ravel()}
    ).with_columns(pl.col("promo").fill_nan(None))
    return series, pl.DataFrame({"unique_id": range(N), "level": level}), future


def _asked():
    """The tables of some of the items, as many as are computed at once at least: few shapes."""
    series, static, future = _tables()
    some = pl.col("unique_id") < 16
    return series.filter(some), static.filter(some), future.filter(some)


SMALL: dict[str, Any] = {"units": 6, "encoding": 4, "ensemble": 3, "epochs": 4, "seed": 0}
CORNERS: dict[str, dict[str, Any]] = {
    "both": {"past_cols": ["visits"]},
    "future": {"cell": "gru", "layers": 2, "conditioning": "both", "head": "normal"},
    "past": {"past_cols": ["visits"], "cell": "simple_rnn", "conditioning": "inputs"},
}


@cache
def _fitted(corner):
    """A forecaster, and the keywords with its future table."""
    series, static, future = _tables()
    more: dict[str, Any] = {} if corner == "past" else {"future": future}
    return Forecaster(**SMALL, **CORNERS[corner]).fit(series, static, **more, verbose=0), more


@pytest.fixture(params=list(CORNERS))
def fitted(request):
    return _fitted(request.param)


@pytest.fixture
def both():
    return _fitted("both")


def _planned(future, item, step, **cells):
    """The future table with other cells at one step of an item."""
    at = (pl.col("unique_id") == item) & (pl.col("ds") == step)
    return future.with_columns(
        pl.when(at).then(pl.lit(value)).otherwise(pl.col(name)).alias(name)
        for name, value in cells.items()
    )


# -- properties of the forecaster ---------------------------------------------------------------


def test_every_k_alone_among_others_and_from_updates(fitted):
    f, more = fitted
    series, static, _ = _asked()
    every_k_alone_among_others_and_from_updates(f, series, static, more, until=T, items=(0, 3, 11))


def test_paths_agree_with_the_forecast_and_come_from_a_state_too(fitted):
    f, more = fitted
    series, static, _ = _asked()
    prefix = mixed(series)
    paths = f.simulate(prefix, static, until=T, paths=99, **more)
    known = np.arange(T) < paths.known[:, None]
    assert (np.isnan(paths.values) == known[:, None, :]).all()
    median = np.median(paths.values.swapaxes(1, 2)[~known], axis=-1)
    forecast = f.predict(prefix, static, until=T, **more)["statecast"].to_numpy()
    np.testing.assert_allclose(median, forecast, rtol=2e-3)
    again = f.simulate(state=f.state(prefix, static, **more), until=T, paths=99, **more)
    np.testing.assert_allclose(again.values, paths.values, rtol=CLOSE)


def test_save_then_load_is_the_identity(fitted, tmp_path):
    f, more = fitted
    series, static, _ = _asked()
    prefix = mixed(series)
    f.save(tmp_path / "m.safetensors")
    back = Forecaster.load(tmp_path / "m.safetensors")
    assert back.settings == f.settings
    assert back.state(prefix, static, **more) == f.state(prefix, static, **more)
    expected = f.predict(prefix, static, until=T, **more)
    assert back.predict(prefix, static, until=T, **more).equals(expected)
    state = f.state(prefix, static, **more)
    state.save(tmp_path / "s.safetensors")
    back = State.load(tmp_path / "s.safetensors")
    assert f.predict(state=back, until=T, **more).equals(f.predict(state=state, until=T, **more))


# -- used at their step, and never earlier ---------------------------------------------------------


@pytest.mark.parametrize("k", [0, 3])
@pytest.mark.parametrize("step", [4, 6])
def test_what_is_planned_for_a_step_moves_it_and_no_step_before(both, k, step):
    """Also the very next step, of which the stack has taken nothing yet."""
    f, _ = both
    series, static, future = _asked()
    prefix = series.filter(pl.col("ds") <= k) if k else None
    forecasts = [
        f.predict(prefix, static, until=T, future=_planned(future, 7, step, promo=promo))
        for promo in (0.0, 1.0)
    ]
    others = pl.col("unique_id") != 7
    assert forecasts[0].filter(others).equals(forecasts[1].filter(others))
    left, right = (values(table.filter(~others))[:, 0] for table in forecasts)
    before = step - k - 1
    np.testing.assert_array_equal(left[:before], right[:before])
    assert np.abs(left[before:] - right[before:]).min() > 1e-4


def test_plans_are_no_part_of_a_state(both):
    """From one state two plans; what was planned for steps to come leaves no trace in it."""
    f, _ = both
    series, static, future = _asked()
    prefix = series.filter(pl.col("ds") <= 3)
    other = future.with_columns(promo=pl.when(pl.col("ds") > 3).then(1.0).otherwise("promo"))
    state = f.state(prefix, static, future=future.filter(pl.col("ds") <= 3))
    assert state == f.state(prefix, static, future=other)
    same(
        f.predict(state=state, until=T, future=other.filter(pl.col("ds") > 1)),
        f.predict(prefix, static, until=T, future=other),
    )


def test_past_covariates_are_seen_on_the_prefix_and_nowhere_else(both):
    f, more = both
    series, static, _ = _asked()
    other = series.with_columns(visits=pl.when(pl.col("ds") > 3).then(99.0).otherwise("visits"))
    panels = [f.schema.panel(table, static, **more).prefix(3) for table in (series, other)]
    found = [f.quantiles(panel, T, [0.5]) for panel in panels]
    np.testing.assert_array_equal(*found)
    # Nor after the last observation, though the table goes on: y is not known there.
    tails = [
        table.with_columns(y=pl.when(pl.col("ds") <= 3).then("y")) for table in (series, other)
    ]
    tails = [f.predict(table, static, until=T, **more) for table in tails]
    assert tails[0].equals(tails[1])
    other = series.with_columns(visits=pl.when(pl.col("ds") == 3).then(0.0).otherwise("visits"))
    prefixes = [table.filter(pl.col("ds") <= 3) for table in (series, other)]
    left, right = (values(f.predict(table, static, until=T, **more)) for table in prefixes)
    assert np.median(np.abs(left - right)) > 1e-3


def test_an_unknown_cell_is_not_zero(both):
    f, _ = both
    _, static, future = _asked()
    forecasts = []
    for promo in (None, 0.0):
        plan = _planned(future, 7, 5, promo=promo)
        forecasts.append(values(f.predict(None, static, until=T, future=plan)))
    assert np.isfinite(forecasts[0]).all()
    assert np.abs(forecasts[0] - forecasts[1]).max() > 1e-3


# -- they are used --------------------------------------------------------------------------------


@pytest.mark.backends
@pytest.mark.slow
def test_promotions_make_forecasts_better_at_every_k():
    rng = np.random.default_rng(5)
    X, promo = rng.normal(size=(160, 1)), (rng.random((160, T, 1)) < 0.3).astype(float)
    Y = 20 + 2 * X + 6 * promo[..., 0] + rng.normal(size=(160, T))
    settings: dict[str, Any] = {"units": 8, "encoding": 4, "ensemble": 2, "epochs": 10}
    settings |= {"learning_rate": 0.02, "analogues": False}
    errors = []
    for future in (None, promo):
        part = [None if future is None else future[rows] for rows in (slice(120), slice(120, 160))]
        f = Forecaster(**settings).fit(Y[:120], X[:120], future=part[0], verbose=0)
        errors.append([])
        for k in (0, 3):
            found = f.predict(Y[120:, :k], X[120:], until=T, future=part[1])["statecast"]
            errors[-1].append(np.nanmean(np.abs(found - Y[120:])))
    without, used = errors
    assert used[0] < 0.7 * without[0]
    assert used[1] < 0.7 * without[1]


# -- what is refused ---------------------------------------------------------------------------


def test_missing_covariates_are_named(both):
    f, more = both
    series, static, future = _asked()
    prefix = series.filter(pl.col("ds") <= 3)
    state = f.state(prefix, static, **more)
    for call in (
        lambda: f.predict(prefix, static, until=T),
        lambda: f.state(prefix, static),
        lambda: f.simulate(prefix, static, until=T),
        lambda: f.predict(state=state, until=T),
        lambda: f.update(state, series.filter(pl.col("ds") == 4)),
    ):
        with pytest.raises(DataError, match=r"future table with .*'promo'.* received None"):
            call()
    late = future.filter((pl.col("unique_id") != 5) | (pl.col("ds") != 6))
    for call in (
        lambda: f.predict(prefix, static, until=T, future=late),
        lambda: f.predict(state=state, until=T, future=late),
    ):
        with pytest.raises(DataError, match="to 8; received none for step 6") as error:
            call()
        assert (error.value.column, error.value.item) == ("ds", 5)
    with pytest.raises(DataError, match="expected a column 'visits'"):
        f.predict(prefix.drop("visits"), static, until=T, **more)
    with pytest.raises(DataError, match="new rows; received None"):
        f.update(state, None, **more)
    with pytest.raises(ArgumentError, match="tokens take no covariates"):
        TokenForecaster().fit(series, static, **more)
    for name in ("past_cols", "categorical"):
        with pytest.raises(ArgumentError, match=f"{name}: expected a list"):
            Forecaster(**{name: "visits"})  # pyright: ignore[reportArgumentType]


def test_without_covariates_nothing_is_added(untrained):
    """No leaf, no channel: a decoder without them is what it was."""
    series, static, future = _tables()
    f = Forecaster(**SMALL, analogues=False).fit(series, static, verbose=0)
    decoder = f.network.decoder
    assert decoder == Decoder(decoder.stack, decoder.head, T)
    assert "pending" not in f.state(None, static)
    with pytest.raises(DataError, match="no future table, as in fit"):
        f.predict(None, static, until=T, future=future)


def test_a_plan_for_steps_beyond_the_forecast_is_unknown_where_there_is_none(untrained):
    """A step that no training item was observed at is forecast by the one after it, too."""
    series, static, future = _tables()
    f = Forecaster(units=4, encoding=4, ensemble=2, analogues=False)
    f.fit(series.filter(pl.col("ds") != T - 1), static, future=future, verbose=0)
    begun, until = series.filter(pl.col("ds") < T - 2), T - 1
    beyond = pl.col("ds") > until
    cells = [pl.when(~beyond).then(pl.col(name)).alias(name) for name in ("promo", "month")]
    found = {
        name: f.predict(begun, static, until=until, future=plan)
        for name, plan in {
            "none": future.filter(~beyond),
            "empty": future.with_columns(cells),
            "whole": future,
        }.items()
    }
    assert found["none"].equals(found["empty"])
    assert not found["none"].equals(found["whole"])
    state = f.state(begun, static, future=future.filter(~beyond))
    same(f.predict(state=state, until=until, future=future.filter(~beyond)), found["none"])
