"""The steps of Eve and MatConvNetAdam on CUDA: two Triton kernels over the chunks of _triton.py."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from bpgrad.optim._triton import (
    ADDRESSES,
    FLOAT32,
    FLOAT64,
    GROUPS,
    Chunks,
    _load,
    _pointer,
    learning_rates,
)

ROW = tl.constexpr(6)  # length, group, parameter, gradient, both moments
OPTIONS = tl.constexpr(8)  # β1, β2, their logarithms, ε, λ, lr, whether the group moves


@triton.jit(do_not_specialize=["groups"], do_not_specialize_on_alignment=["loss"])
def scalars(  # type: ignore[no-untyped-def]
    options,
    addresses,
    factors,
    groups,
    loss,
    d,
    f_hat,
    FEEDBACK: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """Eve's feedback (not without ``FEEDBACK``), the counts, and two factors of each group.

    In float64, in one program of one warp. The first row of the options holds β3, 1 + k, 1 + K. The
    factors multiply √v and m.
    """
    feedback = tl.load(options) * 0.0 + 1.0
    if FEEDBACK:
        beta3, low, high = tl.load(options), tl.load(options + 1), tl.load(options + 2)
        f, before, feedback = tl.load(loss), tl.load(f_hat), tl.load(d)
        if tl.abs(f) < float("inf"):
            after = f
            if before > 0.0:
                ratio = f / before
                rise = tl.minimum(tl.maximum(ratio, low), high)
                fall = tl.minimum(tl.maximum(ratio, 1.0 / high), 1.0 / low)
                after = tl.where(f >= before, rise, fall) * before
                relative = tl.abs(after - before) / tl.minimum(after, before)
                feedback = beta3 * feedback + (1.0 - beta3) * relative
                tl.store(d, feedback)
            tl.store(f_hat, after)
    for start in range(0, groups, GROUPS):
        k = start + tl.arange(0, GROUPS)
        here = k < groups
        own = options + (1 + k) * OPTIONS
        place = addresses + k * ADDRESSES
        lr = tl.load(own + 6, mask=here, other=0.0)
        where = tl.load(place, mask=here, other=0)
        kind = tl.load(place + 1, mask=here, other=0)
        double = where.to(tl.pointer_type(tl.float64))
        lr = tl.where(kind == FLOAT64, tl.load(double, mask=kind == FLOAT64, other=0.0), lr)
        single = where.to(tl.pointer_type(tl.float32))
        value = tl.load(single, mask=kind == FLOAT32, other=0.0).to(tl.float64)
        lr = tl.where(kind == FLOAT32, value, lr)
        count = tl.load(place + 2, mask=here, other=0)
        moves = tl.load(own + 7, mask=here, other=0.0)
        if FEEDBACK:
            steps = count.to(tl.pointer_type(tl.int64))
            t = tl.load(steps, mask=moves > 0.0, other=0) + 1
            tl.store(steps, t, mask=moves > 0.0)
        else:
            steps = count.to(tl.pointer_type(tl.float64))
            t = tl.load(steps, mask=moves > 0.0, other=0.0) + 1.0
            tl.store(steps, t, mask=moves > 0.0)
        t = t.to(tl.float64)
        first = 1.0 - tl.exp(t * tl.load(own + 2, mask=here, other=-1.0))
        second = tl.sqrt(1.0 - tl.exp(t * tl.load(own + 3, mask=here, other=-1.0)))
        if FEEDBACK:
            root, mean = feedback / second, lr / first
        else:
            root, mean = second * 0.0 + 1.0, lr * second / first
        tl.store(factors + 2 * k, root, mask=here)
        tl.store(factors + 2 * k + 1, mean, mask=here)


@triton.jit
def _chunk_update(  # type: ignore[no-untyped-def]
    params,
    grads,
    means,
    squares,
    length,
    beta1,
    beta2,
    eps,
    decay,
    root,
    step_size,
    DTYPE: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
):
    for start in range(0, length, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        w = _load(params, offsets, length, COMPUTE, WHOLE)
        g = _load(grads, offsets, length, COMPUTE, WHOLE)
        g = tl.where(decay == 0.0, g, g + decay * w)
        m = _load(means, offsets, length, COMPUTE, WHOLE)
        v = _load(squares, offsets, length, COMPUTE, WHOLE)
        m = (beta1 * m + (1.0 - beta1) * g).to(DTYPE)
        v = (beta2 * v + (1.0 - beta2) * g * g).to(DTYPE)
        if COMPUTE == tl.float64:  # noqa: SIM300
            denominator = root * tl.sqrt(v) + eps
            w -= step_size * m / denominator
        else:  # not the approximations of float32
            denominator = root * tl.sqrt_rn(v.to(COMPUTE)) + eps
            w -= tl.div_rn(step_size * m.to(COMPUTE), denominator)
        if WHOLE:
            tl.store(means + offsets, m)
            tl.store(squares + offsets, v)
            tl.store(params + offsets, w.to(DTYPE))
        else:
            inside = offsets < length
            tl.store(means + offsets, m, mask=inside)
            tl.store(squares + offsets, v, mask=inside)
            tl.store(params + offsets, w.to(DTYPE), mask=inside)


@triton.jit(do_not_specialize=["first"])
def update(  # type: ignore[no-untyped-def]
    table,
    options,
    factors,
    first,
    DTYPE: tl.constexpr,
    COMPUTE: tl.constexpr,
    ALIGNED: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Each chunk: m and v of g + λw, then w ← w − mean · m / (root · √v + ε)."""
    entry = table + (first + tl.program_id(0)) * ROW
    length = tl.load(entry).to(tl.int32)
    group = tl.load(entry + 1)
    params = _pointer(entry + 2, DTYPE, ALIGNED)
    grads = _pointer(entry + 3, DTYPE, ALIGNED)
    means = _pointer(entry + 4, DTYPE, ALIGNED)
    squares = _pointer(entry + 5, DTYPE, ALIGNED)
    own = options + (1 + group) * OPTIONS
    beta1 = tl.load(own).to(COMPUTE)
    beta2 = tl.load(own + 1).to(COMPUTE)
    eps = tl.load(own + 4).to(COMPUTE)
    decay = tl.load(own + 5).to(COMPUTE)
    root = tl.load(factors + 2 * group).to(COMPUTE)
    mean = tl.load(factors + 2 * group + 1).to(COMPUTE)
    if length == CHUNK:
        _chunk_update(
            params,
            grads,
            means,
            squares,
            CHUNK,
            beta1,
            beta2,
            eps,
            decay,
            root,
            mean,
            DTYPE,
            COMPUTE,
            BLOCK,
            True,
        )
    else:
        _chunk_update(
            params,
            grads,
            means,
            squares,
            length,
            beta1,
            beta2,
            eps,
            decay,
            root,
            mean,
            DTYPE,
            COMPUTE,
            BLOCK,
            False,
        )


