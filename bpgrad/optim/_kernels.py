"""The arithmetic of a BPGrad step over lists of tensors: as a loop, multi-tensor, fused."""

import math
from typing import Any

import torch
from torch import Tensor


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


def is_fused(
    group: dict[str, Any], params: list[Tensor], steps: list[Tensor], velocities: list[Tensor]
) -> bool:
    """Whether to use torch's fused CPU kernel, which walks the memory of the three side by side.

    Raises:
        RuntimeError: if ``fused=True`` but the tensors do not allow it.
    """
    if group["fused"] is False or (group["foreach"] and not group["fused"]):
        return False
    possible = (
        params[0].device.type == "cpu"
        and params[0].is_floating_point()
        and not torch.compiler.is_compiling()  # the compiler fuses the plain operations itself
        and all(
            same_layout(w, s) and same_layout(w, v)
            for w, s, v in zip(params, steps, velocities, strict=True)
        )
    )
    if group["fused"] and not possible:
        raise RuntimeError(
            "`fused=True` needs floating-point parameters on the CPU with gradients laid out in "
            "memory like them, and no torch.compile; leave it at None."
        )
    return possible


def same_layout(one: Tensor, other: Tensor) -> bool:
    """Whether the elements of two tensors of one shape lie in memory in the same order.

    The stride of a dimension of size 1 says nothing: convolutions of one input channel, or of 1×1
    kernels, come with either.
    """
    return one.stride() == other.stride() or all(
        a == b or size == 1
        for a, b, size in zip(one.stride(), other.stride(), one.shape, strict=True)
    )


def apply_loop(
    params: list[Tensor],
    steps: list[Tensor],
    velocities: list[Tensor],
    momentum: float,
    reach: float | Tensor,
    skipped: Tensor,
) -> None:
    """The update v ← μ v + s, w ← w + reach · v: the readable reference of the three."""
    for w, s, v in zip(params, steps, velocities, strict=True):
        torch.where(skipped, v, momentum * v + s, out=v)
        torch.where(skipped, w, w + reach * v, out=w)


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


def apply_fused(
    params: list[Tensor],
    steps: list[Tensor],
    velocities: list[Tensor],
    momentum: float,
    reach: float | Tensor,
    skipped: Tensor,
) -> None:
    """The same in one pass over memory: SGD with gradient s and learning rate −reach."""
    torch._fused_sgd_(
        params,
        steps,
        velocities,
        weight_decay=0.0,
        momentum=momentum or math.ulp(0.0),  # with 0 the kernel keeps no velocity
        lr=-reach,
        dampening=0.0,
        nesterov=False,
        maximize=False,
        is_first_step=False,
        grad_scale=None,
        found_inf=skipped.float(),  # 1 makes the kernel return before it touches anything
    )
