"""Forecasts of the items of a Dataset of Ray and of a DataFrame of Spark, computed where these are.

The tables become one (``Joined``): its rows are those of all tables, with nulls in the columns that
a table does not have. The engine brings the rows of each item together.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

from statecast.distributed.jobs import bucket_of
from statecast.distributed.scoring import Scoring
from statecast.errors import DataError, listed

if TYPE_CHECKING:
    import pyarrow as pa
    import ray.data
    from pyspark.sql import DataFrame

_BUCKET = "_statecast_bucket"


def of_dataset(
    scoring: Scoring, tables: Mapping[str, ray.data.Dataset], rows: int
) -> ray.data.Dataset:
    """Forecast the items of Datasets; see ``distributed.forecast``."""
    parts = max(1, -(-max(each.count() for each in tables.values()) // rows))
    types = _types(scoring, {role: _schema_of(each) for role, each in tables.items()})
    schema = scoring.schema(types)
    work = partial(_forecast_group, scoring, schema)
    wide = [
        each.map_batches(
            partial(_widened, types, scoring.columns(role), parts),
            batch_format="pyarrow",
            batch_size=None,
        )
        for role, each in tables.items()
    ]
    whole = wide[0].union(*wide[1:]) if len(wide) > 1 else wide[0]
    return whole.groupby(_BUCKET, num_partitions=parts).map_groups(work, batch_format="pyarrow")


def _schema_of(dataset: ray.data.Dataset) -> dict[str, Any]:
    schema = dataset.schema()
    if schema is None:
        raise DataError("Expected a Dataset with rows; received one without.")
    return dict(zip(schema.names, schema.types, strict=True))


def _types(scoring: Scoring, given: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The types of the columns of the joined table."""
    types: dict[str, Any] = {}
    for role, own in given.items():
        wanted = scoring.columns(role)
        missing = [name for name in wanted if name not in own]
        if missing:
            raise DataError(
                f"The {role} table: expected the columns {listed(wanted, 20)}; received "
                f"{listed(own, 20)}. {listed(missing)} are missing.",
                column=missing[0],
            )
        for name in wanted:
            if types.setdefault(name, own[name]) != own[name]:
                raise DataError(
                    f"Column {name!r}: expected one type in all tables; received {types[name]} and "
                    f"{own[name]} ({role}). Cast one of them.",
                    column=name,
                )
    return types


def _widened(
    types: Mapping[str, Any], own: tuple[str, ...], parts: int, table: pa.Table
) -> pa.Table:
    """A table with the columns of the joined one, and the bucket of each row's item."""
    import pyarrow as pa

    columns = {
        name: table.column(name).cast(kind) if name in own else pa.nulls(len(table), kind)
        for name, kind in types.items()
    }
    key = next(iter(types))
    return pa.table({**columns, _BUCKET: bucket_of(table.column(key), parts)})


def _forecast_group(scoring: Scoring, schema: pa.Schema, table: pa.Table) -> pa.Table:
    """The forecasts of a bucket, whose rows come in any order."""
    own = scoring.model.schema
    table = table.sort_by([(own.id_col, "ascending"), (own.step_col, "ascending")])
    return _forecast(scoring, schema, table)


def _forecast(scoring: Scoring, schema: pa.Schema, table: pa.Table) -> pa.Table:
    """The forecasts of the items of a joined table, which may lack the columns of a table that is
    not given."""
    for name in scoring.joined.columns:
        if name not in table.column_names:
            table = table.append_column(name, [[None] * len(table)])
    return scoring.of_table(table).replace_schema_metadata().cast(schema)


def of_dataframe(scoring: Scoring, tables: Mapping[str, DataFrame]) -> DataFrame:
    """Forecast the items of DataFrames; see ``distributed.forecast``."""
    from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema

    own = scoring.model.schema
    kinds = {role: to_arrow_schema(each.schema) for role, each in tables.items()}
    types = _types(
        scoring,
        {role: dict(zip(kind.names, kind.types, strict=True)) for role, kind in kinds.items()},
    )
    schema = scoring.schema(types)
    narrow = (table.select(*scoring.columns(role)) for role, table in tables.items())
    whole = reduce(lambda one, other: one.unionByName(other, allowMissingColumns=True), narrow)
    packed = pickle.dumps((scoring, schema))

    def forecast(batches: Iterator[Any]) -> Iterator[Any]:
        scoring, schema = pickle.loads(packed)
        for table in _whole_items(batches, scoring.model.schema.id_col):
            yield from _forecast(scoring, schema, table).to_batches()

    ordered = whole.repartition(own.id_col).sortWithinPartitions(own.id_col, own.step_col)
    return ordered.mapInArrow(forecast, from_arrow_schema(schema))


def _whole_items(batches: Iterator[Any], key: str) -> Iterator[pa.Table]:
    """Sorted batches as tables that have all rows of their items."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kept: pa.Table | None = None
    for batch in batches:
        table = pa.Table.from_batches([batch])
        table = table if kept is None else pa.concat_tables([kept, table])
        if not len(table):
            continue
        ids = table.column(key)
        last = pc.index(ids, ids[-1]).as_py() if ids[-1].is_valid else len(ids) - ids.null_count
        if last:
            yield table.slice(0, last)
        kept = table.slice(last)
    if kept is not None and len(kept):
        yield kept
