"""Certificates of branch and pruning on functions with proven L and known minimum."""

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bpgrad.branch_prune import Status, minimize, minimize_cheap

few = settings(max_examples=25, deadline=None)


class Cones:
    """min_k (c_k + s_k ‖x − p_k‖): L = max s_k, minimum min c_k at its p_k (if that is lowest)."""

    def __init__(self, seed: int, dimension: int) -> None:
        rng = np.random.default_rng(seed)
        self.points = rng.uniform(0.05, 0.95, (6, dimension))
        self.slopes = rng.uniform(0.3, 1.0, 6)
        self.heights = rng.uniform(0.0, 0.4, 6) * (seed % 2) + rng.uniform(0.0, 0.2, 6)
        self.calls = 0

    def __call__(self, x: Any) -> float:
        self.calls += 1
        return float(self._cones(x).min())

    def gradient(self, x: Any) -> np.ndarray:
        k = int(self._cones(x).argmin())
        step = np.asarray(x) - self.points[k]
        norm = np.linalg.norm(step)
        return self.slopes[k] * step / norm if norm > 0 else np.zeros_like(step)

    def _cones(self, x: Any) -> np.ndarray:
        return self.heights + self.slopes * np.linalg.norm(np.asarray(x) - self.points, axis=1)

    @property
    def minimum(self) -> float:
        """The lowest of the cones: f(p_k) ≤ c_k, and every value is at least some c_j."""
        return float(self.heights.min())


@few
@given(st.integers(0, 10_000), st.sampled_from([1, 2]))
def test_the_certificate_is_valid_and_reached(seed: int, dimension: int) -> None:
    f = Cones(seed, dimension)
    eps = 0.01 if dimension == 1 else 0.05
    found = minimize(f, f.gradient, [(0, 1)] * dimension, 1.0, eps=eps, seed=seed)
    assert found.success
    assert found.status == Status.CERTIFIED
    assert found.lower_bound <= f.minimum + 1e-9
    assert found.fun - f.minimum <= eps
    assert found.gap == pytest.approx(found.fun - found.lower_bound)
    assert found.gap <= eps
    assert f(found.x) == pytest.approx(found.fun)
    assert np.all((found.x >= 0) & (found.x <= 1))


@few
@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(5, 60))
@example(
    45, 2, 31
)  # boxes that several discs cover were taken for higher than they are known to be
def test_the_lower_bound_is_valid_wherever_the_search_ends(
    seed: int, dimension: int, limit: int
) -> None:
    f = Cones(seed, dimension)
    found = minimize(f, f.gradient, [(0, 1)] * dimension, 1.0, eps=1e-3, max_evals=limit, seed=seed)
    assert found.lower_bound <= f.minimum + 1e-9
    assert found.nfev <= limit
    assert found.nfev == f.calls
    assert found.success == (found.gap <= 1e-3)


def test_in_five_dimensions_it_ends_at_the_limit_with_the_gap_it_reached() -> None:
    f = Cones(3, 5)
    found = minimize(f, f.gradient, [(0, 1)] * 5, 1.0, eps=1e-3, max_evals=50)
    assert not found.success
    assert found.status == Status.MAX_EVALS
    assert found.gap == pytest.approx(found.fun - found.lower_bound)


def shifted(x: Any) -> float:
    return abs(float(x[0]) - 0.9) + 0.05


def slope(x: Any) -> np.ndarray:
    return np.sign(np.asarray(x) - 0.9)


def test_the_printed_rule_stops_with_a_gap_that_is_not_one() -> None:
    """Counterexample to the loop as printed, which tests ρ before anything is covered at it."""
    options: dict[str, Any] = {"eps": 0.01, "x0": [0.0], "rho_schedule": [0.0, 0.95, 0.99]}
    printed = minimize(shifted, slope, [(0, 1)], 1.0, stopping="paper", **options)
    assert printed.status == Status.PAPER_RULE
    assert not printed.success
    assert printed.fun - 0.05 > 0.01  # the true error is more than eps
    assert printed.lower_bound <= 0.05
    certified = minimize(shifted, slope, [(0, 1)], 1.0, eps=0.01, x0=[0.0])
    assert certified.success
    assert certified.fun - 0.05 <= 0.01


