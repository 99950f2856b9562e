"""The output of the commands: tables, charts and files, lines of text, and progress.

Results go to stdout or to files; messages go to stderr. A file is written completely or not at all.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import typer

from statecast.cli.options import COLUMNS, FEATURES
from statecast.errors import ArgumentError
from statecast.process import BACKENDS
from statecast.progress import display, trained_text

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

    from statecast.forecast.forecaster import Forecaster
    from statecast.state import State
    from statecast.tables.schema import Schema
    from statecast.tables.targets import Target
    from statecast.tokens.forecaster import TokenForecaster


TABLES = (".csv", ".parquet")
CHARTS = (".png", ".pdf", ".svg")
PAGE = ".html"
MODELS = (".safetensors",)
INTERRUPTED = "Interrupted; nothing was written."
PARTS_KEPT = "Interrupted; parts that are complete are kept. Repeat the command to go on."


def check_outputs(
    kinds: Mapping[Path, Sequence[str]], inputs: Iterable[Path | str | None] = ()
) -> None:
    """Raise ``ArgumentError`` unless every output can be written.

    It is called before the computation, so that no result is lost. Options that may be files are
    among ``inputs``; those that are not have no file of their name.
    """
    given = [Path(each) for each in inputs if each]
    inputs = [path for path in given if path.exists()]
    for path, endings in kinds.items():
        if path.suffix not in endings:
            raise ArgumentError(
                f"{path}: expected a file name ending in {' or '.join(endings)}, "
                f"received {path.name!r}."
            )
        check_folder(path.parent, path)
        if path.is_dir():
            raise ArgumentError(f"{path}: expected a file, received a folder. Choose another name.")
        if path.exists() and any(path.samefile(given) for given in inputs):
            raise ArgumentError(
                f"{path}: expected a file that is not an input. Choose another name for the output."
            )


def check_folder(folder: Path, path: Path) -> None:
    """Raise ``ArgumentError`` unless the output ``path`` can be written in ``folder``."""
    if not folder.is_dir():
        raise ArgumentError(f"{path}: there is no folder {folder}. Make it first.")
    try:
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ArgumentError(
            f"{path}: the folder {folder} cannot be written to ({error.strerror}). Choose another."
        ) from None


def deliver(found: Any, out: Path | None) -> None:
    """Write a table of any library to a file, or to stdout as CSV."""
    import polars as pl

    table = pl.DataFrame(found)
    if out is None:
        sys.stdout.write(table.write_csv())
        return
    write_files({out: table_bytes(table, out)})
    note(f"Wrote {table.height} rows to {out}.")


def write_files(files: Mapping[Path, bytes]) -> None:
    """Write files from memory, each completely or not at all."""
    from statecast.files import write_whole

    for path, content in files.items():
        write_whole(path, content)


def table_bytes(table: pl.DataFrame, path: Path) -> bytes:
    """Return a table in the format of the ending of ``path``."""
    from io import BytesIO

    buffer = BytesIO()
    if path.suffix == ".parquet":
        table.write_parquet(buffer)
    else:
        table.write_csv(buffer)
    return buffer.getvalue()


def chart_bytes(figure: Figure, path: Path) -> bytes:
    """Return a figure in the format of the ending of ``path``."""
    from io import BytesIO

    buffer = BytesIO()
    figure.savefig(buffer, format=path.suffix[1:])
    return buffer.getvalue()


def say(text: str) -> None:
    """Write a warning or an error to stderr, as stdout has the results."""
    typer.echo(text, err=True)


_quiet: ContextVar[bool] = ContextVar("_quiet", default=False)


def be_quiet(quiet: bool) -> None:
    """Note whether the command was called with --quiet."""
    _quiet.set(quiet)


def note(text: str) -> None:
    """Write a message to stderr, unless the command was called with --quiet."""
    if not _quiet.get():
        say(text)


def print_pairs(pairs: Iterable[tuple[str, Any]]) -> None:
    """Write names and values to stdout, in two columns."""
    pairs = list(pairs)
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        typer.echo(f"{name:<{width}}  {value}")


def installation_pairs() -> Iterator[tuple[str, Any]]:
    """Yield the versions of the installed packages, the backend and the state of the kernel."""
    from importlib.metadata import PackageNotFoundError, version

    from statecast import __version__
    from statecast.recurrence.kernels.native import library

    yield "statecast", __version__
    yield "python", sys.version.split()[0]
    backend = os.environ["KERAS_BACKEND"]
    unknown = "" if backend in BACKENDS else f" (expected one of {', '.join(BACKENDS)})"
    yield "backend", backend + unknown
    yield "native kernel", library.status()
    packages = {
        "keras": "jax",
        "jax": "jax",
        "torch": "torch",
        "tensorflow-cpu": "tensorflow",
        "pyarrow": "parquet",
        "scikit-learn": "evaluate",
        "matplotlib": "plots",
        "plotly": "interactive",
        "onnx": "onnx",
        "mlflow-skinny": "mlflow",
    }
    for package, extra in packages.items():
        try:
            yield package, version(package)
        except PackageNotFoundError:
            yield package, f"not installed: pip install 'statecast[{extra}]'"


def model_pairs(forecaster: Forecaster | TokenForecaster, path: Path) -> Iterator[tuple[str, Any]]:
    """Yield names and values that describe a model, its file and the tables that it needs."""
    schema = forecaster.schema
    yield "file", f"{path} ({path.stat().st_size:,} bytes)"
    yield "model", f"{type(forecaster).__name__}, fitted on {_tables_of(schema.kind.library)}"
    ids = getattr(schema.kind.ids, "name", None)
    yield "id column", schema.id_col + (f": {ids}" if ids else "")
    yield "step column", f"{schema.step_col}: {_steps_of(schema)}"
    if schema.start_col is not None:
        yield "launch date column", schema.start_col
    if schema.group_col is not None:
        yield "group column", schema.group_col
    if schema.origin_col is not None:
        yield "origin column", f"{schema.origin_col}: the time of step 1, for fit only"
    if schema.calendar:
        yield "closed", str(schema.calendar)
    for target in schema.targets:
        yield "target column", f"{target.name}: {_values(schema, target)}"
    for table in ("static", "future", "past"):
        columns = getattr(schema, table)
        for name, kind in columns.kinds.items():
            known = columns.categories.get(name)
            values = "" if known is None else f": {_shortened(known)}"
            yield f"{table} column", f"{name}: {kind}{values}"
        if not columns.kinds and (table == "static" or schema.vocabulary is None):
            yield f"{table} columns", "none"
    items = forecaster.training_items
    if items is not None:
        yield "training items", f"{items:,}, whose values are in the file"
    yield from _group_pairs(forecaster)
    yield "trained", trained_text(forecaster.history)
    weights = forecaster.weights.values()
    yield "weights", f"{sum(w.size for w in weights):,} numbers in {len(weights)} arrays"
    yield "fingerprint", forecaster.fingerprint
    settings = {"head": getattr(forecaster.settings, "head", "categorical")}
    settings |= forecaster.settings.changed
    for name, value in settings.items():
        if name not in (*COLUMNS, *FEATURES, "transform", "bounds"):
            yield name, value
    yield "other settings", "the defaults: `statecast fit --help`"


def state_pairs(state: State, path: Path) -> Iterator[tuple[str, Any]]:
    """Yield names and values that describe a state and its file."""
    yield "file", f"{path} ({path.stat().st_size:,} bytes)"
    yield "state", f"{state.rows:,} row{'s' * (state.rows != 1)}"
    yield "ids", "none" if state.ids is None else _shortened([str(each) for each in state.ids])
    if "step" in state.names and state["step"].size:
        steps = state["step"]
        low, high = f"{steps.min():g}", f"{steps.max():g}"
        span = low if low == high else f"{low} to {high}"
        yield "steps taken", f"{span} (of several targets, each one counts)"
    for name in state.names:
        leaf = state[name]
        yield "leaf", f"{name}: {leaf.dtype} {leaf.shape}"
    if state.fingerprint is None:
        yield "fingerprint", "none: it is not a state of a forecaster"
    else:
        yield "fingerprint", f"{state.fingerprint}, of the model that made the state and can use it"


def _group_pairs(forecaster: Forecaster | TokenForecaster) -> Iterator[tuple[str, str]]:
    """Yield what was learnt about the items of a group, by the number of known steps."""
    dependence = getattr(forecaster, "dependence", None)
    pooling = getattr(forecaster, "pooling", None)
    learnt = {
        "loadings on the group": (dependence, "loading"),
        "spread in time": (dependence, "spread"),
        "strength of a context": (pooling, "strength"),
    }
    for name, (model, values) in learnt.items():
        if model is not None:
            pairs = zip(model.known.tolist(), getattr(model, values).tolist(), strict=True)
            yield name, ", ".join(f"{value:.2f} (k = {k})" for k, value in pairs)


def _tables_of(library: str) -> str:
    return "arrays" if library == "arrays" else f"tables of {library}"


def _steps_of(schema: Schema) -> str:
    """Return what the steps are: numbers or dates, how far apart, and how many there are."""
    if schema.spacing is None:
        return f"whole numbers from {schema.first} to {schema.number(schema.steps)}"
    form = schema.kind.steps
    assert form is not None  # a fitted schema has one
    kind = f"{form.type} of {form.zone}" if form.zone else form.type
    return f"{kind}, one step every {schema.spacing.short}, up to {schema.steps} steps"


def _values(schema: Schema, target: Target) -> str:
    """Return what the values of a target are, and how they are transformed."""
    if schema.vocabulary is not None:
        tokens = schema.vocabulary.tokens
        return f"{len(tokens)} tokens: {_shortened([repr(token) for token in tokens])}"
    low, high = target.transform.bounds
    return f"numbers from {low:g} to {high:g}, transform {target.transform.name}"


def _shortened(values: Sequence[str], most: int = 8) -> str:
    more = f", ... ({len(values)} in all)" if len(values) > most else ""
    return ", ".join(values[:most]) + more


@contextmanager
def show_progress(quiet: bool = False) -> Iterator[None]:
    """Show the progress of the block: bars on a terminal, and lines elsewhere.

    With ``quiet`` neither it nor the messages of the commands are shown; warnings and errors are.
    """
    be_quiet(quiet)
    with display(0 if quiet else "auto", note):
        yield


def leave_at_once(*_: Any, text: str = INTERRUPTED) -> None:
    """Show a text and end the process: the handler of Ctrl-C.

    It raises no exception, which could end the process without a message if it came during a
    compilation. Nothing is lost, as outputs are written completely or not at all.
    """
    say(text)
    sys.stdout.flush()
    os._exit(130)
