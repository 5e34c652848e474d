"""Where to sample next: Eq. 5, exactly in one dimension and to a tolerance in more."""

from typing import Protocol

import numpy as np

from bpgrad.branch_prune.cover import Cover, Quadratic
from bpgrad.branch_prune.intervals import envelope_minimum, first_exit, gaps
from bpgrad.branch_prune.problem import Array, Box
from bpgrad.branch_prune.samples import Samples

#: Eq. 5's minimum is met within this factor minus 1 (two and three dimensions).
TOLERANCE = 0.1
#: Boxes that one search may examine before it is given up, by dimension.
BUDGET = {1: 0, 2: 10**7, 3: 10**6}
BUDGET_BEYOND = 10**4
#: From this dimension on, random points come before the boxes.
RANDOM_FROM = 4
RANDOM_POINTS = 512
#: Relative rounding error that is allowed in a distance, as a multiple of the unit round-off.
ROUNDING = 64 * np.finfo(np.float64).eps

Point = tuple[Array, str]


class Sampler(Protocol):
    """Finds the next sample for one value of L and one ρ; the threshold τ = ρm may fall."""

    undecided: bool  # whether the last search was given up
    resolution: float  # every point that counts as covered lies within this of a ball

    def lower(self, threshold: float, slack: float) -> None:
        """Take note of the newest sample, and of τ after it."""

    def next(self, direction: Array) -> Point | None:
        """The next point, with how it was found; None if none was found."""

    def certified(self) -> float:
        """What the samples prove f to be at least, on the whole of X."""


class IntervalSampler:
    """One dimension: the union of the closed intervals, and Eq. 5 over the ends of its gaps."""

    undecided = False
    resolution = 0.0

    def __init__(
        self, samples: Samples, box: Box, lipschitz: float, gamma: float, threshold: float
    ) -> None:
        self.samples = samples
        self.box = box
        self.lipschitz = lipschitz
        self.kappa = _kappa(gamma)
        self.threshold = threshold
        order = np.argsort(samples.x[:, 0], kind="stable")
        self.centres = samples.x[order, 0]
        self.values = samples.f[order]
        self.width = ROUNDING * float(np.max(np.abs([box.lower, box.upper])))

    def lower(self, threshold: float, slack: float) -> None:
        """See `Sampler`."""
        self.threshold = threshold
        x, f = self.samples.x[-1, 0], self.samples.f[-1]
        at = int(np.searchsorted(self.centres, x))
        self.centres = np.insert(self.centres, at, x)
        self.values = np.insert(self.values, at, f)

    def next(self, direction: Array) -> Point | None:
        """The exact solution of Eq. 5: the nearest end of a gap ahead, or that behind."""
        radii = (self.values - self.threshold) / self.lipschitz
        lower, upper = float(self.box.lower[0]), float(self.box.upper[0])
        left = gaps(self.centres, radii, lower, upper, self.width)
        if len(left) == 0:
            return None
        origin = float(self.samples.x[-1, 0])
        ends = left.ravel()
        ahead = (origin - ends) * direction[0]
        cost = np.where(ahead > 0.0, self.kappa, 1.0) * ahead**2
        # With γ = 0 all points ahead cost nothing: take the nearest.
        best = int(np.lexsort((np.abs(ahead), cost))[0])
        point = self.box.clip(ends[best : best + 1])
        own = (float(self.samples.f[-1]) - self.threshold) / self.lipschitz
        if ahead[best] < 0.0:
            return point, "search"
        return point, "step" if ahead[best] <= own + self.width else "ray"

    def certified(self) -> float:
        """See `Sampler`."""
        lower, upper = float(self.box.lower[0]), float(self.box.upper[0])
        return envelope_minimum(self.centres, self.values, self.lipschitz, lower, upper)


