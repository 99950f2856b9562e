"""``benchmarks/speed.py``: the turns, the file of results, the page, and a run that goes on."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import pytest
import speed
import speed_page
import speed_rows
from speed import SECTIONS, Process, Run, planned
from speed_page import FASTEST, Line, Results, page
from speed_rows import LEAST, MOST, SHAPES, Side, turns

HERE = ("Some CPU, 2 CPUs", "avx2")
SHAPE = SHAPES[0]
TIMES = {"Statecast": [1.0, 2.0, 3.0], "`nn.LSTM`": [2.0, 3.0, 9.0]}


def line(section: str, row: str = SHAPE, backend: str = "torch", day: str = "2026-01-01") -> Line:
    return Line(*HERE, day, section, row, backend, "", SECTIONS[section].unit, packages="torch 2")


def results(path: Path) -> Results:
    return Results(path / "speed.csv", SECTIONS)


def row_of(text: str, *words: str) -> str:
    """The one line of a page's table with these words."""
    [found] = [row for row in text.splitlines() if all(f"| {word} |" in row for word in words)]
    return found


def test_the_sides_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [0.0], []

    def side(name: str, seconds: float) -> None:
        calls.append(name)
        now[0] += seconds

    monkeypatch.setattr(speed_rows.time, "perf_counter", lambda: now[0])
    sides = [Side("fast", lambda: side("fast", 0.002)), Side("slow", lambda: side("slow", 0.2), 4)]
    measure = turns(lambda row: sides, clock=lambda: now[0])
    found = measure("", 0.0)
    assert {name: len(times) for name, times in found.items()} == {"fast": LEAST, "slow": LEAST}
    assert found["fast"] == pytest.approx([2.0] * LEAST)
    assert found["slow"] == pytest.approx([50.0] * LEAST)  # milliseconds of one of four
    # Two calls each at first; in a turn one that is not counted, and 5 ms.
    turn = ["fast"] * 4 + ["slow"]
    assert calls == ["fast"] * 2 + ["slow"] * 2 + ["fast"] * 4 + ["slow"] * 2 + turn * (LEAST - 1)
    assert len(measure("", 1e9)["fast"]) == MOST


def test_a_row_has_medians_quartiles_and_the_ratios_of_turns() -> None:
    own, peer = line("layer").of(TIMES)
    assert (own.median, own.low, own.high, own.against, own.ratio) == (2.0, 1.5, 2.5, "", None)
    assert (peer.median, peer.against) == (3.0, "Statecast")
    assert (peer.ratio_low, peer.ratio, peer.ratio_high) == (1.75, 2.0, 2.5)  # of 2, 1.5, 3


def test_the_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = results(tmp_path)
    written.put(line("layer").of(TIMES))
    written.put(line("operation", f"LSTM {SHAPE}").of(TIMES))
    assert [each.section for each in written.lines] == ["operation"] * 2 + ["layer"] * 2
    assert results(tmp_path).lines == written.lines
    assert [path.name for path in tmp_path.iterdir()] == ["speed.csv"]


def test_a_row_replaces_that_of_its_machine(tmp_path: Path) -> None:
    found = results(tmp_path)
    found.put(line("layer").of(TIMES | {"a peer": [1.0, 1.0, 1.0]}))
    elsewhere = Line("Other CPU", "amx", "2026-01-01", "layer", SHAPE, "torch", "", "ms")
    found.put(elsewhere.of(TIMES))
    found.put(line("layer", SHAPES[1]).of(TIMES))
    found.put(line("layer", day="2026-01-02").of({"Statecast": [5.0], "`nn.LSTM`": [4.0]}))
    new = [(each.date, each.side, each.median) for each in found.find(HERE, "layer", SHAPE)]
    assert new == [("2026-01-02", "Statecast", 5.0), ("2026-01-02", "`nn.LSTM`", 4.0)]
    assert len(found.find(HERE, "layer", SHAPES[1])) == 2
    assert len(found.find(elsewhere.machine, "layer", SHAPE)) == 2


def fit(found: Results, backend: str, times: Mapping[str, float]) -> None:
    named = {f"{side} on {speed.BACKENDS[backend]}": [each] for side, each in times.items()}
    found.put(line("fit", backend=backend).of(named))


