"""Run records as tables and figures take them, and which of them may be compared."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bpgrad.errors import RecordError
from bpgrad.records.reading import read_steps
from bpgrad.records.run_record import RunRecord

if TYPE_CHECKING:
    from bpgrad.metrics import Metric

# What runs of one task and seed must share, by its key in meta.json.
SHARED_BY_A_SEED = {
    "initial_weights_sha256": "initial weights",
    "batch_order_sha256": "batch order",
}


@dataclass(frozen=True)
class Run:
    """What is recorded of one run; `rows` has a row an epoch, of metrics.csv and timing.csv."""

    solver: str  # as it is shown
    seed: int
    directory: Path
    finished: bool
    config: Mapping[str, Any]
    meta: Mapping[str, Any]
    rows: pd.DataFrame
    consumed: tuple[str, ...] = ()  # a sha256 an epoch; none in older records
    not_finite: tuple[str, ...] = ()  # of a finished run, what its last row has no number of
    damage: str = ""  # why nothing can be read of the record

    @property
    def state(self) -> str:
        """How far the run has come, in words."""
        if self.damage:
            return f"damaged: {self.damage}"
        if self.finished:
            missing = f", not finite: {', '.join(self.not_finite)}" if self.not_finite else ""
            return f"finished{missing}"
        if diverged := self.meta.get("diverged"):
            return f"diverged at epoch {diverged['epoch']}, iteration {diverged['iteration']}"
        if self.config:
            return f"{len(self.rows)} of {self.config['epochs']} epochs done"
        return "not run"

    @property
    def scale(self) -> str:
        """The size of the experiment that it is of, as configs/scale has them."""
        return str(self.config.get("scale", {}).get("name", "paper"))

    @property
    def collapsed(self) -> bool:
        """Whether it ended by calling next to nothing anything but background."""
        return bool(len(self.rows) and self.rows.iloc[-1].get("val_collapsed", 0) > 0)

    @property
    def changed_code(self) -> bool:
        """Whether any part of the run was done by code with changes that were not committed."""
        return any(start.get("git_dirty") for start in self.meta["starts"])

    @property
    def machine(self) -> str:
        """Where the run was last started: processor or GPU, and threads or processes."""
        machine = self.meta["starts"][-1]["machine"]
        if machine["device"] == "cpu":
            return f"{machine['cpu']}, {_plural(machine['threads'], 'thread')}"
        return f"{_plural(machine['world_size'], 'process')} on {machine['gpu']}"

    @property
    def in_company(self) -> bool:
        """Whether its clocks count the turns of other runs in the same process."""
        return bool((self.rows.get("concurrent_runs", pd.Series(dtype=float)) > 1).any())

    def steps(self, column: str) -> np.ndarray:
        """A value that is recorded an iteration, over the first epochs; float64.

        Raises RecordError if the run has not recorded it.
        """
        return self._series(column, lambda steps, k: _whole_epochs(steps)[:, k])

    def quantiles(self, column: str) -> np.ndarray:
        """The quantiles 0, ¼, ½, ¾ and 1 in every epoch of a value that is recorded an iteration.

        Float64, (epochs, 5). Raises RecordError if the run has not recorded it.
        """
        return self._series(column, lambda steps, k: steps["quantiles"][:, :, k])

    def _series(self, column: str, read: Callable[[Any, int], np.ndarray]) -> np.ndarray:
        path = self.directory / "steps.npz"
        if not path.exists():
            raise RecordError(f"{path}: has no {column} an iteration, there is no such file")
        steps = read_steps(self.directory)
        try:
            values = read(steps, steps["columns"].tolist().index(column))
        except (KeyError, ValueError) as error:
            raise RecordError(f"{path}: has no {column} an iteration ({error})") from error
        return values.astype(np.float64)

    @property
    def pictures(self) -> tuple[Path, ...]:
        """What the task has drawn at the end, by name; most tasks draw nothing."""
        return tuple(sorted((self.directory / "pictures").glob("*.webp")))

    @property
    def devices(self) -> set[str]:
        """The types of device that any part of the run was done on."""
        return {start["machine"]["device"] for start in self.meta["starts"]}


def _whole_epochs(steps: Mapping[str, np.ndarray]) -> np.ndarray:
    """The epochs of which every iteration is recorded, one after the other."""
    names = [name for name in steps if name.startswith("epoch")]
    return np.concatenate([steps[f"epoch{k}"] for k in range(1, len(names) + 1)])


def read_run(record: RunRecord, solver: str, seed: int) -> Run:
    """Read a run: finished, cut short (the rows so far) or never started (no rows).

    Raises RecordError if the record is damaged.
    """
    found = record.read()
    # A run that was killed between writing the two files has one row more in the first.
    pairs = zip(found.metrics, found.timing, strict=False)
    rows = pd.DataFrame([metrics | timing for metrics, timing in pairs])
    return Run(
        solver,
        seed,
        record.directory,
        found.result is not None,
        found.config,
        found.meta,
        rows,
        tuple(found.consumed),
        tuple(key for key, value in (found.result or {}).items() if value is None),
    )


def look_at(record: RunRecord, solver: str, seed: int) -> Run:
    """The same, where others are shown beside it: of a damaged record only what is wrong."""
    stamp = _stamp(record.directory)
    known = _looked_at.get(record.directory)
    if known is None or known[0] != stamp:
        try:
            run = read_run(record, solver, seed)
        except RecordError as error:
            nothing = Run(solver, seed, record.directory, False, {}, {}, pd.DataFrame())
            run = replace(nothing, damage=str(error))
        known = _looked_at[record.directory] = stamp, run
    return replace(known[1], solver=solver, seed=seed)


# What has been read, by its directory: experiments share runs.
_looked_at: dict[Path, tuple[tuple[tuple[int, int, int] | None, ...], Run]] = {}
FILES = ("result.json", "metrics.csv", "timing.csv", "consumed.csv", "meta.json", "config.yaml")


def _stamp(directory: Path) -> tuple[tuple[int, int, int] | None, ...]:
    """What changes when a file of a record does."""
    found: list[tuple[int, int, int] | None] = []
    for name in FILES:
        try:
            stat = os.stat(directory / name)
            found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
        except OSError:
            found.append(None)
    return tuple(found)


@dataclass(frozen=True)
class Comparison:
    """The runs of one task, to be put side by side, in the order of being shown.

    A table of them shows of each run the mean over its last `averaged` epochs, and `note` below.
    `curve` is the metric whose values on held-out examples are drawn over the epochs ("": the
    second); of it the fluctuation over the last `fluctuation` epochs is told, if any.

    Raises RecordError, on construction, if that would be unfair: runs of one seed that started from
    different weights or had another batch order, or runs of different precision.
    """

    task: str
    metrics: Mapping[str, Metric]
    runs: tuple[Run, ...]
    averaged: int = 1
    note: str = ""
    curve: str = ""
    fluctuation: int = 0

    def __post_init__(self) -> None:
        recorded = [run for run in self.runs if len(run.rows)]
        first_of_seed: dict[int, Run] = {}
        for run in recorded:
            first = first_of_seed.setdefault(run.seed, run)
            for key, words in SHARED_BY_A_SEED.items():
                if key not in run.meta:
                    raise RecordError(f"{run.directory}/meta.json lacks {key}; run it again")
                _require_equal(words, first, run, first.meta[key][:12], run.meta[key][:12])
            pairs = zip(first.consumed, run.consumed, strict=False)
            for epoch, (its, other) in enumerate(pairs, 1):
                _require_equal(f"the examples of epoch {epoch}", first, run, its[:12], other[:12])
            one, other = recorded[0].config["precision"], run.config["precision"]
            _require_equal("precision", recorded[0], run, one, other)

    @property
    def drawn(self) -> tuple[str, Metric]:
        """The name of the metric that is drawn over the epochs, and the metric."""
        name = self.curve or list(self.metrics)[1]
        return name, self.metrics[name]

    @property
    def solvers(self) -> tuple[str, ...]:
        """The solvers, each once."""
        return tuple(dict.fromkeys(run.solver for run in self.runs))

    def finished(self, solver: str) -> list[Run]:
        """The finished runs of a solver, one a seed."""
        return [run for run in self.runs if run.solver == solver and run.finished]

    @property
    def pictures(self) -> dict[str, tuple[Path, ...]]:
        """What each solver's model does, as its run of the first seed drew it at its end."""
        drawn = {}
        for solver in self.solvers:
            first = min(self.finished(solver), key=lambda run: run.seed, default=None)
            if first is not None and first.pictures:
                drawn[f"{solver}, seed {first.seed}"] = first.pictures
        return drawn


def swept(label: str) -> tuple[str, float | None]:
    """Solver and setting of a label "solver, name = value"; None for a value that is no number."""
    try:
        return label.partition(", ")[0], float(label.rpartition(" = ")[2])
    except ValueError:
        return label.partition(", ")[0], None


def labels_by_setting(comparison: Comparison) -> dict[str, dict[float, str]]:
    """The labels "solver, name = number" by solver and number, numbers in increasing order.

    Others ("BPGrad, L = auto") are shown beside them, and are no settings among which one chooses.
    """
    found: dict[str, dict[float, str]] = {}
    for label in comparison.solvers:
        solver, setting = swept(label)
        if setting is not None:
            found.setdefault(solver, {})[setting] = label
    return {solver: dict(sorted(labels.items())) for solver, labels in found.items()}


def _require_equal(what: str, one: Run, other: Run, value: str, other_value: str) -> None:
    if value != other_value:
        raise RecordError(
            f"{one.directory} and {other.directory} differ in {what} ({value} and {other_value}) "
            "and cannot be compared; delete the wrong one and run it again"
        )


def _plural(count: int, noun: str) -> str:
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count} {noun}{ending}"
