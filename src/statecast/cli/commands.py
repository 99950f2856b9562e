"""The commands. Each one calls the library.

A command checks its options and outputs, then computes, then writes. An error in data, arguments or
files is one message on stderr, with exit code 2. Slow imports are inside the commands, so that
``--help`` is fast.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from statecast.cli.examples import START, example
from statecast.cli.options import (
    COLUMNS,
    FEATURES,
    NONE,
    NUMBERS,
    SEVERAL,
    Address,
    Ahead,
    Context,
    Engine,
    FitAddress,
    FitEngine,
    FitWorkers,
    Forbid,
    FromState,
    Future,
    Gpus,
    Known,
    Level,
    Model,
    OfTokens,
    Out,
    Overwrite,
    Partition,
    Quantile,
    Quiet,
    Require,
    Rows,
    Series,
    SeriesOrState,
    Static,
    Strict,
    Until,
    Workers,
    given_only,
    new_forecaster,
    read_constraints,
    read_context,
    read_cutoffs,
    read_groups,
    read_list,
    read_token,
    read_until,
    refuse_for_numbers,
    refuse_for_tokens,
    refuse_without_engine,
    with_settings,
)
from statecast.cli.output import (
    CHARTS,
    INTERRUPTED,
    MODELS,
    PAGE,
    PARTS_KEPT,
    TABLES,
    be_quiet,
    chart_bytes,
    check_folder,
    check_outputs,
    deliver,
    installation_pairs,
    leave_at_once,
    model_pairs,
    note,
    print_pairs,
    say,
    show_progress,
    state_pairs,
    table_bytes,
    write_files,
)
from statecast.errors import ArgumentError, DataWarning, ModelFileError, StatecastError
from statecast.forecast.settings import ForecasterSettings
from statecast.interrupt import noted
from statecast.process import check_extra

if TYPE_CHECKING:
    from statecast.forecast.forecaster import Forecaster
    from statecast.tokens.forecaster import TokenForecaster


class _Commands(TyperGroup):
    """Commands whose errors are one message and exit code 2, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        be_quiet(False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", DataWarning)
            warnings.showwarning = lambda message, *rest: say(f"warning: {message}")
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt:
                say(INTERRUPTED)
                raise typer.Exit(130) from None
            except StatecastError as error:
                say(f"error: {error}")
                raise typer.Exit(2) from None


app = typer.Typer(
    cls=_Commands,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Forecast the rest of a sequence from what an item is and how it began.",
    epilog="Tables are CSV or Parquet files. `statecast COMMAND --help` describes a command, with "
    "an example.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from statecast import __version__

        typer.echo(f"statecast {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Define the options that come before a command; without a command, say how to begin."""
    if context.invoked_subcommand is None:
        typer.echo(START)


def main() -> None:
    """Run the command line."""
    # Hide the many lines that TensorFlow writes on import, but not its errors.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    signal.signal(signal.SIGINT, leave_at_once)
    if sys.stdout is None:
        say("error: standard output is closed. Redirect it to a file, or to /dev/null.")
        sys.exit(2)
    for stream in (0, 2):  # if closed, the next file that is opened would become stdin or stderr
        try:
            os.fstat(stream)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # write the buffered text while an error can be reported
    except OSError as error:  # of stdout: errors of files are StatecastErrors
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that Python does not write again at exit
        if error.errno != errno.EPIPE:  # EPIPE: the reading program, such as `head`, has ended
            say(f"error: standard output cannot be written ({error.strerror}).")
        sys.exit(2)


@app.command(epilog=example("fit"))
@with_settings()
def fit(
    series: Series,
    static: Static = None,
    *,
    tokens: OfTokens = False,
    future: Future = None,
    out: Annotated[Path, typer.Option(help="The model file, .safetensors.")],
    engine: FitEngine = None,
    workers: FitWorkers = None,
    address: FitAddress = None,
    gpus: Gpus = None,
    quiet: Quiet = False,
    settings: dict[str, Any],
) -> None:
    """Train a forecaster and write it to a file.

    One model serves every prefix length. Ctrl-C ends the training and keeps the best epoch so
    far. A second Ctrl-C, or one before the end of the first epoch, writes nothing.

    With --engine ray the members of the ensemble are trained by processes of a Ray cluster. The
    model does not depend on their number. Ctrl-C then writes nothing.
    """
    check_outputs({out: MODELS}, inputs=[series, static, future])
    forecaster = new_forecaster(tokens, settings)
    cluster = given_only({"workers": workers, "address": address, "gpus": gpus})
    if engine is None:
        refuse_without_engine({f"--{name}": value for name, value in cluster.items()})
    # From the start of the training until the file is written, Ctrl-C is noted in a flag.
    with noted(replacing=leave_at_once, at_once=False):
        with show_progress(quiet):
            if engine is not None:
                from statecast.distributed.fitting import fit as fit_apart

                tables = {"series": series, "static": static, "future": future}
                fit_apart(forecaster, **tables, engine=engine, **cluster)
            else:
                forecaster.fit(series, static, future=future)
        forecaster.save(out)
    note(f"Wrote {out}.")


def _check_items(series: str | None, static: str | None, state: Path | None) -> None:
    """Raise ``ArgumentError`` unless the items of a forecast are those of tables, or of a state."""
    if state is None and series is None:
        raise ArgumentError("Expected SERIES (or - for none), or --state; received neither.")
    if state is not None and (series is not None or static is not None):
        raise ArgumentError("Expected SERIES and STATIC, or --state; received both.")


def _begun(
    forecaster: Forecaster | TokenForecaster,
    series: str | None,
    static: str | None,
    state: Path | None,
) -> dict[str, Any]:
    """Return the arguments of a forecast that are its items: tables, or a state."""
    if state is None:
        return {"series": None if series == NONE else series, "static": static}
    if forecaster.schema.kind.library == "arrays":
        raise ArgumentError(
            "--state: expected a model that was fitted on tables; this one was fitted on arrays, "
            "and forecasts from its states are arrays. Give SERIES, or use Python."
        )
    from statecast.state import State

    return {"state": State.load(state)}


@app.command(epilog=example("forecast"))
def forecast(
    model: Model,
    series: SeriesOrState = None,
    static: Static = None,
    *,
    state: FromState = None,
    until: Until = None,
    h: Ahead = None,
    strict: Strict = False,
    future: Future = None,
    context: Context = None,
    level: Level = None,
    quantile: Quantile = None,
    mean: Annotated[
        bool, typer.Option("--mean", help="The mean too, for forecasts that are added up.")
    ] = False,
    calibrated: Annotated[
        bool, typer.Option(help="Quantiles calibrated on held-out items, or those of the model.")
    ] = True,
    beam: Annotated[
        int | None,
        typer.Option(
            metavar="WIDTH", help="Tokens: beam width, the hypotheses kept at each step.  [1]"
        ),
    ] = None,
    best: Annotated[
        int | None,
        typer.Option(metavar="N", help="Tokens: give the N best sequences.  [1]"),
    ] = None,
    length_power: Annotated[
        float | None,
        typer.Option(help="Tokens: rank by log-probability / length ** this.  [0]"),
    ] = None,
    forbid: Forbid = None,
    require: Require = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="CSV or Parquet file; default CSV to stdout. With --engine: a folder, or its URL."
        ),
    ] = None,
    engine: Engine = None,
    workers: Workers = None,
    address: Address = None,
    partition: Partition = None,
    rows: Rows = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Forecast the steps after the prefix of every item, from its static features and its prefix.

    An item of STATIC without a row in SERIES is forecast from its static features only. With `-`
    for SERIES this holds for all items. With --state, the items are those of a state.

    With --engine the forecasts are computed in parts, and a call that was interrupted goes on where
    it was.
    """
    _check_items(series, static, state)
    job = {
        "workers": workers,
        "address": address,
        "partition": partition,
        "rows": rows,
        "overwrite": overwrite or None,
    }
    if engine is None:
        refuse_without_engine({f"--{name}": value for name, value in job.items()})
        if out is not None:
            read = [model, series, static, state, future, *(context or ()), until]
            check_outputs({Path(out): TABLES}, inputs=read)
    elif out is None or state is not None or context:
        raise ArgumentError(
            "--engine: expected --out with a folder, and neither --state nor --context."
        )
    elif isinstance(read_until(until), Path):
        raise ArgumentError(
            "--until: expected one step for all items with --engine; received a file. Give --h for "
            "a number of steps after each prefix."
        )
    from statecast.tokens.decoding import Beam
    from statecast.tokens.forecaster import TokenForecaster, load_model

    forecaster = load_model(model)
    begun = _begun(forecaster, series, static, state)
    ahead = {"h": h, "strict": strict, "until": read_until(until)}
    if isinstance(forecaster, TokenForecaster):
        refuse_for_tokens(
            {
                "--level": level,
                "--quantile": quantile,
                "--mean": mean,
                "--future": future,
                "--context": context,
                "--no-calibrated": not calibrated,
            }
        )
        width = best if beam is None else beam
        search = {"width": width, "best": best, "length_power": length_power}
        search |= read_constraints(forecaster.schema.vocabulary, forbid, require)
        asked: dict[str, Any] = {"beam": Beam(**given_only(search))}
    else:
        refuse_for_numbers(
            {
                "--beam": beam,
                "--best": best,
                "--length-power": length_power,
                "--forbid": forbid,
                "--require": require,
            }
        )
        asked = {
            "level": read_list("level", level, float) or (80,),
            "quantiles": read_list("quantile", quantile, float),
            "mean": mean,
            "calibrated": calibrated,
        }
    if engine is not None:
        from statecast.distributed.forecasts import forecast as forecast_in_parts

        given = given_only(begun | {"future": future, "out": out} | job)
        # Processes end with this one. A cluster is told to end, which takes it some seconds.
        ends = partial(leave_at_once, text=PARTS_KEPT)
        before = signal.signal(
            signal.SIGINT, ends if engine == "processes" else signal.default_int_handler
        )
        try:
            with show_progress(quiet):
                report = forecast_in_parts(forecaster, **given, **ahead, **asked, engine=engine)
        except KeyboardInterrupt:
            say(PARTS_KEPT)
            raise typer.Exit(130) from None
        finally:
            signal.signal(signal.SIGINT, before)
        note(
            f"Wrote {report.rows:,} rows for {report.items:,} items to {out}, in {report.parts:,} "
            f"parts ({report.kept:,} were there), in {report.seconds:.1f} s."
        )
        return
    table: Any
    with show_progress(quiet):
        if isinstance(forecaster, TokenForecaster):
            table = forecaster.generate(**begun, **ahead, **asked)
        else:
            asked["context"] = read_context(context, future)
            table = forecaster.predict(**begun, **ahead, **asked, future=future)
    deliver(table, None if out is None else Path(out))


@app.command(epilog=example("total"))
def total(
    model: Model,
    series: SeriesOrState = None,
    static: Static = None,
    *,
    state: FromState = None,
    until: Until = None,
    h: Ahead = None,
    strict: Strict = False,
    future: Future = None,
    context: Context = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="The groups: a column of STATIC, or a file of the ids and the columns of their "
            f"groups. {SEVERAL}  [each item]",
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="One total of all items.")] = False,
    since: Annotated[
        int | None,
        typer.Option(
            metavar="STEP",
            help="The first step that is counted; observations from it on count too.  "
            "[the first after the prefix]",
        ),
    ] = None,
    weight: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="A column of STATIC, or a file of the ids and one column of numbers, by which the "
            "values of an item are multiplied.",
        ),
    ] = None,
    across_targets: Annotated[
        bool,
        typer.Option("--across-targets", help="With several targets: one total of all of them."),
    ] = False,
    level: Level = None,
    quantile: Quantile = None,
    mean: Annotated[bool, typer.Option("--mean", help="The mean of the total too.")] = False,
    paths: Annotated[int, typer.Option(help="The number of sample paths of each item.")] = 1000,
    out: Out = None,
) -> None:
    """Forecast totals: the sums over the steps after the prefix, of each item or of groups.

    A row has the median of a total and an interval, from joint sample paths. The columns of --by
    and --weight need not be features of the model. With --state both are files.
    """
    _check_items(series, static, state)
    if out is not None:
        read = [model, series, static, state, future, *(context or ()), until, weight, *(by or ())]
        check_outputs({out: TABLES}, inputs=read)
    from statecast.forecast.forecaster import Forecaster

    forecaster = Forecaster.load(model)
    found = forecaster.predict_total(
        **_begun(forecaster, series, static, state),
        until=read_until(until),
        h=h,
        strict=strict,
        future=future,
        context=read_context(context, future),
        by=read_groups(by, everything),
        since=since,
        weight=weight,
        across_targets=across_targets,
        level=read_list("level", level, float) or (80,),
        quantiles=read_list("quantile", quantile, float),
        mean=mean,
        paths=paths,
    )
    deliver(found, out)


@app.command(epilog=example("simulate"))
def simulate(
    model: Model,
    series: SeriesOrState = None,
    static: Static = None,
    *,
    state: FromState = None,
    until: Until = None,
    h: Ahead = None,
    strict: Strict = False,
    future: Future = None,
    context: Context = None,
    paths: Annotated[int, typer.Option(help="The number of paths of each item.")] = 200,
    peak: Annotated[
        bool, typer.Option("--peak", help="The largest value of each item, and its step.")
    ] = False,
    time_to: Annotated[
        float | None,
        typer.Option(
            metavar="Y",
            help="The step at which each item reaches Y, and the share of paths that do not.",
        ),
    ] = None,
    falling: Annotated[
        bool, typer.Option("--falling", help="With --time-to: the step at which it falls to Y.")
    ] = False,
    since: Annotated[
        int | None,
        typer.Option(
            metavar="STEP",
            help="The first step that these two count.  [the first after the prefix]",
        ),
    ] = None,
    target_col: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="With several targets: the target of these two."),
    ] = None,
    level: Level = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="Tokens: below 1 raises the probability of likely tokens.  [1]"),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(metavar="K", help="Tokens: draw from the K most likely.")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            metavar="P", help="Tokens: draw from the most likely, of total probability P.  [1]"
        ),
    ] = None,
    forbid: Forbid = None,
    require: Require = None,
    out: Out = None,
) -> None:
    """Draw joint sample paths of the steps after the prefix of every item, a column for each path.

    `--peak` and `--time-to` write a summary of the paths instead: a row for each item, with the
    median and an interval. They are for numbers. For totals there is the command `total`.
    """
    _check_items(series, static, state)
    if out is not None:
        read = [model, series, static, state, future, *(context or ()), until]
        check_outputs({out: TABLES}, inputs=read)
    asked = peak or time_to is not None
    others = since is not None or bool(level) or target_col is not None
    _check_summary(peak=peak, time_to=time_to, falling=falling, others=others)
    from statecast.tokens.decoding import Sampling
    from statecast.tokens.forecaster import TokenForecaster, load_model

    forecaster = load_model(model)
    begun = _begun(forecaster, series, static, state)
    ahead = {"h": h, "strict": strict, "until": read_until(until)}
    if isinstance(forecaster, TokenForecaster):
        refuse_for_tokens(
            {"--peak": peak, "--time-to": time_to, "--future": future, "--context": context}
        )
        drawing = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        drawing |= read_constraints(forecaster.schema.vocabulary, forbid, require)
        sampling = Sampling(**given_only(drawing))
        sequences = forecaster.sample(**begun, **ahead, paths=paths, sampling=sampling)
        deliver(sequences.table(), out)
        return
    refuse_for_numbers(
        {
            "--temperature": temperature,
            "--top-k": top_k,
            "--top-p": top_p,
            "--forbid": forbid,
            "--require": require,
        }
    )
    summarised = _target_of_summary(forecaster, target_col) if asked else None
    others = read_context(context, future)
    drawn = forecaster.simulate(**begun, **ahead, future=future, context=others, paths=paths)
    if summarised is None:
        deliver(drawn.table(), out)
        return
    drawn = drawn.of(summarised)
    options: dict[str, Any] = {"since": since, "level": read_list("level", level, float) or (80,)}
    if time_to is not None:
        deliver(drawn.time_to(time_to, falling=falling, **options), out)
    else:
        deliver(drawn.peak(**options), out)


def _check_summary(*, peak: bool, time_to: float | None, falling: bool, others: bool) -> None:
    """Raise ``ArgumentError`` for both summaries, or for options of a summary without one."""
    if peak and time_to is not None:
        raise ArgumentError("Expected one of --peak and --time-to; received both.")
    if falling and time_to is None:
        raise ArgumentError("--falling is for --time-to.")
    if not peak and time_to is None and others:
        raise ArgumentError("--since, --level and --target-col are for --peak and --time-to.")


def _target_of_summary(forecaster: Forecaster, target: str | None) -> str:
    """Return the target of --peak or --time-to."""
    targets = list(forecaster.settings.targets)
    if target is not None and target not in targets:
        raise ArgumentError(f"--target-col: expected one of {targets}, received {target!r}.")
    if target is None and len(targets) > 1:
        raise ArgumentError(
            f"--peak and --time-to are of one target; this model has {targets}. "
            f"Name the target: --target-col {targets[0]}."
        )
    return target or targets[0]


@app.command(epilog=example("state"))
def state(
    model: Model,
    series: Series,
    static: Static = None,
    *,
    future: Future = None,
    out: Annotated[Path, typer.Option(help="The state file, .safetensors.")],
) -> None:
    """Write the state of every item after its prefix, from which `forecast --state` starts.

    `update` advances it by new rows without the past ones. An item of STATIC without a row in
    SERIES is at its first step. With `-` for SERIES this holds for all items.
    """
    check_outputs({out: MODELS}, inputs=[model, series, static, future])
    from statecast.tokens.forecaster import load_model

    begun = None if series == NONE else series
    found = load_model(model).state(begun, static, future=future)
    found.save(out)
    note(f"Wrote the state of {found.rows:,} items to {out}.")


@app.command(epilog=example("update"))
def update(
    model: Model,
    state: Annotated[
        Path, typer.Argument(metavar="STATE", help="A file that `state` or `update` wrote.")
    ],
    rows: Annotated[
        Path, typer.Argument(metavar="ROWS", help="The new rows of SERIES: id, step, value.")
    ],
    *,
    future: Future = None,
    out: Annotated[Path, typer.Option(help="The new state file, .safetensors.")],
) -> None:
    """Advance the items of a state by new rows, and write the new state to another file.

    The new state equals that of the complete series. It has all items of the old one.
    """
    check_outputs({out: MODELS}, inputs=[model, state, rows, future])
    from statecast.state import State
    from statecast.tokens.forecaster import load_model

    found = load_model(model).update(State.load(state), rows, future=future)
    found.save(out)
    note(f"Wrote the state of {found.rows:,} items to {out}.")


@app.command(epilog=example("serve"))
def serve(
    model: Model,
    *,
    store: Annotated[
        str,
        typer.Option(
            help="The file of the items, made if not there; or the URL of a Redis server."
        ),
    ],
    host: Annotated[str, typer.Option(help="The address.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0: any free one.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(help="A file with the token that requests need.", show_default=False),
    ] = None,
    no_token: Annotated[
        bool, typer.Option("--no-token", help="Let every machine that reaches HOST ask.")
    ] = False,
    policy: Annotated[
        str, typer.Option(help="Late and corrected observations: revise or reject.")
    ] = "revise",
    durability: Annotated[
        str, typer.Option(help="full, or relaxed: a crash of the machine may lose the last ones.")
    ] = "full",
    name: Annotated[
        str, typer.Option(help="The name of the model in the Open Inference Protocol.")
    ] = "statecast",
) -> None:
    """Serve a model over HTTP, with one durable state per item, until Ctrl-C or SIGTERM.

    Observations come in, and forecasts go out, as JSON: GET /openapi.json describes it. A line of
    JSON for each request is written to stderr.
    """
    if token_file is not None and no_token:
        raise ArgumentError("Expected one of --token-file and --no-token; received both.")
    token = None if token_file is None else read_token(token_file)
    from statecast.server.application import PACKAGES
    from statecast.server.run import check_address
    from statecast.server.run import serve as serve_sessions
    from statecast.sessions.sessions import Sessions
    from statecast.tokens.forecaster import load_model

    check_extra("serve", ("apsw", *PACKAGES))
    check_address(host, port, guarded=token is not None or no_token)
    sessions: Any = Sessions  # which checks the policy and the durability
    with sessions(load_model(model), store, policy=policy, durability=durability) as opened:
        serve_sessions(
            opened,
            host=host,
            port=port,
            token=token,
            without_token=no_token,
            name=name,
            started=lambda url: say(f"Serving {model} at {url}."),
        )


@app.command(epilog=example("score"))
def score(
    model: Model,
    series: Series,
    static: Static = None,
    *,
    known: Annotated[
        int,
        typer.Option(metavar="K", help="The number of given tokens; those after them are scored."),
    ] = 0,
    by_step: Annotated[
        bool, typer.Option("--by-step", help="Write a row for each item and step.")
    ] = False,
    unfinished: Annotated[
        bool,
        typer.Option(
            "--unfinished", help="The sequences are not complete: their ends are not scored."
        ),
    ] = False,
    out: Out = None,
) -> None:
    """Compute the log-likelihood of sequences of tokens: nats, bits per token, perplexity."""
    if out is not None:
        check_outputs({out: TABLES}, inputs=[model, series, static])
    from statecast.tokens.forecaster import TokenForecaster

    table = TokenForecaster.load(model).log_likelihood(
        series, static, known=known, ended=not unfinished, by_step=by_step
    )
    deliver(table, out)


@app.command(epilog=example("rank"))
def rank(
    model: Model,
    series: Annotated[
        Path, typer.Argument(metavar="SERIES", help="Complete sequences, each with an id.")
    ],
    static: Annotated[
        Path, typer.Argument(metavar="STATIC", help="Static features to compare them with.")
    ],
    *,
    by: Annotated[
        str, typer.Option(help="series: rank STATIC for each sequence; static: the reverse.")
    ] = "series",
    best: Annotated[
        int | None, typer.Option(metavar="N", help="Keep the N best of each ranking.  [all]")
    ] = None,
    out: Out = None,
) -> None:
    """Rank static features by the likelihood of a sequence of tokens, or the reverse."""
    if out is not None:
        check_outputs({out: TABLES}, inputs=[model, series, static])
    from statecast.tokens.forecaster import TokenForecaster

    found: Any = TokenForecaster.load(model).rank(series, static, by=by, best=best)  # type: ignore[arg-type]  # checked there
    deliver(found, out)


@app.command(epilog=example("explain"))
def explain(
    model: Model,
    series: Series,
    static: Static = None,
    *,
    until: Until = None,
    h: Ahead = None,
    strict: Strict = False,
    future: Future = None,
    analogues: Annotated[
        int, typer.Option(help="The number of training items with the most similar prefix to name.")
    ] = 5,
    out: Out = None,
) -> None:
    """Explain each forecast by its observations, its static features and similar items.

    Each observation and each static feature is masked in turn. `effect` is the forecast minus the
    forecast with it masked, as the mean over the steps after the prefix. `strength` is the mean
    absolute difference. With several targets, `target` is the target of the forecast.
    """
    if out is not None:
        check_outputs({out: TABLES}, inputs=[model, series, static, future, until])
    from statecast.forecast.forecaster import Forecaster

    found = Forecaster.load(model).explain(
        None if series == NONE else series,
        static,
        until=read_until(until),
        h=h,
        strict=strict,
        future=future,
        analogues=analogues,
    )
    deliver(found.table(), out)


@app.command(epilog=example("evaluate"))
@with_settings()
def evaluate(
    series: Series,
    static: Static = None,
    *,
    tokens: OfTokens = False,
    future: Future = None,
    by: Annotated[
        str,
        typer.Option(
            help="item: hold out items; launch: fit to what was known at cutoffs, and forecast "
            "what came after."
        ),
    ] = "item",
    folds: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDS",
            help="By item: a table of ids and folds, or a number of random folds.  [5]",
        ),
    ] = None,
    known: Known = None,
    cutoffs: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TIME",
            help=f"By launch: the last times that are known: dates or numbers. {SEVERAL} A single "
            "whole number is a number of cutoffs; as a time, write 1997.0.",
        ),
    ] = None,
    launch: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="By launch, if steps are numbers: the column of STATIC with the time of step 1.",
        ),
    ] = None,
    h: Annotated[
        int | None,
        typer.Option(
            "--h",
            metavar="STEPS",
            help="By launch: the number of steps after a cutoff that are scored.  [all]",
        ),
    ] = None,
    no_refit: Annotated[
        bool, typer.Option("--no-refit", help="By launch: fit at the first cutoff only.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="CSV or Parquet file for the scores.", show_default=False)
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Chart of the scores: png, pdf, svg.", show_default=False)
    ] = None,
    quiet: Quiet = False,
    settings: dict[str, Any],
) -> None:
    """Score forecasts of items held out from training, and those of simple baselines.

    Each fold is forecast by a forecaster that is fitted on the other folds. With `--by launch`, a
    forecaster is fitted at each cutoff to what was known then, and forecasts what came after. No
    model is written. The intervals of the scores are from a bootstrap over items.
    """
    steps = read_list("known", known, int) or [0, 1, 3, 5]
    kinds = {path: kinds for path, kinds in ((out, TABLES), (plot, CHARTS)) if path is not None}
    check_outputs(kinds, inputs=[series, static, future, folds])
    if plot is not None:
        check_extra("plots", ["matplotlib"])
    from statecast.evaluate.cross_validation import cross_validation

    forecaster: Any = new_forecaster(tokens, settings)
    if plot is not None and tokens:
        raise ArgumentError("--plot: scores of tokens have no chart. Leave --plot out.")
    if plot is not None and len(forecaster.settings.targets) > 1:
        raise ArgumentError(
            "--plot: a chart has the scores of one target. Leave --plot out, or evaluate one."
        )
    with show_progress(quiet):
        scores: Any = cross_validation(
            forecaster,
            series,
            static,
            future=future,
            by=by,  # type: ignore[arg-type]  # checked there
            folds=int(folds) if folds and folds.isdigit() else folds,
            known=steps,
            cutoffs=read_cutoffs(cutoffs),
            launch=launch,
            h=h,
            refit=not no_refit,
            seed=forecaster.settings.seed,
        )
    typer.echo(str(scores))
    files = {}
    if out is not None:
        files[out] = table_bytes(scores.table(), out)
    if plot is not None:
        from statecast.plots.curves import scores as draw_scores

        files[plot] = chart_bytes(draw_scores(scores), plot)
    write_files(files)
    if files:
        note(f"Wrote {' and '.join(map(str, files))}.")


@app.command(epilog=example("report"))
def report(
    model: Model,
    series: Series,
    static: Static = None,
    *,
    out: Annotated[Path, typer.Option(help="The HTML file to write.")],
    future: Future = None,
    known: Annotated[
        list[str] | None,
        typer.Option(
            metavar="K",
            help=f"The numbers of known steps to forecast from. {SEVERAL}  [0,1,3,5]",
        ),
    ] = None,
    until: Annotated[
        int | None,
        typer.Option(metavar="STEP", help="The last step that is scored.  [the last observed]"),
    ] = None,
    level: Level = None,
    items: Annotated[int, typer.Option(help="The number of best and of worst items.")] = 3,
    title: Annotated[
        str, typer.Option(help="The title.  [the names of the targets]", show_default=False)
    ] = "",
    quiet: Quiet = False,
) -> None:
    """Write a report on a model as one HTML file: a summary, scores, calibration, items, features.

    The tables have all observations of items that were not in training. They are forecast from
    their first K steps, and the forecasts are compared with what was observed, and with simple
    methods. Nothing is trained. The file needs no network and has no script.
    """
    check_outputs({out: (PAGE,)}, inputs=[model, series, static, future])
    check_extra("plots", ["matplotlib"])
    ks, levels = read_list("known", known, int), read_list("level", level, float)
    from statecast.report.assessment import assess
    from statecast.report.page import write_report
    from statecast.tokens.forecaster import load_model

    with show_progress(quiet):
        found = assess(
            load_model(model),
            series,
            static,
            future=future,
            known=ks or (0, 1, 3, 5),
            until=until,
            level=levels or (80,),
            items=items,
        )
    for text in found.warnings:
        say(f"warning: {text}")
    write_report(found, out, title=title)
    note(f"Wrote {out}.")


@app.command(epilog=example("plot"))
@with_settings(["id_col", "step_col"])
def plot(
    forecast: Annotated[
        Path, typer.Argument(metavar="FORECAST", help="A file that `forecast` wrote.")
    ],
    series: Annotated[
        Path | None,
        typer.Argument(metavar="SERIES", help="The observations.", show_default=False),
    ] = None,
    *,
    out: Annotated[
        Path,
        typer.Option(help="The chart: png, pdf or svg; or html, to point at and to zoom into."),
    ],
    item: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help=f"An item to draw. {SEVERAL}  [the first six]"),
    ] = None,
    target_col: Annotated[
        str,
        typer.Option(
            metavar="COLUMN",
            help="Column of the observations; of several targets, the one to draw.",
        ),
    ] = str(ForecasterSettings.default("target_col")),
    settings: dict[str, Any],
) -> None:
    """Draw fan charts of forecasts: the prefix, the median and the intervals.

    Observations in SERIES after the prefix of an item are drawn too.
    """
    check_outputs({out: (*CHARTS, PAGE)}, inputs=[forecast, series])
    from statecast.plots.charts import fan

    options = {"items": read_list("item", item) or None, "target_col": target_col, **settings}
    if out.suffix == PAGE:
        check_extra("interactive", ["plotly"])
        content = fan(forecast, series, interactive=True, **options).to_html().encode()
    else:
        check_extra("plots", ["matplotlib"])
        content = chart_bytes(fan(forecast, series, **options), out)
    write_files({out: content})
    note(f"Wrote {out}.")


@app.command(epilog=example("export"))
def export(
    model: Model,
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="The folder to write to. It is made if its parent exists."
        ),
    ],
) -> None:
    """Write a model as ONNX graphs, for programs without Python.

    The graphs are encode.onnx, from static features to a state, and step.onnx, from a state and an
    observation to the next state and a forecast. model.json describes their inputs and outputs.
    """
    from statecast.tokens.forecaster import load_model

    load_model(model).export(folder)
    note(f"Wrote encode.onnx, step.onnx and model.json to {folder}.")


@app.command(epilog=example("playground"))
def playground(
    model: Model,
    *,
    out: Annotated[Path, typer.Option(help="The HTML file to write.")],
) -> None:
    """Write a model as one HTML file that forecasts in the browser.

    The file needs no server and no network. It has the weights, and the values of the training
    items that are analogues.
    """
    from statecast.playground.page import write_page
    from statecast.tokens.forecaster import load_model

    write_page(load_model(model), out)
    note(f"Wrote {out}.")


@app.command(epilog=example("info"))
def info(
    model: Annotated[
        Path | None, typer.Argument(metavar="MODEL", help="A file of a model or a state.")
    ] = None,
) -> None:
    """Describe a model file or a state file, or the installation if no file is given."""
    if model is None:
        print_pairs(installation_pairs())
        return
    from statecast.state import FORMAT, State
    from statecast.tokens.forecaster import load_model

    try:
        print_pairs(model_pairs(load_model(model), model))
    except ModelFileError as error:
        if error.format != FORMAT:
            raise
        print_pairs(state_pairs(State.load(model), model))


@dataclass(frozen=True)
class _OneFold:
    """The forecaster of a cross-validation that forecasts one fold. It stays fitted after it."""

    forecaster: Forecaster

    @property
    def settings(self) -> ForecasterSettings:
        return self.forecaster.settings

    def clone(self) -> Forecaster:
        return self.forecaster


@app.command(epilog=example("demo"))
@with_settings([name for name in NUMBERS if name not in (*COLUMNS, *FEATURES)])
def demo(
    *,
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("statecast-demo"),
    quiet: Quiet = False,
    settings: dict[str, Any],
) -> None:
    """Forecast the growth of children, with data that is part of Statecast.

    It trains on three quarters of the children of the Berkeley growth study, and forecasts the
    heights of the others from their sex and their first three heights.
    """
    if out.exists() and not out.is_dir():
        raise ArgumentError(f"{out}: expected a folder, received a file. Choose another place.")
    check_folder(out if out.is_dir() else out.parent, out)
    check_extra("demo", ("keras", "sklearn", "matplotlib"))
    import polars as pl

    from statecast.data import growth
    from statecast.evaluate.cross_validation import cross_validation
    from statecast.evaluate.scores import Scores
    from statecast.forecast.forecaster import Forecaster
    from statecast.plots.charts import fan
    from statecast.plots.curves import scores as draw_scores

    series, static, folds = growth()
    series = series.select("unique_id", "ds", "y")
    old, new = folds.filter(pl.col("fold") > 0), folds.filter(pl.col("fold") == 0)
    trained = [table.join(old, on="unique_id", how="semi") for table in (series, static)]
    truth, statics = (table.join(new, on="unique_id", how="semi") for table in (series, static))
    prefix = truth.filter(pl.col("ds") <= 3)
    typer.echo(
        f"The Berkeley growth study measured {static.height} children 31 times, from 1 year to 18 "
        f"years.\nStatecast trains on {old.height} of them. It forecasts the heights of the other "
        f"{new.height} from 21 months\nto 18 years, from their sex and their first three heights, "
        "at 12, 15 and 18 months.\n"
    )

    forecaster = Forecaster(**settings)
    with show_progress(quiet):
        scores = cross_validation(
            _OneFold(forecaster),
            series,
            static,
            folds=folds,
            test_folds=[0],
            known=(0, 1, 2, 3, 5, 8),
        )
    forecast = forecaster.predict(prefix, statics, until=31, level=[80, 95])

    assert isinstance(scores, Scores)  # of one target
    typer.echo(scores.text(known=[3]))
    off = forecast.join(truth, on=["unique_id", "ds"]).select(
        "ds", cm=(pl.col("y") - pl.col("statecast")).abs()
    )
    last = off.filter(pl.col("ds") == 31)
    typer.echo(
        "\nWAPE is the error of the median forecast as a share of the height. CRPS is the error\n"
        "of the whole distribution. The 80 % interval should contain 80 % of the heights.\n"
        f"The mean absolute error is {off['cm'].mean():.1f} cm, and {last['cm'].mean():.1f} cm at "
        "18 years.\n"
    )
    fans = fan(
        forecast,
        truth,
        items=statics.group_by("sex", maintain_order=True).head(3)["unique_id"].to_list(),
        step_label="measurement (1 to 18 years)",
        target_label="height, cm",
        share_y=True,
    )
    files = {
        "forecast.csv": (forecast, "the forecasts, one row per child and measurement"),
        "forecast.png": (fans, "three boys and three girls: prefix, forecast and truth"),
        "scores.png": (draw_scores(scores), "the scores against the number of known heights"),
        "train/series.csv": (trained[0], f"the heights of the {old.height} children"),
        "train/static.csv": (trained[1], "their sex"),
        "train/folds.csv": (old, "a fold for each, for `statecast evaluate`"),
        "new/series.csv": (prefix, f"the first three heights of the other {new.height}"),
        "new/static.csv": (statics, "their sex"),
        "new/truth.csv": (truth, "all their heights"),
    }
    for folder in (out, out / "train", out / "new"):
        folder.mkdir(exist_ok=True)
    forecaster.save(out / "growth.safetensors")
    write_files(
        {
            out / name: chart_bytes(what, out / name)
            if name.endswith(".png")
            else table_bytes(what, out / name)
            for name, (what, _) in files.items()
        }
    )
    typer.echo(f"Everything is in {out}{os.sep}")
    typer.echo("  growth.safetensors  the model; `statecast info` describes it")
    for name, (_, text) in files.items():
        typer.echo(f"  {name:<18}  {text}")
