"""Cross-validation: items held out, pooled scores, and refusals before any fit."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from statecast.data import Growth
from statecast.errors import ArgumentError, DataError, MissingExtraError
from statecast.evaluate.baselines import (
    LastValue,
    MeanCurve,
    Neighbours,
    Ridge,
)
from statecast.evaluate.cross_validation import cross_validation as _cross_validation
from statecast.evaluate.scores import Scores
from statecast.forecast.settings import ForecasterSettings
from statecast.tables.panel import Panel
from statecast.tables.schema import Schema
from toy_data import tables, toy

pytestmark = pytest.mark.usefixtures("few_trees")

cross_validation: Any = _cross_validation  # also of what only acts as a forecaster

EPS = float(np.finfo(np.float32).eps)  # panels are float32; sums of float64 are far better


class Fake:
    """A forecaster that answers with the training items' quantiles, and keeps a record."""

    settings = ForecasterSettings()

    def __init__(self, log: list[Fake] | None = None) -> None:
        self.log: list[Fake] = [] if log is None else log
        self.asked: list[Panel] = []
        self.schema: Any = None
        self.trained: set[Any] = set()

    def clone(self) -> Fake:
        return Fake(self.log)

    def fit(self, series: Any, static: Any = None, **options: Any) -> Fake:
        assert options == {"callbacks": ()}
        self.log.append(self)
        self.schema = Schema.fit(series, static)
        panel = self.schema.panel(series, static, for_fit=True)
        self.trained = set(panel.ids.tolist())
        self.curve = MeanCurve().fit(panel, self.schema)
        return self

    def quantiles(self, panel: Panel, until: int, levels: Sequence[float]) -> np.ndarray:
        self.asked.append(panel)
        return self.curve.quantiles(panel, 0, until, levels)


class Recorder:
    """A baseline that answers 1 everywhere, and keeps a record."""

    name, point, needs, needs_sklearn = "recorder", True, 0, False

    def __init__(self) -> None:
        self.record: list[tuple[Any, ...]] = []

    def fit(self, panel: Panel, schema: Schema) -> Recorder:
        self.record.append(("fit", panel))
        return self

    def quantiles(
        self, panel: Panel, known: int, until: int, levels: Sequence[float]
    ) -> np.ndarray:
        self.record.append(("quantiles", panel, known))
        return np.ones((panel.rows, until, len(levels)))


def equal(left: Scores, right: Scores, tolerance: float = 100 * EPS) -> None:
    assert [(r.method, r.known, r.items, r.values) for r in left.rows] == [
        (r.method, r.known, r.items, r.values) for r in right.rows
    ]
    for a, b in zip(left.rows, right.rows, strict=True):
        for name in ("wape", "crps", "coverage", "width"):
            ours, theirs = getattr(a, name), getattr(b, name)
            assert (ours is None) == (theirs is None)
            if ours is not None:
                assert ours == pytest.approx(theirs, rel=tolerance)


def test_covariates_go_with_their_items_to_fit_and_forecast(tmp_path: Any) -> None:
    """Also from text: parts of a CSV file mean what the whole does."""

    class Covered(Fake):
        settings = ForecasterSettings(past_cols=["visits"])

        def clone(self) -> Fake:
            return Covered(self.log)

        def fit(self, series: Any, static: Any = None, **options: Any) -> Fake:
            self.log.append(self)
            future = options["future"]
            self.trained = set(future["unique_id"].to_list())
            self.schema = Schema.fit(series, static, future=future, past_cols=["visits"])
            panel = self.schema.panel(series, static, future=future, for_fit=True)
            self.curve = MeanCurve().fit(panel, self.schema)
            return self

    series, static = tables(*toy())
    rng = np.random.default_rng(0)
    series = series.with_columns(visits=pl.Series(rng.normal(size=len(series))))
    row, step = (axis.ravel() for axis in np.indices((31, 9)))  # an item and a step too many
    future = pl.DataFrame({"unique_id": row, "ds": step + 1, "promo": row % 7 + step})
    found = []
    for folder in (None, tmp_path):
        given = [series, static, future]
        if folder is not None:
            for i, table in enumerate(given):
                table.write_csv(folder / f"{i}.csv")
            given = [folder / f"{i}.csv" for i in range(3)]
        fake = Covered()
        scores = cross_validation(fake, *given[:2], future=given[2], folds=3, known=[0, 2])
        assert "The baselines have no covariates" in str(scores)
        assert len(fake.log) == 3
        for each in fake.log:
            asked = {item for panel in each.asked for item in panel.ids.tolist()}
            assert each.trained == set(range(30)) - asked
            for panel in each.asked:
                assert panel.future is not None
                assert panel.past is not None
                assert panel.future.there.any(axis=1).all()
        found.append([panel for each in fake.log for panel in each.asked])
    for left, right in zip(*found, strict=True):
        np.testing.assert_array_equal(left.future.numeric, right.future.numeric)
        np.testing.assert_array_equal(left.past.numeric, right.past.numeric)


