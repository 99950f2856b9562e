"""``State``: everything that a recurrence carries from one step to the next, as a value.

A state is a set of named leaves, for example ``lstm/h`` of shape ``(rows, units)``. Axis 0 of
every leaf is the row. A state is frozen: each method returns a new state and does not change the
old one.

Leaves are NumPy arrays, or tensors of a backend (within a graph, so that gradients flow). The
methods that select or replace rows return NumPy leaves.
"""

from __future__ import annotations

import json
import math
import os
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from statecast import notebook
from statecast.checks import check_whole
from statecast.errors import ArgumentError, ModelFileError, StateError, listed
from statecast.files import (
    MOST_ZERO_WIDTH,
    check_finite,
    packed,
    packed_ids,
    read_ids,
    read_safetensors,
    strict_json,
    write_whole,
)

FORMAT = "statecast-state"
VERSION = 1
_MOST_FORKED = 2_000_000_000  # numbers in the result of a fork: 8 GB of float32
_AT_ONCE = 64  # blocks of rows that are packed at once: they fit into the CPU's caches
_HEADER_CAP = 1024 * 1024  # bytes: the names, types and shapes of ten thousand leaves


def row_index(rows: Any, count: int) -> np.ndarray:
    """Return row numbers, 0 to ``count - 1``, from an index, a list, a slice or a boolean mask.

    Raises
    ------
    StateError
        A row out of range, a mask of another length, or values of another type.
    """
    if isinstance(rows, slice):
        return np.arange(*rows.indices(count))
    refuse_without_numbers(rows, "rows")
    rows = np.atleast_1d(np.asarray(rows))
    if rows.dtype == bool:
        if rows.shape != (count,):
            raise StateError(f"Expected a row mask of shape ({count},), received {rows.shape}.")
        return np.flatnonzero(rows)
    if rows.size and rows.dtype.kind not in "iu":
        raise StateError(
            f"Expected rows as whole numbers or a boolean mask, received {rows.dtype}."
        )
    index = rows.astype(np.int64)
    if ((index < -count) | (index >= count)).any():
        raise StateError(
            f"A row is out of range: expected {-count} to {count - 1}, received {rows}."
        )
    return np.where(index < 0, index + count, index)


class _Brief(reprlib.Repr):
    """Short texts of values. The text of an array is its dtype and shape."""

    def __init__(self) -> None:
        super().__init__()
        self.maxother = self.maxstring = 80

    def repr_ndarray(self, array: np.ndarray, level: int) -> str:
        return f"{array.dtype}{list(array.shape)}"


def outline(self: Any) -> str:
    """Return one short line for a dataclass of arrays of any size, for its ``__repr__``."""
    brief, shown = _Brief(), [each.name for each in fields(self) if each.repr]
    values = ", ".join(f"{name}={brief.repr(getattr(self, name))}" for name in shown)
    return f"{type(self).__name__}({values})"


def refuse_without_numbers(array: Any, where: str) -> None:
    """Raise ``StateError`` for an array in which numbers are missing.

    These are a masked array with a masked value, as NumPy would ignore the mask, and a tensor on
    PyTorch's meta device, which has a shape only.
    """
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        raise StateError(
            f"{where}: expected a number in every place, received a masked array with "
            f"{np.ma.count_masked(array)} of {array.size} masked. Fill them (array.filled(0)), or "
            "leave out the rows that are not meant (rows=...)."
        )
    if getattr(array, "is_meta", False):
        raise StateError(
            f"{where}: expected numbers, received a tensor on PyTorch's meta device, which has a "
            f"shape {tuple(array.shape)} and no numbers."
        )


