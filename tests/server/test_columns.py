"""A batch as a table of Arrow is the batch of its lines, and a hostile table is refused."""

from __future__ import annotations

import datetime as dt
import io
import json
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import streams
from curves import T
from effort import examples
from served import NDJSON, Client, Reply, served
from statecast.forecast.forecaster import Forecaster
from statecast.server import Limits
from statecast.sessions import Sessions

pytestmark = pytest.mark.filterwarnings("ignore:(Static|Future) columns|Values far outside")

ARROW = "application/vnd.apache.arrow.stream"
DAY = dt.date(2024, 1, 1)


@pytest.fixture
def client(sessions: Sessions) -> Iterator[Client]:
    with served(sessions, limits=Limits(rows=20)) as found:
        yield found


def stream(table: Any, rows: int = 3, **options: Any) -> bytes:
    """A table as a stream of Arrow, in batches of so many rows."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, **options) as writer:
        writer.write_table(table, rows)
    return sink.getvalue().to_pybytes()


def send(client: Client, data: bytes) -> Reply:
    return client.ask("POST", "/v1/batch", data, Content_Type=ARROW)


def refused(found: Reply, status: int, *words: str) -> None:
    assert found.status == status, found.data
    for word in words:
        assert word in found.json["detail"]


@pytest.mark.parametrize("kind", streams.KINDS)
@settings(max_examples=examples(10), deadline=None)
@given(seed=st.integers(0, 2**32 - 1), small=st.booleans())
def test_a_table_is_the_batch_of_its_lines(
    kind: str, seed: int, small: bool, models: dict[str, Forecaster], tmp_path_factory: Any
) -> None:
    f, rng = models[kind], np.random.default_rng(seed)
    lines, rows = [], []
    for item in range(int(rng.integers(1, 4))):
        static = {"level": round(float(rng.normal()), 2), "group": ["a", "b", None][item % 3]}
        for step in range(1, int(rng.integers(2, T))):
            values = [float(rng.normal(50, 5)) for _ in f.schema.targets]
            if rng.random() < 0.2:
                values[0] = float("nan")
            day = DAY + dt.timedelta(days=step)
            line: dict[str, Any] = {"item": f"i{item}", "step": step}
            row: dict[str, Any] = {"unique_id": f"i{item}", "ds": step}
            if f.schema.spacing is not None:
                line["step"] = day.isoformat()
                row["ds"] = day if small else dt.datetime.combine(day, dt.time())
            cells = [None if value != value else value for value in values]
            line["values"] = cells if len(cells) > 1 else cells[0]
            row |= dict(zip(f.schema.target_cols, values, strict=True))
            if f.schema.static.kinds:
                line["static"] = static
                row |= static
            if f.schema.future.kinds:
                line |= {"future": {"promo": 0.5 * step, "season": "a"}, "past": {"visits": step}}
                row |= {"promo": 0.5 * step, "season": "a", "visits": step}
            lines.append(line)
            rows.append(row)
    table = pa.Table.from_pylist(rows)
    if small and "group" in table.column_names:
        at = table.column_names.index("group")
        table = table.set_column(at, "group", table["group"].cast(pa.large_string()))
    folder = tmp_path_factory.mktemp("batch")
    with Sessions(f, folder / "lines.db") as first, Sessions(f, folder / "table.db") as second:
        with served(first) as client:
            body = "\n".join(map(json.dumps, lines)).encode()
            expected = client.ask("POST", "/v1/batch", body, Content_Type=NDJSON)
            assert expected.status == 200, expected.data
        with served(second) as client:
            found = send(client, stream(table))
        assert found.json == expected.json
        items = sorted(first.items())
        assert sorted(second.items()) == items
        assert second.state(items) == first.state(items)


def rows_of(number: int = 2) -> dict[str, Any]:
    return {
        "unique_id": [f"i{n}" for n in range(number)],
        "ds": [1] * number,
        "y": [50.0] * number,
        "level": [0.5] * number,
        "group": ["a"] * number,
    }


def test_what_is_not_read(client: Client, sessions: Sessions) -> None:
    good = pa.table(rows_of())
    data = stream(good)
    for compression in ("lz4", "zstd"):
        options = pa.ipc.IpcWriteOptions(compression=compression)
        refused(send(client, stream(good, options=options)), 415, "without compression")
    coded = good.set_column(4, "group", good["group"].dictionary_encode())
    refused(send(client, stream(coded)), 415, "without dictionaries")
    for odd in (
        pa.array([["a"]] * 2),
        pa.array([b"a"] * 2),
        pa.array([dt.timedelta(1)] * 2),
        pa.array([{"a": 1}] * 2),
        pa.array([1] * 2, pa.decimal128(5)),
        pa.RunEndEncodedArray.from_arrays([2], ["a"]),
    ):
        refused(send(client, stream(good.set_column(4, "group", odd))), 415, "'group'")
    refused(send(client, stream(good.append_column("z", [[1, 2]]))), 422, "'z'")
    refused(send(client, stream(good.append_column("y", [[1, 2]]))), 422, "different columns")
    refused(send(client, stream(good.drop_columns("unique_id"))), 422, "'unique_id'")
    refused(send(client, stream(good.slice(0, 0))), 422, "received none")
    refused(send(client, stream(pa.table(rows_of(21)))), 413, "at most 20 rows")
    ids = pa.table(rows_of() | {"unique_id": [1, 2]})
    refused(send(client, stream(ids)), 422, "Line 1, item")
    steps = pa.table(rows_of() | {"ds": [1.5, 2]})
    refused(send(client, stream(steps)), 422, "Line 1, step")
    for cut in (b"", b"x", data[:50], data[: len(data) // 2], data[8:]):
        refused(send(client, cut), 400, "a stream of Arrow")
    assert len(sessions) == 0
    assert send(client, data).status == 200
    assert sorted(sessions.items()) == ["i0", "i1"]


def test_a_stream_of_polars_is_read(client: Client, sessions: Sessions) -> None:
    buffer = io.BytesIO()
    pl.DataFrame(rows_of()).write_ipc_stream(buffer)  # texts are views
    assert send(client, buffer.getvalue()).status == 200
    assert sorted(sessions.items()) == ["i0", "i1"]
    assert sessions.history("i0")["group"].to_list() == ["a", None]


def test_views_that_share_their_bytes_are_refused(client: Client, sessions: Sessions) -> None:
    text = b"x" * 100_000
    view = struct.pack("<i4sii", len(text), text[:4], 0, 0)
    shared = pa.Array.from_buffers(
        pa.string_view(), 20, [None, pa.py_buffer(view * 20), pa.py_buffer(text)]
    )
    data = stream(pa.table(rows_of(20) | {"group": shared}), rows=20)
    assert 8 * len(data) < 20 * len(text)
    refused(send(client, data), 413, "bytes of text")
    assert len(sessions) == 0


DATA = stream(pa.table(rows_of(7)))


@settings(
    max_examples=examples(200),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    changes=st.lists(st.tuples(st.integers(0, len(DATA) - 1), st.integers(0, 255)), max_size=6),
    end=st.integers(0, len(DATA)) | st.none(),
)
def test_damaged_bytes_are_no_fault_of_the_server(
    changes: list[tuple[int, int]], end: int | None, client: Client
) -> None:
    data = bytearray(DATA)
    for place, byte in changes:
        data[place] = byte
    found = send(client, bytes(data[:end]))
    assert found.status in (200, 400, 413, 415, 422), found.data


def test_without_pyarrow(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("statecast.server.columns.find_spec", lambda name: None)
    refused(send(client, DATA), 415, "pyarrow")
