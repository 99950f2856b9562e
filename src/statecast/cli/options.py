"""The options of the commands, and functions that read their values from text.

The options of a forecaster's settings are derived from the declarations in ``settings``, so that
the constructor, its docstring and the command line agree.
"""

from __future__ import annotations

import csv
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from statecast.errors import ArgumentError
from statecast.forecast.settings import ForecasterSettings
from statecast.tokens.settings import TokenSettings

if TYPE_CHECKING:
    from statecast.forecast.forecaster import Forecaster
    from statecast.tables.vocabulary import Vocabulary
    from statecast.tokens.forecaster import TokenForecaster


COLUMNS = ("id_col", "step_col", "target_col")
FEATURES = ("past_cols", "categorical", "start_col", "group_col", "origin_col")
METAVARS = {"bounds": "LOW HIGH"}
NUMBERS, TOKENS = ForecasterSettings.declared(), TokenSettings.declared()
SEVERAL = "Several: with commas, or the option again."  # in the help of every option with a list
_TOKENS = f"{SEVERAL} Of characters: a text of them."

_Value = TypeVar("_Value")


def _help_of(name: str) -> str:
    """Return the help text of a setting: its meaning, its values if they are names, its default."""
    first, second = NUMBERS.get(name), TOKENS.get(name)
    main = first or second
    assert main is not None  # a setting of either class
    text = main.meaning if first else f"Tokens: {main.meaning}"
    if main.allowed.names:
        more = set(second.allowed.names) - set(main.allowed.names) if second else set()
        text = f"{text[:-1]}: {', '.join(main.allowed.names)}"
        text += "".join(f"; tokens also {name}" for name in more) + "."
    if main.allowed.option == list[str]:
        text += f" {SEVERAL}"
    text = f"{text} {main.unset}" if main.unset else text
    defaults = [_shown(main.default)]
    if first and second and second.default != first.default:
        defaults.append(f"tokens {_shown(second.default)}")
    if main.several is not None:
        defaults.append(f"several targets {_shown(main.several)}")
    said = "; ".join(filter(None, defaults))
    return f"{text}  [{said}]" if said else text


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    return "" if default in (None, ()) else str(default)


# The type and the help text of the option of each setting of both forecasters. If an option is not
# given, the forecaster's default is used.
SETTINGS: Mapping[str, tuple[Any, str]] = {
    name: ((NUMBERS.get(name) or TOKENS[name]).allowed.option, _help_of(name))
    for name in dict.fromkeys((*COLUMNS, *FEATURES, *NUMBERS, *TOKENS))
}


