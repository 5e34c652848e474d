"""A first value for L, from a few minibatches of the user's own loop."""

import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim.optimizer import ParamsT

from bpgrad.optim._lipschitz import MARGIN
from bpgrad.optim.bpgrad import BPGrad

Batch = TypeVar("Batch")


def suggest_lipschitz(
    model_or_params: Module | ParamsT,
    loss_fn: Callable[[Batch], Tensor],
    batches: Iterable[Batch],
    **options: Any,
) -> float:
    """Twice the largest ‖g‖ that a few trial steps meet: where to start with L.

    A trial with ``lipschitz="auto"`` is run over the minibatches, some fifty of them, from where
    the model stands. What is measured is the norm of the minibatches' gradients along that path;
    it grows in the first steps, so that the gradient at the start alone would say too little. It is
    no bound on the Lipschitz constant of the loss.

    Afterwards parameters, their gradients, the model's buffers and torch's random number generators
    are as they were. ``batches`` is consumed. The host reads one number, at the end. ::

        batches = itertools.islice(loader, 50)
        L = suggest_lipschitz(model, lambda batch: criterion(model(batch[0]), batch[1]), batches)

    Args:
        model_or_params: the model, or what an optimizer takes: its parameters, named or not, or
            groups of them (then the buffers are not put back).
        loss_fn: from a minibatch to its loss, 0-dim; ``backward`` is called on what it returns.
        batches: minibatches as in training.
        options: of :class:`BPGrad` (``momentum``, ``weight_decay``, ``variant`` …), as in training.

    Raises:
        ValueError: without batches, if no gradient is finite, or if all are zero.
        TypeError: for a single tensor, or what else is no parameters, as :class:`BPGrad`.
    """
    given: Any = model_or_params
    if isinstance(given, Module):
        given = [p for p in given.parameters() if p.requires_grad]
    elif not isinstance(given, Tensor):
        given = [dict(each) if isinstance(each, dict) else each for each in given]  # not changed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trial = BPGrad(given, "auto", **options)
    params: list[Tensor] = [p for group in trial.param_groups for p in group["params"]]
    tensors = [*params]
    if isinstance(model_or_params, Module):
        tensors = [*model_or_params.parameters(), *model_or_params.buffers()]
    kept = [t.detach().clone() for t in tensors]
    grads = [p.grad for p in params]
    devices = {p.device.index for p in params if p.is_cuda}
    count = 0
    with torch.random.fork_rng(devices), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for batch in batches:
                count += 1
                trial.zero_grad()
                with torch.enable_grad():
                    loss = loss_fn(batch)
                    loss.backward()
                trial.step(loss=loss.detach())
        finally:
            with torch.no_grad():
                for tensor, before in zip(tensors, kept, strict=True):
                    tensor.copy_(before)
            for p, grad in zip(params, grads, strict=True):
                p.grad = grad
    if not count:
        raise ValueError("suggest_lipschitz needs a few batches, and got none")
    largest = trial.param_groups[0]["max_grad_norm"].item()
    if not 0.0 < largest < math.inf:
        raise ValueError(
            f"suggest_lipschitz has seen no finite gradient but 0 in {count} batches: look whether"
            " the loss is finite and depends on the parameters"
        )
    return float(f"{MARGIN * largest:.2g}")
