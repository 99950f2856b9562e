"""Forecasts of the items of Datasets of Ray and of DataFrames of Spark, computed where these are.

The tables become one, because an engine brings rows of equal ids together in one table only. A row
has the number of its table and its id, and the values of its table's other columns; the columns of
the other tables are null. A worker makes the tables of it again, for some items, and calls
``Scoring``. So what it checks is what ``predict`` checks.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

from statecast.distributed.jobs import bucket_of
from statecast.distributed.scoring import ROLES, Scoring, decoded, mixed_ids, plain_type
from statecast.errors import DataError, listed

if TYPE_CHECKING:
    import pyarrow as pa
    import ray.data
    from pyspark.sql import DataFrame

_BUCKET, _TABLE, _ID = "_statecast_bucket", "_statecast_table", "_statecast_id"


@dataclass(frozen=True)
class _Layout:
    """The one table.

    Attributes
    ----------
    types : mapping of str to mapping of str to pyarrow.DataType
        The types of the columns of each table that is given, by its role. Its id is the first one.
    id_type : pyarrow.DataType
        The type of all ids.
    """

    types: Mapping[str, Mapping[str, pa.DataType]]
    id_type: pa.DataType

    @classmethod
    def of(
        cls, scoring: Scoring, given: Mapping[str, pa.Schema], fold: Callable[[str], str] = str
    ) -> _Layout:
        """The layout for tables with these columns. Names that ``fold`` makes equal are equal.

        Raises
        ------
        DataError
            A column that is missing, or is there twice; ids of several types.
        """
        import pyarrow as pa

        key = scoring.model.schema.id_col
        types: dict[str, dict[str, Any]] = {}
        for role, own in given.items():
            wanted = scoring.columns(role)
            missing = [name for name in wanted if name not in own.names]
            if missing:
                raise DataError(
                    f"The {role} table: expected the columns {listed(wanted, 20)}; received "
                    f"{listed(own.names, 20)}. It lacks {listed(missing)}.",
                    column=missing[0],
                )
            names = [fold(name) for name in own.names]
            for name in wanted:
                if names.count(fold(name)) > 1:
                    raise DataError(
                        f"The {role} table: expected one column {name!r}; received "
                        f"{listed(own.names, 20)}. Drop or rename the others.",
                        column=name,
                    )
            types[role] = {name: plain_type(own.field(name).type) for name in wanted}
        try:
            ids = [pa.schema([(key, own[key])]) for own in types.values()]
            (id_type,) = pa.unify_schemas(ids, promote_options="permissive").types
        except pa.ArrowException as error:
            raise mixed_ids(key, {role: own[key] for role, own in types.items()}) from error
        return cls(types, id_type)

    def named(self, role: str) -> dict[str, str]:
        """The columns of a table beside its id, by their names in the one table."""
        _, *names = self.types[role]
        return {f"_statecast_{role}_{at}": name for at, name in enumerate(names)}

    def columns(self) -> dict[str, pa.DataType]:
        """The columns of the one table beside number and id, with their types."""
        return {
            wide: own[name]
            for role, own in self.types.items()
            for wide, name in self.named(role).items()
        }

    def widened(self, role: str, parts: int, table: pa.Table) -> pa.Table:
        """A table of Arrow as rows of the one table, with the bucket of each row's item."""
        import pyarrow as pa

        own, (key, *_) = self.named(role), self.types[role]
        missing = [name for name in (key, *own.values()) if name not in table.column_names]
        if missing:
            raise DataError(
                f"The {role} table: expected a column {missing[0]!r} in all blocks; received one "
                f"with {listed(table.column_names, 20)}.",
                column=missing[0],
            )
        ids = decoded(table.column(key)).cast(self.id_type)
        columns = {
            _BUCKET: bucket_of(ids, parts),
            _TABLE: pa.repeat(pa.scalar(ROLES.index(role), pa.int8()), len(table)),
            _ID: ids,
        }
        for wide, kind in self.columns().items():
            if wide in own:
                columns[wide] = decoded(table.column(own[wide])).cast(kind)
            else:
                columns[wide] = pa.nulls(len(table), kind)
        return pa.table(columns)

    def tables(self, table: pa.Table) -> dict[str, pa.Table]:
        """The tables of some rows of the one table, by their roles."""
        import pyarrow as pa
        import pyarrow.compute as pc

        found = {}
        for role, (key, *names) in self.types.items():
            rows = table.filter(pc.equal(table.column(_TABLE), ROLES.index(role)))
            if rows.column(_ID).null_count:
                raise DataError(
                    f"The {role} table, column {key!r}: expected an id in each row; received rows "
                    "without one.",
                    column=key,
                )
            rows = rows.select([_ID, *self.named(role)]).rename_columns([key, *names])
            found[role] = rows.cast(pa.schema({**self.types[role], key: self.id_type}))
        return found

    def forecasts(self, scoring: Scoring, schema: pa.Schema, table: pa.Table) -> pa.Table:
        """The forecasts of the items of some rows of the one table, which has all their rows."""
        return scoring.of_tables(**self.tables(table)).replace_schema_metadata().cast(schema)


