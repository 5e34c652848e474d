"""The report as one HTML page that needs nothing else: pictures, style and script are in it."""

from __future__ import annotations

import base64
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token

from bpgrad.errors import RecordError
from bpgrad.reporting.display.grid import Cell, Grid, Row, grid
from bpgrad.reporting.display.style import heading_of, styles_of
from bpgrad.reporting.display.symbols import with_subscripts
from bpgrad.reporting.display.tables import notes
from bpgrad.reporting.inference.verdicts import Outcome, Verdict
from bpgrad.reporting.page.document import (
    COLORS,
    GREY,
    JUDGED,
    SIGNS,
    Document,
    JudgedClaim,
    Section,
    in_words,
)
from bpgrad.reporting.runs import Comparison, Run

TITLE = "BPGrad: results of the replication"
# The browser itself refuses whatever would come from elsewhere.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)
LONGEST = 10  # numbers of a claim that are not folded
RULES = {
    "first": "earlier rules",
    "second": "registered rules",
    "second, reduced": "registered rules, at the reduced scale",
}
LARGEST_SVG = 200_000  # bytes; of a larger one the PNG is smaller, and shown
# What of SVG's characters needs no escape in the URI, nor in an attribute.
PLAIN = " !$'()*+,-./:;<=>?@[]^_`{|}~"


def render(document: Document, results: Path, widgets: Mapping[str, str] | None = None) -> str:
    """The page, to be written into the folder `results`; links are relative to it.

    `widgets` are HTML fragments by the name of the section that they stand in, below its text.

    Raises RecordError if a figure is missing in `results`.
    """
    page = _Page(results, widgets or {})
    return "\n".join(page.lines(document)) + "\n"


