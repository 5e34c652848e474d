"""Learning curves: a row of panels for each task, training objective and validation metric."""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bpgrad.metrics import phase_title
from bpgrad.records.files import write_atomically
from bpgrad.reporting.display.style import LineStyle, heading_of, styles_of
from bpgrad.reporting.runs import Comparison

WIDTH, ROW_HEIGHT = 10.0, 3.5  # inches
PANEL_TITLE = 60  # characters that fit over one of two panels
STEP_TITLES = {"objective": "minibatch objective", "step_size": "step size η", "grad_norm": "‖g‖"}
SETTINGS = {
    "svg.hashsalt": "bpgrad",  # names the parts of an SVG; random otherwise
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}
SMALL = {
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
}
COLORS = 128  # of a PNG
DPI = {"svg": 110, "png": 150}  # of an SVG, the parts that are pictures: clouds of dots
# Without dates and versions, the same runs give the same bytes.
METADATA: dict[str, dict[str, str | None]] = {
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
}


def draw(title: str, comparisons: Sequence[Comparison]) -> Figure:
    """The curves over epochs, a row of panels for each task with any rows.

    Of several seeds a line is the mean and a band reaches from the smallest to the largest.
    A solver with no finished run is drawn as far as it came.
    """
    comparisons = [c for c in comparisons if any(len(run.rows) for run in c.runs)]
    solvers = tuple(dict.fromkeys(s for comparison in comparisons for s in comparison.solvers))
    styles = styles_of("epochs", solvers)
    with settings():
        figure = Figure((WIDTH, ROW_HEIGHT * len(comparisons) + 1), layout="constrained")
        entitle(figure, title)
        panels = figure.subplots(len(comparisons), 2, squeeze=False)
        for (left, right), comparison in zip(panels, comparisons, strict=True):
            objective, (name, shown) = comparison.metrics["objective"], comparison.drawn
            task, unit = heading_of(comparison), f" ({shown.unit})" if shown.unit else ""
            _entitle_panel(left, f"{task}: training {objective.title}")
            held_out = phase_title(comparison.task, f"val_{name}")
            _entitle_panel(right, f"{task}: {held_out} {shown.title}{unit}")
            _panel(left, comparison, "train_objective", styles, log=True)
            _panel(right, comparison, f"val_{name}", styles, log=not shown.higher_is_better)
        for panel in panels[-1]:
            panel.set_xlabel("epoch")
        _legend(figure, solvers)
        counts = {len(c.finished(solver)) for c in comparisons for solver in c.solvers} - {0}
        if max(counts, default=0) > 1:
            seeds = " to ".join(map(str, sorted({min(counts), max(counts)})))
            figure.legends[0].set_title(f"line: mean of {seeds} seeds, band: smallest to largest")
    return figure


def draw_small(comparisons: Sequence[Comparison], highlighted: str) -> Figure:
    """The metric over epochs, a panel for each task, to be read at half the width of a screen."""
    comparisons = [c for c in comparisons if any(len(run.rows) for run in c.runs)]
    solvers = tuple(dict.fromkeys(s for comparison in comparisons for s in comparison.solvers))
    styles = {
        solver: replace(style, width=2.2 if solver == highlighted else 1.0)
        for solver, style in styles_of("epochs", solvers).items()
    }
    with settings():
        matplotlib.rcParams.update(SMALL)  # type: ignore[arg-type]
        figure = Figure((4.4, 2.5), layout="constrained")
        panels = figure.subplots(1, len(comparisons), squeeze=False)[0]
        for panel, comparison in zip(panels, comparisons, strict=True):
            name, shown = list(comparison.metrics.items())[1]
            held_out = phase_title(comparison.task, f"val_{name}")
            unit = f" ({shown.unit})" if shown.unit else ""
            panel.set_title(f"{heading_of(comparison)}: {held_out} {shown.title}{unit}")
            _panel(panel, comparison, f"val_{name}", styles, log=not shown.higher_is_better)
            panel.set_xlabel("epoch")
        _legend(figure, solvers, columns=3)
    return figure


def entitle(figure: Figure, title: str) -> None:
    """Write a title over a figure; none where it is empty, as what shows it has its own."""
    if title:
        figure.suptitle(textwrap.fill(title, 90), x=0.01, ha="left", size=12, weight="bold")


def _entitle_panel(panel: Axes, title: str) -> None:
    """Write a title over one of two panels, in several lines where one is too short."""
    panel.set_title(textwrap.fill(title, PANEL_TITLE, break_on_hyphens=False), loc="left")


def draw_steps(title: str, comparisons: Sequence[Comparison], column: str) -> Figure:
    """A value of every iteration over the first epochs, a panel for each task with any rows.

    Every iteration is a faint dot; the line is the median of each hundredth of the epochs shown.
    Of several seeds the first is drawn, and the legend says which.

    Raises RecordError for a run that has not recorded the value.
    """
    comparisons = [c for c in comparisons if any(len(run.rows) for run in c.runs)]
    solvers = tuple(dict.fromkeys(s for comparison in comparisons for s in comparison.solvers))
    styles = styles_of("epochs", solvers)
    with settings():
        figure = Figure((WIDTH, ROW_HEIGHT + 1), layout="constrained")
        entitle(figure, title)
        panels = figure.subplots(1, len(comparisons), squeeze=False, sharey=True)[0]
        for panel, comparison in zip(panels, comparisons, strict=True):
            panel.set_title(heading_of(comparison), loc="left")
            panel.set_xlabel("iteration")
            panel.set_yscale("log", nonpositive="clip")
            for solver in comparison.solvers:
                run = next((r for r in comparison.runs if r.solver == solver and len(r.rows)), None)
                if run is not None:
                    _dots(panel, run.steps(column), styles[solver], solver)
        panels[0].set_ylabel(STEP_TITLES[column])
        _legend(figure, solvers)
        drawn = [run.seed for c in comparisons for run in c.runs if len(run.rows)]
        if len(set(drawn)) > 1:
            figure.legends[0].set_title(f"seed {drawn[0]}, one of {len(set(drawn))}")
    return figure


