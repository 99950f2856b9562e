# Statecast. Every target makes the .venv it needs by itself; PYTHON=... chooses another
# interpreter (3.11 or later). `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check

# One process a backend, since Keras chooses its backend once: see tools/run_tests.py.
# The last one runs the tests of no particular backend too: PyTorch compiles nothing.
BACKENDS := jax tensorflow torch

# Tests marked `slow` run where CI=true, or with `make test SLOW=1`.
ifeq ($(CI),true)
SLOW ?= 1
endif
export SLOW

export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: help demo test check docs clients fuzz overload sanitize bench package matrix clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo    forecast the heights of children the model never met; writes statecast-demo/'
	@echo 'make test    the tests, on $(BACKENDS); SLOW=1 adds the slow ones, and all of TensorFlow'
	@echo 'make check   ruff, pyright, clang-format, doctests, the layout, the public names'
	@echo 'make docs    the site, in build/docs/html: pages, tutorials with their output, the reference'
	@echo 'make clients  public clients of the server, for its slow tests'
	@echo 'make fuzz    damaged files for FUZZ_SECONDS (600), and FUZZ_REQUESTS (1000000) damaged requests'
	@echo 'make overload  twice the load that the server can take, for OVERLOAD_SECONDS (600)'
	@echo 'make sanitize  tests of the native kernel and its threads, the slow ones of threads left out,'
	@echo '             under the address, undefined-behaviour and thread sanitizers'
	@echo 'make bench   the scripts in benchmarks/ that measure speed and control'
	@echo 'make matrix  the tests on the oldest and newest dependencies, on Python 3.11 and 3.13'
	@echo 'make package  dist/: source archive and wheel, tried in new environments'
	@echo 'make clean   remove what the targets above wrote (not $(VENV))'

demo: $(VENV)/.demo
	@$(VENV)/bin/statecast demo

test: $(VENV)/.all $(if $(filter 1,$(SLOW)),clients)
	@$(RUN) tools/run_tests.py $(BACKENDS)

check: $(VENV)/.all
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyright
	$(VENV)/bin/clang-format --dry-run --Werror native/*.cpp native/*.h
	KERAS_BACKEND=jax $(RUN) -m pytest -q --doctest-modules src/statecast \
	    tests/test_layout.py tests/test_public_names.py

# The site, without a network. Every warning is an error: a link or a reference that leads nowhere, a
# cell that fails. What tutorials printed and drew is kept until their code changes.
docs: $(VENV)/.all
	@$(RUN) -m sphinx -b html -q -W --keep-going -d build/docs/doctrees docs build/docs/html
	@echo 'The site is build/docs/html/index.html: open it in a browser.'

# Public clients that the server is tested with. Their packages need older versions of ours.
CLIENTS := build/clients
clients: $(CLIENTS)/.made
$(CLIENTS)/.made: Makefile
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check \
	    'tritonclient[http]==2.73.0' 'schemathesis==4.32.5'
	@touch $@

# Damaged model and state files, and damaged requests; counts and failures go to build/.
FUZZ_SECONDS ?= 600
FUZZ_REQUESTS ?= 1000000
fuzz: $(VENV)/.all
	$(RUN) tools/fuzz_files.py --seconds $(FUZZ_SECONDS)
	$(RUN) tools/fuzz_server.py --count $(FUZZ_REQUESTS) --seconds 7200

# Twice the load that the server can take.
OVERLOAD_SECONDS ?= 600
overload: $(VENV)/.all
	$(RUN) tools/overload.py --seconds $(OVERLOAD_SECONDS)

# The kernel's tests under the address and undefined-behaviour sanitizers, with matrix tiles in
# software, and its threads under the thread sanitizer. The slow tests of threads are left out: they
# measure time.
sanitize: $(VENV)/.all
	command -v cmake >/dev/null || $(PIP) cmake
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH"; \
	cmake -S native -B build/sanitize -DSTATECAST_SANITIZE=address,undefined \
	    -DSTATECAST_SOFT_TILES=ON && \
	    cmake --build build/sanitize -j 2 && \
	    cmake -S native -B build/races -DSTATECAST_SANITIZE=thread && \
	    cmake --build build/races -j 2 && TSAN_OPTIONS=halt_on_error=1 build/races/stress
	export LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1 \
	    STATECAST_LIBRARY=build/sanitize/libstatecast.so; \
	SLOW=1 $(RUN) -m pytest -q -p no:cacheprovider \
	    $(addprefix tests/recurrence/test_,native.py arrays.py affine.py closed_loop.py score.py softmax.py counts.py) \
	    tests/forecast/test_analogues.py && \
	    CI= SLOW= $(RUN) -m pytest -q -p no:cacheprovider tests/recurrence/test_threads.py

# They take hours, or are modules of those that do.
by_hand := accuracy comparison distributed handmade peers reserving serving speed_page speed_rows

bench: $(VENV)/.all
	@$(PIP) -e '.[bench]'
	@for script in $(filter-out $(by_hand:%=benchmarks/%.py),$(wildcard benchmarks/*.py)); do echo "== $$script =="; $(RUN) "$$script" || exit 1; done

package:
	@PYTHON=$(PYTHON) tools/package.sh

matrix:
	@$(PYTHON) tools/matrix.py

clean:
	rm -rf build dist statecast-demo .pytest_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# -- the environment, shared by all targets; a stamp says how far it has come ------------

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo 'Statecast needs Python 3.11 or later; choose one with PYTHON=...'; exit 1; }
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@touch $@

NATIVE := $(wildcard native/*)

$(VENV)/.demo: pyproject.toml $(NATIVE) | $(VENV)/.made
	@echo 'Installing Statecast and what the demo needs into $(VENV) (once; a minute or two) ...'
	@$(PIP) -e '.[demo]'
	@touch $@

# PyTorch goes first and by its exact version: asked for by a range, pip would take the
# newest build, with gigabytes of CUDA, even where a CPU build of this one is at hand.
$(VENV)/.all: pyproject.toml $(NATIVE) | $(VENV)/.made
	@echo 'Installing Statecast, three backends and the tools into $(VENV) (once; minutes) ...'
	@$(PIP) torch==2.13.0
	@$(PIP) -e '.[dev,torch,tensorflow]'
	@touch $@ $(VENV)/.demo
