"""Journals in a Parquet file: a copy is the sessions, and another file is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import streams
from statecast import errors
from statecast.forecast.forecaster import Forecaster
from statecast.sessions import Sessions, sessions, writer
from streams import Stream


@pytest.fixture(scope="module")
def model() -> Forecaster:
    return streams.plain()


@pytest.fixture
def filled(model: Forecaster, tmp_path: Path) -> Any:
    """Sessions with items of several types, and what is known of them."""
    with Sessions(model, tmp_path / "items.db") as own:
        stream = Stream(model, 0)
        for i in range(7):
            for number in (3, 1, 4):
                stream.observe(own, f"item {i}", number)
        own.reset("item 5")
        stream.items["item 5"] = streams.Known(stream.items["item 5"].static)
        own.set_state("item 6", own.state("item 0"))
        own.observe(7, 1, 50.0, static={"level": 0.1, "group": "a"})
        yield own, stream


pytestmark = pytest.mark.filterwarnings("ignore:Static columns")


def test_a_copy_is_the_sessions(
    filled: Any, model: Forecaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, _ = filled
    monkeypatch.setattr(sessions, "_BATCH", 3)  # several parts
    monkeypatch.setattr(writer, "_EVERY", 2)
    path, ids = tmp_path / "copy.parquet", sorted(own.items(), key=str)
    assert own.export(path) == len(own) == 8
    assert pq.ParquetFile(path).num_row_groups == 3
    with Sessions(model, tmp_path / "other.db") as other:
        assert other.restore(path) == 8
        assert other.restore(path) == 0
        assert sorted(other.items(), key=str) == ids
        for item in ids:
            assert other.history(item).equals(own.history(item))
            assert other.state(item) == own.state(item)
        own.observe("item 1", 5, 51.0)
        other.observe("item 1", 5, 51.0)
        assert other.state("item 1") == own.state("item 1")
        assert [each.name for each in tmp_path.glob("*.part")] == []


def test_another_model_replays_a_copy(filled: Any, tmp_path: Path) -> None:
    own, stream = filled
    new, path = streams.plain(seed=5), tmp_path / "copy.parquet"
    own.export(path)
    with Sessions(new, tmp_path / "other.db") as other:
        with pytest.raises(errors.StateError, match=r"'item 6'.*its state was set"):
            other.restore(path)
        assert len(other) == 0
        own.delete(["item 6", 7])
        own.export(path)
        other.restore(path)
        del stream.items["item 6"]
        stream.f = new
        stream.check(other)


def test_an_item_with_another_journal_is_refused(
    filled: Any, model: Forecaster, tmp_path: Path
) -> None:
    own, _ = filled
    path = tmp_path / "copy.parquet"
    own.export(path)
    own.observe("item 2", 5, 51.0)
    state = own.state("item 2")
    with pytest.raises(errors.DataError, match="another journal") as error:
        own.restore(path)
    assert error.value.item == "item 2"
    assert own.state("item 2") == state


def change(path: Path, **columns: Any) -> None:
    """Write a file again with other values in the first rows."""
    table = pq.read_table(path)
    for name, values in columns.items():
        place, field = table.schema.get_field_index(name), table.schema.field(name)
        whole = [*values, *table[name].to_pylist()[len(values) :]]
        table = table.set_column(place, field, pa.array(whole, field.type))
    pq.write_table(table, path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"seq": [2]}, "is not whole"),
        ({"time": [2**53]}, "is not whole"),
        ({"data": [b"\x09"]}, "is not whole"),
        ({"at": [1]}, "is not whole"),
        ({"id": [b"nothing"]}, "has an id"),
        ({"data": [b"\x03"]}, "other"),
    ],
)
def test_a_damaged_file_is_refused(
    columns: dict[str, Any], message: str, filled: Any, model: Forecaster, tmp_path: Path
) -> None:
    own, _ = filled
    path = tmp_path / "copy.parquet"
    own.export(path)
    change(path, **columns)
    with Sessions(model, tmp_path / "other.db") as other:
        with pytest.raises(errors.StoreError, match=message):
            other.restore(path)
        assert len(other) == 0


def test_other_files_are_refused(filled: Any, tmp_path: Path) -> None:
    own, _ = filled
    path = tmp_path / "other.parquet"
    with pytest.raises(errors.StoreError, match="cannot be read"):
        own.restore(path)
    path.write_bytes(b"PAR1" * 10)
    with pytest.raises(errors.StoreError, match="cannot be read"):
        own.restore(path)
    pl.DataFrame({"id": [b"a"]}).write_parquet(path)
    with pytest.raises(errors.StoreError, match="of this version"):
        own.restore(path)
    with Sessions(streams.dated(), tmp_path / "dated.db") as dated:
        dated.observe("a", "2024-01-01", 50.0)
        dated.export(path)
    with pytest.raises(errors.StoreError, match=r"steps as numbers.*steps as dates"):
        own.restore(path)
    with pytest.raises(errors.StoreError, match="cannot be written"):
        own.export(tmp_path / "no folder" / "copy.parquet")
