"""Processes that are forks: what has been imported before costs them nothing."""

import atexit
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

SERVER = multiprocessing.get_context("forkserver")
IMPORTED = ["torch._dynamo", "bpgrad.training.trainer", "pytest", "hypothesis"]


class Fork:
    """`function(*arguments)` in a process of its own, used as a `subprocess.Popen` is.

    Not of the test's own process: after a backward pass, a fork has none where autograd has threads
    (for a GPU, or a fake one). The function is that of a module, for it is pickled.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any, **environment: str) -> None:
        SERVER.set_forkserver_preload(IMPORTED)
        forkserver.ensure_running()
        reading, writing = os.pipe()
        self.stdout = os.fdopen(reading)
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 read after the end
        with (
            Connection(writing, readable=False) as out,
            Connection(os.dup(self._errors.fileno()), readable=False) as errors,
        ):
            self._process = SERVER.Process(
                target=begin, args=(out, errors, os.environ | environment, function, arguments)
            )
            self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def communicate(self) -> tuple[str, str]:
        """What it has written to its two outputs, once it has ended."""
        with self.stdout, self._errors:
            out = self.stdout.read()
            self._process.join()
            self._errors.seek(0)
            return out, self._errors.read()

    def result(self) -> str:
        """Its output; a failure is one of the test."""
        out, errors = self.communicate()
        assert self.returncode == 0, out + errors
        return out


class Script(Fork):
    """Python code as a program in `folder`, with no environment but this one."""

    def __init__(self, code: str, folder: Path, *words: str, **environment: str) -> None:
        super().__init__(run_code, code, folder, words, environment)


def run_code(code: str, folder: Path, words: tuple[str, ...], environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ |= environment
    os.chdir(folder)
    sys.argv = ["-c", *words]
    atexit._clear()
    try:
        exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})
    finally:
        atexit._run_exitfuncs()


def begin(
    out: Connection,
    errors: Connection,
    environment: dict[str, str],
    function: Callable[..., Any],
    rest: Any,
) -> None:
    for stream, pipe in ((1, out), (2, errors)):
        os.dup2(pipe.fileno(), stream)
        pipe.close()
    sys.stdout, sys.stderr = (os.fdopen(k, "w", buffering=1, closefd=False) for k in (1, 2))
    os.environ.clear()
    os.environ |= environment
    os.fsync = os.fstat  # as in conftest.py
    torch.set_num_threads(1)
    function(*rest)


def forked(function: Callable[[], object], *, forget: Iterable[str] = ()) -> tuple[int, str]:
    """Call it in a fork of the test's process in which some packages have not been imported.

    Returns the exit code and what it said on the standard error stream. The fork can neither
    compute gradients nor use CUDA where this process has.
    """
    with tempfile.TemporaryFile("w+") as errors:
        child = multiprocessing.get_context("fork").Process(
            target=_without, args=(errors.fileno(), function, frozenset(forget))
        )
        child.start()
        child.join()
        errors.seek(0)
        return child.exitcode or 0, errors.read()


def _without(errors: int, function: Callable[[], object], packages: frozenset[str]) -> None:
    os.dup2(errors, 2)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    torch.set_num_threads(1)  # of several, only this one is in the fork
    for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
        del sys.modules[name]
    function()
