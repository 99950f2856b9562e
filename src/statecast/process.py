"""Whether Keras and its backend can compute in this process.

They must be installed, and the process must not be a fork of one in which the backend ran.

``os.fork`` copies only the thread that calls it. In the child the other threads are missing, and a
lock that one of them held stays held. The native library starts its own threads again.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Iterable
from functools import cached_property
from importlib.util import find_spec
from types import TracebackType
from typing import Any

from statecast.errors import ArgumentError, ForkError, MissingExtraError

BACKENDS = ("jax", "torch", "tensorflow")

# Whether the backend had run in the parent. It is read before the fork, as JAX
# needs a lock for it.
_ran = False
_forked = False
_frozen = False  # whether the objects of this process are frozen for a fork


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


def default_backend() -> str:
    """The first backend that is installed, or JAX if there is none."""
    return next((backend for backend in BACKENDS if find_spec(backend)), "jax")


def check_extra(extra: str, modules: Iterable[str], user: str = "This command") -> None:
    """Raise ``MissingExtraError`` if a module of an extra is not installed; ``user`` needs it."""
    if missing := [module for module in modules if find_spec(module) is None]:
        raise MissingExtraError(
            f"{user} needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
            f"installed: pip install 'statecast[{extra}]'."
        )


def check_installed() -> None:
    """Check that Keras and the backend that ``KERAS_BACKEND`` names are installed.

    Raises
    ------
    ArgumentError
        ``KERAS_BACKEND`` names no backend that Statecast supports.
    MissingExtraError
        Keras or the backend is not installed.
    """
    if sys.modules.get("keras") is not None:
        return
    backend = os.environ.get("KERAS_BACKEND") or "jax"
    if backend not in BACKENDS:
        raise ArgumentError(
            f"KERAS_BACKEND: expected jax, torch or tensorflow, received {backend!r}."
        )
    missing = [name for name in ("keras", backend) if find_spec(name) is None]
    if not missing:
        return
    others = [name for name in BACKENDS if name != backend and find_spec(name)]
    choice = f" Or set KERAS_BACKEND to {others[0]}, which is installed." if others else ""
    raise MissingExtraError(
        "Training and Keras layers need Keras with a backend. The backend is "
        f"{backend}; {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed. "
        f"Run: pip install 'statecast[{backend}]'.{choice if 'keras' not in missing else ''}"
    )


def check_backend() -> None:
    """Check that Keras's backend is installed and can compute in this process.

    In a forked child PyTorch then computes on one thread, as in the workers of its data loaders.

    Raises
    ------
    ArgumentError, MissingExtraError
        As ``check_installed``.
    ForkError
        The process is a fork of one in which JAX or TensorFlow has run.
    """
    global _forked
    check_installed()
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
    global _frozen, _ran
    _frozen = False
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
    # The destructor of an iterator of tf.data waits for a thread, which the child does not have. So
    # the garbage collector of the child must not find what is garbage already.
    _frozen = backend == "tensorflow" and ran and not gc.get_freeze_count()
    if _frozen:
        gc.freeze()


def _in_parent() -> None:
    if _frozen:
        gc.unfreeze()


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
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
