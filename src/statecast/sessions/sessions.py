"""``Sessions``: one durable state per item, for observations that keep arriving."""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Self

import narwhals.stable.v2 as nw
import numpy as np

from statecast.checks import check_choice, check_whole
from statecast.errors import (
    ArgumentError,
    DataError,
    ForkError,
    StateError,
    StoreError,
    listed,
    quoted,
    silent,
    warn,
)
from statecast.files import id_bytes, id_of
from statecast.forecast.explanation import ForecastExplanation
from statecast.forecast.forecaster import Forecaster
from statecast.forecast.paths import Paths
from statecast.sessions import archive
from statecast.sessions.batcher import Batcher
from statecast.sessions.cells import Ahead, column
from statecast.sessions.current import Current
from statecast.sessions.events import KINDS, PLAN, ROW, STATIC
from statecast.sessions.redis import SCHEMES, RedisStore
from statecast.sessions.replay import History, Replay
from statecast.sessions.sqlite import SQLiteStore
from statecast.sessions.store import Durability, Event, Store
from statecast.sessions.writer import Ask, Observed, Policy, Writer, replayed
from statecast.state import State
from statecast.tables.output import column_of

if TYPE_CHECKING:
    import polars as pl

_BATCH = 1024  # rows of one transaction, about
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_SKEW = 60_000_000  # microseconds between the clocks of machines that are set right


