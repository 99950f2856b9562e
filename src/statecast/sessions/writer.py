"""``Writer``: the current items in memory, and what becomes of them. One thread uses it."""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NoReturn

import numpy as np

from statecast.errors import (
    AbsentError,
    ConflictError,
    DataError,
    StatecastError,
    StateError,
    StoreError,
    VersionError,
    listed,
    quoted,
)
from statecast.files import id_of
from statecast.sessions.batcher import Call
from statecast.sessions.cells import Ahead, Rows
from statecast.sessions.current import Current
from statecast.sessions.events import RESET, ROW, STATIC
from statecast.sessions.replay import LEAST, History, Item, Packed, Replay, version_of
from statecast.sessions.store import Change, Event, Record, Snapshot, Store, Version
from statecast.state import State

Policy = Literal["revise", "reject"]

_STATUS = np.array(["duplicate", "new", "late", "corrected"], object)
_DUPLICATE, _NEW, _LATE, _CORRECTED = range(4)
_TOGETHER = 64  # items that are forecast together: so a call does not wait long for the others
_EVERY = 64  # events between two snapshots of an item
_TRIES = 50  # times that a change is made, if another process was there first
_NOTHING = Record(None, [], Version()), History([])  # of a new item


@dataclass(frozen=True)
class Observed:
    """What became of observations.

    Attributes
    ----------
    status : ndarray of str, shape (rows,)
        For each row "duplicate": it was observed before with these values; "new"; "late": a later
        step had been observed; or "corrected": it had other values. If these differ between the
        parts of a row (static features, future covariates, values), the last in this list counts.
    revised : tuple
        The items whose past changed: those with a late or a corrected row.
    forecast : table, list or None
        With ``until`` or ``h``: the forecast of the items, as ``Sessions.forecast`` gives it; or
        what ``read`` makes of it.
    before : table, list or None
        The forecast before this call of those revised items that were there, up to the same step.
    versions : tuple of str
        For each row, the version of its item after this call, as ``Sessions.version`` gives it.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast.sessions import Observed
    >>> Observed(np.array(["new", "late"]), revised=("Ada",)).revised
    ('Ada',)
    """

    status: np.ndarray
    revised: tuple[Any, ...] = ()
    forecast: Any = None
    before: Any = None
    versions: tuple[str, ...] = ()


@dataclass(eq=False)
class Ask:
    """A call that asks for the current states of items."""

    ids: list[Any]
    keys: list[bytes]


@dataclass(eq=False)
class Draft:
    """An item as it will be after a commit.

    Attributes
    ----------
    old : Version or None
        The version of the item before; None for a new item.
    item : Item
    journal : (Record, History)
        All that the store has of it, if that was read; else nothing.
    events : list of Event
        The new ones.
    stale : bool
        Whether the snapshot in the store is not one of the item any more.
    """

    old: Version | None
    item: Item
    journal: tuple[Record, History] = _NOTHING
    events: list[Event] = field(default_factory=list)
    stale: bool = False


