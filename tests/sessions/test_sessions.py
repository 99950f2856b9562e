"""Sessions: whatever comes in whatever order, an item has the state of its ordered history."""

from __future__ import annotations

import datetime as dt
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streams
from curves import T
from effort import examples
from redis_server import server
from statecast import errors
from statecast.forecast.forecaster import Forecaster
from statecast.sessions import Sessions, SQLiteStore, writer
from statecast.state import State
from statecast.tokens.forecaster import TokenForecaster
from streams import KINDS, Stream

pytestmark = pytest.mark.filterwarnings("ignore:(Static|Future) columns|Values far outside|until")


STORES = ("sqlite", "redis")
Place = Callable[..., str]
X = {"level": 0.5, "group": "a"}


@pytest.fixture(scope="module")
def models() -> dict[str, Forecaster]:
    return {name: getattr(streams, name)() for name in KINDS}


@pytest.fixture(scope="module")
def others() -> dict[str, Forecaster]:
    """Other fits of the models."""
    return {name: getattr(streams, name)(seed=5) for name in KINDS}


@pytest.fixture
def model(models: dict[str, Forecaster]) -> Forecaster:
    return models["plain"]


def where(store: str, folder: Path, name: str = "items.db") -> str:
    """The place of a store of this kind: a path, or a URL of a server."""
    return server().url(f"{folder}/{name}") if store == "redis" else f"{folder}/{name}"


@pytest.fixture(params=STORES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return partial(where, request.param, tmp_path)


@pytest.fixture
def opened(place: Place, model: Forecaster) -> Any:
    with Sessions(model, place()) as sessions:
        yield sessions


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=examples(18))
@given(seed=st.integers(0, 2**32 - 1), cached=st.sampled_from([1, 3, 100]))
def test_a_stream_has_the_states_of_the_ordered_history(
    kind: str, store: str, seed: int, cached: int, models: dict[str, Forecaster],
    others: dict[str, Forecaster], tmp_path_factory: Any,
) -> None:  # fmt: skip
    stream = Stream(models[kind], seed, others[kind])
    path = where(store, tmp_path_factory.mktemp("stream"))

    def reopened() -> Sessions:
        return Sessions(stream.f, path, cached=cached)

    with pytest.MonkeyPatch.context() as often:
        often.setattr(writer, "_EVERY", 3)
        sessions = reopened()
        try:
            for _ in range(40):
                sessions = stream.act(sessions, reopened)
            stream.check(sessions)
        finally:
            sessions.close()


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=examples(9))
@given(seed=st.integers(0, 2**32 - 1))
def test_a_batch_in_any_order_is_its_rows_one_by_one(
    kind: str, store: str, seed: int, models: dict[str, Forecaster], tmp_path_factory: Any
) -> None:
    f, rng = models[kind], np.random.default_rng(seed)
    stream, folder = Stream(f, seed), tmp_path_factory.mktemp("batch")
    rows = [(f"item {i}", t) for i in range(3) for t in range(1, T + 1) if rng.random() < 0.6]
    rows = [rows[i] for i in rng.permutation(len(rows))] or [("item 0", 1)]
    one, batch = where(store, folder, "one"), where(store, folder, "batch")
    with Sessions(f, one) as one, Sessions(f, batch) as batch:
        for item, number in rows:
            stream.observe(one, item, number)
        ids = [item for item, _ in rows]
        known = [stream.items[item] for item in ids]
        more: dict[str, Any] = {}
        if stream.static:
            more["static"] = {name: [k.static[name] for k in known] for name in known[0].static}
        if f.schema.future.kinds:
            plans = [(i, t, plan) for i, k in stream.items.items() for t, plan in k.future.items()]
            own = {name: [stream.items[i].static[name] for i, _, _ in plans] for name in X}
            future = {name: [plan[name] for _, _, plan in plans] for name in ("promo", "season")}
            batch.observe_batch(
                [i for i, _, _ in plans], [t for _, t, _ in plans], static=own, future=future
            )
            more["past"] = {"visits": [k.visits[t] for k, (_, t) in zip(known, rows, strict=True)]}
        values = np.array([k.rows[t] for k, (_, t) in zip(known, rows, strict=True)])
        given = values if stream.targets > 1 else values[:, 0]
        found = batch.observe_batch(ids, [stream.step(t) for _, t in rows], given, **more)
        assert set(found.status) <= {"new", "late"}
        assert one.state(list(stream.items)) == batch.state(list(stream.items))
        stream.check(batch)


def test_a_change_names_the_version_that_it_expects(opened: Sessions) -> None:
    first = opened.observe("a", static=X).versions[0]
    assert opened.version("a") == first
    with pytest.raises(errors.VersionError, match="it is not there"):
        opened.observe("b", static=X, expected=first)
    second = opened.observe("a", 1, 50.0, expected=first).versions[0]
    assert opened.observe("a", 1, 50.0, expected=second).versions == (second,)  # a duplicate
    state = opened.state("a")
    for change in (
        lambda: opened.observe("a", 2, 51.0, expected=first),
        lambda: opened.set_state("a", state, expected=first),
        lambda: opened.reset("a", expected=first),
        lambda: opened.delete("a", expected=first),
    ):
        with pytest.raises(errors.VersionError, match=second):
            change()
    assert (opened.version("a"), opened.history("a").height) == (second, 2)
    opened.reset("a", expected=second)
    assert opened.delete("a", expected=opened.version("a")) == 1
    opened.observe("a", static=X)
    assert opened.version("a") != first  # another item with the same id
    for absent in (lambda: opened.version("b"), lambda: opened.forecast("b", h=1)):
        with pytest.raises(errors.AbsentError):
            absent()


