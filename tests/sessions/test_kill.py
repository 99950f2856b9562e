"""A process that is killed at any moment loses nothing that it acknowledged."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from statecast.forecast.forecaster import Forecaster
from statecast.sessions import Sessions
from statecast.state import State

# Each item counts its steps up. A value says which item and step it is of, so that a value of
# another item or step would be found. A line is printed when a call was acknowledged.
CHILD = """
import random, sys, threading
from statecast.forecast.forecaster import Forecaster
from statecast.sessions import Sessions, sqlite
sqlite._PAGES = 20  # so that kills meet the copy of the log
f, path, seed = Forecaster.load(sys.argv[1]), sys.argv[2], int(sys.argv[3])
sessions = Sessions(f, path, cached=4)
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
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import numpy as np

    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    y = 50 + np.random.default_rng(0).normal(size=(40, 8)).cumsum(axis=1)
    Forecaster(units=4, ensemble=2, epochs=1).fit(y, verbose=0).save(path)
    return path


def killed(model: Path, store: Path, seed: int, seconds: float) -> list[str]:
    """What a child acknowledged until it was killed, some time after its first answer."""
    command = [sys.executable, "-c", CHILD, str(model), str(store), str(seed)]
    wrong = store.with_suffix(".txt")
    with (
        wrong.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as child,
    ):
        assert child.stdout is not None
        first = child.stdout.readline()
        time.sleep(seconds)
        child.kill()
        lines = (first + child.stdout.read()).split("\n")
    assert child.returncode == -signal.SIGKILL, wrong.read_text()
    return [each for line in lines[:-1] for each in line.split()]  # the last one may be cut


def check(model: Path, store: Path, acknowledged: dict[str, int]) -> int:
    """Compare a store with what was acknowledged; return how many events it has."""
    f, count = Forecaster.load(model), 0
    with Sessions(f, store) as sessions:
        for item in sessions.items():
            journal = sessions.history(item).drop_nulls("ds")
            steps, values = journal["ds"].to_list(), journal["y"].to_list()
            assert steps == list(range(1, len(steps) + 1))
            assert values == [50 + 0.001 * step + int(item[-1]) for step in steps]
            assert len(steps) >= acknowledged.get(item, 0), f"{item}: an event was lost"
            series, static, _ = sessions.tables(item)
            if series is not None:
                expected = f.state(series, static)
                assert sessions.state(item) == State(expected.leaves, [item])
            count += len(steps)
        assert set(acknowledged) <= set(sessions.items())
    return count


def kills(number: int, model: Path, folder: Path, seed: int) -> None:
    rng, store = random.Random(seed), folder / "items.db"
    acknowledged: dict[str, int] = {}
    for each in range(number):
        for line in killed(model, store, 1000 * seed + each, rng.random() * 0.3):
            item, _, step = line.rpartition(":")
            assert int(step) == acknowledged.get(item, 0) + 1
            acknowledged[item] = int(step)
        with Sessions(Forecaster.load(model), store) as sessions:
            assert set(acknowledged) <= set(sessions.items())
            for item in sessions.items():
                steps = sessions.history(item)["ds"].drop_nulls().to_list()
                assert steps == list(range(1, len(steps) + 1))
                assert len(steps) >= acknowledged.get(item, 0), f"{item}: an event was lost"
                acknowledged[item] = len(steps)  # those too whose answer was not heard
    assert check(model, store, acknowledged) >= sum(acknowledged.values()) > number


def test_a_killed_process_loses_no_acknowledged_event(model: Path, tmp_path: Path) -> None:
    kills(10, model, tmp_path, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_many_kills_lose_no_acknowledged_event(seed: int, model: Path, tmp_path: Path) -> None:
    kills(50, model, tmp_path, seed)