def test_backends_are_compared_once_all_are_measured(tmp_path: Path) -> None:
    def across() -> dict[tuple[str, str], float | None]:
        return {(each.side, each.against): each.ratio for each in found.lines if each.across}

    found = results(tmp_path)
    fit(found, "jax", {"Statecast": 1.0, "Keras": 2.0})
    fit(found, "torch", {"Statecast": 5.0, "Keras": 10.0})
    assert across() == {}
    fit(found, "tensorflow", {"Keras": 4.0})
    jax, torch = "Statecast on JAX", "Statecast on PyTorch"
    assert across() == {(FASTEST, jax): 2.0, (FASTEST, torch): 0.4, (torch, jax): 5.0}
    fit(found, "jax", {"Statecast": 2.0, "Keras": 6.0})
    assert across() == {(FASTEST, jax): 2.0, (FASTEST, torch): 0.8, (torch, jax): 2.5}
    assert len(found.lines) == 5 + 3


def test_the_page_has_the_summary_the_targets_and_every_row(tmp_path: Path) -> None:
    found = results(tmp_path)
    found.put(line("layer").of(TIMES))
    found.put(line("layer", SHAPES[1]).of({"Statecast": [1.0], "`nn.LSTM`": [1.5]}))
    found.put(line("growth", "first fit", "jax").of({"Statecast on JAX": [7.0]}))
    found.put(line("inference").of({"Statecast": [1.0], "a": [3.0], "b": [2.0]}))
    text = page(found, SECTIONS)
    assert "2.00x" not in row_of(text, "A GRU, forward and backward in PyTorch; `nn.GRU`")
    summary, targets, _ = text.split("\n## ", 2)
    assert "1.50x to 2.00x" in summary
    assert "| 2.00x |" in summary  # the fastest of the peers of an inference
    assert "2.00x (1.75x to 2.50x), met" in row_of(targets, f"layer: {SHAPE}")
    assert "1.50x, **missed**" in row_of(targets, f"layer: {SHAPES[1]}")
    first = row_of(targets, "The first fit of growth in a process, on JAX")
    assert "at most 3 s of CPU | 7.00 s of CPU, **missed**" in first
    assert "not measured" in row_of(targets, "The second fit of growth in a process, on JAX")
    for name, section in SECTIONS.items():
        part = text.partition(f"`--section {name}`")[2].partition("\n## ")[0]
        rows = [row.split(" | ")[0].strip("| ") for row in part.splitlines() if row[:2] == "| "]
        assert set(section.rows) <= set(rows)
    layer = text.partition("`--section layer`")[2].partition("\n## ")[0]
    assert row_of(layer, SHAPES[2]).endswith("| not measured |")


def test_a_side_that_another_machine_lacks_is_not_a_row_without_measurement(tmp_path: Path) -> None:
    found = results(tmp_path)
    found.put(line("layer").of(TIMES))
    other = Line("Other CPU", "amx", "2026-01-01", "layer", SHAPE, "torch", "", "ms")
    found.put(other.of({"Statecast": [1.0]}))
    layer = page(found, SECTIONS).partition("`--section layer`")[2].partition("\n## ")[0]
    assert row_of(layer, "`nn.LSTM`").split(" | ")[2:] == ["–", "2.00x (1.75x to 2.50x) |"]


def test_figures_of_the_pages_exist() -> None:
    for figure in [*speed_page.SUMMARY, *speed_page.TARGETS]:
        rows = SECTIONS[figure.section].rows
        assert any(row.startswith(figure.row) for row in rows), figure.words


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "machine", lambda: HERE)
    found, today = results(tmp_path), str(date.today())
    assert planned(found, ["layer"], [], again=False) == [Process("layer", "torch", [*SHAPES])]
    found.put(line("layer", SHAPES[0], day=today).of(TIMES))
    found.put(line("layer", SHAPES[1], day="2026-01-01").of(TIMES))
    assert planned(found, ["layer"], [], again=False)[0].rows == [*SHAPES[1:]]
    assert planned(found, ["layer"], [], again=True)[0].rows == [*SHAPES]
    assert planned(found, ["layer"], [SHAPES[0]], again=True)[0].rows == [SHAPES[0]]
    found.put(line("fit", backend="jax", day=today).of({"Statecast on JAX": [1.0]}))
    left = planned(found, ["fit"], [SHAPE], again=False)
    assert [process.backend for process in left] == ["torch", "tensorflow"]


