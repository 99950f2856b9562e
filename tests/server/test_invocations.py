"""``/invocations``: it answers as MLflow's server of the exported model, and stores nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.pyfunc import scoring_server
from mlflow.pyfunc.scoring_server.client import ScoringServerClient

import streams
from curves import T
from effort import examples
from served import Client, Reply, served
from statecast.export.mlflow import Served, save_model
from statecast.forecast.forecaster import Forecaster
from statecast.server import Limits
from statecast.sessions import Sessions

pytestmark = pytest.mark.filterwarnings("ignore:(Static|Future) columns|Values far outside")

KINDS = (*streams.KINDS, "timed", "zoned")
SMALL = Limits(rows=20, steps=40, numbers=600, quantiles=4, body=20_000)
START = pl.datetime(2024, 3, 1, time_unit="us")


def timed(zone: str | None = None) -> Forecaster:
    """Steps and launch dates are datetimes, of a time zone if there is one."""
    series, static = streams.curve_tables(72)
    at = START.dt.replace_time_zone(zone).dt.offset_by(pl.col("ds").cast(pl.String) + "d")
    series = series.with_columns(ds=at)
    return streams.fit_curves(series, static)


@pytest.fixture(scope="module")
def models() -> dict[str, Forecaster]:
    own = {"timed": timed, "zoned": lambda: timed("America/New_York")}
    return {name: own[name]() if name in own else getattr(streams, name)() for name in KINDS}


class Oracle:
    """MLflow's server of an exported model, without a socket."""

    def __init__(self, model: Forecaster, folder: Path) -> None:
        save_model(model, folder)
        self.model = mlflow.pyfunc.load_model(str(folder))

    def ask(self, body: bytes, media: str = "application/json") -> Any:
        schema = self.model.metadata.get_input_schema()
        found = scoring_server.invocations(body, media, self.model, schema)
        assert found.status == 200, found.response
        return json.loads(found.response)["predictions"]


@pytest.fixture(scope="module")
def oracles(
    models: dict[str, Forecaster], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Oracle]:
    folder = tmp_path_factory.mktemp("exported")
    return {name: Oracle(model, folder / name) for name, model in models.items()}


@pytest.fixture(scope="module")
def clients(
    models: dict[str, Forecaster], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Client]]:
    with ExitStack() as stack:
        found, folder = {}, tmp_path_factory.mktemp("items")
        for name, model in models.items():
            opened = stack.enter_context(Sessions(model, folder / f"{name}.db"))
            found[name] = stack.enter_context(served(opened))
        yield found


@pytest.fixture
def client(sessions: Sessions) -> Iterator[Client]:
    with served(sessions, limits=SMALL) as found:
        yield found


def table_of(kind: str, f: Forecaster, seed: int) -> pd.DataFrame:
    """A table of several items: prefixes, static features, and all covariates up to step T."""
    rng = np.random.default_rng(seed)
    form = ["%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S.000"][seed % 3]
    rows = []
    for number in range(int(rng.integers(1, 4))):
        known = int(rng.integers(0, T))
        static = {"level": float(rng.normal()), "group": str(rng.choice(["a", "b"]))}
        if rng.random() < 0.3:
            static["level" if rng.random() < 0.5 else "group"] = None  # type: ignore[assignment]
        last = T if f.schema.future.kinds else max(known, 1)
        for step in range(1, last + 1):
            at: Any = step
            if kind in ("dated", "timed", "zoned"):
                moment = pd.Timestamp("2024-03-05") + pd.Timedelta(days=step + number)
                at = moment.strftime(form) if kind == "timed" else moment.isoformat()
                if kind == "zoned":
                    at = moment.tz_localize("America/New_York").isoformat()
            row: dict[str, Any] = {"unique_id": number + 1, "ds": at}
            for name in f.schema.target_cols:
                seen = step <= known and rng.random() < 0.9
                row[name] = 50 + float(rng.normal()) if seen else None
            row |= {name: static[name] for name in f.schema.static.kinds}
            if f.schema.past.kinds:
                row["visits"] = float(rng.normal()) if step <= known else None
            if f.schema.future.kinds:
                row |= {"promo": float(rng.normal()), "season": str(rng.choice(["a", "b"]))}
            rows.append(row)
    return pd.DataFrame(rows).astype(object).where(lambda table: table.notna(), None)


def split(table: pd.DataFrame) -> dict[str, Any]:
    return {"dataframe_split": table.to_dict(orient="split")}