def test_no_method_is_fitted_on_the_items_it_forecasts() -> None:
    series, static = tables(*toy(30, gaps=0.1))
    fake, recorder = Fake(), Recorder()
    cross_validation(fake, series, static, folds=4, known=(0, 2), baselines=[recorder])
    assert fake.schema is None, "the forecaster that was handed in is left as it was"
    assert len(fake.log) == 4
    forecast: list[Any] = []
    for fitted in fake.log:
        assert len(fitted.asked) == 2
        for panel, k in zip(fitted.asked, (0, 2), strict=True):
            assert not fitted.trained & set(panel.ids.tolist())
            assert not panel.mask[:, k:].any()
            assert not panel.y[:, k:].any()
        forecast += fitted.asked[0].ids.tolist()
        assert fitted.trained | set(fitted.asked[0].ids.tolist()) == set(range(30))
    assert sorted(forecast) == list(range(30)), "each item is forecast in one fold"
    trained: set[Any] = set()
    for what, panel, *rest in recorder.record:
        if what == "fit":
            trained = set(panel.ids.tolist())
        else:
            assert not trained & set(panel.ids.tolist())
            assert not panel.mask[:, rest[0] :].any()


def test_scores_pool_all_folds_and_leave_short_items_out() -> None:
    Y, X = toy(30, gaps=0.0)  # every fifth item ends after step 4
    found = cross_validation(
        Fake(), Y, X, folds=np.arange(30) % 3, known=(0, 4), baselines=[Recorder()]
    )
    assert [(r.method, r.known, r.items) for r in found.rows] == [
        ("statecast", 0, 30),
        ("recorder", 0, 30),
        ("statecast", 4, 24),
        ("recorder", 4, 24),
    ]
    for k in (0, 4):
        row, rest = found["recorder", k], Y[:, k:]
        assert row.values == (~np.isnan(rest)).sum()
        wanted = np.nansum(abs(rest - 1)) / np.nansum(abs(rest))
        assert row.wape == pytest.approx(wanted, rel=100 * EPS)
        assert row.crps == pytest.approx(wanted, rel=100 * EPS)
        assert (row.coverage, row.width) == (None, None)


