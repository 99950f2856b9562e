"""The steps of ``Schema.fit`` that do not build the schema: checks, features and warnings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from statecast.errors import ArgumentError, DataError, listed, quoted, warn
from statecast.tables.dates import Calendar
from statecast.tables.grid import (
    PlacedRows,
    Survey,
    check_filled,
    check_no_years,
    check_points,
    planned_steps,
)
from statecast.tables.parse import Parsed
from statecast.tables.scaling import TRANSFORMS
from statecast.tables.source import columns_of
from statecast.tables.steps import Names
from statecast.tables.targets import Target

_FEWEST_CODES, _MOST_CODES = 3, 30  # distinct whole numbers that may be codes; two are yes and no


# -- checks ----------------------------------------------------------------------------


def check_settings(
    names: Names,
    past_cols: Sequence[str],
    categorical: Sequence[str],
    transform: str,
    bounds: tuple[float, float] | None,
) -> None:
    """Raise for settings of ``Schema.fit`` that are not possible, whatever the tables hold."""
    if transform not in ("auto", *TRANSFORMS):
        raise ArgumentError(
            f"transform: expected one of {['auto', *TRANSFORMS]}; received {transform!r}."
        )
    if bounds is not None and transform not in ("auto", "logit"):
        raise ArgumentError(
            f"bounds: expected them with the transform 'logit'; received {transform!r}."
        )
    single = {"id_col": names.id_col, "step_col": names.step_col}
    roles = {name: getattr(names, name) for name in ("start_col", "group_col", "origin_col")}
    several = {"target_col": names.targets, "past_cols": past_cols, "categorical": categorical}
    for setting, given in (single | roles | several).items():
        for name in given if setting in several else (given,):
            optional = setting in roles and name is None
            if not optional and not (isinstance(name, str) and name):
                raise ArgumentError(
                    f"{setting}: expected names of columns (text, not empty); received {name!r}."
                )
        if setting in several and len(set(given)) < len(given):
            raise ArgumentError(f"{setting}: expected distinct names; received {list(given)}.")
    series = list(names.series)
    if len(set(series)) < max(3, len(series)):
        raise ArgumentError(
            f"id_col, step_col, target_col: expected distinct names; received {series}."
        )
    taken = [names.id_col]
    for setting, name in roles.items():
        if name is not None and name in taken:
            raise ArgumentError(
                f"{setting}: expected a column of the static table beside {listed(taken)}; "
                f"received {name!r}."
            )
        taken += [name] * (name is not None)
    if len({*series, *past_cols}) < len(series) + len(past_cols):
        raise ArgumentError(
            f"past_cols: expected distinct columns beside {series}; received {list(past_cols)}."
        )


def check_declared(parsed: Parsed, past: Sequence[str], categorical: Sequence[str]) -> None:
    """Raise for a column in ``categorical`` that is not a feature."""
    future = {} if parsed.future is None else parsed.future.columns
    features = list(dict.fromkeys([*parsed.static, *future, *past]))
    for name in categorical:
        if name not in features:
            raise ArgumentError(
                f"categorical: expected columns of the static and the future table, or of "
                f"past_cols ({listed(features)}); received {quoted(name)}."
            )


def check_times_are_numbers(label: str, names: Names) -> None:
    """Raise, of a series whose steps are dates, if times of step 1 are given as numbers."""
    if names.origin_col is not None:
        raise DataError(
            f"{label}, column {names.step_col!r}: expected numbers, as origin_col="
            f"{names.origin_col!r} is given; received dates. Leave origin_col out: the time of a "
            "step is its date.",
            column=names.step_col,
        )


def check_launches_are_dated(label: str, names: Names) -> None:
    """Raise, of a series whose steps are numbers, if launch dates are given."""
    if names.start_col is not None:
        raise DataError(
            f"{label}, column {names.step_col!r}: expected dates, as start_col="
            f"{names.start_col!r} is given; received numbers. Pass dates; or leave start_col "
            "out, as the launch is step 1.",
            column=names.step_col,
        )


def check_training_rows(placed: PlacedRows, seen: Survey, *, arrays: bool) -> None:
    """Raise for rows that cannot be learnt from: repeated ones, items without observations, steps
    that look like years, grids that are almost empty."""
    if not arrays:
        if placed.spacing is None and placed.series is not None:
            check_no_years(placed.series, seen, placed.names.step_col, placed.first)
        check_filled(placed, seen)
        all_missing = placed.spacing is None or not seen.observed.any()
        check_points(placed, seen, all_missing=all_missing)
    elif not seen.observed.all():
        item = int(np.argmin(seen.observed > 0))
        raise DataError(
            f"Y, row {item}: expected at least one observation for each item to fit; "
            "received NaN everywhere. Leave the row out of Y and X.",
            column="Y",
            item=item,
        )


# -- features --------------------------------------------------------------------------


def training_features(
    parsed: Parsed, placed: PlacedRows, seen: Survey, past_cols: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the static, future and past columns that training learns from.

    Static features are those of observed items. Future covariates are those of steps 1 up to an
    item's last observation.
    """
    static = {name: values[seen.observed > 0] for name, values in parsed.static.items()}
    future: dict[str, np.ndarray] = {}
    step_col = placed.names.step_col
    planned, _ = planned_steps(parsed, placed.spacing, step_col, placed.origin, placed.first)
    if parsed.future is not None:
        row = parsed.future.row
        used = (planned >= 1) & (planned <= seen.known[row]) & (row >= 0)
        future = {name: values[used] for name, values in parsed.future.columns.items()}
    batches = parsed.series or ()
    past = {name: np.concatenate([b.columns[name] for b in batches]) for name in past_cols}
    return static, future, past


