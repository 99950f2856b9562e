"""The commands: their results, their messages, and what they refuse."""

from __future__ import annotations

import io
import json
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import statecast
from plants import (
    COLUMNS,
    EVALUATE,
    FIT,
    FORECAST,
    PLOT,
    SMALL,
    STEPS,
    Tables,
    backends,
    first_weeks,
    plant_tables,
    refused,
    run,
    write_tables,
)


def test_forecast_to_a_file_is_forecast_to_stdout(folder: Path) -> None:
    command = [*FORECAST, "--level", "80", "--level", "95", "--quantile", "0.25", "--mean"]
    code, out, err = run(*command)
    assert (code, err) == (0, "")
    assert run(*command, "--out", "f.csv")[0] == 0
    assert (folder / "f.csv").read_text() == out
    table = pl.read_csv(folder / "f.csv")
    bounds = [f"statecast-{side}-{level}" for level in (80, 95) for side in ("lo", "hi")]
    assert table.columns == [
        "plant",
        "week",
        "statecast",
        *bounds,
        "statecast-q-0.25",
        "statecast-mean",
    ]
    assert table.height == 10 * 3
    assert table["week"].unique().sort().to_list() == [4, 5, 6]
    assert table.select((pl.col(bounds[2]) <= pl.col(bounds[0])).all()).item()


def test_simulate_writes_paths_or_summaries(folder: Path) -> None:
    from statecast import Forecaster

    ask = ["simulate", *FORECAST[1:], "--paths", "5", "--out", "s.csv"]
    f = Forecaster.load("model.safetensors")
    drawn: Any = f.simulate("series.csv", "static.csv", until=6, paths=5)
    summaries = {
        "": drawn.table(),
        "--peak --since 1 --level 50": drawn.peak(since=1, level=50),
        "--time-to 20": drawn.time_to(20.0),
        "--time-to 12 --falling": drawn.time_to(12.0, falling=True),
    }
    for options, expected in summaries.items():
        code, _, err = run(*ask, *options.split())
        assert code == 0, err
        found = pl.read_csv("s.csv", schema_overrides=expected.schema)
        assert_frame_equal(found, expected, rel_tol=1e-5)


