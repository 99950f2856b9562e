"""Scores: the measures against their definitions, skill, and the bootstrap."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statecast.errors import ArgumentError
from statecast.evaluate.scores import LEVELS, Row, Scores, score


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """A truth with gaps and quantiles for it."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 6)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    y = rng.normal(size=shape) * 10 + draw(st.sampled_from([0.0, 50.0]))
    quantiles = np.sort(y[..., None] + rng.normal(size=(*shape, len(LEVELS))) * 5, axis=-1)
    y[rng.random(shape) < 0.3] = np.nan
    y[0, 0] = 7.0
    return y, quantiles


@given(scored())
def test_scores_agree_with_their_definitions(case: tuple[np.ndarray, np.ndarray]) -> None:
    y, quantiles = case
    size = error = loss = inside = width = count = 0.0
    for place in np.ndindex(y.shape):
        if np.isnan(y[place]):
            continue
        truth, forecast = y[place], quantiles[place]
        count += 1
        size += abs(truth)
        error += abs(truth - forecast[4])
        for level, value in zip(LEVELS, forecast, strict=True):
            miss = truth - value
            loss += 2 * (level * miss if miss >= 0 else (level - 1) * miss) / len(LEVELS)
        inside += forecast[0] <= truth <= forecast[-1]
        width += forecast[-1] - forecast[0]
    found = score(y, quantiles)
    assert found.wape == pytest.approx(error / size)
    assert found.crps == pytest.approx(loss / size)
    assert found.coverage == pytest.approx(inside / count)
    assert found.width == pytest.approx(width / size)
    assert found.values == count


@given(scored())
def test_crps_of_a_point_is_its_wape(case: tuple[np.ndarray, np.ndarray]) -> None:
    y, quantiles = case
    found = score(y, np.repeat(quantiles[..., 3:4], len(LEVELS), axis=-1))
    assert found.crps == pytest.approx(found.wape)


@given(scored())
def test_a_perfect_forecast_scores_0(case: tuple[np.ndarray, np.ndarray]) -> None:
    y, _ = case
    found = score(y, np.repeat(y[..., None], len(LEVELS), axis=-1))
    assert (found.wape, found.crps, found.coverage, found.width) == (0, 0, 1, 0)


@given(scored(), st.floats(1e-6, 1e6))
def test_scores_do_not_depend_on_the_unit(case: tuple[np.ndarray, np.ndarray], unit: float) -> None:
    y, quantiles = case
    one, other = score(y, quantiles), score(y * unit, quantiles * unit)
    for name in ("wape", "crps", "width"):
        assert getattr(one, name) == pytest.approx(getattr(other, name))
    assert one.coverage == pytest.approx(other.coverage, abs=1e-12)


@given(scored(), st.randoms(use_true_random=False))
def test_the_order_of_items_changes_nothing(
    case: tuple[np.ndarray, np.ndarray], random: Any
) -> None:
    y, quantiles = case
    order = list(range(len(y)))
    random.shuffle(order)
    one, other = score(y, quantiles), score(y[order], quantiles[order])
    assert one.crps == pytest.approx(other.crps)
    assert one.coverage == other.coverage


def test_nan_forecasts_are_not_passed_over() -> None:
    assert np.isnan(score([1.0, 2.0], [[1.0], [np.nan]], [0.5]).wape)


def test_without_its_ends_there_is_no_interval() -> None:
    found = score([1.0], [[0.0, 1.0, 2.0]], [0.2, 0.5, 0.8])
    assert (found.coverage, found.width) == (None, None)


@pytest.mark.parametrize("levels", [(), (0.1, 0.9), (0.5, 0.1), (0.0, 0.5), (0.5, 1.0), ("a",)])
def test_levels_are_checked(levels: Any) -> None:
    with pytest.raises(ArgumentError, match="levels: expected increasing"):
        score([1.0], np.zeros((1, len(levels))), levels)


def test_the_shape_of_quantiles_is_checked() -> None:
    with pytest.raises(ArgumentError, match=r"quantiles: expected shape \(2, 9\)"):
        score([1.0, 2.0], np.zeros((2, 3)))


def row(method: str, known: int, wape: float, crps: float) -> Row:
    interval = (None, None) if method == "last value" else (0.8, 0.1)
    return Row(wape, crps, *interval, 50, method, known, 10)


def test_the_text_names_the_better_method() -> None:
    rows = (
        row("statecast", 0, 0.5, 0.4),
        row("ridge", 0, 0.4, 0.5),
        row("statecast", 3, 0.3, 0.2),
        row("last value", 3, 0.3, 0.3),
        row("ridge", 3, 0.4, 0.2),
    )
    scores = Scores(rows, "statecast", 5)
    assert scores.skill(0) == pytest.approx(-0.25)
    assert scores.skill(0, "crps") == pytest.approx(0.2)
    best = scores.best(3)
    assert best is not None
    assert best.method == "last value"
    text = str(scores)
    for line in (
        "WAPE: statecast does not beat the best baseline, ridge: 25.0 % worse.",
        "CRPS: statecast beats the best baseline, ridge, by 20.0 %.",
        "WAPE: statecast does not beat the best baseline, last value: they are equal.",
        "k = 3: 10 items, 50 values",
    ):
        assert line in text
    line = next(line for line in text.splitlines() if "last value " in line)
    assert line.split()[-2:] == ["-", "-"]
    assert repr(scores) == "<Scores of statecast, ridge, last value; k = 0, 3; folds: 5>"
    assert "<table" in scores._repr_html_()
    table = scores.table()
    assert table.height == 5
    assert table["skill_wape"].null_count() == 3
    with pytest.raises(KeyError, match="expected a method"):
        scores["ridge", 7]
    with pytest.raises(ArgumentError, match="measure"):
        scores.best(0, "mape")
    with pytest.raises(AttributeError):
        scores.folds = 3  # type: ignore[misc]


