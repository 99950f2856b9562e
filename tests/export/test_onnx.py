"""The exported graphs in ONNX Runtime: whole forecasts equal ``predict``.

``Consumer`` is a program that has the folder only: everything it does follows from model.json.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
import polars as pl
import pytest
from onnx.reference import ReferenceEvaluator
from typer.testing import CliRunner

from forecast_cases import (
    CASES,
    LEVELS,
    STEPS,
    Case,
    Data,
    predicted,
    prefixes,
    with_random_weights,
)
from statecast.cli.commands import app
from statecast.errors import ArgumentError, DataWarning, MissingExtraError, NotFittedError
from statecast.export import numbers
from statecast.export.graph import Graph, Recorded, Tensor
from statecast.export.onnx import FORMULAS
from statecast.forecast.forecaster import Forecaster
from statecast.forecast.settings import ConditioningName, ForecasterSettings
from statecast.heads.by_name import HEADS
from statecast.recurrence.cells import CELLS
from statecast.state import State
from statecast.tables.scaling import TRANSFORMS
from statecast.tokens.decoding import Beam
from statecast.tokens.forecaster import TokenForecaster

CLOSE = 1e-5  # of the scale of y
FORMULA_NAMES = {name: getattr(np, name) for name in ("log", "log1p", "exp", "expm1", "tanh")}
FORMULA_NAMES |= {"min": np.minimum, "max": np.maximum}
FORMULA_NAMES["round"] = np.rint


def fast(path: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options)


class Consumer:
    """The graphs of a folder, run by a runtime and used as model.json says."""

    def __init__(self, folder: Path, runtime: Callable[[str], Any] = fast) -> None:
        self.folder = folder
        self.about = json.loads((folder / "model.json").read_text())
        self.sessions = {
            name: runtime(str(folder / graph["file"]))
            for name, graph in self.about["graphs"].items()
        }

    def run(self, name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        graph = self.about["graphs"][name]
        given = {
            each["name"]: inputs[each["name"]].astype(each["dtype"]) for each in graph["inputs"]
        }
        outputs = [each["name"] for each in graph["outputs"]]
        found = dict(zip(outputs, self.sessions[name].run(outputs, given), strict=True))
        for each in graph["outputs"]:
            assert found[each["name"]].dtype.name == each["dtype"]
            assert [*found[each["name"]].shape[1:]] == each["shape"][1:]
        return found

    def features(self, table: str, rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
        """The inputs of feature columns, from a dict of cells for each row; None is missing."""
        columns, start = self.about[table], "" if table == "static" else f"{table}_"
        values, flags = [], []
        for each in columns["numeric"]:
            v = np.array([row[each["name"]] for row in rows], float)
            z = np.log1p(np.maximum(v, 0) / each["centre"]) if each["centre"] > 0 else v
            z = np.clip((z - each["mean"]) * each["gain"], -each["limit"], each["limit"])
            values.append(np.where(np.isnan(v), 0, z))
            flags.append(np.isnan(v))
        codes = [
            [
                each["missing"] if row[each["name"]] is None
                else each["codes"].get(row[each["name"]], each["never_seen"])
                for row in rows
            ]
            for each in columns["categorical"]
        ]  # fmt: skip
        return {
            f"{start}numeric": np.array(values + flags, float).T,
            f"{start}codes": np.array(codes).T,
        }

    def start(self, statics: list[dict[str, Any]]) -> dict[str, np.ndarray]:
        inputs = self.features("static", statics) | {"rows": np.array(len(statics))}
        return self.run("encode", inputs)

    def step(
        self, state: dict[str, np.ndarray], inputs: dict[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        found = self.run("step", state | inputs)
        spec = self.about["state"]
        return {name: found[spec["after"] + name] for name in spec["leaves"]}, found

    # -- numbers -----------------------------------------------------------------------

    def scale(self, target: dict[str, Any], y: np.ndarray, step: int) -> np.ndarray:
        """Values of one target at a step, counted from 1, as inputs."""
        at = min(step, self.about["steps"]["longest"]) - 1
        names = FORMULA_NAMES | {**target, "y": y}
        line = eval(target["to_line"], names)
        z = (line - target["location"][at]) / target["scaling"][at]
        return np.clip(z, -target["limit"], target["limit"])

    def line(self, target: dict[str, Any], z: np.ndarray, step: int) -> np.ndarray:
        at = min(step, self.about["steps"]["longest"]) - 1
        return z * target["scaling"][at] + target["location"][at]

    def unline(self, target: dict[str, Any], line: np.ndarray) -> np.ndarray:
        y = eval(target["from_line"], FORMULA_NAMES | {**target, "u": line})
        low, high = (target[name] for name in ("low", "high"))
        return np.clip(y, -np.inf if low is None else low, np.inf if high is None else high)

    def at_level(self, q: np.ndarray, p: float) -> np.ndarray:
        """The quantile at a level, from those of the graph ``(rows, levels)``."""
        rule = self.about["quantiles"]
        levels = rule["levels"]
        names = FORMULA_NAMES | {"levels": levels, "q": q.T.astype(float), "p": p}
        if p < levels[0]:
            return eval(rule["below"], names)
        if p > levels[-1]:
            return eval(rule["above"], names)
        return np.array([np.interp(p, levels, row) for row in q])

    def forecast(
        self, case: Data, until: int, state: dict[str, np.ndarray] | None = None, taken: int = 0
    ) -> np.ndarray:
        """Quantiles on the real line, ``(rows, until, targets, levels)``, and the chance of ending
        ``(rows, until)``; from a state after ``taken`` steps, or from the static features."""
        about, rows = self.about, len(case.known)
        self.state, targets = self.start(case.static) if state is None else state, about["targets"]
        line = np.zeros((rows, until, len(targets), len(LEVELS)))
        self.ends = np.zeros((rows, until))
        for step in range(taken + 1, until + 1):
            beside = {}
            for name in ("future", "past"):
                cells = (
                    [each[step - 1] for each in getattr(case, name)] if getattr(case, name) else []
                )
                if cells:
                    beside |= self.features(name, cells)
                    beside[f"{name}_there"] = np.full(rows, True)
            if "past_there" in beside:  # in the prefix, and any past covariate has a value
                given = [any(v is not None for v in each[step - 1].values()) for each in case.past]
                beside["past_there"] = np.array(given) & (step <= case.known)
            for index, target in enumerate(targets):
                y = case.y[:, step - 1, index]
                observed = ~np.isnan(y) & (step <= case.known)
                value = self.scale(target, np.where(observed, y, 1.0), step)
                value = np.where(observed, value, 7.0)
                inputs = beside | {"value": value, "observed": observed}
                if "past_there" in beside:  # observed with the last target of the step
                    inputs["past_there"] = beside["past_there"] & (index == len(targets) - 1)
                self.state, found = self.step(self.state, inputs)
                for place, level in enumerate(LEVELS.values()):
                    z = self.at_level(found["quantiles"], level)
                    line[:, step - 1, index, place] = self.line(target, z, step)
                if "ends" in found:
                    self.ends[:, step - 1] = found["ends"]
        return self.bridged(case, line)

    def bridged(self, case: Data, line: np.ndarray) -> np.ndarray:
        """The forecast with the steps that training never observed interpolated."""
        line = line.copy()
        for index, target in enumerate(self.about["targets"]):
            flags = np.array(target["observed"] + [target["observed"][-1]] * line.shape[1])
            for row, known in enumerate(case.known):
                own = line[row, :, index]
                there = {t: own[t] for t in range(known, len(own)) if flags[t]}
                y = case.y[row, :known, index]
                seen = np.flatnonzero(~np.isnan(y))
                if len(seen) and there:
                    last = int(seen[-1])
                    at = self.scale(target, y[last : last + 1], last + 1)
                    there[last] = np.full(len(LEVELS), self.line(target, at, last + 1)[0])
                for t in range(known, len(own)):
                    if not flags[t] and there:
                        before, after = (
                            [u for u in there if u < t], [u for u in there if u > t]
                        )  # fmt: skip
                        low = max(before) if before else min(after)
                        high = min(after) if after else low
                        part = (t - low) / max(high - low, 1)
                        own[t] = (1 - part) * there[low] + part * there[high]
        return line


def test_every_head_and_cell_has_a_case() -> None:
    settings = [ForecasterSettings.of(case.settings) for case in CASES.values()]
    assert {each.head for each in settings} == set(HEADS)
    assert {each.cell for each in settings} == set(CELLS)
    assert {each.conditioning for each in settings} == {*get_args(ConditioningName)}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function: the forecaster of a case, and its consumer."""
    made: dict[str, tuple[Forecaster, Consumer]] = {}

    def of(name: str) -> tuple[Forecaster, Consumer]:
        if name not in made:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DataWarning)
                f = CASES[name].fit()
            folder = tmp_path_factory.mktemp(name) / "model"
            f.export(folder)
            made[name] = f, Consumer(folder)
        return made[name]

    return of


