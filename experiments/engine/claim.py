"""What a claim is: a named check over runs and the tables of studies, and what it may look at.

A check looks for the runs it needs by experiment, task and solver label, as the declarations name
them, or for the table of a study; where it finds none it says what is missing.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

import pandas as pd

from bpgrad.errors import RecordError
from bpgrad.reporting.inference.statistics import by_seed
from bpgrad.reporting.inference.verdicts import SEEDS, Counted, Verdict, not_run
from bpgrad.reporting.runs import Comparison, Run
from experiments.engine.declaration import REDUCED as REDUCED

Of = Callable[[Run], float]
Columns = dict[str, dict[int, float]]  # by solver, by seed


@dataclass(frozen=True)
class Runs:
    """The runs of some solvers in an experiment on a task; the first solver is the one judged."""

    experiment: str
    task: str
    solvers: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """The result of a study that is not a comparison of training runs: a table.

    `of` is the study's name, where that of the table is another.
    """

    name: str
    columns: tuple[str, ...]
    of: str = ""

    def __str__(self) -> str:
        return f"the study {self.of or self.name}"


@dataclass(frozen=True)
class Evidence:
    """All that checks may look at.

    `comparisons` holds the runs by experiment and task, `seeds` the planned seeds as the experiment
    declares them (for a study: if it has any), `studies` the tables by name.
    """

    comparisons: Mapping[tuple[str, str], Comparison] = field(default_factory=dict)
    seeds: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    studies: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    def runs(self, experiment: str, task: str, solver: str) -> list[Run]:
        """The runs of a solver, of the planned seeds; finished, cut short or never started.

        Raises RecordError for runs that are not of the experiment's scale: reduced if its name
        ends so, else the paper's.
        """
        comparison = self.comparisons.get((experiment, task))
        runs = () if comparison is None else comparison.runs
        found = [r for r in runs if r.solver == solver and r.seed in self.seeds[experiment]]
        for run in found:
            scale = run.config.get("scale", {}).get("name", "paper")
            expected = "reduced" if experiment.endswith(REDUCED) else "paper"
            if run.config and scale != expected:  # one that has not been run has no scale yet
                raise RecordError(
                    f"{run.directory} is of scale={scale}; the claims on {experiment} are judged "
                    f"by runs of scale={expected} only"
                )
        return found

    def columns(self, runs: Runs, of: Of) -> Columns:
        """A value of every finished run."""
        return {
            solver: by_seed(
                (
                    (run.seed, of(run))
                    for run in self.runs(runs.experiment, runs.task, solver)
                    if run.finished
                ),
                f"{solver} in {runs.experiment} on {runs.task}",
            )
            for solver in runs.solvers
        }

    def family(self, runs: Runs) -> int:
        """The number of comparisons in a column of the experiment's table."""
        return max(1, len(self.comparisons[runs.experiment, runs.task].solvers) - 1)

    def missing(self, need: Runs | Study) -> str:
        """What there is nothing of, in words; empty if there is something of everything.

        Raises RecordError for the table of a study that lacks a column.
        """
        if isinstance(need, Study):
            table = self.studies.get(need.name)
            if table is None or table.empty:
                return str(need)
            if lacking := [name for name in need.columns if name not in table.columns]:
                raise RecordError(f"study {need.name}: has no column {', '.join(lacking)}")
            return ""
        waiting = []
        for solver in need.solvers:
            runs = self.runs(need.experiment, need.task, solver)
            if not any(run.finished for run in runs):
                state = runs[0].state if runs else "not run"
                waiting.append(solver if state == "not run" else f"{solver} ({state})")
        return f"{need.experiment} on {need.task}: {', '.join(waiting)}" if waiting else ""


def ended(run: Run) -> bool:
    """Whether a run is finished, or has diverged, which is an end too."""
    return run.finished or bool(run.meta.get("diverged"))


def waiting_for(evidence: Evidence, needs: Iterable[Runs | Study]) -> str:
    """What there is nothing of, in words; a run that diverged is something.

    `Runs` without solvers stand for all those of the experiment.
    """
    found = []
    for need in needs:
        if isinstance(need, Study):
            found.append(evidence.missing(need))
            continue
        comparison = evidence.comparisons.get((need.experiment, need.task))
        solvers = need.solvers or (comparison.solvers if comparison else ("any setting",))
        lacking = [
            solver
            for solver in solvers
            if not any(map(ended, evidence.runs(need.experiment, need.task, solver)))
        ]
        found.append(f"{need.experiment} on {need.task}: {', '.join(lacking)}" if lacking else "")
    return "; ".join(filter(None, found))


@dataclass(frozen=True)
class Rule:
    """How a claim is judged by the second rules: in words, what it needs, and the check."""

    text: str
    needs: tuple[Runs | Study, ...]
    check: Callable[[Evidence], Verdict]

    def judge(self, evidence: Evidence) -> Verdict:
        """The verdict; not run if there is nothing at all of something that it needs."""
        missing = waiting_for(evidence, self.needs)
        return not_run(missing) if missing else self.check(evidence)


@dataclass(frozen=True)
class Claim:
    """A claim of the paper: its id in the reference, what it says, and how it is decided.

    `rule`, `needs` and `check` are of the first rules. `sweep` is an experiment over whose settings
    it looks, whatever they are. `second` is how the second rules decide it (docs/claims.md), and
    `reduced` how they do for the runs at the reduced scale. `counts` is what n counts.
    """

    id: str
    text: str
    rule: str
    needs: tuple[Runs | Study, ...]
    check: Callable[[Evidence], Verdict]
    sweep: str = ""
    second: Rule | None = None
    reduced: Rule | None = None
    counts: Counted = SEEDS

    def judge(self, evidence: Evidence) -> Verdict:
        """The verdict; not run if there is nothing at all of something that the claim needs."""
        missing = [words for need in self.needs if (words := evidence.missing(need))]
        return not_run("; ".join(missing)) if missing else self.check(evidence)


def about(claims: Iterable[Claim], names: Collection[str]) -> list[str]:
    """The ids of the claims that look at runs or tables of any of these experiments or studies."""
    found = []
    for claim in claims:
        every = (*claim.needs, *(claim.reduced.needs if claim.reduced else ()))
        needs = {need.experiment if isinstance(need, Runs) else need.name for need in every}
        if (needs | {claim.sweep}) & set(names):
            found.append(claim.id)
    return found
