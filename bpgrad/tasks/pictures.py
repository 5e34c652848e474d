"""Small pictures of what a trained model does on VOC's images, in VOC's colours."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from bpgrad.data import voc

WIDTH = 200  # of a panel, in pixels
BOXED = 300  # of one with boxes
LINE = 14  # of text
NAMES = ("background", *voc.CLASSES)


def segmented(pixels: np.ndarray, masks: Mapping[str, np.ndarray]) -> Image.Image:
    """An image beside masks of it by their names, over a legend of the classes that they show.

    Args:
        pixels: (H, W, 3), uint8.
        masks: (H, W), of classes and VOID each.
    """
    colors = voc.palette()
    panels = {"image": pixels} | {name: colors[mask] for name, mask in masks.items()}
    height = max(1, round(WIDTH * pixels.shape[0] / pixels.shape[1]))
    shown = sorted({int(k) for mask in masks.values() for k in np.unique(mask)})
    columns = max(1, len(panels) * WIDTH // 110)
    lines = -(-len(shown) // columns)
    size = (len(panels) * WIDTH, LINE + height + LINE * lines + 4)
    drawn = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(drawn)
    for k, (name, panel) in enumerate(panels.items()):
        # Labels are not averaged.
        kind = Image.Resampling.BILINEAR if name == "image" else Image.Resampling.NEAREST
        scaled = Image.fromarray(panel).resize((WIDTH, height), kind)
        drawn.paste(scaled, (k * WIDTH, LINE))
        pen.text((k * WIDTH + 2, 1), name, fill="black")
    for k, label in enumerate(shown):
        left, top = k % columns * 110, LINE + height + 4 + k // columns * LINE
        color = tuple(int(value) for value in colors[label])
        pen.rectangle((left + 2, top, left + 11, top + 9), fill=color, outline="black")
        name = "void" if label == voc.VOID else NAMES[label]
        pen.text((left + 15, top - 1), name, fill="black")
    return drawn


@dataclass(frozen=True)
class Shown:
    """Boxes (N, 4) in an image, counted from 1, with their labels (N,), and scores if they have."""

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None


def detected(pixels: np.ndarray, panels: Mapping[str, Shown]) -> Image.Image:
    """An image once for each panel, with its boxes, their classes and scores.

    Args:
        pixels: (H, W, 3), uint8.
        panels: What is drawn into each, by its name.
    """
    colors = voc.palette()
    factor = BOXED / pixels.shape[1]
    height = max(1, round(factor * pixels.shape[0]))
    scaled = Image.fromarray(pixels).resize((BOXED, height), Image.Resampling.BILINEAR)
    drawn = Image.new("RGB", (len(panels) * BOXED, LINE + height), "white")
    for k, (name, its) in enumerate(panels.items()):
        panel = scaled.copy()
        pen = ImageDraw.Draw(panel)
        scores = [""] * len(its.boxes) if its.scores is None else [f" {s:.2f}" for s in its.scores]
        for box, label, score in zip(its.boxes, its.labels, scores, strict=True):
            left, top, right, bottom = (factor * (box - [1, 1, 0, 0])).tolist()
            color = tuple(int(value) for value in colors[label + 1])
            pen.rectangle((left, top, right, bottom), outline=color, width=2)
            words = f"{voc.CLASSES[label]}{score}"
            pen.rectangle((left, top, left + pen.textlength(words) + 3, top + LINE - 2), fill=color)
            light = sum(color) > 300
            pen.text((left + 2, top), words, fill="black" if light else "white")
        drawn.paste(panel, (k * BOXED, LINE))
        ImageDraw.Draw(drawn).text((k * BOXED + 2, 1), name, fill="black")
    return drawn
