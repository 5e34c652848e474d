"""Ctrl-C, SIGTERM and what schedulers send before the end of a job end a run where it resumes."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, Self

from bpgrad.errors import Interrupted
from bpgrad.signals import CAUGHT


class SignalGuard:
    """While entered: a signal while epochs are trained sets `received`, else it raises Interrupted.

    The loop polls `received` between iterations, where the weights are whole, which an iteration
    of seconds delays: the first process says at once that it will stop. Evaluations, and what comes
    before the first epoch or after the last one, can be cut anywhere, because nothing half-done of
    theirs is kept. A second Ctrl-C raises at once; after that all are passed over, until the run
    has ended. On leaving with Interrupted the handler that was there before is called too, as
    submitit's, which puts the job into the queue again. A SIGHUP that nohup ignores stays ignored.
    Outside the main thread signals are left alone.

    Args:
        announce: Say that an iteration is waited for.
    """

    def __init__(self, *, announce: bool = True) -> None:
        self._announce = announce and os.environ.get("RANK", "0") == "0"
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
        first, again = self.received is None, number == signal.SIGINT == self.received
        self.received = self.received or signal.Signals(number)
        if again or not self.deferred:
            self._raised = True
            raise Interrupted(self.received)
        if first and self._announce:
            _write(f"{self.received.name}: stopping after this iteration ...")

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """A stretch in which a signal, also one received before, raises at once."""
        try:
            self.interrupt()
            yield
        finally:
            self.deferred = True

    def interrupt(self) -> None:
        """From here on a signal, also one received before, raises at once."""
        self.deferred = False
        if self.received is not None:
            raise Interrupted(self.received)


def _write(line: str) -> None:
    """Write a line on stderr from a handler, which may have cut a `print`."""
    with suppress(OSError, ValueError, AttributeError):  # closed, no file, or None
        descriptor = sys.stderr.fileno()
        # A terminal has the ^C, or a progress bar, in this line.
        begin = "\n" if os.isatty(descriptor) else ""
        os.write(descriptor, f"{begin}{line}\n".encode())
