"""Scores of semantic segmentation, from a confusion matrix (reference §7)."""

import numpy as np
import torch
from torch import Tensor


def confusion_matrix(truth: Tensor, predicted: Tensor, classes: int, void: int = 255) -> Tensor:
    """How often a pixel of class i is called j, int64 (classes, classes); void pixels do not count.

    `truth` and `predicted` have one shape, of any integer type, on one device; so has the result.
    """
    pairs = torch.where(truth == void, classes**2, truth.long() * classes + predicted).flatten()
    # Not bincount, nor a selection of the pixels: on a GPU the host would wait for how many.
    counts = torch.zeros(classes**2 + 1, dtype=torch.int64, device=truth.device)
    counts.scatter_add_(0, pairs, torch.ones_like(pairs))
    return counts[:-1].view(classes, classes)


def scores(confusion: Tensor, *, present_only: bool = False) -> dict[str, float]:
    """Mean IU, pixel accuracy, mean accuracy, and the average of the three, in %.

    With n_ij pixels of class i called j and c classes:

        mean IU         1/c Σ_i n_ii / max(1, Σ_j n_ij + Σ_j n_ji − n_ii)
        pixel accuracy  Σ_i n_ii / Σ_ij n_ij
        mean accuracy   1/c Σ_i n_ii / max(1, Σ_j n_ij)

    Args:
        confusion: (c, c), of counts; rows are the truth.
        present_only: Divide by the number of classes that occur, in truth or prediction (in truth,
            for the mean accuracy), in the place of c, which is the reference's.

    Raises ValueError if it is not square.
    """
    if confusion.dim() != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"confusion: expected (c, c), got {tuple(confusion.shape)}")
    counts = confusion.double()
    right, truth, called = counts.diagonal(), counts.sum(1), counts.sum(0)
    union = truth + called - right
    classes = len(counts)
    some = int((union > 0).sum()) if present_only else classes
    in_truth = int((truth > 0).sum()) if present_only else classes
    found = {
        "mean_iu": (right / union.clamp(min=1)).sum() / max(1, some),
        "pixel_accuracy": right.sum() / counts.sum().clamp(min=1),
        "mean_accuracy": (right / truth.clamp(min=1)).sum() / max(1, in_truth),
    }
    percent = {name: 100 * float(value) for name, value in found.items()}
    return percent | {"average": sum(percent.values()) / len(percent)}


def resampled_mean_iu(confusions: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The mean IU in %, by all classes, in resamples of the images: float64 (B,).

    Args:
        confusions: (images, c, c), of counts of pixels; rows are the truth.
        counts: (B, images): how often each image is in a resample, as `bpgrad.metrics.bootstrap`
            draws them.
    """
    classes = confusions.shape[1]
    summed = (counts @ confusions.reshape(len(confusions), -1)).reshape(-1, classes, classes)
    right = np.diagonal(summed, axis1=1, axis2=2)
    union = summed.sum(1) + summed.sum(2) - right
    return 100 * (right / np.maximum(union, 1)).mean(1)


def class_iu(confusion: Tensor) -> list[float]:
    """The IU of each class in %; 0 of one that does not occur."""
    counts = confusion.double()
    right = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - right
    return [100 * float(value) for value in right / union.clamp(min=1)]


def all_background(confusion: Tensor) -> float:
    """The mean IU in % of calling every pixel class 0, on the same pixels, by all classes."""
    counts = confusion.double()
    return 100 * float(counts[0].sum() / counts.sum().clamp(min=1)) / len(counts)
