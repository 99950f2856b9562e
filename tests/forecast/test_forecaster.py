"""The forecaster's laws: any k, no neighbours, gaps are not zeros, state is exact."""

import copy
import json
import pickle
import struct
import subprocess
import sys
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any, get_args

import keras
import narwhals.stable.v2 as nw
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statecast import errors
from statecast.forecast import settings as settings_module
from statecast.forecast.forecaster import Forecaster
from statecast.heads.by_name import HEADS
from statecast.networks.network import Network
from statecast.recurrence.cells import CELLS
from statecast.state import State
from statecast.tables.scaling import TRANSFORMS
from statecast.tokens.forecaster import TokenForecaster

pytestmark = pytest.mark.backends

T = 8
ROWS = 16  # computed at once at least: one shape for some of the items and for all
few = settings(max_examples=6, deadline=None)
CLOSE = 1e-5  # relative: what float32 sums of another order may differ by


def _tables(rows=ROWS, seed=0, scale=1.0):
    """Curves set by a number and a group, with gaps; as long tables."""
    rng = np.random.default_rng(seed)
    level, group = rng.normal(size=rows), rng.choice(["a", "b"], rows)
    steps = np.arange(1, T + 1)
    y = scale * (50 + 3 * level[:, None] + (1 + (group == "a"))[:, None] * steps)
    y = y + rng.normal(size=y.shape)
    seen = rng.random(y.shape) < 0.9
    seen[:, 0] = True
    row, step = np.nonzero(seen)
    series = pl.DataFrame({"unique_id": row, "ds": step + 1, "y": y[row, step]})
    static = pl.DataFrame({"unique_id": np.arange(rows), "level": level, "group": group})
    return series, static


def _fit(*tables: Any, **settings: Any):
    small: dict[str, Any] = {"units": 6, "encoding": 4, "ensemble": 3, "epochs": 3, "seed": 0}
    # Rows enough for analogues and for the intervals' calibration.
    return Forecaster(**{**small, **settings}).fit(*(tables or _tables(72)), verbose=0)


@pytest.fixture(scope="module")
def fitted():
    return _fit()


@pytest.fixture(scope="module")
def too_long():
    """Fitted on series that are too long for analogues, and with another seed."""
    with pytest.MonkeyPatch.context() as short:
        short.setattr("statecast.forecast.companions.MOST_STEPS", T - 1)
        return _fit(seed=1)


@pytest.fixture(scope="module", params=["gru-normal-deep", "rnn-inputs"])
def other(request):
    """Other corners of the settings."""
    corners: dict[str, dict[str, Any]] = {
        "gru-normal-deep": {"cell": "gru", "head": "normal", "layers": 2, "depth": 2},
        "rnn-inputs": {"cell": "simple_rnn", "conditioning": "inputs"},
    }
    return _fit(**corners[request.param])


def _values(table):
    return table.select(pl.col("^statecast.*$")).to_numpy()


def _same(found, expected, tolerance=CLOSE):
    found, expected = found.sort("unique_id", "ds"), expected.sort("unique_id", "ds")
    assert found["unique_id"].to_list() == expected["unique_id"].to_list()
    assert found["ds"].to_list() == expected["ds"].to_list()
    np.testing.assert_allclose(_values(found), _values(expected), rtol=tolerance)


def _prefixes(series, known):
    """The first steps of each item: ``known`` is a mapping from id to k."""
    table = pl.DataFrame({"unique_id": list(known), "k": list(known.values())})
    return series.join(table, on="unique_id").filter(pl.col("ds") <= pl.col("k")).drop("k")


def _mixed(series, seed):
    rng = np.random.default_rng(seed)
    return _prefixes(series, {i: int(rng.integers(0, T)) for i in range(ROWS)})


def _predict(f, series, static, **more):
    series = None if series is None or series.is_empty() else series
    return f.predict(series, static, **{"until": T, "level": [80, 95], **more})


@pytest.mark.parametrize("level", [0.0, 1e9, -1e12])
def test_a_constant_added_to_y_is_added_to_forecasts_and_paths(untrained, level):
    """Of any size: what is forecast is the spread, as float64 resolves it."""
    Y = np.rint(64 * np.random.default_rng(0).normal(0, 0.7, (72, T))) / 64
    near, far = (_fit(Y + c, transform="none") for c in (0.0, level))
    more: dict[str, Any] = {"until": T, "level": [80, 95]}
    rounding = 1e-5 + 8 * np.finfo(float).eps * abs(level)
    prefix = Y[:4, :3]
    one, other = near.predict(prefix, **more), far.predict(prefix + level, **more)
    paths = [f.simulate(prefix + c, until=T, paths=8) for f, c in ((near, 0.0), (far, level))]
    for name, values in one.items():
        np.testing.assert_allclose(other[name] - level, values, atol=rounding)
    assert paths[1].values.dtype == np.float64
    np.testing.assert_allclose(paths[1].values - level, paths[0].values, atol=rounding)


# -- neighbours and prefixes ------------------------------------------------------------------


@few
@given(item=st.integers(0, ROWS - 1), k=st.integers(0, T - 1))
def test_a_forecast_does_not_depend_on_its_neighbours(fitted, item, k):
    """Alone, among others, and beside items 100 times larger."""
    series, static = _tables()
    own, own_static = pl.col("unique_id") == item, static.filter(pl.col("unique_id") == item)
    mine = series.filter(own & (pl.col("ds") <= k))
    alone = _predict(fitted, mine, own_static)
    big, big_static = _tables(seed=9, scale=100.0)
    apart = pl.col("unique_id") + 1000
    for others, others_static in [
        (series.filter(~own), static.filter(~own)),
        (big.with_columns(apart), big_static.with_columns(apart)),
    ]:
        among = _predict(
            fitted, pl.concat([others, mine]), pl.concat([others_static, own_static]), until=T + 1
        )
        _same(among.filter(own & (pl.col("ds") <= T)), alone)


@few
@given(seed=st.integers(0, 1000))
def test_one_call_with_mixed_k_is_a_call_per_k(fitted, seed):
    series, static = _tables()
    prefix = _mixed(series, seed)
    together = _predict(fitted, prefix, static)
    lengths = dict(prefix.group_by("unique_id").agg(pl.col("ds").max()).iter_rows())
    for k in range(T):
        ids = [i for i in range(ROWS) if lengths.get(i, 0) == k]
        inside = pl.col("unique_id").is_in(ids)
        if ids:
            per_k = _predict(fitted, prefix.filter(inside), static.filter(inside))
            _same(together.filter(inside), per_k)


def test_no_series_and_an_item_without_rows_are_k_0(fitted):
    series, static = _tables()
    some = series.filter((pl.col("unique_id") != 3) & (pl.col("ds") == 1))
    item = pl.col("unique_id") == 3
    _same(
        _predict(fitted, some, static).filter(item),
        _predict(fitted, None, static).filter(item),
    )


@pytest.mark.parametrize("kind", ["polars", "pandas", "objects", "arrow", "lazy", "csv", "parquet"])
def test_a_series_without_rows_is_k_0_for_all_items(fitted, kind, tmp_path):
    """As in a loop over k: ``series.filter(ds <= k)`` from k = 0 on."""
    series, static = _tables()
    none = series.filter(pl.col("ds") <= 0)
    name = tmp_path / f"none.{kind}"
    if kind in ("csv", "parquet"):
        getattr(none, f"write_{kind}")(name)
    given: Any = {
        "polars": none,
        "pandas": none.to_pandas(),
        "objects": none.to_pandas().astype(object),
        "arrow": none.to_arrow(),
        "lazy": none.lazy(),
    }.get(kind, name)
    from_nothing = fitted.predict(None, static, until=T)
    found = nw.from_native(fitted.predict(given, static, until=T)).to_polars()
    assert found.equals(from_nothing)
    state = fitted.state(given, static)
    assert state == fitted.state(None, static)
    assert fitted.update(state, given) == state  # nothing new
    drawn, expected = (fitted.simulate(s, static, until=T, paths=4) for s in (given, None))
    np.testing.assert_array_equal(drawn.values, expected.values)
    with pytest.raises(errors.DataError, match=r"at least one row; .* a static table"):
        Forecaster().fit(given, static)
    with pytest.raises(errors.DataError, match="expected a column 'y'"):
        fitted.predict(none.drop("y"), static, until=T)


def test_arrays_without_steps_are_k_0_for_all_items(fitted):
    f, X = _fit(np.random.default_rng(0).normal(size=(20, T)), epochs=1), np.zeros((3, 0))
    np.testing.assert_array_equal(
        f.predict(X, until=T)["statecast"],
        f.predict(np.full((3, 2), np.nan), until=T)["statecast"],
    )


def test_several_threads_are_given_what_one_is(fitted):
    series, static = _tables()
    states = [fitted.state(series.filter(pl.col("ds") <= k), static) for k in range(1, 4)]

    def ask(k):  # k = 1, 2 and 3: other shapes, so threads meet while one compiles
        begun, more = series.filter(pl.col("ds") <= k), series.filter(pl.col("ds") == k + 1)
        return [
            _values(fitted.predict(begun, static, until=T)),
            fitted.simulate(begun, static, until=T, paths=9).values,
            fitted.explain(begun, static, until=T).observations,
            *fitted.state(begun, static).leaves.values(),
            *fitted.update(states[k - 1], more).leaves.values(),
        ]

    asked = [1, 2, 3, 3, 2, 1]
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(ask, asked))
    for k, answer in zip(asked, answers, strict=True):
        for found, expected in zip(answer, ask(k), strict=True):
            np.testing.assert_array_equal(found, expected)