class Writer:
    """Does the calls of a ``Batcher``: takes observations, and answers with states.

    Parameters
    ----------
    store : Store
    replay : Replay
        That of the model.
    policy : {"revise", "reject"}
    cached : int
        The number of items that are kept in memory.
    """

    def __init__(self, store: Store, replay: Replay, policy: Policy, cached: int) -> None:
        self._store, self.replay = store, replay
        self._policy, self._cached = policy, cached
        self._items: OrderedDict[bytes, Packed] = OrderedDict()
        self._time = 0
        self.committed: Callable[[int, float], None] | None = None  # see ``Sessions.watch``

    def handle(self, calls: list[Call]) -> None:
        """Do calls, in order: together what can be done together."""
        for some in _grouped(calls):
            work = some[0].work
            if isinstance(work, Rows):
                self._do(some, self._observe)
            elif isinstance(work, Ask):
                self._do(some, self._answer)
            else:
                self._do(some, lambda own: [own[0].work()])

    def _do(self, calls: list[Call], work: Callable[[list[Call]], list[Any]]) -> None:
        """Do calls together. If that fails, do each alone, so that each gets its own error."""
        try:
            results = work(calls)
        except StatecastError as error:
            if len(calls) == 1 or isinstance(error, StoreError):
                for call in calls:
                    call.done.set_exception(error)
                return
            for call in calls:
                self._do([call], work)
            return
        self._forget()
        for call, result in zip(calls, results, strict=True):
            call.done.set_result(result)

    def _forget(self) -> None:
        """Forget the items that were not used for the longest time."""
        while len(self._items) > self._cached:
            self._items.popitem(last=False)

    def loaded(self, ids: Sequence[Any], keys: Sequence[bytes]) -> list[Item | None]:
        """Items from memory, or else from the store; None for those that are not there.

        They are the caller's, who may change them.
        """
        known = ((key, version_of(self._items[key])) for key in keys if key in self._items)
        for key in self._store.stale(known):
            self._items.pop(key, None)
        new = {key: own for key, own in zip(keys, ids, strict=True) if key not in self._items}
        for (key, own), record in zip(new.items(), self._store.read(list(new)), strict=True):
            if record is not None:
                self._items[key] = Item.of(own, record).packed()
        for key in keys:
            if key in self._items:
                self._items.move_to_end(key)
        there = map(self._items.get, keys)
        return [None if packed is None else Item.unpacked(packed) for packed in there]

    def whole(self, key: bytes, own: Any) -> Record:
        """The whole journal of an item."""
        (record,) = self._store.read([key], whole=True)
        if record is None:
            raise _absent(own)
        return record

    def as_of(self, key: bytes, own: Any, moment: int) -> Current:
        """The state of an item as it was at a moment, in microseconds since 1970."""
        events = [event for event in self.whole(key, own).events if event.time <= moment]
        if not events:
            raise _absent(own, " by then")
        if not self.replay.owns(History(events)):
            raise StateError(
                f"Item {quoted(own)}: expected states of this model; by then its state was set, to "
                "one of the model before the migration."
            )
        item = Item.of(own, Record(None, events, Version(*events[-1][:2])))
        self.replay.compute([item])
        return self._current({key: item})

    def set_state(self, key: bytes, own: Any, state: State, expected: str | None) -> None:
        """Let an item go on from a state of one row."""
        self._begin(key, own, *self.replay.set_event(state), expected)

    def reset(self, key: bytes, own: Any, expected: str | None) -> None:
        """Let an item begin again from its static features."""
        self._begin(key, own, None, LEAST, RESET, expected)

    def fork(self, keys: Sequence[bytes], own: Any, other: Any) -> None:
        """Copy the first item to the second, which must not be there."""
        record = self.whole(keys[0], own)
        change = Change(keys[1], Version(), record.events, record.snapshot or "keep")
        if self._store.commit([change]):
            raise ConflictError(
                f"as_: expected an id that is not an item yet; received {quoted(other)}.",
                item=other,
            )

    def version(self, key: bytes, own: Any) -> str:
        """The version of an item."""
        (item,) = self.loaded([own], [key])
        if item is None:
            raise _absent(own)
        return str(item.version)

    def delete(
        self, keys: Sequence[bytes], ids: Sequence[Any] = (), expected: str | None = None
    ) -> int:
        """Remove all of items; return how many there were. With ``expected``, the version of each
        of ``ids`` is compared first."""
        for _ in _tries():
            versions: dict[bytes, Version | None] = dict.fromkeys(keys)
            if expected is not None:
                for key, own, item in zip(keys, ids, self.loaded(ids, keys), strict=True):
                    _check_version(own, item, expected)
                    versions[key] = item and item.version
            found = self._remove(versions)
            if found is not None:
                return found
        raise _overtaken()

    def expire(self, before: int, after: bytes) -> list[bytes]:
        """Delete some items with ids after one, whose last event is before a moment."""
        for _ in _tries():
            found = self._store.idle(before, after)
            if self._remove(found) is not None:  # else one of them was observed meanwhile
                return list(found)
        raise _overtaken()

    def restore(self, journals: Mapping[bytes, list[Event]]) -> int:
        """Add items with whole journals, in one transaction; return how many were not there."""
        new: dict[bytes, Record] = {}
        for (key, events), there in zip(
            journals.items(), self._store.read(list(journals), whole=True), strict=True
        ):
            if there is None:
                new[key] = Record(None, events, Version(*events[-1][:2]))
            elif there.events != events:
                item = id_of(key)
                raise DataError(
                    f"Item {quoted(item)}: expected an item that is not there, or one with the "
                    "journal of the file; received one with another journal. Delete it first.",
                    item=item,
                )
        replayed(self.replay, new)
        changes = [Change(key, Version(), record.events) for key, record in new.items()]
        if changes and self._store.commit(changes):
            raise _overtaken()
        return len(new)

    # -- another model -----------------------------------------------------------------

    def begin_migration(self) -> None:
        """Note from now on which items change."""
        self._store.watch()

    def part(self, after: bytes, most: int) -> dict[bytes, Record]:
        """The whole journals of the next items after an id."""
        return self._journals(self._store.ids(after, most))

    def end_migration(self, replay: Replay | None, meta: dict[str, str]) -> None:
        """Go on with another model, if it can replay what changed meanwhile; with None, as before.

        From this moment every state is one of the new model.
        """
        if replay is None:
            self._store.unwatch()
            return
        for last in (False, True):  # other processes wait for the last part only, which is small
            replayed(replay, self._journals(self._store.watched(last=last)))
        self._store.set_meta(meta)
        self.replay = replay
        self._items.clear()

    def _journals(self, keys: Sequence[bytes]) -> dict[bytes, Record]:
        records = self._store.read(keys, whole=True)
        both = zip(keys, records, strict=True)
        return {key: record for key, record in both if record is not None}

    # -- inside ------------------------------------------------------------------------

    def _answer(self, calls: list[Call]) -> list[Current]:
        """The states that calls ask for."""
        items: dict[bytes, Item] = {}
        ids = [own for call in calls for own in call.work.ids]
        keys = [key for call in calls for key in call.work.keys]
        for key, own, item in zip(keys, ids, self.loaded(ids, keys), strict=True):
            if item is None:
                raise _absent(own)
            items[key] = item
        waiting = {key: item for key, item in items.items() if item.waiting}
        self.replay.compute(list(waiting.values()))
        self._items |= {key: item.packed() for key, item in waiting.items()}
        return [self._current({key: items[key] for key in call.work.keys}) for call in calls]

    def _current(self, items: Mapping[bytes, Item]) -> Current:
        found = {}
        for key, item in items.items():
            assert item.state is not None  # it was computed
            found[key] = item.state, dict(item.plans)
        return Current(self.replay, found)

    def _observe(self, calls: list[Call]) -> list[Observed]:
        """Accept the rows of calls in one transaction."""
        for _ in _tries():
            drafted = self._drafted(calls)
            if drafted is None:
                continue
            drafts, found = drafted
            # Before the commit, so that no error follows it.
            observed = self._observed([call.work for call in calls], drafts, found)
            if self._commit(drafts):
                return observed
        raise _overtaken()

    def _observed(
        self,
        calls: Sequence[Rows],
        drafts: Mapping[bytes, Draft],
        found: Sequence[tuple[np.ndarray, list[str]]],
    ) -> list[Observed]:
        """The answers to calls, with the forecasts that they ask for: those of their items after
        them, and those of the items that they revise before them."""
        revised = [
            {rows.keys[row]: rows.ids[row] for row in np.flatnonzero(codes >= _LATE)}
            for rows, (codes, _) in zip(calls, found, strict=True)
        ]
        asking = {n: rows.ahead for n, rows in enumerate(calls) if rows.ahead is not None}
        own = {n: (ahead, list(dict.fromkeys(calls[n].keys))) for n, ahead in asking.items()}
        after = self._forecasts(
            own, {key: drafts[key].item for _, keys in own.values() for key in keys}
        )
        old = {
            key: Item.unpacked(self._items[key])
            for n in asking
            for key in revised[n]
            if drafts[key].old
        }
        self.replay.compute([item for item in old.values() if item.waiting])
        own = {n: (ahead, [key for key in revised[n] if key in old]) for n, ahead in asking.items()}
        before = self._forecasts({n: asked for n, asked in own.items() if asked[1]}, old)
        return [
            Observed(
                _STATUS[codes],
                tuple(revised[number].values()),
                after.get(number),
                before.get(number),
                tuple(versions),
            )
            for number, (codes, versions) in enumerate(found)
        ]

    def _forecasts(
        self, asked: Mapping[int, tuple[Ahead, list[bytes]]], items: Mapping[bytes, Item]
    ) -> dict[int, Any]:
        """The forecast that each call asks for, by the number of the call."""
        found = self._current(items).forecasts(list(asked.values()))
        return dict(zip(asked, found, strict=True))

    def _drafted(
        self, calls: list[Call]
    ) -> tuple[dict[bytes, Draft], list[tuple[np.ndarray, list[str]]]] | None:
        """The items after the rows of calls, and the status of each row and the version of its
        item; None if another process changes an item meanwhile."""
        ids = [own for call in calls for own in call.work.ids]
        keys = [key for call in calls for key in call.work.keys]
        drafts: dict[bytes, Draft] = {}
        for key, own, item in zip(keys, ids, self.loaded(ids, keys), strict=True):
            if key not in drafts:
                drafts[key] = Draft(item and item.version, item or Item(own))
        if not self._read_whole(calls, drafts):
            return None
        found = [self._take(call.work, drafts) for call in calls]
        asked = {key for call in calls if call.work.ahead is not None for key in call.work.keys}
        changed = [draft.item for key, draft in drafts.items() if draft.events or key in asked]
        self.replay.compute([item for item in changed if item.waiting])
        return drafts, found

    def _read_whole(self, calls: list[Call], drafts: Mapping[bytes, Draft]) -> bool:
        """Read the whole journals of the items that may go back in time; return whether the items
        are still those of the journals."""
        back: dict[bytes, None] = {}
        for call in calls:
            keys = call.work.keys
            for row, kind, at, data in call.work.parts:
                item = drafts[keys[row]].item
                if item.static != data if kind == STATIC else at <= item.known:
                    back[keys[row]] = None
        olds = {key: old for key in back if (old := drafts[key].old) is not None}
        records, same = self._store.read(list(olds), whole=True), True
        for (key, old), record in zip(olds.items(), records, strict=True):
            if record is not None and record.version == old:
                drafts[key].journal = record, History(record.events)
            else:
                same = False
        return same

    def _take(self, rows: Rows, drafts: Mapping[bytes, Draft]) -> tuple[np.ndarray, list[str]]:
        """Let the drafts take the rows of a call; return the status of each row, and the version
        of its item after the call."""
        if rows.expected is not None:
            for own, key in zip(rows.ids, rows.keys, strict=True):
                item = drafts[key].item
                _check_version(own, item if item.seq else None, rows.expected)
        codes = np.zeros(len(rows.ids), np.int64)
        for row, kind, at, data in rows.parts:
            draft = drafts[rows.keys[row]]
            if at is None:
                code = self._take_static(draft, data)
            else:
                code = self._take_step(draft, kind, at, data)
            if code >= _LATE and self._policy == "reject":
                self._refuse(draft.item, at, code)
            if code > codes[row]:
                codes[row] = code
        return codes, [str(drafts[key].item.version) for key in rows.keys]

    def _refuse(self, item: Item, at: int | None, code: int) -> NoReturn:
        """Raise for what ``policy="reject"`` does not accept."""
        expected, received = "the static features that it has", "others"
        if at is not None:
            expected = "a step after the observed ones, or the same values again"
            received = f"step {self.replay.cells.steps([at])[0]}"
            if code == _CORRECTED:
                received = f"other values of {received}"
        raise ConflictError(
            f'Item {quoted(item.id)}: expected {expected}, as policy="reject"; received '
            f"{received}. Nothing of this call was accepted. Leave the row out.",
            item=item.id,
        )

    def _take_static(self, draft: Draft, data: bytes) -> int:
        item = draft.item
        if item.static == data:
            return _DUPLICATE
        if item.static is not None:
            if item.start is not None:
                raise ConflictError(
                    f"Item {quoted(item.id)}: expected the static features that it has, as its "
                    "state was set; received others. Reset it first.",
                    item=item.id,
                )
            self._rewind(draft, LEAST)
        code = _NEW if item.static is None else _CORRECTED
        item.static = data
        self._add(draft, None, data)
        return code

    def _take_step(self, draft: Draft, kind: bytes, at: int, data: bytes) -> int:
        """Let an item take an observation or the future covariates of a step."""
        item = draft.item
        if item.static is None:
            columns = listed(self.replay.layout.static.columns)
            raise DataError(
                f"Item {quoted(item.id)} is new: expected its static features ({columns}); "
                "received none.",
                item=item.id,
            )
        if at <= item.start_at:
            last, given = self.replay.cells.steps([item.start_at, at])
            raise ConflictError(
                f"Item {quoted(item.id)}: expected a step after {last}, to which its state was "
                f"set; received {given}. Reset the item first.",
                item=item.id,
            )
        now = item.rows if kind == ROW else item.plans
        if at <= item.known:
            _, history = draft.journal
            old = (history.rows if kind == ROW else history.plans).get(at)
            if old == data:
                return _DUPLICATE
            self._rewind(draft, at - 1)
            now = item.rows if kind == ROW else item.plans
        old = now.get(at)
        if old == data:
            return _DUPLICATE
        late = kind == ROW and at < item.last
        now[at] = data
        if kind == ROW:
            item.last = max(item.last, at)
        self._add(draft, at, data)
        return _CORRECTED if old is not None else _LATE if late else _NEW

    def _rewind(self, draft: Draft, before: int) -> None:
        """Take an item back to a state of a step up to ``before``."""
        item = draft.item
        draft.stale |= item.snapshot_at > before
        record, history = draft.journal
        item.rewind(history, record, before)

    def _add(self, draft: Draft, at: int | None, data: bytes) -> None:
        """Add an event to a draft. Its time is after that of all others that are known: also if
        the clock was set back, and so that no two items that had the same id have one version."""
        item = draft.item
        last = max(self._time, self._store.latest, item.time)
        item.time = self._time = max(last + 1, time.time_ns() // 1000)
        item.seq += 1
        draft.events.append(Event(item.seq, item.time, at, data))

    def _commit(self, drafts: Mapping[bytes, Draft]) -> bool:
        """Write the events of drafts; return whether they were written."""
        changes = []
        changed = {key: draft for key, draft in drafts.items() if draft.events}
        for key, draft in changed.items():
            item, snapshot = draft.item, "keep"
            if draft.stale or item.seq - item.snapshot_seq >= _EVERY:
                snapshot = "drop"
                if item.known != LEAST and item.state is not None:
                    snapshot = Snapshot(item.seq, item.known, item.state)
                    item.snapshot_seq, item.snapshot_at = item.seq, item.known
                else:
                    item.snapshot_seq, item.snapshot_at = 0, LEAST
            changes.append(Change(key, draft.old or Version(), draft.events, snapshot))
        begin = time.perf_counter()
        stale = self._store.commit(changes) if changes else []
        if stale:
            for number in stale:
                self._items.pop(changes[number].id, None)
            return False
        if self.committed is not None and changes:
            events = sum(len(change.events) for change in changes)
            self.committed(events, time.perf_counter() - begin)
        for key, draft in drafts.items():
            if draft.old or draft.events:
                self._items[key] = draft.item.packed()
        return True

    def _begin(
        self,
        key: bytes,
        own: Any,
        start: bytes | None,
        at: int,
        data: bytes,
        expected: str | None,
    ) -> None:
        """Begin a new era of an item, with the event that says so."""
        for _ in _tries():
            (item,) = self.loaded([own], [key])
            if item is None:
                raise _absent(own)
            _check_version(own, item, expected)
            draft = Draft(item.version, item, stale=True)
            draft.item.begin(start, at)
            self._add(draft, None, data)
            if self._commit({key: draft}):
                return
        raise _overtaken()

    def _remove(self, versions: Mapping[bytes, Version | None]) -> int | None:
        """Delete items of expected versions; None if one has another version."""
        for key in versions:
            self._items.pop(key, None)
        return self._store.delete(versions) if versions else 0


def replayed(replay: Replay, journals: Mapping[bytes, Record]) -> Current:
    """The states of items by a model, from their whole journals.

    Raises
    ------
    StateError
        An item whose state was set, which belongs to the model that made it.
    DataError, ArgumentError
        An item that the model cannot replay.
    """
    items = {}
    for key, record in journals.items():
        if not replay.owns(History(record.events)):
            raise StateError(
                f"Item {quoted(id_of(key))}: expected observations to replay; its state was set, "
                "and the observations before are not in it. Reset or delete the item first."
            )
        items[key] = Item.of(id_of(key), replace(record, snapshot=None))
    replay.compute(list(items.values()))
    found = {key: (item.state, item.plans) for key, item in items.items() if item.state is not None}
    return Current(replay, found)


def _grouped(calls: Sequence[Call]) -> Iterator[list[Call]]:
    """Calls in their order, those together that are done together.

    Calls with forecasts are, if these have one horizon and are read in one way. No item of theirs
    is in another call: a forecast is that of the item after its own call and not after later ones.
    """
    group: list[Call] = []
    horizon: tuple[Any, ...] | None = None
    seen: set[bytes] = set()  # the items of the group
    asked: set[bytes] = set()  # those that are forecast
    for call in calls:
        work = call.work
        keys, own = set[bytes](), None
        if isinstance(work, Rows):
            keys = set(work.keys)
            if work.ahead is not None:
                ends = repr((work.ahead.until, work.ahead.h))  # not checked yet: any objects
                own = ends, work.ahead.read
        apart = not isinstance(work, (Rows, Ask)) or (
            group and type(work) is not type(group[0].work)
        )
        if own is not None:
            apart = (
                apart
                or horizon not in (None, own)
                or not keys.isdisjoint(seen)
                or len(asked) >= _TOGETHER
            )
        if group and (apart or not keys.isdisjoint(asked)):
            yield group
            group, horizon, seen, asked = [], None, set(), set()
        group.append(call)
        seen |= keys
        if own is not None:
            horizon, asked = own, asked | keys
    if group:
        yield group


def _check_version(own: Any, item: Item | None, expected: str | None) -> None:
    """Raise ``VersionError`` unless an item has the expected version; None: whatever it has."""
    found = None if item is None else str(item.version)
    if expected not in (None, found):
        has = "it is not there" if found is None else f"it has the version {found}"
        raise VersionError(
            f"Item {quoted(own)}: expected the version {quoted(expected)}; {has}. Nothing of this "
            "call was accepted. Read the item again, and decide anew.",
            item=own,
        )


def _absent(item: Any, when: str = "") -> AbsentError:
    return AbsentError(
        f"Item {quoted(item)}: expected an item that was observed{when}; received one that is not "
        "there. Call `observe` first, with its static features for k = 0.",
        item=item,
    )


def _tries() -> Iterator[None]:
    """The times that a change is made. Before each, processes wait for different times, so that
    one of them is first."""
    for number in range(_TRIES):
        if number:
            time.sleep(random.uniform(0, min(0.001 * 2**number, 0.1)))
        yield


def _overtaken() -> StoreError:
    return StoreError(
        f"Expected to change the items; another process was first {_TRIES} times. Nothing of this "
        "call was accepted. Repeat it."
    )
