r"""Figure 2: an L-Lipschitz function has no narrow deep valleys, but it may have wide shallow ones.

The paper's drawing is read as the smallest L-Lipschitz function that is nowhere below f,

.. math:: f^L(x) = \sup_y \{f(y) − L|x − y|\},

of a function with six valleys of depth d and half-width w. How narrow and how wide they are was
fixed relative to L = 1, before anything was computed: w = 0.02, 0.05 and 0.08 d/L for the narrow
ones, 1.6, 2 and 3 d/L for the wide ones. Each is −d (1 − u²)² with u = (x − c)/w, whose walls are
steepest with 8/(3√3) d/w = 1.54 d/w: the wide ones are less steep than L, the narrow ones much
steeper. They lie in a plain 1 + 0.04 sin(2x + 0.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bpgrad.errors import ConfigError
from bpgrad.records.files import write_text
from bpgrad.reporting.display import curves
from experiments.engine.studies import write_meta

Array = NDArray[np.float64]

#: The L relative to which the valleys are narrow or wide; the checks look at this one.
LIPSCHITZ = 1.0
#: All that are drawn.
SERIES = (4.0, 2.0, 1.0, 0.5)
ENDS = (0.0, 6.4)
#: Points in a unit of length: computed, and recorded of the curves.
FINE, COARSE = 20_000, 250


@dataclass(frozen=True)
class Valley:
    """A valley −depth (1 − ((x − centre)/width)²)², 0 outside; ``kind`` is narrow or wide."""

    kind: str
    centre: float
    depth: float
    relative_width: float  # in units of depth / LIPSCHITZ

    @property
    def width(self) -> float:
        """Half the length from rim to rim."""
        return self.relative_width * self.depth / LIPSCHITZ

    def __call__(self, x: Array) -> Array:
        """Its part of f."""
        u = np.clip((x - self.centre) / self.width, -1.0, 1.0)
        return -self.depth * (1.0 - u**2) ** 2

    def depth_in(self, x: Array, values: Array) -> float:
        """From the lower rim down to the lowest point, of a curve."""
        inside = np.abs(x - self.centre) <= self.width * (1 + 1e-9)
        here = values[inside]
        return float(min(here[0], here[-1]) - here.min())


VALLEYS = (
    Valley("narrow", 0.4, 0.8, 0.05),
    Valley("wide", 1.28, 0.3, 2.0),
    Valley("narrow", 2.16, 0.8, 0.08),
    Valley("wide", 3.2, 0.25, 3.0),
    Valley("narrow", 4.24, 0.8, 0.02),
    Valley("wide", 5.2, 0.3, 1.6),
)


def function(x: Array) -> Array:
    """The function with the six valleys: (n,) → (n,)."""
    return 1.0 + 0.04 * np.sin(2.0 * x + 0.4) + sum(valley(x) for valley in VALLEYS)


def majorant(x: Array, values: Array, lipschitz: float) -> Array:
    """sup_y {f(y) − L |x − y|} over the points of an ascending grid, (n,), in linear time."""
    rising = np.maximum.accumulate(values + lipschitz * x) - lipschitz * x
    falling = np.maximum.accumulate((values - lipschitz * x)[::-1])[::-1] + lipschitz * x
    return np.maximum(rising, falling)


def run(folder: Path, *, seeds: Sequence[int] = (), overrides: Sequence[str] = ()) -> None:
    """Write the depths of all valleys for each L (depths.csv), and the curves (curves.csv).

    Raises:
        ConfigError: for overrides: the study has no settings.
    """
    if overrides:
        raise ConfigError(f"figure2 has no settings, unlike {' '.join(overrides)}")
    x = np.linspace(*ENDS, round((ENDS[1] - ENDS[0]) * FINE) + 1)
    f = function(x)
    found = {lipschitz: majorant(x, f, lipschitz) for lipschitz in SERIES}
    depths = pd.DataFrame(
        {
            "valley": valley.kind,
            "depth": valley.depth,
            "half_width": valley.width,
            "lipschitz": lipschitz,
            "before": valley.depth_in(x, f),
            "after": valley.depth_in(x, values),
        }
        for valley in VALLEYS
        for lipschitz, values in found.items()
    )
    every = FINE // COARSE
    columns = {"x": x, "f": f} | {f"L={lipschitz:g}": v for lipschitz, v in found.items()}
    drawn = pd.DataFrame({name: values[::every] for name, values in columns.items()})
    write_text(folder / "depths.csv", depths.to_csv(index=False, float_format="%.6g"))
    write_text(folder / "curves.csv", drawn.to_csv(index=False, float_format="%.5g"))
    write_meta(folder)


def evidence(folder: Path) -> dict[str, pd.DataFrame]:
    """Table "smoothing": valley (narrow or wide), depth before and after, at L = 1."""
    depths = _depths(folder)
    chosen = depths[depths["lipschitz"] == LIPSCHITZ]
    return {"smoothing": chosen[["valley", "before", "after"]].reset_index(drop=True)}


def show(folder: Path, figures: Path, tables: Path) -> str:
    """Draw the majorants and the depths left; write both as they are, and the text about them."""
    depths, drawn = _depths(folder), pd.read_csv(folder / "curves.csv")
    figure = _draw(depths, drawn)
    for suffix in (".svg", ".png"):
        curves.save(figure, figures / f"figure2{suffix}")
    table = depths.assign(left=depths["after"] / depths["before"])
    write_text(tables / "figure2.csv", table.to_csv(index=False, float_format="%.4g"))
    chosen = table[table["lipschitz"] == LIPSCHITZ]
    rows = [
        f"| {row['valley']} | {row['depth']:g} | {row['half_width']:g} | "
        f"{row['half_width'] * LIPSCHITZ / row['depth']:.2g} d/L | {row['before']:.3f} | "
        f"{row['after']:.3f} | "
        f"{row['left']:.0%} |"
        for row in chosen.to_dict("records")
    ]
    return "\n".join(
        [
            "The smallest L-Lipschitz function above f (our reading of the paper's drawing) fills "
            "narrow deep valleys and keeps wide shallow ones. What counts is the half-width w of a "
            "valley relative to d/L, its depth over L: no function of slope at most L can fall "
            "further than wL between its rims. The widths were fixed before the majorant was "
            f"computed, for L = {LIPSCHITZ:g}. The depth in f, and what is left of it, is that "
            "below the lower of the two rims: the plain around a valley slopes, so it is not d.",
            "",
            "| valley | depth d | half-width w | w relative to L | depth in f | left | share |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
            *rows,
            "",
            "![The majorant of a function with narrow and wide valleys for four L, and how much of "
            "each valley's depth is left](figures/figure2.png)",
        ]
    )


def _depths(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "depths.csv")


NARROW, WIDE, GREY = "#D55E00", "#0072B2", "#444444"
MARKERS = {4.0: "^", 2.0: "s", 1.0: "o", 0.5: "D"}


def _draw(depths: pd.DataFrame, drawn: pd.DataFrame) -> Figure:
    with curves.settings():
        figure = Figure((10.0, 7.2), layout="constrained")
        grid = figure.add_gridspec(3, 2, height_ratios=(1, 1, 1.15))
        top = [figure.add_subplot(grid[k, 0]) for k in (0, 1)]
        top += [figure.add_subplot(grid[k, 1]) for k in (0, 1)]
        for panel, lipschitz in zip((top[0], top[2], top[1], top[3]), SERIES, strict=True):
            _majorant(panel, drawn, lipschitz)
        for panel in (top[0], top[1]):
            panel.set_ylabel("value")
        _shares(figure.add_subplot(grid[2, :]), depths)
        handles, labels = top[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3)
    return figure


def _majorant(panel: Axes, drawn: pd.DataFrame, lipschitz: float) -> None:
    x, f, above = drawn["x"], drawn["f"], drawn[f"L={lipschitz:g}"]
    panel.fill_between(
        *(x[::2], f[::2], above[::2]), color="#E69F00", alpha=0.45, linewidth=0, label="filled"
    )
    panel.plot(x, f, color=GREY, linewidth=1.0, label="f")
    panel.plot(x, above, color=WIDE, linewidth=2.0, label="smallest L-Lipschitz majorant of f")
    panel.set_title(f"L = {lipschitz:g}", loc="left")
    panel.set_ylim(0.0, 1.32)
    panel.margins(x=0.0)
    panel.set_xlabel("x")


def _shares(panel: Axes, depths: pd.DataFrame) -> None:
    """The depth left against the width in units of d/L: one curve for all valleys and all L."""
    for kind, color in (("narrow", NARROW), ("wide", WIDE)):
        for lipschitz in SERIES:
            rows = depths[(depths["valley"] == kind) & (depths["lipschitz"] == lipschitz)]
            panel.plot(
                rows["half_width"] * lipschitz / rows["depth"],
                100 * rows["after"] / rows["before"],
                MARKERS[lipschitz],
                color=color if lipschitz == LIPSCHITZ else "none",
                markeredgecolor=color,
                markersize=8,
                label=f"{kind}, L = {lipschitz:g}",
            )
    panel.axhline(10, color=NARROW, linewidth=1, linestyle=(0, (5, 2)))
    panel.axhline(90, color=WIDE, linewidth=1, linestyle=(0, (5, 2)))
    panel.text(20, 12, "at most 10 % left: filled", color=NARROW, ha="right", va="bottom")
    panel.text(0.0085, 87, "at least 90 % left: kept", color=WIDE, ha="left", va="top")
    panel.set_xscale("log")
    panel.set_xlim(0.008, 22)
    panel.set_ylim(-4, 106)
    panel.set_xlabel("half-width of the valley in units of depth / L")
    panel.set_ylabel("depth left (%)")
    panel.set_title("What is left of each valley (filled marks: L = 1)", loc="left")
    panel.legend(loc="center left", bbox_to_anchor=(0.02, 0.5), fontsize=9, ncols=2)
