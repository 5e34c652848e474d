"""What a table of final results holds: a number of each metric and solver, and where it is from."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from bpgrad.metrics import short_phase
from bpgrad.reporting.display.style import heading_of
from bpgrad.reporting.inference.statistics import best_in_column, by_seed
from bpgrad.reporting.runs import Comparison, Run

if TYPE_CHECKING:
    from bpgrad.metrics import Metric

PHASES = ("train", "val")
FIXED = "fixed_objective"
AGAIN = "_reestimated"  # ends what is measured with batch statistics estimated again

# The paper's printed values by task, solver and column of the records.
Printed = Mapping[tuple[str, str, str], float]


@dataclass(frozen=True)
class Cell:
    """A number as it is printed, and the value of each of its runs, in the order of the row's.

    `best`: significantly better than every other number of the column. `paper` is the value that
    the paper prints, `difference` ours minus the paper's, both as text; empty if it prints none.
    """

    text: str
    value: float
    values: tuple[str, ...]
    best: bool = False
    paper: str = ""
    difference: str = ""


@dataclass(frozen=True)
class Row:
    """The numbers of a solver, one for each column of the grid, and its finished runs."""

    solver: str
    runs: tuple[Run, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Grid:
    """The table of a task: a row for each solver that has finished a run."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def has_best(self) -> bool:
        """Whether any number is marked as the best of its column."""
        return any(cell.best for row in self.rows for cell in row.cells)

    @property
    def has_paper(self) -> bool:
        """Whether a value of the paper stands beside any number."""
        return any(cell.paper for row in self.rows for cell in row.cells)


def summarise(comparison: Comparison) -> pd.DataFrame:
    """A row for each solver that has finished: the last epochs' metrics and the time taken.

    Columns: task, solver, seeds (their number), <phase>_<metric> and its standard deviation over
    seeds (of the sample; NaN for one seed) as <phase>_<metric>_std, evaluations (gradients taken,
    of solvers that take more than one an iteration), and of the fastest run, since whatever else a
    machine does makes a run slower: train_seconds (of all epochs), images_per_second (while
    training).
    """
    rows = []
    for solver in comparison.solvers:
        runs = comparison.finished(solver)
        if not runs:
            continue
        last = pd.DataFrame([final(run, comparison.averaged) for run in runs])
        row = {"task": comparison.task, "solver": solver, "seeds": len(runs)}
        for column, _ in shown_columns(comparison):
            values = last[column] if column in last else pd.Series([math.nan])
            row[column], row[f"{column}_std"] = values.mean(), values.std(ddof=1)
        if "evaluations" in last:
            row["evaluations"] = last["evaluations"].mean()
        fastest = min(runs, key=_seconds)
        row["train_seconds"], row["images_per_second"] = _seconds(fastest), _rate(fastest)
        rows.append(row)
    return pd.DataFrame(rows)


def final(run: Run, averaged: int) -> pd.Series:
    """What a run ends with: the means over its last epochs, or the last row itself."""
    if averaged == 1:
        return run.rows.iloc[-1]
    return run.rows.iloc[-averaged:].mean(numeric_only=True)


def shown_columns(comparison: Comparison) -> list[tuple[str, Metric]]:
    """The columns of the records that are shown: both phases of each metric, where recorded.

    Beside the running mean of the training objective that at fixed weights, if all runs have it:
    older records do not. Of a task that estimates batch statistics again, with those.
    """
    recorded = {column for run in comparison.runs if run.finished for column in run.rows.columns}
    names = [(f"{phase}_{name}", name) for phase in PHASES for name in comparison.metrics]
    again = AGAIN if f"objective{AGAIN}" in comparison.metrics else ""
    fixed = f"{FIXED}{again}"
    measured = all(fixed in run.rows.columns for run in comparison.runs if run.finished)
    if measured and "objective" in comparison.metrics:
        names.insert(1, (fixed, f"objective{again}"))
    return [(column, comparison.metrics[name]) for column, name in names if column in recorded]


