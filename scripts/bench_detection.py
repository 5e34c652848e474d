"""What the parts of detection cost: make bench-detection.

Fast R-CNN on SqueezeNet with random weights and generated photos of 400 × 533 pixels:

  training     trunk, pooling of 2 × 64 regions, head, and the whole step with backward and SGD
  inference    trunk, pooling of 1,200 regions, head, and suppression
  evaluation   the test set of VOC 2007, 4,952 images and 20 classes, of generated detections:
               average precision by 11 points, its bootstrap, by all points, and COCO's

Rounds of each, medians in seconds and images/s, written to results/bench/detection.json. The last
part is timed once; --images has fewer.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision

from bpgrad.metrics.bootstrap import bootstrap
from bpgrad.metrics.voc import (
    Detections,
    GroundTruth,
    average_precision,
    coco_average_precision,
    mean_of,
    ranked,
    resampled_precision,
)
from bpgrad.models.fast_rcnn import FastRcnn, losses, squeezenet_fast_rcnn
from bpgrad.records.files import write_text
from bpgrad.records.provenance import describe_start
from bpgrad.tasks.detections import of_image
from bpgrad.training.cli import run_command
from bpgrad.world import choose_device

SIZE, BATCH, REGIONS, PROPOSALS, CLASSES = (400, 533), 2, 64, 1200, 20
TEST_IMAGES, OBJECTS, KEPT = 4952, 12_032, 40


def boxes(rng: np.random.Generator, n: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Boxes (n, 4), counted from 1, as large as proposals are."""
    height, width = size
    limits = np.array([width, height] * 2)
    centres, sides = rng.random((n, 2)), rng.uniform(0.05, 0.8, (n, 2))
    corners = np.concatenate([centres - sides / 2, centres + sides / 2], 1) * limits
    return np.clip(np.round(corners), 1, limits)


