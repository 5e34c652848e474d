"""The report in Markdown, as a repository shows it."""

from collections.abc import Iterator, Sequence
from urllib.parse import quote

from bpgrad.reporting.display.tables import as_markdown, as_text
from bpgrad.reporting.page.document import SIGNS, Document, JudgedClaim, Section

HEAD = """\
# Results

Rebuilt from the run records in `runs/` and `studies/` by `make report`; nothing here is written by
hand. [index.html](index.html) is the same report as one page to open in a browser, with sortable
tables in which every number leads to its run.
"""


def render(document: Document) -> str:
    """The whole report."""
    parts = [HEAD, f"{document.opening}\n", _claims(document.note, document.claims)]
    parts += [_section(section, "##") for section in document.of_the_paper]
    if document.beyond:
        beyond = (_section(section, "###") for section in document.beyond)
        parts += ["## Beyond the paper\n", *beyond]
    if document.waiting:
        parts.append(
            "\n".join(["## Not run yet", "", *(f"- {w}" for w in document.waiting)]) + "\n"
        )
    return "\n".join(parts)


def _claims(note: str, claims: Sequence[JudgedClaim]) -> str:
    """A table of the paper's claims with their verdicts."""
    lines = ["## The paper's claims", "", note, ""]
    lines += ["| claim | verdict | what decides it |", "| --- | --- | --- |"]
    for claim in claims:
        sign = SIGNS[claim.verdict.outcome]
        words = (f"**{claim.id}** {claim.text}", f"{sign} {claim.outcome}", claim.verdict.sentence)
        lines.append("| " + " | ".join(as_text(word) for word in words) + " |")
    return "\n".join(lines) + "\n"


def _section(section: Section, mark: str) -> str:
    """Heading, prose, and picture and tables of an experiment or the body of a study."""
    return "\n\n".join([f"{mark} {as_text(section.title)}", *_body(section, mark)]) + "\n"


def _body(section: Section, mark: str) -> Iterator[str]:
    yield section.prose
    if section.body:
        yield section.body.strip()
    if section.comparisons:
        name = quote(section.name)
        yield f"![{as_text(section.title)}](figures/{name}.png)"
        yield " · ".join(
            f"[{kind}]({folder}/{name}.{suffix})"
            for kind, folder, suffix in (
                ("SVG", "figures", "svg"),
                ("CSV", "tables", "csv"),
                ("LaTeX", "tables", "tex"),
            )
        )
        table = as_markdown(section.title, section.comparisons, section.printed)
        yield table.partition("\n")[2].strip().replace("## ", f"{mark}# ")
