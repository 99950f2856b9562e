"""Members of an ensemble are trained apart: the model depends neither on how many workers there are
nor on which of them trains a member, in which order, and how often one has to start again."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curves import curve_tables
from statecast.distributed.fitting import Job, Report, Schedule, Worker, fit, train_apart
from statecast.errors import ArgumentError, DataError, NotFittedError, WorkerError
from statecast.forecast.forecaster import Forecaster
from statecast.tokens.forecaster import TokenForecaster
from words import word_tables

backends = pytest.mark.backends
slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def few_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs of three updates."""
    for module in ("networks", "tokens"):
        monkeypatch.setattr(f"statecast.{module}.batches.STEPS", 3)


class Here:
    """Workers in this process, which report in random order. Some end before they report."""

    def __init__(self, job: Job, rng: np.random.Generator, deaths: int) -> None:
        self.job, self.rng, self.deaths = job, rng, deaths
        self.workers: list[Worker] = []
        self.given: dict[Worker, tuple[int, int]] = {}

    def add(self) -> None:
        self.workers.append(Worker(self.job))

    def idle(self) -> list[Worker]:
        free = [worker for worker in self.workers if worker not in self.given]
        return [free[at] for at in self.rng.permutation(len(free))]

    def give(self, worker: Worker, member: int, goal: int) -> None:
        self.given[worker] = member, goal

    def ended(self, verbose: Any) -> Iterator[tuple[Worker, Report | BaseException]]:
        worker = list(self.given)[self.rng.integers(len(self.given))]
        found = worker.proceed(*self.given.pop(worker))
        if self.deaths and self.rng.random() < 0.5:
            self.deaths -= 1
            self.workers.remove(worker)
            yield worker, RuntimeError("it has ended")
        else:
            yield worker, found

    def end(self) -> None:
        self.workers.clear()


def fit_apart(model: Any, *tables: Any, workers: int, seed: int = 0, deaths: int = 0) -> Any:
    series, static, future = (*tables, None, None)[:3]
    team = partial(Here, rng=np.random.default_rng(seed), deaths=deaths)
    return model._fit(series, static, future, partial(train_apart, model, team, workers, 0), 0)


def number_tables(targets: int = 1) -> tuple[Any, ...]:
    rng = np.random.default_rng(3)
    shape = (41, 9) if targets == 1 else (41, 5, targets)
    Y = rng.poisson(4, shape).astype(float)
    return Y, rng.normal(size=(41, 3)), rng.normal(size=(41, shape[1], 2))


SMALL: dict[str, Any] = {"units": 5, "ensemble": 4, "epochs": 6, "patience": 1, "seed": 2}
CASES: dict[str, Any] = {
    "lstm": (Forecaster, {"encoding": 4}, curve_tables(41)),
    "tokens": (TokenForecaster, {"embedding": 3, "dropout": 0.3}, word_tables()),
    "covariates": (Forecaster, {"cell": "gru", "conditioning": "both"}, number_tables()),
    "targets": (Forecaster, {"layers": 2, "target_col": ["a", "b"]}, number_tables(2)[:2]),
    "counts": (Forecaster, {"head": "negative_binomial", "depth": 2}, number_tables()[:2]),
    "alone": (Forecaster, {"cell": "simple_rnn", "head": "student_t"}, number_tables()[:1]),
    "first": (TokenForecaster, {"conditioning": "first", "tied": True}, word_tables()),
}
# A backend that compiles takes a minute for each: two run on every backend, the others on one.
cases = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[backends] if name in ("lstm", "tokens") else []) for name in CASES],
)


@slow
@cases
def test_one_worker_and_several_give_the_same_file(name: str) -> None:
    kind, more, tables = CASES[name]
    one = fit_apart(kind(**SMALL, **more), *tables, workers=1)
    several = fit_apart(kind(**SMALL, **more), *tables, workers=3, seed=1, deaths=2)
    assert several._packed() == one._packed()
    assert several.fingerprint == one.fingerprint


