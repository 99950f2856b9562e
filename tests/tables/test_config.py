"""A schema in a model file that is damaged is refused."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import polars as pl
import pytest

from small_tables import SERIES, STATIC
from statecast.errors import ModelFileError
from statecast.tables.schema import Schema

pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")


pytestmark = pytest.mark.filterwarnings("ignore::statecast.errors.DataWarning")


# -- bad configs -------------------------------------------------------------------------


def spoil(path: str, value: Any) -> Any:
    def change(config: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        target: Any = config
        *parents, last = path.split(".")
        for key in parents:
            target = target[int(key)] if key.isdigit() else target[key]
        target[last] = value

    return change


def spoil_array(name: str, value: Any) -> Any:
    return lambda config, arrays: arrays.__setitem__(name, value)


@pytest.mark.parametrize(
    "change",
    [
        lambda config, arrays: config.pop("steps"),
        lambda config, arrays: arrays.pop("location"),
        spoil("more", 1),
        spoil("id_col", 3),
        spoil("id_col", "ds"),
        spoil("targets", []),
        spoil("targets", {}),
        spoil("targets", [None]),
        spoil("targets.0.name", 3),
        spoil("targets.0.name", "ds"),
        spoil("targets.0.more", 1),
        lambda config, _: config["targets"].append(config["targets"][0]),
        spoil("kind", "excel"),
        spoil("targets.0.transform", ["log"]),
        spoil("targets.0.centre", float("nan")),
        spoil("targets.0.centre", 0.0),
        spoil("targets.0.centre", "1"),
        spoil_array("largest", np.array([1.0])),
        spoil_array("largest", np.array([[-1.0]])),
        spoil_array("largest", np.array([[2e6]])),
        spoil("targets.0.bounds", [0.0]),
        spoil("targets.0.bounds", [0.0, 1.0]),
        spoil("targets.0.bounds", [5.0, None]),
        spoil("steps", 3),
        spoil("steps", True),
        spoil("steps", 10**9),
        spoil("static.numeric", None),
        spoil("static.numeric", ["area", "b"]),
        spoil("static.numeric", [{"name": "area", "distinct": 2}] * 2),
        spoil("static.numeric", [{"name": str(i), "distinct": 2} for i in range(1001)]),
        spoil("static.numeric.0.name", ["area"]),
        spoil("static.numeric.0.distinct", -1),
        spoil("static.numeric.0.distinct", 2.0),
        spoil("static.numeric.0.more", 1),
        spoil("static.categorical.0.name", 1),
        spoil("static.categorical.0.name", "area"),
        spoil("static.categorical.0.categories", ["b", "a"]),
        spoil("static.categorical.0.categories", ["a", 1]),
        spoil("static.categorical.0.categories", [str(i) for i in range(10_001)]),
        spoil("static.categorical.0.more", 1),
        spoil("future", {"numeric": [{"name": "ds", "distinct": 2}], "categorical": []}),
        spoil("past", None),
        spoil("spacing", "day"),
        spoil("spacing", {}),
        spoil("spacing", {"unit": "days", "count": 1, "day": None, "clock": "none"}),
        spoil("spacing", {"unit": "months", "count": 0, "day": None, "clock": "none"}),
        spoil("spacing", {"unit": "months", "count": 1, "day": 0, "clock": "none"}),
        spoil("spacing", {"unit": "months", "count": 1, "day": 31, "clock": []}),
        spoil_array("location", np.zeros((1, 3))),
        spoil_array("location", np.zeros((1, 2), np.float32)),
        spoil_array("location", np.array([[np.nan, 1]])),
        spoil_array("scaling", np.zeros((1, 2))),
        spoil_array("observed", np.full((1, 2), 2.0)),
        spoil_array("observed", np.ones((1, 3))),
        spoil_array("static_scaling", np.full((2, 4), -1.0)),
        spoil_array("more", np.zeros(2)),
    ],
)
def test_a_spoilt_config_is_refused(change: Any) -> None:
    config, arrays = Schema.fit(SERIES, STATIC).to_config()
    Schema.from_config(copy.deepcopy(config), arrays)
    change(config, arrays)
    with pytest.raises(ModelFileError, match="Not a schema of ours"):
        Schema.from_config(config, arrays)


@pytest.mark.parametrize(
    "change",
    [
        spoil_array("location", np.array([[-5.0, 0.0]])),
        spoil_array("scaling", np.array([[1.0, 2.0]])),
        lambda config, _: config["targets"][0].update(transform="log", bounds=[0.0, None]),
        spoil("targets.0.bounds", [0.0, None]),
    ],
)
def test_a_scaling_of_tokens_is_refused(change: Any) -> None:
    tokens = pl.DataFrame({"unique_id": [1, 1, 2], "ds": [1, 2, 1], "y": ["a", "b", "a"]})
    config, arrays = Schema.fit(tokens, tokens=True).to_config()
    assert Schema.from_config(copy.deepcopy(config), arrays).vocabulary is not None
    change(config, arrays)
    with pytest.raises(ModelFileError, match="scaling of tokens"):
        Schema.from_config(config, arrays)


@pytest.mark.parametrize("config", [None, [], "x", 3])
def test_a_config_that_is_no_object_is_refused(config: Any) -> None:
    with pytest.raises(ModelFileError):
        Schema.from_config(config, {})
