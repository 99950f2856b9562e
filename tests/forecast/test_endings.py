"""The chance to end: learnt from arrays, and what a forecaster does with it."""

import warnings
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest

from statecast.errors import ArgumentError, DataError, DataWarning
from statecast.forecast.endings import Endings, statics, stop_difference, width
from statecast.forecast.forecaster import Forecaster
from statecast.tokens.forecaster import TokenForecaster

T = 10


def _chart(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values that wander, the mask of items that leave the chart when they are low, and a flag
    that makes them leave sooner."""
    rng = np.random.default_rng(seed)
    line = 3 + rng.normal(size=(rows, 1)) + rng.normal(0, 0.5, (rows, T)).cumsum(axis=1)
    flag = rng.integers(0, 2, rows)
    leaves = rng.random((rows, T)) < _chance(line, flag[:, None])
    left = np.where(leaves.any(axis=1), leaves.argmax(axis=1), T)
    return line, np.arange(T) <= left[:, None], flag


def _chance(line: np.ndarray, flag: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(2 * (line - 2.5) - flag))


def _known(mask: np.ndarray) -> np.ndarray:
    return mask.sum(axis=1)


def test_the_chance_to_end_is_learnt_from_the_value_and_the_statics() -> None:
    line, mask, flag = _chart(3000, 0)
    found = Endings.fit(line, mask, flag[:, None], _known(mask) == T, 0)
    assert found is not None
    value = np.linspace(1.5, 5, 15)
    for own in (0, 1):
        for step in (2, 6):
            chance = found.chance(np.full((15, 1), own), np.full(15, step), value)
            assert (np.diff(chance) < 0.02).all()
            assert np.abs(chance - _chance(value, np.array(own))).max() < 0.12
    again = Endings.from_arrays(found.arrays(), T, 1)
    np.testing.assert_array_equal(
        again.chance(flag[:, None], _known(mask), line[:, 0]),
        found.chance(flag[:, None], _known(mask), line[:, 0]),
    )


def test_what_is_not_observed_further_has_not_ended() -> None:
    line, mask, flag = _chart(500, 1)
    x, known = flag[:, None], _known(mask)
    every = Endings.fit(line, mask, x, known == T, 0)
    some = Endings.fit(line, mask, x, (known == T) | (np.arange(500) % 2 == 0), 0)
    assert every is not None
    assert some is not None
    at = (x, np.full(500, 4), line[:, 3])
    assert some.chance(*at).mean() < 0.75 * every.chance(*at).mean()
    assert Endings.fit(line, mask, x, np.ones(500, bool), 0) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.pop("knots"),
        lambda a: a.update(weights=a["weights"][1:]),
        lambda a: a.update(weights=a["weights"].astype("float32")),
        lambda a: a.update(scale=np.array([0.0, 0.0])),
        lambda a: a.update(knots=np.full(4, np.nan)),
        lambda a: a.update(more=np.zeros(1)),
    ],
)
def test_arrays_of_a_file_that_are_not_right_are_refused(change: Any) -> None:
    line, mask, flag = _chart(100, 0)
    found = Endings.fit(line, mask, flag[:, None], _known(mask) == T, 0)
    assert found is not None
    arrays = found.arrays()
    change(arrays)
    with pytest.raises(ValueError, match="endings: expected"):
        Endings.from_arrays(arrays, T, 1)


@pytest.mark.parametrize("sign", [1, -1])
def test_items_that_stop_and_lie_apart_are_found(sign: int) -> None:
    line, mask, _ = _chart(200, 0)
    difference, stops = stop_difference(sign * line, mask)
    assert sign * difference < -0.25
    assert stops == (_known(mask) < T).sum()
    by_chance = np.arange(T) < np.random.default_rng(0).integers(2, T + 1, 200)[:, None]
    assert stop_difference(line, by_chance)[0] == 0
    assert stop_difference(line, np.ones_like(mask)) == (0.0, 0)


def test_statics_are_numbers_and_flags_of_few_categories() -> None:
    x = statics(np.ones((2, 1), "float32"), np.array([[2, 40], [0, 1]]), [3, 90])
    assert x.tolist() == [[1, 0, 0, 1], [1, 1, 0, 0]]
    assert width(1, [3, 90]) == x.shape[1]


# -- what a forecaster does with it ---------------------------------------------------------------


def _tables(rows: int, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    line, mask, flag = _chart(rows, seed)
    row, step = np.nonzero(mask)
    series = pl.DataFrame({"unique_id": row, "ds": step + 1, "y": 10 + line[row, step]})
    return series, pl.DataFrame({"unique_id": np.arange(rows), "flag": flag})


SMALL: dict[str, Any] = {"units": 6, "ensemble": 2, "epochs": 3}
EIGHT: dict[str, Any] = SMALL | {"ensemble": 8}  # members, which hold out all items


@cache
def _fitted(ends: bool) -> Forecaster:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return Forecaster(**SMALL, ends=ends).fit(*_tables(120, 0), verbose=0)


def test_paths_end_and_forecasts_are_of_what_goes_on(tmp_path) -> None:
    f, other = _fitted(True), _fitted(False)
    series, static = _tables(16, 1)
    prefix = series.filter(pl.col("ds") <= pl.col("unique_id") % 4)
    assert f.predict(prefix, static, until=T).equals(other.predict(prefix, static, until=T))
    paths: Any = f.simulate(prefix, static, until=T, paths=50)
    ended = np.isnan(paths.values)
    rest = np.arange(T) >= paths.known[:, None, None]
    assert (ended | rest).all()
    later = rest[..., 1:] & rest[..., :-1]
    assert (ended[..., 1:] >= (ended[..., :-1] & later)).all()  # what has ended stays so
    assert not ended[paths.known == 0][..., 0].any()  # every item has a first step
    share = paths.alive().sort("unique_id", "ds")
    at = (share["unique_id"].to_numpy(), share["ds"].to_numpy() - 1)
    np.testing.assert_allclose(share["alive"], (~ended).mean(axis=1)[at])
    assert 0.02 < share.filter(pl.col("ds") == T)["alive"].mean() < 0.8
    total = paths.total(level=None)["statecast"].to_numpy()
    np.testing.assert_allclose(total, np.median(np.nansum(paths.values, axis=2), axis=1))
    assert np.isfinite(paths.peak()["statecast"].to_numpy()[paths.known == 0]).all()
    unended: Any = other.simulate(prefix, static, until=T, paths=5)
    assert unended.alive()["alive"].min() == 1
    # from a state, from a file, alone, and as the beginning of a longer forecast
    state = f.state(prefix, static)
    f.save(tmp_path / "f.safetensors")
    again = Forecaster.load(tmp_path / "f.safetensors")
    own = pl.col("unique_id") == 7
    for found, expected in (
        (f.simulate(state=state, until=T, paths=50).values, paths.values),
        (again.simulate(prefix, static, until=T, paths=50).values, paths.values),
        (again.simulate(state=state.take([7]), until=T, paths=50).values, paths.values[7:8]),
        (
            f.simulate(prefix.filter(own), static.filter(own), until=T, paths=50).values,
            paths.values[7:8],
        ),
        (f.simulate(prefix, static, until=T - 2, paths=50).values, paths.values[..., :-2]),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_ends_are_missed_where_items_that_stop_lie_apart(untrained) -> None:
    series, static = _tables(600, 0)
    with pytest.warns(DataWarning, match=r"below the items that go on.*ends=True"):
        Forecaster(**SMALL).fit(series, static, verbose=0)
    whole = series.filter(pl.col("ds").max().over("unique_id") == T)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        Forecaster(**SMALL).fit(whole, verbose=0)
        Forecaster(**SMALL, ends=True).fit(series, static, verbose=0)
    with pytest.raises(DataError, match="at least 8 items that end"):
        Forecaster(**SMALL, ends=True).fit(whole, verbose=0)
    with pytest.raises(ArgumentError, match="ends: the chance to end is learnt for one target"):
        Forecaster(target_col=["y", "z"], ends=True)
    assert Forecaster().settings.ends is False
    assert TokenForecaster().settings.ends is True


def test_dates_that_reach_the_last_of_all_have_not_ended(untrained) -> None:
    """A year of launches, cut at a day: those still there are censored."""
    series, _ = _tables(120, 0)
    start = pl.date(2024, 1, 1) + pl.duration(days=pl.col("unique_id") % 20)
    dated = series.with_columns(ds=start + pl.duration(days=pl.col("ds") - 1))
    cut = dated.filter(pl.col("ds") <= pl.date(2024, 1, 12))
    aged = series.join(cut.group_by("unique_id").len(), on="unique_id", how="inner")
    aged = aged.filter(pl.col("ds") <= pl.col("len")).drop("len")  # the same, by age alone
    censored, naive = (Forecaster(**SMALL, ends=True).fit(t, verbose=0) for t in (cut, aged))
    shares: list[Any] = [
        naive.simulate(aged.filter(pl.col("ds") < 3), until=8, paths=100),
        censored.simulate(cut.filter(pl.col("ds") < pl.date(2024, 1, 3)), until=8, paths=100),
    ]
    alive = [float(p.alive()["alive"].mean()) for p in shares]
    assert alive[1] > alive[0]


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_few_training_items_warn_of_uncalibrated_intervals(untrained, rows) -> None:
    Y = np.random.default_rng(0).normal(size=(8, 4))
    with pytest.warns(DataWarning, match=f"of {rows} training items. The intervals are not"):
        Forecaster(**EIGHT).fit(Y[:rows], verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        Forecaster(**EIGHT).fit(Y, verbose=0)


def test_columns_of_the_series_that_have_no_part_are_named(untrained, tmp_path) -> None:
    series, static = _tables(150, 0)
    series = series.filter(pl.col("ds").max().over("unique_id") == T).with_columns(promo=0, z=1.0)
    static = static.filter(pl.col("unique_id").is_in(series["unique_id"].implode()))
    series.write_csv(tmp_path / "s.csv")
    series.write_parquet(tmp_path / "s.parquet")
    given: list[Any] = [series, series.to_pandas(), series.to_arrow(), series.lazy()]
    for table in (*given, tmp_path / "s.csv", tmp_path / "s.parquet"):
        with pytest.warns(DataWarning, match=r"\['promo', 'z'\].*past_cols.*future"):
            Forecaster(**SMALL).fit(table, verbose=0)
    with pytest.warns(DataWarning, match=r"not used: \['promo'\]"):
        Forecaster(**SMALL, past_cols=["z"]).fit(series, static, verbose=0)
    with pytest.warns(DataWarning, match=r"not used: \['promo'\]"):
        Forecaster(**SMALL, target_col=["y", "z"]).fit(series, static, verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        Forecaster(**SMALL).fit(series.drop("promo", "z"), static, verbose=0)
