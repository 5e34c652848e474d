"""Test functions whose evaluations are counted, with limits of evaluations and of CPU time."""

import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import numpy as np
from numpy.typing import NDArray

from experiments.studies.test_functions import TestFunction

Array = NDArray[np.float64]


class Over(Exception):
    """The target was met, or a limit of evaluations or time was reached."""


class Counter:
    """A test function whose evaluations are counted, with the best value after each.

    ``gap`` is for the method to say what it has certified. Raises `Over` at the evaluation after
    ``most``, and once f ≤ ``target``.
    """

    def __init__(self, function: TestFunction, most: int, target: float = -math.inf) -> None:
        self.function = function
        self.most = most
        self.target = target
        self.nfev = self.ngev = 0
        self.best = self.gap = math.inf
        self.progress: list[tuple[int, float]] = []  # evaluations of both kinds, best value
        self.seen: list[tuple[Array, float]] = []

    @property
    def total(self) -> int:
        """Evaluations of f and of the gradient."""
        return self.nfev + self.ngev

    def fun(self, x: Array) -> float:
        """f, counted."""
        self._check()
        self.nfev += 1
        value = self.function(x)
        self.seen.append((np.array(x, dtype=np.float64), value))
        if value < self.best:
            self.best = value
            self.progress.append((self.total, value))
        if value <= self.target:
            raise Over
        return value

    def grad(self, x: Array) -> Array:
        """∇f, counted as one evaluation."""
        self._check()
        self.ngev += 1
        return self.function.gradient(x)

    def reached(self, level: float) -> float:
        """Evaluations after which f ≤ level; NaN if never."""
        return next((float(n) for n, value in self.progress if value <= level), math.nan)

    def _check(self) -> None:
        if self.total >= self.most:
            raise Over


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raise `Over` inside the block after so much CPU time; only in the main thread."""

    def over(number: int, frame: FrameType | None) -> None:
        raise Over

    before = signal.signal(signal.SIGVTALRM, over)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    except SystemError as error:  # of SciPy's C code, from which older versions do not let it pass
        if isinstance(error.__cause__, Over):
            raise Over from None
        raise
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
