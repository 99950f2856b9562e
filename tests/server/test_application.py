"""The server: what it answers is what ``Sessions`` gives, and an error changes nothing."""

from __future__ import annotations

import datetime as dt
import json
import logging
import math
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from socket import create_connection
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import streams
from curves import T
from effort import examples
from served import NDJSON, Client, Reply, held, served
from statecast import errors
from statecast.forecast.forecaster import Forecaster
from statecast.server import Limits, application, description, guard, wire
from statecast.sessions import Sessions
from streams import KINDS, Stream

pytestmark = pytest.mark.filterwarnings("ignore:(Static|Future) columns|Values far outside")

X = {"level": 0.5, "group": "a"}
TOKEN = "a-token-of-this-test"
SMALL = Limits(body=3_000, id=20, steps=12, quantiles=4, rows=5, seconds=0.3)
shared = settings(
    max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def client(sessions: Sessions) -> Iterator[Client]:
    with served(sessions, limits=SMALL) as found:
        yield found


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


def begun(client: Client, *items: str, steps: int = 2) -> None:
    for item in items:
        assert client.item("PUT", item, "", X).status == 201
        for step in range(1, steps + 1):
            client.observe(item, step, 50.0 + step)


def refused(found: Reply, status: int, *words: str) -> None:
    """An answer is a problem with this status and these words."""
    assert found.status == status, found.data
    assert found.headers["content-type"] == wire.PROBLEM
    body = found.json
    assert body["status"] == status
    assert body["title"]
    for word in words:
        assert word in body["detail"]


def logged(
    caplog: pytest.LogCaptureFixture, number: int, level: int = logging.INFO
) -> list[dict[str, Any]]:
    """The lines of a log, once there are so many: a line is written after the answer."""
    found: list[logging.LogRecord] = []
    for _ in range(500):
        found = [
            each
            for each in caplog.records
            if each.name == "statecast.server" and each.levelno >= level
        ]
        if len(found) >= number:
            break
        time.sleep(0.01)
    return [json.loads(guard.JsonLines().format(each)) for each in found]


def journals(sessions: Sessions) -> dict[str, pl.DataFrame]:
    return {item: sessions.history(item) for item in sessions.items()}


# -- what is answered -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=examples(12))
@given(seed=st.integers(0, 2**32 - 1))
def test_forecasts_are_those_of_sessions_and_predict_to_the_bit(
    kind: str, seed: int, models: dict[str, Forecaster], tmp_path_factory: Any
) -> None:
    f, rng = models[kind], np.random.default_rng(seed)
    stream, folder = Stream(f, seed), tmp_path_factory.mktemp("served")
    with Sessions(f, folder / "items.db") as opened, served(opened) as client:
        over: Any = client
        for _ in range(12):
            stream.observe(over, f"item {rng.integers(2)}", int(rng.integers(1, T)))
        stream.check(opened)
        if f.schema.future.kinds:
            for item, known in stream.items.items():
                for step in range(1, T + 1):
                    plan = known.future.setdefault(step, {"promo": 0.25 * step, "season": "a"})
                    client.observe(item, step, future=plan)
        series, more = stream.tables()
        query = "until=8&level=80,95&quantiles=0.3&mean=true"
        options = {"until": 8, "level": [80, 95], "quantiles": [0.3], "mean": True}
        whole = f.predict(series, **more, **options)
        for item in stream.items:
            found = client.item("GET", item, f"/forecast?{query}")
            assert found.status == 200
            rows = found.json["forecast"]
            for table in (opened.forecast(item, **options), whole.filter(unique_id=item)):
                expected = table.drop("unique_id").with_columns(pl.col("ds").cast(pl.String))
                assert [{**row, "ds": str(row["ds"])} for row in rows] == expected.to_dicts()


@settings(max_examples=examples(12))
@given(seed=st.integers(0, 2**32 - 1))
def test_a_batch_is_its_lines_one_by_one(
    seed: int, models: dict[str, Forecaster], tmp_path_factory: Any
) -> None:
    rng, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("batch")
    f = models["plain"]
    rows = [
        {"item": f"i{item}", "step": int(step), "values": 50 + rng.normal(), "static": X}
        for item, step in rng.integers(1, 5, (int(rng.integers(1, 12)), 2))
    ]
    with Sessions(f, folder / "one.db") as one, Sessions(f, folder / "all.db") as whole:
        with served(one) as client:
            each = [client.observe(**row) for row in rows]
        with served(whole) as client:
            found = client.ask("POST", "/v1/batch", lines(rows), Content_Type=NDJSON)
        assert found.status == 200
        assert found.json["status"] == [observed.status[0] for observed in each]
        items = sorted(one.items())
        assert sorted(whole.items()) == items
        assert one.state(items) == whole.state(items)


@pytest.mark.parametrize("library", ["pandas", "pyarrow"])
def test_a_model_of_tables_of_another_library(library: str, tmp_path: Path) -> None:
    series, static = (
        table.to_pandas() if library == "pandas" else table.to_arrow()
        for table in streams.curve_tables(72)
    )
    f = streams.fit_curves(series, static)
    with Sessions(f, tmp_path / "items.db") as opened, served(opened) as client:
        begun(client, "a")
        found = client.item("GET", "a", "/forecast?h=2&mean=true").json["forecast"]
        expected = pl.DataFrame(opened.forecast("a", h=2, mean=True))
        assert found == expected.drop("unique_id").to_dicts()


def test_an_observation_is_answered_with_the_forecast(client: Client, sessions: Sessions) -> None:
    begun(client, "a")
    found = client.item("POST", "a", "/observations", {"step": 3, "values": 55, "h": 2})
    assert found.json["status"] == "new"
    expected = sessions.forecast("a", h=2).drop("unique_id").to_dicts()
    assert found.json["forecast"] == expected
    again = client.item("POST", "a", "/observations", {"step": 3, "values": 55})
    assert (again.json["status"], again.headers["etag"]) == ("duplicate", found.headers["etag"])
    old = sessions.forecast("a", h=2).drop("unique_id").to_dicts()
    late = client.item("POST", "a", "/observations", {"step": 1, "values": 54, "h": 2})
    assert (late.json["status"], late.json["revised"]) == ("corrected", True)
    assert late.json["before"] == old != late.json["forecast"]
    far = client.item("POST", "a", "/observations", {"step": 3, "values": 55, "until": 12})
    assert far.json["forecast"][-1]["ds"] == 12
    assert any("until" in each for each in far.json["warnings"])


def test_a_forecast_that_fails_lets_nothing_be_accepted(
    models: dict[str, Forecaster], tmp_path: Path
) -> None:
    """The model needs future covariates of the steps to forecast, which are not given."""
    row = {"step": 1, "values": 50, "static": X, "past": {"visits": 1}}
    row["future"] = {"promo": 0.1, "season": "a"}
    with Sessions(models["covariates"], tmp_path / "items.db") as opened, served(opened) as client:
        refused(client.item("POST", "a", "/observations", {**row, "h": 2}), 422, "future")
        assert "a" not in opened
        assert client.item("POST", "a", "/observations", row).json["status"] == "new"


def test_a_warning_is_in_the_answer(client: Client) -> None:
    found = client.item("PUT", "a", "", {"level": 0.5, "group": "never seen"})
    assert found.status == 201
    assert any("group" in each for each in found.json["warnings"])


def test_history_as_of_fork_and_delete(client: Client, sessions: Sessions) -> None:
    begun(client, "a")
    events = client.item("GET", "a", "/history").json["events"]
    assert [event["kind"] for event in events] == ["static features"] + 2 * ["observation"]
    then = events[1]["time"].replace("+", "%2B")
    found = client.item("GET", "a", f"/forecast?until=4&as_of={then}")
    moment = dt.datetime.fromisoformat(events[1]["time"])
    expected = sessions.as_of("a", moment, until=4).drop("unique_id").to_dicts()
    assert found.json["forecast"] == expected
    assert len(expected) == 3
    copied = client.item("POST", "a", "/fork", {"as": "a/b c"})
    assert (copied.status, copied.headers["location"]) == (201, "/v1/items/a%2Fb%20c")
    assert client.ask("GET", f"{copied.headers['location']}/forecast?h=1").status == 200
    refused(client.item("POST", "a", "/fork", {"as": "a/b c"}), 409, "not an item yet")
    assert client.item("DELETE", "a").status == 204
    refused(client.item("DELETE", "a"), 404, "'a'")
    assert list(sessions.items()) == ["a/b c"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_goes_out_and_in_to_the_bit(
    kind: str, models: dict[str, Forecaster], tmp_path: Path
) -> None:
    f = models[kind]
    stream = Stream(f, 3)
    with Sessions(f, tmp_path / "items.db") as opened, served(opened) as client:
        for step in (1, 2, 4):
            stream.observe(opened, "a", step)
        stream.observe(opened, "b", 1)
        body = client.item("GET", "a", "/state").json
        assert client.item("PUT", "b", "/state", body, If_Match="*").status == 204
        left, right = opened.state("a"), opened.state("b")
        for name in left.names:
            assert left[name].tobytes() == right[name].tobytes()
        assert client.item("DELETE", "b", "/state", If_Match="*").status == 204
        assert opened.state("b")["step"].max() == 0


@settings(shared)
@given(
    items=st.lists(
        st.text(min_size=1, max_size=6) | st.sampled_from(["..", "a/b", "%2F", "a%", "?", "a b"]),
        min_size=1,
        max_size=4,
        unique=True,
    )
)
def test_any_text_is_an_id(items: list[str], client: Client, sessions: Sessions) -> None:
    """Each is another item, also if it has a slash, a percent sign or a line break."""
    sessions.delete(list(sessions.items()))
    for place, item in enumerate(items):
        found = client.item("PUT", item, "", {**X, "level": float(place)})
        assert (found.status, found.json["item"]) == (201, item)
    assert sorted(sessions.items()) == sorted(items)
    for place, item in enumerate(items):
        events = client.item("GET", item, "/history").json["events"]
        assert [event["level"] for event in events] == [place]


# -- versions -------------------------------------------------------------------------------------


def test_a_change_of_another_version_is_refused(client: Client, sessions: Sessions) -> None:
    begun(client, "a")
    tag = client.item("GET", "a", "/forecast?h=1").headers["etag"]
    for path in ("/forecast?h=1", "/state", "/history"):
        same = client.item("GET", "a", path, If_None_Match=tag)
        assert (same.status, same.data, same.headers["etag"]) == (304, b"", tag)
    row = {"step": 3, "values": 51}
    done = client.item("POST", "a", "/observations", row, If_Match=tag)
    assert done.status == 200
    assert client.item("GET", "a", "/forecast?h=1", If_None_Match=tag).status == 200
    before = journals(sessions)
    state = client.item("GET", "a", "/state").json
    for method, path, body in [
        ("POST", "/observations", {"step": 3, "values": 99}),
        ("PUT", "", X),
        ("DELETE", "", None),
        ("PUT", "/state", state),
        ("DELETE", "/state", None),
    ]:
        refused(client.item(method, "a", path, body, If_Match=tag), 412, "version")
        absent = 404 if path == "/state" else 412
        refused(client.item(method, "b", path, body, If_Match=tag), absent)
    for method, body in (("PUT", state), ("DELETE", None)):  # a retry would take more out of effect
        refused(client.item(method, "a", "/state", body), 428, "If-Match")
    refused(client.item("PUT", "b", "", X, If_Match="*"), 412)
    assert journals(sessions).keys() == before.keys()
    assert journals(sessions)["a"].equals(before["a"])
    tag = done.headers["etag"]
    assert client.item("DELETE", "a", "/state", If_Match=tag).status == 204
    refused(client.item("DELETE", "a", "/state", If_Match=tag), 412)  # the retry


def test_an_item_made_again_has_another_version(client: Client) -> None:
    begun(client, "a", steps=0)
    tag = client.item("GET", "a", "/state").headers["etag"]
    assert client.item("DELETE", "a").status == 204
    begun(client, "a", steps=0)
    refused(client.item("DELETE", "a", If_Match=tag), 412)
    assert client.item("GET", "a", "/state", If_None_Match=tag).status == 200


def test_another_model_has_other_tags(models: dict[str, Forecaster], tmp_path: Path) -> None:
    """Forecasts depend on the model, so what a client has kept is not valid after a migration."""
    f, other = models["plain"], streams.fit_curves(epochs=2)
    with Sessions(f, tmp_path / "items.db") as opened, served(opened) as client:
        begun(client, "a")
        tag = client.item("GET", "a", "/forecast?h=1").headers["etag"]
        opened.migrate(other)
        found = client.item("GET", "a", "/forecast?h=1", If_None_Match=tag)
        assert (found.status, found.headers["etag"] != tag) == (200, True)
        assert found.json["forecast"] == opened.forecast("a", h=1).drop("unique_id").to_dicts()
        refused(client.item("DELETE", "a", If_Match=tag), 412)


def test_no_change_is_lost_between_callers_that_name_the_version(client: Client) -> None:
    """Each adds 1 to the value that it read. The value counts the changes."""
    begun(client, "a", steps=0)
    client.observe("a", 1, 40.0)

    def add(_: int) -> int:
        tries = 0
        while True:
            tries += 1
            found = client.item("GET", "a", "/history")
            value = found.json["events"][-1]["y"]
            row = {"step": 1, "values": value + 1}
            done = client.item("POST", "a", "/observations", row, If_Match=found.headers["etag"])
            if done.status == 200:
                return tries
            refused(done, 412)

    with ThreadPoolExecutor(4) as pool:
        tries = list(pool.map(add, range(12)))
    assert client.item("GET", "a", "/history").json["events"][-1]["y"] == 52
    assert sum(tries) > 12, "no two callers met"


# -- what is refused ------------------------------------------------------------------------------

DEEP = b"[" * 2_900  # deeper than the parser goes
OBSERVATION = "/v1/items/a/observations"
WRONG: list[tuple[str, str, Any, int, str]] = [
    # bodies
    ("POST", OBSERVATION, b"{", 400, "expected JSON"),
    ("POST", OBSERVATION, b"\xff", 400, "UTF-8"),
    ("POST", OBSERVATION, b'{"step": 1, "values": NaN}', 400, "NaN"),
    ("POST", OBSERVATION, b'{"step": 1, "values": -Infinity}', 400, "Infinity"),
    ("POST", OBSERVATION, b'{"step": 1, "values": 1e999}', 400, "1e999"),
    ("POST", OBSERVATION, b'{"step": 1, "step": 1, "values": 1}', 400, "repeated"),
    ("POST", OBSERVATION, b'{"step": 1, "values": "\\ud800"}', 400, "surrogate"),
    ("POST", OBSERVATION, b'{"step": 1, "values": "\\udc00\\ud800"}', 400, "surrogate"),
    ("POST", OBSERVATION, b'{"step": 1, "values": "\\ud83d\\ude00"}', 422, "a number or null"),
    ("POST", OBSERVATION, DEEP, 400, "nested"),
    ("POST", OBSERVATION, b"", 400, "expected JSON"),
    ("POST", OBSERVATION, [1], 422, "an object"),
    ("POST", OBSERVATION, {"step": 3, "value": 1}, 422, "'value'"),
    ("POST", OBSERVATION, {"step": 3}, 422, "values"),
    ("POST", OBSERVATION, {"values": 3}, 422, "step"),
    ("POST", OBSERVATION, {}, 422, "received neither"),
    ("POST", OBSERVATION, {"values": 3, "static": X}, 422, "step"),
    ("POST", OBSERVATION, {"step": 3, "values": "50"}, 422, "a number or null"),
    ("POST", OBSERVATION, {"step": 3, "values": True}, 422, "a number or null"),
    ("POST", OBSERVATION, {"step": 3, "values": [50]}, 422, "a number or null"),
    ("POST", OBSERVATION, {"step": 3, "values": 10**400}, 422, "a number or null"),
    ("POST", OBSERVATION, {"step": 3.5, "values": 50}, 422, "a whole number"),
    ("POST", OBSERVATION, {"step": True, "values": 50}, 422, "a whole number"),
    ("POST", OBSERVATION, {"step": 10**30, "values": 50}, 422, "a whole number"),
    ("POST", OBSERVATION, {"step": 0, "values": 50}, 422, "ds"),
    ("POST", OBSERVATION, {"step": 2**62, "values": 50}, 422, "ds"),
    ("POST", OBSERVATION, {"step": "soon", "values": 50}, 422, "ds"),
    ("POST", OBSERVATION, {"step": 3, "values": 50, "h": 13}, 422, "from 1 to 12"),
    ("POST", OBSERVATION, {"step": 3, "values": 50, "h": 2, "until": 5}, 422, "one of them"),
    ("POST", OBSERVATION, {"step": 3, "values": 50, "h": True}, 422, "from 1 to 12"),
    # A list is how the values of a query are held, and is none of a body.
    *(
        ("POST", OBSERVATION, {"step": 3, "values": 50, name: value}, 422, "from 1 to 12")
        for name in ("h", "until")
        for value in ([], ["2"], [2], [[]], [None], {"h": 2}, "2")
    ),
    ("POST", OBSERVATION, {"step": 3, "values": 50, "past": {"x": 1}}, 422, "x"),
    ("POST", OBSERVATION, {"step": 3, "values": 50, "static": []}, 422, "static"),
    ("POST", OBSERVATION, {"static": {"level": [1], "group": "a"}}, 422, "'level'"),
    ("POST", OBSERVATION, {"static": {"level": 1, "group": 10**400}}, 422, "'group'"),
    ("POST", OBSERVATION, {"static": {"level": 1}}, 422, "group"),
    ("POST", OBSERVATION, {"static": {"level": "x", "group": "a"}}, 422, "level"),
    ("POST", "/v1/items/new/observations", {"step": 1, "values": 50}, 422, "static"),
    ("PUT", "/v1/items/a", {"level": 1}, 422, "group"),
    ("PUT", "/v1/items/a", {**X, "other": 1}, 422, "other"),
    # ids and paths
    ("PUT", "/v1/items/%ff", X, 400, "UTF-8"),
    ("PUT", "/v1/items/%zz", X, 400, "percent-encoded"),
    ("PUT", f"/v1/items/{'i' * 21}", X, 422, "20 bytes"),
    ("PUT", f"/v1/items/{'%C3%A4' * 11}", X, 422, "20 bytes"),
    ("PUT", "/v1/items/", X, 404, "path"),
    ("PUT", "/v1/items/a/", X, 404, "path"),
    ("PUT", "/v1/items/a/b", X, 404, "%2F"),
    ("PATCH", "/v1/items/a", X, 405, "DELETE, GET, PUT"),
    ("GET", "/v1/batch", None, 405, "POST"),
    ("POST", "/v1/items/a/fork", {"as": "a"}, 409, "not an item yet"),
    ("POST", "/v1/items/a/fork", {"as": ""}, 422, "an id"),
    ("POST", "/v1/items/a/fork", {"as": 7}, 422, "an id"),
    ("POST", "/v1/items/a/fork", {"as": "i" * 21}, 422, "20 bytes"),
    ("POST", "/v1/items/none/fork", {"as": "b"}, 404, "'none'"),
    # queries
    ("GET", "/v1/items/a/forecast", None, 422, "until"),
    ("GET", "/v1/items/none/forecast?h=1", None, 404, "'none'"),
    ("GET", "/v1/items/none/history", None, 404, "'none'"),
    ("GET", "/v1/items/none/state", None, 404, "'none'"),
    ("GET", "/v1/items/a/forecast?h=0", None, 422, "from 1 to 12"),
    ("GET", "/v1/items/a/forecast?h=13", None, 422, "from 1 to 12"),
    ("GET", "/v1/items/a/forecast?h=1&h=2", None, 422, "once"),
    ("GET", "/v1/items/a/forecast?h=two", None, 422, "from 1 to 12"),
    ("GET", "/v1/items/a/forecast?h=99999999999999999999999", None, 422, "from 1 to 12"),
    ("GET", "/v1/items/a/forecast?h=1&until=3", None, 422, "one of them"),
    ("GET", "/v1/items/a/forecast?h=1&steps=3", None, 422, "'steps'"),
    ("GET", "/v1/items/a/forecast?h=1&level=high", None, 422, "level"),
    ("GET", "/v1/items/a/forecast?h=1&level=nan", None, 422, "level"),
    ("GET", "/v1/items/a/forecast?h=1&level=100", None, 422, "level"),
    ("GET", "/v1/items/a/forecast?h=1&quantiles=2", None, 422, "quantiles"),
    ("GET", "/v1/items/a/forecast?h=1&level=1,2,3&quantiles=0.1,0.2", None, 422, "at most 4"),
    ("GET", "/v1/items/a/forecast?h=1&mean=1", None, 422, "true or false"),
    ("GET", "/v1/items/a/forecast?h=1&as_of=2026-01-01", None, 422, "as_of"),
    ("GET", "/v1/items/a/forecast?h=1&as_of=2001-01-01T00:00:00Z", None, 404, "by then"),
    ("GET", "/v1/items/a/history?all=1", None, 422, "no parameters"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "word"), WRONG)
def test_a_wrong_request_is_a_problem_and_changes_nothing(
    method: str, path: str, body: Any, status: int, word: str, client: Client, sessions: Sessions
) -> None:
    begun(client, "a")
    before = journals(sessions)
    sent = {"Content_Type": "application/json"} if body is not None else {}
    refused(client.ask(method, path, body, **sent), status, word)
    after = journals(sessions)
    assert after.keys() == before.keys()
    assert after["a"].equals(before["a"])
    assert client.observe("a", 3, 53.0).status == ["new"]  # the next good call works


ROW = {"item": "a", "step": 3, "values": 53.0}


@pytest.mark.parametrize(
    ("rows", "status", "word"),
    [
        ([], 422, "1 to 5 lines"),
        ([ROW] * 6, 413, "1 to 5 lines"),
        ([ROW, {**ROW, "values": "x"}], 422, "Line 2"),
        ([ROW, {**ROW, "item": 7}], 422, "Line 2, item"),
        ([ROW, {**ROW, "item": "i" * 21}], 422, "Line 2, item"),
        ([ROW, {"item": "a", "step": 4}], 422, "Line 2"),
        ([ROW, {**ROW, "more": 4}], 422, "Line 2"),
        ([ROW, [1]], 422, "Line 2"),
        ([ROW, {**ROW, "item": "new"}], 422, "'new'"),
        ([ROW, {**ROW, "step": -1}], 422, "ds"),
        ([{**ROW, "static": X}, {**ROW, "static": {"level": 1}}], 422, "Line 2, static"),
        ([{"step": 3, "values": 53.0}], 422, "Line 1, item"),
    ],
)
def test_a_batch_with_a_wrong_line_changes_nothing(
    rows: list[Any], status: int, word: str, client: Client, sessions: Sessions
) -> None:
    begun(client, "a")
    before = journals(sessions)
    refused(client.ask("POST", "/v1/batch", lines(rows), Content_Type=NDJSON), status, word)
    assert journals(sessions)["a"].equals(before["a"])
    found = client.ask("POST", "/v1/batch", lines([ROW]) + b"\n", Content_Type=NDJSON)
    assert found.json["status"] == ["new"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda body: body.pop("leaves"), "leaves"),
        (lambda body: body.update(fingerprint="other"), "another fit"),
        (lambda body: body["leaves"].popitem(), "leaves"),
        (lambda body: body["leaves"]["step"].update(dtype="int64", values=[2.5, 2, 2]), "int64"),
        (lambda body: body["leaves"]["step"].update(dtype="int64", values=[True, 2, 2]), "int64"),
        (lambda body: body["leaves"]["step"].update(dtype="int64", values=[2**70, 2, 2]), "int64"),
        (lambda body: body["leaves"]["cell/0/h"].update(values=[[1e39] * 6] * 3), "cell/0/h"),
        (lambda body: body["leaves"]["cell/0/h"].update(values=[[1, 2], [3]]), "one shape"),
        (lambda body: body["leaves"]["cell/0/h"].update(values=["1"]), "numbers"),
        (lambda body: body["leaves"]["cell/0/h"].update(dtype="object"), "dtype"),
    ],
)
def test_a_wrong_state_is_refused(
    change: Any, word: str, client: Client, sessions: Sessions
) -> None:
    begun(client, "a")
    body = client.item("GET", "a", "/state").json
    change(body)
    refused(client.item("PUT", "a", "/state", body, If_Match="*"), 422, word)
    assert sessions.history("a").height == 3


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from([0, 1, 3, 5, 50.0, "2024-01-03", "0001-01-01", "9999-12-31T23:59:59+14:00"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)


@pytest.mark.parametrize("kind", KINDS)
@shared
@given(data=st.data())
def test_no_body_is_a_fault_of_the_server(
    kind: str, data: Any, models: dict[str, Forecaster], tmp_path_factory: Any
) -> None:
    """Whatever the values, the answer is an acknowledgement or names what is wrong."""
    f = models[kind]
    features = st.dictionaries(
        st.sampled_from(["level", "group", "promo", "season", "visits"]), JSON_VALUES, max_size=3
    )
    body = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "step": JSON_VALUES | st.integers(1, 9),
                "values": JSON_VALUES | st.floats(40, 60),
                "static": features | st.just(X),
                "future": features | st.just({"promo": 1.0, "season": "a"}),
                "past": features | st.just({"visits": 1.0}),
                "h": st.integers(1, 3) | JSON_VALUES,
            },
        )
    )
    with Sessions(f, tmp_path_factory.mktemp("any") / "items.db") as opened:
        with served(opened) as client:
            found = client.item("POST", "a", "/observations", body)
        assert found.status in (200, 422), found.data
        assert ("a" in opened) == (found.status == 200)


