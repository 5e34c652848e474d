"""What a certificate rests on: intervals and envelopes against brute force, rounding by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpgrad.branch_prune import intervals
from bpgrad.branch_prune.sampler import IntervalSampler, PlaneSampler, SpaceSampler
from bpgrad.branch_prune.search import ROUNDING, _Schedule, _Search

GRID = np.linspace(-1.0, 3.0, 4001)


def brute_force(centres: np.ndarray, values: np.ndarray, lipschitz: float) -> float:
    cones = values[:, None] - lipschitz * np.abs(GRID[None, :] - centres[:, None])
    return float(cones.max(axis=0).min())


@given(
    st.lists(st.floats(-1, 3), min_size=1, max_size=6, unique=True),
    st.floats(0.3, 4.0),
    st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_the_envelope_is_that_of_brute_force(
    centres: list[float], lipschitz: float, seed: int
) -> None:
    """Of samples of an L-Lipschitz function; the grid is off by at most L times half a step."""
    x = np.sort(centres)
    rng = np.random.default_rng(seed)
    kinks, heights = rng.uniform(-1, 3, 4), rng.uniform(0, 2, 4)
    values = np.min(heights + lipschitz * np.abs(x[:, None] - kinks), axis=1)
    found = intervals.envelope_minimum(x, values, lipschitz, -1.0, 3.0)
    assert found == pytest.approx(brute_force(x, values, lipschitz), abs=lipschitz * 5e-4 + 1e-12)


@pytest.mark.parametrize(
    ("centre", "minimum"),
    [(2.5, 4.0 - 2 * 3.5), (-0.5, 4.0 - 2 * 3.5), (1.0, 4.0 - 2 * 2.0)],
)
def test_the_envelope_at_both_ends_by_hand(centre: float, minimum: float) -> None:
    """One sample of 4 with L = 2: the minimum is at the end that is further away."""
    x, f = np.array([centre]), np.array([4.0])
    assert intervals.envelope_minimum(x, f, 2.0, -1.0, 3.0) == minimum
    assert brute_force(x, f, 2.0) == pytest.approx(minimum)


def test_the_envelope_between_two_samples_by_hand() -> None:
    # (2 + 1 − 1 · 2)/2 = 0.5 at x = 1.5, below 2 − 1 = 1 and 1 − 0.5 = 0.5 at the ends.
    x, f = np.array([0.0, 2.0]), np.array([2.0, 1.0])
    assert intervals.envelope_minimum(x, f, 1.0, -1.0, 2.0) == 0.5
    assert intervals.envelope_minimum(x, f, 1.0, -2.0, 2.0) == 0.0
    assert intervals.envelope_minimum(x, f, 1.0, -1.0, 2.75) == 0.25


@given(
    st.lists(st.tuples(st.floats(-1, 3), st.floats(0, 1)), min_size=1, max_size=6),
    st.sampled_from([0.0, 0.01]),
)
@settings(max_examples=60, deadline=None)
def test_gaps_are_what_no_interval_covers(balls: list[tuple[float, float]], width: float) -> None:
    centres, radii = np.array(sorted(balls)).T
    found = intervals.gaps(centres, radii, -1.0, 3.0, width)
    distance = np.abs(GRID[:, None] - centres) - radii
    open_ = (distance > 1e-9).all(axis=1)
    inside = ((GRID[:, None] >= found[:, 0]) & (GRID[:, None] <= found[:, 1])).any(axis=1)
    if width == 0.0:
        assert inside[open_].all()
    assert not inside[(distance < -1e-9).any(axis=1)].any()
    assert (np.diff(found, axis=1) > width).all()


def test_gaps_by_hand() -> None:
    centres, radii = np.array([0.0, 2.0]), np.array([0.5, 0.25])
    found = intervals.gaps(centres, radii, -1.0, 3.0, 0.0)
    assert found.tolist() == [[-1.0, -0.5], [0.5, 1.75], [2.25, 3.0]]
    # Not wider than the width: closed.
    assert intervals.gaps(centres, radii, -1.0, 3.0, 0.5).tolist() == [[0.5, 1.75], [2.25, 3.0]]
    assert intervals.gaps(centres, radii, -1.0, 3.0, 0.75).tolist() == [[0.5, 1.75]]
    touching = intervals.gaps(np.array([0.0, 2.0]), np.array([1.0, 1.0]), -1.0, 3.0, 0.0)
    assert len(touching) == 0


@pytest.mark.parametrize(
    ("starts", "ends", "reach", "width", "expected"),
    [
        ([-1.0], [1.0], 3.0, 0.0, 1.0),
        ([-1.0, 0.5], [1.0, 2.0], 3.0, 0.0, 2.0),
        ([0.5, -1.0], [2.0, 1.0], 3.0, 0.0, 2.0),  # in any order
        ([-1.0, 1.5], [1.0, 4.0], 3.0, 0.0, 1.0),
        ([-1.0, 1.5], [1.0, 4.0], 3.0, 0.5, None),  # not wider
        ([-1.0, 1.5], [1.0, 4.0], 3.0, 0.49, 1.0),
        ([-1.0], [3.0], 3.0, 0.0, None),
        ([-1.0], [5.0], 3.0, 0.0, None),
        ([-3.0, -1.0], [-2.0, 1.0], 3.0, 0.0, 1.0),  # what lies behind does not count
        ([0.0, 1.0], [0.0, 2.0], 3.0, 0.0, 0.0),
    ],
)
def test_the_first_exit_by_hand(
    starts: list[float], ends: list[float], reach: float, width: float, expected: float | None
) -> None:
    assert intervals.first_exit(np.array(starts), np.array(ends), reach, width) == expected


def search(offset: float = 0.0, lipschitz: float | None = 3.0, dimension: int = 1) -> _Search:
    return _Search(
        fun=lambda x: float(np.abs(x[0] - 0.3)),
        grad=None,
        bounds=[(-2.0, 1.0)] * dimension,
        lipschitz=lipschitz,
        eps=0.1,
        gamma=1.0,
        rho_schedule=None,
        stopping="certified",
        max_evals=None,
        seed=0,
        callback=None,
        offset=offset,
    )


@pytest.mark.parametrize("offset", [5.0, -5.0, 0.0])
def test_what_rounding_may_add_by_hand(offset: float) -> None:
    """ε times the largest value, the offset's size and L times the box's largest coordinate."""
    found = search(offset)
    found.f_max = 7.0
    expected = ROUNDING * (7.0 + abs(offset) + 3.0 * 2.0)
    assert found._rounding() == pytest.approx(expected, rel=1e-12, abs=0)


def test_the_thresholds_by_hand() -> None:
    """ρ_k = 1 − 2^−k, and never more than certifies the gap; at last just that."""
    schedule = _Schedule(None, eps=0.1, slack=0.2)
    assert schedule.target == pytest.approx(0.08)
    assert [schedule.threshold(m) for m in (1.0, 0.05)] == pytest.approx([0.0, -0.03])
    schedule.level = 2
    assert schedule.threshold(1.0) == 0.75
    assert schedule.threshold(0.2) == pytest.approx(0.12)  # 0.2 − 0.08 is below 0.75 · 0.2
    schedule.final = True
    assert schedule.threshold(1.0) == pytest.approx(0.92)
    given = _Schedule([0.5, 0.9], eps=0.1, slack=0.0)
    assert given.threshold(2.0) == 1.0


def test_the_values_of_rho_by_hand() -> None:
    """Halving 1 − ρ until what is left of m is at most ε; then the value that just suffices."""
    schedule = _Schedule(None, eps=0.1, slack=0.0)
    for m, levels in ((1.0, 4), (0.8, 3)):  # 1/16 ≤ 0.1 < 1/8; 0.8/8 is 0.1 itself
        schedule.restart()
        assert schedule.threshold(m) == 0.0
        for level in range(1, levels):
            assert schedule.raise_rho(m)
            assert schedule.threshold(m) == (1 - 0.5**level) * m
        assert schedule.raise_rho(m)
        assert schedule.threshold(m) == m - 0.1
        assert not schedule.raise_rho(m)


def test_a_given_schedule_by_hand() -> None:
    schedule = _Schedule([0.5, 0.9], eps=0.1, slack=0.0)
    assert schedule.threshold(2.0) == 1.0
    assert schedule.raise_rho(2.0)
    assert schedule.threshold(2.0) == 1.8
    assert schedule.raise_rho(2.0)
    assert schedule.threshold(2.0) == 1.9  # what just suffices comes after it
    assert not schedule.raise_rho(2.0)


def test_the_last_rho_leaves_the_balls_a_radius() -> None:
    """With ε = 0 it would go on for ever: up to 1 − 2⁻⁴⁸."""
    schedule = _Schedule(None, eps=0.0, slack=0.0)
    assert all(schedule.raise_rho(1.0) for _ in range(48))
    assert schedule.threshold(1.0) == 1 - 2.0**-48
    assert not schedule.raise_rho(1.0)
    given = _Schedule(list(np.linspace(0, 0.98, 60)), eps=0.0, slack=0.0)
    assert all(given.raise_rho(1.0) for _ in range(60))


@pytest.mark.parametrize(("dimension", "lost"), [(1, 1e-5), (2, 5e-3), (3, 0.05)])
def test_a_covering_may_lose_little_of_eps(dimension: int, lost: float) -> None:
    found = search(dimension=dimension)
    assert 1 - lost < found.schedule.target / 0.1 < 1
    # Half of it is for the resolution: it is left of the balls' least radius, times L.
    found._evaluate(np.full(dimension, 0.5), "first", 0.0)
    assert found._cover_slack(found.m - 0.05) == pytest.approx(found.slack / 2 * 0.05)


def test_the_sampler_is_that_of_the_dimension() -> None:
    for dimension, kind in ((1, IntervalSampler), (2, PlaneSampler), (3, SpaceSampler)):
        found = search(dimension=dimension)
        found._evaluate(np.full(dimension, 0.5), "first", 0.0)
        assert type(found._new_sampler()) is kind


def test_the_largest_value_counts_for_rounding() -> None:
    found = search()
    for x, largest in ((0.4, 0.1), (1.0, 0.7), (0.5, 0.7)):
        found._evaluate(np.array([x]), "step", 0.0)
        assert found.f_max == pytest.approx(largest)


@pytest.mark.parametrize(("relative", "too_fine"), [(0.99, True), (1.01, False)])
def test_balls_that_rounding_swallows(relative: float, too_fine: bool) -> None:
    """At the last threshold the smallest has the radius target/L; 4 roundings of the box are 8."""
    found = search()
    found._evaluate(np.array([1.0]), "first", 0.0)
    found.samples.f[0] = 2.0**-30  # so small that m − target has no rounding of its own
    found.schedule.final = True
    found.schedule.target = relative * 3.0 * 8 * ROUNDING
    assert found._too_fine() == too_fine


def test_slopes_that_contradict_l_by_hand() -> None:
    """L = 3: from (−2, 3) and (0.4, 0) to 0.5 the value may be up to 0.3 by the second."""
    zero = np.zeros(1)
    for f, violation in ((0.29, None), (0.31, (1, 2)), (1.0, (1, 2))):
        found = search()
        found.samples.add(np.array([-2.0]), 3.0, zero)
        found.samples.add(np.array([0.4]), 0.0, zero)
        found._check_slopes(np.array([0.5]), f, zero)
        assert found.violation == violation
        assert found.slope == pytest.approx(f / 0.1)
    second = search()
    second.samples.add(np.array([0.0]), 0.0, zero)
    second._check_slopes(np.array([0.5]), 1.6, zero)
    assert (second.violation, second.slope) == ((0, 1), pytest.approx(3.2))


def test_gradients_that_contradict_l_by_hand() -> None:
    """Finite differences may be off by 1e-4 of it; the same point twice has no slope."""
    for g, violation in ((3.0, None), (3.0002, None), (3.0004, (0, 0)), (-3.0004, (0, 0))):
        found = search()
        found._check_slopes(np.array([0.5]), 0.2, np.array([g]))
        assert (found.violation, found.slope) == (violation, abs(g))
    again = search()
    again.samples.add(np.array([0.5]), 0.2, np.zeros(1))
    again._check_slopes(np.array([0.5]), 0.2, np.array([0.5]))
    assert (again.violation, again.slope) == (None, 0.5)


def test_an_estimate_of_l_by_hand() -> None:
    """The smallest power of 1.25 that is at least 1.25 times every slope; never lowered."""
    found = search(lipschitz=None)
    for x, f, lipschitz in (
        (0.0, 0.0, 1.0),  # no slope yet
        (0.1, 0.03, 1.0),
        (0.2, 0.12, 1.25),  # a slope of 0.9: 1.125
        (0.3, 0.31, 1.25**4),  # 1.9: 1.25⁴ = 2.44 ≥ 2.375 > 1.95
        (0.4, 0.31, 1.25**4),
    ):
        found._check_slopes(np.array([x]), f, np.zeros(1))
        found.samples.add(np.array([x]), f, np.zeros(1))
        assert (found.violation, found.lipschitz) == (None, lipschitz)
    shallow = search(lipschitz=None)
    shallow._check_slopes(np.array([0.0]), 0.0, np.array([0.3]))
    assert shallow.lipschitz == 1.25**-4  # 0.41 ≥ 0.375 > 0.33
