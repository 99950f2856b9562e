"""What is special about a store in a file of SQLite."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from journals import change, events, record
from statecast import errors
from statecast.sessions import SQLiteStore, sqlite


def test_a_second_process_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "items.db"
    code = (
        "import sys; from statecast.sessions import SQLiteStore\n"
        "try: SQLiteStore(sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        "else: print('opened')"
    )

    def other() -> str:
        command = [sys.executable, "-c", code, str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    store = SQLiteStore(path)
    store.commit([change(b"a", 0, events(1, 1))])
    found = other()
    assert found.startswith("StoreError")
    assert "another process" in found
    with pytest.raises(errors.StoreError, match="another object of this one"):
        SQLiteStore(path)
    store.commit([change(b"a", 1, events(2, 2))])
    assert store.read([b"a"]) == [record(None, events(1, 1, 2), 2)]
    store.close()
    assert other() == "opened\n"


def test_a_full_disk_is_an_error_and_nothing_is_lost(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "items.db")
    store.commit([change(b"a", 0, events(1, 1))])
    pages = store._db.execute("PRAGMA page_count").get
    store._db.execute(f"PRAGMA max_page_count = {pages}").fetchall()
    large = [change(b"b", 0, events(1, 1, data=b"x" * 100_000)), change(b"a", 1, events(2, 2))]
    with pytest.raises(errors.StoreError, match="disk is full"):
        store.commit(large)
    assert store.read([b"a", b"b"]) == [record(None, events(1, 1), 1), None]
    store._db.execute("PRAGMA max_page_count = 1000000").fetchall()
    assert store.commit(large) == []
    assert store.read([b"a"]) == [record(None, events(1, 1, 2), 2)]
    store.close()


def test_a_file_that_cannot_grow_is_an_error_and_nothing_is_lost(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "items.db")
    store.commit([change(b"a", 0, events(1, 1))])
    size = (tmp_path / "items.db-wal").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    large = [change(b"b", 0, events(1, 1, data=b"x" * 100_000))]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 8192, hard))
    try:
        with pytest.raises(errors.StoreError, match="Nothing of this call was written"):
            store.commit(large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.read([b"a", b"b"]) == [record(None, events(1, 1), 1), None]
    assert store.commit(large) == []
    store.close()


def test_a_read_only_database_is_an_error(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "items.db")
    store.commit([change(b"a", 0, events(1, 1))])
    store._db.execute("PRAGMA query_only = 1")
    with pytest.raises(errors.StoreError, match=r"ReadOnly.*Nothing of this call was written"):
        store.commit([change(b"a", 1, events(2, 2))])
    store._db.execute("PRAGMA query_only = 0")
    assert store.commit([change(b"a", 1, events(2, 2))]) == []
    store.close()
    with pytest.raises(errors.StoreError, match="cannot be opened"):
        SQLiteStore("/proc/items.db")
    with pytest.raises(errors.StoreError, match="cannot be opened"):
        SQLiteStore(tmp_path / "no folder" / "items.db")


@pytest.mark.parametrize("version", ["3.51.2", "3.9.0"])
def test_an_old_sqlite_is_refused(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: version)
    with pytest.raises(errors.StoreError, match=rf"3\.51\.3 or later, received {version}.*commits"):
        SQLiteStore(tmp_path / "items.db")
    assert list(tmp_path.iterdir()) == []


def test_another_file_is_refused_and_unchanged(tmp_path: Path) -> None:
    text, other = tmp_path / "text.db", tmp_path / "other.db"
    text.write_bytes(b"not a database, but long enough to be one" * 100)
    with apsw.Connection(str(other)) as db:
        db.execute("CREATE TABLE meta(name, value)")
    db.close()
    for path, message in ((text, "file of sessions"), (other, "another database")):
        before = path.read_bytes()
        with pytest.raises(errors.StoreError, match=message):
            SQLiteStore(path)
        assert path.read_bytes() == before


def test_the_log_is_copied_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_PAGES", 20)
    store = SQLiteStore(tmp_path / "items.db")
    for i in range(300):
        store.commit([change(b"a", i, events(i + 1, i, data=b"x" * 2000))])
    log = (tmp_path / "items.db-wal").stat().st_size
    assert log < 2_000_000  # without copies it has over 4,000,000 bytes
    (found,) = store.read([b"a"])
    assert found is not None
    assert found.version.seq == len(found.events) == 300
    store.close()
    assert not (tmp_path / "items.db-wal").exists()
