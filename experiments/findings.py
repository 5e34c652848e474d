"""What was found, in three sentences: computed from the records and the verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from bpgrad.reporting.display.endings import factors
from bpgrad.reporting.display.grid import text_of
from bpgrad.reporting.display.style import task_title
from bpgrad.reporting.inference.sweeps import NEAR
from bpgrad.reporting.inference.verdicts import Outcome
from bpgrad.reporting.page.document import JudgedClaim
from bpgrad.reporting.runs import Comparison

LEAD = """\
BPGrad ([Zhang, Wu and Wang, CVPR 2018](https://arxiv.org/abs/1711.06959)) trains networks with
steps as long as the current loss over a constant *L*. This leads to the global minimum, its authors
say; here their claims are tested."""
OURS = "BPGrad, μ = 0.9"
# What the paper compares with; the others of Figure 7 are variants, or added here.
RIVALS = ("Adagrad", "Adadelta", "RMSProp", "Adam", "Eve")

Comparisons = Mapping[tuple[str, str], Comparison]  # by experiment and task


def findings(comparisons: Comparisons, claims: Sequence[JudgedClaim]) -> list[str]:
    """What the trainings end with, how much the setting matters, and how the claims fare."""
    return [*_endings(comparisons), *_setting(comparisons), _tally(comparisons, claims)]


def _endings(comparisons: Comparisons) -> Iterator[str]:
    """The test error beside that of the best other solver of the paper, over the same seeds."""
    words = []
    for task in ("mnist", "cifar10"):
        comparison = comparisons.get(("figure7", task))
        if comparison is None:
            continue
        errors = {s: _last(comparison, s) for s in comparison.solvers if s in (OURS, *RIVALS)}
        seeds = set.intersection(*(set(column) for column in errors.values())) if errors else set()
        rivals = {s: _mean(errors[s], seeds) for s in errors if s != OURS}
        if not seeds or OURS not in errors or not rivals:
            continue
        metric = list(comparison.metrics.values())[1]
        best = min(rivals, key=lambda solver: rivals[solver])
        n = _seeds(len(seeds))
        if any(set(column) != seeds for column in errors.values()):
            n += " in common"
        words.append(
            f"{text_of(_mean(errors[OURS], seeds), metric)} % on {task_title(task)} (best of "
            f"the paper's {len(rivals)} others, {best}: {text_of(rivals[best], metric)} %; "
            f"{n})"
        )
    if words:
        yield f"BPGrad (momentum 0.9) ends with a test error of {' and '.join(words)}."


def _setting(comparisons: Comparisons) -> Iterator[str]:
    """By what factor the one setting of a solver may change that it stays near its best error."""
    comparison = comparisons.get(("sensitivity", "cifar10"))
    if comparison is None:
        return
    found, n = factors(comparison)
    others = sorted(
        (factor for solver, factor in found.items() if solver != "BPGrad"), key=lambda f: f.value
    )
    if "BPGrad" in found and others:
        ours, least, most = found["BPGrad"], others[0], others[-1]
        epochs = max(len(run.rows) for run in comparison.runs)
        start = "Its main setting is *L*"  # where it may forgive more than was tried, no ranking
        if ours.value < least.value and not ours.more:
            start = "Its main setting, *L*, forgives less than the others'"
        elif ours.value > most.value and not any(factor.more for factor in others):
            start = "Its main setting, *L*, forgives more than the others'"
        yield (
            f"{start}: on CIFAR-10 ({epochs} epochs) the error stays within {NEAR:g} points of its "
            f"best while *L* changes by a factor of {ours}, theirs by {least} to {most} "
            f"({_seeds(n)})."
        )


def _tally(comparisons: Comparisons, claims: Sequence[JudgedClaim]) -> str:
    counts = {o: sum(claim.shown.outcome == o for claim in claims) for o in Outcome}
    planned = {run.directory: run for one in comparisons.values() for run in one.runs}
    done = sum(run.finished for run in planned.values())
    return (
        f"Of the paper's {len(claims)} claims {counts[Outcome.REPRODUCED]} are reproduced, "
        f"{counts[Outcome.NOT_REPRODUCED]} fail a check or more, {counts[Outcome.UNDECIDED]} are "
        f"undecided and {counts[Outcome.NOT_RUN]} have not been run; {done} of {len(planned)} "
        "planned trainings are done."
    )


def _last(comparison: Comparison, solver: str) -> dict[int, float]:
    """The held-out metric at the last epoch, by seed; infinite for a run that diverged."""
    column = f"val_{list(comparison.metrics)[1]}"
    found = {run.seed: float(run.rows[column].iloc[-1]) for run in comparison.finished(solver)}
    diverged = (r for r in comparison.runs if r.solver == solver and "diverged" in r.meta)
    return found | dict.fromkeys((run.seed for run in diverged), np.inf)


def _mean(column: Mapping[int, float], seeds: set[int]) -> float:
    return float(np.mean([column.get(seed, np.inf) for seed in seeds])) if seeds else np.inf


def _seeds(n: int) -> str:
    return f"{n} seed{'' if n == 1 else 's'}"
