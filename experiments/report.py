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
from experiments import declaration, runner, studies
from experiments.claims import CLAIMS, Evidence
from experiments.declaration import Experiment, Study

if TYPE_CHECKING:
    import pandas as pd

    from bpgrad.reporting.runs import Comparison

COLORS = {Outcome.REPRODUCED: "green", Outcome.NOT_REPRODUCED: "red"}
HEAD = """\
# Results

Rebuilt from the run records in `runs/` by `make report`; nothing here is written by hand. Every run
has the paper's size, and the runs of one table and seed share their initial weights and their batch
order.
"""


@dataclass(frozen=True)
class Section:
    """An experiment or study as the report shows it: one of the three, or nothing yet."""

    declared: Experiment | Study
    plan: runner.Plan | None = None  # of an experiment that can run, with its comparisons
    comparisons: tuple[Comparison, ...] = ()
    place: studies.Place | None = None  # of a study

    @property
    def recorded(self) -> bool:
        """Whether there is anything to show."""
        if self.place is not None:
            return self.place.recorded
        return any(run.finished for comparison in self.comparisons for run in comparison.runs)

    @property
    def title(self) -> str:
        """The title, after the paper's name of it."""
        paper, title = self.declared.paper, self.declared.title
        return f"{paper}: {title}" if paper else title


@dataclass(frozen=True)
class Findings:
    """Everything that is recorded, and what the checks take."""

    sections: tuple[Section, ...]
    evidence: Evidence


def read() -> Findings:
    """Read the records of all experiments and studies, of their planned seeds.

    Raises RecordError if runs cannot be compared.
    """
    sections = []
    comparisons: dict[tuple[str, str], Comparison] = {}
    seeds: dict[str, tuple[int, ...]] = {}
    tables: dict[str, pd.DataFrame] = {}
    for declared in declaration.load_all():
        seeds[declared.name] = declared.seeds
        if isinstance(declared, Study):
            place = studies.place_of(declared)
            sections.append(Section(declared, place=place))
            found = studies.evidence(declared, place)
            tables |= found
            seeds |= dict.fromkeys(found, declared.seeds)
        elif declared.needs:
            sections.append(Section(declared))
        elif declared.report:
            plan = runner.prepare(declared)
            sections.append(Section(declared, plan, tuple(runner.gather(plan))))
            comparisons |= {(declared.name, one.task): one for one in sections[-1].comparisons}
    return Findings(tuple(sections), Evidence(comparisons, seeds, tables))


def rebuild() -> Path:
    """Write table and figure of all that is recorded, and the page of it.

    Returns the path of the page. Raises RecordError if runs cannot be compared.
    """
    findings = read()
    parts = [_claims(findings.evidence)]
    shown = [section for section in findings.sections if section.recorded]
    parts += [_section(section, "##") for section in shown if section.declared.paper]
    if beyond := [_section(section, "###") for section in shown if not section.declared.paper]:
        parts += ["## Beyond the paper\n", *beyond]
    if waiting := [section for section in findings.sections if not section.recorded]:
        parts.append("\n".join(["## Not run yet", "", *map(_waiting, waiting)]) + "\n")
    write_text(studies.RESULTS / "README.md", "\n".join([HEAD, *parts]))
    return studies.RESULTS / "README.md"


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


def _section(section: Section, mark: str) -> str:
    """Write an experiment's tables and figures; its heading, after `mark`, and what is under it."""
    name = section.declared.name
    if isinstance(section.declared, Study):
        assert section.place is not None
        body = studies.show(section.declared, section.place)
        return f"{mark} {section.title}\n\n`make {name}`\n\n{body.strip()}\n"
    from bpgrad.reporting import tables

    assert section.plan is not None
    runner.write(section.plan, section.comparisons)
    _, _, body = tables.as_markdown(section.title, section.comparisons).partition("\n")
    picture = f"![{section.title}](figures/{name}.png)"
    files = f"`make {name}` · [CSV](tables/{name}.csv) · [SVG](figures/{name}.svg)"
    body = body.replace("## ", f"{mark}# ")
    return f"{mark} {section.title}\n\n{picture}\n\n{files}\n{body}"


def _waiting(section: Section) -> str:
    needs = section.declared.needs if isinstance(section.declared, Experiment) else None
    return f"- {section.title}: " + (
        f"needs {needs}" if needs else f"`make {section.declared.name}`"
    )
