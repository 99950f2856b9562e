"""``benchmarks/accuracy.py``: data sets, folds and the table of methods."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import accuracy
import numpy as np
import peers
import polars as pl
import pytest
from accuracy import DataSet, Fold, Method, data_sets, method_of
from comparison import read

from statecast.evaluate.scores import LEVELS, score, score_of

ITEMS, STEPS = 40, 8


def write_set(folder: Path, *, seed: int = 0, later: float = 0.0, text: bool = False) -> Path:
    """A data set with gaps; ``later`` is added to the values after the longest prefix."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    x, kind = rng.normal(size=ITEMS).round(3), rng.choice(["NA", "b"], ITEMS)
    y = x[:, None] + rng.normal(size=(ITEMS, STEPS)).cumsum(axis=1)
    y[:, max(accuracy.KNOWN) :] += later
    ids, step = (axis.ravel() for axis in np.indices(y.shape))
    series = pl.DataFrame({"unique_id": ids, "ds": step + 1, "y": y.ravel()})
    if text:
        series = series.with_columns(y=pl.lit("word"))
    series.filter(rng.random(len(series)) > 0.1).write_csv(folder / "series.csv")
    static = pl.DataFrame({"unique_id": np.arange(ITEMS), "x": x, "kind": kind})
    static.write_csv(folder / "static.csv")
    static.select("unique_id", fold=np.arange(ITEMS) % 4).write_csv(folder / "folds.csv")
    return folder


def test_a_new_folder_is_found_by_its_name(tmp_path: Path) -> None:
    write_set(tmp_path / "new")
    write_set(tmp_path / "tokens", text=True)
    write_set(tmp_path / "without_folds")
    (tmp_path / "without_folds" / "folds.csv").unlink()
    assert data_sets([tmp_path, tmp_path / "nothing"]) == {"new": tmp_path / "new"}


def test_a_fold_has_the_items_of_the_others_in_training(tmp_path: Path) -> None:
    data = DataSet(write_set(tmp_path / "s"))
    assert data.numbers(None) == [0, 1, 2, 3]
    assert data.numbers([2, 9]) == [2]
    fold = Fold.of(data, 1)
    assert set(fold.test_static["unique_id"]) == set(range(1, ITEMS, 4))
    assert not set(fold.train["unique_id"]) & set(range(1, ITEMS, 4))
    assert fold.prefix(0).is_empty()
    assert fold.prefix(3)["ds"].max() == 3
    assert set(fold.test_static["kind"]) <= {"NA", "b"}  # "NA" is a text


def test_a_set_of_groups_has_folds_of_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_set(tmp_path / "grouped")
    (path / "folds.csv").unlink()
    static = pl.read_csv(path / "static.csv").with_columns(shop=pl.col("unique_id") % 12)
    static.write_csv(path / "static.csv")
    assert data_sets([tmp_path]) == {}
    monkeypatch.setitem(accuracy.GROUPED, "grouped", "shop")
    assert data_sets([tmp_path]) == {"grouped": path}
    data = DataSet(path)
    assert data.numbers(None) == [0, 1, 2, 3, 4]
    for number in data.numbers(None):
        fold = Fold.of(data, number)
        shops = {item % 12 for item in fold.test_static["unique_id"]}
        assert shops
        assert not shops & {item % 12 for item in fold.train_static["unique_id"]}
        assert "shop" not in fold.train_static.columns
    assert set(data.group.values()) == set(range(12))


@pytest.mark.parametrize("name", ["mean curve", "ridge", "nearest neighbours"])
def test_no_method_depends_on_later_values(tmp_path: Path, name: str) -> None:
    pair = [
        Fold.of(DataSet(write_set(tmp_path / str(later), later=later)), 0) for later in (0.0, 50.0)
    ]
    pair[1].train = pair[0].train  # the same training data, and other values to forecast
    first, second = (method_of(name).run(fold, 0)[0] for fold in pair)
    assert not np.array_equal(pair[0].truth, pair[1].truth, equal_nan=True)
    for k in accuracy.KNOWN:
        np.testing.assert_array_equal(first[k], second[k])


def test_a_peer_does_not_see_later_values(tmp_path: Path) -> None:
    fold = Fold.of(DataSet(write_set(tmp_path / "s")), 0)
    arrays, units = fold.arrays()
    longest = max(accuracy.KNOWN)
    assert np.isnan(arrays["y_test"][:, longest:]).all()
    np.testing.assert_array_equal(arrays["y_test"][:, :longest], fold.truth[:, :longest])
    assert arrays["y"].shape == (30, STEPS)
    assert arrays["numeric_test"].shape == arrays["codes_test"].shape == (10, 1)
    assert arrays["cards"].tolist() == [3]  # two categories, and 0 for others
    np.testing.assert_array_equal(units(arrays["y"]), arrays["y"])


def test_skewed_values_are_given_as_logarithms(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "s")
    table = pl.read_csv(folder / "series.csv").with_columns(y=pl.col("y").exp())
    table.write_csv(folder / "series.csv")
    fold = Fold.of(DataSet(folder), 0)
    arrays, units = fold.arrays()
    assert fold.logged
    known = np.nan_to_num(units(arrays["y"]))
    np.testing.assert_allclose(np.sort(known[known > 0]), np.sort(fold.train["y"]), rtol=1e-9)
    assert units(np.array(-3.0)) == 0


