"""Tables of every dtype of pandas, polars and Arrow, drawn by hypothesis, against an oracle.

The oracle is the content itself: lists of Python values, None where there is nothing. Whatever
dtype the columns have, they are read as that; and what cannot be read is a ``DataError``.
"""

from __future__ import annotations

import datetime as dt
import math
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from small_tables import EXPECTED, SERIES, Y, seen
from statecast.errors import ArgumentError, DataError, DataWarning
from statecast.tables.columns import read_floats
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
    parsed = parse(series, static, None, Names(*NAMES[:2], NAMES[2:]), None)
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


AS_ARROW, AS_PANDAS = SERIES.to_arrow(), SERIES.to_pandas()


# -- nothing there ---------------------------------------------------------------------------

NOTHING = {
    "None": None,
    "NaN": float("nan"),
    "NumPy's NaN": np.float32("nan"),
    "pandas's NA": pd.NA,
    "NaT": pd.NaT,
    "NumPy's NaT": np.datetime64("NaT"),
    "a duration's NaT": np.timedelta64("NaT"),
    "decimal NaN": Decimal("NaN"),
    "signalling decimal NaN": Decimal("sNaN"),
}


def objects(library: str, **columns: list[Any]) -> Any:
    if library == "pandas":
        return pd.DataFrame({name: pd.Series(each, dtype=object) for name, each in columns.items()})
    return pl.DataFrame([pl.Series(name, each, dtype=pl.Object) for name, each in columns.items()])


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("name", NOTHING)
def test_nothing_is_nothing_in_every_column(library: str, name: str) -> None:
    nothing = NOTHING[name]
    good = {"unique_id": [1, 1, 2, 2, 3], "ds": [1, 2, 1, 2, 1], "y": [1.0, 2, 3, 5, 4]}
    for column in ("unique_id", "ds"):
        bad = good | {column: [*good[column][:4], nothing]}
        with pytest.raises(DataError, match=r"has none|received nothing") as error:
            Schema.fit(objects(library, **bad))
        assert error.value.column == column
    table = objects(library, **good | {"y": [1.0, 2, 3, nothing, 4]})
    schema = Schema.fit(table)
    assert seen(schema, table) == [[1, 2], [3, None], [4, None]]
    tokens = objects(library, **good | {"y": ["a", "b", "a", nothing, "c"]})
    assert Schema.fit(tokens, tokens=True).panel(tokens).mask.sum() == 4
    static = {"unique_id": [1, 2, 3], "area": [1, nothing, 3], "sex": ["M", "F", nothing]}
    future = {**{n: good[n] for n in ("unique_id", "ds")}, "sky": ["wet", nothing, *"abc"]}
    table = objects(library, **good | {"seen": [nothing, 1, 2, 3, nothing]})
    static, future = objects(library, **static), objects(library, **future)
    schema = Schema.fit(table, static, future=future, past_cols=["seen"])
    assert schema.static.categories == {"sex": ("F", "M")}
    with pytest.warns(DataWarning, match="is missing"):
        panel = schema.panel(table, static, future=future)
    assert panel.numeric[:, 1].tolist() == [0, 1, 0]
    assert panel.codes[:, 0].tolist() == [3, 2, 1]
    assert panel.future is not None
    assert panel.future.codes[0, :, 0].tolist() == [5, 1]
    assert panel.past is not None
    assert panel.past.there.tolist() == [[False, True], [True, True], [False, False]]


@pytest.mark.parametrize("dtype", ["string", "string[pyarrow]", "string[python]", "str"])
def test_nothing_among_texts_of_pandas(dtype: str) -> None:
    ids = pd.array(["a", "a", "b", "b", "c"], dtype=dtype)
    series = AS_PANDAS.assign(unique_id=ids)
    static = pd.DataFrame({"unique_id": ["a", "b", "c"]})
    static["sex"] = pd.array(["M", None, "F"], dtype=dtype)
    schema = Schema.fit(series, static)
    with pytest.warns(DataWarning, match="'sex' is missing .item 'b'"):
        assert schema.panel(series, static).codes[:, 0].tolist() == [3, 1, 2]
    tokens = series.assign(y=pd.array(["x", None, "x", "z", "x"], dtype=dtype))
    assert Schema.fit(tokens, tokens=True).panel(tokens).mask.sum() == 4
    with pytest.raises(DataError, match="has none"):
        Schema.fit(series.assign(unique_id=pd.array(["a", None, "b", "b", "c"], dtype=dtype)))
    days = pd.array(["2026-01-01", "2026-01-02", "2026-01-01", None, "2026-01-01"], dtype=dtype)
    with pytest.raises(DataError, match=r"received nothing .item 'b'"):
        Schema.fit(series.assign(ds=days))


