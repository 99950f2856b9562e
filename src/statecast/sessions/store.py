"""``Store``: what sessions need of a database.

A store keeps the journal of each item: its events in the order in which they were accepted, and at
most one snapshot of its state. It knows neither models nor what an event means. A change names the
last event that it expects (compare-and-set), so that two writers never mix their events.
``tests/sessions/test_store.py`` has the laws that every store obeys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

Durability = Literal["full", "relaxed"]


class Version(NamedTuple):
    """The last event of an item: its number, and when it was accepted.

    An item that is not there has zeros. One that was deleted and made again has another time.

    Examples
    --------
    >>> from statecast.sessions import Version
    >>> Version()  # of an item that is not there
    Version(seq=0, time=0)
    """

    seq: int = 0
    time: int = 0

    def __str__(self) -> str:
        return f"{self.seq}-{self.time}"


class Event(NamedTuple):
    """An event of an item's journal.

    Attributes
    ----------
    seq : int
        Its number in the journal of the item, from 1.
    time : int
        When it was accepted, in microseconds since 1970.
    at : int or None
        The step that it is about; None for an event without one.
    data : bytes

    Examples
    --------
    >>> from statecast.sessions import Event
    >>> Event(seq=1, time=1_700_000_000_000_000, at=1, data=b"").at
    1
    """

    seq: int
    time: int
    at: int | None
    data: bytes


class Snapshot(NamedTuple):
    """The state of an item after its events up to ``seq``, of which those after the step ``at``
    have no part in it.

    Examples
    --------
    >>> from statecast.sessions import Snapshot
    >>> Snapshot(seq=3, at=2, data=b"").seq
    3
    """

    seq: int
    at: int
    data: bytes


@dataclass(frozen=True)
class Record:
    """What a store has of one item.

    Attributes
    ----------
    snapshot : Snapshot or None
    events : list of Event
        In the order of ``seq``. With a snapshot, in a read that is not whole: the events after it,
        the earlier ones of later steps, and those without a step.
    version : Version
        The last event.

    Examples
    --------
    >>> from statecast.sessions import Record, Version
    >>> Record(snapshot=None, events=[], version=Version()).version.seq
    0
    """

    snapshot: Snapshot | None
    events: list[Event]
    version: Version


@dataclass(frozen=True)
class Change:
    """Further events of one item, written whole or not at all.

    Attributes
    ----------
    id : bytes
    expected : Version
        The item's last event before this change.
    events : sequence of Event
        Their numbers follow the expected one.
    snapshot : Snapshot, "keep" or "drop"
        What becomes of the item's snapshot.

    Examples
    --------
    >>> from statecast.sessions import Change, Event, Version
    >>> change = Change(b"Ada", Version(), [Event(1, 1_700_000_000_000_000, 1, b"")])
    >>> change.snapshot
    'keep'
    """

    id: bytes
    expected: Version
    events: Sequence[Event]
    snapshot: Snapshot | Literal["keep", "drop"] = "keep"


class Store(Protocol):
    """Where sessions keep their journals. One thread at a time calls a store.

    Every method raises ``StoreError`` if the store cannot be read or written to. Then nothing was
    changed; only if the connection to a server is lost before its answer, a change may have been
    made, and the message says so.

    Examples
    --------
    >>> from statecast.sessions import RedisStore, SQLiteStore, Store
    >>> [each.__name__ for each in (SQLiteStore, RedisStore) if hasattr(each, "commit")]
    ['SQLiteStore', 'RedisStore']
    """

    @property
    def latest(self) -> int:
        """The latest time of any event that the store has had, as far as it is known without
        asking a server. Other processes may have written later ones since the last call."""
        ...

    def meta(self) -> dict[str, str]:
        """What was kept with ``set_meta``.

        If another process changes it, the other methods raise ``StoreError`` from then on: it
        works with another model.
        """
        ...

    def set_meta(self, values: Mapping[str, str]) -> None:
        """Keep texts by name, and remove all snapshots, in one transaction. Ends a ``watch``."""
        ...

    def read(self, ids: Sequence[bytes], *, whole: bool = False) -> list[Record | None]:
        """Each item's record, None for an item that the store does not have.

        With ``whole`` a record has all events, whether or not there is a snapshot.
        """
        ...

    def stale(self, known: Iterable[tuple[bytes, Version]]) -> list[bytes]:
        """Those of some items that another process has changed or deleted, so that the version is
        not the known one. ``known`` need not be read if there are no other processes."""
        ...

    def commit(self, changes: Sequence[Change]) -> list[int]:
        """Write changes of distinct items in one transaction, or none of them.

        None is written if some items have another version than expected. The result has the
        numbers of these changes; it is empty if all were written.
        """
        ...

    def delete(self, items: Mapping[bytes, Version | None]) -> int | None:
        """Remove all of some items, each with its expected version or with None.

        Returns how many there were; None if some have another version than expected, and then none
        was removed.
        """
        ...

    def ids(self, after: bytes = b"", most: int = 1000) -> list[bytes]:
        """Up to ``most`` ids in the order of their bytes, after one."""
        ...

    def idle(self, before: int, after: bytes = b"", most: int = 1000) -> dict[bytes, Version]:
        """As ``ids``, of the items whose last event is before a time, in microseconds since 1970;
        with their versions."""
        ...

    def count(self) -> int:
        """The number of items."""
        ...

    def watch(self) -> None:
        """Note from now on which items change, whatever process changes them.

        Raises
        ------
        StoreError
            A watch is running, of this process or of another one.
        """
        ...

    def watched(self, *, last: bool = False) -> list[bytes]:
        """The items that changed since ``watch``, or since the last call of this method.

        With ``last`` no other process changes items any more, until ``set_meta`` or ``unwatch``.
        """
        ...

    def unwatch(self) -> None:
        """End a watch."""
        ...

    def close(self) -> None:
        """End the use of the store. Other calls are then refused; further ones of ``close`` have no
        effect."""
        ...
