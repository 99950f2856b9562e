"""What an event of a journal says, and its bytes.

The data of an event is a byte for its kind, then float64 numbers, then texts. NaN is a missing
number. A text is its length plus 1 in two bytes and its UTF-8 bytes; a length of 0 is a missing
text. Numbers are written with the same bits whenever they are equal, so that events with equal data
say the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from statecast.errors import DataError, StoreError, quoted
from statecast.tables.schema import Schema

ROW, PLAN, STATIC, SET, RESET = b"\1", b"\2", b"\3", b"\4", b"\5"
KINDS = {
    ROW: "observation",
    PLAN: "future covariates",
    STATIC: "static features",
    SET: "state set",
    RESET: "reset",
}
_LONGEST = 65_534  # bytes of a text


@dataclass(frozen=True)
class Part:
    """The columns of events of one kind: numbers first, then texts.

    Attributes
    ----------
    kind : bytes
    numbers, texts : tuple of str
        The names of the columns.
    """

    kind: bytes
    numbers: tuple[str, ...]
    texts: tuple[str, ...]
    size: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", 1 + 8 * len(self.numbers))

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""
        return (*self.numbers, *self.texts)

    def pack(self, columns: Mapping[str, np.ndarray], rows: int) -> list[bytes]:
        """The data of an event for each row of the columns: float64, or objects (text or None).

        Raises
        ------
        DataError
            A text of more than 65,534 bytes.
        """
        matrix = np.empty((rows, len(self.numbers)), "<f8")
        for place, name in enumerate(self.numbers):
            matrix[:, place] = columns[name]
        matrix[np.isnan(matrix)] = np.nan
        matrix += 0.0  # -0.0 becomes 0.0
        flat, width = matrix.tobytes(), self.size - 1
        found = [self.kind + flat[row * width : (row + 1) * width] for row in range(rows)]
        for name in self.texts:
            for row, text in enumerate(columns[name]):
                found[row] += _packed(text, name)
        return found

    def unpack(self, data: Sequence[bytes]) -> dict[str, np.ndarray]:
        """The columns of events with this data; the inverse of ``pack``.

        Raises
        ------
        StoreError
            Data that ``pack`` would not write.
        """
        flat = b"".join([each[1 : self.size] for each in data])
        if len(flat) != len(data) * (self.size - 1):
            raise _damaged()
        matrix = np.frombuffer(flat, "<f8").reshape(len(data), len(self.numbers))
        columns = {name: matrix[:, place] for place, name in enumerate(self.numbers)}
        columns |= {name: np.full(len(data), None, object) for name in self.texts}
        if not self.texts:
            return columns
        for row, each in enumerate(data):
            at = self.size
            for name in self.texts:
                length = int.from_bytes(each[at : at + 2], "little")
                at += 2
                if length:
                    columns[name][row] = each[at : at + length - 1].decode()
                    at += length - 1
            if at != len(each):
                raise _damaged()
        return columns


class Layout:
    """The columns of the events of a model's items.

    Attributes
    ----------
    row : Part
        The targets, then the past covariates.
    plan : Part
        The future covariates.
    static : Part
        The static features; then the group and the launch date of an item, if the model has them.
        A launch date is the text of its microseconds since 1970.
    """

    def __init__(self, schema: Schema) -> None:
        past, future, static = schema.past, schema.future, schema.static
        self.row = Part(ROW, (*schema.target_cols, *past.numeric), tuple(past.categories))
        self.plan = Part(PLAN, future.numeric, tuple(future.categories))
        more = [name for name in (schema.group_col, schema.start_col) if name is not None]
        self.static = Part(STATIC, static.numeric, (*static.categories, *more))
        self._steps = "numbers"
        if schema.spacing is not None:
            form = schema.kind.steps
            self._steps = f"dates{' in a time zone' * (form is not None and form.zone is not None)}"

    def __str__(self) -> str:
        parts = {"series": self.row, "future": self.plan, "static": self.static}
        texts = [
            f"{name} {[*part.numbers]} and texts {[*part.texts]}" for name, part in parts.items()
        ]
        return f"steps as {self._steps}; {'; '.join(texts)}"


def _packed(text: str | None, name: str) -> bytes:
    if text is None:
        return b"\0\0"
    data = text.encode()
    if len(data) > _LONGEST:
        raise DataError(
            f"Column {quoted(name)}: expected a text of at most {_LONGEST:,} bytes; received "
            f"{quoted(text)}, of {len(data):,}.",
            column=name,
        )
    return (len(data) + 1).to_bytes(2, "little") + data


def _damaged() -> StoreError:
    return StoreError(
        "Expected events of this model's columns; received others. The store is damaged: restore "
        "it from a copy."
    )
