"""The laws of a store, for every store; and what is special about a file of SQLite."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from statecast import errors
from statecast.sessions import Change, Event, Record, Snapshot, SQLiteStore, Store
from statecast.sessions import store as stores

# A new store is added here, and must obey all laws below.
STORES: dict[str, Callable[[Path], Store]] = {
    "sqlite": lambda folder: SQLiteStore(folder / "items.db"),
    "relaxed": lambda folder: SQLiteStore(folder / "items.db", "relaxed"),
}
Made = Callable[[], Store]


@pytest.fixture(params=list(STORES))
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Opens a store; each call opens what the one before it has closed."""
    opened: list[Store] = []

    def make() -> Store:
        for store in opened:
            store.close()
        opened.append(STORES[request.param](tmp_path))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


def events(first: int, *ats: int | None, data: bytes = b"x") -> list[Event]:
    return [Event(first + i, 10 * (first + i), at, data) for i, at in enumerate(ats)]


# -- every store --------------------------------------------------------------------------------


def test_what_is_committed_is_read_and_survives(made: Made) -> None:
    store = made()
    assert store.read([b"a"]) == [None]
    assert store.commit([Change(b"a", 0, events(1, None, 3)), Change(b"b", 0, events(1, 1))]) == []
    assert store.commit([Change(b"a", 2, events(3, -5, 2**62))]) == []
    for _ in range(2):
        first, second, third = store.read([b"b", b"c", b"a"])
        assert first == Record(None, events(1, 1), 1, 10)
        assert second is None
        assert third == Record(None, events(1, None, 3, -5, 2**62), 4, 40)
        assert store.count() == 2
        store = made()


def test_a_change_that_expects_another_number_writes_nothing(made: Made) -> None:
    store = made()
    store.commit([Change(b"a", 0, events(1, 1, 2))])
    before = store.read([b"a", b"b"], whole=True)
    for expected in (0, 1, 3):
        wrong = Change(b"a", expected, events(expected + 1, 9), Snapshot(9, 9, b"s"))
        assert store.commit([Change(b"b", 0, events(1, 1)), wrong]) == [1]
        assert store.read([b"a", b"b"], whole=True) == before
    assert store.commit([Change(b"b", 4, events(5, 1)), Change(b"a", 2, events(3, 4))]) == [0]
    assert made().read([b"a", b"b"], whole=True) == before
    assert made().commit([Change(b"a", 2, events(3, 4))]) == []


def test_with_a_snapshot_only_the_rest_is_read(made: Made) -> None:
    store = made()
    store.commit([Change(b"a", 0, events(1, None, 1, 7, 2), Snapshot(4, 2, b"state"))])
    store.commit([Change(b"a", 4, events(5, 3, 0))])
    every = events(1, None, 1, 7, 2, 3, 0)
    for _ in range(2):
        (found,) = store.read([b"a"])
        assert found == Record(Snapshot(4, 2, b"state"), [every[i] for i in (0, 2, 4, 5)], 6, 60)
        (whole,) = store.read([b"a"], whole=True)
        assert whole == Record(Snapshot(4, 2, b"state"), every, 6, 60)
        store = made()
    store.commit([Change(b"a", 6, events(7, 9), Snapshot(7, 9, b"later"))])
    assert store.read([b"a"]) == [Record(Snapshot(7, 9, b"later"), every[:1], 7, 70)]
    store.commit([Change(b"a", 7, events(8, 1), "drop")])
    assert store.read([b"a"]) == [Record(None, [*every, *events(7, 9, 1)], 8, 80)]


def test_what_is_deleted_is_gone_and_can_begin_again(made: Made) -> None:
    store = made()
    store.commit(
        [Change(b"a", 0, events(1, 1), Snapshot(1, 1, b"s")), Change(b"b", 0, events(1, 1))]
    )
    assert store.delete([b"a", b"never"]) == 1
    assert store.read([b"a"]) == [None]
    assert store.commit([Change(b"a", 1, events(2, 1))]) == [0]
    assert store.commit([Change(b"a", 0, events(1, 5))]) == []
    found = made().read([b"a", b"b"])
    assert found == [Record(None, events(1, at), 1, 10) for at in (5, 1)]


def test_ids_come_in_parts_and_idle_ones_are_found(made: Made) -> None:
    store = made()
    names = [bytes([i]) for i in (3, 200, 1, 70)]
    store.commit([Change(name, 0, [Event(1, i, None, b"")]) for i, name in enumerate(names)])
    store.commit([Change(names[0], 1, [Event(2, 50, None, b"")])])
    assert store.ids() == sorted(names)
    assert store.ids(bytes([3]), 1) == [bytes([70])]
    assert store.ids(bytes([200])) == []
    assert store.idle(3) == [bytes([1]), bytes([200])]
    assert store.idle(3, bytes([1])) == [bytes([200])]
    assert store.idle(51, most=3) == sorted(names)[:3]


def test_texts_by_name_are_kept(made: Made) -> None:
    store = made()
    assert store.meta() == {}
    store.set_meta({"a": "1", "b": "é"})
    store.set_meta({"b": "2"})
    assert made().meta() == {"a": "1", "b": "2"}


