"""Forecasts in parts are those of one call, bit for bit, on each engine, also through crashes."""

from __future__ import annotations

import json
import operator
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streams
from curves import T, curve_tables, fit_curves, prefixes_of
from effort import CI
from statecast import Forecaster, distributed
from statecast.distributed.engines import _check_reachable, engine_of
from statecast.distributed.frames import _Layout, _whole_items
from statecast.distributed.jobs import bucket_of, forecast_files
from statecast.distributed.scoring import Scoring
from statecast.errors import ArgumentError, DataError, DataWarning, JobError, WorkerError
from words import fitted_words, word_prefixes, word_tables

ITEMS, UNTIL = 120, T


def serial(work: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Any]:
    """An engine without workers."""
    return map(work, tasks)


def items(count: int = ITEMS) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Prefixes of 0 to 4 steps, sorted by item, and static features."""
    series, static = curve_tables(count, seed=3)
    return prefixes_of(series, {i: i % 5 for i in range(count)}).sort("unique_id", "ds"), static


def written(table: pl.DataFrame, folder: Path, files: int, group: int) -> Path:
    """A table in several files, with groups of so many rows."""
    folder.mkdir(parents=True, exist_ok=True)
    size = -(-len(table) // files)
    for number in range(files):
        part = table[number * size : (number + 1) * size]
        part.write_parquet(folder / f"{number:03d}.parquet", row_group_size=group)
    return folder


def forecasts(out: Path) -> pl.DataFrame:
    return pl.concat(pl.read_parquet(path) for path in sorted(out.glob("part-*.parquet")))


def ordered(table: pl.DataFrame) -> pl.DataFrame:
    keys = ("unique_id", "ds", "step", "rank")
    return table.sort([name for name in keys if name in table.columns])


def same(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    assert found.schema == expected.schema
    assert ordered(found).equals(ordered(expected))  # bits: no tolerance


def expected_of(model: Any, series: Any, static: Any = None, **options: Any) -> pl.DataFrame:
    tables = (None if table is None else table.to_arrow() for table in (series, static))
    return pl.DataFrame(model.predict(*tables, **options))


def serially(
    model: Any, sources: dict[str, Any], out: Path | str, **given: Any
) -> distributed.Report:
    """``distributed.forecast`` in this process."""
    job = {"partition": "input", "rows": 30, "overwrite": False, "verbose": 0}
    job |= {name: given.pop(name) for name in job if name in given}
    sources = {role: str(source) for role, source in sources.items()}
    return forecast_files(Scoring(model, given), sources, str(out), nullcontext(serial), **job)


# -- parts -----------------------------------------------------------------------------------------


@given(st.data())
def test_parts_are_one_call(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Any files, groups of rows and sizes of parts; items over several files; k = 0; no static."""
    whole = st.integers(1, 40)
    folder, model = tmp_path_factory.mktemp("parts"), streams.plain()
    series, static = items(data.draw(st.integers(1, 40)))
    partition = data.draw(st.sampled_from(["input", "hash"]))
    if partition == "hash":
        series = series.sample(fraction=1, shuffle=True, seed=data.draw(whole))
        static = static.sample(fraction=1, shuffle=True, seed=data.draw(whole))
    sources = {"static": written(static, folder / "x", data.draw(whole), data.draw(whole))}
    if data.draw(st.booleans()) and len(series):
        sources["series"] = written(series, folder / "s", data.draw(whole), data.draw(whole))
        given = series
    else:
        given = None
    rows = data.draw(whole)
    report = serially(
        model, sources, folder / "out", partition=partition, rows=rows, until=UNTIL, mean=True
    )
    same(forecasts(folder / "out"), expected_of(model, given, static, until=UNTIL, mean=True))
    assert report.items == len(static)
    assert report.rows == len(forecasts(folder / "out"))
    assert not (folder / "out/_statecast/pieces").exists()


@cache
def zoned() -> Forecaster:
    """Steps are moments of a time zone."""
    return fit_curves(with_moments(curve_tables(72)[0]))


@cache
def grouped() -> Forecaster:
    """Items of groups."""
    series, static = curve_tables(72)
    firm = "firm " + (pl.col("unique_id") % 9).cast(pl.String)
    return fit_curves(series, static.with_columns(firm=firm), group_col="firm")


def with_moments(series: pl.DataFrame) -> pl.DataFrame:
    """A table whose steps are days of Berlin, across the change of its clock."""
    days = pl.datetime(2024, 3, 20) + pl.duration(days=pl.col("ds"))
    return series.with_columns(ds=days.dt.replace_time_zone("Europe/Berlin"))


