"""The layout: which subpackage may import which. The sources are read with ``ast``, not imported.

Every import counts: at the top of a module, inside a function, under ``TYPE_CHECKING``. The rules:

- a subpackage imports from those on lower levels and from itself, and not from another one on its
  level;
- imports among the modules of a subpackage are not circular;
- Keras, the backends and the packages of extras are imported only where ``HEAVY`` allows it, and
  those in ``NOT_AT_LOAD`` never when a module loads;
- an import names the module that defines a name: the ``__init__`` of a subpackage is for users.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import statecast

SOURCE = Path(statecast.__file__).parent
ROOT = Path(__file__).parents[1]

# From the lowest to the highest. A module that is in no subpackage is in "common".
LEVELS = (
    {"common"},
    {"recurrence", "data"},
    {"heads", "layers", "tables"},
    {"networks", "control"},
    {"forecast"},
    {"tokens"},
    {"evaluate", "plots"},
    {"distributed", "export", "report", "sessions"},
    {"playground"},
    {"server"},
    {"cli"},
)

# The one import that goes upward, within a function: that of the method `export` (decision 45).
UPWARD = {("forecast.base", "export.onnx")}

# The `__init__` of these is for users; their names are defined elsewhere.
RE_EXPORTING = set().union(*LEVELS) - {"data"}

# Where each heavy package may be imported: prefixes of module names.
_TRAINING = (
    "networks",
    "forecast.base",
    "forecast.companions",
    "forecast.forecaster",
    "tokens.network",
    "distributed.fitting",
)
HEAVY: dict[str, tuple[str, ...]] = {
    "keras": ("process", "recurrence.kernels", "heads", "layers", "control", *_TRAINING),
    "jax": ("process", "recurrence.kernels", "layers", "networks.training"),
    "jaxlib": (),
    "torch": ("process", "recurrence.kernels", "layers"),
    "tensorflow": ("process", "recurrence.kernels", "layers", "networks.training"),
    "sklearn": ("evaluate", "forecast.base"),
    "matplotlib": ("plots", "report.page", "cli"),
    "plotly": ("plots.interactive",),
    "pandas": ("export.mlflow",),
    "mlflow": ("export.mlflow",),
    "pyarrow": (
        "distributed",
        "tables.files",
        "tables.source",
        "tables.ids",
        "tables.id_types",
        "sessions.archive",
        "server.columns",
    ),
    "polars": (
        "tables",
        "data",
        "evaluate",
        "sessions",
        "cli",
        "forecast.forecaster",
        "tokens.forecaster",
    ),
    "narwhals": (
        "tables",
        "distributed.scoring",
        "forecast.explanation",
        "evaluate",
        "export.mlflow",
        "sessions",
        "server.inference",
        "server.invocations",
        "server.wire",
    ),
    "onnx": ("export",),
    "apsw": ("sessions.sqlite",),
    "redis": ("sessions.redis",),
    "ray": ("distributed",),
    "pyspark": ("distributed",),
    "py4j": ("distributed",),
    "fsspec": ("tables.files",),
    "anyio": ("server.application",),
    "prometheus_client": ("server.guard",),
    "starlette": ("server",),
    "orjson": ("server.wire",),
    "uvicorn": ("server.run", "server.connection"),
    "typer": ("cli",),
    "rich": ("progress",),
}
# Imported inside functions, so that loading a module costs nothing and needs no extra.
NOT_AT_LOAD = {
    "jax",
    "torch",
    "tensorflow",
    "sklearn",
    "matplotlib",
    "plotly",
    "mlflow",
    "pandas",
    "pyarrow",
    "polars",
    "rich",
    "onnx",
    "apsw",
    "redis",
    "ray",
    "pyspark",
    "py4j",
    "fsspec",
    "anyio",
    "prometheus_client",
    "starlette",
    "orjson",
    "uvicorn",
}


@dataclass(frozen=True)
class Import:
    """One import of ``target``, a dotted name, and whether it runs when the module loads."""

    line: int
    target: str
    at_load: bool


@cache  # the tests change one module at a time
def imports(source: str, module: str, *, package: bool = False) -> tuple[Import, ...]:
    """Every import in ``source``, the text of ``statecast.<module>``."""

    def visit(node: ast.AST, at_load: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name, at_load)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = f"statecast.{module}".split(".")
                up = here[: len(here) - node.level + package]
                base = ".".join([*up, base] if base else up)
            for alias in node.names:
                yield Import(node.lineno, f"{base}.{alias.name}", at_load)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            ("import_module", "__import__")
        ):
            for value in node.args[:1]:
                target = value.value if isinstance(value, ast.Constant) else "<computed>"
                yield Import(node.lineno, str(target), at_load)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            at_load = False
        guarded: list[ast.stmt] = []
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            guarded = node.body
        for child in ast.iter_child_nodes(node):
            yield from visit(child, at_load and child not in guarded)

    return tuple(visit(ast.parse(source), True))


def subpackage_of(module: str, modules: set[str]) -> str:
    """The subpackage of ``module``, or "common"."""
    top = module.split(".")[0]
    return top if any(each.startswith(f"{top}.") for each in modules) or _level(top) else "common"


def _level(subpackage: str) -> int | None:
    return next((i for i, level in enumerate(LEVELS) if subpackage in level), None)


def _within(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def _module_of(target: str, modules: set[str]) -> str | None:
    """The module that ``target``, dotted and without ``statecast.``, names or is a name in."""
    parts = target.split(".")
    for length in (len(parts), len(parts) - 1):
        name = ".".join(parts[:length])
        if name in modules:
            return name
    return None


def violations(sources: Mapping[str, str], inits: frozenset[str] = frozenset()) -> list[str]:
    """What is wrong with the imports of ``sources``, dotted module name to text.

    ``inits`` are the modules that are an ``__init__``.
    """
    wrong: list[str] = []
    modules = set(sources) | set(REAL)
    arrows: dict[str, set[str]] = {module: set() for module in sources}
    for module, text in sources.items():
        own = subpackage_of(module, modules)
        level = _level(own)
        if level is None:
            wrong.append(f"{module}: {own} is not in LEVELS; add it there")
            continue
        for found in imports(text, module, package=module in inits):
            where = f"{module}:{found.line}: imports {found.target}"
            if found.target == "<computed>":
                wrong.append(f"{where}: name the module, so that this test can read it")
            root, _, target = found.target.partition(".")
            if root in HEAVY and not _within(module, HEAVY[root]):
                wrong.append(f"{where}: {root} is not allowed here; see HEAVY")
            if root in NOT_AT_LOAD and found.at_load:
                wrong.append(f"{where}: {root} must be imported inside the function that uses it")
            if root != "statecast" or target == "__version__":
                continue
            defines = _module_of(target, modules)
            if defines is None or defines in RE_EXPORTING:
                wrong.append(f"{where}: import from the module that defines the name")
                continue
            other = subpackage_of(defines, modules)
            below = _level(other)
            if below is None:
                wrong.append(f"{where}: {other} is not in LEVELS; add it there")
            elif other == own:
                arrows[module].add(defines)
            elif below > level and (found.at_load or (module, defines) not in UPWARD):
                wrong.append(f"{where}: upward, from {own} to {other}")
            elif below == level:
                wrong.append(f"{where}: {own} and {other} are on one level")
    return wrong + [f"{' -> '.join(circle)}: a circle" for circle in circles(arrows)]


def circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """The circles of ``arrows``, one for each arrow that closes one."""
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found.append([*path[path.index(module) :], module])
        elif module not in done:
            for other in sorted(arrows.get(module, ())):
                visit(other, [*path, module])
            done.add(module)

    for module in sorted(arrows):
        visit(module, [])
    return found


def read() -> tuple[dict[str, str], frozenset[str]]:
    """The text of every module, and which modules are an ``__init__``."""
    sources, inits = {}, set()
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if parts == ("__init__",):
            continue  # the public names, loaded when they are first used
        if parts[-1] == "__init__":
            parts = parts[:-1]
            inits.add(".".join(parts))
        sources[".".join(parts)] = path.read_text(encoding="utf-8")
    return sources, frozenset(inits)


REAL, INITS = read()


def test_imports_go_downward() -> None:
    assert len(REAL) > 30, "the sources were not found"
    assert violations(REAL, INITS) == []


@pytest.mark.parametrize(
    ("module", "text", "reason"),
    [
        # the five that an earlier test of four pairs let pass
        ("tables.parse", "from statecast.tables.schema import Schema", "circle"),
        ("layers.current", "from statecast.control.models import get_state", "upward"),
        ("recurrence.cells", "from statecast.tables.targets import Target", "upward"),
        ("evaluate.tokens", "from statecast.cli.commands import app", "upward"),
        ("networks.network", "from statecast.evaluate.tokens import token_scores", "upward"),
        # every place where an import can stand
        ("state", "def f():\n    from statecast.layers import recurrent", "upward"),
        ("state", "from .layers import recurrent", "upward"),
        ("recurrence.kernels.loop", "from ...heads.special import erf", "upward"),
        ("recurrence.cells", "if TYPE_CHECKING:\n    import statecast.heads.special", "upward"),
        ("heads.special", "import importlib\nimportlib.import_module(name)", "name the module"),
        ("recurrence.problem", "from statecast.recurrence.run import run", "circle"),
        ("errors", "from statecast.files import write_whole", "circle"),
        ("tables.dates", "from statecast.layers.current import within", "on one level"),
        ("evaluate.tokens", "def f():\n    from statecast.plots.charts import fan", "on one level"),
        ("tables.schema", "def f():\n    import keras", "not allowed here"),
        ("state", "if TYPE_CHECKING:\n    import jax.numpy as jnp", "not allowed here"),
        ("forecast.analogues", "def f():\n    import sklearn", "not allowed here"),
        ("plots.fans", "import matplotlib.pyplot as plt", "inside the function"),
        ("tables.source", "import pyarrow", "inside the function"),
        ("export.graph", "import onnx", "inside the function"),
        ("sessions.sqlite", "import apsw", "inside the function"),
        ("sessions.writer", "def f():\n    import apsw", "not allowed here"),
        ("sessions.writer", "from statecast.server.wire import Limits", "upward"),
        ("server.run", "import uvicorn", "inside the function"),
        ("forecast.base", "from statecast.export.onnx import write", "upward"),
        ("forecast.base", "def f():\n    from statecast.export.graph import Graph", "upward"),
        ("tokens.engine", "def f():\n    from statecast.export.onnx import write", "upward"),
        ("cli.commands", "from statecast import Forecaster", "defines the name"),
        ("cli.commands", "from statecast.layers import LSTM", "defines the name"),
        ("cli.commands", "import statecast", "defines the name"),
        ("novelty.first", "", "not in LEVELS"),
    ],
)
def test_a_planted_fault_is_found(module: str, text: str, reason: str) -> None:
    planted = REAL | {module: f"{REAL.get(module, '')}\n{text}"}
    found = violations(planted, INITS)
    assert found
    assert all(reason in each for each in found)


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (
            "recurrence.run",
            "if TYPE_CHECKING:\n    from statecast.recurrence.problem import Problem",
        ),
        ("recurrence.run", "from .kernels import fused"),
        ("heads.special", "import importlib\nimportlib.import_module('statecast.errors.x')"),
        ("forecast.forecaster", "from statecast.networks.training import train"),
        ("evaluate.baselines", "def f():\n    import sklearn"),
        ("plots.fans", "if TYPE_CHECKING:\n    from matplotlib.axes import Axes"),
        ("cli.commands", "from statecast import __version__\nfrom statecast.data import growth"),
    ],
)
def test_an_import_downward_is_fine(module: str, text: str) -> None:
    assert violations(REAL | {module: f"{REAL[module]}\n{text}"}, INITS) == []


def test_the_drawing_is_the_layout() -> None:
    """The drawing in ``ARCHITECTURE.md`` has the levels of ``LEVELS``."""
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    drawing = re.search(r"```text\n(.*?)```", page, re.S)
    assert drawing is not None
    drawn = [set(line.split()[1:]) for line in drawing[1].splitlines()[::-1]]
    assert drawn == list(LEVELS)
    assert set().union(*LEVELS) == {subpackage_of(module, set(REAL)) for module in REAL}


def test_the_table_has_a_row_for_each_module() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w/]+)` \|", page, re.M)
    modules = {module.replace(".", "/") for module in REAL if module not in INITS} | {"data"}
    assert sorted(rows) == sorted(modules - {"cli/__main__"})