def test_of_callers_that_expect_one_version_one_succeeds(opened: Sessions) -> None:
    """Also if their calls are done together."""
    version = opened.observe("a", static=X).versions[0]
    start = threading.Barrier(8)

    def change(number: int) -> bool:
        start.wait()
        try:
            opened.observe("a", 1, 50.0 + number, expected=version)
        except errors.VersionError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(change, range(8))) == 1
    assert opened.history("a").height == 2


def test_an_answer_says_what_changed(opened: Sessions) -> None:
    opened.observe("a", 1, 50.0, static=X)
    opened.observe("a", 3, 52.0)
    before = opened.forecast("a", h=2)
    found = opened.observe("a", 2, 40.0, h=2)
    assert (found.status.tolist(), found.revised) == (["late"], ("a",))
    assert found.before.equals(before)
    assert found.forecast.equals(opened.forecast("a", h=2))
    assert not found.forecast.equals(before)
    again = opened.observe("a", 2, 40.0, h=2)
    assert (again.status.tolist(), again.revised, again.before) == (["duplicate"], (), None)
    assert again.forecast.equals(found.forecast)
    first = opened.observe("b", static=X, until=3)
    assert (first.status.tolist(), first.before) == (["new"], None)
    assert first.forecast.equals(opened.forecast("b", until=3))


def test_a_new_item_is_revised_within_its_call(opened: Sessions) -> None:
    opened.observe("b", 1, 50.0, static=X)
    before = opened.forecast("b", until=T)
    opened.observe("b", 3, 52.0)
    found = opened.observe_batch(
        ["a", "a", "b"], [3, 2, 2], [50.0, 51.0, 52.0], static={n: [v] * 3 for n, v in X.items()},
        until=T,
    )  # fmt: skip
    assert found.status.tolist() == ["new", "late", "late"]
    assert found.revised == ("a", "b")
    assert found.before["unique_id"].unique().to_list() == ["b"]
    assert not found.before.equals(before)
    assert found.forecast.equals(opened.forecast(["a", "b"], until=T))


def test_an_error_of_the_forecast_comes_before_the_observation_is_accepted(
    models: dict[str, Forecaster], opened: Sessions, place: Place
) -> None:
    opened.observe("a", 1, 50.0, static=X)
    journal = opened.history("a")
    asked: list[dict[str, Any]] = [{"until": -1}, {"h": 0}, {"until": 3, "h": 1}]
    for wrong in asked:
        with pytest.raises(errors.ArgumentError):
            opened.observe("a", 2, 51.0, **wrong)
    assert opened.history("a").equals(journal)
    with Sessions(models["covariates"], place("plans.db")) as sessions:
        plan: dict[str, Any] = {"future": {"promo": 0.0, "season": "a"}, "past": {"visits": 1.0}}
        with pytest.raises(errors.DataError, match="future table"):
            sessions.observe("a", 1, 50.0, static=X, **plan, until=2)
        assert len(sessions) == 0
        sessions.observe("a", 2, static=X, future=plan["future"])
        assert sessions.observe("a", 1, 50.0, **plan, until=2).forecast.height == 1
        other = {"promo": 3.0, "season": "b"}
        before = sessions.forecast("a", until=2)
        found = sessions.observe("a", 2, future=other, until=2)
        assert found.status.tolist() == ["corrected"]
        assert found.before.equals(before)
        assert not found.forecast.equals(before)


def test_a_duplicate_is_acknowledged_and_not_journalled(opened: Sessions) -> None:
    opened.observe("a", 1, 50.0, static=X)
    journal = opened.history("a")
    for value in (50, np.float32(50.0), 50.0):
        assert opened.observe("a", 1, value, static=X).status.tolist() == ["duplicate"]
    assert opened.history("a").equals(journal)
    zero = (
        opened.observe("a", 2, 0.0).status.tolist() + opened.observe("a", 2, -0.0).status.tolist()
    )
    assert zero == ["new", "duplicate"]


def test_reject_refuses_what_is_not_in_order_and_takes_nothing(
    tmp_path: Path, model: Forecaster
) -> None:
    with Sessions(model, tmp_path / "items.db", policy="reject") as sessions:
        sessions.observe("a", 1, 50.0, static=X)
        sessions.observe("a", 3, 52.0)
        state, journal = sessions.state("a"), sessions.history("a")
        wrong: list[tuple[list[int], list[float]]] = [([4, 2], [1.0, 2.0]), ([4, 1], [1.0, 2.0])]
        for steps, values in wrong:
            with pytest.raises(errors.DataError, match="reject") as error:
                sessions.observe_batch(["a", "a"], steps, values)
            assert error.value.item == "a"
        with pytest.raises(errors.DataError, match="static features"):
            sessions.observe("a", static=X | {"group": "b"})
        assert sessions.state("a") == state
        assert sessions.history("a").equals(journal)
        assert sessions.observe("a", 3, 52.0).status.tolist() == ["duplicate"]
        assert sessions.observe("a", 4, 52.0).status.tolist() == ["new"]


