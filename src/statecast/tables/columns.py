"""Read the columns of a table as checked NumPy arrays: numbers, categories, y and tokens."""

from __future__ import annotations

import numbers
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NoReturn

import narwhals.stable.v2 as nw
import numpy as np

from statecast.checks import is_flag
from statecast.errors import DataError, cut, listed, quoted, warn
from statecast.tables.source import Table, fail, is_missing
from statecast.tables.vocabulary import MOST_TOKENS, UNKNOWN, Vocabulary, mixed, token, type_name

LARGEST = 1e100  # squares of larger numbers overflow float64: they are taken as infinite
_NUMBER = f"a number from {-LARGEST:g} to {LARGEST:g}"
WHOLE_NUMBER = r"^(0|-?[1-9][0-9]{0,17})$"  # whole numbers that survive text -> int -> text
_WHOLE_FLOAT = re.compile(r"(-?\d+)\.0+")  # a column of whole numbers with a missing value is float
# Types of numbers that NumPy has too.
_PLAIN_NUMBERS = (
    nw.Int8, nw.Int16, nw.Int32, nw.Int64, nw.UInt8, nw.UInt16, nw.UInt32, nw.UInt64, nw.Float32,
    nw.Float64,
)  # fmt: skip
# What files write for a missing number. In a column of text they are text: NA is also Namibia.
NA_MARKS = frozenset({"", "na", "n/a", "#n/a", "<na>", "null", "none", "nan", "-", "."})


def read_numbers(array: np.ndarray, label: str, letter: str, shape: str) -> np.ndarray:
    """Return an array argument as float64, NaN where missing; raise for other values.

    Messages name its columns ``letter`` and their number, as in ``x1``.
    """
    if array.ndim != shape.count(",") + 1:
        raise DataError(f"{label}: expected shape {shape}; received {array.shape}.")
    if array.dtype.kind in "biuf":
        values, bad = array.astype(np.float64), np.zeros(array.shape, bool)
    elif array.dtype == object:
        flat, wrong = object_floats(array.ravel().tolist())
        values, bad = flat.reshape(array.shape), wrong.reshape(array.shape)
    else:
        values, bad = np.full(array.shape, np.nan), np.ones(array.shape, bool)
    expected = "a number or NaN"
    if not bad.any():
        bad, expected = np.abs(values) > LARGEST, f"{_NUMBER}, or NaN"
    if bad.any():
        at = tuple(np.argwhere(bad)[0].tolist())
        raise DataError(
            f"{label}{list(at)}: expected {expected}; received {array[at]!r}.",
            column=f"{letter}{at[-1] + 1}" if letter else label,
            item=at[0],
        )
    return values