CHILD = """
import json, os, sys
rows = sys.argv[sys.argv.index("--section") + 2:][1::2]
print("a line of a library")
for row, error in zip(rows, [None, "ValueError: bad"]):
    ended = {"row": row, "packages": "torch 2", "left_out": ["openvino"]}
    ended |= {"error": error} if error else {"times": {"Statecast": [1.0], "peer": [2.0]}}
    print(json.dumps(ended), flush=True)
sys.exit("out of luck in " + os.environ["KERAS_BACKEND"])
"""


def test_what_fails_is_named_and_the_rest_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    child = tmp_path / "child.py"
    child.write_text(CHILD)
    monkeypatch.setattr(speed, "__file__", str(child))
    monkeypatch.setattr(speed, "machine", lambda: HERE)
    monkeypatch.setattr(speed, "find_spec", lambda name: None if name == "tensorflow" else sys)
    found = results(tmp_path)
    run = Run(found, planned(found, ["layer", "fit"], [], again=False), minutes=1)
    run.all()
    kept = {(each.section, each.backend, each.row) for each in found.lines if not each.across}
    assert kept == {("layer", "torch", SHAPE), ("fit", "jax", SHAPE), ("fit", "torch", SHAPE)}
    assert results(tmp_path).lines == found.lines
    assert "not measured" in (tmp_path / "speed.md").read_text("utf-8")
    assert run.left_out == {"openvino", "tensorflow"}
    why = run.missing
    assert why[f"layer on PyTorch: {SHAPES[1]}"] == "ValueError: bad"
    assert why[f"fit on JAX: {SHAPES[2]}"] == "the process ended with 1: out of luck in jax"
    assert why[f"fit on TensorFlow: {SHAPE}"] == "not installed"
    assert len(why) == 4 * 3 + 5
    assert "Statecast 1 ms; peer 2.00x" in capsys.readouterr().out


def test_a_ratio_that_fell_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "machine", lambda: HERE)
    found = results(tmp_path)
    found.put(line("layer").of({"Statecast": [1.0], "a": [2.0], "b": [2.0]}))
    run, process = Run(found, [], minutes=1), Process("layer", "torch", [SHAPE])
    times = {"Statecast": [1.0], "a": [1.9], "b": [1.95], "new": [1.0]}
    run.save(process, {"row": SHAPE, "times": times, "packages": "", "left_out": []})
    assert run.lower == [f"layer: {SHAPE}: a 1.90x, was 2.00x on 2026-01-01"]
    assert [each.median for each in found.lines] == [1.0, 1.9, 1.95, 1.0]


def test_a_run_without_time_names_what_it_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "machine", lambda: HERE)
    run = Run(results(tmp_path), [Process("layer", "torch", [SHAPE])], minutes=0)
    run.all()
    why = {f"layer on PyTorch: {SHAPE}": "no time was left; run again to go on"}
    assert run.missing == why


def test_a_run_ends_within_its_time() -> None:
    processes = [Process("layer", "torch", [*SHAPES]), Process("call", "jax", ["a"])]
    starts = sum(process.section.start for process in processes)

    def pace(minutes: float) -> float:
        run = Run.__new__(Run)
        run.processes, run.until = processes, speed.time.monotonic() + 60 * minutes
        return run.pace(0)

    asked = 5 * SECTIONS["layer"].seconds + SECTIONS["call"].seconds
    assert pace(60) == 1.0
    assert pace((starts + asked / 2) / 60) == pytest.approx(0.5, abs=0.01)
    assert pace(0) == 0.0
    everything = [
        Process(name, backend, [*section.rows])
        for name, section in SECTIONS.items()
        for backend in section.backends
    ]
    assert sum(each.section.start for each in everything) < 6 * 60
