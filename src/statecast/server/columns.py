"""``Columns``: the columns of a model as the arguments of ``observe``; of tensors and of Arrow.

A table of unknown origin is read in this process. Compressed columns, dictionaries and views can
stand for gigabytes in a few bytes. So the first two are refused, and views whose texts are longer
than the memory that is taken for a body.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from statecast.errors import RequestError, cut, listed, quoted
from statecast.server.wire import BODY_BYTES
from statecast.tables.schema import Schema

if TYPE_CHECKING:
    import pyarrow as pa


class Columns:
    """The columns of a model, by the argument of ``observe`` that has them.

    Parameters
    ----------
    schema : Schema

    Attributes
    ----------
    kinds : dict of str to mapping of str to str
        For "values", "static", "future" and "past": the kind of each column, "numeric" or another.
    """

    def __init__(self, schema: Schema) -> None:
        more = [name for name in (schema.group_col, schema.start_col) if name is not None]
        self.kinds: dict[str, Mapping[str, str]] = {
            "values": dict.fromkeys(schema.target_cols, "numeric"),
            "static": {**schema.static.kinds, **dict.fromkeys(more, "categorical")},
            "future": schema.future.kinds,
            "past": schema.past.kinds,
        }
        self._id_col, self._step_col = schema.id_col, schema.step_col

    def row(self, given: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Return values of columns as ``values``, ``static``, ``future`` and ``past``.

        Raises
        ------
        RequestError
            A name that no column has, or several (status 422).
        """
        parts: dict[str, dict[str, Any]] = {name: {} for name in self.kinds}
        for name, value in given.items():
            of = [part for part, kinds in self.kinds.items() if name in kinds]
            if len(of) != 1:
                names = dict.fromkeys(name for kinds in self.kinds.values() for name in kinds)
                raise RequestError(
                    422,
                    f"{where}: expected columns of the model, {listed(names, 20)}; received "
                    f"{quoted(name)}" + (f", which is one of {listed(of)}." if of else "."),
                )
            parts[of[0]][name] = value
        values = parts.pop("values")
        row: dict[str, Any] = {name: columns for name, columns in parts.items() if columns}
        if values:
            cells = [values.get(name) for name in self.kinds["values"]]
            row["values"] = cells if len(cells) > 1 else cells[0]
        return row

    def rows(self, data: bytes, most: int) -> list[dict[str, Any]]:
        """Return the rows of a stream of Arrow as the lines of a batch.

        Parameters
        ----------
        data : bytes
            A table with the columns of ids and of steps, and others of the model.
        most : int
            Rows.

        Raises
        ------
        RequestError
            No stream of Arrow (status 400); pyarrow is not installed, or columns of a type that is
            not read (415); columns that the model does not have (422); too many rows (413).
        """
        if find_spec("pyarrow") is None:
            raise RequestError(
                415,
                "Content-Type: tables of Arrow need pyarrow, which is not installed at the server. "
                "Send lines of JSON.",
            )
        import pyarrow as pa

        try:
            table = _table(data, most)
            names = table.column_names
            if len(set(names)) < len(names) or self._id_col not in names:
                raise RequestError(
                    422,
                    f"Body: expected different columns, with {quoted(self._id_col)}; received "
                    f"{listed(names, 20)}.",
                )
            own = [name for name in names if name not in (self._id_col, self._step_col)]
            self.row(dict.fromkeys(own), "Body")
            cells = {name: _cells(table[name]) for name in names}
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise RequestError(
                400, f"Body: expected a stream of Arrow ({cut(str(error), 200)})."
            ) from None
        items, steps = cells.pop(self._id_col), cells.pop(self._step_col, None)
        lines = []
        for number, item in enumerate(items):
            line = {"item": item} | ({} if steps is None else {"step": steps[number]})
            lines.append(line | self.row({name: cells[name][number] for name in cells}, "Body"))
        return lines


def _table(data: bytes, most: int) -> pa.Table:
    """The table of a stream whose messages are plain."""
    import pyarrow as pa

    messages, rows = pa.ipc.MessageReader.open_stream(pa.py_buffer(data)), 0
    while True:
        try:
            message = messages.read_next_message()
        except StopIteration:
            break
        if message.type == "record batch":
            _check_plain(message.metadata.to_pybytes())
        elif message.type != "schema":
            raise RequestError(
                415, f"Body: expected columns without dictionaries; received a {message.type}."
            )
    with pa.ipc.open_stream(pa.py_buffer(data)) as stream:
        for field in stream.schema:
            if not _is_read(field.type):
                raise RequestError(
                    415,
                    f"Body, {quoted(field.name)}: expected a column of numbers, text, booleans or "
                    f"dates; received {quoted(str(field.type))}.",
                )
        batches, length = [], 0
        for batch in stream:
            rows += batch.num_rows
            if rows > most:
                raise RequestError(413, f"Body: expected at most {most:,} rows; received more.")
            batch.validate(full=True)
            length += _length_of_views(batch)
            if length > BODY_BYTES * len(data):
                raise RequestError(
                    413,
                    f"Body: expected views of at most {BODY_BYTES * len(data):,} bytes of text; "
                    "received more. Send the columns as string.",
                )
            batches.append(batch)
        if not rows:
            raise RequestError(422, "Body: expected a row for each observation; received none.")
        return pa.Table.from_batches(batches)


def _check_plain(metadata: bytes) -> None:
    """Raise ``RequestError`` for compressed columns.

    pyarrow does not tell. ``metadata`` is a table of Flatbuffers, which pyarrow has verified: its
    third field is the header of a record batch, whose fourth field names a compression.
    """

    def at(table: int, field: int) -> int:
        """The place of a field of a table; 0 if it is absent."""
        (back,) = struct.unpack_from("<i", metadata, table)
        (size,) = struct.unpack_from("<H", metadata, table - back)
        place = 4 + 2 * field
        if place >= size:
            return 0
        (offset,) = struct.unpack_from("<H", metadata, table - back + place)
        return table + offset if offset else 0

    (root,) = struct.unpack_from("<I", metadata, 0)
    header = at(root, 2)
    header += struct.unpack_from("<I", metadata, header)[0]
    if at(header, 3):
        raise RequestError(415, "Body: expected columns without compression.")


def _length_of_views(batch: pa.RecordBatch) -> int:
    """The bytes of the texts of views. Views may share them."""
    import pyarrow as pa

    length = 0
    for column in batch.columns:
        if pa.types.is_string_view(column.type):
            views = np.frombuffer(column.buffers()[1], "<i4").reshape(-1, 4)  # a length is first
            length += int(views[column.offset : column.offset + len(column), 0].sum(dtype=np.int64))
    return length


def _is_read(kind: pa.DataType) -> bool:
    """Whether columns of a type are read."""
    import pyarrow as pa

    types = pa.types
    numbers = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
    texts = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    dates = types.is_date(kind) or types.is_timestamp(kind)
    return numbers or texts or dates or types.is_null(kind)


def _cells(column: pa.ChunkedArray) -> list[Any]:
    """The cells of a column as values of JSON: NaN is None, dates are texts."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz))
    cells = [None if cell != cell else cell for cell in column.to_pylist()]
    if pa.types.is_temporal(column.type):
        return [cell and cell.isoformat() for cell in cells]
    return cells
