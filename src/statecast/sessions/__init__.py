"""One durable state per item: a journal of observations, and the state that follows from it."""

from statecast.sessions.redis import RedisStore
from statecast.sessions.sessions import Sessions
from statecast.sessions.sqlite import SQLiteStore
from statecast.sessions.store import Change, Event, Record, Snapshot, Store, Version
from statecast.sessions.writer import Observed

__all__ = [
    "Change",
    "Event",
    "Observed",
    "Record",
    "RedisStore",
    "SQLiteStore",
    "Sessions",
    "Snapshot",
    "Store",
    "Version",
]
