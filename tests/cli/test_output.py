"""Output: files that are written completely or not at all, descriptions, and errors."""

from __future__ import annotations

import itertools
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest

from plants import (
    COLUMNS,
    EVALUATE,
    FORECAST,
    PLOT,
    SMALL,
    refused,
    run,
)
from statecast import Forecaster, State, process
from statecast.cli import output


def test_info(folder: Path) -> None:
    code, out, _ = run("info", "model.safetensors")
    assert code == 0
    found = [line.split(maxsplit=1) for line in out.replace(" column", "-column").splitlines()]
    for line in (
        ["id-column", "plant"],
        ["step-column", "week: whole numbers from 1 to 6"],
        ["static-column", "light: numeric"],
        ["static-column", "soil: categorical: clay, sand"],
        ["future-columns", "none"],
        ["head", "quantiles"],
        ["units", "4"],
        ["epochs", "2"],
    ):
        assert line in found, line
    for word in ("height: numbers from 0", "Trained for 2 epochs", "fitted on tables of polars"):
        assert word in out
    assert "cell" not in dict(found)  # it has its default
    code, out, _ = run("info")
    assert code == 0
    for word in ("statecast", "keras", "backend"):
        assert word in out


def test_info_names_the_columns_of_groups_and_origins(folder: Path) -> None:
    import polars as pl

    static = pl.read_csv("static.csv")
    static.with_columns(bed=pl.col("plant"), year=pl.lit(2001)).write_csv("beds.csv")
    words = ["fit", "series.csv", "beds.csv", *COLUMNS, *SMALL, "--out", "beds.safetensors"]
    code, _, err = run(*words, "--group-col", "bed", "--origin-col", "year")
    assert code == 0, err
    code, out, _ = run("info", "beds.safetensors")
    assert "loadings on the group" not in out  # too few items: `fit` says so
    found = dict(line.split("column", 1) for line in out.splitlines() if "column " in line)
    assert found["group "].strip() == "bed"
    assert found["origin "].strip() == "year: the time of step 1, for fit only"


def test_info_shows_what_was_learnt_about_groups(folder: Path) -> None:
    import numpy as np

    from statecast import Forecaster

    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(10.0), 3)
    y = np.cumsum(rng.normal(size=(30, 4)) + rng.normal(size=(10, 1)).repeat(3, axis=0), axis=1)
    forecaster = Forecaster(group_col="x1", units=4, ensemble=8, epochs=2)
    forecaster.fit(y, group[:, None], verbose=0).save("groups.safetensors")
    code, out, _ = run("info", "groups.safetensors")
    assert code == 0
    for model, values, name in (
        (forecaster.dependence, "loading", "loadings on the group"),
        (forecaster.dependence, "spread", "spread in time"),
        (forecaster.pooling, "strength", "strength of a context"),
    ):
        assert model is not None
        found = next(line for line in out.splitlines() if line.startswith(name))
        pairs = zip(model.known.tolist(), getattr(model, values).tolist(), strict=True)
        assert found.removeprefix(name).strip().split(", ") == [
            f"{value:.2f} (k = {k})" for k, value in pairs
        ]


def test_info_describes_a_state(folder: Path) -> None:
    """The model that the state needs has the same fingerprint."""
    forecaster = Forecaster.load("model.safetensors")
    state = forecaster.state("series.csv", "static.csv")
    state.save("state.safetensors")
    code, out, _ = run("info", "state.safetensors")
    assert code == 0
    for words in (f"{state.rows} rows", forecaster.fingerprint, *(f"{n}: " for n in state.names)):
        assert words in out
    assert forecaster.fingerprint in run("info", "model.safetensors")[1]
    State(state.leaves).take([0]).save("own.safetensors")
    out = run("info", "own.safetensors")[1]
    assert "1 row\n" in out
    assert "none: it is not a state of a forecaster" in out


def test_info_of_a_folder_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, files, words in (
        ("graphs", ["step.onnx", "model.json"], "a folder of ONNX graphs, which export wrote"),
        ("served", ["MLmodel", "data/model.safetensors"], "Pass served/data/model.safetensors"),
        ("other", ["MLmodel"], "It has no model file of Statecast"),
        ("empty", [], "received a folder. Pass a file that save wrote"),
    ):
        (tmp_path / name / "data").mkdir(parents=True)
        for file in files:
            (tmp_path / name / file).touch()
        assert words in " ".join(refused(tmp_path, "info", name).split())