def test_an_L_that_is_too_small_is_found_out() -> None:
    found = minimize(lambda x: 5 * shifted(x), lambda x: 5 * slope(x), [(0, 1)], 1.0)
    assert found.status == Status.LIPSCHITZ_VIOLATED
    assert not found.success


def test_without_L_nothing_is_certified() -> None:
    found = minimize(shifted, slope, [(0, 1)], None)
    assert not found.success
    assert found.status == Status.ESTIMATED
    assert found.fun - 0.05 <= 0.01


def test_negative_values_ask_for_an_offset() -> None:
    def below(x: Any) -> float:
        return shifted(x) - 1.0

    with pytest.raises(ValueError, match="offset"):
        minimize(below, slope, [(0, 1)], 1.0)
    found = minimize(below, slope, [(0, 1)], 1.0, offset=2.0)
    assert found.success
    assert found.fun == pytest.approx(-0.95, abs=0.01)
    assert found.lower_bound <= -0.95


@pytest.mark.parametrize(
    ("bounds", "lipschitz", "options"),
    [
        ([(1, 0)], 1.0, {}),
        ([(0, math.nan)], 1.0, {}),
        ([(0, math.inf)], 1.0, {}),
        ([(0, 1)], 0.0, {}),
        ([(0, 1)], -1.0, {}),
        ([(0, 1)], math.inf, {}),
        ([(0, 1)], 1.0, {"eps": -1.0}),
        ([(0, 1)], 1.0, {"eps": math.inf}),
        ([(0, 1)], 1.0, {"gamma": -1.0}),
        ([(0, 1)], 1.0, {"stopping": "never"}),
        ([(0, 1)], 1.0, {"max_evals": 0}),
        ([(0, 1)], 1.0, {"max_evals": 10.5}),
        ([(-1e308, 1e308)], 1.0, {}),
    ],
)
def test_bad_input_is_refused(bounds: Any, lipschitz: float, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        minimize(shifted, slope, bounds, lipschitz, **options)


def test_values_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="nan"):
        minimize(lambda x: math.nan, slope, [(0, 1)], 1.0)


def test_the_same_seed_gives_the_same_search() -> None:
    f = Cones(5, 2)
    runs = [minimize(f, f.gradient, [(0, 1)] * 2, 1.0, eps=0.05, seed=7) for _ in range(2)]
    assert runs[0].nfev == runs[1].nfev
    assert np.array_equal(runs[0].x, runs[1].x)


def test_the_cheap_step_has_its_length() -> None:
    """Eq. 12 from 0.2 on |x − 0.9| + 0.05 with L = 1: η = (1 − ρ) f while f falls."""
    found = minimize_cheap(shifted, slope, [(0, 1)], 1.0, rho=0.1, x0=[0.2], max_evals=2)
    assert found.steps[0] == pytest.approx(0.9 * 0.75)
    assert found.x[0] == pytest.approx(0.2 + 0.9 * 0.75)


def test_the_limit_of_evaluations_holds_where_L_is_estimated() -> None:
    """The uniform samples that confirm an estimate count too."""

    def f(x: Any) -> float:
        return 1.0 + 0.3 * abs(float(x[0]) - 0.5)

    def g(x: Any) -> np.ndarray:
        return 0.3 * np.sign(x - 0.5)

    for limit in range(10, 30):
        found = minimize(f, g, [(0, 1)], None, max_evals=limit)
        assert found.nfev <= limit
        assert not found.success
        assert found.lower_bound == 0.0
        assert np.all(found.history.lower_bound == 0.0)


