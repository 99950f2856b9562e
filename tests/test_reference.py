"""Every public name is on a page of docs/api, and its docstring has an example.

The public names are those that ``tests/test_public_names.py`` pins, and the ``__all__`` of the
public subpackages. ``make check`` runs the examples.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import statecast
from test_public_names import MODULES, NAMES

API = Path(__file__).parents[1] / "docs" / "api"
SUBPACKAGES = ["distributed", "export.mlflow", "playground", "report", "server", "sessions"]
DIRECTIVE = re.compile(r"^\.\. auto(module|class|function|exception):: (\S+)", re.MULTILINE)


def found(path: str) -> Any:
    """The object of a dotted path, such as ``statecast.heads.Normal``."""
    name, *rest = path.split(".")
    thing: Any = importlib.import_module(name)
    for each in rest:
        name += f".{each}"
        # A function may have the name of its module, so the attribute comes first.
        thing = getattr(thing, each) if hasattr(thing, each) else importlib.import_module(name)
    return thing


def public() -> dict[str, Any]:
    """The public classes and functions, by a path at which users find them."""
    names = {name: getattr(statecast, name) for name in NAMES if not name.startswith("_")}
    modules = {name: thing for name, thing in names.items() if inspect.ismodule(thing)}
    for name in SUBPACKAGES:
        modules[name] = importlib.import_module(f"statecast.{name}")
    for name, module in modules.items():
        members = MODULES.get(name, getattr(module, "__all__", ()))
        names |= {f"{name}.{member}": getattr(module, member) for member in members}
    return {name: thing for name, thing in names.items() if not inspect.ismodule(thing)}


def documented(text: str) -> list[Any]:
    """The objects that the autodoc directives of a text document."""
    things: list[Any] = []
    for kind, path in DIRECTIVE.findall(text):
        thing = found(path)
        things.append(thing)
        if kind == "module":
            own = [
                name
                for name, value in vars(thing).items()
                if not name.startswith("_") and getattr(value, "__module__", None) == path
            ]
            things += [getattr(thing, name) for name in getattr(thing, "__all__", own)]
    return things


PUBLIC = public()


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_has_an_example(name: str) -> None:
    assert has_example(PUBLIC[name]), f"{name}: add an example to its docstring, with >>>"


def has_example(thing: Any) -> bool:
    return ">>> " in (thing.__doc__ or "")


# The examples of these are not run: they need a server, a cluster, or processes of their own.
NOT_RUN = {
    "distributed.fit",
    "distributed.forecast",
    "export.mlflow.log_model",
    "server.serve",
    "sessions.RedisStore",
}


def test_examples_that_do_not_run_are_few() -> None:
    found = {name for name, thing in PUBLIC.items() if "doctest: +SKIP" in (thing.__doc__ or "")}
    assert found == NOT_RUN


def test_every_public_name_is_in_the_reference() -> None:
    pages = [thing for page in API.glob("*.md") for thing in documented(page.read_text("utf-8"))]
    missing = [name for name, thing in PUBLIC.items() if not any(thing is each for each in pages)]
    assert not missing, f"not on a page of docs/api: {missing}"


def test_every_page_is_in_the_table_of_the_reference() -> None:
    index = (API / "index.md").read_text("utf-8")
    for page in API.glob("[!i]*.md"):
        assert f"({page.name})" in index, page.name


def test_a_name_without_an_example_or_a_page_is_found() -> None:
    def bare() -> None:
        """Do nothing."""

    assert not has_example(bare)
    things = documented(".. autoclass:: statecast.State\n.. automodule:: statecast.plots\n")
    assert any(thing is statecast.State for thing in things)
    assert any(thing is statecast.plots.fan for thing in things)
    assert not any(thing is statecast.Forecaster for thing in things)
