"""Parquet files: a damaged one is an error in one line, and never the end of the process."""

from __future__ import annotations

import datetime
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from statecast.errors import DataError
from statecast.tables.files import ParquetFiles
from statecast.tables.schema import Schema

N, STEPS = 100, 6
SERIES = pl.DataFrame(
    {
        "unique_id": [f"item {row // STEPS}" for row in range(N * STEPS)],
        "ds": [row % STEPS + 1 for row in range(N * STEPS)],
        "y": np.random.default_rng(0).normal(size=N * STEPS),
    }
)
STATIC = pl.DataFrame(
    {"unique_id": [f"item {i}" for i in range(N)], "x": [i / 7 for i in range(N)]}
)
STATIC = STATIC.with_columns(g=pl.Series([*"ab"] * (N // 2), dtype=pl.Categorical))
DAY = datetime.datetime(2024, 1, 1)
DATED = SERIES.with_columns(ds=pl.lit(DAY) + pl.duration(days=pl.col("ds")))


def _written(folder: Path) -> list[tuple[bytes, list[int]]]:
    """Small files by two libraries, of every compression, in one group of rows and in
    many; and where their pages begin."""
    path, found = folder / "x.parquet", []
    for compression in ("uncompressed", "snappy", "gzip", "zstd", "lz4", "brotli"):
        SERIES.write_parquet(path, compression=compression, row_group_size=150)
        found.append(path.read_bytes())
    for table in (SERIES, DATED, STATIC):
        table.write_parquet(path)
        found.append(path.read_bytes())
        for settings in ({"version": "1.0"}, {"data_page_version": "2.0", "use_dictionary": False}):
            pq.write_table(table.to_arrow(), path, store_schema=False, **settings)
            found.append(path.read_bytes())
    return [(raw, _pages(raw)) for raw in found]


def _pages(raw: bytes) -> list[int]:
    """Where the pages of data begin."""
    said = pq.ParquetFile(pa.BufferReader(raw)).metadata
    groups = [said.row_group(i) for i in range(said.num_row_groups)]
    return [group.column(i).data_page_offset for group in groups for i in range(said.num_columns)]


def _damaged(files: list[tuple[bytes, list[int]]], seed: int) -> bytes:
    """One of the files with one to four bytes changed, most of them in its footer or in the headers
    of its pages, or cut."""
    rng = np.random.default_rng(seed)
    whole, pages = files[rng.integers(len(files))]
    raw = bytearray(whole)
    footer = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
    for _ in range(rng.integers(1, 5)):
        page = pages[rng.integers(len(pages))]
        ranges = ((footer, len(raw)), (page, page + 24), (0, len(raw)))
        at = rng.integers(*ranges[rng.choice(3, p=(0.4, 0.4, 0.2))])
        raw[at] = rng.integers(256) if rng.random() < 0.5 else raw[at] ^ 1 << int(rng.integers(8))
    return bytes(raw[: rng.integers(len(raw))] if rng.random() < 0.05 else raw)


def _read_damaged(folder: Path, seeds: range) -> None:
    """Read so many damaged files in this process; those of other numbers may be read."""
    import resource

    files, path, refused = _written(folder), folder / "x.parquet", 0
    warnings.simplefilter("ignore")
    Schema.fit(SERIES, STATIC)  # whatever is imported
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in seeds:
        path.write_bytes(_damaged(files, seed))
        for tables in ((path,), (SERIES, path)):
            try:
                Schema.fit(*tables)
            except DataError as error:
                refused += 1
                if "\n" in str(error):
                    raise AssertionError(f"seed {seed}: more than a line: {error}") from error
            except BaseException as error:
                raise AssertionError(f"seed {seed}: {error!r}") from error
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most
    print(refused, grown // 1024)


def test_no_damaged_file_ends_the_process_or_is_an_error_but_ours(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    code = "import sys, pathlib, test_source_parquet as t; "
    code += "t._read_damaged(pathlib.Path(sys.argv[1]), range(700))"
    ran = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert not ran.stderr  # and no library wrote beside the error
    refused, grown = map(int, ran.stdout.split())
    assert 700 < refused < 1400
    assert grown < 200  # MiB


def test_a_batch_is_a_run_of_groups_of_rows_or_a_part_of_one(tmp_path):
    for size in (1, 10, 64, 65, 1000):
        SERIES.write_parquet(tmp_path / "x.parquet", row_group_size=size)
        batches = list(ParquetFiles.find(str(tmp_path / "x.parquet"), "x").batches(64))
        assert pl.concat(batches).equals(SERIES)
        assert all(len(batch) <= 64 for batch in batches)
        assert len(batches) <= 2 * len(SERIES) // 64 + 1


def test_columns_come_as_polars_reads_them(tmp_path):
    path = tmp_path / "x.parquet"
    frame = pl.DataFrame(
        {
            "enum": pl.Series(["a", "b"], dtype=pl.Enum(["b", "a"])),
            "category": pl.Series(["a", None], dtype=pl.Categorical),
            "text": ["x", None],
            "bytes": [b"1", b"\xff"],
            "date": [DAY.date(), None],
            "ms": pl.Series([DAY, DAY], dtype=pl.Datetime("ms")),
            "zoned": pl.Series([DAY, DAY], dtype=pl.Datetime("ns", "Europe/Paris")),
            "uint8": pl.Series([1, 2], dtype=pl.UInt8),
            "float32": pl.Series([1, None], dtype=pl.Float32),
            "list": [[1], [2, 3]],
            "nothing": [None, None],
            "a.b": [1, 2],
            "a": [3, 4],
        }
    )
    for table in (frame, frame.head(0)):
        table.write_parquet(path)
        found = pl.concat(ParquetFiles.find(str(path), "x").batches(64))
        assert found.equals(pl.read_parquet(path))
        assert found.schema == frame.schema
    frame.write_parquet(path)
    files = ParquetFiles.find(str(path), "x").with_columns(["a"])
    assert next(files.batches(64)).equals(frame.select("a"))


def test_text_that_is_not_utf_8_is_refused_and_not_handed_to_polars(tmp_path):
    path = tmp_path / "x.parquet"
    text = pa.array([b"a\xff", b"b"]).cast(pa.binary())
    text = pa.Array.from_buffers(pa.string(), 2, text.buffers())
    pq.write_table(pa.table({"unique_id": text, "ds": [1, 1], "y": [1.0, 2.0]}), path)
    with pytest.raises(DataError, match="Invalid UTF8"):
        Schema.fit(path)