def with_settings(
    names: Iterable[str] = tuple(SETTINGS),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds settings to a command as options.

    The command receives the settings that the user gives as ``settings``, a dict.
    """
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
            settings = {
                name: read_list(name, value) if isinstance(value, list) else value
                for name, value in chosen.items()
                if value not in (None, [])
            }
            command(**given, settings=settings)

        signature = inspect.signature(command, eval_str=True)
        others = [each for each in signature.parameters.values() if each.name != "settings"]
        extended.__signature__ = signature.replace(parameters=[*others, *added])  # type: ignore[attr-defined]
        extended.__annotations__ = {each.name: each.annotation for each in [*others, *added]}
        return extended

    return extend


# Text and not paths: they may be patterns of files, and URLs.
Series = Annotated[str, typer.Argument(metavar="SERIES", help="Long table: id, step, value.")]
NONE = "-"
SeriesOrState = Annotated[
    str | None,
    typer.Argument(metavar="SERIES", help="Long table: id, step, value.", show_default=False),
]
FromState = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="STATE",
        help="A file that `state` or `update` wrote, in place of SERIES and STATIC.",
        show_default=False,
    ),
]
Static = Annotated[
    str | None,
    typer.Argument(metavar="STATIC", help="Static features: one row per item.", show_default=False),
]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A file that `fit` wrote.")]
Until = Annotated[
    str | None,
    typer.Option(
        metavar="STEP",
        help="The last step to forecast, or a file with the ids and a column `until`.",
        show_default=False,
    ),
]
Ahead = Annotated[
    int | None,
    typer.Option(
        "--h", metavar="STEPS", help="Instead of --until: the number of steps after each prefix."
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse an item that is observed up to --until.")
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Show no progress and no messages but warnings and errors."),
]
Known = Annotated[
    list[str] | None,
    typer.Option(
        metavar="K",
        help="Prefix lengths to forecast from; by launch, the largest one of each group. "
        f"{SEVERAL}  [0,1,3,5]",
    ),
]
Out = Annotated[Path | None, typer.Option(help="CSV or Parquet file; default CSV to stdout.")]
Future = Annotated[
    str | None,
    typer.Option(
        metavar="FUTURE",
        help="Known future covariates, a long table: id, step and the covariates.",
        show_default=False,
    ),
]
Context = Annotated[
    tuple[Path, Path] | None,
    typer.Option(
        metavar="SERIES STATIC",
        help="What other items of the groups did, of groups that were not in training: two tables. "
        "For models with --group-col. Their future covariates are in FUTURE too.",
        show_default=False,
    ),
]
_PARTS = "Forecasts in parts"
Engine = Annotated[
    str | None,
    typer.Option(
        metavar="ENGINE",
        help="Forecast in parts on several processors: processes, ray or spark. The tables are "
        "Parquet files, and OUT is a folder, or its URL.",
        rich_help_panel=_PARTS,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(help="Processes, or tasks at once.  [all CPUs]", rich_help_panel=_PARTS),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Of a cluster of Ray, or the master of Spark.  [this machine]",
        rich_help_panel=_PARTS,
    ),
]
Partition = Annotated[
    str | None,
    typer.Option(
        metavar="input|hash",
        help="Parts as the input lies, which is sorted by id; or by a hash of the ids.  [input]",
        rich_help_panel=_PARTS,
    ),
]
Rows = Annotated[
    int | None,
    typer.Option(help="Rows of a part, about.  [1,000,000]", rich_help_panel=_PARTS),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Delete the forecasts of another job in OUT.",
        rich_help_panel=_PARTS,
    ),
]
Level = Annotated[
    list[str] | None,
    typer.Option(metavar="PERCENT", help=f"Coverage of a central interval. {SEVERAL}  [80]"),
]
Quantile = Annotated[
    list[str] | None,
    typer.Option(metavar="Q", help=f"A further quantile, 0 to 1. {SEVERAL}"),
]
OfTokens = Annotated[
    bool, typer.Option("--tokens", help="The values are tokens (fits a TokenForecaster).")
]
Forbid = Annotated[
    list[str] | None,
    typer.Option(metavar="TOKEN", help=f"Tokens: never generate it. {_TOKENS}"),
]
Require = Annotated[
    list[str] | None,
    typer.Option(metavar="TOKEN", help=f"Tokens: first after the prefix. {_TOKENS}"),
]

_CLUSTER = "Training on a cluster"
FitEngine = Annotated[
    Literal["ray"] | None,
    typer.Option(
        help="Train the members of the ensemble on a Ray cluster.  [this process]",
        rich_help_panel=_CLUSTER,
    ),
]
FitWorkers = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="The most processes at once, of one CPU each.  [as there are CPUs, or GPUs with "
        "--gpus]",
        rich_help_panel=_CLUSTER,
    ),
]
FitAddress = Annotated[
    str | None,
    typer.Option(
        help="Of the cluster, as ray.init takes it.  [that of RAY_ADDRESS, or a Ray is started on "
        "this machine]",
        rich_help_panel=_CLUSTER,
    ),
]
Gpus = Annotated[
    float | None,
    typer.Option(
        metavar="N", help="Of a process, or a share of one.  [0]", rich_help_panel=_CLUSTER
    ),
]


def read_context(
    context: tuple[Path, Path] | None, future: str | None
) -> tuple[Path, Path, str | None] | None:
    """Return ``--context`` as the argument of a forecaster. Its future covariates are in
    ``--future``, which may have rows of other items."""
    return None if context is None else (*context, future)


def read_until(given: str | None) -> int | Path | None:
    """Return ``--until`` as a whole number, or as the path of a table."""
    if given is None or Path(given).suffix:
        return None if given is None else Path(given)
    try:
        return int(given)
    except ValueError:
        raise ArgumentError(
            f"--until: expected a whole number, or a .csv or .parquet file; received {given!r}."
        ) from None


def read_token(path: Path) -> str:
    """Return the token in the file of ``--token-file``: its text without white space at the ends.

    Raises
    ------
    ArgumentError
        A file that cannot be read.
    """
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise ArgumentError(f"--token-file: {path} cannot be read ({why}).") from None


def read_cutoffs(given: Sequence[str] | None) -> list[str] | list[float] | float | None:
    """Return ``--cutoffs`` as dates or numbers; a single whole number is a number of cutoffs."""
    texts = read_list("cutoffs", given)
    try:
        if len(texts) == 1 and texts[0].isdigit():
            return int(texts[0])
        return [float(text) for text in texts] or None
    except ValueError:
        return texts


def read_list(
    name: str, texts: Sequence[str] | None, convert: Callable[[str], _Value] = str
) -> list[_Value]:
    """Return the values of an option that takes a list; ``name`` is the option's, for errors.

    Values are separated by commas, or the option is repeated. In a text with a comma, double quotes
    enclose a value that contains one, as in a CSV file.

    Raises
    ------
    ArgumentError
        An empty value, unpaired quotes, or a value that ``convert`` refuses by ``ValueError``.
    """
    values = []
    for text in texts or ():
        parts = [text]
        if "," in text:
            try:
                parts = next(csv.reader([text], skipinitialspace=True, strict=True))
            except csv.Error:
                parts = [""]
        if not all(parts):
            raise ArgumentError(
                f"{name}: expected values separated by commas, received {text!r}. Enclose a value "
                """that contains a comma in double quotes: '"a,b",c'."""
            )
        try:
            values += map(convert, parts)
        except ValueError:
            expected = "whole numbers such as 0,3,5" if convert is int else "numbers such as 80,95"
            raise ArgumentError(f"{name}: expected {expected}; received {text!r}.") from None
    return values


def read_constraints(
    vocabulary: Vocabulary | None, forbid: list[str] | None, require: list[str] | None
) -> dict[str, Any]:
    """Return the forbidden and required tokens, from their texts.

    If all tokens are characters, a text stands for its characters, of which a comma may be one.
    """
    assert vocabulary is not None  # a model of tokens has one
    texts = {"forbid": forbid or [], "require": require or []}
    if not vocabulary.characters:
        texts = {name: read_list(name, given) for name, given in texts.items()}
    return {
        "forbidden": vocabulary.read("forbid", texts["forbid"]),
        "required": vocabulary.read("require", texts["require"]),
    }


def read_groups(by: list[str] | None, everything: bool) -> list[str] | str | None:
    """Return ``--by`` and ``--all`` as the argument ``by`` of ``predict_total``.

    Raises
    ------
    ArgumentError
        Both of them, or a file beside other names.
    """
    names = read_list("--by", by)
    if names and everything:
        raise ArgumentError("Expected one of --by and --all; received both.")
    from statecast.tables.groups import column_names

    files = [name for name in names if column_names(name) is None]
    if files and len(names) > 1:
        raise ArgumentError(f"--by: expected columns or one file, received {names}.")
    if everything:
        return []
    return names[0] if files else names or None


def new_forecaster(tokens: bool, settings: Mapping[str, Any]) -> Forecaster | TokenForecaster:
    """Return an unfitted forecaster with these settings."""
    from statecast.forecast.forecaster import Forecaster
    from statecast.tokens.forecaster import TokenForecaster

    target = settings.get("target_col", ())
    if tokens and len(target) == 1:  # the option takes several columns; tokens have one
        settings = {**settings, "target_col": target[0]}
    return TokenForecaster(**settings) if tokens else Forecaster(**settings)


def given_only(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def refuse_for_tokens(options: Mapping[str, Any]) -> None:
    """Raise ``ArgumentError`` for an option that a model of tokens does not have."""
    _refuse(options, "is for numbers; this model is of tokens.")


def refuse_for_numbers(options: Mapping[str, Any]) -> None:
    """Raise ``ArgumentError`` for an option that a model of numbers does not have."""
    _refuse(options, "is for tokens; this model is of numbers.")


def refuse_without_engine(options: Mapping[str, Any]) -> None:
    """Raise ``ArgumentError`` for options that need ``--engine``."""
    _refuse(options, "is for work with --engine: give it too, or leave this out.")


def _refuse(options: Mapping[str, Any], why: str) -> None:
    """Raise ``ArgumentError`` for the first option that is given."""
    for name, value in options.items():
        if value is not None and value is not False and value != []:
            raise ArgumentError(f"{name} {why}")