def bodies(table: pd.DataFrame) -> dict[str, Any]:
    """A table in each of MLflow's formats."""
    records, columns = table.to_dict(orient="records"), table.to_dict(orient="list")
    return split(table) | {
        "dataframe_records": records,
        "inputs": records,
        "instances": columns,
    }


def ask(client: Client, body: Any, **headers: str) -> Reply:
    return client.ask("POST", "/invocations", body, **headers)


def refused(found: Reply, status: int, code: str, *words: str) -> None:
    """An answer is an error as MLflow's server writes it."""
    assert found.status == status, found.data
    assert found.headers["content-type"] == "application/json"
    assert set(found.json) == {"error_code", "message"}
    assert found.json["error_code"] == code
    for word in words:
        assert word in found.json["message"]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=examples(12), deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    params=st.sampled_from(
        [
            None,
            {"until": 6, "level": [50, 95.5], "mean": True},
            {"h": 2, "quantiles": [0.1], "level": []},
            {"h": 1, "calibrated": False, "strict": True},
        ]
    ),
    written=st.sampled_from(["dataframe_split", "dataframe_records"]),
)
def test_the_answer_is_that_of_the_exported_model(
    kind: str,
    seed: int,
    params: dict[str, Any] | None,
    written: str,
    models: dict[str, Forecaster],
    oracles: dict[str, Oracle],
    clients: dict[str, Client],
) -> None:
    """To the bit: of tables as users of MLflow send them."""
    table = table_of(kind, models[kind], seed)
    if kind == "covariates":
        params = {"until": T} if params is None else params | {"h": None, "until": T}
    body = {written: bodies(table)[written]} | ({} if params is None else {"params": params})
    found = ask(clients[kind], body)
    assert found.status == 200, found.data
    assert found.json["predictions"] == oracles[kind].ask(json.dumps(body).encode())


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_is_one_table(
    kind: str, models: dict[str, Forecaster], clients: dict[str, Client]
) -> None:
    table, client = table_of(kind, models[kind], 3), clients[kind]
    answers = []
    for name, content in bodies(table).items():
        for body in ({name: content}, {name: content, "params": {"until": T}}):
            found = ask(client, body)
            assert found.status == 200, found.data
            answers.append(found.json)
    for text in (table.to_csv(index=False), "\ufeff" + table.to_csv(index=False)):
        for media in ("text/csv", "text/csv; charset=utf-8"):
            found = ask(client, text.encode(), Content_Type=media)
            assert found.status == 200, found.data
            answers.append(found.json)
    assert all(each == answers[0] for each in answers)
    assert answers[0]["predictions"]


def test_mlflows_own_client(models: dict[str, Forecaster], clients: dict[str, Client]) -> None:
    """It sends missing values as NaN, and step 1 of an item without dates as NaT."""
    table = table_of("timed", models["timed"], 5)
    table["ds"] = pd.to_datetime(table.ds)
    for name in ("y", "level"):
        table[name] = table[name].astype(float)
    table.loc[len(table)] = {"unique_id": 99, "level": 0.5}
    asked = ScoringServerClient("127.0.0.1", clients["timed"].port)
    asked.wait_server_ready()
    assert asked.get_version() == version("statecast")
    found: Any = asked.invoke(table, params={"h": 2}).get_predictions()
    expected = Served(models["timed"]).predict(table, {"h": 2})
    assert found.unique_id.tolist() == expected.unique_id.tolist()
    np.testing.assert_array_equal(found["statecast"], expected["statecast"])
    with pytest.raises(Exception, match=r"error code 400.*INVALID_PARAMETER_VALUE.*h: expected"):
        asked.invoke(table, params={"h": -1})


def test_ids_alone_are_stored_items(client: Client, sessions: Sessions) -> None:
    for item, level in (("a", 0.5), ("b/c", None)):
        sessions.observe(item, 1, 51.0, static={"level": level, "group": "a"})
    sessions.observe("a", 2, 52.0)
    for body in (
        {"dataframe_split": {"columns": ["unique_id"], "data": [["b/c"], ["a"], ["b/c"]]}},
        {"dataframe_records": [{"unique_id": "b/c"}, {"unique_id": "a"}]},
        {"inputs": {"unique_id": ["b/c", "a"]}},
    ):
        found = ask(client, body | {"params": {"h": 3, "mean": True, "level": [90]}})
        expected = sessions.forecast(["b/c", "a"], h=3, mean=True, level=[90])
        assert found.json["predictions"] == expected.to_dicts()
    found = ask(client, b"unique_id\na\n", Content_Type="text/csv")
    assert found.json["predictions"] == sessions.forecast("a", until=T).to_dicts()
    refused(
        ask(client, {"inputs": {"unique_id": ["a", "none"]}}),
        404,
        "RESOURCE_DOES_NOT_EXIST",
        "'none'",
    )
    assert sorted(sessions.items()) == ["a", "b/c"]


