"""Files are written whole or not at all, and are checked before their content is used.

A model or a state is one safetensors file: a JSON header, then the values of each tensor. Each
entry of the header is checked against the size of the file before memory is allocated for a tensor.
``check_finite`` checks the values.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from statecast.errors import ArgumentError, ModelFileError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

ALIGNMENT = 64  # bytes: where the numbers of a tensor begin in memory
MOST_ZERO_WIDTH = 2**20  # rows of a file without any number, whose size does not bound them
_MOST_VALUES = 500_000  # in the JSON of a header: each takes up to 80 bytes of memory
_MOST_AXES = 32  # of a tensor; NumPy allows 64
_DTYPES = {
    "BOOL": "?", "I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "U8": "<u1", "U16": "<u2",
    "U32": "<u4", "U64": "<u8", "F16": "<f2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip
_MICROSECOND = dt.timedelta(microseconds=1)
_DIGITS = re.compile(r"-?[0-9]{1,1000}")
# Half of a surrogate pair is not valid text: it can be neither printed nor written again.
_PAIR = re.compile(r"(?<!\\)((?:\\\\)*)\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_SURROGATE = re.compile(r"(?<!\\)(?:\\\\)*\\u[dD][89a-fA-F]")
_PART = re.compile(r"\..*\.[0-9a-f]{16}\.statecast\.part")
_BINARY = getattr(os, "O_BINARY", 0)  # on Windows
_STALE = 60.0  # seconds; a writer locks its file right after creating it
_swept: set[str] = set()  # folders that this process has cleaned of unfinished files


# -- writing ----------------------------------------------------------------------------------


def file_path(path: Any) -> Path:
    """Return the path of a file that text or a path names.

    Raises
    ------
    ArgumentError
        A value that is neither text nor a path, or text that does not name a file.
    """
    text = path_text("path", path, "file")
    if text.endswith(("/", os.sep)):
        raise ArgumentError(f"path: expected the name of a file; received {text!r}.")
    return Path(text)


def path_text(name: str, path: Any, kind: str) -> str:
    """Return the text of the argument ``name``, which names a ``kind``: a file or a folder.

    Raises
    ------
    ArgumentError
        A value that is neither text nor a path, or text that names nothing.
    """
    try:
        text = os.fspath(path)
    except TypeError:
        text = None
    if not isinstance(text, str):
        raise ArgumentError(f"{name}: expected text or a path; received {type(path).__name__}.")
    if not text or "\0" in text:
        raise ArgumentError(f"{name}: expected the name of a {kind}; received {text!r}.")
    return text


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file whole or not at all, also if the power fails.

    The data is written to a new file in the same folder, which then replaces the old one. If
    ``path`` is a symbolic link, its target is replaced. The permissions of the old file are kept.
    The first write to a folder removes the unfinished files of writers that were killed.

    Raises
    ------
    ArgumentError
        A value that is not a path; a path that cannot be written to; a folder, a device or a pipe.
    """
    path, part = file_path(path), None
    try:
        target = os.path.realpath(path) if path.is_symlink() else os.fspath(path)
        mode = _mode(path, target)
        folder, name = os.path.split(target)
        folder = folder or os.curdir
        _sweep(folder)
        file, part = _new_part(folder, name)
        with open(file, "wb") as stream:
            if mode is not None:
                os.chmod(part, mode)
            stream.write(data)
            stream.flush()
            os.fsync(file)
            if fcntl is None:  # Windows does not rename an open file
                stream.close()
            os.replace(part, target)  # under the lock, so that no other writer removes it
            part = None
        _sync_folder(folder)
    except OSError as error:
        why = error.strerror or error
        if isinstance(error, FileNotFoundError):
            why = f"there is no folder {path.parent}; make it first"
        raise ArgumentError(f"{path}: cannot be written ({why}).") from None
    finally:
        if part is not None:
            with suppress(OSError):
                os.unlink(part)


