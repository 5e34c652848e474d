"""The decisive experiment of docs/claims.md: BPGrad's step against steps without its feedback."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bpgrad.errors import RecordError
from bpgrad.records.files import write_array, write_text
from bpgrad.reporting.runs import look_at
from bpgrad.training.config import Config, load
from bpgrad.training.identity import run_name
from experiments.engine.declaration import PlannedRun
from experiments.engine.runner import record_of
from experiments.studies import feedback_answers as answers
from experiments.studies import staged
from experiments.studies.feedback_answers import Outcome
from experiments.studies.staged import SETTINGS, Arm

TASK, EPOCHS, HOLDOUT, NOISE = "cifar10", 30, 0.1, 0.1
SEEDS = (1, 2, 3)  # settings are chosen by the first
LIPSCHITZ = 12.5  # the smallest L of the range, whose values are a factor of 2 apart
START = 2.07233  # 0.9 ln 10: BPGrad's step times L at the loss of guessing (ρ = 0.1, ten classes)
LABELS = (False, True)  # noisy or not, in this order

GIVEN = ("solver=bpgrad", "solver.objective=constant", "solver.rho=0", "solver.lipschitz=1")


def _lipschitz(position: int) -> dict[str, float]:
    return {"lipschitz": LIPSCHITZ * 2.0**position}


def _rate(first: float) -> Callable[[int], dict[str, float]]:
    # Rounded: a logarithm's last bit is another on some machines, and part of the run's name.
    return lambda position: {"lr": float(f"{first * 2.0**position:.6g}")}


def _start(part: float) -> Callable[[int], dict[str, float]]:
    return lambda position: {"lr": float(f"{part * START / (LIPSCHITZ * 2.0**position):.6g}")}


BPGRAD = Arm("BPGrad", ("solver=bpgrad",), _lipschitz, "L")
CONSTANT = Arm("(i) constant", (*GIVEN, "solver.name=constant"), _start(0.25), "η₀")
COSINE = Arm(
    "(ii) cosine", (*GIVEN, "solver.name=cosine", "solver.schedule=cosine"), _start(1), "η₀"
)
LINEAR = Arm(
    "(iii) linear", (*GIVEN, "solver.name=linear", "solver.schedule=linear"), _start(1), "η₀"
)
# Its setting is the L of the run that is replayed; the solver is the same for all.
REPLAY = Arm("(iv) replay", (*GIVEN, "solver.name=replay"), _lipschitz, "L")
EPOCH_MEAN = Arm(
    "(v) epoch mean",
    (
        *("solver=bpgrad", "solver.name=epoch_mean", "solver.objective=previous_epoch_mean"),
        *("solver.rho=0", "solver.lr=0.9"),
    ),
    _lipschitz,
    "L",
)
SCHEDULED = Arm(
    "(vi) BPGrad × cosine", ("solver=bpgrad", "solver.schedule=cosine"), _lipschitz, "L"
)
SGD = Arm(
    "SGD, cosine",
    ("solver=sgd", "solver.lr_factors=null", "+solver.schedule=cosine"),
    _rate(0.0125),
    "lr",
)
ADAMW = Arm(
    "AdamW, cosine",
    (
        *("solver=adam", "solver.name=adamw", "solver.optimizer=torch.optim.AdamW"),
        *("solver.lr_factors=null", "solver.weight_decay=0.01", "+solver.schedule=cosine"),
    ),
    _rate(0.0005),
    "lr",
)
ARMS = (BPGRAD, CONSTANT, COSINE, LINEAR, REPLAY, EPOCH_MEAN, SCHEDULED, SGD, ADAMW)
EVERY_SETTING = (BPGRAD, REPLAY)  # with all seeds


@dataclass(frozen=True)
class Cell:
    """A run: an arm at a position of its range, with a seed, on labels as they are or noisy."""

    arm: Arm
    position: int
    seed: int
    noisy: bool

    def __str__(self) -> str:
        labels = ", noisy labels" if self.noisy else ""
        return f"{self.arm.name}, {self.arm.words(self.position)}{labels}"

    @property
    def source(self) -> Cell:
        """The run whose steps a replay takes: BPGrad's with the next seed, the first's at last."""
        following = SEEDS[(SEEDS.index(self.seed) + 1) % len(SEEDS)]
        return replace(self, arm=BPGRAD, seed=following)


Found = Mapping[Cell, Outcome]


def tuning(arm: Arm, found: Found, noisy: bool) -> list[Cell]:
    """The first seed's runs of an arm: the range, and one more if the best lies at its end."""
    cells = [Cell(arm, position, SEEDS[0], noisy) for position in SETTINGS]
    return staged.widened(cells, found)


