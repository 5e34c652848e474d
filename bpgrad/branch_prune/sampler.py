"""Where to sample next: Eq. 5, exactly in one dimension and to a tolerance in more."""

from typing import Protocol

import numpy as np

from bpgrad.branch_prune.arcs import Arcs
from bpgrad.branch_prune.cover import Cover
from bpgrad.branch_prune.intervals import envelope_minimum, first_exit, gaps
from bpgrad.branch_prune.problem import Array, Box
from bpgrad.branch_prune.ray import Quadratic
from bpgrad.branch_prune.samples import Samples

#: Boxes that one search may examine before it is given up, by dimension.
BUDGET = {2: 10**9, 3: 3 * 10**5}
BUDGET_BEYOND = 3 * 10**4
#: Boxes with which a bound is improved at the end of a search that was cut short.
BUDGET_OF_BOUND = 3 * 10**4
#: Relative error of Eq. 5's measure in three and more dimensions.
TOLERANCE = 0.1
#: Boxes with which the solution of Eq. 5 is looked for before that is given up, by dimension.
BUDGET_OF_MEASURE = {3: 10**4, 4: 10**4}
BUDGET_OF_MEASURE_BEYOND = 10**3
#: Uniform points that come before the boxes in three and more dimensions.
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

    def weakest(self) -> Point:
        """Where they prove least, for a search that was given up."""


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

    def weakest(self) -> Point:
        """See `Sampler`; here a search always comes to its end."""
        raise NotImplementedError


class _RaySampler:
    """Two and more dimensions: what both samplers share."""

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
        self.cover: Cover | None = None

    @property
    def radii(self) -> Array:
        """Of the balls, (n,)."""
        return (self.samples.f - self.threshold) / self.lipschitz

    def next(self, direction: Array) -> Point | None:
        """See `Sampler`."""
        self.undecided = False
        measure = Quadratic(self.samples.x[-1], direction, self.kappa)
        step, how = self._along_ray(measure.origin, direction, self.radii)
        if step is not None and (how == "step" or self.kappa == 0.0):
            return step, how
        return self._solution(measure, step)

    def _solution(self, measure: Quadratic, step: Array | None) -> Point | None:
        """Eq. 5's, where it is not Eq. 12's point; `step` is the ray's exit, if there is one."""
        raise NotImplementedError

    def certified(self) -> float:
        """See `Sampler`."""
        cover = self.cover or self._new_cover()
        cover.search(None, BUDGET_OF_BOUND)
        return cover.bound()

    def weakest(self) -> Point:
        """See `Sampler`; as far as the boxes go."""
        assert self.cover is not None
        return self.cover.weakest(), "box"

    def _new_cover(self) -> Cover:
        # Lists that hold while m falls by (1 − ρ)m: longer ones cost more, shorter ones last less.
        floor = self.threshold - (self.samples.f_min - self.threshold)
        return Cover(self.samples, self.box, self.lipschitz, self.threshold, floor, self.slack)

    def _by_boxes(self, measure: Quadratic) -> Array | None:
        """A point that the subdivision finds; if there is none, whether that is certain."""
        if self.cover is None:
            self.cover = self._new_cover()
        point, ended = self.cover.search(measure, BUDGET.get(self.box.dim, BUDGET_BEYOND))
        self.resolution = self.cover.resolution
        self.undecided = point is None and not ended
        return point

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


