"""What works in a forked process, and what says that it does not."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import keras
import pytest

from statecast.process import Lock

pytestmark = [
    pytest.mark.backends,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork"),
]
BACKEND = keras.backend.backend()

# A child forecasts, and answers what the parent did; "other" forecasts all the time beside it.
# With "fit" it fits before.
CHILD = """
import os, signal, sys, threading, time, warnings
warnings.simplefilter("ignore")
import numpy as np
from statecast import Forecaster, TokenForecaster
tokens, other, rows = "tokens" in sys.argv, "other" in sys.argv, 400 if "many" in sys.argv else 20
parent, rng = os.getpid(), np.random.default_rng(0)
options = dict(units=4, ensemble=1, epochs=1)
if tokens:
    Y = rng.choice(list("abc"), (rows, 6))
    f = TokenForecaster(**options).fit(Y, verbose=0)
else:
    Y = rng.normal(size=(rows, 6))
    f = Forecaster(**options).fit(Y, verbose=0)
def forecast():
    if "fit" in sys.argv and os.getpid() != parent:
        f.clone().fit(Y, verbose=0)
    ahead = f.generate if tokens else f.predict
    found = ahead(Y[:, :3], until=6)  # as text: NaN is not NaN
    return repr({n: np.asarray(v).tolist() for n, v in found.items()})
first = forecast()
if other:
    def work():
        while True:
            forecast()
    threading.Thread(target=work, daemon=True).start()
    time.sleep(0.3)
for _ in range(4 if other else 2):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            os._exit(0 if forecast() == first else 3)
        except BaseException as error:
            print(type(error).__name__, error, flush=True)
            os._exit(4)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
os._exit(0)
"""


def _children(*words: str) -> str:
    command = [sys.executable, "-c", CHILD, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "words",
    [("many",), *(pytest.param(w, marks=pytest.mark.slow) for w in ((), ("other",)))],
    ids=str,
)
def test_a_forked_process_forecasts(words: tuple[str, ...]) -> None:
    assert set(_children(*words).split()) == {"0"}


@pytest.mark.skipif(BACKEND != "torch", reason="of PyTorch")
def test_a_forked_process_fits() -> None:
    assert set(_children("fit").split()) == {"0"}


@pytest.mark.slow
def test_a_forked_process_decodes_tokens() -> None:
    assert set(_children("tokens").split()) == {"0"}


@pytest.mark.skipif(BACKEND == "torch", reason="of JAX and TensorFlow")
def test_a_fit_in_a_forked_process_is_refused() -> None:
    said = _children("fit")
    told = [line for line in said.splitlines() if line.startswith("ForkError This process is a")]
    assert len(told) == 2
    assert all('Start it with "spawn"' in line for line in told)
    assert said.count("\n4\n") == 2


GARBAGE = """
import gc, os, signal
os.environ["KERAS_BACKEND"] = "tensorflow"
import keras, statecast
import tensorflow as tf
gc.disable()
iterator = iter(tf.data.Dataset.range(5).prefetch(2))
next(iterator)
cycle = [iterator]
cycle.append(cycle)
del iterator, cycle
child = os.fork()
if child == 0:
    signal.alarm(60)
    gc.collect()
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), gc.get_freeze_count(), gc.collect() > 0)
"""


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow")
def test_garbage_of_the_parent_does_not_stop_the_child() -> None:
    done = subprocess.run(
        [sys.executable, "-c", GARBAGE], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.split() == ["0", "0", "True"], done.stderr


def test_a_lock_that_another_thread_holds_is_free_in_the_child() -> None:
    lock, held, done = Lock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        free = lock._own().acquire(timeout=5)
        os._exit(0 if free else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not lock._own().acquire(blocking=False)
    done.set()
    thread.join()


FIRST = """
import os, signal
os.environ["KERAS_BACKEND"] = "torch"
import torch
from statecast.recurrence import run as recurrence
from statecast.recurrence.cells import LSTM
from statecast.recurrence.kernels.native import library
library.status()  # the library is loaded
torch.set_num_threads(2)
torch.tanh(torch.randn(1000, 1000))  # OpenMP's threads are there, without a call of the library's
cell = LSTM(8)
weights = {n: torch.randn(shape) for n, shape in cell.weight_shapes(2).items()}
x, state = torch.randn(100, 6, 2), {leaf: torch.randn(100, 8) for leaf in ("h", "c")}
child = os.fork()
if child == 0:
    signal.alarm(60)
    recurrence.run(cell, weights, x, state, kernel="native")
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(BACKEND != "torch", reason="of PyTorch")
def test_the_first_call_may_be_in_a_forked_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FIRST], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout == "0\n", done.stderr
