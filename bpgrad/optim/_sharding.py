"""Refuses wrappers that hand an optimizer a part of the parameters without telling it so."""

import sys
from collections.abc import Iterable
from typing import Any

ADVICE = (
    "and BPGrad needs the norm over all of them: shard with torch.distributed.fsdp.fully_shard, "
    "whose DTensors know their whole"
)


def refuse_local_shards(params: Iterable[Any]) -> None:
    """Refuse parameters whose plain tensors are this rank's part of larger ones.

    Raises:
        RuntimeError: under ZeroRedundancyOptimizer and FullyShardedDataParallel.
    """
    if any(getattr(p, "_fsdp_flattened", False) for p in params):
        raise RuntimeError(
            f"FullyShardedDataParallel gives each rank a part of the parameters, {ADVICE}"
        )
    # The wrapper leaves no mark on the parameters, but it constructs the optimizer itself.
    module = sys.modules.get("torch.distributed.optim.zero_redundancy_optimizer")
    frame = sys._getframe(1) if module is not None else None
    while frame is not None:
        if isinstance(frame.f_locals.get("self"), module.ZeroRedundancyOptimizer):  # type: ignore[union-attr]
            raise RuntimeError(
                f"ZeroRedundancyOptimizer gives each rank a part of the parameters, {ADVICE}"
            )
        frame = frame.f_back