def test_a_set_state_is_where_an_item_goes_on(
    opened: Sessions, model: Forecaster, place: Place
) -> None:
    for step in range(1, 4):
        opened.observe_batch(["a", "b"], [step, step], [50.0, 60.0 + step], static=_twice(X))
    other = opened.state("b")
    opened.set_state("a", State(other.leaves, ["any"], other.fingerprint))
    assert _leaves(opened.state("a")) == _leaves(other)
    with pytest.raises(errors.DataError, match="to which its state was set"):
        opened.observe("a", 3, 1.0)
    with pytest.raises(errors.StateError, match="was set"):
        opened.tables("a")
    opened.close()
    with Sessions(model, place()) as again:
        again.observe_batch(["a", "b"], [5, 5], [70.0, 70.0])
        again.observe_batch(["a", "b"], [4, 4], [71.0, 71.0])
        assert _leaves(again.state("a")) == _leaves(again.state("b"))
        again.reset("a")
        assert _leaves(again.state("a")) == _leaves(model.state(None, _static("a")))
        assert again.observe("a", 1, 2.0).status.tolist() == ["new"]
    other = model.state(None, _static("a")).take([0])
    with pytest.raises(errors.StateError, match="one of another fit"):
        model.check_state(State(other.leaves, fingerprint="0" * 32))


def _twice(one: dict[str, Any]) -> dict[str, list[Any]]:
    return {name: [value, value] for name, value in one.items()}


def _static(item: Any) -> pl.DataFrame:
    return pl.DataFrame({"unique_id": [item], **{name: [value] for name, value in X.items()}})


def _leaves(state: State) -> list[bytes]:
    return [state[name].tobytes() for name in state]


def test_a_forecast_as_of_a_moment_is_the_one_that_was_given_then(
    opened: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10**15, 10**16, 10**6))
    monkeypatch.setattr(writer.time, "time_ns", lambda: 1000 * next(clock))
    given = []
    for step, value in ((2, 50.0), (4, 55.0), (3, 40.0), (4, 60.0), (1, 45.0)):
        opened.observe("a", step, value, static=X)
        moment = opened.history("a")["time"][-1]
        given.append((moment, opened.forecast("a", until=T)))
    opened.reset("a")
    for moment, forecast in given:
        assert opened.as_of("a", moment, until=T).equals(forecast)
        utc = np.datetime64(moment.replace(tzinfo=None), "us")
        assert opened.as_of("a", utc, until=T).equals(forecast)
    early = given[0][0] - dt.timedelta(days=1)
    with pytest.raises(errors.DataError, match="by then"):
        opened.as_of("a", early, until=T)
    with pytest.raises(errors.ArgumentError, match="with a time zone"):
        opened.as_of("a", early.replace(tzinfo=None), until=T)


