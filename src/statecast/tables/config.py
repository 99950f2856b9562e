"""Read the part of a model file that a schema is rebuilt from; everything in it is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from statecast.checks import is_whole
from statecast.tables.columns import LARGEST
from statecast.tables.dates import Calendar, Form, Spacing, closed, must
from statecast.tables.features import Columns
from statecast.tables.id_types import IdType
from statecast.tables.ids import Kind
from statecast.tables.source import KINDS
from statecast.tables.steps import MAX_STEPS
from statecast.tables.targets import Target
from statecast.tables.vocabulary import Vocabulary

TABLES = ("static", "future", "past")  # the features by where they come from
_ROLES = ("start_col", "group_col", "origin_col")  # of a static table, and not features
_SCALED = ("location", "scaling", "observed", "largest")  # the arrays of the targets
_KEYS = (
    *("id_col", "step_col", "start_col", "group_col", "origin_col"),
    *("kind", "ids", "form", "targets", "first", "items", "steps"),
    *(*TABLES, "spacing", "calendar", "vocabulary"),
)


def read_config(config: Any, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the fields of a schema, by name; see ``Schema.to_config``.

    Raises
    ------
    ModelFileError
        Missing or unknown keys, a value of another type, size or range.
    """
    config = closed(config, _KEYS, "schema")
    id_col, step_col = config["id_col"], config["step_col"]
    for name in (id_col, step_col):
        must(isinstance(name, str) and name != "", "column names", "text", name)
    must(config["kind"] in KINDS, "kind", f"one of {KINDS}", config["kind"])
    must(is_whole(config["steps"], 1, MAX_STEPS), "steps", f"1 to {MAX_STEPS:,}", config["steps"])
    roles = _read_roles(config)
    spacing = None if config["spacing"] is None else Spacing.from_config(config["spacing"])
    calendar = Calendar.from_config(config["calendar"])
    never_closed = spacing is not None or not calendar
    must(never_closed, "calendar", "none, of numbers", config["calendar"])
    given = config["targets"]
    must(isinstance(given, list) and len(given) > 0, "targets", "a list of them", given)
    columns = {name: _read_columns(config, name) for name in TABLES}
    checked = _read_arrays(arrays, (len(given), config["steps"]), columns)
    targets = tuple(
        Target.from_config(each, *(checked[name][index] for name in _SCALED))
        for index, each in enumerate(given)
    )
    series = [id_col, step_col, *(target.name for target in targets)]
    must(len(set(series)) == len(series), "column names", "different ones", series[:5])
    for name in ("future", "past"):
        taken = sorted({*series} & {*columns[name].kinds})
        must(not taken, f"{name} columns", "others than those of the series", taken)
    vocabulary = None
    if config["vocabulary"] is not None:
        vocabulary = Vocabulary.from_config(config["vocabulary"])
        must(len(targets) == 1, "targets", "one of them, of tokens", len(targets))
        targets[0].check_tokens()
    for name in TABLES:
        rules = checked[f"{name}_scaling"]
        _check_rules(f"{name}_scaling", rules)
        columns[name] = replace(columns[name], scaling=rules)
    return {
        "id_col": id_col,
        "step_col": step_col,
        "kind": _read_kind(config, spacing),
        "targets": targets,
        **columns,
        "spacing": spacing,
        "calendar": calendar,
        "vocabulary": vocabulary,
        **roles,
        "first": _read_first(config),
        "items": _read_items(config),
    }


def _read_columns(config: Mapping[str, Any], name: str) -> Columns:
    """Return the columns of a table; none of them has the name of a key of that table."""
    others = _ROLES if name == "static" else ("step_col",)
    return Columns.from_config(config[name], name, [config[key] for key in ("id_col", *others)])


def _read_first(config: Mapping[str, Any]) -> int:
    """Return the number of step 1, which is 1 for dates and arrays."""
    first = config["first"]
    numbered = config["spacing"] is None and config["kind"] != "arrays"
    most = MAX_STEPS - config["steps"] + 1 if numbered else 1
    must(is_whole(first, 1, most), "first", f"a whole number from 1 to {most:,}", first)
    return first


def _read_items(config: Mapping[str, Any]) -> int:
    """Return the number of training items."""
    items = config["items"]
    must(is_whole(items, 1), "items", "a whole number from 1", items)
    return items


def _read_roles(config: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the columns of a static table that are not features. Only steps that are dates may
    have launch dates, and only numbers a time of step 1."""
    taken: list[Any] = ["", config["id_col"]]
    for key in _ROLES:
        name = config[key]
        if name is not None:
            good = isinstance(name, str) and name not in taken
            must(good, key, "text, and another than the other columns", name)
            taken.append(name)
    dated = config["spacing"] is not None
    must(dated or config["start_col"] is None, "start_col", "none, of numbers", config["start_col"])
    must(not dated or config["origin_col"] is None, "origin_col", "none", config["origin_col"])
    return {key: config[key] for key in _ROLES}


def _read_kind(config: Mapping[str, Any], spacing: Spacing | None) -> Kind:
    """Return the kind of the training tables; their steps are dates if there is a spacing."""
    form, ids = Form.from_config(config["form"]), config["ids"]
    if ids is not None:
        ids = IdType.from_config(ids, config["kind"])
    zoned = spacing is not None and spacing.clock != "none"
    must(form.dated == (spacing is not None), "form", "that of the spacing", form.type)
    must((form.zone is not None) == zoned, "form", "that of the spacing", form.zone)
    return Kind(config["kind"], form, ids)


def _read_arrays(
    arrays: Mapping[str, np.ndarray], size: tuple[int, int], columns: Mapping[str, Columns]
) -> dict[str, np.ndarray]:
    """Return copies of the arrays, whose names, shapes and dtypes are checked.

    ``size`` is (targets, steps).
    """
    shapes = {
        **dict.fromkeys(_SCALED, size),
        "largest": (size[0], 1),
        **{f"{name}_scaling": each.scaling.shape for name, each in columns.items()},
    }
    must(set(arrays) == set(shapes), "arrays", str(sorted(shapes)), sorted(arrays))
    checked: dict[str, np.ndarray] = {}
    for name, shape in shapes.items():
        values = np.asarray(arrays[name])
        must(values.shape == shape, name, f"shape {shape}", values.shape)
        must(values.dtype == np.float64, name, "float64", values.dtype)
        must(bool(np.isfinite(values).all()), name, "finite numbers", "others")
        checked[name] = values.copy()
    return checked


def _check_rules(what: str, rules: np.ndarray) -> None:
    """Raise for a scaling of numeric features that is out of range; see ``Columns.scaling``."""
    c, gain = rules[:, 0], rules[:, 2]
    good = bool((((c == 0) | (c >= 1 / LARGEST)) & (gain >= 0)).all())
    good = good and bool((np.abs(rules) <= 1e20 * LARGEST).all())
    must(good, what, "c and gain of at least 0, within range", "others")
