"""``Invocations``: MLflow's scoring protocol, which clients of SageMaker and Databricks speak too.

A table of observations comes in, and forecasts go out, as from the server of a model that
``statecast.export.mlflow`` saved: nothing is stored. A table of ids alone is about stored items.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import narwhals.stable.v2 as nw

from statecast.errors import DataError, RequestError, listed, quoted, silent
from statecast.export.mlflow import Served
from statecast.server.wire import (
    CSV,
    Answer,
    Call,
    Limits,
    check_item,
    read_object,
    table_content,
    take_numbers,
)
from statecast.sessions.sessions import Sessions
from statecast.tables.columns import is_mark

_FORMATS = ("dataframe_split", "dataframe_records", "inputs", "instances")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_ID = re.compile(r"0|-?[1-9]\d{0,17}")
_WHOLE = re.compile(r"[+-]?\d{1,18}")

_TYPES = {"long": (int,), "double": (int, float), "boolean": (bool,)}  # of MLflow's parameters
_KINDS = {type(None): "", str: "text", bool: "boolean", int: "number", float: "number"}

Columns = dict[str, list[Any]]


class Invocations:
    """The route ``/invocations``.

    Parameters
    ----------
    sessions : Sessions
    limits : Limits
    """

    def __init__(self, sessions: Sessions, limits: Limits) -> None:
        self._sessions, self._limits = sessions, limits

    def post_invocation(self, call: Call) -> Answer:
        """Forecast the items of a table, or stored items."""
        served = Served(self._sessions.model)
        if call.media == CSV:
            columns, given = _of_csv(call.body, served), {}
        else:
            body = read_object(call.body, (*_FORMATS, "params"), nan=True)
            columns, given = _of_json(body), body.get("params")
        params = served.options(_params(given, served.parameters))
        schema = served.model.schema
        ids = columns.get(schema.id_col, [])
        if len(ids) > self._limits.rows:
            raise RequestError(
                413, f"Table: expected at most {self._limits.rows:,} rows; received {len(ids):,}."
            )
        take_numbers(call, params, len(set(map(str, ids))), schema, self._limits)
        with silent() as messages:
            if list(columns) == [schema.id_col]:
                found = self._stored(ids, params)
            else:
                found = served.forecast(_table(columns, served), params)
        return Answer(200, {"predictions": table_content(found), "warnings": messages})

    def _stored(self, ids: Sequence[Any], params: Mapping[str, Any]) -> Any:
        """The forecasts of stored items."""
        if not ids:
            raise RequestError(422, "Table: expected a row for each item; received none.")
        items = [
            check_item(item, self._limits.id, f"Row {row}, item") for row, item in enumerate(ids, 1)
        ]
        return self._sessions.forecast(list(dict.fromkeys(items)), **params)


# -- tables ---------------------------------------------------------------------------------------


def _of_json(body: Mapping[str, Any]) -> Columns:
    """The columns of a table in one of MLflow's formats."""
    formats = [name for name in _FORMATS if name in body]
    if len(formats) != 1:
        raise RequestError(
            422, f"Body: expected one of {listed(_FORMATS)}; received {listed(formats)}."
        )
    (name,) = formats
    content = body[name]
    if name == "dataframe_split":
        return _of_split(content)
    if isinstance(content, dict) and name != "dataframe_records":
        lists = all(isinstance(cells, list) for cells in content.values())
        if not lists or len(set(map(len, content.values()))) > 1:
            raise RequestError(422, f"{name}: expected columns: lists of one length.")
        return content
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise RequestError(
            422, f"{name}: expected a list of objects, one for each row; received another value."
        )
    names = dict.fromkeys(key for row in content for key in row)
    return {key: [row.get(key) for row in content] for key in names}


