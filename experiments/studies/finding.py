"""Evaluations until a value near the minimum is found, by Algorithm 1 and by others."""

import math
import time
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from scipy.optimize import direct, dual_annealing, shgo
from scipy.stats import qmc

from bpgrad.branch_prune import minimize
from experiments.studies.adalipo import minimize_adalipo
from experiments.studies.counting import Counter, Over, cpu_limit
from experiments.studies.test_functions import TestFunction, all_functions

#: The targets of Malherbe and Vayatis: f ≤ f* + (1 − x)(mean of f on the box − f*).
ACCURACIES = (0.90, 0.95, 0.99)
#: A run ends after so many evaluations, of f and of its gradient together, or so much CPU time.
MOST_EVALUATIONS = 1000
MOST_SECONDS = 5.0
#: Sobol points with which the mean of f on the box is found, as a power of 2.
MEAN_POINTS = 16


@cache
def _mean(label: str) -> float:
    function = next(f for f in all_functions() if f.label == label)
    points = qmc.Sobol(function.dim, rng=0).random_base2(MEAN_POINTS)
    return float(function.values(qmc.scale(points, *np.array(function.bounds).T)).mean())


def accuracy_range(function: TestFunction) -> float:
    """The mean of f on its box, from scrambled Sobol points with a fixed seed, minus f*."""
    return _mean(function.label) - function.minimum


def level(function: TestFunction, accuracy: float) -> float:
    """f* + (1 − accuracy)(mean − f*)."""
    return function.minimum + (1 - accuracy) * accuracy_range(function)


# The methods, of a test function, its counter, a seed, and ε, the accuracy asked for.


def _shift(f: TestFunction, c: Counter) -> float:
    return 0.0 if f.nonnegative else f.shift(c.fun(f.centre))


def _algorithm1(f: TestFunction, c: Counter, seed: int, eps: float) -> None:
    minimize(
        c.fun, c.grad, f.bounds, f.lipschitz,
        eps=eps, offset=_shift(f, c), seed=seed, max_evals=None,
    )  # fmt: skip


def _estimated(f: TestFunction, c: Counter, seed: int, eps: float) -> None:
    minimize(c.fun, c.grad, f.bounds, None, eps=eps, offset=_shift(f, c), seed=seed, max_evals=None)


def _without_gradients(f: TestFunction, c: Counter, seed: int, eps: float) -> None:
    minimize(
        c.fun, None, f.bounds, f.lipschitz,
        eps=eps, offset=_shift(f, c), seed=seed, max_evals=None,
    )  # fmt: skip


def _adalipo(f: TestFunction, c: Counter, seed: int, eps: float) -> None:
    minimize_adalipo(c.fun, f.bounds, max_evals=c.most, seed=seed)


def _lipo(f: TestFunction, c: Counter, seed: int, eps: float) -> None:
    minimize_adalipo(c.fun, f.bounds, max_evals=c.most, seed=seed, lipschitz=f.lipschitz)


def _uniform(f: TestFunction, c: Counter, seed: int, eps: float) -> None:
    low, high = np.array(f.bounds).T
    for x in np.random.default_rng(seed).uniform(low, high, (c.most, f.dim)):
        c.fun(x)


def _dual_annealing(f: TestFunction, c: Counter, seed: int, eps: float) -> None:
    local = {"method": "L-BFGS-B", "jac": c.grad, "bounds": f.bounds}
    dual_annealing(c.fun, f.bounds, minimizer_kwargs=local, rng=seed, maxiter=c.most)


def _shgo(f: TestFunction, c: Counter, seed: int, eps: float) -> None:
    # With its defaults it gives up after a few evaluations on half of the functions.
    local = {"method": "L-BFGS-B", "jac": c.grad}
    shgo(c.fun, f.bounds, minimizer_kwargs=local, n=128, iters=8, sampling_method="sobol")


def _direct(f: TestFunction, c: Counter, seed: int, eps: float) -> None:
    direct(c.fun, f.bounds, maxfun=2 * c.most, maxiter=10 * c.most)


FINDERS: dict[str, Callable[[TestFunction, Counter, int, float], None]] = {
    "Algorithm 1": _algorithm1,
    "Algorithm 1, L estimated": _estimated,
    "AdaLIPO": _adalipo,
    "LIPO": _lipo,
    "uniform": _uniform,
    "dual_annealing": _dual_annealing,
    "shgo": _shgo,
    "direct": _direct,
}
#: Claim C3 compares it with the first: the same search, but for the gradient.
WITHOUT = "Algorithm 1 without gradients"
#: One run each.
DETERMINISTIC = ("shgo", "direct")


def find(function: TestFunction, method: str, seed: int) -> dict[str, Any]:
    """One run, until f is within 1 % of the range of f*, or a limit is reached.

    Returns:
        ``to_90``, ``to_95``, ``to_99``: evaluations of f and of the gradient until the accuracy
        was met (NaN: never); ``nfev``, ``ngev`` and ``seconds`` (CPU) of the whole run; ``end``:
        ``"target"``, ``"evaluations"`` or ``"time"`` (a limit), or ``"returned"`` (by itself).
    """
    counter = Counter(function, MOST_EVALUATIONS, level(function, ACCURACIES[-1]))
    eps = (1 - ACCURACIES[-1]) * accuracy_range(function)
    end, start = "returned", time.thread_time()
    try:
        with cpu_limit(MOST_SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scipy's, on degenerate simplices and line searches
            (FINDERS | {WITHOUT: _without_gradients})[method](function, counter, seed, eps)
    except Over:
        end = "evaluations" if counter.total >= counter.most else "time"
    seconds = time.thread_time() - start
    if counter.best <= counter.target:
        end = "target"
    reached = {f"to_{100 * a:.0f}": counter.reached(level(function, a)) for a in ACCURACIES}
    counts = {"nfev": counter.nfev, "ngev": counter.ngev}
    return {**reached, **counts, "seconds": seconds, "end": end}


def within(value: float) -> float:
    """A number of evaluations, the limit where the accuracy was never met."""
    return MOST_EVALUATIONS if math.isnan(value) else value
