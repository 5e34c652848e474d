"""The report as data: what the Markdown page (readme) and the HTML page (page) both show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bpgrad.reporting.display.grid import Printed
from bpgrad.reporting.inference.verdicts import Outcome, Verdict
from bpgrad.reporting.runs import Comparison

# Sign and colour of an outcome; what is decided neither way is grey.
SIGNS = {
    Outcome.REPRODUCED: "✓",
    Outcome.NOT_REPRODUCED: "✗",
    Outcome.UNDECIDED: "?",
    Outcome.NOT_RUN: "–",
}
COLORS = {Outcome.REPRODUCED: "green", Outcome.NOT_REPRODUCED: "red"}
GREY = "grey"


@dataclass(frozen=True)
class JudgedClaim:
    """A claim of the paper, how it is decided, and the verdict on it.

    `rule` and `verdict` are by the first rules, on the seeds seen before the second; `second` is by
    the second, on unseen seeds, `reduced` likewise but of the runs at the reduced scale.
    """

    id: str
    text: str
    rule: str
    verdict: Verdict
    second_rule: str = ""
    second: Verdict | None = None
    reduced_rule: str = ""
    reduced: Verdict | None = None

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """Those that there are, by the rules: first, second, second (reduced)."""
        found = {"first": self.verdict, "second": self.second, "second, reduced": self.reduced}
        return {rules: verdict for rules, verdict in found.items() if verdict is not None}

    @property
    def outcome(self) -> str:
        """In a few words; what a claim still needs stands in its sentence."""
        not_run = self.verdict.outcome == Outcome.NOT_RUN
        return str(self.verdict.outcome if not_run else self.verdict)

    @property
    def color(self) -> str:
        """Green, red or grey."""
        return COLORS.get(self.verdict.outcome, GREY)


@dataclass(frozen=True)
class Section:
    """An experiment or study. Texts are Markdown, their links relative to the results folder.

    An experiment has `comparisons`, and a figure figures/<name> and tables tables/<name>; a study
    has a `body` that shows its own. `prose` stands before either. Of a study `records` is the
    folder, and `computed` says where and by what it was computed, the entries of its meta.json.
    """

    name: str
    title: str
    prose: str
    comparisons: tuple[Comparison, ...] = ()
    printed: Printed = field(default_factory=dict)
    body: str = ""
    records: str = ""
    computed: tuple[Mapping[str, Any], ...] = ()
    in_paper: bool = True


@dataclass(frozen=True)
class Document:
    """The report: an opening, the claims with a note on how they are decided, and the sections.

    `waiting` says, a line each, what has not been run.
    """

    opening: str
    note: str
    claims: tuple[JudgedClaim, ...]
    sections: tuple[Section, ...]
    waiting: tuple[str, ...]

    @property
    def of_the_paper(self) -> tuple[Section, ...]:
        """The sections that reproduce something of the paper."""
        return tuple(section for section in self.sections if section.in_paper)

    @property
    def beyond(self) -> tuple[Section, ...]:
        """The sections that the paper has nothing of."""
        return tuple(section for section in self.sections if not section.in_paper)
