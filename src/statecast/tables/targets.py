"""``Target``: the transform and the scaling of one target, learnt from training data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from statecast.checks import check_whole
from statecast.errors import ArgumentError, DataError, quoted, warn
from statecast.state import outline
from statecast.tables.columns import LARGEST
from statecast.tables.dates import closed, must
from statecast.tables.grid import PlacedRows, Survey
from statecast.tables.scaling import (
    TRANSFORMS,
    Identity,
    Transform,
    bridged,
    location_and_scaling,
    long_upper_tail,
)
from statecast.tables.source import fail
from statecast.tables.steps import check_cells

_Y_LIMIT = 1e6  # scaled y is clipped here; the gates saturate far below
_LEFT_OUT = "Correct it, or leave it out as a missing value."
_EVERYTHING = (-math.inf, math.inf)
_KEYS = ("name", "transform", "centre", "bounds")  # of a model file
_EQUAL = 1e-6  # a scaled distance below which values count as equal; rounding is far below it


@dataclass(frozen=True, eq=False)
class Target:
    """Everything learnt about one target from training data.

    Attributes
    ----------
    name : str
        The column of the series table.
    transform : Transform
        Maps y to the real line before it is scaled; see ``Schema.fit``.
    location, scaling : ndarray, shape (steps,), float64
        The mean and the standard deviation of transformed y at each step, from the items that have
        the target. For counts they are those of all steps together.
    observed : ndarray, shape (steps,), bool
        Whether any training item has the target at each step. Nothing can be learnt about the other
        steps, such as weekends in data of working days; see ``unscale_rest``.
    largest : float
        The largest absolute scaled value in training; 0 if the target did not vary.
    """

    name: str
    transform: Transform
    location: np.ndarray
    scaling: np.ndarray
    observed: np.ndarray
    largest: float

    __repr__ = outline

    @classmethod
    def fit(
        cls,
        placed: PlacedRows,
        seen: Survey,
        index: int,
        transform: str,
        bounds: tuple[float, float] | None,
    ) -> Target:
        """Learn the target with this index; ``transform`` and ``bounds`` are as in ``Schema.fit``.

        Raises
        ------
        DataError
            No observation, or a value outside the domain of the transform.
        """
        name, observed = placed.names.targets[index], seen.at[:, index].copy()
        if not observed.any():
            raise DataError(
                f"Target {name!r}: expected an observation to learn from; received none. Leave "
                "it out of target_col.",
                column=name,
            )
        fitted = _fit_transform(transform, bounds, placed, seen, index)
        _check_values(placed, {index: fitted}, fitted.remedy)
        location, scaling, largest = _fit_scaling(placed, fitted, index, len(observed))
        largest = min(largest, _Y_LIMIT) if largest > _EQUAL else 0.0
        return cls(name, fitted, location, scaling, observed, largest)

    @classmethod
    def of_tokens(cls, name: str, observed: np.ndarray) -> Target:
        """Return the target of tokens, which are not scaled."""
        steps = len(observed)
        plain = Identity(1.0, _EVERYTHING)
        return cls(name, plain, np.zeros(steps), np.ones(steps), observed, 0.0)

    @property
    def steps(self) -> int:
        """The length of the longest training item."""
        return len(self.location)

    @property
    def limit(self) -> float:
        """The largest absolute scaled value that is an input where there are several targets; see
        ``Schema.inputs``."""
        return min(2.0 * self.largest, _Y_LIMIT)

    # -- scaling -----------------------------------------------------------------------

    def scale(self, y: Any, first_step: int = 1) -> np.ndarray:
        """Return y on the network's scale; float64, NaN stays NaN.

        Parameters
        ----------
        y : array, shape (..., T)
            Values in original units at steps ``first_step``, ``first_step + 1``, ... Steps
            after ``steps`` are scaled like the last one.
        first_step : int
            The step of the first column, from 1.

        Raises
        ------
        DataError
            A value outside the domain of the transform, such as a negative one for ``"log"``.
        """
        y = np.asarray(y, np.float64)
        at = self._at(y, first_step)
        wrong = self.transform.outside(y)
        if wrong.any():
            raise DataError(
                f"Column {self.name!r}: expected {self.transform.expected}, as in training; "
                f"received {y[wrong][0]:g}.",
                column=self.name,
            )
        return self._scaled(y, at)

    def unscale(self, z: Any, first_step: int = 1) -> np.ndarray:
        """Return z in original units: the inverse of ``scale``, increasing at every step.

        Parameters
        ----------
        z : array, shape (..., T)
            Values on the network's scale at steps ``first_step``, ``first_step + 1``, ...
        first_step : int
            The step of the first column, from 1.

        Returns
        -------
        ndarray, shape (..., T), float64
            Within the bounds; whole numbers for the transform ``"counts"``.
        """
        z = np.asarray(z, np.float64)
        return self.transform.from_line(self._on_line(z, self._at(z, first_step)))

    def cells(self, y: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Return observed values of the domain at their steps, from 1, on the network's scale.

        They are limited to a size that the network can use.
        """
        z = self._scaled(y, np.minimum(step - 1, self.steps - 1))
        return np.clip(z, -_Y_LIMIT, _Y_LIMIT)

    def _scaled(self, y: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Return scaled y; ``at`` are the indexes of the steps in ``location`` and ``scaling``."""
        return (self.transform.to_line(y) - self.location[at]) / self.scaling[at]

    def _on_line(self, z: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Return transformed y from scaled y."""
        return z * self.scaling[at] + self.location[at]

    @property
    def bridges(self) -> bool:
        """Whether no training item was observed at some steps; see ``unscale_rest``."""
        return not self.observed.all()

    def unscale_rest(
        self, z: Any, known: np.ndarray, latest: np.ndarray | None = None
    ) -> np.ndarray:
        """Return a forecast in original units, with unobserved steps interpolated.

        It is ``unscale``, except for the steps after the prefix at which no training item was
        observed. Their values are interpolated between the nearest observed steps before and
        after; the item's last observation counts as one. Steps after ``steps`` are taken like the
        last one.

        Parameters
        ----------
        z : array, shape (rows, ..., T)
            Values on the network's scale at steps 1, 2, ... T comes from ``reach``, so that an
            observed step follows the last unobserved one.
        known : ndarray, shape (rows,), int
            Each row's prefix length.
        latest : ndarray, shape (rows, 2), optional
            The row of ``Panel.latest``: the scaled value of each last observation of the target,
            and its step; needed if ``bridges``.

        Returns
        -------
        ndarray, shape (rows, ..., T), float64
        """
        z = np.asarray(z, np.float64)
        at = self._at(z, 1)
        found = None
        if latest is not None:
            value, step = latest[:, 0].astype(np.float64), latest[:, 1].astype(np.int64)
            found = (self._on_line(value, np.clip(step - 1, 0, self.steps - 1)), step)
        line = bridged(self._on_line(z, at), self.observed[at], known, found)
        return self.transform.from_line(line)

    def reach(self, until: int) -> int:
        """Return the last step that a forecast up to ``until`` needs: the first step from ``until``
        on at which a training item was observed, or ``until`` if there is none."""
        return until + int(np.argmax(np.append(self.observed[until - 1 :], False)))

    def _at(self, values: np.ndarray, first_step: int) -> np.ndarray:
        """Return the indexes, in ``location`` and ``scaling``, of the steps along the last axis."""
        first_step = check_whole("first_step", first_step)
        if not values.ndim:
            raise ArgumentError("Expected steps along the last axis; received a single number.")
        at = np.arange(first_step - 1, first_step - 1 + values.shape[-1])
        return np.minimum(at, self.steps - 1)

    # -- files -------------------------------------------------------------------------

    def to_config(self) -> dict[str, Any]:
        """Return the target as strict JSON; its arrays are stored beside it."""
        return {
            "name": self.name,
            "transform": self.transform.name,
            "centre": self.transform.centre,
            "bounds": [
                float(bound) if math.isfinite(bound) else None for bound in self.transform.bounds
            ],
        }

    @classmethod
    def from_config(
        cls,
        config: Any,
        location: np.ndarray,
        scaling: np.ndarray,
        observed: np.ndarray,
        largest: np.ndarray,
    ) -> Target:
        """Rebuild a target from its config and its arrays, float64 of shape (steps,); ``largest``
        has shape (1,).

        Raises
        ------
        ModelFileError
            Missing or unknown keys, a value of another type, size or range.
        """
        config = closed(config, _KEYS, "target")
        name = config["name"]
        must(isinstance(name, str) and name != "", "column names", "text", name)
        transform = _read_transform(config)
        # Logarithms are at most 710 in float64, and the head of counts takes them as float32.
        least, most = transform.limits
        inside = bool((np.abs(location) <= most).all())
        must(inside, "location", f"numbers up to {most:g}", "others")
        inside = bool(((scaling >= least) & (scaling <= most)).all())
        must(inside, "scaling", f"numbers from {least:g} to {most:g}", "others")
        must(bool(np.isin(observed, (0, 1)).all()), "observed", "flags 0 or 1", "others")
        inside = bool(((largest >= 0) & (largest <= _Y_LIMIT)).all())
        must(inside, "largest", f"numbers from 0 to {_Y_LIMIT:g}", "others")
        return cls(name, transform, location, scaling, observed > 0, float(largest[0]))

    def check_tokens(self) -> None:
        """Raise ``ModelFileError`` if y is scaled: its codes of tokens would become others."""
        plain = self.transform == Identity(1.0, _EVERYTHING)
        identity = not self.location.any() and bool((self.scaling == 1).all())
        received = "another location, scaling or transform"
        must(plain and identity, "scaling of tokens", "none", received)


def _check_values(placed: PlacedRows, transforms: Mapping[int, Transform], remedy: str) -> None:
    """Raise for a value outside the domain of the transform of its target.

    ``transforms`` are by the index of the target. The series is read once for all of them.
    """
    for long in placed.series or ():
        for index, transform in transforms.items():
            y = long.y[:, index]
            wrong = transform.outside(y)
            if wrong.any():
                at = int(np.argmax(wrong))
                fail(
                    long.label,
                    placed.names.targets[index],
                    transform.expected,
                    f"{y[at]:g}",
                    placed.ids[long.row[at]],
                    remedy,
                )


def scaled_grid(
    targets: Sequence[Target], placed: PlacedRows, seen: Survey
) -> tuple[np.ndarray, np.ndarray]:
    """Return scaled y, float32, and where it was observed, shape (rows, positions).

    Raises
    ------
    DataError
        A value outside the domain of its target's transform.

    Warns
    -----
    DataWarning
        Values of several targets that are limited as inputs; see ``Schema.inputs``.
    """
    transforms = {index: target.transform for index, target in enumerate(targets)}
    _check_values(placed, transforms, _LEFT_OUT)
    rows, count = len(placed.ids), len(targets)
    width = max(targets[0].steps, int(seen.known.max(initial=0)))
    check_cells(rows, width * count, "the panel")
    y = np.zeros((rows, width, count), np.float32)
    mask = np.zeros((rows, width, count), bool)
    limited: dict[str, tuple[int, str]] = {}  # by target: how many values, and the first of them
    for long, step in placed:
        for index, target in enumerate(targets):
            there = ~np.isnan(long.y[:, index])
            row, at = long.row[there], step[there]
            values = long.y[there, index]
            z = target.cells(values, at)
            y[row, at - 1, index], mask[row, at - 1, index] = z, True
            if count == 1:
                continue
            far = np.flatnonzero(np.abs(z) > max(target.limit, _EQUAL))
            if len(far):
                first = int(far[0])
                limit = np.clip(z[first], -target.limit, target.limit)
                (taken,) = target.unscale([limit], int(at[first]))
                text = f"item {quoted(placed.ids[row[first]])}, step {placed.first + at[first] - 1}"
                text += f": {values[first]:g} is taken as {taken:g}"
                before, text = limited.get(target.name, (0, text))
                limited[target.name] = before + len(far), text
    if limited:
        each = [
            f"column {quoted(name)}, {first}" + (f" (and {found - 1} more)" if found > 1 else "")
            for name, (found, first) in limited.items()
        ]
        warn(
            "Values far outside those of training are limited, so that they do not ruin the "
            f"forecasts of the other targets: {'; '.join(each)}."
        )
    return y.reshape(rows, width * count), mask.reshape(rows, width * count)


def _fit_transform(
    asked: str,
    bounds: tuple[float, float] | None,
    placed: PlacedRows,
    seen: Survey,
    index: int,
) -> Transform:
    """Return the fitted transform; ``"auto"`` chooses one by the values."""
    least, most = float(seen.least[index]), float(seen.most[index])
    name, nonnegative = asked, least >= 0
    if asked == "auto":
        skewed = nonnegative and long_upper_tail(lambda: placed.values(index))
        name = "logit" if bounds is not None else "log" if skewed else "none"
    limits = bounds or TRANSFORMS[name].natural
    if asked == "auto" and name == "none" and nonnegative:
        limits = (0.0, math.inf)
    if name == "logit" and bounds is None and not (nonnegative and most <= 1):
        assert placed.series is not None  # values came from there
        column = placed.names.targets[index]
        raise DataError(
            f"{placed.series.label}, column {column!r}: expected values from 0 to 1, as no "
            f"bounds are given; received {least:g} to {most:g}. Give bounds=(low, high).",
            column=column,
        )
    return TRANSFORMS[name].fit(limits, lambda: placed.values(index))


def _fit_scaling(
    placed: PlacedRows, transform: Transform, index: int, steps: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the location and the scaling of each step, shape (steps,), float64, and the largest
    absolute scaled value."""
    assert placed.series is not None  # the series is given
    where = f"{placed.series.label}, column {placed.names.targets[index]!r}"

    def transformed() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for y, step in placed.observed(index):
            yield transform.to_line(y), step - 1

    if transform.by_step:
        return location_and_scaling(transformed, steps, where)
    location, scaling, largest = location_and_scaling(
        lambda: ((z, 0 * at) for z, at in transformed()), 1, where
    )
    return np.repeat(location, steps), np.repeat(scaling, steps), largest


def _read_transform(config: Mapping[str, Any]) -> Transform:
    """Return the transform of a model file; ``ModelFileError`` on anything unexpected."""
    name, centre, given = config["transform"], config["centre"], config["bounds"]
    known = isinstance(name, str) and name in TRANSFORMS
    must(known, "transform", f"one of {list(TRANSFORMS)}", name)
    finite = isinstance(centre, float) and 1 / LARGEST <= centre <= LARGEST
    must(finite, "centre", "a positive number", centre)
    real = isinstance(given, list) and len(given) == 2
    real = real and all(b is None or (isinstance(b, float) and abs(b) <= LARGEST) for b in given)
    must(bool(real), "bounds", "two numbers or null", given)
    low = -math.inf if given[0] is None else given[0]
    high = math.inf if given[1] is None else given[1]
    must(TRANSFORMS[name].takes(low, high), "bounds", f"those of the transform {name!r}", given)
    return TRANSFORMS[name](centre, (low, high))
