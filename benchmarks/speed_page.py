"""The results of ``benchmarks/speed.py``: the file ``docs/speed.csv``, and its page."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from speed_rows import BACKENDS, DENSE, IDLE, PRODUCTS, SHAPES, Times

from statecast.files import write_whole

FASTEST = "Keras on its fastest backend"
NUMBERS = ("median", "low", "high", "ratio", "ratio_low", "ratio_high")
Machine = tuple[str, str]  # processor, instruction set


@dataclass(frozen=True)
class Section:
    """Rows that one function measures, in a process for each backend.

    ``measure(row, seconds)`` returns the times of each side; the others are compared with the
    first one. ``seconds`` are those of a row, and ``start`` those of a process before and
    between its rows, about.
    """

    title: str
    about: str
    rows: Sequence[str]
    measure: Callable[[str, float], Times]
    backends: Sequence[str]
    head: str = "batch, steps, inputs, units"
    unit: str = "ms"
    seconds: float = 2.0
    start: float = 6.0
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    """What one side of a row took on a machine: the median, and its quartiles ``low, high``.

    ``ratio`` is its time divided by that of the side ``against``: the median over the turns, and
    its quartiles. ``None`` was not kept, as in the figures of earlier pages.
    """

    processor: str
    instructions: str
    date: str
    section: str
    row: str
    backend: str
    side: str
    unit: str
    median: float | None = None
    low: float | None = None
    high: float | None = None
    against: str = ""
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    packages: str = ""

    @property
    def machine(self) -> Machine:
        return self.processor, self.instructions

    @property
    def across(self) -> bool:
        """Whether it compares processes, and so is computed from other lines."""
        return self.side == FASTEST or (self.side.startswith("Statecast") and self.against != "")

    def of(self, times: Times) -> list[Line]:
        """Return the lines of all sides of a row; this one has what they share."""
        found, (first, own) = [], next(iter(times.items()))
        for side, values in times.items():
            low, median, high = np.percentile(values, [25, 50, 75])
            line = replace(self, side=side, median=median, low=low, high=high)
            if side != first:
                low, ratio, high = np.percentile(np.divide(values, own), [25, 50, 75])
                line = replace(line, against=first, ratio=ratio, ratio_low=low, ratio_high=high)
            found.append(line)
        return found


class Results:
    """The lines of a file. It is written whole whenever a row ends."""

    def __init__(self, path: Path, sections: Mapping[str, Section]) -> None:
        self.path = path
        self._order = {
            (name, row): (i, j)
            for i, (name, section) in enumerate(sections.items())
            for j, row in enumerate(section.rows)
        }
        self.lines: list[Line] = []
        if path.exists():
            for line in csv.DictReader(io.StringIO(path.read_text("utf-8"))):
                given: dict[str, Any] = dict(line)
                given |= {name: float(line[name]) if line[name] else None for name in NUMBERS}
                self.lines.append(Line(**given))

    @property
    def machines(self) -> list[Machine]:
        return sorted({line.machine for line in self.lines})

    def find(self, machine: Machine, section: str, row: str) -> list[Line]:
        return [
            line for line in self.lines
            if (line.machine, line.section, line.row) == (machine, section, row)
        ]  # fmt: skip

    def put(self, lines: Sequence[Line]) -> None:
        """Replace a row that a process measured, and save the file."""
        first = lines[0]
        row = self.find(first.machine, first.section, first.row)
        gone = [line for line in row if line.across or line.backend == first.backend]
        self.lines = [line for line in self.lines if line not in gone] + list(lines)
        self.lines += self._across(self.find(first.machine, first.section, first.row))
        self.lines.sort(
            key=lambda line: (line.machine, self._order.get((line.section, line.row), (99, 0)))
        )
        text = io.StringIO()
        writer = csv.DictWriter(text, [each.name for each in fields(Line)], lineterminator="\n")
        writer.writeheader()
        for line in self.lines:
            numbers = {name: getattr(line, name) for name in NUMBERS}
            short = {n: "" if v is None else f"{v:.5g}" for n, v in numbers.items()}
            writer.writerow(asdict(line) | short)
        write_whole(self.path, text.getvalue().encode())

    @staticmethod
    def _across(row: Sequence[Line]) -> list[Line]:
        """The comparisons of a row across backends, once all of them are measured."""
        found = {line.side: line for line in row}
        stock = [found.get(f"Keras on {name}") for name in BACKENDS.values()]
        if None in stock:
            return []
        best = min((line for line in stock if line), key=lambda line: line.median or np.inf)
        jax, torch = found["Statecast on JAX"], found["Statecast on PyTorch"]
        best = replace(best, side=FASTEST, ratio_low=None, ratio_high=None)
        pairs = [(best, jax), (best, torch), (torch, jax)]
        return [
            replace(line, against=other.side, ratio=(line.median or 0) / (other.median or np.inf))
            for line, other in pairs
        ]


# -- the page ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """What to look up: a section, the rows that begin with ``row``, and a side of them.

    It is a ratio if it has ``against``, and a median otherwise. Without a side it is the least
    ratio of all sides: that of the fastest peer.
    """

    words: str
    section: str
    row: str = ""
    side: str = ""
    against: str = "Statecast"
    asked: float = 0.0
    most: bool = False  # whether `asked` is an upper limit

    def takes(self, side: str) -> bool:
        return side == self.side if self.side else side not in (PRODUCTS, IDLE, DENSE)

    def find(self, results: Results, machine: Machine) -> list[Line]:
        rows: dict[str, list[Line]] = {}
        for line in results.lines:
            wanted = line.machine == machine and line.section == self.section
            if wanted and line.row.startswith(self.row) and line.against == self.against:
                rows.setdefault(line.row, []).append(line)
        found = [[line for line in row if self.takes(line.side)] for row in rows.values()]
        return [min(row, key=value) for row in found if row]


def value(line: Line) -> float:
    found = line.ratio if line.against else line.median
    assert found is not None
    return found


LSTM, TORCH, JAX = "`nn.LSTM`", "Statecast on PyTorch", "Statecast on JAX"
SUMMARY = [
    Figure("An LSTM, forward and backward in PyTorch; `nn.LSTM`", "operation", "LSTM", LSTM),
    Figure("A GRU, forward and backward in PyTorch; `nn.GRU`", "operation", "GRU", "`nn.GRU`"),
    *(Figure(f"{words} in bfloat16, forward and backward; the same in float32", "bfloat16", kind,
             "in float32") for words, kind in (("An LSTM", "LSTM"), ("A GRU", "GRU"))),
    Figure("A Keras layer as called on PyTorch, forward and backward; `nn.LSTM`", "layer",
           side=LSTM),
    Figure("Value and gradient in JAX; a `lax.scan`", "jax", side="`lax.scan`"),
    Figure("`fit` of a Keras model on JAX; stock Keras on its fastest backend", "fit",
           side=FASTEST, against=JAX),
    Figure("`fit` of a Keras model on PyTorch; stock Keras on its fastest backend", "fit",
           side=FASTEST, against=TORCH),
    Figure("`fit` of a Keras model on PyTorch; stock Keras on PyTorch", "fit",
           side="Keras on PyTorch", against=TORCH),
    Figure("Inference of whole sequences; the fastest of `nn.LSTM`, ONNX Runtime, OpenVINO",
           "inference"),
    Figure("A closed-loop forecast; a jitted scan of JAX", "decoding", side="`jax.jit` of a scan"),
    Figure("A training step of the forecaster; the network on `nn.LSTM`", "forecaster",
           side="network on `nn.LSTM`"),
    Figure("The same with two layers; the network on `nn.LSTM`", "layers",
           side="network on `nn.LSTM`"),
    *(Figure(f"The {which} fit of 71 children in a process, on JAX", "growth", f"{which} fit", JAX,
             against="") for which in ("first", "second")),
    Figure("30 epochs on 18,000 series of counts, on JAX", "items", side=JAX, against=""),
]  # fmt: skip
TARGETS = [
    Figure("Layer on PyTorch, forward and backward", "layer", "32, 30, 4, 32", LSTM, asked=2.0),
    Figure("The same", "layer", "256, 30, 4, 64", LSTM, asked=2.2),
    Figure("`fit` on PyTorch; stock Keras on PyTorch", "fit", "32, 30, 4, 32",
           "Keras on PyTorch", TORCH, asked=3.0),
    Figure("`fit` on PyTorch, in times of `fit` on JAX", "fit", "32, 30, 4, 32", TORCH, JAX,
           asked=1.3, most=True),
    *(Figure(f"The {which} fit of growth in a process, on {name}", "growth", f"{which} fit",
             f"Statecast on {name}", "", asked=seconds, most=True)
      for name in BACKENDS.values() for which, seconds in (("first", 3.0), ("second", 1.5))),
    Figure("18,000 series of counts with future covariates", "items", "30 epochs", JAX, "",
           asked=103, most=True),
    Figure("Inference; the fastest of the peers", "inference", "256, 30, 4, 128", asked=1.3),
    Figure("The same", "inference", "64, 100, 8, 256", asked=1.3),
    *(Figure("In bfloat16; the same in float32 (3x with AMX)", "bfloat16", row, "in float32",
             asked=1.6)
      for kind in ("LSTM", "GRU")
      for row in (f"{kind} {shape}" for shape in SHAPES if int(shape.split()[-1]) >= 128)),
    Figure("Closed loop; a jitted scan of JAX", "decoding", "4096, 27, 64", "`jax.jit` of a scan",
           asked=1.8),
]  # fmt: skip


SUMMARY_TEXT = """\
# Speed

