"""The boundary of what discs leave of a rectangle, against dense samples of it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpgrad.branch_prune.arcs import Arcs
from bpgrad.branch_prune.cover import Cover
from bpgrad.branch_prune.problem import Box
from bpgrad.branch_prune.ray import Quadratic
from bpgrad.branch_prune.samples import Samples

BOX = Box.of([(0, 1), (-0.5, 0.2)])
few = settings(max_examples=30, deadline=None)


def discs(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(BOX.lower, BOX.upper, (count, 2)), rng.uniform(0.03, 0.25, count)


def lattice(n: int = 150) -> np.ndarray:
    axes = [np.linspace(a, b, n) for a, b in zip(BOX.lower, BOX.upper, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)


def depth(points: np.ndarray, x: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """How deep inside a disc the points lie; negative outside all."""
    return np.max(radii - np.linalg.norm(points[:, None] - x, axis=2), axis=1)


def rows(arcs: Arcs) -> np.ndarray:
    order = np.lexsort((arcs.start, arcs.disc))
    return np.column_stack([arcs.disc, arcs.start, arcs.end])[order]


def measure(seed: int, x: np.ndarray, kappa: float) -> Quadratic:
    angle = np.random.default_rng(seed).uniform(0, 2 * np.pi)
    return Quadratic(x[-1], np.array([np.cos(angle), np.sin(angle)]), kappa)


@few
@given(st.integers(0, 10**6), st.integers(1, 60), st.sampled_from([0.005, 0.02, 0.5]))
def test_the_nearest_point_is_uncovered_and_the_best(seed: int, count: int, kappa: float) -> None:
    x, radii = discs(seed, count)
    of = measure(seed, x, kappa)
    found = Arcs(x, radii, BOX).nearest(of, x, radii)
    points = lattice()
    points = points[depth(points, x, radii) <= 0.0]
    if found is None:
        assert len(points) == 0
        return
    value, point = found
    assert BOX.contains(point)
    assert depth(point[None], x, radii)[0] <= 1e-9
    assert of.of(point[None])[0] == pytest.approx(value)
    if len(points):
        assert value <= of.of(points).min() * (1 + 1e-6)


@few
@given(st.integers(0, 10**6), st.integers(2, 60))
def test_a_disc_more_and_all_discs_anew_give_the_same_arcs(seed: int, count: int) -> None:
    x, radii = discs(seed, count)
    arcs = Arcs(x[:1], radii[:1], BOX)
    for k in range(2, count + 1):
        arcs.add(x[:k], radii[:k])
    whole = Arcs(x, radii, BOX)

    def total(each: Arcs) -> np.ndarray:
        return np.bincount(each.disc, each.end - each.start, count)

    assert total(arcs) == pytest.approx(total(whole), abs=1e-5)
    assert len(arcs.sides) == len(whole.sides)


@few
@given(st.integers(0, 10**6), st.integers(1, 60))
def test_discs_without_arcs_stay_without_when_all_grow(seed: int, count: int) -> None:
    x, radii = discs(seed, count)
    alive = Arcs(x, radii, BOX).discs
    grown = radii + 0.02
    assert rows(Arcs(x, grown, BOX, alive)) == pytest.approx(rows(Arcs(x, grown, BOX)))


@few
@given(st.integers(0, 10**6), st.integers(1, 60))
def test_arcs_and_boxes_agree_on_what_is_covered(seed: int, count: int) -> None:
    x, radii = discs(seed, count)
    samples = Samples(2)
    for point, radius in zip(x, radii, strict=True):
        samples.add(point, 1.0 + radius, np.zeros(2))  # L = 1, τ = 1
    slack = 1e-3
    cover = Cover(samples, BOX, 1.0, 1.0, 0.9, slack)
    point, ended = cover.search(measure(seed, x, 0.02), 10**9)
    arcs = Arcs(x, radii, BOX)
    if point is not None:
        assert depth(point[None], x, radii)[0] <= 0.0
        assert arcs.nearest(measure(seed, x, 0.02), x, radii) is not None
    else:
        assert ended
        assert cover.resolution <= slack
        # A rest that only fits the slack is allowed, no other.
        assert depth(lattice(), x, radii).min() >= -slack
        assert cover.bound() >= 1.0 - slack
        assert cover.bound() <= 1.0 + depth(lattice(), x, radii).min() + 1e-12


@few
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(2, 3))
def test_a_cover_that_is_kept_up_to_date_is_as_good_as_a_new_one(
    seed: int, count: int, dimension: int
) -> None:
    rng = np.random.default_rng(seed)
    box = Box.of([(0, 1)] * dimension)
    samples = Samples(dimension)

    def add() -> None:
        samples.add(rng.random(dimension), 1.0 + rng.uniform(0.2, 0.9), np.zeros(dimension))

    add()
    kept = Cover(samples, box, 1.0, 1.0, 0.8, 0.05)
    for k in range(count):
        kept.search(None, 40)
        add()
        kept.update(1.0 - 0.1 * k / count, 0.05)
    kept.search(None, 10**4)
    points = rng.random((2000, dimension))
    away = np.linalg.norm(points[:, None] - samples.x, axis=2)
    assert kept.bound() <= np.min(np.max(samples.f - away, axis=1)) + 1e-12


def test_circles_that_touch_leave_nothing_to_look_for() -> None:
    """Nine discs whose circles meet three and four at a point, in the square that they cover."""
    centres = np.stack(np.meshgrid([0.0, 0.5, 1.0], [0.0, 0.5, 1.0]), axis=-1).reshape(-1, 2)
    radii = np.full(9, 0.25 * np.sqrt(2.0))
    square = Box.of([(0, 1), (0, 1)])
    of = Quadratic(centres[4], np.array([0.6, 0.8]), 0.02)
    found = Arcs(centres, radii, square).nearest(of, centres, radii)
    assert found is None or depth(found[1][None], centres, radii)[0] >= -1e-7
    smaller = radii - 1e-4
    assert Arcs(centres, smaller, square).nearest(of, centres, smaller) is not None
    larger = radii + 1e-4
    assert Arcs(centres, larger, square).nearest(of, centres, larger) is None