def test_the_sums_of_the_items_are_the_score(tmp_path: Path) -> None:
    fold = Fold.of(DataSet(write_set(tmp_path / "s")), 0)
    found, _ = method_of("ridge").run(fold, 0)
    rows = fold.score(found)
    for k in accuracy.KNOWN:
        total = np.array([row[2:] for row in rows if row[0] == k]).sum(axis=0)
        expected = score(fold.truth[:, k:], found[k])
        assert score_of(total).crps == pytest.approx(expected.crps, rel=1e-12)
        assert score_of(total).coverage == pytest.approx(expected.coverage)


def test_items_with_equal_features_are_one_row(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "s")
    table = pl.read_csv(folder / "static.csv")
    table = table.with_columns(x=pl.col("unique_id") // 8 * 8, kind=pl.lit("b"))
    table.write_csv(folder / "static.csv")  # five rows of features: classes of items
    assert len(set(DataSet(folder).group.values())) == ITEMS
    table.with_columns(x=pl.col("unique_id") % 35).write_csv(folder / "static.csv")
    group = DataSet(folder).group
    assert len(set(group.values())) == 35
    assert group[35] == group[0] == 0


def test_a_forecast_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    fold = Fold.of(DataSet(write_set(tmp_path / "s")), 0)
    with pytest.raises(ValueError, match="k = 1 is not finite"):
        fold.score({1: np.full((10, STEPS - 1, len(LEVELS)), np.nan)})


def test_the_name_of_other_settings() -> None:
    named: Any = method_of("Statecast(units=8, conditioning='both')").run
    assert named.keywords == {"units": 8, "conditioning": "both"}


@pytest.mark.parametrize(
    "name",
    ["nothing", "ridge(1)", "Statecast(8)", "Statecast(units=x)", "Statecast(", "__import__('os')"],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^methods: expected Statecast, .*; received "):
        method_of(name)


def test_another_method_is_one_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def zero(fold: Fold, seed: int) -> tuple[dict[int, np.ndarray], float]:
        calls.append(seed)
        count = len(fold.test_static)
        return {k: np.zeros((count, fold.steps - k, len(LEVELS))) for k in fold.known}, 1.5

    def run(*words: str) -> None:
        where = ["--folder", str(tmp_path / "sets"), "--results", str(tmp_path / "r.csv")]
        monkeypatch.setattr(sys, "argv", ["accuracy.py", *where, *words])
        accuracy.main()

    write_set(tmp_path / "sets" / "mine")
    monkeypatch.setattr(accuracy, "METHODS", {"zero": Method(zero, "the value 0")})
    run("--data", "mine", "--seeds", "4", "--folds", "0", "2")
    run("--data", "mine", "--seeds", "4")
    assert calls == [4] * 4  # a fit that was measured is not repeated
    run("--data", "mine", "--seeds", "4", "--again", "--folds", "3")
    assert calls == [4] * 5
    found = read(tmp_path / "r.csv")
    assert set(found["fold"]) == {0, 1, 2, 3}
    assert found["seconds"].to_list() == [1.5] * len(found)
    np.testing.assert_allclose(found["loss"], found["size"], rtol=1e-6)  # of the forecast 0
    with pytest.raises(SystemExit):
        run("--data", "yours")


@pytest.mark.parametrize("options", ["", ", static=False", ", calibrated=False"])
def test_the_forecaster_is_a_method(tmp_path: Path, options: str) -> None:
    fold = Fold.of(DataSet(write_set(tmp_path / "s")), 0)
    method = method_of(f"Statecast(units=4, ensemble=2, epochs=1{options})")
    found, _ = method.run(fold, 0)
    assert {row[0] for row in fold.score(found)} == set(accuracy.KNOWN)
    assert {k: values.shape for k, values in found.items()} == {
        k: (10, STEPS - k, len(LEVELS)) for k in accuracy.KNOWN
    }


def test_the_columns_of_the_panel_table() -> None:
    z = np.array([[1.0, np.nan, 3.0, 4.0, 5.0], [6.0, 7.0, 8.0, 9.0, 10.0]])
    mean = np.arange(5) / 10
    columns, last = peers.panel_rows(z, np.array([[0.5], [0.6]]), 3, mean)
    nan = np.nan
    gaps = [nan] * (peers.VALUES - 3)
    np.testing.assert_array_equal(
        columns,
        [
            [0.5, 3, 1, nan, 1, nan, 3, *gaps, 3, 3, 0, 0.3],
            [0.5, 3, 1, nan, 1, nan, 3, *gaps, 3, 4, 1, 0.4],
            [0.6, 8, 7, 6, 6, 7, 8, *gaps, 3, 3, 0, 0.3],
            [0.6, 8, 7, 6, 6, 7, 8, *gaps, 3, 4, 1, 0.4],
        ],
    )
    assert last.tolist() == [3, 3, 8, 8]
    other = z.copy()
    other[:, 3:] = 99
    np.testing.assert_array_equal(
        peers.panel_rows(other, np.zeros((2, 0)), 3, mean)[0], columns[:, 1:]
    )
    columns, last = peers.panel_rows(z, np.zeros((2, 0)), 0, mean)
    assert np.isnan(columns[:, : 3 + peers.VALUES]).all()
    assert not last.any()


@pytest.mark.parametrize("name", ["panel LightGBM", "panel LightGBM, less last"])
def test_panel_lightgbm_forecasts(tmp_path: Path, name: str) -> None:
    pytest.importorskip("lightgbm")
    fold = Fold.of(DataSet(write_set(tmp_path / "s")), 0)
    found, _ = method_of(name).run(fold, 0, python=sys.executable)
    for k, values in found.items():
        assert (np.diff(values, axis=-1) >= 0).all()
        assert score(fold.truth[:, k:], values).crps < 1.2
