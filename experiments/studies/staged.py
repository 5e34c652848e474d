"""What studies share that tune by held-out images and then run what is chosen with more seeds.

A setting is a position in a range of five, whose values are a constant factor apart. The one with
the lowest held-out error of the first seed is chosen; a best at an end of the range adds one more
on that side. Which runs are wanted follows from those that have ended: they are done in stages.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

from bpgrad.errors import BPGradError, ConfigError, RecordError
from bpgrad.records.files import write_text
from bpgrad.records.run_record import RunRecord
from bpgrad.reporting.inference.statistics import summarise
from bpgrad.reporting.runs import Run, look_at
from bpgrad.training.config import Config, load
from bpgrad.training.identity import run_name
from experiments.claims.second.common import LAST, log_of_last, mean_of_last
from experiments.engine import forecast, runner
from experiments.engine.declaration import Experiment, PlannedRun
from experiments.engine.studies import NEUTRAL, write_meta
from experiments.studies.feedback_answers import DIVERGED, Outcome

SETTINGS = range(5)
TUNED = (  # how runs are made among which settings are chosen
    *("epochs=30", "task.holdout=0.1"),
    "task.judge_test=true",  # beside the held-out images, which alone choose
)
POINTS = {"mnist": 0.1, "cifar10": 1.0}  # of test error, within which two solvers tie
FEW = 8  # seeds, below which it is said how few there are
OVERRIDES = "overrides.json"  # in a study's folder, where it was run with others than declared
NAMES = "runs.json"  # in a study's folder: the run of each cell, found without others' packages

Pairs = tuple[tuple[PlannedRun, Config], ...]


@dataclass(frozen=True)
class Arm:
    """What is compared: a solver, and the one setting it is tuned in, as solver keys.

    `setting` gives these for a position in the range; those below 0 and above 4 extend it.
    """

    name: str
    set: tuple[str, ...]
    setting: Callable[[int], dict[str, float]]
    symbol: str

    def words(self, position: int) -> str:
        """The setting, as "L = 50"."""
        return f"{self.symbol} = {next(iter(self.setting(position).values())):.4g}"


def around(key: str, middle: float, factor: float = math.sqrt(10)) -> Callable[[int], Any]:
    """Settings of `key` whose third of five is `middle`, each `factor` times the one before.

    They have two digits, but the middle: a last bit that depends on the machine would rename runs.
    """
    return lambda position: {
        key: middle
        if position == SETTINGS[2]
        else float(f"{middle * factor ** (position - SETTINGS[2]):.2g}")
    }


# -- choosing ------------------------------------------------------------------------------------


class Placed(Protocol):
    """A run at a position of its arm's range; a dataclass."""

    @property
    def position(self) -> int:
        """From 0 to 4, or beside."""


P = TypeVar("P", bound=Placed)


def best(cells: Sequence[P], found: Mapping[P, Outcome]) -> P | None:
    """The run with the lowest held-out error; None as long as one of them is missing."""
    if any(cell not in found for cell in cells):
        return None
    # All may have diverged: the middle of the range then stands for the arm.
    middle = len(SETTINGS) // 2
    return min(cells, key=lambda cell: (*found[cell].rank, abs(cell.position - middle)))


def widened(cells: Sequence[P], found: Mapping[P, Outcome]) -> list[P]:
    """The runs of a range, and one more if the best of them lies at an end."""
    first = best(cells, found)
    if first is None or first not in (cells[0], cells[-1]):
        return list(cells)
    step = -1 if first is cells[0] else 1
    more: P = replace(first, position=first.position + step)  # type: ignore[type-var]
    return [more, *cells] if step < 0 else [*cells, more]


# -- running -------------------------------------------------------------------------------------


def ended(
    planned: Callable[[Mapping[P, Outcome]], Iterable[P]], look: Callable[[P], Outcome | None]
) -> dict[P, Outcome]:
    """What all planned runs that have ended have come to; `planned` grows with what is found."""
    found: dict[P, Outcome] = {}
    looked: set[P] = set()
    while new := [cell for cell in planned(found) if cell not in looked]:
        looked |= set(new)
        seen = ((cell, look(cell)) for cell in new)
        found |= {cell: outcome for cell, outcome in seen if outcome is not None}
    return found


