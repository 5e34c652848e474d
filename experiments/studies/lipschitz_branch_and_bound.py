"""Plain Lipschitz branch and bound, over boxes with f(centre) − L · (half the diagonal)."""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Bounded:
    """The best value, the certified lower bound, and the number of evaluations."""

    fun: float
    lower_bound: float
    nfev: int


def minimize_branch_and_bound(
    fun: Callable[[Array], float],
    bounds: ArrayLike,
    lipschitz: float,
    *,
    eps: float,
    max_evals: int,
) -> Bounded:
    """Divide the box with the lowest bound in three, until the gap is at most ε.

    The middle third keeps its centre, and with it the value: a division costs two evaluations. A
    box's bound is the larger of f(centre) − L · (half its diagonal) and the bound of the box around
    it. The longest side is divided.

    Args:
        fun: f, L-Lipschitz, of an array (D,).
        bounds: (D, 2).
        lipschitz: L.
        eps: ε.
        max_evals: limit of evaluations.
    """
    box = np.asarray(bounds, dtype=np.float64)
    centre, half = box.mean(axis=1), np.diff(box)[:, 0] / 2
    best = value = fun(centre)
    nfev = count = 1
    heap = [(value - lipschitz * float(np.linalg.norm(half)), 0, value, centre, half)]
    while True:
        bound = heap[0][0]
        if best - bound <= eps or nfev + 2 > max_evals:
            return Bounded(best, bound, nfev)
        bound, _, value, centre, half = heapq.heappop(heap)
        axis = int(half.argmax())
        third = half.copy()
        third[axis] /= 3
        reach = lipschitz * math.sqrt(float(third @ third))
        for side in (-1, 0, 1):
            point, at = centre, value
            if side:
                point = centre.copy()
                point[axis] += 2 * side * third[axis]
                at = fun(point)
                nfev += 1
                best = min(best, at)
            count += 1
            heapq.heappush(heap, (max(bound, at - reach), count, at, point, third))
