"""One durable state per item: a journal of observations, and the state that follows from it."""

from statecast.sessions.sessions import Sessions
from statecast.sessions.store import Change, Event, Record, Snapshot, SQLiteStore, Store
from statecast.sessions.writer import Observed

__all__ = [
    "Change",
    "Event",
    "Observed",
    "Record",
    "SQLiteStore",
    "Sessions",
    "Snapshot",
    "Store",
]
