"""Settings: each is declared once, as a field with its meaning, its default and its range.

The constructor of a forecaster, its docstring, the options of the command line and the check of
a model file all read the declarations here. Nothing heavy is imported, as the command line needs
them before it answers ``--help``.
"""

# ruff: noqa: RUF009  `setting` makes a field

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Concatenate, Literal, ParamSpec, Self, get_args

from statecast.errors import ArgumentError

# The choices, for type checkers and editors; tests compare them with the registries.
CellName = Literal["lstm", "gru", "simple_rnn"]
HeadName = Literal[
    "quantiles", "normal", "student_t", "lognormal", "logitnormal", "poisson", "negative_binomial"
]  # fmt: skip
ConditioningName = Literal["state", "inputs", "both"]
TransformName = Literal["auto", "none", "log", "positive", "logit", "counts"]

_LARGEST = 1e300  # of a real number: whole numbers may be larger than any float

# -- what a setting is -----------------------------------------------------------------------


@dataclass(frozen=True)
class Range:
    """The values that a setting may have.

    Attributes
    ----------
    expected : str
        In words, for messages: ``"a whole number from 1 to 16"``.
    type : str
        In the notation of docstrings: ``"int"``.
    option : type
        Of the option on the command line.
    holds : callable
        Whether a value is one of them.
    convert : callable
        A value to the form in which it is kept.
    names : tuple of str
        The values, where there are few.
    """

    expected: str
    type: str
    option: Any
    holds: Callable[[Any], bool]
    convert: Callable[[Any], Any] = lambda value: value
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setting:
    """The declaration of one setting.

    Attributes
    ----------
    meaning : str
        One sentence.
    allowed : Range
    default : Any
        None where the setting may be left out.
    several : Any
        The default for several targets, None where it is the same.
    details : str
        Further sentences, for the docstring alone.
    unset : str
        What None stands for, where it is the default.
    """

    meaning: str
    allowed: Range
    default: Any
    several: Any = None
    details: str = ""
    unset: str = ""

    def check(self, name: str, value: Any) -> Any:
        """The value in the form in which it is kept.

        Raises
        ------
        ArgumentError
            A value outside the range.
        """
        if value is None and self.default is None:
            return None
        if not self.allowed.holds(value):
            expected = self.allowed.expected + (" or None" if self.default is None else "")
            raise ArgumentError(f"{name}: expected {expected}; received {value!r}.")
        return self.allowed.convert(value)

    def document(self, name: str) -> str:
        """The entry of a docstring's list of parameters."""
        default = repr(self.default) if self.default is not None else "optional"
        default = default if self.default is None else f"default {default}"
        if self.several is not None:
            default += f" (several targets {self.several!r})"
        text = " ".join([self.meaning, *filter(None, [self.details, self.unset])])
        return f"    {name} : {self.allowed.type}, {default}\n" + _wrapped(text, 8)


def setting(
    default: Any,
    allowed: Range,
    meaning: str,
    *,
    several: Any = None,
    details: str = "",
    unset: str = "",
) -> Any:
    """A field of a class of settings; the arguments are ``Setting``'s."""
    return _field(Setting(meaning, allowed, default, several, details, unset))


def with_default(name: str, default: Any) -> Any:
    """The field of ``Settings`` with this name, with another default."""
    declared = next(each for each in fields(Settings) if each.name == name).metadata["setting"]
    return _field(replace(declared, default=default, several=None))


def _field(declared: Setting) -> Any:
    # A default that depends on the number of targets is filled in later.
    default = declared.default if declared.several is None else None
    return field(default=default, kw_only=True, metadata={"setting": declared})


def _wrapped(text: str, indent: int, width: int = 100) -> str:
    lines, line = [], " " * indent
    for word in text.split():
        if len(line) + len(word) > width and line.strip():
            lines.append(line.rstrip())
            line = " " * indent
        line += f"{word} "
    return "\n".join([*lines, line.rstrip()])


def whole(least: int = 1, most: int | None = None) -> Range:
    """Whole numbers."""

    def holds(value: Any) -> bool:
        from statecast.checks import is_whole  # with it NumPy

        return is_whole(value, least, math.inf if most is None else most)

    up_to = "" if most is None else f" to {most}"
    return Range(f"a whole number from {least}{up_to}", "int", int, holds, int)


