"""``ParquetFiles``: a table in one or several Parquet files, here or in an object store.

Arrow reads them, in batches of rows: polars may allocate too much memory for a damaged file, which
ends the process. Arrow raises an error.
"""

from __future__ import annotations

import csv
import glob
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from importlib.util import find_spec
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from statecast.errors import DataError, MissingExtraError, listed, quoted

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

T = TypeVar("T")

MOST_FILES = 1_000_000
_AT_ONCE = 16  # footers that are read
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_PATTERN = re.compile(r"[*?[]")
_HIDDEN = ("_", ".")  # names of files that writers keep for themselves


@dataclass(frozen=True)
class File:
    """A file of a table.

    Attributes
    ----------
    path : str
        In its file system.
    size : int
        Bytes.
    changed : int
        Nanoseconds since 1970; 0 where the file system does not say.
    """

    path: str
    size: int
    changed: int


@dataclass(frozen=True)
class RowGroup:
    """A group of consecutive rows of a Parquet file.

    Attributes
    ----------
    file, number : int
        The number of the file, and of the group in it, from 0.
    start : int
        The number of its first row in the file, from 0.
    rows : int
    least, most : object
        The bounds of a column in it; None for both if all are null.
    """

    file: int
    number: int
    start: int
    rows: int
    least: Any
    most: Any


