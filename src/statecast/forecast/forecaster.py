"""``Forecaster``: what an item is and how it began in, the rest out."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack, overload

import keras
import numpy as np

from statecast import process
from statecast.checks import (
    check_choice,
    check_flag,
    check_number,
    check_numbers,
    check_whole,
    is_number,
)
from statecast.errors import (
    ArgumentError,
    DataError,
    ModelFileError,
    NotFittedError,
    StateError,
    quoted,
    warn,
)
from statecast.files import (
    check_finite,
    packed,
    plain_id,
    read_safetensors,
    strict_json,
    write_whole,
)
from statecast.forecast.analogues import MOST_ITEMS as MOST_ANALOGUES
from statecast.forecast.analogues import MOST_STEPS as MOST_ANALOGUE_STEPS
from statecast.forecast.analogues import NEAREST, Analogues, prefixes
from statecast.forecast.endings import Endings, statics, unlike, width
from statecast.forecast.explanation import Explanation, effects
from statecast.forecast.stacking import FEWEST as FEWEST_STACKED
from statecast.forecast.stacking import MOST_ITEMS as MOST_STACKED
from statecast.forecast.stacking import Stacking
from statecast.heads.by_name import HEADS
from statecast.heads.categorical import Categorical
from statecast.heads.quantiles import KNOTS, Quantiles
from statecast.interrupt import noted
from statecast.networks.network import (
    CONDITIONINGS,
    NOTHING,
    Advance,
    Decoder,
    Knots,
    Network,
    Sample,
    Start,
)
from statecast.networks.training import held_out, held_out_parameters, train
from statecast.progress import Verbose, check_verbose
from statecast.recurrence.cells import CELLS, Stack, within
from statecast.state import State
from statecast.tables.horizon import Horizon
from statecast.tables.parse import LARGEST, MAX_CELLS, MAX_STEPS, Kind, items_of
from statecast.tables.scaling import TRANSFORMS
from statecast.tables.schema import Covariates, Panel, Schema
from statecast.tables.targets import Targets, learn
from statecast.tokens.decoding import Beam, Sampling
from statecast.tokens.engine import Sequences, Speaker, ranks, scores, sequences
from statecast.tokens.network import WAYS, Language, LanguageNetwork

if TYPE_CHECKING:
    import polars as pl

FORMAT = "statecast-model"
VERSION = 1
_HEADER_CAP = 8 * 1024 * 1024  # bytes: a vocabulary, and the categories of the columns
_FIRST_DATE, _LAST_DATE = np.datetime64("0001-01-01", "us"), np.datetime64("9999-12-31", "us")
_MOST_WEIGHT = 1e6  # of a weight's size: products of such numbers are far from float32's end
# The largest size of a number in a state. A state's own numbers are far smaller: a scaled value is
# at most 1e6, and a cell's memory changes by at most 1 a step.
_MOST_IN_STATE = 1e15
_MOST_IN_LEAF = {"analogues/y": 1e6, "analogues/seen": 1.0}
_FLOATS = ("float16", "float32", "float64")  # the types of a leaf in a state, at rest
MOST_STEPS = 10_000  # of a forecast: more is a slip of the pen, and would not fit into memory
_PATH_VALUES = 4_000_000  # of paths summed up at once: a bound on memory
_MOST_DRAWN = MAX_CELLS // 2  # values of a call's paths: 2 GB of float64
_CHUNK = 1024  # rows at once: a bound on memory, and few shapes to compile
_LARGEST = {
    "units": 4096, "layers": 16, "ensemble": 256, "encoding": 4096, "depth": 16, "embedding": 4096
}  # fmt: skip
TOKENS = "categorical"  # the head of tokens: all others are of numbers
# Heads of one target: tokens are codes, and a likelihood of counts is that of one scale.
_ONE_TARGET = (TOKENS, *(name for name, head in HEADS.items() if head.transform == "counts"))
# What depends on the head where nothing is said.
_DEFAULTS = {
    "units": 32, "ensemble": 8, "encoding": 16, "depth": 1, "epochs": 30, "learning_rate": 4e-3,
    "ends": False,
}  # fmt: skip
_TOKEN_DEFAULTS = {
    "units": 256, "ensemble": 1, "encoding": 32, "depth": 2, "epochs": 10, "learning_rate": 8e-3,
    "ends": True,
}  # fmt: skip

# The choices of a setting, for type checkers and editors; a test holds them to the registries.
CellName = Literal["lstm", "gru", "simple_rnn"]
HeadName = Literal[
    "quantiles", "normal", "student_t", "lognormal", "logitnormal", "poisson",
    "negative_binomial", "categorical",
]  # fmt: skip
ConditioningName = Literal["state", "inputs", "both", "first"]
TransformName = Literal["auto", "none", "log", "positive", "logit", "counts"]

# Of several targets: what those of a step owe each other is learnt late, after each's own course.
_TARGETS_DEFAULTS = {"epochs": 60, "learning_rate": 1e-2}


Frame = TypeVar("Frame")  # a table of any kind: the forecast is a table of the same kind


class _Ahead(TypedDict, total=False):
    """The keywords of ``predict`` and ``simulate`` alike; a test holds these three to them."""

    until: Any
    h: int | None
    strict: bool
    future: Any


class _Predict(_Ahead, total=False):
    level: float | Sequence[float] | None
    quantiles: float | Sequence[float] | None
    calibrated: bool
    decoding: Beam | None


class _Simulate(_Ahead, total=False):
    paths: int
    state: State | None


@dataclass(frozen=True)
class Settings:
    """The arguments of ``Forecaster``, checked. See there."""

    units: int
    layers: int
    cell: CellName
    head: HeadName
    conditioning: ConditioningName
    ensemble: int
    encoding: int
    depth: int
    transform: TransformName
    bounds: tuple[float, float] | None
    analogues: bool
    embedding: int
    tied: bool
    dropout: float
    ends: bool
    epochs: int
    batch_size: int | None
    learning_rate: float
    weight_decay: float
    patience: int
    seed: int
    id_col: str
    step_col: str
    target_col: str | tuple[str, ...]
    past_cols: tuple[str, ...]
    categorical: tuple[str, ...]
    start_col: str | None

    def __post_init__(self) -> None:
        choices = {
            "cell": tuple(CELLS),
            "head": (*HEADS, TOKENS),
            "conditioning": WAYS if self.head == TOKENS else CONDITIONINGS,
            "transform": ("auto", *TRANSFORMS),
        }
        for name, allowed in choices.items():
            check_choice(name, getattr(self, name), allowed)
        needed = _needed(self.head)
        if needed is not None and self.transform not in ("auto", needed):
            raise ArgumentError(
                f"transform: expected {needed!r} or 'auto', as the head {self.head!r} needs it; "
                f"received {self.transform!r}."
            )
        if self.bounds is not None:
            object.__setattr__(self, "bounds", self._checked_bounds(self.bounds, needed))
        checked: dict[str, Any] = {
            name: check_flag(name, getattr(self, name)) for name in ("analogues", "tied", "ends")
        }
        for name in (*_LARGEST, "epochs", "patience", "batch_size"):
            value = getattr(self, name)
            if name != "batch_size" or value is not None:
                checked[name] = check_whole(name, value, 1, _LARGEST.get(name))
        checked["seed"] = check_whole("seed", self.seed, 0)
        for name, least, most, expected in (
            ("dropout", 0.0, math.nextafter(1.0, 0.0), "a number from 0 to below 1"),
            ("learning_rate", math.nextafter(0.0, 1.0), LARGEST, "a number above 0"),
            ("weight_decay", 0.0, LARGEST, "a number 0 or above"),
        ):
            value = getattr(self, name)
            checked[name] = check_number(name, value, least, most, expected=expected)
        for name, value in checked.items():  # numbers of NumPy as Python's, for JSON
            object.__setattr__(self, name, value)
        for name in ("id_col", "step_col"):
            if not isinstance(getattr(self, name), str):
                raise ArgumentError(f"{name}: expected text, received {getattr(self, name)!r}.")
        if self.start_col is not None and not isinstance(self.start_col, str):
            raise ArgumentError(f"start_col: expected text or None, received {self.start_col!r}.")
        object.__setattr__(self, "target_col", self._checked_targets(self.target_col))
        for name in ("past_cols", "categorical"):
            given = () if getattr(self, name) is None else getattr(self, name)
            several = isinstance(given, (list, tuple)) and all(isinstance(n, str) for n in given)
            if not several:
                raise ArgumentError(f"{name}: expected a list of column names, received {given!r}.")
            object.__setattr__(self, name, tuple(given))  # JSON has lists

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of the targets."""
        return (self.target_col,) if isinstance(self.target_col, str) else self.target_col

    def _checked_targets(self, given: Any) -> str | tuple[str, ...]:
        """A text for a single target, else a tuple of them."""
        if isinstance(given, str):
            return given
        several = isinstance(given, (list, tuple)) and all(isinstance(n, str) and n for n in given)
        if not several or not given or len(set(given)) < len(given):
            raise ArgumentError(
                f"target_col: expected text, or a list of distinct ones; received {given!r}."
            )
        if len(given) > 1 and self.head in _ONE_TARGET:
            raise ArgumentError(
                f"target_col: the head {self.head!r} forecasts one target; received {list(given)}. "
                "Take head='quantiles' (with transform='counts' for counts), or a forecaster for "
                "each."
            )
        if len(given) > 1 and self.ends is True:
            raise ArgumentError(
                f"ends: the chance to end is learnt of one target; received {list(given)}. Take "
                "ends=False, or a forecaster for each."
            )
        return given[0] if len(given) == 1 else tuple(given)

    def _checked_bounds(self, given: Any, needed: str | None) -> tuple[float, float]:
        real = isinstance(given, (tuple, list)) and len(given) == 2
        if not real or not all(is_number(bound, -LARGEST, LARGEST) for bound in given):
            raise ArgumentError(f"bounds: expected two numbers, received {given!r}.")
        if given[0] >= given[1]:
            raise ArgumentError(f"bounds: expected the lower one first, received {given!r}.")
        if self.transform not in ("auto", "logit") or needed not in (None, "logit"):
            raise ArgumentError(
                "bounds: expected them with the transform 'logit' or 'auto', and a head that can "
                f"do with it; received transform {self.transform!r}, head {self.head!r}."
            )
        return float(given[0]), float(given[1])


