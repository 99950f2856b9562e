"""Models in MLflow: saved, loaded, and served over HTTP by its own server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import polars as pl
import pytest
import uvicorn
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server

from statecast import ArgumentError, Forecaster, MissingExtraError, NotFittedError, TokenForecaster
from statecast.export.mlflow import Served, example_of, load_model, log_model, save_model
from statecast.tokens.decoding import Beam

SMALL: dict[str, Any] = {"units": 4, "ensemble": 2, "epochs": 1}
pytestmark = pytest.mark.filterwarnings("ignore::statecast.errors.DataWarning")

T = 6
ITEMS = [f"i{n}" for n in range(10)]
Answer = tuple[int, Any]


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of MLflow's server of a saved model, which runs in a thread."""
    app = scoring_server.init(mlflow.pyfunc.load_model(str(folder)))
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [own]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{own.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def post(address: str, body: Any) -> Answer:
    """The status and the content of the answer to a request."""
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    request = urllib.request.Request(
        f"{address}/invocations", data, {"Content-Type": "application/json"}
    )
    for _ in range(100):  # until the server has started
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                # Strict JSON: NaN and Infinity are no numbers.
                return answer.status, json.loads(answer.read(), parse_constant=pytest.fail)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())
        except urllib.error.URLError:
            time.sleep(0.05)
    return pytest.fail("the server did not start")


def split(table: pd.DataFrame) -> dict[str, Any]:
    """A table as a JSON client writes it, with null for missing values."""
    return {"dataframe_split": json.loads(table.to_json(orient="split", date_format="iso"))}


def records(table: pd.DataFrame) -> dict[str, Any]:
    return {"dataframe_records": json.loads(table.to_json(orient="records", date_format="iso"))}


def answered(model: Any, folder: Path, body: dict[str, Any]) -> pd.DataFrame:
    """The forecast that a server of the model answers."""
    save_model(model, folder / "model")
    with served(folder / "model") as address:
        status, answer = post(address, body)
    assert status == 200, answer
    return pd.DataFrame(answer["predictions"])


def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """A series with steps from 1 and a static table, of pandas."""
    rng = np.random.default_rng(0)
    row, step = (axis.ravel() for axis in np.indices((len(ITEMS), T)))
    y = 10 + rng.normal(size=(len(ITEMS), T)).cumsum(axis=1)
    series = pd.DataFrame({"unique_id": np.array(ITEMS)[row], "ds": step + 1, "y": y.ravel()})
    kind = [("a", "b", None)[n % 3] for n in range(len(ITEMS))]
    static = pd.DataFrame({"unique_id": ITEMS, "size": np.arange(len(ITEMS)) % 4, "kind": kind})
    return series, static


def one_table(prefix: pd.DataFrame, *others: pd.DataFrame) -> pd.DataFrame:
    """The table of a request, merged as the documentation of ``Served`` says."""
    for other in others:
        prefix = prefix.merge(other, how="outer")
    return prefix


@pytest.fixture(scope="module")
def model() -> Forecaster:
    series, static = tables()
    return Forecaster(**SMALL).fit(series, static, verbose=0)


