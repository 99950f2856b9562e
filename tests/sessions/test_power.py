"""Power cuts and failing disks: nothing that was acknowledged is lost, and nothing is torn."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from effort import EVERYTHING
from journals import change, events, version
from power import Disk
from statecast import errors
from statecast.sessions import Snapshot, SQLiteStore, sqlite

ITEMS = [bytes([letter]) for letter in b"abcde"]
Content = tuple[dict[bytes, Any], dict[str, str]]  # of a store: the journals, and the texts


def content(store: SQLiteStore) -> Content:
    records = zip(ITEMS, store.read(ITEMS, whole=True), strict=True)
    return {item: (r.events, r.snapshot) for item, r in records if r is not None}, store.meta()


class Load:
    """Random calls of a store, and what it has after each of them."""

    def __init__(self, path: Path, durability: Any, seed: int, synchronous: str = "") -> None:
        self.path, self.durability, self.synchronous = path, durability, synchronous
        self.rng = random.Random(seed)
        self.open()
        self.after: list[Content] = [content(self.store)]

    def open(self) -> None:
        self.store = SQLiteStore(self.path, self.durability)
        if self.synchronous:
            self.store._db.execute(f"PRAGMA synchronous = {self.synchronous}").fetchall()

    def call(self) -> None:
        """One call. ``after`` has its result as soon as it is acknowledged."""
        rng, (journals, texts) = self.rng, self.after[-1]
        journals, chance = dict(journals), rng.random()
        if chance < 0.8:
            changes = []
            for item in rng.sample(ITEMS, rng.randint(1, 3)):
                before, snapshot = journals.get(item, ([], None))
                data = rng.randbytes(rng.choice([1, 30, 300, 3000]))
                new = events(len(before) + 1, *range(rng.randint(1, 3)), data=data)
                act: Any = rng.choice(["keep", "drop", Snapshot(len(before), 1, data)])
                changes.append(change(item, len(before), new, act))
                snapshot = {"keep": snapshot, "drop": None}.get(act, act)
                journals[item] = before + new, snapshot
            assert self.store.commit(changes) == []
        elif chance < 0.88:
            item = rng.choice(ITEMS)
            there = journals.pop(item, None) is not None
            assert self.store.delete({item: None}) == there
        elif chance < 0.94:  # as a migration does
            texts = {"model": str(len(self.after))}
            self.store.set_meta(texts)
            journals = {item: (own, None) for item, (own, _) in journals.items()}
        else:
            self.store.close()
            self.open()
        self.after.append((journals, texts))


def check_whole(path: Path) -> Content:
    """Open what a power cut left, and return what it has; it takes commits again."""
    store = SQLiteStore(path)
    try:
        assert store._db.execute("PRAGMA integrity_check").get == "ok"
        found = content(store)
        journal, _ = found[0].get(b"a", ([], None))
        store.commit([change(b"a", len(journal), events(len(journal) + 1, 1))])
        (record,) = store.read([b"a"])
        assert record is not None
        assert record.version == version(len(journal) + 1)
        return found
    finally:
        store.close()


def images(load: Load, disk: Disk, number: int, seed: int) -> Iterator[tuple[Path, int]]:
    """What power cuts leave at some moments of a load, and how many calls were acknowledged."""
    rng, count, found = random.Random(seed), 0, list[tuple[Path, int]]()
    moments = sorted(rng.sample(range(90 * number), number))

    def before(act: str, name: str) -> None:
        nonlocal count
        count += 1
        if len(found) < number and count > moments[len(found)]:
            image = load.path.parent / f"cut {len(found)}"
            image.mkdir()
            disk.left(rng, image)
            found.append((image, len(load.after) - 1))

    disk.before = before
    while len(found) < number:
        load.call()
    disk.before = None
    load.store.close()
    yield from found


def cuts(number: int, durability: str, folder: Path, seed: int, synchronous: str = "") -> list[int]:
    """How many acknowledged calls each of some power cuts has lost. Nothing is ever torn: the store
    has what it had after some call, or after that in which the power was cut."""
    lost: list[int] = []
    while len(lost) < number:
        own, disk, run = folder / f"{len(lost)}", Disk(), 1000 * seed + len(lost)
        own.mkdir()
        with disk.mounted():
            load = Load(own / "items.db", durability, run, synchronous)
            left = list(images(load, disk, 10, run))
        for image, calls in left:
            found = check_whole(image / "items.db")
            same = [i for i, each in enumerate(load.after[: calls + 2]) if each == found]
            assert same, "the store is torn"
            lost.append(max(0, calls - max(same)))
    return lost


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_PAGES", 20)  # the log is copied often


def test_a_power_cut_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    lost = cuts(200 if EVERYTHING else 40, "full", tmp_path, seed=1)
    assert set(lost) == {0}


def test_with_relaxed_durability_a_power_cut_loses_the_last_calls_only(tmp_path: Path) -> None:
    lost = cuts(200 if EVERYTHING else 40, "relaxed", tmp_path, seed=2)
    assert any(lost)


def test_a_store_that_does_not_sync_is_found(tmp_path: Path) -> None:
    """The file layer finds what is not synced."""
    with pytest.raises((AssertionError, errors.StoreError, apsw.Error)):
        assert not any(cuts(60, "full", tmp_path, seed=3, synchronous="OFF"))


FAULTS = {
    "full": apsw.FullError,
    "read-only": apsw.ReadOnlyError,
    "broken": apsw.IOError,
}


def fault(name: str, at: int, folder: Path, seed: int) -> bool:
    """Let one change of a file fail, and check what the store has then; return whether there were
    so many changes."""
    folder.mkdir()
    disk, count, path = Disk(), 0, folder / "items.db"

    def before(act: str, path: str) -> None:
        nonlocal count
        count += "-lock" not in path
        if count == at and "-lock" not in path:
            raise FAULTS[name]("planted")

    with disk.mounted():
        disk.before = before
        load = opened(path, seed)
        while count < at and len(load.after) < 40:
            message = refused(load)
            assert not message or "this call was written" in message or "are deleted" in message
            if "are deleted" in message:
                load.after.append(content(load.store))
                assert load.after[-1][0].keys() < load.after[-2][0].keys()
        disk.before = None
        for _ in range(3):
            assert content(load.store) == load.after[-1]
            load.call()
        load.store.close()
    assert check_whole(path) == load.after[-1]
    return count >= at


def opened(path: Path, seed: int) -> Load:
    """A load, whose store is opened again if that fails."""
    try:
        return Load(path, "full", seed)
    except errors.StoreError:
        return Load(path, "full", seed)


def refused(load: Load) -> str:
    """The error of one call of a load, if it has one."""
    try:
        load.call()
    except (errors.StoreError, apsw.Error) as error:  # apsw's own only from the end of a connection
        if load.store._closed:  # it could not be opened again
            load.open()
            return ""
        if not isinstance(error, errors.StoreError):
            raise
        return str(error)
    return ""


@pytest.mark.parametrize("name", FAULTS)
def test_a_disk_that_fails_is_an_error_and_the_next_call_works(name: str, tmp_path: Path) -> None:
    """Each change of a file fails once, also in the thread that copies the log."""
    step, at = (7 if EVERYTHING else 40), 1
    while fault(name, at, tmp_path / f"{at}", seed=at % 3):
        at += step if at > 20 else 1
    assert at > 300
