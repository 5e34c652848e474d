"""Code in a process of its own that need not import torch again, which takes seconds."""

import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable

import torch


def forked(function: Callable[[], object], *, forget: Iterable[str] = ()) -> tuple[int, str]:
    """Call it in a fork of this process, in which some packages have not been imported.

    Returns the exit status and what the child said on the standard error stream. The child may
    neither compute gradients nor use CUDA: where this process has, a fork of it cannot.
    """
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.dup2(said.fileno(), 2)
                sys.stderr = os.fdopen(2, "w", closefd=False)
                torch.set_num_threads(1)  # of several, only this one is in the fork
                gone = set(forget)
                for name in [name for name in sys.modules if name.partition(".")[0] in gone]:
                    del sys.modules[name]
                function()
                status = 0
            except BaseException:
                traceback.print_exc(file=sys.stderr)
            finally:
                sys.stderr.flush()
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        return status, said.read().decode()
