"""Ctrl-C, SIGTERM and what schedulers send before the end of a job end a run where it resumes."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from bpgrad.errors import Interrupted

# SIGHUP comes from a dropped ssh, SIGUSR1 and SIGUSR2 from Slurm's --signal and submitit.
CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class SignalGuard:
    """While entered: a signal during an iteration sets `received`, elsewhere it raises Interrupted.

    The loop polls `received` between iterations, where the weights are whole; evaluation, data
    preparation and writing can be cut anywhere, because nothing half-done of theirs is kept. A
    second Ctrl-C raises at once; after that all are passed over, until the run has ended. On
    leaving with Interrupted the handler that was there before is called too, as submitit's, which
    puts the job into the queue again. A SIGHUP that nohup ignores stays ignored. Outside the main
    thread signals are left alone.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.deferred = False
        self._raised = False
        self._previous: dict[signal.Signals, Callable[..., Any] | int | None] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for caught in CAUGHT:
                if caught != signal.SIGHUP or signal.getsignal(caught) != signal.SIG_IGN:
                    self._previous[caught] = signal.signal(caught, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for caught, handler in self._previous.items():
            signal.signal(caught, handler)
        if self.received and isinstance(error, Interrupted):
            before = self._previous[self.received]
            if callable(before) and self.received != signal.SIGINT:
                before(int(self.received), None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._raised:
            return
        again = number == signal.SIGINT == self.received
        self.received = self.received or signal.Signals(number)
        if again or not self.deferred:
            self._raised = True
            raise Interrupted(self.received)

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