class Forecaster:
    """Forecast the rest of a sequence from what an item is and how it began.

    One fitted model serves every prefix length k from 0 up. The static features X set the
    initial state of a recurrent network, the first k observations advance it, and the
    network runs on from there. It is trained on all prefixes at once, as an ensemble in
    one batched run.

    A fitted forecaster may be used from several threads at once; its network runs for one of
    them at a time.

    Parameters
    ----------
    units, layers : int
        Width and number of the recurrent layers. Default 32 (tokens 256) and 1.
    cell : {"lstm", "gru", "simple_rnn"}
    head : {"quantiles", "normal", "student_t", "lognormal", "logitnormal", "poisson", \
"negative_binomial", "categorical"}
        The family of the network's distributions. ``"lognormal"`` is for values above 0,
        ``"logitnormal"`` for values between bounds, the two after it for counts: each implies the
        transform it needs, and forecasts and paths are such values as well. With
        ``"categorical"`` y holds tokens: text (characters, words), whole numbers or booleans.
    conditioning : {"state", "inputs", "both"}
        Where X enters the network: the initial state, the inputs of every step, or both. For
        tokens also ``"first"``: the inputs of the first step alone.
    ensemble : int
        Members; each holds out its own share of the items and stops by it. Default 8 (tokens 1).
    encoding, depth : int
        Width of the encoded X, and the depth of the map from there to the initial state. Default
        16 (tokens 32) and 1 (tokens 2).
    transform : {"auto", "none", "log", "positive", "logit", "counts"}
        Of y before scaling; with any head. ``"auto"`` is the head's, or takes the logarithm for
        skewed, non-negative data. Forecasts keep to where it leads: ``"log"`` to 0 and above,
        ``"positive"`` above 0, ``"logit"`` between the bounds, ``"counts"`` to whole numbers from
        0. Where no training value is negative, ``"auto"`` forecasts none.
    bounds : (float, float), optional
        The least and the largest value there can be, for ``"logit"``; ``"auto"`` then takes it.
        Default (0, 1), if all values lie there.
    analogues : bool
        Whether a linear path and the training items that began most alike have a part in
        the forecast (see ``statecast.analogues``); held-out items say how large a part.
        The model file then holds the training items' numbers. Tokens have no such part, and
        nor have series of more than 1,000 steps.
    ends : bool
        Whether a sequence ends by itself after its last observation (True), or is right-censored
        there (False). Default True for tokens, whose end is one more token, and False for numbers.
        For numbers the chance to end after each step is learnt from the step, the value there and
        the static features; paths end by it, and what is forecast of a step is the value of an item
        that goes on to there. A series that reaches the longest one's last step, or of dates the
        last date of all, has not ended. For one target.
    embedding, tied, dropout
        Of tokens alone: the width of a token's embedding; whether the softmax takes the
        embeddings for its weights; the share left out in a training step.
    epochs, batch_size, learning_rate, weight_decay, patience
        Of the training; ``patience`` is in epochs without any member improving. ``epochs`` are 30
        by default (tokens 10, several targets 60), the learning rate is 0.004 (tokens 0.008,
        several targets 0.01), and the batch size goes by the number of items.
    seed : int
        The same seed gives the same fit, and the same sample paths.
    id_col, step_col : str
        Column names of the series table.
    target_col : str or sequence of str
        The column of y; or the columns of several targets (a track's coordinates), which are
        forecast jointly: each value given those of its step before it, in this order. A target
        missing at a step is a gap, and a prefix ends with the last step at which any was observed.
        A transform chosen by ``"auto"`` is each target's own; ``bounds`` hold for all. The heads
        of counts and of tokens are for one.
    past_cols : sequence of str
        Further columns of the series table: past covariates, numeric or categorical, which
        are observed with y (visits, the weather) and unknown beyond the prefix. What is known
        beforehand goes into ``future`` (see ``fit``).
    categorical : sequence of str
        Columns of the static and the future table, and past covariates, that are categories
        though they hold whole numbers: the codes of shops, say. Text is categorical anyway.
    start_col : str, optional
        Where steps are dates, the column of the static table with each item's launch date: the
        date of its step 1. It is no feature. An item that was not observed yet then has dated
        forecasts. Where it is missing, step 1 is the item's first row in the series table, also
        one with null y. A row before the launch date is an error.

    Attributes
    ----------
    schema : Schema
        What was learnt about the tables.
    history : dict of str to list of float
        Per epoch: ``loss``, ``crps``, ``val_loss``, ``val_crps`` (scaled units). Heads trained by
        their likelihood, Student's t, counts and tokens, have ``nats`` in place of ``crps``.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(20, 1))
    >>> Y = X + 0.1 * rng.normal(size=(20, 6)).cumsum(axis=1)
    >>> f = Forecaster(units=4, ensemble=2, epochs=1).fit(Y, X, verbose=0)
    >>> f.predict(Y[:3, :2], X[:3], until=6)["statecast"].shape
    (3, 6)
    """

    def __init__(
        self,
        *,
        units: int | None = None,
        layers: int = 1,
        cell: CellName = "lstm",
        head: HeadName = "quantiles",
        conditioning: ConditioningName = "state",
        ensemble: int | None = None,
        encoding: int | None = None,
        depth: int | None = None,
        transform: TransformName = "auto",
        bounds: tuple[float, float] | None = None,
        analogues: bool = True,
        embedding: int = 32,
        tied: bool = False,
        dropout: float = 0.1,
        ends: bool | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        weight_decay: float = 0.01,
        patience: int = 15,
        seed: int = 0,
        id_col: str = "unique_id",
        step_col: str = "ds",
        target_col: str | Sequence[str] = "y",
        past_cols: Sequence[str] | None = (),
        categorical: Sequence[str] | None = (),
        start_col: str | None = None,
    ) -> None:
        given = dict(locals())
        del given["self"]
        defaults = _TOKEN_DEFAULTS if head == TOKENS else _DEFAULTS
        if isinstance(target_col, (list, tuple)) and len(target_col) > 1:
            defaults = defaults | _TARGETS_DEFAULTS
        given |= {name: value for name, value in defaults.items() if given[name] is None}
        self.settings = Settings(**given)
        self.history: dict[str, list[float | None]] = {}
        self._one_at_a_time = process.Lock()
        self._schema: Schema | Targets | None = None
        self._speaker: Speaker | None = None

    def __repr__(self) -> str:
        s = self.settings
        usual = asdict(Forecaster(head=s.head, target_col=s.target_col).settings)
        usual |= {"head": "quantiles", "target_col": "y"}
        said = ", ".join(f"{n}={v!r}" for n, v in asdict(s).items() if v != usual[n])
        schema = self._schema
        fitted = "not fitted" if schema is None else f"fitted on {schema.steps} steps"
        return f"<Forecaster({said}), {fitted}>"

    # -- the verbs -------------------------------------------------------------------

    def fit(
        self,
        series: Any,
        static: Any = None,
        *,
        future: Any = None,
        callbacks: Sequence[keras.callbacks.Callback] | None = (),
        verbose: Verbose = "auto",
    ) -> Forecaster:
        """Learn from a table of series and a table of static features.

        Parameters
        ----------
        series : table, path or array
            Long: a row an item and step, columns ``unique_id, ds, y`` (or as named at
            construction); ``ds`` a whole number from 1, or from the first of the training items
            where that is much later, or a date. pandas, polars, Arrow; the path of a CSV or
            Parquet file; or an array ``(items, steps)`` with NaN where nothing was observed,
            of several targets ``(items, steps, targets)``.
        static : table, path or array, optional
            A row an item: ``unique_id`` and its features, numbers or text; or an array
            ``(items, features)``.
        future : table, path or array, optional
            Known-future covariates (promotions, the calendar, planned spend): long, columns
            ``unique_id, ds`` and the covariates, numbers or text, with a row for every step
            of an item; or an array ``(items, steps, features)``. An empty cell is unknown, not
            zero. Once learnt, they are needed wherever steps are taken or forecast; rows and
            items that are not are ignored.
        callbacks : sequence of keras.callbacks.Callback
        verbose : "auto", 0, 1 or 2
            0 says nothing; 1 shows Keras's progress bar; 2 gives a line an epoch; "auto" is 1 on
            a terminal and in a notebook, and elsewhere a line after each fifth of the epochs.
            Lines go to the logger "statecast" (``logging``) at level INFO, or to standard error
            where no logging is set up.

        Returns
        -------
        The forecaster itself. A fit that fails leaves it as it was.

        Ctrl-C ends the training after one more batch at most, and the best epoch so far is kept.
        Before the first epoch has ended there is none, and ``KeyboardInterrupt`` is raised; as it
        is at once by a second Ctrl-C. A program's own handler of SIGINT is left in its place. In
        another thread than the main one Ctrl-C does not reach the fit: Python raises it in the
        main thread. There a callback that sets ``model.stop_training`` ends the training.

        Raises
        ------
        DataError
            A table that cannot be used; the message names the column and the first item.
        ArgumentError
            Another ``verbose``.

        Warns
        -----
        DataWarning
            Steps that no item was observed at, of which nothing can be learnt: their forecasts lie
            between those of the observed steps around them. Weekdays, hours and months of dates
            at which no item was ever observed, which forecasts leave out.
        """
        process.check_backend()
        s = self.settings
        check_verbose(verbose)
        if s.head == TOKENS and (future is not None or s.past_cols):
            raise ArgumentError("future, past_cols: tokens take no covariates; received some.")
        schema = learn(
            series,
            static,
            id_col=s.id_col,
            step_col=s.step_col,
            target_col=s.target_col,
            transform=s.transform if s.transform != "auto" else _needed(s.head) or "auto",
            bounds=s.bounds,
            future=future,
            past_cols=s.past_cols,
            categorical=s.categorical,
            start_col=s.start_col,
            tokens=s.head == TOKENS,
        )
        panel = schema.panel(series, static, future=future, for_fit=True)
        if schema.vocabulary is not None and schema.steps > MOST_STEPS:
            item = panel.ids[[panel.known.argmax()]].tolist()[0]
            raise DataError(
                f"Column {s.step_col!r}: expected sequences of at most {MOST_STEPS:,} tokens, "
                f"received one of {schema.steps:,} (item {quoted(item)}). Cut it into several "
                "items.",
                column=s.step_col,
                item=item,
            )
        endings = None
        if s.head != TOKENS:
            endings = self._learn_endings(schema, panel)
        with noted() as interrupt:
            network = self._built(schema, s.seed)
            held = held_out(panel.groups, s.ensemble, s.seed)
            history = train(
                network,
                panel,
                held,
                epochs=s.epochs,
                batch_size=s.batch_size,
                learning_rate=s.learning_rate,
                weight_decay=s.weight_decay,
                patience=s.patience,
                seed=s.seed,
                ends=s.ends,
                interrupt=interrupt,
                callbacks=callbacks or (),
                verbose=verbose,
            )
            _check_weights(_arrays_of(network))
            analogues = stacking = None
            if s.head != TOKENS:
                analogues, stacking = _companions(
                    network, panel, held, wanted=s.analogues, seed=s.seed
                )
                if stacking is None:
                    warn(
                        f"Expected at least {FEWEST_STACKED} held-out items to calibrate intervals "
                        f"by; received {held.any(axis=0).sum()} of {panel.rows} training items. "
                        "Intervals are the network's own, and too narrow."
                    )
            self._adopt(schema, network, history, analogues, stacking, endings)
        return self

    @overload
    def predict(
        self, series: np.ndarray, static: Any = None, **asked: Unpack[_Predict]
    ) -> dict[str, np.ndarray]: ...
    @overload
    def predict(
        self, series: str | os.PathLike[str], static: Any = None, **asked: Unpack[_Predict]
    ) -> pl.DataFrame: ...
    @overload
    def predict(
        self, series: None = None, static: None = None, *, state: State, **asked: Unpack[_Predict]
    ) -> Any: ...
    @overload
    def predict(self, series: None, static: Any, **asked: Unpack[_Predict]) -> Any: ...
    @overload
    def predict(self, series: Frame, static: Any = None, **asked: Unpack[_Predict]) -> Frame: ...
    def predict(
        self,
        series: Any = None,
        static: Any = None,
        *,
        until: Any = None,
        h: int | None = None,
        strict: bool = False,
        future: Any = None,
        level: float | Sequence[float] | None = (80,),
        quantiles: float | Sequence[float] | None = (),
        calibrated: bool = True,
        decoding: Beam | None = None,
        state: State | None = None,
    ) -> Any:
        """Forecast the rest: for each item the steps after its prefix, up to ``until``.

        Parameters
        ----------
        series : table, path or array, optional
            The prefixes; k may differ from item to item. An item of ``static`` that is not
            here has k = 0.
        static : table, path or array, optional
            The same columns as in ``fit``.
        until : int, mapping, table, path or array
            The last step to forecast, counted from 1: a number for all items; or one an item, as a
            mapping of ids to steps, a table with the ids and a column ``until``, or an array
            ``(items,)``. An item that is observed up to there has no rows. Beyond the longest
            training item nothing was learnt: the network of numbers runs on with its own medians,
            so that its level may drift and its intervals are not calibrated, with a
            ``DataWarning``.
        h : int, optional
            In place of ``until``: so many steps after each prefix.
        strict : bool
            Raise an error for an item that is observed up to ``until``.
        future : table, path or array, optional
            As in ``fit``, for every step up to ``until``; from a state, for every step after
            those it has taken.
        level : float or sequence of float, optional
            Central intervals to give, in percent; None or an empty list for none.
        quantiles : float or sequence of float, optional
            Further quantiles to give, between 0 and 1.
        calibrated : bool
            Move the quantiles to where the truths of held-out items fell, for each prefix
            length and horizon, so that the intervals hold for new items. False gives them
            as the models have them, and is refused of tokens, which have none.
        decoding : Beam, optional
            For tokens, in place of levels and quantiles: how the most probable rest is searched
            for; by default a beam of one, greedily.
        state : State, optional
            Go on from here, in place of ``series`` and ``static``. The rows of a state without
            ids (a fork) are numbered from 0.

        Returns
        -------
        A table of the kind that came in: the id, the step, ``statecast`` (the median), and
        ``statecast-lo-80``, ``statecast-hi-80``, ... and ``statecast-q-0.1``, ... For arrays,
        a dict of arrays ``(items, until)``, NaN on the prefix. Several targets have columns of
        their own, ``statecast-lat``, ``statecast-lat-lo-80``, ..., or a last axis
        ``(items, until, targets)``. For tokens the columns are
        ``statecast``, the best rest, and ``statecast-nats``, its log-probability, the same in
        all of an item's rows; and ``statecast-2``, ... where the beam gives more. Rows reach to
        the step at which the sequence ended, with null there, or to ``until``: a sequence without
        a null did not end. Where the search found fewer, all is null, at minus infinity.

        Raises
        ------
        DataError
            Tables that cannot be used; with ``strict``, ``until`` not beyond an item's prefix.
        ArgumentError
            Neither or both of ``until`` and ``h``; an argument outside what it may be.
        StateError
            A state that this forecaster did not make.
        """
        horizon = Horizon.read(until, h, self.schema.id_col, self.schema.first)
        if self._speaker is not None:
            if set(_asked(level, quantiles)) - set(_asked((80,), ())):
                raise ArgumentError(
                    "level, quantiles: tokens have no order, so there are none. Ask for the best "
                    "of a search, decoding=Beam(10, best=5)."
                )
            if future is not None:
                self._need_numbers("future")
            if not calibrated:
                self._need_numbers("calibrated")
            beam = Beam() if decoding is None else decoding
            if not isinstance(beam, Beam):
                raise ArgumentError(f"decoding: expected a Beam, received {beam!r}.")
            said = self._say(series, static, horizon, strict, beam, 1, state)
            return said.table("statecast", scored=True)
        self._check_decoding(decoding)
        columns = _asked(level, quantiles)
        levels = list(columns.values())
        if state is None:
            panel = self._panel(series, static, future, horizon)
            known, ids, origin, kind = panel.known, panel.ids, panel.origin, panel.kind
            last = self._last(horizon, ids, known, strict)
            reach, rows = self._reach(last), np.flatnonzero(known < last)
            found = self._quantiles(panel.take(rows), last[rows], reach, levels, calibrated)
        else:
            self._check_state(state, series, static)
            (known, ids, origin), kind = self._position(state), None
            last = self._last(horizon, ids, known, strict)
            plans, origin = self._plans(future, horizon, ids, known, origin)
            reach, rows = self._reach(last), np.flatnonzero(known < last)
            plans = plans and plans.take(rows)
            found = self._rest_of(
                state.take(rows), known[rows], last[rows], reach, levels, calibrated, plans
            )
        values = np.full((len(ids), *found.shape[1:]), np.nan)
        values[rows] = found
        self._warn_undated(ids, origin)
        named = {name: values[..., i] for i, name in enumerate(columns)}
        return self.schema.table(named, ids=ids, known=known, origin=origin, kind=kind, last=last)

    def quantiles(
        self, panel: Panel, until: int, levels: Sequence[float], *, calibrated: bool = True
    ) -> np.ndarray:
        """The forecast of a panel as an array, in original units. Of several targets its steps
        are the panel's positions.

        Every step is forecast from X and what ``panel.mask`` shows before it, so steps
        within the prefix hold forecasts of one step ahead: the network's alone.

        Parameters
        ----------
        panel : Panel
            As ``schema.panel`` makes it; steps that it knows no future covariates of are
            forecast as if nothing were said of them.
        until : int
            The last step.
        levels : sequence of float
            Between 0 and 1.
        calibrated : bool
            As in ``predict``.

        Returns
        -------
        array, float64, ``(rows, until, len(levels))``

        Raises
        ------
        ArgumentError
            A forecaster of tokens; a forecast beyond the range of float32.
        """
        self._need_numbers("quantiles")
        return self._quantiles(panel, np.full(panel.rows, until), until, levels, calibrated)

    def _quantiles(
        self,
        panel: Panel,
        last: np.ndarray,
        until: int,
        levels: Sequence[float],
        calibrated: bool,
    ) -> np.ndarray:
        """``quantiles``, of which those up to each row's ``last`` position have to be finite."""
        parts, reach = [], self.schema.reach(until)
        for rows in _chunks(len(panel.ids)):
            part = panel.take(rows)
            value, observed = _steps(part.y, reach), _steps(part.mask, reach)
            told = _told(part, np.arange(reach)[None])
            own, _ = self._advance(self._start(part), value, observed, np.ones_like(observed), told)
            memory = self._memory(part)
            parts.append(self._stack(own, memory, part.known, levels, calibrated))
        scaled = _joined(parts, (reach, len(levels)))
        self._check_range(scaled, panel.ids, panel.known, last + reach - until)
        latest = panel.latest if self.schema.bridges else None
        return self._unscale(scaled, panel.known, latest)[:, :until]

    def state(self, series: Any = None, static: Any = None, *, future: Any = None) -> State:
        """The state of each item after X and its prefix: where its next step starts.

        Parameters
        ----------
        series, static
            As in ``predict``.
        future : table, path or array, optional
            As in ``fit``, for the steps of the prefixes. What comes after them is no part of
            the state: it is handed in where it is needed, and may then be another plan.

        Returns
        -------
        State
            A row an item, with the items' ids; leaves ``(rows, members, ...)``.
        """
        return self._state_of(self.schema.panel(series, static, future=future))

    def update(self, state: State, new_rows: Any, *, future: Any = None) -> State:
        """Advance items by their new observations: O(1) each, equal to a full re-run.

        The cost is that of the items with new rows, whatever else the state holds: the new state
        shares the other rows with the old one (see ``State``).

        Parameters
        ----------
        state : State
            From ``state`` or ``update``; it is left as it was.
        new_rows : table, path or array
            Columns as in ``fit``; any of the state's items, each at steps after those it
            has. A step left out is a gap. An array ``(rows, steps)`` has the state's rows and
            begins at step 1: NaN up to each item's new steps.
        future : table, path or array, optional
            As in ``fit``, for the new steps.

        Returns
        -------
        State
            All rows of ``state``, those with new observations advanced.

        Raises
        ------
        DataError
            A step that is not new, an item that the state does not have.
        StateError
            A state that this forecaster did not make, or one without ids.
        """
        self._check_state(state)
        if state.ids is None:
            raise StateError(
                "This state has no ids (a fork drops them), so no new row can find its item. Give "
                "it some: State(state.leaves, ids=[...], fingerprint=state.fingerprint)."
            )
        touched = self._touched(state, new_rows, future)
        part = state.take(touched)
        known, ids, origin = self._position(part)
        new = self.schema.new_rows(new_rows, ids, future=future, known=known, origin=origin)
        leaves = dict(part.leaves)
        if new.origin is not None:
            leaves["origin"] = new.origin.astype("int64")
        rows = np.flatnonzero(new.known)
        if len(rows):
            # Each row goes on after the steps it has; what lies between them is a gap.
            more = (new.known - known)[rows, None]
            ahead = np.arange(more.max())
            at = known[rows, None] + ahead
            told = _told(new.take(rows), at)
            at = np.minimum(at, new.y.shape[1] - 1)
            value, seen = new.y[rows[:, None], at], new.mask[rows[:, None], at]
            moved = {name: leaf[rows] for name, leaf in leaves.items()}
            _, moved = self._advance(moved, value, seen, ahead < more, told)
            self._check_leaves(moved, ids[rows])
            moved |= self._remembered(moved, new.take(rows))
            if "latest" in moved:
                latest = new.latest[rows]
                moved["latest"] = np.where(latest[..., 1:] > 0, latest, moved["latest"])
            for name, leaf in moved.items():
                leaves[name] = leaves[name].copy()
                leaves[name][rows] = leaf
        return state.put(touched, State(leaves))

    @overload
    def simulate(
        self,
        series: Any = None,
        static: Any = None,
        *,
        decoding: None = None,
        **asked: Unpack[_Simulate],
    ) -> Paths: ...
    @overload
    def simulate(
        self,
        series: Any = None,
        static: Any = None,
        *,
        decoding: Sampling,
        **asked: Unpack[_Simulate],
    ) -> Sequences: ...
    def simulate(
        self,
        series: Any = None,
        static: Any = None,
        *,
        until: Any = None,
        h: int | None = None,
        strict: bool = False,
        future: Any = None,
        paths: int = 200,
        decoding: Sampling | None = None,
        state: State | None = None,
    ) -> Paths | Sequences:
        """Joint sample paths of the rest.

        A path is drawn step by step, each draw taken in as if it had been observed. The
        paths then keep their ranks at every step and take the values of the forecast's
        quantiles there (ensemble copula coupling, Schefzik et al. 2013), so that paths
        and ``predict`` agree. An item's draws depend on the seed and its id alone.

        Parameters
        ----------
        series, static, until, future, state
            As in ``predict``.
        paths : int
            How many.
        decoding : Sampling, optional
            For tokens, and needed there: what they are drawn from. ``Sampling()`` is the model's
            own distribution.

        Returns
        -------
        Paths
            In memory as a whole: ask for many items in parts, which changes no path.
            For tokens ``Sequences``, drawn token by token.

        Raises
        ------
        ArgumentError
            More paths than fit, beside what ``predict`` raises.
        """
        horizon = Horizon.read(until, h, self.schema.id_col, self.schema.first)
        paths = check_whole("paths", paths)
        if self._speaker is not None:
            if future is not None:
                self._need_numbers("future")
            if not isinstance(decoding, Sampling):
                raise ArgumentError(
                    "decoding: expected a Sampling, as this forecaster is of tokens; received "
                    f"{decoding!r}. Sampling() draws from the model's own distribution."
                )
            return self._say(series, static, horizon, strict, decoding, paths, state)
        self._check_decoding(decoding)
        kind, observed = None, None
        if state is None:
            panel = self._panel(series, static, future, horizon)
            last = self._last(horizon, panel.ids, panel.known, strict)
            state, kind, plans = self._state_of(panel), panel.kind, panel.future
            observed = self.schema.unscale(np.where(panel.mask, panel.y.astype("float64"), np.nan))
            known, ids, origin = self._position(state)
        else:
            self._check_state(state, series, static)
            known, ids, origin = self._position(state)
            last = self._last(horizon, ids, known, strict)
            plans, origin = self._plans(future, horizon, ids, known, origin)
            if state.ids is None:  # a fork: its rows draw by their numbers
                state = State(state.leaves, ids, state.fingerprint)
        reach = self._reach(last)
        if len(ids) * paths * reach > _MOST_DRAWN:
            raise ArgumentError(
                f"paths: expected at most {_MOST_DRAWN:,} values at once, received {len(ids):,} "
                f"items x {paths:,} paths x {reach:,} values of each. Ask for fewer paths, or for "
                "the items in parts."
            )
        self._warn_undated(ids, origin)
        values = np.full((len(ids), paths, reach), np.nan)
        levels = ((np.arange(paths) + 0.5) / paths).tolist()
        count = len(self.settings.targets)
        open_ = np.repeat(self.schema.open(origin, reach // count, kind), count, axis=1)
        open_ = np.broadcast_to(open_, (len(ids), reach))
        ahead = np.flatnonzero(known < last)
        for chunk in _chunks(len(ahead), max(1, 8 * _CHUNK // paths)):
            rows = ahead[chunk]
            part = state.take(rows)
            plan = None if plans is None else plans.take(rows)
            drawn = self._draw(part, known[rows], reach, paths, plan)
            self._check_range(drawn.swapaxes(1, 2), ids[rows], known[rows], last[rows])
            if len(self.settings.targets) > 1:
                drawn = self._tied(drawn, part, known[rows])
            ranks = drawn.argsort(axis=1).argsort(axis=1)
            marginal = self._rest_of(part, known[rows], last[rows], reach, levels, True, plan)
            marginal = np.moveaxis(marginal, -1, 1)  # (rows, paths, reach), rising along paths
            if self._endings is not None:
                found = self._ended(part, known[rows], drawn, marginal)
            else:
                found = np.take_along_axis(marginal, ranks, axis=1)
            values[rows] = np.where(open_[rows, None], found, np.nan)
        values[np.broadcast_to((np.arange(reach) >= last[:, None])[:, None], values.shape)] = np.nan
        if count > 1:
            values = values.reshape(*values.shape[:2], -1, count)
            observed = None if observed is None else observed.reshape(len(observed), -1, count)
        return Paths(
            ids, known // count, values, self.schema, origin, kind, observed, last // count
        )

    def explain(
        self,
        series: Any = None,
        static: Any = None,
        *,
        until: Any = None,
        h: int | None = None,
        strict: bool = False,
        future: Any = None,
        analogues: int = 5,
    ) -> Explanation:
        """What moved each item's forecast: its observations, its static features, and the
        training items that began most alike.

        Each observation and each static feature is left out in turn (occlusion), and the
        forecast without it compared: ``statecast.explanation`` says what that can tell and
        what it cannot. It takes a forecast for each of them. Of several targets an observation
        is that of one at a step, and the forecasts of all are compared.

        Parameters
        ----------
        series, static, until, future
            As in ``predict``. Covariates stay as they are, and are not explained.
        analogues : int
            How many of the training items to name; 0 for none.

        Returns
        -------
        Explanation

        Raises
        ------
        DataError
            As ``predict``.
        """
        self._need_numbers("explain")
        analogues = check_whole("analogues", analogues, 0)
        targets, schema = self.settings.targets, self.schema
        horizon = Horizon.read(until, h, schema.id_col, schema.first)
        panel = self._panel(series, static, future, horizon)
        last = self._last(horizon, panel.ids, panel.known, strict)
        rows = np.flatnonzero(panel.known < last)
        panel, last, reach = panel.take(rows), last[rows], self._reach(last)
        last_of = dict(zip(panel.ids.tolist(), last.tolist(), strict=True))

        def median(part: Panel) -> np.ndarray:
            own = np.array([last_of[item] for item in part.ids.tolist()], int)
            return self._quantiles(part, own, reach, [0.5], True)[..., 0]

        observations, statics = effects(
            median,
            panel,
            len(schema.static.numeric),
            len(schema.static.categories),
        )
        count = len(targets)
        open_ = np.repeat(schema.open(panel.origin, reach // count, panel.kind), count, axis=1)
        forecast = open_ & (np.arange(reach) < last[:, None])
        for effect in (observations, statics):
            effect[np.broadcast_to(~forecast[:, None], effect.shape)] = np.nan
        if count > 1:
            steps = reach // count
            observations = observations.reshape(panel.rows, -1, count, steps, count)
            statics = statics.reshape(panel.rows, statics.shape[1], steps, count)
        names = list(schema.static.kinds)
        near, weights = self._nearest(panel, analogues)
        return Explanation(
            panel.ids,
            panel.known // count,
            observations,
            {name: statics[:, i] for i, name in enumerate(names)},
            near,
            weights,
            schema.id_col,
            panel.kind,
            targets,
            last // count,
            schema.first,
        )

    def log_likelihood(
        self,
        series: Any,
        static: Any = None,
        *,
        known: int = 0,
        ended: bool = True,
        by_step: bool = False,
    ) -> Any:
        """How probable given sequences of tokens are, given X and their first tokens.

        Parameters
        ----------
        series, static : table, path or array
            As in ``predict``.
        known : int
            So many tokens are given, and the rest is scored.
        ended : bool
            Whether the sequences have ended, so that their end is scored as one more token.
        by_step : bool
            A row an item and step, in place of one an item.

        Returns
        -------
        A table of the kind that came in: the id; ``log_likelihood`` in nats; ``tokens``, how
        many were scored (gaps are not); ``bits_per_token`` and ``perplexity``, NaN where none
        was. By step: the id, the step, and ``log_likelihood`` of the token there; the end stands
        after the last.

        Raises
        ------
        ArgumentError
            A forecaster of numbers; ``known`` below 0.
        DataError
            Tables that cannot be used.
        """
        speaker = self.speaker
        known = check_whole("known", known, 0)
        panel = self.schema.panel(series, static)
        return scores(speaker, self._only, panel, known, ended=ended, by_step=by_step)

    def rank(self, series: Any, static: Any, *, by: str = "series", best: int | None = None) -> Any:
        """Which X a sequence of tokens says best, or which sequence an X: retrieval.

        Every sequence is scored with every X. They are ranked by ``lift``, the log-likelihood
        of the sequence with that X over the log of its mean likelihood with all of them, so that
        a sequence that is probable anyhow gains nothing.

        Parameters
        ----------
        series : table, path or array
            Whole sequences. Their ids need not be those of ``static``.
        static : table, path or array
            What to match them with.
        by : {"series", "static"}
            A ranking of the X for each sequence, or of the sequences for each X.
        best : int, optional
            How many of each ranking; all by default.

        Returns
        -------
        A table of the kind that came in: the id (of the sequence, or of the X), ``rank`` from 1,
        ``match`` (the id of the X, or of the sequence), ``log_likelihood`` and ``lift`` in nats.

        Raises
        ------
        ArgumentError
            A forecaster of numbers, or one without static features; an argument outside what it
            may be.
        DataError
            Tables that cannot be used.
        """
        speaker = self.speaker
        check_choice("by", by, ("series", "static"))
        best = None if best is None else check_whole("best", best)
        things = self.schema.panel(None, static)
        said = self.schema.new_rows(series, None)
        return ranks(speaker, self._only, said, things, by, best)

    def clone(self) -> Forecaster:
        """An unfitted forecaster with the same settings."""
        return Forecaster(**asdict(self.settings))

    # -- files -----------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted forecaster as one safetensors file, readable on every backend.

        The file appears whole or not at all.

        Raises
        ------
        ArgumentError
            A path that cannot be written to.
        """
        write_whole(path, self._packed())

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled and copied by way of the model file's bytes: Keras's models cannot be."""
        if self._schema is None:
            return partial(type(self), **asdict(self.settings)), ()
        return type(self).load, (self._packed(),)

    def _packed(self) -> bytes:
        """What ``save`` writes."""
        schema, arrays = self.schema.to_config()
        config = {
            "settings": asdict(self.settings),
            "schema": schema,
            "history": self.history,
            "statecast": version("statecast"),
        }
        metadata = {"config": json.dumps(config, allow_nan=False, ensure_ascii=False)}
        weights = self._weights()
        _check_weights(weights)
        tensors = {f"network/{name}": value for name, value in weights.items()}
        tensors |= {f"schema/{name}": array for name, array in arrays.items()}
        return packed(FORMAT, VERSION, _HEADER_CAP, metadata, tensors | self._learnt())

    @classmethod
    def load(cls, path: str | os.PathLike[str] | bytes) -> Forecaster:
        """Read a forecaster that ``save`` wrote, from the file's path or from its bytes.

        Nothing in the file is executed: the model is rebuilt by this code from a strict
        JSON header, and every shape is checked before anything is allocated. Every number is
        looked at: none is NaN, infinite or out of range. The Keras model is built when it is first
        used, so that the file's numbers are in memory at most twice.

        Raises
        ------
        ModelFileError
            Missing, truncated, an oversized header, another version, damaged, or not ours.
        ArgumentError
            What is neither a path nor bytes.
        """
        metadata, tensors = read_safetensors(path, FORMAT, VERSION, _HEADER_CAP)
        try:
            if set(metadata) != {"format", "version", "config"}:
                raise ValueError(f"unexpected entries {str(sorted(metadata))[:200]}")
            config = strict_json(metadata["config"])
            expected = {"settings", "schema", "history", "statecast"}
            if not isinstance(config, dict) or set(config) != expected:
                raise ValueError(f"expected the entries {sorted(expected)}")
            if not isinstance(config["statecast"], str):
                raise ValueError("statecast: expected a version")
            forecaster = cls._of_settings(config["settings"])
            history = _checked_history(config["history"])
            parts = ("network", "schema", "analogues", "stacking", "endings")
            split = {part: within(tensors, part) for part in parts}
            if sum(map(len, split.values())) != len(tensors):
                raise ValueError(f"expected tensors of {list(parts)}")
            tensors.clear()  # `split` alone holds them, so that each can go when it is not needed
            targets = forecaster.settings.targets
            kind = Schema if len(targets) == 1 else Targets
            schema = kind.from_config(config["schema"], split["schema"])
            forecaster._check_schema(schema)
            analogues = stacking = None
            if split["stacking"]:
                stacking = Stacking.from_arrays(split["stacking"], schema.positions, len(targets))
            if split["analogues"]:
                analogues = Analogues.from_arrays(split["analogues"])
                if not analogues.fits(
                    schema.static.width, schema.static.cardinalities, schema.positions
                ):
                    raise ValueError("analogues: they are not those of the schema")
            if forecaster.settings.head == TOKENS and (analogues or stacking):
                raise ValueError("analogues, stacking: tokens have none")
            weights = split["network"]
            endings = None
            if forecaster.settings.ends and forecaster.settings.head != TOKENS:
                features = width(schema.static.width, schema.static.cardinalities)
                endings = Endings.from_arrays(split["endings"], schema.steps, features)
            elif split["endings"]:
                raise ValueError("endings: only numbers with ends=True have them")
            decoder, options = forecaster._plan(schema)
            shapes = Network.weight_shapes(decoder, **options)
            if set(weights) != set(shapes):
                raise ValueError("the weights are not those of the settings")
            for name, shape in shapes.items():
                if weights[name].shape != shape or weights[name].dtype != np.float32:
                    raise ValueError(
                        f"weight {name}: expected float32 {shape}, "
                        f"received {weights[name].dtype} {weights[name].shape}"
                    )
                check_finite(f"weight {name}", weights[name], _MOST_WEIGHT)
        except ValueError as error:
            where = "the bytes" if isinstance(path, bytes) else path
            raise ModelFileError(f"{where}: {error}") from None
        forecaster._adopt(schema, weights, history, analogues, stacking, endings)
        return forecaster

    @classmethod
    def _of_settings(cls, given: Any) -> Forecaster:
        """The unfitted forecaster of a model file's settings; ``ValueError`` on others."""
        names = {field.name for field in fields(Settings)}
        if not isinstance(given, dict) or set(given) != names:
            raise ValueError(f"settings: expected {sorted(names)}")
        forecaster = cls(**given)
        # What was left to a default, or written in another way, `save` would have written out.
        written = strict_json(json.dumps(asdict(forecaster.settings)))
        for name, value in given.items():
            if written[name] != value:
                raise ValueError(f"settings: {name}: expected {written[name]!r:.80}")
        return forecaster

    def _check_schema(self, schema: Schema | Targets) -> None:
        """Raise ``ValueError`` unless a model file's schema is one of these settings."""
        s = self.settings
        columns = (schema.id_col, schema.step_col, schema.start_col, schema.targets)
        columns = (*columns, {*schema.past.kinds})
        if columns != (s.id_col, s.step_col, s.start_col, s.targets, {*s.past_cols}):
            raise ValueError("the schema's columns are not those of the settings")
        asked = s.transform if s.transform != "auto" else _needed(s.head)
        if asked is not None and any(schema.of(t).transform.name != asked for t in s.targets):
            raise ValueError("the schema's transform is not that of the settings")
        if (schema.vocabulary is None) != (s.head != TOKENS):
            raise ValueError("schema: a vocabulary and the categorical head go together")
        if schema.vocabulary is not None and (schema.past.kinds or schema.future.kinds):
            raise ValueError("schema: tokens take no covariates")

    # -- what was fitted -------------------------------------------------------------

    @property
    def schema(self) -> Schema | Targets:
        """What was learnt about the tables; of several targets a ``targets.Targets``."""
        if self._schema is None:
            raise NotFittedError("This Forecaster is not fitted: call fit or load first.")
        return self._schema

    @property
    def network(self) -> Network:
        """The Keras model inside. After ``load`` it is built on first use."""
        self.schema  # noqa: B018  raises where nothing is fitted
        with self._one_at_a_time:
            if self._network is None:
                self._network = self._built(self.schema, 0, self._loaded)
                self._loaded = {}
        return self._network

    @property
    def speaker(self) -> Speaker:
        """The trained model of tokens, on arrays."""
        self.schema  # noqa: B018  raises where nothing is fitted
        if self._speaker is None:
            raise ArgumentError(
                "That is for tokens: Forecaster(head='categorical'); this one forecasts numbers "
                f"(head={self.settings.head!r})."
            )
        return self._speaker

    @property
    def fingerprint(self) -> str:
        """Of the weights: the states they make carry it."""
        return self._fingerprint

    # -- inside ----------------------------------------------------------------------

    def _built(
        self, schema: Schema | Targets, seed: int, weights: Mapping[str, np.ndarray] = NOTHING
    ) -> Network:
        """The network for tables of this schema, untrained or with these weights."""
        process.check_backend()
        decoder, options = self._plan(schema)
        options |= {"seed": seed, "weights": weights}
        if isinstance(decoder, Language):
            return LanguageNetwork(decoder, **options, dropout=self.settings.dropout)
        return Network(decoder, **options)

    def _plan(self, schema: Schema | Targets) -> tuple[Decoder | Language, dict[str, Any]]:
        """The network's parts for tables of this schema."""
        s = self.settings
        featured = schema.static.width or schema.static.cardinalities
        stack = Stack([CELLS[s.cell](s.units) for _ in range(s.layers)])
        static = s.encoding if featured and s.conditioning != "state" else 0
        decoder: Decoder | Language
        if schema.vocabulary is None:
            past = 1 + s.encoding if schema.past.kinds else 0
            future = 1 + s.encoding if schema.future.kinds else 0
            one = schema.of(s.targets[0])  # who needs a scale has one target
            head = HEADS[s.head].on_scale(
                one.transform.centre, float(one.location[0]), float(one.scaling[0])
            )
            decoder = Decoder(stack, head, schema.steps, static, past, future, len(s.targets))
        else:
            head, each = Categorical(schema.vocabulary.size), s.conditioning != "first"
            decoder = Language(stack, head, s.embedding, s.tied, static, each)
        options = {
            "numeric": schema.static.width,
            "cardinalities": schema.static.cardinalities,
            "members": s.ensemble,
            "encoding": s.encoding,
            "conditioning": s.conditioning,
            "future": (schema.future.width, schema.future.cardinalities),
            "past": (schema.past.width, schema.past.cardinalities),
            "depth": s.depth,
        }
        return decoder, options

    def _adopt(
        self,
        schema: Schema | Targets,
        network: Network | Mapping[str, np.ndarray],
        history: Mapping[str, Sequence[float | None]],
        analogues: Analogues | None,
        stacking: Stacking | None,
        endings: Endings | None,
    ) -> None:
        """Take over what was fitted, or read: then the network's weights, by their names."""
        built = isinstance(network, Network)
        self._schema, self._decoder = schema, self._plan(schema)[0]
        self._network = network if built else None
        self._loaded: Mapping[str, np.ndarray] = {} if built else network
        self._analogues, self._stacking, self._endings = analogues, stacking, endings
        # Strict JSON knows no NaN; a diverged epoch is None.
        self.history = {
            name: [None if v is None or not math.isfinite(v) else float(v) for v in values]
            for name, values in history.items()
        }
        self._models: dict[tuple[Any, ...], keras.Model] = {}
        weights, digest = self._weights(), hashlib.blake2b(digest_size=16)
        for name, value in sorted((weights | self._learnt()).items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(value).data)
        self._fingerprint = digest.hexdigest()
        self._speaker: Speaker | None = None
        if isinstance(self._decoder, Language):
            s = self.settings
            self._speaker = Speaker(self._decoder, weights, s.conditioning, ends=s.ends)

    def _weights(self) -> dict[str, np.ndarray]:
        if self._loaded:
            return dict(self._loaded)
        return _arrays_of(self.network)

    def _learnt(self) -> dict[str, np.ndarray]:
        """The arrays beside the network's weights, as a model file has them."""
        parts = {
            "analogues": self._analogues,
            "stacking": self._stacking,
            "endings": self._endings,
        }
        return {
            f"{name}/{leaf}": np.ascontiguousarray(array)
            for name, part in parts.items()
            if part is not None
            for leaf, array in part.arrays().items()
        }

    def _learn_endings(self, schema: Schema | Targets, panel: Panel) -> Endings | None:
        """What is learnt of ends, where it is asked for; else a warning where it is missed."""
        s, count = self.settings, len(self.settings.targets)
        if not s.ends:
            for place, target in enumerate(s.targets):
                own = panel.of(place) if count > 1 else panel
                apart, stops = unlike(own.y, own.mask)
                if apart:
                    warn(
                        f"Column {target!r}: items that stop being observed before the longest "
                        f"({stops} of {panel.rows}) lie {'below' if apart < 0 else 'above'} those "
                        f"that go on, by {abs(apart):.2g} standard deviations of a step. What is "
                        "forecast is the value of an item that goes on, and totals count every "
                        "item up to the last step. Fit with ends=True where such items have ended."
                    )
            return None
        one = schema.of(s.targets[0])
        line = panel.y * one.scaling + one.location
        x = statics(panel.numeric, panel.codes, one.static.cardinalities)
        censored = panel.known >= one.steps
        if one.spacing is not None and panel.origin is not None:
            last = one.spacing.dates(panel.origin, panel.known)
            censored |= last >= last.max()
        found = Endings.fit(line, panel.mask, x, censored, s.seed)
        if found is None:
            raise DataError(
                "ends: expected at least 8 items that end before the longest one's last step; "
                f"received {(~censored).sum()}. Fit with ends=False.",
                column=s.step_col,
            )
        return found

    def _ended(
        self, state: State, known: np.ndarray, drawn: np.ndarray, marginal: np.ndarray
    ) -> np.ndarray:
        """Paths ``(rows, paths, steps)`` in original units that end by chance, NaN from there on.

        At each step the paths that go on have the quantiles of ``marginal``, the values of items
        that go on, by the order of those ``drawn``."""
        endings, one = self._endings, self._only
        assert endings is not None  # asked for
        rows, paths, reach = drawn.shape
        leaves = state.at_rest()
        last = leaves["pending" if "pending" in leaves.names else "last"][..., 0].mean(axis=1)
        hold = np.clip(known - 1, 0, one.steps - 1)
        seen = last * one.scaling[hold] + one.location[hold]
        x = np.zeros((rows, 0), "float32")
        if "endings/x" in leaves.names:
            x = leaves["endings/x"]
        x = np.repeat(x, paths, axis=0)
        uniform = np.stack([self._stream(i, "/ends").random((reach, paths)) for i in state.ids])
        values, alive = np.full(drawn.shape, np.nan), np.ones((rows, paths), bool)
        for step in range(int(known.min()), reach):  # those taken, as the next is to come
            begun = known <= step
            if step:
                before = one.line(values[:, :, step - 1])
                before = np.where((known == step)[:, None], seen[:, None], before)
                taken = np.full(rows * paths, step)
                chance = endings.chance(x, taken, before.ravel()).reshape(rows, paths)
                alive &= ~(begun[:, None] & (uniform[:, step] < chance))
            order = np.where(alive, drawn[:, :, step], np.inf).argsort(axis=1).argsort(axis=1)
            place = (order + 0.5) / np.maximum(alive.sum(axis=1), 1)[:, None] * paths - 0.5
            place = np.clip(np.rint(place), 0, paths - 1).astype(int)
            found = np.take_along_axis(marginal[:, :, step], place, axis=1)
            values[:, :, step] = np.where(alive & begun[:, None], found, np.nan)
        return values

    def _memory(self, panel: Panel) -> dict[str, np.ndarray]:
        """What the analogues of an item are found by, as leaves of its state: its features, whether
        they are of a kind that training had, and the first observations at their steps."""
        found = self._analogues
        if found is None:
            return {}
        x = found.features(panel.numeric, panel.codes)
        familiar = found.familiar(panel.numeric, panel.codes).astype("float32")
        nothing = np.zeros((panel.rows, found.steps), "float32")
        leaves = {"x": x, "familiar": familiar, "y": nothing, "seen": nothing}
        leaves = {f"analogues/{name}": leaf for name, leaf in leaves.items()}
        return leaves | self._remembered(leaves, panel)

    def _remembered(self, leaves: Mapping[str, np.ndarray], new: Panel) -> dict[str, np.ndarray]:
        """The leaves of ``_memory`` that new observations change."""
        if self._analogues is None:
            return {}
        seen = _steps(new.mask, self._analogues.steps)
        value = np.where(seen, _steps(new.y, self._analogues.steps), leaves["analogues/y"])
        return {
            "analogues/y": value.astype("float32"),
            "analogues/seen": np.maximum(seen, leaves["analogues/seen"]).astype("float32"),
        }

    def _nearest(self, panel: Panel, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The training items nearest to each row, by id, and their parts in its forecast."""
        found = self._analogues
        if found is None or self._stacking is None:
            return np.empty((panel.rows, 0), object), np.zeros((panel.rows, 0))
        memory = self._memory(panel)
        x, y, seen = (memory[f"analogues/{name}"] for name in ("x", "y", "seen"))
        count = min(count, len(found.ids), NEAREST)
        near, weights = np.empty((panel.rows, count), object), np.zeros((panel.rows, count))
        part = (1.0 - self._stacking.share(panel.known)) * memory["analogues/familiar"]
        for k in np.unique(panel.known):
            rows = panel.known == k
            at = min(int(k), found.steps)
            items, weight, _ = found.nearest(x[rows], y[rows], seen[rows] > 0, at)
            near[rows] = found.ids[items[:, :count]]
            weights[rows] = weight[:, :count] * part[rows, None]
        return near, weights

    @np.errstate(over="ignore", invalid="ignore")  # `_check_range` looks for such numbers
    def _stack(
        self,
        own: np.ndarray,
        memory: Mapping[str, np.ndarray],
        known: np.ndarray,
        levels: Sequence[float],
        calibrated: bool,
    ) -> np.ndarray:
        """Scaled quantiles ``(rows, steps, len(levels))`` of the network's own at ``KNOTS``, of
        the analogues, and as calibrated; the network's alone on the prefix."""
        if self._stacking is None:
            return _at_levels(own, levels)
        knots = own
        steps, until, count = self.schema.positions, knots.shape[1], len(self.settings.targets)
        if self._analogues is not None:
            x, y, seen = (memory[f"analogues/{name}"] for name in ("x", "y", "seen"))
            other = self._analogues.forecast(x, y, seen > 0, known, KNOTS)
            knots = self._stacking.blend(own[:, :steps], other[:, :until], known)
            # Of what training never had, the network alone has been told that it may come.
            familiar = memory["analogues/familiar"][:, None, None] > 0
            knots = np.where(familiar, knots, own[:, :steps])
            # Beyond the longest training item the network goes on from where both had come to.
            moved = (knots - own[:, :steps])[:, -count:]
            more = own[:, steps:] + moved[:, np.arange(max(until - steps, 0)) % count]
            knots = np.sort(np.concatenate([knots, more], axis=1), axis=-1)
        if calibrated:
            knots = self._stacking.calibrate(knots, known)
        rest = (np.arange(until) >= known[:, None])[..., None] & ~np.isnan(knots)
        knots = np.where(rest, knots, own).astype("float32")
        return _at_levels(knots, levels)

    def _touched(self, state: State, new_rows: Any, future: Any) -> np.ndarray:
        """The rows of a state that an update may change: those of the items of the new rows, and
        of those that a plan gives the date of their step 1. Arrays have all rows."""
        rows = np.zeros(0, np.int64)
        for source, role, letter in ((new_rows, "series", "Y"), (future, "future", "future")):
            if source is None:
                continue
            found = items_of(source, role, letter, self.schema.id_col, state.ids[:1].tolist())
            if found is None:
                return np.arange(state.rows)
            at = state.find(found)
            at = at[at >= 0]
            if role == "future":
                if "origin" not in state.spec:
                    continue
                at = at[np.isnat(state.take(at)["origin"].astype("datetime64[us]"))]
            rows = np.union1d(rows, at)
        return rows

    def _state_of(self, panel: Panel) -> State:
        steps = int(panel.known.max(initial=0))
        leaves = self._start(panel) | self._memory(panel)
        if self._endings is not None and self._ending_features:
            cardinalities = self.schema.static.cardinalities
            leaves["endings/x"] = statics(panel.numeric, panel.codes, cardinalities)
        active = np.arange(1, steps + 1) <= panel.known[:, None]
        told = _told(panel, np.arange(steps)[None])
        _, leaves = self._advance(leaves, panel.y[:, :steps], panel.mask[:, :steps], active, told)
        self._check_leaves(leaves, panel.ids)
        if panel.origin is not None:
            leaves["origin"] = panel.origin.astype("int64")
        if self.schema.bridges and self._speaker is None:
            leaves["latest"] = panel.latest
        return State(leaves, panel.ids, self.fingerprint)

    def _start(self, panel: Panel) -> dict[str, np.ndarray]:
        if self._speaker is not None:
            return self._speaker.start(panel.numeric, panel.codes)
        return self._batched(Start, {"numeric": panel.numeric, "codes": panel.codes})

    def _last(
        self, horizon: Horizon, ids: np.ndarray, known: np.ndarray, strict: bool
    ) -> np.ndarray:
        """Each row's last position to forecast, of which a step has one for each target; checked,
        as ``known`` is in positions."""
        check_flag("strict", strict)
        count = len(self.settings.targets)
        last = horizon.last(ids, known // count)
        longest = int(last.max(initial=0))
        if longest > MOST_STEPS // count:
            raise ArgumentError(
                f"until: expected at most {self.schema.number(MOST_STEPS // count):,}, received "
                f"{self.schema.number(longest):,}."
            )
        late = np.flatnonzero(known // count >= last)
        if strict and len(late):
            item = ids[late[:1]].tolist()[0]
            raise DataError(
                "until: expected a step beyond every item's prefix, received "
                f"{self.schema.number(int(last[late[0]]))}; item {item!r} is already observed up "
                f"to step {self.schema.number(int(known[late[0]]) // count)}. Ask for a later "
                "step, leave that item out, or take strict=False.",
                column=self.settings.step_col,
                item=item,
            )
        return last * count

    def _reach(self, last: np.ndarray) -> int:
        """The last position of all rows. Says where it is beyond what was learnt of numbers."""
        count = len(self.settings.targets)
        longest = int(last.max(initial=0)) // count
        if longest > self.schema.steps and self._speaker is None:
            warn(
                f"until: {self.schema.number(longest)} is beyond the longest training item, which "
                f"had {self.schema.steps} steps"
                f"{f' from {self.schema.first} on' if self.schema.first > 1 else ''}. Nothing was "
                "learnt of later ones: the network runs "
                "on, its level may drift, and its intervals are not calibrated there."
            )
        return max(longest, 1) * count

    def _panel(self, series: Any, static: Any, future: Any, horizon: Horizon) -> Panel:
        """The panel of a forecast. A plan for later steps than a row's last, which ``reach`` may
        need, is no duty: it is unknown where there is none."""
        panel = self.schema.panel(series, static, future=future, until=horizon.last)
        return replace(panel, future=self._unknown(panel.future, horizon, panel.ids, panel.known))

    def _unknown(
        self, plans: Covariates | None, horizon: Horizon, ids: np.ndarray, known: np.ndarray
    ) -> Covariates | None:
        """Future covariates, unknown after each row's last step where there are none."""
        count = len(self.settings.targets)
        return plans and plans.unknown(horizon.last(ids, known // count) * count)

    def _plans(
        self,
        future: Any,
        horizon: Horizon,
        ids: np.ndarray,
        known: np.ndarray,
        origin: np.ndarray | None,
    ) -> tuple[Covariates | None, np.ndarray | None]:
        """The future covariates of a state's items, and the dates of their step 1."""
        if future is None and not self.schema.future.kinds:
            return None, origin
        panel = self.schema.new_rows(
            None, ids, future=future, known=known, origin=origin, until=horizon.last
        )
        assert panel.future is not None  # fit had some
        return self._unknown(panel.future, horizon, ids, known), panel.origin

    def _advance(
        self,
        leaves: dict[str, np.ndarray],
        value: np.ndarray,
        seen: np.ndarray,
        active: np.ndarray,
        told: Mapping[str, np.ndarray],
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The network's quantiles ``(rows, steps, len(KNOTS))``, none of tokens, and the leaves
        after ``active`` steps."""
        if self._speaker is not None:
            code = self._speaker.codes(value, seen)
            after = self._speaker.advance(leaves, code, active.sum(axis=1))
            return np.zeros((len(value), 0, 0), "float32"), leaves | after
        own = self._decoder.state_shapes
        steps = value.shape[1]
        if not steps:
            return np.zeros((len(value), 0, len(KNOTS)), "float32"), leaves
        inputs = {name: leaves[name] for name in own}
        inputs |= {
            "value": _few_lengths(value.astype("float32")),
            "observed": _few_lengths(seen.astype("float32")),
            "active": _few_lengths(active.astype(bool)),
        }
        inputs |= {name: _few_lengths(each, axis=1) for name, each in told.items()}
        after = self._batched(Advance, inputs)
        return after.pop("knots")[:, :steps], leaves | after

    def _check_leaves(self, leaves: Mapping[str, np.ndarray], ids: np.ndarray) -> None:
        """Raise ``ArgumentError`` unless the numbers of a new state are finite: over a long gap the
        network takes its own forecasts for values."""
        for leaf in leaves.values():
            finite = np.isfinite(leaf).all(axis=tuple(range(1, leaf.ndim)))
            wrong = np.flatnonzero(~finite)
            if len(wrong):
                item = ids[wrong[:1]].tolist()[0]
                raise ArgumentError(
                    f"The state of item {quoted(item)} leaves the range of float32 over the steps "
                    f"at which it was not observed. {self._growth()} Fit again."
                )

    def _check_range(
        self, found: np.ndarray, ids: np.ndarray, known: np.ndarray, last: np.ndarray
    ) -> None:
        """Raise ``ArgumentError`` unless a scaled forecast ``(rows, positions, n)`` is finite
        after each row's prefix, up to its last position; see decision 30."""
        finite = np.isfinite(found).all(axis=2)
        at = np.arange(found.shape[1])
        wrong = np.argwhere(~finite & (at >= known[:, None]) & (at < last[:, None]))
        if len(wrong):
            row, position = wrong[0].tolist()
            raise ArgumentError(
                f"until: the forecast of item {quoted(ids[row : row + 1].tolist()[0])} leaves the "
                "range of float32 at step "
                f"{self.schema.number(position // len(self.settings.targets) + 1)}. "
                f"{self._growth()} Ask for fewer steps, or fit again."
            )

    def _growth(self) -> str:
        """Which weight makes the values of this model leave float32."""
        weights = {n: float(np.abs(w).max(initial=0.0)) for n, w in self._weights().items()}
        factor, largest = weights["decoder/head/residual"], max(weights, key=weights.__getitem__)
        if factor > 1:
            return (
                f"Each step takes up to {factor:.3g} times the value before it (weight "
                "decoder/head/residual), so that values grow at every step."
            )
        return f"The largest of the model's weights, {largest}, is {weights[largest]:.3g}."

    def _batched(self, kind: type[keras.Model], inputs: dict[str, np.ndarray]) -> Any:
        """Run a compiled model in chunks padded to few sizes, so that little is compiled."""
        process.check_backend()
        parts = []
        for chunk in _chunks(len(next(iter(inputs.values())))):
            rows = len(chunk)
            size = max(16, 1 << (rows - 1).bit_length())
            padded = np.pad(chunk, (0, size - rows), mode="edge")
            given = {name: value[padded] for name, value in inputs.items()}
            # A model a shape: TensorFlow would loosen the shapes of one that meets several,
            # and round otherwise from then on.
            key = (kind, *(value.shape for value in given.values()))
            # On JAX Keras gives the weights to a call and takes them back after it: a second
            # thread would find them gone.
            network = self.network
            with self._one_at_a_time:
                if key not in self._models:
                    self._models[key] = kind(network)
                answer = self._models[key].predict_on_batch(given)
            parts.append(keras.tree.map_structure(lambda leaf, rows=rows: leaf[:rows], answer))
        return keras.tree.map_structure(lambda *leaves: np.concatenate(leaves), *parts)

    def _unscale(
        self, scaled: np.ndarray, known: np.ndarray, latest: np.ndarray | None
    ) -> np.ndarray:
        """``(rows, steps from 1, levels)``, a forecast after ``known`` steps, to original units,
        float64. The steps that no training item was observed at take theirs from those around
        them."""
        levels = np.moveaxis(scaled, -1, 1)
        return np.moveaxis(self.schema.unscale_rest(levels, known, latest), 1, -1)

    def _rest_of(
        self,
        state: State,
        known: np.ndarray,
        last: np.ndarray,
        until: int,
        levels: Sequence[float],
        calibrated: bool,
        plans: Covariates | None,
    ) -> np.ndarray:
        """Quantiles from a state on, ``(rows, until, levels)``, NaN on the steps it has taken.
        Those up to each row's ``last`` position have to be finite."""
        parts, reach = [], self.schema.reach(until)
        for rows in _chunks(state.rows):
            first = int(known[rows].min())
            nothing = np.zeros((len(rows), reach - first), "float32")
            leaves = dict(state.take(rows).leaves)
            told = self._ahead(plans, rows, known[rows], reach)
            own, _ = self._advance(leaves, nothing, nothing, np.ones_like(nothing), told)
            own = _aligned(own, known[rows], reach)
            parts.append(self._stack(own, leaves, known[rows], levels, calibrated))
        scaled, ids = _joined(parts, (reach, len(levels))), state.ids
        ids = np.arange(state.rows) if ids is None else ids
        self._check_range(scaled, ids, known, last + reach - until)
        latest = state.at_rest()["latest"] if self.schema.bridges else None
        return self._unscale(scaled, known, latest)[:, :until]

    @property
    def _only(self) -> Schema:
        """The schema of a single target, as tokens are."""
        return self.schema.of(self.settings.targets[0])

    def _need_numbers(self, verb: str) -> None:
        if self._speaker is not None:
            raise ArgumentError(f"{verb} is for numbers; this forecaster is of tokens.")

    def _check_decoding(self, decoding: Any) -> None:
        self.schema  # noqa: B018  raises where nothing is fitted
        if decoding is not None:
            raise ArgumentError(
                "decoding is for tokens: Forecaster(head='categorical'); this one forecasts "
                f"numbers (head={self.settings.head!r})."
            )

    def _say(
        self,
        series: Any,
        static: Any,
        horizon: Horizon,
        strict: bool,
        how: Beam | Sampling,
        paths: int,
        state: State | None,
    ) -> Sequences:
        """The rest of each item as tokens: so many drawn, or searched for by a beam."""
        speaker, kind = self.speaker, None
        if state is None:
            panel = self.schema.panel(series, static)
            state, kind = self._state_of(panel), panel.kind
        else:
            self._check_state(state, series, static)
        known, ids, origin = self._position(state)
        last = self._last(horizon, ids, known, strict)
        until, ahead = self._reach(last), np.flatnonzero(known < last)
        assert self.schema.vocabulary is not None  # of tokens
        rules = speaker.rules(self.schema.vocabulary, how, (last - known)[ahead])
        found = []
        several = how.width if isinstance(how, Beam) else paths
        for chunk in _chunks(len(ahead), max(1, 4 * _CHUNK // several)):
            rows = ahead[chunk]
            leaves, room = state.take(rows).leaves, (last - known)[rows]
            if isinstance(how, Beam):
                found.append(speaker.search(leaves, room, how, rules))
                continue
            uniform = np.stack([self._stream(item).random((until, paths)) for item in ids[rows]])
            uniform = uniform.swapaxes(1, 2)  # a longer forecast begins with the same draws
            steps = np.minimum(known[rows, None, None] + np.arange(room.max()), until - 1)
            uniform = np.take_along_axis(uniform, steps, axis=2)
            found.append(speaker.sample(leaves, room, uniform, how, rules))
        each = how.best if isinstance(how, Beam) else paths
        return sequences(found, ahead, each, ids, known, until, self._only, origin, kind)

    def _ahead(
        self, plans: Covariates | None, rows: np.ndarray, known: np.ndarray, until: int
    ) -> dict[str, np.ndarray]:
        """The covariates of the steps after each row's own ``known`` ones."""
        steps, told = until - int(known.min()), {}
        if plans is not None:
            told |= plans.take(rows).at(known[:, None] + np.arange(steps)).named("future")
        if self.schema.past.kinds:
            told |= self.schema.nothing("past", len(rows), steps).named("past")
        return told

    def _draw(
        self, state: State, known: np.ndarray, until: int, paths: int, plans: Covariates | None
    ) -> np.ndarray:
        """Scaled paths ``(rows, paths, until)``, drawn step by step."""
        members, rows = self.settings.ensemble, state.rows
        share = -(-paths // members)
        first = int(known.min())
        uniform = np.stack(
            [self._stream(item).random((until, share * members), "float32") for item in state.ids]
        )  # by step first: a longer forecast begins with the same draws
        uniform = np.clip(uniform, 1e-6, 1 - 1e-6)
        # Each row starts after its own prefix: its draws are shifted to there.
        steps = np.minimum(known[:, None] + np.arange(until - first), until - 1)
        uniform = np.take_along_axis(uniform, steps[..., None], axis=1)
        uniform = uniform.reshape(rows, until - first, share, members).transpose(0, 2, 3, 1)
        forks = state.fork(share)
        inputs = {name: forks[name] for name in self._decoder.state_shapes}
        inputs["uniform"] = _few_lengths(uniform.reshape(rows * share, members, until - first), 0.5)
        for name, told in self._ahead(plans, np.arange(rows), known, until).items():
            inputs[name] = _few_lengths(np.repeat(told, share, axis=0), axis=1)
        drawn = self._batched(Sample, inputs)[..., : until - first]
        drawn = drawn.reshape(rows, share * members, until - first)[:, :paths]
        return _aligned(drawn.swapaxes(1, 2), known, until).swapaxes(1, 2)

    def _tied(self, drawn: np.ndarray, state: State, known: np.ndarray) -> np.ndarray:
        """The places of paths of several targets, ``(rows, paths, positions)``, between 0 and 1.

        What ties the targets is learnt by both models, so the linear path draws as large a part
        of the paths as the analogues have in the forecast; each path's place is that among its own.
        """
        found, stacking, (_, paths, until) = self._analogues, self._stacking, drawn.shape
        if found is None or stacking is None:
            return drawn
        share = np.rint((1.0 - stacking.share(known)) * paths).astype(int)
        familiar = state.at_rest()["analogues/familiar"] > 0
        share = np.where((known < found.steps) & familiar, share, 0)
        # Beyond the longest training item all stay where they had come to.
        count = len(self.settings.targets)
        at = np.arange(until)
        at = np.where(at < found.steps, at, found.steps - count + at % count)
        places = np.empty(drawn.shape)
        for size in np.unique(share):
            rows = np.flatnonzero(share == size)
            parts = [drawn[rows, : paths - size]]
            if size:
                streams = [self._stream(item, "/linear") for item in state.ids[rows]]
                normal = np.stack([s.standard_normal((found.steps, paths)) for s in streams])
                seen = state["analogues/seen"][rows] > 0
                normal = normal.swapaxes(1, 2)[:, :size]
                parts.append(found.deviations(seen, known[rows], normal)[..., at])
            ranked = [(p.argsort(axis=1).argsort(axis=1) + 0.5) / max(p.shape[1], 1) for p in parts]
            places[rows] = np.concatenate(ranked, axis=1)
        return places

    def _stream(self, item: Any, use: str = "") -> np.random.Generator:
        """An item's own random numbers: they do not depend on its neighbours."""
        plain = plain_id(item)
        text = f"{self.settings.seed}/{type(plain).__name__}/{plain}{use}".encode()
        key = np.frombuffer(hashlib.blake2b(text, digest_size=16).digest(), "uint64")
        return np.random.Generator(np.random.Philox(key=key))

    def _position(self, state: State) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Per row of a state: the steps taken, the id, the date of step 1.

        Raises
        ------
        StateError
            Steps that no state of this forecaster has taken, or dates beyond the calendar.
        """
        rest = state.at_rest()
        for name, leaf in rest.leaves.items():
            if name == "origin":  # a date
                continue
            most = _MOST_IN_LEAF.get(name, _MOST_IN_STATE)
            wrong = np.argwhere(~(np.abs(leaf) <= most))
            if len(wrong):
                raise StateError(
                    f"Leaf {name!r}: expected numbers from {-most:g} to {most:g}; received "
                    f"{leaf[tuple(wrong[0])]} in row {wrong[0][0]}. Make the state again with "
                    "`state`."
                )
        step = rest["step"][..., 0]
        count = len(self.settings.targets)
        taken = (step >= 0) & (step <= MAX_STEPS * count) & (step == step[:, :1])
        wrong = np.flatnonzero(~(taken & (np.floor(step / count) * count == step)).all(axis=1))
        if len(wrong):
            raise StateError(
                f"Leaf 'step': expected a multiple of {count} from 0 to {MAX_STEPS * count:,}, "
                f"alike for all members; received {step[wrong[0]].tolist()} in row {wrong[0]}."
            )
        known, origin = step[:, 0].astype(int), None
        if "origin" in rest.names:
            origin = rest["origin"].astype("datetime64[us]")
            wrong = np.flatnonzero((origin < _FIRST_DATE) | (origin > _LAST_DATE))
            wrong = wrong[~np.isnat(origin[wrong])]
            if len(wrong):
                raise StateError(
                    "Leaf 'origin': expected a date from the year 1 to 9999, in microseconds "
                    f"since 1970; received {rest['origin'][wrong[0]]} in row {wrong[0]}."
                )
        ids = np.arange(state.rows) if state.ids is None else state.ids
        return known, ids, origin

    @property
    def _ending_features(self) -> int:
        return width(self.schema.static.width, self.schema.static.cardinalities)

    def _check_state(self, state: State, series: Any = None, static: Any = None) -> None:
        if series is not None or static is not None:
            raise ArgumentError("Give either series and static, or state; received both.")
        if not isinstance(state, State):
            raise StateError(f"state: expected a State, received {type(state).__name__}.")
        members = self.settings.ensemble
        shapes = self._decoder.state_shapes
        spec: dict[str, tuple[int, ...]] = {n: (members, *shape) for n, shape in shapes.items()}
        if self._analogues is not None:
            steps, features = (self._analogues.steps,), (self._analogues.x.shape[1],)
            spec |= {"analogues/x": features, "analogues/y": steps, "analogues/seen": steps}
            spec["analogues/familiar"] = ()
        if self._endings is not None and self._ending_features:
            spec["endings/x"] = (self._ending_features,)
        if self.schema.spacing is not None:
            spec["origin"] = ()
        if self.schema.bridges and self._speaker is None:
            spec["latest"] = (len(self.settings.targets), 2)
        state.check(spec)
        for name, leaf in state.take(slice(0)).leaves.items():
            expected = ("int64",) if name == "origin" else _FLOATS
            if leaf.dtype.name not in expected:
                raise StateError(
                    f"Leaf {name!r}: expected {' or '.join(expected)}, received {leaf.dtype}."
                )
        if state.fingerprint != self.fingerprint:
            raise StateError(
                "This state was made by other weights. States belong to the fit that made "
                "them: make it again with this forecaster's `state`."
            )

    def _warn_undated(self, ids: np.ndarray, origin: np.ndarray | None) -> None:
        """Warn of items whose closed days cannot be told, as they have no date."""
        undated = np.zeros(0, int) if origin is None else np.flatnonzero(np.isnat(origin))
        if self.schema.calendar and len(undated):
            warn(
                f"{len(undated):,} items have no date (item {ids[undated[:1]].tolist()[0]!r}), so "
                f"their forecasts have steps that may be closed ({self.schema.calendar}), and "
                "totals count them."
            )


def _arrays_of(network: Network) -> dict[str, np.ndarray]:
    """A network's weights as float32 arrays, by their names in a model file."""
    return {
        name: np.ascontiguousarray(keras.ops.convert_to_numpy(weight), "float32")
        for name, weight in network.weight_map().items()
    }


def _check_weights(weights: Mapping[str, np.ndarray]) -> None:
    """Raise ``ArgumentError`` for trained weights that a model file may not hold."""
    try:
        for name, weight in weights.items():
            check_finite(f"weight {name}", weight, _MOST_WEIGHT)
    except ValueError as error:
        raise ArgumentError(
            f"learning_rate: training diverged ({error}). Fit with a lower learning rate."
        ) from None


@dataclass(frozen=True)
class Paths:
    """Joint sample paths.

    Attributes
    ----------
    ids : array, ``(items,)``
    known : array of int, ``(items,)``
        Each item's prefix length; its paths begin at the step after.
    values : array, float64, ``(items, paths, until)``
        In original units, NaN on the prefix. Of several targets ``(items, paths, until, targets)``:
        path i of one goes with path i of the others.
    last : array of int, ``(items,)``, or None
        Each item's last step, after which its values are NaN; None where it is that of all.
    observed : array, float64, ``(items, steps)``, or None
        The prefixes, NaN where nothing was observed, of several targets
        ``(items, steps, targets)``; None where the paths go on from a state.

    Examples
    --------
    >>> import numpy as np
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
    schema: Schema | Targets
    origin: np.ndarray | None = None
    kind: Kind | None = None
    observed: np.ndarray | None = None
    last: np.ndarray | None = None

    def __repr__(self) -> str:
        items, paths, until, *_ = self.values.shape
        of = ", ".join(self.schema.targets)
        return (
            f"<Paths of {of}: {items:,} items, {paths:,} paths each, up to step "
            f"{self.schema.number(until):,}>"
        )

    def table(self) -> Any:
        """A long table: the id, the step, and a column a path, ``path-1``, ``path-2``, ...; of
        several targets one for each, ``path-lat-1``, ``path-lon-1``, ..."""
        items, paths = self.values.shape[:2]
        values, count = self.values.reshape(items, paths, -1), len(self.schema.targets)
        named = {f"path-{i + 1}": values[:, i] for i in range(paths)}
        return self.schema.table(
            named,
            ids=self.ids,
            known=self.known * count,
            origin=self.origin,
            kind=self.kind,
            last=None if self.last is None else self.last * count,
        )

    def of(self, target: str) -> Paths:
        """The paths of one of several targets, for its total, peak and time to a threshold.

        Raises
        ------
        ArgumentError
            A target that is not there.
        """
        schema = self.schema.of(target)
        if isinstance(self.schema, Schema):
            return self
        at = self.schema.targets.index(target)
        observed = None if self.observed is None else self.observed[..., at]
        return replace(self, values=self.values[..., at], schema=schema, observed=observed)

    def alive(self) -> Any:
        """The share of an item's paths that have not ended, at each step.

        Returns
        -------
        A table of the kind that came in: the id, the step and ``alive``, from 0 to 1. Without
        ``ends`` it is 1 everywhere. For arrays, a dict of arrays ``(items, until)``.
        """
        values = self.values.reshape(*self.values.shape[:3], -1)[..., 0]
        schema, last = self.schema.of(self.schema.targets[0]), self.last
        return schema.table(
            {"alive": (~np.isnan(values)).mean(axis=1)},
            ids=self.ids,
            known=self.known,
            origin=self.origin,
            kind=self.kind,
            last=last,
        )

    def total(
        self,
        *,
        since: int | None = None,
        level: float | Sequence[float] | None = (80,),
        quantiles: float | Sequence[float] | None = (),
    ) -> Any:
        """How much each item comes to: the distribution of the sum over its paths. A path that has
        ended adds nothing from there on.

        Parameters
        ----------
        since : int, optional
            The first step to count; default each item's first forecast step. From 1 on it is
            the total of the whole item, what was observed included.
        level, quantiles
            As in ``Forecaster.predict``.

        Returns
        -------
        A table of the kind that came in, a row an item: the id, ``statecast`` (the median),
        ``statecast-lo-80``, ... in original units. For arrays, a dict of arrays ``(items,)``.

        Raises
        ------
        DataError
            A step since ``since`` is a gap, so that the total is unknown.
        ArgumentError
            ``since`` beyond ``until``; or within the prefix, of paths that go on from a state,
            which does not hold what was observed.
        """
        columns = _asked(level, quantiles)
        (totals,) = self._reduced(since, lambda rest, _: (np.nansum(rest, axis=-1),))
        return self._summary(_quantiles(totals, columns))

    def peak(
        self,
        *,
        since: int | None = None,
        level: float | Sequence[float] | None = (80,),
        quantiles: float | Sequence[float] | None = (),
    ) -> Any:
        """How high each item rises, and when: the distributions of its largest value and of
        the first step that has it.

        Parameters, returns and errors are those of ``total``; beside the value's columns there
        are the step's: ``step``, ``step-lo-80``, ...
        """
        columns = _asked(level, quantiles)

        def highest(rest: np.ndarray, _: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            known = np.where(np.isnan(rest), -np.inf, rest)
            value, step = known.max(axis=-1), known.argmax(axis=-1) + float(self.schema.first)
            nothing = np.isneginf(value)  # closed throughout, or ended with its prefix
            return np.where(nothing, np.nan, value), np.where(nothing, np.nan, step)

        value, step = self._reduced(since, highest)
        return self._summary(_quantiles(value, columns) | _steps_at(step, columns, "step"))

    def time_to(
        self,
        threshold: Any,
        *,
        falling: bool = False,
        since: int | None = None,
        level: float | Sequence[float] | None = (80,),
        quantiles: float | Sequence[float] | None = (),
    ) -> Any:
        """When each item reaches a threshold: the distribution of the first step at which its
        value is at least so high.

        Parameters
        ----------
        threshold : float or array, ``(items,)``
            In original units.
        falling : bool
            The first step at which the value is at most so high instead.
        since, level, quantiles
            As in ``total``.

        Returns
        -------
        As ``total`` does, in the steps of the tables, and ``never``: the share of paths that do
        not reach it up to ``until``. A quantile that lies among those is NaN.

        Raises
        ------
        As ``total`` does; ArgumentError for a threshold that is no number, or not one an item.
        """
        columns = _asked(level, quantiles)
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
            beside = limit[rows, None, None]
            reached = rest <= beside if falling else rest >= beside
            return (np.where(reached.any(axis=-1), reached.argmax(axis=-1) + number, np.inf),)

        (step,) = self._reduced(since, first)
        named = _steps_at(step, columns, "statecast")
        return self._summary(named | {"never": np.isinf(step).mean(axis=1)})

    def _reduced(
        self, since: int | None, reduce: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, ...]]
    ) -> list[np.ndarray]:
        """What ``reduce`` makes of the steps since ``since``: of float64 ``(rows, paths, until)``,
        NaN before, arrays ``(rows, paths)``. In parts, so that memory stays bounded."""
        if not isinstance(self.schema, Schema):
            raise ArgumentError(
                "Expected paths of one target, as several have no common unit; received those of "
                f"{list(self.schema.targets)}. Take one: paths.of({self.schema.targets[0]!r})."
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
        open_ = self.schema.open(self.origin, until, self.kind)
        if past.any():
            if self.observed is None:
                raise ArgumentError(
                    "since: expected a step after every prefix, as these paths go on from a "
                    f"state, which does not hold what was observed; received {since}. Simulate "
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
                    f"{quoted(item)} was not observed at step {at + least}. Begin after it, or "
                    "leave that item out.",
                    column=self.schema.target_col,
                    item=item,
                )
        found = []
        for rows in _chunks(len(self.ids), max(1, _PATH_VALUES // (paths * until))):
            values = np.where(past[rows, None], observed[rows, None], self.values[rows])
            found.append(reduce(np.where(counted[rows, None], values, np.nan), rows))
        if not found:
            found = [reduce(np.zeros((0, paths, until)), np.zeros(0, int))]
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]

    def _summary(self, columns: dict[str, np.ndarray]) -> Any:
        return self.schema.of(self.schema.targets[0]).summary(columns, ids=self.ids, kind=self.kind)


def _known_quantile(
    drawn: np.ndarray, columns: Mapping[str, float], method: Any = "linear"
) -> np.ndarray:
    """Quantiles ``(columns, items)`` of the draws that are numbers; NaN where none is."""
    if not np.isnan(drawn).any():
        return np.quantile(drawn, list(columns.values()), axis=1, method=method)
    found = np.full((len(columns), len(drawn)), np.nan)
    for item, own in enumerate(drawn):
        own = own[~np.isnan(own)]
        if len(own):
            found[:, item] = np.quantile(own, list(columns.values()), method=method)
    return found


def _quantiles(drawn: np.ndarray, columns: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Of draws ``(items, paths)``, by the name of the column."""
    found = _known_quantile(drawn, columns)
    return dict(zip(columns, found, strict=True))


def _steps_at(step: np.ndarray, columns: Mapping[str, float], name: str) -> dict[str, np.ndarray]:
    """As ``_quantiles``, of steps: each a step that a path has, or NaN where it has none."""
    found = _known_quantile(step, columns, method="inverted_cdf")
    found = np.where(np.isinf(found), np.nan, found)
    return {c.replace("statecast", name, 1): q for c, q in zip(columns, found, strict=True)}


def _companions(
    network: Network, panel: Panel, held: np.ndarray, *, wanted: bool, seed: int
) -> tuple[Analogues | None, Stacking | None]:
    """What stands beside the network: analogues where they are wanted, and what held-out items
    say of both. With few items there is neither."""
    # In an order of chance: so analogues want it, and a part of them is a fair sample.
    order = np.random.default_rng([seed, 4]).permutation(panel.rows)[:MOST_ANALOGUES]
    panel, held = panel.take(order), held[:, order]
    rows = np.flatnonzero(held.any(axis=0))[:MOST_STACKED]
    if len(rows) < FEWEST_STACKED:
        return None, None
    analogues = None
    if wanted and panel.y.shape[1] <= MOST_ANALOGUE_STEPS:
        analogues = Analogues.fit(
            panel.ids,
            panel.numeric,
            panel.codes,
            panel.y,
            panel.mask,
            panel.groups,
            seed=seed,
            targets=panel.targets,
        )
    knots, some = Knots(network.decoder.head), panel.take(rows)
    ours, theirs = {}, {}
    known = prefixes(panel.y.shape[1], panel.targets)
    for k, parameters in held_out_parameters(network, panel, held, rows, known):
        ours[k] = keras.ops.convert_to_numpy(knots.predict_on_batch(parameters))
        if analogues is not None:
            seen = some.mask & (np.arange(some.mask.shape[1]) < k)
            x, all_k = analogues.features(some.numeric, some.codes), np.full(len(rows), k)
            theirs[k] = analogues.forecast(x, some.y, seen, all_k, KNOTS, items=rows)
    truth = np.where(some.mask, some.y, np.nan)
    return analogues, Stacking.fit(truth, ours, theirs or None, panel.targets)


def _asked(level: Any, quantiles: Any) -> dict[str, float]:
    """The columns of a forecast, by name, and the quantile that each of them is."""
    columns = {"statecast": 0.5}
    for percent in check_numbers("level", level):
        if not 1 <= percent < 100:
            raise ArgumentError(
                f"level: expected percent, from 1 to below 100, received {percent}."
            )
        columns[f"statecast-lo-{percent:g}"] = 0.5 - percent / 200
        columns[f"statecast-hi-{percent:g}"] = 0.5 + percent / 200
    for quantile in check_numbers("quantiles", quantiles):
        if not 0 < quantile < 1:
            raise ArgumentError(
                f"quantiles: expected numbers above 0 and below 1, received {quantile}."
            )
        columns[f"statecast-q-{quantile:g}"] = quantile
    return columns


def _needed(head: str) -> str | None:
    """The transform that a head cannot do without."""
    return None if head == TOKENS else HEADS[head].transform


def _at_levels(knots: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Quantiles at any levels, of distributions given by theirs at ``KNOTS``."""
    found = Quantiles(KNOTS).quantile(
        keras.ops.convert_to_tensor(knots), np.asarray(levels, "float32")
    )
    return keras.ops.convert_to_numpy(found)


def _chunks(rows: int, size: int = _CHUNK) -> list[np.ndarray]:
    return [np.arange(i, min(i + size, rows)) for i in range(0, rows, size)]


def _joined(parts: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros((0, *shape), "float32")


def _steps(array: np.ndarray, until: int) -> np.ndarray:
    """The first ``until`` columns, zeros where there are no more."""
    return np.pad(array[:, :until], ((0, 0), (0, max(0, until - array.shape[1]))))


def _few_lengths(array: np.ndarray, value: Any = 0, axis: int = -1) -> np.ndarray:
    """Steps, the last axis, padded to one or a multiple of eight: few lengths to compile."""
    steps = array.shape[axis]
    more = np.zeros((array.ndim, 2), int)
    more[axis, 1] = 0 if steps == 1 else -steps % 8
    return np.pad(array, more, constant_values=value)


def _told(panel: Panel, steps: np.ndarray) -> dict[str, np.ndarray]:
    """The panel's covariates at ``steps``, ``(rows or 1, n)`` from 0; past ones on the prefix."""
    steps = np.broadcast_to(steps, (panel.rows, steps.shape[1]))
    told = {} if panel.future is None else panel.future.at(steps).named("future")
    if panel.past is not None:
        past = panel.past.at(steps)
        told |= past.named("past") | {"past_there": past.there & (steps < panel.known[:, None])}
    return told


def _aligned(array: np.ndarray, known: np.ndarray, until: int) -> np.ndarray:
    """``(rows, steps, ...)`` that begin after each row's prefix, put at their own steps."""
    out = np.full((len(array), until, array.shape[2]), np.nan, array.dtype)
    row, step = np.nonzero(np.arange(until) >= known[:, None])
    out[row, step] = array[row, step - known[row]]
    return out


def _checked_history(history: Any) -> dict[str, list[float | None]]:
    numbers = isinstance(history, dict) and all(
        isinstance(values, list)
        and all(v is None or is_number(v, -LARGEST, LARGEST) for v in values)
        for values in history.values()
    )
    if not numbers:
        raise ValueError(f"history: expected lists of numbers up to {LARGEST:g}")
    return history