@few
@given(seed=st.integers(0, 1000))
def test_an_item_is_forecast_up_to_its_own_step(fitted, seed):
    """Rows of the forecast of all steps, in every way to say so; none where it is there already."""
    series, static = _tables()
    rng = np.random.default_rng(seed)
    prefix = _prefixes(series, {i: int(rng.integers(0, T)) for i in range(ROWS)})
    state = fitted.state(prefix, static)
    known = state["step"][:, 0, 0].astype(int)
    until = rng.integers(0, T + 1, ROWS)
    table = pl.DataFrame({"unique_id": np.arange(ROWS), "until": until}).sample(ROWS, shuffle=True)
    whole = _predict(fitted, prefix, static).join(table, on="unique_id").sort("unique_id", "ds")
    expected = whole.filter(pl.col("ds") <= pl.col("until")).drop("until")
    each = dict(enumerate(until.tolist()))
    for said in (until, until.tolist(), each, table, table.to_pandas()):
        _same(_predict(fitted, prefix, static, until=said), expected)
    _same(fitted.predict(state=state, until=each, level=[80, 95]), expected)
    steps = pl.Series(known).gather(whole["unique_id"]) + 2
    ahead = _predict(fitted, prefix, static, until=None, h=2)
    assert (ahead["unique_id"].to_numpy() == np.repeat(np.arange(ROWS), 2)).all()
    _same(ahead.filter(pl.col("ds") <= T), whole.filter(pl.col("ds") <= steps).drop("until"))
    if (known >= until).any():
        with pytest.raises(errors.DataError, match="already observed up to step"):
            _predict(fitted, prefix, static, until=each, strict=True)


def test_paths_and_explanations_reach_to_an_items_own_step(fitted):
    series, static = _tables()
    prefix = _prefixes(series, {i: min(i, T) for i in range(ROWS)})
    until = np.where(np.arange(ROWS) % 2, T, 4)
    state = fitted.state(prefix, static)
    known = state["step"][:, 0, 0].astype(int)
    whole = fitted.simulate(prefix, static, until=T, paths=4)
    paths = fitted.simulate(prefix, static, until=until, paths=4)
    late = np.arange(T) >= until[:, None, None]
    expected = np.where(late | (known >= until)[:, None, None], np.nan, whole.values)
    np.testing.assert_allclose(paths.values, expected, rtol=CLOSE)
    from_state = fitted.simulate(state=state, until=until, paths=4)
    np.testing.assert_allclose(paths.values, from_state.values, rtol=1e-4)
    assert (paths.table().group_by("unique_id").len().sort("unique_id")["len"]).to_list() == [
        each for each in np.maximum(until - known, 0) if each
    ]
    ended = np.flatnonzero(known >= until)
    total, peak, time = paths.total(), paths.peak(), paths.time_to(0.0)
    assert (total["statecast"].to_numpy()[ended] == 0).all()  # there is nothing to come
    assert np.isnan(peak["statecast"].to_numpy()[ended]).all()
    assert (time["never"].to_numpy()[ended] == 1).all()
    explained = fitted.explain(prefix, static, until=until)
    assert explained.ids.tolist() == np.flatnonzero(known < until).tolist()
    rest = (np.arange(T) >= explained.known[:, None]) & (np.arange(T) < explained.last[:, None])
    for effect in explained.statics.values():
        np.testing.assert_array_equal(~np.isnan(effect), rest)
    assert not fitted.explain(series, static, until=1).table().height
    nothing, something = (fitted.predict(series, static, until=u) for u in (1, T + 1))
    assert nothing.schema == something.schema
    assert not nothing.height


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({}, "either until or h; received neither"),
        ({"until": T, "h": 1}, "either until or h; received both"),
        ({"h": 0}, "h: expected a whole number from 1"),
        ({"h": 1.5}, "h: expected a whole number from 1"),
        ({"until": True}, "until: expected a whole number from 1"),
        ({"until": {0: 2.5}}, "until: expected a whole number from 1"),
        ({"until": [3]}, f"a step for each of {ROWS} items; received 1"),
        ({"until": {0: 3}}, "there is none for item 1"),
        ({"until": object()}, "received object"),
        ({"until": pl.DataFrame({"unique_id": [0], "until": ["a"]})}, "item 0 has 'a'"),
        ({"until": pl.DataFrame({"unique_id": [0, 0], "until": [1, 2]})}, "one row an item"),
        ({"until": pl.DataFrame({"unique_id": [0]})}, "expected a column 'until'"),
        ({"until": T, "strict": 1}, "strict: expected True or False"),
    ],
)
def test_a_step_to_forecast_up_to_that_is_none_is_refused(fitted, said, says):
    _, static = _tables()
    for verb in (fitted.predict, fitted.simulate, fitted.explain):
        with pytest.raises((errors.ArgumentError, errors.DataError), match=says):
            verb(None, static, **said)


@pytest.mark.parametrize("given", ["no", 0, None])
def test_a_flag_is_true_or_false(fitted, given):
    _, static = _tables()
    with pytest.raises(errors.ArgumentError, match="calibrated: expected True or False; received"):
        fitted.predict(None, static, until=T, calibrated=given)
    with pytest.raises(errors.ArgumentError, match="calibrated: expected True or False"):
        fitted.quantiles(fitted.schema.panel(None, static), T, [0.5], calibrated=given)
    with pytest.raises(errors.ArgumentError, match="falling: expected True or False"):
        fitted.simulate(None, static, until=T, paths=2).time_to(5, falling=given)


def test_what_comes_after_the_prefix_is_unknown(fitted):
    """The rest of the table, cut away, changes nothing: no leak from the future."""
    series, static = _tables()
    panel = fitted.schema.panel(series, static)
    levels = [0.1, 0.5, 0.9]
    whole = fitted.quantiles(panel, T, levels)
    for k in (0, 3):
        part = panel.prefix(k)
        cut = fitted.quantiles(part, T, levels)
        hidden = replace(part, y=panel.y)
        np.testing.assert_array_equal(fitted.quantiles(hidden, T, levels), cut)
        begun = np.arange(T) < part.known[:, None]
        np.testing.assert_allclose(cut[begun], whole[begun], rtol=CLOSE)
        assert not np.allclose(cut[:, k + 1 :], whole[:, k + 1 :], rtol=1e-3)


@few
@given(seed=st.integers(0, 1000))
def test_beyond_the_longest_training_item_the_other_laws_hold(fitted, seed):
    """A longer forecast begins with the shorter one, a state goes on as its tables do, prefixes
    may be longer than any training item, and quantiles do not cross."""
    series, static = _tables(ROWS, seed)
    k = np.random.default_rng(seed).integers(0, T + 4, ROWS)
    last = series.with_columns(ds=pl.col("ds") + T)  # twice as long
    prefix = _prefixes(pl.concat([series, last]), dict(enumerate(k.tolist())))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", errors.DataWarning)
        long = _predict(fitted, prefix, static, until=5 * T)
        short = _predict(fitted, prefix, static, until=2 * T)
        _same(long.filter(pl.col("ds") <= 2 * T), short)
        state = fitted.state(prefix, static)
        _same(fitted.predict(state=state, until=5 * T, level=[80, 95]), long)
    found = _values(long)
    low, high = ([c for c in long.columns if f"-{end}-" in c] for end in ("lo", "hi"))
    middle = long["statecast"].to_numpy()[:, None]
    assert np.isfinite(found).all()
    assert (long.select(low).to_numpy() <= middle).all()
    assert (long.select(high).to_numpy() >= middle).all()


# -- not observed is not zero -------------------------------------------------------------------


def test_beyond_the_longest_training_item_is_said_once_a_call(fitted):
    _, static = _tables()
    with warnings.catch_warnings():
        warnings.simplefilter("error", errors.DataWarning)
        within = fitted.predict(None, static, until=T)
    for verb in (fitted.predict, fitted.simulate, fitted.explain):
        with pytest.warns(errors.DataWarning) as said:
            beyond = verb(None, static, until=T + 2)
        ours = [each for each in said if each.category is errors.DataWarning]
        assert [f"which had {T} steps. Nothing was learnt" in str(w.message) for w in ours] == [
            True
        ]
        assert ours[0].filename == __file__
        if verb == fitted.predict:
            _same(beyond.filter(pl.col("ds") <= T), within)


def test_one_level_is_a_list_of_one(fitted):
    _, static = _tables()
    one, listed = (fitted.predict(None, static, until=T, level=n) for n in (90, [90]))
    assert one.equals(listed)


@pytest.mark.parametrize("none", [None, [], (), np.array([])])
def test_no_level_and_no_quantile_leave_the_median(fitted, none):
    series, static = _tables()
    table = fitted.predict(None, static, until=T, level=none, quantiles=none)
    assert table.columns == ["unique_id", "ds", "statecast"]
    paths = fitted.simulate(series.filter(pl.col("ds") <= 1), static, until=T, paths=4)
    for reduced in (paths.total, paths.peak):
        assert "statecast-lo-80" not in reduced(level=none, quantiles=none).columns
    assert paths.time_to(60, level=none, quantiles=none).columns[-2:] == ["statecast", "never"]


@pytest.mark.parametrize("level", [True, "80", b"80", [None], [True], object(), 0.5, np.nan, [100]])
def test_a_level_that_is_none_is_refused(fitted, level):
    _, static = _tables()
    with pytest.raises(errors.ArgumentError, match=r"^level: expected"):
        fitted.predict(None, static, until=T, level=level)


def test_none_is_none_wherever_several_may_be_given(untrained):
    series, static = _tables()
    f = Forecaster(past_cols=None).fit(series, static, callbacks=None, verbose=0)
    assert f.settings.past_cols == ()
    level: Any = np.array(90)
    assert f.predict(None, static, until=2, level=level).columns[-1] == "statecast-hi-90"


def test_a_fork_without_ids_is_not_updated(fitted):
    series, static = _tables()
    state = fitted.state(_prefixes(series, {1: 2}), static)
    with pytest.raises(errors.StateError, match="without ids"):
        fitted.update(state.fork(2), series.filter(pl.col("ds") == 3))


def test_a_short_prefix_is_not_a_zero_padded_one(fitted):
    _, static = _tables()
    one = static.filter(pl.col("unique_id") == 0)
    row = lambda steps, y: pl.DataFrame({"unique_id": 0, "ds": steps, "y": y})  # noqa: E731
    v = 55.0
    short = _predict(fitted, row([1], [v]), one).filter(pl.col("ds") > 3)
    padded = _predict(fitted, row([1, 2, 3], [0.0, 0.0, v]), one)
    assert (np.abs(_values(short) - _values(padded)) > 1e-2).any()


