"""How objects show themselves in a notebook: what they show, that it is small, and escaped."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curves import T, curve_tables, fit_curves
from statecast import Forecaster, State, TokenForecaster, notebook
from statecast.evaluate.scores import Row, Scores, TargetScores
from statecast.evaluate.tokens import TokenRow, TokenScores

EVIL = "<script>alert(1)</script>&amp;\"'"


class Read(HTMLParser):
    """The rows of the tables, the text, and the elements of a piece of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self._open.append(tag)
        self.elements.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open and self._open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def shown(value: Any) -> Read:
    found = Read(value._repr_html_())
    assert {*found.elements} <= {"div", "b", "table", "thead", "tbody", "tr", "th", "td"}
    return found


@given(st.lists(st.tuples(st.text(), st.text()), max_size=40))
def test_a_table_has_its_cells_as_they_are(rows: list[tuple[str, str]]) -> None:
    rows = [(a.replace("\r", ""), b.replace("\r", "")) for a, b in rows]
    found = Read(notebook.table(("<one>", "other"), rows))
    assert found.rows[0] == ["<one>", "other"]
    assert found.rows[1:] == [list(row) for row in rows[: notebook.ROWS]]
    assert (
        ("more rows" in found.text.rpartition("</table>")[2])
        or len(rows) <= notebook.ROWS
        or (f"... and {len(rows) - notebook.ROWS} more rows" in found.text)
    )


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (0.123456, "0.1235"),
        (1e-9, "1e-09"),
        (12345678.0, "1.235e+07"),
        (1234, "1,234"),
        (True, "True"),
        (None, ""),
        ("x" * 500, "x" * 197 + "..."),
    ],
)
def test_a_cell(cell: Any, text: str) -> None:
    assert Read(notebook.table(("a",), [(cell,)])).rows[1] == [text]


def scores(forecaster: str = "statecast") -> Scores:
    rows = [
        Row(0.02, crps, 0.8, 0.05, 900, method, k, 30)
        for k in (0, 3)
        for method, crps in ((forecaster, 0.012 - k / 1000), (EVIL, 0.015))
    ]
    return Scores(tuple(rows), forecaster, 2)


def test_scores() -> None:
    found = shown(scores())
    assert found.rows == [
        ["CRPS", "k = 0", "k = 3"],
        ["statecast", "0.0120", "0.0090"],
        [EVIL, "0.0150", "0.0150"],
    ]
    assert "Forecasts of items held out from training: 2 folds" in found.text
    each = shown(TargetScores({EVIL: scores(), "b": scores()}))
    assert len(each.rows) == 6
    assert EVIL in each.text
    tokens = TokenScores(
        (TokenRow("statecast", 0, 2.25, 100, 1200), TokenRow(EVIL, 0, 2.5, 100, 1200)),
        "statecast",
        1,
    )
    assert shown(tokens).rows == [
        ["bits per token", "k = 0"],
        ["statecast", "2.2500"],
        [EVIL, "2.5000"],
    ]


def test_forecasters_states_settings_and_explanations() -> None:
    series, static = curve_tables(72)
    names = pl.format("{}{}", pl.lit(EVIL), pl.col("unique_id"))
    series = series.with_columns(unique_id=names)
    static = static.with_columns(unique_id=names).rename({"group": EVIL})
    f = fit_curves(series, static)
    pairs = {row[0]: row[1] for row in shown(f).rows}
    assert pairs["units"] == "6"
    assert pairs["static features"] == f"level, {EVIL}"
    assert pairs["steps"] == "up to 8"
    assert pairs["fingerprint"] == f.fingerprint
    assert "fitted on 72 items" in shown(f).text

    begun = series.filter(pl.col("ds") <= 3)
    state = f.state(begun, static)
    found = shown(state)
    assert [row[0] for row in found.rows[1:]] == list(state.names)[: notebook.ROWS]
    assert "State of 72 items" in found.text
    assert f"fingerprint {f.fingerprint}; first ids: '<script>" in found.text
    assert "no ids" in shown(State(dict(state.leaves))).text

    why = f.explain(begun, static, until=T)
    found = shown(why)
    assert len(found.rows) == 1 + notebook.ROWS
    assert found.rows[0] == why.table().columns
    assert found.rows[1][0].startswith(EVIL)
    assert f"... and {why.table().height - notebook.ROWS} more rows" in found.text.replace(",", "")

    found = shown(f.settings)
    values = {row[0]: row[1] for row in found.rows[1:]}
    assert values["units (changed)"] == "6"
    assert values["head"] == "quantiles"
    assert len(values) == len(f.settings.declared())


@pytest.mark.parametrize("kind", [Forecaster, TokenForecaster])
def test_a_forecaster_that_is_not_fitted(kind: Any) -> None:
    found = shown(kind(units=7, id_col=EVIL))
    assert {tuple(row) for row in found.rows} == {("units", "7"), ("id_col", EVIL)}
    assert "not fitted" in found.text
    assert "Settings of" in shown(kind().settings).text
