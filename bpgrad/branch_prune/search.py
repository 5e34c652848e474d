"""Algorithm 1: sample outside the removable space until it is all there is, raise ρ, go on."""

import math
from collections.abc import Callable, Sequence
from enum import IntEnum
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import Bounds, OptimizeResult

from bpgrad.branch_prune.problem import (
    Array,
    Box,
    Fun,
    Grad,
    Objective,
    check_lipschitz,
    starting_point,
    unit_direction,
)
from bpgrad.branch_prune.sampler import IntervalSampler, PlaneSampler, Sampler, SpaceSampler
from bpgrad.branch_prune.samples import History, Samples

#: The part of ε that a covering may lose to rounding and resolution, by dimension.
SLACK = {1: 1e-6, 2: 1e-3}
SLACK_BEYOND = 0.02
#: Rounding error allowed for in a certified bound, relative to the size of its terms.
ROUNDING = 64 * np.finfo(np.float64).eps
#: A gradient may exceed L by this factor (finite differences) before it contradicts L.
GRADIENT_TOLERANCE = 1e-4
#: γ without gradients: the direction of the ray, a random one, has no say.
NEAREST = 1e9
#: The last ρ = 1 − 2^−k that leaves the balls a radius.
LAST_LEVEL = 48
#: With L unknown: estimate = smallest power of GROWTH that is at least MARGIN times every slope
#: seen, and PROBES uniform samples a dimension, which must confirm it before the search ends.
GROWTH = 1.25
MARGIN = 1.25
PROBES = 10


class Status(IntEnum):
    """Why a search ended."""

    CERTIFIED = 0  #: gap ≤ eps is proved
    MAX_EVALS = 1  #: the limit of evaluations was reached
    PAPER_RULE = 2  #: the printed rule (1 − ρ)m ≤ eps holds, which proves nothing
    LIPSCHITZ_VIOLATED = 3  #: samples or a gradient contradict the given L
    CALLBACK = 4  #: the callback raised StopIteration
    ESTIMATED = 5  #: gap ≤ eps if the estimated L is one
    PRECISION = 6  #: the gap is at the level of rounding errors


class _Schedule:
    """The sequence of ρ as thresholds τ = ρm.

    By default ρ_k = 1 − 2^−k until 2^−k m ≤ ε, and then the value that just suffices for ε, which
    grows as m falls. A given sequence is followed as it is; the value that just suffices comes
    after it.
    """

    def __init__(self, given: Sequence[float] | None, eps: float, slack: float) -> None:
        self.given = given
        self.eps = eps
        self.target = (1.0 - slack) * eps
        self.level = 0
        self.final = False

    def threshold(self, m: float) -> float:
        """τ; never more for a smaller m."""
        if self.final:
            return m - self.target
        if self.given is not None:
            return self.given[self.level] * m
        # Less is enough as soon as it certifies ε.
        return min((1.0 - 0.5**self.level) * m, m - self.target)

    def raise_rho(self, m: float) -> bool:
        """Go on to the next ρ; False if there is none."""
        if self.final:
            return False
        self.level += 1
        if self.given is not None:
            self.final = self.level == len(self.given)
        else:
            self.final = m * 0.5**self.level <= self.eps
        return self.level <= LAST_LEVEL or self.final or self.given is not None

    def restart(self) -> None:
        """Back to the first ρ."""
        self.level, self.final = 0, False


