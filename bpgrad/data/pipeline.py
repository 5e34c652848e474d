"""Examples that are read and augmented by worker processes, in an order given from outside."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from multiprocessing.connection import wait
from typing import Any

from torch.utils.data import DataLoader, Dataset

from bpgrad.errors import WorkerError
from bpgrad.signals import CAUGHT, held_back

Key = tuple[int, int]  # epoch and index of an example


class EpochLoader:
    """Batches of a map-style data set, the same with any number of workers.

    `examples[epoch, index]` reads the example and augments it by a generator keyed by seed, epoch
    and index: never by the state of the process that happens to do it. The workers live as long as
    the loader.

    Args:
        examples: The data set, which is copied into each worker.
        collate: Makes a batch of a list of examples.
        workers: The number of processes; 0 reads in this one.
        pin_memory: For copies to a GPU that do not wait.
    """

    def __init__(
        self,
        examples: Dataset[Any],
        collate: Callable[[list[Any]], Any],
        workers: int = 0,
        *,
        pin_memory: bool = False,
    ) -> None:
        self._plan: list[list[Key]] = []  # read anew by every iteration of the loader
        self._ready = workers == 0  # once they run
        self._loader = DataLoader(
            examples,
            batch_sampler=self._plan,
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            worker_init_fn=_leave_signals_to_the_parent,
        )

    def __call__(self, epoch: int, batches: Sequence[Sequence[int]]) -> Iterator[Any]:
        """The batches of these indices, in this order."""
        self._plan[:] = [[(epoch, int(index)) for index in indices] for indices in batches]
        with nullcontext() if self._ready else held_back():  # until workers are ready for them
            found = iter(self._loader)
        self._ready = True
        return _told(found)


def _told(batches: Iterator[Any]) -> Iterator[Any]:
    try:
        yield from batches
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise WorkerError(
            "a process that reads data was killed, perhaps for want of memory; the same command "
            "resumes, with workers=1 or workers=0 in less of it"
        ) from error


def _leave_signals_to_the_parent(worker: int) -> None:
    """What is sent to a process group, as a Ctrl-C, or to each process is not for the workers.

    The parent saves first, which the end of a worker would cut; then it ends them, by a SIGTERM.
    """
    os.setpgid(0, 0)
    parent = multiprocessing.parent_process()  # the system's may be a server that forked this one
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    ignored = set(CAUGHT) - {signal.SIGTERM}
    for sent in ignored:
        signal.signal(sent, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ignored)
    if not hasattr(signal, "sigwaitinfo"):  # macOS does not tell who has sent it
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        return
    threading.Thread(target=_end_if_the_parent_says_so, args=(parent.pid,), daemon=True).start()


def _end_with(parent: int) -> None:
    wait([parent])
    os._exit(1)


def _end_if_the_parent_says_so(parent: int) -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)  # of a worker that ends otherwise torch makes an error