class _Page:
    """Writes a page; `_ids` numbers the lists of runs that a click opens."""

    def __init__(self, results: Path, widgets: Mapping[str, str]) -> None:
        self._results = results
        self._widgets = widgets
        self._seen: set[tuple[Path, ...]] = set()  # pictures that are shown already
        self._ids = count(1)
        self._regions: Counter[str] = Counter()

        def image(_: object, tokens: Sequence[Token], k: int, *__: object) -> str:
            return self._picture(unquote(str(tokens[k].attrs["src"])), tokens[k].content)

        def table_open(*_: object) -> str:
            return f'{self._scroll("Table")}<table class="sortable">'

        def table_close(*_: object) -> str:
            return "</table></div>"

        self._markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
        self._markdown.add_render_rule("image", image)
        self._markdown.add_render_rule("table_open", table_open)
        self._markdown.add_render_rule("table_close", table_close)

    def lines(self, document: Document) -> Iterator[str]:
        here = files(__package__)
        yield "<!DOCTYPE html>"
        yield '<html lang="en">'
        yield '<head>\n<meta charset="utf-8">'
        yield f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
        yield f"<title>{TITLE}</title>"
        yield '<link rel="icon" href="data:,">'
        yield f"<style>\n{here.joinpath('page.css').read_text()}</style>"
        yield "</head>\n<body>"
        yield '<a class="skip" href="#report">Skip the contents</a>\n<div class="frame">'
        yield _contents(document)
        yield f'<main id="report">\n<header><h1>{TITLE}</h1>'
        yield f'<div class="lead">{self._text(document.lead)}</div>'
        yield from self._found(document)
        yield "</header>"
        yield from self._claims(document.claims)
        for name, title, sections in groups(document):
            yield f'<section id="{name}"><h2>{title}</h2></section>'
            for section in sections:
                yield from self._section(section)
        if document.waiting:
            yield '<section id="waiting"><h2>Not run yet</h2>'
            what = f"{len(document.waiting)} tables, figures and studies, and what each needs"
            yield f'<details class="more"><summary>{what}</summary>'
            yield self._text("\n".join(f"- {words}" for words in document.waiting))
            yield "</details></section>"
        yield '<section id="made"><h2>How this was made</h2>'
        yield (
            "<p>Built from the run records by <code>make report</code>; a number leads to the "
            "records of its runs.</p>"
        )
        yield '<details class="more"><summary>Runs, machines, rules</summary>'
        yield self._text(document.made)
        yield self._text(document.note)
        yield "</details></section>"
        yield "</main>\n</div>"
        yield f"<script>\n{here.joinpath('page.js').read_text()}</script>\n</body>\n</html>"

    def _text(self, markdown: str) -> str:
        return str(self._markdown.render(with_subscripts(markdown))).rstrip()

    def _found(self, document: Document) -> Iterator[str]:
        """What was found, beside the small figure."""
        yield '<div class="found">'
        yield self._text("\n".join(f"- {words}" for words in document.findings))
        if document.small:
            title = next(s.title for s in document.sections if s.name == document.small)
            data = self._data(f"figures/{document.small}_small.png")
            yield (
                f'<a class="picture small" href="#{document.small}">'
                f'<img src="{data}" alt="{escape(title)}; leads to the larger figure"></a>'
            )
        yield "</div>"

    def _claims(self, claims: Sequence[JudgedClaim]) -> Iterator[str]:
        """A list to filter: a sentence and a verdict each, which open what decides it."""
        yield '<section id="claims"><h2>The claims, and what holds</h2>'
        yield _filter(claims)
        yield '<ul class="claims">'
        for claim in claims:
            held = f'<span class="held">{escape(claim.held)}</span>' if claim.held else ""
            says = with_subscripts(escape(claim.sentence))
            yield f'<li id="{claim.id}" data-outcome="{claim.shown.outcome}"><details><summary>'
            yield f'{_verdict(claim.shown)}<span class="says">{says} {_tag(claim.id)}</span>{held}'
            yield "</summary>"
            for rules, verdict in claim.verdicts.items():
                yield from self._details(claim, rules, verdict)
            yield "</details></li>"
        yield '</ul><p class="none" hidden>No claim is like that.</p>'
        yield f'<p class="caption">{JUDGED}</p></section>'

    def _details(self, claim: JudgedClaim, rules: str, verdict: Verdict) -> Iterator[str]:
        """What decides a claim by some rules, and the numbers."""
        rule = claim.rules[rules]
        yield f"<p><b>By the {RULES[rules]}:</b> "
        yield with_subscripts(escape(in_words(verdict, claim.counts)))
        if verdict.grade is not None and verdict.grade.worst:
            yield f" Largest miss: {with_subscripts(escape(verdict.grade.worst))}."
        if rule:
            yield f'<br><span class="rule">Holds if: {with_subscripts(escape(rule))}</span>'
        yield "</p>"
        if verdict.numbers:
            rows = len(verdict.numbers)
            if folded := rows > LONGEST:
                yield f"<details><summary>The numbers, {rows} rows</summary>"
            yield f'{self._scroll("Numbers")}<table class="numbers words"><thead><tr>'
            yield "<th>number</th><th>value</th><th>n</th></tr></thead><tbody>"
            for number in verdict.numbers:
                value = f"{number.value:.4g}".replace("-", "−")
                yield f"<tr><td>{with_subscripts(escape(number.name))}</td>"
                yield f'<td data-value="{number.value:.6g}">{value}</td><td>{number.n}</td></tr>'
            yield "</tbody></table></div>"
            if folded:
                yield "</details>"

    def _section(self, section: Section) -> Iterator[str]:
        tag = f" {_tag(section.paper)}" if section.paper else ""
        yield f'<section id="{escape(section.name)}"><h3>{escape(section.title)}{tag}</h3>'
        yield from _chips(section)
        yield self._text(section.opening)
        if widget := self._widgets.get(section.name):
            yield widget
        grids = [grid(comparison, section.printed) for comparison in section.comparisons]
        if section.drawn:
            picture = self._picture(f"figures/{section.name}.png", section.title)
            caption = f"<figcaption>{escape(section.caption)}</figcaption>"
            yield f"<figure>{picture}{caption}</figure>"
        else:
            yield from self._tables(section, grids)
        yield '<details class="more"><summary>Numbers, notes, records</summary>'
        yield self._text(section.rest)
        yield self._text(section.prose)
        if section.drawn:
            yield from self._tables(section, grids)
        for comparison, table in zip(section.comparisons, grids, strict=True):
            yield f"<p>{table.title}:</p>"
            items = "".join(f"<li>{escape(note)}</li>" for note in notes(comparison, table))
            yield f'<ul class="notes">{items}</ul>'
            yield from self._pictures_of(comparison)
        if section.comparisons:
            yield f'<p class="caption">{_links(section)}</p>'
        yield from self._provenance(section)
        yield "</details></section>"

    def _tables(self, section: Section, grids: Sequence[Grid]) -> Iterator[str]:
        """The tables of the tasks, in the colours of the figure."""
        styles = styles_of(section.shows, section.labels)
        one_color = len({style.color for style in styles.values()}) == 1 < len(styles)
        for table in grids:
            if not table.rows:
                continue
            yield self._scroll(f"{table.title}: results by solver")
            yield f'<table class="results sortable"><caption>{table.title}</caption>'
            heads = "".join(f"<th>{escape(h)}</th>" for h in ("solver", "seeds", *table.columns))
            yield f"<thead><tr>{heads}</tr></thead><tbody>"
            lists = []
            for row in table.rows:
                name = f"runs{next(self._ids)}" if len(row.runs) > 1 else ""
                yield self._row(row, "" if one_color else styles[row.solver].color, name)
                lists += [self._runs_of(table, row, name)] if name else []
            yield "</tbody></table></div>"
            yield from lists

    def _pictures_of(self, comparison: Comparison) -> Iterator[str]:
        """Links to what the models do, folded; of runs that several sections show, in the first."""
        found = {
            who: drawn for who, drawn in comparison.pictures.items() if drawn not in self._seen
        }
        if not found:
            return
        self._seen.update(found.values())
        task = heading_of(comparison)
        yield f"<details><summary>{task}: pictures, by solver</summary>"
        for who, drawn in found.items():
            paths = (Path(os.path.relpath(file, self._results)).as_posix() for file in drawn)
            links = (f'<a href="{quote(path)}">{escape(Path(path).stem)}</a>' for path in paths)
            yield f"<p>{escape(who)}: {', '.join(links)}</p>"
        yield "</details>"

    def _row(self, row: Row, color: str, popover: str) -> str:
        swatch = f'<span class="swatch" style="background:{color}"></span>' if color else ""
        seeds = Cell(str(len(row.runs)), len(row.runs), ())
        cells = "".join(self._cell(cell, row.runs, popover) for cell in (seeds, *row.cells))
        return f'<tr><th scope="row">{swatch}{escape(row.solver)}</th>{cells}</tr>'

    def _cell(self, cell: Cell, runs: Sequence[Run], popover: str) -> str:
        """A number that leads to its run, or opens the table of its runs."""
        text = f"<b>{cell.text}</b>" if cell.best else cell.text
        if popover:
            inner = f'<button type="button" popovertarget="{popover}">{text}</button>'
        else:
            inner = f'<a href="{self._link(runs[0])}">{text}</a>'
        paper = cell.paper and f'<span class="paper">paper {cell.paper}, {cell.difference}</span>'
        return f'<td data-value="{cell.value:.6g}">{inner}{paper}</td>'

    def _runs_of(self, table: Grid, row: Row, name: str) -> str:
        """What a row's numbers open: those of each run, a line a column; links to the runs."""
        links = (f'<a href="{self._link(run)}">seed {run.seed}</a>' for run in row.runs)
        heads = "".join(f'<th scope="col">{link}</th>' for link in links)
        lines = []
        for title, cell in zip(table.columns, row.cells, strict=True):
            values = "".join(f"<td>{value}</td>" for value in cell.values)
            lines.append(f'<tr><th scope="row">{escape(title)}</th>{values}</tr>')
        caption = f"<caption>{escape(f'{table.title}, {row.solver}')}</caption>"
        body = f"<tr><th></th>{heads}</tr>{''.join(lines)}"
        return f'<div id="{name}" popover><table>{caption}{body}</table></div>'

    def _provenance(self, section: Section) -> Iterator[str]:
        runs = [run for c in section.comparisons for run in c.runs if len(run.rows)]
        rows = [
            (f"{heading_of(c)}, {run.solver}, seed {run.seed}", self._link(run), start)
            for c in section.comparisons
            for run in c.runs
            if len(run.rows)
            for start in run.meta["starts"]
        ]
        rows += [("the study", escape(section.records), entry) for entry in section.computed]
        if not rows:
            return
        commits = len({start.get("git_sha") for *_, start in rows})
        what = f"{len(runs)} runs" if runs else "computed"
        code = "one commit" if commits == 1 else f"{commits} commits"
        yield f"<details><summary>Where this comes from: {what}, code at {code}</summary>"
        yield f'{self._scroll("Where this comes from")}<table class="words sortable"><thead><tr>'
        heads = ("run", "commit", "time (UTC)", "device", "machine", "versions")
        yield "".join(f"<th>{head}</th>" for head in heads) + "</tr></thead><tbody>"
        for name, link, start in rows:
            cells = "".join(f"<td>{escape(text)}</td>" for text in _origin(start))
            yield f'<tr><td><a href="{link}">{escape(name)}</a></td>{cells}</tr>'
        yield "</tbody></table></div></details>"

    def _scroll(self, name: str) -> str:
        """Opens a part that a narrow screen scrolls, also by keyboard; no two have one name."""
        self._regions[name] += 1
        number = f" ({self._regions[name]})" if self._regions[name] > 1 else ""
        return (
            f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}{number}">'
        )

    def _link(self, run: Run) -> str:
        path = os.path.relpath(run.directory / "metrics.csv", self._results)
        return escape(quote(Path(path).as_posix()))

    def _picture(self, path: str, title: str) -> str:
        return (
            f'<span class="scroll picture" tabindex="0" role="region" aria-label="{escape(title)}">'
            f'<img src="{self._data(path)}" alt="{escape(title)}"></span>'
        )

    def _data(self, path: str) -> str:
        """A picture as a data URI; as SVG where there is one beside the PNG."""
        file = self._results / path
        svg = file.with_suffix(".svg")
        if svg.exists() and svg.stat().st_size <= LARGEST_SVG:
            file = svg
        if file.suffix not in (".svg", ".png", ".webp") or not file.exists():
            raise RecordError(f"{file}: the report shows this picture, but it is not there")
        if file.suffix == ".svg":  # as text, a quarter smaller than base64
            text = re.sub(r"\s*\n\s*", " ", file.read_text(encoding="utf-8"))
            return f"data:image/svg+xml,{quote(text, safe=PLAIN)}"
        data = base64.b64encode(file.read_bytes()).decode()
        return f"data:image/{file.suffix[1:]};base64,{data}"


