"""Processes that are forks of the test's own: what that one has imported costs them nothing."""

import atexit
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # which the first optimizer of a process imports: once for all its forks


class Fork:
    """`function(*arguments)` in a process of its own, used as a `subprocess.Popen` is."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, **environment: str) -> None:
        reading, writing = os.pipe()
        self.stdout = os.fdopen(reading)
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 read after the end
        self._process = multiprocessing.get_context("fork").Process(
            target=begin, args=(writing, self._errors.fileno(), environment, function, arguments)
        )
        self._process.start()
        os.close(writing)

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


def forked(function: Callable[[], object], *, forget: Iterable[str] = ()) -> tuple[int | None, str]:
    """Call it in a fork in which some packages have not been imported: exit code, errors.

    The fork can neither compute gradients nor use CUDA where this process has.
    """
    child = Fork(_without, function, frozenset(forget))
    said = child.communicate()[1]
    return child.returncode, said


def _without(function: Callable[[], object], packages: frozenset[str]) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
        del sys.modules[name]
    function()


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
    out: int, errors: int, environment: dict[str, str], function: Callable[..., Any], rest: Any
) -> None:
    os.dup2(out, 1)
    os.dup2(errors, 2)
    os.close(out)
    sys.stdout, sys.stderr = (os.fdopen(k, "w", buffering=1, closefd=False) for k in (1, 2))
    os.environ |= environment
    torch.set_num_threads(1)  # the threads of the first process are not in its fork
    function(*rest)
