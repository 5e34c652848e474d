"""The Eve solver, first version (arXiv 1611.01505 v1 and v2): Adam with feedback from the loss."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from bpgrad.optim._fused import Layout, flat, triton_layout, triton_moments
from bpgrad.optim._loss_aware import Closure, Loss, LossAwareOptimizer, buckets, check_group


class Eve(LossAwareOptimizer):
    r"""Adam whose denominator is multiplied by a running mean ``d`` of the loss's relative change.

    Rule A of the reference, section 3.1 (the version of 2016 that the BPGrad paper compares with).
    With the loss f_t, thresholds (k, K) and Adam's bias-corrected moments m̂ and v̂ of g + λw:

    .. math::
        [δ, Δ] &= [1 + k, 1 + K] \text{ if } f_t ≥ \hat f_{t-1}
                  \text{ else } [1/(1 + K), 1/(1 + k)] \\
        \hat f_t &= \min(\max(δ, f_t / \hat f_{t-1}), Δ) \, \hat f_{t-1} \\
        r_t &= |\hat f_t − \hat f_{t-1}| / \min(\hat f_t, \hat f_{t-1}) \\
        d_t &= β_3 d_{t-1} + (1 − β_3) r_t, \qquad \hat f_1 = f_1, \; d_1 = 1 \\
        w &← w − lr \, \hat m / (d_t \sqrt{\hat v} + ε)

    Nothing is read back to the host. ``d`` and ``f_hat`` are global 0-dim tensors in the first
    group (β3 and the thresholds are those of the first group), ``step`` is counted per group. The
    rule presumes positive losses: until the first one ``d`` stays 1. A loss that is not finite is
    no feedback; a gradient that is not finite spoils the moments, as in ``torch.optim.Adam``.

    Args:
        params: tensors, or dicts that define groups with their own ``lr``, ``betas``, ``eps`` or
            ``weight_decay``.
        lr: α, a float or a 0-dim tensor.
        betas: β1, β2 of the moments and β3 of the feedback, each in [0, 1).
        eps: ε ≥ 0, added to the denominator.
        thresholds: k and K with 0 < k ≤ K, the bounds of r.
        weight_decay: λ ≥ 0, coupled (added to the gradient).
        foreach: True for multi-tensor operations, False for a loop over the parameters, None for
            Triton's kernels on CUDA where they can be, else multi-tensor operations.

    Raises:
        ValueError: for a value outside its range.
    """

    _scalars = ("d", "f_hat", "step")
    _layout: Layout | None = None  # of the tensors of the last step, if it was Triton's

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.999),
        eps: float = 1e-8,
        thresholds: tuple[float, float] = (0.1, 10.0),
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
    ) -> None:
        defaults: dict[str, Any] = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "thresholds": thresholds,
            "weight_decay": weight_decay,
            "foreach": foreach,
        }
        super().__init__(params, defaults)
        self.param_groups[0].update(d=self._new_scalar(1.0), f_hat=self._new_scalar(0.0))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, whose moments start now; it shares ``d`` with the others.

        Raises:
            ValueError: for a value outside its range.
        """
        options = {**self.defaults, **param_group}
        check_group(options)
        betas, thresholds = options["betas"], options["thresholds"]
        if len(betas) != 3:
            raise ValueError(f"Invalid betas: {betas} (Eve takes three)")
        for index, beta in enumerate(betas):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"Invalid beta parameter at index {index}: {beta}")
        if not 0.0 <= options["eps"] < math.inf:
            raise ValueError(f"Invalid epsilon value: {options['eps']}")
        if len(thresholds) != 2 or not 0.0 < thresholds[0] <= thresholds[1] < math.inf:
            raise ValueError(f"Invalid thresholds: {thresholds}")
        super().add_param_group(param_group)
        self.param_groups[-1]["step"] = self._new_scalar(0, torch.int64)

    @property
    def d(self) -> Tensor:
        """The feedback d_t that the last step multiplied √v̂ with, 0-dim; 1 before the first."""
        return self.param_groups[0]["d"].clone()

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Closure | None = None, *, loss: Loss | None = None
    ) -> Loss | None:
        """Take one step.

        Args:
            closure: evaluates the model, computes the gradients and returns the loss.
            loss: the loss, a 0-dim tensor on the parameters' device or a float. Instead of either
                it can be handed to :meth:`observe` beforehand.

        Returns:
            The loss as given, observed or returned; None where the state was made and nothing else
            (without a loss, at lr 0, which is how torch.distributed.checkpoint asks for it).

        Raises:
            ValueError: if the loss is given in no way or in two, is not 0-dim, or lies on another
                device.
            TypeError: if the loss is neither a tensor nor a number, or stands in the closure's
                place.
            RuntimeError: for sparse gradients.
        """
        self._place_scalars()
        given, f = self._evaluate(closure, loss, self.param_groups[0]["d"])
        if f is None:
            for p in (p for group in self.param_groups for p in group["params"]):
                if p.grad is not None:
                    self._moments(p)
            return None
        moving = [[p for p in group["params"] if p.grad is not None] for group in self.param_groups]
        if any(p.grad.is_sparse for params in moving for p in params):
            raise RuntimeError("Eve does not support sparse gradients")
        if all(group["foreach"] is None for group in self.param_groups):
            moments = [self._moments(p) for params in moving for p in params]
            tensors = flat(moving, [[m for m, _ in moments], [v for _, v in moments]])
            first, counts = self.param_groups[0], [len(params) for params in moving]
            layout = triton_layout(first["d"], tensors, counts, self._layout)
            if not torch.compiler.is_compiling():
                self._layout = layout
            if layout is not None:
                steps = [group["step"] for group in self.param_groups]
                feedback = (f, first["d"], first["f_hat"])
                triton_moments(self.param_groups, tensors, layout, steps, feedback)
                return given
        self._update_feedback(f)
        for group, params in zip(self.param_groups, moving, strict=True):
            if params:
                group["step"].add_(1)
                self._update(group, params)
        return given

    def _update_feedback(self, f: Tensor) -> None:
        first = self.param_groups[0]
        d, before, beta3 = first["d"], first["f_hat"], first["betas"][2]
        low, high = (1.0 + threshold for threshold in first["thresholds"])
        ratio = f / before
        change = torch.where(
            f >= before, ratio.clamp(low, high), ratio.clamp(1.0 / high, 1.0 / low)
        )
        after = change * before
        relative = (after - before).abs() / torch.minimum(after, before)

        known = torch.isfinite(f)
        started = before > 0.0  # f_hat is 0 until the first loss, which it then takes as it is
        torch.where(known & started, beta3 * d + (1.0 - beta3) * relative, d, out=d)
        torch.where(known, torch.where(started, after, f), before, out=before)

    def _update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        beta1, beta2, _ = group["betas"]
        step = group["step"].to(self.param_groups[0]["d"].dtype)
        step_size = group["lr"] / (1.0 - torch.pow(beta1, step))
        # d √v̂ = feedback √v
        feedback = self.param_groups[0]["d"] / (1.0 - torch.pow(beta2, step)).sqrt_()

        grads = [p.grad for p in params if p.grad is not None]
        moments = [self._moments(p) for p in params]
        means, squares = [m for m, _ in moments], [v for _, v in moments]
        apply = _apply_loop if group["foreach"] is False else apply_foreach
        for ws, gs, ms, vs in buckets(params, grads, means, squares):
            device, dtype = ws[0].device, torch.promote_types(ws[0].dtype, torch.float32)
            apply(
                ws,
                gs,
                ms,
                vs,
                weight_decay=group["weight_decay"],
                beta1=beta1,
                beta2=beta2,
                eps=group["eps"],
                feedback=feedback.to(device, dtype),
                step_size=step_size.to(device, dtype),
            )

    def _moments(self, param: Tensor) -> tuple[Tensor, Tensor]:
        state = self.state[param]
        if "exp_avg" not in state:
            state["exp_avg"] = torch.zeros_like(param)
            state["exp_avg_sq"] = torch.zeros_like(param)
        return state["exp_avg"], state["exp_avg_sq"]


