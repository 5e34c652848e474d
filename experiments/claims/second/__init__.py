"""The second rules (docs/claims.md): how C1 to C21 are judged on the seeds unseen before them.

Where their words leave a choice, docs/readings.md says what is taken.
"""

from dataclasses import replace

from bpgrad.reporting.inference.verdicts import Grade, Outcome, Verdict, all_of, not_run
from experiments.claims.second import recognition, sensitivity, theory, trajectories, voc
from experiments.claims.second.common import concluded
from experiments.engine.claim import Evidence, Rule, waiting_for

OVER_SEEDS = recognition.CHECKS | voc.CHECKS  # C10 to C20
AT_REDUCED_SCALE = recognition.REDUCED_CHECKS | voc.REDUCED_CHECKS  # C16 to C20
CONCESSIONS = ("C12",)  # nothing in them says that BPGrad is better


def _c1(evidence: Evidence, *, reduced: bool = False) -> Verdict:
    """The parts of C10 to C20 that say that BPGrad is better; concessions do not count."""
    parts = []
    for name, (_, needs, checks) in (OVER_SEEDS | (AT_REDUCED_SCALE if reduced else {})).items():
        if name in CONCESSIONS:
            continue
        if missing := waiting_for(evidence, needs):
            parts.append((name, not_run(missing)))
            continue
        superior = [check for check in checks(evidence) if check.superior]
        parts.append((name, concluded(superior, evidence.seeds[needs[0].experiment])))
    verdict = all_of(parts)
    held = sum(part.outcome == Outcome.REPRODUCED for _, part in parts)
    if all(part.outcome == Outcome.NOT_RUN for _, part in parts):
        return verdict
    return replace(verdict, grade=Grade(held, len(parts), of="parts"))


def _over_seeds(name: str, *, reduced: bool = False) -> Rule:
    text, needs, checks = (AT_REDUCED_SCALE if reduced else OVER_SEEDS)[name]
    return Rule(
        text, needs, lambda found: concluded(checks(found), found.seeds[needs[0].experiment])
    )


RULES = {
    "C1": Rule(
        "the parts of C10 to C20 that say that BPGrad is better, each as below: all reproduced",
        (),
        _c1,
    ),
    **theory.RULES,
    **trajectories.RULES,
    **sensitivity.RULES,
    **{name: _over_seeds(name) for name in OVER_SEEDS},
}


def _with_more(rule: Rule) -> Rule:
    """The same rule, with what decides nothing beside."""

    def check(evidence: Evidence) -> Verdict:
        verdict = rule.check(evidence)
        return replace(verdict, numbers=(*verdict.numbers, *recognition.beside(evidence)))

    return replace(rule, check=check)


#: The same for the tables at the reduced scale: verdicts of their own.
REDUCED_RULES = {
    "C1": Rule(
        "reduced: the same parts, those of C16 to C20 by their reduced editions: all reproduced",
        (),
        lambda evidence: _c1(evidence, reduced=True),
    ),
    **{name: _over_seeds(name, reduced=True) for name in AT_REDUCED_SCALE},
}
REDUCED_RULES["C16"] = _with_more(REDUCED_RULES["C16"])
