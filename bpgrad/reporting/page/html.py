"""The report as one HTML page that needs nothing else: pictures, style and script are in it."""

from __future__ import annotations

import base64
import os
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
from bpgrad.reporting.display.style import line_styles, task_title
from bpgrad.reporting.display.tables import notes
from bpgrad.reporting.inference.verdicts import Outcome
from bpgrad.reporting.page.document import COLORS, GREY, SIGNS, Document, JudgedClaim, Section
from bpgrad.reporting.runs import Comparison, Run

TITLE = "BPGrad: results of the replication"
# The browser itself refuses whatever would come from elsewhere.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)
LARGEST_SVG = 1_500_000  # bytes; a larger one is shown as PNG
PLAIN = " !$'()*+,-./:;=?@[]^_`{|}~"  # what SVG has of characters that need no escape in the URI


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
        self._ids = count(1)

        def image(_: object, tokens: Sequence[Token], k: int, *__: object) -> str:
            return self._picture(unquote(str(tokens[k].attrs["src"])), tokens[k].content)

        self._markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
        self._markdown.add_render_rule("image", image)
        self._markdown.add_render_rule("table_open", _rule_table_open)
        self._markdown.add_render_rule("table_close", _rule_table_close)

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
        yield self._text(document.opening)
        yield f"{_tally(document.claims)}\n</header>"
        yield from self._claims(document)
        for section in document.of_the_paper:
            yield from self._section(section, "h2")
        if document.beyond:
            yield '<section id="beyond"><h2>Beyond the paper</h2></section>'
        for section in document.beyond:
            yield from self._section(section, "h3")
        if document.waiting:
            yield '<section id="waiting"><h2>Not run yet</h2>'
            yield self._text("\n".join(f"- {words}" for words in document.waiting))
            yield "</section>"
        yield (
            "<footer><p>Built from the run records by <code>make report</code>. Numbers lead to "
            "the records of their runs.</p></footer>"
        )
        yield "</main>\n</div>"
        yield f"<script>\n{here.joinpath('page.js').read_text()}</script>\n</body>\n</html>"

    def _text(self, markdown: str) -> str:
        return str(self._markdown.render(markdown)).rstrip()

    def _claims(self, document: Document) -> Iterator[str]:
        yield '<section id="claims"><h2>The paper’s claims</h2>'
        yield self._text(document.note)
        yield '<table class="claims words sortable"><thead><tr>'
        yield "<th>claim</th><th>verdict</th><th>what decides it</th></tr></thead><tbody>"
        for claim in document.claims:
            yield f'<tr id="{claim.id}"><td data-value="{claim.id}">'
            yield f'<span class="id">{claim.id}</span> {escape(claim.text)}</td>'
            yield f"<td>{_verdict(claim)}</td>"
            yield f"<td>{escape(claim.verdict.sentence)}{_details(claim)}</td></tr>"
        yield "</tbody></table></section>"

    def _section(self, section: Section, heading: str) -> Iterator[str]:
        title = f"<{heading}>{escape(section.title)}</{heading}>"
        yield f'<section id="{escape(section.name)}">{title}'
        yield self._text(section.prose)
        if section.body:
            yield self._text(section.body)
        if widget := self._widgets.get(section.name):
            yield widget
        if section.comparisons:
            picture = self._picture(f"figures/{section.name}.png", section.title)
            yield f"<figure>{picture}<figcaption>{_links(section.name)}</figcaption></figure>"
            for comparison in section.comparisons:
                yield from self._results_of(section, comparison)
        yield from self._provenance(section)
        yield "</section>"

    def _results_of(self, section: Section, comparison: Comparison) -> Iterator[str]:
        table = grid(comparison, section.printed)
        if table.rows:
            colors = line_styles(comparison.solvers)
            task = task_title(comparison.task)
            yield _scroll(f"{task}: results by solver")
            yield f'<table class="results sortable"><caption>{task}</caption>'
            heads = "".join(f"<th>{escape(h)}</th>" for h in ("solver", "seeds", *table.columns))
            yield f"<thead><tr>{heads}</tr></thead><tbody>"
            for row in table.rows:
                yield self._row(table, row, colors[row.solver].color)
            yield "</tbody></table></div>"
        else:
            yield f"<h3>{task_title(comparison.task)}</h3>"
        items = "".join(f"<li>{escape(note)}</li>" for note in notes(comparison, table))
        yield f'<ul class="notes">{items}</ul>'

    def _row(self, table: Grid, row: Row, color: str) -> str:
        swatch = f'<span class="swatch" style="background:{color}"></span>'
        seeds = Cell(str(len(row.runs)), len(row.runs), ("",) * len(row.runs))
        titles = ("seeds", *table.columns)
        cells = "".join(
            self._cell(f"{task_title(table.task)}, {row.solver}: {title}", cell, row.runs)
            for title, cell in zip(titles, (seeds, *row.cells), strict=True)
        )
        return f'<tr><th scope="row">{swatch}{escape(row.solver)}</th>{cells}</tr>'

    def _cell(self, title: str, cell: Cell, runs: Sequence[Run]) -> str:
        """A number that leads to its run, or opens the list of its runs."""
        text = f"<b>{cell.text}</b>" if cell.best else cell.text
        if len(runs) == 1:
            inner = f'<a href="{self._link(runs[0])}">{text}</a>'
        else:
            name = f"runs{next(self._ids)}"
            items = "".join(
                f'<li><a href="{self._link(run)}">seed {run.seed}</a>{": " if v else ""}{v}</li>'
                for run, v in zip(runs, cell.values, strict=True)
            )
            inner = (
                f'<button type="button" popovertarget="{name}">{text}</button>'
                f'<div id="{name}" popover><b>{escape(title)}</b><ul>{items}</ul></div>'
            )
        paper = cell.paper and f'<span class="paper">paper {cell.paper}, {cell.difference}</span>'
        return f'<td data-value="{cell.value:.6g}">{inner}{paper}</td>'

    def _provenance(self, section: Section) -> Iterator[str]:
        runs = [run for c in section.comparisons for run in c.runs if len(run.rows)]
        rows = [
            (f"{task_title(c.task)}, {run.solver}, seed {run.seed}", self._link(run), start)
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
        yield f"<details><summary>Provenance: {what}, code at {code}</summary>"
        yield f'{_scroll("Provenance")}<table class="words sortable"><thead><tr>'
        heads = ("run", "commit", "time (UTC)", "device", "machine", "versions")
        yield "".join(f"<th>{head}</th>" for head in heads) + "</tr></thead><tbody>"
        for name, link, start in rows:
            cells = "".join(f"<td>{escape(text)}</td>" for text in _origin(start))
            yield f'<tr><td><a href="{link}">{escape(name)}</a></td>{cells}</tr>'
        yield "</tbody></table></div></details>"

    def _link(self, run: Run) -> str:
        path = Path(os.path.relpath(run.directory, self._results)).as_posix()
        return escape(quote(path)) + "/"

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
        if file.suffix not in (".svg", ".png") or not file.exists():
            raise RecordError(f"{file}: the report shows this picture, but it is not there")
        if file.suffix == ".svg":  # as text, a quarter smaller than base64
            text = file.read_text(encoding="utf-8").replace("\n", " ")
            return f"data:image/svg+xml,{quote(text, safe=PLAIN)}"
        data = base64.b64encode(file.read_bytes()).decode()
        return f"data:image/png;base64,{data}"


def _rule_table_open(*_: object) -> str:
    return f'{_scroll("Table")}<table class="sortable">'


def _rule_table_close(*_: object) -> str:
    return "</table></div>"


def _scroll(name: str) -> str:
    """Opens a part that a narrow screen scrolls, also by keyboard."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}">'


def _contents(document: Document) -> str:
    links = [("claims", "The paper’s claims", "")]
    for section in (*document.of_the_paper, *document.beyond):
        short, colon, long = section.title.partition(": ")
        links.append((section.name, short, colon + long))
    if document.waiting:
        links.append(("waiting", "Not run yet", ""))
    items = "".join(
        f'<li><a href="#{escape(name)}">{escape(short)}'
        f'<span class="long">{escape(long)}</span></a></li>'
        for name, short, long in links
    )
    return f'<nav aria-label="Contents"><ol>{items}</ol></nav>'


def _tally(claims: Sequence[JudgedClaim]) -> str:
    counts = Counter(claim.verdict.outcome for claim in claims)
    items = "".join(
        f'<li class="{COLORS.get(outcome, GREY)}"><b>{counts[outcome]}</b>'
        f"{SIGNS[outcome]} {outcome}</li>"
        for outcome in Outcome
    )
    return f'<ul class="tally">{items}</ul>'


def _verdict(claim: JudgedClaim) -> str:
    outcome = claim.verdict.outcome
    kind = " undecided" if outcome == Outcome.UNDECIDED else ""
    rest = escape(claim.outcome.removeprefix(outcome).strip())
    chip = f'<span class="verdict {claim.color}{kind}">{SIGNS[outcome]} {outcome}</span>'
    if outcome == Outcome.UNDECIDED:
        rest += f"<br>{claim.verdict.leaning} comparisons its way"
    return f'{chip} <span class="paper">{rest}</span>' if rest else chip


def _details(claim: JudgedClaim) -> str:
    """How a claim is decided, and its numbers; closed until one asks."""
    verdict = claim.verdict
    rule = f"<p>{escape(claim.rule)}.</p>"
    if not verdict.numbers:
        return f"<details><summary>How it is decided</summary>{rule}</details>"
    rows = "".join(
        f'<tr><td>{escape(n.name)}</td><td data-value="{n.value:.6g}">{n.value:.4g}</td>'
        f"<td>{n.n}</td></tr>"
        for n in verdict.numbers
    )
    return (
        f"<details><summary>How it is decided, and the numbers</summary>{rule}"
        f'{_scroll("Numbers")}<table class="numbers sortable"><thead><tr><th>number</th>'
        f"<th>value</th><th>n</th></tr></thead><tbody>{rows}</tbody></table></div></details>"
    )


def _links(name: str) -> str:
    kinds = (
        *(("figures", "svg", "SVG"), ("figures", "png", "PNG")),
        *(("tables", "csv", "CSV"), ("tables", "md", "Markdown"), ("tables", "tex", "LaTeX")),
    )
    file = escape(quote(name))
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
