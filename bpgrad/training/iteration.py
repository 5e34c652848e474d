"""One iteration of training, eager or captured, and the iterations of an epoch.

Nothing is read back to the host: objective, errors, step size and gradient norm go to a buffer on
the device.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bpgrad.errors import SolverError, first_line
from bpgrad.tasks.task import Batch, Task
from bpgrad.training.capture import Replayed
from bpgrad.training.config import Config
from bpgrad.training.solver import Solver
from bpgrad.world import World

TURN = 50  # iterations that are replayed before the host looks up


def obstacle(cfg: Config, world: World, task: Task, solver: Solver) -> str:
    """Why iterations are not captured in a CUDA graph; empty if they are."""
    if cfg.step == "eager":
        return "step=eager"
    if world.device.type != "cuda":
        return "only a CUDA device has graphs"
    if world.size > 1:
        return "several processes train the model"
    if not task.static_shapes:
        return "its minibatches differ in shape, or are streamed"
    return solver.obstacle_to_capture()


def on_device(world: World, task: Task) -> bool:
    """Whether minibatches are gathered by a counter on the device; on a CPU that gains nothing."""
    return world.device.type == "cuda" and world.size == 1 and task.static_shapes


@dataclass
class Iterations:
    """The iterations of one run after another.

    `series` (iterations of an epoch × columns, float32, on the device) gets a row of each, NaN
    before. `sizes` are the numbers of examples. `model` is the parallel one where there are several
    processes.
    """

    cfg: Config
    world: World
    task: Task
    model: nn.Module
    solver: Solver
    series: Tensor
    sizes: Sequence[int]

    def __post_init__(self) -> None:
        if on_device(self.world, self.task):
            self.solver.put_rates_on_device()
        self.obstacle = obstacle(self.cfg, self.world, self.task, self.solver)
        self._captured = None if self.obstacle else Replayed(self._whole)
        if not self.obstacle or on_device(self.world, self.task):
            device = self.world.device
            self._at = torch.zeros(1, dtype=torch.int64, device=device)
            self._rows = torch.arange(len(self.sizes), device=device).unsqueeze(1)
            self._run = self._on_device
        else:
            self._run = self._streamed

    def of(self, epoch: int, start: int) -> Iterator[Sequence[bytes]]:
        """Do the iterations of an epoch from `start` on; what each has consumed, when it is done.

        One is done at a time where they are eager, up to `TURN` where they are captured. Raises
        SolverError for what the optimizer raises; the series has the objective then.
        """
        return self._run(epoch, start)

    def _streamed(self, epoch: int, start: int) -> Iterator[Sequence[bytes]]:
        """Minibatches as the task brings them."""
        first = (epoch - 1) * len(self.sizes)
        for k, batch in enumerate(self.task.train_batches(epoch, start), start):
            self.solver.set_iteration(first + k)
            self.series[k] = self._iterate(batch, k)
            yield [batch.consumed]

    def _on_device(self, epoch: int, start: int) -> Iterator[Sequence[bytes]]:
        """Minibatches by a counter on the device."""
        consumed = self.task.load_epoch(epoch)
        self._at.fill_(start)
        first, whole = (epoch - 1) * len(self.sizes), self.cfg.batch_size
        k = start
        while k < len(self.sizes):
            if self._captured is None or self.sizes[k] != whole:
                self.solver.set_iteration(first + k)
                self._counted(self.sizes[k], k)
                done = 1
            else:
                done = min(TURN - k % TURN, self.sizes.count(whole) - k)
                self._replay(done)
            k += done
            yield consumed[k - done : k]

    def _replay(self, count: int) -> None:
        assert self._captured is not None
        rates, before = self.solver.rates(), self._captured.replays
        try:
            for _ in range(count):
                self._captured(rates)
        except (RuntimeError, SolverError) as error:  # the process does not recover from it
            raise SolverError(f"cannot be captured, use step=eager: {first_line(error)}") from error
        self.solver.replayed(self._captured.replays - before)

    def _whole(self) -> None:
        self._counted(self.cfg.batch_size)

    def _counted(self, size: int, k: int | None = None) -> None:
        """The iteration that the counter says; what it reads and writes keeps its address."""
        self.solver.follow_schedule(self._at)
        row = self._iterate(Batch(*self.task.take(self._at, size), size), k)
        torch.where(self._rows == self._at, row, self.series, out=self.series)
        self._at += 1

    def _iterate(self, batch: Batch, k: int | None) -> Tensor:
        """A step of the solver on a minibatch, the epoch's k-th; the row of the series."""
        try:
            seen = self._gradients(batch)
            self.solver.step(seen[0], batch.size, lambda: self._gradients(batch)[0])
        except SolverError:
            if k is not None:
                self.series[k, 0] = self.solver.objective
            raise
        return torch.cat([seen, *self.solver.scalars()])

    def _gradients(self, batch: Batch) -> Tensor:
        """Take the minibatch's gradients, in place of earlier ones; its metrics."""
        self.solver.zero_grad()
        *others, last = batch.split(self.cfg.micro_batch, self.world.size)
        seen = sum(self._accumulate(part, synchronise=False) for part in others)
        return self.world.mean_(seen + self._accumulate(last))

    def _accumulate(self, part: Batch, *, synchronise: bool = True) -> Tensor:
        """Add a micro-batch's gradients to the others'; its metrics."""
        with nullcontext() if synchronise else self.world.unsynchronised(self.model):
            with autocast(self.cfg, self.world):
                values = self.task.objective(self.model, part)
            self.solver.backward(values["objective"])
        return torch.stack([values[name].detach().float() for name in self.task.train_metrics])


def autocast(cfg: Config, world: World) -> torch.autocast:
    """What a model is evaluated in: bfloat16 where that is the precision."""
    return torch.autocast(world.device.type, torch.bfloat16, enabled=cfg.precision == "bf16")
