"""The laws of a store, for every store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from journals import change, events, record, version
from redis_server import server
from statecast import errors
from statecast.sessions import (
    Change,
    Event,
    Record,
    RedisStore,
    Snapshot,
    SQLiteStore,
    Store,
    Version,
)

# A new store is added here, and must obey all laws below.
STORES: dict[str, Callable[[Path], Store]] = {
    "sqlite": lambda folder: SQLiteStore(folder / "items.db"),
    "sqlite relaxed": lambda folder: SQLiteStore(folder / "items.db", "relaxed"),
    "redis": lambda folder: RedisStore(server().url(str(folder))),
    "redis relaxed": lambda folder: RedisStore(server().url(str(folder)), "relaxed"),
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


def test_what_is_committed_is_read_and_survives(made: Made) -> None:
    store = made()
    assert store.read([b"a"]) == [None]
    assert store.commit([change(b"a", 0, events(1, None, 3)), change(b"b", 0, events(1, 1))]) == []
    assert store.commit([change(b"a", 2, events(3, -5, 2**62))]) == []
    for _ in range(2):
        first, second, third = store.read([b"b", b"c", b"a"])
        assert first == record(None, events(1, 1), 1)
        assert second is None
        assert third == record(None, events(1, None, 3, -5, 2**62), 4)
        assert store.count() == 2
        store = made()


def test_a_change_that_expects_another_number_writes_nothing(made: Made) -> None:
    store = made()
    store.commit([change(b"a", 0, events(1, 1, 2))])
    before = store.read([b"a", b"b"], whole=True)
    for expected in (0, 1, 3):
        wrong = change(b"a", expected, events(expected + 1, 9), Snapshot(9, 9, b"s"))
        assert store.commit([change(b"b", 0, events(1, 1)), wrong]) == [1]
        assert store.read([b"a", b"b"], whole=True) == before
    assert store.commit([change(b"b", 4, events(5, 1)), change(b"a", 2, events(3, 4))]) == [0]
    assert made().read([b"a", b"b"], whole=True) == before
    assert made().commit([change(b"a", 2, events(3, 4))]) == []


def test_with_a_snapshot_only_the_rest_is_read(made: Made) -> None:
    store = made()
    store.commit([change(b"a", 0, events(1, None, 1, 7, 2), Snapshot(4, 2, b"state"))])
    store.commit([change(b"a", 4, events(5, 3, 0))])
    every = events(1, None, 1, 7, 2, 3, 0)
    for _ in range(2):
        (found,) = store.read([b"a"])
        assert found == record(Snapshot(4, 2, b"state"), [every[i] for i in (0, 2, 4, 5)], 6)
        (whole,) = store.read([b"a"], whole=True)
        assert whole == record(Snapshot(4, 2, b"state"), every, 6)
        store = made()
    store.commit([change(b"a", 6, events(7, 9), Snapshot(7, 9, b"later"))])
    assert store.read([b"a"]) == [record(Snapshot(7, 9, b"later"), every[:1], 7)]
    store.commit([change(b"a", 7, events(8, 1), "drop")])
    assert store.read([b"a"]) == [record(None, [*every, *events(7, 9, 1)], 8)]


def test_what_is_deleted_is_gone_and_can_begin_again(made: Made) -> None:
    store = made()
    store.commit(
        [change(b"a", 0, events(1, 1), Snapshot(1, 1, b"s")), change(b"b", 0, events(1, 1))]
    )
    assert store.delete({b"a": None, b"never": None}) == 1
    assert store.read([b"a"]) == [None]
    assert store.commit([change(b"a", 1, events(2, 1))]) == [0]
    assert store.commit([change(b"a", 0, events(1, 5))]) == []
    found = made().read([b"a", b"b"])
    assert found == [record(None, events(1, at), 1) for at in (5, 1)]


def test_ids_come_in_parts_and_idle_ones_are_found(made: Made) -> None:
    store = made()
    names = [bytes([i]) for i in (3, 200, 1, 70)]
    last = {name: Version(1, i) for i, name in enumerate(names)}
    for name in names:
        store.commit([Change(name, Version(), [Event(*last[name], None, b"")])])
    store.commit([Change(names[0], last[names[0]], [Event(2, 50, None, b"")])])
    last[names[0]] = Version(2, 50)
    assert store.ids() == sorted(names)
    assert store.ids(bytes([3]), 1) == [bytes([70])]
    assert store.ids(bytes([200])) == []
    for before, after, most in ((3, b"", 9), (3, bytes([1]), 9), (51, b"", 3), (51, names[0], 1)):
        own = [name for name in sorted(names) if name > after and last[name].time < before]
        found = store.idle(before, after, most)
        assert (found, list(found)) == ({name: last[name] for name in own[:most]}, own[:most])


def test_texts_by_name_are_kept(made: Made) -> None:
    store = made()
    assert store.meta() == {}
    store.set_meta({"a": "1", "b": "é"})
    store.set_meta({"b": "2"})
    assert made().meta() == {"a": "1", "b": "2"}


def test_snapshots_are_removed_with_a_text(made: Made) -> None:
    store = made()
    store.commit([change(b"a", 0, events(1, 1), Snapshot(1, 1, b"s"))])
    assert store.read([b"a"])[0] == record(Snapshot(1, 1, b"s"), [], 1)
    store.set_meta({"a": "2"})
    for _ in range(2):
        assert store.read([b"a"])[0] == record(None, events(1, 1), 1)
        assert store.meta() == {"a": "2"}
        store = made()


def test_a_closed_store_is_refused(made: Made) -> None:
    store = made()
    store.close()
    store.close()
    for call in (lambda: store.read([b"a"]), store.meta, lambda: store.commit([]), store.count):
        with pytest.raises(errors.StoreError, match="closed"):
            call()


def test_an_item_that_was_made_again_has_another_version(made: Made) -> None:
    store = made()
    store.commit([change(b"a", 0, events(1, 1, 2))])
    again = [Event(1, 30, None, b"y"), Event(2, 40, 2, b"y")]
    assert store.delete({b"a": None}) == 1
    assert store.commit([Change(b"a", Version(), again)]) == []
    for _ in range(2):
        assert store.commit([change(b"a", 2, events(3, 1))]) == [0]
        assert store.delete({b"a": version(2)}) is None
        assert store.read([b"a"])[0] == Record(None, again, Version(2, 40))
        store = made()


def test_only_items_of_the_expected_versions_are_deleted(made: Made) -> None:
    store = made()
    store.commit([change(b"a", 0, events(1, 1)), change(b"b", 0, events(1, 1, 2))])
    wrong: list[dict[bytes, Version | None]] = [
        {b"a": version(1), b"b": version(1)},
        {b"b": None, b"a": Version(1, 11)},
        {b"a": Version()},
        {b"a": None, b"c": version(1)},
    ]
    for items in wrong:
        assert store.delete(items) is None
        assert store.count() == 2
    assert store.delete({b"a": version(1), b"c": Version(), b"b": None}) == 2
    assert store.ids() == []
    assert store.delete({}) == 0


def test_the_latest_time_is_known_after_all_is_deleted(made: Made) -> None:
    store = made()
    assert store.latest == 0
    for seq, (item, moment) in enumerate([(b"a", 7), (b"b", 2**52), (b"c", 9)]):
        store.commit([Change(item, Version(), [Event(1, moment, None, b"")])])
        assert store.latest == (7, 2**52, 2**52)[seq]
    store.delete(dict.fromkeys([b"a", b"b", b"c"]))
    assert made().latest == 2**52


def test_a_watch_notes_what_changes(made: Made) -> None:
    store = made()
    store.commit([change(each, 0, events(1, 1)) for each in (b"a", b"b", b"c")])
    store.watch()
    with pytest.raises(errors.StoreError, match="one migration at a time"):
        store.watch()
    assert store.watched() == []
    store.commit([change(b"b", 1, events(2, 1)), change(b"d", 0, events(1, 1))])
    store.commit([change(b"b", 2, events(3, 1))])
    store.commit([change(b"a", 0, events(1, 1)), change(b"e", 0, events(1, 1))])  # not written
    assert sorted(store.watched()) == [b"b", b"d"]
    store.commit([change(b"c", 1, events(2, 1))])
    assert store.watched(last=True) == [b"c"]
    store.set_meta({"a": "1"})
    store.watch()
    assert store.watched() == []
    store.unwatch()
    store.unwatch()
    store.commit([change(b"c", 2, events(3, 1))])
    store.watch()
    assert store.watched() == []


@pytest.mark.parametrize("name", STORES)
@settings(max_examples=examples(24))
@given(data=st.data())
def test_a_store_is_a_dictionary_of_journals(
    name: str, data: st.DataObject, tmp_path_factory: Any
) -> None:
    folder, journals = tmp_path_factory.mktemp("store"), dict[bytes, list[Event]]()
    store = STORES[name](folder)
    try:
        for _ in range(data.draw(st.integers(1, 12))):
            ids = data.draw(st.lists(st.sampled_from([b"a", b"b", b"c"]), unique=True, max_size=3))
            act = data.draw(st.sampled_from(["commit", "commit", "delete", "reopen"]))
            if act == "delete":
                assert store.delete(dict.fromkeys(ids)) == sum(
                    journals.pop(each, None) is not None for each in ids
                )
            elif act == "reopen":
                store.close()
                store = STORES[name](folder)
            else:
                off = {each: data.draw(st.sampled_from([0, 0, 0, 1])) for each in ids}
                have = {each: len(journals.get(each, [])) for each in ids}
                changes = [
                    change(each, have[each] + off[each], events(have[each] + off[each] + 1, 1, 2))
                    for each in ids
                ]
                wrong = [i for i, each in enumerate(ids) if off[each]]
                assert store.commit(changes) == wrong
                if not wrong:
                    for own in changes:
                        journals.setdefault(own.id, []).extend(own.events)
            for each in (b"a", b"b", b"c"):
                (found,) = store.read([each])
                assert (found.events if found else None) == journals.get(each)
    finally:
        store.close()
