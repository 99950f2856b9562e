"""Settings: each is declared once, as a field with its meaning, its default and its range.

The constructor of a forecaster, its docstring, the options of the command line and the check of a
model file use these declarations. Keras and NumPy are imported only when a value is checked, so
that ``statecast --help`` is fast.
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
PrecisionName = Literal["float32", "bfloat16"]
TransformName = Literal["auto", "none", "log", "positive", "logit", "counts"]

_LARGEST = 1e300  # the largest real number: a whole number may be larger than any float

# -- the declaration of a setting ------------------------------------------------------------


@dataclass(frozen=True)
class Range:
    """The allowed values of a setting.

    Attributes
    ----------
    expected : str
        A description for messages: ``"a whole number from 1 to 16"``.
    type : str
        The type in docstrings: ``"int"``.
    option : type
        The type of the option on the command line.
    holds : callable
        Returns whether a value is allowed.
    convert : callable
        Converts an allowed value to the form in which it is stored.
    names : tuple of str
        The values, if they are names.
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
        None if the setting may be None.
    several : Any
        The default for several targets; None if it is the same.
    details : str
        Further sentences, for the docstring only.
    unset : str
        The meaning of the default None.
    """

    meaning: str
    allowed: Range
    default: Any
    several: Any = None
    details: str = ""
    unset: str = ""

    def check(self, name: str, value: Any) -> Any:
        """The value in the form in which it is stored.

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
        return f"{name} : {self.allowed.type}, {default}\n" + _wrapped(text, 4)


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
    # A default that depends on the number of targets is set later.
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
    """Real numbers for which ``holds`` is true; ``expected`` describes them."""

    def in_range(value: Any) -> bool:
        from statecast.checks import is_number  # with it NumPy

        return is_number(value, -_LARGEST, _LARGEST) and holds(value)

    return Range(f"a number {expected}", "float", float, in_range, float)


def choice(names: Any) -> Range:
    """The names of a ``Literal`` type."""
    allowed = get_args(names)
    listed = ", ".join(f'"{name}"' for name in allowed)
    return Range(
        f"one of {list(allowed)}",
        f"{{{listed}}}",
        str,
        lambda value: isinstance(value, str) and value in allowed,
        names=allowed,
    )


def flag() -> Range:
    """True or False."""

    def holds(value: Any) -> bool:
        from statecast.checks import is_flag  # with it NumPy

        return is_flag(value)

    return Range("True or False", "bool", bool, holds, bool)


def text() -> Range:
    """The name of a column."""
    expected = "the name of a column (text, not empty)"
    return Range(expected, "str", str, lambda value: isinstance(value, str) and value != "")


def columns() -> Range:
    """A list or tuple of column names, stored as a tuple. None means no column."""
    return Range(
        "a list of distinct names of columns (text, not empty)",
        "sequence of str",
        list[str],
        lambda value: value is None or _are_names(value),
        lambda value: tuple(value or ()),
    )


def _are_names(value: Any) -> bool:
    text = isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value)
    return text and all(value) and len(set(value)) == len(value)


def _are_targets(value: Any) -> bool:
    if isinstance(value, str):
        return value != ""
    return _are_names(value) and len(value) > 0


