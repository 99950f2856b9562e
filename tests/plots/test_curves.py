"""The scores against k: which lines are drawn, how they are named, and their colours."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from figures import drawn, write
from statecast.errors import ArgumentError, MissingExtraError
from statecast.evaluate.baselines import LastValue, MeanCurve, Neighbours, Ridge, Trees
from statecast.plots.curves import scores as draw
from statecast.plots.frame import colour_of


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
    for axis in draw(replace(found, rows=rows)).axes:
        assert [tick.get_text() for tick in axis.get_xticklabels()] == ["0", "1", "2 to 3"]


def test_scores_are_drawn_as_named_lines(tmp_path: Path) -> None:
    found = scored(statecast=[0.3, 0.2, 0.1], ridge=[0.3, 0.21, 0.11], last_value=[0.4, 0.3])
    figure = draw(found)
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
    figure = draw(scored(statecast=[0.3, 0.2, 0.1], mean_curve=[0.3, 0.21, 0.2]))
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
    figure = draw(scored(statecast=[0.03, 0.02, 0.02], last_value=[0.5, 0.4]))
    axis = figure.axes[0]
    assert axis.get_ylim()[1] < 0.05
    assert "Off the chart:\nlast value: 0.4 to 0.5" in texts(axis)
    assert "last value" not in drawn(axis)


def test_a_method_has_one_colour_in_every_figure() -> None:
    """Whichever other methods are beside it, and in whichever order."""
    values = [0.3, 0.2, 0.1]
    names = ["last value", "mean curve", "mean curve by sex", "ridge", "nearest neighbours"]
    names += ["boosted trees", "ours, before", "LightGBM", "NHITS"]
    found: dict[str, set[str]] = {name: set() for name in names}
    for shift in range(len(names)):
        some = [*names[shift:], *names[:shift]][: 3 + shift % 4]
        rows = [
            Row(name, k, v, v)
            for name in ("statecast", *some)
            for k, v in zip((0, 1, 3), values, strict=True)
        ]
        for axis in draw(Scores(tuple(rows))).axes:
            for line in axis.get_lines():
                if line.get_label() in found:
                    found[str(line.get_label())].add(str(line.get_color()))
    assert all(len(colours) == 1 for colours in found.values()), found
    assert len({*map(str, found.values())}) == len(names)


def test_the_baselines_have_different_colours() -> None:
    methods = [LastValue(), MeanCurve(), MeanCurve(by="sex"), Ridge(), Neighbours(), Trees()]
    assert len({colour_of(method.name) for method in methods}) == len(methods)


def test_names_are_at_the_height_of_their_lines() -> None:
    figure = draw(scored(statecast=[0.3, 0.2, 0.1], ridge=[0.3, 0.21, 0.2]))
    for axis, factor in zip(figure.axes, (1.0, 0.8), strict=True):
        assert texts(axis)["ridge"].xyann[1] == pytest.approx(0.2 * factor)
        assert texts(axis)["statecast"].xyann[1] == pytest.approx(0.1 * factor)


def test_scores_without_baselines_and_with_one_k(tmp_path: Path) -> None:
    found = Scores((Row("statecast", 3, 0.1, float("nan")),), known=(3,))
    figure = draw(found)
    assert set(drawn(figure.axes[0])) == {"statecast"}
    assert drawn(figure.axes[1]) == {}
    write(figure, tmp_path)


def test_other_values_are_refused() -> None:
    with pytest.raises(ArgumentError, match="the Scores of one target"):
        draw([1.0])


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"statecast\[plots\]"):
        draw(scored(statecast=[0.1]))