def case_of(kind: str) -> tuple[Any, dict[str, pl.DataFrame], dict[str, Any], pl.DataFrame]:
    """A model, the tables of some items by their roles, options, and what one call gives."""
    model: Any = streams.plain()
    series, static = items()
    tables = {"series": series, "static": static}
    options: dict[str, Any] = {"until": UNTIL, "level": [50, 90]}
    name = "item " + pl.col("unique_id").cast(pl.String)  # in the order of their bytes
    day = pl.date(2024, 1, 1) + pl.duration(days=pl.col("ds"))
    match kind:
        case "words":
            model = fitted_words("both")
            series, static = word_tables(60, seed=1)
            tables = {"series": word_prefixes(series, 1), "static": static}
            expected = pl.DataFrame(model.generate(*(t.to_arrow() for t in tables.values()), h=3))
            return model, tables, {"h": 3}, expected
        case "text":
            tables = {role: table.with_columns(unique_id=name) for role, table in tables.items()}
        case "several":
            model = streams.several()
            tables["series"] = series.with_columns(z=pl.col("y") + 1)
        case "covariates":
            model = streams.covariates()
            steps = pl.DataFrame({"ds": range(1, UNTIL + 1)})
            future = static.select("unique_id").join(steps, how="cross")
            tables["future"] = future.with_columns(promo=pl.col("ds") / 3, season=pl.lit("b"))
            tables["series"] = series.with_columns(visits=pl.col("y") / 7)
        case "dates" | "datetimes":
            model = streams.dated()
            kinds = {"dates": pl.Date(), "datetimes": pl.Datetime("ms")}
            tables["series"] = series.with_columns(ds=day.cast(kinds[kind]))
            tables["static"] = static.select("unique_id")
        case "zoned":
            model = zoned()
            tables = {"series": with_moments(series), "static": static.select("unique_id")}
        case "ids of dates":
            days = pl.date(2024, 1, 1) + pl.duration(days=pl.col("unique_id"))
            tables = {role: table.with_columns(unique_id=days) for role, table in tables.items()}
        case "ids of floats":
            tables = {role: table.cast({"unique_id": pl.Float64}) for role, table in tables.items()}
        case "groups":
            model = grouped()
            firm = "firm " + (pl.col("unique_id") % 5).cast(pl.String)
            tables["static"] = static.with_columns(firm=firm)
        case "decimals":
            tables["series"] = series.cast({"y": pl.Decimal(12, 2), "ds": pl.Decimal(10, 0)})
        case "nothing begun":
            tables = {"static": static}
    given = {role: table.to_arrow() for role, table in tables.items()}
    expected = pl.DataFrame(
        model.predict(
            given.get("series"), given.get("static"), future=given.get("future"), **options
        )
    )
    return model, tables, options, expected


