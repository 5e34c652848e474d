"""A small generated task with all that detection and segmentation ask of the trainer.

Images of different sizes with a bright square each, whose box is the target: streamed through
workers and augmented, with a frozen layer, a metric a class, and pictures.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from bpgrad.data import order
from bpgrad.data.pipeline import EpochLoader, Key
from bpgrad.metrics import Metric
from bpgrad.tasks.task import Batch, Context, Task

EXAMPLES = 22
CLASSES = ("small", "large")


class Squares(Dataset[tuple[Tensor, Tensor]]):
    """Image (1, H, W) and box (4,), x1 y1 x2 y2; epoch 0 is not augmented."""

    def __init__(self, seed: int, examples: int) -> None:
        self.seed, self.examples = seed, examples

    def __len__(self) -> int:
        return self.examples

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        epoch, index = key
        drawn = np.random.default_rng(index)
        height, width = drawn.integers(12, 20, 2)
        side = 3 if index % 2 == 0 else 7
        top, left = drawn.integers(0, (height - side, width - side))
        image = torch.zeros(1, height, width)
        image[:, top : top + side, left : left + side] = 1.0
        box = torch.tensor([left, top, left + side, top + side], dtype=torch.float32)
        augmented = np.random.default_rng([self.seed, epoch, index])
        if epoch and augmented.integers(2):
            image = image.flip(2)
            box = torch.tensor([width, 0, width, 0]) + box[[2, 1, 0, 3]] * torch.tensor(
                [-1, 1, -1, 1]
            )
        return image + 0.01 * float(augmented.normal()), box


class Regressor(nn.Module):
    """Boxes from a frozen filter and two layers, image by image."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.frozen = nn.Conv2d(1, 2, 3, padding=1)
        self.filter = nn.Conv2d(2, 4, 3, padding=1)
        self.head = nn.Linear(4 * 25, 4)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        self.frozen.requires_grad_(False)

    def forward(self, images: Sequence[Tensor]) -> Tensor:
        features = [
            F.adaptive_avg_pool2d(self.filter(self.frozen(image[None])).relu(), 5).flatten(1)
            for image in images
        ]
        return self.head(torch.cat(features))


class Boxes(Task):
    """Regression of the boxes; `workers` and `micro_batch` change nothing."""

    metrics: Mapping[str, Metric] = {
        "objective": Metric("objective"),
        "distance": Metric("distance", "px"),
        **{f"distance_{name}": Metric(f"distance, {name}", "px") for name in CLASSES},
    }
    train_metrics: Sequence[str] = ("objective", "distance")

    def __init__(self, context: Context) -> None:
        self.context, self.world = context, context.world
        self.load = EpochLoader(
            Squares(context.seed, EXAMPLES), lambda examples: examples, context.workers
        )

    @staticmethod
    def data_md5(data_root: Path) -> Mapping[str, str]:
        return {"squares": "0" * 32}

    def build_model(self, seed: int) -> nn.Module:
        return Regressor(torch.Generator().manual_seed(seed))

    def batch_order(self, epoch: int) -> Tensor:
        return order.train_order(EXAMPLES, self.context.seed, epoch)

    def train_batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        batches = self.batch_order(epoch).split(self.context.batch_size)[start:]
        shares = [indices[self.world.rank :: self.world.size].tolist() for indices in batches]
        for indices, examples in zip(batches, self.load(epoch, shares), strict=True):
            images, boxes = zip(*examples, strict=True)
            yield Batch(list(images), list(boxes), len(indices), indices.numpy().tobytes())

    def objective(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        examples = batch.size / self.world.size
        gaps = model(batch.inputs) - torch.stack(batch.targets)
        return {
            "objective": gaps.square().sum() / examples,
            "distance": gaps.detach().abs().mean(1).sum() / examples,
        }

    def evaluate(self, model: nn.Module, epoch: int) -> dict[str, float]:
        return self._evaluate(model)

    def evaluate_training(self, model: nn.Module) -> dict[str, float]:
        return self._evaluate(model)

    @torch.no_grad()
    def _evaluate(self, model: nn.Module) -> dict[str, float]:
        """Streams: sums are all that is kept of a batch."""
        sums = torch.zeros(2, 3, dtype=torch.float64)  # class × (objective, distance, examples)
        for examples in self.load(0, torch.arange(EXAMPLES).split(5)):
            images, boxes = zip(*examples, strict=True)
            gaps = model(images) - torch.stack(boxes)
            for gap, box in zip(gaps, boxes, strict=True):
                row = torch.stack([gap.square().sum(), gap.abs().mean(), torch.ones(())])
                sums[int(box[2] - box[0] > 5)] += row
        objective, distance, count = sums.sum(0).tolist()
        each = (sums[:, 1] / sums[:, 2]).tolist()
        return {
            "objective": objective / count,
            "distance": distance / count,
            **{f"distance_{name}": value for name, value in zip(CLASSES, each, strict=True)},
        }

    @torch.no_grad()
    def pictures(self, model: nn.Module) -> Mapping[str, Any]:
        (examples,) = self.load(0, [[0]])
        gray = (examples[0][0][0] * 255).clamp(0, 255).to(torch.uint8)
        return {"first": Image.fromarray(gray.numpy()).convert("RGB")}
