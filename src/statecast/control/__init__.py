"""The state of whole Keras models: read, set, reset, record, explain."""

from statecast.process import check_installed

try:
    from statecast.control.models import (
        Explanation,
        LayerStart,
        explain_state,
        get_state,
        peek,
        reset_states,
        set_state,
        take_control,
        trajectory,
    )
    from statecast.control.windows import ResetStates, Windows
except (ModuleNotFoundError, ValueError):  # Keras raises the latter for an unknown backend
    check_installed()
    raise

__all__ = [
    "Explanation",
    "LayerStart",
    "ResetStates",
    "Windows",
    "explain_state",
    "get_state",
    "peek",
    "reset_states",
    "set_state",
    "take_control",
    "trajectory",
]
