"""Can a reduced net learn some of its own training images by heart? A check, not a result.

    python scripts/overfit_voc.py [segmentation | detection] [--data-root DIR] [--steps 150]

Adam, no weight decay, no dropout, nothing random in the images. Exit code 1 if it cannot:

segmentation   Ten images in each step. Scores on a grid of 8 × 8 cannot fit masks better than to a
               certain mean IU, however they are found: this ceiling is computed by fitting them
               directly, and the net has to come to nine tenths of it.
detection      Twenty images, two in a step: 15 epochs. The net has to reach 90 mAP on them. That it
               does says nothing of the scale of its regions, nor of regression: those are tests.
"""

import argparse
import os
import sys
from pathlib import Path

import torch
from torch import Tensor

from bpgrad.data.voc import Photo
from bpgrad.errors import BPGradError
from bpgrad.metrics.segmentation import confusion_matrix, scores
from bpgrad.models.fcn32s import CLASSES, FCN32s
from bpgrad.tasks.detection import ReducedVocDetection
from bpgrad.tasks.segmentation import ReducedVocSegmentation
from bpgrad.tasks.task import Batch, Context
from bpgrad.world import World, join_world

IMAGES, PHOTOS = 10, 20
ENOUGH, ENOUGH_MAP = 0.9, 90.0  # of the ceiling; mAP
CEILING_STEPS, CEILING_RATE = 300, 0.3


def mean_iu(found: Tensor, batch: Batch) -> float:
    """Over the classes present, in %."""
    truth = torch.stack(batch.targets).to(found.device)
    confusion = confusion_matrix(truth, found.argmax(1), CLASSES)
    return scores(confusion, present_only=True)["mean_iu"]


def ceiling(task: ReducedVocSegmentation, model: FCN32s, batch: Batch) -> float:
    """What scores reach that are fitted themselves, through the same upsampling and loss."""
    images = task.stacked([image for image, _ in batch.inputs])
    with torch.no_grad():
        grid = torch.zeros_like(model.coarse(images)).requires_grad_()
    optimizer = torch.optim.Adam([grid], lr=CEILING_RATE)
    for _ in range(CEILING_STEPS):
        optimizer.zero_grad()
        found = model.upsampled(grid, images.shape[2:])
        task.losses(found, batch.targets).mean().backward()
        optimizer.step()
    return mean_iu(model.upsampled(grid, images.shape[2:]).detach(), batch)


def segmentation(world: World, options: argparse.Namespace) -> bool:
    """Whether FCN-32s learns its images."""
    context = Context(world, options.data_root, seed=0, batch_size=IMAGES, train_examples=IMAGES)
    task = ReducedVocSegmentation(context, augment=False, dropout=False)
    model = task.build_model(0)
    assert isinstance(model, FCN32s)
    (batch,) = task.train_batches(1)
    most = ceiling(task, model, batch)
    print(f"ceiling of the grid: {most:.1f} % mean IU", flush=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)
    reached = 0.0
    for step in range(1, options.steps + 1):
        objective = stepped(task, model, batch, optimizer)
        if step % 25 == 0 or step == options.steps:
            with torch.no_grad():
                found = model(task.stacked([image for image, _ in batch.inputs]))
            reached = mean_iu(found, batch)
            share = f"{reached / most:.0%}"
            print(f"step {step}: objective {objective:.4f}, mean IU {reached:.1f} % ({share})")
    return reached >= ENOUGH * most


class Memorised(ReducedVocDetection):
    """Judged by the images that it is trained on."""

    def _read_photos(self) -> tuple[list[Photo], list[Photo]]:
        train, _ = super()._read_photos()
        return train, train


def detection(world: World, options: argparse.Namespace) -> bool:
    """Whether Fast R-CNN learns its images."""
    context = Context(
        *(world, options.data_root),
        seed=0,
        batch_size=2,
        train_examples=PHOTOS,
        val_examples=PHOTOS,
    )
    task = Memorised(context, mirror="none", dropout=False)
    model = task.build_model(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)
    epochs = max(1, options.steps * 2 // PHOTOS)
    for epoch in range(1, epochs + 1):
        each = [stepped(task, model, batch, optimizer) for batch in task.train_batches(epoch)]
        print(f"epoch {epoch}: objective {sum(each) / len(each):.4f}", flush=True)
    reached = task.evaluate(model, epochs)["map"]
    print(f"mAP {reached:.1f} %; perfect scores would have {task.ceiling:.1f} %")
    return reached >= ENOUGH_MAP


def stepped(
    task: ReducedVocSegmentation | ReducedVocDetection,
    model: torch.nn.Module,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
) -> float:
    """The objective before a step on a batch."""
    optimizer.zero_grad()
    objective = task.objective(model, batch)["objective"]
    objective.backward()
    optimizer.step()
    return objective.item()


LEARNED = {"segmentation": segmentation, "detection": detection}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Overfit a few training images.")
    default = Path(os.environ.get("BPGRAD_DATA", "data"))
    parser.add_argument("task", nargs="?", default="segmentation", choices=LEARNED)
    parser.add_argument("--data-root", type=Path, default=default)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--lr", type=float, default=3e-4)
    options = parser.parse_args(arguments)
    torch.set_flush_denormal(True)
    try:
        with join_world("auto") as world:
            return 0 if LEARNED[options.task](world, options) else 1
    except BPGradError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
