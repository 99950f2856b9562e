"""``Scoring``: the forecasts of a table of items as one function of Arrow tables.

It runs in the workers of a cluster: on arrays, without a backend, with the model read once in a
process.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from statecast.errors import ArgumentError, DataError, listed, silent
from statecast.forecast.base import StateModel
from statecast.forecast.forecaster import Forecaster
from statecast.tables.horizon import Horizon
from statecast.tables.joined import Joined
from statecast.tokens.decoding import Beam
from statecast.tokens.forecaster import TokenForecaster

if TYPE_CHECKING:
    import pyarrow as pa

    Types = Mapping[str, Mapping[str, pa.DataType]]

ROLES = ("series", "static", "future")
OF_NUMBERS = ("until", "h", "strict", "level", "quantiles", "mean", "calibrated")
OF_TOKENS = ("until", "h", "strict", "beam")


class Scoring:
    """What is forecast, by which model. It can be pickled; a process reads the model once.

    Parameters
    ----------
    model : Forecaster or TokenForecaster
        A fitted model.
    options : mapping
        The arguments of ``predict``: ``until`` or ``h``, ``strict``, ``level``, ``quantiles``,
        ``mean``, ``calibrated``; those of ``generate``: ``until`` or ``h``, ``strict``, ``beam``.
        ``until`` is one step for all items.

    Raises
    ------
    ArgumentError
        A model of another class; other arguments, or values that ``predict`` refuses.
    NotFittedError
        The model is not fitted.
    """

    def __init__(self, model: Forecaster | TokenForecaster, options: Mapping[str, Any]) -> None:
        if not isinstance(model, StateModel):
            raise ArgumentError(
                "model: expected a Forecaster, a TokenForecaster or the path of a model file; "
                f"received {type(model).__name__}."
            )
        self.model = model
        known = OF_NUMBERS if isinstance(model, Forecaster) else OF_TOKENS
        wrong = [name for name in options if name not in known]
        if wrong:
            raise ArgumentError(
                f"Expected the arguments {listed(known, 10)}, as this is a "
                f"{type(model).__name__}; received {listed(wrong)}."
            )
        until = options.get("until")
        if isinstance(until, np.integer):
            until = int(until)
        if until is not None and not isinstance(until, int):
            raise ArgumentError(
                "until: expected one step for all items, as items are forecast in parts; received "
                f"{type(until).__name__}. Use h= for a number of steps after each prefix."
            )
        self.options = {**_defaults(model), **options, "until": until}
        for name in {"level", "quantiles"} & self.options.keys():
            given = self.options[name]
            if isinstance(given, (list, tuple)):
                self.options[name] = tuple(given)
            elif isinstance(given, (int, float)):
                self.options[name] = (given,)
        schema = model.schema
        Horizon.read(until, options.get("h"), schema.id_col, schema.first)
        self._check_options()  # so that what `predict` refuses is refused before any work

    def __reduce__(self) -> tuple[Any, ...]:
        return _read, (self._packed, self.digest)

    @cached_property
    def _packed(self) -> bytes:
        return pickle.dumps((self.model, self.options))

    @cached_property
    def digest(self) -> str:
        """A digest of the model file and the options."""
        return hashlib.blake2b(self._packed, digest_size=16).hexdigest()

    @cached_property
    def _joined(self) -> Joined:
        return Joined(self.model.schema)

    def columns(self, role: str) -> tuple[str, ...]:
        """The columns that are needed of a table: "series", "static" or "future"."""
        schema = self.model.schema
        keys = (schema.id_col,) if role == "static" else (schema.id_col, schema.step_col)
        return (*keys, *getattr(self._joined, role))

    def of_tables(self, series: Any = None, static: Any = None, future: Any = None) -> pa.Table:
        """Forecast the items of Arrow tables.

        Parameters
        ----------
        series, static, future : pyarrow.Table or None
            As ``predict`` takes them. A series or a future table without rows is as None. A static
            table without rows is not, so that items that it lacks are named.

        Returns
        -------
        pyarrow.Table
            As ``predict`` or ``generate`` returns it.

        Raises
        ------
        DataError
            As ``predict``.
        """
        return self._forecast(series, static, future, self.options)

    def _forecast(self, series: Any, static: Any, future: Any, options: Mapping[str, Any]) -> Any:
        series, future = (
            None if table is None or not len(table) else table for table in (series, future)
        )
        if isinstance(self.model, Forecaster):
            return self.model.predict(series, static, future=future, **options)
        if future is not None:
            raise DataError("Expected no future table, as tokens have no covariates; received one.")
        return self.model.generate(series, static, **options)

    def schema(self, types: Types) -> pa.Schema:
        """The columns of the forecasts.

        Parameters
        ----------
        types : mapping of str to mapping of str to pyarrow.DataType
            The types of the columns of the items' tables, by the roles of the tables.

        Raises
        ------
        DataError
            What ``predict`` raises for tables of these types, or without a table that it needs.
        """
        import pyarrow as pa

        key, cells = self.model.schema.id_col, self._joined.example()
        known = [cell is not None for cell in cells[self._joined.series[0]]]
        try:
            tables: dict[str, pa.Table | None] = dict.fromkeys(ROLES)
            for role, own in types.items():
                columns = {name: _made(name, cells[name], own[name], name == key) for name in own}
                tables[role] = pa.table(columns)
            if tables["series"] is not None:
                tables["series"] = tables["series"].filter(pa.array(known))
            if tables["static"] is not None:
                tables["static"] = tables["static"].slice(0, 1)
            elif not self._joined.static:  # so that there is an item
                tables["static"] = pa.table({key: ["1"]})
            with silent():
                found = self._forecast(**tables, options=self._one_step)
        except DataError as error:
            column = error.column or ""
            kinds = {role: own[column] for role, own in types.items() if column in own}
            if not kinds:  # no matter of types: a table that is missing, or is not wanted
                raise
            raise DataError(
                f"Column {column!r}: expected a type that `predict` takes; received "
                f"{_shown(kinds)}. Cast the column to the type that it had in fit.",
                column=column,
            ) from error
        return found.schema.remove_metadata()

    def _check_options(self) -> None:
        """Raise what ``predict`` raises for the options, by the forecast of an item that is made
        up."""
        import pyarrow as pa

        cells = {name: pa.array(each) for name, each in self._joined.example().items()}
        with silent():
            self._forecast(*self._joined.tables(pa.table(cells)), self._one_step)

    @property
    def _one_step(self) -> dict[str, Any]:
        """The options, for one step after each prefix."""
        return {**self.options, "until": None, "h": 1}


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type of the values of a column; of categories that of their values."""
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind


