"""What a certificate rests on: intervals and envelopes against brute force, rounding by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpgrad.branch_prune import intervals
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


def search(offset: float, lipschitz: float = 3.0) -> _Search:
    return _Search(
        fun=lambda x: float(np.abs(x[0] - 0.3)),
        grad=None,
        bounds=[(-2.0, 1.0)],
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
