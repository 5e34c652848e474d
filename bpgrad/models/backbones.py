"""The trunks of detection and segmentation: VGG-16's and SqueezeNet 1.1's convolutions.

Parameters have torchvision's names, so that its weights fit. Inputs are (N, 3, H, W), preprocessed
as the weights want (bpgrad.data.pretrained).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The paper's widths; tests take smaller ones.
VGG16_CHANNELS = (64, 128, 256, 512, 512)
VGG16_DEPTHS = (2, 2, 3, 3, 3)


def vgg16_trunk(
    channels: Sequence[int] = VGG16_CHANNELS, *, pools: int = 5, padding: int = 1
) -> nn.Sequential:
    """VGG-16's convolutions with their ReLUs, and the first `pools` of its five pools.

    The pools round up, which is MatConvNet's padding [0 1 0 1] (reference §7): the stride is
    2**pools. `padding` is that of the first convolution: 100 in the Caffe form of FCN-32s.
    """
    layers: list[nn.Module] = []
    width = 3
    for block, (out, depth) in enumerate(zip(channels, VGG16_DEPTHS, strict=True)):
        for _ in range(depth):
            layers.append(nn.Conv2d(width, out, 3, padding=1 if layers else padding))
            layers.append(nn.ReLU(inplace=True))
            width = out
        if block < pools:
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
    return nn.Sequential(*layers)


class Fire(nn.Module):
    """SqueezeNet's module: 1×1 convolutions, then 1×1 and 3×3 ones side by side."""

    def __init__(self, width: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(width, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        x = F.relu(self.squeeze(input), inplace=True)
        return F.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1), inplace=True)


def squeezenet_trunk(*, padding: int = 1) -> nn.Sequential:
    """SqueezeNet 1.1's features: 512 channels at a sixteenth of the input's size.

    It was trained with `padding` 0 in the first convolution, which gives a smaller grid; with 1
    there are as many cells as VGG-16 has, each centred 6.5 pixels further right and below.
    """
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 2, padding=padding), nn.ReLU(inplace=True)]
    width = 64
    for pooled, squeezed, expanded in (
        *((True, 16, 64), (False, 16, 64), (True, 32, 128), (False, 32, 128)),
        *((True, 48, 192), (False, 48, 192), (False, 64, 256), (False, 64, 256)),
    ):
        if pooled:
            layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
        layers.append(Fire(width, squeezed, expanded))
        width = 2 * expanded
    return nn.Sequential(*layers)


def load_trunk(trunk: nn.Sequential, state: Mapping[str, Tensor]) -> None:
    """Take a trunk's weights from those of the whole net, whose others (its classifier) stay.

    Raises KeyError or RuntimeError if one is missing or of another shape.
    """
    trunk.load_state_dict({name: state[f"features.{name}"] for name in trunk.state_dict()})


def freeze_blocks(trunk: nn.Sequential, blocks: int) -> None:
    """Freeze VGG-16's first blocks: the convolutions before so many of its pools."""
    pools = 0
    for layer in trunk:
        pools += isinstance(layer, nn.MaxPool2d)
        if pools == blocks:
            return
        layer.requires_grad_(False)


@torch.no_grad()
def draw(parameter: Tensor, std: float, generator: torch.Generator) -> None:
    """Fill a weight from N(0, std²): in float64 on the CPU, the same bits on every machine."""
    parameter.copy_(std * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))


class KeyedDropout(nn.Module):
    """Dropout at 1/2 whose masks depend on a key for each example, and on nothing else.

    They are the same on every device, for every split into micro-batches and at every resume. One
    random bit an activation; those kept are doubled.

    Args:
        stream: Tells the layers of a net apart.
    """

    def __init__(self, stream: int) -> None:
        super().__init__()
        self.stream = stream

    def forward(
        self,
        input: Tensor,
        keys: Sequence[Sequence[int]] | None,
        rows: Sequence[int] | None = None,
    ) -> Tensor:
        """Input (N, ...), with a key (a few integers from 0 on) for each of the N; None keeps all.

        `rows`: a key for so many of the N, one after the other. In evaluation everything is kept.
        """
        if keys is None or not self.training:
            return input
        size = input.shape[1:].numel()
        counts = [1] * len(keys) if rows is None else rows
        bits = [
            np.unpackbits(
                np.frombuffer(
                    np.random.Generator(np.random.Philox([*key, self.stream])).bytes(
                        -(-count * size // 8)
                    ),
                    np.uint8,
                ),
                count=count * size,
            )
            for key, count in zip(keys, counts, strict=True)
        ]
        mask = torch.from_numpy(np.concatenate(bits)).to(input.device).view(input.shape)
        return input * (2 * mask).to(input.dtype)
