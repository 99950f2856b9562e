"""``SQLiteStore``: a store in one file."""

from __future__ import annotations

import os
import threading
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from statecast.checks import check_choice
from statecast.errors import ForkError, StoreError
from statecast.files import file_path
from statecast.process import check_extra
from statecast.sessions.store import Change, Durability, Event, Record, Snapshot, Version

if TYPE_CHECKING:
    import apsw

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

    Examples
    --------
    >>> import tempfile
    >>> from statecast.sessions import SQLiteStore
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = SQLiteStore(f"{folder}/items.db")
    ...     store.close()
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
        # The number of an item, and its version: no other process changes them.
        self._numbers: dict[bytes, tuple[int, Version]] = {}
        self._watched: set[bytes] | None = None
        self._filled, self._copied, self._copier = threading.Event(), False, None
        self._copying = threading.Lock()
        self._db.set_wal_hook(self._committed)

    # -- a store -----------------------------------------------------------------------

    @property
    def latest(self) -> int:
        """See ``Store``."""
        return self._latest

    def meta(self) -> dict[str, str]:
        """See ``Store``."""
        with self._errors("read"):
            query = "SELECT name, value FROM meta WHERE name NOT IN ('format', 'latest')"
            return {str(name): str(value) for name, value in self._db.execute(query)}

    def set_meta(self, values: Mapping[str, str]) -> None:
        """See ``Store``."""
        with self._transaction():
            self._db.execute("DELETE FROM snapshots")
            self._db.executemany("INSERT OR REPLACE INTO meta VALUES(?, ?)", values.items())
        self.unwatch()

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
            last: dict[int, Version] = {}
            for some, query in ((long, _EVENTS), (short, _REST), (short, _LAST)):
                if not some:
                    continue
                rows = self._db.execute(query, (apsw.carray(array("q", some)),))
                if query is _LAST:
                    last |= {item: Version(seq, time) for item, seq, time in rows}
                    continue
                for item, *event in rows:
                    events[item].append(Event._make(event))
        last |= {item: Version(*events[item][-1][:2]) for item in long}
        if len(self._numbers) >= _NUMBERS:
            self._numbers.clear()
        self._numbers |= {each: (item, last[item]) for each, item in numbers.items()}
        return [
            Record(snapshots[item], events[item], last[item]) if item else None
            for item in map(numbers.get, ids)
        ]

    def stale(self, known: Iterable[tuple[bytes, Version]]) -> list[bytes]:
        """See ``Store``."""
        return []

    def commit(self, changes: Sequence[Change]) -> list[int]:
        """See ``Store``."""
        events: list[Any] = []
        snapshots: list[Any] = []
        written: dict[bytes, tuple[int, Version]] = {}
        latest = self._latest
        with self._transaction():
            found = [self._found(change.id) for change in changes]
            stale = [i for i, change in enumerate(changes) if change.expected != found[i][1]]
            if stale:
                return stale
            for (item, _), change in zip(found, changes, strict=True):
                if not item:
                    self._db.execute("INSERT INTO items(id) VALUES(?)", (change.id,))
                    item = self._db.last_insert_rowid()
                written[change.id] = item, Version(*change.events[-1][:2])
                latest = max(latest, written[change.id][1].time)
                events += [(item, *event) for event in change.events]
                if isinstance(change.snapshot, Snapshot):
                    snapshots.append((item, *change.snapshot))
                elif change.snapshot == "drop":
                    self._db.execute("DELETE FROM snapshots WHERE item = ?", (item,))
            self._db.executemany("INSERT INTO events VALUES(?, ?, ?, ?, ?)", events)
            self._db.executemany("INSERT OR REPLACE INTO snapshots VALUES(?, ?, ?, ?)", snapshots)
            if latest > self._latest:
                self._db.execute("INSERT OR REPLACE INTO meta VALUES('latest', ?)", (str(latest),))
        self._numbers |= written
        self._latest = latest
        if self._watched is not None:
            self._watched |= written.keys()
        return []

    def delete(self, items: Mapping[bytes, Version | None]) -> int | None:
        """See ``Store``. No file has the bytes of the items any more."""
        import apsw

        found = 0
        with self._transaction():
            for each, expected in items.items():
                if expected not in (None, self._found(each)[1]):
                    return None
            for each in items:
                item, _ = self._found(each)
                self._numbers.pop(each, None)
                found += bool(item)
                for table in ("events", "snapshots", "items"):
                    self._db.execute(f"DELETE FROM {table} WHERE item = ?", (item,))
        # The log has what was removed until it is empty. While another thread copies it, it cannot
        # be emptied.
        with self._copying:
            try:
                busy, _, _ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0]
                reason = "another program reads it: close it" if busy else ""
            except apsw.Error as error:
                reason = f"it cannot be copied: {type(error).__name__}: {error}"
        if reason:
            raise StoreError(
                f"{self.path}: the items are deleted, but their bytes are still in the log "
                f"({reason}). Then delete them again."
            )
        return found

    def ids(self, after: bytes = b"", most: int = 1000) -> list[bytes]:
        """See ``Store``."""
        with self._errors("read"):
            query = "SELECT id FROM items WHERE id > ? ORDER BY id LIMIT ?"
            return [each for (each,) in self._db.execute(query, (after, most))]

    def idle(self, before: int, after: bytes = b"", most: int = 1000) -> dict[bytes, Version]:
        """See ``Store``."""
        last = "SELECT max(seq) FROM events WHERE item = items.item"
        query = f"""
            SELECT id, seq, time FROM items JOIN events ON events.item = items.item
            AND seq = ({last}) WHERE id > ? AND time < ? ORDER BY id LIMIT ?
        """
        with self._errors("read"):
            rows = self._db.execute(query, (after, before, most))
            return {each: Version(seq, time) for each, seq, time in rows}

    def count(self) -> int:
        """See ``Store``."""
        with self._errors("read"):
            return self._db.execute("SELECT count(*) FROM items").get

    def watch(self) -> None:
        """See ``Store``."""
        if self._watched is not None:
            raise StoreError("Expected one migration at a time; another one is running.")
        self._watched = set()

    def watched(self, *, last: bool = False) -> list[bytes]:
        """See ``Store``."""
        found, self._watched = self._watched or set(), set()
        return list(found)

    def unwatch(self) -> None:
        """See ``Store``."""
        self._watched = None

    def close(self) -> None:
        """See ``Store``."""
        if self._closed or os.getpid() != self._process:
            return
        self._closed = True
        self._filled.set()
        if self._copier is not None:
            self._copier.join()
        try:
            self._db.close()
        finally:
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
        self._latest = int(db.execute("SELECT value FROM meta WHERE name = 'latest'").get or 0)

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

    def _found(self, each: bytes) -> tuple[int, Version]:
        """The number of an item, and its version; zeros if the item is not there."""
        known = self._numbers.get(each)
        if known is None:
            query = "SELECT item FROM items WHERE id = ?"
            item = self._db.execute(query, (each,)).get
            if item is None:
                return 0, Version()
            query = "SELECT seq, time FROM events WHERE item = ? ORDER BY seq DESC LIMIT 1"
            known = item, Version(*self._db.execute(query, (item,)).get)
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

        with closing(apsw.Connection(self.path)) as db:
            db.set_busy_timeout(_WAIT)
            while True:
                self._filled.wait()
                self._filled.clear()
                if self._closed:
                    break
                with self._copying, suppress(apsw.Error):
                    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                    self._copied = True