KINDS = [
    *("several", "dates", "datetimes", "zoned", "covariates", "words", "text", "nothing begun"),
    *("ids of dates", "ids of floats", "decimals", "groups"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model(tmp_path: Path, kind: str) -> None:
    model, tables, options, expected = case_of(kind)
    tables = {role: table.sort("unique_id") for role, table in tables.items()}
    paths = {role: written(table, tmp_path / role, 3, 17) for role, table in tables.items()}
    for partition in ("input", "hash"):
        out = tmp_path / partition
        serially(model, paths, out, partition=partition, rows=20, **options)
        assert len(list(out.glob("part-*"))) > 1
        same(forecasts(out), expected)


def test_a_folder_a_pattern_and_a_url_name_the_same_files(tmp_path: Path) -> None:
    series, static = items(20)
    written(series, tmp_path / "all" / "deep", 3, 10)
    written(series, tmp_path / "all" / "_hidden", 1, 10)
    (tmp_path / "all" / "notes.txt").write_text("no table")
    model, expected = streams.plain(), expected_of(streams.plain(), series, static, until=UNTIL)
    static.write_parquet(tmp_path / "x.parquet")
    for number, source in enumerate(
        (
            tmp_path / "all",
            tmp_path / "all" / "deep",
            f"{tmp_path}/all/d*/0*.parquet",
            f"{tmp_path}/all/**/*.parquet",
            (tmp_path / "all").as_uri(),
            f"{(tmp_path / 'all').as_uri()}/deep/*.parquet",
        )
    ):
        out = tmp_path / str(number)
        serially(model, {"series": source, "static": tmp_path / "x.parquet"}, out, until=UNTIL)
        same(forecasts(out), expected)
        one = model.predict(str(source), str(tmp_path / "x.parquet"), until=UNTIL)
        assert ordered(one).equals(ordered(expected))  # one process takes them too
    with pytest.raises(DataError, match=r"\.parquet; there is none"):
        serially(model, {"series": f"{tmp_path}/none/*.parquet"}, tmp_path / "no", until=UNTIL)


def test_a_file_system_of_fsspec(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    series, static = items(20)
    memory = fsspec.filesystem("memory")
    for name, table in (("s", series), ("x", static)):
        with memory.open(f"/bucket/{name}/0.parquet", "wb") as file:
            table.write_parquet(file)
    model, out = streams.plain(), "memory://bucket/out"
    sources: Any = {"series": "memory://bucket/s", "static": "memory://bucket/x/*.parquet"}
    try:
        for kept in (0, 1):
            report = serially(model, sources, out, until=UNTIL, rows=1_000)
            assert (report.parts, report.kept) == (1, kept)
        with memory.open("/bucket/out/part-00000.parquet", "rb") as file:
            same(pl.read_parquet(file), expected_of(model, series, static, until=UNTIL))
    finally:
        memory.rm("/bucket", recursive=True)


@given(
    st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), max_size=50)
    | st.lists(st.one_of(st.none(), st.text(max_size=5)), max_size=50),
    st.integers(1, 1_000),
)
def test_a_bucket_is_that_of_the_id_alone(ids: list[Any], count: int) -> None:
    kind = pa.int64() if all(isinstance(each, int) or each is None for each in ids) else pa.string()
    column = pa.chunked_array([pa.array(ids, kind)])
    found = bucket_of(column, count).to_pylist()
    assert all(0 <= each < count for each in found)
    for each, bucket in zip(ids, found, strict=True):
        alone = pa.chunked_array([pa.array([each], kind)])
        assert bucket_of(alone, count).to_pylist() == [bucket]
    coded = column.dictionary_encode()
    assert bucket_of(coded, count).to_pylist() == found


def through_one_table(
    model: Any, tables: dict[str, pl.DataFrame], *, buckets: int, **options: Any
) -> pl.DataFrame:
    """The forecasts of the buckets of the one table that Ray and Spark get, without these."""
    scoring = Scoring(model, options)
    given = {role: table.to_arrow() for role, table in tables.items()}
    layout = _Layout.of(scoring, {role: table.schema for role, table in given.items()})
    schema = scoring.schema(layout.types)
    whole = pa.concat_tables(
        [layout.widened(role, buckets, table) for role, table in given.items()]
    )
    frame = pl.DataFrame(whole).sample(fraction=1, shuffle=True, seed=0)
    parts = [rows.to_arrow() for rows in frame.partition_by("_statecast_bucket")]
    return pl.concat([pl.DataFrame(layout.forecasts(scoring, schema, part)) for part in parts])


@pytest.mark.parametrize("kind", KINDS)
def test_the_one_table_of_a_cluster_has_what_the_tables_have(kind: str) -> None:
    model, tables, options, expected = case_of(kind)
    same(through_one_table(model, tables, buckets=5, **options), expected)


def test_types_of_the_one_table_may_differ_between_tables() -> None:
    series, static = items(30)
    expected = expected_of(streams.plain(), series, static, until=UNTIL)
    tables = {"series": series.cast({"unique_id": pl.Int16, "ds": pl.Int8}), "static": static}
    found = through_one_table(streams.plain(), tables, buckets=3, until=UNTIL)
    assert ordered(found).equals(ordered(expected.cast({"ds": found["ds"].dtype})))


@pytest.mark.parametrize(
    ("role", "change", "words"),
    [
        ("series", lambda t: t.with_columns(ds=pl.col("ds").replace(1, None)), "'ds'"),
        ("series", lambda t: t.with_columns(unique_id=pl.col("unique_id").replace(3, None)), "id"),
        ("series", lambda t: pl.concat([t, t[-1:]]), "once"),
        ("static", lambda t: t.filter(pl.col("unique_id") != 7), "static table"),
        ("static", lambda t: pl.concat([t, t[3:4]]), "static table"),
        ("static", lambda t: t.with_columns(unique_id=pl.col("unique_id").replace(3, None)), "id"),
    ],
)
def test_what_one_call_refuses_is_refused_in_the_one_table(
    role: str, change: Callable[[pl.DataFrame], pl.DataFrame], words: str
) -> None:
    tables: dict[str, pl.DataFrame] = dict(zip(("series", "static"), items(30), strict=True))
    tables[role] = change(tables[role])
    found = []
    for call in (
        lambda: expected_of(streams.plain(), *tables.values(), until=UNTIL),
        lambda: through_one_table(streams.plain(), tables, buckets=3, until=UNTIL),
    ):
        with pytest.raises(DataError, match=words) as error:
            call()
        found.append(error.value.column)
        found.append(str(error.value)[:25])  # the name of the table
    assert found[:2] == found[2:]


def test_a_table_that_is_missing_or_not_wanted_is_refused_before_any_work() -> None:
    series, static = items(30)
    future = static.with_columns(ds=1, promo=1.0, season=pl.lit("a")).drop("level")
    with pytest.raises(DataError, match="Expected a static table with"):
        through_one_table(streams.plain(), {"series": series}, buckets=1, until=UNTIL)
    tables = {"series": series, "static": static}
    with pytest.raises(DataError, match="Expected no future table"):
        through_one_table(streams.plain(), tables | {"future": future}, buckets=1, until=UNTIL)
    tables["series"] = series.with_columns(visits=pl.col("y"))
    with pytest.raises(DataError, match="future"):
        through_one_table(streams.covariates(), tables, buckets=1, until=UNTIL)


def test_blocks_and_columns_that_are_not_as_they_should_be_are_named() -> None:
    series, static = (table.to_arrow() for table in items(30))
    scoring = Scoring(streams.plain(), {"until": UNTIL})
    layout = _Layout.of(scoring, {"series": series.schema, "static": static.schema})
    with pytest.raises(DataError, match="series table: expected a column 'y' in all blocks"):
        layout.widened("series", 2, series.drop_columns(["y"]))
    twice = pa.schema([*series.schema, ("y", pa.float64())])
    with pytest.raises(DataError, match="series table: expected one column 'y'"):
        _Layout.of(scoring, {"series": twice, "static": static.schema})
    other = pa.schema([*series.schema, ("Y", pa.float64())])
    given = {"series": other, "static": static.schema}
    assert _Layout.of(scoring, given).types == layout.types
    with pytest.raises(DataError, match="expected one column 'y'"):
        _Layout.of(scoring, given, str.lower)


@pytest.mark.parametrize("column", ["y", "ds"])
def test_the_error_of_a_type_names_the_type(column: str) -> None:
    """Not a value, as the one that was tried is made up."""
    series, static = items(30)
    tables = {"series": series.cast({column: pl.String}), "static": static}
    with pytest.raises(DataError, match=rf"'{column}': expected a type .* \w*string \(series\)"):
        through_one_table(streams.plain(), tables, buckets=1, until=UNTIL)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), max_size=8), st.integers(1, 6))
