"""CSV files: cells of white space are text among texts, and missing among numbers and dates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from statecast.errors import DataError
from statecast.tables.schema import Schema

pytestmark = pytest.mark.filterwarnings("ignore::statecast.errors.DataWarning")

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
