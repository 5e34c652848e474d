"""The samples of a run: points, values, the smallest value, and the radii of the balls."""

from dataclasses import dataclass

import numpy as np

from bpgrad.branch_prune.problem import Array


class Samples:
    """Points x_1 … x_n with values f ≥ 0 (offset included) and gradients, in growing arrays."""

    def __init__(self, dim: int) -> None:
        self.n = 0
        self.best = -1
        self._x = np.empty((64, dim))
        self._f = np.empty(64)
        self._g = np.empty((64, dim))

    def add(self, x: Array, f: float, g: Array) -> None:
        """Append a sample."""
        if self.n == len(self._f):
            self._x = np.concatenate([self._x, np.empty_like(self._x)])
            self._f = np.concatenate([self._f, np.empty_like(self._f)])
            self._g = np.concatenate([self._g, np.empty_like(self._g)])
        self._x[self.n], self._f[self.n], self._g[self.n] = x, f, g
        if self.best < 0 or f < self._f[self.best]:
            self.best = self.n
        self.n += 1

    @property
    def x(self) -> Array:
        """The points, (n, D)."""
        return self._x[: self.n]

    @property
    def f(self) -> Array:
        """The values, (n,)."""
        return self._f[: self.n]

    @property
    def g(self) -> Array:
        """The gradients, (n, D)."""
        return self._g[: self.n]

    @property
    def f_min(self) -> float:
        """m, the smallest value."""
        return float(self._f[self.best])

    def distances(self, x: Array, count: int | None = None) -> Array:
        """Distances of x from the first ``count`` points (all of them if None)."""
        points = self._x[: self.n if count is None else count]
        square = (points[:, 0] - x[0]) ** 2
        for k in range(1, len(x)):
            square += (points[:, k] - x[k]) ** 2
        return np.asarray(np.sqrt(square, out=square))


@dataclass(frozen=True)
class History:
    """What happened, one entry a sample; T samples in D dimensions, values in the user's units.

    Attributes:
        x: the points in the order in which they were drawn, (T, D).
        f: their values, (T,).
        g: their gradients, (T, D).
        f_min: m_t, the smallest value among the first t samples, (T,).
        lower_bound: the certified lower bound after t samples, (T,).
        rho: ρ with which sample t was looked for, (T,); 0 for the first.
        lipschitz: L at that time, (T,); it varies only if it is estimated.
        how: how the point was found, (T,): ``"first"``, ``"step"`` (Eq. 12's own point, which is
            then the exact solution of Eq. 5), ``"ray"`` (farther along the ray) and ``"search"``
            (off the ray), which solve Eq. 5 to the tolerance, ``"candidate"`` (outside all balls,
            but the search for Eq. 5's solution was given up), ``"random"``, ``"box"`` (where least
            was proved, and not outside all balls).
        coverings: one row each time X was found covered, (K, 4): number of samples, ρ, m, and the
            lower bound which that certifies.
        offset: what was added to f.
    """

    x: Array
    f: Array
    g: Array
    f_min: Array
    lower_bound: Array
    rho: Array
    lipschitz: Array
    how: np.ndarray
    coverings: Array
    offset: float

    def radii(self, t: int, rho: float | None = None) -> Array:
        """Radii (f(x_i) − ρ m_t)/L of the balls around the first t samples (Eq. 6), (t,).

        Args:
            t: number of samples, 1 to T.
            rho: ρ; None for the one with which the next sample was looked for.
        """
        if not 1 <= t <= len(self.f):
            raise ValueError(f"t must be 1 to {len(self.f)}, not {t}")
        at = min(t, len(self.rho) - 1)
        rho = float(self.rho[at]) if rho is None else rho
        m = self.f_min[t - 1] + self.offset
        return np.asarray((self.f[:t] + self.offset - rho * m) / self.lipschitz[at])
