"""Eq. 5's measure of a point, and its minima on spheres and segments."""

import math
from dataclasses import dataclass

import numpy as np

from bpgrad.branch_prune.problem import Array, Box

#: Angles at which the measure is computed on a circle, three times over, each time nearer to the
#: least; the measure there is then within some 1e-8 of its minimum, relative to the radius squared.
ANGLES = 33


@dataclass(frozen=True)
class Quadratic:
    """Twice the distortion of Eq. 5 as a function of x, the best η for each x put in.

    Minimising ½‖x − (x_t − ηd)‖² + γη² over η ≥ 0 leaves ½ (q² + κp²), where p is how far x lies
    ahead of x_t along −d, q its distance from that line, and κ = 2γ/(1 + 2γ) ahead, 1 behind. It
    is a convex function whose level sets are long ahead of x_t: the smaller γ, the longer.

    Attributes:
        origin: x_t, (D,).
        direction: d, a unit vector, (D,).
        kappa: κ in [0, 1).
    """

    origin: Array
    direction: Array
    kappa: float

    def of(self, x: Array) -> Array:
        """The measure of n points, (n, D)."""
        offsets = self.origin - x
        p = offsets @ self.direction
        square = np.einsum("ij,ij->i", offsets, offsets)
        return np.asarray(np.maximum(square - p**2, 0.0) + self._along(p))

    def _along(self, p: Array) -> Array:
        return np.where(p > 0.0, self.kappa, 1.0) * p**2

    def at_least(self, centres: Array, half: Array) -> Array:
        """Lower bounds on boxes of half the sides ``half``, (D,), around n centres, (n, D).

        The measure is convex: it lies above its tangent plane at the centre.
        """
        offsets = self.origin - centres
        p = offsets @ self.direction
        part = np.where(p > 0.0, self.kappa, 1.0) * p
        # Half the gradient, with the sign turned.
        slope = offsets + (part - p)[:, None] * self.direction
        return np.asarray(self.of(centres) - 2.0 * np.abs(slope) @ half)

    def around(self, value: float, box: Box) -> Box:
        """The part of a box in which the measure can be below a value."""
        q = math.sqrt(value)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            long = np.sqrt(value * (1.0 + self.direction**2 * (np.divide(1.0, self.kappa) - 1.0)))
        long = np.where(self.direction == 0.0, q, long)
        lower = np.where(self.direction > 0.0, long, q)
        upper = np.where(self.direction < 0.0, long, q)
        return Box(
            np.maximum(box.lower, self.origin - lower), np.minimum(box.upper, self.origin + upper)
        )

    def tips(self, centres: Array, radii: Array, most: float = np.inf) -> tuple[Array, np.ndarray]:
        """Where the measure is least near the ray on spheres that the ray leaves.

        Such a point lies in the plane of the ray and the centre, on the far side of the ray from
        the centre, and farther ahead than the centre: the measure must rise away from it.

        Args:
            centres: (n, D).
            radii: (n,).
            most: points where the measure is surely not less than this may be left out.

        Returns:
            The points, (k, D), and the numbers of their spheres, (k,).
        """
        offsets = self.origin - centres
        ahead = offsets @ self.direction  # the centre's p
        across = ahead[:, None] * self.direction - offsets  # from the ray to the centre
        q = np.sqrt(np.einsum("ij,ij->i", across, across))
        (of,) = np.nonzero((q < radii) & (self.kappa * np.maximum(ahead, 0.0) ** 2 < most))
        ahead, q, r, across = ahead[of], q[of], radii[of], across[of]
        leave = np.arcsin(q / r)
        out = ahead + r * np.cos(leave) > 0.0
        of, ahead, q, r, across, leave = (each[out] for each in (of, ahead, q, r, across, leave))
        low, high = leave, np.full(len(of), np.pi / 2)
        rows = np.arange(len(of))
        for _ in range(3):
            grid = low[:, None] + (high - low)[:, None] * np.linspace(0.0, 1.0, ANGLES)
            p = ahead[:, None] + r[:, None] * np.cos(grid)
            values = self._along(p) + (r[:, None] * np.sin(grid) - q[:, None]) ** 2
            # The first minimum from where the ray leaves; farther back there may be lower ones,
            # which are no minima outside the sphere.
            best = np.argmax(np.diff(values, axis=1, append=np.inf) > 0.0, axis=1)
            low = grid[rows, np.maximum(best - 1, 0)]
            high = grid[rows, np.minimum(best + 1, ANGLES - 1)]
        angle = np.where(q > 0.0, grid[rows, best], 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            away = np.where(q[:, None] > 0.0, -across / q[:, None], 0.0)
        p, side = ahead + r * np.cos(angle), r * np.sin(angle) - q
        return self.origin - p[:, None] * self.direction + side[:, None] * away, of

    def on_segments(self, lows: Array, highs: Array) -> Array:
        """The point of least measure on each of n segments from one (n, D) to the other."""
        along = highs - lows
        offsets = self.origin - lows
        p, rate = offsets @ self.direction, -(along @ self.direction)
        across = offsets - p[:, None] * self.direction
        turn = -along - rate[:, None] * self.direction
        # Convex and quadratic on either side of p = 0: the derivative in the parameter s.
        parts = []
        for kappa in (self.kappa, 1.0):
            constant = np.einsum("ij,ij->i", across, turn) + kappa * p * rate
            linear = np.einsum("ij,ij->i", turn, turn) + kappa * rate**2
            with np.errstate(divide="ignore", invalid="ignore"):
                parts.append(np.where(linear > 0.0, -constant / linear, 0.0))
        with np.errstate(divide="ignore", invalid="ignore"):
            parts.append(np.where(rate != 0.0, -p / rate, 0.0))
        points = [lows + np.clip(s, 0.0, 1.0)[:, None] * along for s in parts]
        if len(lows) == 0:
            return lows
        values = np.stack([self.of(each) for each in points])
        return np.stack(points)[np.argmin(values, axis=0), np.arange(len(lows))]
