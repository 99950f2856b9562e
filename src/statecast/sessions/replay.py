"""The state of an item from its events.

``History`` says which events of a journal are in effect: the last one of each step. ``Item`` is an
item in memory: a state, and what is known of later steps. ``Replay`` computes the states of many
items in one native call.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from operator import attrgetter, itemgetter
from typing import Any

import numpy as np

from statecast.errors import StateError, silent
from statecast.forecast.forecaster import Forecaster
from statecast.sessions.cells import Cells
from statecast.sessions.events import PLAN, RESET, ROW, SET, STATIC, Layout
from statecast.sessions.store import Event, Record, Version
from statecast.state import State
from statecast.tables.dates import Form
from statecast.tables.parse import Parsed
from statecast.tables.steps import Long, Series, Steps

LEAST = -(2**63)  # before any step: NumPy's NaT, which is no date
_SET = struct.Struct("<q16s")  # of a state that was set: its step, and the model's fingerprint
_LABEL = "The journal"
_PLAIN = (  # attributes of an item
    "id",
    "known",
    "last",
    "seq",
    "snapshot_at",
    "snapshot_seq",
    "start",
    "start_at",
    "state",
    "static",
    "time",
)
_plain = attrgetter(*_PLAIN)
_version = itemgetter(_PLAIN.index("seq"), _PLAIN.index("time"))
Packed = tuple[Any, ...]  # an item


class History:
    """The events of one item that are in effect.

    Attributes
    ----------
    static : bytes or None
        The data of its static features.
    start : bytes or None
        The packed state that was set at the begin of the era; None: the one of the static features.
    start_at : int
        The step of ``start``.
    made_by : bytes
        The fingerprint of the model of ``start``; empty without one.
    rows, plans : dict of int to bytes
        The data of the observations and of the future covariates, by step.
    """

    __slots__ = ("made_by", "plans", "rows", "start", "start_at", "static")

    def __init__(self, events: Iterable[Event]) -> None:
        self.static: bytes | None = None
        self._begin(None, LEAST)
        for event in events:
            kind = event.data[:1]
            if kind == ROW:
                self.rows[event.at or 0] = event.data
            elif kind == PLAN:
                self.plans[event.at or 0] = event.data
            elif kind == STATIC:
                self.static = event.data
            elif kind == SET:
                packed = event.data[1 + _SET.size :]
                self._begin(packed, *_SET.unpack(event.data[1 : 1 + _SET.size]))
            elif kind == RESET:
                self._begin(None, LEAST)

    def _begin(self, start: bytes | None, at: int, made_by: bytes = b"") -> None:
        self.start, self.start_at, self.made_by = start, at, made_by
        self.rows: dict[int, bytes] = {}
        self.plans: dict[int, bytes] = {}


class Item:
    """An item in memory.

    Attributes
    ----------
    id : object
    seq, time : int
        Those of its last event; 0 without any.
    static, start, start_at
        As in ``History``.
    state : bytes or None
        A packed state after the step ``known``; None if it is not computed.
    known : int
        The last step that ``state`` has taken; ``LEAST`` if it has taken none.
    last : int
        The last step of an observation, also one without a value.
    rows, plans : dict of int to bytes
        What is in effect after ``known``.
    snapshot_seq, snapshot_at : int
        Of the snapshot in the store; 0 and ``LEAST`` without one.
    """

    __slots__ = (*_PLAIN, "plans", "rows")

    def __init__(self, item: Any) -> None:
        self.id = item
        self.seq = self.time = self.snapshot_seq = 0
        self.static: bytes | None = None
        self.state: bytes | None = None
        self.snapshot_at = LEAST
        self.begin(None, LEAST)

    @classmethod
    def of(cls, item: Any, record: Record) -> Item:
        """An item that is read from a store."""
        self, history, snapshot = cls(item), History(record.events), record.snapshot
        (self.seq, self.time), self.static = record.version, history.static
        if snapshot is not None:
            self.snapshot_seq, self.snapshot_at = snapshot.seq, snapshot.at
        self.rewind(history, record, LEAST if snapshot is None else snapshot.at)
        self.last = max(self.rows, default=self.known)
        return self

    def packed(self) -> Packed:
        """The item as it is, in tuples of numbers and bytes: Python's collector does not visit
        these, which would take 30 ms for 50,000 items."""
        return *_plain(self), tuple(self.rows.items()), tuple(self.plans.items())

    @classmethod
    def unpacked(cls, packed: Packed) -> Item:
        """The item of ``packed``."""
        self = cls.__new__(cls)
        *plain, rows, plans = packed
        for name, value in zip(_PLAIN, plain, strict=True):
            setattr(self, name, value)
        self.rows, self.plans = dict(rows), dict(plans)
        return self

    def begin(self, start: bytes | None, at: int) -> None:
        """Begin a new era, from a state that was set or from the static features."""
        self.start, self.start_at = start, at
        self.state, self.known, self.last = start, at, at
        self.rows: dict[int, bytes] = {}
        self.plans: dict[int, bytes] = {}

    def rewind(self, history: History, record: Record, before: int) -> None:
        """Go back to the snapshot if it is of a step up to ``before``, or else to the start.

        What this item already knows of later steps stays in effect.
        """
        rows, plans = self.rows, self.plans
        self.start, self.start_at = history.start, history.start_at
        self.state, self.known = self.start, self.start_at
        snapshot = record.snapshot
        if snapshot is not None and snapshot.at <= before:
            self.state, self.known = snapshot.data, snapshot.at
        self.rows = {at: data for at, data in history.rows.items() if at > self.known} | rows
        self.plans = {at: data for at, data in history.plans.items() if at > self.known} | plans

    @property
    def version(self) -> Version:
        """Its last event."""
        return Version(self.seq, self.time)

    @property
    def waiting(self) -> bool:
        """Whether ``state`` is not computed, or rows are in effect that it has not taken."""
        return self.state is None or bool(self.rows)


def version_of(packed: Packed) -> Version:
    """The version of an item in memory."""
    return Version._make(_version(packed))


class Replay:
    """Computes the states of items with one model.

    A state is packed: the bytes of its leaves, one after the other.

    Parameters
    ----------
    model : Forecaster

    Attributes
    ----------
    layout : Layout
    cells : Cells
    dated : bool
        Whether steps are dates.
    none : bytes
        The data of static features that are all missing.
    """

    def __init__(self, model: Forecaster) -> None:
        schema = model.schema
        self.model, self.layout = model, Layout(schema)
        self.cells = Cells(schema, self.layout)
        self._digest = bytes.fromhex(model.fingerprint)
        self._form = schema.kind.steps or Form()
        self.dated = schema.spacing is not None
        self._targets = struct.Struct(f"<{len(schema.target_cols)}d")
        nothing = {name: np.full(1, np.nan) for name in schema.static.numeric}
        nothing |= {name: np.full(1, None, object) for name in self.layout.static.texts}
        (self.none,) = self.layout.static.pack(nothing, 1)
        with silent():
            one = model.state_of(self._panel([Item(0)], None))
        self._row = np.dtype(
            [(name, leaf.dtype, leaf.shape[1:]) for name, leaf in one.leaves.items()]
        )

    # -- packed states -----------------------------------------------------------------

    def pack(self, state: State) -> list[bytes]:
        """The packed state of each row."""
        rows = np.empty(state.rows, self._row)
        for name in self._row.names or ():
            rows[name] = state[name]
        flat, size = rows.tobytes(), self._row.itemsize
        return [flat[at : at + size] for at in range(0, len(flat), size)]

    def unpack(self, packed: Sequence[bytes], ids: Any = None) -> State:
        """The state of which these are the rows."""
        rows = np.frombuffer(b"".join(packed), self._row)
        leaves = {name: np.ascontiguousarray(rows[name]) for name in self._row.names or ()}
        return State(leaves, ids, self.model.fingerprint)

    def set_event(self, state: State) -> tuple[bytes, int, bytes]:
        """A state of one row packed, its step, and the data of the event that it was set.

        Raises
        ------
        StateError
            A state that the model did not make, or of several rows.
        """
        self.model.check_state(state)
        if state.rows != 1:
            raise StateError(f"state: expected a state of one row; received {state.rows}.")
        (packed,), at = self.pack(state.at_rest()), self._step_of(state)
        return packed, at, SET + _SET.pack(at, self._digest) + packed

    def owns(self, history: History) -> bool:
        """Whether the state at the begin of an era, if one was set, is of this model."""
        size = self._row.itemsize if history.start is None else len(history.start)
        return size == self._row.itemsize and history.made_by in (b"", self._digest)

    def _step_of(self, state: State) -> int:
        """The last step that a state of one row has taken, as events have it."""
        schema = self.model.schema
        step = int(state.at_rest()["step"][0, 0, 0]) // len(schema.target_cols)
        if not step:
            return LEAST
        if schema.spacing is None:
            return schema.number(step)
        origin = state.at_rest()["origin"][:1].view("datetime64[us]")
        if np.isnat(origin[0]):
            raise StateError("Leaf 'origin': expected the date of step 1; received none.")
        place = schema.spacing.dates(origin, np.array([step]))
        return int(schema.spacing.date(place, self._form.zone).astype(np.int64)[0])

    # -- states from events ------------------------------------------------------------

    def compute(self, items: Sequence[Item]) -> None:
        """Bring the states of items up to date, in at most two native calls.

        The rows of a forecast do not depend on each other, and steps that are taken one by one have
        the bits of one run. So the result depends on what is in effect only.

        Raises
        ------
        DataError
            A date that is not on the grid, a value outside the domain of its target, or a step
            without its future covariates.
        ArgumentError
            A state that leaves the range of float32.
        """
        # Before a value is observed, the date of step 1 may still move: those begin again.
        moved = [item for item in items if item.known != LEAST and item.rows]
        begun = [item for item in items if item.known == LEAST and (item.waiting or item.plans)]
        fresh = [item for item in begun if item.start is None]
        moved += [item for item in begun if item.start is not None]
        with silent():
            if fresh:
                self._put(fresh, self.model.state_of(self._panel(fresh, None)))
            if moved:
                bases = [item.state if item.known != LEAST else item.start for item in moved]
                state = self.unpack([base for base in bases if base is not None])
                self._put(moved, self.model.advance(state, self._panel(moved, state)))

    def _put(self, items: Sequence[Item], state: State) -> None:
        for item, packed in zip(items, self.pack(state), strict=True):
            item.state = packed
            if not item.rows:
                continue
            seen = [at for at, row in item.rows.items() if any(map(_is_number, self._values(row)))]
            item.known = max(seen, default=item.known)
            if item.known != LEAST:
                item.rows = {at: row for at, row in item.rows.items() if at > item.known}
                item.plans = {at: plan for at, plan in item.plans.items() if at > item.known}

    def _values(self, row: bytes) -> tuple[float, ...]:
        """The targets' values of an observation."""
        return self._targets.unpack_from(row, 1)

    def _panel(self, items: Sequence[Item], state: State | None) -> Any:
        """The panel of what is in effect after the items' states, or from the start."""
        schema, layout = self.model.schema, self.layout
        ids = [item.id for item in items]
        series = future = start = group = None
        static: dict[str, np.ndarray] = {}
        row, when, data = self._gathered([item.rows for item in items])
        if len(row):
            columns = layout.row.unpack(data)
            y = np.stack([columns.pop(name) for name in schema.target_cols], axis=1)
            series = Series([Long(_LABEL, row, when, self._form, columns, y)])
        if schema.future.kinds:
            row, when, data = self._gathered([item.plans for item in items])
            if len(row):
                future = Steps(_LABEL, row, when, self._form, layout.plan.unpack(data))
        if state is None:
            static = layout.static.unpack([item.static or self.none for item in items])
            if schema.group_col is not None:
                group = static.pop(schema.group_col)
            if schema.start_col is not None:
                launch = static.pop(schema.start_col)
                own = np.flatnonzero([text is not None for text in launch])
                dates = np.array([int(launch[i]) for i in own], np.int64).view("datetime64[us]")
                start = Steps(_LABEL, own, dates, self._form, {}) if len(own) else None
        parsed = Parsed(ids, schema.kind, series, static, future, start=start, group=group)
        if state is None:
            return schema.panel_of(parsed)
        known = state["step"][:, 0, 0].astype(np.int64)  # the same for all members
        origin = state["origin"].view("datetime64[us]") if self.dated else None
        return schema.new_rows_of(parsed, known=known, origin=origin)

    def _gathered(
        self, each: Sequence[dict[int, bytes]]
    ) -> tuple[np.ndarray, np.ndarray, list[bytes]]:
        """Rows of several items: the number of the item, the step and the data of each."""
        row = np.repeat(np.arange(len(each)), [len(one) for one in each])
        at = np.array([at for one in each for at in one], np.int64)
        when = at.view("datetime64[us]") if self.dated else at.astype(np.float64)
        return row, when, [data for one in each for data in one.values()]


def _is_number(value: float) -> bool:
    return value == value
