"""Verdicts on claims, and the rules by which numbers decide them (design: experiments).

A claim over seeds is a list of inequalities `left < right`, each of which must hold. Both sides are
given by seed, so each is a paired test (see `statistics.py` beside this), corrected after Holm
within its table column:

- reproduced: every inequality is significant in its direction;
- not reproduced: one of them is significant in the opposite direction;
- undecided: anything else; with one or two seeds always, and always while a planned seed is
  missing, whatever p has become meanwhile: stopping early on a favourable p is refused.

A claim on single trajectories (or a theorem) is a list of properties, each of which holds or does
not; one run can decide it.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from bpgrad.reporting.inference.statistics import (
    MIN_SEEDS,
    MIN_SEEDS_WILCOXON,
    POWER,
    BySeed,
    Needed,
    PairedTest,
    holm,
    largest_std,
    paired_test,
    summarise,
)


class Outcome(StrEnum):
    """What a verdict says."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    UNDECIDED = "undecided"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Number:
    """A number that a verdict rests on; `n` is how many seeds (or items) it is of."""

    name: str
    value: float
    n: int


#: What the n of a verdict counts, for one and for several.
Counted = tuple[str, str]
SEEDS: Counted = ("seed", "seeds")


@dataclass(frozen=True)
class Leaning:
    """How many of a claim's inequalities or properties point its way, significant or not."""

    favourable: int = 0
    parts: int = 0

    def __str__(self) -> str:
        return f"{self.favourable} of {self.parts}"


@dataclass(frozen=True)
class Grade:
    """How far a claim holds: `held` of its `checks` (or iterations, say) do.

    `miss` is by how much the worst one misses, in units of the paper's scale, and `worst` says so
    in words; 0 and empty if none does.
    """

    held: int
    checks: int
    miss: float = 0.0
    worst: str = ""
    of: str = "checks"

    @property
    def share(self) -> float:
        """From 0 to 1; NaN without checks."""
        return self.held / self.checks if self.checks else math.nan

    def __str__(self) -> str:
        return f"{self.held:,} of {self.checks:,}"


@dataclass(frozen=True)
class Verdict:
    """The outcome, one sentence that says why, and the numbers behind it.

    `n` is the smallest number of seeds that a comparison had. `needed` are the seeds that a power
    estimate asks for where the claim is undecided, from – to; None where there is no estimate.
    `needs` is what a claim that was not run waits for. `grade` is how far a claim holds, where the
    rules ask for that.
    """

    outcome: Outcome
    sentence: str
    numbers: tuple[Number, ...] = ()
    n: int = 0
    needed: Needed | None = None
    needs: str = ""
    leaning: Leaning = Leaning()
    grade: Grade | None = None

    def __str__(self) -> str:
        """The outcome in a few words, as "undecided (n = 5, needs 12)"."""
        match self.outcome:
            case Outcome.NOT_RUN:
                return f"{self.outcome}: needs {self.needs}"
            case Outcome.UNDECIDED if self.needed is not None:
                return f"{self.outcome} (n = {self.n}, needs {needed_words(self.needed)})"
            case Outcome.UNDECIDED if self.n < MIN_SEEDS:
                return f"{self.outcome} (n = {self.n}, needs {MIN_SEEDS} at least)"
            case Outcome.UNDECIDED:
                return f"{self.outcome} (n = {self.n}, needed n unknown)"
            case _:
                return f"{self.outcome} (n = {self.n})"


def not_run(needs: str) -> Verdict:
    """The verdict on a claim of which runs or a study are missing altogether."""
    return Verdict(Outcome.NOT_RUN, f"Not run: needs {needs}.", needs=needs)


@dataclass(frozen=True)
class Inequality:
    """`left` < `right`, seed by seed; `text` says so in words.

    `column` names the table column, task and metric, whose comparisons are corrected together, and
    `family` their number if it is larger than that of the claim's own inequalities.
    """

    text: str
    left: BySeed
    right: BySeed
    column: str
    family: int = 1


def lower(
    text: str, left: BySeed, right: BySeed, column: str, *, factor: float = 1.0, family: int = 1
) -> Inequality:
    """That factor · left < right: with factor 1.5, "at least 1.5 times lower"."""
    scaled = {seed: factor * value for seed, value in left.items()}
    return Inequality(text, scaled, right, column, family)


def between(
    text: str, low: float, values: BySeed, high: float, column: str, *, family: int = 1
) -> list[Inequality]:
    """That low < values < high, as two inequalities."""
    return [
        Inequality(f"{text} > {low:g}", dict.fromkeys(values, low), values, column, family),
        Inequality(f"{text} < {high:g}", values, dict.fromkeys(values, high), column, family),
    ]


def within_tolerance(text: str, values: BySeed, paper: float, tolerance: float) -> list[Inequality]:
    """The mean over seeds lies within `tolerance` of the paper's value (two one-sided bounds)."""
    return between(text, paper - tolerance, values, paper + tolerance, text)


def difference(left: BySeed, right: BySeed) -> dict[int, float]:
    """Left minus right of each seed that both have."""
    return {seed: left[seed] - right[seed] for seed in left if seed in right}