def test_times_never_go_back(opened: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([5_000_000_000, 3_000_000_000, 4_000_000_000, 9_000_000_000, 1, 2])
    monkeypatch.setattr(writer.time, "time_ns", lambda: next(clock))
    for step in range(1, 4):
        opened.observe("a", step, 50.0, static=X)
    times = opened.history("a")["time"].dt.epoch("us").to_list()
    assert times == sorted(times)
    assert times[0] == 5_000_000


def test_history_and_tables_say_what_is_in_effect(opened: Sessions, model: Forecaster) -> None:
    opened.observe("a", 2, 50.0, static={"level": None, "group": "b"})
    opened.observe("a", 1, 40.0)
    opened.observe("a", 2, 60.0, static=X)
    journal = opened.history("a")
    assert journal["kind"].to_list() == [
        "static features", "observation", "observation", "static features", "observation",
    ]  # fmt: skip
    assert journal["current"].to_list() == [False, False, True, True, True]
    assert journal["y"].to_list() == [None, 50.0, 40.0, None, 60.0]
    series, static, future = opened.tables(["a"])
    assert series.rows() == [("a", 1, 40.0), ("a", 2, 60.0)]
    assert static.rows() == [("a", 0.5, "a")]
    assert future is None
    assert model.predict(series, static, until=T).equals(opened.forecast("a", until=T))
    left = opened.explain(["a"], until=T).observations
    np.testing.assert_array_equal(left, model.explain(series, static, until=T).observations)
    drawn = opened.simulate("a", until=T, paths=5).values
    np.testing.assert_array_equal(drawn, model.simulate(series, static, until=T, paths=5).values)


def test_what_is_deleted_is_gone(opened: Sessions) -> None:
    for step in range(1, 9):
        opened.observe_batch(["a", "b"], [step] * 2, [50.0] * 2, static=_twice(X))
    kept = opened.state("b")
    assert opened.delete(["a", "never there"]) == 1
    assert "a" not in opened
    assert opened.state("b") == kept
    with pytest.raises(errors.DataError, match="not there") as error:
        opened.forecast("a", h=1)
    assert error.value.item == "a"
    assert opened.observe("a", 1, 50.0, static=X).status.tolist() == ["new"]


def test_what_is_deleted_is_in_no_file(tmp_path: Path, model: Forecaster) -> None:
    secret, files = "a-name-that-is-found", [tmp_path / "items.db", tmp_path / "items.db-wal"]

    def holds(text: str) -> bool:
        return any(text.encode() in path.read_bytes() for path in files if path.exists())

    with Sessions(model, files[0]) as sessions:
        for step in range(1, 9):
            sessions.observe(secret, step, 50.0, static=X | {"group": "also-to-be-found"})
            sessions.observe("b", step, 50.0, static=X)
        assert holds(secret)
        assert holds("also-to-be-found")
        assert sessions.delete(secret) == 1
        assert not holds(secret)
        assert not holds("also-to-be-found")


def test_items_that_nobody_touched_expire(
    opened: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([10**6 * 1000, 10**6 * 1000, 3 * 10**6 * 1000, 3 * 10**6 * 1000])
    monkeypatch.setattr(writer.time, "time_ns", lambda: next(clock))
    opened.observe("old", 1, 50.0, static=X)
    opened.observe("new", 1, 50.0, static=X)
    moment = np.datetime64("1970-01-01T00:00:02")
    assert opened.expire(moment) == 1
    assert (list(opened.items()), opened.expire(moment), len(opened)) == (["new"], 0, 1)


@pytest.mark.parametrize("item", ["a", 7, True, dt.date(2024, 1, 2), b"\0", ("x", 3), "", "é:1"])
def test_ids_of_every_type_come_back(item: Any, opened: Sessions) -> None:
    opened.observe(item, 1, 50.0, static=X)
    assert list(opened.items()) == [item]
    assert type(next(opened.items())) is type(item)
    if isinstance(item, (str, int)):
        assert opened.forecast([item], h=1)["unique_id"].to_list() == [item]


def test_a_plan_is_known_before_its_step(models: dict[str, Forecaster], tmp_path: Path) -> None:
    f, plan = models["covariates"], {"promo": [1.0] * T, "season": ["a"] * T}
    with Sessions(f, tmp_path / "items.db") as sessions:
        sessions.observe("a", static=X)
        with pytest.raises(errors.DataError, match="future"):
            sessions.observe("a", 1, 50.0, past={"visits": 0.0})
        assert sessions.observe_batch(["a"] * T, range(1, T + 1), future=plan).revised == ()
        sessions.observe("a", 2, 50.0, past={"visits": 0.0})
        series, static, future = sessions.tables("a")
        expected = f.predict(series, static, future=future, until=T)
        assert sessions.forecast("a", until=T).equals(expected)
        other = future.with_columns(promo=pl.lit(-1.0))
        revised = f.predict(series, static, future=future.filter(pl.col("ds") <= 2).vstack(
            other.filter(pl.col("ds") > 2)), until=T)  # fmt: skip
        assert sessions.forecast("a", until=T, future=other).equals(revised)
        with pytest.raises(errors.DataError, match="past"):
            sessions.observe("a", 3, 50.0)
        known = sessions.observe("a", 1, future={"promo": -1.0, "season": None})
        assert (known.status.tolist(), known.revised) == (["corrected"], ("a",))


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("new: expected its static", {"item": "z", "step": 1, "values": 1.0}),
    ("not a number|expected a number", {"step": 4, "values": "x"}),
    ("whole number", {"step": 1.5, "values": 1.0}),
    ("whole number", {"step": 0, "values": 1.0}),
    ("expected numbers, as in fit", {"step": "2024-01-01", "values": 1.0}),
    ("expected a step", {"values": 1.0}),
    ("neither", {"step": 4}),
    ("none of them", {}),
    ("none of them", {"item": "z", "until": 5}),
    ("expected 'level'|expected the columns", {"static": {"group": "a"}}),
    ("columns of fit", {"static": X | {"more": 1}}),
    ("text, as in fit", {"static": X | {"group": 3}}),
    ("mapping", {"static": 3}),
    ("columns of fit", {"step": 4, "values": 1.0, "past": {"visits": 1}}),
    ("columns of fit", {"step": 4, "future": {"promo": 1}}),
    ("1e\\+100", {"step": 4, "values": 1e200}),
    ("id of one of the types", {"item": 1.5, "step": 4, "values": 1.0}),
]


@pytest.mark.parametrize(("message", "call"), WRONG)
def test_a_wrong_call_is_refused_and_changes_nothing(
    message: str, call: dict[str, Any], opened: Sessions
) -> None:
    opened.observe("a", 1, 50.0, static=X)
    state, journal = opened.state("a"), opened.history("a")
    with pytest.raises((errors.DataError, errors.ArgumentError), match=message):
        opened.observe(**{"item": "a", **call})
    assert opened.state("a") == state
    assert opened.history("a").equals(journal)
    assert list(opened.items()) == ["a"]
    assert opened.observe("a", 2, 51.0).status.tolist() == ["new"]


def test_a_batch_may_be_empty_and_is_a_list(opened: Sessions) -> None:
    found = opened.observe_batch([], [], [], static={"level": [], "group": []})
    assert (found.status.tolist(), found.revised, len(opened)) == ([], (), 0)
    assert opened.delete([]) == 0
    for items in ("abc", b"abc", 3, iter(["a"])):
        with pytest.raises(errors.DataError, match="a list or an array of ids"):
            opened.observe_batch(items, [1, 2, 3], [1.0, 2.0, 3.0])  # type: ignore[arg-type]
    for wrong in ({"steps": [1]}, {"values": [1.0]}, {"static": {n: [v] for n, v in X.items()}}):
        given = {"steps": [1, 2], "values": [1.0, 2.0], "static": _twice(X), **wrong}
        with pytest.raises(errors.DataError, match="expected 2"):
            opened.observe_batch(["a", "b"], **given)
    assert len(opened) == 0


def test_dates_are_checked_against_the_grid(models: dict[str, Forecaster], tmp_path: Path) -> None:
    with Sessions(models["dated"], tmp_path / "items.db") as sessions:
        sessions.observe("a", "2024-03-05", 50.0)
        with pytest.raises(errors.DataError, match="without a time of day"):
            sessions.observe("a", dt.datetime(2024, 3, 6, 12), 50.0)
        with pytest.raises(errors.DataError, match="without a time zone"):
            sessions.observe("a", dt.datetime(2024, 3, 6, tzinfo=dt.UTC), 50.0)
        with pytest.raises(errors.DataError, match="as in fit"):
            sessions.observe("a", 2, 50.0)
        sessions.observe("a", np.datetime64("2024-03-07"), 51.0)
        assert sessions.observe("a", dt.date(2024, 3, 1), 49.0).status.tolist() == ["late"]
        with pytest.raises(
            errors.DataError, match=r"up to step 10,000.*'ds', or that of its first"
        ):
            sessions.observe("a", "2204-03-08", 51.0)
        assert sessions.forecast("a", h=1)["step"].to_list() == [8]


def test_calls_together_get_their_own_errors(opened: Sessions) -> None:
    """While one call is worked on, the others gather, and are done together."""
    opened.observe_batch([f"{i}" for i in range(40)], static={n: [v] * 40 for n, v in X.items()})

    def call(i: int) -> str:
        try:
            step, value = (1, 50.0 + i) if i % 5 else (1, 50.0)
            own = f"{i}" if i % 7 else f"absent {i}"
            return opened.observe(own, step, value).status[0]
        except errors.DataError as error:
            return str(error.item)

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(call, range(40)))
    assert found == ["new" if i % 7 else f"absent {i}" for i in range(40)]
    for i in range(40):
        values = [50.0 + i if i % 5 else 50.0] if i % 7 else []
        assert opened.history(f"{i}")["y"].drop_nulls().to_list() == values


