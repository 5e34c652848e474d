"""Detections as files: the text files of VOC's devkit, and COCO's results in JSON."""

import json
from collections.abc import Mapping, Sequence

import numpy as np

from bpgrad.data.voc import CLASSES
from bpgrad.metrics.voc import Detections

DECIMALS = 6  # of a score


def devkit_files(found: Detections, names: Sequence[str], split: str) -> Mapping[str, bytes]:
    """A file for each class by its name: a line a detection, as the reference's devkit reads it.

    Image, score to six decimals, xmin, ymin, xmax, ymax; counted from 1. `names` are those of the
    images by their numbers.
    """
    files = {}
    for label, name in enumerate(CLASSES):
        its = np.flatnonzero(found.labels == label)
        rows = zip(found.images[its], found.scores[its], found.boxes[its].tolist(), strict=True)
        lines = [
            f"{names[image]} {score:.{DECIMALS}f} " + " ".join(f"{value:g}" for value in box)
            for image, score, box in rows
        ]
        files[f"comp3_det_{split}_{name}.txt"] = "".join(f"{line}\n" for line in lines).encode()
    return files


def coco_results(found: Detections, names: Sequence[str]) -> bytes:
    """COCO's results: image_id are the digits of an image's name, category_id counts from 1."""
    numbers = [int("".join(filter(str.isdigit, name))) for name in names]
    sides = found.boxes[:, 2:] - found.boxes[:, :2] + 1
    boxes = np.concatenate([found.boxes[:, :2] - 1, sides], 1)
    columns = zip(found.images, found.labels, found.scores, boxes, strict=True)
    rows = [
        {
            "image_id": numbers[image],
            "category_id": int(label) + 1,
            "bbox": box.tolist(),
            "score": round(float(score), DECIMALS),
        }
        for image, label, score, box in columns
    ]
    return json.dumps(rows, separators=(",", ":")).encode()
