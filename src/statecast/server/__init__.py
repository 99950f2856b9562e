"""Sessions over HTTP: JSON, described by OpenAPI."""

from statecast.server.application import application
from statecast.server.run import serve
from statecast.server.wire import Limits

__all__ = [
    "Limits",
    "application",
    "serve",
]
