"""Several targets: joint over targets and steps, with every property of the forecaster."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from effort import all_updates
from properties import CLOSE, every_k_alone_among_others_and_from_updates, mixed, same, values
from statecast.cli.commands import app
from statecast.errors import ArgumentError, DataError, DataWarning, ModelFileError
from statecast.evaluate.baselines import LastValue, MeanCurve, Ridge
from statecast.evaluate.cross_validation import cross_validation as _cross_validation
from statecast.forecast.forecaster import Forecaster
from statecast.forecast.paths import Paths
from statecast.forecast.stacking import Stacking
from statecast.heads.quantiles import QUANTILE_LEVELS
from statecast.tables import source
from statecast.tables.schema import Schema

cross_validation: Any = _cross_validation  # also of what only acts as a forecaster
pytestmark = pytest.mark.filterwarnings("ignore::statecast.errors.DataWarning")

N, T = 16, 6
TRAINED = 48  # items to learn from
FINE = 1e-4  # in degrees, of which there may be none
NAMES = ["lat", "lon"]


def _arrays(n=N, seed=0):
    """Tracks ``(n, T, 2)`` whose two moves at a step go together, and where they may start."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    move = rng.normal(size=(n, T, 2))
    move[..., 1] = 0.9 * move[..., 0] + np.sqrt(1 - 0.9**2) * move[..., 1]
    track = np.cumsum(move, axis=1) + 2 * x[:, None]
    return track * [1, 3] + [20, -60], x


def _tables(n=N, gaps=True):
    y, x = _arrays(n)
    if gaps:
        hole = np.random.default_rng(1).random(y.shape) < 0.1
        hole[:, 0] = False
        y = np.where(hole, np.nan, y)
        y[5, :, 1] = np.nan  # an item of which one target is never observed
    row, step = (axis.ravel() for axis in np.indices((n, T)))
    series = pl.DataFrame({"unique_id": row, "ds": step + 1}).with_columns(
        pl.Series(name, y[..., i].ravel()).fill_nan(None) for i, name in enumerate(NAMES)
    )
    series = series.with_columns(wind=pl.col("lat") * 0.5 + 3.0)
    static = pl.DataFrame({"unique_id": range(n), "x1": x[:, 0], "x2": x[:, 1]})
    season = np.random.default_rng(2).choice(["wet", "dry"], n * T)
    future = pl.DataFrame({"unique_id": row, "ds": step + 1, "season": season})
    return series, static, future


BARE: dict[str, Any] = {"units": 6, "ensemble": 3, "epochs": 3, "seed": 0}  # without features
SMALL: dict[str, Any] = BARE | {"encoding": 4}
CORNERS: dict[str, dict[str, Any]] = {
    "two": {"target_col": NAMES, "units": 16, "ensemble": 2, "encoding": 16, "epochs": 20},
    "covariates": {
        "target_col": ["lon", "lat"],
        "past_cols": ["wind"],
        "cell": "gru",
        "conditioning": "both",
        "head": "normal",
    },
}


@cache
def _fitted(corner):
    series, static, future = _tables(200, gaps=False) if corner == "two" else _tables(TRAINED)
    more: dict[str, Any] = {"future": future} if corner == "covariates" else {}
    with all_updates():
        f = Forecaster(**{**SMALL, **CORNERS[corner]}).fit(series, static, **more, verbose=0)
    return f, more


@pytest.fixture(params=list(CORNERS))
def fitted(request):
    return _fitted(request.param)


# -- properties of the forecaster ---------------------------------------------------------------


def test_every_k_alone_among_others_and_from_updates(fitted):
    f, more = fitted
    series, static, _ = _tables()
    until = T if more else T + 2
    every_k_alone_among_others_and_from_updates(
        f, series, static, more, until=until, items=(0, 5, 11), atol=FINE
    )
    prefix = mixed(series)
    paths = f.simulate(prefix, static, until=until, paths=8, **more)
    state = f.state(prefix, static, **more)
    from_state = f.simulate(state=state, until=until, paths=8, **more)
    np.testing.assert_allclose(paths.values, from_state.values, rtol=1e-4, atol=FINE)


def test_saving_and_loading_is_the_identity(fitted, tmp_path):
    f, more = fitted
    series, static, _ = _tables()
    f.save(tmp_path / "m.safetensors")
    loaded = Forecaster.load(tmp_path / "m.safetensors")
    assert loaded.settings == f.settings
    assert loaded.schema.target_cols == tuple(f.settings.target_col)
    assert loaded.fingerprint == f.fingerprint
    prefix = mixed(series)
    expected = f.predict(prefix, static, until=T, **more)
    assert loaded.predict(prefix, static, until=T, **more).equals(expected)


