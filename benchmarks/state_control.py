"""State control, measured: what stock Keras and Statecast do, on three backends.

Run it from the root of the repository, without arguments::

    .venv/bin/python benchmarks/state_control.py

It starts itself once for each backend, runs every behaviour on a fresh model of stock Keras and
on one of Statecast, and writes ``docs/state_control.md``. A behaviour works if its results equal
those of a reference: a stateless layer of Keras around the same cell that starts from the expected
state.
"""

from __future__ import annotations

import html
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from statecast.control import models as control
from statecast.layers import recurrent as layers
from statecast.state import State

PAGE = Path(__file__).parents[1] / "docs" / "state_control.md"
BACKENDS = {"jax": "JAX", "torch": "PyTorch", "tensorflow": "TensorFlow"}
STEPS, UNITS = 3, 4
TOLERANCE = 1e-5  # float32, a few steps, values of order 1
WORDS = 80  # how much of an error's message a cell has room for


class NoSuchCallError(Exception):
    """What a behaviour needs is not there."""


def ask(owner: Any, name: str, *arguments: Any, **options: Any) -> Any:
    """``owner.name(...)``, or ``NoSuchCallError`` where it is missing or takes no such thing."""
    method = getattr(owner, name, None)
    if method is None:
        raise NoSuchCallError("no such call")
    try:
        inspect.signature(method).bind(*arguments, **options)
    except TypeError:
        raise NoSuchCallError("no such argument") from None
    return method(*arguments, **options)


# -- the two sides: the few calls that differ -----------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """One side. ``load`` is given a path and a fresh model; ``trajectory`` gives h, then c."""

    layers: Any
    set: Callable[..., Any]
    set_model: Callable[..., Any]
    reset: Callable[..., Any]
    save: Callable[..., Any]
    load: Callable[..., Any]
    peek: Callable[..., Any]
    trajectory: Callable[..., Any]


def assign_each(layer: Any, states: Any) -> None:
    """Stock Keras's one way to set a state."""
    for variable, value in zip(layer.states, states, strict=True):
        variable.assign(value)


def most_returned(layer: Any, x: Any) -> Any:
    """The most that a call of stock Keras returns: h of every step, and c of the last."""
    h, _, c = keras.layers.RNN(layer.cell, return_sequences=True, return_state=True)(x)
    return h, c


STOCK = Kind(
    layers=keras.layers,
    set=assign_each,
    set_model=lambda model, states: ask(model, "reset_states", states),
    reset=lambda layer, **which: ask(layer, "reset_state", **which),
    save=lambda model, path: model.save(f"{path}.keras"),
    load=lambda path, _: keras.models.load_model(f"{path}.keras"),
    peek=lambda model: ask(model, "peek"),
    trajectory=most_returned,
)


def load_into(path: str, model: Any) -> Any:
    control.set_state(model, State.load(path))
    return model


OURS = Kind(
    layers=layers,
    set=lambda layer, states: layer.reset_states(states),
    set_model=control.set_state,
    reset=lambda layer, **which: layer.reset_states(**which),
    save=lambda model, path: control.get_state(model).save(path),
    load=load_into,
    peek=control.peek,
    trajectory=lambda layer, x: control.trajectory(layer, x).values(),
)


# -- what the behaviours share --------------------------------------------------------------------


def build(kind: Kind, name: str = "LSTM", rows: int = 2) -> tuple[Any, Any]:
    """A compiled model around one stateful layer, and that layer."""
    x = keras.Input(batch_shape=(rows, STEPS, 1))
    layer = getattr(kind.layers, name)(UNITS, stateful=True, return_sequences=True)
    model = keras.Model(x, layer(x))
    model.compile("sgd", "mse")
    return model, layer


def draw(*shape: int) -> np.ndarray:
    return np.random.normal(size=shape).astype("float32")  # noqa: NPY002, seeded by `outcome`


def inputs(rows: int = 2, steps: int = STEPS, features: int = 1) -> np.ndarray:
    return draw(rows, steps, features)


def state(rows: int = 2, leaves: int = 2) -> list[np.ndarray]:
    return [draw(rows, UNITS) for _ in range(leaves)]


def zeros(rows: int = 2) -> list[np.ndarray]:
    return [np.zeros((rows, UNITS), "float32")] * 2


