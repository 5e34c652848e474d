"""The rules of deciding: what makes a claim reproduced, not reproduced, undecided, not run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpgrad.reporting.verdicts import (
    Outcome,
    Property,
    Verdict,
    all_of,
    between,
    decide,
    decide_properties,
    lower,
    not_run,
    within_tolerance,
)

SEEDS = range(6)
NOISE = (0.03, -0.02, 0.01, 0.02, -0.01, -0.03)


def around(level: float, spread: float = 1.0, seeds: range = SEEDS) -> dict[int, float]:
    return {seed: level + spread * NOISE[seed] * (1 + seed % 2) for seed in seeds}


def verdict(left: float, right: float, seeds: range = SEEDS) -> Verdict:
    claim = lower("A < B", around(left, seeds=seeds), around(right, -1.0, seeds), "column")
    return decide([claim], planned=seeds)


def test_a_clear_difference_decides_in_its_direction() -> None:
    assert verdict(1.0, 2.0).outcome == Outcome.REPRODUCED
    assert verdict(2.0, 1.0).outcome == Outcome.NOT_REPRODUCED
    assert verdict(1.0, 1.001).outcome == Outcome.UNDECIDED


@given(st.floats(-5, 5), st.floats(-5, 5))
def test_turning_the_claim_round_turns_the_verdict(left: float, right: float) -> None:
    opposite = {
        Outcome.REPRODUCED: Outcome.NOT_REPRODUCED,
        Outcome.NOT_REPRODUCED: Outcome.REPRODUCED,
        Outcome.UNDECIDED: Outcome.UNDECIDED,
    }
    one = decide([lower("A < B", around(left), around(right, -1.0), "c")], SEEDS)
    other = decide([lower("B < A", around(right, -1.0), around(left), "c")], SEEDS)
    assert other.outcome == opposite[one.outcome]


@pytest.mark.parametrize("n", [1, 2])
def test_with_one_or_two_seeds_nothing_is_decided(n: int) -> None:
    found = verdict(0.0, 100.0, range(n))
    assert found.outcome == Outcome.UNDECIDED
    assert found.n == n
    assert "Nothing is decided below 3 seeds" in found.sentence


def test_the_needed_number_of_seeds_is_named_where_the_claim_is_open() -> None:
    found = verdict(1.0, 1.01)
    assert found.outcome == Outcome.UNDECIDED
    assert found.needed is not None
    assert found.needed > found.n == 6
    assert str(found) == f"undecided (n = 6, needs {found.needed})"


def test_stopping_early_is_refused_and_so_are_more_seeds_than_planned() -> None:
    left, right = around(1.0), around(2.0, -1.0)
    claim = lower("A < B", left, right, "column")
    early = decide([claim], planned=range(8))
    assert early.outcome == Outcome.UNDECIDED
    assert "missing: 6, 7" in early.sentence
    assert early.needed == 8
    # Of the planned two, nothing is decided, though all six would do.
    assert decide([claim], planned=range(2)).outcome == Outcome.UNDECIDED


def test_every_inequality_has_to_hold() -> None:
    good = lower("A < B", around(1.0), around(2.0, -1.0), "column")
    bad = lower("A < C", around(1.0), around(0.5, -1.0), "column")
    open_ = lower("A < D", around(1.0), around(1.001, -1.0), "column")
    assert decide([good, good], SEEDS).outcome == Outcome.REPRODUCED
    assert decide([good, bad, open_], SEEDS).outcome == Outcome.NOT_REPRODUCED
    assert "A < C" in decide([good, bad, open_], SEEDS).sentence
    assert decide([good, open_], SEEDS).outcome == Outcome.UNDECIDED
    assert "A < D" in decide([good, open_], SEEDS).sentence


def test_a_large_column_costs_power() -> None:
    """p is about 0.02: significant by itself, not as one of ten comparisons."""
    left, right = {0: 1.0, 1: 1.1, 2: 0.9, 3: 1.3}, {0: 1.5, 1: 1.3, 2: 1.3, 3: 1.9}
    alone = lower("A < B", left, right, "column")
    of_ten = lower("A < B", left, right, "column", family=10)
    assert decide([alone], range(4)).outcome == Outcome.REPRODUCED
    assert decide([of_ten], range(4)).outcome == Outcome.UNDECIDED


def test_a_factor_is_part_of_the_claim() -> None:
    left, right = around(1.0), around(1.8, -1.0)
    assert decide([lower("", left, right, "c", factor=1.5)], SEEDS).outcome == Outcome.REPRODUCED
    assert decide([lower("", left, right, "c", factor=2)], SEEDS).outcome == Outcome.NOT_REPRODUCED


def test_ranges_and_tolerances_have_two_ends() -> None:
    for level, outcome in (
        (0.5, Outcome.NOT_REPRODUCED),
        (2.0, Outcome.REPRODUCED),
        (3.5, Outcome.NOT_REPRODUCED),
    ):
        assert decide(between("x", 1.0, around(level), 3.0, "c"), SEEDS).outcome == outcome
        assert decide(within_tolerance("x", around(level), 2.0, 1.0), SEEDS).outcome == outcome


def test_one_trajectory_decides_a_property() -> None:
    holds, fails = Property("falls", -0.5, True), Property("is small", 9.0, False)
    unclear = Property("cannot be told", 0.0, None)
    assert decide_properties([holds]).outcome == Outcome.REPRODUCED
    assert decide_properties([holds, fails, unclear]).outcome == Outcome.NOT_REPRODUCED
    assert "is small: 9" in decide_properties([holds, fails]).sentence
    assert decide_properties([holds, unclear]).outcome == Outcome.UNDECIDED
    waiting = decide_properties([holds], missing=[3])
    assert waiting.outcome == Outcome.UNDECIDED
    assert "missing: 3" in waiting.sentence


def test_a_composite_is_as_good_as_its_worst_part() -> None:
    good, bad = verdict(1.0, 2.0), verdict(2.0, 1.0)
    open_, missing = verdict(1.0, 1.001), not_run("table1")
    assert all_of([("C1", good), ("C2", good)]).outcome == Outcome.REPRODUCED
    assert all_of([("C1", good), ("C2", open_)]).outcome == Outcome.UNDECIDED
    composite = all_of([("C1", good), ("C2", open_), ("C3", missing)])
    assert composite.outcome == Outcome.NOT_RUN
    assert composite.needs == "table1"
    composite = all_of([("C1", missing), ("C2", bad), ("C3", good)])
    assert composite.outcome == Outcome.NOT_REPRODUCED
    assert composite.sentence == "Not reproduced: C2."
    assert {number.name.partition(":")[0] for number in composite.numbers} == {"C2", "C3"}


def test_a_solver_that_diverged_decides_nothing() -> None:
    left = around(1.0) | {3: float("nan")}
    found = decide([lower("A < B", left, around(2.0, -1.0), "column")], SEEDS)
    assert found.outcome == Outcome.UNDECIDED


def test_a_claim_needs_something_to_decide_it() -> None:
    with pytest.raises(ValueError, match="inequalities and planned seeds"):
        decide([], SEEDS)
    with pytest.raises(ValueError, match="inequalities and planned seeds"):
        decide([lower("A < B", {}, {}, "c")], ())
    with pytest.raises(ValueError, match="needs properties"):
        decide_properties([])