def _mode(path: Path, target: str) -> int | None:
    """Return the permissions of the file that is replaced, or None if there is no file."""
    try:
        found = os.stat(target).st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found):
        kind = "folder. Add a name" if stat.S_ISDIR(found) else "device or a pipe"
        raise ArgumentError(f"{path}: expected the name of a file, received a {kind}.")
    return stat.S_IMODE(found)


def _new_part(folder: str, name: str) -> tuple[int, str]:
    """Create, open and lock a new file in ``folder``; return its descriptor and path.

    The lock shows that the writer is alive, also if it runs on another machine or in another
    container, where its process number means nothing. The system releases the lock when the writer
    ends.
    """
    while True:
        # 255 bytes are the longest name of most file systems.
        short = os.fsencode(name)[:200].decode("utf-8", "ignore")
        part = os.path.join(folder, f".{short}.{secrets.token_hex(8)}.statecast.part")
        file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
        if not _locked(file) or os.fstat(file).st_nlink:
            return file, part
        os.close(file)  # another writer removed it between the two calls, as it was not locked


def _locked(file: int) -> bool | None:
    """Lock the file; return whether this process now holds the lock, or None without locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # locked by another process
        return False
    except OSError:  # a file system without locks
        return None
    return True


@contextmanager
def lock(path: str, wait: float) -> Iterator[bool]:
    """Hold the lock of a file, which is made for it and removed after it.

    Parameters
    ----------
    path : str
    wait : float
        Seconds to wait for another holder of the lock.

    Yields
    ------
    bool
        False: another process, or another call, holds the lock. True as well on a system or a file
        system without locks.
    """
    until = time.monotonic() + wait
    file, alone = _try_lock(path)
    while not alone and time.monotonic() < until:
        time.sleep(0.05)
        file, alone = _try_lock(path)
    try:
        yield alone
    finally:
        if file is not None:
            with suppress(OSError):
                os.unlink(path)
            os.close(file)


def _try_lock(path: str) -> tuple[int | None, bool]:
    """Lock a file: its descriptor, or None, and False if it is locked by another."""
    while fcntl is not None:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:  # the first file of the job cannot be written either, and says why
            return None, True
        alone = _locked(file)
        if alone is None or (alone and os.fstat(file).st_nlink):
            return file, True
        os.close(file)
        if alone is False:
            return None, False
        # Otherwise its last holder removed it between the two calls.
    return None, True


def _sweep(folder: str) -> None:
    """Remove the unfinished files of writers that have ended, once per folder and process."""
    where = os.path.realpath(folder)
    if where in _swept or fcntl is None:
        return
    _swept.add(where)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not _PART.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False):
                continue
            with suppress(OSError):
                if time.time() - entry.stat(follow_symlinks=False).st_mtime < _STALE:
                    continue
                file = os.open(entry.path, os.O_RDONLY)
                try:
                    if _locked(file):
                        os.unlink(entry.path)
                finally:
                    os.close(file)


def _sync_folder(folder: str) -> None:
    """Write the folder's entry to disk, on systems and file systems that allow it."""
    with suppress(OSError):
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def packed(
    kind: str,
    version: int,
    header_cap: int,
    metadata: Mapping[str, str],
    tensors: Mapping[str, np.ndarray],
) -> bytes:
    """Return the bytes of a safetensors file that ``read_safetensors`` accepts: the same bytes for
    the same content.

    Raises
    ------
    ArgumentError
        Text in the header that is not valid Unicode; a header that is too large.
    """
    from safetensors.numpy import save

    whole = {  # safetensors files are little-endian
        name: np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<"))
        for name, tensor in tensors.items()
    }
    try:
        data = save(whole, metadata={"format": kind, "version": str(version), **metadata})
    except UnicodeEncodeError as error:
        text = error.object[max(0, error.start - 20) : error.end + 20]
        raise ArgumentError(f"Expected names of valid Unicode text, received {text!r}.") from None
    length = int.from_bytes(data[:8], "little")
    # The library writes the entries of the metadata in an order that changes with each call.
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":"))
    data = data[:8] + text.encode().ljust(length) + data[8 + length :]
    values = _values(text)
    if length > header_cap or values > _MOST_VALUES:
        raise ArgumentError(
            f"Expected names, categories and tokens of at most {header_cap:,} bytes and "
            f"{_MOST_VALUES:,} values in a file; received {length:,} and {values:,}. Is one of the "
            "columns an id?"
        )
    # safetensors writes the entries of the metadata in random order; equal models have equal files.
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(data)[8 + length :]])