def arrays(values: Any) -> list[np.ndarray]:
    return [np.asarray(keras.ops.convert_to_numpy(value)) for value in keras.tree.flatten(values)]


def tensors(values: Any) -> list[Any]:
    return [keras.ops.convert_to_tensor(value) for value in values]


def read(layer: Any) -> list[np.ndarray]:
    return arrays(layer.states or [])


def predict(model: Any, x: np.ndarray) -> np.ndarray:
    return model.predict(x, batch_size=len(x), verbose=0)


def reference(layer: Any, x: Any, start: Any = None) -> tuple[np.ndarray, list[np.ndarray]]:
    """Outputs and final state of a stateless layer with the same weights."""
    options = {"return_sequences": True, "return_state": True}
    plain = keras.layers.RNN(layer.cell, unroll=True, **options)  # a loop compiles at each call
    start = None if start is None else tensors(start)
    y, *after = arrays(plain(keras.ops.convert_to_tensor(x), initial_state=start))
    return y, after


def same(found: Any, wanted: Any) -> bool:
    found, wanted = arrays(found), arrays(wanted)
    return len(found) == len(wanted) and all(
        a.shape == b.shape and np.allclose(a, b, atol=TOLERANCE)
        for a, b in zip(found, wanted, strict=True)
    )


def which(found: Any, wanted: Mapping[str, Any], otherwise: str) -> str:
    """The name of the first of some values that was found."""
    return next((name for name, value in wanted.items() if same(found, value)), otherwise)


def message(error: Exception) -> str:
    """``ErrorName: first words``, without tracebacks, graph nodes and whose call it was."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    if lines[0] in ("in user code:", "Graph execution error:"):
        lines = [line for line in lines if not line.startswith(("File", "[["))][-1:]
    noise = r"^(\w+\.)*\w+\(\) |^\{\{.*?\}\} | for '\{\{.*|\[Op:.*"
    words = re.sub(noise, "", lines[0].replace("`", "'"))
    if len(words) > WORDS:
        words = words[:WORDS].rsplit(" ", 1)[0].rstrip(",;:(") + " …"
    return f"{type(error).__name__}: {words.strip()}"


def refused(layer: Any, act: Callable[[], Any], otherwise: Callable[[Any], str]) -> str:
    """Whether ``act`` is refused and leaves the state alone; ``otherwise`` looks at its result."""
    before = read(layer)
    try:
        result = act()
    except Exception as error:
        kept = False
        with suppress(Exception):  # where the state cannot even be read, it is not kept
            kept = same(read(layer), before)
        return f"{'refused' if kept else 'state not kept'}: {message(error)}"
    return otherwise(result)


@keras.saving.register_keras_serializable("benchmarks")
class Ones(keras.layers.Layer):
    """A cell of the user's own, which starts from ones."""

    state_size = output_size = UNITS

    def get_initial_state(self, batch_size: Any = None) -> Any:
        return keras.ops.ones((batch_size, UNITS))

    def call(self, x: Any, states: Any) -> Any:
        after = 0.5 * states[0] + x
        return after, [after]


# -- set and read ---------------------------------------------------------------------------------


def set_by_reset_states(kind: Kind) -> str:
    _, layer = build(kind)
    x, start = inputs(), state()
    layer.reset_states(start)
    return which(layer(x), {"works": reference(layer, x, start)[0]}, "ignored")


def set_on_model(kind: Kind) -> str:
    model, layer = build(kind)
    start = state()
    kind.set_model(model, start)
    return which(read(layer), {"works": start}, "ignored")


def reads_back(kind: Kind) -> str:
    _, layer = build(kind)
    start = [np.full((2, UNITS), value, "float32") for value in (5, 24)]
    kind.set(layer, start)
    return which(read(layer), {"works": start}, "reads otherwise")


def predict_starts_there(kind: Kind) -> str:
    model, layer = build(kind)
    x, earlier, found = inputs(), zeros(), ""
    for start in (state(), state()):
        kind.set(layer, start)
        wanted = {"works": start, "ignored: starts from an earlier state": earlier}
        outputs = {name: reference(layer, x, begin)[0] for name, begin in wanted.items()}
        found = which(predict(model, x), outputs, "starts elsewhere")
        if found != "works":
            break
        earlier = start
    return found