def test_many_threads_observe_and_forecast(opened: Sessions, model: Forecaster) -> None:
    def work(thread: int) -> None:
        rng = np.random.default_rng(thread)
        for step in rng.permutation(T) + 1:
            opened.observe("shared", int(step), 50.0 + step, static=X)
            opened.observe(thread, int(step), 60.0 + step, static=X)
            opened.forecast(thread, until=T + 1 - (step == T))

    with pytest.warns(errors.DataWarning), ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    series = pl.DataFrame({"unique_id": 0, "ds": range(1, T + 1)})
    for item, base in (("shared", 50.0), (2, 60.0)):
        full = series.with_columns(unique_id=pl.lit(item), y=base + pl.col("ds"))
        assert _leaves(opened.state(item)) == _leaves(model.state(full, _static(item)))


def test_a_full_queue_refuses(tmp_path: Path, model: Forecaster) -> None:
    with Sessions(model, tmp_path / "items.db", waiting=2) as sessions:
        sessions.observe("a", 1, 50.0, static=X)
        begun, go = threading.Event(), threading.Event()

        def hold() -> None:
            begun.set()
            assert go.wait(10)

        with ThreadPoolExecutor(4) as pool:
            held = pool.submit(sessions._batcher.do, hold)
            begun.wait(10)
            waiting = pool.submit(sessions.observe_batch, ["a", "a"], [2, 3], [51.0, 52.0])
            while not sessions._batcher._calls:
                time.sleep(0.001)
            with pytest.raises(errors.OverloadError, match="at most 2 waiting rows"):
                sessions.observe("a", 4, 53.0)
            go.set()
            held.result()
            assert waiting.result().status.tolist() == ["new", "new"]
        assert sessions.history("a")["ds"].drop_nulls().to_list() == [1, 2, 3]
        assert sessions.observe("a", 4, 53.0).status.tolist() == ["new"]


