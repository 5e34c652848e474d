r"""Test functions of global optimisation with their minima and proven Lipschitz constants.

Every L below is an upper bound of ‖∇f‖₂ on the box, so that f is L-Lipschitz there (boxes are
convex, and the functions are smooth but for kinks, across which a Lipschitz bound on both sides
carries over). Six are the supremum itself; Hölder table's, Ackley's and Branin's lie above it. Let
b_k be the largest |x_k| on the box.

- **Sphere** Σ(x_k − π/16)², with the box and the centre of Malherbe and Vayatis (2017), so that no
  minimiser is the centre of the box: ∇f = 2(x − π/16), whose norm is greatest at x = (1, …, 1):
  L = 2√D (1 − π/16).
- **Linear slope** Σ 10^{(k−1)/D} (5 − x_k): the gradient is constant, L = (Σ 10^{2(k−1)/D})^{1/2}.
- **Rosenbrock** Σ_{k<D} 100(x_{k+1} − x_k²)² + (1 − x_k)² on |x_k| ≤ b: with e_k = x_{k+1} − x_k²,
  ∂_k f = 200 e_{k−1} − 400 x_k e_k − 2(1 − x_k) (terms with e_0 or e_D are absent). There are
  |e_k| ≤ b + b², |x_k e_k| ≤ b(b + b²) and |1 − x_k| ≤ 1 + b. At x = (−b, …, −b) all three hold
  with equality and the terms have one sign: every |∂_k f| is greatest there,
  L = ‖∇f(−b, …, −b)‖.
- **Deb N.1** −(1/D) Σ sin⁶(5πx_k): |∂_k f| = (30π/D) |sin⁵(5πx_k) cos(5πx_k)|, greatest where
  sin² = 5/6, in all coordinates at once: L = (30π/√D) (5/6)^{5/2} (1/6)^{1/2}.
- **Hölder table** −|u| e^a with u = sin x_1 cos x_2, a = |1 − ‖x‖/π|: ‖∇a‖ = 1/π, and
  ‖∇|u|‖² = s + t − 2st with s = sin² x_1, t = cos² x_2, u² = st. By Cauchy and Schwarz
  ‖∇f‖ ≤ e^a (‖∇|u|‖ + |u|/π) ≤ e^a (1 + π⁻²)^{1/2} (s + t − st)^{1/2}, and s + t − st ≤ 1:
  L = e^A (1 + π⁻²)^{1/2} with A = 10√2/π − 1, the greatest a on [−10, 10]².
- **Ackley** 20 + e − 20 exp(−0.2 ‖x‖/√D) − exp(c), c the mean of cos 2πx_k: the first term's
  gradient is at most 4/√D. The second's is (2π/D) e^c ‖(sin 2πx_k)_k‖, and by Jensen the mean of
  sin² is at most 1 − c²: at most (2π/√D) e^c (1 − c²)^{1/2}, greatest at c = φ = (√5 − 1)/2, where
  1 − c² = c: L = (4 + 2π e^φ √φ)/√D.
- **Branin** h² + 10(1 − t) cos x_1 + 10 with h = x_2 − βx_1² + (5/π)x_1 − 6, β = 5.1/(4π²),
  t = 1/(8π): ∂_1 f = 2h(5/π − 2βx_1) − 10(1 − t) sin x_1, ∂_2 f = 2h. On [−5, 10] × [0, 15] the
  concave parabola h − x_2 is least at x_1 = −5 and at most its vertex 25/(4βπ²) − 6, so that
  |h| ≤ H = 25β + 25/π + 6, and |5/π − 2βx_1| ≤ 5/π + 10β:
  L = ((2H(5/π + 10β) + 10(1 − t))² + 4H²)^{1/2}.
- **Six-hump camel** (4 − 2.1x² + x⁴/3)x² + xy + (4y² − 4)y² on [−3, 3] × [−2, 2]:
  |∂_x f| ≤ |8x − 8.4x³ + 2x⁵| + |y| and |∂_y f| ≤ |x| + |16y³ − 8y|. Both polynomials are greatest
  at the ends (their interior extrema are below 8 and 3), where all terms are positive:
  L = ‖∇f(3, 2)‖.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import e, exp, pi, sqrt

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

GOLDEN = (sqrt(5) - 1) / 2
#: Half a side of Rosenbrock's box.
ROSENBROCK = 2.048


@dataclass(frozen=True)
class TestFunction:
    """A function on a box with what is known of it.

    Attributes:
        name: as in the literature.
        values: f at each of n points: (n, D) → (n,).
        gradient: ∇f (where there is a kink, that of one side): (D,) → (D,).
        bounds: D pairs (lower, upper).
        lipschitz: L ≥ sup ‖∇f‖ on the box, proven in this module's docstring.
        minimisers: global minimisers, (k, D): all of them, or some if they are very many.
        minimum: f*; a closed form, or the value at the minimisers to double precision.
        nonnegative: whether f ≥ 0 is plain from its formula.
    """

    __test__ = False  # pytest takes the name for a test case

    name: str
    values: Callable[[Array], Array]
    gradient: Callable[[Array], Array]
    bounds: tuple[tuple[float, float], ...]
    lipschitz: float
    minimisers: Array
    minimum: float
    nonnegative: bool

    def __call__(self, x: Array) -> float:
        """The value at one point, (D,)."""
        return float(self.values(np.asarray(x)[None])[0])

    @property
    def dim(self) -> int:
        """D."""
        return len(self.bounds)

    @property
    def label(self) -> str:
        """Name and dimension."""
        return f"{self.name}, D = {self.dim}"

    @property
    def centre(self) -> Array:
        """The centre of the box, (D,)."""
        return np.mean(self.bounds, axis=1)

    def shift(self, value: float) -> float:
        """L · (half the diagonal) − ``value``, the value at the centre: f + shift ≥ 0.

        No value is below f(centre) − L · (half the diagonal); the minimum is not used.
        """
        return self.lipschitz * float(np.linalg.norm(np.diff(self.bounds))) / 2 - value


def sphere(dim: int) -> TestFunction:
    """Σ(x_k − π/16)² on [0, 1]^D."""
    return TestFunction(
        "Sphere",
        lambda x: np.sum((x - pi / 16) ** 2, axis=1),
        lambda x: 2 * (x - pi / 16),
        ((0.0, 1.0),) * dim,
        2 * sqrt(dim) * (1 - pi / 16),
        np.full((1, dim), pi / 16),
        0.0,
        nonnegative=True,
    )


def linear_slope(dim: int) -> TestFunction:
    """Σ 10^{(k−1)/D} (5 − x_k) on [−5, 5]^D; f ≥ 0 is plain from the box."""
    weights = 10.0 ** (np.arange(dim) / dim)
    return TestFunction(
        "Linear slope",
        lambda x: (5 - x) @ weights,
        lambda x: -weights,
        ((-5.0, 5.0),) * dim,
        float(np.linalg.norm(weights)),
        np.full((1, dim), 5.0),
        0.0,
        nonnegative=True,
    )


def rosenbrock(dim: int) -> TestFunction:
    """Σ 100(x_{k+1} − x_k²)² + (1 − x_k)² on [−2.048, 2.048]^D, D ≥ 2."""

    def gradient(x: Array) -> Array:
        g = np.zeros_like(x)
        e = x[1:] - x[:-1] ** 2
        g[1:] += 200 * e
        g[:-1] += -400 * x[:-1] * e - 2 * (1 - x[:-1])
        return g

    return TestFunction(
        "Rosenbrock",
        lambda x: np.sum(100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2, axis=1),
        gradient,
        ((-ROSENBROCK, ROSENBROCK),) * dim,
        float(np.linalg.norm(gradient(np.full(dim, -ROSENBROCK)))),
        np.ones((1, dim)),
        0.0,
        nonnegative=True,
    )


def deb(dim: int) -> TestFunction:
    """−(1/D) Σ sin⁶(5πx_k) on [−5, 5]^D: 50^D equal minima."""
    w = 5 * pi
    return TestFunction(
        "Deb N.1",
        lambda x: -np.mean(np.sin(w * x) ** 6, axis=1),
        lambda x: -6 * w / len(x) * np.sin(w * x) ** 5 * np.cos(w * x),
        ((-5.0, 5.0),) * dim,
        6 * w / sqrt(dim) * (5 / 6) ** 2.5 * (1 / 6) ** 0.5,
        np.full((1, dim), 0.1),
        -1.0,
        nonnegative=False,
    )


def hoelder_table() -> TestFunction:
    """−|sin x_1 cos x_2| exp |1 − ‖x‖/π| on [−10, 10]²."""

    def values(x: Array) -> Array:
        away = np.abs(1 - np.linalg.norm(x, axis=1) / pi)
        return -np.abs(np.sin(x[:, 0]) * np.cos(x[:, 1])) * np.exp(away)

    def gradient(x: Array) -> Array:
        r = float(np.linalg.norm(x))
        u, v = np.sin(x[0]) * np.cos(x[1]), 1 - r / pi
        inner = np.array([np.cos(x[0]) * np.cos(x[1]), -np.sin(x[0]) * np.sin(x[1])])
        outer = -x / (r * pi) if r > 0 else np.zeros(2)
        return -exp(abs(v)) * (np.sign(u) * inner + abs(u) * np.sign(v) * outer)

    x, y = 8.055023472141116, 9.664590028909654
    return TestFunction(
        "Hölder table",
        values,
        gradient,
        ((-10.0, 10.0),) * 2,
        exp(10 * sqrt(2) / pi - 1) * sqrt(1 + pi**-2),
        np.array([[x, y], [x, -y], [-x, y], [-x, -y]]),
        -19.208502567886754,
        nonnegative=False,
    )


def ackley(dim: int) -> TestFunction:
    """20 + e − 20 exp(−0.2 ‖x‖/√D) − exp(mean cos 2πx_k) on [−15, 30]^D; both terms cancel at 0."""

    def values(x: Array) -> Array:
        away = np.exp(-0.2 * np.linalg.norm(x, axis=1) / sqrt(dim))
        return 20 + e - 20 * away - np.exp(np.mean(np.cos(2 * pi * x), axis=1))

    def gradient(x: Array) -> Array:
        r = float(np.linalg.norm(x))
        first = 4 * exp(-0.2 * r / sqrt(dim)) / sqrt(dim) * x / r if r > 0 else np.zeros(dim)
        waves = 2 * pi / dim * np.sin(2 * pi * x) * np.exp(np.mean(np.cos(2 * pi * x)))
        return np.asarray(first + waves)

    return TestFunction(
        "Ackley",
        values,
        gradient,
        ((-15.0, 30.0),) * dim,
        (4 + 2 * pi * exp(GOLDEN) * sqrt(GOLDEN)) / sqrt(dim),
        np.zeros((1, dim)),
        0.0,
        nonnegative=True,
    )


def branin() -> TestFunction:
    """(x_2 − βx_1² + (5/π)x_1 − 6)² + 10(1 − t) cos x_1 + 10 on [−5, 10] × [0, 15]."""
    beta, slope, t = 5.1 / (4 * pi**2), 5 / pi, 1 / (8 * pi)
    high = 25 * beta + 5 * slope + 6

    def values(x: Array) -> Array:
        h = x[:, 1] - beta * x[:, 0] ** 2 + slope * x[:, 0] - 6
        return h**2 + 10 * (1 - t) * np.cos(x[:, 0]) + 10

    def gradient(x: Array) -> Array:
        h = x[1] - beta * x[0] ** 2 + slope * x[0] - 6
        return np.array([2 * h * (slope - 2 * beta * x[0]) - 10 * (1 - t) * np.sin(x[0]), 2 * h])

    # A minimum has h = 0 and cos x_1 = −1.
    firsts = np.array([-pi, pi, 3 * pi])
    seconds = beta * firsts**2 - slope * firsts + 6
    return TestFunction(
        "Branin",
        values,
        gradient,
        ((-5.0, 10.0), (0.0, 15.0)),
        sqrt((2 * high * (slope + 10 * beta) + 10 * (1 - t)) ** 2 + 4 * high**2),
        np.stack([firsts, seconds], axis=1),
        10 * t,
        nonnegative=True,
    )


def camel() -> TestFunction:
    """(4 − 2.1x² + x⁴/3)x² + xy + (4y² − 4)y² on [−3, 3] × [−2, 2]."""

    def values(x: Array) -> Array:
        a, b = x.T
        return (4 - 2.1 * a**2 + a**4 / 3) * a**2 + a * b + (4 * b**2 - 4) * b**2

    def gradient(x: Array) -> Array:
        a, b = x
        return np.array([8 * a - 8.4 * a**3 + 2 * a**5 + b, a - 8 * b + 16 * b**3])

    best = np.array([0.08984201368301331, -0.7126564032704135])
    return TestFunction(
        "Six-hump camel",
        values,
        gradient,
        ((-3.0, 3.0), (-2.0, 2.0)),
        float(np.linalg.norm(gradient(np.array([3.0, 2.0])))),
        np.array([best, -best]),
        -1.0316284534898774,
        nonnegative=False,
    )


def all_functions() -> tuple[TestFunction, ...]:
    """The functions of the comparison, in one to five dimensions."""
    return (
        *(sphere(dim) for dim in (1, 2, 4)),
        *(linear_slope(dim) for dim in (2, 4)),
        *(rosenbrock(dim) for dim in (2, 3)),
        *(deb(dim) for dim in (1, 2, 5)),
        hoelder_table(),
        *(ackley(dim) for dim in (1, 2, 3)),
        branin(),
        camel(),
    )
