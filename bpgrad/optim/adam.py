"""Adam as MatConvNet computes it."""

import inspect
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam
from torch.optim.optimizer import ParamsT

from bpgrad.optim._fused import Layout, flat, triton_layout, triton_moments
from bpgrad.optim._loss_aware import buckets
from bpgrad.optim.eve import apply_foreach

# Optimizer patches the step of every class that is instantiated so that it runs the step hooks;
# MatConvNetAdam.step gets its own patch, and must not run them again in the step that it builds on.
_adam_step = inspect.unwrap(Adam.step, stop=lambda function: not hasattr(function, "hooked"))


class MatConvNetAdam(Adam):
    r"""Adam with ε outside the bias correction (reference section 3).

    .. math::
        w ← w − lr \frac{\sqrt{1 − β_2^t}}{1 − β_1^t} \frac{m}{\sqrt v + ε}

    ``torch.optim.Adam`` divides by :math:`\sqrt v + ε \sqrt{1 − β_2^t}` instead, which is far
    smaller in the first steps and matters for gradients as small as ε. This class runs torch's
    kernels with ε / √(1 − β2^t) during step t, and is the same but for rounding. They read ε on the
    host, so with ``capturable`` the formula itself is computed: on CUDA by Triton's kernels where
    they can be and ``foreach`` is None, else by multi-tensor operations.

    t is counted per group, as ``group["steps"]``: parameters that first get a gradient later than
    others of their group take the ε of the group.

    Args:
        params: tensors, or dicts that define groups with their own ``lr``, ``betas``, ``eps`` or
            ``weight_decay``.
        lr: learning rate.
        betas: β1 and β2, each in [0, 1).
        eps: ε ≥ 0.
        weight_decay: λ ≥ 0, coupled (added to the gradient).
        foreach, fused: as in ``torch.optim.Adam``.
        capturable: True for a step that a CUDA graph can capture, of any of the groups; it excludes
            ``fused``, and nothing is read by the host. Works on the CPU too.

    Raises:
        ValueError: for a value outside its range.
        RuntimeError: for ``fused`` together with ``foreach`` or ``capturable``.
    """

    _layout: Layout | None = None  # of the tensors of the last step, if it was Triton's

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
    ) -> None:
        if fused and capturable:
            raise RuntimeError("`fused` and `capturable` cannot be `True` together.")
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            foreach=foreach,
            fused=fused,
            capturable=capturable,
        )
        # Let GradScaler leave out a step with infinite gradients as a whole: t must not count it.
        self._step_supports_amp_scaling = False

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its t starts at 0."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        # A captured step has to count on the device.
        device = group["params"][0].device
        group["steps"] = (
            torch.zeros((), dtype=torch.float64, device=device) if group["capturable"] else 0
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; later steps do not write into ``state_dict``, as torch's own would."""
        super().load_state_dict(deepcopy(state_dict))
        for group in self.param_groups:
            if isinstance(group["steps"], Tensor):
                group["steps"] = group["steps"].to(group["params"][0].device)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; the gradients are those that ``closure`` computes, if it is given.

        Returns:
            What ``closure`` returned, else None.

        Raises:
            RuntimeError: for sparse gradients.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moved = [g for g in self.param_groups if any(p.grad is not None for p in g["params"])]
        if any(group["capturable"] for group in self.param_groups):
            if not self._triton_step():
                for group in moved:
                    self._capturable_step(group)
            return loss
        given = [group["eps"] for group in moved]
        try:
            for group in moved:
                t = group["steps"] + 1
                group["eps"] = group["eps"] / (1.0 - group["betas"][1] ** t) ** 0.5
            _adam_step(self)
        finally:
            for group, eps in zip(moved, given, strict=True):
                group["eps"] = eps
        for group in moved:
            group["steps"] += 1
        return loss

    @torch.no_grad()
    def _triton_step(self) -> bool:
        """Whether Triton's kernels could take the step and have."""
        groups = self.param_groups
        if any(g["foreach"] is not None or not isinstance(g["steps"], Tensor) for g in groups):
            return False
        params = [[p for p in group["params"] if p.grad is not None] for group in groups]
        if any(p.grad.is_sparse for ps in params for p in ps):
            return False
        counts = [len(ps) for ps in params]
        means, squares, steps = self._state_of([p for ps in params for p in ps])
        tensors = flat(params, [means, squares])
        self._layout = triton_layout(groups[0]["steps"], tensors, counts, self._layout)
        if self._layout is None:
            return False
        torch._foreach_add_(steps, 1)
        triton_moments(groups, tensors, self._layout, [g["steps"] for g in groups], None)
        return True

    @torch.no_grad()
    def _capturable_step(self, group: dict[str, Any]) -> None:
        """The formula for one group, with t, and what depends on it, on the device."""
        params = [p for p in group["params"] if p.grad is not None]
        if any(p.grad.is_sparse for p in params):
            raise RuntimeError("MatConvNetAdam does not support sparse gradients")
        means, squares, steps = self._state_of(params)
        torch._foreach_add_(steps, 1)
        group["steps"] += 1
        (beta1, beta2), t = group["betas"], group["steps"]
        step_size = group["lr"] * (1.0 - beta2**t) ** 0.5 / (1.0 - beta1**t)
        for ws, gs, ms, vs in buckets(params, [p.grad for p in params], means, squares):
            length = step_size
            if isinstance(step_size, Tensor):
                dtype = torch.promote_types(ws[0].dtype, torch.float32)
                length = step_size.to(ws[0].device, dtype)
            apply_foreach(
                *(ws, gs, ms, vs),
                weight_decay=group["weight_decay"],
                beta1=beta1,
                beta2=beta2,
                eps=group["eps"],
                feedback=1.0,
                step_size=length,
            )

    def _state_of(self, params: list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Means, mean squares and counts: what torch's Adam keeps, made where it is missing."""
        for p in params:
            if not self.state[p]:
                self.state[p].update(
                    step=torch.zeros((), dtype=torch.float32, device=p.device),
                    exp_avg=torch.zeros_like(p),
                    exp_avg_sq=torch.zeros_like(p),
                )
        means, squares, steps = (
            [self.state[p][name] for p in params] for name in ("exp_avg", "exp_avg_sq", "step")
        )
        return means, squares, steps
