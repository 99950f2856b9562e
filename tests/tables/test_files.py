"""Several Parquet files are one table: whatever the files and their groups of rows."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curves import curve_tables
from small_tables import same_panel, same_schema
from statecast import DataError
from statecast.tables import source
from statecast.tables.files import ParquetFiles, names_files
from statecast.tables.schema import Schema

SERIES, STATIC = curve_tables(30)


def written(table: pl.DataFrame, folder: Path, cuts: list[int], group: int) -> None:
    """A table in files that end before the rows of ``cuts``; some may be empty."""
    folder.mkdir(parents=True)
    bounds = [0, *sorted(cut % (len(table) + 1) for cut in cuts), len(table)]
    for number, (first, last) in enumerate(pairwise(bounds)):
        part = table[first:last]
        part.write_parquet(folder / f"{number:03d}.parquet", row_group_size=group)


@given(
    cuts=st.lists(st.integers(0, 10_000), max_size=5),
    groups=st.integers(1, 300),
    batch=st.integers(1, 300),
)
def test_a_schema_and_a_panel_of_files_are_those_of_the_table(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], groups: int, batch: int
) -> None:
    folder = tmp_path_factory.mktemp("files")
    written(SERIES, folder / "series", cuts, groups)
    written(STATIC, folder / "static", cuts, groups)
    paths = (str(folder / "series"), str(folder / "static" / "*.parquet"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "BATCH", batch)
        found = Schema.fit(*paths)
        panel = found.panel(*paths)
    expected = Schema.fit(SERIES, STATIC)
    same_schema(found, expected)
    same_panel(panel, expected.panel(SERIES, STATIC))


@given(cuts=st.lists(st.integers(0, 10_000), max_size=5), size=st.integers(1, 300))
def test_groups_of_rows_are_read_with_their_bounds(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], size: int
) -> None:
    folder = tmp_path_factory.mktemp("groups") / "x"
    written(SERIES, folder, cuts, size)
    files = ParquetFiles.find(str(folder), "series")
    groups = files.row_groups("unique_id")
    assert pl.DataFrame(files.read(groups)).equals(SERIES)
    for group in groups:
        part = pl.DataFrame(files.read([group]))
        whole = pl.read_parquet(files.files[group.file].path)
        assert part.equals(whole[group.start : group.start + group.rows])
        assert (part["unique_id"].min(), part["unique_id"].max()) == (group.least, group.most)
    assert pl.DataFrame(files.with_columns(["y"]).read([])).equals(SERIES[:0].select("y"))


def test_a_footer_without_bounds_is_no_matter(tmp_path: Path) -> None:
    SERIES.write_parquet(tmp_path / "with.parquet", row_group_size=50)
    SERIES.write_parquet(tmp_path / "without.parquet", row_group_size=50, statistics=False)
    found = [
        ParquetFiles.find(str(tmp_path / name), "series").row_groups("unique_id")
        for name in ("with.parquet", "without.parquet")
    ]
    assert found[0] == found[1]


def test_types_may_differ_between_files(tmp_path: Path) -> None:
    folder, half = tmp_path / "s", len(SERIES) // 2
    folder.mkdir()
    SERIES[:half].write_parquet(folder / "0.parquet")
    other = SERIES[half:].cast({"unique_id": pl.Int32, "ds": pl.Int16})
    other.write_parquet(folder / "1.parquet")
    same_schema(Schema.fit(str(folder), STATIC), Schema.fit(SERIES, STATIC))
    files = ParquetFiles.find(str(folder), "series")
    assert pl.DataFrame(files.read(files.row_groups("unique_id"))).equals(SERIES)


def test_an_error_names_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    written(SERIES, folder, [50, 100], 20)
    bad = folder / "001.parquet"
    pl.read_parquet(bad).drop("y").write_parquet(bad)
    with pytest.raises(DataError, match=r"001\.parquet'.*'y'"):
        Schema.fit(str(folder), STATIC)
    bad.write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"001\.parquet'.*cannot read"):
        Schema.fit(str(folder), STATIC)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.parquet", True),
        ("a.PARQUET", True),
        ("a.csv", False),
        ("s3://bucket/a", True),
        ("data*/x", True),
        (".", True),
        ("none", False),
        ("x" * 10_000, False),
        ("a\0b", False),
    ],
)
def test_what_names_parquet_files(name: str, expected: bool) -> None:
    assert names_files(name) is expected


def test_what_is_not_there_or_not_known_is_refused(tmp_path: Path) -> None:
    odd: Any = "nosuch://bucket/x"
    for text, word in ((str(tmp_path), "there is none"), (odd, "nosuch"), ("s*.parquet", "none")):
        with pytest.raises(DataError, match=word):
            ParquetFiles.find(text, "series")
