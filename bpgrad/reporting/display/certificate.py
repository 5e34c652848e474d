"""How often the gradient's norm exceeds L, where the bounds behind BPGrad's step do not hold."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bpgrad.errors import RecordError
from bpgrad.reporting.display import curves
from bpgrad.reporting.display.style import LineStyle, heading_of, styles_of
from bpgrad.reporting.runs import Comparison, Run


def norm_over_lipschitz(run: Run) -> np.ndarray:
    """The quantiles 0, ¼, ½, ¾ and 1 of ‖g‖/L in every epoch, (epochs, 5).

    Raises RecordError if the run has not recorded the norm, or its solver has no L.
    """
    lipschitz = run.config["solver"].get("lipschitz")
    if lipschitz in (None, "auto"):  # an estimate of L certifies nothing
        raise RecordError(f"{run.directory}: its solver has no Lipschitz constant")
    return run.quantiles("grad_norm") / float(lipschitz)


def exceeded(run: Run) -> float | None:
    """The share of steps with ‖g‖ > L; None where an older record does not tell.

    Such a record has the norm of every iteration for the first epochs only.
    """
    last = run.rows.iloc[-1]
    if "exceeded_steps" in run.rows.columns:
        return float(last["exceeded_steps"] / last["iterations"])
    lipschitz = float(run.config["solver"]["lipschitz"])
    first = run.steps("grad_norm")
    later = norm_over_lipschitz(run)[run.rows["iterations"].to_numpy() > len(first), -1]
    if np.any(later > 1):
        return None
    return float(np.sum(first > lipschitz) / last["iterations"])


def draw(title: str, comparisons: Sequence[Comparison]) -> Figure:
    """‖g‖/L over epochs, a panel for each task: the median, and a band from least to greatest.

    Of several seeds the first is drawn. Raises RecordError as `norm_over_lipschitz` does.
    """
    comparisons = [c for c in comparisons if any(run.finished for run in c.runs)]
    solvers = tuple(dict.fromkeys(s for comparison in comparisons for s in comparison.solvers))
    styles = styles_of("certificate", solvers)
    with curves.settings():
        figure = Figure((curves.WIDTH, curves.ROW_HEIGHT + 1), layout="constrained")
        curves.entitle(figure, title)
        panels = figure.subplots(1, len(comparisons), squeeze=False, sharey=True)[0]
        for panel, comparison in zip(panels, comparisons, strict=True):
            panel.set_title(heading_of(comparison), loc="left")
            panel.set_xlabel("epoch")
            panel.set_yscale("log")
            panel.axhline(1.0, color="#444444", linewidth=1.0)
            for solver in comparison.solvers:
                for run in comparison.finished(solver)[:1]:
                    share = exceeded(run)
                    words = "not counted" if share is None else f"{share:.2%} of steps"
                    label = f"{solver}: {words}"
                    _band(panel, norm_over_lipschitz(run), styles[solver], label)
            panel.legend(
                title="steps with ‖g‖ > L", loc="upper center", bbox_to_anchor=(0.5, -0.18)
            )
        panels[0].set_ylabel("‖g‖ / L (line: median, band: least to greatest)")
    return figure


def _band(panel: Axes, values: np.ndarray, style: LineStyle, label: str) -> None:
    epochs = np.arange(1, len(values) + 1)
    (line,) = panel.plot(
        epochs, values[:, 2], color=style.color, linewidth=style.width, label=label
    )
    if style.dashes:
        line.set_dashes(style.dashes)
    panel.fill_between(
        epochs, values[:, 0], values[:, -1], color=style.color, alpha=0.18, linewidth=0
    )
