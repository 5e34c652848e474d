"""Warnings about steps that do no good, from copies that the host never waits for."""

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from bpgrad.optim._kernels import global_norm

EARLY = (10, 20)  # steps at which to look: a wrong L shows within ten of them
EVERY = 100  # steps between two looks after that
TINY = 1e-6  # f/(L ‖w‖) below which a million steps would not get anywhere
DIVERGED = 100.0  # ‖g‖/L beyond which ‖g‖ says nothing of L any more
WATCHED = ("step", "skipped_steps", "exceeded_steps", "max_grad_norm")
AT_STEP = 6  # frames to the caller of step, past torch's two wrappers of it


class Watch:
    """Looks after 10 and 20 steps and every 100, at numbers whose copy began a look before.

    On a GPU a copy that is not yet complete shows the numbers before. Each warning is given once,
    that of skipped steps again whenever their number has grown tenfold.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.reach: Tensor | None = None  # f/(L ‖w‖) of the first step, on the device
        self.host: Tensor | None = None  # the copy
        self.due = {"L too small", "L too large"}
        self.skipped_before_next = 1

    def look(self, groups: list[dict[str, Any]], loss: Tensor) -> None:
        """Count a step, and now and then warn of what is seen."""
        self.calls += 1
        if self.calls not in (1, *EARLY) and self.calls % EVERY:
            return
        shared = groups[0]
        if loss.is_meta or (loss.is_cuda and torch.cuda.is_current_stream_capturing()):
            return
        if self.calls == 1:
            self.reach = reach_of(shared, loss)
            return
        watched = [shared[name].to(loss.dtype) for name in WATCHED]
        if self.reach is not None:
            watched.append(self.reach)
        seen = torch.stack(watched)
        if self.host is None:
            self.host = torch.zeros(seen.shape, dtype=seen.dtype, pin_memory=seen.is_cuda)
        else:
            self._warn(groups, *self.host.numpy().tolist())
        self.host.copy_(seen, non_blocking=True)

    def _warn(
        self,
        groups: list[dict[str, Any]],
        taken: float,
        skipped: float,
        exceeded: float,
        norm: float,
        reach: float = math.inf,
    ) -> None:
        """Say what the numbers of a look ago mean, and what to do."""
        steps = f"{taken + skipped:.0f} steps"
        lipschitz = min((g["lipschitz"] for g in groups if g["lipschitz"] != "auto"), default=0.0)
        if exceeded and "L too small" in self.due:
            self.due.remove("L too small")
            where = f"in {exceeded:.0f} of {steps}, where BPGrad's bounds do not hold"
            if norm > DIVERGED * lipschitz:
                advice = "the run has diverged: start again with what suggest_lipschitz proposes"
            else:
                advice = f"unless the loss falls all the same, try {_round_up(norm)} or more"
            warnings.warn(
                f"L = {lipschitz:g} is too small here: ‖g‖ reached {norm:.2g}, above L {where}; "
                f"{advice}",
                stacklevel=AT_STEP,
            )
        if skipped >= self.skipped_before_next:
            self.skipped_before_next = 10 * int(skipped)
            warnings.warn(
                f"{skipped:.0f} of {steps} were skipped: their loss or gradient was not "
                "finite; where many are, L is too small, or the loss overflows",
                stacklevel=AT_STEP,
            )
        if 0.0 < reach < TINY and "L too large" in self.due:
            self.due.remove("L too large")
            warnings.warn(
                f"η/‖w‖ was {reach:.1g} in the first step, too short to get anywhere: "
                f"L = {groups[0]['lipschitz']:g} may be far too large; see suggest_lipschitz",
                stacklevel=AT_STEP,
            )


def reach_of(group: dict[str, Any], loss: Tensor) -> Tensor | None:
    """How much of ‖w‖ of a group the longest step f/L is; None where L is not a number."""
    weights = [p.detach() for p in group["params"] if p.numel()]
    if group["lipschitz"] == "auto" or not weights:
        return None
    norm = global_norm([weights], loss, loop=group["foreach"] is False)
    reach = loss.detach() / (group["lipschitz"] * norm)
    # Of a resumed run the loss says nothing: it has fallen.
    return reach.masked_fill(group["step"] > 1, math.inf)


def _round_up(value: float) -> str:
    """Two digits, and not less than ``value``."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / unit) * unit:g}"