def test_nothing_is_stored(
    client: Client, sessions: Sessions, models: dict[str, Forecaster]
) -> None:
    sessions.observe("1", 1, 51.0, static={"level": 0.5, "group": "a"})
    before = sessions.history("1")
    assert ask(client, split(table_of("plain", models["plain"], 1))).status == 200
    assert list(sessions.items()) == ["1"]
    assert sessions.history("1").equals(before)


ROW = {"unique_id": "i", "ds": 1, "y": 50.0, "level": 0.5, "group": "a"}


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({}, "received none"),
        ({"inputs": [ROW], "instances": [ROW]}, "expected one of"),
        ({"data": [ROW]}, "'data'"),
        ({"inputs": 3}, "a list of objects"),
        ({"inputs": [ROW, 3]}, "a list of objects"),
        ({"inputs": {"unique_id": "i"}}, "lists of one length"),
        ({"inputs": {"unique_id": ["i"], "ds": []}}, "lists of one length"),
        ({"dataframe_records": {"unique_id": ["i"]}}, "a list of objects"),
        ({"dataframe_split": [ROW]}, "columns and data"),
        ({"dataframe_split": {"columns": ["ds"]}}, "columns and data"),
        ({"dataframe_split": {"columns": [1], "data": []}}, "a list of names"),
        ({"dataframe_split": {"columns": ["ds", "ds"], "data": []}}, "repeat"),
        ({"dataframe_split": {"columns": ["ds"], "data": [[1, 2]]}}, "rows of 1 cells"),
        ({"dataframe_split": {"columns": ["unique_id"], "data": []}}, "received none"),
        ({"inputs": []}, "are missing"),
        ({"inputs": [{**ROW, "y": "much"}]}, "column 'y': expected a number"),
        ({"inputs": [ROW, {**ROW, "ds": 2, "y": "much"}]}, "'y'"),
        ({"inputs": [{**ROW, "y": [1]}]}, "received [1]"),
        ({"inputs": [{**ROW, "y": 10**400}]}, "'y'"),
        ({"inputs": [{**ROW, "y": 1e200}]}, "'y'"),
        ({"inputs": [{**ROW, "ds": 0}]}, "ds"),
        ({"inputs": [{**ROW, "ds": 1e308}]}, "ds"),
        ({"inputs": [{**ROW, "ds": "2024-01-01"}]}, "ds"),
        ({"inputs": [{**ROW, "ds": True}]}, "ds"),
        ({"inputs": [{**ROW, "unique_id": None}]}, "unique_id"),
        ({"inputs": [{**ROW, "group": {}}]}, "received {}"),
        ({"inputs": [ROW, {**ROW, "ds": 2, "level": 1.5}]}, "one value for each item"),
        ({"inputs": [{"unique_id": 7}]}, "expected an id"),
        ({"inputs": [ROW], "params": []}, "params"),
        ({"inputs": [ROW], "params": {"paths": 1}}, "'paths'"),
        ({"inputs": [ROW], "params": {"h": True}}, "params, h"),
        ({"inputs": [ROW], "params": {"h": 1.5}}, "params, h"),
        ({"inputs": [ROW], "params": {"h": 0}}, "h: expected"),
        ({"inputs": [ROW], "params": {"h": 10**30}}, "at most 40 steps"),
        ({"inputs": [ROW], "params": {"h": 2, "until": 3}}, "until"),
        ({"inputs": [ROW], "params": {"level": 80}}, "params, level"),
        ({"inputs": [ROW], "params": {"level": [120]}}, "level"),
        ({"inputs": [ROW], "params": {"level": None}}, "params, level"),
        ({"inputs": [ROW], "params": {"quantiles": [1.5]}}, "quantiles"),
        ({"inputs": [ROW], "params": {"quantiles": [0.1] * 5}}, "at most 4 levels"),
        ({"inputs": [ROW], "params": {"mean": 1}}, "params, mean"),
        ({"inputs": [ROW], "params": {"until": 1, "strict": True}}, "prefix"),
    ],
)
def test_a_wrong_request_is_answered_as_by_mlflow(
    body: dict[str, Any], word: str, client: Client
) -> None:
    refused(ask(client, body), 400, "INVALID_PARAMETER_VALUE", word)
    assert ask(client, {"inputs": [ROW]}).status == 200


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b"", "with a header"),
        (b"\xff", "UTF-8"),
        (b"unique_id,ds\n1\n", "rows of 2 cells"),
        (b'unique_id\n"a', "expected CSV"),
        (b"unique_id,ds,y,level,group\ni,1,much,0.5,a\n", "'y'"),
        (b"unique_id,ds,y,level,group\ni,1,\x00,0.5,a\n", ""),
    ],
)
def test_wrong_csv(text: bytes, word: str, client: Client) -> None:
    refused(ask(client, text, Content_Type="text/csv"), 400, "INVALID_PARAMETER_VALUE", word)


