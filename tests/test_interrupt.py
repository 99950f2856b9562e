"""Ctrl-C ends a training between two batches and keeps its best epoch, wherever it comes."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from statecast import Forecaster, TokenForecaster, errors
from statecast.cli.commands import app
from statecast.cli.output import INTERRUPTED, leave_at_once
from statecast.evaluate.cross_validation import cross_validation
from statecast.forecast.companions import Companions
from statecast.interrupt import noted
from statecast.networks.network import Network
from statecast.networks.training import KeepBest

backends = pytest.mark.backends

RNG = np.random.default_rng(0)
Y = RNG.normal(size=(8, 6)).cumsum(axis=1)
SMALL: dict[str, Any] = {"units": 2, "ensemble": 1, "epochs": 4}


def press() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.fixture(autouse=True)
def _handler() -> Iterator[None]:
    """Python's own handler is there before and after, also where the tests run in the background,
    where a shell has SIGINT ignored."""
    outside = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    after = signal.signal(signal.SIGINT, outside)
    assert after is signal.default_int_handler


# -- the flag ------------------------------------------------------------------------------------


def test_the_first_is_noted_and_the_second_raised():
    with noted() as interrupt:
        interrupt.check()
        press()
        assert interrupt.count == 1
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()
        with pytest.raises(KeyboardInterrupt):
            press()
        interrupt.count = 1  # the rest of the block is not what this tests
    with pytest.raises(KeyboardInterrupt):
        press()


def test_a_second_that_becomes_another_error_is_raised_as_itself():
    def work() -> None:
        press()
        try:
            press()
        except KeyboardInterrupt:
            raise RuntimeError("Array has been deleted") from None

    def fail() -> None:
        press()
        raise RuntimeError("of its own")

    with pytest.raises(KeyboardInterrupt), noted():
        work()
    with pytest.raises(RuntimeError, match="of its own"), noted():
        fail()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_second_that_python_ignores_is_raised_at_the_end_of_the_block():
    class Finalized:
        def __del__(self) -> None:
            press()

    def work() -> None:
        press()
        Finalized()  # an exception of __del__ is printed and ignored

    with pytest.raises(KeyboardInterrupt), noted():
        work()


def test_blocks_within_a_block_are_parts_of_it():
    with noted() as outer:
        with noted() as inner:
            press()
        assert inner is outer
        assert outer.count == 1


def test_a_block_may_leave_it_to_those_within_when_ctrl_c_is_noted_first():
    with noted(at_once=False) as outer:
        with pytest.raises(KeyboardInterrupt):
            press()
        assert outer.count == 0
        with noted():
            press()
        assert outer.count == 1


@pytest.mark.parametrize("own", [signal.SIG_IGN, lambda *_: None])
def test_a_handler_of_the_program_stays(own):
    before = signal.signal(signal.SIGINT, own)
    try:
        with noted() as interrupt:
            assert signal.getsignal(signal.SIGINT) is own
            press()
        assert interrupt.count == 0
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_notes_nothing():
    found = []

    def work() -> None:
        with noted() as interrupt:
            found.append(interrupt)

    with noted() as interrupt:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert found[0] is not interrupt


# -- a fit, at chosen moments --------------------------------------------------------------------


class At(keras.callbacks.Callback):
    """Presses Ctrl-C at one moment, counts the batches after it and the epochs, and takes the
    time of the last."""

    def __init__(self, epoch: int, moment: str, times: int = 1) -> None:
        super().__init__()
        self.epoch, self.moment, self.times = epoch, moment, times
        self.now, self.later, self.ended, self.pressed = -1, 0, 0, False
        self.begun = self.seconds = 0.0

    def reach(self, moment: str) -> None:
        if (self.now, moment) == (self.epoch, self.moment) and not self.pressed:
            self.pressed = True
            for _ in range(self.times):
                press()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.now, self.begun = epoch, time.monotonic()
        self.reach("epoch begin")

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.later += self.pressed
        if batch == 3:
            self.reach("batch")

    def on_test_begin(self, logs: Any = None) -> None:
        self.reach("validation")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.ended, self.seconds = epoch + 1, time.monotonic() - self.begun
        self.reach("epoch end")


@backends
@pytest.mark.parametrize(
    ("epoch", "moment", "epochs"),
    [(1, "epoch begin", 2), (2, "batch", 3), (0, "validation", 1), (1, "epoch end", 3)],
)
def test_the_best_epoch_is_kept(epoch, moment, epochs):
    at = At(epoch, moment)
    f = Forecaster(**SMALL).fit(Y, callbacks=[at], verbose=0)
    assert len(f.history["loss"]) == at.ended == epochs
    assert at.later <= 1
    assert np.isfinite(f.predict(Y[:, :2], until=6)["statecast"][:, 2:]).all()


@backends
@pytest.mark.parametrize("kind", [Forecaster, TokenForecaster])
def test_before_the_first_epoch_nothing_is_kept_and_nothing_lost(kind):
    values = Y if kind is Forecaster else np.char.mod("%d", (Y > 0)).astype(object)
    f = kind(**SMALL).fit(values, verbose=0)
    before = f.history
    with pytest.raises(KeyboardInterrupt):
        f.fit(values, callbacks=[At(0, "batch")], verbose=0)
    assert f.history is before
    f.fit(values, callbacks=[At(1, "batch")], verbose=0)
    assert len(f.history["loss"]) == 2


@backends
def test_a_second_interrupts_for_good():
    f = Forecaster(**SMALL)
    with pytest.raises(KeyboardInterrupt):
        f.fit(Y, callbacks=[At(2, "batch", times=2)], verbose=0)
    with pytest.raises(errors.NotFittedError):
        f.predict(Y[:, :2], until=6)


@backends
def test_while_the_network_is_built_and_once_the_training_is_over(monkeypatch):
    def then(function: Callable[..., Any]) -> Callable[..., Any]:
        def pressing(*arguments: Any, **options: Any) -> Any:
            press()
            return function(*arguments, **options)

        return pressing

    at = At(99, "never")
    with monkeypatch.context() as patch:
        patch.setattr(Forecaster, "_build", then(Forecaster._build))
        with pytest.raises(KeyboardInterrupt):
            Forecaster(**SMALL).fit(Y, callbacks=[at], verbose=0)
    assert at.now == -1
    monkeypatch.setattr(Companions, "fit", then(lambda self, *_, **__: self))
    f = Forecaster(**SMALL).fit(Y, verbose=0)
    assert len(f.history["loss"]) == SMALL["epochs"]


@backends
def test_in_another_thread_ctrl_c_is_the_main_thread_s_and_the_fit_goes_on():
    f, begun = Forecaster(**SMALL), threading.Event()

    class Begin(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            begun.set()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.stop_training = epoch == 2

    options = {"callbacks": [Begin()], "verbose": 0}
    thread = threading.Thread(target=lambda: f.fit(Y, **options))
    thread.start()
    begun.wait(120)
    with pytest.raises(KeyboardInterrupt):
        press()
    thread.join(120)
    assert len(f.history["loss"]) == 3


@backends
def test_cross_validation_is_not_of_some_epochs():
    with pytest.raises(KeyboardInterrupt):
        cross_validation(
            Forecaster(**SMALL),
            Y,
            folds=2,
            known=[1],
            baselines=False,
            callbacks=[At(1, "batch")],
            verbose=0,
        )


# -- at random moments ---------------------------------------------------------------------------


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Fits of thousands of epochs of three batches, by one network that is compiled by now; call
    it to say how many batches after the next fit has begun Ctrl-C comes: 0.5 is in the first."""
    networks: list[Network] = []
    at, moment = At(3, "epoch begin"), [math.inf]
    built, compiled, begin = Forecaster._build, Network.compile, KeepBest.on_train_batch_begin

    def one(self: Forecaster, *arguments: Any) -> Network:
        if not networks:
            networks.append(built(self, *arguments))
        return networks[0]

    def once(self: Network, *arguments: Any, **options: Any) -> None:
        if not self.compiled:
            compiled(self, *arguments, **options)

    def batch(self: KeepBest, *arguments: Any, **options: Any) -> None:
        if 0 <= moment[0] < 1:
            seconds = moment[0] * at.seconds / 3
            timer = threading.Timer(seconds, os.kill, [os.getpid(), signal.SIGINT])
            timer.daemon = True
            timer.start()
        moment[0] -= 1
        begin(self, *arguments, **options)

    def after(batches: float) -> None:
        moment[0] = batches

    monkeypatch.setattr("statecast.networks.batches.STEPS", 3)
    monkeypatch.setattr(Forecaster, "_build", one)
    monkeypatch.setattr(Network, "compile", once)
    monkeypatch.setattr(KeepBest, "on_train_batch_begin", batch)
    Forecaster(**ENDLESS).fit(Y, callbacks=[at], verbose=0)
    return after


