"""The signals that a run answers, and how they are kept from processes that it starts."""

import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

# SIGHUP comes from a dropped ssh, SIGUSR1 and SIGUSR2 from Slurm's --signal and submitit.
CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@contextmanager
def held_back(method: str | None = None) -> Iterator[None]:
    """While entered, the signals wait, also in processes that are started by multiprocessing.

    What is sent to a whole process group, as a Ctrl-C, then ends none that is not ready for it, nor
    the helpers of Python's own: the resource tracker, and the server that others are forked from.

    Args:
        method: By which processes are started; None: multiprocessing's own.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, CAUGHT)
    try:
        if (method or multiprocessing.get_start_method()) != "fork":
            resource_tracker.ensure_running()  # lets two of them through again
            signal.pthread_sigmask(signal.SIG_BLOCK, CAUGHT)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
