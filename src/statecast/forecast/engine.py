"""``NumberEngine``: a trained network of numbers on NumPy arrays.

No backend is used, and nothing is compiled: the native kernel computes a whole call. So a forecast
has the same speed and the same bits, whichever backend trained the network. The results equal those
of ``networks.network.Network``, which defines them, to 1e-5.

With the native library the results of a row do not depend on the other rows of the call, to the
bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from statecast.heads.quantiles import QUANTILE_LEVELS
from statecast.heads.special import LEAST_LEVEL, normal_quantile
from statecast.networks.arrays import ArrayEncoder, ArrayInitialState, affine, closed_loop
from statecast.networks.decoder import EMPTY, STEP_FUNCTIONS, Decoder
from statecast.recurrence.cells import within
from statecast.tables.panel import Panel

Leaves = dict[str, np.ndarray]
_CELLS = 1 << 20  # the approximate size of an array within a call: it fits into the CPU's caches

# Forecasts far from the data may leave the range of float32. The forecaster checks its results.
_RANGE = np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore")


class NumberEngine:
    """A fitted network of numbers, for NumPy arrays.

    Leaves are float32 ``(rows, members, ...)``, with the names of ``decoder.state_shapes``. The
    number of steps taken is the same for all members of a row. Several threads may use one engine
    at once.

    Parameters
    ----------
    decoder : Decoder
    weights : mapping of str to array
        By their names in a model file, float32 ``(members, ...)``.
    """

    def __init__(self, decoder: Decoder, weights: Mapping[str, np.ndarray]) -> None:
        self.decoder, self._weights = decoder, weights
        inner, units = within(weights, "decoder"), decoder.units
        self._kernel, self._bias = inner["head/kernel"], inner["head/bias"]
        self._decay = inner["head/residual"][:, 0]
        self.members = len(self._decay)
        stateful, feed = self._kernel[:, :units], decoder.head.location_index
        self._loop = closed_loop(
            decoder.stack, within(inner, "cell"), stateful[..., feed], self._decay, stateful,
            decoder.head.native, QUANTILE_LEVELS,
        )  # fmt: skip
        self._read = affine(stateful, np.zeros_like(self._bias))
        self._base = affine(self._kernel[:, units:], self._bias) if decoder.static else None
        encoders = {name: within(weights, name) for name in ("encoder", "past", "future")}
        self._encoders = {
            name: ArrayEncoder(own, decoder.intervals, decoder.divided if name == "encoder" else ())
            for name, own in encoders.items()
            if own
        }
        self._initial = ArrayInitialState(within(weights, "initial"), decoder.stack.state_shapes)
        # The radial basis functions of every step; after the horizon they are those of the horizon.
        place = np.arange(decoder.horizon + 1, dtype=np.float32) / np.float32(decoder.horizon)
        centres = np.arange(STEP_FUNCTIONS, dtype=np.float32)
        self._places = np.exp(-np.square((STEP_FUNCTIONS - 1) * place[:, None] - centres))

    def member(self, number: int) -> NumberEngine:
        """The engine of one member, from 0."""
        own = {name: weight[number : number + 1] for name, weight in self._weights.items()}
        return NumberEngine(self.decoder, own)

    # -- states ------------------------------------------------------------------------------

    @_RANGE
    def start(self, numeric: np.ndarray, codes: np.ndarray) -> Leaves:
        """The leaves before the first step.

        Parameters
        ----------
        numeric, codes : arrays, ``(rows, n)``
            The static features.
        """
        decoder, shape = self.decoder, (self.members, len(codes))
        x = np.zeros((*shape, 0), np.float32)
        if "encoder" in self._encoders:
            x = self._encoders["encoder"].encode(numeric, codes)
        leaves = {f"cell/{name}": leaf for name, leaf in self._initial.start(x).items()}
        leaves |= {name: np.zeros((*shape, 1), np.float32) for name in ("last", "step")}
        if decoder.static:
            leaves["static"] = x
        if decoder.future:  # the observation before the first step is 0, the mean
            pending = np.zeros((*shape, decoder.observation), np.float32)
            pending[..., 1] = 1.0
            leaves["pending"] = pending
        return self._rows_first(leaves)

    @_RANGE
    def advance(
        self,
        leaves: Mapping[str, np.ndarray],
        value: np.ndarray,
        observed: np.ndarray,
        active: np.ndarray,
        covariates: Mapping[str, np.ndarray] = EMPTY,
    ) -> Leaves:
        """The leaves after further steps.

        Parameters
        ----------
        leaves : mapping of str to array, ``(rows, members, ...)``
        value : array, ``(rows, steps)``
            Scaled observations.
        observed : array of bool, ``(rows, steps)``
            Where False, the median forecast takes the place of the value.
        active : array of bool, ``(rows, steps)``
            False for a step that is skipped, which leaves the state unchanged. With future
            covariates only the last steps of a row may be skipped.
        covariates : mapping of str to array, ``(rows, steps, ...)``
            ``future_numeric``, ``future_codes`` and ``future_there`` with future covariates; with
            past ones likewise ``past_...``.
        """
        steps = (value, observed, active, covariates)
        return _joined(
            [
                self._rows_first(self._run(inner, *_of(steps, rows))[1])
                for rows, inner in self._parts(leaves, value.shape[1])
            ]
        )

    @_RANGE
    def quantiles(
        self,
        leaves: Mapping[str, np.ndarray],
        value: np.ndarray,
        observed: np.ndarray,
        active: np.ndarray,
        covariates: Mapping[str, np.ndarray] = EMPTY,
    ) -> tuple[np.ndarray, Leaves]:
        """The forecast of every step from the observations before it, and the leaves after all.

        The parameters are those of ``advance``.

        Returns
        -------
        quantiles : array, float32, ``(rows, steps, len(QUANTILE_LEVELS))``
            The means of the members' quantiles (Vincent 1912), scaled; undefined at skipped steps.
            The mean of quantiles has about the shape and width of a member's distribution. A
            mixture of the distributions would be wider, by the spread between the members.
        leaves : dict of str to array
        """
        found, parts = [], []
        steps = (value, observed, active, covariates)
        for rows, inner in self._parts(leaves, value.shape[1]):
            each, after = self._run(inner, *_of(steps, rows), read=True)
            total = np.array(each[0])  # one after the other: NumPy's order depends on the shape
            for one in each[1:]:
                total += one
            found.append(total / np.float32(self.members))
            parts.append(self._rows_first(after))
        return np.concatenate(found), _joined(parts)

    @_RANGE
    def sample(
        self,
        leaves: Mapping[str, np.ndarray],
        uniform: np.ndarray,
        covariates: Mapping[str, np.ndarray] = EMPTY,
    ) -> np.ndarray:
        """Joint sample paths. Each member draws a path for each row; a draw is its next input.

        Parameters
        ----------
        leaves : mapping of str to array, ``(rows, members, ...)``
        uniform : array, float32, ``(rows, members, steps)``
            Between 0 and 1; clipped to ``LEAST_LEVEL`` and 1 minus it.
        covariates : mapping of str to array, ``(rows, steps, ...)``
            As in ``advance``.

        Returns
        -------
        array, float32, ``(rows, members, steps)``
            Scaled, before they are rounded to values that can be observed (whole numbers, for
            counts), so that no two draws are equal.
        """
        uniform = np.clip(uniform, LEAST_LEVEL, 1.0 - LEAST_LEVEL)
        return np.concatenate(
            [
                self._drawn(inner, uniform[rows], _of(covariates, rows)).swapaxes(0, 1)
                for rows, inner in self._parts(leaves, uniform.shape[2])
            ]
        )

    # -- inside: members first, rows second ------------------------------------------------------

    def _parts(
        self, leaves: Mapping[str, np.ndarray], steps: int
    ) -> Iterator[tuple[slice, Leaves]]:
        """The rows in parts, and the leaves of each part, members first."""
        decoder, rows = self.decoder, len(leaves["last"])
        widest = max(decoder.width, decoder.units, decoder.head.size)
        size = max(1, _CELLS // (self.members * max(steps, 1) * widest))
        for first in range(0, max(rows, 1), size):
            part = slice(first, first + size)
            yield (
                part,
                {
                    name: np.asarray(leaves[name][part].swapaxes(0, 1), np.float32, order="C")
                    for name in decoder.state_shapes
                },
            )

    def _rows_first(self, leaves: Leaves) -> Leaves:
        return {
            name: np.ascontiguousarray(leaves[name].swapaxes(0, 1))
            for name in self.decoder.state_shapes
        }

    def _run(
        self,
        leaves: Leaves,
        value: np.ndarray,
        observed: np.ndarray,
        active: np.ndarray,
        covariates: Mapping[str, np.ndarray],
        *,
        read: bool = False,
    ) -> tuple[np.ndarray, Leaves]:
        """All steps. Returns the members' quantiles of each step, if ``read``, else the outputs of
        the stack; and the leaves after them."""
        decoder, shape = self.decoder, (self.members, *value.shape)
        x, outside = self._inputs(leaves, value, observed, active, covariates)
        base, last = self._constant(leaves), leaves["last"][..., 0]
        cell, feedback = within(leaves, "cell"), base[..., decoder.head.location_index]
        mask = None if active.all() else np.broadcast_to(active, shape)
        head: dict[str, Any] = {}
        if read and self._loop.head is not None:
            head = {"constant": base, "after": bool(decoder.future)}
        y, taken, after = self._loop.run(x, x[..., 1] > 0, cell, feedback, last, mask, **head)
        after = {f"cell/{name}": leaf for name, leaf in after.items()} | outside
        after["last"] = np.concatenate([last[..., None], taken], axis=2)[..., -1:]
        if not read or head:
            return y, after
        if not decoder.future:  # the output after step t gives the distribution of step t + 1
            first = np.asarray(decoder.stack.output(cell))[:, :, None]
            y = np.concatenate([first, y], axis=2)[:, :, :-1]
            taken = np.concatenate([last[..., None], taken], axis=2)[..., :-1]
            if mask is not None:  # before the first step that is not skipped
                skipped = np.cumsum(active, axis=1) - active == 0
                y = np.where(skipped[..., None], first, y)
        parameters = self._parameters(y, taken, base[:, :, None])
        return decoder.head.quantile(parameters, QUANTILE_LEVELS), after

    def _constant(self, leaves: Leaves) -> np.ndarray:
        """What is added to the raw numbers of the head at each step, ``(members, rows, size)``."""
        if self._base is not None:
            return self._base.map(leaves["static"])
        rows = leaves["last"].shape[1]
        return np.repeat(self._bias[:, None], rows, axis=1)

    def _parameters(self, outputs: np.ndarray, taken: np.ndarray, base: np.ndarray) -> np.ndarray:
        """The head's parameters ``(members, ..., size)``, from outputs ``(members, ..., units)``
        and the values ``(members, ...)`` that the locations are relative to."""
        flat = (self.members, math.prod(taken.shape[1:]), outputs.shape[-1])
        raw = self._read.map(outputs.reshape(flat)).reshape(*taken.shape, base.shape[-1]) + base
        decay = self._decay.reshape(-1, *[1] * taken.ndim)
        return self.decoder.head.parameters(raw, taken[..., None] * decay)

    def _inputs(
        self,
        leaves: Leaves,
        value: np.ndarray,
        observed: np.ndarray,
        active: np.ndarray | None,
        covariates: Mapping[str, np.ndarray],
    ) -> tuple[np.ndarray, Leaves]:
        """The stack's inputs, ``(members, rows, steps, width)``, and the values after the last step
        of the leaves that the recurrence does not change. ``active`` None is all steps."""
        decoder, (rows, steps) = self.decoder, value.shape
        x = np.empty((self.members, rows, steps, decoder.width), np.float32)
        seen = x[..., : decoder.observation]
        late = np.empty((*x.shape[:2], steps + 1, decoder.observation), np.float32)
        if decoder.future:
            late[:, :, 0], seen = leaves["pending"], late[:, :, 1:]
        seen[..., 0], seen[..., 1] = value, observed
        if decoder.past:
            seen[..., 2:] = self._encoded("past", covariates)
        if active is None:
            step = np.broadcast_to(np.arange(1, steps + 1), value.shape)
            total = np.full(rows, steps)
        else:
            step, total = np.cumsum(active, axis=1), active.sum(axis=1)
        after = {"step": leaves["step"] + total[:, None].astype(np.float32)}
        if decoder.future:  # the observation of a step is an input of the next one
            x[..., : decoder.observation] = late[:, :, :-1]
            after["pending"] = late[:, np.arange(rows), total]
        step = step + np.rint(leaves["step"][0]).astype(np.int64)  # equal for all members
        step, target = np.divmod(np.maximum(step - 1, 0), decoder.targets)
        at = decoder.observation
        x[..., at : at + STEP_FUNCTIONS] = self._places[np.minimum(step + 1, decoder.horizon)]
        at += STEP_FUNCTIONS
        if decoder.targets > 1:
            x[..., at : at + decoder.targets] = np.eye(decoder.targets, dtype=np.float32)[target]
            at += decoder.targets
        if decoder.future:
            x[..., at : at + decoder.future] = self._encoded("future", covariates)
            at += decoder.future
        if decoder.static:
            x[..., at:] = leaves["static"][:, :, None]
            after["static"] = leaves["static"]
        return x, after

    def _encoded(self, name: str, covariates: Mapping[str, np.ndarray]) -> np.ndarray:
        """Covariates as inputs, ``(members, rows, steps, 1 + encoding)``: a flag that is 1 where
        they are known, and their encoding."""
        known = covariates[f"{name}_there"].astype(np.float32)
        numeric, codes = (covariates[f"{name}_{part}"] for part in ("numeric", "codes"))
        flat = [each.reshape(known.size, each.shape[-1]) for each in (numeric, codes)]
        encoded = self._encoders[name].encode(*flat)
        encoded = encoded.reshape(self.members, *known.shape, encoded.shape[-1])
        flag = np.broadcast_to(known[..., None], (*encoded.shape[:-1], 1))
        return np.concatenate([flag, flag * encoded], axis=-1)

    def _drawn(
        self, leaves: Leaves, uniform: np.ndarray, covariates: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """``sample``, ``(members, rows, steps)``."""
        decoder, head, (rows, _, steps) = self.decoder, self.decoder.head, uniform.shape
        ones = np.ones((rows, steps), np.float32)
        x, _ = self._inputs(leaves, ones, ones, None, covariates)
        base, last = self._constant(leaves), leaves["last"][..., 0]
        cell, drawn = within(leaves, "cell"), np.empty((self.members, rows, steps), np.float32)
        output = decoder.stack.output(cell)
        if decoder.future:  # the value of the step before is an input: observed, or the feedback
            at = head.location_index
            raw = self._read.map(output)[..., at] + base[..., at]
            raw += self._decay[:, None] * last
            last = np.where(leaves["pending"][..., 1] > 0, leaves["pending"][..., 0], raw)
        if self._loop.head is not None:
            level = uniform.swapaxes(0, 1)
            deviate = None if self._loop.head.family == "quantiles" else normal_quantile(level)
            after = bool(decoder.future)
            return self._loop.draw(x, cell, last, base, level, deviate, after=after)
        for step in range(steps):
            now = x[:, :, step]
            if decoder.future:
                now[..., 0] = last
                output, cell = self._loop.step(now, cell)
            parameters = self._parameters(output, last, base)
            levels = uniform[..., step].swapaxes(0, 1)[..., None]
            drawn[..., step] = head.quantile(parameters, levels)[..., 0]
            last = head.observable(drawn[..., step])
            if not decoder.future:
                now[..., 0] = last
                output, cell = self._loop.step(now, cell)
        return drawn


def first_steps(array: np.ndarray, until: int) -> np.ndarray:
    """The first ``until`` columns of a matrix; missing columns are zeros."""
    out = np.zeros((len(array), until), array.dtype)
    out[:, : array.shape[1]] = array[:, :until]
    return out


def panel_covariates(panel: Panel, steps: np.ndarray, known: np.ndarray) -> dict[str, np.ndarray]:
    """The panel's covariates at ``steps``, ``(rows or 1, n)``, from 0, as the engine takes them.

    Past covariates are inputs at the first ``known``, ``(rows,)``, steps only.
    """
    if panel.future is None and panel.past is None:
        return {}
    steps = np.broadcast_to(steps, (panel.rows, steps.shape[1]))
    found = {} if panel.future is None else panel.future.at(steps).named("future")
    if panel.past is not None:
        past = panel.past.at(steps)
        found |= past.named("past") | {"past_there": past.there & (steps < known[:, None])}
    return found


def _of(steps: Any, rows: slice) -> Any:
    """The rows of arrays, of a mapping of arrays, or of a tuple of these."""
    if isinstance(steps, tuple):
        return tuple(_of(each, rows) for each in steps)
    if isinstance(steps, Mapping):
        return {name: each[rows] for name, each in steps.items()}
    return steps[rows]


def _joined(parts: list[Leaves]) -> Leaves:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
