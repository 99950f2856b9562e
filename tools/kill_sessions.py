"""Kill processes that observe, thousands of times: nothing acknowledged is lost, torn or crossed.

    python tools/kill_sessions.py                                  # 1,000 kills, 10 million rows
    python tools/kill_sessions.py --kills 50 --rows 500000
    python tools/kill_sessions.py --store 'redis://localhost/0?prefix=kills'

A child observes blocks of 1,000 items, one step further in each call, and reports each call that
returned. It is killed while it opens the store, while it observes, or while it migrates to another
model and observes. A value says which item and step it is of. After each kill the block that was in
work, and others, are compared with what was reported:

- lost: a block has fewer steps than were reported;
- torn: the items of a block have different numbers of steps, or a journal has a gap;
- crossed: a value is that of another item or step.

At the end, or after Ctrl-C, all journals are compared, and the states of some items with those of
one run. Progress is printed, and written to ``report.json`` in ``--out``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import shutil
import signal
import struct
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")  # it compiles nothing

import numpy as np

from statecast import Forecaster, Sessions, StoreError
from statecast.files import id_of
from statecast.sessions import RedisStore, SQLiteStore, redis

BLOCK = 1_000  # items that are observed together, in one transaction
_CALL = struct.Struct("<ii")  # a report: the block and its step


def value(item: int, step: int) -> float:
    """What is observed of an item at a step."""
    return 50.0 + step / 1024 + item / 2**32


def forked(work: Callable[[int], None]) -> tuple[int, int]:
    """Start a child that does some work; return its process and the pipe of its reports."""
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        return child, read
    os.close(read)
    try:
        work(write)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


class Run:
    """The models, the store, and how many steps of each block were reported or found."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.rng, self.blocks = random.Random(given.seed), given.blocks
        self.steps = [0] * given.blocks
        self.store, self.out = given.store or str(given.out / "items.db"), given.out
        self.models = [Forecaster.load(given.out / f"model-{i}.safetensors") for i in range(2)]
        self.counts: Counter[str] = Counter(kills=0, rows=0, lost=0, torn=0, crossed=0)

    def opened(self) -> Sessions:
        """The sessions, with that model which the store is of."""
        try:
            return Sessions(self.models[0], self.store, cached=5 * BLOCK)
        except StoreError:
            return Sessions(self.models[1], self.store, cached=5 * BLOCK)

    def observe(self, seed: int, migrating: bool, report: int) -> None:
        """The work of a child, until it is killed."""
        rng, sessions = random.Random(seed), self.opened()
        os.write(report, _CALL.pack(-1, 0))
        if migrating:
            other = self.models[sessions.model.fingerprint == self.models[0].fingerprint]
            threading.Thread(target=sessions.migrate, args=(other,), daemon=True).start()
        while True:
            block = rng.randrange(self.blocks)
            items = np.arange(block * BLOCK, (block + 1) * BLOCK)
            step = self.steps[block] + 1
            values = [value(item, step) for item in items.tolist()]
            sessions.observe_batch(items, np.full(BLOCK, step), values)
            os.write(report, _CALL.pack(block, step))
            self.steps[block] = step

    def kill(self) -> None:
        """One life of a child, and the comparison after it."""
        rng, chance = self.rng, self.rng.random()
        kind = "opening" if chance < 0.15 else "migrating" if chance < 0.35 else "observing"
        seed, calls = rng.randrange(2**32), 0 if kind == "opening" else rng.randint(1, 24)
        child, pipe = forked(lambda report: self.observe(seed, kind == "migrating", report))
        found, reports = b"", -1 if kind == "opening" else calls
        while len(found) // _CALL.size <= reports:
            part = os.read(pipe, 65_536)
            if not part:
                break
            found += part
        time.sleep(rng.random() * 0.03)
        os.kill(child, signal.SIGKILL)
        while select.select([pipe], [], [])[0] and (part := os.read(pipe, 65_536)):
            found += part
        os.close(pipe)
        if os.waitpid(child, 0)[1] != signal.SIGKILL:
            raise SystemExit("The child ended by itself; its error is above.")
        touched = []
        for block, step in _CALL.iter_unpack(found[: len(found) // _CALL.size * _CALL.size]):
            if block >= 0:
                assert step == self.steps[block] + 1
                self.steps[block], self.counts["rows"] = step, self.counts["rows"] + BLOCK
                touched.append(block)
        # The block that was in work follows from the seed.
        order = random.Random(seed)
        last = [order.randrange(self.blocks) for _ in range(len(touched) + 1)][-1]
        self.compare({last, *rng.sample(touched, min(2, len(touched)))}, last)
        self.counts["kills"] += 1
        self.counts[f"while {kind}"] += 1
        self.save()

    def compare(self, blocks: set[int], last: int | None, states: int = 0) -> None:
        """Compare journals with what was reported, in a child: SQLite does not survive a fork."""

        def work(report: int) -> None:
            counts: Counter[str] = Counter()
            kind = RedisStore if self.store.startswith(redis.SCHEMES) else SQLiteStore
            store, steps = kind(self.store), {}
            keys = _keys(self.models[0], blocks)
            for block, own in keys.items():
                records = store.read(own, whole=True)
                every = [[] if r is None else r.events for r in records]
                journals = [[e for e in events if e.at is not None] for events in every]
                steps[block] = min(map(len, journals))
                known = self.steps[block]
                counts["lost"] += sum(max(0, known - len(journal)) for journal in journals)
                most = known + (block == last)
                for key, journal in zip(own, journals, strict=True):
                    item = int(id_of(key))
                    at = [event.at for event in journal]
                    whole = len(at) == steps[block] <= most and at == list(range(1, len(at) + 1))
                    counts["torn"] += not whole
                    for event in journal:
                        (y,) = struct.unpack("<d", event.data[1:9])
                        counts["crossed"] += y != value(item, int(event.at or 0))
            if isinstance(store, SQLiteStore) and not self.counts["kills"] % 100:
                counts["torn"] += store._db.execute("PRAGMA integrity_check").get != "ok"
            store.close()
            counts["torn"] += self._wrong_states(random.Random(0), states) if states else 0
            os.write(report, json.dumps([counts, steps]).encode())

        child, pipe = forked(work)
        with open(pipe, "rb") as file:
            text = file.read()
        if os.waitpid(child, 0)[1]:
            raise SystemExit("The comparison failed; its error is above.")
        counts, steps = json.loads(text)
        self.counts.update(counts)
        for block, step in steps.items():  # those too whose report was not heard
            self.steps[int(block)] = step

    def _wrong_states(self, rng: random.Random, number: int) -> int:
        """How many of some items have another state than one run gives."""
        wrong = 0
        with self.opened() as sessions:
            for item in rng.sample(range(self.blocks * BLOCK), number):
                steps = self.steps[item // BLOCK]
                if not steps:
                    continue
                y = np.array([[value(item, step) for step in range(1, steps + 1)]])
                found, expected = sessions.state(item), sessions.model.state(y)
                wrong += any(found[n].tobytes() != expected[n].tobytes() for n in expected)
        return wrong

    def save(self) -> None:
        text = json.dumps({**self.counts, "store": self.store}, indent=1)
        (self.out / "report.json").write_text(text, encoding="utf-8")


def _keys(model: Forecaster, blocks: set[int]) -> dict[int, list[bytes]]:
    """The keys of the items of blocks."""
    from statecast.sessions.replay import Replay

    cells = Replay(model).cells
    return {
        block: cells.keys(list(range(block * BLOCK, (block + 1) * BLOCK)))[0] for block in blocks
    }


def fit(folder: Path) -> None:
    """Fit two models. In a child, so that this process has no threads when it forks."""

    def work(_: int) -> None:
        rng = np.random.default_rng(0)
        y = 50 + rng.normal(size=(40, 64)).cumsum(axis=1)
        for seed in range(2):
            f = Forecaster(units=2, ensemble=1, epochs=1, analogues=False, seed=seed)
            f.fit(y, verbose=0).save(folder / f"model-{seed}.safetensors")

    child, _ = forked(work)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("The models cannot be fitted.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--kills", type=int, default=1_000)
    parser.add_argument("--rows", type=int, default=10_000_000, help="acknowledged, at least")
    parser.add_argument("--blocks", type=int, default=250, help="of 1,000 items")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", help="a file or a URL; default: a new file in --out")
    parser.add_argument("--out", type=Path, default=Path("build/kills"))
    given: Any = parser.parse_args()
    warnings.simplefilter("ignore")
    shutil.rmtree(given.out, ignore_errors=True)
    given.out.mkdir(parents=True)
    fit(given.out)
    run, begin, ended = Run(given), time.monotonic(), threading.Event()
    signal.signal(signal.SIGINT, lambda *_: ended.set())
    while run.counts["kills"] < given.kills or run.counts["rows"] < given.rows:
        run.kill()
        if run.counts["kills"] % 10 == 0:
            seconds = time.monotonic() - begin
            print(f"{seconds:,.0f} s: {dict(run.counts)}", flush=True)
        if ended.is_set() or any(run.counts[name] for name in ("lost", "torn", "crossed")):
            break
    run.compare(set(range(run.blocks)), None, states=100)
    run.save()
    print(dict(run.counts))
    sys.exit(any(run.counts[name] for name in ("lost", "torn", "crossed")))


if __name__ == "__main__":
    main()
