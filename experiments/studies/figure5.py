"""Figure 5: both sides of Eq. 4 along training, and the premises that the paper builds on.

For each μ and L a run of four epochs is kept in memory with all its weights. μ = 0 and 0.9 are the
figure; the others decide whether a large momentum alone makes Eq. 4 hold (claim C8).
"""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bpgrad.records.files import write_atomically, write_text
from bpgrad.reporting.display import curves
from bpgrad.reporting.display.style import line_styles, task_title
from bpgrad.training.config import load
from experiments.claims.trajectories import EQ4_TOLERANCE, FIGURE5_L, MOMENTA
from experiments.engine.studies import write_meta
from experiments.studies.trajectory import premises, record, sides_of_eq4

RHO, EPOCHS, SEEDS = 0.1, 4, (0,)
DRAWN = (0.0, 0.9)  # momenta whose series are kept
SUMMARY = "trajectories.csv"
LINEAR = 0.01  # of the axes: linear up to here on both sides of 0, logarithmic beyond


@dataclass(frozen=True)
class Setting:
    """One trajectory."""

    task: str
    momentum: float
    lipschitz: float
    seed: int

    @property
    def file(self) -> str:
        """The name of the file with its series."""
        return f"{self.task}-mu{self.momentum:g}-L{self.lipschitz:g}-seed{self.seed}.npz"


def settings(seeds: Sequence[int]) -> list[Setting]:
    """All trajectories of some seeds, those of the figure first."""
    others = tuple(mu for mu in MOMENTA if mu not in DRAWN)
    return [
        Setting(task, mu, lipschitz, seed)
        for seed, momenta in itertools.product(seeds, (DRAWN, others))
        for task, values in FIGURE5_L.items()
        for lipschitz, mu in itertools.product(values, momenta)
    ]


def run(folder: Path, *, seeds: Sequence[int] = (), overrides: Sequence[str] = ()) -> None:
    """Train and measure every trajectory that `folder` lacks.

    Each gives a row of the summary, and those of the figure a series. One takes up to 9 GB of
    memory and several minutes.
    """
    measure(settings(seeds or SEEDS), folder, overrides)


def measure(chosen: Sequence[Setting], folder: Path, overrides: Sequence[str]) -> None:
    """Measure those of the trajectories that `folder` lacks, one after the other."""
    rows: list[dict[Any, Any]] = _summary(folder).to_dict("records")
    done = {Setting(*(row[key] for key in Setting.__annotations__)) for row in rows}
    for setting in chosen:
        if setting not in done:
            rows.append({**asdict(setting), **_measure(setting, folder, overrides)})
            table = pd.DataFrame(rows).to_csv(index=False, float_format="%.9g")
            write_text(folder / SUMMARY, table)
            write_meta(folder)


def _measure(setting: Setting, folder: Path, overrides: Sequence[str]) -> dict[str, float | None]:
    solver = {"momentum": setting.momentum, "lipschitz": setting.lipschitz, "rho": RHO}
    cfg = load(
        [
            *(f"task={setting.task}", "solver=bpgrad", f"epochs={EPOCHS}", f"seed={setting.seed}"),
            *(f"solver.{key}={value}" for key, value in solver.items()),
            *overrides,
        ]
    )
    path = record(cfg)
    sides = sides_of_eq4(path, setting.lipschitz, RHO)
    if setting.momentum in DRAWN:
        series = asdict(sides) | {"objective": path.objective}
        compact = {name: values.astype(np.float32) for name, values in series.items()}
        write_atomically(folder / setting.file, lambda file: np.savez_compressed(file, **compact))
    tolerance = EQ4_TOLERANCE * np.maximum(path.objective, 1.0)
    held = float(np.mean(sides.rhs - sides.lhs >= -tolerance))
    diverged = len(path.objective) + 1 if path.diverged else None
    return {"held": held} | asdict(premises(path, setting.momentum)) | {"diverged": diverged}


def _summary(folder: Path) -> pd.DataFrame:
    path = folder / SUMMARY
    return pd.read_csv(path) if path.exists() else pd.DataFrame()


def _series(folder: Path) -> dict[Setting, pd.DataFrame]:
    """The series that are recorded, in the order of the summary."""
    found = {}
    for row in _summary(folder).to_dict("records"):
        setting = Setting(*(row[key] for key in Setting.__annotations__))
        if (folder / setting.file).exists():
            with np.load(folder / setting.file) as arrays:
                found[setting] = pd.DataFrame({name: arrays[name] for name in arrays.files})
    return found


def evidence(folder: Path) -> dict[str, pd.DataFrame]:
    """What claims C6, C7 and C8 are decided by."""
    parts = [frame.astype(float).assign(**asdict(s)) for s, frame in _series(folder).items()]
    found = {"momentum": _summary(folder)}
    return found | ({"figure5": pd.concat(parts, ignore_index=True)} if parts else {})