def test_a_list_of_one_target_is_that_target():
    assert Forecaster(target_col=["lat"]).settings == Forecaster(target_col="lat").settings
    assert Forecaster(target_col="lat").settings.targets == ("lat",)


def test_tables_and_arrays_say_the_same():
    f, _ = _fitted("two")
    y, x = _arrays()
    series, static, _ = _tables(gaps=False)
    ways = (y, x), (series, static)
    panels = [Schema.fit(*way, target_col=NAMES).panel(*way) for way in ways]
    for name in ("y", "mask", "numeric", "known"):
        np.testing.assert_array_equal(*(getattr(panel, name) for panel in panels))
    found = f.predict(y[:, :2], x, until=T, quantiles=[0.3])
    assert list(found) == ["statecast", "statecast-lo-80", "statecast-hi-80", "statecast-q-0.3"]
    assert found["statecast"].shape == (N, T, 2)
    assert np.isnan(found["statecast"][:, :2]).all()
    table = f.predict(series.filter(pl.col("ds") <= 2), static, until=T, quantiles=[0.3])
    for name, each in found.items():
        first, _, rest = name.partition("-")
        for place, target in enumerate(NAMES):
            title = "-".join(part for part in (first, target, rest) if part)
            np.testing.assert_array_equal(table[title], each[:, 2:, place].ravel())


# -- what is joint ------------------------------------------------------------------------------


def _ties(step):
    """How the targets of a step go together, of paths ``(items, paths, targets)``: the level's
    moves are the step's."""
    step = (step - step.mean(axis=1, keepdims=True)) / step.std(axis=1, keepdims=True)
    return np.einsum("ipa,ipb->ab", step, step) / step[..., 0].size


def test_paths_are_joint_where_the_targets_are():
    f, _ = _fitted("two")
    new, newx = _arrays(60, seed=1)
    k = 2
    state = f.state(new[:, :k], newx)
    paths = f.simulate(state=state, until=T, paths=99)
    assert paths.values.shape == (60, 99, T, 2)
    assert _ties(paths.values[:, :, k])[0, 1] > 0.6
    # Each target's paths are the quantiles that predict gives
    table = f.predict(state=state, until=T)
    median = np.median(paths.values[:, :, k:], axis=1).reshape(-1, len(NAMES))
    forecast = table.select(f"statecast-{name}" for name in NAMES).to_numpy()
    np.testing.assert_allclose(median, forecast, rtol=1e-4, atol=FINE)


def test_the_network_alone_ties_targets_too(monkeypatch):
    """All paths drawn by the network: each value is drawn given the one before it at its step."""
    f, _ = _fitted("two")
    monkeypatch.setattr(Stacking, "share", lambda _, known: np.ones(len(known)))
    new, newx = _arrays(60, seed=1)
    paths = f.simulate(state=f.state(new[:, :2], newx), until=T, paths=99)
    assert _ties(paths.values[:, :, 2])[0, 1] > 0.3


def test_a_target_of_the_same_step_is_heard():
    """One target's value moves the forecast of the next at its step, and nothing before it."""
    f, _ = _fitted("two")
    series, static, _ = _tables(gaps=False)
    panel = f.schema.panel(series, static)
    assert panel.targets == 2
    assert panel.known.tolist() == [2 * T] * N
    other = panel.y.copy()
    other[:, 4] += 2.0  # lat at step 3
    moved = f.quantiles(replace(panel, y=other), 2 * T, [0.5])
    before = f.quantiles(panel, 2 * T, [0.5])
    np.testing.assert_allclose(moved[:, :5], before[:, :5], rtol=CLOSE)  # and nothing earlier
    assert (np.abs(moved - before)[:, 5] > 1e-4).all()  # lon at step 3


def test_gaps_in_one_target_are_gaps():
    """A step is known up to the last at which any target was observed."""
    f, _ = _fitted("two")
    series, static, _ = _tables(gaps=False)
    own = series.filter((pl.col("unique_id") == 7) & (pl.col("ds") <= 3))
    holed = own.with_columns(lat=pl.when(pl.col("ds") == 3).then(None).otherwise(pl.col("lat")))
    mine = static.filter(pl.col("unique_id") == 7)
    found = f.predict(holed, mine, until=T)
    assert found["ds"].to_list() == [4, 5, 6]
    assert not np.allclose(values(found), values(f.predict(own, mine, until=T)), rtol=1e-4)
    cut = own.with_columns(pl.when(pl.col("ds") < 3).then(pl.col(name)) for name in NAMES)
    assert f.predict(cut, mine, until=T)["ds"].to_list() == [3, 4, 5, 6]


