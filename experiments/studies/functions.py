r"""Random functions with a proven Lipschitz constant and a known minimum, and counterexamples.

All are L-Lipschitz with values of at least f* ≥ 0 on the whole of R^D, since Eq. 12 knows no box,
and have a minimiser in theirs. Half of the random ones have f* = 0.

- **Cones** min_k (c_k + s_k ‖x − p_k‖): each cone is s_k-Lipschitz, and a minimum of functions that
  are L-Lipschitz is: L = max s_k. No value is below min c_k, and f(p_k) ≤ c_k: f* = min c_k at the
  apex of the lowest cone.
- **Max-affine** f* + max_k ⟨a_k, x − x*⟩: L = max ‖a_k‖. Zero is a convex combination of the a_k,
  so that no value is below f*, and at x* it is met.
- **Features** f* + Σ_k w_k (1 − cos⟨ω_k, x − x*⟩) with w_k > 0: ‖∇f‖ = ‖Σ w_k ω_k sin⟨…⟩‖ is at
  most L = Σ w_k ‖ω_k‖, a bound that is met only where all sines are ±1.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: How many functions of each family: (dimension, number).
COUNTS = ((1, 40), (2, 30), (3, 10))


@dataclass(frozen=True)
class Function:
    """A function on a box with its Lipschitz constant and minimum.

    Attributes:
        name: family, dimension and number.
        values: f at n points: (n, D) → (n,).
        gradient: a subgradient-like direction, that of one of the pieces that meet: (D,) → (D,).
        bounds: D pairs (lower, upper).
        lipschitz: L.
        minimiser: x*, (D,).
        minimum: f*.
        start: x_1 of the counterexamples; None to draw it.
    """

    name: str
    values: Callable[[Array], Array]
    gradient: Callable[[Array], Array]
    bounds: tuple[tuple[float, float], ...]
    lipschitz: float
    minimiser: Array
    minimum: float
    start: tuple[float, ...] | None = None

    def __call__(self, x: Array) -> float:
        """The value at one point, (D,)."""
        return float(self.values(np.asarray(x, dtype=np.float64)[None])[0])

    @property
    def dim(self) -> int:
        """D."""
        return len(self.bounds)


def random_functions(seed: int = 0) -> Iterator[Function]:
    """The functions of the study, always the same for a seed."""
    for family in (cones, max_affine, features):
        for dim, count in COUNTS:
            for k in range(count):
                rng = np.random.default_rng((seed, FAMILIES.index(family), dim, k))
                positive = k % 2 == 1
                f_star = float(rng.uniform(0.1, 0.5)) if positive else 0.0
                name = f"{family.__name__}, D = {dim}, no. {k}"
                yield family(dim, f_star, rng, f"{name} of seed {seed}" if seed else name)


def cones(dim: int, f_star: float, rng: np.random.Generator, name: str = "cones") -> Function:
    """The minimum of two to six cones."""
    count = int(rng.integers(2, 7))
    apexes = rng.uniform(0.05, 0.95, (count, dim))
    slopes = rng.uniform(0.3, 1.0, count)
    heights = f_star + rng.uniform(0.0, 0.3, count)
    heights[0] = f_star

    def each(x: Array) -> Array:
        away = np.linalg.norm(x[:, None, :] - apexes, axis=2)
        return heights + slopes * away

    def gradient(x: Array) -> Array:
        k = int(np.argmin(each(x[None])[0]))
        step = x - apexes[k]
        norm = float(np.linalg.norm(step))
        return np.asarray(slopes[k] * step / norm if norm > 0.0 else np.zeros(dim))

    return Function(
        name,
        lambda x: each(x).min(axis=1),
        gradient,
        ((0.0, 1.0),) * dim,
        float(slopes.max()),
        apexes[0],
        f_star,
    )


def max_affine(
    dim: int, f_star: float, rng: np.random.Generator, name: str = "max_affine"
) -> Function:
    """The maximum of D + 1 to D + 5 affine functions."""
    count = dim + int(rng.integers(0, 5))
    slopes = rng.standard_normal((count, dim))
    slopes *= rng.uniform(0.2, 1.0, (count, 1)) / np.linalg.norm(slopes, axis=1, keepdims=True)
    # The last one makes zero a convex combination of all, since its weight is positive too.
    last = -rng.dirichlet(np.ones(count)) @ slopes
    slopes = np.concatenate([slopes, last[None]])
    best = rng.uniform(0.1, 0.9, dim)

    def gradient(x: Array) -> Array:
        return np.asarray(slopes[int(np.argmax(slopes @ (x - best)))])

    return Function(
        name,
        lambda x: f_star + np.maximum(((x - best) @ slopes.T).max(axis=1), 0.0),
        gradient,
        ((0.0, 1.0),) * dim,
        float(np.linalg.norm(slopes, axis=1).max()),
        best,
        f_star,
    )


def features(dim: int, f_star: float, rng: np.random.Generator, name: str = "features") -> Function:
    """A sum of three to six waves with random directions."""
    count = int(rng.integers(3, 7))
    waves = rng.standard_normal((count, dim)) * rng.uniform(2.0, 8.0, (count, 1))
    weights = rng.uniform(0.2, 1.0, count)
    weights /= float(weights @ np.linalg.norm(waves, axis=1))  # L = 1 but for rounding
    best = rng.uniform(0.1, 0.9, dim)

    return Function(
        name,
        lambda x: f_star + (1.0 - np.cos((x - best) @ waves.T)) @ weights,
        lambda x: np.asarray((weights * np.sin(waves @ (x - best))) @ waves),
        ((0.0, 1.0),) * dim,
        float(weights @ np.linalg.norm(waves, axis=1)) * (1.0 + 1e-12),
        best,
        f_star,
    )


FAMILIES = [cones, max_affine, features]


# The counterexamples of docs/corrections.md.


def late_raise() -> Function:
    """|x − 0.9| + 0.05: the printed loop claims a gap after two samples that is not one."""
    return Function(
        "late raise",
        lambda x: np.abs(x[:, 0] - 0.9) + 0.05,
        lambda x: np.sign(x - 0.9),
        ((0.0, 1.0),),
        1.0,
        np.array([0.9]),
        0.05,
        start=(0.0,),
    )


def one_ball(slope: float = 0.1) -> Function:
    """1 + x/10 (1 for x < 0) with L = ½: one ball covers [0, 1], where Eq. 9 allows half a sample.

    Args:
        slope: 0 for the constant function of the reference.
    """
    return Function(
        "one ball",
        lambda x: 1.0 + slope * np.maximum(x[:, 0], 0.0),
        lambda x: np.asarray(slope * (x >= 0.0), dtype=np.float64),
        ((0.0, 1.0),),
        0.5,
        np.array([0.0]),
        1.0,
    )


def right_angle() -> Function:
    """0.7 + 0.5(v² − 0.4v³) + 0.05(1 − v)y, v = 2u + 1: Eq. 12 turns by 90° and leaves Eq. 4.

    On the box [−0.5, 0] × [−0.4, 0] ‖∇f‖ ≤ 0.873, so L = 1 will do. Beyond it a point has the value
    of the nearest point of the box, which keeps L.
    """
    lower, upper = np.array([-0.5, -0.4]), np.array([0.0, 0.0])

    def values(x: Array) -> Array:
        u, y = np.clip(x, lower, upper).T
        v = 2.0 * u + 1.0
        return np.asarray(0.7 + 0.5 * (v**2 - 0.4 * v**3) + 0.05 * (1.0 - v) * y)

    def gradient(x: Array) -> Array:
        u, y = np.clip(x, lower, upper)
        v = 2.0 * u + 1.0
        inside = (x >= lower) & (x <= upper)
        return inside * np.array([2.0 * v - 1.2 * v**2 - 0.1 * y, 0.05 * (1.0 - v)])

    # f is least where y = −0.4 and v² − 0.4v³ + 0.04v is; its derivative 2v − 1.2v² + 0.04 is
    # positive on [0, 1].
    best = np.array([-0.5, -0.4])
    return Function(
        "right angle",
        values,
        gradient,
        ((-0.5, 0.0), (-0.4, 0.0)),
        1.0,
        best,
        0.7 - 0.05 * 0.4,
        start=(0.0, 0.0),
    )
