"""``Paths``: joint sample paths, and distributions of their totals, peaks and times."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from statecast.checks import check_flag, check_numbers, check_whole
from statecast.errors import ArgumentError, DataError, quoted
from statecast.tables.ids import Kind
from statecast.tables.schema import Schema

MEAN = "statecast-mean"  # the column of the mean
MEAN_LEVELS = 1000  # the number of quantiles of a mean; the default number of paths of a total
MOST_VALUES = 4_000_000  # the most values of paths that are summarised at once: it bounds memory


@dataclass(frozen=True)
class Paths:
    """Joint sample paths.

    Attributes
    ----------
    ids : array, ``(items,)``
    known : array of int, ``(items,)``
        The prefix length of each item. Its paths begin at the next step.
    values : array, float64, ``(items, paths, until)``
        In the units of y; NaN on the prefix, at closed steps and after the end of a path. With
        several targets ``(items, paths, until, targets)``; path i of all targets is one joint
        sample.
    schema : Schema
        Of the forecaster.
    origin : array of datetime64, ``(items,)``, or None
        The date of each item's step 1; None if steps are numbers.
    kind : Kind or None
        The library of the tables and the type of the ids; None if the paths start from a state.
    observed : array, float64, ``(items, steps)``, or None
        The prefixes, NaN where nothing was observed; with several targets
        ``(items, steps, targets)``. None if the paths start from a state.
    last : array of int, ``(items,)``, or None
        The last step of each item, after which its values are NaN. None if it is ``until`` for all.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast import Forecaster
    >>> rng = np.random.default_rng(0)
    >>> Y = rng.normal(size=(20, 6)).cumsum(axis=1) + 10
    >>> f = Forecaster(units=4, ensemble=2, epochs=1).fit(Y, verbose=0)
    >>> paths = f.simulate(Y[:3, :2], until=6)
    >>> sorted(paths.total(since=1)), paths.time_to(12.0)["never"].shape
    (['statecast', 'statecast-hi-80', 'statecast-lo-80'], (3,))
    """

    ids: np.ndarray
    known: np.ndarray
    values: np.ndarray
    schema: Schema
    origin: np.ndarray | None = None
    kind: Kind | None = None
    observed: np.ndarray | None = None
    last: np.ndarray | None = None

    def __repr__(self) -> str:
        items, paths, until, *_ = self.values.shape
        of = ", ".join(self.schema.target_cols)
        return (
            f"<Paths of {of}: {items:,} items, {paths:,} paths each, up to step "
            f"{self.schema.number(until):,}>"
        )

    def table(self) -> Any:
        """A long table: the id, the step, and a column for each path, ``path-1``, ``path-2``, ...

        With several targets there is a column for each target and path: ``path-lat-1``,
        ``path-lon-1``, ...
        """
        items, paths = self.values.shape[:2]
        values, count = self.values.reshape(items, paths, -1), len(self.schema.targets)
        named = {f"path-{i + 1}": values[:, i] for i in range(paths)}
        return self.schema.output(self.kind).table(
            named,
            ids=self.ids,
            known=self.known * count,
            origin=self.origin,
            last=None if self.last is None else self.last * count,
        )

    def of(self, target: str) -> Paths:
        """The paths of one target, for its ``total``, ``peak`` and ``time_to``.

        Raises
        ------
        ArgumentError
            The forecaster has no such target.
        """
        schema = self.schema.of(target)
        if len(self.schema.targets) == 1:
            return self
        at = self.schema.target_cols.index(target)
        observed = None if self.observed is None else self.observed[..., at]
        return replace(self, values=self.values[..., at], schema=schema, observed=observed)

    def alive(self) -> Any:
        """The share of an item's paths that have not ended, at each step.

        Returns
        -------
        A table of the input's kind: the id, the step and ``alive``, from 0 to 1. It is 1 if the
        forecaster was fitted with ``ends=False``. For arrays, a dict of arrays ``(items, until)``.
        """
        values = self.values.reshape(*self.values.shape[:3], -1)[..., 0]
        one = self.schema.of(self.schema.target_cols[0])
        return one.output(self.kind).table(
            {"alive": (~np.isnan(values)).mean(axis=1)},
            ids=self.ids,
            known=self.known,
            origin=self.origin,
            last=self.last,
        )

    def total(
        self,
        *,
        since: int | None = None,
        level: float | Sequence[float] | None = (80,),
        quantiles: float | Sequence[float] | None = (),
        mean: bool = False,
    ) -> Any:
        """The distribution of each item's total, which is the sum of a path's values.

        After the end of a path the values count as 0. ``Forecaster.predict_total`` gives the same
        distributions without all paths in memory, and those of groups of items.

        Parameters
        ----------
        since : int, optional
            The first step that is counted; by default each item's first forecast step. If it is in
            the prefix, the observations from it on are counted too.
        level, quantiles, mean
            As in ``Forecaster.predict``.

        Returns
        -------
        A table of the input's kind, with a row for each item: the id, ``statecast`` (the median),
        ``statecast-lo-80``, ... and ``statecast-mean``, float64 in the units of y. For arrays, a
        dict of arrays ``(items,)``.

        Raises
        ------
        DataError
            A step of the prefix from ``since`` on was not observed, so that the total is unknown.
        ArgumentError
            Paths of several targets; ``since`` outside the steps; ``since`` in a prefix if the
            paths start from a state, which does not hold the observations.
        """
        columns = quantile_columns(level, quantiles)
        mean = check_flag("mean", mean)
        return self._summary(distribution(self.totals(since), columns, mean))

    def totals(self, since: int | None = None) -> np.ndarray:
        """The sum of the values of each path, float64 ``(items, paths)``.

        ``since`` and the errors are those of ``total``.
        """

        def total(rest: np.ndarray, _: np.ndarray) -> tuple[np.ndarray]:
            # One after the other: NumPy's order of a sum depends on the number of steps, which
            # other items may extend.
            found = np.zeros(rest.shape[:-1])
            for step in range(rest.shape[-1]):
                found += np.nan_to_num(rest[..., step])
            return (found,)

        return self._reduced(since, total)[0]

    def peak(
        self,
        *,
        since: int | None = None,
        level: float | Sequence[float] | None = (80,),
        quantiles: float | Sequence[float] | None = (),
    ) -> Any:
        """The distributions of each item's largest value, and of the first step with this value.

        Parameters, result and errors are those of ``total``, without the mean. The result also has
        columns for the step: ``step``, ``step-lo-80``, ...
        """
        columns = quantile_columns(level, quantiles)

        def highest(rest: np.ndarray, _: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            known = np.where(np.isnan(rest), -np.inf, rest)
            value, step = known.max(axis=-1), known.argmax(axis=-1) + float(self.schema.first)
            nothing = np.isneginf(value)  # every step is closed or after the path's end
            return np.where(nothing, np.nan, value), np.where(nothing, np.nan, step)

        value, step = self._reduced(since, highest)
        return self._summary(distribution(value, columns) | _steps_at(step, columns, "step"))

    def time_to(
        self,
        threshold: Any,
        *,
        falling: bool = False,
        since: int | None = None,
        level: float | Sequence[float] | None = (80,),
        quantiles: float | Sequence[float] | None = (),
    ) -> Any:
        """The distribution of the first step at which an item's value is at or above a threshold.

        Parameters
        ----------
        threshold : float or array, ``(items,)``
            In the units of y.
        falling : bool
            If True, the first step at which the value is at or below the threshold.
        since, level, quantiles
            As in ``total``.

        Returns
        -------
        A table as that of ``total``, with steps in place of values, numbered as in the tables. The
        column ``never`` is the share of paths that do not reach the threshold up to ``until``. A
        quantile is NaN if it belongs to one of these paths.

        Raises
        ------
        DataError
            As ``total``.
        ArgumentError
            As ``total``; a threshold that is neither a number nor a number for each item.
        """
        columns = quantile_columns(level, quantiles)
        check_flag("falling", falling)
        try:
            given = np.asarray(threshold, "float64")
        except (TypeError, ValueError):
            given = np.array(np.nan)
        if given.shape not in ((), self.ids.shape) or np.isnan(given).any():
            raise ArgumentError(
                f"threshold: expected a number, or an array of shape {self.ids.shape}; received "
                f"{threshold!r}."
            )
        limit, number = np.broadcast_to(given, self.ids.shape), float(self.schema.first)

        def first(rest: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray]:
            threshold = limit[rows, None, None]
            reached = rest <= threshold if falling else rest >= threshold
            return (np.where(reached.any(axis=-1), reached.argmax(axis=-1) + number, np.inf),)

        (step,) = self._reduced(since, first)
        named = _steps_at(step, columns, "statecast")
        return self._summary(named | {"never": np.isinf(step).mean(axis=1)})

    def _reduced(
        self, since: int | None, reduce: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, ...]]
    ) -> list[np.ndarray]:
        """Apply ``reduce`` to the steps from ``since`` on, for some rows at a time.

        ``reduce`` takes float64 ``(rows, paths, until)``, NaN before ``since``, and returns arrays
        ``(rows, paths)``.
        """
        names = self.schema.target_cols
        target = names[0]
        if len(names) > 1:
            raise ArgumentError(
                "Expected paths of one target, as several targets have no common unit; received "
                f"paths of {list(names)}. Select one: paths.of({target!r})."
            )
        _, paths, until = self.values.shape
        least, most = self.schema.number(1), self.schema.number(until)
        if since is not None:
            expected = f"a step from {least} to {most}"
            since = check_whole("since", since, least, most, expected=expected)
        step = np.arange(1, until + 1)
        begin = None if since is None else since - least + 1
        first = self.known + 1 if begin is None else np.full(self.known.shape, begin)
        counted = step >= first[:, None]
        past = counted & (step <= self.known[:, None])
        observed = np.full(past.shape, np.nan)
        open_ = self.schema.output(self.kind).open(self.origin, until)
        if past.any():
            if self.observed is None:
                raise ArgumentError(
                    "since: expected a step after every prefix, as these paths start from a "
                    f"state, which does not hold the observations; received {since}. Simulate "
                    "from the series instead."
                )
            width = min(until, self.observed.shape[1])
            observed[:, :width] = self.observed[:, :width]
            gaps = np.argwhere(past & open_ & np.isnan(observed))
            if len(gaps):
                row, at = gaps[0].tolist()
                item = self.ids[row : row + 1].tolist()[0]
                raise DataError(
                    f"since: expected no gap between step {since} and the end of the prefix; item "
                    f"{quoted(item)} was not observed at step {at + least}. Choose a later step, "
                    "or leave that item out.",
                    column=target,
                    item=item,
                )
        found = []
        size = max(1, MOST_VALUES // max(paths * until, 1))
        for start in range(0, len(self.ids), size):
            rows = np.arange(start, min(start + size, len(self.ids)))
            values = np.where(past[rows, None], observed[rows, None], self.values[rows])
            found.append(reduce(np.where(counted[rows, None], values, np.nan), rows))
        if not found:
            found = [reduce(np.zeros((0, paths, until)), np.zeros(0, int))]
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]

    def _summary(self, columns: dict[str, np.ndarray]) -> Any:
        return self.schema.output(self.kind).summary(columns, ids=self.ids)


def _known_quantile(
    drawn: np.ndarray, columns: Mapping[str, float], method: Any = "linear"
) -> np.ndarray:
    """Quantiles ``(columns, items)`` of the samples that are not NaN; NaN if all are."""
    if not np.isnan(drawn).any():
        return np.quantile(drawn, list(columns.values()), axis=1, method=method)
    found = np.full((len(columns), len(drawn)), np.nan)
    for item, samples in enumerate(drawn):
        samples = samples[~np.isnan(samples)]
        if len(samples):
            found[:, item] = np.quantile(samples, list(columns.values()), method=method)
    return found


def distribution(
    drawn: np.ndarray, columns: Mapping[str, float], mean: bool = False
) -> dict[str, np.ndarray]:
    """Quantiles ``(items,)`` of samples ``(items, paths)``, and with ``mean`` their mean, by the
    name of the column."""
    found = dict(zip(columns, _known_quantile(drawn, columns), strict=True))
    return found | {MEAN: drawn.mean(axis=1)} if mean else found


def sums_by_group(
    parts: Iterable[tuple[np.ndarray, np.ndarray]], targets: int, paths: int
) -> Iterator[np.ndarray]:
    """Sums of the totals of items, path by path.

    Parameters
    ----------
    parts : iterable of (array of int, ``(rows,)``; array, ``(rows, targets, paths)``)
        The group of each item, and its totals. The groups do not decrease, so that only the sum of
        one group is kept from part to part.
    targets, paths : int

    Yields
    ------
    array, float64, ``(groups, targets, paths)``
        The sums of the groups that a part completes, in order; of the last part those of the rest.
    """
    group, total = -1, np.zeros((targets, paths))
    for numbers, totals in parts:
        complete = []
        for number, each in zip(numbers.tolist(), totals, strict=True):
            if number == group:
                total = total + each
                continue
            if group >= 0:
                complete.append(total)
            group, total = number, each
        total = total.copy()  # not a part of `totals`, which can then be freed
        yield np.array(complete).reshape(len(complete), targets, paths)
    yield total[None] if group >= 0 else np.zeros((0, targets, paths))


def _steps_at(step: np.ndarray, columns: Mapping[str, float], name: str) -> dict[str, np.ndarray]:
    """As ``distribution``, for steps. A quantile is the step of one of the paths, not interpolated;
    NaN if it is infinite."""
    found = _known_quantile(step, columns, method="inverted_cdf")
    found = np.where(np.isinf(found), np.nan, found)
    return {c.replace("statecast", name, 1): q for c, q in zip(columns, found, strict=True)}


def equal_levels(count: int) -> list[float]:
    """The levels of ``count`` equally likely quantiles: (i + 1/2) / count for i from 0."""
    return ((np.arange(count) + 0.5) / count).tolist()


def quantile_columns(level: Any, quantiles: Any) -> dict[str, float]:
    """The columns of a forecast, by name, with the levels of their quantiles.

    Raises
    ------
    ArgumentError
        A level or quantile outside its range; two for the same column.
    """
    columns = {"statecast": 0.5}

    def add(name: str, value: float, argument: str) -> None:
        if abs(columns.setdefault(name, value) - value) > 1e-12:  # more than rounding
            raise ArgumentError(
                f"{argument}: expected numbers that differ in their first six digits, which name "
                f"the columns; received two for the column {name!r}. Ask for one of them in a call "
                "of its own."
            )

    for percent in check_numbers("level", level):
        if not 1 <= percent < 100:
            raise ArgumentError(
                f"level: expected percent, from 1 to below 100, received {percent}."
                + f" Did you mean {100 * percent:g}?" * (0 < percent < 1)
            )
        add(f"statecast-lo-{percent:g}", (100 - percent) / 200, "level")
        add(f"statecast-hi-{percent:g}", (100 + percent) / 200, "level")
    for quantile in check_numbers("quantiles", quantiles):
        if not 0 < quantile < 1:
            raise ArgumentError(
                f"quantiles: expected numbers above 0 and below 1, received {quantile}."
            )
        add(f"statecast-q-{quantile:g}", quantile, "quantiles")
    return columns