def test_a_gap_is_finite_and_is_not_a_zero(fitted):
    _, static = _tables()
    one = static.filter(pl.col("unique_id") == 0)

    def forecast(y):
        table = pl.DataFrame({"unique_id": 0, "ds": [1, 2, 3], "y": y}, strict=False)
        return _values(_predict(fitted, table, one))

    gap, nan = forecast([52.0, None, 55.0]), forecast([52.0, float("nan"), 55.0])
    assert np.isfinite(gap).all()
    np.testing.assert_array_equal(gap, nan)
    assert (np.abs(gap - forecast([52.0, 0.0, 55.0])) > 1e-2).any()
    assert (np.abs(gap - forecast([52.0, 53.5, 55.0])) > 1e-4).any()


# -- the state ------------------------------------------------------------------------------------


def test_an_update_costs_the_items_it_is_of(fitted):
    """In a state of many rows it copies what they take, and no more."""
    series, static = _tables()
    one, rows = fitted.state(None, static.head(1)), 50_000
    leaves = {name: np.repeat(leaf, rows, axis=0) for name, leaf in one.leaves.items()}
    state = State(leaves, range(rows), fitted.fingerprint)
    new = series.filter(pl.col("unique_id") == 0).with_columns(unique_id=pl.lit(40_000))
    first, rest = new.filter(pl.col("ds") < 2), new.filter(pl.col("ds") >= 2)
    small = fitted.update(State(dict(one.leaves), [40_000], fitted.fingerprint), new)
    state = fitted.update(state, first)  # compiles
    before = state.take(slice(None))
    tracemalloc.start()
    try:
        after = fitted.update(state, rest)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < sum(leaf.nbytes for leaf in leaves.values()) / 4
    assert state == before
    for name in after:
        np.testing.assert_allclose(after[name][40_000], small[name][0], rtol=CLOSE, atol=CLOSE)
        others = np.arange(rows) != 40_000
        np.testing.assert_array_equal(after[name][others], leaves[name][others])


@few
@given(seed=st.integers(0, 1000))
def test_a_state_forecasts_what_its_tables_do(fitted, seed):
    series, static = _tables()
    prefix = _mixed(series, seed)
    state = fitted.state(prefix, static)
    _same(fitted.predict(state=state, until=T, level=[80, 95]), _predict(fitted, prefix, static))


@few
@given(seed=st.integers(0, 1000))
def test_updates_one_by_one_are_a_full_run(fitted, seed):
    series, static = _tables()
    prefix = _mixed(series, seed)
    if prefix.is_empty():
        return
    state = fitted.state(None, static)
    for step in range(1, T):
        new = prefix.filter(pl.col("ds") == step)
        if not new.is_empty():
            before = {name: np.array(leaf) for name, leaf in state.leaves.items()}
            after = fitted.update(state, new)
            assert all((state[name] == leaf).all() for name, leaf in before.items())
            state = after
    full = fitted.state(prefix, static)
    assert state.names == full.names
    for name in full:
        np.testing.assert_allclose(state[name], full[name], rtol=CLOSE, atol=CLOSE)
    _same(fitted.predict(state=state, until=T, level=[80, 95]), _predict(fitted, prefix, static))


def test_the_laws_hold_at_other_settings(other):
    series, static = _tables()
    prefix = _mixed(series, 4)
    together = _predict(other, prefix, static)
    state = other.state(None, static)
    for step in range(1, T):
        new = prefix.filter(pl.col("ds") == step)
        state = other.update(state, new) if not new.is_empty() else state
    _same(other.predict(state=state, until=T, level=[80, 95]), together)
    item = pl.col("unique_id") == 5
    alone = _predict(other, prefix.filter(item), static.filter(item))
    _same(together.filter(item), alone)
    assert np.isfinite(_values(together)).all()


def test_an_update_with_nothing_new_and_a_saved_state_are_identities(fitted, tmp_path):
    series, static = _tables()
    state = fitted.state(_mixed(series, 1), static)
    state.save(tmp_path / "s.safetensors")
    back = State.load(tmp_path / "s.safetensors")
    assert back == state
    a, b = (fitted.predict(state=s, until=T) for s in (state, back))
    assert a.equals(b)
    new = pl.DataFrame({"unique_id": [2], "ds": [T], "y": [60.0]})
    moved = fitted.update(state, new)
    others = np.arange(ROWS) != 2
    for name in state:
        assert moved[name][others].tobytes() == state[name][others].tobytes()
    assert moved["step"][2, 0, 0] == T


def test_a_state_of_other_weights_is_refused(fitted, other):
    _, static = _tables()
    state = fitted.state(None, static)
    with pytest.raises(errors.StateError):
        other.predict(state=state, until=T)
    with pytest.raises(errors.StateError, match="one of another fit"):
        fitted.predict(state=State(state.leaves, state.ids, "0" * 32), until=T)
    with pytest.raises(errors.ArgumentError, match="received both"):
        fitted.predict(None, static, until=T, state=state)
    with pytest.raises(errors.StateError, match="expected a State, received dict"):
        fitted.update({}, _tables()[0])
    assert fitted.predict(state=state, until=T).height == ROWS * T


# -- paths ----------------------------------------------------------------------------------------


def _agree(paths, forecast, rtol=2e-3):
    """99 paths have the forecast's quantiles at every step."""
    rest = np.sort(paths.values.swapaxes(1, 2)[np.arange(T) >= paths.known[:, None]], axis=-1)
    for column, q in (("statecast", 0.5), ("statecast-lo-80", 0.1), ("statecast-hi-80", 0.9)):
        found = np.array([np.interp(q, (np.arange(99) + 0.5) / 99, path) for path in rest])
        np.testing.assert_allclose(found, forecast[column].to_numpy(), rtol=rtol)


def test_paths_agree_with_the_forecast_and_not_with_their_neighbours(fitted):
    series, static = _tables()
    prefix = _mixed(series, 2)
    paths = fitted.simulate(prefix, static, until=T, paths=99)
    assert paths.values.shape == (ROWS, 99, T)
    known = np.arange(T) < paths.known[:, None]
    assert (np.isnan(paths.values) == known[:, None, :]).all()
    _agree(paths, _predict(fitted, prefix, static))
    longest = int(paths.known.argmax())
    item = pl.col("unique_id") == longest
    alone = fitted.simulate(prefix.filter(item), static.filter(item), until=T, paths=99)
    np.testing.assert_allclose(alone.values[0], paths.values[longest], rtol=CLOSE)
    state = fitted.simulate(state=fitted.state(prefix, static), until=T, paths=99)
    np.testing.assert_allclose(state.values, paths.values, rtol=CLOSE)
    again = fitted.simulate(prefix, static, until=T, paths=99)
    np.testing.assert_array_equal(again.values, paths.values)
    assert paths.table().columns == ["unique_id", "ds", *(f"path-{i}" for i in range(1, 100))]


def test_paths_are_joint(fitted):
    """A path that is high at one step tends to be high at the next: ranks are not shuffled."""
    _, static = _tables()
    paths = fitted.simulate(None, static, until=T, paths=200).values
    rank = paths.argsort(axis=1).argsort(axis=1).astype(float)
    correlation = [
        np.corrcoef(rank[row, :, T - 2], rank[row, :, T - 1])[0, 1] for row in range(ROWS)
    ]
    assert np.mean(correlation) > 0.2


def _known(prefix, k):
    """The tables without the items that have a gap in their first k steps; arrays of them."""
    whole = prefix.filter(pl.col("ds") <= k).group_by("unique_id").len().filter(pl.col("len") == k)
    ids = sorted(whole["unique_id"].to_list())
    return ids, prefix.filter(pl.col("unique_id").is_in(ids) & (pl.col("ds") <= k))


def test_totals_and_peaks_are_those_of_the_paths(fitted):
    series, static = _tables()
    ids, prefix = _known(series, 3)
    static = static.filter(pl.col("unique_id").is_in(ids))
    paths = fitted.simulate(prefix, static, until=T, paths=50)
    rest = paths.values[:, :, 3:].astype(float)
    seen = prefix.sort("unique_id", "ds")["y"].to_numpy().reshape(len(ids), 3)
    total = paths.total(level=90, quantiles=0.3)
    assert total.columns == [
        "unique_id",
        *("statecast" + end for end in ("", "-lo-90", "-hi-90", "-q-0.3")),
    ]
    assert total["unique_id"].to_list() == ids
    sums = rest.sum(axis=2)
    wanted = np.quantile(sums, [0.5, 0.05, 0.95, 0.3], axis=1).T
    np.testing.assert_allclose(total.drop("unique_id").to_numpy(), wanted)
    # What was observed adds to every path alike.
    whole = _values(paths.total(since=1)) - _values(paths.total())
    np.testing.assert_allclose(whole, np.repeat(seen.sum(axis=1)[:, None], 3, axis=1), rtol=CLOSE)
    np.testing.assert_allclose(
        _values(paths.total(since=6))[:, 0], np.median(rest[:, :, 2:].sum(axis=2), axis=1)
    )
    joint = np.concatenate([np.repeat(seen[:, None], 50, axis=1), rest], axis=2)
    for since, values in ((1, joint), (None, rest)):
        peak = paths.peak(since=since)
        high = np.quantile(values.max(axis=2), [0.5, 0.1, 0.9], axis=1).T
        np.testing.assert_allclose(_values(peak), high, rtol=CLOSE)
        when = peak.select("step", "step-lo-80", "step-hi-80").to_numpy()
        assert (when == np.round(when)).all()
        assert (when[:, 1] <= when[:, 0]).all()
        assert (when[:, 0] <= when[:, 2]).all()
        assert when.min() >= (since or 4)
        assert when.max() <= T
    fake = replace(paths, values=np.broadcast_to(np.arange(T) % 6.0, (len(ids), 2, T)))
    assert set(fake.peak()["step"].to_list()) == {6}