def at_rest(array: Any) -> np.ndarray:
    """Return any backend's tensor as a NumPy array, without a gradient.

    Raises
    ------
    StateError
        A masked array, or a tensor without numbers.
    """
    kind = type(array)
    if kind is np.ndarray and array.dtype.kind != "V":  # bfloat16 has the kind V
        return array
    refuse_without_numbers(array, "An array")
    if hasattr(array, "detach"):  # PyTorch refuses np.asarray on a tensor that needs a gradient
        array = array.detach().cpu()
        if str(array.dtype) == "torch.bfloat16":  # NumPy has no such type
            array = array.float()
    array = np.asarray(array)
    return array.astype("float32") if array.dtype.name == "bfloat16" else array


class _Touched(NamedTuple):
    """Rows that are taken or replaced, by the blocks that have them.

    Attributes
    ----------
    order : array of int
        The places of the rows among those that are given, in the order of the blocks.
    own : array of int
        The place of each row within its block, in this order.
    blocks : list of (int, int, int)
        The number of each block, and where its rows start and end in this order.
    """

    order: np.ndarray
    own: np.ndarray
    blocks: list[tuple[int, int, int]]


class _Blocks:
    """The rows of all leaves that differ from a base, in blocks of packed rows.

    States that differ in a few rows share the base, and all blocks that are equal. The blocks are
    in groups by their numbers, so that a change copies the references of a few groups only, however
    many rows have changed before.

    Parameters
    ----------
    base : mapping of str to array
        The leaves, with rows on axis 0.
    groups : mapping
        Arrays of ``ROWS`` packed rows, by group, and within it by number.
    """

    ROWS = 8  # rows of a block, which are copied if one of them changes
    GROUP = 256  # blocks of a group

    def __init__(
        self,
        base: Mapping[str, np.ndarray],
        groups: Mapping[int, dict[int, np.ndarray]] = MappingProxyType({}),
    ) -> None:
        self.base, self._groups = base, groups
        columns = [(str(i), leaf.dtype, leaf.shape[1:]) for i, leaf in enumerate(base.values())]
        self._row = np.dtype(columns)  # one packed row
        self._bytes = np.dtype((np.void, self._row.itemsize))  # the same, for copies in one piece

    def put(self, index: np.ndarray, values: Mapping[str, np.ndarray]) -> _Blocks:
        """Return the blocks with ``values`` in the rows of ``index``."""
        order, own, blocks = self._touched(index)
        rows, groups = self._packed({name: values[name] for name in self.base})[order], {}
        for number in {number // self.GROUP for number, _, _ in blocks}:
            groups[number] = dict(self._groups.get(number, {}))
        new = [number for number, _, _ in blocks if number not in groups[number // self.GROUP]]
        for part in (new[i : i + _AT_ONCE] for i in range(0, len(new), _AT_ONCE)):
            for number, block in zip(part, self._of_base(part), strict=True):
                groups[number // self.GROUP][number] = block.copy()
        fresh = set(new)
        for number, first, end in blocks:
            group = groups[number // self.GROUP]
            if number not in fresh:
                group[number] = group[number].copy()
            group[number][own[first:end]] = rows[first:end]
        return _Blocks(self.base, {**self._groups, **groups})

    def take(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Return the rows ``index`` of each leaf."""
        out = {name: leaf[index] for name, leaf in self.base.items()}
        order, own, blocks = self._touched(index)
        places, found = [], []
        for number, first, end in blocks:
            block = self._groups.get(number // self.GROUP, {}).get(number)
            if block is not None:
                places.append(order[first:end])
                found.append(block[own[first:end]])
        self._overwrite(out, places, found)
        return out

    def whole(self) -> dict[str, np.ndarray]:
        """Return all rows of each leaf."""
        out = {name: leaf.copy() for name, leaf in self.base.items()}
        rows = len(next(iter(out.values())))
        places, found = [], []
        for group in self._groups.values():
            for number, block in group.items():
                first = number * self.ROWS
                places.append(np.arange(first, min(first + self.ROWS, rows)))
                found.append(block[: len(places[-1])])
        self._overwrite(out, places, found)
        return out

    def _touched(self, index: np.ndarray) -> _Touched:
        order = np.argsort(index, kind="stable")
        number = index[order] // self.ROWS
        cuts = [*np.flatnonzero(np.diff(number, prepend=-1)).tolist(), len(index)]
        blocks = [(int(number[first]), first, end) for first, end in pairwise(cuts)]
        return _Touched(order, index[order] - number * self.ROWS, blocks)

    def _of_base(self, numbers: list[int]) -> np.ndarray:
        """Return blocks of the base, ``(numbers, ROWS)``. Beyond the last row they repeat it."""
        index = np.array(numbers, np.int64)[:, None] * self.ROWS + np.arange(self.ROWS)
        last = len(next(iter(self.base.values()))) - 1
        index = np.minimum(index.ravel(), last)
        packed = self._packed({name: leaf[index] for name, leaf in self.base.items()})
        return packed.reshape(-1, self.ROWS)

    def _packed(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        rows = np.empty(len(next(iter(values.values()))), self._row)
        for name, leaf in zip(self._row.names or (), values.values(), strict=True):
            rows[name] = leaf
        return rows.view(self._bytes)

    def _overwrite(
        self, leaves: Mapping[str, np.ndarray], places: list[np.ndarray], found: list[np.ndarray]
    ) -> None:
        """Write packed rows to ``places`` of the leaves."""
        if not places:
            return
        at, rows = np.concatenate(places), np.concatenate(found).view(self._row)
        for name, leaf in zip(self._row.names or (), leaves.values(), strict=True):
            leaf[at] = rows[name]


class _Leaves(Mapping[str, Any]):
    """Leaves by name. Where rows differ from a base, the first use of a leaf joins all of them."""

    def __init__(self, held: dict[str, Any] | _Blocks) -> None:
        self.held = held

    def __getitem__(self, name: str) -> Any:
        return self.joined()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._base())

    def __len__(self) -> int:
        return len(self._base())

    def __repr__(self) -> str:
        return repr(self.joined())

    def joined(self) -> dict[str, Any]:
        """Return every leaf as one array, which is kept."""
        held = self.held  # another thread may join meanwhile
        if isinstance(held, _Blocks):
            held = {name: _read_only(leaf) for name, leaf in held.whole().items()}
            self.held = held
        return held

    def dtypes(self) -> dict[str, np.dtype]:
        """Return the dtype of each leaf at rest."""
        return {name: at_rest(leaf[:0]).dtype for name, leaf in self._base().items()}

    def take(self, index: np.ndarray) -> _Leaves:
        """Return the rows ``index`` of each leaf."""
        held = self.held
        if isinstance(held, _Blocks):
            taken = held.take(index)
        else:
            taken = {name: at_rest(leaf)[index] for name, leaf in held.items()}
        for leaf in taken.values():
            leaf.flags.writeable = False
        return _Leaves(taken)

    def put(self, index: np.ndarray, values: Mapping[str, np.ndarray], rows: int) -> _Leaves:
        """Return the leaves with ``values`` in the rows of ``index``."""
        if len(index) * 4 >= rows:  # most blocks would be copied
            new = {name: at_rest(leaf).copy() for name, leaf in self.joined().items()}
            for name, leaf in new.items():
                leaf[index] = values[name]
            return _Leaves({name: _read_only(leaf) for name, leaf in new.items()})
        held = self.held
        if not isinstance(held, _Blocks):
            held = _Blocks({name: at_rest(leaf) for name, leaf in held.items()})
        return _Leaves(held.put(index, values))

    def _base(self) -> Mapping[str, Any]:
        held = self.held
        return held.base if isinstance(held, _Blocks) else held


@dataclass(frozen=True, eq=False)
class State:
    """Named leaves, rows first, from which the next step of a recurrence starts.

    A new state shares the rows that are equal with the old state. ``take``, ``put``, ``reset`` and
    ``Forecaster.update`` copy at most 8 rows of each leaf for each given row, whatever the size
    of the state. A whole leaf (``state["lstm/h"]``), ``fork`` and ``save`` copy all rows. The ids
    are hashed once, when the state is made.

    Parameters
    ----------
    leaves : mapping of str to array
        Arrays of shape ``(rows, ...)`` with the same number of rows. They are not copied: do not
        write to them afterwards.
    ids : sequence, optional
        A distinct label for each row, for example the id of the item.
    fingerprint : str, optional
        The fingerprint of the weights that made this state. A forecaster refuses a state of
        other weights, as it has no meaning for them.

    Raises
    ------
    StateError
        No leaves, a scalar leaf, a leaf of Python objects, leaves or ids that differ in the number
        of rows, repeated ids, a masked array.

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
    _rows: int = field(init=False, repr=False)
    _row_of: Mapping[Any, int] | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        if not self.leaves:
            raise StateError("A state needs at least one leaf; received none.")
        spec: dict[str, tuple[int, ...]] = {}
        rows: int | None = None
        for name, leaf in self.leaves.items():
            refuse_without_numbers(leaf, f"Leaf {name!r}")
            shape = tuple(leaf.shape)
            if not shape:
                raise StateError(
                    f"Leaf {name!r}: expected an array with rows on axis 0, received a scalar."
                )
            if isinstance(leaf, np.ndarray) and leaf.dtype.hasobject:
                raise StateError(
                    f"Leaf {name!r}: expected numbers, received an array of Python objects. "
                    "Convert it: array.astype('float32')."
                )
            if rows is None:
                rows = shape[0]
            elif shape[0] != rows:
                first = next(iter(self.leaves))
                raise StateError(
                    f"Leaf {name!r} has {shape[0]} rows, expected {rows} as in {first!r}."
                )
            spec[name] = shape[1:]
        leaves = {name: _read_only(leaf) for name, leaf in self.leaves.items()}
        object.__setattr__(self, "leaves", _Leaves(leaves))
        object.__setattr__(self, "spec", MappingProxyType(spec))
        object.__setattr__(self, "_rows", rows)
        if self.ids is not None:
            ids = np.asarray(self.ids)
            if ids.ndim != 1 or len(ids) != rows:
                raise StateError(
                    f"Expected one id per row, {rows} in all; received shape {ids.shape}."
                )
            row_of = {item: row for row, item in enumerate(ids.tolist())}
            if len(row_of) != len(ids):
                raise StateError("Expected distinct ids, received a repeated one.")
            object.__setattr__(self, "ids", ids)
            object.__setattr__(self, "_row_of", row_of)

    # -- reading ---------------------------------------------------------------------

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self._rows

    @property
    def names(self) -> tuple[str, ...]:
        """The leaves' names, in order."""
        return tuple(self.leaves)

    def find(self, ids: Iterable[Any]) -> np.ndarray:
        """Return the row of each id, int64, and -1 for an id that the state does not have.

        Raises
        ------
        StateError
            A state without ids.
        """
        if self._row_of is None:
            raise StateError("This state has no ids to find rows by.")
        return np.array([self._row_of.get(item, -1) for item in ids], np.int64)

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
        """Whether names, dtypes, shapes, ids and values are equal. A NaN equals a NaN."""
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

    def _repr_html_(self) -> str:
        dtypes = leaf_dtypes(self)
        rows = [(name, str(dtypes[name]), str(shape)) for name, shape in self.spec.items()]
        ids = "no ids" if self.ids is None else f"first ids: {listed(self.ids[:3].tolist())}"
        return (
            notebook.heading(f"State of {self.rows:,} item{'s' * (self.rows != 1)}")
            + notebook.line(f"fingerprint {self.fingerprint or 'none'}; {ids}")
            + notebook.table(("leaf", "dtype", "shape of an item"), rows)
        )

    # -- new states from old ---------------------------------------------------------

    def at_rest(self) -> State:
        """Return the same state with NumPy leaves."""
        held = self._leaves.held
        if isinstance(held, _Blocks) or all(isinstance(leaf, np.ndarray) for leaf in held.values()):
            return self
        return self._with({name: at_rest(leaf) for name, leaf in self.leaves.items()}, self.ids)

    def take(self, rows: Any) -> State:
        """Return a new state of the given rows: an index, a list, a slice or a boolean mask.

        Raises
        ------
        StateError
            An index out of range, or the same row twice in a state with ids.
        """
        index = row_index(rows, self.rows)
        ids, row_of = None, None
        if self.ids is not None:
            ids = self.ids[index]
            row_of = dict(zip(ids.tolist(), range(len(ids)), strict=True))
            if len(row_of) != len(ids):
                raise StateError("Expected distinct ids, received a repeated one.")
        return self._derived(self._leaves.take(index), len(index), ids, row_of)

    def put(self, rows: Any, state: State) -> State:
        """Return a new state with the given rows replaced by those of ``state``.

        The other rows are bit-identical.

        Raises
        ------
        StateError
            Other leaves, shapes or another number of rows (nothing broadcasts), a row twice, or a
            state that other weights made.
        """
        index = row_index(rows, self.rows)
        state.check(self.spec)
        if None not in (prints := (self.fingerprint, state.fingerprint)) and len({*prints}) > 1:
            raise StateError(
                "Expected a state that the same weights made, received one of another fit. Make "
                "it again with the forecaster that made this state."
            )
        if state.rows != len(index):
            raise StateError(
                f"Expected a state of {len(index)} rows, received {state.rows}; nothing broadcasts."
            )
        if len(set(index.tolist())) != len(index):
            raise StateError("Expected distinct rows, received a row twice.")
        if not len(index):
            return self.at_rest()
        values = {name: at_rest(state.leaves[name]) for name in self.leaves}
        leaves = self._leaves.put(index, values, self.rows)
        return self._derived(leaves, self.rows, self.ids, self._row_of)

    def reset(self, initial: State, rows: Any = None) -> State:
        """Return a new state with the given rows (default: all) set to those of ``initial``.

        ``initial`` has as many rows as are reset. Errors as for ``put``.
        """
        return self.put(slice(None) if rows is None else rows, initial)

    def fork(self, n: int) -> State:
        """Return each row ``n`` times: row 0 ``n`` times, then row 1, and so on.

        The new state has no ids, as they would repeat.

        Raises
        ------
        StateError
            ``n`` below 1.
        ArgumentError
            A result of more than 2,000,000,000 numbers.
        """
        n = check_whole("fork: n", n, error=StateError)
        size = max(1, self.rows, sum(math.prod(leaf.shape) for leaf in self.leaves.values()))
        if n * size > _MOST_FORKED:
            raise ArgumentError(
                f"fork: n: expected at most {_MOST_FORKED:,} numbers in the result, received "
                f"{size:,} numbers x {n:,}. Fork fewer rows at once: state.take(rows).fork(n)."
            )
        return self._with(
            {name: np.repeat(at_rest(leaf), n, axis=0) for name, leaf in self.leaves.items()}, None
        )

    def check(self, spec: Mapping[str, tuple[int, ...]]) -> None:
        """Raise ``StateError`` unless this state has the leaves of ``spec`` (name to shape without
        rows)."""
        if set(spec) != set(self.spec):
            raise StateError(f"Expected leaves {list(spec)}, received {list(self.spec)}.")
        for name, shape in self.spec.items():
            if tuple(spec[name]) != shape:
                raise StateError(
                    f"Leaf {name!r}: expected shape (rows, {_dims(spec[name])}), "
                    f"received (rows, {_dims(shape)})."
                )

    # -- files -----------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to a safetensors file, which can be loaded with any backend.

        The file is written whole or not at all.

        Raises
        ------
        StateError
            Ids of another type than those of ``files.packed_ids``; a leaf with a NaN or an infinite
            number; a leaf that is not of whole numbers, booleans or floats of up to 8 bytes; more
            than a million rows without any number or id.
        ArgumentError
            A path that cannot be written to.
        """
        rest = self.at_rest()
        try:
            ids = {} if rest.ids is None else packed_ids(rest.ids.tolist())
            for name, leaf in rest.leaves.items():
                if leaf.dtype.kind not in "biuf" or leaf.dtype.itemsize > 8:
                    raise ValueError(f"Leaf {name!r}: expected numbers, received {leaf.dtype}")
                check_finite(f"Leaf {name!r}", leaf)
        except ValueError as error:
            raise StateError(f"This state cannot be saved: {error}.") from None
        empty = not ids and all(leaf.size == 0 for leaf in rest.leaves.values())
        if empty and self.rows > MOST_ZERO_WIDTH:
            raise StateError(
                f"This state cannot be saved: it has {self.rows:,} rows without any number."
            )
        metadata = {"leaves": json.dumps(rest.names, ensure_ascii=False)}
        if self.fingerprint is not None:
            metadata["fingerprint"] = self.fingerprint
        leaves = {f"leaves/{name}": leaf for name, leaf in rest.leaves.items()}
        write_whole(path, packed(FORMAT, VERSION, _HEADER_CAP, metadata, leaves | ids))

    @classmethod
    def load(cls, path: str | os.PathLike[str] | bytes) -> State:
        """Read a state that ``save`` wrote, from the file's path or from its bytes.

        The whole file is checked, and every number in it must be finite. Memory for the numbers is
        taken once.

        Raises
        ------
        ModelFileError
            A file that is missing, truncated, of another version, damaged, or not a state.
        ArgumentError
            A ``path`` that is neither a path nor bytes.
        """
        metadata, tensors = read_safetensors(path, FORMAT, VERSION, _HEADER_CAP)
        try:
            if not {"leaves"} <= set(metadata) - {"format", "version"} <= {"leaves", "fingerprint"}:
                raise ValueError(f"unexpected entries {str(sorted(metadata))[:200]}")
            names = strict_json(metadata["leaves"])
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError("leaves: expected a list of names")
            found = {name.removeprefix("leaves/") for name in tensors if name.startswith("leaves/")}
            if len(set(names)) != len(names) or set(names) != found or not names:
                raise ValueError(f"leaves: expected {str(sorted(found))[:200]}")
            leaves = {name: tensors.pop(f"leaves/{name}") for name in names}
            for name, leaf in leaves.items():
                if not leaf.ndim:
                    raise ValueError(f"leaf {name[:80]!r} has no rows")
                check_finite(f"leaf {name[:80]!r}", leaf)
            ids = read_ids(tensors, len(leaves[names[0]])) if tensors else None
            return cls(leaves, ids, metadata.get("fingerprint"))
        except ValueError as error:  # a StateError too
            where = "the bytes" if isinstance(path, bytes) else path
            raise ModelFileError(f"{where}: the state is damaged ({error}).") from None

    # -- inside ----------------------------------------------------------------------

    @property
    def _leaves(self) -> _Leaves:
        assert isinstance(self.leaves, _Leaves)  # set by __post_init__
        return self.leaves

    def _with(self, leaves: Mapping[str, Any], ids: Any) -> State:
        return State(leaves, ids, self.fingerprint)

    def _derived(
        self, leaves: _Leaves, rows: int, ids: np.ndarray | None, row_of: Mapping[Any, int] | None
    ) -> State:
        """Return a state with other leaves of the same shapes, which need no checks."""
        after = object.__new__(State)
        vars(after).update(vars(self), leaves=leaves, _rows=rows, ids=ids, _row_of=row_of)
        return after


def leaf_dtypes(state: State) -> dict[str, np.dtype]:
    """Return the dtype of each leaf at rest. The cost does not depend on the number of rows."""
    return state._leaves.dtypes()


def _read_only(leaf: Any) -> Any:
    """Return a view of a NumPy leaf that cannot be written to."""
    if isinstance(leaf, np.ndarray):
        leaf = leaf.view()
        leaf.flags.writeable = False
    return leaf


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")


def _dims(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape)) or "-"