def decoded(column: Any) -> Any:
    """A column whose type is not that of categories."""
    return column.cast(plain_type(column.type))


def mixed_ids(key: str, kinds: Mapping[str, pa.DataType]) -> DataError:
    """The error for ids of several types, by the roles of their tables."""
    return DataError(
        f"Column {key!r}: expected ids of one type in all tables; received {_shown(kinds)}. Cast "
        "one of them.",
        column=key,
    )


def _shown(kinds: Mapping[str, pa.DataType]) -> str:
    return " and ".join(f"{kind} ({role})" for role, kind in kinds.items())


def _defaults(model: Any) -> dict[str, Any]:
    """The options that a caller may leave out, so that equal jobs have equal options."""
    found = {"until": None, "h": None, "strict": False}
    if isinstance(model, Forecaster):
        return found | {"level": (80,), "quantiles": (), "mean": False, "calibrated": True}
    return found | {"beam": Beam()}


def _made(name: str, cells: list[Any], wanted: Any, key: bool) -> Any:
    """A column of cells that are made up, in the type of the column that they stand for; raise
    ``DataError`` if they have no such type."""
    import pyarrow as pa

    kinds = pa.types
    if kinds.is_dictionary(wanted):
        return _made(name, cells, wanted.value_type, key).dictionary_encode()
    text = [kinds.is_string, kinds.is_large_string, kinds.is_string_view, kinds.is_binary]
    if key and not any(is_text(wanted) for is_text in (*text, kinds.is_large_binary)):
        cells = [1] * len(cells)  # ids may have another type than in training
    array = pa.array(cells)
    try:
        if kinds.is_null(wanted):
            return pa.nulls(len(array))
        if kinds.is_decimal(wanted):  # a cast refuses one that might be too small for any number
            unit = Decimal(1).scaleb(-wanted.scale)
            exact = [None if cell is None else Decimal(cell).quantize(unit) for cell in cells]
            return pa.array(exact, wanted)
        if kinds.is_date(wanted) and kinds.is_string(array.type):
            array = array.cast(pa.timestamp("us"))
        if kinds.is_integer(array.type) and (kinds.is_date32(wanted) or kinds.is_time32(wanted)):
            array = array.cast(pa.int32())
        if kinds.is_integer(array.type) and (
            kinds.is_binary(wanted) or kinds.is_large_binary(wanted)
        ):
            array = array.cast(pa.string())
        return array.cast(wanted, safe=False)  # a mean of whole numbers is no whole number
    except (pa.ArrowException, ArithmeticError, TypeError) as error:
        raise DataError(str(error), column=name) from error


_last: tuple[str, Any] = ("", None)  # what this process has read


def _read(packed: bytes, digest: str) -> Scoring:
    """Read what was pickled, unless it is what this process read last."""
    global _last
    if _last[0] != digest:
        model, options = pickle.loads(packed)
        found = object.__new__(Scoring)
        found.model, found.options = model, options
        found.__dict__["_packed"] = packed
        _last = digest, found
    return _last[1]
