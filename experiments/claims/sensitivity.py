"""C21: how much the choice of L matters, beside that of other solvers' learning rates."""

import numpy as np

from bpgrad.reporting.inference.verdicts import Verdict, decide, lower, not_run
from bpgrad.reporting.runs import swept
from experiments.engine.checks import sweep
from experiments.engine.claim import Claim, Columns, Evidence

# Thresholds of our own, where the reference says what is measured but not where the line is.
CHANCE = 90.0  # error of guessing among ten classes, which a diverged run of a sweep counts with


SENSITIVITY = "sensitivity"
TUNED = ("BPGrad", "Adagrad", "RMSProp", "Adam", "Eve")  # Adadelta has no learning rate


def c21(evidence: Evidence) -> Verdict:
    """Test error changes less over L than each competitor's over its learning rate."""
    found = sweep(evidence, SENSITIVITY, "cifar10", "val_top1_error", diverged=CHANCE)
    settings = {  # L = auto is none of them
        solver: {name: values for name, values in its.items() if swept(name)[1] is not None}
        for solver, its in found.items()
    }
    lacking = [s for s in TUNED if not any(settings.get(s, {}).values())]
    if lacking:
        return not_run(f"{SENSITIVITY} on cifar10: {', '.join(lacking)} with several settings")
    budgets = {solver: len(settings[solver]) for solver in TUNED}
    if len(set(budgets.values())) > 1 or budgets["BPGrad"] < 2:
        listed = ", ".join(f"{solver} {count}" for solver, count in budgets.items())
        return not_run(f"as many settings of every solver, two or more ({listed})")
    ranges: Columns = {}
    for solver in TUNED:
        each = list(settings[solver].values())
        seeds = set(each[0]).intersection(*each)
        ranges[solver] = {s: float(np.ptp([values[s] for values in each])) for s in seeds}
    what, first = "range of the test error over the settings", TUNED[0]
    inequalities = [
        lower(f"{what}: {first} < {other}", ranges[first], ranges[other], what)
        for other in TUNED[1:]
    ]
    return decide(inequalities, evidence.seeds[SENSITIVITY])


CLAIMS = (
    Claim(
        "C21",
        "heavily tuning L is unnecessary",
        "on CIFAR-10 the range of the final test error over L is smaller than each competitor's "
        "over as many learning rates; a run that diverged counts with the error of guessing",
        (),
        c21,
        SENSITIVITY,
    ),
)
