"""Tables of every dtype of pandas, polars and Arrow, drawn by hypothesis, against an oracle.

The oracle is the content itself: lists of Python values, None where there is nothing. Whatever
dtype the columns have, they are read as that; and what cannot be read is a ``DataError``.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from statecast.errors import DataError
from statecast.tables.parse import parse
from statecast.tables.schema import Schema
from statecast.tables.steps import Names

pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")

pytestmark = pytest.mark.filterwarnings("ignore::statecast.errors.DataWarning")
NAMES = ("unique_id", "ds", "y")
KEYS = NAMES[:2]
Cells = list[Any]


@dataclass(frozen=True)
class Dtype:
    """A dtype of a library: what it can hold, and a column of it."""

    name: str
    holds: Callable[[Cells], bool]
    build: Callable[[Cells], Any]

    @property
    def truths(self) -> bool:
        """Whether it is of booleans, which are numbers but neither ids nor steps."""
        return self.name.lower() in ("bool", "boolean")


# -- what a dtype can hold -------------------------------------------------------------------


def there(cells: Cells) -> Cells:
    return [cell for cell in cells if cell is not None]


def full(cells: Cells) -> bool:
    return None not in cells


def whole(cells: Cells, low: float = -math.inf, high: float = math.inf) -> bool:
    return all(
        isinstance(c, (int, float)) and c == int(c) and low <= c <= high for c in there(cells)
    )


def real(cells: Cells) -> bool:
    return all(isinstance(cell, (int, float)) for cell in there(cells))


def text(cells: Cells) -> bool:
    return all(isinstance(cell, str) for cell in there(cells))


def truth(cells: Cells) -> bool:
    return whole(cells, 0, 1)


def bits(width: int, signed: bool) -> Callable[[Cells], bool]:
    low, high = (-(2 ** (width - 1)), 2 ** (width - 1) - 1) if signed else (0, 2**width - 1)
    return lambda cells: whole(cells, low, high)


def ints(cells: Cells) -> Cells:
    return [None if cell is None else int(cell) for cell in cells]


def nans(cells: Cells) -> Cells:
    return [math.nan if cell is None else float(cell) for cell in cells]


def mixed(cells: Cells) -> Cells:
    """Numbers of many kinds among objects, and nothing in many ways."""
    kinds = (float, Decimal, Fraction, np.float64, lambda v: int(v) if v == int(v) else float(v))
    nothing = (None, math.nan, pd.NA, pd.NaT, Decimal("NaN"), np.float32("nan"))
    return [
        nothing[i % len(nothing)] if cell is None else kinds[i % len(kinds)](cell)
        for i, cell in enumerate(cells)
    ]


def decimals(cells: Cells) -> Cells:
    return [None if cell is None else Decimal(str(cell)) for cell in cells]


# -- the dtypes of each library --------------------------------------------------------------

SIZES = (8, 16, 32, 64)
POLARS = [
    *(
        Dtype(
            f"{kind}{size}",
            bits(size, kind == "Int"),
            lambda c, t=f"{kind}{size}": pl.Series(ints(c), dtype=getattr(pl, t)),
        )
        for kind in ("Int", "UInt")
        for size in SIZES
    ),
    Dtype("Int128", whole, lambda c: pl.Series(ints(c), dtype=pl.Int128)),
    Dtype("Float32", real, lambda c: pl.Series(c, dtype=pl.Float32, strict=False)),
    Dtype("Float64", real, lambda c: pl.Series(c, dtype=pl.Float64, strict=False)),
    Dtype("Float64 with NaN", real, lambda c: pl.Series(nans(c), dtype=pl.Float64)),
    Dtype("Decimal", real, lambda c: pl.Series(decimals(c), dtype=pl.Decimal(20, 3))),
    Dtype(
        "Boolean",
        truth,
        lambda c: pl.Series([None if v is None else bool(v) for v in c], dtype=pl.Boolean),
    ),
    Dtype("Object", real, lambda c: pl.Series(mixed(c), dtype=pl.Object)),
    Dtype("String", text, lambda c: pl.Series(c, dtype=pl.String)),
    Dtype("Categorical", text, lambda c: pl.Series(c, dtype=pl.Categorical)),
    Dtype(
        "Enum", text, lambda c: pl.Series(c, dtype=pl.Enum(["unused", *dict.fromkeys(there(c))]))
    ),
    Dtype("Object of text", text, lambda c: pl.Series(c, dtype=pl.Object)),
    Dtype("Null", lambda c: not there(c), lambda c: pl.Series(c, dtype=pl.Null)),
]
PANDAS = [
    *(
        Dtype(
            f"{kind}{size}",
            lambda c, size=size, kind=kind: full(c) and bits(size, kind == "int")(c),
            lambda c, t=f"{kind}{size}": pd.Series(ints(c)).astype(t),
        )
        for kind in ("int", "uint")
        for size in SIZES
    ),
    *(
        Dtype(f"{t} masked", bits(size, t[0] == "I"), lambda c, t=t: pd.Series(ints(c), dtype=t))
        for size in SIZES
        for t in (f"Int{size}", f"UInt{size}")
    ),
    Dtype("float32", real, lambda c: pd.Series(nans(c), dtype="float32")),
    Dtype("float64", real, lambda c: pd.Series(nans(c), dtype="float64")),
    Dtype("Float64", real, lambda c: pd.Series(c, dtype="Float64")),
    Dtype("bool", lambda c: full(c) and truth(c), lambda c: pd.Series(c).astype(bool)),
    Dtype(
        "boolean",
        truth,
        lambda c: pd.Series([None if v is None else bool(v) for v in c], dtype="boolean"),
    ),
    Dtype("object", real, lambda c: pd.Series(mixed(c), dtype=object)),
    Dtype("Sparse", real, lambda c: pd.Series(pd.arrays.SparseArray(nans(c)))),
    Dtype("Arrow's float", real, lambda c: pd.Series(c, dtype=pd.ArrowDtype(pa.float64()))),
    Dtype("Arrow's int", bits(64, True), lambda c: pd.Series(ints(c), dtype="int64[pyarrow]")),
    Dtype(
        "Arrow's decimal",
        real,
        lambda c: pd.Series(decimals(c), dtype=pd.ArrowDtype(pa.decimal128(20, 3))),
    ),
    *(
        Dtype(t, text, lambda c, t=t: pd.Series(c, dtype=t))
        for t in ("str", "string", "string[pyarrow]", "string[python]", "category")
    ),
    Dtype("Arrow's text", text, lambda c: pd.Series(c, dtype=pd.ArrowDtype(pa.large_string()))),
    Dtype("object of text", text, lambda c: pd.Series(c, dtype=object)),
]
ARROW = [
    *(
        Dtype(
            f"{kind}{size}",
            bits(size, kind == "int"),
            lambda c, t=f"{kind}{size}": pa.array(ints(c), getattr(pa, t)()),
        )
        for kind in ("int", "uint")
        for size in SIZES
    ),
    *(
        Dtype(str(t), real, lambda c, t=t: pa.array(c, pa.float64()).cast(t))
        for t in (pa.float16(), pa.float32(), pa.float64())
    ),
    *(
        Dtype(str(t), real, lambda c, t=t: pa.array(decimals(c), t))
        for t in (pa.decimal128(20, 3), pa.decimal256(50, 3))
    ),
    Dtype(
        "bool", truth, lambda c: pa.array([None if v is None else bool(v) for v in c], pa.bool_())
    ),
    *(
        Dtype(str(t), text, lambda c, t=t: pa.array(c, t))
        for t in (pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string()))
    ),
    Dtype("null", lambda c: not there(c), lambda c: pa.nulls(len(c))),
]
LIBRARIES: dict[str, tuple[list[Dtype], Callable[[dict[str, Any]], Any]]] = {
    "polars": (POLARS, lambda columns: pl.DataFrame(columns)),
    "pandas": (PANDAS, lambda columns: pd.DataFrame(columns)),
    "pyarrow": (ARROW, lambda columns: pa.table(columns)),
}


# -- content ---------------------------------------------------------------------------------

# Each is exactly a number of 16 bits, or of three decimals
Numbers = st.sampled_from([0.0, 1.0, -1.0, 0.5, -2.5, 100.0, 255.0, 7.25, None])
Wholes = st.sampled_from([0.0, 1.0, 2.0, 5.0, 127.0, None])
Truths = st.sampled_from([0.0, 1.0, None])
Texts = st.sampled_from(["a", "b", "é ü", "NA", "-", "", None])


@dataclass(frozen=True)
class Content:
    """What the tables say, a list a column."""

    series: dict[str, Cells]
    static: dict[str, Cells]


@st.composite
def contents(draw: st.DrawFn) -> Content:
    items = draw(st.integers(1, 4))
    ids = draw(st.sampled_from([list(range(1, items + 1)), [f"item {i}" for i in range(items)]]))
    points = draw(
        st.lists(st.tuples(st.integers(0, items - 1), st.integers(1, 6)), min_size=1, unique=True)
    )
    cells = draw(st.sampled_from([Numbers, Wholes, Truths]))
    y = draw(st.lists(cells, min_size=len(points), max_size=len(points)))
    kinds = st.lists(st.sampled_from([Numbers, Wholes, Truths, Texts]), max_size=3)
    static = {
        f"s{i}": draw(st.lists(kind, min_size=items, max_size=items))
        for i, kind in enumerate(draw(kinds))
    }
    series = {"unique_id": [ids[i] for i, _ in points], "ds": [s for _, s in points], "y": y}
    return Content(series, {"unique_id": ids, **static})


def built(draw: Any, library: str, columns: dict[str, Cells]) -> tuple[Any, dict[str, str]]:
    """The table of a library, each column of a dtype that can hold it, and their names."""
    dtypes, table = LIBRARIES[library]
    chosen = {
        name: draw(
            st.sampled_from(
                [d for d in dtypes if d.holds(cells) and not (name in KEYS and d.truths)]
            ),
            label=name,
        )
        for name, cells in columns.items()
    }
    found = {name: dtype.build(columns[name]) for name, dtype in chosen.items()}
    return table(found), {name: dtype.name for name, dtype in chosen.items()}


def expected(cells: Cells) -> Cells:
    """A column of features as it is read: numbers, or texts of which an empty one is nothing."""
    return nans(cells) if real(cells) else [cell or None for cell in cells]


@pytest.mark.parametrize("library", LIBRARIES)
@settings(max_examples=150)
@given(contents(), st.data())
def test_a_table_of_any_dtypes_is_read_as_what_it_says(library: str, content, data) -> None:
    series, _ = built(data.draw, library, content.series)
    static, named = built(data.draw, library, content.static)
    parsed = parse(series, static, Names(*NAMES[:2], NAMES[2:]), None)
    assert parsed.ids == content.static["unique_id"]
    assert [type(item) for item in parsed.ids] == [type(i) for i in content.static["unique_id"]]
    assert parsed.series is not None
    (long,) = parsed.series
    assert [parsed.ids[row] for row in long.row] == content.series["unique_id"]
    assert long.when.tolist() == content.series["ds"]
    np.testing.assert_array_equal(long.y[:, 0], nans(content.series["y"]))
    for name, found in parsed.static.items():
        wanted = np.array(expected(content.static[name]), found.dtype)
        np.testing.assert_array_equal(found, wanted, err_msg=named[name])


@pytest.mark.parametrize("library", LIBRARIES)
@settings(max_examples=50)
@given(contents(), st.data())
def test_tables_of_different_dtypes_have_one_panel(library: str, content, data) -> None:
    """The fit's dtypes bind no later table: what is equal is read as equal."""
    ids, y = content.series["unique_id"], content.series["y"]
    seen = {item for item, value in zip(ids, y, strict=True) if value is not None}
    assume(seen)
    rows = {
        name: [cell for cell, item in zip(cells, ids, strict=True) if item in seen]
        for name, cells in content.series.items()
    }
    numeric = {n: c for n, c in content.static.items() if n in KEYS or (there(c) and real(c))}
    first = [built(data.draw, library, each)[0] for each in (rows, numeric)]
    other = data.draw(st.sampled_from(list(LIBRARIES)))
    second = [built(data.draw, other, each)[0] for each in (rows, numeric)]
    schema = Schema.fit(*first)
    one, two = schema.panel(*first), schema.panel(*second)
    assert one.ids.tolist() == two.ids.tolist()
    for name in ("y", "mask", "numeric", "codes"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)


