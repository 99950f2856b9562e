"""What a forked process may use of its parent's locks and backend.

``os.fork`` copies only the thread that calls it. In the child the other threads are missing, and a
lock that one of them held stays held. The native library starts its own threads again.
"""

from __future__ import annotations

import os
import sys
import threading
from functools import cached_property
from types import TracebackType
from typing import Any

from statecast.errors import ForkError

# Whether the backend had run in the parent. It is read before a fork, as JAX takes a lock to tell.
_ran = False
_forked = False


class Lock:
    """A ``threading.Lock``; each process has its own."""

    def __init__(self) -> None:
        self._locks: dict[int, threading.Lock] = {}

    def _own(self) -> threading.Lock:
        return self._locks.setdefault(os.getpid(), threading.Lock())

    def __enter__(self) -> None:
        self._own().acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._own().release()


def check_backend() -> None:
    """Check that Keras's backend can compute in this process.

    In a forked child PyTorch then computes on one thread, as in the workers of its data loaders.

    Raises
    ------
    ForkError
        The process is a fork of one in which JAX or TensorFlow has run.
    """
    global _forked
    if not _forked:
        return
    import keras

    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        torch.set_num_threads(1)
        _forked = False
        return
    name = {"jax": "JAX", "tensorflow": "TensorFlow"}[backend]
    raise ForkError(
        f"This process is a fork of one in which {name} has run, and lacks the threads that {name} "
        'waits for. Start it with "spawn": multiprocessing.get_context("spawn"), or '
        'ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")); or fork before '
        "anything is computed."
    )


def _before() -> None:
    global _ran
    keras = sys.modules.get("keras")
    if keras is None:  # a fitted model needs no backend
        _ran = False
        return
    backend, ran = keras.backend.backend(), True
    if backend == "jax":
        from jax._src import xla_bridge

        ran = xla_bridge.backends_are_initialized()
    elif backend == "tensorflow":
        from tensorflow.python.eager import context

        ran = getattr(context.context_safe(), "_initialized", False)
    _ran = ran


def _in_child() -> None:
    global _forked
    _forked = _forked or _ran
    # Up to Python 3.11 a cached property computes under a lock.
    for name, module in list(sys.modules.items()):
        if not name.startswith("statecast."):
            continue
        for kind in [part for part in vars(module).values() if isinstance(part, type)]:
            for part in vars(kind).values():
                held: Any = part
                if isinstance(part, cached_property) and hasattr(part, "lock"):
                    held.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_child=_in_child)
