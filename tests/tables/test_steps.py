"""Dates with an offset in text and in CSV files."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from statecast.errors import DataError
from statecast.tables.schema import Schema

pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")


# -- dates with an offset --------------------------------------------------------------------

HOURS = [dt.datetime(2024, 3, 30, 22, tzinfo=dt.UTC) + dt.timedelta(hours=i) for i in range(6)]
OFFSETS: dict[str, Callable[[dt.datetime], str]] = {
    "Z": lambda d: d.strftime("%Y-%m-%dT%H:%M:%SZ"),
    "of nothing": lambda d: d.isoformat(),
    "of two hours": lambda d: d.astimezone(dt.timezone(dt.timedelta(hours=2))).isoformat(" "),
    "of half an hour": lambda d: d.astimezone(dt.timezone(-dt.timedelta(hours=3.5))).isoformat(),
    "to the minute": lambda d: d.strftime("%Y-%m-%d %H:%MZ"),
    "of milliseconds": lambda d: d.isoformat(timespec="milliseconds"),
    "that changes": lambda d: d.astimezone(zoneinfo.ZoneInfo("Europe/Paris")).isoformat(),
    "without a colon": lambda d: d.strftime("%Y-%m-%dT%H:%M:%S%z"),
}


@pytest.mark.parametrize("to", ["csv", "polars", "pandas", "pyarrow"])
@pytest.mark.parametrize("offset", OFFSETS)
def test_dates_with_an_offset_are_instants_whatever_table_they_are_in(
    tmp_path: Path, offset: str, to: str
) -> None:
    texts = list(map(OFFSETS[offset], HOURS))
    frame = pl.DataFrame({"unique_id": 1, "ds": texts, "y": [float(i) for i in range(6)]})
    table: Any = frame
    if to == "csv":
        table = tmp_path / "series.csv"
        frame.write_csv(table)
    elif to != "polars":
        table = frame.to_pandas() if to == "pandas" else frame.to_arrow()
    schema = Schema.fit(table)
    assert str(schema.spacing) == "1:00:00"
    assert schema.steps == 6
    panel = schema.panel(table)
    assert panel.origin == np.datetime64("2024-03-30T22:00", "us")
    out = schema.output(panel.kind).table(
        {"f": np.ones((1, 6))}, ids=panel.ids, known=np.zeros(1, int), origin=panel.origin
    )
    found = pl.DataFrame(out) if to != "pandas" else pl.from_pandas(out)
    if to == "csv":
        assert found["ds"].dt.convert_time_zone("UTC").to_list() == HOURS
    elif offset not in ("that changes", "without a colon"):
        assert found["ds"].to_list() == texts  # so that it joins
    else:
        assert [dt.datetime.fromisoformat(text) for text in found["ds"]] == HOURS
    again = Schema.from_config(*schema.to_config())
    assert str(again.spacing) == "1:00:00"


@pytest.mark.parametrize(
    ("texts", "says", "item"),
    [
        (["2024-01-01T00:00Z", "2024-01-01T01:00"], "all have an offset, or that all have none", 2),
        (["2024-01-01T00:00Z", "2024-01-01Z"], "received '2024-01-01Z'", 2),
        (["2024-01-01T00:00Z", "2024-01-01T01:00+1"], r"received '2024-01-01T01:00\+1'", 2),
        (["2024-01-01T00:00Z", "2024-01-01T01:00+01:75"], r"\+01:75", 2),
        (["2024-01-01T00:00Z", "2024-02-30T01:00Z"], "2024-02-30", 2),
        (["2024-01-01T00:00 CET", "2024-01-01T00:00 CET"], "CET", 1),
    ],
)
def test_offsets_that_are_none_are_refused(tmp_path: Path, texts, says: str, item: int) -> None:
    frame = pl.DataFrame({"unique_id": [1, 2], "ds": texts, "y": 1.0})
    frame.write_csv(tmp_path / "series.csv")
    for table in (frame, tmp_path / "series.csv"):
        with pytest.raises(DataError, match=says) as error:
            Schema.fit(table)
        assert (error.value.column, error.value.item) == ("ds", item)
