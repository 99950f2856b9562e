"""The engine of the page, in a browser: its forecasts are those of ``predict``."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from selenium.webdriver import Chrome

import statecast.playground
from effort import examples
from forecast_cases import CASES, LEVELS, STEPS, Case, Data, predicted, prefixes
from statecast.errors import DataError, DataWarning
from statecast.forecast.forecaster import Forecaster
from statecast.forecast.settings import CellName, ConditioningName
from statecast.playground.description import described

CLOSE = 1e-5  # of the scale of y
ENGINE = Path(statecast.playground.__file__).parent / "assets" / "engine.js"
FORECAST = """
const [model, items, levels] = arguments;
const engine = new Engine(model);
return items.map((item) => {
  const found = engine.forecast(item, levels);
  return [found.quantiles.map((each) => Array.from(each)), found.known, found.near,
    Array.from(engine.atLevels(found.scaled, levels)),
    engine.state(found, found.known).map(({ members }) => members.map((each) => Array.from(each)))];
});
"""
PATHS = """
const [model, item, uniform, ending] = arguments;
const engine = new Engine(model);
const found = engine.paths(engine.forecast(item), uniform[0].length,
  (position, path) => uniform[position][path], (position, path) => ending[position][path]);
return found.map((paths) => paths.map((each) => Array.from(each)));
"""

Run = Callable[..., Any]


@pytest.fixture(scope="session")
def run(chromium: Chrome, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A function: runs a script where the engine is, and returns what the script returns."""
    page = tmp_path_factory.mktemp("engine") / "engine.html"
    page.write_text(f"<!doctype html><script>{ENGINE.read_text()}</script>")

    def in_page(script: str, *arguments: Any) -> Any:
        chromium.get(page.as_uri())
        return chromium.execute_script(script, *arguments)

    return in_page


def items_of(data: Data, until: int) -> list[dict[str, Any]]:
    """The items of tables, as the engine takes them."""
    y = data.y.astype(object)
    y[np.isnan(data.y)] = None
    return [
        {
            "static": data.static[row],
            "y": y[row, :k].tolist(),
            "until": until,
            "future": data.future[row] if data.future else [],
            "past": data.past[row][:k] if data.past else [],
        }
        for row, k in enumerate(data.known.tolist())
    ]


def off(f: Forecaster, case: Case, run: Run, model: dict[str, Any]) -> float:
    """The largest difference between the engine and ``predict``, in multiples of the scale of y."""
    until, data = STEPS + 2, prefixes(case)
    expected = predicted(f, case, data, until)
    levels = list(LEVELS.values())
    found = run(FORECAST, model, items_of(data, until), levels)
    quantiles = np.array([each[0] for each in found], float)
    quantiles = quantiles.reshape(len(found), case.targets, until, len(levels))
    assert [each[1] for each in found] == data.known.tolist()
    scale, worst, seen = max(float(np.nanmax(np.abs(data.y))), 1.0), 0.0, 0
    for index, column in enumerate(case.names):
        title = "statecast" if case.targets == 1 else f"statecast-{column}"
        for place, suffix in enumerate(LEVELS):
            columns = ("unique_id", "step" if case.dated else "ds", title + suffix)
            for row, step, value in expected.select(columns).iter_rows():
                one = quantiles[row, index, step - 1, place]
                difference = abs(one - value) / max(scale, abs(value))
                target = f.schema.targets[index]
                if target.transform.name == "counts" and abs(one - value) == 1:
                    z = found[row][3][(step - 1) * len(levels) + place]
                    count = np.expm1(z * target.scaling[0] + target.location[0])
                    count = float(count * target.transform.centre)
                    if abs(count % 1 - 0.5) < 1e-4 * max(1.0, count):
                        difference = 0.0  # rounding may fall on either side
                worst, seen = max(worst, difference), seen + 1
    assert seen >= 6 * case.targets * 30
    return worst


def fitted(case: Case) -> Forecaster:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return case.fit()