def choice(arm: Arm, found: Found, noisy: bool) -> int | None:
    """The position of the lowest held-out error; None as long as a run of it is missing."""
    best = staged.best(tuning(arm, found, noisy), found)
    return None if best is None else best.position


def planned(found: Found, seeds: Sequence[int], noisy: bool) -> list[Cell]:
    """All runs that are known to be wanted, by seed; more as the choices become known."""
    cells = []
    for arm in ARMS:
        first = tuning(arm, found, noisy)
        best = choice(arm, found, noisy)
        positions = [cell.position for cell in first] if arm in EVERY_SETTING else [best]
        cells += first
        cells += [
            Cell(arm, position, seed, noisy)
            for seed in seeds
            for position in positions
            if position is not None
        ]
    cells += [cell.source for cell in cells if cell.arm is REPLAY]
    return sorted(dict.fromkeys(cells), key=lambda cell: cell.seed)


def ready(found: Found, seeds: Sequence[int], noisy: bool) -> list[Cell]:
    """The next runs that are missing and can start.

    Those of the first seed, and what these replay, come before all others; a replay comes after
    what it replays.
    """
    missing = [cell for cell in planned(found, seeds, noisy) if cell not in found]
    first = {cell for cell in missing if cell.seed == SEEDS[0]}
    first |= {cell.source for cell in first if cell.arm is REPLAY}
    stage = [cell for cell in missing if cell in first] or missing
    return [cell for cell in stage if cell.arm is not REPLAY or cell.source in found]


class Runs:
    """The runs' configurations and records; the step sizes to replay lie in `folder`/eta."""

    def __init__(self, folder: Path, overrides: Sequence[str]) -> None:
        self.folder = folder
        self.lost: set[Cell] = set()  # finished, but a replay waits for step sizes that are gone
        common = (f"task={TASK}", f"epochs={EPOCHS}", f"task.holdout={HOLDOUT}")
        judged = "task.judge_test=true"
        self.base = {
            arm.name: load([*common, judged, *arm.set, "scale=paper", *overrides]) for arm in ARMS
        }

    def config(self, cell: Cell) -> Config:
        """The configuration of a run."""
        cfg = deepcopy(self.base[cell.arm.name])
        if cell.arm is REPLAY:
            cfg.solver["replay"] = str(self.eta(cell.source))
        else:
            cfg.solver |= cell.arm.setting(cell.position)
        cfg.task["label_noise"] = NOISE if cell.noisy else 0.0
        return replace(cfg, seed=cell.seed)

    def eta(self, cell: Cell) -> Path:
        """The file with η_t of every iteration of a BPGrad run."""
        leaf = run_name(self.config(cell)).rpartition("/")[2]
        return self.folder / "eta" / f"{leaf}.npy"

    def look(self, cell: Cell) -> Outcome | None:
        """What a run has come to; None if it has not ended. A replay of one that diverged did."""
        if cell.arm is REPLAY:
            source = self.look(cell.source)
            if source is not None and source.diverged:
                return answers.DIVERGED
        run = look_at(record_of(self.config(cell)), cell.arm.name, cell.seed)
        return staged.outcome_of(run)

    def found(self, seeds: Sequence[int], noisy: bool) -> dict[Cell, Outcome]:
        """All planned runs that have ended, and what they have come to."""
        return staged.ended(lambda found: planned(found, seeds, noisy), self.look)

    def recorded(self, seeds: Sequence[int], noisy: bool) -> dict[Cell, Outcome]:
        """The same, once the step sizes that others replay have been written.

        A run of BPGrad whose step sizes are gone, and are still needed, counts as missing.
        """
        found = self.found(seeds, noisy)
        cells = planned(found, seeds, noisy)
        needed = {cell.source for cell in cells if cell.arm is REPLAY and cell not in found}
        self.lost.clear()
        for cell, outcome in found.items():
            if cell.arm is not BPGRAD or outcome.diverged or self.eta(cell).exists():
                continue
            try:
                steps = step_sizes(self.config(cell))
                self.eta(cell).parent.mkdir(parents=True, exist_ok=True)
                write_array(self.eta(cell), steps)
            except RecordError as error:
                if cell in needed:
                    print(f"{error}: it is made again", flush=True)
                    self.lost.add(cell)
        return {cell: outcome for cell, outcome in found.items() if cell not in self.lost}

    def pairs(self, cells: Sequence[Cell]) -> tuple[tuple[PlannedRun, Config], ...]:
        """The runs as the engine takes them."""
        return tuple(
            (
                PlannedRun(TASK, str(cell), cell.seed, ()),
                replace(self.config(cell), rerun=cell in self.lost),
            )
            for cell in cells
        )