*For those who ask how fast it is, and beside what.*

Each line compares Statecast with the peer after the semicolon. *2x* means that the peer takes twice
as long. The range is that of the sizes that were measured. Lines without a peer are CPU times.
""".splitlines()
TARGETS_TEXT = """\
## What was asked

The targets of the work on speed, and what was measured. A row is repeated by its section and name:
`python benchmarks/speed.py --section layer --row '32, 30, 4, 32'`.
""".splitlines()
METHOD_TEXT = """\
Some rows have sides that no peer can do without: the matrix products of the recurrence alone, a
Keras layer that computes nothing, a model without its LSTM. A side at 0.7x takes 0.7 times as long
as Statecast does with everything. So `fit` on PyTorch cannot come within 1.3 times of JAX at 32
rows and 32 units: a batch of a model without the LSTM takes 1.1 to 2.2 ms there, and the whole
model 0.33 to 0.54 ms on JAX.

In bfloat16 the products take half the time on a processor with AVX512-BF16; functions, memory and
what surrounds the kernel take as long as in float32. So the gain is larger the more units there are
([decision 66](decisions/0066-products-in-bfloat16.md)). The processor with AMX was not at hand when
this was built. On TensorFlow the kernel does not run
([decision 65](decisions/0065-no-operation-of-our-own-in-tensorflow.md)). On a GPU the backend's
recurrence (cuDNN) runs, not this kernel; no GPU was available.