class BoxSampler:
    """Two and more dimensions: Eq. 12's point, the ray, then the boxes of a `Cover`.

    If Eq. 12's point x_t − r_t d is admissible it solves Eq. 5 exactly, since the measure is at
    least κr_t² outside the ball around x_t. If not, the first admissible point on the ray is found
    exactly, and boxes are searched for one whose measure is less by more than the factor
    1 + `TOLERANCE`; that search is also the fallback when the ray has no admissible point, and
    finding nothing, it proves X to be covered. In four and more dimensions, where such a search is
    hopeless, the point on the ray is taken as it is, and the first fallback is the best of
    `RANDOM_POINTS` uniform points.
    """

    def __init__(
        self,
        samples: Samples,
        box: Box,
        lipschitz: float,
        gamma: float,
        threshold: float,
        slack: float,
        rng: np.random.Generator,
    ) -> None:
        self.samples = samples
        self.box = box
        self.lipschitz = lipschitz
        self.kappa = _kappa(gamma)
        self.threshold = threshold
        self.slack = slack
        self.rng = rng
        self.undecided = False
        self.resolution = 0.0
        self.width = ROUNDING * float(np.max(np.abs([box.lower, box.upper])))
        self.cover = self._new_cover()

    def lower(self, threshold: float, slack: float) -> None:
        """See `Sampler`."""
        self.threshold, self.slack = threshold, slack
        if threshold < self.cover.floor:
            self.cover = self._new_cover()
        else:
            self.cover.update(threshold, slack)
            self.cover.insert(self.samples.n - 1)

    def next(self, direction: Array) -> Point | None:
        """See the class."""
        self.undecided = False
        origin = self.samples.x[-1]
        radii = (self.samples.f - self.threshold) / self.lipschitz
        measure = Quadratic(origin, direction, self.kappa)
        step, how = self._along_ray(origin, direction, radii)
        if step is not None and (how == "step" or self.box.dim >= RANDOM_FROM):
            return step, how
        found = None if step is None else (measure(step), step)
        if found is None and self.box.dim >= RANDOM_FROM:
            point = self._random(measure, radii)
            if point is not None:
                return point, "random"
        budget = BUDGET.get(self.box.dim, BUDGET_BEYOND)
        found, ended = self.cover.nearest(measure, TOLERANCE, found, budget)
        self.resolution = self.cover.resolution
        if found is None:
            self.undecided = not ended
            return None
        return found[1], "ray" if found[1] is step else "search"

    def certified(self) -> float:
        """See `Sampler`."""
        return self.cover.bound()

    def _new_cover(self) -> Cover:
        # Lists that hold while m falls by (1 − ρ)m: longer ones cost more, shorter ones last less.
        floor = self.threshold - (self.samples.f_min - self.threshold)
        return Cover(self.samples, self.box, self.lipschitz, self.threshold, floor, self.slack)

    def _along_ray(self, origin: Array, direction: Array, radii: Array) -> tuple[Array | None, str]:
        """The first admissible point of the ray from the origin along −d, and how it was found."""
        room = np.where(direction > 0.0, origin - self.box.lower, self.box.upper - origin)
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = float(np.min(np.where(direction == 0.0, np.inf, room / np.abs(direction))))
        if reach < radii[-1]:
            return None, ""
        offsets = origin - self.samples.x
        middle = offsets @ direction  # how far ahead the centres are
        half = radii**2 - (np.einsum("ij,ij->i", offsets, offsets) - middle**2)
        hit = half > 0.0
        half = np.sqrt(half[hit])
        start, end = middle[hit] - half, middle[hit] + half
        exit_at = first_exit(start, end, reach, self.width)
        if exit_at is None:
            return None, ""
        how = "step" if exit_at <= radii[-1] + self.width else "ray"
        return self.box.clip(origin - exit_at * direction), how

    def _random(self, measure: Quadratic, radii: Array) -> Array | None:
        """The admissible point of least measure among some uniform ones; None if none is."""
        best: tuple[float, Array] | None = None
        for _ in range(RANDOM_POINTS):
            point = self.box.uniform(self.rng)
            value = measure(point)
            if best is not None and value >= best[0]:
                continue
            if np.all(self.samples.distances(point) >= radii):
                best = (value, point)
        return None if best is None else best[1]


def _kappa(gamma: float) -> float:
    return 2.0 * gamma / (1.0 + 2.0 * gamma)
