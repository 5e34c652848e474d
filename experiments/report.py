"""The report: every table and figure of the paper again, from the records alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bpgrad.records.files import write_text
from experiments import declaration, runner

if TYPE_CHECKING:
    from bpgrad.reporting.runs import Comparison

HEAD = """\
# Results

Rebuilt from the run records in `runs/` by `make report`; nothing here is written by hand. Every run
has the paper's size, and the runs of one table and seed share their initial weights and their batch
order.
"""


def rebuild() -> Path:
    """Write table and figure of every experiment of the paper that has a finished run, and a page.

    Returns the path of the page. Raises RecordError if runs cannot be compared.
    """
    sections, missing = [], []
    results = Path("results")
    for name in declaration.names():
        experiment = declaration.load(declaration.FOLDER / f"{name}.yaml")
        if experiment.paper is None:
            continue  # everyone runs it on his own machine
        plan = runner.prepare(experiment)
        results = Path(plan.runs[0][1].results_root).parent
        comparisons = runner.gather(plan)
        if any(run.finished for comparison in comparisons for run in comparison.runs):
            runner.write(plan, comparisons)
            sections.append(_section(plan, comparisons))
        else:
            missing.append(f"- {plan.title}: `make {name}`")
    if missing:
        sections.append("\n".join(["## Not run yet", "", *missing]) + "\n")
    page = results / "README.md"
    write_text(page, "\n".join([HEAD, *sections]))
    return page


def _section(plan: runner.Plan, comparisons: list[Comparison]) -> str:
    """Heading, picture and tables of one experiment."""
    from bpgrad.reporting import tables

    _, _, body = tables.as_markdown(plan.title, comparisons).partition("\n")
    picture = f"![{plan.title}](figures/{plan.name}.png)"
    files = f"`make {plan.name}` · [CSV](tables/{plan.name}.csv) · [SVG](figures/{plan.name}.svg)"
    return f"## {plan.title}\n\n{picture}\n\n{files}\n{body.replace('## ', '### ')}"