def test_the_printed_rule_ends_where_the_minimum_is_zero() -> None:
    """x* is in no ball for ρ > 0: no covering ever comes, and (1 − ρ)m ≤ ε must be seen before."""

    def f(x: Any) -> float:
        return abs(float(x[0]) - 0.3)

    def g(x: Any) -> np.ndarray:
        return np.sign(x - 0.3)

    found = minimize(f, g, [(0, 1)], 1.1, stopping="paper", max_evals=None, x0=[1.0])
    assert found.status == Status.PAPER_RULE
    assert found.fun <= 0.01


def test_balls_smaller_than_rounding_are_not_tried() -> None:
    """They would be sampled at one and the same point for ever."""

    def f(x: Any) -> float:
        return 1e-18 * (2.0 + abs(float(x[0])))

    found = minimize(f, lambda x: 1e-18 * np.sign(x), [(-1, 1)], 1.0, eps=1e-25, max_evals=None)
    assert found.status == Status.PRECISION
    assert not found.success
    assert found.lower_bound <= 2e-18


def test_the_value_is_f_at_the_point_whatever_the_offset() -> None:
    found = minimize(shifted, slope, [(0, 1)], 1.0, offset=1e10, eps=1e-3, x0=[0.3])
    assert found.fun == shifted(found.x)
    assert found.lower_bound <= 0.05
    assert found.violation is None  # rounding of 1e10 is no evidence
    assert np.array_equal(found.history.f, [shifted(x) for x in found.history.x])


@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_one_sample_bounds_f_by_the_farthest_corner(dimension: int) -> None:
    def f(x: Any) -> float:
        return 5.0 + float(np.linalg.norm(x))

    found = minimize(f, lambda x: x, [(0, 1)] * dimension, 1.0, max_evals=1, x0=[0.0] * dimension)
    assert found.lower_bound == pytest.approx(5.0 - math.sqrt(dimension))
    assert found.lower_bound < 5.0 - math.sqrt(dimension)  # rounding is taken off
    assert (found.resolution, found.history.rho[0]) == (0.0, 0.0)
    assert found.history.lower_bound[-1] == found.lower_bound


def test_the_callback_sees_every_evaluation_and_can_end_the_search() -> None:
    seen = []

    def stop(state: Any) -> None:
        seen.append((state.nfev, state.fun, state.lower_bound))
        if state.nfev == 4:
            raise StopIteration

    found = minimize(shifted, slope, [(0, 1)], 2.0, eps=1e-6, callback=stop, x0=[0.0])
    assert found.status == Status.CALLBACK
    assert found.nfev == 4
    assert [n for n, _, _ in seen] == [1, 2, 3, 4]
    assert all(bound <= 0.05 for _, _, bound in seen)
    assert 0.0 <= found.lower_bound <= 0.05


def test_a_schedule_that_cannot_reach_eps_is_refused() -> None:
    enough = 1.0 - 0.01 / shifted([0.0])
    said = re.escape(f"ends at 0.9, below 1 - eps/f(x_1) = {enough:.9g}: ")
    with pytest.raises(ValueError, match=f"^rho_schedule {said}"):
        minimize(shifted, slope, [(0, 1)], 1.0, x0=[0.0], eps=0.01, rho_schedule=[0.0, 0.5, 0.9])
    found = minimize(shifted, slope, [(0, 1)], 1.0, x0=[0.0], eps=0.01, rho_schedule=[0.0, enough])
    assert found.success


def test_the_numbers_of_the_statuses_stay() -> None:
    """`result.status` is an integer that users compare and store, as in SciPy."""
    names = ("CERTIFIED", "MAX_EVALS", "PAPER_RULE", "LIPSCHITZ_VIOLATED", "CALLBACK", "ESTIMATED")
    assert [status.name for status in Status] == [*names, "PRECISION"]
    assert [status.value for status in Status] == list(range(7))


