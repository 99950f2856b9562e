"""The kernels behind ``recurrence.run``. Each answers ``declines`` and ``run``."""
