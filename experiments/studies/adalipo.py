"""LIPO and AdaLIPO (Malherbe and Vayatis, 2017), for minimisation."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

#: Uniform candidates in the first and the largest batch, and in all before one is taken as it is.
FIRST_BATCH, LARGEST_BATCH = 4, 2048
MOST_CANDIDATES = 2**17
#: Samples of the largest values that a batch is held against first; they rule out most. What is
#: left is held against four times as many, and so on.
HIGHEST = 8


@dataclass(frozen=True)
class Sampled:
    """The samples in order: ``x`` (T, D) and ``f`` (T,)."""

    x: Array
    f: Array


def minimize_adalipo(
    fun: Callable[[Array], float],
    bounds: ArrayLike,
    *,
    max_evals: int,
    seed: int,
    lipschitz: float | None = None,
    explore: float = 0.1,
    target: float = -math.inf,
) -> Sampled:
    """Sample uniformly among the points that may still be minimisers (AdaLIPO, or LIPO).

    With probability p = ``explore`` a sample is uniform on the box. Otherwise it is uniform on the
    potential minimisers, the x with max_i {f_i − k̂ ‖x − x_i‖} ≤ min_i f_i, by rejection. k̂ is the
    smallest (1 + α)^i, i an integer, α = 0.01/D, that is no less than any slope between two
    samples: the published rule, grid and p. If none of `MOST_CANDIDATES` candidates is left over,
    the last is taken, so that this sample is uniform on the box.

    Args:
        fun: f, of an array (D,).
        bounds: (D, 2).
        max_evals: number of evaluations.
        seed: of all draws.
        lipschitz: a known L. Then it is LIPO: no exploration, k̂ = L.
        explore: p.
        target: stop as soon as f ≤ target.
    """
    box = np.asarray(bounds, dtype=np.float64)
    rng = np.random.default_rng(seed)
    low, sides = box[:, 0], box[:, 1] - box[:, 0]
    dim = len(low)
    grid = math.log1p(0.01 / dim)
    x, f = np.empty((max_evals, dim)), np.empty(max_evals)
    k, slope = lipschitz or 0.0, 0.0
    n = 0
    while n < max_evals:
        uniform = n == 0 or (lipschitz is None and (k == 0.0 or rng.random() < explore))
        if uniform:
            x[n] = low + sides * rng.random(dim)
        else:
            x[n] = _potential_minimiser(rng, low, sides, x[:n], f[:n], k)
        f[n] = fun(x[n])
        if lipschitz is None and n > 0:
            distances = np.linalg.norm(x[:n] - x[n], axis=1)
            apart = distances > 0
            rises = np.abs(f[:n] - f[n])[apart] / distances[apart]
            if len(rises) and rises.max() > slope:
                slope = float(rises.max())
                k = math.exp(grid * math.ceil(math.log(slope) / grid))
        n += 1
        if f[n - 1] <= target:
            break
    return Sampled(x[:n], f[:n])


def _potential_minimiser(
    rng: np.random.Generator, low: Array, sides: Array, x: Array, f: Array, k: float
) -> Array:
    best = float(f.min())
    order = np.argsort(-f)
    x, f = x[order], f[order]
    batch, drawn = FIRST_BATCH, 0
    while drawn < MOST_CANDIDATES:
        candidates = low + sides * rng.random((batch, len(low)))
        left, start, end = candidates, 0, HIGHEST
        while start < len(f) and len(left):
            left = left[_bounds(left, x[start:end], f[start:end], k) <= best]
            start, end = end, 4 * end
        if len(left):
            return np.asarray(left[0])
        drawn += batch
        batch = min(2 * batch, LARGEST_BATCH)
    return np.asarray(candidates[-1])


def _bounds(points: Array, x: Array, f: Array, k: float) -> Array:
    """max_i {f_i − k ‖x_i − point‖} at each point, (n,)."""
    square = np.zeros((len(points), len(x)))
    for a, b in zip(points.T, x.T, strict=True):
        square += (a[:, None] - b) ** 2
    return np.asarray((f - k * np.sqrt(square)).max(axis=1))