def test_rounding_does_not_make_a_schedule_too_short() -> None:
    """1 − ε/f(x_1) times f(x_1) may lie below f(x_1) − ε by a rounding error."""
    values = [1000.0 + k / 7 for k in range(30)]
    ends = [1.0 - 0.01 / value for value in values]
    assert any(end * value < value - 0.01 for end, value in zip(ends, values, strict=True))
    for end, value in zip(ends, values, strict=True):
        found = minimize(
            lambda x, f=value: f, np.zeros_like, [(0, 1)], 1.0, rho_schedule=[0.0, 0.5, end],
            max_evals=1,
        )  # fmt: skip
        assert found.nfev == 1


@pytest.mark.parametrize("rhos", [[], [0.5, 0.4], [-0.1, 0.5], [0.0, 1.0], [0.0, math.nan]])
def test_a_schedule_must_increase_in_the_unit_interval(rhos: list[float]) -> None:
    with pytest.raises(ValueError, match="rho_schedule"):
        minimize(shifted, slope, [(0, 1)], 1.0, rho_schedule=rhos)


def test_a_schedule_that_stays_does_not_increase() -> None:
    with pytest.raises(ValueError, match="must increase"):
        minimize(shifted, slope, [(0, 1)], 1.0, eps=0.9, rho_schedule=[0.5, 0.5])


def test_no_gap_of_zero_without_a_limit() -> None:
    with pytest.raises(ValueError, match="max_evals"):
        minimize(shifted, slope, [(0, 1)], 1.0, eps=0.0, max_evals=None)
    found = minimize(shifted, slope, [(0, 1)], 1.0, eps=0.0, max_evals=300)
    assert not found.success
    assert found.lower_bound <= 0.05


def test_the_bounds_are_honoured_exactly() -> None:
    lower, upper = np.array([0.1, -1 / 3]), np.array([0.3, 0.7])
    seen = []

    def f(x: Any) -> float:
        seen.append(x)
        return 1.0 + float(np.sum(np.sin(7 * x))) / 10

    found = minimize(
        f, lambda x: 0.7 * np.cos(7 * x), list(zip(lower, upper, strict=True)), 1.0, eps=0.02
    )
    assert found.success
    assert np.all((np.array(seen) >= lower) & (np.array(seen) <= upper))
    assert np.any(np.array(seen) == lower) or np.any(np.array(seen) == upper)


def test_a_box_may_be_a_point_or_flat() -> None:
    assert minimize(shifted, slope, [(0.4, 0.4)], 1.0).fun == shifted([0.4])
    flat = minimize(shifted, lambda x: np.append(slope(x[:1]), 0), [(0, 1), (2, 2)], 1.0)
    assert flat.success
    assert flat.x[1] == 2.0


@pytest.mark.parametrize("dimension", [4, 5])
def test_in_four_and_five_dimensions_it_goes_on_to_the_limit(dimension: int) -> None:
    """A subdivision that is given up ends nothing."""
    f = Cones(3, dimension)
    found = minimize(f, f.gradient, [(0, 1)] * dimension, 1.0, eps=1e-4, max_evals=120)
    assert found.nfev == 120 or found.success
    assert found.lower_bound <= f.minimum
    assert found.gap == found.fun - found.lower_bound


def test_two_samples_that_contradict_L_are_named() -> None:
    """The gradient says nothing wrong; f is steeper than L in one place only."""

    def f(x: Any) -> float:
        return 1.0 + 0.1 * float(x[0]) + (0.5 if x[0] > 0.7 else 0.0)

    found = minimize(f, lambda x: [0.1], [(0, 1)], 0.2, x0=[0.0], eps=1e-3, max_evals=2000)
    assert found.status == Status.LIPSCHITZ_VIOLATED
    i, j = found.violation
    x, values = found.history.x[:, 0], found.history.f
    assert abs(values[i] - values[j]) > 0.2 * abs(x[i] - x[j])
    assert not found.success
    assert found.lower_bound == 0.0
    assert np.all(found.history.lower_bound == 0.0)
    assert "larger lipschitz" in found.message