@dataclass(frozen=True)
class ParquetFiles:
    """Parquet files with the rows of one table.

    Attributes
    ----------
    label : str
        The table, for messages.
    system : pyarrow.fs.FileSystem
    files : tuple of File
        In the order of their rows: that of their paths.
    only : sequence of str, optional
        The columns to read; None: all.
    types : pyarrow.Schema, optional
        The types that ``read`` gives to these columns.
    """

    label: str
    system: pa.fs.FileSystem
    files: tuple[File, ...]
    only: Sequence[str] | None = None
    types: pa.Schema | None = None

    @classmethod
    def find(cls, source: str, role: str) -> ParquetFiles:
        """The files that a path, a folder, a pattern or a URL names.

        Parameters
        ----------
        source : str
            A file; a folder, whose files that end with ``.parquet`` are taken, in its subfolders
            too; a pattern of paths with ``*``, ``?`` or ``[]`` (``**`` for subfolders); or one of
            these with the URL of a file system that Arrow or fsspec knows (``s3://``, ``gs://``,
            ``hdfs://``, ...). Files whose name, or whose folder's name, begins with ``_`` or ``.``
            are left out.
        role : str
            What the table is, for messages.

        Raises
        ------
        DataError
            No file; a URL that no file system takes.
        MissingExtraError
            pyarrow is not installed.
        """
        label = f"The {role} table {quoted(source, 200)}"
        check_pyarrow(label)
        with reading(label, "parquet"):
            system, path = system_of(source, label)
            files = _local(path) if not is_url(source) else _remote(system, path)
        plain = not is_url(source) and _PATTERN.search(source) is None
        if not files and plain and not Path(source).exists():
            raise DataError(f"{label}: expected a file or a folder; there is none.")
        if not files:
            raise DataError(f"{label}: expected files that end with .parquet; there is none.")
        if len(files) > MOST_FILES:
            raise DataError(
                f"{label}: expected at most {MOST_FILES:,} files; received {len(files):,}."
            )
        return cls(label, system, tuple(sorted(files, key=lambda file: file.path)))

    def of_file(self, number: int) -> str:
        """The label of one file."""
        if repr(self.files[number].path) in self.label:
            return self.label
        return f"{self.label}, file {quoted(self.files[number].path, 200)}"

    def names(self) -> list[str]:
        """The names of the columns of the first file."""
        with self._open(0) as file:
            return file.schema_arrow.names

    def with_columns(self, names: Sequence[str]) -> ParquetFiles:
        """The same files, of which only these columns are read."""
        return replace(self, only=names)

    def batches(self, rows: int) -> Iterator[pl.DataFrame]:
        """Yield the rows in batches; for files without rows one empty frame."""
        import polars as pl

        each = chain.from_iterable(self._batches_of(i, rows) for i in range(len(self.files)))
        first = pl.DataFrame(next(each))
        yielded = len(first) > 0
        if yielded:
            yield first
        for batch in each:
            if len(frame := pl.DataFrame(batch)):
                yielded = True
                yield frame
        if not yielded:
            yield first

    def _batches_of(self, number: int, rows: int) -> Iterator[Any]:
        """Yield the rows of a file in batches of Arrow; one without rows if it has none."""
        import pyarrow as pa

        columns = None if self.only is None else list(self.only)
        with self._open(number) as file:
            schema, metadata, found = file.schema_arrow, file.metadata, 0
            if number:
                self._check_columns(number, schema.names)
            # polars stores enums in the metadata of a column, and panics if it is not UTF-8.
            for field in schema:
                for note in chain.from_iterable((field.metadata or {}).items()):
                    note.decode()
            sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
            # Arrow keeps in memory all row groups that it is asked for, so it is asked for few.
            # Its threads are not used, because they do not exist in a forked process.
            for groups in _runs(sizes, rows):
                for batch in file.iter_batches(
                    rows, row_groups=groups, columns=columns, use_threads=False
                ):
                    batch.validate(full=True)  # polars does not check that text is UTF-8
                    found += len(batch)
                    yield batch.replace_schema_metadata()
            if found != metadata.num_rows:
                raise pa.ArrowInvalid(
                    f"it has {found:,} rows; its header says {metadata.num_rows:,}"
                )
            if not found:
                yield schema.remove_metadata().empty_table().select(columns or schema.names)

    def row_groups(self, column: str) -> list[RowGroup]:
        """The groups of rows of all files, with the bounds of a column.

        The bounds are those of the files' footers, or those of the column itself where a footer has
        none or may have only the beginning of a long text.
        """
        found = self._of_each_file(lambda number: self._groups_of(number, column))
        return list(chain.from_iterable(found))

    def _of_each_file(self, function: Callable[[int], T]) -> list[T]:
        """What a function returns for the number of each file. Some are read at once, because the
        footer of a file in an object store takes a tenth of a second."""
        with ThreadPoolExecutor(min(_AT_ONCE, len(self.files))) as pool:
            return list(pool.map(function, range(len(self.files))))

    def _groups_of(self, number: int, column: str) -> list[RowGroup]:
        """The groups of rows of a file."""
        import pyarrow.compute as pc

        found: list[RowGroup] = []
        with self._open(number) as file:
            self._check_columns(number, file.schema_arrow.names, (column,))
            leaves = [file.metadata.schema.column(i).path for i in range(file.metadata.num_columns)]
            place, start = leaves.index(column), 0
            for group in range(file.metadata.num_row_groups):
                rows = file.metadata.row_group(group)
                known = rows.column(place).statistics
                if not rows.num_rows:
                    continue
                bounds = (known.min, known.max) if known and known.has_min_max else (None, None)
                if bounds[0] is None or any(_may_be_cut(bound) for bound in bounds):
                    values = file.read_row_group(group, columns=[column], use_threads=False)
                    both = pc.min_max(values.column(0)).as_py()
                    bounds = both["min"], both["max"]
                found.append(RowGroup(number, group, start, rows.num_rows, *bounds))
                start += rows.num_rows
        return found

    def with_types(self) -> ParquetFiles:
        """The same files, whose columns are read as types that hold the values of all files.

        Raises
        ------
        DataError
            Files whose types have no such type.
        """
        import pyarrow as pa

        def schema_of(number: int) -> pa.Schema:
            with self._open(number) as file:
                schema = file.schema_arrow.remove_metadata()
            names = schema.names if self.only is None else self.only
            return pa.schema([schema.field(name) for name in names if name in schema.names])

        schemas = dict.fromkeys(self._of_each_file(schema_of))
        try:
            types = pa.unify_schemas(list(schemas), promote_options="permissive")
        except pa.ArrowException as error:
            raise DataError(
                f"{self.label}: expected columns of types that go together in all files; "
                f"received: {error}. Cast them to one type."
            ) from error
        return replace(self, types=types)

    def read(self, groups: Sequence[RowGroup] | None = None, key: str | None = None) -> pa.Table:
        """All rows, or those of some groups, which are in the order of their files.

        Columns whose types differ between files have a type that holds all. With ``groups``, each
        row must have a value of the column ``key``.

        Raises
        ------
        DataError
            A file that cannot be read, or without one of the columns; a row without ``key``.
        """
        import pyarrow as pa
        from pyarrow import fs

        columns = None if self.only is None else list(self.only)
        wanted: dict[int, list[RowGroup] | None] = dict.fromkeys(range(len(self.files)))
        if groups is not None:
            by_file = groupby(groups, key=lambda group: group.file)
            wanted = {number: list(of_file) for number, of_file in by_file}
        tables = []
        for number, of_file in wanted.items():
            with self._open(number) as file:
                self._check_columns(number, file.schema_arrow.names)
                numbers = range(file.num_row_groups)
                if of_file is not None:
                    numbers = [group.number for group in of_file]
                table = file.read_row_groups(numbers, columns=columns, use_threads=False)
                table.validate(full=True)
                tables.append(table.replace_schema_metadata())
            if of_file is not None and key is not None and table.column(key).null_count:
                row = _first_null(table.column(key), of_file)
                raise DataError(
                    f"{self.of_file(number)}: expected a value of {key!r} in each row; row {row} "
                    "has none.",
                    column=key,
                )
            own = self.files[number]
            info: fs.FileInfo = self.system.get_file_info(own.path)
            if (info.size, info.mtime_ns or 0) != (own.size, own.changed):
                raise DataError(
                    f"{self.of_file(number)}: expected a file that stays as it is; it was written "
                    "again since this call began. Run it again when nothing writes."
                )
        if not tables:
            types = self.with_types().types if self.types is None else self.types
            assert types is not None  # by `with_types`
            return types.empty_table()
        table = pa.concat_tables(tables, promote_options="permissive")
        if self.types is None:
            return table
        return table.cast(pa.schema([self.types.field(name) for name in table.column_names]))

    def _check_columns(
        self, number: int, names: list[str], wanted: Sequence[str] | None = None
    ) -> None:
        """Raise ``DataError`` for a file without one of the wanted columns."""
        wanted = self.only if wanted is None else wanted
        missing = [name for name in wanted or () if name not in names]
        if missing:
            raise DataError(
                f"{self.of_file(number)}: expected a column {quoted(missing[0])}; received "
                f"{listed(names, 20)}.",
                column=missing[0],
            )

    @contextmanager
    def _open(self, number: int) -> Iterator[Any]:
        """Open a file as Parquet; errors name it."""
        import pyarrow.parquet as pq

        with (
            reading(self.of_file(number), "parquet"),
            self.system.open_input_file(self.files[number].path) as opened,
            pq.ParquetFile(opened) as file,
        ):
            yield file


