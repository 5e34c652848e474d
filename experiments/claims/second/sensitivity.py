"""C9 and C21 by the second rules: how much hangs on the one setting of each solver."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from bpgrad.reporting.inference.graded import Check, Scale, assess, conclude, missing_seeds
from bpgrad.reporting.inference.sweeps import NEAR, expected_best, sides, spread, width
from bpgrad.reporting.inference.verdicts import Number, Verdict, not_run
from bpgrad.reporting.runs import labels_by_setting
from experiments.claims.second.common import GUESSING, POINTS, SLIGHTLY, counted, mean_of_last
from experiments.claims.sensitivity import SENSITIVITY
from experiments.engine.claim import Evidence, Rule, Runs

TASK, OURS = "cifar10", "BPGrad"
SETTINGS = 5
TIE = 1.0  # point
SAME_RANGE = 0.05  # of the decades
TRIALS = (1, 2, 3)
SLOPE = Scale("points per decade", SLIGHTLY)
DECADES = Scale("decades", 0.5)  # one step of the grid

#: Of a solver, by seed: the logarithm (base 10) of its settings and the errors there, in order.
Sweep = dict[int, tuple[np.ndarray, np.ndarray]]


def sweeps(evidence: Evidence) -> dict[str, Sweep]:
    """The errors over the settings, of every solver with BPGrad's range in five settings.

    One of which no seed has ended in all settings is there too, and empty: it is waited for.
    """
    comparison = evidence.comparisons.get((SENSITIVITY, TASK))
    labels = labels_by_setting(comparison) if comparison else {}
    found: dict[str, Sweep] = {}
    for solver in _with_our_range(labels):
        by_setting = labels[solver]
        settings = sorted(by_setting)
        runs = Runs(SENSITIVITY, TASK, tuple(by_setting[value] for value in settings))
        columns = counted(evidence, runs, mean_of_last("val_top1_error"), GUESSING[TASK])
        seeds = set.intersection(*(set(column) for column in columns.values()))
        found[solver] = {
            seed: (np.log10(settings), np.array([c[seed] for c in columns.values()]))
            for seed in sorted(seeds)
        }
    return found


def _with_our_range(labels: Mapping[str, Mapping[float, str]]) -> list[str]:
    """The solvers with five settings over as many decades as BPGrad's; none if it has not five."""
    widths = {
        s: np.ptp(np.log10(list(each))) for s, each in labels.items() if len(each) == SETTINGS
    }
    ours = widths.get(OURS, math.nan)
    return [solver for solver, width in widths.items() if abs(width - ours) <= SAME_RANGE * ours]


def _values(found: Mapping[str, Sweep], of: Callable[..., float]) -> dict[str, dict[int, float]]:
    return {s: {seed: of(*both) for seed, both in each.items()} for s, each in found.items()}


def _median_of_others(values: Mapping[str, Mapping[int, float]]) -> dict[int, float]:
    others = [column for solver, column in values.items() if solver != OURS]
    seeds = set.intersection(*(set(column) for column in others))
    return {seed: float(np.median([column[seed] for column in others])) for seed in sorted(seeds)}


def _means(values: Mapping[str, Mapping[int, float]], what: str) -> list[Number]:
    """The means over the seeds that have a value: not each has both sides."""
    known = {s: [v for v in column.values() if not math.isnan(v)] for s, column in values.items()}
    return [
        Number(f"{solver}: {what}", float(np.mean(each)), len(each))
        for solver, each in known.items()
        if each
    ]


def _judge(evidence: Evidence, make: Callable[[dict[str, Sweep]], tuple[list[Check], list[Number]]]
           ) -> Verdict:  # fmt: skip
    found = sweeps(evidence)
    if len(found) < 2:
        return not_run(f"{SENSITIVITY} on {TASK}: five settings of BPGrad and of other solvers")
    if unseen := [solver for solver, each in found.items() if not each]:
        return not_run(f"{SENSITIVITY} on {TASK}: all settings of {', '.join(unseen)}")
    planned = evidence.seeds[SENSITIVITY]
    checks, numbers = make(found)
    lacking = {seed for each in found.values() for seed in planned if seed not in each}
    missing = missing_seeds(checks, planned) | lacking
    verdict = conclude(assess(checks, planned), missing, planned=planned)
    return replace(verdict, numbers=(*verdict.numbers, *numbers))


def c9(evidence: Evidence) -> Verdict:
    """BPGrad's spread around its best setting is at most the median of the solvers'."""

    def make(found: dict[str, Sweep]) -> tuple[list[Check], list[Number]]:
        spreads = _values(found, spread)
        what = "spread of the test error per decade around the best setting"
        check = Check(
            f"{what}: {OURS} ≤ the median of the others",
            *(spreads[OURS], _median_of_others(spreads), what, SLOPE),
            weak=True,
        )
        numbers = _means(spreads, what)
        for side, words in ((0, "below the best"), (1, "above the best")):
            each = _values(found, lambda *both, side=side: sides(*both)[side])
            numbers += _means(each, f"points per decade {words}")
        return [check], numbers

    return _judge(evidence, make)


def c21(evidence: Evidence) -> Verdict:
    """BPGrad is good over as many decades as the others, and untuned as good as the best."""

    def make(found: dict[str, Sweep]) -> tuple[list[Check], list[Number]]:
        widths = _values(found, width)
        what = f"decades of the setting within {NEAR:g} points of the best"
        checks = [
            Check(
                f"{what}: {OURS} ≥ the median of the others",
                *(_median_of_others(widths), widths[OURS], what, DECADES),
                weak=True,
            )
        ]
        numbers = _means(widths, what)
        for trials in TRIALS:
            name = f"expected best error of {trials} random trial{'s' if trials > 1 else ''}"
            values = _values(found, lambda _, errors, k=trials: expected_best(errors, k))
            numbers += _means(values, name)
            if trials == 1:
                checks += [
                    Check(
                        f"{name}: {OURS} < {other} + {TIE:g} point",
                        *(values[OURS], values[other], name, POINTS),
                        high=TIE,
                        alike=True,
                    )
                    for other in values
                    if other != OURS
                ]
        return checks, numbers

    return _judge(evidence, make)


RULES = {
    "C9": Rule(
        "on CIFAR-10 the rise of the test error (mean of the last 5 epochs) from the best setting "
        "to its neighbours, in points per decade, mean of both sides, is at most the median of the "
        "solvers with the same five-point range",
        (),
        c9,
    ),
    "C21": Rule(
        "on CIFAR-10 the decades of the setting within 2 points of a solver's own best (linear "
        "between settings) are not below the median solver's, and the expected error of one random "
        "trial of the grid is the lowest or a tie (TOST, 1 point)",
        (),
        c21,
    ),
}