def is_number(text: str) -> bool:
    """Return whether a text is a number as Python writes it."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_y(table: Table, name: str, ids: list[Any]) -> np.ndarray:
    """Return the column of y, float64, NaN where missing; ``ids`` has the item of each row."""
    y, bad = read_floats(table.column(name), table.text)
    expected = "a number, or nothing where it was not observed"
    if not bad.any():
        bad, expected = np.abs(y) > LARGEST, _NUMBER
    if bad.any():
        at = int(np.argmax(bad))
        value = table.column(name).to_list()[at]
        advice = "Leave the cell empty (null or NaN) if nothing was observed."
        if isinstance(value, str):
            advice += " Text may also be tokens: TokenForecaster."
        fail(table.label, name, expected, quoted(value), ids[at], advice)
    return y


def token_cells(table: Table, name: str, vocabulary: Vocabulary) -> list[Any]:
    """Return the cells of a column of tokens.

    A CSV file has no types. Its cells are whole numbers or booleans if all of them can be read so
    and the vocabulary has that type or is empty. Else they are text, white space too. Among the
    numbers and booleans of a vocabulary a cell of white space is missing.
    """
    column = table.column(name)
    if table.text:
        kind = vocabulary.type if vocabulary.tokens else None
        if kind in (int, bool):
            cells = column.to_native()
            column = nw.from_native(cells.set(is_blank(cells), None), series_only=True)
        truth = column.str.to_lowercase()
        if kind in (int, None) and column.str.contains(WHOLE_NUMBER).all():
            column = column.cast(nw.Int64)
        elif kind in (bool, None) and truth.is_in(["true", "false"]).all():
            column = truth == "true"
    return read_cells(column)


def read_tokens(
    values: list[Any], label: str, name: str, ids: list[Any], vocabulary: Vocabulary
) -> tuple[np.ndarray, Vocabulary]:
    """Return the codes of the cells, float64 with NaN where missing, and the vocabulary.

    An empty vocabulary is learnt from the cells. A token that is not in the vocabulary gets the
    code of an unknown one, with a warning.
    """
    distinct: dict[Any, Any] = {}
    tokens = []
    for value, item in zip(values, ids, strict=True):
        try:
            key = (type(value), value)
            if key not in distinct:
                distinct[key] = token(value)
            tokens.append(distinct[key])
        except (TypeError, ValueError) as error:  # a list has no hash
            expected = str(error) if isinstance(error, ValueError) else "text or a number"
            fail(label, name, expected, quoted(value), item, "Convert the column.")
    learning = not vocabulary.tokens
    first = next((each for each in tokens if each is not None), None)
    kind = type(first) if learning else vocabulary.type
    at = mixed(tokens, kind)
    if first is not None and at is not None:
        expected = f"tokens of one type ({type_name(kind)}, as "
        expected += "in the first row)" if learning else "in fit)"
        fail(label, name, expected, quoted(tokens[at]), ids[at], "Convert the column.")
    seen = {each for each in distinct.values() if each is not None}
    if learning:
        if not seen:
            raise DataError(
                f"{label}, column {name!r}: expected tokens; every cell is empty.", column=name
            )
        vocabulary = Vocabulary.learn(seen)
        if len(seen) > MOST_TOKENS:
            raise DataError(
                f"{label}, column {name!r}: expected at most {MOST_TOKENS:,} different tokens; "
                f"received {len(seen):,}. A token is a character or a word, not a text or an id.",
                column=name,
            )
    codes = {each: float(code) for each, code in zip(seen, vocabulary.codes(seen), strict=True)}
    new = sorted(each for each, code in codes.items() if code == UNKNOWN)
    if new:
        at = tokens.index(new[0])
        warn(
            f"{label}, column {name!r}: tokens never seen in training, taken as unknown: "
            f"{listed(new, 3)} (item {quoted(ids[at])}).",
        )
    return np.array([codes.get(each, np.nan) for each in tokens], np.float64), vocabulary


def read_column(
    table: Table,
    name: str,
    ids: Sequence[Any],
    kind: str | None,
    learning: bool,
    feature: bool = True,
) -> np.ndarray:
    """Return a feature column: float64 with NaN, or objects (text or None).

    Parameters
    ----------
    ids : sequence
        The item of each row, for messages.
    kind : {"numeric", "categorical", "codes"} or None
        "categorical" is text. "codes" is text or whole numbers. None: the cells decide.
    learning : bool
        Whether the call is ``fit``.
    feature : bool
        Whether the column is a feature, which may be left out; else it is one that a setting names.
    """
    read = _Feature(table, name, table.column(name), ids, feature)
    values, bad = read_floats(read.column, table.text)
    if kind is None:
        kind = _kind_of(read, values, bad)
    if kind == "numeric":
        return _numbers_of(read, values, bad)
    cells = read_cells(read.column)
    if any(cell is not None for cell in cells):
        _check_text(read, cells, bad, codes=kind == "codes")
    # "NA" and the like are missing values only if most other cells are numbers.
    marks = learning and _mostly_numbers(cells)
    return _categories_of(read, cells, codes=kind == "codes", marks=marks)


@dataclass(frozen=True)
class _Feature:
    """A column that is read; ``ids`` has the item of each row, and ``feature`` is whether the
    column may be left out."""

    table: Table
    name: str
    column: Any
    ids: Sequence[Any]
    feature: bool

    def refuse(self, at: int, expected: str, remedy: str = "") -> NoReturn:
        """Raise for the cell of row ``at``; ``remedy`` follows the advice."""
        received = f"{quoted(self.column.to_list()[at])} ({cut(str(self.column.dtype))})"
        advice = "Convert the column"
        advice += ", or leave it out of fit and predict." if self.feature else "."
        advice += remedy
        fail(self.table.label, self.name, expected, received, self.ids[at], advice)

    @property
    def named(self) -> bool:
        """Whether the type of the column names its categories."""
        return isinstance(self.column.dtype, (nw.Categorical, nw.Enum))


def _kind_of(feature: _Feature, values: np.ndarray, bad: np.ndarray) -> str:
    """Return "numeric" or "categorical", by the cells; ``values, bad`` are of ``read_floats``."""
    table, column = feature.table, feature.column
    if bad.any():
        _warn_of_numbers(table, feature.name, column, feature.ids)
        return "categorical"
    # In a CSV file white space is missing beside numbers, and text where there are none.
    no_number = table.text and bool(np.isnan(values).all())
    return "categorical" if no_number and is_blank(column.to_native()).any() else "numeric"


def _numbers_of(feature: _Feature, values: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """Return the values of a numeric column, which ``read_floats`` has read."""
    if bad.any():
        at = np.flatnonzero(bad)
        cells = feature.column.to_list()
        other = [row for row in at if not (isinstance(cells[row], str) and is_number(cells[row]))]
        remedy = ""
        if 0 < len(other) < len(at):  # numbers as text, because of the others
            remedy = (
                " The column is text, as read by a library that does not take such cells as "
                "missing: name them when you read it (null_values of polars.read_csv), or pass the "
                "path of the file."
            )
        feature.refuse(int((other or at)[0]), "a number, as in fit", remedy)
    infinite = np.abs(values) > LARGEST
    if infinite.any():
        feature.refuse(int(np.argmax(infinite)), _NUMBER)
    return values


def _check_text(feature: _Feature, cells: list[Any], bad: np.ndarray, *, codes: bool) -> None:
    """Raise for a column of numbers where ``fit`` had text."""
    text = feature.table.text or feature.named or isinstance(feature.column.dtype, nw.String)
    if not (codes or bad.any() or text):
        at = next(i for i, cell in enumerate(cells) if cell is not None)
        feature.refuse(at, "text, as in fit")


def _categories_of(feature: _Feature, cells: list[Any], *, codes: bool, marks: bool) -> np.ndarray:
    """Return the category of each cell, text or None; ``marks``: those of ``NA_MARKS`` are None."""
    dtype, named = feature.column.dtype, feature.named
    known = named or isinstance(dtype, (nw.String, nw.Object))
    known |= codes and (dtype.is_numeric() or isinstance(dtype, (nw.Boolean, nw.Unknown)))
    out = np.full(len(cells), None, object)
    for i, cell in enumerate(cells):
        if cell is None or (isinstance(cell, str) and (not cell or (marks and is_mark(cell)))):
            continue
        text = category_of(cell, codes or named, codes) if known else None
        if text is None and named:
            text = str(cell)  # an interval of pandas.cut
        if text is None:
            expected = "numbers, text, categories or booleans"
            if codes:
                expected = "categories: text, whole numbers or booleans"
            feature.refuse(i, expected + (", of one type" if isinstance(dtype, nw.Object) else ""))
        out[i] = text
    return out


def category_of(cell: Any, numbers_too: bool, codes: bool) -> str | None:
    """Return the category that a cell stands for, or None. 3.0 is the whole number 3."""
    if isinstance(cell, str):
        whole = _WHOLE_FLOAT.fullmatch(cell) if codes else None
        return whole[1] if whole else str(cell)
    if not numbers_too or not is_real_number(cell):
        return None
    if is_flag(cell):
        return str(cell).lower() if codes else str(cell)
    number = whole_number(cell)
    return None if number is None else str(number)


def whole_number(value: Any) -> int | None:
    """Return the whole number that a value equals, or None."""
    if not is_real_number(value):
        return None
    try:
        whole = int(value)
    except (OverflowError, ValueError):  # infinite
        return None
    return whole if whole == value else None


def coded_columns(
    label: str,
    columns: dict[str, np.ndarray],
    kinds: Mapping[str, str | None],
    items: Sequence[int],
) -> dict[str, np.ndarray]:
    """Return the columns of an array; the categorical ones as objects (text or None)."""
    out = dict(columns)
    for name, kind in kinds.items():
        if kind in ("codes", "categorical"):
            values = columns[name]
            bad = ~np.isnan(values) & (values != np.floor(values))
            if bad.any():
                at = int(np.argmax(bad))
                expected = "whole numbers, as it is categorical"
                fail(label, name, expected, quoted(float(values[at])), items[at], "")
            out[name] = np.array([None if v != v else str(int(v)) for v in values], object)
    return out


def is_mark(cell: Any) -> bool:
    """Return whether a cell is one of ``NA_MARKS``, in upper or lower case."""
    return isinstance(cell, str) and cell.strip().lower() in NA_MARKS


def is_blank(cells: Any) -> Any:
    """Return which cells of a polars series are white space; null where they are null."""
    return cells.str.strip_chars() == ""


def are_marks(cells: Any) -> Any:
    """Apply ``is_mark`` to a polars series."""
    return cells.str.strip_chars().str.to_lowercase().is_in(list(NA_MARKS))


def _mostly_numbers(cells: list[Any]) -> bool:
    """Return whether more than half of the cells that are not missing or marks are numbers, also
    numbers written as text."""
    count = Counter(cell for cell in cells if isinstance(cell, str) and not is_mark(cell))
    found = sum(times for text, times in count.items() if is_number(text))
    found += sum(not isinstance(cell, str) and is_real_number(cell) for cell in cells)
    return 2 * found > sum(count.values()) + sum(
        cell is not None and not isinstance(cell, str) for cell in cells
    )


def _warn_of_numbers(table: Table, name: str, column: Any, ids: Sequence[Any]) -> None:
    """Warn if most cells of a column that is taken as categorical are numbers."""
    if not isinstance(column.dtype, (nw.String, nw.Object)):
        return
    cells = read_cells(column)
    if not _mostly_numbers(cells):
        return
    texts = dict.fromkeys(cell for cell in cells if isinstance(cell, str) and cell)
    marks = [text for text in texts if is_mark(text)]
    others = [text for text in texts if not is_number(text) and not is_mark(text)]
    codes = all(text.strip().isdigit() for text in texts if is_number(text))
    if not table.text and codes and not marks:
        return  # codes: whoever made the table chose the type text for them
    odd = others or marks
    found = (
        f", but {listed(odd, 5)} (item {quoted(ids[cells.index(odd[0])])})" if odd else ", as text"
    )
    remedy = "Leave a cell empty where a number is missing"
    if not table.text:
        remedy = "Convert the column to numbers"
    warn(
        f"{table.label}, column {quoted(name)} is taken as categories: most cells are numbers"
        f"{found}. {remedy}; if they are categories, name the column in categorical=[...]."
    )


def missing_cells(column: Any) -> np.ndarray:
    """Return where the cells are missing, (N,) bool. In a column of objects NaN is missing too."""
    if isinstance(column.dtype, (nw.Object, nw.Unknown)):
        return np.array([is_missing(cell) for cell in column.to_list()], bool)
    if not column.null_count():  # polars takes far longer for `is_null`
        return np.zeros(len(column), bool)
    return column.is_null().to_numpy()


def read_cells(column: Any) -> list[Any]:
    """Return the cells as Python objects, None where missing.

    NumPy scalars in a column of objects become Python objects.
    """
    cells, dtype = column.to_list(), column.dtype
    if isinstance(dtype, (nw.Object, nw.Unknown)) or dtype.is_float():
        return [plain_cell(cell) for cell in cells]
    if column.null_count():
        missing = column.is_null().to_numpy()
        cells = [None if m else cell for m, cell in zip(missing, cells, strict=True)]
    return cells


def plain_cell(cell: Any) -> Any:
    """Return a cell as a Python object, None where missing."""
    if is_missing(cell):
        return None
    moment = isinstance(cell, (np.datetime64, np.timedelta64))  # their .item() may be an int
    return cell.item() if isinstance(cell, np.generic) and not moment else cell


def is_real_number(value: Any) -> bool:
    """Return whether an object is a real number or a boolean, but not a duration.

    NumPy registers ``timedelta64`` as a number.
    """
    return isinstance(value, (numbers.Real, Decimal, np.bool_)) and not isinstance(
        value, np.timedelta64
    )


def read_floats(column: Any, text: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return a column as float64, NaN where missing, and which cells are not numbers (bool)."""
    dtype = column.dtype
    if text:
        import polars as pl

        cell = column.to_native().str.strip_chars()
        number = cell.cast(pl.Float64, strict=False)
        if (number.is_null() & cell.is_not_null()).any():
            cell = cell.set(are_marks(cell), None)
            truth = cell.str.to_lowercase().replace_strict(
                {"true": 1.0, "false": 0.0}, default=None, return_dtype=pl.Float64
            )
            number = number.fill_null(truth)
        bad = (number.is_null() & cell.is_not_null()).to_numpy()
        return number.to_numpy().astype(np.float64), bad
    missing = missing_cells(column)
    if isinstance(dtype, _PLAIN_NUMBERS) and not missing.any():
        return column.to_numpy().astype(np.float64), missing
    if missing.all():
        return np.full(len(missing), np.nan), np.zeros(len(missing), bool)
    if dtype.is_numeric() or isinstance(dtype, nw.Boolean):
        try:
            values = np.array(column.cast(nw.Float64).to_numpy(), np.float64)
        except (ValueError, ArithmeticError):  # Arrow's whole numbers beyond 2**53 are not exact
            return object_floats(read_cells(column))
        return values, np.zeros(len(values), bool)
    if isinstance(dtype, (nw.Object, nw.Unknown)):
        return object_floats(read_cells(column))
    return np.full(len(missing), np.nan), ~missing


def object_floats(values: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Do as ``read_floats`` for Python objects: numbers, booleans, decimals, None."""
    out = np.full(len(values), np.nan)
    bad = np.zeros(len(values), bool)
    for i, value in enumerate(values):
        if is_missing(value):
            continue
        if is_real_number(value):
            try:
                out[i] = float(value)
            except OverflowError:
                out[i] = np.inf
        else:
            bad[i] = True
    return out, bad
