"""Whether balls cover a box, by subdivision: what any method's samples certify when L is known."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Boxes of this part of the sides that are still undecided count as covered.
FINEST = 2.0**-12


def covers(x: Array, radii: Array, bounds: Array) -> bool:
    """Whether the closed balls around x (n, D) with `radii` (n,) cover the box `bounds` (D, 2).

    False is certain: a point outside all balls was found. True is certain but for boxes of
    `FINEST` of the sides, whose centres all lie in a ball: in favour of the method that is judged.
    """
    inside = radii > 0
    x, radii = x[inside], radii[inside]
    half = np.diff(bounds)[:, 0] / 2
    stack = [(bounds.mean(axis=1), half, np.arange(len(x)))]
    while stack:
        centre, sides, near = stack.pop()
        away = np.abs(x[near] - centre)
        distances = np.linalg.norm(away, axis=1)
        if not np.any(distances <= radii[near]):
            return False
        if np.any(np.linalg.norm(away + sides, axis=1) <= radii[near]):
            continue
        if np.all(sides <= FINEST * half):
            continue
        axis = int((sides / np.maximum(half, 1e-300)).argmax())
        sides = sides.copy()
        sides[axis] /= 2
        for sign in (-1, 1):
            middle = centre.copy()
            middle[axis] += sign * sides[axis]
            gap = np.maximum(np.abs(x[near] - middle) - sides, 0.0)
            stack.append((middle, sides, near[np.linalg.norm(gap, axis=1) <= radii[near]]))
    return True


def first_certified(x: Array, f: Array, lipschitz: float, bounds: Array, eps: float) -> int | None:
    """How many of the samples, in order, certify a gap of at most ε; None if all do not.

    The first n do if the balls of radius (f_i − (m_n − ε))/L around them cover the box, m_n being
    the least of their values. Numbers on a grid of ratio 1.05 are tried, by bisection: coverage is
    never lost as n grows.
    """
    grid = np.unique(np.ceil(1.05 ** np.arange(0, np.log(len(f)) / np.log(1.05))).astype(int))
    sizes = np.append(grid[grid < len(f)], len(f))

    def certified(n: int) -> bool:
        return covers(x[:n], (f[:n] - (f[:n].min() - eps)) / lipschitz, bounds)

    if not certified(len(f)):
        return None
    low, high = -1, len(sizes) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if certified(sizes[middle]) else (middle, high)
    return int(sizes[high])
