"""``State``: everything a recurrence carries from one step to the next, as a value.

A state is a set of named leaves, rows first, for example ``lstm/h`` of shape
``(rows, units)``. It is frozen: every verb returns a new state and leaves the old one
as it was, so keeping a state is enough to come back to it.

Leaves may be tensors of a backend (inside a graph, so that gradients flow) or NumPy
arrays. The verbs that move rows about work on states at rest and return NumPy.
"""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from statecast.errors import ArgumentError, ModelFileError, StateError

FORMAT = "statecast-state"
VERSION = 1
_HEADER_CAP = 64 * 1024 * 1024  # bytes; ids of a million rows fit, a forged length does not


def row_index(rows: Any, count: int) -> np.ndarray:
    """The rows meant by an index, a list of them, a slice or a boolean mask, of ``count``.

    Raises
    ------
    StateError
        A row out of range, a mask of another length, or neither whole numbers nor bool.
    """
    everything = np.arange(count)
    if not isinstance(rows, slice):
        rows = np.atleast_1d(np.asarray(rows))
        if rows.dtype == bool and rows.shape != (count,):
            raise StateError(f"A row mask needs shape ({count},), received {rows.shape}.")
        if rows.size == 0:
            rows = rows.astype(int)
        if rows.dtype != bool and rows.dtype.kind not in "iu":
            raise StateError(f"Rows are whole numbers or a mask, received {rows.dtype}.")
    try:
        return everything[rows]
    except IndexError:
        raise StateError(
            f"A row is out of range: there are {count} rows, received {rows}."
        ) from None


class _Brief(reprlib.Repr):
    """Values in a few words: an array by its dtype and shape."""

    def __init__(self) -> None:
        super().__init__()
        self.maxother = self.maxstring = 80

    def repr_ndarray(self, array: np.ndarray, level: int) -> str:
        return f"{array.dtype}{list(array.shape)}"


def outline(self: Any) -> str:
    """The ``__repr__`` of a dataclass of arrays: one short line, whatever the arrays' sizes."""
    brief, shown = _Brief(), [each.name for each in fields(self) if each.repr]
    values = ", ".join(f"{name}={brief.repr(getattr(self, name))}" for name in shown)
    return f"{type(self).__name__}({values})"


def at_rest(array: Any) -> np.ndarray:
    """Return any backend's tensor as a NumPy array, without a gradient."""
    if hasattr(array, "detach"):  # PyTorch refuses np.asarray on a tensor that needs a gradient
        array = array.detach().cpu()
        if str(array.dtype) == "torch.bfloat16":  # NumPy has no such type
            array = array.float()
    array = np.asarray(array)
    return array.astype("float32") if array.dtype.name == "bfloat16" else array


