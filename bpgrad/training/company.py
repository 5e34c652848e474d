"""Several runs side by side in one process and one thread, which take turns.

On a GPU one run of a small net leaves most of it idle: its iteration is a hundred short kernels.
Each run has a stream and a graph of its own, and a turn launches the replays of some iterations
without waiting for them. All read one copy of the data. A run has the same bits as by itself.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from bpgrad.errors import BPGradError, ConfigError, Interrupted, first_line
from bpgrad.tasks.shared import one_copy
from bpgrad.training.config import Config
from bpgrad.training.identity import run_name
from bpgrad.training.numerics import new_stream
from bpgrad.training.progress import quiet, say
from bpgrad.training.signals import SignalGuard
from bpgrad.training.trainer import in_turns
from bpgrad.world import World, choose_device

AUTO = 0  # as many runs as are fastest in sum
MOST = 32
SETTLE_SECONDS, MEASURE_SECONDS = 1.0, 2.0
WORTH = 1.03  # how much faster twice as many runs have to be


def train_together(
    runs: Sequence[tuple[str, Config]], jobs: int, clock: Callable[[], float] = time.perf_counter
) -> int:
    """Train, resume or skip runs, given with their labels, `jobs` at a time; how many failed.

    `AUTO` jobs: one at first, then twice as many as long as that is faster. A run that fails is
    told on stderr and leaves the others alone. On Ctrl-C or SIGTERM all stop where they resume,
    then Interrupted is raised. Raises ConfigError for what goes with one run a process only.
    """
    for label, cfg in runs:
        if cfg.wandb.mode != "disabled" or "RANK" in os.environ:
            raise ConfigError(f"{label}: a W&B mirror and torchrun need a process a run: --jobs 1")
    waiting = list({run_name(cfg): (label, cfg) for label, cfg in reversed(runs)}.values())
    total, failed = len(waiting), 0
    seats = _Seats(jobs, clock)
    company: list[_Seat] = []
    with SignalGuard() as guard, one_copy():
        before = _ProcessState.now(guard)
        guard.deferred = True
        try:
            while company or (waiting and not guard.received):
                while waiting and len(company) < seats.count and not guard.received:
                    label, cfg = waiting.pop()
                    say(f"[{total - len(waiting)}/{total}] {label}")
                    company.append(_Seat(label, cfg, guard, replace(before, deferred=False)))
                for seat in company:
                    seat.company = max(seat.company, len(company))
                seats.measure(sum(seat.turn() for seat in company), len(company))
                failed += sum(seat.failed for seat in company)
                company = [seat for seat in company if not seat.ended]
        finally:
            guard.deferred = True
            for seat in company:  # only after an error of the suite itself
                seat.turns.close()
            before.restore(guard)
        if guard.received:
            raise Interrupted(guard.received, "stopped; the same command resumes")
    return failed


class _Seat:
    """A run among the others: its turns, and what of the process is its own."""

    def __init__(self, label: str, cfg: Config, guard: SignalGuard, process: _ProcessState) -> None:
        self.label, self.guard = label, guard
        self.company = 1  # the most runs that there were beside it, itself among them
        self.started = self.ended = self.failed = False
        world = World(choose_device(cfg.device))
        self._stream = new_stream(world.device)
        self._process = process  # as it was before any run; until one trains it is cut anywhere
        self.turns = in_turns(cfg, world, guard, lambda: self.company)

    def turn(self) -> int:
        """Let the run do some iterations; how many."""
        self._process.restore(self.guard)
        try:
            with quiet(bars=False), self._on_own_stream():
                done = next(self.turns)
            self._process = _ProcessState.now(self.guard)
            self.started = True
            return done
        except StopIteration as end:
            self._tell(end.value)
        except Interrupted as error:
            say(f"{self.label}: {error}")
        except Exception as error:  # of one run, which is not the end of the others
            self.failed = True
            known = isinstance(error, BPGradError)
            if not known and os.environ.get("BPGRAD_DEBUG") == "1":
                traceback.print_exc()
            text = str(error) if known else f"{type(error).__name__}: {first_line(error)}"
            print(f"error: {self.label}: {text}", file=sys.stderr, flush=True)
        finally:
            self.guard.deferred = True
        self.ended = True
        if self._stream is not None:
            gc.collect()  # its graph and tensors hang together in cycles
        return 0

    def _on_own_stream(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _tell(self, result: dict[str, Any]) -> None:
        if self.started:
            names = [name for name in result if name.startswith("val_")]
            values = ", ".join(f"{name} {result[name]:.4g}" for name in names if result[name])
            say(f"{self.label}: {values} after {result['epochs']} epochs")
        else:
            say(f"{self.label}: finished already")


@dataclass
class _ProcessState:
    """What a run sets or draws from in its process, and another must not change."""

    deferred: bool
    threads: int
    deterministic: bool
    arithmetic: tuple[str, str]  # of float32 in matrix products and convolutions on CUDA
    generators: tuple[Any, Any, Any]  # Python's, NumPy's, torch's
    cuda_generators: list[torch.Tensor]

    @classmethod
    def now(cls, guard: SignalGuard) -> _ProcessState:
        return cls(
            guard.deferred,
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            (
                torch.backends.cuda.matmul.fp32_precision,
                torch.backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
            ),
            (random.getstate(), np.random.get_state(), torch.get_rng_state()),  # noqa: NPY002
            torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        )

    def restore(self, guard: SignalGuard) -> None:
        if self.threads != torch.get_num_threads():
            torch.set_num_threads(self.threads)
        torch.use_deterministic_algorithms(self.deterministic)
        matmul, conv = self.arithmetic
        torch.backends.cuda.matmul.fp32_precision = matmul
        torch.backends.cudnn.conv.fp32_precision = conv  # type: ignore[attr-defined]
        random.setstate(self.generators[0])
        np.random.set_state(self.generators[1])  # noqa: NPY002
        torch.set_rng_state(self.generators[2])
        if self.cuda_generators:
            torch.cuda.set_rng_state_all(self.cuda_generators)
        guard.deferred = self.deferred


class _Seats:
    """How many runs there are at a time: as many as asked for, or as are fastest in sum."""

    def __init__(self, jobs: int, clock: Callable[[], float]) -> None:
        self.count = jobs or 1
        self._clock = clock
        self._searching = jobs == AUTO
        self._best, self._rate = 1, 0.0  # so far
        self._begin: float | None = None  # of the count's turns
        self._since: float | None = None  # of the measurement
        self._done = 0

    def measure(self, done: int, alive: int) -> None:
        """Take up how many iterations a round of turns has done, of so many runs."""
        if not self._searching or alive < self.count:
            self._begin = self._since = None
            return
        now = self._clock()
        self._begin = now if self._begin is None else self._begin
        if now - self._begin < SETTLE_SECONDS:
            return
        if self._since is None:
            self._since, self._done = now, 0
            return
        self._done += done
        if now - self._since < MEASURE_SECONDS:
            return
        rate = self._done / (now - self._since)
        say(f"{self.count} side by side: {rate:.0f} iterations/s in sum")
        worth = rate > WORTH * self._rate
        if worth:
            self._best, self._rate = self.count, rate
        self._searching = worth and 2 * self.count <= MOST
        self.count = 2 * self.count if self._searching else self._best
        self._begin = self._since = None
