"""Options: those of the settings, and values outside their range."""

from __future__ import annotations

from pathlib import Path

import pytest

from plants import (
    FIT,
    FORECAST,
    PLOT,
    refused,
    run,
)
from statecast.cli.options import (
    SETTINGS,
    SEVERAL,
    new_forecaster,
    read_constraints,
    read_cutoffs,
    read_list,
)
from statecast.errors import ArgumentError


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("simulate --time-to 3 --peak", "received both"),
        ("simulate --since 2", "--peak"),
        ("total --by soil --all", "received both"),
        ("total --by soil,shops.csv", "one file"),
        ("total --by area", "expected a column 'area'"),
        ("total --paths 0", "paths"),
        ("simulate --peak --falling", "--time-to"),
        ("simulate --target-col height", "--peak"),
        ("simulate --time-to nan", "threshold"),
        ("simulate --paths 0", "paths"),
        ("simulate --top-k 2", "for tokens"),
        ("simulate --forbid a", "for tokens"),
        ("forecast --best 0", "for tokens"),
        ("forecast --length-power 1", "for tokens"),
    ],
)
def test_what_is_for_tokens_or_for_paths_is_refused(folder: Path, words: str, message: str) -> None:
    verb, *options = words.split()
    assert message in refused(folder, verb, *FORECAST[1:], *options, "--out", "s.csv")


def test_the_options_are_the_arguments_of_the_forecaster() -> None:
    import inspect

    from statecast import Forecaster, TokenForecaster

    parameters = [inspect.signature(kind).parameters for kind in (Forecaster, TokenForecaster)]
    assert set(SETTINGS) == {*parameters[0], *parameters[1]}


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--head", "cauchy", "quantiles"),
        ("--cell", "mamba", "lstm"),
        ("--units", "0", "units"),
        ("--conditioning", "none", "both"),
        ("--learning-rate", "-1", "learning_rate"),
        ("--id-col", "week", "step_col"),
        ("--past-cols", "visits,,rain", "separated by commas"),
    ],
)
def test_settings_outside_their_range(folder: Path, option: str, value: str, word: str) -> None:
    assert word in refused(folder, *FIT, option, value)


def test_how_bounds_are_given_is_in_the_help() -> None:
    assert "--bounds LOW HIGH" in run("fit", "--help")[1]


@pytest.mark.parametrize(
    ("texts", "convert", "values"),
    [
        (None, str, []),
        (["80,95"], float, [80.0, 95.0]),
        (["80", "95"], float, [80.0, 95.0]),
        (["0, 1", "3"], int, [0, 1, 3]),
        (['"Smith, J",b'], str, ["Smith, J", "b"]),
        (['",",a', '"', " "], str, [",", "a", '"', " "]),
    ],
)
def test_the_values_of_a_list_are_separated_by_commas_or_the_option_is_repeated(
    texts: list[str] | None, convert: type, values: list[object]
) -> None:
    assert read_list("name", texts, convert) == values


@pytest.mark.parametrize(
    ("text", "convert", "message"),
    [
        ("80,,95", float, "separated by commas"),
        (",", str, "double quotes"),
        ("", str, "separated by commas"),
        ('"a,b', str, "double quotes"),
        ("80,wide", float, "80,95"),
        ("0,1.5", int, "whole numbers"),
    ],
)
def test_a_list_that_cannot_be_read_is_refused(text: str, convert: type, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        read_list("name", [text], convert)


def test_tokens_are_separated_by_commas_but_characters_are_not() -> None:
    from statecast.tables.vocabulary import Vocabulary

    words, characters = Vocabulary(("red", "sky, blue")), Vocabulary(("a", ",", " "))
    found = read_constraints(words, ["red", 'red,"sky, blue"'], None)
    assert found == {"forbidden": ["red", "red", "sky, blue"], "required": []}
    found = read_constraints(characters, None, ["a, a"])
    assert found == {"forbidden": [], "required": ["a", ",", " ", "a"]}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        (["3"], 3),
        (["1997.0"], [1997.0]),
        (["-2"], [-2.0]),
        (["1997", "1998"], [1997.0, 1998.0]),
        (["1997,1998.5"], [1997.0, 1998.5]),
        (["2024-01-31"], ["2024-01-31"]),
        (["2024-01-31", "3"], ["2024-01-31", "3"]),
    ],
)
def test_cutoffs_are_times_or_a_single_count(given: list[str] | None, expected: object) -> None:
    found = read_cutoffs(given)
    assert found == expected
    assert type(found) is type(expected)


def test_a_single_target_is_the_column_of_tokens() -> None:
    assert new_forecaster(True, {"target_col": ["word"]}).settings.target_col == "word"
    assert new_forecaster(False, {"target_col": ["y"]}).settings.targets == ("y",)
    with pytest.raises(ArgumentError, match="target_col: expected the name of a column"):
        new_forecaster(True, {"target_col": ["word", "sign"]})


def test_every_option_with_a_list_takes_commas(folder: Path) -> None:
    both = run(*FORECAST, "--level", "80,95", "--quantile", "0.1,0.25")
    parts = ["--level", "80", "--level", "95", "--quantile", "0.1", "--quantile", "0.25"]
    assert both[0] == 0, both
    assert both == run(*FORECAST, *parts)
    assert "statecast-q-0.25" in both[1]
    # Each of these reaches the library as two names: the error names the one that is not there.
    assert "'rain'" in refused(folder, *FIT, "--past-cols", "rain,snow")
    assert "'rain'" in refused(folder, *FIT, "--categorical", "soil,rain")
    assert "'rain'" in refused(folder, *FIT, "--target-col", "rain,snow")
    assert run(*PLOT, "--item", "a,c", "--out", "fan.png")[0] == 2  # no forecast.csv yet
    assert run(*FORECAST, "--out", "forecast.csv")[0] == 0
    assert run(*PLOT, "--item", "a,c", "--out", "fan.png")[0] == 0
    assert "'z'" in refused(folder, *PLOT, "--item", "a,z", "--out", "fan.png")


def test_the_help_says_that_a_list_may_be_given_in_two_ways() -> None:
    """For every option with a list, and for no other."""
    import typer

    from statecast.cli.commands import app

    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        for option in command.params:
            if option.param_type_name == "option":
                assert option.multiple == (SEVERAL in option.help), (name, option.name)


@pytest.mark.parametrize("level", ["0", "100", "nan"])
def test_levels_outside_their_range(folder: Path, level: str) -> None:
    assert "level" in refused(folder, *FORECAST, "--level", level)
