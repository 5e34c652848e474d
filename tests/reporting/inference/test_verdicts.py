"""Rules that turn numbers into verdicts."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpgrad.reporting.inference.statistics import holm, largest_std, paired_test
from bpgrad.reporting.inference.verdicts import (
    Grade,
    Inequality,
    Outcome,
    Property,
    Verdict,
    all_of,
    between,
    decide,
    decide_properties,
    difference,
    lower,
    needed_to_decide,
    not_run,
    within_tolerance,
)


def seeds(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


LOW, HIGH = seeds(1.0, 1.2, 1.1, 1.3, 1.2), seeds(2.0, 2.1, 2.3, 2.2, 2.4)
BETTER = lower("A < B", LOW, HIGH, "error")
WORSE = lower("B < A", HIGH, LOW, "error")
OPEN = lower("A < C", LOW, seeds(1.1, 1.1, 1.2, 1.2, 1.3), "error")


def outcome(*inequalities: Inequality, planned: int = 5) -> Outcome:
    return decide(inequalities, range(planned)).outcome


def test_a_clear_difference_decides_either_way() -> None:
    assert outcome(BETTER) == Outcome.REPRODUCED
    assert outcome(WORSE) == Outcome.NOT_REPRODUCED
    assert outcome(OPEN) == Outcome.UNDECIDED


def test_the_leaning_counts_what_points_the_claims_way_whatever_its_p() -> None:
    assert str(decide([BETTER, WORSE, OPEN], range(5)).leaning) == "2 of 3"
    assert str(decide([BETTER, WORSE], range(9)).leaning) == "1 of 2"  # seeds are missing
    half = lower("B < A", {seed: value + 0.5 for seed, value in LOW.items()}, LOW, "error")
    equal = lower("A < A", LOW, LOW, "error")
    assert str(decide([BETTER, half, equal], range(5)).leaning) == "1 of 3"
    known = [Property("a", 1.0, True), Property("b", 1.0, False), Property("c", math.nan, None)]
    verdict = decide_properties(known)
    assert str(verdict.leaning) == "1 of 3"
    both = all_of([("X", verdict), ("Y", decide([BETTER], range(5))), ("Z", not_run("data"))])
    assert str(both.leaning) == "2 of 4"


def test_all_must_hold_and_one_against_is_enough() -> None:
    assert outcome(BETTER, BETTER) == Outcome.REPRODUCED
    assert outcome(BETTER, OPEN) == Outcome.UNDECIDED
    assert outcome(BETTER, OPEN, WORSE) == Outcome.NOT_REPRODUCED


@pytest.mark.parametrize("n", [1, 2])
def test_two_seeds_decide_nothing(n: int) -> None:
    for inequality in (BETTER, WORSE):
        verdict = decide([inequality], range(n))
        assert verdict.outcome == Outcome.UNDECIDED
        assert verdict.n == n
        assert "below 3 seeds" in verdict.sentence
    assert decide([BETTER], range(1)).needed is None
    assert decide([BETTER], range(2)).needed is not None


def test_stopping_before_the_planned_seeds_is_refused() -> None:
    assert paired_test(LOW, HIGH).p < 1e-3
    verdict = decide([BETTER], range(8))
    assert (verdict.outcome, verdict.n, verdict.needed) == (Outcome.UNDECIDED, 5, (8, 8))
    assert verdict.sentence.endswith("missing: 5, 6, 7.")
    assert not any("p after Holm" in number.name for number in verdict.numbers)
    assert decide([WORSE], range(8)).outcome == Outcome.UNDECIDED


def test_one_missing_seed_of_one_solver_is_missing() -> None:
    missing = lower("A < B", LOW, {seed: HIGH[seed] for seed in (0, 1, 2, 4)}, "error")
    verdict = decide([BETTER, missing], range(5))
    assert (verdict.outcome, verdict.n) == (Outcome.UNDECIDED, 4)
    assert verdict.sentence.endswith("missing: 3.")


def test_seeds_beyond_the_planned_ones_are_left_out() -> None:
    extended = lower("A < C", OPEN.left, OPEN.right, "error")
    more = Inequality("A < C", LOW | {5: 0.0, 6: 0.0}, OPEN.right | {5: 9.0, 6: 9.1}, "error")
    assert decide([more], range(5)) == decide([extended], range(5))
    two = decide([BETTER], range(2))
    assert (two.outcome, two.n) == (Outcome.UNDECIDED, 2)


def test_a_diverged_seed_leaves_the_claim_open() -> None:
    broken = lower("A < B", LOW, HIGH | {3: math.nan}, "error")
    verdict = decide([broken], range(5))
    assert (verdict.outcome, verdict.needed) == (Outcome.UNDECIDED, None)


def test_holm_counts_the_comparisons_of_the_column() -> None:
    left, right = seeds(0, 0, 0, 0, 0), seeds(1.0, 0.2, 1.8, 0.6, 1.4)
    p = paired_test(left, right).p
    assert 0.05 / 4 < p < 0.05 / 2
    one = lower("A < B", left, right, "error")
    assert outcome(one) == outcome(one, one) == Outcome.REPRODUCED
    assert outcome(one, one, one, one) == Outcome.UNDECIDED
    assert outcome(lower("A < B", left, right, "error", family=4)) == Outcome.UNDECIDED
    columns = [lower("A < B", left, right, column) for column in "abcd"]
    assert outcome(*columns) == Outcome.REPRODUCED


def test_a_comparison_alone_is_not_corrected() -> None:
    left, right = seeds(0, 0, 0, 0, 0), seeds(1.0, 0.1, 1.6, 0.3, 0.9)
    p = paired_test(left, right).p
    assert 0.05 / 2 < p < 0.05
    assert outcome(lower("A < B", left, right, "x")) == Outcome.REPRODUCED
    assert outcome(lower("A < B", left, right, "x", family=2)) == Outcome.UNDECIDED
    assert outcome(lower("A < B", left, right, "x"), BETTER) == Outcome.REPRODUCED  # two columns
    low, high = between("A", -9, right, 9, "x")
    assert outcome(between("A", 0, right, 9, "x")[0]) == Outcome.REPRODUCED
    assert (low.family, high.family) == (1, 1)


def test_a_factor_moves_the_threshold() -> None:
    assert outcome(lower("1.5 A < B", LOW, HIGH, "error", factor=1.5)) == Outcome.REPRODUCED
    assert outcome(lower("3 A < B", LOW, HIGH, "error", factor=3)) == Outcome.NOT_REPRODUCED


@pytest.mark.parametrize(
    ("paper", "expected"),
    [
        (1.2, Outcome.REPRODUCED),
        (1.16 - 3, Outcome.NOT_REPRODUCED),
        (1.16 + 3, Outcome.NOT_REPRODUCED),
        (1.16 + 1, Outcome.UNDECIDED),
    ],
)
def test_within_tolerance_of_the_papers_value(paper: float, expected: Outcome) -> None:
    inequalities = within_tolerance("error", LOW, paper, 1.0)
    assert outcome(*inequalities) == expected
    assert decide(inequalities, range(2)).outcome == Outcome.UNDECIDED


def test_between_and_difference_by_hand() -> None:
    gap = difference({0: 3.0, 1: 5.0, 2: 1.0}, {0: 1.0, 1: 1.0, 7: 0.0})
    assert gap == {0: 2.0, 1: 4.0}
    low, high = between("gap", 0, gap, 2, "error")
    assert (low.text, low.left, low.right) == ("gap > 0", {0: 0, 1: 0}, gap)
    assert (high.text, high.left, high.right) == ("gap < 2", gap, {0: 2, 1: 2})


def test_the_numbers_are_those_of_the_test() -> None:
    verdict = decide([BETTER, OPEN], range(5))
    found = {number.name: (number.value, number.n) for number in verdict.numbers}
    tests = holm([paired_test(BETTER.left, BETTER.right), paired_test(OPEN.left, OPEN.right)])
    assert found["A < B: left side"] == (pytest.approx(1.16), 5)
    assert found["A < B: right side"] == (pytest.approx(2.2), 5)
    for name, test in zip(("A < B", "A < C"), tests, strict=True):
        assert found[f"{name}: p after Holm"] == (test.p_holm, 5)
        assert found[f"{name}: 95 % interval, low"] == (test.low, 5)
        assert found[f"{name}: 95 % interval, high"] == (test.high, 5)
    assert verdict.sentence.startswith("1 of 2 open: A < C, left minus right -0.02")
    assert "\n" not in verdict.sentence


def test_the_needed_seeds_are_those_of_the_cheapest_decision() -> None:
    left = seeds(0, 0, 0, 0)
    for_it = [seeds(1, 3, -1, 2.0), seeds(2, 5, -1, 1.0)]
    against = seeds(-2, 0.1, -1, 0.2)
    tests = [paired_test(left, right) for right in (*for_it, against)]
    each = [lower("A < B", left, right, str(k)) for k, right in enumerate((*for_it, against))]
    needed = [test.needed for test in tests]
    (few, many), (more, most), alone = needed  # type: ignore[misc]
    assert (many, most) == (None, None)
    assert decide(each[:2], range(4)).needed == (max(few, more), None)
    assert decide(each, range(4)).needed == alone


def test_a_small_difference_against_a_claim_is_against_it() -> None:
    """Then its own seeds are enough, though what points the claim's way needs many more."""
    left = seeds(0, 0, 0, 0)
    in_favour, against = seeds(1, 3, -1, 2.0), seeds(-0.5, 0.1, -0.4, -0.1)
    needed = [paired_test(left, right).needed for right in (in_favour, against)]
    each = [lower("A < B", left, right, right_is) for right, right_is in
            ((in_favour, "for"), (against, "against"))]  # fmt: skip
    assert needed[0] != needed[1]
    assert decide(each, range(4)).needed == needed[1]


