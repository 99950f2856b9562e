"""Partial pooling: forecasts move by what other items of a new group did."""

import warnings
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest

from statecast import Forecaster, errors
from statecast.forecast.pooling import Pooling, moved_quantiles
from statecast.heads.quantiles import QUANTILE_LEVELS
from statecast.heads.special import normal_quantile

SMALL: dict[str, Any] = {"units": 4, "ensemble": 8, "epochs": 2}  # every item is held out
T, NEW = 6, 10  # steps; the groups that are not in training
LEVELS = [0.1, 0.25, 0.5, 0.75, 0.9]


def _normal(rows: int, steps: int = T) -> np.ndarray:
    """Quantiles of the standard normal distribution."""
    return np.broadcast_to(
        normal_quantile(np.array(QUANTILE_LEVELS)), (rows, steps, len(QUANTILE_LEVELS))
    )


def _mixed(groups: int, each: int = 4, common: float = 0.6, seed: int = 0) -> Any:
    """Scores of a mixed model: the group's part has the variance ``common``."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(1, groups + 1), each)
    score = np.sqrt(common) * rng.normal(size=(groups, 1))[group - 1]
    return group, score + np.sqrt(1 - common) * rng.normal(size=(len(group), T))


def _pooled(common: float = 0.6, groups: int = 60) -> Pooling:
    group, score = _mixed(groups, common=common)
    forecasts = {k: _normal(len(group)) for k in (0, 1, 3)}
    return Pooling.fit(score, score, forecasts, group, group)


# -- arrays ----------------------------------------------------------------------------


def test_a_common_part_is_found_and_pays():
    found = _pooled()
    assert found.common.mean() == pytest.approx(0.6, abs=0.2)
    assert found.strength[0] >= 0.75
    assert found.narrowing[0] > 0
    assert found.groups.tolist() == list(range(1, 61))


def test_without_a_common_part_and_with_few_groups_nothing_moves():
    for found in (_pooled(common=0.0), _pooled(groups=5)):
        assert not found.strength.any()
        assert not found.narrowing.any()


def test_a_move_is_the_difference_of_two_conditional_means():
    pooling = _pooled()
    group, score = _mixed(1, each=4, seed=5)
    seen = score[1:].copy()
    seen[0, 3:] = np.nan
    seen[1, ::2] = np.nan
    prefix = np.where(np.arange(T) < 3, score[:1], np.nan)
    number = np.array([99])
    found = pooling.moves(prefix, np.array([3]), number, seen, np.full(3, 99))
    # The joint distribution of all scores, in one covariance matrix.
    u, e = pooling.common, pooling.own
    joint = np.kron(np.ones((4, 4)), u) + np.kron(np.eye(4), e)
    values = np.concatenate([prefix, seen]).ravel()
    own, every = np.flatnonzero(~np.isnan(values[:T])), np.flatnonzero(~np.isnan(values))
    means, deviations = [], []
    for at in (own, every):
        gain = joint[:T, at] @ np.linalg.inv(joint[np.ix_(at, at)])
        means.append(gain @ values[at])
        deviations.append(np.sqrt(np.clip(np.diag(joint[:T, :T] - gain @ joint[at, :T]), 0, None)))
    later = slice(3, None)
    strength, narrowing = pooling.strength[2], pooling.narrowing[2]
    np.testing.assert_allclose(
        found[0, later, 0], strength * (means[1] - means[0])[later], atol=1e-8
    )
    ratio = (deviations[1] / deviations[0])[later]
    np.testing.assert_allclose(found[0, later, 1], ratio**narrowing, rtol=1e-6)
    assert group.tolist() == [1, 1, 1, 1]


def test_the_order_of_the_evidence_changes_no_bit():
    pooling = _pooled()
    _, seen = _mixed(6, each=4, seed=7)
    prefix, known, number = np.full((1, T), np.nan), np.array([0]), np.array([99])
    expected = pooling.moves(prefix, known, number, seen, np.full(24, 99))
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(24)
        found = pooling.moves(prefix, known, number, seen[order], np.full(24, 99))
        assert (found == expected).all()


def test_a_move_shifts_and_narrows():
    quantiles = _normal(2)
    moved = np.zeros((2, T, 2))
    moved[..., 1] = 1.0
    np.testing.assert_allclose(moved_quantiles(quantiles, moved), quantiles)
    moved[1] = 0.5, 0.8
    np.testing.assert_allclose(moved_quantiles(quantiles, moved)[1], 0.5 + 0.8 * quantiles[1])
    longer = moved_quantiles(_normal(2, T + 2), moved)  # beyond the training items
    np.testing.assert_allclose(longer[:, T:], longer[:, T - 1 : T].repeat(2, axis=1))


def test_damaged_arrays_are_refused():
    good = _pooled().arrays()
    again = Pooling.from_arrays(good, T)
    assert all((again.arrays()[name] == good[name]).all() for name in good)
    wrong: list[dict[str, np.ndarray]] = [
        {"common": -np.eye(T)},
        {"own": np.zeros((T, T))},
        {"own": np.full((T, T), np.nan)},
        {"own": np.eye(T) + np.eye(T, k=1)},
        {"strength": np.full(3, 7.0)},
        {"narrowing": np.full(3, np.nan)},
        {"known": np.array([0, 3, 1])},
        {"groups": np.zeros(2)},
        {"groups": np.array([3, 2])},
        {"groups": np.array([2, 2])},
        {"groups": np.array([-1, 0, 1])},
    ]
    for change in wrong:
        with pytest.raises(ValueError, match="pooling"):
            Pooling.from_arrays(good | change, T)


# -- a forecaster ----------------------------------------------------------------------


@cache
def _tables() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Items whose level is that of their group; the last groups are not in training."""
    rng = np.random.default_rng(0)
    groups, each = 50, 4
    group = np.repeat(np.arange(groups), each)
    y = 20 + 3 * rng.normal(size=(groups, 1))[group] + 0.5 * rng.normal(size=(len(group), T))
    row, step = np.indices(y.shape)
    series = pl.DataFrame({"unique_id": row.ravel(), "ds": step.ravel() + 1, "y": y.ravel()})
    static = pl.DataFrame({"unique_id": np.arange(len(group)), "g": [f"g{i}" for i in group]})
    # A feature that differs between the groups, so that they are held out as wholes.
    return series, static.with_columns(x=pl.Series(rng.normal(size=groups)[group]))


