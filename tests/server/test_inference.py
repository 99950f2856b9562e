"""``/v2``: observations and forecasts as tensors are those of ``Sessions``, to the bit."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curves import T
from effort import examples
from served import Client, Reply, served
from statecast.forecast.forecaster import Forecaster
from statecast.server import Limits
from statecast.sessions import Observed, Sessions
from streams import KINDS, Stream

pytestmark = pytest.mark.filterwarnings("ignore:(Static|Future) columns|Values far outside")

SMALL = Limits(steps=40, quantiles=4, body=20_000)
LENGTH = "inference-header-content-length"
PATH = "/v2/models/statecast/infer"
TYPES = {
    "BOOL": np.bool_, "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip


@pytest.fixture
def client(sessions: Sessions) -> Iterator[Client]:
    with served(sessions, limits=SMALL) as found:
        yield found


def tensor(name: str, value: Any, *, binary: bool = False, datatype: str = "") -> Any:
    """An input tensor, and its bytes."""
    kind = datatype or ("BYTES" if isinstance(value, str) else "FP64")
    made: dict[str, Any] = {"name": name, "shape": [1], "datatype": kind}
    text = value.encode() if isinstance(value, str) else None
    if not binary or (kind == "BYTES" and text is None):
        missing = value is None or (isinstance(value, float) and math.isnan(value))
        return made | {"data": [None if missing else value]}, b""
    if text is not None:
        data = struct.pack("<I", len(text)) + text
    else:
        data = np.array(math.nan if value is None else value, TYPES[kind]).tobytes()
    return made | {"parameters": {"binary_data_size": len(data)}}, data


def infer(
    client: Client, inputs: Any = (), outputs: Any = None, *, more: Any = None, **parameters: Any
) -> Reply:
    """Send tensors, as the clients of the protocol do."""
    body = {"inputs": [each for each, _ in inputs], "parameters": parameters} | (more or {})
    if outputs is not None:
        body["outputs"] = outputs
    text, data = json.dumps(body).encode(), b"".join(each for _, each in inputs)
    headers = {LENGTH: str(len(text))} if data else {}
    return client.ask("POST", PATH, text + data, Content_Type="application/octet-stream", **headers)


def tensors(found: Reply) -> dict[str, list[Any]]:
    """The output tensors of an answer."""
    assert found.status == 200, found.data
    length = found.headers.get(LENGTH)
    text = found.data if length is None else found.data[: int(length)]
    rest = b"" if length is None else found.data[int(length) :]
    columns = {}
    for each in json.loads(text)["outputs"]:
        if "data" in each:
            cells = each["data"]
        else:
            size = each["parameters"]["binary_data_size"]
            own, rest = rest[:size], rest[size:]
            cells = texts(own) if each["datatype"] == "BYTES" else None
            cells = np.frombuffer(own, TYPES[each["datatype"]]).tolist() if cells is None else cells
        assert each["shape"] == [len(cells)]
        columns[each["name"]] = cells
    assert not rest
    return columns


def texts(data: bytes) -> list[str]:
    found = []
    while data:
        (length,) = struct.unpack("<I", data[:4])
        found.append(data[4 : 4 + length].decode())
        data = data[4 + length :]
    return found


def refused(found: Reply, status: int, *words: str) -> None:
    """An answer is an error as the protocol has it."""
    assert found.status == status, found.data
    assert found.headers["content-type"] == "application/json"
    assert set(found.json) == {"error"}
    for word in words:
        assert word in found.json["error"]


class Tensors:
    """``observe`` of ``Sessions``, as tensors over HTTP."""

    def __init__(self, client: Client, f: Forecaster, rng: np.random.Generator) -> None:
        self.client, self.targets, self.rng = client, f.schema.target_cols, rng

    def observe(self, item: str, step: Any = None, values: Any = None, **parts: Any) -> Observed:
        binary, inputs = bool(self.rng.random() < 0.5), []
        cells = values if isinstance(values, list) else [values]
        if values is not None:
            inputs += [
                tensor(name, cell, binary=binary)
                for name, cell in zip(self.targets, cells, strict=True)
            ]
        for columns in parts.values():
            for name, value in (columns or {}).items():
                kind = "FP64" if name in ("level", "promo", "visits") else "BYTES"
                inputs.append(tensor(name, value, binary=binary, datatype=kind))
        more = {} if step is None else {"step": step if isinstance(step, int) else str(step)}
        found = infer(self.client, inputs, item=item, binary_data_output=binary, **more)
        (status,) = tensors(found)["status"]
        revised = (item,) if status in ("late", "corrected") else ()
        return Observed([status], revised)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=examples(12), deadline=None)
@given(seed=st.integers(0, 2**32 - 1), binary=st.booleans())
def test_tensors_are_observations_and_forecasts_to_the_bit(
    kind: str, seed: int, binary: bool, models: dict[str, Forecaster], tmp_path_factory: Any
) -> None:
    f, rng = models[kind], np.random.default_rng(seed)
    stream, folder = Stream(f, seed), tmp_path_factory.mktemp("served")
    with Sessions(f, folder / "items.db") as opened, served(opened) as client:
        over: Any = Tensors(client, f, rng)
        for _ in range(12):
            stream.observe(over, f"item {rng.integers(2)}", int(rng.integers(1, T)))
        stream.check(opened)
        for item, known in stream.items.items():
            if f.schema.future.kinds:
                for step in range(1, T + 1):
                    plan = known.future.setdefault(step, {"promo": 0.25 * step, "season": "a"})
                    over.observe(item, step, future=plan)
            found = infer(
                client, item=item, until=T, level="80,95", mean=True, binary_data_output=binary
            )
            expected = opened.forecast(item, until=T, level=[80, 95], mean=True).drop("unique_id")
            columns = tensors(found)
            assert list(columns) == expected.columns
            for name, cells in columns.items():
                own = expected[name].to_list()
                assert cells == (
                    [str(cell) for cell in own] if f.schema.spacing and name == "ds" else own
                )


def test_an_observation_is_answered_with_the_forecast(client: Client, sessions: Sessions) -> None:
    static = [tensor("level", 0.5), tensor("group", "a", binary=True)]
    found = infer(client, [tensor("y", 51.0, binary=True), *static], item="a/b", step=1, h=2)
    columns = tensors(found)
    expected = sessions.forecast("a/b", h=2).drop("unique_id")
    assert columns == {"status": ["new"], **expected.to_dict(as_series=False)}
    assert found.headers["etag"] == client.item("GET", "a/b", "/state").headers["etag"]
    again = infer(client, [tensor("y", 51.0)], item="a/b", step=1, more={"id": "7"})
    assert tensors(again) == {"status": ["duplicate"]}
    assert again.json["id"] == "7"
    assert again.json["model_name"] == "statecast"
    asked = [
        {"name": "statecast-hi-80"},
        {"name": "ds", "parameters": {"binary_data": True}},
    ]
    some = tensors(infer(client, outputs=asked, item="a/b", h=3))
    expected = sessions.forecast("a/b", h=3)
    assert some == expected.select("statecast-hi-80", "ds").to_dict(as_series=False)
    assert tensors(infer(client, static, item="new")) == {"status": ["new"]}
    assert sessions.history("new").height == 1


@pytest.mark.parametrize("datatype", TYPES)
def test_a_tensor_in_json_is_the_one_in_bytes(
    datatype: str, models: dict[str, Forecaster], tmp_path: Path
) -> None:
    value = {"BOOL": True, "FP16": 0.1, "FP32": 0.1, "FP64": 0.1}.get(datatype, 2)
    with Sessions(models["plain"], tmp_path / "items.db") as opened, served(opened) as client:
        for item, binary in (("json", False), ("bytes", True)):
            level = tensor("level", value, binary=binary, datatype=datatype)
            assert infer(client, [level, tensor("group", "a")], item=item).status == 200
            assert opened.history(item)["level"][0] == float(TYPES[datatype](value))


def test_health_and_metadata(models: dict[str, Forecaster], tmp_path: Path) -> None:
    token = "a-token-of-this-test"
    with Sessions(models["covariates"], tmp_path / "items.db") as opened:
        mark = models["covariates"].fingerprint[:8]
        with served(opened, token=token, name="growth") as client:
            without = Client(client.port)
            for path in ("/v2/health/live", "/v2/health/ready"):
                assert without.ask("GET", path).status == 200
            for path in ("/v2", "/v2/models/growth", "/v2/models/growth/ready"):
                refused(without.ask("GET", path), 401, "Bearer")
            found = client.ask("GET", "/v2").json
            assert found == {
                "name": "statecast",
                "version": version("statecast"),
                "extensions": ["binary_tensor_data"],
            }
            for path in ("/v2/models/growth", f"/v2/models/growth/versions/{mark}"):
                assert client.ask("GET", f"{path}/ready").json["ready"]
                found = client.ask("GET", path).json
                assert (found["name"], found["versions"]) == ("growth", [mark])
                inputs = {each["name"]: each["datatype"] for each in found["inputs"]}
                assert inputs == {
                    "y": "FP64", "level": "FP64", "group": "BYTES", "promo": "FP64",
                    "season": "BYTES", "visits": "FP64",
                }  # fmt: skip
                names = [each["name"] for each in found["outputs"]]
                assert names == ["status", "ds", "statecast", "statecast-lo-80", "statecast-hi-80"]
            for path in ("/v2/models/other", "/v2/models/growth/versions/1"):
                refused(client.ask("GET", path), 404, "Expected")
                refused(client.ask("GET", f"{path}/ready"), 404)
                refused(client.ask("POST", f"{path}/infer", {}), 404)
            refused(client.ask("GET", "/v2/models/growth/config"), 404)
            refused(client.ask("GET", "/v2/models/growth/infer"), 405)


GOOD = tensor("y", 52.0)[0]


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"parameters": {"step": 2}, "inputs": [GOOD]}, 400, "the id of an item"),
        ({"parameters": {"item": "", "step": 2}, "inputs": [GOOD]}, 400, "parameters, item"),
        ({"parameters": {"item": 7, "step": 2}, "inputs": [GOOD]}, 400, "parameters, item"),
        ({"parameters": [], "inputs": [GOOD]}, 400, "parameters"),
        ({"parameters": {"item": "a", "sequence_id": 2}}, 400, "'sequence_id'"),
        ({"parameters": {"item": "a"}}, 400, "until or h"),
        ({"parameters": {"item": "a", "step": 2}}, 400, "values"),
        ({"parameters": {"item": "a"}, "inputs": [GOOD]}, 400, "step"),
        ({"parameters": {"item": "a", "step": 2.5}, "inputs": [GOOD]}, 400, "step"),
        ({"parameters": {"item": "a", "step": [2]}, "inputs": [GOOD]}, 400, "step"),
        ({"parameters": {"item": "a", "step": True}, "inputs": [GOOD]}, 400, "step"),
        ({"parameters": {"item": "a", "step": 2, "h": 41}, "inputs": [GOOD]}, 400, "h"),
        ({"parameters": {"item": "a", "step": 2, "h": 2.5}, "inputs": [GOOD]}, 400, "h"),
        ({"parameters": {"item": "a", "step": 2, "h": [2]}, "inputs": [GOOD]}, 400, "h"),
        ({"parameters": {"item": "a", "step": 2, "mean": True}, "inputs": [GOOD]}, 400, "mean"),
        ({"parameters": {"item": "a", "h": 2, "level": "120"}}, 400, "level"),
        ({"parameters": {"item": "a", "h": 2, "level": "x"}}, 400, "level"),
        ({"parameters": {"item": "a", "h": 2, "binary_data_output": 1}}, 400, "true or false"),
        ({"parameters": {"item": "none", "h": 2}}, 404, "'none'"),
        ({"parameters": {"item": "a", "h": 2}, "id": 7}, 400, "id"),
        ({"parameters": {"item": "a", "h": 2}, "outputs": {}}, 400, "outputs"),
        ({"parameters": {"item": "a", "h": 2}, "outputs": [{"name": "y"}]}, 400, "'y'"),
        ({"parameters": {"item": "a", "h": 2}, "outputs": [{"name": "status"}]}, 400, "'status'"),
        ({"parameters": {"item": "a", "h": 2}, "timeout": 1}, 400, "'timeout'"),
        (
            {"parameters": {"item": "a", "step": 2}, "inputs": [GOOD], "outputs": [{"name": "ds"}]},
            400,
            "'ds'",
        ),
    ],
)
def test_a_wrong_request_changes_nothing(
    body: dict[str, Any], status: int, word: str, client: Client, sessions: Sessions
) -> None:
    sessions.observe("a", 1, 51.0, static={"level": 0.5, "group": "a"})
    refused(client.ask("POST", PATH, body), status, word)
    assert sessions.history("a").height == 2
    assert list(sessions.items()) == ["a"]
    assert tensors(infer(client, [tensor("y", 52.0)], item="a", step=2)) == {"status": ["new"]}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"name": "z"}, "'z'"),
        ({"name": 1}, "a name"),
        ({"shape": [2]}, "shape"),
        ({"shape": [True]}, "shape"),
        ({"shape": "1"}, "shape"),
        ({"shape": None}, "shape"),
        ({"datatype": "BF16"}, "datatype"),
        ({"datatype": []}, "datatype"),
        ({"datatype": "INT64"}, "INT64"),
        ({"datatype": "INT8", "data": [300]}, "INT8"),
        ({"datatype": "FP16", "data": [1e6]}, "FP16"),
        ({"datatype": "UINT64", "data": [-1]}, "UINT64"),
        ({"datatype": "INT64", "data": [2**70]}, "INT64"),
        ({"datatype": "BOOL", "data": [1]}, "BOOL"),
        ({"datatype": "BYTES", "data": [1]}, "BYTES"),
        ({"datatype": "BYTES", "data": ["1"]}, "'1'"),
        ({"data": []}, "one FP64 value"),
        ({"data": [1, 2]}, "one FP64 value"),
        ({"data": [True]}, "one FP64 value"),
        ({"data": [1e300]}, "1e+300"),
        ({"data": {}}, "one FP64 value"),
        ({"parameters": {"binary_data_size": 8}}, "either data"),
        ({"parameters": {"shared_memory_region": "a"}}, "'shared_memory_region'"),
        ({"parameters": 1}, "parameters"),
        ({"strides": [1]}, "'strides'"),
    ],
)
def test_a_wrong_tensor(
    change: dict[str, Any], word: str, client: Client, sessions: Sessions
) -> None:
    sessions.observe("a", 1, 51.0, static={"level": 0.5, "group": "a"})
    parameters = {"item": "a", "step": 2}
    body = {"parameters": parameters, "inputs": [GOOD | change]}
    refused(client.ask("POST", PATH, body), 400, word)
    refused(client.ask("POST", PATH, {"parameters": parameters, "inputs": [GOOD] * 2}), 400, "once")
    refused(client.ask("POST", PATH, {"parameters": parameters, "inputs": [3]}), 400, "inputs")
    refused(client.ask("POST", PATH, {"parameters": parameters, "inputs": {}}), 400, "inputs")
    assert sessions.history("a").height == 2


@pytest.mark.parametrize(
    ("size", "data", "word"),
    [
        (8, b"", "8"),
        (8, b"1234567", "8"),
        (4, b"1234", "expected 8 bytes"),
        (8, b"123456789", "no bytes after"),
        (-8, b"12345678", "-8"),
        ("8", b"12345678", "'8'"),
        (True, b"1", "True"),
    ],
)
def test_wrong_bytes(size: Any, data: bytes, word: str, client: Client, sessions: Sessions) -> None:
    sessions.observe("a", 1, 51.0, static={"level": 0.5, "group": "a"})
    own = {"name": "y", "shape": [1], "datatype": "FP64"}
    own["parameters"] = {"binary_data_size": size}  # type: ignore[assignment]
    refused(infer(client, [(own, data)], item="a", step=2), 400, word)
    text = own | {"name": "group", "datatype": "BYTES"}
    text["parameters"] = {"binary_data_size": len(data)}  # type: ignore[assignment]
    if data:
        refused(infer(client, [(text, data)], item="a"), 400, "a text after its length")
    cut = {
        "name": "group",
        "shape": [1],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": 5},
    }
    refused(infer(client, [(cut, b"\x01\0\0\0\xff")], item="a"), 400, "UTF-8")
    for length in ("-1", "x", "99999", "1" * 30):
        found = client.ask("POST", PATH, {"parameters": {}}, **{LENGTH: length})
        refused(found, 400, LENGTH)
    assert sessions.history("a").height == 2


def test_media_types(client: Client, sessions: Sessions) -> None:
    """A page of another site cannot send a request without a media type: browsers add Origin."""
    body = json.dumps({"parameters": {"item": "a", "step": 1}, "inputs": [
        GOOD, tensor("level", 0.5)[0], tensor("group", "a")[0]]}).encode()  # fmt: skip
    for media in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        refused(client.ask("POST", PATH, body, Content_Type=media), 415, "Content-Type")
    refused(client.ask("POST", PATH, body, Content_Encoding="gzip"), 415, "Content-Encoding")
    refused(client.ask("POST", PATH, body, Content_Type="", Origin="http://evil"), 415, "Content")
    assert len(sessions) == 0
    assert client.ask("POST", PATH, body, Content_Type="").status == 200


def test_a_change_of_another_version_is_refused(client: Client, sessions: Sessions) -> None:
    first = sessions.observe("a", 1, 51.0, static={"level": 0.5, "group": "a"})
    tag = client.item("GET", "a", "/state").headers["etag"]
    assert first.versions[0] in tag
    body = {"parameters": {"item": "a", "step": 2}, "inputs": [GOOD]}
    assert client.ask("POST", PATH, body, If_Match=tag).status == 200
    refused(client.ask("POST", PATH, body, If_Match=tag), 412)
    assert sessions.history("a").height == 3
