"""Damaged and hostile model and state files: nothing but a ModelFileError, or a file that works.

    python tools/fuzz_files.py                      # ten minutes; --seconds, --count to change that
    python tools/fuzz_files.py --replay 123456      # one execution again, by its seed

Every execution takes a file of the corpus, changes it in one to three places (values and types in
its JSON, types, shapes, places and numbers of its tensors, bytes, its length, a part of another
file) and loads it, all in this process. It fails where anything but a ModelFileError is raised,
where a second of processor time is not enough, and where the memory taken exceeds 2.5 times the
file and ``CONSTANT``. A model that is accepted must be written again and give the same bits; one
in ``--forecasts`` also forecasts, and must give finite numbers or one of our errors.

The corpus is made by this script: models of every head, with analogues and stacking, several
targets, covariates and tokens, and states of them. Counts and failures are written to the folder
``--out`` as it goes; the next run goes on from the count there, unless ``--seed`` is given.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import resource
import signal
import struct
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")  # it compiles nothing

import numpy as np

from statecast.heads.by_name import HEADS

CONSTANT = 64 * 2**20  # bytes of memory that a load may take beside 2.5 times the file
SECOND = 1.0  # of processor time for a load
ROOM = 2**30  # bytes of address space that a load may take: beyond it, a MemoryError
ITEMS, STEPS = 16, 6

Header = dict[str, Any]


# -- the corpus -------------------------------------------------------------------------------


def _tables(kind: str) -> tuple[Any, Any, Any]:
    """Series, static features and future covariates of one kind of model."""
    import polars as pl

    rng = np.random.default_rng(0)
    row, step = (axis.ravel() for axis in np.indices((ITEMS, STEPS)))
    names = [f"item {i}" for i in range(ITEMS)]
    keys = {"unique_id": [names[i] for i in row], "ds": step + 1}
    static = pl.DataFrame(
        {"unique_id": names, "x": rng.normal(size=ITEMS), "g": [*"aabb"] * (ITEMS // 4)}
    )
    y = rng.integers(1, 30, ITEMS * STEPS)
    series = pl.DataFrame(keys | {"y": y / 31 if kind == "logitnormal" else y * 1.0})
    future = None
    if kind == "targets":
        series = series.with_columns(z=pl.col("y") * 2).rename({"y": "a", "z": "b"})
    if kind == "covariates":
        future = pl.DataFrame(keys | {"promo": y % 2, "day": [*"abc"] * (len(y) // 3)})
        series = series.with_columns(visits=pl.col("y") * 3)
    if kind == "dates":
        day = pl.lit("2024-01-31").str.to_date().dt.offset_by(pl.col("ds").cast(str) + "mo")
        series = series.with_columns(ds=day)
    if kind == "tokens":
        series = series.with_columns(y=pl.Series([*"abcdef"] * ITEMS))
    return series, static, future


SETTINGS: dict[str, dict[str, Any]] = {
    "quantiles": {"layers": 2},
    "plain": {"analogues": False, "conditioning": "inputs", "cell": "simple_rnn"},
    "targets": {"target_col": ["a", "b"]},
    "covariates": {"past_cols": ["visits"], "cell": "gru", "depth": 2},
    "dates": {"conditioning": "both"},
    "tokens": {"tied": True, "embedding": 4},
    **{head: {"head": head} for head in HEADS if head != "quantiles"},
}
SMALL: dict[str, Any] = {"units": 3, "encoding": 2, "ensemble": 2, "epochs": 1}


def _forecast(forecaster: Any, kind: str) -> list[np.ndarray]:
    """What a model of a kind forecasts for two items, one of them without a prefix."""
    import polars as pl

    series, static, future = _tables(kind)
    begun = series.filter(pl.col("unique_id") == "item 0").head(2)
    some = static.head(2)
    if kind == "tokens":
        return [forecaster.log_likelihood(begun, some)["log_likelihood"].to_numpy()]
    if future is not None:
        future = future.filter(pl.col("unique_id").is_in(some["unique_id"]))
    ahead = 100 * STEPS  # values that grow leave float32
    if future is not None:
        ahead = STEPS
    elif kind == "negative_binomial":
        ahead = 5 * STEPS  # its quantiles are found by bisection: 600 steps would take 20 s
    table = forecaster.predict(begun, some, until=ahead, future=future)
    return [column.to_numpy() for column in table if "statecast" in column.name]


def _current(path: Path) -> bool:
    """Whether the file is there, as this code writes it."""
    from statecast.errors import ModelFileError
    from statecast.tokens.forecaster import load_model

    try:
        load_model(path)
    except ModelFileError:
        return False
    return True


def corpus(folder: Path) -> dict[str, bytes]:
    """The files by name, made where they are not there yet."""
    from statecast import Forecaster, State, TokenForecaster

    folder.mkdir(parents=True, exist_ok=True)
    for kind, settings in SETTINGS.items():
        path = folder / f"model-{kind}.safetensors"
        if not _current(path):
            print(f"corpus: {path.name}", flush=True)
            series, static, future = _tables(kind)
            model = TokenForecaster if kind == "tokens" else Forecaster
            forecaster = model(**(SMALL | settings))
            forecaster.fit(series, static, future=future, verbose=0)
            state = forecaster.state(series, static, future=future)
            state.take([0, 3]).save(folder / f"state-{kind}.safetensors")
            forecaster.save(path)
    rng = np.random.default_rng(1)
    plain = {
        "whole": State({"h": rng.normal(size=(3, 2)), "n": np.arange(3)}, ids=[3, 1, 2]),
        "digits": State({"h": np.ones((2, 1), "float16")}, ids=[2**70, -1]),
        "nothing": State({"h": np.ones((2, 0)), "flag": np.array([True, False])}),
        "text": State({"h": np.ones((3, 1), "float32")}, ids=["", "b", "é"], fingerprint="f"),
    }
    for name, state in plain.items():
        state.save(folder / f"state-{name}.safetensors")
    return {path.stem: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


# -- the mutations ----------------------------------------------------------------------------

NASTY: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 2**31, 2**53, 2**63, 2**64, 10**400, -(2**63), 0.5, -0.0,
    1e30, 1e308, -1e308, 5e-324, "", "a", "0", "x" * 300, "\x00", "é", "nan", [], {}, [[]], [0],
    {"a": 1}, [None], ["a", "a"], ["ids"], "[" * 2000, list(range(50)),
)  # fmt: skip
NUMBERS = (np.nan, np.inf, -np.inf, 0.0, -1.0, 2.5, 1e6, -1e7, 1e30, 1e38, 1e-45, 255.0, -5.0)
DTYPES = (
    "F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I32", "I16", "I8", "U64", "U32",
    "U16", "U8", "BOOL", "C64", "f32", "", None, 5, [],
)  # fmt: skip


def _nodes(tree: Any) -> list[tuple[Any, Any]]:
    """Every place of a JSON tree: its holder and key."""
    found: list[tuple[Any, Any]] = []
    todo = [tree]
    while todo:
        holder = todo.pop()
        keys = holder if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            found.append((holder, key))
            if isinstance(holder[key], (dict, list)):
                todo.append(holder[key])
    return found


def _change_tree(rng: random.Random, tree: Any) -> None:
    nodes = _nodes(tree)
    if not nodes:
        return
    holder, key = rng.choice(nodes)
    what = rng.randrange(6)
    if what == 0:
        del holder[key]
    elif what == 1 and isinstance(holder, dict):
        holder[rng.choice(("", "a", "h", f"{key}x"))] = holder.pop(key)
    elif what == 1:
        holder.append(copy.deepcopy(rng.choice(NASTY)))
    elif what == 2:
        other, place = rng.choice(nodes)
        holder[key] = json.loads(json.dumps(other[place]))
    elif what == 3 and isinstance(holder[key], (int, float)):
        holder[key] = holder[key] * rng.choice((2, -1, 0.5, 1000)) + rng.choice((0, 1, -1))
    else:
        holder[key] = copy.deepcopy(rng.choice(NASTY))


def _change_tensor(rng: random.Random, header: Header, data: bytearray) -> None:
    names = [name for name in header if name != "__metadata__"]
    if not names:
        return
    name = rng.choice(names)
    entry = header[name]
    what = rng.randrange(8)
    if what == 0:
        entry["dtype"] = rng.choice(DTYPES)
    elif what == 1 and entry["shape"]:
        entry["shape"][rng.randrange(len(entry["shape"]))] = rng.choice((0, 1, 2, -1, 2**40, 2**64))
    elif what == 2:
        entry["data_offsets"][rng.randrange(2)] += rng.choice((-8, -1, 1, 4, 8, 2**40))
    elif what == 3:
        other = rng.choice(names)
        header[name], header[other] = header[other], header[name]
    elif what == 4:
        entry["shape"] = rng.choice((entry["shape"][::-1], [1, *entry["shape"]], [2**40, 0], []))
    else:
        _change_numbers(rng, entry, data)


def _change_numbers(rng: random.Random, entry: Any, data: bytearray) -> None:
    kinds = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "U8": "<u1", "BOOL": "<u1"}
    begin, end = entry["data_offsets"]
    kind = np.dtype(kinds.get(entry["dtype"], "<u1"))
    count = (min(end, len(data)) - begin) // kind.itemsize
    if count < 1 or begin < 0:
        return
    array = np.frombuffer(data, kind, count, begin)
    at = slice(None) if rng.random() < 0.2 else rng.randrange(count)
    number = rng.choice(NUMBERS)
    if kind.kind == "f":
        with np.errstate(over="ignore"):
            array[at] = number
    else:
        limit = np.iinfo(kind)
        array[at] = int(np.clip(np.nan_to_num(number), limit.min / 2, limit.max / 2))


def _split(file: bytes) -> tuple[Header, bytearray]:
    length = struct.unpack("<Q", file[:8])[0]
    return json.loads(file[8 : 8 + length]), bytearray(file[8 + length :])


def mutated(rng: random.Random, files: dict[str, bytes]) -> tuple[str, bytes]:
    """A file of the corpus, changed, and its name."""
    name = rng.choice(list(files))
    file = files[name]
    if rng.random() < 0.85:
        header, data = _split(file)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            what = rng.random()
            metadata: Any = header.get("__metadata__")
            inside = "config" if name.startswith("model") else "leaves"
            own = isinstance(metadata, dict) and isinstance(metadata.get(inside), str)
            try:
                if what < 0.45 and own:
                    tree = [json.loads(metadata[inside])]
                    _change_tree(rng, tree)
                    metadata[inside] = json.dumps(tree[0]) if tree else ""
                elif what < 0.6:
                    _change_tree(rng, header)
                else:
                    _change_tensor(rng, header, data)
            except (
                TypeError,
                ValueError,
                KeyError,
                AttributeError,
                IndexError,
                OverflowError,
                RecursionError,
            ):
                pass  # an earlier change has left nothing to change there
        if rng.random() < 0.1:  # tensors where they belong once more, whatever their sizes
            data = data[: rng.randrange(len(data) + 1)]
        text = json.dumps(header).encode("utf-8", "surrogatepass")
        file = struct.pack("<Q", len(text)) + text + bytes(data)
    what = rng.random()
    if what < 0.06:
        file = file[: rng.randrange(len(file) + 1)]
    elif what < 0.12:
        other = files[rng.choice(list(files))]
        cut = rng.randrange(len(file) + 1)
        file = file[:cut] + other[rng.randrange(len(other) + 1) :]
    elif what < 0.2:
        changed = bytearray(file)
        for _ in range(rng.choice((1, 2, 8))):
            if changed:
                changed[rng.randrange(len(changed))] = rng.randrange(256)
        file = bytes(changed)
    elif what < 0.22:
        file += bytes(rng.randrange(1, 100))
    return name, file


# -- an execution -----------------------------------------------------------------------------


class Hang(BaseException):
    """A load took more than its processor time."""


class BrokenError(AssertionError):
    """A file was accepted that does not work, or cost too much."""


def _rung(*_: Any) -> None:
    raise Hang(f"more than {SECOND} s of processor time")


def _memory() -> int:
    """The most memory, in bytes, that this process ever took. A call takes as long as a load."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