def minimize(
    fun: Fun,
    grad: Grad | None,
    bounds: Bounds | Sequence[Any] | ArrayLike,
    lipschitz: float | None,
    *,
    eps: float = 1e-2,
    gamma: float = 1e-2,
    rho_schedule: Sequence[float] | None = None,
    stopping: str = "certified",
    max_evals: int | None = 20_000,
    seed: int = 0,
    callback: Callable[[OptimizeResult], object] | None = None,
    offset: float = 0.0,
    x0: ArrayLike | None = None,
) -> OptimizeResult:
    r"""Minimise an L-Lipschitz function on a box by branch and pruning, with a certificate.

    Every sample x_i proves that no x with f(x) < ρm lies in the ball around it of radius
    (f(x_i) − ρm)/L, where m is the smallest value so far. The next sample is the point outside all
    open balls that is nearest, in the sense of Eq. 5, to a step from the latest sample against its
    gradient. When the closed balls cover the box, ρm is a lower bound of f, and ρ is raised.

    In one dimension all of this is exact up to rounding. In more, Eq. 5 is solved to a relative
    error of its measure: 1e-6 in two dimensions, 10 % from three on, but for points that lie
    outside all balls by less than the slack of the covering. In three dimensions the search for
    the solution is seldom given up, in five it mostly is; then the best admissible point found is
    taken, and ``history.how`` says ``"candidate"``. Covering is decided by subdivision of the box,
    to the ``resolution`` that the result reports; what the resolution costs is taken off the lower
    bound. From three dimensions on the subdivision may be given up, which certifies nothing: ρ is
    raised, and at the last ρ the point is sampled where least is proved. Certificates can be
    expected in one and two dimensions and hoped for in three.

    Args:
        fun: f; takes an array of shape (D,), returns a number, and f + offset ≥ 0 on the box.
        grad: the gradient, or a subgradient, of f, as an array of shape (D,). It guides the search
            and has no part in the certificate. None for a search without gradients, which goes to
            the admissible point nearest to the latest sample whatever ``gamma``: it certifies with
            half the evaluations, counted together, and may find a good value later.
        bounds: D pairs (lower, upper), or ``scipy.optimize.Bounds``; finite.
        lipschitz: L > 0 with |f(x) − f(y)| ≤ L‖x − y‖ in the Euclidean norm. None to estimate it
            from the slopes seen; then nothing is certified.
        eps: ε ≥ 0, the gap to certify, in units of f.
        gamma: γ ≥ 0, what a long step costs in Eq. 5: small values keep to the ray, large ones go
            to the nearest admissible point.
        rho_schedule: increasing values of ρ in [0, 1). By default 1 − 2^−k, k = 0, 1, …, and then
            the value that just suffices for ε.
        stopping: ``"certified"``, or ``"paper"`` for the printed loop, which compares (1 − ρ)m with
            ε as soon as ρ is raised, before anything is known at the new ρ: its claim can be false.
        max_evals: limit of evaluations of f; None for no limit.
        seed: of x_1, of the directions where the gradient is zero, and of random points.
        callback: called after every evaluation with a result that has ``x``, ``fun``,
            ``lower_bound``, ``gap``, ``rho``, ``nfev``; raises StopIteration to end the search.
        offset: added to f, for functions with negative values.
        x0: x_1; by default drawn uniformly from the box.

    Returns:
        A result with

        * ``x``, ``fun``: the best sample, (D,), and its value;
        * ``lower_bound``, ``gap``: f ≥ ``lower_bound`` on the whole box, and
          ``gap = fun − lower_bound``, both proved for every L-Lipschitz f with f + offset ≥ 0; if
          the samples contradict L, or L is estimated, only f ≥ −offset is left of it;
        * ``success``: whether gap ≤ eps is certified; ``status`` (a `Status`), ``message``;
        * ``nfev``, ``ngev``, ``nit``: evaluations, and the number of values of ρ;
        * ``rho``: the last ρ; ``resolution``: at the last covering every point of the box lay
          within this distance of a ball (0 where that is decided exactly); what that costs is taken
          off ``lower_bound``;
        * ``lipschitz``: L, given or estimated; ``slope``: the largest slope between two samples or
          norm of a gradient; ``violation``: indices of two samples (or twice the same, for a
          gradient) that contradict L, or None;
        * ``estimated_lower_bound``: with ``lipschitz=None``, the bound if the estimate is right;
        * ``history``: a `History` for figures.

    Raises:
        ValueError: for bad arguments, values or gradients that are not finite or of another shape,
            negative values of f + offset, and a schedule that cannot reach ε.
    """
    search = _Search(
        fun, grad, bounds, lipschitz, eps, gamma, rho_schedule, stopping, max_evals, seed,
        callback, offset,
    )  # fmt: skip
    return search.run(x0)