def real(expected: str, holds: Callable[[float], bool]) -> Range:
    """Real numbers, as far as ``holds`` says."""

    def in_range(value: Any) -> bool:
        from statecast.checks import is_number  # with it NumPy

        return is_number(value, -_LARGEST, _LARGEST) and holds(value)

    return Range(f"a number {expected}", "float", float, in_range, float)


def choice(names: Any) -> Range:
    """One of some names, as ``Literal`` has them."""
    allowed = get_args(names)
    listed = ", ".join(f'"{name}"' for name in allowed)
    return Range(
        f"one of {list(allowed)}",
        f"{{{listed}}}",
        str,
        lambda value: value in allowed,
        names=allowed,
    )


def flag() -> Range:
    """True or False."""

    def holds(value: Any) -> bool:
        from statecast.checks import is_flag  # with it NumPy

        return is_flag(value)

    return Range("True or False", "bool", bool, holds, bool)


def text() -> Range:
    """A column's name."""
    return Range("text", "str", str, lambda value: isinstance(value, str))


def columns() -> Range:
    """The names of columns, as a list or a tuple; kept as a tuple. None is none of them."""
    return Range(
        "a list of column names",
        "sequence of str",
        list[str],
        lambda value: value is None or _are_names(value),
        lambda value: tuple(value or ()),
    )


def _are_names(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value)


def _are_targets(value: Any) -> bool:
    if isinstance(value, str):
        return True
    return _are_names(value) and all(value) and 0 < len(set(value)) == len(value)


TARGETS = Range(
    "text, or a list of distinct ones",
    "str or sequence of str",
    list[str],
    _are_targets,
    lambda value: (
        value if isinstance(value, str) else value[0] if len(value) == 1 else tuple(value)
    ),
)


def _are_bounds(value: Any) -> bool:
    from statecast.checks import is_number  # with it NumPy
    from statecast.tables.columns import LARGEST

    real = isinstance(value, (tuple, list)) and len(value) == 2
    real = real and all(is_number(bound, -LARGEST, LARGEST) for bound in value)
    return real and value[0] < value[1]


BOUNDS = Range(
    "two numbers, the lower one first",
    "(float, float)",
    tuple[float, float],
    _are_bounds,
    lambda value: (float(value[0]), float(value[1])),
)

# -- the settings of both forecasters --------------------------------------------------------

IN_STATE = ("state", "both")  # the conditionings with which X sets the initial state

_P = ParamSpec("_P")


