"""What is a table or an array, and what is neither; CSV files; messages about missing columns."""

from __future__ import annotations

import datetime as dt
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import narwhals
import narwhals.stable.v1
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from small_tables import EXPECTED, SERIES, Y, seen
from statecast.errors import DataError, DataWarning
from statecast.tables.schema import Schema

pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")

ARROW, PANDAS = SERIES.to_arrow(), SERIES.to_pandas()


# -- what is a table or an array, and what is neither ----------------------------------------


class Labelled:
    """NumPy makes an array of it, as of xarray's: the axes may be in any order."""

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        return np.array(Y)

    def to_dataframe(self) -> None: ...


TABLES: dict[str, Callable[[], Any]] = {
    "Arrow table": lambda: ARROW,
    "Arrow record batch": lambda: ARROW.to_batches()[0],
    "narwhals frame": lambda: narwhals.from_native(SERIES),
    "narwhals lazy frame": lambda: narwhals.from_native(SERIES.lazy()),
    "narwhals stable frame": lambda: narwhals.stable.v1.from_native(PANDAS),
    "narwhals frame of a table of Arrow": lambda: narwhals.from_native(ARROW),
    "polars lazy frame": SERIES.lazy,
    "array": lambda: np.array(Y),
    "lists": lambda: Y,
    "tuple of arrays": lambda: tuple(np.array(Y)),
    "objects": lambda: np.array([[1, 2], [Decimal(3), Fraction(5)], [4, pd.NA]], object),
    "lists with None": lambda: [[1, 2], [3, 5], [4, None]],
    "masked array of whole numbers": lambda: np.ma.masked_equal([[1, 2], [3, 5], [4, 9]], 9),
    "masked array": lambda: np.ma.masked_invalid(np.array(Y)),
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_and_arrays_of_every_kind_are_read(kind: str) -> None:
    schema = Schema.fit(TABLES[kind]())
    assert schema.steps == 2
    assert seen(schema, TABLES[kind]()) == EXPECTED


def test_tensors_are_arrays() -> None:
    import jax.numpy as jnp

    assert seen(Schema.fit(jnp.array(Y)), jnp.array(Y)) == EXPECTED
    torch = pytest.importorskip("torch")
    assert seen(Schema.fit(torch.tensor(Y)), [torch.tensor(row) for row in Y]) == EXPECTED


def test_a_relation_of_duckdb_is_a_table() -> None:
    duckdb = pytest.importorskip("duckdb")
    relation = duckdb.from_arrow(ARROW)
    assert seen(Schema.fit(relation), relation) == EXPECTED


OTHERS: dict[str, tuple[Callable[[], Any], str]] = {
    "reader of batches": (lambda: ARROW.to_reader(), r"pyarrow.RecordBatchReader. .*read_all\(\)"),
    "list of batches": (ARROW.to_batches, "a list of pyarrow.RecordBatch"),
    "nested list of batches": (lambda: [ARROW.to_batches()], "a list of pyarrow.RecordBatch"),
    "dict of lists": (lambda: SERIES.to_dict(as_series=False), r"dict. .*polars.DataFrame\("),
    "list of dicts": (lambda: SERIES.rows(named=True), r"a list of dict. .*polars.DataFrame\("),
    "labelled array": (Labelled, r"\w+.Labelled. .*to_dataframe\(\)"),
    "generator": (lambda: (row for row in Y), "generator. It can be read only once"),
    "map": (lambda: map(list, Y), "map. It can be read only once"),
    "set": (lambda: {1.0, 2.0}, "set"),
    "buffer": (lambda: memoryview(b"12"), "memoryview"),
    "pandas series": (lambda: PANDAS["y"], "pandas.Series. It is one column"),
    "polars series": (lambda: SERIES["y"], "polars.Series. It is one column"),
    "Arrow column": (lambda: ARROW["y"], "pyarrow.ChunkedArray"),
    "list of series": (lambda: [SERIES["y"]] * 2, "a list of polars.Series"),
    "groups": (lambda: PANDAS.groupby("unique_id"), "pandas.DataFrameGroupBy"),
    "structured array": (
        lambda: np.array([(1, 2.0)], dtype=[("unique_id", int), ("y", float)]),
        "structured array with the fields 'unique_id', 'y'",
    ),
    "path as bytes": (lambda: b"series.csv", "bytes"),
    "a date": (lambda: dt.date(2026, 1, 1), "datetime.date"),
    "a missing value": (lambda: pd.NA, "NAType"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_neither_is_refused_by_its_type(kind: str) -> None:
    source, says = OTHERS[kind]
    for fit in (lambda: Schema.fit(source()), lambda: Schema.fit(Y, source())):
        with pytest.raises(DataError, match=says):
            fit()
    schema = Schema.fit(Y)
    with pytest.raises(DataError, match=says):
        schema.panel(source())
    with pytest.raises(DataError, match=says):
        Schema.fit(SERIES, future=source())
    assert seen(schema, Y) == EXPECTED  # and the next good call works


# -- files -----------------------------------------------------------------------------------

GOOD = "unique_id,ds,y\n1,1,1\n1,2,2\n2,1,3\n2,2,5\n3,1,4\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "series.csv"


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD + "\n",
        GOOD + "\n\n  \n",
        GOOD.rstrip(),
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n", "\r\n") + "\r\n",
        GOOD.replace("1,2,2\n", "1,2,2\n\n"),
        GOOD + ",,\n",
        "\ufeff" + GOOD,
        GOOD.replace("1,2,2", '"1","2","2"'),
        GOOD.replace("1,2,2", '"1","2","2"') + "\n",
    ],
)
def test_a_file_is_read_whatever_its_line_breaks(path: Path, text: str) -> None:
    path.write_bytes(text.encode())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert seen(Schema.fit(path), path) == EXPECTED


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("unique_id,ds,y,y\n1,1,1,2\n", "expected unique names; 'y' is there twice"),
        ("unique_id,ds,y,\n1,1,1,2\n", None),
        ("unique_id,ds,y,,\n1,1,1,2,3\n", "unique names; '' is there twice"),
        (GOOD + "3,2", r"line 7 has 2: '3,2'. It is the last: is the file complete\?"),
        ("unique_id;ds;y\n1;1;2,5\n1;2;3,5\n", r"line 2 has 2: .* separated by commas"),
        (GOOD + "3", "line 7 has 1: '3'. It is the last"),
        (GOOD + "3,2\n", "line 7 has 2: '3,2'[.]$"),
        (GOOD.replace("2,1,3", "2,1"), "line 4 has 2: '2,1'[.]$"),
        (GOOD.replace("2,1,3", "2,1,3,4"), "line 4 has 4: '2,1,3,4'"),
        (GOOD.replace("2,1,3", '"2",1'), "line 4 has 2: '2,1'"),
        (GOOD + '3,"2', "line 7 has 2"),
        ("unique_id,ds\r,y\n1,1,1\n", "cannot read it: new-line character"),
        (GOOD + "3," + "2" * 10_000, r"line 7 has 2: '3,2222.{60,90}\.\.\.\. It is the last"),
    ],
)
def test_a_file_that_is_not_a_table_is_refused(path: Path, text: str, says: str | None) -> None:
    path.write_text(text)
    if says is None:
        Schema.fit(path)
        return
    with pytest.raises(DataError, match=says):
        Schema.fit(path)
    path.write_text(GOOD)
    assert seen(Schema.fit(path), path) == EXPECTED