def _apply_loop(
    params: list[Tensor],
    grads: list[Tensor],
    means: list[Tensor],
    squares: list[Tensor],
    *,
    weight_decay: float,
    beta1: float,
    beta2: float,
    eps: float,
    feedback: Tensor,
    step_size: Tensor,
) -> None:
    """The update of one list of parameters: the readable reference of the two."""
    for w, g, m, v in zip(params, grads, means, squares, strict=True):
        decayed = g + weight_decay * w
        m.mul_(beta1).add_((1.0 - beta1) * decayed)
        v.mul_(beta2).add_((1.0 - beta2) * decayed.square())
        w.sub_(step_size * m / (feedback * v.sqrt() + eps))


def apply_foreach(
    params: list[Tensor],
    grads: list[Tensor],
    means: list[Tensor],
    squares: list[Tensor],
    *,
    weight_decay: float,
    beta1: float,
    beta2: float,
    eps: float,
    feedback: Tensor | float,
    step_size: Tensor | float,
) -> None:
    """The same with multi-tensor operations."""
    if weight_decay != 0:
        grads = list(torch._foreach_add(grads, params, alpha=weight_decay))
    torch._foreach_lerp_(means, grads, 1.0 - beta1)
    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, grads, grads, value=1.0 - beta2)
    denominators = torch._foreach_sqrt(squares)
    if isinstance(feedback, Tensor):  # else it is 1, as in MatConvNetAdam
        torch._foreach_mul_(denominators, feedback)
    torch._foreach_add_(denominators, eps)
    steps = torch._foreach_mul(means, step_size)
    torch._foreach_addcdiv_(params, steps, denominators, value=-1.0)
