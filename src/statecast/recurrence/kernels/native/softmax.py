"""The softmax over tokens in the native library, on NumPy arrays: from the outputs of an ensemble's
members to the log-probabilities of all tokens, or to the likeliest tokens only, as decoding needs.

Where the library is not built, ``tokens.engine`` computes the same in NumPy.
"""

from __future__ import annotations

import numpy as np

from statecast.recurrence.kernels.native.affine import Affine
from statecast.recurrence.kernels.native.library import address


class Softmax(Affine):
    """The output layer of an ensemble, packed once: an affine map, whose columns are tokens, and
    its softmax; float32."""

    def log_probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """The log of the members' mean probability of each token, ``(rows, tokens)``, from outputs
        ``(members, rows, units)``."""
        nats = np.empty((outputs.shape[1], self.columns), np.float32)
        self._run(self._library.statecast_softmax, outputs, nats=address(nats))
        return nats

    def likeliest(
        self, outputs: np.ndarray, most: int, allowed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ``most`` likeliest of the allowed tokens of each row, the likeliest first.

        Parameters
        ----------
        outputs : array, ``(members, rows, units)``
        most : int
            At most the number of tokens.
        allowed : array, bool, ``(tokens,)``

        Returns
        -------
        codes : array, int32, ``(rows, most)``
            -1 where fewer tokens are allowed.
        nats : array, float32, ``(rows, most)``
            Log-probabilities; minus infinity where fewer tokens are allowed.
        """
        shape = (outputs.shape[1], most)
        codes, nats = np.empty(shape, np.int32), np.empty(shape, np.float32)
        allowed = np.ascontiguousarray(allowed, bool)
        found = {"codes": address(codes), "nats": address(nats), "allowed": address(allowed)}
        self._run(self._library.statecast_softmax, outputs, best=most, **found)
        return codes, nats
