r"""Figure 3: Algorithm 1 keeps finding new samples where Eq. 12 falls into a loop.

The function is f(x) = 1.2 − 0.1x + 0.4 cos 2πx on [0, 3.2]: three valleys, each lower than the one
before, all values positive. f′(x) = −0.1 − 0.8π sin 2πx, so that sup |f′| = 0.1 + 0.8π, met at
x = 1/4, 5/4, …: this is the L of both solvers. A loop is no consequence of an L that is too small.

Why Eq. 12 loops: in a valley with f > 0 its step (f − ρm)/L does not become small. It steps over
the bottom and back. Where f(x) = f(y) = m and |x − y| = (1 − ρ)m/L it goes from x to y and from y
to x for ever, and such a pair attracts: at a symmetric valley one round shrinks the distance to it
by the factor (1 − |f′|/L)².
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bpgrad.branch_prune import minimize, minimize_cheap
from bpgrad.branch_prune.cheap import LOOP_DISTANCE
from bpgrad.errors import ConfigError
from bpgrad.records.files import write_text
from bpgrad.reporting.display import curves
from experiments.engine.studies import write_meta

Array = NDArray[np.float64]

BOUNDS = ((0.0, 3.2),)
LIPSCHITZ = 0.1 + 0.8 * np.pi
RHO = 0.1
START = 0.3
#: The gap that Algorithm 1 is to certify; Eq. 12 gets as many samples.
EPS = 0.005
#: Starting points of the second experiment, on a grid, and the samples from each.
STARTS, MOST = 1001, 400
NAMES = ("Eq. 12", "Algorithm 1")


def function(x: Array) -> float:
    """The function at one point, (1,)."""
    return float(1.2 - 0.1 * x[0] + 0.4 * np.cos(2 * np.pi * x[0]))


def gradient(x: Array) -> Array:
    """Its derivative there, (1,)."""
    return np.array([-0.1 - 0.8 * np.pi * np.sin(2 * np.pi * x[0])])


def nearest(x: Array) -> float:
    """The least distance between two of the points (n,)."""
    return float(np.diff(np.sort(x)).min())


def run(folder: Path, *, seeds: Sequence[int] = (), overrides: Sequence[str] = ()) -> None:
    """Run both from the same point, and Eq. 12 from many; write their samples (samples.csv,
    starts.csv) and what is compared (loop.csv).

    Raises:
        ConfigError: for overrides: the study has no settings.
    """
    if overrides:
        raise ConfigError(f"figure3 has no settings, unlike {' '.join(overrides)}")
    full = minimize(function, gradient, BOUNDS, LIPSCHITZ, eps=EPS, x0=START)
    cheap = minimize_cheap(
        function, gradient, BOUNDS, LIPSCHITZ,
        rho=RHO, x0=START, max_evals=full.nfev, stop_on_loop=False,
    )  # fmt: skip
    history = full.history
    samples = [
        pd.DataFrame({"solver": NAMES[0], "x": cheap.path[:, 0], "f": cheap.path_values}),
        pd.DataFrame({"solver": NAMES[1], "x": history.x[:, 0], "f": history.f}),
    ]
    grid = np.linspace(*BOUNDS[0], 1_000_001)
    slope = float(np.abs(-0.1 - 0.8 * np.pi * np.sin(2 * np.pi * grid)).max())
    loop = pd.DataFrame(
        {
            "solver": NAMES,
            "samples": full.nfev,
            "loop_from": [cheap.loop[1] + 1 if cheap.loop else np.nan, np.nan],
            "nearest": [nearest(table["x"].to_numpy()) for table in samples],
            "best": [cheap.fun, full.fun],
            "lower_bound": [np.nan, full.lower_bound],
            "lipschitz": LIPSCHITZ,
            "slope": slope,
        }
    )
    write_text(folder / "samples.csv", pd.concat(samples).to_csv(index=False, float_format="%.12g"))
    write_text(folder / "loop.csv", loop.to_csv(index=False))
    write_text(folder / "starts.csv", _from_many_points().to_csv(index=False, float_format="%.6g"))
    write_meta(folder)


def _from_many_points() -> pd.DataFrame:
    """Eq. 12 from a grid of points: whether it loops, after how many samples, its best value."""
    rows = []
    for start in np.linspace(*BOUNDS[0], STARTS):
        found = minimize_cheap(
            function, gradient, BOUNDS, LIPSCHITZ, rho=RHO, x0=start, max_evals=MOST
        )
        rows.append({"start": start, "samples": found.nfev, "loop": found.loop is not None})
        rows[-1]["best"] = found.fun
    return pd.DataFrame(rows)


def evidence(folder: Path) -> dict[str, pd.DataFrame]:
    """Table "loop": solver, least distance between two of its samples, L and sup |f′|."""
    table = pd.read_csv(folder / "loop.csv")
    return {"loop": table[["solver", "nearest", "lipschitz", "slope"]]}


def show(folder: Path, figures: Path, tables: Path) -> str:
    """Draw both runs; write the comparison as a table, and the text about it."""
    samples = pd.read_csv(folder / "samples.csv")
    loop = pd.read_csv(folder / "loop.csv").set_index("solver")
    starts = pd.read_csv(folder / "starts.csv")
    figure = _draw(samples)
    for suffix in (".svg", ".png"):
        curves.save(figure, figures / f"figure3{suffix}")
    write_text(tables / "figure3.csv", loop.to_csv(float_format="%.4g"))
    cheap, full = loop.loc[NAMES[0]], loop.loc[NAMES[1]]
    looped = starts[starts["loop"]]
    missed = int((looped["best"] > full["best"] + EPS).sum())
    return f"""\