# -- anything at all -------------------------------------------------------------------------

STRANGE: dict[str, list[Callable[[int], Any]]] = {
    "polars": [
        lambda n: pl.Series([dt.date(2024, 1, 1 + i % 28) for i in range(n)]),
        lambda n: pl.Series([dt.datetime(2024, 1, 1, tzinfo=dt.UTC)] * n),
        lambda n: pl.Series([dt.time(1, i % 60) for i in range(n)]),
        lambda n: pl.Series([dt.timedelta(i) for i in range(n)]),
        lambda n: pl.Series([b"\xff"] * n),
        lambda n: pl.Series([[1, 2]] * n),
        lambda n: pl.Series([[1.0, 2.0]] * n, dtype=pl.Array(pl.Float64, 2)),
        lambda n: pl.Series([{"a": i} for i in range(n)]),
        lambda n: pl.Series([{"a": i} for i in range(n)], dtype=pl.Object),
        lambda n: pl.Series([None] * n, dtype=pl.Null),
        lambda n: pl.Series([math.inf] * n),
        lambda n: pl.Series([math.nan] * n),
        lambda n: pl.Series([""] * n),
        lambda n: pl.Series([2**63 + i for i in range(n)], dtype=pl.UInt64),
    ],
    "pandas": [
        lambda n: pd.Series(pd.date_range("2024-01-01", periods=n, tz="Asia/Kolkata")),
        lambda n: pd.Series(pd.period_range("2024-01", periods=n, freq="M")),
        lambda n: pd.Series(pd.interval_range(0, n)),
        lambda n: pd.Series(pd.interval_range(0, n)).astype("category"),
        lambda n: pd.Series(pd.to_timedelta(range(n), unit="s")),
        lambda n: pd.Series([1j] * n),
        lambda n: pd.Series([[1], {2: 3}, {4}, (5,), None] * n).head(n),
        lambda n: pd.Series([1, "a", 2.5, dt.date(2024, 1, 1)] * n, dtype=object).head(n),
        lambda n: pd.Series([np.ones(2)] * n),
        lambda n: pd.Series([pd.DataFrame()] * n),
        lambda n: pd.Series([int] * n),
        lambda n: pd.Series([10**400] * n),
        lambda n: pd.Series([Decimal("sNaN")] * n),
        lambda n: pd.Series([Decimal("Infinity")] * n),
        lambda n: pd.Series([Decimal(10**40 + i) for i in range(n)]),
        lambda n: pd.Series([Fraction(1, 3)] * n),
        lambda n: pd.Series([math.inf] * n, dtype=object),
        lambda n: pd.Series([np.timedelta64(1, "s")] * n, dtype=object),
        lambda n: pd.Series([np.datetime64("2024-01-01")] * n, dtype=object),
        lambda n: pd.Series([True, None] * n, dtype=object).head(n),
        lambda n: pd.Series(pd.array([[1]] * n, dtype=pd.ArrowDtype(pa.list_(pa.int64())))),
    ],
    "pyarrow": [
        lambda n: pa.array([dt.date(2024, 1, 1)] * n, pa.date64()),
        lambda n: pa.array([dt.time(1)] * n, pa.time64("ns")),
        lambda n: pa.array([1] * n, pa.duration("ns")),
        lambda n: pa.array([1] * n, pa.timestamp("s", "Europe/Paris")),
        lambda n: pa.array([b"a"] * n, pa.binary(1)),
        lambda n: pa.array([[1]] * n),
        lambda n: pa.array([{"a": 1}] * n),
        lambda n: pa.array([[(1, 2)]] * n, pa.map_(pa.int8(), pa.int8())),
        lambda n: pa.array([(1, 2, 3)] * n, pa.month_day_nano_interval()),
        lambda n: pa.array([2**63 + i for i in range(n)], pa.uint64()),
        lambda n: pa.array([dt.date(2024, 1, 1)] * n).dictionary_encode(),
        lambda n: pa.array(["a"] * n, pa.string_view()),
        lambda n: pa.nulls(n),
        lambda n: pa.array([math.nan] * n, pa.float16()),
    ],
}