def _of(groups: range, items: tuple[int, ...] = (0, 1, 2, 3), k: int = T) -> Any:
    ids = [4 * g + i for g in groups for i in items]
    series, static = _tables()
    of = pl.col("unique_id").is_in(ids)
    return series.filter(of & (pl.col("ds") <= k)), static.filter(of)


@cache
def _fitted() -> Forecaster:
    return Forecaster(**SMALL, group_col="g").fit(*_of(range(50 - NEW)), verbose=0)


def _new(k: int = 0) -> tuple[Any, Any]:
    """New items with prefixes of k steps; the item is the first one of each new group."""
    series, static = _of(range(50 - NEW, 50), (0,), k)
    return (series if k else None), static


def _others(**given: Any) -> Any:
    return _of(range(50 - NEW, 50), (1, 2, 3), **given)


@pytest.mark.parametrize("k", [0, 1])
def test_context_of_new_groups_pays(k):
    f, asked = _fitted(), _new(k)
    truth = _of(range(50 - NEW, 50), (0,))[0].filter(pl.col("ds") > k)["y"].to_numpy()
    with_, without = (
        f.predict(*asked, until=T, context=context)["statecast"].to_numpy()
        for context in (_others(), None)
    )
    assert np.abs(with_ - truth).mean() < 0.95 * np.abs(without - truth).mean()


def test_no_context_for_a_group_is_no_context():
    """Context of other groups, without rows, or of items in no group changes no bit."""
    f, asked = _fitted(), _new()
    expected = f.predict(*asked, until=T)
    series, static = _of(range(40, 42), (1, 2))
    found = f.predict(*asked, until=T, context=(series, static))
    ours = pl.col("unique_id") < 4 * 42
    assert found.filter(~ours).equals(expected.filter(~ours))
    assert not found.filter(ours).equals(expected.filter(ours))
    assert f.predict(*asked, until=T, context=(None, static)).equals(expected)
    none = static.with_columns(g=pl.lit(None, pl.String))
    assert f.predict(*asked, until=T, context=(series, none)).equals(expected)


