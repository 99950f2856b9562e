"""Paths: joint samples, and their totals, peaks and times to a threshold."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from curves import (
    CLOSE,
    ROWS,
    T,
    assert_agree,
    columns_of,
    curve_tables,
    forecast_of,
    mixed_prefixes,
)
from statecast import errors


def test_paths_agree_with_the_forecast_and_rows_are_independent(fitted):
    series, static = curve_tables()
    prefix = mixed_prefixes(series, 2)
    paths = fitted.simulate(prefix, static, until=T, paths=99)
    assert paths.values.shape == (ROWS, 99, T)
    known = np.arange(T) < paths.known[:, None]
    assert (np.isnan(paths.values) == known[:, None, :]).all()
    assert_agree(paths, forecast_of(fitted, prefix, static))
    longest = int(paths.known.argmax())
    item = pl.col("unique_id") == longest
    alone = fitted.simulate(prefix.filter(item), static.filter(item), until=T, paths=99)
    np.testing.assert_allclose(alone.values[0], paths.values[longest], rtol=CLOSE)
    state = fitted.simulate(state=fitted.state(prefix, static), until=T, paths=99)
    np.testing.assert_allclose(state.values, paths.values, rtol=CLOSE)
    again = fitted.simulate(prefix, static, until=T, paths=99)
    np.testing.assert_array_equal(again.values, paths.values)
    assert paths.table().columns == ["unique_id", "ds", *(f"path-{i}" for i in range(1, 100))]


def test_paths_are_joint(fitted):
    """A path that is high at one step tends to be high at the next: ranks are not shuffled."""
    _, static = curve_tables()
    paths = fitted.simulate(None, static, until=T, paths=200).values
    rank = paths.argsort(axis=1).argsort(axis=1).astype(float)
    correlation = [
        np.corrcoef(rank[row, :, T - 2], rank[row, :, T - 1])[0, 1] for row in range(ROWS)
    ]
    assert np.mean(correlation) > 0.2


def _known(prefix, k):
    """The tables without the items that have a gap in their first k steps; arrays of them."""
    whole = prefix.filter(pl.col("ds") <= k).group_by("unique_id").len().filter(pl.col("len") == k)
    ids = sorted(whole["unique_id"].to_list())
    return ids, prefix.filter(pl.col("unique_id").is_in(ids) & (pl.col("ds") <= k))


def test_totals_and_peaks_are_those_of_the_paths(fitted):
    series, static = curve_tables()
    ids, prefix = _known(series, 3)
    static = static.filter(pl.col("unique_id").is_in(ids))
    paths = fitted.simulate(prefix, static, until=T, paths=50)
    rest = paths.values[:, :, 3:].astype(float)
    seen = prefix.sort("unique_id", "ds")["y"].to_numpy().reshape(len(ids), 3)
    total = paths.total(level=90, quantiles=0.3)
    assert total.columns == [
        "unique_id",
        *("statecast" + end for end in ("", "-lo-90", "-hi-90", "-q-0.3")),
    ]
    assert total["unique_id"].to_list() == ids
    sums = rest.sum(axis=2)
    wanted = np.quantile(sums, [0.5, 0.05, 0.95, 0.3], axis=1).T
    np.testing.assert_allclose(total.drop("unique_id").to_numpy(), wanted)
    # What was observed adds to every path alike.
    whole = columns_of(paths.total(since=1)) - columns_of(paths.total())
    np.testing.assert_allclose(whole, np.repeat(seen.sum(axis=1)[:, None], 3, axis=1), rtol=CLOSE)
    np.testing.assert_allclose(
        columns_of(paths.total(since=6))[:, 0], np.median(rest[:, :, 2:].sum(axis=2), axis=1)
    )
    joint = np.concatenate([np.repeat(seen[:, None], 50, axis=1), rest], axis=2)
    for since, values in ((1, joint), (None, rest)):
        peak = paths.peak(since=since)
        high = np.quantile(values.max(axis=2), [0.5, 0.1, 0.9], axis=1).T
        np.testing.assert_allclose(columns_of(peak), high, rtol=CLOSE)
        when = peak.select("step", "step-lo-80", "step-hi-80").to_numpy()
        assert (when == np.round(when)).all()
        assert (when[:, 1] <= when[:, 0]).all()
        assert (when[:, 0] <= when[:, 2]).all()
        assert when.min() >= (since or 4)
        assert when.max() <= T
    fake = replace(paths, values=np.broadcast_to(np.arange(T) % 6.0, (len(ids), 2, T)))
    assert set(fake.peak()["step"].to_list()) == {6}


def test_the_time_to_a_threshold_rises_with_it(fitted):
    _, static = curve_tables()
    paths = fitted.simulate(None, static, until=T, paths=60)
    low, *between, high = np.quantile(paths.values, [0, 0.2, 0.5, 0.8, 0.95, 1])
    thresholds = [low - 1, *between, high + 1]
    found = [paths.time_to(each, level=50) for each in thresholds]
    assert (columns_of(found[0]) == 1).all()
    assert set(found[0]["never"].to_list()) == {0}
    assert set(found[-1]["never"].to_list()) == {1}
    assert np.isnan(columns_of(found[-1])).all()
    for lower, higher in pairwise(found):
        assert (lower["never"] <= higher["never"]).all()
        ends = [np.nan_to_num(columns_of(each), nan=np.inf) for each in (lower, higher)]
        assert (ends[0] <= ends[1]).all()
    # A threshold an item; and paths turned upside down fall as the others rise.
    each = np.quantile(paths.values, 0.7, axis=(1, 2))
    rising = paths.time_to(each)
    turned = replace(paths, values=-paths.values).time_to(-each, falling=True)
    np.testing.assert_array_equal(columns_of(rising), columns_of(turned))
    reached = (paths.values >= each[:, None, None]).any(axis=2)
    np.testing.assert_allclose(rising["never"].to_numpy(), 1 - reached.mean(axis=1))


def test_what_paths_do_not_hold_is_refused(fitted):
    series, static = curve_tables()
    prefix = mixed_prefixes(series, 2)
    paths = fitted.simulate(prefix, static, until=T, paths=5)
    gapped = prefix.group_by("unique_id").agg(n=pl.len(), last=pl.max("ds"))
    item = min(gapped.filter(pl.col("n") < pl.col("last"))["unique_id"].to_list())
    with pytest.raises(errors.DataError, match=f"item {item} was not observed") as caught:
        paths.total(since=1)
    assert caught.value.item == item
    onward = fitted.simulate(state=fitted.state(prefix, static), until=T, paths=5)
    assert onward.total().equals(paths.total())
    with pytest.raises(errors.ArgumentError, match="does not hold the observations"):
        onward.peak(since=1)
    for since in (0, T + 1, 1.5, True):
        with pytest.raises(errors.ArgumentError, match="since: expected a step from"):
            paths.total(since=since)
    for threshold in ("high", np.nan, np.zeros(3)):
        with pytest.raises(errors.ArgumentError, match="threshold: expected a number"):
            paths.time_to(threshold)
    with pytest.raises(errors.ArgumentError, match="in parts"):
        fitted.simulate(None, static, until=T, paths=10**8)