TARGETS = Range(
    "the name of a column (text, not empty), or a list of distinct ones",
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
# The encoder of the static features by default (decision 49): with fewer training items than _FEW
# an affine map; otherwise a hidden layer, and an interval for every _ITEMS_AN_INTERVAL items. A
# feature with fewer distinct values than _VALUES_AN_INTERVAL for each interval has none.
_FEW, _HIDDEN = 150, 32
_ITEMS_AN_INTERVAL, _MOST_INTERVALS, _VALUES_AN_INTERVAL = 75, 8, 2

_P = ParamSpec("_P")


def takes(
    settings: Callable[_P, Any],
) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, _P], None]]:
    """Return a decorator that gives a constructor the signature of a class of settings.

    Type checkers, editors and ``help`` then know the arguments.
    """

    def decorate(constructor: Callable[..., None]) -> Callable[Concatenate[Any, _P], None]:
        first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        given = inspect.signature(settings).parameters.values()
        constructor.__signature__ = inspect.Signature([first, *given])  # type: ignore[attr-defined]
        return constructor

    return decorate


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of both forecasters. They are checked when an object is made.

    Raises
    ------
    ArgumentError
        A value outside its range, or a setting without an effect.
    """

    # If only the defaults of the two differ, `TokenSettings` redeclares the field `with_default`.
    units: int = setting(32, whole(1, 4096), "Hidden units of each recurrent layer.")
    layers: int = setting(1, whole(1, 16), "Number of recurrent layers.")
    cell: CellName = setting("lstm", choice(CellName), "The recurrent cell.")
    conditioning: str
    ensemble: int = setting(
        8,
        whole(1, 256),
        "Number of members of the ensemble.",
        details="Each member holds out a different share of the items, which decides when its "
        "training stops.",
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
    precision: PrecisionName = setting(
        "float32",
        choice(PrecisionName),
        "What the factors of the recurrence's products are rounded to in training.",
        details="Sums and the state are of float32. bfloat16 is faster with many hidden units, on "
        "JAX and PyTorch and processors with AVX512-BF16 or AMX; elsewhere it is slower. Forecasts "
        "are computed in float32.",
    )
    patience: int = setting(
        15, whole(), "Stop after this many epochs in which no member has improved."
    )
    seed: int = setting(
        0,
        whole(0),
        "Random seed: the same seed gives the same fit and the same random draws. On TensorFlow "
        "with several threads two fits may differ by rounding.",
    )
    id_col: str = setting("unique_id", text(), "Column of the item's id, in all tables.")
    step_col: str = setting(
        "ds", text(), "Column of the step: a whole number, such as a year, or a date."
    )
    target_col: str | Sequence[str]
    categorical: Sequence[str] | None = setting(
        (),
        columns(),
        "Columns of whole numbers that are categories, such as codes of shops.",
        details="Columns of text are always categorical.",
    )
    start_col: str | None = setting(
        None,
        text(),
        "Column of the static table with the launch date, which is the date of step 1.",
        details="It can be used if steps are dates, and is not a feature. With it, forecasts of an "
        "item without observations have dates. If an item's launch date is missing, its step 1 is "
        "its first row in the series table, even if y is null there. A row before the launch date "
        "is an error.",
    )

    owner: ClassVar[str]  # the class of the forecaster
    # The settings without an effect if there are no static features.
    of_static: ClassVar[tuple[str, ...]] = ("conditioning", "depth")

    def __post_init__(self) -> None:
        # Settings whose default depends on the targets are set after the targets.
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
        """Raise ``ArgumentError`` for settings that cannot be combined."""
        if self.conditioning not in IN_STATE and self.depth != self.default("depth"):
            raise ArgumentError(
                "depth: expected no depth with "
                f"conditioning={self.conditioning!r}, because the static features then do not set "
                f"the initial state; received {self.depth}. Leave depth out, or use "
                "conditioning='both'."
            )

    def check_features(self, static: bool, covariates: bool) -> None:
        """Raise ``ArgumentError`` for settings without an effect on these training tables.

        Parameters
        ----------
        static, covariates : bool
            Whether there are static features, and whether there are covariates.
        """
        needed = {"encoding": (static or covariates, "static features or covariates")}
        needed |= dict.fromkeys(self.of_static, (static, "static features"))
        for name, (there, features) in needed.items():
            value = getattr(self, name)
            if not there and value != self.default(name):
                raise ArgumentError(
                    f"{name}: expected {features} in the tables, without which it has no effect; "
                    f"received {value!r}, and no such columns. Leave {name} out, or hand in a "
                    "table of them."
                )

    def hidden(self, items: int) -> int:
        """Width of the hidden layer of the encoder of X, for this number of training items."""
        return 0

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of the targets."""
        several = not isinstance(self.target_col, str)
        return tuple(self.target_col) if several else (str(self.target_col),)

    @property
    def columns(self) -> dict[str, Any]:
        """The names of columns, as arguments of ``Schema.fit``."""
        names = ("id_col", "step_col", "target_col", "categorical", "start_col")
        return {name: getattr(self, name) for name in names}

    @property
    def changed(self) -> dict[str, Any]:
        """The settings whose values are not the defaults for this number of targets."""
        usual = asdict(type(self).of({"target_col": self.target_col}))
        usual["target_col"] = self.default("target_col")
        return {name: value for name, value in asdict(self).items() if value != usual[name]}

    def _repr_html_(self) -> str:
        from statecast import notebook

        changed, rows = self.changed, []
        for name, declared in self.declared().items():
            label = f"{name} (changed)" if name in changed else name
            rows.append((label, str(getattr(self, name)), declared.meaning))
        head = notebook.heading(f"Settings of {self.owner}")
        return head + notebook.table(("setting", "value", "meaning"), rows, most=len(rows))

    @classmethod
    def declared(cls) -> dict[str, Setting]:
        """The declarations by name. Those of this forecaster only come first."""
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
            An unknown name; settings that the class refuses.
        """
        unknown = [name for name in given if name not in cls.declared()]
        if unknown:
            raise ArgumentError(
                f"{cls.owner} has no setting {unknown[0]!r}. Its settings are "
                f"{', '.join(cls.declared())}."
            )
        return cls(**given)

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """The settings of a model file; ``ValueError`` unless they are as ``save`` writes them."""
        from statecast.files import check_keys, strict_json  # with it NumPy

        check_keys("settings", config, cls.declared())
        settings = cls(**config)
        # `save` writes every setting, and in one form only.
        written = strict_json(json.dumps(asdict(settings)))
        for name, value in config.items():
            if written[name] != value:
                raise ValueError(f"settings: {name}: expected {written[name]!r:.80}")
        return settings

    @staticmethod
    def forms(given: Mapping[str, Any]) -> dict[str, str]:
        """How each argument of a constructor was written, for a model file; see ``as_given``."""

        def form(value: Any) -> str:
            if isinstance(value, (list, tuple)):
                return "list" if isinstance(value, list) else "tuple"
            return "none" if value is None else "value"

        return {name: form(value) for name, value in given.items()}

    def as_given(self, forms: Any) -> dict[str, Any]:
        """The arguments of the constructor with these settings, as they were written.

        A setting that is not in ``forms`` was left out. If it is not the default of this version of
        Statecast, it is an argument all the same, so that the settings stay as they are.

        Raises
        ------
        ValueError
            Forms other than those of ``forms``.
        """
        written: dict[str, Callable[[Any], Any]] = {
            "value": lambda value: value,
            "none": lambda value: None,
            "list": lambda value: [value] if isinstance(value, str) else list(value),
            "tuple": lambda value: (value,) if isinstance(value, str) else tuple(value),
        }
        names = self.declared()
        known = isinstance(forms, dict) and all(
            name in names and isinstance(form, str) and form in written
            for name, form in forms.items()
        )
        if not known:
            raise ValueError(f"given: expected names of settings, each with one of {[*written]}")
        usual, given = self.of({"target_col": self.target_col}), {}
        for name, value in ((name, getattr(self, name)) for name in names):
            form, default = forms.get(name, "none"), value == getattr(usual, name)
            sequence = isinstance(value, tuple) or names[name].allowed is TARGETS
            if form in ("list", "tuple") and not sequence:
                raise ValueError(f"given: {name}: expected another form than {form!r}")
            if name in forms or not default:
                given[name] = written["value" if form == "none" and not default else form](value)
        if self.of(given) != self:
            raise ValueError("given: expected arguments that give the settings of the file")
        return given

    @classmethod
    def document(cls) -> str:
        """The list of parameters for a docstring."""
        return "\n".join(each.document(name) for name, each in cls.declared().items())


# -- the settings of numbers -----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ForecasterSettings(Settings):
    """The settings of a ``Forecaster``."""

    owner: ClassVar[str] = "Forecaster"
    of_static: ClassVar[tuple[str, ...]] = (
        *Settings.of_static,
        "encoding_hidden",
        "encoding_intervals",
    )

    head: HeadName = setting(
        "quantiles",
        choice(HeadName),
        "The family of the network's predictive distributions.",
        details='"lognormal" is for values above 0, "logitnormal" for values between bounds, and '
        '"poisson" and "negative_binomial" are for counts. Each of these implies a transform, and '
        "its forecasts and paths have such values only.",
    )
    transform: TransformName = setting(
        "auto",
        choice(TransformName),
        "Transform of y before scaling.",
        details='"auto" is the transform that the head needs; otherwise a logarithm for skewed, '
        "non-negative data. If no training value is negative, it forecasts no negative value. "
        'Forecasts are in the range of the transform: "log" from 0, "positive" above 0, "logit" '
        'between the bounds, "counts" whole numbers from 0.',
    )
    bounds: tuple[float, float] | None = setting(
        None,
        BOUNDS,
        'The least and the largest possible value, for the transform "logit".',
        details='With bounds, the transform "auto" is "logit".',
        unset="By default they are (0, 1), if all values are in this range.",
    )
    analogues: bool = setting(
        True,
        flag(),
        "Whether a linear model and the most similar training items are used in the forecast.",
        details="Their weight is learnt from held-out items. The model file then contains the "
        "values of the training items. They are not used for series of more than 1,000 steps.",
    )
    ends: bool = setting(
        False,
        flag(),
        "Whether items end after their last observation; otherwise they are right-censored there.",
        details="With True the probability that an item ends after a step is learnt from the step, "
        "the value at the step and the static features, and paths end with this probability. "
        "``predict`` still forecasts the value of an item that has not ended. An item that is "
        "observed up to the last step of the longest one, or up to the last date of all, is "
        "right-censored. For one target only.",
    )
    past_cols: Sequence[str] | None = setting(
        (),
        columns(),
        "Columns of the series table with past covariates, which are observed together with y.",
        details="They are numeric or categorical, and unknown after the prefix. Covariates that "
        "are known beforehand are the argument ``future`` of ``fit``.",
    )
    group_col: str | None = setting(
        None,
        text(),
        "Column of the static table with the group of an item, such as its company or litter.",
        details="It is not a feature; a copy of the column under another name is one. The items of "
        "a group depend on each other in ``simulate`` and ``predict_total``, as they did in "
        "training. An item without a group is independent of the others.",
    )
    origin_col: str | None = setting(
        None,
        text(),
        "Column of the static table with the time of step 1, if steps are numbers.",
        details="A whole number in the unit of the steps, such as a year. It is not a feature, and "
        "``fit`` alone uses it, with ``group_col``: how the items of a group depend on each other "
        "is then measured on forecasts of the second half of the training data in time, by a "
        "smaller network that was trained on the first half, and so is how wide intervals must "
        "be. If steps are dates, this is done without it.",
    )
    conditioning: ConditioningName = setting(
        "state",
        choice(ConditioningName),
        "Whether the static features set the initial state, are inputs of every step, or both.",
    )
    encoding_hidden: int | None = setting(
        None,
        whole(0, 4096),
        "Width of the hidden layer of the encoder of the static features; 0 is none.",
        unset=f"By default it is {_HIDDEN} from {_FEW} training items, and 0 below.",
    )
    encoding_intervals: int | None = setting(
        None,
        whole(0, 64),
        "Intervals of a numeric static feature in each of which its effect has its own slope.",
        details="Piecewise-linear encoding (Gorishniy et al. 2022). 0 and 1 are none. A feature "
        f"with fewer than {_VALUES_AN_INTERVAL} distinct values an interval has none.",
        unset=f"By default there is one for every {_ITEMS_AN_INTERVAL} training items, at most "
        f"{_MOST_INTERVALS}, and none below {_FEW} items.",
    )
    target_col: str | Sequence[str] = setting(
        "y",
        TARGETS,
        "The column of the values to forecast, or the columns of several targets.",
        details="Several targets, such as the coordinates of a track, are forecast jointly: within "
        "a step each target is forecast given the ones before it in this list. A target that is "
        "missing at a step is masked. A prefix ends with the last step at which any target was "
        'observed. The transform "auto" is chosen for each target; bounds apply to all. Heads of '
        "counts are for one target.",
    )

    @property
    def columns(self) -> dict[str, Any]:
        names = ("past_cols", "group_col", "origin_col")
        return super().columns | {name: getattr(self, name) for name in names}

    def hidden(self, items: int) -> int:
        if self.encoding_hidden is not None:
            return self.encoding_hidden
        return _HIDDEN if items >= _FEW else 0

    def division(self, items: int, distinct: Sequence[int]) -> tuple[int, tuple[int, ...]]:
        """The number of intervals of a numeric static feature, and the features that have them.

        Parameters
        ----------
        items : int
            The number of training items.
        distinct : sequence of int
            The number of distinct values of each feature in training.
        """
        intervals = self.encoding_intervals
        if intervals is None:
            intervals = min(_MOST_INTERVALS, items // _ITEMS_AN_INTERVAL) if items >= _FEW else 0
        if intervals < 2:
            return 0, ()
        many = _VALUES_AN_INTERVAL * intervals
        return intervals, tuple(i for i, count in enumerate(distinct) if count >= many)

    @property
    def needed_transform(self) -> str | None:
        """The transform that the head needs, or None."""
        from statecast.heads.by_name import HEADS

        return HEADS[self.head].transform

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        head = given.get("head")
        if isinstance(head, str) and head == "categorical":
            raise ArgumentError(
                "head: expected a head for numbers, received 'categorical'. Use TokenForecaster "
                "for tokens."
            )
        return super().of(given)

    def check_together(self) -> None:
        super().check_together()
        if self.origin_col is not None and self.group_col is None:
            raise ArgumentError(
                "origin_col: expected group_col too, without which it has no effect; received "
                f"{self.origin_col!r} alone. Leave it out, or name the groups in group_col."
            )
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
                "Use head='quantiles' with transform='counts', or a forecaster for each target."
            )
        if len(several) > 1 and self.ends:
            raise ArgumentError(
                f"ends: the chance to end is learnt for one target; received {several}. Use "
                "ends=False, or a forecaster for each target."
            )
