"""The one training loop, for every task and solver.

Nothing of an iteration is read back to the host: objective, errors, step size and gradient norm go
to a buffer on the device that is read once an epoch.
"""

import hashlib
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bpgrad.errors import (
    CheckpointError,
    ConfigError,
    DamagedRecordError,
    Diverged,
    Interrupted,
    SolverError,
)
from bpgrad.records.provenance import describe_start, tensors_sha256
from bpgrad.records.run_record import Row, RunRecord
from bpgrad.tasks.task import Batch, Task
from bpgrad.training import checkpoint
from bpgrad.training.config import Config, SolverSpec, solver_spec, task_class, task_options
from bpgrad.training.history import History, epoch_means, step_summary
from bpgrad.training.identity import describe, run_name
from bpgrad.training.mirror import open_mirror
from bpgrad.training.numerics import configure_torch, context_of
from bpgrad.training.progress import ProgressBar, epoch_line, say
from bpgrad.training.signals import SignalGuard
from bpgrad.training.solver import reservations
from bpgrad.training.trial import make_solver
from bpgrad.world import World, join_world

Values = dict[str, float]
CHECKPOINT = "checkpoint.pt"
FIXED_EVERY = 10  # epochs between evaluations on the training set at fixed weights
STOP_POLL = 20  # iterations between agreements on a signal, where there are several processes


def train(cfg: Config) -> dict[str, Any]:
    """Train as configured, or resume, or find the run finished; return the final metrics.

    Raises Interrupted on Ctrl-C or SIGTERM (the same call resumes), Diverged, and the errors of
    configuration, data, checkpoints and records; each message is one line.
    """
    with SignalGuard() as guard, join_world(cfg.device) as world:
        record = RunRecord(Path(cfg.results_root), Path(cfg.checkpoint_root), run_name(cfg))
        finished = world.from_main(lambda: record.begin(rerun=cfg.rerun))
        try:
            if finished is not None:
                if world.is_main:
                    say(f"{record.directory}: finished already (rerun=true repeats it)")
                return finished
            return _start(cfg, world, guard, record.rerun if cfg.rerun else record).to_the_end()
        finally:
            if world.is_main:
                record.unlock()


def _start(cfg: Config, world: World, guard: SignalGuard, record: RunRecord) -> "_Run":
    """A run where it was left; a rerun that cannot be gone on with is begun again."""
    try:
        return _Run(cfg, world, guard, record)
    except (CheckpointError, DamagedRecordError) as error:
        if record.replaces is None:
            raise
        if world.is_main:
            say(f"the rerun begins again: {error}")
            record.discard()
        world.barrier()
        return _Run(cfg, world, guard, record)


@dataclass
class _Position:
    """Where a run stands: the next iteration to do, and the epoch so far."""

    epoch: int = 1
    iteration: int = 0
    train_seconds: float = 0.0
    consumed: str = ""  # the sha256 of what each iteration has consumed, chained


