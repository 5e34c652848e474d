"""FCN-32s on VGG-16 (the paper's) and on SqueezeNet 1.1 (reference §7)."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpgrad.models.backbones import (
    VGG16_CHANNELS,
    KeyedDropout,
    draw,
    load_trunk,
    squeezenet_trunk,
    vgg16_trunk,
)

CLASSES = 21  # background first
STRIDE = 32
FORMS = ("matconvnet", "caffe")
# Where the upsampled scores are cropped: what the kernel overhangs, and Caffe's own offset.
CROP = {"matconvnet": STRIDE // 2, "caffe": 19}


class FCN32s(nn.Module):
    """A trunk of stride 32, hidden convolutions, a score for each class, and their upsampling.

    The score layer starts at 0, so the first scores are uniform. The bilinear upsampling has no
    parameter, but for `moving`.

    Args:
        trunk: (N, 3, H, W) -> (N, channels, h, w), at a thirty-second of the size, rounded up.
        hidden: The convolutions between trunk and score, each followed by ReLU and dropout.
        form: "matconvnet", or "caffe": padded by 100 in the trunk, not in `hidden`, which the crop
            takes into account.
        dropout: Whether there is dropout, at 1/2.
        moving: A transposed convolution with a kernel for each class that starts bilinear, in the
            place of the fixed one. The reference sets its learning rate to 0, and solvers that
            ignore that move it.
    """

    def __init__(
        self,
        trunk: nn.Sequential,
        hidden: Sequence[nn.Conv2d],
        *,
        form: str = "matconvnet",
        dropout: bool = True,
        moving: bool = False,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.hidden = nn.ModuleList(hidden)
        self.dropouts = nn.ModuleList(KeyedDropout(k) for k in range(len(hidden) if dropout else 0))
        self.score = nn.Conv2d(hidden[-1].out_channels, CLASSES, 1)
        nn.init.zeros_(self.score.weight)
        assert self.score.bias is not None
        nn.init.zeros_(self.score.bias)
        self.crop = CROP[form]
        self.upsample = _transposed_convolution() if moving else None

    def forward(self, images: Tensor, keys: Sequence[Sequence[int]] | None = None) -> Tensor:
        """Scores (N, 21, H, W) of images (N, 3, H, W); `keys`, one an image, for the dropout."""
        return self.upsampled(self.coarse(images, keys), images.shape[2:])

    def coarse(self, images: Tensor, keys: Sequence[Sequence[int]] | None = None) -> Tensor:
        """The scores before upsampling, (N, 21, h, w)."""
        x = self.trunk(images)
        for k, layer in enumerate(self.hidden):
            x = F.relu(layer(x), inplace=True)
            if self.dropouts:
                x = self.dropouts[k](x, keys)
        return self.score(x)

    def upsampled(self, scores: Tensor, size: Sequence[int]) -> Tensor:
        """Scores (N, 21, h, w) at the pixels of an image of `size` (H, W): (N, 21, H, W)."""
        height, width = size
        if self.upsample is None:
            return upsample(scores, (height, width), self.crop)
        full = self.upsample(scores)
        return full[..., self.crop : self.crop + height, self.crop : self.crop + width]

    def lr_multipliers(self) -> dict[str, float]:
        """2 for every bias, 0 for the upsampling, where it moves (reference §7)."""
        found = {name: 2.0 for name, _ in self.named_parameters() if name.endswith("bias")}
        return found | ({"upsample.weight": 0.0} if self.upsample is not None else {})


def vgg16_fcn32s(
    state: Mapping[str, Tensor],
    generator: torch.Generator,
    *,
    form: str = "matconvnet",
    dropout: bool = True,
    moving: bool = False,
    channels: Sequence[int] = VGG16_CHANNELS,
    hidden: int = 4096,
) -> FCN32s:
    """The paper's net: fc6 as a 7×7 convolution, padded by 3, and fc7 as a 1×1 one.

    Args:
        state: VGG-16's weights by torchvision's names. Without classifier.0 and .3 the two layers
            are drawn, which costs FCN-32s half its mean IU.
        generator: CPU generator of what is drawn.
        form: As in `FCN32s`.
        dropout: As in `FCN32s`.
        moving: As in `FCN32s`.
        channels: The trunk's widths; tests take smaller ones.
        hidden: The width of fc6 and fc7.
    """
    caffe = form == "caffe"
    trunk = vgg16_trunk(channels, padding=100 if caffe else 1)
    layers = [
        nn.Conv2d(channels[-1], hidden, 7, padding=0 if caffe else 3),
        nn.Conv2d(hidden, hidden, 1),
    ]
    load_trunk(trunk, state)
    for name, layer in zip(("classifier.0", "classifier.3"), layers, strict=True):
        if f"{name}.weight" in state:
            _convert(layer, state[f"{name}.weight"], state[f"{name}.bias"])
        else:
            _draw_he(layer, generator)
    return FCN32s(trunk, layers, form=form, dropout=dropout, moving=moving)


def squeezenet_fcn32s(
    state: Mapping[str, Tensor],
    generator: torch.Generator,
    *,
    dropout: bool = True,
    moving: bool = False,
) -> FCN32s:
    """The reduced edition's net: one more pool, and a 3×3 convolution of 512 channels."""
    trunk = squeezenet_trunk()
    load_trunk(trunk, state)
    trunk.append(nn.MaxPool2d(2, ceil_mode=True))
    hidden = nn.Conv2d(512, 512, 3, padding=1)
    _draw_he(hidden, generator)
    return FCN32s(trunk, [hidden], dropout=dropout, moving=moving)


