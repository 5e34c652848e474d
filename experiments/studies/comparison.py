"""The tables, the figure and the text of Algorithm 1 against other global minimisers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bpgrad.reporting.display import curves
from experiments.studies import certifying, finding
from experiments.studies.test_functions import all_functions

#: The two that claim C3 compares.
GRADIENT, UNIFORM = "Algorithm 1", "AdaLIPO"
#: A gap in units of ε that is certified; a little more than 1 for the digits of the record.
CERTIFIED = 1 + 1e-3
#: What the methods are called in a table's head.
HEADS = {
    "Algorithm 1": "Alg. 1",
    "Algorithm 1, L estimated": "Alg. 1, L estimated",
    "LIPO": "LIPO, L known",
    "Algorithm 1 without gradients": "Alg. 1, no gradients",
}


def ordered(table: pd.DataFrame) -> pd.DataFrame:
    """Functions × methods in the order of the study."""
    labels = [f.label for f in all_functions() if f.label in table.index]
    return table.loc[labels, list(finding.FINDERS)]


def success(found: pd.DataFrame, accuracies: Sequence[float] = finding.ACCURACIES) -> pd.DataFrame:
    """Percentages of the runs of each method that met the accuracies."""
    columns = [f"to_{100 * a:.0f}" for a in accuracies]
    met = found[columns].notna().groupby([found["function"], found["method"]]).mean()
    shares = [[f"{100 * met[column].loc[key]:.0f}" for column in columns] for key in met.index]
    return _wide(pd.Series([" / ".join(share) for share in shares], index=met.index))


def evaluations(found: pd.DataFrame, medians: pd.DataFrame) -> pd.DataFrame:
    """Median evaluations, where half of the runs or more got there, with the median time."""
    seconds = found.groupby(["function", "method"])["seconds"].median()
    counts = [float(medians[method].loc[function]) for function, method in seconds.index]
    cells = [
        f"{count:.0f} ({_milliseconds(time)})"
        if count < finding.MOST_EVALUATIONS
        else f"– ({_milliseconds(time)})"
        for count, time in zip(counts, seconds.to_numpy(), strict=True)
    ]
    return _wide(pd.Series(cells, index=seconds.index))


def _wide(cells: pd.Series) -> pd.DataFrame:
    """Functions × methods, with the function as a column."""
    table = ordered(cells.unstack("method")).rename(columns=HEADS)
    return table.rename_axis(None, axis=1).rename_axis("function").reset_index()


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:#.2g}".rstrip(".") if seconds < 0.1 else f"{1000 * seconds:.0f}"


def certificates(certified: pd.DataFrame) -> pd.DataFrame:
    """Evaluations and time to a certified gap, medians over the seeds, or the gap at the limit."""
    rows = []
    for function in all_functions():
        for part in certifying.GAPS.get(function.dim, ()):
            chosen = certified[
                (certified["function"] == function.label) & (certified["part"] == part)
            ]
            row: dict[str, Any] = {"function": function.label, "ε": f"{part:.0%}"}
            for method in certifying.CERTIFIERS:
                row[HEADS.get(method, method)] = _certificate(chosen[chosen["method"] == method])
            row["pays off from"] = _break_even(chosen)
            rows.append(row)
    return pd.DataFrame(rows)


def _certificate(runs: pd.DataFrame) -> str:
    """Evaluations of f + of the gradient, and the time; or the gap reached, in units of ε."""
    if runs.empty:
        return ""
    if (runs["gap"] <= CERTIFIED).all():
        fun, grad, seconds = (runs[c].median() for c in ("nfev", "ngev", "seconds"))
        counts = f"{fun:.0f}" + (f" + {grad:.0f}" if grad else "")
        return f"{counts} ({_milliseconds(seconds)} ms)"
    gap = runs["gap"].median()
    return "–" if pd.isna(gap) else f"– (gap {gap:.2g} ε)"


def _break_even(runs: pd.DataFrame) -> str:
    """The cost of an evaluation from which Algorithm 1 without gradients is faster than boxes."""
    ours, boxes = (
        runs[(runs["method"] == method) & (runs["gap"] <= CERTIFIED)]
        for method in ("Algorithm 1 without gradients", "branch and bound")
    )
    saved = boxes["nfev"].median() - ours["nfev"].median()
    spent = ours["seconds"].median() - boxes["seconds"].median()
    # NaN, where one of them has no certificate, is no gain.
    return f"{_milliseconds(max(spent, 0.0) / saved)} ms" if saved > 0 else "–"


def setting(found: pd.DataFrame) -> str:
    """What was run, and what counts."""
    slow = found[found["end"] == "time"]["method"].value_counts().sort_index()
    seeds = found["seed"].nunique()
    timed = ", ".join(f"{n} of {method}" for method, n in slow.items()) or "none"
    return f"""\