def step(
    groups: Sequence[dict[str, Any]],
    tensors: list[Tensor],
    chunks: Chunks,
    counts: list[Tensor],
    moves: list[bool],
    feedback: tuple[Tensor, Tensor, Tensor] | None,
) -> None:
    """The whole step.

    Args:
        groups: the parameter groups.
        tensors: all parameters with a gradient, all gradients, all means, all mean squares.
        chunks: of the parameters.
        counts: the 0-dim count t of each group: int64 with ``feedback``, else float64.
        moves: whether the group has a gradient; t is counted where it has.
        feedback: Eve's loss, d and f_hat, 0-dim float64; None for MatConvNetAdam.
    """
    first, owner = groups[0], feedback[1] if feedback else counts[0]
    numbers = [0.0] * OPTIONS.value
    if feedback:
        numbers[:3] = first["betas"][2], *(1.0 + k for k in first["thresholds"])
    rates, places, _kept = learning_rates(groups, counts, owner)
    for group, rate, moving in zip(groups, rates, moves, strict=True):
        betas = group["betas"][:2]
        logarithms = [math.log(beta) if beta else -math.inf for beta in betas]
        numbers.extend((*betas, *logarithms, group["eps"], group["weight_decay"], rate, moving))
    with torch.cuda.device_of(owner):
        table, options, addresses = chunks.on(owner, tensors, numbers, places)
        factors = torch.empty(2 * len(groups), dtype=torch.float64, device=owner.device)
        scalars[(1,)](
            *(options, addresses, factors, len(groups), *(feedback or (owner, owner, owner))),
            FEEDBACK=feedback is not None,
            GROUPS=GROUPS,
            num_warps=1,
            enable_fp_fusion=True,
        )
        for rows, start, constants in chunks.launches():
            update[(rows,)](table, options, factors, start, **constants)
