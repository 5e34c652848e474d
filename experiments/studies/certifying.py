"""Evaluations and time until a gap is certified, by Algorithm 1, boxes and DIRECT's samples.

All know L and nothing else of f: for Algorithm 1 every function is shifted by L · (half the
diagonal) − f(centre), those too that are plainly not negative. Otherwise the certificate f ≥ 0
would be the minimum itself on half of them.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult, direct

from bpgrad.branch_prune import minimize
from experiments.studies.counting import Counter, Over, cpu_limit
from experiments.studies.covering import first_certified
from experiments.studies.finding import accuracy_range
from experiments.studies.lipschitz_branch_and_bound import minimize_branch_and_bound
from experiments.studies.test_functions import TestFunction

#: ε as a part of mean − f*, by dimension.
GAPS = {1: (0.1, 0.01), 2: (0.5, 0.1)}
#: A run ends after so many evaluations or so much CPU time.
MOST_EVALUATIONS = 50_000
MOST_SECONDS = 300.0
#: Functions and parts that take Algorithm 1 minutes: one run each, of the first seed.
ONCE = {
    ("Rosenbrock, D = 2", 0.1),
    ("Deb N.1, D = 2", 0.5),
    ("Deb N.1, D = 2", 0.1),
    ("Six-hump camel, D = 2", 0.1),
}


def _search(f: TestFunction, c: Counter, seed: int, eps: float, *, gradients: bool = True) -> None:
    def note(state: OptimizeResult) -> None:
        c.gap = float(state.gap)

    note(
        minimize(
            c.fun, c.grad if gradients else None, f.bounds, f.lipschitz,
            eps=eps, offset=f.shift(c.fun(f.centre)), seed=seed, max_evals=None, callback=note,
        )
    )  # fmt: skip


def _without_gradients(f: TestFunction, c: Counter, seed: int, eps: float) -> None:
    _search(f, c, seed, eps, gradients=False)


def _boxes(f: TestFunction, c: Counter, seed: int, eps: float) -> None:
    found = minimize_branch_and_bound(c.fun, f.bounds, f.lipschitz, eps=eps, max_evals=c.most)
    c.gap = found.fun - found.lower_bound


def _direct(f: TestFunction, c: Counter, seed: int, eps: float) -> None:
    # It is to go on until its samples certify the gap, however small its best box has become.
    direct(
        c.fun, f.bounds,
        maxfun=2 * c.most, maxiter=10 * c.most, locally_biased=False, vol_tol=0.0, len_tol=0.0,
    )  # fmt: skip


CERTIFIERS: dict[str, Callable[[TestFunction, Counter, int, float], None]] = {
    "Algorithm 1": _search,
    "Algorithm 1 without gradients": _without_gradients,
    "branch and bound": _boxes,
    "direct": _direct,
}
#: One run each; only its time is measured again.
SEEDED = ("Algorithm 1", "Algorithm 1 without gradients")


def certify(function: TestFunction, part: float, method: str, seed: int) -> dict[str, Any]:
    """One run, until a gap of ``part`` · (mean − f*) is certified or a limit is reached.

    DIRECT has no certificate of its own. Its samples certify the gap as soon as their balls cover
    the box; the count is that of its samples by then, and the time that which they take, without
    the test of coverage.

    Returns:
        ``nfev``, ``ngev``, ``seconds`` (CPU), ``gap`` relative to ε, at most 1 if certified (NaN
        if it is not known).
    """
    eps = part * accuracy_range(function)
    most = MOST_EVALUATIONS
    if method == "direct":
        counter, _ = _run(function, method, seed, eps, MOST_EVALUATIONS)
        x, f = (np.array(column) for column in zip(*counter.seen, strict=True))
        bounds = np.array(function.bounds)
        enough = first_certified(x, f, function.lipschitz, bounds, eps)
        most = MOST_EVALUATIONS if enough is None else enough
    counter, seconds = _run(function, method, seed, eps, most)
    if method == "direct":
        counter.gap = eps if enough is not None else math.nan
    counts = {"nfev": counter.nfev, "ngev": counter.ngev}
    return {**counts, "seconds": seconds, "gap": counter.gap / eps}


def _run(
    function: TestFunction, method: str, seed: int, eps: float, most: int
) -> tuple[Counter, float]:
    counter = Counter(function, most)
    start = time.thread_time()
    try:
        with cpu_limit(MOST_SECONDS):
            CERTIFIERS[method](function, counter, seed, eps)
    except Over:
        pass
    return counter, time.thread_time() - start