def test_the_time_to_a_threshold_rises_with_it(fitted):
    _, static = _tables()
    paths = fitted.simulate(None, static, until=T, paths=60)
    low, *between, high = np.quantile(paths.values, [0, 0.2, 0.5, 0.8, 0.95, 1])
    thresholds = [low - 1, *between, high + 1]
    found = [paths.time_to(each, level=50) for each in thresholds]
    assert (_values(found[0]) == 1).all()
    assert set(found[0]["never"].to_list()) == {0}
    assert set(found[-1]["never"].to_list()) == {1}
    assert np.isnan(_values(found[-1])).all()
    for lower, higher in pairwise(found):
        assert (lower["never"] <= higher["never"]).all()
        ends = [np.nan_to_num(_values(each), nan=np.inf) for each in (lower, higher)]
        assert (ends[0] <= ends[1]).all()
    # A threshold an item; and paths turned upside down fall as the others rise.
    each = np.quantile(paths.values, 0.7, axis=(1, 2))
    rising = paths.time_to(each)
    turned = replace(paths, values=-paths.values).time_to(-each, falling=True)
    np.testing.assert_array_equal(_values(rising), _values(turned))
    reached = (paths.values >= each[:, None, None]).any(axis=2)
    np.testing.assert_allclose(rising["never"].to_numpy(), 1 - reached.mean(axis=1))


def test_what_paths_cannot_say_is_refused(fitted):
    series, static = _tables()
    prefix = _mixed(series, 2)
    paths = fitted.simulate(prefix, static, until=T, paths=5)
    gapped = prefix.group_by("unique_id").agg(n=pl.len(), last=pl.max("ds"))
    item = min(gapped.filter(pl.col("n") < pl.col("last"))["unique_id"].to_list())
    with pytest.raises(errors.DataError, match=f"item {item} was not observed") as caught:
        paths.total(since=1)
    assert caught.value.item == item
    onward = fitted.simulate(state=fitted.state(prefix, static), until=T, paths=5)
    assert onward.total().equals(paths.total())
    with pytest.raises(errors.ArgumentError, match="does not hold the observations"):
        onward.peak(since=1)
    for since in (0, T + 1, 1.5, True):
        with pytest.raises(errors.ArgumentError, match="since: expected a step from"):
            paths.total(since=since)
    for threshold in ("high", np.nan, np.zeros(3)):
        with pytest.raises(errors.ArgumentError, match="threshold: expected a number"):
            paths.time_to(threshold)
    with pytest.raises(errors.ArgumentError, match="in parts"):
        fitted.simulate(None, static, until=T, paths=10**8)


# -- explanations ----------------------------------------------------------------------------------


@few
@given(seed=st.integers(0, 99))
def test_an_effect_is_the_forecast_with_less_the_forecast_without(fitted, seed):
    """Against tables in which the row is missing, the group never met, the level average."""
    series, static = _tables()
    begun = _mixed(series, seed)
    found = fitted.explain(begun, static, until=T)
    median = lambda *tables: fitted.predict(*tables, until=T)  # noqa: E731
    item = int(np.random.default_rng(seed).choice(np.flatnonzero(found.known)))
    own = pl.col("unique_id") == item
    k = int(found.known[item])
    whole = median(begun, static).filter(own)["statecast"].to_numpy()
    for step in range(1, k + 1):
        effect = found.observations[item, step - 1]
        assert np.isnan(effect[:k]).all()
        if begun.filter(own & (pl.col("ds") == step)).is_empty():
            assert np.isnan(effect).all()
            continue
        without = median(begun.filter(~(own & (pl.col("ds") == step))), static)
        without = without.filter(own & (pl.col("ds") > k))["statecast"].to_numpy()
        np.testing.assert_allclose(effect[k:], whole - without, atol=1e-3)
    average = float(_tables(72)[1]["level"].to_numpy().mean())  # the training items'
    level = pl.when(own).then(pl.lit(average)).otherwise("level").alias("level")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", errors.DataWarning)
        never = pl.when(own).then(pl.lit("never")).otherwise("group").alias("group")
        for name, other in (("level", level), ("group", never)):
            without = median(begun, static.with_columns(other)).filter(own)["statecast"]
            effect = found.statics[name][item]
            np.testing.assert_allclose(effect[k:], whole - without.to_numpy(), atol=1e-3)


def test_an_explanation_does_not_depend_on_the_neighbours_and_names_training_items(fitted):
    series, static = _tables()
    begun = _prefixes(series, dict.fromkeys(range(ROWS), 3))
    together = fitted.explain(begun, static, until=T, analogues=4)
    own = pl.col("unique_id") == 5
    alone = fitted.explain(begun.filter(own), static.filter(own), until=T, analogues=4)
    row = together.table().filter(own)
    assert row.columns == ["unique_id", "what", "name", "effect", "strength", "weight"]
    assert row.drop("effect", "strength", "weight").equals(
        alone.table().drop("effect", "strength", "weight")
    )
    np.testing.assert_allclose(alone.weights[0], together.weights[5], rtol=CLOSE)
    assert (np.diff(together.weights, axis=1) <= 1e-12).all()
    assert (together.weights.sum(axis=1) <= 1 + 1e-9).all()
    assert set(together.analogues.ravel()) <= set(range(72))
    strength = row.filter(pl.col("what") != "analogue")["strength"].to_list()
    assert strength == sorted(strength, reverse=True)
    weights = together.weights * [1, 0, 1, 0]  # who has no part is not named
    part = replace(together, weights=weights).table().filter(pl.col("what") == "analogue")
    named = [str(i) for row in together.analogues[:, [0, 2]] for i in row]
    assert part["name"].to_list() == named
    nobody = fitted.explain(begun, static, until=T, analogues=0)
    assert nobody.analogues.shape == (ROWS, 0)


def test_a_fork_is_simulated_and_each_of_its_rows_draws_by_itself(fitted):
    series, static = _tables()
    state = fitted.state(_prefixes(series, {0: 3}), static.head(1)).fork(2)
    paths = fitted.simulate(state=state, until=T, paths=6)
    assert paths.ids.tolist() == [0, 1]
    rest = paths.values[..., 3:]
    assert np.isfinite(rest).all()
    assert not np.array_equal(rest[0], rest[1])
    assert fitted.predict(state=state, until=T)["unique_id"].unique().to_list() == [0, 1]


def test_series_too_long_for_a_covariance_have_no_analogues(too_long):
    series, static = _tables(seed=1)
    begun = series.filter(pl.col("ds") <= 3)
    why = too_long.explain(begun, static, until=T)
    assert why.analogues.shape == (ROWS, 0)
    assert np.isfinite(_values(too_long.predict(begun, static, until=T))).all()


@pytest.mark.parametrize("count", [-1, 1.5, True, None])
def test_a_number_of_analogues_that_is_none_is_refused(fitted, count):
    with pytest.raises(errors.ArgumentError, match="analogues: expected a whole number"):
        fitted.explain(*_tables(), until=T + 1, analogues=count)


# -- steps that no training item was observed at ----------------------------------------------

NOBODY = (1, 4, 6, 7)


@pytest.fixture(scope="module", params=["quantiles", "poisson"])
def gapped(request):
    """Fitted on items of which none was observed at some steps."""
    series, static = _tables(72)
    series = series.filter(~pl.col("ds").is_in(NOBODY)).with_columns(pl.col("y").round())
    f = Forecaster(units=6, encoding=4, ensemble=2, epochs=1, head=request.param)
    with pytest.warns(errors.DataWarning, match="at 4 of 8 steps: 1, 4, 6, 7. Their") as caught:
        f.fit(series, static, verbose=0)
    ours = [warning for warning in caught if warning.category is errors.DataWarning]
    assert [warning.filename for warning in ours] == [__file__]
    return f


@few
@given(seed=st.integers(0, 1000))
def test_a_step_that_nobody_observed_lies_between_those_around_it(gapped, seed):
    """At every quantile, or between the item's last observation and the next; the others are what
    they would be without such steps, to the bit. Items of the call may have been observed there."""
    series, static = _tables()
    panel = gapped.schema.panel(_mixed(series.with_columns(pl.col("y").round()), seed), static)
    levels = [0.02, 0.1, 0.5, 0.8, 0.97]
    found = gapped.quantiles(panel, T + 1, levels)
    with pytest.MonkeyPatch.context() as without:
        (target,) = gapped.schema.targets
        everywhere = (replace(target, observed=np.ones(T, bool)),)
        without.setattr(gapped, "_schema", replace(gapped.schema, targets=everywhere))
        own = gapped.quantiles(panel, T + 1, levels)
    assert (np.diff(found, axis=2) >= 0).all()
    moved, told = 0, gapped.schema.unscale(panel.y)
    for row, k in enumerate(panel.known):
        for step in range(1, T + 2):
            if step not in NOBODY or step <= k:
                np.testing.assert_array_equal(found[row, step - 1], own[row, step - 1])
                continue
            before = [s for s in range(k + 1, step) if s not in NOBODY][-1:]
            after = [s for s in range(step, T + 1) if s not in NOBODY][:1]
            around = found[row, np.array(before + after) - 1]
            if k and not before:
                around = np.vstack([np.full(len(levels), told[row, k - 1]), around])
            assert (found[row, step - 1] >= around.min(axis=0) - 1e-9).all()
            assert (found[row, step - 1] <= around.max(axis=0) + 1e-9).all()
            moved += not np.array_equal(found[row, step - 1], own[row, step - 1])
    assert moved
    for until in (T - 1, T - 2):  # a shorter forecast is the beginning of a longer one
        shorter = gapped.quantiles(panel, until, levels)
        np.testing.assert_allclose(shorter, found[:, :until], rtol=CLOSE)


