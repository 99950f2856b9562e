"""``Store``: what sessions need of a database, and ``SQLiteStore``, which has it in one file.

A store keeps the journal of each item: its events in the order in which they were accepted, and at
most one snapshot of its state. It knows neither models nor what an event means. A change names the
sequence number that it expects (compare-and-set), so that two writers never mix their events.
``tests/sessions/test_store.py`` has the laws that every store obeys.
"""

from __future__ import annotations

import os
import threading
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from statecast.checks import check_choice
from statecast.errors import ArgumentError, ForkError, StoreError
from statecast.files import file_path
from statecast.process import check_extra

if TYPE_CHECKING:
    import apsw

Durability = Literal["full", "relaxed"]

_FORMAT = "1"  # of the tables
_OLDEST = (3, 51, 3)  # an older SQLite can lose commits: see decision 53
_PAGES = 2_000  # of the write-ahead log, after which it is copied into the file: 8 MB
_NUMBERS = 100_000  # items whose numbers are kept in memory
_WAIT = 60_000  # milliseconds: a commit waits while the log is copied
_TABLES = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE items(item INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE);
CREATE TABLE events(
    item INTEGER NOT NULL, seq INTEGER NOT NULL, time INTEGER NOT NULL, at INTEGER,
    data BLOB NOT NULL, PRIMARY KEY(item, seq)
) WITHOUT ROWID;
CREATE TABLE snapshots(
    item INTEGER PRIMARY KEY, seq INTEGER NOT NULL, at INTEGER NOT NULL, data BLOB NOT NULL
);
"""
# Of several items at once, which are bound as an array.
_HEADS = """
SELECT id, item, seq, at, data FROM items LEFT JOIN snapshots USING(item) WHERE id IN carray(?)
"""
_EVENTS = """
SELECT item, seq, time, at, data FROM events WHERE item IN carray(?) ORDER BY item, seq
"""
_REST = """
SELECT item, events.seq, time, events.at, events.data FROM events JOIN snapshots USING(item)
WHERE item IN carray(?)
    AND (events.at IS NULL OR events.seq > snapshots.seq OR events.at > snapshots.at)
ORDER BY item, events.seq
"""
_LAST = "SELECT item, max(seq), time FROM events WHERE item IN carray(?) GROUP BY item"


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
    """

    seq: int
    time: int
    at: int | None
    data: bytes


