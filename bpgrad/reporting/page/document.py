"""The report as data: what the Markdown page (readme) and the HTML page (page) both show."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bpgrad.reporting.display.grid import Printed
from bpgrad.reporting.inference.verdicts import SEEDS, Counted, Outcome, Verdict, needed_words
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
FIRST = "preliminary"
JUDGED = (
    "✓: all checks pass; ✗: one fails, or more; ?: too few runs to tell. 3 of 6: so many checks "
    "come out the paper's way, which under ? may be chance. A seed is a training with its own "
    "initial weights and data order. Rules were fixed before the runs that they judge; "
    f"{FIRST}: by the rules before these, on the first seeds."
)


@dataclass(frozen=True)
class JudgedClaim:
    """A claim of the paper, how it is decided, and the verdict on it.

    `rule` and `verdict` are by the first rules, on the seeds seen before the second; `second` is by
    the second, on unseen seeds, `reduced` likewise but of the runs at the reduced scale. `counts`
    is what their n counts.
    """

    id: str
    text: str
    rule: str
    verdict: Verdict
    second_rule: str = ""
    second: Verdict | None = None
    reduced_rule: str = ""
    reduced: Verdict | None = None
    counts: Counted = SEEDS

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """Those that there are, by the rules: first, second, second (reduced)."""
        found = {"first": self.verdict, "second": self.second, "second, reduced": self.reduced}
        return {rules: verdict for rules, verdict in found.items() if verdict is not None}

    @property
    def rules(self) -> dict[str, str]:
        """How each of the verdicts is decided."""
        found = {
            "first": self.rule,
            "second": self.second_rule,
            "second, reduced": self.reduced_rule,
        }
        return {rules: found[rules] for rules in self.verdicts}

    @property
    def sentence(self) -> str:
        """What the paper says, as a sentence."""
        return f"{self.text[0].upper()}{self.text[1:]}".rstrip(".") + "."

    @property
    def shown(self) -> Verdict:
        """The verdict that stands for the claim: by the second rules, once these have runs."""
        if self.second is None or self.second.outcome == Outcome.NOT_RUN:
            return self.verdict
        return self.second

    @property
    def held(self) -> str:
        """How far the claim holds and on how much that rests, in a few words; "" if not run.

        Of one that only the reduced scale has runs of, how it does there; FIRST marks one that is
        judged by the first rules still.
        """
        reduced = self.reduced
        if self.shown.outcome == Outcome.NOT_RUN and reduced is not None:
            words = _in_brief(reduced, self.counts)
            return f"at reduced scale {reduced.outcome}: {words}" if words else ""
        words = _in_brief(self.shown, self.counts)
        first = bool(words) and self.second is not None and self.shown is not self.second
        return f"{words}, {FIRST}" if first else words

    def at(self, reduced: bool) -> Verdict:
        """The verdict that stands for the claim, or that at the reduced scale."""
        return self.reduced if reduced and self.reduced is not None else self.shown

    @property
    def color(self) -> str:
        """Green, red or grey."""
        return COLORS.get(self.shown.outcome, GREY)


def how_far(verdict: Verdict, counts: Counted = SEEDS) -> str:
    """The grade of a verdict, its n, and the n that it needs; "" if nothing has been run."""
    if verdict.outcome == Outcome.NOT_RUN:
        return ""
    words = []
    if verdict.grade is not None:
        words.append(f"{verdict.grade} {verdict.grade.of} agree")
    elif verdict.leaning.parts:
        words.append(f"{verdict.leaning} checks agree")
    words.append(f"{verdict.n} {counts[verdict.n != 1]}")
    if verdict.outcome == Outcome.UNDECIDED and verdict.needed is not None:
        words.append(f"needs {needed_words(verdict.needed)}")
    return ", ".join(words)


def _in_brief(verdict: Verdict, counts: Counted) -> str:
    """How far a verdict holds, without a word on what is counted."""
    if verdict.outcome == Outcome.NOT_RUN:
        return ""
    words = f"{verdict.grade or verdict.leaning}, {verdict.n} {counts[verdict.n != 1]}"
    if verdict.outcome == Outcome.UNDECIDED and verdict.needed is not None:
        words += f" of {needed_words(verdict.needed)}"
    return words


def in_words(verdict: Verdict, counts: Counted = SEEDS) -> str:
    """A verdict: outcome, how far, and why; of one that is not run what it needs alone."""
    if verdict.outcome == Outcome.NOT_RUN:
        return verdict.sentence
    far = how_far(verdict, counts)
    return f"{verdict.outcome}{f', {far}' if far else ''}. {verdict.sentence}"


@dataclass(frozen=True)
class Section:
    """An experiment or study. Texts are Markdown, their links relative to the results folder.

    An experiment has `comparisons`, tables tables/<name> and, if `drawn`, a figure figures/<name>;
    a study has a `body` that shows its own. `shows` is what the figure is of, `caption` stands
    below the figure, and `prose` with the tables, which a reader unfolds. `claims` are those that
    it is about, `reduced` if by their verdicts at that scale. `paper` is what it reproduces, "" if
    the paper has no such thing. Of a study `records` is a file, and `computed` says where and by
    what it was computed, the entries of its meta.json.
    """

    name: str
    title: str
    prose: str
    comparisons: tuple[Comparison, ...] = ()
    printed: Printed = field(default_factory=dict)
    body: str = ""
    records: str = ""
    computed: tuple[Mapping[str, Any], ...] = ()
    paper: str = ""
    shows: str = "epochs"
    caption: str = ""
    claims: tuple[JudgedClaim, ...] = ()
    reduced: bool = False

    @property
    def opening(self) -> str:
        """Of a study's body the pictures or, without any, the first paragraph."""
        return "\n\n".join(self._parted[0])

    @property
    def rest(self) -> str:
        """What else a study's body has."""
        return "\n\n".join(self._parted[1])

    @property
    def _parted(self) -> tuple[list[str], list[str]]:
        paragraphs = re.split(r"\n\s*\n", self.body.strip())
        pictures = [p for p in paragraphs if p.startswith("![")]
        if not pictures:
            return paragraphs[:1], paragraphs[1:]
        return pictures, [p for p in paragraphs if not p.startswith("![")]

    @property
    def drawn(self) -> bool:
        """Whether it has a figure."""
        return bool(self.comparisons) and self.shows != "table"

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of all its comparisons, as its figure draws them."""
        return tuple(dict.fromkeys(s for one in self.comparisons for s in one.solvers))


@dataclass(frozen=True)
class Document:
    """The report: what is replicated, what was found, the claims, the sections, how it was made.

    `lead` says what this is about, and `findings` are some sentences, all Markdown. `small` is the
    name of the figure beside them, and of the section that it belongs to; "" for none. `waiting`
    says, a line each, what has not been run; `made` what the report rests on and `note` how claims
    are decided.
    """

    lead: str
    findings: tuple[str, ...]
    claims: tuple[JudgedClaim, ...]
    sections: tuple[Section, ...]
    waiting: tuple[str, ...]
    made: str
    note: str
    small: str = ""

    @property
    def practice(self) -> tuple[Section, ...]:
        """The trainings, that of the small figure first, then the paper's own."""
        found = [section for section in self.sections if section.comparisons]
        return tuple(sorted(found, key=lambda s: (s.name != self.small, not s.paper)))

    @property
    def theory(self) -> tuple[Section, ...]:
        """The studies, the paper's own first."""
        found = [section for section in self.sections if not section.comparisons]
        return tuple(sorted(found, key=lambda section: not section.paper))