def test_totals_peaks_and_times_are_of_a_target():
    f, _ = _fitted("two")
    series, static, _ = _tables(gaps=False)
    prefix = series.filter(pl.col("ds") <= 2)
    paths = f.simulate(prefix, static, until=T + 2, paths=8)
    assert isinstance(paths, Paths)
    lon = paths.of("lon")
    expected = np.median(paths.values[..., 2:, 1].sum(axis=-1, dtype="float64"), axis=1)
    np.testing.assert_allclose(lon.total()["statecast"], expected, rtol=1e-6)
    whole = lon.total(since=1)["statecast"].to_numpy()
    seen = prefix.sort("unique_id").group_by("unique_id", maintain_order=True).sum()["lon"]
    np.testing.assert_allclose(whole, expected + seen.to_numpy(), rtol=1e-5)
    assert lon.peak().columns[:2] == ["unique_id", "statecast"]
    assert lon.time_to(1e6)["never"].to_list() == [1.0] * N
    table = paths.table()
    assert table.columns[1:4] == ["ds", "path-lat-1", "path-lat-2"]
    np.testing.assert_allclose(
        table["path-lon-2"].to_numpy().reshape(N, -1), paths.values[:, 1, 2:, 1]
    )
    with pytest.raises(ArgumentError, match="paths of one target"):
        paths.total()
    with pytest.raises(ArgumentError, match="expected one of"):
        paths.of("wind")


# -- explanations -------------------------------------------------------------------------------


@settings(max_examples=3)
@given(seed=st.integers(0, 99))
def test_an_effect_is_of_one_target_at_a_step_on_the_forecast_of_each(seed):
    """The forecast less that of a table without the cell; what was not observed has none."""
    f, more = _fitted("covariates")
    series, static, _ = _tables()
    begun = mixed(series, seed)
    found, targets = f.explain(begun, static, until=T, **more), f.schema.target_cols
    seen = found.observations.shape[1]
    assert found.observations.shape == (N, seen, 2, T, 2)
    item = int(np.random.default_rng(seed).choice(np.flatnonzero(found.known > 1)))
    own, k = pl.col("unique_id") == item, int(found.known[item])

    def rest(table, who=static):
        table = f.predict(table, who, until=T, **more).filter(own & (pl.col("ds") > k))
        return table.select(f"statecast-{target}" for target in targets).to_numpy()

    whole = rest(begun)
    for step in range(1, seen + 1):
        cells = begun.filter(own & (pl.col("ds") == step))
        for place, target in enumerate(targets):
            effect = found.observations[item, step - 1, place]
            assert np.isnan(effect[:k]).all()
            if cells.is_empty() or cells[target][0] is None:
                assert np.isnan(effect).all()
                continue
            if step == k and cells[targets[1 - place]][0] is None:
                continue  # without it the prefix is shorter, and the forecast another
            hidden = pl.when(own & (pl.col("ds") == step)).then(None).otherwise(pl.col(target))
            without = rest(begun.with_columns(hidden.alias(target)))
            np.testing.assert_allclose(effect[k:], whole - without, atol=1e-3)
    average = float(_tables(TRAINED)[1]["x1"].to_numpy().mean())  # the training items'
    average = pl.when(own).then(average).otherwise("x1").alias("x1")
    without = rest(begun, static.with_columns(average))
    np.testing.assert_allclose(found.statics["x1"][item, k:], whole - without, atol=1e-3)