def drawn_scores(groups: int, seed: int, gain: float = 0.05, noise: float = 0.1) -> Scores:
    """Two methods' sums by group, ours better by ``gain`` of their loss."""
    rng = np.random.default_rng(seed)
    size = rng.uniform(5, 15, groups)
    theirs = rng.uniform(0.5, 1.5, groups)
    ours = theirs * (1 - gain + noise * rng.normal(size=groups))
    sums, rows = {}, []
    for name, loss in (("statecast", ours), ("mean curve", theirs)):
        ones = np.ones(groups)
        sums[name, 0] = np.stack([size, loss, loss, ones, ones, ones], axis=1)
        wape = float(loss.sum() / size.sum())
        rows.append(Row(wape, wape, 1.0, 0.1, groups, name, 0, groups))
    return Scores(tuple(rows), "statecast", 1, sums, seed)


@given(st.integers(20, 200), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_intervals_hold_the_score_and_are_reproducible(groups: int, seed: int) -> None:
    found, again = drawn_scores(groups, seed), drawn_scores(groups, seed)
    for measure in ("wape", "crps"):
        interval = found.interval("statecast", 0, measure)
        assert interval is not None
        assert interval[0] < found["statecast", 0].wape < interval[1]
        paired = found.skill_interval(0, measure)
        skill = found.skill(0, measure)
        assert paired is not None
        assert skill is not None
        assert paired[0] < skill < paired[1]
        assert interval == again.interval("statecast", 0, measure)
        assert paired == again.skill_interval(0, measure)
    assert found.interval("statecast", 0) != replace(found, seed=seed + 1).interval("statecast", 0)


def test_intervals_are_those_of_the_central_limit() -> None:
    """Against the standard error of a ratio of sums, by the delta method."""
    found = drawn_scores(400, 3)
    size, loss = found.sums["statecast", 0][:, 0], found.sums["statecast", 0][:, 1]
    ratio = loss.sum() / size.sum()
    error = np.sqrt(((loss - ratio * size) ** 2).sum()) / size.sum()
    interval = found.interval("statecast", 0)
    assert interval is not None
    assert interval[1] - interval[0] == pytest.approx(2 * 1.96 * error, rel=0.08)


def width(interval: tuple[float, float] | None) -> float:
    assert interval is not None
    return interval[1] - interval[0]


def test_more_items_narrow_an_interval_and_pairing_does() -> None:
    few, many = drawn_scores(50, 1), drawn_scores(800, 1)
    assert width(many.interval("statecast", 0)) < width(few.interval("statecast", 0)) / 2
    assert width(many.skill_interval(0)) < width(few.skill_interval(0)) / 2
    # Unpaired, the skill would be as uncertain as both scores together
    own = width(few.interval("statecast", 0)) / few["statecast", 0].wape
    assert width(few.skill_interval(0)) < own


def test_without_items_to_draw_there_is_no_interval() -> None:
    scores = drawn_scores(1, 0)
    assert scores.interval("statecast", 0) is None
    assert scores.skill_interval(0) is None
    assert scores.useful() is None


def test_useful_is_the_first_k_from_which_on_the_skill_is_significant() -> None:
    gains = {0: 0.2, 1: 0.0, 3: 0.2, 5: 0.2}
    rows, sums = [], {}
    for k, gain in gains.items():
        each = drawn_scores(60, 2, gain)
        rows += [replace(row, known=k) for row in each.rows]
        sums |= {(method, k): values for (method, _), values in each.sums.items()}
    found = Scores(tuple(rows), "statecast", 1, sums)
    assert found.useful() == 3
    assert replace(found, rows=tuple(r for r in rows if r.known < 3)).useful() is None
    text = str(found)
    assert "Useful from k = 3 on" in text
    assert "At k = 0, 3, 5 statecast beats the best baseline in CRPS beyond chance." in text
    assert "At k = 1 the difference to the best baseline is within chance." in text
    assert "At no k" not in text
    assert "The baselines have no" not in text
    assert text.count("; the difference is within chance") == 2
    some = found.text(known=[5])  # its tables alone; what they come to is that of all
    assert "k = 5: 60 items" in some
    assert "k = 3: 60 items" not in some
    assert some[some.index("CRPS against k") :] == text[text.index("CRPS against k") :]
    table = found.table()
    low, high = (table[f"skill_crps_{end}"][0] for end in ("lo", "hi"))
    assert (low, high) == found.skill_interval(0, "crps")
    assert table["crps_lo"][1] < table["crps"][1] < table["crps_hi"][1]
    assert table["skill_crps_lo"].null_count() == 4
    with pytest.raises(ArgumentError, match="against: expected one of"):
        found.useful(against="ridge")


def test_no_percentage_is_minus_zero() -> None:
    text = str(drawn_scores(60, 2, gain=-1e-6, noise=0.0))
    assert "+0.0 (+0.0 to +0.0)" in text
    assert "-0.0" not in text


def test_the_text_states_that_the_best_baseline_is_not_beaten() -> None:
    text = str(drawn_scores(60, 2, gain=-0.2))
    assert "At no k does statecast beat the best baseline in CRPS beyond chance." in text
    assert "At k = 0 the best baseline is better beyond chance: use that baseline." in text
    assert "Not useful at the longest prefix scored" in text
