"""Several runs at a time, each in a process of its own (--jobs).

The parent starts python -m experiments.engine.side_by_side with a run's configuration on its
standard input, and prints what the child says, line by line, after the run's name. It holds that
input open: a child that sees it end has lost its parent, and stops as at a SIGTERM.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from bpgrad.errors import Interrupted
from bpgrad.training.cli import run_command
from bpgrad.training.config import Config
from bpgrad.training.identity import run_name
from bpgrad.training.progress import say
from bpgrad.training.signals import SignalGuard
from experiments.engine.declaration import PlannedRun

POLL_SECONDS = 0.2  # how long a signal may wait to be passed on


@dataclass
class _Child:
    run: PlannedRun
    process: subprocess.Popen[bytes]
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
    with SignalGuard() as guard:
        guard.deferred = True
        told = False
        while running or (waiting and not guard.received):
            if guard.received and not told:
                told = True
                say(f"stopping {len(running)} runs")
                for child in running:
                    child.process.send_signal(signal.SIGTERM)
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
            running.remove(child)
            code = child.process.wait()
            _close_input(child.process)
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
    # A process group of its own: a Ctrl-C reaches the child through the parent, and once.
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.engine.side_by_side"],
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        | {"PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        process_group=0,
    )
    child = _Child(run, process)
    threading.Thread(target=_read, args=(child, lines), daemon=True).start()
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # a child that ended at once; its exit code says so
        process.stdin.write(pickle.dumps(replace(cfg, threads=cfg.threads or threads)))
        process.stdin.flush()
    return child


def _close_input(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # what it did not read any more
        process.stdin.close()


def _read(child: _Child, lines: queue.SimpleQueue[tuple[_Child, str | None]]) -> None:
    assert child.process.stdout is not None
    with child.process.stdout as pipe:
        for line in pipe:
            lines.put((child, line.decode(errors="replace").rstrip("\n")))
    lines.put((child, None))


def _pass_on(child: _Child, line: str) -> None:
    if line.startswith("error: "):
        child.error = line.removeprefix("error: ")
    else:
        say(f"{child.run}: {line}")


def _reason(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _train() -> None:
    """Train the run whose configuration comes on the standard input."""
    cfg = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from bpgrad.training.trainer import train

    train(cfg)


def _end_with_parent() -> None:
    """Wait for the end of the standard input, then stop this process where its run resumes."""
    # Not sys.stdin: its lock would be held when the interpreter shuts down.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    run_command(_train)