def test_the_case_of_closed_days_has_them(exported: Any) -> None:
    f, consumer = exported("past-closed-days")
    assert f.schema.calendar.weekdays == (5, 6)
    assert consumer.about["steps"]["closed"]["weekdays"] == [5, 6]


@pytest.mark.parametrize("name", CASES)
def test_whole_forecasts_equal_predict(name: str, exported: Any) -> None:
    f, consumer = exported(name)
    check_forecasts(f, consumer, CASES[name])


def check_forecasts(f: Forecaster, consumer: Consumer, case: Case) -> None:
    until, data = STEPS + 2, prefixes(case)
    expected = predicted(f, case, data, until)
    line = consumer.forecast(data, until)
    scale = max(float(np.nanmax(np.abs(data.y))), 1.0)
    seen, steps = 0, "step" if case.dated else "ds"
    for index, (target, column) in enumerate(
        zip(consumer.about["targets"], case.names, strict=True)
    ):
        title = "statecast" if case.targets == 1 else f"statecast-{column}"
        y = consumer.unline(target, line[:, :, index])
        for place, suffix in enumerate(LEVELS):
            for row, step, value in expected.select("unique_id", steps, title + suffix).iter_rows():
                off = abs(y[row, step - 1, place] - value)
                if target["transform"] == "counts":  # rounding may fall on either side
                    off = (
                        0.0
                        if off == 1
                        and near_half(consumer, target, line[row, step - 1, index, place])
                        else off
                    )
                assert off <= CLOSE * max(scale, abs(value)), (row, step, suffix, value)
                seen += 1
    assert seen >= 6 * case.targets * 30


