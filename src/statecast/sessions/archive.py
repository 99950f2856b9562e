"""Journals in a Parquet file: a copy of sessions, or the way to another store.

A row is an event: ``id`` (the bytes of the item's id), ``seq``, ``time``, ``at`` and ``data``, as
in a store. A row group has whole journals. The metadata says which columns the events have, and
which model they were observed with.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from statecast.errors import StoreError
from statecast.files import file_path, id_of
from statecast.process import check_extra
from statecast.sessions.events import KINDS, PLAN, ROW
from statecast.sessions.store import Event

if TYPE_CHECKING:
    import pyarrow as pa

_FORMAT = {"statecast-sessions": "1"}
Journals = Mapping[bytes, list[Event]]


def write(path: Any, meta: Mapping[str, str], parts: Iterable[Journals]) -> int:
    """Write journals to a file, completely or not at all; return the number of items.

    Raises
    ------
    StoreError
        A file that cannot be written.
    MissingExtraError
        pyarrow is not installed.
    """
    check_extra("parquet", ["pyarrow"], "A Parquet file")
    import pyarrow as pa
    import pyarrow.parquet as pq

    target, count = file_path(path), 0
    part = Path(f"{target}.part")
    schema = _schema().with_metadata({**_FORMAT, **meta})
    try:
        with part.open("wb") as file:
            with pq.ParquetWriter(file, schema) as writer:
                for journals in parts:
                    rows = [(key, *event) for key, events in journals.items() for event in events]
                    columns = list(zip(*rows, strict=True))
                    arrays = [
                        pa.array(each, field.type)
                        for each, field in zip(columns, schema, strict=True)
                    ]
                    writer.write_table(pa.table(arrays, schema=schema), row_group_size=len(rows))
                    count += len(journals)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except OSError as error:
        raise StoreError(f"{target}: cannot be written ({error.strerror or error}).") from None
    finally:
        part.unlink(missing_ok=True)
    return count


def read(path: Any) -> tuple[dict[str, str], Iterator[Journals]]:
    """The metadata of a file that ``write`` wrote, and its journals in parts, checked.

    Raises
    ------
    StoreError
        A file that is missing, damaged, or not of sessions.
    MissingExtraError
        pyarrow is not installed.
    """
    check_extra("parquet", ["pyarrow"], "A Parquet file")
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = file_path(path)
    try:
        file = pq.ParquetFile(source)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{source}: cannot be read as a Parquet file ({error}).") from None
    given = {
        k.decode(): v.decode("utf-8", "replace")
        for k, v in (file.schema_arrow.metadata or {}).items()
    }
    if not _FORMAT.items() <= given.items() or not file.schema_arrow.equals(_schema()):
        raise StoreError(
            f"{source}: expected a file that `export` of this version wrote; received another one."
        )

    def parts() -> Iterator[Journals]:
        for number in range(file.num_row_groups):
            try:
                table = file.read_row_group(number)
                table.validate(full=True)
            except (OSError, pa.ArrowException) as error:
                raise StoreError(f"{source}: is damaged ({error}).") from None
            journals: dict[bytes, list[Event]] = {}
            times = table["time"].cast(pa.int64()).to_pylist()
            columns = [table[name].to_pylist() for name in ("id", "seq", "at", "data")]
            for key, seq, at, data, time in zip(*columns, times, strict=True):
                journals.setdefault(key, []).append(Event(seq, time, at, data))
            for key, events in journals.items():
                _check(key, events, str(source))
            yield journals

    return {name: text for name, text in given.items() if name not in _FORMAT}, parts()


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("id", pa.binary(), nullable=False),
            pa.field("seq", pa.int64(), nullable=False),
            pa.field("time", pa.timestamp("us", "UTC"), nullable=False),
            pa.field("at", pa.int64()),
            pa.field("data", pa.binary(), nullable=False),
        ]
    )


def _check(key: bytes, events: list[Event], where: str) -> None:
    """Raise ``StoreError`` unless a journal is one that sessions write."""
    try:
        item = id_of(key)
    except (LookupError, ValueError):
        raise StoreError(f"{where}: is damaged: it has an id {key[:80]!r}.") from None
    numbers = [event.seq for event in events] == list(range(1, len(events) + 1))
    times = all(a.time <= b.time for a, b in pairwise(events))
    kinds = all(event.data[:1] in KINDS for event in events)
    kinds &= all((event.at is None) != (event.data[:1] in (ROW, PLAN)) for event in events)
    if not (numbers and times and kinds):
        raise StoreError(f"{where}: is damaged: the journal of item {item!r:.80} is not whole.")
