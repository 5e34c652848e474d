"""The first convolution of a net, whose input needs no gradient, as CUDA computes it fast."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FirstConv2d(nn.Conv2d):
    """A convolution (stride 1, one group) with a weight gradient of its own on CUDA.

    cuDNN's deterministic kernel for that gradient takes longer than all the rest of a small net
    where there are one or three input channels. Parameters, results on the CPU and the forward pass
    everywhere are those of `nn.Conv2d`.
    """

    def forward(self, input: Tensor) -> Tensor:
        if (
            input.is_cuda
            and not input.requires_grad
            and torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cuda")
        ):
            assert self.bias is not None
            found: Tensor = WindowedConv2d.apply(input, self.weight, self.bias, self.padding)
            return found
        return super().forward(input)


class WindowedConv2d(torch.autograd.Function):
    """`F.conv2d` with stride 1 and a bias, the gradients of weight and bias from matrix products.

    For each image, with its windows as rows and a column of ones beside them: one product with the
    gradient of the output; then one more adds the images up. Sums have one order.
    """

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(images)
        ctx.weight, ctx.padding = weight.shape, padding
        return F.conv2d(images, weight, bias, padding=padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, Tensor, None]:
        (images,), (gradient,) = ctx.saved_tensors, gradients
        out, channels, height, width = ctx.weight
        n, rows, columns = gradient.shape[0], *gradient.shape[2:]
        size = height * width * channels
        windows = images.new_empty(n, rows, columns, size + 1)
        windows[..., size] = 1.0
        windows[..., :size].view(n, rows, columns, height, width, channels).copy_(
            _windows(images, ctx.padding, height, width)
        )
        by_image = gradient.permute(0, 2, 3, 1).reshape(n, rows * columns, out).mT
        products = by_image @ windows.view(n, rows * columns, size + 1)
        summed = (images.new_ones(1, n) @ products.reshape(n, -1)).view(out, size + 1)
        weight = summed[:, :size].reshape(out, height, width, channels).permute(0, 3, 1, 2)
        return None, weight, summed[:, size].clone(), None


def _windows(images: Tensor, padding: tuple[int, int], height: int, width: int) -> Tensor:
    """All windows (N, rows, columns, height, width, C) of images (N, C, H, W), as a view."""
    across, down = padding[1], padding[0]
    pixels = F.pad(images.permute(0, 2, 3, 1), (0, 0, across, across, down, down)).contiguous()
    n, tall, wide, channels = pixels.shape
    a, b, c, d = pixels.stride()
    shape = n, tall - height + 1, wide - width + 1, height, width, channels
    return pixels.as_strided(shape, (a, b, c, b, c, d))
