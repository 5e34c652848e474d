"""The LeNets of MatConvNet's MNIST and CIFAR-10 demos, and a smaller one for 8×8 digits.

Layers, initial standard deviations and learning-rate multipliers are those of reference §1 and §2.
All nets take images (N, C, H, W) in float, best stored channels_last, and return logits (N, 10).
"""

import io
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpgrad.models.first_layer import FirstConv2d


class MnistLeNet(nn.Module):
    """LeNet for (N, 1, 28, 28) MNIST images, 431 080 parameters (reference §1).

    There is one ReLU only. All weights start as N(0, 0.01²), all biases at 0.

    Args:
        generator: CPU generator of the initial weights.
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.conv1 = FirstConv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.conv3 = FullWindowConv2d(50, 500, 4)
        self.conv4 = FullWindowConv2d(500, 10, 1)
        _initialise(self, (0.01, 0.01, 0.01, 0.01), generator)

    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(images), 2)  # 20 x 12 x 12
        x = F.max_pool2d(self.conv2(x), 2)  # 50 x 4 x 4
        x = F.relu(self.conv3(x), inplace=True)  # 500
        return self.conv4(x)


class CifarLeNet(nn.Module):
    """The "quick" net for (N, 3, 32, 32) CIFAR-10 images, 145 578 parameters (reference §2).

    Weights start as N(0, 0.01²) in the first layer and N(0, 0.05²) in the others, biases at 0.
    MatConvNet pads each pool by one row below and one column at the right, which a maximum ignores
    and an average does not count: that is torch's `ceil_mode` without padding.

    Args:
        generator: CPU generator of the initial weights.
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.conv1 = FirstConv2d(3, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 32, 5, padding=2)
        self.conv3 = nn.Conv2d(32, 64, 5, padding=2)
        self.conv4 = FullWindowConv2d(64, 64, 4)
        self.conv5 = FullWindowConv2d(64, 10, 1)
        _initialise(self, (0.01, 0.05, 0.05, 0.05, 0.05), generator)

    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(images), 3, 2, ceil_mode=True)
        x = F.relu(x, inplace=True)  # 32 x 16 x 16
        x = F.relu(self.conv2(x), inplace=True)
        x = F.avg_pool2d(x, 3, 2, ceil_mode=True)  # 32 x 8 x 8
        x = F.relu(self.conv3(x), inplace=True)
        x = F.avg_pool2d(x, 3, 2, ceil_mode=True)  # 64 x 4 x 4
        x = F.relu(self.conv4(x), inplace=True)  # 64
        return self.conv5(x)

    def lr_multipliers(self) -> dict[str, float]:
        """Factor on the learning rate of each parameter, by its name (reference §2).

        They act in SGD, Adagrad, RMSProp, Adam and Eve; Adadelta and BPGrad ignore them.
        """
        return {
            "conv1.weight": 0.1,
            "conv1.bias": 2.0,
            "conv2.weight": 0.1,
            "conv2.bias": 2.0,
            "conv3.weight": 0.1,
            "conv3.bias": 2.0,
            "conv4.weight": 0.1,
            "conv4.bias": 2.0,
            "conv5.weight": 0.01,
            "conv5.bias": 0.2,
        }


class DigitsLeNet(nn.Module):
    """`MnistLeNet` scaled down to the (N, 1, 8, 8) images of the digits, 114 760 parameters.

    Not from the paper. All weights start as N(0, 0.05²), all biases at 0: with 0.01, as in
    `MnistLeNet`, the gradients are so small that 20 epochs of SGD (300 iterations) reach 80 %
    instead of 98 %; with 0.1 the initial loss is already well above ln 10.

    Args:
        generator: CPU generator of the initial weights.
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.conv1 = FirstConv2d(1, 20, 3, padding=1)
        self.conv2 = nn.Conv2d(20, 50, 3, padding=1)
        self.conv3 = FullWindowConv2d(50, 500, 2)
        self.conv4 = FullWindowConv2d(500, 10, 1)
        _initialise(self, (0.05, 0.05, 0.05, 0.05), generator)

    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(images), 2)  # 20 x 4 x 4
        x = F.max_pool2d(self.conv2(x), 2)  # 50 x 2 x 2
        x = F.relu(self.conv3(x), inplace=True)  # 500
        return self.conv4(x)


class FullWindowConv2d(nn.Conv2d):
    """A convolution whose kernel covers its whole input, computed as one matrix product.

    Maps (N, Cin, k, k), or (N, Cin) for k = 1, to (N, Cout). Parameters are those of `nn.Conv2d`.
    With channels_last input and weight both reshapes are views, and the matrix product is the
    faster of the two.
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() == 4:
            input = _channels_last_rows(input)
        return F.linear(input, _channels_last_rows(self.weight), self.bias)


def _channels_last_rows(tensor: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H·W·C), without a copy if `tensor` is channels_last."""
    return tensor.permute(0, 2, 3, 1).flatten(1)


@torch.no_grad()
def _initialise(model: nn.Module, stds: Sequence[float], generator: torch.Generator) -> None:
    """Draw each layer's weight from N(0, std²), in reading order, and zero its bias."""
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    for layer, std in zip(layers, stds, strict=True):
        # Float64 draws on the CPU: float32 ones differ in the last bit between instruction sets,
        # and the hash of the initial weights has to be the same on every machine.
        draw = torch.randn(
            layer.weight.shape, generator=generator, dtype=torch.float64, device="cpu"
        )
        layer.weight.copy_(std * draw)
        if layer.bias is not None:
            layer.bias.zero_()


def load_matconvnet_weights(model: CifarLeNet, contents: bytes) -> None:
    """Overwrite all parameters with the authors' initial CIFAR-10 weights.

    Args:
        model: the net; keeps its device, dtype and memory format.
        contents: of `Weights_init_cifar10.mat` (bpgrad.data.cifar10.INITIAL_WEIGHTS).
    """
    import scipy.io  # slow to import, and few runs need it

    # One cell a MatConvNet layer; pools, ReLUs and the loss are empty.
    cells = scipy.io.loadmat(io.BytesIO(contents))["Weights_init"][0]
    state = {}
    for k, (filters, biases) in enumerate((cell[0] for cell in cells if cell.size), start=1):
        # H x W x Cin x Cout becomes Cout x Cin x H x W.
        state[f"conv{k}.weight"] = torch.from_numpy(filters.transpose(3, 2, 0, 1).copy())
        state[f"conv{k}.bias"] = torch.from_numpy(biases.flatten())
    model.load_state_dict(state)
