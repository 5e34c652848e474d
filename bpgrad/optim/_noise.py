"""Normal random numbers that are a function of a key on the device, without a generator."""

import math

import torch
from torch import Tensor

# Counter-based random numbers (splitmix64 and Box-Muller): a captured or compiled step draws afresh
# without a generator, whose state could neither be captured nor be kept equal between devices.
GOLDEN_GAMMA = 0x9E3779B97F4A7C15 - 2**64
MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
MIX_2 = 0x94D049BB133111EB - 2**64


def mix(z: Tensor) -> Tensor:
    """The finaliser of splitmix64: int64 in, int64 out; >> is arithmetic, hence the masks."""
    z = (z ^ ((z >> 30) & (2**34 - 1))) * MIX_1
    z = (z ^ ((z >> 27) & (2**37 - 1))) * MIX_2
    return z ^ ((z >> 31) & (2**33 - 1))


def gaussian_noise(like: Tensor, key: Tensor) -> Tensor:
    """Standard normal numbers shaped like ``like``, a function of the 0-dim int64 ``key`` alone."""
    count = like.numel()
    bits = mix(key + torch.arange(1, 2 * count + 1, device=like.device) * GOLDEN_GAMMA)
    uniform = (((bits >> 40) & (2**24 - 1)).float() + 0.5) * 2.0**-24  # in (0, 1)
    radius = torch.sqrt(-2.0 * torch.log(uniform[:count]))
    return (radius * torch.cos(2.0 * math.pi * uniform[count:])).view_as(like).to(like.dtype)


def gaussian_like(groups: list[list[Tensor]], key: Tensor) -> list[list[Tensor]]:
    """Independent noise for every tensor, a function of ``key`` and of the order alone.

    Raises:
        RuntimeError: for DTensors.
    """
    noise: list[list[Tensor]] = []
    for tensors in groups:
        noise.append([])
        for tensor in tensors:
            if hasattr(tensor, "to_local"):
                raise RuntimeError("on_zero_gradient='random' does not support DTensor")
            key = mix(key)
            noise[-1].append(gaussian_noise(tensor, key.to(tensor.device)))
    return noise