def groups(document: Document) -> Iterator[tuple[str, str, tuple[Section, ...]]]:
    """The sections by what they are about, each with a name and a title; none that is empty."""
    if document.practice:
        yield "practice", "In practice: training with BPGrad", document.practice
    if document.theory:
        yield "theory", "In theory: the search behind it", document.theory


def _contents(document: Document) -> str:
    links = [("claims", "Claims", "")]
    for name, title, sections in groups(document):
        links.append((name, title.partition(":")[0], "group"))
        links += [(section.name, section.title, "") for section in sections]
    if document.waiting:
        links.append(("waiting", "Not run yet", "group"))
    links.append(("made", "How this was made", "group"))
    items = "".join(
        f'<li{f" class={kind}" if kind else ""}><a href="#{escape(name)}">{escape(title)}</a></li>'
        for name, title, kind in links
    )
    return f'<nav aria-label="Contents"><ol>{items}</ol></nav>'


def _filter(claims: Sequence[JudgedClaim]) -> str:
    """Buttons and a field that choose among the claims; the script shows them."""
    counts = Counter(claim.shown.outcome for claim in claims)
    items = [
        f'<button type="button" data-outcome="" aria-pressed="true">all {len(claims)}</button>'
    ]
    items += [
        f'<button type="button" class="{COLORS.get(outcome, GREY)}" data-outcome="{outcome}" '
        f'aria-pressed="false">{SIGNS[outcome]} {counts[outcome]} {outcome}</button>'
        for outcome in Outcome
        if counts[outcome]
    ]
    field = '<input type="search" placeholder="search" aria-label="Search the claims">'
    buttons = "".join(items)
    return (
        f'<div class="filter" role="group" aria-label="Show claims" hidden>{buttons}{field}</div>'
    )


