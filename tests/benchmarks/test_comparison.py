"""The statistics of ``benchmarks/comparison.py``."""

from __future__ import annotations

from pathlib import Path

import comparison
import numpy as np
import pytest
from comparison import OURS, Results, append, cliques, critical_difference, friedman, ranked_of

SIZE = 10.0


def write(
    path: Path,
    losses: dict[str, list[float]],
    name: str = "s",
    ks: tuple[int, ...] = (0,),
    seed: int = 0,
) -> None:
    """Append a fit of each method; the losses are those of the items."""
    for method, values in losses.items():
        rows = [(k, i, SIZE, 2.0, x, 1.0, 3.0, 1.0) for k in ks for i, x in enumerate(values)]
        append(path, (name, 0, seed, method), 2.0, rows)


def results(path: Path) -> Results:
    return Results(comparison.read(path))


def test_a_constant_ratio_has_an_interval_without_width(tmp_path: Path) -> None:
    """The bootstrap is paired: items vary tenfold, and the ratio is the same on every draw."""
    ours = np.geomspace(1, 10, 20).tolist()
    write(tmp_path / "r.csv", {OURS: ours, "b": [1.1 * x for x in ours]})
    found = results(tmp_path / "r.csv").cell("b", "s", 0)
    assert found is not None
    np.testing.assert_allclose([found.difference, found.low, found.high], 0.1, rtol=1e-6)
    assert found.crps == pytest.approx(1.1 * sum(ours) / (20 * SIZE))
    assert (found.wape, found.coverage, found.items) == (0.2, 1.0, 20)


def test_the_difference_is_on_the_items_of_both(tmp_path: Path) -> None:
    write(tmp_path / "r.csv", {OURS: [1.0, 3.0], "b": [2.0]})
    found = results(tmp_path / "r.csv")
    cell = found.cell("b", "s", 0)
    assert cell is not None
    assert (cell.difference, cell.items) == (1.0, 1)
    assert found.ranked == [OURS]  # the other one has not forecast all items


def test_seeds_are_averaged_and_a_later_row_replaces_an_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    for seed, loss in ((0, 7.0), (1, 3.0), (0, 1.0)):
        write(path, {OURS: [loss], "b": [4.0]}, seed=seed)
    cell = results(path).cell("b", "s", 0)
    assert cell is not None
    assert cell.difference == 1.0
    assert comparison.finished(path) == {("s", 0, seed, m) for seed in (0, 1) for m in (OURS, "b")}


def test_a_point_forecast_has_no_coverage(tmp_path: Path) -> None:
    append(tmp_path / "r.csv", ("s", 0, 0, OURS), 1.0, [(0, "a", 1.0, 1.0, 1.0, 0.0, 0.0, 1.0)])
    cell = results(tmp_path / "r.csv").cell(OURS, "s", 0)
    assert cell is not None
    assert cell.coverage is None


def test_average_ranks(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    write(path, {OURS: [1.0], "b": [2.0], "c": [2.0]}, "one", ks=(0, 1))
    write(path, {OURS: [3.0], "b": [2.0], "c": [1.0]}, "two")
    found = results(path)
    assert found.ranked == [OURS, "b", "c"]
    np.testing.assert_array_equal(found.ranks, [[1, 2.5, 2.5], [1, 2.5, 2.5], [3, 2, 1]])
    np.testing.assert_array_equal(found.ranks_of_sets, [[1, 2.5, 2.5], [3, 2, 1]])
    # Sets are drawn: every average rank is possible, from that of one set to that of the other.
    np.testing.assert_array_equal(found.rank_intervals(), [[1, 3], [2, 2.5], [1, 2.5]])


def test_equal_values_share_their_rank() -> None:
    np.testing.assert_array_equal(ranked_of([0.3, 0.1, 0.3, 0.2]), [3.5, 1, 3.5, 2])


def test_the_tests_of_demsar_s_example() -> None:
    """Demsar (2006), section 3.2.2: four methods on 14 data sets."""
    value, p = friedman([3.143, 2.000, 2.893, 1.964], 14)
    assert value == pytest.approx(3.69, abs=0.01)
    assert 0.01 < p < 0.05
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)


@pytest.mark.parametrize(("methods", "q"), [(2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)])
def test_the_critical_values_of_nemenyi(methods: int, q: float) -> None:
    """Demsar (2006), table 5."""
    blocks = 9
    expected = q * np.sqrt(methods * (methods + 1) / (6 * blocks))
    assert critical_difference(methods, blocks) == pytest.approx(expected, rel=1e-3)


def test_cliques() -> None:
    assert cliques([1.0, 1.5, 2.4, 4.0, 4.5], 1.0) == [(0, 1), (1, 2), (3, 4)]
    assert cliques([1.0, 3.0, 5.0], 1.0) == []
    assert cliques([1.0, 1.1, 1.2], 1.0) == [(0, 2)]


def test_the_page(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    write(path, {OURS: [1.0, 1.2], "ridge": [2.0, 2.2], "trees": [0.5, 0.6]}, "one", ks=(0, 1))
    write(path, {OURS: [1.0, 1.2], "ridge": [2.0, 2.2], "trees": [5.0, 6.0]}, "two")
    write(path, {f"{OURS}(units=8)": [1.4, 1.9]}, "two")
    comparison.write_page(path, {OURS: "o", "ridge": "r", "other": "t"}, tmp_path)
    page = (tmp_path / "accuracy.md").read_text()
    text = " ".join(page.split())
    assert "In 1 of 3 cells no other method has a lower CRPS than Statecast; in 0 more" in text
    assert "one at k = 0 (trees, -50.0 %), one at k = 1 (trees, -50.0 %)" in text
    assert "| Statecast(units=8) | .1650, +50.0 (+40.0 to +58.3) |" in page
    assert "- other: all sets." in page
    assert page.index("| ridge |") < page.index("accuracy.svg") < page.index("## one")
    assert (tmp_path / "accuracy.svg").stat().st_size > 1000
    assert (tmp_path / "accuracy-sets.svg").stat().st_size > 1000