def decide(inequalities: Sequence[Inequality], planned: Collection[int]) -> Verdict:
    """The verdict on a claim that all inequalities hold, of the planned seeds and no others.

    Seeds beyond the planned ones are left out: adding seeds until p is small is the same mistake as
    stopping early.

    Raises ValueError without inequalities or planned seeds.
    """
    if not inequalities or not planned:
        raise ValueError("a claim over seeds needs inequalities and planned seeds")
    pairs = [(_only(i.left, planned), _only(i.right, planned)) for i in inequalities]
    n = min(len(left.keys() & right.keys()) for left, right in pairs)
    favourable = sum(paired_test(left, right).mean < 0 for left, right in pairs)
    leaning = Leaning(favourable, len(pairs))
    missing = sorted(
        {seed for pair in pairs for side in pair for seed in planned if seed not in side}
    )
    if missing:
        numbers = [n for i, pair in zip(inequalities, pairs, strict=True) for n in _means(i, *pair)]
        listed = ", ".join(map(str, missing))
        sentence = f"Not tested before all planned seeds have finished; missing: {listed}."
        all_of_them = len(planned), len(planned)
        return Verdict(Outcome.UNDECIDED, sentence, tuple(numbers), n, all_of_them, leaning=leaning)

    tests = _tests(inequalities, pairs)
    numbers = []
    for inequality, pair, test in zip(inequalities, pairs, tests, strict=True):
        numbers += _means(inequality, *pair)
        if test.n >= 2:
            numbers += [
                Number(f"{inequality.text}: 95 % interval, low", test.low, test.n),
                Number(f"{inequality.text}: 95 % interval, high", test.high, test.n),
                Number(f"{inequality.text}: p after Holm", test.p_holm, test.n),
            ]
    opposed = [k for k, test in enumerate(tests) if test.significant and test.mean > 0]
    open_ = [k for k, test in enumerate(tests) if not test.significant]
    if opposed:
        k = min(opposed, key=lambda k: tests[k].p_holm)
        sentence = f"Fails: {inequalities[k].text}, left minus right {_words(tests[k])}."
        return Verdict(Outcome.NOT_REPRODUCED, sentence, tuple(numbers), n, leaning=leaning)
    if not open_:
        k = max(range(len(tests)), key=lambda k: tests[k].p_holm)
        all_hold = "Holds" if len(tests) == 1 else f"All {len(tests)} hold; the closest"
        sentence = f"{all_hold}: {inequalities[k].text}, left minus right {_words(tests[k])}."
        return Verdict(Outcome.REPRODUCED, sentence, tuple(numbers), n, leaning=leaning)
    k = max(open_, key=lambda k: (tests[k].mean, k))
    sentence = (
        f"{len(open_)} of {len(tests)} open: {inequalities[k].text}, left minus right "
        f"{_words(tests[k])}."
    )
    if n < MIN_SEEDS:
        sentence += f" Nothing is decided below {MIN_SEEDS} seeds"
        sentence += _enough(tests[k].mean, min(t.level for t in tests)) if n == 1 else "."
    needed = needed_to_decide([(test.needed, test.mean > 0) for test in tests], n)
    return Verdict(Outcome.UNDECIDED, sentence, tuple(numbers), n, needed, leaning=leaning)


@dataclass(frozen=True)
class Property:
    """Something that a single trajectory, or a theorem, has or has not; None: cannot be told."""

    text: str
    value: float
    holds: bool | None
    n: int = 1


def decide_properties(properties: Sequence[Property], missing: Collection[int] = ()) -> Verdict:
    """The verdict on a claim that all properties hold; `missing` are planned seeds not finished.

    Raises ValueError without properties.
    """
    if not properties:
        raise ValueError("a claim on trajectories needs properties")
    numbers = tuple(Number(p.text, p.value, p.n) for p in properties)
    n = min(p.n for p in properties)
    leaning = Leaning(sum(p.holds is True for p in properties), len(properties))
    failing = [p for p in properties if p.holds is False]
    open_ = [p for p in properties if p.holds is None]
    if missing:
        listed = ", ".join(map(str, sorted(missing)))
        sentence = f"Not judged before all planned seeds have finished; missing: {listed}."
        needed = n + len(missing), n + len(missing)
        return Verdict(Outcome.UNDECIDED, sentence, numbers, n, needed, leaning=leaning)
    if failing:
        sentence = f"{len(failing)} of {len(properties)} fail: {_listed(failing)}."
        return Verdict(Outcome.NOT_REPRODUCED, sentence, numbers, n, leaning=leaning)
    if open_:
        sentence = f"{len(open_)} of {len(properties)} cannot be told: {_listed(open_)}."
        return Verdict(Outcome.UNDECIDED, sentence, numbers, n, leaning=leaning)
    sentence = f"All {len(properties)} hold: {_listed(properties)}."
    return Verdict(Outcome.REPRODUCED, sentence, numbers, n, leaning=leaning)


