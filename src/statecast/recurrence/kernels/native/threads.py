"""The numbers of threads that PyTorch, JAX and TensorFlow are set to use.

The native library uses the least of these, ``OMP_NUM_THREADS``, the CPUs of the process and its
quota (``native/threads.cpp``); ``docs/how_to/threads.md`` has the whole rule.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from functools import cache

from statecast.errors import ArgumentError

MOST = 1024


def of_torch() -> int:
    """PyTorch's current number, which users may change at any time; 0 where it is not loaded."""
    # While PyTorch is loading it does not have the function yet.
    number = getattr(sys.modules.get("torch"), "get_num_threads", None)
    return number() if number else 0


@cache
def openmp() -> int:
    """The address of GOMP_parallel, with which a call may run on PyTorch's OpenMP threads; 0 where
    there is none, or where those threads do not wait busily."""
    if os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive":
        return 0
    function = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
    return ctypes.cast(function, ctypes.c_void_p).value or 0 if function else 0


def of_jax() -> int:
    """The size of XLA's pool of threads, where it was set; 0 where it was not."""
    if re.search(r"--xla_cpu_multi_thread_eigen=(false|0)\b", os.environ.get("XLA_FLAGS", "")):
        return 1
    return _whole(os.environ.get("NPROC"))


def of_tensorflow() -> int:
    """TensorFlow's number of threads within an operation, where it was set; 0 where it was not."""
    config = getattr(sys.modules.get("tensorflow"), "config", None)
    if config is None:
        return 0
    return config.threading.get_intra_op_parallelism_threads() or _whole(
        os.environ.get("TF_NUM_INTRAOP_THREADS")
    )


def of_started() -> int:
    """The least of the numbers of JAX and TensorFlow, where they are loaded, which do not change
    after their start; 0 for none. This takes some 20 microseconds."""
    jax = of_jax() if "jax" in sys.modules else 0
    return min(filter(None, (jax, of_tensorflow())), default=0)


def of_host(started: int = 0) -> int:
    """The least of PyTorch's current number and ``started``, from ``of_started``; 0 for none."""
    torch = of_torch()
    return min(torch, started) if torch and started else torch or started


def check_environment() -> None:
    """Check ``STATECAST_THREADS``, where it is set.

    Raises
    ------
    ArgumentError
        It is not a whole number from 1 to 1024.
    """
    value = os.environ.get("STATECAST_THREADS")
    if value is not None and not 1 <= _whole(value) <= MOST:
        raise ArgumentError(
            f"STATECAST_THREADS: expected a whole number from 1 to {MOST}, received {value!r}. "
            "Without it the number is chosen as docs/how_to/threads.md says."
        )


def _whole(text: str | None) -> int:
    return int(text) if text and re.fullmatch(r"[0-9]{1,9}", text.strip()) else 0
