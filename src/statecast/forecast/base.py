"""``StateModel``: the base class of the forecasters of numbers and of tokens.

It implements fitting, states and their updates, model files and settings. A subclass defines its
schema, network and batches, how its network starts and advances, and the models that it fits beside
the network.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Self, TypedDict, TypeVar, cast

import numpy as np

from statecast import notebook, process
from statecast.checks import check_choice, check_flag, is_number
from statecast.errors import ArgumentError, DataError, ModelFileError, NotFittedError, StateError
from statecast.files import (
    age,
    check_finite,
    check_keys,
    packed,
    plain_id,
    read_safetensors,
    strict_json,
    write_whole,
)
from statecast.forecast.companions import Companions
from statecast.forecast.settings import Settings
from statecast.interrupt import Interrupt, noted
from statecast.networks.decoder import ALL, EMPTY, weight_shapes
from statecast.progress import Verbose, check_verbose, display, trained_text
from statecast.recurrence.cells import CELLS, Stack, within
from statecast.state import State, leaf_dtypes
from statecast.tables.columns import LARGEST
from statecast.tables.horizon import MOST_STEPS, Horizon
from statecast.tables.ids import items_of
from statecast.tables.panel import Panel
from statecast.tables.schema import Schema
from statecast.tables.steps import MAX_CELLS, MAX_STEPS

if TYPE_CHECKING:
    import keras

    from statecast.networks.batches import Batches
    from statecast.networks.network import Network

FORMAT = "statecast-model"
VERSION = 7
_HEADER_CAP = 8 * 1024 * 1024  # bytes: a vocabulary, and the categories of the columns
_FIRST_DATE, _LAST_DATE = np.datetime64("0001-01-01", "us"), np.datetime64("9999-12-31", "us")
_LARGEST_WEIGHT = 1e6  # products of such weights are far inside the range of float32
# The largest absolute value in a state. Real states are far below it: a scaled value is at most
# 1e6, and a cell's memory changes by at most 1 at a step.
_LARGEST_LEAF = 1e15
_LARGEST_LEAVES = {"analogues/y": 1e6, "analogues/seen": 1.0}
_FLOATS = (np.float16, np.float32, np.float64)  # the dtypes of a leaf of a state
_WHOLE = ("origin", "group")  # the leaves that are whole numbers: a date, and the key of a group
_MOST_DRAWN = MAX_CELLS // 2  # values of a call's paths or sequences: 2 GB of float64
_BLOCK = 100  # paths whose random numbers are from one stream
CHUNK = 1024  # the most rows that are computed at once: it bounds memory

S = TypeVar("S", bound=Settings)
Frame = TypeVar("Frame")  # a table of any kind; the forecast is one of the same kind


class Ahead(TypedDict, total=False):
    """The keywords for the steps to forecast, in overloads of ``predict`` and ``generate``."""

    until: Any
    h: int | None
    strict: bool


@dataclass(frozen=True)
class ModelFile:
    """The content of a model file. The model that it describes is not checked yet.

    Attributes
    ----------
    where : str
        The file, for messages.
    kind : str
        The name of the class that wrote it.
    config : dict
        The JSON header: ``settings``, ``given`` (how the arguments of the constructor were
        written), ``schema``, ``history`` and the version ``statecast``.
    tensors : dict of str to array
        The tensors by name.
    """

    where: str
    kind: str
    config: dict[str, Any]
    tensors: dict[str, np.ndarray]

    @classmethod
    def read(cls, path: str | os.PathLike[str] | bytes) -> ModelFile:
        """Read a file from its path or from its bytes.

        Raises
        ------
        ModelFileError, ArgumentError
            As ``StateModel.load``.
        """
        metadata, tensors = read_safetensors(path, FORMAT, VERSION, _HEADER_CAP)
        where = "the bytes" if isinstance(path, bytes) else str(path)
        try:
            if set(metadata) != {"format", "version", "kind", "config"}:
                raise ValueError(f"unexpected entries {str(sorted(metadata))[:200]}")
            config = strict_json(metadata["config"])
            check_keys("config", config, ("settings", "given", "schema", "history", "statecast"))
            if not isinstance(config["statecast"], str):
                raise ValueError("statecast: expected a version")
        except ValueError as error:
            raise ModelFileError(f"{where}: {error}") from None
        return cls(where, metadata["kind"][:80], config, tensors)

    def written_by(self) -> str:
        """The version of Statecast that wrote the file, as the end of a message about an error in
        it; empty if it is this version."""
        found, own = self.config["statecast"][:40], version("statecast")
        if found == own:
            return ""
        return (
            f" Statecast {found} wrote the file, {age(found, own)} version than this one ({own}), "
            "whose files may differ."
        )


@dataclass(frozen=True)
class Trained:
    """The trained members of an ensemble.

    Attributes
    ----------
    weights : mapping of str to array
        As ``Network.weight_arrays`` returns them.
    history : mapping of str to array, ``(epochs, members)``
        As ``KeepBest.histories`` returns it.
    network : Network or None
        The Keras model, if it is in this process.
    """

    weights: Mapping[str, np.ndarray]
    history: Mapping[str, np.ndarray]
    network: Network | None = None


# Trains the members on the panel of the training tables, with the rows that each member holds out.
Train = Callable[[Schema, Panel, np.ndarray, Interrupt], Trained]


class StateModel(ABC, Generic[S]):
    """A forecaster with a recurrent state: the base of ``Forecaster`` and ``TokenForecaster``."""

    settings: S
    settings_class: ClassVar[type[Settings]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.__doc__ is not None:  # None under `python -OO`
            # Without the indentation, which Python 3.13 removes from docstrings and 3.11 keeps.
            text = inspect.cleandoc(cls.__doc__)
            cls.__doc__ = text.replace("{parameters}", cls.settings_class.document())

    def _set(self, given: Mapping[str, Any]) -> None:
        """Set the settings from the arguments of the constructor, and forget any fit."""
        self.settings = cast(S, self.settings_class.of(given))
        self._given = dict(given)
        self.history: dict[str, list[float | None]] = {}
        self._one_at_a_time = process.Lock()
        self._schema: Schema | None = None

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.settings.changed.items())
        schema = self._schema
        fitted = "not fitted" if schema is None else f"fitted on {schema.steps} steps"
        return f"<{type(self).__name__}({shown}), {fitted}>"

    def _repr_html_(self) -> str:
        schema, name = self._schema, type(self).__name__
        rows: list[tuple[str, Any]] = [
            (setting, str(value)) for setting, value in self.settings.changed.items()
        ]
        if schema is None:
            return notebook.heading(f"{name}, not fitted") + notebook.pairs(rows)
        rows += [
            ("targets", ", ".join(schema.target_cols)),
            ("steps", f"up to {schema.steps:,}"),
            ("static features", ", ".join(schema.static.kinds) or "none"),
            ("trained", trained_text(self.history)),
            ("fingerprint", self.fingerprint),
        ]
        return notebook.heading(f"{name}, fitted on {schema.items:,} items") + notebook.pairs(rows)

    # -- settings ----------------------------------------------------------------------

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor, as in scikit-learn.

        Parameters
        ----------
        deep : bool
            Accepted as in scikit-learn; it has no effect, because no setting is an estimator.

        Returns
        -------
        dict
            Every setting by name, with the value that was passed or the default. None stands for a
            default that depends on other settings; ``settings`` has its value.
        """
        names = self.settings_class.declared()
        return {
            name: self._given.get(name, None if each.several is not None else each.default)
            for name, each in names.items()
        }

    def set_params(self, **given: Any) -> Self:
        """Change settings before a fit.

        Returns
        -------
        The model itself.

        Raises
        ------
        ArgumentError
            Settings that the constructor refuses, or a model that is fitted. The model is then
            unchanged.
        """
        if not given:
            return self
        if self._schema is not None:
            raise ArgumentError(
                f"set_params: expected a {type(self).__name__} that is not fitted; this one is, "
                "and its weights depend on its settings. Set them on a copy: "
                "clone().set_params(...)."
            )
        self._set(self._given | given)
        return self

    def clone(self) -> Self:
        """Return an unfitted model with the same settings."""
        return type(self)(**self._given)

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn's searches ask of an estimator; nothing else calls this."""
        from sklearn.utils import Tags, TargetTags

        return Tags(None, TargetTags(required=False))

    # -- fitting -----------------------------------------------------------------------

    def fit(
        self,
        series: Any,
        static: Any = None,
        *,
        future: Any = None,
        callbacks: Sequence[keras.callbacks.Callback] | None = (),
        verbose: Verbose = "auto",
    ) -> Self:
        """Fit the model to a table of series and, optionally, a table of static features.

        Parameters
        ----------
        series : table, path or array
            A long table with a row for each item and step: pandas, polars, Arrow, or the path of a
            CSV or Parquet file. Its columns are ``unique_id, ds, y``, or as named in the settings.
            ``ds`` is a date or a whole number. Numbers begin at 1, or at the first step of the
            training items if that is much later (years, for example). Or an array
            ``(items, steps)``, for several targets ``(items, steps, targets)``, with NaN where
            nothing was observed.
        static : table, path or array, optional
            A table with a row for each item: ``unique_id`` and its features, numbers or text; or
            an array ``(items, features)``.
        future : table, path or array, optional
            Known future covariates (promotions, the calendar, planned spend). A long table with the
            columns ``unique_id, ds`` and the covariates, numbers or text, and a row for every step
            of an item; or an array ``(items, steps, features)``. An empty cell is unknown, not
            zero. A model that is fitted with future covariates needs them for every step that it
            takes or forecasts, except closed days. Further rows and items are ignored. Tokens have
            no covariates.
        callbacks : sequence of keras.callbacks.Callback
            Further callbacks of the training.
        verbose : "auto", 0, 1 or 2
            0 shows nothing, 1 a line after each fifth of the epochs, and 2 a line for each epoch.
            "auto" is a bar with the time left if standard error is a terminal, and otherwise 1.
            Lines go to the logger "statecast" (``logging``) at level INFO, or to standard error if
            no logging is set up.

        Returns
        -------
        The model itself. If the fit fails, it is unchanged.

        Ctrl-C ends the training after at most one more batch, and the best epoch so far is kept. A
        Ctrl-C before the end of the first epoch, or a second one, raises ``KeyboardInterrupt``. If
        the program has its own handler of SIGINT, that handler is used. Python delivers Ctrl-C to
        the main thread only: in another thread, end a fit by a callback that sets
        ``model.stop_training``.

        Raises
        ------
        DataError
            A table that cannot be used; the message names the column and the first item.
        ArgumentError
            ``verbose`` or ``callbacks`` other than the above; ``future`` for tokens; a setting
            without an effect on these tables; training that diverged.
        MissingExtraError
            Keras and a backend are not installed: ``pip install 'statecast[jax]'``.
        ForkError
            The process is a fork of one in which JAX or TensorFlow has run.

        Warns
        -----
        DataWarning
            Steps at which no item was observed: their forecasts are interpolated between the
            observed steps before and after. Weekdays, hours and months in which no item was ever
            observed, if steps are dates: forecasts leave them out. Fewer than 8 groups of
            ``group_col`` with two items or more: their items are independent.
        """
        process.check_backend()
        from statecast.networks.training import checked_callbacks

        check_verbose(verbose)
        more = {"callbacks": checked_callbacks(callbacks), "verbose": verbose}

        def train(schema: Schema, panel: Panel, held: np.ndarray, interrupt: Interrupt) -> Trained:
            return self._train(schema, panel, held, interrupt, **more)

        with display(verbose):
            return self._fit(series, static, future, train, verbose)

    def _fit(self, series: Any, static: Any, future: Any, train: Train, verbose: Verbose) -> Self:
        """Fit the model, with ``train`` for the training of the members."""
        from statecast.networks.batches import held_out
        from statecast.networks.training import mean_history

        s = self.settings
        schema = self._learn_schema(series, static, future)
        covariates = bool(schema.future.kinds or schema.past.kinds)
        s.check_features(bool(schema.static.kinds), covariates)
        panel = schema.panel(series, static, future=future, for_fit=True)
        before = self._learn_before(schema, panel)
        with noted() as interrupt:
            held = held_out(panel.groups, s.ensemble, s.seed)
            found = train(schema, panel, held, interrupt)
            _check_weights(found.weights, s)
            companions = self._learn_after(schema, found.weights, panel, held, before, verbose)
            history = mean_history(found.history)
            self._adopt(schema, found.weights, history, companions, found.network)
        return self

    # -- states ------------------------------------------------------------------------

    def state(self, series: Any = None, static: Any = None, *, future: Any = None) -> State:
        """The state of each item after its prefix, from which its next step starts.

        Parameters
        ----------
        series : table, path or array, optional
            The prefixes; k may differ between items. An item that is in ``static`` only has k = 0.
        static : table, path or array, optional
            The same columns as in ``fit``.
        future : table, path or array, optional
            As in ``fit``, for the steps of the prefixes. A state does not hold the covariates of
            later steps, so that forecasts with different future covariates can start from it.

        Returns
        -------
        State
            A row for each item, with the items' ids; leaves ``(rows, members, ...)``, float32.

        Raises
        ------
        DataError
            Tables that cannot be used.
        NotFittedError
            The model is not fitted.
        """
        return self.state_of(self.schema.panel(series, static, future=future))

    def state_of(self, panel: Panel) -> State:
        """The state of each row of a panel after its prefix, as ``state`` gives it.

        Parameters
        ----------
        panel : Panel
            From ``schema.panel`` or ``schema.panel_of``.

        Returns
        -------
        State
            With the panel's ids.

        Raises
        ------
        DataError
            An observation after step 10,000, which no forecast could follow.
        ArgumentError
            A state that leaves the range of float32.
        NotFittedError
            The model is not fitted.
        """
        fingerprint = self.fingerprint
        self._check_observed(panel.ids, panel.known)
        leaves = self._advance(self._start(panel), panel, np.zeros(panel.rows, int))
        if panel.origin is not None:
            leaves["origin"] = panel.origin.astype("int64")
        if panel.group is not None:
            leaves["group"] = panel.group
        return State(leaves, panel.ids, fingerprint)

    def check_state(self, state: State) -> None:
        """Check that this model can go on from a state.

        Raises
        ------
        StateError
            A state that this model did not make, or with values out of range.
        NotFittedError
            The model is not fitted.
        """
        self.schema  # noqa: B018  raises if nothing is fitted
        self._check_state(state)
        self._position(state)

    def update(self, state: State, new_rows: Any, *, future: Any = None) -> State:
        """Advance items by their new observations.

        The result equals the state that is computed from the complete prefixes. The cost depends on
        the number of new rows, not on the number of rows of the state: the new state shares the
        unchanged rows with the old one (see ``State``).

        Parameters
        ----------
        state : State
            From ``state`` or ``update``; it is not changed.
        new_rows : table, path or array
            Columns as in ``fit``. Rows of any of the state's items, at steps after those that the
            item's state has taken. A step that is left out is a gap. An array ``(rows, steps)`` has
            the state's rows; its first column is step 1, and it is NaN before an item's new steps.
            An item advances to its last row with a value of y. Rows after it have no effect: hand
            them in again with the next value, so that their past covariates are used.
        future : table, path or array, optional
            As in ``fit``, for the new steps.

        Returns
        -------
        State
            All rows of ``state``; those with new observations are advanced.

        Raises
        ------
        DataError
            A step that is not new, an observation after step 10,000, or an item that the state does
            not have.
        StateError
            A state that this model did not make, or one without ids.
        ArgumentError
            A new state that leaves the range of float32.
        NotFittedError
            The model is not fitted.
        """
        self.schema  # noqa: B018  raises if nothing is fitted
        self._check_state(state)
        if state.ids is None:
            raise StateError(
                "state: expected a state with ids, to which new rows can be matched; received one "
                "without ids (a fork has none). Give it ids: "
                "State(state.leaves, ids=[...], fingerprint=state.fingerprint)."
            )
        new_rows, _, future = self.schema.opened(new_rows, None, future)
        touched = self._touched(state, new_rows, future)
        part = state.take(touched)
        known, ids, origin = self._position(part)
        new = self.schema.new_rows(new_rows, ids, future=future, known=known, origin=origin)
        return state.put(touched, self.advance(part, new))

    def advance(self, state: State, panel: Panel) -> State:
        """Advance all rows of a state by the new observations of a panel, as ``update`` does.

        Parameters
        ----------
        state : State
            From ``state``, ``state_of``, ``update`` or this method.
        panel : Panel
            From ``schema.new_rows`` or ``schema.new_rows_of``, with the rows of the state in their
            order.

        Returns
        -------
        State
            A row without a new observation keeps its leaves, except the date of its step 1.

        Raises
        ------
        DataError
            An observation after step 10,000, which no forecast could follow.
        ArgumentError
            A new state that leaves the range of float32.
        StateError
            A state with values out of range.
        NotFittedError
            The model is not fitted.
        """
        self.schema  # noqa: B018  raises if nothing is fitted
        known, _, _ = self._position(state)
        self._check_observed(panel.ids, panel.known)
        leaves = dict(state.leaves)
        if panel.origin is not None:
            leaves["origin"] = panel.origin.astype("int64")
        rows = np.flatnonzero(panel.known)
        if 0 < len(rows) == state.rows:  # the usual case
            leaves |= self._advance(leaves, panel, known)
        elif len(rows):
            moved = {name: leaf[rows] for name, leaf in leaves.items()}
            for name, leaf in self._advance(moved, panel.take(rows), known[rows]).items():
                leaves[name] = leaves[name].copy()
                leaves[name][rows] = leaf
        return State(leaves, state.ids, state.fingerprint)

    # -- files -------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model to one safetensors file, which every backend can read.

        The file is written completely or not at all.

        Raises
        ------
        ArgumentError
            A path that cannot be written to.
        NotFittedError
            The model is not fitted.
        """
        write_whole(path, self._packed())

    @classmethod
    def load(cls, path: str | os.PathLike[str] | bytes) -> Self:
        """Read a model that ``save`` wrote, from the file's path or from its bytes.

        Nothing in the file is executed: the model is rebuilt from a strict JSON header. Shapes are
        checked before memory is allocated. Numbers are checked: NaN, infinite and out-of-range
        ones are refused. Neither Keras nor a backend is loaded.

        Raises
        ------
        ModelFileError
            A file that is missing, truncated or damaged, or of another version or class, or whose
            header is too large.
        ArgumentError
            Neither a path nor bytes.
        """
        return cls._from_file(ModelFile.read(path))

    @classmethod
    def _from_file(cls, file: ModelFile) -> Self:
        tensors = file.tensors
        try:
            if file.kind != cls.__name__:
                raise ValueError(
                    f"expected a {cls.__name__}; the file holds a {file.kind}, which "
                    f"{file.kind}.load reads"
                )
            settings = cls.settings_class.from_config(file.config["settings"])
            model = cls(**settings.as_given(file.config["given"]))
            history = _checked_history(file.config["history"])
            parts = ("network", "schema", *Companions.parts())
            split = {part: within(tensors, part) for part in parts}
            if sum(map(len, split.values())) != len(tensors):
                raise ValueError(f"expected tensors of {list(parts)}")
            tensors.clear()  # only `split` refers to them now, so that each can be freed after use
            schema = Schema.from_config(file.config["schema"], split["schema"])
            model._check_schema(schema)
            companions = model._read_companions(split, schema)
            weights = split["network"]
            decoder, options = model._plan(schema)
            shapes = weight_shapes(decoder, **options)
            if set(weights) != set(shapes):
                raise ValueError("the weights are not those of the settings")
            for name, shape in shapes.items():
                if weights[name].shape != shape or weights[name].dtype != np.float32:
                    raise ValueError(
                        f"weight {name}: expected float32 {shape}, "
                        f"received {weights[name].dtype} {weights[name].shape}"
                    )
                check_finite(f"weight {name}", weights[name], _LARGEST_WEIGHT)
        except ValueError as error:
            raise ModelFileError(
                f"{file.where}: {str(error).rstrip('.')}.{file.written_by()}"
            ) from None
        model._adopt(schema, weights, history, companions)
        return model

    def export(
        self,
        folder: str | os.PathLike[str],
        *,
        format: Literal["onnx"] = "onnx",  # noqa: A002  as in Keras
    ) -> None:
        """Write the fitted model for programs without Python, as two ONNX graphs.

        ``encode.onnx`` maps static features to a state. ``step.onnx`` maps a state and the
        observation of a step to the next state and the distribution of a value: of numbers the
        quantiles of the step's value given the observations before it, as ``predict`` gives them;
        of tokens the log-probabilities of the next token. Both take any number of rows.
        ``model.json`` has the meaning of their inputs and outputs, and the scaling of tables.
        The how-to page "A fitted model as ONNX graphs" describes how to use them.

        Parameters
        ----------
        folder : str or path
            It is made if its parent exists. Files of these three names are replaced.
        format : {"onnx"}

        Raises
        ------
        ArgumentError
            Another format, a folder that cannot be written to, or a model whose graphs would be too
            large.
        MissingExtraError
            onnx is not installed: ``pip install 'statecast[onnx]'``.
        NotFittedError
            The model is not fitted.
        """
        self.schema  # noqa: B018  raises if nothing is fitted
        check_choice("format", format, ["onnx"])
        from statecast.export.onnx import write

        write(self, self._companions, folder)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy by the bytes of the model file, as Keras models cannot be pickled."""
        if self._schema is None:
            return partial(type(self), **self._given), ()
        return type(self).load, (self._packed(),)

    def _packed(self) -> bytes:
        """The bytes that ``save`` writes."""
        schema, arrays = self.schema.to_config()
        config = {
            "settings": asdict(self.settings),
            "given": dict(sorted(self.settings.forms(self._given).items())),
            "schema": schema,
            "history": self.history,
            "statecast": version("statecast"),
        }
        text = json.dumps(config, allow_nan=False, ensure_ascii=False)
        metadata = {"kind": type(self).__name__, "config": text}
        tensors = {f"network/{name}": value for name, value in self._trained.items()}
        tensors |= {f"schema/{name}": array for name, array in arrays.items()}
        tensors |= self._companions.arrays()
        return packed(FORMAT, VERSION, _HEADER_CAP, metadata, tensors)

    def _check_schema(self, schema: Schema) -> None:
        """Raise ``ValueError`` unless a model file's schema agrees with the settings."""
        s = self.settings
        columns = (schema.id_col, schema.step_col, schema.start_col, schema.target_cols)
        if columns != (s.id_col, s.step_col, s.start_col, s.targets):
            raise ValueError("the schema's columns are not those of the settings")

    # -- what was fitted ---------------------------------------------------------------

    @property
    def schema(self) -> Schema:
        """The schema of the training tables."""
        if self._schema is None:
            raise NotFittedError(
                f"This {type(self).__name__} is not fitted: call fit or load first."
            )
        return self._schema

    @property
    def network(self) -> Network:
        """The Keras model with the trained weights.

        After ``load`` it is built on first use. Forecasts do not use it.
        """
        schema = self.schema
        with self._one_at_a_time:
            if self._network is None:
                process.check_backend()
                self._network = self._build(schema, 0, self._trained)
        return self._network

    @property
    def weights(self) -> Mapping[str, np.ndarray]:
        """The trained weights of the network, float32 ``(members, ...)``, by their names in a model
        file; read-only."""
        self.schema  # noqa: B018  raises if nothing is fitted
        return MappingProxyType(self._trained)

    @property
    def training_items(self) -> int | None:
        """The number of training items, where the model holds their values as analogues (at most
        50,000 of them); else None."""
        self.schema  # noqa: B018  raises if nothing is fitted
        analogues = self._companions.analogues
        return None if analogues is None else len(analogues.ids)

    @property
    def fingerprint(self) -> str:
        """A digest of the weights. Every state has the fingerprint of the model that made it."""
        self.schema  # noqa: B018  raises if nothing is fitted
        return self._fingerprint

    # -- what a subclass defines -----------------------------------------------------------

    @abstractmethod
    def _learn_schema(self, series: Any, static: Any, future: Any) -> Schema:
        """The schema of training tables."""

    @abstractmethod
    def _learn_before(self, schema: Schema, panel: Panel) -> Companions:
        """Check the training panel, and fit the models that are fitted before the network."""

    @abstractmethod
    def _batches(
        self, decoder: Any, panel: Panel, held: np.ndarray, own: slice = ALL
    ) -> tuple[Batches, Batches]:
        """The batches to train ``own`` members on, and the validation batches that decide when to
        stop.

        ``held`` is bool ``(members, rows)``: the rows that each member of the ensemble holds out.
        """

    @abstractmethod
    def _learn_after(
        self,
        schema: Schema,
        weights: Mapping[str, np.ndarray],
        panel: Panel,
        held: np.ndarray,
        before: Companions,
        verbose: Verbose,
    ) -> Companions:
        """Fit the models that need the network's weights; ``before`` are those fitted before it."""

    @abstractmethod
    def _plan(self, schema: Schema) -> tuple[Any, dict[str, Any]]:
        """The decoder of the network and its other arguments, for tables of a schema."""

    @abstractmethod
    def _build(
        self,
        schema: Schema,
        seed: int,
        weights: Mapping[str, np.ndarray] = EMPTY,
        own: slice = ALL,
    ) -> Network:
        """The network of ``own`` members for tables of a schema, with ``weights``, or for all
        members with random initial weights."""

    @abstractmethod
    def _read_companions(
        self, arrays: Mapping[str, Mapping[str, np.ndarray]], schema: Schema
    ) -> Companions:
        """The models beside the network, from a model file; ``ValueError`` if it is damaged."""

    @abstractmethod
    def _start(self, panel: Panel) -> dict[str, np.ndarray]:
        """The leaves of each row before its first step."""

    @abstractmethod
    def _advance(
        self, leaves: dict[str, np.ndarray], panel: Panel, known: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The leaves after the panel's prefixes; ``leaves`` are those after ``known`` steps."""

    @abstractmethod
    def _leaf_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of a state's leaves by name, without the rows, and without ``origin`` and
        ``group``."""

    def _use(self, decoder: Any, weights: Mapping[str, np.ndarray]) -> None:
        """Prepare for forecasts with new weights."""
        self._decoder = decoder

    # -- inside --------------------------------------------------------------------------

    def _recurrent_options(self, schema: Schema) -> tuple[Stack, int, dict[str, Any]]:
        """The stack of cells, the width of X among its inputs, and the network's arguments that
        both forecasters have."""
        s = self.settings
        featured = schema.static.width or schema.static.cardinalities
        stack = Stack([CELLS[s.cell](s.units) for _ in range(s.layers)])
        options = {
            "numeric": schema.static.width,
            "cardinalities": schema.static.cardinalities,
            "members": s.ensemble,
            "encoding": s.encoding,
            "conditioning": s.conditioning,
            "future": (schema.future.width, schema.future.cardinalities),
            "past": (schema.past.width, schema.past.cardinalities),
            "depth": s.depth,
            "hidden": s.hidden(schema.items),
        }
        return stack, s.encoding if featured and s.conditioning != "state" else 0, options

    def _train(
        self,
        schema: Schema,
        panel: Panel,
        held: np.ndarray,
        interrupt: Interrupt,
        *,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        verbose: Verbose = 0,
    ) -> Trained:
        """Train all members on a panel, in one network; ``held`` is as in ``_batches``."""
        from statecast.networks.training import after, prepare, train

        s = self.settings
        network = self._build(schema, s.seed)
        batches = self._batches(network.decoder, panel, held)
        prepare(network, s.epochs * len(batches[0]), s.learning_rate, s.weight_decay)
        keep = train(
            network,
            *batches,
            epochs=s.epochs,
            ends=after(s.patience),
            interrupt=interrupt,
            callbacks=callbacks,
            verbose=verbose,
        )
        return Trained(network.weight_arrays(), keep.histories(), network)

    def _adopt(
        self,
        schema: Schema,
        weights: Mapping[str, np.ndarray],
        history: Mapping[str, Sequence[float | None]],
        companions: Companions,
        network: Network | None = None,
    ) -> None:
        """Set what was fitted or read. ``network`` is the Keras model after a fit."""
        self._schema, self._companions = schema, companions
        self._network, self._trained = network, dict(weights)
        # Strict JSON has no NaN, so the score of an epoch that diverged is None.
        self.history = {
            name: [None if v is None or not math.isfinite(v) else float(v) for v in values]
            for name, values in history.items()
        }
        digest = hashlib.blake2b(digest_size=16)
        for name, value in sorted((self._trained | companions.arrays()).items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(value).data)
        self._fingerprint = digest.hexdigest()
        self._use(self._plan(schema)[0], self._trained)
        self._spec = self._leaf_shapes()
        if schema.spacing is not None:
            self._spec["origin"] = ()
        if schema.group_col is not None:
            self._spec["group"] = ()

    def _touched(self, state: State, new_rows: Any, future: Any) -> np.ndarray:
        """The rows of a state that an update with these open tables may change.

        They are the items with new rows, and the items without a date that ``future`` gives a date.
        Arrays have no ids, so for them it is all rows.
        """
        rows: list[np.ndarray] = []
        for source in (new_rows, future):
            if source is None:
                continue
            if isinstance(source, np.ndarray):
                return np.arange(state.rows)
            at = state.find(items_of(source, self.schema.id_col, state.ids[:1].tolist()))
            at = at[at >= 0]
            if source is future:
                if "origin" not in state.spec:
                    continue
                at = at[np.isnat(state.take(at)["origin"].astype("datetime64[us]"))]
            rows.append(at)
        return rows[0] if len(rows) == 1 else np.unique(np.concatenate([np.zeros(0, int), *rows]))

    def _check_observed(self, ids: np.ndarray, known: np.ndarray) -> None:
        """Raise ``DataError`` if no forecast could follow an item's last observed position."""
        count = len(self.settings.targets)
        most, last = MOST_STEPS // count, known // count
        if (last > most).any():
            row = int(np.argmax(last))
            item, column = ids[row : row + 1].tolist()[0], self.settings.step_col
            dated = ", or that of its first row" if self.schema.spacing is not None else ""
            raise DataError(
                f"Item {item!r}: expected observations up to step {self.schema.number(most):,}, "
                "the last one of any forecast; received one at step "
                f"{self.schema.number(int(last[row])):,}. Correct its value of {column!r}{dated}.",
                column=column,
                item=item,
            )

    def _last(
        self, horizon: Horizon, ids: np.ndarray, known: np.ndarray, strict: bool
    ) -> np.ndarray:
        """Each row's last position to forecast, checked.

        With several targets a step has a position for each target; ``known`` counts positions too.
        """
        check_flag("strict", strict)
        self._check_observed(ids, known)
        count = len(self.settings.targets)
        last = horizon.last(ids, known // count)
        longest = int(last.max(initial=0))
        if longest > MOST_STEPS // count:
            raise ArgumentError(
                "until or h: expected a last step of at most "
                f"{self.schema.number(MOST_STEPS // count):,}, received "
                f"{self.schema.number(longest):,}."
            )
        late = np.flatnonzero(known // count >= last)
        if strict and len(late):
            item = ids[late[:1]].tolist()[0]
            raise DataError(
                "until: expected a step beyond every item's prefix, received "
                f"{self.schema.number(int(last[late[0]]))}; item {item!r} is already observed up "
                f"to step {self.schema.number(int(known[late[0]]) // count)}. Choose a later "
                "step, leave that item out, or pass strict=False.",
                column=self.settings.step_col,
                item=item,
            )
        return last * count

    def _position(self, state: State) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """For each row of a state: the positions taken, the id, and the date of step 1.

        Raises
        ------
        StateError
            Values out of range: a leaf, a number of steps, or a date.
        """
        rest = state.at_rest()
        for name, leaf in rest.leaves.items():
            if name in _WHOLE:
                continue
            most = _LARGEST_LEAVES.get(name, _LARGEST_LEAF)
            inside = np.abs(leaf) <= most
            if not inside.all():
                wrong = np.argwhere(~inside)
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
                f"the same for all members; received {step[wrong[0]].tolist()} in row {wrong[0]}."
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

    def _check_state(self, state: State, series: Any = None, static: Any = None) -> None:
        if series is not None or static is not None:
            raise ArgumentError(
                "state: expected a state or series and static; received both. Leave one out."
            )
        if not isinstance(state, State):
            raise StateError(f"state: expected a State, received {type(state).__name__}.")
        if state.fingerprint != self.fingerprint:
            raise StateError(
                "state: expected a state that these weights made; received one of another fit. "
                f"Make it again with this {type(self).__name__}'s `state`."
            )
        state.check(self._spec)
        for name, dtype in leaf_dtypes(state).items():
            expected = (np.int64,) if name in _WHOLE else _FLOATS
            if dtype.type not in expected:
                names = " or ".join(each.__name__ for each in expected)
                raise StateError(f"Leaf {name!r}: expected {names}, received {dtype}.")

    def _uniform(self, ids: np.ndarray, steps: int, paths: int, use: str = "") -> np.ndarray:
        """Random numbers from 0 to below 1, float64 ``(rows, steps, paths)``.

        A number depends on the seed, the item's id, the use of the draws, the step and the path
        alone. The generator is counter-based (Philox: Salmon et al. 2011), with a key for each
        item and ``_BLOCK`` paths; a step takes the next ``_BLOCK`` numbers.
        """
        found = np.empty((len(ids), steps, paths))
        for row, item in enumerate(ids):
            plain = plain_id(item)
            for first in range(0, paths, _BLOCK):
                text = f"{self.settings.seed}/{type(plain).__name__}/{plain}{use}/{first}".encode()
                key = np.frombuffer(hashlib.blake2b(text, digest_size=16).digest(), "uint64")
                numbers = np.random.Generator(np.random.Philox(key=key)).random((steps, _BLOCK))
                part = found[row, :, first : first + _BLOCK]
                part[:] = numbers[:, : part.shape[1]]
        return found


def _check_weights(weights: Mapping[str, np.ndarray], settings: Settings) -> None:
    """Raise ``ArgumentError`` for trained weights that are not finite or too large."""
    rate, decay = settings.learning_rate, settings.weight_decay
    cause, advice = "learning_rate", f"Fit with a learning_rate below {rate:g}."
    # Each update of AdamW multiplies a weight by 1 minus the product of the two.
    if decay * min(rate, settings.default("learning_rate")) > 1.0:
        cause = "weight_decay"
        advice = (
            f"Each update multiplies the weights by 1 - learning_rate x weight_decay = "
            f"{1.0 - rate * decay:.3g}. Fit with a weight_decay far below {1.0 / rate:g}, or with "
            "a lower learning_rate."
        )
    try:
        for name, weight in weights.items():
            check_finite(f"weight {name}", weight, _LARGEST_WEIGHT)
    except ValueError as error:
        raise ArgumentError(f"{cause}: training diverged ({error}). {advice}") from None


def check_drawn(name: str, items: int, each: int, steps: int) -> None:
    """Raise ``ArgumentError`` if a call would return more values than fit into memory.

    ``name`` is the argument that says how many paths or sequences an item has, ``each``.
    """
    if items * each * steps > _MOST_DRAWN:
        raise ArgumentError(
            f"{name}: expected at most {_MOST_DRAWN:,} values at once, received {items:,} items x "
            f"{each:,} {name} x {steps:,} values of each. Ask for fewer {name}, or for the items "
            "in parts."
        )


def chunks(rows: int, size: int = CHUNK) -> list[np.ndarray]:
    """The rows in chunks of at most ``size``."""
    return [np.arange(i, min(i + size, rows)) for i in range(0, rows, size)]


def _checked_history(history: Any) -> dict[str, list[float | None]]:
    numbers = isinstance(history, dict) and all(
        isinstance(values, list)
        and all(v is None or is_number(v, -LARGEST, LARGEST) for v in values)
        for values in history.values()
    )
    if not numbers:
        raise ValueError(f"history: expected lists of numbers up to {LARGEST:g}")
    return history
