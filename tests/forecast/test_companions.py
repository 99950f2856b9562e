"""Companions: the network's quantiles combined with those of the analogues."""

from __future__ import annotations

import numpy as np
import pytest

from curves import curve_tables, fit_curves, mixed_prefixes
from effort import all_updates
from statecast.forecast.companions import Companions, at_levels, first_steps
from statecast.heads.quantiles import QUANTILE_LEVELS


def _forecast(fitted, until):
    """Companions, quantiles in place of the network's, the leaves of a panel and its prefixes."""
    companions, schema = fitted._companions, fitted.schema
    panel = schema.panel(mixed_prefixes(curve_tables()[0], 3), curve_tables()[1])
    leaves = companions.start(panel, schema)
    leaves |= companions.advance(leaves, panel)
    rng = np.random.default_rng(0)
    network = rng.normal(size=(panel.rows, until, len(QUANTILE_LEVELS))).astype("float32")
    return companions, np.sort(network, axis=-1), leaves, panel.known


def _combined(fitted, until, companions=None, calibrated=True):
    own, network, leaves, known = _forecast(fitted, until)
    found = (companions or own).combine(
        network, leaves, known, fitted.schema, calibrated=calibrated
    )
    return found, network, known


def test_without_stacking_the_quantiles_are_those_of_the_network(fitted):
    found, network, _ = _combined(fitted, fitted.schema.steps, Companions())
    np.testing.assert_allclose(found, network, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("calibrated", [True, False])
def test_quantiles_of_the_prefix_are_not_changed_and_the_others_increase(fitted, calibrated):
    found, network, known = _combined(fitted, fitted.schema.steps, calibrated=calibrated)
    prefix = np.arange(found.shape[1]) < known[:, None]
    np.testing.assert_allclose(found[prefix], network[prefix], rtol=1e-5, atol=1e-5)
    assert (found[~prefix] != network[~prefix]).any()
    assert (np.diff(found, axis=-1) >= 0).all()


def test_calibration_moves_quantiles_and_not_the_median_of_a_forecast():
    series, static = curve_tables()
    with all_updates():
        fitted = fit_curves()
    options = {"until": 8, "level": [80]}
    one, two = (
        fitted.predict(mixed_prefixes(series, 3), static, **options, calibrated=flag)
        for flag in (True, False)
    )
    # A few medians change, where offsets make quantiles cross and they are sorted.
    assert np.isclose(one["statecast"], two["statecast"], rtol=1e-5).mean() > 0.9
    np.testing.assert_allclose(one["statecast"], two["statecast"], rtol=1e-3)
    assert np.abs(one["statecast-lo-80"] - two["statecast-lo-80"]).max() > 1e-3


def test_beyond_the_longest_training_item_the_shift_of_the_last_step_stays(fitted):
    steps = fitted.schema.steps
    found, network, _ = _combined(fitted, steps + 2, calibrated=False)
    shift = found[:, steps - 1] - network[:, steps - 1]
    expected = np.sort(network[:, steps:] + shift[:, None], axis=-1)
    np.testing.assert_allclose(found[:, steps:], expected, rtol=1e-4, atol=1e-4)


def test_arrays_and_back_is_the_identity(fitted):
    arrays = fitted._companions.arrays()
    split = {part: {} for part in Companions.parts()}
    for name, array in arrays.items():
        part, _, leaf = name.partition("/")
        split[part][leaf] = array
    back = Companions.from_arrays(split, fitted.schema, ends=False).arrays()
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)
    with pytest.raises(ValueError, match="endings: expected none"):
        Companions.from_arrays(
            split | {"endings": {"scale": np.ones(2)}}, fitted.schema, ends=False
        )


def test_levels_between_the_quantiles_are_interpolated():
    levels = np.array(QUANTILE_LEVELS)
    found = at_levels(levels[None, None].astype("float32"), [0.1, 0.15, 0.5, 0.9])
    np.testing.assert_allclose(found[0, 0], [0.1, 0.15, 0.5, 0.9], rtol=1e-5)


@pytest.mark.parametrize("until", [0, 2, 3, 5])
def test_first_steps_cuts_or_pads_with_zeros(until):
    found = first_steps(np.arange(1, 7).reshape(2, 3), until)
    assert found.shape == (2, until)
    np.testing.assert_array_equal(found[:, :3], np.arange(1, 7).reshape(2, 3)[:, :until])
    assert (found[:, 3:] == 0).all()
