"""The command line: a translator of the library, without logic of its own.

Every command first checks what it will write to, then works, then writes; a file appears
whole or not at all. What goes wrong with data, arguments or files is one message on stderr
and exit code 2. Everything heavy is imported inside the commands, so that ``--help`` answers
at once.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from statecast.cli.options import (
    COLUMNS,
    FEATURES,
    NONE,
    NUMBERS,
    Ahead,
    Forbid,
    Future,
    Level,
    Model,
    OfTokens,
    Out,
    Require,
    Series,
    Static,
    Strict,
    Until,
    given_only,
    new_forecaster,
    read_constraints,
    read_until,
    read_whole_numbers,
    refuse_for_numbers,
    refuse_for_tokens,
    with_settings,
)
from statecast.cli.output import (
    INTERRUPTED,
    MODELS,
    PICTURES,
    TABLES,
    check_folder,
    check_matplotlib,
    check_outputs,
    deliver,
    installation_pairs,
    leave_at_once,
    model_pairs,
    picture_bytes,
    print_pairs,
    say,
    show_progress,
    table_bytes,
    write_files,
)
from statecast.errors import ArgumentError, DataWarning, MissingExtraError, StatecastError
from statecast.interrupt import noted
from statecast.progress import trained_text


def _check_backend() -> None:
    """Keras would fail at its import, at length."""
    backend = os.environ.get("KERAS_BACKEND") or "jax"
    if backend not in ("jax", "torch", "tensorflow"):
        raise ArgumentError(
            f"KERAS_BACKEND: expected jax, torch or tensorflow, received {backend!r}."
        )
    if find_spec(backend) is None:
        raise MissingExtraError(
            f"KERAS_BACKEND is {backend!r}, which is not installed: "
            f"pip install 'statecast[{backend}]'."
        )


class _Commands(TyperGroup):
    """Commands whose foreseen failures are one message and exit code 2, without traceback."""

    def invoke(self, ctx: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", DataWarning)
            warnings.showwarning = lambda message, *rest: say(f"warning: {message}")
            try:
                _check_backend()
                return super().invoke(ctx)
            except KeyboardInterrupt:
                say(INTERRUPTED)
                raise typer.Exit(130) from None
            except StatecastError as error:
                say(f"error: {error}")
                raise typer.Exit(2) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Forecast the rest of a sequence from what an item is and how it began.",
    epilog="Tables are CSV or Parquet files. `statecast COMMAND --help` says more.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from statecast import __version__

        typer.echo(f"statecast {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    """The options that stand before a command."""


def main() -> None:
    """Run the command line."""
    # TensorFlow greets at length on import, whichever way it is used; its errors still show.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    signal.signal(signal.SIGINT, leave_at_once)
    if sys.stdout is None:
        say("error: standard output is closed. Redirect it to a file, or to /dev/null.")
        sys.exit(2)
    for stream in (0, 2):  # closed ones: a file that is opened would become stdin or stderr
        try:
            os.fstat(stream)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # what is still held back is written while an error can be told
    except OSError as error:  # those of files are told by their names before they come here
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nothing is tried once more at the end
        if error.errno != errno.EPIPE:  # a reader that has had enough, such as `head`
            say(f"error: standard output cannot be written ({error.strerror}).")
        sys.exit(2)


@app.command()
@with_settings()
def fit(
    series: Series,
    static: Static = None,
    *,
    tokens: OfTokens = False,
    future: Future = None,
    out: Annotated[Path, typer.Option(help="The model file, .safetensors.")],
    settings: dict[str, Any],
) -> None:
    """Train a forecaster and write it to a file.

    One model serves every prefix length. Ctrl-C ends the training early and keeps the best
    epoch so far; a second one, or one before the first epoch has ended, writes nothing.
    """
    check_outputs({out: MODELS}, inputs=[series, static, future])
    forecaster = new_forecaster(tokens, settings)
    # There is something to keep from the training on until the file is written.
    with noted(replacing=leave_at_once, at_once=False) as interrupt:
        with show_progress() as (_, epochs):
            forecaster.fit(series, static, future=future, callbacks=[epochs], verbose=0)
        forecaster.save(out)
    ended = "Interrupted; the best epoch is kept. " * bool(interrupt.count)
    say(f"{ended}{trained_text(forecaster.history)} Wrote {out}.")


@app.command()
def forecast(
    model: Model,
    series: Series,
    static: Static = None,
    *,
    until: Until = None,
    h: Ahead = None,
    strict: Strict = False,
    future: Future = None,
    level: Level = None,
    quantile: Annotated[
        list[float] | None,
        typer.Option(metavar="Q", help="A further quantile, 0 to 1; may be repeated."),
    ] = None,
    calibrated: Annotated[
        bool, typer.Option(help="Quantiles as held-out items have moved them, or as modelled.")
    ] = True,
    beam: Annotated[
        int | None,
        typer.Option(metavar="WIDTH", help="Tokens: hypotheses kept in the search.  [1]"),
    ] = None,
    best: Annotated[
        int | None,
        typer.Option(metavar="N", help="Tokens: give the N best sequences.  [1]"),
    ] = None,
    length_power: Annotated[
        float | None,
        typer.Option(help="Tokens: rank by log-probability over length to this power.  [0]"),
    ] = None,
    forbid: Forbid = None,
    require: Require = None,
    out: Out = None,
) -> None:
    """Forecast the rest of every item, from its static features and its steps so far.

    An item of STATIC without a row in SERIES is forecast from its static features alone. With
    `-` for SERIES all of them are.
    """
    if out is not None:
        check_outputs({out: TABLES}, inputs=[model, series, static, future])
    from statecast.tokens.decoding import Beam
    from statecast.tokens.forecaster import TokenForecaster, load_model

    forecaster = load_model(model)
    begun, ahead = None if series == NONE else series, {"h": h, "strict": strict}
    ahead["until"] = read_until(until)
    table: Any
    if isinstance(forecaster, TokenForecaster):
        refuse_for_tokens(
            {
                "--level": level,
                "--quantile": quantile,
                "--future": future,
                "--no-calibrated": not calibrated,
            }
        )
        width = best if beam is None else beam
        search = {"width": width, "best": best, "length_power": length_power}
        search |= read_constraints(forecaster.schema.vocabulary, forbid, require)
        table = forecaster.generate(begun, static, **ahead, beam=Beam(**given_only(search)))
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
        table = forecaster.predict(
            begun,
            static,
            **ahead,
            future=future,
            level=level or (80,),
            quantiles=quantile or (),
            calibrated=calibrated,
        )
    deliver(table, out)


@app.command()
def simulate(
    model: Model,
    series: Series,
    static: Static = None,
    *,
    until: Until = None,
    h: Ahead = None,
    strict: Strict = False,
    future: Future = None,
    paths: Annotated[int, typer.Option(help="How many of each item.")] = 200,
    total: Annotated[bool, typer.Option("--total", help="What each item comes to.")] = False,
    peak: Annotated[
        bool, typer.Option("--peak", help="How high each item rises, and at which step.")
    ] = False,
    time_to: Annotated[
        float | None,
        typer.Option(metavar="Y", help="When each item reaches Y; the share that never does."),
    ] = None,
    falling: Annotated[
        bool, typer.Option("--falling", help="With --time-to: when it falls to Y.")
    ] = False,
    since: Annotated[
        int | None,
        typer.Option(metavar="STEP", help="The first step that these three count.  [the rest's]"),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Of several targets the one that these three are of."),
    ] = None,
    level: Level = None,
    temperature: Annotated[
        float | None, typer.Option(help="Tokens: below 1 the likely become likelier.  [1]")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(metavar="K", help="Tokens: draw from the K likeliest.")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(metavar="P", help="Tokens: draw from the likeliest that reach P.  [1]"),
    ] = None,
    forbid: Forbid = None,
    require: Require = None,
    out: Out = None,
) -> None:
    """Draw joint paths of the rest of every item: a column a path.

    With `--total`, `--peak` or `--time-to` it says of numbers what the paths come to instead: a
    row an item, the median and an interval.
    """
    if out is not None:
        check_outputs({out: TABLES}, inputs=[model, series, static, future])
    asked = sum((total, peak, time_to is not None))
    if asked > 1:
        raise ArgumentError("Expected one of --total, --peak and --time-to; received several.")
    if falling and time_to is None:
        raise ArgumentError("--falling is for --time-to.")
    if not asked and (since is not None or level or target is not None):
        raise ArgumentError("--since, --level and --target are for --total, --peak and --time-to.")
    from statecast.tokens.decoding import Sampling
    from statecast.tokens.forecaster import TokenForecaster, load_model

    forecaster = load_model(model)
    begun, ahead = None if series == NONE else series, {"h": h, "strict": strict}
    ahead["until"] = read_until(until)
    if isinstance(forecaster, TokenForecaster):
        refuse_for_tokens(
            {"--total": total, "--peak": peak, "--time-to": time_to, "--future": future}
        )
        drawing = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        drawing |= read_constraints(forecaster.schema.vocabulary, forbid, require)
        sampling = Sampling(**given_only(drawing))
        sequences = forecaster.sample(begun, static, **ahead, paths=paths, sampling=sampling)
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
    targets = list(forecaster.settings.targets)
    if target is not None and target not in targets:
        raise ArgumentError(f"--target: expected one of {targets}, received {target!r}.")
    if asked and target is None and len(targets) > 1:
        raise ArgumentError(
            f"--total, --peak and --time-to are of one target; this model has {targets}. "
            f"Name it: --target {targets[0]}."
        )
    drawn = forecaster.simulate(begun, static, **ahead, future=future, paths=paths)
    if asked:
        drawn = drawn.of(target or targets[0])
    counted: dict[str, Any] = {"since": since, "level": level or (80,)}
    if total:
        table = drawn.total(**counted)
    elif peak:
        table = drawn.peak(**counted)
    elif time_to is not None:
        table = drawn.time_to(time_to, falling=falling, **counted)
    else:
        table = drawn.table()
    deliver(table, out)


@app.command()
def score(
    model: Model,
    series: Series,
    static: Static = None,
    *,
    known: Annotated[
        int, typer.Option(metavar="K", help="So many tokens are given; the rest is scored.")
    ] = 0,
    by_step: Annotated[
        bool, typer.Option("--by-step", help="A row an item and step, not one an item.")
    ] = False,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="The sequences go on: score no end.")
    ] = False,
    out: Out = None,
) -> None:
    """Give the likelihood of sequences of tokens: nats, bits per token, perplexity."""
    if out is not None:
        check_outputs({out: TABLES}, inputs=[model, series, static])
    from statecast.tokens.forecaster import TokenForecaster

    table = TokenForecaster.load(model).log_likelihood(
        series, static, known=known, ended=not unfinished, by_step=by_step
    )
    deliver(table, out)


@app.command()
def rank(
    model: Model,
    series: Annotated[
        Path, typer.Argument(metavar="SERIES", help="Whole sequences; ids of their own.")
    ],
    static: Annotated[
        Path, typer.Argument(metavar="STATIC", help="Static features to match them with.")
    ],
    *,
    by: Annotated[
        str, typer.Option(help="Rank STATIC for each sequence: series; the reverse: static.")
    ] = "series",
    best: Annotated[
        int | None, typer.Option(metavar="N", help="The N best of each ranking.  [all]")
    ] = None,
    out: Out = None,
) -> None:
    """Find the static features that a sequence of tokens says best, or the reverse."""
    if out is not None:
        check_outputs({out: TABLES}, inputs=[model, series, static])
    from statecast.tokens.forecaster import TokenForecaster

    found: Any = TokenForecaster.load(model).rank(series, static, by=by, best=best)  # type: ignore[arg-type]  # checked there
    deliver(found, out)


@app.command()
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
        int, typer.Option(help="How many training items to name that began most alike.")
    ] = 5,
    out: Out = None,
) -> None:
    """Say what moved each forecast: its steps so far, its static features, items like it.

    Each step and each feature is left out in turn: `effect` is the forecast with it less
    that without it, on average over the rest's steps, and `strength` the mean of its size. Of
    several targets `target` is the one whose forecast moved.
    """
    if out is not None:
        check_outputs({out: TABLES}, inputs=[model, series, static, future])
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


@app.command()
@with_settings()
def evaluate(
    series: Series,
    static: Static = None,
    *,
    tokens: OfTokens = False,
    future: Future = None,
    folds: Annotated[
        str, typer.Option(help="A table of ids and folds, or how many random folds.")
    ] = "5",
    known: Annotated[
        str, typer.Option(metavar="K,K,...", help="Forecast from so many steps.")
    ] = "0,1,3,5",
    out: Annotated[
        Path | None, typer.Option(help="CSV or Parquet file for the scores.", show_default=False)
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Picture of the scores: png, pdf, svg.", show_default=False)
    ] = None,
    settings: dict[str, Any],
) -> None:
    """Score forecasts of items held out from training, beside simple baselines.

    Each fold is forecast by a forecaster that was fitted on the other folds. Nothing of it
    is kept but the scores. Intervals say what other items might have given.
    """
    steps = read_whole_numbers(known, "known")
    kinds = {path: kinds for path, kinds in ((out, TABLES), (plot, PICTURES)) if path is not None}
    check_outputs(kinds, inputs=[series, static, future, Path(folds)])
    if plot is not None:
        check_matplotlib()
    from statecast.evaluate.cross_validation import cross_validation

    forecaster: Any = new_forecaster(tokens, settings)
    if plot is not None and tokens:
        raise ArgumentError("plot: there is no picture of scores of tokens. Leave --plot out.")
    if plot is not None and len(forecaster.settings.targets) > 1:
        raise ArgumentError(
            "plot: a picture is of one target's scores. Leave --plot out, or evaluate one target."
        )
    with show_progress() as (stage, epochs):
        scores: Any = cross_validation(
            forecaster,
            series,
            static,
            future=future,
            folds=int(folds) if folds.isdigit() else folds,
            known=steps,
            seed=forecaster.settings.seed,
            callbacks=[epochs],
            progress=stage,
        )
    typer.echo(str(scores))
    files = {}
    if out is not None:
        files[out] = table_bytes(scores.table(), out)
    if plot is not None:
        from statecast.plots import charts as plots

        files[plot] = picture_bytes(plots.scores(scores), plot)
    write_files(files)
    if files:
        say(f"Wrote {' and '.join(map(str, files))}.")


@app.command()
@with_settings(COLUMNS)
def plot(
    forecast: Annotated[
        Path, typer.Argument(metavar="FORECAST", help="A file that `forecast` wrote.")
    ],
    series: Annotated[
        Path | None,
        typer.Argument(metavar="SERIES", help="What was observed.", show_default=False),
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="The picture: png, pdf or svg.")],
    item: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Whom to draw; may be repeated.  [the first six]"),
    ] = None,
    settings: dict[str, Any],
) -> None:
    """Draw forecasts as fans: what was known, the median, the intervals, and the truth.

    What SERIES holds beyond an item's prefix is drawn as the truth.
    """
    check_outputs({out: PICTURES}, inputs=[forecast, series])
    check_matplotlib()
    from statecast.plots import charts as plots

    figure = plots.fan(forecast, series, items=item or None, **settings)
    write_files({out: picture_bytes(figure, out)})
    say(f"Wrote {out}.")


@app.command()
def info(
    model: Annotated[
        Path | None, typer.Argument(metavar="MODEL", help="A file that `fit` wrote.")
    ] = None,
) -> None:
    """Say what a model file holds; without one, what is installed."""
    if model is None:
        print_pairs(installation_pairs())
        return
    from statecast.tokens.forecaster import load_model

    print_pairs(model_pairs(load_model(model), model))


@app.command()
@with_settings([name for name in NUMBERS if name not in (*COLUMNS, *FEATURES)])
def demo(
    *,
    out: Annotated[Path, typer.Option(help="Folder for what it writes.")] = Path("statecast-demo"),
    settings: dict[str, Any],
) -> None:
    """Forecast how children will grow, on data that travels with Statecast.

    Trains on four fifths of the children of the Berkeley growth study, and forecasts the
    others from their sex and their first three heights.
    """
    if out.exists() and not out.is_dir():
        raise ArgumentError(f"{out}: expected a folder, received a file. Choose another place.")
    check_folder(out if out.is_dir() else out.parent, out)
    check_matplotlib()
    import polars as pl

    from statecast.data import growth
    from statecast.evaluate.cross_validation import cross_validation
    from statecast.forecast.forecaster import Forecaster
    from statecast.plots import charts as plots

    series, static, folds = growth()
    series = series.select("unique_id", "ds", "y")
    old, new = folds.filter(pl.col("fold") > 0), folds.filter(pl.col("fold") == 0)
    trained = [table.join(old, on="unique_id", how="semi") for table in (series, static)]
    truth, statics = (table.join(new, on="unique_id", how="semi") for table in (series, static))
    prefix = truth.filter(pl.col("ds") <= 3)
    typer.echo(
        f"The Berkeley growth study measured {static.height} children 31 times, from 1 year to 18 "
        f"years.\nStatecast trains on {old.height} of them. The other {new.height} it never meets: "
        "it forecasts how they\ngrow from 21 months to 18 years, from their sex and their first "
        "three heights, at\n12, 15 and 18 months.\n"
    )

    # Each fold is forecast by a clone. There is one fold, and its clone is ours to keep.
    forecaster = Forecaster(**settings)
    with show_progress() as (stage, epochs):
        scores: Any = cross_validation(
            SimpleNamespace(  # type: ignore[call-overload]
                settings=forecaster.settings, clone=lambda: forecaster
            ),
            series,
            static,
            folds=folds,
            test_folds=[0],
            known=(0, 1, 2, 3, 5, 8),
            callbacks=[epochs],
            progress=stage,
        )
    forecast = forecaster.predict(prefix, statics, until=31, level=[80, 95])

    typer.echo(scores.text(known=[3]))
    off = forecast.join(truth, on=["unique_id", "ds"]).select(
        "ds", cm=(pl.col("y") - pl.col("statecast")).abs()
    )
    last = off.filter(pl.col("ds") == 31)
    typer.echo(
        "\nWAPE is the error of the median forecast as a share of the height; CRPS judges the\n"
        "whole distribution; 80 % of the heights should lie within the 80 % interval.\n"
        f"In centimetres: off by {off['cm'].mean():.1f} on average, and by {last['cm'].mean():.1f} "
        "at 18 years.\n"
    )
    fans = plots.fan(
        forecast,
        truth,
        items=statics.group_by("sex", maintain_order=True).head(3)["unique_id"].to_list(),
        step_label="measurement (1 to 18 years)",
        target_label="height, cm",
        share_y=True,
    )
    files = {
        "forecast.csv": (forecast, "the forecasts, a row a child and measurement"),
        "forecast.png": (fans, "three boys and three girls: known, forecast, and how they grew"),
        "scores.png": (plots.scores(scores), "the scores against how many heights are known"),
        "train/series.csv": (trained[0], f"the heights of the {old.height} children"),
        "train/static.csv": (trained[1], "their sex"),
        "train/folds.csv": (old, "a fold for each, to evaluate by"),
        "new/series.csv": (prefix, f"the first three heights of the {new.height} others"),
        "new/static.csv": (statics, "their sex"),
        "new/truth.csv": (truth, "all their heights"),
    }
    for folder in (out, out / "train", out / "new"):
        folder.mkdir(exist_ok=True)
    forecaster.save(out / "growth.safetensors")
    write_files(
        {
            out / name: picture_bytes(what, out / name)
            if name.endswith(".png")
            else table_bytes(what, out / name)
            for name, (what, _) in files.items()
        }
    )
    typer.echo(f"Everything is in {out}{os.sep}")
    typer.echo("  growth.safetensors  the model; `statecast info` says what it holds")
    for name, (_, text) in files.items():
        typer.echo(f"  {name:<18}  {text}")