@slow
@cases
def test_members_trained_apart_are_those_trained_together_up_to_rounding(name: str) -> None:
    """Sums of float32 in another order differ by some 1e-7 in each update, and AdamW divides
    small gradients by their size."""
    kind, more, tables = CASES[name]
    series, static, future = (*tables, None, None)[:3]
    short = {**SMALL, **more, "epochs": 2}
    together = kind(**short).fit(series, static, future=future, verbose=0)
    apart = fit_apart(kind(**short), *tables, workers=1)
    for measure, values in together.history.items():
        np.testing.assert_allclose(apart.history[measure], values, rtol=1e-4)
    for weight, values in together.weights.items():
        np.testing.assert_allclose(apart.weights[weight], values, rtol=1e-3, atol=1e-3)


# -- the schedule --------------------------------------------------------------------------


def epochs_of(improved: np.ndarray, patience: int) -> int:
    """The epochs that an ensemble is trained for, by the definition; ``(members, epochs)``."""
    last = 0
    for epoch in range(1, improved.shape[1] + 1):
        last = epoch if improved[:, epoch - 1].any() else last
        if epoch - last >= patience:
            return epoch
    return improved.shape[1]


@settings(max_examples=200, deadline=None)
@given(
    members=st.integers(1, 6),
    epochs=st.integers(1, 20),
    patience=st.integers(1, 6),
    workers=st.integers(1, 7),
    share=st.sampled_from([0.02, 0.1, 0.3]),
    seed=st.integers(0, 10**6),
)
def test_all_members_are_trained_for_the_epochs_of_the_ensemble(
    members, epochs, patience, workers, share, seed
) -> None:
    """In any order, and if workers end: a member then starts again, in another worker."""
    rng = np.random.default_rng(seed)
    improved = rng.random((members, epochs)) < share
    improved[:, 0] = True
    schedule = Schedule(members, epochs, patience)
    team, ended, running = list(range(workers)), {}, {}
    while schedule.left:
        for worker in team:
            if worker not in running and (member := schedule.take(worker)) is not None:
                assert member not in [other for other, _ in running.values()]
                running[worker] = member, schedule.goal
        worker = list(running)[rng.integers(len(running))]
        member, goal = running.pop(worker)
        if rng.random() < 0.2:
            assert schedule.lost(worker) == member
            ended = {key: value for key, value in ended.items() if key[0] != worker}
            team[team.index(worker)] = max(team) + 1
            continue
        at = ended.get((worker, member), 0)
        assert at < goal
        while at < min(epochs, goal):
            at += 1
            if improved[member, at - 1]:
                goal = max(goal, at + patience)
        ended[worker, member] = at
        last = int(np.flatnonzero(improved[member, :at])[-1]) + 1
        assert schedule.put(worker, Report(at, last, {}, {})) == member
    expected = epochs_of(improved, patience)
    assert {report.epochs for report in schedule.reports.values()} == {expected}