Equal accuracy is that of Malherbe and Vayatis (2017): f ≤ f* + (1 − x)(f̄ − f*) for x = 90, 95 and
99 %, where f̄ is the mean of f on its box ({2**finding.MEAN_POINTS} Sobol points); the range is
f̄ − f*. Evaluations are those of f and of its gradient together, a gradient counted as one:
Algorithm 1 pays two for a sample. Every run may spend {finding.MOST_EVALUATIONS} of them, or
{finding.MOST_SECONDS:g} s of CPU time (runs that hit this: {timed}). {seeds} seeds; shgo and
direct are deterministic and run once. Algorithm 1 knows L, an upper bound of ‖∇f‖ derived
in `experiments/studies/test_functions.py`, and ε = 1 % of the range; where f may be negative it is
shifted by L · (half the diagonal) − f(centre), never by the known minimum. With L estimated, and
for AdaLIPO (p = 0.1, k on the grid (1 + 0.01/D)^i), L is not known; LIPO is told. SciPy's methods
have their defaults, but shgo, which gives up early with them, draws 8 × 128 Sobol points;
dual_annealing and shgo get the gradient for their local searches. direct starts at the centre of
the box, which for Rosenbrock is within 1 % already."""


def outcome(medians: pd.DataFrame) -> str:
    """On how many functions Algorithm 1 needs fewer evaluations than each other method."""
    ours = medians[GRADIENT]
    texts = [
        f"{HEADS.get(method, method)} on {(ours < medians[method]).sum()} "
        f"(and more on {(ours > medians[method]).sum()})"
        for method in finding.FINDERS
        if method != GRADIENT
    ]
    return (
        f"By the median evaluations to within 1 %, on {len(medians)} functions, Algorithm 1 with "
        f"the known L needs fewer than {'; '.join(texts)}. A run that never gets there counts with "
        "the limit."
    )


def certified_outcome(certified: pd.DataFrame) -> str:
    """What was run for certificates, and on how many functions boxes need more evaluations."""
    spent = (certified["nfev"] + certified["ngev"]).where(certified["gap"] <= CERTIFIED, np.inf)
    keys = [certified[column] for column in ("function", "part", "method")]
    medians = spent.groupby(keys).median().unstack("method")
    boxes, seeds = medians["branch and bound"], certified["seed"].nunique()
    texts = [
        f"{HEADS.get(method, method)} needs fewer evaluations on "
        f"{(medians[method] < boxes).sum()}, more on {(medians[method] > boxes).sum()}"
        for method in certifying.SEEDED
    ]
    return f"""\
**Where a certificate is asked for**: evaluations of f (+ of the gradient) and CPU time until
min f − lower bound ≤ ε, a part of the range. All know L and nothing else, so that here every
function is shifted. Branch and bound divides boxes in three, with the bound f(centre) − L · (half
the diagonal). DIRECT certifies nothing: counted are its samples until their balls cover the box,
with L known, at no cost for finding that out. Without gradients (`grad=None`) Algorithm 1 takes the
nearest admissible point. It computes more between evaluations than boxes do: the last column has
the cost of one evaluation from which it is faster all the same. Limits:
{certifying.MOST_EVALUATIONS} evaluations, {certifying.MOST_SECONDS:g} s of CPU time; "–" was not
certified within them. Medians of {seeds} seeds, the {len(certifying.ONCE)} longest cases of one.
Of {len(medians)} cases, against branch and bound: {"; ".join(texts)}."""


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, its first column to the left."""
    lines = [list(table.columns), ["---", *["---:"] * (len(table.columns) - 1)]]
    lines += table.astype(str).to_numpy().tolist()
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


#: Colour and mark of each method in the figure.
MARKS = {
    "Algorithm 1": ("#D55E00", "o"),
    "Algorithm 1, L estimated": ("#E69F00", "o"),
    "AdaLIPO": ("#0072B2", "s"),
    "LIPO": ("#56B4E9", "s"),
    "uniform": ("#888888", "x"),
    "dual_annealing": ("#009E73", "^"),
    "shgo": ("#CC79A7", "v"),
    "direct": ("#000000", "D"),
}


def draw(medians: pd.DataFrame) -> Figure:
    """A row for each function, a mark for each method; at the limit: never got there."""
    with curves.settings():
        figure = Figure((10.0, 0.36 * len(medians) + 1.6), layout="constrained")
        panel = figure.subplots()
        places = np.arange(len(medians))
        shifts = np.linspace(-0.28, 0.28, len(MARKS))
        for shift, (method, (color, mark)) in zip(shifts, MARKS.items(), strict=True):
            values = medians[method].to_numpy()
            there = values < finding.MOST_EVALUATIONS
            face = [color if reached or mark == "x" else "none" for reached in there]
            edge = color if mark != "x" else None
            panel.scatter(
                values, places + shift, marker=mark, s=34, facecolors=face, edgecolors=edge,
                color=None if edge else color, label=HEADS.get(method, method), zorder=3,
            )  # fmt: skip
        panel.set_yticks(places, list(medians.index))
        panel.set_ylim(len(medians) - 0.4, -0.6)
        for place in places[:-1]:
            panel.axhline(place + 0.5, color="#E3E3E3", linewidth=0.8)
        panel.grid(visible=False, axis="y")
        panel.set_xscale("log")
        panel.set_xlabel(
            "median evaluations of f and gradient to within 1 % of the range "
            f"(hollow, at {finding.MOST_EVALUATIONS}: not reached)"
        )
        figure.legend(loc="outside upper center", ncols=4)
    return figure