@pytest.mark.parametrize("name", ["plain", "targets-covariates", "lognormal"])
def test_another_runtime_computes_the_same(name: str, exported: Any) -> None:
    """The reference implementation of the operators, in NumPy."""
    f, consumer = exported(name)
    check_forecasts(f, Consumer(consumer.folder, ReferenceEvaluator), CASES[name])


def near_half(consumer: Consumer, target: dict[str, Any], line: float) -> bool:
    count = float(np.expm1(line) * target["centre"])
    return abs(count % 1 - 0.5) < 1e-4 * max(1.0, count)


@pytest.mark.parametrize("name", ["plain", "targets-covariates", "no-statics"])
def test_rows_do_not_depend_on_each_other(name: str, exported: Any) -> None:
    (_, consumer), case = exported(name), CASES[name]
    data = prefixes(case)
    together = consumer.forecast(data, STEPS + 1)
    for row in (0, 2, 5):
        alone = consumer.forecast(data.take([row]), STEPS + 1)
        np.testing.assert_allclose(alone[0], together[row], rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("name", ["plain", "targets-covariates", "a-step-never-observed"])
def test_a_state_is_that_of_the_forecaster(name: str, exported: Any) -> None:
    """The leaves have the same names and values. So a state of Python continues in the graph."""
    (f, consumer), case = exported(name), CASES[name]
    data = prefixes(case)
    series, static, future = case.tables(data)
    with pytest.warns(DataWarning):
        state = f.state(series, static, future=future)
    leaves = set(consumer.about["state"]["leaves"])
    own = {f"analogues/{name}" for name in ("held", "mean", "near", "weight", "moved")}
    assert leaves - set(state.names) == own | {"known"}
    assert set(state.names) <= leaves
    usable = state["analogues/usable"]
    assert set(usable[:4]) == {0.0, 1.0}
    for row, k in enumerate(data.known.tolist()):
        consumer.forecast(data.take([row]), k)
        for leaf in state.names:
            found = consumer.state[leaf][0]
            np.testing.assert_allclose(found, state[leaf][row], rtol=CLOSE, atol=CLOSE)
        assert consumer.state["known"][0] == k * case.targets


@pytest.mark.parametrize("name", ["plain", "targets-covariates", "a-step-never-observed"])
def test_a_saved_state_continues_in_the_graph(name: str, exported: Any, tmp_path: Path) -> None:
    """``known`` is the number of steps taken; the other leaves that a file lacks are zeros."""
    (f, consumer), case = exported(name), CASES[name]
    data = prefixes(case)
    series, static, future = case.tables(data)
    with pytest.warns(DataWarning):
        f.state(series, static, future=future).save(tmp_path / "state.safetensors")
    state = State.load(tmp_path / "state.safetensors")
    shapes = {
        each["name"]: each["shape"][1:] for each in consumer.about["graphs"]["step"]["inputs"]
    }
    own = {
        name: np.zeros((state.rows, *shapes[name])) for name in consumer.about["state"]["leaves"]
    }
    own |= {name: state[name] for name in state.names} | {"known": state["step"][:, 0, 0]}
    until = STEPS + 1
    whole = consumer.forecast(data, until)
    for row, k in enumerate(data.known.tolist()):
        start = {name: leaf[row : row + 1] for name, leaf in own.items()}
        rest = consumer.forecast(data.take([row]), until, start, k)
        np.testing.assert_allclose(rest[0, k:], whole[row, k:until], rtol=CLOSE, atol=CLOSE)


def test_within_a_step_the_quantiles_are_those_of_the_network(exported: Any) -> None:
    """Of the second target, once the first one is observed: as in ``Forecaster.quantiles``."""
    (f, consumer), case = exported("targets"), CASES["targets"]
    data = case.data(6, 2)
    series, static, _ = case.tables(data)
    expected = f.quantiles(f.schema.panel(series, static), 2 * STEPS, [0.5])[:, 1::2, 0]
    found = consumer.forecast(data, STEPS)[:, :, 1, 0]
    first = ~np.isnan(data.y[..., 0])
    assert first.sum() > 20
    np.testing.assert_allclose(found[first], expected[first], rtol=CLOSE, atol=CLOSE)
    assert np.abs(found - expected)[~first].max() > 100 * CLOSE


def test_long_prefixes_and_wide_features(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The Gaussian is conditioned on the last observations only, and X is compressed."""
    for module in ("statecast.forecast.analogues", "statecast.export.numbers"):
        monkeypatch.setattr(f"{module}.WINDOW", 3)
    monkeypatch.setattr("statecast.forecast.analogues._MOST_FEATURES", 2)
    case = CASES["plain"]
    f = case.fit()
    f.export(tmp_path)
    check_forecasts(f, Consumer(tmp_path), case)


def test_endings_are_those_of_the_median(exported: Any) -> None:
    (f, consumer), case = exported("ends"), CASES["ends"]
    data = prefixes(case)
    line = consumer.forecast(data, STEPS)
    endings, (target,) = f._companions.endings, f.schema.targets
    assert endings is not None
    _, static, _ = case.tables(data)
    with pytest.warns(DataWarning):
        x = f.state(None, static)["endings/x"]
    for step in range(1, STEPS + 1):
        observed = (step <= data.known) & ~np.isnan(data.y[:, step - 1, 0])
        value = np.where(
            observed, target.transform.to_line(data.y[:, step - 1, 0]), line[:, step - 1, 0, 0]
        )
        expected = endings.chance(x, np.full(len(x), step), value)
        np.testing.assert_allclose(consumer.ends[:, step - 1], expected, atol=CLOSE)
        assert 0 < expected.min() < expected.max() < 1


def test_the_formulas_are_those_of_the_transforms() -> None:
    assert set(FORMULAS) == set(TRANSFORMS)
    for name, kind in TRANSFORMS.items():
        low, high = kind.natural
        transform = kind(0.7, (low, high))
        y = np.array([0.2, 0.5, 0.9]) if name != "counts" else np.array([0.0, 3.0, 40.0])
        names = FORMULA_NAMES | {"centre": 0.7, "low": low, "high": high}
        to_line, from_line = FORMULAS[name]
        u = eval(to_line, names | {"y": y})
        np.testing.assert_allclose(u, transform.to_line(y))
        for line in (u, np.array([-1e4, -500.0, 500.0, 1e4])):  # exponents have a limit
            y = np.clip(eval(from_line, names | {"u": line}), low, high)
            np.testing.assert_allclose(y, transform.from_line(line), rtol=1e-12)


def test_the_graphs_are_valid_and_described(exported: Any, tmp_path: Path) -> None:
    f, consumer = exported("targets-covariates")
    f.export(tmp_path / "again")
    assert sorted(each.name for each in (tmp_path / "again").iterdir()) == [
        "encode.onnx", "model.json", "step.onnx",
    ]  # fmt: skip
    for name, graph in consumer.about["graphs"].items():
        model = onnx.load(tmp_path / "again" / graph["file"])
        onnx.checker.check_model(model, full_check=True)
        assert [each.version for each in model.opset_import] == [consumer.about["opset"]]
        for side in ("input", "output"):
            listed = [each["name"] for each in graph[f"{side}s"]]
            assert [each.name for each in getattr(model.graph, side)] == listed
            assert all(each["meaning"] for each in graph[f"{side}s"])
        assert name in ("encode", "step")
    assert json.loads((tmp_path / "again" / "model.json").read_text()) == consumer.about


# -- refusals ---------------------------------------------------------------------------


def test_what_is_refused(exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    f, _ = exported("plain")
    with pytest.raises(NotFittedError):
        Forecaster().export(tmp_path / "m")
    with pytest.raises(ArgumentError, match=r"format: expected one of \['onnx'\]; received 'pmml'"):
        f.export(tmp_path / "m", format="pmml")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="there is no folder"):
        f.export(tmp_path / "a" / "b")
    with pytest.raises(ArgumentError, match="expected text or a path; received int"):
        f.export(3)  # type: ignore[arg-type]
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match="expected a folder, received a file"):
        f.export(tmp_path / "file")
    for name in ("", "a\0b"):
        with pytest.raises(ArgumentError, match="folder: expected the name of a folder"):
            f.export(name)
    with pytest.raises(ArgumentError, match="folder: cannot be used"):
        f.export(str(tmp_path / ("x" * 300)))
    (tmp_path / "taken" / "encode.onnx").mkdir(parents=True)
    with pytest.raises(ArgumentError, match="there is a folder where export writes a file"):
        f.export(tmp_path / "taken")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ArgumentError, match=r"cannot be made.*Choose another name"):
        f.export(tmp_path / "link")
    monkeypatch.setattr(numbers, "MOST_BYTES", 1000)
    with pytest.raises(ArgumentError, match=r"residuals of 40 training items.*analogues=False"):
        f.export(tmp_path / "m")
    monkeypatch.undo()
    monkeypatch.setattr("statecast.process.find_spec", lambda _: None)
    with pytest.raises(
        MissingExtraError, match=r"export needs onnx.*pip install 'statecast\[onnx\]'"
    ):
        f.export(tmp_path / "m")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("use", "what"),
    [
        (np.sinh, "numpy.sinh"),
        (np.median, "numpy.median"),
        (lambda x: x[::2], "slices with a step"),
        (lambda x: x[np.array([0, 1])], "indexing by arrays"),
        (np.add.reduce, "numpy.add.reduce"),
        (bool, "a condition that depends on values"),
        (np.asarray, "a conversion to a NumPy array"),
    ],
)
def test_what_no_node_computes_is_an_error(use: Any, what: str) -> None:
    x = Graph("g").input("x", np.float32, ("rows", 3), "")
    with pytest.raises(ArgumentError, match=what):
        use(x)


# -- the recorder -----------------------------------------------------------------------


def ran(record: Any, *arrays: np.ndarray) -> list[np.ndarray]:
    """The outputs of a graph in ONNX Runtime, and of NumPy on the arrays themselves."""
    graph = Graph("g")
    inputs = [
        graph.input(f"x{i}", each.dtype, ("rows", *each.shape[1:]), "")
        for i, each in enumerate(arrays)
    ]
    found: Tensor = record(*inputs)
    graph.output("y", found, ("rows", *found.example.shape[1:]), "")
    session = onnxruntime.InferenceSession(graph.model().SerializeToString())
    (result,) = session.run(None, {f"x{i}": each for i, each in enumerate(arrays)})
    return [np.asarray(result), record(*arrays)]


@pytest.mark.parametrize(
    "record",
    [
        lambda x: np.log1p(x * 1e-6) * 1e6,
        lambda x: np.expm1(x * 1e-6) * 1e6,
        lambda x: np.expm1(x * 20.0 - 30.0),
        lambda x: np.sort(x, axis=-1)[..., 1:-1],
        lambda x: np.flip(np.cumsum(x, axis=1), axis=1),
        lambda x: x[:, None, -1] + x[..., :2],
        lambda x: x[..., None, 1:, None][:, 0, :, 0],
        lambda x: np.clip(x, -0.5, np.linspace(0, 1, 4, dtype="float32")),
        lambda x: np.where((x > 0) | ~(x < -0.5), x, np.zeros_like(x)) / np.ones_like(x),
        lambda x: np.concatenate([*np.split(x, 2, axis=1), x], axis=1),
        lambda x: (x.astype(np.int64) // 2 + 7 % (np.rint(x).astype(np.int64) ** 2 + 1)).astype(
            "f4"
        ),
        lambda x: np.sum(x * np.array(2.0), axis=1, keepdims=True) ** 2.0,
        lambda x: np.matmul(np.swapaxes(x[:, None], 1, 2), x[:, None]),
    ],
)
def test_recorded_functions_are_numpys(record: Any) -> None:
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    found, expected = ran(record, np.abs(x) if record(np.abs(x)).min() >= 0 else x)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-7)


def test_a_loop_is_recorded_once() -> None:
    def record(x: Any) -> Any:
        if isinstance(x, np.ndarray):
            return x * 2.0**5 + sum(i * 2.0 ** (4 - i) for i in range(5))
        (found,) = Recorded.fori_loop(0, 5, lambda i, c: (c[0] * 2.0 + i.astype("f4"),), (x,))
        return found

    found, expected = ran(record, np.ones((3, 2), np.float32))
    np.testing.assert_allclose(found, expected)


# -- tokens -----------------------------------------------------------------------------

TOKENS: dict[str, dict[str, Any]] = {
    "both-ends": {},
    "first-gru-tied-two-layers": {
        "conditioning": "first",
        "cell": "gru",
        "tied": True,
        "layers": 2,
    },
    "state-never-ends": {"conditioning": "state", "ends": False, "cell": "simple_rnn"},
    "no-statics": {},
}


@pytest.fixture(scope="module", params=TOKENS)
def spoken(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A forecaster of tokens, its consumer, its tables and static features."""
    rng, rows = np.random.default_rng(2), 24
    static = [
        {"x": float(v), "kind": str(k)}
        for v, k in zip(rng.normal(size=rows), rng.choice(list("pq"), rows), strict=True)
    ]
    words = [list(rng.choice(["a", "b", "c"], int(rng.integers(1, 6)))) for _ in range(rows)]
    series = pl.DataFrame(
        [
            {"unique_id": i, "ds": t + 1, "y": c}
            for i, word in enumerate(words)
            for t, c in enumerate(word)
        ]
    )
    table = pl.DataFrame([{"unique_id": i, **each} for i, each in enumerate(static)])
    settings: dict[str, Any] = {"units": 6, "embedding": 3, "ensemble": 2}
    settings |= TOKENS[request.param]
    if request.param == "no-statics":
        table, static = None, [{} for _ in range(rows)]
    else:
        settings["encoding"] = 3
    f = with_random_weights(TokenForecaster(**settings), series, table)
    folder = tmp_path_factory.mktemp("tokens")
    f.export(folder)
    return f, Consumer(folder), series, table, static, words


def test_log_probabilities_are_those_of_the_forecaster(spoken: Any) -> None:
    f, consumer, series, table, static, words = spoken
    about = consumer.about["tokens"]
    code = {token: about["first"] + i for i, token in enumerate(about["vocabulary"])}
    expected = f.log_likelihood(series, table, by_step=True)
    state = consumer.start(static)
    found = consumer.run(
        "encode", consumer.features("static", static) | {"rows": np.array(len(static))}
    )
    nats = found["log_probabilities"]
    np.testing.assert_allclose(np.exp(nats.astype(float)).sum(axis=1), 1, atol=1e-5)
    state = {name: found[name] for name in consumer.about["state"]["leaves"]}
    checked = 0
    for step in range(1, 7):
        for row, word in enumerate(words):
            own = expected.filter((pl.col("unique_id") == row) & (pl.col("ds") == step))
            next_code = code[word[step - 1]] if step <= len(word) else about["special"]["end"]
            if own.height:
                checked += 1
                assert abs(own["log_likelihood"][0] - nats[row, next_code]) < CLOSE * 10
        given = [
            code[word[step - 1]] if step <= len(word) else about["special"]["gap"] for word in words
        ]
        state, found = consumer.step(state, {"code": np.array(given)})
        nats = found["log_probabilities"]
    assert checked >= sum(map(len, words))


def test_greedy_decoding_and_gaps_are_those_of_the_forecaster(spoken: Any) -> None:
    f, consumer, _, table, static, _ = spoken
    about, special = consumer.about["tokens"], consumer.about["tokens"]["special"]
    series = pl.DataFrame({"unique_id": [0, 0, 1], "ds": [1, 3, 1], "y": ["a", "b", "c"]})
    some = None if table is None else table.filter(pl.col("unique_id") < 2)
    expected = f.generate(series, some, until=6, beam=Beam(forbidden=None))
    state = consumer.start(static[:2])
    given = np.array([[2, special["gap"], 3], [4, 0, 0]])
    for row, known in ((0, 3), (1, 1)):
        found, own = {}, {name: leaf[row : row + 1] for name, leaf in state.items()}
        for step in range(known):
            own, found = consumer.step(own, {"code": given[row, step : step + 1]})
        said = []
        for _ in range(6 - known):
            nats = found["log_probabilities"][0].copy()
            nats[special["unknown"]] = -np.inf
            if not about["ends"]:
                nats[special["end"]] = -np.inf
            best = int(nats.argmax())
            if best == special["end"]:
                break
            said.append(about["vocabulary"][best - about["first"]])
            own, found = consumer.step(own, {"code": np.array([best])})
        wanted = expected.filter(pl.col("unique_id") == row).sort("ds")["statecast"].drop_nulls()
        assert said == wanted.to_list()


# -- the command line -------------------------------------------------------------------


def test_the_command(exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    f, consumer = exported("plain")
    f.save(tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["export", "model.safetensors", "graphs"])
    assert done.exit_code == 0, done.output
    assert json.loads(Path("graphs/model.json").read_text()) == consumer.about
    done = CliRunner().invoke(app, ["export", "model.safetensors", "model.safetensors"])
    assert done.exit_code == 2
    assert "expected a folder" in done.output
