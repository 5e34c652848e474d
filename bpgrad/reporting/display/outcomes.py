"""Where runs end: variants one below the other, or a sweep over the one setting of each solver."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from bpgrad.reporting.display import curves
from bpgrad.reporting.display.endings import last, shown_columns, title_of
from bpgrad.reporting.display.style import heading_of, styles_of
from bpgrad.reporting.runs import Comparison, labels_by_setting, swept


def draw_variants(title: str, comparisons: Sequence[Comparison]) -> Figure:
    """A row for each variant, a column of dots for each metric: every seed, at the last epoch.

    The grey line is the first variant's mean, which the others are variants of. Those without a
    finished run are left out.
    """
    comparisons = [c for c in comparisons if any(run.finished for run in c.runs)]
    shown = [[s for s in c.solvers if c.finished(s)] for c in comparisons]
    heights = [0.28 * len(solvers) + 1.0 for solvers in shown]
    with curves.settings():
        figure = Figure((curves.WIDTH, sum(heights) + 0.4), layout="constrained")
        curves.entitle(figure, title)
        rows = figure.subplots(
            len(comparisons), 2, squeeze=False, sharey="row", height_ratios=heights
        )
        for panels, comparison, solvers in zip(rows, comparisons, shown, strict=True):
            for panel, (column, metric) in zip(panels, shown_columns(comparison), strict=True):
                words = title_of(comparison.task, column, metric)
                panel.set_title(f"{heading_of(comparison)}: {words}", loc="left")
                panel.xaxis.set_major_locator(MaxNLocator(5))
                styles = styles_of("variants", solvers)
                for k, solver in enumerate(solvers):
                    values = last(comparison, solver, column)
                    panel.plot(
                        values, [k] * len(values), "o", color=styles[solver].color, markersize=5
                    )
                panel.axvline(
                    last(comparison, solvers[0], column).mean(), color="#888888", zorder=0
                )
            panels[0].set_yticks(range(len(solvers)), solvers)
            panels[0].invert_yaxis()
    return figure


def draw_sweep(title: str, comparisons: Sequence[Comparison]) -> Figure:
    """The last epoch over the setting of labels "solver, name = value", a curve for each solver.

    Settings are drawn relative to the solver's middle one, L the other way round: steps become
    longer to the right for all. Several seeds give the mean. A setting that is no number, as
    L = auto, is a level line.
    """
    comparisons = [c for c in comparisons if any(run.finished for run in c.runs)]
    with curves.settings():
        figure = Figure(
            (curves.WIDTH, curves.ROW_HEIGHT * len(comparisons) + 1), layout="constrained"
        )
        curves.entitle(figure, title)
        rows = figure.subplots(len(comparisons), 2, squeeze=False)
        for panels, comparison in zip(rows, comparisons, strict=True):
            for panel, (column, metric) in zip(panels, shown_columns(comparison), strict=True):
                words = title_of(comparison.task, column, metric)
                panel.set_title(f"{heading_of(comparison)}: {words}", loc="left")
                _sweep(panel, comparison, column)
                if metric.unit == "":
                    panel.set_yscale("log")
            lines = {str(line.get_label()): line for line in panels[0].get_lines()}
            figure.legend(
                [*lines.values()],
                [*lines],
                loc="outside lower center",
                ncols=4,
                title="setting in the middle",
            )
        for panel in rows[-1]:
            panel.set_xlabel("setting / middle setting (BPGrad: 1/L); steps get longer →")
    return figure


def _sweep(panel: Axes, comparison: Comparison, column: str) -> None:
    settings = labels_by_setting(comparison)
    styles = styles_of("sweep", comparison.solvers)
    for solver, labels in settings.items():
        middle = list(labels)[len(labels) // 2]
        name = labels[middle].partition(", ")[2].partition(" = ")[0]
        found = {
            middle / value if name == "L" else value / middle: last(
                comparison, label, column
            ).mean()
            for value, label in labels.items()
            if comparison.finished(label)
        }
        if not found:
            continue
        style = styles[labels[middle]]
        (line,) = panel.plot(
            [*found],
            [*found.values()],
            marker="o",
            markersize=3.5,
            color=style.color,
            linewidth=style.width,
            label=f"{solver}, {name} = {middle:g}",
        )
        if style.dashes:
            line.set_dashes(style.dashes)
    for label in comparison.solvers:
        if swept(label)[1] is None and comparison.finished(label):
            level = last(comparison, label, column).mean()
            panel.axhline(level, color=styles[label].color, linewidth=1, linestyle=":", label=label)
    panel.set_xscale("log")
    panel.xaxis.set_minor_locator(NullLocator())
