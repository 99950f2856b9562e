"""Keras layers whose state is under control."""

from statecast.process import check_installed

try:
    from statecast.layers.initial import Affine, InitialState
    from statecast.layers.recurrent import (
        GRU,
        LSTM,
        RNN,
        Bidirectional,
        Controlled,
        SimpleRNN,
        controlled,
    )
except (ModuleNotFoundError, ValueError):  # Keras raises the latter for an unknown backend
    check_installed()
    raise

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Affine",
    "Bidirectional",
    "Controlled",
    "InitialState",
    "SimpleRNN",
    "controlled",
]