def test_info_of_an_unknown_backend_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "foo")
    found = dict(output.installation_pairs())["backend"]
    assert found == "foo (expected one of jax, torch, tensorflow)"


def test_the_steps_of_a_state_are_one_number_if_they_are_equal(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    for steps, said in (([3, 3], "3 ("), ([0, 3], "0 to 3 (")):
        state = State({"step": np.array(steps, "float32").reshape(2, 1, 1)})
        found = dict(output.state_pairs(state, tmp_path / "x"))["steps taken"]
        assert found.startswith(said)


def test_info_of_a_damaged_state_says_so(folder: Path) -> None:
    State({"h": np.ones((2, 1), "float32")}).save("state.safetensors")
    content = Path("state.safetensors").read_bytes()
    Path("state.safetensors").write_bytes(content[:-1])
    assert "state.safetensors" in refused(folder, "info", "state.safetensors")


def test_info_names_the_dates_the_targets_and_the_covariates(folder: Path) -> None:
    """Everything that a user needs in order to make tables for a model file."""
    lines = ["plant,day,height,width,rain"]
    for plant, week in itertools.product(range(60), range(6)):
        day = date(2024, 1, 1) + timedelta(weeks=week)
        lines.append(f"{plant},{day},{plant + week},{week - plant},{week / 7}")
    Path("dated.csv").write_text("\n".join(lines))
    columns = ["--id-col", "plant", "--step-col", "day", "--target-col", "height,width"]
    fit = ["fit", "dated.csv", *columns, "--past-cols", "rain", "--head", "normal"]
    code, _, err = run(*fit, *SMALL, "--out", "dated.safetensors")
    assert code == 0, err
    out = " ".join(run("info", "dated.safetensors")[1].split())
    assert "day: Date, one step every 7 days, up to 6 steps" in out
    assert "height: numbers from 0 to inf, transform none" in out
    assert "width: numbers from -inf to inf, transform none" in out
    assert "rain: numeric" in out
    assert "head normal" in out
    assert "training items 60, whose values are in the file" in out


def test_demo_refuses_a_folder_that_is_a_file(folder: Path) -> None:
    assert "static.csv" in refused(folder, "demo", "--out", "static.csv")
    assert "no folder" in refused(folder, "demo", "--out", "nowhere/demo")


@pytest.mark.parametrize(
    ("words", "extra"),
    [(["demo"], "demo"), (EVALUATE, "plots"), ([*PLOT, "--out", "fan.png"], "plots")],
)
def test_missing_matplotlib_is_an_error_before_the_computation(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], extra: str
) -> None:
    found = process.find_spec
    monkeypatch.setattr(
        process, "find_spec", lambda name: None if name == "matplotlib" else found(name)
    )
    assert f"needs matplotlib, which is not installed: pip install 'statecast[{extra}]'" in refused(
        folder, *words
    )


@pytest.mark.parametrize(
    ("out", "word"),
    [
        ("nowhere/f.csv", "no folder"),
        ("f.txt", ".csv or .parquet"),
        ("f", ".csv or .parquet"),
        ("taken.csv", "a folder"),
        ("series.csv", "not an input"),
    ],
)
def test_outputs_that_cannot_be_written(folder: Path, out: str, word: str) -> None:
    Path("taken.csv").mkdir()
    assert word in refused(folder, *FORECAST, "--out", out)


def test_a_write_that_fails_leaves_the_old_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    Path("f.csv").write_text("old")

    def fail(*paths: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    assert "No space left" in refused(folder, *FORECAST, "--out", "f.csv")


@pytest.mark.parametrize(
    ("redirection", "code", "lines"),
    [
        ("> /dev/full", 2, ["error: standard output cannot be written (No space left on device)."]),
        (">&-", 2, ["error: standard output is closed. Redirect it to a file, or to /dev/null."]),
        ("> /dev/full 2>&-", 2, []),
        (">&- 2>&-", 2, []),
        ("<&- > /dev/null", 0, []),
        ("| true", 0, []),
    ],
)
@pytest.mark.parametrize("command", ["info --help", "--version"])
def test_output_that_cannot_be_written_is_one_line_and_a_code(command, redirection, code, lines):
    run = f"{sys.executable} -m statecast.cli {command} {redirection}"
    done = subprocess.run(run, shell=True, capture_output=True, text=True)
    assert (done.returncode, done.stderr.splitlines(), done.stdout) == (code, lines, "")
