#!/usr/bin/env bash
# Build the source archive and the wheel, install the wheel into a bare environment, and run the
# first Python example of the README there. PYTHON chooses the interpreter; the files are in dist/.
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

echo 'Installing the wheel into a bare environment ...'
"$PYTHON" -m venv "$folder/bare"
"$folder/bare/bin/python" -m pip install --quiet --disable-pip-version-check dist/*.whl

echo 'Running the first Python example of the README ...'
"$PYTHON" - README.md >"$folder/example.py" <<'END'
import re
import sys

text = open(sys.argv[1], encoding="utf-8").read()
print(re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1))
print("print(forecast)")
END
cd "$folder" # away from the source tree, so that the wheel alone is imported
"$folder/bare/bin/python" example.py
"$folder/bare/bin/statecast" info
cd - >/dev/null
ls -l dist