def put_in_states(kind: Kind, whole: bool) -> str:
    model, layer = build(kind)
    x, (h, c) = inputs(), tensors(state())
    predict(model, x)
    kind.reset(layer)

    def act() -> Any:
        if whole:
            layer.states = [h, c]
        else:
            layer.states[0] = keras.Variable(h)
        return predict(model, x)

    wanted = {"works": reference(layer, x, [h, c if whole else 0 * c])[0]}
    return refused(layer, act, lambda y: which(y, wanted, "ignored"))


def saved_and_loaded(kind: Kind) -> str:
    model, layer = build(kind)
    start = state()
    kind.set(layer, start)
    with tempfile.TemporaryDirectory() as folder:
        kind.save(model, f"{folder}/it")
        loaded = kind.load(f"{folder}/it", build(kind)[0])
    return which(read(loaded.layers[-1]), {"works": start, "lost: zeros": zeros()}, "changed")


def peeks(kind: Kind) -> str:
    model, layer = build(kind)
    x, start = inputs(), state()
    kind.set(layer, start)
    with kind.peek(model):
        y = predict(model, x)
    if not same(y, reference(layer, x, start)[0]):
        return "starts elsewhere"
    return which(read(layer), {"works": start}, "advances")


def all_states(kind: Kind) -> str:
    _, layer = build(kind)
    x = inputs()
    found = kind.trajectory(layer, x)
    steps = [reference(layer, x[:, : t + 1])[1] for t in range(STEPS)]
    wanted = [np.stack(leaf, axis=1) for leaf in zip(*steps, strict=True)]
    last = [leaf for leaf, a, b in zip("hc", found, wanted, strict=True) if not same(a, b)]
    return f"only the last {', '.join(last)}" if last else "works"


# -- advance and train ----------------------------------------------------------------------------

VERBS: Mapping[str, Callable[[Any, Any, Any], Any]] = {
    "fit": lambda model, x, y: model.fit(x, y, batch_size=len(x), shuffle=False, verbose=0),
    "evaluate": lambda model, x, y: model.evaluate(x, y, batch_size=len(x), verbose=0),
    "predict": lambda model, x, y: predict(model, x),
    "train_on_batch": lambda model, x, y: model.train_on_batch(x, y),
}


def advances(kind: Kind, verb: str) -> str:
    model, layer = build(kind)
    before, found = zeros(), ""
    for _ in range(2):
        x = inputs()
        _, after = reference(layer, x, before)  # by the weights before the step
        VERBS[verb](model, x, draw(2, STEPS, UNITS))
        wanted = {"works": after, "never advances": before}
        found = which(read(layer), wanted, "advances otherwise")
        if found != "works":
            break
        before = after
    return found


def trains(kind: Kind, name: str = "LSTM", rows: int = 2, count: int = 2, **options: Any) -> str:
    model, layer = build(kind, name, rows)
    before = layer.get_weights()
    model.fit(inputs(count), draw(count, STEPS, UNITS), verbose=0, **options)
    changed = [not same(a, b) for a, b in zip(before, layer.get_weights(), strict=True)]
    return "works" if all(changed) else "does not train"


# -- rows and steps -------------------------------------------------------------------------------


def partial_batch(kind: Kind) -> str:
    model, layer = build(kind, rows=4)
    model.compile(keras.optimizers.SGD(0.0), "mse")  # the weights stay, so one reference does
    x = inputs(6)
    model.fit(x, draw(6, STEPS, UNITS), batch_size=4, shuffle=False, verbose=0)
    _, first = reference(layer, x[:4])
    _, last = reference(layer, x[4:], [leaf[:2] for leaf in first])
    after = [np.concatenate([new, old[2:]]) for new, old in zip(last, first, strict=True)]
    return which(read(layer), {"works": after, "never advances": zeros(4)}, "advances otherwise")


def fresh_start(kind: Kind, model: Any, layer: Any, rows: int) -> str:
    """Whether the model, once reset, predicts for so many rows as if new."""
    kind.reset(layer)
    x = inputs(rows)
    return which(predict(model, x), {"works": reference(layer, x)[0]}, "starts elsewhere")


def one_after_many(kind: Kind) -> str:
    model, layer = build(kind, rows=64)
    model.fit(inputs(64), draw(64, STEPS, UNITS), batch_size=64, verbose=0)
    return fresh_start(kind, model, layer, rows=1)


