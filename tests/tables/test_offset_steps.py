"""Steps that begin at a later number than 1: the same forecasts, in the numbers of the tables."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

from statecast import plots
from statecast.cli.commands import app
from statecast.errors import ArgumentError, DataError
from statecast.evaluate.cross_validation import cross_validation
from statecast.forecast.forecaster import Forecaster
from statecast.state import State
from statecast.tables.schema import Schema

pytestmark = pytest.mark.filterwarnings("ignore::statecast.errors.DataWarning")

N, T, K, YEARS = 24, 8, 3, 2000
SMALL: dict[str, Any] = {"units": 4, "ensemble": 2, "epochs": 2, "seed": 0}
SEVERAL = pytest.mark.parametrize("several", [False, True], ids=["one", "several"])


def moved(table: pl.DataFrame, by: int, *columns: str) -> pl.DataFrame:
    return table.with_columns(pl.col(columns or ("ds",)) + by)


@cache
def tables(several: bool) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    """A series of one target; or of two, and what is known of each step beforehand."""
    rng = np.random.default_rng(0)
    row, step = (axis.ravel() for axis in np.indices((N, T + 2)))
    promo = rng.integers(0, 2, len(row)) * 1.0
    a = 20 + 5 * promo + rng.normal(size=len(row))
    future = pl.DataFrame({"unique_id": row, "ds": step + 1, "promo": promo})
    series = future.select("unique_id", "ds", a=a, b=a * 2 + rng.normal(size=len(row)))
    series = series.filter(pl.col("ds") <= T)
    series = series.filter(pl.Series(rng.random(len(series)) < 0.9) | pl.col("ds").is_in([1, K]))
    if several:
        return series, future
    return series.select("unique_id", "ds", y="a"), None


@cache
def fitted(several: bool, shift: int) -> Forecaster:
    series, future = tables(several)
    future = None if future is None else moved(future, shift)
    f = Forecaster(target_col=["a", "b"] if several else "y", **SMALL)
    return f.fit(moved(series, shift), future=future, verbose=0)


def begun(several: bool, shift: int, last: int = K) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The first steps of some items, and the keyword of the future table."""
    series, future = tables(several)
    series = series.filter((pl.col("ds") <= last) & (pl.col("unique_id") < 8))
    return moved(series, shift), {} if future is None else {"future": moved(future, shift)}


# Numbers such as 200001 are refused, as years and months in one: see test_grid.py.
@given(st.integers(100, 100_000) | st.integers(400_000, 900_000), st.booleans())
def test_a_network_sees_the_same_whatever_the_numbers(shift: int, several: bool) -> None:
    series, future = tables(several)
    target = ["a", "b"] if several else "y"
    schemas, panels = [], []
    for by in (0, shift):
        own, plan = moved(series, by), None if future is None else moved(future, by)
        schemas.append(Schema.fit(own, future=plan, target_col=target))
        panels.append(schemas[-1].panel(own, future=plan))
    assert [schema.first for schema in schemas] == [1, shift + 1]
    (config, arrays), (other, others) = (schema.to_config() for schema in schemas)
    assert str(config) == str(other).replace(f"'first': {shift + 1}", "'first': 1")
    assert all((arrays[name] == others[name]).all() for name in {*arrays, *others})
    one, two = panels
    assert (one.y == two.y).all()
    assert (one.mask == two.mask).all()
    assert (one.future is None) == (two.future is None)
    if one.future is not None and two.future is not None:
        assert (one.future.numeric == two.future.numeric).all()


@SEVERAL
def test_every_verb_speaks_of_the_numbers_of_the_tables(several: bool, tmp_path: Path) -> None:
    plain, f = fitted(several, 0), fitted(several, YEARS)
    (series, plan), (own, own_plan) = begun(several, 0), begun(several, YEARS)
    expected = moved(plain.predict(series, until=T, **plan), YEARS)
    assert expected["ds"].unique().sort().to_list() == list(range(YEARS + K + 1, YEARS + T + 1))
    ids = range(8)
    each = pl.DataFrame({"unique_id": ids, "until": YEARS + T})
    for until in (YEARS + T, dict.fromkeys(ids, YEARS + T), each, [YEARS + T] * 8):
        assert_frame_equal(f.predict(own, until=until, **own_plan), expected)

    path, other = tmp_path / "model.safetensors", tmp_path / "state.safetensors"
    f.save(path)
    loaded = Forecaster.load(path)
    assert_frame_equal(loaded.predict(own, until=YEARS + T, **own_plan), expected)
    f.state(own, **own_plan).save(other)
    state = State.load(other)
    assert_frame_equal(loaded.predict(state=state, until=YEARS + T, **own_plan), expected)

    new, whole = begun(several, YEARS, K + 1)[0], begun(several, YEARS, K + 1)[0]
    after = f.update(state, new.filter(pl.col("ds") == YEARS + K + 1), **own_plan)
    again = f.predict(whole, until=YEARS + T, **own_plan)
    found = f.predict(state=after, until=YEARS + T, **own_plan)
    assert_frame_equal(found, again, rel_tol=1e-4, abs_tol=1e-4)

    paths = f.simulate(own, until=YEARS + T, paths=16, **own_plan)
    same = plain.simulate(series, until=T, paths=16, **plan)
    assert_frame_equal(paths.table(), moved(same.table(), YEARS))
    assert f"up to step {YEARS + T:,}" in repr(paths)
    one, plain_one = (paths.of("a"), same.of("a")) if several else (paths, same)
    steps = [name for name in one.peak().columns if name.startswith("step")]
    assert_frame_equal(one.peak(), moved(plain_one.peak(), YEARS, *steps))
    late = one.total(since=YEARS + K + 2)
    assert_frame_equal(late, plain_one.total(since=K + 2))
    times = [name for name in one.time_to(20.0).columns if name.startswith("statecast")]
    assert_frame_equal(one.time_to(20.0), moved(plain_one.time_to(20.0), YEARS, *times))
    with pytest.raises(ArgumentError, match=f"a step from {YEARS + 1} to {YEARS + T}"):
        one.total(since=1)

    why = f.explain(own, until=YEARS + T, **own_plan).table()
    alike = plain.explain(series, until=T, **plan).table()
    step = pl.col("name").str.extract(r"(\d+)$").cast(int)
    name = pl.col("name").str.strip_suffix(step.cast(str)) + (step + YEARS).cast(str)
    name = pl.when(pl.col("what") == "observation").then(name).otherwise("name")
    assert_frame_equal(why, alike.with_columns(name.alias("name")))


