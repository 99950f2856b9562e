"""``Companions``: the models that a forecaster of numbers fits beside its network.

Analogues are a second forecast from similar training items. Stacking averages the quantiles of the
network and of the analogues, and calibrates them on held-out items. Missing features have offsets
of their own. Endings give the probability that a path ends. Dependence is that between the items
of a group, and pooling moves a forecast by what other items of its group did. All of them work on
arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from statecast.forecast.analogues import MOST_ITEMS as MOST_ANALOGUES
from statecast.forecast.analogues import MOST_STEPS, NEAREST, Analogues, prefixes
from statecast.forecast.dependence import Dependence
from statecast.forecast.endings import Endings, statics, width
from statecast.forecast.engine import NumberEngine, first_steps, panel_covariates
from statecast.forecast.missing import MissingFeatures
from statecast.forecast.pooling import MOST_POSITIONS, Pooling
from statecast.forecast.stacking import FEWEST, Stacking
from statecast.forecast.stacking import MOST_ITEMS as MOST_STACKED
from statecast.heads.quantiles import QUANTILE_LEVELS, Quantiles
from statecast.heads.special import normal_quantile
from statecast.tables.panel import Panel
from statecast.tables.schema import Schema

_MOST_INCOMPLETE = 300  # held-out items that are forecast without each feature
# The longest prefix, in steps, from which they are: the longer it is, the less a feature matters.
_SHORT = 8


@dataclass(frozen=True, eq=False)
class Companions:
    """The models beside the network.

    Attributes
    ----------
    analogues : Analogues or None
    stacking : Stacking or None
    missing : MissingFeatures or None
        None without stacking or without static features.
    endings : Endings or None
        None for a model that was not fitted.
    dependence : Dependence or None
        None without stacking or without ``group_col``.
    pooling : Pooling or None
        None without dependence, and for items of more than ``MOST_POSITIONS`` positions.
    """

    analogues: Analogues | None = None
    stacking: Stacking | None = None
    missing: MissingFeatures | None = None
    endings: Endings | None = None
    dependence: Dependence | None = None
    pooling: Pooling | None = None

    @classmethod
    def parts(cls) -> tuple[str, ...]:
        """The names of the parts, as a model file has them."""
        return tuple(each.name for each in fields(cls))

    def fit(
        self,
        engine: NumberEngine,
        panel: Panel,
        held: np.ndarray,
        schema: Schema,
        *,
        analogues: bool,
        seed: int,
    ) -> Companions:
        """Fit the analogues and the stacking; with fewer than ``FEWEST`` held-out items, neither.

        Parameters
        ----------
        engine : NumberEngine
            The trained network.
        panel : Panel
            The training items.
        held : array of bool, ``(members, rows)``
            The rows that each member holds out.
        schema : Schema
            Of the panel.
        analogues : bool
            Whether to fit the analogues.
        seed : int
            For the selection of items.

        Returns
        -------
        Companions
            These models and the ones fitted here.
        """
        # In random order: `Analogues.fit` needs it, and the first rows are a random sample.
        order = np.random.default_rng([seed, 4]).permutation(panel.rows)[:MOST_ANALOGUES]
        every_group = panel.group
        panel, held = panel.take(order), held[:, order]
        rows = np.flatnonzero(held.any(axis=0))[:MOST_STACKED]
        if len(rows) < FEWEST:
            return self
        found = None
        if analogues and panel.y.shape[1] <= MOST_STEPS:
            found = Analogues.fit(
                panel.ids,
                panel.numeric,
                panel.codes,
                panel.y,
                panel.mask,
                panel.groups,
                seed=seed,
                targets=panel.targets,
            )
        some, ours, theirs = panel.take(rows), {}, {}
        known = prefixes(panel.y.shape[1], panel.targets)
        for k, quantiles in _held_out(engine, some, held[:, rows], known):
            ours[k] = quantiles
            if found is not None:
                seen = some.mask & (np.arange(some.mask.shape[1]) < k)
                x, all_k = found.features(some.numeric, some.codes), np.full(len(rows), k)
                theirs[k] = found.forecast(x, some.y, seen, all_k, QUANTILE_LEVELS, items=rows)
        truth = np.where(some.mask, some.y, np.nan)
        stacking = Stacking.fit(truth, ours, theirs or None, panel.targets)
        missing = None
        if panel.numeric.shape[1] + panel.codes.shape[1]:
            few, short = rows[:_MOST_INCOMPLETE], [k for k in known if k <= _SHORT * panel.targets]

            def forecasts(numeric: np.ndarray, codes: np.ndarray) -> dict[int, np.ndarray]:
                part = replace(panel.take(few), numeric=numeric, codes=codes)
                return dict(_held_out(engine, part, held[:, few], short))

            rng = np.random.default_rng([seed, 6])
            missing = MissingFeatures.fit(
                panel.numeric, panel.codes, truth[: len(few)], few, forecasts, rng
            )
        dependence = pooling = None
        if schema.group_col is not None:
            assert panel.group is not None  # with `group_col`
            assert every_group is not None
            scores, group, calibrated = [], panel.group[rows], {}
            for k, quantiles in ours.items():
                every = np.full(len(rows), k)
                if k in theirs:
                    quantiles = stacking.blend(quantiles, theirs[k], every)
                calibrated[k] = stacking.calibrate(quantiles, every)
                score, at = _total_scores(some, truth, calibrated[k], k, schema)
                scores.append((group[at], every[at], score))
            dependence = Dependence.fit(stacking.known, scores)
            if truth.shape[1] <= MOST_POSITIONS:
                score = score_of(truth, calibrated[0])
                pooling = Pooling.fit(truth, score, calibrated, group, every_group)
        return replace(
            self,
            analogues=found,
            stacking=stacking,
            missing=missing,
            dependence=dependence,
            pooling=pooling,
        )

    # -- files -------------------------------------------------------------------------

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name, as a model file stores them."""
        return {
            f"{name}/{leaf}": np.ascontiguousarray(array)
            for name in self.parts()
            if getattr(self, name) is not None
            for leaf, array in getattr(self, name).arrays().items()
        }

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, Mapping[str, np.ndarray]],
        schema: Schema,
        *,
        ends: bool,
    ) -> Companions:
        """Restore from the result of ``arrays``, by part.

        Raises
        ------
        ValueError
            Arrays that are damaged, or do not belong to the schema.
        """
        analogues = stacking = missing = endings = None
        columns = schema.static.width // 2 + len(schema.static.cardinalities)
        if arrays["missing"]:
            missing = MissingFeatures.from_arrays(arrays["missing"], columns, schema.positions)
        if (missing is not None) != bool(arrays["stacking"] and columns):
            raise ValueError("missing: expected with stacking and static features, and only then")
        if arrays["stacking"]:
            count = len(schema.targets)
            stacking = Stacking.from_arrays(arrays["stacking"], schema.positions, count)
        if arrays["analogues"]:
            analogues = Analogues.from_arrays(arrays["analogues"])
            features = schema.static.width, schema.static.cardinalities
            if not analogues.fits(*features, schema.positions):
                raise ValueError(
                    "analogues: expected those of the schema's static features and steps"
                )
        if ends:
            features = width(schema.static.width, schema.static.cardinalities)
            endings = Endings.from_arrays(arrays["endings"], schema.steps, features)
        elif arrays["endings"]:
            raise ValueError("endings: expected none, as the settings have ends=False")
        dependence = None
        if arrays["dependence"]:
            dependence = Dependence.from_arrays(arrays["dependence"], schema.positions)
        if (dependence is not None) != (stacking is not None and schema.group_col is not None):
            raise ValueError("dependence: expected with stacking and group_col, and only then")
        pooling = None
        if arrays["pooling"]:
            pooling = Pooling.from_arrays(arrays["pooling"], schema.positions)
        short = schema.positions <= MOST_POSITIONS
        if (pooling is not None) != (dependence is not None and short):
            raise ValueError("pooling: expected with dependence, of short series only")
        return cls(analogues, stacking, missing, endings, dependence, pooling)

    # -- leaves of a state --------------------------------------------------------------

    def leaf_shapes(self, schema: Schema) -> dict[str, tuple[int, ...]]:
        """The leaves by name: shapes without rows."""
        shapes: dict[str, tuple[int, ...]] = {}
        if self.analogues is not None:
            steps, features = (self.analogues.steps,), (self.analogues.x.shape[1],)
            shapes |= {"analogues/x": features, "analogues/y": steps, "analogues/seen": steps}
            shapes["analogues/usable"] = ()
        if self.missing is not None:
            shapes["missing"] = self.missing.often.shape
        if self.endings is not None:
            features = width(schema.static.width, schema.static.cardinalities)
            if features:
                shapes["endings/x"] = (features,)
        return shapes

    def start(self, panel: Panel, schema: Schema) -> dict[str, np.ndarray]:
        """The leaves before the first step, arrays with rows first.

        They hold the static features in the form that analogues and endings use, and which of them
        are missing that training items have. They hold no observations.
        """
        leaves: dict[str, np.ndarray] = {}
        if self.analogues is not None:
            nothing = np.zeros((panel.rows, self.analogues.steps), "float32")
            usable = self.analogues.usable(panel.numeric, panel.codes)
            leaves = {
                "analogues/x": self.analogues.features(panel.numeric, panel.codes),
                "analogues/usable": usable.astype("float32"),
                "analogues/y": nothing,
                "analogues/seen": nothing,
            }
        if self.missing is not None:
            leaves["missing"] = self.missing.of(panel.numeric, panel.codes)
        if "endings/x" in self.leaf_shapes(schema):
            cardinalities = schema.static.cardinalities
            leaves["endings/x"] = statics(panel.numeric, panel.codes, cardinalities)
        return leaves

    def advance(self, leaves: Mapping[str, np.ndarray], panel: Panel) -> dict[str, np.ndarray]:
        """The leaves that new observations change, after the prefixes of ``panel``."""
        if self.analogues is None:
            return {}
        observed = first_steps(panel.mask, self.analogues.steps)
        value = first_steps(panel.y, self.analogues.steps)
        value = np.where(observed, value, leaves["analogues/y"])
        return {
            "analogues/y": value.astype("float32"),
            "analogues/seen": np.maximum(observed, leaves["analogues/seen"]).astype("float32"),
        }

    # -- forecasts -----------------------------------------------------------------------

    @np.errstate(over="ignore", invalid="ignore")  # the forecaster checks the range
    def combine(
        self,
        network: np.ndarray,
        leaves: Mapping[str, np.ndarray],
        known: np.ndarray,
        schema: Schema,
        *,
        calibrated: bool,
    ) -> np.ndarray:
        """The combined forecast of the network and the analogues, as scaled quantiles at
        ``QUANTILE_LEVELS``.

        Parameters
        ----------
        network : array, ``(rows, steps, len(QUANTILE_LEVELS))``
            The network's quantiles at ``QUANTILE_LEVELS``. At the steps of the prefix they are
            returned unchanged.
        leaves : mapping of str to array
            The rows' states.
        known : array of int, ``(rows,)``
            The prefix lengths.
        schema : Schema
        calibrated : bool
            Whether the quantiles are calibrated: on held-out items, and in time.

        Returns
        -------
        array, float32, ``(rows, steps, len(QUANTILE_LEVELS))``
        """
        if self.stacking is None:
            return network.astype("float32", copy=False)
        quantiles, missing = network, np.zeros((len(known), 0), bool)
        if self.missing is not None:
            missing = leaves["missing"] > 0
        alone = missing.any(axis=1)
        steps, until, count = schema.positions, quantiles.shape[1], len(schema.targets)
        if self.analogues is not None:
            x, y, seen = (leaves[f"analogues/{name}"] for name in ("x", "y", "seen"))
            other = self.analogues.forecast(x, y, seen > 0, known, QUANTILE_LEVELS, until=until)
            quantiles = self.stacking.blend(network[:, :steps], other, known)
            # Where a static feature is missing that training items nearly always have, only the
            # network is used: feature dropout has trained it for that, and not the analogues.
            usable = (leaves["analogues/usable"] > 0) & ~alone
            quantiles = np.where(usable[:, None, None], quantiles, network[:, :steps])
            # Beyond the longest training item only the network forecasts. Its quantiles are shifted
            # by the difference at the last step, so that the forecast has no jump.
            moved = (quantiles - network[:, :steps])[:, -count:]
            more = network[:, steps:] + moved[:, np.arange(max(until - steps, 0)) % count]
            quantiles = np.sort(np.concatenate([quantiles, more], axis=1), axis=-1)
        if calibrated:
            complete = quantiles
            quantiles = self.stacking.calibrate(complete, known)
            if self.missing is not None and alone.any():
                quantiles[alone] = self.missing.calibrate(
                    complete[alone], missing[alone], known[alone]
                )
            if self.dependence is not None:
                quantiles = self.dependence.widen(quantiles, known)
        rest = (np.arange(until) >= known[:, None])[..., None] & ~np.isnan(quantiles)
        return np.where(rest, quantiles, network).astype("float32")

    def nearest(self, panel: Panel, schema: Schema, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The training items nearest to each row.

        Returns
        -------
        ids : array of objects, ``(rows, n)``
            The nearest first; n is at most ``count``, and 0 without analogues.
        weights : array, float64, ``(rows, n)``
            Their weights in the row's forecast.
        """
        found = self.analogues
        if found is None or self.stacking is None:
            return np.empty((panel.rows, 0), object), np.zeros((panel.rows, 0))
        leaves = self.start(panel, schema)
        leaves |= self.advance(leaves, panel)
        x, y, seen = (leaves[f"analogues/{name}"] for name in ("x", "y", "seen"))
        count = min(count, len(found.ids), NEAREST)
        near, weights = np.empty((panel.rows, count), object), np.zeros((panel.rows, count))
        part = (1.0 - self.stacking.share(panel.known)) * leaves["analogues/usable"]
        if self.missing is not None:
            part = np.where(leaves["missing"].any(axis=1), 0.0, part)
        for k in np.unique(panel.known):
            rows = panel.known == k
            at = min(int(k), found.steps)
            items, weight, _ = found.nearest(x[rows], y[rows], seen[rows] > 0, at)
            near[rows] = found.ids[items[:, :count]]
            weights[rows] = weight[:, :count] * part[rows, None]
        return near, weights


def at_levels(quantiles: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Interpolate quantiles at ``QUANTILE_LEVELS`` to other levels.

    Between two of these levels a quantile is linear in the level. In the tails it is that of an
    exponential distribution (``heads.quantiles.Quantiles``).

    Parameters
    ----------
    quantiles : array, ``(rows, steps, len(QUANTILE_LEVELS))``
    levels : sequence of float

    Returns
    -------
    array, float32, ``(rows, steps, len(levels))``
    """
    quantiles = quantiles.astype("float32", copy=False)
    if set(levels) <= set(QUANTILE_LEVELS):
        return quantiles[..., [QUANTILE_LEVELS.index(level) for level in levels]]
    return Quantiles(QUANTILE_LEVELS).quantile(quantiles, levels)


def _held_out(
    engine: NumberEngine, panel: Panel, held: np.ndarray, known: Sequence[int]
) -> Iterator[tuple[int, np.ndarray]]:
    """Forecasts of rows from their first k steps, each by a member that holds the row out.

    Parameters
    ----------
    engine : NumberEngine
    panel : Panel
        Each row is held out by a member.
    held : array of bool, ``(members, rows)``
    known : sequence of int
        The prefix lengths k.

    Yields
    ------
    k : int
    quantiles : array, float32, ``(rows, steps, len(QUANTILE_LEVELS))``
    """
    steps = panel.y.shape[1]
    by_member = []
    for member, out in enumerate(held):
        rows = np.flatnonzero(out)
        if len(rows):
            own, part = engine.member(member), panel.take(rows)
            by_member.append((rows, own, part, own.start(part.numeric, part.codes)))
    for k in known:
        found = np.empty((panel.rows, steps, len(QUANTILE_LEVELS)), np.float32)
        for rows, own, part, start in by_member:
            covariates = panel_covariates(part, np.arange(steps)[None], np.full(part.rows, k))
            observed = part.mask & (np.arange(steps) < k)
            every = np.ones_like(observed)
            found[rows], _ = own.quantiles(start, part.y, observed, every, covariates)
        yield k, found


def _total_scores(
    panel: Panel, truth: np.ndarray, quantiles: np.ndarray, k: int, schema: Schema
) -> tuple[np.ndarray, np.ndarray]:
    """Normal scores of the totals of the first target after the first k positions.

    The score of a total is the mean of the scores of its steps, weighted by the widths of their
    80 % intervals in the units of y, divided by its root mean square over the items: the deviation
    of a sum is about the sum of the deviations.

    Parameters
    ----------
    panel : Panel
    truth : array, ``(rows, positions)``
        Scaled, NaN where nothing was observed.
    quantiles : array, ``(rows, positions, len(QUANTILE_LEVELS))``
    k : int
    schema : Schema

    Returns
    -------
    score : array, ``(n,)``
    rows : array of int, ``(n,)``
        Those with an observation after position k.
    """
    low, high = (
        schema.unscale(quantiles[..., QUANTILE_LEVELS.index(level)]) for level in (0.1, 0.9)
    )
    own = slice(k, None, panel.targets)
    known = ~np.isnan(truth[:, own])
    weight = np.where(known, (high - low)[:, own], 0.0)
    score = np.nan_to_num(score_of(truth[:, own], quantiles[:, own]))
    size = np.sqrt((weight**2).sum(axis=1))
    rows = np.flatnonzero(size > 0)
    total = (weight * score).sum(axis=1)[rows] / size[rows]
    return total / max(np.sqrt((total**2).mean()) if len(rows) else 1.0, 1e-6), rows


def score_of(y: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """The normal score of each y ``(rows, steps)`` in its distribution, from -3 to 3, by linear
    interpolation between the quantiles; NaN where y is."""
    at = np.clip((y[..., None] > quantiles).sum(axis=-1), 1, len(QUANTILE_LEVELS) - 1)[..., None]
    low, high = (np.take_along_axis(quantiles, i, axis=-1)[..., 0] for i in (at - 1, at))
    score = normal_quantile(np.array(QUANTILE_LEVELS))
    below, above = score[at[..., 0] - 1], score[at[..., 0]]
    share = (y - low) / np.maximum(high - low, 1e-6)
    return np.clip(below + share * (above - below), -3.0, 3.0)