def test_the_way_to_the_next_observed_step_begins_at_the_last_observation(untrained):
    """Trees that are measured at a few ages: nothing jumps after the last measurement."""
    ages, rng = np.array([3, 5, 10, 15, 20, 25]), np.random.default_rng(0)
    height = (rng.normal(1, 0.1, (40, 1)) * ages**0.8 * 3).round(1)
    trees = pl.DataFrame(
        {"tree": np.repeat(np.arange(40), 6), "age": np.tile(ages, 40), "y": height.ravel()}
    )
    f = Forecaster(units=4, ensemble=2, epochs=1, id_col="tree", step_col="age", transform="none")
    with pytest.warns(errors.DataWarning, match="at 19 of 25 steps"):
        f.fit(trees, verbose=0)
    begun = trees.filter(pl.col("age") <= 5)
    made = f.predict(begun, until=12, level=80)
    values = made.drop("tree", "age").to_numpy().reshape(40, 7, 3)
    last = height[:, 1, None]
    for step in range(6, 10):
        line = last + (values[:, 4] - last) * (step - 5) / 5
        np.testing.assert_allclose(values[:, step - 6], line, rtol=1e-5)
    # Alike from a state, after an update, in paths, alone, and when a tree was seen at age 7 too
    state = f.update(f.state(trees.filter(pl.col("age") <= 3)), trees.filter(pl.col("age") == 5))
    again = f.predict(state=state, until=12, level=80)
    np.testing.assert_allclose(again["statecast"], made["statecast"], rtol=1e-4)
    paths = f.simulate(begun, until=12, paths=101).values[:, :, 5:]
    np.testing.assert_allclose(np.median(paths, axis=1), values[:, :, 0], rtol=2e-3)
    assert (np.diff(paths.std(axis=1)[:, :5], axis=1) > 0).all()  # it widens from there
    seen = pl.concat([begun, pl.DataFrame({"tree": [3], "age": [7], "y": [40.0]})])
    other = f.predict(seen.filter(pl.col("tree") == 3), until=9, level=80)["statecast"].to_list()
    ahead = f.predict(seen.filter(pl.col("tree") == 3), until=10, level=80)["statecast"].to_list()
    np.testing.assert_allclose(other, [40 + (ahead[2] - 40) * i / 3 for i in (1, 2)], rtol=1e-5)
    first = f.predict(None, until=4, state=f.state(trees.filter(pl.col("age") == 3)))
    assert first.height == 40


def test_steps_that_nobody_observed_are_alike_in_every_verb_and_in_a_file(gapped, tmp_path):
    series, static = _tables()
    begun = _mixed(series.with_columns(pl.col("y").round()), 5)
    forecast = _predict(gapped, begun, static, level=80)
    state = gapped.state(begun, static)
    whole = gapped.settings.head == "poisson"  # a path's value is then rounded after it is drawn
    _agree(gapped.simulate(begun, static, until=T, paths=99), forecast, 3e-2 if whole else 2e-3)
    known = dict(zip(state.ids.tolist(), state["step"][:, 0, 0].tolist(), strict=True))
    rest = pl.col("ds") > pl.col("unique_id").replace_strict(known)
    _same(_predict(gapped, state=state, series=None, static=None, level=80).filter(rest), forecast)
    gapped.save(tmp_path / "m")
    back = Forecaster.load(tmp_path / "m")
    assert _predict(back, begun, static, level=80).equals(forecast)


# -- the fit -----------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_fit(fitted, too_long):
    _, static = _tables()
    again = _fit()
    assert again.history == fitted.history
    assert again.fingerprint == fitted.fingerprint
    assert _predict(again, None, static).equals(_predict(fitted, None, static))
    assert too_long.history != fitted.history  # which analogues have no part in
    assert too_long.fingerprint != fitted.fingerprint


def test_save_then_load_gives_identical_forecasts(fitted, other, tmp_path):
    series, static = _tables()
    prefix = _mixed(series, 3)
    for f in (fitted, other):
        f.save(tmp_path / "m.safetensors")
        back = Forecaster.load(tmp_path / "m.safetensors")
        assert asdict(back.settings) == asdict(f.settings)
        assert back.history == f.history
        assert _predict(back, prefix, static).equals(_predict(f, prefix, static))
        state = f.state(prefix, static)
        assert back.state(prefix, static) == state  # the fingerprint holds too
        assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_what_is_large_prints_in_a_line(fitted):
    assert repr(Forecaster()) == "<Forecaster(), not fitted>"
    several = Forecaster(target_col=["a", "b"], units=3)
    assert repr(several) == "<Forecaster(units=3, target_col=('a', 'b')), not fitted>"
    said = "<Forecaster(units=6, ensemble=3, encoding=4, epochs=3), fitted on 8 steps>"
    assert repr(fitted) == said
    paths = fitted.simulate(None, _tables()[1], until=T, paths=5)
    assert repr(paths) == f"<Paths of y: {ROWS} items, 5 paths each, up to step 8>"
    series, static = _tables()
    begun = series.filter(pl.col("ds") <= 3)
    found = fitted.explain(begun, static, until=T, analogues=2)
    assert repr(found) == (
        f"<ForecastExplanation of y: {ROWS} items, 3 observed steps, static features level, group, "
        "2 analogues each; up to step 8>"
    )
    assert "<table" in found._repr_html_()
    arrow = fitted.explain(begun.to_arrow(), static.to_arrow(), until=T)
    assert arrow._repr_html_() is None  # Arrow has no HTML: the text is shown
    for value in (fitted.schema, fitted.schema.panel(begun, static), fitted._companions.stacking):
        assert len(repr(value)) < 1000
        assert "\n" not in repr(value)


def test_the_size_of_a_table_does_not_show_in_what_is_printed(fitted):
    small, large = (fitted.schema.panel(None, _tables(rows)[1]) for rows in (10, 1000))
    assert repr(small).replace("[10", "[1000") == repr(large)


def test_a_copy_and_a_pickle_are_the_forecaster(fitted):
    series, static = _tables()
    for other in (copy.deepcopy(fitted), pickle.loads(pickle.dumps(fitted))):
        assert other.fingerprint == fitted.fingerprint
        assert (other.settings, other.history) == (fitted.settings, fitted.history)
        _same(other.predict(None, static, until=3), fitted.predict(None, static, until=3))
        fitted.update(other.state(None, static), series.filter(pl.col("ds") == 1))
    new = pickle.loads(pickle.dumps(Forecaster(units=3, target_col=["a", "b"])))
    assert new.settings == Forecaster(units=3, target_col=["a", "b"]).settings
    with pytest.raises(errors.NotFittedError):
        new.predict(None, static, until=3)


def test_the_gradient_reaches_the_encoder_through_h_and_through_c(fitted):
    """One step of training on h's head alone, or on c's alone, moves the encoder."""
    series, static = _tables()
    for leaf in ("h", "c"):
        decoder, options = fitted._plan(fitted.schema)
        options["conditioning"] = "both"
        network = Network(decoder, **options, seed=0)
        weights = network.weight_map()
        # Cut every other way from the encoder to the forecast.
        encoding = options["encoding"]
        for name, weight in weights.items():
            value = keras.ops.convert_to_numpy(weight).copy()
            if name in ("decoder/head/kernel", "decoder/cell/0/kernel"):
                value[:, -encoding:] = 0
            elif name.startswith("initial/") and name != f"initial/0/{leaf}/kernel":
                value[...] = 0
            else:
                continue
            weight.assign(value)
        before = keras.ops.convert_to_numpy(weights["encoder/kernel"]).copy()
        panel = fitted.schema.panel(series, static)
        network.compile(optimizer=keras.optimizers.SGD(0.1))
        ones = np.ones((ROWS, 1, panel.y.shape[1]), "float32")
        network.train_on_batch(
            {
                "value": panel.y[:, None],
                "observed": 0 * ones,
                "numeric": panel.numeric[:, None],
                "codes": panel.codes[:, None],
            },
            panel.y[:, None],
            sample_weight=ones * np.ones((1, options["members"], 1), "float32"),
        )
        moved = keras.ops.convert_to_numpy(weights["encoder/kernel"]) - before
        assert np.isfinite(moved).all()
        assert np.abs(moved).max() > 0, leaf


def test_h_and_c_start_apart(fitted):
    _, static = _tables()
    state = fitted.state(None, static)
    assert not np.allclose(state["cell/0/h"], state["cell/0/c"], atol=1e-2)


def test_interrupted_it_keeps_the_best_epoch(tmp_path):
    class Interrupt(keras.callbacks.Callback):
        def __init__(self, epoch):
            super().__init__()
            self.epoch = epoch

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == self.epoch:
                raise KeyboardInterrupt

    series, static = _tables()
    small: dict[str, Any] = {"units": 4, "encoding": 4, "ensemble": 2, "epochs": 5}
    f = Forecaster(**small).fit(series, static, callbacks=[Interrupt(2)], verbose=0)
    assert len(f.history["loss"]) == 2
    assert np.isfinite(_values(_predict(f, None, static))).all()
    f.save(tmp_path / "m.safetensors")
    fresh = Forecaster(**small)
    with pytest.raises(KeyboardInterrupt):
        fresh.fit(series, static, callbacks=[Interrupt(0)], verbose=0)
    with pytest.raises(errors.NotFittedError, match="call fit or load first"):
        fresh.predict(None, static, until=T)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy):
    series, static = _tables()
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        f = _fit()
        assert f.network.compute_dtype == policy.removeprefix("mixed_")
        assert all(weight.dtype == "float32" for weight in f.network.trainable_weights)
        found = _values(_predict(f, _mixed(series, 5), static))
    finally:
        keras.config.set_dtype_policy(before)
    assert np.isfinite(found).all()
    assert (np.abs(found - 55) < 30).all()


def test_arrays_in_arrays_out_and_no_features():
    rng = np.random.default_rng(0)
    Y = rng.normal(size=(12, 5)).cumsum(axis=1)
    f = Forecaster(units=4, ensemble=2, epochs=1).fit(Y, verbose=0)
    prefix = Y[:3].copy()
    prefix[0, :] = np.nan
    prefix[1, 2:] = np.nan
    prefix[2, 1] = prefix[2, 3:] = np.nan
    out = f.predict(prefix, until=6, level=[], quantiles=[0.25])
    assert sorted(out) == ["statecast", "statecast-q-0.25"]
    assert (np.isnan(out["statecast"]).sum(axis=1) == [0, 2, 3]).all()
    assert (out["statecast"] >= out["statecast-q-0.25"])[~np.isnan(out["statecast"])].all()
    state = f.state(Y[:3, :2])
    with pytest.raises(errors.DataError, match="steps that are known must be NaN"):
        f.update(state, Y[:3, 2:3])
    new = np.where(np.arange(3) < 2, np.nan, Y[:3, :3])
    after, whole = f.update(state, new), f.state(Y[:3, :3])
    for name in whole.names:
        np.testing.assert_allclose(after[name], whole[name], rtol=1e-3, atol=1e-5)


