"""``forecast``: ``Forecaster.predict`` for more items than one process should take."""

from __future__ import annotations

import os
from typing import Any

from statecast.checks import check_choice, check_flag, check_whole
from statecast.distributed.engines import ENGINES, engine_of
from statecast.distributed.frames import of_dataframe, of_dataset
from statecast.distributed.jobs import ROWS, forecast_files
from statecast.distributed.scoring import ROLES, Scoring
from statecast.errors import ArgumentError
from statecast.files import path_text
from statecast.forecast.forecaster import Forecaster
from statecast.progress import Verbose, check_verbose
from statecast.tables.files import is_url
from statecast.tokens.forecaster import TokenForecaster, load_model

PARTITIONS = ("input", "hash")


def forecast(
    model: Forecaster | TokenForecaster | str | os.PathLike[str],
    series: Any = None,
    static: Any = None,
    *,
    future: Any = None,
    out: str | os.PathLike[str] | None = None,
    engine: str = "processes",
    workers: int | None = None,
    address: str | None = None,
    partition: str = "input",
    rows: int = ROWS,
    overwrite: bool = False,
    verbose: Verbose = "auto",
    **options: Any,
) -> Any:
    """Forecast the steps after each item's prefix, part by part, on several processors.

    The forecasts are those of ``predict`` (of a ``TokenForecaster``: ``generate``), bit for bit,
    whatever the engine, the workers and the parts. Workers need Statecast and pyarrow, and no
    backend.

    Parameters
    ----------
    model : Forecaster, TokenForecaster or path
        A fitted model, or the path of its file.
    series, static, future : path, URL, Dataset or DataFrame, optional
        As in ``predict``, as one of:

        - Parquet files: a file, a folder, a pattern such as ``"series/*.parquet"``, or one of these
          with a URL (``s3://``, ``gs://``, ...). ``out`` is needed.
        - ``ray.data.Dataset``. The result is a Dataset, computed when it is used.
        - A DataFrame of Spark. The result is a DataFrame, computed when it is used. If the dates of
          the model have no time zone, a ``timestamp`` is the time on the clock of the session, as
          in ``toPandas``. If they have one, it is taken to that zone.

        An error in the rows of a Dataset or a DataFrame is raised when the result is used, within
        the exception that its engine has for errors of workers. Of each table only the columns of
        ``fit`` are read.
    out : path or URL, optional
        The folder for forecasts of files: ``part-00000.parquet`` and so on, and ``_statecast/``
        with a description of the job and a receipt of each part. A job that was killed, called
        again with the same arguments, continues with the parts that are missing. One that is
        complete does nothing. Parts whose input has changed are computed again.
    engine : {"processes", "ray", "spark"}
        Where the parts of files are computed. ``"processes"`` are new processes of this machine; a
        script that uses them needs ``if __name__ == "__main__":``, as with ``multiprocessing``.
    workers : int, optional
        The number of processes, or of tasks at once; by default what the machine or the cluster
        has.
    address : str, optional
        The address of a cluster of Ray, or the master of Spark. Without it the connection or the
        session of this process is used; if there is none, a local one is started for the call, on
        127.0.0.1 alone.
    partition : {"input", "hash"}
        How files are cut into parts. ``"input"``: as they lie, into ranges of ids; the files are
        sorted by id, in the order of their names. ``"hash"``: by a hash of the ids; the rows may
        lie in any order. They are first written again, item by item, below ``out``.
    rows : int
        The rows of a part, about. A part is in the memory of one worker. The rows of a Dataset are
        counted first. Of a DataFrame Spark decides (``spark.sql.shuffle.partitions``).
    overwrite : bool
        Whether to delete the forecasts of another job in ``out``.
    verbose : "auto", 0, 1 or 2
        0 shows nothing; "auto" is a bar on a terminal; else a line is shown every ten seconds.
    **options
        Of ``predict``: ``until`` (one step for all items) or ``h``, ``strict``, ``level``,
        ``quantiles``, ``mean``, ``calibrated``. Of ``generate``: ``until`` or ``h``, ``strict``,
        ``beam``.

    Returns
    -------
    Report, Dataset or DataFrame
        Of files, what was done: parts, items, rows and seconds.

    Raises
    ------
    ArgumentError
        Arguments that do not go together, or that ``predict`` refuses; an ``out`` with other files
        or with another job.
    DataError
        Files that cannot be read or are not sorted; columns that are missing.
    JobError
        Some parts failed: the message has the file and the row of each. The other parts are
        written, and are kept when the job is run again.
    WorkerError
        A worker died four times on one part.
    MissingExtraError
        pyarrow, Ray or Spark is not installed.

    Examples
    --------
    >>> import tempfile
    >>> import polars as pl
    >>> from statecast import Forecaster, distributed
    >>> rows = [(i, t, float(i + t)) for i in range(20) for t in range(1, 7)]
    >>> table = pl.DataFrame(rows, ["unique_id", "ds", "y"], orient="row")
    >>> f = Forecaster(units=4, ensemble=2, epochs=1).fit(table, verbose=0)
    >>> folder = tempfile.TemporaryDirectory()
    >>> table.filter(pl.col("ds") <= 2).write_parquet(f"{folder.name}/begun.parquet")
    >>> report = distributed.forecast(  # doctest: +SKIP
    ...     f, f"{folder.name}/begun.parquet", out=f"{folder.name}/forecasts", until=6, workers=2
    ... )
    >>> report.items  # doctest: +SKIP
    20
    """
    check_verbose(verbose)
    check_choice("partition", partition, PARTITIONS)
    check_choice("engine", engine, ENGINES)
    check_flag("overwrite", overwrite)
    if isinstance(model, (str, os.PathLike)):
        model = load_model(model)
    scoring = Scoring(model, options)
    given = zip(ROLES, (series, static, future), strict=True)
    tables = {role: table for role, table in given if table is not None}
    if not {"series", "static"} & tables.keys():
        raise ArgumentError("Expected a series table, a static table, or both; received neither.")
    check_whole("rows", rows)
    kind = _kind_of(tables)
    if kind is not None:
        if out is not None:
            raise ArgumentError(
                f"out: expected none with a {kind}, as the result is one; received {out!r}. Write "
                "it with a method of the result."
            )
        own = "ray" if kind == "Dataset" else "spark"
        _check_ignored(
            kind,
            engine=engine not in ("processes", own),
            workers=workers is not None,
            address=address is not None,
            partition=partition != "input",
            overwrite=overwrite,
            rows=kind == "DataFrame" and rows != ROWS,
        )
        if kind == "Dataset":
            return of_dataset(scoring, tables, rows)
        return of_dataframe(scoring, tables)
    if out is None:
        raise ArgumentError("out: expected the folder for the forecasts; received none.")
    # Workers may have another working directory.
    sources = {role: absolute(role, table, "file") for role, table in tables.items()}
    return forecast_files(
        scoring,
        sources,
        absolute("out", out, "folder"),
        engine_of(engine, workers, address),
        partition=partition,
        rows=rows,
        overwrite=overwrite,
        verbose=verbose,
    )


