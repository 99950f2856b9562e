"""The command line with tokens."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from typer.testing import CliRunner

from statecast.cli.commands import app
from statecast.tokens.forecaster import TokenForecaster
from words import (
    word_tables,
)


def test_the_command_line_takes_tokens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, table in zip(("series", "static"), word_tables(), strict=True):
        table.write_csv(f"{name}.csv")
    small = "--units 4 --epochs 2 --tokens"
    run = CliRunner().invoke
    for line in (
        f"fit series.csv static.csv --out m.safetensors --target-col y {small}",
        "forecast m.safetensors - static.csv --until 6 --beam 4 --best 2 --out f.csv",
        "forecast m.safetensors - static.csv --until 6 --require ca --forbid b --out r.csv",
        "simulate m.safetensors - static.csv --until 6 --paths 2 --top-k 1 --out drawn.csv",
        "forecast m.safetensors - static.csv --until 6 --out greedy.csv",
        "score m.safetensors series.csv static.csv --known 1 --out scored.csv",
        "score m.safetensors series.csv static.csv --by-step --unfinished --out steps.csv",
        "rank m.safetensors series.csv static.csv --by static --best 3 --out found.csv",
        f"evaluate series.csv static.csv --folds 2 --known 0,1 --out scores.csv {small}",
        "info m.safetensors",
    ):
        result = run(app, line.split())
        assert result.exit_code == 0, result.output
    assert {"statecast", "statecast-2", "statecast-nats"} <= set(pl.read_csv("f.csv").columns)
    assert "bits" in pl.read_csv("scores.csv").columns
    texts = pl.read_csv("r.csv").group_by("unique_id").agg(pl.col("statecast").str.join(""))
    assert all(text.startswith("ca") and "b" not in text for text in texts["statecast"])
    greedy, drawn = pl.read_csv("greedy.csv")["statecast"], pl.read_csv("drawn.csv")
    assert greedy.equals(drawn["path-1"], check_names=False)
    assert greedy.equals(drawn["path-2"], check_names=False)
    f, (series, static) = TokenForecaster.load("m.safetensors"), word_tables()
    assert pl.read_csv("scored.csv").equals(f.log_likelihood(series, static, known=1))
    steps = f.log_likelihood(series, static, ended=False, by_step=True)
    assert pl.read_csv("steps.csv").equals(steps)
    found = f.rank(series, static, by="static", best=3)
    assert pl.read_csv("found.csv").equals(found)
    for line, message in (
        ("forecast m.safetensors - static.csv --until 6 --best 0", "width"),
        ("forecast m.safetensors - static.csv --until 6 --forbid z", "met in training"),
        ("forecast m.safetensors - static.csv --until 6 --require cb --forbid b", "not forbidden"),
        ("simulate m.safetensors - static.csv --until 6 --temperature 0", "temperature"),
        ("simulate m.safetensors - static.csv --until 6 --peak", "for numbers"),
        ("forecast m.safetensors - static.csv --until 6 --no-calibrated", "for numbers"),
        ("forecast m.safetensors - static.csv --until 6 --level 80", "for numbers"),
        ("forecast m.safetensors - static.csv --until 6 --mean", "for numbers"),
        ("total m.safetensors - static.csv --until 6", "expected a Forecaster"),
        ("forecast m.safetensors - static.csv --until 6 --beam 1 --best 2", "best: expected"),
        ("score m.safetensors series.csv static.csv --known -1", "known"),
        ("rank m.safetensors series.csv static.csv --by item", "by: expected one of"),
    ):
        refused = run(app, [*line.split(), "--out", "none.csv"])
        assert (refused.exit_code, message in refused.output) == (2, True), refused.output
    assert not Path("none.csv").exists()
    refused = run(app, f"evaluate series.csv --plot p.png {small}".split())
    assert refused.exit_code == 2
    assert "no chart" in refused.output
