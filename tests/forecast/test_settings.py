"""Settings: declared once, checked, and handled as scikit-learn's parameters."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st
from sklearn.base import clone

from effort import SLOW_TO_COMPILE
from statecast import errors
from statecast.errors import ArgumentError
from statecast.forecast import settings as settings_module
from statecast.forecast.forecaster import Forecaster
from statecast.heads.by_name import HEADS
from statecast.recurrence.cells import CELLS
from statecast.tables.scaling import TRANSFORMS
from statecast.tokens.forecaster import TokenForecaster

KINDS: list[Any] = [Forecaster, TokenForecaster]


@pytest.mark.parametrize("kind", KINDS)
def test_the_signature_and_the_docstring_have_every_setting(kind) -> None:
    names = list(kind.settings_class.declared())
    assert sorted(inspect.signature(kind).parameters) == sorted(names)
    for name, declared in kind.settings_class.declared().items():
        assert f"\n{name} : " in kind.__doc__
        assert declared.meaning.split()[0] in kind.__doc__


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_those_of_scikit_learn(kind) -> None:
    given = {"units": 3, "categorical": ["shop"]}
    model = kind(**given)
    params = model.get_params()
    assert set(params) == set(inspect.signature(kind).parameters)
    assert {name: params[name] for name in given} == given
    for again in (clone(model), model.clone(), kind(**params)):
        assert again.settings == model.settings
    assert model.set_params(seed=4) is model
    assert (model.settings.seed, model.settings.units) == (4, 3)
    with pytest.raises(ArgumentError, match="units"):
        model.set_params(units=0)
    assert (model.settings.seed, model.settings.units) == (4, 3)


_WAYS: dict[str, Any] = {
    "units": st.sampled_from([3, np.int64(3)]),
    "weight_decay": st.sampled_from([0, 0.01, np.float64(0.5)]),
    "batch_size": st.sampled_from([None, 8]),
    "categorical": st.sampled_from([None, (), [], ["shop"], ("shop", "make")]),
    "start_col": st.sampled_from([None, "launch"]),
    "id_col": st.just("item"),
    "seed": st.integers(0, 2**40),
}
_NUMBERS: dict[str, Any] = _WAYS | {
    "learning_rate": st.sampled_from([None, 4e-3, 0.01, 1]),
    "epochs": st.sampled_from([None, 1, 30, 60]),
    "target_col": st.sampled_from(["y", ["y"], ("y",), "z", ["a", "b"], ("a", "b")]),
    "past_cols": st.sampled_from([None, (), [], ["visits"], ("visits",)]),
    "bounds": st.sampled_from([None, (0, 1), [0, 5], (0.5, 2.5)]),
    "analogues": st.sampled_from([True, np.bool_(False)]),
    "group_col": st.sampled_from([None, "company"]),
}
_TOKENS: dict[str, Any] = _WAYS | {"target_col": st.sampled_from(["y", "words"])}


def _same_arguments(found: Any, expected: Any) -> None:
    """Equal, and a list or a tuple as before."""
    assert found == expected
    for name, value in expected.items():
        assert isinstance(found[name], list) == isinstance(value, list), name


@pytest.mark.parametrize(("kind", "ways"), [(Forecaster, _NUMBERS), (TokenForecaster, _TOKENS)])
@drawn(data=st.data())
def test_parameters_are_as_they_were_given_after_a_clone_and_a_file(kind, ways, data) -> None:
    given = data.draw(st.fixed_dictionaries({}, optional=ways))
    model = kind(**given)
    header = json.dumps([dict(vars(model.settings)), model.settings.forms(given)])
    settings, forms = json.loads(header)
    read = kind.settings_class.from_config(settings)
    loaded = kind(**read.as_given(forms))
    for again in (model.clone(), clone(model), loaded, loaded.clone(), copy.deepcopy(model)):
        assert again.settings == model.settings
        _same_arguments(again.get_params(), model.get_params())
        assert repr(again) == repr(model)
    # So the defaults of two targets still give way.
    if kind is Forecaster and "bounds" not in given:
        changed, expected = (each.set_params(target_col="c") for each in (loaded, model))
        assert changed.settings == expected.settings


def test_a_file_of_other_defaults_keeps_its_settings() -> None:
    file = Forecaster(units=5).settings
    given = file.as_given({"epochs": "none"})  # as if 5 units had been the default then
    assert given == {"units": 5, "epochs": None}


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_has_the_parameters_it_was_given(untrained, tmp_path, kind) -> None:
    given: dict[str, Any] = {"units": 2, "ensemble": 1, "epochs": 1, "categorical": ["x1"]}
    if kind is Forecaster:
        given |= {"learning_rate": None, "target_col": ("y",)}
    y = np.random.default_rng(0).integers(0, 5, (12, 4)).astype(float)
    f = kind(**given).fit(y, np.arange(12.0)[:, None] // 4, verbose=0)
    f.save(tmp_path / "m")
    for back in (kind.load(tmp_path / "m"), pickle.loads(pickle.dumps(f)), f.clone()):
        _same_arguments(back.get_params(), f.get_params())
        assert back.get_params()["categorical"] == ["x1"]


def test_defaults_for_several_targets_give_way_to_what_is_given() -> None:
    model = Forecaster()
    assert model.settings.epochs == 30
    assert model.set_params(target_col=["a", "b"]).settings.epochs == 60
    assert model.set_params(epochs=5).settings.epochs == 5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dropout": 0.5}, "Forecaster has no setting 'dropout'"),
        ({"tied": True, "ends": False}, "Forecaster has no setting 'tied'"),
        ({"embedding": 8}, "Forecaster has no setting 'embedding'"),
        ({"depth": 2, "conditioning": "inputs"}, "depth: expected no depth with"),
        ({"bounds": (0, 1), "transform": "log"}, "bounds: expected them with"),
        ({"head": "categorical"}, "TokenForecaster"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(given, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        Forecaster(**given)


_Y = np.random.default_rng(0).normal(size=(12, 4))
_X = np.arange(12.0)[:, None] % 3
_PLAN = np.random.default_rng(1).normal(size=(12, 4, 1))


@pytest.mark.parametrize(
    ("kind", "given", "static", "future", "refused"),
    [
        (Forecaster, {"encoding": 8}, None, None, "encoding: .* received 8"),
        (Forecaster, {"encoding": 8}, _X, None, ""),
        (Forecaster, {"encoding": 8}, None, _PLAN, ""),
        (Forecaster, {"encoding": 16}, None, None, ""),  # the default
        (Forecaster, {"depth": 2}, None, None, "depth: expected static features"),
        (Forecaster, {"depth": 2}, None, _PLAN, "depth: expected static features"),
        (Forecaster, {"depth": 2}, _X, None, ""),
        (Forecaster, {"encoding_hidden": 3}, None, _PLAN, "encoding_hidden: expected static f"),
        (Forecaster, {"encoding_intervals": 3}, None, None, "encoding_intervals: expected static"),
        (Forecaster, {"encoding_hidden": 3, "encoding_intervals": 3}, _X, None, ""),
        (Forecaster, {"conditioning": "both"}, None, None, "conditioning: .* received 'both'"),
        (Forecaster, {"conditioning": "inputs"}, _X, None, ""),
        (TokenForecaster, {"conditioning": "first"}, None, None, "conditioning: .* 'first'"),
        (TokenForecaster, {"encoding": 8}, None, None, "encoding: .* received 8"),
        (TokenForecaster, {"depth": 1}, None, None, "depth: .* received 1"),
        (TokenForecaster, {"depth": 1, "conditioning": "both"}, _X, None, ""),
    ],
)
def test_a_setting_that_does_nothing_on_these_tables_is_refused(
    untrained, kind, given, static, future, refused
) -> None:
    f = kind(units=2, ensemble=1, epochs=1, **given)
    y = np.rint(_Y) if kind is TokenForecaster else _Y
    if not refused:
        f.fit(y, static, future=future, verbose=0)
        return
    with pytest.raises(ArgumentError, match=refused):
        f.fit(y, static, future=future, verbose=0)
    with pytest.raises(errors.NotFittedError):
        f.schema  # noqa: B018


def test_a_fitted_model_keeps_its_settings(untrained) -> None:
    f = Forecaster(units=2, ensemble=1, epochs=1)
    f.fit(np.random.default_rng(0).normal(size=(70, 4)), verbose=0)
    with pytest.raises(ArgumentError, match=r"clone\(\)\.set_params"):
        f.set_params(units=3)
    assert f.settings.units == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"units": 0}, "units: expected a whole number from 1 to 4096; received 0"),
        ({"units": 10**9}, "units: expected a whole number from 1 to 4096"),
        ({"epochs": 2.5}, "epochs"),
        ({"cell": "rnn"}, "cell: expected one of"),
        ({"cell": np.array([1, 2])}, "cell: expected one of"),
        ({"head": np.array([1, 2])}, "head: expected one of"),
        ({"conditioning": np.array(["state", "both"])}, "conditioning: expected one of"),
        ({"transform": np.array([1, 2])}, "transform: expected one of"),
        ({"head": "gaussian"}, "head: expected one of"),
        ({"conditioning": "none"}, "conditioning: expected one of"),
        ({"transform": "sqrt"}, "transform: expected one of"),
        ({"head": "poisson", "transform": "log"}, "transform: expected 'counts' or 'auto'"),
        ({"bounds": (0, 1), "transform": "log"}, "bounds: expected them with"),
        ({"bounds": (0, 1), "head": "lognormal"}, "bounds: expected them with"),
        ({"bounds": (1, 0)}, "bounds: expected two numbers, the lower one first"),
        ({"bounds": (0, float("nan"))}, "bounds: expected two numbers"),
        ({"seed": -1}, "seed: expected a whole number from 0"),
        ({"learning_rate": 0}, "learning_rate: expected a number above 0"),
        ({"weight_decay": float("nan")}, "weight_decay: expected a number of 0 or above"),
        ({"id_col": 3}, "id_col: expected the name of a column"),
        ({"id_col": ""}, r"id_col: expected the name of a column \(text, not empty\); received ''"),
        ({"step_col": ""}, "step_col: expected the name of a column"),
        ({"start_col": ""}, "start_col: expected the name of a column"),
        ({"target_col": ""}, "target_col: expected the name of a column"),
        ({"target_col": ["a", ""]}, "target_col: expected the name of a column"),
        ({"categorical": ["b", "b"]}, "categorical: expected a list of distinct names"),
        ({"categorical": [""]}, "categorical: expected a list of distinct names"),
        ({"categorical": "b"}, "categorical: expected a list of distinct names"),
        ({"past_cols": ("b", "b")}, "past_cols: expected a list of distinct names"),
        ({"past_cols": [""]}, "past_cols: expected a list of distinct names"),
    ],
)
def test_settings_are_checked_at_once(settings, message):
    with pytest.raises(errors.ArgumentError, match=message):
        Forecaster(**settings)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (settings_module.CellName, CELLS),
        (settings_module.HeadName, HEADS),
        (settings_module.ConditioningName, ("state", "inputs", "both")),
        (settings_module.TransformName, ("auto", *TRANSFORMS)),
    ],
)
def test_the_literal_types_have_all_choices(kind, names):
    assert sorted(get_args(kind)) == sorted(names)


@pytest.mark.parametrize(
    ("settings", "value", "remedy"),
    [
        ({"transform": "log"}, -1.0, {"transform": "none"}),
        ({"head": "lognormal"}, 0.0, {"head": "quantiles", "transform": "log"}),
        ({"head": "negative_binomial"}, 1.5, {"head": "quantiles", "transform": "none"}),
        ({"bounds": (1.0, 4.0)}, 5.0, {"bounds": (1.0, 5.0)}),
        ({"head": "logitnormal"}, 5.0, {"bounds": (0.0, 5.0)}),
    ],
)
def test_the_remedy_in_a_message_works(untrained, settings, value, remedy):
    values = np.tile([1.0, 2.0, 3.0, value], (12, 1))
    small: dict[str, Any] = {"units": 2, "ensemble": 1, "epochs": 1}
    with pytest.raises(errors.DataError) as refused:
        Forecaster(**settings, **small).fit(values, verbose=0)
    for name, remedied in remedy.items():
        assert f"{name}={'(low, high)' if name == 'bounds' else repr(remedied)}" in str(
            refused.value
        )
    f = Forecaster(**settings | remedy, **small).fit(values, verbose=0)
    assert np.isfinite(f.predict(values[:2, :2], until=4)["statecast"][:, 2:]).all()


@pytest.mark.backends
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"weight_decay": 1e12},
            r"weight_decay: training diverged .* = -4e\+09\. Fit with a weight",
        ),
        pytest.param(
            {"weight_decay": 1e100}, "weight_decay: training diverged", marks=SLOW_TO_COMPILE
        ),
        ({"weight_decay": 1e12, "learning_rate": 1e-3}, "weight_decay .* far below 1000"),
        (
            {"learning_rate": 1e7, "weight_decay": 0},
            "learning_rate: .* a learning_rate below 1e.07",
        ),
        pytest.param(
            {"learning_rate": 1e7}, "learning_rate: training diverged", marks=SLOW_TO_COMPILE
        ),
        pytest.param(
            {"learning_rate": 1e7, "weight_decay": 1e-9},
            "learning_rate: training diverged",
            marks=SLOW_TO_COMPILE,
        ),
    ],
)
def test_a_training_that_diverges_names_the_setting_at_fault(settings, message) -> None:
    f = Forecaster(units=2, ensemble=1, epochs=2, **settings)
    with pytest.raises(ArgumentError, match=message):
        f.fit(np.random.default_rng(0).normal(size=(40, 6)), verbose=0)


def test_a_fitted_forecaster_does_not_suggest_another_fit(untrained):
    values = np.random.default_rng(0).integers(1, 9, (12, 4)).astype(float)
    small: dict[str, Any] = {"units": 2, "ensemble": 1, "epochs": 1}
    f = Forecaster(head="poisson", **small).fit(values, verbose=0)
    for ask in (f.state, lambda y: f.update(f.state(values[:, :1]), y)):
        with pytest.raises(errors.DataError, match="whole numbers") as refused:
            ask(np.where(np.arange(4) == 1, 1.5, np.nan) + 0 * values)
        assert "leave it out" in str(refused.value)
        assert "Fit" not in str(refused.value)


def test_the_encoder_depends_on_the_number_of_training_items():
    usual, own = Forecaster().settings, Forecaster(encoding_hidden=7, encoding_intervals=3).settings
    several = (1, 149, 150, 450, 600, 10**6)
    assert [usual.hidden(items) for items in several] == [0, 0, 32, 32, 32, 32]
    assert [usual.division(items, [99])[0] for items in several] == [0, 0, 2, 6, 8, 8]
    for items in (1, 1000):
        assert own.hidden(items) == 7
        assert own.division(items, [99]) == (3, (0,))
    none = Forecaster(encoding_hidden=0, encoding_intervals=1).settings
    assert none.hidden(1000) == 0
    assert none.division(1000, [99]) == (0, ())
    assert TokenForecaster().settings.hidden(1000) == 0


def test_a_feature_of_few_distinct_values_has_no_intervals():
    usual, own = Forecaster().settings, Forecaster(encoding_intervals=3).settings
    assert usual.division(10**6, [15, 16, 0, 17]) == (8, (1, 3))
    assert usual.division(150, [3, 4]) == (2, (1,))
    assert own.division(10, [5, 6]) == (3, (1,))
