"""Fast R-CNN on VGG-16 (the paper's) and on SqueezeNet 1.1 (reference §6)."""

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
from bpgrad.models.regions import CELLS, MaxPooled, max_pooled

CLASSES = 21  # background last


class FastRcnn(nn.Module):
    """A trunk of stride 16, pooled regions, hidden layers, and two heads.

    Args:
        trunk: (N, 3, H, W) -> (N, channels, h, w), at a sixteenth of the size.
        hidden: The linear layers behind the pooled regions, each followed by ReLU and dropout.
        generator: CPU generator of the heads: N(0, 0.01²) for classes, N(0, 0.001²) for boxes.
        dropout: Whether there is dropout, at 1/2.
        scale: A factor of the pooled features, where these are too large for usual rates.
    """

    def __init__(
        self,
        trunk: nn.Sequential,
        hidden: Sequence[nn.Linear],
        generator: torch.Generator,
        *,
        dropout: bool = True,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.hidden = nn.ModuleList(hidden)
        self.dropouts = nn.ModuleList(KeyedDropout(k) for k in range(len(hidden) if dropout else 0))
        width = hidden[-1].out_features
        self.classes = nn.Linear(width, CLASSES)
        self.boxes = nn.Linear(width, 4 * CLASSES)
        self.scale = scale
        for layer, std in ((self.classes, 0.01), (self.boxes, 0.001)):
            draw(layer.weight, std, generator)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        images: Tensor,
        regions: Tensor,
        keys: Sequence[Sequence[int]] | None = None,
        rows: Sequence[int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Scores (R, 21) of the regions, and the changes (R, 84) of their boxes for each class.

        Args:
            images: (N, 3, H, W), padded to a common size.
            regions: (R, 5), float32: the index of the image, and x1, y1, x2, y2 in its pixels,
                counted from 1.
            keys: A key for the dropout masks of each region, or of each image.
            rows: The number of regions of each key; None is one.
        """
        return self.head(self.trunk(images), regions, keys, rows)

    def head(
        self,
        features: Tensor,
        regions: Tensor,
        keys: Sequence[Sequence[int]] | None = None,
        rows: Sequence[int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The same of the trunk's features; the changes are float32 whatever the precision."""
        x = self.pooled(features, regions)
        for k, layer in enumerate(self.hidden):
            x = F.relu(layer(x), inplace=True)
            if self.dropouts:
                x = self.dropouts[k](x, keys, rows)
        with torch.autocast(x.device.type, enabled=False):
            changes = self.boxes(x.float())
        return self.classes(x), changes

    def pooled(self, features: Tensor, regions: Tensor) -> Tensor:
        """The greatest feature in each of 7 × 7 cells of a region: (R, channels · 49).

        A corner lies in the cell round((x − 1)/16), halves away from zero; both ends are inside.
        In float32 whatever the precision: coordinates above 256 have no bfloat16.
        """
        # autocast would have the features back in half precision, which the operator does not take.
        with torch.autocast(features.device.type, enabled=False):
            zero_based = regions.float() - regions.new_tensor([0, 1, 1, 1, 1]).float()
            features = features.float()
            if features.device.type == "cpu" and not torch.is_grad_enabled():
                found = max_pooled(features, zero_based)
            else:
                found = MaxPooled.apply(features.contiguous(), zero_based)
        return self.scale * found.flatten(1)

    def lr_multipliers(self) -> dict[str, float]:
        """Factor on the learning rate of each parameter: 2 for every bias (reference §6)."""
        return {name: 2.0 for name, _ in self.named_parameters() if name.endswith("bias")}

    def decay_multipliers(self) -> dict[str, float]:
        """Factor on the weight decay of each parameter: 0 for every bias (reference §6)."""
        return {name: 0.0 for name, _ in self.named_parameters() if name.endswith("bias")}


def vgg16_fast_rcnn(
    state: Mapping[str, Tensor],
    generator: torch.Generator,
    *,
    dropout: bool = True,
    channels: Sequence[int] = VGG16_CHANNELS,
    hidden: int = 4096,
) -> FastRcnn:
    """The paper's net: VGG-16 without its last pool, fc6 and fc7.

    Args:
        state: VGG-16's weights by torchvision's names; without classifier.0 and .3 the two layers
            are drawn.
        generator: CPU generator of what is drawn.
        dropout: As in `FastRcnn`.
        channels: The trunk's widths; tests take smaller ones.
        hidden: The width of fc6 and fc7.
    """
    trunk = vgg16_trunk(channels, pools=4)
    load_trunk(trunk, state)
    layers = [nn.Linear(CELLS**2 * channels[-1], hidden), nn.Linear(hidden, hidden)]
    for name, layer in zip(("classifier.0", "classifier.3"), layers, strict=True):
        if f"{name}.weight" in state:
            its = {part: state[f"{name}.{part}"] for part in ("weight", "bias")}
            layer.load_state_dict(its)
        else:
            _draw_he(layer, generator)
    return FastRcnn(trunk, layers, generator, dropout=dropout)


def squeezenet_fast_rcnn(
    state: Mapping[str, Tensor],
    generator: torch.Generator,
    *,
    dropout: bool = True,
    scale: float = 0.04,
) -> FastRcnn:
    """The reduced edition's net: one hidden layer of 512, and the pooled features times 0.04.

    Their root mean square is about 25, at which the usual rates fail.
    """
    trunk = squeezenet_trunk()
    load_trunk(trunk, state)
    layer = nn.Linear(CELLS**2 * 512, 512)
    _draw_he(layer, generator)
    return FastRcnn(trunk, [layer], generator, dropout=dropout, scale=scale)


def losses(
    scores: Tensor, changes: Tensor, labels: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """The sums over regions of the cross-entropy and of the smooth L1 loss of the boxes.

    Args:
        scores: (R, 21).
        changes: (R, 84), of class c in columns 4c to 4c + 3.
        labels: (R,), int64; 20 is background.
        targets: (R, 4), normalised; those of background do not matter.
    """
    entropy = F.cross_entropy(scores, labels, reduction="sum")
    rows = torch.arange(len(labels), device=labels.device)
    its = changes.view(-1, CLASSES, 4)[rows, labels]
    # Chosen by a mask: to count the rows would wait for a GPU.
    shown = (labels != CLASSES - 1)[:, None]
    each = F.smooth_l1_loss(its, torch.where(shown, targets, 0), reduction="none")
    return entropy, torch.where(shown, each, 0).sum()


def _draw_he(layer: nn.Linear, generator: torch.Generator) -> None:
    """Weights from N(0, 2 / fan-in), which keeps the scale behind a ReLU; biases 0."""
    draw(layer.weight, (2 / layer.in_features) ** 0.5, generator)
    nn.init.zeros_(layer.bias)