def test_what_is_open_needs_more_seeds_than_there_are() -> None:
    # Its own power would do with 5 seeds, the family of 12 holds it up.
    left, right = seeds(0, 0, 0, 0, 0), seeds(1.0, 0.5, 1.5, 0.8, 1.2)
    assert paired_test(left, right).needed is not None
    assert paired_test(left, right).p <= 0.05 / 4
    verdict = decide([lower("A < B", left, right, "x", family=40)], range(5))
    assert verdict.outcome == Outcome.UNDECIDED
    few, many = verdict.needed or (0, 0)
    assert few == 6
    assert many is not None
    assert many >= 6
    both = all_of([("a", verdict), ("b", Verdict(Outcome.UNDECIDED, "", needed=(7, None)))])
    assert both.needed == (7, None)


def test_two_seeds_have_an_interval_and_one_has_none() -> None:
    for n, count in ((1, 2), (2, 5)):
        numbers = decide([BETTER], range(n)).numbers
        assert len(numbers) == count
        assert all(not math.isnan(number.value) for number in numbers)


def test_a_grade_in_words() -> None:
    grade = Grade(31_999, 32_000, 0.5, "by a little")
    assert (str(grade), grade.share) == ("31,999 of 32,000", 31_999 / 32_000)
    assert math.isnan(Grade(0, 0).share)