# -- numbers of every type -------------------------------------------------------------------

WHOLE: dict[str, Callable[[list[int]], Any]] = {
    "objects": lambda v: pd.Series(v, dtype=object),
    "float objects": lambda v: pd.Series(list(map(float, v)), dtype=object),
    "NumPy's among objects": lambda v: pd.Series([np.int8(v[0]), *v[1:]], dtype=object),
    "decimal objects": lambda v: pd.Series(list(map(Decimal, v)), dtype=object),
    "fraction objects": lambda v: pd.Series(list(map(Fraction, v)), dtype=object),
    "sparse": lambda v: pd.Series(pd.arrays.SparseArray(v)),
    "masked": lambda v: pd.Series(v, dtype="Int16"),
    "pandas by Arrow": lambda v: pd.Series(v, dtype=pd.ArrowDtype(pa.decimal128(30, 2))),
    "polars objects": lambda v: pl.Series(v, dtype=pl.Object),
    "polars decimal": lambda v: pl.Series(v).cast(pl.Decimal(20, 3)),
    "polars 128 bits": lambda v: pl.Series(v, dtype=pl.Int128),
    "Arrow decimal": lambda v: pa.array(list(map(Decimal, v)), pa.decimal128(30, 0)),
    "Arrow decimal of 256 bits": lambda v: pa.array(list(map(Decimal, v)), pa.decimal256(60, 0)),
    "Arrow of 16 bits": lambda v: pa.array(v, pa.uint16()),
    "Arrow half floats": lambda v: pa.array(np.array(v, np.float16)),
}


def with_column(name: str, column: Any) -> Any:
    if isinstance(column, pl.Series):
        return SERIES.with_columns(column.alias(name))
    if isinstance(column, pd.Series):
        return AS_PANDAS.assign(**{name: column})
    return AS_ARROW.set_column(AS_ARROW.column_names.index(name), name, column)


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("name", ["unique_id", "ds", "y"])
def test_whole_numbers_of_every_type(kind: str, name: str) -> None:
    table = with_column(name, WHOLE[kind](SERIES[name].cast(int).to_list()))
    schema = Schema.fit(table)
    assert seen(schema, table) == EXPECTED
    assert schema.panel(table).ids.tolist() == [1, 2, 3]


def test_numbers_beyond_float64_are_near_or_refused() -> None:
    big = pa.array([2**60 + 1, 2, 3, 5, 4])
    assert seen(Schema.fit(with_column("y", big)), AS_ARROW)[1:] == EXPECTED[1:]
    static = pa.table({"unique_id": [1, 2, 3], "area": [2**63 - 1, -(2**62) - 1, None]})
    assert Schema.fit(AS_ARROW, static).static.numeric == ("area",)
    for value in (10**400, -(10**400), Decimal("1e400")):
        with pytest.raises(
            DataError, match=r"expected a number from -1e.100 to 1e.100.*\.\.\. \(item 1\)|1E\+400"
        ):
            Schema.fit(with_column("y", pd.Series([value, 2, 3, 5, 4], dtype=object)))
    far = pd.Series([Decimal(10**40), Decimal(10**40), 2, 2, 3], dtype=object)
    assert Schema.fit(AS_ARROW).panel(with_column("unique_id", far)).ids.tolist() == [
        10**40,
        2,
        3,
    ]
    for value in (Decimal("Infinity"), float("inf"), Fraction(1, 3), Decimal("1.5")):
        bad = pd.Series([value, 1, 2, 2, 3], dtype=object)
        with pytest.raises(DataError, match="column 'unique_id': expected whole numbers or text"):
            Schema.fit(with_column("unique_id", bad))
    ids = pa.array([2**64 - 1, 2**64 - 1, 2, 2, 3], pa.uint64())
    assert Schema.fit(AS_ARROW).panel(with_column("unique_id", ids)).ids.tolist() == [
        2**64 - 1,
        2,
        3,
    ]