_before = 0  # as measured last; a second measurement for each file would double the time


def execute(name: str, file: bytes, original: bytes, forecasts: bool) -> bool:
    """Load a file; whether it was accepted. Raises what a user would not expect."""
    global _before
    from statecast import State
    from statecast.errors import ModelFileError, StatecastError
    from statecast.tokens.forecaster import load_model

    load: Callable[[bytes], Any] = load_model if name.startswith("model") else State.load
    signal.setitimer(signal.ITIMER_PROF, SECOND)
    try:
        found = load(file)
    except ModelFileError:
        found = None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    before, _before = _before, _memory()
    if _before - before > 2.5 * len(file) + CONSTANT:
        raise BrokenError(f"{_before - before:,} bytes of memory for a file of {len(file):,}")
    if found is None or file == original:
        return found is not None
    if isinstance(found, State):
        for leaf in found.leaves.values():
            if leaf.dtype.kind == "f" and not np.isfinite(leaf).all():
                raise BrokenError("a leaf that is not finite")
        if found.rows and found.take([0]).rows != 1:
            raise BrokenError("a row of it is no row")
        return True
    if not forecasts:
        return True
    again = load_model(found._packed())
    if again.fingerprint != found.fingerprint:
        raise BrokenError("written and read again it is another model")
    try:
        values = _forecast(found, name.removeprefix("model-"))
    except StatecastError:
        return True
    finally:
        _before = _memory()
    # Some of the rest is null where a step is given: a whole column of them is not.
    if not all(np.isfinite(array.astype(float)).all() for array in values):
        raise BrokenError("a forecast that is not finite")
    return True