def test_ids_and_marks_of_csv(client: Client, sessions: Sessions) -> None:
    rows = b"01,1,50,0.5,a\n1,1,51,0.5,a\n1,2,NA,0.5,a\ntrue,1,nan,0.5,a\n1e3,1,,0.5,a\n"
    found = ask(client, b"unique_id,ds,y,level,group\n" + rows, Content_Type="text/csv")
    assert found.status == 200, found.data
    items = [row["unique_id"] for row in found.json["predictions"]]
    assert list(dict.fromkeys(items)) == ["01", "1", "true", "1e3"]
    for item in ("1", "01"):
        sessions.observe(item, 1, 50.0, static={"level": 0.5, "group": "a"})
    found = ask(client, b"unique_id\n01\n", Content_Type="text/csv")
    assert {row["unique_id"] for row in found.json["predictions"]} == {"01"}


def test_limits_and_headers(client: Client) -> None:
    rows = [{**ROW, "unique_id": f"i{n}"} for n in range(21)]
    refused(ask(client, {"inputs": rows}), 413, "INVALID_PARAMETER_VALUE", "at most 20 rows")
    many = {"inputs": rows[:20], "params": {"h": 30}}
    refused(ask(client, many), 413, "INVALID_PARAMETER_VALUE", "600 numbers")
    refused(ask(client, b" " * 20_001), 413, "INVALID_PARAMETER_VALUE", "20,000 bytes")
    for media in ("text/plain", "", "application/json; format=pandas-split", "text/csv; header=a"):
        found = ask(client, {"inputs": [ROW]}, Content_Type=media)
        refused(found, 415, "INVALID_PARAMETER_VALUE", "Content-Type")
    refused(ask(client, b"[1]"), 400, "INVALID_PARAMETER_VALUE", "a list")
    refused(ask(client, b"{"), 400, "INVALID_PARAMETER_VALUE", "JSON")
    refused(client.ask("GET", "/invocations"), 405, "INVALID_PARAMETER_VALUE", "POST")
    for media in ("application/json", 'application/json;charset="UTF-8"'):
        assert ask(client, {"inputs": [ROW]}, Content_Type=media).status == 200


def test_load_balancers_need_no_token(sessions: Sessions) -> None:
    with served(sessions, token="a-token-of-this-test") as client:
        without = Client(client.port)
        for path in ("/ping", "/health"):
            assert without.ask("GET", path).status == 200
        for reply in (without.ask("GET", "/version"), ask(without, {"inputs": [ROW]})):
            assert reply.status == 401
        refused(ask(without, {"inputs": [ROW]}), 401, "UNAUTHENTICATED", "Bearer")
        assert ask(client, {"inputs": [ROW]}).status == 200


def test_a_warning_is_in_the_answer(client: Client) -> None:
    found = ask(client, {"inputs": [{**ROW, "group": "never seen"}]})
    assert any("group" in each for each in found.json["warnings"])


def test_a_model_whose_tables_share_a_name_is_refused(tmp_path: Path) -> None:
    series, static = streams.curve_tables(72)
    item, step = (axis.ravel() for axis in np.indices((72, T)))
    plan = pl.DataFrame({"unique_id": item, "ds": step + 1, "level": 1.0})
    f = Forecaster(units=4, ensemble=2, epochs=1).fit(series, static, future=plan, verbose=0)
    with Sessions(f, tmp_path / "items.db") as opened, served(opened) as client:
        refused(ask(client, {"inputs": [ROW]}), 400, "INVALID_PARAMETER_VALUE", "'level'")