def _dots(panel: Axes, values: np.ndarray, style: LineStyle, label: str) -> None:
    iterations = np.arange(1, len(values) + 1)
    panel.plot(
        iterations, values, ".", color=style.color, markersize=1.5, alpha=0.25, rasterized=True
    )
    parts = min(100, len(values))
    middle = [part.mean() for part in np.array_split(iterations, parts)]
    medians = [np.median(part) for part in np.array_split(values, parts)]
    panel.plot(middle, medians, color=style.color, linewidth=style.width, label=label)


def save(figure: Figure, path: Path, *, description: str = "") -> None:
    """Write a figure as .svg or .png; the same figure gives the same bytes.

    The file holds the description.
    """
    kind = path.suffix.removeprefix(".")
    drawn = BytesIO()
    extra = {"Description": description} if description else {}
    with settings():
        figure.savefig(drawn, format=kind, dpi=DPI[kind], metadata=METADATA[kind] | extra)
        figure.set_layout_engine("none")  # it has its layout, which takes a third of the drawing
    data = drawn.getvalue()
    if kind == "svg":  # paths to 1/100 pt: a third of the size goes into invisible digits
        data = re.sub(rb' d="[^"]+"', lambda d: re.sub(rb"(\.\d\d)\d+", rb"\1", d[0]), data)
    if kind == "png":
        data = _with_palette(data)
    write_atomically(path, lambda file: file.write(data))


def _with_palette(png: bytes) -> bytes:
    """The same picture in COLORS colours, which is all that drawings have: a third of the size."""
    drawn = BytesIO()
    with Image.open(BytesIO(png)) as picture:
        few = picture.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
        few.save(drawn, "png", optimize=True, dpi=picture.info["dpi"], pnginfo=_texts(picture))
    return drawn.getvalue()


def _texts(picture: Image.Image) -> PngInfo:
    """What the file says of itself."""
    texts = PngInfo()
    for key, value in picture.info.items():
        if isinstance(value, str):
            texts.add_itxt(str(key), value)
    return texts


@contextmanager
def settings() -> Iterator[None]:
    """The look of all figures, while one is being made."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # the user's matplotlibrc has no say
        matplotlib.rcParams.update(SETTINGS)  # type: ignore[arg-type]
        yield


def _legend(figure: Figure, solvers: Sequence[str], columns: int = 4) -> None:
    """One legend for all panels, below them."""
    lines = {line.get_label(): line for panel in figure.axes for line in panel.get_lines()}
    drawn = [solver for solver in solvers if solver in lines]
    figure.legend(
        [lines[solver] for solver in drawn],
        drawn,
        loc="outside lower center",
        ncols=min(columns, len(drawn)),
        handlelength=4 if columns > 3 else 2.5,
        columnspacing=2.5 if columns > 3 else 1.0,
    )


def _panel(
    panel: Axes, comparison: Comparison, column: str, styles: Mapping[str, LineStyle], *, log: bool
) -> None:
    """Draw one column of the records over epochs, a line for each solver."""
    lowest, highest = np.inf, -np.inf
    for solver in comparison.solvers:
        values = _series(comparison, solver, column)
        if values is None:
            continue
        style = styles[solver]
        epochs = np.arange(1, values.shape[1] + 1)
        (line,) = panel.plot(
            epochs, values.mean(axis=0), color=style.color, linewidth=style.width, label=solver
        )
        if style.dashes:
            line.set_dashes(style.dashes)
        if len(values) > 1:
            low, high = values.min(axis=0), values.max(axis=0)
            panel.fill_between(epochs, low, high, color=style.color, alpha=0.18, linewidth=0)
        positive = values[np.isfinite(values) & ((values > 0) | (not log))]
        if positive.size:
            lowest, highest = min(lowest, positive.min()), max(highest, positive.max())
    panel.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    panel.margins(x=0.01)
    if log and lowest < np.inf:
        _log_axis(panel, lowest, highest)


def _series(comparison: Comparison, solver: str, column: str) -> np.ndarray | None:
    """Seeds × epochs: of the finished runs, else of the rows there are; None if there are none.

    NaN where an epoch has no such value, as before the epochs in which a task judges it.
    """
    runs = comparison.finished(solver) or [
        run for run in comparison.runs if run.solver == solver and len(run.rows)
    ]
    if not runs:
        return None
    epochs = min(len(run.rows) for run in runs)
    return np.stack(
        [run.rows.reindex(columns=[column])[column].to_numpy()[:epochs] for run in runs]
    )


def _log_axis(panel: Axes, lowest: float, highest: float) -> None:
    """A logarithmic y axis, with plain numbers unless they are tiny; zeros fall off below."""
    panel.set_yscale("log", nonpositive="clip")
    panel.set_ylim(lowest / 1.12, highest * 1.12)
    decades = np.log10(highest / lowest)
    subs = (1, 1.5, 2, 3, 4, 5, 6, 8) if decades < 0.8 else (1, 2, 3, 5) if decades < 2 else (1,)
    panel.yaxis.set_major_locator(LogLocator(subs=subs, numticks=20))
    panel.yaxis.set_minor_locator(NullLocator())
    if lowest > 1e-4:
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