EDITS = [
    ",",
    "\n",
    '"',
    "\0",
    "\udcff",
    "NA",
    "inf",
    "1e400",
    "\r",
    "\r\n",
    " ",
    "9" * 40,
    "+99:99",
]
DAMAGED = [
    GOOD,
    GOOD.replace("1,1,1", '"1",2024-01-01,1'),
    "unique_id,ds,y\na,2024-01-01T00:00Z,1\n",
]


@settings(max_examples=300)
@given(
    st.sampled_from(DAMAGED),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 5), st.sampled_from(EDITS))),
)
def test_a_damaged_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, text: str, edits: list[tuple[int, int, str]]
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "series.csv"
    for at, gone, new in edits:
        text = text[:at] + new + text[at + gone :]
    path.write_bytes(text.encode(errors="surrogateescape"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with suppress(DataError):
            Schema.fit(path)


def test_a_file_cut_before_its_last_cell_is_worth_a_warning(path: Path) -> None:
    path.write_text(GOOD + "3,2,")
    with pytest.warns(DataWarning, match="is the file complete"):
        assert seen(Schema.fit(path), path) == EXPECTED


def test_lines_are_counted_in_parts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("statecast.tables.source._CHUNK_OF_LINES", 7)
    path.write_text(GOOD)
    assert seen(Schema.fit(path), path) == EXPECTED
    for line in range(2, 8):
        lines = GOOD.splitlines()
        lines.insert(line - 1, "7")
        path.write_text("\n".join(lines))
        with pytest.raises(DataError, match=f"line {line} has 1: '7'"):
            Schema.fit(path)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_hundred_thousand_columns_are_refused_before_they_are_read(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("rows were read")

    path = tmp_path / f"series.{ending}"
    names = [f"step{i}" for i in range(100_000)]
    if ending == "csv":
        path.write_text(",".join(names) + "\n" + ",".join(["1"] * 100_000) + "\n")
    else:
        pl.DataFrame(np.ones((1, 20_000)), schema=names[:20_000]).write_parquet(path)
    monkeypatch.setattr(pl, "read_csv", read)
    monkeypatch.setattr("pyarrow.parquet.ParquetFile.iter_batches", read)
    monkeypatch.setattr("pyarrow.parquet.ParquetFile.read", read)
    with pytest.raises(DataError, match=r"at most 10,000 columns; received \d+,000. Is it a wide"):
        Schema.fit(path)
    with pytest.raises(DataError, match="at most 10,000 columns"):
        Schema.fit(pl.DataFrame(np.ones((1, 20_000))))


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_file_name_that_is_not_utf_8_is_refused(tmp_path: Path, ending: str) -> None:
    name = os.fsdecode(os.fsencode(tmp_path / "s") + b"\xff." + ending.encode())
    Path(name).write_text(GOOD)
    for path in (name, Path(name)):
        with pytest.raises(DataError, match="expected a file name in UTF-8"):
            Schema.fit(path)


def test_a_path_of_bytes_is_a_path(path: Path) -> None:
    class Entry:
        def __fspath__(self) -> bytes:
            return os.fsencode(path)

    path.write_text(GOOD)
    assert seen(Schema.fit(Entry()), Entry()) == EXPECTED


def test_long_ids_names_and_values_are_quoted_shortly() -> None:
    long = "x" * 10_000
    bad: dict[str, Any] = {
        "a step": (PANDAS.assign(unique_id=long, ds=0), None, {}),
        "a repeated step": (PANDAS.assign(unique_id=long, ds=1), None, {}),
        "y": (PANDAS.assign(unique_id=long, y=long), None, {}),
        "a token": (PANDAS.assign(y=long), None, {"tokens": True}),
        "a name": (PANDAS, pd.DataFrame({"unique_id": [1, 2, 3], long: [np.inf] * 3}), {}),
        "types": (PANDAS.assign(unique_id=[long, 1, 1, 1, 1]), None, {}),
        "an item not there": (PANDAS.assign(unique_id=long), STATIC_LONG, {}),
        "a date": (PANDAS.assign(ds=long), None, {}),
        "an object": (PANDAS.assign(y=[[long] * 100] * 5), None, {}),
        "a column that is not there": (PANDAS.rename(columns={"y": long}), None, {}),
        "a kind": (
            pl.DataFrame({"unique_id": [1]}).select(
                pl.struct(pl.lit(1).alias(long)).alias("unique_id"), ds=1, y=1.0
            ),
            None,
            {},
        ),
        "a path": (long + ".csv", None, {}),
    }
    for case, (series, static, options) in bad.items():
        with pytest.raises(DataError) as error:
            Schema.fit(series, static, **options)
        assert len(str(error.value)) < 700, case
    static = pd.DataFrame({"unique_id": [1, 2, 3], "a": ["p", "q", "r"]})
    schema = Schema.fit(PANDAS, static)
    with pytest.warns(DataWarning, match="never seen") as caught:
        schema.panel(None, static.assign(a=long, unique_id=[long, "b", "c"]))
    assert len(str(caught[0].message)) < 700


STATIC_LONG = pd.DataFrame({"unique_id": [*"abc"], "size": [1.0, 2.0, 4.0]})


# -- messages that say what to do ------------------------------------------------------------

RENAMED = SERIES.rename({"unique_id": "item", "ds": "week", "y": "sales"})
WIDE = pl.DataFrame({"unique_id": [1, 2], **{f"2024-0{i}": [1.0, 2.0] for i in range(1, 6)}})
STATIC = pl.DataFrame({"unique_id": [1, 2, 3], "area": [1.0, 2.5, 4.0]})
REMEDIES: dict[str, tuple[Any, Any, str]] = {
    "another name of the id": (RENAMED, None, "pass id_col='item', or --id-col on the command"),
    "of the steps": (SERIES.rename({"ds": "Date"}), None, "pass step_col='Date'"),
    "of the values": (SERIES.rename({"y": "sales"}), None, "pass target_col='sales'"),
    "a slip of the pen": (SERIES.rename({"unique_id": "unique_ID "}), None, "id_col='unique_ID '"),
    "of the id of statics": (SERIES, STATIC.rename({"unique_id": "sku"}), "pass id_col='sku'"),
    "no name at all": (SERIES.rename({"y": "p"}).with_columns(q=1.0), None, "target_col='...'"),
    "a wide table": (WIDE, None, r"looks wide.*melt\('unique_id', var_name='ds', value_name='y'\)"),
    "a wide table of numbers": (
        WIDE.rename({f"2024-0{i}": str(i) for i in range(1, 6)}).to_pandas(),
        None,
        "looks wide",
    ),
    "a wide table of weeks": (
        WIDE.rename({f"2024-0{i}": f"week_{i}" for i in range(1, 6)}).to_arrow(),
        None,
        "looks wide",
    ),
    "an index of several levels": (PANDAS.set_index(["unique_id", "ds"]), None, r"reset_index\(\)"),
    "an index of ids": (PANDAS.set_index("unique_id"), None, r"reset_index\(\)"),
    "statics with an index": (PANDAS, STATIC.to_pandas().set_index("unique_id"), "reset_index"),
    "swapped tables": (STATIC, SERIES, "is it the static table. The series comes first"),
    "periods": (
        PANDAS.assign(ds=pd.PeriodIndex(["2024-01", "2024-02"] * 2 + ["2024-01"], freq="M")),
        None,
        r"Convert the periods to dates: .*to_timestamp\(\)",
    ),
    "dates as numbers": (
        PANDAS.assign(ds=[20240101, 20240102, 20240101, 20240102, 20240101]),
        None,
        r"written YYYYMMDD. Convert the column: pandas.to_datetime",
    ),
    "dates as compact text": (
        SERIES.with_columns(ds=pl.Series(["20240101", "20240102"] * 2 + ["20240101"])),
        None,
        "written YYYYMMDD",
    ),
    "dates as floats": (PANDAS.assign(ds=[20240101.0] * 5), None, "written YYYYMMDD"),
}


@pytest.mark.parametrize("case", REMEDIES)
def test_messages_say_what_to_do(case: str) -> None:
    series, static, says = REMEDIES[case]
    with pytest.raises(DataError, match=says):
        Schema.fit(series, static)


def test_what_the_messages_say_works() -> None:
    names: dict[str, Any] = {"id_col": "item", "step_col": "week", "target_col": "sales"}
    assert seen(Schema.fit(RENAMED, **names), RENAMED) == EXPECTED
    wide = pd.DataFrame({"unique_id": [1, 2, 3], "1": [1.0, 3.0, 4.0], "2": [2.0, 5.0, np.nan]})
    long = wide.melt("unique_id", var_name="ds", value_name="y").astype({"ds": int})
    assert seen(Schema.fit(long), long) == EXPECTED
    indexed = PANDAS.set_index(["unique_id", "ds"]).reset_index()
    assert seen(Schema.fit(indexed), indexed) == EXPECTED


# -- white space in CSV files ------------------------------------------------------------

WHITE = [" ", "\t", "\x0b", "\x0c", "\x85", "\xa0"]
SOURCES = ["csv", "quoted csv", "parquet", "polars", "pandas", "pyarrow"]
texts = st.lists(st.sampled_from([*WHITE, "  ", " a", "a", "red"]), min_size=2, max_size=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("white")


def source(folder: Path, name: str, frame: pl.DataFrame, how: str) -> Any:
    """The table in one of ``SOURCES``."""
    if how in ("polars", "pandas", "pyarrow"):
        if how == "pandas":
            return frame.to_pandas()
        return frame if how == "polars" else frame.to_arrow()
    path = folder / f"{name}.{how.split()[-1]}"
    if how == "parquet":
        frame.write_parquet(path)
    else:
        frame.write_csv(path, quote_style="always" if "quoted" in how else "necessary")
    return path


@pytest.mark.parametrize("how", SOURCES)
@given(texts)
def test_white_space_is_a_token(folder: Path, how: str, tokens: list[str]) -> None:
    tokens = [*tokens, "b"]
    frame = pl.DataFrame({"unique_id": 0, "ds": range(1, len(tokens) + 1), "y": tokens})
    given = source(folder, "tokens", frame, how)
    schema = Schema.fit(given, tokens=True)
    assert schema.vocabulary is not None
    assert schema.vocabulary.tokens == tuple(sorted(set(tokens)))
    panel = schema.panel(given)
    assert schema.vocabulary.decode(panel.y[panel.mask].astype(int)).tolist() == tokens


@pytest.mark.parametrize("how", SOURCES)
@given(texts)
def test_white_space_is_an_id(folder: Path, how: str, ids: list[str]) -> None:
    ids = [*dict.fromkeys(ids), "b"]
    series = pl.DataFrame({"unique_id": ids, "ds": 1, "y": np.arange(len(ids)) + 0.5})
    static = pl.DataFrame({"unique_id": ids[::-1], "x": np.arange(len(ids)) + 0.5})
    tables = source(folder, "series", series, how), source(folder, "static", static, how)
    panel = Schema.fit(*tables).panel(*tables)
    assert panel.ids.tolist() == ids[::-1]
    assert panel.mask.sum() == len(ids)


@pytest.mark.parametrize("how", SOURCES)
@pytest.mark.parametrize("place", ["static", "future", "past"])
@given(texts)
def test_white_space_is_a_category(folder: Path, place: str, how: str, cells: list[str]) -> None:
    """Also if a column holds nothing else."""
    n = len(cells)
    keys = {"unique_id": [f"i{i}" for i in range(n)]}
    features = pl.DataFrame(keys | {"g": cells})
    series = pl.DataFrame(keys | {"ds": 1, "y": np.arange(n) + 0.5})
    more: dict[str, Any] = {}
    if place == "static":
        more = {"static": source(folder, place, features, how)}
    elif place == "future":
        more = {"future": source(folder, place, features.with_columns(ds=1), how)}
    else:
        series = series.with_columns(features["g"])
    given = source(folder, "series", series, how)
    schema = Schema.fit(given, past_cols=["g"] if place == "past" else [], **more)
    known = sorted(set(cells))
    assert getattr(schema, place).categories == {"g": tuple(known)}
    panel = schema.panel(given, **more)
    codes: Any = panel.codes if place == "static" else getattr(panel, place).codes[:, 0]
    assert codes[:, 0].tolist() == [2 + known.index(cell) for cell in cells]


@pytest.mark.parametrize("how", ["csv", "quoted csv"])
@pytest.mark.parametrize("white", WHITE)
def test_white_space_among_numbers_is_missing(folder: Path, white: str, how: str) -> None:
    cells = ["1.5", white, "2.5", "3.5", "4.5", "5.5"]
    keys = {"unique_id": [f"i{i}" for i in range(6)]}
    later = pl.DataFrame(keys | {"ds": 2, "y": "1.5", "past": "1.5"})
    frames = {
        "series": pl.concat([pl.DataFrame(keys | {"ds": 1, "y": cells, "past": cells}), later]),
        "static": pl.DataFrame(keys | {"x": cells}),
        "future": pl.concat([pl.DataFrame(keys | {"ds": at, "f": cells}) for at in (1, 2)]),
    }
    tables = {name: source(folder, name, frame, how) for name, frame in frames.items()}
    schema = Schema.fit(**tables, past_cols=["past"])
    panel = schema.panel(**tables)
    names = schema.static.numeric, schema.future.numeric, schema.past.numeric
    assert names == (("x",), ("f",), ("past",))
    assert panel.mask[:, 0].tolist() == [True, False, *[True] * 4]
    assert panel.numeric[:, 1].tolist() == [0, 1, 0, 0, 0, 0]
    assert panel.future is not None
    assert panel.future.numeric[:, 0, 1].tolist() == [0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("how", ["csv", "quoted csv"])
@pytest.mark.parametrize("white", WHITE)
def test_white_space_among_dates_is_missing(folder: Path, white: str, how: str) -> None:
    keys = {"unique_id": ["a", "a", "b", "b"], "ds": ["2024-01-09", "2024-01-10"] * 2}
    series = pl.DataFrame(keys | {"y": [1.0, 2.0, 3.0, 4.0]})
    static = pl.DataFrame({"unique_id": ["a", "b"], "launch": [white, "2024-01-08"]})
    tables = source(folder, "dated", series, how), source(folder, "launches", static, how)
    origin = Schema.fit(*tables, start_col="launch").panel(*tables).origin
    assert origin is not None
    assert origin.astype("datetime64[D]").astype(str).tolist() == ["2024-01-09", "2024-01-08"]
    gone = source(folder, "gone", series.with_columns(ds=pl.lit(white)), how)
    with pytest.raises(DataError, match="column 'ds': expected"):
        Schema.fit(gone)


@pytest.mark.parametrize("white", WHITE)
def test_white_space_among_tokens_that_are_numbers_is_missing(folder: Path, white: str) -> None:
    """In the fit it makes them text: digits and spaces may be the characters of a number."""
    keys = {"unique_id": 0, "ds": range(1, 4)}
    path = folder / "numbers.csv"
    pl.DataFrame(keys | {"y": ["1", "2", "3"]}).write_csv(path)
    numbers = Schema.fit(path, tokens=True)
    pl.DataFrame(keys | {"y": ["1", white, "2"]}).write_csv(path)
    assert numbers.panel(path).mask.tolist() == [[True, False, True]]
    found = Schema.fit(path, tokens=True).vocabulary
    assert found is not None
    assert found.tokens == tuple(sorted(["1", white, "2"]))


@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("white", ["", *WHITE, " \t "])
def test_a_line_without_a_field_is_a_blank_line(
    folder: Path, white: str, end: str, quote: str
) -> None:
    rows = [f"{quote}a{quote},1,1.5", f"{quote} {quote},1,2.5", "b,1,3.5", ""]
    path = folder / "blank.csv"
    for at in range(1, 4):
        lines = ["unique_id,ds,y", *rows[: at - 1], white, white, *rows[at - 1 :]]
        path.write_bytes(end.join(lines).encode())
        panel = Schema.fit(path).panel(path)
        assert panel.ids.tolist() == ["a", " ", "b"]


@pytest.mark.parametrize("white", WHITE)
def test_a_line_with_fields_of_white_space_is_no_blank_line(folder: Path, white: str) -> None:
    path = folder / "full.csv"
    path.write_text(f"unique_id,ds,y\na,1,1.5\n{white},{white},{white}\n", newline="")
    with pytest.raises(DataError, match="column 'ds'"):
        Schema.fit(path)
    path.write_text(f'unique_id,ds,y\na,1,1.5\n"{white}"\n', newline="")
    with pytest.raises(DataError, match="line 3 has 1"):
        Schema.fit(path)
    path.write_text(f"unique_id,colour\n{white},\nb,red\n", newline="")
    series = pl.DataFrame({"unique_id": [white, "b"], "ds": 1, "y": [1.0, 2.0]})
    series.write_csv(folder / "s.csv")
    panel = Schema.fit(folder / "s.csv", path).panel(folder / "s.csv", path)
    assert panel.ids.tolist() == [white, "b"]