def test_neighbours_and_the_order_of_context_change_nothing():
    f, (begun, static) = _fitted(), _new(2)
    expected = f.predict(begun, static, until=T, quantiles=LEVELS, context=_others())
    series, other = _others()
    mixed = (series.sample(fraction=1.0, shuffle=True, seed=1), other.reverse())
    assert f.predict(begun, static, until=T, quantiles=LEVELS, context=mixed).equals(expected)
    for item in static["unique_id"]:
        own = pl.col("unique_id") == item
        alone = f.predict(
            begun.filter(own), static.filter(own), until=T, quantiles=LEVELS, context=_others()
        )
        assert alone.equals(expected.filter(own))


def test_paths_and_totals_use_the_context():
    f, asked = _fitted(), _new(1)
    given: dict[str, Any] = {"until": T, "context": _others()}
    forecast = f.predict(*asked, **given, mean=True)
    paths = f.simulate(*asked, **given, paths=1000).values[:, :, 1:]
    np.testing.assert_allclose(
        np.median(paths, axis=1).ravel(), forecast["statecast"].to_numpy(), rtol=1e-2
    )
    total = f.predict_total(*asked, **given, mean=True)
    mean = forecast.group_by("unique_id", maintain_order=True).agg(pl.col("statecast-mean").sum())
    np.testing.assert_allclose(total["statecast-mean"], mean["statecast-mean"], rtol=1e-6)


def test_a_file_keeps_the_pooling(tmp_path):
    f, asked = _fitted(), _new(1)
    f.save(tmp_path / "model")
    again = Forecaster.load(tmp_path / "model")
    expected = f.predict(*asked, until=T, context=_others())
    assert again.predict(*asked, until=T, context=_others()).equals(expected)


def test_arrays_have_context_too():
    """The rows of two arrays have the same numbers, and are other items."""
    series, static = _tables()
    y = series.pivot("ds", index="unique_id", values="y").drop("unique_id").to_numpy()
    x = static.select(pl.col("g").str.slice(1).cast(pl.Float64), "x").to_numpy()
    old, asked, others = slice(0, 160), slice(160, None, 4), slice(161, None, 4)
    f = Forecaster(**SMALL, group_col="x1").fit(y[old], x[old], verbose=0)
    found = f.predict(y[asked, :1], x[asked], until=T, context=(y[others], x[others]))
    free = f.predict(y[asked, :1], x[asked], until=T)
    assert (found["statecast"] != free["statecast"])[:, 1:].all()


def test_several_targets_and_covariates_have_context_too():
    series, static = _tables()
    rng = np.random.default_rng(4)
    plan = series.select("unique_id", "ds", p=pl.Series(rng.normal(size=len(series))))
    two = series.with_columns(z=2 * pl.col("y") + rng.normal(size=len(series)), v=pl.col("y"))
    settings: dict[str, Any] = {"target_col": ["y", "z"], "past_cols": ["v"], "group_col": "g"}
    old, new = pl.col("unique_id") < 160, pl.col("unique_id").is_in(list(range(160, 200, 4)))
    f = Forecaster(**SMALL, **settings)
    f.fit(two.filter(old), static.filter(old), future=plan, verbose=0)
    others = ~old & ~new
    context = (two.filter(others), static.filter(others), plan)
    begun = two.filter(new & (pl.col("ds") == 1))
    given: dict[str, Any] = {"until": T, "future": plan}
    found = f.predict(begun, static.filter(new), **given, context=context)
    free = f.predict(begun, static.filter(new), **given)
    truth = two.filter(new & (pl.col("ds") > 1))
    for target in ("y", "z"):
        error, other = (
            np.abs((table[f"statecast-{target}"] - truth[target]).to_numpy()).mean()
            for table in (found, free)
        )
        assert error < other
    one = pl.col("unique_id") == 164
    alone = f.predict(begun.filter(one), static.filter(one), **given, context=context)
    assert alone.equals(found.filter(one))
    with pytest.raises(errors.DataError, match="future"):
        f.predict(begun, static.filter(new), **given, context=context[:2])


