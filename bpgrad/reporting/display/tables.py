"""Tables of final results: as numbers (CSV), as Markdown, and on the screen."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bpgrad.metrics import phase_title
from bpgrad.reporting.display.grid import Cell, Grid, Printed, grid, summarise
from bpgrad.reporting.display.style import heading_of
from bpgrad.reporting.runs import Comparison, Run

# The proposals of a detection, by their name in the records.
PROPOSALS = {
    "published": "selective search, as published",
    "selective_search": "selective search by OpenCV, not the published boxes",
    "oracle": "oracle, jittered from the truth: no result of a detector",
}

LISTED = 3  # runs that have not been run are counted, not listed, if there are more


def as_csv(comparisons: Sequence[Comparison], printed: Printed | None = None) -> str:
    """All summaries in one table, to six significant digits; no value where a task has no such.

    A value that the paper prints is in the column <phase>_<metric>_paper.
    """
    summaries = [_with_paper(summarise(c), printed or {}) for c in comparisons]
    table = pd.concat([summary for summary in summaries if len(summary)])
    text = io.StringIO()
    table.to_csv(text, index=False, float_format="%.6g", lineterminator="\n")
    return text.getvalue()


def _with_paper(summary: pd.DataFrame, printed: Printed) -> pd.DataFrame:
    for column in list(summary.columns):
        keys = [(str(r["task"]), str(r["solver"]), column) for r in summary.to_dict("records")]
        if any(key in printed for key in keys):
            summary[f"{column}_paper"] = [printed.get(key) for key in keys]
    return summary


def as_markdown(
    title: str, comparisons: Sequence[Comparison], printed: Printed | None = None
) -> str:
    """A heading, and a table with its notes for each task; aligned, to be read as it is too."""
    lines = [f"# {as_text(title)}"]
    for comparison in comparisons:
        table = grid(comparison, printed)
        lines += ["", f"## {heading_of(comparison)}", ""]
        if table.rows:
            rows = [
                [as_text(row.solver), str(len(row.runs)), *(_marked(cell) for cell in row.cells)]
                for row in table.rows
            ]
            lines += [*_aligned(("solver", "seeds", *table.columns), rows), ""]
        lines += [f"- {as_text(note)}" for note in notes(comparison, table)]
    return "\n".join(lines) + "\n"


def as_text(words: str) -> str:
    """Words that Markdown shows as they are: no tag, no new column of a table, in one line."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", " ".join(words.split())).replace("|", "\\|")


def show(
    title: str,
    comparisons: Sequence[Comparison],
    console: Console,
    printed: Printed | None = None,
) -> None:
    """Print the tables: for the width of a terminal, or as Markdown where there is none."""
    if not console.is_terminal:
        console.file.write(f"\n{as_markdown(title, comparisons, printed)}")
        return
    console.print(f"\n{title}", style="bold", markup=False, highlight=False)
    for comparison in comparisons:
        found = grid(comparison, printed)
        table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
        table.title, table.title_justify = f"\n{heading_of(comparison)}", "left"
        for k, name in enumerate(("solver", "seeds", *found.columns)):
            words = name.replace(" ", "\n")  # broken up, the table fits into 80 columns
            table.add_column(words, justify="right" if k else "left", no_wrap=k > 0)
        for row in found.rows:
            cells = (
                Text(with_paper(cell).replace(" ± ", "\n± "), "bold" if cell.best else "")
                for cell in row.cells
            )
            table.add_row(row.solver, str(len(row.runs)), *cells)
        console.print(table)
        for note in notes(comparison, found):
            console.print(f"- {note}", markup=False, highlight=False)