def test_an_explanation_names_the_targets_and_does_not_depend_on_the_neighbours(
    tmp_path, monkeypatch
):
    f, _ = _fitted("two")
    series, static, _ = _tables()
    begun = mixed(series)
    item = 11
    own = pl.col("unique_id") == item
    together = f.explain(begun, static, until=T, analogues=2)
    alone = f.explain(begun.filter(own), static.filter(own), until=T, analogues=2)
    k = int(alone.known[0])
    np.testing.assert_allclose(
        alone.observations[0], together.observations[item, :k], rtol=1e-3, atol=1e-3
    )
    table = alone.table()
    names = ["unique_id", "target", "what", "name", "effect", "strength", "weight"]
    assert table.columns == names
    there = begun.filter(own).unpivot(NAMES, index="ds").drop_nulls()
    expected = {f"{target}-{step}" for step, target, _ in there.rows()} | {"x1", "x2"}
    for place, target in enumerate(NAMES):
        mine = table.filter(pl.col("target") == target)
        assert set(mine["name"]) == expected
        assert mine["strength"].is_sorted(descending=True)
        first = mine.filter(pl.col("name") == "lat-1")["effect"][0]
        assert first == pytest.approx(alone.observations[0, 0, 0, k:, place].mean())
    near = table.filter(pl.col("what") == "analogue")
    assert near.height == 2
    assert near["target"].null_count() == 2
    # What is compiled is not thrown away.
    monkeypatch.setattr(Forecaster, "load", lambda _: f)
    monkeypatch.setattr("statecast.tokens.forecaster.load_model", lambda _: f)
    begun.filter(own).write_csv(tmp_path / "s.csv")
    static.filter(own).write_csv(tmp_path / "x.csv")
    words = [str(tmp_path / name) for name in ("m.safetensors", "s.csv", "x.csv")]
    said = CliRunner().invoke(
        app, ["explain", *words, "--until", str(T), "--analogues", "2"], catch_exceptions=False
    )
    shared = names[1:4]
    assert pl.read_csv(said.stdout.encode()).select(shared).equals(table.select(shared))
    ask = ["simulate", *words, "--until", str(T), "--paths", "9", "--peak"]
    said = CliRunner().invoke(app, ask)
    assert (said.exit_code, "--target-col lat" in said.output) == (2, True)
    said = CliRunner().invoke(app, [*ask, "--target-col", "speed"])
    assert (said.exit_code, "'speed'" in said.output) == (2, True)
    said = CliRunner().invoke(app, [*ask, "--target-col", "lon"], catch_exceptions=False)
    drawn: Any = f.simulate(begun.filter(own), static.filter(own), until=T, paths=9)
    highest = pl.read_csv(said.stdout.encode())["statecast"]
    np.testing.assert_allclose(highest, drawn.of("lon").peak()["statecast"], rtol=1e-3)
    nobody = f.explain(None, static.head(5), until=T)
    assert nobody.observations.shape == (5, 0, 2, T, 2)
    assert set(nobody.table()["what"]) == {"static", "analogue"}


# -- dates, files, transforms -------------------------------------------------------------------


@pytest.fixture(scope="module")
def dated(tmp_path_factory):
    """Fitted on files: an item a day later than the one before, and targets that are skewed, that
    go their own way, and that stay 7."""
    folder, (series, static, _) = tmp_path_factory.mktemp("dated"), _tables(TRAINED, gaps=False)
    day = pl.date(2024, 1, 1) + pl.duration(days=pl.col("ds") - 1 + pl.col("unique_id"))
    series = series.with_columns(ds=day, n="ds", lon=((pl.col("lon") + 60) / 2).exp(), still=7.0)
    free = np.random.default_rng(3).normal(size=(TRAINED, T)).cumsum(axis=1)
    series = series.with_columns(free=pl.Series(free.ravel()))
    series.write_csv(folder / "s.csv")
    static.write_csv(folder / "x.csv")
    f = Forecaster(**{**SMALL, "epochs": 15}, target_col=[*NAMES, "free", "still"])
    f.fit(folder / "s.csv", folder / "x.csv", verbose=0)
    few = pl.col("unique_id") < N
    return f, series.filter(few), static.filter(few)


def test_dates_files_and_transforms_of_each(dated):
    f, series, static = dated
    assert f.schema.targets[0].transform.name == "none"
    assert f.schema.targets[1].transform.name == "log"
    prefix = series.filter(pl.col("n") <= 3)
    found = f.predict(prefix, static, until=T, level=95)
    assert found.columns[:4] == ["unique_id", "ds", "step", "statecast-lat"]
    late = found.filter(pl.col("unique_id") == 11)
    assert late["ds"].to_list()[0].isoformat() == "2024-01-15"
    assert (found["statecast-lon-lo-95"] >= 0).all()
    state = f.update(f.state(prefix, static), series.filter(pl.col("n") == 4))
    four = f.predict(series.filter(pl.col("n") <= 4), static, until=T)
    same(f.predict(state=state, until=T), four, FINE)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_target_that_goes_its_own_way_is_tied_to_no_other(dated, monkeypatch, share):
    """Neither by the linear path nor by the network, of which each here draws all paths."""
    f, series, static = dated
    monkeypatch.setattr(Stacking, "share", lambda _, known: np.full(len(known), share))
    paths = f.simulate(series.filter(pl.col("n") <= 3), static, until=T, paths=99)
    assert np.abs(_ties(paths.values[:, :, 3, :3])[2, :2]).max() < 0.3