@given(
    st.lists(st.floats(-1, 1), min_size=1, max_size=9),
    st.lists(st.floats(-1, 1), min_size=9, max_size=9),
)
@settings(max_examples=30, deadline=None)
def test_a_claim_and_its_opposite_never_both_hold(one: list[float], other: list[float]) -> None:
    left, right = seeds(*one), seeds(*other[: len(one)])
    there = decide([lower("A < B", left, right, "x")], range(len(one)))
    back = decide([lower("B < A", right, left, "x")], range(len(one)))
    opposite = {
        Outcome.REPRODUCED: Outcome.NOT_REPRODUCED,
        Outcome.NOT_REPRODUCED: Outcome.REPRODUCED,
        Outcome.UNDECIDED: Outcome.UNDECIDED,
    }
    assert back.outcome == opposite[there.outcome]
    assert there.needed == back.needed
    assert there.needed is None or there.needed[0] > there.n


def test_a_single_trajectory_decides_a_property() -> None:
    yes, no = Property("falls", 0.5, True), Property("stays", 2.0, False)
    unknown = Property("breaks", math.nan, None)
    assert decide_properties([yes, yes]).outcome == Outcome.REPRODUCED
    assert decide_properties([yes, unknown, no]).outcome == Outcome.NOT_REPRODUCED
    assert decide_properties([yes, unknown]).outcome == Outcome.UNDECIDED
    refused = decide_properties([no], missing={3, 1})
    assert (refused.outcome, refused.n, refused.needed) == (Outcome.UNDECIDED, 1, (3, 3))
    assert refused.sentence.endswith("missing: 1, 3.")
    assert decide_properties([yes, no]).sentence == "1 of 2 fail: stays: 2."
    assert decide_properties([yes] * 3).sentence == (
        "All 3 hold: falls: 0.5; falls: 0.5; falls: 0.5."
    )
    assert decide_properties([yes] * 4).sentence == (
        "All 4 hold: falls: 0.5; falls: 0.5; falls: 0.5; …."
    )
    assert decide_properties([Property("a", 1.0, True, 8), Property("b", 1.0, True, 5)]).n == 5


def test_a_composite_is_as_good_as_its_worst_part() -> None:
    good, bad = Verdict(Outcome.REPRODUCED, "", n=5), Verdict(Outcome.NOT_REPRODUCED, "", n=5)
    open_, unknown = (
        Verdict(Outcome.UNDECIDED, "", n=2, needed=(9, 12)),
        Verdict(Outcome.UNDECIDED, ""),
    )
    waiting = not_run("a GPU")
    assert all_of([("a", good), ("b", good)]).outcome == Outcome.REPRODUCED
    undecided = all_of([("a", good), ("b", open_)])
    assert (undecided.outcome, undecided.n, undecided.needed) == (Outcome.UNDECIDED, 2, (9, 12))
    assert all_of([("a", open_), ("b", unknown)]).needed is None
    missing = all_of([("a", open_), ("b", waiting), ("c", waiting)])
    assert (missing.outcome, missing.needs, missing.n) == (Outcome.NOT_RUN, "a GPU", 2)
    failed = all_of([("a", waiting), ("b", bad), ("c", good)])
    assert (failed.outcome, failed.sentence) == (Outcome.NOT_REPRODUCED, "Not reproduced: b.")