def test_batches_are_cut_between_items(runs: list[tuple[int, int]], size: int) -> None:
    ids = sorted(item for item, count in runs for _ in range(count))
    table = pa.table({"unique_id": pa.array(ids, pa.int64())})
    found = list(_whole_items(iter(table.to_batches(size)), "unique_id"))
    assert [item for part in found for item in part.column(0).to_pylist()] == ids
    seen = [set(part.column(0).to_pylist()) for part in found]
    assert sum(map(len, seen)) == len(set(ids))
    assert all(seen)


# -- what a folder holds, and what is refused ------------------------------------------------------


@pytest.fixture
def job(tmp_path: Path) -> tuple[dict[str, Any], Path]:
    """The sources of a job of many parts, and its folder."""
    series, static = items()
    sources = {"series": written(series, tmp_path / "s", 4, 20)}
    sources["static"] = written(static, tmp_path / "x", 4, 10)
    return sources, tmp_path / "out"


def times(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}


def test_a_job_goes_on_where_it_was(job: Any) -> None:
    sources, out = job
    model = streams.plain()
    begun = time.time()
    assert serially(model, sources, out, until=UNTIL).kept == 0
    before, expected = times(out), forecasts(out)
    assert len(before) > 4
    assert serially(model, sources, out, until=UNTIL).kept == len(before)
    assert times(out) == before
    (out / "_statecast/manifest.json").unlink()
    (out / "part-00002.parquet").write_bytes(b"torn")
    (out / "_statecast/part-00001.json").write_bytes(b"{")
    report = serially(model, sources, out, until=UNTIL)
    assert report.kept == len(before) - 2
    changed = {name for name, when in times(out).items() if when != before[name]}
    assert changed == {"part-00001.parquet", "part-00002.parquet"}
    same(forecasts(out), expected)
    manifest = json.loads((out / "_statecast/manifest.json").read_text())
    for receipt in manifest["parts"]:
        assert (out / receipt["file"]).stat().st_size == receipt["bytes"]
        ended = receipt["begun"] + receipt["seconds"]
        assert begun <= receipt["begun"] < ended < time.time()


def test_parts_whose_input_changed_are_computed_again(job: Any) -> None:
    sources, out = job
    model = streams.plain()
    serially(model, sources, out, until=UNTIL)
    before = times(out)
    last = sources["series"] / "003.parquet"
    table = pl.read_parquet(last).with_columns(pl.col("y") + 1)
    table.write_parquet(last, row_group_size=20)
    report = serially(model, sources, out, until=UNTIL)
    assert 0 < report.kept < len(before)
    series, static = (pl.read_parquet(sources[name] / "*") for name in ("series", "static"))
    same(forecasts(out), expected_of(model, series, static, until=UNTIL))
    for path in sorted(sources["series"].glob("*"))[1:]:
        path.unlink()  # fewer parts: the others' files go
    serially(model, sources, out, until=UNTIL)
    series, static = (pl.read_parquet(sources[name] / "*") for name in ("series", "static"))
    same(forecasts(out), expected_of(model, series, static, until=UNTIL))


def test_a_folder_of_another_job_is_refused(job: Any) -> None:
    sources, out = job
    model = streams.plain()
    serially(model, sources, out, until=UNTIL)
    expected = forecasts(out)
    for other, options in (
        (streams.plain(1), {"until": UNTIL}),
        (model, {"until": UNTIL + 1}),
        (model, {"until": UNTIL, "rows": 60}),
        (model, {"until": UNTIL, "partition": "hash"}),
    ):
        with pytest.raises(ArgumentError, match="another job"):
            serially(other, sources, out, **options)
    same(forecasts(out), expected)
    serially(model, sources, out, h=2, overwrite=True)
    assert forecasts(out).height != expected.height
    (out / "_statecast/job.json").unlink()
    shutil.rmtree(out / "_statecast")
    with pytest.raises(ArgumentError, match="new or empty folder"):
        serially(model, sources, out, until=UNTIL)


def test_two_jobs_in_one_folder_at_once_are_refused(job: Any, monkeypatch: Any) -> None:
    """Whether the other one has the same model and files, or not."""
    sources, out = job
    monkeypatch.setattr("statecast.distributed.jobs._WAIT", 0.1)
    refused = []

    def during(work: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Any]:
        for overwrite in (False, True):
            with pytest.raises(ArgumentError, match="a job is running in") as error:
                serially(streams.plain(), sources, out, until=UNTIL, overwrite=overwrite)
            refused.append(error)
        return serial(work, tasks)

    given = {"partition": "input", "rows": 30, "overwrite": False, "verbose": 0}
    scoring = Scoring(streams.plain(), {"until": UNTIL})
    places = {name: str(path) for name, path in sources.items()}
    parts = forecast_files(scoring, places, str(out), nullcontext(during), **given).parts
    assert len(refused) == 2
    assert len(times(out)) == parts
    assert not [path for path in out.iterdir() if path.name.endswith("lock")]
    assert serially(streams.plain(), sources, out, until=UNTIL).kept == parts


