"""The BPGrad solver: branch and pruning reduced to one adaptive step length (Eq. 12, Alg. 2)."""

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from bpgrad.optim._fused import Layout, flat, fused_layout, fused_step
from bpgrad.optim._kernels import add_decay, global_norm, update, where
from bpgrad.optim._lipschitz import check_lipschitz, follow_norm, lipschitz_of
from bpgrad.optim._loss_aware import Closure, Loss, LossAwareOptimizer, check_group, first_group
from bpgrad.optim._noise import GOLDEN_GAMMA, gaussian_like, mix
from bpgrad.optim._options import check_options
from bpgrad.optim._sharding import refuse_local_shards
from bpgrad.optim._watch import Watch

GLOBAL_OPTIONS = ("rho", "variant", "on_zero_gradient", "foreach", "fused")


class BPGrad(LossAwareOptimizer):
    r"""Steps as long as an L-Lipschitz loss needs at least to fall to its estimated minimum.

    With the loss ``f``, its gradient ``g`` and one norm over all parameters of all groups:

    .. math::
        f_{min} &← \min(f_{min}, f), \qquad η = lr · \max(f − ρ f_{min}, 0) / L \\
        \text{paper:}\quad    v &← μ v − η (g + λw) / ‖g + λw‖, \qquad w ← w + v \\
        \text{released:}\quad v &← μ v − (g + λw) / ‖g‖, \qquad\qquad w ← w + η v

    ``paper`` is Alg. 2 of the CVPR 2018 paper, ``released`` the authors' code of 2020 (reference
    section 4), which scales the whole velocity by the current η and leaves the weight decay out of
    the norm. For ``f ≥ 0`` and ``lr = 1``, ``(1 − ρ) f / L ≤ η ≤ f / L``.

    Each step is given the loss whose gradient lies in the parameters' ``.grad``::

        loss.backward()
        optimizer.step(loss=loss)

    Nothing is read back to the host, and no Python branch depends on a tensor, so special cases are
    masked on the device:

    * loss or gradient NaN or infinite: nothing changes but ``skipped_steps``;
    * negative loss: ``f_min`` keeps it, η is at least 0, ``negative_losses`` counts it;
    * norm zero: the normalised gradient is 0 (``"skip"``: the remaining velocity still moves the
      parameters, in ``released`` too) or a random unit vector (``"random"``, as in the paper).

    Where ``grad_norm`` exceeds L the loss is not L-Lipschitz, and what the paper proves of the step
    does not hold: ``exceeded_steps`` counts it. Warnings say, some 200 steps later at most, since
    the numbers are copied to the host in the background, that L is too small or far too large, or
    that steps were skipped.

    Norms are accumulated in float64, and all scalars are float64 or int64 tensors in the parameter
    groups: ``state_dict`` carries them, ``step_size`` in each group, the global ones in the first.
    ``state[p]["momentum_buffer"]`` is the velocity v, in the dtype of its parameter. Parameters
    without a gradient are left alone.

    Args:
        params: tensors, or dicts that define groups; a group can have its own ``lr``,
            ``weight_decay``, ``momentum`` and ``lipschitz``, hence its own η.
        lipschitz: L > 0, the Lipschitz constant of the loss, in units of loss per unit of length;
            :func:`suggest_lipschitz` proposes one. Or ``"auto"``: the running estimate
            ``max(2 ‖g‖, 0.999 · estimate before)`` of the steps taken, this one included. Like any
            estimate it certifies nothing: what the paper proves for a known L does not hold.
        rho: ρ in [0, 1); the minimum is estimated as ρ times the smallest loss seen.
        momentum: μ in [0, 1).
        lr: plain multiplier of η, for LR schedulers; a float or a 0-dim tensor.
        weight_decay: λ ≥ 0, coupled (added to the gradient).
        variant: ``"paper"`` or ``"released"``.
        on_zero_gradient: ``"skip"`` or ``"random"``. The latter draws a direction in every step,
            whether it is used or not; it is a function of ``torch.initial_seed()`` at construction
            and of the step count, takes nothing from torch's generators and is the same on every
            device.
        foreach: True for multi-tensor operations, False for a loop over the parameters.
        fused: True for the compiled CPU kernel, on CUDA Triton's: they pass over memory twice and
            take dense float32, float64, bfloat16 (CUDA: float16) parameters and gradients of one
            layout. None for both: fused where possible, else foreach.

    Raises:
        ValueError: for a value outside its range, or a group that sets its own global option.
        TypeError: for an L that is neither a number nor ``"auto"``.
        RuntimeError: for ``fused`` together with ``foreach`` or ``on_zero_gradient="random"``, or
            where there is no kernel; for parameters that are one rank's part of larger ones
            and not DTensors (ZeroRedundancyOptimizer, FullyShardedDataParallel).
    """

    _scalars = (
        *("step_size", "f_min", "grad_norm", "max_grad_norm", "lipschitz_estimate", "seed"),
        *("step", "skipped_steps", "negative_losses", "exceeded_steps"),
    )
    # Whether λw stands inside the norm, and whether the velocity accumulates η-scaled steps.
    _variants: ClassVar = {"paper": (True, True), "released": (False, False)}
    _layout: Layout | None = None  # of the tensors of the last fused step
    _watch: Watch | None = None

    def __init__(
        self,
        params: ParamsT,
        lipschitz: float | Literal["auto"],
        *,
        rho: float = 0.1,
        momentum: float = 0.9,
        lr: float | Tensor = 1.0,
        weight_decay: float = 0.0,
        variant: str = "paper",
        on_zero_gradient: str = "skip",
        foreach: bool | None = None,
        fused: bool | None = None,
    ) -> None:
        check_options(rho, variant, self._variants, on_zero_gradient, foreach, fused)
        defaults: dict[str, Any] = {
            "lipschitz": lipschitz,
            "rho": rho,
            "momentum": momentum,
            "lr": lr,
            "weight_decay": weight_decay,
            "variant": variant,
            "on_zero_gradient": on_zero_gradient,
            "foreach": foreach,
            "fused": fused,
        }
        super().__init__(params, defaults)
        self.param_groups[0].update(
            f_min=self._new_scalar(math.inf),
            grad_norm=self._new_scalar(0.0),
            max_grad_norm=self._new_scalar(0.0),
            lipschitz_estimate=self._new_scalar(0.0),
            step=self._new_scalar(0, torch.int64),
            skipped_steps=self._new_scalar(0, torch.int64),
            negative_losses=self._new_scalar(0, torch.int64),
            exceeded_steps=self._new_scalar(0, torch.int64),
        )
        if on_zero_gradient == "random":
            seed = torch.initial_seed() % 2**63
            self.param_groups[0]["seed"] = self._new_scalar(seed, torch.int64)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; it shares ρ, ``f_min`` and the norm with the others.

        Raises:
            ValueError: for a value outside its range, or a global option that differs.
            TypeError, RuntimeError: as the constructor.
        """
        options = {**self.defaults, **param_group}
        check_group(options)
        check_lipschitz(options["lipschitz"])
        if not 0.0 <= options["momentum"] < 1.0:
            raise ValueError(f"Invalid momentum value: {options['momentum']}")
        for name in GLOBAL_OPTIONS:
            if options[name] != self.defaults[name]:
                raise ValueError(f"{name} is global: a parameter group cannot have its own")
        super().add_param_group(param_group)
        refuse_local_shards(self.param_groups[-1]["params"])
        self.param_groups[-1]["step_size"] = self._new_scalar(0.0)

    step_size = first_group("step_size", "η of the first group at the last step taken; 0 at first.")
    f_min = first_group("f_min", "The smallest finite loss seen; infinite before the first step.")
    grad_norm = first_group("grad_norm", "The norm that divides: ‖g + λw‖, in ``released`` ‖g‖.")
    lipschitz_estimate = first_group("lipschitz_estimate", 'What stands for an L of ``"auto"``.')
    skipped_steps = first_group("skipped_steps", "Steps whose loss or gradient was not finite.")
    negative_losses = first_group("negative_losses", "Steps with a loss below 0: no bounds hold.")
    exceeded_steps = first_group("exceeded_steps", "Steps whose norm was above the smallest L.")

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        first = self.param_groups[0]  # of states that were saved before these existed
        first.setdefault("exceeded_steps", self._new_scalar(0, torch.int64))
        first.setdefault("max_grad_norm", self._new_scalar(0.0))
        first.setdefault("lipschitz_estimate", self._new_scalar(0.0))

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Closure | None = None, *, loss: Loss | None = None
    ) -> Loss | None:
        """Take one step.

        Args:
            closure: evaluates the model, computes the gradients and returns the loss.
            loss: the loss, a 0-dim tensor on the parameters' device or a float; with loss scaling
                the unscaled one, under data parallelism the mean over the ranks. Instead of either
                it can be handed to :meth:`observe` beforehand.

        Returns:
            The loss as given, observed or returned; None where the state was made and nothing else
            (without a loss, at lr 0, which is how torch.distributed.checkpoint asks for it).

        Raises:
            ValueError: if the loss is given in no way or in two, is not 0-dim, or lies on another
                device.
            TypeError: if the loss is neither a tensor nor a number, or stands in the closure's
                place.
            RuntimeError: for sparse gradients, or if ``fused=True`` cannot be honoured.
        """
        self._place_scalars()
        given, f = self._evaluate(closure, loss, self.param_groups[0]["f_min"])
        params = [[p for p in group["params"] if p.grad is not None] for group in self.param_groups]
        velocities = [[self._velocity(p) for p in ps] for ps in params]
        if f is None:
            return None
        tensors, counts = flat(params, velocities), [len(ps) for ps in params]
        layout = fused_layout(self.param_groups[0], tensors, counts, self._layout)
        if layout is not None:
            fused_step(self.param_groups, tensors, layout, f)
        else:
            self._step(params, velocities, f)
        if not torch.compiler.is_compiling():
            self._layout = layout
            if self._watch is None:
                self._watch = Watch()
            self._watch.look(self.param_groups, f)
        return given

    def _step(self, params: list[list[Tensor]], velocities: list[list[Tensor]], f: Tensor) -> None:
        """The step in torch's operations, as a loop over the parameters or multi-tensor."""
        shared = self.param_groups[0]
        decay_in_norm, steps_in_velocity = self._variants[shared["variant"]]
        loop = shared["foreach"] is False
        grads = [[p.grad for p in ps if p.grad is not None] for ps in params]
        directions = [
            add_decay(gs, ps, group["weight_decay"], loop)
            for group, gs, ps in zip(self.param_groups, grads, params, strict=True)
        ]
        norm = global_norm(directions if decay_in_norm else grads, shared["f_min"], loop)
        divisor = norm.masked_fill(norm == 0.0, math.inf)  # d = 0 where the norm is 0
        if shared["on_zero_gradient"] == "random":
            key = mix(shared["seed"] + shared["step"] * GOLDEN_GAMMA)
            noise = gaussian_like(directions, key)
            directions = where(norm == 0.0, noise, directions)
            divisor = torch.where(norm == 0.0, global_norm(noise, norm, loop), divisor)

        skipped = ~(f.abs() + norm < math.inf)  # a NaN compares as False
        f = f.masked_fill(skipped, math.inf)
        f_min = shared["f_min"]
        torch.fmin(f_min, f, out=f_min)
        gap = f.sub(f_min, alpha=shared["rho"]).clamp_(min=0.0)
        follow_norm(shared, norm, skipped)
        lipschitz = [lipschitz_of(g, shared["lipschitz_estimate"]) for g in self.param_groups]

        for group, constant, ps, ds, vs in zip(
            self.param_groups, lipschitz, params, directions, velocities, strict=True
        ):
            eta = group["step_size"]
            torch.where(skipped, eta, gap * group["lr"] / constant, out=eta)
            if ps:
                factor = (eta if steps_in_velocity else torch.ones_like(eta)).div(divisor).neg_()
                fresh = group["weight_decay"] != 0  # else the directions are the gradients
                reach = None if steps_in_velocity else eta
                update(ps, ds, vs, group["momentum"], factor, reach, skipped, loop, fresh)

        torch.where(skipped, shared["grad_norm"], norm, out=shared["grad_norm"])
        shared["step"].add_(~skipped)
        shared["skipped_steps"].add_(skipped)
        shared["negative_losses"].add_(f < 0.0)
        numbers = [constant for constant in lipschitz if not isinstance(constant, Tensor)]
        # ‖g‖ never exceeds the estimate, which is made of it.
        smallest = min(numbers, default=math.inf)
        shared["exceeded_steps"].add_((norm > smallest) & ~skipped)

    def _velocity(self, param: Tensor) -> Tensor:
        state = self.state[param]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(param)
        return state["momentum_buffer"]
