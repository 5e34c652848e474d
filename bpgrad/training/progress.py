"""Progress on the screen: a bar with rate and ETA on a terminal, plain lines elsewhere."""

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from bpgrad.metrics import Metric, short_phase
from bpgrad.training.config import Config

PLAIN_SECONDS = 60.0  # between lines inside an epoch, where there is no terminal
BAR_SECONDS = 0.2


class ProgressBar:
    """Shows the iterations of a run; silent on all processes but the first."""

    def __init__(self, total: int, done: int, batch_size: int, *, show: bool) -> None:
        self.total, self.done, self.batch_size = total, done, batch_size
        self._show = show
        self._pending = 0
        self._first = done
        self._begin = self._last = time.perf_counter()
        self._bar: Progress | None = None
        if show and _bars and sys.stdout.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]} images/s, ETA"),
                TimeRemainingColumn(),
                console=Console(highlight=False),
                transient=True,
            )
            self._task = self._bar.add_task("", total=total, completed=done, rate="–")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, epoch: int, iterations: int = 1) -> None:
        """Count iterations; costs a clock reading but for a few times a second."""
        self.done += iterations
        self._pending += iterations
        elapsed = time.perf_counter() - self._last
        if not self._show or elapsed < (BAR_SECONDS if self._bar else PLAIN_SECONDS):
            return
        rate = self._pending * self.batch_size / elapsed
        self._pending, self._last = 0, time.perf_counter()
        if self._bar:
            self._bar.update(
                self._task, completed=self.done, description=f"epoch {epoch}", rate=_digits(rate)
            )
        else:
            place = f"epoch {epoch}  iteration {self.done}/{self.total}"
            self.say(f"{place}  {_digits(rate)} images/s")

    def eta(self) -> str:
        """The remaining time, from the rate since this start, evaluation and logging included."""
        if self.done == self._first:
            return "–"
        seconds = (time.perf_counter() - self._begin) / (self.done - self._first)
        return time.strftime("%H:%M:%S", time.gmtime(seconds * (self.total - self.done)))

    def say(self, line: str) -> None:
        """Print a line, above the bar where there is one; the next rate begins here.

        What an epoch has come to is said after its evaluation, whose time is not training's.
        """
        self._pending, self._last = 0, time.perf_counter()
        if not self._show or _quiet:
            return
        if self._bar:
            self._bar.console.print(line, markup=False, soft_wrap=True)
        else:
            say(line)


_quiet, _bars = False, True


@contextmanager
def quiet(*, bars: bool = True) -> Iterator[None]:
    """Let trainings print no lines; a bar on a terminal stays, unless there would be several."""
    global _quiet, _bars
    before = _quiet, _bars
    _quiet, _bars = True, bars
    try:
        yield
    finally:
        _quiet, _bars = before


def say(line: str) -> None:
    """Print a line; a reader that went away (a closed pipe) does not end a training."""
    if _quiet:
        return
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def epoch_line(
    cfg: Config,
    metrics: Mapping[str, Metric],
    row: Mapping[str, float],
    timing: Mapping[str, float],
    eta: str,
) -> str:
    """What is shown of an epoch: each metric in training and on what is held out, rate and ETA."""
    parts = [f"epoch {row['epoch']:>3}/{cfg.epochs}"]
    for phase in ("train", "val"):
        shown = [
            f"{metric.title} {row[f'{phase}_{name}']:.4g} {metric.unit}".rstrip()
            for name, metric in metrics.items()
            if f"{phase}_{name}" in row and not metric.detail
        ]
        parts.append(" ".join([short_phase(cfg.task["name"], f"{phase}_"), *shown]))
    return "  ".join([*parts, f"{_digits(timing['images_per_second'])} images/s", f"ETA {eta}"])


def _digits(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}"
