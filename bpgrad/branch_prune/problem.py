"""What is minimised: a box, and a function on it whose values are checked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import Bounds

Array = NDArray[np.float64]
Fun = Callable[[Array], float]
Grad = Callable[[Array], ArrayLike]


@dataclass(frozen=True)
class Box:
    """The closed box of all x with ``lower <= x <= upper``, two arrays of shape (D,)."""

    lower: Array
    upper: Array

    @classmethod
    def of(cls, bounds: Bounds | Sequence[Any] | ArrayLike) -> "Box":
        """The box that ``bounds`` describes: pairs (lower, upper), or ``scipy.optimize.Bounds``.

        Raises:
            ValueError: for another shape, NaN or infinite bounds, or lower > upper.
        """
        if isinstance(bounds, Bounds):
            lower, upper = np.broadcast_arrays(*map(np.atleast_1d, (bounds.lb, bounds.ub)))
            pairs = np.stack([lower, upper], axis=1).astype(np.float64)
        else:
            try:
                pairs = np.array(bounds, dtype=np.float64)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    "bounds must be a (lower, upper) pair of numbers a dimension"
                ) from error
        if pairs.ndim != 2 or pairs.shape[0] == 0 or pairs.shape[1] != 2:
            raise ValueError(
                f"bounds must be D pairs (lower, upper), D >= 1, not of shape {pairs.shape}"
            )
        for k, (low, high) in enumerate(pairs):
            if not (np.isfinite(low) and np.isfinite(high)):
                raise ValueError(f"bounds must be finite, but dimension {k} has ({low}, {high})")
            if low > high:
                raise ValueError(f"lower bound {low} above upper bound {high} in dimension {k}")
            if not np.isfinite(float(high) - float(low)):
                raise ValueError(f"bounds ({low}, {high}) of dimension {k} are too far apart")
        return cls(pairs[:, 0].copy(), pairs[:, 1].copy())

    @property
    def dim(self) -> int:
        """D."""
        return len(self.lower)

    @property
    def sides(self) -> Array:
        """Lengths of the sides, (D,)."""
        return self.upper - self.lower

    @property
    def diagonal(self) -> float:
        """Length of the diagonal."""
        return float(np.linalg.norm(self.sides))

    def clip(self, x: Array) -> Array:
        """The point of the box next to x."""
        return np.clip(x, self.lower, self.upper)

    def contains(self, x: Array) -> bool:
        """Whether x lies in the closed box."""
        return bool(np.all(x >= self.lower) and np.all(x <= self.upper))

    def uniform(self, rng: np.random.Generator) -> Array:
        """A point drawn uniformly from the box."""
        return self.clip(rng.uniform(self.lower, self.upper))

    def farthest(self, x: Array) -> float:
        """Distance of x from the corner of the box that is farthest from it."""
        return float(np.linalg.norm(np.maximum(x - self.lower, self.upper - x)))


def starting_point(box: Box, x0: ArrayLike | None, rng: np.random.Generator) -> Array:
    """x_1: ``x0``, or a point drawn uniformly from the box.

    Raises:
        ValueError: if ``x0`` is not a point of the box.
    """
    if x0 is None:
        return box.uniform(rng)
    x = np.atleast_1d(np.array(x0, dtype=np.float64))
    if x.shape != (box.dim,) or not box.contains(x):
        raise ValueError(f"x0 must be a point of the box in {box.dim} dimensions, not {x0!r}")
    return x


def check_lipschitz(lipschitz: float) -> float:
    """L as a float.

    Raises:
        ValueError: unless it is positive and finite.
    """
    if not 0.0 < lipschitz < np.inf:
        raise ValueError(f"lipschitz must be positive and finite, not {lipschitz}")
    return float(lipschitz)


class Objective:
    """f + offset and the gradient of f, checked at every call.

    Args:
        fun: takes an array of shape (D,), returns a number.
        grad: takes an array of shape (D,), returns one of the same shape; None for zeros.
        box: where they are evaluated.
        offset: what is added to f so that it is never negative.
        lipschitz: L, for the hint on a negative value; None if it is not known.
    """

    def __init__(
        self, fun: Fun, grad: Grad | None, box: Box, offset: float, lipschitz: float | None
    ) -> None:
        if not np.isfinite(offset):
            raise ValueError(f"offset must be finite, not {offset}")
        self.fun = fun
        self.grad = grad
        self.box = box
        self.offset = float(offset)
        self.lipschitz = lipschitz
        self.values: list[float] = []  # of f, as returned

    def __call__(self, x: Array) -> tuple[float, Array]:
        """``(f(x) + offset, ∇f(x))``.

        Raises:
            ValueError: for a value that is not one finite number, a gradient that is not D finite
                numbers, or f + offset < 0.
        """
        value = np.asarray(self.fun(x.copy()), dtype=np.float64)
        if value.size != 1:
            raise ValueError(f"fun must return one number, not an array of shape {value.shape}")
        f = value.item()
        if not np.isfinite(f):
            raise ValueError(f"fun returned {f} at x = {x.tolist()}")
        given = np.zeros_like(x) if self.grad is None else self.grad(x.copy())
        g = np.atleast_1d(np.asarray(given, dtype=np.float64))
        if g.shape != x.shape:
            raise ValueError(f"grad must return an array of shape {x.shape}, not {g.shape}")
        if not np.all(np.isfinite(g)):
            raise ValueError(f"grad returned {g.tolist()} at x = {x.tolist()}")
        if f + self.offset < 0.0:
            raise ValueError(self._too_low(x, f))
        self.values.append(f)
        return f + self.offset, g

    def _too_low(self, x: Array, f: float) -> str:
        hint = "pass offset= so that f + offset >= 0 on the box"
        if self.lipschitz is not None:
            # No value on the box is lower than f(x) - L (distance of the farthest corner).
            safe = self.lipschitz * self.box.farthest(x) - f
            hint += f"; offset={np.nextafter(safe, np.inf):.9g} is enough for this L"
        shifted = f"fun + offset = {f + self.offset:g}" if self.offset else f"fun = {f:g}"
        return f"{shifted} is negative at x = {x.tolist()}: {hint}"


def unit_direction(g: Array, rng: np.random.Generator) -> Array:
    """The direction g/‖g‖, or where the gradient is zero a random one (the paper's footnote)."""
    norm = float(np.linalg.norm(g))
    # Scaled first, so that the square of a tiny or huge component is neither 0 nor infinite.
    if norm == 0.0 or not np.isfinite(norm):
        peak = float(np.max(np.abs(g)))
        g = g / peak if peak > 0.0 else rng.standard_normal(g.shape)
        norm = float(np.linalg.norm(g))
    return np.asarray(g / norm)
