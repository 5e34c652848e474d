"""Eq. 5 in three and four dimensions, against dense samples of the box."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpgrad.branch_prune import minimize, sampler
from bpgrad.branch_prune.problem import Box
from bpgrad.branch_prune.ray import Quadratic
from bpgrad.branch_prune.sampler import TOLERANCE, SpaceSampler
from bpgrad.branch_prune.samples import Samples

GAMMAS = [1e-3, 1e-2, 1.0, 1e9]
SLACK = 1e-3


def _box(dim: int) -> Box:
    return Box.of([(0, 1), (-0.5, 0.2), (2, 2.8), (0, 0.6)][:dim])


def _direction(seed: int, dim: int) -> np.ndarray:
    d = np.random.default_rng(seed).normal(size=dim)
    return d / np.linalg.norm(d)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.sampled_from([3, 4]), st.sampled_from(GAMMAS))
def test_no_admissible_point_is_better_by_more_than_the_tolerance(
    seed: int, count: int, dim: int, gamma: float
) -> None:
    box, rng = _box(dim), np.random.default_rng(seed)
    samples = Samples(dim)
    for _ in range(count):
        samples.add(box.uniform(rng), 1.0 + rng.uniform(0.1, 0.5), np.zeros(dim))
    radii = samples.f - 1.0  # L = 1, τ = 1
    space = SpaceSampler(samples, box, 1.0, gamma, 1.0, SLACK, rng)
    d = _direction(seed, dim)
    found = space.next(d)
    points = rng.uniform(box.lower, box.upper, (20_000, dim))
    outside = np.min(np.linalg.norm(points[:, None] - samples.x, axis=2) - radii, axis=1)
    if found is None:
        assert not space.undecided
        assert outside.max() <= SLACK
        return
    point, how = found
    assert box.contains(point)
    assert np.all(samples.distances(point) >= radii - 1e-9)
    if how == "candidate":
        return
    of = Quadratic(samples.x[-1], d, 2 * gamma / (1 + 2 * gamma))
    points = points[outside > SLACK]
    if len(points):
        assert of.of(point[None])[0] <= of.of(points).min() * (1 + TOLERANCE) + 1e-12


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.floats(0.0, 0.999), st.floats(1e-3, 2.0))
def test_the_measure_lies_above_its_bound_and_is_small_only_around_its_origin(
    seed: int, dim: int, kappa: float, size: float
) -> None:
    rng = np.random.default_rng(seed)
    of = Quadratic(rng.normal(size=dim), _direction(seed, dim), kappa)
    centres, half = rng.normal(size=(50, dim)), rng.uniform(0, size, dim)
    inside = centres[:, None] + rng.uniform(-1, 1, (50, 40, dim)) * half
    values = of.of(inside.reshape(-1, dim)).reshape(50, 40)
    assert np.all(values.min(axis=1) >= of.at_least(centres, half) - 1e-9)
    box = Box.of([(-2.0, 2.0)] * dim)
    points = rng.uniform(box.lower, box.upper, (2000, dim))
    region = of.around(size, box)
    small = points[of.of(points) < size]
    assert np.all((small >= region.lower - 1e-12) & (small <= region.upper + 1e-12))


def test_what_was_given_up_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def cone(x: np.ndarray) -> float:
        return 1.0 + float(np.linalg.norm(x - 0.3))

    def hows() -> set[str]:
        found = minimize(cone, None, [(0, 1)] * 3, 2.0, eps=0.1, max_evals=60, seed=1)
        return set(map(str, found.history.how))

    assert "candidate" not in hows()
    monkeypatch.setattr(sampler, "BUDGET_OF_MEASURE", {3: 0})
    assert "candidate" in hows()