def test_snapshots_are_forgotten_with_a_text(made: Made) -> None:
    store = made()
    store.commit([Change(b"a", 0, events(1, 1), Snapshot(1, 1, b"s"))])
    store.set_meta({"a": "1"})
    assert store.read([b"a"])[0] == Record(Snapshot(1, 1, b"s"), [], 1, 10)
    store.set_meta({"a": "2"}, forget=True)
    for _ in range(2):
        assert store.read([b"a"])[0] == Record(None, events(1, 1), 1, 10)
        assert store.meta() == {"a": "2"}
        store = made()


def test_a_closed_store_is_refused(made: Made) -> None:
    store = made()
    store.close()
    store.close()
    for call in (lambda: store.read([b"a"]), store.meta, lambda: store.commit([]), store.count):
        with pytest.raises(errors.StoreError, match="closed"):
            call()


@settings(max_examples=examples(60))
@given(data=st.data())
def test_a_store_is_a_dictionary_of_journals(data: st.DataObject, tmp_path_factory: Any) -> None:
    name = data.draw(st.sampled_from(list(STORES)))
    folder, journals = tmp_path_factory.mktemp("store"), dict[bytes, list[Event]]()
    store = STORES[name](folder)
    try:
        for _ in range(data.draw(st.integers(1, 12))):
            ids = data.draw(st.lists(st.sampled_from([b"a", b"b", b"c"]), unique=True, max_size=3))
            act = data.draw(st.sampled_from(["commit", "commit", "delete", "reopen"]))
            if act == "delete":
                assert store.delete(ids) == sum(
                    journals.pop(each, None) is not None for each in ids
                )
            elif act == "reopen":
                store.close()
                store = STORES[name](folder)
            else:
                off = {each: data.draw(st.sampled_from([0, 0, 0, 1])) for each in ids}
                have = {each: len(journals.get(each, [])) for each in ids}
                changes = [
                    Change(each, have[each] + off[each], events(have[each] + off[each] + 1, 1, 2))
                    for each in ids
                ]
                wrong = [i for i, each in enumerate(ids) if off[each]]
                assert store.commit(changes) == wrong
                if not wrong:
                    for change in changes:
                        journals.setdefault(change.id, []).extend(change.events)
            for each in (b"a", b"b", b"c"):
                (found,) = store.read([each])
                assert (found.events if found else None) == journals.get(each)
    finally:
        store.close()


# -- a file of SQLite ------------------------------------------------------------------------------


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
    store.commit([Change(b"a", 0, events(1, 1))])
    found = other()
    assert found.startswith("StoreError")
    assert "another process" in found
    with pytest.raises(errors.StoreError, match="another object of this one"):
        SQLiteStore(path)
    store.commit([Change(b"a", 1, events(2, 2))])
    assert store.read([b"a"]) == [Record(None, events(1, 1, 2), 2, 20)]
    store.close()
    assert other() == "opened\n"


def test_a_full_disk_is_an_error_and_nothing_is_lost(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "items.db")
    store.commit([Change(b"a", 0, events(1, 1))])
    pages = store._db.execute("PRAGMA page_count").get
    store._db.execute(f"PRAGMA max_page_count = {pages}").fetchall()
    large = [Change(b"b", 0, events(1, 1, data=b"x" * 100_000)), Change(b"a", 1, events(2, 2))]
    with pytest.raises(errors.StoreError, match="disk is full"):
        store.commit(large)
    assert store.read([b"a", b"b"]) == [Record(None, events(1, 1), 1, 10), None]
    store._db.execute("PRAGMA max_page_count = 1000000").fetchall()
    assert store.commit(large) == []
    assert store.read([b"a"]) == [Record(None, events(1, 1, 2), 2, 20)]
    store.close()


def test_a_file_that_cannot_grow_is_an_error_and_nothing_is_lost(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "items.db")
    store.commit([Change(b"a", 0, events(1, 1))])
    size = (tmp_path / "items.db-wal").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    large = [Change(b"b", 0, events(1, 1, data=b"x" * 100_000))]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 8192, hard))
    try:
        with pytest.raises(errors.StoreError, match="Nothing of this call was written"):
            store.commit(large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.read([b"a", b"b"]) == [Record(None, events(1, 1), 1, 10), None]
    assert store.commit(large) == []
    store.close()


def test_a_read_only_database_is_an_error(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "items.db")
    store.commit([Change(b"a", 0, events(1, 1))])
    store._db.execute("PRAGMA query_only = 1")
    with pytest.raises(errors.StoreError, match=r"ReadOnly.*Nothing of this call was written"):
        store.commit([Change(b"a", 1, events(2, 2))])
    store._db.execute("PRAGMA query_only = 0")
    assert store.commit([Change(b"a", 1, events(2, 2))]) == []
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
    monkeypatch.setattr(stores, "_PAGES", 20)
    store = SQLiteStore(tmp_path / "items.db")
    for i in range(300):
        store.commit([Change(b"a", i, events(i + 1, i, data=b"x" * 2000))])
    log = (tmp_path / "items.db-wal").stat().st_size
    assert log < 2_000_000  # without copies it has over 4,000,000 bytes
    (found,) = store.read([b"a"])
    assert found is not None
    assert found.seq == len(found.events) == 300
    store.close()
    assert not (tmp_path / "items.db-wal").exists()