def test_the_result_of_the_cheap_solver_has_its_trajectory() -> None:
    """OptimizeResult is a dictionary: a field called values would be hidden by its method."""
    found = minimize_cheap(shifted, slope, [(0, 1)], 1.0, x0=[0.2], max_evals=5, offset=1.0)
    assert found.path_values.tolist() == [shifted(x) for x in found.path]
    assert found.fun == min(found.path_values)
    for name in found:
        assert not callable(getattr(found, name)), name


@pytest.mark.parametrize("dimension", [1, 2])
def test_a_search_without_gradients_certifies_with_no_more_evaluations_in_all(
    dimension: int,
) -> None:
    """`grad=None` is Eq. 5 with γ → ∞, where the direction has no say."""
    eps = 0.01 if dimension == 1 else 0.05
    totals = []
    for seed in range(5):
        f = Cones(seed, dimension)
        bounds = [(0, 1)] * dimension
        found = minimize(f, None, bounds, 1.0, eps=eps, seed=seed)
        assert found.success
        assert found.ngev == 0
        assert found.nfev == f.calls
        assert found.lower_bound <= f.minimum <= found.fun <= f.minimum + eps
        same = minimize(f, np.zeros_like, bounds, 1.0, eps=eps, seed=seed, gamma=1e9)
        assert (found.nfev, found.fun) == (same.nfev, same.fun)
        guided = minimize(f, f.gradient, bounds, 1.0, eps=eps, seed=seed)
        totals.append((found.nfev, guided.nfev + guided.ngev))
    assert sum(total for total, _ in totals) < sum(total for _, total in totals)


def test_the_documented_defaults_are_those_of_a_call_without_them() -> None:
    f = Cones(4, 2)
    plain = minimize(f, f.gradient, [(0, 1)] * 2, 1.0, max_evals=60)
    given = minimize(
        f, f.gradient, [(0, 1)] * 2, 1.0, max_evals=60, eps=1e-2, gamma=1e-2, seed=0, offset=0.0
    )
    assert np.array_equal(plain.history.x, given.history.x)
    assert minimize(f, f.gradient, [(0, 1)] * 2, 1.0, gamma=0.0, max_evals=5).nfev == 5


@pytest.mark.parametrize("stopping", ["certified", "paper"])
def test_a_value_of_eps_is_enough(stopping: str) -> None:
    """f ≥ 0, so nothing lies more than ε below; and at 0 there is no ρ left to speak of."""
    for value in (0.01, 0.0):
        found = minimize(
            lambda x, f=value: f, np.zeros_like, [(0, 1)], 1.0, eps=0.01, stopping=stopping
        )
        assert (found.nfev, found.rho) == (1, 0.0)
        assert found.success == (stopping == "certified")


@pytest.mark.parametrize("offset", [0.0, 2.0])
def test_what_each_covering_proves_on_a_line(offset: float) -> None:
    """ρm less what rounding may add, from that sample on; each ρ halves what is left of m."""
    found = minimize(shifted, slope, [(0, 1)], 1.0, offset=offset, x0=[0.0], eps=1e-3)
    assert found.success
    assert len(found.history.coverings) >= 4
    assert found.nit - len(found.history.coverings) in (0, 1)  # each but the last raises ρ
    before, last, history = -math.inf, 0.0, found.history.lower_bound
    for k, (n, rho, m, bound) in enumerate(found.history.coverings):
        assert m == pytest.approx(found.history.f_min[int(n) - 1])
        if 0.5**k * (m + offset) > 1e-3:
            assert rho == pytest.approx(1 - 0.5**k)
        proved = rho * (m + offset) - offset
        assert bound == pytest.approx(max(before, proved), abs=1e-11)
        assert bound < proved or bound == before or k == 0
        assert history[int(n) - 1] >= bound
        if n > last > 0:
            assert history[int(n) - 2] == before
        before, last = bound, n
    assert np.all(np.diff(found.history.lower_bound) >= 0)
    assert found.history.lower_bound[-1] == found.lower_bound == before


