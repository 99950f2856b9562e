"""``forecast_files``: forecasts of the items of Parquet files, part by part, written to a folder.

A part has all rows of its items: those whose ids are in a range, if the files are sorted by id, or
those whose ids have one hash. It is computed by one task of an engine. Its file appears whole or
not at all. Beside the parts, in ``_statecast/``, are a description of the job (``job.json``), a
receipt of each part, and at the end ``manifest.json``. So a job that was killed continues with the
parts that are missing, and one that is complete does nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.metadata import version
from itertools import accumulate, groupby, pairwise
from typing import TYPE_CHECKING, Any

from statecast.distributed.engines import Run
from statecast.distributed.scoring import ROLES, Scoring, decoded, mixed_ids, plain_type
from statecast.errors import (
    ArgumentError,
    DataError,
    JobError,
    StatecastError,
    cut,
    listed,
    quoted,
    silent,
    warn,
)
from statecast.files import id_bytes, lock, strict_json, write_whole
from statecast.progress import Verbose, display
from statecast.tables.files import File, ParquetFiles, RowGroup, system_of

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 1_000_000  # of a part, about
MOST_PARTS = 100_000
_OWN = "_statecast"
_FILE = re.compile(r"part-\d{5,}\.parquet")
_PIECES = f"{_OWN}/pieces"
_LOCK = ".statecast.lock"
_WAIT = 5.0  # seconds to wait for a job that is about to end
_JOB, _MANIFEST = f"{_OWN}/job.json", f"{_OWN}/manifest.json"
_DAMAGED = (ValueError, KeyError, TypeError)  # what a damaged file of JSON raises
_SHOWN = 5  # errors and warnings of parts in a message


@dataclass(frozen=True)
class Report:
    """What a job did.

    Attributes
    ----------
    out : str
        The folder.
    parts : int
        All parts: their files are ``part-00000.parquet`` and so on.
    kept : int
        Those of them that were there before.
    items, rows : int
        The items of all parts, and the rows of their forecasts.
    seconds : float
        The time of this call.

    Examples
    --------
    >>> from statecast.distributed import Report
    >>> Report("forecasts", parts=4, kept=1, items=1000, rows=10_000, seconds=2.0).kept
    1
    """

    out: str
    parts: int
    kept: int
    items: int
    rows: int
    seconds: float


def forecast_files(
    scoring: Scoring,
    sources: Mapping[str, str],
    out: str,
    engine: AbstractContextManager[Run],
    *,
    partition: str,
    rows: int,
    overwrite: bool,
    verbose: Verbose,
) -> Report:
    """Forecast the items of Parquet files; see ``distributed.forecast``.

    ``sources`` are paths, folders, patterns or URLs, by "series", "static" and "future".
    """
    begun = time.monotonic()
    key = scoring.model.schema.id_col
    files = {
        role: ParquetFiles.find(source, role).with_columns(scoring.columns(role)).with_types()
        for role, source in sources.items()
    }
    tables = _Tables(files, key)
    _check_tables(tables, sources, out)
    columns = scoring.schema(tables.types())
    folder = _Folder.of(out)
    with folder.locked():
        _begin(folder, scoring, sorted(files), partition, rows, overwrite)
        receipts = _complete(folder, tables.made_from)
        if receipts is not None:
            return _report(out, receipts, len(receipts), begun)
        work = partial(_forecast_part, scoring, folder, columns, key)
        with engine as run:
            plan = _plan(folder, tables, run, partition, rows, verbose)
            found = _receipts(folder, plan)
            kept = len(found)
            left = [part for part in plan if part.number not in found]
            found |= _run(run, work, left, "Forecasts", tables, verbose)
        receipts = [found[part.number] for part in plan]
        manifest = {"made_from": tables.made_from, "parts": receipts}
        folder.write(_MANIFEST, _json(manifest))
        folder.delete_folder(_PIECES)
    return _report(out, receipts, kept, begun)


def _report(out: str, receipts: Sequence[Mapping[str, Any]], kept: int, begun: float) -> Report:
    items, rows = (sum(receipt[name] for receipt in receipts) for name in ("items", "rows"))
    return Report(out, len(receipts), kept, items, rows, time.monotonic() - begun)


def _run(
    run: Run,
    work: Callable[[Any], dict[str, Any]],
    tasks: Sequence[Any],
    what: str,
    tables: _Tables,
    verbose: Verbose,
) -> dict[int, dict[str, Any]]:
    """The receipts of tasks by their numbers, with lines of progress.

    Raises
    ------
    JobError
        Some tasks failed. The others are done then.
    """
    found: dict[int, dict[str, Any]] = {}
    failed: dict[int, tuple[str, Any]] = {}
    warned: dict[str, int] = {}
    with display(verbose) as shown:
        for receipt in run(work, tasks):
            if "error" in receipt:
                failed[receipt["number"]] = receipt["error"], receipt["item"]
            else:
                found[receipt["number"]] = receipt
            for text in receipt.get("warnings", ()):
                warned[text] = warned.get(text, 0) + 1
            shown.count(what, len(found) + len(failed), len(tasks))
    for text, count in list(warned.items())[:_SHOWN]:
        warn(text if count == 1 else f"{text} So in {count} parts.")
    if len(warned) > _SHOWN:
        warn(f"Further warnings, in the receipts of the parts: {len(warned) - _SHOWN}.")
    if failed:
        texts = {
            number: tables.placed(*failed[number]) if at < _SHOWN else failed[number][0]
            for at, number in enumerate(sorted(failed))
        }
        shown = [f"Part {number}: {text}" for number, text in list(texts.items())[:_SHOWN]]
        more = f" And {len(failed) - _SHOWN} more." if len(failed) > _SHOWN else ""
        kept = "" if len(failed) == len(tasks) else "; the others are written"
        raise JobError(
            f"{len(failed)} of {len(tasks)} parts failed{kept}. Mend their input and run the job "
            f"again: it computes these alone. {' '.join(shown)}{more}",
            failed=texts,
        )
    return found


@dataclass(frozen=True)
class _Tables:
    """The tables of a job, and the column of their ids."""

    files: Mapping[str, ParquetFiles]
    key: str

    @cached_property
    def groups(self) -> dict[str, list[RowGroup]]:
        """Their groups of rows, with the bounds of the ids."""
        return {role: files.row_groups(self.key) for role, files in self.files.items()}

    @cached_property
    def made_from(self) -> str:
        """A digest of their files."""
        return _digest({role: _identity(files.files) for role, files in self.files.items()})

    def types(self) -> dict[str, dict[str, pa.DataType]]:
        """The types of their columns."""
        found = {}
        for role, files in self.files.items():
            assert files.types is not None  # by `with_types`
            found[role] = dict(zip(files.types.names, files.types.types, strict=True))
        return found

    def placed(self, text: str, item: Any) -> str:
        """The text of an error about an item, with the place of the item in the table that the
        text names."""
        import pyarrow.compute as pc

        role = next((role for role in self.files if f"The {role} table" in text), None)
        if role is None or item is None:
            return text
        files = self.files[role].with_columns((self.key,))
        with suppress(DataError, TypeError):  # no place is better than no error
            for group in self.groups[role]:
                if group.least is not None and group.least <= item <= group.most:
                    at = pc.index(decoded(files.read([group]).column(0)), item).as_py()
                    if at >= 0:
                        path = quoted(files.files[group.file].path, 200)
                        return f"{text} The item is in {path} from row {group.start + at + 1} on."
        return text


def _check_tables(tables: _Tables, sources: Mapping[str, str], out: str) -> None:
    """Raise for ids of several kinds, or an ``out`` among the tables."""
    import pyarrow as pa

    kinds = {}
    for role, files in tables.files.items():
        if files.types is not None and tables.key in files.types.names:
            kinds[role] = plain_type(files.types.field(tables.key).type)
    numbers = {pa.types.is_integer(kind) for kind in kinds.values() if not pa.types.is_null(kind)}
    if len(numbers) > 1:
        raise mixed_ids(tables.key, kinds)
    for role, source in sources.items():
        if f"{out}/".startswith(f"{source.rstrip('/')}/"):
            raise ArgumentError(
                f"out: expected a folder outside of the {role} table, of which its files would be "
                f"a part; received {quoted(out, 200)}."
            )


# -- the folder of a job ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Folder:
    """A folder whose files are written whole or not at all, here or in an object store."""

    name: str
    system: Any
    path: str

    @classmethod
    def of(cls, name: str) -> _Folder:
        """The folder of a path or a URL; made if it is not there."""
        system, path = system_of(name, f"out: {quoted(name, 200)}")
        folder = cls(name, system, path.rstrip("/") or "/")
        try:
            system.create_dir(folder.path, recursive=True)
        except OSError as error:
            raise ArgumentError(f"out: {quoted(name, 200)} cannot be made ({error}).") from error
        return folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Refuse the folder if another process has a job in it. Object stores have no locks."""
        from pyarrow import fs

        if not isinstance(self.system, fs.LocalFileSystem):
            yield
            return
        with lock(f"{self.path}/{_LOCK}", _WAIT) as alone:
            if not alone:
                raise ArgumentError(
                    f"out: expected a folder that no other job writes to; a job is running in "
                    f"{quoted(self.name, 200)}. Wait until it has ended, and run this one again; "
                    "or choose another folder."
                )
            yield

    def write(self, name: str, data: bytes) -> None:
        from pyarrow import fs

        path = f"{self.path}/{name}"
        parent, _, last = path.rpartition("/")
        try:
            self.system.create_dir(parent, recursive=True)
            if isinstance(self.system, fs.LocalFileSystem):
                write_whole(path, data)
                return
            # In an object store a file appears once its stream is closed, elsewhere once it is
            # moved.
            with self.system.open_output_stream(f"{parent}/.{last}.part") as stream:
                stream.write(data)
            self.system.move(f"{parent}/.{last}.part", path)
        except OSError as error:
            raise ArgumentError(f"out: {quoted(path, 200)} cannot be written ({error}).") from error

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if there is none."""
        try:
            with self.system.open_input_file(f"{self.path}/{name}") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def files(self, below: str = "") -> list[File]:
        """The files in this folder, or in one below it."""
        from pyarrow import fs

        path = f"{self.path}/{below}".rstrip("/")
        found = self.system.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return [
            File(info.path, info.size or 0, info.mtime_ns or 0)
            for info in found
            if info.is_file and not info.base_name.startswith(".")  # of writers that were killed
        ]

    def sizes(self, below: str = "") -> dict[str, int]:
        """The bytes of ``files`` by their names."""
        return {file.path.rpartition("/")[2]: file.size for file in self.files(below)}

    def delete(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self.system.delete_file(f"{self.path}/{name}")

    def delete_folder(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self.system.delete_dir(f"{self.path}/{name}")


def _begin(
    folder: _Folder,
    scoring: Scoring,
    roles: list[str],
    partition: str,
    rows: int,
    overwrite: bool,
) -> None:
    """Write the description of the job; raise if the folder has another one, or other files."""
    plain = (int, float, str, bool, type(None))
    options = {
        name: value if isinstance(value, plain) else repr(value)
        for name, value in scoring.options.items()
    }
    job = {
        "model": scoring.model.fingerprint,
        "options": options,
        "tables": roles,
        "partition": partition,
        "rows": rows,
        "digest": scoring.digest,
    }
    written = folder.read(_JOB)
    if written is None:
        others = [name for name in folder.sizes() if not (overwrite and _FILE.fullmatch(name))]
        if others:
            raise ArgumentError(
                "out: expected a new or empty folder, or that of the same job; "
                f"{quoted(folder.name, 200)} has {listed(others, 3)}."
            )
    elif overwrite:
        for name in folder.sizes():
            if _FILE.fullmatch(name):
                folder.delete(name)
        folder.delete_folder(_OWN)
    else:
        try:
            before = dict(strict_json(written.decode()))
        except _DAMAGED as error:
            raise DataError(
                f"{folder.name}/{_JOB} is damaged ({error}). Pass overwrite=True (--overwrite) to "
                "begin again."
            ) from error
        known = _flat(before)
        for name, value in _flat(job).items():
            if known.get(name) != value:
                was = cut(str(known.get(name)))
                raise ArgumentError(
                    f"out: {quoted(folder.name, 200)} has the forecasts of another job: {name} was "
                    f"{was}, and is {cut(str(value))}. Choose another folder, or pass "
                    "overwrite=True (--overwrite), which deletes them."
                )
        return
    folder.write(_JOB, _json({**job, "statecast": version("statecast")}))


def _flat(job: Mapping[str, Any]) -> dict[str, Any]:
    """The description of a job with its options as entries of their own, before the digest."""
    options = job.get("options")
    return {**(options if isinstance(options, dict) else {}), **job, "options": None}


def _complete(folder: _Folder, made_from: str) -> list[dict[str, Any]] | None:
    """The receipts of a complete job from the same files; None if it is not complete."""
    with suppress(*_DAMAGED):
        manifest, sizes = strict_json((folder.read(_MANIFEST) or b"").decode()), folder.sizes()
        if manifest["made_from"] == made_from and all(
            sizes.get(part["file"]) == part["bytes"] for part in manifest["parts"]
        ):
            return manifest["parts"]
    return None


def _receipts(folder: _Folder, plan: Sequence[_Part]) -> dict[int, dict[str, Any]]:
    """The receipts of those parts of a plan that are there. Files of other plans are deleted."""
    sizes, receipts = folder.sizes(), folder.sizes(_OWN)
    found = {}
    for part in plan:
        if part.receipt.rpartition("/")[2] in receipts and part.file in sizes:
            with suppress(*_DAMAGED):
                receipt = strict_json((folder.read(part.receipt) or b"").decode())
                same = receipt["made_from"] == part.made_from
                if same and receipt["bytes"] == sizes[part.file]:
                    found[part.number] = receipt
    known = {part.file for part in plan}
    for name in sizes:
        if _FILE.fullmatch(name) and name not in known:
            folder.delete(name)
    folder.delete(_MANIFEST)
    return found


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=repr)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _identity(files: Sequence[File]) -> Any:
    return [[file.path, file.size, file.changed] for file in files]


# -- parts -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Slice:
    """Groups of rows of a table, which have all rows of the items of a part."""

    files: ParquetFiles
    groups: tuple[RowGroup, ...]

    @classmethod
    def of(cls, files: ParquetFiles, groups: Sequence[RowGroup]) -> _Slice:
        """The slice of some groups, with their files alone."""
        numbers = sorted({group.file for group in groups})
        new = {number: at for at, number in enumerate(numbers)}
        kept = tuple(files.files[number] for number in numbers)
        own = tuple(replace(group, file=new[group.file]) for group in groups)
        return cls(replace(files, files=kept), own)

    def identity(self) -> Any:
        groups = [[group.file, group.number] for group in self.groups]
        return [_identity(self.files.files), groups]

    def read(self, key: str) -> pa.Table:
        return self.files.read(self.groups, key)


@dataclass(frozen=True)
class _Bucket:
    """The rows of a table whose ids have one hash: all files of a folder of the job."""

    files: ParquetFiles
    folder: _Folder
    below: str

    def read(self, _: str) -> pa.Table:
        found = sorted(self.folder.files(self.below), key=lambda file: file.path)
        return replace(self.files, system=self.folder.system, files=tuple(found)).read()


@dataclass(frozen=True)
class _Part:
    """A part of a job: the items whose ids are from ``first`` to below ``before`` (None: no
    bound). ``made_from`` is a digest of its input."""

    number: int
    first: Any
    before: Any
    slices: Mapping[str, _Slice | _Bucket]
    made_from: str

    @property
    def file(self) -> str:
        return f"part-{self.number:05d}.parquet"

    @property
    def receipt(self) -> str:
        return f"{_OWN}/part-{self.number:05d}.json"

    def read(self, role: str, key: str) -> pa.Table | None:
        """The rows of its items in a table; None without the table."""
        if role not in self.slices:
            return None
        table = self.slices[role].read(key)
        return table.filter(self._inside(table.column(key)))

    def _inside(self, ids: Any) -> Any:
        """Which ids are in the range."""
        import pyarrow as pa
        import pyarrow.compute as pc

        ids = decoded(ids)
        inside = pa.repeat(pa.scalar(True), len(ids))
        if self.first is not None:
            inside = pc.and_(inside, pc.greater_equal(ids, self.first))
        if self.before is not None:
            inside = pc.and_(inside, pc.less(ids, self.before))
        return inside


def _plan(
    folder: _Folder, tables: _Tables, run: Run, partition: str, rows: int, verbose: Verbose
) -> list[_Part]:
    if partition == "input":
        return _ranges(tables, rows)
    return _hashed(folder, tables, run, rows, verbose)


def _check_parts(parts: int, rows: int) -> None:
    if parts > MOST_PARTS:
        raise ArgumentError(
            f"rows: expected at most {MOST_PARTS:,} parts; received {rows:,} rows of each, which "
            f"makes {parts:,}. Choose more rows."
        )


def _ranges(tables: _Tables, rows: int) -> list[_Part]:
    """Parts as the input lies: ranges of ids with about so many rows, between groups of rows."""
    lead = next(role for role in ROLES if role in tables.files)
    borders, size, previous = [], 0, None
    for group in tables.groups[lead]:
        if group.least is None:
            continue
        if previous is not None:
            _check_sorted(tables.files[lead], previous, group, tables.key)
            if size >= rows:
                borders.append(group.least)
                size = 0
        size, previous = size + group.rows, group
    borders = list(dict.fromkeys(borders))  # an item with the rows of several parts is in one
    _check_parts(len(borders) + 1, rows)
    parts = []
    for number, bounds in enumerate(pairwise([None, *borders, None])):
        slices = {
            role: _Slice.of(files, [g for g in tables.groups[role] if _overlaps(g, *bounds)])
            for role, files in tables.files.items()
        }
        identities = {role: each.identity() for role, each in slices.items()}
        parts.append(_Part(number, *bounds, slices, _digest([*bounds, identities])))
    return parts


def _check_sorted(files: ParquetFiles, previous: RowGroup, group: RowGroup, key: str) -> None:
    with suppress(TypeError):  # ids of two types
        if group.least >= previous.most:
            return
    raise DataError(
        f"{files.of_file(group.file)}: expected rows that are sorted by {key!r}, in all files in "
        f"the order of their names; received {quoted(group.least)} after {quoted(previous.most)}. "
        "Sort them (ORDER BY), or pass partition='hash' (--partition hash), which brings the "
        "rows of each item together.",
        column=key,
        item=group.least,
    )


def _overlaps(group: RowGroup, first: Any, before: Any) -> bool:
    """Whether a group of rows may have ids of a range; one of missing ids, those of the first."""
    if group.least is None:
        return first is None
    return (first is None or group.most >= first) and (before is None or group.least < before)


# -- parts by hash ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Piece:
    """Groups of rows whose rows are divided by the hash of their ids, in files of a folder."""

    number: int
    role: str
    slice: _Slice


def _hashed(folder: _Folder, tables: _Tables, run: Run, rows: int, verbose: Verbose) -> list[_Part]:
    """Parts by the hash of the ids. First the tables are divided, each task some of their rows."""
    sizes = [sum(group.rows for group in groups) for groups in tables.groups.values()]
    count = max(1, math.ceil(max(sizes) / rows))
    _check_parts(count, rows)
    pieces: list[_Piece] = []
    for role, files in tables.files.items():
        groups = tables.groups[role]
        ends = accumulate(group.rows for group in groups)
        for _, each in groupby(zip(ends, groups, strict=True), key=lambda pair: pair[0] // rows):
            pieces.append(_Piece(len(pieces), role, _Slice.of(files, [group for _, group in each])))
    made_from = _digest([count, [[piece.role, piece.slice.identity()] for piece in pieces]])
    if folder.read(f"{_PIECES}/made_from") != made_from.encode():
        folder.delete_folder(_PIECES)
        folder.write(f"{_PIECES}/made_from", made_from.encode())
    done = folder.sizes(f"{_PIECES}/done")
    left = [piece for piece in pieces if str(piece.number) not in done]
    work = partial(_divide, folder, tables.key, count)
    _run(run, work, left, "Rows by their items", tables, verbose)
    return [
        _Part(
            number,
            None,
            None,
            {
                role: _Bucket(files, folder, f"{_PIECES}/{role}/{number:05d}")
                for role, files in tables.files.items()
            },
            _digest([number, made_from]),
        )
        for number in range(count)
    ]


def _divide(folder: _Folder, key: str, count: int, piece: _Piece) -> dict[str, Any]:
    """Write the rows of a piece by the hash of their ids, each in a file of its part."""
    import pyarrow.compute as pc

    try:
        table = piece.slice.read(key)
        bucket = bucket_of(table.column(key), count)
        for number in pc.unique(bucket).to_pylist():
            rows = table.filter(pc.equal(bucket, number))
            name = f"{_PIECES}/{piece.role}/{number:05d}/{piece.number:05d}.parquet"
            folder.write(name, _parquet(rows))
        folder.write(f"{_PIECES}/done/{piece.number}", b"")
    except Exception as error:  # to the driver, so that no other piece is lost
        return {"number": piece.number, **_failed(error)}
    return {"number": piece.number}


def bucket_of(ids: pa.ChunkedArray, count: int) -> pa.Array:
    """The number of the bucket of each id, from 0: a hash of the id, the same everywhere.

    Parameters
    ----------
    ids : pyarrow.ChunkedArray, ``(rows,)``
        A missing id is in bucket 0.
    count : int
        The number of buckets.

    Returns
    -------
    pyarrow.Array of int32, ``(rows,)``
    """
    import pyarrow as pa

    if not pa.types.is_dictionary(ids.type):
        ids = ids.dictionary_encode()
    ids = ids.combine_chunks()
    cells = ids.dictionary.to_pylist()
    hashed = [0 if item is None else zlib.crc32(_bytes_of(item)) % count for item in cells]
    return pa.array(hashed, pa.int32()).take(ids.indices).fill_null(0)


def _bytes_of(item: Any) -> bytes:
    """The same bytes for equal ids of one type."""
    try:
        return id_bytes(item)
    except ValueError:  # a float or a decimal number
        return repr(item + 0).encode()  # -0.0 is 0.0


# -- the work on a part ----------------------------------------------------------------------------


def _forecast_part(
    scoring: Scoring, folder: _Folder, schema: pa.Schema, key: str, part: _Part
) -> dict[str, Any]:
    """Forecast the items of a part and write its file and its receipt; return the receipt, or the
    text of an error."""
    import pyarrow.compute as pc

    begun, clock = time.time(), time.monotonic()
    warned: list[str] = []
    try:
        tables = {role: part.read(role, key) for role in ROLES}
        with silent() as warned:
            found = schema.empty_table()
            if any(table is not None and len(table) for table in tables.values()):
                found = scoring.of_tables(**tables).replace_schema_metadata().cast(schema)
        data = _parquet(found)
        folder.write(part.file, data)
        receipt = {
            "number": part.number,
            "file": part.file,
            "bytes": len(data),
            "checksum": f"blake2b:{hashlib.blake2b(data, digest_size=16).hexdigest()}",
            "items": pc.count_distinct(decoded(found.column(key))).as_py(),
            "rows": len(found),
            "begun": begun,
            "seconds": time.monotonic() - clock,
            "first": _shown(part.first),
            "before": _shown(part.before),
            "made_from": part.made_from,
            "warnings": list(warned),
        }
        folder.write(part.receipt, _json(receipt))
        return receipt
    except Exception as error:  # to the driver, so that no other part is lost
        return {"number": part.number, "warnings": list(warned), **_failed(error)}


def _parquet(table: pa.Table) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = pa.BufferOutputStream()
    pq.write_table(table, stream, compression="zstd")
    return stream.getvalue().to_pybytes()


def _failed(error: Exception) -> dict[str, Any]:
    """The text of an error, and the item that it is about."""
    own = isinstance(error, StatecastError)
    text = str(error) if own else f"{type(error).__name__}: {error}"
    return {"error": text, "item": getattr(error, "item", None)}


def _shown(item: Any) -> Any:
    return item if isinstance(item, (int, str, type(None))) else repr(item)