def _of_split(content: Any) -> Columns:
    """The columns of a table that has its names apart from its rows."""
    known = ("columns", "data", "index")
    if not isinstance(content, dict) or not {"columns", "data"} <= set(content) <= set(known):
        raise RequestError(422, "dataframe_split: expected an object with columns and data.")
    names, rows = content["columns"], content["data"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RequestError(422, "dataframe_split, columns: expected a list of names.")
    return _transposed(names, rows, "dataframe_split, data")


def _of_csv(body: bytes, served: Served) -> Columns:
    """The columns of a table as CSV, with a header. An empty cell is a missing value.

    Cells of a column of text stay text. Others are numbers or booleans where they are written so,
    and missing where ``NA_MARKS`` has them. Ids are whole numbers if all are written as such
    without leading zeros, in a table with further columns; else they are text, as stored items are.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RequestError(400, "Body: expected CSV in UTF-8; received other bytes.") from None
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except csv.Error as error:
        raise RequestError(400, f"Body: expected CSV ({error}).") from None
    if not rows:
        raise RequestError(422, "Body: expected CSV with a header; received nothing.")
    columns = _transposed(rows[0], rows[1:], "Body")
    schema = served.model.schema
    texts = {name for name, kind in served.types.items() if kind == "string"} | {schema.id_col}
    if schema.spacing is not None:
        texts |= {schema.step_col, schema.start_col or schema.step_col}
    ids = columns.get(schema.id_col, [])
    if len(columns) > 1 and all(map(_ID.fullmatch, ids)):
        texts -= {schema.id_col}
    return {
        name: [cell or None if name in texts else _cell(cell) for cell in cells]
        for name, cells in columns.items()
    }


def _transposed(names: Sequence[str], rows: Any, where: str) -> Columns:
    """The columns of a table of rows."""
    repeated = [name for name in dict.fromkeys(names) if list(names).count(name) > 1]
    if repeated:
        raise RequestError(422, f"{where}: expected different columns; {listed(repeated)} repeat.")
    good = isinstance(rows, list) and all(
        isinstance(row, list) and len(row) == len(names) for row in rows
    )
    if not good:
        raise RequestError(422, f"{where}: expected rows of {len(names)} cells, one for a column.")
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def _cell(text: str) -> Any:
    """A cell of CSV as a number or a boolean, if it is written so."""
    if _WHOLE.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text):
        return float(text)
    if not text.strip() or is_mark(text):
        return None
    return {"true": True, "false": False}.get(text.lower(), text)


def _table(columns: Columns, served: Served) -> Any:
    """A table of those columns that the model has."""
    kinds, ids = served.types, columns.get(served.model.schema.id_col, [])
    own = {
        name: _series(name, cells, kinds[name] == "string", ids)
        for name, cells in columns.items()
        if name in kinds
    }
    return nw.from_dict(own, backend="polars")


def _series(name: str, cells: Sequence[Any], text: bool, ids: Sequence[Any]) -> Any:
    """A column of cells of JSON; ``text``: of text, if all of them are missing."""

    def made(cells: Sequence[Any], kind: Any) -> Any:
        return nw.new_series(name, cells, kind, backend="polars")

    some = [cell for cell in cells if cell is not None]
    types = set(map(type, some))
    if types <= {str} and (types or text):
        return made(cells, nw.String())
    if types == {bool}:
        return made(cells, nw.Boolean())
    if types == {int} and all(-(2**63) <= cell < 2**63 for cell in some):
        return made(cells, nw.Int64())
    if types <= {int, float} and all(abs(cell) <= sys.float_info.max for cell in some):
        return made([cell if cell is None else float(cell) for cell in cells], nw.Float64())
    kinds = [_KINDS.get(type(cell), "another value") for cell in cells]
    first = next(kind for kind in kinds if kind)
    at = next((i for i, kind in enumerate(kinds) if kind and kind != first), kinds.index(first))
    raise DataError(
        f"Column {quoted(name)}: expected numbers, texts or booleans, of one type; received "
        f"{quoted(cells[at])}.",
        column=name,
        item=ids[at] if at < len(ids) else None,
    )


def _params(given: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a request, with their types checked."""
    if given is None:
        return {}
    if not isinstance(given, dict) or not set(given) <= set(known):
        raise RequestError(
            422,
            f"params: expected an object with some of {listed(known, 20)}; received "
            f"{listed(given) if isinstance(given, dict) else quoted(given)}.",
        )
    for name, value in given.items():
        kind, default, *shape = known[name]
        cells = value if shape else [value]
        good = isinstance(cells, list) and all(
            type(cell) in _TYPES[kind] or (cell is None and default is None) for cell in cells
        )
        if not good:
            expected = f"a list of {kind} numbers" if shape else f"a {kind} value"
            raise RequestError(
                422, f"params, {name}: expected {expected}; received {quoted(value)}."
            )
    return {name: value for name, value in given.items() if value is not None}