def test_the_printed_rule_says_what_it_claims() -> None:
    """At the first ρ of the schedule at which (1 − ρ)m ≤ ε, before anything is covered at it."""
    options: dict[str, Any] = {"eps": 0.01, "x0": [0.0], "rho_schedule": [0.0, 0.95, 0.99]}
    printed = minimize(shifted, slope, [(0, 1)], 1.0, stopping="paper", **options)
    rhos = [0.0, 0.95, 0.99]
    assert printed.rho == rhos[printed.nit - 1]
    claim = (1 - printed.rho) * printed.fun
    assert claim <= 0.01 < (1 - rhos[printed.nit - 2]) * printed.fun
    assert f"claims a gap of {claim:.3g}," in printed.message


@pytest.mark.parametrize("dimension", [1, 2])
def test_uniform_samples_confirm_an_estimate(dimension: int) -> None:
    """Ten a dimension after the first sample, and as many before the search ends; else none."""

    def f(x: Any) -> float:
        return 1.0 + 0.3 * abs(float(x[0]) - 0.5)

    def g(x: Any) -> np.ndarray:
        return np.append(0.3 * np.sign(x[:1] - 0.5), np.zeros(dimension - 1))

    bounds, probes = [(0, 1)] * dimension, 10 * dimension
    eps = 0.001 if dimension == 1 else 0.05
    found = minimize(f, g, bounds, None, eps=eps, offset=1.0, x0=[0.1] * dimension)
    assert found.status == Status.ESTIMATED
    assert found.lipschitz == 1.25**-4
    assert found.slope == pytest.approx(0.3)
    random = found.history.how == "random"
    assert random[1 : 1 + probes].all()
    assert random[-probes:].all()
    assert not random[1 + probes]
    assert not random[-probes - 1]
    assert found.fun - eps <= found.estimated_lower_bound <= 1.0
    given = minimize(f, g, bounds, 1.0, eps=0.05, x0=[0.1] * dimension)
    assert "random" not in given.history.how


def test_without_any_slope_l_is_estimated_as_one() -> None:
    flat = minimize(lambda x: 1.0, np.zeros_like, [(0, 1)], None, eps=0.5)
    assert (flat.status, flat.lipschitz, flat.slope) == (Status.ESTIMATED, 1.0, 0.0)


def test_what_contradicts_l_is_said() -> None:
    gradient = minimize(shifted, lambda x: 5 * slope(x), [(0, 1)], 2.0)
    assert (gradient.violation, gradient.slope) == ((0, 0), 5)
    assert "the gradient at sample 0 has slope 5, but L = 2" in gradient.message
    assert "or the gradient is wrong" in gradient.message
    samples = minimize(lambda x: 5 * shifted(x), slope, [(0, 1)], 2.0, x0=[0.0])
    i, j = samples.violation
    assert i != j
    assert f"samples {i} and {j} have slope 5, but L = 2" in samples.message
    assert "gradient" not in samples.message


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ({"eps": 0.1}, Status.CERTIFIED, "<= eps certified after 2 evaluations"),
        ({"max_evals": 1}, Status.MAX_EVALS, "max_evals = 1 reached with gap 0.95"),
        ({"lipschitz": None, "eps": 1.0}, Status.ESTIMATED, "if f is Lipschitz with the estimate"),
    ],
)
def test_why_a_search_ended_is_said(options: dict[str, Any], status: Status, words: str) -> None:
    found = minimize(shifted, slope, [(0, 1)], **{"lipschitz": 1.0, "x0": [0.0], **options})
    assert (found.status, words in found.message) == (status, True)
