"""The command line."""

from statecast.cli.commands import (
    app,
    main,
)

__all__ = [
    "app",
    "main",
]
