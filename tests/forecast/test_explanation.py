"""Effects on arrays: how much each observation and static feature moves a forecast."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

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