def step_sizes(cfg: Config) -> np.ndarray:
    """η_t of every iteration of a finished run, float32, from the series beside its checkpoints.

    Raises RecordError if a part of the series is not there.
    """
    record = record_of(cfg)
    run = look_at(record, "", cfg.seed)
    series = []
    for epoch in range(1, cfg.epochs + 1):
        path = record.checkpoints / "steps" / f"epoch{epoch:04d}.npy"
        try:
            with np.load(run.directory / "steps.npz") as steps:
                column = steps["columns"].tolist().index("step_size")
            series.append(np.load(path)[:, column])
        except (OSError, ValueError, EOFError, IndexError, KeyError) as error:
            why = f"{path}: the step sizes of {record.name} cannot be read ({error})"
            raise RecordError(why) from error
    return np.concatenate(series).astype(np.float32)


def run(
    folder: Path, *, seeds: Sequence[int] = (), overrides: Sequence[str] = (), jobs: int = 1
) -> None:
    """Train what is missing, stage by stage, the labels as they are first.

    Raises ConfigError for other seeds than the registered ones, BPGradError if a run fails.
    """
    seeds = _checked(seeds)
    runs = Runs(folder, overrides)
    staged.keep_overrides(folder, overrides)
    for noisy in LABELS:
        found = partial(runs.recorded, seeds, noisy)
        following = partial(ready, seeds=seeds, noisy=noisy)
        staged.train("feedback", folder, found, following, runs.pairs, jobs)


def missing(
    folder: Path, *, seeds: Sequence[int] = (), overrides: Sequence[str] = (), jobs: int = 1
) -> Iterator[str]:
    """What is still to run, as far as the choices are known, in lines."""
    seeds = _checked(seeds)
    runs = Runs(folder, overrides)
    for noisy in LABELS:
        found = runs.found(seeds, noisy)
        cells = [cell for cell in planned(found, seeds, noisy) if cell not in found]
        name = "feedback, noisy labels" if noisy else "feedback, labels as they are"
        unknown = [arm.name for arm in ARMS if choice(arm, found, noisy) is None]
        yield from staged.still_to_do(name, runs.pairs(cells), unknown, jobs)


def _checked(seeds: Sequence[int]) -> Sequence[int]:
    return staged.registered("feedback", seeds, SEEDS)


