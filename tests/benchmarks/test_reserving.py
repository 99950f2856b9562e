"""``benchmarks/reserving.py``: chain ladder, the protocol and the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import reserving

from statecast import Forecaster

# Cumulative payments of Taylor and Ashe (1983), by which Mack (1993) shows his method.
TRIANGLE = [
    [357848, 1124788, 1735330, 2218270, 2745596, 3319994, 3466336, 3606286, 3833515, 3901463],
    [352118, 1236139, 2170033, 3353322, 3799067, 4120063, 4647867, 4914039, 5339085],
    [290507, 1292306, 2218525, 3235179, 3985995, 4132918, 4628910, 4909315],
    [310608, 1418858, 2195047, 3757447, 4029929, 4381982, 4588268],
    [443160, 1136350, 2128333, 2897821, 3402672, 3873311],
    [396132, 1333217, 2180715, 2985752, 3691712],
    [440832, 1288463, 2419861, 3483130],
    [359480, 1421128, 2864498],
    [376686, 1363294],
    [344014],
]


def triangle() -> np.ndarray:
    paid = np.full((10, 10), np.nan)
    for row, values in enumerate(TRIANGLE):
        paid[row, : len(values)] = values
    return paid


def tables() -> tuple[pl.DataFrame, pl.DataFrame]:
    """A company whose accident years develop alike, in the layout of the data."""
    share = np.array([0.3, 0.2, 0.15, 0.1, 0.08, 0.06, 0.05, 0.03, 0.02, 0.01])
    rows, static = [], []
    for year in range(1988, 1998):
        item = f"private_passenger_auto-7-{year}"
        premium = 100.0 * (year - 1980)
        static.append((item, "private_passenger_auto", "c7", year, premium, np.log(premium)))
        rows += [(item, ds, 0.7 * y, 0.0, year + ds - 1) for ds, y in enumerate(share, 1)]
    series = pl.DataFrame(
        rows, ["unique_id", "ds", "y", "outstanding", "calendar_year"], orient="row"
    )
    columns = ["unique_id", "line", "company", "accident_year", "premium", "log_premium"]
    return series, pl.DataFrame(static, columns, orient="row")


def test_mack_s_example() -> None:
    paid = triangle()
    ultimate, error = reserving.mack(paid)
    latest = paid[np.arange(10), 9 - np.arange(10)].sum()
    assert ultimate - latest == pytest.approx(18_680_856, abs=1)
    assert error == pytest.approx(2_447_095, abs=1)


def test_chain_ladder_is_exact_where_years_develop_alike() -> None:
    series, static = tables()
    (key,) = truth = reserving.truths(series, static)
    assert key == ("private_passenger_auto", "c7")
    assert truth[key] == pytest.approx(0.7 * sum(static["premium"].to_list()))
    low, middle, high = reserving.chain_ladder(series, static)[key]
    np.testing.assert_allclose([low, middle, high], truth[key], rtol=1e-6)


def test_forecasts_do_not_depend_on_later_calendar_years() -> None:
    series, static = tables()
    later = pl.col("calendar_year") > reserving.LAST
    other = series.with_columns(y=pl.when(later).then(99.0).otherwise("y"))
    assert reserving.known(series).equals(reserving.known(other))
    assert len(reserving.known(series)) == 55
    assert reserving.chain_ladder(series, static) == reserving.chain_ladder(other, static)


@pytest.mark.parametrize(
    "settings", reserving.OUTSTANDING.values(), ids=list(reserving.OUTSTANDING)
)
def test_an_ultimate_is_what_was_paid_and_the_rest_of_the_paths(
    settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With rest paths of the truth, the ultimate is the truth."""
    series, static = tables()
    y = series["y"].to_numpy().reshape(10, 10)

    class Knowing(Forecaster):
        """A forecaster whose paths are the truth."""

        def __init__(self, **given: Any) -> None:
            roles = {"group_col": "group", "origin_col": "origin"}
            assert given == {"seed": 3, **roles, **settings}
            super().__init__(**given, units=4, encoding=4, ensemble=2, epochs=1)

        def fit(self, series: Any, static: Any = None, **given: Any) -> Knowing:
            assert len(series) == 55
            assert ("outstanding" in series.columns) == bool(settings)
            return super().fit(series, static, **given)

        def _paths(self, begun: Any, reach: int, paths: int) -> Any:
            year = np.array([int(each[-4:]) - 1988 for each in begun.ids])
            count = len(self.settings.targets)
            rest = np.where(np.arange(10) > 9 - year[:, None], y[year], np.nan)
            rest = np.repeat(rest[:, :, None], count, axis=2).reshape(len(year), reach)
            return self._paths_of(begun, np.repeat(rest[:, None], paths, axis=1))

    monkeypatch.setattr(reserving, "Forecaster", Knowing)
    found = reserving.statecast(series, static, 3, settings)
    (key,) = truth = reserving.truths(series, static)
    np.testing.assert_allclose(found[key], truth[key], rtol=1e-9)


def test_scores_and_the_table() -> None:
    rows = [
        (reserving.MACK, 0, line, company, 0.1, 100.0, low, forecast, 130.0)
        for line in reserving.LINES
        for company, low, forecast in (("a", 90.0, 110.0), ("b", 101.0, 130.0))
    ]
    found = pl.DataFrame(rows, list(reserving.COLUMNS), orient="row")
    scores = reserving.scores(found)
    np.testing.assert_allclose(scores["mape"], 0.2)
    np.testing.assert_allclose(scores["rmspe"], np.sqrt(0.05))
    np.testing.assert_allclose(scores["coverage"], 0.5)
    assert list(reserving.lines_of(found))[-1].startswith(
        "| Mack's chain ladder | .200 / .224 / 50 | .200 / .224 / 50 |"
    )


def test_the_table_is_written_into_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "reserving.md"
    page.write_text(f"before\n\n{reserving.BEGIN}\n\nold\n\n{reserving.END}\n\nafter\n")
    monkeypatch.setattr(reserving, "PAGE", page)
    series, static = tables()
    truth = reserving.truths(series, static)
    rows = [
        (reserving.MACK, 0, line, "c7", 0.1, *truth.values(), 1.0, 2.0, 3.0)
        for line in reserving.LINES
    ]
    reserving.write_page(pl.DataFrame(rows, list(reserving.COLUMNS), orient="row"))
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\n\nafter\n")
    assert "old" not in text
    assert "DeepTriangle (printed)" in text
