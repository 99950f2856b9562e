"""No two texts of a chart lie over each other, and none leaves the figure: every chart, drawn and
looked at by the boxes of its texts."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from effort import examples
from figures import collisions
from statecast.evaluate.scores import Row, Scores
from statecast.plots.calibration import draw_calibration, draw_horizons
from statecast.plots.charts import fan
from statecast.plots.curves import scores
from statecast.plots.frame import colour_of, fitted, spread_labels, width_of

# An unfinished layout is a warning of matplotlib.
pytestmark = pytest.mark.filterwarnings("error::UserWarning")

LETTERS = st.characters(min_codepoint=33, max_codepoint=382, exclude_categories=["C", "Z"])
NAMES = st.text(LETTERS, min_size=1, max_size=70)


def scored(methods: dict[str, float], known: list[int], level: float) -> Scores:
    """Scores with sums, so that there are intervals and a k from which the forecast is useful."""
    rng = np.random.default_rng(0)
    rows, sums = [], {}
    for name, factor in methods.items():
        for k in known:
            each = np.zeros((30, 6))
            each[:, 0], each[:, 5] = 100.0, 10
            each[:, 1:3] = level * factor * rng.uniform(0.9, 1.1, size=(30, 2)) * 100 / (1 + k)
            wape, crps = each[:, 1:3].sum(axis=0) / each[:, 0].sum()
            rows.append(Row(wape, crps, 0.8, 0.1, 300, name, k, 30))
            sums[name, k] = each
    return Scores(tuple(rows), next(iter(methods)), 3, sums)


USUAL = {
    "statecast": 1.0,
    "last value": 3.2,
    "mean curve": 1.4,
    "mean curve by soil": 1.35,
    "ridge": 1.1,
    "nearest neighbours": 1.12,
    "boosted trees": 1.08,
}
FAR = {"statecast": 1.0, "last value": 90.0, "mean curve": 30.0, "ridge": 1.0}
MANY = {"statecast": 1.0} | {f"model {i}": 1 + i / 1000 for i in range(40)}
LONG = {"statecast": 1.0} | {
    f"a gradient boosting machine with {i} hidden settings, of the last quarter": 1 + 40 * (i > 2)
    for i in range(6)
}


@pytest.mark.parametrize(
    ("methods", "known", "level"),
    [
        (USUAL, [0, 1, 2, 3, 5, 8], 0.02),
        (USUAL, [0], 1e-12),
        (FAR, [0, 1, 3, 5], 0.02),
        (FAR, [7, 8], 3e7),
        (MANY, [0, 1, 2, 200], 0.5),
        (LONG, [0, 1, 2, 200], 1e-12),
    ],
    ids=["usual", "one k", "far", "large", "many", "long"],
)
def test_scores_of_hard_cases(methods: dict[str, float], known: list[int], level: float) -> None:
    assert collisions(scores(scored(methods, known, level))) == []


@settings(max_examples=examples(12))
@given(
    methods=st.dictionaries(NAMES, st.floats(0.5, 40), max_size=12),
    known=st.sets(st.integers(0, 300), min_size=1, max_size=12),
    level=st.floats(-15, 9),
)
def test_scores(methods: dict[str, float], known: set[int], level: float) -> None:
    methods = {"statecast": 1.0, "mean curve": 2.0} | methods
    assert collisions(scores(scored(methods, sorted(known), 10**level))) == []


def test_groups_of_prefix_lengths_are_named_where_there_is_room() -> None:
    known = [0, 1, 2, 3, 5, 8, 40]
    rows = [Row(0.1, 0.1, 0.8, 0.1, 9, "statecast", k, 3, max(0, k - 1)) for k in known]
    assert collisions(scores(Scores(tuple(rows), "statecast", 1))) == []


START = datetime(2020, 12, 27, 22, 30)


@settings(max_examples=examples(12))
@given(
    items=st.lists(NAMES, min_size=1, max_size=7, unique=True),
    levels=st.sets(st.integers(1, 99), max_size=12),
    known=st.integers(0, 5),
    scale=st.floats(-12, 12),
    move=st.sampled_from([0.0, 1e6]),
    first=st.sampled_from([1, 1987, 999_000]),
    spacing=st.sampled_from([None, timedelta(minutes=1), timedelta(days=1), timedelta(days=91)]),
    labels=st.tuples(NAMES, NAMES),
    share_y=st.booleans(),
)
@example(
    items=["W" * 300, "$a$", "b"],
    levels={10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99},
    known=3,
    scale=-12.0,
    move=0.0,
    first=1,
    spacing=timedelta(days=1),
    labels=("the week since the opening night of the show in this theatre", "W" * 200),
    share_y=False,
)
def test_fans(
    items: list[str],
    levels: set[int],
    known: int,
    scale: float,
    move: float,
    first: int,
    spacing: timedelta | None,
    labels: tuple[str, str],
    share_y: bool,
) -> None:
    parts, seen = [], []
    for row, item in enumerate(items):
        step = np.arange(1, 9)
        at: Any = step - 1 + first if spacing is None else [START + int(s) * spacing for s in step]
        y = 10**scale * (move + np.sin(step + row))
        columns = {"statecast": y[known:]}
        for level in levels:
            columns[f"statecast-lo-{level}"] = y[known:] - 10**scale * level / 50
            columns[f"statecast-hi-{level}"] = y[known:] + 10**scale * level / 50
        parts.append(pl.DataFrame({"unique_id": item, "ds": at[known:]} | columns))
        seen.append(pl.DataFrame({"unique_id": item, "ds": at, "y": y}))
    tables = pl.concat(parts), pl.concat(seen)
    options: Any = {"step_label": labels[0], "target_label": labels[1], "share_y": share_y}
    assert collisions(fan(*tables, **options)) == []


@settings(max_examples=examples(9))
@given(
    names=st.lists(NAMES, max_size=8, unique=True),
    known=st.sets(st.integers(0, 99), min_size=1, max_size=9),
    horizons=st.integers(1, 400),
    scale=st.floats(-12, 6),
)
def test_curves_by_horizon(names: list[str], known: set[int], horizons: int, scale: float) -> None:
    line = 10**scale * (1 + np.arange(horizons) / 50)
    methods = {"statecast": line} | {name: line * (2 + i) for i, name in enumerate(names)}
    assert collisions(draw_horizons(dict.fromkeys(known, methods), "statecast")) == []


@settings(max_examples=examples(9))
@given(
    levels=st.sets(st.integers(1, 99), min_size=1, max_size=12),
    horizons=st.integers(1, 400),
    peak=st.floats(0, 1),
)
def test_calibration(levels: set[int], horizons: int, peak: float) -> None:
    values = np.full(horizons, 50.0)
    values[-1] = 0.0 if horizons > 1 else 3.0  # nothing was observed so late
    inside = {float(level): np.stack([values * level / 120, values], axis=1) for level in levels}
    histogram = np.full(10, (1 - peak) / 9)
    histogram[0] = peak
    assert collisions(draw_calibration(histogram, inside)) == []


def test_this_test_finds_collisions() -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    figure.text(0.5, 0.5, "one")
    figure.text(0.5, 0.52, "other")
    figure.text(0.99, 0.1, "too far")
    assert collisions(figure) == [("one", "other"), ("too far", "outside the figure")]


@given(st.text(max_size=600), st.floats(0.3, 3), st.floats(6, 12))
def test_a_text_is_cut_to_its_room_and_keeps_its_ends(text: str, room: float, size: float) -> None:
    line, found = " ".join(text[:400].split()), fitted(text, room, size)
    if found == line:
        return
    assert width_of(found, size) <= room or len(found) <= 3
    assert any(
        line.startswith(found[:i]) and line.endswith(found[i + 1 :])
        for i, letter in enumerate(found)
        if letter == "…"
    )


@given(st.lists(st.floats(0, 3), min_size=1, max_size=30, unique=True))
def test_labels_that_are_left_do_not_meet(places: list[float]) -> None:
    places = sorted(places)
    texts = [str(i) for i in range(len(places))]
    shown = spread_labels(places, texts, 8.5)
    ends = [
        (place - width_of(text, 8.5) / 2, place + width_of(text, 8.5) / 2)
        for place, text in zip(places, shown, strict=True)
        if text
    ]
    assert shown[0] == "0"
    assert all(one[1] < other[0] for one, other in pairwise(ends))


@given(st.text(max_size=40))
def test_a_colour_is_legible_on_paper(name: str) -> None:
    """A contrast of 4.5 to white, as the accessibility guidelines of W3C ask for."""
    parts = [int(colour_of(name)[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    assert 1.05 / (light + 0.05) >= 4.5


@pytest.mark.parametrize("again", [lambda figure: figure, lambda f: pickle.loads(pickle.dumps(f))])
def test_a_notebook_shows_a_chart_as_a_picture(again: Callable[[Any], Any]) -> None:
    forecast = {"statecast": np.array([[np.nan, 3.0, 4.0]])}
    figure = again(fan(forecast, np.array([[1.0, np.nan, np.nan]])))
    assert figure._repr_png_().startswith(b"\x89PNG")  # IPython calls it
