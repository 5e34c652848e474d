"""From a solver's settings to an optimizer, its learning rates and the loss it is told."""

import inspect
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bpgrad.training.config import SolverSpec


def build_optimizer(
    spec: SolverSpec, model: nn.Module, multipliers: Mapping[str, float]
) -> Optimizer:
    """The optimizer, one parameter group for each learning-rate multiplier in use.

    Each group keeps its multiplier as "lr_multiplier".
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = multipliers.get(name, 1.0) if spec.lr_multipliers else 1.0
            groups.setdefault(factor, []).append(parameter)
    optimizer: Optimizer = spec.optimizer(
        [{"params": parameters, "lr_multiplier": factor} for factor, parameters in groups.items()],
        **spec.arguments,
    )
    return optimizer


def set_learning_rate(optimizer: Optimizer, spec: SolverSpec, epoch: int) -> float | None:
    """Set every group's rate for an epoch (from 1), and return the common factor's product with lr.

    The rate is a function of the epoch alone, hence needs no state in a checkpoint. None if the
    optimizer has no `lr`.
    """
    base = spec.arguments.get("lr", optimizer.defaults.get("lr"))
    if base is None:
        return None
    passed = [factor for start, factor in spec.lr_factors.items() if start <= epoch]
    rate = base * (passed[-1] if passed else 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_multiplier"]
    return rate


def takes_loss(optimizer: Optimizer) -> bool:
    """Whether `step` wants to be told the loss."""
    return "loss" in inspect.signature(type(optimizer).step).parameters


class LossFeedback:
    """The loss that a loss-aware solver is told (`solver.objective`), kept on the device.

    batch               the minibatch objective
    epoch_mean          the example-weighted mean over the epoch so far (the authors' code)
    regularized_batch   the minibatch objective + Σ λ/2 ‖w‖², whose gradient is g + λw
    """

    def __init__(self, kind: str, optimizer: Optimizer, device: torch.device) -> None:
        self.kind = kind
        self.optimizer = optimizer
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)

    def start_epoch(self) -> None:
        self.sums.zero_()

    @torch.no_grad()
    def __call__(self, objective: Tensor, examples: int) -> Tensor:
        """The solver's loss for a minibatch of so many examples; a 0-dim tensor."""
        if self.kind == "epoch_mean":
            self.sums[0] += objective * examples
            self.sums[1] += examples
            return (self.sums[0] / self.sums[1]).to(objective.dtype)
        if self.kind == "regularized_batch":
            for group in self.optimizer.param_groups:
                decay = group.get("weight_decay", 0.0)
                if decay:
                    for parameter in group["params"]:
                        objective = objective + decay / 2 * parameter.square().sum()
        return objective