def test_dates_come_back_as_dates_and_updates_know_them(fitted):
    series, static = _tables(72)
    start = pl.date(2020, 1, 6)
    dated = series.with_columns(ds=start + pl.duration(days=7 * (pl.col("ds") - 1)))
    f = _fit(dated, static)
    first = pl.col("unique_id") < 5
    prefix, numbered = (
        t.filter(first & (pl.col("step") <= 3))
        for t in (dated.with_columns(step=series["ds"]), series.with_columns(step="ds"))
    )
    a = f.predict(prefix.drop("step"), static, until=T)
    b = fitted.predict(numbered.drop("step"), static, until=T)
    np.testing.assert_allclose(a["statecast"], b["statecast"], rtol=CLOSE)
    assert a["step"].to_list() == b["ds"].to_list()
    known = a.filter(first)
    assert known["ds"].dtype == pl.Date
    assert known.select(
        (pl.col("ds") == start + pl.duration(days=7 * (pl.col("step") - 1))).all()
    ).item()
    assert a.filter(~first)["ds"].is_null().all()
    state = f.state(prefix.drop("step"), static)
    after = f.update(state, dated.filter(first & (series["ds"] > 3) & (series["ds"] <= 5)))
    full = f.state(dated.filter(first & (series["ds"] <= 5)), static)
    for name in full:
        np.testing.assert_allclose(after[name], full[name], rtol=CLOSE, atol=CLOSE)


def test_a_category_never_seen_and_a_missing_static_are_ordinary(fitted):
    static = pl.DataFrame({"unique_id": [1, 2], "level": [None, 0.5], "group": ["a", "new"]})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", errors.DataWarning)
        found = _predict(fitted, None, static)
    ours = [w for w in caught if issubclass(w.category, errors.DataWarning)]
    assert len(ours) == 1
    assert "'new'" in str(ours[0].message)
    assert "level" in str(ours[0].message)
    assert ours[0].filename == __file__  # the line that called the library
    assert np.isfinite(_values(found)).all()


def test_what_is_not_known_of_an_item_makes_its_interval_wider():
    rng = np.random.default_rng(0)
    x, group = rng.normal(size=100), rng.integers(0, 3, 100)
    Y = 10 * x[:, None] + 20.0 * group[:, None] + np.arange(6) + rng.normal(size=(100, 6))
    static = pl.DataFrame({"unique_id": range(100), "x": x, "g": [f"g{i}" for i in group]})
    series = pl.DataFrame(
        {"unique_id": np.repeat(range(100), 6), "ds": np.tile(range(1, 7), 100), "y": Y.ravel()}
    )
    f = Forecaster(seed=0, ensemble=2, epochs=10).fit(series, static, verbose=0)

    def width(**columns):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", errors.DataWarning)
            found = f.predict(None, static.with_columns(**columns), until=6)
        return (found["statecast-hi-80"] - found["statecast-lo-80"]).mean()

    known, missing = width(), pl.lit(None)
    assert width(x=missing.cast(pl.Float64)) > 3 * known
    assert width(g=pl.lit("another")) > 3 * known
    assert width(g=missing.cast(pl.String)) > 3 * known


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_very_few_items(rows):
    series, static = _tables(rows=rows, seed=3)
    f = Forecaster(units=4, encoding=4, ensemble=3, epochs=2).fit(series, static, verbose=0)
    assert np.isfinite(_values(_predict(f, None, static))).all()


# -- what is refused ----------------------------------------------------------------------------


def _values_of(kind):
    """Long tables of values of a kind, many at the end of where they may lie."""
    rng = np.random.default_rng(5)
    series, static = _tables(72)
    level = static.select(pl.col("level"))["level"].to_numpy()[series["unique_id"]]
    noise = rng.normal(size=len(level))
    y = {
        "counts": rng.poisson(np.exp(level - 0.5)) * (noise > -1),
        "positive": np.exp(2.0 * level + noise),
        "bounded": np.clip(3.0 + level + noise, 1.0, 5.0),
        "real": 3.0 * level + noise + 100.0 * (noise > 2.4),
    }[kind]
    return series.with_columns(y=pl.Series(y.astype(float))), static


KINDS = {
    "negative_binomial": ("counts", {}),
    "poisson": ("counts", {"cell": "gru"}),
    "quantiles of counts": ("counts", {"head": "quantiles", "transform": "counts"}),
    "lognormal": ("positive", {"conditioning": "both"}),
    "logitnormal": ("bounded", {"bounds": (1.0, 5.0)}),
    "quantiles within bounds": ("bounded", {"head": "quantiles", "bounds": (1, 5)}),
    "student_t": ("real", {"analogues": False}),
}
QUICK = ("negative_binomial",)


@pytest.mark.parametrize(
    "head", [h if h in QUICK else pytest.param(h, marks=pytest.mark.slow) for h in KINDS]
)
def test_a_head_keeps_the_laws_and_its_values(head, tmp_path):
    """What is forecast and drawn is such a value, and a state, an update and a file are exact."""
    kind, more = KINDS[head]
    series, static = _values_of(kind)
    small = {"units": 6, "encoding": 4, "ensemble": 3, "epochs": 3, "head": head}
    f = Forecaster(**{**small, **more}).fit(series, static, verbose=0)
    prefix = _mixed(series, 1)
    table = _predict(f, prefix, static, until=T + 2, level=[50, 80, 98])
    rising = [f"statecast-lo-{p}" for p in (98, 80, 50)] + ["statecast"]
    rising += [f"statecast-hi-{p}" for p in (50, 80, 98)]
    values = table.select(rising).to_numpy()
    assert (np.diff(values, axis=1) >= 0).all()
    paths = f.simulate(prefix, static, until=T + 2, paths=20).values
    for found in (values, paths[~np.isnan(paths)]):
        assert np.isfinite(found).all()
        if kind == "counts":
            assert (found >= 0).all()
            assert (found == np.rint(found)).all()
        if kind == "positive":
            assert (found > 0).all()
        if kind == "bounded":
            assert (found >= 1).all()
            assert (found <= 5).all()
    exact = {"until": T + 2, "calibrated": False}
    state = f.state(prefix, static)
    # A count a hair from the next may round either way.
    close = 1.0 if kind == "counts" else 1e-4
    whole = _values(_predict(f, prefix, static, **exact))
    again = _values(f.predict(state=state, level=[80, 95], **exact))
    np.testing.assert_allclose(again, whole, rtol=1e-4, atol=close)
    later = series.join(prefix, on=["unique_id", "ds"], how="anti").filter(pl.col("ds") < T)
    after = f.update(state, later)
    full = f.state(series.filter(pl.col("ds") < T), static)
    for name in full:
        np.testing.assert_allclose(after[name], full[name], rtol=1e-4, atol=1e-4)
    f.save(tmp_path / "m.safetensors")
    back = Forecaster.load(tmp_path / "m.safetensors")
    assert asdict(back.settings) == asdict(f.settings)
    assert _values(_predict(back, prefix, static, **exact)).tolist() == whole.tolist()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"units": 0}, "units: expected a whole number from 1 to 4096; received 0"),
        ({"units": 10**9}, "units: expected a whole number from 1 to 4096"),
        ({"epochs": 2.5}, "epochs"),
        ({"cell": "rnn"}, "cell: expected one of"),
        ({"head": "gaussian"}, "head: expected one of"),
        ({"conditioning": "none"}, "conditioning: expected one of"),
        ({"transform": "sqrt"}, "transform: expected one of"),
        ({"head": "poisson", "transform": "log"}, "transform: expected 'counts' or 'auto'"),
        ({"bounds": (0, 1), "transform": "log"}, "bounds: expected them with"),
        ({"bounds": (0, 1), "head": "lognormal"}, "bounds: expected them with"),
        ({"bounds": (1, 0)}, "bounds: expected two numbers, the lower one first"),
        ({"bounds": (0, float("nan"))}, "bounds: expected two numbers"),
        ({"seed": -1}, "seed: expected a whole number from 0"),
        ({"learning_rate": 0}, "learning_rate: expected a number above 0"),
        ({"weight_decay": float("nan")}, "weight_decay: expected a number of 0 or above"),
        ({"id_col": 3}, "id_col: expected text"),
    ],
)
def test_settings_are_checked_at_once(settings, says):
    with pytest.raises(errors.ArgumentError, match=says):
        Forecaster(**settings)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (settings_module.CellName, CELLS),
        (settings_module.HeadName, HEADS),
        (settings_module.ConditioningName, ("state", "inputs", "both")),
        (settings_module.TransformName, ("auto", *TRANSFORMS)),
    ],
)
def test_an_editor_offers_the_choices_that_there_are(kind, names):
    assert sorted(get_args(kind)) == sorted(names)


@pytest.mark.parametrize(
    ("settings", "value", "remedy"),
    [
        ({"transform": "log"}, -1.0, {"transform": "none"}),
        ({"head": "lognormal"}, 0.0, {"head": "quantiles", "transform": "log"}),
        ({"head": "negative_binomial"}, 1.5, {"head": "quantiles", "transform": "none"}),
        ({"bounds": (1.0, 4.0)}, 5.0, {"bounds": (1.0, 5.0)}),
        ({"head": "logitnormal"}, 5.0, {"bounds": (0.0, 5.0)}),
    ],
)
def test_what_a_refused_value_is_told_to_do_works(untrained, settings, value, remedy):
    values = np.tile([1.0, 2.0, 3.0, value], (12, 1))
    small: dict[str, Any] = {"units": 2, "ensemble": 1, "epochs": 1}
    with pytest.raises(errors.DataError) as refused:
        Forecaster(**settings, **small).fit(values, verbose=0)
    for name, said in remedy.items():
        assert f"{name}={'(low, high)' if name == 'bounds' else repr(said)}" in str(refused.value)
    f = Forecaster(**settings | remedy, **small).fit(values, verbose=0)
    assert np.isfinite(f.predict(values[:2, :2], until=4)["statecast"][:, 2:]).all()