## How it was measured

By `benchmarks/speed.py`, in at most ten minutes, on two threads. Within a row the sides take turns
in one process: a turn is a rest of 20 ms, one call that is not counted, and then calls for 5 ms. In
the rest the threads of the side before go to sleep. A call of more than 0.1 s is counted at once. A
ratio is the median over the turns, with its quartiles in brackets; a time is a median with its
quartiles. Figures without brackets were measured once, compare two processes, or come from earlier
pages, which had no quartiles. *–* was not measured or not kept. All
figures are in `docs/speed.csv`.

""".splitlines()


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["", *("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines), ""]


def amount(number: float, unit: str) -> str:
    """A ratio if there is no unit; a time in at least three digits."""
    if not unit:
        return f"{number:.2f}x" if number < 10 else f"{number:.0f}x"
    if unit.startswith("ms") and number < 0.1:
        return f"{1e3 * number:.3g} µs{unit[2:]}"
    return f"{number:.{max(0, 2 - int(np.floor(np.log10(number))))}f} {unit}"


def cell(line: Line) -> str:
    """A figure with its quartiles: a ratio, or a time where nothing is compared."""
    low, high, unit = line.low, line.high, line.unit
    if line.against:
        low, high, unit = line.ratio_low, line.ratio_high, ""
    text = amount(value(line), unit)
    if low is not None and high is not None and low < high:
        text += (
            f" ({amount(low, unit).partition(' ')[0]} to {amount(high, unit).partition(' ')[0]})"
        )
    return text


def summary_cell(lines: Sequence[Line]) -> str:
    if not lines:
        return "not measured"
    unit = "" if lines[0].against else lines[0].unit
    ends = [amount(end(map(value, lines)), unit) for end in (min, max)]
    return " to ".join(dict.fromkeys(ends))


def target_cell(target: Figure, lines: Sequence[Line]) -> str:
    if not lines:
        return "not measured"
    met = value(lines[0]) <= target.asked if target.most else value(lines[0]) >= target.asked
    return f"{cell(lines[0])}, {'met' if met else '**missed**'}"


def asked(target: Figure) -> str:
    unit = "x" if target.against else " s of CPU"
    return f"{'at most' if target.most else 'at least'} {target.asked:g}{unit}"


def section_rows(results: Results, name: str, section: Section) -> Iterable[list[str]]:
    for row in section.rows:
        found = [results.find(machine, name, row) for machine in results.machines]
        pairs = dict.fromkeys((line.side, line.against) for lines in found for line in lines)
        title = row
        for side, against in pairs or {("", ""): None}:
            label = f"{side}, against {against}" if against not in ("", "Statecast") else side
            cells = []
            for lines in found:
                hit = [line for line in lines if (line.side, line.against) == (side, against)]
                cells.append(cell(hit[0]) if hit else "–" if lines else "not measured")
            yield [title, label, *cells]
            title = ""


def page(results: Results, sections: Mapping[str, Section]) -> str:
    """Return ``docs/speed.md``."""
    machines = results.machines
    names = [", ".join(machine) for machine in machines]

    def machine_line(machine: Machine) -> str:
        own = [line for line in results.lines if line.machine == machine]
        dates = sorted({line.date for line in own})
        packages = sorted({each for line in own for each in line.packages.split(", ") if each})
        when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
        return f"- {', '.join(machine)}: {when}; {', '.join(packages)}."

    summary = [
        [figure.words, *(summary_cell(figure.find(results, each)) for each in machines)]
        for figure in SUMMARY
    ]
    targets = [
        [target.words, asked(target),
         *(target_cell(target, target.find(results, each)) for each in machines),
         f"{target.section}: {target.row}"]
        for target in TARGETS
    ]  # fmt: skip
    lines = [
        *SUMMARY_TEXT,
        *table(["compared", *names], summary),
        *TARGETS_TEXT,
        *table(["target", "asked", *names, "section and row"], targets),
        *METHOD_TEXT,
        *map(machine_line, machines),
        "",
    ]
    for name, section in sections.items():
        head = [section.head, "side", *names]
        lines += [f"## {section.title}", "", f"`--section {name}`. {section.about}".rstrip()]
        lines += table(head, section_rows(results, name, section))
    return "\n".join(lines)
