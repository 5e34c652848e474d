"""What stands for L: a number, or the running estimate of ``lipschitz="auto"``."""

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor

# The estimate after step t is max(MARGIN · ‖g_t‖, MEMORY · estimate before), from 0.
MARGIN = 2.0  # the largest gradient seen is not the largest there is
MEMORY = 0.999  # per step: the large gradients of the first steps lose their weight, half in 693


def check_lipschitz(value: Any) -> None:
    """Refuse what is neither a positive finite number nor ``"auto"``.

    Raises:
        TypeError: for anything but a number or ``"auto"``.
        ValueError: for a number outside (0, inf).
    """
    if isinstance(value, str) and value == "auto":
        return
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"Invalid lipschitz: {value!r} (a number in (0, inf), or 'auto')")
    if not 0.0 < float(value) < math.inf:
        raise ValueError(f"Invalid lipschitz value: {value} (a number in (0, inf), or 'auto')")


def follow_norm(shared: dict[str, Any], norm: Tensor, skipped: Tensor) -> None:
    """Update the largest norm and the estimate of L in the first group, unless ``skipped``."""
    seen = norm.masked_fill(skipped, 0.0)
    torch.maximum(shared["max_grad_norm"], seen, out=shared["max_grad_norm"])
    estimate = shared["lipschitz_estimate"]
    faded = torch.where(skipped, estimate, MEMORY * estimate)
    torch.maximum(faded, MARGIN * seen, out=estimate)


def lipschitz_of(group: dict[str, Any], estimate: Tensor) -> float | Tensor:
    """L of a group; infinite, hence a step of length 0, while there is no estimate."""
    if group["lipschitz"] == "auto":
        return estimate.masked_fill(estimate == 0.0, math.inf)
    lipschitz: float = group["lipschitz"]
    return lipschitz