@pytest.mark.parametrize("library", LIBRARIES)
@settings(max_examples=80)
@given(st.data())
def test_a_column_of_anything_is_read_or_refused_by_its_name(library: str, data) -> None:
    good = {
        "series": {
            "unique_id": [1, 1, 2],
            "ds": [1, 2, 1],
            "y": [1.0, 2.0, 3.0],
            "seen": [1.0] * 3,
        },
        "static": {"unique_id": [1, 2], "area": [1.0, 2.0], "sex": ["a", "b"]},
        "future": {"unique_id": [1, 1, 2], "ds": [1, 2, 1], "promo": [0.0, 1.0, 0.0]},
    }
    role = data.draw(st.sampled_from(list(good)))
    name = data.draw(st.sampled_from(list(good[role])))
    place = data.draw(st.integers(0, len(STRANGE[library]) - 1))
    tokens = data.draw(st.booleans()) and role == "series" and name == "y"
    declared = (
        [name] if name in ("area", "sex", "promo", "seen") and data.draw(st.booleans()) else []
    )
    make = LIBRARIES[library][1]
    plain = {"polars": pl.Series, "pandas": pd.Series, "pyarrow": pa.array}[library]
    tables = {
        table: make(
            {
                column: STRANGE[library][place](len(cells))
                if (table, column) == (role, name)
                else plain(cells)
                for column, cells in columns.items()
            }
        )
        for table, columns in good.items()
    }
    past = () if tokens else ("seen",)
    series, static, future = tables.values()
    fine = {
        table: make({c: plain(v) for c, v in columns.items()}) for table, columns in good.items()
    }
    options = {"past_cols": past, "tokens": tokens, "categorical": declared}
    fitted = Schema.fit(**fine, past_cols=["seen"])
    for call in (
        lambda: Schema.fit(series, static, future=future, **options),
        lambda: fitted.panel(series, static, future=future),
    ):
        refused = None
        with suppress(DataError):
            try:
                call()
            except DataError as error:
                refused = error
                raise
        if refused is not None:
            assert len(str(refused)) < 1000
            assert refused.column in (None, name, *NAMES)
    fitted.panel(**fine)  # and the next good call works