def _check_ignored(kind: str, **given: bool) -> None:
    """Raise ``ArgumentError`` for an argument that is given and has no effect on such tables."""
    for name, is_given in given.items():
        if is_given:
            raise ArgumentError(
                f"{name}: expected none with a {kind}, whose own engine decides; it is for Parquet "
                "files. Leave it out."
            )


def absolute(name: str, path: Any, kind: str) -> str:
    """A path of this machine from its root on; a URL as it is.

    Raises
    ------
    ArgumentError
        Text that names nothing.
    """
    text = path_text(name, path, kind)
    return text if is_url(text) else os.path.abspath(text)


def _kind_of(tables: dict[str, Any]) -> str | None:
    """ "Dataset" or "DataFrame", or None for paths; raise for other tables."""
    kinds = set[str | None]()
    for role, table in tables.items():
        bases = {(base.__module__.split(".")[0], base.__name__) for base in type(table).__mro__}
        if isinstance(table, (str, os.PathLike)):
            kinds.add(None)
        elif ("ray", "Dataset") in bases:
            kinds.add("Dataset")
        elif ("pyspark", "DataFrame") in bases:
            kinds.add("DataFrame")
        else:
            raise ArgumentError(
                f"{role}: expected the path of Parquet files, a Dataset of Ray or a DataFrame of "
                f"Spark; received {type(table).__module__.partition('.')[0]}."
                f"{type(table).__name__}. Use `predict` for a table in memory."
            )
    if len(kinds) > 1:
        raise ArgumentError("Expected tables of one kind; received several.")
    return kinds.pop()
