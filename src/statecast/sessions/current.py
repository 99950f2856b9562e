"""``Current``: states of items with their model, and what is forecast from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from typing import Any

import narwhals.stable.v2 as nw

from statecast.errors import silent
from statecast.files import id_of
from statecast.sessions.cells import Ahead
from statecast.sessions.replay import Replay
from statecast.state import State
from statecast.tables.ids import id_array


@dataclass(frozen=True)
class Current:
    """States of items, with the model that they belong to.

    Attributes
    ----------
    replay : Replay
        That of the model.
    items : dict of bytes to (bytes, dict)
        By the bytes of the id: the packed state, and the future covariates of later steps.
    """

    replay: Replay
    items: dict[bytes, tuple[bytes, dict[int, bytes]]]

    @property
    def state(self) -> State:
        """The states as a value, with the ids."""
        ids = id_array([id_of(key) for key in self.items])
        return self.replay.unpack([packed for packed, _ in self.items.values()], ids)

    def arguments(self, future: Any) -> dict[str, Any]:
        """The arguments ``state`` and ``future`` of a forecast. Without a table of future
        covariates it is made of those that were observed."""
        state = self.state
        if future is None and self.replay.model.schema.future.kinds:
            plans = [plans for _, plans in self.items.values()]
            layout, ids = self.replay.layout, [id_of(key) for key in self.items]
            future = self.replay.cells.table(layout.plan, ids, plans)
        return {"state": state, "future": future}

    def forecast(self, future: Any, **options: Any) -> Any:
        """``Forecaster.predict``."""
        return self.replay.model.predict(**self.arguments(future), **options)

    def take(self, keys: Iterable[bytes]) -> Current:
        """Those of some items."""
        return Current(self.replay, {key: self.items[key] for key in keys})

    def forecasts(self, asked: Sequence[tuple[Ahead, Sequence[bytes]]]) -> list[Any]:
        """The forecasts that calls ask for, each of its own items, all with one horizon
        and one way to read them.

        They are made together and divided. Each has the bits that it has alone, as no row of
        ``predict`` depends on the others.
        """
        found = self._together(asked) if len(asked) > 1 else None
        if found is not None:
            return found
        return [ahead.context.run(self.take(keys)._alone, ahead) for ahead, keys in asked]

    def _alone(self, ahead: Ahead) -> Any:
        """The forecast that a call asks for."""
        table = self.forecast(None, until=ahead.until, h=ahead.h)
        return table if ahead.read is None else ahead.read(table)

    def _together(self, asked: Sequence[tuple[Ahead, Sequence[bytes]]]) -> list[Any] | None:
        """The forecasts of several calls; None where they have to be made one by one."""
        if self.replay.model.schema.kind.library == "arrays":
            return None
        first, _ = asked[0]
        joint = self.take(key for _, keys in asked for key in keys)
        with silent() as messages:
            table = nw.from_native(
                joint.forecast(None, until=first.until, h=first.h), eager_only=True
            )
        ids = table[self.replay.model.schema.id_col].to_list()
        rows = [sum(1 for _ in some) for _, some in groupby(ids)]
        if messages or len(rows) != len(joint.items):  # a caller's own warning; items without rows
            return None
        if first.read is not None:
            table = first.read(table.to_native())
        ends = list(accumulate(rows, initial=0))
        begins = accumulate((len(keys) for _, keys in asked), initial=0)
        return [_part(table, ends[a], ends[b]) for a, b in pairwise(begins)]


def _part(table: list[Any] | nw.DataFrame[Any], begin: int, end: int) -> Any:
    """Some rows of a table, as a table of its own; or of a list."""
    if isinstance(table, list):
        return table[begin:end]
    native = table[begin:end].to_native()
    return native.reset_index(drop=True) if hasattr(native, "reset_index") else native