def test_a_constant_target_stays_what_it_is(dated):
    f, series, static = dated
    found = values(f.predict(series.filter(pl.col("n") <= 3), static, until=T))
    assert np.isfinite(found).all()
    assert np.abs(found[:, -3] - 7.0).max() < 0.1 * 7.0


# -- values far outside those of training --------------------------------------------------------


def _beside(b: Any, transform="none", first="a"):
    """A forecaster of a, a random walk, and of ``b``, fitted on arrays; and prefixes of 4 items."""
    rng = np.random.default_rng(0)
    walk = 10 + rng.normal(size=(40, 1)) + 0.3 * rng.normal(size=(40, T)).cumsum(axis=1)
    values: Any = b(rng) if callable(b) else b
    b = np.broadcast_to(values, walk.shape)
    names = ["a", "b"] if first == "a" else ["b", "a"]
    y = np.stack([walk, b] if first == "a" else [b, walk], axis=-1)
    small: dict[str, Any] = BARE | {"ensemble": 2, "epochs": 6, "transform": transform}
    return Forecaster(**small, target_col=names).fit(y, verbose=0), y[:4, :4], names.index("b")


@pytest.mark.parametrize(
    ("b", "transform", "first"),
    [(3.0, "none", "a"), (3.0, "none", "b"), (3.0, "log", "a"), (0.0, "none", "a")],
)
@pytest.mark.filterwarnings("default::statecast.errors.DataWarning")
def test_a_target_that_did_not_vary_says_nothing_of_another(b, transform, first):
    f, known, at = _beside(b, transform, first)
    usual = f.predict(known, until=T)["statecast"]
    other = known.copy()
    other[1:, 1:, at] = 10.0
    with pytest.warns(DataWarning, match=f"'b', item 1, step 2: 10 is taken as {b:g} .and 8 more"):
        found = f.predict(other, until=T)["statecast"]
    np.testing.assert_allclose(found, usual, rtol=1e-5)
    np.testing.assert_allclose(found[:, 4:, at], b, atol=0.1)
    with pytest.warns(DataWarning, match="is taken as"):
        after = f.update(f.state(other[:, :2]), np.where(np.arange(4)[:, None] < 2, np.nan, other))
    again = f.predict(state=after, until=T)["statecast"]
    np.testing.assert_allclose(again[:, 4:], found[:, 4:], rtol=1e-5)
    total = f.simulate(other, until=T, paths=9).of("b").total(since=1)["statecast"]
    np.testing.assert_allclose(total[1:], b + 30.0 + 2 * b, atol=0.5)  # as observed


@pytest.mark.parametrize(
    "b",
    [
        lambda rng: 3.0 + 3e-7 * rng.normal(size=(40, T)),
        lambda rng: 1e9 + 0.7 * rng.normal(size=(40, T)),
        lambda rng: rng.normal(size=(40, T)).cumsum(axis=1),
        lambda rng: np.where(np.arange(T) < 3, 5.0, rng.normal(size=(40, T))),  # equal at first
    ],
)
@pytest.mark.parametrize("far", [1e6, pytest.param(-1e50, marks=pytest.mark.slow)])
def test_a_value_far_outside_training_leaves_the_other_target_plausible(b, far):
    f, known, _ = _beside(b)
    other = known.copy()
    other[:, 1:, 1] = far
    with pytest.warns(DataWarning, match="'b', item 0, step 2: .* .and 11 more"):
        found = f.predict(other, until=T, level=None)["statecast"][:, 4:, 0]
    assert (np.abs(found - 10.0) < 10.0).all()  # a has a deviation of 1


@settings(max_examples=20)
@given(seed=st.integers(0, 99), count=st.integers(1, 3))
def test_inputs_are_those_of_training_and_limited_beyond_it(seed, count):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(12, 4, count)) * 10.0 ** rng.integers(-3, 6, count)
    y[..., -1] = 2.0
    y = y[..., 0] if count == 1 else y
    schema = Schema.fit(y, target_col=[f"t{i}" for i in range(count)])
    again = Schema.from_config(*schema.to_config())
    panel, far = schema.panel(y), schema.panel(y * 1e5)
    np.testing.assert_allclose(schema.inputs(panel).y, panel.y, atol=1e-6)
    limited = again.inputs(far).y.reshape(y.shape)
    if count == 1:
        np.testing.assert_array_equal(limited, far.y)
        return
    largest = np.abs(panel.y.reshape(y.shape)).max(axis=(0, 1))
    largest[-1] = 0.0  # the rounding of a constant
    np.testing.assert_allclose(np.abs(limited).max(axis=(0, 1)), 2 * largest, rtol=1e-4)