class Sessions:
    """One durable state per item, for items that are observed again and again.

    A journal has the observations of each item. A state is computed from the last observation of
    each step, so it does not depend on the order in which they came. A forecast is the one that
    ``Forecaster.predict`` gives for the same observations: to the bit with the native library, and
    to rounding without it. An observation that ``observe`` has accepted is on the disk
    (decision 53).

    Several threads may use one object at once: calls that wait together are one native call and
    one transaction. Only one process may have a file at a time. A Redis server is for several
    processes and machines: each sees at once what the others have accepted (decision 57).

    Parameters
    ----------
    model : Forecaster
        A fitted one.
    store : str, path or Store
        A file, which is made if it does not exist; the URL of a server of Redis or Valkey, as
        ``RedisStore`` takes it; or another store.
    policy : {"revise", "reject"}
        What to do with a late observation (before the last observed step of its item) and a
        correction (other values at an observed step). "revise": the state becomes the one of the
        history as it now is. "reject": an error.
    durability : {"full", "relaxed"}
        "full": accepted observations survive a crash of the machine. "relaxed": a crash of the
        machine may lose the last ones; a crash of the process loses none. On a server, "full" needs
        its settings, and "relaxed" takes them as they are. For a path or a URL only.
    cached : int
        The number of items that are kept in memory: those used last.
    waiting : int
        The rows that may wait to be written, in all threads. Calls beyond are refused.

    Raises
    ------
    StoreError
        A store that cannot be opened, that another process has open, or of another model; a server
        that would lose what it acknowledged. Every method raises it if the store cannot be read or
        written to, or if another process went on with another model.
    MissingExtraError
        apsw or redis-py is not installed: ``pip install 'statecast[sessions]'`` or ``[redis]``.
    ArgumentError
        A model that is no ``Forecaster``, or another argument outside its range.
    NotFittedError
        The model is not fitted.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from statecast import Forecaster
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(20, 1))
    >>> Y = X + 0.1 * rng.normal(size=(20, 6)).cumsum(axis=1)
    >>> f = Forecaster(units=4, ensemble=2, epochs=1).fit(Y, X, verbose=0)
    >>> with tempfile.TemporaryDirectory() as folder, Sessions(f, f"{folder}/items.db") as sessions:
    ...     _ = sessions.observe("a", 1, 0.5, static={"x1": 0.3})
    ...     again = sessions.observe("a", 1, 0.5)
    ...     forecast = sessions.forecast("a", until=6)
    >>> again.status.tolist(), forecast["statecast"].shape
    (['duplicate'], (1, 6))
    """

    def __init__(
        self,
        model: Forecaster,
        store: Store | str | os.PathLike[str],
        *,
        policy: Policy = "revise",
        durability: Durability = "full",
        cached: int = 50_000,
        waiting: int = 100_000,
    ) -> None:
        check_choice("policy", policy, ["revise", "reject"])
        check_whole("cached", cached)
        check_whole("waiting", waiting)
        replay, self._process = _replay_of(model), os.getpid()
        self._store = _opened(store, durability)
        try:
            _check_model(self._store, replay)
            _check_clock(self._store)
        except BaseException:
            self._store.close()
            raise
        self._writer = Writer(self._store, replay, policy, cached)
        self._batcher = Batcher(self._writer.handle, waiting, _BATCH)

    @property
    def model(self) -> Forecaster:
        """The model whose states are kept."""
        return self._writer.replay.model

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what waits, and close the store. Later calls are refused."""
        if os.getpid() == self._process:
            self._batcher.close()
            self._store.close()

    # -- observations ------------------------------------------------------------------

    def observe(
        self,
        item: Any,
        step: Any = None,
        values: Any = None,
        *,
        static: Mapping[str, Any] | None = None,
        future: Mapping[str, Any] | None = None,
        past: Mapping[str, Any] | None = None,
        until: int | None = None,
        h: int | None = None,
        expected: str | None = None,
    ) -> Observed:
        """Accept what is observed of an item at a step. After an error, nothing was accepted.

        Parameters
        ----------
        item : object
            Its id: text, a whole number, a boolean, a date, a duration, bytes, or a tuple of text
            and whole numbers.
        step : int, date or text, optional
            The step, as in the tables of ``fit``: its number, or its date (ISO text too). Without
            it only ``static`` is taken: an item with k = 0.
        values : float or sequence of float, optional
            The value of y, or one of each target; NaN or None where it was not observed. Without
            any ``values``, only ``future`` is taken: covariates that are known before their step.
        static : mapping of str to value, optional
            The static features, with those columns that ``group_col`` and ``start_col`` name.
            Needed for the first observation of an item, if the model has such columns. None is a
            missing value.
        future : mapping of str to value, optional
            The future covariates of the step. A model that has them needs them for every step up to
            an observed one.
        past : mapping of str to value, optional
            The past covariates, observed with the values; needed if the model has them.
        until, h : int, optional
            As in ``forecast``: the answer has the forecast too.
        expected : str, optional
            The version that the item has before this call, so that a change by another caller is
            not overwritten.

        Returns
        -------
        Observed
            The observation is on the disk.

        Raises
        ------
        DataError
            What cannot be used, as in ``Forecaster.update``.
        ConflictError
            With ``policy="reject"``, a late observation or a correction; a step up to that of a
            state that was set.
        VersionError
            An item of another version than expected.
        StoreError
            The store cannot be written to.
        OverloadError
            Too many observations wait.
        """
        one = {
            name: None if given is None else _columns(name, given)
            for name, given in (("static", static), ("future", future), ("past", past))
        }
        steps = None if step is None else [step]
        given = None if values is None else [values]
        return self.observe_batch([item], steps, given, **one, until=until, h=h, expected=expected)

    def observe_batch(
        self,
        items: Sequence[Any] | np.ndarray,
        steps: Any = None,
        values: Any = None,
        *,
        static: Mapping[str, Any] | None = None,
        future: Mapping[str, Any] | None = None,
        past: Mapping[str, Any] | None = None,
        until: int | None = None,
        h: int | None = None,
        expected: str | None = None,
    ) -> Observed:
        """Accept what is observed of several items: all of it, or after an error nothing.

        Parameters
        ----------
        items : sequence, shape (rows,)
            The item of each row. An item may have several rows, in any order of steps.
        steps : sequence or array, shape (rows,), optional
        values : sequence or array, shape (rows,) or (rows, targets), optional
        static, future, past : mapping of str to sequence, shape (rows,), optional
            Columns.
        until, h : int, optional
            As in ``observe``.
        expected : str, optional
            The version that every item has before this call.

        Returns
        -------
        Observed
            With the status of each row.

        Raises
        ------
        DataError, StoreError, OverloadError
            As ``observe``.
        """
        return self.submit(
            items,
            steps,
            values,
            static=static,
            future=future,
            past=past,
            until=until,
            h=h,
            expected=expected,
        ).result()

    def submit(
        self,
        items: Sequence[Any] | np.ndarray,
        steps: Any = None,
        values: Any = None,
        *,
        static: Mapping[str, Any] | None = None,
        future: Mapping[str, Any] | None = None,
        past: Mapping[str, Any] | None = None,
        until: int | None = None,
        h: int | None = None,
        expected: str | None = None,
        read: Callable[[Any], list[Any]] | None = None,
    ) -> Future[Observed]:
        """As ``observe_batch``, without waiting: for callers that have other things to do.

        Parameters
        ----------
        items, steps, values, static, future, past, until, h, expected
            As in ``observe_batch``.
        read : callable, optional
            Takes the table of a forecast, and returns a list with an element for each of its rows.
            Then the answer has this list in place of the table. Calls that wait together, with the
            same function, are read together, which takes less time.

        Returns
        -------
        concurrent.futures.Future
            Its result is that of ``observe_batch``, or an error as there. The observations are on
            the disk when it has a result, and not before. ``asyncio.wrap_future`` awaits it.

        Raises
        ------
        DataError, OverloadError, StoreError
            As ``observe_batch``, if the call cannot be accepted to wait.
        """
        self._check_process()
        ahead = None
        if until is not None or h is not None:
            ahead = Ahead(until, h, read, copy_context())
        cells = self._writer.replay.cells
        rows = cells.rows(items, steps, values, static, future, past, ahead, expected)
        return self._batcher.submit(rows, max(1, len(rows.ids)))

    # -- forecasts ---------------------------------------------------------------------

    def forecast(
        self,
        items: Any,
        *,
        until: Any = None,
        h: int | None = None,
        future: Any = None,
        **options: Any,
    ) -> Any:
        """Forecast the steps after the last observation of each item.

        Parameters
        ----------
        items : object, or list of objects
            An id, or a list or array of ids.
        until, h, **options
            As in ``Forecaster.predict``: ``level``, ``quantiles``, ``mean``, ``calibrated``,
            ``strict``.
        future : table, optional
            The future covariates of the steps to forecast. Default: those that were given to
            ``observe``.

        Returns
        -------
        As ``Forecaster.predict``, to the bit what it gives for the same observations.

        Raises
        ------
        AbsentError
            An item that is not there.
        DataError
            What ``Forecaster.predict`` raises.
        """
        return self._current(items).forecast(future, until=until, h=h, **options)

    def simulate(
        self,
        items: Any,
        *,
        until: Any = None,
        h: int | None = None,
        future: Any = None,
        **options: Any,
    ) -> Paths:
        """Joint sample paths of the steps after the last observation of each item.

        Parameters
        ----------
        items, future
            As in ``forecast``.
        until, h, **options
            As in ``Forecaster.simulate``: ``paths``, ``strict``.
        """
        current = self._current(items)
        model, given = current.replay.model, current.arguments(future)
        return model.simulate(until=until, h=h, **given, **options)

    def explain(self, items: Any, **options: Any) -> ForecastExplanation:
        """The effects of each observation and static feature on the forecast of each item.

        Parameters
        ----------
        items
            As in ``forecast``.
        **options
            As in ``Forecaster.explain``: ``until`` or ``h``, ``analogues``.

        Raises
        ------
        StateError
            An item whose state was set: the observations before it are not known.
        """
        series, static, future = self.tables(items)
        return self.model.explain(series, static, future=future, **options)

    def as_of(
        self,
        item: Any,
        moment: dt.datetime | np.datetime64,
        *,
        until: Any = None,
        h: int | None = None,
        future: Any = None,
        **options: Any,
    ) -> Any:
        """The forecast of an item as it was at a moment: from what had been accepted up to then.

        Parameters
        ----------
        item : object
        moment : datetime with a time zone, or datetime64 in UTC
        until, h, future, **options
            As in ``forecast``.

        Raises
        ------
        AbsentError
            An item that is not there, or was not there yet.
        """
        (key,), (own,) = self._keys([item])
        last = _microseconds(moment)
        current = self._batcher.do(lambda: self._writer.as_of(key, own, last))
        return current.forecast(future, until=until, h=h, **options)

    # -- states ------------------------------------------------------------------------

    def state(self, items: Any) -> State:
        """The current states of items, as ``Forecaster.state`` gives them.

        Parameters
        ----------
        items
            As in ``forecast``.

        Returns
        -------
        State
            A row for each item, with the ids.
        """
        return self._current(items).state

    def version(self, item: Any) -> str:
        """The version of an item: another one after each event that was accepted.

        Raises
        ------
        AbsentError
            An item that is not there.
        """
        (key,), (own,) = self._keys([item])
        return self._batcher.do(lambda: self._writer.version(key, own))

    @property
    def waiting(self) -> int:
        """The rows that wait to be written."""
        return self._batcher.waiting

    def watch(self, committed: Callable[[int, float], None] | None) -> None:
        """Call a function after each commit of observations: for metrics.

        Parameters
        ----------
        committed : callable or None
            Takes the number of events of the commit, and the seconds that it took until they were
            on the disk. It runs in the thread that writes, so it must be fast and raise nothing.
            None: no function any more.
        """
        self._writer.committed = committed

    def set_state(self, item: Any, state: State, *, expected: str | None = None) -> None:
        """Let an item go on from another state: the observations before have no effect any more.

        Parameters
        ----------
        item : object
        state : State
            Of one row, from this model. Float leaves are kept as float32.
        expected : str, optional
            The version that the item has before this call.

        Raises
        ------
        StateError
            A state that this model did not make, or of several rows.
        AbsentError, VersionError
            An item that is not there, or of another version.
        """
        (key,), (own,) = self._keys([item])
        self._batcher.do(lambda: self._writer.set_state(key, own, state, expected))

    def reset(self, item: Any, *, expected: str | None = None) -> None:
        """Let an item begin again with k = 0: its observations have no effect any more.

        Parameters
        ----------
        item : object
        expected : str, optional
            The version that the item has before this call.

        Raises
        ------
        AbsentError, VersionError
            An item that is not there, or of another version.
        """
        (key,), (own,) = self._keys([item])

        self._batcher.do(lambda: self._writer.reset(key, own, expected))

    def fork(self, item: Any, as_: Any) -> None:
        """Copy an item, with its journal, to a new one: to try what would follow.

        Parameters
        ----------
        item, as_ : object
            The id of an item, and an id that is not one yet.

        Raises
        ------
        AbsentError, ConflictError
            An item that is not there, or a new one that is.
        """
        keys, (own, other) = self._keys([item, as_])

        self._batcher.do(lambda: self._writer.fork(keys, own, other))

    # -- another model -----------------------------------------------------------------

    def migrate(self, model: Forecaster, *, h: int | None = None) -> pl.DataFrame | None:
        """Go on with another model: from then on every state is one of the new model.

        The new model replays all journals first, while the old one serves. If it cannot replay one,
        nothing changes. The change itself is one short transaction. After it a state is computed
        from its journal when it is next used.

        Parameters
        ----------
        model : Forecaster
            With the columns of the one before.
        h : int, optional
            Compare the forecasts of the next ``h`` steps of each item. If the model has future
            covariates, those of these steps must have been observed.

        Returns
        -------
        table or None
            With ``h`` a polars table with a row for each item: its id, and for each target the mean
            of the medians of these steps by the old and by the new model: ``y-before`` and
            ``y-after``, null where none of the steps is forecast.

        Raises
        ------
        ArgumentError
            A model with other columns, or no ``Forecaster``.
        StateError
            An item whose state was set: reset or delete it first.
        DataError
            An item that the new model cannot replay.
        StoreError
            Another migration is running.
        """
        import polars as pl

        self._check_process()
        old, new = self._writer.replay, _replay_of(model)
        if h is not None:
            check_whole("h", h)
        if str(new.layout) != str(old.layout):
            raise ArgumentError(
                f"model: expected a model with the columns {old.layout}; received one with "
                f"{new.layout}."
            )
        self._batcher.do(self._writer.begin_migration)
        moved, after = [], b""
        try:
            while part := self._batcher.do(lambda after=after: self._writer.part(after, _BATCH)):
                states = replayed(new, part)
                if h is not None:
                    before = _medians(replayed(old, part), h, "before")
                    moved.append(before.hstack(_medians(states, h, "after")[:, 1:]))
                after = max(part)
            self._batcher.do(lambda: self._writer.end_migration(new, _meta(new)))
        except BaseException:
            with suppress(StoreError):  # the first error is the one to tell
                self._batcher.do(lambda: self._writer.end_migration(None, {}))
            raise
        return pl.concat(moved) if moved else None

    # -- copies ------------------------------------------------------------------------

    def export(self, path: str | os.PathLike[str]) -> int:
        """Write all journals to a Parquet file: a copy, or the way to another store.

        Observations may go on meanwhile: each item is written as it is when its turn comes.

        Parameters
        ----------
        path : str or path
            The file, which is replaced if it exists; it is written completely or not at all.

        Returns
        -------
        int
            The number of items.

        Raises
        ------
        StoreError
            A file that cannot be written.
        MissingExtraError
            pyarrow is not installed: ``pip install 'statecast[parquet]'``.
        """

        def parts() -> Iterator[dict[bytes, list[Event]]]:
            last = b""
            while part := self._batcher.do(lambda after=last: self._writer.part(after, _BATCH)):
                yield {key: record.events for key, record in part.items()}
                last = max(part)

        self._check_process()
        return archive.write(path, _meta(self._writer.replay), parts())

    def restore(self, path: str | os.PathLike[str]) -> int:
        """Add the items of a file that ``export`` wrote.

        The model replays each journal, so it may be another one with the same columns. Items are
        added in parts, each in one transaction. After an error the parts before it are there, and
        the call can be repeated: an item that is there with the same journal is left as it is.

        Returns
        -------
        int
            The number of items that were added.

        Raises
        ------
        StoreError
            A file that is missing, damaged, not of sessions, or with other columns.
        DataError
            An item that is there with another journal, or that the model cannot replay.
        StateError
            An item whose state was set with another model.
        MissingExtraError
            pyarrow is not installed: ``pip install 'statecast[parquet]'``.
        """
        self._check_process()
        meta, parts = archive.read(path)
        layout = str(self._writer.replay.layout)
        if meta.get("layout") != layout:
            raise StoreError(
                f"{path}: expected events of {layout}; received {meta.get('layout', 'none')}."
            )
        return sum(self._batcher.do(lambda part=part: self._writer.restore(part)) for part in parts)

    # -- what is kept ------------------------------------------------------------------

    def __len__(self) -> int:
        return self._batcher.do(self._store.count)

    def __contains__(self, item: Any) -> bool:
        keys, ids = self._keys([item])
        return self._batcher.do(lambda: self._writer.loaded(ids, keys))[0] is not None

    def items(self, *, after: Any = None) -> Iterator[Any]:
        """Yield the ids of all items, in the order of their bytes, or of those after an id."""
        last = b"" if after is None else id_bytes(after)
        while found := self._batcher.do(lambda after=last: self._store.ids(after)):
            yield from map(id_of, found)
            last = found[-1]

    def history(self, item: Any) -> pl.DataFrame:
        """The journal of an item: each event in the order in which it was accepted.

        Returns
        -------
        table
            A polars table with a row for each event: ``time`` (when it was accepted, UTC), ``kind``
            ("observation", "future covariates", "static features", "state set", "reset"), the
            column of steps, a column for each target, covariate and static feature, and
            ``current``: whether the event is in effect. A column of the model with the name of one
            of these has an underscore after its name.
        """
        import polars as pl

        (key,), (own,) = self._keys([item])
        events = self._batcher.do(lambda: self._writer.whole(key, own)).events
        effect, replay = History(events), self._writer.replay
        layout, schema = replay.layout, replay.model.schema
        start = max((e.seq for e in events if e.data[:1] not in (ROW, PLAN, STATIC)), default=0)
        last: dict[tuple[bytes, int | None], int] = {}
        for event in events:
            last[event.data[:1], event.at] = event.seq
        columns: dict[str, list[Any]] = {}
        for part in (layout.row, layout.plan, layout.static):
            for name in part.columns:
                columns[name] = [None] * len(events)
            of = [i for i, event in enumerate(events) if event.data[:1] == part.kind]
            for name, values in part.unpack([events[i].data for i in of]).items():
                for i, value in zip(of, values.tolist(), strict=True):
                    columns[name][i] = None if value != value else value
        launch = schema.start_col
        if launch is not None:
            columns[launch] = replay.cells.launches(columns[launch])
        current = [
            last[event.data[:1], event.at] == event.seq
            and (event.seq >= start or event.data == effect.static)
            for event in events
        ]
        taken = ("time", "kind", "current")
        columns = {f"{name}_" if name in taken else name: columns[name] for name in columns}
        times = pl.Series("time", [event.time for event in events], pl.Int64)
        return pl.DataFrame(
            {
                "time": times.cast(pl.Datetime("us", "UTC")),
                "kind": [KINDS[event.data[:1]] for event in events],
                schema.step_col: replay.cells.steps([event.at for event in events]),
                **columns,
                "current": current,
            },
            strict=False,
        )

    def tables(self, items: Any) -> tuple[Any, Any, Any]:
        """What is in effect for items, as the tables that ``Forecaster`` takes.

        Parameters
        ----------
        items
            As in ``forecast``.

        Returns
        -------
        series, static, future : polars tables or None
            Without observations ``series`` is None; a model without static features or without
            future covariates has None for theirs.

        Raises
        ------
        StateError
            An item whose state was set: the observations before it are not known.
        """
        import polars as pl

        keys, ids = self._keys(items)
        records = self._batcher.do(
            lambda: [self._writer.whole(*each) for each in zip(keys, ids, strict=True)]
        )
        histories = [History(record.events) for record in records]
        for own, history in zip(ids, histories, strict=True):
            if history.start is not None:
                raise StateError(
                    f"The state of item {quoted(own)} was set: the observations before it are not "
                    "known. Use `forecast` or `simulate`, which start from its state."
                )
        replay = self._writer.replay
        layout, schema, write = replay.layout, replay.model.schema, replay.cells
        series = write.table(layout.row, ids, [history.rows for history in histories])
        future = write.table(layout.plan, ids, [history.plans for history in histories])
        static = None
        if layout.static.columns:
            none = replay.none
            cells = layout.static.unpack([history.static or none for history in histories])
            if schema.start_col is not None:
                cells[schema.start_col] = write.launches(cells[schema.start_col])
            own = {name: column(values) for name, values in cells.items()}
            static = pl.DataFrame({schema.id_col: ids, **own}, strict=False)
        return series, static, future

    def delete(self, items: Any, *, expected: str | None = None) -> int:
        """Remove all of items. Forks of them are other items.

        The file has none of their bytes any more. Those of a server have them until they are next
        written: ``BGREWRITEAOF`` and ``SAVE`` do so.

        Parameters
        ----------
        items
            As in ``forecast``.
        expected : str, optional
            The version that every item has before this call.

        Returns
        -------
        int
            The number of items that were there.

        Raises
        ------
        VersionError
            An item of another version, or with ``expected`` one that is not there.
        """
        keys, ids = self._keys(items)

        return self._batcher.do(lambda: self._writer.delete(keys, ids, expected))

    def expire(self, before: dt.datetime | np.datetime64) -> int:
        """Delete the items of which nothing was accepted since a moment.

        Parameters
        ----------
        before : datetime with a time zone, or datetime64 in UTC

        Returns
        -------
        int
            The number of items that were deleted.
        """
        moment = _microseconds(before)

        self._check_process()
        last, count = b"", 0
        while found := self._batcher.do(lambda after=last: self._writer.expire(moment, after)):
            last, count = found[-1], count + len(found)
        return count

    # -- in the caller's thread --------------------------------------------------------

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise ForkError(
                "This process is a fork of the one that opened the sessions. Open them after the "
                "fork, in one process."
            )

    def _keys(self, items: Any) -> tuple[list[bytes], list[Any]]:
        self._check_process()
        return self._writer.replay.cells.keys(items)

    def _current(self, items: Any) -> Current:
        """The current states of items."""
        keys, ids = self._keys(items)
        return self._batcher.do(Ask(ids, keys), max(1, len(keys)))


def _replay_of(model: Any) -> Replay:
    if not isinstance(model, Forecaster):
        raise ArgumentError(
            "model: expected a Forecaster, as events of a journal hold numbers; received "
            f"{type(model).__name__}."
        )
    return Replay(model)


def _medians(current: Current, h: int, when: str) -> pl.DataFrame:
    """The mean of the medians of the next steps of each item, for each target."""
    import polars as pl

    schema, ids = current.replay.model.schema, [id_of(key) for key in current.items]
    # By number, as a table writes ids of several types as text: 5 and "5" are two items.
    rows = list(range(len(ids)))
    numbered = dict(zip(map(id_bytes, rows), current.items.values(), strict=True))
    with silent():
        found = Current(current.replay, numbered).forecast(None, h=h, level=None)
    columns: dict[str, Any] = {schema.id_col: ids}
    several = len(schema.targets) > 1
    for place, target in enumerate(schema.target_cols):
        if isinstance(found, dict):  # of a model that was fitted to arrays
            values = found["statecast"][..., place] if several else found["statecast"]
            there = np.nonzero(~np.isnan(values))
            each, items = values[there], there[0].tolist()
        else:
            frame = nw.from_native(found, eager_only=True)
            name = column_of("statecast", target) if several else "statecast"
            each, items = frame[name].to_numpy(), frame[schema.id_col].to_list()
        own: dict[int, list[float]] = {row: [] for row in rows}
        for item, value in zip(items, each.tolist(), strict=True):
            own[int(item)].append(value)
        means = [sum(values) / len(values) if values else None for values in own.values()]
        columns[f"{target}-{when}"] = pl.Series(means, dtype=pl.Float64)
    return pl.DataFrame(columns, strict=False)


def _opened(store: Store | str | os.PathLike[str], durability: Durability) -> Store:
    """Return a store: the given one, or that of a file or a URL."""
    if isinstance(store, str) and store.startswith(SCHEMES):
        return RedisStore(store, durability)
    if isinstance(store, str) and "://" in store:
        raise ArgumentError(
            f"store: expected the path of a file, or a URL that begins with {listed(SCHEMES)}; "
            f"received {quoted(store)}."
        )
    if isinstance(store, (str, os.PathLike)):
        return SQLiteStore(store, durability)
    needed = [name for name in vars(Store) if not name.startswith("_")]
    if not all(hasattr(store, name) for name in needed):
        raise ArgumentError(
            "store: expected the path of a file, the URL of a Redis server, or a Store; received "
            f"{type(store).__name__}."
        )
    if durability != "full":
        raise ArgumentError(
            "durability: expected a path or a URL with it, as another store has its own; received "
            f"a {type(store).__name__}. Leave it out."
        )
    return store


def _check_model(store: Store, replay: Replay) -> None:
    """Raise ``StoreError`` if a store belongs to another model."""
    own, found = _meta(replay), store.meta()
    if not found:
        store.set_meta(own)
    elif found != own:
        raise StoreError(
            "Expected a store of this model; received one of another fit, with the fingerprint "
            f"{found.get('fingerprint', '')[:40]}. Its states have no meaning for this model. Open "
            "it with the model that made it, and call `migrate`; or name another file."
        )


def _check_clock(store: Store) -> None:
    """Warn if the clock is before the last event of a store."""
    last, now = store.latest, time.time_ns() // 1000
    if last > now + _SKEW:
        then, here = (f"{_EPOCH + each * _MICROSECOND:%Y-%m-%d %H:%M:%S}" for each in (last, now))
        warn(
            f"The last event of the store was accepted at {then} UTC, and the clock of this "
            f"machine is at {here}. Set the clock if it is wrong. Nothing is lost: the times of "
            "new events go on from the last one."
        )


def _meta(replay: Replay) -> dict[str, str]:
    return {"fingerprint": replay.model.fingerprint, "layout": str(replay.layout)}


def _columns(name: str, given: Any) -> dict[str, list[Any]]:
    """The columns of one row."""
    if not isinstance(given, Mapping):
        raise DataError(
            f"{name}: expected a mapping of columns to values; received {type(given).__name__}."
        )
    return {column: [value] for column, value in given.items()}


def _microseconds(moment: Any) -> int:
    """A moment in microseconds since 1970."""
    if isinstance(moment, np.datetime64) and not np.isnat(moment):
        return int(moment.astype("datetime64[us]").astype(np.int64))
    if isinstance(moment, dt.datetime) and moment.tzinfo is not None:
        return (moment - _EPOCH) // _MICROSECOND
    raise ArgumentError(
        "moment: expected a datetime with a time zone, or a datetime64 in UTC; received "
        f"{quoted(moment)}."
    )