def test_context_of_new_groups(folder: Path) -> None:
    """The tables of ``--context`` are those of ``predict``."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(20), 4)
    y = 20 + 3 * rng.normal(size=(20, 1))[group] + rng.normal(size=(80, 5))
    row, step = (axis.ravel() for axis in np.indices(y.shape))
    series = pl.DataFrame({"unique_id": row, "ds": step + 1, "y": y.ravel()})
    static = pl.DataFrame({"unique_id": np.arange(80), "litter": group, "x": group % 7})
    known, new, others = (
        pl.col("unique_id") < 64,
        (pl.col("unique_id") >= 64) & (pl.col("unique_id") % 4 == 0),
        (pl.col("unique_id") >= 64) & (pl.col("unique_id") % 4 > 0),
    )
    for name, of in (("old", known), ("new", new), ("others", others)):
        seen = series.filter(of & ((pl.col("ds") <= 1) if name == "new" else pl.lit(True)))
        seen.write_csv(folder / f"{name}.csv")
        static.filter(of).write_csv(folder / f"{name}-static.csv")
    given = "--group-col litter --units 4 --ensemble 8 --epochs 2 --out g.safetensors"
    assert run("fit", "old.csv", "old-static.csv", *given.split())[0] == 0
    model = statecast.Forecaster.load("g.safetensors")
    expected = model.predict(
        "new.csv", "new-static.csv", until=5, context=("others.csv", "others-static.csv")
    )
    tables = ["g.safetensors", "new.csv", "new-static.csv", "--until", "5"]
    context = ["--context", "others.csv", "others-static.csv"]
    code, out, err = run("forecast", *tables, *context)
    assert (code, err) == (0, "")
    assert_frame_equal(pl.read_csv(io.StringIO(out)), expected)
    for command in ("total", "simulate"):
        assert run(command, *tables, *context, "--paths", "20")[0] == 0
    assert "none.csv" in refused(folder, "forecast", *tables, *context[:2], "none.csv")
    # The future covariates of both are in one table.
    series.select("unique_id", "ds", p=pl.col("unique_id") % 3).write_csv(folder / "plan.csv")
    plan = ["--future", "plan.csv"]
    assert run("fit", "old.csv", "old-static.csv", *given.split(), *plan)[0] == 0
    model = statecast.Forecaster.load("g.safetensors")
    others = ("others.csv", "others-static.csv", "plan.csv")
    expected = model.predict(
        "new.csv", "new-static.csv", until=5, future="plan.csv", context=others
    )
    code, out, err = run("forecast", *tables, *context, *plan)
    assert (code, err) == (0, "")
    assert_frame_equal(pl.read_csv(io.StringIO(out)), expected)
    for command in ("total", "simulate"):
        assert run(command, *tables, *context, *plan, "--paths", "20")[0] == 0


def test_total_has_a_row_for_each_group(folder: Path) -> None:
    from statecast import Forecaster

    static = pl.read_csv("static.csv")
    areas = ["1.5", *map(str, range(2, static.height + 1))]
    static.with_columns(area=pl.Series(areas)).write_csv("areas.csv")
    static.select("plant", "soil", kind="light").write_csv("groups.csv")
    f = Forecaster.load("model.safetensors")
    words: dict[str, dict[str, Any]] = {
        "": {},
        "--all --since 1": {"by": [], "since": 1},
        "--by soil --level 50 --quantile 0.3 --mean": {
            "by": "soil", "level": 50, "quantiles": 0.3, "mean": True,
        },
        "--by groups.csv --paths 30": {"by": "groups.csv", "paths": 30},
    }  # fmt: skip
    for options, given in words.items():
        code, _, err = run("total", *FORECAST[1:], *options.split(), "--out", "t.csv")
        assert code == 0, err
        expected: Any = f.predict_total("series.csv", "static.csv", until=6, **given)
        found = pl.read_csv("t.csv", schema_overrides=expected.schema)
        assert_frame_equal(found, expected, rel_tol=1e-5)
    tables = [word.replace("static.csv", "areas.csv") for word in FORECAST[1:]]
    code, out, err = run("total", *tables, "--by", "soil", "--weight", "area")
    assert code == 0, err
    expected = f.predict_total("series.csv", "areas.csv", until=6, by="soil", weight="area")
    found = pl.read_csv(io.StringIO(out), schema_overrides=expected.schema)
    assert_frame_equal(found, expected, rel_tol=1e-5)


@pytest.mark.parametrize("verb", ["score", "rank"])
def test_scores_and_rankings_are_of_tokens(folder: Path, verb: str) -> None:
    words = [verb, "model.safetensors", "series.csv", "static.csv", "--out", "s.csv"]
    assert "expected a TokenForecaster" in refused(folder, *words)


def test_explain_has_a_row_for_each_observation_and_feature(folder: Path) -> None:
    words = [*FORECAST, "--analogues", "2", "--out", "why.csv"]
    code, _, err = run("explain", *words[1:])
    assert code == 0, err
    why = pl.read_csv(folder / "why.csv")
    own = why.filter(pl.col("plant") == "a")
    assert set(own.filter(pl.col("what") == "static")["name"]) == {"soil", "light"}
    assert sorted(own.filter(pl.col("what") == "observation")["name"].cast(str)) == ["1", "2", "3"]
    code, out, _ = run("explain", *FORECAST[1:], "--analogues", "-1")
    assert (code, out) == (2, "")


def test_parquet_in_and_out(folder: Path) -> None:
    pl.read_csv("series.csv").write_parquet("series.parquet")
    command = [word.replace("series.csv", "series.parquet") for word in FORECAST]
    assert run(*command, "--out", "f.parquet")[0] == 0
    assert run(*FORECAST, "--out", "f.csv")[0] == 0
    assert pl.read_parquet("f.parquet").height == pl.read_csv("f.csv").height


def test_an_item_without_a_row_in_the_series_is_forecast_from_the_start(folder: Path) -> None:
    static = [*plant_tables()["static"], ["k", "clay", "0.5"]]
    write_tables(folder, {"static": static})
    code, out, _ = run(*FORECAST)
    assert code == 0
    assert sum(line.startswith("k,") for line in out.splitlines()) == STEPS


def test_the_settings_reach_the_forecaster_and_an_output_may_be_overwritten(folder: Path) -> None:
    (folder / "new.safetensors").write_text("old")
    code, _, err = run(*FIT, "--seed", "7", "--cell", "gru", "--epochs", "1")
    assert code == 0
    assert "epoch 1/1" in err  # plain lines, as this is no terminal
    assert "Trained for 1 epoch" in err
    lines = run("info", "new.safetensors")[1].splitlines()
    found = dict(line.split(maxsplit=1) for line in lines)
    assert found["seed"] == "7"
    assert found["cell"] == "gru"
    assert found["units"] == "4"


def test_a_category_never_seen_is_a_warning_in_one_line(folder: Path) -> None:
    static = plant_tables()["static"]
    static[1][1] = "peat"
    write_tables(folder, {"static": static})
    code, _, err = run(*FORECAST, "--out", "f.csv")
    assert code == 0
    warnings = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "peat" in warnings[0]
    assert "soil" in warnings[0]


@backends
def test_ctrl_c_keeps_the_best_epoch_and_writes_the_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from statecast.networks.training import KeepBest

    after = KeepBest.on_epoch_end

    def interrupt(self: KeepBest, epoch: int, logs: object = None) -> None:
        after(self, epoch, logs)
        if epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(KeepBest, "on_epoch_end", interrupt)
    code, _, err = run(*FIT, "--epochs", "50")
    assert code == 0, err
    assert "Wrote new.safetensors" in err
    assert run("info", "new.safetensors")[0] == 0


def test_options_of_a_cluster_are_for_an_engine(folder: Path) -> None:
    code, _, err = run(*FIT, "--workers", "2")
    assert code == 2
    assert "--workers is for work with --engine" in err
    code, _, err = run(*FIT, "--engine", "spark")
    assert code == 2
    assert "'ray'" in err
    assert not (folder / "new.safetensors").exists()


@pytest.mark.slow
def test_a_fit_on_ray_writes_the_model(folder: Path) -> None:
    code, _, err = run(*FIT, "--engine", "ray", "--workers", "2")
    assert code == 0, err
    assert "Trained member 1 for" in err
    assert run("info", "new.safetensors")[0] == 0


def test_a_dash_for_the_series_forecasts_from_the_static_features_alone(folder: Path) -> None:
    words = [word.replace("series.csv", "-") for word in FORECAST]
    code, out, err = run(*words, "--out", "none.csv")
    assert code == 0, err
    assert pl.read_csv("none.csv").height == 10 * STEPS, out


def test_covariates_from_files(folder: Path) -> None:
    given = plant_tables()
    header, *rows = given["series"]
    seen = [[*header, "visits"], *([*row, str(len(row[2]))] for row in rows)]
    plan = [["plant", "week", "water"], *([*row[:2], str(int(row[1]) % 2)] for row in rows)]
    write_tables(folder, {"whole": seen, "begun": first_weeks(seen), "plan": plan})
    covered = ["--future", "plan.csv", "--past-cols", "visits", "--categorical", "water"]
    fit = ["fit", "whole.csv", "static.csv", *COLUMNS, *SMALL, "--out", "covered.safetensors"]
    assert run(*fit, *covered)[0] == 0
    _, out, _ = run("info", "covered.safetensors")
    assert "future column water: codes: 0, 1" in " ".join(out.split())
    ask = ["forecast", "covered.safetensors", "begun.csv", "static.csv", "--until", "6"]
    code, out, err = run(*ask, "--future", "plan.csv")
    assert code == 0, err
    assert len(out.splitlines()) == 31
    code, out, err = run(*ask)
    assert code == 2
    assert "Expected a future table with ['water'], as in fit; received None" in err
    words = ["evaluate", "whole.csv", "static.csv", *COLUMNS, *SMALL, "--epochs", "1"]
    code, out, err = run(*words, *covered, "--known", "0", "--folds", "2")
    assert code == 0, err


@backends
@pytest.mark.parametrize("after", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_ctrl_c_before_the_end_of_the_first_epoch_writes_nothing(folder: Path, after: int) -> None:
    """While modules load, and while the first step compiles, too."""
    command = [sys.executable, "-c", "from statecast.cli.commands import main; main()", *FIT]
    forever = ["--epochs", "2000", "--patience", "2000"]
    process = subprocess.Popen([*command, *forever], cwd=folder, stderr=subprocess.PIPE, text=True)
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    if process.returncode == 0:  # an epoch was done by then: it is kept
        assert (folder / "new.safetensors").exists()
    else:
        assert process.returncode in (130, -signal.SIGINT), err
        assert not list(folder.glob("*new*"))


def test_evaluate_writes_the_scores_and_their_picture(folder: Path) -> None:
    words = [word.replace("series.csv", "whole.csv") for word in EVALUATE]
    code, out, err = run(*words)
    assert code == 0, err
    assert "k = 0" in out
    assert "ridge" in out
    scores = pl.read_csv("scores.csv")
    assert scores["known"].unique().sort().to_list() == [0, 2]
    assert "statecast" in scores["method"].to_list()
    assert Path("scores.png").read_bytes().startswith(b"\x89PNG")
    assert "Wrote scores.csv and scores.png" in err


def test_a_number_of_folds_will_do(folder: Path) -> None:
    words = ["evaluate", "whole.csv", "static.csv", *COLUMNS, *SMALL, "--epochs", "1"]
    code, out, _ = run(*words, "--known", "1", "--folds", "2")
    assert code == 0
    assert "2 folds" in out


def test_evaluate_in_time(folder: Path) -> None:
    """Plant i is sown in week i; the same with dates gives the same scores."""
    given = plant_tables()
    static = [[*row, "sown" if not i else str(i)] for i, row in enumerate(given["static"])]
    day = date(2024, 1, 1)
    sown = {row[0]: int(row[-1]) for row in static[1:]}
    dated = [
        [plant, str(day + timedelta(weeks=sown[plant] + int(week) - 2)), y]
        for plant, week, y in given["series"][1:]
    ]
    write_tables(
        folder, {"static": static, "dated": [given["series"][0], *dated], "plain": given["static"]}
    )
    files = ["--out", "scores.csv", "--plot", "scores.png"]
    small = ["--units", "4", "--ensemble", "1", "--epochs", "1"]
    words = [*COLUMNS, *small, "--by", "launch", "--known", "0,2", "--no-refit", *files]
    found = []
    for tables, times in (
        (["whole.csv", "static.csv", "--launch", "sown"], "5,7"),
        (["dated.csv", "plain.csv"], "2024-01-29,2024-02-12"),
    ):
        code, out, err = run("evaluate", *tables, *words, "--cutoffs", times)
        assert code == 0, err
        assert "what came after 2 cutoffs, by a fit to what was known at the first" in out
        assert "k = 1 to 2" in out
        found.append(pl.read_csv("scores.csv", try_parse_dates=True))
        assert found[-1]["cutoff"].n_unique() == 3
        assert Path("scores.png").read_bytes().startswith(b"\x89PNG")
    assert found[0]["values"].equals(found[1]["values"])
    curve = [table.filter(pl.col("method") == "mean curve")["crps"] for table in found]
    assert curve[0].to_list() == pytest.approx(curve[1].to_list(), rel=1e-5)


@pytest.mark.parametrize(
    ("words", "word"),
    [
        ("--by week", "by"),
        ("--by launch", "cutoffs"),
        ("--cutoffs 3", "by='item'"),
        ("--by launch --cutoffs 3", "launch="),
        ("--by launch --cutoffs 3 --folds 5", "folds"),
        ("--by launch --cutoffs 2024-01-01,x --launch light", "received '2024-01-01'"),
        ("--by launch --cutoffs 900 --launch light", "a list"),
        ("--by launch --cutoffs 3 --launch soil", "item 'a' has 'clay'"),
        ("--by launch --cutoffs 3 --tokens", "not times"),
        ("--no-refit", "refit"),
        ("--h 3", "h: expected"),
    ],
)
def test_evaluate_in_time_refuses(folder: Path, words: str, word: str) -> None:
    command = ["evaluate", "whole.csv", "static.csv", *COLUMNS, "--out", "scores.csv"]
    assert word in refused(folder, *command, *words.split())


@pytest.mark.parametrize("ending", ["png", "pdf", "svg", "html"])
def test_plot(folder: Path, ending: str) -> None:
    assert run(*FORECAST, "--level", "80", "--out", "forecast.csv")[0] == 0
    code, _, err = run(*PLOT, "--item", "c", "--item", "a", "--out", f"fan.{ending}")
    assert code == 0, err
    assert Path(f"fan.{ending}").stat().st_size > 1000


def test_demo(folder: Path) -> None:
    Path("statecast-demo/new").mkdir(parents=True)  # a second run writes over the first
    Path("statecast-demo/forecast.csv").write_text("old")
    code, out, err = run("demo", *SMALL)
    assert code == 0, err
    where = Path("statecast-demo")
    found = {str(path.relative_to(where)) for path in where.rglob("*") if path.is_file()}
    tables = {"train/series", "train/static", "train/folds", "new/series", "new/static"}
    files = {f"{name}.csv" for name in (*tables, "new/truth", "forecast")}
    assert found == files | {"forecast.png", "scores.png", "growth.safetensors"}
    for name in found:
        assert f"  {name} " in out, name
    assert "ridge" in out
    assert "k = 3: 22 items" in out
    assert "k = 0: 22 items" not in out
    curve = out[out.index("CRPS against k") :].splitlines()[2:]
    assert [line.split()[0] for line in curve[:6]] == list("012358")  # as in scores.png

    # What it wrote fits together: the model makes the forecast from the new children's files.
    model, new = str(where / "growth.safetensors"), where / "new"
    words = ["forecast", model, str(new / "series.csv"), str(new / "static.csv")]
    assert run(*words, "--until", "31", "--level", "80", "--level", "95", "--out", "f.csv")[0] == 0
    mine, theirs = pl.read_csv("f.csv"), pl.read_csv(where / "forecast.csv")
    assert mine.columns == theirs.columns
    assert mine.height == theirs.height == 22 * 28
    assert (mine["statecast"] - theirs["statecast"]).abs().max() < 1e-3  # type: ignore[operator]
    known = pl.read_csv(new / "series.csv")["unique_id"].unique()
    assert not set(known) & set(pl.read_csv(where / "train/series.csv")["unique_id"])


def cell(table: str, row: int, column: int, value: str) -> Callable[[Tables], None]:
    def change(given: Tables) -> None:
        given[table][row][column] = value

    return change


def add(table: str, *cells: str) -> Callable[[Tables], None]:
    return lambda given: given[table].append(list(cells))


def keep(table: str, rows: slice) -> Callable[[Tables], None]:
    def change(given: Tables) -> None:
        given[table] = given[table][rows]

    return change


def all_missing(given: Tables) -> None:
    for row in given["series"]:
        if row[0] == "c":
            row[2] = ""


# What is wrong with the tables, and the words that the message must hold.
BAD_TABLES = {
    "missing column": (cell("series", 0, 2, "hight"), "'height'"),
    "missing id column": (cell("static", 0, 0, "id"), "'plant'"),
    "duplicate step": (add("series", "b", "2", "1.0"), "'week' 'b'"),
    "step below 1": (cell("series", 5, 1, "0"), "'week' 'b'"),
    "step not whole": (cell("series", 5, 1, "1.5"), "'week' 'b'"),
    "step not a step": (cell("series", 5, 1, "soon"), "'week' 'b'"),
    "y not a number": (cell("series", 5, 2, "tall"), "'height' 'tall' 'b'"),
    "infinite y": (cell("series", 5, 2, "inf"), "'height' 'b'"),
    "item missing from static": (add("series", "z", "1", "1.0"), "'plant' 'z'"),
    "duplicate static row": (add("static", "b", "sand", "0.1"), "'plant' 'b'"),
    "empty static": (keep("static", slice(1)), "static"),
    "item without a value": (all_missing, "'height' 'c'"),
}


@pytest.mark.parametrize("command", [FIT, FORECAST, EVALUATE], ids=lambda words: words[0])
@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_tables(folder: Path, case: str, command: list[str]) -> None:
    change, words = BAD_TABLES[case]
    given = plant_tables()
    given["series"] = first_weeks(given["series"])
    change(given)
    write_tables(folder, given)
    message = refused(folder, *command)
    for word in words.split():
        assert word in message


def test_a_series_without_rows_is_k_0_and_nothing_to_learn_from(folder: Path) -> None:
    given = plant_tables()
    given["series"] = given["series"][:1]
    write_tables(folder, given)
    for command in (FIT, EVALUATE):
        assert "series" in refused(folder, *command)
    static_alone = ["-" if word == "series.csv" else word for word in FORECAST]
    assert run(*FORECAST) == run(*static_alone)


@pytest.mark.parametrize("until", ["3", "2", "0", "-1", "soon", "none.csv"])
def test_until_within_the_prefix_or_none(folder: Path, until: str) -> None:
    message = refused(folder, *FORECAST[:-1], until, "--strict", "--out", "f.csv")
    assert "until" in message
    if until in ("3", "2"):
        assert "'a'" in message
        assert run(*FORECAST[:-1], until, "--out", "f.csv")[0] == 0
        assert not pl.read_csv(folder / "f.csv").height


def test_each_item_to_its_own_step(folder: Path) -> None:
    """By a file with a column ``until``, or by ``--h``."""
    plants = pl.read_csv(folder / "static.csv")["plant"]
    steps = [4 + i % 3 for i in range(len(plants))]
    pl.DataFrame({"plant": plants, "until": steps}).write_csv(folder / "until.csv")
    for verb in ("forecast", "simulate", "explain"):
        command = [verb, *FORECAST[1:-1], "until.csv", "--out", "f.csv"]
        code, _, err = run(*command)
        assert code == 0, err
        if verb != "explain":
            found = dict(pl.read_csv(folder / "f.csv").group_by("plant").len().iter_rows())
            assert found == {p: s - 3 for p, s in zip(plants, steps, strict=True)}
    assert run(*FORECAST[:-2], "--h", "2", "--out", "f.csv")[0] == 0
    assert pl.read_csv(folder / "f.csv")["week"].unique().sort().to_list() == [4, 5]
    assert "received both" in refused(folder, *FORECAST, "--h", "2", "--out", "g.csv")


BAD_STATICS = {
    "a column less": (lambda rows: [row[:2] for row in rows], "'light'"),
    "a column more": (lambda rows: [[*row, "1"] for row in rows], "'1'"),
    "another name": (lambda rows: [["plant", "soil", "sun"], *rows[1:]], "'light'"),
    "another type": (lambda rows: [*rows[:2], ["b", "sand", "bright"], *rows[3:]], "'light' 'b'"),
}


@pytest.mark.parametrize("case", BAD_STATICS)
def test_statics_that_differ_from_the_fit(folder: Path, case: str) -> None:
    change, words = BAD_STATICS[case]
    write_tables(folder, {"static": change(plant_tables()["static"])})
    message = refused(folder, *FORECAST, "--out", "f.csv")
    for word in words.split():
        assert word in message


@pytest.mark.parametrize("table", ["series", "static"])
@pytest.mark.parametrize(
    "content", [None, b"", b"\xff\xfe\x00nonsense"], ids=["missing", "nothing", "nonsense"]
)
@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_unreadable_tables(folder: Path, table: str, content: bytes | None, ending: str) -> None:
    path = Path(f"other{ending}")
    if content is not None:
        path.write_bytes(content)
    for command in (FIT, FORECAST, EVALUATE):
        words = [word.replace(f"{table}.csv", str(path)) for word in command]
        assert str(path) in refused(folder, *words)


def test_a_table_of_another_kind(folder: Path) -> None:
    Path("series.xlsx").write_bytes(b"x")
    words = [word.replace("series.csv", "series.xlsx") for word in FORECAST]
    assert "series.xlsx" in refused(folder, *words)


BAD_FOLDS: dict[str, tuple[list[list[str]], str]] = {
    "an item without a fold": (plant_tables()["folds"][:-1], "'j'"),
    "a fold missing": ([*plant_tables()["folds"][:-1], ["j", ""]], "'fold'"),
    "an item twice": ([*plant_tables()["folds"], ["b", "1"]], "'plant' 'b'"),
    "no fold column": ([["plant", "part"], *plant_tables()["folds"][1:]], "'fold'"),
    "one fold": (
        [["plant", "fold"], *([row[0], "0"] for row in plant_tables()["folds"][1:])],
        "fold",
    ),
    "no row": ([["plant", "fold"]], "folds"),
}


@pytest.mark.parametrize("case", BAD_FOLDS)
def test_bad_folds(folder: Path, case: str) -> None:
    rows, words = BAD_FOLDS[case]
    write_tables(folder, {"folds": rows})
    message = refused(folder, *EVALUATE)
    for word in words.split():
        assert word in message


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--known", "0,x", "known"),
        ("--known", "-1", "known"),
        ("--known", "6", "known"),
        ("--folds", "1", "folds"),
        ("--folds", "none.csv", "none.csv"),
        ("--out", "nowhere/s.csv", "no folder"),
        ("--plot", "s.gif", ".png"),
    ],
)
def test_evaluate_refuses(folder: Path, option: str, value: str, word: str) -> None:
    assert word in refused(folder, *EVALUATE, option, value)


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (["--out", "fan.gif"], ".png"),
        (["--out", "nowhere/fan.png"], "no folder"),
        (["--out", "fan.png", "--item", "z"], "'z'"),
        (["--out", "fan.png", "--id-col", "unique_id"], "'unique_id'"),
        (["--out", "fan.png", "--target-col", "y"], "'y'"),
    ],
)
def test_plot_refuses(folder: Path, words: list[str], word: str) -> None:
    rows = [["plant", "week", "statecast"], ["a", "4", "1.5"], ["b", "4", "2.5"]]
    write_tables(folder, {"forecast": rows})
    assert word in refused(folder, *PLOT, *words)
    assert "none.csv" in refused(folder, "plot", "none.csv", "--out", "fan.png")
    rows[0][2] = "statecast-height,statecast-nats"  # several targets
    rows[1][2], rows[2][2] = "1.5,1", "2.5,1"
    write_tables(folder, {"forecast": rows})
    message = refused(folder, "plot", "forecast.csv", *COLUMNS[:4], "--out", "fan.png")
    assert "--target-col height" in message


def header(model: bytes, change: Callable[[dict[str, str]], object]) -> bytes:
    """The model file with another header."""
    length = struct.unpack("<Q", model[:8])[0]
    head = json.loads(model[8 : 8 + length])
    change(head["__metadata__"])
    text = json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + model[8 + length :]


BAD_MODELS: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda model: b"",
    "truncated": lambda model: model[:-10],
    "truncated in the header": lambda model: model[:100],
    "another version": lambda model: header(model, lambda head: head.update(version="99")),
    "another kind": lambda model: header(model, lambda head: head.update(format="pt")),
    "no config": lambda model: header(model, lambda head: head.pop("config")),
    "a config of lists": lambda model: header(model, lambda head: head.update(config="[[]]")),
    "an endless config": lambda model: header(
        model, lambda head: head.update(config="[" * 100_000)
    ),
    "an oversized header": lambda model: struct.pack("<Q", 1 << 40) + model[8:],
    "a header beyond the cap": lambda model: (
        struct.pack("<Q", 100 << 20) + b" " * (100 << 20) + model
    ),
    "a table": lambda model: b"plant,week,height\na,1,2\n",
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_bad_models(folder: Path, model: bytes, case: str) -> None:
    Path("bad.safetensors").write_bytes(BAD_MODELS[case](model))
    words = [word.replace("model.safetensors", "bad.safetensors") for word in FORECAST]
    assert "bad.safetensors" in refused(folder, *words, "--out", "f.csv")
    assert "bad.safetensors" in refused(folder, "info", "bad.safetensors")


def test_a_missing_model(folder: Path) -> None:
    assert "none.safetensors" in refused(folder, "info", "none.safetensors")


def test_a_table_of_no_rows_is_nothing_to_fit_to(folder: Path) -> None:
    Path("series.csv").write_text("plant,week,height\n")
    assert "A fit needs some" in refused(folder, *FIT)


def test_the_version() -> None:
    assert run("--version")[:2] == (0, f"statecast {statecast.__version__}\n")


@pytest.mark.parametrize(
    "words", [["explain", "m"], ["nonsense"], [*FORECAST, "--paths", "2"], ["fit", "a", "b"]]
)
def test_usage_errors_are_exit_code_2(folder: Path, words: list[str]) -> None:
    code, _, err = run(*words)
    assert code == 2
    assert "Usage:" in err
    assert "Traceback" not in err