def all_of(parts: Sequence[tuple[str, Verdict]]) -> Verdict:
    """The verdict on a claim that is made up of others, given by name.

    Not reproduced if one of them is not; else not run, or undecided, if one of them is so. The
    needed n is that of the most demanding part, unknown if one is.
    """
    numbers = tuple(
        Number(f"{name}: {n.name}", n.value, n.n) for name, part in parts for n in part.numbers
    )
    runs = [part.n for _, part in parts if part.outcome != Outcome.NOT_RUN]
    n = min(runs, default=0)
    leaning = Leaning(
        sum(part.leaning.favourable for _, part in parts),
        sum(part.leaning.parts for _, part in parts),
    )
    by_outcome = {
        outcome: [(name, part) for name, part in parts if part.outcome == outcome]
        for outcome in Outcome
    }
    if found := by_outcome[Outcome.NOT_REPRODUCED]:
        sentence = f"Not reproduced: {_names(found)}."
        return Verdict(Outcome.NOT_REPRODUCED, sentence, numbers, n, leaning=leaning)
    if found := by_outcome[Outcome.NOT_RUN]:
        needs = "; ".join(dict.fromkeys(part.needs for _, part in found))
        sentence = f"Not run: {_names(found)}."
        return Verdict(Outcome.NOT_RUN, sentence, numbers, n, needs=needs, leaning=leaning)
    if found := by_outcome[Outcome.UNDECIDED]:
        most = _most([part.needed for _, part in found])
        sentence = f"Undecided: {_names(found)}."
        return Verdict(Outcome.UNDECIDED, sentence, numbers, n, most, leaning=leaning)
    return Verdict(Outcome.REPRODUCED, f"Reproduced: {_names(parts)}.", numbers, n, leaning=leaning)


def _only(values: BySeed, planned: Collection[int]) -> dict[int, float]:
    return {seed: value for seed, value in values.items() if seed in planned}


def _tests(
    inequalities: Sequence[Inequality], pairs: Sequence[tuple[BySeed, BySeed]]
) -> list[PairedTest]:
    """The paired test of each inequality, corrected within its column."""
    tests = [paired_test(left, right) for left, right in pairs]
    for column in {inequality.column for inequality in inequalities}:
        members = [k for k, i in enumerate(inequalities) if i.column == column]
        family = max(len(members), *(inequalities[k].family for k in members))
        for k, test in zip(members, holm([tests[k] for k in members], family), strict=True):
            tests[k] = test
    return tests


def needed_to_decide(open_: Sequence[tuple[Needed | None, bool]], n: int) -> Needed | None:
    """The seeds to decide a claim: one comparison against it is enough, for it all must hold.

    `open_` gives those that each comparison needs, and whether it points against the claim. More
    than there are: what a large family holds up is open although its own power is enough.
    """
    against = [needed for needed, opposed in open_ if opposed and needed is not None]
    found = min(against, key=_ends) if against else _most([needed for needed, _ in open_])
    if found is None:
        return None
    few, many = found
    return max(n + 1, few), None if many is None else max(n + 1, many)


def _most(needed: Sequence[Needed | None]) -> Needed | None:
    """The numbers that are enough for all; None if one is unknown."""
    known = [each for each in needed if each is not None]
    if len(known) < len(needed) or not known:
        return None
    few, many = (max(ends) for ends in zip(*map(_ends, known), strict=True))
    return int(few), None if math.isinf(many) else int(many)


def _ends(needed: Needed) -> tuple[float, float]:
    few, many = needed
    return few, math.inf if many is None else many


def needed_words(needed: Needed) -> str:
    """A range of seeds in words, as "9 to 40" or "9 or many more"."""
    few, many = needed
    if many is None:
        return f"{few} or many more"
    return f"{few}" if few == many else f"{few} to {many}"


def _enough(mean: float, level: float) -> str:
    """How little a difference must vary for some seeds to decide it: all that one seed can say."""
    few, many = (f"{largest_std(mean, n, level):.2g}" for n in (MIN_SEEDS, MIN_SEEDS_WILCOXON))
    return (
        f"; {MIN_SEEDS} decide it up to σ = {few} over seeds, {MIN_SEEDS_WILCOXON} up to {many} "
        f"(power {100 * POWER:g} %)."
    )


def _means(inequality: Inequality, left: BySeed, right: BySeed) -> list[Number]:
    one, other = summarise(left), summarise(right)
    return [
        Number(f"{inequality.text}: left side", one.mean, one.n),
        Number(f"{inequality.text}: right side", other.mean, other.n),
    ]


def _words(test: PairedTest) -> str:
    p = "" if math.isnan(test.p_holm) else f", p after Holm {test.p_holm:.2g}"
    return f"{test.mean:+.3g}{p}, n = {test.n}"


def _listed(properties: Sequence[Property]) -> str:
    shown = "; ".join(f"{p.text}: {p.value:.4g}" for p in properties[:3])
    return shown + ("; …" if len(properties) > 3 else "")


def _names(parts: Sequence[tuple[str, Verdict]]) -> str:
    return ", ".join(name for name, _ in parts)