def run(args: argparse.Namespace) -> int:
    """Executions until the count or the time is up; how many failed."""
    warnings.simplefilter("ignore")
    out = Path(args.out)
    files = corpus(out / "corpus")
    state = out / "progress.json"
    done = {"next": 0, "executions": 0, "accepted": 0, "failures": 0, "forecasts": 0}
    if args.seed is None and args.replay is None and state.exists():
        done |= json.loads(state.read_text())
    elif args.seed is not None:
        done["next"] = args.seed
    global _before
    _before = _memory()
    for name, file in files.items():  # as it is, every file is accepted; and all is warm
        if not execute(name, file, file, False):
            raise SystemExit(f"{name} of the corpus is refused")
        if name.startswith("model"):
            execute(name, file, b"", True)
    signal.signal(signal.SIGPROF, _rung)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + ROOM, resource.RLIM_INFINITY))
    if args.replay is not None:
        name, file = mutated(random.Random(args.replay), files)
        Path(out / f"replay-{args.replay}.safetensors").write_bytes(file)
        print(f"{name}: accepted" if execute(name, file, files[name], True) else f"{name}: refused")
        return 0
    begun, said, first = time.monotonic(), time.monotonic(), done["executions"]
    failed = 0
    while True:
        now = time.monotonic()
        last = done["executions"] - first >= args.count or now - begun > args.seconds
        if last or now - said > 10:
            said = now
            part = state.with_suffix(".part")
            part.write_text(json.dumps(done))
            part.replace(state)
            print(f"{now - begun:7.0f} s  {json.dumps(done)}", flush=True)
        if last:
            return failed
        for _ in range(200):
            seed = done["next"]
            done["next"] += 1
            done["executions"] += 1
            name, file = mutated(random.Random(seed), files)
            forecasts = seed % args.forecasts == 0
            try:
                accepted = execute(name, file, files[name], forecasts)
                done["accepted"] += accepted
                done["forecasts"] += accepted and forecasts
            except (Exception, Hang) as error:
                failed += 1
                done["failures"] += 1
                bad = out / "failures"
                bad.mkdir(exist_ok=True)
                (bad / f"{seed}.safetensors").write_bytes(file)
                (bad / f"{seed}.txt").write_text(f"{name}\n{traceback.format_exc()}")
                print(f"seed {seed} ({name}): {type(error).__name__}: {error!s:.200}", flush=True)
                if failed >= args.most:
                    args.count = 0


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--count", type=float, default=float("inf"), help="at most, this run")
    parser.add_argument("--seed", type=int, help="of the first execution")
    parser.add_argument("--replay", type=int, metavar="SEED")
    parser.add_argument("--forecasts", type=int, default=50, help="one in so many forecasts")
    parser.add_argument("--most", type=int, default=20, help="stop at so many failures")
    parser.add_argument("--out", default="build/fuzz")
    sys.exit(1 if run(parser.parse_args()) else 0)


if __name__ == "__main__":
    main()
