"""Settings: declared once, checked, and handled as scikit-learn's parameters."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone

from statecast.errors import ArgumentError
from statecast.forecast.forecaster import Forecaster
from statecast.tokens.forecaster import TokenForecaster

KINDS: list[Any] = [Forecaster, TokenForecaster]


@pytest.mark.parametrize("kind", KINDS)
def test_the_signature_and_the_docstring_have_every_setting(kind) -> None:
    names = list(kind.settings_class.declared())
    assert sorted(inspect.signature(kind).parameters) == sorted(names)
    for name, declared in kind.settings_class.declared().items():
        assert f"\n    {name} : " in kind.__doc__
        assert declared.meaning.split()[0] in kind.__doc__


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_those_of_scikit_learn(kind) -> None:
    given = {"units": 3, "categorical": ["shop"]}
    model = kind(**given)
    params = model.get_params()
    assert set(params) == set(inspect.signature(kind).parameters)
    assert {name: params[name] for name in given} == given
    for copy in (clone(model), model.clone(), kind(**params)):
        assert copy.settings == model.settings
    assert model.set_params(seed=4) is model
    assert (model.settings.seed, model.settings.units) == (4, 3)
    with pytest.raises(ArgumentError, match="units"):
        model.set_params(units=0)
    assert (model.settings.seed, model.settings.units) == (4, 3)


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


@pytest.mark.backends
def test_a_fitted_model_keeps_its_settings(untrained) -> None:
    f = Forecaster(units=2, ensemble=1, epochs=1)
    f.fit(np.random.default_rng(0).normal(size=(70, 4)), verbose=0)
    with pytest.raises(ArgumentError, match=r"clone\(\)\.set_params"):
        f.set_params(units=3)
    assert f.settings.units == 2