class _Run:
    """One run's parts, and the loop over them."""

    def __init__(self, cfg: Config, world: World, guard: SignalGuard, record: RunRecord) -> None:
        self.cfg, self.world, self.guard, self.record = cfg, world, guard, record
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
        # The static buffers of an iteration: what it takes, and what it leaves.
        self.batch: Batch
        self.row = torch.zeros(len(self.columns), dtype=torch.float32, device=world.device)
        self.at = _Position()
        self.history = History(self.columns)
        if saved is not None:
            self._restore(saved)
        self.parallel: nn.Module = (
            DistributedDataParallel(self.model) if world.size > 1 else self.model
        )
        hashes["batch_order_sha256"] = hashlib.sha256(order.numpy().tobytes()).hexdigest()
        hashes["preprocessed_sha256"] = tensors_sha256(self.task.preprocessed())
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
        data_md5 = dict(self.task.data_md5(Path(self.cfg.data_root)))
        meta = self.record.meta() | hashes | {"data_md5": data_md5}
        meta["starts"] = [*meta.get("starts", []), start]
        self.record.write_meta(meta)

    def to_the_end(self) -> dict[str, Any]:
        """Do the epochs that are left, then write the result."""
        cfg, total = self.cfg, self.cfg.epochs * len(self.sizes)
        done = (self.at.epoch - 1) * len(self.sizes) + self.at.iteration
        if done:
            self._say(f"{self.record.directory}: resuming at epoch {self.at.epoch}")
        mirror = open_mirror(cfg, self.record) if self.world.is_main else None
        exit_code = 1
        try:
            with ProgressBar(total, done, cfg.batch_size, show=self.world.is_main) as bar:
                while self.at.epoch <= cfg.epochs:
                    row = self._epoch(bar)
                    if mirror is not None:
                        mirror.log(row)
            result = self._finish()
            exit_code = 0
            return result
        finally:
            if mirror is not None:
                mirror.finish(self.history.metrics, exit_code)

    def _epoch(self, bar: ProgressBar) -> Row:
        """Train from the current position to the end of the epoch, evaluate, record."""
        epoch = self.at.epoch
        rate = self.solver.set_learning_rate(epoch)
        if self.at.iteration == 0:
            self.solver.feedback.start_epoch()
        if self.at.iteration < len(self.sizes):
            self.solver.training_mode()
        self.guard.deferred = True
        self.model.train()
        clock, saved = time.perf_counter(), time.monotonic()
        before = self.at.train_seconds
        for batch in self.task.train_batches(epoch, self.at.iteration):
            self.batch = batch
            self.solver.set_iteration((epoch - 1) * len(self.sizes) + self.at.iteration)
            self._iterate()
            self.series[self.at.iteration] = self.row
            self.at.iteration += 1
            chain = self.at.consumed.encode() + batch.consumed
            self.at.consumed = hashlib.sha256(chain).hexdigest()
            bar.advance(epoch)
            due = time.monotonic() - saved > 60 * self.cfg.checkpoint_minutes
            if due or self.guard.received or self.world.size > 1:
                self.at.train_seconds = before + time.perf_counter() - clock
                if self._stop_requested():
                    self._stop()
                if due:
                    self._check_divergence()
                    self._save()
                    saved = time.monotonic()
        self._check_divergence()  # reads the buffer, and so waits for the device
        self.at.train_seconds = before + time.perf_counter() - clock

        self.solver.evaluation_mode()
        validation, eval_seconds = self._evaluated(lambda: self.task.evaluate(self.model, epoch))
        fixed, fixed_seconds = Values(), 0.0
        if epoch % FIXED_EVERY == 0 or epoch > self.cfg.epochs - self.task.fixed_last:
            fixed, fixed_seconds = self._evaluated(lambda: self.task.evaluate_training(self.model))

        clock = time.perf_counter()
        series = self.series.cpu().numpy().copy()
        metrics: Row = {
            "epoch": epoch,
            "iterations": epoch * len(self.sizes),
            **({} if rate is None else {"lr": rate}),
            **epoch_means(series, self.sizes, self.task.train_metrics),
            **{f"val_{name}": value for name, value in validation.items()},
            **{f"fixed_{name}": value for name, value in fixed.items()},
            **step_summary(series, self.columns),
            **self.solver.counters(),
        }
        timing: Row = {
            "epoch": epoch,
            "train_seconds": round(self.at.train_seconds, 3),
            "eval_seconds": round(eval_seconds, 3),
            "fixed_seconds": round(fixed_seconds, 3),
            "log_seconds": 0.0,  # known when the rows are written
            "images_per_second": round(sum(self.sizes) / self.at.train_seconds, 1),
        }
        self.history.add(series, metrics, timing, self.at.consumed)
        self.at = _Position(epoch + 1)
        self.series.fill_(torch.nan)
        if self.world.is_main:
            self.history.write_series(self.record, series)
            self._save()
            timing["log_seconds"] = round(time.perf_counter() - clock, 3)  # but for the rows'
            self.history.write_rows(self.record)
        bar.say(epoch_line(self.task.metrics, self.cfg.epochs, metrics, timing, bar.eta()))
        if self._stop_requested():
            self._stop(save=False)
        self.guard.deferred = False
        return metrics | timing

    def _iterate(self) -> None:
        """One iteration on the static buffers, from `batch` to `row`."""
        seen = self._gradients()
        try:
            self.solver.step(seen[0], self.batch.size, lambda: self._gradients()[0])
        except SolverError as error:
            self.series[self.at.iteration, 0] = seen[0]
            self.at.iteration += 1
            self._check_divergence()  # if the weights are NaN, whatever else fails is no news
            where = f"epoch {self.at.epoch}, iteration {self.at.iteration}"
            raise SolverError(f"{self.record.name}: {error} (at {where})") from error
        self.row.copy_(torch.cat([seen, *self.solver.scalars()]))

    def _gradients(self) -> Tensor:
        """Take the minibatch's gradients, in place of earlier ones; its metrics."""
        self.solver.zero_grad()
        *others, last = self.batch.split(self.cfg.micro_batch, self.world.size)
        seen = sum(self._accumulate(part, synchronise=False) for part in others)
        return self.world.mean_(seen + self._accumulate(last))

    def _accumulate(self, part: Batch, *, synchronise: bool = True) -> Tensor:
        """Add a micro-batch's gradients to the others'; its metrics."""
        with nullcontext() if synchronise else self.world.unsynchronised(self.parallel):
            with self._autocast():
                values = self.task.objective(self.parallel, part)
            self.solver.backward(values["objective"])
        return torch.stack([values[name].detach().float() for name in self.task.train_metrics])

    def _evaluated(self, evaluate: Callable[[], Values]) -> tuple[Values, float]:
        """An evaluation, which a signal cuts short, and the seconds that it took."""
        clock = time.perf_counter()
        try:
            with self.guard.interruptible(), self._autocast():
                return evaluate(), time.perf_counter() - clock
        except Interrupted:
            self._stop()

    def _finish(self) -> dict[str, Any]:
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
        self.at = _Position(**state["position"])
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

    def _stop(self, *, save: bool = True) -> NoReturn:
        if save:
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

    def _autocast(self) -> torch.autocast:
        on = self.cfg.precision == "bf16"
        return torch.autocast(self.world.device.type, torch.bfloat16, enabled=on)
