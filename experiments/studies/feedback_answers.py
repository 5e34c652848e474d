"""The five questions of the decisive experiment, answered in words by the registered tests.

Two arms tie in an outcome where two one-sided tests (TOST) show that they differ by less than 1
point of test error, or a factor of 1.2 in the objective; else one is better where a paired t-test
says so at 5 %; else it is undecided. A run that diverged counts with the error of guessing and an
infinite objective.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bpgrad.reporting.inference.statistics import MIN_SEEDS, paired_test, tost
from bpgrad.reporting.inference.verdicts import needed_words
from experiments.claims.second.common import COMPETITIVE, GUESSING

Word = Literal["tie", "better", "worse", "undecided"]

POINTS, FACTOR = 1.0, COMPETITIVE  # within which two arms tie


@dataclass(frozen=True)
class Outcome:
    """What a run has come to, means of the last five epochs: errors in %, `objective` as its log.

    `held_out` and `held_out_objective` choose settings, `error` (of the test images) and
    `objective` (of the training images, at fixed weights) answer the questions.
    """

    held_out: float
    held_out_objective: float
    error: float
    objective: float
    diverged: bool = False

    @property
    def rank(self) -> tuple[float, float]:
        """Smaller is better, NaN the worst."""
        values = self.held_out, self.held_out_objective
        return tuple(v if math.isfinite(v) else math.inf for v in values)  # type: ignore[return-value]


GUESS = GUESSING["cifar10"]  # % error
DIVERGED = Outcome(math.inf, math.inf, GUESS, math.inf, diverged=True)

BySeed = Mapping[int, Outcome]


@dataclass(frozen=True)
class Compared:
    """One outcome of an arm against another's: a word, and the numbers behind it."""

    word: Word
    numbers: str
    n: int


@dataclass(frozen=True)
class Answer:
    """A question, a short answer, and sentences with the numbers.

    `topic` is what the question is about, in a few words; `words` are those of all comparisons, by
    outcome, and `n` the numbers of seeds that these have.
    """

    topic: str
    question: str
    short: str
    details: tuple[str, ...]
    words: Mapping[str, tuple[Word, ...]]
    n: tuple[int, ...]

    @property
    def brief(self) -> str:
        """The answer in a few words: of the test error / the objective, or once if they agree."""
        each = dict.fromkeys(_brief(words) for words in self.words.values())
        return " / ".join(each) or "no L at which both learn"

    def contradicts(self, other: Answer) -> bool:
        """Whether the two decide an outcome, and not in the same way."""
        pairs = ((set(words), set(other.words.get(of, ()))) for of, words in self.words.items())
        decided = ((one - {"undecided"}, two - {"undecided"}) for one, two in pairs)
        return any(one and two and one != two for one, two in decided)


def compare(ours: BySeed, theirs: BySeed, points: float = POINTS) -> dict[str, Compared]:
    """Test error and objective of two arms, paired over the seeds that both have."""
    error = _compare(ours, theirs, lambda o: o.error, points, lambda d: f"{d:+.2f} points")
    factor = _compare(
        *(ours, theirs, lambda o: o.objective, math.log(FACTOR)),
        lambda d: f"a factor of {math.exp(min(d, 700.0)):.3g}",
    )
    return {"test error": error, "objective": factor}


def _compare(
    ours: BySeed,
    theirs: BySeed,
    of: Callable[[Outcome], float],
    limit: float,
    words: Callable[[float], str],
) -> Compared:
    one, other = ({seed: of(o) for seed, o in side.items()} for side in (ours, theirs))
    test, alike = paired_test(one, other), tost(one, other, -limit, limit)
    if not test.n:
        return Compared("undecided", "no seed of both", 0)
    numbers = f"{words(test.mean)}" if math.isfinite(test.mean) else "a run diverged"
    if not math.isnan(test.low):
        numbers += f", 95 % from {words(test.low)} to {words(test.high)}, p = {test.p:.2g}"
    word: Word = "undecided"
    if test.n >= MIN_SEEDS and alike.holds:
        word = "tie"
    elif test.significant:
        word = "better" if test.mean < 0 else "worse"
    elif test.needed is not None:
        numbers += f", needs n = {needed_words(test.needed)}"
    return Compared(word, f"{numbers}, n = {test.n}", test.n)


def five(
    by_setting: Mapping[str, tuple[BySeed, BySeed]],
    *,
    bpgrad: BySeed,
    epoch_mean: BySeed,
    constant: BySeed,
    cosine: BySeed,
    linear: BySeed,
    scheduled: BySeed,
) -> list[Answer]:
    """The answers, of BPGrad and the replay by L, and of the arms at their chosen settings."""
    return [
        _every_setting(by_setting),
        _answer(
            "reacting within an epoch",
            "Does reacting within an epoch add anything?",
            {"BPGrad against the mean of the epoch before (v)": (bpgrad, epoch_mean)},
        ),
        _answer(
            "the decay",
            "Is the decay worth anything?",
            {"BPGrad against a constant step (i)": (bpgrad, constant)},
        ),
        _answer(
            "knowing the length of the run",
            "What is it worth to know the length of the run?",
            {
                "cosine (ii) against BPGrad": (cosine, bpgrad),
                "linear (iii) against BPGrad": (linear, bpgrad),
            },
        ),
        _answer(
            "feedback beside a schedule",
            "Does the feedback add anything to a schedule?",
            {"BPGrad × cosine (vi) against cosine (ii)": (scheduled, cosine)},
        ),
    ]