def show(folder: Path, figures: Path, tables: Path) -> str:
    """Write the table of all runs; the five answers in words, then the arms' tables."""
    runs = Runs(folder, staged.kept_overrides(folder))
    found = {noisy: runs.found(SEEDS, noisy) for noisy in LABELS}
    write_text(
        tables / "feedback.csv",
        as_csv([cells for its in found.values() for cells in its.items()], runs),
    )
    first = {noisy: _answers(found[noisy], noisy) for noisy in found if found[noisy]}
    parts = [answers.in_short(first), answers.together(first)]
    for noisy, its in found.items():
        if its:
            heading = DRAWN if noisy else "**Labels as they are.**"
            parts += [f"{heading} {CAPTION}", _markdown(its, noisy)]
    return "\n\n".join(parts)


def findings(folder: Path) -> list[str]:
    """The five answers in a sentence."""
    runs = Runs(folder, staged.kept_overrides(folder))
    found = {noisy: runs.found(SEEDS, noisy) for noisy in LABELS}
    first = {noisy: _answers(its, noisy) for noisy, its in found.items() if its}
    return [answers.in_short(first)] if first else []


DRAWN = (
    f"**{100 * NOISE:g} % of the training labels drawn at random**, so a tenth of those are right "
    "again; the objective is that of the labels drawn, held-out and test images have their own."
)
CAPTION = (
    "Test error in % (mean of the last 5 epochs, then over seeds) by setting; **bold**: the "
    "setting with the lowest held-out error of seed 1; in brackets the number of seeds that ended, "
    "if not one; *diverged*: with any of them."
)


def _answers(found: Found, noisy: bool) -> list[answers.Answer]:
    """The five answers, from what there is."""

    def at(arm: Arm, position: int | None) -> dict[int, Outcome]:
        return {
            cell.seed: outcome
            for cell, outcome in found.items()
            if cell.arm is arm and cell.position == position and cell.noisy == noisy
        }

    def chosen(arm: Arm) -> dict[int, Outcome]:
        return at(arm, choice(arm, found, noisy))

    by_setting = {
        BPGRAD.words(position): (at(BPGRAD, position), at(REPLAY, position))
        for position in SETTINGS
    }
    ours = chosen(BPGRAD)
    return answers.five(
        by_setting,
        bpgrad=ours,
        epoch_mean=chosen(EPOCH_MEAN),
        constant=chosen(CONSTANT),
        cosine=chosen(COSINE),
        linear=chosen(LINEAR),
        scheduled=chosen(SCHEDULED),
    )


def _markdown(found: Found, noisy: bool) -> str:
    lines = ["| arm | setting: test error |", "| --- | --- |"]
    for arm in ARMS:
        best = choice(arm, found, noisy)
        entries = []
        for position in range(SETTINGS[0] - 1, SETTINGS[-1] + 2):
            its = [o for c, o in found.items() if c.arm is arm and c.position == position]
            if its:
                value = f"{np.mean([outcome.error for outcome in its]):.2f}"
                if any(outcome.diverged for outcome in its):
                    value = "*diverged*"
                value = f"**{value}**" if position == best else value
                count = f" ({len(its)})" if len(its) > 1 else ""
                entries.append(f"{arm.words(position)}: {value}{count}")
        lines.append(f"| {arm.name} | {'; '.join(entries) or 'not run'} |")
    return "\n".join(lines)


COLUMNS = (
    *("arm", "setting", "labels", "seed", "diverged"),
    *("held_out_error", "test_error", "log_objective", "run"),
)


def as_csv(found: Sequence[tuple[Cell, Outcome]], runs: Runs) -> str:
    """A row a run that has ended: its outcome, and where it is recorded."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for cell, outcome in found:
        numbers = (f"{x:.6g}" for x in (outcome.held_out, outcome.error, outcome.objective))
        labels = "noisy" if cell.noisy else "clean"
        row: list[Any] = [cell.arm.name, cell.arm.words(cell.position), labels, cell.seed]
        writer.writerow([*row, int(outcome.diverged), *numbers, run_name(runs.config(cell))])
    return text.getvalue()