def test_a_part_that_fails_loses_no_other(job: Any) -> None:
    sources, out = job
    model = streams.plain()
    whole = [pl.read_parquet(sources[name] / "*") for name in ("series", "static")]
    bad = sources["series"] / "002.parquet"
    good, table = bad.read_bytes(), pl.read_parquet(bad)
    broken = bytearray(good)
    broken[200:260] = bytes(60)

    def with_y(at: int, y: float) -> pl.DataFrame:
        values = table["y"].to_list()
        values[at] = y
        return table.with_columns(pl.Series("y", values))

    with_y(33, float("inf")).write_parquet(bad, row_group_size=20)
    with pytest.raises(JobError) as error:
        serially(model, sources, out, until=UNTIL)
    first = table["unique_id"].to_list().index(table["unique_id"][33]) + 1
    assert f"002.parquet' from row {first} on" in str(error.value)
    assert len(error.value.failed) == 1
    parts = len(times(out)) + 1
    table.drop("y").write_parquet(bad, row_group_size=20)
    with pytest.raises(JobError, match=r"002\.parquet'.*'y'"):
        serially(model, sources, out, until=UNTIL)
    bad.write_bytes(bytes(broken))
    with pytest.raises(JobError, match=r"002\.parquet'.*cannot read"):
        serially(model, sources, out, until=UNTIL)
    bad.write_bytes(good[:-9])
    with pytest.raises(DataError, match=r"002\.parquet'.*cannot read"):
        serially(model, sources, out, until=UNTIL)  # the plan needs its footer
    bad.write_bytes(good)
    report = serially(model, sources, out, until=UNTIL)
    assert 0 < report.kept < parts
    same(forecasts(out), expected_of(model, *whole, until=UNTIL))


def test_items_without_static_features_are_named(job: Any) -> None:
    sources, out = job
    (sources["static"] / "001.parquet").unlink()
    with pytest.raises(JobError, match=r"static table.* from row \d+ on"):
        serially(streams.plain(), sources, out, until=UNTIL)


def test_rows_without_an_id_are_refused(tmp_path: Path) -> None:
    series, static = items(20)
    series = pl.concat([series, series[-1:].with_columns(unique_id=pl.lit(None, pl.Int64))])
    sources = {"series": written(series, tmp_path / "s", 1, 10)}
    sources["static"] = written(static, tmp_path / "x", 1, 10)
    row = len(series)
    for partition in ("input", "hash"):
        with pytest.raises(JobError, match=rf"000\.parquet.* 'unique_id' .* row {row} has none"):
            serially(
                streams.plain(), sources, tmp_path / partition, until=UNTIL, partition=partition
            )


def test_files_that_are_not_sorted_are_refused(job: Any) -> None:
    sources, out = job
    (sources["series"] / "000.parquet").rename(sources["series"] / "9.parquet")
    with pytest.raises(DataError, match=r"sorted by 'unique_id'.*ORDER BY.*partition='hash'"):
        serially(streams.plain(), sources, out, until=UNTIL)


def test_arguments_are_refused_before_any_work(job: Any, tmp_path: Path) -> None:
    sources, out = job
    model = streams.plain()
    paths: dict[str, Any] = {name: str(path) for name, path in sources.items()}
    refused: list[tuple[dict[str, Any], str]] = [
        ({}, "until"),
        ({"until": UNTIL, "level": 101}, "level"),
        ({"until": UNTIL, "width": 3}, "width"),
        ({"until": {1: 2}}, "one step for all"),
        ({"until": UNTIL, "engine": "dask"}, "processes"),
        ({"until": UNTIL, "workers": 0}, "workers"),
        ({"until": UNTIL, "rows": 0}, "rows"),
        ({"until": UNTIL, "partition": "item"}, "partition"),
        ({"until": UNTIL, "address": "auto"}, "address"),
    ]
    for options, word in refused:
        with pytest.raises(ArgumentError, match=word):
            distributed.forecast(model, **paths, out=out, **options)
    for nothing in (None, ""):
        with pytest.raises(ArgumentError, match="out"):
            distributed.forecast(model, **paths, out=nothing, until=UNTIL)
    with pytest.raises(ArgumentError, match="Use `predict`"):
        distributed.forecast(model, items()[0], out=out, until=UNTIL)
    with pytest.raises(ArgumentError, match="received neither"):
        distributed.forecast(model, out=out, until=UNTIL)
    with pytest.raises(ArgumentError, match="model"):
        distributed.forecast(3, **paths, out=out, until=UNTIL)  # type: ignore[arg-type]
    assert not out.exists()