@pytest.mark.parametrize("head", ["quantiles", "student_t", "poisson", "negative_binomial"])
@pytest.mark.parametrize("level", [0.0, 3.0])
def test_one_target_that_did_not_vary_has_plausible_forecasts(head, level):
    f = Forecaster(**{**BARE, "ensemble": 2}, head=head)
    f.fit(np.full((24, T), level), verbose=0)
    for found in f.predict(np.full((2, 3), 10.0), until=T).values():
        assert ((found[:, 3:] >= -1) & (found[:, 3:] <= 99)).all()


@settings(max_examples=10)
@given(
    count=st.integers(2, 4), rows=st.integers(2, 5), steps=st.integers(1, 4), seed=st.integers(0, 9)
)
def test_positions_go_out_as_they_came_in(count, rows, steps, seed):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(rows, steps, count)) * 10.0 ** rng.integers(-2, 4, count)
    names = [f"t{i}" for i in range(count)]
    schema = Schema.fit(y, target_col=names)
    hole = rng.random(y.shape) < 0.3
    holed = np.where(hole, np.nan, y)
    panel = schema.panel(holed)
    np.testing.assert_array_equal(panel.mask.reshape(y.shape), ~hole)
    there = (~hole).any(axis=2)
    last = np.where(there.any(axis=1), steps - there[:, ::-1].argmax(axis=1), 0)
    np.testing.assert_array_equal(panel.known, count * last)
    back = schema.unscale(panel.y).reshape(y.shape)
    np.testing.assert_allclose(back[~hole], y[~hole], rtol=1e-5, atol=1e-5 * np.abs(y).max())
    columns = {"statecast": back.reshape(rows, -1)}
    out = schema.output(panel.kind).table(columns, ids=panel.ids, known=0 * last)
    np.testing.assert_array_equal(out["statecast"], back)
    config, arrays = schema.to_config()
    again = Schema.from_config(config, arrays)
    assert again.to_config()[0] == config
    np.testing.assert_array_equal(again.panel(holed).y, panel.y)


@pytest.mark.parametrize("form", ["numbers", "dates", "arrays", "parquet in batches"])
@settings(max_examples=10)
@given(st.integers(0, 99))
def test_a_target_is_learnt_and_scaled_as_if_it_were_alone(tmp_path_factory, form, seed):
    """From the items that have it: one begins later than the others, and one is rare."""
    rng = np.random.default_rng(seed)
    y = np.exp(rng.normal(size=(12, T, 3)).cumsum(axis=1))
    y[rng.random(y.shape) < 0.3] = np.nan
    y[:, :2, 1], y[3:, :, 2], y[:, 4:, 2] = np.nan, np.nan, np.nan
    y[:, 0, 0], y[:3, 0, 2] = 1.0, 2.0
    names = ["a", "b", "c"]
    given: Any = y
    if form != "arrays":
        row, step = (axis.ravel() for axis in np.indices(y.shape[:2]))
        given = pl.DataFrame({"unique_id": row, "ds": step + 1})
        if form == "dates":
            given = given.with_columns(ds=pl.date(2024, 1, 1) + pl.duration(days="ds"))
        cells = [pl.Series(name, y[..., i].ravel()).fill_nan(None) for i, name in enumerate(names)]
        given = given.with_columns(cells)
    frame = given
    with pytest.MonkeyPatch.context() as patch:
        if form == "parquet in batches":
            given = tmp_path_factory.mktemp("parquet") / "s.parquet"
            frame.write_parquet(given, row_group_size=5)
            patch.setattr(source, "BATCH", 7)
        schema = Schema.fit(given, target_col=names)
        panel = schema.panel(given)
    for place, target in enumerate(schema.targets):
        has = ~np.isnan(y[..., place]).all(axis=1)
        own = y[has][..., place]
        if form != "arrays":
            own = frame.filter(pl.col("unique_id").is_in(np.flatnonzero(has).tolist()))
        alone = Schema.fit(own, target_col=target.name)
        assert target.transform == alone.targets[0].transform
        for name in ("location", "scaling", "observed"):
            mine, other = getattr(target, name), getattr(alone.targets[0], name)
            np.testing.assert_array_equal(mine[: alone.steps], other)
            after = np.zeros_like(mine) if name == "observed" else np.full_like(mine, other[-1])
            np.testing.assert_array_equal(mine[alone.steps :], after[alone.steps :])
        single = alone.panel(own)
        ours = panel.of(place).take(has)
        np.testing.assert_array_equal(ours.y[:, : alone.steps], single.y)
        np.testing.assert_array_equal(ours.mask[:, : alone.steps], single.mask)
        assert not ours.mask[:, alone.steps :].any()


