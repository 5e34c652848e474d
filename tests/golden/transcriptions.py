"""The solvers, transcribed from their formulas in NumPy float64: the judge of `bpgrad.optim`.

Nothing here imports bpgrad or torch. Every solver is a function of the parameters, their gradients
and the losses f_1, ..., f_t seen so far (the last one belongs to the gradients); it replaces each
`Param.w` and its buffers, and computes afresh from the losses all that is not kept per tensor.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass
class Param:
    """One tensor with the options of its parameter group; the buffers m, s, u, v start at zero."""

    w: Array
    lr: float = 1.0
    weight_decay: float = 0.0
    momentum: float = 0.0
    lipschitz: float = 1.0
    step_size: float = math.nan
    m: Array | float = 0.0
    s: Array | float = 0.0
    u: Array | float = 0.0
    v: Array | float = 0.0


Params = Sequence[Param]
Grads = Sequence[Array]
Losses = Sequence[float]


def bpgrad_paper(params: Params, grads: Grads, losses: Losses, rho: float = 0.1) -> None:
    """Paper, Alg. 2: η = (f − ρ·min f)/L;  v ← μv − η·g̃/‖g̃‖;  w ← w + v, with g̃ = g + λw."""
    total = [g + p.weight_decay * p.w for p, g in zip(params, grads, strict=True)]
    norm = math.sqrt(sum(np.sum(g**2) for g in total))
    for p, g in zip(params, total, strict=True):
        p.step_size = p.lr * (losses[-1] - rho * min(losses)) / p.lipschitz
        p.v = p.momentum * p.v - p.step_size * g / norm
        p.w = p.w + p.v


def bpgrad_released(params: Params, grads: Grads, losses: Losses, rho: float = 0.1) -> None:
    """The released code: v ← μv − (g + λw)/‖g‖;  w ← w + η·v, with η as in the paper."""
    norm = math.sqrt(sum(np.sum(g**2) for g in grads))
    for p, g in zip(params, grads, strict=True):
        p.step_size = p.lr * (losses[-1] - rho * min(losses)) / p.lipschitz
        p.v = p.momentum * p.v - (g + p.weight_decay * p.w) / norm
        p.w = p.w + p.step_size * p.v


def eve_feedback(losses: Losses, beta3: float, thresholds: tuple[float, float]) -> float:
    """d_t of Eve, rule A (arXiv 1611.01505 v1): the averaged relative change of the loss."""
    k, K = thresholds
    smooth, d = losses[0], 1.0
    for f in losses[1:]:
        low, high = (1 + k, 1 + K) if f >= smooth else (1 / (1 + K), 1 / (1 + k))
        previous, smooth = smooth, min(max(low, f / smooth), high) * smooth
        r = abs(smooth - previous) / min(smooth, previous)
        d = beta3 * d + (1 - beta3) * r
    return d


def eve(
    params: Params,
    grads: Grads,
    losses: Losses,
    betas: tuple[float, float, float] = (0.9, 0.999, 0.999),
    eps: float = 1e-8,
    thresholds: tuple[float, float] = (0.1, 10.0),
) -> None:
    """Eve, rule A: w ← w − α·m̂/(d_t·√v̂ + ε), with m̂, v̂ as in Adam."""
    beta1, beta2, beta3 = betas
    t, d = len(losses), eve_feedback(losses, beta3, thresholds)
    for p, g in zip(params, grads, strict=True):
        g = g + p.weight_decay * p.w
        p.m = beta1 * p.m + (1 - beta1) * g
        p.v = beta2 * p.v + (1 - beta2) * g**2
        m_hat, v_hat = p.m / (1 - beta1**t), p.v / (1 - beta2**t)
        p.w = p.w - p.lr * m_hat / (d * np.sqrt(v_hat) + eps)


def matconvnet_adam(
    params: Params,
    grads: Grads,
    losses: Losses,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> None:
    """Adam as in MatConvNet: ε is added to the root of the uncorrected second moment."""
    (beta1, beta2), t = betas, len(losses)
    for p, g in zip(params, grads, strict=True):
        g = g + p.weight_decay * p.w
        p.m = beta1 * p.m + (1 - beta1) * g
        p.v = beta2 * p.v + (1 - beta2) * g**2
        lr = p.lr * math.sqrt(1 - beta2**t) / (1 - beta1**t)
        p.w = p.w - lr * p.m / (np.sqrt(p.v) + eps)


def adagrad(params: Params, grads: Grads, losses: Losses) -> None:
    """Adagrad as in MatConvNet: s ← s + g̃²;  w ← w − α·g̃/(√s + ε), ε = 1e-10."""
    for p, g in zip(params, grads, strict=True):
        g = g + p.weight_decay * p.w
        p.s = p.s + g**2
        p.w = p.w - p.lr * g / (np.sqrt(p.s) + 1e-10)


def adadelta(params: Params, grads: Grads, losses: Losses) -> None:
    """Adadelta as in MatConvNet, which ignores the learning rate: ρ = 0.9, ε = 1e-6."""
    for p, g in zip(params, grads, strict=True):
        g = g + p.weight_decay * p.w
        p.s = 0.9 * p.s + 0.1 * g**2
        delta = -np.sqrt((p.u + 1e-6) / (p.s + 1e-6)) * g
        p.u = 0.9 * p.u + 0.1 * delta**2
        p.w = p.w + delta


def rmsprop(params: Params, grads: Grads, losses: Losses) -> None:
    """RMSProp as in MatConvNet: s ← ρs + (1−ρ)g̃²;  w ← w − α·g̃/(√s + ε), ρ = 0.99, ε = 1e-8."""
    for p, g in zip(params, grads, strict=True):
        g = g + p.weight_decay * p.w
        p.s = 0.99 * p.s + 0.01 * g**2
        p.w = p.w - p.lr * g / (np.sqrt(p.s) + 1e-8)


def sgd(params: Params, grads: Grads, losses: Losses) -> None:
    """SGD with momentum as in MatConvNet: m ← μm − g̃;  w ← w + α·m."""
    for p, g in zip(params, grads, strict=True):
        g = g + p.weight_decay * p.w
        p.m = p.momentum * p.m - g
        p.w = p.w + p.lr * p.m