def test_a_store_belongs_to_one_model(
    models: dict[str, Forecaster],
    place: Place,
    tmp_path: Path,
    opened: Sessions,
    model: Forecaster,
) -> None:
    opened.observe("a", 1, 50.0, static=X)
    opened.close()
    with pytest.raises(errors.StoreError, match="closed"):
        opened.observe("a", 2, 50.0)
    opened.close()
    with pytest.raises(errors.StoreError, match=r"another fit.*another file"):
        Sessions(models["several"], place())
    with Sessions(model, place()) as again:
        assert list(again.items()) == ["a"]
    with pytest.raises(errors.ArgumentError, match="events of a journal hold numbers"):
        Sessions(TokenForecaster(), tmp_path / "tokens.db")  # type: ignore[arg-type]
    with pytest.raises(errors.NotFittedError):
        Sessions(Forecaster(), tmp_path / "none.db")
    with pytest.raises(errors.ArgumentError, match="policy"):
        Sessions(model, tmp_path / "items.db", policy="other")  # type: ignore[arg-type]
    with pytest.raises(errors.ArgumentError, match="path of a file, the URL"):
        Sessions(model, 3)  # type: ignore[arg-type]
    own = SQLiteStore(tmp_path / "own.db")
    with pytest.raises(errors.ArgumentError, match="another store has its own"):
        Sessions(model, own, durability="relaxed")
    with Sessions(model, own) as sessions:
        assert sessions.observe("a", 1, 50.0, static=X).status.tolist() == ["new"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_fork_of_the_process_is_refused(opened: Sessions) -> None:
    opened.observe("a", 1, 50.0, static=X)
    child = os.fork()
    if not child:
        code = 1
        try:
            opened.observe("a", 2, 50.0)
        except errors.ForkError:
            code = 0
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert opened.observe("a", 2, 50.0).status.tolist() == ["new"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_migration_replays_every_journal(
    kind: str,
    models: dict[str, Forecaster],
    others: dict[str, Forecaster],
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writer, "_EVERY", 3)
    old, new = models[kind], others[kind]
    assert new.fingerprint != old.fingerprint
    stream = Stream(old, 1)
    with Sessions(old, place()) as sessions:
        for item in ("a", "b", "c"):
            for number in (2, 1, 4, 3):
                stream.observe(sessions, item, number)
        before = sessions.forecast(["a", "b", "c"], h=2) if kind != "covariates" else None
        moved = sessions.migrate(new, h=None if before is None else 2)
        assert sessions.model is new
        stream.f = new
        stream.check(sessions)
        stream.observe(sessions, "b", 2)
        stream.check(sessions)
        if before is not None:
            assert moved is not None
            assert moved["unique_id"].to_list() == ["a", "b", "c"]
            name = "statecast-y" if kind == "several" else "statecast"
            means = before.group_by("unique_id", maintain_order=True).agg(pl.col(name).mean())
            np.testing.assert_allclose(moved["y-before"], means[name], rtol=1e-12)
            assert (moved["y-before"] != moved["y-after"]).all()
    with pytest.raises(errors.StoreError, match="call `migrate`"):
        Sessions(old, place())
    with Sessions(new, place()) as sessions:
        stream.check(sessions)


def test_a_migration_that_cannot_be_changes_nothing(
    models: dict[str, Forecaster],
    others: dict[str, Forecaster],
    opened: Sessions,
    model: Forecaster,
) -> None:
    for step in range(1, 4):
        opened.observe_batch(["a", "b"], [step, step], [50.0, 60.0], static=_twice(X))
    new, state = others["plain"], opened.state(["a", "b"])
    with pytest.raises(errors.ArgumentError, match="with the columns"):
        opened.migrate(models["several"])
    opened.set_state("b", opened.state("a"))
    state = opened.state(["a", "b"])
    with pytest.raises(errors.StateError, match="its state was set"):
        opened.migrate(new)
    assert opened.model is model
    assert opened.state(["a", "b"]) == state
    moment = opened.history("b")["time"][-1]
    opened.reset("b")
    opened.observe("b", 1, 70.0)
    positive = streams.fit_curves(*streams.curve_tables(72), head="lognormal", seed=3)
    opened.observe("a", 4, -50.0)
    with pytest.raises(errors.DataError, match="expected"):
        opened.migrate(positive)
    assert opened.model is model
    opened.migrate(new)
    with pytest.raises(errors.StateError, match="before the migration"):
        opened.as_of("b", moment, h=1)
    assert opened.as_of("a", moment, h=1).height == 1


def test_what_is_observed_during_a_migration_is_replayed_too(
    others: dict[str, Forecaster], opened: Sessions, model: Forecaster
) -> None:
    stream, new = Stream(model, 3), others["plain"]
    for i in range(200):
        stream.observe(opened, f"item {i}", 1)
    ended = threading.Event()

    def observe() -> None:
        while not ended.is_set():
            number = stream.rng.integers(200)
            item = f"item {number}"
            last = max(stream.items[item].rows)
            if last < T:
                stream.observe(opened, item, last + 1)

    with ThreadPoolExecutor(1) as pool:
        observing = pool.submit(observe)
        try:
            for target in (new, model, new):
                opened.migrate(target)
                time.sleep(0.05)
        finally:
            ended.set()
        observing.result()
    stream.f = new
    stream.check(opened)


def check(f: Forecaster, sessions: Sessions, ids: list[Any], *tables: Any, until: int) -> None:
    """States and forecasts are those of tables, and `tables` gives them back."""
    for own in (tables, sessions.tables(ids)[:2]):
        expected = f.state(*own)
        order = [expected.ids.tolist().index(item) for item in ids]
        found = sessions.state(ids)
        for name in expected:
            assert found[name].tobytes() == expected[name][order].tobytes(), name
        left, right = sessions.forecast(ids, until=until), f.predict(*own, until=until)
        assert left.sort("unique_id", "step").equals(right.sort("unique_id", "step"))


def test_launch_dates_and_groups_are_part_of_the_static_features(tmp_path: Path) -> None:
    series, static = streams.curve_tables(72)
    days = pl.lit(streams.DAY) + pl.duration(days=pl.col("ds"))  # the launch is a day before
    series = series.with_columns(ds=days)
    static = static.with_columns(
        launch=pl.lit(streams.DAY), firm=(pl.col("unique_id") % 12).cast(pl.String)
    )
    f = streams.fit_curves(series, static, start_col="launch", group_col="firm")
    rows = series.filter((pl.col("unique_id") < 4) & (pl.col("ds") < dt.date(2024, 1, 6)))
    who = static.filter(pl.col("unique_id") < 5)  # the last one has k = 0
    own = {name: who[name].to_list() for name in who.columns[1:]}
    own["launch"][3] = None
    who = pl.DataFrame({"unique_id": who["unique_id"], **own})
    with Sessions(f, tmp_path / "items.db") as sessions:
        sessions.observe_batch(who["unique_id"].to_list(), static=own)
        for item, when, y in rows.sample(fraction=1.0, shuffle=True, seed=1).iter_rows():
            sessions.observe(item, when, y)
        check(f, sessions, list(range(5)), rows, who, until=8)
        journal = sessions.history(1)
        assert journal["launch"].to_list()[0] == dt.date(2024, 1, 1)
        assert sessions.observe(3, static={n: own[n][2] for n in own}).status == ["corrected"]
        other = who.with_columns(
            pl.when(pl.col("unique_id") == 3).then(pl.col(n).gather(2)).otherwise(n).alias(n)
            for n in own
        )
        check(f, sessions, list(range(5)), rows, other, until=8)
        with pytest.raises(errors.DataError, match="launch date"):
            sessions.observe("new", static={"level": 1.0, "group": "a", "firm": "1"})
        with pytest.raises(errors.DataError, match="'launch'"):
            sessions.observe("new", static={n: own[n][2] for n in own} | {"launch": "2025-02-30"})
        with pytest.raises(errors.DataError, match="dates from the launch date"):
            sessions.observe(1, dt.date(2023, 12, 31), 1.0)


def test_hours_in_a_time_zone_are_those_of_tables(tmp_path: Path) -> None:
    series, _ = streams.curve_tables(72)
    start = dt.datetime(2024, 3, 31, tzinfo=dt.UTC)  # the clock is set forward on this day
    hours = pl.lit(start) + pl.duration(hours=pl.col("ds"))
    series = series.with_columns(ds=hours.dt.convert_time_zone("Europe/Paris"))
    f = streams.fit_curves(series)
    last = pl.lit(start + dt.timedelta(hours=5)).dt.convert_time_zone("Europe/Paris")
    rows = series.filter((pl.col("unique_id") < 3) & (pl.col("ds") <= last))
    with Sessions(f, tmp_path / "items.db") as sessions:
        for item, when, y in rows.sample(fraction=1.0, shuffle=True, seed=1).iter_rows():
            given = when if item else when.astimezone(dt.UTC)  # another zone, the same moment
            sessions.observe(item, given if item < 2 else given.isoformat(), y)
        check(f, sessions, [0, 1, 2], rows, until=8)
        again = sessions.observe(0, rows["ds"][0].astimezone(dt.UTC), rows["y"][0])
        assert again.status.tolist() == ["duplicate"]


def test_a_model_of_arrays_forecasts_arrays(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 2)), rng.normal(size=(60, 6)).cumsum(axis=1)
    f = Forecaster(units=4, ensemble=2, epochs=1, encoding=4).fit(y, x, verbose=0)
    known = np.where(np.arange(6) < 3, y, np.nan)[:2]
    with Sessions(f, tmp_path / "items.db") as sessions:
        for row, step in ((0, 3), (1, 2), (1, 1), (0, 1), (1, 3), (0, 2)):
            static = {"x1": x[row, 0], "x2": x[row, 1]}
            sessions.observe(f"row {row}", step, y[row, step - 1], static=static)
        found, expected = (
            sessions.forecast(["row 0", "row 1"], until=6),
            f.predict(known, x[:2], until=6),
        )
        assert list(found) == list(expected)
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)
        moved = sessions.migrate(f, h=2)
        assert moved is not None
        assert moved["unique_id"].to_list() == ["row 0", "row 1"]
        np.testing.assert_array_equal(moved["y-before"], moved["y-after"])
        medians = sessions.forecast(["row 0", "row 1"], h=2)["statecast"][:, 3:]
        np.testing.assert_allclose(moved["y-after"], medians.mean(axis=1), rtol=1e-12)


