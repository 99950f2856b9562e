"""States on the command line: made, updated and forecast from, as from the complete tables."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

from plants import COLUMNS, FORECAST, SMALL, refused, run, write_tables
from statecast import Forecaster, State
from statecast.cli.commands import app
from words import word_tables

MAKE = ["state", "model.safetensors", "series.csv", "static.csv"]
AHEAD = ["--until", "6", "--out", "f.csv"]


def _ran(*command: str) -> str:
    code, out, err = run(*command)
    assert code == 0, err
    return out + err


def _rows(folder: Path, name: str, first: int, last: int) -> None:
    """A file of the rows of all plants from one week to another."""
    whole = pl.read_csv(folder / "whole.csv")
    whole.filter(pl.col("week").is_between(first, last)).write_csv(folder / f"{name}.csv")


def _same(verb: list[str], series: list[str], state: str) -> pl.DataFrame:
    """The table that a command gives from a state, which must be that from the tables."""
    _ran(verb[0], "model.safetensors", *series, *verb[1:], "--out", "tables.csv")
    _ran(verb[0], "model.safetensors", "--state", state, *verb[1:], "--out", "state.csv")
    tables, found = pl.read_csv("tables.csv"), pl.read_csv("state.csv")
    # An update equals a complete run up to the rounding of float32.
    assert_frame_equal(found, tables, check_row_order=False, rel_tol=1e-4)
    return found


@pytest.mark.parametrize(
    "verb",
    [
        ["forecast", "--until", "6", "--level", "50,80", "--mean"],
        ["total", "--h", "2"],
        ["total", "--until", "6", "--all"],
        ["simulate", "--until", "6", "--paths", "3"],
        ["simulate", "--until", "6", "--peak"],
    ],
)
def test_a_command_from_a_state_is_that_from_the_tables(folder: Path, verb: list[str]) -> None:
    assert "state of 10 items" in _ran(*MAKE, "--out", "s.safetensors")
    assert _same(verb, ["series.csv", "static.csv"], "s.safetensors").height


@pytest.mark.parametrize("cuts", [(3, 5), (1, 2, 3, 5), (0, 4)])
def test_a_state_that_is_updated_is_that_of_all_rows(folder: Path, cuts: tuple[int, ...]) -> None:
    _rows(folder, "begun", 1, cuts[0])
    series = "begun.csv" if cuts[0] else "-"
    _ran("state", "model.safetensors", series, "static.csv", "--out", "0.safetensors")
    new = "0.safetensors"
    for place, (first, last) in enumerate(pairwise(cuts)):
        _rows(folder, "new", first + 1, last)
        old, new = new, f"{place + 1}.safetensors"
        before = (folder / old).read_bytes()
        _ran("update", "model.safetensors", old, "new.csv", "--out", new)
        assert (folder / old).read_bytes() == before
    _rows(folder, "all", 1, cuts[-1])
    found = _same(["forecast", "--until", "6"], ["all.csv", "static.csv"], new)
    assert found["week"].unique().to_list() == list(range(cuts[-1] + 1, 7))


def test_some_items_may_be_updated(folder: Path) -> None:
    _ran(*MAKE, "--out", "s.safetensors")
    whole = pl.read_csv("whole.csv")
    some = whole.filter(pl.col("plant").is_in(["b", "g"]) & (pl.col("week") == 4))
    some.write_parquet("new.parquet")
    _ran("update", "model.safetensors", "s.safetensors", "new.parquet", "--out", "t.safetensors")
    pl.concat([pl.read_csv("series.csv"), some]).write_csv("more.csv")
    _same(["forecast", "--until", "6"], ["more.csv", "static.csv"], "t.safetensors")
    assert "10 rows" in _ran("info", "t.safetensors")


def test_totals_of_a_state_by_files_of_groups_and_weights(folder: Path) -> None:
    _ran(*MAKE, "--out", "s.safetensors")
    static = pl.read_csv("static.csv")
    static.select("plant", "soil").write_csv("groups.csv")
    static.select("plant", area=pl.int_range(pl.len()) + 1).write_csv("areas.csv")
    verb = ["total", "--until", "6", "--by", "groups.csv", "--weight", "areas.csv"]
    assert _same(verb, ["series.csv", "static.csv"], "s.safetensors")["soil"].to_list() == [
        "clay",
        "sand",
    ]
    command = ["total", "model.safetensors", "--state", "s.safetensors", *AHEAD]
    assert "table or file" in refused(folder, *command, "--by", "soil")
    assert "table or file" in refused(folder, *command, "--weight", "area")


@pytest.mark.parametrize("verb", ["forecast", "total", "simulate", "explain"])
def test_no_file_that_is_read_is_replaced(folder: Path, verb: str) -> None:
    plants = pl.read_csv("static.csv").select("plant")
    plants.with_columns(until=pl.lit(6)).write_csv("input.csv")
    command = [verb, "model.safetensors", "series.csv", "static.csv", "--out", "input.csv"]
    cases = [["--until", "input.csv"]]
    if verb == "total":
        cases += [["--until", "6", option, "input.csv"] for option in ("--by", "--weight")]
    for case in cases:
        assert "not an input" in refused(folder, *command, *case)


@pytest.mark.parametrize("kind", ["pandas", "pyarrow"])
def test_a_state_of_a_model_of_other_tables(folder: Path, kind: str) -> None:
    """The forecast of a state is a table of the library of ``fit``; the file is the same."""
    series, static = pl.read_csv("whole.csv"), pl.read_csv("static.csv")
    given: list[Any] = [
        each.to_pandas() if kind == "pandas" else each.to_arrow() for each in (series, static)
    ]
    names: dict[str, Any] = {"id_col": "plant", "step_col": "week", "target_col": "height"}
    f = Forecaster(units=4, ensemble=2, epochs=1, **names).fit(*given, verbose=0)
    f.save("model.safetensors")
    _ran(*MAKE, "--out", "s.safetensors")
    _same(["forecast", "--until", "6"], ["series.csv", "static.csv"], "s.safetensors")


def test_covariates_of_the_steps_ahead(folder: Path) -> None:
    whole = pl.read_csv("whole.csv")
    plan = whole.select("plant", "week", rain=(pl.col("week") * 7 % 3).cast(pl.Float64))
    plan.write_csv("plan.csv")
    _ran(
        *["fit", "whole.csv", "static.csv", *COLUMNS, *SMALL],
        *["--future", "plan.csv", "--out", "model.safetensors"],
    )
    _ran(*MAKE, "--future", "plan.csv", "--out", "s.safetensors")
    _rows(folder, "new", 4, 4)
    update = ["update", "model.safetensors", "s.safetensors", "new.csv", "--out", "t.safetensors"]
    assert "future" in refused(folder, *update)
    _ran(*update, "--future", "plan.csv")
    _rows(folder, "more", 1, 4)
    verb = ["forecast", "--until", "6", "--future", "plan.csv"]
    _same(verb, ["more.csv", "static.csv"], "t.safetensors")


def test_states_of_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    series, static = word_tables()
    static.write_csv("static.csv")
    series.write_csv("series.csv")
    for name, rows in (("begun", pl.col("ds") <= 1), ("new", pl.col("ds") == 2)):
        series.filter(rows).write_csv(f"{name}.csv")
    series.filter(pl.col("ds") <= 2).write_csv("more.csv")
    for line in (
        "fit series.csv static.csv --out m.safetensors --target-col y --units 4 --epochs 2 "
        "--tokens",
        "state m.safetensors begun.csv static.csv --out s.safetensors",
        "update m.safetensors s.safetensors new.csv --out t.safetensors",
        "forecast m.safetensors --state t.safetensors --until 6 --beam 3 --out state.csv",
        "forecast m.safetensors more.csv static.csv --until 6 --beam 3 --out tables.csv",
        "simulate m.safetensors --state t.safetensors --until 6 --paths 2 --out drawn.csv",
    ):
        result = CliRunner().invoke(app, line.split())
        assert result.exit_code == 0, result.output
    found, tables = pl.read_csv("state.csv"), pl.read_csv("tables.csv")
    assert_frame_equal(found, tables, check_row_order=False, rel_tol=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (f"{' '.join(FORECAST)} --state s.safetensors --out f.csv", "received both"),
        ("forecast model.safetensors - --state s.safetensors --until 6 --out f.csv", "both"),
        ("forecast model.safetensors --until 6 --out f.csv", "received neither"),
        ("forecast none.safetensors --until 6 --out f.csv", "received neither"),  # checked first
        ("simulate model.safetensors --until 6 --out f.csv", "received neither"),
        ("total model.safetensors --until 6 --out f.csv", "received neither"),
        ("forecast model.safetensors --state series.csv --until 6 --out f.csv", "series.csv"),
        ("forecast model.safetensors --state model.safetensors --until 6 --out f.csv", "model"),
        ("forecast model.safetensors --state none.safetensors --until 6 --out f.csv", "none"),
        ("forecast model.safetensors --state other.safetensors --until 6 --out f.csv", "another"),
        ("update model.safetensors s.safetensors whole.csv --out t.safetensors", "week"),
        ("update model.safetensors s.safetensors new.csv --out s.safetensors", "not an input"),
        ("update model.safetensors s.safetensors new.csv --out t.csv", ".safetensors"),
        ("update model.safetensors other.safetensors new.csv --out t.safetensors", "another"),
        ("update model.safetensors s.safetensors zoo.csv --out t.safetensors", "'z'"),
        ("state model.safetensors series.csv --out no/s.safetensors", "no folder"),
        ("state model.safetensors none.csv static.csv --out s2.safetensors", "none.csv"),
    ],
)
def test_what_is_refused(folder: Path, words: str, message: str) -> None:
    _ran(*MAKE, "--out", "s.safetensors")
    state = State.load("s.safetensors")
    State(state.leaves, state.ids, fingerprint="0" * 64).save("other.safetensors")
    _rows(folder, "new", 4, 4)
    write_tables(folder, {"zoo": [["plant", "week", "height"], ["z", "4", "3"]]})
    assert message in refused(folder, *words.split())


def test_a_model_of_arrays_has_states_in_python_only(folder: Path) -> None:
    whole = pl.read_csv("whole.csv")
    Y = whole["height"].to_numpy().reshape(10, 6)
    f = Forecaster(units=4, ensemble=2, epochs=1).fit(Y, verbose=0)
    f.save("model.safetensors")
    f.state(Y[:, :3]).save("s.safetensors")
    message = refused(folder, "forecast", "model.safetensors", "--state", "s.safetensors", *AHEAD)
    assert "fitted on arrays" in message
