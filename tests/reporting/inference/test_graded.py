"""Verdicts with a grade: each check on both sides of its limit, by hand."""

import math

import pytest

from bpgrad.reporting.inference.graded import (
    Check,
    Part,
    Scale,
    assess,
    conclude,
    grade_of,
    missing_seeds,
)
from bpgrad.reporting.inference.statistics import needed_range, paired_test, welch
from bpgrad.reporting.inference.verdicts import Outcome, Verdict

POINTS, FACTOR = Scale("points", 2.0), Scale("", math.log(1.5), logarithmic=True)
R, N, U = Outcome.REPRODUCED, Outcome.NOT_REPRODUCED, Outcome.UNDECIDED
#: Differences 1, 2, 3 have mean 2 and error 1/√3; t with 2 degrees of freedom is 4.302653 at 5 %
#: two-sided and 2.919986 one-sided.
TWO_SIDED, ONE_SIDED = 4.302653 / math.sqrt(3), 2.919986 / math.sqrt(3)


def seeds(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


ZERO, ONE_TWO_THREE = seeds(0, 0, 0), seeds(1, 2, 3)


def check(
    left: dict[int, float], right: dict[int, float], column: str = "error", **more: object
) -> Check:
    return Check(f"check of {column}", left, right, column, POINTS, **more)  # type: ignore[arg-type]


def judged(*checks: Check, planned: int = 3) -> Verdict:
    seeds = range(planned)
    return conclude(assess(checks, seeds), missing_seeds(checks, seeds), planned=seeds)


@pytest.mark.parametrize(
    ("limit", "outcome"),
    [
        (2 + TWO_SIDED + 1e-3, R),
        (2 + TWO_SIDED - 1e-3, U),
        (2 - TWO_SIDED + 1e-3, U),
        (2 - TWO_SIDED - 1e-3, N),
    ],
)
def test_a_difference_against_a_limit(limit: float, outcome: Outcome) -> None:
    """From above, and from below with the sides and the sign exchanged."""
    assert judged(check(ONE_TWO_THREE, ZERO, high=limit)).outcome == outcome
    below = check(ZERO, ONE_TWO_THREE, low=-limit, high=math.inf)
    assert judged(below).outcome == outcome
    two = judged(check(ONE_TWO_THREE, ZERO, high=limit), planned=2)
    assert (two.outcome, two.n) == (U, 2)


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (2 - ONE_SIDED - 1e-3, 2 + ONE_SIDED + 1e-3, R),
        (2 - ONE_SIDED + 1e-3, 9, U),
        (-9, 2 + ONE_SIDED - 1e-3, U),
        (-math.inf, 2 + ONE_SIDED + 1e-3, R),
        (-9, 2 - TWO_SIDED + 1e-3, U),  # the contrary needs the two-sided test
        (-9, 2 - TWO_SIDED - 1e-3, N),
        (2 + TWO_SIDED + 1e-3, 9, N),
        (2 + TWO_SIDED - 1e-3, 9, U),
    ],
)
def test_two_that_are_alike(low: float, high: float, outcome: Outcome) -> None:
    verdict = judged(check(ONE_TWO_THREE, ZERO, low=low, high=high, alike=True))
    assert verdict.outcome == outcome
    assert any("90 % interval" in number.name for number in verdict.numbers)


def with_p(sign: float) -> tuple[dict[int, float], float]:
    """Five differences whose two-sided p lies between 2.5 and 5 %, and p."""
    values = seeds(*(sign * v for v in (1.0, 0.1, 1.6, 0.3, 0.9)))
    p = paired_test(values, seeds(0, 0, 0, 0, 0)).p
    assert 0.025 < p < 0.05
    return values, p


