"""Batch normalisation as MatConvNet does it, and its statistics estimated again (reference §5)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

MOMENTUM, EPS = 0.1, 1e-4


class BatchNorm(nn.Module):
    """Normalises (N, C) or (N, C, H, W) by the batch in training, by moving statistics otherwise.

    Differs from `nn.BatchNorm2d` in what moves: 0.9 · old + 0.1 · batch of the mean and of
    **σ = √(var + ε)**, var being the biased variance, where torch's is the unbiased one and moves
    itself. ε = 1e-4. A batch of one value a channel is allowed; it becomes β. γ starts at 1, β at
    0, the moving mean and σ at 0 and 1, of which 0.9^t is left after t steps.

    Processes that train together normalise by the whole minibatch, as one alone does (MatConvNet's
    GPUs each by its share). In training each of them has to come by; in test mode none waits.
    """

    running_mean: Tensor
    running_sigma: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_sigma", torch.ones(channels))
        self.sums: Tensor | None = None  # Σ 1, Σ x and Σ x² a channel, while they are gathered

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            shape = (1, -1) + (1,) * (input.dim() - 2)
            scale = self.weight / self.running_sigma
            shift = self.bias - self.running_mean * scale
            scale, shift = scale.to(input.dtype), shift.to(input.dtype)
            return torch.addcmul(shift.view(shape), input, scale.view(shape))
        if dist.is_initialized() and dist.get_world_size() > 1:
            output, mean, inverse = self._over_processes(input)
        else:
            output, mean, inverse = torch.native_batch_norm(
                input, self.weight, self.bias, None, None, True, 0.0, EPS
            )
        with torch.no_grad():
            if self.sums is None:
                self.running_mean.lerp_(mean, MOMENTUM)
                self.running_sigma.lerp_(1 / inverse, MOMENTUM)
            else:
                count = input.numel() // input.shape[1]
                square = inverse.double() ** -2 - EPS + mean.double() ** 2
                self.sums += count * torch.stack([torch.ones_like(square), mean.double(), square])
        return output

    def _over_processes(self, input: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `native_batch_norm` returns, of all processes' inputs as one batch."""
        dims = [0, *range(2, input.dim())]
        shape = (1, -1) + (1,) * (input.dim() - 2)
        x = input.float()
        count = _over_all(x.new_tensor(x.numel() // x.shape[1]))
        mean = _over_all(x.sum(dims)) / count
        centred = x - mean.view(shape)
        inverse = (_over_all(centred.square().sum(dims)) / count + EPS).rsqrt()
        scale = (self.weight * inverse).view(shape)
        output = (centred * scale + self.bias.view(shape)).to(input.dtype)
        return output, mean.detach(), inverse.detach()


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes, of which each gets the gradients of all."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return _over_all(gradient)


def _over_all(x: Tensor) -> Tensor:
    found: Tensor = _Sum.apply(x)
    return found


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """While entered, each `BatchNorm` normalises by the batch, and nothing moves."""
    with _gathering(model):
        model.train()
        yield


@contextmanager
def reestimated(
    model: nn.Module,
    run: Callable[[], None],
    sum_: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> Iterator[None]:
    """While entered, each `BatchNorm` has the mean and σ of all that `run` puts through the model.

    The model is in training mode for `run` (each layer normalises by the batch, nothing moves), and
    in test mode for the block. `sum_` adds a tensor up over processes, in place. Afterwards moving
    statistics and mode are as they were.
    """
    layers = [module for module in model.modules() if isinstance(module, BatchNorm)]
    kept = [(layer.running_mean.clone(), layer.running_sigma.clone()) for layer in layers]
    mode = model.training
    try:
        with _gathering(model), torch.no_grad():
            model.train()
            run()
            for layer in layers:
                assert layer.sums is not None
                count, total, squares = sum_(layer.sums)
                mean = total / count
                variance = (squares / count - mean**2).clamp(min=0)
                layer.running_mean.copy_(mean)
                layer.running_sigma.copy_((variance + EPS).sqrt())
        model.eval()
        yield
    finally:
        for layer, (mean, sigma) in zip(layers, kept, strict=True):
            layer.running_mean.copy_(mean)
            layer.running_sigma.copy_(sigma)
        model.train(mode)


@contextmanager
def _gathering(model: nn.Module) -> Iterator[None]:
    """While entered, layers in training mode add to their `sums` instead of what moves."""
    layers = [module for module in model.modules() if isinstance(module, BatchNorm)]
    for layer in layers:
        size = 3, len(layer.weight)
        layer.sums = torch.zeros(size, dtype=torch.float64, device=layer.weight.device)
    try:
        yield
    finally:
        for layer in layers:
            layer.sums = None
