"""What the checks of claims share: values of a run, comparisons over seeds, the paper's tables.

The value of a run is that of its last epoch unless a claim says otherwise. "Best" is the solver
judged against every competitor by itself; where a claim is about the best competitor, that is the
one with the best mean over seeds, and the choice is paid for: Holm counts every solver of the
column.
"""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from bpgrad.errors import RecordError
from bpgrad.reporting.display.style import task_title
from bpgrad.reporting.inference.statistics import BySeed, by_seed, summarise
from bpgrad.reporting.inference.verdicts import (
    Inequality,
    Verdict,
    all_of,
    decide,
    lower,
    not_run,
    within_tolerance,
)
from bpgrad.reporting.runs import Run
from experiments.engine.claim import Columns, Evidence, Of, Runs

# Values of a run.


def last(column: str) -> Of:
    """The value of the last epoch."""
    return lambda run: float(values_of(run, column)[-1])


def early(column: str, epochs: int) -> Of:
    """The mean over the first epochs."""
    return lambda run: float(values_of(run, column)[:epochs].mean())


def fluctuation(column: str, epochs: int) -> Of:
    """The standard deviation over the last epochs.

    Raises RecordError, when called, for a run with fewer epochs.
    """

    def of(run: Run) -> float:
        values = values_of(run, column)
        if len(values) < epochs:
            raise RecordError(f"{run.directory}: has {len(values)} epochs, {epochs} are needed")
        return float(values[-epochs:].std(ddof=1))

    return of


def average(*columns: str) -> Of:
    """The mean of several values of the last epoch."""
    return lambda run: float(np.mean([last(column)(run) for column in columns]))


def values_of(run: Run, column: str) -> np.ndarray:
    """A column of metrics.csv, a value an epoch. Raises RecordError if there is none."""
    if column not in run.rows.columns:
        raise RecordError(f"{run.directory}/metrics.csv: has no column {column}")
    return run.rows[column].to_numpy(dtype=np.float64)


# Inequalities that several claims share.


def beats_all(
    evidence: Evidence,
    runs: Runs,
    what: str,
    of: Of,
    *,
    factor: float = 1.0,
    higher_is_better: bool = False,
) -> list[Inequality]:
    """The first solver is better than each other by itself; `factor` times lower, if given."""
    columns, column = evidence.columns(runs, of), f"{what} on {task_title(runs.task)}"
    first, *others = runs.solvers
    family = evidence.family(runs)
    if higher_is_better:
        return [
            lower(f"{column}: {o} < {first}", columns[o], columns[first], column, family=family)
            for o in others
        ]
    times = "" if factor == 1 else f"{factor:g} × "
    return [
        lower(
            f"{column}: {times}{first} < {other}",
            *(columns[first], columns[other], column),
            factor=factor,
            family=family,
        )
        for other in others
    ]


def best_other(columns: Mapping[str, BySeed], *, higher_is_better: bool = False) -> str:
    """The solver with the best mean, but for the first."""
    sign = -1.0 if higher_is_better else 1.0
    others = list(columns)[1:]
    return min(others, key=lambda solver: _or_last(sign * summarise(columns[solver]).mean))


def _or_last(value: float) -> float:
    return math.inf if math.isnan(value) else value


def sweep(
    evidence: Evidence, experiment: str, task: str, column: str, diverged: float
) -> dict[str, Columns]:
    """Last values by solver and setting, of labels "solver, setting"; `diverged` where it did."""
    comparison = evidence.comparisons.get((experiment, task))
    found: dict[str, Columns] = {}
    for label in comparison.solvers if comparison else ():
        solver, _, setting = label.partition(", ")
        runs = evidence.runs(experiment, task, label)
        found.setdefault(solver, {})[setting] = by_seed(
            (
                (run.seed, last(column)(run) if run.finished else diverged)
                for run in runs
                if run.finished or run.meta.get("diverged")
            ),
            f"{label} in {experiment} on {task}",
        )
    return found


def known(holds: bool | None, value: float) -> bool | None:
    """Whether a property holds; None where its value is NaN."""
    return None if holds is None or math.isnan(value) else bool(holds)


# The paper's printed values.


def judge_table(
    table: str, values: pd.DataFrame, evidence: Evidence, derived: Mapping[str, Of]
) -> Verdict:
    """Whether every value of a table ("Table 1") is the paper's, within its tolerance.

    `values` are all that the paper prints (`experiments.engine.printed.paper_values`), `derived`
    the metrics among them that are not in the records.

    Raises KeyError for a table that the paper has no values of.
    """
    values = values[values["table"] == table]
    if values.empty:
        raise KeyError(table)
    rows = ({str(key): value for key, value in row.items()} for row in values.to_dict("records"))
    return all_of([_judge_value(row, evidence, derived) for row in rows])


def _judge_value(
    row: Mapping[str, object], evidence: Evidence, derived: Mapping[str, Of]
) -> tuple[str, Verdict]:
    solver, metric = str(row["solver"]), str(row["metric"])
    experiment = str(row["table"]).lower().replace(" ", "")
    runs = Runs(experiment, str(row["task"]), (solver,))
    text = f"{solver} {metric}"
    if missing := evidence.missing(runs):
        return text, not_run(missing)
    values = evidence.columns(runs, derived.get(metric, last(metric)))[solver]
    paper, tolerance = float(str(row["value"])), float(str(row["tolerance"]))
    inequalities = within_tolerance(text, values, paper, tolerance)
    return text, decide(inequalities, evidence.seeds[experiment])
