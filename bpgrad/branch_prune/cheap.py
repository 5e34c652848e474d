"""The cheap solver: Eq. 12 alone, one step length from the latest sample and the best value."""

from collections.abc import Callable, Sequence
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
from bpgrad.branch_prune.samples import Samples

#: Two samples nearer than this are one point of a loop, in units of length.
LOOP_DISTANCE = 1e-9


def minimize_cheap(
    fun: Fun,
    grad: Grad,
    bounds: Bounds | Sequence[Any] | ArrayLike,
    lipschitz: float,
    *,
    rho: float = 0.1,
    momentum: float = 0.0,
    target: float = 0.0,
    max_evals: int = 1000,
    stop_on_loop: bool = True,
    clip: bool = True,
    seed: int = 0,
    callback: Callable[[OptimizeResult], object] | None = None,
    offset: float = 0.0,
    x0: ArrayLike | None = None,
) -> OptimizeResult:
    r"""Step down the gradient by (f(x_t) − ρ m_t)/L (Eq. 12), or with momentum (Alg. 2).

    .. math::
        η_t = (f(x_t) − ρ m_t)/L, \qquad v ← μv − η_t d_t, \qquad x_{t+1} = x_t + v

    It certifies nothing, and it can run in a circle: it remembers of its past only the best value.

    Args:
        fun: as in `minimize`.
        grad: as in `minimize`.
        bounds: as in `minimize`.
        lipschitz: L > 0; it must be given.
        rho: ρ in [0, 1), constant.
        momentum: μ in [0, 1); 0 is Eq. 12.
        target: stop at f + offset ≤ target; 0 is the least value that f + offset can have.
        max_evals: limit of evaluations.
        stop_on_loop: stop when a sample comes within 1e-9 of an earlier one.
        clip: move points outside the box to the nearest point of it. Without, the box only serves
            to draw x_1.
        callback: called after every evaluation with ``x``, ``fun``, ``nfev``; raises StopIteration
            to end the search.
        seed: as in `minimize`.
        offset: as in `minimize`.
        x0: as in `minimize`.

    Returns:
        A result with ``x``, ``fun`` (the best sample), ``nfev``, ``ngev``, ``nit``, ``success``
        (whether the target was met), ``message``, ``loop`` (indices of the two samples that meet,
        or None), and the trajectory: ``path`` (T, D), ``path_values`` (T,), ``gradients`` (T, D),
        ``directions`` (T, D), the unit vectors d_t, ``steps`` (T,), the η_t, and ``f_min`` (T,).

    Raises:
        ValueError: for bad arguments, values or gradients, as in `minimize`.
    """
    box = Box.of(bounds)
    lipschitz = check_lipschitz(lipschitz)
    if not 0.0 <= rho < 1.0:
        raise ValueError(f"rho must be in [0, 1), not {rho}")
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"momentum must be in [0, 1), not {momentum}")
    if max_evals < 1:
        raise ValueError(f"max_evals must be at least 1, not {max_evals}")
    objective = Objective(fun, grad, box, offset, lipschitz)
    rng = np.random.default_rng(seed)
    samples = Samples(box.dim)
    x = starting_point(box, x0, rng)
    velocity = np.zeros(box.dim)
    directions: list[Array] = []
    steps: list[float] = []
    loop: tuple[int, int] | None = None
    message = f"max_evals = {max_evals} reached"
    while True:
        if loop is None and samples.n > 0:
            distances = samples.distances(x)
            nearest = int(np.argmin(distances))
            if distances[nearest] <= LOOP_DISTANCE:
                loop = nearest, samples.n
        f, g = objective(x)
        samples.add(x, f, g)
        eta = (f - rho * samples.f_min) / lipschitz
        directions.append(unit_direction(g, rng))
        steps.append(eta)
        if callback is not None:
            best = samples.x[samples.best].copy()
            state = OptimizeResult(x=best, fun=objective.values[samples.best], nfev=samples.n)
            try:
                callback(state)
            except StopIteration:
                message = "stopped by the callback"
                break
        if f <= target:
            message = f"the target was met after {samples.n} evaluations"
            break
        if loop is not None and stop_on_loop:
            message = f"in a loop: sample {loop[1]} is sample {loop[0]} again"
            break
        if samples.n == max_evals:
            break
        velocity = momentum * velocity - eta * directions[-1]
        x = box.clip(x + velocity) if clip else x + velocity
    values = np.array(objective.values)
    return OptimizeResult(
        x=samples.x[samples.best].copy(),
        fun=objective.values[samples.best],
        nfev=samples.n,
        ngev=samples.n,
        nit=samples.n - 1,
        success=samples.f_min <= target,
        message=message,
        loop=loop,
        path=samples.x.copy(),
        path_values=values,
        gradients=samples.g.copy(),
        directions=np.array(directions),
        steps=np.array(steps),
        f_min=np.minimum.accumulate(values),
    )