@dataclass(frozen=True, eq=False)
class State:
    """Named leaves, rows first: where the next step of a recurrence starts.

    Parameters
    ----------
    leaves : mapping of str to array
        Each of shape ``(rows, ...)``; all with the same number of rows.
    ids : sequence, optional
        One label a row, for instance the item's id. Labels are distinct.
    fingerprint : str, optional
        The fingerprint of the weights that made this state. A state is only meaningful
        to the weights that made it, so the forecaster refuses another's.

    Raises
    ------
    StateError
        No leaf, a leaf without rows, leaves or ids that differ in rows, repeated ids.

    Examples
    --------
    >>> import numpy as np
    >>> state = State({"lstm/h": np.ones((2, 3)), "lstm/c": np.zeros((2, 3))}, ids=["a", "b"])
    >>> state.rows, state.names
    (2, ('lstm/h', 'lstm/c'))
    >>> state.take([1]).ids.tolist()
    ['b']
    >>> state.fork(2).rows
    4
    """

    leaves: Mapping[str, Any]
    ids: Any = None
    fingerprint: str | None = None
    spec: Mapping[str, tuple[int, ...]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.leaves:
            raise StateError("A state needs at least one leaf; received none.")
        spec: dict[str, tuple[int, ...]] = {}
        rows: int | None = None
        for name, leaf in self.leaves.items():
            shape = tuple(leaf.shape)
            if not shape:
                raise StateError(f"Leaf {name!r}: expected rows first, received a scalar.")
            if rows is None:
                rows = shape[0]
            elif shape[0] != rows:
                first = next(iter(self.leaves))
                raise StateError(
                    f"Leaf {name!r} has {shape[0]} rows, expected {rows} as in {first!r}."
                )
            spec[name] = shape[1:]
        leaves = {name: _read_only(leaf) for name, leaf in self.leaves.items()}
        object.__setattr__(self, "leaves", MappingProxyType(leaves))
        object.__setattr__(self, "spec", MappingProxyType(spec))
        if self.ids is not None:
            ids = np.asarray(self.ids)
            if ids.ndim != 1 or len(ids) != rows:
                raise StateError(
                    f"Expected one id a row, {rows} in all; received shape {ids.shape}."
                )
            if len(set(ids.tolist())) != len(ids):
                raise StateError("The ids of a state must be distinct; received a repeated one.")
            object.__setattr__(self, "ids", ids)

    # -- reading ---------------------------------------------------------------------

    @property
    def rows(self) -> int:
        """The number of rows."""
        return next(iter(self.leaves.values())).shape[0]

    @property
    def names(self) -> tuple[str, ...]:
        """The leaves' names, in order."""
        return tuple(self.leaves)

    def __getitem__(self, name: str) -> Any:
        try:
            return self.leaves[name]
        except KeyError:
            raise StateError(f"No leaf {name!r}; this state has {list(self.leaves)}.") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.leaves)

    def __len__(self) -> int:
        return self.rows

    def __eq__(self, other: object) -> bool:
        """Equal names, shapes, ids and bits. A NaN equals a NaN."""
        if not isinstance(other, State) or self.names != other.names:
            return False
        if (self.ids is None) != (other.ids is None):
            return False
        if self.ids is not None and self.ids.tolist() != other.ids.tolist():
            return False
        return all(_same(at_rest(self[name]), at_rest(other[name])) for name in self.leaves)

    __hash__ = None  # type: ignore[assignment]  # a value with arrays inside

    def __reduce__(self) -> tuple[Any, ...]:
        return State, (dict(self.at_rest().leaves), self.ids, self.fingerprint)

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}{list(shape)}" for name, shape in self.spec.items())
        return f"State({self.rows} rows: {inside})"

    # -- new states from old ---------------------------------------------------------

    def at_rest(self) -> State:
        """The same state with NumPy leaves."""
        return self._with({name: at_rest(leaf) for name, leaf in self.leaves.items()}, self.ids)

    def take(self, rows: Any) -> State:
        """The given rows, by index, slice or boolean mask, as a new state.

        Raises
        ------
        StateError
            An index out of range, or the same row twice while the state has ids.
        """
        index = row_index(rows, self.rows)
        ids = None if self.ids is None else self.ids[index]
        return self._with({name: at_rest(leaf)[index] for name, leaf in self.leaves.items()}, ids)

    def put(self, rows: Any, state: State) -> State:
        """A new state whose given rows are those of ``state``; the others are bit-identical.

        Raises
        ------
        StateError
            Other leaves, shapes or number of rows; nothing broadcasts.
        """
        index = row_index(rows, self.rows)
        self.check(state.spec)
        if state.rows != len(index):
            raise StateError(
                f"Expected a state of {len(index)} rows, received {state.rows}; nothing broadcasts."
            )
        if len(set(index.tolist())) != len(index):
            raise StateError("The same row is given twice.")
        leaves = {}
        for name, leaf in self.leaves.items():
            new = at_rest(leaf).copy()
            new[index] = at_rest(state[name])
            leaves[name] = new
        return self._with(leaves, self.ids)

    def reset(self, initial: State, rows: Any = None) -> State:
        """A new state whose rows (all by default) are back at ``initial``.

        ``initial`` has as many rows as are reset.
        """
        return self.put(slice(None) if rows is None else rows, initial)

    def fork(self, n: int) -> State:
        """Each row ``n`` times, one after the other. Ids are dropped: they would repeat.

        Raises
        ------
        StateError
            ``n`` below 1.
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise StateError(f"fork needs a whole number n >= 1, received {n!r}.")
        return self._with(
            {name: np.repeat(at_rest(leaf), n, axis=0) for name, leaf in self.leaves.items()}, None
        )

    def check(self, spec: Mapping[str, tuple[int, ...]]) -> None:
        """Raise ``StateError`` unless ``spec`` (name to shape without rows) is this state's."""
        if set(spec) != set(self.spec):
            raise StateError(f"Expected leaves {list(self.spec)}, received {list(spec)}.")
        for name, shape in self.spec.items():
            if tuple(spec[name]) != shape:
                raise StateError(
                    f"Leaf {name!r}: expected shape (rows, {_dims(shape)}), "
                    f"received (rows, {_dims(spec[name])})."
                )

    # -- files -----------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state as one safetensors file, portable between backends.

        The file appears whole or not at all.

        Raises
        ------
        StateError
            Ids that are neither text nor whole numbers.
        """
        from safetensors.numpy import save

        metadata = {"format": FORMAT, "version": str(VERSION), "leaves": json.dumps(self.names)}
        if self.fingerprint is not None:
            metadata["fingerprint"] = self.fingerprint
        if self.ids is not None:
            ids = self.ids.tolist()
            if not all(isinstance(i, (str, int)) for i in ids):
                raise StateError("Only text and whole-number ids can be saved.")
            metadata["ids"] = json.dumps(ids)
        leaves = {n: np.ascontiguousarray(at_rest(leaf)) for n, leaf in self.leaves.items()}
        write_whole(path, save(leaves, metadata=metadata))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> State:
        """Read a state that ``save`` wrote.

        Raises
        ------
        ModelFileError
            A file that is missing, truncated, of another version, or not a state.
        ArgumentError
            What is no path.
        """
        metadata, leaves = read_safetensors(path, FORMAT, VERSION, _HEADER_CAP)
        try:
            names = strict_json(metadata["leaves"])
            ids = strict_json(metadata["ids"]) if "ids" in metadata else None
            ordered = {name: leaves[name] for name in names}
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(f"{path}: the header of the state is damaged ({error}).") from None
        try:
            return cls(ordered, ids, metadata.get("fingerprint"))
        except StateError as error:
            raise ModelFileError(f"{path}: {error}") from None

    # -- inside ----------------------------------------------------------------------

    def _with(self, leaves: Mapping[str, Any], ids: Any) -> State:
        return State(leaves, ids, self.fingerprint)


def _read_only(leaf: Any) -> Any:
    """A NumPy leaf as one that cannot be written to by way of the state."""
    if isinstance(leaf, np.ndarray):
        leaf = leaf.view()
        leaf.flags.writeable = False
    return leaf


def file_path(path: Any) -> Path:
    """Return what names a file as a path.

    Raises
    ------
    ArgumentError
        What is neither text nor a path, or a text that names no file.
    """
    try:
        text = os.fspath(path)
    except TypeError:
        text = None
    if not isinstance(text, str):
        raise ArgumentError(f"path: expected text or a path; received {type(path).__name__}.")
    if not text or "\0" in text or text.endswith(("/", os.sep)):
        raise ArgumentError(f"path: expected the name of a file; received {text!r}.")
    return Path(text)


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that it appears whole or not at all.

    Raises
    ------
    ArgumentError
        What is no path, or a path that cannot be written to.
    """
    path = file_path(path)
    if os.path.isdir(path):  # False, unlike Path.is_dir, for a name that is too long
        raise ArgumentError(f"{path}: expected the name of a file; this is a folder. Add a name.")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:
        why = error.strerror or error
        if isinstance(error, FileNotFoundError):
            why = f"there is no folder {path.parent}; make it first"
        raise ArgumentError(f"{path}: cannot be written ({why}).") from None
    finally:
        with suppress(OSError):  # where it could not be written, it is not there
            part.unlink(missing_ok=True)


