"""Cells that are given one by one or as arrays, without a table: steps, numbers and features.

They are read by the rules of tables (``steps``, ``columns``), so that a model sees the same
numbers.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from statecast.checks import is_flag
from statecast.errors import DataError, listed, quoted
from statecast.tables.columns import LARGEST, category_of, object_floats
from statecast.tables.dates import Form
from statecast.tables.source import fail, is_missing
from statecast.tables.steps import MAX_STEPS, python_dates, text_dates

_EXPECTED = "a whole number from 1, or a date"


def read_steps(label: str, name: str, given: Any, ids: Sequence[Any]) -> tuple[np.ndarray, Form]:
    """Return steps and their form, as ``steps.read_when`` does for a column.

    Parameters
    ----------
    label, name : str
        Where the steps are, for messages.
    given : sequence or array, shape (n,)
        Whole numbers; NumPy's or Python's dates; or ISO text.
    ids : sequence, shape (n,)
        The item of each.

    Returns
    -------
    when : ndarray, shape (n,)
        float64, or datetime64[us], in UTC if the dates have a time zone.
    form : Form

    Raises
    ------
    DataError
        A value that is no step, or dates of several kinds.
    """
    cells = given.tolist() if isinstance(given, np.ndarray) and given.dtype == object else given

    def refuse(bad: np.ndarray, what: str = "") -> NoReturn:
        at = int(np.argmax(bad))
        fail(label, name, what or _EXPECTED, quoted(cells[at]), ids[at], "")

    array = given if isinstance(given, np.ndarray) else None
    if array is None and all(type(cell) is int for cell in cells):
        array = np.array(cells, np.float64)
    if array is not None and array.dtype.kind in "iuf":
        step = array.astype(np.float64)
        good = (step >= 1) & (step <= MAX_STEPS) & (step == np.floor(step))
        if not good.all():
            refuse(~good, f"a whole number from 1 to {MAX_STEPS:,}, or a date")
        return step, Form()
    if array is not None and array.dtype.kind == "M":
        when = array.astype("datetime64[us]")
        if np.isnat(when).any():
            refuse(np.isnat(when))
        if (when != array).any():
            refuse(when != array, "dates of whole microseconds")
        return when, Form("Datetime")
    cells = [each.astype("datetime64[us]").item() if isinstance(each, np.datetime64) else each
             for each in cells]  # fmt: skip
    if cells and all(isinstance(cell, str) for cell in cells):
        return text_dates(cells, False, refuse)
    dates = np.array([isinstance(cell, datetime.date) for cell in cells], bool)
    dates &= ~np.array([is_missing(cell) for cell in cells], bool)
    if cells and dates.all():
        return python_dates(cells, refuse)
    numbers, bad = object_floats(cells)
    bad |= np.isnan(numbers) | np.array([is_flag(cell) for cell in cells], bool)
    if bad.any():
        refuse(bad)
    return read_steps(label, name, numbers, ids)


def read_values(label: str, name: str, given: Any, ids: Sequence[Any]) -> np.ndarray:
    """Return numbers as float64, NaN where missing, shape (n,).

    Raises
    ------
    DataError
        Another number of values, a value that is no number, or one beyond 1e100.
    """
    if isinstance(given, np.ndarray) and given.dtype.kind in "biuf":
        values, bad = given.astype(np.float64), np.zeros(given.shape, bool)
    else:
        given = list(given)
        values, bad = object_floats(given)
    if values.shape != (len(ids),):
        raise DataError(
            f"{label}, column {quoted(name)}: expected {len(ids)} values; received "
            f"{len(values) if values.ndim == 1 else values.shape}.",
            column=name,
        )
    bad |= np.abs(values) > LARGEST
    if bad.any():
        at = int(np.argmax(bad))
        expected = f"a number from {-LARGEST:g} to {LARGEST:g}, or nothing"
        fail(label, name, expected, quoted(given[at]), ids[at], "Leave it out if it is not known.")
    return values


def read_features(
    what: str, kinds: Mapping[str, str], given: Any, ids: Sequence[Any]
) -> dict[str, np.ndarray]:
    """Return feature columns: float64 with NaN, or objects (text or None), shape (n,).

    Parameters
    ----------
    what : str
        "static", "future" or "past", for messages.
    kinds : mapping of str to str
        The columns of ``fit`` and their kinds, ``Columns.kinds``.
    given : mapping of str to sequence, shape (n,)
    ids : sequence, shape (n,)
        The item of each row.

    Raises
    ------
    DataError
        Other columns, or a value of another kind than in ``fit``.
    """
    if not isinstance(given, Mapping):
        raise DataError(
            f"{what}: expected a mapping of {listed(kinds)} to values; received "
            f"{type(given).__name__}."
        )
    for name in kinds:
        if name not in given:
            raise DataError(
                f"{what}: expected {quoted(name)}, as in fit; received {listed(given)}. None is a "
                "missing value.",
                column=name,
            )
    more = [name for name in given if name not in kinds]
    if more:
        raise DataError(
            f"{what}: expected the columns of fit ({listed(kinds)}); received {listed(more)} too. "
            f"Leave {'it' if len(more) == 1 else 'them'} out.",
            column=str(more[0]),
        )
    return {name: _feature(what, name, kind, given[name], ids) for name, kind in kinds.items()}


def _feature(what: str, name: str, kind: str, given: Any, ids: Sequence[Any]) -> np.ndarray:
    if kind == "numeric":
        return read_values(what, name, given, ids)
    cells = given.tolist() if isinstance(given, np.ndarray) else list(given)
    if len(cells) != len(ids):
        raise DataError(
            f"{what}, column {quoted(name)}: expected {len(ids)} values; received {len(cells)}.",
            column=name,
        )
    out = np.full(len(cells), None, object)
    for row, cell in enumerate(cells):
        if is_missing(cell) or cell == "":
            continue
        out[row] = category_of(cell, kind == "codes", kind == "codes")
        if out[row] is None:
            expected = "text or a whole number" if kind == "codes" else "text, as in fit"
            fail(what, name, expected, quoted(cell), ids[row], "")
    return out