def _tag(text: str) -> str:
    return f'<span class="tag">{escape(text)}</span>'


def _chips(section: Section) -> Iterator[str]:
    """The claims that a section is about, each leading to what decides it."""
    if section.claims:
        links = (
            f'<a href="#{claim.id}" title="{escape(claim.sentence)}">{claim.id}</a> '
            f"{_verdict(verdict)}{' (reduced)' if verdict is claim.reduced else ''}"
            for claim in section.claims
            for verdict in (claim.at(section.reduced),)
        )
        yield f'<ul class="chips">{"".join(f"<li>{link}</li>" for link in links)}</ul>'


def _verdict(verdict: Verdict) -> str:
    outcome = verdict.outcome
    color = COLORS.get(outcome, GREY)
    kind = " undecided" if outcome == Outcome.UNDECIDED else ""
    return f'<span class="verdict {color}{kind}">{SIGNS[outcome]} {outcome}</span>'


def _links(section: Section) -> str:
    kinds = (
        *((("figures", "svg", "SVG"), ("figures", "png", "PNG")) if section.drawn else ()),
        *(("tables", "csv", "CSV"), ("tables", "md", "Markdown"), ("tables", "tex", "LaTeX")),
    )
    file = escape(quote(section.name))
    return " · ".join(f'<a href="{folder}/{file}.{s}">{kind}</a>' for folder, s, kind in kinds)


def _origin(start: Mapping[str, Any]) -> Iterator[str]:
    """Commit, time, device, machine and versions, of an entry of meta.json."""
    sha = str(start.get("git_sha") or "unknown")
    yield sha[:12] + (", with changes" if start.get("git_dirty") else "")
    yield str(start.get("time", "unknown")).partition("+")[0].replace("T", " ")
    machine = start.get("machine", {})
    yield str(machine.get("device", "unknown"))
    yield str(machine.get("gpu") or machine.get("cpu") or "unknown")
    versions = start.get("versions", {})
    yield ", ".join(f"{name} {version}" for name, version in versions.items() if version)
