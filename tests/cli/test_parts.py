"""``statecast forecast --engine``: forecasts in parts, of tables in Parquet files."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

import streams
from curves import T, curve_tables, prefixes_of
from plants import refused, run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model and tables, in the working folder."""
    monkeypatch.chdir(tmp_path)
    streams.plain().save("m.safetensors")
    series, static = curve_tables(60, seed=3)
    series = prefixes_of(series, {i: i % 5 for i in range(60)})
    series.sort("unique_id").write_parquet("s.parquet", row_group_size=20)
    static.write_parquet("x.parquet", row_group_size=20)
    return tmp_path


COMMAND = ("forecast", "m.safetensors", "s.parquet", "x.parquet", "--until", str(T), "--mean")
PARTS = ("--engine", "processes", "--workers", "2", "--rows", "30", "--out", "parts")


def test_parts_are_the_forecast(folder: Path) -> None:
    assert run(*COMMAND, "--out", "whole.parquet")[0] == 0
    for kept in (0, 3):
        code, out, err = run(*COMMAND, *PARTS)
        assert (code, out) == (0, "")
        assert f"for 60 items to parts, in 3 parts ({kept} were there)" in err
    parts = pl.concat(pl.read_parquet(path) for path in sorted(folder.glob("parts/*.parquet")))
    assert parts.equals(pl.read_parquet("whole.parquet"))
    assert "another job" in refused(folder, *COMMAND[:-1], *PARTS)
    assert run(*COMMAND[:-1], *PARTS, "--overwrite")[0] == 0
    code, _, err = run("forecast", "m.safetensors", "-", *COMMAND[3:], *PARTS[:-1], "new")
    assert code == 0, err
    assert pl.read_parquet("new/*.parquet").height == 60 * T


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--engine", "processes"), "--out"),
        (("--engine", "dask", "--out", "parts"), "processes"),
        (("--engine", "processes", "--address", "auto", "--out", "parts"), "address"),
        ((*PARTS, "--partition", "item"), "partition"),
        (("--workers", "2"), "--workers is for"),
        ((*PARTS, "--until", "until.csv"), "--until: expected one step"),
        (("--rows", "2", "--out", "f.csv"), "--rows is for"),
        (("--overwrite",), "--overwrite is for"),
        ((*PARTS, "--context", "s.parquet", "x.parquet"), "--context"),
    ],
)
def test_what_is_refused(folder: Path, options: tuple[str, ...], word: str) -> None:
    assert word in refused(folder, *COMMAND, *options)


def test_a_csv_file_is_refused(folder: Path) -> None:
    pl.read_parquet("s.parquet").write_csv("s.csv")
    command = ("forecast", "m.safetensors", "s.csv", "x.parquet", "--until", str(T), *PARTS)
    assert "end with .parquet" in refused(folder, *command)


def test_ctrl_c_keeps_the_parts_that_are_complete(folder: Path) -> None:
    series, static = curve_tables(4_000, seed=3)
    series = prefixes_of(series, dict.fromkeys(range(4000), 1))
    series.sort("unique_id").write_parquet("s.parquet", row_group_size=20)
    static.write_parquet("x.parquet", row_group_size=20)
    command = [sys.executable, "-m", "statecast.cli", *COMMAND, *PARTS]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as job:
        while not list(folder.glob("parts/_statecast/part-*.json")):
            assert job.poll() is None
            time.sleep(0.01)
        job.send_signal(signal.SIGINT)
        _, err = job.communicate(timeout=60)
    assert job.returncode == 130
    assert "parts that are complete are kept" in err
    assert "Traceback" not in err
    code, _, err = run(*COMMAND, *PARTS)
    assert code == 0
    assert "(0 were there)" not in err