NO_NUMBERS = {
    "list": [1],
    "dict": {"a": 1},
    "set": {1},
    "array": np.ones(2),
    "duration": np.timedelta64(1, "s"),
    "Python's duration": dt.timedelta(1),
    "pandas's duration": pd.Timedelta(1, "s"),
    "complex": 1j,
    "class": object(),
}


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("name", NO_NUMBERS)
def test_objects_that_are_no_numbers_are_refused_with_column_and_item(
    library: str, name: str
) -> None:
    good = {"unique_id": [1, 1, 2, 2, 3], "ds": [1, 2, 1, 2, 1], "y": [1.0, 2, 3, 5, 4]}

    def refused(column: str, item: Any, *tables: Any, **options: Any) -> None:
        with pytest.raises(DataError, match=f"column '{column}'") as error:
            Schema.fit(*tables, **options)
        assert error.value.column == column
        assert item is None or error.value.item == item

    bad = [NO_NUMBERS[name]] * 2
    for column in ("ds", "y"):
        refused(column, 2, objects(library, **good | {column: [*good[column][:2], *bad, 1]}))
    refused("y", 2, objects(library, **good | {"y": [*"ab", *bad, "a"]}), tokens=True)
    refused("unique_id", None, objects(library, **good | {"unique_id": [1, 1, *bad, 1]}))
    if name in ("list", "dict", "set", "array"):
        refused("unique_id", None, objects(library, **good | {"unique_id": bad * 2 + bad[:1]}))
    for cells in ([1, 2, bad[0]], ["a", "b", bad[0]]):
        static = objects(library, unique_id=[1, 2, 3], area=cells)
        refused("area", None, objects(library, **good), static)
        refused("area", None, objects(library, **good), static, categorical=["area"])
    Schema.fit(objects(library, **good))


# -- numbers, marks and codes ----------------------------------------------------------------


def files(folder: Path, **columns: list[str]) -> tuple[Path, Path]:
    """A series and a static CSV file of as many items as the columns are long."""
    n = len(next(iter(columns.values())))
    pl.DataFrame({"unique_id": range(n), "ds": 1, "y": 1.0}).write_csv(folder / "series.csv")
    lines = [",".join(["unique_id", *columns])]
    lines += [",".join([str(i), *(each[i] for each in columns.values())]) for i in range(n)]
    (folder / "static.csv").write_text("\n".join(lines) + "\n")
    return folder / "series.csv", folder / "static.csv"


MARKS = ["NA", "N/A", "#N/A", "<NA>", "null", "None", "nan", "-", ".", "", "NULL", " NA ", "n/a"]