# -- reading ----------------------------------------------------------------------------------


def strict_json(text: str | bytes, *, nan: bool = False) -> Any:
    """Parse JSON of unknown origin.

    Parameters
    ----------
    text : str or bytes
    nan : bool
        Whether NaN, which is not JSON, is read as null: Python's ``json`` writes it.

    Raises
    ------
    ValueError
        Text that is not UTF-8 or not JSON; a number that is not finite; a key that is repeated in
        an object; nesting that is too deep; more values than a header of Statecast has.
    """

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is not strict JSON")

    def constant(name: str) -> None:
        if name != "NaN" or not nan:
            refuse(name)

    def real(digits: str) -> float:
        number = float(digits)
        if math.isinf(number):
            refuse(digits[:80])
        return number

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key is repeated in an object")
        return found

    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError:
            raise ValueError("its header is not UTF-8 text") from None
    values = _values(text)
    if values > _MOST_VALUES:
        raise ValueError(
            f"expected at most {_MOST_VALUES:,} values in it, received about {values:,}"
        )
    if _SURROGATE.search(_PAIR.sub(r"\1", text)):
        raise ValueError("a text has half of a surrogate pair")
    try:
        return json.loads(
            text, parse_constant=constant, parse_float=real, object_pairs_hook=distinct
        )
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None


def check_keys(what: str, config: Any, keys: Iterable[str]) -> None:
    """Raise ``ValueError`` unless an object of a file has exactly these keys.

    Another version of Statecast may have written keys that this one does not know, or not written
    keys that this one needs. The message names them, and says whether that version is older or
    newer.
    """
    if not isinstance(config, dict):
        raise ValueError(f"{what}: expected an object, received {type(config).__name__}")
    absent, unknown = sorted({*keys} - {*config}), sorted({*config} - {*keys})
    if absent or unknown:
        which = "another" if absent and unknown else "an older" if absent else "a newer"
        named = (("without", absent), ("with", unknown))
        parts = [f"{label} {str(names)[:200]}" for label, names in named if names]
        raise ValueError(
            f"{what}: expected the keys of this version of Statecast, received an object "
            f"{' and '.join(parts)}. It may be from {which} version: fit the model again, "
            "or read it with the version that wrote it"
        )


def age(version: str, own: str) -> str:
    """Return "an older", "a newer" or "another": a version compared with this one, ``own``."""
    found, mine = (
        [int(part) for part in text.split(".")]
        if re.fullmatch(r"\d{1,9}(\.\d{1,9})*", text)
        else []
        for text in (version, own)
    )
    if not found or not mine or found == mine:
        return "another"
    return "an older" if found < mine else "a newer"


def _values(text: str) -> int:
    """Return an upper bound of the number of values in JSON, without parsing it."""
    return 1 + text.count(",") + text.count("[") + text.count("{")