Both solvers start at x = {START:g} with L = {full["lipschitz"]:.4g}, the supremum of |f′|.
Algorithm 1 samples outside the removed intervals of all its samples, and after
{full["samples"]:.0f} samples has certified f* to within {EPS:g} (best value {full["best"]:.4f},
lower bound {full["lower_bound"]:.4f}); no two of its samples are nearer than
{full["nearest"]:.2g}. Eq. 12 (ρ = {RHO:g}), which knows only the latest sample and the best value,
comes within {LOOP_DISTANCE:g} of a point of its own history with sample {cheap["loop_from"]:.0f}
and goes to and fro from then on; its best of as many samples is {cheap["best"]:.4f}.

This is no matter of the starting point: from {len(starts)} of them on a grid, {len(looped)} end
in a loop within {MOST} samples, {missed} of these at a value more than {EPS:g} above
Algorithm 1's.

![Left: Algorithm 1's samples spread over the interval; right: Eq. 12 goes to and fro between two
points](figures/figure3.png)
"""


PATH, POINT, GREY, PRUNED = "#D55E00", "#0072B2", "#444444", "#56B4E9"


def _draw(samples: pd.DataFrame) -> Figure:
    with curves.settings():
        figure = Figure((10.0, 6.2), layout="constrained")
        panels = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(1, 1))
        for k, name in enumerate(NAMES[::-1]):
            rows = samples[samples["solver"] == name]
            _values(panels[0, k], rows)
            _order(panels[1, k], rows)
            panels[1, k].set_xlabel("x")
        panels[0, 0].set_title("(a) Algorithm 1: outside all removed intervals", loc="left")
        panels[0, 1].set_title("(b) Eq. 12, from the latest sample alone: a loop", loc="left")
        panels[0, 0].set_ylabel("f(x)")
        panels[1, 0].set_ylabel("sample number")
        panels[1, 0].set_ylim(len(samples) // 2 + 2, -1)
        _removed(panels[0, 0], samples[samples["solver"] == NAMES[1]])
        figure.align_ylabels()
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _values(panel: Axes, rows: pd.DataFrame) -> None:
    x = np.linspace(*BOUNDS[0], 600)
    panel.plot(x, [function(np.array([v])) for v in x], color=GREY, linewidth=1.4, label="f")
    panel.plot(rows["x"], rows["f"], "o", color=POINT, markersize=5, label="samples")
    first = rows.iloc[0]
    panel.plot([first["x"]], [first["f"]], "s", color=PATH, markersize=8, label="first sample")


def _order(panel: Axes, rows: pd.DataFrame) -> None:
    number = np.arange(1, len(rows) + 1)
    panel.plot(rows["x"], number, color="#BBBBBB", linewidth=0.9, zorder=1)
    panel.plot(rows["x"], number, "o", color=POINT, markersize=4)
    panel.plot(rows["x"].iloc[:1], [1], "s", color=PATH, markersize=8)


def _removed(panel: Axes, rows: pd.DataFrame) -> None:
    """The lower envelope of all samples: what an L-Lipschitz function with these values can be."""
    x = np.linspace(*BOUNDS[0], 2000)
    cones = rows["f"].to_numpy() - LIPSCHITZ * np.abs(x[:, None] - rows["x"].to_numpy())
    panel.plot(
        x, cones.max(axis=1), color=PATH, linewidth=1.0, label="lower bound from all samples"
    )
