"""C2 to C5 by the second rules: theorems, samplers, smoothing and loops. None is over seeds."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy import stats

from bpgrad.reporting.inference.graded import Part, Scale, conclude
from bpgrad.reporting.inference.verdicts import Grade, Verdict, not_run
from experiments.claims.second.common import SHARE
from experiments.claims.theory import LOOPS, SMOOTHING, STATEMENTS, THEOREMS, c4, c5
from experiments.engine.claim import Evidence, Rule, Study

ENOUGH = 200  # functions on which a premise must have been true
LOST = ("Theorem 3", "Corollary 2")  # of which the printed text is lost
SIGNIFICANT = 0.05
ACCURACIES = (90, 95, 99)

GRADIENTS = Study("gradients", ("family", "accuracy", "with_gradients", "without"), "samplers")
EVALUATIONS = Scale("", math.log(2))  # twice as many


def c2(evidence: Evidence) -> Verdict:
    """Each statement by itself: no counterexample among 200 functions with a true premise."""
    table = evidence.studies[THEOREMS.name].groupby("statement")[["premise", "held"]].sum()
    counts = table.to_dict("index")
    if lacking := [name for name in STATEMENTS if name not in counts]:
        return not_run(f"{THEOREMS}: {', '.join(lacking)}")
    parts = []
    for name in STATEMENTS:
        premise, held = (int(counts[name][column]) for column in ("premise", "held"))
        mark = " (our reconstruction: the printed text is lost)" if name in LOST else ""
        parts.append(_statement(f"{name}{mark}", premise, held))
    return conclude(parts, over_seeds=False)


def _statement(name: str, premise: int, held: int) -> Part:
    """One counterexample is enough, however few the functions; none among too few tells nothing."""
    share = held / premise if premise else math.nan
    part = Part.seen(f"{name}: share of functions on which it holds", share, share - 1, SHARE,
                     premise, weak=True)  # fmt: skip
    part = replace(part, words=f"{held} of {premise} functions")
    return replace(part, holds=None) if held == premise and premise < ENOUGH else part


def c3(evidence: Evidence) -> Verdict:
    """Median ratio of the evaluations with and without gradients, a sign test over families."""
    table = evidence.studies[GRADIENTS.name]
    table = table.assign(ratio=np.log(table["with_gradients"]) - np.log(table["without"]))
    parts = []
    for accuracy in ACCURACIES:
        by_family = table[table["accuracy"] == accuracy].groupby("family")["ratio"].median()
        parts.append(_fewer(accuracy, by_family.to_numpy(dtype=float)))
    verdict = conclude(parts, over_seeds=False)
    return replace(verdict, sentence=f"{verdict.sentence} n counts families of functions.")


def _fewer(accuracy: int, ratios: np.ndarray) -> Part:
    """That most families need fewer evaluations with gradients: the exact sign test, no ties."""
    text = f"evaluations to {accuracy} %: fewer with gradients than without"
    if len(ratios) == 0:
        return Part.seen(text, math.nan, math.nan, EVALUATIONS, 0)
    fewer, more = int((ratios < 0).sum()), int((ratios > 0).sum())
    p = stats.binomtest(fewer, fewer + more).pvalue if fewer + more else 1.0
    median = float(np.median(ratios))
    part = Part.seen(text, math.exp(median), -median, EVALUATIONS, len(ratios))
    decided = p <= SIGNIFICANT and (fewer > more) == (median < 0)
    words = (
        f"in {fewer} of {len(ratios)} families, median ratio {math.exp(median):.3g}, p = {p:.2g}"
    )
    return replace(part, words=words, holds=part.holds if decided else None)


def as_before(
    check: Callable[[Evidence], Verdict], label: str = ""
) -> Callable[[Evidence], Verdict]:
    """The verdict of the first rules with a grade: each property is a check."""

    def judge(evidence: Evidence) -> Verdict:
        verdict = check(evidence)
        held, parts = verdict.leaning.favourable, verdict.leaning.parts
        grade = Grade(held, parts) if parts else None
        return replace(verdict, sentence=f"{label}{verdict.sentence}", grade=grade)

    return judge


RULES = {
    "C2": Rule(
        "each statement by itself: no counterexample among at least 200 functions on which its "
        "premise is true; Theorem 3 and Corollary 2 are our reconstruction, the printed text is "
        "lost",
        (THEOREMS,),
        c2,
    ),
    "C3": Rule(
        "Algorithm 1 with gradients against itself without, the same L: the median ratio of the "
        "evaluations to 90, 95 and 99 % is below 1 in a sign test over families of functions",
        (GRADIENTS,),
        c3,
    ),
    "C4": Rule(
        "as by the first rules; true by construction for w ≪ d/L",
        (SMOOTHING,),
        as_before(c4, "By construction for w ≪ d/L. "),
    ),
    "C5": Rule("as by the first rules", (LOOPS,), as_before(c5)),
}
