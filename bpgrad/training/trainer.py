"""The one training loop, for every task and solver.

Nothing of an iteration (iteration.py) is read back to the host: what it measures goes to a buffer
on the device that is read once an epoch.
"""

import hashlib
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bpgrad.errors import (
    CheckpointError,
    ConfigError,
    DamagedRecordError,
    Diverged,
    Interrupted,
    SolverError,
)
from bpgrad.records.provenance import describe_start, is_channels_last, tensors_sha256
from bpgrad.records.run_record import Row, RunRecord
from bpgrad.tasks.shared import shared
from bpgrad.tasks.task import Task
from bpgrad.training import checkpoint
from bpgrad.training.config import Config, SolverSpec, solver_spec, task_class, task_options
from bpgrad.training.history import (
    History,
    Position,
    epoch_metrics,
    epoch_timing,
    step_summary,
)
from bpgrad.training.identity import describe
from bpgrad.training.iteration import TURN, Iterations, autocast
from bpgrad.training.lookup import record_of
from bpgrad.training.mirror import mirrored
from bpgrad.training.numerics import configure_torch, context_of, own_stream
from bpgrad.training.progress import ProgressBar, epoch_line, say
from bpgrad.training.signals import SignalGuard
from bpgrad.training.solver import reservations
from bpgrad.training.trial import make_solver
from bpgrad.world import World, join_world

Values = dict[str, float]
Alive = Callable[[], int]  # how many runs there are side by side
Turns = Generator[int, None, dict[str, Any]]
CHECKPOINT = "checkpoint.pt"
EPOCH_SECONDS = 10.0  # a checkpoint after an epoch is not sooner than this after the last
FIXED_EVERY = 10  # epochs between evaluations on the training set at fixed weights
STOP_POLL = 20  # iterations between agreements on a signal, where there are several processes


def train(cfg: Config) -> dict[str, Any]:
    """Train as configured, or resume, or find the run finished; return the final metrics.

    Raises Interrupted on Ctrl-C or SIGTERM (the same call resumes), Diverged, and the errors of
    configuration, data, checkpoints and records; each message is one line.
    """
    with SignalGuard() as guard, join_world(cfg.device) as world, own_stream(world):
        turns = in_turns(cfg, world, guard)
        while True:
            try:
                next(turns)
            except StopIteration as end:
                return dict(end.value)


def in_turns(cfg: Config, world: World, guard: SignalGuard, alive: Alive = lambda: 1) -> Turns:
    """The same in turns, for several runs in one process (company.py): yields every few iterations.

    What is yielded is how many of them there were since the turn before.
    """
    record = record_of(cfg, world)
    finished = world.from_main(lambda: record.begin(rerun=cfg.rerun))
    try:
        if finished is not None:
            if world.is_main:
                say(f"{record.directory}: finished already (rerun=true repeats it)")
            return finished
        run = _start(cfg, world, guard, record.rerun if cfg.rerun else record, alive)
        return (yield from run.to_the_end())
    finally:
        if world.is_main:
            record.unlock()


def _start(
    cfg: Config, world: World, guard: SignalGuard, record: RunRecord, alive: Alive
) -> "_Run":
    """A run where it was left; a rerun that cannot be gone on with is begun again."""
    try:
        return _Run(cfg, world, guard, record, alive)
    except (CheckpointError, DamagedRecordError) as error:
        if record.replaces is None:
            raise
        if world.is_main:
            say(f"the rerun begins again: {error}")
            record.discard()
        world.barrier()
        return _Run(cfg, world, guard, record, alive)


