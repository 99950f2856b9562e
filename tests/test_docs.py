"""Every code block of README.md, CONTRIBUTING.md and docs/ runs.

- ``python`` blocks of a file run in order and share their names;
- in ``console`` and ``bash`` blocks the lines that start with ``statecast`` run, and ``make``
  lines must name a target of the Makefile; other allowed lines are in ``UNTOUCHED``;
  ``statecast serve`` runs until the next such block, on a free port, which ``curl`` lines and
  ``python`` blocks reach as localhost:8000;
- ``{code-cell}`` blocks are those of pages that the site executes, where a cell that fails is an
  error: ``tests/test_site.py`` builds it. Such a page has no other code;
- ``text`` and ``mermaid`` blocks, and directives of the site such as ``{toctree}``, are not code. A
  block of any other kind, or without one, fails.

The blocks of a file run in a new folder with series.csv, static.csv and folds.csv of the growth
study. folds.csv has only two folds, as each takes a fit. Forecasters are small, unless a block sets
their size.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from served import Client, served
from statecast.forecast.forecaster import Forecaster
from statecast.sessions import Sessions

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARKS = {"keras_state.md": [pytest.mark.backends], "tuning.md": [pytest.mark.slow]}
NO_CODE = {"text", "mermaid", "{toctree}", "{include} ../CHANGELOG.md", "{eval-rst}"}
CELL = "{code-cell} python"
UNTOUCHED = ("git clone ", "cd ", "pip install ")  # set-up, which the tests cannot repeat
FENCE = re.compile(r"^( *)(`{3,})([^\n`]*)\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    kind: str
    code: str
    line: int


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a Markdown text; ``line`` is where the code begins."""
    found = []
    for match in FENCE.finditer(text):
        indent, _, kind, code = match.groups()
        code = re.sub(f"^{indent}", "", code, flags=re.MULTILINE)
        found.append(Block(kind.strip(), code, text[: match.start()].count("\n") + 2))
    return found


def is_executed(path: Path) -> bool:
    """Whether the site executes a page."""
    return f"```{CELL}\n" in path.read_text(encoding="utf-8")


def commands(block: Block) -> list[str]:
    """The commands of a shell block: of a console those after the prompt, else all lines."""
    lines = block.code.replace("\\\n", " ").splitlines()
    if block.kind == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    return [line for line in map(str.strip, lines) if line and not line.startswith("#")]


def make_targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z]+):(?!=)", makefile, re.MULTILINE))


class Served(ExitStack):
    """The server of a block, if it starts one. It ends with the next block of commands."""

    client: Client | None = None

    def start(self, words: list[str]) -> None:
        """Serve the model and the store of ``statecast serve MODEL --store STORE``."""
        _, _, model, option, store = words
        assert option == "--store"
        sessions = self.enter_context(Sessions(Forecaster.load(model), store))
        self.client = self.enter_context(served(sessions))

    def close(self) -> None:
        """Stop the server."""
        super().close()
        self.client = None

    def reached(self, code: str) -> str:
        """Code that asks localhost:8000, with the port of the server."""
        port = 8000 if self.client is None else self.client.port
        return code.replace("localhost:8000", f"localhost:{port}")

    def ask(self, words: list[str]) -> str | None:
        """Send the request of a ``curl`` line; what is wrong with its answer, or None."""
        options = {"-X": "", "-H": "", "-d": ""}
        rest, left = [], iter(words[1:])
        for word in left:
            if word in options:
                options[word] = next(left)
            else:
                rest.append(word)
        (url,) = rest
        host, path = url[: url.index("/")], url[url.index("/") :]
        if self.client is None or host != "localhost:8000":
            return "expected a server at localhost:8000"
        data = options["-d"].encode() or None
        name, _, value = options["-H"].partition(": ")
        method = options["-X"] or ("GET" if data is None else "POST")
        found = self.client.ask(method, path, data, **({name: value} if name else {}))
        return None if found.status < 300 else found.data.decode()


