"""The whole path of a training run in weight space, and what Eq. 4 and Theorem 3 say of it."""

import tempfile
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from scipy.linalg.blas import dsyrk, ssyrk
from threadpoolctl import threadpool_limits
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from bpgrad.errors import Diverged
from bpgrad.training.config import Config
from bpgrad.training.trainer import train

BLOCK = 8192  # coordinates that are held in float64 at a time


@dataclass
class Trajectory:
    """A run of BPGrad's paper variant with T iterations and P weights and biases.

    `points` are x_1 to x_{T+1} and `directions` d_1 to d_T, each a float32 array of shape (P,);
    `objective` and `step_size` are f(x_t) and η_t, of shape (T,). Of a run that diverged, these are
    the iterations before that, and `diverged` is true.
    """

    points: list[np.ndarray] = field(default_factory=list)
    directions: list[np.ndarray] = field(default_factory=list)
    objective: np.ndarray = field(default_factory=lambda: np.empty(0))
    step_size: np.ndarray = field(default_factory=lambda: np.empty(0))
    diverged: bool = False


def record(cfg: Config) -> Trajectory:
    """Train as configured, on one process, and keep every point and direction (2·T·P floats).

    The run itself is recorded nowhere. Raises what training raises, unless it is that the run
    diverged.
    """
    found = Trajectory()
    objective, step_size = list[float](), list[float]()

    def before(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not found.points:
            found.points.append(_flat(p for p, _ in _parameters(optimizer)))
        direction = _flat(p.grad + decay * p for p, decay in _parameters(optimizer))
        norm = np.linalg.norm(direction.astype(np.float64))
        found.directions.append((direction / norm).astype(np.float32))

    def after(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.points.append(_flat(p for p, _ in _parameters(optimizer)))
        objective.append(float(kwargs["loss"]))
        step_size.append(float(optimizer.step_size))  # type: ignore[attr-defined]

    hooks = [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]
    try:
        with tempfile.TemporaryDirectory(prefix="bpgrad-trajectory-") as scratch:
            runs, checkpoints = f"{scratch}/runs", f"{scratch}/checkpoints"
            train(replace(cfg, results_root=runs, checkpoint_root=checkpoints))
    except Diverged:
        found.diverged = True
    finally:
        for hook in hooks:
            hook.remove()
    found.objective, found.step_size = np.array(objective), np.array(step_size)
    return _finite(found)


def _finite(path: Trajectory) -> Trajectory:
    """The iterations before the first at which anything is not finite."""
    after = np.array([np.isfinite(point).all() for point in path.points[1:]])
    bad = ~(after & np.isfinite(path.objective) & np.isfinite(path.step_size))
    steps = int(np.argmax(bad)) if bad.any() else len(bad)
    del path.points[steps + 1 :], path.directions[steps:]
    path.objective, path.step_size = path.objective[:steps], path.step_size[:steps]
    return path


def _parameters(optimizer: Optimizer) -> Any:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            yield parameter, group["weight_decay"]


@torch.no_grad()
def _flat(tensors: Any) -> np.ndarray:
    return torch.cat([tensor.reshape(-1) for tensor in tensors]).float().cpu().numpy()


@dataclass(frozen=True)
class Sides:
    """Eq. 4 along a trajectory, after each iteration t: float64 arrays of shape (T,).

    `lhs` is max over i ≤ t of f(x_i) − L‖x_i − x_{t+1}‖, `rhs` is ρ · min over i ≤ t of f(x_i), and
    `relative_step` is η_t/‖x_t‖.
    """

    lhs: np.ndarray
    rhs: np.ndarray
    relative_step: np.ndarray


def sides_of_eq4(path: Trajectory, lipschitz: float, rho: float) -> Sides:
    """Both sides of Eq. 4.

    The distances come from one matrix of inner products in float64, relative to x_1: steps of 1e-3
    beside weights of norm 7 would lose every digit in float32.
    """
    origin = path.points[0]
    gram = _gram(path.points, np.float64, origin)
    squares = np.diag(gram)
    distances = np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2 * gram, 0.0))
    f, steps = path.objective, len(path.objective)
    bounds = f[:, None] - lipschitz * distances[:steps, 1:]  # of f(x_i) at x_{t+1}: i × t
    lhs = np.max(np.where(np.tri(steps, dtype=bool).T, bounds, -np.inf), axis=0)
    norms = np.array([np.linalg.norm(x.astype(np.float64)) for x in path.points[:steps]])
    return Sides(lhs, rho * np.minimum.accumulate(f), path.step_size / norms)


@dataclass(frozen=True)
class Premises:
    """How often the premises of Theorem 3 and Corollary 2 hold: shares, from 0 to 1.

    Of all pairs i < t: `pairs13` have ⟨x_i − x_t, d_t⟩ ≥ 0 (13), `pairs15` have ⟨d_i, d_t⟩ ≥ 0
    (15). `all13` and `all15` are the shares of the t > 1 at which all i < t have.
    """

    pairs13: float
    pairs15: float
    all13: float
    all15: float


def premises(path: Trajectory, momentum: float) -> Premises:
    """Check (13) and (15) on every pair of iterations.

    Both follow from the inner products of the directions, as all steps are combinations of them:
    x_{t+1} − x_t = v_{t+1} = μ v_t − η_t d_t.
    """
    products = _gram(path.directions, np.float32).astype(np.float64)
    steps = np.empty_like(products)  # ⟨x_{k+1} − x_k, d_t⟩: k × t
    velocity = np.zeros(len(products))
    for k, eta in enumerate(path.step_size):
        velocity = momentum * velocity - eta * products[k]
        steps[k] = velocity
    moved = np.cumsum(steps, axis=0) - steps  # ⟨x_i − x_1, d_t⟩: i × t
    earlier = ~np.tri(len(products), dtype=bool)
    shares = []
    for holds in (moved - np.diag(moved) >= 0, products >= 0):
        shares.append(float(holds[earlier].mean()))
        shares.append(float(np.all(holds | ~earlier, axis=0)[1:].mean()))
    return Premises(shares[0], shares[2], shares[1], shares[3])


def _gram(rows: list[np.ndarray], dtype: type, origin: np.ndarray | None = None) -> np.ndarray:
    """All inner products of the rows less the origin, block by block of coordinates; (n, n)."""
    product = dsyrk if dtype is np.float64 else ssyrk
    total: np.ndarray = np.zeros((len(rows), len(rows)), dtype, order="F")
    with threadpool_limits(torch.get_num_threads()):  # threads=, which BLAS does not know of
        for start in range(0, len(rows[0]), BLOCK):
            columns = slice(start, start + BLOCK)
            block: np.ndarray = np.stack([row[columns] for row in rows]).astype(dtype)
            if origin is not None:
                block -= origin[columns].astype(dtype)
            total = product(1.0, block.T, beta=1.0, c=total, trans=1, overwrite_c=1)
    upper = np.triu(total)
    return upper + np.triu(upper, 1).T