def _first_null(column: pa.ChunkedArray, groups: Sequence[RowGroup]) -> int:
    """The row, from 1, in their file, of the first null in the rows of some groups."""
    import pyarrow.compute as pc

    at = pc.index(pc.is_null(column), True).as_py()
    for group in groups:
        if at < group.rows:
            return group.start + at + 1
        at -= group.rows
    raise AssertionError("a null in one of the groups")


def _may_be_cut(bound: Any) -> bool:
    """Whether a bound may be a part of the value: some writers keep the first 64 bytes."""
    data = bound.encode() if isinstance(bound, str) else bound
    return isinstance(data, bytes) and len(data) >= 64


def _runs(sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """Yield runs of consecutive indices whose sizes add up to at most ``most``, or single ones."""
    run: list[int] = []
    total = 0
    for number, size in enumerate(sizes):
        if run and total + size > most:
            yield run
            run, total = [], 0
        run.append(number)
        total += size
    if run:
        yield run


def is_url(source: str) -> bool:
    """Whether text is the URL of a file system."""
    return _URL.match(source) is not None


def names_files(source: str) -> bool:
    """Whether text names a Parquet file, a folder, a pattern of files or a URL."""
    if is_url(source) or source.lower().endswith(".parquet"):
        return True
    try:
        return Path(source).is_dir() or (
            _PATTERN.search(source) is not None and not Path(source).exists()
        )
    except (OSError, ValueError):  # the name is too long, or has a null byte
        return False


def system_of(source: str, label: str) -> tuple[Any, str]:
    """The file system of a path or a URL, and the path in it.

    Raises
    ------
    DataError
        A URL of a file system that neither Arrow nor fsspec knows.
    """
    from pyarrow import ArrowInvalid, fs

    if not is_url(source):
        return fs.LocalFileSystem(), source
    try:
        # A pattern is no valid URL for Arrow: `?` begins the query.
        head = _PATTERN.split(source, maxsplit=1)[0]
        system, path = fs.FileSystem.from_uri(head.rstrip("/") or head)
        return system, path + ("/" if head.endswith("/") else "") + source[len(head) :]
    except ArrowInvalid:
        pass
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(source)
    except (ValueError, ImportError) as error:
        raise DataError(
            f"{label}: expected a path, or the URL of a file system that Arrow or fsspec knows; "
            f"received one that neither takes: {error}"
        ) from error
    return fs.PyFileSystem(fs.FSSpecHandler(system)), path


def _local(path: str) -> list[File]:
    """The files that a path of this machine names."""
    place = Path(path)
    if place.is_file():
        found = [place] if place.suffix.lower() == ".parquet" else []
    elif place.is_dir():
        found = [each for each in place.rglob("*.parquet") if _shown(each.relative_to(place).parts)]
    else:
        head = Path(*_PATTERN.split(path, maxsplit=1)[0].rpartition("/")[:1]) if path else place
        found = [Path(each) for each in glob.glob(path, recursive=True)]
        found = [each for each in found if _shown(each.parts[len(head.parts) :])]
    stats = [(str(each), each.stat()) for each in found if each.is_file()]
    return [File(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def _remote(system: Any, path: str) -> list[File]:
    """The files that a path of a file system names."""
    from pyarrow import fs

    def file_of(info: Any) -> File:
        return File(info.path, info.size or 0, info.mtime_ns or 0)

    if _PATTERN.search(path) is None:
        info = system.get_file_info(path)
        if info.is_file:
            return [file_of(info)]
        pattern, head = None, path
    else:
        head = _PATTERN.split(path, maxsplit=1)[0].rpartition("/")[0]
        pattern = path
    found = []
    with suppress(FileNotFoundError):
        found = system.get_file_info(fs.FileSelector(head, recursive=True))
    taken = [
        info
        for info in found
        if info.is_file
        and _shown(info.path[len(head) :].strip("/").split("/"))
        and (
            info.path.lower().endswith(".parquet")
            if pattern is None
            else fnmatchcase(info.path, pattern.replace("**/", "*"))
        )
    ]
    return [file_of(info) for info in taken]


def _shown(parts: Sequence[str]) -> bool:
    """Whether no part of a path is a name that writers keep for themselves."""
    return not any(part.startswith(_HIDDEN) for part in parts)


def check_pyarrow(label: str) -> None:
    """Raise ``MissingExtraError`` if pyarrow, which reads Parquet, is not installed."""
    if find_spec("pyarrow") is None:
        raise MissingExtraError(
            f"{label}: Parquet files are read by pyarrow, which is not installed. "
            "Run: pip install 'statecast[parquet]'; or write the table as CSV."
        )


@contextmanager
def reading(label: str, kind: str) -> Iterator[None]:
    """Turn the errors of reading a file into ``DataError``."""
    import polars as pl

    unreadable = (pl.exceptions.PolarsError, pl.exceptions.PanicException, csv.Error)
    if kind == "parquet":
        import pyarrow as pa

        unreadable += (pa.ArrowException,)
    try:
        yield
    except (OSError, UnicodeError, *unreadable) as e:
        what = str(e).strip().split("\n")[0] or type(e).__name__
        raise DataError(f"{label}: expected a {kind} table; cannot read it: {what}") from e
