"""C6 to C8 by the second rules: step sizes and Eq. 4 along single trajectories (Figures 4, 5)."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from bpgrad.reporting.display.style import task_title
from bpgrad.reporting.inference.graded import Part, Scale, conclude
from bpgrad.reporting.inference.verdicts import Grade, Number, Verdict, not_run
from bpgrad.reporting.runs import Run
from experiments.claims.second.common import SHARE, counted
from experiments.claims.trajectories import (
    FIGURE4,
    FIGURE5,
    MOMENTA,
    epoch_medians,
    rank_correlation,
    rows_of,
    settings_of,
    with_held,
)
from experiments.engine.claim import Evidence, Rule, Study

MAINLY = 0.5  # of the logarithm of the initial gap
GAP = math.log(50 / 15)  # of L
LITTLE = 0.1  # of the iterations
NEARLY_ALWAYS = 0.95

MOMENTUM = Study(
    "momentum",
    ("task", "momentum", "lipschitz", "seed", "held", "all13", "all15", "diverged"),
    "figure5",
)


def c6(evidence: Evidence) -> Verdict:
    """The step size falls over the epochs; L has most of the initial gap. For every seed."""
    parts, first, missing = [], [], set[int]()
    planned = evidence.seeds[FIGURE4[0].experiment]
    for runs in FIGURE4:
        (solver,) = runs.solvers
        starts = counted(evidence, runs, lambda run: float(run.steps("step_size")[0]), math.nan)
        first.append(starts[solver])
        missing |= set(planned) - starts[solver].keys()
        falls = counted(evidence, runs, _fall, math.inf)[solver]
        ranks = counted(evidence, runs, _ranks, 1.0)[solver]
        text = f"{task_title(runs.task)}: median step size"
        parts += [
            _worst(f"{text}, last epoch / first < 1", falls, lambda v: 1 - v, SHARE),
            _worst(f"{text}, rank correlation with the epoch < 0", ranks, lambda v: -v, SHARE),
        ]
    mnist, cifar10 = first
    shares = {s: share_of_gap(mnist[s] / cifar10[s]) for s in sorted(mnist.keys() & cifar10.keys())}
    text = "L's share of the logarithm of the initial gap > ½"
    parts.append(_worst(text, shares, lambda v: v - MAINLY, Scale("", MAINLY)))
    return conclude(parts, missing, planned=planned)


def share_of_gap(ratio: float) -> float:
    """ln(50/15) / ln(ratio of the first step sizes); −inf where MNIST's is not the larger."""
    if math.isnan(ratio):
        return math.nan
    return GAP / math.log(ratio) if ratio > 1 else -math.inf


def _fall(run: Run) -> float:
    medians = epoch_medians(run, "step_size")
    return float(medians[-1] / medians[0])


def _ranks(run: Run) -> float:
    return rank_correlation(epoch_medians(run, "step_size"))


def _worst(
    text: str, values: Mapping[int, float], room: Callable[[float], float], scale: Scale
) -> Part:
    """That every seed has room, by the one with the least; one without is enough to refute it."""
    if not values:
        return Part.seen(text, math.nan, math.nan, scale, 0)
    told = [value for value in values.values() if not math.isnan(value)]
    worst = min(told, key=room, default=math.nan)
    if len(told) < len(values) and not room(worst) <= 0:
        worst = math.nan
    return Part.seen(text, worst, room(worst), scale, len(values))


def c7(evidence: Evidence) -> Verdict:
    """Eq. 4's sides at every iteration, strictly; the grade is the share of the iterations."""
    table = with_held(evidence.studies[FIGURE5.name])
    planned, missing = set(evidence.seeds.get(FIGURE5.name, ())), set[int]()
    parts, shares, held, iterations = [], [], 0, 0
    for task, momentum, lipschitz in settings_of((0.0, 0.9)):
        rows = rows_of(table, task, momentum, lipschitz)
        missing |= planned - set(rows["seed"])
        text = f"{task_title(task)}, μ = {momentum:g}, L = {lipschitz:g}"
        if rows.empty:
            return not_run(f"{FIGURE5}: {text}")
        side = "RHS ≥ LHS" if momentum else "RHS ≤ LHS (true by construction)"
        share = float(np.mean(rows["held"].to_numpy(dtype=float)))  # NaN if one is
        n = rows["seed"].nunique()
        shares.append(share)
        parts.append(
            Part.seen(f"{text}: share of t with {side}", share, share - 1, SHARE, n, weak=True)
        )
        held += int((rows["held"] == 1).sum())
        iterations += len(rows)
    settings = sum(part.holds is True for part in parts)
    worst = min(parts, key=lambda part: math.inf if math.isnan(part.room) else part.room)
    miss = max(0.0, -worst.room) if not math.isnan(worst.room) else 0.0
    grade = Grade(held, iterations, miss, worst.text if miss else "", of="iterations")
    verdict = conclude(parts, missing, planned=planned, grade=grade)
    if missing:
        return verdict
    # "Nearly always" must be true of each L and data set: of all together it would be of a setting
    # at which it fails half of the time, as the half on μ = 0 is true by construction.
    least = float(np.min(shares))  # NaN if one is
    often = "always" if least == 1 else "nearly always"
    words = f" ({often})" if least >= NEARLY_ALWAYS else ""
    sentence = f"Holds in {settings} of {len(parts)} settings, {grade} iterations{words}."
    return replace(verdict, sentence=sentence + _few(verdict.sentence))