# -- warnings --------------------------------------------------------------------------


def warn_of_codes(columns: Mapping[str, np.ndarray]) -> None:
    """Warn of numeric columns that may hold codes: few distinct whole numbers from 0."""
    found = []
    for name, values in columns.items():
        if values.dtype == object:
            continue
        distinct, count = np.unique(values[~np.isnan(values)], return_counts=True)
        few = _FEWEST_CODES <= len(distinct) <= _MOST_CODES and 2 * len(distinct) <= count.sum()
        if few and distinct[0] >= 0 and (distinct == np.floor(distinct)).all():
            found.append(f"{quoted(name)} ({len(distinct)} different ones)")
    if found:
        warn(
            f"Whole numbers, used as numbers: {', '.join(found[:8])}"
            + (f" and {len(found) - 8} more columns" if len(found) > 8 else "")
            + ". If they are codes, whose order means nothing, name the columns in "
            "categorical=[...]."
        )


def warn_of_unobserved(targets: Sequence[Target], first: int) -> None:
    """Warn of steps at which no training item was observed; ``first`` is the number of step 1."""
    found = []
    for target in targets:
        steps = (np.flatnonzero(~target.observed) + first).tolist()
        if steps:
            whose = f" of {target.name!r}" if len(targets) > 1 else ""
            named = ", ".join(map(str, steps[:5])) + (", ..." if len(steps) > 5 else "")
            found.append(f"{len(steps)} of {target.steps} steps{whose}: {named}")
    if found:
        warn(
            f"No training item was observed at {'; '.join(found)}. Their forecasts are made of "
            "those of the nearest observed steps before and after."
        )


def warn_of_closed_days(calendar: Calendar) -> None:
    """Warn of a calendar with closed weekdays, hours or months."""
    if calendar:
        warn(
            f"No training item was ever observed on: {calendar}. Forecasts leave out such steps, "
            "and totals count nothing there."
        )


def warn_of_unused(series: Any, used: Iterable[str], *, tokens: bool) -> None:
    """Warn of columns of the series table that are not used."""
    used = set(used)
    unused = [name for name in columns_of(series) if name not in used]
    if unused:
        more = f" and {len(unused) - 5} more" if len(unused) > 5 else ""
        advice = (
            "Name those that are observed together with y in past_cols; pass covariates that are "
            "known beforehand as the table future."
        )
        warn(
            f"Columns of the series table that are not used: {unused[:5]}{more}. "
            + ("Tokens take no covariates." if tokens else advice)
        )
