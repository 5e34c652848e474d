"""The greatest features of the cells of regions (reference §6): RoI max pooling."""

from typing import Any

import torch
from torch import Tensor

CELLS = 7
STRIDE = 16


class MaxPooled(torch.autograd.Function):
    """torchvision's roi_pool, with a gradient that is deterministic on a GPU too.

    torchvision's adds atomically there, and raises where determinism is asked for.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, regions: Tensor) -> Tensor:
        import torchvision  # noqa: F401  its operators; slow, and checking settings does not need it

        found, places = torch.ops.torchvision.roi_pool(features, regions, 1 / STRIDE, CELLS, CELLS)
        ctx.save_for_backward(places, regions[:, 0].long())
        ctx.shape = features.shape
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        places, images = ctx.saved_tensors
        n, channels, height, width = ctx.shape
        # Of the place in its plane, −1 in an empty cell, to that in all features.
        planes = images[:, None] * channels + torch.arange(channels, device=gradient.device)
        index = planes[:, :, None, None] * (height * width) + places.clamp(min=0)
        values = torch.where(places >= 0, gradient, 0).flatten()
        found = gradient.new_zeros(n * channels * height * width)
        return found.index_add_(0, index.flatten(), values).view(ctx.shape), None


def max_pooled(features: Tensor, regions: Tensor) -> Tensor:
    """What `MaxPooled` finds, bit by bit, sooner on a CPU where there are hundreds of regions.

    Their cells are far fewer windows of the features, many regions sharing one. The greatest value
    of a window is that of four, which overlap, of sides that are powers of two.

    Args:
        features: (N, C, h, w), finite.
        regions: (R, 5), float32: the index of the image, and x1, y1, x2, y2 in its pixels,
            counted from 0.

    Returns: (R, C, 7, 7); 0 in empty cells.
    """
    n, channels, height, width = features.shape
    left, top, right, bottom = _rounded(regions[:, 1:] / STRIDE).unbind(1)
    rows, columns = _bounds(top, bottom, height), _bounds(left, right, width)
    images = regions[:, 0].long()[:, None, None]
    cells = [images, *(of[:, :, None] for of in rows), *(of[:, None] for of in columns)]
    sizes = (n, height + 1, height + 1, width + 1, width + 1)
    code = torch.zeros_like(images)
    for value, size in zip(cells, sizes, strict=True):
        code = code * size + value
    windows, which = torch.unique(code, return_inverse=True)
    greatest = _greatest(features, *_decoded(windows, sizes))
    found = features.new_empty(len(regions), channels, CELLS**2)
    for k, its in enumerate(which.flatten(1)):
        found[k] = greatest[its].T
    return found.unflatten(2, (CELLS, CELLS))


def _greatest(
    features: Tensor, images: Tensor, first: Tensor, last: Tensor, left: Tensor, right: Tensor
) -> Tensor:
    """The greatest features (M, C) in rows first ≤ y < last, columns left ≤ x < right."""
    found = features.new_zeros(len(images), features.shape[1])
    filled = (first < last) & (left < right)
    powers = [_log2(last - first), _log2(right - left)]
    tall = features.permute(0, 2, 3, 1).contiguous()
    for p in range(1 + max(powers[0].tolist(), default=-1)):
        tall = _doubled(tall, 1, p)
        wide = tall
        for q in range(1 + max(powers[1].tolist())):
            wide = _doubled(wide, 2, q)
            its = torch.nonzero(filled & (powers[0] == p) & (powers[1] == q))[:, 0]
            if not len(its):
                continue
            image, y, x = images[its], first[its], left[its]
            below, beside = last[its] - 2**p, right[its] - 2**q
            value = wide[image, y, x]
            if q:
                value = torch.maximum(value, wide[image, y, beside])
            if p:
                value = torch.maximum(value, wide[image, below, x])
            if p and q:
                value = torch.maximum(value, wide[image, below, beside])
            found[its] = value
    return found


def _doubled(tensor: Tensor, dim: int, power: int) -> Tensor:
    """Maxima over 2**power neighbours, of those over half as many."""
    if power == 0:
        return tensor
    shift = 2 ** (power - 1)
    kept = tensor.shape[dim] - shift
    return torch.maximum(tensor.narrow(dim, 0, kept), tensor.narrow(dim, shift, kept))


def _bounds(start: Tensor, end: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """First place, and the one behind the last, of 7 cells from start to end, (R, 7)."""
    each = (end - start + 1).clamp(min=1)[:, None] / CELLS
    k = torch.arange(CELLS)
    return tuple(
        (edge + start[:, None]).clamp(0, limit).long()
        for edge in (torch.floor(k * each), torch.ceil((k + 1) * each))
    )  # type: ignore[return-value]


def _rounded(values: Tensor) -> Tensor:
    """To integers, halves away from zero."""
    whole = torch.trunc(values)
    return whole + torch.where((values - whole).abs() >= 0.5, values.sign(), 0)


def _log2(sizes: Tensor) -> Tensor:
    """The greatest p with 2**p ≤ size, of sizes up to 2**24."""
    return torch.frexp(sizes.clamp(min=1).float()).exponent - 1


def _decoded(code: Tensor, sizes: tuple[int, ...]) -> list[Tensor]:
    """The numbers that were packed into one, the last in the lowest place."""
    found = []
    for size in reversed(sizes):
        found.append(code % size)
        code = code // size
    return found[::-1]