class _Search:
    """The state of one call of `minimize`; all values have the offset added."""

    def __init__(
        self,
        fun: Fun,
        grad: Grad | None,
        bounds: Bounds | Sequence[Any] | ArrayLike,
        lipschitz: float | None,
        eps: float,
        gamma: float,
        rho_schedule: Sequence[float] | None,
        stopping: str,
        max_evals: int | None,
        seed: int,
        callback: Callable[[OptimizeResult], object] | None,
        offset: float,
    ) -> None:
        if not 0.0 <= eps < math.inf:
            raise ValueError(f"eps must be at least 0 and finite, not {eps}")
        if not 0.0 <= gamma < math.inf:
            raise ValueError(f"gamma must be at least 0 and finite, not {gamma}")
        if stopping not in ("certified", "paper"):
            raise ValueError(f"stopping must be 'certified' or 'paper', not {stopping!r}")
        if max_evals is not None and not (max_evals >= 1 and float(max_evals).is_integer()):
            raise ValueError(
                f"max_evals must be a whole number from 1 on, or None, not {max_evals}"
            )
        if max_evals is None and eps == 0.0:
            raise ValueError("eps=0 is reached by no search: set max_evals, or eps > 0")
        self.box = Box.of(bounds)
        self.estimates = lipschitz is None
        self.lipschitz = 0.0 if lipschitz is None else check_lipschitz(lipschitz)
        self.objective = Objective(fun, grad, self.box, offset, lipschitz)
        self.eps = eps
        self.gamma = NEAREST if grad is None else gamma
        self.printed = stopping == "paper"
        self.max_evals = math.inf if max_evals is None else max_evals
        self.callback = callback
        self.rng = np.random.default_rng(seed)
        self.slack = SLACK.get(self.box.dim, SLACK_BEYOND)
        self.schedule = _Schedule(_checked(rho_schedule), eps, self.slack)
        self.samples = Samples(self.box.dim)
        self.bound = 0.0  # f + offset >= 0
        self.f_max = 0.0
        self.slope = 0.0
        self.violation: tuple[int, int] | None = None
        self.nit = 1
        self.resolution = 0.0
        self.probes_left = 0
        self.stopped = False
        self.sampler: Sampler | None = None
        self.log: list[tuple[float, float, str]] = []
        self.coverings: list[tuple[float, float, float, float]] = []

    # -- the loop --------------------------------------------------------------------------------

    def run(self, x0: ArrayLike | None) -> OptimizeResult:
        self._evaluate(starting_point(self.box, x0, self.rng), "first", 0.0)
        given = self.schedule.given
        # The schedule may have been computed from f(x_1), hence the rounding.
        if given is not None and given[-1] * self.m < self.m - self.eps - ROUNDING * self.m:
            raise ValueError(
                f"rho_schedule ends at {given[-1]}, below 1 - eps/f(x_1) = "
                f"{1.0 - self.eps / self.m:.9g}: it may never reach eps"
            )
        while True:
            status = self._finished()
            if status is not None:
                return self._result(status)
            if self.probes_left > 0:
                self.probes_left -= 1
                self._evaluate(self.box.uniform(self.rng), "random", self._rho())
                continue
            if self.sampler is None:
                if self._too_fine():
                    return self._result(Status.PRECISION)
                self.sampler = self._new_sampler()
            direction = unit_direction(self.samples.g[-1], self.rng)
            point = self.sampler.next(direction)
            if point is not None:
                self._evaluate(*point, self._rho())
                continue
            status = self._covered()
            if status is not None:
                return self._result(status)

    @property
    def m(self) -> float:
        """The smallest value."""
        return self.samples.f_min

    def _rho(self) -> float:
        return self.schedule.threshold(self.m) / self.m if self.m > 0.0 else 0.0

    def _finished(self) -> Status | None:
        """Whether to stop before the next sample."""
        if self.violation is not None:
            return Status.LIPSCHITZ_VIOLATED
        # With f + offset >= 0 a value of at most ε needs no covering; the printed loop would test
        # it only after one, which for f* = 0 and ρ > 0 never comes.
        if self.printed and self.m <= self.eps:
            return Status.PAPER_RULE
        if not self.printed and self._gap(self.bound) <= self.eps:
            return Status.ESTIMATED if self.estimates else Status.CERTIFIED
        return self._cut()

    def _cut(self) -> Status | None:
        """Whether the search may go no further."""
        if self.samples.n >= self.max_evals:
            return Status.MAX_EVALS
        return Status.CALLBACK if self.stopped else None

    def _covered(self) -> Status | None:
        """Certify what the covering proves, then raise ρ; why to stop, or None."""
        assert self.sampler is not None
        n, m, rho = self.samples.n, self.m, self._rho()
        undecided = self.sampler.undecided
        if not undecided:
            self.resolution = self.sampler.resolution
            # 1-D proves more than ρm at no cost, but that is Theorem 1's bound.
            proved = min(self.schedule.threshold(m), self.sampler.certified())
            self.bound = max(self.bound, proved - self._rounding())
            self.coverings.append((n, rho, m, self.bound))
            if not self.printed and self._gap(self.bound) <= self.eps:
                if not self.estimates:
                    return Status.CERTIFIED
                if self._confirmed():
                    return Status.ESTIMATED
                return self._cut()
        if not self.schedule.raise_rho(m):
            if not undecided:
                return Status.PRECISION
            # Neither an admissible point nor a covering: sample where least is proved.
            self._evaluate(*self.sampler.weakest(), rho)
            return None
        self.nit += 1
        if self.printed and (1.0 - self._rho()) * m <= self.eps:
            return Status.PAPER_RULE
        self.sampler = None
        return None

    def _size(self) -> float:
        return float(np.max(np.abs([self.box.lower, self.box.upper])))

    def _rounding(self) -> float:
        """What rounding may have added to a bound or to a difference of values."""
        values = self.f_max + abs(self.objective.offset)
        return ROUNDING * (values + self.lipschitz * self._size())

    def _too_fine(self) -> bool:
        """Whether the smallest ball is so small that rounding may keep it from covering anything.

        The search would then go on for ever at one and the same point.
        """
        radius = (self.m - self.schedule.threshold(self.m)) / self.lipschitz
        return bool(radius <= 4 * ROUNDING * self._size())

    def _lower(self, bound: float) -> float:
        """A bound in the user's units, rounding allowed for."""
        return bound - self.objective.offset

    def _gap(self, bound: float) -> float:
        return self.objective.values[self.samples.best] - self._lower(bound)

    def _new_sampler(self) -> Sampler:
        threshold = self.schedule.threshold(self.m)
        if self.box.dim == 1:
            return IntervalSampler(self.samples, self.box, self.lipschitz, self.gamma, threshold)
        kind = PlaneSampler if self.box.dim == 2 else SpaceSampler
        return kind(
            self.samples,
            self.box,
            self.lipschitz,
            self.gamma,
            threshold,
            self._cover_slack(threshold),
            self.rng,
        )

    def _cover_slack(self, threshold: float) -> float:
        return self.slack / 2 * (self.m - threshold)

    # -- samples ---------------------------------------------------------------------------------

    def _evaluate(self, x: Array, how: str, rho: float) -> None:
        f, g = self.objective(x)
        self.f_max = max(self.f_max, f)
        self._check_slopes(x, f, g)
        self.samples.add(x, f, g)
        if self.sampler is not None:
            threshold = self.schedule.threshold(self.m)
            self.sampler.lower(threshold, self._cover_slack(threshold))
        self.log.append((rho, self.lipschitz, how))
        if self.callback is not None:
            try:
                self.callback(self._intermediate())
            except StopIteration:
                self.stopped = True

    def _check_slopes(self, x: Array, f: float, g: Array) -> None:
        """Compare a new sample with the others: does it contradict L, given or estimated?"""
        n = self.samples.n
        slope = norm = float(np.linalg.norm(g))
        if n > 0:
            distances = self.samples.distances(x)
            # Differences that rounding may have made are no evidence.
            rise = np.abs(self.samples.f - f) - self._rounding()
            limit = self.lipschitz * (1.0 + 1e-12)
            if not self.estimates and np.any(rise > limit * distances):
                with np.errstate(divide="ignore"):
                    self.violation = (int(np.argmax(rise - limit * distances)), n)
            with np.errstate(divide="ignore", invalid="ignore"):
                slopes = rise / distances
            finite = slopes[np.isfinite(slopes)]
            slope = max(slope, float(finite.max()) if len(finite) else 0.0)
        self.slope = max(self.slope, slope)
        if self.estimates:
            self._estimate()
        elif self.violation is None and norm > self.lipschitz * (1.0 + GRADIENT_TOLERANCE):
            self.violation = (n, n)

    def _estimate(self) -> None:
        """Raise the estimate of L if need be, and then start again with the samples there are."""
        needed = MARGIN * self.slope
        if self.samples.n == 0:
            self.probes_left = PROBES * self.box.dim
        if needed > self.lipschitz or self.lipschitz == 0.0:
            level = math.ceil(math.log(needed) / math.log(GROWTH)) if needed > 0.0 else 0
            self.lipschitz = GROWTH**level
            self.bound = 0.0
            self.schedule.restart()
            self.sampler = None

    def _confirmed(self) -> bool:
        """Whether uniform samples leave the estimate of L and the certificate as they are."""
        before = self.lipschitz, self.m
        for _ in range(PROBES * self.box.dim):
            if self._cut() is not None:
                return False
            self._evaluate(self.box.uniform(self.rng), "random", self._rho())
        return (self.lipschitz, self.m) == before

    # -- the result ------------------------------------------------------------------------------

    def _intermediate(self) -> OptimizeResult:
        bound = 0.0 if self.estimates else self.bound
        return OptimizeResult(
            x=self.samples.x[self.samples.best].copy(),
            fun=self.objective.values[self.samples.best],
            lower_bound=self._lower(bound),
            gap=self._gap(bound),
            rho=self._rho(),
            nfev=self.samples.n,
        )

    def _result(self, status: Status) -> OptimizeResult:
        if status in (Status.MAX_EVALS, Status.CALLBACK, Status.PRECISION):
            self._bound_of_envelope()
        estimated = self.bound
        if self.estimates or status == Status.LIPSCHITZ_VIOLATED:
            self.bound = 0.0
        result = self._intermediate()
        if result.gap <= self.eps and not (self.printed or self.estimates):
            status = status if status == Status.LIPSCHITZ_VIOLATED else Status.CERTIFIED
        offset = self.objective.offset
        result.update(
            success=status == Status.CERTIFIED,
            status=status,
            message=self._message(status, result.gap),
            ngev=0 if self.objective.grad is None else self.samples.n,
            nit=self.nit,
            resolution=self.resolution,
            lipschitz=self.lipschitz,
            slope=self.slope,
            violation=self.violation,
            history=self._history(),
        )
        if self.estimates:
            result.estimated_lower_bound = estimated - offset
        return result

    def _bound_of_envelope(self) -> None:
        """What the samples prove without a covering, for a search that was cut short."""
        sampler = self.sampler or self._new_sampler()
        self.bound = max(self.bound, sampler.certified() - self._rounding())

    def _history(self) -> History:
        offset = self.objective.offset
        rho, lipschitz = np.array([row[:2] for row in self.log]).T
        coverings = np.array(self.coverings, dtype=np.float64).reshape(-1, 4)
        # Nothing holds where L is estimated, or if the last sample contradicts it.
        void = self.estimates or self.violation is not None
        bound = np.zeros(self.samples.n)
        for n, _, _, proved in () if void else coverings:
            bound[int(n) - 1 :] = np.maximum(bound[int(n) - 1 :], proved)
        bound[-1] = max(bound[-1], self.bound)
        coverings[:, 2:] -= offset
        f = np.array(self.objective.values)
        return History(
            x=self.samples.x.copy(),
            f=f,
            g=self.samples.g.copy(),
            f_min=np.minimum.accumulate(f),
            lower_bound=bound - offset,
            rho=rho,
            lipschitz=lipschitz,
            how=np.array([row[2] for row in self.log]),
            coverings=coverings,
            offset=offset,
        )

    def _message(self, status: Status, gap: float) -> str:
        n = self.samples.n
        if status == Status.CERTIFIED:
            return f"gap {gap:.3g} <= eps certified after {n} evaluations"
        if status == Status.MAX_EVALS:
            return f"max_evals = {n} reached with gap {gap:.3g}"
        if status == Status.PAPER_RULE:
            claim = (1.0 - self._rho()) * self.m
            return (
                f"the printed rule claims a gap of {claim:.3g}, which is not proved; "
                f"the certified gap is {gap:.3g}"
            )
        if status == Status.CALLBACK:
            return f"stopped by the callback with gap {gap:.3g}"
        if status == Status.ESTIMATED:
            return (
                f"gap <= eps if f is Lipschitz with the estimate L = {self.lipschitz:.6g}; "
                "nothing is certified"
            )
        if status == Status.PRECISION:
            return f"gap {gap:.3g} is the least that rounding lets be certified"
        assert self.violation is not None
        i, j = self.violation
        what = f"samples {i} and {j} have" if i != j else f"the gradient at sample {i} has"
        return (
            f"{what} slope {self.slope:.9g}, but L = {self.lipschitz:.9g}: f is not L-Lipschitz"
            f"{'' if i != j else ', or the gradient is wrong'}, and nothing is certified; "
            f"pass a larger lipschitz, or None to estimate it"
        )


def _checked(rhos: Sequence[float] | None) -> Sequence[float] | None:
    """The schedule as floats.

    Raises:
        ValueError: unless it is increasing, in [0, 1), and not empty.
    """
    if rhos is None:
        return None
    values = [float(rho) for rho in rhos]
    if not values or not all(0.0 <= rho < 1.0 for rho in values):
        raise ValueError(f"rho_schedule must be values in [0, 1), not {values}")
    if any(b <= a for a, b in pairwise(values)):
        raise ValueError(f"rho_schedule must increase, unlike {values}")
    return values