# -- Ray -------------------------------------------------------------------------------------------


def of_dataset(
    scoring: Scoring, tables: Mapping[str, ray.data.Dataset], rows: int
) -> ray.data.Dataset:
    """Forecast the items of Datasets; see ``distributed.forecast``."""
    layout = _Layout.of(scoring, {role: _schema_of(each) for role, each in tables.items()})
    schema = scoring.schema(layout.types)
    most = max(each.count() for each in tables.values())
    if not most:
        import ray.data

        return ray.data.from_arrow(schema.empty_table())
    parts = -(-most // rows)
    wide = [
        each.map_batches(
            partial(layout.widened, role, parts), batch_format="pyarrow", batch_size=None
        )
        for role, each in tables.items()
    ]
    whole = wide[0].union(*wide[1:]) if len(wide) > 1 else wide[0]
    work = partial(_forecast_bucket, layout, scoring, schema)
    return whole.groupby(_BUCKET, num_partitions=parts).map_groups(work, batch_format="pyarrow")


def _forecast_bucket(
    layout: _Layout, scoring: Scoring, schema: pa.Schema, table: pa.Table
) -> pa.Table:
    """The forecasts of a bucket, whose rows come in any order, sorted by item."""
    return layout.forecasts(scoring, schema, table.sort_by(_ID))


def _schema_of(dataset: ray.data.Dataset) -> pa.Schema:
    """The columns of a Dataset, with types that hold those of all its blocks."""
    import pyarrow as pa

    schema = dataset.schema()
    if schema is None:
        raise DataError("Expected a Dataset with columns; received an empty one without.")
    if isinstance(schema.base_schema, pa.Schema):
        return schema.base_schema
    # Blocks of pandas: each says its own types as Arrow, one of missing values alone says null.
    found = dataset.map_batches(_packed_schema, batch_format="pyarrow", batch_size=None)
    schemas = [pa.ipc.read_schema(pa.py_buffer(row["schema"])) for row in found.take_all()]
    plain = [pa.schema([(each.name, plain_type(each.type)) for each in own]) for own in schemas]
    return pa.unify_schemas(plain, promote_options="permissive")


def _packed_schema(table: pa.Table) -> pa.Table:
    import pyarrow as pa

    return pa.table({"schema": [table.schema.remove_metadata().serialize().to_pybytes()]})


# -- Spark -----------------------------------------------------------------------------------------


def of_dataframe(scoring: Scoring, tables: Mapping[str, DataFrame]) -> DataFrame:
    """Forecast the items of DataFrames; see ``distributed.forecast``."""
    from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema

    # Spark gives moments to Python with the time zone of the session, which says nothing about the
    # table. They are taken to that of the model, or to the clock of the session if it has none.
    zone = scoring.model.schema.output().form.zone
    conf = next(iter(tables.values())).sparkSession.conf
    schemas = {role: each.schema for role, each in tables.items()}
    if zone is None:
        schemas = {role: _with_wall_clock(each) for role, each in schemas.items()}
    layout = _Layout.of(
        scoring,
        {role: to_arrow_schema(each, timezone=zone) for role, each in schemas.items()},
        str if conf.get("spark.sql.caseSensitive") == "true" else str.lower,
    )
    schema = scoring.schema(layout.types)
    narrow = (_narrowed(layout, role, table) for role, table in tables.items())
    whole = reduce(lambda one, other: one.unionByName(other, allowMissingColumns=True), narrow)
    packed = pickle.dumps((layout, scoring, schema))

    def forecast(batches: Iterator[Any]) -> Iterator[Any]:
        layout, scoring, schema = pickle.loads(packed)
        for table in _whole_items(batches, _ID):
            yield from layout.forecasts(scoring, schema, table).to_batches()

    ordered = whole.repartition(_ID).sortWithinPartitions(_ID)
    return ordered.mapInArrow(forecast, from_arrow_schema(schema))


def _with_wall_clock(schema: Any) -> Any:
    """The columns of a DataFrame, with moments as those on the clock of the session."""
    from pyspark.sql.types import StructField, StructType, TimestampNTZType, TimestampType

    clock, moment = TimestampNTZType(), TimestampType
    return StructType(
        [
            StructField(f.name, clock if isinstance(f.dataType, moment) else f.dataType)
            for f in schema
        ]
    )


def _column(name: str) -> Any:
    """A column of Spark by its name as it is, with dots too."""
    from pyspark.sql.functions import col

    return col("`" + name.replace("`", "``") + "`")


def _narrowed(layout: _Layout, role: str, table: DataFrame) -> DataFrame:
    """A table as rows of the one table, without the columns of the others."""
    from pyspark.sql.functions import lit
    from pyspark.sql.pandas.types import from_arrow_type

    def cast(name: str, kind: Any) -> Any:
        return _column(name).cast(from_arrow_type(kind, prefer_timestamp_ntz=True))

    key, *_ = types = layout.types[role]
    own = [cast(name, types[name]).alias(wide) for wide, name in layout.named(role).items()]
    number = lit(ROLES.index(role)).cast("byte")
    return table.select(number.alias(_TABLE), cast(key, layout.id_type).alias(_ID), *own)


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