def test_what_is_fitted_does_not_say_to_fit_otherwise(untrained):
    values = np.random.default_rng(0).integers(1, 9, (12, 4)).astype(float)
    small: dict[str, Any] = {"units": 2, "ensemble": 1, "epochs": 1}
    f = Forecaster(head="poisson", **small).fit(values, verbose=0)
    for ask in (f.state, lambda y: f.update(f.state(values[:, :1]), y)):
        with pytest.raises(errors.DataError, match="whole numbers") as refused:
            ask(np.where(np.arange(4) == 1, 1.5, np.nan) + 0 * values)
        assert "leave it out" in str(refused.value)
        assert "Fit" not in str(refused.value)


def test_bad_calls_are_refused_and_the_next_good_one_works(fitted):
    series, static = _tables()
    good = _predict(fitted, None, static)
    with pytest.raises(errors.DataError, match="item 4 is already observed up to step 5") as caught:
        fitted.predict(_prefixes(series, {4: 5, 6: 2}), static, until=5, strict=True)
    assert (caught.value.column, caught.value.item) == ("ds", 4)
    with pytest.raises(errors.ArgumentError, match="until: expected a whole number"):
        fitted.predict(None, static, until=0)
    with pytest.raises(errors.ArgumentError, match="until: expected at most 10,000"):
        fitted.predict(None, static, until=1_000_000)
    with pytest.raises(errors.ArgumentError, match="level: expected a number, several or None"):
        fitted.predict(None, static, until=T, level="80")
    with pytest.raises(errors.ArgumentError, match="level: expected percent, from 1 to below 100"):
        fitted.predict(None, static, until=T, level=[100])
    with pytest.raises(
        errors.ArgumentError, match="quantiles: expected numbers above 0 and below 1"
    ):
        fitted.predict(None, static, until=T, quantiles=[1])
    with pytest.raises(errors.ArgumentError, match="paths: expected a whole number"):
        fitted.simulate(None, static, until=T, paths=0)
    with pytest.raises(errors.DataError, match="group"):
        fitted.predict(None, static.drop("group"), until=T)
    with pytest.raises(errors.NotFittedError):
        Forecaster().save("nowhere.safetensors")
    history = dict(fitted.history)
    with pytest.raises(errors.DataError):
        fitted.fit(series.drop("y"), static, verbose=0)
    assert fitted.history == history
    assert _predict(fitted, None, static).equals(good)


def _header(header):
    packed = json.dumps(header).encode()
    return struct.pack("<Q", len(packed)) + packed


@pytest.mark.parametrize("step", [-1e7, -5.0, 2.5, 1e30, np.nan])
def test_a_state_whose_steps_cannot_be_is_refused_before_any_work(fitted, step):
    series, static = _tables()
    state = fitted.state(series, static)
    leaves = dict(state.leaves) | {"step": np.full_like(state["step"], step)}
    wrong = State(leaves, state.ids, state.fingerprint)
    with pytest.raises(errors.StateError, match="'step'"):
        fitted.predict(state=wrong, until=6)
    one = state["step"].copy()
    one[1, 0] += 1  # the members of an ensemble took the same steps
    with pytest.raises(errors.StateError, match=r"'step'.*row 1"):
        fitted.predict(state=State(leaves | {"step": one}, state.ids, state.fingerprint), until=6)


@pytest.mark.parametrize("conditioning", ["state", "inputs"])
def test_a_loaded_network_has_the_weights_of_the_file_and_draws_none(
    conditioning, monkeypatch, untrained
):
    depth = 2 if conditioning == "state" else 1
    f = _fit(*_tables(), conditioning=conditioning, depth=depth, layers=2)
    whole, expected = f._packed(), f._weights()

    def drawn(*_: Any, **__: Any) -> None:
        raise AssertionError("a weight was drawn")

    monkeypatch.setattr(keras.initializers.RandomNormal, "__call__", drawn)
    monkeypatch.setattr("statecast.networks.network._normal", lambda *_: drawn)
    monkeypatch.setattr("statecast.networks.network._decoder_initializer", lambda *_: drawn)
    back = Forecaster.load(whole)
    found = {n: keras.ops.convert_to_numpy(w) for n, w in back.network.weight_map().items()}
    assert set(found) == set(expected)
    for name, weight in expected.items():
        np.testing.assert_array_equal(found[name], weight)


_MEMORY = """
import os, re, sys, warnings
import numpy as np
from statecast import TokenForecaster
from statecast.tokens.forecaster import load_model
warnings.simplefilter("ignore")
small, path = load_model(sys.argv[1]), sys.argv[2]
def memory(name):  # not getrusage: its peak is the parent's, where that was higher
    return 1024 * int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
def use(f):
    if isinstance(f, TokenForecaster):
        f.log_likelihood(np.array([["a", "b"]], object), np.ones((1, 2)))
    else:
        f.predict(np.ones((1, 3)), np.ones((1, 2)), until=6)
use(small)  # what a first forecast takes in any case
before = memory("VmRSS")
use(load_model(path))
print((memory("VmHWM") - before) / os.path.getsize(path))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Forecaster, TokenForecaster])
def test_a_load_and_a_forecast_take_memory_in_relation_to_the_file(
    kind, tmp_path, untrained, monkeypatch
):
    monkeypatch.setattr(np.linalg, "qr", lambda a: (a, None))  # it would take most of the time
    Y, X = np.random.default_rng(0).normal(size=(16, 6)), np.ones((16, 2))
    more: dict[str, Any] = {"analogues": False} if kind is Forecaster else {}
    if kind is TokenForecaster:
        Y = np.array([list("abcde")] * 16, object)
    for name, units in (("small", 3), ("large", 1200)):
        f = kind(units=units, ensemble=2, depth=2, epochs=1, **more)
        f.fit(Y, X, verbose=0).save(tmp_path / name)
    paths = [str(tmp_path / name) for name in ("small", "large")]
    assert (tmp_path / "large").stat().st_size > 50 * 2**20
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY, *paths], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    # TensorFlow copies a weight once more than JAX and PyTorch when it makes a variable.
    most = 3.0 if keras.backend.backend() == "tensorflow" else 2.5
    assert float(done.stdout) <= most


def _with_leaf(state, name, leaf):
    return State(dict(state.leaves) | {name: leaf}, state.ids, state.fingerprint)


def test_a_state_whose_numbers_cannot_be_is_refused_before_any_work(fitted):
    series, static = _tables()
    state = fitted.state(series, static).take([0, 1, 2])
    names = [name for name in state.names if state[name].size]
    assert {"last", "step", "analogues/y", "analogues/usable"} < set(names)
    assert any(name.startswith("cell/") for name in names)
    for name in names:
        for value in (np.nan, np.inf, -np.inf, 1e30):
            leaf = state[name].copy()
            leaf.reshape(3, -1)[1, -1] = value
            wrong = _with_leaf(state, name, leaf)
            for use in (fitted.predict, fitted.simulate):
                with pytest.raises(errors.StateError, match=rf"'{name}'.*row 1"):
                    use(state=wrong, until=6)
        for dtype in (str, object, int, complex, bool):
            with pytest.raises(errors.StateError, match=rf"'{name}': expected float16 or"):
                fitted.predict(state=_with_leaf(state, name, state[name].astype(dtype)), until=6)
    assert fitted.predict(
        state=_with_leaf(state, "last", state["last"].astype("float64")), until=T
    ).equals(fitted.predict(state=state, until=T))


def test_an_update_looks_at_the_rows_it_touches_alone(fitted):
    series, static = _tables()
    state = fitted.state(series, static).take([0, 1, 2])
    leaf = state["last"].copy()
    leaf[1] = np.nan
    wrong = _with_leaf(state, "last", leaf)
    new = pl.DataFrame({"unique_id": [0], "ds": [T + 1], "y": [50.0]})
    assert fitted.update(wrong, new).rows == 3
    with pytest.raises(errors.StateError, match="Leaf 'last'"):
        fitted.update(wrong, new.with_columns(unique_id=pl.lit(1)))
    with pytest.raises(errors.StateError, match=r"Leaf 'step'.*float16"):
        fitted.update(_with_leaf(state, "step", state["step"].astype(int)), new)


def test_a_state_of_the_largest_numbers_forecasts_finitely(fitted):
    series, static = _tables()
    state = fitted.state(series.filter(pl.col("ds") < T), static).take([0, 1, 2])
    for value in (1e15, -1e15):
        leaves = dict(state.leaves)
        for name, leaf in state.leaves.items():
            most = {"analogues/y": 1e6, "analogues/seen": 1.0}.get(name, 1e15)
            if name != "step":
                leaves[name] = np.full_like(leaf, np.clip(value, -most, most))
        large = State(leaves, state.ids, state.fingerprint)
        assert np.isfinite(_values(fitted.predict(state=large, until=T))).all()


@pytest.fixture(scope="module")
def counts():
    """Counts of a short series: the head's scale and transform bound what is forecast."""
    series, static = _tables(72)
    return _fit(series.with_columns(pl.col("y").round()), static, head="poisson")


