"""Small pictures of what a trained model does on VOC's images, in VOC's colours."""

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw

from bpgrad.data import voc

WIDTH = 200  # of a panel, in pixels
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