def good_after(kind: Kind, **other: int) -> str:
    model, layer = build(kind)
    predict(model, inputs())
    with suppress(Exception):  # whether it may be refused is not asked here
        predict(model, inputs(**other))
    return fresh_start(kind, model, layer, rows=2)


def other_features(kind: Kind) -> str:
    _, layer = build(kind)
    x = inputs(features=2)
    return refused(layer, lambda: layer(x), lambda _: "accepted")


def no_steps(kind: Kind) -> str:
    _, layer = build(kind)
    start = state()
    kind.set(layer, start)
    y = layer(inputs(steps=0))
    if tuple(y.shape) != (2, 0, UNITS):
        return f"output of shape {tuple(y.shape)}"
    return which(read(layer), {"works": start}, "state changed")


# -- reset ----------------------------------------------------------------------------------------


def resets_stack(kind: Kind) -> str:
    cells = [keras.layers.LSTMCell(UNITS), keras.layers.GRUCell(UNITS)]
    layer = kind.layers.RNN(cells, stateful=True, return_sequences=True)
    x = inputs()
    layer(x)
    kind.reset(layer)
    return which(layer(x), {"works": reference(layer, x)[0]}, "goes on")


def resets_to_own_start(kind: Kind) -> str:
    layer = kind.layers.RNN(Ones(), stateful=True)
    layer(draw(2, STEPS, UNITS))
    kind.reset(layer)
    own = np.ones((2, UNITS))
    return which(read(layer), {"works": [own], "zeros": [0 * own]}, "goes on")


def resets_row(kind: Kind) -> str:
    _, layer = build(kind)
    start = state()
    kind.set(layer, start)
    kind.reset(layer, rows=[0])
    wanted = [leaf * [[0], [1]] for leaf in start]
    return which(read(layer), {"works": wanted}, "resets otherwise")


def resets_within(kind: Kind) -> str:
    _, layer = build(kind)
    x, start = inputs(), state()
    kind.set(layer, start)
    y = layer(x, reset=np.array([[False, True, False], [False, False, False]]))
    wanted = reference(layer, x, start)[0].copy()
    wanted[0, 1:] = reference(layer, x[:1, 1:])[0][0]
    return which(y, {"works": wanted}, "resets otherwise")


def reset_of_stateless(kind: Kind) -> str:
    layer = kind.layers.LSTM(UNITS)
    layer(inputs())
    return refused(layer, lambda: kind.reset(layer), lambda _: "silent, no effect")


# -- in a call ------------------------------------------------------------------------------------


def passed_while_running(kind: Kind) -> str:
    _, layer = build(kind)
    x, start = inputs(), state()
    first, after = reference(layer, x, start)
    if not same(layer(x, initial_state=tensors(start)), first):
        return "a fresh row ignores it"
    wanted = {"works": reference(layer, x, after)[0], "overrides the running state": first}
    return which(layer(x, initial_state=tensors(start)), wanted, "starts elsewhere")


def leading_mask(kind: Kind) -> str:
    layer = kind.layers.LSTM(UNITS, return_sequences=True)
    start = state()
    mask = keras.ops.convert_to_tensor([[False, True, True]] * 2)
    y = arrays(layer(inputs(), initial_state=tensors(start), mask=mask))[0]
    return which(y[:, 0], {"works: 0": zeros()[0], "h0": start[0]}, "another value")


def used_twice(kind: Kind) -> str:
    layer = kind.layers.LSTM(UNITS, stateful=True, return_sequences=True)
    a, b = (keras.Input(batch_shape=(2, STEPS, 1)) for _ in range(2))
    x = [inputs(), inputs()]
    layer.build((2, STEPS, 1))

    def act() -> Any:
        return keras.Model([a, b], [layer(a), layer(b)]).predict(x, batch_size=2, verbose=0)

    wanted = {"works": [reference(layer, part)[0] for part in x]}
    return refused(layer, act, lambda y: which(y, wanted, "state leaks between its uses"))


# -- refusals -------------------------------------------------------------------------------------


def passed(kind: Kind, wrong: Callable[[], Any], name: str = "LSTM", rows: int = 2) -> str:
    layer = getattr(kind.layers, name)(UNITS)

    def accepted(y: Any) -> str:
        return "accepted" if tuple(y.shape) == (rows, UNITS) else f"accepted: {tuple(y.shape)} out"

    return refused(layer, lambda: layer(inputs(rows), initial_state=tensors(wrong())), accepted)


