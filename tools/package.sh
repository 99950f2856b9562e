#!/usr/bin/env bash
# Build the source archive and the wheel. Install the wheel with JAX into a new environment, and run
# the first Python example of the README there. Then install the wheel alone into another one, and
# forecast there with the model of the example. Print the sizes of both environments. PYTHON chooses
# the interpreter; the files are in dist/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON="${PYTHON:-python3}"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT

echo 'Building the source archive and the wheel ...'
"$PYTHON" -m venv "$folder/build"
"$folder/build/bin/python" -m pip install --quiet --disable-pip-version-check build
rm -rf dist
"$folder/build/bin/python" -m build --outdir dist . >"$folder/log" || { cat "$folder/log"; exit 1; }

example() { # the first Python example of the README, and $1 after it
    "$PYTHON" - README.md "$1" <<'END'
import re
import sys

text = open(sys.argv[1], encoding="utf-8").read()
print(re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1))
print(sys.argv[2])
END
}
example 'print(forecast); f.save("model.safetensors")' >"$folder/fit.py"
# The same without the fit.
example 'print(forecast); assert "keras" not in sys.modules' |
    sed -E 's/^f = .*/import sys; f = Forecaster.load("model.safetensors")/' >"$folder/use.py"

environment() { # the environment $1 with the wheel and the extras $2
    echo "Installing the wheel${2:+ with the extra $2} ..."
    "$PYTHON" -m venv "$folder/$1"
    "$folder/$1/bin/python" -m pip install --quiet --disable-pip-version-check "$(echo dist/*.whl)$2"
    "$folder/$1/bin/python" -m pip uninstall --quiet --yes pip setuptools
    echo "Installed: $(du -sm "$folder/$1" | cut -f1) MB"
}
environment train '[jax]'
environment use ''
cd "$folder" # away from the source tree, so that the wheel alone is imported
echo 'Training with JAX: the first Python example of the README ...'
train/bin/python fit.py
echo 'Forecasting without Keras and a backend, with the model of the example ...'
use/bin/python use.py
use/bin/statecast info
use/bin/statecast info model.safetensors
cd - >/dev/null
ls -l dist