def test_verdicts_in_a_few_words() -> None:
    assert str(decide([BETTER], range(5))) == "reproduced (n = 5)"
    assert str(decide([WORSE], range(5))) == "not reproduced (n = 5)"
    for needed, words in (((12, 12), "12"), ((9, 40), "9 to 40"), ((9, None), "9 or many more")):
        undecided = Verdict(Outcome.UNDECIDED, "", n=5, needed=needed)
        assert str(undecided) == f"undecided (n = 5, needs {words})"
    for n, words in ((2, "needs 3 at least"), (3, "needed n unknown")):
        assert str(Verdict(Outcome.UNDECIDED, "", n=n)) == f"undecided (n = {n}, {words})"
    one = decide([BETTER], range(1))
    assert str(one) == "undecided (n = 1, needs 3 at least)"
    words = re.search(r"3 decide it up to σ = (\S+) over seeds, 8 up to (\S+) ", one.sentence)
    assert words is not None
    assert 0 < float(words[1]) < float(words[2])
    assert one.sentence.endswith("(power 80 %).")
    assert "decide it" not in decide([BETTER], range(2)).sentence
    assert str(not_run("figure7 on mnist: Adam")) == "not run: needs figure7 on mnist: Adam"


def test_one_seed_is_told_by_the_strictest_level() -> None:
    """Of two in a column one is held against 2.5 %."""
    sentence = decide([BETTER, OPEN], range(1)).sentence
    assert sentence.startswith("2 of 2 open: A < C, left minus right -0.1,")
    few, many = (f"{largest_std(0.1, n, 0.05 / 2):.2g}" for n in (3, 8))
    assert f"up to σ = {few} over seeds, 8 up to {many} " in sentence


def test_nothing_cannot_be_decided() -> None:
    with pytest.raises(ValueError, match="planned seeds"):
        decide([BETTER], [])
    with pytest.raises(ValueError, match="inequalities"):
        decide([], range(3))
    with pytest.raises(ValueError, match="properties"):
        decide_properties([])


def test_what_decides_a_claim_is_named() -> None:
    """One comparison, or the closest of several; against it the most significant."""
    one = decide([BETTER], range(5)).sentence
    assert one.startswith("Holds: A < B, left minus right -1.04, p after Holm ")
    closer = lower("A < D", LOW, seeds(1.5, 1.6, 1.8, 1.7, 1.7), "error")
    both = decide([BETTER, closer], range(5)).sentence
    tests = holm([paired_test(i.left, i.right) for i in (BETTER, closer)])
    name = "A < B" if tests[0].p_holm > tests[1].p_holm else "A < D"
    assert both.startswith(f"All 2 hold; the closest: {name}, left minus right ")
    further = lower("A < C", LOW, seeds(1.2, 1.1, 1.3, 1.2, 1.4), "error")
    assert paired_test(further.left, further.right).mean < paired_test(OPEN.left, OPEN.right).mean
    two = decide([OPEN, further], range(5)).sentence
    assert two.startswith("2 of 2 open: A < C, left minus right -0.02")
    barely = lower("D < A", seeds(1.2, 1.5, 1.2, 1.7, 1.4), LOW, "loss")
    assert outcome(barely) == Outcome.NOT_REPRODUCED
    assert decide([barely, WORSE], range(5)).sentence.startswith(
        "Fails: B < A, left minus right +1.04"
    )


def test_the_seeds_that_decide_by_hand() -> None:
    """Never fewer than one more; against a claim the cheapest, for it the dearest."""
    assert needed_to_decide([((3, 4), False)], 5) == (6, 6)
    assert needed_to_decide([((3, None), False)], 5) == (6, None)
    assert needed_to_decide([((9, 20), False), ((8, 30), False)], 5) == (9, 30)
    assert needed_to_decide([((9, 20), False), ((8, None), False)], 5) == (9, None)
    assert needed_to_decide([((9, 20), True), ((8, None), True)], 5) == (8, None)
    assert needed_to_decide([((9, 20), True), ((8, 10), False)], 5) == (9, 20)
    assert needed_to_decide([((9, 20), False), (None, False)], 5) is None
    assert needed_to_decide([(None, True), ((9, 20), False)], 5) is None
    assert all_of([("a", not_run("x"))]).n == 0
