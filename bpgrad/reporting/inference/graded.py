"""Verdicts with a grade: a claim as checks, all of which must hold (docs/claims.md, second rules).

A check over seeds says that left − right lies between two limits, seed by seed. It holds if a
paired t-test, or two one-sided ones where the paper says that two are alike, show it at 5 %: a
conjunction needs no correction in its favour, as all of it must be shown (intersection–union). It
fails if the contrary is significant, after Holm over the checks of its column that could speak
against the claim. A check on trajectories holds or does not, and no test is needed.

The grade is the share of the checks whose estimate lies on the claim's side, whatever chance may do
to it, and the largest miss in units of the paper's own scale.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from bpgrad.reporting.inference.statistics import (
    ALPHA,
    MIN_SEEDS,
    MIN_SEEDS_WILCOXON,
    BySeed,
    Needed,
    PairedTest,
    holm,
    paired_test,
    tost,
    welch,
)
from bpgrad.reporting.inference.verdicts import (
    Grade,
    Leaning,
    Number,
    Outcome,
    Verdict,
    needed_to_decide,
)

MANY_SEEDS = MIN_SEEDS_WILCOXON  # a verdict on fewer says so


@dataclass(frozen=True)
class Scale:
    """What a difference is in words, and how large one is that the paper speaks of.

    `logarithmic` differences are those of logarithms, and said as factors.
    """

    unit: str
    size: float
    logarithmic: bool = False

    def words(self, difference: float) -> str:
        """A difference without its sign, as "0.3 points" or "a factor of 1.2"."""
        if math.isinf(difference):
            return "a run that diverged"
        if self.logarithmic:
            return f"a factor of {math.exp(min(abs(difference), 700.0)):.3g}"
        return f"{abs(difference):.3g} {self.unit}".strip()


@dataclass(frozen=True)
class Check:
    """low < left − right < high, seed by seed; `text` says so in words.

    `alike` is whether two one-sided tests decide it, which is how two are shown to be about equal;
    `weak` whether equality is enough (it then also holds if no seed at all speaks against it).
    `column` names the checks that Holm corrects together, against the claim. `choices` is from how
    many rivals one was chosen by its result, which is paid for in the claim's favour too.
    `superior` marks what says that one is better than another, not alike or a concession.
    """

    text: str
    left: BySeed
    right: BySeed
    column: str
    scale: Scale
    low: float = -math.inf
    high: float = 0.0
    alike: bool = False
    weak: bool = False
    choices: int = 1
    superior: bool = False


@dataclass(frozen=True)
class Part:
    """A check with its outcome: `holds` is None while it is open.

    `towards` is whether the estimate lies on the claim's side, and `room` how far, negative if it
    misses, in units of the paper's scale; `words` says it.
    """

    text: str
    holds: bool | None
    towards: bool
    room: float
    words: str
    n: int
    numbers: tuple[Number, ...] = ()
    needed: Needed | None = None

    @classmethod
    def seen(
        cls, text: str, value: float, room: float, scale: Scale, n: int = 1, *, weak: bool = False
    ) -> Self:
        """A check without a test: whether `room`, in the scale's unit, is above 0 (weak: or 0).

        Open where the value is NaN.
        """
        holds = None if math.isnan(value) or math.isnan(room) else room > 0 or (weak and room == 0)
        words = f"{value:.4g}"
        number = Number(text, value, n)
        return cls(text, holds, holds is True, room / scale.size, words, n, (number,))


def assess(checks: Sequence[Check], planned: Collection[int]) -> list[Part]:
    """The outcome of each check, of the planned seeds and no others."""
    kept = [
        replace(check, left=_only(check.left, planned), right=_only(check.right, planned))
        for check in checks
    ]
    against = [_against(check) for check in kept]
    corrected = list(against)
    for column in dict.fromkeys(check.column for check in kept):
        members = [k for k, check in enumerate(kept) if check.column == column]
        for k, test in zip(members, holm([against[k] for k in members]), strict=True):
            corrected[k] = test
    return [_part(check, test) for check, test in zip(kept, corrected, strict=True)]


def missing_seeds(checks: Sequence[Check], planned: Collection[int]) -> set[int]:
    """The planned seeds that a side of a check has no value of."""
    return {
        seed
        for check in checks
        for side in (check.left, check.right)
        for seed in planned
        if seed not in side
    }


def conclude(
    parts: Sequence[Part],
    missing: Collection[int] = (),
    *,
    planned: Collection[int] = (),
    grade: Grade | None = None,
    over_seeds: bool = True,
) -> Verdict:
    """The verdict on a claim that all parts hold; `missing` are `planned` seeds not finished.

    While one is missing nothing is decided: stopping early on a favourable p is refused. `grade`
    replaces that of the parts. `over_seeds` is whether n counts seeds, of which few are said to be
    few.

    Raises ValueError without parts.
    """
    if not parts:
        raise ValueError("a claim needs checks")
    n = min(part.n for part in parts)
    grade = grade or grade_of(parts)
    numbers = tuple(number for part in parts for number in part.numbers)
    leaning = Leaning(sum(part.towards for part in parts), len(parts))
    failing = [part for part in parts if part.holds is False]
    open_ = [part for part in parts if part.holds is None]
    needed: Needed | None = None
    if missing:
        listed = ", ".join(map(str, sorted(missing)))
        outcome = Outcome.UNDECIDED
        sentence = f"Seeds {listed} are missing; so far {leaning} checks point the claim's way."
        needed = len(planned), len(planned)
    elif failing:
        outcome = Outcome.NOT_REPRODUCED
        worst = min(failing, key=_room)
        sentence = f"{len(failing)} of {len(parts)} fail: {worst.text} ({worst.words})."
    elif open_:
        outcome = Outcome.UNDECIDED
        worst = min(open_, key=_room)
        sentence = f"{len(open_)} of {len(parts)} may be chance: {worst.text} ({worst.words})."
        needed = needed_to_decide([(part.needed, not part.towards) for part in open_], n)
    else:
        outcome = Outcome.REPRODUCED
        closest = min(parts, key=_room)
        all_hold = "Holds" if len(parts) == 1 else f"All {len(parts)} hold, the closest"
        sentence = f"{all_hold}: {closest.text} ({closest.words})."
    if over_seeds and not missing and n < MANY_SEEDS:
        sentence += f" Only {n} seed{'' if n == 1 else 's'}."
    return Verdict(outcome, sentence, numbers, n, needed, leaning=leaning, grade=grade)


def grade_of(parts: Sequence[Part]) -> Grade:
    """The share of the parts whose estimate is on the claim's side, and the largest miss."""
    held = sum(part.towards for part in parts)
    worst = min(parts, key=_room)
    if worst.towards or math.isnan(worst.room):
        return Grade(held, len(parts))
    return Grade(held, len(parts), -worst.room, f"{worst.text} ({worst.words})")


