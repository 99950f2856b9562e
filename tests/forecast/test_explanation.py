"""Effects on arrays: how much each observation and static feature moves a forecast."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curves import CLOSE, ROWS, T, curve_tables, few, mixed_prefixes, prefixes_of
from statecast import errors
from statecast.forecast import explanation
from statecast.forecast.explanation import effects
from statecast.tables.panel import Panel

ITEMS, STEPS, UNTIL, NUMERIC, CATEGORICAL = 7, 5, 8, 2, 2


def _panel(seed: int = 0, steps: int = STEPS) -> Panel:
    """Prefixes of unlike lengths with gaps, none included; one numeric static is missing."""
    rng = np.random.default_rng(seed)
    mask = rng.random((ITEMS, steps)) < 0.7
    mask &= np.arange(steps) < rng.integers(0, steps + 1, ITEMS)[:, None]
    mask[0], mask[1] = False, True
    numbers = rng.normal(size=(ITEMS, NUMERIC))
    missing = np.zeros((ITEMS, NUMERIC))
    numbers[2, 0], missing[2, 0] = 0.0, 1.0
    return Panel(
        np.arange(ITEMS),
        np.where(mask, rng.normal(size=mask.shape), 0).astype("float32"),
        mask,
        np.concatenate([numbers, missing], axis=1).astype("float32"),
        rng.integers(1, 4, (ITEMS, CATEGORICAL)).astype("int32"),
    )


class _Additive:
    """A forecast that is a sum of one term for each observation and static feature."""

    def __init__(self, seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        self.observed = rng.normal(size=(STEPS, UNTIL))
        self.numeric = rng.normal(size=(2 * NUMERIC, UNTIL))
        self.codes = rng.normal(size=(CATEGORICAL, 4, UNTIL))  # a row for each code
        self.constant = rng.normal(size=UNTIL)

    def __call__(self, panel: Panel) -> np.ndarray:
        assert not panel.y[~panel.mask].any()  # a gap holds 0
        total = self.constant + panel.y.astype(float) @ self.observed
        total = total + panel.numeric.astype(float) @ self.numeric
        for column in range(CATEGORICAL):
            total = total + self.codes[column][panel.codes[:, column]]
        return total


def test_an_additive_forecast_is_explained_exactly():
    panel, f = _panel(), _Additive()
    observations, statics = effects(f, panel, NUMERIC, CATEGORICAL)
    assert observations.shape == (ITEMS, STEPS, UNTIL)
    assert statics.shape == (ITEMS, NUMERIC + CATEGORICAL, UNTIL)
    for item in range(ITEMS):
        k = int(panel.known[item])
        for step in range(STEPS):
            own = panel.y[item, step] * f.observed[step]
            if not panel.mask[item, step]:
                own = np.full(UNTIL, np.nan)
            expected = np.where(np.arange(UNTIL) < k, np.nan, own)
            np.testing.assert_allclose(observations[item, step], expected, atol=1e-12)
        for column in range(NUMERIC):  # against the average, 0, which is not missing
            own = panel.numeric[item, column] * f.numeric[column]
            own = own + panel.numeric[item, NUMERIC + column] * f.numeric[NUMERIC + column]
            np.testing.assert_allclose(statics[item, column, k:], own[k:], atol=1e-12)
        for column in range(CATEGORICAL):  # against a category that training does not have
            own = f.codes[column][panel.codes[item, column]] - f.codes[column][0]
            np.testing.assert_allclose(statics[item, NUMERIC + column, k:], own[k:], atol=1e-12)
        assert np.isnan(statics[item, :, :k]).all()


@pytest.mark.parametrize("ignored", ["step", "number", "category"])
def test_what_a_forecast_ignores_has_no_effect(ignored):
    panel, f = _panel(), _Additive()
    if ignored == "step":
        f.observed[1] = 0
    elif ignored == "number":
        f.numeric[[1, NUMERIC + 1]] = 0
    else:
        f.codes[0] = 1.5
    observations, statics = effects(f, panel, NUMERIC, CATEGORICAL)
    found = {
        "step": observations[panel.mask[:, 1], 1],
        "number": statics[:, 1],
        "category": statics[:, NUMERIC],
    }
    for name, effect in found.items():
        there = effect[~np.isnan(effect)]
        assert there.size
        assert (np.abs(there).max() < 1e-12) == (name == ignored)


def _interacting(panel: Panel) -> np.ndarray:
    """A forecast in which everything known of an item acts on everything else."""
    age = np.arange(1, UNTIL + 1)
    weight = np.linspace(0.3, 1.0, panel.y.shape[1])
    level = (panel.y * weight).sum(axis=1) / (1 + panel.mask.sum(axis=1))
    static = panel.numeric @ np.linspace(1, 2, 2 * NUMERIC) + panel.codes.sum(axis=1)
    return np.tanh(level + 0.3 * static)[:, None] * age + level[:, None] ** 2


def test_an_observation_is_left_out_as_a_gap():
    panel = _panel()
    observations, _ = effects(_interacting, panel, NUMERIC, CATEGORICAL)
    whole = _interacting(panel)
    for item, step in np.argwhere(panel.mask):
        mask = panel.mask.copy()
        mask[item, step] = False
        gap = replace(panel, mask=mask, y=np.where(mask, panel.y, 0))
        k = int(panel.known[item])
        expected = (whole - _interacting(gap))[item, k:]
        np.testing.assert_allclose(observations[item, step, k:], expected, atol=1e-12)


def test_an_item_is_explained_alone_as_among_others(monkeypatch):
    panel = _panel()
    together = effects(_interacting, panel, NUMERIC, CATEGORICAL)
    monkeypatch.setattr(explanation, "_ROWS", 25)  # parts of two items
    in_parts = effects(_interacting, panel, NUMERIC, CATEGORICAL)
    order = np.random.default_rng(0).permutation(ITEMS)
    shuffled = effects(_interacting, panel.take(order), NUMERIC, CATEGORICAL)
    for whole, parts, moved in zip(together, in_parts, shuffled, strict=True):
        np.testing.assert_allclose(whole, parts, atol=1e-12)
        np.testing.assert_allclose(whole[order], moved, atol=1e-12)
    for item in range(ITEMS):
        alone = effects(_interacting, panel.take([item]), NUMERIC, CATEGORICAL)
        seen = int(panel.known[item])
        np.testing.assert_allclose(alone[0][0], together[0][item, :seen], atol=1e-12)
        np.testing.assert_allclose(alone[1][0], together[1][item], atol=1e-12)
        assert np.isnan(together[0][item, seen:]).all()


def test_the_panel_is_left_as_it_was():
    panel, before = _panel(), _panel()
    effects(_interacting, panel, NUMERIC, CATEGORICAL)
    for name in ("y", "mask", "numeric", "codes"):
        np.testing.assert_array_equal(getattr(panel, name), getattr(before, name))


def test_no_items_have_no_effects():
    observations, statics = effects(_interacting, _panel().take(slice(0, 0)), NUMERIC, CATEGORICAL)
    assert observations.shape[0] == statics.shape[0] == 0
    assert statics.shape[1:] == (NUMERIC + CATEGORICAL, UNTIL)


@few
@given(seed=st.integers(0, 99))
def test_an_effect_is_the_forecast_minus_the_forecast_without(fitted, seed):
    """Compared with tables with the row missing, a new group, or the mean level."""
    series, static = curve_tables()
    begun = mixed_prefixes(series, seed)
    found = fitted.explain(begun, static, until=T)
    median = lambda *tables: fitted.predict(*tables, until=T)  # noqa: E731
    item = int(np.random.default_rng(seed).choice(np.flatnonzero(found.known)))
    own = pl.col("unique_id") == item
    k = int(found.known[item])
    whole = median(begun, static).filter(own)["statecast"].to_numpy()
    for step in range(1, k + 1):
        effect = found.observations[item, step - 1]
        assert np.isnan(effect[:k]).all()
        if begun.filter(own & (pl.col("ds") == step)).is_empty():
            assert np.isnan(effect).all()
            continue
        without = median(begun.filter(~(own & (pl.col("ds") == step))), static)
        without = without.filter(own & (pl.col("ds") > k))["statecast"].to_numpy()
        np.testing.assert_allclose(effect[k:], whole - without, atol=1e-3)
    average = float(curve_tables(72)[1]["level"].to_numpy().mean())  # the training items'
    level = pl.when(own).then(pl.lit(average)).otherwise("level").alias("level")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", errors.DataWarning)
        never = pl.when(own).then(pl.lit("never")).otherwise("group").alias("group")
        for name, other in (("level", level), ("group", never)):
            without = median(begun, static.with_columns(other)).filter(own)["statecast"]
            effect = found.statics[name][item]
            np.testing.assert_allclose(effect[k:], whole - without.to_numpy(), atol=1e-3)


def test_an_explanation_does_not_depend_on_other_rows_and_names_training_items(fitted):
    series, static = curve_tables()
    begun = prefixes_of(series, dict.fromkeys(range(ROWS), 3))
    together = fitted.explain(begun, static, until=T, analogues=4)
    own = pl.col("unique_id") == 5
    alone = fitted.explain(begun.filter(own), static.filter(own), until=T, analogues=4)
    row = together.table().filter(own)
    assert row.columns == ["unique_id", "what", "name", "effect", "strength", "weight"]
    assert row.drop("effect", "strength", "weight").equals(
        alone.table().drop("effect", "strength", "weight")
    )
    np.testing.assert_allclose(alone.weights[0], together.weights[5], rtol=CLOSE)
    assert (np.diff(together.weights, axis=1) <= 1e-12).all()
    assert (together.weights.sum(axis=1) <= 1 + 1e-9).all()
    assert set(together.analogues.ravel()) <= set(range(72))
    strength = row.filter(pl.col("what") != "analogue")["strength"].to_list()
    assert strength == sorted(strength, reverse=True)
    weights = together.weights * [1, 0, 1, 0]  # who has no part is not named
    part = replace(together, weights=weights).table().filter(pl.col("what") == "analogue")
    named = [str(i) for row in together.analogues[:, [0, 2]] for i in row]
    assert part["name"].to_list() == named
    nobody = fitted.explain(begun, static, until=T, analogues=0)
    assert nobody.analogues.shape == (ROWS, 0)


@pytest.mark.parametrize("count", [-1, 1.5, True, None])
def test_a_wrong_number_of_analogues_is_refused(fitted, count):
    with pytest.raises(errors.ArgumentError, match="analogues: expected a whole number"):
        fitted.explain(*curve_tables(), until=T + 1, analogues=count)
