"""Figures are drawn, with what belongs in them; nothing touches pyplot."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

from statecast.errors import ArgumentError, DataError, MissingExtraError
from statecast.plots import charts as plots

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


def drawn(axis: Axes) -> dict[str, tuple[list[Any], list[Any]]]:
    """The lines of a panel that have a name."""
    lines = {str(line.get_label()): line for line in axis.get_lines()}
    return {
        name: (list(np.asarray(line.get_xdata())), list(np.asarray(line.get_ydata())))
        for name, line in lines.items()
    }


def bands(axis: Axes) -> dict[str, np.ndarray]:
    """The corners of each band."""
    found = [c for c in axis.collections if isinstance(c, FillBetweenPolyCollection)]
    return {str(band.get_label()): np.asarray(band.get_paths()[0].vertices) for band in found}


def write(figure: Figure, tmp_path: Path) -> None:
    figure.savefig(tmp_path / "figure.png", dpi=50)
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"


# -- fan -------------------------------------------------------------------------------


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
    assert colour["truth"] == "white"
    assert colour["known"] != "white"


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


# -- scores ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    method: str
    known: int
    wape: float
    crps: float
    fewest: int = 0

    @property
    def prefixes(self) -> str:
        return f"{self.fewest} to {self.known}" if self.fewest else str(self.known)


@dataclass(frozen=True)
class Scores:
    """What plots ask of scores."""

    rows: tuple[Row, ...]
    forecaster: str = "statecast"
    known: tuple[int, ...] = (0, 1, 3)

    def interval(self, method: str, known: int, measure: str) -> tuple[float, float] | None:
        value = next(
            getattr(row, measure) for row in self.rows if (row.method, row.known) == (method, known)
        )
        return None if known == 3 and len(self.known) == 1 else (0.9 * value, 1.1 * value)

    def useful(self) -> int | None:
        return 1


def scored(**methods: list[float]) -> Scores:
    rows = [
        Row(name.replace("_", " "), k, value, 0.8 * value)
        for name, values in methods.items()
        for k, value in zip((0, 1, 3)[-len(values) :], values, strict=True)
    ]
    return Scores(tuple(rows))


def texts(axis: Axes) -> dict[str, Any]:
    return {text.get_text(): text for text in axis.texts}


def test_groups_of_prefix_lengths_are_named_at_the_axis() -> None:
    found = scored(statecast=[0.3, 0.2, 0.1])
    rows = (*found.rows[:2], replace(found.rows[2], fewest=2))
    for axis in plots.scores(replace(found, rows=rows)).axes:
        assert [tick.get_text() for tick in axis.get_xticklabels()] == ["0", "1", "2 to 3"]


def test_scores_are_drawn_as_named_lines(tmp_path: Path) -> None:
    found = scored(statecast=[0.3, 0.2, 0.1], ridge=[0.3, 0.21, 0.11], last_value=[0.4, 0.3])
    figure = plots.scores(found)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["WAPE", "CRPS"]
    for axis, factor in zip(figure.axes, (1.0, 0.8), strict=True):
        lines = drawn(axis)
        assert lines["statecast"] == ([0, 1, 3], pytest.approx(np.array([0.3, 0.2, 0.1]) * factor))
        assert lines["last value"][0] == [1, 3]
        assert set(texts(axis)) == {"statecast", "ridge", "last value"}
        width = {str(line.get_label()): line.get_linewidth() for line in axis.get_lines()}
        assert width["statecast"] > 2 * max(width["ridge"], width["last value"])
        assert list(axis.get_xticks()) == [0, 1, 3]
        assert axis.get_ylim()[0] == 0
    write(figure, tmp_path)


def test_the_interval_of_ours_and_where_it_is_useful_are_drawn() -> None:
    figure = plots.scores(scored(statecast=[0.3, 0.2, 0.1], mean_curve=[0.3, 0.21, 0.2]))
    wape, crps = figure.axes
    for axis, factor in ((wape, 1.0), (crps, 0.8)):
        (band,) = axis.collections
        y = np.asarray(band.get_paths()[0].vertices)[:, 1]
        assert y.min() == pytest.approx(0.09 * factor)
        assert y.max() == pytest.approx(0.33 * factor)
    assert "useful from here" in texts(crps)
    assert "useful from here" not in texts(wape)
    assert [1.0, 1.0] in [np.asarray(line.get_xdata()).tolist() for line in crps.get_lines()]


def test_a_method_far_off_is_named_and_does_not_flatten_the_rest() -> None:
    figure = plots.scores(scored(statecast=[0.03, 0.02, 0.02], last_value=[0.5, 0.4]))
    axis = figure.axes[0]
    assert axis.get_ylim()[1] < 0.05
    assert "Off the chart:\nlast value: 0.4 to 0.5" in texts(axis)
    assert "last value" not in drawn(axis)


def test_names_do_not_overlap() -> None:
    close = {f"method {i}".replace(" ", "_"): [0.2, 0.2, 0.1 + 1e-4 * i] for i in range(5)}
    figure = plots.scores(scored(statecast=[0.3, 0.2, 0.1], **close))
    figure.draw_without_rendering()
    for axis in figure.axes:
        boxes = sorted((Text.get_window_extent(text) for text in axis.texts), key=lambda b: b.y0)
        assert len(boxes) == 6
        for low, high in pairwise(boxes):
            assert low.y1 <= high.y0 + 1


def test_scores_without_baselines_and_with_one_k(tmp_path: Path) -> None:
    found = Scores((Row("statecast", 3, 0.1, float("nan")),), known=(3,))
    figure = plots.scores(found)
    assert set(drawn(figure.axes[0])) == {"statecast"}
    assert drawn(figure.axes[1]) == {}
    write(figure, tmp_path)


# -- both ------------------------------------------------------------------------------


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"statecast\[plots\]"):
        plots.fan(forecast())
    with pytest.raises(MissingExtraError, match=r"statecast\[plots\]"):
        plots.scores(scored(statecast=[0.1]))


def test_pyplot_and_keras_stay_unloaded() -> None:
    code = (
        "import sys, numpy as np; from statecast import plots\n"
        "plots.fan({'statecast': np.ones((1, 3))}, np.ones((1, 3)))\n"
        "print(*{'matplotlib.pyplot', 'keras', 'jax'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("again", [lambda figure: figure, lambda f: pickle.loads(pickle.dumps(f))])
def test_a_notebook_shows_a_chart_as_a_picture(again: Callable[[Any], Any]) -> None:
    forecast = {"statecast": np.array([[np.nan, 3.0, 4.0]])}
    figure = again(plots.fan(forecast, np.array([[1.0, np.nan, np.nan]])))
    assert figure._repr_png_().startswith(b"\x89PNG")  # IPython calls it