# -- calls that wait together ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "several", "dated"])
@settings(max_examples=examples(12))
@given(seed=st.integers(0, 2**32 - 1))
def test_calls_that_wait_together_have_the_answers_of_calls_one_by_one(
    kind: str, seed: int, models: dict[str, Forecaster], tmp_path_factory: Any
) -> None:
    rng, f = np.random.default_rng(seed), models[kind]
    stream, folder = Stream(f, seed), tmp_path_factory.mktemp("together")
    horizons: list[dict[str, Any]] = [{}, {"until": T}, {"until": T}, {"h": 2}, {"until": "never"}]
    calls = []
    for _ in range(int(rng.integers(2, 16))):
        items = [f"item {i}" for i in rng.integers(0, 6, rng.integers(1, 4))]
        steps = [stream.step(int(i)) for i in rng.integers(1, T, len(items))]
        y = (50 + 5 * rng.normal(size=(len(items), stream.targets))).round(1)
        values = y.tolist() if stream.targets > 1 else y[:, 0].tolist()
        drawn = [stream.draw_static() for _ in items]
        drawn = [X if rng.random() < 0.9 else each for each in drawn]
        static = {name: [each[name] for each in drawn] for name in X} if stream.static else None
        calls.append(((items, steps, values), {"static": static, **rng.choice(horizons)}))  # type: ignore[arg-type]

    def answer(result: Callable[[], Any]) -> Any:
        try:
            found = result()
        except errors.StatecastError as error:
            return type(error), str(error)
        numbers = [version.partition("-")[0] for version in found.versions]
        return found.status.tolist(), found.revised, numbers, found.forecast, found.before

    with Sessions(f, folder / "together.db") as one, Sessions(f, folder / "apart.db") as two:
        go = threading.Event()
        first = one._batcher.submit(go.wait)  # so that the others wait
        waiting = [one.submit(*given, **more) for given, more in calls]
        go.set()
        assert first.result()
        for (given_, more), found in zip(calls, waiting, strict=True):
            left = answer(found.result)
            right = answer(lambda given_=given_, more=more: two.observe_batch(*given_, **more))
            assert left[:3] == right[:3]
            for mine, other in zip(left[3:], right[3:], strict=True):
                assert mine is other is None or mine.equals(other)