@pytest.mark.parametrize("names", ["lat", NAMES])
def test_a_call_without_rows_has_an_empty_panel(names):
    series, static, _ = _tables()
    schema = Schema.fit(series, static, target_col=names)
    count = len(schema.targets)
    assert schema.new_rows(series.head(0), []).y.shape == (0, T * count)
    none = schema.panel(series.head(0), static)
    assert none.known.tolist() == [0] * N
    assert none.take([]).latest.shape == (0, count, 2)


def test_a_table_of_several_targets_is_read_once(tmp_path, monkeypatch):
    series, static, _ = _tables()
    series.write_csv(tmp_path / "s.csv")
    schema = Schema.fit(tmp_path / "s.csv", static, target_col=NAMES)
    read, calls = source._read_csv, []
    monkeypatch.setattr(source, "_read_csv", lambda *given: calls.append(given) or read(*given))
    panel = schema.panel(tmp_path / "s.csv", static)
    assert len(calls) == 1
    np.testing.assert_array_equal(panel.y, schema.panel(series, static).y)


def test_a_step_at_which_a_target_was_never_observed_is_told_by_its_own_others():
    Y = _arrays(20)[0][:, :6].copy()
    Y[:, 2, 0] = Y[:, 4:, 1] = np.nan  # the last two steps are known of the first alone
    said = "at 1 of 6 steps of 'lat': 3; 2 of 6 steps of 'lon': 5, 6. Their"
    with pytest.warns(DataWarning, match=said):
        schema = Schema.fit(Y, target_col=NAMES)
    z = np.random.default_rng(0).normal(size=(3, 5, 16))
    known = np.array([0, 4, 10])  # positions
    found, own = schema.unscale_rest(z, known), schema.unscale(z)
    lat, lon = found[..., ::2], found[..., 1::2]
    np.testing.assert_array_equal(lat[..., 3:], own[..., 6::2])
    np.testing.assert_allclose(lat[:2, :, 2][1], lat[1, :, 3])  # none before: the prefix is told
    between = (lat[0, :, 2] - lat[0, :, 1]) / (lat[0, :, 3] - lat[0, :, 1])
    np.testing.assert_allclose(between, 0.5)
    np.testing.assert_allclose(lon[:2, :, 4:], np.repeat(lon[:2, :, 3:4], 4, axis=2))
    np.testing.assert_array_equal(lon[2], own[2, :, 1::2])  # nothing observed is ahead of it
    # Each target goes on from its own last observation
    latest = np.array([[[0, 0], [0, 0]], [[0.5, 2], [0.7, 1]], [[0.1, 5], [0.2, 4]]], "float32")
    found = schema.unscale_rest(z, known, latest)
    begun = schema.targets[0].unscale(np.full((1, 2), 0.5))[0, 1]
    np.testing.assert_allclose(found[1, :, 4], (begun + own[1, :, 6]) / 2, rtol=1e-6)
    assert [schema.reach(2 * step) for step in (2, 3, 5, 6, 9)] == [4, 8, 10, 12, 18]