def set_wrong(kind: Kind, wrong: Callable[[], Any]) -> str:
    _, layer = build(kind)
    return refused(layer, lambda: kind.set(layer, wrong()), lambda _: "accepted")


def wrong_units(kind: Kind) -> str:
    layer = kind.layers.LSTM(UNITS)
    x, *start = keras.Input((STEPS, 1)), keras.Input((UNITS + 1,)), keras.Input((UNITS + 1,))

    def fit_it(y: Any) -> str:
        model = keras.Model([x, *start], y)
        model.compile("sgd", "mse")
        data = [inputs(), draw(2, UNITS + 1), draw(2, UNITS + 1)]
        built = partial(model.fit, data, draw(2, UNITS), verbose=0)
        return "accepted when building; fit " + refused(layer, built, lambda _: "accepted")

    return refused(layer, lambda: layer(x, initial_state=start), fit_it)


# -- the table ------------------------------------------------------------------------------------

Behaviour = Callable[[Kind], str]
HOLDS = ("works", "refused")  # how a cell begins that is as it should be

BEHAVIOURS: Mapping[str, Mapping[str, Behaviour]] = {
    "Set and read": {
        "`layer.reset_states([h, c])` sets": set_by_reset_states,
        "a state is set on the whole model": set_on_model,
        "what was set (5 and 24) reads back": reads_back,
        "set, `predict`, set another, `predict`: each starts there": predict_starts_there,
        "`layer.states[0] = keras.Variable(h)` works or is refused": partial(
            put_in_states, whole=False
        ),
        "`layer.states = [h, c]` works or is refused": partial(put_in_states, whole=True),
        "the state is saved to a file and loaded": saved_and_loaded,
        "peek: `predict` without advancing": peeks,
        "h and c of every step": all_states,
    },
    "Advance and train": {
        **{f"the state advances in `{verb}`": partial(advances, verb=verb) for verb in VERBS},
        "`fit` trains a stateful LSTM": partial(trains, batch_size=2, epochs=3),
        "`fit` trains a stateful GRU": partial(trains, name="GRU", batch_size=2, epochs=3),
    },
    "Rows and steps": {
        "`fit` at batch 1, 5 sequences, default `batch_size`": partial(trains, rows=1, count=5),
        "`fit` with a last batch of 2 after one of 4": partial_batch,
        "`fit` at 64 rows, then `predict` at 1": one_after_many,
        "a good `predict` after one with another number of rows": partial(good_after, rows=3),
        "2 features where there was 1 are refused": other_features,
        "a good `predict` after one with 2 features": partial(good_after, features=2),
        "no steps (T = 0): the state comes back": no_steps,
    },
    "Reset": {
        "stacked cells": resets_stack,
        "a custom cell, to its own `get_initial_state`": resets_to_own_start,
        "one row; the others stay": resets_row,
        "some steps of some rows, by a mask in the call": resets_within,
        "a layer that is not stateful is refused": reset_of_stateless,
    },
    "In a call": {
        "`initial_state=`: fresh rows start there, running rows go on": passed_while_running,
        "output at a leading masked step, started from h0": leading_mask,
        "a stateful layer used twice in a model works or is refused": used_twice,
    },
    "Refuses an `initial_state=` of": {
        "1 state for LSTM": partial(passed, wrong=lambda: state(leaves=1)),
        "3 states for LSTM": partial(passed, wrong=lambda: state(leaves=3)),
        "2 states for GRU": partial(passed, wrong=state, name="GRU"),
        "4 rows for 1 sequence": partial(passed, wrong=lambda: state(4), rows=1),
        "1 row for 3 sequences": partial(passed, wrong=lambda: state(1), rows=3),
        "rank 1": partial(passed, wrong=lambda: [draw(UNITS)] * 2),
        "rank 3, GRU": partial(passed, wrong=lambda: [draw(1, 2, UNITS)], name="GRU"),
        "other units, when a functional model is built": wrong_units,
    },
    "Refuses to set, and leaves the state alone": {
        "4 rows for 2": partial(set_wrong, wrong=lambda: state(4)),
        "1 row for 2": partial(set_wrong, wrong=lambda: state(1)),
        "c of other units": partial(set_wrong, wrong=lambda: [*state(leaves=1), draw(2, 9)]),
        "rank 1": partial(set_wrong, wrong=lambda: [draw(UNITS)] * 2),
        "NaN": partial(set_wrong, wrong=lambda: [np.nan * leaf for leaf in state()]),
    },
}


