"""An experiment with solvers of one's own beside its own ones, and with tuned ones.

Its table and figure have a name of their own (figure7-with-nadam), and beside them lie the list of
its runs (-runs.csv) and of all trials (-tuning.csv, .md).
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bpgrad.errors import BPGradError, ConfigError
from bpgrad.records.files import write_text
from bpgrad.training.config import solver_spec
from experiments import own_solver, runner, tuning
from experiments.declaration import Experiment
from experiments.runner import Plan


@dataclass(frozen=True)
class Tuning:
    """How many configurations a solver gets, of whom, and for how long (None: a fifth)."""

    trials: int
    everyone: bool = False
    epochs: int | None = None


def reproduce(
    experiment: Experiment,
    files: Sequence[Path],
    tune: Tuning | None,
    *,
    seeds: Sequence[int] = (),
    scale: str = "paper",
    overrides: Sequence[str] = (),
    train: bool = True,
) -> None:
    """Do what is missing of the experiment with the solvers in `files`, and show all of it.

    With `tune`, the solvers added (or every one) are tuned first. Raises ConfigError before
    anything is trained, BPGradError at the end if a run failed.
    """
    if tune is not None and not (files or tune.everyone):
        raise ConfigError("--tune: of which solvers? name yours with --add, or add --tune-all")
    own = [own_solver.load(path) for path in files]
    if own:
        experiment = own_solver.joined(experiment, own)
    plan = runner.prepare(experiment, seeds, scale, overrides)
    labels = {solver.label: solver.tune for solver in own}
    for label in labels:
        own_solver.try_out(solver_spec(next(cfg for run, cfg in plan.runs if run.solver == label)))
    failed = 0
    scores: list[tuning.Score] = []
    if tune is not None:
        ranges = tuning.ranges_of(experiment, labels, everyone=tune.everyone)
        seed = (*seeds, *experiment.seeds)[0]
        trials = tuning.trials(experiment, plan, ranges, tune.trials, tune.epochs, seed, overrides)
        if train:
            runner.execute(replace(plan, runs=tuple((trial.run, trial.cfg) for trial in trials)))
        scores = tuning.scores(trials)
        failed = sum(not score.done for score in scores) if train else 0
        print("\n".join(["", *tuning.lines(scores), ""]), flush=True)
        experiment = replace(
            tuning.with_tuned(experiment, scores, tune.trials), name=f"{experiment.name}-tuned"
        )
        plan = runner.prepare(experiment, seeds, scale, overrides)
    failed += runner.execute(plan) if train else 0
    runner.report(plan)
    tables = Path(plan.runs[0][1].results_root).parent / "tables"
    write_text(tables / f"{plan.name}-runs.csv", _runs(plan))
    print(f"runs    {tables / plan.name}-runs.csv")
    if tune is not None:
        path = tables / f"{plan.name}-tuning"
        write_text(path.with_name(f"{path.name}.csv"), tuning.as_csv(scores))
        text = tuning.protocol([score.trial for score in scores], tune.trials)
        text = "\n".join(
            [f"# {plan.title}", "", text, "", *(f"- {x}" for x in tuning.lines(scores))]
        )
        write_text(path.with_name(f"{path.name}.md"), text + "\n")
        print(f"trials  {path}.md, .csv")
        if not tune.everyone:
            print(
                f"The others have the settings they were given: --tune-all gives each of them "
                f"{tune.trials} trials too.",
                file=sys.stderr,
            )
    if failed:
        raise BPGradError(
            f"{failed} runs failed; once that is mended, the same command does them again"
        )


def _runs(plan: Plan) -> str:
    """Which run each solver of the table has; `python -m experiments explain` reads it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["task", "solver", "seed", "run"])
    for run, cfg in plan.runs:
        writer.writerow([run.task, run.solver, run.seed, runner.record_of(cfg).name])
    return text.getvalue()
