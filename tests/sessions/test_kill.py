"""A process that is killed at any moment loses nothing that it acknowledged."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from statecast import errors
from statecast.forecast.forecaster import Forecaster
from statecast.sessions import Sessions
from statecast.state import State

# Each item counts its steps up. A value says which item and step it is of, so that a value of
# another item or step would be found. A line is printed when a call was acknowledged. The log is
# copied after so many pages: often, or never, so that it is long when the next process opens it.
CHILD = """
import random, sys, threading
from statecast.forecast.forecaster import Forecaster
from statecast.sessions import Sessions, sqlite
models = [Forecaster.load(path) for path in sys.argv[1].split(",")]
path, seed, sqlite._PAGES, migrating = sys.argv[2], *map(int, sys.argv[3:6])
print("opening", flush=True)
try:
    sessions = Sessions(models[0], path, cached=4)
except RuntimeError:
    sessions = Sessions(models[1], path, cached=4)
def migrate():
    while True:
        sessions.migrate(models[sessions.model.fingerprint == models[0].fingerprint])
lock = threading.Lock()
def work(thread):
    rng = random.Random(f"{seed}/{thread}")
    own = [f"{thread}/{i}" for i in range(5)]
    last = {}
    for item in own:
        sessions.observe(item)
        steps = sessions.history(item)["ds"].drop_nulls().to_list()
        last[item] = max(steps, default=0)
    while True:
        items = rng.sample(own, rng.randint(1, 5))
        steps = [last[item] + 1 for item in items]
        values = [50 + 0.001 * step + int(item[-1]) for item, step in zip(items, steps)]
        sessions.observe_batch(items, steps, values)
        for item, step in zip(items, steps):
            last[item] = step
        with lock:
            print(" ".join(f"{item}:{step}" for item, step in zip(items, steps)), flush=True)
threads = [threading.Thread(target=work, args=(thread,)) for thread in range(3)]
if migrating:
    threads.append(threading.Thread(target=migrate))
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    import numpy as np

    folder = tmp_path_factory.mktemp("models")
    y = 50 + np.random.default_rng(0).normal(size=(40, 8)).cumsum(axis=1)
    for seed in range(2):
        f = Forecaster(units=4, ensemble=2, epochs=1, seed=seed).fit(y, verbose=0)
        f.save(folder / f"{seed}.safetensors")
    return sorted(folder.iterdir())


def opened(models: list[Path], store: Path) -> Sessions:
    """The sessions, with that model which the store is of."""
    try:
        return Sessions(Forecaster.load(models[0]), store)
    except errors.StoreError:
        return Sessions(Forecaster.load(models[1]), store)


def killed(models: list[Path], store: Path, seed: int) -> list[str]:
    """What a child acknowledged until it was killed: while it opened the store, or later."""
    rng, both = random.Random(seed), ",".join(map(str, models))
    opening, migrating = rng.random() < 0.2, rng.random() < 0.5
    given = [both, store, seed, rng.choice([20, 10**9]), int(migrating)]
    wrong = store.with_suffix(".txt")
    with (
        wrong.open("w") as told,
        subprocess.Popen(
            [sys.executable, "-c", CHILD, *map(str, given)],
            stdout=subprocess.PIPE,
            stderr=told,
            text=True,
        ) as child,
    ):
        assert child.stdout is not None
        assert child.stdout.readline() == "opening\n"
        first = "" if opening else child.stdout.readline()
        time.sleep(rng.random() * (0.02 if opening else 0.3))
        child.kill()
        lines = (first + child.stdout.read()).split("\n")
    assert child.returncode == -signal.SIGKILL, wrong.read_text()
    return [each for line in lines[:-1] for each in line.split()]  # the last one may be cut


def kills(number: int, models: list[Path], folder: Path, seed: int) -> None:
    rng, store = random.Random(seed), folder / "items.db"
    acknowledged: dict[str, int] = {}
    opened(models, store).close()
    for _ in range(number):
        for line in killed(models, store, rng.randrange(10**9)):
            item, _, step = line.rpartition(":")
            assert int(step) == acknowledged.get(item, 0) + 1
            acknowledged[item] = int(step)
        with opened(models, store) as sessions:
            assert set(acknowledged) <= set(sessions.items())
            for item in sessions.items():
                journal = sessions.history(item).drop_nulls("ds")
                steps, values = journal["ds"].to_list(), journal["y"].to_list()
                assert steps == list(range(1, len(steps) + 1))
                assert values == [50 + 0.001 * step + int(item[-1]) for step in steps]
                assert len(steps) >= acknowledged.get(item, 0), f"{item}: an event was lost"
                acknowledged[item] = len(steps)  # those too whose answer was not heard
    assert sum(acknowledged.values()) > number
    with opened(models, store) as sessions:
        for item in sessions.items():
            series, static, _ = sessions.tables(item)
            if series is not None:
                expected = sessions.model.state(series, static)
                assert sessions.state(item) == State(expected.leaves, [item])


def test_a_killed_process_loses_no_acknowledged_event(models: list[Path], tmp_path: Path) -> None:
    kills(10, models, tmp_path, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_many_kills_lose_no_acknowledged_event(
    seed: int, models: list[Path], tmp_path: Path
) -> None:
    kills(50, models, tmp_path, seed)