class _Run:
    """One run's parts, and the loop over them."""

    def __init__(
        self, cfg: Config, world: World, guard: SignalGuard, record: RunRecord, alive: Alive
    ) -> None:
        self.cfg, self.world, self.guard, self.record = cfg, world, guard, record
        self.alive, self.saved_at = alive, time.monotonic()
        self.spec: SolverSpec = solver_spec(cfg)
        self.checkpoint = record.checkpoints / CHECKPOINT
        if diverged := record.meta().get("diverged"):
            world.from_main(record.complete)
            more = "; recorded earlier, rerun=true repeats"
            raise Diverged.at(record.name, diverged["epoch"], diverged["iteration"], more)
        saved = checkpoint.load(self.checkpoint, record.name)
        configure_torch(cfg, world.device)
        if self.spec.create_graph and world.size > 1:
            raise ConfigError(
                "solver.create_graph: DistributedDataParallel cannot; use one process"
            )

        self.task: Task = task_class(cfg)(context_of(cfg, world), **task_options(cfg))
        self.model: nn.Module = self.task.build_model(cfg.seed)
        hashes = {"initial_weights_sha256": tensors_sha256(self.model.state_dict())}
        rates = self.task.lr_multipliers(self.model)
        decays = self.task.decay_multipliers(self.model)
        self.solver = make_solver(self.spec, self.model, rates, world.device, decays=decays)
        for remark in self.solver.remarks:
            self._say(remark)
        # Counted in the record, and said at the end.
        warnings.filterwarnings("ignore", "L = .* is too small|.* steps were skipped")
        self.columns = (*self.task.train_metrics, *self.solver.scalar_names)
        order = self.task.batch_order(1)
        self.sizes = [len(part) for part in order.split(cfg.batch_size)]
        self.solver.set_length(cfg.epochs, len(self.sizes))
        size = len(self.sizes), len(self.columns)
        self.series = torch.full(size, torch.nan, dtype=torch.float32, device=world.device)
        self.at = Position()
        self.history = History(self.columns)
        if saved is not None:
            self._restore(saved)
        parallel = DistributedDataParallel(self.model) if world.size > 1 else self.model
        self.iterations = Iterations(
            cfg, world, self.task, parallel, self.solver, self.series, self.sizes
        )
        if cfg.step == "graph" and self.iterations.obstacle:
            self._say(f"step=graph: eager all the same; {self.iterations.obstacle}")
        hashes["batch_order_sha256"] = hashlib.sha256(order.numpy().tobytes()).hexdigest()
        preprocessed = "sha256", self.task.data_key or object()
        hashes["preprocessed_sha256"] = shared(
            preprocessed, lambda: tensors_sha256(self.task.preprocessed())
        )
        world.from_main(lambda: self._record_start(hashes))

    def _record_start(self, hashes: dict[str, str]) -> None:
        description = describe(self.cfg)
        self.record.check_config(description)
        self.history.bring_back(self.record)
        self.record.write_config(description)
        start = describe_start(
            device=self.world.device,
            world_size=self.world.size,
            epoch=self.at.epoch,
            iteration=self.at.iteration,
        )
        start |= {"captured": not self.iterations.obstacle, "concurrent_runs": self.alive()}
        start["channels_last"] = is_channels_last(self.model)
        data_md5 = dict(self.task.data_md5(Path(self.cfg.data_root)))
        meta = self.record.meta() | hashes | {"data_md5": data_md5}
        meta["starts"] = [*meta.get("starts", []), start]
        self.record.write_meta(meta)

    def to_the_end(self) -> Turns:
        """Do the epochs that are left, then write the result."""
        cfg, total = self.cfg, self.cfg.epochs * len(self.sizes)
        done = (self.at.epoch - 1) * len(self.sizes) + self.at.iteration
        if done:
            self._say(f"{self.record.directory}: resuming at epoch {self.at.epoch}")
        with mirrored(cfg, self.record, self.history, wanted=self.world.is_main) as mirror:
            with ProgressBar(total, done, cfg.batch_size, show=self.world.is_main) as bar:
                while self.at.epoch <= cfg.epochs:
                    mirror((yield from self._epoch(bar)))
            return self._finish()

    def _epoch(self, bar: ProgressBar) -> Generator[int, None, Row]:
        """Train from the current position to the end of the epoch, evaluate, record."""
        epoch = self.at.epoch
        rate = self.solver.set_learning_rate(epoch)
        if self.at.iteration == 0:
            self.solver.feedback.start_epoch()
        if self.at.iteration < len(self.sizes):
            self.solver.training_mode()
        self.guard.deferred = True
        self.model.train()
        clock, before = time.perf_counter(), self.at.train_seconds
        turn = self.at.iteration
        for consumed in self._iterated(epoch):
            self.at.advance(consumed)
            bar.advance(epoch, len(consumed))
            due = time.monotonic() - self.saved_at > 60 * self.cfg.checkpoint_minutes
            if due or self.guard.received or self.world.size > 1:
                self.at.train_seconds = before + time.perf_counter() - clock
                if self._stop_requested():
                    self._stop()
                if due:
                    self._check_divergence()
                    self._save()
            if self.at.iteration % TURN == 0:
                yield self.at.iteration - turn
                turn = self.at.iteration
        yield self.at.iteration - turn
        self._check_divergence()  # reads the buffer, and so waits for the device
        self.at.train_seconds = before + time.perf_counter() - clock

        self.solver.evaluation_mode()
        validation, eval_seconds = self._evaluated(lambda: self.task.evaluate(self.model, epoch))
        fixed, fixed_seconds = Values(), 0.0
        if epoch % FIXED_EVERY == 0 or epoch > self.cfg.epochs - self.task.fixed_last:
            fixed, fixed_seconds = self._evaluated(lambda: self.task.evaluate_training(self.model))

        clock = time.perf_counter()
        series = self.series.cpu().numpy().copy()
        metrics = epoch_metrics(epoch, series, self.sizes, self.task.train_metrics, rate)
        metrics |= {f"val_{name}": value for name, value in validation.items()}
        metrics |= {f"fixed_{name}": value for name, value in fixed.items()}
        metrics |= step_summary(series, self.columns) | self.solver.counters()
        seconds = self.at.train_seconds, eval_seconds, fixed_seconds
        timing = epoch_timing(epoch, sum(self.sizes), seconds, self.alive())
        self.history.add(series, metrics, timing, self.at.consumed)
        self.at = Position(epoch + 1)
        self.series.fill_(torch.nan)
        if self.world.is_main:
            self.history.write_series(self.record, series)
        wait = min(EPOCH_SECONDS, 60 * self.cfg.checkpoint_minutes)
        if time.monotonic() - self.saved_at >= wait or epoch == self.cfg.epochs:
            self._save()
        if self.world.is_main:
            timing["log_seconds"] = round(time.perf_counter() - clock, 3)  # but for the rows'
            self.history.write_rows(self.record)
        bar.say(epoch_line(self.cfg, self.task.metrics, metrics, timing, bar.eta()))
        if self._stop_requested():
            self._stop()
        return metrics | timing

    def _iterated(self, epoch: int) -> Iterator[Sequence[bytes]]:
        """What the epoch's iterations consume, as they are done."""
        try:
            yield from self.iterations.of(epoch, self.at.iteration)
        except SolverError as error:
            self.at.iteration += 1
            self._check_divergence()  # if the weights are NaN, whatever else fails is no news
            where = f"epoch {self.at.epoch}, iteration {self.at.iteration}"
            raise SolverError(f"{self.record.name}: {error} (at {where})") from error

    def _evaluated(self, evaluate: Callable[[], Values]) -> tuple[Values, float]:
        """An evaluation, which a signal cuts short, and the seconds that it took."""
        clock = time.perf_counter()
        try:
            with self.guard.interruptible(), autocast(self.cfg, self.world):
                return evaluate(), time.perf_counter() - clock
        except Interrupted:
            self._stop()

    def _finish(self) -> dict[str, Any]:
        self.guard.interrupt()
        last = self.history.metrics
        result = {
            "run": self.record.name,
            "epochs": self.cfg.epochs,
            **{key: value for key, value in last.items() if key not in ("epoch", "lr")},
            "train_seconds": round(self.history.train_seconds, 1),
            "weights_sha256": tensors_sha256(self.model.state_dict()),
        }
        if self.world.is_main:
            self.history.write_steps(self.record)
            for name, picture in self.task.pictures(self.model).items():
                self.record.write_picture(name, picture)
            self.record.write_outputs(*self.task.outputs(self.model))
            result = self.record.write_result(result)
            self.record = self.record.complete()
        for line in (*reservations(result), f"recorded in {self.record.directory}"):
            self._say(line)
        return result

    # -- stopping and resuming -------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        return {
            "position": vars(self.at).copy(),
            "model": self.model.state_dict(),
            "solver": self.solver.state_dict(),
            "series": self.series,
            "history": self.history.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        }

    def _save(self) -> None:
        self.saved_at = time.monotonic()
        if self.world.is_main and not self.solver.unsaved:
            checkpoint.save(self.checkpoint, self.record.name, self._state())

    def _restore(self, state: dict[str, Any]) -> None:
        checkpoint.check(self.checkpoint, state, self._state(), self.cfg.epochs)
        try:
            self.solver.load_state_dict(state["solver"])
            self.model.load_state_dict(state["model"])
            self.history.load_state_dict(state["history"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise checkpoint.misfit(self.checkpoint, error) from error
        self.at = Position(**state["position"])
        self.series.copy_(state["series"])
        torch.set_rng_state(state["rng"])
        if torch.cuda.is_initialized() and state["cuda_rng"]:
            torch.cuda.set_rng_state_all(state["cuda_rng"])

    def _stop_requested(self) -> bool:
        """Whether to stop here; several processes must do so at the same iteration."""
        flag = self.guard.received is not None
        if self.world.size == 1:
            return flag
        return self.at.iteration % STOP_POLL == 0 and self.world.any(flag)

    def _stop(self) -> NoReturn:
        self._save()
        if self.world.is_main:
            self.history.write_steps(self.record)
        number = self.guard.received or 15  # another process was told
        where = f"epoch {self.at.epoch}, iteration {self.at.iteration}"
        then = "begins again" if self.solver.unsaved else "resumes"
        raise Interrupted(number, f"{self.record.name} stopped at {where}; the same command {then}")

    def _check_divergence(self) -> None:
        objective = self.series[: self.at.iteration, 0]
        bad = torch.nonzero(~objective.isfinite())
        if len(bad) == 0:
            return
        where = {"epoch": self.at.epoch, "iteration": int(bad[0]) + 1}
        if self.world.is_main:
            self.record.write_meta(self.record.meta() | {"diverged": where})
            self.record = self.record.complete()
        raise Diverged.at(self.record.name, where["epoch"], where["iteration"])

    def _say(self, line: str) -> None:
        if self.world.is_main:
            say(line)
