"""Several runs at a time, each in a process of its own (--jobs).

Each is forked from a process that has done the imports, which take seconds, and nothing else (or
starts anew where the system cannot fork). The parent prints what a child says, line by line, after
the run's name. A child that sees its parent end stops as at a SIGTERM.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from bpgrad.errors import Interrupted
from bpgrad.signals import CAUGHT, held_back
from bpgrad.startup import open_streams
from bpgrad.training.cli import run_command
from bpgrad.training.config import Config
from bpgrad.training.identity import run_name
from bpgrad.training.progress import say
from bpgrad.training.signals import SignalGuard
from experiments.engine.declaration import PlannedRun

POLL_SECONDS = 0.2  # how long a signal may wait to be passed on
METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


@dataclass
class _Child:
    run: PlannedRun
    process: BaseProcess
    error: str = ""  # its last line that begins with "error: "


def execute(runs: Sequence[tuple[PlannedRun, Config]], jobs: int) -> int:
    """Train, resume or skip the runs, `jobs` at a time; the number that failed, told on stderr.

    The cores are shared among the processes where a run does not say threads=. Ctrl-C and SIGTERM
    are passed on once, so that every run stops where it can be resumed; then Interrupted is raised.
    """
    threads = max(1, cores() // jobs)
    once = {run_name(cfg): (run, cfg) for run, cfg in reversed(runs)}  # a run may have two labels
    waiting = list(once.values())
    total, failed = len(waiting), 0
    running: list[_Child] = []
    lines: queue.SimpleQueue[tuple[_Child, str | None]] = queue.SimpleQueue()
    with SignalGuard(announce=False) as guard, _ended(running):
        guard.deferred = True
        told = False
        while running or (waiting and not guard.received):
            if guard.received and not told:
                told = True
                say(f"stopping {len(running)} runs")
                for child in running:
                    child.process.terminate()
            while waiting and len(running) < jobs and not guard.received:
                run, cfg = waiting.pop()
                say(f"[{total - len(waiting)}/{total}] {run}")
                running.append(_start(run, cfg, threads, lines))
            try:
                child, line = lines.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            if line is not None:
                _pass_on(child, line)
                continue
            child.process.join()
            running.remove(child)
            code = child.process.exitcode or 0
            if code and guard.received:
                say(f"{child.run}: {child.error or 'stopped'}")
            elif code:
                failed += 1
                message = child.error or f"its process ended with {_reason(code)}"
                print(f"error: {child.run}: {message}", file=sys.stderr, flush=True)
        if guard.received:
            raise Interrupted(guard.received, "stopped; the same command resumes")
    return failed


def cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start(
    run: PlannedRun,
    cfg: Config,
    threads: int,
    lines: queue.SimpleQueue[tuple[_Child, str | None]],
) -> _Child:
    context: Any = multiprocessing.get_context(METHOD)
    if METHOD == "forkserver":
        context.set_forkserver_preload(["bpgrad.training.trainer", "torch._dynamo"])
        _start_server()
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(
        target=_train,
        args=(writer, dict(os.environ), replace(cfg, threads=cfg.threads or threads)),
    )
    process.start()
    writer.close()
    child = _Child(run, process)
    threading.Thread(target=_read, args=(child, reader, lines), daemon=True).start()
    return child


def _start_server() -> None:
    """Start the process that children are forked from, if there is none.

    It ends with this one, not at a signal to the whole group: it is asked to start the children,
    and how they ended.
    """
    with held_back(METHOD):
        forkserver.ensure_running()


@contextmanager
def _ended(children: Sequence[_Child]) -> Iterator[None]:
    """Let no child outlive an error here: at the end of this process Python would wait for them."""
    try:
        yield
    finally:
        for child in children:
            child.process.terminate()


def _read(
    child: _Child, pipe: Connection, lines: queue.SimpleQueue[tuple[_Child, str | None]]
) -> None:
    with pipe, open(pipe.fileno(), encoding="utf-8", errors="replace", closefd=False) as text:
        for line in text:
            lines.put((child, line.rstrip("\n")))
    lines.put((child, None))


def _pass_on(child: _Child, line: str) -> None:
    if line.startswith("error: "):
        child.error = line.removeprefix("error: ")
    else:
        say(f"{child.run}: {line}")


def _reason(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _train(output: Connection, environ: Mapping[str, str], cfg: Config) -> None:
    """Train a run in this process, of which the pipe gets all that is printed."""
    os.setpgid(0, 0)  # a Ctrl-C reaches the child through the parent, and once
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, CAUGHT)  # see _start_server
    open_streams()
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    out = open(1, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stderr = out
    output.close()
    os.environ.clear()  # it was forked from a process that may be older
    os.environ.update(environ)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from bpgrad.training.trainer import train

    run_command(lambda: train(cfg))


def _end_with_parent() -> None:
    """Wait for the end of the parent, then stop this process where its run resumes."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
