"""What an experiment would still run, and how long that takes at the rates measured so far."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bpgrad.records.run_record import RunRecord
from bpgrad.reporting.runs import Run, look_at
from bpgrad.training import lookup
from bpgrad.training.config import Config
from bpgrad.training.identity import run_name
from bpgrad.training.trainer import CHECKPOINT
from bpgrad.world import choose_device
from experiments.engine.declaration import PlannedRun

CLOCKS = ["train_seconds", "eval_seconds", "log_seconds"]


@dataclass(frozen=True)
class Rate:
    """What a record says about speed; an epoch is its median one."""

    solver: str
    images: float  # that an epoch trains on
    whole: bool  # the task's whole training set
    seconds: float  # of an epoch: training, evaluation and logging
    device: str
    machine: str


@dataclass(frozen=True)
class Step:
    """A run as it stands, and how long the rest of it takes; None if no rate has been measured."""

    run: PlannedRun
    name: str
    state: str  # finished, resume, new, diverged or damaged
    remark: str
    seconds: float | None
    rates: tuple[Rate, ...] = ()


def forecast(runs: Sequence[tuple[PlannedRun, Config]]) -> list[Step]:
    """Every run with what is left of it. Of a cut run, whole epochs are counted.

    The rate is the fastest in the records of the same task and solver, or if there are none of the
    same task, since whatever else a machine did made a run slower; if any, of those made on the
    type of device that the run would take.
    """
    rates: dict[tuple[Path, str, str], list[Rate]] = {}
    seen: set[str] = set()
    steps = []
    for run, cfg in runs:
        name, root = run_name(cfg), Path(cfg.results_root)
        record = RunRecord(root, Path(cfg.checkpoint_root), name)
        state, remark, epochs = _left(cfg, record, look_at(record, run.solver, run.seed))
        if name in seen:
            state, remark, epochs = "finished", "the same run as one above", 0
        seen.add(name)
        task, solver, _ = name.split("/")
        where = root, task, solver
        if epochs and where not in rates:
            rates[where] = _rates_of(*where, device=choose_device(cfg.device).type)
        found = rates[where] if epochs else []
        whole = max((rate.images for rate in found if rate.whole), default=0)
        images = min(whole or cfg.scale.train_examples or 0, cfg.scale.train_examples or whole)
        seconds: float | None = 0.0
        if epochs:
            seconds_an_image = [rate.seconds / rate.images for rate in found]
            seconds = epochs * images * min(seconds_an_image) if found and images else None
        steps.append(Step(run, name, state, remark, seconds, tuple(found)))
    return steps


def lines(name: str, runs: Sequence[tuple[PlannedRun, Config]], jobs: int = 1) -> Iterator[str]:
    """The forecast in words: the time in all and where the rates come from, then a line a run."""
    steps = forecast(runs)
    todo = [step for step in steps if step.state in ("resume", "new")]
    yield f"{name}: {len(todo)} of {len(steps)} runs to do; nothing is run now"
    known = [step.seconds for step in todo if step.seconds is not None]
    if known:
        total = f"in all {duration(sum(known))}"
        if jobs > 1:
            total += f"; {jobs} side by side {duration(_makespan(known, jobs))}, if none slows down"
        if len(known) < len(todo):
            total += f"; without the {len(todo) - len(known)} of no measured rate"
        yield total
        machines = dict.fromkeys(rate.machine for step in todo for rate in step.rates)
        yield f"at the fastest rates of the records, measured on: {'; '.join(machines)}"
        if any(rate.solver != step.name.split("/")[1] for step in todo for rate in step.rates):
            yield "where a solver has no record of the task, at the rate of the others"
    width = max(len(str(step.run)) for step in steps)
    for step in steps:
        time = ""
        if step in todo:
            time = "no measured rate" if step.seconds is None else duration(step.seconds)
        remark = f"  ({step.remark})" if step.remark else ""
        yield f"  {step.state:<8}  {step.run!s:<{width}}  {time:>16}  {step.name}{remark}"


def duration(seconds: float) -> str:
    """A time in words: 80 s, 3 min, 2 h 05 min."""
    minutes = round(seconds / 60)
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _left(cfg: Config, record: RunRecord, run: Run) -> tuple[str, str, int]:
    """State, remark, and the epochs to do."""
    if cfg.rerun:
        return "new", "done again" if run.finished else "", cfg.epochs
    if run.damage:
        return "damaged", run.damage, 0
    if run.finished:
        return "finished", "", 0
    if run.state.startswith("diverged"):
        return "diverged", f"{run.state}; rerun=true repeats it", 0
    if not (record.checkpoints / CHECKPOINT).exists():
        lost = f"{run.state}, but the checkpoint is not here" if len(run.rows) else ""
        return "new", lost, cfg.epochs
    return "resume", run.state, cfg.epochs - len(run.rows)


def _rates_of(root: Path, task: str, solver: str, device: str) -> list[Rate]:
    """The rates to go by; other solvers' records are read only where its own do not say."""
    roots = {each.resolve(): each for each in (lookup.SUITE_RECORDS, root)}
    for pattern in (f"{task}/{solver}/seed*", f"{task}/*/seed*"):
        every = [rate for each in roots.values() for rate in _rates(each, pattern)]
        found = [rate for rate in every if rate.device == device] or every
        if any(rate.whole and rate.device == device for rate in found):
            break
    return [rate for rate in found if rate.solver == solver] or found


def _rates(results: Path, pattern: str) -> Iterator[Rate]:
    """The rates in all records of a pattern."""
    for path in sorted(results.glob(f"{pattern}/timing.csv")):
        name = path.parent.relative_to(results).as_posix()
        run = look_at(RunRecord(results, results, name), name, 0)
        rows = run.rows
        if rows.empty:
            continue
        images = rows["images_per_second"].to_numpy() * rows["train_seconds"].to_numpy()
        clocks = [rows[clock].to_numpy() for clock in CLOCKS if clock in rows]
        limit = run.config.get("scale", {}).get("train_examples")
        yield Rate(
            solver=name.split("/")[1],
            images=float(np.median(images)),
            # A limit that the epoch stays well below (rates are rounded) is above the whole set.
            whole=limit is None or bool(np.median(images) < 0.9 * limit),
            seconds=float(np.median(np.nansum(clocks, axis=0))),
            device=run.meta["starts"][-1]["machine"]["device"],
            machine=run.machine,
        )


def _makespan(seconds: Sequence[float], jobs: int) -> float:
    """When the last run ends if each starts as soon as one of `jobs` places is free."""
    ends = [0.0] * jobs
    for each in seconds:
        heapq.heapreplace(ends, ends[0] + each)
    return max(ends)