@given(st.randoms(use_true_random=False), st.booleans())
def test_the_order_of_the_tables_changes_nothing(random: Any, by_table: bool) -> None:
    series, static = tables(*toy(20))
    folds: Any = 3
    if by_table:
        folds = static.select("unique_id", fold=pl.col("unique_id") // 3 % 3)
    one = cross_validation(
        Fake(), series, static, folds=folds, baselines=[MeanCurve(), LastValue()]
    )
    rows, order = list(range(series.height)), list(range(static.height))
    random.shuffle(rows)
    random.shuffle(order)
    other = cross_validation(
        Fake(), series[rows], static[order], folds=folds, baselines=[MeanCurve(), LastValue()]
    )
    equal(one, other, 1e-5)


@pytest.mark.parametrize("names", [None, [f"item {i}" for i in range(24)]])
def test_every_kind_of_table_gives_the_same_scores(tmp_path: Path, names: list[str] | None) -> None:
    series, static = tables(*toy(24), names)
    folds = pl.DataFrame(
        {"unique_id": static["unique_id"], "fold": [i // 3 % 3 for i in range(24)]}
    )
    kinds: dict[str, Any] = {
        "pandas": lambda table, _: table.to_pandas(),
        "arrow": lambda table, _: table.to_arrow(),
        "lazy": lambda table, _: table.lazy(),
    }
    for ending in ("csv", "parquet"):

        def write(table: pl.DataFrame, name: str, ending: str = ending) -> Path:
            path = tmp_path / f"{name}.{ending}"
            getattr(table, f"write_{ending}")(path)
            return path

        kinds[ending] = write
    quick = [MeanCurve(), MeanCurve("kind"), Ridge(), Neighbours(), LastValue()]
    one = cross_validation(Fake(), series, static, folds=folds, baselines=quick)
    for kind in kinds.values():
        parts = [kind(t, n) for t, n in ((series, "series"), (static, "static"), (folds, "folds"))]
        other = cross_validation(Fake(), parts[0], parts[1], folds=parts[2], baselines=quick)
        equal(one, other, 1e-6)


def test_arrays_without_statics_and_with_them() -> None:
    Y, X = toy(24)
    series, static = tables(Y, X)
    folds = np.arange(24) % 2
    long = cross_validation(
        Fake(),
        series,
        static.drop("kind"),
        folds=pl.DataFrame({"unique_id": range(24), "fold": folds}),
        baselines=[Ridge()],
    )
    equal(long, cross_validation(Fake(), Y, X, folds=folds, baselines=[Ridge()]), 1e-6)
    assert cross_validation(Fake(), Y, folds=folds, baselines=False).rows[0].items == 24


def test_dates_and_columns_of_other_names() -> None:
    series, static = tables(*toy(24))
    fake = Fake()
    one = cross_validation(fake, series, static, folds=3, baselines=False)
    start = pl.date(2020, 1, 1)
    dated = series.with_columns(ds=start.dt.offset_by(pl.col("ds").cast(pl.String) + "d"))
    # Step 1 is an item's first date: only items that begin at step 1 are the same
    begins = series.filter(pl.col("ds") == 1)["unique_id"].to_list()
    keep = pl.col("unique_id").is_in(begins)
    one, other = (
        cross_validation(
            fake, table.filter(keep), static.filter(keep), folds=3, baselines=[Ridge()]
        )
        for table in (series, dated)
    )
    equal(one, other, 1e-6)

    class Renamed(Fake):
        settings = ForecasterSettings(id_col="who", step_col="when", target_col="what")

        def clone(self) -> Fake:
            return Renamed(self.log)

        def fit(self, series: Any, static: Any = None, **options: Any) -> Fake:
            back = {"who": "unique_id", "when": "ds", "what": "y"}
            return super().fit(series.rename(back), static.rename({"who": "unique_id"}), **options)

    renamed = series.rename({"unique_id": "who", "ds": "when", "y": "what"})
    table = static.rename({"unique_id": "who"})
    with pytest.raises(DataError, match="'who'"):
        cross_validation(Renamed(), series, static)
    with pytest.raises(DataError, match="unique_id"):  # the fake's own schema has other names
        cross_validation(Renamed(), renamed, table, baselines=False)


def test_test_folds_and_progress() -> None:
    Y, X = toy(24)
    stages: list[tuple[str, int, int]] = []
    fake = Fake()
    folds = np.array(["a", "b", "c"])[np.arange(24) % 3]
    found = cross_validation(
        fake,
        Y,
        X,
        folds=folds,
        test_folds=["b"],
        known=(3, 0),
        baselines=False,
        progress=lambda *what: stages.append(what),
    )
    assert found.known == (0, 3)
    assert (found.folds, len(fake.log), found.rows[0].items) == (1, 1, 8)
    assert found.best(0) is None
    assert found.skill(0) is None
    assert [what[1] for what in stages] == [0, 1, 2, 3]
    assert {what[2] for what in stages} == {3}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"folds": 1}, ArgumentError, "folds: expected a number from 2 to 12"),
        ({"folds": 13}, ArgumentError, "folds: expected a number from 2 to 12"),
        ({"folds": "missing.csv"}, DataError, "there is none"),
        ({"folds": [0] * 12}, DataError, "all items are in fold 0"),
        ({"folds": [0, 1]}, DataError, r"shape \(12,\)"),
        (
            {"folds": pl.DataFrame({"unique_id": range(7), "fold": [0, 1] * 3 + [0]})},
            DataError,
            "none for item 7",
        ),
        ({"folds": pl.DataFrame({"unique_id": [0, 1, 1], "fold": [0, 1, 0]})}, DataError, "item 1"),
        ({"folds": pl.DataFrame({"unique_id": range(12)})}, DataError, "'fold'"),
        ({"known": (0, -1)}, ArgumentError, "known: expected prefix lengths"),
        ({"known": ()}, ArgumentError, "known: expected prefix lengths"),
        ({"known": (True,)}, ArgumentError, "known: expected prefix lengths"),
        ({"known": (0, 8)}, ArgumentError, "up to step 8; received 8"),
        ({"test_folds": [5]}, ArgumentError, "test_folds: expected some of"),
        ({"test_folds": []}, ArgumentError, "received none"),
        ({"levels": (0.1, 0.9)}, ArgumentError, "levels"),
        ({"baselines": [Ridge(), Ridge()]}, ArgumentError, "'ridge' twice"),
    ],
)
def test_bad_input_is_refused_before_any_fit(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    series, static = tables(*toy(12, gaps=0.0))
    fake = Fake()
    with pytest.raises(error, match=message):
        cross_validation(fake, series, static, **options)
    assert fake.log == []


def test_tables_are_checked_before_any_fit() -> None:
    series, static = tables(*toy(12, gaps=0.0))
    fake = Fake()
    with pytest.raises(DataError, match=r"item 11"):
        cross_validation(fake, series, static[:11])
    assert fake.log == []


def test_the_missing_extra_is_named_before_any_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    Y, X = toy(12)
    fake = Fake()
    with pytest.raises(MissingExtraError, match=r"statecast\[evaluate\]"):
        cross_validation(fake, Y, X, folds=3)
    assert fake.log == []
    assert cross_validation(fake, Y, X, folds=3, baselines=[MeanCurve()]).methods


def test_growth(growth_tables: Growth) -> None:
    """The scores of the baselines on the growth study are those in the README."""
    series, static, folds = growth_tables
    quick = [MeanCurve("sex"), Ridge(), Neighbours(), LastValue()]
    found = cross_validation(Fake(), series, static, folds=folds, known=(0, 3), baselines=quick)
    assert found["mean curve by sex", 0].wape == pytest.approx(0.0328, abs=2e-4)
    assert found["ridge", 3].wape == pytest.approx(0.0265, abs=2e-4)
    assert found["ridge", 3].crps == pytest.approx(0.0205, abs=2e-4)
    assert found["nearest neighbours", 3].wape == pytest.approx(0.0296, abs=2e-4)
    assert found["last value", 3].wape == pytest.approx(0.4262, abs=2e-4)


def test_items_of_one_group_are_drawn_together() -> None:
    """As many copies of each item tell no more than one."""
    Y, X = toy(40, gaps=0.0)
    folds = np.arange(40) % 4
    copies = [np.tile(Y, (3, 1)), np.tile(X, (3, 1))]
    options: dict[str, Any] = {"known": (0, 2), "baselines": [MeanCurve()]}
    once = cross_validation(Fake(), Y, X, folds=folds, **options)
    thrice = cross_validation(Fake(), *copies, folds=np.tile(folds, 3), **options)
    for k in (0, 2):
        assert len(once.sums["statecast", k]) == len(thrice.sums["statecast", k]) == 40
        total = once.sums["statecast", k].sum(axis=0)
        assert total[-1] == once["statecast", k].values
        ends = [each.interval("statecast", k) for each in (once, thrice)]
        assert ends[0] == pytest.approx(ends[1], rel=1e-3)
