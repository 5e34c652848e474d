"""What the second rules share: values of a run, diverged ones too, and checks against the rivals.

The value of a run is the mean of its last five epochs unless a rule says otherwise; objectives are
taken as logarithms, so that their mean is the geometric one and a difference is a factor. A run
that diverged counts: with the error of guessing, and with an infinite objective.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from bpgrad.reporting.display.style import task_title
from bpgrad.reporting.inference.graded import Check, Scale, assess, conclude, missing_seeds
from bpgrad.reporting.inference.statistics import by_seed
from bpgrad.reporting.inference.verdicts import Verdict
from bpgrad.reporting.runs import Run
from experiments.engine.checks import values_of
from experiments.engine.claim import Columns, Evidence, Of, Runs, ended

LAST = 5  # epochs
SLIGHTLY, COMPETITIVE, MUCH = (
    2.0,
    1.2,
    1.5,
)  # points; times the best; times lower: the paper's words

POINTS = Scale("points", SLIGHTLY)
FACTOR = Scale("", math.log(MUCH), logarithmic=True)
SHARE = Scale("", 1.0)

GUESSING = {"mnist": 90.0, "cifar10": 90.0, "imagenet": 99.9, "imagenette": 90.0}  # % error

Checks = Callable[[Evidence], list[Check]]


def diverged(run: Run) -> bool:
    """Whether a run diverged, or learned nothing but to call everything background."""
    if not run.finished:
        return ended(run)
    if run.collapsed:
        return True
    column = "val_mean_accuracy"
    return column in run.rows.columns and float(run.rows[column].iloc[-1]) <= ALL_BACKGROUND[column]


#: Segmentation scores (%) when every pixel of VOC is called background, one of 21 classes.
ALL_BACKGROUND = {"val_mean_iu": 3.5, "val_mean_accuracy": 100 / 21 + 1e-6, "val_average": 27.2}


def counted(evidence: Evidence, runs: Runs, of: Of, otherwise: float) -> Columns:
    """A value of every run that ended; `otherwise` of those that diverged."""
    return {
        solver: by_seed(
            (
                (run.seed, otherwise if diverged(run) else of(run))
                for run in evidence.runs(runs.experiment, runs.task, solver)
                if ended(run)
            ),
            f"{solver} in {runs.experiment} on {runs.task}",
        )
        for solver in runs.solvers
    }


def mean_of_last(column: str) -> Of:
    """The mean over the last five epochs."""
    return lambda run: float(values_of(run, column)[-LAST:].mean())


def last_of(column: str) -> Of:
    """That of the last epoch."""
    return lambda run: float(values_of(run, column)[-1])


def log_of_last(column: str) -> Of:
    """The logarithm of the geometric mean over the last five epochs."""
    return lambda run: float(_log(values_of(run, column)[-LAST:]).mean())


def log_of_first(column: str, epochs: int) -> Of:
    """The logarithm of the geometric mean over the first epochs."""
    return lambda run: float(_log(values_of(run, column)[:epochs]).mean())


def _log(values: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(values)


def objectives(evidence: Evidence, runs: Runs) -> Columns:
    """The logarithms of the training objectives."""
    return counted(evidence, runs, log_of_last("train_objective"), math.inf)


def errors(evidence: Evidence, runs: Runs, column: str = "val_top1_error") -> Columns:
    """The top-1 errors in %."""
    return counted(evidence, runs, mean_of_last(column), GUESSING[runs.task])


def beats_each(
    columns: Mapping[str, Mapping[int, float]],
    what: str,
    task: str,
    scale: Scale,
    *,
    factor: float = 1.0,
    higher_is_better: bool = False,
) -> list[Check]:
    """The first solver is better than each other; of logarithms, `factor` times lower."""
    (first, ours), *others = columns.items()
    column = f"{what} on {task_title(task)}"
    times = "" if factor == 1 else f"{factor:g} × "
    shift = -math.log(factor)
    checks = []
    for other, theirs in others:
        text, sides = f"{column}: {times}{first} < {other}", (ours, theirs)
        if higher_is_better:
            text, sides = f"{column}: {other} < {first}", (theirs, ours)
        checks.append(Check(text, *sides, column, scale, high=shift, superior=True))
    return checks


def concluded(checks: Sequence[Check], planned: Sequence[int]) -> Verdict:
    """The verdict on a claim that all checks over seeds hold."""
    return conclude(assess(checks, planned), missing_seeds(checks, planned), planned=planned)


def constant(like: Mapping[int, float], value: float) -> dict[int, float]:
    """The same value for every seed."""
    return dict.fromkeys(like, value)
