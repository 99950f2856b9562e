"""``Head``: from the network's output to a predictive distribution of the next value.

A head is a small frozen description without weights. It has the number of raw numbers that it needs
(``size``), maps them to parameters, and computes everything else from those. All functions take
tensors of the current Keras backend or NumPy arrays, and return the same; ``score`` takes tensors
only. The last axis is that of the parameters.

``shift`` is added to the location. A forecaster passes the last value there, so that the network
learns the change.

Values are scaled as in a panel. A family for one kind of value, such as counts, names in
``transform`` the transform that it needs. A family of counts has the location and scale of the
panel as attributes, and computes the likelihood of the counts themselves.

To add a head, write a subclass, list it in ``heads/by_name.py``, and add its name to ``HeadName``
in ``forecast/settings.py``. The backend's operations compute its score. The native library does if
``Head.native`` describes it; its family must then be one of those of ``native/score.cpp``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from statecast.heads.namespace import namespace
from statecast.recurrence.kernels.native import score
from statecast.recurrence.kernels.native.library import NativeHead

SMALLEST = 1e-4  # the least scale or gap, in scaled units: keeps likelihoods finite


@dataclass(frozen=True)
class Readout:
    """The affine map from a recurrence's outputs to a head's raw numbers, for all steps at once.

    The raw numbers of step t come from the output and the input value of step t - 1, those of
    the first step from ``first`` and ``last``. Where these are None, they come from the output and
    the value of step t itself. The first axis is that of an ensemble's members.

    Parameters
    ----------
    outputs : tensor, ``(members, rows, steps, units)``
    taken : tensor, ``(members, rows, steps)``
        The values that were inputs.
    kernel : tensor, ``(members, units, size)``
    base : tensor, ``(members, rows, size)``
        Added to the raw numbers of each step: the bias, and what else depends on the row.
    decay : tensor, ``(members,)``
        The shift is ``decay`` times the value.
    first, last : tensor, ``(members, rows, units)`` and ``(members, rows)``, optional

    Examples
    --------
    >>> import numpy as np
    >>> from statecast.heads import Readout
    >>> outputs, taken = np.ones((1, 2, 3, 4)), np.ones((1, 2, 3))  # member, rows, steps, units
    >>> readout = Readout(outputs, taken, np.ones((1, 4, 5)), np.zeros((1, 2, 5)), np.ones(1))
    >>> raw, shift = readout.raw()
    >>> raw.shape, shift.shape
    ((1, 2, 3, 5), (1, 2, 3, 1))
    """

    outputs: Any
    taken: Any
    kernel: Any
    base: Any
    decay: Any
    first: Any = None
    last: Any = None

    def raw(self) -> tuple[Any, Any]:
        """The raw numbers ``(members, rows, steps, size)`` and shifts ``(..., 1)`` of all steps."""
        ops = namespace(self.outputs)
        outputs, taken = self.outputs, self.taken
        if self.first is not None:
            outputs = ops.concatenate([self.first[:, :, None], outputs], axis=2)[:, :, :-1]
            taken = ops.concatenate([self.last[..., None], taken], axis=-1)[..., :-1]
        # One product for each member. With rows and steps apart it would be one for each row, which
        # takes four times as long.
        members, rows, steps, units = ops.shape(outputs)
        flat = ops.matmul(ops.reshape(outputs, (members, rows * steps, units)), self.kernel)
        raw = ops.reshape(flat, (members, rows, steps, flat.shape[-1])) + self.base[:, :, None]
        return raw, (taken * self.decay[:, None, None])[..., None]


class Head(ABC):
    """A family of distributions over one value.

    ``parameters`` is ``(..., size)``; ``y`` is ``(...)``; ``levels`` is ``(..., k)`` or
    ``(k,)``, strictly between 0 and 1.

    Examples
    --------
    >>> from statecast import heads
    >>> heads.Normal().size, heads.Normal().measure
    (2, 'crps')
    """

    transform: ClassVar[str | None] = None  # the scale that the family needs; None for any
    measure: ClassVar[str] = "nats"  # of ``loss``: the negative log-likelihood, or "crps"

    @classmethod
    def on_scale(cls, centre: float, location: float, scaling: float) -> Head:
        """The head for values scaled to ``(transform(y, centre) - location) / scaling``."""
        return cls()

    @property
    @abstractmethod
    def size(self) -> int:
        """The number of raw numbers for a value."""

    @abstractmethod
    def parameters(self, raw: Any, shift: Any) -> Any:
        """Parameters ``(..., size)`` from raw numbers ``(..., size)`` and a shift ``(..., 1)``."""

    @property
    def location_index(self) -> int:
        """The index of the raw number that, with the shift, is the feedback of a closed loop. It is
        the median, or the mean of counts (on their scale)."""
        return 0

    @property
    def native(self) -> NativeHead | None:
        """How the native library computes the head; None if it does not."""
        return None

    @abstractmethod
    def mean(self, parameters: Any) -> Any:
        """The mean, ``(...)``; of counts the scaled value of their mean."""

    @abstractmethod
    def quantile(self, parameters: Any, levels: Any) -> Any:
        """The quantiles ``(..., k)``, which never cross. At random uniform levels, a sample."""

    def observable(self, y: Any) -> Any:
        """The nearest value that can be observed: the input of a path's next step, for a sample."""
        return y

    @abstractmethod
    def log_likelihood(self, parameters: Any, y: Any) -> Any:
        """The log-density at ``y``, or the log-probability of counts; ``(...)``."""

    def loss(self, parameters: Any, y: Any) -> Any:
        """The loss in training, ``(...)``: a proper score at ``y``; less is better.

        It is the continuous ranked probability score where that has a closed form: it has the unit
        of ``y``, and grows linearly with an outlier (Gneiting and Raftery 2007, JASA 102, eq. 20).
        Otherwise it is the negative log-likelihood.
        """
        return -self.log_likelihood(parameters, y)

    def score(self, readout: Readout, y: Any, weight: Any) -> Any:
        """The loss of each row, summed over its steps, float32 ``(members, rows)``.

        ``y`` and ``weight`` are ``(members or 1, rows, steps)``; no gradient flows to them.
        ``explain`` says what computes the score.
        """
        ops = namespace(readout.outputs)
        native = self.native
        if native is not None and self._native_declines(readout) is None:
            given = vars(readout) | {"target": y, "weight": weight}
            return ops.cast(score.run(native, given), "float32")
        y, weight = (ops.stop_gradient(ops.convert_to_tensor(data)) for data in (y, weight))
        return ops.sum(self.loss(self.read(readout), y) * weight, axis=-1)

    def read(self, readout: Readout) -> Any:
        """The parameters of all steps, ``(members, rows, steps, size)``; float32, since counts and
        tails may exceed the range of half precision."""
        ops = namespace(readout.outputs)
        return self.parameters(*(ops.cast(each, "float32") for each in readout.raw()))

    def explain(self, readout: Readout) -> dict[str, str]:
        """What computes ``score``, in order of preference, worded as by ``recurrence.explain``."""
        reason = self._native_declines(readout)
        if reason is None:
            return {"native": "runs", "plain": "would run"}
        return {"native": f"declines: {reason}", "plain": "runs"}

    def _native_declines(self, readout: Readout) -> str | None:
        native = self.native
        if native is None:
            return f"it has no {type(self).__name__}"
        return score.declines(native, readout.outputs)


def softplus_inverse(x: Any) -> Any:
    """The number whose softplus is ``x > 0``; NumPy."""
    return np.log(np.expm1(x))


def constant(values: Any, like: Any) -> Any:
    """NumPy values as a tensor if ``like`` is one, else as an array, of the dtype of ``like``."""
    values = np.asarray(values, "float32")
    return namespace(like).convert_to_tensor(values, dtype=like.dtype)