def takes(
    settings: Callable[_P, Any],
) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, _P], None]]:
    """Give a constructor the arguments of a class of settings, for type checkers and editors."""

    def decorate(constructor: Callable[..., None]) -> Callable[Concatenate[Any, _P], None]:
        own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        given = inspect.signature(settings).parameters.values()
        constructor.__signature__ = inspect.Signature([own, *given])  # type: ignore[attr-defined]
        return constructor

    return decorate


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings that both forecasters have, checked when they are made.

    Raises
    ------
    ArgumentError
        A value outside its range, or a setting that would do nothing.
    """

    # Where the two differ in the default alone, `TokenSettings` has it `with_default`.
    units: int = setting(32, whole(1, 4096), "Hidden units of each recurrent layer.")
    layers: int = setting(1, whole(1, 16), "Number of recurrent layers.")
    cell: CellName = setting("lstm", choice(CellName), "The recurrent cell.")
    conditioning: str
    ensemble: int = setting(
        8,
        whole(1, 256),
        "Number of members.",
        details="Each member holds out its own share of the items and stops training by it.",
    )
    encoding: int = setting(16, whole(1, 4096), "Width of the encoded static features.")
    depth: int = setting(
        1,
        whole(1, 16),
        "Layers of the map from the encoded static features to the initial state.",
    )
    epochs: int = setting(30, whole(), "The largest number of training epochs.", several=60)
    batch_size: int | None = setting(
        None,
        whole(),
        "Items in a training batch.",
        unset="By default it depends on the number of items.",
    )
    learning_rate: float = setting(
        4e-3,
        real("above 0", lambda value: value > 0),
        "The largest learning rate.",
        several=1e-2,
    )
    weight_decay: float = setting(
        0.01, real("of 0 or above", lambda value: value >= 0), "Weight decay of AdamW."
    )
    patience: int = setting(
        15, whole(), "Stop after this many epochs in which no member has improved."
    )
    seed: int = setting(0, whole(0), "The same seed gives the same fit and the same random draws.")
    id_col: str = setting("unique_id", text(), "Column of the item's id, in all tables.")
    step_col: str = setting(
        "ds", text(), "Column of the step: a whole number, such as a year, or a date."
    )
    target_col: str | Sequence[str]
    categorical: Sequence[str] | None = setting(
        (),
        columns(),
        "Columns of features that are categories although they hold whole numbers.",
        details="Codes of shops are an example. Text is categorical anyway.",
    )
    start_col: str | None = setting(
        None,
        text(),
        "Column of the static table with the launch date: the date of step 1.",
        details="For steps that are dates. It is not a feature. With it an item that was not "
        "observed yet has dated forecasts. Where it is missing, step 1 is the item's first row in "
        "the series table, also one with null y. A row before the launch date is an error.",
    )

    owner: ClassVar[str]  # the class of the forecaster

    def __post_init__(self) -> None:
        # Some defaults depend on the targets, which are therefore checked before them.
        for name, declared in sorted(
            self.declared().items(), key=lambda each: each[1].several is not None
        ):
            value = declared.check(name, self._given_or_default(name, declared))
            object.__setattr__(self, name, value)
        self.check_together()

    def _given_or_default(self, name: str, declared: Setting) -> Any:
        value = getattr(self, name)
        if value is not None or declared.several is None:
            return value
        return declared.several if len(self.targets) > 1 else declared.default

    def check_together(self) -> None:
        """Raise ``ArgumentError`` for settings that do not go together."""
        if self.conditioning not in IN_STATE and self.depth != self.default("depth"):
            raise ArgumentError(
                "depth: the static features do not set the initial state with "
                f"conditioning={self.conditioning!r}, so there is no map whose depth could be "
                f"{self.depth}. Leave depth out, or take conditioning='both'."
            )

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of the targets."""
        several = not isinstance(self.target_col, str)
        return tuple(self.target_col) if several else (str(self.target_col),)

    @property
    def columns(self) -> dict[str, Any]:
        """The names of columns, as ``tables.targets.learn`` takes them."""
        names = ("id_col", "step_col", "target_col", "categorical", "start_col")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def declared(cls) -> dict[str, Setting]:
        """The declarations by name, those that this forecaster alone has first."""
        common = {each.name for each in fields(Settings)}
        return {
            each.name: each.metadata["setting"]
            for each in sorted(fields(cls), key=lambda each: each.name in common)
        }

    @classmethod
    def default(cls, name: str) -> Any:
        """The default of a setting, for one target."""
        return cls.declared()[name].default

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """The settings from the arguments of a constructor.

        Raises
        ------
        ArgumentError
            A name that is none of the settings, beside what the class raises.
        """
        unknown = [name for name in given if name not in cls.declared()]
        if unknown:
            raise ArgumentError(
                f"{cls.owner} has no setting {unknown[0]!r}. It has {', '.join(cls.declared())}."
            )
        return cls(**given)

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """The settings of a model file; ``ValueError`` where they are not as ``save`` writes."""
        from statecast.files import strict_json  # with it NumPy

        names = set(cls.declared())
        if not isinstance(config, dict) or set(config) != names:
            raise ValueError(f"settings: expected {sorted(names)}")
        settings = cls(**config)
        # A default that was left out, or another way to write a value, is not what `save` writes.
        written = strict_json(json.dumps(asdict(settings)))
        for name, value in config.items():
            if written[name] != value:
                raise ValueError(f"settings: {name}: expected {written[name]!r:.80}")
        return settings

    @classmethod
    def document(cls) -> str:
        """The list of parameters for a docstring."""
        return "\n".join(each.document(name) for name, each in cls.declared().items())