def grid(comparison: Comparison, printed: Printed | None = None) -> Grid:
    """The table of a comparison, with the paper's values where it prints any.

    A number is the best of its column if every planned run has finished and it is significantly
    better than each other (see `bpgrad.reporting.inference.statistics.best_in_column`).
    """
    columns = shown_columns(comparison)
    best = {column: _best(comparison, column, metric) for column, metric in columns}
    titles = [_title(comparison, column, metric) for column, metric in columns]
    rows = []
    for summary in summarise(comparison).to_dict("records"):
        solver = summary["solver"]
        runs = tuple(comparison.finished(solver))
        cells = []
        for column, metric in columns:
            mean, std = summary[column], summary[f"{column}_std"]
            paper = (printed or {}).get((comparison.task, solver, column))
            cells.append(
                Cell(
                    text_of(mean, metric) + ("" if pd.isna(std) else f" ± {_std(std, metric)}"),
                    float(mean),
                    tuple(text_of(ending(run, comparison, column), metric) for run in runs),
                    solver in best[column],
                    "" if paper is None else _as_printed(paper, metric),
                    "" if paper is None else _difference(mean - paper, metric),
                )
            )
        company = " in company" * min(runs, key=_seconds).in_company
        for name, of in (("train_seconds", _seconds), ("images_per_second", _rate)):
            each = tuple(f"{of(run):.0f}{' in company' * run.in_company}" for run in runs)
            cells.append(Cell(f"{summary[name]:.0f}{company}", float(summary[name]), each))
        rows.append(Row(solver, runs, tuple(cells)))
    return Grid(heading_of(comparison), (*titles, "fastest run (s)", "images/s"), tuple(rows))


def ending(run: Run, comparison: Comparison, column: str) -> float:
    """A column of what a run ends with; NaN of one that is older than the column."""
    return float(final(run, comparison.averaged).get(column, math.nan))


def _title(comparison: Comparison, column: str, metric: Metric) -> str:
    title = metric.title
    if column.startswith(FIXED):
        first, *others = title.split(", ")
        title = ", ".join([f"{first} at fixed weights", *others])
    elif _again(column) in comparison.metrics and _takes_moving(comparison):
        title += ", moving statistics"
    return f"{short_phase(comparison.task, column)} {_with_unit(replace(metric, title=title))}"


def _again(column: str) -> str:
    """What a column of validation is named where batch statistics are estimated again."""
    name = column.removeprefix("val_")
    return "" if name == column else f"{name}{AGAIN}"


def _takes_moving(comparison: Comparison) -> bool:
    """Whether the nets have batch normalisation, validated with its moving statistics."""
    tasks = [run.config.get("task", {}) for run in comparison.runs]
    return all(t.get("batch_norm", True) and t.get("validation", "test") == "test" for t in tasks)


def text_of(value: float, metric: Metric) -> str:
    """A value as it is printed everywhere: percentages to two decimals, others to four digits."""
    if math.isnan(value):
        return "–"
    return f"{value:{'.2f' if metric.unit == '%' else '#.4g'}}"


def _best(comparison: Comparison, column: str, metric: Metric) -> Collection[str]:
    """The best solver of a column, and those that are the same by another name: its very runs."""
    if not metric.compared or not all(run.finished for run in comparison.runs):
        return ()  # what is still missing might be better
    named: dict[tuple[Path, ...], list[str]] = {}
    for solver in comparison.solvers:
        runs = comparison.finished(solver)
        named.setdefault(tuple(run.directory for run in runs), []).append(solver)
    values = {
        names[0]: by_seed(
            (run.seed, ending(run, comparison, column)) for run in comparison.finished(names[0])
        )
        for names in named.values()
    }
    best = best_in_column(values, higher_is_better=metric.higher_is_better)
    return next((names for names in named.values() if names[0] == best), ())


def _with_unit(metric: Metric) -> str:
    return f"{metric.title} ({metric.unit})" if metric.unit else metric.title


def _std(std: float, metric: Metric) -> str:
    return f"{std:{'.2f' if metric.unit == '%' else '#.2g'}}"


def _as_printed(value: float, metric: Metric) -> str:
    return f"{value:.1f}" if metric.unit == "%" else f"{value:g}"


def _difference(difference: float, metric: Metric) -> str:
    return f"{difference:{'+.2f' if metric.unit == '%' else '+#.3g'}}".replace("-", "−")


def _seconds(run: Run) -> float:
    return float(run.rows["train_seconds"].sum())


def _images(run: Run) -> float:
    return float((run.rows["images_per_second"] * run.rows["train_seconds"]).sum())


def _rate(run: Run) -> float:
    return _images(run) / _seconds(run)
