"""The report: every table, figure and claim of the paper again, from the records alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bpgrad.records.files import write_text
from bpgrad.reporting.display import endings
from bpgrad.reporting.inference.verdicts import needed_words
from bpgrad.reporting.page import document, html, interactive, readme
from bpgrad.reporting.page.document import Document, JudgedClaim
from experiments.engine import declaration, prose, runner, studies
from experiments.engine.claim import Claim, Evidence, about
from experiments.engine.declaration import Experiment, Study
from experiments.engine.printed import printed
from experiments.engine.suite import Suite

if TYPE_CHECKING:
    import pandas as pd

    from bpgrad.reporting.runs import Comparison


@dataclass(frozen=True)
class Found:
    """What there is of an experiment or study; nothing of one that cannot run yet.

    `evidence` names the tables that a study has for the claims.
    """

    declared: Experiment | Study
    plan: runner.Plan | None = None  # of an experiment that can run, with its comparisons
    comparisons: tuple[Comparison, ...] = ()
    place: studies.Place | None = None  # of a study
    evidence: tuple[str, ...] = ()

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

    @property
    def computed(self) -> tuple[Mapping[str, Any], ...]:
        """By what and when a study was computed."""
        if self.place is None or not self.place.recorded:
            return ()
        return tuple(json.loads((self.place.folder / "meta.json").read_text())["computed"])


@dataclass(frozen=True)
class Findings:
    """Everything that is recorded, and what the checks take."""

    found: tuple[Found, ...]
    evidence: Evidence


def read(suite: Suite) -> Findings:
    """Read the records of all experiments and studies, of their planned seeds.

    Raises RecordError if runs cannot be compared.
    """
    all_found = []
    comparisons: dict[tuple[str, str], Comparison] = {}
    seeds: dict[str, tuple[int, ...]] = {}
    tables: dict[str, pd.DataFrame] = {}
    for declared in declaration.load_all(suite.folder):
        seeds[declared.name] = declared.seen or declared.seeds  # of the first rules
        if isinstance(declared, Study):
            place = studies.place_of(declared)
            evidence = studies.evidence(suite.studies, declared, place)
            all_found.append(Found(declared, place=place, evidence=tuple(evidence)))
            tables |= evidence
            seeds |= dict.fromkeys(evidence, seeds[declared.name])
        elif declared.needs:
            all_found.append(Found(declared))
        elif declared.report:
            plan = runner.prepare(declared)
            all_found.append(Found(declared, plan, tuple(runner.gather(plan))))
            for one in all_found[-1].comparisons:
                judged = tuple(run for run in one.runs if run.seed in seeds[declared.name])
                comparisons[declared.name, one.task] = replace(one, runs=judged)
    return Findings(tuple(all_found), Evidence(comparisons, seeds, tables))


def rebuild(suite: Suite) -> Path:
    """Write table and figure of all that is recorded, and the report as Markdown and as HTML.

    Returns the path of the Markdown. Raises RecordError if runs cannot be compared.
    """
    findings = read(suite)
    for found in findings.found:
        if found.plan is not None and found.recorded:
            runner.write(found.plan, found.comparisons, suite.paper_values)
    report = compose(suite, findings)
    write_text(studies.RESULTS / "README.md", readme.render(report))
    widgets = {"figure1": interactive.widget()}
    write_text(studies.RESULTS / "index.html", html.render(report, studies.RESULTS, widgets))
    return studies.RESULTS / "README.md"


def compose(suite: Suite, findings: Findings) -> Document:
    """The report as data; the studies write their figures and tables."""
    judged = judge(suite.claims(), findings.evidence)
    shown = [found for found in findings.found if found.recorded]
    comparisons = [one for found in findings.found for one in found.comparisons]
    computed = {found.title: found.computed for found in shown if found.place is not None}
    return Document(
        prose.opening(comparisons, computed, judged),
        prose.NOTE,
        judged,
        tuple(_section(suite, found, judged) for found in shown),
        tuple(_waiting(found) for found in findings.found if not found.recorded),
    )


def judge(claims: Sequence[Claim], evidence: Evidence) -> tuple[JudgedClaim, ...]:
    """Every claim of the paper with its verdict."""
    return tuple(
        JudgedClaim(claim.id, claim.text, claim.rule, claim.judge(evidence)) for claim in claims
    )


def show_verdicts(suite: Suite, console: Console) -> None:
    """Print every claim: green, red or grey, with the numbers that decide it, on one screen."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    findings = read(suite)
    for claim in judge(suite.claims(), findings.evidence):
        verdict, color = claim.verdict, _screen_color(claim)
        needs = "" if verdict.needed is None else f" Needs n = {needed_words(verdict.needed)}."
        says = Text(f"{claim.text}. ").append(f"{verdict.sentence}{needs}", style="dim")
        words = f"{document.SIGNS[verdict.outcome]} {verdict.outcome}"
        table.add_row(Text(claim.id, style=color), Text(words, style=color), says)
    console.print(table)
    damaged = {
        run.damage: None
        for found in findings.found
        for comparison in found.comparisons
        for run in comparison.runs
        if run.damage
    }
    for line in damaged:  # a run may stand in several experiments
        console.print(f"left out: {line}", style="red", markup=False, soft_wrap=True)


def _screen_color(claim: JudgedClaim) -> str:
    return "bright_black" if claim.color == document.GREY else claim.color


def _section(suite: Suite, found: Found, judged: Sequence[JudgedClaim]) -> document.Section:
    declared = found.declared
    ids = about(suite.claims(), {declared.name, *found.evidence})
    text = prose.about(
        [claim for claim in judged if claim.id in ids],
        found.comparisons,
        f"make {declared.name}",
    )
    if isinstance(declared, Experiment):
        answers = (endings.answer(declared.shows, each) for each in found.comparisons)
        text = "\n\n".join([text, *filter(None, answers)])
    section = document.Section(
        declared.name, found.title, text, found.comparisons, in_paper=declared.paper is not None
    )
    if not isinstance(declared, Study):
        return replace(section, printed=printed(suite.paper_values, declared.name))
    assert found.place is not None
    return replace(
        section,
        body=studies.show(suite.studies, declared, found.place),
        records=f"{found.place.folder.relative_to(studies.RESULTS).as_posix()}/",
        computed=found.computed,
    )


def _waiting(found: Found) -> str:
    needs = found.declared.needs if isinstance(found.declared, Experiment) else None
    return f"{found.title}: " + (f"needs {needs}" if needs else f"`make {found.declared.name}`")