def read_safetensors(
    path: str | os.PathLike[str] | bytes, kind: str, version: int, header_cap: int
) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Read a safetensors file that ``packed`` made, from its path or its bytes.

    The header is checked before memory is allocated for the tensors. Memory is taken for the
    tensors once, and for a header of at most ``header_cap`` bytes.

    Returns
    -------
    metadata, arrays
        The text entries of the header, and the tensors by name.

    Raises
    ------
    ModelFileError
        A file that is missing or truncated, of another kind or version, with a header over
        ``header_cap`` bytes, or with tensors of a type or at a place that ``packed`` does not
        write.
    """
    given, path = path, "the bytes" if isinstance(path, bytes) else file_path(path)
    try:
        with BytesIO(given) if isinstance(given, bytes) else _opened(given) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise ModelFileError(
                    f"{path}: expected a safetensors file, received a truncated file or one of "
                    f"another kind ({size} bytes). Copy the file again, or save it again."
                )
            if length > header_cap:
                raise ModelFileError(
                    f"{path}: expected a header of at most {header_cap} bytes, received {length}."
                )
            header = strict_json(file.read(length))
            if not isinstance(header, dict):
                raise ValueError("its header is not a JSON object")
            metadata = header.pop("__metadata__", {})
            if not isinstance(metadata, dict) or not all(
                isinstance(value, str) for value in metadata.values()
            ):
                raise ValueError("the values of __metadata__ are not all text")
            found = metadata.get("format")
            if found != kind:
                what = "a file of another kind" if found is None else repr(found[:80])
                raise ModelFileError(
                    f"{path}: expected a {kind} file, received {what}.", format=found
                )
            if metadata.get("version") != str(version):
                received = str(metadata.get("version"))[:80]
                raise ModelFileError(
                    f"{path}: expected format version {version}, received {received}: "
                    f"{age(received, str(version))} version of Statecast wrote the file. Files of "
                    "other versions are not read: fit the model, or make the state, again."
                )
            plan = _plan(header, size, size - 8 - length)
            return metadata, {
                name: _tensor(file, name, shape, dtype) for name, shape, dtype in plan
            }
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror or error}).") from None
    except ValueError as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(
            f"{path}: expected a safetensors file, received a damaged file or one of another "
            f"kind ({error}). Copy the file again, or save it again."
        ) from None


def _opened(path: str | os.PathLike[str]) -> Any:
    """Open a regular file. The size of a pipe is unknown, and it cannot be read twice."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ModelFileError(f"{path}: expected a file, received {_what_is(Path(path))}")
    return open(path, "rb")


def _what_is(path: Path) -> str:
    """Return what a path is that is no file, and what to do."""
    if not path.is_dir():
        return "a device or a pipe. Copy it to a file first."
    if (path / "model.json").is_file() and (path / "step.onnx").is_file():
        return (
            "a folder of ONNX graphs, which export wrote. Its model.json describes them. Pass the "
            "model file that they were made from."
        )
    if (path / "MLmodel").is_file():
        file = path / "data" / "model.safetensors"
        advice = f"Pass {file}." if file.is_file() else "It has no model file of Statecast."
        return f"a model of MLflow. {advice}"
    return "a folder. Pass a file that save wrote."


def _plan(header: Mapping[str, Any], size: int, room: int) -> list[tuple[str, list[int], np.dtype]]:
    """Return name, shape and dtype of the tensors, in the order of the file.

    Raises ``ValueError`` unless they fill ``room`` bytes without gap or overlap.
    """
    found = []
    # The longest axis. The size of the file does not bound the axes of a tensor without numbers.
    longest = max(size, MOST_ZERO_WIDTH)
    for name, entry in header.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"{name[:80]!r} is not a dtype, a shape and two offsets")
        dtype, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise ValueError(f"tensor {name[:80]!r} has the dtype {str(dtype)[:80]!r}")
        if not _sizes(shape, longest) or len(shape) > _MOST_AXES:
            raise ValueError(f"tensor {name[:80]!r} has the shape {str(shape)[:80]}")
        if not _sizes(span, room) or len(span) != 2:
            raise ValueError(f"tensor {name[:80]!r} is at {str(span)[:80]} of {room} bytes")
        kind = np.dtype(_DTYPES[dtype])
        if math.prod(shape) * kind.itemsize != span[1] - span[0]:
            raise ValueError(f"tensor {name[:80]!r} of {dtype} {shape} is at {span}")
        found.append((span, name, shape, kind))
    found.sort(key=lambda each: each[0])
    end = 0
    for (begin, after), name, _, _ in found:
        if begin != end:
            raise ValueError(
                f"tensor {name[:80]!r} begins at {begin}, the one before ends at {end}"
            )
        end = after
    if end != room:
        raise ValueError(f"its tensors end at {end}, and the file at {room}")
    return [(name, shape, kind) for _, name, shape, kind in found]