def test_headers_of_a_body(client: Client) -> None:
    begun(client, "a")
    row = {"step": 3, "values": 53.0}
    for kind in ("text/plain", "application/x-www-form-urlencoded", NDJSON, ""):
        refused(client.item("POST", "a", "/observations", row, Content_Type=kind), 415, "json")
    zipped = client.item("POST", "a", "/observations", row, Content_Encoding="gzip")
    refused(zipped, 415, "Content-Encoding")
    for tag in ("1", 'W/"1"', '"1", "2"'):
        refused(client.item("POST", "a", "/observations", row, If_Match=tag), 422, "If-Match")
    refused(client.item("PUT", "a", "", X, If_None_Match="*"), 422, "If-None-Match")
    good = "application/json; charset=utf-8"
    assert client.item("POST", "a", "/observations", row, Content_Type=good).status == 200


def test_a_body_beyond_the_limit_is_refused(client: Client, sessions: Sessions) -> None:
    begun(client, "a")
    refused(client.item("POST", "a", "/observations", b" " * 3_001), 413, "3,000 bytes")
    with create_connection(("127.0.0.1", client.port), timeout=20) as raw:  # of an unknown length
        raw.sendall(b"POST /v1/items/a/observations HTTP/1.1\r\nHost: localhost\r\n")
        raw.sendall(b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        raw.sendall(b"fa0\r\n" + b" " * 0xFA0 + b"\r\n")
        assert b" 413 " in raw.recv(1_000).split(b"\r\n")[0]
    assert sessions.history("a").height == 3


def test_the_answer_to_a_body_beyond_the_limit_arrives(client: Client) -> None:
    begun(client, "a")
    for size in (3_001, 20_000, 24_000):  # of one that sends all before it reads
        with create_connection(("127.0.0.1", client.port), timeout=20) as raw:
            raw.sendall(b"POST /v1/items/a/observations HTTP/1.1\r\nHost: localhost\r\n")
            raw.sendall(b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % size)
            time.sleep(0.1)
            raw.sendall(b" " * (size // 2))
            time.sleep(0.1)
            raw.sendall(b" " * (size - size // 2))
            assert b" 413 " in raw.recv(1_000).split(b"\r\n")[0]


def test_dates_beyond_the_calendar_are_no_fault_of_the_server(
    models: dict[str, Forecaster], tmp_path: Path
) -> None:
    with Sessions(models["dated"], tmp_path / "items.db") as opened, served(opened) as client:
        last = {"step": "9999-12-30", "values": 50.0}
        refused(client.item("POST", "a", "/observations", {**last, "h": 3}), 422, "year 9999")
        assert len(opened) == 0
        assert client.item("POST", "a", "/observations", last).status == 200
        refused(client.item("GET", "a", "/forecast?h=3"), 422, "year 9999")
        for step in ("9999-12-31", "0001-01-01"):
            row = {"step": step, "values": 50.0}
            refused(client.item("POST", "b", "/observations", row), 422, "0001-01-02")


def test_a_body_that_does_not_arrive_is_refused(client: Client) -> None:
    begun(client, "a")
    with create_connection(("127.0.0.1", client.port), timeout=20) as raw:
        raw.sendall(b"POST /v1/items/a/observations HTTP/1.1\r\nHost: localhost\r\n")
        raw.sendall(b"Content-Type: application/json\r\nContent-Length: 30\r\n\r\n{")
        assert b" 408 " in raw.recv(1_000).split(b"\r\n")[0]
    with create_connection(("127.0.0.1", client.port), timeout=20) as raw:  # and one that breaks
        raw.sendall(b"POST /v1/items/a/observations HTTP/1.1\r\nHost: localhost\r\n")
        raw.sendall(b"Content-Type: application/json\r\nContent-Length: 30\r\n\r\n{")
    assert client.observe("a", 3, 53.0).status == ["new"]


@shared
@given(data=st.binary(max_size=60), line=st.booleans())
def test_any_bytes_on_the_socket(data: bytes, line: bool, client: Client) -> None:
    with create_connection(("127.0.0.1", client.port), timeout=20) as raw:
        raw.sendall(b"GET /v1/items/a/state HTTP/1.1\r\n" * line + data + b"\r\n\r\n")
        raw.shutdown(socket.SHUT_WR)
        status = raw.recv(1_000)[:12]
    assert status == b"" or status[9:10] == b"4", status
    assert client.ask("GET", "/livez").status == 200


def test_a_late_observation_is_a_conflict_if_the_policy_rejects_it(
    models: dict[str, Forecaster], tmp_path: Path
) -> None:
    path = tmp_path / "items.db"
    with Sessions(models["plain"], path, policy="reject") as opened, served(opened) as client:
        begun(client, "a")
        found = client.item("POST", "a", "/observations", {"step": 1, "values": 1})
        refused(found, 409, "other values of step 1")
        assert client.observe("a", 1, 51.0).status == ["duplicate"]


# -- load and faults ------------------------------------------------------------------------------


def test_more_than_the_queue_holds_is_refused(
    models: dict[str, Forecaster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        Sessions(models["plain"], tmp_path / "items.db", waiting=1) as opened,
        served(opened) as client,
        ThreadPoolExecutor(8) as pool,
        held(opened, monkeypatch) as go,
    ):
        sent = [pool.submit(client.item, "PUT", f"i{i}", "", X) for i in range(8)]
        while sum(each.done() for each in sent) < 6:  # one is in work, and one waits
            time.sleep(0.01)
        assert b"statecast_waiting_rows 1.0" in client.ask("GET", "/metrics").data
        go.set()
        found = [each.result() for each in sent]
        full = [each for each in found if each.status != 201]
        for each in full:
            refused(each, 503, "waiting rows")
            assert each.headers["retry-after"] == "1"
        assert len(full) == 6
        assert len(opened) == 2
        assert client.item("PUT", "later", "", X).status == 201


def test_more_requests_than_the_limit_are_refused(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        served(sessions, limits=Limits(requests=2, threads=1)) as client,
        ThreadPoolExecutor(6) as pool,
        held(sessions, monkeypatch) as go,
    ):
        sent = [pool.submit(client.item, "PUT", f"i{i}", "", X) for i in range(6)]
        while sum(each.done() for each in sent) < 4:
            time.sleep(0.01)
        assert client.ask("GET", "/livez").status == 200
        go.set()
        found = [each.result() for each in sent]
        full = [each for each in found if each.status != 201]
        assert len(full) == 4
        for each in full:
            refused(each, 503, "at most 2 requests")
            assert each.headers["retry-after"] == "1"
        assert len(sessions) == 2


def test_requests_that_need_more_memory_than_the_limit_are_refused(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a request takes is given back: of a good one, and of a refused one."""
    row, most = {"step": 1, "values": 51.0, "static": X, "h": 3}, 20_000
    with served(sessions, limits=Limits(memory=most)) as client, ThreadPoolExecutor(2) as pool:
        for _ in range(50):  # 2,500 bytes each
            assert client.item("POST", "a", "/observations", row).status == 200
            refused(client.item("POST", "a", "/observations", {"step": "x" * 800}), 422)
            long = client.item("POST", "a", "/observations", {**row, "step": " " * 3_000})
            refused(long, 503, "memory")
            assert long.headers["retry-after"] == "1"
            refused(client.item("GET", "a", "/forecast?h=100"), 503, "memory")
            assert client.item("GET", "a", "/forecast?h=30").status == 200
        assert sessions.history("a").height == 2
        with held(sessions, monkeypatch) as go:
            begin = {"step": 2, "values": 51.0, "static": {**X, "group": "x" * 1_700}}
            first = pool.submit(client.item, "POST", "a", "/observations", begin)
            while client.ask("GET", "/metrics").data.find(b"_waiting_rows 0.0") > 0:
                if b"statecast_current_requests 2.0" in client.ask("GET", "/metrics").data:
                    break
                time.sleep(0.01)
            second = client.item("POST", "b", "/observations", {**begin, "step": 1})
            refused(second, 503, "memory")
            go.set()
            assert first.result().status == 200
        assert client.item("POST", "b", "/observations", {**begin, "step": 1}).status == 200


def test_a_fault_is_in_the_log_and_not_in_the_answer(
    client: Client,
    sessions: Sessions,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    begun(client, "a")
    for error, status in (
        (errors.StoreError("/secret/items.db: the disk is full."), 503),
        (errors.KernelError("secret"), 500),
        (ZeroDivisionError("secret"), 500),
    ):

        def fail(*_: Any, error: Exception = error, **__: Any) -> Any:
            raise error

        caplog.clear()
        with monkeypatch.context() as broken, caplog.at_level(logging.INFO, "statecast.server"):
            broken.setattr(sessions, "version", fail)
            found = client.item("GET", "a", "/forecast?h=1")
            refused(found, status, "log")
            assert b"secret" not in found.data
            assert b"Traceback" not in found.data
            assert ("retry-after" in found.headers) == (status == 503)
        (line,) = logged(caplog, 1, logging.ERROR)
        assert "secret" in json.dumps(line)
    assert client.item("GET", "a", "/forecast?h=1").status == 200


def test_a_log_has_no_ids(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "statecast.server"):
        begun(client, "Ada Lovelace")
        client.item("GET", "Ada Lovelace", "/forecast?h=99")
        own = logged(caplog, 4)
    assert [line["status"] for line in own] == [201, 200, 200, 422]
    assert {line["route"] for line in own} == {
        "/v1/items/{item}", "/v1/items/{item}/observations", "/v1/items/{item}/forecast",
    }  # fmt: skip
    assert "Ada" not in json.dumps(own)


def test_metrics_count_what_happened(client: Client, sessions: Sessions) -> None:
    begun(client, "a")
    client.observe("a", 2, 52.0)
    client.observe("a", 1, 40.0)
    client.ask("POST", "/v1/batch", lines([ROW, {**ROW, "step": 5}]), Content_Type=NDJSON)
    client.observe("a", 4, 40.0)
    client.item("GET", "b", "/state")
    found = client.ask("GET", "/metrics")
    assert found.headers["content-type"].startswith("text/plain")
    text = found.data.decode()
    for line in (
        'statecast_rows_total{status="new"} 5.0',
        'statecast_rows_total{status="duplicate"} 1.0',
        'statecast_rows_total{status="corrected"} 1.0',
        'statecast_rows_total{status="late"} 1.0',
        'statecast_call_rows_bucket{le="1.0"} 6.0',
        "statecast_call_rows_sum 8.0",
        'statecast_requests_total{method="GET",route="/v1/items/{item}/state",status="404"} 1.0',
        "statecast_waiting_rows 0.0",
        "statecast_current_requests 1.0",
        "statecast_commit_events_count 6.0",
        "statecast_commit_events_sum 7.0",
        "statecast_commit_seconds_count 6.0",
        f'statecast_items{{model="{sessions.model.fingerprint[:8]}"}} 1.0',
    ):
        assert line in text


# -- who may ask ----------------------------------------------------------------------------------


def test_every_request_needs_the_token(sessions: Sessions) -> None:
    with served(sessions, token=TOKEN) as client:
        begun(client, "a")
        for token in (None, "", TOKEN[:-1], TOKEN.upper(), f"{TOKEN}x", "ä"):
            other = Client(client.port)
            sent = {} if token is None else {"Authorization": f"Bearer {token}"}
            for path in ("/v1/items/a/state", "/metrics", "/openapi.json", "/none"):
                found = other.ask("GET", path, **sent)
                refused(found, 401, "Bearer")
                assert found.headers["www-authenticate"] == "Bearer"
            refused(other.item("DELETE", "a", **sent), 401)
            assert other.ask("GET", "/livez").status == other.ask("GET", "/readyz").status == 200
        assert "a" in sessions


def test_without_a_token_only_names_of_this_machine_are_answered(sessions: Sessions) -> None:
    hosts = {"127.0.0.1:80": 200, "LOCALHOST": 200, "[::1]:80": 200, "evil.example": 421}
    hosts |= {"localhost.evil.example:80": 421, "": 421}
    with served(sessions) as client:
        for host, status in hosts.items():
            assert client.ask("GET", "/readyz", Host=host).status == status, host
    with served(sessions, without_token=True) as client:
        assert client.ask("GET", "/readyz", Host="evil.example").status == 200


def test_what_an_application_refuses(models: dict[str, Forecaster], tmp_path: Path) -> None:
    y = 50 + np.random.default_rng(0).normal(size=(40, 8)).cumsum(axis=1)
    arrays = Forecaster(units=4, ensemble=2, epochs=1).fit(y, verbose=0)
    with (
        Sessions(arrays, tmp_path / "arrays.db") as opened,
        pytest.raises(errors.ArgumentError, match="fitted on tables"),
    ):
        application(opened)
    with Sessions(models["plain"], tmp_path / "items.db") as opened:
        for token in ("", "short", "with a space in it", "ä" * 20):
            with pytest.raises(errors.ArgumentError, match="token"):
                application(opened, token=token)
    for name, value in {"body": 0, "rows": 2.5, "seconds": math.inf}.items():
        with pytest.raises(errors.ArgumentError, match=name):
            Limits(**{name: value})


# -- the description ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_description_has_every_route_and_the_columns_of_the_model(
    kind: str, models: dict[str, Forecaster], tmp_path: Path
) -> None:
    f = models[kind]
    with Sessions(f, tmp_path / "items.db") as opened, served(opened) as client:
        found = client.ask("GET", "/openapi.json").json
    assert {(path, method) for path, each in found["paths"].items() for method in each} == {
        (route.path, route.method.lower()) for route in description.ROUTES
    }
    schemas = found["components"]["schemas"]
    assert set(schemas["Static"]["properties"]) == set(f.schema.static.kinds)
    row = schemas["Line"]["properties"]
    assert set(row["future"]["properties"]) == set(f.schema.future.kinds)
    assert set(row["past"]["properties"]) == set(f.schema.past.kinds)
    assert (row["values"].get("type") == "array") == (len(f.schema.targets) > 1)
    names = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(found)))
    assert names | {"Line"} == set(schemas)
