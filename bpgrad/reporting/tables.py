"""Tables of final results: as numbers (CSV), as Markdown, and on the screen."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from bpgrad.reporting.runs import Comparison, Run
from bpgrad.reporting.style import task_title

if TYPE_CHECKING:
    from bpgrad.metrics import Metric

PHASES = ("train", "val")


def summarise(comparison: Comparison) -> pd.DataFrame:
    """A row for each solver that has finished: the last epoch's metrics and the time taken.

    Columns: task, solver, seeds (their number), <phase>_<metric> and its standard deviation over
    seeds (of the sample; NaN for one seed) as <phase>_<metric>_std, train_seconds (of all epochs),
    images_per_second (while training).
    """
    rows = []
    for solver in comparison.solvers:
        runs = comparison.finished(solver)
        if not runs:
            continue
        last = pd.DataFrame([run.rows.iloc[-1] for run in runs])
        row = {"task": comparison.task, "solver": solver, "seeds": len(runs)}
        for column, _ in _columns(comparison):
            row[column] = last[column].mean()
            row[f"{column}_std"] = last[column].std(ddof=1)
        times = pd.concat([run.rows for run in runs])
        seconds = times["train_seconds"].sum()
        row["train_seconds"] = seconds / len(runs)
        row["images_per_second"] = (times["images_per_second"] * times["train_seconds"]).sum() / (
            seconds
        )
        rows.append(row)
    return pd.DataFrame(rows)


def as_csv(comparisons: Sequence[Comparison]) -> str:
    """All summaries in one table, to six significant digits; no value where a task has no such."""
    summaries = [summarise(comparison) for comparison in comparisons]
    table = pd.concat([summary for summary in summaries if len(summary)])
    text = io.StringIO()
    table.to_csv(text, index=False, float_format="%.6g", lineterminator="\n")
    return text.getvalue()


def as_markdown(title: str, comparisons: Sequence[Comparison]) -> str:
    """A heading, and a table with its notes for each task; aligned, to be read as it is too."""
    lines = [f"# {title}"]
    for comparison in comparisons:
        header, rows = _cells(comparison)
        lines += ["", f"## {task_title(comparison.task)}", ""]
        if rows:
            lines += [*_aligned(header, rows), ""]
        lines += [f"- {note}" for note in notes(comparison)]
    return "\n".join(lines) + "\n"


def show(title: str, comparisons: Sequence[Comparison], console: Console) -> None:
    """Print the tables: for the width of a terminal, or as Markdown where there is none."""
    if not console.is_terminal:
        console.file.write(f"\n{as_markdown(title, comparisons)}")
        return
    console.print(f"\n{title}", style="bold", markup=False, highlight=False)
    for comparison in comparisons:
        header, rows = _cells(comparison)
        table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
        table.title, table.title_justify = f"\n{task_title(comparison.task)}", "left"
        for k, name in enumerate(header):  # broken up, the table fits into 80 columns
            words = name.replace(" ", "\n")
            table.add_column(words, justify="right" if k else "left", no_wrap=k > 0)
        for row in rows:
            table.add_row(*(cell.replace(" ± ", "\n± ") for cell in row))
        console.print(table)
        for note in notes(comparison):
            console.print(f"- {note}", markup=False, highlight=False)


def notes(comparison: Comparison) -> Iterator[str]:
    """What a reader must know beside the numbers, and which runs are missing."""
    finished = [run for run in comparison.runs if run.finished]
    if any(len(comparison.finished(solver)) > 1 for solver in comparison.solvers):
        yield "Mean ± standard deviation over the seeds."
    if finished:
        yield _provenance(finished)
    for run in comparison.runs:
        if not run.finished:
            yield f"Missing: {run.solver}, seed {run.seed}: {run.state}."


def _provenance(runs: Sequence[Run]) -> str:
    machines = sorted({run.machine for run in runs})
    devices = sorted(set[str]().union(*(run.devices for run in runs)))
    if len(devices) > 1:
        return f"Mixed devices ({', '.join(devices)}): {'; '.join(machines)}. Do not compare times."
    if len(machines) > 1:
        return f"Different machines: {'; '.join(machines)}. Do not compare times."
    return f"Times on: {machines[0]}."


def _columns(comparison: Comparison) -> list[tuple[str, Metric]]:
    """The columns of the records that are shown: both phases of each metric, where recorded."""
    recorded = {column for run in comparison.runs if run.finished for column in run.rows.columns}
    names = [(f"{phase}_{name}", name) for phase in PHASES for name in comparison.metrics]
    return [(column, comparison.metrics[name]) for column, name in names if column in recorded]


def _cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """The header, and a row of formatted values for each solver."""
    columns = _columns(comparison)
    header = ["solver", "seeds"]
    for column, metric in columns:
        unit = f" ({metric.unit})" if metric.unit else ""
        header.append(f"{column.partition('_')[0]} {metric.title}{unit}")
    header += ["train time (s)", "images/s"]
    rows = []
    for row in summarise(comparison).to_dict("records"):
        values = [_value(row[column], row[f"{column}_std"], metric) for column, metric in columns]
        times = [f"{row['train_seconds']:.0f}", f"{row['images_per_second']:.0f}"]
        rows.append([row["solver"], str(row["seeds"]), *values, *times])
    return header, rows


def _value(mean: float, std: float, metric: Metric) -> str:
    style = ".2f" if metric.unit == "%" else "#.4g"
    if pd.isna(std):
        return f"{mean:{style}}"
    return f"{mean:{style}} ± {std:{'.2f' if metric.unit == '%' else '#.2g'}}"


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table: text to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rules = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [
        f"| {row[0]:<{widths[0]}} | "
        + " | ".join(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        + " |"
        for row in (header, rules, *rows)
    ]