def test_holm_protects_a_claim_and_none_works_in_its_favour() -> None:
    zero = seeds(0, 0, 0, 0, 0)
    against, _ = with_p(1.0)
    in_favour, _ = with_p(-1.0)
    alone, other = check(against, zero), check(against, zero)
    assert judged(alone, planned=5).outcome == N
    assert judged(alone, other, planned=5).outcome == U  # two could have spoken against it
    assert judged(alone, check(against, zero, "loss"), planned=5).outcome == N
    good = [check(in_favour, zero) for _ in range(4)]
    assert judged(*good, planned=5).outcome == R
    # What speaks for it uses up no step, however small its p: the family is still of two.
    clear = check(seeds(-0.5, -0.51, -0.49, -0.5, -0.52), zero)
    assert judged(alone, clear, planned=5).outcome == U
    assert judged(clear, planned=5).outcome == R


def test_a_rival_chosen_by_its_result_is_paid_for() -> None:
    in_favour, p = with_p(-1.0)
    zero = seeds(0, 0, 0, 0, 0)
    assert judged(check(in_favour, zero, choices=1), planned=5).outcome == R
    two = judged(check(in_favour, zero, choices=2), planned=5)
    assert two.outcome == U
    many = judged(check(in_favour, zero, choices=50), planned=5)
    for verdict, expected in ((two, 2 * p), (many, 1.0)):
        (found,) = [n.value for n in verdict.numbers if "paired t" in n.name]
        assert found == pytest.approx(expected)


def test_at_most_is_weak() -> None:
    """Equal on every seed is at most; a single seed beyond leaves it to the test."""
    equal = check(seeds(1, 2, 2), seeds(1, 2, 3), weak=True)
    assert judged(equal).outcome == R
    assert judged(check(seeds(1, 2, 2), seeds(1, 2, 3))).outcome == U
    assert judged(check(seeds(1, 2, 3.1), seeds(1, 2, 3), weak=True)).outcome == U
    assert judged(equal, planned=2).outcome == U
    above = check(seeds(1, 2, 3), seeds(1, 2, 2), weak=True, low=0.0, high=math.inf)
    assert judged(above).outcome == R
    for weak, held in ((True, 1), (False, 0)):
        none = assess([check(seeds(1, 2, 3), seeds(1, 2, 3), weak=weak)], range(3))
        assert grade_of(none).held == held


def test_a_diverged_run_counts() -> None:
    ours, theirs = seeds(*range(1, 9)), {seed: seed + 3.0 for seed in range(8)}
    assert judged(check(ours, theirs | {3: math.inf}), planned=8).outcome == R
    assert judged(check(theirs | {3: math.inf}, ours), planned=8).outcome == N
    every = judged(check(dict.fromkeys(ours, math.inf), ours), planned=8)
    assert every.outcome == N
    assert "misses by a run that diverged" in every.sentence
    assert every.grade is not None
    assert every.grade.miss == math.inf


def test_nothing_is_decided_while_a_planned_seed_is_missing() -> None:
    good = check(seeds(1, 1.1, 1.2, 1.3), seeds(2, 2.2, 2.1, 2.3))
    verdict = judged(good, planned=6)
    assert (verdict.outcome, verdict.n, verdict.needed) == (U, 4, (6, 6))
    assert verdict.sentence == "Seeds 4, 5 are missing; so far 1 of 1 checks point the claim's way."
    half = check(good.left, {0: 2.0, 1: 2.2}, "loss")
    assert missing_seeds([good, half], range(4)) == {2, 3}
    # One check lacks seed 0 and the other seed 3: still four seeds are planned, not five.
    apart = check({1: 1.1, 2: 1.2, 3: 1.3}, good.right), check(good.left, {0: 2.0, 1: 2.2, 2: 2.1})
    assert (judged(*apart, planned=4).n, judged(*apart, planned=4).needed) == (3, (4, 4))
    beyond = check(good.left | {9: 50.0}, good.right | {9: 0.0})
    assert judged(beyond, planned=4) == judged(good, planned=4)


