"""Can the reduced FCN-32s learn ten of its own training images by heart? A check, not a result.

    python scripts/overfit_voc.py [--data-root DIR] [--steps 150]

Adam, no weight decay, no dropout, nothing random in the images. Scores on a grid of 8 × 8 cannot
fit masks better than to a certain mean IU, however they are found: this ceiling is computed by
fitting them directly. Exit code 1 if the net stays below nine tenths of it.
"""

import argparse
import os
import sys
from pathlib import Path

import torch
from torch import Tensor

from bpgrad.errors import BPGradError
from bpgrad.metrics.segmentation import confusion_matrix, scores
from bpgrad.models.fcn32s import CLASSES, FCN32s
from bpgrad.tasks.segmentation import ReducedVocSegmentation
from bpgrad.tasks.task import Batch, Context
from bpgrad.world import join_world

IMAGES = 10
ENOUGH = 0.9  # of the ceiling
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


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Overfit ten training images.")
    default = Path(os.environ.get("BPGRAD_DATA", "data"))
    parser.add_argument("--data-root", type=Path, default=default)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--lr", type=float, default=3e-4)
    options = parser.parse_args(arguments)
    try:
        with join_world("auto") as world:
            context = Context(
                world, options.data_root, seed=0, batch_size=IMAGES, train_examples=IMAGES
            )
            task = ReducedVocSegmentation(context, augment=False, dropout=False)
    except BPGradError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    torch.set_flush_denormal(True)
    model = task.build_model(0)
    assert isinstance(model, FCN32s)
    (batch,) = task.train_batches(1)
    most = ceiling(task, model, batch)
    print(f"ceiling of the grid: {most:.1f} % mean IU", flush=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)
    reached = 0.0
    for step in range(1, options.steps + 1):
        optimizer.zero_grad()
        objective = task.objective(model, batch)["objective"]
        objective.backward()
        optimizer.step()
        if step % 25 == 0 or step == options.steps:
            with torch.no_grad():
                found = model(task.stacked([image for image, _ in batch.inputs]))
            reached = mean_iu(found, batch)
            share = reached / most
            print(f"step {step}: objective {objective:.4f}, mean IU {reached:.1f} % ({share:.0%})")
    return 0 if reached >= ENOUGH * most else 1


if __name__ == "__main__":
    sys.exit(main())