def _room(part: Part) -> float:
    return math.inf if math.isnan(part.room) else part.room


def _only(values: BySeed, planned: Collection[int]) -> dict[int, float]:
    return {seed: value for seed, value in values.items() if seed in planned}


def _shifted(values: BySeed, shift: float) -> dict[int, float]:
    return {seed: value + shift for seed, value in values.items()}


def _nearer(check: Check) -> tuple[PairedTest, float]:
    """The test against the limit that the estimate is nearer to, or further beyond.

    Its mean is negative on the claim's side.
    """
    tests = []
    if math.isfinite(check.high):
        tests.append(paired_test(check.left, _shifted(check.right, check.high)))
    if math.isfinite(check.low):
        tests.append(paired_test(_shifted(check.right, check.low), check.left))
    test = max(tests, key=lambda test: test.mean)  # NaN of both or of neither
    return test, -test.mean


def _against(check: Check) -> PairedTest:
    """The test of the contrary; p = 1 where the estimate lies on the claim's side."""
    test, room = _nearer(check)
    return test if room < 0 else replace(test, p=1.0)


def _part(check: Check, against: PairedTest) -> Part:
    test, room = _nearer(check)
    plain = paired_test(check.left, check.right)
    what = f"{check.text}: difference" + (" of logarithms" if check.scale.logarithmic else "")
    numbers = [
        Number(f"{check.text}: left side", _average(check.left), len(check.left)),
        Number(f"{check.text}: right side", _average(check.right), len(check.right)),
        Number(what, plain.mean, plain.n),
    ]
    if check.alike:
        found = tost(check.left, check.right, check.low, check.high)
        shown, level, interval = found.holds, "90 %", (found.low, found.high)
        beside = {"p of the one-sided tests (TOST)": found.p}
    else:
        p = min(check.choices * test.p, 1.0)  # NaN if that is
        shown = test.n >= MIN_SEEDS and room > 0 and p <= ALPHA
        level, interval = "95 %", (plain.low, plain.high)
        unpaired = welch(check.left, _shifted(check.right, _limit(check)))
        beside = {"p of the paired t-test": p, "p of Welch's t-test": unpaired}
    beside |= {
        f"{level} interval, {end}": x for end, x in zip(("low", "high"), interval, strict=True)
    }
    numbers += [
        Number(f"{what}, {name}", value, test.n)
        for name, value in beside.items()
        if not math.isnan(value)
    ]
    if check.weak and test.n >= MIN_SEEDS:
        differences = [check.left[s] - check.right[s] for s in check.left if s in check.right]
        shown = shown or all(check.low <= d <= check.high for d in differences)
    # What it needs at the level that it is held against: on the claim's side its own, else Holm's.
    held_at = 2 * ALPHA if check.alike else ALPHA / check.choices  # one-sided, of a two-sided power
    return Part(
        check.text,
        True if shown else False if against.significant else None,
        room > 0 or (check.weak and room == 0),
        room / check.scale.size,
        f"{_words(check.scale, room)}, n = {test.n}",
        test.n,
        tuple(numbers),
        (replace(test, level=held_at) if room > 0 else against).needed,
    )


def _words(scale: Scale, room: float) -> str:
    if math.isnan(room):
        return "unknown"
    return f"misses by {scale.words(room)}" if room < 0 else f"by {scale.words(room)}"


def _limit(check: Check) -> float:
    return check.high if math.isfinite(check.high) else check.low


def _average(values: BySeed) -> float:
    return float(np.mean(list(values.values()))) if values else math.nan
