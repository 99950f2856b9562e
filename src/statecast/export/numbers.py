"""The graphs of a ``Forecaster``: from X to a state, and one step of a state.

The equations are those of ``forecast.engine`` and ``forecast.companions``. The cells and the heads
are the same code, which records its graph (``export.graph``). What these compute by indexing with
arrays and by solving linear systems of many sizes is written anew here, for one step. The network
is float32, and analogues and calibration are float64, as in a forecast.

A step is a position: with several targets, one for each target of a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from statecast.errors import ArgumentError
from statecast.export.graph import Graph, Tensor, smallest, take, zeros
from statecast.forecast.analogues import GRAIN, NEAREST, WINDOW, Analogues
from statecast.forecast.companions import Companions
from statecast.forecast.endings import MOST_CATEGORIES
from statecast.heads.quantiles import QUANTILE_LEVELS
from statecast.networks.decoder import STEP_FUNCTIONS, Decoder, piecewise
from statecast.recurrence.cells import ClosedLoop, within
from statecast.tables.features import FIRST_CATEGORY, Columns, every_category
from statecast.tables.schema import Schema

F4, F8, I8 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64)
AFTER = "after/"  # of the names of the leaves after a step
MOST_BYTES = 1 << 30  # of the residuals of the analogues, in a file that holds at most 2 GB
LARGEST_INPUT = 1e6  # scaled values are limited to it, as in a panel
_LEVELS = len(QUANTILE_LEVELS)
_LOW, _MIDDLE, _HIGH = (QUANTILE_LEVELS.index(level) for level in (0.1, 0.5, 0.9))


@dataclass(frozen=True)
class Leaf:
    """A leaf of the state: its shape without rows, and its meaning."""

    shape: tuple[int, ...]
    meaning: str


# -- parts of networks of numbers and of tokens ------------------------------------------------


def features(graph: Graph, columns: Columns, name: str = "", what: str = "static") -> Any:
    """The inputs of feature columns, ``(numeric, codes)``; None where there are none."""
    width, count = columns.width, len(columns.categories)
    start = f"{name}_" if name else ""
    meaning = (
        f"{what}: the {width // 2} numeric features, standardised, 0 where missing; then a flag "
        "for each, 1 where missing"
    )
    numeric = codes = None
    if width:
        numeric = graph.input(f"{start}numeric", F4, ("rows", width), meaning)
    if count:
        meaning = f"{what}: the codes of the categorical features"
        codes = graph.input(f"{start}codes", I8, ("rows", count), meaning)
    return numeric, codes


def row_zeros(graph: Graph, numeric: Any, codes: Any) -> Any:
    """Zeros, float32 ``(rows, 1)``. Without features the number of rows is an input."""
    for given in (numeric, codes):
        if given is not None:
            return np.zeros_like(given[:, :1]).astype(F4)
    return zeros(graph.input("rows", I8, (), "the number of rows of the state"))


def encoded(
    weights: Mapping[str, np.ndarray],
    numeric: Any,
    codes: Any,
    intervals: int = 0,
    divided: Sequence[int] = (),
) -> Any:
    """``ArrayEncoder.encode`` of feature columns, ``(members, rows, width)``."""
    x: Any = weights["bias"][:, None]
    if numeric is not None:
        x = x + np.matmul(piecewise(numeric, intervals, divided, np), weights["kernel"])
    tables = [name for name in weights if name.startswith("embedding_")]
    for i in range(len(tables)):
        x = x + take(weights[f"embedding_{i}"], codes[:, i], axis=1)
    if "out/kernel" in weights:
        x = np.matmul(np.tanh(x), weights["out/kernel"]) + weights["out/bias"][:, None]
    return np.tanh(x)


def initial(weights: Mapping[str, np.ndarray], names: Any, x: Any, nothing: Tensor) -> Any:
    """``ArrayInitialState.start``: the leaves, ``(members, rows, units)``."""
    names = list(names)
    if f"{names[0]}/kernel" not in weights:
        return {name: weights[name][:, None] + nothing for name in names}

    def layer(name: str, x: Any) -> Any:
        return np.matmul(x, weights[f"{name}/kernel"]) + weights[f"{name}/bias"][:, None]

    depth = sum(name.startswith("trunk_") and name.endswith("/kernel") for name in weights)
    for i in range(depth):
        x = np.tanh(layer(f"trunk_{i}", x))
    return {name: layer(name, x) for name in names}


def read_state(graph: Graph, leaves: Mapping[str, Leaf]) -> dict[str, Tensor]:
    """The leaves of a state as inputs, rows first."""
    return {
        name: graph.input(name, F4, ("rows", *leaf.shape), leaf.meaning)
        for name, leaf in leaves.items()
    }


def write_state(
    graph: Graph, leaves: Mapping[str, Leaf], found: Mapping[str, Any], start: str = ""
) -> None:
    """The leaves of a state as outputs."""
    for name, leaf in leaves.items():
        graph.output(start + name, found[name].astype(F4), ("rows", *leaf.shape), leaf.meaning)


def cell_leaves(decoder: Any, members: int) -> dict[str, Leaf]:
    """The leaves of a decoder, with the members of the ensemble."""
    meaning = {
        "last": "the last value that was an input, scaled",
        "step": "the number of steps taken",
        "static": "the encoded static features",
        "pending": "the observation of the last step, an input of the next one",
    }
    return {
        name: Leaf((members, *shape), meaning.get(name, "of the recurrent cells"))
        for name, shape in decoder.state_shapes.items()
    }


# -- the forecaster ----------------------------------------------------------------------------


class NumberGraphs:
    """The graphs of a fitted ``Forecaster``.

    Parameters
    ----------
    decoder : Decoder
    weights : mapping of str to array
        As in a model file.
    companions : Companions
    schema : Schema

    Raises
    ------
    ArgumentError
        The analogues are too large for a file.
    """

    def __init__(
        self,
        decoder: Decoder,
        weights: Mapping[str, np.ndarray],
        companions: Companions,
        schema: Schema,
    ) -> None:
        self.decoder, self.weights, self.schema = decoder, weights, schema
        self.companions = companions
        self.members, self.targets = len(weights["decoder/head/bias"]), len(schema.targets)
        self.analogues = companions.analogues if companions.stacking is not None else None
        self.missing = companions.missing
        if self.analogues is not None:
            items, steps = self.analogues.y.shape
            size = 4 * items * steps * (steps + 1) // 2
            if size > MOST_BYTES:
                raise ArgumentError(
                    f"export: the residuals of {items:,} training items at {steps:,} steps, for "
                    f"each prefix length, would take {size / 1e9:.1f} GB of the file, which holds "
                    f"{MOST_BYTES / 1e9:.1f}. Fit with analogues=False, or with fewer items."
                )

    @property
    def leaves(self) -> dict[str, Leaf]:
        """The leaves of the state, by name. They are float32."""
        leaves = cell_leaves(self.decoder, self.members)
        leaves["known"] = Leaf((), "the steps up to the last observed one: the prefix length k")
        steps = self.schema.positions
        if self.analogues is not None:
            width = self.analogues.x.shape[1]
            if width:
                leaves["analogues/x"] = Leaf((width,), "the static features, for the analogues")
            leaves["analogues/y"] = Leaf((steps,), "the observed values, scaled")
            leaves["analogues/seen"] = Leaf((steps,), "1 at the steps that were observed")
            leaves["analogues/usable"] = Leaf((), "1 if the analogues can forecast the row")
            count = min(NEAREST, len(self.analogues.x))
            leaves["analogues/held"] = Leaf((), "1 if the next three leaves are of this prefix")
            leaves["analogues/mean"] = Leaf((steps,), "the mean of the linear model, scaled")
            leaves["analogues/near"] = Leaf((count,), "the nearest training items, by their index")
            leaves["analogues/weight"] = Leaf((count,), "the weights of these items")
            leaves["analogues/moved"] = Leaf(
                (self.targets, _LEVELS),
                "how far the analogues move the quantiles at the last step of training",
            )
        if self.missing is not None:
            leaves["missing"] = Leaf(
                self.missing.often.shape,
                "1 for a feature that is missing and rarely was in training",
            )
        endings = len(self._ending_categories()) + self.schema.static.width
        if self.companions.endings is not None and endings:
            leaves["endings/x"] = Leaf((endings,), "the static features, for the endings")
        if self.schema.bridges:
            leaves["latest"] = Leaf(
                (self.targets, 2), "each target's last observation, scaled, and its step, or 0"
            )
        return leaves

    def _ending_categories(self) -> np.ndarray:
        return every_category(self.schema.static.cardinalities, most=MOST_CATEGORIES)

    # -- from X to a state -----------------------------------------------------------------

    def encode(self) -> Graph:
        """The graph from the static features to the state before the first step."""
        graph, decoder, leaves = Graph("encode"), self.decoder, self.leaves
        numeric, codes = features(graph, self.schema.static)
        nothing = row_zeros(graph, numeric, codes)
        x: Any = None
        if numeric is not None or codes is not None:
            own = within(self.weights, "encoder")
            x = encoded(own, numeric, codes, decoder.intervals, decoder.divided)
        start = initial(within(self.weights, "initial"), decoder.stack.state_shapes, x, nothing)
        found = {f"cell/{name}": leaf.swapaxes(0, 1) for name, leaf in start.items()}
        if decoder.static:
            found["static"] = x.swapaxes(0, 1)
        if self.analogues is not None:
            found |= self._analogue_statics(numeric, codes)
        if self.missing is not None:
            gaps: list[Any] = []
            if numeric is not None:
                gaps.append((numeric[:, self.schema.static.width // 2 :] > 0).astype(F4))
            if codes is not None:
                gaps.append((codes < FIRST_CATEGORY).astype(F4))
            found["missing"] = np.concatenate(gaps, axis=1) * (self.missing.often == 0).astype(F4)
        if "endings/x" in leaves:
            found["endings/x"] = _one_hot(numeric, codes, self._ending_categories())
        # The observation before the first step is 0, the mean.
        pending = (np.arange(decoder.observation) == 1).astype(F4)
        others = {"pending": pending, "analogues/usable": np.ones((), F4)}
        for name, leaf in leaves.items():
            if name not in found:
                value = np.broadcast_to(others.get(name, np.zeros((), F4)), leaf.shape)
                found[name] = nothing[(slice(None), 0, *[None] * len(leaf.shape))] + value
        write_state(graph, leaves, found)
        return graph

    def _analogue_statics(self, numeric: Any, codes: Any) -> dict[str, Any]:
        """The leaves of ``Companions.start`` that depend on X."""
        own, found = self.analogues, {}
        assert own is not None
        if own.x.shape[1]:
            x = _one_hot(numeric, codes, own.categories)
            found["analogues/x"] = np.matmul(x.astype(F8), own.basis)
        n = self.schema.static.width // 2
        never, bad = (own.gaps == 0).astype(F4), []
        if n:
            bad.append((numeric[:, n:] > 0).astype(F4) * never[:n])
        if codes is not None:
            column, code = own.categories.T
            count = len(self.schema.static.categories)
            listed: Any = np.zeros(count, F4)
            if len(column):
                is_it = (take(codes, column, axis=1) == code).astype(F4)
                listed = np.matmul(is_it, (column[:, None] == np.arange(count)).astype(F4))
            listed = listed + np.zeros_like(codes).astype(F4)
            bad.append((1.0 - listed) * never[n:])
        if bad:
            worst = np.sum(np.concatenate(bad, axis=1), axis=1)
            found["analogues/usable"] = (worst < 0.5).astype(F4)
        return found

    # -- one step --------------------------------------------------------------------------

    def step(self) -> Graph:
        """The graph of one step: from a state and an observation to the next state, and the
        quantiles of the step's value given the observations before it."""
        graph, leaves = Graph("step"), self.leaves
        state = read_state(graph, leaves)
        value = graph.input("value", F4, ("rows",), "the observation, scaled; any number if none")
        observed = graph.input("observed", np.bool_, ("rows",), "whether there is an observation")
        place = self._place(state)
        limits = [LARGEST_INPUT]  # with several targets as in `Schema.inputs`
        if self.targets > 1:
            limits = [min(target.limit, LARGEST_INPUT) for target in self.schema.targets]
        limit = take(np.array(limits, F4), place.target)
        whole = np.clip(value, F4.type(-LARGEST_INPUT), F4.type(LARGEST_INPUT))
        value = np.where(observed, np.clip(value, -limit, limit), F4.type(0))
        network, after = self._network(graph, state, place, value, observed)
        quantiles = self._combined(graph, state, place, network, after)
        known = ((place.step + 1) * self.targets).astype(F4)
        after["known"] = np.where(observed, known, state["known"])
        after |= self._observations(state, place, value, whole, observed)
        write_state(graph, leaves, after, AFTER)
        meaning = "the quantiles of the step's value given the observations before it, scaled"
        graph.output("quantiles", quantiles, ("rows", _LEVELS), meaning)
        if self.companions.endings is not None:
            graph.output("ends", self._ends(state, place, quantiles, value, observed), ("rows",),
                "the probability that the step is the last one of the item, if it has this step: "
                "from the observation, or from the median where there is none",
            )  # fmt: skip
        return graph

    def _place(self, state: Mapping[str, Tensor]) -> _Place:
        position = np.rint(state["step"][:, 0, 0]).astype(I8)
        known = np.rint(state["known"]).astype(I8)
        if self.targets == 1:
            return _Place(position, position, np.zeros_like(position), known)
        return _Place(position, position // self.targets, position % self.targets, known)

    def _network(
        self, graph: Graph, state: Mapping[str, Tensor], place: _Place, value: Any, observed: Any
    ) -> tuple[Any, dict[str, Any]]:
        """The network's quantiles, ``(rows, levels)``, and its leaves after the step: a step of
        ``NumberEngine.quantiles``."""
        decoder, inner = self.decoder, within(self.weights, "decoder")
        each = np.zeros((self.members, 1, 1), F4)  # a copy for each member
        leaves = {name: state[name].swapaxes(0, 1) for name in decoder.state_shapes}
        now = [value[:, None], observed.astype(F4)[:, None]]
        seen = np.concatenate(now, axis=1)[None] + each
        if decoder.past:
            seen = np.concatenate([seen, self._covariates(graph, "past")], axis=-1)
        at = np.minimum(place.step + 1, decoder.horizon)
        parts = [leaves["pending"] if decoder.future else seen, take(_places(decoder), at) + each]
        if self.targets > 1:
            parts.append(take(np.eye(self.targets, dtype=F4), place.target, axis=0) + each)
        if decoder.future:
            parts.append(self._covariates(graph, "future"))
        if decoder.static:
            parts.append(leaves["static"])
        kernel, units = inner["head/kernel"], decoder.units
        base: Any = inner["head/bias"][:, None]
        if decoder.static:
            base = base + np.matmul(leaves["static"], kernel[:, units:])
        feed = decoder.head.location_index
        decay, stateful = inner["head/residual"], kernel[:, :units]
        loop = {f"cell/{name}": weight for name, weight in within(inner, "cell").items()}
        loop |= {"feed": stateful[..., feed : feed + 1], "decay": decay}
        before = {name: leaves[name] for name in leaves if name.startswith("cell/")}
        before |= {"last": leaves["last"], "base": base[..., feed : feed + 1]}
        x = np.concatenate(parts, axis=-1)
        y, after = ClosedLoop(decoder.stack).step(loop, x, before, np)
        output, last = y[..., :units], y[..., units:]
        if not decoder.future:  # the output before the step gives its distribution
            output, last = decoder.stack.output(within(before, "cell")), leaves["last"]
        raw = np.matmul(output, stateful) + base
        parameters = decoder.head.parameters(raw, last * decay[:, None])
        quantiles = decoder.head.quantile(parameters, QUANTILE_LEVELS)
        after |= {"step": leaves["step"] + F4.type(1), "pending": seen}
        after |= {"static": leaves["static"]} if decoder.static else {}
        network = np.sum(quantiles, axis=0) / F4.type(self.members)
        return network, {name: after[name].swapaxes(0, 1) for name in decoder.state_shapes}

    def _covariates(self, graph: Graph, name: str) -> Any:
        """``NumberEngine._encoded``: inputs of the recurrence, ``(members, rows, 1 + width)``."""
        columns = getattr(self.schema, name)
        numeric, codes = features(graph, columns, name, f"{name} covariates")
        meaning = {
            "future": "whether the future covariates of the step are known",
            "past": "whether the step is in the prefix and any past covariate has a value at it",
        }[name]
        if name == "past" and self.targets > 1:
            meaning += "; false with all targets but the last one"
        known = graph.input(f"{name}_there", np.bool_, ("rows",), meaning)
        flag = known.astype(F4)[:, None]
        x = encoded(within(self.weights, name), numeric, codes) * flag
        return np.concatenate([flag + np.zeros((self.members, 1, 1), F4), x], axis=-1)

    def _observations(
        self, state: Mapping[str, Tensor], place: _Place, value: Any, whole: Any, observed: Any
    ) -> dict[str, Any]:
        """The leaves that hold observations and X, after the step."""
        after: dict[str, Any] = {
            name: state[name] for name in ("analogues/x", "missing", "endings/x") if name in state
        }
        if self.analogues is not None:
            steps = np.arange(self.schema.positions)
            here = (steps == place.position[:, None]) & observed[:, None]
            after["analogues/y"] = np.where(here, value[:, None], state["analogues/y"])
            after["analogues/seen"] = np.where(here, F4.type(1), state["analogues/seen"])
            after["analogues/usable"] = state["analogues/usable"]
            after["analogues/held"] = 1.0 - observed.astype(F4)
        if "latest" in state:
            here = (np.arange(self.targets) == place.target[:, None]) & observed[:, None]
            found = [whole[:, None], (place.step + 1).astype(F4)[:, None]]
            found = np.concatenate(found, axis=1)[:, None]
            after["latest"] = np.where(here[..., None], found, state["latest"])
        return after

    # -- analogues, stacking and calibration -----------------------------------------------------

    def _combined(
        self,
        graph: Graph,
        state: Mapping[str, Tensor],
        place: _Place,
        network: Any,
        after: dict[str, Any],
    ) -> Any:
        """``Companions.combine``, float32 ``(rows, levels)``. It adds its leaf to ``after``."""
        stacking = self.companions.stacking
        if stacking is None:
            return network
        steps, quantiles = self.schema.positions, network.astype(F8)
        applies = place.position >= place.known  # not within a step of which a target is observed
        alone: Any = None  # rows with a missing feature: the network's forecast, calibrated for it
        if self.missing is not None:
            alone = np.sum(state["missing"], axis=1) > 0.5
        fitted = np.sum((stacking.known <= place.known[:, None]).astype(I8), axis=1) - 1
        if self.analogues is not None:
            other, held = _Analogues(graph, self.analogues).forecast(state, place)
            after |= held
            weight = take(stacking.weight, fitted)[:, None]
            usable = (state["analogues/usable"] > 0)[:, None]
            if alone is not None:
                usable = usable & ~alone[:, None]
            blended = weight * quantiles + (1.0 - weight) * other
            blended = np.where(usable, blended, quantiles)
            # Beyond the longest training item the quantiles move as at its last step.
            moved, own = state["analogues/moved"], np.arange(self.targets) == place.target[:, None]
            ends = (place.position >= steps - self.targets) & (place.position < steps)
            new = (blended - quantiles).astype(F4)[:, None]
            after["analogues/moved"] = np.where((own & ends[:, None])[..., None], new, moved)
            beyond = quantiles + np.sum(moved * own.astype(F4)[..., None], axis=1)
            inside = (place.position < steps)[:, None]
            quantiles = np.sort(np.where(inside, blended, beyond), axis=-1)
            applies = applies & ((place.known < steps) | ~usable[:, 0])
        ahead = np.maximum(place.position - place.known, 0)
        ahead = np.minimum(ahead, steps - self.targets + ahead % self.targets)
        offset = take(stacking.offset.reshape(-1, _LEVELS), fitted * steps + ahead, axis=0)
        if alone is not None:
            offset = np.where(alone[:, None], self._missing_offset(state, place), offset)
        width = quantiles[:, _HIGH : _HIGH + 1] - quantiles[:, _LOW : _LOW + 1]
        quantiles = np.sort(quantiles + offset * np.maximum(width, 1e-6), axis=-1)
        if self.companions.dependence is not None:
            middle = quantiles[:, _MIDDLE : _MIDDLE + 1]
            spread = take(self.companions.dependence.spread, fitted)[:, None]
            quantiles = middle + spread * (quantiles - middle)
        return np.where(applies[:, None], quantiles.astype(F4), network)

    def _missing_offset(self, state: Mapping[str, Tensor], place: _Place) -> Any:
        """The offsets of ``MissingFeatures.calibrate``, ``(rows, levels)``."""
        own = self.missing
        assert own is not None
        count = len(own.often)
        fitted = np.sum((own.known <= place.known[:, None]).astype(I8), axis=1) - 1
        missing = (state["missing"] > 0).astype(I8)
        first = np.sum(missing * np.arange(count), axis=1)  # the only one
        which = np.where(np.sum(missing, axis=1) > 1, count, first)
        return take(own.offset.reshape(-1, _LEVELS), fitted * (count + 1) + which, axis=0)

    def _ends(
        self, state: Mapping[str, Tensor], place: _Place, quantiles: Any, value: Any, observed: Any
    ) -> Any:
        """``Endings.chance`` of the step, float32 ``(rows,)``."""
        endings, (one,) = self.companions.endings, self.schema.targets
        assert endings is not None
        at = np.minimum(place.step, one.steps - 1)
        z = np.where(observed, value, quantiles[:, _MIDDLE]).astype(F8)
        line = z * take(one.scaling, at) + take(one.location, at)
        x: Any = state["endings/x"].astype(F8) if "endings/x" in state else line[:, None][:, :0]
        return endings.chance(x, place.step + 1, line).astype(F4)


@dataclass(frozen=True)
class _Place:
    """Where the rows are: tensors of whole numbers, ``(rows,)``.

    ``position`` is the number of positions taken, ``step`` and ``target`` are those of the next
    one, from 0. ``known`` is the prefix length, in positions.
    """

    position: Any
    step: Any
    target: Any
    known: Any


class _Analogues:
    """``Analogues.forecast`` of one step, float64."""

    def __init__(self, graph: Graph, own: Analogues) -> None:
        self.graph, self.own = graph, own
        self.items, self.steps = own.y.shape
        self.count = min(NEAREST, self.items)

    def forecast(self, state: Mapping[str, Tensor], place: _Place) -> tuple[Any, dict[str, Any]]:
        """The quantiles, ``(rows, levels)``, and the leaves that depend on k. The quantiles have no
        meaning where ``known`` is ``steps`` or more, and at other steps than those from ``known``
        on."""
        names = [f"analogues/{name}" for name in ("mean", "near", "weight")]
        k = np.minimum(place.known, self.steps - 1)
        stale = state["analogues/held"] < 0.5

        def conditioned(_: Any, held: tuple[Any, ...]) -> tuple[Any, ...]:
            found = self._conditioned(state, k)
            return tuple(
                np.where(stale[:, None], new.astype(F4), old)
                for new, old in zip(found, held, strict=True)
            )

        # Computed if the prefix of any row has changed: not in the steps of a forecast.
        once = np.minimum(np.sum(stale.astype(I8), axis=0), 1)
        held = self.graph.loop(once, conditioned, [state[name] for name in names])
        mean, near, weight = held
        at = np.maximum(np.minimum(place.position, self.steps - 1), k)
        values = self._residuals(np.rint(near).astype(I8), k, at)
        found = _weighted_quantiles(values, weight.astype(F8))
        found = found + np.take_along_axis(mean, at[:, None], axis=1)
        return found, dict(zip(names, held, strict=True))

    def _conditioned(self, state: Mapping[str, Tensor], k: Any) -> tuple[Any, Any, Any]:
        """What depends on the prefix: the mean, ``(rows, steps)``; the indices of the nearest
        training items, and their weights, ``(rows, n)``."""
        seen = (state["analogues/seen"] > 0) & (np.arange(self.steps) < k[:, None])
        y, x = state["analogues/y"].astype(F8), None
        if "analogues/x" in state:
            x = state["analogues/x"].astype(F8)
        mean = self._mean(x, y, seen)
        return mean, *self._nearest(x, np.where(seen, y, mean), k)

    def _mean(self, x: Any, y: Any, seen: Any) -> Any:
        """``Linear.mean`` of the model of all items, ``(rows, steps)``."""
        path, ridge, steps = self.own.paths[-1], self.own.ridge, self.steps
        prior: Any = path.bias
        if x is not None:
            prior = np.matmul(x - path.centre, path.kernel) + prior
        count = min(WINDOW, steps)
        order: Any = np.where(seen, -np.arange(steps), 1)
        last, _ = smallest(order, count)  # the observed steps, the last one first
        used, at = last <= 0, np.maximum(-last, 0)
        covariance = self.graph.hold(path.covariance)
        rows = take(covariance, at, axis=0)
        inner = np.take_along_axis(rows, at[:, None] + np.zeros((count, 1), I8), axis=2)
        inner = np.where(used[:, :, None] & used[:, None], inner, 0.0)
        inner = inner + np.eye(count) * np.where(used, ridge, 1.0)[:, None]
        error = np.where(used, np.take_along_axis(y - prior, at, axis=1), 0.0)
        count = np.sum(np.minimum(np.sum(used.astype(I8), axis=0), 1), axis=0)  # of any row
        solved = _solved(self.graph, inner, error, count)
        return np.matmul(solved[:, None], rows)[:, 0] + prior

    def _nearest(self, x: Any, y: Any, k: Any) -> tuple[Any, Any]:
        """``Analogues.nearest``: the indices of training items, and their weights."""
        own, hold = self.own, self.graph.hold
        width = own.x.shape[1]
        lags = np.zeros((self.steps, self.steps))  # of each k, the weight of each observation
        for known in range(self.steps):
            lags[known, :known] = np.square(own.scale(known)[width:])
        parts: list[Any] = [(y, hold(own.filled()), take(lags, k))]
        if x is not None:
            parts.append((x, hold(own.x).astype(F8), np.square(own.scale(0))))
        distance: Any = 0.0
        for ours, theirs, weight in parts:
            of = theirs.swapaxes(0, 1)
            distance = distance - 2.0 * np.matmul(ours * weight, of)
            distance = distance + np.sum(ours * ours * weight, axis=1)[:, None]
            distance = distance + np.matmul(weight, of * of)
        rank = np.rint(np.clip(distance, 0.0, 1e6) / GRAIN)
        rank, near = smallest(rank, self.count)
        distance = rank * GRAIN
        weight = np.exp(np.maximum(distance[:, :1] - distance, -600.0))
        return near, weight / np.sum(weight, axis=1)[:, None]

    def _residuals(self, near: Any, k: Any, at: Any) -> Any:
        """The residuals of training items at one step, given their first k steps; NaN where they
        were not observed."""

        def of(known: int) -> np.ndarray:
            own = replace(self.own, _cache={})  # so that the residuals of every k are not kept
            return np.ascontiguousarray(own.residuals(known)[:, known:].T)

        # Of each k, the steps from k on.
        table = np.concatenate([of(known) for known in range(self.steps)])
        first = np.cumsum([0, *range(self.steps, 1, -1)])
        row = take(first, k) + at - k
        return take(table.ravel(), row[:, None] * self.items + near).astype(F8)


def _weighted_quantiles(values: Any, weight: Any) -> Any:
    """``analogues.weighted_quantiles`` of one step, ``(rows, levels)``."""
    count = values.example.shape[1]
    has = ~np.isnan(values)  # the weight of a distant item may be 0 in float32, but counts
    values, order = smallest(np.where(has, values, np.inf), count)
    share = np.take_along_axis(np.where(has, weight + 1e-9, 0.0), order, axis=1)
    values = np.where(values < np.inf, values, 0.0)
    upto = np.cumsum(share, axis=1)
    middle = (upto - 0.5 * share) / np.maximum(upto[:, -1:], 1e-30)
    levels = np.array(QUANTILE_LEVELS)
    below = np.sum((middle[..., None] < levels).astype(I8), axis=1)
    most = np.maximum(np.sum(has.astype(I8), axis=1) - 1, 0)
    after = np.minimum(below, most[:, None])
    before = np.maximum(after - 1, 0)
    first, low, then, high = (
        np.take_along_axis(each, at, axis=1) for at in (before, after) for each in (middle, values)
    )
    part = (levels - first) / np.maximum(then - first, 1e-12)
    return low + (high - low) * np.clip(part, 0.0, 1.0)


def _solved(graph: Graph, matrix: Any, right: Any, count: Any) -> Any:
    """The solutions of linear systems ``(rows, n, n)`` with positive definite matrices, and right
    sides ``(rows, n)``: by elimination (Gauss and Jordan), without pivots.

    From ``count``, a whole number, on the matrices are diagonal, and the right sides are 0.
    """
    size = right.example.shape[1]

    def eliminate(i: Any, carried: Any) -> Any:
        (system,) = carried
        row = take(system, i, axis=1)
        row = row / take(row, i, axis=1)[:, None]
        # The row itself becomes `row`: it loses all of itself, and gets `row`.
        column = take(system, i, axis=2) - (np.arange(size) == i).astype(F8)
        return (system - column[..., None] * row[:, None],)

    (system,) = graph.loop(count, eliminate, [np.concatenate([matrix, right[..., None]], axis=2)])
    return system[..., size]


def _places(decoder: Decoder) -> np.ndarray:
    """The radial basis functions of every step, as in ``NumberEngine``."""
    place = np.arange(decoder.horizon + 1, dtype=F4) / F4.type(decoder.horizon)
    centres = np.arange(STEP_FUNCTIONS, dtype=F4)
    return np.exp(-np.square((STEP_FUNCTIONS - 1) * place[:, None] - centres))


def _one_hot(numeric: Any, codes: Any, categories: np.ndarray) -> Any:
    """``tables.features.one_hot``, float32."""
    parts = [] if numeric is None else [numeric]
    if len(categories):
        parts.append((take(codes, categories[:, 0], axis=1) == categories[:, 1]).astype(F4))
    return np.concatenate(parts, axis=1)