@pytest.fixture(scope="module")
def folder(model: Forecaster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mlflow") / "model"
    save_model(model, folder)
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with served(folder) as address:
        yield address


@pytest.fixture
def prefix() -> pd.DataFrame:
    """Prefixes of three items, of 2, 3 and 4 steps."""
    series, _ = tables()
    ends = series.unique_id.map({"i1": 2, "i2": 3, "i3": 4}).fillna(0)
    return series[series.ds <= ends].reset_index(drop=True)


def same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Equal to the last bit: JSON keeps every digit of a float64."""
    pd.testing.assert_frame_equal(
        found, expected.reset_index(drop=True), check_dtype=False, check_exact=True
    )


# -- requests --------------------------------------------------------------------------


@pytest.mark.parametrize("written", [split, records])
@pytest.mark.parametrize(
    ("params", "options"),
    [
        ({}, {"until": T}),
        ({"until": 5}, {"until": 5}),
        ({"h": 2}, {"h": 2}),
        ({"until": 6, "level": [50, 95.5]}, {"until": 6, "level": [50, 95.5]}),
        ({"until": 6, "level": []}, {"until": 6, "level": None}),
        ({"h": 1, "quantiles": [0.1]}, {"h": 1, "quantiles": [0.1]}),
        ({"h": 1, "calibrated": False}, {"h": 1, "calibrated": False}),
        ({"h": 2, "mean": True}, {"h": 2, "mean": True}),
    ],
)
def test_the_answer_is_the_forecast(
    model: Forecaster,
    address: str,
    prefix: pd.DataFrame,
    written: Any,
    params: dict[str, Any],
    options: dict[str, Any],
) -> None:
    _, static = tables()
    own = static[static.unique_id.isin(prefix.unique_id)]
    body = written(one_table(prefix, own)) | ({"params": params} if params else {})
    status, answer = post(address, body)
    assert status == 200, answer
    same(pd.DataFrame(answer["predictions"]), model.predict(prefix, own, **options))


@pytest.mark.parametrize("written", [split, records])
def test_items_without_observations_are_forecast(
    model: Forecaster, address: str, prefix: pd.DataFrame, written: Any
) -> None:
    _, static = tables()
    table = one_table(prefix, static)  # the step of seven items is null
    status, answer = post(address, written(table) | {"params": {"until": 5}})
    assert status == 200, answer
    own = static.set_index("unique_id").loc[table.unique_id.unique()].reset_index()
    same(pd.DataFrame(answer["predictions"]), model.predict(prefix, own, until=5))
    # An item with a step and without y is one with k = 0, too.
    table.loc[table.ds.isna(), "ds"] = 1
    assert post(address, written(table) | {"params": {"until": 5}}) == (status, answer)


def test_a_forecast_does_not_depend_on_the_other_rows(address: str, prefix: pd.DataFrame) -> None:
    _, static = tables()
    table = one_table(prefix, static)
    _, answer = post(address, split(table) | {"params": {"h": 2}})
    by_item = pd.DataFrame(answer["predictions"]).set_index("unique_id").sort_index(kind="stable")
    mixed = table.sample(frac=1.0, random_state=1)
    _, answer = post(address, split(mixed) | {"params": {"h": 2}})
    found = pd.DataFrame(answer["predictions"])
    assert list(found.unique_id.unique()) == list(mixed.unique_id.unique())
    pd.testing.assert_frame_equal(
        found.set_index("unique_id").sort_index(kind="stable"), by_item, check_exact=True
    )
    for item, own in table.groupby("unique_id"):
        _, answer = post(address, records(own) | {"params": {"h": 2}})
        alone = pd.DataFrame(answer["predictions"]).set_index("unique_id")
        pd.testing.assert_frame_equal(alone, by_item.loc[[item]], check_exact=True)


def test_a_static_value_may_be_in_one_row_of_its_item(
    model: Forecaster, prefix: pd.DataFrame
) -> None:
    _, static = tables()
    table = one_table(prefix, static).sort_values(["unique_id", "ds"])
    expected = Served(model).predict(table, {"h": 1})
    table.loc[table.unique_id.duplicated(), ["size", "kind"]] = None
    same(Served(model).predict(table, {"h": 1}), expected)


def with_dates(series: pd.DataFrame, unit: Any = "D", apart: int = 3) -> pd.DataFrame:
    """Dates as steps; each item begins ``apart`` units after the one before it."""
    number = series.unique_id.str[1:].astype(int)
    dates = pd.Timestamp("2024-03-01") + pd.to_timedelta(series.ds - 1 + apart * number, unit=unit)
    return series.assign(ds=dates)


def test_dates(tmp_path: Path, prefix: pd.DataFrame) -> None:
    series, static = tables()
    f = Forecaster(**SMALL).fit(with_dates(series), static, verbose=0)
    begun = with_dates(prefix)
    table = one_table(begun, static[:5])
    found = answered(f, tmp_path, split(table) | {"params": {"until": 5}})
    own = static.set_index("unique_id").loc[table.unique_id.unique()].reset_index()
    expected = f.predict(begun, own, until=5)
    undated = expected.ds.isna().to_numpy()
    assert undated.any()
    assert found.ds[undated].isna().all()
    found["ds"] = pd.to_datetime(found.ds)
    same(found, expected.assign(ds=expected.ds.astype(found.ds.dtype)))


def test_dates_of_a_time_zone_and_launch_dates(tmp_path: Path) -> None:
    series, static = tables()
    zone = "America/New_York"
    dated = with_dates(series)
    dated["ds"] = dated.ds.dt.tz_localize(zone)
    static["launch"] = dated.groupby("unique_id", sort=False).ds.min().reset_index(drop=True)
    f = Forecaster(**SMALL, start_col="launch").fit(dated, static, verbose=0)
    table = one_table(dated[dated.unique_id == "i1"][:2], static[:4])
    texts = table.assign(
        ds=table.ds.map(lambda at: None if pd.isna(at) else at.isoformat()),
        launch=table.launch.map(lambda at: at.isoformat()),
    )
    found = answered(f, tmp_path, records(texts) | {"params": {"until": 4}})
    own = static.set_index("unique_id").loc[table.unique_id.unique()].reset_index()
    expected = f.predict(dated[dated.unique_id == "i1"][:2], own, until=4)
    assert found.ds.tolist() == [at.isoformat() for at in expected.ds]
    same(found.drop(columns="ds"), expected.drop(columns="ds"))


def test_groups_are_a_column_of_the_request(tmp_path: Path) -> None:
    series, static = tables()
    static["company"] = [f"c{row % 3}" for row in range(len(static))]
    f = Forecaster(**SMALL, group_col="company").fit(series, static, verbose=0)
    begun = series[series.ds <= 2]
    found = answered(f, tmp_path, records(one_table(begun, static)) | {"params": {"until": 4}})
    same(found, f.predict(begun, static, until=4))


@pytest.mark.parametrize("ids", [[7, 9], ["7", "9"], ["x", "y"]])
def test_ids_come_back_in_their_own_type(tmp_path: Path, ids: list[Any]) -> None:
    table = pd.DataFrame({"unique_id": np.repeat(ids * 5, T), "ds": np.tile(np.arange(T) + 1, 10)})
    table["unique_id"] = [f"{item}{n // (2 * T)}" for n, item in enumerate(table.unique_id)]
    if isinstance(ids[0], int):
        table["unique_id"] = table.unique_id.astype(int)
    table["y"] = np.random.default_rng(0).normal(size=len(table))
    f = Forecaster(**SMALL).fit(table, verbose=0)
    found = answered(f, tmp_path, split(table[:2]) | {"params": {"until": 3}})
    assert found.unique_id.tolist() == table.unique_id[:1].tolist()


def test_covariates(tmp_path: Path) -> None:
    series, static = tables()
    rng = np.random.default_rng(1)
    plan = series[["unique_id", "ds"]].assign(
        promo=rng.integers(0, 2, len(series)), event=rng.choice(["x", "y"], len(series))
    )
    series["visits"] = rng.integers(0, 9, len(series))
    f = Forecaster(**SMALL, past_cols=["visits"]).fit(series, static, future=plan, verbose=0)
    begun, ahead = series[series.ds <= 3], plan[plan.ds <= 5]
    begun = begun[begun.unique_id != "i4"]  # k = 0, with future covariates
    table = one_table(begun, ahead, static)
    found = answered(f, tmp_path, records(table) | {"params": {"until": 5}})
    own = static.set_index("unique_id").loc[table.unique_id.unique()].reset_index()
    same(found, f.predict(begun, own, future=ahead, until=5))


def test_several_targets(tmp_path: Path) -> None:
    series, _ = tables()
    series["z"] = series.y.to_numpy()[::-1]
    f = Forecaster(**SMALL, target_col=["y", "z"]).fit(series, verbose=0)
    begun = series[series.ds <= 2].copy()
    begun.loc[begun.index[1], "z"] = np.nan
    found = answered(f, tmp_path, split(begun) | {"params": {"h": 2}})
    assert "statecast-z-lo-80" in found
    same(found, f.predict(begun, h=2))


def test_a_model_that_was_fitted_on_arrays(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Y, X = rng.normal(size=(10, T)), rng.normal(size=(10, 2))
    f = Forecaster(**SMALL).fit(Y, X, verbose=0)
    table = pd.DataFrame({"unique_id": 0, "ds": [1, 2], "y": Y[0, :2], "x1": X[0, 0]})
    found = answered(f, tmp_path, split(table.assign(x2=X[0, 1])) | {"params": {"until": 5}})
    expected = f.predict(Y[:1, :2], X[:1], until=5)
    np.testing.assert_array_equal(found["statecast"], expected["statecast"][0, 2:])


def test_years_as_steps(tmp_path: Path) -> None:
    series, _ = tables()
    series["ds"] += 2000
    f = Forecaster(**SMALL).fit(series, verbose=0)
    begun = series[series.ds <= 2002][:2]
    found = answered(f, tmp_path, split(begun))  # up to the last step of training
    same(found, f.predict(begun, until=2000 + T))


@pytest.mark.parametrize("tokens", [["a", "b", "c"], [3, 5, 7]])
def test_tokens_are_generated(tmp_path: Path, tokens: list[Any]) -> None:
    rng = np.random.default_rng(0)
    series, _ = tables()
    series["y"] = np.array(tokens)[rng.integers(0, 3, len(series))]
    f = TokenForecaster(units=4, epochs=1).fit(series, verbose=0)
    begun = series[series.ds <= 2]
    table = one_table(begun, pd.DataFrame({"unique_id": ["new"]}))
    params = {"until": 4, "width": 50, "best": 50}
    found = answered(f, tmp_path, split(table) | {"params": params})
    static = pd.DataFrame({"unique_id": table.unique_id.unique()})
    expected = f.generate(begun, static, until=4, beam=Beam(50, best=50))
    assert list(found) == list(expected)
    nats = expected["statecast-50-nats"]
    assert np.isinf(nats).any()  # there are fewer sequences than the beam asks for
    assert found["statecast-50-nats"].isna().tolist() == np.isinf(nats).tolist()
    assert found["statecast"].fillna("").tolist() == expected["statecast"].fillna("").tolist()


# -- what is refused -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "params", "message"),
    [
        ({}, {"h": 0}, "h: expected a whole number"),
        ({}, {"until": 3, "h": 2}, "Expected either until or h; received both."),
        ({}, {"until": 10**6}, "until: expected at most 10,000"),
        ({}, {"until": 6, "level": [120]}, "level"),
        ({}, {"until": 6, "quantiles": [1.5]}, "quantiles"),
        ({}, {"until": 2, "strict": True}, "expected a step beyond every item's prefix"),
        ({"y": "much"}, {}, "column 'y': expected a number, or nothing where it was not observed"),
        ({"size": "big"}, {}, "column 'size': expected a number"),
        ({"size": [0, 1, 1, 1, 1, 1, 1, 1, 1]}, {}, "expected one value for each item"),
        ({"ds": 1}, {}, "ds"),
        ({"ds": "2024-01-01"}, {}, "ds"),
        ({"unique_id": None}, {}, "unique_id"),
        ({"size": [[1]] * 9}, {}, "Column 'size': expected numbers or text; received [1]."),
        ({"size": "absent"}, {}, "Model is missing inputs ['size']"),
    ],
)
def test_a_bad_request_is_answered_with_the_reason(
    address: str,
    prefix: pd.DataFrame,
    change: dict[str, Any],
    params: dict[str, Any],
    message: str,
) -> None:
    _, static = tables()
    table = prefix.merge(static)
    for name, value in change.items():
        table[name] = value
        if value == "absent":
            del table[name]
    status, answer = post(address, split(table) | {"params": params})
    assert status == 400
    assert message in answer["message"]
    assert post(address, split(prefix.merge(static)))[0] == 200  # the next one is answered


def test_an_empty_request_and_one_that_is_no_table(model: Forecaster, address: str) -> None:
    columns = list(Served(model).columns)
    status, answer = post(address, {"dataframe_split": {"columns": columns, "data": []}})
    assert (status, "received no row" in answer["message"]) == (400, True)
    assert post(address, "no JSON")[0] == 400
    with pytest.raises(MlflowException, match=r"Expected a table .* received ndarray"):
        Served(model).predict(np.zeros(3))
    with pytest.raises(MlflowException, match=r"'kind'\) are missing|'kind' are missing"):
        Served(model).predict(pd.DataFrame(columns=columns[:-1]))


def test_what_cannot_be_saved(tmp_path: Path, model: Forecaster) -> None:
    with pytest.raises(NotFittedError):
        save_model(Forecaster(), tmp_path / "a")
    with pytest.raises(ArgumentError, match="expected a Forecaster or a TokenForecaster"):
        save_model("model.safetensors", tmp_path / "a")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ArgumentError, match="input_example: Expected a table with the columns"):
        save_model(model, tmp_path / "a", input_example=tables()[0])
    series, static = tables()
    plan = series[["unique_id", "ds"]].assign(size=1.0)
    both = Forecaster(**SMALL).fit(series, static, future=plan, verbose=0)
    with pytest.raises(ArgumentError, match=r"one table; several have 'size'"):
        save_model(both, tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, model: Forecaster) -> None:
    monkeypatch.setattr("statecast.process.find_spec", lambda name: None)
    for call in (lambda: log_model(model), lambda: save_model(model, "x"), lambda: load_model("x")):
        with pytest.raises(MissingExtraError, match=r"pip install 'statecast\[mlflow\]'"):
            call()


# -- files -----------------------------------------------------------------------------


def test_the_artifact_is_our_own_file(model: Forecaster, folder: Path) -> None:
    files = sorted(str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file())
    assert files == [
        "MLmodel",
        "conda.yaml",
        "data/model.safetensors",
        "input_example.json",
        "python_env.yaml",
        "requirements.txt",
        "serving_input_example.json",
    ]
    assert Forecaster.load(folder / "data" / "model.safetensors").fingerprint == model.fingerprint
    wanted = [line.partition("==")[0] for line in (folder / "requirements.txt").open()]
    assert wanted == ["statecast", "mlflow-skinny", "pandas"]


def test_a_logged_model_is_loaded(
    model: Forecaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    try:
        with mlflow.start_run():
            info = log_model(
                model, name="curves", metadata={"team": "x"}, registered_model_name="curves"
            )
        assert info.signature is not None
        assert set(info.flavors) == {"statecast", "python_function"}
        for uri in (info.model_uri, "models:/curves/1"):
            loaded = load_model(uri)
            assert isinstance(loaded, Forecaster)
            assert loaded.fingerprint == model.fingerprint
        table, params = example_of(model)
        found = mlflow.pyfunc.load_model(info.model_uri).predict(table, params)
        same(found, Served(model).predict(table, params))
    finally:
        mlflow.set_tracking_uri(before)


def test_a_model_of_another_flavor_is_refused(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text("flavors:\n  python_function: {}\n")
    with pytest.raises(ArgumentError, match=r"flavor 'statecast'.*'python_function'"):
        load_model(str(tmp_path))


def test_the_example_is_a_request_of_every_kind_of_model(tmp_path: Path) -> None:
    """It is saved with the model, and a server answers it."""
    series, static = tables()
    long = pd.concat([series.assign(ds=series.ds + n * T) for n in range(6)], ignore_index=True)
    weekdays = with_dates(long, apart=7)
    weekdays = weekdays[weekdays.ds.dt.day_of_week < 5]
    months = series.assign(ds=pd.Timestamp("2024-01-31") + series.ds.map(pd.offsets.MonthEnd))
    plan = series[["unique_id", "ds"]].assign(promo=1.0 * (series.ds % 2), event="x")
    coded = static[["unique_id", "size"]]
    models = [
        Forecaster(**SMALL).fit(weekdays, static, verbose=0),
        Forecaster(**SMALL).fit(months, verbose=0),
        Forecaster(**SMALL).fit(with_dates(series, "h"), verbose=0),
        Forecaster(**SMALL, categorical=["size"]).fit(series, coded, future=plan, verbose=0),
        Forecaster(**SMALL, past_cols=["promo"]).fit(series.assign(promo=plan.promo), verbose=0),
        Forecaster(**SMALL).fit(pl.from_pandas(series), pl.from_pandas(static), verbose=0),
        Forecaster(**SMALL).fit(series[series.ds == 1], static, verbose=0),
        TokenForecaster(units=4, epochs=1).fit(series.assign(y="a"), static, verbose=0),
    ]
    for number, each in enumerate(models):
        save_model(each, tmp_path / str(number))
        bodies = [
            json.loads((tmp_path / str(number) / name).read_text(), parse_constant=pytest.fail)
            for name in ("input_example.json", "serving_input_example.json")  # NaN is no JSON
        ]
        body = bodies[1]
        with served(tmp_path / str(number)) as address:
            status, answer = post(address, body)
        assert status == 200, answer
        assert len(answer["predictions"]) == 1


# -- processes -------------------------------------------------------------------------


def test_a_model_is_served_without_keras(folder: Path) -> None:
    code = f"""
import sys
sys.modules |= dict.fromkeys(["keras", "jax", "torch", "tensorflow", "pyarrow", "sklearn"])
import mlflow
from mlflow.models import Model
model = mlflow.pyfunc.load_model({str(folder)!r})
print(len(model.predict(model.input_example, params={{"h": 1}})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "1", done.stderr


@pytest.mark.slow
def test_mlflow_models_serve(
    model: Forecaster, folder: Path, prefix: pd.DataFrame, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(folder)]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    # MLflow starts uvicorn by its name, as if the environment were activated.
    (tmp_path / "uvicorn").write_text(f'#!/bin/sh\nexec {sys.executable} -m uvicorn "$@"\n')
    (tmp_path / "uvicorn").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(command, env=os.environ | {"PATH": path}, start_new_session=True)
    try:
        _, static = tables()
        own = static[static.unique_id.isin(prefix.unique_id)]
        body = split(one_table(prefix, own)) | {"params": {"until": 5}}
        for _ in range(120):
            if process.poll() is not None:
                pytest.fail("the server ended")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        status, answer = post(f"http://127.0.0.1:{port}", body)
        assert status == 200, answer
        same(pd.DataFrame(answer["predictions"]), model.predict(prefix, own, until=5))
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()
