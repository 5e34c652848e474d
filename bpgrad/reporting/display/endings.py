"""What variants and sweeps end with: the tables that answer what such an experiment asks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bpgrad.metrics import Metric, phase_title
from bpgrad.reporting.display.grid import ending, text_of
from bpgrad.reporting.display.style import heading_of
from bpgrad.reporting.inference.statistics import MIN_SEEDS, holm, paired_test
from bpgrad.reporting.inference.sweeps import NEAR, width
from bpgrad.reporting.runs import Comparison, Run, labels_by_setting, swept

TWIN = "twin of "  # a label "twin of X: what" is compared with X, others with the first
GUESSING = 100.0  # percent: the error of a run that diverged, which is far from any best
LAST_EPOCHS = 10  # over which a run's scatter from epoch to epoch is taken


def answer(shows: str, comparison: Comparison) -> str:
    """The table of an experiment that shows variants, a sweep or a certificate; else "".

    With what it means, in Markdown.
    """
    makers = {"variants": _variants, "sweep": _sweep, "certificate": _certificate}
    if shows not in makers or not any(run.finished for run in comparison.runs):
        return ""
    return "\n".join(makers[shows](comparison))


def _certificate(comparison: Comparison) -> Iterator[str]:
    from bpgrad.reporting.display.certificate import exceeded  # with it matplotlib

    yield (
        f"On {heading_of(comparison)}, the share of steps at which the gradient is steeper "
        "than L, so that nothing is proved of them:"
    )
    yield ""
    yield "| solver | seeds | steps with ‖g‖ > L |"
    yield "| --- | ---: | ---: |"
    for solver in comparison.solvers:
        shares = [
            share for run in comparison.finished(solver) if (share := exceeded(run)) is not None
        ]
        if shares:
            ends = dict.fromkeys(f"{share:.2%}" for share in (min(shares), max(shares)))
            yield f"| {solver} | {len(shares)} | {' – '.join(ends)} |"


def _variants(comparison: Comparison) -> Iterator[str]:
    first, *_ = shown = [s for s in comparison.solvers if comparison.finished(s)]
    columns = shown_columns(comparison)
    noise = {column: _scatter(comparison, column) for column, _ in columns}
    yield f"On {heading_of(comparison)}, what each difference changes at the last epoch:"
    yield ""
    yield (
        "| variant | beside | "
        + " | ".join(title_of(comparison.task, c, m) for c, m in columns)
        + " |"
    )
    yield "| --- | --- |" + " ---: |" * len(columns)
    pairs = [(solver, _beside(solver, first)) for solver in shown[1:]]
    significant = {column: _significant(comparison, pairs, column) for column, _ in columns}
    for k, (solver, beside) in enumerate(pairs):
        cells = []
        for column, metric in columns:
            change = _mean(comparison, solver, column) - _mean(comparison, beside, column)
            if math.isnan(change):
                cells.append("–")
                continue
            text = f"{'−' if change < 0 else '+'}{text_of(abs(change), metric)}"
            cells.append(f"**{text}**" if significant[column][k] else text)
        yield f"| {solver} | {beside} | {' | '.join(cells)} |"
    yield ""
    seeds = min(len(comparison.finished(solver)) for solver in shown)
    words = " and ".join(
        f"{text_of(noise[c], m)} ({title_of(comparison.task, c, m)})" for c, m in columns
    )
    yield (
        "Bold is what a paired t-test over seeds finds at 5 %, after Holm over the column; with "
        f"fewer than {MIN_SEEDS} seeds nothing is bold (here {seeds}). By themselves the runs "
        f"scatter from one epoch to the next with a standard deviation of {words}."
    )


def _beside(solver: str, first: str) -> str:
    """What a variant is compared with."""
    if solver.startswith(TWIN):
        return solver.removeprefix(TWIN).partition(":")[0]
    return first


def _significant(
    comparison: Comparison, pairs: Sequence[tuple[str, str]], column: str
) -> list[bool]:
    """Whether the last epochs of each pair differ, paired by seed, after Holm."""
    sides = [
        [
            {run.seed: ending(run, comparison, column) for run in comparison.finished(s)}
            for s in pair
        ]
        for pair in pairs
    ]
    return [test.significant for test in holm([paired_test(*both) for both in sides])]


def _sweep(comparison: Comparison) -> Iterator[str]:
    (objective, _), (column, metric) = shown_columns(comparison)
    complete = {
        solver: labels
        for solver, labels in labels_by_setting(comparison).items()
        if all(comparison.finished(s) or _diverged(comparison, s) for s in labels.values())
    }
    if not complete:
        return
    budget = max(len(labels) for labels in complete.values())
    yield (
        f"On {heading_of(comparison)}, with {budget} settings a solver: what the one in the "
        "middle reaches, which is that of the other experiments, and what the one does that "
        "reaches the lowest training objective (chosen by that, not by the test set)."
    )
    yield ""
    title = title_of(comparison.task, column, metric)
    forgiven, n = factors(comparison) if _is_error(metric) else ({}, 0)
    yield (
        f"| solver | middle | its {title} | chosen | its {title} | from – to | diverged | near the "
        "best over |"
    )
    yield "| --- | --- | ---: | --- | ---: | ---: | --- | ---: |"
    for solver, labels in complete.items():
        done = [label for label in labels.values() if comparison.finished(label)]
        if not done:
            continue
        values = {label: _mean(comparison, label, column) for label in done}
        middle = list(labels.values())[len(labels) // 2]
        chosen = min(done, key=lambda label: _mean(comparison, label, objective))
        diverged = [_setting(s) for s in labels.values() if _diverged(comparison, s)]
        cells = [
            *(solver, _setting(middle)),
            text_of(values[middle], metric) if middle in values else "–",
            *(_setting(chosen), text_of(values[chosen], metric)),
            f"{text_of(min(values.values()), metric)} – {text_of(max(values.values()), metric)}",
            ", ".join(diverged) or "none",
            f"a factor of {forgiven[solver]}" if solver in forgiven else "–",
        ]
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield (
        "The range is that of the settings that did not diverge; where it reaches the error of "
        "guessing, some learned nothing. Solvers of which a setting is missing are left out."
    )
    if forgiven:
        yield (
            f"The last column: by what factor the setting may change that the error stays within "
            f"{NEAR:g} points of the solver's best, linear between settings; n = {n}."
        )
    for label in comparison.solvers:
        if swept(label)[1] is None and comparison.finished(label):
            value = text_of(_mean(comparison, label, column), metric)
            yield f"Beside the settings, and none of them: {label}, whose {title} is {value}."


@dataclass(frozen=True)
class Factor:
    """By what factor a setting may change; more, perhaps, where the settings end before."""

    value: float
    more: bool = False

    def __str__(self) -> str:
        return f"{float(f'{self.value:.2g}'):g}{' or more' if self.more else ''}"


def factors(comparison: Comparison) -> tuple[dict[str, Factor], int]:
    """By what factor a solver's setting may change that the error stays near its best, and n.

    Of the mean error at the end over the seeds that all of these have run, n of them. A run that
    diverged has the error of guessing; a solver of which all did, or some lack the error, is not
    there, and neither is one whose settings are not all positive.
    """
    column = f"val_{list(comparison.metrics)[1]}"
    by_label: dict[str, dict[int, float]] = {label: {} for label in comparison.solvers}
    for run in comparison.runs:
        if "diverged" in run.meta:
            by_label[run.solver][run.seed] = GUESSING
        elif run.finished:
            by_label[run.solver][run.seed] = ending(run, comparison, column)
    complete = {
        solver: {setting: by_label[label] for setting, label in labels.items()}
        for solver, labels in labels_by_setting(comparison).items()
        if all(by_label[label] for label in labels.values()) and min(labels) > 0
    }
    seeds = [set(column) for columns in complete.values() for column in columns.values()]
    common = sorted(set.intersection(*seeds)) if seeds else []
    found: dict[str, Factor] = {}
    for solver, columns in complete.items() if common else ():
        errors = np.array([np.mean([c[seed] for seed in common]) for c in columns.values()])
        if errors.min() < GUESSING and np.isfinite(errors).all():
            near, best = errors <= errors.min() + NEAR, int(errors.argmin())
            ends = near[: best + 1].all() or near[best:].all()
            found[solver] = Factor(10 ** width(np.log10(list(columns)), errors), bool(ends))
    return found, len(common)


def shown_columns(comparison: Comparison) -> list[tuple[str, Metric]]:
    """The two columns of the records that are shown: of the training objective and the metric."""
    (first, objective), (second, metric) = list(comparison.metrics.items())[:2]
    return [(f"train_{first}", objective), (f"val_{second}", metric)]


def title_of(task: str, column: str, metric: Metric) -> str:
    """What a column is called, with its unit."""
    return f"{phase_title(task, column)} {metric.title}" + (
        f" ({metric.unit})" if metric.unit else ""
    )


def last(comparison: Comparison, solver: str, column: str) -> np.ndarray:
    """What the finished runs of a solver end with in a column, one a seed."""
    return np.array([ending(run, comparison, column) for run in comparison.finished(solver)])


def _mean(comparison: Comparison, solver: str, column: str) -> float:
    values = last(comparison, solver, column)
    return float(values.mean()) if len(values) else math.nan


def _scatter(comparison: Comparison, column: str) -> float:
    """The median over the runs of the standard deviation about the run's own trend."""

    def of(run: Run) -> float:
        # Second differences know no trend; those of independent values have variance 6σ².
        steps = np.diff(run.rows[column].to_numpy(dtype=float)[-LAST_EPOCHS:], 2)
        return float(np.sqrt(np.mean(steps**2) / 6)) if len(steps) else math.nan

    return float(np.median([of(run) for run in comparison.runs if run.finished]))


def _is_error(metric: Metric) -> bool:
    return metric.unit == "%" and not metric.higher_is_better


def _setting(label: str) -> str:
    return label.partition(", ")[2]


def _diverged(comparison: Comparison, label: str) -> bool:
    runs: Sequence[Run] = [run for run in comparison.runs if run.solver == label]
    return any("diverged" in run.meta for run in runs)
