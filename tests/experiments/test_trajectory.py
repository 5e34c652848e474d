"""The sides of Eq. 4 and the premises of Theorem 3, against the definitions taken literally."""

from typing import Any

import numpy as np
import pytest

from bpgrad.training.config import load
from experiments.studies.trajectory import Trajectory, premises, record, sides_of_eq4

L, RHO = 8.0, 0.3


def _path(momentum: float, steps: int = 40, size: int = 5) -> Trajectory:
    """Algorithm 2 on a bumpy function, with the float32 storage of the real thing."""
    rng = np.random.default_rng(3)
    x, v, smallest = rng.normal(size=size), np.zeros(size), np.inf
    found: dict[str, list[Any]] = {"points": [x], "directions": [], "f": [], "eta": []}
    for _ in range(steps):
        f = float(np.sum(x**2) / 4 + np.sum(1 - np.cos(3 * x)))
        gradient = x / 2 + 3 * np.sin(3 * x)
        smallest = min(smallest, f)
        eta, direction = (f - RHO * smallest) / L, gradient / np.linalg.norm(gradient)
        v = momentum * v - eta * direction
        x = x + v
        for key, value in (("points", x), ("directions", direction), ("f", f), ("eta", eta)):
            found[key].append(value)
    return Trajectory(
        [point.astype(np.float32) for point in found["points"]],
        [direction.astype(np.float32) for direction in found["directions"]],
        np.array(found["f"]),
        np.array(found["eta"]),
    )


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_sides_are_those_of_the_definition(momentum: float) -> None:
    path = _path(momentum)
    sides = sides_of_eq4(path, L, RHO)
    points = np.stack(path.points).astype(np.float64)
    for t in range(len(path.objective)):
        bounds = [
            path.objective[i] - L * np.linalg.norm(points[i] - points[t + 1]) for i in range(t + 1)
        ]
        assert sides.lhs[t] == pytest.approx(max(bounds), abs=1e-7)
        assert sides.rhs[t] == pytest.approx(RHO * min(path.objective[: t + 1]), rel=1e-12)
        step = path.step_size[t] / np.linalg.norm(points[t])
        assert sides.relative_step[t] == pytest.approx(step, rel=1e-6)
    if momentum == 0.0:  # the term i = t alone is an equality, hence the paper's half claim
        assert np.all(sides.lhs >= sides.rhs - 1e-6)
    else:
        assert not np.all(sides.lhs >= sides.rhs - 1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_premises_are_those_of_the_definition(momentum: float) -> None:
    path = _path(momentum)
    found = premises(path, momentum)
    points, directions = (
        np.stack(each).astype(np.float64) for each in (path.points, path.directions)
    )
    by_t13, by_t15 = [], []
    for t in range(1, len(path.objective)):
        by_t13.append([(points[i] - points[t]) @ directions[t] >= 0 for i in range(t)])
        by_t15.append([directions[i] @ directions[t] >= 0 for i in range(t)])
    for pairs, whole, by_t in (
        (found.pairs13, found.all13, by_t13),
        (found.pairs15, found.all15, by_t15),
    ):
        assert pairs == np.mean([holds for each in by_t for holds in each])
        assert whole == np.mean([all(each) for each in by_t])
        assert 0 < pairs < 1


def test_a_recorded_run_is_the_run_itself() -> None:
    overrides = ["task=digits", "solver=bpgrad", "epochs=1", "scale.train_examples=320"]
    path = record(load(overrides))
    assert len(path.points) == 11
    assert len(path.directions) == len(path.objective) == 10
    assert {each.dtype for each in (*path.points, *path.directions)} == {np.dtype(np.float32)}
    velocity = np.zeros_like(path.points[0])
    for t in range(10):
        velocity = 0.9 * velocity - path.step_size[t] * path.directions[t]
        np.testing.assert_allclose(path.points[t + 1] - path.points[t], velocity, atol=1e-5)
        # Rounding each coordinate to float32 moves the norm by half an eps at most.
        norm = np.linalg.norm(path.directions[t].astype(np.float64))
        assert norm == pytest.approx(1, rel=float(np.finfo(np.float32).eps))