def show(folder: Path, figures: Path, tables: Path) -> str:
    """Draw the figure, write the table of all trajectories; the section of the report."""
    series = _series(folder)
    drawing = draw(series)
    for suffix in (".svg", ".png"):
        curves.save(drawing, figures / f"figure5{suffix}")
    summary = _summary(folder).sort_values(list(Setting.__annotations__), ignore_index=True)
    write_text(tables / "figure5.csv", summary.to_csv(index=False, float_format="%.6g"))
    return _text(summary)


def draw(series: dict[Setting, pd.DataFrame]) -> Figure:
    """A panel for each data set and momentum, a colour for each L: LHS as dots, RHS as a line."""
    tasks = [task for task in FIGURE5_L if any(s.task == task for s in series)]
    with curves.settings():
        figure = Figure((curves.WIDTH, 3.2 * len(tasks)), layout="constrained")
        panels = figure.subplots(len(tasks), len(DRAWN), squeeze=False, sharex="row")
        for row, task in zip(panels, tasks, strict=True):
            for panel, momentum in zip(row, DRAWN, strict=True):
                panel.set_title(f"{task_title(task)}, μ = {momentum:g}", loc="left")
                panel.set_yscale("symlog", linthresh=LINEAR)
                chosen = [s for s in series if (s.task, s.momentum) == (task, momentum)]
                for setting in sorted(chosen, key=lambda s: s.lipschitz):
                    _sides(panel, series[setting], setting)
            row[0].set_ylabel("sides of Eq. 4")
            row[0].legend(loc="upper right", ncols=2)
        for panel in panels[-1]:
            panel.set_xlabel("iteration")
        marks = [
            Line2D([], [], color="#444444", marker=".", linestyle="none", label="left-hand side"),
            Line2D([], [], color="#444444", label="right-hand side, ρ · min f"),
        ]
        figure.legend(handles=marks, loc="outside lower center", ncols=2)
    return figure


def _sides(panel: Axes, frame: pd.DataFrame, setting: Setting) -> None:
    styles = line_styles(tuple(f"L = {value:g}" for value in FIGURE5_L[setting.task]))
    color = styles[f"L = {setting.lipschitz:g}"].color
    iterations = np.arange(1, len(frame) + 1)
    # The dots of all L lie below the lines of all, and so in one picture.
    panel.plot(
        *(iterations, frame["lhs"], "."),
        color=color, markersize=2, alpha=0.5, rasterized=True, zorder=2,
    )  # fmt: skip
    panel.plot(iterations, frame["rhs"], color=color, label=f"L = {setting.lipschitz:g}", zorder=3)


def _text(summary: pd.DataFrame) -> str:
    header = {
        "task": "data set",
        "momentum": "μ",
        "lipschitz": "L",
        "held": "Eq. 4 holds",
        "pairs13": "(13), pairs",
        "pairs15": "(15), pairs",
        "all13": "(13), all i < t",
        "all15": "(15), all i < t",
    }
    lines = ["| " + " | ".join(header.values()) + " |", "| --- " * len(header) + "|"]
    for row in summary.to_dict("records"):
        cells = [task_title(row["task"]), f"{row['momentum']:g}", f"{row['lipschitz']:g}"]
        cells += [f"{row[column]:.1%}" for column in list(header)[3:]]
        lines.append("| " + " | ".join(cells) + " |")
    if "diverged" in summary:
        for row in summary[summary["diverged"].notna()].to_dict("records"):
            where = f"{task_title(row['task'])}, μ = {row['momentum']:g}, L = {row['lipschitz']:g}"
            lines.append(
                f"\n{where}: diverged at iteration {row['diverged']:.0f}; "
                "the shares are those of the iterations before."
            )
    seeds = ", ".join(map(str, sorted(summary["seed"].unique())))
    return f"""\
![Both sides of Eq. 4 over the iterations, for several L and two momenta](figures/figure5.png)

Dots are the left-hand side of Eq. 4 after every iteration, max over i ≤ t of
f(x_i) − L‖x_i − x_{{t+1}}‖, lines the right-hand side, ρ · min f(x_i), with ρ = {RHO:g}; f(x_i) is
the minibatch objective of iteration i, x all weights and biases, distances are in float64. Where
the dots lie below the line, the next point could be a global minimum as far as the earlier samples
tell. Axes are linear up to {LINEAR:g} on both sides of 0 and logarithmic beyond. Seed {seeds}.

With μ = 0 the dots cannot lie below the line: the term i = t of the left-hand side is
f(x_t) − L η_t, which Eq. 12 makes equal to the right-hand side. That half of the paper's
observation holds by construction and says nothing of the data. With μ = 0.9 a step can be ten
times as long as η_t, and the other half is an observation.

The table has the share of iterations at which Eq. 4 holds (tolerance {EQ4_TOLERANCE:g} ·
max(f, 1)); at μ = 0 it can hold only with equality, and at large L the
rounding of float32 weights has a say in that. Beside it, of all pairs i < t, the shares that
satisfy the premises of Theorem 3, ⟨x_i − x_t, d_t⟩ ≥ 0 (13), and of Corollary 2, ⟨d_i, d_t⟩ ≥ 0
(15), and the shares of the iterations t at which all i < t do.

{chr(10).join(lines)}
"""
