"""Ctrl-C as a flag, for work that may be interrupted between two steps only.

An exception within a training step loses the arrays of the step. On JAX these are the arrays of the
model, which are in the model only between two steps.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Handler = Callable[[int, Any], Any]


class Interrupt:
    """How often Ctrl-C was pressed.

    Attributes
    ----------
    count : int
    noted : bool
        Whether Ctrl-C is counted here. If not, the previous handler is called.
    """

    def __init__(self) -> None:
        self.count = 0
        self.noted = False

    def check(self) -> None:
        """Raise ``KeyboardInterrupt`` if Ctrl-C was pressed."""
        if self.count:
            raise KeyboardInterrupt


_active: Interrupt | None = None  # of the main thread


@contextmanager
def noted(
    *, replacing: Handler = signal.default_int_handler, at_once: bool = True
) -> Iterator[Interrupt]:
    """Count the first Ctrl-C in the block; the second one calls the previous handler.

    The previous handler is restored at the end of the block, or at the second Ctrl-C, which ends
    the block with ``KeyboardInterrupt`` unless that handler does something else. A block within
    another such block shares its ``Interrupt``.

    Nothing is changed outside the main thread, as only the main thread may set handlers, and where
    the program has a handler other than ``replacing``.

    Parameters
    ----------
    replacing : callable
        The handler that may be replaced; by default Python's own.
    at_once : bool
        False: Ctrl-C calls the previous handler until a block within this one begins.

    Yields
    ------
    interrupt : Interrupt
    """
    global _active
    if threading.current_thread() is not threading.main_thread():
        yield Interrupt()
    elif _active is not None:
        _active.noted = True
        yield _active
    elif signal.getsignal(signal.SIGINT) is not replacing:
        yield Interrupt()
    else:
        interrupt = Interrupt()
        interrupt.noted = at_once

        def note(number: int, frame: Any) -> None:
            if not interrupt.noted:
                replacing(number, frame)
                return
            interrupt.count += 1
            if interrupt.count > 1:
                signal.signal(signal.SIGINT, replacing)
                replacing(number, frame)

        _active = interrupt
        signal.signal(signal.SIGINT, note)
        try:
            yield interrupt
        except Exception:
            if interrupt.count > 1:  # an error that the second Ctrl-C caused in the work
                raise KeyboardInterrupt from None
            raise
        finally:
            if signal.getsignal(signal.SIGINT) is note:
                signal.signal(signal.SIGINT, replacing)
            _active = None
        if interrupt.count > 1:  # raised where Python has to ignore exceptions
            raise KeyboardInterrupt