def test_each_target_is_calibrated_by_itself():
    """Of two targets one is forecast far too narrowly: only its intervals are widened."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=(100, 2 * T))  # few values: horizons count for each other
    sharp = np.quantile(rng.normal(size=100_000), QUANTILE_LEVELS)
    quantiles = np.broadcast_to(sharp, (*y.shape, len(QUANTILE_LEVELS))).copy()
    quantiles[:, 1::2] *= 0.2
    stacking = Stacking.fit(y, {0: quantiles, 4: quantiles}, None, 2)
    for k in (0, 4):
        long = np.concatenate([quantiles, quantiles], axis=1)  # beyond the longest item too
        out = stacking.calibrate(long, np.full(len(y), k))[:, k:]
        width = (out[..., -2] - out[..., 1]).mean(axis=0).reshape(-1, 2)
        np.testing.assert_allclose(width, 2 * 1.28, rtol=0.15)


# -- scores -------------------------------------------------------------------------------------


def test_messages_name_each_target_by_itself():
    series, static, _ = _tables(gaps=False)
    years = series.with_columns(ds=pl.col("ds") + 2000)
    schema = Schema.fit(years, static, target_col=NAMES)
    with pytest.raises(DataError, match=r"without a value of 'lat', 'lon'\.$"):
        schema.panel(years.with_columns(ds=pl.col("ds") - 5), static)
    one = Schema.fit(years, static, target_col="lat")
    with pytest.raises(DataError, match=r"without a value of 'lat'\.$"):
        one.panel(years.with_columns(ds=pl.col("ds") - 5), static)
    empty = [
        pl.when(pl.col("unique_id") == 3).then(None).otherwise(name).alias(name) for name in NAMES
    ]
    with pytest.raises(DataError, match=r"'lat': .* in this column or in 'lon'") as error:
        schema.panel(years.with_columns(empty), static)
    assert (error.value.column, error.value.item) == ("lat", 3)


class _Ready:
    """A forecaster that needs no fit: the baselines are what is fitted here."""

    def __init__(self, settings, quantiles):
        self.settings, self.quantiles = settings, quantiles

    def clone(self):
        return self

    def fit(self, series, static, **_):
        self.schema = Schema.fit(series, static, target_col=self.settings.target_col)


def test_scores_are_of_each_target_and_baselines_of_it_alone():
    series, static, _ = _tables(gaps=False)
    f, _ = _fitted("two")
    nothing = lambda panel, until, levels: np.zeros((panel.rows, until, len(levels)))  # noqa: E731
    found, alone = (
        cross_validation(
            forecaster,
            series,
            static,
            folds=2,
            known=[0, 2],
            test_folds=[0],
            baselines=[LastValue(), MeanCurve(), Ridge()],
        )
        for forecaster in (
            _Ready(f.settings, f.quantiles),
            _Ready(replace(f.settings, target_col="lon"), nothing),
        )
    )
    for method in alone.methods[1:]:
        for k in (0, 2):
            if k or method != "last value":
                np.testing.assert_allclose(
                    found["lon"][method, k].crps, alone[method, k].crps, rtol=1e-4
                )
    ours = [found[name]["statecast", 2].crps for name in NAMES]
    curve = [found[name]["mean curve", 2].crps for name in NAMES]
    assert (np.array(ours) < curve).all()
    assert found.mean("statecast", 2) == np.mean(ours)
    assert found.table()["target"].unique().sort().to_list() == NAMES
    assert "the mean of lat, lon" in str(found)
    assert repr(found).startswith("<TargetScores of lat, lon: each <Scores of statecast, mean")
    assert "<table" in found._repr_html_()
    with pytest.raises(KeyError, match="expected a target"):
        found["wind"]


# -- bad input ----------------------------------------------------------------------------------


def test_what_cannot_be_is_refused(tmp_path):
    series, static, future = _tables(gaps=False)
    f = Forecaster(**SMALL, target_col=NAMES)
    cases: list[tuple[Any, str]] = [
        (series.drop("lon"), "expected a column 'lon'"),
        (series.with_columns(lon=pl.lit("west")), "column 'lon': expected a number"),
        (series.with_columns(lon=pl.lit(None, pl.Float64)), "Target 'lon': expected an observ"),
        (np.zeros((4, 3)), "expected shape .n, T, 2."),
        (np.zeros((4, 3, 3)), "expected shape .n, T, 2."),
        (None, "series table is needed"),
    ]
    for table, message in cases:
        with pytest.raises(DataError, match=message):
            f.fit(table, None, verbose=0)
    with pytest.raises(DataError, match=r"received \(4, 3, 2\)\. For 2 targets.*target_col=\["):
        Forecaster(**SMALL).fit(np.zeros((4, 3, 2)), verbose=0)
    with pytest.raises(DataError, match="received the target 'lat'"):
        f.fit(series, static, future=future.with_columns(lat=pl.lit(1.0)), verbose=0)
    empty = series.with_columns(
        pl.when(pl.col("unique_id") == 3).then(None).otherwise(pl.col(name)).alias(name)
        for name in NAMES
    )
    with pytest.raises(DataError, match="at least one observation for each item"):
        f.fit(empty, static, verbose=0)
    for bad in ([], ["a", "a"], ["a", 3], 3, [""]):
        with pytest.raises(ArgumentError, match="target_col"):
            Forecaster(target_col=bad)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ArgumentError, match="distinct names"):
        Forecaster(**SMALL, target_col=["ds", "lon"]).fit(series, static, verbose=0)
    for head in ("poisson", "negative_binomial"):
        with pytest.raises(ArgumentError, match="forecasts one target"):
            Forecaster(head=head, target_col=NAMES)
    with pytest.raises(ArgumentError, match="ends: the chance to end is learnt for one target"):
        Forecaster(ends=True, target_col=NAMES)
    f, _ = _fitted("two")
    with pytest.raises(DataError, match=f"observed up to step {T}"):
        f.predict(series, static, until=T, strict=True)
    with pytest.raises(ModelFileError):
        Schema.from_config({"targets": []}, {})