def _sizes(numbers: Any, most: int) -> bool:
    return isinstance(numbers, list) and all(
        type(number) is int and 0 <= number <= most for number in numbers
    )


def _tensor(file: Any, name: str, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Read the next tensor of an open file."""
    # Aligned, so that TensorFlow can read it without a copy, see ``layers.initial.starts``.
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % ALIGNMENT
    out = memory[begin : begin + size].view(dtype).reshape(shape)
    flat = out.reshape(-1).view(np.uint8)
    if file.readinto(flat) != flat.nbytes:
        raise ValueError("the file became shorter while it was read")
    if dtype.kind == "b" and (flat > 1).any():
        raise ValueError(f"tensor {name[:80]!r} has values that are neither true nor false")
    return out


def check_finite(name: str, array: np.ndarray, most: float = math.inf) -> None:
    """Check that all numbers are finite and at most ``most`` in absolute value.

    Raises
    ------
    ValueError
        A number that is not. The message names the array, the first such number and its index.
    """
    if array.dtype.kind not in "fc" or not array.size:
        return
    # An array of flags for each number would take too much memory for a large file.
    low, high = float(array.min()), float(array.max())
    if -most <= low and high <= most and math.isfinite(low) and math.isfinite(high):
        return
    wrong = ~np.isfinite(array) | (np.abs(array) > most)
    place = tuple(int(axis[0]) for axis in np.nonzero(wrong))
    expected = "finite numbers" if math.isinf(most) else f"numbers from {-most:g} to {most:g}"
    raise ValueError(f"{name}: expected {expected}, received {array[place]} at {list(place)}")


# -- ids --------------------------------------------------------------------------------------


def plain_id(item: Any) -> Any:
    """Return a date or a duration of pandas as one of the standard library, other ids as they are.

    A value finer than a microsecond stays as it is, as the standard library cannot hold it.
    """
    plain = item
    if hasattr(item, "to_pydatetime"):
        plain = item.to_pydatetime(warn=False)
    elif hasattr(item, "to_pytimedelta"):
        plain = item.to_pytimedelta()
    if plain is item:  # it need not be comparable: an array is not
        return item
    return plain if plain == item else item


def _whole_number(text: str) -> int:
    if not _DIGITS.fullmatch(text):
        raise ValueError(f"expected a whole number, received {text[:80]!r}")
    return int(text)


def _tuple(text: str) -> tuple[Any, ...]:
    found = strict_json(text)
    if not isinstance(found, list) or not {*map(type, found)} <= {str, int}:
        raise ValueError(f"expected texts and whole numbers, received {text[:80]!r}")
    return tuple(found)


def _tuple_text(item: tuple[Any, ...]) -> str:
    if not {*map(type, item)} <= {str, int}:
        raise ValueError(f"id {item!r:.80}: expected texts and whole numbers")
    return json.dumps(item, ensure_ascii=False)


# Types of ids, with the functions that write an id as text and read it.
_IDS: dict[str, tuple[type, Callable[[Any], str], Callable[[str], Any]]] = {
    "text": (str, str, str),
    "digits": (int, str, _whole_number),
    "booleans": (bool, lambda item: str(int(item)), lambda text: bool(("0", "1").index(text))),
    "dates": (dt.date, dt.date.isoformat, dt.date.fromisoformat),
    "times": (dt.datetime, dt.datetime.isoformat, dt.datetime.fromisoformat),
    "durations": (
        dt.timedelta,
        lambda item: str(item // _MICROSECOND),
        lambda text: _whole_number(text) * _MICROSECOND,
    ),
    "bytes": (bytes, bytes.hex, bytes.fromhex),
    "tuples": (tuple, _tuple_text, _tuple),
}


def packed_ids(ids: Iterable[Any]) -> dict[str, np.ndarray]:
    """Return ids, one per row, as arrays for a file.

    Whole numbers are an int64 array. Other ids are UTF-8 text and the end of each in it.

    Raises
    ------
    ValueError
        Ids of several types, or of a type other than text, whole numbers, booleans, dates, times,
        durations, bytes and tuples of text and whole numbers.
    """
    ids = [plain_id(item) for item in ids]
    kinds = set(map(type, ids))
    if kinds <= {int}:
        with suppress(OverflowError):
            return {"ids": np.array(ids, np.int64)}
    name = next((name for name, (kind, _, _) in _IDS.items() if kinds == {kind}), None)
    if name is None:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(f"expected ids of one of the types {', '.join(_IDS)}; received {names}")
    texts = [text.encode() for text in map(_IDS[name][1], ids)]
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    return {f"ids/{name}": np.frombuffer(b"".join(texts), np.uint8), "ids/ends": ends}


def read_ids(arrays: Mapping[str, np.ndarray], rows: int) -> np.ndarray:
    """Return the ids of the arrays that ``packed_ids`` made, shape ``(rows,)``: int64 or object.

    Raises
    ------
    ValueError
        Other arrays, another number of rows, or text that ``packed_ids`` would not write.
    """
    found = {name: (array.dtype.name, array.ndim) for name, array in arrays.items()}
    if found == {"ids": ("int64", 1)} and len(arrays["ids"]) == rows:
        return arrays["ids"]
    kinds = [name for name in _IDS if f"ids/{name}" in found]
    if len(kinds) != 1 or found != {f"ids/{kinds[0]}": ("uint8", 1), "ids/ends": ("int64", 1)}:
        raise ValueError(f"ids: expected whole numbers or text, received {str(found)[:200]}")
    text, ends = arrays[f"ids/{kinds[0]}"].tobytes(), arrays["ids/ends"]
    _, write, read = _IDS[kinds[0]]
    begins = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    if len(ends) != rows or (ends < begins).any() or (ends[-1] if rows else 0) != len(text):
        raise ValueError(f"ids: expected the ends of {rows} in {len(text)} bytes of text")
    out = np.empty(rows, object)
    for row, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
        own = text[begin:end].decode()
        try:
            out[row] = read(own)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"ids, row {row}: {error}") from None
        if write(out[row]) != own:
            raise ValueError(f"ids, row {row}: {own[:80]!r} is written in another way")
    return out


def id_bytes(item: Any) -> bytes:
    """Return the bytes of one id, which ``id_of`` reads; equal ids have equal bytes.

    Raises
    ------
    ValueError
        An id of another type than those of ``packed_ids``.
    """
    numpy = isinstance(item, np.generic) and item.dtype.kind not in "mM"
    plain = item.item() if numpy else plain_id(item)
    name = _ID_NAMES.get(type(plain))
    if name is None:
        kinds = ", ".join(_IDS)
        raise ValueError(f"expected an id of one of the types {kinds}; received {item!r:.80}")
    return f"{name}:{_IDS[name][1](plain)}".encode()


def id_of(data: bytes) -> Any:
    """Return the id that ``id_bytes`` wrote."""
    name, _, text = data.decode().partition(":")
    return _IDS[name][2](text)


_ID_NAMES = {kind: name for name, (kind, _, _) in _IDS.items()}