def _few(sentence: str) -> str:
    """The remark on few seeds at its end, if there is one."""
    _, found, rest = sentence.rpartition(" Only ")
    return found + rest


def c8(evidence: Evidence) -> Verdict:
    """Eq. 4 throughout is a matter of μ; plain gradients satisfy (13) and (15) little."""
    table = evidence.studies[MOMENTUM.name]
    planned, missing = set(evidence.seeds.get(MOMENTUM.name, ())), set[int]()
    for task, momentum, lipschitz in settings_of(MOMENTA):
        rows = rows_of(table, task, momentum, lipschitz)
        if rows.empty:
            text = f"{task_title(task)}, μ = {momentum:g}, L = {lipschitz:g}"
            return not_run(f"{MOMENTUM}: {text}")
        missing |= planned - set(rows["seed"])
    n = int(table.groupby(["task", "momentum", "lipschitz"])["seed"].nunique().min())
    sound = table[table["diverged"].isna()]
    throughout = np.array([_throughout(sound, momentum) for momentum in MOMENTA])
    steps = np.diff(throughout)
    over_l = _mean(sound.groupby(["task", "seed", "momentum"])["held"].agg(_range))
    over_mu = _mean(sound.groupby(["task", "seed", "lipschitz"])["held"].agg(_range))
    share = "share of the data sets, L and seeds with Eq. 4 at every t"
    rise = float(np.min(steps)) if throughout[-1] > throughout[0] else -math.inf
    rise = math.nan if np.isnan(throughout).any() else rise
    largest, relative = float(np.max(throughout)), over_l / over_mu if over_mu else math.inf
    rises = f"(a) the {share} rises with μ: its smallest rise"
    parts = [
        Part.seen(rises, rise, rise, SHARE, n, weak=True),
        Part.seen(f"(a) the largest {share}: 1", largest, largest - 1, SHARE, n, weak=True),
        Part.seen("(b) variation over L / over μ < 1", relative, over_mu - over_l, SHARE, n),
    ]
    plain, beside = table[table["momentum"] == 0], []
    for column, equation in (("all13", "(13)"), ("all15", "(15)")):
        value = _mean(plain[column])
        text = f"(c) μ = 0: share of t at which {equation} holds for all i < t"
        parts.append(Part.seen(text, value, LITTLE - value, Scale("", LITTLE), n))
        largest_of = float(np.max(plain[column].to_numpy(dtype=float)))
        beside.append(Number(f"{text}: the largest of a trajectory", largest_of, n))
    verdict = conclude(parts, missing, planned=planned)
    apart = Number(
        "trajectories that diverged, left out of (a) and (b)", len(table) - len(sound), n
    )
    return replace(verdict, numbers=(*verdict.numbers, *beside, apart))


def _throughout(table: pd.DataFrame, momentum: float) -> float:
    """The share of the trajectories with Eq. 4 at every t; NaN if one broke."""
    held = table.loc[np.isclose(table["momentum"], momentum), "held"]
    return math.nan if held.isna().any() else _mean((held == 1).astype(float))


def _range(values: pd.Series) -> float:
    return float(np.ptp(values.to_numpy(dtype=float)))


def _mean(values: pd.Series) -> float:
    return float(np.mean(values.to_numpy(dtype=float))) if len(values) else math.nan


RULES = {
    "C6": Rule(
        "for every seed: the median step size of the last epoch is below that of the first, the "
        "rank correlation of the epochs' medians is negative, and L's share of the logarithm of "
        "the initial gap, ln(50/15) / ln(ratio of the first step sizes), is above one half",
        FIGURE4,
        c6,
    ),
    "C7": Rule(
        "strictly at every iteration of every L and data set; the grade is the share of the "
        "iterations; 0.95 of them at each L and data set is nearly always",
        (FIGURE5,),
        c7,
    ),
    "C8": Rule(
        "(a) the share of L and data sets with Eq. 4 at every t rises with μ and is 1 at some μ; "
        "(b) its share varies less over L at fixed μ than over μ at fixed L (mean range); (c) at "
        "μ = 0 (13), and (15), hold for all i < t at less than 10 % of the iterations; "
        "trajectories that diverged are counted apart",
        (MOMENTUM,),
        c8,
    ),
}
