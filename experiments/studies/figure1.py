r"""Figure 1: branch and pruning on a real run in two dimensions, and the bounds that close in.

The function is f(x) = 0.3 + Σ_k w_k (1 − cos⟨ω_k, x − x*⟩) on [0, 1]², with x* = (0.68, 0.36),
ω = (10, 3), (−4, 11), (2, −1.5) and w = 0.10, 0.08, 0.5: no term is negative and all are 0 at x*,
so that f* = 0.3 there, and ‖∇f‖ ≤ Σ w_k ‖ω_k‖ = L.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from numpy.typing import NDArray

from bpgrad.branch_prune import minimize
from bpgrad.errors import ConfigError
from bpgrad.records.files import write_text
from bpgrad.reporting.display import curves
from experiments.engine.studies import write_meta

Array = NDArray[np.float64]

MINIMISER, MINIMUM = np.array([0.68, 0.36]), 0.3
FREQUENCIES = np.array([[10.0, 3.0], [-4.0, 11.0], [2.0, -1.5]])
WEIGHTS = np.array([0.10, 0.08, 0.5])
LIPSCHITZ = float(WEIGHTS @ np.linalg.norm(FREQUENCIES, axis=1))
EPS, SEED = 0.05, 3

BALL, POINT, BEST, GREY = "#0072B2", "#000000", "#D55E00", "#444444"


def values(x: Array) -> Array:
    """The function at n points: (n, 2) → (n,)."""
    return MINIMUM + (1.0 - np.cos((x - MINIMISER) @ FREQUENCIES.T)) @ WEIGHTS


def gradient(x: Array) -> Array:
    """Its gradient at one point, (2,)."""
    return (WEIGHTS * np.sin(FREQUENCIES @ (x - MINIMISER))) @ FREQUENCIES


def run(folder: Path, *, seeds: Sequence[int] = (), overrides: Sequence[str] = ()) -> None:
    """Run Algorithm 1; write its samples with the bounds (samples.csv) and the coverings.

    Raises:
        ConfigError: for overrides: the study has no settings.
    """
    if overrides:
        raise ConfigError(f"figure1 has no settings, unlike {' '.join(overrides)}")
    found = minimize(
        lambda x: float(values(x[None])[0]), gradient, [(0, 1), (0, 1)], LIPSCHITZ,
        eps=EPS, seed=SEED,
    )  # fmt: skip
    history = found.history
    coverings = pd.DataFrame(history.coverings, columns=["samples", "rho", "f_min", "lower_bound"])
    number = np.arange(1, found.nfev + 1)
    known = np.searchsorted(coverings["samples"], number, side="right")
    samples = pd.DataFrame(
        {
            "x": history.x[:, 0],
            "y": history.x[:, 1],
            "f": history.f,
            "f_min": history.f_min,
            # What is certified, and the ρ in force, when the next sample is drawn.
            "lower_bound": np.array([0.0, *coverings["lower_bound"]])[known],
            "rho": [*history.rho[1:], found.rho],
        }
    )
    write_text(folder / "samples.csv", samples.to_csv(index=False, float_format="%.9g"))
    write_text(folder / "coverings.csv", coverings.to_csv(index=False, float_format="%.9g"))
    write_meta(folder)


def show(folder: Path, figures: Path, tables: Path) -> str:
    """Draw the run; write its coverings as a table, and the text about it."""
    samples, coverings = read(folder)
    figure = _draw(samples, coverings)
    for suffix in (".svg", ".png"):
        curves.save(figure, figures / f"figure1{suffix}")
    table = coverings.assign(gap=coverings["f_min"] - coverings["lower_bound"])
    write_text(tables / "figure1.csv", table.to_csv(index=False, float_format="%.4g"))
    last = samples.iloc[-1]
    return f"""\
Algorithm 1 on a function of two variables (f* = {MINIMUM:g}, L = {LIPSCHITZ:.3g}). A sample with
value f_i removes the ball of radius (f_i − ρ·min f)/L around it: nothing in there is below
ρ·min f. When the balls cover the square, ρ·min f is a certified lower bound, ρ is raised, and the
balls shrink. After {len(samples)} samples and {len(coverings)} coverings the gap is
{last["f_min"] - last["lower_bound"]:.3f}: best value {last["f_min"]:.4f}, lower bound
{last["lower_bound"]:.4f}.

