"""The library behind ctypes: it is the one that this package was written for."""

from __future__ import annotations

import ctypes
import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
from numpy._core import _multiarray_umath  # pyright: ignore[reportAttributeAccessIssue]

from native_library import BUILT
from statecast.errors import ArgumentError, KernelError
from statecast.networks import arrays
from statecast.recurrence.cells import SimpleRNN
from statecast.recurrence.kernels.native import (
    affine,
    closed_loop,
    counts,
    library,
    score,
    weighted,
)
from statecast.recurrence.kernels.native.arrays import Recurrence, refuses
from statecast.recurrence.run import explain

NATIVE = Path(__file__).parents[2] / "native"

# By the number of the interface: a hash of its declarations.
HASHES = {
    1: "8230dfb43459f94023b6",
    2: "f64a6f8c473b03b74c42",
    3: "0bbc81b87b657fa84a32",
    4: "90efb2a187b2181572ab",
    5: "c09b4ec5a73e051d39e6",
    6: "dc47d2e38f7e1010e64b",
}


@pytest.fixture
def fresh() -> Iterator[None]:
    """The library is looked for anew, and again afterwards."""
    library.find.cache_clear()
    library.report_missing.cache_clear()
    yield
    library.find.cache_clear()
    library.report_missing.cache_clear()


def _code(name: str) -> str:
    """A source file without comments and with single spaces."""
    text = re.sub(r"/\*.*?\*/", "", (NATIVE / name).read_text(), flags=re.DOTALL)
    return " ".join(text.split())


def _declarations() -> str:
    """What a caller depends on: all of statecast.h, and the bits and attributes of XLA's calls."""
    jax = _code("jax.cpp")
    attributes = re.findall(r'(?:number|real|numbers)\(frame, "\w+"\)', jax)
    return " ".join([_code("statecast.h"), *re.findall(r"enum Has\w* \{.*?\};", jax), *attributes])


def test_a_changed_interface_has_a_new_number() -> None:
    """Whoever changes the declarations raises STATECAST_INTERFACE in statecast.h and INTERFACE in
    library.py, and enters the hash here."""
    declared = re.search(r"STATECAST_INTERFACE = (\d+)", _code("statecast.h"))
    assert declared is not None
    assert int(declared[1]) == library.INTERFACE
    found = hashlib.sha256(_declarations().encode()).hexdigest()[:20]
    assert HASHES[library.INTERFACE] == found


@pytest.mark.parametrize(
    ("name", "structure"),
    [
        ("forward", library.Forward),
        ("backward", library.Backward),
        ("score", score._Score),
        ("score_gradients", score._Gradients),
        ("softmax", affine._Arguments),
        ("counts", counts._Arguments),
        ("stack", closed_loop._Arguments),
        ("weighted", weighted._Arguments),
    ],
)
def test_structures_have_the_fields_of_the_header(
    name: str, structure: type[ctypes.Structure]
) -> None:
    pattern = rf"typedef struct {{([^}}]*)}} statecast_{name}_args;"
    declared = re.search(pattern, _code("statecast.h"))
    assert declared is not None
    expected = [
        ("pointer" if star else line.split()[0], field)
        for line in declared[1].split(";")
        for star, field in re.findall(r"(\*?)(\w+)(?:,|$)", line.strip())
    ]
    kinds: dict[type, str] = {
        ctypes.c_int64: "int64_t",
        ctypes.c_double: "double",
        ctypes.c_void_p: "pointer",
        library.Forward: "statecast_forward_args",
        score._Score: "statecast_score_args",
    }
    assert [(kinds[field[1]], field[0]) for field in structure._fields_] == expected
    assert len(expected) > 5


def test_a_library_of_an_earlier_build_is_refused(
    fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has no number: here another shared library."""
    monkeypatch.setenv("STATECAST_LIBRARY", _multiarray_umath.__file__)
    for ask in (library.find, library.loaded, library.status):
        with pytest.raises(KernelError, match=r"received none\..* pip install"):
            ask()


@pytest.mark.skipif(not BUILT, reason="the library is not built")
@pytest.mark.parametrize("change", [-1, 1])
def test_a_library_of_another_interface_is_refused(
    fresh: None, monkeypatch: pytest.MonkeyPatch, change: int
) -> None:
    own, other = library.INTERFACE, library.INTERFACE + change
    monkeypatch.setattr(library, "INTERFACE", other)
    with pytest.raises(KernelError, match=rf"expected interface {other}, received {own}\. Build"):
        library.find()
    weights = {name: np.zeros(shape) for name, shape in SimpleRNN(1).weight_shapes(1).items()}
    with pytest.raises(KernelError, match="built from other sources"):
        Recurrence(SimpleRNN(1), weights)


def explain_run() -> None:
    cell = SimpleRNN(1)
    weights = {name: np.zeros(shape, "float32") for name, shape in cell.weight_shapes(1).items()}
    answer = explain(cell, weights, np.zeros((1, 1, 1), "float32"), {"h": np.zeros((1, 1))})
    reason = library.find()
    if isinstance(reason, str) and keras.backend.backend() != "tensorflow":
        assert answer["native"] == f"declines: {reason}"


@pytest.mark.backends
@pytest.mark.parametrize("found", [True, False])
@pytest.mark.parametrize(
    "use",
    [
        lambda: arrays.affine(np.zeros((1, 2, 3), "float32"), np.zeros((1, 3), "float32")),
        lambda: refuses(SimpleRNN(1)),
        explain_run,
    ],
    ids=["a forecaster", "tokens", "a layer"],
)
def test_the_first_use_without_a_library_says_so_once(
    fresh: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    use: Callable[[], object],
    found: bool,
) -> None:
    if not found:
        monkeypatch.setenv("STATECAST_LIBRARY", "/nowhere/libstatecast.so")
        assert "no file /nowhere/libstatecast.so" in library.status()
        assert not caplog.records  # asking is no use
    use()
    use()
    said = [record.getMessage() for record in caplog.records if record.name == "statecast"]
    # On TensorFlow layers never use the library.
    unused = keras.backend.backend() == "tensorflow" and use.__name__ == "explain_run"
    assert len(said) == (isinstance(library.find(), str) and not unused)
    assert all("The native kernel is missing: " in text for text in said)


def test_without_a_compiler_the_reason_says_what_to_do(
    fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STATECAST_LIBRARY", raising=False)
    monkeypatch.setattr(library.Path, "exists", lambda path: False)
    assert "no C++ compiler" in library.status()
    assert "pip install ." in library.status()
    with pytest.raises(KernelError, match=r"cannot run: it was not built.* pip install \."):
        library.loaded()


@pytest.mark.skipif(not BUILT, reason="the library is not built")
@pytest.mark.parametrize(("count", "words"), [(1, ", 1 thread"), (2, ", 2 threads")])
def test_the_status_counts_threads(count: int, words: str) -> None:
    try:
        library.use(threads=count)
        assert library.status().endswith(words)
    finally:
        library.use()


@pytest.mark.skipif(not BUILT, reason="the library is not built")
def test_unknown_instructions_are_refused() -> None:
    used = library.status()
    with pytest.raises(ArgumentError, match="received 'mmx'"):
        library.use("mmx")
    assert library.status() == used


def test_without_the_library_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "find", lambda: "it was not built")
    assert library.status() == "it was not built"
    cell = SimpleRNN(1)
    with pytest.raises(KernelError, match="cannot run: it was not built"):
        Recurrence(cell, {n: np.zeros(s) for n, s in cell.weight_shapes(1).items()})
