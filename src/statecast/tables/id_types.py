"""``IdType``: the type of a column of ids, saved in a model file under the name that its library
prints.

Names are read back through a closed set of patterns, so that nothing in a file is executed. The
library is imported when a column is made, not when a file is read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import narwhals.stable.v2 as nw

from statecast.errors import ModelFileError
from statecast.tables.dates import known_zone

MOST_CATEGORIES = 10_000  # more are not saved: the header of a model file stays small
_ZONE = r"[A-Za-z0-9_+\-/:]{1,64}"
_UNIT = r"(?:s|ms|us|ns)"
_WHOLE = r"(?:u?int(?:8|16|32|64))"
_ARROW = (
    rf"{_WHOLE}|float|double|bool|string|large_string|binary|large_binary|date32\[day\]|"
    rf"date64\[ms\]|timestamp\[{_UNIT}(?:, tz={_ZONE})?\]|duration\[{_UNIT}\]|"
    r"decimal128\(\d{1,2}, \d{1,2}\)"
)
_ZONES = re.compile(rf"(?:time_zone='|tz=|64\[\w\w?, )({_ZONE})")
_FORMS = {
    "polars": re.compile(
        r"U?Int(?:8|16|32|64|128)|Float(?:32|64)|String|Categorical|Date|Binary|Boolean|Object|"
        rf"Datetime\(time_unit='{_UNIT}', time_zone=(?:None|'{_ZONE}')\)|"
        rf"Duration\(time_unit='{_UNIT}'\)|Decimal\(precision=\d{{1,2}}, scale=\d{{1,2}}\)|Enum"
    ),
    "pandas": re.compile(
        rf"{_WHOLE}|U?Int(?:8|16|32|64)|[fF]loat(?:32|64)|bool|boolean|object|str|string|category|"
        rf"datetime64\[{_UNIT}(?:, {_ZONE})?\]|timedelta64\[{_UNIT}\]|(?:{_ARROW})\[pyarrow\]"
    ),
    "pyarrow": re.compile(
        rf"{_ARROW}|dictionary<values=(?:{_ARROW}), indices={_WHOLE}, ordered=[01]>"
    ),
}  # fmt: skip


@dataclass(frozen=True)
class IdType:
    """The type of a column of ids.

    Attributes
    ----------
    name : str
        As the library prints it.
    categories : tuple of str or int, or None
        The categories of a polars Enum or a pandas category.
    ordered : bool
        Whether a pandas category has an order.
    """

    name: str
    categories: tuple[str | int, ...] | None = None
    ordered: bool = False

    @classmethod
    def of(cls, native: Any, library: str) -> IdType | None:
        """Return the ``IdType`` of a library's type; None if it cannot be saved."""
        if native is None or isinstance(native, IdType):
            return native
        categories = getattr(native, "categories", None)
        name, ordered = str(native), False
        if library == "polars" and name.startswith("Enum"):
            name = "Enum"
        elif library != "pandas" or name != "category":
            categories = None
        if categories is not None:
            categories, ordered = tuple(categories.to_list()), bool(getattr(native, "ordered", 0))
            alike = {*map(type, categories)} in ({str}, {int})
            if not alike or len(categories) > MOST_CATEGORIES:
                categories, ordered = None, False
        if (name == "Enum" and categories is None) or not _FORMS[library].fullmatch(name):
            return None
        return cls(name, categories, ordered)

    def native(self, library: str) -> Any:
        """Return the type in its library."""
        if library == "polars":
            import polars as pl

            if self.categories is not None:
                return pl.Enum(list(map(str, self.categories)))
            kind, _, given = self.name.partition("(")
            words: Sequence[str] = re.findall(r"=(None|[^,)]+)", given)
            values = [int(w) if w.isdigit() else None if w == "None" else w[1:-1] for w in words]
            return getattr(pl, kind)(*values) if values else getattr(pl, kind)
        if library == "pandas":  # pandas accepts the name of a type
            if self.categories is None:
                return self.name
            each: Any = nw.new_series("", self.categories, backend="pandas").to_native()
            each = each.astype("category").cat
            return each.set_categories(list(self.categories), ordered=self.ordered).dtype
        return _arrow(self.name)

    def to_config(self) -> dict[str, Any]:
        """Return the fields as strict JSON."""
        categories = None if self.categories is None else list(self.categories)
        return {"name": self.name, "categories": categories, "ordered": self.ordered}

    @classmethod
    def from_config(cls, config: Any, library: str) -> IdType:
        """Rebuild a type of a library; the inverse of ``to_config``.

        Raises
        ------
        ModelFileError
            Anything that ``to_config`` does not write.
        """
        good = isinstance(config, dict) and set(config) == {"name", "categories", "ordered"}
        good = good and library in _FORMS and isinstance(config["name"], str)
        if good:
            name, categories = config["name"], config["categories"]
            good = _FORMS[library].fullmatch(name) is not None
            good = good and all(map(known_zone, _ZONES.findall(name)))
            good = good and isinstance(config["ordered"], bool)
            good = good and (name != "Enum" or bool(categories))
            if categories is not None:
                good = good and name in ("Enum", "category") and isinstance(categories, list)
                good = good and 0 < len(categories) <= MOST_CATEGORIES
                good = good and {*map(type, categories)} in ({str}, {int})
                good = good and len(set(categories)) == len(categories)
        if not good:
            raise ModelFileError(
                f"ids: expected the type of a {library} column; received {str(config)[:80]}."
            )
        categories = None if config["categories"] is None else tuple(config["categories"])
        return cls(config["name"], categories, config["ordered"])


def _arrow(name: str) -> Any:
    """Return the Arrow type with this name."""
    import pyarrow as pa

    if name.startswith("dictionary"):
        values, whole, ordered = re.findall(r"=(.*?)(?:, (?=indices|ordered)|>$)", name)
        return pa.dictionary(_arrow(whole), _arrow(values), ordered == "1")
    if name.startswith("timestamp"):
        unit, _, zone = name[len("timestamp[") : -1].partition(", tz=")
        return pa.timestamp(unit, zone or None)
    if name.startswith("decimal128"):
        return pa.decimal128(*map(int, re.findall(r"\d+", name)[1:]))
    with suppress(ValueError):
        return pa.type_for_alias(name)
    return {"large_binary": pa.large_binary(), "date64[ms]": pa.date64()}[name]