class PlaneSampler(_RaySampler):
    """Two dimensions: Eq. 12's point, or the best of the boundary of the removed space.

    If Eq. 12's point x_t − r_t d is admissible it solves Eq. 5 exactly, since the measure is at
    least κr_t² outside the ball around x_t. If not, the solution is the ray's exit, or a point of
    the `Arcs`; these have the least to a relative error of 1e-6. When nothing is left of them, the
    boxes of a `Cover` decide whether X is covered; a point that only they find (in a rest as small
    as the rounding of the arcs) is taken as it is.
    """

    arcs: Arcs | None = None

    def lower(self, threshold: float, slack: float) -> None:
        """See `Sampler`."""
        fell = threshold < self.threshold
        self.threshold, self.slack, self.cover = threshold, slack, None
        if self.arcs is None:
            return
        if fell:
            which = np.concatenate([self.arcs.discs, np.arange(self.arcs.count, self.samples.n)])
            self.arcs = Arcs(self.samples.x, self.radii, self.box, which)
        else:
            self.arcs.add(self.samples.x, self.radii)

    def _solution(self, measure: Quadratic, step: Array | None) -> Point | None:
        if self.arcs is None:
            self.arcs = Arcs(self.samples.x, self.radii, self.box)
        found = self.arcs.nearest(measure, self.samples.x, self.radii)
        if step is not None and (found is None or float(measure.of(step[None])[0]) <= found[0]):
            return step, "ray"
        if found is not None:
            return found[1], "search"
        point = self._by_boxes(measure)
        return None if point is None else (point, "candidate")


class SpaceSampler(_RaySampler):
    """Three and more dimensions: the ray, spheres near it, random points, then boxes.

    Eq. 12's point is taken if it is admissible, since it solves Eq. 5 exactly. Otherwise a point to
    begin with is the best of the ray's exit and, on the spheres that the ray leaves, the points of
    least measure; if none of these is admissible, the best of `RANDOM_POINTS` uniform points that
    are; and then a point that the boxes of a `Cover` find. From there a subdivision of where the
    measure is less looks for a better one, until none has a measure below 1/(1 + `TOLERANCE`) of
    the best, or `BUDGET_OF_MEASURE` boxes were examined. Only in the latter case is it not known
    how far the point is from the solution of Eq. 5, and it is marked ``"candidate"``.
    """

    def lower(self, threshold: float, slack: float) -> None:
        """See `Sampler`."""
        self.threshold, self.slack = threshold, slack
        if self.cover is None:
            return
        if threshold < self.cover.floor:
            self.cover = None
        else:
            self.cover.update(threshold, slack)

    def _solution(self, measure: Quadratic, step: Array | None) -> Point | None:
        start = self._start(measure, step, self.radii)
        if start is None:
            return None
        best, ended = self._improved(measure, start)
        if not ended:
            return best, "candidate"
        return best, "ray" if best is step else "search"

    def _start(self, measure: Quadratic, step: Array | None, radii: Array) -> Array | None:
        """An admissible point, the ray's exit or a better one; None if none was found."""
        tips, _ = measure.tips(self.samples.x, radii)
        inside = np.all((tips >= self.box.lower) & (tips <= self.box.upper), axis=1)
        found = self._best(measure, tips[inside], radii)
        if step is not None:
            steps = [step] if found is None else [step, found]
            return steps[int(np.argmin(measure.of(np.stack(steps))))]
        if found is not None:
            return found
        uniform = self.rng.uniform(self.box.lower, self.box.upper, (RANDOM_POINTS, self.box.dim))
        found = self._best(measure, self.box.clip(uniform), radii)
        if found is not None:
            return found
        return self._by_boxes(measure)

    def _improved(self, measure: Quadratic, start: Array) -> tuple[Array, bool]:
        """A better point if there is one, and whether it solves Eq. 5 to the tolerance."""
        most = float(measure.of(start[None])[0])
        region = measure.around(most, self.box)
        cover = Cover(
            self.samples, region, self.lipschitz, self.threshold, self.threshold, self.slack
        )
        budget = BUDGET_OF_MEASURE.get(self.box.dim, BUDGET_OF_MEASURE_BEYOND)
        found, ended = cover.nearest(measure, most, TOLERANCE, budget)
        return start if found is None else found, ended

    def _best(self, measure: Quadratic, points: Array, radii: Array) -> Array | None:
        """The admissible point of least measure; None if none is admissible."""
        for point in points[np.argsort(measure.of(points), kind="stable")]:
            # The points lie on spheres, but for rounding.
            if np.all(self.samples.distances(point) >= radii * (1.0 - 1e-12)):
                return np.asarray(point)
        return None


def _kappa(gamma: float) -> float:
    return 2.0 * gamma / (1.0 + 2.0 * gamma)
