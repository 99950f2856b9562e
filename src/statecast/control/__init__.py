"""The state of whole Keras models: read, set, reset, follow."""

from statecast.control.models import (
    Explanation,
    LayerStart,
    ResetStates,
    Windows,
    explain_state,
    get_state,
    peek,
    reset_states,
    set_state,
    take_control,
    trajectory,
)

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