@SEVERAL
def test_so_many_steps_ahead(several: bool) -> None:
    (series, plan), (own, own_plan) = begun(several, 0), begun(several, YEARS)
    expected = moved(fitted(several, 0).predict(series, h=2, **plan), YEARS)
    assert_frame_equal(fitted(several, YEARS).predict(own, h=2, **own_plan), expected)


@pytest.mark.parametrize(
    "until", [K, 1, YEARS, {0: YEARS - 1}, [T], pl.DataFrame({"unique_id": [0], "until": [T]})]
)
def test_an_until_before_the_first_step_is_an_error(until: Any) -> None:
    own = begun(False, YEARS)[0].filter(pl.col("unique_id") == 0)
    with pytest.raises((ArgumentError, DataError), match=f"a whole number from {YEARS + 1}"):
        fitted(False, YEARS).predict(own, until=until)


def test_observed_up_to_until_and_beyond_the_longest_item() -> None:
    f, own = fitted(False, YEARS), begun(False, YEARS)[0]
    with pytest.raises(DataError, match=f"observed up to step {YEARS + K}"):
        f.predict(own, until=YEARS + 1, strict=True)
    with pytest.warns(UserWarning, match=rf"{YEARS + T + 1} is beyond .* {T} steps from 2001 on"):
        f.predict(own, until=YEARS + T + 1)


def test_columns_of_arrays_count_from_the_first_step() -> None:
    f = fitted(False, YEARS)
    Y = np.array([[20.0, 21.0, np.nan], [22.0, 19.0, 20.0]])
    found = f.predict(Y, until=YEARS + T)["statecast"]
    assert found.shape == (2, T)
    assert np.isnan(found).sum(axis=1).tolist() == [2, 3]


def test_folds_begin_where_all_items_do() -> None:
    series, _ = tables(False)
    late = pl.col("unique_id").is_in([0, 1])  # they alone are observed at the first two steps
    series = series.filter(late | (pl.col("ds") > 2))
    folds = pl.DataFrame({"unique_id": range(N), "fold": [0, 0] + [1] * (N - 2)})
    f = Forecaster(**SMALL)
    known = {"folds": folds, "known": [0, 3], "baselines": False, "verbose": 0}
    plain = cross_validation(f, series, **known)
    found = cross_validation(f, moved(series, YEARS), **known)
    assert_frame_equal(found.table(), plain.table())


def test_a_fan_on_the_numbers_of_the_table() -> None:
    f, series = fitted(False, YEARS), moved(tables(False)[0], YEARS)
    figure = plots.fan(f.predict(begun(False, YEARS)[0], until=YEARS + T), series, items=[1])
    low, high = figure.axes[0].get_xlim()
    assert YEARS <= low < high <= YEARS + T + 1


def test_the_command_line(tmp_path: Path) -> None:
    names = {name: str(tmp_path / name) for name in ("all.csv", "begun.csv", "m.st", "out.csv")}
    model = str(tmp_path / "m.safetensors")
    moved(tables(False)[0], YEARS).write_csv(names["all.csv"])
    begun(False, YEARS)[0].write_csv(names["begun.csv"])
    fitted(False, YEARS).save(model)
    until = ["--until", str(YEARS + T)]
    result = CliRunner().invoke(
        app, ["forecast", model, names["begun.csv"], *until, "--out", names["out.csv"]]
    )
    assert result.exit_code == 0, result.output
    steps = pl.read_csv(names["out.csv"])["ds"].unique().sort().to_list()
    assert steps == list(range(YEARS + K + 1, YEARS + T + 1))
    result = CliRunner().invoke(app, ["info", model])
    assert f"whole numbers from {YEARS + 1} to {YEARS + T}" in result.output
    result = CliRunner().invoke(app, ["forecast", model, names["begun.csv"], "--until", "9"])
    assert result.exit_code == 2
    assert f"a whole number from {YEARS + 1}" in result.output