@pytest.fixture(scope="module")
def forecasters() -> Callable[[str], Forecaster]:
    """A function: the forecaster of a case."""
    made: dict[str, Forecaster] = {}

    def of(name: str) -> Forecaster:
        if name not in made:
            made[name] = fitted(CASES[name])
        return made[name]

    return of


# The others are slow together. Some of them are drawn by the test of all settings too.
FAST = ("plain", "normal-gru-two-layers-state", "targets-covariates", "negative-binomial", "ends")


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=[] if each in FAST else pytest.mark.slow) for each in CASES]
)
def test_forecasts_equal_predict(name: str, forecasters: Any, run: Run) -> None:
    f = forecasters(name)
    assert off(f, CASES[name], run, described(f)) <= CLOSE


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Settings and data of every kind."""
    heads = {
        "quantiles": "plain", "normal": "plain", "student_t": "plain", "poisson": "counts",
        "negative_binomial": "counts", "lognormal": "positive", "logitnormal": "shares",
    }  # fmt: skip
    head = draw(st.sampled_from(sorted(heads)))
    chosen: dict[str, Any] = {"head": head, "cell": draw(st.sampled_from(get_args(CellName)))}
    chosen["layers"] = draw(st.integers(1, 3))
    chosen["analogues"] = draw(st.booleans())
    if head == "logitnormal":
        chosen["bounds"] = (0, 10)
    statics = draw(st.booleans())
    if statics:
        chosen["conditioning"] = draw(st.sampled_from(get_args(ConditioningName)))
        if chosen["conditioning"] != "inputs":
            chosen["depth"] = draw(st.integers(1, 3))
        if draw(st.booleans()):
            chosen |= {"encoding_hidden": 5, "encoding_intervals": 4}
    targets = 1 if heads[head] in ("counts", "positive") else draw(st.integers(1, 3))
    rows = draw(st.sampled_from([6, 24, 40]))
    if targets == 1 and rows == 40 and draw(st.booleans()):  # 8 items or more must end
        chosen["ends"] = True
    return Case(
        chosen,
        heads[head],
        statics,
        draw(st.booleans()),
        draw(st.booleans()),
        targets,
        rows,
        draw(st.sampled_from([0.0, 0.15, 0.4])),
        draw(st.sampled_from([None, 4])),
    )


@settings(max_examples=examples(30), suppress_health_check=[HealthCheck.too_slow])
@given(case=cases())
def test_forecasts_equal_predict_for_all_settings(case: Case, run: Run) -> None:
    try:
        f = fitted(case)
    except DataError as error:
        assume("at least 8 items that end" not in str(error))  # too few by chance
        raise
    assert off(f, case, run, described(f)) <= CLOSE


@pytest.mark.parametrize("part", ["network/decoder/head/bias", "stacking/offset", "analogues/x"])
def test_a_planted_fault_is_found(part: str, forecasters: Any, run: Run) -> None:
    f = forecasters("plain")
    model = described(f)
    # The part begins one number later.
    model["arrays"][part]["offset"] += 8
    assert off(f, CASES["plain"], run, model) > 10 * CLOSE


def test_long_prefixes_and_wide_features(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    """The Gaussian is conditioned on the last observations only, and X is compressed."""
    for module in ("forecast.analogues", "playground.description"):
        monkeypatch.setattr(f"statecast.{module}.WINDOW", 3)
    monkeypatch.setattr("statecast.forecast.analogues._MOST_FEATURES", 2)
    f = fitted(CASES["plain"])
    assert off(f, CASES["plain"], run, described(f)) <= CLOSE


@pytest.mark.parametrize("name", ["plain", "normal-gru-two-layers-state", "targets-covariates"])
def test_states_are_those_of_the_forecaster(name: str, forecasters: Any, run: Run) -> None:
    f, case = forecasters(name), CASES[name]
    data = prefixes(case)
    series, static, future = case.tables(data)
    with pytest.warns(DataWarning):
        state = f.state(series, static, future=future)
    found = run(FORECAST, described(f), items_of(data, STEPS), [0.5])
    leaves = [each for each in state.names if each.startswith("cell/")]
    for row, (*_, own) in enumerate(found):
        assert len(own) == len(leaves)
        for name, leaf in zip(leaves, own, strict=True):
            np.testing.assert_allclose(leaf, state[name][row], rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("name", ["plain", "many", "targets-covariates", "few"])
def test_the_items_that_began_alike_are_those_of_the_forecaster(
    name: str, forecasters: Any, run: Run
) -> None:
    f, case = forecasters(name), CASES[name]
    data = prefixes(case)
    series, static, future = case.tables(data)
    with pytest.warns(DataWarning):
        panel = f.schema.panel(series, static, future=future)
    model = described(f)
    ids, weights = f._companions.nearest(f.schema.inputs(panel), f.schema, 100)
    for row, (_, known, near, *_) in enumerate(run(FORECAST, model, items_of(data, STEPS), [0.5])):
        own = weights[row] > 0
        if known >= STEPS:  # the analogues have no part in the forecast
            own[:] = False
        assert [model["items"][item] for item in near["items"]] == list(map(str, ids[row][own]))
        np.testing.assert_allclose(near["weights"], weights[row][own], atol=CLOSE)


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "both-future-past",
        "poisson-analogues",
        "student-rnn-inputs-alone",
        "ends",
        "targets",
    ],
)
def test_paths_are_those_of_simulate(name: str, forecasters: Any, run: Run) -> None:
    f, case = forecasters(name), CASES[name]
    data = prefixes(case)
    some = np.array([0, 3, 4])
    data = data.take(some.tolist())
    series, static, future = case.tables(data)
    static = None if static is None else static.head(len(some))
    number, until = 12, STEPS
    with pytest.warns(DataWarning):
        expected = f.simulate(series, static, until=until, future=future, paths=number)
    ids = expected.ids
    values = expected.values.reshape(len(some), number, until, case.targets)
    model, different = described(f), 0
    for row, item in enumerate(items_of(data, until)):
        own = [
            f._uniform(ids[row : row + 1], until * case.targets, number, use)[0].tolist()
            for use in ("", "/ends")
        ]
        found = np.array(run(PATHS, model, item, *own), float).transpose(1, 2, 0)
        atol = CLOSE * max(1.0, float(np.nanmax(np.abs(values[row]))))
        # Of several targets the paths have the same values, in an order of their own.
        ours, theirs = (np.sort(each, axis=0) for each in (found, values[row]))
        np.testing.assert_allclose(ours, theirs, rtol=CLOSE, atol=atol)
        different += (~np.isclose(found, values[row], CLOSE, atol, equal_nan=True)).sum()
    if case.targets == 1:  # two draws that are nearly equal may change places
        assert different <= 0.01 * values.size


def test_the_description_is_strict_json(forecasters: Any) -> None:
    model = described(forecasters("targets-covariates"))
    text = json.dumps(model, allow_nan=False)
    assert json.loads(text) == model


def test_the_ranges_are_those_of_training(forecasters: Any) -> None:
    f, case = forecasters("plain"), CASES["plain"]
    level = np.array([each["level"] for each in case.data(case.rows, 0).static])
    (about,) = described(f)["static"]["numeric"]
    assert about["least"] == pytest.approx(level.min(), abs=1e-5)
    assert about["most"] == pytest.approx(level.max(), abs=1e-5)
    assert about["start"] == pytest.approx(np.median(level), abs=0.01 * np.ptp(level))
    assert about["whole"] is False
    # Without analogues the values of training are not known.
    alone = fitted(replace(case, settings={"analogues": False}))
    (about,) = described(alone)["static"]["numeric"]
    assert about["least"] == pytest.approx(level.mean() - 3 * level.std(), abs=1e-5)
    assert about["most"] == pytest.approx(level.mean() + 3 * level.std(), abs=1e-5)
