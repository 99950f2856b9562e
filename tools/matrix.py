"""The tests on the oldest and the newest dependencies that are allowed, on two versions of Python.

Each pair has an environment of its own. The backend is JAX.

    python tools/matrix.py                            # all four
    python tools/matrix.py --python 3.13 --dependencies newest -- -k state

What follows ``--`` goes to pytest. One wheel is built and installed everywhere. The environments
are made anew in ``build/matrix``. An interpreter is looked for as ``python3.13`` on the path and
among those of pyenv; where there is none, the run fails and says so.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "matrix"
PYTHONS = ("3.11", "3.13")
DEPENDENCIES = ("oldest", "newest")
PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")


def interpreter(version: str) -> str:
    """The path of a Python of this version; the script ends where there is none."""
    found = shutil.which(f"python{version}")
    if found and subprocess.run([found, "--version"], capture_output=True, check=False).returncode:
        found = None  # a shim that stands for a Python that is not chosen
    if found is None:
        pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
        found = next((str(p) for p in sorted(pyenv.glob(f"{version}.*/bin/python"))), None)
    if found is None:
        sys.exit(f"No Python {version} was found, on the path or in pyenv. Install it first.")
    return found


def lower_bounds() -> Iterator[str]:
    """A constraint to the oldest version allowed, for each requirement that names one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = project["optional-dependencies"]
    extras = (
        "jax",
        "parquet",
        "evaluate",
        "plots",
        "interactive",
        "onnx",
        "mlflow",
        "sessions",
        "serve",
        "docs",
        "test",
    )
    for each in chain(project["dependencies"], *(groups[extra] for extra in extras)):
        if bound := re.fullmatch(r"([\w-]+)>=([\d.]+)", each):
            yield f"{bound[1]}=={bound[2]}"


def run(*command: str | Path) -> None:
    subprocess.run([str(each) for each in command], check=True)


def built() -> Path:
    """The wheel."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", FOLDER, ROOT)
    return next(FOLDER.glob("*.whl"))


def tested(python: str, dependencies: str, wheel: Path, arguments: list[str]) -> bool:
    """Whether the tests pass in a new environment."""
    place = FOLDER / f"{python}-{dependencies}"
    run(interpreter(python), "-m", "venv", place)
    own = place / "bin" / "python"
    wanted = [*PIP, f"{wheel}[dev]"]
    if dependencies == "oldest":
        constraints = FOLDER / "oldest.txt"
        constraints.write_text("\n".join(lower_bounds()) + "\n", encoding="utf-8")
        wanted += ["-c", str(constraints)]
    run(own, *wanted)
    run(own, "-m", "pip", "list", "--disable-pip-version-check")
    command = [str(own), "-m", "pytest", "-q", *(arguments or ["tests"])]
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--python", choices=PYTHONS, action="append")
    parser.add_argument("--dependencies", choices=DEPENDENCIES, action="append")
    parser.add_argument("arguments", nargs="*", help="of pytest")
    asked = parser.parse_args()
    cells = [
        (python, dependencies)
        for python in asked.python or PYTHONS
        for dependencies in asked.dependencies or DEPENDENCIES
    ]
    for python, _ in cells:
        interpreter(python)  # all are there before anything is built
    wheel = built()
    passed = {}
    for python, dependencies in cells:
        print(f"== Python {python}, {dependencies} dependencies ==", flush=True)
        passed[python, dependencies] = tested(python, dependencies, wheel, asked.arguments)
    for (python, dependencies), well in passed.items():
        print(f"Python {python}, {dependencies}: {'passed' if well else 'FAILED'}")
    if not all(passed.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