class Parts:
    """Times of the parts of training and of inference, in rounds."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.times = device, dict[str, list[float]]()
        state = torchvision.models.squeezenet1_1(weights=None).state_dict()
        generator = torch.Generator().manual_seed(0)
        self.model: FastRcnn = squeezenet_fast_rcnn(state, generator, scale=1.0)
        self.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(self.model.parameters(), 1e-4, momentum=0.9)

    def timed(self, name: str, call: Callable[[], Any]) -> Any:
        """What a call returns; its seconds are kept."""
        begin = time.perf_counter()
        found = call()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.times.setdefault(name, []).append(time.perf_counter() - begin)
        return found

    def regions(self, rng: np.random.Generator, images: int, count: int) -> torch.Tensor:
        """Regions of each of some images, (images · count, 5)."""
        number = np.repeat(np.arange(images), count)[:, None]
        rows = np.concatenate([number, boxes(rng, images * count)], 1)
        return torch.from_numpy(rows.astype(np.float32)).to(self.device)

    def training(self, rng: np.random.Generator) -> None:
        """One step, and its forward parts."""
        images = torch.randn(BATCH, 3, *SIZE).to(self.device, memory_format=torch.channels_last)
        regions = self.regions(rng, BATCH, REGIONS)
        labels = torch.randint(CLASSES + 1, (len(regions),)).to(self.device)
        targets, model = torch.randn(len(regions), 4).to(self.device), self.model.train()
        keys, rows = [(0, 0, k) for k in range(BATCH)], [REGIONS] * BATCH
        features = self.timed("training: trunk", lambda: model.trunk(images))
        self.timed("training: pooling", lambda: model.pooled(features, regions))
        self.timed("training: pooling, head", lambda: model.head(features, regions, keys, rows))

        def step() -> None:
            scores, changes = model(images, regions, keys, rows)
            entropy, box = losses(scores, changes, labels, targets)
            self.optimizer.zero_grad()
            ((entropy + box) / len(regions)).backward()
            self.optimizer.step()

        self.timed("training: step", step)

    @torch.no_grad()
    def inference(self, rng: np.random.Generator) -> None:
        """One image."""
        image = torch.randn(1, 3, *SIZE).to(self.device, memory_format=torch.channels_last)
        regions, model = self.regions(rng, 1, PROPOSALS), self.model.eval()
        features = self.timed("inference: trunk", lambda: model.trunk(image))
        self.timed("inference: pooling", lambda: model.pooled(features, regions))
        scores, _ = self.timed("inference: pooling, head", lambda: model.head(features, regions))
        each = scores.softmax(1)[:, :CLASSES].cpu()
        changes = torch.zeros(PROPOSALS, CLASSES, 4, dtype=torch.float64)
        proposals, size = regions[:, 1:].double().cpu().numpy(), (SIZE[1], SIZE[0])
        none = np.full(CLASSES, -np.inf)
        self.timed(
            "inference: suppression",
            lambda: of_image(0, each, changes, proposals, size, none, plus_one=False),
        )


def test_set(rng: np.random.Generator, images: int) -> tuple[Detections, GroundTruth]:
    """Objects of so many images, and 40 detections an image and class, some near an object."""
    objects = max(1, round(OBJECTS * images / TEST_IMAGES))
    truth = GroundTruth(
        *(rng.integers(0, images, objects), rng.integers(0, CLASSES, objects)),
        *(boxes(rng, objects, (375, 500)), rng.random(objects) < 0.1),
    )
    n = KEPT * images * CLASSES
    found = Detections(
        *(rng.integers(0, images, n), np.repeat(np.arange(CLASSES), n // CLASSES)),
        *(rng.random(n), boxes(rng, n, (375, 500))),
    )
    near = rng.permutation(n)[: 2 * objects]
    which = rng.integers(0, objects, len(near))
    found.images[near], found.labels[near] = truth.images[which], truth.labels[which]
    found.boxes[near] = truth.boxes[which] + rng.integers(-9, 10, (len(near), 4))
    return found, truth


def evaluation(images: int) -> dict[str, float]:
    """Seconds of each score of a test set, and together."""
    found, truth = test_set(np.random.default_rng(0), images)
    # What suppression leaves of them: about a third.
    kept = np.random.default_rng(1).random(len(found.scores)) < 1 / 3
    found = Detections(
        found.images[kept], found.labels[kept], found.scores[kept], found.boxes[kept]
    )

    def spread() -> None:
        its = ranked(found, truth, CLASSES)
        bootstrap(lambda counts: mean_of(resampled_precision(its, counts)), images)

    seconds = {}
    for name, call in (
        ("evaluation: 11 points", lambda: average_precision(found, truth, CLASSES)),
        ("evaluation: bootstrap", spread),
        ("evaluation: all points", lambda: average_precision(found, truth, CLASSES, points=None)),
        ("evaluation: COCO", lambda: coco_average_precision(found, truth, CLASSES)),
    ):
        begin = time.perf_counter()
        call()
        seconds[name] = round(time.perf_counter() - begin, 2)
    return seconds | {"evaluation: all": round(sum(seconds.values()), 2)}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Measure the parts of detection.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=TEST_IMAGES, help="of the test set")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--output", type=Path, default=Path("results/bench/detection.json"))
    options = parser.parse_args()
    device, rng = choose_device(options.device), np.random.default_rng(0)
    parts = Parts(device)
    for _ in range(options.rounds + 1):
        parts.training(rng)
        parts.inference(rng)
    medians = {name: statistics.median(each[1:]) for name, each in parts.times.items()}
    for name, seconds in medians.items():
        rate = (BATCH if name.startswith("training") else 1) / seconds
        print(f"{name:<26} {1e3 * seconds:>9.1f} ms {rate:>9.1f} images/s")
    scores = evaluation(options.images)
    for name, seconds in scores.items():
        print(f"{name:<26} {seconds:>9.2f} s of {options.images} images")
    start = describe_start(device=device, world_size=1, epoch=1, iteration=0)
    found = {"seconds": medians, "evaluation": scores, "images": options.images, "start": start}
    write_text(options.output, json.dumps(found, indent=1))


if __name__ == "__main__":
    run_command(main)