def test_the_warning_of_a_forecast_is_that_of_its_own_caller(opened: Sessions) -> None:
    opened.observe_batch(["a", "b"], static={"level": [0.5, 0.5], "group": ["a", "b"]})
    go, found = threading.Event(), []
    first = opened._batcher.submit(go.wait)
    for item, until in (("a", T), ("b", T), ("a", T + 3)):
        with errors.silent() as messages:
            found.append((opened.submit([item], [1], [50.0], until=until), messages))
    go.set()
    assert first.result()
    assert [future.result().forecast.height for future, _ in found] == [T - 1, T - 1, T + 2]
    assert [bool(messages) for _, messages in found] == [False, False, True]


def test_a_call_can_be_cancelled_as_long_as_it_waits(opened: Sessions) -> None:
    begun, go = threading.Event(), threading.Event()

    def wait() -> bool:
        begun.set()
        return go.wait()

    first = opened._batcher.submit(wait)
    assert begun.wait(10)
    waiting = [opened.submit([item], static={"level": [0.5], "group": ["a"]}) for item in "abc"]
    assert waiting[1].cancel()
    assert not first.cancel()
    go.set()
    assert waiting[0].result().status == waiting[2].result().status == ["new"]
    assert sorted(opened.items()) == ["a", "c"]


def test_times_go_on_after_a_restart_with_an_earlier_clock(
    place: Place, model: Forecaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that nothing that was observed after it seems to be idle."""
    clock = [2_000_000_000]
    monkeypatch.setattr(writer.time, "time_ns", lambda: 10**9 * clock[0])

    def time_of(sessions: Sessions, item: str) -> float:
        sessions.observe(item, 1, 50.0, static=X)
        return sessions.history(item)["time"].dt.epoch("us")[-1] / 10**6

    with Sessions(model, place()) as sessions:
        assert 2_000_000_000 <= time_of(sessions, "a") < 2_000_000_001
        sessions.delete("a")  # its time is known all the same
    clock[0] = 5
    with pytest.warns(errors.DataWarning, match=r"2033-05-18 03:33:20.*1970-01-01 00:00:05"):
        opened = Sessions(model, place())
    with opened as sessions:
        assert 2_000_000_000 < time_of(sessions, "b") < 2_000_000_001
        assert sessions.expire(np.datetime64(1_999_999_999, "s")) == 0
        clock[0] = 3_000_000_000  # forward
        assert 3_000_000_000 <= time_of(sessions, "c") < 3_000_000_001
        clock[0] = 5
        assert time_of(sessions, "d") > time_of(sessions, "c") >= 3_000_000_000
        assert sessions.expire(np.datetime64(2_500_000_000, "s")) == 1
        assert sorted(sessions.items()) == ["c", "d"]


# -- unusual names, ids and dates -----------------------------------------------------------------


def test_ids_of_several_types_are_compared_by_a_migration(opened: Sessions) -> None:
    ids = [5, "5", "Ada", (1, "a")]
    for place, item in enumerate(ids):
        opened.observe(item, 1, 45.0 + 5 * place, static=X)
    moved = opened.migrate(streams.plain(seed=5), h=2)
    assert moved is not None
    assert moved.height == len(ids)
    assert not moved["y-before"].has_nulls()
    assert moved["y-before"].n_unique() == len(ids)


def test_columns_of_the_model_do_not_hide_those_of_the_journal(tmp_path: Path) -> None:
    series, static = streams.curve_tables(72)
    static = static.rename({"level": "time", "group": "kind"})
    with Sessions(streams.fit_curves(series, static), tmp_path / "items.db") as sessions:
        sessions.observe("a", 1, 50.0, static={"time": 0.5, "kind": "a"})
        found = sessions.history("a")
        assert found["kind"].to_list() == ["static features", "observation"]
        assert found["kind_"].to_list() == ["a", None]
        assert found["time_"].to_list() == [0.5, None]
        assert sessions.as_of("a", found["time"][-1], h=1).height == 1


def test_dates_without_a_time_of_day_stay_so(models: dict[str, Forecaster], tmp_path: Path) -> None:
    with Sessions(models["dated"], tmp_path / "items.db") as sessions:
        for wrong in (dt.datetime(2024, 1, 1, 12), "2024-01-01T12:00", "0001-01-01", "9999-12-31"):
            with pytest.raises(errors.DataError, match=r"without a time of day|0001-01-02 to 9999"):
                sessions.observe("a", wrong, 50.0)
        sessions.observe("a", "2024-01-01", 50.0)
        sessions.observe("a", dt.datetime(2024, 1, 2), 51.0)
        assert sessions.history("a")["ds"].dtype == pl.Date
        assert sessions.tables("a")[0]["ds"].to_list() == [dt.date(2024, 1, 1), dt.date(2024, 1, 2)]


def test_a_text_that_is_a_url_is_no_file(model: Forecaster, tmp_path: Path) -> None:
    for url in ("valkey://localhost/0", "http://localhost", "rediss:/x://"):
        with pytest.raises(errors.ArgumentError, match="begins with 'redis://'"):
            Sessions(model, url)
    for url in ("redis://localhost/production", "redis://localhost/0/1"):
        with pytest.raises(errors.ArgumentError, match="the number of a database"):
            Sessions(model, url)
