"""A fitted model in MLflow: logged, loaded, and served as a ``python_function``.

The artifact is the model file that ``save`` writes, and ``load`` reads it: no pickle. MLflow is the
extra ``statecast[mlflow]``. A model is served without Keras and without a backend.

MLflow sends one table and a few parameters (``Served``). ``load_model`` returns the forecaster,
which has all methods.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import narwhals.stable.v2 as nw
import numpy as np

from statecast.errors import (
    ArgumentError,
    DataError,
    StatecastError,
    listed,
)
from statecast.forecast.forecaster import Forecaster
from statecast.process import check_extra
from statecast.tables.joined import Joined, has_datetimes, id_type, is_whole
from statecast.tokens.decoding import Beam
from statecast.tokens.forecaster import TokenForecaster
from statecast.tokens.forecaster import load_model as read_model

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature
    from mlflow.models.model import ModelInfo

__all__ = ["Served", "load_model", "log_model", "save_model"]

FLAVOR = "statecast"
# The parameters of a request: MLflow's type, the default, and (-1,) for a list.
_ENDS: dict[str, tuple[Any, ...]] = {
    "until": ("long", None),
    "h": ("long", None),
    "strict": ("boolean", False),
}
_OF_NUMBERS: dict[str, tuple[Any, ...]] = {
    "level": ("double", [80.0], (-1,)),
    "quantiles": ("double", [], (-1,)),
    "mean": ("boolean", False),
    "calibrated": ("boolean", True),
}
_OF_TOKENS: dict[str, tuple[Any, ...]] = {
    "width": ("long", Beam.width),
    "best": ("long", Beam.best),
    "length_power": ("double", Beam.length_power),
}
_FILE = "model.safetensors"
# mlflow-skinny needs pandas to serve, and does not install it.
_EXTRA = ("mlflow", ("mlflow", "pandas"), "statecast.export.mlflow")


def log_model(
    model: Forecaster | TokenForecaster, name: str | None = None, **options: Any
) -> ModelInfo:
    """Log a fitted model to the current run of MLflow, or without one to a new run.

    Parameters
    ----------
    model : Forecaster or TokenForecaster
        A fitted model.
    name : str, optional
        The name of the logged model.
    **options
        Those of ``save_model``, except ``mlflow_model``; and those of ``mlflow.models.Model.log``,
        such as ``registered_model_name``, ``params``, ``tags``, ``step`` and ``run_id``.

    Returns
    -------
    mlflow.models.model.ModelInfo
        Its ``model_uri`` is what ``load_model`` and ``mlflow models serve`` take.

    Raises
    ------
    ArgumentError, NotFittedError, MissingExtraError
        As ``save_model``.

    Examples
    --------
    >>> log_model(f, name="growth").model_uri  # doctest: +SKIP
    """
    check_extra(*_EXTRA)
    from mlflow.models import Model

    _check_model(model)
    flavor = sys.modules[__name__]
    return Model.log(None, flavor, name=name, flavor_name=FLAVOR, model=model, **options)


def save_model(
    model: Forecaster | TokenForecaster,
    path: str | PathLike[str],
    *,
    input_example: Any = None,
    signature: ModelSignature | None = None,
    pip_requirements: Sequence[str] | None = None,
    extra_pip_requirements: Sequence[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    mlflow_model: Model | None = None,
) -> None:
    """Save a fitted model as a folder in MLflow's format.

    Parameters
    ----------
    model : Forecaster or TokenForecaster
        A fitted model.
    path : str or path
        The folder, which must not exist or be empty.
    input_example : pandas.DataFrame, or a tuple of it and a dict of parameters, optional
        A request, as ``Served`` describes it. By default one is made from what the model learnt
        about its tables, with the values of an average item. The model is tried on it.
    signature : mlflow.models.ModelSignature, optional
        By default it is made from what the model learnt about its tables. Its types are those that
        every valid request has. A column of numbers has the type ``any``: MLflow's ``double``
        refuses the int64 of pandas, and its ``long`` refuses missing values. The model itself
        checks every cell.
    pip_requirements : sequence of str, optional
        The requirements of the served model; by default this version of Statecast, mlflow-skinny
        and pandas.
    extra_pip_requirements : sequence of str, optional
        Further requirements.
    metadata : dict, optional
        Further entries of the file MLmodel.
    mlflow_model : mlflow.models.Model, optional
        The description to add to; MLflow passes it.

    Raises
    ------
    ArgumentError
        A model of another class; features of several tables with one name, since a request has one
        table; a request of ``input_example`` that the model refuses.
    NotFittedError
        The model is not fitted.
    MissingExtraError
        MLflow is not installed: ``pip install 'statecast[mlflow]'``.

    Examples
    --------
    >>> import tempfile
    >>> import polars as pl
    >>> from statecast import Forecaster
    >>> rows = [(item, step, item + 0.1 * step) for item in range(12) for step in range(1, 6)]
    >>> series = pl.DataFrame(rows, ["unique_id", "ds", "y"], orient="row")
    >>> f = Forecaster(units=2, ensemble=1, epochs=1, analogues=False).fit(series, verbose=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model(f, f"{folder}/model")
    ...     load_model(f"{folder}/model").schema.target_cols
    ('y',)
    """
    check_extra(*_EXTRA)
    import mlflow
    from mlflow.models import Model

    _check_model(model)
    served = Served(model)
    if input_example is None:
        input_example = example_of(model)
    table, params = input_example if isinstance(input_example, tuple) else (input_example, None)
    try:
        result = _with_none(served.forecast(table, params))
    except StatecastError as error:
        raise ArgumentError(f"input_example: {error}") from error
    table = _with_none(table.copy())  # MLflow writes it as JSON
    input_example = table if params is None else (table, params)
    if pip_requirements is None:
        packages = ("statecast", "mlflow-skinny", "pandas")
        pip_requirements = [f"{name}=={version(name)}" for name in packages]
        pip_requirements += extra_pip_requirements or ()
        extra_pip_requirements = None
    described = Model() if mlflow_model is None else mlflow_model
    described.add_flavor(
        FLAVOR,
        statecast_version=version("statecast"),
        model_class=type(model).__name__,
        data=f"data/{_FILE}",
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / _FILE
        model.save(file)
        mlflow.pyfunc.save_model(
            str(path),
            loader_module=__name__,
            data_path=str(file),
            mlflow_model=described,
            signature=signature or _signature(served, result),
            input_example=input_example,
            pip_requirements=list(pip_requirements),
            extra_pip_requirements=extra_pip_requirements and list(extra_pip_requirements),
            metadata=metadata and dict(metadata),
        )


def load_model(model_uri: str) -> Forecaster | TokenForecaster:
    """Load a model that ``log_model`` or ``save_model`` wrote.

    Parameters
    ----------
    model_uri : str
        A folder, or an address of MLflow such as ``models:/name/1`` or ``runs:/run/name``.

    Returns
    -------
    Forecaster or TokenForecaster

    Raises
    ------
    ArgumentError
        A model of another flavor.
    ModelFileError
        A damaged file, or one of another version of Statecast.
    MissingExtraError
        MLflow is not installed.

    Examples
    --------
    >>> import tempfile
    >>> import polars as pl
    >>> from statecast import Forecaster
    >>> rows = [(item, step, item + 0.1 * step) for item in range(12) for step in range(1, 6)]
    >>> series = pl.DataFrame(rows, ["unique_id", "ds", "y"], orient="row")
    >>> f = Forecaster(units=2, ensemble=1, epochs=1, analogues=False).fit(series, verbose=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model(f, f"{folder}/model")
    ...     type(load_model(f"{folder}/model")).__name__
    'Forecaster'
    """
    check_extra(*_EXTRA)
    from mlflow.artifacts import download_artifacts
    from mlflow.models import Model

    folder = Path(download_artifacts(artifact_uri=str(model_uri)))
    flavors = Model.load(str(folder)).flavors
    if FLAVOR not in flavors:
        raise ArgumentError(
            f"model_uri: expected a model of the flavor {FLAVOR!r}; received one of "
            f"{listed(flavors)}."
        )
    return read_model(folder / flavors[FLAVOR]["data"])


class Served:
    """A fitted model as MLflow calls it: one table and parameters in, one table out.

    ``mlflow.pyfunc.load_model`` and ``mlflow models serve`` make it.

    **The table** has a row for each item and step, as the series of ``fit``, and further columns:

    - Static features, launch dates (``start_col``) and groups (``group_col``): their values are
      repeated in the rows of an item, or are in one of its rows and null in the others.
    - Past covariates: as in the series.
    - Future covariates: there is a row for every step up to ``until``. At steps that are not
      observed yet, y is null.

    So the tables of Python are merged into one with pandas:
    ``series.merge(future, how="outer").merge(static, how="outer")``. An item with k = 0 has rows
    without y. It needs one row, whose step may be null. All columns of ``fit`` are expected, and
    others are ignored.

    A request to the server is JSON with this table, ``dataframe_split`` or ``dataframe_records``.
    MLflow refuses CSV: it cannot read columns of the type ``any``, which the signature has.

    **The parameters** are arguments of ``predict``: ``until``, ``h``, ``strict``, ``level``,
    ``quantiles``, ``mean`` and ``calibrated``. ``until`` is one step for all items. Without
    ``until`` and ``h``, it is the last step of the longest training item. A ``TokenForecaster``
    serves ``generate``; its parameters are ``until``, ``h`` and ``strict``, and the beam's
    ``width``, ``best`` and ``length_power``.

    **The result** is that of ``predict`` or ``generate``. Items are in the order in which they
    appear in the table. Missing values are None, which is null in JSON.

    A request that cannot be used is a ``MlflowException`` with the message of Statecast's error,
    and the status 400. A batch of rows must hold all rows of its items: ``mlflow.pyfunc.spark_udf``
    needs a table that is grouped by item.

    Examples
    --------
    >>> import polars as pl
    >>> from statecast import Forecaster
    >>> rows = [(item, step, item + 0.1 * step) for item in range(12) for step in range(1, 6)]
    >>> series = pl.DataFrame(rows, ["unique_id", "ds", "y"], orient="row")
    >>> f = Forecaster(units=2, ensemble=1, epochs=1, analogues=False).fit(series, verbose=0)
    >>> table = series.filter(pl.col("ds") <= 2).to_pandas()
    >>> Served(f).predict(table, {"h": 2})["statecast"].shape
    (24,)
    """

    def __init__(self, model: Forecaster | TokenForecaster) -> None:
        self.model = model
        own = _OF_NUMBERS if isinstance(model, Forecaster) else _OF_TOKENS
        self.parameters = _ENDS | own
        self._joined = Joined(model.schema)
        self.columns = self._joined.columns

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Forecast the items of a table.

        Parameters
        ----------
        model_input : pandas.DataFrame
        params : dict, optional

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        mlflow.exceptions.MlflowException
            A table or parameters that cannot be used.
        """
        try:
            return _with_none(self.forecast(model_input, params))
        except (DataError, ArgumentError) as error:
            from mlflow.exceptions import MlflowException

            raise MlflowException.invalid_parameter_value(str(error)) from error

    def forecast(self, table: Any, params: Mapping[str, Any] | None) -> Any:
        """Do as ``predict`` for a table of any library, with the errors of Statecast.

        Missing values of the result are those of its library.
        """
        options = self.options(params)
        series, static, future = self._joined.tables(table)
        if isinstance(self.model, Forecaster):
            return self.model.predict(series, static, future=future, **options)
        beam = {name: options.pop(name) for name in _OF_TOKENS if name in options}
        return self.model.generate(series, static, beam=Beam(**beam), **options)

    def options(self, params: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the arguments of ``predict`` or ``generate`` for the parameters of a request."""
        options = dict(params or {})
        if options.get("until") is None and options.get("h") is None:
            options["until"] = self.model.schema.number(self.model.schema.steps)
        return options

    @property
    def types(self) -> dict[str, str]:
        """MLflow's type of each column of a request, "any" where no other has all valid values."""
        schema = self.model.schema
        types = dict.fromkeys(self.columns, "any")
        if is_whole(schema):
            types[schema.id_col] = "long"
        elif id_type(schema).lower() in ("string", "str", "large_string"):
            types[schema.id_col] = "string"
        if has_datetimes(schema):
            types[schema.step_col] = "datetime"
        for columns in (schema.static, schema.past, schema.future):
            for name, kind in columns.kinds.items():
                if kind == "categorical":
                    types[name] = "string"
        if schema.vocabulary is not None and schema.vocabulary.type is str:
            types |= dict.fromkeys(schema.target_cols, "string")
        return types


def _load_pyfunc(path: str) -> Served:
    """Load a served model; MLflow calls it with the path of the model file."""
    return Served(read_model(path))


# -- what a request looks like ---------------------------------------------------------


def example_of(model: Forecaster | TokenForecaster) -> tuple[Any, dict[str, Any]]:
    """Return a request: one item with its first two steps at most, and the parameter ``h`` of 1."""
    values = Joined(model.schema).example()
    return nw.from_dict(values, backend="pandas").to_native(), {"h": 1}


# -- the signature ---------------------------------------------------------------------


def _signature(served: Served, result: Any) -> ModelSignature:
    """Return the signature of a served model; ``result`` is a forecast, as a pandas table."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, ParamSchema, ParamSpec
    from mlflow.types.schema import Schema as Specification

    def columns(types: Mapping[str, str]) -> Specification:
        each = types.items()
        return Specification([ColSpec(AnyType() if t == "any" else t, name) for name, t in each])

    inputs = served.types
    (target, *_), numbers = served.model.schema.target_cols, {"f": "double", "i": "long"}
    outputs = {
        str(name): inputs.get(str(name)) or numbers.get(result[name].dtype.kind, inputs[target])
        for name in result.columns
    }
    kept = [ParamSpec(name, *each) for name, each in served.parameters.items()]
    return ModelSignature(columns(inputs), columns(outputs), ParamSchema(kept))


# -- checks ----------------------------------------------------------------------------


def _check_model(model: Any) -> None:
    if not isinstance(model, (Forecaster, TokenForecaster)):
        raise ArgumentError(
            f"model: expected a Forecaster or a TokenForecaster; received {type(model).__name__}."
        )
    model.schema  # noqa: B018  raises if nothing is fitted


def _with_none(table: Any) -> Any:
    """Return a pandas table with None for missing and infinite values: JSON has no NaN."""
    for name in table.columns:
        column = table[name]
        missing = column.isna()
        if column.dtype.kind == "f":
            missing |= np.isinf(column)
        if missing.any():
            table[name] = column.astype(object).where(~missing, None)
    return table