def outcome_of(run: Run, test: str = "val_test_") -> Outcome | None:
    """What a run has come to; None if it has not ended. `test` begins the columns of the test set.

    Without held-out images, where the test set is the validation set, nothing can choose.
    """
    if not run.finished:
        return DIVERGED if "diverged" in run.meta else None
    held_out = test != "val_"
    fixed = "fixed_objective"  # in the last epochs alone, and not in older records
    known = fixed in run.rows and run.rows[fixed].iloc[-LAST:].notna().all()
    return Outcome(
        held_out=mean_of_last("val_top1_error")(run) if held_out else math.nan,
        held_out_objective=mean_of_last("val_objective")(run) if held_out else math.nan,
        error=mean_of_last(f"{test}top1_error")(run),
        objective=log_of_last(fixed if known else "train_objective")(run),
    )


def train(
    name: str,
    folder: Path,
    found: Callable[[], Mapping[P, Outcome]],
    ready: Callable[[Mapping[P, Outcome]], Sequence[P]],
    pairs: Callable[[Sequence[P]], Pairs],
    jobs: int,
) -> None:
    """Train what is `ready`, stage by stage, until nothing is; `found` is what has ended.

    Raises BPGradError if a run fails.
    """
    have = found()
    while waiting := ready(have):
        plan = runner.Plan(name, "", "", Experiment(name, "", (), (), ()), pairs(waiting), folder)
        try:
            runner.execute(plan, jobs)
        finally:  # what has ended counts, of a batch that is cut too
            if have := found():
                write_meta(folder)
        if failed := [cell for cell in waiting if cell not in have]:
            raise BPGradError(
                f"{name}: {len(failed)} of {len(waiting)} runs failed; once that is mended, the "
                "same command does them again"
            )


def still_to_do(name: str, pairs: Pairs, open_arms: Sequence[str], jobs: int) -> Iterator[str]:
    """What is still to run, in lines; `open_arms` are those of which no setting is chosen yet."""
    if pairs:
        yield from forecast.lines(name, pairs, jobs)
    if open_arms:
        yield f"{name}: more, once settings are chosen of {', '.join(open_arms)}"
    elif not pairs:
        yield f"{name}: all runs have ended"


def registered(name: str, seeds: Sequence[int], allowed: Sequence[int]) -> Sequence[int]:
    """The seeds asked for, or all; raises ConfigError for one that is not registered."""
    for seed in seeds:
        if seed not in allowed:
            listed = ", ".join(map(str, allowed))
            raise ConfigError(f"{name}: seed {seed}: those registered are {listed}")
    return tuple(seeds) or allowed


def keep_overrides(folder: Path, overrides: Sequence[str]) -> None:
    """Remember what was run with other settings than declared, for `kept_overrides`."""
    if any(o.partition("=")[0].lstrip("+~") not in NEUTRAL for o in overrides):
        write_text(folder / OVERRIDES, json.dumps(list(overrides)) + "\n")


def kept_overrides(folder: Path) -> list[str]:
    """The overrides with which the study in the folder was run."""
    if (folder / OVERRIDES).exists():
        return list(json.loads((folder / OVERRIDES).read_text()))
    return [f"results_root={folder.parents[1] / 'runs'}"]


