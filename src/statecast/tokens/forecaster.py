"""``TokenForecaster``: generates, samples, scores and ranks sequences of tokens."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import numpy as np

from statecast.checks import check_choice, check_flag, check_whole
from statecast.errors import ArgumentError, DataError, ModelFileError, quoted
from statecast.forecast.base import (
    CHUNK,
    Ahead,
    Frame,
    ModelFile,
    StateModel,
    check_drawn,
    chunks,
)
from statecast.forecast.companions import Companions
from statecast.forecast.forecaster import Forecaster
from statecast.forecast.settings import takes
from statecast.heads.categorical import Categorical
from statecast.networks.decoder import ALL, EMPTY
from statecast.progress import Verbose
from statecast.state import State
from statecast.tables.horizon import MOST_STEPS, Horizon
from statecast.tables.panel import Panel
from statecast.tables.schema import Schema
from statecast.tokens.decoder import TokenDecoder
from statecast.tokens.decoding import Beam, Found, Sampling
from statecast.tokens.engine import TokenEngine
from statecast.tokens.sequences import Sequences
from statecast.tokens.settings import TokenSettings

if TYPE_CHECKING:
    import polars as pl

    from statecast.networks.batches import Batches
    from statecast.networks.network import Network


class _Generate(Ahead, total=False):
    """The keywords of ``generate``, for its overloads; a test compares the two."""

    beam: Beam


class TokenForecaster(StateModel[TokenSettings]):
    """Forecast the rest of a sequence of tokens from its static features and its first tokens.

    Tokens are text (characters, words), whole numbers or booleans. One fitted model serves every
    prefix length k from 0 up: the static features X condition a recurrent network, and the first k
    tokens advance it. ``Forecaster`` is the class for numbers.

    Several threads may use a fitted model at once.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    settings : TokenSettings
        The settings, with every default filled in.
    schema : Schema
        What was learnt about the tables.
    history : dict of str to list of float
        Per epoch: ``loss``, ``nats``, ``val_loss``, ``val_nats``, per token.

    Raises
    ------
    ArgumentError
        A value outside its range, an unknown name, or a setting without an effect.

    Examples
    --------
    >>> import numpy as np
    >>> Y = np.array([[3, 5, 5, np.nan], [5, 3, np.nan, np.nan]] * 10)
    >>> f = TokenForecaster(units=4, epochs=1).fit(Y, verbose=0)
    >>> f.generate(Y[:2, :1], until=4)["statecast"].shape
    (2, 4)
    """

    settings_class = TokenSettings

    @takes(TokenSettings)
    def __init__(self, **given: Any) -> None:
        self._set(given)

    # -- sequences ---------------------------------------------------------------------

    @overload
    def generate(
        self, series: np.ndarray, static: Any = None, **options: Unpack[_Generate]
    ) -> dict[str, np.ndarray]: ...
    @overload
    def generate(
        self, series: str | os.PathLike[str], static: Any = None, **options: Unpack[_Generate]
    ) -> pl.DataFrame: ...
    @overload
    def generate(
        self,
        series: None = None,
        static: None = None,
        *,
        state: State,
        **options: Unpack[_Generate],
    ) -> Any: ...
    @overload
    def generate(self, series: None, static: Any, **options: Unpack[_Generate]) -> Any: ...
    @overload
    def generate(
        self, series: Frame, static: Any = None, **options: Unpack[_Generate]
    ) -> Frame: ...
    def generate(
        self,
        series: Any = None,
        static: Any = None,
        *,
        until: Any = None,
        h: int | None = None,
        strict: bool = False,
        beam: Beam = Beam(),  # noqa: B008  it is frozen
        state: State | None = None,
    ) -> Any:
        """The most probable sequences after each item's prefix, by beam search.

        Parameters
        ----------
        series : table, path or array, optional
            The prefixes; k may differ between items. An item that is in ``static`` only has k = 0.
        static : table, path or array, optional
            The same columns as in ``fit``.
        until : int, mapping, table, path or array
            The last step, numbered as in the tables. Give one number for all items; or one for each
            item, as a mapping of ids to steps, a table with the ids and a column ``until``, or an
            array ``(items,)``. An item that is observed up to ``until`` has no rows in the result.
        h : int, optional
            The number of steps after each prefix, in place of ``until``.
        strict : bool
            Raise an error for an item that is observed up to ``until``.
        beam : Beam
            The width of the beam, the number of sequences to return, and further options. The
            default is a greedy search.
        state : State, optional
            Continue from this state, in place of ``series`` and ``static``. If the state has no
            ids (a fork has none), its rows are numbered from 0.

        Returns
        -------
        A table of the input's kind (pandas, polars, Arrow; polars for a path) with the columns:
        the id, the step, ``statecast`` (the best sequence) and ``statecast-nats`` (its
        log-probability in nats, the same in all rows of an item). If the beam returns more
        sequences, they are ``statecast-2``, ``statecast-2-nats``, ... A sequence that ended has
        null at the step of its end and at later steps; one without a null did not end. The rows of
        an item go up to the end of its longest sequence, or to ``until``. If the search found fewer
        sequences than asked for, the others are null, with a log-probability of minus infinity. For
        arrays, a dict of arrays ``(items, until)``.

        Raises
        ------
        DataError
            Tables that cannot be used; with ``strict``, ``until`` not beyond an item's prefix.
        ArgumentError
            Neither or both of ``until`` and ``h``; an argument outside its range; both ``state``
            and tables; a required or forbidden token that training did not have.
        StateError
            A state that this model did not make.
        NotFittedError
            The model is not fitted.
        """
        if not isinstance(beam, Beam):
            raise ArgumentError(f"beam: expected a Beam, received {beam!r}.")
        found = self._decode(series, static, until, h, strict, beam, 1, state)
        return found.table("statecast", scored=True)

    def sample(
        self,
        series: Any = None,
        static: Any = None,
        *,
        until: Any = None,
        h: int | None = None,
        strict: bool = False,
        paths: int = 200,
        sampling: Sampling = Sampling(),  # noqa: B008  it is frozen
        state: State | None = None,
    ) -> Sequences:
        """Sequences after each item's prefix, sampled token by token.

        An item's draws depend only on the seed and its id.

        Parameters
        ----------
        series, static, until, h, strict, state
            As in ``generate``.
        paths : int
            The number of sequences of each item.
        sampling : Sampling
            Changes of the distribution that is sampled from; by default none.

        Returns
        -------
        Sequences

        Raises
        ------
        DataError, ArgumentError, StateError, NotFittedError
            As ``generate``.
        """
        paths = check_whole("paths", paths)
        if not isinstance(sampling, Sampling):
            raise ArgumentError(f"sampling: expected a Sampling, received {sampling!r}.")
        return self._decode(series, static, until, h, strict, sampling, paths, state)

    def log_likelihood(
        self,
        series: Any,
        static: Any = None,
        *,
        known: int = 0,
        ended: bool = True,
        by_step: bool = False,
    ) -> Any:
        """The log-likelihood of given sequences, given X and their first tokens.

        Parameters
        ----------
        series, static : table, path or array
            As in ``generate``.
        known : int
            The number of first tokens that are given. The tokens after them are scored.
        ended : bool
            Whether the sequences have ended. If so, their ends are scored too.
        by_step : bool
            Return a row for each item and step, in place of a row for each item.

        Returns
        -------
        A table of the input's kind. Its columns are the id; ``log_likelihood`` in nats; ``tokens``,
        the number of tokens that were scored (missing ones are not); ``bits_per_token`` and
        ``perplexity``, NaN if no token was scored. With ``by_step`` they are the id, the step, and
        the ``log_likelihood`` of the token at this step; the end has the step after the last token.

        Raises
        ------
        ArgumentError
            ``known`` below 0; ``ended`` or ``by_step`` that is not a boolean.
        DataError
            Tables that cannot be used.
        NotFittedError
            The model is not fitted.
        """
        schema, engine = self.schema, self.engine
        known = check_whole("known", known, 0)
        ended, by_step = check_flag("ended", ended), check_flag("by_step", by_step)
        panel = schema.panel(series, static)
        nats = engine.panel_log_likelihoods(panel, ended=ended)
        nats[:, :known] = np.nan
        if by_step:
            return schema.output(panel.kind).table(
                {"log_likelihood": nats},
                ids=panel.ids,
                known=np.full(panel.rows, known),
                origin=panel.origin,
                last=panel.known + bool(ended and engine.ends),
            )
        tokens = np.sum(~np.isnan(nats), axis=1)
        total = np.nansum(nats, axis=1)
        mean = np.where(tokens > 0, -total / np.maximum(tokens, 1), np.nan)
        columns = {
            "log_likelihood": total,
            "tokens": tokens,
            "bits_per_token": mean / np.log(2),
            "perplexity": np.exp(mean),
        }
        return schema.output(panel.kind).rows({schema.id_col: panel.ids} | columns)

    def rank(
        self,
        series: Any,
        static: Any,
        *,
        by: Literal["series", "static"] = "series",
        best: int | None = None,
    ) -> Any:
        """Retrieval: rank rows of static features for each sequence, or sequences for each row.

        Every sequence is scored given every row X of static features. The pairs are ranked by
        ``lift``: the log-likelihood of the sequence given X, minus the logarithm of the mean of its
        likelihoods given each of the rows. So a sequence that is probable given any X is not
        favoured.

        Parameters
        ----------
        series : table, path or array
            Complete sequences. Their ids may differ from those of ``static``.
        static : table, path or array
            The rows of static features.
        by : {"series", "static"}
            "series" ranks the rows of ``static`` for each sequence; "static" ranks the sequences
            for each row of ``static``.
        best : int, optional
            The length of each ranking; by default all.

        Returns
        -------
        A table of the input's kind: the id (of the sequence, or of the row of ``static``); ``rank``
        from 1; ``match``, the id of what is ranked; ``log_likelihood`` and ``lift`` in nats.

        Raises
        ------
        ArgumentError
            A model without static features; an argument outside its range.
        DataError
            Tables that cannot be used.
        NotFittedError
            The model is not fitted.
        """
        schema = self.schema
        check_choice("by", by, ("series", "static"))
        best = None if best is None else check_whole("best", best)
        features, sequences = schema.panel(None, static), schema.new_rows(series, None)
        nats = self.engine.pair_log_likelihoods(sequences, features)
        mean = np.logaddexp.reduce(nats, axis=1, keepdims=True) - np.log(features.rows)
        lift = nats - mean
        asked, answers = sequences.ids, features.ids
        if by == "static":
            nats, lift, asked, answers = nats.T, lift.T, answers, asked
        order = np.argsort(-lift, axis=1, kind="stable")[:, :best]
        count = order.shape[1]
        columns = {
            schema.id_col: np.repeat(asked, count),
            "rank": np.tile(np.arange(1, count + 1), len(asked)),
            "match": answers[order.ravel()],
            "log_likelihood": np.take_along_axis(nats, order, axis=1).ravel(),
            "lift": np.take_along_axis(lift, order, axis=1).ravel(),
        }
        return schema.output(sequences.kind).rows(columns)

    # -- what was fitted ---------------------------------------------------------------

    @property
    def engine(self) -> TokenEngine:
        """The trained model on NumPy arrays."""
        self.schema  # noqa: B018  raises if nothing is fitted
        return self._engine

    # -- fitting -----------------------------------------------------------------------

    def _learn_schema(self, series: Any, static: Any, future: Any) -> Schema:
        if future is not None:
            raise ArgumentError(
                f"future: tokens take no covariates; received a {type(future).__name__}. Leave it "
                "out."
            )
        return Schema.fit(series, static, **self.settings.columns)

    def _learn_before(self, schema: Schema, panel: Panel) -> Companions:
        if schema.steps > MOST_STEPS:
            item = panel.ids[[panel.known.argmax()]].tolist()[0]
            raise DataError(
                f"Column {schema.step_col!r}: expected sequences of at most {MOST_STEPS:,} tokens, "
                f"received one of {schema.steps:,} (item {quoted(item)}). Cut it into several "
                "items.",
                column=schema.step_col,
                item=item,
            )
        return Companions()

    def _batches(
        self, decoder: TokenDecoder, panel: Panel, held: np.ndarray, own: slice = ALL
    ) -> tuple[Batches, Batches]:
        from statecast.networks.batches import training_rows
        from statecast.tokens.batches import VALIDATION_ROWS, TokenBatches

        s = self.settings
        batch = s.batch_size or int(np.clip(panel.rows // 64 * 8, 16, 64))
        trained = training_rows(held)
        validated = [np.flatnonzero(rows)[:VALIDATION_ROWS] for rows in held]
        of = partial(TokenBatches, panel, decoder=decoder, ends=s.ends, own=own)
        return of(trained, batch=batch, seed=s.seed), of(validated, batch=4 * batch)

    def _learn_after(
        self,
        schema: Schema,
        weights: Mapping[str, np.ndarray],
        panel: Panel,
        held: np.ndarray,
        before: Companions,
        verbose: Verbose,
    ) -> Companions:
        return before

    def _plan(self, schema: Schema) -> tuple[TokenDecoder, dict[str, Any]]:
        s = self.settings
        assert schema.vocabulary is not None  # of tokens
        stack, static, options = self._recurrent_options(schema)
        head, each = Categorical(schema.vocabulary.size), s.conditioning != "first"
        return TokenDecoder(stack, head, s.embedding, s.tied, static, each), options

    def _build(
        self,
        schema: Schema,
        seed: int,
        weights: Mapping[str, np.ndarray] = EMPTY,
        own: slice = ALL,
    ) -> Network:
        from statecast.tokens.network import TokenNetwork

        decoder, options = self._plan(schema)
        options |= {"precision": self.settings.precision, "seed": seed}
        options |= {"weights": weights, "own": own, "dropout": self.settings.dropout}
        return TokenNetwork(decoder, **options)

    def _use(self, decoder: Any, weights: Mapping[str, np.ndarray]) -> None:
        super()._use(decoder, weights)
        self._engine = TokenEngine(decoder, weights, ends=self.settings.ends)

    def _check_schema(self, schema: Schema) -> None:
        super()._check_schema(schema)
        if schema.vocabulary is None:
            raise ValueError("schema: expected a vocabulary, as the file holds a TokenForecaster")
        if schema.past.kinds or schema.future.kinds:
            raise ValueError("schema: expected no covariates, as the file holds a TokenForecaster")

    def _read_companions(
        self, arrays: Mapping[str, Mapping[str, np.ndarray]], schema: Schema
    ) -> Companions:
        found = [part for part in Companions.parts() if arrays[part]]
        if found:
            raise ValueError(f"{found[0]}: expected none, as the file holds a TokenForecaster")
        return Companions()

    # -- states ------------------------------------------------------------------------

    def _start(self, panel: Panel) -> dict[str, np.ndarray]:
        return self._engine.start(panel.numeric, panel.codes)

    def _advance(
        self, leaves: dict[str, np.ndarray], panel: Panel, known: np.ndarray
    ) -> dict[str, np.ndarray]:
        more = panel.known - known
        at = known[:, None] + np.arange(more.max(initial=0))
        at = np.minimum(at, panel.y.shape[1] - 1)
        row = np.arange(panel.rows)[:, None]
        code = self._engine.codes(panel.y[row, at], panel.mask[row, at])
        return leaves | self._engine.advance(leaves, code, more)

    def _leaf_shapes(self) -> dict[str, tuple[int, ...]]:
        members, shapes = self.settings.ensemble, self._decoder.state_shapes
        return {name: (members, *shape) for name, shape in shapes.items()}

    # -- inside ------------------------------------------------------------------------

    def _decode(
        self,
        series: Any,
        static: Any,
        until: Any,
        h: int | None,
        strict: bool,
        how: Beam | Sampling,
        paths: int,
        state: State | None,
    ) -> Sequences:
        """Sequences after each item's prefix: found by a beam search, or ``paths`` samples."""
        schema, engine, kind = self.schema, self.engine, None
        horizon = Horizon.read(until, h, schema.id_col, schema.first)
        if state is None:
            panel = schema.panel(series, static)
            state, kind = self.state_of(panel), panel.kind
        else:
            self._check_state(state, series, static)
        known, ids, origin = self._position(state)
        last = self._last(horizon, ids, known, strict)
        reach, ahead = max(int(last.max(initial=0)), 1), np.flatnonzero(known < last)
        assert schema.vocabulary is not None  # of tokens
        rules = engine.rules(schema.vocabulary, how, (last - known)[ahead])
        width = how.width if isinstance(how, Beam) else paths
        name, each = ("sequences", how.best) if isinstance(how, Beam) else ("paths", paths)
        check_drawn(name, len(ids), each, reach)
        found: list[Found] = []
        for chunk in chunks(len(ahead), max(1, 4 * CHUNK // width)):
            rows = ahead[chunk]
            leaves, room = state.take(rows).leaves, (last - known)[rows]
            if isinstance(how, Beam):
                found.append(engine.search(leaves, room, how, rules))
                continue
            uniform = self._uniform(ids[rows], reach, paths).swapaxes(1, 2)
            steps = np.minimum(known[rows, None, None] + np.arange(room.max()), reach - 1)
            uniform = np.take_along_axis(uniform, steps, axis=2)
            found.append(engine.sample(leaves, room, uniform, how, rules))
        return Sequences.place(found, ahead, each, ids, known, reach, schema, origin, kind)


def load_model(path: str | os.PathLike[str] | bytes) -> Forecaster | TokenForecaster:
    """Read a model file of a ``Forecaster`` or a ``TokenForecaster``.

    Raises
    ------
    ModelFileError, ArgumentError
        As ``Forecaster.load``.
    """
    file = ModelFile.read(path)
    for model in (Forecaster, TokenForecaster):
        if file.kind == model.__name__:
            return model._from_file(file)
    raise ModelFileError(
        f"{file.where}: expected a Forecaster or a TokenForecaster, received {file.kind!r}."
    )
