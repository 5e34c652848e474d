"""C2 to C5: what the paper derives, and what it draws of it (Figures 2 and 3)."""

import math
from dataclasses import replace

import numpy as np

from bpgrad.reporting.inference.statistics import by_seed
from bpgrad.reporting.inference.verdicts import (
    Property,
    Verdict,
    decide,
    decide_properties,
    lower,
    not_run,
)
from experiments.engine.checks import known
from experiments.engine.claim import Claim, Evidence, Study

# Thresholds of our own, where the reference says what is measured but not where the line is.
FILLED, KEPT = 0.1, 0.9  # shares of a valley's depth that are left of a narrow, of a wide one
LOOP = 1e-9  # distance to a point of the own history
PREMISE = 0.05  # share of the functions on which a theorem's premise must have been true

STATEMENTS = (
    *("Theorem 1", "Theorem 2", "Theorem 3", "Corollary 1", "Corollary 2"),
    "no smaller step reaches the optimum",
)


THEOREMS = Study("theorems", ("statement", "functions", "premise", "held"))


def c2(evidence: Evidence) -> Verdict:
    """Each statement held on every random function on which its premise was true."""
    table = evidence.studies[THEOREMS.name].set_index("statement").to_dict("index")
    if lacking := [name for name in STATEMENTS if name not in table]:
        return not_run(f"{THEOREMS}: {', '.join(lacking)}")
    properties = []
    for name in STATEMENTS:
        functions, premise, held = (int(table[name][c]) for c in THEOREMS.columns[1:])
        holds = held == premise if premise >= PREMISE * functions and premise else None
        share = held / premise if premise else math.nan
        # One counterexample is enough, however rare the premise.
        holds = False if held < premise else holds
        properties.append(Property(f"{name} holds (share)", share, holds, premise))
    return decide_properties(properties)


SAMPLERS = Study("samplers", ("function", "gradient", "uniform"))


def c3(evidence: Evidence) -> Verdict:
    """Compare the evaluations to equal accuracy, by the logarithm, paired by test function."""
    table = evidence.studies[SAMPLERS.name]
    gradient, uniform = (
        by_seed(zip(table["function"], np.log(table[column]), strict=True), SAMPLERS.name)
        for column in SAMPLERS.columns[1:]
    )
    text = "log of the evaluations to equal accuracy: gradient < uniform"
    verdict = decide([lower(text, gradient, uniform, "evaluations")], set(table["function"]))
    return replace(verdict, sentence=f"{verdict.sentence} n counts test functions.")


SMOOTHING = Study("smoothing", ("valley", "before", "after"), "figure2")


def c4(evidence: Evidence) -> Verdict:
    """Narrow valleys are filled, wide ones are kept."""
    properties = []
    for valley, before, after in evidence.studies[SMOOTHING.name][[*SMOOTHING.columns]].itertuples(
        index=False
    ):
        left = after / before
        narrow = valley == "narrow"
        holds = left <= FILLED if narrow else left >= KEPT
        properties.append(
            Property(f"depth left of a {valley} valley", left, known(bool(holds), left))
        )
    kinds = set(evidence.studies[SMOOTHING.name]["valley"])
    if lacking := sorted({"narrow", "wide"} - kinds):
        return not_run(f"{SMOOTHING}: a {lacking[0]} valley")
    return decide_properties(properties)


LOOPS = Study("loop", ("solver", "nearest", "lipschitz", "slope"), "figure3")


def c5(evidence: Evidence) -> Verdict:
    """Eq. 12 comes back to a point of its own history, with a right L, and Algorithm 1 does not."""
    table = evidence.studies[LOOPS.name].set_index("solver").to_dict("index")
    properties = []
    for solver, loops in (("Eq. 12", True), ("Algorithm 1", False)):
        if solver not in table:
            return not_run(f"{LOOPS}: {solver}")
        nearest, lipschitz, slope = (float(table[solver][c]) for c in LOOPS.columns[1:])
        holds = (nearest <= LOOP) == loops if lipschitz >= slope else None
        text = f"{solver}: distance to its own history {'≤' if loops else '>'} {LOOP:g}"
        properties.append(Property(text, nearest, known(holds, nearest)))
    return decide_properties(properties)


CLAIMS = (
    Claim(
        "C2",
        "the theorems and corollaries hold, and no smaller step can reach the optimum",
        "each, as printed, holds on every random function on which its premise is true; the "
        "premise is true on at least 5 % of them",
        (THEOREMS,),
        c2,
        counts=("function or more", "functions or more"),
    ),
    Claim(
        "C3",
        "gradients guide the sampling better than a uniform sampler does",
        "fewer evaluations to equal accuracy (logarithm), paired by test function",
        (SAMPLERS,),
        c3,
        counts=("function or family", "functions or families"),
    ),
    Claim(
        "C4",
        "Lipschitz continuity smooths narrow valleys away (Figure 2)",
        "of the majorant: at most 10 % of the depth is left of every narrow valley, at least 90 % "
        "of every wide one",
        (SMOOTHING,),
        c4,
        counts=("example, by construction", "examples, by construction"),
    ),
    Claim(
        "C5",
        "a search that knows only its latest sample can run in a loop where Algorithm 1 does not "
        "(Figure 3)",
        "on one function with L no smaller than its steepest slope: Eq. 12 comes within 1e-9 of a "
        "point of its own history, Algorithm 1 does not",
        (LOOPS,),
        c5,
        counts=("example", "examples"),
    ),
)
