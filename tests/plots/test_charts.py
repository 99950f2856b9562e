"""Figures are drawn, with what belongs in them; nothing touches pyplot."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from figures import bands, drawn, write
from statecast.errors import ArgumentError, DataError, MissingExtraError
from statecast.plots import charts as plots
from statecast.plots.frame import PAPER

T, K = 8, 3


def forecast(items: Any = ("a", "b"), known: int = K, levels: Any = (80, 95)) -> pl.DataFrame:
    """As ``Forecaster.predict`` returns it: the truth is step + 10 * row, and so the median."""
    parts = []
    for row, item in enumerate(items):
        step = np.arange(known + 1, T + 1)
        columns: dict[str, Any] = {"unique_id": [item] * len(step), "ds": step}
        columns["statecast"] = step + 10.0 * row
        for level in levels:
            columns[f"statecast-lo-{level:g}"] = columns["statecast"] - level / 80
            columns[f"statecast-hi-{level:g}"] = columns["statecast"] + level / 40
        parts.append(pl.DataFrame(columns))
    return pl.concat(parts)


def series(items: Any = ("a", "b")) -> pl.DataFrame:
    rows = [
        (item, step, step + 10.0 * r) for r, item in enumerate(items) for step in range(1, T + 1)
    ]
    return pl.DataFrame(rows, schema=["unique_id", "ds", "y"], orient="row")


def test_a_fan_has_all_that_belongs_in_it(tmp_path: Path) -> None:
    figure = plots.fan(forecast(), series(), target_label="height, cm")
    assert len(figure.axes) == 2
    for row, axis in enumerate(figure.axes):
        assert axis.get_title(loc="left") == "ab"[row]
        lines = drawn(axis)
        steps = np.arange(1, T + 1)
        assert lines["known"] == (list(steps[:K]), list(steps[:K] + 10.0 * row))
        assert lines["truth"] == (list(steps[K:]), list(steps[K:] + 10.0 * row))
        # The fan opens at the last known point
        assert lines["median"] == (list(steps[K - 1 :]), list(steps[K - 1 :] + 10.0 * row))
        assert lines["prefix ends"][0] == [K + 0.5, K + 0.5]
        found = bands(axis)
        assert list(found) == ["95 %", "80 %"]
        for name, level in (("95 %", 95), ("80 %", 80)):
            high = found[name][:, 1].max()
            assert high == pytest.approx(T + 10 * row + level / 40)
            assert found[name][:, 0].min() == K
            end = found[name][found[name][:, 0] == T, 1]
            assert end.min() == pytest.approx(T + 10 * row - level / 80)
            at = found[name][found[name][:, 0] == K, 1]
            np.testing.assert_allclose(at, K + 10 * row)
    assert figure.axes[0].get_ylabel() == "height, cm"
    assert figure.axes[0].get_xlabel() == "step"
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["known", "truth", "median", "80 %", "95 %", "prefix ends"]
    write(figure, tmp_path)


def test_hollow_points_are_the_truth() -> None:
    (axis,) = plots.fan(forecast("a"), series("a")).axes
    colour = {str(line.get_label()): line.get_markerfacecolor() for line in axis.get_lines()}
    assert colour["truth"] == PAPER
    assert colour["known"] != PAPER


def test_without_a_series_there_are_the_median_and_the_bands(tmp_path: Path) -> None:
    (axis,) = plots.fan(forecast("a"), items="a", level=[80]).axes
    assert set(drawn(axis)) == {"median", "prefix ends"}
    assert list(bands(axis)) == ["80 %"]
    (axis,) = plots.fan(forecast("a", levels=())).axes
    assert bands(axis) == {}


def test_from_no_prefix_the_line_stands_before_step_1() -> None:
    (axis,) = plots.fan(forecast("a", known=0), series("a")).axes
    lines = drawn(axis)
    assert "known" not in lines
    assert lines["prefix ends"][0] == [0.5, 0.5]
    assert lines["truth"][0] == list(range(1, T + 1))
    assert lines["median"][0] == list(range(1, T + 1))


def test_each_item_has_a_prefix_of_its_own_and_rows_may_be_in_any_order() -> None:
    both = pl.concat([forecast("a", known=2), forecast("b", known=5)])
    for table in (both, both.sample(fraction=1.0, shuffle=True, seed=0)):
        figure = plots.fan(table, series().reverse(), items=["a", "b"])
        assert [len(drawn(axis)["known"][0]) for axis in figure.axes] == [2, 5]
        assert [drawn(axis)["median"][0] for axis in figure.axes] == [
            list(range(2, T + 1)),
            list(range(5, T + 1)),
        ]


def test_the_first_six_items_by_default(tmp_path: Path) -> None:
    items = list(range(1, 10))
    assert len(plots.fan(forecast(items), series(items)).axes) == 6
    figure = plots.fan(forecast(items), items=["7", 2, 3, 4])  # the command line has text only
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["7", "2", "3", "4"]
    write(figure, tmp_path)


def test_every_kind_of_table(tmp_path: Path) -> None:
    tables = {"forecast": forecast((1, 2)), "series": series((1, 2))}
    for name, table in tables.items():
        table.write_csv(tmp_path / f"{name}.csv")
        table.write_parquet(tmp_path / f"{name}.parquet")
    names = (
        "statecast",
        "statecast-lo-80",
        "statecast-hi-80",
        "statecast-lo-95",
        "statecast-hi-95",
    )
    prefix = np.full((2, K), np.nan)
    arrays = {
        name: np.hstack([prefix, tables["forecast"][name].to_numpy().reshape(2, -1)])
        for name in names
    }
    expected = [drawn(axis) for axis in plots.fan(*tables.values()).axes]
    for first, second in (
        [table.to_pandas() for table in tables.values()],
        [table.to_arrow() for table in tables.values()],
        [tmp_path / "forecast.csv", str(tmp_path / "series.csv")],
        [tmp_path / "forecast.parquet", tables["series"]],
        [arrays, tables["series"]["y"].to_numpy().reshape(2, T)],
    ):
        assert [drawn(axis) for axis in plots.fan(first, second).axes] == expected


def test_dates(tmp_path: Path) -> None:
    date = pl.date(2020, 1, 1).dt.offset_by((pl.col("ds") - 1).cast(pl.String) + "mo")
    none = pl.lit(None, pl.Date)
    first = forecast("a").with_columns(ds=date, step=pl.col("ds"))
    second = forecast("b", known=0).with_columns(ds=none, step=pl.col("ds"))  # k = 0: no dates
    observed = series("a").with_columns(ds=date)
    figure = plots.fan(pl.concat([first, second]), observed)
    lines = drawn(figure.axes[0])
    assert len(lines["known"][0]) == K
    assert str(lines["known"][0][-1]).startswith("2020-03-01")
    assert "2020-03-01" < str(lines["prefix ends"][0][0]) < "2020-04-01"
    assert figure.axes[0].get_xlabel() == "date"
    assert drawn(figure.axes[1])["median"][0] == list(range(1, T + 1))
    assert figure.axes[1].get_xlabel() == "step"
    write(figure, tmp_path)


def test_a_dated_forecast_of_k_0_is_drawn_with_its_truth(tmp_path: Path) -> None:
    """Its dates are those of what was observed since; a gap is no step."""
    date = pl.date(2020, 1, 31).dt.offset_by((pl.col("ds") - 1).cast(pl.String) + "mo")
    none = pl.lit(None, pl.Date)
    undated = [forecast(item, known=0).with_columns(ds=none, step=pl.col("ds")) for item in "abc"]
    first = series("a").with_columns(ds=date)
    later = pl.date(2020, 1, 31).dt.offset_by((pl.col("ds") + 1).cast(pl.String) + "mo")
    late = series("b").filter(pl.col("ds") != 2).with_columns(ds=later)
    figure = plots.fan(pl.concat(undated), pl.concat([first, late]))
    one, two, three = map(drawn, figure.axes)
    assert str(one["truth"][0][0]).startswith("2020-01-31")
    assert one["truth"][0] == one["median"][0][: len(one["truth"][0])]
    assert "known" not in one
    assert str(two["median"][0][0]).startswith("2020-03-31")
    assert two["truth"][0] == [each for i, each in enumerate(two["median"][0]) if i != 1][: T - 1]
    assert three["median"][0] == list(range(1, T + 1))  # of which nothing was observed
    assert "truth" not in three
    assert [axis.get_xlabel() for axis in figure.axes].count("step") == 1
    write(figure, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"forecast": forecast().drop("statecast")}, "'statecast'"),
        ({"forecast": {"mean": np.ones((2, 3))}}, "one of them 'statecast'"),
        ({"forecast": forecast().with_columns(**{"statecast-nats": 0.0})}, "one of tokens"),
        (
            {"forecast": {"statecast": np.array([["a"]]), "statecast-nats": np.zeros(1)}},
            "one of tokens",
        ),
        (
            {"forecast": forecast().rename(lambda n: n.replace("statecast", "statecast-lat"))},
            "--target-col lat",
        ),
        ({"forecast": np.ones((2, 3))}, "from Forecaster.predict"),
        ({"forecast": "nowhere.csv"}, "there is none"),
        ({"level": [50]}, "'statecast-lo-50'"),
        ({"items": ["c"]}, "expected an item 'c'"),
        ({"series": series().drop("y")}, "'y'"),
        ({"series": np.ones((2, 3))}, "received an array"),
        ({"series": series().with_columns(ds=pl.date(2020, 1, "ds"))}, "expected numbers"),
        ({"series": series(("a", "b")).with_columns(unique_id=pl.lit(3))}, "unique_id"),
    ],
)
def test_bad_input_is_refused_with_a_message(options: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"forecast": forecast(), "series": series(), **options}
    with pytest.raises(DataError, match=message):
        plots.fan(**given)


def test_no_items_is_an_error() -> None:
    with pytest.raises(ArgumentError, match="items: expected at least one"):
        plots.fan(forecast(), items=[])


def test_the_overloads_have_the_arguments() -> None:
    given = inspect.signature(plots.fan).parameters
    assert {*plots._Options.__annotations__} == {*given} - {"forecast", "series", "interactive"}


def test_a_text_of_the_user_is_no_formula(tmp_path: Path) -> None:
    names = [r"$\frac{", "a_$b$^c", "two\nlines", "<b>&amp;"]
    figure = plots.fan(forecast(names), series(names), target_label=names[0], step_label=names[0])
    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        *names[:2],
        "two lines",
        names[3],
    ]
    write(figure, tmp_path)


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"statecast\[plots\]"):
        plots.fan(forecast())


def test_pyplot_and_keras_stay_unloaded() -> None:
    code = (
        "import sys, numpy as np; from statecast import plots\n"
        "plots.fan({'statecast': np.ones((1, 3))}, np.ones((1, 3)))\n"
        "print(*{'matplotlib.pyplot', 'keras', 'jax'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
