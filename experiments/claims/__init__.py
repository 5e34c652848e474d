"""The paper's claims (reference, section 8.4), by part of the paper, and C1, which is about them.

By the first rules in the modules here, by the second (docs/claims.md) in `second`.

In each module the thresholds of the reference stand first; they were fixed before any run. Those
that it leaves open are ours, and were written while the first runs were under way.
"""

from dataclasses import replace

from bpgrad.reporting.inference.verdicts import Verdict, all_of
from experiments.claims import (
    detection,
    recognition,
    second,
    segmentation,
    sensitivity,
    theory,
    trajectories,
)
from experiments.engine.claim import Claim, Evidence

PARTS = (*recognition.CLAIMS, *detection.CLAIMS, *segmentation.CLAIMS)  # C10 to C20


def c1(evidence: Evidence) -> Verdict:
    """Check the composite of C10 to C20."""
    return all_of([(claim.id, claim.judge(evidence)) for claim in PARTS])


FIRST = (
    Claim(
        "C1",
        "BPGrad outperforms Adagrad, Adadelta, RMSProp and Adam in recognition, detection and "
        "segmentation",
        "all of C10 to C20, which contain the paper's own exceptions",
        (),
        c1,
    ),
    *theory.CLAIMS,
    *trajectories.CLAIMS,
    *PARTS,
    *sensitivity.CLAIMS,
)
CLAIMS = tuple(
    replace(claim, second=second.RULES[claim.id], reduced=second.REDUCED_RULES.get(claim.id))
    for claim in FIRST
)