ENDLESS: dict[str, Any] = SMALL | {"epochs": 5000, "patience": 5000}


def in_python(folder: Path) -> int:
    """Epochs that were kept, 0 where there was none."""
    at = At(0, "never")
    f = Forecaster(**ENDLESS)
    try:
        f.fit(Y, callbacks=[at], verbose=0)
    except KeyboardInterrupt:
        assert at.ended == 0
        assert "not fitted" in repr(f)
        return 0
    weights = f.network.get_weights()
    assert all(np.isfinite(weight).all() for weight in weights)
    assert len(f.history["loss"]) == at.ended
    return at.ended


def on_the_command_line(folder: Path) -> int:
    series = folder / "series.csv"
    rows = [f"{i},{step},{y}" for i, row in enumerate(Y) for step, y in enumerate(row, 1)]
    series.write_text("\n".join(["unique_id,ds,y", *rows, ""]))
    out = folder / "model.safetensors"
    options = [f"--{name}={value}" for name, value in ENDLESS.items()]
    before = signal.signal(signal.SIGINT, leave_at_once)
    try:
        result = CliRunner().invoke(app, ["fit", str(series), f"--out={out}", *options])
    finally:
        signal.signal(signal.SIGINT, before)
    last = result.stderr.splitlines()[-1]
    if result.exit_code == 130:
        assert last == INTERRUPTED
        assert list(folder.iterdir()) == [series]
        return 0
    assert result.exit_code == 0, result.exception
    lines = [line for line in result.stderr.splitlines() if not line.startswith("warning: ")]
    assert lines[-3] == "Interrupted: the best epoch so far is kept."
    assert lines[-2].startswith("Trained for ")
    assert lines[-1] == f"Wrote {out}."
    epochs = len(Forecaster.load(out).history["loss"])
    out.unlink()
    return epochs


@backends
@pytest.mark.parametrize(
    "times",
    [pytest.param(8, id="few"), pytest.param(67, id="many", marks=pytest.mark.slow)],
)
def test_at_random_moments(times, endless, tmp_path):
    """67 times on each of three backends: 201 in all."""
    rng, kept = np.random.default_rng(times), []
    for turn in range(times):
        endless(rng.uniform(0, 9))  # a third come in the first epoch
        fit = on_the_command_line if turn % 4 == 3 else in_python
        kept.append(fit(tmp_path))
        assert kept[-1] < ENDLESS["epochs"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert any(kept)
