"""The report in Markdown, as a repository shows it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from bpgrad.reporting.display.symbols import with_subscripts
from bpgrad.reporting.display.tables import as_markdown, as_text
from bpgrad.reporting.page.document import (
    JUDGED,
    SIGNS,
    Document,
    JudgedClaim,
    Section,
    how_far,
    in_words,
)
from bpgrad.reporting.page.html import RULES, groups
from bpgrad.reporting.runs import Comparison

HEAD = "# BPGrad: results of the replication"
TAIL = """\
Rebuilt from the run records in `runs/` and `studies/` by `make report`; nothing here is written by
hand. [index.html](index.html) is the same report as one page to open in a browser, with claims to
search and sortable tables in which every number leads to its run."""


def render(document: Document) -> str:
    """The whole report."""
    parts = [HEAD, document.lead, "\n".join(f"- {words}" for words in document.findings)]
    if document.small:
        title = next(s.title for s in document.sections if s.name == document.small)
        parts.append(f"![{title}](figures/{document.small}_small.png)")
    parts += ["## The claims, and what holds", _claims(document.claims)]
    for _, title, sections in groups(document):
        parts += [f"## {title}", *(_section(section) for section in sections)]
    if document.waiting:
        parts += ["## Not run yet", "\n".join(f"- {words}" for words in document.waiting)]
    parts += ["## How this was made", document.made, document.note, TAIL]
    return with_subscripts("\n\n".join(parts)) + "\n"


def _claims(claims: Sequence[JudgedClaim]) -> str:
    """A table of the claims with their verdicts, and, folded, what decides them."""
    rows = (
        (f"{claim.sentence} `{claim.id}`", _outcome(claim), claim.held or "–") for claim in claims
    )
    reasons = (
        f"- `{claim.id}` by the {RULES[rules]}: {in_words(verdict, claim.counts)}"
        for claim in claims
        for rules, verdict in claim.verdicts.items()
    )
    return "\n".join(
        [
            "| claim | verdict | how far |",
            "| --- | --- | --- |",
            *("| " + " | ".join(as_text(cell) for cell in row) + " |" for row in rows),
            "",
            JUDGED,
            "",
            *_folded("What decides each of them", "\n".join(reasons)),
        ]
    )


def _outcome(claim: JudgedClaim) -> str:
    return f"{SIGNS[claim.shown.outcome]} {claim.shown.outcome}"


def _section(section: Section) -> str:
    """Heading, prose, and picture and tables of an experiment or the body of a study."""
    tag = f" ({section.paper})" if section.paper else ""
    lines = "\n".join(_line(claim, section.reduced) for claim in section.claims)
    parts = [f"### {as_text(section.title)}{tag}", lines, section.opening]
    if section.drawn:
        picture = f"![{as_text(section.title)}](figures/{quote(section.name)}.png)"
        parts += [picture, section.caption]
    elif section.comparisons:
        parts.append(_tables(section))
    parts += _folded("Numbers and notes", "\n\n".join(_more(section)))
    return "\n\n".join(filter(None, parts))


def _line(claim: JudgedClaim, reduced: bool) -> str:
    verdict, where = claim.at(reduced), ""
    if verdict is claim.reduced:
        where = " at the reduced scale"
    held = f", {words}" if (words := how_far(verdict, claim.counts)) else ""
    sign = SIGNS[verdict.outcome]
    return f"- {claim.sentence} `{claim.id}` {sign} **{verdict.outcome}**{where}{held}."


def _more(section: Section) -> Iterator[str]:
    """What a reader unfolds: text, tables, notes and pictures."""
    yield from filter(None, (section.rest, section.prose))
    if section.comparisons:
        name = quote(section.name)
        links = " · ".join(
            f"[{kind}]({folder}/{name}.{suffix})"
            for kind, folder, suffix in (
                ("SVG", "figures", "svg"),
                ("CSV", "tables", "csv"),
                ("LaTeX", "tables", "tex"),
            )
            if section.drawn or folder != "figures"
        )
        if section.drawn:
            yield _tables(section)
        yield links
        for comparison in section.comparisons:
            if comparison.pictures:
                yield "\n".join(_folded("Pictures, by solver", _pictures(comparison)))


def _tables(section: Section) -> str:
    """The tables with their notes, below headings of the fourth level."""
    table = as_markdown(section.title, section.comparisons, section.printed)
    return table.partition("\n")[2].strip().replace("## ", "#### ")


def _pictures(comparison: Comparison) -> str:
    """Of each solver's first run, by paths that a repository shows."""
    lines = []
    for who, drawn in comparison.pictures.items():
        paths = [quote(Path("runs", *file.parts[-5:]).as_posix()) for file in drawn]
        lines += [as_text(who), "\n".join(f"![{Path(path).stem}]({path})" for path in paths)]
    return "\n\n".join(lines)


def _folded(summary: str, text: str) -> tuple[str, ...]:
    return f"<details><summary>{summary}</summary>", "", text, "", "</details>"
