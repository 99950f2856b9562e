"""The C++ library of ``native/``, loaded by ctypes: its structures, its status, its errors."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from statecast.checks import check_whole
from statecast.errors import ArgumentError, KernelError
from statecast.progress import LOG
from statecast.recurrence.kernels.native import threads
from statecast.recurrence.kernels.native.threads import MOST

# The number of native/statecast.h that this package was written for.
INTERFACE = 6

# What a call computes in. "bfloat16" is for the weights, and factors of products are rounded to it;
# the other arguments and all results are of float32.
DTYPES = {"float32": 0, "float64": 1, "bfloat16": 2}
_STATUS = {
    1: "the library refused the buffers",
    2: "the problem is too large: the size of a buffer overflows",
    3: "out of memory",
}

# Families of distributions, in the order of native/statecast.h.
FAMILIES = ("none", "quantiles", "normal", "student_t", "poisson", "negative_binomial")

# The last fields of every structure: the number of threads, and OpenMP's function to run on them.
HOST = (("threads", ctypes.c_int64), ("openmp", ctypes.c_void_p))


@dataclass(frozen=True)
class NativeHead:
    """A head that the library computes.

    Attributes
    ----------
    family : {"quantiles", "normal", "student_t", "poisson", "negative_binomial"}
    size : int
        The number of raw numbers of a distribution.
    gaps : tuple of float
        What native/statecast.h says of the family: mostly added to raw numbers before softplus.
    smallest : float
        Added to a distance, a scale or a mean after it.
    levels : tuple of float
        With the family "quantiles" those of the quantiles that give the distribution.
    """

    family: str
    size: int
    gaps: tuple[float, ...]
    smallest: float
    levels: tuple[float, ...] = ()

    def in_closed_loop(self, levels: Sequence[float]) -> bool:
        """Whether the library runs a closed loop with it, and computes quantiles at ``levels``."""
        if self.family == "quantiles":
            return self.levels == tuple(levels)
        return self.family in ("normal", "student_t")


class Forward(ctypes.Structure):
    """``statecast_forward_args`` of native/statecast.h."""

    _fields_ = [
        *((field, ctypes.c_int64) for field in ("cell", "dtype")),
        *((field, ctypes.c_int64) for field in ("members", "rows", "steps", "inputs", "units")),
        *((field, ctypes.c_int64) for field in ("codes", "sources")),
        *((field, ctypes.c_void_p) for field in ("x", "w", "u", "bias", "h0", "c0")),
        *((field, ctypes.c_void_p) for field in ("code", "source")),
        *((field, ctypes.c_void_p) for field in ("mask", "resets", "hr", "cr")),
        *((field, ctypes.c_void_p) for field in ("observed", "feed", "base", "decay", "last")),
        *((field, ctypes.c_void_p) for field in ("packed", "y", "fed", "hn", "cn", "saved")),
        *HOST,
    ]


class Backward(ctypes.Structure):
    """``statecast_backward_args`` of native/statecast.h."""

    _fields_ = [
        ("forward", Forward),
        *((field, ctypes.c_void_p) for field in ("dy", "dfed", "dhn", "dcn")),
        *((field, ctypes.c_void_p) for field in ("dx", "dw", "du", "dbias")),
        *((field, ctypes.c_void_p) for field in ("dh0", "dc0", "dhr", "dcr")),
        *((field, ctypes.c_void_p) for field in ("dfeed", "dbase", "ddecay", "dlast")),
    ]


@cache
def find() -> Any:
    """The loaded library, or, as text, the reason why there is none.

    Raises
    ------
    KernelError
        The library was built from sources with another interface than this package's.
    """
    from statecast.recurrence import kernels

    threads.check_environment()
    # An editable install has the modules in one folder and the library in another.
    places = [Path(folder) / "libstatecast.so" for folder in kernels.__path__]
    if "STATECAST_LIBRARY" in os.environ:  # another build, for measuring and checking
        places = [Path(os.environ["STATECAST_LIBRARY"])]
    path = next((path for path in places if path.exists()), None)
    if path is None and "STATECAST_LIBRARY" in os.environ:
        return f"there is no file {places[0]}, which STATECAST_LIBRARY names"
    if path is None:
        return (
            "it was not built, as there was no C++ compiler when Statecast was installed. To get "
            "it, install one (g++) and then Statecast again: pip install ."
        )
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return f"its library does not load ({error})"
    _check_interface(library, path)
    library.statecast_used.restype = ctypes.c_char_p
    library.statecast_built.restype = ctypes.c_char_p
    library.statecast_use.argtypes = [ctypes.c_char_p]
    library.statecast_run.argtypes = [
        ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, *[ctypes.c_void_p] * 4,
        ctypes.c_int64, *[ctypes.c_void_p] * 4,
    ]  # fmt: skip
    library.statecast_threads.argtypes = [ctypes.c_int64]
    for layers in ("saved_bytes", "forward", "backward"):
        function = getattr(library, f"statecast_layers_{layers}")
        function.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    for buffer in ("saved", "layers_saved", "packed", "softmax"):
        getattr(library, f"statecast_{buffer}_bytes").restype = ctypes.c_int64
    return library


def _check_interface(library: Any, path: Path) -> None:
    number = getattr(library, "statecast_interface", None)
    if number is not None:
        number.restype = ctypes.c_int64
    found = number() if number is not None else "none"
    if found != INTERFACE:
        raise KernelError(
            f"The native kernel's library {path} was built from other sources than this package: "
            f"expected interface {INTERFACE}, received {found}. Build it again, in the folder of "
            "Statecast's sources: pip install ."
        )


@cache
def report_missing() -> None:
    """Log a warning if there is no library, so that slower computations are not a surprise; once
    for a process."""
    library = find()
    if isinstance(library, str):
        LOG.warning(
            f"The native kernel is missing: {library.rstrip('.')}. Everything is computed without "
            "it, more slowly."
        )


def status() -> str:
    """The instruction set and the number of threads, "avx512, 2 threads"; or why there is no
    library."""
    library = find()
    if isinstance(library, str):
        return library
    count = library.statecast_threads(threads.of_host(threads.of_started()))
    return f"{library.statecast_used().decode()}, {count} thread{'s' * (count != 1)}"


def use(instructions: str = "", threads: int = 0) -> None:
    """Choose an instruction set and a number of threads, for measuring: the defaults are fastest.

    Parameters
    ----------
    instructions : str
        Its name; "" for the best that the machine has.
    threads : int
        The threads of a call; 0 for as many as docs/how_to/threads.md says.

    Raises
    ------
    ArgumentError
        The machine or the build does not have the instruction set, or ``threads`` is not a whole
        number from 0 to 1024.
    KernelError
        There is no native kernel.
    """
    library = loaded()
    threads = check_whole("threads", threads, 0, MOST)
    if library.statecast_use(instructions.encode()):
        raise ArgumentError(
            f"instructions: expected one of {library.statecast_built().decode()}, of which this "
            f"machine may not have the first ones; received {instructions!r}."
        )
    library.statecast_set_threads(threads)


def loaded() -> Any:
    """The loaded library.

    Raises
    ------
    KernelError
        There is none, or one with another interface.
    """
    library = find()
    if isinstance(library, str):
        raise KernelError(f"The native kernel cannot run: {library.rstrip('.')}.")
    return library


def check(status: int) -> None:
    """Raise a ``KernelError`` for the status of a call that failed."""
    if status:
        raise KernelError(f"The native kernel failed: {_STATUS[status]}.")


def checked_size(size: int) -> int:
    """The size of a buffer as the library gives it, in bytes.

    Raises
    ------
    KernelError
        It is negative: the problem is too large.
    """
    if size < 0:
        check(2)
    return size


def address(array: Any) -> int:
    """The address of a contiguous NumPy array's first number."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))
    except (TypeError, ValueError):  # read-only, or empty: three times slower
        return array.__array_interface__["data"][0]