def upsample(scores: Tensor, size: tuple[int, int], crop: int = STRIDE // 2) -> Tensor:
    """Bilinear upsampling by 32, cropped: (N, C, h, w) -> (N, C, H, W), channels last in memory.

    It is the transposed convolution with the kernel of `bilinear_kernel`, by its two factors: one
    matrix product over the rows and one over the columns.
    """
    n, c, h, w = scores.shape
    rows = _interpolation(size[0], h, crop).to(scores)
    columns = _interpolation(size[1], w, crop).to(scores)
    x = scores.permute(0, 2, 3, 1).reshape(n, h, w * c)
    x = torch.matmul(rows, x).view(n, size[0], w, c)
    return torch.matmul(columns, x).permute(0, 3, 1, 2)


def _interpolation(size: int, cells: int, crop: int) -> Tensor:
    """(size, cells): the weight of every cell at every pixel."""
    distance = torch.arange(size)[:, None] + crop - STRIDE * torch.arange(cells)
    inside = (distance >= 0) & (distance < 2 * STRIDE)
    return torch.where(inside, _taps()[distance.clamp(0, 2 * STRIDE - 1)], 0.0)


def _taps() -> Tensor:
    """1 − |i − 32.5| / 32 for i from 1 to 64: 1/64, 3/64, …, 63/64, 63/64, …, 1/64."""
    return 1 - (torch.arange(1, 2 * STRIDE + 1) - (STRIDE + 0.5)).abs() / STRIDE


def bilinear_kernel() -> Tensor:
    """(64, 64), of sum 32²."""
    return torch.outer(_taps(), _taps())


def _transposed_convolution() -> nn.ConvTranspose2d:
    layer = nn.ConvTranspose2d(CLASSES, CLASSES, 2 * STRIDE, STRIDE, groups=CLASSES, bias=False)
    with torch.no_grad():
        layer.weight.copy_(bilinear_kernel().expand_as(layer.weight))
    return layer


@torch.no_grad()
def _convert(layer: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    """A linear layer's weights, over channels × rows × columns, as those of a convolution."""
    layer.weight.copy_(weight.view_as(layer.weight))
    assert layer.bias is not None
    layer.bias.copy_(bias)


def _draw_he(layer: nn.Conv2d, generator: torch.Generator) -> None:
    """Weights from N(0, 2 / fan-in), which keeps the scale behind a ReLU; biases 0."""
    draw(layer.weight, (2 / layer.weight[0].numel()) ** 0.5, generator)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
