"""The house: imports go downward only. Read with ``ast``, so nothing is imported here.

Every import counts, wherever it stands: at the top of a module, inside a function, under
``TYPE_CHECKING``. The rules:

- a module imports from the floors below its own; on floors 0 to 3 also from its own, but
  within the forecaster's floor only in the order of ``FORECASTER``;
- modules on one floor from 4 up never import each other;
- ``errors``, ``files``, ``state``, ``table`` and ``data`` never see Keras or a backend;
- ``table`` is seen only where tables and networks meet: by ``training``, ``tokens``,
  ``forecaster`` and above;
- what an extra installs is imported where it is used, never at the top of a module.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import statecast

SOURCE = Path(statecast.__file__).parent

FLOORS = (
    {"errors", "files", "state", "interrupt", "progress"},
    {
        "cells",
        "process",
        "recurrence",
        "kernels",
        "special",
        "vocabulary",
        "dates",
        "reading",
        "horizon",
        "scaling",
        "table",
        "targets",
        "data",
    },
    {"current", "layers", "heads", "control", "analogues", "endings", "decoding", "ngrams"},
    {"network", "language", "stacking", "training", "explanation", "tokens", "forecaster", "bits"},
    {"sessions", "evaluate", "plots", "distributed"},
    {"cli", "server"},
)
PEERS_APART = 4  # from this floor up, modules on one floor never import each other
# Each may import those before it.
FORECASTER = ("network", "language", "stacking", "training", "explanation", "tokens", "forecaster")
BACKENDS = {"keras", "jax", "jaxlib", "torch", "tensorflow"}
NO_KERAS = {
    "errors",
    "files",
    "state",
    "dates",
    "interrupt",
    "progress",
    "reading",
    "scaling",
    "table",
    "targets",
    "data",
    "analogues",
    "stacking",
}
NO_KERAS |= {"vocabulary", "decoding", "ngrams", "bits"}
NO_TABLE = {"cells", "recurrence", "kernels", "current", "layers", "heads", "control", "network"}
NO_TABLE |= {"analogues", "stacking", "language", "decoding", "ngrams"}
EXTRAS = {"torch", "tensorflow", "sklearn", "matplotlib", "pandas", "pyarrow"}


@dataclass(frozen=True)
class Import:
    """One import of ``target``, a dotted name, and whether it runs when the module loads."""

    line: int
    target: str
    at_load: bool


def imports(source: str, module: str, *, package: bool = False) -> Iterator[Import]:
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

    yield from visit(ast.parse(source), True)


def floor_of(name: str) -> int | None:
    return next((i for i, floor in enumerate(FLOORS) if name in floor), None)


def violations(sources: Mapping[str, str], packages: frozenset[str] = frozenset()) -> list[str]:
    """What is wrong with the imports of ``sources``, dotted module name to text."""
    wrong: list[str] = []
    for module, text in sources.items():
        own = module.split(".")[0]
        floor = floor_of(own)
        if floor is None:
            wrong.append(f"{module}: has no floor; give it one in FLOORS (and in ARCHITECTURE)")
            continue
        for found in imports(text, module, package=module in packages):
            where = f"{module}:{found.line}: imports {found.target}"
            parts = found.target.split(".")
            if found.target == "<computed>":
                wrong.append(f"{where}: name the module, so that this test can read it")
            if parts[0] in BACKENDS and own in NO_KERAS:
                wrong.append(f"{where}: {own} never sees Keras or a backend")
            if parts[0] in EXTRAS and found.at_load:
                wrong.append(f"{where}: an extra is imported where it is used")
            if parts[0] != "statecast" or found.target == "statecast.__version__":
                continue
            target = parts[1] if len(parts) > 1 else ""
            below = floor_of(target)
            if below is None:
                wrong.append(f"{where}: import from the module where the name lives")
            elif target == own:
                continue
            elif below > floor:
                wrong.append(f"{where}: upward, from floor {floor} to {below}")
            elif below == floor >= PEERS_APART:
                wrong.append(f"{where}: peers on floor {floor} never import each other")
            elif {own, target} <= set(FORECASTER) and (
                FORECASTER.index(target) > FORECASTER.index(own)
            ):
                wrong.append(f"{where}: within the floor only {' < '.join(FORECASTER)}")
            elif target in ("reading", "table") and own in NO_TABLE:
                wrong.append(f"{where}: {own} never sees tables")
    return wrong


def test_imports_go_downward() -> None:
    sources, packages = {}, set()
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if parts == ("__init__",):
            continue  # the public names, lazily: it stands outside the house
        if parts[-1] == "__init__":
            parts = parts[:-1]
            packages.add(".".join(parts))
        sources[".".join(parts)] = path.read_text(encoding="utf-8")
    assert len(sources) > 5, "the sources were not found"
    assert violations(sources, frozenset(packages)) == []


@pytest.mark.parametrize(
    ("module", "text", "reason"),
    [
        ("table", "import statecast.forecaster", "upward"),
        ("table", "from statecast.forecaster import Forecaster", "upward"),
        ("state", "def f():\n    from statecast import layers", "upward"),
        ("state", "from . import layers", "upward"),
        ("kernels.loop", "from ..heads import Normal", "upward"),
        ("kernels.loop", "if TYPE_CHECKING:\n    from statecast.heads import Head", "upward"),
        ("heads", "import importlib\nimportlib.import_module('statecast.cli')", "upward"),
        ("heads", "import importlib\nimportlib.import_module(name)", "name the module"),
        ("evaluate", "def f():\n    from statecast.plots import fan", "peers"),
        ("cli", "from statecast import server", "peers"),
        ("network", "from statecast.training import train", "within the floor"),
        ("layers", "from statecast.table import Panel", "never sees tables"),
        ("table", "def f():\n    import keras", "never sees Keras"),
        ("state", "if TYPE_CHECKING:\n    import jax.numpy as jnp", "never sees Keras"),
        ("plots", "import matplotlib.pyplot as plt", "where it is used"),
        ("cli", "from statecast import Forecaster", "where the name lives"),
        ("cli", "import statecast", "where the name lives"),
        ("novelty", "", "has no floor"),
    ],
)
def test_a_planted_violation_is_found(module: str, text: str, reason: str) -> None:
    found = violations({module: text})
    assert len(found) == 1
    assert reason in found[0]


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("kernels.loop", "if TYPE_CHECKING:\n    from statecast.recurrence import Problem"),
        ("kernels.loop", "from . import fused"),
        ("forecaster", "from statecast.training import train\nfrom statecast import table"),
        ("evaluate", "def f():\n    import sklearn"),
        ("plots", "if TYPE_CHECKING:\n    from matplotlib.axes import Axes"),
        ("cli", "from statecast import __version__\nfrom statecast.files import write_whole"),
    ],
)
def test_an_import_downward_is_fine(module: str, text: str) -> None:
    assert violations({module: text}) == []
