"""The first layer's weight gradient by matrix products is that of the convolution."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bpgrad.models.first_layer import FirstConv2d, WindowedConv2d
from bpgrad.models.lenet import CifarLeNet, DigitsLeNet, MnistLeNet

# Images and padding as the LeNets have them, and kernels that are not square.
SHAPES = [
    ((5, 1, 28, 28), (20, 1, 5, 5), (0, 0)),
    ((4, 3, 32, 32), (32, 3, 5, 5), (2, 2)),
    ((7, 1, 8, 8), (20, 1, 3, 3), (1, 1)),
    ((3, 2, 9, 7), (4, 2, 3, 2), (1, 0)),
    ((1, 2, 5, 5), (1, 2, 5, 5), (0, 0)),
]


def operands(
    images: tuple[int, ...], weight: tuple[int, ...], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, w, b = (
        torch.randn(shape, generator=generator, dtype=dtype)
        for shape in (images, weight, weight[:1])
    )
    x, w = (each.contiguous(memory_format=torch.channels_last) for each in (x, w))
    return x, w.requires_grad_(), b.requires_grad_()


@pytest.mark.parametrize(("images", "weight", "padding"), SHAPES)
def test_gradients_are_those_of_autograd(
    images: tuple[int, ...], weight: tuple[int, ...], padding: tuple[int, int]
) -> None:
    x, w, b = operands(images, weight, torch.float64)
    for memory in (x, x.contiguous()):
        found = WindowedConv2d.apply(memory, w, b, padding)
        expected = F.conv2d(x, w, b, padding=padding)
        assert torch.equal(found, F.conv2d(memory, w, b, padding=padding))
        direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).double()
        for one, other in zip(
            torch.autograd.grad(found, (w, b), direction),
            torch.autograd.grad(expected, (w, b), direction),
            strict=True,
        ):
            # Sums of some thousand products of about 1, in float64: far above their rounding.
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-11)


def test_the_gradient_of_the_gradient() -> None:
    """As solvers need it that take `create_graph`."""
    x, w, b = operands((2, 2, 5, 4), (3, 2, 3, 2), torch.float64)

    def loss(w: Tensor, b: Tensor) -> Tensor:
        return WindowedConv2d.apply(x, w, b, (1, 0)).pow(3).mean()

    assert torch.autograd.gradgradcheck(loss, (w, b))


def test_gradients_are_laid_out_like_the_weights() -> None:
    x, w, b = operands((2, 3, 8, 8), (4, 3, 5, 5), torch.float32)
    WindowedConv2d.apply(x, w, b, (2, 2)).sum().backward()
    assert w.grad is not None
    assert w.grad.stride() == w.stride()


@pytest.mark.parametrize("net", [CifarLeNet, DigitsLeNet, MnistLeNet])
def test_the_nets_begin_with_it(net: type[MnistLeNet]) -> None:
    assert isinstance(net(torch.Generator()).conv1, FirstConv2d)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize(("images", "weight", "padding"), SHAPES)
def test_on_cuda_it_is_taken_and_deterministic(
    images: tuple[int, ...], weight: tuple[int, ...], padding: tuple[int, int]
) -> None:
    x, w, b = operands(images, weight, torch.float32)
    layer = FirstConv2d(weight[1], weight[0], weight[2:], padding=padding).cuda()
    layer.weight.data.copy_(w.data)
    layer.bias.data.copy_(b.data)  # type: ignore[union-attr]
    out = layer(x.cuda())
    assert type(out.grad_fn).__name__ == "WindowedConv2dBackward"
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    found = [
        torch.autograd.grad(layer(x.cuda()), list(layer.parameters()), direction.cuda())
        for _ in range(2)
    ]
    assert all(map(torch.equal, *found))
    expected = torch.autograd.grad(
        F.conv2d(x.double(), w.double(), b.double(), padding=padding), (w, b), direction.double()
    )
    for one, other in zip(found[0], expected, strict=True):
        # Sums of 1e5 float32 products at most, relative to the largest of them.
        torch.testing.assert_close(
            one.cpu(), other.float(), rtol=1e-4, atol=1e-5 * float(other.abs().max())
        )