![Balls and samples at three coverings, and the bounds over the samples](figures/figure1.png)
"""


def read(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The samples and the coverings of the recorded run."""
    return pd.read_csv(folder / "samples.csv"), pd.read_csv(folder / "coverings.csv")


def _draw(samples: pd.DataFrame, coverings: pd.DataFrame) -> Figure:
    with curves.settings():
        figure = Figure((10.0, 7.4), layout="constrained")
        grid = figure.add_gridspec(2, 3, height_ratios=(1.25, 1))
        chosen = np.unique([0, len(coverings) // 2, len(coverings) - 1])
        for k, covering in enumerate(coverings.iloc[chosen].to_dict("records")):
            panel = figure.add_subplot(grid[0, k])
            n = int(covering["samples"])
            draw_balls(panel, samples, n, covering["rho"])
            panel.set_title(f"ρ = {covering['rho']:.2g}: covered by {n} balls", loc="left")
        below = figure.add_subplot(grid[1, :])
        draw_bounds(below, samples, len(samples))
        _coverings(below, coverings)
        below.legend(loc="upper right", ncols=3)
        figure.legend(handles=_legend(), loc="outside upper center", ncols=4)
    return figure


def draw_balls(panel: Axes, samples: pd.DataFrame, n: int, rho: float) -> None:
    """The first n samples with their balls at ρ, over the contour lines of f."""
    ticks = np.linspace(0, 1, 51)
    x, y = np.meshgrid(ticks, ticks)
    heights = values(np.stack([x.ravel(), y.ravel()], axis=1)).reshape(x.shape)
    panel.contour(x, y, heights, levels=10, colors="#9A9A9A", linewidths=0.6)
    rows = samples.iloc[:n]
    radii = (rows["f"] - rho * rows["f_min"].iloc[-1]) / LIPSCHITZ
    for a, b, radius in zip(rows["x"], rows["y"], radii, strict=True):
        panel.add_patch(
            Circle((a, b), radius, facecolor=(BALL, 0.16), edgecolor=BALL, linewidth=0.5)
        )
    panel.plot(rows["x"], rows["y"], ".", color=POINT, markersize=3.5)
    best = rows.iloc[int(rows["f"].to_numpy().argmin())]
    panel.plot(*MINIMISER, "+", color=BEST, markersize=11, markeredgewidth=2)
    panel.plot(
        [best["x"]], [best["y"]], "o", color="none", markeredgecolor=BEST, markersize=9,
        markeredgewidth=2,
    )  # fmt: skip
    panel.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    panel.set(xlabel="x₁", ylabel="x₂")
    panel.grid(visible=False)


def draw_bounds(panel: Axes, samples: pd.DataFrame, n: int) -> None:
    """Best value and lower bound after each of the first n samples, and f*."""
    number = np.arange(1, n + 1)
    rows = samples.iloc[:n]
    panel.fill_between(
        number, rows["lower_bound"], rows["f_min"], step="post", color="#E69F00", alpha=0.25,
        linewidth=0, label="gap",
    )  # fmt: skip
    panel.step(number, rows["f_min"], where="post", color=BEST, label="best value (upper bound)")
    panel.step(number, rows["lower_bound"], where="post", color=BALL, label="certified lower bound")
    panel.axhline(MINIMUM, color=GREY, linewidth=1.2, linestyle=(0, (4, 2)), label="minimum f*")
    panel.set_xlabel("samples")
    panel.set_ylabel("value")
    panel.set_xlim(1, len(samples))
    panel.set_ylim(-0.02, float(samples["f_min"].max()) * 1.05)


def _coverings(panel: Axes, coverings: pd.DataFrame) -> None:
    panel.plot(
        coverings["samples"], coverings["lower_bound"], "v", color=BALL, markersize=7, zorder=3,
        clip_on=False, label="covering",
    )  # fmt: skip


def _legend() -> list[Line2D]:
    return [
        Line2D([], [], color=POINT, marker=".", linestyle="none", label="sample"),
        Line2D(
            [], [], color="#B8D4E8", marker="o", markersize=11, linestyle="none",
            markeredgecolor=BALL, label="removed ball",
        ),
        Line2D(
            [], [], color="none", marker="o", markersize=8, linestyle="none",
            markeredgecolor=BEST, markeredgewidth=2, label="best sample",
        ),
        Line2D(
            [], [], marker="+", markersize=10, linestyle="none", markeredgecolor=BEST,
            markeredgewidth=2, label="minimiser",
        ),
    ]  # fmt: skip