def _with_feedback(f, share):
    """The forecaster, with a model file whose network takes ``share`` times the last value."""
    whole = f._packed()
    end = 8 + struct.unpack("<Q", whole[:8])[0]
    entry = json.loads(whole[8:end])["network/decoder/head/residual"]
    begin, after = (end + place for place in entry["data_offsets"])
    numbers = np.full((after - begin) // 4, share, "<f4").tobytes()
    return Forecaster.load(whole[:begin] + numbers + whole[after:])


@pytest.mark.parametrize("kind", ["fitted", "too_long", "counts"])
def test_feedback_that_grows_is_an_error_where_it_leaves_float32(kind, request):
    series, static = _tables()
    begun, grows = series.filter(pl.col("ds") <= 3), request.getfixturevalue(kind)
    if kind == "counts":
        begun = begun.with_columns(pl.col("y").round())
    grows = _with_feedback(grows, 1e4)
    assert np.isfinite(_values(grows.predict(begun, static, until=5))).all()  # few steps
    state = grows.state(begun, static)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", errors.DataWarning)  # beyond the longest training item
        if kind == "counts" and keras.backend.backend() == "tensorflow":
            # Its operations saturate where those of the others give NaN: all stays finite.
            assert np.isfinite(_values(grows.predict(state=state, until=100))).all()
            return
        for use in (grows.predict, grows.simulate):
            asked: list[dict[str, Any]] = [{"state": state}, {"series": begun, "static": static}]
            for given in asked:
                with pytest.raises(errors.ArgumentError, match=r"float32 at step .*1e.04 times"):
                    use(**given, until=100)
        with pytest.raises(errors.ArgumentError, match=r"item 0 leaves .* float32 at step"):
            grows.explain(begun.filter(pl.col("unique_id") < 2), static.head(2), until=100)
        with pytest.raises(errors.ArgumentError, match="float32 at step"):
            grows.quantiles(grows.schema.panel(begun, static), 100, [0.5])
        # The horizon of another item changes nothing.
        each = {int(i): 100 if i == 3 else 5 for i in static["unique_id"]}
        with pytest.raises(errors.ArgumentError, match="item 3 leaves"):
            grows.predict(begun, static, until=each)
        late = pl.DataFrame({"unique_id": [0], "ds": [100], "y": [50.0]})
        # Over the gap the gates see infinite inputs. TensorFlow's operations saturate there and the
        # state stays finite; the other kernels' give NaN.
        for make in (
            lambda: grows.update(state, late),
            lambda: grows.state(pl.concat([begun, late]), static),
        ):
            if keras.backend.backend() == "tensorflow":
                made = make()
                assert all(np.isfinite(made[name]).all() for name in made)
            else:
                with pytest.raises(errors.ArgumentError, match="state of item 0 leaves"):
                    make()


def test_feedback_of_several_targets_that_grows_is_an_error():
    rng = np.random.default_rng(0)
    Y = rng.normal(size=(40, 6, 2)).cumsum(axis=1)
    grows = _with_feedback(_fit(Y, target_col=["a", "b"]), 100.0)
    assert np.isfinite(grows.predict(Y[:2, :5], until=6)["statecast"][:, 5]).all()
    with (
        pytest.warns(errors.DataWarning),
        pytest.raises(errors.ArgumentError, match="item 0 leaves the range of float32 at step"),
    ):
        grows.predict(Y[:2, :3], until=60)


def test_ids_of_a_loaded_forecaster_and_of_a_saved_state_keep_their_type(tmp_path):
    """Ids of any type that a table has, through a model file, a state file and both."""
    series, static = _tables(72)
    day = pl.date(2024, 1, 1) + pl.duration(days=pl.col("unique_id"))
    kinds = {
        "small numbers": pl.col("unique_id").cast(pl.Int32),
        "categories": pl.format("item {}", "unique_id").cast(pl.Categorical),
        "dates": day,
    }
    for kind, ids in kinds.items():
        own, who = (table.with_columns(unique_id=ids) for table in (series, static))
        f = Forecaster(units=3, encoding=2, ensemble=8, epochs=1).fit(own, who, verbose=0)
        f.save(tmp_path / "m.safetensors")
        back = Forecaster.load(tmp_path / "m.safetensors")
        begun = own.filter(pl.col("ds") <= 3)
        expected = f.predict(begun, who, until=4)
        assert expected["unique_id"].dtype == who["unique_id"].dtype, kind
        for own_or_loaded in (f, back):
            state = own_or_loaded.state(begun, who)
            state.save(tmp_path / "s.safetensors")
            for each in (state, State.load(tmp_path / "s.safetensors")):
                found = own_or_loaded.predict(state=each, until=4)
                assert found.schema == expected.schema, kind
                assert found.join(who, on="unique_id").height == found.height > 0, kind
                _same(found, expected)
                paths = own_or_loaded.simulate(state=each, until=4, paths=2).table()
                assert paths.equals(f.simulate(state=state, until=4, paths=2).table()), kind
        near = back.explain(begun, who, until=4, analogues=1).analogues
        assert near[0, 0] in who["unique_id"].to_list()


def test_a_training_that_diverges_is_an_error_and_leaves_the_forecaster_as_it_was():
    series, static = _tables(72)
    f = _fit(series, static)
    before = f.fingerprint
    f.settings = replace(f.settings, learning_rate=1e5)
    with pytest.raises(errors.ArgumentError, match=r"learning_rate: training diverged .weight"):
        f.fit(series, static, verbose=0)
    assert f.fingerprint == before
    assert np.isfinite(_values(_predict(f, series.filter(pl.col("ds") < 3), static))).all()


def test_a_model_that_grows_is_saved_and_loaded_whatever_it_has_learnt(tmp_path):
    """Items that treble at each step: a residual weight above 1 is right for them."""
    rng = np.random.default_rng(0)
    Y = rng.uniform(1, 2, (40, 1)) * 3.0 ** np.arange(8)
    f = Forecaster(units=4, ensemble=2, epochs=4, learning_rate=0.1, transform="none")
    f.fit(Y, verbose=0)
    f.network.weight_map()["decoder/head/residual"].assign([[50.0], [50.0]])
    f.save(tmp_path / "m.safetensors")
    back = Forecaster.load(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(
        back.predict(Y[:3, :4], until=8)["statecast"], f.predict(Y[:3, :4], until=8)["statecast"]
    )


def test_a_model_file_that_is_not_right_is_refused(fitted, tmp_path):
    path = tmp_path / "m.safetensors"
    fitted.save(path)
    whole = path.read_bytes()
    end = 8 + struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8:end])
    config = json.loads(header["__metadata__"]["config"])

    def rewritten(config=config, **metadata):
        text = config if isinstance(config, str) else json.dumps(config)
        new = {**header, "__metadata__": {**header["__metadata__"], "config": text, **metadata}}
        packed = json.dumps(new).encode()
        return struct.pack("<Q", len(packed)) + packed + whole[end:]

    def changed(**settings):
        return rewritten({**config, "settings": {**config["settings"], **settings}})

    def numbers(name, value):
        """The file with one number of a tensor changed."""
        place = end + header[name]["data_offsets"][0]
        size = {"F32": "<f4", "F64": "<f8", "I64": "<i8", "U8": "u1"}[header[name]["dtype"]]
        return (
            whole[:place] + (part := np.array([value], size).tobytes()) + whole[place + len(part) :]
        )

    hostile = {
        f"{value} in {name}": numbers(name, value)
        for name, entry in header.items()
        if name != "__metadata__" and entry["dtype"] in ("F32", "F64") and 0 not in entry["shape"]
        for value in ((np.inf, 1e30) if name == "analogues/y" else (np.nan, -np.inf))
    }
    assert len(hostile) > 20
    for name, value in (
        ("analogues/ridge", -1.0),
        ("analogues/metric", 1e5),
        ("analogues/paths/covariance", -1e3),
        ("analogues/fold", 8),
        ("analogues/gaps", 2),
        ("stacking/known", 1),
        ("stacking/weight", 1.5),
        ("stacking/offset", 1e30),
        ("schema/location", 1e200),
        ("schema/scaling", 0.0),
        ("schema/observed", 0.5),
        ("network/decoder/head/bias", 1e30),
    ):
        hostile[f"{value} in {name}"] = numbers(name, value)

    damaged = {
        "truncated": whole[:-10],
        "cut in the header": whole[:100],
        "empty": b"",
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "a pickle": b"\x80\x04\x95" + bytes(100),
        "an oversized header": struct.pack("<Q", 2**40) + whole[8:],
        "a header over the cap": struct.pack("<Q", 2**24 + 1) + bytes(2**24 + 100),
        "another version": rewritten(version="4"),
        "an earlier working copy's": rewritten(version="1"),
        "a later working copy's": rewritten(version="2"),
        "another class": rewritten(kind="TokenForecaster"),
        "a class outside the list": rewritten(kind="os.system"),
        "a rate beyond floats": changed(learning_rate=10**400),
        "a choice that is a list": changed(head=["quantiles"]),
        "a state": rewritten(format="statecast-state"),
        "no config": rewritten(""),
        "a damaged byte": whole[:end].replace(b"units", b"u\x9fits") + whole[end:],
        "an entry too many": rewritten({**config, "code": "import os"}),
        "an entry too few": rewritten({"settings": config["settings"]}),
        "a setting too many": changed(lambda_layer="x"),
        "a cell outside the list": changed(cell="os.system"),
        "weights of another size": changed(units=7),
        "a huge model": changed(units=4096, ensemble=256, layers=16, encoding=4096),
        "metadata a list": _header({**header, "__metadata__": []}) + whole[end:],
        "metadata null": _header({**header, "__metadata__": None}) + whole[end:],
        "an entry of metadata more": rewritten(code="import os"),
        "a history of lists": rewritten({**config, "history": {"loss": [[1.0]]}}),
        "a history beyond floats": rewritten({**config, "history": {"loss": [10**400]}}),
        "a history of booleans": rewritten({**config, "history": {"loss": [True]}}),
        "a version that is a number": rewritten({**config, "statecast": 1}),
        "a default left open": changed(units=None),
        "bounds beyond floats": changed(bounds=[0, 10**400]),
        "another column": changed(id_col="item"),
        "a past covariate that is not there": changed(past_cols=["visits"]),
        "another transform": changed(transform="logit"),
        "bfloat16": whole.replace(b'"dtype":"F32"', b'"dtype":"BF16"', 1),
        "NaN": rewritten(json.dumps({**config, "history": {"loss": [float("nan")]}})),
        "deep": rewritten("[" * 100_000),
    }
    for content in (damaged | hostile).values():
        path.write_bytes(content)
        with pytest.raises(errors.ModelFileError, match=r"m\.safetensors") as refused:
            Forecaster.load(path)
        assert "codec" not in str(refused.value)
        with pytest.raises(errors.ModelFileError, match="the bytes"):
            Forecaster.load(content)
    with pytest.raises(errors.ModelFileError, match="cannot be read"):
        Forecaster.load(tmp_path / "missing.safetensors")
    path.write_bytes(whole)
    assert Forecaster.load(path).fingerprint == fitted.fingerprint
