"""Statistics over seeds, against scipy and against values worked out by hand."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bpgrad.errors import RecordError
from bpgrad.reporting.inference.statistics import (
    PairedTest,
    best_in_column,
    by_seed,
    compare_column,
    exact_wilcoxon,
    holm,
    largest_std,
    needed_pairs,
    needed_range,
    paired_test,
    power_of,
    summarise,
    tost,
    tost_power,
    welch,
)


def seeds(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def with_p(*ps: float) -> list[PairedTest]:
    return [PairedTest(5, 0, 1.0, 1.0, 0.0, 2.0, p, None, p, 0.05) for p in ps]


numbers = st.floats(-100, 100, allow_nan=False).map(lambda x: round(x, 3))
pairs = st.lists(st.tuples(numbers, numbers), min_size=3, max_size=12)


def test_mean_and_sample_deviation_by_hand() -> None:
    summary = summarise(seeds(2, 4, 4, 4, 5, 5, 7, 9))
    assert (summary.n, summary.mean) == (8, 5)
    assert summary.std == pytest.approx(math.sqrt(32 / 7))


def test_one_seed_has_no_deviation_and_none_has_no_mean() -> None:
    one, none = summarise({3: 1.5}), summarise({})
    assert (one.n, one.mean) == (1, 1.5)
    assert math.isnan(one.std)
    assert none.n == 0
    assert math.isnan(none.mean)
    assert math.isnan(none.std)


def test_equal_values_have_no_deviation_but_for_round_off() -> None:
    assert summarise(seeds(0.1 + 0.2, 0.3, 0.3)).std == 0
    # Round-off is relative: tiny values are not all equal.
    assert summarise(seeds(1e-15, 2e-15, 3e-15)).std == pytest.approx(1e-15)
    assert paired_test(seeds(1e-15, 2e-15, 3e-15), seeds(0, 0, 0)).std == pytest.approx(1e-15)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_diverged_seed_is_not_left_out_of_the_mean(bad: float) -> None:
    summary = summarise(seeds(1, bad, 2))
    assert summary.n == 3
    assert summary.mean == pytest.approx(bad, nan_ok=True)
    assert math.isnan(summary.std)


def test_a_seed_that_occurs_twice_is_refused() -> None:
    assert by_seed([(0, 1), (2, 3.0)]) == {0: 1.0, 2: 3.0}
    with pytest.raises(RecordError, match="Adam on MNIST: seed 2 occurs twice"):
        by_seed([(2, 1.0), (0, 1.0), (2, 1.0)], "Adam on MNIST")


def test_paired_test_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, deviation 1, t = 2√3 with two degrees of freedom, of which the
    # distribution is known: p = 1 − t/√(t² + 2) = 1 − √(12/14); the 97.5 % point is 4.30265.
    test = paired_test(seeds(2, 4, 6), seeds(1, 2, 3))
    assert (test.n, test.unpaired, test.mean, test.std) == (3, 0, 2, 1)
    assert test.p == pytest.approx(1 - math.sqrt(12 / 14))
    assert test.high - test.mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert test.mean - test.low == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert test.p_wilcoxon is None
    assert (test.p_holm, test.level) == (test.p, 0.05)


@given(pairs)
def test_paired_test_is_scipys(values: list[tuple[float, float]]) -> None:
    one, other = map(np.array, zip(*values, strict=True))
    differences = np.round(one - other, 6)
    if np.ptp(differences) == 0:
        return
    test = paired_test(seeds(*one), seeds(*other))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        scipys = stats.ttest_rel(one, other)
        interval = scipys.confidence_interval(0.95)
    assert test.p == pytest.approx(scipys.pvalue, rel=1e-6, abs=1e-12)
    assert (test.low, test.high) == pytest.approx(tuple(interval), rel=1e-6, abs=1e-9)


@given(pairs)
def test_swapping_the_solvers_swaps_the_signs(values: list[tuple[float, float]]) -> None:
    one, other = (seeds(*column) for column in zip(*values, strict=True))
    there, back = paired_test(one, other), paired_test(other, one)
    assert back.mean == -there.mean
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low), nan_ok=True)
    assert back.p == pytest.approx(there.p)
    assert back.p_wilcoxon == pytest.approx(there.p_wilcoxon)


def test_pairs_are_matched_by_seed_and_the_others_are_counted() -> None:
    one = {5: 30.0, 0: 1.0, 1: 12.0, 2: 23.0}
    other = {2: 20.0, 1: 10.0, 0: 0.0, 7: 99.0, 8: 99.0}
    test = paired_test(one, other)
    assert (test.n, test.unpaired, test.mean) == (3, 3, 2)
    assert test.p == paired_test(seeds(1, 2, 3), seeds(0, 0, 0)).p


def test_without_a_common_seed_there_is_nothing() -> None:
    test = paired_test({0: 1.0}, {1: 1.0})
    assert (test.n, test.unpaired, test.significant, test.needed) == (0, 2, False, None)
    assert all(map(math.isnan, (test.mean, test.std, test.p)))


def test_one_seed_decides_nothing() -> None:
    test = paired_test({0: 1.0}, {0: 100.0})
    assert (test.n, test.mean, test.significant, test.needed) == (1, -99, False, None)
    assert all(map(math.isnan, (test.std, test.low, test.high, test.p, test.p_holm)))


def test_two_seeds_are_never_significant_however_small_p() -> None:
    two = paired_test(seeds(1, 1.0001), seeds(0, 0))
    assert two.p < 1e-3
    assert not two.significant
    assert two.needed == (3, 3)
    assert paired_test(seeds(1, 1.0001, 1.0002), seeds(0, 0, 0)).significant


@pytest.mark.parametrize("n", [3, 5, 6, 8])
def test_equal_differences_are_judged_by_their_signs_alone(n: int) -> None:
    # 0.1 has no exact value in binary: the differences are equal up to round-off only.
    one = {seed: 0.1 * seed + 0.1 for seed in range(n)}
    other = {seed: 0.1 * seed for seed in range(n)}
    test = paired_test(one, other)
    assert test.std == 0
    assert test.p == 2 / 2**n
    assert test.p == stats.binomtest(n, n).pvalue
    assert math.isnan(test.low)
    assert test.significant == (n >= 6)
    assert test.needed == (6, 6)


def test_no_difference_at_all_is_none() -> None:
    values = seeds(0.1, 0.2, 0.3, 0.4)
    test = paired_test({seed: value + 0.2 - 0.2 for seed, value in values.items()}, values)
    assert (test.mean, test.std, test.p, test.significant, test.needed) == (0, 0, 1, False, None)


def test_what_is_not_a_number_is_never_significant_and_never_dropped() -> None:
    values, reference = seeds(1, 2, 3, math.nan), seeds(11, 12.1, 13.2, 14.3)
    for test in (paired_test(values, reference), paired_test(reference, values)):
        assert (test.n, test.unpaired, test.significant, test.needed) == (4, 0, False, None)
        assert math.isnan(test.p)


def test_holm_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04: times 4, 3, 2, 1 is 0.02, 0.03, 0.06, 0.04 → the last 0.06.
    tests = holm(with_p(0.01, 0.04, 0.03, 0.005))
    assert [t.p_holm for t in tests] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [t.significant for t in tests] == [True, False, False, True]
    assert [t.level for t in tests] == pytest.approx([0.05 / 3, 0.05, 0.05 / 2, 0.05 / 4])
    assert [t.p for t in tests] == [0.01, 0.04, 0.03, 0.005]


def test_holm_within_a_larger_family() -> None:
    tests = holm(with_p(0.01, 0.001), family=7)
    assert [t.p_holm for t in tests] == pytest.approx([0.06, 0.007])
    assert [t.level for t in tests] == pytest.approx([0.05 / 6, 0.05 / 7])
    with pytest.raises(ValueError, match="a family of 1 cannot hold 2"):
        holm(with_p(0.1, 0.1), family=1)


def test_holm_counts_undefined_comparisons_as_the_largest() -> None:
    tests = holm(with_p(math.nan, 0.02, 0.01))
    assert math.isnan(tests[0].p_holm)
    assert [t.p_holm for t in tests[1:]] == pytest.approx([0.04, 0.03])
    assert not tests[0].significant


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.integers(0, 5))
def test_holm_rejects_as_the_step_down_procedure_does(ps: list[float], more: int) -> None:
    tests = holm(with_p(*ps), len(ps) + more)
    rejected, going = set(), True
    for rank, k in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        going = going and ps[k] * (len(ps) + more - rank) <= 0.05
        if going:
            rejected.add(k)
    assert {k for k, t in enumerate(tests) if t.significant} == rejected
    assert all(p <= t.p_holm <= 1 for p, t in zip(ps, tests, strict=True))


def test_a_column_is_compared_with_its_reference_only() -> None:
    column = {
        "Adam": seeds(2.0, 2.1, 2.3, 2.2, 2.4),
        "BPGrad": seeds(1.0, 1.2, 1.1, 1.3, 1.2),
        "SGD": seeds(1.1, 1.0, 1.3, 1.2, 1.3),
        "Eve": {},
    }
    tests = compare_column(column, "BPGrad")
    assert list(tests) == ["Adam", "SGD", "Eve"]
    adam = stats.ttest_rel(list(column["Adam"].values()), list(column["BPGrad"].values()))
    assert tests["Adam"].p == pytest.approx(adam.pvalue)
    assert tests["Adam"].p_holm == pytest.approx(3 * adam.pvalue)
    assert tests["Adam"].significant
    assert not tests["SGD"].significant
    assert (tests["Eve"].n, tests["Eve"].significant) == (0, False)
    with pytest.raises(KeyError):
        compare_column(column, "BPGrad, μ = 0")


BEST = {
    "Adam": seeds(2.0, 2.1, 2.3, 2.2, 2.4),
    "BPGrad": seeds(1.0, 1.2, 1.1, 1.3, 1.2),
    "SGD": seeds(3.1, 3.0, 3.3, 3.2, 3.3),
}


def test_best_is_significantly_better_than_every_other() -> None:
    assert best_in_column(BEST) == "BPGrad"
    assert best_in_column(BEST, higher_is_better=True) == "SGD"
    close = BEST | {"Eve": seeds(1.1, 1.1, 1.2, 1.3, 1.3)}
    assert best_in_column(close) is None
    assert best_in_column(close, higher_is_better=True) == "SGD"


@pytest.mark.parametrize("n", [0, 1, 2])
def test_nothing_is_best_with_two_seeds(n: int) -> None:
    few = {solver: dict(list(values.items())[:n]) for solver, values in BEST.items()}
    assert best_in_column(few) is None


def test_nothing_is_best_alone_or_beside_the_unknown() -> None:
    assert best_in_column({"BPGrad": BEST["BPGrad"]}) is None
    assert best_in_column({"BPGrad": BEST["BPGrad"], "SGD": BEST["SGD"]}) == "BPGrad"
    assert best_in_column({}) is None
    assert best_in_column(BEST | {"Eve": {}}) is None
    assert best_in_column(BEST | {"Eve": seeds(9, 9, math.nan, 9, 9)}) is None


def test_best_is_judged_by_the_pairs_not_by_seeds_that_one_has_alone() -> None:
    # On the seeds both have, A is worse; an additional seed of its own makes its mean the lowest.
    column = {"A": seeds(2, 2.1, 2.2, 2.1) | {9: -50.0}, "B": seeds(1, 1.2, 1.1, 1.2)}
    assert summarise(column["A"]).mean < summarise(column["B"]).mean
    assert best_in_column(column) is None


@given(st.lists(st.integers(-6, 6).filter(bool), min_size=8, max_size=11))
@settings(max_examples=30)
def test_wilcoxon_counts_every_pattern_of_signs(differences: list[int]) -> None:
    d = np.array(differences, dtype=float)
    ranks = stats.rankdata(np.abs(d))
    signs = (np.arange(2 ** len(d))[:, None] >> np.arange(len(d))) & 1
    sums, found = signs @ ranks, ranks[d > 0].sum()
    p = min(1, 2 * min((sums <= found + 1e-9).mean(), (sums >= found - 1e-9).mean()))
    assert exact_wilcoxon(d) == pytest.approx(p)


@given(st.integers(8, 40), st.integers(0, 1000))
@settings(max_examples=30)
def test_wilcoxon_is_scipys_where_there_are_no_ties(n: int, seed: int) -> None:
    d = np.random.default_rng(seed).normal(0.3, 1, n)
    assert exact_wilcoxon(d) == pytest.approx(stats.wilcoxon(d, method="exact").pvalue)


def test_wilcoxon_stands_beside_the_t_test_from_eight_seeds_on() -> None:
    eight = paired_test(seeds(*range(1, 9)), seeds(*[0] * 8))
    assert eight.p_wilcoxon == pytest.approx(2 / 2**8)
    assert paired_test(seeds(*range(1, 8)), seeds(*[0] * 7)).p_wilcoxon is None
    with_zero = paired_test(seeds(*range(8)), seeds(*[0] * 8))
    assert with_zero.p_wilcoxon == pytest.approx(2 / 2**7)
    assert paired_test(seeds(*[1] * 8), seeds(*[1] * 8)).p_wilcoxon == 1


def test_needed_pairs_of_cohens_table() -> None:
    # Cohen's small, medium and large effects, two-sided 5 %, power 80 % (G*Power: 199, 34, 15).
    assert [needed_pairs(d, 1) for d in (0.2, 0.5, 0.8)] == [199, 34, 15]
    assert needed_pairs(-5, 10) == 34


@given(st.floats(0.05, 30), st.sampled_from([0.05, 0.05 / 4, 0.05 / 7]))
@settings(max_examples=50)
def test_needed_pairs_is_the_first_number_with_the_power(effect: float, level: float) -> None:
    n = needed_pairs(effect, 1, level)
    assert n is not None
    assert power_of(n, effect, level) >= 0.8
    assert n == 3 or power_of(n - 1, effect, level) < 0.8


@given(
    st.floats(-1e3, 1e3).filter(lambda mean: abs(mean) > 1e-9),
    st.sampled_from([3, 8, 20]),
    st.sampled_from([0.05, 0.05 / 7]),
)
@settings(max_examples=50)
def test_the_largest_std_is_where_more_pairs_begin_to_be_needed(
    mean: float, n: int, level: float
) -> None:
    std = largest_std(mean, n, level)
    assert needed_pairs(mean, 0.999 * std, level) in range(3, n + 1)
    assert needed_pairs(mean, 1.001 * std, level) == n + 1
    assert largest_std(0, n, level) == 0


def test_power_is_the_share_of_significant_samples() -> None:
    rng, n, effect = np.random.default_rng(0), 6, 1.2
    samples = rng.normal(effect, 1, (20_000, n))
    share = (stats.ttest_1samp(samples, 0, axis=1).pvalue <= 0.05 / 3).mean()
    assert power_of(n, effect, 0.05 / 3) == pytest.approx(share, abs=4 * 0.5 / math.sqrt(20_000))


def test_a_stricter_level_needs_more_and_an_impossible_one_is_unknown() -> None:
    assert needed_pairs(1, 1, 0.05 / 7) > needed_pairs(1, 1, 0.05)  # type: ignore[operator]
    assert needed_pairs(1e9, 1e-9) == 3
    assert needed_pairs(0, 1) is None
    assert needed_pairs(1, math.nan) is None
    assert needed_pairs(1e-6, 1) is None
    # (1.960 + 0.842)² / d² = 7.849 / d²: 99 000, and 101 000, which is more than is worth saying.
    assert needed_pairs(math.sqrt(7.849 / 99_000), 1) == pytest.approx(99_000, rel=1e-3)
    assert needed_pairs(math.sqrt(7.849 / 101_000), 1) is None
    assert needed_pairs(1, 0, 0.05 / 4) == 8  # 2^(1−8) ≤ 0.0125 < 2^(1−7)


def test_needed_uses_the_level_after_holm() -> None:
    test = paired_test(seeds(1.0, 3.0, 0.5, 2.0), seeds(0, 0, 0, 0))
    (alone,), (among,) = holm([test]), holm([test], family=7)
    assert alone.needed == needed_range(test.mean, test.std, 4, 0.05)
    assert among.needed == needed_range(test.mean, test.std, 4, 0.05 / 7)
    assert among.needed > alone.needed  # type: ignore[operator]


@pytest.mark.slow
@pytest.mark.parametrize("different", [0, 3])
def test_family_wise_error_at_five_seeds(different: int) -> None:
    """Six comparisons with one reference, `different` of them truly different."""
    rng, repetitions, wrong = np.random.default_rng(1), 2000, 0
    for _ in range(repetitions):
        values = rng.normal(size=(7, 5)) + rng.normal(size=5)  # what a seed shares is paired out
        values[1 : 1 + different] += 20
        column = {str(k): seeds(*row) for k, row in enumerate(values)}
        tests = compare_column(column, "0")
        wrong += any(tests[str(k)].significant for k in range(1 + different, 7))
    # 5 %, and three standard errors of a share of 2000; not far below either, or nothing is tested.
    assert 0.01 < wrong / repetitions <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / repetitions)


@pytest.mark.parametrize(
    ("rivals", "p"),
    [
        # Ranked last: every sign speaks for it, 2/2⁸; of three seeds no pattern is rare.
        ((1.5, 1.6, 1.7, math.inf, 1.9, 2.0, 2.1, 2.2), 2 / 2**8),
        ((math.inf, 1.2, 1.3), 2 / 2**3),
        # The largest rank, 4, against 1 + 2 + 3 = 6: 7 of the 16 rank sums are 4 or less.
        ((math.inf, 0.9, 0.8, 0.7), 2 * 7 / 16),
    ],
)
def test_a_run_that_diverged_ranks_last(rivals: tuple[float, ...], p: float) -> None:
    ours = seeds(*[1.0] * len(rivals))
    test = paired_test(ours, seeds(*rivals))
    assert test.p == pytest.approx(p)
    assert test.significant == (p <= 0.05)
    assert math.isnan(test.std)
    assert math.isnan(test.low)
    # The sign is that of the rank sums: −4 + 6 leans the other way.
    assert test.mean == (math.inf if len(rivals) == 4 else -math.inf)
    back = paired_test(seeds(*rivals), ours)
    assert (back.mean, back.p) == (-test.mean, test.p)


def test_two_that_both_diverged_do_not_differ() -> None:
    ours, rivals = seeds(1.0, 2.0, math.inf, 4.0), seeds(3.0, 3.0, math.inf, 7.0)
    test = paired_test(ours, rivals)
    assert (test.n, test.mean) == (4, pytest.approx(-1.5))
    assert test.p == paired_test(seeds(1, 2, 0, 4), seeds(3, 3, 0, 7)).p
    worse = paired_test(seeds(1.0, -math.inf), seeds(1.0, math.inf))
    assert worse.mean == -math.inf
    balanced = paired_test(seeds(math.inf, 1.0), seeds(1.0, math.inf))
    assert (balanced.mean, balanced.p) == (0, 1)


def test_welch_by_hand() -> None:
    # Variances 2/2 and 4/3: t = 2/√(7/3), with (7/3)²/(1 + (4/3)²/2) = 49/17 degrees of freedom.
    one, other = {0: 1.0, 1: 3.0}, {5: 2.0, 6: 4.0, 7: 6.0}
    assert welch(one, other) == pytest.approx(2 * stats.t.sf(2 / math.sqrt(7 / 3), 49 / 17))
    scipys = stats.ttest_ind([1, 3], [2, 4, 6], equal_var=False).pvalue
    assert welch(one, other) == welch(other, one) == pytest.approx(scipys)
    for side in ({}, {0: 1.0}, seeds(1, math.inf)):
        assert math.isnan(welch(side, other))
    assert math.isnan(welch(seeds(1, 1), seeds(2, 2)))
    assert welch(seeds(1, 1), seeds(2, 4)) < 1


def test_two_one_sided_tests_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, error 1/√3, and the 95 % point of t with 2 degrees is 2.919986.
    ours, half = (seeds(2, 4, 6), seeds(1, 2, 3)), 2.919986 / math.sqrt(3)
    found = tost(*ours, 0.0, 4.0)
    assert (found.n, found.mean, found.std) == (3, 2, 1)
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half), rel=1e-6)
    assert found.p == pytest.approx(stats.t.sf(2 * math.sqrt(3), 2))
    for below, above, holds in (
        (half + 1e-3, half + 1e-3, True),
        (half - 1e-3, half + 1e-3, False),
        (half + 1e-3, half - 1e-3, False),
        (math.inf, half + 1e-3, True),
        (half + 1e-3, math.inf, True),
        (math.inf, half - 1e-3, False),
    ):
        assert tost(*ours, 2 - below, 2 + above).holds == holds
    assert tost(*ours, 2 - half - 1e-3, 2 + half + 1e-2).p == pytest.approx(0.05, abs=1e-4)
    for limits in ((1.0, 1.0), (2.0, 1.0), (-math.inf, math.inf)):
        with pytest.raises(ValueError, match="the first must be the lower"):
            tost(*ours, *limits)


def test_two_one_sided_tests_at_the_edges() -> None:
    assert not tost(seeds(1, 1.0001), seeds(1, 1), -9, 9).holds  # two seeds
    assert tost(seeds(1, 1.0001), seeds(1, 1), -9, 9).p < 0.05
    assert math.isnan(tost({0: 1.0}, {0: 1.0}, -1, 1).p)
    assert math.isnan(tost(seeds(1, 2, math.nan), seeds(1, 2, 3), -1, 1).p)
    equal = seeds(1, 2, 3, 4, 5), seeds(1.5, 2.5, 3.5, 4.5, 5.5)
    assert tost(*equal, -1, 1).p == 1 / 2**5
    assert tost(*equal, -1, 1).holds
    assert tost(*equal, -0.5, 1).p == tost(*equal, 0, 1).p == 1  # the limit itself is outside
    diverged = seeds(*[1.0] * 5), seeds(1.1, 1.2, 1.3, 1.4, math.inf)
    assert tost(*diverged, -math.inf, 0.5).p == 1 / 2**5
    # Beyond −2 by one rank of five: 5 of 15, and 10 of the 32 rank sums are 10 or more.
    assert tost(*diverged, -2, 1).p == 10 / 32
    assert not tost(*[seeds(*side.values()) for side in diverged[::-1]], -math.inf, 0.5).holds


def test_the_power_of_two_one_sided_tests_is_the_share_that_holds() -> None:
    rng, n, limit = np.random.default_rng(3), 8, 1.0
    assert tost_power(n, limit, 0.86) == pytest.approx(0.80, abs=0.01)
    for mean, std in ((0.0, 0.9), (0.3, 0.9), (-0.3, 0.9), (0.0, 0.1)):
        samples = rng.normal(mean, std, (20_000, n))
        half = stats.t.isf(0.05, n - 1) * samples.std(axis=1, ddof=1) / math.sqrt(n)
        share = (np.abs(samples.mean(axis=1)) + half <= limit).mean()
        assert tost_power(n, limit, std, mean) == pytest.approx(share, abs=0.015)
    assert tost_power(n, 0.1, 0.9) < 1e-3  # wider than the limits: never
    assert tost_power(16, limit, 0.9) > tost_power(8, limit, 0.9)


def test_needed_is_a_range_that_is_right_four_times_in_five() -> None:
    rng, samples, n, truth = np.random.default_rng(5), 120, 5, 15
    assert needed_pairs(0.8, 1) == truth
    within, below, above = 0, 0, 0
    for values in rng.normal(0.8, 1, (samples, n)):
        found = needed_range(float(values.mean()), float(values.std(ddof=1)), n)
        assert found is not None
        few, many = found
        below += truth < few
        above += many is not None and many < truth
        within += few <= truth and (many is None or truth <= many)
    assert within + below + above == samples
    # 80 % and 10 %, within three standard errors of a share of 120.
    assert abs(within / samples - 0.8) < 3 * math.sqrt(0.8 * 0.2 / samples)
    for beside in (below, above):
        assert abs(beside / samples - 0.1) < 3 * math.sqrt(0.1 * 0.9 / samples)


def test_few_seeds_know_little_of_what_is_needed() -> None:
    few, many = needed_range(0.8, 1, 3) or (0, 0)
    assert few < 15
    assert many is None  # perhaps there is no effect at all
    few, many = needed_range(0.8, 1, 100) or (0, 0)
    assert 10 < few < 15 < many < 25  # type: ignore[operator]
    assert needed_range(-0.8, 1, 100) == (few, many)
    assert needed_range(0.8, 1, 2) is not None
    assert needed_range(0.8, math.nan, 1) is None
    assert needed_range(math.inf, math.nan, 8) is None
    assert needed_range(0.0, 0.0, 8) is None
    assert needed_range(1.0, 0.0, 8) == (6, 6)
    assert needed_range(1e9, 1.0, 8) == (3, 3)


@pytest.mark.parametrize("values", [(math.inf,), (math.inf, math.nan), (math.inf, 0.0, math.nan)])
def test_equivalence_of_one_pair_or_an_unknown_one_has_no_p(values: tuple[float, ...]) -> None:
    found = tost(seeds(*values), seeds(*(0.0 for _ in values)), -1.0, 1.0)
    assert math.isnan(found.p)
    assert found.n == len(values)