def run_command(command: str, servers: Served) -> str | None:
    """Run one line of a shell block; what is wrong with it, or None."""
    if command.startswith(UNTOUCHED):
        return None
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        unknown = {word for word in words[1:] if "=" not in word} - make_targets()
        return f"no such target: {unknown}" if unknown else None
    if words[0] == "curl":
        return servers.ask(words)
    if words[:2] == ["statecast", "serve"]:
        servers.start(words)
        return None
    if words[0] == "statecast":
        from statecast.cli.commands import app

        result = CliRunner().invoke(app, words[1:])
        return result.output + repr(result.exception) if result.exit_code else None
    return "not a command that this test knows how to run"


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            path,
            id=str(path.relative_to(ROOT)),
            marks=MARKS.get(path.name, []),
        )
        for path in FILES
        if not is_executed(path)
    ],
)
def test_every_block_runs(
    path: Path, growth_folder: Path, monkeypatch: pytest.MonkeyPatch, small: dict[str, int]
) -> None:
    monkeypatch.chdir(growth_folder)
    pl.read_csv("folds.csv").with_columns(pl.col("fold") % 2).write_csv("folds.csv")
    later = pl.read_csv("series.csv").filter(pl.col("ds") == 31).with_columns(ds=32)
    later.write_csv("new_rows.csv")
    names: dict[str, object] = {"__name__": "__main__"}
    with Served() as servers:
        for block in blocks(path.read_text(encoding="utf-8")):
            where = f"{path.relative_to(ROOT)}:{block.line}"
            if block.kind == "python":
                # Padded with empty lines, so that a traceback names the line in the document.
                code = "\n" * (block.line - 1) + servers.reached(block.code)
                exec(compile(code, str(path), "exec"), names)
            elif block.kind in ("console", "bash"):
                servers.close()
                found = commands(block)
                assert found, f"{where}: a {block.kind} block without a command"
                for command in found:
                    wrong = run_command(command, servers)
                    assert wrong is None, f"{where}: {command}\n{wrong}"
            else:
                assert block.kind in NO_CODE, f"{where}: a block of kind {block.kind!r}; see above"


@pytest.mark.parametrize("path", list(filter(is_executed, FILES)), ids=lambda path: path.name)
def test_an_executed_page_has_only_cells(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("---\nfile_format: mystnb\n"), "so that the site executes it"
    for block in blocks(text):
        assert block.kind in {CELL, *NO_CODE}, f"{path.name}:{block.line}: not executed"


def test_the_readme_is_among_the_files() -> None:
    assert FILES[0].exists()


def test_blocks_are_found() -> None:
    text = (
        "a\n```python\nx = 1\n```\n"
        "- b\n  ```console\n  $ make \\\n    x\n  out\n  ```\n"
        "````text\n```\n````\n"
    )
    found = blocks(text)
    assert found == [
        Block("python", "x = 1\n", 3),
        Block("console", "$ make \\\n  x\nout\n", 7),
        Block("text", "```\n", 12),
    ]
    assert [shlex.split(command) for command in commands(found[1])] == [["make", "x"]]


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("make nonsense", "no such target"),
        ("rm -rf x", "not a command"),
        ("statecast nonsense", "No such command"),
        ("curl localhost:8000/v1/items/a/state", "expected a server"),
    ],
)
def test_a_wrong_command_is_found(command: str, wrong: str) -> None:
    assert wrong in (run_command(command, Served()) or "")


@pytest.mark.parametrize("command", ["make demo", "make test SLOW=1", "git clone x", "cd x"])
def test_a_right_command_is_fine(command: str) -> None:
    assert run_command(command, Served()) is None


def test_the_index_of_decisions_lists_every_page_by_its_title() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(
        r"^\| (\d+) \| \[(.*)\]\((.*)\) \| .+ \|$", (folder / "README.md").read_text(), re.M
    )
    pages = []
    for path in sorted(folder.glob("[0-9]*.md")):
        title = re.match(r"# (\d+)\. (.*)", path.read_text(encoding="utf-8"))
        assert title is not None, path
        assert path.name.startswith(f"{int(title[1]):04d}-")
        pages.append((title[1], title[2], path.name))
    assert listed == pages


@pytest.mark.parametrize("path", [*FILES, ROOT / "ARCHITECTURE.md"], ids=lambda path: path.name)
def test_links_lead_to_files(path: Path) -> None:
    text = re.sub(
        r"^( *)`{3,}.*?^\1`{3,} *$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S
    )
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    for link in links:
        if link and "://" not in link and not link.startswith("mailto:"):
            assert (path.parent / link).exists(), link


def test_the_version_is_the_same_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited is not None
    assert cited[1] == version
    assert f"## {version} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