# -- on Ray --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Ray with eight CPUs, as far as it knows."""
    import ray

    ray.init(
        address="local",
        num_cpus=8,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield ray
    ray.shutdown()


def watched(before: Callable[[slice], None]) -> type[Forecaster]:
    """A forecaster whose workers call ``before`` with the members that they begin to train. Ray
    pickles it by value, as no module has it."""

    def _batches(self: Any, decoder: Any, panel: Any, held: Any, own: slice) -> Any:
        from statecast.networks import batches

        batches.STEPS = 3
        before(own)
        return Forecaster._batches(self, decoder, panel, held, own)

    return type("Forecaster", (Forecaster,), {"_batches": _batches, "__module__": "__main__"})


@slow
def test_a_worker_that_is_killed_changes_nothing(cluster: Any, tmp_path: Path) -> None:
    """Not even the bytes of the file. Two processes train the members here, one of them twice."""
    killed = str(tmp_path / "killed")

    def kill(own: slice) -> None:
        if own.start == 2 and not os.path.exists(killed):
            open(killed, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)

    found = fit(watched(kill)(**SMALL), *curve_tables(41), workers=2, verbose=0)
    assert os.path.exists(killed)
    assert found._packed() == fit_apart(Forecaster(**SMALL), *curve_tables(41), workers=1)._packed()


def fits_on_ray(members: int, *numbers: int) -> list[bytes]:
    """The files of fits by so many workers."""
    kind, more, tables = CASES["lstm"]
    more = SMALL | more | {"ensemble": members, "epochs": 2}
    return [fit(kind(**more), *tables, workers=each, verbose=0)._packed() for each in numbers]


@slow
@backends
def test_one_and_two_workers_give_the_same_file(cluster: Any) -> None:
    one, two = fits_on_ray(2, 1, 2)
    assert one == two


@slow
def test_one_two_and_eight_workers_give_the_same_file(cluster: Any) -> None:
    """On one backend, as each worker imports it: on two CPUs eight imports of TensorFlow take
    minutes."""
    one, two, eight = fits_on_ray(8, 1, 2, 8)
    assert one == two == eight


@slow
def test_an_error_in_a_worker_is_raised_here_and_changes_nothing(cluster: Any) -> None:
    def fail(own: slice) -> None:
        raise DataError("expected another table", column="y", item=own.start)

    model = watched(fail)(**SMALL)
    with pytest.raises(DataError, match="another table") as raised:
        fit(model, *curve_tables(41), workers=2, verbose=0)
    assert (raised.value.column, raised.value.item) in [("y", 0), ("y", 1)]
    with pytest.raises(NotFittedError):
        model.schema  # noqa: B018


@slow
def test_workers_that_end_again_and_again_are_an_error(cluster: Any) -> None:
    def end(own: slice) -> None:
        if own.start == 1:
            os._exit(1)

    with pytest.raises(WorkerError, match=r"(?s)train member 2 .* 3 of them .* fewer workers"):
        fit(watched(end)(**SMALL), *curve_tables(41), workers=2, verbose=0)


@slow
def test_ctrl_c_ends_the_workers(cluster: Any, tmp_path: Path) -> None:
    def wait(own: slice) -> None:
        (tmp_path / str(os.getpid())).touch()
        time.sleep(600)

    def press() -> None:
        while not list(tmp_path.iterdir()):
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        fit(watched(wait)(**SMALL), *curve_tables(41), workers=1, verbose=0)
    (worker,) = tmp_path.iterdir()
    for _ in range(100):
        if not os.path.exists(f"/proc/{worker.name}"):
            break
        time.sleep(0.1)
    else:
        raise AssertionError("the worker is still there")


@slow
def test_a_cluster_that_is_started_for_a_fit_is_for_this_machine_only(tmp_path: Path) -> None:
    """In a new process: it asks for a token, listens on the loopback interface, and ends."""
    script = tmp_path / "script.py"
    script.write_text(ALONE)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.split() == ["127.0.0.1", "token", "False", "4"], done.stderr


ALONE = """
import os

import numpy as np
import ray

from statecast.distributed import fit
from statecast.forecast.forecaster import Forecaster


class Seen(Forecaster):
    def _learn_schema(self, *tables):
        print(ray.get_runtime_context().gcs_address.split(":")[0], os.environ["RAY_AUTH_MODE"])
        return super()._learn_schema(*tables)


if __name__ == "__main__":
    Y = np.random.default_rng(0).normal(size=(20, 5))
    model = fit(Seen(units=3, ensemble=4, epochs=1), Y, verbose=0)
    print(ray.is_initialized(), len(model.weights["decoder/head/bias"]))
"""


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"engine": "spark"}, "engine: .* keep their state"),
        ({"engine": "dask"}, "engine: expected"),
        ({"workers": 0}, "workers: expected"),
        ({"gpus": -1}, "gpus: expected a number from 0 to 64"),
        ({"gpus": True}, "gpus: expected"),
        ({"verbose": 3}, "verbose: expected"),
    ],
)
def test_arguments_are_checked_before_ray_is_asked(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        fit(Forecaster(**SMALL), *curve_tables(41), **wrong)


def test_only_forecasters_are_fitted_on_ray() -> None:
    model: Any = object()
    with pytest.raises(ArgumentError, match="forecaster: expected a Forecaster or"):
        fit(model, *curve_tables(41))