def test_few_seeds_are_said_to_be_few() -> None:
    values = seeds(*(1 + k / 10 for k in range(8))), seeds(*(2 + k / 9 for k in range(8)))
    assert judged(check(*values), planned=8).sentence.endswith("n = 8).")
    assert judged(check(*values), planned=7).sentence.endswith("n = 7). Only 7 seeds.")
    part = Part.seen("x", 1.0, 1.0, POINTS)
    assert conclude([part]).sentence == "Holds: x (1). Only 1 seed."
    assert conclude([part], over_seeds=False).sentence == "Holds: x (1)."


def test_the_grade_is_the_share_and_the_largest_miss() -> None:
    parts = assess(
        [
            check(seeds(0, 0, 0.3), seeds(1, 2, 3)),
            check(seeds(1, 2, 3), ZERO, "far"),  # 2 points are one scale
            check(seeds(0.1, 0.1, 0.4), ZERO, "near"),
            Check("x", seeds(1, 2, 0), ZERO, "c", FACTOR, high=0.4),
        ],
        range(3),
    )
    grade = grade_of(parts)
    assert (grade.held, grade.checks) == (1, 4)
    # A factor of e^0.6 is 0.6/ln 1.5 = 1.48 of the paper's.
    assert grade.miss == pytest.approx(0.6 / math.log(1.5))
    assert grade.worst == "x (misses by a factor of 1.82, n = 3)"
    assert grade_of(parts[:3]).miss == pytest.approx(1.0)
    assert grade_of(parts[:3]).worst == "check of far (misses by 2 points, n = 3)"
    assert (grade_of(parts[:1]).miss, grade_of(parts[:1]).worst) == (0, "")


def test_the_sentence_names_the_worst_and_the_closest() -> None:
    five = seeds(0, 0, 0, 0, 0)
    near, far = seeds(-1, -1.1, -0.9, -1, -1.05), seeds(-2, -2.1, -1.9, -2, -2.05)
    good = judged(check(far, five, "far"), check(near, five, "near"), planned=5)
    assert good.sentence == (
        "All 2 hold, the closest: check of near (by 1.01 points, n = 5). Only 5 seeds."
    )
    bad = judged(check(five, near, "near"), check(five, far, "far"), planned=5)
    assert bad.sentence.startswith("2 of 2 fail: check of far (misses by 2.01 points, n = 5).")
    open_ = judged(check(far, five, "far"), check(ONE_TWO_THREE, ZERO, "x"), planned=3)
    assert open_.sentence.startswith("1 of 2 may be chance: check of x (misses by 2 points")
    assert open_.needed is not None
    assert open_.needed[0] > 3
    nearer = check(seeds(0.5, 1, 1.5), ZERO, "y")  # may be chance too, but misses by less
    two = judged(nearer, check(ONE_TWO_THREE, ZERO, "x"))
    assert two.sentence.startswith("2 of 2 may be chance: check of x (misses by 2 points")


def test_the_smallest_number_of_seeds_is_that_of_the_claim() -> None:
    few, many = (Part.seen("x", 1.0, 1.0, POINTS, n) for n in (3, 9))
    assert conclude([many, few]).n == 3
    assert conclude([many, few]).sentence.endswith("Only 3 seeds.")


def test_what_an_open_claim_needs() -> None:
    """All of what points its way, so the most; of what points against it the cheapest is enough."""

    def part(room: float, needed: tuple[int, int]) -> Part:
        return Part("x", None, room > 0, room, "", 4, needed=needed)

    assert conclude([part(0.5, (9, 20)), part(0.2, (15, 30))]).needed == (15, 30)
    assert conclude([part(-0.5, (9, 20)), part(-0.2, (15, 30))]).needed == (9, 20)
    assert conclude([part(0.5, (9, 20)), part(-0.2, (15, 30))]).needed == (15, 30)