# -- the settings of numbers -----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ForecasterSettings(Settings):
    """The settings of a ``Forecaster``."""

    owner: ClassVar[str] = "Forecaster"

    head: HeadName = setting(
        "quantiles",
        choice(HeadName),
        "The family of the network's predictive distributions.",
        details='"lognormal" is for values above 0, "logitnormal" for values between bounds, '
        '"poisson" and "negative_binomial" are for counts: each implies the transform that it '
        "needs, and forecasts and paths are such values too.",
    )
    transform: TransformName = setting(
        "auto",
        choice(TransformName),
        "Transform of y before scaling.",
        details='"auto" takes the one that the head needs, else the logarithm for skewed, '
        "non-negative data, and it forecasts no negative value where training has none. Forecasts "
        'stay in the range of the transform: "log" at 0 and above, "positive" above 0, "logit" '
        'between the bounds, "counts" at whole numbers from 0.',
    )
    bounds: tuple[float, float] | None = setting(
        None,
        BOUNDS,
        'The least and the largest possible value, for the transform "logit".',
        details='With bounds, "auto" takes that transform.',
        unset="By default they are (0, 1), if all values lie there.",
    )
    analogues: bool = setting(
        True,
        flag(),
        "Whether a linear model and the most similar training items take part in the forecast.",
        details="Their weight is learnt from held-out items. The model file then holds the "
        "training items' numbers. Series of more than 1,000 steps have none.",
    )
    ends: bool = setting(
        False,
        flag(),
        "Whether items end after their last observation; otherwise they are right-censored there.",
        details="With True the chance to end after each step is learnt from the step, the value "
        "there and the static features, and paths end with that chance. ``predict`` still gives "
        "the value of an item that has not ended. A series that reaches the last step of the "
        "longest one, or the last date of all, counts as right-censored. For one target.",
    )
    past_cols: Sequence[str] | None = setting(
        (),
        columns(),
        "Columns of the series table that are observed with y: past covariates.",
        details="They are numeric or categorical, and unknown after the prefix. Covariates that "
        "are known beforehand are handed in as ``future`` (see ``fit``).",
    )
    conditioning: ConditioningName = setting(
        "state",
        choice(ConditioningName),
        "Where the static features enter: the initial state, the inputs of every step, or both.",
    )
    target_col: str | Sequence[str] = setting(
        "y",
        TARGETS,
        "The column of the values to forecast, or the columns of several targets.",
        details="Several targets, such as the coordinates of a track, are forecast jointly: within "
        "a step each value given those before it, in this order. A target that is missing at a "
        "step is a gap, and a prefix ends with the last step at which any target was observed. A "
        'transform chosen by "auto" is each target\'s own; bounds hold for all. Heads of counts '
        "are for one target.",
    )

    @property
    def columns(self) -> dict[str, Any]:
        return super().columns | {"past_cols": self.past_cols}

    @property
    def needed_transform(self) -> str | None:
        """The transform that the head cannot do without."""
        from statecast.heads.by_name import HEADS  # with it Keras

        return HEADS[self.head].transform

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        if given.get("head") == "categorical":
            raise ArgumentError(
                "head: expected a head of numbers, received 'categorical'. Tokens have a class of "
                "their own: TokenForecaster."
            )
        return super().of(given)

    def check_together(self) -> None:
        super().check_together()
        needed = self.needed_transform
        if needed is not None and self.transform not in ("auto", needed):
            raise ArgumentError(
                f"transform: expected {needed!r} or 'auto', as the head {self.head!r} needs it; "
                f"received {self.transform!r}."
            )
        logit = self.transform in ("auto", "logit") and needed in (None, "logit")
        if self.bounds is not None and not logit:
            raise ArgumentError(
                "bounds: expected them with the transform 'logit' or 'auto', and a head that takes "
                f"it; received transform {self.transform!r}, head {self.head!r}."
            )
        several = list(self.targets)
        if len(several) > 1 and needed == "counts":
            raise ArgumentError(
                f"target_col: the head {self.head!r} forecasts one target; received {several}. "
                "Take head='quantiles' with transform='counts', or a forecaster for each."
            )
        if len(several) > 1 and self.ends:
            raise ArgumentError(
                f"ends: the chance to end is learnt for one target; received {several}. Take "
                "ends=False, or a forecaster for each."
            )
