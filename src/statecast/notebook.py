"""How objects show themselves in a notebook: small tables as HTML, without colours of their own.

Every text is escaped: ids, names of columns and categories come from the user's data.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

ROWS = 20  # of a table that are shown by default
_LETTERS = 200  # of a cell


def heading(text: str) -> str:
    """Return a line above a table."""
    return f"<div><b>{_cell(text)}</b></div>"


def line(text: str) -> str:
    """Return a line of text."""
    return f"<div>{_cell(text)}</div>"


def pairs(rows: Iterable[tuple[str, Any]]) -> str:
    """Return names and values as a table."""
    body = "".join(
        f"<tr><th style='text-align:left'>{_cell(name)}</th>"
        f"<td style='text-align:left'>{_cell(value)}</td></tr>"
        for name, value in rows
    )
    return f"<table><tbody>{body}</tbody></table>"


def table(
    head: Sequence[str], rows: Iterable[Sequence[Any]], bold: Any = None, most: int = ROWS
) -> str:
    """Return a table with its first ``most`` rows, and a line with the number of the others.

    Numbers are written with four digits after the point or, if they are large or small, with four
    digits. Rows that begin with ``bold`` are bold.
    """
    every = list(rows)
    top = "".join(f"<th style='text-align:left'>{_cell(name)}</th>" for name in head)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td style='text-align:{'right' if _is_number(cell) else 'left'}"
            f"{';font-weight:bold' if bold is not None and row[0] == bold else ''}'>"
            f"{_cell(cell)}</td>"
            for cell in row
        )
        + "</tr>"
        for row in every[:most]
    )
    more = len(every) - most
    rest = line(f"... and {more:,} more rows: table()") if more > 0 else ""
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>{rest}"


def _is_number(cell: Any) -> bool:
    return isinstance(cell, (int, float)) and not isinstance(cell, bool)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        usual = value == 0 or 1e-3 <= abs(value) < 1e6
        return escape(f"{value:.4f}" if usual else f"{value:.4g}")
    text = f"{value:,}" if _is_number(value) else str(value)
    return escape(text if len(text) <= _LETTERS else f"{text[: _LETTERS - 3]}...")