@pytest.mark.parametrize(
    ("more", "mean", "level"),
    [
        ({"high": 2.5}, 0.5, 0.05),
        ({"high": 2.5, "choices": 5}, 0.5, 0.01),
        ({"low": -math.inf, "high": 2.5, "alike": True}, 0.5, 0.1),  # one-sided at 5 %
        ({"low": -9.0, "high": 2.5, "alike": True}, 0.5, 0.1),
        ({"high": 1.5}, 0.5, 0.05),
        ({"high": 1.5, "choices": 5}, 0.5, 0.05),  # against the claim nothing was chosen
        ({"high": 1.5, "alike": True}, 0.5, 0.05),
    ],
)
def test_what_a_check_needs_at_its_level(more: dict[str, float], mean: float, level: float) -> None:
    """Differences 1, 2, 3 deviate by 1, and lie half a unit within the limit, or beyond it."""
    (part,) = assess([check(ONE_TWO_THREE, ZERO, **more)], range(3))
    assert (part.holds, part.needed) == (None, needed_range(mean, 1.0, 3, level))
    pair = assess([check(ONE_TWO_THREE, ZERO, high=h) for h in (1.5, 1.4)], range(3))
    # Holm's first step of two is at 2.5 %, the second at 5 %.
    assert [p.needed for p in pair] == [needed_range(0.5, 1, 3), needed_range(0.6, 1, 3, 0.025)]


def test_the_numbers_are_those_of_the_tests() -> None:
    one, other = seeds(1, 2, 4), seeds(3, 5, 8)
    (part,) = assess([check(one, other, high=0.5)], range(3))
    found = {number.name.removeprefix("check of error: "): number.value for number in part.numbers}
    plain, shifted = paired_test(one, other), paired_test(one, seeds(3.5, 5.5, 8.5))
    assert found == pytest.approx(
        {
            "left side": 7 / 3,
            "right side": 16 / 3,
            "difference": -3,
            "difference, p of the paired t-test": shifted.p,
            "difference, p of Welch's t-test": welch(one, seeds(3.5, 5.5, 8.5)),
            "difference, 95 % interval, low": plain.low,
            "difference, 95 % interval, high": plain.high,
        }
    )


@pytest.mark.parametrize("more", [{}, {"choices": 5}, {"alike": True, "low": -9.0, "high": 9.0}])
def test_one_seed_has_no_p(more: dict[str, float]) -> None:
    """It is left out, not 1."""
    (part,) = assess([check(seeds(1), seeds(3), **more)], range(1))
    assert [number.value for number in part.numbers] == [1, 3, -2]
    assert (part.holds, part.n, part.needed) == (None, 1, None)


def test_what_is_seen_needs_no_test() -> None:
    for room, weak, holds in (
        (0.1, False, True),
        (0.0, False, False),
        (0.0, True, True),
        (-0.1, True, False),
    ):
        part = Part.seen("x", 5.0, room, POINTS, 3, weak=weak)
        assert (part.holds, part.towards, part.room, part.n) == (holds, holds, room / 2, 3)
    assert Part.seen("x", 5.0, 0.0, POINTS).holds is False
    for value, room in ((math.nan, 1.0), (1.0, math.nan)):
        assert Part.seen("x", value, room, POINTS).holds is None
    unknown, good = Part.seen("x", math.nan, math.nan, POINTS), Part.seen("y", 1.0, 1.0, POINTS)
    assert conclude([unknown, good]).outcome == U
    assert conclude([unknown, Part.seen("z", 1.0, -1.0, POINTS)]).outcome == N
    assert grade_of([unknown, good]).held == 1
    with pytest.raises(ValueError, match="needs checks"):
        conclude([])


def test_differences_in_words() -> None:
    assert POINTS.words(-0.31) == "0.31 points"
    assert FACTOR.words(math.log(1.2)) == FACTOR.words(-math.log(1.2)) == "a factor of 1.2"
    assert FACTOR.words(745.0).startswith("a factor of ")  # of 5e-324 to 1: no overflow
    assert POINTS.words(-math.inf) == "a run that diverged"
    assert Scale("", 1.0).words(0.5) == "0.5"
