"""Which optimizers a CUDA graph can capture, and what they are told for that.

A step can be captured if it reads nothing on the host and writes nothing there. It is never tried
out: a capture that fails leaves torch's generators broken for the rest of the process.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from bpgrad.optim import BPGrad, Eve, MatConvNetAdam
from bpgrad.training.signatures import parameters_of

AS_THEY_ARE = (BPGrad, Eve, torch.optim.SGD, torch.optim.Adagrad)
WITH_A_SWITCH = (
    *(MatConvNetAdam, torch.optim.Adadelta, torch.optim.RMSprop, torch.optim.Adam),
    *(torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax),
)
# What a learning rate on the device has to be; torch's own kernels read a float32.
RATES: Mapping[type, torch.dtype] = {
    BPGrad: torch.float64,
    Eve: torch.float64,
    MatConvNetAdam: torch.float64,
    torch.optim.Adam: torch.float32,
    torch.optim.AdamW: torch.float32,
}


def arguments_on_cuda(optimizer: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with `capturable`, captured or not: both then have the same bits.

    torch's Adagrad has no fused kernel on CUDA, and MatConvNetAdam none that can be captured.
    """
    found = dict(arguments)
    if optimizer in WITH_A_SWITCH and "capturable" in {p.name for p in parameters_of(optimizer)}:
        found.setdefault("capturable", True)
    if found.get("fused") and (
        optimizer is torch.optim.Adagrad
        or (optimizer is MatConvNetAdam and found.get("capturable"))
    ):
        del found["fused"]
    return found


def obstacle(optimizer: Optimizer) -> str:
    """Why a graph cannot capture the step of an optimizer; empty if it can."""
    kind, groups = type(optimizer), optimizer.param_groups
    if kind not in (*AS_THEY_ARE, *WITH_A_SWITCH):
        return f"{kind.__qualname__} is not known to do without the host"
    if kind in WITH_A_SWITCH and not all(group["capturable"] for group in groups):
        return f"{kind.__qualname__} has capturable=False, as set or as its checkpoint has it"
    if kind is torch.optim.Adagrad and any(group["lr_decay"] for group in groups):
        return "Adagrad's lr_decay is computed on the host"
    return ""


def rate_type(optimizer: Optimizer) -> torch.dtype | None:
    """The dtype of a learning rate that lies on the device, None where it has to be a number."""
    fused = all(group.get("fused") for group in optimizer.param_groups)
    if type(optimizer) is torch.optim.SGD and fused:
        return torch.float32
    return RATES.get(type(optimizer))


def count_replays(optimizer: Optimizer, replays: int) -> None:
    """Count steps where the optimizer counts on the host, and a replayed graph has not."""
    if type(optimizer) is torch.optim.Adagrad:
        for state in optimizer.state.values():
            state["step"] += replays