@pytest.mark.parametrize("address", ["{}", "ray://{}", "spark://{}"])
def test_a_cluster_that_does_not_answer_is_refused_at_once(address: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = address.format(f"127.0.0.1:{server.getsockname()[1]}")
        _check_reachable(place)
    with pytest.raises(ArgumentError, match=f"nothing answers at '{place}'"):
        _check_reachable(place)
    for other in ("auto", "local[2]", "yarn", "k8s://https://127.0.0.1:9", "spark://a:1,b:2"):
        _check_reachable(other)


def test_the_option_that_differs_from_another_job_is_named(job: Any) -> None:
    sources, out = job
    serially(streams.plain(), sources, out, until=UNTIL)
    with pytest.raises(ArgumentError, match=rf"another job: until was {UNTIL}, and is 3\."):
        serially(streams.plain(), sources, out, until=3)


def test_a_warning_of_parts_is_issued_once(job: Any) -> None:
    sources, out = job
    for path in sources["static"].glob("*"):
        table = pl.read_parquet(path).with_columns(group=pl.lit("new"))
        table.write_parquet(path, row_group_size=10)
    with pytest.warns(DataWarning, match="group") as found:
        serially(streams.plain(), sources, out, until=UNTIL)
    assert 0 < len(found) <= 6


def test_whole_numbers_and_ids_of_other_types(tmp_path: Path) -> None:
    """Types that `predict` takes, with the type of the series' ids in the result."""
    series, static = items(30)
    static = static.with_columns(level=(pl.col("level") * 3).round())
    model = Forecaster(units=4, ensemble=2, epochs=1, encoding=4)
    model.fit(series.filter(pl.col("y") > 0), static, verbose=0)
    series = series.with_columns(pl.col("y").round().cast(pl.Int64))
    static = static.with_columns(pl.col("level").cast(pl.Int8))
    text = pl.col("unique_id").cast(pl.String)
    for number, (own, other) in enumerate(
        (
            ([], []),
            ([pl.col("unique_id").cast(pl.Int32)], []),
            ([], [pl.col("unique_id").cast(pl.Int16)]),
            ([text.str.zfill(80)], [text.str.zfill(80)]),
            ([text.str.zfill(3).cast(pl.Categorical)], [text.str.zfill(3).cast(pl.Categorical)]),
        )
    ):
        tables = series.with_columns(own), static.with_columns(other)
        folder = tmp_path / str(number)
        sources = {"series": written(tables[0], folder / "s", 2, 20)}
        sources["static"] = written(tables[1], folder / "x", 2, 20)
        expected = expected_of(model, *tables, until=UNTIL)
        for partition in ("input", "hash"):
            serially(model, sources, folder / partition, partition=partition, until=UNTIL)
            found = forecasts(folder / partition)
            same(found.cast(expected.schema), expected)
            assert found.schema["ds"] == expected.schema["ds"]


def test_types_that_differ_between_files_are_widened(tmp_path: Path) -> None:
    series, static = items(30)
    first, second = series[:20], series[20:]
    for name, part in (("0", first.cast({"unique_id": pl.Int32, "y": pl.Float32})), ("1", second)):
        written(part, tmp_path / "s" / name, 1, 10)
    pl.DataFrame({"unique_id": [], "ds": [], "y": []}).write_parquet(tmp_path / "s/empty.parquet")
    sources = {"series": tmp_path / "s", "static": written(static, tmp_path / "x", 1, 10)}
    out = tmp_path / "out"
    serially(streams.plain(), sources, out, until=UNTIL)
    narrow = series.with_columns(
        y=pl.concat([first["y"].cast(pl.Float32).cast(pl.Float64), second["y"]])
    )
    same(forecasts(out), expected_of(streams.plain(), narrow, static, until=UNTIL))


def test_ids_of_several_types_are_refused(job: Any) -> None:
    sources, out = job
    for path in sources["static"].glob("*"):
        pl.read_parquet(path).cast({"unique_id": pl.String}).write_parquet(path)
    with pytest.raises(DataError, match=r"int64 \(series\) and .*string \(static\)"):
        serially(streams.plain(), sources, out, until=UNTIL)
    with pytest.raises(DataError, match="Expected a static table"):
        serially(streams.plain(), {"series": sources["series"]}, out, until=UNTIL)
    assert not out.exists()


@pytest.mark.parametrize("partition", ["input", "hash"])
def test_files_that_are_written_again_meanwhile_are_found(job: Any, partition: str) -> None:
    """No part mixes the old rows and the new ones."""
    sources, out = job
    model, bad = streams.plain(), sources["series"] / "003.parquet"

    def late(work: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Any]:
        for number, task in enumerate(tasks):
            yield work(task)
            if number == 0:
                table = pl.read_parquet(bad).with_columns(pl.col("y") + 1)
                table.write_parquet(bad, row_group_size=17)

    scoring, paths = Scoring(model, {"until": UNTIL}), {k: str(v) for k, v in sources.items()}
    options: Any = {"partition": partition, "rows": 30, "overwrite": False, "verbose": 0}
    with pytest.raises(JobError, match=r"003\.parquet.*written again"):
        forecast_files(scoring, paths, str(out), nullcontext(late), **options)
    series, static = (pl.read_parquet(sources[name] / "*") for name in ("series", "static"))
    serially(model, sources, out, partition=partition, until=UNTIL)
    same(forecasts(out), expected_of(model, series, static, until=UNTIL))


def test_files_of_others_are_left_alone_and_damaged_ones_are_no_matter(job: Any) -> None:
    sources, out = job
    model = streams.plain()
    serially(model, sources, out, until=UNTIL)
    before, own = forecasts(out), out / "_statecast"
    (out / "part-mine.csv").write_text("mine")
    for text in ("[]", "5", "{}", '{"parts": []}', "xx", "null"):
        (own / "manifest.json").write_text(text)
        (own / "part-00001.json").write_text(text)
        serially(model, sources, out, until=UNTIL, level=80)  # the default
        same(forecasts(out), before)
        (own / "job.json").write_text(text)
        with pytest.raises((DataError, ArgumentError), match="overwrite=True"):
            serially(model, sources, out, until=UNTIL)
        (out / "part-mine.csv").unlink()
        serially(model, sources, out, until=UNTIL, overwrite=True)
        (out / "part-mine.csv").write_text("mine")
    serially(model, sources, out, until=UNTIL)
    assert (out / "part-mine.csv").read_text() == "mine"


def test_a_piece_of_a_writer_that_was_killed_is_no_matter(job: Any) -> None:
    sources, out = job
    model = streams.plain()

    def killed(work: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Any]:
        for task in tasks:
            if hasattr(task, "made_from"):  # a part, after the pieces
                raise KeyboardInterrupt
            yield work(task)

    scoring, paths = Scoring(model, {"until": UNTIL}), {k: str(v) for k, v in sources.items()}
    options: Any = {"partition": "hash", "rows": 30, "overwrite": False, "verbose": 0}
    with pytest.raises(KeyboardInterrupt):
        forecast_files(scoring, paths, str(out), nullcontext(killed), **options)
    (folder,) = list((out / "_statecast/pieces/series").glob("*0"))
    (folder / ".0.parquet.0123456789abcdef.statecast.part").write_bytes(b"cut")
    serially(model, sources, out, partition="hash", until=UNTIL)
    series, static = (pl.read_parquet(sources[name] / "*") for name in ("series", "static"))
    same(forecasts(out), expected_of(model, series, static, until=UNTIL))


def test_a_folder_within_a_table_is_refused(job: Any) -> None:
    sources, _ = job
    with pytest.raises(ArgumentError, match="outside of the series table"):
        serially(streams.plain(), sources, sources["series"] / "out", until=UNTIL)


# -- engines ---------------------------------------------------------------------------------------


def children(name: str) -> list[int]:
    """The processes of this machine whose command has a word."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if name in words and int(path.parent.name) != os.getpid():
            found.append(int(path.parent.name))
    return found


WORKERS = {"processes": "spawn_main", "ray": "ray::", "spark": "pyspark.daemon"}


@pytest.fixture(params=WORKERS)
def engine(request: pytest.FixtureRequest) -> str:
    """A name of an engine that can be used here; in CI each can."""
    if request.param == "ray" and not CI:
        pytest.importorskip("ray")
    if request.param == "spark" and not CI:
        pytest.importorskip("pyspark")
        if shutil.which("java") is None:
            pytest.skip("java is not installed: apt-get install default-jre-headless")
    return request.param


@pytest.mark.slow
def test_an_engine_gives_what_one_call_gives(engine: str, job: Any) -> None:
    sources, out = job
    model = streams.plain()
    paths: dict[str, Any] = {name: str(path) for name, path in sources.items()}
    series, static = (pl.read_parquet(sources[name] / "*") for name in ("series", "static"))
    report = distributed.forecast(
        model, **paths, out=out, engine=engine, workers=2, rows=50, until=UNTIL, verbose=0
    )
    assert report.parts > 2
    same(forecasts(out), expected_of(model, series, static, until=UNTIL))
    bad = sources["series"] / "002.parquet"
    table = pl.read_parquet(bad)
    values = [*table["y"][:-1].to_list(), float("inf")]
    table.with_columns(y=pl.Series(values)).write_parquet(bad)
    with pytest.raises(JobError, match=r"1 of 3 .*002\.parquet' from row \d+ on"):
        distributed.forecast(
            model,
            **paths,
            out=out.with_name("hash"),
            engine=engine,
            workers=2,
            rows=100,
            partition="hash",
            until=UNTIL,
            verbose=0,
        )


@pytest.mark.slow
def test_a_worker_that_always_dies_ends_the_job(engine: str) -> None:
    with (
        pytest.raises(WorkerError, match="died 4 times"),
        engine_of(engine, 2, None) as run,
    ):
        # Of the standard library, as workers do not have this module.
        list(run(operator.call, [os.getpid, os.getpid, os.getpid, partial(os._exit, 1)]))


@pytest.mark.slow
def test_a_worker_that_is_killed_changes_nothing(engine: str, tmp_path: Path) -> None:
    series, static = items(3_000)
    model = streams.plain()
    sources: dict[str, Any] = {"series": str(written(series, tmp_path / "s", 4, 100))}
    sources["static"] = str(written(static, tmp_path / "x", 4, 100))
    out, killed, stop = tmp_path / "out", list[int](), threading.Event()

    def kill() -> None:
        while not stop.is_set() and len(killed) < 2:
            if len(times(out)) > len(killed):
                for process in children(WORKERS[engine])[-1:]:
                    os.kill(process, signal.SIGKILL)
                    killed.append(process)
                time.sleep(1.0)
            time.sleep(0.005)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        distributed.forecast(
            model,
            **sources,
            out=out,
            engine=engine,
            workers=2,
            rows=100,
            until=UNTIL,
            mean=True,
            verbose=0,
        )
    finally:
        stop.set()
        killer.join()
    assert killed
    same(forecasts(out), expected_of(model, series, static, until=UNTIL, mean=True))


_DRIVER = """
import sys
from statecast import Forecaster, distributed
if __name__ == "__main__":
    model, series, static, out, engine = sys.argv[1:]
    report = distributed.forecast(model, series, static, out=out, engine=engine, workers=2,
                                  rows=100, until=8, mean=True, verbose=0)
    print(report.kept)
"""


@pytest.mark.slow
def test_a_driver_that_is_killed_goes_on(engine: str, tmp_path: Path) -> None:
    series, static = items(2_000)
    model = streams.plain()
    model.save(tmp_path / "m.safetensors")
    (tmp_path / "driver.py").write_text(_DRIVER)
    out = tmp_path / "out"
    command = [sys.executable, tmp_path / "driver.py", tmp_path / "m.safetensors"]
    command += [written(series, tmp_path / "s", 4, 100), written(static, tmp_path / "x", 4, 100)]
    command += [out, engine]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as driver:
        while len(list(out.glob("_statecast/part-*.json"))) < 2:
            assert driver.poll() is None
            time.sleep(0.005)
        os.killpg(driver.pid, signal.SIGKILL)
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr[-2_000:]
    assert 2 <= int(ran.stdout) < len(times(out))
    same(forecasts(out), expected_of(model, series, static, until=UNTIL, mean=True))


OF_CLUSTERS = ("covariates", "dates", "datetimes", "zoned", "words", "nothing begun", "groups")


@pytest.mark.slow
def test_a_dataset_of_ray(job: Any) -> None:
    ray = pytest.importorskip("ray")
    sources, _ = job
    model = streams.plain()
    series, static = (pl.read_parquet(sources[name] / "*") for name in ("series", "static"))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        tables = [ray.data.read_parquet(str(sources[name])) for name in ("series", "static")]
        found = distributed.forecast(
            model, tables[0].random_shuffle(seed=1), tables[1], rows=100, until=UNTIL
        )
        blocks = [pl.DataFrame(ray.get(block)) for block in found.to_arrow_refs()]
        blocks = [block for block in blocks if len(block)]
        same(pl.concat(blocks), expected_of(model, series, static, until=UNTIL))
        with pytest.raises(DataError, match="'level'"):
            distributed.forecast(model, tables[0], tables[1].drop_columns(["level"]), until=UNTIL)
        with pytest.raises(ArgumentError, match="out"):
            distributed.forecast(model, *tables, out="x", until=UNTIL)
        for more in ({"workers": 2}, {"partition": "hash"}, {"engine": "spark"}):
            with pytest.raises(ArgumentError, match=next(iter(more))):
                distributed.forecast(model, *tables, until=UNTIL, **more)
        for kind in OF_CLUSTERS:
            model, given, options, expected = case_of(kind)
            made = {role: ray.data.from_arrow(table.to_arrow()) for role, table in given.items()}
            found = distributed.forecast(model, rows=100, **{"series": None, **made}, **options)
            blocks = [pl.DataFrame(ray.get(block)) for block in found.to_arrow_refs()]
            same(pl.concat([block for block in blocks if len(block)]), expected)
        # Blocks of pandas: categories, and one whose cells are all missing.
        frames = [table.to_pandas() for table in (series, static)]
        frames[1]["level"] = frames[1]["level"].astype(object)
        frames[1].loc[:59, "level"] = None
        frames[0]["unique_id"], frames[1]["unique_id"] = (
            frame["unique_id"].astype(str).astype("category") for frame in frames
        )
        halves = [frames[1][:60], frames[1][60:]]
        model = streams.plain()
        expected = expected_of(model, *(pl.from_pandas(frame) for frame in frames), until=UNTIL)
        made = [ray.data.from_pandas(frames[0]), ray.data.from_pandas(halves)]
        found = distributed.forecast(model, *made, rows=100, until=UNTIL)
        same(pl.from_pandas(found.to_pandas()), expected.cast({"unique_id": pl.String}))
        none = distributed.forecast(model, *(each.limit(0) for each in tables), until=UNTIL)
        assert none.count() == 0
    finally:
        ray.shutdown()


@pytest.mark.slow
def test_a_dataframe_of_spark(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyspark")
    if shutil.which("java") is None and not CI:
        pytest.skip("java is not installed: apt-get install default-jre-headless")
    from pyspark.sql import SparkSession

    sources, _ = job
    model = streams.plain()
    series, static = (pl.read_parquet(sources[name] / "*") for name in ("series", "static"))
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", 7)
    session = builder.config("spark.sql.shuffle.partitions", 3).getOrCreate()
    try:
        tables = [session.read.parquet(str(sources[name])) for name in ("series", "static")]
        found = distributed.forecast(model, tables[0].orderBy("y"), tables[1], until=UNTIL)
        table = pl.DataFrame(found.toArrow())
        same(table, expected_of(model, series, static, until=UNTIL))
        with pytest.raises(DataError, match="'level'"):
            distributed.forecast(model, tables[0], tables[1].drop("level"), until=UNTIL)
        for kind in OF_CLUSTERS:
            model, given, options, expected = case_of(kind)
            made = {role: session.createDataFrame(t.to_arrow()) for role, t in given.items()}
            found = distributed.forecast(model, **{"series": None, **made}, **options)
            same(pl.DataFrame(found.toArrow()).cast(expected.schema), expected)
        # The zone of the session says nothing about the table.
        session.conf.set("spark.sql.session.timeZone", "America/New_York")
        model, given, options, expected = case_of("zoned")
        made = {role: session.createDataFrame(table.to_arrow()) for role, table in given.items()}
        found = pl.DataFrame(distributed.forecast(model, **made, **options).toArrow())
        same(found.cast(expected.schema), expected)
        doubled = tables[0].withColumn("other", tables[0].y).withColumnRenamed("other", "Y")
        with pytest.raises(DataError, match="expected one column 'y'"):
            distributed.forecast(streams.plain(), doubled, tables[1], until=UNTIL)
    finally:
        session.stop()