def strict_json(text: str | bytes) -> Any:
    """Parse JSON that may come from anywhere: no NaN, no Infinity, no depth that overflows.

    Raises
    ------
    ValueError
        Anything else.
    """

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not strict JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except UnicodeDecodeError:
        raise ValueError("its header is no text") from None
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None


def read_safetensors(
    path: str | os.PathLike[str] | bytes, kind: str, version: int, header_cap: int
) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Read a safetensors file of ours, or its bytes; the header is checked before anything is
    allocated.

    Returns
    -------
    metadata, arrays
        The text entries of the header, and the tensors by name.

    Raises
    ------
    ModelFileError
        Missing, truncated, header over ``header_cap`` bytes, another kind or version.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    given, path = path, "the bytes" if isinstance(path, bytes) else file_path(path)
    try:
        size = len(given) if isinstance(given, bytes) else os.stat(given).st_size
        with BytesIO(given) if isinstance(given, bytes) else open(given, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise ModelFileError(
                    f"{path}: expected a safetensors file; this one is truncated or is no such "
                    f"file ({size} bytes). Save the model again, or copy the file again."
                )
            if length > header_cap:
                raise ModelFileError(
                    f"{path}: the header claims {length} bytes, at most {header_cap} are accepted."
                )
            header = strict_json(file.read(length))
            metadata = header.get("__metadata__", {}) if isinstance(header, dict) else {}
            found = metadata.get("format")
            if found != kind:
                raise ModelFileError(
                    f"{path}: expected a {kind} file, this is {found or 'something else'}."
                )
            if metadata.get("version") != str(version):
                raise ModelFileError(
                    f"{path}: expected format version {version}, received "
                    f"{metadata.get('version')}. Save it again with this version of Statecast."
                )
            file.seek(0)
            return metadata, load(file.read())
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror or error}).") from None
    except (SafetensorError, ValueError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(
            f"{path}: expected a safetensors file; this one is damaged or is no such file "
            f"({error}). Copy the file again, or save it again."
        ) from None


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")


def _dims(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape)) or "-"