# -- solvers of many tasks -----------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """A run: an arm on a task at a position of its range, with a seed.

    `also` are more solver keys. A `full` run is of the paper's length, on all training images, and
    evaluates the test images in the place of held-out ones; others are as `TUNED` says.
    """

    task: str
    arm: Arm
    position: int
    seed: int
    also: tuple[tuple[str, Any], ...] = ()
    full: bool = False

    @property
    def setting(self) -> str:
        """What is set, in words."""
        return ", ".join(
            [self.arm.words(self.position), *(f"{key} = {value}" for key, value in self.also)]
        )

    def __str__(self) -> str:
        return f"{self.arm.name}, {self.setting}{', paper length' if self.full else ''}"


Found = Mapping[Cell, Outcome]


class Runs:
    """Configurations and records of the cells of a study."""

    def __init__(self, folder: Path, overrides: Sequence[str]) -> None:
        self.folder, self.overrides = folder, overrides
        self._base: dict[tuple[str, str, bool], Config] = {}

    def config(self, cell: Cell) -> Config:
        """The configuration of a run; raises ConfigError, as where a package is missing."""
        key = cell.task, cell.arm.name, cell.full
        if key not in self._base:
            given = [f"task={cell.task}", *cell.arm.set, "scale=paper", *self.overrides]
            full = load(given)
            self._base[key] = full if cell.full else _shortened(load([*TUNED, *given]), full.epochs)
        cfg = deepcopy(self._base[key])
        cfg.solver |= cell.arm.setting(cell.position) | dict(cell.also)
        return replace(cfg, seed=cell.seed)

    def pairs(self, cells: Sequence[Cell]) -> Pairs:
        """The runs as the engine takes them."""
        return tuple(
            (PlannedRun(cell.task, str(cell), cell.seed, ()), self.config(cell)) for cell in cells
        )

    @cached_property
    def names(self) -> dict[str, str]:
        """The runs of the cells that had ended when the study was last run."""
        path = self.folder / NAMES
        try:
            return dict(json.loads(path.read_text())) if path.exists() else {}
        except ValueError as error:
            raise RecordError(f"{path} is damaged ({error}); bring the file back") from error

    def name(self, cell: Cell) -> str:
        """The run's name: its directory under results_root."""
        return self.names.get(_key(cell)) or run_name(self.config(cell))

    def look(self, cell: Cell) -> Outcome | None:
        """What a run has come to; None if it has not ended, or its package is missing."""
        try:
            name = self.name(cell)
        except ConfigError:
            return None
        record = RunRecord(self._root, self._root, name)
        run = look_at(record, cell.arm.name, cell.seed)
        return outcome_of(run, "val_" if cell.full else "val_test_")

    def recorded(self, planned: Callable[[Found], Iterable[Cell]]) -> dict[Cell, Outcome]:
        """All planned runs that have ended, noting which they are."""
        found = ended(planned, self.look)
        self.names.update({_key(cell): self.name(cell) for cell in found})
        text = json.dumps(self.names, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        write_text(self.folder / NAMES, text)
        return found

    @cached_property
    def _root(self) -> Path:
        roots = [o for o in self.overrides if o.startswith("results_root=")]
        return Path(roots[-1].partition("=")[2] if roots else Config.results_root)

    def write_table(self, path: Path, found: Iterable[Found]) -> None:
        """Write a row a run that has ended: its outcome, and where it is recorded."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for cell, outcome in (item for its in found for item in its.items()):
            numbers = (outcome.held_out, outcome.error, outcome.objective)
            length = "paper" if cell.full else "30 epochs"
            row = [cell.task, cell.arm.name, cell.setting, length, cell.seed, int(outcome.diverged)]
            writer.writerow([*row, *(f"{x:.6g}" for x in numbers), self.name(cell)])
        write_text(path, text.getvalue())


def _shortened(cfg: Config, epochs: int) -> Config:
    """The configuration with its rate's drops at the same parts of a run of so many epochs."""
    if factors := cfg.solver.get("lr_factors"):
        cfg.solver["lr_factors"] = {
            (epoch - 1) * cfg.epochs // epochs + 1: factor for epoch, factor in factors.items()
        }
    return cfg


COLUMNS = (
    *("task", "solver", "setting", "length", "seed", "diverged"),
    *("held_out_error", "test_error", "log_objective", "run"),
)


def _key(cell: Cell) -> str:
    return f"{cell.task}, {cell}, seed {cell.seed}"


def error_words(its: Mapping[int, Outcome]) -> str:
    """The test error by seed as mean ± standard deviation %, n = seeds."""
    found = summarise({seed: outcome.error for seed, outcome in its.items()})
    spread = f" ± {found.std:.2f}" if found.n >= 2 else ""
    return f"{found.mean:.2f}{spread} %, n = {found.n}"