def outcome(behaviour: Behaviour, kind: Kind) -> str:
    """What happens, in a few words; the one place where errors become words."""
    keras.utils.clear_session(free_memory=False)  # for the layers' names
    keras.config.disable_traceback_filtering()  # it would wrap each message in another
    keras.utils.set_random_seed(0)
    try:
        return behaviour(kind)
    except NoSuchCallError as missing:
        return str(missing)
    except Exception as error:
        return message(error)


def measure() -> dict[str, Any]:
    """Every behaviour on both sides, on the backend of this process."""
    warnings.simplefilter("ignore")  # what a warning is about shows in what happens
    rows = [
        (group, text, *(outcome(behaviour, kind) for kind in (STOCK, OURS)))
        for group, behaviours in BEHAVIOURS.items()
        for text, behaviour in behaviours.items()
    ]
    return {"version": importlib.import_module(keras.backend.backend()).__version__, "rows": rows}


def measured(backend: str) -> dict[str, Any]:
    """``measure`` in a process of its own, since Keras chooses its backend once."""
    settings = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    settings["OMP_NUM_THREADS"] = "1"  # the problems are small, and three processes run at once
    command = [sys.executable, __file__, "--measure"]
    ran = subprocess.run(
        command, env=os.environ | settings, capture_output=True, text=True, check=False
    )
    if ran.returncode:
        raise SystemExit(f"{backend}:\n{ran.stderr}")
    return json.loads(ran.stdout.splitlines()[-1])


INTRO = """\
# State control: stock Keras and Statecast, measured

This page shows what happens when the state of a recurrent layer is set, read, reset and used in
training. Every cell is the result of a run with a new model. The page is written by
`benchmarks/state_control.py`, which `make bench` runs; to run it alone:
`.venv/bin/python benchmarks/state_control.py`.

Measured with {versions}.

- *works*: outputs and states equal, to {tolerance:.5f}, those of a stateless Keras layer
  around the same cell that starts from the expected state. In rows on training, every weight
  has also changed.
- *refused*: the call raises an error and the state is unchanged; *state not kept*: the call raises
  an error, and the state has changed or cannot be read any more. If an error is right, the name of
  the behaviour says so.
- *no such call*, *no such argument*: the function or the argument does not exist. In stock Keras
  the only way to set a state is to assign each variable in `layer.states`, so it is set in this way
  here. What a user could build from this is not counted.
- The name of an error: it was raised by a call that should work.
"""


def page(found: Mapping[str, dict[str, Any]]) -> str:
    """The page, from what ``measure`` gave for each backend."""
    columns = [f"{side} {name}" for side in ("Keras", "Statecast") for name in BACKENDS.values()]
    parts = list(zip(*(found[backend]["rows"] for backend in BACKENDS), strict=True))
    cells = [[row[side] for side in (2, 3) for row in part] for part in parts]
    held = [sum(cell.startswith(HOLDS) for cell in column) for column in zip(*cells, strict=True)]
    table = [
        ["Behaviour", *columns],
        ["---"] * (1 + len(columns)),
        [f"**Correct, of {len(cells)}**", *map(str, held)],
    ]
    group = ""
    for ((name, text, *_), *_), row in zip(parts, cells, strict=True):
        if name != group:
            group = name
            table.append([f"**{group}**", *[""] * len(columns)])
        table.append([text, *(html.escape(c, quote=False).replace("|", "\\|") for c in row)])
    versions = [f"Keras {keras.__version__}"]
    versions += [f"{name} {found[backend]['version']}" for backend, name in BACKENDS.items()]
    head = INTRO.format(versions=", ".join(versions), tolerance=TOLERANCE)
    return "\n".join([head, *(f"| {' | '.join(line)} |" for line in table)]) + "\n"


if __name__ == "__main__":
    if "--measure" in sys.argv:
        print(json.dumps(measure()))
    else:
        with ThreadPoolExecutor() as pool:
            found = dict(zip(BACKENDS, pool.map(measured, BACKENDS), strict=True))
        PAGE.write_text(page(found), encoding="utf-8")
        print(f"Wrote docs/{PAGE.name}.")