@pytest.mark.parametrize("mark", MARKS)
def test_marks_among_the_numbers_of_a_file_are_missing(tmp_path: Path, mark: str) -> None:
    series, static = files(
        tmp_path, area=["1.5", mark, "2.5", mark, "9"], open=["true", mark] * 2 + ["false"]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schema = Schema.fit(series, static)
    assert schema.static.numeric == ("area", "open")
    with pytest.warns(DataWarning, match="'area' is missing .items 1, 3.; 'open' is missing"):
        panel = schema.panel(series, static)
    assert panel.numeric[:, 2].tolist() == [0, 1, 0, 1, 0]
    (tmp_path / "series.csv").write_text(f"unique_id,ds,y\n1,1,2\n1,2,{mark}\n1,3,4\n")
    assert seen(Schema.fit(series), series) == [[2, None, 4]]
    (tmp_path / "series.csv").write_text(f"unique_id,ds,y\n1,1,2\n{mark},2,2\n")
    with pytest.raises(DataError, match="expected an id in every row; row 2 has none"):
        Schema.fit(series)
    (tmp_path / "series.csv").write_text(f"unique_id,ds,y\n1,1,2\n1,{mark},2\n")
    with pytest.raises(DataError, match="column 'ds'"):
        Schema.fit(series)


def test_marks_among_texts_are_texts_and_one_never_met_is_missing(tmp_path: Path) -> None:
    series, static = files(tmp_path, land=["NA", "DE", "FR", "NA", "DE"])
    schema = Schema.fit(series, static)
    assert schema.static.categories == {"land": ("DE", "FR", "NA")}
    _, static = files(tmp_path, land=["none", "XX", "NA"])
    with pytest.warns(DataWarning, match="'land' is missing .item 0.; 'land' has 'XX', never seen"):
        assert schema.panel(None, static).codes[:, 0].tolist() == [1, 0, 4]


def test_a_file_of_numbers_and_a_few_texts_says_which(tmp_path: Path) -> None:
    area = [*map(str, range(20)), "big", "?", "12 km", "NA"]
    series, static = files(tmp_path, area=area)
    with pytest.warns(DataWarning, match="column 'area' is taken as categories") as caught:
        schema = Schema.fit(series, static)
    assert len(caught) == 1
    message = str(caught[0].message)
    for part in ("'big', '?', '12 km'", "(item 20)", "categorical=[...]", "Leave a cell empty"):
        assert part in message
    assert "NA" not in schema.static.categories["area"]  # as it is missing beside numbers
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Schema.fit(series, static, categorical=["area"])
        Schema.fit(*files(tmp_path, size=["S", "M", "L", "40", "42"]))  # mostly text: categories


@pytest.mark.parametrize("to", [lambda t: t, pl.DataFrame.to_pandas, pl.DataFrame.to_arrow])
def test_numbers_as_text_in_memory_say_so(to: Callable[[pl.DataFrame], Any]) -> None:
    """As polars reads a file of numbers with marks; codes as text are text, though."""
    static = pl.DataFrame({"unique_id": [1, 2, 3], "area": ["1.5", "NA", "2.5"]})
    with pytest.warns(DataWarning, match="numbers, but 'NA' .item 2.. Convert the column to num"):
        assert Schema.fit(to(SERIES), to(static)).static.categories == {"area": ("1.5", "2.5")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Schema.fit(to(SERIES), to(static.with_columns(area=pl.Series(["01", "17", "3"]))))


CODES: dict[str, Any] = {
    "whole numbers": [7, 7, 12],
    "floats": [7.0, 7.0, 12.0],
    "objects": pd.Series([7, "7", 12.0], dtype=object),
    "small": np.array([7, 7, 12], np.int8),
    "masked": pd.array([7, 7, 12], "Int64"),
    "category of numbers": pd.Series([7, 7, 12], dtype="category"),
    "category of floats": pd.Series([7.0, 7.0, 12.0], dtype="category"),
    "text": ["7", "7", "12"],
    "text of floats": ["7.0", "7.0", "12.0"],
    "decimals": pd.Series([Decimal("7.0"), Decimal(7), Decimal(12)], dtype=object),
}


@pytest.mark.parametrize("fitted", CODES)
@pytest.mark.parametrize("given", CODES)
def test_codes_are_the_same_categories_whatever_their_type(fitted: str, given: str) -> None:
    """One gap makes floats of pandas's whole numbers: '7.0' is the 7 of the fit."""
    schema = Schema.fit(
        AS_PANDAS,
        pd.DataFrame({"unique_id": [1, 2, 3], "shop": CODES[fitted]}),
        categorical=["shop"],
    )
    assert schema.static.categories == {"shop": ("12", "7")}
    static = pd.DataFrame({"unique_id": [1, 2, 3], "shop": CODES[given]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert schema.panel(AS_PANDAS, static).codes[:, 0].tolist() == [3, 3, 2]
    again = Schema.from_config(*schema.to_config())
    assert again.panel(AS_PANDAS, static).codes[:, 0].tolist() == [3, 3, 2]


def test_codes_of_files_arrays_covariates_and_booleans(tmp_path: Path) -> None:
    series, static = files(tmp_path, shop=["7", "12.0", "NA", "7.0"])
    schema = Schema.fit(series, static, categorical=["shop"])
    assert schema.static.categories == {"shop": ("12", "7")}
    with pytest.warns(DataWarning, match="'shop' is missing"):
        assert schema.panel(series, static).codes[:, 0].tolist() == [3, 2, 1, 3]
    X = np.array([[7.0, 1.5], [12.0, 2.5], [np.nan, 3.5]])
    schema = Schema.fit(Y, X, categorical=["x1"])
    assert schema.static.kinds == {"x2": "numeric", "x1": "codes"}
    with pytest.warns(DataWarning, match="'x1' is missing"):
        assert schema.panel(Y, X).codes[:, 0].tolist() == [3, 2, 1]
    with pytest.raises(
        DataError, match=r"'x1': expected whole numbers, .*; received 1\.5"
    ) as error:
        schema.panel(Y, np.where(X == 12, 1.5, X))
    assert (error.value.column, error.value.item) == ("x1", 1)
    F = np.array([[[3.0], [4.0]]] * 3)
    assert Schema.fit(Y, future=F, categorical=["f1"]).future.categories == {"f1": ("3", "4")}
    table = SERIES.with_columns(
        sky=pl.Series([1, 2, None, 1, 2]), wet=pl.Series([True, False] * 2 + [None])
    )
    schema = Schema.fit(table, past_cols=["sky", "wet"], categorical=["sky", "wet"])
    assert schema.past.categories == {"sky": ("1", "2"), "wet": ("false", "true")}


def test_what_cannot_be_categorical_is_refused() -> None:
    static = pl.DataFrame({"unique_id": [1, 2, 3], "area": [1.0, 2.5, 3.0]})
    with pytest.raises(
        DataError, match=r"categories: text, whole numbers or booleans; received 2\.5"
    ):
        Schema.fit(SERIES, static, categorical=["area"])
    for name in ("aera", "y", "ds"):
        with pytest.raises(ArgumentError, match=f"categorical: expected .*'area'.*'{name}'"):
            Schema.fit(SERIES, static, categorical=[name])
    schema = Schema.fit(SERIES, static.with_columns(area=pl.Series(["a", "b", "c"])))
    with pytest.raises(DataError, match="expected text, as in fit"):
        schema.panel(SERIES, static)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize(
    ("library", "dtype"),
    [
        *(
            ("polars", each)
            for each in (pl.Int8, pl.UInt64, pl.Int128, pl.Float32, pl.Decimal(20, 2))
        ),
        *(("pandas", each) for each in ("int16", "Int64", "Float32", "float64", "int64[pyarrow]")),
        *(("pyarrow", each) for each in (pa.int64(), pa.float32(), pa.decimal128(25, 2))),
    ],
)
def test_numbers_of_any_type_are_read_alike(library: str, dtype: Any, missing: bool) -> None:
    cells = [3, None if missing else 5, 120]
    if missing and (library, dtype) == ("pandas", "int16"):
        return  # NumPy's whole numbers have no missing value
    if library == "polars":
        column: Any = pl.Series(cells).cast(dtype)
    elif library == "pandas":
        column = pd.Series(cells, dtype=dtype)
    else:
        column = pa.chunked_array([pa.array(cells).cast(dtype)])
    values, bad = read_floats(nw.from_native(column, series_only=True), text=False)
    assert values.dtype == np.float64
    assert not bad.any()
    np.testing.assert_array_equal(values, [3.0, np.nan if missing else 5.0, 120.0])


def test_numbers_as_text_are_refused_by_the_cell_that_is_none() -> None:
    ids = [1, 2, 3]
    series = pl.DataFrame({"unique_id": ids, "ds": [1, 1, 1], "y": [1.0, 2.0, 3.0]})
    static = pl.DataFrame({"unique_id": ids, "size": [1.5, 2.5, 3.5]})
    schema = Schema.fit(series, static)
    text = static.with_columns(size=pl.Series(["21.8", "NA", "3.5"]))
    with pytest.raises(DataError, match=r"received 'NA' \(String\).*null_values") as error:
        schema.panel(series, text)
    assert error.value.item == 2
