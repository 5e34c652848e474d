"""How tasks and solvers are named and drawn, the same in every table and figure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from matplotlib import colormaps
from matplotlib.colors import to_hex

from bpgrad.reporting.runs import Comparison

TASK_TITLES = {
    "digits": "Digits",
    "mnist": "MNIST",
    "cifar10": "CIFAR-10",
    "imagenet": "ImageNet",
    "imagenette": "Imagenette (reduced)",
    "voc_detection": "VOC 2007 detection",
    "voc_segmentation": "VOC 2011 segmentation",
    "voc2012_segmentation": "VOC 2012 segmentation",
}


@dataclass(frozen=True)
class LineStyle:
    """A curve's colour and dashes (matplotlib's on-off lengths; empty is solid)."""

    color: str
    dashes: tuple[float, ...] = ()
    width: float = 1.4


# Okabe and Ito's colours, which remain distinct to colour-blind readers, without their yellow,
# which does not show on white; dashes tell the curves apart in grey print. BPGrad is warm and wide.
SOLVER_STYLES = {
    "BPGrad": LineStyle("#D55E00", width=2.2),
    "BPGrad, μ = 0.9": LineStyle("#D55E00", width=2.2),
    "BPGrad, μ = 0": LineStyle("#E69F00", (4, 1.2), width=2.2),
    "BPGrad (released code)": LineStyle("#CC79A7", (1.2, 1), width=2.2),
    "Adagrad": LineStyle("#56B4E9", (8, 1.5)),
    "Adadelta": LineStyle("#7A5C1E", (6, 1.5, 1.2, 1.5)),
    "RMSProp": LineStyle("#009E73", (5, 1.5)),
    "Adam": LineStyle("#0072B2"),
    "Eve": LineStyle("#000000", (1.2, 1.2)),
    "SGD": LineStyle("#888888", (4, 1, 1, 1, 1, 1)),
}

# Of a sweep over one setting, from its first value to its last: viridis, without its lightest end,
# is told apart by hue, and by lightness alone.
SWEEP = "viridis"
SWEEP_DASHES = ((), (6, 1.5), (2, 1.2))

DOT = "#D55E00"

# A tuned solver ("Adam (tuned, 10 trials)") has the colour of the one as given, and so has one at
# other settings ("Adam (paper's setting)").
TUNED_DASHES = (1, 2.5)
OTHER_DASHES = (3, 2.5)

SPARE_STYLES = (
    LineStyle("#332288", (8, 1, 2, 1)),
    LineStyle("#882255", (6, 1, 3, 1)),
    LineStyle("#117733", (2, 2)),
    LineStyle("#666666", (1, 3)),
)


def line_styles(solvers: tuple[str, ...]) -> dict[str, LineStyle]:
    """The style of each solver; ones of your own get the spare styles in the order given.

    Labels that end in "name = value" are a sweep, which gets a scale of colours in the order given.
    """
    sweep = [solver for solver in solvers if solver not in SOLVER_STYLES and _swept(solver)]
    styles, spare = {}, 0
    for solver in solvers:
        if solver in SOLVER_STYLES:
            styles[solver] = SOLVER_STYLES[solver]
        elif solver in sweep:
            k = sweep.index(solver)
            color = to_hex(colormaps[SWEEP](0.85 * k / max(1, len(sweep) - 1)))
            styles[solver] = LineStyle(color, SWEEP_DASHES[k % len(SWEEP_DASHES)], width=1.8)
        elif (given := solver.partition(" (tuned, ")[0]) in styles:
            styles[solver] = replace(styles[given], dashes=TUNED_DASHES)
        elif (given := solver.partition(" (")[0]) in styles and solver != given:
            styles[solver] = replace(styles[given], dashes=OTHER_DASHES)
        else:
            styles[solver] = SPARE_STYLES[spare % len(SPARE_STYLES)]
            spare += 1
    return styles


def styles_of(shows: str, solvers: Sequence[str]) -> Mapping[str, LineStyle]:
    """The style of every label of an experiment, for its figure and for its tables alike.

    In a sweep the settings of a solver share its style; variants are drawn as dots of one colour.
    """
    if shows == "variants":
        return dict.fromkeys(solvers, LineStyle(DOT))
    if shows == "sweep":
        found = line_styles(tuple(dict.fromkeys(swept_solver(label) for label in solvers)))
        return {label: found[swept_solver(label)] for label in solvers}
    return line_styles(tuple(solvers))


def swept_solver(label: str) -> str:
    """The solver of a label "solver, name = value"."""
    return label.partition(", ")[0]


def _swept(label: str) -> bool:
    return re.fullmatch(r"(.+, )?\w+ = [\d.e+-]+", label) is not None


def task_title(task: str, scale: str = "paper") -> str:
    """A task's name as it is printed; what is not of the paper's size is marked."""
    title = TASK_TITLES.get(task, task)
    return title if scale == "paper" or title.endswith(")") else f"{title} ({scale})"


def heading_of(comparison: Comparison) -> str:
    """The task of a comparison as it is printed, and its scale if some run is not the paper's."""
    scales = sorted({run.scale for run in comparison.runs if run.config} - {"paper"})
    return task_title(comparison.task, *scales[:1])