def test_groups_of_training_are_ignored_with_a_warning():
    f = _fitted()
    begun, static = _of(range(2), (0,), 2)
    context = _of(range(2), (1, 2))
    with pytest.warns(errors.DataWarning, match="4 items are of groups that were in training"):
        found = f.predict(begun, static, until=T, context=context)
    assert found.equals(f.predict(begun, static, until=T))


@cache
def _without_common_part() -> Forecaster:
    series, static = _of(range(50 - NEW))
    at_random = static.with_columns(pl.col("g").shuffle(seed=0))
    return Forecaster(**SMALL, group_col="g").fit(series, at_random, verbose=0)


@pytest.mark.parametrize(
    ("fitted", "k", "change", "message"),
    [
        (_fitted, 0, {}, None),
        (_fitted, 0, {"g": pl.col("g") + " "}, "none of its items is of the group of an item"),
        (_fitted, 0, {"g": pl.lit(None, pl.String)}, "none of its items is of the group"),
        (_without_common_part, 0, {}, "it has no effect on these forecasts"),
        (_without_common_part, 2, {}, "it has no effect on these forecasts"),
    ],
)
def test_a_context_without_effect_gives_a_warning(fitted, k, change, message):
    f, asked = fitted(), _new(k)
    series, static = _others()
    ask = {"until": T, "context": (series, static.with_columns(**change))}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = f.predict(*asked, **ask)
    given = [str(each.message) for each in caught if "context" in str(each.message)]
    assert len(given) == (message is not None)
    assert message is None or message in given[0]
    assert found.equals(f.predict(*asked, until=T)) == (message is not None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda series, static: (series, static.drop("g")), "expected the column 'g' of groups"),
        (lambda series, static: (series, static.drop("x")), "as in fit; received none"),
        (lambda series, static: (series.head(0), static.head(0)), "at least one row"),
        (lambda series, static: (pl.concat([series, series]), static), "each step of an item once"),
        (lambda series, static: (series, static, series), "Expected no future table"),
    ],
)
def test_an_error_of_a_table_of_the_context_names_the_context(change, message):
    f, asked = _fitted(), _new(1)
    with pytest.raises(errors.DataError, match=f"context: .*{message}"):
        f.predict(*asked, until=T, context=change(*_others()))


def test_groups_of_all_training_items_are_known(monkeypatch):
    """Those too whose items are not among the ones that analogues and pooling are fitted to."""
    monkeypatch.setattr("statecast.forecast.companions.MOST_ANALOGUES", 40)
    f = Forecaster(**SMALL, group_col="g").fit(*_of(range(50 - NEW)), verbose=0)
    pooling = f._companions.pooling
    assert pooling is not None
    assert len(pooling.groups) == 50 - NEW


def test_wrong_contexts_are_refused():
    f, asked = _fitted(), _new(1)
    series, static = _others()
    for wrong in (series, (series,), "context.csv", 3, (series, static, None, None)):
        with pytest.raises(errors.ArgumentError, match="context: expected a pair of tables"):
            f.predict(*asked, until=T, context=wrong)
    with pytest.raises(errors.DataError, match="item 160 is among both"):
        f.predict(*asked, until=T, context=_of(range(40, 41), (0,)))
    with pytest.raises(errors.ArgumentError, match="context: expected tables of the items"):
        f.predict(state=f.state(*asked), until=T, context=(series, static))
    text = [each.with_columns(pl.col("unique_id").cast(str)) for each in _of(range(40, 41))]
    with pytest.raises(errors.DataError, match="item '160' is among both"):
        f.predict(*asked, until=T, context=text)
    y = np.random.default_rng(0).normal(size=(20, 4))
    alone = Forecaster(units=4, ensemble=2, epochs=1).fit(y, verbose=0)
    with pytest.raises(errors.ArgumentError, match="fitted with group_col"):
        alone.predict(y, until=5, context=(y, None))
