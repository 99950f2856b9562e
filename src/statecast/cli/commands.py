"""The command line: a translator of the library, without logic of its own.

Every command first checks what it will write to, then works, then writes; a file appears
whole or not at all. What goes wrong with data, arguments or files is one message on stderr
and exit code 2. Everything heavy is imported inside the commands, so that ``--help`` answers
at once.
"""

from __future__ import annotations

import errno
import functools
import inspect
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from statecast.errors import ArgumentError, DataWarning, MissingExtraError, StatecastError
from statecast.forecast.settings import ForecasterSettings
from statecast.interrupt import noted
from statecast.progress import scores_text, stage_lines, trained_text
from statecast.tokens.settings import TokenSettings

if TYPE_CHECKING:
    import polars as pl
    from keras.callbacks import Callback
    from matplotlib.figure import Figure

    from statecast.forecast.forecaster import Forecaster
    from statecast.tables.vocabulary import Vocabulary
    from statecast.tokens.forecaster import TokenForecaster

TABLES = (".csv", ".parquet")
PICTURES = (".png", ".pdf", ".svg")
MODELS = (".safetensors",)

INTERRUPTED = "Interrupted; nothing was written."


# -- the frame: errors, warnings, options ---------------------------------------------------


class _Commands(TyperGroup):
    """Commands whose foreseen failures are one message and exit code 2, without traceback."""

    def invoke(self, ctx: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", DataWarning)
            warnings.showwarning = lambda message, *rest: _say(f"warning: {message}")
            try:
                _need_backend()
                return super().invoke(ctx)
            except KeyboardInterrupt:
                _say(INTERRUPTED)
                raise typer.Exit(130) from None
            except StatecastError as error:
                _say(f"error: {error}")
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
    signal.signal(signal.SIGINT, _leave)
    if sys.stdout is None:
        _say("error: standard output is closed. Redirect it to a file, or to /dev/null.")
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
            _say(f"error: standard output cannot be written ({error.strerror}).")
        sys.exit(2)


COLUMNS = ("id_col", "step_col", "target_col")
FEATURES = ("past_cols", "categorical", "start_col")
METAVARS = {"bounds": "LOW HIGH"}
NUMBERS, TOKENS = ForecasterSettings.declared(), TokenSettings.declared()


def _help_of(name: str) -> str:
    """The help of a setting's option: its meaning, its values if they are few, its defaults."""
    first, second = NUMBERS.get(name), TOKENS.get(name)
    main = first or second
    assert main is not None  # a setting of either class
    text = main.meaning if first else f"Tokens: {main.meaning}"
    if main.allowed.names:
        more = set(second.allowed.names) - set(main.allowed.names) if second else set()
        text = f"{text[:-1]}: {', '.join(main.allowed.names)}"
        text += "".join(f"; tokens also {name}" for name in more) + "."
    if main.allowed.option == list[str]:
        text += " May be repeated."
    text = f"{text} {main.unset}" if main.unset else text
    defaults = [_shown(main.default)]
    if first and second and second.default != first.default:
        defaults.append(f"tokens {_shown(second.default)}")
    if main.several is not None:
        defaults.append(f"several targets {_shown(main.several)}")
    return f"{text}  [{'; '.join(defaults)}]" if defaults[0] else text


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    return "" if default in (None, ()) else str(default)


# The settings of both forecasters, as options: the type and the help of each. What is not given is
# left to the forecaster.
SETTINGS: Mapping[str, tuple[Any, str]] = {
    name: ((NUMBERS.get(name) or TOKENS[name]).allowed.option, _help_of(name))
    for name in dict.fromkeys((*COLUMNS, *FEATURES, *NUMBERS, *TOKENS))
}


def _with_settings(
    names: Iterable[str] = tuple(SETTINGS),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command these settings as options; those that are given arrive in ``settings``."""
    added = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                kind | None,
                typer.Option(help=text, metavar=METAVARS.get(name), show_default=False),
            ],
        )
        for name, (kind, text) in SETTINGS.items()
        if name in names
    ]

    def extend(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def extended(**given: Any) -> None:
            chosen = {option.name: given.pop(option.name) for option in added}
            settings = {name: value for name, value in chosen.items() if value not in (None, [])}
            command(**given, settings=settings)

        signature = inspect.signature(command, eval_str=True)
        own = [each for each in signature.parameters.values() if each.name != "settings"]
        extended.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        extended.__annotations__ = {each.name: each.annotation for each in [*own, *added]}
        return extended

    return extend


Series = Annotated[Path, typer.Argument(metavar="SERIES", help="Long table: id, step, value.")]
NONE = Path("-")
Static = Annotated[
    Path | None,
    typer.Argument(metavar="STATIC", help="Static features: a row an item.", show_default=False),
]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A file that `fit` wrote.")]
Until = Annotated[
    str | None,
    typer.Option(
        metavar="STEP",
        help="The last step to forecast; or a file with the ids and a column `until`.",
        show_default=False,
    ),
]
Ahead = Annotated[
    int | None,
    typer.Option("--h", metavar="STEPS", help="In place of --until: steps after each prefix."),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse an item that is observed up to --until.")
]
Out = Annotated[Path | None, typer.Option(help="CSV or Parquet file; without it, CSV to stdout.")]
Future = Annotated[
    Path | None,
    typer.Option(
        metavar="FUTURE",
        help="Known-future covariates: long, id, step and what is known of it beforehand.",
        show_default=False,
    ),
]
Level = Annotated[
    list[float] | None,
    typer.Option(metavar="PERCENT", help="Central interval; may be repeated.  [80]"),
]

OfTokens = Annotated[
    bool, typer.Option("--tokens", help="The values are tokens: a TokenForecaster.")
]
Forbid = Annotated[
    list[str] | None,
    typer.Option(metavar="TOKEN", help="Tokens: never say it; may be repeated."),
]
Require = Annotated[
    list[str] | None,
    typer.Option(metavar="TOKEN", help="Tokens: the rest begins with it; may be repeated."),
]


# -- the commands -------------------------------------------------------------------------------


@app.command()
@_with_settings()
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
    _outputs({out: MODELS}, inputs=[series, static, future])
    forecaster = _forecaster(tokens, settings)
    # There is something to keep from the training on until the file is written.
    with noted(replacing=_leave, at_once=False) as interrupt:
        with _progress() as (_, epochs):
            forecaster.fit(series, static, future=future, callbacks=[epochs], verbose=0)
        forecaster.save(out)
    ended = "Interrupted; the best epoch is kept. " * bool(interrupt.count)
    _say(f"{ended}{trained_text(forecaster.history)} Wrote {out}.")


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
        _outputs({out: TABLES}, inputs=[model, series, static, future])
    from statecast.tokens.decoding import Beam
    from statecast.tokens.forecaster import TokenForecaster, load_model

    forecaster = load_model(model)
    begun, ahead = None if series == NONE else series, {"h": h, "strict": strict}
    ahead["until"] = _until(until)
    table: Any
    if isinstance(forecaster, TokenForecaster):
        _refuse_for_tokens(
            {
                "--level": level,
                "--quantile": quantile,
                "--future": future,
                "--no-calibrated": not calibrated,
            }
        )
        width = best if beam is None else beam
        search = {"width": width, "best": best, "length_power": length_power}
        search |= _constraints(forecaster.schema.vocabulary, forbid, require)
        table = forecaster.generate(begun, static, **ahead, beam=Beam(**_given(search)))
    else:
        _refuse_for_numbers(
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
    _deliver(table, out)


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
        _outputs({out: TABLES}, inputs=[model, series, static, future])
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
    ahead["until"] = _until(until)
    if isinstance(forecaster, TokenForecaster):
        _refuse_for_tokens(
            {"--total": total, "--peak": peak, "--time-to": time_to, "--future": future}
        )
        drawing = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        drawing |= _constraints(forecaster.schema.vocabulary, forbid, require)
        sampling = Sampling(**_given(drawing))
        sequences = forecaster.sample(begun, static, **ahead, paths=paths, sampling=sampling)
        _deliver(sequences.table(), out)
        return
    _refuse_for_numbers(
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
    _deliver(table, out)


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
        _outputs({out: TABLES}, inputs=[model, series, static])
    from statecast.tokens.forecaster import TokenForecaster

    table = TokenForecaster.load(model).log_likelihood(
        series, static, known=known, ended=not unfinished, by_step=by_step
    )
    _deliver(table, out)


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
        _outputs({out: TABLES}, inputs=[model, series, static])
    from statecast.tokens.forecaster import TokenForecaster

    found: Any = TokenForecaster.load(model).rank(series, static, by=by, best=best)  # type: ignore[arg-type]  # checked there
    _deliver(found, out)


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
        _outputs({out: TABLES}, inputs=[model, series, static, future])
    from statecast.forecast.forecaster import Forecaster

    found = Forecaster.load(model).explain(
        None if series == NONE else series,
        static,
        until=_until(until),
        h=h,
        strict=strict,
        future=future,
        analogues=analogues,
    )
    _deliver(found.table(), out)


@app.command()
@_with_settings()
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
    steps = _whole_numbers(known, "known")
    kinds = {path: kinds for path, kinds in ((out, TABLES), (plot, PICTURES)) if path is not None}
    _outputs(kinds, inputs=[series, static, future, Path(folds)])
    if plot is not None:
        _need_matplotlib()
    from statecast.evaluate.cross_validation import cross_validation

    forecaster: Any = _forecaster(tokens, settings)
    if plot is not None and tokens:
        raise ArgumentError("plot: there is no picture of scores of tokens. Leave --plot out.")
    if plot is not None and len(forecaster.settings.targets) > 1:
        raise ArgumentError(
            "plot: a picture is of one target's scores. Leave --plot out, or evaluate one target."
        )
    with _progress() as (stage, epochs):
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
        files[out] = _table_bytes(scores.table(), out)
    if plot is not None:
        from statecast.plots import charts as plots

        files[plot] = _picture_bytes(plots.scores(scores), plot)
    _write(files)
    if files:
        _say(f"Wrote {' and '.join(map(str, files))}.")


@app.command()
@_with_settings(COLUMNS)
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
    _outputs({out: PICTURES}, inputs=[forecast, series])
    _need_matplotlib()
    from statecast.plots import charts as plots

    figure = plots.fan(forecast, series, items=item or None, **settings)
    _write({out: _picture_bytes(figure, out)})
    _say(f"Wrote {out}.")


@app.command()
def info(
    model: Annotated[
        Path | None, typer.Argument(metavar="MODEL", help="A file that `fit` wrote.")
    ] = None,
) -> None:
    """Say what a model file holds; without one, what is installed."""
    if model is None:
        _print_pairs(_installation())
        return
    from statecast.tokens.forecaster import load_model

    _print_pairs(_described(load_model(model), model))


@app.command()
@_with_settings([name for name in NUMBERS if name not in (*COLUMNS, *FEATURES)])
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
    _need_folder(out if out.is_dir() else out.parent, out)
    _need_matplotlib()
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
    with _progress() as (stage, epochs):
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
    _write(
        {
            out / name: _picture_bytes(what, out / name)
            if name.endswith(".png")
            else _table_bytes(what, out / name)
            for name, (what, _) in files.items()
        }
    )
    typer.echo(f"Everything is in {out}{os.sep}")
    typer.echo("  growth.safetensors  the model; `statecast info` says what it holds")
    for name, (_, text) in files.items():
        typer.echo(f"  {name:<18}  {text}")


# -- saying -----------------------------------------------------------------------------------


def _say(text: str) -> None:
    """A line for people, on stderr: stdout carries results."""
    typer.echo(text, err=True)


def _print_pairs(pairs: Iterable[tuple[str, Any]]) -> None:
    pairs = list(pairs)
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        typer.echo(f"{name:<{width}}  {value}")


def _installation() -> Iterator[tuple[str, Any]]:
    from importlib.metadata import PackageNotFoundError, version

    from statecast import __version__
    from statecast.recurrence.kernels.native import library

    yield "statecast", __version__
    yield "python", sys.version.split()[0]
    yield "backend", os.environ.get("KERAS_BACKEND", "jax")
    yield "native kernel", library.status()
    packages = {
        "keras": None,
        "jax": None,
        "torch": "torch",
        "tensorflow-cpu": "tensorflow",
        "scikit-learn": "evaluate",
        "matplotlib": "plots",
    }
    for package, extra in packages.items():
        try:
            yield package, version(package)
        except PackageNotFoundError:
            yield package, f"not installed: pip install 'statecast[{extra}]'"


def _described(forecaster: Forecaster | TokenForecaster, path: Path) -> Iterator[tuple[str, Any]]:
    from dataclasses import asdict

    schema = forecaster.schema
    yield "file", f"{path} ({path.stat().st_size:,} bytes)"
    yield "columns", f"{schema.id_col}, {schema.step_col}, {', '.join(schema.targets)}"
    steps = str(schema.steps)
    if schema.spacing is not None:
        steps += f", {schema.spacing}"
    elif schema.first > 1:
        steps += f", from {schema.first} to {schema.number(schema.steps)}"
    yield "steps", steps
    if schema.start_col is not None:
        yield "launch dates", schema.start_col
    if schema.calendar:
        yield "closed", str(schema.calendar)
    yield "numeric statics", ", ".join(schema.static.numeric) or "none"
    for name, values in schema.static.categories.items():
        yield f"static {name}", _shortened(values)
    for name, columns in (("future", schema.future), ("past", schema.past)):
        yield f"{name} covariates", ", ".join(columns.kinds) or "none"
    for target in schema.targets:
        yield f"{target} is scaled", f"by step, transform {schema.of(target).transform.name}"
    for name, value in asdict(forecaster.settings).items():
        if name not in (*COLUMNS, *FEATURES, "transform"):
            yield name, value
    shapes = [variable.shape for variable in forecaster.network.weights]
    yield "weights", f"{sum(_size(shape) for shape in shapes):,} numbers in {len(shapes)} arrays"
    yield "trained", trained_text(forecaster.history)


def _shortened(values: Sequence[str], most: int = 8) -> str:
    more = f", ... ({len(values)} in all)" if len(values) > most else ""
    return ", ".join(values[:most]) + more


def _size(shape: Sequence[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


# -- progress ---------------------------------------------------------------------------------


@contextmanager
def _progress() -> Iterator[tuple[Callable[[str, int, int], None], Callback]]:
    """What shows progress: bars on a terminal, plain lines elsewhere.

    Yields a function for stages, ``stage(text, done, total)``, and a Keras callback for epochs.
    """
    import keras
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from statecast.networks.training import Lines

    console = Console(stderr=True)
    if not console.is_terminal:
        yield stage_lines(_say), Lines(_say)
        return
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}{task.fields[scores]}"),
        TimeRemainingColumn(),
        console=console,
    )
    stages = bars.add_task("", total=1, visible=False, scores="")
    training = bars.add_task("Training, epoch", total=1, visible=False, scores="")

    def stage(text: str, done: int, total: int) -> None:
        text = text[:1].upper() + text[1:]
        bars.update(stages, description=text, completed=done, total=total, visible=True)
        bars.update(training, visible=False)

    class Epochs(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            total = (self.params or {}).get("epochs", 1)
            bars.reset(training, total=total, visible=True, scores="")

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            bars.update(training, completed=epoch + 1, scores=scores_text(logs or {}))

    with bars:
        yield stage, Epochs()


def _leave(*_: Any) -> None:
    """What Ctrl-C does, wherever it comes: outputs appear whole or not at all, so leave at once.

    An exception raised in the midst of a compilation can take the process down without a word.
    """
    _say(INTERRUPTED)
    sys.stdout.flush()
    os._exit(130)


# -- files --------------------------------------------------------------------------------------


def _outputs(kinds: Mapping[Path, Sequence[str]], inputs: Iterable[Path | None] = ()) -> None:
    """Raise unless every output can be written: before any work, so that none is lost."""
    inputs = [path for path in inputs if path is not None and path.exists()]
    for path, endings in kinds.items():
        if path.suffix not in endings:
            raise ArgumentError(
                f"{path}: expected a file name ending in {' or '.join(endings)}, "
                f"received {path.name!r}."
            )
        _need_folder(path.parent, path)
        if path.is_dir():
            raise ArgumentError(f"{path}: expected a file, received a folder. Choose another name.")
        if path.exists() and any(path.samefile(given) for given in inputs):
            raise ArgumentError(f"{path}: is also an input. Choose another name for the output.")


def _need_folder(folder: Path, path: Path) -> None:
    if not folder.is_dir():
        raise ArgumentError(f"{path}: there is no folder {folder}. Make it first.")
    try:
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ArgumentError(
            f"{path}: the folder {folder} cannot be written to ({error.strerror}). Choose another."
        ) from None


def _need_backend() -> None:
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


def _need_matplotlib() -> None:
    """Say so before the work, not after it."""
    if find_spec("matplotlib") is None:
        raise MissingExtraError(
            "Pictures need matplotlib, which is not installed: pip install 'statecast[plots]'."
        )


def _whole_numbers(text: str, name: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ArgumentError(f"{name}: expected whole numbers such as 0,1,3,5; received {text!r}.")
    return [int(part) for part in parts]


def _forecaster(tokens: bool, settings: Mapping[str, Any]) -> Forecaster | TokenForecaster:
    """The forecaster that the settings are for."""
    from statecast.forecast.forecaster import Forecaster
    from statecast.tokens.forecaster import TokenForecaster

    return TokenForecaster(**settings) if tokens else Forecaster(**settings)


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _refuse(options: Mapping[str, Any], why: str) -> None:
    """Raise ``ArgumentError`` for an option that is given."""
    for name, value in options.items():
        if value is not None and value is not False and value != []:
            raise ArgumentError(f"{name} {why}")


def _refuse_for_tokens(options: Mapping[str, Any]) -> None:
    _refuse(options, "is for numbers; this model is of tokens.")


def _refuse_for_numbers(options: Mapping[str, Any]) -> None:
    _refuse(options, "is for tokens; this model is of numbers.")


def _constraints(
    vocabulary: Vocabulary | None, forbid: list[str] | None, require: list[str] | None
) -> dict[str, Any]:
    """Required and forbidden tokens, from their texts."""
    assert vocabulary is not None  # of tokens
    return {
        "forbidden": vocabulary.read("forbid", forbid or []),
        "required": vocabulary.read("require", require or []),
    }


def _until(given: str | None) -> int | Path | None:
    """A whole number, or the path of a table."""
    if given is None or Path(given).suffix:
        return None if given is None else Path(given)
    try:
        return int(given)
    except ValueError:
        raise ArgumentError(
            f"--until: expected a whole number, or a .csv or .parquet file; received {given!r}."
        ) from None


def _deliver(table: pl.DataFrame, out: Path | None) -> None:
    """A table to its file, or to stdout."""
    if out is None:
        sys.stdout.write(table.write_csv())
        return
    _write({out: _table_bytes(table, out)})
    _say(f"Wrote {table.height} rows to {out}.")


def _write(files: Mapping[Path, bytes]) -> None:
    """Write files that are complete in memory; each appears whole or not at all."""
    from statecast.files import write_whole

    for path, content in files.items():
        write_whole(path, content)


def _table_bytes(table: pl.DataFrame, path: Path) -> bytes:
    from io import BytesIO

    buffer = BytesIO()
    if path.suffix == ".parquet":
        table.write_parquet(buffer)
    else:
        table.write_csv(buffer)
    return buffer.getvalue()


def _picture_bytes(figure: Figure, path: Path) -> bytes:
    from io import BytesIO

    buffer = BytesIO()
    figure.savefig(buffer, format=path.suffix[1:])
    return buffer.getvalue()
