"""Journals of items that are named by letters, for tests of stores."""

from __future__ import annotations

from typing import Any

from statecast.sessions import Change, Event, Record, Version


def events(first: int, *ats: int | None, data: bytes = b"x") -> list[Event]:
    """Events from a number on, of these steps."""
    return [Event(first + i, 10 * (first + i), at, data) for i, at in enumerate(ats)]


def version(seq: int) -> Version:
    """The version after an event that ``events`` made."""
    return Version(seq, 10 * seq)


def change(item: bytes, seq: int, new: list[Event], snapshot: Any = "keep") -> Change:
    """A change of an item after its event of this number."""
    return Change(item, version(seq), new, snapshot)


def record(snapshot: Any, read: list[Event], seq: int) -> Record:
    """What is read of an item with so many events."""
    return Record(snapshot, read, version(seq))
