"""The report: every table, figure and claim of the paper again, from the records alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bpgrad.records.files import write_text
from bpgrad.reporting.verdicts import Outcome, Verdict
from experiments import declaration, runner
from experiments.claims import CLAIMS, Evidence

if TYPE_CHECKING:
    from bpgrad.reporting.runs import Comparison

COLORS = {Outcome.REPRODUCED: "green", Outcome.NOT_REPRODUCED: "red"}
HEAD = """\
# Results

Rebuilt from the run records in `runs/` by `make report`; nothing here is written by hand. Every run
has the paper's size, and the runs of one table and seed share their initial weights and their batch
order.
"""


@dataclass(frozen=True)
class Findings:
    """Everything that is recorded: the paper's experiments as planned, and what the checks take."""

    shown: tuple[tuple[runner.Plan, list[Comparison]], ...]
    evidence: Evidence


def read() -> Findings:
    """Read the records of all experiments of the paper, of their planned seeds.

    Raises RecordError if runs cannot be compared.
    """
    shown: list[tuple[runner.Plan, list[Comparison]]] = []
    comparisons: dict[tuple[str, str], Comparison] = {}
    seeds: dict[str, tuple[int, ...]] = {}
    for name in declaration.names():
        experiment = declaration.load(declaration.FOLDER / f"{name}.yaml")
        if experiment.paper is None:
            continue  # everyone runs it on his own machine
        plan = runner.prepare(experiment)
        shown.append((plan, runner.gather(plan)))
        comparisons |= {(name, found.task): found for found in shown[-1][1]}
        seeds[name] = experiment.seeds
    return Findings(tuple(shown), Evidence(comparisons, seeds))


def rebuild() -> Path:
    """Write table and figure of every experiment that has a finished run, and the page of all.

    Returns the path of the page. Raises RecordError if runs cannot be compared.
    """
    findings = read()
    sections, missing = [_claims(findings.evidence)], []
    for plan, comparisons in findings.shown:
        if any(run.finished for comparison in comparisons for run in comparison.runs):
            runner.write(plan, comparisons)
            sections.append(_section(plan, comparisons))
        else:
            missing.append(f"- {plan.title}: `make {plan.name}`")
    if missing:
        sections.append("\n".join(["## Not run yet", "", *missing]) + "\n")
    results = Path(findings.shown[0][0].runs[0][1].results_root).parent
    write_text(results / "README.md", "\n".join([HEAD, *sections]))
    return results / "README.md"


def show_verdicts(console: Console) -> None:
    """Print every claim: green, red or grey, with what decides it."""
    evidence = read().evidence
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("claim", no_wrap=True)
    table.add_column("verdict")
    table.add_column("what it says, and what decides it")
    for claim in CLAIMS:
        verdict = claim.judge(evidence)
        color = COLORS.get(verdict.outcome, "bright_black")
        says = Text(f"{claim.text}. ").append(verdict.sentence, style="dim")
        table.add_row(claim.id, Text(_outcome(verdict), style=color), says)
    console.print(table)


def _outcome(verdict: Verdict) -> str:
    """In a few words; what a claim still needs stands in its sentence."""
    return str(verdict.outcome if verdict.outcome == Outcome.NOT_RUN else verdict)


def _claims(evidence: Evidence) -> str:
    """A table of the paper's claims with their verdicts."""
    lines = [
        "## The paper's claims",
        "",
        "Over seeds a claim is decided by paired t-tests after Holm, from three seeds on; how each "
        "one is decided stands in `experiments/claims.py`. Its thresholds come from the suite's "
        "specification, written before any run, or, where that leaves them open, are marked as "
        "our own there; those were written while the first runs were under way.",
        "",
        "| claim | verdict | what decides it |",
        "| --- | --- | --- |",
    ]
    for claim in CLAIMS:
        verdict = claim.judge(evidence)
        words = (f"**{claim.id}** {claim.text}", _outcome(verdict), verdict.sentence)
        lines.append("| " + " | ".join(word.replace("|", "\\|") for word in words) + " |")
    return "\n".join(lines) + "\n"


def _section(plan: runner.Plan, comparisons: list[Comparison]) -> str:
    """Heading, picture and tables of one experiment."""
    from bpgrad.reporting import tables

    _, _, body = tables.as_markdown(plan.title, comparisons).partition("\n")
    picture = f"![{plan.title}](figures/{plan.name}.png)"
    files = f"`make {plan.name}` · [CSV](tables/{plan.name}.csv) · [SVG](figures/{plan.name}.svg)"
    return f"## {plan.title}\n\n{picture}\n\n{files}\n{body.replace('## ', '### ')}"