def _every_setting(by_setting: Mapping[str, tuple[BySeed, BySeed]]) -> Answer:
    """BPGrad against the replay at every L at which both end, and one of them learns."""
    reasons = {setting: _left_out(*sides) for setting, sides in by_setting.items()}
    answer = _answer(
        "reacting to its own loss",
        "Does reacting to one's own loss add anything to the schedule that it makes?",
        {
            f"BPGrad against the replay (iv) at {setting}": sides
            for setting, sides in by_setting.items()
            if not reasons[setting]
        },
    )
    said = [
        f"left out, because {reason}: {', '.join(s for s in reasons if reasons[s] == reason)}"
        for reason in dict.fromkeys(filter(None, reasons.values()))
    ]
    return replace(answer, details=(*answer.details, *said))


def _left_out(ours: BySeed, theirs: BySeed) -> str:
    """Why the two are not compared, or nothing."""
    both = [*ours.values(), *theirs.values()]
    if any(outcome.diverged for outcome in both):
        return "a run diverged"
    if both and all(outcome.error >= GUESS - POINTS for outcome in both):
        return "both only guess"
    return ""


def _answer(topic: str, question: str, pairs: Mapping[str, tuple[BySeed, BySeed]]) -> Answer:
    details = []
    words: dict[str, tuple[Word, ...]] = {}
    n: tuple[int, ...] = ()
    for text, (ours, theirs) in pairs.items():
        found = compare(ours, theirs)
        n += tuple(compared.n for compared in found.values())
        for what, compared in found.items():
            words[what] = (*words.get(what, ()), compared.word)
        numbers = "; ".join(f"{what} {c.word} ({c.numbers})" for what, c in found.items())
        diverged = [
            f"{len(its)} of {len(side)} runs of the {which} diverged"
            for which, side in (("first", ours), ("second", theirs))
            if (its := [o for o in side.values() if o.diverged])
        ]
        details.append("; ".join([f"{text}: {numbers}", *diverged]))
    short = "; ".join(f"{what}: {_lead(its)}" for what, its in words.items())
    return Answer(topic, question, short or "no L at which both learn", tuple(details), words, n)


LEADS: dict[Word, str] = {
    "better": "something, better",
    "worse": "nothing, worse",
    "tie": "nothing, a tie",
    "undecided": "undecided",
}
BRIEF: dict[Word, str] = {
    "better": "gain",
    "worse": "harm",
    "tie": "nothing",
    "undecided": "undecided",
}


def _lead(words: Sequence[Word]) -> str:
    """One answer for one outcome: the words of the comparisons, counted where they differ."""
    kinds = dict.fromkeys(words)
    if len(kinds) == 1:
        at = f" in all {len(words)}" if len(words) > 1 else ""
        return LEADS[words[0]] + at
    counts = (f"{word} in {words.count(word)}" for word in LEADS if word in kinds)
    return f"no one answer: {', '.join(counts)} of {len(words)}"


def _brief(words: Sequence[Word]) -> str:
    kinds = [word for word in BRIEF if word in words]
    if len(kinds) == 1:
        return BRIEF[kinds[0]]
    return ", ".join(f"{BRIEF[word]} in {words.count(word)}" for word in kinds)


def in_short(found: Mapping[bool, Sequence[Answer]]) -> str:
    """All answers in few words, by whether labels are noisy; of the second what differs."""
    sentences = []
    before: dict[str, str] = {}
    for noisy, its in found.items():
        each = {answer.topic: answer.brief for answer in its}
        new = [f"{topic} *{brief}*" for topic, brief in each.items() if before.get(topic) != brief]
        labels = "a tenth of the labels drawn at random" if noisy else "labels as they are"
        sentences.append(f"with {labels} ({_seeds(its)}): {'; '.join(new) or 'the same'}")
        before = each
    return f"What each is worth in test error / objective, {', '.join(sentences)}."


def _seeds(its: Sequence[Answer]) -> str:
    counts = [n for answer in its for n in answer.n] or [0]
    return f"n = {' to '.join(map(str, sorted({min(counts), max(counts)})))}"


def together(found: Mapping[bool, Sequence[Answer]]) -> str:
    """The answers by whether labels are noisy, question by question, saying where they differ."""
    lines = []
    for k, answer in enumerate(next(iter(found.values()), ())):
        by_labels = {noisy: its[k] for noisy, its in found.items()}
        lines.append(f"{k + 1}. **{answer.question}**")
        for noisy, each in by_labels.items():
            labels = "noisy labels" if noisy else "labels as they are"
            lines.append(f"   - {labels}: **{each.short}.** {'. '.join(each.details)}.")
        one, *others = by_labels.values()
        if any(one.contradicts(other) for other in others):
            lines.append("   - The answer differs with the labels.")
    return "\n".join(lines)
