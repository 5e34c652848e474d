"""AlexNet as in MatConvNet's ImageNet demo (reference §5): two groups in layers 2, 4 and 5.

torchvision's AlexNet is another net (one group, 64 filters in the first layer).
"""

import re
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpgrad.models.batchnorm import BatchNorm
from bpgrad.models.lenet import FullWindowConv2d

Initialisation = Literal["gaussian", "xavier", "xavierimproved"]

LAST_FACTOR = 0.1  # on the last layer's weights, of the two xavier initialisations


class AlexNet(nn.Module):
    """Images (N, 3, R, R), best stored channels_last, to logits (N, classes).

    With batch normalisation, the demo's default, there is neither local response normalisation nor
    dropout; without it there are both. At R = 227, with 4096 channels and 1000 classes it has
    60 984 360 parameters (60 965 224 without batch normalisation). Convolutions keep their biases
    in both forms.

    Args:
        generator: CPU generator of the initial weights.
        classes: Number of logits.
        resolution: R, which sets the kernel of fc6: 6×6 at 227, 3×3 at 131, 1×1 at 67, the least.
        width: Channels of fc6 and fc7.
        batch_norm: Which of the two forms.
        initialisation: Of the weights: N(0, 0.01²); xavier, U(±√(3/(k²·Cin))); or xavierimproved,
            N(0, 2/(k²·Cout)); Cin counts the channels of a group. Biases start at 0.

    Raises:
        ValueError: the resolution is below 67.
    """

    def __init__(
        self,
        generator: torch.Generator,
        classes: int = 1000,
        *,
        resolution: int = 227,
        width: int = 4096,
        batch_norm: bool = True,
        initialisation: Initialisation = "gaussian",
    ) -> None:
        super().__init__()
        self.batch_norm, self.width = batch_norm, width
        self.conv1 = nn.Conv2d(3, 96, 11, stride=4)
        self.conv2 = nn.Conv2d(96, 256, 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(256, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 384, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(384, 256, 3, padding=1, groups=2)
        side = fc6_side(resolution)
        self.fc6 = FullWindowConv2d(256, width, side)
        self.fc7 = FullWindowConv2d(width, width, 1)
        self.fc8 = FullWindowConv2d(width, classes, 1)
        normalised = (*(96, 256, 384, 384, 256), width, width)
        for k, channels in enumerate(normalised, 1):
            self.add_module(f"bn{k}", BatchNorm(channels) if batch_norm else nn.Identity())
        self._initialise(initialisation, generator)

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Logits; `keep` (N, 2·width), bool, says which units dropout leaves in fc6, then fc7.

        It is drawn outside, so that it can be a function of the example; None drops nothing.
        """
        x = self._pooled(self._normalised(self.conv1(images), 1))  # 96 × 27 × 27 at R = 227
        x = self._pooled(self._normalised(self.conv2(x), 2))  # 256 × 13 × 13
        x = self._normalised(self.conv3(x), 3)
        x = self._normalised(self.conv4(x), 4)
        x = self._pooled(self._normalised(self.conv5(x), 5))  # 256 × 6 × 6
        left = (None, None) if keep is None else keep.split(self.width, dim=1)
        x = _dropped(self._normalised(self.fc6(x), 6), left[0])
        x = _dropped(self._normalised(self.fc7(x), 7), left[1])
        return self.fc8(x)

    def _normalised(self, x: Tensor, k: int) -> Tensor:
        x = F.relu(self.get_submodule(f"bn{k}")(x), inplace=True)
        if self.batch_norm or k > 2:
            return x
        # MatConvNet's α = 2e-5 multiplies the sum over 5 channels; torch divides its own by 5.
        return F.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0)

    @staticmethod
    def _pooled(x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, 2)

    def lr_multipliers(self) -> dict[str, float]:
        """Factor on the learning rate of each parameter: biases 2, γ 2, all others 1.

        They act in SGD, Adagrad, RMSProp, Adam and Eve; Adadelta and BPGrad ignore them.
        """
        doubled = r"(conv|fc)\d\.bias|bn\d\.weight"
        return {name: 2.0 for name, _ in self.named_parameters() if re.fullmatch(doubled, name)}

    def decay_multipliers(self) -> dict[str, float]:
        """Factor on the weight decay of each parameter: 0 for biases, γ and β, 1 for weights."""
        return {name: 0.0 for name, parameter in self.named_parameters() if parameter.ndim < 4}

    @torch.no_grad()
    def _initialise(self, how: Initialisation, generator: torch.Generator) -> None:
        layers = [module for module in self.modules() if isinstance(module, nn.Conv2d)]
        for layer in layers:
            outputs, inputs, height, width = layer.weight.shape
            # Float64 draws on the CPU: float32 ones differ in the last bit between processors.
            shape, kind = layer.weight.shape, torch.float64
            if how == "xavier":
                draw = 2 * torch.rand(shape, generator=generator, dtype=kind) - 1
                draw *= (3 / (height * width * inputs)) ** 0.5
            else:
                draw = torch.randn(shape, generator=generator, dtype=kind)
                draw *= 0.01 if how == "gaussian" else (2 / (height * width * outputs)) ** 0.5
            last = layer is layers[-1] and how != "gaussian"
            layer.weight.copy_(draw * LAST_FACTOR if last else draw)
            assert layer.bias is not None
            layer.bias.zero_()


def fc6_side(resolution: int) -> int:
    """The side of what fc6 sees, its kernel's, for square images of a side.

    Raises ValueError where there would be nothing left.
    """
    side = (resolution - 11) // 4 + 1
    for _ in range(3):  # the pools; all other layers keep the side
        side = (side - 3) // 2 + 1
    if side < 1:
        raise ValueError(f"resolution={resolution}: AlexNet needs images of at least 67 pixels")
    return side


def _dropped(x: Tensor, keep: Tensor | None) -> Tensor:
    """Dropout of one half with what is kept given, scaled in training (inverted)."""
    return x if keep is None else x * keep * 2