def notes(comparison: Comparison, table: Grid | None = None) -> Iterator[str]:
    """What a reader must know beside the numbers, and which runs are missing."""
    table = grid(comparison) if table is None else table
    finished = [run for run in comparison.runs if run.finished]
    if any(len(comparison.finished(solver)) > 1 for solver in comparison.solvers):
        yield "Mean ± standard deviation over the seeds."
    if comparison.averaged > 1:
        yield f"Of each run the mean over its last {comparison.averaged} epochs."
    if comparison.note:
        yield comparison.note
    if comparison.fluctuation and finished:
        yield _fluctuation(comparison)
    if table.has_best:
        yield (
            "Bold: better than every other of the column by paired t-tests over the seeds, after "
            "Holm at 5 %; the t-test takes the differences as normally distributed."
        )
    if table.has_paper:
        yield "In brackets: the paper's value, and ours minus the paper's."
    each = {run.config.get("task", {}).get("proposals") for run in finished}
    if kinds := sorted(each - {None}):
        yield f"Proposals: {'; '.join(PROPOSALS.get(kind, kind) for kind in kinds)}."
    yield from _gradients(finished)
    if finished:
        yield _provenance(finished)
    if changed := [run for run in finished if run.changed_code]:
        runs = ", ".join(f"{run.solver} seed {run.seed}" for run in changed)
        yield f"The code had changes that were not committed: {runs}."
    for run in finished:
        if run.not_finite:
            yield f"Not finite: {run.solver}, seed {run.seed}: {', '.join(run.not_finite)}."
    if collapsed := [run for run in finished if run.collapsed]:
        runs = ", ".join(f"{run.solver} seed {run.seed}" for run in collapsed)
        yield (
            f"Collapsed to background, which is a failure of the setting and no value: {runs}. "
            "Next to nothing is called anything else."
        )
    missing = [run for run in comparison.runs if not run.finished]
    waiting = [run for run in missing if not (run.meta or run.damage)]
    for run in missing if len(waiting) <= LISTED else [r for r in missing if r.meta or r.damage]:
        yield f"Missing: {run.solver}, seed {run.seed}: {run.state}."
    if len(waiting) > LISTED:
        yield f"Missing: {len(waiting)} of {len(comparison.runs)} planned runs have not been run."


def _fluctuation(comparison: Comparison) -> str:
    name, metric = comparison.drawn
    column, epochs = f"val_{name}", comparison.fluctuation
    found = {
        solver: np.mean([_deviation(run, column, epochs) for run in runs])
        for solver in comparison.solvers
        if (runs := comparison.finished(solver))
    }
    each = (f"{solver} {'–' if np.isnan(x) else f'{x:.3g}'}" for solver, x in found.items())
    what = f"{phase_title(comparison.task, column)} {metric.title}"
    return (
        f"Fluctuation, the standard deviation of the {what} over the last {epochs} epochs, mean "
        f"over the seeds: {', '.join(each)}."
    )


def _deviation(run: Run, column: str, epochs: int) -> float:
    """Over the last epochs; NaN of a run that has fewer, or no such column."""
    values = run.rows.reindex(columns=[column])[column].to_numpy()
    return float(values[-epochs:].std(ddof=1)) if len(values) >= epochs else math.nan


def _gradients(runs: Sequence[Run]) -> Iterator[str]:
    """Which solvers took more than a gradient an iteration, and how many."""
    counted: dict[str, list[float]] = {}
    for run in runs:
        last = run.rows.iloc[-1]
        if last.get("evaluations", 0) > 0:  # NaN is not
            counted.setdefault(run.solver, []).append(last["evaluations"] / last["iterations"])
    for solver, each in counted.items():
        yield (
            f"{solver} took {sum(each) / len(each):.3g} gradients an iteration; the same epochs "
            "are not the same work."
        )


def with_paper(cell: Cell) -> str:
    """A number with the paper's in brackets, where it prints one."""
    return f"{cell.text} ({cell.paper}, {cell.difference})" if cell.paper else cell.text


def _marked(cell: Cell) -> str:
    return f"**{with_paper(cell)}**" if cell.best else with_paper(cell)


def _provenance(runs: Sequence[Run]) -> str:
    company = (
        " Times in company count other runs' turns." if any(r.in_company for r in runs) else ""
    )
    return f"{_machines(runs)}{company}"


def _machines(runs: Sequence[Run]) -> str:
    machines = sorted({run.machine for run in runs})
    devices = sorted(set[str]().union(*(run.devices for run in runs)))
    if len(devices) > 1:
        return f"Mixed devices ({', '.join(devices)}): {'; '.join(machines)}. Do not compare times."
    if len(machines) > 1:
        return f"Different machines: {'; '.join(machines)}. Do not compare times."
    return f"Times on: {machines[0]}."


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
