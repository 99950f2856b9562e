"""How many threads the host libraries, PyTorch, JAX and TensorFlow, have been told to use.

The native library takes the least of it, ``OMP_NUM_THREADS``, the CPUs of the process and its quota
(``native/threads.cpp``); ``docs/threads.md`` has the whole rule.
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
    """PyTorch's current number, which a call may change at any time; 0 where it is not loaded."""
    told = getattr(sys.modules.get("torch"), "get_num_threads", None)  # absent while it is loading
    return told() if told else 0


@cache
def openmp() -> int:
    """The address of GOMP_parallel, by which a call may run on PyTorch's OpenMP threads; 0 where
    there is none, or where they do not wait busily."""
    if os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive":
        return 0
    function = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
    return ctypes.cast(function, ctypes.c_void_p).value or 0 if function else 0


def of_jax() -> int:
    """The number that XLA makes its pool of, where it was set; 0 where it was not."""
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
    """The least of the numbers that JAX and TensorFlow, where they are loaded, keep once they have
    started; 0 for none. To ask takes some 20 microseconds."""
    jax = of_jax() if "jax" in sys.modules else 0
    return min(filter(None, (jax, of_tensorflow())), default=0)


def told(started: int = 0) -> int:
    """The least of PyTorch's current number and one asked for before; 0 for none."""
    torch = of_torch()
    return min(torch, started) if torch and started else torch or started


def check_environment() -> None:
    """Refuse a ``STATECAST_THREADS`` that is no number of threads.

    Raises
    ------
    ArgumentError
        It is no whole number from 1 to 1024.
    """
    value = os.environ.get("STATECAST_THREADS")
    if value is not None and not 1 <= _whole(value) <= MOST:
        raise ArgumentError(
            f"STATECAST_THREADS: expected a whole number from 1 to {MOST}, received {value!r}. "
            "Unset it for as many as docs/threads.md says."
        )


def _whole(text: str | None) -> int:
    return int(text) if text and re.fullmatch(r"[0-9]{1,9}", text.strip()) else 0
