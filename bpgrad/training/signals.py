"""Ctrl-C and SIGTERM end a run where it can be resumed."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from bpgrad.errors import Interrupted

CAUGHT = (signal.SIGINT, signal.SIGTERM)


class SignalGuard:
    """While entered: a signal during an iteration sets `received`, elsewhere it raises Interrupted.

    The loop polls `received` between iterations, where the weights are whole; evaluation, data
    preparation and writing can be cut anywhere, because nothing half-done of theirs is kept. A
    second Ctrl-C raises at once. Outside the main thread signals are left alone.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.deferred = False
        self._previous: dict[signal.Signals, Callable[..., Any] | int | None] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, self._handle) for s in CAUGHT}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for caught, handler in self._previous.items():
            signal.signal(caught, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self.received is not None
        self.received = signal.Signals(number)
        if again or not self.deferred:
            raise Interrupted(number)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """A stretch in which a signal, also one received before, raises at once."""
        self.deferred = False
        try:
            if self.received is not None:
                raise Interrupted(self.received)
            yield
        finally:
            self.deferred = True
