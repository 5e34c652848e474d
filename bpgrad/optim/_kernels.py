"""The arithmetic of a BPGrad step over lists of tensors: as a loop, and multi-tensor."""

import torch
from torch import Tensor

from bpgrad.optim._loss_aware import buckets


def add_decay(
    grads: list[Tensor], params: list[Tensor], weight_decay: float, loop: bool
) -> list[Tensor]:
    """Return g + λw as new tensors, or the gradients themselves if λ = 0.

    Raises:
        RuntimeError: for sparse gradients.
    """
    if any(g.is_sparse for g in grads):
        raise RuntimeError("BPGrad does not support sparse gradients")
    if weight_decay == 0 or not grads:
        return grads
    if loop:
        return [g.add(p, alpha=weight_decay) for g, p in zip(grads, params, strict=True)]
    return list(torch._foreach_add(grads, params, alpha=weight_decay))


def global_norm(groups: list[list[Tensor]], like: Tensor, loop: bool) -> Tensor:
    """2-norm of all tensors together, 0-dim, accumulated in the dtype of ``like``.

    In float32 torch's CPU norms are wrong by 2e-3 at 4e7 elements, and squares underflow below
    1e-19. The norm of a DTensor is the sum over its ranks: hence ``full_tensor``.
    """
    norms: list[Tensor] = []
    for tensors in filter(None, groups):
        # torch 2.15 takes the dtype of a foreach norm of DTensors for a list of dimensions.
        if loop or any(type(t) is not Tensor for t in tensors):
            norms += [torch.linalg.vector_norm(t, dtype=like.dtype) for t in tensors]
        else:
            norms += torch._foreach_norm(tensors, 2, dtype=like.dtype)
    if not norms:
        return torch.zeros_like(like)
    full = [n.full_tensor() if hasattr(n, "full_tensor") else n for n in norms]
    return torch.linalg.vector_norm(torch.stack([n.to(like.device) for n in full]))


def where(
    condition: Tensor, ones: list[list[Tensor]], others: list[list[Tensor]]
) -> list[list[Tensor]]:
    """``torch.where`` of a 0-dim condition, tensor by tensor, whatever their devices."""
    return [
        [torch.where(condition.to(b.device), a, b) for a, b in zip(first, second, strict=True)]
        for first, second in zip(ones, others, strict=True)
    ]


def update(
    params: list[Tensor],
    directions: list[Tensor],
    velocities: list[Tensor],
    momentum: float,
    factor: Tensor,
    reach: Tensor | None,
    skipped: Tensor,
    loop: bool,
    fresh: bool,
) -> None:
    """The update v ← μ v + factor · d, w ← w + reach · v, in place, unless ``skipped``.

    A ``reach`` of None is 1. ``fresh`` directions d may be written to; gradients may not.
    """
    for ws, ds, vs in buckets(params, directions, velocities):
        device, dtype = ws[0].device, torch.promote_types(ws[0].dtype, torch.float32)
        # Over a subnormal norm the factor would be infinite in float32.
        scale = factor.clamp(min=-torch.finfo(dtype).max).to(device, dtype)
        length = 1.0 if reach is None else reach.to(device, dtype)
        if loop:
            steps = [(d * scale).to(d.dtype) for d in ds]
            apply_loop(ws, steps, vs, momentum, length, skipped.to(device))
            continue
        if fresh:
            torch._foreach_mul_(ds, scale)
        else:  # the product of two 0-dim tensors has the dtype of the wider one
            ds = [s.to(d.dtype) for s, d in zip(torch._foreach_mul(ds, scale), ds, strict=True)]
        apply_foreach(ws, ds, vs, momentum, length, skipped.to(device))


def apply_loop(
    params: list[Tensor],
    steps: list[Tensor],
    velocities: list[Tensor],
    momentum: float,
    reach: float | Tensor,
    skipped: Tensor,
) -> None:
    """The update v ← μ v + s, w ← w + reach · v: the readable reference of the two."""
    for w, s, v in zip(params, steps, velocities, strict=True):
        torch.where(skipped, v, momentum * v + s, out=v)
        torch.where(skipped, w, w + (reach * v).to(w.dtype), out=w)


def apply_foreach(
    params: list[Tensor],
    steps: list[Tensor],
    velocities: list[Tensor],
    momentum: float,
    reach: float | Tensor,
    skipped: Tensor,
) -> None:
    """The same with multi-tensor operations; overwrites ``steps``."""
    torch._foreach_add_(steps, velocities, alpha=momentum)
    for v, new in zip(velocities, steps, strict=True):
        torch.where(skipped, v, new, out=v)
    if isinstance(reach, Tensor):
        torch._foreach_mul_(steps, reach)
    torch._foreach_add_(steps, params)
    for w, new in zip(params, steps, strict=True):
        torch.where(skipped, w, new, out=w)
