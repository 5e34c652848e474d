"""The report: every table, figure and claim of the paper again, from the records alone."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from bpgrad.records.files import write_text
from bpgrad.reporting.display import captions, endings
from bpgrad.reporting.inference.verdicts import Outcome, Verdict, needed_words
from bpgrad.reporting.page import document, html, interactive, readme
from bpgrad.reporting.page.document import Document, JudgedClaim
from bpgrad.reporting.runs import look_at
from experiments.engine import declaration, prose, runner, studies
from experiments.engine.claim import Claim, Evidence, about
from experiments.engine.declaration import Experiment, Study
from experiments.engine.printed import printed
from experiments.engine.suite import Suite

if TYPE_CHECKING:
    import pandas as pd

    from bpgrad.reporting.runs import Comparison

NARROW = 100  # columns; below, verdicts are signs


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
    def computed(self) -> tuple[Mapping[str, Any], ...]:
        """By what and when a study was computed."""
        if self.place is None or not self.place.recorded:
            return ()
        return tuple(json.loads((self.place.folder / "meta.json").read_text())["computed"])


@dataclass(frozen=True)
class Findings:
    """Everything that is recorded, and what the checks of the first and the second rules take.

    The first are judged by the seeds that had been seen when the second were registered, these by
    the others alone (docs/claims.md).
    """

    found: tuple[Found, ...]
    evidence: Evidence
    unseen: Evidence


def read(suite: Suite) -> Findings:
    """Read the records of all experiments and studies, of their planned seeds.

    Raises RecordError if runs cannot be compared.
    """
    all_found = []
    comparisons: dict[tuple[str, str], Comparison] = {}
    tables: dict[str, pd.DataFrame] = {}
    seen: dict[str, tuple[int, ...]] = {}
    unseen: dict[str, tuple[int, ...]] = {}
    for declared in declaration.load_all(suite.folder):
        names = [declared.name]
        if isinstance(declared, Study):
            place = studies.place_of(declared)
            evidence = studies.evidence(suite.studies, declared, place)
            all_found.append(Found(declared, place=place, evidence=tuple(evidence)))
            tables |= evidence
            names += evidence
        elif declared.needs:
            all_found.append(Found(declared))
        elif declared.report:
            plan = runner.prepare(declared)
            all_found.append(Found(declared, plan, tuple(runner.gather(plan))))
            comparisons |= {(declared.name, c.task): c for c in all_found[-1].comparisons}
        seen |= dict.fromkeys(names, declared.seen or declared.seeds)
        unseen |= dict.fromkeys(names, declared.seeds)
    first, second = (_evidence(comparisons, tables, seeds) for seeds in (seen, unseen))
    return Findings(tuple(all_found), first, second)


def _evidence(
    comparisons: Mapping[tuple[str, str], Comparison],
    tables: Mapping[str, pd.DataFrame],
    seeds: Mapping[str, tuple[int, ...]],
) -> Evidence:
    """What is recorded of these seeds, by experiment and table, and nothing of others."""
    chosen = {
        key: replace(one, runs=tuple(run for run in one.runs if run.seed in seeds[key[0]]))
        for key, one in comparisons.items()
    }
    rows = {
        name: table[table["seed"].isin(seeds[name])]
        if "seed" in table.columns and seeds[name]
        else table
        for name, table in tables.items()
    }
    return Evidence(chosen, seeds, rows)


def rebuild(suite: Suite) -> Path:
    """Write table and figure of all that is recorded, and the report as Markdown and as HTML.

    Returns the path of the Markdown. Raises RecordError if runs cannot be compared.
    """
    findings = read(suite)
    for found in findings.found:
        if found.plan is not None and found.recorded:
            runner.write(found.plan, found.comparisons, suite.paper_values)
            if found.declared.name == suite.small:
                _draw_small(suite, found)
    report = compose(suite, findings)
    write_text(studies.RESULTS / "README.md", readme.render(report))
    widgets = {"figure1": interactive.widget()}
    write_text(studies.RESULTS / "index.html", html.render(report, studies.RESULTS, widgets))
    return studies.RESULTS / "README.md"


def _draw_small(suite: Suite, found: Found) -> None:
    from bpgrad.reporting.display import curves

    figure = curves.draw_small(found.comparisons, suite.highlighted)
    for suffix in (".svg", ".png"):
        path = studies.RESULTS / "figures" / f"{found.declared.name}_small{suffix}"
        curves.save(figure, path)


def compose(suite: Suite, findings: Findings) -> Document:
    """The report as data; the studies write their figures and tables."""
    judged = judge(suite.claims(), findings)
    shown = [found for found in findings.found if found.recorded]
    comparisons = [one for found in findings.found for one in found.comparisons]
    computed = {f.declared.title: f.computed for f in shown if f.place is not None}
    of_experiments = {
        (f.declared.name, one.task): one for f in findings.found for one in f.comparisons
    }
    answers = [
        words
        for found in shown
        if isinstance(found.declared, Study) and found.place is not None
        for words in studies.findings(suite.studies, found.declared, found.place)
    ]
    small = [f.declared.name for f in shown if f.declared.name == suite.small and f.comparisons]
    return Document(
        suite.lead(),
        (*suite.findings(of_experiments, judged), *answers),
        judged,
        tuple(_section(suite, found, judged) for found in shown),
        tuple(_waiting(found) for found in findings.found if not found.recorded),
        prose.made(comparisons, computed, _tuning(suite)),
        prose.NOTE,
        "".join(small),
    )


def _tuning(suite: Suite) -> dict[str, int]:
    """How many runs chose settings, by the title of what they are declared in."""
    counts = {}
    for declared in declaration.load_all(suite.folder):
        if not isinstance(declared, Experiment) or declared.report or declared.needs:
            continue
        if declared.shows == "sweep":
            plan = runner.prepare(declared).runs
            runs = (look_at(runner.record_of(cfg), run.solver, run.seed) for run, cfg in plan)
            counts[declared.title] = sum(run.finished for run in runs)
    return {title: count for title, count in counts.items() if count}


def judge(claims: Sequence[Claim], findings: Findings) -> tuple[JudgedClaim, ...]:
    """Every claim of the paper with its verdicts by both rules."""
    judged = []
    for claim in claims:
        second, reduced = claim.second, claim.reduced
        judged.append(
            JudgedClaim(
                *(claim.id, claim.text, claim.rule, claim.judge(findings.evidence)),
                second_rule=second.text if second else "",
                second=second.judge(findings.unseen) if second else None,
                reduced_rule=reduced.text if reduced else "",
                reduced=reduced.judge(findings.unseen) if reduced else None,
                counts=claim.counts,
            )
        )
    return tuple(judged)


def show_verdicts(suite: Suite, console: Console, verbose: bool = False) -> None:
    """Print every claim with its verdicts by both rules, a line each; with `verbose`, why."""
    findings = read(suite)
    judged = judge(suite.claims(), findings)
    if verbose:
        for claim in judged:
            console.print(Text(f"{claim.id} {claim.text}", style="bold"))
            for rules, verdict in claim.verdicts.items():
                line = Text(f"  {rules}: ").append_text(_word(verdict))
                console.print(line.append(f" {_why(verdict)}", style="dim"))
        _print_damaged(console, findings)
        return
    print_table(console, judged)
    _print_damaged(console, findings)


def _print_damaged(console: Console, findings: Findings) -> None:
    damaged = {
        run.damage: None
        for found in findings.found
        for comparison in found.comparisons
        for run in comparison.runs
        if run.damage
    }
    for line in damaged:  # a run may stand in several experiments
        console.print(f"left out: {line}", style="red", markup=False, soft_wrap=True)


def print_table(console: Console, judged: Sequence[JudgedClaim]) -> None:
    """Print a line a claim, in columns, each cut where the screen ends; signs on a narrow one."""
    narrow = console.width < NARROW
    heads = ("first", "second") if narrow else ("first rules", "second, unseen seeds")
    lines: list[tuple[Text, ...]] = [
        (Text(), *(Text(head, style="bold") for head in heads), Text("grade"), Text("claim"))
    ]
    for claim in judged:
        second = claim.second or claim.verdict
        words = _word(claim.verdict, narrow), _word(second, narrow), _grade(second)
        lines.append((Text(claim.id), *words, Text(claim.text)))
        if (reduced := claim.reduced) is not None:
            words = Text(), _word(reduced, narrow), _grade(reduced)
            lines.append((Text(), *words, Text("  at the reduced scale")))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        for cell, width in zip(line[:-1], widths, strict=False):
            cell.pad_right(width - len(cell))
        console.print(Text("  ").join(line), no_wrap=True, overflow="ellipsis", crop=True)
    if narrow:
        console.print("  ".join(f"{sign} {word}" for word, sign in document.SIGNS.items()))
    console.print("-v says why; n counts seeds (C2, C3: functions)", style="dim", highlight=False)


def _word(verdict: Verdict, narrow: bool = False) -> Text:
    """Sign, outcome and n of a verdict in the colour of its outcome; narrow, without the word."""
    color = document.COLORS.get(verdict.outcome, "bright_black")
    n = "" if verdict.outcome == Outcome.NOT_RUN else f", n = {verdict.n}"
    word = n[1:] if narrow else f" {verdict.outcome}{n}"
    return Text(f"{document.SIGNS[verdict.outcome]}{word}", style=color)


def _grade(verdict: Verdict) -> Text:
    return Text("" if verdict.grade is None else str(verdict.grade))


def _why(verdict: Verdict) -> str:
    needs = "" if verdict.needed is None else f" Needs n = {needed_words(verdict.needed)}."
    grade, worst = verdict.grade, verdict.grade.worst if verdict.grade else ""
    share = f" Grade: {grade} {grade.of}." if grade else ""
    miss = f" Largest miss: {worst}." if worst and worst not in verdict.sentence else ""
    return f"{verdict.sentence}{share}{miss}{needs}"


def _section(suite: Suite, found: Found, judged: Sequence[JudgedClaim]) -> document.Section:
    declared = found.declared
    ids = about(suite.claims(), {declared.name, *found.evidence})
    if isinstance(declared, Experiment):
        ids += declared.claims
    text = prose.about(
        found.comparisons,
        f"make {declared.name}",
        declared.paper or "",
        bool(values := printed(suite.paper_values, declared.name)),
    )
    if isinstance(declared, Experiment):
        answers = (endings.answer(declared.shows, each) for each in found.comparisons)
        text = "\n\n".join([text, *filter(None, answers)])
    section = document.Section(
        declared.name,
        declared.title,
        text,
        found.comparisons,
        paper=declared.paper or "",
        claims=tuple(claim for claim in judged if claim.id in ids),
        reduced=isinstance(declared, Experiment) and declared.scale == "reduced",
    )
    if not isinstance(declared, Study):
        words = captions.caption(declared.shows, found.comparisons)
        return replace(section, printed=values, shows=declared.shows, caption=words)
    assert found.place is not None
    table = _first_table(found.place.folder)
    return replace(
        section,
        body=studies.show(suite.studies, declared, found.place),
        records=Path(os.path.relpath(table, studies.RESULTS)).as_posix(),
        computed=found.computed,
    )


def _first_table(folder: Path) -> Path:
    """A file of a study's records that shows something in a browser."""
    return min(folder.glob("*.csv"), default=folder / "meta.json")


def _waiting(found: Found) -> str:
    declared, needs = found.declared, None
    if isinstance(declared, Experiment):
        needs = declared.needs or (
            declared.takes and f"{declared.takes}, then `make {declared.name}`"
        )
    paper = f" ({declared.paper})" if declared.paper else ""
    return f"{declared.title}{paper}: " + (f"needs {needs}" if needs else f"`make {declared.name}`")