class Snapshot(NamedTuple):
    """The state of an item after its events up to ``seq``, of which those after the step ``at``
    have no part in it."""

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
    seq, time : int
        Those of the last event.
    """

    snapshot: Snapshot | None
    events: list[Event]
    seq: int
    time: int


@dataclass(frozen=True)
class Change:
    """Further events of one item, written whole or not at all.

    Attributes
    ----------
    id : bytes
    expected : int
        The sequence number of the item's last event; 0 for an item that the store does not have.
    events : sequence of Event
        Their numbers follow ``expected``.
    snapshot : Snapshot, "keep" or "drop"
        What becomes of the item's snapshot.
    """

    id: bytes
    expected: int
    events: Sequence[Event]
    snapshot: Snapshot | Literal["keep", "drop"] = "keep"


class Store(Protocol):
    """Where sessions keep their journals. One thread at a time calls a store.

    Every method raises ``StoreError`` if the store cannot be read or written to. Then nothing was
    changed.
    """

    def meta(self) -> dict[str, str]:
        """What was kept with ``set_meta``."""
        ...

    def set_meta(self, values: dict[str, str], *, forget: bool = False) -> None:
        """Keep texts by name; with ``forget``, remove all snapshots in the same transaction."""
        ...

    def read(self, ids: Sequence[bytes], *, whole: bool = False) -> list[Record | None]:
        """Each item's record, None for an item that the store does not have.

        With ``whole`` a record has all events, whether or not there is a snapshot.
        """
        ...

    def commit(self, changes: Sequence[Change]) -> list[int]:
        """Write changes of distinct items in one transaction, or none of them.

        None is written if the last event of some items has another number than expected. The
        result has the numbers of these changes; it is empty if all were written.
        """
        ...

    def delete(self, ids: Sequence[bytes]) -> int:
        """Remove all of some items, so that no file has their bytes; return how many there were."""
        ...

    def ids(self, after: bytes = b"", most: int = 1000) -> list[bytes]:
        """Up to ``most`` ids in the order of their bytes, after one."""
        ...

    def idle(self, before: int, after: bytes = b"", most: int = 1000) -> list[bytes]:
        """As ``ids``, of the items whose last event is before a time, in microseconds since
        1970."""
        ...

    def count(self) -> int:
        """The number of items."""
        ...

    def close(self) -> None:
        """End the use of the store. Further calls have no effect."""
        ...


class SQLiteStore:
    """A store in one SQLite file, with a write-ahead log beside it.

    One process has the file at a time: another one is refused. A commit is written to the log and
    synced; another thread copies the log into the file.

    Parameters
    ----------
    path : str or path
        The file; it is made if it does not exist. Its log and lock are beside it:
        ``items.db-wal``, ``items.db-shm`` and ``items.db-lock``.
    durability : {"full", "relaxed"}
        "full": a commit is on the disk when ``commit`` returns. "relaxed": it is in the hands of
        the operating system. A crash of the machine may then lose the last commits, but no part of
        one; a crash of the process loses nothing.

    Raises
    ------
    StoreError
        A file that is not one of sessions, or that cannot be written to; another process has it;
        or SQLite is older than 3.51.3, which can lose commits.
    MissingExtraError
        apsw is not installed: ``pip install 'statecast[sessions]'``.
    ArgumentError
        A path that is no path; another ``durability``.
    """

    def __init__(self, path: str | os.PathLike[str], durability: Durability = "full") -> None:
        check_extra("sessions", ["apsw"], "A store of sessions")
        import apsw

        self.path = str(file_path(path))
        check_choice("durability", durability, ["full", "relaxed"])
        version = apsw.sqlite_lib_version()
        if tuple(map(int, version.split("."))) < _OLDEST:
            oldest = ".".join(map(str, _OLDEST))
            raise StoreError(
                f"Expected SQLite {oldest} or later, received {version} from apsw: it can lose "
                "commits when one connection writes while another checkpoints. Run: pip install "
                "--upgrade apsw."
            )
        self._process, self._closed = os.getpid(), False
        self._lock = self._open(f"{self.path}-lock")
        try:
            with self._errors("open"):
                self._lock.execute("BEGIN EXCLUSIVE")
            self._db = self._open(self.path)
            with self._errors("open"):
                self._prepare(durability)
        except StoreError:
            self._lock.close()
            raise
        # The number of an item and of its last event: no other process changes them.
        self._numbers: dict[bytes, tuple[int, int]] = {}
        self._filled, self._copied, self._copier = threading.Event(), False, None
        self._db.set_wal_hook(self._committed)

    # -- a store -----------------------------------------------------------------------

    def meta(self) -> dict[str, str]:
        """See ``Store``."""
        with self._errors("read"):
            query = "SELECT name, value FROM meta WHERE name <> 'format'"
            return {str(name): str(value) for name, value in self._db.execute(query)}

    def set_meta(self, values: dict[str, str], *, forget: bool = False) -> None:
        """See ``Store``."""
        with self._transaction():
            if forget:
                self._db.execute("DELETE FROM snapshots")
            self._db.executemany("INSERT OR REPLACE INTO meta VALUES(?, ?)", values.items())

    def read(self, ids: Sequence[bytes], *, whole: bool = False) -> list[Record | None]:
        """See ``Store``."""
        import apsw

        with self._errors("read"):
            if not ids:
                return []
            snapshots: dict[int, Snapshot | None] = {}
            numbers: dict[bytes, int] = {}
            rows: Iterable[Any] = self._db.execute(_HEADS, (apsw.carray(tuple(ids)),))
            for each, item, *snapshot in rows:
                numbers[each] = item
                snapshots[item] = None if snapshot[0] is None else Snapshot._make(snapshot)
            short = [item for item, snapshot in snapshots.items() if snapshot and not whole]
            long = [item for item, snapshot in snapshots.items() if not snapshot or whole]
            events: dict[int, list[Event]] = {item: [] for item in snapshots}
            last: dict[int, tuple[int, int]] = {}
            for some, query in ((long, _EVENTS), (short, _REST), (short, _LAST)):
                if not some:
                    continue
                rows = self._db.execute(query, (apsw.carray(array("q", some)),))
                if query is _LAST:
                    last |= {item: (seq, time) for item, seq, time in rows}
                    continue
                for item, *event in rows:
                    events[item].append(Event._make(event))
        last |= {item: events[item][-1][:2] for item in long}
        if len(self._numbers) >= _NUMBERS:
            self._numbers.clear()
        self._numbers |= {each: (item, last[item][0]) for each, item in numbers.items()}
        return [
            Record(snapshots[item], events[item], *last[item]) if item else None
            for item in map(numbers.get, ids)
        ]

    def commit(self, changes: Sequence[Change]) -> list[int]:
        """See ``Store``."""
        events: list[Any] = []
        snapshots: list[Any] = []
        written: dict[bytes, tuple[int, int]] = {}
        with self._transaction():
            found = [self._found(change.id) for change in changes]
            stale = [i for i, change in enumerate(changes) if change.expected != found[i][1]]
            if stale:
                return stale
            for (item, _), change in zip(found, changes, strict=True):
                if not item:
                    self._db.execute("INSERT INTO items(id) VALUES(?)", (change.id,))
                    item = self._db.last_insert_rowid()
                written[change.id] = item, change.expected + len(change.events)
                events += [(item, *event) for event in change.events]
                if isinstance(change.snapshot, Snapshot):
                    snapshots.append((item, *change.snapshot))
                elif change.snapshot == "drop":
                    self._db.execute("DELETE FROM snapshots WHERE item = ?", (item,))
            self._db.executemany("INSERT INTO events VALUES(?, ?, ?, ?, ?)", events)
            self._db.executemany("INSERT OR REPLACE INTO snapshots VALUES(?, ?, ?, ?)", snapshots)
        self._numbers |= written
        return []

    def delete(self, ids: Sequence[bytes]) -> int:
        """See ``Store``."""
        found = 0
        with self._transaction():
            for each in ids:
                item, _ = self._found(each)
                self._numbers.pop(each, None)
                found += bool(item)
                for table in ("events", "snapshots", "items"):
                    self._db.execute(f"DELETE FROM {table} WHERE item = ?", (item,))
        with self._errors("write"):  # the log has what was removed until it is empty
            busy, _, _ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0]
        if busy:
            raise StoreError(
                f"{self.path}: the items are deleted, but their bytes are still in the log, which "
                "another program reads. Close it, and delete them again."
            )
        return found

    def ids(self, after: bytes = b"", most: int = 1000) -> list[bytes]:
        """See ``Store``."""
        with self._errors("read"):
            query = "SELECT id FROM items WHERE id > ? ORDER BY id LIMIT ?"
            return [each for (each,) in self._db.execute(query, (after, most))]

    def idle(self, before: int, after: bytes = b"", most: int = 1000) -> list[bytes]:
        """See ``Store``."""
        last = "SELECT time FROM events WHERE item = items.item ORDER BY seq DESC LIMIT 1"
        with self._errors("read"):
            query = f"SELECT id FROM items WHERE id > ? AND ({last}) < ? ORDER BY id LIMIT ?"
            return [each for (each,) in self._db.execute(query, (after, before, most))]

    def count(self) -> int:
        """See ``Store``."""
        with self._errors("read"):
            return self._db.execute("SELECT count(*) FROM items").get

    def close(self) -> None:
        """See ``Store``."""
        if self._closed or os.getpid() != self._process:
            return
        self._closed = True
        self._filled.set()
        if self._copier is not None:
            self._copier.join()
        self._db.close()
        self._lock.close()

    # -- inside ------------------------------------------------------------------------

    def _open(self, path: str) -> apsw.Connection:
        import apsw

        try:
            found = apsw.Connection(path)
        except apsw.Error as error:
            raise StoreError(
                f"{path}: the store cannot be opened ({error}). Is its folder there, and may this "
                "process write to it?"
            ) from None
        return found

    def _prepare(self, durability: Durability) -> None:
        """Set the connection up, and make the tables of a new file."""
        db = self._db
        db.set_busy_timeout(_WAIT)
        version = db.execute("SELECT count(*) FROM sqlite_schema").get
        if version:
            tables = db.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'meta'").get
            found = db.execute("SELECT value FROM meta WHERE name = 'format'").get if tables else ""
            if found != _FORMAT:
                raise StoreError(
                    f"{self.path}: expected a file of sessions of this version of Statecast, "
                    f"received {f'one of format {found}' if found else 'another database'}. Name "
                    "another file, or open it with the version that wrote it."
                )
        db.execute("PRAGMA journal_mode = WAL").fetchall()
        db.execute(f"PRAGMA synchronous = {'FULL' if durability == 'full' else 'NORMAL'}")
        db.execute("PRAGMA secure_delete = ON").fetchall()
        db.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
        db.execute("PRAGMA cache_size = -65536")
        if not version:
            with db:
                db.execute(_TABLES)
                db.execute("INSERT INTO meta VALUES('format', ?)", (_FORMAT,))
        else:  # so that a disk that cannot be written to is found now
            with db:
                db.execute("UPDATE meta SET value = value WHERE name = 'format'")

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        """Raise SQLite's errors as ``StoreError``, and refuse a closed store."""
        import apsw

        if getattr(self, "_closed", False):
            raise StoreError(f"{self.path}: the store is closed. Open it again.")
        if os.getpid() != self._process:
            raise ForkError(
                f"{self.path}: this process is a fork of the one that opened the store. Open it "
                "after the fork, in one process."
            )
        try:
            yield
        except apsw.BusyError:
            raise StoreError(
                f"{self.path}: another process, or another object of this one, has the store open. "
                "Close it there: one process has a store at a time."
            ) from None
        except apsw.NotADBError:
            raise StoreError(
                f"{self.path}: expected a file of sessions; received another or a damaged one."
            ) from None
        except apsw.FullError:
            raise StoreError(
                f"{self.path}: the disk is full. Nothing of this call was written. Make room, and "
                "repeat it."
            ) from None
        except apsw.Error as error:
            raise StoreError(
                f"{self.path}: cannot {doing} ({type(error).__name__}: {error}). Nothing of this "
                "call was written."
            ) from None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        import apsw

        with self._errors("write"):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
                if self._copied:
                    self._copied = False
                    with suppress(apsw.Error):  # the commit is done: a full disk is no error of it
                        self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            except BaseException:
                with suppress(Exception):  # SQLite has rolled back already, for example
                    self._db.execute("ROLLBACK")
                raise

    def _found(self, each: bytes) -> tuple[int, int]:
        """The numbers of an item and of its last event; zeros if the item is not there."""
        known = self._numbers.get(each)
        if known is None:
            query = "SELECT item FROM items WHERE id = ?"
            item = self._db.execute(query, (each,)).get
            if item is None:
                return 0, 0
            query = "SELECT seq FROM events WHERE item = ? ORDER BY seq DESC LIMIT 1"
            known = item, self._db.execute(query, (item,)).get
        return known

    def _committed(self, _: Any, __: str, pages: int) -> int:
        """SQLite calls this after each commit, with the pages in the log."""
        if pages >= _PAGES and not self._copied:
            if self._copier is None:
                self._copier = threading.Thread(target=self._copy, daemon=True)
                self._copier.start()
            self._filled.set()
        return 0

    def _copy(self) -> None:
        """Copy the log into the file when it is long: the work of a thread of its own.

        It does not hold up commits. The next commit copies what was added meanwhile, so that the
        log begins again. If the disk is full, the log stays, and nothing is lost.
        """
        import apsw

        with apsw.Connection(self.path) as db:
            db.set_busy_timeout(_WAIT)
            while True:
                self._filled.wait()
                self._filled.clear()
                if self._closed:
                    break
                with suppress(apsw.Error):
                    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                    self._copied = True
        db.close()


def opened(store: Store | str | os.PathLike[str], durability: Durability) -> Store:
    """Return a store: the given one, or that of a file."""
    if isinstance(store, (str, os.PathLike)):
        return SQLiteStore(store, durability)
    needed: Iterable[str] = ("read", "commit", "delete", "ids", "meta", "set_meta", "close")
    if not all(hasattr(store, name) for name in needed):
        raise ArgumentError(
            f"store: expected the path of a file, or a Store; received {type(store).__name__}."
        )
    if durability != "full":
        raise ArgumentError(
            "durability: expected the path of a file with it, as another store has its own; "
            f"received a {type(store).__name__}. Leave it out."
        )
    return store
