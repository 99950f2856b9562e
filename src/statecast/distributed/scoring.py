"""``Scoring``: the forecasts of a table of items as one function of Arrow tables.

It runs in the workers of a cluster: on arrays, without a backend, with the model read once in a
process.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
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
        self._forecast_example({})  # so that what `predict` refuses is refused before any work

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
    def joined(self) -> Joined:
        """The one table that ``of_table`` takes."""
        return Joined(self.model.schema)

    def columns(self, role: str) -> tuple[str, ...]:
        """The columns that are needed of a table: "series", "static" or "future"."""
        schema = self.model.schema
        keys = (schema.id_col,) if role == "static" else (schema.id_col, schema.step_col)
        return (*keys, *getattr(self.joined, role))

    def of_tables(self, series: Any, static: Any = None, future: Any = None) -> pa.Table:
        """Forecast the items of Arrow tables.

        Parameters
        ----------
        series, static, future : pyarrow.Table or None
            As ``predict`` takes them.

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
        if isinstance(self.model, Forecaster):
            return self.model.predict(series, static, future=future, **options)
        if future is not None:
            raise DataError("Expected no future table, as tokens have no covariates; received one.")
        return self.model.generate(series, static, **options)

    def of_table(self, table: pa.Table) -> pa.Table:
        """Forecast the items of one joined table (``Joined``), which has all rows of its items."""
        return self.of_tables(*self.joined.tables(table))

    def schema(self, types: Mapping[str, pa.DataType]) -> pa.Schema:
        """The columns of the forecasts.

        Parameters
        ----------
        types : mapping of str to pyarrow.DataType
            The types of the columns of the items' tables.
        """
        return self._forecast_example(types).schema.remove_metadata()

    def _forecast_example(self, types: Mapping[str, Any]) -> Any:
        """The forecast of one item that is made up, in tables whose columns have these types."""
        import narwhals.stable.v2 as nw
        import pyarrow as pa

        values = self.joined.example()
        made = {}
        for name, cells in values.items():
            wanted = types.get(name)
            array = nw.new_series(name, cells, backend="pyarrow").to_native()
            made[name] = array if wanted is None else _cast(name, array, wanted)
        options = {**self.options, "until": None, "h": 1}
        with silent():
            return self._forecast(*self.joined.tables(pa.table(made)), options)


def _defaults(model: Any) -> dict[str, Any]:
    """The options that a caller may leave out, so that equal jobs have equal options."""
    found = {"until": None, "h": None, "strict": False}
    if isinstance(model, Forecaster):
        return found | {"level": (80,), "quantiles": (), "mean": False, "calibrated": True}
    return found | {"beam": Beam()}


def _cast(name: str, array: Any, wanted: Any) -> Any:
    """The cells of a column, which are made up, in another type."""
    import pyarrow as pa

    kinds = pa.types
    try:
        if kinds.is_dictionary(wanted):
            return _cast(name, array, wanted.value_type).dictionary_encode()
        if kinds.is_null(wanted):
            return pa.nulls(len(array))
        if kinds.is_integer(array.type) and (kinds.is_date32(wanted) or kinds.is_time32(wanted)):
            array = array.cast(pa.int32())
        if kinds.is_integer(array.type) and (
            kinds.is_binary(wanted) or kinds.is_large_binary(wanted)
        ):
            array = array.cast(pa.string())
        return array.cast(wanted, safe=False)  # a mean of whole numbers is no whole number
    except pa.ArrowException as error:
        raise DataError(
            f"Column {name!r}: expected a type like that of training, {array.type}; received "
            f"{wanted} ({error}). Cast the column.",
            column=name,
        ) from error


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
